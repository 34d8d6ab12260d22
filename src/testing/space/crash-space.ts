// The crash space of a trace: all crash states (disk images) that a power cut during the trace may leave. It counts them,
// numbers them, draws one with equal chances, and iterates over all.
//
// A crash state is one version for each place (regions.ts). Sort all versions of all places by the moment from which they are
// possible, then by place. Every state except the untouched one is numbered under the last version, in that order, that it
// contains: each other place then has a version that sorts before it and is still possible when it becomes possible. Mixed
// radix over the places with a choice numbers the states under one version. So of two states the one with the smaller number
// has the earlier power cut; if their last version is the same, it loses less. States with different versions are
// different, even if their bytes happen to be equal.
//
// How the states are counted is in counts.ts.

import { checkOptions, WriteBarrierError } from '../../model/index.js';
import { withText } from '../../model/show.js';
import { type Random, randomAt } from '../choices.js';
import { checkDiskTrace, type DiskTrace } from '../device/disk-trace.js';
import { type DeviceName, type DeviceProfile, deviceProfile } from '../device/profile.js';
import { beginnings, Counts, logarithmOf, productOf } from './counts.js';
import { CrashState } from './crash-state.js';
import { cutsOf } from './cuts.js';
import { type Crash, crashesOf } from './explore.js';
import { countUpTo } from './intervals.js';
import { momentsOf, newestUntil, possibleAt, regionOf, versionAt } from './places.js';
import { type Region, type RegionMap, regionsOf } from './regions.js';

const EXPLORE_OPTIONS = { recoveriesMax: 0, label: 0 };

/** The last version that a crash state contains, in the order that numbers the states. */
export interface Last {
  readonly time: number;
  readonly place: number;
  readonly version: number;
}

/** The states with their latest dispatch at one moment. */
interface Moment {
  readonly time: number;
  /** The regions in which versions begin at this moment, ascending. */
  readonly regions: readonly Region[];
}

/** The moments with the number of states before each. */
interface Numbers {
  readonly moments: readonly (Moment & {
    /** How many choices there are without the versions that begin at this moment. */
    readonly without: bigint;
  })[];
  readonly before: readonly bigint[];
}

/** The moments with the chances of all up to each; the last one is the untouched state. */
interface Chances {
  readonly moments: readonly Moment[];
  readonly upTo: readonly number[];
}

/** All crash states (disk images) that a power cut during a trace may leave. */
export class CrashSpace {
  /** The regions that the trace writes, with their versions. @internal */
  readonly map: RegionMap;
  /** The assumed device. */
  readonly profile: DeviceProfile;
  #counts: Counts | undefined;
  #count: bigint | undefined;
  #numbers: Numbers | undefined;
  #chances: Chances | undefined;

  /** @internal */
  constructor(map: RegionMap, profile: DeviceProfile) {
    this.map = map;
    this.profile = profile;
  }

  /** The number of crash states. */
  get count(): bigint {
    this.#count ??= this.counts.all;
    return this.#count;
  }

  /** @internal */
  get counts(): Counts {
    this.#counts ??= new Counts(this.map);
    return this.#counts;
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
    const versions = new Int32Array(this.map.places);
    if (k === 0n) return new CrashState(this.map, versions);
    const { moments, before } = this.#numbered();
    const n = countUpTo(before, k) - 1;
    let rest = k - (before[n] as bigint);
    let last = {} as Last;
    for (const one of numberedAt(moments[n] as Numbers['moments'][number])) {
      if (rest >= one.before + one.count) continue;
      rest -= one.before;
      last = one.last;
      break;
    }
    for (const [place, list] of this.choicesUnder(last)) {
      const of = BigInt(list.length);
      versions[place] = list[Number(of - 1n - (rest % of))] as number;
      rest /= of;
    }
    return new CrashState(this.map, versions);
  }

  /** The number of a crash state of this space: the argument of `at`. */
  indexOf({ versions }: CrashState): bigint {
    const last = this.#lastIn(versions);
    if (!last) return 0n;
    let index = 0n;
    let radix = 1n;
    for (const [place, list] of this.choicesUnder(last)) {
      index += radix * BigInt(list.length - 1 - list.indexOf(versions[place] as number));
      radix *= BigInt(list.length);
    }
    const { moments, before } = this.#numbered();
    const n = moments.findIndex(({ time }) => time === last.time);
    for (const one of numberedAt(moments[n] as Numbers['moments'][number])) {
      const { place, version } = one.last;
      if (place === last.place && version === last.version) index += one.before;
    }
    return (before[n] as bigint) + index;
  }

