// What the analyses of a crash test share. Each takes the trace of one run, and changes the trace and not the workload, so the
// commands of the host stay the same. What a crash state shows is certain. That no state shows it is certain only if every crash
// state was covered, so each answer says how many were.

import { misuse, type WriteBarrierError } from '../../model/index.js';
import { neverCame } from '../crash-test/one-seed.js';
import { checkCrashTest } from '../crash-test/options.js';
import { trialOf } from '../crash-test/trial.js';
import type { CrashReport, CrashTest } from '../crash-test/types.js';
import { HangError } from '../crash-test/watch.js';
import type { DiskTrace } from '../device/disk-trace.js';

/**
 * The test with the trace of one run in place of its workload: the first one, under `seed`, or the one that it has. No
 * image is replayed, and nothing is tried.
 */
export async function oneTrace<A, R, P>(
  test: CrashTest<A, R, P>,
): Promise<{
  readonly test: CrashTest<A, R, P>;
  readonly trace: DiskTrace;
  readonly warnings: readonly string[];
}> {
  checkCrashTest(test);
  const { replay: _, seeds = 1, seed = 0, ...rest } = test;
  const steps = [...(test.program ?? []).keys()];
  const { trace, faultsToCome, unfinished, doubt } = await trialOf(test, seed, steps).catch(
    (cause) => {
      if (cause instanceof HangError) throw unable({ verdict: 'hung', warnings: [cause.message] });
      throw cause;
    },
  );
  if (unfinished !== undefined) throw misuse(unfinished);
  const isPart = !test.trace && seeds > 1;
  const warnings = [
    ...(isPart ? [`only seed ${seed} of ${seeds} seeds was analysed`] : []),
    ...faultsToCome.map(neverCame),
    ...(doubt === undefined ? [] : [doubt]),
  ];
  return { test: { ...rest, seed, trace }, trace, warnings };
}

/** Whether a report without a failure means that there is none. */
export function isWhole<A, R, P>(
  { verdict, images, covered }: CrashReport,
  { nested = false, lives = 1 }: CrashTest<A, R, P>,
): boolean {
  return verdict === 'proved' || (covered === images && Number(nested) === 0 && lives === 1);
}

/** The flushes of a trace, by their numbers among the commands. */
export function flushesOf({ commands }: DiskTrace): number[] {
  return commands.flatMap(({ op }, number) => (op === 'flush' ? [number] : []));
}

/** The error for a test that has neither passed nor failed, and so cannot be analysed. */
export function unable({
  verdict,
  failure,
  warnings,
}: Pick<CrashReport, 'verdict' | 'failure' | 'warnings'>): WriteBarrierError {
  const words = failure ? [failure.message, ...warnings] : warnings;
  const why = words.length > 0 ? `: ${words.join('; ')}` : '';
  return misuse(`the test must pass or fail, but its verdict is '${verdict}'${why}`);
}

/** The same, and `JSON.stringify` prints its counts, as decimal numbers. */
export function printable<T extends object>(value: T): T {
  const toJSON = (): object =>
    Object.fromEntries(
      Object.entries(value).map(([name, one]) => [name, typeof one === 'bigint' ? `${one}` : one]),
    );
  return Object.defineProperty(value, 'toJSON', { value: toJSON });
}
