// Traces as bytes: our own compact form, and the log of Linux' dm-log-writes target, which QEMU's blklogwrites driver
// writes as well.
//
// The compact form keeps everything: a line of JSON with all but the payloads, and the payloads behind it.
//
// A log of dm-log-writes keeps less. It is written in the order of completion: an entry is a write, a discard, a flush
// or a mark, or a flush and a write in one. What was in flight together cannot be told any more, so reading it makes a
// trace in which every command completes before the next one starts. What is asked of such a trace is what a missing
// flush costs, and that is what the log is for. Reads are not in it, and neither are failures.
//
// Source: drivers/md/dm-log-writes.c and Documentation/admin-guide/device-mapper/log-writes.rst of Linux.

import { WriteBarrierError } from '../../model/index.js';
import { copyOf, joined } from '../../storage/bytes.js';
import { type DiskCommand, DiskRecorder, type DiskTrace } from './disk-trace.js';

/** The first line of the compact form. */
const COMPACT = 'write-barrier-trace 1';

/** The compact form of a trace. Marks must be values that JSON can tell. */
export function encodeTrace({ size, initial, commands, marks }: DiskTrace): Uint8Array {
  const told = commands.map(({ data, completed, ...command }) => ({
    ...command,
    ...(completed !== Number.POSITIVE_INFINITY && { completed }),
    ...(data && { data: data.length }),
  }));
  const head = { size, initial: initial?.length, commands: told, marks };
  const text = new TextEncoder().encode(`${COMPACT}\n${JSON.stringify(head)}\n`);
  return joined([
    text,
    ...(initial ? [initial] : []),
    ...commands.flatMap(({ data }) => data ?? []),
  ]);
}

/** @throws `SYNTAX` for bytes that `encodeTrace` did not make */
export function decodeTrace(bytes: Uint8Array): DiskTrace {
  const first = bytes.indexOf(NEWLINE);
  const second = bytes.indexOf(NEWLINE, first + 1);
  const text = (from: number, to: number): string =>
    new TextDecoder().decode(bytes.subarray(from, to));
  if (first < 0 || second < 0 || text(0, first) !== COMPACT) throw syntax(`not a ${COMPACT}`);
  const head = parsed(text(first + 1, second));
  let at = second + 1;
  const take = (length: number): Uint8Array => {
    const part = copyOf(bytes, at, at + length);
    if (part.length !== length) throw syntax('payloads are missing');
    at += length;
    return part;
  };
  const initial = head.initial === undefined ? {} : { initial: take(head.initial) };
  const commands = head.commands.map(
    ({ data, completed, ...command }): DiskCommand => ({
      ...command,
      completed: completed ?? Number.POSITIVE_INFINITY,
      ...(data !== undefined && { data: take(data) }),
    }),
  );
  if (at !== bytes.length) throw syntax('there is more than the payloads');
  return { size: head.size, ...initial, commands, marks: head.marks };
}

const NEWLINE = 10;

interface Head {
  readonly size: number;
  readonly initial?: number;
  readonly commands: readonly (Omit<DiskCommand, 'data' | 'completed'> & {
    readonly data?: number;
    readonly completed?: number;
  })[];
  readonly marks: DiskTrace['marks'];
}

function parsed(text: string): Head {
  let head: Partial<Head>;
  try {
    head = JSON.parse(text);
  } catch (cause) {
    throw syntax('the second line is not JSON', cause);
  }
  const { size, commands, marks } = head ?? {};
  const all = [commands, marks].every(
    (list) => Array.isArray(list) && list.every((entry) => typeof entry === 'object' && entry),
  );
  if (Number.isSafeInteger(size) && all) {
    return head as Head;
  }
  throw syntax('the second line is not that of a trace');
}

// dm-log-writes

const MAGIC = 0x006a_7366_7773_6872n;
const VERSION = 1n;
const ENTRY_BYTES = 32;
const FLUSH = 1n;
const FUA = 2n;
const DISCARD = 4n;
const MARK = 8n;

/**
 * Reads a log of dm-log-writes.
 *
 * @param size of the disk that was logged, in bytes; the log does not tell
 * @throws `SYNTAX` for bytes that are no such log, or end early
 */
