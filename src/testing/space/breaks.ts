// When an atomic unit of several sectors need not reach the medium as a whole.
//
// A device that writes units as a whole promises that for a command that a power cut interrupts, and for a unit that is
// whole in the cache. It promises nothing about the rest of a unit after a later write has replaced some of its sectors,
// because the cache then holds single sectors, and each reaches the medium by itself, old ones and new ones. So a smaller
// write does not take the older, larger write that it partly replaced to the medium: any of the remaining sectors of the
// older write may be there.
//
// A unit p may be visible on some sectors and missing on others if
//   - p was in a cache, because a unit that is forced, or not cached, is persisted as a whole when it lands;
//   - a later unit q has landed above a part of p, but not above its visible part; q itself need not be visible;
//   - there is no unit between p and q that must have landed before q, above the visible part of p. A unit must have
//     landed before q if it was answered before q was sent, if tags order it before q, or if it overlaps q or another such
//     unit. One that races with p may have landed below it, and then it is no obstacle;
//   - q was dispatched before the end of every flush that gave up p (the fault `drop`), because after that end no part of p
//     is in the cache.
// If p is visible nowhere, because all of it was overwritten, nothing needs an explanation.
//
// Each unit is explained by itself. Where two units of several sectors race, each may be said to have landed above the other, so
// the space of a racy device may have states that the device does not leave; it never lacks one.
//
// Source: NVM Express Base Specification 1.4, 6.4.2.1: AWUPF is about a write that is interrupted; of a completed one in
// a volatile cache, without FUA or flush, each location may return older data.

import type { DiskCommand } from '../device/disk-trace.js';
import type { Interval } from './intervals.js';

/** What a command writes, and what is known about when that is persisted. */
export interface Write {
  readonly command: number;
  /** Where it lands, in bytes from the start of the disk. */
  readonly offset: number;
  /** In bytes. */
  readonly length: number;
  /** Its payload; without one it writes zeroes, or a size. */
  readonly data: Uint8Array | undefined;
  /** The size that a resize writes at its place (`sizeAt`), in bytes. */
  readonly size?: number;
  /** What is wrong with its first sector. */
  readonly spoilt: 'rot' | 'latent' | undefined;
  /** It is one atomic unit; otherwise each of its sectors is one. */
  readonly isWhole: boolean;
  /** The number of its possible contents: 2 if the device may write anything instead. */
  readonly contents: 1 | 2;
  readonly interval: Interval;
  /** When it lands, in the cache or on the medium. */
  readonly landing: Interval;
  /** It is persisted as soon as it has landed, because the device or the command bypasses the cache. */
  readonly forced: boolean;
  /** It may land below or above anything later. */
  readonly strays: boolean;
  /** Units that are dispatched from here on may be there without it. */
  readonly spareFrom: number;
}

/** An atomic unit of a write in a region. */
export interface Unit {
  readonly write: Write;
  /** In bytes from the start of the region or, where each sector is a place, of the sector. */
  readonly start: number;
  readonly end: number;
}

/** Whether an older unit may land above a newer one that it overlaps. */
export type Races = (older: Unit, newer: Unit) => boolean;

/** Which parts of the units a version contains. */
export interface Seen {
  /** The sectors of unit `index` that are there, overwritten or not. */
  partOf(index: number): bigint;
}

/** The units of a region, and when they break. Sets of sectors and of units are bit sets. */
export class Breaks {
  /** In the order of dispatch. */
  readonly units: readonly Unit[];
  /** In bytes. */
  readonly sectorSize: number;
  /** The number of sectors of the region. */
  readonly sectors: number;
  readonly #extents: readonly bigint[];
  /** For each unit the older ones that have landed when it has. */
  readonly #under: readonly bigint[];
  readonly #races: Races;
  readonly #drops: readonly DiskCommand[];

