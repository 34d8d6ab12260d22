// What a crash test is, what it reports, and one run of it: the workload on a simulated disk, and what recovery and
// check say about a disk that it left.
//
// A trial is a run with all that judges it. The workload runs once; from then on there are only the trace, its crash
// space and disks made of it. What the journal said is in the trace, as marks, so that for every power cut it is known
// what had been begun and acknowledged. Who looks for failures (crash-test.ts, nested.ts), makes them small (shrink.ts) or
// tells of them (crash-report.ts) does so with the few questions at the end of this file.

import { WriteBarrierError } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import type { DiskFault } from '../device/disk-faults.js';
import type { DiskTrace } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import { VolatileDisk } from '../device/volatile-disk.js';
import { newestUntil } from '../space/cells.js';
import { type CrashSpace, CrashState, crashSpace } from '../space/crash-space.js';
import { type Crash, UnsteadyRecoveryError } from '../space/explore.js';

/** What a workload tells about itself. `A` is whatever names one of its operations. */
export interface Journal<A> {
  /** The operation may have an effect from here on. */
  begin(operation: A): void;
  /** The operation's user was told that it is safe. */
  acknowledge(operation: A): void;
}

/** What a check may hold a recovery to. */
export interface Expected<A> {
  /** Must be there, in the order of their acknowledgement. */
  readonly acknowledged: readonly A[];
  /** Nothing else may be there, in the order in which they began. */
  readonly begun: readonly A[];
}

/** What is tested, and how hard. */
export interface CrashTest<A, R, P = unknown> {
  /** The size of the disk in bytes. */
  readonly size: number;
  /** The disk before the workload; zeroes unless given. */
  readonly initial?: Uint8Array;
  /** What goes wrong while the workload runs; nothing unless given. */
  readonly faults?: readonly DiskFault[];
  /** Uses the disk. It must be done with it when it returns. */
  readonly workload: (
    disk: VolatileDisk,
    journal: Journal<A>,
    program: readonly P[],
  ) => void | Promise<void>;
  /**
   * What the workload is to do, step by step; nothing unless given. Of a failure as many steps are left out as can be: a
   * workload must take any of them, in this order.
   */
  readonly program?: readonly P[];
  /** A trace to take in place of a run of the workload: one of a report, or changed. */
  readonly trace?: DiskTrace;
  /**
   * Opens what is left, on a disk that answers at once. It must read the same on the same disk, and be done with it
   * when it returns.
   */
  recover(disk: Storage): R | Promise<R>;
  /** Throws, or answers false, where the recovered state is wrong. */
  check(recovered: R, expected: Expected<A>): void | boolean | Promise<void> | Promise<boolean>;
  /** The fields that differ from an honest disk with a volatile cache. */
  readonly profile?: Partial<DeviceProfile>;
  /** Which order of answers the disk picks; 0 unless given. */
  readonly seed?: number;
  /** How many such orders are tried, from `seed` on; 1 unless given. */
  readonly seeds?: number;
  /** `later` unless given; `at-once` for workloads that cannot wait. */
  readonly answers?: 'later' | 'at-once';
  /** Recoveries at the most for each order of answers; 100,000 unless given. Those of `nested` count, too. */
  readonly recoveriesMax?: number;
  /**
   * Also cuts the power during each recovery that writes, at every moment, and recovers again: what is told must be
   * the same. Of the images that a recovery stands for one is taken. A number says how often the power may fail during
   * recoveries; true is 1.
   */
  readonly nested?: boolean | number;
  /** Only the image of a failure, as its report names it. */
  readonly replay?: string;
  /** What a user calls the bytes from this offset on. */
  label?(offset: number): string;
}

/** A power cut that the code under test does not survive. */
export interface CrashFailure {
  /** What recovery or check said. */
  readonly message: string;
  /** What they threw. */
  readonly cause: unknown;
  /** Pass it as `replay`, with the same program, to see the same again. */
  readonly replay: string;
  /** As few as possible: what the power cut took, each with its sector and its command. */
  readonly lost: readonly Loss[];
  /** The steps of the program that it takes: none of them can be left out by itself. */
  readonly program: readonly unknown[];
  /** The picture, in text. */
  readonly text: string;
}

/** A sector that was written and is as before. */
export interface Loss {
  /** In bytes. */
  readonly offset: number;
  /** The number of the command whose bytes are gone. */
  readonly command: number;
  /** The call that the command came from, as `name (file:line)`, where that is known. */
  readonly site?: string;
}

/** What a crash test came to. */
export interface CrashReport {
  /** `proved`: every image is covered and passes. `passed`: those that were tried do. `failed`: one does not. */
  readonly verdict: 'proved' | 'passed' | 'failed';
  /** How many images a power cut may leave. */
  readonly images: bigint;
  /** How many of them were covered. */
  readonly covered: bigint;
  /** How many recoveries that took. */
  readonly recoveries: number;
  /** How they were picked: how many by each order of the exploration, and how many after later power cuts (`nested`). */
  readonly orders: Readonly<Record<string, number>>;
  /** The first one, made small. */
  readonly failure?: CrashFailure;
  /** What makes the verdict worth less than it seems. */
  readonly warnings: readonly string[];
  /** The device, as it was taken to be. */
  readonly profile: DeviceProfile;
  /** Which order of answers the disk picked: that of the failure, or the last one. */
  readonly seed: number;
  /** What the disk was asked, under that seed. */
  readonly trace: DiskTrace;
}

