// Bytes as a socket delivers them, taken by number.
//
// A reader keeps the chunks that it is fed, in order, and gives them out by number of bytes. Bytes of one chunk are given out
// without a copy; bytes of several are copied once (`take`), not at all (`takeParts`), or straight into a buffer of the
// caller (`takeInto`). So nothing costs more than its length, however the stream was cut. A value that lies in one chunk is
// decoded where it lies (`takeValue`), because every request does, and a view of its bytes costs more than their decoding.
//
// Single bytes would cost a chunk each. Small chunks are therefore copied together into blocks of 16 KiB, so that the memory
// of the reader stays within a small factor of its length. A block is filled before the next one is made, even if long
// chunks come in between. A small chunk waits with its copy for the next chunk, because most are taken before that.
//
// Invariants, tested under these numbers:
//   B1  The bytes taken are the bytes pushed, in order, wherever the stream was cut.
//   B2  `take(n)` returns exactly n bytes, or undefined, and then nothing has changed.
//   B3  The reader never writes to bytes that it has given out.
//   B4  The reader never holds more than its capacity: a push beyond it throws and adds nothing.
//   B5  Its memory is at most its length, a block, the buffer of one small chunk, and a view for each chunk of 4 KiB or more
//       and for each run of shorter ones.

import { WriteBarrierError } from 'write-barrier';
import { Input, type Layout } from './layout.js';

const BLOCK = 16 * 1024;
/** Shorter chunks are copied together. */
const SMALL = 4 * 1024;

/** A queue of bytes. */
export class ByteReader {
  /** The most that it may hold, in bytes. */
  readonly capacity: number;
  readonly #chunks: Uint8Array[] = [];
  /** Chunks before this one are spent; bytes before `#at` in it are, too. */
  #first = 0;
  #at = 0;
  #length = 0;
  /** The block for small chunks; the part of it that is the last chunk. */
  #block: Uint8Array | undefined;
  #start = 0;
  #used = 0;
  /** The only chunk is small, and not copied yet. */
  #loose = false;
  /** Decodes values in the first chunk. */
  #input: Input | undefined;

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  /** In bytes. */
  get length(): number {
    return this.#length;
  }

  /**
   * Adds bytes at the end. They must not be changed from now on, because not all of them are copied.
   *
   * @throws `QUEUE_FULL` beyond the capacity; nothing has been added
   */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    if (this.#length + chunk.length > this.capacity) {
      throw new WriteBarrierError(
        'QUEUE_FULL',
        `${this.#length + chunk.length} bytes would be unread; at most ${this.capacity} are allowed`,
      );
    }
    const isFirst = this.#length === 0;
    this.#length += chunk.length;
    if (isFirst) {
      this.#chunks.push(chunk);
      this.#loose = chunk.length < SMALL;
      return;
    }
    if (this.#loose) this.#copyLoose();
    if (chunk.length < SMALL) {
      this.#pushSmall(chunk);
    } else {
      this.#chunks.push(chunk);
      // B5: the next small chunk has a view of its own, in the same block.
      this.#start = this.#used;
    }
  }

  /** The next `length` bytes in one piece; undefined while there are fewer. */
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
    return this.#spent(head, length);
  }

  /** As `take`, for a value of a fixed size. */
  takeValue<T>(layout: Layout<T>): T | undefined {
    const { bytes } = layout;
    if (bytes > this.#length) return undefined;
    const head = this.#chunks[this.#first] as Uint8Array;
    if (this.#at + bytes > head.length) return layout.decode(this.take(bytes) as Uint8Array);
    if (this.#input?.bytes !== head) this.#input = new Input(head);
    this.#input.seek(this.#at);
    const value = layout.take(this.#input);
    this.#spend(head, bytes);
    return value;
  }

  /** As `take`, in as many pieces as they came in, without a copy. */
  takeParts(length: number): readonly Uint8Array[] | undefined {
    if (length > this.#length) return undefined;
    if (length === 0) return [];
    // Mostly one, and a list of one takes less memory than a list that may grow.
    const first = this.#takeSome(length);
    const parts = [first];
    for (let missing = length - first.length; missing > 0; ) {
      const part = this.#takeSome(missing);
      parts.push(part);
      missing -= part.length;
    }
    return parts;
  }

  /** Moves as many bytes as there are, and as fit into `into`; returns how many. */
  takeInto(into: Uint8Array): number {
    let moved = 0;
    while (moved < into.length && this.#length > 0) {
      const part = this.#takeSome(into.length - moved);
      into.set(part, moved);
      moved += part.length;
    }
    return moved;
  }

  /** Drops as many bytes as there are, at most `length`; returns how many. */
  skip(length: number): number {
    const skipped = Math.min(length, this.#length);
    for (let missing = skipped; missing > 0; ) missing -= this.#takeSome(missing).length;
    return skipped;
  }

  /** The next four bytes as a number, big endian, without taking them; undefined while there are fewer. */
  peekUint32(): number | undefined {
    if (this.#length < 4) return undefined;
    let value = 0;
    let at = this.#at;
    for (let index = this.#first, missing = 4; missing > 0; index += 1, at = 0) {
      const chunk = this.#chunks[index] as Uint8Array;
      for (; at < chunk.length && missing > 0; at += 1, missing -= 1) {
        value = value * 256 + (chunk[at] as number);
      }
    }
    return value;
  }

  /** B5: copies what is left of a small chunk into the block. */
  #copyLoose(): void {
    const rest = this.#chunks.pop() as Uint8Array;
    this.#loose = false;
    this.#start = this.#used;
    this.#pushSmall(rest.subarray(this.#at));
    this.#at = 0;
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
    // The last chunk is a view of the part in use, so that no other method needs to know about blocks.
    const last = this.#used === this.#start ? this.#chunks.length : this.#chunks.length - 1;
    this.#used += chunk.length;
    this.#chunks[last] = block.subarray(this.#start, this.#used);
  }

  /** Up to `length` bytes, as many as lie in one chunk. The reader must not be empty. */
  #takeSome(length: number): Uint8Array {
    const head = this.#chunks[this.#first] as Uint8Array;
    return this.#spent(head, Math.min(length, head.length - this.#at));
  }

  /** A view of the next `length` bytes, which lie in `head`. Not by `subarray`, because that of a `Buffer` is slow. */
  #spent(head: Uint8Array, length: number): Uint8Array {
    const bytes = new Uint8Array(head.buffer, head.byteOffset + this.#at, length);
    this.#spend(head, length);
    return bytes;
  }

  #spend(head: Uint8Array, length: number): void {
    this.#at += length;
    this.#length -= length;
    if (this.#length === 0) {
      // Not by its length, because V8 would then make a new store for the next chunk.
      while (this.#chunks.length > 0) this.#chunks.pop();
      this.#first = 0;
      this.#at = 0;
      this.#input = undefined;
      // The rest of the block can still be used, after what was given out (B3).
      this.#start = this.#used;
      return;
    }
    if (this.#at < head.length) return;
    this.#at = 0;
    this.#first += 1;
    // Rarely, so that a spent chunk costs a constant.
    if (this.#first < 64 || this.#first * 2 < this.#chunks.length) return;
    this.#chunks.splice(0, this.#first);
    this.#first = 0;
  }
}
