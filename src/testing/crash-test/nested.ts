// Power cuts during recovery: the recovery is a workload like any other, and the check must accept what it leaves.
//
// One run of a recovery stands for all crash states from which it reads the same. It writes the same on all of them, but the
// next recovery may read where they differ. The second cut is tried on only one of these states. So if there are others, and
// the recovery writes, the report says that the others were not tried, and the verdict is not `proved`.
//
// The check gets the list of acknowledgements from the first cut, because a recovery adds none.

import type { DiskTrace } from '../device/disk-trace.js';
import { VolatileDisk } from '../device/volatile-disk.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import type { Crash } from '../space/explore.js';
import { type Cut, describeFailure } from './crash-report.js';
import { sceneOf } from './scene.js';
import {
  agreeing,
  type CrashFailure,
  type Failed,
  isHang,
  judge,
  recoverOn,
  type Trial,
} from './trial.js';

/** The result of the second and later power cuts. */
export interface Again {
  /** How many recoveries were run. */
  readonly tried: number;
  /** Whether all crash states were tried. */
  readonly whole: boolean;
  /** How many recoveries that write were interrupted on one of several crash states. */
  readonly sampled: number;
  readonly failure?: CrashFailure;
  /** Whether the failure is a recovery that does not end. */
  readonly hangs?: boolean;
}

/** The limits of nested power cuts. */
export interface AgainOptions {
  /** How many power cuts follow one another. */
  readonly depth: number;
  readonly recoveriesMax: number;
  /** How many crash states the recovery covers; 0 if an earlier one covered them. */
  readonly images: bigint;
}

/** Recovers from one crash state, cuts the power at every moment of that recovery, and recovers again. */
export async function recoverAgain<A, R>(
  trial: Trial<A, R>,
  crash: Crash,
  options: AgainOptions,
): Promise<Again> {
  const state = agreeing(trial.space, crash, crash.after, true);
  const found = await cutAgain(trial, state, state, options);
  const { failed, cuts, ...again } = found;
  if (!failed) return again;
  return {
    ...again,
    hangs: isHang(failed),
    failure: describeFailure(trial, state, failed, cuts),
  };
}

/** Repeats later cuts by the numbers of their crash states; the failure, or undefined. */
export async function replayAgain<A, R>(
  trial: Trial<A, R>,
  first: CrashState,
  numbers: readonly bigint[],
): Promise<CrashFailure | undefined> {
  let state = first;
  const cuts: Cut[] = [];
  for (const number of numbers) {
    const run = await recorded(trial, state);
    state = run.space.at(number);
    cuts.push(cutOf(trial, run, state, state.after));
  }
  const failed = await judge(trial, state.disk(), () => first);
  return failed && describeFailure(trial, first, failed, cuts);
}

function cutOf<A, R>(trial: Trial<A, R>, run: Recorded, state: CrashState, time: number): Cut {
  return { number: run.space.indexOf(state), scene: sceneOf({ ...trial, ...run }, state, time) };
}

interface Found {
  readonly tried: number;
  readonly whole: boolean;
  readonly sampled: number;
  readonly failed?: Failed;
  /** One for each recovery that was interrupted. */
  readonly cuts: readonly Cut[];
}

async function cutAgain<A, R>(
  trial: Trial<A, R>,
  from: CrashState,
  first: CrashState,
  { depth, recoveriesMax, images }: AgainOptions,
): Promise<Found> {
  const run = await recorded(trial, from);
  const { space, failed: stuck } = run;
  if (stuck) return { tried: 0, whole: false, sampled: 0, failed: stuck, cuts: [] };
  let tried = 0;
  let whole = true;
  let sampled = images > 1n && space.count > 1n ? 1 : 0;
  for (const crash of space.explore()) {
    if (tried >= recoveriesMax) return { tried, whole: false, sampled, cuts: [] };
    tried += 1;
    const failed = await judge(trial, crash.disk, () => first);
    const state = agreeing(space, crash, crash.after, true);
    const cut = (): Cut => cutOf(trial, run, state, crash.after);
    if (failed) return { tried, whole: false, sampled, failed, cuts: [cut()] };
    // A recovery that writes nothing leaves nothing for a later cut to change.
    if (depth === 1 || space.count === 1n) continue;
    const deeper = await cutAgain(trial, state, first, {
      depth: depth - 1,
      recoveriesMax: recoveriesMax - tried,
      images: crash.images,
    });
    tried += deeper.tried;
    whole &&= deeper.whole;
    sampled += deeper.sampled;
    if (deeper.failed) return { ...deeper, tried, sampled, cuts: [cut(), ...deeper.cuts] };
  }
  return { tried, whole, sampled, cuts: [] };
}

interface Recorded {
  readonly space: CrashSpace;
  readonly trace: DiskTrace;
  readonly failed?: Failed;
}

/** Records a recovery from a crash state. */
async function recorded<A, R>({ test, watch }: Trial<A, R>, from: CrashState): Promise<Recorded> {
  const { size, profile = {} } = test;
  const how = { initial: from.image(), unreadable: from.unreadable, answers: 'at-once' } as const;
  const disk = new VolatileDisk({ size, profile, ...how });
  let failed: Failed | undefined;
  try {
    await recoverOn(test, disk, watch);
  } catch (cause) {
    failed = { cause, cut: from.after };
  }
  const space = crashSpace(disk.trace, profile);
  return { space, trace: disk.trace, ...(failed && { failed }) };
}
