// All disk images that a power cut during a trace may leave: how many, the k-th, a fair draw, one after the other.
//
// An image is a version per sector (versions.ts). Put all versions of all sectors in the order of their dispatch.
// Every image but the untouched one is found once, under the last version b that it shows: every other sector
// then shows one of the versions that were dispatched before b and need not be replaced by then. So
//
//   images = 1 + sum over b of the product over the other sectors of their choices at b
//
// and the numbering follows: the sums say which b, mixed radix over the sectors that are open at b says the rest. Of
// two numbers the smaller is the earlier cut, or at the same last version the one that loses less.
// Two images with different versions are two images here, even where the bytes happen to be the same.
//
// Source: exact counting, ranking and Gray codes on interval orders; Ruskey, "Combinatorial Generation", for the
// reflected mixed-radix Gray code.

import { WriteBarrierError } from '../model/index.js';
import { copyOf } from '../storage/bytes.js';
import type { DiskTrace } from './disk-trace.js';
import { type Crash, crashesOf } from './explore.js';
import { countUpTo } from './intervals.js';
import { type DeviceProfile, deviceProfile } from './profile.js';
import type { Random } from './random.js';
import {
  contentOfVersion,
  dispatchOfVersion,
  forcedAt,
  newestUntil,
  type Sector,
  type SectorMap,
  sectorsOf,
  type Version,
} from './versions.js';

/** One state that a power cut may leave. */
export class CrashState {
  readonly #map: SectorMap;
  /** The visible version of each written sector, in the order of the sectors; 0 for what was there before. */
  readonly versions: Int32Array;

  /** @internal */
  constructor(map: SectorMap, versions: Int32Array) {
    this.#map = map;
    this.versions = versions;
  }

  /** The power was cut after this moment: the latest dispatch of anything that is visible. */
  get after(): number {
    return this.#reduce(dispatchOfVersion, Math.max, Number.NEGATIVE_INFINITY);
  }

  /** The power was cut before this moment: the host would have known that something is there which is lost. */
  get before(): number {
    const durable = (sector: Sector, version: number): number =>
      sector.durableFrom[version] as number;
    return this.#reduce(durable, Math.min, Number.POSITIVE_INFINITY);
  }

  /** Whether some power cut leaves these versions. */
  get isPossible(): boolean {
    const ordered = (sector: Sector, version: number): number =>
      sector.orderedFrom[version] as number;
    return this.after < this.#reduce(ordered, Math.min, Number.POSITIVE_INFINITY);
  }

  /** The bytes of the disk, newly made. */
  image(): Uint8Array {
    const { size, initial, sectors } = this.#map;
    const bytes = initial ? copyOf(initial, 0, size) : new Uint8Array(size);
    for (const [place, sector] of sectors.entries()) {
      const version = this.versions[place] as number;
      if (version > 0) bytes.set(contentOfVersion(sector, version), sector.offset);
    }
    return bytes;
  }

  #reduce(
    of: (sector: Sector, version: number) => number,
    choose: (a: number, b: number) => number,
    start: number,
  ): number {
    return this.#map.sectors.reduce(
      (value, sector, place) => choose(value, of(sector, this.versions[place] as number)),
      start,
    );
  }
}

/** The last visible version of an image, and the choices that the others have then. */
interface Group {
  /** Places of the sectors with a choice, save the one of the last visible version. */
  readonly open: Int32Array;
  /** How many versions each of them may show. */
  readonly choices: Int32Array;
  /** The oldest version that each sector may show; the last visible one at its own place. */
  readonly oldest: Int32Array;
}

/** See the head of this file. */
export class CrashSpace {
  /** The sectors that the trace writes, with their versions. @internal */
  readonly map: SectorMap;
  /** What the device is taken to be. */
  readonly profile: DeviceProfile;
  /** How many images there are. */
  readonly count: bigint;
  /** All versions in the order of dispatch: the place of the sector, and the version. */
  readonly #places: Int32Array;
  readonly #versions: Int32Array;
  /** How many images come before those under each version. */
  readonly #before: readonly bigint[];
  /** For each sector, where its versions stand in that order. */
  readonly #ranks: readonly (readonly number[])[];
  readonly #groups = new Map<number, Group>();

