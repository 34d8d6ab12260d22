// Replays: the text that repeats a failure.
//
//   seed 0 steps 1,4 cut 7 512:0 then cut 3 life cut 12
//
// The seed and the steps of the program say which run of the workload it is. `cut 7` leaves everything that was dispatched up to
// moment 7 of the trace; `512:0` says that the place at offset 512 has version 0 instead. `then` cuts the power during the
// recovery that follows, `life` during the recovery and the work that follow. A last `life` without a cut says that these fail.

import { formatValue, invalid, misuse } from '../../model/index.js';
import type { Content } from '../device/disk-trace.js';
import type { CrashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import { newestUntil, regionOf } from '../space/places.js';
import { offsetOf, regionAt } from '../space/regions.js';

/** A crash state of some life, in words that do not depend on how many states there are. */
export interface Cut {
  /** What was cut short. */
  readonly during: 'workload' | 'recovery' | 'life';
  /** Everything dispatched up to this moment is there. */
  readonly time: number;
  /** Except that the places at these offsets have these versions. */
  readonly versions: ReadonlyMap<number, number>;
}

/** A power cut: what it ended, and what it left of that. */
interface Left extends Pick<Cut, 'during'> {
  readonly space: CrashSpace;
  readonly state: CrashState;
}

/** A replay: a seed, the steps of the program that ran, and the power cuts. */
export interface Replay {
  readonly seed: number;
  /** Indexes in the program, ascending. */
  readonly steps: readonly number[];
  readonly cuts: readonly Cut[];
  /** The recovery and the work that follow the last cut are to end. */
  readonly goesOn?: boolean | undefined;
}

/** A state as a cut at a moment; that of an untouched disk may be before all others. */
export function cutOf({ space, state, during }: Left, moment: number): Cut {
  const { map, moments } = space;
  const first = Math.min(0, ...moments.slice(0, 1)) - 1;
  const time = moment > Number.NEGATIVE_INFINITY ? moment : first;
  const odd = new Map<number, number>();
  for (const region of map.regions) {
    const newest = newestUntil(region, time, true);
    for (let place = region.first; place < region.first + region.count; place += 1) {
      const version = state.versions[place] as number;
      if (version !== newest) odd.set(offsetOf(region, place), version);
    }
  }
  return { during, time, versions: odd };
}

/** The state that a cut leaves; undefined if no power cut leaves it. */
export function stateOf(
  { map }: CrashSpace,
  { time, versions }: Cut,
  below?: Content,
): CrashState | undefined {
  for (const [offset, version] of versions) {
    const region = regionAt(map, offset);
    const isPlace = region && (offset - region.offset) % region.step === 0;
    if (!isPlace || version >= region.versions.length) return undefined;
  }
  const versionOf = (place: number): number => {
    const region = regionOf(map, place);
    return versions.get(offsetOf(region, place)) ?? newestUntil(region, time, true);
  };
  const state = new CrashState(map, versionOf, below);
  return state.isPossible ? state : undefined;
}

/** The text of a replay. `length`: how many steps the program has; all of them go without saying. */
export function formatReplay({ seed, steps, cuts, goesOn }: Replay, length: number): string {
  const some = steps.length < length ? ` steps ${steps.join()}` : '';
  const all = cuts.map(({ during, time, versions }) => {
    const odd = [...versions].map(([offset, version]) => ` ${offset}:${version}`).join('');
    const words = { workload: '', recovery: ' then', life: ' life' };
    return `${words[during]} cut ${time}${odd}`;
  });
  return `seed ${seed}${some}${all.join('')}${goesOn ? ' life' : ''}`;
}

/** A text of this length takes milliseconds to parse. */
const CHARACTERS_MAX = 1_000_000;

const FORM =
  /^seed (\d+)(?: steps ((?:\d+(?:,\d+)*)?))?((?:(?: then| life)? cut -?\d+(?:\.\d+)?(?:e[+-]\d+)?(?: \d+:\d+)*)+)( life)?$/;

/**
 * Parses a replay.
 *
 * @param length how many steps the program has
 * @throws `INVALID_ARGUMENT` for any other text, and for steps that are not in the program or not ascending
 */
export function parseReplay(text: string, length: number): Replay {
  const parts = typeof text === 'string' && text.length <= CHARACTERS_MAX && FORM.exec(text);
  if (!parts) throw invalid('replay', "'seed N cut N', copied from a report", text);
  const [, seed = '', list, rest = '', end] = parts;
  // A number of more digits is not exact.
  if (Number(seed) >= 2 ** 32) {
    throw misuse(`replay: the seed must be below 2^32, not ${formatValue(seed)}`);
  }
  const all = [...new Array(length).keys()];
  const steps = list === undefined ? all : list.split(',').filter(Boolean).map(Number);
  if (steps.some((step) => step >= length)) {
    throw misuse(`replay: the program has ${length} steps, numbered from 0`);
  }
  if (steps.some((step, i) => i > 0 && step <= (steps[i - 1] as number))) {
    throw misuse('replay: the steps must be in ascending order, each of them once');
  }
  const cuts = [...rest.matchAll(/(?: (then|life))? cut (\S+)((?: \d+:\d+)*)/g)].map(
    ([, how, time, odd = '']): Cut => ({
      during: how === 'then' ? 'recovery' : how === 'life' ? how : 'workload',
      time: Number(time),
      versions: new Map(
        [...odd.matchAll(/(\d+):(\d+)/g)].map(([, at, version]) => [Number(at), Number(version)]),
      ),
    }),
  );
  if (cuts.some(({ during }, i) => (during === 'workload') !== (i === 0))) {
    throw misuse(
      "replay: the first cut has no word before it, and each later one has 'then' or 'life'",
    );
  }
  return { seed: Number(seed), steps, cuts, goesOn: end !== undefined };
}
