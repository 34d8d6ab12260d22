// From twenty lines of a user to a verdict: run a workload on a simulated disk, then its recovery on every state that a
// power cut may have left, and ask the user's check about each.
//
//   workload   uses the disk and tells a journal what it begins and what it acknowledges to its own users
//   recover    opens what the power cut left; the answer is what a user would see
//   check      compares that with what must be there and what may be there
//
// One recovery stands for all images that it cannot tell apart (explore.ts), so few runs cover many images, and the
// report says how many of how many. Only when all are covered it says `proved`; what is proved is this workload, in
// the orders in which these seeds made the disk answer, on this device.
//
// One image may be left at several moments, and the journal says something else at each: what was acknowledged by then
// must be there, and what had not begun must not. Each is judged (trial.ts).
//
// A failure is made small in two ways (shrink.ts): steps of the program that it does without are left out, and every
// lost sector that need not be lost is given back. It is reported by the number of its image, which brings it back:
// `replay`.

import { WriteBarrierError } from '../../model/index.js';
import type { CrashState } from '../space/crash-space.js';
import type { Crash } from '../space/explore.js';
import { describeFailure, failureOf } from './crash-report.js';
import { recoverAgain, replayAgain } from './nested.js';
import { smallestLoss, smallestProgram } from './shrink.js';
import {
  agreeing,
  type CrashReport,
  type CrashTest,
  type Failed,
  judge,
  judgeState,
  type Told,
  type Trial,
  trialOf,
} from './trial.js';

/**
 * Runs the test. The first failure ends it.
 *
 * @throws what the workload throws; `INVALID_ARGUMENT` for a workload that goes on after it has returned, for a recovery
 *   that reads otherwise in a second run, and for a `replay` that is no image
 */
export async function crashTest<A, R, P = unknown>(test: CrashTest<A, R, P>): Promise<CrashReport> {
  checkOptions(test);
  if (test.replay !== undefined) return replayed(test, test.replay);
  const { seed = 0, seeds = 1, trace } = test;
  const reports: CrashReport[] = [];
  // A trace that is given is one order of answers, whatever the seed, and no other steps can be taken.
  for (let next = seed; next < seed + (trace ? 1 : seeds); next++) {
    const all = [...(test.program ?? []).keys()];
    const report = await explored(test, next, all);
    reports.push(report);
    if (report.verdict !== 'failed') continue;
    if (trace) break;
    const fewer = await smallestProgram(all.length, (steps) => explored(test, next, steps));
    return fewer ?? together(reports);
  }
  return together(reports);
}

/** @throws `INVALID_ARGUMENT` for numbers out of range */
function checkOptions<A, R, P>(test: CrashTest<A, R, P>): void {
  const { seed = 0, seeds = 1, recoveriesMax = 0, nested = 0 } = test;
  const counts = { seed, recoveriesMax: Math.min(recoveriesMax, 1e9), nested: Number(nested) };
  for (const [name, value] of Object.entries(counts)) {
    if (!Number.isSafeInteger(value) || value < 0) throw misuse(`${name} cannot be ${value}`);
  }
  if (!Number.isSafeInteger(seeds) || seeds < 1) throw misuse(`seeds cannot be ${seeds}`);
}

/** One order of answers, and some steps of the program. */
async function explored<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
): Promise<CrashReport> {
  const trial = await trialOf(test, seed, steps);
  const { space, trace } = trial;
  const { recoveriesMax = 100_000, nested = false, label } = test;
  const orders: Record<string, number> = {};
  const total = { covered: 0n, recoveries: 0 };
  const report = { images: space.count, profile: space.profile, seed, trace, orders };
  let looked = false;
  let cutShort = false;
  const options = label ? { label: (offset: number) => label.call(test, offset) } : {};
  for (const crash of space.explore({ recoveriesMax, ...options })) {
    if (total.recoveries >= recoveriesMax) break;
    total.recoveries += 1;
    orders[crash.order] = (orders[crash.order] ?? 0) + 1;
    const failed = await judge(trial, crash.disk, () => crash);
    looked ||= crash.decided.size > 0;
    total.covered += crash.images;
    if (failed) {
      const found = await completed(trial, crash);
      const state = found && (await smallestLoss(trial, found.state, found.failed));
      const failure = state && (await failureOf(trial, state));
      const warnings = failure ? [] : [UNSTEADY];
      const last = agreeing(space, crash, crash.after, true);
      const told = failure ?? describeFailure(trial, last, failed, []);
      return { ...report, ...total, verdict: 'failed', failure: told, warnings };
    }
    const depth = Number(nested);
    if (depth === 0) continue;
    const left = recoveriesMax - total.recoveries;
    const { tried, whole, failure } = await recoverAgain(trial, crash, depth, left);
    total.recoveries += tried;
    orders['after a later cut'] = (orders['after a later cut'] ?? 0) + tried;
    cutShort ||= !whole;
    if (failure) return { ...report, ...total, verdict: 'failed', failure, warnings: [] };
  }
  const { covered } = total;
  const warnings: string[] = [];
  if (!looked && total.recoveries > 0)
    warnings.push('the recovery never read anything that the workload had written');
  if (space.count === 1n) warnings.push('the workload wrote nothing');
  if (covered < space.count) warnings.push(`${covered} of ${space.count} images are covered`);
  if (cutShort) warnings.push('not every second power cut was tried');
  const blind = total.recoveries > 0 ? await blindness(trial) : undefined;
  if (blind) warnings.push(blind);
  const proved = covered === space.count && !cutShort && looked && !blind;
  return { ...report, ...total, verdict: proved ? 'proved' : 'passed', warnings };
}

