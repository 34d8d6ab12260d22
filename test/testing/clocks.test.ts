// Further clocks against brute force: every point of every clock, one after the other.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Clock,
  ClockCounts,
  type ClockVersion,
  pointsAt,
} from '../../src/testing/space/clocks.js';
import { Decisions } from '../../src/testing/space/decisions.js';
import { type PlaceMap, type Places, regionOf, versionAt } from '../../src/testing/space/places.js';
import { walksOf } from '../../src/testing/space/walks.js';
import { share } from '../kit/amount.js';

const NEVER = Number.POSITIVE_INFINITY;
/** Moments are whole numbers from 0. */
const END = 12;

interface World {
  readonly clocks: readonly Clock[];
  readonly map: PlaceMap<Places<ClockVersion>> & { counts?: ClockCounts };
}

/** Staircases: each step may be taken from a moment on, and some must be taken at a later one. */
const clock = fc
  .array(fc.record({ at: fc.nat(END - 1), forced: fc.option(fc.integer({ min: 1, max: 6 })) }), {
    maxLength: 4,
  })
  .map((steps): Clock => {
    const sorted = [...steps].sort((a, b) => a.at - b.at);
    const until = sorted.map(({ at, forced }) => (forced === null ? NEVER : at + forced));
    for (let n = until.length - 2; n >= 0; n -= 1) {
      until[n] = Math.min(until[n] as number, until[n + 1] as number);
    }
    return { from: [-NEVER, ...sorted.map(({ at }) => at)], until: [...until, NEVER] };
  });

/** A change of a place: a step of one of the clocks or of both, or free. */
const change = fc.record({
  isStep: fc.boolean(),
  reached: fc.tuple(fc.nat(5), fc.nat(5)),
  at: fc.nat(END),
  durable: fc.option(fc.integer({ min: 1, max: 8 })),
});

const worlds = fc
  .record({
    clocks: fc.array(clock, { maxLength: 2 }),
    histories: fc.array(
      fc.tuple(fc.array(change, { maxLength: 4 }), fc.integer({ min: 1, max: 2 })),
      {
        maxLength: 4,
      },
    ),
  })
  .map(({ clocks, histories }): World => {
    let places = 0;
    const regions = histories.map(([changes, count]) => {
      const first = places;
      places += count;
      return { first, count, versions: versionsOf(changes, clocks) };
    });
    return { clocks, map: { regions, places } };
  });

function versionsOf(
  changes: readonly (typeof change extends fc.Arbitrary<infer C> ? C : never)[],
  clocks: readonly Clock[],
): ClockVersion[] {
  const versions: ClockVersion[] = [];
  const zeros = clocks.map(() => 0);
  const free: { at: number; durable: number }[][] = [[]];
  const eras = [zeros];
  for (const { isStep, reached, at, durable } of changes) {
    if (isStep && clocks.length > 0) {
      const values = clocks.map(({ from }, n) => {
        const value = 1 + (reached[n] as number);
        return value < from.length ? value : NEVER;
      });
      if (values.every((value) => value === NEVER)) continue;
      eras.push(values);
      free.push([]);
    } else {
      free.at(-1)?.push({ at, durable: durable === null ? NEVER : at + durable });
    }
  }
  for (const [era, from] of eras.entries()) {
    const later = eras.slice(era + 1);
    const until = clocks.map((_, n) => Math.min(NEVER, ...later.map((one) => one[n] as number)));
    const own = (free[era] as { at: number; durable: number }[]).sort((a, b) => a.at - b.at);
    const add = (after: number, behind: typeof own): void => {
      const ordered = Math.min(NEVER, ...behind.map(({ durable }) => durable));
      const when = clocks.length > 0 ? { from, until } : undefined;
      versions.push({ command: 0, after, ordered, durable: ordered, intact: true, when });
    };
    add(-NEVER, own);
    for (const [n, { at }] of own.entries()) add(at, own.slice(n + 1));
  }
  return versions;
}

/** Every moment with every value that each clock may have then. */
function* points({ clocks }: World): Generator<{ time: number; values: number[] }> {
  for (let time = -1; time <= END + 20; time += 1) {
    const ranges = clocks.map(({ from, until }) =>
      [...from.keys()].filter(
        (value) => (from[value] as number) <= time && time < (until[value] as number),
      ),
    );
    const all = ranges.reduce<number[][]>(
      (lists, range) => lists.flatMap((list) => range.map((value) => [...list, value])),
      [[]],
    );
    for (const values of all) yield { time, values };
  }
}

function isPossible(
  { after, ordered, when }: ClockVersion,
  time: number,
  values: number[],
): boolean {
  if (time < after || time >= ordered) return false;
  if (!when) return true;
  return (
    when.from.some((value, n) => value <= (values[n] as number)) &&
    when.until.every((value, n) => (values[n] as number) < value)
  );
}

