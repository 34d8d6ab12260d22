import type { Guarantees } from '../model/index.js';
import { withText } from '../model/show.js';
import type { Capabilities, Extent, Payload, Storage, WriteFlags } from '../storage/index.js';
import type { RequestOptions, WriteOptions } from './options.js';

/** What `asStorage` needs of a scheduler. */
export interface Schedules {
  readonly capabilities: Capabilities;
  readonly guarantees: Guarantees;
  read(offset: number, into: Uint8Array): Promise<Uint8Array>;
  write(offset: number, data: Payload, options: WriteOptions): Promise<void>;
  barrier(options?: RequestOptions): Promise<void>;
  flush(options?: RequestOptions): Promise<void>;
  discard(offset: number, length: number): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  blockStatus(offset: number, length: number): Promise<readonly Extent[]>;
  resize(size: number): Promise<void>;
  close(): Promise<void>;
}

/**
 * A scheduler as a storage. A write or a flush with an ordered tag becomes a barrier. So a tag mode above works over every
 * mode below except NONE.
 *
 * @param below the storage of the scheduler
 */
export function asStorage(scheduler: Schedules, below: Pick<Storage, 'size'>): Storage {
  const {
    cache,
    flush,
    fua,
    blockSize,
    fastZeroes = false,
    resize = false,
  } = scheduler.capabilities;
  const stable = cache !== 'volatile';
  const write = (offset: number, data: Payload, flags: WriteFlags): Promise<void> =>
    scheduler.write(offset, data, { barrier: flags.tag === 'ordered', fua: flags.fua });
  const storage: Storage = {
    // Not that of the scheduler, which has the size of resizes that wait, and storage.S13 speaks of those that are answered.
    get size() {
      return below.size;
    },
    capabilities: {
      blockSize,
      cache,
      flush: stable || flush,
      fua: stable || flush || fua,
      orderedTags: scheduler.guarantees.mode !== 'NONE',
      writev: true,
      discard: true,
      writeZeroes: true,
      fastZeroes,
      blockStatus: true,
      resize,
    },
    read: async (offset, into) => void (await scheduler.read(offset, into)),
    write,
    writev: write,
    flush: async ({ tag }) => {
      if (tag === 'simple') return scheduler.flush();
      // If the mode's barrier does not flush, a flush makes the writes durable. It is submitted first, so that the barrier,
      // and everything after the barrier, waits for it.
      const { guarantees } = scheduler;
      const durable = guarantees.emptyBarrierFlushes === 'yes';
      await Promise.all([durable ? undefined : scheduler.flush(), scheduler.barrier()]);
      // The mode may have changed before the barrier's turn came, and the barrier may not have flushed.
      if (durable && scheduler.guarantees !== guarantees) await scheduler.flush();
    },
    discard: (offset, length) => scheduler.discard(offset, length),
    writeZeroes: (offset, length) => scheduler.writeZeroes(offset, length),
    blockStatus: (offset, length) => scheduler.blockStatus(offset, length),
    close: () => scheduler.close(),
  };
  if (resize) storage.resize = (size) => scheduler.resize(size);
  const text = (): string =>
    `asStorage(IoScheduler { ${scheduler.guarantees.mode} on ${below.size} bytes })`;
  return withText(storage, text);
}