export function readLogWrites(bytes: Uint8Array, size: number): DiskTrace {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 28 || view.getBigUint64(0, true) !== MAGIC)
    throw syntax('no dm-log-writes log');
  if (view.getBigUint64(8, true) !== VERSION) throw syntax('not version 1 of dm-log-writes');
  const entries = Number(view.getBigUint64(16, true));
  const sector = view.getUint32(24, true);
  if (sector < 512 || sector % 512 !== 0) throw syntax(`sectors of ${sector} bytes`);
  const recorder = new DiskRecorder(size);
  const run = (op: DiskCommand['op'], offset: number, data: Uint8Array | number, fua: boolean) => {
    const length = typeof data === 'number' ? data : data.length;
    const what = { op, offset, length, tag: 'simple', fua } as const;
    recorder.complete(recorder.dispatch(what, typeof data === 'number' ? undefined : data));
  };

  let at = sector;
  for (let i = 0; i < entries; i++) {
    if (at + sector > bytes.length) throw syntax(`entry ${i} of ${entries} is missing`);
    const offset = Number(view.getBigUint64(at, true)) * sector;
    const length = Number(view.getBigUint64(at + 8, true)) * sector;
    const flags = view.getBigUint64(at + 16, true);
    const told = Number(view.getBigUint64(at + 24, true));
    const inline = at + ENTRY_BYTES;
    at += sector;
    if (flags & MARK) {
      recorder.mark(
        new TextDecoder().decode(bytes.subarray(inline, inline + told)).replace(/\0+$/, ''),
      );
      continue;
    }
    if (flags & FLUSH) run('flush', 0, 0, false);
    if (flags & DISCARD) {
      run('discard', offset, length, false);
    } else if (length > 0) {
      if (at + length > bytes.length) throw syntax(`the data of entry ${i} is missing`);
      run('write', offset, bytes.subarray(at, at + length), (flags & FUA) !== 0n);
      at += length;
    }
  }
  return recorder.trace;
}

/**
 * Writes a log of dm-log-writes, for its tools (replay-log) and for others that read it. Commands come in the order of
 * their completion; what failed, or was not answered, is left out, and reads are.
 *
 * @throws `INVALID_ARGUMENT` for a command that is not whole sectors of 512 bytes, and a mark that does not fit one
 */
export function writeLogWrites({ commands, marks }: DiskTrace): Uint8Array {
  const done = commands
    .filter(
      ({ op, failed, completed }) =>
        op !== 'read' && !failed && completed < Number.POSITIVE_INFINITY,
    )
    .map((command) => ({ time: command.completed, entry: entryOf(command) }));
  const told = marks.map(({ time, value }) => ({ time, entry: markOf(value) }));
  const entries = [...done, ...told].sort((a, b) => a.time - b.time).map(({ entry }) => entry);
  const head = new DataView(new ArrayBuffer(SECTOR));
  head.setBigUint64(0, MAGIC, true);
  head.setBigUint64(8, VERSION, true);
  head.setBigUint64(16, BigInt(entries.length), true);
  head.setUint32(24, SECTOR, true);
  return joined([new Uint8Array(head.buffer), ...entries]);
}

const SECTOR = 512;

function entryOf({ op, offset, length, fua, data }: DiskCommand): Uint8Array {
  if (offset % SECTOR !== 0 || length % SECTOR !== 0) {
    throw misuse(`a ${op} of ${length} bytes at ${offset} is not whole sectors`);
  }
  const flags = op === 'flush' ? FLUSH : op === 'discard' ? DISCARD : fua ? FUA : 0n;
  const header = headerOf(offset / SECTOR, length / SECTOR, flags, 0);
  if (op === 'flush' || op === 'discard') return header;
  return joined([header, data ?? new Uint8Array(length)]);
}

function markOf(value: unknown): Uint8Array {
  const text = new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
  if (text.length > SECTOR - ENTRY_BYTES) throw misuse('a mark does not fit into a sector');
  const header = headerOf(0, 0, MARK, text.length);
  header.set(text, ENTRY_BYTES);
  return header;
}

function headerOf(sector: number, sectors: number, flags: bigint, length: number): Uint8Array {
  const header = new DataView(new ArrayBuffer(SECTOR));
  for (const [i, word] of [BigInt(sector), BigInt(sectors), flags, BigInt(length)].entries()) {
    header.setBigUint64(8 * i, word, true);
  }
  return new Uint8Array(header.buffer);
}

function syntax(what: string, cause?: unknown): WriteBarrierError {
  return new WriteBarrierError('SYNTAX', `this is no trace: ${what}`, { cause });
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
