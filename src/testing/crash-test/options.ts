// The options of a crash test. Everything is checked before anything runs.

import {
  checkArgument,
  checkOptions,
  FUNCTION,
  invalid,
  type KnownOptions,
  rule,
  wholeNumber,
} from '../../model/index.js';
import { checkFaults } from '../device/disk-faults.js';
import { deviceProfile } from '../device/profile.js';
import type { CrashTest } from './types.js';

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
  lives: wholeNumber(1),
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
  const { size, trace, lives = 1, faults = [] } = test;
  // With a trace there is no workload to run, except in later lives.
  const needed = trace && lives === 1 ? (['recover', 'check'] as const) : FUNCTIONS;
  for (const name of needed) {
    checkArgument(name, test[name], FUNCTION);
  }
  if (trace && trace.size !== size) {
    throw invalid('size', `that of the disk of the trace, ${trace.size}`, size);
  }
  const { sectorSize } = deviceProfile(test.profile);
  if (Number.isSafeInteger(size)) checkFaults(faults, size, sectorSize);
}

const FUNCTIONS = ['workload', 'recover', 'check'] as const;
