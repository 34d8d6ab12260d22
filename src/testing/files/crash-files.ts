// Crash tests of files: run a workload in a folder, then its recovery on every tree that a power cut may leave of it, and let the
// user's check judge each result.
//
//   before     makes what is durable
//   workload   uses the files, and tells a journal what it begins and what it acknowledges to its own users
//   recover    opens what the power cut left, and returns what a user would see
//   check      compares that with what must be there and what may be there
//
// The workload is recorded once (record.ts). Which trees a power cut may leave says a model of a file system (space.ts), so the
// verdict names the model, and holds for this order of calls. One recovery covers all trees that it cannot tell apart.
//
//   Q1  A report with warnings is never `proved`.
//   Q2  A record with gaps proves nothing, and a recovery that has looked past the functions that are replaced neither.
//
// Not here: the words of a failure (scene.ts), the syncs that would have prevented it (files-advice.ts).

import { checkOptions, formatValue, invariant, messageOf, misuse } from '../../model/index.js';
import type { Told } from '../crash-test/execute.js';
import { formatCount, formatShare, shortText, shown } from '../crash-test/in-short.js';
import { momentsOf } from '../crash-test/judge.js';
import type { Expected, Journal } from '../crash-test/types.js';
import { HangError, Watch } from '../crash-test/watch.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { UnsteadyRecoveryError } from '../space/walks.js';
import { adviceFor } from './files-advice.js';
import type { CrashFilesTest, FilesFailure, FilesReport, FilesVerdict } from './files-test.js';
import { finalTree } from './folder.js';
import type { FileModel, FileModelName } from './models.js';
import { newFolder, recordFiles, removeFolder } from './record.js';
import { type CrashTree, recoverIn } from './recovery-folder.js';
import { type Fate, picture } from './scene.js';
import { ROOT } from './shadow.js';
import { type FileCrash, type FileSpace, fileSpace } from './space.js';
import type { FileNode, FilesTrace } from './trace.js';

/** The file systems of a test that names none. */
const DEFAULT_MODELS = ['ext4', 'xfs', 'btrfs'] as const;

const OPTIONS = {
  ...{ before: 0, workload: 0, trace: 0, recover: 0, check: 0, models: 0, recoveriesMax: 0 },
  ...{ wholeTree: 0, hangMs: 0 },
};

/** What all of a test shares. */
export interface FilesTrial<A, R> {
  readonly test: CrashFilesTest<A, R>;
  readonly trace: FilesTrace;
  readonly watch: Watch;
  /** The folder of the recording and of all recoveries, because a program may have written its path into a file. */
  readonly root: string;
}

/**
 * Runs a crash test of files. The first failure ends it.
 *
 * @throws what the workload throws; `INVALID_ARGUMENT` for unknown options and file systems, for a recovery that looks at other files
 *   on an equal tree, and for a check whose answer is not a verdict
 */
export async function crashFiles<A, R>(test: CrashFilesTest<A, R>): Promise<FilesReport> {
  checkOptions(test, OPTIONS, 'crashFiles');
  const watch = new Watch(test.hangMs);
  const root = newFolder();
  try {
    const trace = test.trace ?? (await recorded(test, watch, root));
    return await judged({ test, trace, watch, root });
  } finally {
    removeFolder(root);
  }
}

/** Runs the workload. */
function recorded<A, R>(
  { before, workload }: CrashFilesTest<A, R>,
  watch: Watch,
  root: string,
): Promise<FilesTrace> {
  return recordFiles({
    root,
    ...(before && { before }),
    run: (folder, mark) => watch.run('workload', () => workload(folder, journalOf(mark))),
  });
}

/** A journal whose entries are marks. That of a disk would bring the simulated disk with it. */
function journalOf<A>(mark: (told: Told<A>) => void): Journal<A> {
  return {
    begin: (operation) => mark({ kind: 'begin', operation }),
    acknowledge: (operation) => mark({ kind: 'acknowledge', operation }),
  };
}

