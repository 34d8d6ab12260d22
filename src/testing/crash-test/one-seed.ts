// A crash test under one seed: the workload runs once, every power cut is searched, and the first failure is made small.
//
// A failure is shrunk (shrink.ts): power cuts and steps of the program that it does not need are left out, and lost sectors whose
// loss it does not need are restored. The report names its power cuts, and `replay` repeats them.
//
// A workload, recovery or check that does not end in time (watch.ts) is `hung`: neither proved nor failed. A hang is not
// shrunk, because each try would take as long.
//
//   C1  A report without a failure whose warnings are not empty is never `proved`.
//   C2  No report covers more crash states than there are.

import { chooseMode, invariant, misuse } from '../../model/index.js';
import type { DiskFault } from '../device/disk-faults.js';
import { type DeviceProfile, deviceProfile } from '../device/profile.js';
import { chainOf, type Found, judgeChain } from './chains.js';
import { describeHang, failureOf } from './crash-report.js';
import { doubtsOf } from './doubts.js';
import { labelOf } from './in-short.js';
import { type Failed, isHang } from './judge.js';
import { diskSubject } from './lives.js';
import { parseReplay } from './replay.js';
import { search } from './search.js';
import { smallestFailure, UNSTEADY } from './shrink.js';
import { type Disk, type Trial, trialOf } from './trial.js';
import type { CrashReport, CrashTest } from './types.js';
import { HangError, type Watch } from './watch.js';

/** The warning about a fault that did not happen. */
export function neverCame({ on, nth, fault }: DiskFault): string {
  return `the fault '${fault}' did not happen: there was no ${on} number ${nth} (they are numbered from 0)`;
}

/** A report with more warnings, and therefore not `proved`. */
export function warned(report: CrashReport, warnings: readonly string[]): CrashReport {
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
  const { faultsToCome, unfinished, doubt } = trial;
  const judged = await judgeAll(trial, advises);
  // A failure comes first: a write that the workload did not wait for may be the mistake in question.
  if (unfinished !== undefined && !judged.failure) throw misuse(unfinished);
  const more = judged.failure ? unfinished : doubt;
  return { report: warned(judged, more === undefined ? [] : [more]), faultsToCome };
}

/** Tries only the crash state that a replay names. */
export async function replayed<A, R, P>(
  test: CrashTest<A, R, P>,
  text: string,
  watch: Watch,
): Promise<CrashReport> {
  const { seed, steps, ...replay } = parseReplay(text, test.program?.length ?? 0);
  const { trial, hung } = await ran(test, seed, steps, watch);
  if (hung) return hung;
  const subject = diskSubject(trial);
  const chain = await chainOf(subject, replay);
  if (!chain) throw misuse(`replay: no power cut leaves what it names: ${text.slice(0, 200)}`);
  const failed = await judgeChain(subject, chain);
  const failure = failed && (await failureOf(trial, { chain, failed }));
  return {
    ...{ ...factsOf(trial), covered: 1n, recoveries: 1, orders: { replay: 1 } },
    warnings: trial.faultsToCome.map(neverCame),
    verdict: verdictOf(failed),
    ...(failure && { failure }),
  };
}

/** Runs the workload: the trial, or the report of a hang, because then there is no crash state to judge. */
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
    const trace = cause.trace ?? { size: test.size, commands: [], marks: [] };
    const failure = describeHang(test, seed, steps, cause);
    const hung: CrashReport = {
      ...{ verdict: 'hung', failure, warnings: [], ...deviceOf(deviceProfile(test.profile)) },
      ...{ seed, trace, images: 0n, covered: 0n, recoveries: 0, orders: {} },
    };
    return { hung };
  }
}

/** The device in a report, and that it is about one seed. */
function deviceOf(profile: DeviceProfile): Pick<CrashReport, 'profile' | 'mode' | 'seeds'> {
  return { profile, mode: chooseMode(profile), seeds: 1 };
}

/** What a report says of a run, whatever is found. */
function factsOf<A, R>({ space, trace, seed }: Trial<A, R>) {
  return { images: space.count, ...deviceOf(space.profile), seed, trace };
}

/** Judges all crash states of a run. */
async function judgeAll<A, R>(trial: Trial<A, R>, advises: boolean): Promise<CrashReport> {
  const { tally, found } = await search(diskSubject(trial), trial.test);
  const { covered, recoveries, orders } = tally;
  const report = { ...factsOf(trial), covered, recoveries, orders };
  if (found) return { ...report, ...(await failing(trial, found, advises)) };
  invariant(covered <= report.images, 'one-seed.C2: more images are covered than there are');
  const warnings = await doubtsOf(trial, tally);
  const verdict = warnings.length === 0 ? 'proved' : 'passed';
  return { ...report, verdict, warnings, ...(trial.test.label && { labels: labelsOf(trial) }) };
}

/** The labels of all places that the workload wrote, by their offsets. */
function labelsOf<A, R>({ test, space }: Trial<A, R>): Record<number, string> {
  const labels: Record<number, string> = {};
  for (const { offset, length, step } of space.map.regions) {
    // The size has no offset that a user could name.
    if (offset < 0) continue;
    for (let at = offset; at < offset + length; at += step) labels[at] = labelOf(test, at);
  }
  return labels;
}

/** The failure or the hang for the report. */
async function failing<A, R>(
  trial: Trial<A, R>,
  found: Found<Disk>,
  advises: boolean,
): Promise<Pick<CrashReport, 'verdict' | 'failure' | 'warnings'>> {
  const { failed } = found;
  const { isSteady, ...smallest } = await smallestFailure(diskSubject(trial), found);
  const failure = await failureOf(trial, smallest, advises && isSteady);
  const verdict = verdictOf(failed);
  return { verdict, failure, warnings: isSteady || verdict === 'hung' ? [] : [UNSTEADY] };
}

function verdictOf(failed: Failed | undefined): 'passed' | 'hung' | 'failed' {
  return !failed ? 'passed' : isHang(failed) ? 'hung' : 'failed';
}
