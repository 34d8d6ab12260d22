// The books about bytes: what is dirty, what is in doubt, and which failed writes nobody has answered for.
//
//   dirty    written since the last flush was issued; an issued flush takes the dirty bytes with it and
//            clears them when it succeeds
//   lost     in doubt since a flush failed; writing the bytes again takes them out, a later flush that
//            succeeds does not: the device may have dropped them in between
//   failed   writes that failed; the next barrier answers for them, unless the bytes are written again. `told`
//            once one has answered, until those who submit barriers know
//
// Nothing here decides; the state machine asks.

import type { ByteRange, Request } from '../model/index.js';
import type { Command, Entry } from './entry.js';
import { BarrierAbortedError, FlushFailedError } from './errors.js';
import { RangeSet } from './ranges.js';

interface Failure {
  readonly request: Request;
  readonly cause: unknown;
  /** What has not been written again. */
  readonly bytes: RangeSet;
  told: boolean;
}

/** How many failures are kept apart; the bytes of later ones are put down to the last. */
const FAILURES_MAX = 64;

/** See the head of this file. */
export class Ledger<C> {
  #dirty = new RangeSet();
  readonly #covered = new Map<Command<C>, RangeSet>();
  readonly #lost = new RangeSet();
  #failures: Failure[] = [];
  readonly #abort: boolean;
  /** The flush that failed, until somebody forgives it. */
  #cause: { readonly cause: unknown } | undefined;

  /** `abort`: a failed flush is remembered, and what it left in doubt; so are failed writes, for the next barrier. */
  constructor(abort: boolean) {
    this.#abort = abort;
  }

  /** A flush has failed, and nobody has forgiven it. */
  get failed(): boolean {
    return this.#cause !== undefined;
  }

  /** The flush that failed, with all that is in doubt by now. */
  get failure(): FlushFailedError {
    return new FlushFailedError([...this.lost], this.#cause?.cause);
  }

  /** In doubt, in order. */
  get lost(): readonly ByteRange[] {
    return this.#lost.toArray();
  }

  /** A write has ended well. `forced`: it is on the medium. */
  wrote({ start, end }: ByteRange, forced: boolean): void {
    if (!forced) this.#dirty.add(start, end);
    // It was at the device when the flush failed, and nobody knows which came first.
    if (this.failed && !forced) this.#lost.add(start, end);
    else if (!this.#lost.isEmpty) this.#lost.delete(start, end);
    if (this.#failures.length === 0) return;
    for (const { bytes } of this.#failures) bytes.delete(start, end);
    this.#failures = this.#failures.filter(({ bytes }) => !bytes.isEmpty);
  }

  /** A write has failed; some of it may be in the cache. */
  writeFailed(request: Request, { start, end }: ByteRange, cause: unknown): void {
    this.#dirty.add(start, end);
    if (!this.#abort) return;
    let last = this.#failures.at(-1);
    if (!last || last.told || this.#failures.length < FAILURES_MAX) {
      last = { request, cause, bytes: new RangeSet(), told: false };
      this.#failures.push(last);
    }
    last.bytes.add(start, end);
  }

  flushIssued(command: Command<C>): void {
    this.#covered.set(command, this.#dirty);
    this.#dirty = new RangeSet();
  }

  /**
   * A flush has ended. Of two at the device nobody knows which came first: what one of them held is not certain
   * before both have succeeded.
   */
  flushEnded(command: Command<C>, cause: unknown): FlushFailedError | undefined {
    const held = this.#covered.get(command) as RangeSet;
    this.#covered.delete(command);
    if (cause === undefined) {
      for (const other of this.#covered.values()) other.addAll(held);
      return undefined;
    }
    held.addAll(this.#dirty);
    this.#dirty = held;
    if (!this.#abort) return new FlushFailedError([...held.toArray()], cause);
    this.#lost.addAll(held);
    for (const other of this.#covered.values()) this.#lost.addAll(other);
    this.#cause ??= { cause };
    return this.failure;
  }

  /** Whoever answers for what is in doubt goes on. */
  forgive(): void {
    this.#cause = undefined;
  }

  /**
   * What a barrier has to answer for, when all that it covers has ended. Failed bytes that the barrier writes
   * itself are no reason: either it mends them or they stay failed.
   */
  answer(barrier: Entry<C>): BarrierAbortedError | undefined {
    const isLeft = ({ start, end }: ByteRange): boolean =>
      start < barrier.start || end > barrier.end;
    const blame = this.#failures.find(({ bytes }) => bytes.toArray().some(isLeft));
    if (!blame) return undefined;
    this.answered();
    const all = new RangeSet();
    for (const { bytes } of this.#failures) all.addAll(bytes);
    return new BarrierAbortedError(blame.request, [...all.toArray()], blame.cause);
  }

  /** A barrier has failed because of what has failed so far. */
  answered(): void {
    for (const failure of this.#failures) failure.told = true;
  }

  /** Those who submit barriers know of the failures for which there was an answer. */
  acknowledged(): void {
    this.#failures = this.#failures.filter(({ told }) => !told);
  }
}
