// Exploration of a disk: walks through the choices of a recovery (walks.ts), each with the disk for it.
//
// The writes of the recovery itself overlay the disk and are never lost.

import type { Storage } from '../../storage/index.js';
import { type Content, sizeIn } from '../device/disk-trace.js';
import { type Counted, Decisions } from './decisions.js';
import { versionAt } from './places.js';
import {
  contentOf,
  isResized,
  isSize,
  offsetOf,
  placeAt,
  type Region,
  type RegionMap,
  regionAt,
} from './regions.js';
import { SettledDisk } from './settled-disk.js';
import { type Walk, walksOf } from './walks.js';

/** The limits of an exploration. */
export interface ExploreOptions {
  /** The maximum number of recoveries. @defaultValue no limit */
  readonly recoveriesMax?: number;
  /** The user's name for the bytes at an offset: one strategy loses everything with the same name together. */
  label?(offset: number): string;
}

/** A power cut, decided as far as the recovery has read. */
export interface Crash {
  /** The disk for the recovery. It answers at once. */
  readonly disk: Storage;
  /** The versions that were read, by the number of their place; grows while the recovery reads. */
  readonly decided: ReadonlyMap<number, number>;
  /** The power was cut after this moment. */
  readonly after: number;
  /** The power was cut before this moment. What the host had acknowledged by then must be there. */
  readonly before: number;
  /** How many crash states this outcome covers, given the reads so far; 0 if an earlier crash covered them. */
  readonly images: bigint;
  /** The strategy that picked it: `depth first`, or the name of a guide. */
  readonly order: string;
}

type Undefinable<T> = { readonly [K in keyof T]: T[K] | undefined };

/** A power cut with its disk, as the crash test sees it. */
export type Run = Crash & {
  readonly decisions: Decisions;
  /** The content of a sector, without what the recovery has written. */
  readonly content: Content;
};

/**
 * All outcomes that a recovery can tell apart, within the budget.
 *
 * @param below what the levels below have decided already: each walk goes on from there
 */
export function crashesOf(
  space: Counted<RegionMap>,
  { recoveriesMax, label }: Undefinable<ExploreOptions>,
  below?: Decisions,
): Generator<Run, void> {
  // The size is no bytes that a user could name.
  const named =
    label &&
    ((region: Region, place: number) => (isSize(region) ? isSize : label(offsetOf(region, place))));
  return onDisks(walksOf(new Decisions(space, below), { recoveriesMax, label: named }));
}

/** All outcomes of going on with a disk that is decided in part. */
export function continued(decisions: Decisions): Generator<Run, void> {
  return onDisks(walksOf(decisions));
}

function* onDisks(walks: Iterable<Walk<RegionMap>>): Generator<Run, void> {
  for (const walk of walks) {
    const { decisions } = walk;
    const content: Content = (offset) => contentIn(decisions, offset, walk);
    const disk = new SettledDisk(decisions.space.map, content);
    yield Object.assign(walk, { disk, content });
    disk.end();
  }
}

/** The content of a sector, decided now if it was not, as the size is first; undefined if it cannot be read. */
function contentIn(
  level: Decisions,
  offset: number,
  walk: Walk<RegionMap>,
): Uint8Array | undefined {
  const { below, space } = level;
  const { map } = space;
  const sizeOf = (): number =>
    isResized(map) ? sizeIn((at) => contentIn(level, at, walk), map.sectorSize) : map.size;
  if (offset >= 0 && offset >= sizeOf()) return new Uint8Array(map.sectorSize);
  const under: Content = below ? (at) => contentIn(below, at, walk) : map.before;
  const region = regionAt(map, offset);
  if (!region) return under(offset);
  const version = level.versionOf(region, placeAt(region, offset), walk.choose);
  return contentOf(map, region, versionAt(region, version), offset, under);
}
