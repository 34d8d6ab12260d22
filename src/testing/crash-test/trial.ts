// A trial: one run of the workload with the crash space of its trace.
//
// The workload runs once. From then on there are only its trace, the crash space of the trace, and disks made from crash
// states. The journal is in the trace, as marks, so for every power cut it is known what had begun and what had been
// acknowledged.

import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import { type Executed, execute, work } from './execute.js';
import type { CrashTest } from './types.js';
import { Watch } from './watch.js';

/** A run of a workload with its crash space and its test. */
export interface Trial<A, R> extends Executed {
  /** Without the workload, because it has run. */
  readonly test: CrashTest<A, R, unknown>;
  readonly space: CrashSpace;
  readonly seed: number;
  /** The steps of the program that ran, by their indexes. */
  readonly steps: readonly number[];
  /** Limits the time of recovery and check. */
  readonly watch: Watch;
}

/** Runs the workload, or takes the trace that is given. */
export async function trialOf<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
  watch: Watch = new Watch(test.hangMs),
): Promise<Trial<A, R>> {
  const { size, profile = {}, answers = 'later', faults = [], initial, trace } = test;
  const disk = { size, profile, seed, answers, faults, ...(initial && { initial }) };
  const run = trace
    ? { trace, faultsToCome: [] }
    : await execute(disk, (it) => work(test, steps, it, { number: 1 }), watch);
  const any = test as unknown as CrashTest<A, R, unknown>;
  return { test: any, space: crashSpace(run.trace, test.profile), seed, steps, watch, ...run };
}
