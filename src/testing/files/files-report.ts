// A failure of a crash test of files as data and as text, and the text of a report.

import { checkArgument, checkOptions, OBJECT } from '../../model/index.js';
import { comparison, inWords } from '../crash-test/failure-words.js';
import { formatCount, formatShare } from '../crash-test/in-short.js';
import type { Replay } from '../crash-test/replay.js';
import { cutsOf, type FailingOf, momentOf } from '../crash-test/shrink.js';
import type { HangError } from '../crash-test/watch.js';
import type { CrashFilesTest, FilesCut, FilesFailure, FilesReport } from './files-test.js';
import { picture, sceneOf } from './scene.js';
import { type Files, type FilesTrial, treeSubject } from './tree-subject.js';

/** The failure of a chain in words and as data. The last judgement has looked at its states. */
export function failureOf<A, R>(
  trial: FilesTrial<A, R>,
  failing: FailingOf<Files>,
  { seed, model }: { readonly seed: number; readonly model: string },
): FilesFailure {
  const { test, steps } = trial;
  const { chain, failed } = failing;
  const cuts = chain.links.map((link, n) => sceneOf(link, momentOf(link, n, failed)));
  const body = (full: boolean): string[] => [
    ...comparison(failed, full),
    ...cuts.flatMap((cut, n) => [...(n > 0 ? [laterLife(cut)] : []), ...picture(cut, full)]),
    ...(failed.goesOn ? ['  then the recovery and more work, which fails'] : []),
  ];
  const replay: Replay & { readonly on: string } = {
    ...{ seed, steps, cuts: cutsOf(treeSubject(trial), failing), goesOn: failed.goesOn },
    on: `${model} `,
  };
  const words = inWords(test, replay, failed.cause, `after this power cut, on ${model}: `, body);
  const [{ time, lost }] = cuts as [FilesCut];
  return { ...words, model, cuts, time, lost, advice: [] };
}

const laterLife = ({ during }: FilesCut): string =>
  during === 'life'
    ? '  then the recovery and more work, cut short as well:'
    : '  then the recovery, cut short as well:';

/** A workload that hangs, in words. */
export function describeHang(
  test: CrashFilesTest<never, never>,
  seed: number,
  steps: readonly number[],
  cause: HangError,
): FilesFailure {
  // There is no crash state yet. The workload runs first, whichever state the replay names.
  const cuts = [{ during: 'workload', time: -1, versions: new Map() }] as const;
  const words = inWords(test, { seed, steps, cuts, on: 'ext4 ' }, cause, '', () => []);
  return { ...words, model: '', cuts: [], time: 0, lost: [], advice: [] };
}

/**
 * The text of a report.
 *
 * @param options `full`: nothing is cut short
 * @throws `INVALID_ARGUMENT` for unknown options, and for what is no report, such as the promise of one
 */
export function formatFilesReport(
  report: FilesReport,
  options: { readonly full?: boolean } = {},
): string {
  checkOptions(options, { full: 0 }, 'formatFilesReport');
  checkArgument('the report of an awaited crashFiles', report?.models, OBJECT);
  const { verdict, models, failure, warnings, seed, seeds } = report;
  const ran =
    seeds > 1 ? `, seeds ${seed - seeds + 1} to ${seed}` : seed > 0 ? `, seed ${seed}` : '';
  const lines = models.map(
    ({ model, states, covered, recoveries }) =>
      `  ${model}: ${formatCount(recoveries)} ${recoveries === 1 ? 'recovery covers' : 'recoveries cover'} ` +
      `${formatShare(covered, states)} states`,
  );
  return [
    `${verdict}${ran}`,
    ...lines,
    ...(failure
      ? [
          options.full ? failure.fullText : failure.text,
          ...failure.advice.map(
            (advice, n) => `  ${n === 0 ? 'this would prevent it' : 'or this'}: ${advice}`,
          ),
        ]
      : []),
    ...warnings.map((warning) => `  not shown: ${warning}`),
  ].join('\n');
}
