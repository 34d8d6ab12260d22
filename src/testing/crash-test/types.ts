// What a crash test is given, and what it reports: the door of the kit.
//
// A report is plain data, and everything that the texts (crash-report.ts) and the pictures (picture/) say is in it, so it can be
// kept, sent and drawn later. What is counted in a report is a crash state of the first power cut; `images` is the older word
// for them. Times are moments of a trace: whole numbers that count events, and no clock.
//
// Not here: what the fields of a device mean (device/profile.ts).

import type { ModeName } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import type { DiskFault } from '../device/disk-faults.js';
import type { DiskTrace } from '../device/disk-trace.js';
import type { DeviceName, DeviceProfile } from '../device/profile.js';
import type { VolatileDisk } from '../device/volatile-disk.js';

/** What a workload reports about itself. A value of type `A` names one of its operations. */
export interface Journal<A> {
  /** From now on the operation may have an effect. */
  begin(operation: A): void;
  /** The user of the operation has been told that it is safe. */
  acknowledge(operation: A): void;
}

/** What a recovered state must and may contain. */
export interface Expected<A, R = unknown> {
  /** Operations that must be there, in the order of their acknowledgement. */
  readonly acknowledged: readonly A[];
  /** The only operations that may be there, in the order in which they began. */
  readonly begun: readonly A[];
  /**
   * With `lives`, in a later life: what the recovery at its beginning returned. It must still be there, and `acknowledged` and
   * `begun` are about what this life has added. Data is copied; an instance of a class is the same object as `life.shown`.
   */
  readonly shown?: R;
}

/**
 * What is tested, on which device, and how thoroughly.
 *
 * @typeParam A an operation of the workload, as it tells the journal: a name, a number, an object
 * @typeParam R what a recovery returns, which is what `check` judges
 * @typeParam P a step of the `program`, which the workload takes
 */
export interface CrashTest<A, R, P = unknown> {
  /** The size of the disk before the workload, in bytes. */
  readonly size: number;
  /** The disk before the workload. @defaultValue zeroes */
  readonly initial?: Uint8Array;
  /** Faults of the disk while the workload runs. @defaultValue none */
  readonly faults?: readonly DiskFault[];
  /**
   * Uses the disk. When it returns, all of its commands must have been answered.
   *
   * With `lives` it runs again on the disk that a power cut left: `life.number` is 1 in the first life, and from the second
   * on `life.shown` is what the recovery before it returned. What the workload throws in the first life ends the test; in a
   * later life it is a failure, because the code cannot go on with what a power cut left.
   */
  workload(
    disk: VolatileDisk,
    journal: Journal<A>,
    program: readonly P[],
    life: { readonly number: number; readonly shown?: R },
  ): void | Promise<void>;
  /**
   * The steps of the workload. After a failure as many steps as possible are left out, so the workload must accept any
   * subset of them, in this order.
   */
  readonly program?: readonly P[];
  /** A trace to use instead of a run of the workload, for example that of a report, or a changed one. */
  readonly trace?: DiskTrace;
  /**
   * Recovers from the disk that the power cut left. On equal disks it must make the same reads, and it must be done with the
   * disk when it returns.
   *
   * Reads are answered before the call returns. With `nested`, and in the later lives of `lives`, writes and flushes are answered
   * when the recovery rests, so a flush covers only the writes that the recovery has waited for. A read returns what the
   * recovery has sent, also before its answer. A real disk may still return the old content then; this race is not tried.
   */
  recover(disk: Storage): R | Promise<R>;
  /**
   * Returns true if the recovered state is right, and returns false or throws if it is wrong. It is called with the same
   * `recovered` for each moment at which the power can have been cut, so it must not change it. A check that only throws may
   * return nothing; while it has never thrown, the verdict is `passed` at most. Any other value (null, a number, a string, an
   * object) is refused, because it is not a verdict.
   */
  check(recovered: R, expected: Expected<A, R>): void | boolean | Promise<void> | Promise<boolean>;
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
  /** `at-once`: the disk answers before a call returns, for code that cannot wait. @defaultValue `'later'` */
  readonly answers?: 'later' | 'at-once';
  /** Maximum number of recoveries for each seed, including those of `nested`. @defaultValue 100,000 */
  readonly recoveriesMax?: number;
  /**
   * Also cuts the power at every moment of each recovery that writes, and recovers again; the check must accept that state,
   * too. A number is the maximum number of power cuts during recoveries; true is 1.
   *
   * @defaultValue false
   */
  readonly nested?: boolean | number;
  /**
   * The maximum number of lives. With 2 or more, each disk that a power cut left is recovered, the workload goes on with it, and
   * the power is cut again, at every moment of that recovery and of that work. The next recovery is held to what the one
   * before has shown: `expected.shown`.
   *
   * @defaultValue 1
   */
  readonly lives?: number;
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
    /** What the size of the disk still is, in bytes, if that is what is lost: then `offset` is where the disk ends. */
    readonly size?: number;
    /** The number of the command whose bytes are gone. */
    readonly command: number;
    /** In which of `cuts` they are lost. */
    readonly cut: number;
    /** The call that the command came from and the one around it, as `name (file:line), from name (file:line)`, if known. */
    readonly site?: string;
  }[];
  /** The steps of the program that the failure needs: none of them can be left out alone. */
  readonly program: readonly unknown[];
  /**
   * The power cuts as data, of which the text and the pictures are made: that of the workload, then those during recoveries
   * (`nested`) or in later lives (`lives`). None if the workload hangs.
   */
  readonly cuts: readonly {
    /** What was cut short: the first workload, a recovery, or a recovery and the work after it. */
    readonly during: 'workload' | 'recovery' | 'life';
    /** The commands and the journal of what was cut short. */
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
      /** What the size of the disk is, in bytes, if the region is the size: then `offset` is where the disk ends. */
      readonly size?: number;
    }[];
  }[];
  /** What would have prevented the failure; absent if nothing was tried. */
  readonly advice?: {
    /** In words. */
    readonly text: string;
    /** What is missing: `a barrier between #2 and #3`; absent if no barrier would have prevented it. */
    readonly missing?: string;
    /** The barrier comes before this moment of a trace. */
    readonly before?: number;
    /** The trace is that of this one of `cuts`. */
    readonly cut?: number;
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
  /** How many recoveries each strategy of the exploration picked, and how many ran after later power cuts (`nested`, `lives`). */
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
