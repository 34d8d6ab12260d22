// Power cuts during recovery: the recovery is a workload like any other, and what it leaves must be as good.

import type { DiskTrace } from '../device/disk-trace.js';
import { VolatileDisk } from '../device/volatile-disk.js';
import { type CrashSpace, type CrashState, crashSpace } from '../space/crash-space.js';
import type { Crash } from '../space/explore.js';
import { type Cut, describeFailure, picture } from './crash-report.js';
import { agreeing, type CrashFailure, type Failed, judge, type Trial } from './trial.js';

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
  const found = await cutAgain(trial, state, state, depth, recoveriesMax);
  if (!found.failed) return found;
  const { tried, cuts } = found;
  return { tried, whole: false, failure: describeFailure(trial, state, found.failed, cuts) };
}

/** The images of later cuts by their numbers, as a report names them; what fails then, if anything does. */
export async function replayAgain<A, R>(
  trial: Trial<A, R>,
  first: CrashState,
  numbers: readonly bigint[],
): Promise<CrashFailure | undefined> {
  let state = first;
  const cuts: Cut[] = [];
  for (const number of numbers) {
    const { space, trace } = await recorded(trial, state);
    state = space.at(number);
    cuts.push({ number, lines: picture({ ...trial, space, trace }, state, state.after) });
  }
  const failed = await judge(trial, state.disk(), () => first);
  return failed && describeFailure(trial, first, failed, cuts);
}

interface Found {
  readonly tried: number;
  readonly whole: boolean;
  readonly failed?: Failed;
  /** One for each recovery that was cut short. */
  readonly cuts: readonly Cut[];
}

async function cutAgain<A, R>(
  trial: Trial<A, R>,
  from: CrashState,
  first: CrashState,
  depth: number,
  recoveriesMax: number,
): Promise<Found> {
  const { space, trace, failed: stuck } = await recorded(trial, from);
  if (stuck) return { tried: 0, whole: false, failed: stuck, cuts: [] };
  let tried = 0;
  let whole = true;
  for (const crash of space.explore()) {
    if (tried >= recoveriesMax) return { tried, whole: false, cuts: [] };
    tried += 1;
    const failed = await judge(trial, crash.disk, () => first);
    const state = agreeing(space, crash, crash.after, true);
    const cut = (): Cut => {
      const lines = picture({ ...trial, space, trace }, state, crash.after);
      return { number: space.indexOf(state), lines };
    };
    if (failed) return { tried, whole: false, failed, cuts: [cut()] };
    // What recovers without writing leaves nothing that a later cut could change.
    if (depth === 1 || space.count === 1n) continue;
    const deeper = await cutAgain(trial, state, first, depth - 1, recoveriesMax - tried);
    tried += deeper.tried;
    whole &&= deeper.whole;
    if (deeper.failed) return { ...deeper, tried, cuts: [cut(), ...deeper.cuts] };
  }
  return { tried, whole, cuts: [] };
}

/** What a recovery does to a disk with that on it. */
async function recorded<A, R>(
  { test }: Trial<A, R>,
  from: CrashState,
): Promise<{ readonly space: CrashSpace; readonly trace: DiskTrace; readonly failed?: Failed }> {
  const { size, profile = {} } = test;
  const how = { initial: from.image(), unreadable: from.unreadable, answers: 'at-once' } as const;
  const disk = new VolatileDisk({ size, profile, ...how });
  let failed: Failed | undefined;
  try {
    await test.recover(disk);
  } catch (cause) {
    failed = { cause, cut: from.after };
  }
  const space = crashSpace(disk.trace, profile);
  return { space, trace: disk.trace, ...(failed && { failed }) };
}
