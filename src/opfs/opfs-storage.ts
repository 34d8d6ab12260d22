// A storage in a file of the origin private file system (OPFS) of a browser, for a dedicated worker: only there does a browser
// give synchronous access to such a file.
//
//   open ──a flush fails──▶ open, poisoned ──close()──▶ closed
//
//   O1  A command has taken effect when its call returns, because the handle is synchronous. So commands take effect in the
//       order of their calls. On the medium they have no order: the cache of the operating system is volatile.
//   O2  One handle at a time: the browser refuses a second one for the same file, in any tab or worker of the origin, as long
//       as the first is open. When its tab or worker ends, for any reason, the browser closes it.
//   O3  What a write has taken survives the end of the page, the worker and the browser, because the operating system has it
//       then. A power cut may lose it until a flush has answered.
//   O4  After a flush has failed all later ones fail as well, because the system may have dropped what the failed one should
//       have written, and would answer the next with success. The way out is to close the file, to open it again, and to
//       repeat every write that no flush has confirmed.
//
// A browser may delete the files of an origin when the disk is full, or when the user clears the data of the site; a program
// asks for the first not to happen with `navigator.storage.persist()`. In a private window files live in memory only.
//
// Not here: FUA and discards, which handles do not have; reads while another tab writes (O2).
//
// Source: WHATWG File System Standard, FileSystemSyncAccessHandle.

