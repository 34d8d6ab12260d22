// The options of a crash test of files. Everything is checked before anything runs.

import {
  checkArgument,
  checkOptions,
  FUNCTION,
  type KnownOptions,
  rule,
} from '../../model/index.js';
import { COMMON } from '../crash-test/limits.js';
import type { CrashFilesTest } from './files-test.js';
import { modelOf } from './models.js';

const OPTIONS: KnownOptions<CrashFilesTest<unknown, unknown>> = {
  ...COMMON,
  before: FUNCTION,
  models: rule(Array.isArray, 'a list of file systems'),
  wholeTree: rule((value) => typeof value === 'boolean', 'a boolean'),
  lies: rule(
    (value) => Array.isArray(value) && value.every((lie) => lie === 'ignoreFlush'),
    "a list of lies, of which there is 'ignoreFlush'",
  ),
};

/** @throws `INVALID_ARGUMENT` for unknown options, for functions that are missing, and for values out of range */
export function checkCrashFiles<A, R, P>(test: CrashFilesTest<A, R, P>): void {
  checkOptions(test as unknown as CrashFilesTest<unknown, unknown>, OPTIONS, 'crashFiles');
  const { trace, lives = 1, models = [] } = test;
  checkArgument('recover', test.recover, FUNCTION);
  checkArgument('check', test.check, FUNCTION);
  // With a trace there is no workload to run, except in later lives.
  if (!trace || lives > 1) checkArgument('workload', test.workload, FUNCTION);
  for (const model of models) modelOf(model);
}
