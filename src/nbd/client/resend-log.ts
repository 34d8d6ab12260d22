// What the server has accepted and may still lose: every byte written and answered that no flush has covered since,
// with its newest content, so that it can be sent again.
//
//                      accept                       flushed
//   (not in the log) ──────────▶ accepted ─────────────────────────▶ (durable, not in the log)
//                                 │    ▲
//                            lose │    │ resent, or written anew (accept)
//                                 ▼    │
//                                 lost
//
// An entry is a range with what is to be there. Entries never overlap: what is written later takes its bytes away from
// what was written before, and so what is sent again is never older than what was read. That makes the order of sending
// again free, too: no two entries touch the same byte, and nothing in the log had to be on the medium before anything
// else in it, because an order is made by waiting for a flush, and what a flush has covered is not in the log. It is
// sent in the order of acceptance all the same.
//
// Invariants, tested under these numbers:
//   L1  Entries are disjoint and in the order of their offsets; none is empty.
//   L2  A flush takes out what was accepted before it was sent, and nothing that was accepted later.
//   L3  A forced write takes its bytes out when it is answered, so that nothing older is ever sent over it. So does a
//       discard: its bytes may read as anything.
//   L4  What is held costs at most `bytesMax`: bytes of data, and a constant for each entry. Zeroes have no data. What is
//       left of an entry that was partly overwritten keeps at most as much again alive.
//   L5  Data is a copy; nobody else's buffer is kept.
//
// A log that keeps no data (`bytesMax` 0, or a server without a flush) has ranges only: enough to say what is at risk,
// not enough to send it again. It makes its ranges coarser rather than grow: what is said to be at risk may then be more
// than what is.
//
// Not here: when to send again, and what if that fails (exchange.ts). Like the client of NFS, which keeps what it has
// written until a COMMIT (RFC 1813, section 3.3.21, on the write verifier).

import type { ByteRange } from 'write-barrier';
import { joined } from '../wire/index.js';

/** What is to be at a range. */
export interface LogEntry {
  /** In bytes. */
  readonly start: number;
  /** In bytes, exclusive. */
  readonly end: number;
  /** As long as the range; undefined where the log keeps no data. */
  readonly content: Uint8Array | 'zeroes' | undefined;
  /** Its place in the order of acceptance. */
  readonly accepted: number;
  /** The server may not have it any more. */
  lost: boolean;
}

/** What an entry costs besides its data, in bytes; generous. */
const OVERHEAD = 128;
/** Of ranges without data there are never more. */
const RANGES_MAX = 4096;

/** See the head of this file. */
export class ResendLog {
  /** The most that the log may cost; 0 for a log without data. */
  readonly bytesMax: number;
  #entries: LogEntry[] = [];
  #bytes = 0;
  #accepted = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  /** What is held, in bytes (L4). */
  get cost(): number {
    return this.#bytes + this.#entries.length * OVERHEAD;
  }

  /** In the order of their offsets. For looking. */
  get entries(): readonly Readonly<LogEntry>[] {
    return this.#entries;
  }

  /** Whether so much data can be taken in. Without, the write needs a flush before it may be answered. */
  fits(length: number): boolean {
    // A write into the middle of an entry makes two of it.
    return this.bytesMax === 0 || this.cost + length + 2 * OVERHEAD <= this.bytesMax;
  }

  /** The server has answered a write. Its bytes are copied. */
  accept(offset: number, length: number, content: readonly Uint8Array[] | 'zeroes'): void {
    this.forget(offset, length);
    this.#accepted += 1;
    const data = content === 'zeroes' ? content : joined(content, length);
    this.#insert({
      ...{ start: offset, end: offset + length, accepted: this.#accepted, lost: false },
      content: this.bytesMax === 0 ? undefined : data,
    });
  }

  /** These bytes need not be sent again: they are durable, or given up, or about to be accepted anew. */
  forget(offset: number, length: number): void {
    const [start, end] = [offset, offset + length];
    const first = this.#firstBehind(start);
    let last = first;
    const rest: LogEntry[] = [];
    for (; ; last += 1) {
      const entry = this.#entries[last];
      if (!entry || entry.start >= end) break;
      this.#bytes -= dataOf(entry);
      if (entry.start < start) rest.push(part(entry, entry.start, start));
      if (entry.end > end) rest.push(part(entry, end, entry.end));
    }
    if (last === first) return;
    for (const entry of rest) this.#bytes += dataOf(entry);
    this.#entries.splice(first, last - first, ...rest);
  }

  /** To be taken when a flush is sent: it covers what is accepted by now. */
  mark(): number {
    return this.#accepted;
  }

  /** The flush that was sent at `mark` has succeeded (L2). What is lost no flush can cover. */
  flushed(mark: number): void {
    this.#replace(this.#entries.filter(({ accepted, lost }) => lost || accepted > mark));
  }

  /** The server may have lost all that it has accepted: it was restarted, or a flush of it failed. */
  lose(): void {
    for (const entry of this.#entries) entry.lost = true;
  }

  /** What is to be sent again, in the order of acceptance. */
  lost(): readonly LogEntry[] {
    return this.#entries
      .filter(({ lost }) => lost)
      .sort((one, other) => one.accepted - other.accepted);
  }

  /** The server has answered all that was lost and has been sent again. */
  resent(): void {
    for (const entry of this.#entries) if (entry.content !== undefined) entry.lost = false;
  }

  /** Every byte in the log, as ranges that do not touch. */
  ranges(which: (entry: LogEntry) => boolean = () => true): readonly ByteRange[] {
    const ranges: { start: number; end: number }[] = [];
    for (const entry of this.#entries) {
      if (!which(entry)) continue;
      const last = ranges.at(-1);
      if (last?.end === entry.start) last.end = entry.end;
      else ranges.push({ start: entry.start, end: entry.end });
    }
    return ranges;
  }

  #insert(entry: LogEntry): void {
    this.#entries.splice(this.#firstBehind(entry.start), 0, entry);
    this.#bytes += dataOf(entry);
    if (this.bytesMax === 0 && this.#entries.length > RANGES_MAX) this.#coarsen();
  }

  /** Makes one of each two neighbours, with what lies between them. */
  #coarsen(): void {
    const coarse: LogEntry[] = [];
    for (let i = 0; i < this.#entries.length; i += 2) {
      const one = this.#entries[i] as LogEntry;
      const other = this.#entries[i + 1] ?? one;
      // As lost as either, and covered when both are.
      const accepted = Math.max(one.accepted, other.accepted);
      coarse.push({ ...one, end: other.end, accepted, lost: one.lost || other.lost });
    }
    this.#replace(coarse);
  }

  #replace(entries: LogEntry[]): void {
    this.#entries = entries;
    this.#bytes = entries.reduce((sum, entry) => sum + dataOf(entry), 0);
  }

  /** Where the first entry is that ends behind `offset`. */
  #firstBehind(offset: number): number {
    let [low, high] = [0, this.#entries.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#entries[middle] as LogEntry).end <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function dataOf({ content }: LogEntry): number {
  return content instanceof Uint8Array ? content.length : 0;
}

/** A part of an entry. A small one does not keep the whole buffer alive, or L4 would be a lie. */
function part(entry: LogEntry, start: number, end: number): LogEntry {
  const { content } = entry;
  if (!(content instanceof Uint8Array)) return { ...entry, start, end };
  const view = content.subarray(start - entry.start, end - entry.start);
  const small = view.length * 2 < view.buffer.byteLength;
  return { ...entry, start, end, content: small ? new Uint8Array(view) : view };
}
