// Crash tests of files: run a workload in a folder, then its recovery on every tree that a power cut may leave of it, and let the
// user's check judge each result.
//
//   before     makes what is durable
//   workload   uses the files, and tells a journal what it begins and what it acknowledges to its own users
//   recover    opens what the power cut left, and returns what a user would see
//   check      compares that with what must be there and what may be there
//
// The workload is recorded once for each seed (record.ts). Which trees a power cut may leave says a model of a file system
// (space.ts), so the verdict names the model, and holds for this order of calls. One recovery covers all trees that it cannot tell
// apart. The search for a failure, in later lives too, its shrinking and its replay are those of disks (crash-test/), with a tree of
// files as their subject (tree-subject.ts).
//
//   Q1  A report with warnings is never `proved`.
//   Q2  A record with gaps proves nothing, and a recovery that has looked past the functions that are replaced neither.
//
// Not here: the words of a failure (files-report.ts), the syncs that would have prevented it (files-advice.ts), why a test that passes
// is not proved (files-doubts.ts).

import { invariant, misuse } from '../../model/index.js';
import { chainOf, judgeChain } from '../crash-test/chains.js';
import { isHang } from '../crash-test/judge.js';
import { parseReplay } from '../crash-test/replay.js';
import { search } from '../crash-test/search.js';
import { smallestFailure, smallestProgram, UNSTEADY } from '../crash-test/shrink.js';
import { bodyOf } from '../crash-test/survives.js';
import { HangError, Watch } from '../crash-test/watch.js';
import { adviceFor, adviceInLater } from './files-advice.js';
import { doubtsOf, type FilesRun, type FilesTally, newTally } from './files-doubts.js';
import { checkCrashFiles } from './files-options.js';
import { describeHang, failureOf, formatFilesReport } from './files-report.js';
import type { CrashFilesTest, FilesFailure, FilesReport, FilesVerdict } from './files-test.js';
import { modelOf, type NamedModel } from './models.js';
import { isSync } from './promises.js';
import { journalOf, newFolder, recordFiles, removeFolder } from './record.js';
import { Names } from './scene.js';
import { spaceOf } from './space.js';
import type { FilesTrace } from './trace.js';
import { type FilesTrial, isLying, laterSpace, treeSubject, WAITS } from './tree-subject.js';

/** The file systems of a test that names none. */
const DEFAULT_MODELS = ['ext4', 'xfs', 'btrfs'] as const;

const RECOVERIES_MAX = 10_000;

/**
 * Runs a crash test of files. The first failure ends it.
 *
 * @throws what the workload throws; `INVALID_ARGUMENT` for options that are unknown, missing or out of range, for a recovery that looks
 *   at other files on an equal tree, for a check whose answer is not a verdict, and for a `replay` of another form
 */
export async function crashFiles<A, R, P = unknown>(
  test: CrashFilesTest<A, R, P>,
): Promise<FilesReport> {
  checkCrashFiles(test);
  const root = newFolder();
  try {
    return await tested(test as unknown as CrashFilesTest<A, R>, new Watch(test.hangMs), root);
  } finally {
    removeFolder(root);
  }
}

/**
 * A crash test of files for any test runner: the body of a test, which fails with the report as its message.
 *
 * @example
 * ```ts
 * import { test } from 'vitest'; // or from 'node:test', or Jest's own
 * test('my store survives', survives({ workload, recover, check }));
 * ```
 *
 * @param test what `crashFiles` takes
 * @param options `allowWarnings`: a report with warnings passes, too; without it a verdict other than `proved` fails,
 *   because a warning says what the test has not shown. `full`: the message is not cut short
 * @returns a function that resolves when the code survives. It rejects with an error whose message is the text of
 *   `formatFilesReport`, whose stack begins where `survives` was called, and whose cause is what recovery or check threw
 * @throws `INVALID_ARGUMENT` for unknown options; the function that it returns rejects as `crashFiles` does
 */
export function survives<A, R, P = unknown>(
  test: CrashFilesTest<A, R, P>,
  options: { readonly allowWarnings?: boolean; readonly full?: boolean } = {},
): () => Promise<void> {
  return bodyOf(() => crashFiles(test), formatFilesReport, options, survives);
}

/** A sync that was left out, and what came of it. */
export interface FsyncMutant {
  /** The number of the sync among the operations of the trace. */
  readonly operation: number;
  /** The sync in words, with its call site if that is known. */
  readonly text: string;
  /** Whether the test fails without it; undefined if it passes and not every state was covered. */
  readonly needed: boolean | undefined;
}

/**
 * Leaves out one sync after the other, and runs the test again: a sync without which every state passes is redundant, as far as
 * the check asks.
 *
 * @throws `INVALID_ARGUMENT` if the test does not pass with all of its syncs; and as `crashFiles` does
 */
