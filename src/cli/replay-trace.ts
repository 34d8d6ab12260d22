// Traces to replay: of a guest, as a folder, or of a disk, as a file.
//
// A folder has the images before and after, the payloads, and the events line by line. It is checked as a whole before anything is
// replayed, and whatever is wrong with it becomes a UsageError that names the file and the line. A file is a trace of `write-barrier
// serve` or a log of dm-log-writes (trace-file.ts); it has no final image, so the one that follows from its writes takes its place.
//
// Events are read once for each mode, and a folder from its file each time, because a trace of a kernel may be longer than memory.

import { constants, createReadStream, statSync } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import type { DiskTrace } from 'write-barrier/testing';
import { UsageError } from './command.js';
import { traceIn } from './trace-file.js';

/** The disk with the data, and in a folder also the disk of marks. */
export type DiskName = 'd' | 'm';

/** A request of the guest. */
export interface Submit {
  readonly kind: 'submit';
  /** The number of the request. */
  readonly n: number;
  readonly disk: DiskName;
  readonly op: 'read' | 'write' | 'flush';
  /** In bytes from the start of the disk; 0 for a flush. */
  readonly offset: number;
  /** In bytes; 0 for a flush. */
  readonly length: number;
  /** What a write writes; empty for others. */
  readonly data: Uint8Array;
  readonly fua: boolean;
  /** Whether an ordered tag made a barrier of it. */
  readonly barrier: boolean;
}

/** The answer to a request. */
export interface Complete {
  readonly kind: 'complete';
  readonly n: number;
}

/** The content of a disk. */
export interface Image {
  /** Before the first request. */
  readonly base: Uint8Array;
  /** After the last one; absent where only the writes say it. */
  readonly final?: Uint8Array;
}

/** What is replayed. */
export interface ReplayTrace {
  readonly name: string;
  readonly images: Readonly<Partial<Record<DiskName, Image>>>;
  events(): AsyncGenerator<Submit | Complete, void>;
  /** How many requests there are. */
  readonly requests: Readonly<Record<Submit['op'], number>>;
  /** The most requests that were in flight at once. */
  readonly together: number;
  /** What is not replayed, in words. */
  readonly leftOut: readonly string[];
}

export const SECTOR_BYTES = 512;
/** The disk of marks is not recorded as an image: it begins with zeroes. */
const MARKS_BYTES = 1 << 20;
const NONE = new Uint8Array();

/**
 * Loads and checks a whole trace, so that no replay stops half way.
 *
 * @param path of a folder with base.img.gz, final.img.gz, trace.jsonl and data.bin.gz, or of a trace of a disk
 * @param size of the disk, for a log of dm-log-writes
 * @throws `UsageError`
 */
export async function loadTrace(path: string, size?: string): Promise<ReplayTrace> {
  const loaded = statSync(path).isDirectory()
    ? await folderTrace(path)
    : diskTrace(traceIn(path, size));
  return { name: basename(resolve(path)), ...loaded, ...(await countedIn(loaded.events)) };
}

type Loaded = Pick<ReplayTrace, 'images' | 'events' | 'leftOut'>;

async function countedIn(
  events: ReplayTrace['events'],
): Promise<Pick<ReplayTrace, 'requests' | 'together'>> {
  const requests = { read: 0, write: 0, flush: 0 };
  let inFlight = 0;
  let together = 0;
  for await (const event of events()) {
    inFlight += event.kind === 'submit' ? 1 : -1;
    together = Math.max(together, inFlight);
    if (event.kind === 'submit') requests[event.op] += 1;
  }
  return { requests, together };
}

// A disk

const WRITES: ReadonlySet<string> = new Set(['write', 'writeZeroes']);

function diskTrace({ size, initial, commands }: DiskTrace): Loaded {
  const timed: { readonly time: number; readonly event: Submit | Complete }[] = [];
  let dropped = 0;
  // A replay has no resizes: what a trace adds is there from the start, and is written with zeroes when it is added.
  const base = new Uint8Array(
    commands.reduce((most, { size: to = 0 }) => Math.max(most, to), size),
  );
  if (initial) base.set(initial);
  for (const [n, command] of commands.entries()) {
    const { op, offset, length, data, fua, tag, failed, dispatched, completed } = command;
    // A discard promises nothing that could be compared, and what has failed may have done anything.
    if (failed || op === 'discard') {
      dropped += 1;
      continue;
    }
    const submit: Submit = {
      kind: 'submit',
      n,
      disk: 'd',
      op: WRITES.has(op) ? 'write' : op === 'read' ? 'read' : 'flush',
      offset,
      length,
      data: data ?? (WRITES.has(op) ? new Uint8Array(length) : NONE),
      fua,
      barrier: tag === 'ordered',
    };
    timed.push({ time: dispatched, event: submit });
    if (completed < Number.POSITIVE_INFINITY)
      timed.push({ time: completed, event: { kind: 'complete', n } });
  }
  timed.sort((one, other) => one.time - other.time);
  return {
    images: { d: { base } },
    async *events() {
      for (const { event } of timed) yield event;
    },
    leftOut: dropped === 0 ? [] : [`${dropped} discards and failed commands are left out`],
  };
}

// A folder

