// The flush group: requests that wait for a flush of the device share one. They are the flushes of clients, the preflush of
// a plain write, and the flush after a forced write on a device without FUA.
//
// A waiter needs one device flush that is issued after every write that it covers has completed. Writes are counted in
// epochs. A waiter closes the epoch of the writes before it, and is ready when that epoch and all older ones are empty. One
// flush runs at a time. It serves the waiters that were ready when it was issued, because the device promises nothing about
// writes that complete while a flush runs. Waiters that become ready later share the next flush; two sets of waiters are
// enough, the running and the coming one.
//
//   F1  A waiter is served by a flush that was issued after it joined and after all that it covers completed.
//   F2  At most one flush of the group runs.
//   F3  Waiters become ready in the order in which they joined, so a stream of later waiters cannot starve one.
//
// Not here: the flushes of a barrier's own sequence, which its mode orders.
//
// Source: the double buffering of Linux block/blk-flush.c; unlike it, a flush here never waits for data that was submitted
// after its waiters.

import { invariant } from '../model/index.js';
import { List, type ListNode } from './list.js';

/** Writes between two joins. A write keeps it, to say later that it has completed. */
export interface Epoch extends ListNode<Epoch> {
  /** Writes that were admitted in this epoch and have not completed. */
  writes: number;
  /** How many wait for it, and for those before it. */
  waiters: number;
  /** All its writes have completed, and those of older ones. */
  isOver: boolean;
}

/** Shares device flushes among those that wait for one. */
export class FlushGroup<T> {
  /** Oldest first, never empty. */
  readonly #epochs = new List<Epoch>();
  readonly #ready = new Set<T>();
  /** Waiters that are not ready, with their epoch, in the order in which they joined. */
  readonly #early = new Map<T, Epoch>();
  /** Waiters that are not assigned to a device flush yet. */
  waiting = 0;
  /** A flush of the group is at the device, even if all that it served were cancelled. */
  running = false;

  constructor() {
    this.#begin();
  }

  /** A write was admitted; waiters that join from now on wait for it. */
  writeAdmitted(): Epoch {
    const { tail } = this.#epochs;
    const epoch = tail?.waiters === 0 ? tail : this.#begin();
    epoch.writes += 1;
    epoch.isOver = false;
    return epoch;
  }

  /** The write has completed, or will never be issued. */
  writeGone(epoch: Epoch): void {
    invariant(epoch.writes > 0, 'flush-group.F1');
    epoch.writes -= 1;
    this.#tidy(epoch);
    if (epoch.writes === 0) this.#advance();
  }

  /** Waits for the writes admitted before, then for a flush. */
  join(waiter: T): void {
    const epoch = this.#epochs.tail as Epoch;
    epoch.waiters += 1;
    this.#early.set(waiter, epoch);
    this.waiting += 1;
    this.#advance();
  }

  /** Waits for a flush only: what the waiter covers has completed. */
  joinReady(waiter: T): void {
    this.#ready.add(waiter);
    this.waiting += 1;
  }

  /** Takes a waiter out; false if it does not wait here. */
  leave(waiter: T): boolean {
    const epoch = this.#early.get(waiter);
    if (!this.#early.delete(waiter) && !this.#ready.delete(waiter)) return false;
    this.waiting -= 1;
    if (epoch) epoch.waiters -= 1;
    if (epoch) this.#tidy(epoch);
    return true;
  }

  /** The waiters that a flush issued now serves; undefined while one runs or no waiter is ready. */
  take(): T[] | undefined {
    if (this.running || this.#ready.size === 0) return undefined;
    const served = [...this.#ready];
    this.#ready.clear();
    this.waiting -= served.length;
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
    const evicted = [...this.#ready, ...this.#early.keys()];
    for (const waiter of evicted) this.leave(waiter);
    return evicted;
  }

  #begin(): Epoch {
    const epoch = { writes: 0, waiters: 0, isOver: true, next: undefined, previous: undefined };
    this.#epochs.push(epoch);
    return epoch;
  }

  /** Takes out an epoch in the middle that is empty. */
  #tidy(epoch: Epoch): void {
    const { writes, waiters, previous, next } = epoch;
    if (writes === 0 && waiters === 0 && previous && next) this.#epochs.remove(epoch);
  }

  #advance(): void {
    for (let epoch = this.#epochs.head; epoch?.writes === 0; epoch = this.#epochs.head) {
      epoch.isOver = true;
      if (!epoch.next) break;
      this.#epochs.shift();
    }
    // Most writes have no waiter, and an iterator of a map costs as much as a small request.
    if (this.#early.size === 0) return;
    for (const [waiter, epoch] of this.#early) {
      if (!epoch.isOver) return;
      epoch.waiters -= 1;
      this.#early.delete(waiter);
      this.#ready.add(waiter);
    }
  }
}
