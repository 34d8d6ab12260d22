// @ts-check
// What an arrangement of schedulers costs, and who pays: the commands, flushes and drains of a fixed piece of work,
// and how long each guest waited for it.
//
// Time is virtual (bench/devices/virtual-clock.mjs), so the figures are exact and the same in every run. The disk works
// on several commands at once, first come first served, but on one flush at a time; every command takes its time, whatever else
// goes on. What the figures say of a real disk is as much as its times are those of STACK_TIMES; they are a
// parameter.
//
// The work: two journals, which commit by three records and a mark and wait until the mark is safe; a bulk writer,
// which needs no order and keeps eight writes going; and a reader, who waits for each read. Only the journals ask for
// barriers, so what makes the other two wait longer is another guest's barrier.
//
// Source: "xen/blkfront: use tagged queuing for barriers" (lkml, August 2010), for the question.

import { MemoryStorage, withLatency } from 'write-barrier';
import { modeOf } from 'write-barrier/kit';
import { STACK_TIMES } from '../../bench/devices/stack-times.mjs';
import { VirtualClock } from '../../bench/devices/virtual-clock.mjs';
import { ARRANGEMENTS, stackOf } from './arrangements.mjs';

/** @import { IoScheduler, Storage, Transfer } from 'write-barrier' */
/** @import { DiskTimes } from '../../bench/devices/stack-times.mjs' */
/** @import { Arrangement, Stack } from './arrangements.mjs' */
/** @typedef {{ commands: number, flushes: number }} Count */
/** @typedef {<T>(wait: () => Promise<T>) => Promise<T>} Measured runs what a guest waits for, and notes for how long */

/**
 * How long a guest waited for its requests, in microseconds.
 *
 * @typedef {object} StackWaiting
 * @property {string} guest its name
 * @property {number} requests how often it waited: for a commit, a write, a read
 * @property {number} worstUs the longest wait
 * @property {number} meanUs the average, rounded
 */

/**
 * What an arrangement costs.
 *
 * @typedef {object} Cost
 * @property {number} commands of the disk, flushes included
 * @property {number} flushes of the disk
 * @property {number} guestDrains times that the scheduler of a guest had to wait for everything before it went on
 * @property {number} backendDrains the same for the schedulers of the backend
 * @property {number} flushesForEmptyBarrier flushes of the disk for a single empty barrier after a single write
 * @property {number} elapsedUs until all guests were done
 * @property {readonly StackWaiting[]} waiting one for each guest
 */

/** @typedef {Arrangement & Cost} StackRow */

/**
 * The disk.
 *
 * @param {Storage} storage
 * @param {VirtualClock} clock
 * @param {DiskTimes} times
 * @param {Count} count
 * @returns {Storage}
 */
function timed(storage, clock, times, count) {
  const { blockSize, cache, flush } = storage.capabilities;
  const all = lane(times.commandsMax);
  const flushes = lane(1);
  const serve = (/** @type {number} */ us, /** @type {() => Transfer} */ work) => {
    count.commands += 1;
    return all(async () => {
      await clock.sleep(us);
      await work();
    });
  };
  return {
    size: storage.size,
    capabilities: { blockSize, cache, flush, fua: false, orderedTags: false },
    read: (at, into) => serve(times.readUs, () => storage.read(at, into)),
    write: (at, data, flags) => serve(times.writeUs, () => storage.write(at, data, flags)),
    flush: (flags) => {
      count.flushes += 1;
      return flushes(() => serve(times.flushUs, () => storage.flush(flags)));
    },
    close: () => storage.close(),
  };
}
/**
 * Lets so many in at once; the others wait in line.
 *
 * @param {number} most
 * @returns {(work: () => Promise<void>) => Promise<void>}
 */
function lane(most) {
  /** @type {((value?: undefined) => void)[]} */
  const waiting = [];
  let busy = 0;
  return async (work) => {
    if (busy < most) busy += 1;
    else await new Promise((resolve) => waiting.push(resolve));
    try {
      await work();
    } finally {
      // The next in line takes the place over.
      const next = waiting.shift();
      if (next) next();
      else busy -= 1;
    }
  };
}
const BLOCK = 512;
const COMMITS = 20;
const RECORDS = 3;
const BULK_WRITES = 240;
const BULK_AT_ONCE = 8;
const READS = 40;
const SLICE = 64 * BLOCK;
const block = () => new Uint8Array(BLOCK);
/**
 * In mode NONE a client that needs order waits.
 *
 * @type {(disk: IoScheduler) => boolean}
 */
const waitsItself = ({ mode }) => modeOf(mode).by === 'none';
/**
 * Records, and a commit mark that must not be there without them. The next commit begins when the mark is safe.
 *
 * @param {IoScheduler} disk
 * @param {Measured} measured
 */
