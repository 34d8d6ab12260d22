// Unflushed writes: every byte that was written and answered, and that no flush has covered since, with its newest
// content, so that it can be sent again. The server has accepted these bytes, and may still lose them.
//
//                      accept                       flushed
//   (not in the log) ──────────▶ accepted ─────────────────────────▶ (durable, not in the log)
//                                 │    ▲
//                            lose │    │ resent, or written anew (accept)
//                                 ▼    │
//                                 lost
//
// An entry is a range with its content. Entries never overlap: a later write takes its bytes away from earlier entries, so
// what is sent again is never older than what was read. Entries may therefore be sent again in any order: no two touch the
// same byte, and none had to be on the medium before another, because a client orders by waiting for a flush, and what a
// flush has covered is not in the log. They are sent in the order of acceptance nevertheless.
//
// Invariants, tested under these numbers:
//   L1  Entries are disjoint and in the order of their offsets; none is empty.
//   L2  A flush takes out what was accepted before it was sent, and nothing that was accepted later.
//   L3  A forced write takes its bytes out when it is answered, so that nothing older is ever sent over it. So does a
//       discard: its bytes may read as anything.
//   L4  The log costs at most `bytesMax`: bytes of data, and a constant for each entry. Zeroes have no data. The rest of a
//       partly overwritten entry keeps at most twice its size alive.
//   L5  Data is not copied: it belongs to the log from then on, and nothing else changes it.
//
// A log without data (`bytesMax` 0, or a server without flush) has ranges only: enough to say what is at risk, not enough to
// send it again. It makes its ranges coarser rather than grow, so it may report more bytes at risk than there are.
//
// Not here: when to send again, and what if that fails (in-flight.ts). Like the client of NFS, which keeps what it has
// written until a COMMIT (RFC 1813, section 3.3.21, on the write verifier).

import type { ByteRange } from 'write-barrier';

/** A range and its content. */
export interface UnflushedEntry {
  /** In bytes. */
  readonly start: number;
  /** In bytes, exclusive. */
  readonly end: number;
  /** As long as the range; undefined if the log keeps no data. */
  readonly content: Uint8Array | 'zeroes' | undefined;
  /** Its place in the order of acceptance. */
  readonly accepted: number;
  /** The server may have lost it. */
  lost: boolean;
}

/** The cost of an entry in addition to its data, in bytes; generous. */
const OVERHEAD = 128;
/** Maximum number of ranges without data. */
const RANGES_MAX = 4096;

/** The log of unflushed writes. */
export class Unflushed {
  /** The maximum cost of the log, in bytes; 0 for a log without data. */
  readonly bytesMax: number;
  #entries: UnflushedEntry[] = [];
  #bytes = 0;
  #accepted = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  /** In bytes (L4). */
  get cost(): number {
    return this.#bytes + this.#entries.length * OVERHEAD;
  }

  /** In the order of their offsets. */
  get entries(): readonly Readonly<UnflushedEntry>[] {
    return this.#entries;
  }

  /** Whether there is room for this much data. If not, the write needs a flush before it may be answered. */
  fits(length: number): boolean {
    // A write into the middle of an entry makes two of it.
    return this.bytesMax === 0 || this.cost + length + 2 * OVERHEAD <= this.bytesMax;
  }

  /** Adds a write that the server has answered. */
  accept(offset: number, length: number, content: Uint8Array | 'zeroes'): void {
    this.forget(offset, length);
    this.#accepted += 1;
    this.#insert({
      ...{ start: offset, end: offset + length, accepted: this.#accepted, lost: false },
      content: this.bytesMax === 0 ? undefined : content,
    });
  }

  /** Removes bytes that need not be sent again: they are durable, discarded, or about to be added anew. */
  forget(offset: number, length: number): void {
    const [start, end] = [offset, offset + length];
    const first = firstAfter(this.#entries, start);
    let last = first;
    const rest: UnflushedEntry[] = [];
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

  /** What a flush that is sent now covers. */
  mark(): number {
    return this.#accepted;
  }

  /** The flush that was sent at `mark` has succeeded (L2). No flush covers what is lost. */
  flushed(mark: number): void {
    this.#replace(this.#entries.filter(({ accepted, lost }) => lost || accepted > mark));
  }

  /** The server may have lost everything that it accepted: it was restarted, or its flush failed. */
  lose(): void {
    for (const entry of this.#entries) entry.lost = true;
  }

  /** The entries to send again, in the order of acceptance. */
  lost(): readonly UnflushedEntry[] {
    return this.#entries
      .filter(({ lost }) => lost)
      .sort((one, other) => one.accepted - other.accepted);
  }

  /** The server has answered everything that was sent again. */
  resent(): void {
    for (const entry of this.#entries) if (entry.content !== undefined) entry.lost = false;
  }

  /** Every byte in the log, as ranges that do not touch. */
  ranges(which: (entry: UnflushedEntry) => boolean = () => true): readonly ByteRange[] {
    const ranges: { start: number; end: number }[] = [];
    for (const entry of this.#entries) {
      if (!which(entry)) continue;
      const last = ranges.at(-1);
      if (last?.end === entry.start) last.end = entry.end;
      else ranges.push({ start: entry.start, end: entry.end });
    }
    return ranges;
  }

  #insert(entry: UnflushedEntry): void {
    this.#entries.splice(firstAfter(this.#entries, entry.start), 0, entry);
    this.#bytes += dataOf(entry);
    if (this.bytesMax === 0 && this.#entries.length > RANGES_MAX) this.#coarsen();
  }

  /** Joins each two neighbours, with the bytes between them. */
  #coarsen(): void {
    const coarse: UnflushedEntry[] = [];
    for (let i = 0; i < this.#entries.length; i += 2) {
      const one = this.#entries[i] as UnflushedEntry;
      const other = this.#entries[i + 1] ?? one;
      // Lost if either is, and covered when both are.
      const accepted = Math.max(one.accepted, other.accepted);
      coarse.push({ ...one, end: other.end, accepted, lost: one.lost || other.lost });
    }
    this.#replace(coarse);
  }

  #replace(entries: UnflushedEntry[]): void {
    this.#entries = entries;
    this.#bytes = entries.reduce((sum, entry) => sum + dataOf(entry), 0);
  }
}

/** The index of the first range that ends after `offset`. The ranges are disjoint, and in the order of their offsets. */
export function firstAfter(ranges: readonly ByteRange[], offset: number): number {
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle] as ByteRange).end <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

function dataOf({ content }: UnflushedEntry): number {
  return content instanceof Uint8Array ? content.length : 0;
}

/** A part of an entry. A small part is copied, because it would keep the whole buffer alive (L4). */
function part(entry: UnflushedEntry, start: number, end: number): UnflushedEntry {
  const { content } = entry;
  if (!(content instanceof Uint8Array)) return { ...entry, start, end };
  const view = content.subarray(start - entry.start, end - entry.start);
  const small = view.length * 2 < view.buffer.byteLength;
  return { ...entry, start, end, content: small ? new Uint8Array(view) : view };
}