async function judged<A, R>(trial: FilesTrial<A, R>): Promise<FilesReport> {
  const { test, trace } = trial;
  const models: FilesVerdict[] = [];
  const tally: Tally = { hasLooked: false, isSilent: false };
  for (const model of test.models ?? DEFAULT_MODELS) {
    const { verdict, failure } = await judgeModel(trial, model, tally);
    models.push(verdict);
    // A record with a gap may show a failure that there is not.
    const warnings = [...(trace.gaps ?? [])];
    if (failure) return { ...(await failing(trial, failure)), models, warnings, trace };
  }
  const warnings = await doubtsOf(trial, models, tally);
  return { verdict: warnings.length === 0 ? 'proved' : 'passed', models, warnings, trace };
}

/** A failure with its advice, which takes as long as the hang where something hangs. */
async function failing<A, R>(
  trial: FilesTrial<A, R>,
  failure: FilesFailure,
): Promise<Pick<FilesReport, 'verdict'> & { readonly failure: FilesFailure }> {
  if (failure.cause instanceof HangError) return { verdict: 'hung', failure };
  let left = ADVICE_RECOVERIES;
  const passes = async (trace: FilesTrace): Promise<boolean> => {
    const tried = await passesWith({ ...trial, trace }, left);
    left -= tried.recoveries;
    return tried.passes;
  };
  const advice = await adviceFor(trial.trace, failure.time, passes);
  return { verdict: 'failed', failure: { ...failure, advice } };
}

/** So many recoveries are spent on advice. */
const ADVICE_RECOVERIES = 2000;

/** Whether every state of every model passes. */
async function passesWith<A, R>(
  trial: FilesTrial<A, R>,
  recoveriesMax: number,
): Promise<{ readonly passes: boolean; readonly recoveries: number }> {
  let recoveries = 0;
  for (const model of trial.test.models ?? DEFAULT_MODELS) {
    const test = { ...trial.test, recoveriesMax: recoveriesMax - recoveries };
    const tally = { hasLooked: false, isSilent: false };
    const { verdict, failure } = await judgeModel({ ...trial, test }, model, tally);
    recoveries += verdict.recoveries;
    if (failure || verdict.covered < verdict.states) return { passes: false, recoveries };
  }
  return { passes: true, recoveries };
}

/** A power cut with what was decided, which its class has and its type does not say. */
type Run = FileCrash & { readonly decisions: { readonly decided: ReadonlyMap<number, number> } };

/** What recoveries and checks have shown of themselves. */
interface Tally {
  hasLooked: boolean;
  isSilent: boolean;
}

/** Judges all crash states under one model, up to the first failure. */
async function judgeModel<A, R>(
  trial: FilesTrial<A, R>,
  model: FileModelName | FileModel,
  tally: Tally,
): Promise<{ readonly verdict: FilesVerdict; readonly failure?: FilesFailure }> {
  const { test, trace } = trial;
  const { recoveriesMax = 10_000 } = test;
  const name = typeof model === 'string' ? model : 'own';
  const space = fileSpace(trace, model);
  const total = { model: name, states: space.count, covered: 0n, recoveries: 0 };
  for (const crash of space.explore({ recoveriesMax }) as Iterable<Run>) {
    total.recoveries += 1;
    const failed = await judge(trial, crash.files, () => crash, tally);
    tally.hasLooked ||= crash.decisions.decided.size > 0;
    total.covered += crash.images;
    if (failed) return { verdict: total, failure: failureOf(trial, name, space, crash, failed) };
  }
  invariant(total.covered <= space.count, 'crash-files.Q1: more states are covered than there are');
  return { verdict: total };
}

/** Why a recovered state is wrong. */
interface Failed {
  readonly cause: unknown;
  /** The moment of the power cut. */
  readonly time: number;
  readonly recovered?: { readonly value: unknown };
  readonly expected?: Expected<unknown>;
}

/** When the power can have been cut: after one moment, before the other. */
type Span = Pick<FileCrash, 'after' | 'before'>;

/**
 * Recovers from a tree and checks the result, up to the first failure.
 *
 * @param span asked after the recovery, because only then it is known at what it has looked
 */