export async function fsyncMutation<A, R, P = unknown>(
  test: CrashFilesTest<A, R, P>,
): Promise<readonly FsyncMutant[]> {
  const whole = await crashFiles({ ...test, seeds: 1 });
  const { verdict, trace } = whole;
  if (verdict !== 'proved' && verdict !== 'passed')
    throw misuse(`fsyncMutation: the test must pass with all of its syncs, but it ${verdict}`);
  const mutants: FsyncMutant[] = [];
  const names = new Names(trace);
  for (const [operation, one] of trace.operations.entries()) {
    const words = names.describe(one);
    if (!isSync(one)) continue;
    const operations = trace.operations.filter((other) => other !== one);
    const report = await crashFiles({ ...test, trace: { ...trace, operations } });
    const isCovered = report.models.every(({ states, covered }) => states === covered);
    const needed = report.failure ? true : isCovered ? false : undefined;
    const text = one.site === undefined ? words : `${words}   at ${one.site}`;
    mutants.push({ operation, text, needed });
  }
  return mutants;
}

async function tested<A, R>(
  test: CrashFilesTest<A, R>,
  watch: Watch,
  root: string,
): Promise<FilesReport> {
  if (test.replay !== undefined) return replayed(test, test.replay, watch, root);
  const { seed = 0, seeds = 1, trace } = test;
  const all = [...(test.program ?? []).keys()];
  const models = (test.models ?? DEFAULT_MODELS).map(modelOf);
  const reports: FilesReport[] = [];
  for (let next = seed; next < seed + (trace ? 1 : seeds); next++) {
    const run = async (steps: readonly number[], some: readonly NamedModel[]) =>
      explored(test, await ran(test, next, steps, watch, root), next, some);
    const report = await run(all, models);
    reports.push(report);
    if (report.verdict === 'hung') break;
    const { failure } = report;
    if (!failure) continue;
    const its = models.filter(({ name }) => name === failure.model);
    const smaller = trace
      ? undefined
      : await smallestProgram(all.length, async (steps) => {
          const fewer = await run(steps, its);
          // A later life that cannot go on without some steps needs them.
          const isOther = fewer.failure && goesOn(fewer.failure) !== goesOn(failure);
          return isOther ? undefined : fewer;
        });
    const shown = smaller?.failure ? { ...report, ...smaller, models: report.models } : report;
    return { ...together([...reports.slice(0, -1), shown]) };
  }
  return together(reports);
}

/** Whether what fails is the life after the power cuts. */
const goesOn = ({ replay }: FilesFailure): boolean => replay.endsWith(' life');

/** The last report, with the sums and warnings of all. */
function together(reports: readonly FilesReport[]): FilesReport {
  const last = reports.at(-1) as FilesReport;
  const models = last.models.map(({ model }) => {
    const all = reports.flatMap((report) => report.models.filter((one) => one.model === model));
    return all.reduce((sum, { states, covered, recoveries }) => ({
      model,
      states: sum.states + states,
      covered: sum.covered + covered,
      recoveries: sum.recoveries + recoveries,
    }));
  });
  if (last.failure) return { ...last, models };
  const warnings = [...new Set(reports.flatMap((report) => report.warnings))];
  const verdict = warnings.length === 0 ? 'proved' : 'passed';
  return { ...last, models, warnings, verdict, seeds: reports.length };
}

/** Runs the workload, or takes the trace that is given; a hang, because then there is no crash state to judge. */
async function ran<A, R>(
  test: CrashFilesTest<A, R>,
  seed: number,
  steps: readonly number[],
  watch: Watch,
  root: string,
): Promise<FilesRun<A, R> | HangError> {
  const { before, program = [], workload } = test;
  const taken = steps.map((step) => program[step]);
  const recorded = (): Promise<FilesTrace> =>
    recordFiles({
      ...{ root, seed, ...(before && { before }) },
      run: (folder, mark) =>
        watch.run(
          'workload',
          () => workload(folder, journalOf(mark), taken, { number: 1 }),
          () => WAITS,
        ),
    });
  try {
    const trace = test.trace ?? (await recorded());
    return { test, steps, watch, root, trace, asked: new Set() };
  } catch (cause) {
    if (cause instanceof HangError) return cause;
    throw cause;
  }
}

