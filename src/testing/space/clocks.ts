// Further clocks of a medium, beside time.
//
// A journal of a file system commits operations one after the other, in the background. How many it has committed is a number
// that only grows: a clock. A version that the journal brings is possible while that clock is in a part of its values. So a
// crash state is a version for each place and one value of each clock, T among them, at which all these versions are possible.
//
//   K1  At a moment T a clock is between two staircases that only go up: it may have come to a value from `from` of that value
//       on, and must have left the value at its `until`.
//   K2  A value that must be reached at a moment could be reached before it, because what forces it had begun before.
//   K3  At every moment, and for all values that the clocks may have then, each place has a version.
//   K4  A version asks that one of the clocks, or another, has come to a value, and that none has come to another value.
//
// From these it follows that every partial choice can be completed. What K1 and K4 ask of values is closed under maximum: if
// two points are possible, so is the point with the larger of both values of each clock, because lower limits stay kept, and
// upper limits hold for each clock by itself. So what is decided leaves a largest point. It is found by lowering the largest
// values as far as the others ask; nothing is left if it breaks a lower limit. At that point each place has a version.
//
// Counting adds up points, takes away edges between two neighbouring points, adds squares, and so on; an edge counts the choices
// that are possible at both ends. For one choice that sum is the Euler characteristic of the points where it is possible.
// By K2 each of them but the largest has a larger neighbour among them, and if there are several, their maximum is one as
// well. So the points can be taken away one by one, smallest first, without changing the sum, and the sum is 1.

import { misuse } from '../../model/index.js';
import { Counts } from './counts.js';
import type { DecidedPlaces } from './decisions.js';
import { countUpTo } from './intervals.js';
import type { Cut, PlaceMap, Places, PlaceVersion, Slice } from './places.js';

/** A clock: how many of something have happened, from 0. */
export interface Clock {
  /** For each value the moment from which it may be reached, ascending; -Infinity for 0. */
  readonly from: readonly number[];
  /** For each value the moment from which it must be left behind, ascending; Infinity for the last. */
  readonly until: readonly number[];
}

/** The values of the clocks at which a version is possible. */
export interface When {
  /** One clock at least has come to its value here; Infinity for a clock that cannot bring the version. */
  readonly from: readonly number[];
  /** No clock has come to its value here; Infinity for a clock that cannot replace the version. */
  readonly until: readonly number[];
}

/** A version on a medium with further clocks. */
export interface ClockVersion extends PlaceVersion {
  /** Undefined if all values will do. */
  readonly when: When | undefined;
}

const NEVER = Number.POSITIVE_INFINITY;

/** What decided versions leave. */
export class ClockCut implements Cut {
  readonly #clocks: readonly Clock[];
  readonly after: number;
  readonly bound: number;
  /** The largest value that each clock may have. */
  readonly tops: readonly number[];
  /** Of each of these lists one clock at least has come to its value. */
  readonly floors: readonly (readonly number[])[];

  constructor(
    clocks: readonly Clock[],
    after: number = -NEVER,
    bound: number = NEVER,
    tops: readonly number[] = clocks.map(({ from }) => from.length - 1),
    floors: readonly (readonly number[])[] = [],
  ) {
    this.#clocks = clocks;
    this.after = after;
    this.bound = bound;
    this.tops = tops;
    this.floors = floors;
  }

  get before(): number {
    return this.bound;
  }

  allows(version: ClockVersion): boolean {
    return this.#with(version) !== undefined;
  }

  having(version: ClockVersion): Cut {
    return this.#with(version) ?? this;
  }

  /** Whether all that is decided is possible in a slice. */
  meets({ low, high, start, end }: ClockSlice): boolean {
    if (Math.max(this.after, start) >= Math.min(this.bound, end)) return false;
    return (
      high.every((value, n) => value <= (this.tops[n] as number)) &&
      this.floors.every((floor) => isReached(floor, low))
    );
  }

  #with({ after, ordered, when }: ClockVersion): ClockCut | undefined {
    const clocks = this.#clocks;
    const limits = this.tops.map((top, n) => Math.min(top, (when?.until[n] ?? NEVER) - 1));
    if (limits.some((limit) => limit < 0)) return undefined;
    const ends = clocks.map(({ until }, n) => until[limits[n] as number] as number);
    const bound = Math.min(this.bound, ordered, ...ends);
    // The bound itself is not reached. By K2 what is lowered here lowers no bound again.
    const tops = clocks.map(({ from }, n) =>
      Math.min(limits[n] as number, countBefore(from, bound) - 1),
    );
    const floors = when ? lowest([...this.floors, when.from]) : this.floors;
    let least = Math.max(this.after, after);
    for (const floor of floors) {
      const reached = clocks.map(({ from }, n) => {
        const value = floor[n] as number;
        return value <= (tops[n] as number) ? (from[value] as number) : NEVER;
      });
      least = Math.max(least, Math.min(...reached));
    }
    return least < bound ? new ClockCut(clocks, least, bound, tops, floors) : undefined;
  }
}

