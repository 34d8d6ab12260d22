// What the operations of a trace are for a file system: steps of its journal, and promises that they are durable.
//
// Where names are ordered, every operation on names and every truncation is a step; where data is journaled, so is each block of a
// write. The journal commits steps in their order, so one number says what it has committed: its clock (clocks.ts). It may have
// committed a step as soon as the operation has begun. It must have when a sync was answered that covers it. An fdatasync may
// cover less than an fsync, as the model says.
//
// A log of single files, as btrfs has it, is a second clock: how many syncs it has committed. A step is there when the journal has
// committed it, or the log the first sync that covers it.
//
// Everything else is durable by itself, from the answer of a sync of its file on that began later.

import type { Clock } from '../space/clocks.js';
import { countUpTo, suffixMin } from '../space/intervals.js';
import type { FileModel } from './models.js';
import type { FileChange, FileOperation, FileSync, FilesTrace } from './trace.js';

const NEVER = Number.POSITIVE_INFINITY;

/** A part of an operation that the journal commits by itself. */
export interface Step {
  /** The number of the operation in the trace. */
  readonly operation: number;
  /** How many steps the journal has committed with it. */
  readonly committed: number;
}

/** A change of a cell. */
export interface Change {
  /** The number of the operation in the trace. */
  readonly operation: number;
  /** The inode of an entry, undefined if the entry is gone; the size of a file. */
  readonly value?: number | undefined;
  /** The step that it is; undefined if it is free. */
  readonly step: Step | undefined;
  /** From when on it must be there if it is free. */
  readonly durable: number;
  /** The directory of an entry. */
  readonly directory?: number;
}

type Made = FileOperation & FileChange;
type Sync = FileOperation & FileSync;

/** The steps, syncs and clocks of a trace under a model. */
export class Promises {
  /** The steps of each operation, in their order; none for one that is no step. */
  readonly steps: readonly (readonly Step[])[];
  readonly clocks: readonly Clock[];
  readonly #operations: readonly FileOperation[];
  readonly #model: FileModel;
  /** The syncs in the order of their beginning, and those of them that work. */
  readonly #all: readonly Sync[];
  readonly #syncs: readonly Sync[];
  readonly #ends = new Map<number, Ends>();
  /** The writes that make their file larger. */
  readonly #growing: ReadonlySet<FileOperation>;
  readonly #directories: ReadonlySet<number>;
  /** For each inode the directory in which it got its latest name, by the number of the operation. */
  readonly #parents = new Map<number, { readonly operation: number; readonly parent: number }[]>();