/** The versions of all places, for each state. */
function statesOf(world: World): Set<string> {
  const states = new Set<string>();
  for (const { time, values } of points(world)) {
    let lists: string[] = [''];
    for (const { versions, count } of world.map.regions) {
      const can = [...versions.keys()].filter((n) =>
        isPossible(versions[n] as ClockVersion, time, values),
      );
      for (let n = 0; n < count; n += 1) {
        lists = lists.flatMap((list) => can.map((version) => `${list} ${version}`));
      }
    }
    for (const list of lists) states.add(list);
  }
  return states;
}

function spaceOf({ clocks, map }: World) {
  const whole = { ...map, pointsAt: (time: number) => pointsAt(clocks, time) };
  return { map: whole, counts: new ClockCounts(whole, clocks) };
}

describe('given any staircases, and places whose versions they bring', () => {
  test('at every moment, and for all values that the clocks may have, each place has a version (clocks.K3)', () => {
    fc.assert(
      fc.property(worlds, (world) => {
        for (const { time, values } of points(world)) {
          for (const { versions } of world.map.regions) {
            expect(versions.some((version) => isPossible(version, time, values))).toBe(true);
          }
        }
      }),
      { numRuns: share(2000, 300) },
    );
  });

  test('the count is that of all states that brute force finds', () => {
    fc.assert(
      fc.property(worlds, (world) => {
        const space = spaceOf(world);
        expect(new Decisions(space).states).toBe(BigInt(statesOf(world).size));
      }),
      { numRuns: share(6000, 1000) },
    );
  });

  test('every partial choice can be completed, and what looks at some places in any order covers all states, each once', () => {
    fc.assert(
      fc.property(worlds, fc.array(fc.nat(7)), (world, order) => {
        const space = spaceOf(world);
        const states = [...statesOf(world)].map((state) => state.trim().split(' ').map(Number));
        let covered = 0n;
        for (const walk of walksOf(new Decisions(space))) {
          for (const nth of order) {
            const place = nth % Math.max(1, world.map.places);
            const region = regionOf(world.map, place);
            if (world.map.places > 0) walk.decisions.versionOf(region, place, walk.choose);
          }
          const agrees = states.filter((versions) =>
            [...walk.decided].every(([place, version]) => versions[place] === version),
          );
          expect(walk.images).toBe(BigInt(agrees.length));
          expect(agrees.length).toBeGreaterThan(0);
          covered += walk.images;
        }
        expect(covered).toBe(BigInt(states.length));
      }),
      { numRuns: share(3000, 250) },
    );
  });

  test('with a budget, guides lead to states of the space, and none is counted twice', () => {
    fc.assert(
      fc.property(worlds, fc.integer({ min: 1, max: 40 }), (world, recoveriesMax) => {
        const space = spaceOf(world);
        const states = statesOf(world);
        const seen = new Set<string>();
        let covered = 0n;
        for (const walk of walksOf(new Decisions(space), { recoveriesMax })) {
          let text = '';
          for (const region of world.map.regions) {
            for (let place = region.first; place < region.first + region.count; place += 1) {
              text += ` ${walk.decisions.versionOf(region, place, walk.choose)}`;
            }
          }
          expect(states.has(text)).toBe(true);
          expect(walk.images).toBe(seen.has(text) ? 0n : 1n);
          seen.add(text);
          covered += walk.images;
        }
        expect(covered).toBeLessThanOrEqual(BigInt(states.size));
      }),
      { numRuns: share(1000, 150) },
    );
  });

  test('the cut of what is decided is just as long as the moments at which it is possible', () => {
    fc.assert(
      fc.property(worlds, fc.array(fc.nat(7)), fc.nat(), (world, order, seed) => {
        const space = spaceOf(world);
        const decisions = new Decisions(space);
        for (const nth of order) {
          const place = nth % Math.max(1, world.map.places);
          const region = regionOf(world.map, place);
          if (world.map.places > 0)
            decisions.versionOf(region, place, (_, __, { length }) => seed % length);
        }
        const times = [...points(world)]
          .filter(({ time, values }) =>
            [...decisions.decided].every(([place, version]) => {
              const region = regionOf(world.map, place);
              return isPossible(versionAt(region, version), time, values);
            }),
          )
          .map(({ time }) => time);
        expect(Math.max(decisions.after, -1)).toBe(Math.min(...times));
        expect(Math.min(decisions.before, END + 21)).toBe(Math.max(...times) + 1);
      }),
      { numRuns: share(2000, 300) },
    );
  });
});