/** Whether one clock at least has come to its value. Loops, because long traces ask this hundreds of millions of times. */
function isReached(floor: readonly number[], values: readonly number[]): boolean {
  for (let n = 0; n < floor.length; n += 1) {
    if ((floor[n] as number) <= (values[n] as number)) return true;
  }
  return false;
}

/** The lower limits without those that follow from another one. */
function lowest(floors: readonly (readonly number[])[]): (readonly number[])[] {
  return floors.filter((floor, i) => {
    if (floor.some((value) => value <= 0)) return false;
    return !floors.some(
      (other, j) =>
        j !== i &&
        other.every((value, n) => value >= (floor[n] as number)) &&
        (j < i || other.some((value, n) => value > (floor[n] as number))),
    );
  });
}

function countBefore(ascending: readonly number[], value: number): number {
  let count = countUpTo(ascending, value);
  while (count > 0 && ascending[count - 1] === value) count -= 1;
  return count;
}

/** A point of the clocks, or what lies between neighbouring points. */
class ClockSlice implements Slice {
  readonly low: readonly number[];
  readonly high: readonly number[];
  readonly start: number;
  readonly end: number;

  constructor(clocks: readonly Clock[], low: readonly number[], high: readonly number[]) {
    this.low = low;
    this.high = high;
    this.start = Math.max(
      -NEVER,
      ...clocks.map(({ from }, n) => from[high[n] as number] as number),
    );
    this.end = Math.min(NEVER, ...clocks.map(({ until }, n) => until[low[n] as number] as number));
  }

  has({ when }: ClockVersion): boolean {
    return !when || (isReached(when.from, this.low) && !isReached(when.until, this.high));
  }

  /** How many clocks have two values in it. */
  get edges(): number {
    return this.low.filter((value, n) => value !== this.high[n]).length;
  }
}

/** All points, edges, squares, ... that are possible at some moment. */
function* slicesOf(clocks: readonly Clock[]): Generator<ClockSlice, void> {
  function* grown(low: readonly number[], high: readonly number[]): Generator<ClockSlice, void> {
    const clock = clocks[low.length];
    if (!clock) {
      yield new ClockSlice(clocks, low, high);
      return;
    }
    const { start, end } = new ClockSlice(clocks.slice(0, low.length), low, high);
    const { from, until } = clock;
    for (let value = countUpTo(until, start); (from[value] ?? NEVER) < end; value += 1) {
      yield* grown([...low, value], [...high, value]);
      const next = Math.max(start, from[value + 1] ?? NEVER);
      if (next < Math.min(end, until[value] as number)) {
        yield* grown([...low, value], [...high, value + 1]);
      }
    }
  }
  yield* grown([], []);
}

/** The points at a moment at which each clock has its largest or its smallest value; the first has all of the largest. */
export function* pointsAt(clocks: readonly Clock[], time: number): Generator<Slice, void> {
  const seen = new Set<string>();
  for (let bits = 0; bits < 2 ** clocks.length; bits += 1) {
    const values = clocks.map(({ from, until }, n) =>
      (bits >> n) & 1 ? countUpTo(until, time) : countUpTo(from, time) - 1,
    );
    if (seen.has(values.join())) continue;
    seen.add(values.join());
    yield new ClockSlice(clocks, values, values);
  }
}

/** So many looks at runs of places take about ten seconds. */
const LOOKS_MAX = 100_000_000;

function tooLong(): Error {
  return misuse(
    'the trace is too long: too many operations wait for the journal at the same time; take a part of it that ends with a sync',
  );
}

/** The numbers of crash states of a medium with further clocks. */
export class ClockCounts {
  readonly start: Cut;
  readonly #slices: readonly { readonly slice: ClockSlice; readonly counts: Counts }[];

  /** @throws `INVALID_ARGUMENT` for clocks with so many values at the same time that counting takes too long */
  constructor(map: PlaceMap<Places<ClockVersion>>, clocks: readonly Clock[]) {
    this.start = new ClockCut(clocks);
    const slices: ClockSlice[] = [];
    for (const slice of slicesOf(clocks)) {
      slices.push(slice);
      if (slices.length * map.regions.length > LOOKS_MAX) throw tooLong();
    }
    const mayHave = (slice: ClockSlice): boolean =>
      map.regions.every(({ versions }) => versions.some((one) => slice.has(one)));
    this.#slices = slices
      // Most edges have no choice: what an operation changes is before it or after it. A point has one by K3.
      .filter((slice) => slice.edges === 0 || mayHave(slice))
      .map((slice) => ({ slice, counts: new Counts(map, slice) }));
  }

  /** How many crash states agree with a cut, and with the places that it comes from. */
  within(cut: ClockCut, decided: DecidedPlaces): bigint {
    let count = 0n;
    for (const { slice, counts } of this.#slices) {
      if (!cut.meets(slice)) continue;
      const after = Math.max(cut.after, slice.start);
      const bound = cut.bound < slice.end ? cut.bound : NEVER;
      const states = counts.within({ after, bound }, decided);
      count += slice.edges % 2 === 0 ? states : -states;
    }
    return count;
  }
}
