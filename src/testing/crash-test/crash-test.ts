// Crash tests: run a workload on a simulated disk, then its recovery on every crash state, the disk image that a power cut
// may leave, and let the user's check judge each result.
//
//   workload   uses the disk, and tells a journal what it begins and what it acknowledges to its own users
//   recover    opens what the power cut left, and returns what a user would see
//   check      compares that with what must be there and what may be there
//
// One run of the recovery covers all crash states from which it reads the same (explore.ts), so few recoveries cover many
// states. The report says how many states there are, and how many are covered. The verdict is `proved` only if all are
// covered, because a state that was not tried may be the one that fails. The verdict holds for this workload, for the
// orders in which these seeds made the disk answer, on this device.
//
// One crash state may be left at several moments, with a different journal at each. All of them are judged (judge.J1).
//
// A workload, recovery or check that does not end in time (watch.ts) is `hung`: neither proved nor failed. A hang is not
// shrunk, because each try would take as long.
//
// A failure is shrunk (shrink.ts): power cuts and steps of the program that it does not need are left out, and lost sectors whose
// loss it does not need are restored. The report names its power cuts, and `replay` repeats them.
//
//   C1  A report without a failure whose warnings are not empty is never `proved`.
//   C2  No report covers more crash states than there are.

import { checkOptions, chooseMode, invariant, misuse } from '../../model/index.js';
import { type Storage, wrap } from '../../storage/index.js';
import type { DiskFault } from '../device/disk-faults.js';
import { DiskRecorder } from '../device/disk-trace.js';
import { type DeviceProfile, deviceProfile } from '../device/profile.js';
import { CrashState } from '../space/crash-state.js';
import { crashesOf } from '../space/explore.js';
import {
  describeFailure,
  describeHang,
  failureOf,
  formatCrashReport,
  inspectable,
} from './crash-report.js';
import type { Told } from './execute.js';
import { formatCount, formatShare, labelOf, shown } from './in-short.js';
import { isHang, judge, recoverOn } from './judge.js';
import {
  chainOf,
  completed,
  type Found,
  firstLife,
  goOn,
  judgeChain,
  type Limits,
  recordingRecovery,
  type Tally,
} from './lives.js';
import { checkCrashTest } from './options.js';
import { parseReplay } from './replay.js';
import { smallestChain, smallestProgram } from './shrink.js';
import { type Trial, trialOf } from './trial.js';
import type { CrashReport, CrashTest } from './types.js';
import { HangError, Watch } from './watch.js';

/**
 * Runs a crash test. The first failure ends it.
 *
 * @throws what the workload throws; `INVALID_ARGUMENT` for options that are unknown, missing or out of range, for a
 *   workload whose commands go on after it has returned, for a recovery whose reads differ between two runs on equal disks,
 *   for a check whose answer is not a verdict, and for a `replay` of another form
 */
export async function crashTest<A, R, P = unknown>(test: CrashTest<A, R, P>): Promise<CrashReport> {
  checkCrashTest(test);
  const watch = new Watch(test.hangMs);
  if (test.replay !== undefined) return inspectable(await replayed(test, test.replay, watch));
  const { seed = 0, seeds = 1, trace, faults = [] } = test;
  const reports: CrashReport[] = [];
  // A fault that happens with one seed is in order, even if it does not happen with the others.
  let toCome: readonly DiskFault[] = trace ? [] : faults;
  const finish = (report: CrashReport): CrashReport =>
    inspectable(warned(report, toCome.map(neverCame)));
  // A given trace is one order of answers, whatever the seed is, and has no other steps.
  for (let next = seed; next < seed + (trace ? 1 : seeds); next++) {
    const all = [...(test.program ?? []).keys()];
    const { report, faultsToCome } = await explored(test, next, all, watch);
    toCome = toCome.filter((fault) => faultsToCome.includes(fault));
    reports.push(report);
    if (report.verdict === 'hung') break;
    if (report.verdict !== 'failed') continue;
    if (trace) break;
    const run = async (steps: readonly number[]): Promise<CrashReport> =>
      (await explored(test, next, steps, watch)).report;
    return finish((await smallestProgram(all.length, run)) ?? together(reports));
  }
  return finish(together(reports));
}

/** The warning about a fault that did not happen. */
export function neverCame({ on, nth, fault }: DiskFault): string {
  return `the fault '${fault}' did not happen: there was no ${on} number ${nth} (they are numbered from 0)`;
}

/** A report with more warnings, and therefore not `proved`. */
function warned(report: CrashReport, warnings: readonly string[]): CrashReport {
  if (warnings.length === 0) return report;
  const { verdict } = report;
  const all = [...report.warnings, ...warnings];
  return { ...report, verdict: verdict === 'proved' ? 'passed' : verdict, warnings: all };
}

