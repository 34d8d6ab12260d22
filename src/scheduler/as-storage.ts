import type { Guarantees } from '../model/index.js';
import type { Capabilities, Storage, WriteFlags } from '../storage/index.js';
import type { RequestOptions, WriteOptions } from './options.js';

/** The part of a scheduler that a storage is made of. */
export interface Schedules {
  readonly size: number;
  readonly capabilities: Capabilities;
  readonly guarantees: Guarantees;
  read(offset: number, into: Uint8Array): Promise<Uint8Array>;
  write(
    offset: number,
    data: Uint8Array | readonly Uint8Array[],
    options: WriteOptions,
  ): Promise<void>;
  barrier(options?: RequestOptions): Promise<void>;
  flush(options?: RequestOptions): Promise<void>;
  discard(offset: number, length: number): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  close(): Promise<void>;
}

/**
 * A scheduler as a storage. A write or a flush with an ordered tag becomes a barrier, so a tag mode above works
 * whatever mode orders below, NONE excepted.
 */
export function asStorage(scheduler: Schedules): Storage {
  const { cache, flush, fua, blockSize } = scheduler.capabilities;
  const stable = cache !== 'volatile';
  return {
    size: scheduler.size,
    capabilities: {
      blockSize,
      cache,
      flush: stable || flush,
      fua: stable || flush || fua,
      orderedTags: scheduler.guarantees.mode !== 'NONE',
      writev: true,
      discard: true,
      writeZeroes: true,
    },
    read: async (offset, into) => void (await scheduler.read(offset, into)),
    write: (offset, data, flags) => scheduler.write(offset, data, optionsOf(flags)),
    writev: (offset, data, flags) => scheduler.write(offset, data, optionsOf(flags)),
    flush: async ({ tag }) => {
      if (tag === 'simple') return scheduler.flush();
      // Where the mode's barrier flushes nothing, durability needs a flush of its own, and it comes first: the
      // barrier waits for it, and so does everything behind the barrier.
      const { guarantees } = scheduler;
      const durable = guarantees.emptyBarrierFlushes === 'yes';
      await Promise.all([...(durable ? [] : [scheduler.flush()]), scheduler.barrier()]);
      // The barrier followed the mode of its turn, which may be another by now.
      if (durable && scheduler.guarantees !== guarantees) await scheduler.flush();
    },
    discard: (offset, length) => scheduler.discard(offset, length),
    writeZeroes: (offset, length) => scheduler.writeZeroes(offset, length),
    close: () => scheduler.close(),
  };
}

function optionsOf(flags: WriteFlags): WriteOptions {
  return { barrier: flags.tag === 'ordered', fua: flags.fua };
}