  /** The crash state with everything that was dispatched up to `time`, and nothing else. */
  inOrder(time: number): CrashState {
    const newest = (place: number): number => newestUntil(regionOf(this.map, place), time, true);
    return new CrashState(this.map, newest);
  }

  /** The moments at which a version becomes possible, ascending. */
  get moments(): readonly number[] {
    return momentsOf(this.map);
  }

  static {
    withText(CrashSpace.prototype, function (this: CrashSpace) {
      const { size, places } = this.map;
      return `CrashSpace { ${inShort(this.count)} images of ${size} bytes; ${places} regions were written }`;
    });
  }

  /**
   * Draws a crash state; all are equally likely, as far as numbers of 53 bits can tell. The content of a sector is drawn when it is
   * read.
   */
  sample(random: () => number): CrashState {
    const { moments, upTo } = this.#drawn();
    const moment = moments[countUpTo(upTo, random() * (upTo.at(-1) as number))];
    if (!moment) return this.inOrder(Number.NEGATIVE_INFINITY);
    const last = drawn(moment, random);
    const seed = Math.floor(random() * 2 ** 32);
    return new CrashState(this.map, (place) => {
      const list = choicesBeside(last, place, regionOf(this.map, place));
      return list[Math.floor(randomAt(seed, place) * list.length)] as number;
    });
  }

  /** All crash states, in the order of their numbers. */
  *[Symbol.iterator](): Generator<CrashState, void> {
    yield new CrashState(this.map, new Int32Array(this.map.places));
    for (const last of this.lasts()) yield* this.#under(last);
  }

  /** The last versions of all crash states but the untouched one, in the order of the states. @internal */
  *lasts(): Generator<Last, void> {
    for (const { time, regions } of beginnings(this.map)) {
      for (const region of regions) {
        const news = begunAt(region, time);
        for (let i = 0; i < region.count; i += 1) {
          for (const version of news) yield { time, place: region.first + i, version };
        }
      }
    }
  }

  /**
   * Every outcome that a recovery can tell apart, once: a disk whose sectors get their content when they are read first.
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
    return crashesOf(this, options);
  }

  /**
   * Power cuts without end, or until there is nothing new: for tests whose recovery takes too long to try all. Their moments are
   * spread evenly over the trace, and half of them leave what random draws hardly ever meet, such as a single lost sector.
   * That all of them pass proves nothing about the others.
   *
   * @param seed a whole number; the same seed gives the same cuts
   */
  cuts(seed = 0): Generator<
    {
      /** The power is cut after everything in the trace with a smaller time. */
      readonly time: number;
      /** What it leaves. */
      readonly state: CrashState;
    },
    void
  > {
    return cutsOf(this.map, seed);
  }

  *#under(last: Last): Generator<CrashState, void> {
    const versions = new Int32Array(this.map.places);
    const open: (readonly [place: number, list: readonly number[]])[] = [];
    for (const [place, list] of this.choicesUnder(last)) {
      versions[place] = list[list.length - 1] as number;
      if (list.length > 1) open.push([place, list]);
    }
    const digits = new Int32Array(open.length);
    for (;;) {
      yield new CrashState(this.map, versions.slice());
      let i = 0;
      for (; i < open.length; i += 1) {
        const [place, list] = open[i] as (typeof open)[number];
        digits[i] = ((digits[i] as number) + 1) % list.length;
        versions[place] = list[list.length - 1 - (digits[i] as number)] as number;
        if (digits[i] !== 0) break;
      }
      if (i === open.length) return;
    }
  }

  /** The state with a version for each place. @internal */
  stateWith(versions: Int32Array): CrashState {
    return new CrashState(this.map, versions);
  }

  /** Every place with the versions that it may have beside the last one. @internal */
  *choicesUnder(last: Last): Generator<[place: number, list: readonly number[]], void> {
    for (const region of this.map.regions) {
      const { first, count } = region;
      let list: readonly number[] = [];
      for (let place = first; place < first + count; place += 1) {
        // It changes at the place of the last version, and nowhere else in a region.
        if (place === first || Math.abs(place - last.place) <= 1) {
          list = choicesBeside(last, place, region);
        }
        yield [place, list];
      }
    }
  }

  #lastIn(versions: Int32Array): Last | undefined {
    let last: Last | undefined;
    for (const region of this.map.regions) {
      for (let place = region.first; place < region.first + region.count; place += 1) {
        const version = versions[place] as number;
        const { after: time } = versionAt(region, version);
        if (version > 0 && time >= (last?.time ?? time)) last = { time, place, version };
      }
    }
    return last;
  }

  #numbered(): Numbers {
    if (this.#numbers) return this.#numbers;
    const moments: Numbers['moments'][number][] = [];
    const before: bigint[] = [];
    let count = 1n;
    for (const { time, regions, without: fewer, choices } of beginnings(this.map)) {
      const without = productOf(fewer);
      moments.push({ time, regions, without });
      before.push(count);
      count += productOf(choices) - without;
    }
    this.#numbers = { moments, before };
    return this.#numbers;
  }

  #drawn(): Chances {
    if (this.#chances) return this.#chances;
    const moments: Moment[] = [];
    const logs: number[] = [];
    for (const { time, regions, without, choices } of beginnings(this.map)) {
      const all = logarithmOf(choices);
      moments.push({ time, regions });
      logs.push(all + Math.log(-Math.expm1(logarithmOf(without) - all)));
    }
    // The untouched state.
    logs.push(0);
    const most = logs.reduce((max, log) => Math.max(max, log));
    let sum = 0;
    const upTo = logs.map((log) => {
      sum += Math.exp(log - most);
      return sum;
    });
    this.#chances = { moments, upTo };
    return this.#chances;
  }
}

