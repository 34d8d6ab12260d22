// The options of a crash test, and the form of a replay. Everything is checked before anything runs.

import {
  checkArgument,
  checkOptions,
  FUNCTION,
  formatValue,
  invalid,
  type KnownOptions,
  misuse,
  rule,
  wholeNumber,
} from '../../model/index.js';
import { checkFaults } from '../device/disk-faults.js';
import { deviceProfile } from '../device/profile.js';
import type { CrashTest } from './trial.js';

const count = wholeNumber(0);

/** Values that are 0 belong to the disk, which checks them when it is made: before the workload runs. */
const OPTIONS: KnownOptions<CrashTest<unknown, unknown>> = {
  size: 0,
  initial: 0,
  faults: 0,
  workload: 0,
  program: rule(Array.isArray, 'a list of steps'),
  trace: 0,
  recover: FUNCTION,
  check: FUNCTION,
  profile: 0,
  seed: count,
  seeds: wholeNumber(1),
  answers: 0,
  recoveriesMax: rule(
    (value) => value === Number.POSITIVE_INFINITY || count.holds(value),
    'a whole number of at least 0, or Infinity',
  ),
  nested: rule(
    (value) => typeof value === 'boolean' || count.holds(value),
    'a boolean, or a whole number of at least 0',
  ),
  replay: rule((value) => typeof value === 'string', 'a string as a report has it'),
  hangMs: rule(
    (value) => typeof value === 'number' && value > 0,
    'a number of milliseconds above 0, or Infinity',
  ),
  label: FUNCTION,
};

/** @throws `INVALID_ARGUMENT` for unknown options, for functions that are missing, and for values out of range */
export function checkCrashTest<A, R, P>(test: CrashTest<A, R, P>): void {
  checkOptions(test as CrashTest<unknown, unknown>, OPTIONS, 'crashTest');
  const { size, trace, faults = [] } = test;
  // With a trace there is no workload to run.
  for (const name of trace ? (['recover', 'check'] as const) : FUNCTIONS) {
    checkArgument(name, test[name], FUNCTION);
  }
  if (trace && trace.size !== size) {
    throw invalid('size', `that of the disk of the trace, ${trace.size}`, size);
  }
  const { sectorSize } = deviceProfile(test.profile);
  if (Number.isSafeInteger(size)) checkFaults(faults, size, sectorSize);
}

const FUNCTIONS = ['workload', 'recover', 'check'] as const;

/** A replay: a seed, the steps of the program that ran, a crash state, and the crash states of later power cuts. */
export interface Replay {
  readonly seed: number;
  /** Indexes in the program, ascending. */
  readonly steps: readonly number[];
  readonly image: bigint;
  readonly later: readonly bigint[];
}

/** No crash state of a trace that fits into memory has more digits. A text of this length takes milliseconds to parse. */
const CHARACTERS_MAX = 1_000_000;

/**
 * Parses `seed 0 image 12`, with `steps 1,4` for a part of the program, and with `then 3` for a power cut during recovery.
 *
 * @param length how many steps the program has
 * @throws `INVALID_ARGUMENT` for any other text, and for steps that are not in the program or not ascending
 */
export function parseReplay(text: string, length: number): Replay {
  const parts = typeof text === 'string' && text.length <= CHARACTERS_MAX && FORM.exec(text);
  if (!parts) throw invalid('replay', "'seed N image N', copied from a report", text);
  const [, seed = '', list, image = '', then = ''] = parts;
  // A number of more digits is not exact.
  if (Number(seed) >= 2 ** 32) {
    throw misuse(`replay: the seed must be below 2^32, not ${formatValue(seed)}`);
  }
  const all = [...new Array(length).keys()];
  const steps = list === undefined ? all : list.split(',').filter(Boolean).map(Number);
  if (steps.some((step) => step >= length)) {
    throw misuse(`replay: the program has ${length} steps, numbered from 0`);
  }
  if (steps.some((step, i) => i > 0 && step <= (steps[i - 1] as number))) {
    throw misuse('replay: the steps must be in ascending order, each of them once');
  }
  const later = then.split(' then ').filter(Boolean).map(BigInt);
  return { seed: Number(seed), steps, image: BigInt(image), later };
}

const FORM = /^seed (\d+)(?: steps ((?:\d+(?:,\d+)*)?))? image (\d+)((?: then \d+)*)$/;
