// The crash space of a trace: all crash states (disk images) that a power cut during the trace may leave. It counts them,
// numbers them, draws one with equal chances, and iterates over all.
//
// A crash state is one version for each cell (cells.ts). Sort all versions of all cells by the moment from which they are
// possible, and let b be the last version, in that order, that a state contains. Each other cell then has a version that
// sorts before b and is still possible when b becomes possible. So every state except the untouched one is counted exactly
// once, under its b:
//
//   states = 1 + sum over b of the product over the other cells of their choices at b
//
// This also numbers the states: the sums select b, and mixed radix over the cells that are open at b selects the rest. Of two
// states the one with the smaller number has the earlier power cut; if their last version is the same, it loses less. States
// with different versions are different, even if their bytes happen to be equal.
//
// Source: exact counting, ranking and Gray codes on interval orders; Ruskey, "Combinatorial Generation", for the
// reflected mixed-radix Gray code.

import { checkOptions, WriteBarrierError } from '../../model/index.js';
import { withText } from '../../model/show.js';
import type { Random } from '../choices.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { type DeviceName, type DeviceProfile, deviceProfile } from '../device/profile.js';
import { type Cell, type CellMap, cellsOf, momentsOf, newestUntil, versionAt } from './cells.js';
import { CrashState } from './crash-state.js';
import { type Crash, crashesOf } from './explore.js';
import { countUpTo } from './intervals.js';
import type { Version } from './versions.js';

const EXPLORE_OPTIONS = { recoveriesMax: 0, label: 0 };

/** The last visible version of a crash state, and the choices of the other cells. */
interface Group {
  /** The indexes of the cells with a choice, except that of the last visible version. */
  readonly open: Int32Array;
  /** The versions that each of them may have, ascending. */
  readonly choices: readonly (readonly number[])[];
  /** The same in one array, for speed: those of the ith cell begin at `starts[i]` and end where the next ones begin. */
  readonly row: Int32Array;
  readonly starts: Int32Array;
  /** The first version that each cell may have; for the cell of the last visible version, that one. */
  readonly first: Int32Array;
}

