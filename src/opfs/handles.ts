// From a path to a synchronous handle, with the browser's refusals in words.
//
// The types are the part of the File System Standard that is used here. TypeScript has them among those of workers only, and a
// program may have those of a page.

import { IoFailedError, type WriteBarrierError } from 'write-barrier';
import { formatValue, messageOf, misuse, StorageLockedError, unsupported } from 'write-barrier/kit';

/** A `FileSystemSyncAccessHandle`. */
export interface SyncHandle {
  /** Answers with the number of bytes. */
  read(into: Uint8Array, options: { readonly at: number }): number;
  /** Answers with the number of bytes. */
  write(data: Uint8Array, options: { readonly at: number }): number;
  /** Of the file, in bytes. */
  getSize(): number;
  /** @param size in bytes */
  truncate(size: number): void;
  /** Puts all writes on the medium. */
  flush(): void;
  /** Lets others open the file. */
  close(): void;
}

/** A `FileSystemFileHandle`; the method exists in dedicated workers only. */
export interface FileHandle {
  /** Of the file, without its folders. */
  readonly name: string;
  /** Locks the file, and opens it. */
  createSyncAccessHandle?(): Promise<SyncHandle>;
}

/** A `FileSystemDirectoryHandle`. */
export interface FolderHandle {
  /** A folder in it. */
  getDirectoryHandle(name: string, options: { readonly create: boolean }): Promise<FolderHandle>;
  /** A file in it. */
  getFileHandle(name: string, options: { readonly create: boolean }): Promise<FileHandle>;
}

/** A `StorageManager`. */
export interface FileSystem {
  /** The root of the origin. */
  getDirectory(): Promise<FolderHandle>;
}

/** Opens a file; the caller closes the handle. */
export async function handleOf(
  file: string | FileHandle,
  create: boolean,
  fs: FileSystem | undefined,
): Promise<{ readonly path: string; readonly handle: SyncHandle }> {
  const path = typeof file === 'string' ? file : file?.name;
  const found = typeof file === 'string' ? await fileAt(file, create, fs) : file;
  if (typeof path !== 'string' || typeof found !== 'object') throw notFile(file);
  if (typeof found.createSyncAccessHandle !== 'function') {
    throw unsupported(
      `synchronous access to ${path}: only a dedicated worker has it, in a browser with OPFS, and a page reaches a worker's ` +
        'storage through a port (serveStorage, PortStorage.open)',
    );
  }
  try {
    return { path, handle: await found.createSyncAccessHandle() };
  } catch (cause) {
    throw refusal(path, cause);
  }
}

async function fileAt(
  path: string,
  create: boolean,
  fs: FileSystem | undefined = globalThis.navigator?.storage,
): Promise<FileHandle> {
  const names = path.split('/').filter((name) => name !== '');
  const file = names.pop();
  if (file === undefined || names.includes('.') || names.includes('..')) throw notFile(path);
  if (typeof fs?.getDirectory !== 'function') {
    throw unsupported('OPFS: only browsers have it, for pages of a secure origin,');
  }
  try {
    let folder = await fs.getDirectory();
    for (const name of names) folder = await folder.getDirectoryHandle(name, { create });
    return await folder.getFileHandle(file, { create });
  } catch (cause) {
    throw refusal(path, cause);
  }
}

/** What the browser says, by the names of its exceptions. */
function refusal(path: string, cause: unknown): WriteBarrierError {
  switch (cause instanceof Error ? cause.name : '') {
    case 'NotFoundError':
      return misuse(`${path} does not exist: pass a size to create it`, { cause });
    case 'TypeMismatchError':
      return misuse(`${path} is a folder, or a part of it is a file`, { cause });
    case 'TypeError':
      return misuse(`${path} has a name that the browser refuses`, { cause });
    case 'NoModificationAllowedError':
      return new StorageLockedError(
        `${path} is open already, in this tab or worker or another one of the origin; it is free when that one closes it or ends`,
        undefined,
        { cause },
      );
    default:
      return new IoFailedError(`opening ${path} failed: ${messageOf(cause)}`, { cause });
  }
}

function notFile(file: unknown): WriteBarrierError {
  return misuse(
    `the file must be a path without '.' and '..', or a FileSystemFileHandle, not ${formatValue(file)}`,
  );
}