async function judge<A, R>(
  { test, watch, root, trace }: FilesTrial<A, R>,
  tree: CrashTree,
  span: () => Span,
  tally: Tally,
): Promise<Failed | undefined> {
  const isWhole = test.wholeTree ?? false;
  let recovered: R;
  try {
    recovered = await watchedRecovery(test, watch, { root, tree, isWhole });
  } catch (cause) {
    if (cause instanceof UnsteadyRecoveryError) throw cause;
    return { cause, time: span().after };
  }
  const { after, before } = span();
  for (const { time, expected } of momentsOf<A, R>([{ trace: marked(trace), after, before }])) {
    const at = { time, recovered: { value: recovered }, expected };
    let answer: unknown;
    try {
      answer = await watch.run<unknown>('check', () => test.check(recovered, expected));
      if (answer === false) throw new Error('the check returned false');
    } catch (cause) {
      return { cause, ...at };
    }
    if (answer !== true && answer !== undefined)
      throw misuse(
        `the check returned ${formatValue(answer)}; it must return true or false, or throw`,
      );
    tally.isSilent ||= answer === undefined;
  }
  return undefined;
}

/** The journal of a trace, as that of a disk without commands. */
const marked = ({ marks }: FilesTrace): DiskTrace => ({ size: 0, commands: [], marks });

function failureOf<A, R>(
  { trace }: FilesTrial<A, R>,
  model: string,
  { map }: FileSpace,
  { decisions }: Run,
  { cause, time, recovered, expected }: Failed,
): FilesFailure {
  const fates = new Map<number, Fate>();
  for (const { first, count, versions, changes } of map.regions) {
    for (let place = first; place < first + count; place++) {
      const version = decisions.decided.get(place);
      if (version === undefined) continue;
      const last = versions[version]?.change ?? -1;
      for (const [number, { operation }] of changes.entries())
        if (number > last) fates.set(operation, 'LOST');
        else if (!fates.has(operation)) fates.set(operation, 'kept');
    }
  }
  const lost = [...fates].flatMap(([operation, fate]) => {
    const begin = trace.operations[operation]?.begin ?? Number.POSITIVE_INFINITY;
    return fate === 'LOST' && begin <= time ? [operation] : [];
  });
  const message = messageOf(cause);
  const text = [
    `after this power cut, on ${model}: ${shortText(message, false)}`,
    ...(recovered ? [`  recovered: ${shown(recovered.value, false)}`] : []),
    ...(expected && expected.acknowledged.length > 0
      ? [
          `  acknowledged by then: ${expected.acknowledged.map((one) => shown(one, false)).join(', ')}`,
        ]
      : []),
    ...picture(trace, time, fates),
  ].join('\n');
  return { message, cause, model, time, lost: lost.sort((a, b) => a - b), advice: [], text };
}

/** The reasons why a test that passes is not proved. */
async function doubtsOf<A, R>(
  trial: FilesTrial<A, R>,
  models: readonly FilesVerdict[],
  { hasLooked, isSilent }: Tally,
): Promise<string[]> {
  const { trace, test } = trial;
  const warnings: string[] = [...(trace.gaps ?? [])];
  const warn = (holds: boolean, text: string): void => {
    if (holds) warnings.push(text);
  };
  warn(!hasLooked, 'the recovery never looked at anything that the workload has changed');
  warn(trace.operations.length === 0, 'the workload changed no file');
  for (const { model, states, covered } of models)
    warn(covered < states, `${model}: ${formatShare(covered, states)} states are covered`);
  if (!hasLooked) return warnings;
  const [first, last] = [trace.initial, finalTree(trace)];
  const [before, after] = [await recoveredFrom(trial, first), await recoveredFrom(trial, last)];
  if (!(test.wholeTree ?? false)) {
    const whole = { ...trial, test: { ...test, wholeTree: true } };
    const isSame =
      (await recoveredFrom(whole, first)) === before &&
      (await recoveredFrom(whole, last)) === after;
    warn(!isSame, PAST);
  }
  const count = acknowledgedIn(trace);
  // Where the operations undo each other, the last tree has what the first one has.
  if (count > 0 && before !== after) warn(!(await rejects(trial, first)), BLIND(count));
  else if (isSilent) warnings.push(SILENT);
  else warn(!(await seesDamage(trial, last)), REJECTS_NOTHING);
  return warnings;
}

function acknowledgedIn({ marks }: FilesTrace): number {
  return marks.filter(({ value }) => (value as Told<unknown>).kind === 'acknowledge').length;
}

