// The options of a crash test. Everything is checked before anything runs.

import {
  checkArgument,
  checkOptions,
  FUNCTION,
  invalid,
  type KnownOptions,
} from '../../model/index.js';
import { checkFaults } from '../device/disk-faults.js';
import { deviceProfile } from '../device/profile.js';
import { COMMON } from './limits.js';
import type { CrashTest } from './types.js';

/** Values that are 0 belong to the disk, which checks them when it is made: before the workload runs. */
const OPTIONS: KnownOptions<CrashTest<unknown, unknown>> = {
  size: 0,
  initial: 0,
  faults: 0,
  ...COMMON,
  profile: 0,
  answers: 0,
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
