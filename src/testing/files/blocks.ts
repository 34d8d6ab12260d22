// The content of files: their sizes, and the blocks that their operations change.
//
// Blocks with the same history are a run, so that a file of gigabytes has as many runs as it has different writes. The bytes of a
// block after a change are those that a reader of the running system saw then, because a file system writes its blocks from
// memory. So they are put together from the changes of the block up to that one, beginning with the last that covers it.
//
// A version refers to its changes, and a change to its operation, so that no payload is copied before it is read.

import type { FileModel } from './models.js';
import { blocksOf, type Change, type Promises, type Step } from './promises.js';
import type { FileOperation, FilesTrace } from './trace.js';

type Write = Extract<FileOperation, { op: 'write' }>;
type Truncation = Extract<FileOperation, { op: 'truncate' }>;

/** An operation that changes a file. */
interface FileEvent {
  /** The number of the operation in the trace. */
  readonly operation: number;
  readonly made: Write | Truncation;
  /** The size of the file before it, and after it, in bytes. */
  readonly before: number;
  readonly size: number;
}

/** What a file was and became. */
export interface FileHistory {
  readonly inode: number;
  readonly initial: Uint8Array;
  readonly events: readonly FileEvent[];
  /** The events by the number of their operation. */
  readonly by: ReadonlyMap<number, FileEvent>;
  /** The largest size, in bytes. */
  readonly sizeMax: number;
}

const EMPTY = new Uint8Array(0);

/** The histories of the files that a trace changes, by inode. */
export function historiesOf({ initial, operations }: FilesTrace): Map<number, FileHistory> {
  const events = new Map<number, FileEvent[]>();
  const dataOf = (inode: number): Uint8Array => {
    const node = initial.get(inode);
    return node?.kind === 'file' ? node.data : EMPTY;
  };
  for (const [operation, made] of operations.entries()) {
    if (made.op !== 'write' && made.op !== 'truncate') continue;
    const { inode } = made;
    const list = events.get(inode) ?? [];
    const before = list.at(-1)?.size ?? dataOf(inode).length;
    const size = made.op === 'truncate' ? made.size : sizeWith(made, before);
    list.push({ operation, made, before, size });
    events.set(inode, list);
  }
  const histories = new Map<number, FileHistory>();
  for (const [inode, list] of events) {
    const data = dataOf(inode);
    const sizeMax = list.reduce((max, { size }) => Math.max(max, size), data.length);
    const by = new Map(list.map((event) => [event.operation, event]));
    histories.set(inode, { inode, initial: data, events: list, by, sizeMax });
  }
  return histories;
}

function sizeWith({ offset, data }: Write, before: number): number {
  return data.length === 0 ? before : Math.max(before, offset + data.length);
}

/**
 * The changes of the size of a file. Where it comes after the data, only a write over the old end has one of its own: without the new
 * size it shows its part in front of that end. Everything else that has no size yet is not to be seen.
 */
export function sizeChanges(
  { inode, events }: FileHistory,
  { size: mode, block }: FileModel,
  promises: Promises,
): Change[] {
  return events.flatMap(({ operation, made, before, size }): Change[] => {
    if (size === before) return [];
    const steps = promises.steps[operation] as readonly Step[];
    const durable = promises.durable(operation, inode);
    if (made.op === 'truncate') return [{ operation, value: size, step: steps[0], durable }];
    if (steps.length === 0 && mode !== 'free') {
      const isOverEnd = mode === 'after-data' && made.offset < before;
      return isOverEnd ? [{ operation, value: size, step: undefined, durable }] : [];
    }
    const [first, end] = blocksOf(made, block);
    return Array.from({ length: end - first }, (_, n) => {
      return { operation, value: Math.min(size, (first + n + 1) * block), step: steps[n], durable };
    }).filter(({ value }) => value > before);
  });
}

/**
 * What holds a size that follows the data: it is at least that of the last truncation, if there is one, after whose operation data
 * counts, and at most that before the first change that is not there.
 */
