// What a crash test of files is given, and what it reports. The words are those of a crash test of a disk (crash-test/types.ts).

import type { Expected, Journal } from '../crash-test/types.js';
import type { FileModel, FileModelName } from './models.js';
import type { FilesTrace } from './trace.js';

/**
 * What is tested, on which file systems, and how thoroughly.
 *
 * @typeParam A an operation of the workload, as it tells the journal: a name, a number, an object
 * @typeParam R what a recovery returns, which is what `check` judges
 */
export interface CrashFilesTest<A, R> {
  /** Makes what is in the folder before the workload; all of it is durable. @defaultValue nothing */
  before?(root: string): void | Promise<void>;
  /** Uses the files of the folder. When it returns, all that it has asked for must have been answered. */
  workload(root: string, journal: Journal<A>): void | Promise<void>;
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
  /** Maximum number of recoveries for each file system. @defaultValue 10,000 */
  readonly recoveriesMax?: number;
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

/** A power cut that the code under test does not survive. */
export interface FilesFailure {
  /** The message of the recovery or the check. */
  readonly message: string;
  /** What the recovery or the check threw. */
  readonly cause: unknown;
  /** The file system on which it happens. */
  readonly model: string;
  /** The power is cut right after this moment of the trace. */
  readonly time: number;
  /** The numbers of the operations of the trace that are lost, wholly or in part. */
  readonly lost: readonly number[];
  /** The syncs that would have prevented it, found by trying: each a line of words. Empty if no one or two would. */
  readonly advice: readonly string[];
  /** The picture of the power cut as text. */
  readonly text: string;
}

/** The result of a crash test of files. */
export interface FilesReport {
  /**
   * `proved`: every crash state of every model is covered and passes. `passed`: all that were tried pass, and `warnings` say what
   * is missing for a proof. `failed`: one does not pass. `hung`: the workload, a recovery or a check has not ended.
   */
  readonly verdict: 'proved' | 'passed' | 'failed' | 'hung';
  /** One for each file system that was tried, in their order. */
  readonly models: readonly FilesVerdict[];
  readonly failure?: FilesFailure;
  /** What the verdict does not cover, a sentence each. */
  readonly warnings: readonly string[];
  /** What the workload did. */
  readonly trace: FilesTrace;
}
