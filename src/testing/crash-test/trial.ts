// The types of a crash test and its report, and a trial: one run of the workload, and the verdict of recovery and check
// about each disk that a power cut may leave.
//
// The workload runs once. From then on there are only its trace, the crash space of the trace, and disks made from crash
// states. The journal is in the trace, as marks, so for every power cut it is known what had begun and what had been
// acknowledged. The search for failures (crash-test.ts, nested.ts), their shrinking (shrink.ts) and their description
// (crash-report.ts) all judge disks with the functions at the end of this file.
//
//   J1  A recovered state is checked at the first moment at which the power can have been cut to leave it, and after each
//       later acknowledgement, because at each of them more must be there.

import { formatValue, type ModeName, misuse } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import type { DiskFault } from '../device/disk-faults.js';
import type { DiskTrace } from '../device/disk-trace.js';
import type { DeviceName, DeviceProfile } from '../device/profile.js';
import type { VolatileDisk } from '../device/volatile-disk.js';
import { newestUntil } from '../space/cells.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import { type Crash, UnsteadyRecoveryError } from '../space/explore.js';
import { type Executed, execute, type Tell, type Told } from './execute.js';
import { HangError, Watch } from './watch.js';

/** What a workload reports about itself. A value of type `A` names one of its operations. */
export interface Journal<A> {
  /** From now on the operation may have an effect. */
  begin(operation: A): void;
  /** The user of the operation has been told that it is safe. */
  acknowledge(operation: A): void;
}

/** What a recovered state must and may contain. */
export interface Expected<A> {
  /** Operations that must be there, in the order of their acknowledgement. */
  readonly acknowledged: readonly A[];
  /** The only operations that may be there, in the order in which they began. */
  readonly begun: readonly A[];
}

/**
 * What is tested, on which device, and how thoroughly.
 *
 * @typeParam A an operation of the workload, as it tells the journal: a name, a number, an object
 * @typeParam R what a recovery returns, which is what `check` judges
 * @typeParam P a step of the `program`, which the workload takes
 */
export interface CrashTest<A, R, P = unknown> {
  /** The size of the disk in bytes. */
  readonly size: number;
  /** The disk before the workload. @defaultValue zeroes */
  readonly initial?: Uint8Array;
  /** Faults of the disk while the workload runs. @defaultValue none */
  readonly faults?: readonly DiskFault[];
  /** Uses the disk. When it returns, all of its commands must have been answered. */
  readonly workload: (
    disk: VolatileDisk,
    journal: Journal<A>,
    program: readonly P[],
  ) => void | Promise<void>;
  /**
   * The steps of the workload. After a failure as many steps as possible are left out, so the workload must accept any
   * subset of them, in this order.
   */
  readonly program?: readonly P[];
  /** A trace to use instead of a run of the workload, for example that of a report, or a changed one. */
  readonly trace?: DiskTrace;
  /**
   * Recovers from the disk that the power cut left; that disk answers at once. On equal disks it must make the same reads,
   * and it must be done with the disk when it returns.
   */
  recover(disk: Storage): R | Promise<R>;
  /**
   * Returns true if the recovered state is right, and returns false or throws if it is wrong. A check that only throws may
   * return nothing; while it has never thrown, the verdict is `passed` at most. Any other value (null, a number, a string, an
   * object) is refused, because it is not a verdict.
   */
  check(recovered: R, expected: Expected<A>): void | boolean | Promise<void> | Promise<boolean>;
  /**
   * A device of `DEVICE_PROFILES`, or the fields that differ from a file.
   *
   * @defaultValue `'file'`: volatile cache, flush and FUA, no ordered tags
   */
  readonly profile?: DeviceName | Partial<DeviceProfile>;
  /** Selects the order in which the disk answers. @defaultValue 0 */
  readonly seed?: number;
  /** How many seeds are tried, starting with `seed`. @defaultValue 1 */
  readonly seeds?: number;
  /** `at-once`: the disk answers before a call returns, for workloads that cannot wait. @defaultValue `'later'` */
  readonly answers?: 'later' | 'at-once';
  /** Maximum number of recoveries for each seed, including those of `nested`. @defaultValue 100,000 */
  readonly recoveriesMax?: number;
  /**
   * Also cuts the power at every moment of each recovery that writes, and recovers again; the check must accept that state,
   * too. A recovery stands for all crash states that it cannot tell apart, and one of them is used. A number is the maximum
   * number of power cuts during recoveries; true is 1.
   *
   * @defaultValue false
   */
  readonly nested?: boolean | number;
  /** Tries only one crash state: the `replay` of a failure. */
  readonly replay?: string;
  /**
   * Time limit for one run of the workload, one recovery or one check, in real milliseconds (also under fake timers). After
   * it the verdict is `hung`. Infinity means no limit.
   *
   * @defaultValue 10,000
   */
  readonly hangMs?: number;
  /** Your name for the bytes at this offset, for reports: `record 3`. @defaultValue the offset */
  label?(offset: number): string;
}

