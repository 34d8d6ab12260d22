// @ts-check
// Simulated disks that many share, in virtual time: figures that later measurements are compared by, so a change here is a change
// of all of them. A disk works on a few commands at once, first come first served; each takes a fixed time and the time of its
// bytes. A flush waits for what is at the disk, and what comes meanwhile waits for the flush.

/** @import { Storage, Transfer } from 'write-barrier' */
/** @import { VirtualClock } from './virtual-clock.mjs' */

/**
 * How long a disk takes.
 *
 * @typedef {object} SharedDiskTimes
 * @property {number} commandUs for a command, in microseconds: the seek
 * @property {number} bytesPerUs how many bytes a command moves in a microsecond
 * @property {number} flushUs for a flush
 * @property {number} fuaUs what a forced write takes longer
 * @property {number} lanes commands that it works on at once
 */

/**
 * A spinning disk and one of flash.
 *
 * @type {Readonly<Record<'spindle' | 'flash', SharedDiskTimes>>}
 */
export const SHARED_DISKS = Object.freeze({
  spindle: Object.freeze({
    commandUs: 4000,
    bytesPerUs: 150,
    flushUs: 12_000,
    fuaUs: 8000,
    lanes: 1,
  }),
  flash: Object.freeze({ commandUs: 80, bytesPerUs: 500, flushUs: 1500, fuaUs: 400, lanes: 4 }),
});

/**
 * The storage as a disk that takes time. `flushes` and `commands` count what it was sent.
 *
 * @param {Storage} storage
 * @param {VirtualClock} clock
 * @param {SharedDiskTimes} times
 */
export function sharedDisk(storage, clock, { commandUs, bytesPerUs, flushUs, fuaUs, lanes }) {
  const free = Array.from({ length: lanes }, () => 0);
  const count = { commands: 0, flushes: 0 };
  const { blockSize, cache, flush, fua } = storage.capabilities;
  const until = async (/** @type {number} */ end, /** @type {() => Transfer} */ work) => {
    count.commands += 1;
    await clock.sleep(end - clock.now);
    await work();
  };
  const moves = (/** @type {number} */ bytes, /** @type {() => Transfer} */ work, moreUs = 0) => {
    const lane = free.indexOf(Math.min(...free));
    const end = Math.max(clock.now, free[lane] ?? 0) + commandUs + bytes / bytesPerUs + moreUs;
    free[lane] = end;
    return until(end, work);
  };
  /** @type {Storage} */
  const disk = {
    size: storage.size,
    capabilities: { blockSize, cache, flush, fua, orderedTags: false },
    read: (at, into) => moves(into.byteLength, () => storage.read(at, into)),
    write: (at, data, flags) =>
      moves(data.byteLength, () => storage.write(at, data, flags), flags.fua ? fuaUs : 0),
    flush: (flags) => {
      count.flushes += 1;
      const end = Math.max(clock.now, ...free) + flushUs;
      free.fill(end);
      return until(end, () => storage.flush(flags));
    },
    close: () => storage.close(),
  };
  return { disk, count };
}
