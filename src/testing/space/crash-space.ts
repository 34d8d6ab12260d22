// All disk images that a power cut during a trace may leave: how many, the k-th, a fair draw, one after the other.
//
// An image is a version per cell (cells.ts). Put all versions of all cells in the order of the moment from which they
// can be there. Every image but the untouched one is found once, under the last version b in that order that it shows:
// every other cell then shows one of its versions from before b that is possible at that moment. So
//
//   images = 1 + sum over b of the product over the other cells of their choices at b
//
// and the numbering follows: the sums say which b, mixed radix over the cells that are open at b says the rest. Of
// two numbers the smaller is the earlier cut, or at the same last version the one that loses less.
// Two images with different versions are two images here, even where the bytes happen to be the same.
//
// Source: exact counting, ranking and Gray codes on interval orders; Ruskey, "Combinatorial Generation", for the
// reflected mixed-radix Gray code.

import { WriteBarrierError } from '../../model/index.js';
import { copyOf } from '../../storage/bytes.js';
import type { Storage } from '../../storage/index.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { type DeviceProfile, deviceProfile } from '../device/profile.js';
import type { Random } from '../device/random.js';
import { type Cell, type CellMap, cellsOf, momentsOf, newestUntil, possibleAt } from './cells.js';
import { type Crash, crashesOf, type ExploreOptions, SettledDisk } from './explore.js';
import { countUpTo } from './intervals.js';
import type { Version } from './versions.js';

/** One state that a power cut may leave. */
export class CrashState {
  readonly #map: CellMap;
  /** The visible version of each cell that the trace writes, in the order of the cells; 0 for what was there before. */
  readonly versions: Int32Array;

  /** @internal */
  constructor(map: CellMap, versions: Int32Array) {
    this.#map = map;
    this.versions = versions;
  }

  /** The power was cut after this moment: the latest dispatch of anything that is visible. */
  get after(): number {
    return this.#visible().reduce((latest, { after }) => Math.max(latest, after), -NEVER);
  }

  /** The power was cut before this moment: the host would have known that something is there which is lost. */
  get before(): number {
    return this.#visible().reduce((earliest, { durable }) => Math.min(earliest, durable), NEVER);
  }

  /** Whether some power cut leaves these versions. */
  get isPossible(): boolean {
    const bound = this.#visible().reduce((least, { ordered }) => Math.min(least, ordered), NEVER);
    return this.after < bound;
  }

  /** The bytes of the disk, newly made. What cannot be read is there as bytes that nobody wrote. */
  image(): Uint8Array {
    const { size, initial, cells } = this.#map;
    const bytes = initial ? copyOf(initial, 0, size) : new Uint8Array(size);
    for (const [place, { bytes: content }] of this.#visible().entries()) {
      if (this.versions[place] !== 0) bytes.set(content, (cells[place] as Cell).offset);
    }
    return bytes;
  }

  /** Where the disk cannot be read, in bytes from its start, one for each sector. */
  get unreadable(): readonly number[] {
    const { cells, unreadable } = this.#map;
    const written = this.#visible().flatMap(({ bad }, place) =>
      bad.map((at) => (cells[place] as Cell).offset + at),
    );
    return [...unreadable, ...written];
  }

  /** A disk that holds it and answers at once, for a recovery; what is written to it is kept apart. */
  disk(): Storage {
    return new SettledDisk(this.#map, (place) => this.versions[place] as number);
  }

  #visible(): Version[] {
    return this.#map.cells.map((cell, place) => versionAt(cell, this.versions[place] as number));
  }
}

const NEVER = Number.POSITIVE_INFINITY;

function versionAt({ versions }: Cell, version: number): Version {
  return versions[version] as Version;
}

/** The last visible version of an image, and the choices that the other cells have then. */
interface Group {
  /** Places of the cells with a choice, save the one of the last visible version. */
  readonly open: Int32Array;
  /** The versions that each of them may show, ascending. */
  readonly choices: readonly (readonly number[])[];
  /** The same in one row, for speed: those of the ith begin at `starts[i]` and end where the next ones begin. */
  readonly row: Int32Array;
  readonly starts: Int32Array;
  /** The first version that each cell may show; the last visible one at its own place. */
  readonly first: Int32Array;
}

/** See the head of this file. */
export class CrashSpace {
  /** The cells that the trace writes, with their versions. @internal */
  readonly map: CellMap;
  /** What the device is taken to be. */
  readonly profile: DeviceProfile;
  /** How many images there are. */
  readonly count: bigint;
  /** All versions in order: the place of the cell, and the version. */
  readonly #places: Int32Array;
  readonly #versions: Int32Array;
  /** How many images come before those under each version. */
  readonly #before: readonly bigint[];
  /** For each cell, where its versions stand in that order; the first one before all. */
  readonly #ranks: readonly (readonly number[])[];
  readonly #groups = new Map<number, Group>();

