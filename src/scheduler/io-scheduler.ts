// The scheduler that users hold: a face over the driver.
//
//   IoScheduler   checks every call, knows the mode and what it promises, closes
//   Driver        promises and the storage: events in, commands out
//   Ordering      which command may be issued now, and who is settled: no promise, no clock, no storage
//
// A rejected call has queued nothing. An accepted one settles exactly once: with its outcome, with the reason of
// its signal, or with CLOSE_TIMEOUT when the storage never answers and whoever closes has had enough.

import {
  type ByteRange,
  chooseMode,
  type Guarantees,
  guarantees,
  type ModeName,
  type Request,
  WriteBarrierError,
} from '../model/index.js';
import { checkStorage } from '../storage/checks.js';
import type { Capabilities, Storage } from '../storage/index.js';
import { asStorage } from './as-storage.js';
import { type Call, Driver } from './driver.js';
import { UnsafeModeError } from './errors.js';
import type {
  CloseOptions,
  RequestOptions,
  SchedulerOptions,
  SchedulerStats,
  WriteOptions,
} from './options.js';
import { payloadOf } from './queue.js';
import {
  checkData,
  checkRange,
  checkRequestOptions,
  checkSchedulerOptions,
  checkTimeout,
  isBytes,
  NO_OPTIONS,
} from './validate.js';

/**
 * Issues requests to a storage in an order that keeps the promise of a mode.
 *
 * Every method checks its arguments and rejects at once, with a stable `code` and nothing queued:
 * `INVALID_ARGUMENT`, `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `CLOSED`, `QUEUE_FULL`, and `FAILED` after a
 * failed flush. A failed command rejects with `IO_FAILED` (see `cause`) or `SHORT_TRANSFER`.
 *
 * @see Linux 2.6.36 block/blk-barrier.c and Documentation/block/barrier.txt
 */
export class IoScheduler implements AsyncDisposable {
  readonly #storage: Storage;
  readonly #driver: Driver;
  readonly #allowUnsafe: boolean;
  readonly #maxQueued: number;
  readonly #maxQueuedBytes: number;
  #guarantees: Guarantees;
  #closing: Promise<void> | undefined;

  /**
   * @throws `INVALID_STORAGE` for a storage that contradicts itself
   * @throws `INVALID_ARGUMENT` for an option out of range, `EINVAL` for a mode that is none
   * @throws `UNSAFE_MODE` where the mode does not keep its promise on this storage, unless `allowUnsafe`
   */
  constructor(storage: Storage, options: SchedulerOptions = {}) {
    checkStorage(storage);
    checkSchedulerOptions(options);
    this.#storage = storage;
    this.#allowUnsafe = options.allowUnsafe ?? false;
    this.#maxQueued = options.maxQueued ?? 65_536;
    this.#maxQueuedBytes = options.maxQueuedBytes ?? 256 * 1024 * 1024;
    this.#guarantees = this.#acceptable(options.mode ?? 'auto');
    const ordering = {
      mode: this.#guarantees.mode,
      device: storage.capabilities,
      depth: options.depth ?? 32,
      errorPolicy: options.errorPolicy ?? 'abort',
      readsPassBarriers: options.readsPassBarriers ?? true,
    };
    this.#driver = new Driver(storage, ordering, options.observer);
  }

  /** The mode that the next barrier follows. */
  get mode(): ModeName {
    return this.#guarantees.mode;
  }

  /** What the mode promises on this storage. */
  get guarantees(): Guarantees {
    return this.#guarantees;
  }

  /** In bytes. */
  get size(): number {
    return this.#storage.size;
  }

  /** Those of the storage. */
  get capabilities(): Capabilities {
    return this.#storage.capabilities;
  }

