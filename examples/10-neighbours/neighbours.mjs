// @ts-check
// Four guests on one disk: two journals that commit by barriers without pause, one that writes in bulk, and one that reads a block
// now and then. Who waits for whom? In 2010 Xen's developers noticed that a backend which drains one queue for all guests lets
// one of them starve the others, and that it is "a todo which I don't think has been solved in any present backend".
//
// Each arrangement of that discussion is built in three ways:
//
//   shared   one scheduler of the backend for all guests
//   own      a scheduler for each guest, side by side on the disk, which knows nothing of shares
//   group    the same, each on a member of a SchedulerGroup
//
// Time is virtual, and the disks are simulated (bench/devices), so the figures are the same in every run.
//
// Source: "xen/blkfront: use tagged queuing for barriers" (lkml, August 2010).

import { chooseMode, guarantees, IoScheduler, MemoryStorage, SchedulerGroup } from 'write-barrier';
import { slice } from 'write-barrier/kit';
import { SHARED_DISKS, sharedDisk } from '../../bench/devices/shared-disk.mjs';
import { VirtualClock } from '../../bench/devices/virtual-clock.mjs';
import { ARRANGEMENTS, stackOf } from '../08-stacks/arrangements.mjs';

/** @import { Capabilities, Guarantees, ModeName } from 'write-barrier' */
/** @import { SharedDiskTimes } from '../../bench/devices/shared-disk.mjs' */
/** @import { Arrangement } from '../08-stacks/arrangements.mjs' */

/** @typedef {'shared' | 'own' | 'group'} Way */

/**
 * What the guests waited for, in microseconds.
 *
 * @typedef {object} Neighbours
 * @property {string} name the arrangement, in words
 * @property {Way} way
 * @property {number} worstReadUs the longest wait of the reader
 * @property {number} meanReadUs its average wait, rounded
 * @property {number} commitUs the average commit of the first journal, rounded
 * @property {number} bulkBytesPerMs what the bulk writer got through
 * @property {number} flushes of the disk, for each thousand commits
 */

export const WAYS = /** @type {const} */ (['shared', 'own', 'group']);

/** The arrangements of the discussion that keep their promise, one row of each. */
export const DISCUSSED = ARRANGEMENTS.filter(
  ({ guest, transport, backend, queue }) =>
    queue === 'own' &&
    [
      'TAG over DRAIN_FLUSH as-is',
      'DRAIN_FUA over DRAIN_FLUSH barriers',
      'DRAIN_FLUSH over NONE as-is',
    ].includes(`${guest} over ${backend} ${transport}`),
);

/**
 * What a barrier costs, in microseconds.
 *
 * @typedef {object} BarrierCost
 * @property {ModeName} mode
 * @property {number} aloneUs a commit on a disk of its own
 * @property {number} besideUs beside a guest that writes in bulk, side by side on the disk
 * @property {number} groupUs the same on a group
 */

/**
 * What a commit costs on a disk of some abilities.
 *
 * @typedef {object} ModeCost
 * @property {string} device its abilities, in words
 * @property {ModeName} mode
 * @property {Guarantees['verdict']} verdict
 * @property {boolean} isChosen whether a scheduler takes this mode by itself
 * @property {number} commitUs in microseconds, on a disk of its own
 */

/** What a disk can do, in words, and as it says it. */
export const ABILITIES = /** @type {const} */ ({
  'no volatile cache': { cache: 'none', flush: false, fua: false },
  'a cache and a flush': { cache: 'volatile', flush: true, fua: false },
  'a cache, a flush and FUA': { cache: 'volatile', flush: true, fua: true },
});

const BLOCK = 4096;
const GUESTS = 4;
const SLICE = 16 * 1024 * 1024;
const BULK = 128 * 1024;
const BULK_AT_ONCE = 16;
const READS = 24;

/**
 * Runs one arrangement in one way.
 *
 * @param {Arrangement} arrangement
 * @param {Way} way
 * @param {SharedDiskTimes} times
 * @returns {Promise<Neighbours>}
 */
export async function neighbours(arrangement, way, times) {
  const clock = new VirtualClock();
  const memory = new MemoryStorage(GUESTS * SLICE, { capabilities: { blockSize: BLOCK } });
  const { disk, count } = sharedDisk(memory, clock, times);
  // As many as the disk works on, and one that waits there for each of them: more would stand in front of the reader.
  const group = new SchedulerGroup(disk, { depth: 2 * times.lanes });
  const queue = way === 'shared' ? 'shared' : 'own';
  const partOf = way === 'group' ? () => group.member() : () => disk;
  const { guests } = stackOf({ ...arrangement, queue }, disk, GUESTS, undefined, partOf);
  const [first, second, bulk, reader] = /** @type {Four} */ (/** @type {unknown} */ (guests));
  const run = { isOver: false };
  /** @type {number[]} */
  const commits = [];
  let written = 0;
  const waits = await clock.run(
    Promise.all([
      reads(reader, clock, times).finally(() => {
        run.isOver = true;
      }),
      journal(first, run, clock, commits),
      journal(second, run, clock, []),
      ...bulkWriters(bulk, run, (bytes) => {
        written += bytes;
      }),
    ]).then(([all]) => all),
  );
  return {
    ...{ name: arrangement.name, way },
    worstReadUs: Math.round(Math.max(...waits)),
    meanReadUs: mean(waits),
    commitUs: mean(commits),
    bulkBytesPerMs: Math.round((written / clock.now) * 1000),
    flushes: Math.round((count.flushes / (2 * commits.length)) * 1000),
  };
}

