// A storage in a file or on a block device, through the page cache of the operating system.
//
//   open ──a flush fails──▶ open, poisoned ──close()──▶ closing ──nothing in flight──▶ closed
//
// Invariants, tested under these numbers:
//   F1  A transfer ends when all of its bytes are moved, or it fails. If the file was truncated, a read past its end fails with
//       SHORT_TRANSFER. A write past its end makes the file grow again, and the gap reads as zero; only the lock prevents that.
//   F2  A flush is one fdatasync and is never repeated, for any error. After one has failed all later ones fail as well,
//       without a call, because the system has marked the unwritten pages as clean and would answer the next fdatasync
//       with success. The way out is to close the file, open it again, and repeat every write that no flush has confirmed.
//       Take the data from another source than this file, because what is read back from it may exist in memory only.
//   F3  FUA is a write through a second descriptor, opened with O_DSYNC. Both descriptors share the page cache, so a read sees
//       the writes of both at once.
//   F4  Calls that wait for the medium and overlap on one descriptor fail together (`ErrorCursor`).
//   F5  If a write on the calling thread fails, or does not take all bytes, the thread pool makes the whole write again: the
//       same bytes in the same place. So F1 holds for it, and an error is reported once.
//   F6  After `close` was called no command starts. `close` waits for the commands in flight, does not flush, and releases the
//       lock last.
//   F7  A discard and a writeZeroes are one trim of the file (fallocate with PUNCH_HOLE): its blocks are freed, and the bytes read
//       as zero, also after a power cut once they are flushed.
//   F8  A block status tells of holes that this storage has made (hole-map.ts). A write takes its bytes out of them before it
//       begins, and a trim adds them when it has ended, so a hole is never data.
//
//   F9  A resize is one ftruncate, and the first flush after it covers the size, because fdatasync writes the metadata that reading
//       the data needs: the manual of Linux names the size that ftruncate has changed. So does a write through the descriptor with
//       O_DSYNC. If ftruncate fails, the system is asked which size the file has. A block device and a read-only storage
//       have no resize.
//
// How durable a flush is depends on the platform. Linux: on the medium, if the drive reports truthfully. macOS: libuv tries
// F_FULLFSYNC, then F_BARRIERFSYNC, then plain fsync, and does not report which one succeeded, so success may mean only that the
// drive has the data in its cache. Windows: FlushFileBuffers; whether the directory entry of a new file is durable is unknown.
// tmpfs survives no power cut at all.
//
// Not here: discards of block devices (Node has no BLKDISCARD), direct I/O, any order between commands in flight. libuv runs commands on several threads, so a flush covers only writes that
// completed before it was called.