/** A run with its crash space, and the test that judges it. */
export interface Trial<A, R> {
  /** The workload has run, so it does not matter any more what its steps are. */
  readonly test: Omit<CrashTest<A, R>, 'workload'>;
  readonly space: CrashSpace;
  readonly trace: DiskTrace;
  readonly seed: number;
  /** The steps of the program that were taken, by their places. */
  readonly steps: readonly number[];
  /** The call that a command came from. */
  siteOf(command: number): string | undefined;
}

/** What a workload says to its journal, as a mark of the trace. */
export interface Told<A> {
  readonly kind: 'begin' | 'acknowledge';
  readonly operation: A;
}

/** Why a recovery is not what it should be. */
export interface Failed {
  readonly cause: unknown;
  /** When the power was cut, at the earliest. */
  readonly cut: number;
}

/** Runs the workload, or takes the trace that is given; `INVALID_ARGUMENT` where it is not done when it returns. */
export async function trialOf<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
): Promise<Trial<A, R>> {
  const run = test.trace
    ? { trace: test.trace, siteOf: () => undefined }
    : await execute(test, seed, steps);
  return { test, space: crashSpace(run.trace, test.profile), seed, steps, ...run };
}

async function execute<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
): Promise<Pick<Trial<A, R>, 'trace' | 'siteOf'>> {
  const { size, profile = {}, answers = 'later', faults = [], initial, program = [] } = test;
  const how = { size, profile, seed, answers, faults, ...(initial && { initial }) };
  const disk = new VolatileDisk(how);
  const tell = (kind: Told<A>['kind']) => (operation: A) =>
    disk.mark({ kind, operation } satisfies Told<A>);
  const journal = { begin: tell('begin'), acknowledge: tell('acknowledge') };
  await test.workload(
    disk,
    journal,
    steps.map((step) => program[step] as P),
  );
  const { trace } = disk;
  const open = trace.commands.filter(({ completed }) => completed === Number.POSITIVE_INFINITY);
  await new Promise((resolve) => setTimeout(resolve, 0));
  const late = disk.trace.commands.length - trace.commands.length;
  disk.powerCut();
  if (open.length + late === 0) return { trace, siteOf: (command) => disk.siteOf(command) };
  throw new WriteBarrierError(
    'INVALID_ARGUMENT',
    `the workload has returned and is not done: ${open.length} commands were at the disk, ${late} came later`,
  );
}

/** A span of time in which the power was cut. */
export interface Window {
  /** After this moment. */
  readonly after: number;
  /** Before this moment. */
  readonly before: number;
}

/** A moment of a power cut, and what the journal had said by then. */
export interface Moment<A> {
  readonly time: number;
  readonly expected: Expected<A>;
}

/**
 * The moments of a window that make a difference: its first one, and each at which something was acknowledged. Between
 * them more is only begun, and a check that minds too little at the first of them minds no more later.
 */
export function momentsOf<A>({ marks }: DiskTrace, { after, before }: Window): Moment<A>[] {
  const acknowledged: A[] = [];
  const begun: A[] = [];
  const moments: Moment<A>[] = [];
  const add = (time: number): void => {
    moments.push({ time, expected: { acknowledged: [...acknowledged], begun: [...begun] } });
  };
  for (const { time, value } of marks) {
    if (time >= before) break;
    if (time > after && moments.length === 0) add(after);
    const { kind, operation } = value as Told<A>;
    (kind === 'begin' ? begun : acknowledged).push(operation);
    if (time > after && kind === 'acknowledge') add(time);
  }
  if (moments.length === 0) add(after);
  return moments;
}

/**
 * What is wrong with the recovery from this disk, at the first moment at which something is; undefined for nothing.
 *
 * @param window asked only when the recovery is done: until then it is not known what was read
 */
export async function judge<A, R>(
  { test, trace }: Pick<Trial<A, R>, 'test' | 'trace'>,
  disk: Storage,
  window: () => Window,
): Promise<Failed | undefined> {
  let recovered: R;
  try {
    recovered = await test.recover(disk);
  } catch (cause) {
    if (cause instanceof UnsteadyRecoveryError) throw cause;
    return { cause, cut: window().after };
  }
  for (const { time, expected } of momentsOf<A>(trace, window())) {
    try {
      const verdict = await test.check(recovered, expected);
      if (verdict === false) return { cause: new Error('the check answered false'), cut: time };
    } catch (cause) {
      if (cause instanceof UnsteadyRecoveryError) throw cause;
      return { cause, cut: time };
    }
  }
  return undefined;
}

/** The same for one state. */
export function judgeState<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
): Promise<Failed | undefined> {
  return judge(trial, state.disk(), () => state);
}

/** The state of a space that agrees with what was read, and elsewhere has the newest from before `time`, or `at` it. */
export function agreeing(
  { map }: CrashSpace,
  { decided }: Crash,
  time: number,
  at: boolean,
): CrashState {
  const versions = map.cells.map(
    (cell, place) => decided.get(place) ?? newestUntil(cell, time, at),
  );
  return new CrashState(map, Int32Array.from(versions));
}
