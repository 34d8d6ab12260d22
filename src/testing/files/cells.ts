// The cells of a tree of files: what a power cut leaves in one of its versions, each for itself.
//
// A cell is an entry of a directory, the size of a file, or a block of a file. Blocks with the same history share their list of
// versions. A cell that no operation changes is none. Payloads are not copied: a version names the last change that it contains,
// and its bytes are put together when they are read.
//
// A change of a cell is a step of the journal, or free. A free change may be there or not from its beginning on, and must be there
// from the answer of a sync on; a later one may be there without an earlier one. A step begins an era of its cell: which era
// shows is a matter of the clocks (promises.ts). Within an era versions are free of each other.
//
// A truncation is a step where names are ordered, and gives up the blocks behind the new end. The block that it cuts is written in
// place, like any other: ext4 and xfs leave its old content beside the old size. A truncation that makes a file longer changes
// its size alone.
//
// Where the size follows the data it is as large as the data that is there asks, and no cell of its own but for truncations, and for
// writes over the old end where it comes after the data.

import { checkArgument, misuse, OBJECT } from '../../model/index.js';
import { ClockCounts, type ClockVersion, pointsAt } from '../space/clocks.js';
import type { PlaceMap, Places } from '../space/places.js';
import { blockRuns, type FileHistory, historiesOf, sizeChanges } from './blocks.js';
import type { FileModel } from './models.js';
import { type Change, Promises, type Step } from './promises.js';
import type { FileOperation, FilesTrace } from './trace.js';

const NEVER = Number.POSITIVE_INFINITY;

/** A version of a cell. */
export interface CellVersion extends ClockVersion {
  /** The last of the changes of the cell that it contains, by its index; -1 for none. */
  readonly change: number;
}

/** A cell, or a run of blocks with the same history. */
export interface Cell extends Places<CellVersion> {
  readonly changes: readonly Change[];
  /** The number of the first block of a run; 0 for other cells. */
  readonly block: number;
  /** What it belongs to: the inode of a file, or of a directory. A guide loses all of it together. */
  readonly of: number;
}

/** What an inode is. */
export type Kind =
  | { readonly kind: 'file' }
  | { readonly kind: 'directory' }
  | { readonly kind: 'symlink'; readonly target: string };

/** The cells of a trace. */
export interface CellMap extends PlaceMap<Cell> {
  readonly trace: FilesTrace;
  readonly model: FileModel;
  readonly counts: ClockCounts;
  /** The inodes that the trace knows. */
  readonly kinds: ReadonlyMap<number, Kind>;
  /** It is of a later life, whose trace knows only what it has met of the tree before. */
  readonly isLater: boolean;
  /** By `entryKey`. */
  readonly entries: ReadonlyMap<string, Cell>;
  /** The names that a directory has at some time, by its inode, sorted. */
  readonly names: ReadonlyMap<number, readonly string[]>;
  /** By inode. */
  readonly sizes: ReadonlyMap<number, Cell>;
  /** The runs of blocks by inode, in the order of their blocks. */
  readonly blocks: ReadonlyMap<number, readonly Cell[]>;
  /** The files that are changed, by inode. */
  readonly histories: ReadonlyMap<number, FileHistory>;
}

/** The key of an entry. */
export function entryKey(directory: number, name: string): string {
  return `${directory}/${name}`;
}

/**
 * @param lies whether no sync promises anything
 * @throws `INVALID_ARGUMENT` for what is no trace, and for moments that are not ascending
 */
export function cellsOf(
  trace: FilesTrace,
  model: FileModel,
  lies: boolean,
  isLater: boolean = false,
): CellMap {
  checkArgument('trace.operations', trace?.operations, OBJECT);
  checkTimes(trace);
  const promises = new Promises(trace, model, lies);
  const regions: Cell[] = [];
  let places = 0;
  const add = (of: number, changes: readonly Change[], block = 0, count = 1): Cell => {
    const versions = versionsOf(changes, trace.operations, promises);
    const cell = { first: places, count, versions, changes, block, of };
    regions.push(cell);
    places += count;
    return cell;
  };
  const names = namesBefore(trace);
  const entries = new Map<string, Cell>();
  for (const { directory, name, changes } of changedEntries(trace, promises)) {
    entries.set(entryKey(directory, name), add(directory, changes));
    names.set(directory, (names.get(directory) ?? new Set()).add(name));
  }
  const sizes = new Map<number, Cell>();
  const blocks = new Map<number, Cell[]>();
  const histories = historiesOf(trace);
  for (const [inode, history] of histories) {
    const resized = sizeChanges(history, model, promises);
    if (resized.length > 0) sizes.set(inode, add(inode, resized));
    const runs = [...blockRuns(history, model, promises)];
    blocks.set(
      inode,
      runs.map(({ block, count, changes }) => add(inode, changes, block, count)),
    );
  }
  const { clocks } = promises;
  const map = { regions, places, pointsAt: (time: number) => pointsAt(clocks, time) };
  return {
    ...{ ...map, trace, model, isLater, entries, sizes, blocks, histories },
    kinds: kindsOf(trace),
    names: new Map([...names].map(([directory, all]) => [directory, [...all].sort()])),
    counts: new ClockCounts(map, clocks),
  };
}

