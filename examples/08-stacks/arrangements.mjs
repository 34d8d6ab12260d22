// @ts-check
// Who should drain: the guest, or the backend below it? In August 2010 that was asked on the kernel's mailing list
// about Xen's block devices, with good arguments for either, and no figures. Here are the stacks that were
// weighed: guests with schedulers of their own, over backends with schedulers of their own, on one physical disk.
//
//   guest's scheduler ─▶ transport ─▶ backend's scheduler ─▶ disk
//
// An arrangement is data: the mode of the guests, what their barriers become on the transport, the mode of the
// backend, and whether every guest has a backend queue of its own or all share one. What each costs is measured in
// compare.mjs; what it is worth is stated in its last two fields, and tests with power cuts hold it to them.
//
// The modes are those of this package. Reads wait for barriers, as they did in the kernels of 2010.
//
// Source: "xen/blkfront: use tagged queuing for barriers" (lkml, August 2010).
import { IoScheduler } from 'write-barrier';
import { slice } from 'write-barrier/kit';

/** @import { ModeName, Storage } from 'write-barrier' */

/**
 * Two layers of schedulers, and what lies between them.
 *
 * @typedef {object} Arrangement
 * @property {string} name what is done where, in words
 * @property {ModeName} guest the mode of the guests
 * @property {'as-is' | 'barriers' | 'data-barriers'} transport what crosses it. `as-is`: a tag, a flush and FUA are
 *   themselves. `barriers`: a flush and a FUA write of the guest become barriers of the backend, as in a ring that knows
 *   nothing else. `data-barriers`: the same on a ring that knows no barrier without data, so a flush does not cross
 * @property {ModeName} backend the mode of the backend
 * @property {'own' | 'shared'} queue a backend queue for each guest, or one for all
 * @property {string} witness where there was such a stack, or who wanted it
 * @property {boolean} barrierHolds a barrier with data holds on a volatile cache
 * @property {boolean} emptyBarrierHolds one without data does: an explicit flush
 */

/**
 * Guests over backends over one disk.
 *
 * @typedef {object} Stack
 * @property {readonly IoScheduler[]} guests what the guests submit to
 * @property {readonly IoScheduler[]} backends one for each guest, or one for all
 */

/** @type {(fields: Omit<Arrangement, 'queue'>) => readonly Arrangement[]} */
const both = (fields) =>
  /** @type {const} */ (['own', 'shared']).map((queue) => Object.freeze({ ...fields, queue }));
/**
 * What the thread weighed, from what the patch proposed to what the kernel became.
 *
 * @type {readonly Arrangement[]}
 */
export const ARRANGEMENTS = Object.freeze([
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
    name: 'no layer drains: the file system waits, and flushes',
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
/**
 * Puts an arrangement together: so many guests, each on its own part of the disk. The disk is the caller's to close.
 *
 * @param {Arrangement} arrangement
 * @param {Storage} disk
 * @param {number} guests
 * @param {(storage: Storage) => Storage} [across] what a guest's disk passes through on its way to the backend
 * @param {() => Storage} [partOf] the disk as the backend of one guest sees it, if each has its own
 * @returns {Stack}
 */
export function stackOf(
  { guest, transport, backend, queue },
  disk,
  guests,
  across = (storage) => storage,
  partOf = () => disk,
) {
  const { blockSize } = disk.capabilities;
  const size = Math.floor(disk.size / guests / blockSize) * blockSize;
  /** @type {IoScheduler[]} */
  const backends = [];
  const backendOver = (/** @type {Storage} */ storage) => {
    // Some arrangements are of interest because they do not hold.
    const scheduler = new IoScheduler(storage, { ...ERA, mode: backend, allowUnsafe: true });
    backends.push(scheduler);
    return scheduler.asStorage();
  };
  const shared = queue === 'shared' ? backendOver(disk) : undefined;
  const schedulers = Array.from({ length: guests }, (_, n) => {
    const part = shared
      ? slice(shared, n * size, size)
      : backendOver(slice(partOf(), n * size, size));
    const crossing = across(TRANSPORTS[transport](part));
    return new IoScheduler(crossing, { ...ERA, mode: guest, allowUnsafe: true });
  });
  return { guests: schedulers, backends };
}
const ERA = { readsPassBarriers: false };
/** @type {Readonly<Record<Arrangement['transport'], (storage: Storage) => Storage>>} */
const TRANSPORTS = {
  'as-is': (storage) => storage,
  barriers: (storage) => ringOf(storage, () => storage.flush({ tag: 'ordered' })),
  'data-barriers': (storage) => ringOf(storage, () => {}),
};
/**
 * A ring that knows writes and barriers, and nothing else: what is more than a write becomes a barrier.
 *
 * @param {Storage} storage
 * @param {Storage['flush']} flush
 * @returns {Storage}
 */
function ringOf(storage, flush) {
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

/** @type {(arrangement: Pick<Arrangement, 'guest' | 'transport' | 'backend'>) => string} */
export const stackName = ({ guest, transport, backend }) =>
  `${guest} over ${backend}${transport === 'as-is' ? '' : `, ${transport}`}`;
