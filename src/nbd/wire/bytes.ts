// Bytes as they come from a socket, and as they are wanted: so many, or none yet.
//
// A reader keeps the chunks that it is fed, in order, and gives them out again by number of bytes. What lies in one
// chunk is given out without a copy; what lies in several is copied once (`take`), not at all (`takeParts`), or into
// a place of the caller's as it comes (`takeInto`). So nothing here costs more than its length, however the stream
// was cut up.
//
// A peer that sends single bytes would cost a chunk each. Small chunks are therefore copied together into blocks of
// 16 KiB, which keeps what the reader holds within a small factor of its length.
//
// Invariants, tested under these numbers:
//   B1  What is taken, put together, is what was pushed, in order, wherever the stream was cut.
//   B2  `take(n)` answers with exactly n bytes, or with undefined, and then nothing has changed.
//   B3  Bytes that were given out are never written to again by the reader.
//   B4  The reader never holds more than its capacity: a push beyond it throws and takes nothing.

import { WriteBarrierError } from 'write-barrier';

const BLOCK = 16 * 1024;
/** Shorter chunks are copied together. */
const SMALL = 4 * 1024;

/** Bytes in order, taken by number. */
export class ByteReader {
  /** The most that it holds, in bytes. */
  readonly capacity: number;
  readonly #chunks: Uint8Array[] = [];
  /** Chunks before this one are spent; bytes before `#at` in it are, too. */
  #first = 0;
  #at = 0;
  #length = 0;
  /** The block that takes small chunks; what of it is used and in the last chunk. */
  #block: Uint8Array | undefined;
  #start = 0;
  #used = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  /** What it holds, in bytes. */
  get length(): number {
    return this.#length;
  }

  /**
   * Adds bytes at the end. A chunk of 4 KiB or more is not copied: leave it alone from now on.
   *
   * @throws `QUEUE_FULL` beyond the capacity; nothing has been added
   */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    if (this.#length + chunk.length > this.capacity) {
      throw new WriteBarrierError('QUEUE_FULL', `more than ${this.capacity} bytes unread`);
    }
    this.#length += chunk.length;
    if (chunk.length < SMALL) {
      this.#pushSmall(chunk);
    } else {
      this.#block = undefined;
      this.#chunks.push(chunk);
    }
  }

  /** The next `length` bytes in one piece, or undefined while they are not all there. */
  take(length: number): Uint8Array | undefined {
    if (length > this.#length) return undefined;
    const head = this.#chunks[this.#first];
    if (length === 0 || !head) return new Uint8Array(0);
    const end = this.#at + length;
    if (end > head.length) {
      const bytes = new Uint8Array(length);
      this.takeInto(bytes);
      return bytes;
    }
    const bytes = head.subarray(this.#at, end);
    this.#spend(head, length);
    return bytes;
  }

  /** As `take`, in as many pieces as they came in, without a copy. */
  takeParts(length: number): readonly Uint8Array[] | undefined {
    if (length > this.#length) return undefined;
    const parts: Uint8Array[] = [];
    for (let missing = length; missing > 0; ) {
      const part = this.#takeSome(missing);
      parts.push(part);
      missing -= part.length;
    }
    return parts;
  }

  /** Moves as many bytes as there are and as `into` takes; says how many. */
  takeInto(into: Uint8Array): number {
    let moved = 0;
    while (moved < into.length && this.#length > 0) {
      const part = this.#takeSome(into.length - moved);
      into.set(part, moved);
      moved += part.length;
    }
    return moved;
  }

  /** Drops as many bytes as there are, `length` at the most; says how many. */
  skip(length: number): number {
    const skipped = Math.min(length, this.#length);
    for (let missing = skipped; missing > 0; ) missing -= this.#takeSome(missing).length;
    return skipped;
  }

  /** The next four bytes as a number, big endian, left where they are; undefined while they are not all there. */
  peekUint32(): number | undefined {
    if (this.#length < 4) return undefined;
    let value = 0;
    let index = this.#first;
    let at = this.#at;
    for (let i = 0; i < 4; i += 1) {
      while (at >= this.#sizeOf(index)) {
        index += 1;
        at = 0;
      }
      value = value * 256 + (this.#chunks[index]?.[at] ?? 0);
      at += 1;
    }
    return value;
  }

  #pushSmall(chunk: Uint8Array): void {
    let block = this.#block;
    if (!block || this.#used + chunk.length > block.length) {
      block = new Uint8Array(BLOCK);
      this.#block = block;
      this.#start = 0;
      this.#used = 0;
    }
    block.set(chunk, this.#used);
    // The last chunk is a view of what is used and not spent, so that nobody else need know about blocks.
    const last = this.#used === this.#start ? this.#chunks.length : this.#chunks.length - 1;
    this.#used += chunk.length;
    this.#chunks[last] = block.subarray(this.#start, this.#used);
  }

  /** Up to `length` bytes, as many as lie in one piece; there must be some. */
  #takeSome(length: number): Uint8Array {
    const head = this.#chunks[this.#first] as Uint8Array;
    const part = head.subarray(this.#at, this.#at + length);
    this.#spend(head, part.length);
    return part;
  }

  #spend(head: Uint8Array, length: number): void {
    this.#at += length;
    this.#length -= length;
    if (this.#length === 0) {
      this.#chunks.length = 0;
      this.#first = 0;
      this.#at = 0;
      // The rest of the block is still good, behind what was given out (B3).
      this.#start = this.#used;
      return;
    }
    if (this.#at < head.length) return;
    this.#at = 0;
    this.#first += 1;
    // Now and then, so that a spent chunk costs a constant.
    if (this.#first < 64 || this.#first * 2 < this.#chunks.length) return;
    this.#chunks.splice(0, this.#first);
    this.#first = 0;
  }

  #sizeOf(index: number): number {
    return this.#chunks[index]?.length ?? 0;
  }
}
