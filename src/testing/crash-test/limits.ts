// The options that all crash tests have, whatever is tested.

import { FUNCTION, type KnownOptions, type Rule, rule, wholeNumber } from '../../model/index.js';
import type { CrashTest } from './types.js';

const count: Rule = wholeNumber(0);

type Common = Pick<
  CrashTest<unknown, unknown>,
  | ('workload' | 'program' | 'trace' | 'recover' | 'check' | 'seed' | 'seeds')
  | ('recoveriesMax' | 'nested' | 'lives' | 'replay' | 'hangMs')
>;

/** The rules of the options. */
export const COMMON: KnownOptions<Common> = {
  workload: 0,
  program: rule(Array.isArray, 'a list of steps'),
  trace: 0,
  recover: FUNCTION,
  check: FUNCTION,
  seed: count,
  seeds: wholeNumber(1),
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
};
