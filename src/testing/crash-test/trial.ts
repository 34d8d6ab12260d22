// A trial: one run of the workload with the crash space of its trace.
//
// The workload runs once. From then on there are only its trace, the crash space of the trace, and disks made from crash
// states. The journal is in the trace, as marks, so for every power cut it is known what had begun and what had been
// acknowledged.

import type { DiskFault } from '../device/disk-faults.js';
import type { DiskTrace } from '../device/disk-trace.js';
import type { VolatileDisk } from '../device/volatile-disk.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import { type Executed, execute, journalOf, type Tell } from './execute.js';
import type { CrashTest } from './types.js';
import { Watch } from './watch.js';

/** A run of a workload with its crash space and its test. */
export interface Trial<A, R> {
  /** Without the workload, because it has run. */
  readonly test: CrashTest<A, R, unknown>;
  readonly space: CrashSpace;
  readonly trace: DiskTrace;
  readonly seed: number;
  /** The steps of the program that ran, by their indexes. */
  readonly steps: readonly number[];
  /** Limits the time of recovery and check. */
  readonly watch: Watch;
  /** The faults that did not happen in this run. */
  readonly faultsToCome: readonly DiskFault[];
  /** Says that the workload went on after it had returned. */
  readonly unfinished?: string;
  /** Says that the disk may have answered too early to find every mistake. */
  readonly doubt?: string;
  /** The call that a command came from. */
  siteOf(command: number): string | undefined;
  /** Why that call is not known, where the user can remove the reason. */
  whyNoSite(command: number): string | undefined;
}

/** Runs the workload, or takes the trace that is given. */
export async function trialOf<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
  watch: Watch = new Watch(test.hangMs),
): Promise<Trial<A, R>> {
  const run = test.trace
    ? { trace: test.trace, faultsToCome: [], siteOf: () => undefined, whyNoSite: () => undefined }
    : await executed(test, seed, steps, watch);
  const any = test as unknown as CrashTest<A, R, unknown>;
  return { test: any, space: crashSpace(run.trace, test.profile), seed, steps, watch, ...run };
}

function executed<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
  watch: Watch,
): Promise<Executed> {
  const { size, profile = {}, answers = 'later', faults = [], initial, program = [] } = test;
  const disk = { size, profile, seed, answers, faults, ...(initial && { initial }) };
  const taken = steps.map((step) => program[step] as P);
  const run = (it: VolatileDisk, tell: Tell): void | Promise<void> => {
    return test.workload(it, journalOf(tell), taken, { number: 1 });
  };
  return execute(disk, run, watch);
}