import {
  type Capabilities,
  FlushFailedError,
  type FlushFlags,
  IoFailedError,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import {
  BOOLEAN,
  checkOptions,
  checkRange,
  checkSize,
  describeStorage,
  formatValue,
  type KnownOptions,
  messageOf,
  misuse,
  settleSize,
  unsupported,
  wholeNumber,
  withText,
} from 'write-barrier/kit';
import { type FileHandle, type FileSystem, handleOf, type SyncHandle } from './handles.js';

/** Options of `OpfsStorage.open`. */
export interface OpfsStorageOptions {
  /**
   * In bytes, whole blocks. A missing file is created with this size. A shorter file is extended, and its new bytes read as
   * zero. A longer file is refused; `resize` truncates.
   *
   * @defaultValue the size of the file
   */
  readonly size?: number;
  /**
   * Whether a missing file, and the folders before it, may be created.
   *
   * @defaultValue true if `size` is set
   */
  readonly create?: boolean;
  /** In bytes, at least 1. @defaultValue 512, which most disks write as a whole */
  readonly blockSize?: number;
  /**
   * Replaces `navigator.storage`.
   *
   * @internal for fault injection in tests
   */
  readonly fs?: FileSystem;
}

const OPTIONS: KnownOptions<OpfsStorageOptions> = {
  size: wholeNumber(),
  create: BOOLEAN,
  blockSize: wholeNumber(1),
  fs: true,
};

/**
 * A file of the origin private file system as a storage, in a dedicated worker. Its cache is volatile: an answered write is safe
 * from the end of the page, and from a power cut only after a flush.
 *
 * @see https://fs.spec.whatwg.org/#api-filesystemsyncaccesshandle
 */
export class OpfsStorage implements Storage, AsyncDisposable {
  /** As it was given to `open`; of a handle, its name. */
  readonly path: string;
  readonly capabilities: Required<Capabilities>;

  readonly #handle: SyncHandle;
  #size: number;
  #closed = false;
  /** O4: the error of the flush that failed. */
  #poison: { readonly cause: unknown } | undefined;

  /**
   * Opens a file, for one writer.
   *
   * @param file the path of a file, with `/` between folders; or a `FileSystemFileHandle`
   * @throws `INVALID_ARGUMENT` for unknown options or a size that does not fit, for a folder, and for a missing file that may
   *   not be created
   * @throws `EOPNOTSUPP` outside of a dedicated worker, and where the browser has no OPFS
   * @throws `STORAGE_LOCKED` while another tab or worker has the file
   * @throws `IO_FAILED` if the browser refuses, for example because the origin's quota is used up; its error is the `cause`
   */
  static async open(
    file: string | FileHandle,
    options: OpfsStorageOptions = {},
  ): Promise<OpfsStorage> {
    checkOptions(options, OPTIONS, 'OpfsStorage.open');
    const { size, create = size !== undefined, blockSize = 512, fs } = options;
    if (create && size === undefined) throw misuse('create: true needs a size for the new file');
    const { path, handle } = await handleOf(file, create, fs);
    try {
      const actual = handle.getSize();
      const settled = settleSize(path, size, actual, blockSize, true);
      if (settled > actual) extend(path, handle, settled);
      return new OpfsStorage(path, handle, settled, blockSize);
    } catch (error) {
      handle.close();
      throw error;
    }
  }

  private constructor(path: string, handle: SyncHandle, size: number, blockSize: number) {
    this.path = path;
    this.#size = size;
    this.#handle = handle;
    this.capabilities = Object.freeze({
      ...({ blockSize, cache: 'volatile', flush: true, fua: false, orderedTags: false } as const),
      ...{ writev: true, discard: false, writeZeroes: false, fastZeroes: false },
      ...{ slowFua: false, gathers: false, blockStatus: false, resize: true },
    });
    withText(this, () => {
      const state = this.#closed ? 'closed' : this.#poison ? 'a flush has failed' : 'open';
      return `OpfsStorage { ${formatValue(path)}, ${describeStorage(this)}, ${state} }`;
    });
  }

  /** In bytes. */
  get size(): number {
    return this.#size;
  }

  /**
   * Fills `into` with the bytes from `offset` on; answers with their number.
   *
   * @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `IO_FAILED`
   */
  read(offset: number, into: Uint8Array): number {
    this.#check(offset, into.byteLength);
    return this.#attempt('reading', () => this.#handle.read(into, { at: offset }));
  }

  /**
   * Writes all of `data`; answers with the number of its bytes.
   *
   * @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `EOPNOTSUPP` for FUA and ordered tags; `IO_FAILED`
   */
  write(offset: number, data: Uint8Array, flags: WriteFlags): number {
    this.#check(offset, data.byteLength, flags);
    return this.#attempt('writing', () => this.#handle.write(data, { at: offset }));
  }

  /** As `write`, from several buffers. */
  writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): number {
    const length = data.reduce((sum, { byteLength }) => sum + byteLength, 0);
    this.#check(offset, length, flags);
    let written = 0;
    for (const buffer of data) {
      const at = offset + written;
      const taken = this.#attempt('writing', () => this.#handle.write(buffer, { at }));
      written += taken;
      if (taken < buffer.byteLength) break;
    }
    return written;
  }

  /**
   * Puts all answered writes on the medium.
   *
   * @throws `CLOSED`; `EOPNOTSUPP` for an ordered tag; `FLUSH_FAILED`, a `FlushFailedError`, if it fails, and always after
   *   that, until the file is closed and opened again
   */
  flush(flags: FlushFlags): void {
    this.#check(0, 0, flags);
    if (this.#poison) {
      const why = `an earlier flush of ${this.path} failed, so no later flush can make the earlier writes durable`;
      throw new FlushFailedError([], this.#poison.cause, why);
    }
    try {
      this.#handle.flush();
    } catch (cause) {
      this.#poison = { cause };
      const lost = 'writes that no flush has confirmed may be lost';
      const why = `flushing ${this.path} failed, ${lost}: ${messageOf(cause)}`;
      throw new FlushFailedError([], cause, why);
    }
  }

  /**
   * Extends the file by bytes that read as zero, or truncates it. The space of what is added is taken from the quota at once.
   *
   * @param size in bytes, whole blocks
   * @throws `CLOSED`, `INVALID_ARGUMENT`, `UNALIGNED`; `IO_FAILED` if the browser refuses, for example because the quota is used up
   */
  resize(size: number): void {
    this.#check(0, 0);
    checkSize(this, size);
    try {
      this.#attempt(`giving ${size} bytes to`, () => this.#handle.truncate(size));
    } finally {
      // The browser may have done it and failed nevertheless.
      this.#size = this.#attempt('asking for the size of', () => this.#handle.getSize());
    }
  }

  /** Closes the file, so that another tab or worker may open it. It does not flush. A second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handle.close();
  }

  /** The same as `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #check(offset: number, length: number, flags?: FlushFlags & Partial<WriteFlags>): void {
    if (this.#closed) throw new WriteBarrierError('CLOSED', `${this.path} is closed`);
    if (flags?.tag === 'ordered') throw unsupported('an ordered tag');
    if (flags?.fua) throw unsupported('FUA');
    checkRange(this, offset, length);
  }

  #attempt<T>(what: string, call: () => T): T {
    try {
      return call();
    } catch (cause) {
      throw failure(`${what} ${this.path}`, cause);
    }
  }
}

function extend(path: string, handle: SyncHandle, size: number): void {
  try {
    handle.truncate(size);
    // The new size is durable, because a power cut that takes it back would leave a file that is too short for its blocks.
    handle.flush();
  } catch (cause) {
    throw failure(`extending ${path} to ${size} bytes`, cause);
  }
}

function failure(what: string, cause: unknown): IoFailedError {
  const isFull = cause instanceof Error && cause.name === 'QuotaExceededError';
  const why = isFull ? "the quota of the page's origin is used up" : messageOf(cause);
  return new IoFailedError(`${what} failed: ${why}`, { cause });
}