/**
 * The crash space of a trace on a device: all disk images that a power cut during the trace may leave.
 *
 * @param profile a device of `DEVICE_PROFILES`, or the fields that differ from a file
 * @throws `INVALID_ARGUMENT` for what is no trace, for an unknown device, for a trace that is impossible on the device, and for one
 *   with more than 4,000,000 contents of regions
 */
export function crashSpace(
  trace: DiskTrace,
  profile: DeviceName | Partial<DeviceProfile> = 'file',
): CrashSpace {
  checkDiskTrace(trace);
  const device = deviceProfile(profile);
  return new CrashSpace(regionsOf(trace, device), device);
}

/** The versions that a place may have beside the last one. */
function choicesBeside(
  { time, place: last, version }: Last,
  place: number,
  region: Region,
): number[] {
  if (place === last) return [version];
  const all = possibleAt(region, time);
  return place < last ? all : all.filter((one) => versionAt(region, one).after < time);
}

/** The versions of a region that begin at a moment. */
function begunAt(region: Region, time: number): number[] {
  return possibleAt(region, time).filter((one) => versionAt(region, one).after === time);
}

/** The last versions of a moment, each with the number of states under it and under those before it. */
function* numberedAt({ time, regions, without }: Numbers['moments'][number]): Generator<{
  readonly last: Last;
  readonly before: bigint;
  readonly count: bigint;
}> {
  let before = 0n;
  let product = without;
  for (const region of regions) {
    const news = begunAt(region, time);
    const all = BigInt(possibleAt(region, time).length);
    for (let place = region.first; place < region.first + region.count; place += 1) {
      // Places before the last one may have the versions of the moment, too.
      const count = product / (all - BigInt(news.length));
      for (const version of news) {
        yield { last: { time, place, version }, before, count };
        before += count;
      }
      product = count * all;
    }
  }
}

/** Draws the last version of a state of that moment, with the chances that the numbers of states give it. */
function drawn({ time, regions }: Moment, random: Random): Last {
  // In logarithms, because the numbers may be larger than any number of 64 bits.
  let sum = 0;
  const shares = regions.map((region) => {
    const news = begunAt(region, time);
    const all = possibleAt(region, time).length;
    const each = Math.log(all / (all - news.length));
    const whole = region.count * each;
    const log = sum + whole + Math.log(-Math.expm1(-whole));
    sum += whole;
    return { region, news, each, whole, log };
  });
  const most = shares.reduce((max, { log }) => Math.max(max, log), Number.NEGATIVE_INFINITY);
  const total = shares.reduce((all, { log }) => all + Math.exp(log - most), 0);
  let left = random() * total;
  const share = shares.find(({ log }) => {
    left -= Math.exp(log - most);
    return left < 0;
  });
  const { region, news, each, whole } = share ?? (shares.at(-1) as (typeof shares)[number]);
  const by = random();
  const n = Math.floor((whole + Math.log(by + (1 - by) * Math.exp(-whole))) / each);
  const place = region.first + Math.min(Math.max(n, 0), region.count - 1);
  return { time, place, version: news[Math.floor(random() * news.length)] as number };
}

/** A count in full where it fits a line; else by its beginning. */
function inShort(count: bigint): string {
  const digits = String(count);
  return digits.length > 40 ? `${digits.slice(0, 12)}... (${digits.length} digits)` : digits;
}