interface Explored {
  readonly report: CrashReport;
  readonly faultsToCome: readonly DiskFault[];
}

/** Tests one seed with some steps of the program. `advises`: a failure says which barrier would have prevented it. */
export async function explored<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
  watch: Watch,
  advises = true,
): Promise<Explored> {
  const { trial, hung } = await ran(test, seed, steps, watch);
  if (hung) return { report: hung, faultsToCome: [] };
  const { faultsToCome, unfinished } = trial;
  const judged = await judgeAll(trial, advises);
  const { doubt } = trial;
  const report = judged.failure || doubt === undefined ? judged : warned(judged, [doubt]);
  if (unfinished === undefined) return { report, faultsToCome };
  // A failure comes first: a write that the workload did not wait for may be the mistake in question.
  if (report.failure === undefined) throw misuse(unfinished);
  return { report: warned(report, [unfinished]), faultsToCome };
}

/** Runs the workload: the trial, or the report of a hang. */
async function ran<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
  watch: Watch,
): Promise<{ trial: Trial<A, R>; hung?: undefined } | { hung: CrashReport; trial?: undefined }> {
  try {
    return { trial: await trialOf(test, seed, steps, watch) };
  } catch (cause) {
    if (!(cause instanceof HangError)) throw cause;
    return { hung: hungWorkload(test, seed, steps, cause) };
  }
}

/** The report of a workload that hangs: there is no crash state to judge. */
function hungWorkload<A, R, P>(
  test: CrashTest<A, R, P>,
  seed: number,
  steps: readonly number[],
  cause: HangError,
): CrashReport {
  const device = deviceOf(deviceProfile(test.profile));
  const trace = cause.trace ?? { size: test.size, commands: [], marks: [] };
  const failure = describeHang(test, seed, steps, cause);
  return {
    ...{ verdict: 'hung', failure, warnings: [], ...device, seed, trace },
    ...{ images: 0n, covered: 0n, recoveries: 0, orders: {} },
  };
}

/** The device in a report, and that it is about one seed. */
function deviceOf(profile: DeviceProfile): Pick<CrashReport, 'profile' | 'mode' | 'seeds'> {
  return { profile, mode: chooseMode(profile), seeds: 1 };
}

/** Judges all crash states of a run. */
async function judgeAll<A, R>(trial: Trial<A, R>, advises: boolean): Promise<CrashReport> {
  const { space, trace, seed, test } = trial;
  const { recoveriesMax = 100_000, nested = false, lives = 1, label } = test;
  const orders: Record<string, number> = {};
  const total = { covered: 0n, recoveries: 0 };
  const report = { images: space.count, ...deviceOf(space.profile), seed, trace, orders };
  const seen = { reads: false, silence: false };
  const limits: Limits = { nested: Number(nested), lives: lives - 1 };
  const later: Tally = { tried: 0, triedMax: recoveriesMax, isWhole: true };
  const first = [firstLife(trial)];
  const options = label ? { label: (offset: number) => labelOf(test, offset) } : {};
  for (const run of crashesOf(space, { recoveriesMax, ...options })) {
    if (total.recoveries >= recoveriesMax) break;
    total.recoveries += 1;
    orders[run.order] = (orders[run.order] ?? 0) + 1;
    const recorder = limits.nested > 0 ? new DiskRecorder(space.map.size) : undefined;
    const failed = await judge(
      trial,
      recorder ? recordingRecovery(run.disk, recorder) : run.disk,
      () => [{ trace, after: run.after, before: run.before }],
      (answer) => {
        seen.silence ||= answer === undefined;
      },
    );
    seen.reads ||= run.decided.size > 0;
    const { images } = run;
    total.covered += images;
    if (failed) {
      const found = { failed, lives: first, decisions: run.decisions };
      return { ...report, ...total, ...(await failing(trial, found, advises)) };
    }
    if (limits.nested + limits.lives === 0) continue;
    later.tried = total.recoveries;
    const found = await goOn(trial, first, run, recorder?.trace, limits, later);
    orders[LATER] = (orders[LATER] ?? 0) + later.tried - total.recoveries;
    total.recoveries = later.tried;
    if (found) return { ...report, ...total, ...(await failing(trial, found, advises)) };
  }
  invariant(total.covered <= space.count, 'crash-test.C2: more images are covered than there are');
  const warnings = await doubts(trial, total, seen);
  if (!later.isWhole) warnings.push(NOT_ALL_LATER);
  if (later.doubt !== undefined) warnings.push(later.doubt);
  const verdict = warnings.length === 0 ? 'proved' : 'passed';
  return { ...report, ...total, verdict, warnings, ...(label && { labels: labelsOf(trial) }) };
}

