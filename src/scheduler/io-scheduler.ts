// The scheduler that users hold, in three layers:
//
//   IoScheduler   checks every call, chooses the mode, closes the storage
//   Driver        promises and the storage: events in, commands out
//   Ordering      which command may be issued now, and which request is settled: no promise, no clock, no storage
//
//   N1  A call that rejects at once has queued nothing.
//   N2  An accepted call settles exactly once: with its outcome, with the reason of its signal, or with CLOSE_TIMEOUT if the
//       storage has not answered within the limit given to `close()`.
//   N3  One scheduler at a time has unanswered requests at a storage (ownership.ts), because two do not know of each other's
//       commands, and neither could keep an order.

import { Driver, dataOf } from '../machine/driver.js';
import {
  type ByteRange,
  checkOptions,
  chooseMode,
  type Guarantees,
  guarantees,
  isBarrier,
  isBytes,
  type ModeName,
  misuse,
  type Request,
  resizeOf,
  unreadable,
  unsupported,
  WriteBarrierError,
  type WriteRequest,
  withText,
} from '../model/index.js';
import { checkSize, checkStorage } from '../storage/checks.js';
import type { Capabilities, Extent, Storage } from '../storage/index.js';
import { bytesOf, performStatus, performWhole } from '../storage/perform.js';
import { asStorage } from './as-storage.js';
import { calledAt, callSite, type SchedulerCall, Signals } from './caller.js';
import { never, within } from './closing.js';
import type { Command, Entry } from './entry.js';
import { CloseTimeoutError, UnsafeModeError } from './errors.js';
import {
  CLOSE_OPTIONS,
  checkData,
  checkRequest,
  NO_OPTIONS,
  type RequestOptions,
  SCHEDULER_OPTIONS,
  type SchedulerOptions,
  type SchedulerStats,
  type WriteOptions,
} from './options.js';
import { Ordering } from './ordering.js';
import { claim, type Ownership, ownershipOf } from './ownership.js';
import { payloadOf } from './queue.js';

/**
 * Issues requests to a storage in an order that keeps the promise of a mode.
 *
 * Every method checks its arguments and rejects at once, with a stable `code` and nothing queued:
 * `INVALID_ARGUMENT`, `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `CLOSED`, `QUEUE_FULL`; `STORAGE_IN_USE` while another
 * scheduler has unanswered requests at the storage; `FAILED` or `READ_AT_RISK` after a failed flush. A failed command rejects
 * with `IO_FAILED` (see `cause`) or `SHORT_TRANSFER`.
 *
 * @see Linux 2.6.36 block/blk-barrier.c and Documentation/block/barrier.txt
 */
