// The log of Linux' dm-log-writes target, which QEMU's blklogwrites driver writes as well, there and back.
//
// It keeps less than our own form (compact.ts). It is written in the order of completion: an entry is a write, a discard,
// a flush or a mark, or a flush and a write in one. What was in flight together cannot be told any more, so reading it
// makes a trace in which every command completes before the next one starts. What is asked of such a trace is what a
// missing flush costs, and that is what the log is for. Reads are not in it, and neither are failures.
//
// Source: drivers/md/dm-log-writes.c and Documentation/admin-guide/device-mapper/log-writes.rst of Linux.

import { WriteBarrierError } from '../../model/index.js';
import { joined } from '../../storage/bytes.js';
import { type DiskCommand, DiskRecorder, type DiskTrace } from './disk-trace.js';

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

function syntax(what: string): WriteBarrierError {
  return new WriteBarrierError('SYNTAX', `this is no trace: ${what}`);
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
