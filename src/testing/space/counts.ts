// How many crash states there are, without looking at each.
//
// Let T be the latest dispatch that is visible in a crash state. At T each place has a number of versions to choose from. The
// states with their latest dispatch at T are all choices at T, less those without anything dispatched at T:
//
//   states = 1 + sum over T of (product of the choices at T - the same product without the versions that begin at T)
//
// From one T to the next most terms cancel. What is left are the products at the moments where versions end, which is where a
// flush has been answered. So a log with many writes and few flushes takes few products, however many places it has. A product
// is kept as the number of places for each number of choices, and multiplied out when it is needed.
//
// Source: exact counting on interval orders.

import type { DecidedPlaces } from './decisions.js';
import { type Cut, type PlaceMap, type Places, possibleAt, type Slice, TimeCut } from './places.js';

/** The number of places with each number of choices. */
export type Histogram = ReadonlyMap<number, number>;

/** A moment at which versions begin. */
export interface Beginning<R extends Places> {
  readonly time: number;
  /** The last moment before at which others began. */
  readonly previous: number;
  /** The regions in which versions begin, ascending. */
  readonly regions: readonly R[];
  /** The choices before this moment; undefined if no version has ended since `previous`. */
  readonly ending: Histogram | undefined;
  /** Without the versions that have ended. It changes when the next one is asked for. */
  readonly without: Histogram;
  /** With the versions that begin, too. It changes when the next one is asked for. */
  readonly choices: Histogram;
}

/**
 * Follows the number of choices through all moments at which versions begin, ascending.
 *
 * @param slice the part of further clocks that is looked at
 * @param choices receives the choices at the current moment
 */
export function* beginnings<R extends Places>(
  { regions }: PlaceMap<R>,
  slice?: Slice,
  choices: Map<number, number> = new Map(),
): Generator<Beginning<R>, void> {
  const { start, end } = slice ?? ALWAYS;
  const begins: { readonly at: number; readonly region: R }[] = [];
  const ends: { readonly at: number; readonly region: R }[] = [];
  const of = new Map<R, number>();
  for (const region of regions) {
    let begun = 0;
    for (const version of region.versions) {
      const { after, ordered } = version;
      if (after >= end || ordered <= start || slice?.has(version) === false) continue;
      if (after <= start) begun += 1;
      else begins.push({ at: after, region });
      if (ordered < NEVER) ends.push({ at: ordered, region });
    }
    of.set(region, begun);
    choices.set(begun, (choices.get(begun) ?? 0) + region.count);
  }
  // Sorting is stable, so the regions of one moment stay in their order.
  begins.sort((a, b) => a.at - b.at);
  ends.sort((a, b) => a.at - b.at);
  const change = (region: R, by: number): void => {
    const before = of.get(region) as number;
    of.set(region, before + by);
    choices.set(before, (choices.get(before) as number) - region.count);
    choices.set(before + by, (choices.get(before + by) ?? 0) + region.count);
  };
  let previous = start;
  let ended = 0;
  for (let next = 0; next < begins.length; ) {
    const { at: time } = begins[next] as { at: number };
    let ending: Histogram | undefined;
    // At one moment versions end before others begin; every place always has a choice.
    for (let end = ends[ended]; end && end.at <= time; end = ends[++ended]) {
      ending ??= new Map(choices);
      change(end.region, -1);
    }
    const without = new Map(choices);
    const begun = new Set<R>();
    for (let begin = begins[next]; begin?.at === time; begin = begins[++next]) {
      change(begin.region, 1);
      begun.add(begin.region);
    }
    yield { time, previous, regions: [...begun], ending, without, choices };
    previous = time;
  }
}

/** Multiplies the choices of all places. */
export function productOf(choices: Histogram): bigint {
  const powers: bigint[] = [];
  for (const [of, places] of choices) {
    if (of !== 1 && places > 0) powers.push(BigInt(of) ** BigInt(places));
  }
  // The smallest first, because multiplication takes longer the larger the numbers are.
  powers.sort((a, b) => (a < b ? -1 : 1));
  return powers.reduce((product, power) => product * power, 1n);
}

/** The logarithm of the same. */
export function logarithmOf(choices: Histogram): number {
  let sum = 0;
  for (const [of, places] of choices) sum += places * Math.log(of);
  return sum;
}

const NEVER = Number.POSITIVE_INFINITY;
const ALWAYS = { start: -NEVER, end: NEVER };

/** A product of choices that is multiplied out when it is needed. */
type Product = () => bigint;

function productLater(choices: Histogram): Product {
  const kept = new Map(choices);
  let value: bigint | undefined;
  return () => {
    value ??= productOf(kept);
    return value;
  };
}

/** A moment at which versions begin, after others have ended. */
interface Break {
  readonly time: number;
  readonly previous: number;
  readonly ending: Product;
  readonly without: Product;
}

/** The numbers of crash states of a map. */
export class Counts {
  readonly start: Cut = new TimeCut();
  readonly #slice: Slice | undefined;
  readonly #breaks: readonly Break[];
  readonly #last: { readonly time: number; readonly choices: Product };

  /** @param slice the part of further clocks that is counted */
  constructor(map: PlaceMap, slice?: Slice) {
    const breaks: Break[] = [];
    let { start: time } = slice ?? ALWAYS;
    const choices = new Map<number, number>();
    for (const { time: at, previous, ending, without } of beginnings(map, slice, choices)) {
      time = at;
      if (!ending) continue;
      const [before, rest] = [ending, without].map(productLater) as [Product, Product];
      breaks.push({ time, previous, ending: before, without: rest });
    }
    this.#slice = slice;
    this.#breaks = breaks;
    this.#last = { time, choices: productLater(choices) };
  }

  /** All crash states. */
  get all(): bigint {
    return this.within(this.start, new Map());
  }

  /** Those that agree with a recovery: the `bound` of its cut is the `ordered` of a version, or later than all of them. */
  within({ after, bound }: Pick<Cut, 'after' | 'bound'>, decided: DecidedPlaces): bigint {
    const product = (begun: number, ended: number): bigint => {
      let all = 1n;
      for (const [region, places] of decided) {
        const of = possibleAt(region, begun, ended, this.#slice).length;
        if (of > 1) all *= BigInt(of) ** BigInt(places);
      }
      return all;
    };
    let count: bigint;
    let end = this.#breaks.length;
    if (bound > this.#last.time) {
      const { time, choices } = this.#last;
      count = choices() / product(time, time);
    } else {
      end = this.#countBefore(bound);
      // Where versions end at the bound, the choices before that moment are known.
      const { ending, previous } = this.#breaks[end] as Break;
      count = ending() / product(previous, previous);
    }
    for (let n = this.#countBefore(after); n < end; n += 1) {
      const { time, previous, ending, without } = this.#breaks[n] as Break;
      if (time === after) continue;
      count += ending() / product(previous, previous);
      count -= without() / product(previous, time);
    }
    return count;
  }

  /** The number of breaks before a moment. */
  #countBefore(time: number): number {
    let low = 0;
    let high = this.#breaks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#breaks[middle] as Break).time >= time) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