  /** @internal */
  constructor(map: CellMap, profile: DeviceProfile) {
    this.map = map;
    this.profile = profile;
    const all = rankedVersions(map);
    this.#places = Int32Array.from(all, ({ place }) => place);
    this.#versions = Int32Array.from(all, ({ version }) => version);
    const ranks = map.cells.map(() => [-1]);
    for (const [rank, { place, version }] of all.entries()) {
      (ranks[place] as number[])[version] = rank;
    }
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
    const { open, choices, first } = this.#group(last);
    const versions = first.slice();
    for (const [i, place] of open.entries()) {
      const list = choices[i] as readonly number[];
      const of = BigInt(list.length);
      versions[place] = list[Number(of - 1n - (rest % of))] as number;
      rest /= of;
    }
    return new CrashState(this.map, versions);
  }

  /** The state in which all is there that was dispatched until `time`, and nothing else. */
  inOrder(time: number): CrashState {
    const versions = this.map.cells.map((cell) => newestUntil(cell, time, true));
    return new CrashState(this.map, Int32Array.from(versions));
  }

  /**
   * A state that a power cut at `time` may leave: each cell that is in doubt then is as new as can be, or with the
   * chance `loss`, from 0 to 1, any of what it may be. Draw the time evenly, not the image: nearly all images belong to
   * the moment with the most in doubt.
   */
  sampleAt(time: number, loss: number, random: Random): CrashState {
    const versions = this.map.cells.map((cell) => {
      if (random() >= loss) return newestUntil(cell, time, true);
      const choices = possibleAt(cell, time);
      return choices[Math.floor(random() * choices.length)] as number;
    });
    return new CrashState(this.map, Int32Array.from(versions));
  }

  /** The moments at which something came to the disk that may be left, ascending. */
  get moments(): readonly number[] {
    return momentsOf(this.map);
  }

  /** How many versions there are besides what was there before. @internal */
  get versionCount(): number {
    return this.#places.length;
  }

  /**
   * The images whose last visible version is the nth, from 0: how many choices each open cell has, and the image for
   * a list of choices, of which 0 loses nothing. @internal
   */
  under(last: number): {
    readonly choices: readonly number[];
    state(lost: readonly number[]): CrashState;
  } {
    const { open, choices, first } = this.#group(last);
    const state = (lost: readonly number[]): CrashState => {
      const versions = first.slice();
      for (const [i, place] of open.entries()) {
        const list = choices[i] as readonly number[];
        versions[place] = list[list.length - 1 - (lost[i] ?? 0)] as number;
      }
      return new CrashState(this.map, versions);
    };
    return { choices: choices.map(({ length }) => length), state };
  }

  /** The number of an image of this space: what `at` is asked for. */
  indexOf({ versions }: CrashState): bigint {
    let last = this.#places.length - 1;
    while (last >= 0 && versions[this.#places[last] as number] !== this.#versions[last]) last -= 1;
    if (last < 0) return 0n;
    const { open, choices } = this.#group(last);
    let index = 0n;
    for (let i = open.length - 1; i >= 0; i--) {
      const list = choices[i] as readonly number[];
      const digit = list.length - 1 - list.indexOf(versions[open[i] as number] as number);
      index = index * BigInt(list.length) + BigInt(digit);
    }
    return index + (this.#before[last] as bigint);
  }

  /** One of all images, each as likely as any other. */
  sample(random: Random): CrashState {
    const last = this.#lastBelow(randomBelow(this.count, random));
    if (last < 0) return this.#untouched();
    const { open, row, starts, first } = this.#group(last);
    const versions = first.slice();
    for (let i = 0; i < open.length; i++) {
      const start = starts[i] as number;
      const of = (starts[i + 1] as number) - start;
      versions[open[i] as number] = row[start + Math.floor(random() * of)] as number;
    }
    return new CrashState(this.map, versions);
  }

  /** All images; from one to the next one cell changes, save where the last visible version does. */
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
   * The outcomes that a recovery can tell apart, each once: a disk whose undecided cells are decided when they
   * are read. Finish with each disk before you take the next; awaiting in between is fine.
   *
   * @throws Error when the reads of a recovery differ from those that it made before on the same disk
   */
  explore(options: ExploreOptions = {}): Generator<Crash, void> {
    return crashesOf(this.map, options);
  }

  /** The rank of the version under which image k is found; -1 for image 0. */
  #lastBelow(k: bigint): number {
    return countUpTo(this.#before, k) - 1;
  }

  #untouched(): CrashState {
    return new CrashState(this.map, new Int32Array(this.map.cells.length));
  }

  #group(rank: number): Group {
    const known = this.#groups.get(rank);
    if (known) return known;
    const group = this.#makeGroup(rank);
    if (this.#groups.size * this.map.cells.length > GROUPS_MAX) this.#groups.clear();
    this.#groups.set(rank, group);
    return group;
  }

  #makeGroup(rank: number): Group {
    const last = this.#places[rank] as number;
    const version = this.#versions[rank] as number;
    const { cells } = this.map;
    const time = versionAt(cells[last] as Cell, version).after;
    const first = new Int32Array(cells.length);
    const open: number[] = [];
    const choices: (readonly number[])[] = [];
    for (const [place, { versions }] of cells.entries()) {
      const list = place === last ? [version] : this.#choicesAt(place, versions, rank, time);
      first[place] = list[0] as number;
      if (list.length === 1) continue;
      open.push(place);
      choices.push(list);
    }
    const starts = new Int32Array(choices.length + 1);
    for (const [i, { length }] of choices.entries()) starts[i + 1] = (starts[i] as number) + length;
    return {
      ...{ open: Int32Array.from(open), choices, first },
      ...{ row: Int32Array.from(choices.flat()), starts },
    };
  }

  #choicesAt(place: number, versions: readonly Version[], rank: number, time: number): number[] {
    const ranks = this.#ranks[place] as readonly number[];
    const found: number[] = [];
    for (
      let version = 0;
      version < versions.length && (ranks[version] as number) < rank;
      version++
    ) {
      if ((versions[version] as Version).ordered > time) found.push(version);
    }
    return found;
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
  return new CrashSpace(cellsOf(trace, device), device);
}

/** Goes through all images of a space, each in a step that changes one cell as a rule. */
export class CrashCursor {
  readonly #map: CellMap;
  readonly #groupAt: (rank: number) => Group | undefined;
  #rank = -1;
  #open: Int32Array = new Int32Array(0);
  #choices: readonly (readonly number[])[] = [];
  #digits: Int32Array = new Int32Array(0);
  #steps: Int8Array = new Int8Array(0);
  readonly #hashes: readonly Int32Array[];
  /** The visible version of each sector. Changed in place. */
  readonly versions: Int32Array;
  /** The bytes of the disk, changed in place; empty unless asked for. */
  readonly bytes: Uint8Array;
  #hashLow = 0;
  #hashHigh = 0;