async function journal(disk, measured) {
  const mark = RECORDS * BLOCK;
  for (let n = 0; n < COMMITS; n++) {
    await measured(async () => {
      const writes = Array.from({ length: RECORDS }, (_, i) => disk.write(i * BLOCK, block()));
      if (!waitsItself(disk)) writes.push(disk.write(mark, block(), { barrier: true }));
      await Promise.all(writes);
      if (waitsItself(disk)) await disk.write(mark, block(), { preflush: true, fua: true });
    });
  }
}
/**
 * Writes that need no order, a few at a time.
 *
 * @param {IoScheduler} disk
 * @param {Measured} measured
 */
async function bulk(disk, measured) {
  let next = 0;
  const writer = async () => {
    for (let n = next++; n < BULK_WRITES; n = next++) {
      await measured(() => disk.write((n * BLOCK) % SLICE, block()));
    }
  };
  await Promise.all(Array.from({ length: BULK_AT_ONCE }, writer));
}
/**
 * Reads, and waits for each.
 *
 * @param {IoScheduler} disk
 * @param {Measured} measured
 */
async function reader(disk, measured) {
  for (let n = 0; n < READS; n++) await measured(() => disk.read(n * BLOCK, BLOCK));
}
/** Two journals, a bulk writer and a reader on one disk. */
const GUESTS = [
  { name: 'journal A', work: journal },
  { name: 'journal B', work: journal },
  { name: 'bulk', work: bulk },
  { name: 'reader', work: reader },
];
/**
 * Runs every arrangement on a disk of its own. The rows come in the order of the arrangements, the same in every run.
 *
 * @returns {Promise<readonly StackRow[]>}
 * @throws `INVALID_ARGUMENT` for a time that is negative or not a number
 */
export async function compareStacks(arrangements = ARRANGEMENTS, times = STACK_TIMES.near) {
  /** @type {StackRow[]} */
  const rows = [];
  for (const arrangement of arrangements) rows.push(await measure(arrangement, times));
  return rows;
}
/**
 * @param {Arrangement} arrangement
 * @param {DiskTimes} times
 * @returns {Promise<StackRow>}
 */
async function measure(arrangement, times) {
  const { clock, count, guests, backends } = simulated(arrangement, times, GUESTS.length);
  const waits = GUESTS.map(() => /** @type {number[]} */ ([]));
  await clock.run(
    Promise.all(
      GUESTS.map(({ work }, n) =>
        work(/** @type {IoScheduler} */ (guests[n]), async (wait) => {
          const from = clock.now;
          const answer = await wait();
          waits[n]?.push(clock.now - from);
          return answer;
        }),
      ),
    ),
  );
  const drains = (/** @type {readonly IoScheduler[]} */ of) =>
    of.reduce((sum, scheduler) => sum + scheduler.stats().drains, 0);
  return Object.freeze({
    ...arrangement,
    ...count,
    guestDrains: drains(guests),
    backendDrains: drains(backends),
    flushesForEmptyBarrier: await emptyBarrier(arrangement, times),
    elapsedUs: clock.now,
    waiting: Object.freeze(GUESTS.map(({ name }, n) => waitingOf(name, waits[n] ?? []))),
  });
}
/**
 * What becomes of an explicit flush: `w0 b` from one guest, on a disk of its own.
 *
 * @param {Arrangement} arrangement
 * @param {DiskTimes} times
 */
async function emptyBarrier(arrangement, times) {
  const { clock, count, guests } = simulated(arrangement, times, 1);
  const [guest] = /** @type {readonly [IoScheduler]} */ (guests);
  const written = guest.write(0, block());
  const told = waitsItself(guest) ? guest.flush() : guest.barrier();
  await clock.run(Promise.all([written, told]));
  return count.flushes;
}
/**
 * @param {Arrangement} arrangement
 * @param {DiskTimes} times
 * @param {number} guests
 * @returns {Stack & { clock: VirtualClock, count: Count }}
 */
function simulated(arrangement, times, guests) {
  const clock = new VirtualClock();
  const count = { commands: 0, flushes: 0 };
  const memory = new MemoryStorage(guests * SLICE, { capabilities: { cache: 'volatile' } });
  const across = (/** @type {Storage} */ storage) =>
    withLatency(storage, times.transportUs, { sleep: (us) => clock.sleep(us) });
  const stack = stackOf(arrangement, timed(memory, clock, times, count), guests, across);
  return { ...stack, clock, count };
}
/**
 * @param {string} guest
 * @param {readonly number[]} waits
 * @returns {StackWaiting}
 */
function waitingOf(guest, waits) {
  const sum = waits.reduce((total, us) => total + us, 0);
  const meanUs = Math.round(sum / waits.length);
  return Object.freeze({ guest, requests: waits.length, worstUs: Math.max(...waits), meanUs });
}
