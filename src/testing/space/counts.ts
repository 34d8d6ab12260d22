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

import { possibleAt, type Region, type RegionMap } from './regions.js';

/** The number of places with each number of choices. */
export type Histogram = ReadonlyMap<number, number>;

/** A moment at which versions begin. */
export interface Beginning {
  readonly time: number;
  /** The last moment before at which others began. */
  readonly previous: number;
  /** The regions in which versions begin, ascending. */
  readonly regions: readonly Region[];
  /** The choices before this moment; undefined if no version has ended since `previous`. */
  readonly ending: Histogram | undefined;
  /** Without the versions that have ended. It changes when the next one is asked for. */
  readonly without: Histogram;
  /** With the versions that begin, too. It changes when the next one is asked for. */
  readonly choices: Histogram;
}

/** Follows the number of choices through all moments at which versions begin, ascending. */
export function* beginnings({ regions, places }: RegionMap): Generator<Beginning, void> {
  const begins: { readonly at: number; readonly region: Region }[] = [];
  const ends: { readonly at: number; readonly region: Region }[] = [];
  for (const region of regions) {
    for (const [n, { after, ordered }] of region.versions.entries()) {
      if (n > 0) begins.push({ at: after, region });
      if (ordered < Number.POSITIVE_INFINITY) ends.push({ at: ordered, region });
    }
  }
  // Sorting is stable, so the regions of one moment stay in their order.
  begins.sort((a, b) => a.at - b.at);
  ends.sort((a, b) => a.at - b.at);
  const of = new Map<Region, number>();
  const choices = new Map<number, number>([[1, places]]);
  const change = (region: Region, by: number): void => {
    const before = of.get(region) ?? 1;
    of.set(region, before + by);
    choices.set(before, (choices.get(before) as number) - region.count);
    choices.set(before + by, (choices.get(before + by) ?? 0) + region.count);
  };
  let previous = Number.NEGATIVE_INFINITY;
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
    const begun = new Set<Region>();
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
    if (of > 1 && places > 0) powers.push(BigInt(of) ** BigInt(places));
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

/** A product of choices that is multiplied out when it is needed. */
class Product {
  readonly #choices: Histogram;
  #value: bigint | undefined;

  constructor(choices: Histogram) {
    this.#choices = new Map(choices);
  }

  get value(): bigint {
    this.#value ??= productOf(this.#choices);
    return this.#value;
  }
}

/** A moment at which versions begin, after others have ended. */
interface Break {
  readonly time: number;
  readonly previous: number;
  readonly ending: Product;
  readonly without: Product;
}

/** The places that a recovery has read, as their number for each region. */
export type DecidedPlaces = ReadonlyMap<Region, number>;

const NONE: DecidedPlaces = new Map();
const NEVER = Number.POSITIVE_INFINITY;

/** A map with the numbers of its crash states. */
export interface Counted {
  readonly map: RegionMap;
  readonly counts: Counts;
}

/** The numbers of crash states of a map. */
export class Counts {
  readonly #breaks: readonly Break[];
  readonly #last: { readonly time: number; readonly choices: Product };

  constructor(map: RegionMap) {
    const breaks: Break[] = [];
    let time = Number.NEGATIVE_INFINITY;
    let last: Histogram = new Map();
    for (const { time: at, previous, ending, without, choices } of beginnings(map)) {
      time = at;
      last = choices;
      if (!ending) continue;
      breaks.push({
        ...{ time, previous, ending: new Product(ending), without: new Product(without) },
      });
    }
    this.#breaks = breaks;
    this.#last = { time, choices: new Product(last) };
  }

  /** All crash states. */
  get all(): bigint {
    return this.within(Number.NEGATIVE_INFINITY, NEVER, NONE);
  }

  /**
   * Those that agree with a recovery.
   *
   * @param after the latest dispatch that it has seen
   * @param bound nothing from here on can be visible: the `ordered` of a version, or Infinity
   */
  within(after: number, bound: number, decided: DecidedPlaces): bigint {
    let count: bigint;
    let end = this.#breaks.length;
    if (bound > this.#last.time) {
      const { time, choices } = this.#last;
      count = choices.value / product(decided, time, time);
    } else {
      end = this.#countBefore(bound);
      // Where versions end at the bound, the choices before that moment are known.
      const { ending, previous } = this.#breaks[end] as Break;
      count = ending.value / product(decided, previous, previous);
    }
    for (let n = this.#countBefore(after); n < end; n += 1) {
      const { time, previous, ending, without } = this.#breaks[n] as Break;
      if (time === after) continue;
      count += ending.value / product(decided, previous, previous);
      count -= without.value / product(decided, previous, time);
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

/** The choices of the decided places among versions that have begun by one moment and have not ended by another. */
function product(decided: DecidedPlaces, begun: number, ended: number): bigint {
  let all = 1n;
  for (const [region, places] of decided) {
    const of = choicesOf(region, begun, ended).length;
    if (of > 1) all *= BigInt(of) ** BigInt(places);
  }
  return all;
}

/** The versions of a region that have begun by one moment and have not ended by another. */
function choicesOf(region: Region, begun: number, ended: number): number[] {
  if (begun === ended) return possibleAt(region, begun);
  return possibleAt(region, begun).filter(
    (version) => (region.versions[version]?.ordered ?? 0) > ended,
  );
}