  /** @param lies whether the device answers flushes and does nothing: then no sync promises anything */
  constructor(trace: FilesTrace, model: FileModel, lies: boolean) {
    const { operations } = trace;
    this.#operations = operations;
    this.#growing = growingIn(trace);
    this.#directories = directoriesIn(trace);
    this.#model = model;
    this.#all = operations.filter(isSync);
    this.#syncs = lies ? [] : this.#all;
    let committed = 0;
    this.steps = operations.map((one, operation) => {
      const count = stepsOf(one, model);
      return Array.from({ length: count }, () => {
        committed += 1;
        return { operation, committed };
      });
    });
    for (const [operation, one] of operations.entries()) {
      for (const [inode, parent] of namesGiven(one)) {
        const known = this.#parents.get(inode) ?? [];
        known.push({ operation, parent });
        this.#parents.set(inode, known);
      }
    }
    const isOrdered = model.namespace === 'ordered';
    this.clocks = [
      ...(isOrdered ? [this.#journal()] : []),
      ...(isOrdered && model.fsync === 'log' ? [this.#log()] : []),
    ];
  }

  /** From when on a change of a file that is no step must be there; of an entry, with the inode of its directory. */
  durable(operation: number, inode: number): number {
    return this.#endsOf(inode).after((this.#operations[operation] as FileOperation).begin);
  }

  /**
   * The values that the clocks have come to when a step is there.
   *
   * @param directory where the changed entry is; undefined for a truncation
   */
  valuesOf({ operation, committed }: Step, directory: number | undefined): number[] {
    return this.#model.fsync === 'log'
      ? [committed, this.#logged(operation, directory)]
      : [committed];
  }

  /** The first sync of the log that brings a step. A lying device commits its log as well, only not when it says so. */
  #logged(operation: number, directory: number | undefined): number {
    const change = this.#operations[operation] as Made;
    const first = this.#all.findIndex((sync) => {
      if (sync.begin < change.begin) return false;
      if (sync.op === 'sync') return true;
      const { inode } = sync;
      return inode === change.inode || inode === directory || this.#isAbove(change, sync, inode);
    });
    return first < 0 ? NEVER : first + 1;
  }

  /** Whether the operation made or moved a directory above a file that is synced. */
  #isAbove({ op, inode }: Made, sync: Sync, synced: number): boolean {
    if (op !== 'mkdir' && op !== 'rename') return false;
    const seen = new Set<number>();
    for (let at = synced; !seen.has(at); ) {
      seen.add(at);
      const last = (this.#parents.get(at) ?? [])
        .filter(({ operation }) => (this.#operations[operation] as Made).begin < sync.begin)
        .at(-1);
      if (!last) return false;
      at = last.parent;
      if (at === inode) return true;
    }
    return false;
  }

  /** Whether a sync brings as much as an fsync. */
  #isFull(sync: Sync): boolean {
    if (sync.op !== 'fdatasync' || this.#model.fdatasync === 'fsync') return true;
    return this.#directories.has(sync.inode);
  }

  #journal(): Clock {
    const { delays, fsync } = this.#model;
    const from = [-NEVER];
    /** How many steps each inode needs, and how many its size and its being there need. */
    const needs = new Map<number, number>();
    const dataNeeds = new Map<number, number>();
    const forced: { end: number; committed: number }[] = [];
    const works = new Set<FileOperation>(this.#syncs);
    for (const [operation, one] of this.#operations.entries()) {
      for (const _ of this.steps[operation] as readonly Step[]) from.push(one.begin);
      const committed = from.length - 1;
      const isStep = (this.steps[operation] as readonly Step[]).length > 0;
      if (isStep || this.#growing.has(one)) {
        for (const inode of touched(one)) needs.set(inode, committed);
        if ('inode' in one && changesData(one)) dataNeeds.set(one.inode, committed);
      }
      if (!delays) forced.push({ end: one.end, committed });
      else if (!isSync(one) || !works.has(one)) continue;
      else if (one.op === 'sync') forced.push({ end: one.end, committed });
      else if (fsync === 'journal') {
        const needed = this.#isFull(one) ? needs : dataNeeds;
        forced.push({ end: one.end, committed: needed.get(one.inode) ?? 0 });
      }
    }
    const until = new Array<number>(from.length).fill(NEVER);
    for (const { end, committed } of forced) {
      if (committed > 0) until[committed - 1] = Math.min(until[committed - 1] as number, end);
    }
    return { from, until: suffixMin(until.length, (value) => until[value] as number) };
  }

  #log(): Clock {
    const syncs = this.#all;
    const ends = suffixMin(syncs.length, (n) => this.#syncs[n]?.end ?? NEVER);
    return { from: [-NEVER, ...syncs.map(({ begin }) => begin)], until: [...ends, NEVER] };
  }

  #endsOf(inode: number): Ends {
    let ends = this.#ends.get(inode);
    if (!ends) {
      ends = new Ends(this.#syncs.filter((one) => one.op === 'sync' || one.inode === inode));
      this.#ends.set(inode, ends);
    }
    return ends;
  }
}

/** The answers of the syncs of one inode. */
class Ends {
  readonly #begins: readonly number[];
  readonly #ends: readonly number[];

  constructor(syncs: readonly Sync[]) {
    this.#begins = syncs.map(({ begin }) => begin);
    this.#ends = suffixMin(syncs.length, (n) => (syncs[n] as Sync).end);
  }

  /** The first answer of a sync that began after a moment. */
  after(time: number): number {
    return this.#ends[countUpTo(this.#begins, time)] ?? NEVER;
  }
}

/** Whether an operation changes nothing, and asks that what is there becomes durable. */
export function isSync(operation: FileOperation): operation is Sync {
  return operation.op === 'fsync' || operation.op === 'fdatasync' || operation.op === 'sync';
}

/** The blocks that a write touches: the first one, and the one after the last. */
export function blocksOf(
  { offset, data }: { readonly offset: number; readonly data: Uint8Array },
  block: number,
): [first: number, end: number] {
  if (data.length === 0) return [0, 0];
  return [Math.floor(offset / block), Math.ceil((offset + data.length) / block)];
}

function stepsOf(operation: FileOperation, { namespace, data, block }: FileModel): number {
  if (namespace !== 'ordered' || isSync(operation)) return 0;
  if (operation.op !== 'write') return 1;
  const [first, end] = blocksOf(operation, block);
  return data === 'journaled' ? end - first : 0;
}

/** The writes that make their file larger. */
function growingIn({ initial, operations }: FilesTrace): ReadonlySet<FileOperation> {
  const sizes = new Map<number, number>();
  const growing = new Set<FileOperation>();
  for (const one of operations) {
    if (one.op === 'truncate') sizes.set(one.inode, one.size);
    if (one.op !== 'write' || one.data.length === 0) continue;
    const node = initial.get(one.inode);
    const size = sizes.get(one.inode) ?? (node?.kind === 'file' ? node.data.length : 0);
    const end = one.offset + one.data.length;
    if (end > size) growing.add(one);
    sizes.set(one.inode, Math.max(size, end));
  }
  return growing;
}

function directoriesIn({ initial, operations }: FilesTrace): ReadonlySet<number> {
  const before = [...initial].filter(([, { kind }]) => kind === 'directory');
  const made = operations.flatMap((one) => (one.op === 'mkdir' ? [one.inode] : []));
  return new Set([...before.map(([inode]) => inode), ...made]);
}

/** Whether an operation changes what a reader of the file itself finds: that it is there, its size, its bytes. */
function changesData({ op }: FileOperation): boolean {
  return op === 'create' || op === 'mkdir' || op === 'write' || op === 'truncate';
}

/** The inodes whose sync commits the operation, or the steps before it. */
function touched(operation: FileOperation): number[] {
  switch (operation.op) {
    case 'fsync':
    case 'fdatasync':
    case 'sync':
      return [];
    case 'write':
    case 'truncate':
      return [operation.inode];
    case 'rename': {
      const { inode, from, to, replaced } = operation;
      return [inode, from.directory, to.directory, ...(replaced === undefined ? [] : [replaced])];
    }
    default:
      return [operation.inode, operation.directory];
  }
}

/** The inodes that get a name, each with the directory. */
function namesGiven(operation: FileOperation): [inode: number, directory: number][] {
  switch (operation.op) {
    case 'create':
    case 'mkdir':
    case 'link':
    case 'symlink':
      return [[operation.inode, operation.directory]];
    case 'rename':
      return [[operation.inode, operation.to.directory]];
    default:
      return [];
  }
}