function checkTimes({ operations }: FilesTrace): void {
  let latest = -NEVER;
  for (const [number, { begin, end }] of operations.entries()) {
    if (!(latest < begin && begin < end)) {
      throw misuse(
        `the moments of a trace must ascend: operation ${number} begins before its predecessor, or after its answer`,
      );
    }
    latest = begin;
  }
}

/** The versions of a cell, from its changes in the order of the operations. */
function versionsOf(
  changes: readonly Change[],
  operations: readonly FileOperation[],
  promises: Promises,
): CellVersion[] {
  const { clocks } = promises;
  const values = changes.map(({ step, directory }) => step && promises.valuesOf(step, directory));
  /** The values that bring the era of each change. */
  const eras: (readonly number[])[] = [];
  let era: readonly number[] = clocks.map(() => 0);
  for (const reached of values) {
    era = reached ?? era;
    eras.push(era);
  }
  const versions: CellVersion[] = [];
  let until: readonly number[] = clocks.map(() => NEVER);
  let ordered = NEVER;
  for (let change = changes.length - 1; change >= -1; change -= 1) {
    const one = changes[change];
    const from = eras[change] ?? clocks.map(() => 0);
    const after = one ? (operations[one.operation] as FileOperation).begin : -NEVER;
    const when = clocks.length > 0 ? { from, until } : undefined;
    const isSeen = !when || from.some((value, n) => value < (until[n] as number));
    if (after < ordered && isSeen) {
      const [command, durable] = [one?.operation ?? -1, ordered];
      versions.push({ change, command, after, ordered, durable, intact: true, when });
    }
    const reached = values[change];
    if (reached) {
      until = until.map((value, n) => Math.min(value, reached[n] as number));
      ordered = NEVER;
    } else if (one) {
      ordered = Math.min(ordered, one.durable);
    }
  }
  return versions.reverse();
}

// Entries

interface Changed {
  readonly directory: number;
  readonly name: string;
  readonly changes: Change[];
}

function changedEntries({ operations }: FilesTrace, promises: Promises): Iterable<Changed> {
  const entries = new Map<string, Changed>();
  for (const [operation, one] of operations.entries()) {
    for (const [{ directory, name }, value] of changedBy(one)) {
      const key = entryKey(directory, name);
      const entry = entries.get(key) ?? { directory, name, changes: [] };
      entries.set(key, entry);
      const [step] = promises.steps[operation] as readonly Step[];
      const durable = promises.durable(operation, directory);
      entry.changes.push({ operation, value, step, durable, directory });
    }
  }
  return entries.values();
}

/** The entries that an operation changes, with their new inodes. */
function changedBy(
  operation: FileOperation,
): [entry: { directory: number; name: string }, inode: number | undefined][] {
  switch (operation.op) {
    case 'create':
    case 'mkdir':
    case 'link':
    case 'symlink':
      return [[operation, operation.inode]];
    case 'unlink':
    case 'rmdir':
      return [[operation, undefined]];
    case 'rename': {
      const { from, to, inode } = operation;
      if (from.directory === to.directory && from.name === to.name) return [];
      return [
        [from, undefined],
        [to, inode],
      ];
    }
    default:
      return [];
  }
}

function namesBefore({ initial }: FilesTrace): Map<number, Set<string>> {
  const names = new Map<number, Set<string>>();
  for (const [inode, node] of initial) {
    if (node.kind === 'directory') names.set(inode, new Set(node.entries.keys()));
  }
  return names;
}

function kindsOf({ initial, operations }: FilesTrace): Map<number, Kind> {
  const kinds = new Map<number, Kind>([[1, { kind: 'directory' }]]);
  for (const [inode, node] of initial) {
    const { kind } = node;
    kinds.set(inode, kind === 'symlink' ? { kind, target: node.target } : { kind });
  }
  for (const one of operations) {
    if (one.op === 'create') kinds.set(one.inode, { kind: 'file' });
    if (one.op === 'mkdir') kinds.set(one.inode, { kind: 'directory' });
    if (one.op === 'symlink') kinds.set(one.inode, { kind: 'symlink', target: one.target });
  }
  return kinds;
}
