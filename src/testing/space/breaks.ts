// When an atomic unit (here: piece) of several sectors need not reach the medium as a whole.
//
// A device that writes units as a whole promises that for a command that a power cut interrupts, and for a unit that is
// whole in the cache. It promises nothing about the rest of a unit after a later write has replaced some of its sectors,
// because the cache then holds single sectors, and each reaches the medium by itself, old ones and new ones. So a smaller
// write does not take the older, larger write that it partly replaced to the medium: any of the remaining sectors of the
// older write may be there.
//
// A piece p may be visible on some sectors and missing on others if
//   - p was in a cache, because a piece that is forced, or not cached, is persisted as a whole when it lands;
//   - a later piece q has landed above a part of p, but not above its visible part; q itself need not be visible;
//   - there is no piece between p and q that must have landed before q, above the visible part of p. A piece must have
//     landed before q if it was answered before q was sent, if tags order it before q, or if it overlaps q or another such
//     piece;
//   - q was dispatched before the end of every flush that gave up p (the fault `drop`), because after that end no part of p
//     is in the cache.
// If p is visible nowhere, because all of it was overwritten, nothing needs an explanation.
//
// Source: NVM Express Base Specification 1.4, 6.4.2.1: AWUPF is about a write that is interrupted; of a completed one in
// a volatile cache, without FUA or flush, each location may return older data.

import type { DiskCommand } from '../device/disk-trace.js';
import type { Interval } from './intervals.js';

/** An atomic unit of a write. */
export interface Piece {
  /** In bytes from the start of the disk; in a region, from the start of the region. */
  readonly start: number;
  readonly end: number;
  /** Its possible contents; more than one if the device may choose. */
  readonly contents: readonly Uint8Array[];
  /** Its first sector cannot be read. */
  readonly isBad: boolean;
  readonly command: number;
  readonly interval: Interval;
  /** When it lands, in the cache or on the medium. */
  readonly landing: Interval;
  /** It is persisted as soon as it has landed, because the device or the command bypasses the cache. */
  readonly forced: boolean;
  /** It may land below or above anything later. */
  readonly strays: boolean;
  /** Pieces that are dispatched from here on may be there without it. */
  readonly spareFrom: number;
}

/** Whether an older piece may land above a newer one that it overlaps. */
export type Races = (older: Piece, newer: Piece) => boolean;

/** Which parts of the pieces a version contains. */
export interface Seen {
  /** The sectors of piece `index` that are there, overwritten or not. */
  partOf(index: number): bigint;
}

/** The pieces of a region, and when they break. Sets of sectors and of pieces are bit sets. */
export class Breaks {
  /** In the order of dispatch. */
  readonly pieces: readonly Piece[];
  /** In bytes. */
  readonly sectorSize: number;
  readonly #extents: readonly bigint[];
  /** For each piece the older ones that have landed when it has. */
  readonly #under: readonly bigint[];
  readonly #races: Races;
  readonly #drops: readonly DiskCommand[];

  constructor(
    pieces: readonly Piece[],
    races: Races,
    drops: readonly DiskCommand[],
    sectorSize: number,
  ) {
    this.pieces = pieces;
    this.sectorSize = sectorSize;
    this.#races = races;
    this.#drops = drops;
    this.#extents = pieces.map((piece) => extentOf(piece, sectorSize));
    const under: bigint[] = [];
    for (const [index, piece] of pieces.entries()) {
      let below = 0n;
      for (const [older, other] of pieces.slice(0, index).entries()) {
        const isCertain = other.spareFrom > piece.interval.dispatched && !races(other, piece);
        const isBefore = other.landing.ordered <= piece.interval.dispatched;
        if (!isCertain || !(isBefore || this.#meet(older, index))) continue;
        below |= (under[older] as bigint) | (1n << BigInt(older));
      }
      under.push(below);
    }
    this.#under = under;
  }

  /** The sectors of a piece. */
  extentOf(index: number): bigint {
    return this.#extents[index] as bigint;
  }

  /** Whether a part of a piece may be there without the rest; false is certain, true is not. */
  may(index: number): boolean {
    const { forced, interval } = this.pieces[index] as Piece;
    const mine = this.extentOf(index);
    if (forced || (mine & (mine - 1n)) === 0n) return false;
    return this.pieces.some(
      (other, n) =>
        n !== index &&
        this.#comesAbove(n, index) &&
        (mine & ~this.extentOf(n)) !== 0n &&
        (n < index || other.interval.dispatched < interval.ordered),
    );
  }

  /**
   * The earliest dispatch of a piece that explains why `sectors` of a piece are visible and others are missing; undefined
   * if no piece explains it.
   *
   * @param seen undefined while the rest of the version is not known
   */
  since(index: number, sectors: bigint, seen: Seen | undefined): number | undefined {
    const piece = this.pieces[index] as Piece;
    const given = this.#drops.filter(({ dispatched }) => piece.landing.durable <= dispatched);
    const until = Math.min(Number.POSITIVE_INFINITY, ...given.map(({ completed }) => completed));
    let least: number | undefined;
    for (const [n, { interval }] of this.pieces.entries()) {
      const { dispatched } = interval;
      if (n === index || dispatched >= until || dispatched >= (least ?? until)) continue;
      if (!this.#comesAbove(n, index) || !this.#meet(n, index)) continue;
      if (this.#breaks(n, index, sectors, seen)) least = dispatched;
    }
    return least;
  }

  #breaks(by: number, index: number, sectors: bigint, seen: Seen | undefined): boolean {
    const landed = (this.#under[by] as bigint) | (1n << BigInt(by));
    for (const [n, { forced }] of this.pieces.entries()) {
      if (((landed >> BigInt(n)) & 1n) === 0n) continue;
      const extent = this.extentOf(n);
      if ((n > index || n === by) && (extent & sectors) !== 0n) return false;
      // A forced piece is there as soon as it has landed.
      if (forced && seen && seen.partOf(n) !== extent && !this.#isSpare(n, by)) return false;
    }
    return true;
  }

  /** Whether a write that failed may be absent although `by` has landed. */
  #isSpare(index: number, by: number): boolean {
    return (
      index !== by &&
      (this.pieces[index] as Piece).spareFrom <= (this.pieces[by] as Piece).interval.dispatched
    );
  }

  #comesAbove(upper: number, lower: number): boolean {
    if (upper > lower) return true;
    return this.#races(this.pieces[upper] as Piece, this.pieces[lower] as Piece);
  }

  #meet(a: number, b: number): boolean {
    return (this.extentOf(a) & this.extentOf(b)) !== 0n;
  }
}

function extentOf({ start, end }: Piece, sectorSize: number): bigint {
  const sectors = BigInt((end - start) / sectorSize);
  return ((1n << sectors) - 1n) << BigInt(start / sectorSize);
}

/** All sets of sectors of an extent, except none and all. */
export function* partsOf(extent: bigint): Generator<bigint, void> {
  for (let part = (extent - 1n) & extent; part > 0n; part = (part - 1n) & extent) yield part;
}
