// What is on the medium, in ranges of bytes: which bytes are dirty, which are at risk, and which writes failed.
//
//   dirty    written since the last flush was issued. An issued flush takes the dirty bytes with it, and clears them when it
//            succeeds
//   at risk  a flush that held them failed. Writing the bytes again takes them out; a later flush that succeeds does not,
//            because the device may have dropped them in between
//   failed   writes that failed. The next barrier fails because of them, except where their bytes have been written again. A
//            failure is `reported` when a barrier has failed because of it; it is forgotten when the client can know
//
//   U1  The device may run two flushes in any order, so the bytes that one of them covers are durable only when both have
//       succeeded.
//   U2  A failed flush is one error object until its ranges change, and its callers share it.
//
// The state machine decides what follows from it. A set of ranges may contain too many bytes, because thousands of ranges are
// joined across small gaps, and because bytes that a forced write replaces stay dirty until a flush succeeds: to take them out
// would cost every forced write a search through the set. It never misses a byte.

import { type ByteRange, invariant, type Request } from '../model/index.js';
import type { Command, Entry } from './entry.js';
import { atRiskOf, BarrierAbortedError, FlushFailedError } from './errors.js';

interface Failure {
  readonly request: Request;
  readonly cause: unknown;
  /** What has not been written again. */
  readonly bytes: RangeSet;
  isReported: boolean;
}

/** How many failures are kept apart. The bytes of further ones are added to the last. */
const FAILURES_MAX = 64;

/** Tracks which bytes are dirty, which are at risk, and which writes failed. */
export class Durability<C> {
  #dirty = new RangeSet();
  readonly #covered = new Map<Command<C>, RangeSet>();
  readonly #atRisk = new RangeSet();
  #failures: Failure[] = [];
  readonly #abort: boolean;
  /** Why a flush failed, until recover(). */
  #cause: unknown;
  #failure: FlushFailedError | undefined;

  /** @param abort remember failed flushes and failed writes; without it they are reported once */
  constructor(abort: boolean) {
    this.#abort = abort;
  }

  /** A flush has failed, and recover() has not been called. */
  get hasFailed(): boolean {
    return this.#cause !== undefined;
  }

  /** The error of the failed flush, with all bytes at risk now (U2). */
  get failure(): FlushFailedError {
    this.#failure ??= new FlushFailedError([...this.atRisk], this.#cause);
    return this.#failure;
  }

  /** The bytes at risk, in order. */
  get atRisk(): readonly ByteRange[] {
    return this.#atRisk.toArray();
  }

  /** Whether any of these bytes is at risk. */
  isAtRisk(range: ByteRange): boolean {
    return this.#atRisk.touches(range);
  }

