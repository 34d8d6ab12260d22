// The syncs that would have prevented a failure, found by trying: one more fsync after an operation, then two.
//
// A line of a program that runs several times needs its fsync each time. So operations of one kind and one call site, or one path
// where call sites are not known, are one place, and an fsync is tried after all of them at once.
//
// Not tried: another order of the calls, and a sync of anything but the file or the directory that was just changed.

import { judgeChain, type LinkOf } from '../crash-test/chains.js';
import { type FailingOf, momentOf } from '../crash-test/shrink.js';
import type { Subject } from '../crash-test/subject.js';
import { regionOf } from '../space/places.js';
import { Names } from './scene.js';
import type { FileSpace } from './space.js';
import type { FileOperation, FilesTrace } from './trace.js';
import type { Files, TreeState } from './tree-subject.js';

/** After some operations an fsync of what each has changed: the file, or the directory. */
interface Place {
  readonly operations: readonly number[];
  readonly of: 'file' | 'directory';
}

/** So many traces are tried. */
const TRIES_MAX = 60;
/** So many pieces of advice are enough. */
const ADVICE_MAX = 3;

/**
 * The fewest syncs that help, in words, each piece of advice by itself enough; none if neither one nor two help.
 *
 * @param until what began later than this moment cannot help
 * @param passes whether the test passes, whole, with another trace
 */
export async function adviceFor(
  trace: FilesTrace,
  until: number,
  passes: (trace: FilesTrace) => Promise<boolean>,
): Promise<string[]> {
  const places = placesIn(trace, until);
  let tries = 0;
  for (const choices of [places.map((place) => [place]), pairsOf(places)]) {
    const found: string[] = [];
    for (const choice of choices) {
      if (tries++ >= TRIES_MAX || found.length >= ADVICE_MAX) break;
      if (await passes(withSyncs(trace, choice))) found.push(inWords(trace, choice));
    }
    if (found.length > 0) return found;
  }
  return [];
}

/**
 * The syncs of a recovery or of a later life that would have kept a failing chain from being left, in words: the last lives first.
 * Each is tried on this chain alone, because another sync in a recovery makes other lives.
 */
export async function adviceInLater(
  subject: Subject<Files>,
  { chain, failed }: FailingOf<Files>,
  spaceOf: (trace: FilesTrace) => FileSpace,
): Promise<string[]> {
  const { links } = chain;
  for (let n = links.length - 1; n > 0; n -= 1) {
    const link = links[n] as LinkOf<Files>;
    const places = placesIn(link.trace, momentOf(link, n, failed)).slice(0, TRIES_MAX);
    const found: string[] = [];
    for (const place of places.reverse()) {
      const state = sameState(subject, link, spaceOf(withSyncs(link.trace, [place])), links[n - 1]);
      const again = state && links.map((one, m) => (m === n ? { ...one, state } : one));
      if (again && (await judgeChain(subject, { ...chain, links: again }))) continue;
      const where = link.during === 'recovery' ? 'in the recovery' : 'in the later life';
      found.push(`${inWords(link.trace, [place])}, ${where}`);
      if (found.length >= ADVICE_MAX) break;
    }
    if (found.length > 0) return found;
  }
  return [];
}

/** The same changes in a space of the same trace with more syncs; undefined if no power cut leaves them there. */
function sameState(
  subject: Subject<Files>,
  { space: from, state: { versions } }: LinkOf<Files>,
  to: FileSpace,
  before: LinkOf<Files> | undefined,
): TreeState | undefined {
  const found = versions.map((version, place) => {
    const change = regionOf(from.map, place).versions[version]?.change;
    return regionOf(to.map, place).versions.findIndex((one) => one.change === change);
  });
  if (found.includes(-1)) return undefined;
  const state = subject.state(to, (place) => found[place] as number, before?.state);
  return state.isPossible ? state : undefined;
}

function placesIn(trace: FilesTrace, until: number): Place[] {
  const { operations } = trace;
  const names = new Names(trace);
  const groups = new Map<string, number[]>();
  for (const [number, operation] of operations.entries()) {
    const { op, site, end } = operation;
    const path = names.describe(operation).replace(/ \d+\.\.\d+$| to \d+$/, '');
    if (op === 'sync' || op === 'fsync' || op === 'fdatasync') continue;
    if (end === Number.POSITIVE_INFINITY) continue;
    const key = site === undefined ? path : `${op} ${site}`;
    groups.set(key, [...(groups.get(key) ?? []), number]);
  }
  return [...groups.values()].flatMap((numbers) => {
    const first = operations[numbers[0] ?? 0] as FileOperation;
    if (first.begin > until) return [];
    const all: Place[] = [];
    if (changedBy(first, 'file') !== undefined) all.push({ operations: numbers, of: 'file' });
    if (changedBy(first, 'directory') !== undefined)
      all.push({ operations: numbers, of: 'directory' });
    return all;
  });
}

function changedBy(operation: FileOperation, of: Place['of']): number | undefined {
  if (of === 'file') {
    const isGone = operation.op === 'unlink' || operation.op === 'rmdir';
    return isGone || !('inode' in operation) || operation.op === 'symlink'
      ? undefined
      : operation.inode;
  }
  if (operation.op === 'rename') return operation.to.directory;
  return 'directory' in operation ? operation.directory : undefined;
}

function* pairsOf(places: readonly Place[]): Generator<Place[], void> {
  for (const [n, first] of places.entries())
    for (const second of places.slice(n + 1)) yield [first, second];
}

/** A sync takes the time between the answer of an operation and the next event, so it gets parts of a moment. */
function withSyncs(trace: FilesTrace, places: readonly Place[]): FilesTrace {
  const added: FileOperation[] = [];
  for (const [n, { operations, of }] of places.entries()) {
    for (const number of operations) {
      const operation = trace.operations[number] as FileOperation;
      const inode = changedBy(operation, of);
      const begin = operation.end + (n + 1) / 4;
      if (inode !== undefined) added.push({ op: 'fsync', inode, begin, end: begin + 1 / 8 });
    }
  }
  const operations = [...trace.operations, ...added].sort((a, b) => a.begin - b.begin);
  return { ...trace, operations };
}

function inWords(trace: FilesTrace, places: readonly Place[]): string {
  const names = new Names(trace);
  const words: string[] = [];
  for (const [number, operation] of trace.operations.entries()) {
    const text = names.describe(operation);
    for (const { operations, of } of places) {
      if (operations[0] !== number) continue;
      const more = operations.length > 1 ? `, each time` : '';
      const target = names.of(changedBy(operation, of) ?? 1);
      words.push(`fsync ${target} after #${number} ${text}${more}`);
    }
  }
  return words.join(', and ');
}
