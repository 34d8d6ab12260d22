// Power cuts for tests whose recovery takes too long to try them all, such as a file system check: the more of them, the better.
//
// Their moments are spread evenly over the trace, because of states drawn with equal chances most come from the one moment with
// the most places in doubt. Half of the choices at a moment are what random draws hardly ever meet: all in doubt is lost, all
// is kept, one place is lost, one place is kept. The other half keeps each place with a chance that is drawn for the cut.
//
// What passes here is not proved: it says that these states pass, and nothing about the others.

import { evenly, type Random, seededRandom } from '../choices.js';
import { CrashState } from './crash-state.js';
import type { RegionMap } from './regions.js';
import { byChance } from './strategies/random.js';
import { type Doubt, doubtAt, type Target } from './strategies/strategy.js';

/** After so many draws that leave the same as earlier ones there is hardly anything new. */
const REPEATS_MAX = 1000;

/** No two of the states are the same. */
export function* cutsOf(
  map: RegionMap,
  seed: number,
): Generator<{ readonly time: number; readonly state: CrashState }, void> {
  const random = seededRandom(seed);
  const events = eventsOf(map);
  const seen = new Set<number>();
  for (let draw = 0, repeats = 0; repeats < REPEATS_MAX; draw += 1) {
    const next = Math.floor(evenly(draw) * (events.length + 1));
    // The power is cut between two events.
    const earlier = events[next - 1] ?? (events[next] ?? 0) - 1;
    const time = (earlier + (events[next] ?? earlier + 1)) / 2;
    const state = new CrashState(map, targetOf(doubtAt(map, time), draw, random));
    const key = digestOf(state.versions);
    repeats = seen.has(key) ? repeats + 1 : 0;
    if (repeats > 0) continue;
    seen.add(key);
    yield { time, state };
  }
}

/** The moments at which something becomes possible or certain, ascending. */
function eventsOf({ regions }: RegionMap): number[] {
  const events = new Set<number>();
  for (const { versions } of regions) {
    for (const { after, ordered, durable } of versions) events.add(after).add(ordered).add(durable);
  }
  return [...events].filter(Number.isFinite).sort((a, b) => a - b);
}

function targetOf(doubt: Doubt, draw: number, random: Random): Target {
  const { newest, oldest } = doubt;
  const one = openPlace(doubt, random());
  const some = byChance(doubt, random);
  const kinds: readonly Target[] = [
    oldest,
    newest,
    (place) => (place === one ? oldest : newest)(place),
    (place) => (place === one ? newest : oldest)(place),
  ];
  return kinds[draw % (2 * kinds.length)] ?? some;
}

/** One of the places in doubt; -1 if there are none. */
function openPlace({ open }: Doubt, share: number): number {
  let nth = Math.floor(share * open.reduce((sum, { region }) => sum + region.count, 0));
  for (const { region } of open) {
    const { first, count } = region;
    if (nth < count) return first + nth;
    nth -= count;
  }
  return -1;
}

/** A hash of 32 bits: of a thousand states hardly two have the same, and then one of them is left out. */
function digestOf(versions: Int32Array): number {
  return versions.reduce(
    (hash, version) => Math.imul(hash ^ (version + 1), 0x85ebca6b) ^ (hash >>> 15),
    1,
  );
}
