// The storage that needs nothing but memory: for tests, for examples, and as the plainest
// implementation of the contract (storage.ts) to read first.
//
// It keeps S1 to S9 by answering synchronously: a command has taken effect when its call returns,
// so none ever overlaps another, nothing is ever volatile, and tags, flushes and FUA hold
// trivially. Whatever it does not declare it refuses with EOPNOTSUPP, so that a caller who asks in
// spite of the capabilities is found out.
//
// What it does not do: lose anything, reorder anything, take time, or fail. Faults and latency come
// as wrappers.

import { type Tag, WriteBarrierError } from '../model/index.js';
import { totalLength } from './bytes.js';
import { checkRange, checkStorage } from './checks.js';
import type { Capabilities, FlushFlags, Storage, WriteFlags } from './storage.js';

/** How a `MemoryStorage` describes itself. */
export interface MemoryStorageOptions {
  /**
   * Replaces single capabilities, to state another device: `{ cache: 'volatile', fua: false }`. It
   * is only the statement that changes. Nothing here ever loses a byte.
   */
  readonly capabilities?: Partial<Capabilities>;
}

const DEFAULTS: Required<Capabilities> = Object.freeze({
  blockSize: 512,
  cache: 'none',
  flush: true,
  fua: true,
  orderedTags: true,
  writev: true,
  discard: true,
  writeZeroes: true,
});

/**
 * A storage in memory that answers synchronously. Commands take effect in the order of their calls,
 * one after another, which is why it honours ordered tags.
 */
export class MemoryStorage implements Storage {
  /** What a discarded byte reads as. Not zero, so that code which counts on zeroes is found out. */
  static readonly DISCARDED: number = 0xdd;

  readonly size: number;
  /** Frozen; the defaults, with what was replaced. */
  readonly capabilities: Required<Capabilities>;
  /**
   * What the storage holds, live, also after `close`. For looking, not for writing. Hand it to a
   * new `MemoryStorage` to open the same medium again.
   */
  readonly bytes: Uint8Array;

  declare readonly writev?: (
    offset: number,
    data: readonly Uint8Array[],
    flags: WriteFlags,
  ) => void;
  declare readonly discard?: (offset: number, length: number) => void;
  declare readonly writeZeroes?: (offset: number, length: number) => void;

  #closed = false;

  /**
   * @param medium the size in bytes, at least one block and whole blocks, all zero at first; or the
   *   bytes themselves, which are used in place and not copied
   * @throws `INVALID_STORAGE` for a size or a capability that no storage can have
   */
  constructor(medium: number | Uint8Array, options: MemoryStorageOptions = {}) {
    const capabilities = Object.freeze({ ...DEFAULTS, ...options.capabilities });
    this.capabilities = capabilities;
    this.bytes = typeof medium === 'number' ? allocate(medium) : medium;
    this.size = sizeOf(this.bytes);

    if (capabilities.writev) {
      this.writev = (offset, data, flags) => this.#writev(offset, data, flags);
    }
    if (capabilities.discard) {
      this.discard = (offset, length) => this.#fill(offset, length, MemoryStorage.DISCARDED);
    }
    if (capabilities.writeZeroes) {
      this.writeZeroes = (offset, length) => this.#fill(offset, length, 0);
    }
    checkStorage(this);
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED` */
  read(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length);
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `EOPNOTSUPP` for a flag not declared */
  write(offset: number, data: Uint8Array, flags: WriteFlags): void {
    this.#check(offset, data.length);
    this.#checkFlags(flags.tag, flags.fua);
    this.bytes.set(data, offset);
  }

  /** @throws `CLOSED`; `EOPNOTSUPP` where it declares no flush, or no ordered tags */
  flush(flags: FlushFlags): void {
    this.#checkOpen();
    this.#checkFlags(flags.tag, false);
    if (!this.capabilities.flush) throw refusal('a flush');
  }

  /** After it every call throws `CLOSED`; a second `close` does nothing. */
  close(): void {
    this.#closed = true;
  }

  #writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): void {
    this.#check(offset, totalLength(data));
    this.#checkFlags(flags.tag, flags.fua);
    let at = offset;
    for (const piece of data) {
      this.bytes.set(piece, at);
      at += piece.length;
    }
  }

  #fill(offset: number, length: number, value: number): void {
    this.#check(offset, length);
    this.bytes.fill(value, offset, offset + length);
  }

  #check(offset: number, length: number): void {
    this.#checkOpen();
    checkRange(this, offset, length);
  }

  #checkOpen(): void {
    if (this.#closed) throw new WriteBarrierError('CLOSED', 'the storage is closed');
  }

  #checkFlags(tag: Tag, fua: boolean): void {
    if (fua && !this.capabilities.fua) throw refusal('FUA');
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw refusal('an ordered tag');
  }
}

function refusal(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `${what} is not among the storage's capabilities`);
}

function allocate(size: number): Uint8Array {
  try {
    return new Uint8Array(size);
  } catch (cause) {
    throw new WriteBarrierError('INVALID_STORAGE', `no memory has ${size} bytes`, { cause });
  }
}

function sizeOf(bytes: Uint8Array): number {
  if (bytes instanceof Uint8Array && bytes.length > 0) return bytes.length;
  throw new WriteBarrierError('INVALID_STORAGE', 'neither a size above 0 nor a Uint8Array');
}