  /** `failed`: a flush has failed, and everything is refused until `recover()`. */
  get state(): 'running' | 'failed' | 'closed' {
    if (this.#closing) return 'closed';
    return this.#driver.ordering.failed ? 'failed' : 'running';
  }

  /**
   * The bytes that a failed flush left in doubt and that have not been written since; a flush must follow. Under
   * the error policy `kernel` nobody keeps these books.
   */
  get atRisk(): readonly ByteRange[] {
    return [...this.#driver.ordering.atRisk];
  }

  /**
   * Reads `length` bytes into a new buffer, or fills the given one. It sees every write submitted before.
   *
   * @param offset bytes from the start, a multiple of `capabilities.blockSize`; so is the length
   */
  read(
    offset: number,
    lengthOrBuffer: number | Uint8Array,
    options: RequestOptions = NO_OPTIONS,
  ): Promise<Uint8Array> {
    const into = isBytes(lengthOrBuffer) ? lengthOrBuffer : undefined;
    const length = into ? into.byteLength : (lengthOrBuffer as number);
    return this.#submit({ kind: 'read', offset, length }, into, options);
  }

  /**
   * Writes `data`, one buffer or several that follow each other. Settles when the storage has taken it, which
   * is not yet durability. The buffers are not copied: leave them alone until then.
   *
   * With `barrier`, everything submitted earlier is ordered before this write and everything later after it;
   * what that means for the medium is `guarantees`.
   *
   * @throws `EOPNOTSUPP` for `barrier` in mode NONE, and for what a storage without a flush cannot do; nothing
   * of the payload has been written
   * @throws `BARRIER_ABORTED` where a covered write failed (error policy `abort`, drain modes); nothing written
   * @throws `FLUSH_FAILED` where a flush that the request needs failed; the error names the bytes at risk
   */
  write(
    offset: number,
    data: Uint8Array | readonly Uint8Array[],
    options: WriteOptions = NO_OPTIONS,
  ): Promise<void> {
    const length = checkData(data);
    if (typeof length !== 'number') return Promise.reject(length);
    const { barrier, preflush, fua } = options ?? NO_OPTIONS;
    const request: Request =
      barrier || preflush || fua
        ? {
            kind: 'write',
            offset,
            length,
            ...(barrier && { barrier }),
            ...(preflush && { preflush }),
            ...(fua && { fua }),
          }
        : { kind: 'write', offset, length };
    // The list is copied, the buffers are not.
    const payload = Array.isArray(data) ? data.slice() : data;
    return this.#submit(request, payload, options);
  }

  /** An empty barrier: an ordering point, and a flush where the mode has one. Errors as for `write`. */
  barrier(options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'barrier' }, undefined, options);
  }