import type { BigIntStats } from 'node:fs';
import { performance } from 'node:perf_hooks';
import {
  type Capabilities,
  type Extent,
  FlushFailedError,
  type FlushFlags,
  IoFailedError,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import {
  checkArgument,
  checkRange,
  checkSize,
  describeStorage,
  formatValue,
  invariant,
  isBytes,
  messageOf,
  misuse,
  rule,
  totalLength,
  unsupported,
  withText,
} from 'write-barrier/kit';
import {
  type End,
  type FileCalls,
  guarded,
  ioError,
  resizing,
  transfer,
  transferList,
  trimming,
} from './calls.js';
import { publishFailedFlush } from './diagnostics.js';
import { breakLock, type LockKind, type OpenFile, openFile } from './open-file.js';
import type { FileStorageOptions } from './options.js';

/** What a write takes: one buffer, or several. */
type Payload = Uint8Array | readonly Uint8Array[];

const SIMPLE: FlushFlags = Object.freeze({ tag: 'simple' });
const PLAIN: WriteFlags = Object.freeze({ fua: false, tag: 'simple' });
const DONE: Promise<void> = Promise.resolve();
const BYTES = rule(isBytes, 'a Uint8Array');
const LIST = rule(Array.isArray, 'a list of Uint8Arrays');
const OBJECT = rule((value) => typeof value === 'object' && value !== null, 'an object');

/**
 * A file or a block device as a storage. Its cache is volatile: an answered write is safe from a
 * crash of the process, and from a power cut only after a flush or with FUA.
 */
export class FileStorage implements Storage, AsyncDisposable {
  /** The file's name with symbolic links resolved. */
  readonly path: string;
  /** `fua` is true if a descriptor with O_DSYNC could be opened, which is possible on Linux only. */
  readonly capabilities: Required<Capabilities>;
  /**
   * The lock against other writers. `platform`: that of the operating system, which works for every name of the file, and ends
   * when its holder ends for any reason. `ticket`: a lock on the name of the file, which may outlive its holder. `none`: no
   * lock.
   */
  readonly lock: LockKind;
  /** Why it is this lock: for a ticket, why the system's lock was not available. */
  readonly lockReason: string;

  /** Frees the blocks of the file: the bytes read as zero. */
  declare readonly discard?: (offset: number, length: number) => Promise<void>;
  /** The same as `discard`. */
  declare readonly writeZeroes?: (offset: number, length: number) => Promise<void>;
  /**
   * The holes that this storage knows of: bytes that were added to the file when it was opened, and discarded ones, in runs of at
   * least 64 KiB.
   */
  declare readonly blockStatus?: (offset: number, length: number) => readonly Extent[];

  /** Extends the file by bytes that read as zero and take no space yet, or truncates it. */
  declare readonly resize?: (size: number) => Promise<void>;

  readonly #file: OpenFile;
  #size: number;
  readonly #inlineWrites: InlineWrites;
  readonly #flushes = new ErrorCursor((why, cause) => new FlushFailedError([], cause, why));
  readonly #forced = new ErrorCursor((why, cause) => new IoFailedError(why, { cause }));
  /** F2: the system's error for the flush that failed. */
  #poison: { readonly cause: unknown } | undefined;
  #inFlight = 0;
  #onIdle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  /**
   * Opens a file or a block device, for one writer. To ask whether a file can be trimmed counts as a change of it, so the time of
   * its last change becomes that of the opening.
   *
   * @param path a path, or a URL object whose protocol is `file:`
   * @throws `INVALID_ARGUMENT` for unknown or contradictory options, for a directory or anything else that is not a file or a
   *   block device, and for a missing file that may not be created; nothing has been created
   * @throws `STORAGE_LOCKED`, a `StorageLockedError`, while another writer has the file; the message says which one
   * @throws `IO_FAILED` if the system refuses; `cause.code` says why
   */
  static async open(path: string | URL, options: FileStorageOptions = {}): Promise<FileStorage> {
    return new FileStorage(await openFile(path, options));
  }

  /**
   * Removes the ticket of another writer. Call it only if you know that this writer is gone: if it is alive, there may be two
   * writers then, which overwrite each other. It is no error if the ticket does not exist any more.
   *
   * The lock of the operating system cannot be broken. It ends when its holder ends.
   *
   * @param path as for `open`
   * @param holder the `holder` of the `StorageLockedError`; no other ticket is touched
   * @throws `INVALID_ARGUMENT` if `holder` cannot be the name of a ticket; `IO_FAILED` if the system refuses
   */
  static async breakLock(path: string | URL, holder: string): Promise<void> {
    await breakLock(path, holder);
  }

  private constructor(file: OpenFile) {
    this.#file = file;
    this.#inlineWrites = new InlineWrites(file.inlineWriteMax);
    this.path = file.path;
    this.#size = file.size;
    this.lock = file.lock;
    this.lockReason = file.lockReason;
    const trims = file.trim !== undefined;
    this.capabilities = Object.freeze({
      blockSize: file.blockSize,
      cache: 'volatile',
      flush: true,
      fua: file.fuaFd !== undefined,
      slowFua: file.fuaFd !== undefined,
      orderedTags: false,
      writev: true,
      gathers: true,
      discard: trims,
      writeZeroes: trims,
      fastZeroes: trims,
      blockStatus: file.holes !== undefined,
      resize: file.resizable,
    });
    const { trim, holes } = file;
    if (trim) this.discard = this.writeZeroes = (...range) => this.#trim(trim, ...range);
    if (file.resizable) this.resize = (size) => this.#resize(size);
    if (holes) {
      this.blockStatus = (offset, length) => {
        this.#check(offset, length);
        return length === 0 ? [] : holes.extents(offset, length);
      };
    }
    withText(this, () => this.#text());
  }

  /** In bytes; of a file it changes by `resize`. */
  get size(): number {
    return this.#size;
  }

  /**
   * Fills `into` with the bytes from `offset` on.
   *
   * @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `SHORT_TRANSFER` if the file was truncated; `IO_FAILED`
   */
  read(offset: number, into: Uint8Array): Promise<void> {
    try {
      checkArgument('into', into, BYTES);
      this.#check(offset, into.byteLength);
    } catch (cause) {
      return Promise.reject(refusalOf(cause));
    }
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
    try {
      checkArgument('data', data, BYTES);
      this.#checkWrite(offset, data.byteLength, flags);
    } catch (cause) {
      return Promise.reject(refusalOf(cause));
    }
    return this.#put(data, data.byteLength, offset, flags);
  }

  /** As `write`, from several buffers. */
  writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Promise<void> {
    let length = 0;
    try {
      checkArgument('data', data, LIST);
      for (const buffer of data) checkArgument('each buffer of data', buffer, BYTES);
      length = totalLength(data);
      this.#checkWrite(offset, length, flags);
    } catch (cause) {
      return Promise.reject(refusalOf(cause));
    }
    return length === 0 ? DONE : this.#put(data, length, offset, flags);
  }

  /**
   * One fdatasync. A read-only storage has nothing to flush and answers at once. The first one that fails is also published, as
   * `{ path, error }` in the channel `write-barrier:flush-failed` of `node:diagnostics_channel`.
   *
   * @throws `CLOSED`; `EOPNOTSUPP` for an ordered tag; `FLUSH_FAILED`, a `FlushFailedError`, if it fails, and always after
   *   that, until the file is closed and opened again
   */
  async flush(flags: FlushFlags): Promise<void> {
    try {
      this.#check(0, 0, flags);
    } catch (cause) {
      throw refusalOf(cause);
    }
    const { calls, fd, readOnly } = this.#file;
    if (readOnly) return;
    if (this.#poison) throw stillPoisoned(this.path, this.#poison.cause);
    const sync = (): Promise<void> =>
      this.#command((end) =>
        guarded<void>(
          (done) => calls.fdatasync(fd, (error) => done(error, undefined)),
          (error) => end(error === undefined ? null : flushError(this.path, error)),
        ),
      );
    try {
      await this.#flushes.run(sync);
    } catch (error) {
      if (!this.#poison) {
        this.#poison = { cause: error instanceof Error ? error.cause : error };
        publishFailedFlush(this.path, error);
      }
      throw error;
    }
  }

  /**
   * Waits for the commands in flight, closes the file and unlocks it. It does not flush. Later calls answer the same.
   *
   * @throws `IO_FAILED` if the system reports an error; the file is closed and unlocked nevertheless
   */
  close(): Promise<void> {
    this.#closed ??= this.#whenIdle().then(() => {
      invariant(this.#inFlight === 0, 'file-storage.F6: nothing is in flight at the end');
      return this.#file.release();
    });
    return this.#closed;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #text(): string {
    const state = this.#closed ? 'closed' : this.#poison ? 'a flush has failed' : 'open';
    const access = this.#file.readOnly ? ', read only' : '';
    return (
      `FileStorage { ${formatValue(this.path)}, ${describeStorage(this)}${access}, ` +
      `lock: ${this.lock}, ${state}, in flight: ${this.#inFlight} }`
    );
  }

  /** Writes what was checked. */
  #put(data: Payload, length: number, offset: number, flags: WriteFlags): Promise<void> {
    const { calls, fd, fuaFd, holes } = this.#file;
    holes?.remove(offset, offset + length);
    if (flags?.fua && fuaFd !== undefined) {
      return this.#forced.run(this.#writing(fuaFd, data, length, offset));
    }
    if (this.#inlineWrites.attempt(calls, fd, data, length, offset)) return DONE;
    return this.#writing(fd, data, length, offset)();
  }

  /** A write by the thread pool. By itself, because a quick write would otherwise pay for what the functions here hold. */
  #writing(to: number, data: Payload, length: number, offset: number): () => Promise<void> {
    const { calls } = this.#file;
    return () =>
      this.#command((end) =>
        isBytes(data)
          ? transfer('write', calls.write, to, data, offset, end)
          : transferList(calls.writev, to, data, length, offset, end),
      );
  }

  /** F7, F8. */
  #trim(trim: NonNullable<OpenFile['trim']>, offset: number, length: number): Promise<void> {
    try {
      this.#checkWrite(offset, length, PLAIN);
    } catch (cause) {
      return Promise.reject(refusalOf(cause));
    }
    if (length === 0) return DONE;
    const { fd, holes } = this.#file;
    return this.#command((end) =>
      trimming(trim, fd, offset, length, (error) => {
        if (error === null) holes?.add(offset, offset + length);
        end(error);
      }),
    );
  }

  /** F9. */
  #resize(size: number): Promise<void> {
    try {
      this.#check(0, 0);
      checkSize(this, size);
    } catch (cause) {
      return Promise.reject(refusalOf(cause));
    }
    if (size === this.size) return DONE;
    const { calls, fd, holes } = this.#file;
    const done = (): void => {
      this.#size = size;
      holes?.resize(size);
    };
    return this.#command((end) =>
      resizing(calls.ftruncate, fd, size, (failure) => {
        if (failure === null) {
          done();
          end(null);
          return;
        }
        guarded<BigIntStats>(
          (answer) => calls.fstat(fd, { bigint: true }, answer),
          (error, stats) => {
            if (error === undefined && stats?.size === BigInt(size)) done();
            end(failure);
          },
        );
      }),
    );
  }

  /** F6: runs a command, and counts it as in flight until it ends. */
  #command(start: (end: End) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#inFlight += 1;
      const end: End = (error) => {
        invariant(this.#inFlight > 0, 'file-storage.F6: a command ends once');
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
   * Throws if a command may not start. This is not a failure of the medium, so F4 does not apply.
   */
  #check(offset: number, length: number, flags: FlushFlags = SIMPLE): void {
    if (this.#closed) throw new WriteBarrierError('CLOSED', `${this.path} is closed`);
    checkArgument('the flags', flags, OBJECT);
    if (flags.tag !== 'simple') throw unsupported('an ordered tag');
    checkRange(this, offset, length);
  }

  #checkWrite(offset: number, length: number, flags: WriteFlags = PLAIN): void {
    this.#check(offset, length, flags);
    if (this.#file.readOnly) {
      throw new WriteBarrierError('READ_ONLY', `${this.path} was opened with readOnly: true`);
    }
    if (flags.fua && this.#file.fuaFd === undefined) throw unsupported('FUA');
  }

  #whenIdle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }
}

/** The error of a check. Arguments may throw when they are read: getters, proxies. */
function refusalOf(cause: unknown): WriteBarrierError {
  if (WriteBarrierError.is(cause)) return cause;
  return misuse(`an argument cannot be read: ${messageOf(cause)}`, { cause });
}

function flushError(path: string, cause: unknown): FlushFailedError {
  const lost = 'writes that no flush has confirmed may be lost';
  return new FlushFailedError([], cause, `flushing ${path} failed, ${lost}: ${messageOf(cause)}`);
}

function stillPoisoned(path: string, cause: unknown): FlushFailedError {
  const message =
    `an earlier flush of ${path} failed, so no later flush can make the earlier writes durable; ` +
    'open the file again, and repeat the writes that no flush has confirmed';
  return new FlushFailedError([], cause, message);
}

/**
 * F4: the calls that wait for the medium on one descriptor.
 *
 * Linux reports a failed write-back once per open descriptor, to the first call that asks. Another call on the same descriptor
 * that runs at the same time is answered with success, although the failure may concern its data. So calls that
 * overlap in time fail together: each is answered only when all the calls that it overlapped have ended, and fails if any of
 * them failed.
 *
 * @see the errseq_t of Linux 4.13, lib/errseq.c
 */
class ErrorCursor {
  readonly #running = new Set<Promise<void>>();
  readonly #failure: (message: string, cause: unknown) => WriteBarrierError;
  #failures = 0;
  #latest: unknown;

  /** @param failure the error of a call that fails because another did */
  constructor(failure: (message: string, cause: unknown) => WriteBarrierError) {
    this.#failure = failure;
  }

  /** @throws what `start` throws, or the failure of a call that ran at the same time */
  async run(start: () => Promise<void>): Promise<void> {
    const before = this.#failures;
    const own = start().catch((error: unknown) => {
      this.#failures += 1;
      this.#latest = error;
      throw error;
    });
    this.#running.add(own);
    try {
      await own;
    } finally {
      this.#running.delete(own);
    }
    if (this.#running.size > 0) await Promise.allSettled(this.#running);
    if (this.#failures === before) return;
    const why = 'another call that forced data to the medium at the same time failed';
    const latest = this.#latest as Error;
    throw this.#failure(
      `${why}, and the system does not say which of them lost data: ${latest.message}`,
      latest.cause,
    );
  }
}

/** A write that took longer was held up, by the medium or by another program. */
const SLOW_MS = 1;
/** A write that took longer waited for the medium, because a system gives a processor back sooner. */
const STALL_MS = 50;
/** How long no write is tried, in times of what the last one took. */
const REST_FACTOR = 10;

/**
 * F5: writes on the calling thread, as long as they are quick, because handing bytes to the page cache costs less than waking
 * another thread. Node cannot ask the system for a write that does not wait (RWF_NOWAIT), and now and then one does wait: for
 * dirty pages, for a journal in the middle of a commit, for a part of a page that must be read first. So each write is timed.
 * After two slow ones in a row, or a stall, there is none for ten times as long as the last one took.
 *
 * One slow write by itself is no reason to rest: on a busy machine it is one during which another program ran. A process that
 * has got its processor back has it for hundreds of quick writes, so these do not come in a row. The price: a medium that holds
 * up one write in many, and none for longer than a stall, holds up the program each time, as `fs.writeSync` in a loop would.
 */
class InlineWrites {
  readonly #max: number;
  #wasSlow = false;
  /** No write is tried before this point in time, in milliseconds. */
  #restsUntil = 0;

  /** @param max the longest write that is tried, in bytes */
  constructor(max: number) {
    this.#max = max;
  }

  /** True where the system took all `length` bytes; otherwise the write is still to be made, all of it. */
  attempt(calls: FileCalls, fd: number, data: Payload, length: number, offset: number): boolean {
    if (length > this.#max) return false;
    const start = performance.now();
    if (start < this.#restsUntil) return false;
    let taken = 0;
    try {
      taken = isBytes(data)
        ? calls.writeSync(fd, data, 0, length, offset)
        : calls.writevSync(fd, data, offset);
    } catch {
      // The pool makes the write again, and reports what the system says then.
    }
    const end = performance.now();
    const tookMs = end - start;
    const isSlow = tookMs > SLOW_MS;
    if (tookMs > STALL_MS || (isSlow && this.#wasSlow)) {
      this.#restsUntil = end + tookMs * REST_FACTOR;
    }
    this.#wasSlow = isSlow;
    return taken === length;
  }
}