/** The labels of all places that the workload wrote, by their offsets. */
function labelsOf<A, R>({ test, space }: Trial<A, R>): Record<number, string> {
  const labels: Record<number, string> = {};
  for (const { offset, length, step } of space.map.regions) {
    for (let at = offset; at < offset + length; at += step) labels[at] = labelOf(test, at);
  }
  return labels;
}

const LATER = 'after a later cut';

const NOT_ALL_LATER =
  'not every later power cut was tried, because recoveriesMax recoveries are not enough';

/** The failure or the hang for the report. */
async function failing<A, R>(
  trial: Trial<A, R>,
  found: Found,
  advises: boolean,
): Promise<Pick<CrashReport, 'verdict' | 'failure' | 'warnings'>> {
  const { failed } = found;
  // What no recovery has read is there as far as the failure allows.
  const chains = [completed(found, 'late'), completed(found, 'early')] as const;
  const last = { chain: chains[1], failed };
  if (isHang(failed)) {
    return { verdict: 'hung', failure: describeFailure(trial, last), warnings: [] };
  }
  const smallest =
    (await smallestChain(trial, chains[0])) ?? (await smallestChain(trial, chains[1]));
  if (!smallest) {
    return { verdict: 'failed', failure: describeFailure(trial, last), warnings: [UNSTEADY] };
  }
  const failure = await failureOf(trial, smallest, advises);
  return { verdict: 'failed', failure, warnings: [] };
}

/** The reasons why a test that passes is not proved. */
async function doubts<A, R>(
  trial: Trial<A, R>,
  { covered, recoveries }: { readonly covered: bigint; readonly recoveries: number },
  { reads, silence }: { readonly reads: boolean; readonly silence: boolean },
): Promise<string[]> {
  const { count } = trial.space;
  const warnings: string[] = [];
  if (!reads) {
    warnings.push(recoveries > 0 ? NEVER_READ : 'no recovery was run, because recoveriesMax is 0');
  }
  if (count === 1n) warnings.push('the workload wrote nothing');
  if (covered < count) warnings.push(PARTLY(covered, count));
  if (recoveries === 0) return warnings;
  const eye = await eyesight(trial);
  if (eye === 'blind') warnings.push(BLIND(acknowledgedIn(trial)));
  if (eye === 'unknown') {
    const mayBeBlind = acknowledgedIn(trial) === 0 && reads && count > 1n;
    if (silence) warnings.push(SILENT);
    else if (mayBeBlind && !(await seesDamage(trial))) warnings.push(REJECTS_NOTHING);
  }
  return warnings;
}

/** The warning about a recovery that does not read. */
export const NEVER_READ = 'the recovery never read a sector that the workload had written';

/** The warning about images that were not tried. */
export const PARTLY = (covered: bigint, images: bigint): string =>
  `${formatShare(covered, images)} images are covered`;

const BLIND = (count: number): string =>
  `the check accepts a disk without any write of the workload, although ${formatCount(count)} operations were acknowledged`;

const SILENT =
  'the check returned nothing and never threw, so it may check nothing: return true or false';

const REJECTS_NOTHING =
  'nothing was acknowledged, and the check accepts every disk, also one full of garbage: it may check nothing';

const UNSTEADY =
  'the same image did not fail again: the recovery or the check is not deterministic';

/** Whether the check rejects a disk from which everything is gone, although it should not be. */
async function eyesight<A, R>(trial: Trial<A, R>): Promise<'sees' | 'blind' | 'unknown'> {
  const { test, space, watch } = trial;
  if (acknowledgedIn(trial) === 0 || space.count === 1n) return 'unknown';
  const never = Number.POSITIVE_INFINITY;
  const end = [{ trace: trial.trace, after: never, before: never }];
  const told = async (state: CrashState): Promise<string> => {
    try {
      return shown(await recoverOn(test, state.disk(), watch), true);
    } catch {
      return '';
    }
  };
  // Where the operations undo each other, the final state equals the initial one.
  const untouched = space.at(0n);
  if ((await told(untouched)) === (await told(space.inOrder(never)))) return 'unknown';
  return (await judge(trial, untouched.disk(), () => end)) ? 'sees' : 'blind';
}

/** So many regions are taken away, one at a time. */
const DAMAGES_MAX = 64;

/**
 * Whether recovery or check reject a disk that is damaged as no power cut may damage it: it reads as garbage, nothing of the
 * workload is there, or all but one region. A check that accepts all of these may be one that accepts everything.
 */