  /**
   * Makes durable what was submitted before, and delays nobody. Concurrent flushes share one of the device.
   *
   * @throws `FLUSH_FAILED` with the bytes at risk; `EOPNOTSUPP` on a volatile cache that cannot be flushed
   */
  flush(options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'flush' }, undefined, options);
  }

  /** Gives the bytes up: they read as anything until written again. Nothing is sent where the storage cannot. */
  discard(offset: number, length: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'discard', offset, length }, undefined, options);
  }

  /** Makes the bytes read as zero; written as zeroes where the storage has nothing better. */
  writeZeroes(offset: number, length: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'writeZeroes', offset, length }, undefined, options);
  }

  /** Settles when nothing is queued and nothing is at the storage. */
  idle(): Promise<void> {
    return this.#driver.until(() => this.#driver.ordering.idle);
  }

  /** Settles when the queue is at most half full: wait for it before submitting more. */
  ready(): Promise<void> {
    return this.#driver.until(() => this.#hasRoom());
  }

  /**
   * Changes the mode from the next barrier on that has not started.
   *
   * @throws `UNSAFE_MODE` and `EINVAL` as the constructor does; the mode is then what it was
   */
  setMode(mode: ModeName | 'auto'): void {
    this.#guarantees = this.#acceptable(mode);
    this.#driver.ordering.mode = this.#guarantees.mode;
    this.#driver.pump();
  }

  /**
   * Takes requests again after a failed flush, once nothing is at the storage. Answers with the bytes in doubt:
   * write them again from a source that has them. A flush that succeeds now says nothing about them.
   */
  async recover(): Promise<readonly ByteRange[]> {
    if (this.#closing) throw closed();
    if (!this.#driver.ordering.failed) return this.atRisk;
    await this.idle();
    if (this.#driver.ordering.failed) this.#driver.ordering.recover();
    return this.atRisk;
  }

  /** What there is to do, and what has been done. */
  stats(): SchedulerStats {
    const { queued, queuedBytes, running, barriersPending, counters } = this.#driver.ordering;
    return {
      ...counters,
      queued,
      queuedBytes,
      inFlight: running.size,
      barriersPending,
      submitted: this.#driver.submitted,
      settled: this.#driver.settled,
    };
  }

  /**
   * Takes no more, completes what is queued, flushes, and closes the storage. Further calls wait for the same.
   *
   * @throws `FLUSH_FAILED` or `FAILED` when something may be lost; the storage is closed all the same
   * @throws `CLOSE_TIMEOUT` naming the commands that the storage did not answer; whoever waited for one is told
   * the same, and the storage is left open, because closing it under a running command is worse
   */
  close(options: CloseOptions = {}): Promise<void> {
    const misuse = checkTimeout(options);
    if (misuse) return Promise.reject(misuse);
    this.#closing ??= this.#close();
    const { timeoutMs } = options;
    return timeoutMs === undefined ? this.#closing : this.#within(timeoutMs, this.#closing);
  }

  /** The same as `close()` without a limit of time, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * The scheduler as a storage, for another one above it. A write or flush with an ordered tag becomes a
   * barrier here, so a tag mode above works whatever mode orders below, NONE excepted.
   */
  asStorage(): Storage {
    return asStorage(this);
  }

  #acceptable(mode: ModeName | 'auto'): Guarantees {
    const { capabilities } = this.#storage;
    const promise = guarantees(mode === 'auto' ? chooseMode(capabilities) : mode, capabilities);
    if (promise.verdict === 'unsafe' && !this.#allowUnsafe) throw new UnsafeModeError(promise);
    return promise;
  }

  // Requests

  /** `data`: what to write, or where to read into; a read without makes its own. */
  #submit<T extends Uint8Array | void>(
    request: Request,
    data: Call['data'],
    options: RequestOptions,
  ): Promise<T> {
    const misuse = this.#misuse(request, options);
    if (misuse) return Promise.reject(misuse);
    const { signal } = options;
    if (this.#closing) return Promise.reject(closed());
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (!this.#fits(request))
      return Promise.reject(queueFull(this.#maxQueued, this.#maxQueuedBytes));
    return new Promise<T>((resolve, reject) => {
      const buffer = data ?? (request.kind === 'read' ? newBuffer(request.length) : undefined);
      const call = { resolve: resolve as Call['resolve'], reject, data: buffer, signal };
      this.#driver.submit(request, call);
    });
  }

  #misuse(request: Request, options: RequestOptions): Error | undefined {
    const misuse =
      request.kind === 'barrier' || request.kind === 'flush'
        ? undefined
        : checkRange(request, this.#storage.size, this.#storage.capabilities.blockSize);
    return misuse ?? checkRequestOptions(options);
  }

  #fits(request: Request): boolean {
    const { queued, queuedBytes } = this.#driver.ordering;
    if (queued >= this.#maxQueued) return false;
    return queued === 0 || queuedBytes + payloadOf(request) <= this.#maxQueuedBytes;
  }

  #hasRoom(): boolean {
    const { queued, queuedBytes } = this.#driver.ordering;
    return queued * 2 <= this.#maxQueued && queuedBytes * 2 <= this.#maxQueuedBytes;
  }

  // Closing

  async #close(): Promise<void> {
    const { cache, flush } = this.#storage.capabilities;
    const last = new Promise<void>((resolve, reject) => {
      if (cache !== 'volatile' || !flush) return resolve();
      const answer = { resolve: () => resolve(), reject, data: undefined, signal: undefined };
      this.#driver.submit({ kind: 'flush' }, answer);
    });
    const drained = await Promise.allSettled([last, this.idle()]);
    const closed = await Promise.allSettled([this.#closeStorage()]);
    // Of several failures the first is told: it is the one that names bytes at risk.
    for (const end of [...drained, ...closed]) if (end.status === 'rejected') throw end.reason;
  }

  async #closeStorage(): Promise<void> {
    // A storage that has not answered is left open: closing it under a running command is worse.
    if (this.#driver.abandoned) return;
    // Rejects when somebody gives up.
    await Promise.race([this.#storage.close(), this.#driver.until(() => false)]);
  }

  /** What `work` answers, or CLOSE_TIMEOUT for everybody who still waits. */
  async #within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(this.#driver.abandon(timeoutMs)), timeoutMs);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

function closed(): WriteBarrierError {
  return new WriteBarrierError('CLOSED', 'the scheduler is closed');
}

/** @throws `INVALID_ARGUMENT` */
function newBuffer(length: number): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw new WriteBarrierError('INVALID_ARGUMENT', `no memory for ${length} bytes`, { cause });
  }
}

function queueFull(maxQueued: number, maxQueuedBytes: number): WriteBarrierError {
  const limits = `${maxQueued} requests or ${maxQueuedBytes} bytes`;
  return new WriteBarrierError('QUEUE_FULL', `the queue is full (${limits}); wait for ready()`);
}
