// A file system of an origin in memory, that behaves as the standard says, and fails when it is told to.

import type { FileHandle, FileSystem, FolderHandle, SyncHandle } from '../../src/opfs/handles.js';

/** An exception as browsers throw it. */
export const exception = (name: string, message = 'the browser refuses'): Error =>
  new DOMException(message, name);

class File {
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  isOpen: boolean = false;
}

export class FakeOrigin implements FileSystem {
  readonly files: Map<string, File> = new Map();
  readonly folders: Set<string> = new Set(['']);
  /** In bytes, for all files together. */
  quota: number = Number.POSITIVE_INFINITY;
  /** The next call of this kind throws it. */
  readonly failures: Map<keyof SyncHandle | 'create', Error> = new Map();
  /** The calls of handles, in order. */
  readonly calls: string[] = [];
  /** A write takes at most so many bytes. */
  writesMax: number = Number.POSITIVE_INFINITY;

  async getDirectory(): Promise<FolderHandle> {
    return this.#folder('');
  }

  fail(call: keyof SyncHandle | 'create'): void {
    const error = this.failures.get(call);
    this.failures.delete(call);
    if (error) throw error;
  }

  #folder(path: string): FolderHandle {
    const at = (name: string): string => (path === '' ? name : `${path}/${name}`);
    return {
      getDirectoryHandle: async (name, { create }) => {
        if (this.files.has(at(name))) throw exception('TypeMismatchError');
        if (!this.folders.has(at(name)) && !create) throw exception('NotFoundError');
        this.folders.add(at(name));
        return this.#folder(at(name));
      },
      getFileHandle: async (name, { create }) => {
        if (this.folders.has(at(name))) throw exception('TypeMismatchError');
        if (!this.files.has(at(name)) && !create) throw exception('NotFoundError');
        const file = this.files.get(at(name)) ?? new File();
        this.files.set(at(name), file);
        return this.#file(name, file);
      },
    };
  }

  #file(name: string, file: File): FileHandle {
    return {
      name,
      createSyncAccessHandle: async () => {
        this.fail('create');
        if (file.isOpen) throw exception('NoModificationAllowedError');
        file.isOpen = true;
        return this.#handle(file);
      },
    };
  }

  #handle(file: File): SyncHandle {
    const called = (name: keyof SyncHandle): void => {
      this.calls.push(name);
      if (!file.isOpen) throw exception('InvalidStateError');
      this.fail(name);
    };
    const resize = (size: number): void => {
      const others = [...this.files.values()].filter((other) => other !== file);
      const used = others.reduce((sum, { bytes }) => sum + bytes.length, size);
      if (used > this.quota) throw exception('QuotaExceededError');
      const bytes = new Uint8Array(size);
      bytes.set(file.bytes.subarray(0, size));
      file.bytes = bytes;
    };
    return {
      read: (into, { at }) => {
        called('read');
        const found = file.bytes.subarray(at, at + into.length);
        into.set(found);
        return found.length;
      },
      write: (data, { at }) => {
        called('write');
        const taken = data.subarray(0, this.writesMax);
        if (at + taken.length > file.bytes.length) resize(at + taken.length);
        file.bytes.set(taken, at);
        return taken.length;
      },
      getSize: () => file.bytes.length,
      truncate: (size) => {
        called('truncate');
        resize(size);
      },
      flush: () => called('flush'),
      close: () => {
        this.calls.push('close');
        file.isOpen = false;
      },
    };
  }
}
