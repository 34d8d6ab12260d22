// Two disks for experiments: one that forgets, and one that lies.

import { setTimeout } from 'node:timers/promises';
import type { Storage } from 'write-barrier';
import { seededRandom } from 'write-barrier/testing';

/** What the cache holds, in bytes, before writes have to go past it. */
const CACHE_BYTES = 16 << 20;
/** How long a flush takes, as on a disk, so that a test can catch an answer that comes too early. */
const FLUSH_MS = 5;

/**
 * The storage behind a volatile cache, in the memory of this process: a flush writes it out, and SIGKILL empties it. Some
 * writes go straight to the storage, before others that wait, as in any disk. It is for one scheduler, which has at most one
 * flush at the storage.
 */
export function volatileCache(storage: Storage, seed = 1): Storage {
  const { size, capabilities } = storage;
  const { blockSize } = capabilities;
  const random = seededRandom(seed);
  /** By offset. */
  const cached = new Map<number, Uint8Array>();
  /** Writes on their way past the cache. */
  const passing = new Set<Promise<unknown>>();
  let flushing = false;
  const plain = { tag: 'simple', fua: false } as const;

  return {
    size,
    // A forced write is left to the scheduler: it is a write and a flush.
    capabilities: { blockSize, cache: 'volatile', flush: true, fua: false, orderedTags: false },

    async read(offset, into) {
      await whole(storage.read(offset, into), into.length);
      for (let at = 0; at < into.length; at += blockSize) {
        const block = cached.get(offset + at);
        if (block) into.set(block, at);
      }
    },

    async write(offset, data) {
      const full = cached.size * blockSize >= CACHE_BYTES;
      // A flush is writing out what was there when it began; nothing may overtake it to the same place.
      if (flushing || (!full && random() < 0.7)) {
        for (let at = 0; at < data.length; at += blockSize) {
          cached.set(offset + at, data.slice(at, at + blockSize));
        }
        return;
      }
      const pass = async (): Promise<void> => {
        await whole(storage.write(offset, data, plain), data.length);
        for (let at = 0; at < data.length; at += blockSize) cached.delete(offset + at);
      };
      const passed = pass();
      passing.add(passed);
      try {
        await passed;
      } finally {
        passing.delete(passed);
      }
    },

    async flush(flags) {
      flushing = true;
      try {
        await setTimeout(FLUSH_MS);
        await Promise.allSettled(passing);
        const covered = [...cached];
        await Promise.all(
          covered.map(async ([offset, block]) =>
            whole(storage.write(offset, block, plain), block.length),
          ),
        );
        await storage.flush(flags);
        for (const [offset, block] of covered) {
          if (cached.get(offset) === block) cached.delete(offset);
        }
      } finally {
        flushing = false;
      }
    },

    close: () => storage.close(),
  };
}

/** What a storage without the optional methods says of them. */
const NOT_PASSED_ON = {
  writev: false,
  discard: false,
  writeZeroes: false,
  fastZeroes: false,
  blockStatus: false,
  resize: false,
} as const;

/** A storage that answers every flush, and does none. */
export function ignoringFlushes(storage: Storage): Storage {
  const { size, capabilities } = storage;
  return {
    size,
    capabilities: { ...capabilities, ...NOT_PASSED_ON },
    read: (offset, into) => storage.read(offset, into),
    write: (offset, data, { tag }) => storage.write(offset, data, { tag, fua: false }),
    flush: () => {},
    close: () => storage.close(),
  };
}

async function whole(moved: ReturnType<Storage['read']>, length: number): Promise<void> {
  const bytes = await moved;
  if (typeof bytes === 'number' && bytes !== length) throw new Error('a transfer came short');
}
