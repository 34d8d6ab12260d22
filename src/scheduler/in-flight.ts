// The in-flight set: requests that have been admitted and whose data has not been written or read yet. They are at the
// device, ready for it, held by an overlap, or waiting for their preflush. They stand in the order of their admission.
//
//   W1  Of two overlapping requests of which one writes, the later is not ready before the earlier has left.
//   W2  When the request that it waits for has left, a request waits for the oldest of the earlier requests that overlap it
//       still; if there is none, it is ready.
//
// The set is small, because ordering.ts admits no more than `depth` requests that are not issued. So it may be searched.

import { type ByteRange, invariant } from '../model/index.js';
import { overlap } from './durability.js';
import type { Entry } from './entry.js';
import { List } from './list.js';

/** Bytes of a cell, cells of the filter, and how many cells a request may touch to be counted in it. */
const CELL_BYTES = 4096;
const CELLS = 1024;
const CELLS_MAX = 16;
/** A mask, because a modulo of numbers beyond 31 bits is a call. */
const CELL_MASK = CELLS - 1;
/** So many requests are searched as quickly as a filter is asked, and a scheduler that never has more needs no table. */
export const FEW = 8;

/**
 * How many requests touch each cell. Where no request does, there is no overlap; otherwise the set is searched, because two
 * cells may share a counter.
 */
export class Filter {
  /** Sixteen bits, because `depth` is at most 1024, and the set has a few times as many requests. */
  readonly #counts = new Uint16Array(CELLS);
  #wide = 0;

  /** Counts a request in or out, or only asks; true if another one may overlap it. */
  count({ start, end }: ByteRange, by: 1 | -1 | 0): boolean {
    const first = Math.floor(start / CELL_BYTES);
    const last = Math.floor((end - 1) / CELL_BYTES);
    let others = this.#wide;
    if (last - first >= CELLS_MAX) {
      this.#wide += by;
      return true;
    }
    for (let cell = first; cell <= last; cell++) {
      const at = cell & CELL_MASK;
      others |= this.#counts[at] as number;
      this.#counts[at] = (this.#counts[at] as number) + by;
    }
    return others !== 0;
  }
}

/** The admitted requests. */
export class InFlight<C> {
  readonly #entries = new List<Entry<C>>();
  #filter: Filter | undefined;
  #ready: Entry<C>[] = [];
  /** Admitted in order, and not at the device yet: held by an overlap, ready, or waiting for a preflush. */
  unissued = 0;
  /** Reads that bypass a barrier and have not completed. */
  bypassing = 0;

  /** The oldest that changes bytes: a flush that covers it waits for it (flush-group.F1). */
  get oldestWrite(): Entry<C> | undefined {
    let entry = this.#entries.head;
    while (entry && !entry.mutates) entry = entry.next;
    return entry;
  }

  /** Whether a request that was submitted before this one is here. Only a read that bypasses a barrier is younger than it. */
  hasOlder({ ticket }: Entry<C>): boolean {
    let entry = this.#entries.head;
    while (entry && entry.ticket > ticket) entry = entry.next;
    return entry !== undefined;
  }

  /**
   * Every request here is at the device as a whole, which an ordered tag waits for. It waits for the end of a resize, because it may
   * need the size, and no other command may overlap a resize at the device (storage.S13).
   *
   * @param splitsZeroes zeroes are issued in pieces, so the device has all of them only when the last piece has completed
   */
  isIssued(splitsZeroes: boolean): boolean {
    if (this.unissued > 0) return false;
    const isPartly = ({ isResize, request }: Entry<C>): boolean =>
      isResize || (splitsZeroes && request.kind === 'writeZeroes');
    return ![...this].some(isPartly);
  }

  [Symbol.iterator](): Iterator<Entry<C>> {
    return this.#entries[Symbol.iterator]();
  }

  /** Admits a request; true when it may be issued at once. */
  admit(entry: Entry<C>): boolean {
    if (this.enter(entry)) entry.blocker = this.conflict(entry, entry);
    if (!entry.blocker) return true;
    this.unissued += 1;
    return false;
  }

  /** Admits a write that waits for its preflush first; `release` ends that wait. */
  admitWaiting(entry: Entry<C>): void {
    this.enter(entry);
    this.unissued += 1;
  }

  /** Admits a read that overlaps no request here, before the requests in the queue. */
  admitBypass(entry: Entry<C>): void {
    entry.bypasses = true;
    this.bypassing += 1;
    this.enter(entry);
    this.#ready.push(entry);
  }

  /**
   * Admits a request without a check; true if an earlier one may overlap it. Alone it admits the data of a barrier, which its mode
   * keeps in order.
   */
  enter(entry: Entry<C>): boolean {
    if (!this.#filter && this.#entries.size === FEW) {
      this.#filter = new Filter();
      for (const other of this.#entries) this.#filter.count(other, 1);
    }
    this.#entries.push(entry);
    return this.#filter?.count(entry, 1) ?? true;
  }

  /** The first request before `end` that overlaps this one and must complete first. */
  conflict(entry: Entry<C>, end?: Entry<C>): Entry<C> | undefined {
    if (end === undefined && this.#filter?.count(entry, 0) === false) return undefined;
    for (let other = this.#entries.head; other && other !== end; other = other.next) {
      if ((other.mutates || entry.mutates) && overlap(other, entry)) return other;
    }
    return undefined;
  }

  /** The next request that may be issued. */
  takeReady(): Entry<C> | undefined {
    if (this.#ready.length === 0) return undefined;
    const entry = this.#ready.shift() as Entry<C>;
    if (!entry.bypasses) this.unissued -= 1;
    return entry;
  }

  /** W2. */
  release(entry: Entry<C>): void {
    entry.blocker = this.conflict(entry, entry);
    if (!entry.blocker) this.#ready.push(entry);
  }

  /** The request has completed. */
  leave(entry: Entry<C>): void {
    invariant(this.#entries.size > 0, 'scheduler-in-flight.W1');
    this.#entries.remove(entry);
    this.#filter?.count(entry, -1);
    if (entry.bypasses) this.bypassing -= 1;
    // Most often none is held, and a search costs as much as the rest.
    if (this.unissued === 0) return;
    for (const other of this.#entries) if (other.blocker === entry) this.release(other);
  }

  /** The request was not issued, and will not be. */
  withdraw(entry: Entry<C>): void {
    if (!entry.bypasses) this.unissued -= 1;
    entry.blocker = undefined;
    this.#ready = this.#ready.filter((other) => other !== entry);
    this.leave(entry);
  }
}