export function sizeBounds(
  { by }: FileHistory,
  changes: readonly Change[],
  last: number,
): { readonly cut: number | undefined; readonly most: number; readonly since: number } {
  const eventOf = ({ operation }: Change): FileEvent => by.get(operation) as FileEvent;
  const isTruncation = (change: Change): boolean => eventOf(change).made.op === 'truncate';
  const cut = changes
    .slice(0, last + 1)
    .filter(isTruncation)
    .at(-1);
  const next = changes[last + 1];
  const most = next && !isTruncation(next) ? eventOf(next).before : Number.POSITIVE_INFINITY;
  return { cut: cut?.value, most, since: cut?.operation ?? -1 };
}

/** A change of some blocks of a file. */
interface Part {
  readonly first: number;
  readonly end: number;
  readonly change: Change;
}

/** The blocks that the operations change, in runs with the same changes. A sweep from the start of the file to its end. */
export function* blockRuns(
  history: FileHistory,
  model: FileModel,
  promises: Promises,
): Generator<{ block: number; count: number; changes: readonly Change[] }, void> {
  const parts = history.events.flatMap((event) => partsOf(event, history, model, promises));
  const edges = [...new Set(parts.flatMap(({ first, end }) => [first, end]))].sort((a, b) => a - b);
  const starting = [...parts].sort((a, b) => a.first - b.first);
  let open: Part[] = [];
  let next = 0;
  for (const [n, block] of edges.entries()) {
    open = open.filter(({ end }) => end > block);
    const before = open.length;
    for (let part = starting[next]; part?.first === block; part = starting[++next]) open.push(part);
    if (open.length > before) open.sort((a, b) => a.change.operation - b.change.operation);
    if (open.length === 0) continue;
    const count = (edges[n + 1] as number) - block;
    yield { block, count, changes: open.map(({ change }) => change) };
  }
}

function partsOf(
  { operation, made, before, size }: FileEvent,
  { inode, sizeMax }: FileHistory,
  { data, block }: FileModel,
  promises: Promises,
): Part[] {
  const steps = promises.steps[operation] as readonly Step[];
  const durable = promises.durable(operation, inode);
  const part = (first: number, end: number, step: Step | undefined): Part => {
    return { first, end, change: { operation, step, durable } };
  };
  if (made.op === 'write') {
    const [first, end] = blocksOf(made, block);
    if (first === end) return [];
    if (steps.length === 0) return [part(first, end, undefined)];
    return steps.map((step, n) => part(first + n, first + n + 1, step));
  }
  if (size >= before) return [];
  const [cut, gone, end] = [size, size + block - 1, sizeMax + block - 1].map((bytes) =>
    Math.floor(bytes / block),
  ) as [number, number, number];
  const [step] = steps;
  return [
    // The block that is cut is written in place, unless data is journaled.
    ...(cut < gone ? [part(cut, gone, data === 'journaled' ? step : undefined)] : []),
    ...(gone < end ? [part(gone, end, step)] : []),
  ];
}

/** The bytes of a block after the changes, up to the largest size of the file. */
export function blockAfter(
  { initial, by, sizeMax }: FileHistory,
  changes: readonly Change[],
  block: number,
  blockSize: number,
): Uint8Array {
  const start = block * blockSize;
  const bytes = new Uint8Array(Math.min(blockSize, sizeMax - start));
  const end = start + bytes.length;
  const made = changes.map(({ operation }) => (by.get(operation) as FileEvent).made);
  const covers = (one: Write | Truncation): boolean =>
    one.op === 'truncate'
      ? one.size <= start
      : one.offset <= start && one.offset + one.data.length >= end;
  const last = made.map(covers).lastIndexOf(true);
  if (last < 0) bytes.set(initial.subarray(start, end));
  for (const one of made.slice(Math.max(0, last))) {
    if (one.op === 'truncate') {
      bytes.fill(0, Math.max(0, one.size - start));
    } else {
      const { offset, data } = one;
      const from = Math.max(start, offset);
      const piece = data.subarray(from - offset, Math.max(from, end) - offset);
      if (piece.length > 0) bytes.set(piece, from - start);
    }
  }
  return bytes;
}

/** The size that the data of a block asks for: up to its end, or up to that of the file when the change was made. */
export function sizeAsked(
  { by }: FileHistory,
  { operation }: Change,
  block: number,
  blockSize: number,
): number {
  const { made, size } = by.get(operation) as FileEvent;
  return made.op === 'write' ? Math.min(size, (block + 1) * blockSize) : 0;
}