/** Judges all crash states of a run under these models, up to the first failure. */
async function explored<A, R>(
  test: CrashFilesTest<A, R>,
  run: FilesRun<A, R> | HangError,
  seed: number,
  named: readonly NamedModel[],
): Promise<FilesReport> {
  if (run instanceof HangError) {
    const failure = describeHang(test as CrashFilesTest<never, never>, seed, [], run);
    const trace = { initial: new Map(), operations: [], marks: [], end: 0 };
    return { verdict: 'hung', models: [], failure, warnings: [], seed, seeds: 1, trace };
  }
  const { trace } = run;
  const models: FilesVerdict[] = [];
  const tally = newTally();
  // A record with a gap may show a failure that there is not.
  const gaps = trace.gaps ?? [];
  const facts = { models, seed, seeds: 1, trace };
  for (const one of named) {
    const { verdict, failure, warnings } = await judgeModel(run, one, tally, seed);
    models.push(verdict);
    if (!failure) continue;
    const words = [...gaps, ...tally.doubts, ...tally.asked, ...warnings];
    if (failure.cause instanceof HangError)
      return { ...facts, verdict: 'hung', failure, warnings: words };
    const isLater = failure.cuts.length > 1;
    const advice = isLater ? failure.advice : await advised(run, named, failure);
    return { ...facts, verdict: 'failed', failure: { ...failure, advice }, warnings: words };
  }
  const warnings = await doubtsOf(run, models, tally);
  return { ...facts, verdict: warnings.length === 0 ? 'proved' : 'passed', warnings };
}

/** A run under one model. */
function trialOf<A, R>(run: FilesRun<A, R>, { model }: NamedModel): FilesTrial<A, R> {
  return { ...run, model, space: spaceOf(run.trace, model, isLying(run.test), false) };
}

/** Judges all crash states under one model. */
async function judgeModel<A, R>(
  run: FilesRun<A, R>,
  named: NamedModel,
  tally: FilesTally,
  seed: number,
): Promise<{
  readonly verdict: FilesVerdict;
  readonly failure?: FilesFailure;
  readonly warnings: readonly string[];
}> {
  const { name } = named;
  const trial = trialOf({ ...run, asked: tally.asked }, named);
  const subject = treeSubject(trial);
  const { test, space } = trial;
  const { tally: found, found: failing } = await search(subject, {
    recoveriesMax: RECOVERIES_MAX,
    ...test,
  });
  const { covered, recoveries, doubt } = found;
  tally.hasLooked ||= found.reads;
  tally.isSilent ||= found.silence;
  tally.isWhole &&= found.isWhole;
  if (doubt !== undefined) tally.doubts.add(doubt);
  const verdict = { model: name, states: space.count, covered, recoveries };
  invariant(covered <= space.count, 'crash-files.Q1: more states are covered than there are');
  if (!failing) return { verdict, warnings: [] };
  const { isSteady, ...smallest } = await smallestFailure(subject, failing);
  const shown = failureOf(trial, smallest, { seed, model: name });
  const isLater = smallest.chain.links.length > 1 && isSteady;
  const advice = isLater
    ? await adviceInLater(subject, smallest, (trace) => laterSpace(trial, trace))
    : [];
  const failure = { ...shown, advice };
  return { verdict, failure, warnings: isSteady || isHang(failure) ? [] : [UNSTEADY] };
}

/** So many recoveries are spent on advice. */
const ADVICE_RECOVERIES = 2000;

/** The syncs of the workload that would have prevented a failure, found by trying. */
function advised<A, R>(
  run: FilesRun<A, R>,
  named: readonly NamedModel[],
  { time }: FilesFailure,
): Promise<string[]> {
  let left = ADVICE_RECOVERIES;
  const passes = async (trace: FilesTrace): Promise<boolean> => {
    for (const one of named) {
      const trial = trialOf({ ...run, trace }, one);
      const { tally, found } = await search(treeSubject(trial), {
        ...run.test,
        recoveriesMax: left,
      });
      left -= tally.recoveries;
      if (found || tally.covered < trial.space.count || !tally.isWhole) return false;
    }
    return true;
  };
  return adviceFor(run.trace, time, passes);
}

/** Tries only the crash state that a replay names. */
async function replayed<A, R>(
  test: CrashFilesTest<A, R>,
  text: string,
  watch: Watch,
  root: string,
): Promise<FilesReport> {
  const [, on = '', rest = ''] = /^(\S*) (.*)$/.exec(text) ?? [];
  const known = (test.models ?? DEFAULT_MODELS).map(modelOf);
  const named = known.find(({ name }) => name === on) ?? modelOf(on as 'ext4');
  const { seed, steps, ...replay } = parseReplay(rest, test.program?.length ?? 0);
  const run = await ran(test, seed, steps, watch, root);
  if (run instanceof HangError) return explored(test, run, seed, []);
  const trial = trialOf(run, named);
  const subject = treeSubject(trial);
  const chain = await chainOf(subject, replay);
  if (!chain) throw misuse(`replay: no power cut leaves what it names: ${text.slice(0, 200)}`);
  const failed = await judgeChain(subject, chain);
  const failure = failed && failureOf(trial, { chain, failed }, { seed, model: named.name });
  const model = { model: named.name, states: trial.space.count, covered: 1n, recoveries: 1 };
  return {
    ...{ models: [model], seed, seeds: 1, trace: run.trace, warnings: run.trace.gaps ?? [] },
    verdict: !failed ? 'passed' : isHang(failed) ? 'hung' : 'failed',
    ...(failure && { failure }),
  };
}
