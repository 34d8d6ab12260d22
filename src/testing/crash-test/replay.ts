// Replays: the text that repeats a failure.
//
//   seed 0 steps 1,4 cut 7 512:0 then cut 3 life cut 12
//
// The seed and the steps of the program say which run of the workload it is. `cut 7` leaves everything that was dispatched up to
// moment 7 of the trace; `512:0` says that the place at offset 512 has version 0 instead, of a tree of files its place 512;
// `size:0` says that of the size of a disk. `then` cuts the power during the recovery that follows, `life` during the recovery and the
// work that follow. A last `life` without a cut says that these fail.

import { formatValue, invalid, misuse } from '../../model/index.js';
import { lostPlaces, momentsOf, newestUntil, regionOf } from '../space/places.js';
import type { Cut, Kinds, States } from './subject.js';

/** What `keyOf` of a disk says for its size, which has no offset. */
export const SIZE_KEY = -1;

/** A replay: a seed, the steps of the program that ran, and the power cuts. */
export interface Replay {
  readonly seed: number;
  /** Indexes in the program, ascending. */
  readonly steps: readonly number[];
  readonly cuts: readonly Cut[];
  /** The recovery and the work that follow the last cut are to end. */
  readonly goesOn?: boolean | undefined;
}

/** A state as a cut at a moment; that of an untouched medium may be before all others. */
export function cutOf<K extends Kinds>(
  states: States<K>,
  { space: { map }, state, during }: K['life'] & { readonly state: K['state'] },
  moment: number,
): Cut {
  const first = Math.min(0, ...momentsOf(map).slice(0, 1)) - 1;
  const time = moment > Number.NEGATIVE_INFINITY ? moment : first;
  const odd = new Map<number, number>();
  for (const { region, place, there } of lostPlaces(map, state.versions, time))
    odd.set(states.keyOf(region, place), there);
  return { during, time, versions: odd };
}

/** The state that a cut leaves; undefined if no power cut leaves it. `below`: what the life before has left. */
export function stateOf<K extends Kinds>(
  states: States<K>,
  space: K['life']['space'],
  { time, versions }: Cut,
  below?: K['left'],
): K['state'] | undefined {
  const { map } = space;
  for (const [key, version] of versions) {
    const place = states.placeOf(space, key);
    if (place === undefined || version >= regionOf(map, place).versions.length) return undefined;
  }
  const versionOf = (place: number): number => {
    const region = regionOf(map, place);
    return versions.get(states.keyOf(region, place)) ?? newestUntil(region, time, true);
  };
  const state = states.state(space, versionOf, below);
  return state.isPossible ? state : undefined;
}

/** The text of a replay. `length`: how many steps the program has; all of them go without saying. */
export function formatReplay({ seed, steps, cuts, goesOn }: Replay, length: number): string {
  const some = steps.length < length ? ` steps ${steps.join()}` : '';
  const all = cuts.map(({ during, time, versions }) => {
    const named = (key: number): string => (key === SIZE_KEY ? 'size' : `${key}`);
    const odd = [...versions].map(([key, version]) => ` ${named(key)}:${version}`).join('');
    const words = { workload: '', recovery: ' then', life: ' life' };
    return `${words[during]} cut ${time}${odd}`;
  });
  return `seed ${seed}${some}${all.join('')}${goesOn ? ' life' : ''}`;
}

/** A text of this length takes milliseconds to parse. */
const CHARACTERS_MAX = 1_000_000;

const FORM =
  /^seed (\d+)(?: steps ((?:\d+(?:,\d+)*)?))?((?:(?: then| life)? cut -?\d+(?:\.\d+)?(?:e[+-]\d+)?(?: (?:\d+|size):\d+)*)+)( life)?$/;

/**
 * Parses a replay.
 *
 * @param length how many steps the program has
 * @throws `INVALID_ARGUMENT` for any other text, and for steps that are not in the program or not ascending
 */
export function parseReplay(text: string, length: number): Replay {
  const parts = typeof text === 'string' && text.length <= CHARACTERS_MAX && FORM.exec(text);
  const wrong = (): Error => invalid('replay', "'seed N cut N', copied from a report", text);
  if (!parts) throw wrong();
  const [, seed = '', list, rest = '', end] = parts;
  // A number of more digits is not exact.
  if (Number(seed) >= 2 ** 32) {
    throw misuse(`replay: the seed must be below 2^32, not ${formatValue(seed)}`);
  }
  const all = [...new Array(length).keys()];
  const steps = list === undefined ? all : list.split(',').filter(Boolean).map(Number);
  if (steps.some((step, i) => step >= length || step <= (steps[i - 1] ?? -1))) {
    throw misuse(
      `replay: the steps must be ascending numbers below ${length}, as the program has them`,
    );
  }
  const cuts = [...rest.matchAll(/(?: (then|life))? cut (\S+)((?: (?:\d+|size):\d+)*)/g)].map(
    ([, how, time, odd = '']): Cut => ({
      during: how === 'then' ? 'recovery' : how === 'life' ? how : 'workload',
      time: Number(time),
      versions: new Map(
        [...odd.matchAll(/(\d+|size):(\d+)/g)].map(([, key, version]) => [
          key === 'size' ? SIZE_KEY : Number(key),
          Number(version),
        ]),
      ),
    }),
  );
  // Only the first cut has no word before it.
  if (cuts.some(({ during }, i) => (during === 'workload') !== (i === 0))) throw wrong();
  return { seed: Number(seed), steps, cuts, goesOn: end !== undefined };
}
