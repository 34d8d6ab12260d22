// A trial: one run of the workload with the crash space of its trace.
//
// The workload runs once. From then on there are only its trace, the crash space of the trace, and disks made from crash
// states. The journal is in the trace, as marks, so for every power cut it is known what had begun and what had been
// acknowledged.

import type { Storage } from '../../storage/index.js';
import type { Content } from '../device/disk-trace.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import type { RegionMap } from '../space/regions.js';
import type { ChainOf, LinkOf } from './chains.js';
import { type Executed, execute, work } from './execute.js';
import type { AnyLife } from './subject.js';
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

/** What a power cut ended, of a disk. */
export interface Life extends Omit<Executed, 'faultsToCome'> {
  readonly during: AnyLife['during'];
  readonly space: CrashSpace;
}

/** A disk for a recovery, and the content of its sectors and its size without what the recovery has written. */
export interface Left {
  readonly disk: Storage & { end?(): void };
  readonly content: Content;
}

/** The types of a disk as a subject. */
export interface Disk {
  readonly map: RegionMap;
  readonly life: Life;
  readonly state: CrashState;
  readonly left: Left;
}

export type Link = LinkOf<Disk>;
export type Chain = ChainOf<Disk>;

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
