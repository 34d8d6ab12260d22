// Storages that break the contract, one clause each as far as that goes: what the suite must find.

import type { Capabilities, Storage, WriteFlags } from '../../src/index.js';
import { checkSize } from '../../src/kit.js';
import { type CachedDisk, EVERYTHING, joined } from './cached-disk.js';

/** What is wrong with a storage, and which clause says so. */
export interface Broken {
  readonly clause: string;
  /** Begins a sentence about the storage: "... and it". */
  readonly how: string;
  /** What it declares, besides everything. */
  readonly declares?: Partial<Capabilities>;
  /** Stands in for those members of a disk's storage; getters are taken as such. */
  readonly instead: (disk: CachedDisk) => Partial<Storage>;
}

const B = EVERYTHING.blockSize;
const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** In the order of the clauses. */
export const BROKEN: readonly Broken[] = [
  {
    clause: 'S1',
    how: 'reads past its own cache',
    instead: ({ medium }) => ({
      read: (offset, into) => into.set(medium.subarray(offset, offset + into.length)),
    }),
  },
  {
    clause: 'S1',
    how: 'takes the memory around a buffer for the buffer',
    instead: ({ storage }) => ({
      write: (offset, { buffer, length }, flags) =>
        storage.write(offset, new Uint8Array(buffer, 0, length), flags),
    }),
  },
  {
    clause: 'S1',
    how: 'believes that zeroes are there where something was discarded',
    instead: ({ storage }) => {
      const gone = new Set<number>();
      const blocks = (offset: number, length: number): number[] =>
        Array.from({ length: length / B }, (_, index) => offset / B + index);
      return {
        write: (offset, data, flags) => {
          for (const block of blocks(offset, data.length)) gone.delete(block);
          return storage.write(offset, data, flags);
        },
        writev: (offset, data, flags) => {
          for (const block of blocks(offset, joined(data).length)) gone.delete(block);
          return storage.writev?.(offset, data, flags);
        },
        discard: (offset, length) => {
          if (length > 0) for (const block of blocks(offset, length)) gone.add(block);
          return storage.discard?.(offset, length);
        },
        writeZeroes: async (offset, length) => {
          if (!(offset >= 0) || length < 0 || (offset + length) % B || offset + length > 24 * B) {
            return storage.writeZeroes?.(offset, length);
          }
          for (const block of blocks(offset, length)) {
            if (!gone.has(block)) await storage.writeZeroes?.(block * B, B);
          }
        },
      };
    },
  },
  {
    clause: 'S2',
    how: 'keeps the buffer of a write instead of a copy',
    instead: ({ storage, cache }) => ({
      write: async (offset, data, flags) => {
        await storage.write(offset, data, flags);
        if (flags.fua) return;
        for (let at = 0; at < data.length; at += B) {
          cache.set((offset + at) / B, data.subarray(at, at + B));
        }
      },
    }),
  },
  {
    clause: 'S2',
    how: 'keeps the buffers of a writev instead of copies',
    instead: ({ storage, cache }) => ({
      writev: async (offset, data, flags) => {
        await storage.writev?.(offset, data, flags);
        if (data[0]?.length === B && !flags.fua) cache.set(offset / B, data[0]);
      },
    }),
  },
  {
    clause: 'S2',
    how: 'fills the buffer of the last read again when it writes',
    instead: ({ storage }) => {
      let last = new Uint8Array(0);
      return {
        read: (offset, into) => {
          last = into as Uint8Array<ArrayBuffer>;
          return storage.read(offset, into);
        },
        write: (offset, data, flags) => {
          last.set(data.subarray(0, last.length));
          return storage.write(offset, data, flags);
        },
      };
    },
  },
  {
    clause: 'S3',
    how: 'claims a full read and leaves the last of many blocks',
    instead: ({ storage }) => ({
      read: async (offset, into) => {
        await storage.read(offset, into.length > 4 * B ? into.subarray(0, -B) : into);
        return into.length;
      },
    }),
  },
  {
    clause: 'S3',
    how: 'writes four blocks at most, and says so',
    instead: ({ storage }) => ({
      write: async (offset, data, flags) => {
        await storage.write(offset, data.subarray(0, 4 * B), flags);
        return Math.min(data.length, 4 * B);
      },
    }),
  },
  {
    clause: 'S3',
    how: 'counts blocks where it should count bytes',
    instead: ({ storage }) => ({
      read: async (offset, into) => {
        await storage.read(offset, into);
        return into.length / B;
      },
    }),
  },
  {
    clause: 'S3',
    how: 'leaves all but the first 1024 buffers of a writev',
    instead: ({ storage }) => ({
      writev: (offset, data, flags) => {
        const bytes = joined(data);
        bytes.fill(0, joined(data.slice(0, 1024)).length);
        return storage.write(offset, bytes, flags);
      },
    }),
  },
  {
    clause: 'S4',
    how: 'has one buffer for all reads that run',
    instead: ({ storage }) => {
      const scratch = new Uint8Array(64 * B);
      return {
        read: async (offset, into) => {
          await storage.read(offset, scratch.subarray(0, into.length));
          await tick();
          into.set(scratch.subarray(0, into.length));
        },
      };
    },
  },
  {
    clause: 'S4',
    how: 'empties its cache when a flush ends, whatever came meanwhile',
    instead: ({ storage, cache }) => ({
      flush: async (flags) => {
        await storage.flush(flags);
        await tick();
        cache.clear();
      },
    }),
  },
  {
    clause: 'S4',
    how: 'fails when more than eight commands run',
    instead: ({ storage }) => {
      let running = 0;
      return {
        write: async (offset, data, flags) => {
          running += 1;
          try {
            if (running > 8) throw new Error('busy');
            await tick();
            await storage.write(offset, data, flags);
          } finally {
            running -= 1;
          }
        },
      };
    },
  },
  {
    clause: 'S5',
    how: 'answers a flush and does nothing',
    instead: ({ isOpen }) => ({
      flush: () => {
        if (!isOpen()) throw new Error('closed');
      },
    }),
  },
  {
    clause: 'S5',
    how: 'answers a flush before it is done',
    instead: ({ storage, isOpen }) => ({
      flush: (flags) => {
        if (!isOpen()) throw new Error('closed');
        setTimeout(() => void (isOpen() && storage.flush(flags)), 5);
      },
    }),
  },
  {
    clause: 'S5',
    how: 'loses what it was to flush',
    instead: ({ cache, isOpen }) => ({
      flush: () => {
        if (!isOpen()) throw new Error('closed');
        cache.clear();
      },
    }),
  },
  {
    clause: 'S5',
    how: 'flushes the oldest block only',
    instead: ({ cache, settle, isOpen }) => ({
      flush: () => {
        if (!isOpen()) throw new Error('closed');
        for (const [block, bytes] of [...cache].slice(0, 1)) settle(block, bytes);
      },
    }),
  },
  {
    clause: 'S5',
    how: 'lets a flush join the one that runs',
    instead: ({ storage }) => {
      let running: Promise<void> | undefined;
      return {
        flush: (flags) => {
          running ??= (async () => {
            await storage.flush(flags);
            for (let turn = 0; turn < 20; turn += 1) await null;
            running = undefined;
          })();
          return running;
        },
      };
    },
  },
  {
    clause: 'S5',
    how: 'says that it has no cache, and has one',
    declares: { cache: 'none' },
    instead: ({ storage, cache }) => ({
      write: async (offset, data, flags) => {
        const taken = data.slice();
        await storage.read(offset, new Uint8Array(taken.length));
        if (flags.fua) return storage.write(offset, taken, flags);
        for (let at = 0; at < taken.length; at += B) {
          cache.set((offset + at) / B, taken.slice(at, at + B));
        }
      },
    }),
  },
  {
    clause: 'S6',
    how: 'takes no notice of FUA',
    instead: ({ storage }) => ({
      write: (offset, data) => storage.write(offset, data, PLAIN),
    }),
  },
  {
    clause: 'S6',
    how: 'takes no notice of FUA in a writev',
    instead: ({ storage }) => ({
      writev: (offset, data) => storage.writev?.(offset, data, PLAIN),
    }),
  },
  {
    clause: 'S6',
    how: 'forces data past its cache and leaves older data in it',
    instead: ({ storage, medium }) => ({
      write: async (offset, data, flags) => {
        await storage.read(offset, new Uint8Array(data.length));
        if (flags.fua) medium.set(data, offset);
        else await storage.write(offset, data, flags);
      },
    }),
  },
  {
    clause: 'S6',
    how: 'flushes older data over what was forced',
    instead: ({ storage, cache, medium }) => {
      const older = new Map<number, Uint8Array>();
      return {
        write: (offset, data, flags) => {
          const cached = cache.get(offset / B);
          if (flags.fua && cached) older.set(offset, cached);
          return storage.write(offset, data, flags);
        },
        flush: async (flags) => {
          await storage.flush(flags);
          for (const [offset, bytes] of older) medium.set(bytes, offset);
        },
      };
    },
  },
  {
    clause: 'S7',
    how: 'lets ordered writes overtake simple ones',
    instead: ({ storage }) => ({
      write: async (offset, data, flags) => {
        const taken = data.slice();
        if (flags.tag === 'simple') await tick();
        await storage.write(offset, taken, flags);
      },
    }),
  },
  {
    clause: 'S7',
    how: 'executes ordered writes from the last to the first',
    instead: ({ storage }) => {
      let queue: (() => void)[] = [];
      const empty = (): void => {
        const calls = queue.reverse();
        queue = [];
        for (const call of calls) call();
      };
      return {
        write: (offset, data, flags) => {
          if (flags.tag === 'simple') return storage.write(offset, data, flags);
          if (queue.length === 0) setImmediate(empty);
          return new Promise((resolve) => {
            queue.push(() => resolve(storage.write(offset, data, flags)));
          });
        },
      };
    },
  },
  {
    clause: 'S7',
    how: 'flushes only what was answered, though the flush is ordered',
    instead: ({ storage }) => {
      // Both wait their turn, so their own order holds.
      return {
        read: (offset, into) => tick().then(() => storage.read(offset, into)),
        write: (offset, data, flags) => tick().then(() => storage.write(offset, data, flags)),
      };
    },
  },
  {
    clause: 'S8',
    how: 'zeroes a block too many',
    instead: ({ storage }) => ({
      writeZeroes: (offset, length) =>
        storage.writeZeroes?.(offset, length > 0 ? length + B : length),
    }),
  },
  {
    clause: 'S8',
    how: 'answers writeZeroes and discards',
    instead: ({ storage }) => ({
      writeZeroes: (offset, length) => storage.discard?.(offset, length),
    }),
  },
  {
    clause: 'S8',
    how: 'zeroes its cache, never its medium',
    instead: ({ storage, cache, medium }) => {
      const zeroed = new Map<number, Uint8Array>();
      return {
        writeZeroes: async (offset, length) => {
          await storage.writeZeroes?.(offset, length);
          for (let at = offset; at < offset + length; at += B) {
            zeroed.set(at, medium.slice(at, at + B));
          }
        },
        flush: async (flags) => {
          const flushed = [...zeroed].filter(([at]) => cache.get(at / B)?.every((byte) => !byte));
          await storage.flush(flags);
          for (const [at, old] of flushed) medium.set(old, at);
        },
      };
    },
  },
  {
    clause: 'S8',
    how: 'discards in units of four blocks',
    instead: ({ storage }) => ({
      discard: (offset, length) =>
        offset >= 0 && length > 0 && offset + length <= storage.size && offset % B === 0
          ? storage.discard?.(offset - (offset % (4 * B)), 4 * B)
          : storage.discard?.(offset, length),
    }),
  },
  {
    clause: 'S9',
    how: 'cuts a write that reaches beyond its end, and answers',
    instead: ({ storage }) => ({
      write: (offset, data, flags) =>
        offset >= 0 && offset < storage.size
          ? storage.write(offset, data.subarray(0, storage.size - offset), flags)
          : storage.write(offset, data, flags),
    }),
  },
  {
    clause: 'S9',
    how: 'wraps what reaches beyond its end around, and then refuses it',
    declares: { cache: 'none' },
    instead: ({ storage, medium }) => ({
      write: (offset, data, flags) => {
        if (offset + data.length > storage.size) medium.copyWithin(0, B, 2 * B);
        return storage.write(offset, data, flags);
      },
    }),
  },
  {
    clause: 'S9',
    how: 'reads zeroes beyond its end',
    instead: ({ storage }) => ({
      read: (offset, into) =>
        offset >= storage.size ? void into.fill(0) : storage.read(offset, into),
    }),
  },
  {
    clause: 'S9',
    how: 'clears the block of an unaligned write before it refuses it',
    instead: ({ storage }) => ({
      write: async (offset, data, flags) => {
        const start = offset - (offset % B);
        const odd = offset % B !== 0 && offset > 0 && start + B <= storage.size;
        if (odd) await storage.write(start, new Uint8Array(B), PLAIN);
        await storage.write(offset, data, flags);
      },
    }),
  },
  {
    clause: 'S9',
    how: 'takes a discard of less than nothing for nothing',
    instead: ({ storage }) => ({
      discard: (offset, length) => (length < 0 ? undefined : storage.discard?.(offset, length)),
    }),
  },
  {
    clause: 'S10',
    how: 'still reads after it was closed',
    instead: ({ storage, medium, isOpen }) => ({
      read: (offset, into) =>
        isOpen()
          ? storage.read(offset, into)
          : into.set(medium.subarray(offset, offset + into.length)),
    }),
  },
  {
    clause: 'S10',
    how: 'still answers a flush after it was closed',
    instead: ({ storage, isOpen }) => ({
      flush: (flags) => (isOpen() ? storage.flush(flags) : undefined),
    }),
  },
  {
    clause: 'S10',
    how: 'closes itself when it refuses a command',
    instead: ({ storage }) => ({
      read: async (offset, into) => {
        try {
          await storage.read(offset, into);
        } catch (error) {
          await storage.close();
          throw error;
        }
      },
    }),
  },
  {
    clause: 'S11',
    how: 'has another size after a flush',
    instead: ({ storage }) => {
      let size = storage.size;
      return {
        get size() {
          return size;
        },
        flush: async (flags) => {
          await storage.flush(flags);
          size = storage.size + B;
        },
      };
    },
  },
  {
    clause: 'S11',
    how: 'has no size after it was closed',
    instead: ({ storage, isOpen }) => ({
      get size() {
        return isOpen() ? storage.size : 0;
      },
    }),
  },
  {
    clause: 'S11',
    how: 'has no tags after the first write',
    instead: ({ storage }) => {
      let capabilities = storage.capabilities;
      return {
        get capabilities() {
          return capabilities;
        },
        write: (offset, data, flags) => {
          capabilities = { ...capabilities, orderedTags: false };
          return storage.write(offset, data, flags);
        },
      };
    },
  },
  {
    clause: 'S11',
    how: 'has other blocks than its subject says',
    instead: ({ storage }) => ({ capabilities: { ...storage.capabilities, blockSize: 2 * B } }),
  },
  {
    clause: 'S11',
    how: 'has a method that it does not declare',
    declares: { discard: false },
    instead: () => ({ discard: () => {} }),
  },
  {
    clause: 'S11',
    how: 'has not the method that it declares',
    instead: () => ({ writev: undefined }) as unknown as Partial<Storage>,
  },
  {
    clause: 'S12',
    how: 'calls everything a hole',
    instead: () => ({ blockStatus: (_, length) => [{ length, hole: true, zero: true }] }),
  },
  {
    clause: 'S12',
    how: 'calls a written block a hole, and does not say that it is zero',
    instead: () => ({ blockStatus: (_, length) => [{ length, hole: true, zero: false }] }),
  },
  {
    clause: 'S12',
    how: 'has nothing to say',
    instead: () => ({ blockStatus: () => [] }),
  },
  {
    clause: 'S12',
    how: 'says more than it was asked',
    instead: () => ({
      blockStatus: (_, length) => [{ length: length + B, hole: false, zero: false }],
    }),
  },
  {
    clause: 'S12',
    how: 'says something of a part of a block',
    instead: () => ({ blockStatus: () => [{ length: B / 2, hole: false, zero: false }] }),
  },
  {
    clause: 'S13',
    how: 'answers a resize and does nothing',
    instead: ({ storage }) => ({ resize: (size) => void fits(storage, size) }),
  },
  {
    clause: 'S13',
    how: 'has the new size some time after it answers',
    instead: ({ storage }) => ({
      resize: (size) => {
        if (fits(storage, size))
          void tick()
            .then(() => storage.resize?.(size))
            .catch(() => {});
      },
    }),
  },
  {
    clause: 'S13',
    how: 'shows the old bytes of what it cut off and added again',
    instead: ({ storage, cache }) => ({
      resize: async (size) => {
        const gone = new Map<number, Uint8Array>();
        for (let at = size; fits(storage, size) && at < storage.size; at += B) {
          const bytes = new Uint8Array(B);
          storage.read(at, bytes);
          gone.set(at / B, bytes);
        }
        const added = storage.size;
        await storage.resize?.(size);
        for (let at = added; at < size; at += B) {
          const bytes = OLD.get(cache)?.get(at / B);
          if (bytes) cache.set(at / B, bytes);
        }
        OLD.set(cache, new Map([...(OLD.get(cache) ?? []), ...gone]));
      },
    }),
  },
  {
    clause: 'S13',
    how: 'leaves what it adds as it finds it',
    instead: ({ storage }) => ({
      resize: async (size) => {
        const from = storage.size;
        await storage.resize?.(size);
        if (size > from) await storage.discard?.(from, size - from);
      },
    }),
  },
  {
    clause: 'S13',
    how: 'cuts off a block too many',
    instead: ({ storage }) => ({
      resize: async (size) => {
        const cuts = fits(storage, size) && size < storage.size && size >= B;
        await storage.resize?.(size);
        if (cuts) await storage.writeZeroes?.(size - B, B);
      },
    }),
  },
  {
    clause: 'S13',
    how: 'takes a size that is not whole blocks for the next one that is',
    instead: ({ storage }) => ({
      resize: (size) => storage.resize?.(Math.ceil(size / B) * B),
    }),
  },
  {
    clause: 'S13',
    how: 'flushes data, and not the size',
    instead: (disk) => ({
      flush: () => {
        if (!disk.isOpen()) throw new Error('closed');
        for (const [block, bytes] of disk.cache) {
          if ((block + 1) * B <= disk.medium.length) disk.settle(block, bytes);
        }
      },
    }),
  },
  {
    clause: 'S13',
    how: 'forces data that the size on the medium has no room for, and not the size',
    instead: (disk) => ({
      write: (offset, data, { fua, tag }) => {
        const hasRoom = offset + data.length <= disk.medium.length;
        return disk.storage.write(offset, data, { fua: fua && hasRoom, tag });
      },
    }),
  },
];

/** What disks have cut off, by their caches. */
const OLD = new WeakMap<Map<number, Uint8Array>, Map<number, Uint8Array>>();

/** Whether a storage changes its size to that; fails for a size that none has. */
function fits(storage: Storage, size: number): boolean {
  checkSize(storage, size);
  return size !== storage.size;
}
