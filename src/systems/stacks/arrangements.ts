// Who should drain: the guest, or the backend below it? In August 2010 that was asked on the kernel's mailing list
// about Xen's block devices, with good arguments for either, and no figures. Here are the stacks that were
// weighed: guests with schedulers of their own, over backends with schedulers of their own, on one physical disk.
//
//   guest's scheduler ─▶ transport ─▶ backend's scheduler ─▶ disk
//
// An arrangement is data: the mode of the guests, what their barriers become on the transport, the mode of the
// backend, and whether every guest has a backend queue of its own or all share one. What each costs is measured in
// figures.ts; what it is worth is stated in its last two fields, and tests with power cuts hold it to them.
//
// The modes are those of this package. Reads wait for barriers, as they did in the kernels of 2010.
//
// Source: "xen/blkfront: use tagged queuing for barriers" (lkml, August 2010).

import { checkRange, IoScheduler, type ModeName, type Storage } from 'write-barrier';

/** Two layers of schedulers, and what lies between them. */
export interface Arrangement {
  /** What is done where, in words. */
  readonly name: string;
  /** The mode of the guests. */
  readonly guest: ModeName;
  /**
   * What crosses the transport. `as-is`: a tag, a flush and FUA are themselves. `barriers`: a flush and a FUA write
   * of the guest become barriers of the backend, as in a ring that knows nothing else. `data-barriers`: the same on a
   * ring that knows no barrier without data, so a flush does not cross.
   */
  readonly transport: 'as-is' | 'barriers' | 'data-barriers';
  /** The mode of the backend. */
  readonly backend: ModeName;
  /** A backend queue for each guest, or one for all. */
  readonly queue: 'own' | 'shared';
  /** Where there was such a stack, or who wanted it. */
  readonly witness: string;
  /** Whether a barrier with data holds on a volatile cache. */
  readonly barrierHolds: boolean;
  /** Whether one without data does: an explicit flush. */
  readonly emptyBarrierHolds: boolean;
}

const both = (fields: Omit<Arrangement, 'queue'>): readonly Arrangement[] =>
  (['own', 'shared'] as const).map((queue) => Object.freeze({ ...fields, queue }));

/** What the thread weighed, from what the patch proposed to what the kernel became. */
export const ARRANGEMENTS: readonly Arrangement[] = Object.freeze([
  ...both({
    name: 'guest TAG, backend drains and flushes',
    guest: 'TAG',
    transport: 'as-is',
    backend: 'DRAIN_FLUSH',
    witness: "blkfront of 2.6.36, over blktap's barriers",
    barrierHolds: true,
    emptyBarrierHolds: false,
  }),
  ...both({
    name: 'guest TAG_FUA, backend drains and flushes',
    guest: 'TAG_FUA',
    transport: 'as-is',
    backend: 'DRAIN_FLUSH',
    witness: 'proposed in the thread',
    barrierHolds: true,
    emptyBarrierHolds: true,
  }),
  ...both({
    name: 'both drain, on a ring without empty barriers',
    guest: 'DRAIN_FUA',
    transport: 'data-barriers',
    backend: 'DRAIN_FLUSH',
    witness: 'blkfront of 2.6.32, over blkback',
    barrierHolds: true,
    emptyBarrierHolds: false,
  }),
  ...both({
    name: 'both drain, on a ring with empty barriers',
    guest: 'DRAIN_FUA',
    transport: 'barriers',
    backend: 'DRAIN_FLUSH',
    witness: 'the same, with the repair that the thread asks for',
    barrierHolds: true,
    emptyBarrierHolds: true,
  }),
  ...both({
    name: 'guest drains, backend only flushes',
    guest: 'DRAIN_FLUSH',
    transport: 'as-is',
    backend: 'NONE',
    witness: 'virtio-blk of 2.6.36, over QEMU',
    barrierHolds: true,
    emptyBarrierHolds: true,
  }),
  ...both({
    name: 'nobody drains: the file system waits, and flushes',
    guest: 'NONE',
    transport: 'as-is',
    backend: 'NONE',
    witness: 'any driver since 2.6.37',
    barrierHolds: true,
    emptyBarrierHolds: true,
  }),
  ...both({
    name: 'guest TAG, backend drains and never flushes',
    guest: 'TAG',
    transport: 'as-is',
    backend: 'DRAIN',
    witness: 'proposed in the thread for a backend on `O_DIRECT`',
    barrierHolds: false,
    emptyBarrierHolds: false,
  }),
]);