export class IoScheduler implements AsyncDisposable {
  readonly #storage: Storage;
  readonly #ordering: Ordering<SchedulerCall>;
  readonly #driver: Driver<SchedulerCall, Command<SchedulerCall>, Entry<SchedulerCall>>;
  readonly #ownership: Ownership;
  readonly #signals = new Signals<Entry<SchedulerCall>>((entries) => {
    for (const entry of entries) this.#ordering.cancel(entry);
    this.#driver.pump();
  });
  readonly #allowUnsafe: boolean | undefined;
  readonly #maxQueued: number;
  readonly #maxQueuedBytes: number;
  readonly #stackTraces: boolean | undefined;
  /** Issues at once; or, if the storage gathers, when this turn has submitted all that it will: there is nothing to gather before. */
  readonly #issueSoon: () => void;
  #guarantees: Guarantees;
  /** Resizes that are not settled, and the size that the last one makes. */
  #resizes = 0;
  #sizeToBe = 0;
  #lastResize: Promise<void> = DONE;
  #closing: Promise<void> | undefined;

  /**
   * @throws `INVALID_STORAGE` for a storage that contradicts itself
   * @throws `INVALID_ARGUMENT` for an unknown option or one out of range, `EINVAL` for an unknown mode
   * @throws `UNSAFE_MODE` if the mode does not keep its promise on this storage and `allowUnsafe` is not set
   */
  constructor(storage: Storage, options: SchedulerOptions = {}) {
    checkStorage(storage);
    checkOptions(options, SCHEDULER_OPTIONS, 'IoScheduler');
    this.#storage = storage;
    this.#allowUnsafe = options.allowUnsafe;
    this.#maxQueued = options.maxQueued ?? 65_536;
    this.#maxQueuedBytes = options.maxQueuedBytes ?? 256 * 1024 * 1024;
    this.#stackTraces = options.stackTraces;
    const { gathers } = storage.capabilities;
    let isPlugged = false;
    const issue = (): void => {
      isPlugged = false;
      this.#driver.pump();
    };
    // One microtask for all requests of a turn, and that of a promise, because `queueMicrotask` makes objects for each.
    const issueLater = (): void => {
      if (!isPlugged) void DONE.then(issue);
      isPlugged = true;
    };
    this.#issueSoon = gathers ? issueLater : issue;
    this.#guarantees = this.#acceptable(options.mode ?? 'auto');
    this.#ordering = new Ordering({
      mode: this.#guarantees.mode,
      device: storage.capabilities,
      depth: options.depth ?? 32,
      errorPolicy: options.errorPolicy ?? 'abort',
      readsPassBarriers: options.readsPassBarriers ?? true,
      readAtRisk: options.readAtRisk ?? false,
      // Otherwise its own command fails, and no other write may fail with it.
      mayGather: gathers ? ({ data, request }) => bytesOf(data) === payloadOf(request) : undefined,
      splitsZeroes: !storage.capabilities.writeZeroes,
      releaseData,
    });
    this.#driver = new Driver(this.#ordering, {
      execute: (command, issuer) => {
        const { what, served } = command;
        const [first] = served;
        if (first && 'status' in first.request) return performStatus(storage, what, first.client);
        // Most commands serve one request, and then no list of its data is made.
        const data = served.length > 1 ? dataOf(command.clients) : first?.client.data;
        return performWhole(storage, what, data, issuer);
      },
      // The machine settles nothing but its own entries.
      answer: (settled) => this.#answer(settled as Entry<SchedulerCall>),
      observer: options.observer,
      name: 'a scheduler',
      blockSize: storage.capabilities.blockSize,
    });
    this.#ownership = ownershipOf(storage);
    withText(this, () => this.#text());
  }

  /** The mode that the next barrier follows. */
  get mode(): ModeName {
    return this.#guarantees.mode;
  }

  /** What the mode promises on this storage. */
  get guarantees(): Guarantees {
    return this.#guarantees;
  }

  /** The size of the storage in bytes, after all resizes that were submitted. If one fails, it is the real one once all have settled. */
  get size(): number {
    return this.#resizes > 0 ? this.#sizeToBe : this.#storage.size;
  }

  /** The capabilities of the storage. */
  get capabilities(): Capabilities {
    return this.#storage.capabilities;
  }

  /**
   * `failed`: a flush has failed. Until `recover()` only reads of bytes that are not in `atRisk` are served.
   */
  get state(): 'running' | 'failed' | 'closed' {
    if (this.#closing) return 'closed';
    return this.#ordering.failed ? 'failed' : 'running';
  }

  /**
   * The bytes that a failed flush may have lost, and that have not been written again. After writing them, flush. Empty with the
   * error policy `kernel`, which does not track them.
   */
  get atRisk(): readonly ByteRange[] {
    return [...this.#ordering.atRisk];
  }

  /**
   * Reads `length` bytes into a new buffer, or fills the given one. It sees every write that was submitted before.
   *
   * @param offset bytes from the start, a multiple of `capabilities.blockSize`; so is the length
   */
  read(
    offset: number,
    lengthOrBuffer: number | Uint8Array,
    options: RequestOptions = NO_OPTIONS,
  ): Promise<Uint8Array> {
    try {
      const into = isBytes(lengthOrBuffer) ? lengthOrBuffer : undefined;
      const length = into ? into.byteLength : (lengthOrBuffer as number);
      return this.#submit({ kind: 'read', offset, length }, into, options);
    } catch (cause) {
      return Promise.reject(unreadable(cause));
    }
  }

  /**
   * Writes `data`, one buffer or several that follow each other. Settles when the storage has taken the data, which
   * is not yet durability. The buffers are not copied, so do not change them until then.
   *
   * With `barrier`, everything submitted earlier is ordered before this write and everything later after it;
   * what that means for the medium is `guarantees`.
   *
   * @throws `EOPNOTSUPP` for `barrier` in mode NONE, and for flags that the storage cannot honour because it has no flush;
   * nothing of the data has been written
   * @throws `BARRIER_ABORTED` if a covered write failed (error policy `abort`, drain modes); nothing has been written
   * @throws `FLUSH_FAILED` if a flush that the request needs failed; the error names the bytes at risk
   */
  write(
    offset: number,
    data: Uint8Array | readonly Uint8Array[],
    options: WriteOptions = NO_OPTIONS,
  ): Promise<void> {
    try {
      // The list is copied, the buffers are not.
      const payload = Array.isArray(data) ? data.slice() : data;
      const length = checkData(payload);
      const { barrier, preflush, fua } = options ?? NO_OPTIONS;
      const request: { -readonly [K in keyof WriteRequest]: WriteRequest[K] } = {
        kind: 'write',
        offset,
        length,
      };
      if (barrier) request.barrier = true;
      if (preflush) request.preflush = true;
      if (fua) request.fua = true;
      return this.#submit(request, payload, options);
    } catch (cause) {
      return Promise.reject(unreadable(cause));
    }
  }

  /** An empty barrier: an ordering point, and a flush if the mode flushes. It rejects as `write` does. */
  barrier(options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'barrier' }, undefined, options);
  }

  /**
   * Makes every write that was submitted before durable, and delays no other request. Concurrent flushes share a device flush.
   *
   * @throws `FLUSH_FAILED` with the bytes at risk; `EOPNOTSUPP` if the cache is volatile and the storage has no flush
   */
  flush(options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'flush' }, undefined, options);
  }

  /** Discards the bytes: they may read as anything until they are written again. Without `discard` the storage is not called. */
  discard(offset: number, length: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'discard', offset, length }, undefined, options);
  }

  /** Makes the bytes read as zero. If the storage has no `writeZeroes`, zeroes are written. */
  writeZeroes(offset: number, length: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    return this.#submit({ kind: 'writeZeroes', offset, length }, undefined, options);
  }

  /**
   * What the storage knows of the bytes, without reading them: extents from `offset` on, which may end before the range does.
   * It waits for every write to these bytes that was submitted before, as a read does, so none of them is called a hole. Without
   * `blockStatus` the answer is one extent of which nothing is known.
   */
  blockStatus(
    offset: number,
    length: number,
    options: RequestOptions = NO_OPTIONS,
  ): Promise<readonly Extent[]> {
    return this.#submit({ kind: 'read', offset, length, status: true }, NO_BYTES, options);
  }

  /**
   * Changes the size of the storage. What it adds reads as zero, what it cuts off is gone. It has the place of a write in every
   * order, so a flush makes it durable, and what is submitted after it may use what it adds: `size` is the new one at once.
   *
   * If it fails or is cancelled, those that were submitted after it fail as well, because they begin at a size that does not come.
   *
   * @param size in bytes, a multiple of `capabilities.blockSize`; 0 is allowed
   * @throws `EOPNOTSUPP` if the storage has no `resize`; nothing has changed
   */
  resize(size: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    try {
      const storage = this.#storage;
      checkSize(storage, size);
      if (!storage.resize) throw unsupported('a resize');
      return this.#submit(resizeOf(this.size, size), undefined, options);
    } catch (cause) {
      return Promise.reject(unreadable(cause));
    }
  }

  /** Settles when no request is queued and no command is at the storage. */
  idle(): Promise<void> {
    return this.#driver.idle();
  }

  /** Settles when the queue is at most half full. Wait for it before you submit more. */
  ready(): Promise<void> {
    return this.#driver.until(this.#hasRoom);
  }

  /**
   * Changes the mode. Barriers that are under way keep the old one.
   *
   * @throws `UNSAFE_MODE` and `EINVAL` as the constructor does; the mode is then unchanged
   */
  setMode(mode: ModeName | 'auto'): void {
    this.#guarantees = this.#acceptable(mode);
    this.#ordering.setMode(this.#guarantees.mode);
    this.#driver.pump();
  }

  /**
   * Accepts requests again after a failed flush. It waits until only reads are at the storage, and answers with the bytes at
   * risk: write them again, from a source that has them. A later flush that succeeds does not make them safe.
   */
  async recover(): Promise<readonly ByteRange[]> {
    if (this.#closing) throw closed();
    if (this.#ordering.failed) {
      await this.#driver.until(() => this.#ordering.recoverable);
      if (this.#ordering.failed) this.#ordering.recover();
    }
    return this.atRisk;
  }

  /** What the scheduler is doing, and has done. */
  stats(): SchedulerStats {
    const { queued, queuedBytes, barriersPending, counters } = this.#ordering;
    const { inFlight, submitted, settled, observerErrors } = this.#driver;
    return {
      ...structuredClone(counters),
      queued,
      queuedBytes,
      inFlight,
      barriersPending,
      submitted,
      settled,
      observerErrors,
    };
  }

  /**
   * Accepts no more requests, completes the queued ones, flushes, and closes the storage. A second call waits for the same.
   *
   * @throws `FLUSH_FAILED` or `FAILED` if something may be lost; the storage is closed nevertheless
   * @throws `STORAGE_IN_USE` while another scheduler has unanswered requests at the storage, which is left open
   * @throws `CLOSE_TIMEOUT` with the commands that the storage has not answered within `timeoutMs`. Requests that wait for
   * them reject with the same error, and the storage stays open, because closing it under a running command is worse
   */
  async close(
    options: {
      /**
       * How long to wait for the storage, in milliseconds.
       *
       * @defaultValue no limit
       */
      readonly timeoutMs?: number | undefined;
    } = {},
  ): Promise<void> {
    checkOptions(options, CLOSE_OPTIONS, 'close');
    const { timeoutMs } = options;
    const site = this.#stackTraces ? callSite(callSite) : undefined;
    this.#closing ??= this.#close();
    try {
      await within(timeoutMs, this.#closing, (limit) => this.#abandon(limit));
    } catch (error) {
      throw site ? calledAt(error, site) : error;
    }
  }

  /** The same as `close()` without a limit of time, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * The scheduler as a storage, for another scheduler above it. A write or flush with an ordered tag becomes a barrier, so a
   * tag mode above works over every mode of this scheduler except NONE.
   */
  asStorage(): Storage {
    return asStorage(this, this.#storage);
  }

  #text(): string {
    const doing = `${this.state}, ${this.#ordering.queued} queued, ${this.#driver.inFlight} at the storage`;
    return `IoScheduler { ${this.mode} on ${this.size} bytes, ${doing} }`;
  }

  #acceptable(mode: ModeName | 'auto'): Guarantees {
    const { capabilities } = this.#storage;
    const promise = guarantees(mode === 'auto' ? chooseMode(capabilities) : mode, capabilities);
    if (promise.verdict === 'unsafe' && !this.#allowUnsafe) throw new UnsafeModeError(promise);
    return promise;
  }

  // Requests

  /** @param data what to write, or the buffer to read into; a read without one gets a new buffer */
  #submit<T extends Uint8Array | readonly Extent[] | void>(
    request: Request,
    data: SchedulerCall['data'],
    options: RequestOptions,
  ): Promise<T> {
    try {
      checkRequest(request, options, this);
      const { signal } = options;
      if (this.#closing) throw closed();
      if (signal?.aborted) return Promise.reject(signal.reason);
      // Nothing is to be done, but the size may be yet to come.
      if ('size' in request && request.length === 0) {
        return (this.#resizes > 0 ? this.#lastResize : DONE) as Promise<T>;
      }
      if (!this.#fits(request)) {
        throw new WriteBarrierError(
          'QUEUE_FULL',
          `the queue is full (${this.#maxQueued} requests or ${this.#maxQueuedBytes} bytes); wait for ready()`,
        );
      }
      claim(this.#ownership, this.#isBusy);
      const site = this.#stackTraces ? callSite(this.#submit) : undefined;
      const buffer = data ?? (request.kind === 'read' ? newBuffer(request.length) : undefined);
      return this.#accept(request, buffer, signal, site);
    } catch (cause) {
      return Promise.reject(unreadable(cause));
    }
  }

  /** Queues a request. If adding a listener to the signal throws, it rejects, and nothing is queued. */
  #accept<T>(
    request: Request,
    data: SchedulerCall['data'],
    signal?: AbortSignal,
    site?: SchedulerCall['site'],
  ): Promise<T> {
    const settled = new Promise<T>((resolveAny, reject) => {
      const resolve = resolveAny as SchedulerCall['resolve'];
      const watched = signal && this.#signals.watch(signal);
      const entry = this.#driver.enter({ number: 0, request, data, resolve, reject, signal, site });
      watched?.add(entry);
      if ('size' in request) {
        this.#resizes += 1;
        this.#sizeToBe = request.size as number;
      }
      this.#issueSoon();
    });
    if ('size' in request) this.#lastResize = settled as Promise<void>;
    return settled;
  }

  #answer(entry: Entry<SchedulerCall>): void {
    const { client, request, error, cancelled } = entry;
    const { resolve, reject, data, signal, site } = client;
    if (signal) this.#signals.forget(signal, entry);
    if ('size' in request) this.#resizes -= 1;
    if (error !== undefined && isBarrier(request)) {
      // Clients see the rejection in a microtask. Barriers submitted after it are not tied to this failure.
      queueMicrotask(() => this.#ordering.acknowledge());
    }
    client.data = undefined; // The driver may keep the request.
    if (cancelled) reject(this.#signals.reason(signal as AbortSignal));
    else if (error !== undefined) reject(site ? calledAt(error, site) : error);
    else if (request.kind === 'read') resolve(data as Uint8Array);
    else resolve();
  }

  #fits(request: Request): boolean {
    const { queued, queuedBytes } = this.#ordering;
    if (queued >= this.#maxQueued) return false;
    return queued === 0 || queuedBytes + payloadOf(request) <= this.#maxQueuedBytes;
  }

  // Conditions to wait for

  /** A request or a command is unanswered. */
  readonly #isBusy = (): boolean => !this.#driver.isIdle;
  readonly #hasRoom = (): boolean => {
    const { queued, queuedBytes } = this.#ordering;
    return queued * 2 <= this.#maxQueued && queuedBytes * 2 <= this.#maxQueuedBytes;
  };

  // Closing

  async #close(): Promise<void> {
    // A storage that has unanswered commands stays open, those of another scheduler as well as ours.
    claim(this.#ownership, this.#isBusy);
    const { cache, flush } = this.#storage.capabilities;
    const needsFlush = cache === 'volatile' && flush;
    const last = needsFlush ? this.#accept<void>({ kind: 'flush' }, undefined) : undefined;
    const drained = await Promise.allSettled([last, this.idle()]);
    const closed = await Promise.allSettled([this.#closeStorage()]);
    // Of several failures the first is reported, because it names the bytes at risk.
    for (const end of [...drained, ...closed]) if (end.status === 'rejected') throw end.reason;
  }

  async #closeStorage(): Promise<void> {
    // A storage that has not answered stays open, because closing it under a running command is worse.
    if (this.#driver.abandoned) return;
    // Another scheduler may have claimed it since our last request was answered.
    claim(this.#ownership, this.#isBusy);
    // `until` rejects when the storage is given up.
    await Promise.race([this.#storage.close(), this.#driver.until(never)]);
  }

  /** Gives up on the commands that the storage has not answered, and rejects all requests. */
  #abandon(timeoutMs: number): unknown {
    if (this.#driver.abandoned) return this.#driver.abandoned;
    const hanging = Array.from(this.#ordering.running, ({ what: { op, offset, length } }) => ({
      op,
      offset,
      length,
    }));
    const error = new CloseTimeoutError(timeoutMs, hanging);
    this.#driver.abandon(error);
    return error;
  }
}

const DONE = Promise.resolve();
const NO_BYTES = new Uint8Array(0);

function releaseData(call: SchedulerCall): void {
  call.data = undefined;
}

function closed(): WriteBarrierError {
  return new WriteBarrierError('CLOSED', 'the scheduler is closed');
}

/** @throws `INVALID_ARGUMENT` */
function newBuffer(length: number): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw misuse(`cannot allocate ${length} bytes`, { cause });
  }
}
