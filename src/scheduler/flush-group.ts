// The flush group: requests that wait for a flush of the device share one. They are the flushes of clients, the preflush of
// a plain write, and the flush after a forced write on a device without FUA.
//
// A waiter needs one device flush that is issued after every write that it covers has completed. Writes are admitted in the
// order of their tickets, so a waiter covers the writes with smaller tickets, and they have completed when the oldest write that has not
// is younger than the waiter. One flush runs at a time. It serves the waiters that were ready when it was issued, because the device
// promises nothing about writes that complete while a flush runs; those that become ready later share the next one.
//
//   F1  A waiter is served by a flush that was issued after it joined and after all that it covers completed.
//   F2  At most one flush of the group runs.
//   F3  Waiters become ready in the order in which they joined, so a stream of later waiters cannot starve one.
//
// Not here: the flushes of a barrier's own sequence, which its mode orders; which writes have completed (in-flight.ts).
//
// Source: the double buffering of Linux block/blk-flush.c; unlike it, a flush here never waits for data that was submitted
// after its waiters.

import { invariant } from '../model/index.js';

/** What the group knows of a request: its number in the order of submission. */
interface Ticketed {
  readonly ticket: number;
}

/** Shares device flushes among those that wait for one. */
export class FlushGroup<T extends Ticketed> {
  /** Those that cover the writes before them, in the order of their tickets. */
  readonly #covering = new Set<T>();
  /** Those whose own write has completed, and which cover nothing else. */
  readonly #ready = new Set<T>();
  /** A flush of the group is at the device, even if all that it served were cancelled. */
  running = false;

  /** How many are not assigned to a device flush yet. */
  get waiting(): number {
    return this.#covering.size + this.#ready.size;
  }

  /** Waits for the writes admitted before, then for a flush. */
  join(waiter: T): void {
    this.#covering.add(waiter);
  }

  /** Waits for a flush only: what the waiter covers has completed. */
  joinReady(waiter: T): void {
    this.#ready.add(waiter);
  }

  /** Takes a waiter out; false if it does not wait here. */
  leave(waiter: T): boolean {
    return this.#covering.delete(waiter) || this.#ready.delete(waiter);
  }

  /**
   * The waiters that a flush issued now serves; undefined while one runs or no waiter is ready.
   *
   * @param writes has the oldest write that was admitted and has not completed; it is searched for only while a request waits
   */
  take(writes: { readonly oldestWrite: Ticketed | undefined }): T[] | undefined {
    if (this.running || this.waiting === 0) return undefined;
    const oldest = writes.oldestWrite?.ticket ?? Infinity;
    const served = [...this.#ready];
    for (const waiter of this.#covering) {
      // A write that waits for its own preflush is no write before it.
      if (waiter.ticket > oldest) break;
      served.push(waiter);
    }
    if (served.length === 0) return undefined;
    for (const waiter of served) this.leave(waiter);
    this.running = true;
    return served;
  }

  /** The flush of the taken waiters has completed, or failed. */
  ended(): void {
    invariant(this.running, 'flush-group.F2');
    this.running = false;
  }

  /** Takes all waiters out. */
  evict(): T[] {
    const evicted = [...this.#ready, ...this.#covering];
    for (const waiter of evicted) this.leave(waiter);
    return evicted;
  }
}