/** @typedef {readonly [IoScheduler, IoScheduler, IoScheduler, IoScheduler]} Four */

/** The three arrangements in the three ways, on a disk. */
export async function compareNeighbours(times = SHARED_DISKS.spindle) {
  /** @type {Neighbours[]} */
  const rows = [];
  for (const arrangement of DISCUSSED) {
    for (const way of WAYS) rows.push(await neighbours(arrangement, way, times));
  }
  return rows;
}

/** The modes for a disk with a cache and without tags; with NONE the journal waits and flushes itself. */
const COSTED = /** @type {const} */ (['DRAIN_FLUSH', 'DRAIN_FUA', 'NONE']);

/** What a commit costs in each mode on a disk, alone and beside a neighbour. */
export async function barrierCosts(times = SHARED_DISKS.spindle) {
  /** @type {BarrierCost[]} */
  const rows = [];
  for (const mode of COSTED) {
    const [aloneUs, besideUs, groupUs] = [
      await commitBeside(mode, times, 'alone'),
      await commitBeside(mode, times, 'own'),
      await commitBeside(mode, times, 'group'),
    ];
    rows.push({ mode, aloneUs, besideUs, groupUs });
  }
  return rows;
}

/** The modes of a disk without tags, also those that are unsafe on some: to see what they save. */
const COMPARED = /** @type {const} */ (['NONE', 'DRAIN', 'DRAIN_FLUSH', 'DRAIN_FUA']);

/** What a commit costs in each mode on a disk, for each of its abilities. */
export async function modeCosts(times = SHARED_DISKS.spindle) {
  /** @type {ModeCost[]} */
  const rows = [];
  for (const [device, abilities] of Object.entries(ABILITIES)) {
    const traits = { ...abilities, orderedTags: false };
    for (const mode of COMPARED) {
      const { verdict } = guarantees(mode, traits);
      const commitUs = await commitBeside(mode, times, 'alone', abilities);
      rows.push({ device, mode, verdict, isChosen: mode === chooseMode(traits), commitUs });
    }
  }
  return rows;
}

/**
 * @param {ModeName} mode
 * @param {SharedDiskTimes} times
 * @param {'alone' | 'own' | 'group'} way
 * @param {Partial<Capabilities>} [abilities]
 */
async function commitBeside(mode, times, way, abilities = {}) {
  const clock = new VirtualClock();
  const memory = new MemoryStorage(2 * SLICE, {
    capabilities: { blockSize: BLOCK, ...abilities },
  });
  const { disk } = sharedDisk(memory, clock, times);
  const group = new SchedulerGroup(disk, { depth: 2 * times.lanes });
  const part = (/** @type {number} */ n) =>
    slice(way === 'group' ? group.member() : disk, n * SLICE, SLICE);
  const run = { isOver: false };
  /** @type {number[]} */
  const commits = [];
  // NONE keeps no order, and is refused on a cache; the journal keeps it by waiting. Other modes are taken to see what they save.
  const store = new IoScheduler(part(0), { mode, allowUnsafe: true });
  const bulk = new IoScheduler(part(1));
  const neighbour = way === 'alone' ? [] : bulkWriters(bulk, run, () => {});
  const commitsDone = (async () => {
    await journal(store, run, clock, commits, READS);
    run.isOver = true;
  })();
  await clock.run(Promise.all([commitsDone, ...neighbour]));
  return mean(commits);
}

/**
 * Writes that need no order, so many at once.
 *
 * @param {IoScheduler} disk
 * @param {{ isOver: boolean }} run
 * @param {(bytes: number) => void} wrote
 */
function bulkWriters(disk, run, wrote) {
  return Array.from({ length: BULK_AT_ONCE }, async (_, n) => {
    for (let at = n; !run.isOver; at += BULK_AT_ONCE) {
      await disk.write((at * BULK) % SLICE, new Uint8Array(BULK));
      wrote(BULK);
    }
  });
}

/**
 * A block now and then, and how long each took.
 *
 * @param {IoScheduler} disk
 * @param {VirtualClock} clock
 * @param {SharedDiskTimes} times
 */
async function reads(disk, clock, { flushUs }) {
  /** @type {number[]} */
  const waits = [];
  for (let n = 0; n < READS; n++) {
    // Not in step with the others.
    await clock.sleep(flushUs * (1.3 + (n % 7) / 5));
    const from = clock.now;
    await disk.read(n * BLOCK, BLOCK);
    waits.push(clock.now - from);
  }
  return waits;
}

/**
 * Three records and a commit mark, again and again. In mode NONE it waits, and flushes.
 *
 * @param {IoScheduler} disk
 * @param {{ isOver: boolean }} run
 * @param {VirtualClock} clock
 * @param {number[]} waits
 */
async function journal(disk, run, clock, waits, most = Infinity) {
  const block = new Uint8Array(BLOCK);
  const mark = 3 * BLOCK;
  while (!run.isOver && waits.length < most) {
    const from = clock.now;
    const writes = [0, 1, 2].map((n) => disk.write(n * BLOCK, block));
    if (disk.mode !== 'NONE') writes.push(disk.write(mark, block, { barrier: true }));
    await Promise.all(writes);
    if (disk.mode === 'NONE') await disk.write(mark, block, { preflush: true, fua: true });
    waits.push(clock.now - from);
  }
}

/** @param {readonly number[]} values */
function mean(values) {
  return Math.round(values.reduce((sum, value) => sum + value, 0) / values.length);
}