  /** @internal */
  constructor(map: CellMap, groupAt: (rank: number) => Group | undefined, bytes: boolean) {
    this.#map = map;
    this.#groupAt = groupAt;
    const { cells, size, initial } = map;
    this.versions = new Int32Array(cells.length);
    if (bytes) this.bytes = initial ? copyOf(initial, 0, size) : new Uint8Array(size);
    else this.bytes = new Uint8Array(0);
    this.#hashes = cells.map(hashesOf);
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
      const digit = (this.#digits[i] as number) + (steps[i] as number);
      const list = this.#choices[i] as readonly number[];
      if (digit >= 0 && digit < list.length) {
        this.#digits[i] = digit;
        this.#set(this.#open[i] as number, list[digit] as number);
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
    const { open, choices, first } = group;
    this.#open = open;
    this.#choices = choices;
    this.#digits = new Int32Array(open.length);
    this.#steps = new Int8Array(open.length);
    const isOpen = new Set(open);
    for (let place = 0; place < first.length; place++) {
      if (!isOpen.has(place)) this.#set(place, first[place] as number);
    }
    // Each digit starts at that end of its range which is nearer, so that little has to change.
    for (const [i, place] of open.entries()) {
      const list = choices[i] as readonly number[];
      const [low, high] = [list[0] as number, list[list.length - 1] as number];
      const atLow = 2 * (this.versions[place] as number) <= low + high;
      this.#digits[i] = atLow ? 0 : list.length - 1;
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
    const cell = this.#map.cells[place] as Cell;
    this.bytes.set(versionAt(cell, version).bytes, cell.offset);
  }
}

/** Two words for each version of a cell; none for the first one, which every image has in common. */
function hashesOf({ offset, versions }: Cell): Int32Array {
  const hashes = new Int32Array(2 * versions.length);
  const [baseLow, baseHigh] = hashOf((versions[0] as Version).bytes, offset);
  for (const [i, { bytes }] of versions.entries()) {
    const [low, high] = hashOf(bytes, offset);
    hashes[2 * i] = low - baseLow;
    hashes[2 * i + 1] = high - baseHigh;
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

/** All versions but the first ones, in the order from which images are numbered. */
function rankedVersions({ cells }: CellMap): Ranked[] {
  const all = cells.flatMap(({ versions }, place) =>
    versions.slice(1).map(({ after }, i) => ({ place, version: i + 1, at: after })),
  );
  return all.sort((a, b) => a.at - b.at || a.place - b.place || a.version - b.version);
}

/** One sweep over time with the product of all choices kept up to date. */
function countImages(
  { cells }: CellMap,
  all: readonly Ranked[],
): { readonly before: readonly bigint[]; readonly count: bigint } {
  const ends = cells.flatMap(({ versions }, place) =>
    versions.map(({ ordered }, version) => ({ place, version, at: ordered })),
  );
  ends.sort((a, b) => a.at - b.at);
  const choices = cells.map(() => 1n);
  let product = 1n;
  const change = (place: number, by: bigint): void => {
    product /= choices[place] as bigint;
    choices[place] = (choices[place] as bigint) + by;
    product *= choices[place] as bigint;
  };

  const before: bigint[] = [];
  let count = 1n;
  let next = 0;
  for (const { place, at } of all) {
    // What can be there no more ends before what comes begins; at no moment a cell is without a choice.
    const due: number[] = [];
    for (let end = ends[next]; end && end.at <= at; end = ends[++next]) due.push(end.place);
    for (const ended of due) change(ended, -1n);
    before.push(count);
    count += product / (choices[place] as bigint);
    change(place, 1n);
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
