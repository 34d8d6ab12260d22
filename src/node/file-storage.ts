// A storage in a file or on a block device, through the page cache of the operating system.
//
//   open ──a flush fails──▶ open, poisoned ──close()──▶ closing ──nothing in flight──▶ closed
//
// Invariants, tested under these numbers:
//   F1  A transfer ends when all of its bytes were moved, or fails. A file that was cut under us
//       fails the read with SHORT_TRANSFER. A write behind the new end makes the file grow again,
//       and what lies between reads as zero; nothing but the lock protects from that.
//   F2  A flush is one fdatasync and is never repeated, whatever its error. After one has failed,
//       all later ones fail too, without asking the system: it has marked the unwritten pages as
//       clean and would answer the next fdatasync with success. The way out is to close, open
//       again, and write again, from a source that is not this file, all that no flush had
//       confirmed. What is read back meanwhile may exist in memory only.
//   F3  FUA is a write through a second descriptor that was opened with O_DSYNC. Both are one file
//       to the page cache, so a read sees either's writes at once.
//   F4  Calls that wait for the medium and overlap on one descriptor fail together
//       (error-cursor.ts).
//   F5  A write that is made on the calling thread and does not go through there as a whole is made again
//       by the pool, all of it: the same bytes in the same place. So F1 holds for it, and errors are told once.
//   F6  Once `close` was called nothing new starts; it waits for what is in flight, does not flush,
//       and gives back the lock last.
//
// How durable a flush is, the platform decides. Linux: on the medium, if the drive tells the truth.
// macOS: libuv asks for F_FULLFSYNC and falls back to F_BARRIERFSYNC, then to plain fsync, without
// a word, so success may mean no more than that the drive has the data in its cache. Windows:
// FlushFileBuffers; what a new file's directory entry is worth there is unknown. tmpfs and its like
// survive no power cut at all.
//
// What it does not do: discard and writeZeroes (Node reaches neither fallocate nor BLKDISCARD; a
// scheduler writes zeroes instead), direct I/O, order of any kind between commands in flight. libuv
// runs commands on several threads, so a flush covers only writes that were answered before it was
// called.