/** Whether recovery and check reject a tree at the end of the workload. */
async function rejects<A, R>(
  trial: FilesTrial<A, R>,
  nodes: ReadonlyMap<number, FileNode>,
): Promise<boolean> {
  const end = { after: trial.trace.end, before: Number.POSITIVE_INFINITY };
  const tally = { hasLooked: true, isSilent: true };
  return (await judge(trial, treeOf(nodes), () => end, tally)) !== undefined;
}

/** So many files are damaged, one at a time. */
const DAMAGES_MAX = 64;

/** Whether recovery and check reject a tree that is damaged as no power cut may damage it: empty, or a file full of garbage. */
async function seesDamage<A, R>(
  trial: FilesTrial<A, R>,
  nodes: ReadonlyMap<number, FileNode>,
): Promise<boolean> {
  const empty: FileNode = { kind: 'directory', entries: new Map() };
  const damaged = [new Map(nodes).set(ROOT, empty)];
  for (const [inode, node] of nodes) {
    if (node.kind !== 'file' || damaged.length > DAMAGES_MAX) continue;
    const data = node.data.map((byte) => byte ^ 0xa5);
    damaged.push(new Map(nodes).set(inode, { kind: 'file', data }));
  }
  for (const tree of damaged) if (await rejects(trial, tree)) return true;
  return false;
}

const BLIND = (count: number): string =>
  `the check accepts the tree before the workload, although ${formatCount(count)} operations were acknowledged`;

const SILENT =
  'the check returned nothing and never threw, so it may check nothing: return true or false';

const REJECTS_NOTHING =
  'the check accepts every tree, also an empty one and files full of garbage: it may check nothing';

const PAST =
  'the recovery returns something else when all files are there before it begins, so it reads past node:fs: set wholeTree, or load write-barrier/testing/files/register first';

/** The watch is inside, so that the functions are put back after a recovery that hangs. */
function watchedRecovery<A, R>(
  test: CrashFilesTest<A, R>,
  watch: Watch,
  recovery: Parameters<typeof recoverIn>[0],
): Promise<R> {
  return recoverIn(recovery, (folder) => watch.run('recovery', () => test.recover(folder)));
}

/** What a recovery returns or throws on a tree, as text. */
async function recoveredFrom<A, R>(
  { test, watch, root }: FilesTrial<A, R>,
  nodes: ReadonlyMap<number, FileNode>,
): Promise<string> {
  const recovery = { root, tree: treeOf(nodes), isWhole: test.wholeTree ?? false };
  try {
    const value = await watchedRecovery(test, watch, recovery);
    return shown(value, true);
  } catch (error) {
    return `throws ${messageOf(error)}`;
  }
}

/** A tree in which everything is decided. */
function treeOf(nodes: ReadonlyMap<number, FileNode>): CrashTree {
  const bytes = (inode: number): Uint8Array => {
    const node = nodes.get(inode);
    return node?.kind === 'file' ? node.data : new Uint8Array();
  };
  const entries = (inode: number): ReadonlyMap<string, number> => {
    const node = nodes.get(inode);
    return node?.kind === 'directory' ? node.entries : new Map();
  };
  return {
    entry: (directory, name) => entries(directory).get(name),
    names: (directory) => [...entries(directory).keys()].sort(),
    kind: (inode) => nodes.get(inode)?.kind ?? 'file',
    target: (inode) => {
      const node = nodes.get(inode);
      return node?.kind === 'symlink' ? node.target : '';
    },
    size: (inode) => bytes(inode).length,
    data: bytes,
  };
}

/** The text of a report. */
export function formatFilesReport({ verdict, models, failure, warnings }: FilesReport): string {
  const lines = models.map(
    ({ model, states, covered, recoveries }) =>
      `  ${model}: ${formatCount(recoveries)} recoveries cover ${formatShare(covered, states)} states`,
  );
  return [
    `${verdict}`,
    ...lines,
    ...(failure
      ? [
          failure.text,
          ...failure.advice.map(
            (advice, n) => `  ${n === 0 ? 'this would prevent it' : 'or this'}: ${advice}`,
          ),
        ]
      : []),
    ...warnings.map((warning) => `  not shown: ${warning}`),
  ].join('\n');
}
