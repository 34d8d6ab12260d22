// Bytes for a socket, collected until they are sent together.
//
// Short messages lie one behind the other in blocks, so that the replies of a turn are one piece, and one write of the socket:
// a piece costs more than the 16 bytes of a reply. Long data is not copied and is a piece of its own.
//
//   W1  The pieces taken are the bytes added, in order.
//   W2  What was given out is never written to again, because a socket may hold it until the peer takes it.

import { type Layout, sizeOf, viewOf } from './layout.js';

const BLOCK = 16 * 1024;
/** Data from this length on is not copied. */
const LONG = 4 * 1024;

/** What is to be sent. */
export class ByteWriter {
  #pieces: Uint8Array[] = [];
  #length = 0;
  /** The block for what is short; the part of it that is in no piece yet. */
  #block = new Uint8Array(0);
  #view = viewOf(this.#block);
  #start = 0;
  #used = 0;

  /** Bytes that were added and not taken. */
  get length(): number {
    return this.#length;
  }

  /** Adds a message, which is encoded in its place. */
  put<T>(layout: Layout<T>, value: T): void {
    const size = sizeOf(layout, value);
    this.#makeRoom(size);
    layout.put(this.#view, this.#used, value);
    this.#used += size;
    this.#length += size;
  }

  /** Adds bytes, which must not be changed from now on. */
  push(bytes: Uint8Array): void {
    const size = bytes.length;
    if (size < LONG) {
      this.#makeRoom(size);
      this.#block.set(bytes, this.#used);
      this.#used += size;
    } else {
      this.#cut();
      this.#pieces.push(bytes);
    }
    this.#length += size;
  }

  /** What was added, in pieces that follow each other. */
  take(): readonly Uint8Array[] {
    this.#cut();
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#length = 0;
    return pieces;
  }

  #makeRoom(size: number): void {
    if (this.#used + size <= this.#block.length) return;
    this.#cut();
    this.#block = new Uint8Array(Math.max(BLOCK, size));
    this.#view = viewOf(this.#block);
    this.#start = 0;
    this.#used = 0;
  }

  /** W2: what is in the block becomes a piece, and what comes is written behind it. */
  #cut(): void {
    if (this.#start === this.#used) return;
    this.#pieces.push(new Uint8Array(this.#block.buffer, this.#start, this.#used - this.#start));
    this.#start = this.#used;
  }
}
