// The options of a simulated disk, and the pace that its seed stands for.
//
// A pace says when the disk answers: while the host calls it or only when the host rests (host-rest.ts), one answer at a
// time or several, the newest command first or in the order of time. Seeds take turns with the paces, so a test that tries
// a few seeds tries all of them. Seed 0 is the worst for a host that forgets to wait, because it is the default.
//
// Not here: which steps the disk takes between its answers (volatile-disk.ts).

import {
  checkOptions,
  formatValue,
  invalid,
  isBytes,
  type KnownOptions,
  misuse,
  oneOf,
  rule,
  WriteBarrierError,
  wholeNumber,
} from '../../model/index.js';
import { checkSize } from '../../storage/checks.js';
import type { Storage } from '../../storage/index.js';
import { checkFaults, type DiskFault } from './disk-faults.js';
import { type DeviceName, type DeviceProfile, deviceProfile } from './profile.js';

/** Options of a simulated disk. */
export interface VolatileDiskOptions {
  /** In bytes, whole sectors, at most 2^32: the disk is in memory. 0 only where the size may change. */
  readonly size: number;
  /**
   * A device of `DEVICE_PROFILES`, or the fields that differ from a file.
   *
   * @defaultValue `'file'`: volatile cache, flush and FUA, no ordered tags
   */
  readonly profile?: DeviceName | Partial<DeviceProfile>;
  /** A whole number from 0 to 2^32 - 1. @defaultValue 0 */
  readonly seed?: number;
  /** The medium at the start. It is copied. @defaultValue zeroes */
  readonly initial?: Uint8Array;
  /** Sectors that cannot be read until they are written: their offsets, in bytes. @defaultValue none */
  readonly unreadable?: readonly number[];
  /** Faults to inject, each at one command. @defaultValue none */
  readonly faults?: readonly DiskFault[];
  /**
   * `later`: with promises, in any order. `at-once`: before the call returns, for hosts that cannot wait.
   *
   * @defaultValue `'later'`
   */
  readonly answers?: 'later' | 'at-once';
  /**
   * The minimum and the maximum duration of a command, in virtual microseconds. With this option what the host does takes no
   * time: answers come in the order of time, when the host rests. Without it some seeds answer while the host is at
   * work, and some delay a command for up to a thousand newer ones.
   *
   * @defaultValue 50 and 500
   */
  readonly latencyUs?: readonly [least: number, most: number];
  /**
   * For hosts that wait for more than promises and timers, such as sockets or workers: real milliseconds without a call
   * before each answer. `true` is 20.
   *
   * @defaultValue false; the disk becomes patient when it notices such a host
   */
  readonly patient?: boolean | number;
}

const isLatency = (value: unknown): boolean => {
  if (!Array.isArray(value) || value.length !== 2) return false;
  const [least, most] = value;
  return least >= 0 && least <= most && most < Number.POSITIVE_INFINITY;
};
const isPatience = (value: unknown): boolean =>
  typeof value === 'boolean' || (Number.isFinite(value) && (value as number) >= 0);

const OPTIONS: KnownOptions<VolatileDiskOptions> = {
  size: 0,
  profile: 0,
  seed: wholeNumber(0, 2 ** 32 - 1),
  initial: rule(isBytes, 'a Uint8Array'),
  unreadable: rule(Array.isArray, 'a list of offsets'),
  faults: 0,
  answers: oneOf(['later', 'at-once']),
  latencyUs: rule(isLatency, 'two durations, the least and the most, of at least 0 microseconds'),
  patient: rule(isPatience, 'true, false or a number of milliseconds'),
};

/** The default of `latencyUs`. */
export const LATENCY_US = [50, 500] as const;

/** An image of the disk is one array, so it can have no more bytes. */
const SIZE_MAX = 2 ** 32;

/** @throws `INVALID_ARGUMENT`, `UNALIGNED`, `NO_SPACE` for a size that the disk cannot have */
export function checkDiskSize(disk: Pick<Storage, 'capabilities'>, size: number): void {
  checkSize(disk, size);
  if (size <= SIZE_MAX) return;
  const why = `a simulated disk is in memory, so it has at most ${SIZE_MAX} bytes, not ${size}`;
  throw new WriteBarrierError('NO_SPACE', why);
}

/**
 * Checks all options, and returns the profile of the disk.
 *
 * @throws `INVALID_ARGUMENT` for options that are unknown or out of range
 */
export function checkedProfile(options: VolatileDiskOptions): DeviceProfile {
  checkOptions(options, OPTIONS, 'VolatileDisk');
  const profile = deviceProfile(options.profile);
  const { sectorSize } = profile;
  const { size, initial, unreadable = [], faults = [] } = options;
  const least = profile.resize ? 0 : sectorSize;
  const isSize = Number.isSafeInteger(size) && size >= least && size <= SIZE_MAX;
  if (!isSize || size % sectorSize !== 0) {
    const bounds = `from ${least} to ${SIZE_MAX}, because the disk is in memory`;
    throw invalid('size', `a multiple of the sector size ${sectorSize}, ${bounds}`, size);
  }
  if (initial && initial.length !== size) {
    throw misuse(`initial must have as many bytes as the disk: ${size}, not ${initial.length}`);
  }
  for (const offset of unreadable) {
    const isSector = Number.isSafeInteger(offset) && offset >= 0 && offset % sectorSize === 0;
    if (!isSector || offset >= size) {
      throw misuse(`unreadable: no sector of the disk begins at ${formatValue(offset)}`);
    }
  }
  checkFaults(faults, size, sectorSize);
  return profile;
}

/** When a simulated disk answers. */
export interface Pace {
  /** The chance, while the disk is called, of an answer before and after the call, and then of one more. */
  readonly within: number;
  /** The chance, when the host rests, of one more answer before the host goes on, and then of yet one more. */
  readonly more: number;
  /** The newest command is answered first. */
  readonly newestFirst: boolean;
  /** How long the disk waits for a timer of the host, in real milliseconds. */
  readonly timersMs: number;
  /** Reads are answered before the call returns. */
  readonly readsAtOnce?: boolean;
}

/** Answers in the order of time, one by one, when the host rests. */
export const IN_TIME: Pace = { within: 0, more: 0, newestFirst: false, timersMs: 100 };

/**
 * The paces that the seeds take turns with. The first, of seed 0, answers nothing while the host does anything, and answers
 * a command that the host does not wait for after all those that it waits for.
 */
const PACES: readonly Pace[] = [
  { ...IN_TIME, newestFirst: true },
  { ...IN_TIME, within: 0.5, more: 0.5, timersMs: 10 },
  IN_TIME,
  { ...IN_TIME, within: 1, timersMs: 10 },
];

/** The pace of a seed. Every second seed, and every fourth one, go through all paces as well. */
export function paceOf(seed: number): Pace {
  return PACES[(seed + Math.floor(seed / PACES.length)) % PACES.length] as Pace;
}

/** The pace for a recovery: that of the workload, but it need not wait for reads, and nothing is answered during a call. */
export function recoveryPaceOf(seed: number): Pace {
  return { ...paceOf(seed), within: 0, more: 0, readsAtOnce: true };
}

/** The maximum number of commands that are answered before an older one. */
export const PASSED_MAX = 1000;
