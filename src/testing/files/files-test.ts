// What a crash test of files is given, and what it reports. The words are those of a crash test of a disk (crash-test/types.ts).
//
// A report is plain data, and everything that the text (files-report.ts) and the picture (files-picture.ts) say is in it. What is
// counted in a report is a crash state of the first power cut. Times are moments of a trace: whole numbers that count events, and no
// clock.
//
// Not here: what a file system promises (models.ts), what a program did (trace.ts).

import type { Expected, Journal } from '../crash-test/types.js';
import type { FileModel, FileModelName } from './models.js';
import type { FilesTrace } from './trace.js';

/**
 * What is tested, on which file systems, and how thoroughly. The words are those of `crashTest`.
 *
 * @typeParam A an operation of the workload, as it tells the journal: a name, a number, an object
 * @typeParam R what a recovery returns, which is what `check` judges
 * @typeParam P a step of the `program`, which the workload takes
 */
export interface CrashFilesTest<A, R, P = unknown> {
  /** Makes what is in the folder before the workload; all of it is durable. @defaultValue nothing */
  before?(root: string): void | Promise<void>;
  /**
   * Uses the files of the folder. When it returns, all that it has asked for must have been answered.
   *
   * With `lives` it runs again on what a power cut left: `life.number` is 1 in the first life, and from the second on `life.shown`
   * is what the recovery before it returned. What the workload throws in the first life ends the test; in a later life it is a
   * failure, because the code cannot go on with what a power cut left.
   */
  workload(
    root: string,
    journal: Journal<A>,
    program: readonly P[],
    life: { readonly number: number; readonly shown?: R },
  ): void | Promise<void>;
  /**
   * The steps of the workload. After a failure as many steps as possible are left out, so the workload must accept any
   * subset of them, in this order.
   */
  readonly program?: readonly P[];
  /** A trace to use instead of a run of the workload, for example one of `straceFiles`; its marks are those of a journal. */
  readonly trace?: FilesTrace;
  /**
   * Recovers from what the power cut left in the folder. On equal trees it must look at the same files in the same order, so it
   * must not ask for times, process numbers or random names.
   */
  recover(root: string): R | Promise<R>;
  /** Returns true if the recovered state is right, and returns false or throws if it is wrong. */
  check(recovered: R, expected: Expected<A, R>): void | boolean | Promise<void> | Promise<boolean>;
  /** The file systems that are assumed, one after the other; the first failure ends the test. @defaultValue ext4, xfs, btrfs */
  readonly models?: readonly (FileModelName | FileModel)[];
  /**
   * Selects the order in which calls that wait at the same time take effect and are answered. With 0 it is the order of the
   * calls; else one is drawn, in which those of one descriptor keep their order.
   *
   * @defaultValue 0
   */
  readonly seed?: number;
  /** How many seeds are tried, starting with `seed`. @defaultValue 1 */
  readonly seeds?: number;
  /** Maximum number of recoveries for each file system and seed, including those of `nested`. @defaultValue 10,000 */
  readonly recoveriesMax?: number;
  /**
   * Also cuts the power at every moment of each recovery that changes files, and recovers again; the check must accept that
   * state, too. A number is the maximum number of power cuts during recoveries; true is 1.
   *
   * @defaultValue false
   */
  readonly nested?: boolean | number;
  /**
   * The maximum number of lives. With 2 or more, what a power cut left is recovered, the workload goes on with it, and the power
   * is cut again, at every moment of that recovery and of that work. The next recovery is held to what the one before has
   * shown: `expected.shown`.
   *
   * @defaultValue 1
   */
  readonly lives?: number;
  /** Tries only one crash state: the `replay` of a failure. */
  readonly replay?: string;
  /**
   * `ignoreFlush`: the device says that a flush is done, and does nothing. Then no sync promises anything, in any life.
   *
   * @defaultValue none
   */
  readonly lies?: readonly 'ignoreFlush'[];
  /**
   * The whole tree is in the folder before each recovery. Needed for a recovery that reads past node:fs, with native code or a
   * child process. It takes more recoveries, because each looks at everything.
   *
   * @defaultValue false: what the recovery looks at appears when it looks
   */
  readonly wholeTree?: boolean;
  /**
   * Time limit for the workload, one recovery or one check, in real milliseconds. After it the verdict is `hung`.
   *
   * @defaultValue 10,000
   */
  readonly hangMs?: number;
}

/** What was found for one file system. */
export interface FilesVerdict {
  /** The name of the file system; `own` for a model of the caller's. */
  readonly model: string;
  /** The number of crash states (trees of files) that a power cut may leave. */
  readonly states: bigint;
  /** How many of them were covered. A recovery covers all states that it cannot tell apart. */
  readonly covered: bigint;
  /** How many recoveries were run. */
  readonly recoveries: number;
}

/** What became of the operations before a power cut, and those that were to come. */
export interface FilesCut {
  /** What was cut short: the first workload, a recovery, or a recovery and the work after it. */
  readonly during: 'workload' | 'recovery' | 'life';
  /** The operations and the journal of what was cut short. In a later one `initial` has what it has met. */
  readonly trace: FilesTrace;
  /** The power is cut right after this moment of the trace. */
  readonly time: number;
  /** The numbers of the operations of which something is not there, ascending. */
  readonly lost: readonly number[];
  /** The numbers of those that are there as far as the recovery has looked, ascending. At the others it has not looked. */
  readonly kept: readonly number[];
}

/** A power cut that the code under test does not survive, or a workload, recovery or check that has not ended. */
export interface FilesFailure {
  /** The message of the recovery or the check; of a hang, what hangs. */
  readonly message: string;
  /** What the recovery or the check threw. */
  readonly cause: unknown;
  /** The file system on which it happens. */
  readonly model: string;
  /** Pass it as `replay`, with the same program, to repeat this failure. */
  readonly replay: string;
  /** The steps of the program that the failure needs: none of them can be left out alone. */
  readonly program: readonly unknown[];
  /** The power cuts: that of the workload, then those during recoveries or in later lives. None if the workload hangs. */
  readonly cuts: readonly FilesCut[];
  /** The moment of the first cut, in the trace of the workload. */
  readonly time: number;
  /** The numbers of the operations of the workload that are lost, wholly or in part. */
  readonly lost: readonly number[];
  /** The syncs that would have prevented it, found by trying: each a line of words. Empty if no one or two would. */
  readonly advice: readonly string[];
  /** The picture of the power cuts as text, with long values and lists cut short. */
  readonly text: string;
  /** The same text with nothing cut short. */
  readonly fullText: string;
}

/** The result of a crash test of files. */
export interface FilesReport {
  /**
   * `proved`: every crash state of every model is covered and passes. `passed`: all that were tried pass, and `warnings` say what
   * is missing for a proof. `failed`: one does not pass. `hung`: the workload, a recovery or a check has not ended.
   */
  readonly verdict: 'proved' | 'passed' | 'failed' | 'hung';
  /** One for each file system that was tried, in their order, with the sums of all seeds. */
  readonly models: readonly FilesVerdict[];
  /** With the verdict `failed` the first failure, shrunk; with `hung` what hangs. */
  readonly failure?: FilesFailure;
  /** What the verdict does not cover, a sentence each. */
  readonly warnings: readonly string[];
  /** The seed of the failure, or the last one that was tried. */
  readonly seed: number;
  /** How many seeds were tried, up to `seed`. */
  readonly seeds: number;
  /** What the workload did under that seed. */
  readonly trace: FilesTrace;
}