  constructor(
    units: readonly Unit[],
    races: Races,
    drops: readonly DiskCommand[],
    sectorSize: number,
  ) {
    this.units = units;
    this.sectorSize = sectorSize;
    this.sectors = Math.max(...units.map(({ end }) => end)) / sectorSize;
    this.#races = races;
    this.#drops = drops;
    this.#extents = units.map((unit) => extentOf(unit, sectorSize));
    const under: bigint[] = [];
    for (const [index, unit] of units.entries()) {
      let below = 0n;
      for (const [older, other] of units.slice(0, index).entries()) {
        const isCertain =
          other.write.spareFrom > unit.write.interval.dispatched && !races(other, unit);
        const isBefore = other.write.landing.ordered <= unit.write.interval.dispatched;
        if (!isCertain || !(isBefore || this.#meet(older, index))) continue;
        below |= (under[older] as bigint) | (1n << BigInt(older));
      }
      under.push(below);
    }
    this.#under = under;
  }

  /** The sectors of a unit. */
  extentOf(index: number): bigint {
    return this.#extents[index] as bigint;
  }

  /** Whether a part of a unit may be there without the rest; false is certain, true is not. */
  may(index: number): boolean {
    const { forced, interval } = (this.units[index] as Unit).write;
    const mine = this.extentOf(index);
    if (forced || (mine & (mine - 1n)) === 0n) return false;
    return this.units.some(
      (other, n) =>
        n !== index &&
        this.#mayCover(n, index) &&
        (mine & ~this.extentOf(n)) !== 0n &&
        (n < index || other.write.interval.dispatched < interval.ordered),
    );
  }

  /**
   * The earliest dispatch of a unit that explains why `sectors` of a unit are visible and others are missing; undefined
   * if no unit explains it.
   *
   * @param seen undefined while the rest of the version is not known
   */
  since(index: number, sectors: bigint, seen: Seen | undefined): number | undefined {
    const unit = this.units[index] as Unit;
    const given = this.#drops.filter(({ dispatched }) => unit.write.landing.durable <= dispatched);
    const until = Math.min(Number.POSITIVE_INFINITY, ...given.map(({ completed }) => completed));
    let least: number | undefined;
    for (const [n, { write }] of this.units.entries()) {
      const { dispatched } = write.interval;
      if (n === index || dispatched >= until || dispatched >= (least ?? until)) continue;
      if (!this.#mayCover(n, index) || !this.#meet(n, index)) continue;
      if (this.#breaks(n, index, sectors, seen)) least = dispatched;
    }
    return least;
  }

  #breaks(by: number, index: number, sectors: bigint, seen: Seen | undefined): boolean {
    const landed = (this.#under[by] as bigint) | (1n << BigInt(by));
    for (const [n, { write }] of this.units.entries()) {
      if (((landed >> BigInt(n)) & 1n) === 0n) continue;
      const extent = this.extentOf(n);
      if ((n === by || !this.#mayCover(index, n)) && (extent & sectors) !== 0n) return false;
      // A forced unit is there as soon as it has landed.
      if (write.forced && seen && seen.partOf(n) !== extent && !this.#isSpare(n, by)) return false;
    }
    return true;
  }

  /** Whether a write that failed may be absent although `by` has landed. */
  #isSpare(index: number, by: number): boolean {
    return (
      index !== by &&
      (this.units[index] as Unit).write.spareFrom <=
        (this.units[by] as Unit).write.interval.dispatched
    );
  }

  /** Whether the first of two units may have landed above the second one, or is it. */
  #mayCover(upper: number, lower: number): boolean {
    if (upper >= lower) return true;
    return this.#races(this.units[upper] as Unit, this.units[lower] as Unit);
  }

  #meet(a: number, b: number): boolean {
    return (this.extentOf(a) & this.extentOf(b)) !== 0n;
  }
}

function extentOf({ start, end }: Unit, sectorSize: number): bigint {
  const sectors = BigInt((end - start) / sectorSize);
  return ((1n << sectors) - 1n) << BigInt(start / sectorSize);
}

/** All sets of sectors of an extent, except none and all. */
export function* partsOf(extent: bigint): Generator<bigint, void> {
  for (let part = (extent - 1n) & extent; part > 0n; part = (part - 1n) & extent) yield part;
}