/** A power cut that the code under test does not survive, or a workload, recovery or check that has not ended. */
export interface CrashFailure {
  /** The message of the recovery or the check; of a hang, what hangs and what it waits for. */
  readonly message: string;
  /** What the recovery or the check threw. */
  readonly cause: unknown;
  /** Pass it as `replay`, with the same program, to repeat this failure. */
  readonly replay: string;
  /** The sectors that were written and are as before, as few as the failure allows. */
  readonly lost: readonly {
    /** In bytes from the start of the disk. */
    readonly offset: number;
    /** The number of the command whose bytes are gone. */
    readonly command: number;
    /** The call that the command came from and the one around it, as `name (file:line), from name (file:line)`, if known. */
    readonly site?: string;
  }[];
  /** The steps of the program that the failure needs: none of them can be left out alone. */
  readonly program: readonly unknown[];
  /**
   * The power cuts as data, of which the text and the pictures are made: that of the workload, then those during recoveries
   * (`nested`). None if the workload hangs.
   */
  readonly cuts: readonly {
    /** The commands and the journal of the run that was cut short: of the workload, or of a recovery. */
    readonly trace: DiskTrace;
    /** The power is cut right after this moment of the trace. */
    readonly time: number;
    /** What the commands around the cut wrote, in the order of offsets. */
    readonly regions: readonly {
      /** In bytes from the start of the disk. */
      readonly offset: number;
      /** In bytes. */
      readonly length: number;
      /** Your `label`, in one short line. */
      readonly label: string;
      /** The number of the command whose content is there; -1 for the content before the run. */
      readonly there: number;
      /** The numbers of the commands whose newer content is gone, oldest first; empty if the newest content is there. */
      readonly lost: readonly number[];
    }[];
  }[];
  /** What would have prevented the failure; absent if nothing was tried. */
  readonly advice?: {
    /** In words. */
    readonly text: string;
    /** A barrier before this moment of the trace would have prevented it; absent if none would. */
    readonly before?: number;
  };
  /** The picture of the power cut as text, with long values and lists cut short. */
  readonly text: string;
  /** The same text with nothing cut short. */
  readonly fullText: string;
}

/** A sector that was written and is as before. */
export type Loss = CrashFailure['lost'][number];

/** The result of a crash test. */
export interface CrashReport {
  /**
   * `proved`: every crash state is covered and passes. `passed`: all that were tried pass, and `warnings` say what is missing
   * for a proof. `failed`: one does not pass. `hung`: the workload, a recovery or a check has not ended.
   */
  readonly verdict: 'proved' | 'passed' | 'failed' | 'hung';
  /** The number of crash states (disk images) that a power cut may leave. */
  readonly images: bigint;
  /** How many of them were covered. A recovery covers all images that it cannot tell apart. */
  readonly covered: bigint;
  /** How many recoveries were run. */
  readonly recoveries: number;
  /** How many recoveries each strategy of the exploration picked, and how many ran after later power cuts (`nested`). */
  readonly orders: Readonly<Record<string, number>>;
  /** With the verdict `failed` the first failure, shrunk; with `hung` what hangs. */
  readonly failure?: CrashFailure;
  /** What the verdict does not cover, a sentence each. */
  readonly warnings: readonly string[];
  /** The device that the test assumed. */
  readonly profile: DeviceProfile;
  /**
   * The mode that an `IoScheduler` chooses on this device (`mode: 'auto'`). A workload that names another mode was tested in
   * that mode.
   */
  readonly mode: ModeName;
  /** The seed of the failure, or the last one that was tried. */
  readonly seed: number;
  /** How many seeds were tried, up to `seed`; 1 for a failure, because the other seeds have not shown it. */
  readonly seeds: number;
  /** Your `label` of each sector that the workload wrote, by its offset; absent without `label`, and with a failure. */
  readonly labels?: Readonly<Record<number, string>>;
  /** All commands of the workload under that seed. */
  readonly trace: DiskTrace;
}

