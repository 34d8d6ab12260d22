// The books about bytes: what is dirty, what is in doubt, and which failed writes nobody has answered for.
//
//   dirty    written since the last flush was issued; an issued flush takes the dirty bytes with it and
//            clears them when it succeeds
//   lost     in doubt since a flush failed; writing the bytes again takes them out, a later flush that
//            succeeds does not: the device may have dropped them in between
//   failed   writes that failed; the next barrier answers for them, unless the bytes were written again
//
// Nothing here decides; the state machine asks.

import type { ByteRange, Request } from '../model/index.js';
import type { Command, Entry } from './entry.js';
import { BarrierAbortedError, FlushFailedError } from './errors.js';
import { overlap, RangeSet } from './ranges.js';

interface Blame {
  readonly request: Request;
  readonly range: ByteRange;
  readonly cause: unknown;
}

/** How many failures are remembered one by one; the bytes of all are. */
const BLAMES_MAX = 64;

/** See the head of this file. */
export class Ledger<C> {
  #dirty = new RangeSet();
  readonly #covered = new Map<Command<C>, RangeSet>();
  readonly #lost = new RangeSet();
  readonly #failed = new RangeSet();
  #blames: Blame[] = [];
  #taint: (Pick<Blame, 'request' | 'cause'> & { readonly untilTicket: number }) | undefined;

  /** In doubt, in order. */
  get lost(): readonly ByteRange[] {
    return this.#lost.toArray();
  }

  /** A write has ended well. `forced`: it is on the medium. */
  wrote({ start, end }: ByteRange, forced: boolean): void {
    if (!forced) this.#dirty.add(start, end);
    if (!this.#lost.isEmpty) this.#lost.delete(start, end);
    if (!this.#failed.isEmpty) this.#failed.delete(start, end);
  }

  /** A write has failed; some of it may be in the cache. */
  writeFailed(request: Request, range: ByteRange, cause: unknown): void {
    this.#dirty.add(range.start, range.end);
    this.#failed.add(range.start, range.end);
    if (this.#blames.length < BLAMES_MAX) this.#blames.push({ request, range, cause });
  }

  flushIssued(command: Command<C>): void {
    this.#covered.set(command, this.#dirty);
    this.#dirty = new RangeSet();
  }

  /** A flush has ended. `remember`: what a failed one leaves in doubt is lost until it is written again. */
  flushEnded(command: Command<C>, cause: unknown, remember: boolean): FlushFailedError | undefined {
    const atRisk = this.#covered.get(command) ?? new RangeSet();
    this.#covered.delete(command);
    if (cause === undefined) return undefined;
    atRisk.addAll(this.#dirty);
    this.#dirty = atRisk;
    if (remember) this.#lost.addAll(atRisk);
    return new FlushFailedError([...atRisk.toArray()], cause);
  }

  /**
   * What a barrier has to answer for, when all that it covers has ended; with the answer the account is settled.
   * Failed bytes that the barrier writes itself are no reason: either it mends them or they stay failed.
   */
  answer(barrier: Entry<C>): BarrierAbortedError | undefined {
    const tainted = this.#taint && barrier.ticket < this.#taint.untilTicket;
    if (this.#failed.isEmpty && !tainted) return undefined;
    const ranges = [...this.#failed.toArray()];
    const others = new RangeSet();
    others.addAll(this.#failed);
    if (barrier.mutates) others.delete(barrier.start, barrier.end);
    if (others.isEmpty && !tainted) return undefined;
    const failed = others.toArray();
    // Of many failures only the first are remembered one by one; any of them is better than none.
    const first = this.#blames.find(({ range }) => failed.some((part) => overlap(part, range)));
    const blame = first ?? this.#blames.at(-1) ?? this.#taint;
    this.#failed.clear();
    this.#blames = [];
    return blame && new BarrierAbortedError(blame.request, ranges, blame.cause);
  }

  /** A barrier has failed: whoever submits before he can know it does so in the belief that it has not. */
  barrierFailed(barrier: Entry<C>, error: unknown): void {
    const request = error instanceof BarrierAbortedError ? error.blame : barrier.request;
    this.#taint = { request, cause: error, untilTicket: Number.POSITIVE_INFINITY };
  }

  /** The failure of barriers is known to those who submit `nextTicket` and later ones. */
  acknowledged(nextTicket: number): void {
    if (this.#taint?.untilTicket === Number.POSITIVE_INFINITY) {
      this.#taint = { ...this.#taint, untilTicket: nextTicket };
    }
  }
}
