// What has been admitted and has data that is not written or read yet: at the device, ready for it, held back
// by an overlap, or waiting for its preflush. Requests stand in the order of their admission.
//
// Invariants:
//   W1  Of two overlapping requests of which one writes, the later is not ready before the earlier has left.
//   W2  A released request is held again by the next one that it overlaps, or is ready.
//
// Whoever admits sees to it that `unissued` stays below a bound; every question here looks at the window only.

import type { ByteRange } from '../model/index.js';
import type { Entry } from './entry.js';
import { List } from './list.js';
import { overlap } from './ranges.js';

/** Bytes of a cell, cells of the filter, and how many cells a request may touch to be counted in it. */
const CELL_BYTES = 4096;
const CELLS = 1024;
const CELLS_MAX = 16;

/**
 * How many requests touch each cell. Where the answer is nobody, there is no overlap; otherwise somebody must
 * look: two cells may share a counter.
 */
class Filter {
  readonly #counts = new Uint32Array(CELLS);
  #wide = 0;

  count(range: ByteRange, by: 1 | -1): void {
    const first = Math.floor(range.start / CELL_BYTES);
    const last = Math.floor((range.end - 1) / CELL_BYTES);
    if (last - first >= CELLS_MAX) this.#wide += by;
    else for (let cell = first; cell <= last; cell++) this.#add(cell % CELLS, by);
  }

  mayOverlap(range: ByteRange): boolean {
    const first = Math.floor(range.start / CELL_BYTES);
    const last = Math.floor((range.end - 1) / CELL_BYTES);
    if (this.#wide > 0 || last - first >= CELLS_MAX) return true;
    for (let cell = first; cell <= last; cell++) if (this.#counts[cell % CELLS] !== 0) return true;
    return false;
  }

  #add(cell: number, by: 1 | -1): void {
    this.#counts[cell] = (this.#counts[cell] as number) + by;
  }
}

/** The admitted requests. */
export class Window<C> {
  readonly #entries = new List<Entry<C>>();
  readonly #filter = new Filter();
  #ready: Entry<C>[] = [];
  #held = 0;
  /** Admitted in order, and not at the device yet. */
  unissued = 0;
  /** Reads that passed a barrier and have not completed. */
  passing = 0;

  get isEmpty(): boolean {
    return this.#entries.size === 0;
  }

  get oldest(): Entry<C> | undefined {
    return this.#entries.head;
  }

  [Symbol.iterator](): Iterator<Entry<C>> {
    return this.#entries[Symbol.iterator]();
  }

  /** Admits a request; true when it may be issued at once. */
  admit(entry: Entry<C>): boolean {
    entry.blocker = this.conflict(entry);
    this.#enter(entry);
    if (!entry.blocker) return true;
    entry.state = 'held';
    this.#held += 1;
    this.unissued += 1;
    return false;
  }

  /** Admits a write that waits for its preflush; `release` ends the wait. */
  admitPreflushing(entry: Entry<C>): void {
    entry.state = 'preflushing';
    this.#enter(entry);
    this.unissued += 1;
  }

  /** Admits a read that overlaps nothing here, ahead of what is queued. */
  admitPassing(entry: Entry<C>): void {
    entry.state = 'ready';
    entry.passed = true;
    this.passing += 1;
    this.#enter(entry);
    this.#ready.push(entry);
  }

  /** Admits the payload of a barrier: its place is settled by its mode. */
  admitPayload(entry: Entry<C>): void {
    this.#enter(entry);
  }

  /** The first request, up to `end`, that this one must neither overtake nor meet. */
  conflict(entry: Entry<C>, end?: Entry<C>): Entry<C> | undefined {
    if (end === undefined && !this.#filter.mayOverlap(entry)) return undefined;
    for (let other = this.#entries.head; other && other !== end; other = other.next) {
      if ((other.mutates || entry.mutates) && overlap(other, entry)) return other;
    }
    return undefined;
  }

  /** The next request that may be issued. */
  takeReady(): Entry<C> | undefined {
    if (this.#ready.length === 0) return undefined;
    const entry = this.#ready.shift() as Entry<C>;
    if (!entry.passed) this.unissued -= 1;
    return entry;
  }

  /** W2. */
  release(entry: Entry<C>): void {
    entry.blocker = this.conflict(entry, entry);
    if (entry.blocker) {
      entry.state = 'held';
      this.#held += 1;
    } else {
      entry.state = 'ready';
      this.#ready.push(entry);
    }
  }

  /** The request has been carried out. */
  leave(entry: Entry<C>): void {
    this.#entries.remove(entry);
    this.#filter.count(entry, -1);
    if (entry.passed) this.passing -= 1;
    if (this.#held === 0) return;
    for (const other of this.#entries) {
      if (other.state !== 'held' || other.blocker !== entry) continue;
      this.#held -= 1;
      this.release(other);
    }
  }

  /** The request will not be carried out: it was not issued. */
  withdraw(entry: Entry<C>): void {
    if (!entry.passed) this.unissued -= 1;
    if (entry.state === 'held') this.#held -= 1;
    if (entry.state === 'ready') this.#ready.splice(this.#ready.indexOf(entry), 1);
    this.leave(entry);
  }

  #enter(entry: Entry<C>): void {
    this.#entries.push(entry);
    this.#filter.count(entry, 1);
  }
}
