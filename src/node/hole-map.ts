// What a FileStorage knows of the holes of its file. Node cannot ask the system for them (it has no SEEK_HOLE), so only those are
// known that this storage has made: the bytes that it added to the file, and those that it trimmed. Its size is that of the file.
//
//   H1  A chunk is marked only while all of its bytes read as zero and no write to any of them has begun.
//   H2  The map has at most CHUNKS_MAX marks, whatever the size of the file and however it is written. So the chunks of a large
//       file are large, and a chunk that is written in part counts as data.
//
// It holds only as long as no one else writes the file, so a storage without a lock has none.

import type { Extent } from 'write-barrier';
import { invariant } from 'write-barrier/kit';

/** The smallest chunk, in bytes, if the blocks are not larger. */
const CHUNK_MIN = 64 * 1024;
/** Marks of one map: 128 KiB of memory. */
const CHUNKS_MAX = 2 ** 20;
/** Extents of one answer, because the caller may ask again for the rest. */
const EXTENTS_MAX = 4096;

/** The chunks of a file that are known to be holes. */
export class HoleMap {
  #size: number;
  #chunk: number;
  /** A bit for each chunk; those after the end of the file mean nothing. */
  #marks: Uint8Array;

  /**
   * @param size of the file in bytes
   * @param blockSize in bytes; extents are whole blocks
   */
  constructor(size: number, blockSize: number) {
    let chunk = blockSize;
    while (chunk < CHUNK_MIN || size / chunk > CHUNKS_MAX) chunk *= 2;
    this.#size = size;
    this.#chunk = chunk;
    this.#marks = new Uint8Array(Math.ceil(size / chunk / 8));
  }

  /** Marks the chunks that lie in these bytes as a whole (H1). The last one ends with the file. */
  add(start: number, end: number): void {
    const last = end === this.#size ? Math.ceil(end / this.#chunk) : Math.floor(end / this.#chunk);
    this.#set(Math.ceil(start / this.#chunk), last, true);
  }

  /** A write to these bytes begins. */
  remove(start: number, end: number): void {
    this.#set(Math.floor(start / this.#chunk), Math.ceil(end / this.#chunk), false);
  }

  /** The file has a new size; what was added is a hole. */
  resize(size: number): void {
    while (size / this.#chunk > CHUNKS_MAX) this.#joinPairs();
    const bytes = Math.ceil(size / this.#chunk / 8);
    if (bytes > this.#marks.length) {
      // Twice as many, because a log grows often.
      const marks = new Uint8Array(Math.min(2 * bytes, CHUNKS_MAX / 8));
      marks.set(this.#marks);
      this.#marks = marks;
    }
    const from = this.#size;
    this.#size = size;
    // Of the chunk in which the old end was, only a part is new.
    if (size > from) this.add(Math.ceil(from / this.#chunk) * this.#chunk, size);
  }

  /** Chunks of twice the size (H2). One is a hole if both of its halves are, or its first one where the file ends there. */
  #joinPairs(): void {
    const count = Math.ceil(this.#size / this.#chunk);
    const marks = new Uint8Array(this.#marks.length);
    for (let at = 0; at < count; at += 2) {
      const isHole = this.#has(at) && (at + 1 === count || this.#has(at + 1));
      if (isHole) (marks[at >>> 4] as number) |= 1 << ((at >>> 1) & 7);
    }
    this.#marks = marks;
    this.#chunk *= 2;
  }

  /** The extents of a range that is not empty, up to a limit of their number. */
  extents(offset: number, length: number): readonly Extent[] {
    const end = offset + length;
    const found: Extent[] = [];
    for (let at = offset; at < end && found.length < EXTENTS_MAX; ) {
      const hole = this.#has(Math.floor(at / this.#chunk));
      let next = at;
      while (next < end && this.#has(Math.floor(next / this.#chunk)) === hole) {
        next = Math.min((Math.floor(next / this.#chunk) + 1) * this.#chunk, end);
      }
      found.push({ length: next - at, hole, zero: hole });
      at = next;
    }
    invariant(found.length > 0, 'storage.S12');
    return found;
  }

  #has(chunk: number): boolean {
    return ((this.#marks[chunk >>> 3] as number) & (1 << (chunk & 7))) !== 0;
  }

  #set(first: number, end: number, marked: boolean): void {
    for (let chunk = first; chunk < end; chunk += 1) {
      // Whole bytes at once, because a trim may span terabytes.
      if ((chunk & 7) === 0 && end - chunk >= 8) {
        const bytes = (end - chunk) >>> 3;
        this.#marks.fill(marked ? 0xff : 0, chunk >>> 3, (chunk >>> 3) + bytes);
        chunk += bytes * 8 - 1;
      } else if (marked) (this.#marks[chunk >>> 3] as number) |= 1 << (chunk & 7);
      else (this.#marks[chunk >>> 3] as number) &= ~(1 << (chunk & 7));
    }
  }
}