// Building

/** Guests over backends over one disk. */
export interface Stack {
  /** What the guests submit to. */
  readonly guests: readonly IoScheduler[];
  /** One for each guest, or one for all. */
  readonly backends: readonly IoScheduler[];
}

/**
 * Puts an arrangement together: so many guests, each on its own part of the disk. The disk is the caller's to close.
 *
 * @param across what a guest's disk passes through on its way to the backend: the storage itself unless given
 */
export function stackOf(
  { guest, transport, backend, queue }: Arrangement,
  disk: Storage,
  guests: number,
  across: (storage: Storage) => Storage = (storage) => storage,
): Stack {
  const { blockSize } = disk.capabilities;
  const size = Math.floor(disk.size / guests / blockSize) * blockSize;
  const backends: IoScheduler[] = [];
  const backendOver = (storage: Storage): Storage => {
    // Some arrangements are of interest because they do not hold.
    const scheduler = new IoScheduler(storage, { ...ERA, mode: backend, allowUnsafe: true });
    backends.push(scheduler);
    return scheduler.asStorage();
  };
  const shared = queue === 'shared' ? backendOver(disk) : undefined;
  const schedulers = Array.from({ length: guests }, (_, n) => {
    const part = shared
      ? sliceOf(shared, n * size, size)
      : backendOver(sliceOf(disk, n * size, size));
    const crossing = across(TRANSPORTS[transport](part));
    return new IoScheduler(crossing, { ...ERA, mode: guest, allowUnsafe: true });
  });
  return { guests: schedulers, backends };
}

const ERA = { readsPassBarriers: false } as const;

/**
 * The bytes from `offset` on as a storage of their own, for reads, writes and flushes. Closing it closes nothing:
 * others have the rest. A flush is one of the whole.
 *
 * @throws `OUT_OF_RANGE`, `UNALIGNED` for a part that the storage does not have
 */
export function sliceOf(storage: Storage, offset: number, size: number): Storage {
  checkRange(storage, offset, size);
  const { blockSize, cache, flush, fua, orderedTags } = storage.capabilities;
  const slice: Storage = {
    size,
    capabilities: Object.freeze({ blockSize, cache, flush, fua, orderedTags }),
    read: (at, into) => {
      checkRange(slice, at, into.byteLength);
      return storage.read(offset + at, into);
    },
    write: (at, data, flags) => {
      checkRange(slice, at, data.byteLength);
      return storage.write(offset + at, data, flags);
    },
    flush: (flags) => storage.flush(flags),
    close: () => {},
  };
  return slice;
}

const TRANSPORTS: Readonly<Record<Arrangement['transport'], (storage: Storage) => Storage>> = {
  'as-is': (storage) => storage,
  barriers: (storage) => ringOf(storage, () => storage.flush({ tag: 'ordered' })),
  'data-barriers': (storage) => ringOf(storage, () => {}),
};

/** A ring that knows writes and barriers, and nothing else: what is more than a write becomes a barrier. */
function ringOf(storage: Storage, flush: Storage['flush']): Storage {
  const { blockSize, cache } = storage.capabilities;
  return {
    size: storage.size,
    capabilities: Object.freeze({ blockSize, cache, flush: true, fua: true, orderedTags: false }),
    read: (at, into) => storage.read(at, into),
    write: (at, data, { fua }) =>
      storage.write(at, data, { fua: false, tag: fua ? 'ordered' : 'simple' }),
    flush,
    close: () => storage.close(),
  };
}
