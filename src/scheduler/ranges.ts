// A set of bytes. Adding appends, so the path of a write stays short; the ranges are sorted and
// joined when somebody looks, and every ADDED_MAX additions. There are never more than RANGES_MAX ranges and
// additions: beyond that neighbours are joined across their gaps, small ones first, so the set may say too much, never
// too little.

import type { ByteRange } from '../model/index.js';

const ADDED_MAX = 1024;
const RANGES_MAX = 4096;

/** A set of bytes. */
export class RangeSet {
  #ranges: ByteRange[] = [];
  /** Starts and ends in turn: additions are frequent, and this way they allocate nothing. */
  #added: number[] = [];

  get isEmpty(): boolean {
    return this.#ranges.length === 0 && this.#added.length === 0;
  }

  add(start: number, end: number): void {
    const added = this.#added;
    // One write after the other is what logs do.
    if (added.at(-1) === start) added[added.length - 1] = end;
    else added.push(start, end);
    if (added.length >= 2 * ADDED_MAX) this.#join();
  }

  addAll(other: RangeSet): void {
    for (const { start, end } of other.toArray()) this.add(start, end);
  }

  delete(start: number, end: number): void {
    this.#join();
    const first = this.#ranges.findIndex((range) => range.end > start);
    if (first < 0) return;
    const kept: ByteRange[] = [];
    let behind = first;
    for (const range of this.#ranges.slice(first)) {
      if (range.start >= end) break;
      if (range.start < start) kept.push({ start: range.start, end: start });
      if (range.end > end) kept.push({ start: end, end: range.end });
      behind += 1;
    }
    // Rather too many bytes than too many ranges.
    if (kept.length > behind - first && this.#ranges.length >= RANGES_MAX) return;
    if (behind > first) this.#ranges.splice(first, behind - first, ...kept);
  }

  /** In order, neither touching nor overlapping. */
  toArray(): readonly ByteRange[] {
    this.#join();
    return this.#ranges;
  }

  #join(): void {
    if (this.#added.length === 0) return;
    const added = this.#added.splice(0);
    const sorted = [...this.#ranges];
    for (let i = 0; i < added.length; i += 2) {
      sorted.push({ start: added[i] as number, end: added[i + 1] as number });
    }
    sorted.sort((a, b) => a.start - b.start);
    this.#ranges = join(sorted, 0);
    for (let gapMax = 512; this.#ranges.length > RANGES_MAX; gapMax *= 2) {
      this.#ranges = join(this.#ranges, gapMax);
    }
  }
}

/** Joins sorted ranges whose gap is at most `gapMax` bytes. */
function join(sorted: readonly ByteRange[], gapMax: number): ByteRange[] {
  const joined: ByteRange[] = [];
  for (const { start, end } of sorted) {
    const last = joined.at(-1);
    if (last && start - last.end <= gapMax) {
      joined[joined.length - 1] = { start: last.start, end: Math.max(last.end, end) };
    } else {
      joined.push({ start, end });
    }
  }
  return joined;
}

/** Whether the ranges have a byte in common. */
export function overlap(a: ByteRange, b: ByteRange): boolean {
  return a.start < b.end && b.start < a.end;
}