  /** @internal */
  constructor(map: SectorMap, profile: DeviceProfile) {
    this.map = map;
    this.profile = profile;
    const all = map.sectors.flatMap(({ versions }, place) =>
      versions.map(({ interval }, i) => ({ place, version: i + 1, at: interval.dispatched })),
    );
    all.sort((a, b) => a.at - b.at || a.place - b.place || a.version - b.version);
    this.#places = Int32Array.from(all, ({ place }) => place);
    this.#versions = Int32Array.from(all, ({ version }) => version);
    const ranks: number[][] = map.sectors.map(() => []);
    for (const [rank, { place }] of all.entries()) ranks[place]?.push(rank);
    this.#ranks = ranks;
    const { before, count } = countImages(map, all);
    this.#before = before;
    this.count = count;
  }

  /**
   * Image number k, from 0: what was there before the trace.
   *
   * @throws `OUT_OF_RANGE` unless 0 <= k < count
   */
  at(k: bigint): CrashState {
    if (k < 0n || k >= this.count) {
      throw new WriteBarrierError(
        'OUT_OF_RANGE',
        `there are ${this.count} images, and none is ${k}`,
      );
    }
    const last = this.#lastBelow(k);
    if (last < 0) return this.#untouched();
    let rest = k - (this.#before[last] as bigint);
    const { open, choices, oldest } = this.#group(last);
    const versions = oldest.slice();
    for (let i = 0; i < open.length; i++) {
      const of = BigInt(choices[i] as number);
      const place = open[i] as number;
      versions[place] = (versions[place] as number) + Number(of - 1n - (rest % of));
      rest /= of;
    }
    return new CrashState(this.map, versions);
  }

  /** The state in which all is there that was dispatched until `time`, and nothing else. */
  inOrder(time: number): CrashState {
    const versions = this.map.sectors.map((sector) => newestUntil(sector, time, true));
    return new CrashState(this.map, Int32Array.from(versions));
  }

  /** How many versions there are in all. @internal */
  get versionCount(): number {
    return this.#places.length;
  }

  /**
   * The images whose last visible version is the nth, from 0: how many choices each open sector has, and the image for
   * a list of choices, of which 0 loses nothing. @internal
   */
  under(last: number): {
    readonly choices: readonly number[];
    state(lost: readonly number[]): CrashState;
  } {
    const { open, choices, oldest } = this.#group(last);
    const state = (lost: readonly number[]): CrashState => {
      const versions = oldest.slice();
      for (const [i, place] of open.entries()) {
        const newest = (versions[place] as number) + (choices[i] as number) - 1;
        versions[place] = newest - (lost[i] ?? 0);
      }
      return new CrashState(this.map, versions);
    };
    return { choices: [...choices], state };
  }

  /** The number of an image of this space: what `at` is asked for. */
  indexOf({ versions }: CrashState): bigint {
    let last = this.#places.length - 1;
    while (last >= 0 && versions[this.#places[last] as number] !== this.#versions[last]) last -= 1;
    if (last < 0) return 0n;
    const { open, choices, oldest } = this.#group(last);
    let index = 0n;
    for (let i = open.length - 1; i >= 0; i--) {
      const place = open[i] as number;
      const of = choices[i] as number;
      const digit = (oldest[place] as number) + of - 1 - (versions[place] as number);
      index = index * BigInt(of) + BigInt(digit);
    }
    return index + (this.#before[last] as bigint);
  }

  /** One of all images, each as likely as any other. */
  sample(random: Random): CrashState {
    const last = this.#lastBelow(randomBelow(this.count, random));
    if (last < 0) return this.#untouched();
    const { open, choices, oldest } = this.#group(last);
    const versions = oldest.slice();
    for (let i = 0; i < open.length; i++) {
      const place = open[i] as number;
      const digit = Math.floor(random() * (choices[i] as number));
      versions[place] = (versions[place] as number) + digit;
    }
    return new CrashState(this.map, versions);
  }

  /** All images; from one to the next one sector changes, save where the last visible version does. */
  *[Symbol.iterator](): Generator<CrashState, void> {
    const cursor = this.cursor();
    do yield new CrashState(this.map, cursor.versions.slice());
    while (cursor.next());
  }

  /** The same, without a new object for each: for millions. It starts at the first image. */
  cursor(options: { readonly bytes?: boolean } = {}): CrashCursor {
    const groups = (rank: number): Group | undefined =>
      rank < this.#places.length ? this.#makeGroup(rank) : undefined;
    return new CrashCursor(this.map, groups, options.bytes ?? false);
  }

  /**
   * The outcomes that a recovery can tell apart, each once: a disk whose undecided sectors are decided when they
   * are read. Finish with each disk before you take the next; awaiting in between is fine.
   *
   * @throws Error when the reads of a recovery differ from those that it made before on the same disk
   */
  explore(): Generator<Crash, void> {
    return crashesOf(this.map);
  }

  /** The rank of the version under which image k is found; -1 for image 0. */
  #lastBelow(k: bigint): number {
    return countUpTo(this.#before, k) - 1;
  }

  #untouched(): CrashState {
    return new CrashState(this.map, new Int32Array(this.map.sectors.length));
  }

  #group(rank: number): Group {
    const known = this.#groups.get(rank);
    if (known) return known;
    const group = this.#makeGroup(rank);
    if (this.#groups.size * this.map.sectors.length > GROUPS_MAX) this.#groups.clear();
    this.#groups.set(rank, group);
    return group;
  }

  #makeGroup(rank: number): Group {
    const last = this.#places[rank] as number;
    const { sectors } = this.map;
    const version = this.#versions[rank] as number;
    const time = dispatchOfVersion(sectors[last] as Sector, version);
    const oldest = new Int32Array(sectors.length);
    const open: number[] = [];
    const choices: number[] = [];
    for (const [place, sector] of sectors.entries()) {
      const newest = countUpTo(this.#ranks[place] as readonly number[], rank);
      const forced = forcedAt(sector, time);
      oldest[place] = place === last ? version : forced;
      if (place === last || newest === forced) continue;
      open.push(place);
      choices.push(newest - forced + 1);
    }
    return { open: Int32Array.from(open), choices: Int32Array.from(choices), oldest };
  }
}

/** How many numbers the groups that are kept may hold in all. */
const GROUPS_MAX = 4_000_000;

/**
 * All images that a power cut during the trace may leave on such a device.
 *
 * @throws `INVALID_ARGUMENT` for a trace or a profile that does not fit
 */
export function crashSpace(trace: DiskTrace, profile: Partial<DeviceProfile> = {}): CrashSpace {
  const device = deviceProfile(profile);
  return new CrashSpace(sectorsOf(trace, device), device);
}

/** Goes through all images of a space, each in a step that changes one sector as a rule. */
export class CrashCursor {
  readonly #map: SectorMap;
  readonly #groupAt: (rank: number) => Group | undefined;
  #rank = -1;
  #open: Int32Array = new Int32Array(0);
  #low: Int32Array = new Int32Array(0);
  #high: Int32Array = new Int32Array(0);
  #steps: Int8Array = new Int8Array(0);
  readonly #hashes: readonly Int32Array[];
  /** The visible version of each sector. Changed in place. */
  readonly versions: Int32Array;
  /** The bytes of the disk, changed in place; empty unless asked for. */
  readonly bytes: Uint8Array;
  #hashLow = 0;
  #hashHigh = 0;

  /** @internal */
  constructor(map: SectorMap, groupAt: (rank: number) => Group | undefined, bytes: boolean) {
    this.#map = map;
    this.#groupAt = groupAt;
    const { sectors, size, initial } = map;
    this.versions = new Int32Array(sectors.length);
    if (bytes) this.bytes = initial ? copyOf(initial, 0, size) : new Uint8Array(size);
    else this.bytes = new Uint8Array(0);
    this.#hashes = sectors.map(hashesOf);
  }

  /** 53 bits that equal images share, and others hardly ever. */
  get hash(): number {
    return (this.#hashHigh & 0x1f_ffff) * 2 ** 32 + (this.#hashLow >>> 0);
  }

  /** The image at hand, to keep. */
  get state(): CrashState {
    return new CrashState(this.#map, this.versions.slice());
  }

  /** Goes on to the next image; false when there is none. */
  next(): boolean {
    const steps = this.#steps;
    for (let i = 0; i < steps.length; i++) {
      const place = this.#open[i] as number;
      const version = (this.versions[place] as number) + (steps[i] as number);
      if (version >= (this.#low[i] as number) && version <= (this.#high[i] as number)) {
        this.#set(place, version);
        return true;
      }
      steps[i] = -(steps[i] as number);
    }
    return this.#nextGroup();
  }

  #nextGroup(): boolean {
    this.#rank += 1;
    const group = this.#groupAt(this.#rank);
    if (!group) return false;
    const { open, choices, oldest } = group;
    this.#open = open;
    this.#low = Int32Array.from(open, (place) => oldest[place] as number);
    this.#high = this.#low.map((low, i) => low + (choices[i] as number) - 1);
    this.#steps = new Int8Array(open.length);
    const isOpen = new Set(open);
    for (let place = 0; place < oldest.length; place++) {
      if (!isOpen.has(place)) this.#set(place, oldest[place] as number);
    }
    // Each digit starts at that end of its range which is nearer, so that little has to change.
    for (let i = 0; i < open.length; i++) {
      const place = open[i] as number;
      const [low, high] = [this.#low[i] as number, this.#high[i] as number];
      const atLow = 2 * (this.versions[place] as number) <= low + high;
      this.#set(place, atLow ? low : high);
      this.#steps[i] = atLow ? 1 : -1;
    }
    return true;
  }

  #set(place: number, version: number): void {
    const old = this.versions[place] as number;
    if (old === version) return;
    const hashes = this.#hashes[place] as Int32Array;
    this.#hashLow =
      (this.#hashLow - (hashes[2 * old] as number) + (hashes[2 * version] as number)) | 0;
    this.#hashHigh =
      (this.#hashHigh - (hashes[2 * old + 1] as number) + (hashes[2 * version + 1] as number)) | 0;
    this.versions[place] = version;
    if (this.bytes.length === 0) return;
    const sector = this.#map.sectors[place] as Sector;
    this.bytes.set(contentOfVersion(sector, version), sector.offset);
  }
}

/** Two words for each version of a sector; none for its initial content, which every image has in common. */
function hashesOf(sector: Sector): Int32Array {
  const hashes = new Int32Array(2 * (sector.versions.length + 1));
  const initial = hashOf(sector.initial, sector.offset);
  for (const [i, { bytes }] of sector.versions.entries()) {
    const [low, high] = hashOf(bytes, sector.offset);
    hashes[2 * i + 2] = low - initial[0];
    hashes[2 * i + 3] = high - initial[1];
  }
  return hashes;
}

/** Two independent words from the bytes and their place. */
function hashOf(bytes: Uint8Array, offset: number): [low: number, high: number] {
  let low = 0x811c9dc5 ^ offset;
  let high = 0x9e3779b9 ^ Math.floor(offset / 2 ** 20);
  for (const byte of bytes) {
    low = Math.imul(low ^ byte, 0x01000193);
    high = Math.imul(high + byte, 0x85ebca6b);
    high ^= high >>> 13;
  }
  return [mix(low), mix(high ^ low)];
}

function mix(word: number): number {
  let mixed = Math.imul(word ^ (word >>> 16), 0x7feb352d);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x846ca68b);
  return mixed ^ (mixed >>> 16);
}

interface Ranked {
  readonly place: number;
  readonly version: number;
  readonly at: number;
}

/** One sweep over time with the product of all choices kept up to date. */
function countImages(
  { sectors }: SectorMap,
  all: readonly Ranked[],
): { readonly before: readonly bigint[]; readonly count: bigint } {
  const forcings = sectors.flatMap(({ versions }, place) =>
    versions.map(({ interval }: Version, i) => ({ place, version: i + 1, at: interval.ordered })),
  );
  forcings.sort((a, b) => a.at - b.at);
  const newest = new Int32Array(sectors.length);
  const forced = new Int32Array(sectors.length);
  let product = 1n;
  const choices = (place: number): bigint =>
    BigInt((newest[place] as number) - (forced[place] as number) + 1);
  const update = (place: number, change: () => void): void => {
    product /= choices(place);
    change();
    product *= choices(place);
  };

  const before: bigint[] = [];
  let count = 1n;
  let next = 0;
  for (const { place, version, at } of all) {
    for (let due = forcings[next]; due && due.at <= at; due = forcings[++next]) {
      const { place: where, version: what } = due;
      if (what > (forced[where] as number)) {
        update(where, () => {
          forced[where] = what;
        });
      }
    }
    before.push(count);
    count += product / choices(place);
    update(place, () => {
      newest[place] = version;
    });
  }
  return { before, count };
}

/** Each number from 0 up to, not including, `limit` is as likely as any other. */
function randomBelow(limit: bigint, random: Random): bigint {
  const bits = limit.toString(2).length;
  for (;;) {
    let value = 0n;
    for (let have = 0; have < bits; have += 30) {
      value = (value << 30n) | BigInt(Math.floor(random() * 2 ** 30));
    }
    value >>= BigInt((30 - (bits % 30)) % 30);
    if (value < limit) return value;
  }
}