/** A run of a workload with its crash space and its test. */
export interface Trial<A, R> {
  /** Without the workload, because it has run. */
  readonly test: Omit<CrashTest<A, R>, 'workload'>;
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

/** Why a recovered state is wrong. */
export interface Failed {
  readonly cause: unknown;
  /** The earliest moment of the power cut. */
  readonly cut: number;
  /** What was recovered; absent if the recovery threw. */
  readonly recovered?: { readonly value: unknown };
  /** What the check was called with. */
  readonly expected?: Expected<unknown>;
}

/** Whether the failure is a hang. */
export function isHang({ cause }: Pick<Failed, 'cause'>): boolean {
  return cause instanceof HangError;
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
  return { test, space: crashSpace(run.trace, test.profile), seed, steps, watch, ...run };
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
    const journal: Journal<A> = {
      begin: (operation) => tell({ kind: 'begin', operation }),
      acknowledge: (operation) => tell({ kind: 'acknowledge', operation }),
    };
    return test.workload(it, journal, taken);
  };
  return execute(disk, run, watch);
}

/** A span of time in which the power was cut. */
export interface Window {
  /** After this moment. */
  readonly after: number;
  /** Before this moment. */
  readonly before: number;
}

/** A moment of a power cut, and the journal up to it. */
export interface Moment<A> {
  readonly time: number;
  readonly expected: Expected<A>;
}

/**
 * The moments of a window that make a difference (J1): the first one, and each acknowledgement. Between these moments only
 * `begin` marks occur. A check that accepts the state at one of them must accept it until the next, since `begun` only grows.
 */
export function* momentsOf<A>(
  { marks }: DiskTrace,
  { after, before }: Window,
): Generator<Moment<A>, void> {
  const acknowledged: A[] = [];
  const begun: A[] = [];
  let isFirst = true;
  // Copies, because a check may keep them; one pair at a time, because there may be thousands.
  const at = (time: number): Moment<A> => {
    isFirst = false;
    return { time, expected: { acknowledged: [...acknowledged], begun: [...begun] } };
  };
  for (const { time, value } of marks) {
    if (time >= before) break;
    if (time > after && isFirst) yield at(after);
    const { kind, operation } = value as Told<A>;
    (kind === 'begin' ? begun : acknowledged).push(operation);
    if (time > after && kind === 'acknowledge') yield at(time);
  }
  if (isFirst) yield at(after);
}

/**
 * Runs the recovery on a disk.
 *
 * @throws `HangError` if it does not end; what the recovery throws
 */
export function recoverOn<R>(
  test: { recover(disk: Storage): R | Promise<R> },
  disk: Storage,
  watch: Watch,
): R | Promise<R> {
  return watch.run('recovery', () => test.recover(disk));
}

/**
 * Recovers from a disk and checks the result: the first failure, or undefined.
 *
 * @param window called after the recovery, because only then it is known what the recovery has read
 * @param onAnswer called with the answer of the check whenever it accepts the state
 * @throws `INVALID_ARGUMENT` for a check whose answer is not a verdict
 */
export async function judge<A, R>(
  { test, trace, watch }: Pick<Trial<A, R>, 'test' | 'trace' | 'watch'>,
  disk: Storage,
  window: () => Window,
  onAnswer?: (answer: true | undefined) => void,
): Promise<Failed | undefined> {
  let recovered: R;
  try {
    recovered = await recoverOn(test, disk, watch);
  } catch (cause) {
    if (cause instanceof UnsteadyRecoveryError) throw cause;
    return { cause, cut: window().after };
  }
  for (const { time, expected } of momentsOf<A>(trace, window())) {
    const at = { cut: time, recovered: { value: recovered }, expected };
    let answer: unknown;
    try {
      answer = await watch.run<unknown>('check', () => test.check(recovered, expected));
    } catch (cause) {
      if (cause instanceof UnsteadyRecoveryError) throw cause;
      return { cause, ...at };
    }
    if (answer === false) return { cause: new Error('the check returned false'), ...at };
    if (answer !== true && answer !== undefined) {
      throw misuse(
        `the check returned ${formatValue(answer)}; it must return true or false, or throw`,
      );
    }
    onAnswer?.(answer);
  }
  return undefined;
}

/** Judges one crash state. */
export function judgeState<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
): Promise<Failed | undefined> {
  return judge(trial, state.disk(), () => state);
}

/** The crash state with the versions that were read, and elsewhere the newest version from before `time`, or `at` it. */
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