  /** A write has succeeded. `forced`: it is on the medium. */
  wrote(range: ByteRange, forced: boolean): void {
    if (!forced) this.#dirty.add(range);
    // The write was at the device when the flush failed, so the flush may have covered it; and a forced one may be older than
    // the bytes that the flush lost, because a tag orders them.
    if (this.hasFailed) {
      if (!forced) this.#changeAtRisk().add(range);
    } else if (!this.#atRisk.isEmpty) this.#changeAtRisk().delete(range);
    if (this.#failures.length === 0) return;
    for (const { bytes } of this.#failures) bytes.delete(range);
    this.#failures = this.#failures.filter(({ bytes }) => !bytes.isEmpty);
  }

  /** A write has failed. Some of its bytes may be in the cache. */
  writeFailed(request: Request, range: ByteRange, cause: unknown): void {
    this.#dirty.add(range);
    if (this.hasFailed) this.#changeAtRisk().add(range);
    if (!this.#abort) return;
    let last = this.#failures.at(-1);
    if (!last || last.isReported || this.#failures.length < FAILURES_MAX) {
      last = { request, cause, bytes: new RangeSet(), isReported: false };
      this.#failures.push(last);
    }
    last.bytes.add(range);
  }

  /** A flush is issued: it covers the dirty bytes. */
  flushIssued(command: Command<C>): void {
    this.#covered.set(command, this.#dirty);
    this.#dirty = new RangeSet();
  }

  /** A flush has completed (U1); returns its error, if it failed. */
  flushEnded(command: Command<C>, cause: unknown): FlushFailedError | undefined {
    const held = this.#covered.get(command);
    invariant(held !== undefined, 'durability.U1');
    this.#covered.delete(command);
    if (cause === undefined) {
      for (const other of this.#covered.values()) other.addAll(held);
      return undefined;
    }
    held.addAll(this.#dirty);
    for (const range of atRiskOf(cause)) held.add(range);
    this.#dirty = held;
    if (!this.#abort) return new FlushFailedError([...held.toArray()], cause);
    this.#cause ??= cause;
    const atRisk = this.#changeAtRisk();
    for (const set of [held, ...this.#covered.values()]) atRisk.addAll(set);
    return this.failure;
  }

  /** Forgets the failed flush. Its ranges stay at risk until they are written. */
  recover(): void {
    this.#cause = undefined;
    this.#failure = undefined;
  }

  /**
   * Call it when all writes that the barrier covers have completed. Returns the error if one of them failed, otherwise
   * undefined: the barrier may be written. Failed bytes that the barrier itself writes do not count, because either it
   * replaces them, or they stay failed.
   */
  answerFor(barrier: Entry<C>): BarrierAbortedError | undefined {
    const isLeft = ({ start, end }: ByteRange): boolean =>
      start < barrier.start || end > barrier.end;
    const blame = this.#failures.find(({ bytes }) => bytes.toArray().some(isLeft));
    if (!blame) return undefined;
    this.reportFailures();
    const all = new RangeSet();
    for (const { bytes } of this.#failures) all.addAll(bytes);
    return new BarrierAbortedError(blame.request, [...all.toArray()], blame.cause);
  }

  /** A barrier has failed because of the failures so far. */
  reportFailures(): void {
    for (const failure of this.#failures) failure.isReported = true;
  }

  /** Every client whose barrier failed has seen the rejection. */
  acknowledge(): void {
    this.#failures = this.#failures.filter(({ isReported }) => !isReported);
  }

  /** The bytes at risk, to change them: the next error is another one, because it names other ranges (U2). */
  #changeAtRisk(): RangeSet {
    this.#failure = undefined;
    return this.#atRisk;
  }
}

const ADDED_MAX = 1024;
const RANGES_MAX = 4096;

/**
 * A set of bytes. Adding only appends, so that a write costs little; the ranges are sorted and joined when the set is read,
 * and after every ADDED_MAX additions. Above RANGES_MAX ranges, neighbours are joined across their gaps, small gaps first.
 */
export class RangeSet {
  #ranges: ByteRange[] = [];
  #added: { readonly start: number; end: number }[] = [];

  get isEmpty(): boolean {
    return this.#ranges.length + this.#added.length === 0;
  }

  add({ start, end }: ByteRange): void {
    const last = this.#added.at(-1);
    // Logs write one range after the other.
    if (last?.end === start) last.end = end;
    else if (this.#added.push({ start, end }) === ADDED_MAX) this.#join();
  }

  addAll(other: RangeSet): void {
    for (const range of other.toArray()) this.add(range);
  }

  delete(gone: ByteRange): void {
    // A loop, because there may be thousands of ranges, and a write at any of them comes here.
    const kept: ByteRange[] = [];
    for (const { start, end } of this.toArray()) {
      if (start < gone.start) kept.push({ start, end: Math.min(end, gone.start) });
      if (end > gone.end) kept.push({ start: Math.max(start, gone.end), end });
    }
    // Beyond RANGES_MAX the bytes stay in the set, because too many bytes are safe and too many ranges are not.
    if (kept.length <= RANGES_MAX) this.#ranges = kept;
  }

  /** Whether it has any of these bytes. */
  touches(bytes: ByteRange): boolean {
    return this.toArray().some((range) => overlap(range, bytes));
  }

  /** The ranges in order; no two touch or overlap. */
  toArray(): readonly ByteRange[] {
    this.#join();
    return this.#ranges;
  }

  #join(): void {
    if (this.#added.length === 0) return;
    const all = [...this.#ranges, ...this.#added];
    this.#added = [];
    this.#ranges = join(
      all.sort((a, b) => a.start - b.start),
      0,
    );
    for (let gapMax = 512; this.#ranges.length > RANGES_MAX; gapMax *= 2) {
      this.#ranges = join(this.#ranges, gapMax);
    }
  }
}

/** Joins sorted ranges whose gap is at most `gapMax` bytes. */
function join(sorted: readonly ByteRange[], gapMax: number): ByteRange[] {
  const joined: ByteRange[] = [];
  for (const range of sorted) {
    const last = joined.at(-1);
    if (last && range.start - last.end <= gapMax) {
      joined[joined.length - 1] = { start: last.start, end: Math.max(last.end, range.end) };
    } else {
      joined.push(range);
    }
  }
  return joined;
}

/** Whether the ranges have a byte in common. */
export function overlap(a: ByteRange, b: ByteRange): boolean {
  return a.start < b.end && b.start < a.end;
}
