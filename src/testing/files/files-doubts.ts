// What a crash test of files that passes does not show: the reasons why its verdict is not `proved`.
//
// A check that accepts everything proves nothing. So it is asked about trees that it should reject: the one before the workload,
// where something was acknowledged, or trees with damage that no power cut does.
//
// A recovery may read past the functions that are replaced. Then it sees a folder in which nothing was laid down, so what it returns
// is compared with what it returns when the whole tree is there.

import { messageOf } from '../../model/index.js';
import type { Told } from '../crash-test/execute.js';
import { formatCount, formatShare, shown } from '../crash-test/in-short.js';
import { checked } from '../crash-test/judge.js';
import type { FilesVerdict } from './files-test.js';
import { finalTree } from './folder.js';
import { ROOT } from './shadow.js';
import type { FileNode } from './trace.js';
import { treeOf } from './tree.js';
import { type FilesTrial, recoverFrom } from './tree-subject.js';

/** What recoveries and checks have shown of themselves, with all models together. */
export interface FilesTally {
  hasLooked: boolean;
  isSilent: boolean;
  /** Whether all later power cuts were tried. */
  isWhole: boolean;
  /** Why a later life may not have been seen as a whole. */
  readonly doubts: Set<string>;
  /** What recoveries have asked that a crash state does not have. */
  readonly asked: Set<string>;
}

export const newTally = (): FilesTally => {
  return { hasLooked: false, isSilent: false, isWhole: true, doubts: new Set(), asked: new Set() };
};

/** A run, whatever the model is. */
export type FilesRun<A, R> = Pick<
  FilesTrial<A, R>,
  'test' | 'trace' | 'watch' | 'root' | 'steps' | 'asked'
>;

/** The reasons why a test that passes is not proved. */
export async function doubtsOf<A, R>(
  run: FilesRun<A, R>,
  models: readonly FilesVerdict[],
  { hasLooked, isSilent, isWhole, doubts, asked }: FilesTally,
): Promise<string[]> {
  const { trace, test } = run;
  const warnings: string[] = [...(trace.gaps ?? []), ...doubts, ...asked];
  const warn = (holds: boolean, text: string): void => {
    if (holds) warnings.push(text);
  };
  const isRun = models.some(({ recoveries }) => recoveries > 0);
  warn(!isRun, 'no recovery was run, because recoveriesMax is 0');
  warn(isRun && !hasLooked, NEVER_LOOKED);
  warn(trace.operations.length === 0, 'the workload changed no file');
  for (const { model, states, covered } of models)
    warn(covered < states, `${model}: ${formatShare(covered, states)} states are covered`);
  warn(!isWhole, NOT_ALL_LATER);
  if (!hasLooked) return warnings;
  const [first, last] = [trace.initial, finalTree(trace)];
  const [before, after] = [await recoveredFrom(run, first), await recoveredFrom(run, last)];
  if (!(test.wholeTree ?? false)) {
    const whole = { ...run, test: { ...test, wholeTree: true } };
    const isSame =
      (await recoveredFrom(whole, first)) === before &&
      (await recoveredFrom(whole, last)) === after;
    warn(!isSame, PAST);
  }
  const count = acknowledgedIn(run);
  // Where the operations undo each other, the last tree has what the first one has.
  if (count > 0 && before !== after) warn(!(await rejects(run, first)), BLIND(count));
  else if (isSilent) warnings.push(SILENT);
  else warn(!(await seesDamage(run, last)), REJECTS_NOTHING);
  return warnings;
}

function acknowledgedIn({ trace }: Pick<FilesRun<unknown, unknown>, 'trace'>): number {
  return trace.marks.filter(({ value }) => (value as Told<unknown>).kind === 'acknowledge').length;
}

/** Whether recovery and check reject a tree at the end of the workload. */
async function rejects<A, R>(
  run: FilesRun<A, R>,
  nodes: ReadonlyMap<number, FileNode>,
): Promise<boolean> {
  const { trace } = run;
  const end = { trace, after: trace.end, before: Number.POSITIVE_INFINITY };
  const recover = (): Promise<R> => recoverFrom(run, treeOf(nodes));
  return (await checked(run, recover, () => [end])).failed !== undefined;
}

/** So many files are damaged, one at a time. */
const DAMAGES_MAX = 64;

/** Whether recovery and check reject a tree that is damaged as no power cut may damage it: empty, or a file full of garbage. */
async function seesDamage<A, R>(
  run: FilesRun<A, R>,
  nodes: ReadonlyMap<number, FileNode>,
): Promise<boolean> {
  const empty: FileNode = { kind: 'directory', entries: new Map() };
  const damaged = [new Map(nodes).set(ROOT, empty)];
  for (const [inode, node] of nodes) {
    if (node.kind !== 'file' || damaged.length > DAMAGES_MAX) continue;
    const data = node.data.map((byte) => byte ^ 0xa5);
    damaged.push(new Map(nodes).set(inode, { kind: 'file', data }));
  }
  for (const tree of damaged) if (await rejects(run, tree)) return true;
  return false;
}

/** What a recovery returns or throws on a tree, as text. */
async function recoveredFrom<A, R>(
  run: FilesRun<A, R>,
  nodes: ReadonlyMap<number, FileNode>,
): Promise<string> {
  try {
    return shown(await recoverFrom(run, treeOf(nodes)), true);
  } catch (error) {
    return `throws ${messageOf(error)}`;
  }
}

const NEVER_LOOKED = 'the recovery never looked at anything that the workload has changed';

const BLIND = (count: number): string =>
  `the check accepts the tree before the workload, although ${formatCount(count)} operations were acknowledged`;

const SILENT =
  'the check returned nothing and never threw, so it may check nothing: return true or false';

const REJECTS_NOTHING =
  'the check accepts every tree, also an empty one and files full of garbage: it may check nothing';

const PAST =
  'the recovery returns something else when all files are there before it begins, so it reads past node:fs: set ' +
  'wholeTree, or load write-barrier/testing/files/register first';

const NOT_ALL_LATER =
  'not every later power cut was tried, because recoveriesMax recoveries are not enough';
