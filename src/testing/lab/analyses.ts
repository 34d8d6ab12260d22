// Questions about one trace of a crash test: is every flush needed, does order alone explain what is recovered, and (synthesis.ts)
// which barriers suffice.
//
// Each takes the trace of one run, and changes the trace and not the workload, so the commands of the host stay the same. What a
// crash state shows is certain. That no state shows it is certain only if every crash state was covered, so each answer says how
// many were.
//
//   mutation       Each flush is made to do nothing in turn. A mutant that survives is a redundant flush, or a check that is too
//                  weak to see the difference.
//   strict order   Would a disk that keeps everything in order have left the recovered state, too? A state that it would not
//                  have left is the mark of a missing barrier, even where the check accepts the state.
//
// Source: redundant flushes (Agamotto); robustness (PSan), strict crash consistency (Ferrite).

import { messageOf } from '../../model/error.js';
import { formatValue, misuse, type WriteBarrierError } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import { failsIn, withBarriers } from '../crash-test/barriers.js';
import { crashTest } from '../crash-test/crash-test.js';
import { NEVER_READ, PARTLY } from '../crash-test/doubts.js';
import { labelOf } from '../crash-test/in-short.js';
import { DISK_STATES, judgeState } from '../crash-test/lives.js';
import { neverCame } from '../crash-test/one-seed.js';
import { checkCrashTest } from '../crash-test/options.js';
import { recoverOn } from '../crash-test/recovery.js';
import { parseReplay, stateOf } from '../crash-test/replay.js';
import { trialOf } from '../crash-test/trial.js';
import type { CrashReport, CrashTest } from '../crash-test/types.js';
import { HangError, Watch } from '../crash-test/watch.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import { UnsteadyRecoveryError } from '../space/walks.js';

// Mutation

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
  const state = cut && stateOf(DISK_STATES, from, cut);
  if (!state) return false;
  return failsIn(trial.space, state, (same) => judgeState(trial, same));
}

// Strict order

/** The result of `strictOrder`. */
export interface StrictOrderReport
  extends Pick<CrashReport, 'images' | 'covered' | 'recoveries' | 'warnings'> {
  /**
   * `proved`: every image is covered, and none is out of order. `passed`: none of those that were tried. `failed`: one is.
   * `hung`: a recovery has not ended within `hangMs`, and `warnings` says what it waits for.
   */
  readonly verdict: CrashReport['verdict'];
  /** `proved`: no recovered state is out of order, and all of them are known. */
  readonly holds: boolean;
  /** A state that no disk in order leaves, by its digest. */
  readonly digest?: string;
  /** How many states a disk in order leaves. */
  readonly inOrder: number;
}

/**
 * Compares every recovered state with those after a power cut on a disk that carries everything out in order and whole. It uses
 * one run of the workload, that of `seed`; a `seeds` above 1 is ignored, with a warning.
 *
 * @param digest names a recovered state: equal states have equal names
 * @throws `INVALID_ARGUMENT` as `crashTest` does, and for a digest that answers no string; what the digest throws
 */
export async function strictOrder<A, R, P>(
  test: CrashTest<A, R, P>,
  digest: (recovered: R) => string,
): Promise<StrictOrderReport> {
  if (typeof digest !== 'function') {
    throw misuse(`digest must be a function, not ${formatValue(digest)}`);
  }
  const { trace, warnings: more } = await oneTrace(test);
  const space = crashSpace(trace, test.profile);
  const watch = new Watch(test.hangMs);
  const recovered = async (disk: Storage): Promise<string> => {
    let state: R;
    try {
      state = await recoverOn(test, disk, watch);
    } catch (error) {
      if (error instanceof UnsteadyRecoveryError || error instanceof HangError) throw error;
      return `throws ${messageOf(error)}`;
    }
    // What is no name, or is one by accident, would make different states equal.
    const name: unknown = digest(state);
    if (typeof name === 'string') return name;
    throw misuse(`the digest returned ${formatValue(name)}; it must return a string`);
  };
  const ordered = inOrderOf(space, trace, test.profile);
  const expected = new Set<string>();
  const { recoveriesMax = 100_000, label } = test;
  const options = label ? { label: (offset: number) => labelOf(test, offset) } : {};
  const counts = { images: space.count, covered: 0n, recoveries: 0, inOrder: ordered.length };
  let looked = false;
  try {
    for (const state of ordered) expected.add(await recovered(state.disk()));
    for (const crash of space.explore({ recoveriesMax, ...options })) {
      counts.recoveries += 1;
      const digest = await recovered(crash.disk);
      counts.covered += crash.images;
      looked ||= crash.decided.size > 0;
      if (expected.has(digest)) continue;
      return printable({ verdict: 'failed', holds: false, digest, ...counts, warnings: more });
    }
  } catch (error) {
    if (!(error instanceof HangError)) throw error;
    const warnings = [...more, error.message];
    return printable({ verdict: 'hung', holds: false, ...counts, warnings });
  }
  const { images, covered } = counts;
  const warnings = [
    ...more,
    ...(looked ? [] : [NEVER_READ]),
    ...(covered < images ? [PARTLY(covered, images)] : []),
  ];
  const holds = warnings.length === 0;
  return printable({ verdict: holds ? 'proved' : 'passed', holds, ...counts, warnings });
}

/** The states after each command, if all came in order and whole. */
function inOrderOf(
  space: CrashSpace,
  trace: DiskTrace,
  profile: CrashTest<unknown, unknown>['profile'],
): CrashState[] {
  const prefixes = (of: CrashSpace): CrashState[] =>
    [Number.NEGATIVE_INFINITY, ...of.moments].map((end) => of.inOrder(end));
  // A write that failed may have come to nothing, in perfect order, too. A size that failed is what the next resize begins with.
  const commands = trace.commands.filter(({ failed, size }) => !failed || size !== undefined);
  if (commands.length === trace.commands.length) return prefixes(space);
  return [...prefixes(space), ...prefixes(crashSpace({ ...trace, commands }, profile))];
}

// What the analyses share

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
