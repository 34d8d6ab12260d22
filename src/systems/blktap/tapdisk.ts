// Barriers out of plain file operations: what the patch for tapdisk (the user-space half of Xen's blktap) did in
// November 2010. A file has no barrier, so the process waits:
//
//   all before it complete ─▶ fsync ─▶ write ─▶ its completion ─▶ fsync ─▶ whatever comes later
//
// There are two contexts. In the asynchronous one requests are handed to the kernel as they come, and a barrier first
// sends off what is still queued and then waits for all of it. In the synchronous one a request is over before the
// next is looked at, so there is nobody to wait for; that is a depth of one, and no other code.
//
// The queue is first in, first out, and knows no promise and no file; `start` and `end` are all there is to it:
//   B1  While a barrier runs, its call is the only one.
//   B2  A barrier starts when everything before it has completed, well or badly.
//   B3  Requests start in the order of submission.
//
// The patch itself was an attachment, and only the mail is left. The mail has no word about an fsync that fails: the
// profile takes it that the barrier then fails and ends, and `ignoresSyncErrors` shows what becomes of data where
// nobody looks. It has no word about a barrier without data either; that is refused.
//
// Not here: barriers for your own file (file-barriers.ts); reads and writes that overlap, which no layer here keeps
// apart.
//
// Source: "[PATCH] blktap: handle barrier I/O request" (xen-devel, 3 November 2010).

import {
  isBarrier,
  type Observer,
  type Request,
  type Storage,
  WriteBarrierError,
} from 'write-barrier';
import { type Asked, type CallOutcome, TracedDisk } from '../traced-disk.js';

/** What tapdisk does not do. */
export interface TapdiskProfile {
  /** Before the patch: a barrier cannot be handled. */
  readonly refusesBarriers: boolean;
  /** Nobody looks at what fsync answers. Whether the patch did the mail does not say. */
  readonly ignoresSyncErrors: boolean;
  /** A barrier waits for the completion of what is before it, and not for its success. */
  readonly acceptsEarlierFailures: boolean;
}

/** tapdisk before the patch. */
export const TAPDISK_BEFORE: TapdiskProfile = Object.freeze({
  refusesBarriers: true,
  ignoresSyncErrors: false,
  acceptsEarlierFailures: true,
});

/** tapdisk with the patch, as its mail describes it. */
export const TAPDISK_2010: TapdiskProfile = Object.freeze({
  refusesBarriers: false,
  ignoresSyncErrors: false,
  acceptsEarlierFailures: true,
});

/** The same with nothing left to wish for. */
export const TAPDISK_REPAIRED: TapdiskProfile = Object.freeze({
  refusesBarriers: false,
  ignoresSyncErrors: false,
  acceptsEarlierFailures: false,
});

/** Options of a disk. */
export interface TapdiskOptions {
  /** `TAPDISK_2010` unless given. */
  readonly profile?: TapdiskProfile;
  /** `aio` unless given. */
  readonly context?: 'aio' | 'sync';
  /** Requests at the kernel at once in the `aio` context, 1 or more; 32 unless given. */
  readonly depth?: number;
  /** Is told every event. */
  readonly observer?: Observer;
}

interface Call {
  readonly op: 'transfer' | 'fdatasync';
  readonly stage: 'plain' | 'preflush' | 'bar' | 'postflush';
}

interface Entry<R> {
  readonly request: R;
  readonly barrier: boolean;
  readonly mutates: boolean;
  /** How many failures had been reported when it was submitted. */
  readonly failuresKnown: number;
  /** What is left to do, the call that is under way first. */
  calls: readonly Call[];
  outcome: CallOutcome;
}

const PLAIN: readonly Call[] = [{ op: 'transfer', stage: 'plain' }];
const BARRIER: readonly Call[] = [
  { op: 'fdatasync', stage: 'preflush' },
  { op: 'transfer', stage: 'bar' },
  { op: 'fdatasync', stage: 'postflush' },
];
/** It keeps its place in the order, and its data is not written. */
const ABORTED: readonly Call[] = [{ op: 'fdatasync', stage: 'preflush' }];

/** The queue, without promises and I/O. `R` is whatever the driver wants to find again. */
class Queue<R> {
  readonly #profile: TapdiskProfile;
  readonly #depth: number;
  readonly #waiting: Entry<R>[] = [];
  #running = 0;
  /** The barrier whose calls are under way. */
  #barrier: Entry<R> | undefined;
  #failures = 0;

