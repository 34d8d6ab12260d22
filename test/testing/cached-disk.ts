// A disk with a volatile cache that keeps the contract, for tests that break it. A command takes effect when it is
// called, so ordered tags hold; its answer comes some turns later, and answers overtake each other.

import { type Capabilities, type Storage, WriteBarrierError } from '../../src/index.js';
import { checkRange, checkSize } from '../../src/kit.js';

/** A disk, and its insides. */
export interface CachedDisk {
  readonly storage: Storage;
  /** What outlives `forget` and `close`. */
  readonly medium: Uint8Array;
  /** By number of block. What is on the medium already is not here. */
  readonly cache: Map<number, Uint8Array>;
  /** Puts a block on the medium and takes it out of the cache. */
  settle(block: number, bytes: Uint8Array): void;
  /** Empties the cache as a power cut would. */
  forget(): void;
  isOpen(): boolean;
}

/** Whatever a disk can do. */
export const EVERYTHING: Capabilities = {
  blockSize: 512,
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
  writev: true,
  discard: true,
  writeZeroes: true,
  blockStatus: true,
  resize: true,
};

export const BLOCKS = 24;

/** How many turns the answers take, one after the other. */
const TURNS = [3, 0, 5, 1, 0, 2, 4];

/** A disk over that medium, or over zeroes. */
export function cachedDisk(
  capabilities: Capabilities,
  given: Uint8Array = new Uint8Array(BLOCKS * capabilities.blockSize),
): CachedDisk {
  const {
    blockSize,
    cache: kind,
    writev,
    discard,
    writeZeroes,
    blockStatus,
    resize,
  } = capabilities;
  let medium = given;
  /** What commands find, and what has been answered. */
  let size = medium.length;
  let answered = size;
  const cache = new Map<number, Uint8Array>();
  let open = true;
  let commands = 0;

  const check = (offset: number, length: number): void => {
    if (!open) throw new WriteBarrierError('CLOSED', 'the disk is closed');
    checkRange({ size, capabilities }, offset, length);
  };
  const answer = async (): Promise<void> => {
    commands += 1;
    for (let turn = TURNS[commands % TURNS.length] ?? 0; turn > 0; turn -= 1) await null;
  };
  /** Gives the medium the size. */
  const settleSize = (): void => {
    const next = new Uint8Array(size);
    next.set(medium.subarray(0, size));
    medium = next;
  };
  const settle = (block: number, bytes: Uint8Array): void => {
    if ((block + 1) * blockSize > medium.length) settleSize();
    medium.set(bytes, block * blockSize);
    cache.delete(block);
  };
  const put = (offset: number, data: Uint8Array, fua: boolean): Promise<void> => {
    check(offset, data.length);
    for (let at = 0; at < data.length; at += blockSize) {
      const block = (offset + at) / blockSize;
      const bytes = data.slice(at, at + blockSize);
      if (fua || kind !== 'volatile') settle(block, bytes);
      else cache.set(block, bytes);
    }
    return answer();
  };

  const isZero = (at: number): boolean => {
    const bytes = cache.get(at / blockSize) ?? medium.subarray(at, at + blockSize);
    return bytes.every((byte) => byte === 0);
  };

  const storage: Storage = {
    get size() {
      return answered;
    },
    capabilities,
    read: (offset, into) => {
      check(offset, into.length);
      into.set(medium.subarray(offset, offset + into.length));
      for (let at = 0; at < into.length; at += blockSize) {
        const cached = cache.get((offset + at) / blockSize);
        if (cached) into.set(cached, at);
      }
      return answer();
    },
    write: (offset, data, { fua }) => put(offset, data, fua),
    flush: () => {
      check(0, 0);
      if (medium.length !== size) settleSize();
      for (const [block, bytes] of cache) settle(block, bytes);
      return answer();
    },
    close: () => {
      open = false;
      return answer();
    },
    ...(writev && { writev: (offset, data, { fua }) => put(offset, joined(data), fua) }),
    ...(discard && {
      discard: (offset, length) => put(offset, new Uint8Array(count(length)).fill(0xdd), false),
    }),
    ...(writeZeroes && {
      writeZeroes: (offset, length) => put(offset, new Uint8Array(count(length)), false),
    }),
    ...(blockStatus && {
      blockStatus: async (offset, length) => {
        check(offset, length);
        const zero = isZero(offset);
        let end = offset + blockSize;
        while (end < offset + length && isZero(end) === zero) end += blockSize;
        await answer();
        return [{ length: end - offset, hole: zero, zero }];
      },
    }),
    ...(resize && {
      resize: async (next: number) => {
        check(0, 0);
        checkSize({ capabilities }, next);
        const from = size;
        size = next;
        for (let at = next; at < from; at += blockSize) cache.delete(at / blockSize);
        const zero = new Uint8Array(blockSize);
        for (let at = from; at < next; at += blockSize) cache.set(at / blockSize, zero);
        if (kind !== 'volatile') {
          settleSize();
          cache.clear();
        }
        await answer();
        answered = size;
      },
    }),
  };
  const forget = (): void => {
    cache.clear();
    size = medium.length;
    answered = size;
  };
  return {
    ...{ storage, cache, settle, forget, isOpen: () => open },
    get medium() {
      return medium;
    },
  };
}

/** A list of buffers as one. */
export function joined(list: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(list));
}

function count(length: number): number {
  if (length >= 0) return length;
  throw new WriteBarrierError('OUT_OF_RANGE', `${length} bytes`);
}
