// Power cuts during recovery: the recovery is a workload like any other, and what it leaves must be as good.

import { VolatileDisk } from '../device/volatile-disk.js';
import { crashSpace } from '../space/crash-space.js';
import type { Crash } from '../space/explore.js';
import { describeFailure, picture } from './crash-report.js';
import { agreeing, type CrashFailure, expectedAt, judge, type Trial } from './trial.js';

/** What second and later power cuts came to. */
export interface Again {
  /** How many recoveries it took. */
  readonly tried: number;
  /** Whether all were tried. */
  readonly whole: boolean;
  readonly failure?: CrashFailure;
}

/**
 * Recovers from one image of a crash, cuts the power at every moment of that, and recovers again; `depth`: how many
 * times over.
 */
export async function recoverAgain<A, R>(
  trial: Trial<A, R>,
  crash: Crash,
  depth: number,
  recoveriesMax: number,
): Promise<Again> {
  const state = agreeing(trial.space, crash, crash.after, true);
  const found = await cutAgain(trial, state.image(), crash, depth, recoveriesMax);
  if (!found.cause) return found;
  const { tried, pictures } = found;
  const failure = describeFailure(trial, state, crash.after, found.cause.cause);
  const cuts = pictures.flatMap((lines) => ['  then the recovery is cut short as well:', ...lines]);
  return { tried, whole: false, failure: { ...failure, text: [failure.text, ...cuts].join('\n') } };
}

interface Found {
  readonly tried: number;
  readonly whole: boolean;
  readonly cause?: { readonly cause: unknown };
  /** One for each recovery that was cut short. */
  readonly pictures: readonly (readonly string[])[];
}

async function cutAgain<A, R>(
  trial: Trial<A, R>,
  initial: Uint8Array,
  first: Crash,
  depth: number,
  recoveriesMax: number,
): Promise<Found> {
  const { test, trace } = trial;
  const { size, profile = {} } = test;
  const disk = new VolatileDisk({ size, profile, initial, answers: 'at-once' });
  await test.recover(disk);
  const space = crashSpace(disk.trace, profile);
  let tried = 0;
  let whole = true;
  for (const crash of space.explore()) {
    if (tried >= recoveriesMax) return { tried, whole: false, pictures: [] };
    tried += 1;
    const state = (): Parameters<typeof picture>[1] => agreeing(space, crash, crash.after, true);
    const shown = (): string[] =>
      picture({ ...trial, space, trace: disk.trace }, state(), crash.after);
    const cause = await judge(test, crash.disk, () => expectedAt(trace, first));
    if (cause) return { tried, whole: false, cause, pictures: [shown()] };
    // What recovers without writing leaves nothing that a later cut could change.
    if (depth === 1 || space.count === 1n) continue;
    const left = recoveriesMax - tried;
    const deeper = await cutAgain(trial, state().image(), first, depth - 1, left);
    tried += deeper.tried;
    whole &&= deeper.whole;
    if (deeper.cause) return { ...deeper, tried, pictures: [shown(), ...deeper.pictures] };
  }
  return { tried, whole, pictures: [] };
}