  constructor(profile: TapdiskProfile, depth: number) {
    this.#profile = profile;
    this.#depth = depth;
  }

  submit(request: R, barrier: boolean, mutates: boolean): void {
    const failuresKnown = this.#failures;
    const calls = barrier ? BARRIER : PLAIN;
    this.#waiting.push({ request, barrier, mutates, failuresKnown, calls, outcome: 'done' });
  }

  /** The next request that may start, or undefined while something must end first. */
  start(): Entry<R> | undefined {
    const [head] = this.#waiting;
    if (!head || this.#barrier || this.#running >= this.#depth) return undefined; // B1
    if (head.barrier && this.#running > 0) return undefined; // B2
    this.#waiting.shift(); // B3
    this.#running += 1;
    if (head.barrier) {
      this.#barrier = head;
      const blamed = this.#failures > head.failuresKnown;
      if (blamed && !this.#profile.acceptsEarlierFailures) {
        head.calls = ABORTED;
        head.outcome = 'aborted';
      }
    }
    return head;
  }

  /** The call of a request has ended; true where the request has. */
  end(entry: Entry<R>, failed: boolean): boolean {
    const sync = entry.calls[0]?.op === 'fdatasync';
    const heard = failed && !(sync && this.#profile.ignoresSyncErrors);
    entry.calls = heard ? [] : entry.calls.slice(1);
    if (heard && entry.outcome === 'done') entry.outcome = sync ? 'sync failed' : 'transfer failed';
    if (entry.calls.length > 0) return false;
    this.#running -= 1;
    if (entry.barrier) this.#barrier = undefined;
    if (entry.outcome !== 'done' && entry.mutates) this.#failures += 1;
    return true;
  }
}

/** A disk of tapdisk over a file. */
export class Tapdisk {
  readonly #disk: TracedDisk;
  readonly #queue: Queue<Asked>;
  readonly #profile: TapdiskProfile;
  #pumping = false;

  /** @throws `INVALID_ARGUMENT` for a depth below 1 */
  constructor(storage: Storage, options: TapdiskOptions = {}) {
    const { profile = TAPDISK_2010, context = 'aio', depth = 32, observer } = options;
    if (!Number.isSafeInteger(depth) || depth < 1) {
      throw new WriteBarrierError('INVALID_ARGUMENT', `a depth of ${depth}`);
    }
    this.#profile = profile;
    this.#disk = new TracedDisk(storage, observer);
    this.#queue = new Queue(profile, context === 'sync' ? 1 : depth);
  }

  /**
   * Queues a read, a write or a barrier write. Rejects at once with `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`,
   * `INVALID_ARGUMENT`, or `EOPNOTSUPP` for everything else; later with `IO_FAILED`, `SHORT_TRANSFER`,
   * `FLUSH_FAILED`, `BARRIER_ABORTED`.
   *
   * @param data what to write; or where to read into, a new buffer unless given
   */
  submit(request: Request, data?: Uint8Array): Promise<Uint8Array | void> {
    return new Promise((resolve, reject) => {
      this.#disk.check(request, data, (asked) => this.#knows(asked));
      const asked = this.#disk.submit(request, data, resolve as Asked['resolve'], reject);
      this.#queue.submit(asked, isBarrier(request), request.kind === 'write');
      this.#pump();
    });
  }

  #knows(request: Request): boolean {
    const { refusesBarriers } = this.#profile;
    if (isBarrier(request) && (refusesBarriers || !this.#disk.syncs)) return false;
    if (request.kind === 'write') return !request.preflush && !request.fua;
    return request.kind === 'read';
  }

  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    for (let entry = this.#queue.start(); entry; entry = this.#queue.start()) this.#carryOut(entry);
    this.#pumping = false;
  }

  /** Makes the calls of a request, one after the other. */
  #carryOut(entry: Entry<Asked>): void {
    const [call] = entry.calls;
    if (!call) return;
    this.#disk.call(entry.request, call.op, call.stage, (failed) => {
      if (this.#queue.end(entry, failed)) this.#disk.answer(entry.request, entry.outcome);
      this.#carryOut(entry);
      this.#pump();
    });
  }
}
