// Checks that are ready made, and questions about a crash test that need no better check than the one it has.
//
//   prefix         Is the recovered state that after the first k operations, for some k that the journal allows?
//   strict order   Would the recovered state have come out of a disk that keeps everything in order? What would not is
//                  the mark of a missing barrier, even where the check does not mind.
//   mutation       Is every flush needed? Each is made to do nothing in turn; a mutant that survives is a redundant
//                  flush, or a check that is too weak to see it.
//   synthesis      Which barriers would do? The smallest set, of the flushes that there are and of barriers in the gaps
//                  between commands: a flush outside of it is redundant, and a gap in it lacks a barrier.
//
// All of them change the trace and not the workload: what the host did stays as it was.
//
// Source: robustness (PSan), strict crash consistency and synthesis of fences (Ferrite), redundant flushes (Agamotto).

import { inWords } from '../../model/error.js';
import { WriteBarrierError } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { type CrashSpace, type CrashState, crashSpace } from '../space/crash-space.js';
import { type Gap, gapsOf, sameState, withBarriers } from './barriers.js';
import { crashTest } from './crash-test.js';
import { type CrashTest, type Expected, judgeState, trialOf } from './trial.js';

/** What a prefix oracle has to know of the code under test. */
export interface PrefixModel<A, R, S> {
  /** The state before the first operation. */
  readonly start: S;
  /** The state after an operation; the one before is not to be changed. */
  apply(state: S, operation: A): S;
  /** Whether what was recovered is that state. */
  matches(recovered: R, state: S): boolean;
}

/**
 * A check for `crashTest`: what was recovered must be the state after the first k operations, in the order in which
 * they began, with k at least the number of those acknowledged and at most that of those begun. For code whose
 * operations are acknowledged in the order in which they begin.
 */
export function prefixOracle<A, R, S>(
  model: PrefixModel<A, R, S>,
): (recovered: R, expected: Expected<A>) => void {
  return (recovered, { acknowledged, begun }) => {
    const least = acknowledged.length;
    let state = model.start;
    for (let k = 0; k <= begun.length; k++) {
      if (k >= least && model.matches(recovered, state)) return;
      if (k < begun.length) state = model.apply(state, begun[k] as A);
    }
    throw new Error(`this is no state after ${least} to ${begun.length} of the operations`);
  };
}

/** A flush that was made to do nothing. */
export interface Mutant {
  /** The number of the flush among the commands of the trace. */
  readonly flush: number;
  /** A power cut shows that it is missing. */
  readonly killed: boolean;
  /** What was said then. */
  readonly message?: string;
}

/**
 * Takes each flush out in turn and runs the test on what is left. The workload runs once.
 *
 * @throws `INVALID_ARGUMENT` as `crashTest` does
 */
export async function barrierMutation<A, R, P>(
  test: CrashTest<A, R, P>,
): Promise<readonly Mutant[]> {
  const { trace, verdict: unharmed } = await crashTest(test);
  if (unharmed === 'failed') {
    throw new WriteBarrierError('INVALID_ARGUMENT', 'the test fails with all of its flushes');
  }
  const mutants: Mutant[] = [];
  for (const flush of flushesOf(trace)) {
    const { verdict, failure } = await crashTest({
      ...test,
      trace: withBarriers(trace, [], [flush]),
    });
    const message = failure && { message: failure.message };
    mutants.push({ flush, killed: verdict === 'failed', ...message });
  }
  return mutants;
}

/** The barriers that a workload needs. */
export interface BarrierPlan {
  /** Of the flushes that there are, by their numbers among the commands. */
  readonly flushes: readonly number[];
  /** Where one is missing. */
  readonly missing: readonly Gap[];
}

/**
 * The smallest set of barriers with which the test passes: as few as can be, and of those sets one with as many as can be
 * of the flushes that there are. Undefined where no barriers help.
 *
 * Each failure tells which barriers would forbid it, one by one; the next try is the smallest set that has one for each
 * failure so far. So few sets are tried, however many there are.
 */