async function seesDamage<A, R>(trial: Trial<A, R>): Promise<boolean> {
  const { map } = trial.space;
  const never = Number.POSITIVE_INFINITY;
  const whole = trial.space.inOrder(never).versions;
  const every = Math.ceil(map.places / DAMAGES_MAX);
  const damaged = [new Int32Array(whole.length)];
  for (let place = 0; place < map.places; place += every) {
    damaged.push(Int32Array.from(whole, (version, other) => (other === place ? 0 : version)));
  }
  const disks = damaged.map((versions) => new CrashState(map, versions).disk());
  // Garbage comes last, because a recovery may follow it for long.
  for (const disk of [...disks, garbled(trial.space.inOrder(never).disk())]) {
    if (await judge(trial, disk, () => [{ trace: trial.trace, after: never, before: never }]))
      return true;
  }
  return false;
}

/** A disk whose every read returns garbage, also where a sector cannot be read. */
function garbled(disk: Storage): Storage {
  const same = wrap(disk, (_, run) => run());
  return { ...same, read: (_, into) => void into.fill(0xa5) };
}

function acknowledgedIn({ trace }: Pick<Trial<unknown, unknown>, 'trace'>): number {
  return trace.marks.filter(({ value }) => (value as Told<unknown>).kind === 'acknowledge').length;
}

/** The last report, with the sums and warnings of all. */
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
    seeds: last.failure ? 1 : reports.length,
    verdict: proved ? 'proved' : last.failure ? last.verdict : 'passed',
    images: reports.reduce((sum, { images }) => sum + images, 0n),
    covered: reports.reduce((sum, { covered }) => sum + covered, 0n),
    recoveries: reports.reduce((sum, { recoveries }) => sum + recoveries, 0),
    orders,
    warnings: last.failure ? last.warnings : [...new Set(all)],
  };
}

/** Tries only the crash state that a replay names. */
async function replayed<A, R, P>(
  test: CrashTest<A, R, P>,
  text: string,
  watch: Watch,
): Promise<CrashReport> {
  const { seed, steps, cuts } = parseReplay(text, test.program?.length ?? 0);
  const { trial, hung } = await ran(test, seed, steps, watch);
  if (hung) return hung;
  const { space, trace } = trial;
  const chain = await chainOf(trial, cuts);
  if (!chain) throw misuse(`replay: no power cut leaves what it names: ${text.slice(0, 200)}`);
  const failed = await judgeChain(trial, chain);
  const failure = failed && (await failureOf(trial, { chain, failed }));
  return {
    ...{ images: space.count, ...deviceOf(space.profile), seed, trace },
    ...{ covered: 1n, recoveries: 1, orders: { replay: 1 } },
    warnings: trial.faultsToCome.map(neverCame),
    verdict: !failed ? 'passed' : isHang(failed) ? 'hung' : 'failed',
    ...(failure && { failure }),
  };
}

/** What `survives` takes. */
const SURVIVES_OPTIONS = { allowWarnings: 0, full: 0 };

/**
 * A crash test for any test runner: the body of a test, which fails with the report as its message.
 *
 * @example
 * ```ts
 * import { test } from 'vitest'; // or from 'node:test', or Jest's own
 * test('my store survives', survives({ size, workload, recover, check }));
 * ```
 *
 * @param test what `crashTest` takes
 * @param options `allowWarnings`: a report with warnings passes, too; without it a verdict other than `proved` fails,
 *   because a warning says what the test has not shown. `full`: the message is not cut short, see `formatCrashReport`
 * @returns a function that resolves when the code survives. It rejects with an error whose message is the text of
 *   `formatCrashReport`, whose stack begins where `survives` was called, and whose cause is what recovery or check threw
 * @throws `INVALID_ARGUMENT` for unknown options; the function that it returns rejects as `crashTest` does
 */
export function survives<A, R, P = unknown>(
  test: CrashTest<A, R, P>,
  options: { readonly allowWarnings?: boolean; readonly full?: boolean } = {},
): () => Promise<void> {
  checkOptions(options, SURVIVES_OPTIONS, 'survives');
  const { allowWarnings = false, full = false } = options;
  const called = new Error();
  Error.captureStackTrace?.(called, survives);
  return async () => {
    const report = await crashTest(test);
    const { verdict, failure, warnings } = report;
    const passes = verdict === 'proved' || verdict === 'passed';
    if (passes && (allowWarnings || warnings.length === 0)) return;
    const text = formatCrashReport(report, { full });
    const error = new Error(text, { ...(failure && { cause: failure.cause }) });
    const { stack } = called;
    // Only V8 begins a stack with the message. A program may have made something else of its stacks.
    if (typeof stack === 'string')
      error.stack = stack.replace(/^Error(?:: ?)?(?=\n)/, () => `Error: ${text}`);
    throw error;
  };
}