import {
  type Capabilities,
  checkRange,
  type FlushFlags,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import { type End, ioError, transfer, transferList } from './calls.js';
import { ErrorCursor } from './error-cursor.js';
import { type OpenFile, openFile } from './open-file.js';
import type { FileStorageOptions } from './options.js';

const SIMPLE: FlushFlags = Object.freeze({ tag: 'simple' });
const DONE: Promise<void> = Promise.resolve();

/**
 * A file or a block device as a storage. Its cache is volatile: an answered write is safe from a
 * crash of the process, and from a power cut only after a flush or with FUA.
 */
export class FileStorage implements Storage, AsyncDisposable {
  /** The file's name with symbolic links resolved. */
  readonly path: string;
  readonly size: number;
  /** `fua` where a descriptor with O_DSYNC could be opened, which is on Linux only. */
  readonly capabilities: Required<Capabilities>;

  readonly #file: OpenFile;
  readonly #flushes = new ErrorCursor();
  readonly #forced = new ErrorCursor();
  /** F2: what the system said to the flush that failed. */
  #poison: { readonly cause: unknown } | undefined;
  #inFlight = 0;
  #onIdle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  /**
   * Opens a file or a block device, for one writer.
   *
   * @throws `INVALID_ARGUMENT` for options that make no sense, for a directory or any other thing
   *   that is no file, and for a missing file that is not to be created; nothing has been created
   * @throws `STORAGE_LOCKED` while another writer has it; the message says who, and what is at risk
   * @throws `IO_FAILED` for what the system refuses; `cause.code` says why
   */
  static async open(path: string, options: FileStorageOptions = {}): Promise<FileStorage> {
    return new FileStorage(await openFile(path, options));
  }

  private constructor(file: OpenFile) {
    this.#file = file;
    this.path = file.path;
    this.size = file.size;
    this.capabilities = Object.freeze({
      blockSize: file.blockSize,
      cache: 'volatile',
      flush: true,
      fua: file.fuaFd !== undefined,
      orderedTags: false,
      writev: true,
      discard: false,
      writeZeroes: false,
    });
  }

  /**
   * Fills `into` with the bytes from `offset` on.
   *
   * @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `SHORT_TRANSFER` if the file has become shorter;
   *   `IO_FAILED`
   */
  read(offset: number, into: Uint8Array): Promise<void> {
    const refusal = this.#refusal(offset, into.byteLength);
    if (refusal !== undefined) return Promise.reject(refusal);
    const { calls, fd } = this.#file;
    return this.#command((end) => transfer('read', calls.read, fd, into, offset, end));
  }

  /**
   * Writes all of `data`.
   *
   * @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`, `READ_ONLY`; `EOPNOTSUPP` for an ordered tag,
   *   and for FUA where `capabilities.fua` is false; `IO_FAILED`, with `cause.code` ENOSPC on a
   *   full disk
   */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<void> {
    const { calls, fd, fuaFd, inlineWrites } = this.#file;
    const length = data.byteLength;
    const refusal = this.#refusal(offset, length, flags) ?? this.#writeRefusal(flags);
    if (refusal !== undefined) return Promise.reject(refusal);
    const write = (to: number): Promise<void> =>
      this.#command((end) => transfer('write', calls.write, to, data, offset, end));
    if (flags.fua && fuaFd !== undefined) return this.#forced.run(() => write(fuaFd));
    const inline = (): number => calls.writeSync(fd, data, 0, length, offset);
    return inlineWrites.attempt(length, inline) ? DONE : write(fd);
  }

  /** As `write`, from several buffers. */
  writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Promise<void> {
    const { calls, fd, fuaFd, inlineWrites } = this.#file;
    const length = data.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const refusal = this.#refusal(offset, length, flags) ?? this.#writeRefusal(flags);
    if (refusal !== undefined) return Promise.reject(refusal);
    if (length === 0) return Promise.resolve();
    const write = (to: number): Promise<void> =>
      this.#command((end) => transferList(calls.writev, to, data, length, offset, end));
    if (flags.fua && fuaFd !== undefined) return this.#forced.run(() => write(fuaFd));
    const inline = (): number => calls.writevSync(fd, data, offset);
    return inlineWrites.attempt(length, inline) ? DONE : write(fd);
  }

  /**
   * One fdatasync. Read-only storages have nothing to flush and answer at once.
   *
   * @throws `CLOSED`; `EOPNOTSUPP` for an ordered tag; `FLUSH_FAILED` if it fails, and from then on
   *   always, until the file is closed and opened again
   */
  async flush(flags: FlushFlags): Promise<void> {
    const refusal = this.#refusal(0, 0, flags);
    if (refusal !== undefined) throw refusal;
    const { calls, fd, readOnly } = this.#file;
    if (readOnly) return;
    if (this.#poison) throw stillPoisoned(this.path, this.#poison.cause);
    const sync = (): Promise<void> =>
      this.#command((end) =>
        calls.fdatasync(fd, (error) => end(error === null ? null : flushError(this.path, error))),
      );
    try {
      await this.#flushes.run(sync);
    } catch (error) {
      this.#poison ??= { cause: error instanceof Error ? error.cause : error };
      throw error;
    }
  }

  /**
   * Waits for what is in flight, closes the file and unlocks it. It does not flush. Later calls
   * answer the same.
   *
   * @throws `IO_FAILED` if the system reports an error; closed and unlocked it is all the same
   */
  close(): Promise<void> {
    this.#closed ??= this.#whenIdle().then(() => this.#file.release());
    return this.#closed;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** F6: counts a command as in flight until it ends, or until node:fs throws at its buffer. */
  #command(start: (end: End) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#inFlight += 1;
      const end: End = (error) => {
        this.#inFlight -= 1;
        if (this.#inFlight === 0) this.#onIdle?.();
        if (error === null) resolve();
        else reject(error);
      };
      try {
        start(end);
      } catch (error) {
        end(ioError(`a command for ${this.path}`, error));
      }
    });
  }

  /**
   * Why a command cannot even start. It is nobody else's failure, so it stays out of F4, and it is
   * an answer and not thrown, because every method here answers with a promise.
   */
  #refusal(offset: number, length: number, { tag }: FlushFlags = SIMPLE): unknown {
    if (this.#closed) return new WriteBarrierError('CLOSED', `${this.path} is closed`);
    if (tag !== 'simple') return unsupported('ordered tags');
    try {
      checkRange(this, offset, length);
      return undefined;
    } catch (error) {
      return error;
    }
  }

  #writeRefusal({ fua }: WriteFlags): unknown {
    if (this.#file.readOnly) {
      return new WriteBarrierError('READ_ONLY', `${this.path} is open for reading`);
    }
    return fua && this.#file.fuaFd === undefined ? unsupported('FUA') : undefined;
  }

  #whenIdle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }
}

function unsupported(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `a file has no ${what} here; see the capabilities`);
}

function flushError(path: string, cause: Error): WriteBarrierError {
  return new WriteBarrierError(
    'FLUSH_FAILED',
    `flushing ${path} failed, and what no flush has confirmed may be lost: ${cause.message}`,
    { cause },
  );
}

function stillPoisoned(path: string, cause: unknown): WriteBarrierError {
  return new WriteBarrierError(
    'FLUSH_FAILED',
    `an earlier flush of ${path} failed, so no later one can vouch for what was written before; ` +
      'open the file again and write again what no flush has confirmed',
    { cause },
  );
}