export async function barrierSynthesis<A, R, P>(
  test: CrashTest<A, R, P>,
): Promise<BarrierPlan | undefined> {
  const { trace } = await crashTest({ ...test, recoveriesMax: 0 });
  const candidates: readonly Candidate[] = [
    ...flushesOf(trace).map((flush): Candidate => ({ flush })),
    ...gapsOf(trace).map((gap): Candidate => ({ gap })),
  ];
  const edited = (chosen: ReadonlySet<Candidate>): DiskTrace => {
    const gaps = [...chosen].flatMap(({ gap }) => gap ?? []);
    return withBarriers(
      trace,
      gaps,
      flushesOf(trace).filter((flush) => ![...chosen].some((one) => one.flush === flush)),
    );
  };
  const cures: (readonly Candidate[])[] = [];
  for (;;) {
    const chosen = new Set(smallestHitting(cures));
    const report = await crashTest({ ...test, trace: edited(chosen) });
    if (!report.failure) return planOf(chosen);
    const { space, ...trial } = await trialOf({ ...test, trace: report.trace }, 0, []);
    const state = space.at(BigInt(/image (\d+)/.exec(report.failure.replay)?.[1] ?? 0));
    // What fails only after a later cut no barrier of the workload helps.
    if (!(await judgeState({ ...trial, space }, state))) return undefined;
    const helps = async (candidate: Candidate): Promise<boolean> => {
      const mended = crashSpace(edited(new Set([...chosen, candidate])), test.profile);
      const same = sameState(space, state, mended);
      return !same || !(await judgeState({ ...trial, space: mended }, same));
    };
    const cure: Candidate[] = [];
    for (const candidate of candidates) {
      if (!chosen.has(candidate) && (await helps(candidate))) cure.push(candidate);
    }
    if (cure.length === 0) return undefined;
    cures.push(cure);
  }
}

type Candidate =
  | { readonly flush: number; readonly gap?: undefined }
  | { readonly gap: Gap; readonly flush?: undefined };

function planOf(chosen: Iterable<Candidate>): BarrierPlan {
  const all = [...chosen];
  return {
    flushes: all.flatMap(({ flush }) => flush ?? []).sort((a, b) => a - b),
    missing: all.flatMap(({ gap }) => gap ?? []).sort((a, b) => a.time - b.time),
  };
}

/** One of each list, as few as possible in all. Lists begin with what is preferred. */
function smallestHitting<T>(lists: readonly (readonly T[])[]): readonly T[] {
  const search = (chosen: readonly T[], most: number): readonly T[] | undefined => {
    const open = lists.find((list) => !list.some((one) => chosen.includes(one)));
    if (!open) return chosen;
    if (chosen.length === most) return undefined;
    for (const one of open) {
      const found = search([...chosen, one], most);
      if (found) return found;
    }
    return undefined;
  };
  for (let most = 0; ; most++) {
    const found = search([], most);
    if (found) return found;
  }
}

/** What strict order came to. */
export interface StrictOrderReport {
  /** No recovered state is out of order. */
  readonly holds: boolean;
  /** A state that no disk in order leaves, by its digest. */
  readonly digest?: string;
  /** How many states a disk in order leaves. */
  readonly inOrder: number;
  /** How many recoveries were compared with them. */
  readonly recoveries: number;
}

/**
 * Compares every recovered state with those after a cut on a disk that carries everything out in order and whole.
 *
 * @param digest names a recovered state: equal states have equal names
 */
export async function strictOrder<A, R, P>(
  test: CrashTest<A, R, P>,
  digest: (recovered: R) => string,
): Promise<StrictOrderReport> {
  const { trace } = await crashTest({ ...test, recoveriesMax: 0 });
  const space = crashSpace(trace, test.profile);
  const recovered = async (disk: Storage): Promise<string> => {
    try {
      return digest(await test.recover(disk));
    } catch (error) {
      return `throws ${inWords(error)}`;
    }
  };
  const expected = new Set<string>();
  // A write that failed may have come to nothing, in perfect order, too.
  const whole = { ...trace, commands: trace.commands.filter(({ failed }) => !failed) };
  const spaces =
    whole.commands.length < trace.commands.length ? [crashSpace(whole, test.profile)] : [];
  const inOrder = [space, ...spaces].flatMap(prefixesOf);
  for (const state of inOrder) expected.add(await recovered(state.disk()));
  let recoveries = 0;
  const { recoveriesMax = 100_000 } = test;
  for (const { disk } of space.explore({ recoveriesMax })) {
    recoveries += 1;
    const found = await recovered(disk);
    if (!expected.has(found)) {
      return { holds: false, digest: found, inOrder: inOrder.length, recoveries };
    }
  }
  return { holds: true, inOrder: inOrder.length, recoveries };
}

/** The states after each command, if all came in order and whole. */
function prefixesOf(space: CrashSpace): CrashState[] {
  return [Number.NEGATIVE_INFINITY, ...space.moments].map((end) => space.inOrder(end));
}

function flushesOf({ commands }: DiskTrace): number[] {
  return commands.flatMap(({ op }, number) => (op === 'flush' ? [number] : []));
}