async function folderTrace(folder: string): Promise<Loaded> {
  const path = join(folder, 'trace.jsonl');
  await access(path, constants.R_OK).catch(() => missing(path));
  const base = await unzipped(join(folder, 'base.img.gz'));
  const final = await unzipped(join(folder, 'final.img.gz'));
  const data = await unzipped(join(folder, 'data.bin.gz'));
  if (base.length === 0 || base.length % SECTOR_BYTES !== 0) {
    throw new UsageError(`base.img.gz holds ${base.length} bytes, which are not whole sectors`);
  }
  if (base.length !== final.length) {
    throw new UsageError(`base.img.gz holds ${base.length} bytes, final.img.gz ${final.length}`);
  }
  const marks = new Uint8Array(MARKS_BYTES);
  const finalMarks = new Uint8Array(MARKS_BYTES);
  const sizes = { d: base.length, m: marks.length };
  const events = (): ReturnType<ReplayTrace['events']> => readEvents(path, data, sizes);
  for await (const event of events()) {
    if (event.kind === 'submit' && event.disk === 'm' && event.op === 'write')
      finalMarks.set(event.data, event.offset);
  }
  const images = { d: { base, final }, m: { base: marks, final: finalMarks } };
  return { images, events, leftOut: [] };
}

/** @param sizes in bytes */
async function* readEvents(
  path: string,
  data: Uint8Array,
  sizes: Readonly<Record<DiskName, number>>,
): ReturnType<ReplayTrace['events']> {
  const lines = createInterface({
    input: createReadStream(path),
    crlfDelay: Number.POSITIVE_INFINITY,
  });
  const open = new Set<number>();
  let line = 0;
  for await (const text of lines) {
    line += 1;
    if (text.trim() === '') continue;
    try {
      const event = parseEvent(text, data, sizes);
      const isSubmit = event.kind === 'submit';
      if (open.has(event.n) === isSubmit) {
        throw new UsageError(
          isSubmit
            ? `request ${event.n} is submitted again before it has completed`
            : `request ${event.n} completes, but it was not submitted`,
        );
      }
      if (isSubmit) open.add(event.n);
      else open.delete(event.n);
      yield event;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      throw new UsageError(`trace.jsonl, line ${line}: ${error.message}`);
    }
  }
}

interface Fields {
  readonly [name: string]: unknown;
  readonly e?: unknown;
  readonly n?: unknown;
  readonly x?: unknown;
  readonly op?: unknown;
  readonly off?: unknown;
  readonly len?: unknown;
  readonly d?: unknown;
  readonly fua?: unknown;
}

function parseEvent(
  text: string,
  data: Uint8Array,
  sizes: Readonly<Record<DiskName, number>>,
): Submit | Complete {
  const fields = parseObject(text);
  const { e, n, x, op, d, fua } = fields;
  if (e !== 'submit' && e !== 'complete') throw new UsageError(`no such event: ${show(e)}`);
  if (!isCount(n)) throw new UsageError(`no request number: ${show(n)}`);
  if (e === 'complete') return { kind: 'complete', n };
  if (x !== 'd' && x !== 'm') throw new UsageError(`no such disk: ${show(x)}`);
  if (op !== 'read' && op !== 'write' && op !== 'flush') {
    throw new UsageError(`no such op: ${show(op)}`);
  }
  const common = { kind: 'submit', n, disk: x, op, barrier: false } as const;
  if (op === 'flush') return { ...common, offset: 0, length: 0, data: NONE, fua: false };
  const range = rangeIn(fields, x, sizes[x]);
  if (op === 'read') return { ...common, ...range, data: NONE, fua: false };
  return { ...common, ...range, data: payload(d, range.length, data), fua: fua === 1 };
}

function parseObject(text: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new UsageError('not a line of JSON');
  }
  if (typeof value !== 'object' || value === null) throw new UsageError('not a JSON object');
  return value as Fields;
}

/** @param size in bytes */
function rangeIn(
  { off: offset, len: length }: Fields,
  disk: DiskName,
  size: number,
): Pick<Submit, 'offset' | 'length'> {
  if (!isCount(offset) || !isCount(length) || length === 0) {
    throw new UsageError(`no range of bytes: offset ${show(offset)}, length ${show(length)}`);
  }
  if (offset + length > size) {
    throw new UsageError(
      `${length} bytes at ${offset} are outside disk ${disk}, which has ${size} bytes`,
    );
  }
  if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0) {
    throw new UsageError(`${length} bytes at ${offset} are not whole sectors of ${SECTOR_BYTES}`);
  }
  return { offset, length };
}

function payload(start: unknown, length: number, data: Uint8Array): Uint8Array {
  if (!isCount(start)) throw new UsageError(`no place of the payload in data.bin: ${show(start)}`);
  if (start + length > data.length) {
    throw new UsageError(
      `a payload of ${length} bytes at ${start} is outside data.bin, which has ${data.length} bytes`,
    );
  }
  return data.subarray(start, start + length);
}

async function unzipped(path: string): Promise<Uint8Array> {
  const packed = await readFile(path).catch(() => missing(path));
  try {
    return await promisify(gunzip)(packed);
  } catch {
    throw new UsageError(`${path} is not a gzip file`);
  }
}

function missing(path: string): never {
  throw new UsageError(`a trace needs ${path}, which cannot be read`);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function show(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value);
}