/** All crash states (disk images) that a power cut during a trace may leave. */
export class CrashSpace {
  /** The cells that the trace writes, with their versions. @internal */
  readonly map: CellMap;
  /** The assumed device. */
  readonly profile: DeviceProfile;
  /** The number of crash states. */
  readonly count: bigint;
  /** All versions in order: the index of the cell, and of the version. */
  readonly #places: Int32Array;
  readonly #versions: Int32Array;
  /** The number of crash states before those under each version. */
  readonly #before: readonly bigint[];
  /** For each cell the ranks of its versions in that order; -1 for the first one. */
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
   * Crash state number k; number 0 is the disk before the trace.
   *
   * @throws `OUT_OF_RANGE` if k is not from 0 to count - 1
   */
  at(k: bigint): CrashState {
    if (k < 0n || k >= this.count) {
      throw new WriteBarrierError(
        'OUT_OF_RANGE',
        `image ${inShort(k)} is out of range: this space has images 0 to ${inShort(this.count - 1n)}`,
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

  /** The crash state with everything that was dispatched up to `time`, and nothing else. */
  inOrder(time: number): CrashState {
    const versions = this.map.cells.map((cell) => newestUntil(cell, time, true));
    return new CrashState(this.map, Int32Array.from(versions));
  }

  /** The moments at which a version becomes possible, ascending. */
  get moments(): readonly number[] {
    return momentsOf(this.map);
  }

  static {
    withText(CrashSpace.prototype, function (this: CrashSpace) {
      const { size, cells } = this.map;
      return `CrashSpace { ${this.count} images of ${size} bytes; ${cells.length} regions were written }`;
    });
  }

  /** The number of versions, without the contents before the trace. @internal */
  get versionCount(): number {
    return this.#places.length;
  }

  /**
   * The crash states whose last visible version is the nth, from 0: the number of choices of each open cell, and the state
   * for a list of choices, of which 0 loses nothing. @internal
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

  /** The number of a crash state of this space: the argument of `at`. */
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

  /** Draws a crash state; all are equally likely. */
  sample(random: () => number): CrashState {
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

  /** All crash states. From one to the next one region changes, except where the last visible version changes. */
  *[Symbol.iterator](): Generator<CrashState, void> {
    const groups = (rank: number): Group | undefined =>
      rank < this.#places.length ? this.#makeGroup(rank) : undefined;
    const cursor = new Cursor(this.map.cells.length, groups);
    do yield new CrashState(this.map, cursor.versions.slice());
    while (cursor.next());
  }

  /**
   * Every outcome that a recovery can tell apart, once: a disk whose regions get their content when they are read first.
   * Finish with each disk before you take the next; you may await in between.
   *
   * @param options `recoveriesMax`: the maximum number of disks, by default all. `label`: your name for the bytes at an
   *   offset; one of the strategies loses everything with the same name together
   * @throws `INVALID_ARGUMENT` if the reads of a recovery differ from its earlier reads on an equal disk
   */
  explore(
    options: { readonly recoveriesMax?: number; label?(offset: number): string } = {},
  ): Generator<Crash, void> {
    checkOptions(options, EXPLORE_OPTIONS, 'explore');
    return crashesOf(this.map, options);
  }

  /** The rank of the version under which state k is found; -1 for state 0. */
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

/** The maximum number of array entries of all cached groups. */
const GROUPS_MAX = 4_000_000;

/**
 * The crash space of a trace on a device: all disk images that a power cut during the trace may leave.
 *
 * @param profile a device of `DEVICE_PROFILES`, or the fields that differ from a file
 * @throws `INVALID_ARGUMENT` for an unknown device, and for a trace that is impossible on the device
 */
export function crashSpace(
  trace: DiskTrace,
  profile: DeviceName | Partial<DeviceProfile> = 'file',
): CrashSpace {
  const device = deviceProfile(profile);
  return new CrashSpace(cellsOf(trace, device), device);
}

/** Iterates over all crash states; most steps change one cell. */
class Cursor {
  readonly #groupAt: (rank: number) => Group | undefined;
  #rank = -1;
  #open: Int32Array = new Int32Array(0);
  #choices: readonly (readonly number[])[] = [];
  #digits: Int32Array = new Int32Array(0);
  #steps: Int8Array = new Int8Array(0);
  /** The visible version of each cell. Changed in place. */
  readonly versions: Int32Array;

  constructor(cells: number, groupAt: (rank: number) => Group | undefined) {
    this.#groupAt = groupAt;
    this.versions = new Int32Array(cells);
  }

  /** Moves on to the next state; false when there is none. */
  next(): boolean {
    const steps = this.#steps;
    for (let i = 0; i < steps.length; i++) {
      const digit = (this.#digits[i] as number) + (steps[i] as number);
      const list = this.#choices[i] as readonly number[];
      if (digit >= 0 && digit < list.length) {
        this.#digits[i] = digit;
        this.versions[this.#open[i] as number] = list[digit] as number;
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
      if (!isOpen.has(place)) this.versions[place] = first[place] as number;
    }
    // Each digit starts at the nearer end of its range, so that few cells change.
    for (const [i, place] of open.entries()) {
      const list = choices[i] as readonly number[];
      const [low, high] = [list[0] as number, list[list.length - 1] as number];
      const atLow = 2 * (this.versions[place] as number) <= low + high;
      this.#digits[i] = atLow ? 0 : list.length - 1;
      this.versions[place] = atLow ? low : high;
      this.#steps[i] = atLow ? 1 : -1;
    }
    return true;
  }
}

interface Ranked {
  readonly place: number;
  readonly version: number;
  readonly at: number;
}

/** All versions except the first ones, in the order that numbers the states. */
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
    // At one moment versions end before others begin; every cell always has a choice.
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

/** A count in full where it fits a line; else by its beginning. */
function inShort(count: bigint): string {
  const digits = String(count);
  return digits.length > 40 ? `${digits.slice(0, 12)}... (${digits.length} digits)` : digits;
}