const UNSTEADY = 'the same image did not fail when it was tried again';

/** What is wrong with a check that does not mind when everything is gone, although something else should be there. */
async function blindness<A, R>(trial: Trial<A, R>): Promise<string | undefined> {
  const { test, space, trace } = trial;
  const count = trace.marks.filter(({ value }) => (value as Told<A>).kind === 'acknowledge').length;
  if (count === 0 || space.count === 1n) return undefined;
  const never = Number.POSITIVE_INFINITY;
  const end = { after: never, before: never };
  const told = async (state: CrashState): Promise<string> => {
    try {
      return JSON.stringify(await test.recover(state.disk())) ?? '';
    } catch {
      return '';
    }
  };
  // Where the operations undo each other, the end is as the beginning.
  const untouched = space.at(0n);
  if ((await told(untouched)) === (await told(space.inOrder(never)))) return undefined;
  if (await judge(trial, untouched.disk(), () => end)) return undefined;
  return `the check accepts a disk without anything of the workload, which acknowledged ${count} operations`;
}

/** The last one, with what all of them came to. */
function together(reports: readonly CrashReport[]): CrashReport {
  const last = reports.at(-1) as CrashReport;
  const orders: Record<string, number> = {};
  for (const report of reports) {
    for (const [order, count] of Object.entries(report.orders)) {
      orders[order] = (orders[order] ?? 0) + count;
    }
  }
  const all = reports.flatMap(({ warnings }) => warnings);
  const proved = reports.every(({ verdict }) => verdict === 'proved');
  return {
    ...last,
    verdict: proved ? 'proved' : last.verdict === 'failed' ? 'failed' : 'passed',
    images: reports.reduce((sum, { images }) => sum + images, 0n),
    covered: reports.reduce((sum, { covered }) => sum + covered, 0n),
    recoveries: reports.reduce((sum, { recoveries }) => sum + recoveries, 0),
    orders,
    warnings: last.verdict === 'failed' ? last.warnings : [...new Set(all)],
  };
}

/** The report in words. */
export function formatCrashReport(report: CrashReport): string {
  const { verdict, images, covered, recoveries, orders, seed, failure, warnings } = report;
  const found = `found by recovery ${recoveries}, among ${images} images`;
  const share = covered === images ? 'all' : `${covered} of`;
  const tried = `${recoveries} recoveries cover ${share} ${images} images`;
  const picked = Object.entries(orders).map(([order, count]) => `${count} ${order}`);
  const lines = [
    `${verdict}: ${failure ? found : tried}, seed ${seed}`,
    ...(picked.length > 1 ? [`recoveries: ${picked.join(', ')}`] : []),
    ...warnings.map((warning) => `warning: ${warning}`),
  ];
  return [...lines, ...(failure ? [failure.text] : [])].join('\n');
}

/** A state that agrees with what the recovery has read and fails: with as much as possible of what it has not. */
async function completed<A, R>(
  trial: Trial<A, R>,
  crash: Crash,
): Promise<{ readonly state: CrashState; readonly failed: Failed } | undefined> {
  const { cells } = trial.space.map;
  const ordered = [...crash.decided].map(
    ([place, version]) => cells[place]?.versions[version]?.ordered ?? 0,
  );
  const bound = Math.min(Number.POSITIVE_INFINITY, ...ordered);
  for (const [time, at] of [
    [bound, false],
    [crash.after, true],
  ] as const) {
    const state = agreeing(trial.space, crash, time, at);
    const failed = await judgeState(trial, state);
    if (failed) return { state, failed };
  }
  return undefined;
}

/** `seed 0 image 12`; with `steps 1,4` for a part of the program, and with `then 3` for a cut during recovery. */
async function replayed<A, R, P>(test: CrashTest<A, R, P>, text: string): Promise<CrashReport> {
  const [, seed, steps, image, later = ''] =
    /^seed (\d+)(?: steps ([\d,]*))? image (\d+)((?: then \d+)*)$/.exec(text) ?? [];
  if (image === undefined) {
    throw misuse(`${JSON.stringify(text)} is not 'seed N image N', as a report says it`);
  }
  const all = test.program ?? [];
  const kept = steps === undefined ? [...all.keys()] : steps.split(',').filter(Boolean).map(Number);
  if (kept.some((step) => step >= all.length)) throw misuse(`the program has ${all.length} steps`);
  const trial = await trialOf(test, Number(seed), kept);
  const { space, trace } = trial;
  const state = space.at(BigInt(image));
  const cuts = later.split(' then ').filter(Boolean).map(BigInt);
  const failure =
    cuts.length > 0 ? await replayAgain(trial, state, cuts) : await failureOf(trial, state);
  return {
    ...{ images: space.count, profile: space.profile, seed: Number(seed), trace },
    ...{ covered: 1n, recoveries: 1, orders: { replay: 1 }, warnings: [] },
    verdict: failure ? 'failed' : 'passed',
    ...(failure && { failure }),
  };
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
