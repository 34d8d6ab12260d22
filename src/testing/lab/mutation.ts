// Is every flush needed? Each flush is made to do nothing in turn. A mutant that survives is a redundant flush, or a check that
// is too weak to see the difference.
//
// Source: redundant flushes (Agamotto).

import { misuse, type WriteBarrierError } from '../../model/index.js';
import { sameState, withBarriers } from '../crash-test/barriers.js';
import { crashTest } from '../crash-test/crash-test.js';
import { judgeState } from '../crash-test/judge.js';
import { parseReplay, stateOf } from '../crash-test/replay.js';
import { trialOf } from '../crash-test/trial.js';
import type { CrashReport, CrashTest } from '../crash-test/types.js';
import { crashSpace } from '../space/crash-space.js';
import { flushesOf, isWhole, oneTrace, printable, unable } from './one-trace.js';

/** A flush that was made to do nothing, and the result of the test without it. */
export interface Mutant
  extends Pick<CrashReport, 'images' | 'covered' | 'recoveries' | 'warnings'> {
  /** The number of the flush among the commands of the trace. */
  readonly flush: number;
  /** That of the test without the flush. */
  readonly verdict: CrashReport['verdict'];
  /**
   * True: a power cut shows that the flush is missing. False: every one was tried, and none does. Absent where the budget
   * ended before either was known.
   */
  readonly killed?: boolean;
  /** What was said then. */
  readonly message?: string;
}

/**
 * Leaves out each flush in turn, and runs the test without it. It uses one run of the workload, that of `seed`; a `seeds`
 * above 1 is ignored, with a warning. `recoveriesMax` is the limit for each flush.
 *
 * @throws `INVALID_ARGUMENT` as `crashTest` does, and where the test fails with all of its flushes
 */
export async function barrierMutation<A, R, P>(
  test: CrashTest<A, R, P>,
): Promise<readonly Mutant[]> {
  const { test: unharmed, trace, warnings } = await oneTrace(test);
  const whole = await crashTest(unharmed);
  if (whole.verdict === 'failed') throw failsAnyway();
  if (whole.verdict !== 'proved' && whole.verdict !== 'passed') throw unable(whole);
  const mutants: Mutant[] = [];
  for (const flush of flushesOf(trace)) {
    const report = await crashTest({ ...unharmed, trace: withBarriers(trace, [], [flush]) });
    const { verdict, failure, images, covered, recoveries } = report;
    // What failed without the flush may have been there with it, where not everything was tried.
    if (failure && !isWhole(whole, test) && (await isAlsoIn(unharmed, report))) throw failsAnyway();
    const killed = failure ? true : isWhole(report, test) ? false : undefined;
    mutants.push(
      printable({
        ...{ flush, verdict, images, covered, recoveries },
        warnings: [...warnings, ...report.warnings],
        ...(killed !== undefined && { killed }),
        ...(failure && { message: failure.message }),
      }),
    );
  }
  return mutants;
}

function failsAnyway(): WriteBarrierError {
  return misuse('the test must pass without a mutation, but it fails even with all of its flushes');
}

/** Whether the image of a failure is one that the test fails on, too. */
async function isAlsoIn<A, R, P>(
  test: CrashTest<A, R, P>,
  { trace, failure }: CrashReport,
): Promise<boolean> {
  if (!failure) return false;
  const from = crashSpace(trace, test.profile);
  const trial = await trialOf(test, 0, []);
  const [cut] = parseReplay(failure.replay, 0).cuts;
  const state = cut && stateOf(from, cut);
  const same = state && sameState(from, state, trial.space);
  return same !== undefined && (await judgeState(trial, same)) !== undefined;
}
