// How fast a request is, row by row; docs/performance.md explains each. A row has our figure, its rivals, and its limit (limits.mjs),
// all measured in turn in one process. JavaScript is measured by CPU time, because other programs take wall time and not CPU time;
// what waits for a disk is measured by wall time, with the CPU time beside it.
//
//   npm run bench -- speed               all rows
//   npm run bench -- speed plain fua     some of them
//   npm run bench -- speed --json        a line of JSON for each row
//   npm run bench -- speed held          bytes instead of times

import fs from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { newQueue } from '@henrygd/queue';
import fastq from 'fastq';
import PQueue from 'p-queue';
import { IoScheduler, MemoryStorage, SchedulerGroup, transformer } from 'write-barrier';
import { answerCall, Driver, executeOn } from 'write-barrier/kit';
import { FileStorage } from 'write-barrier/node';
import { median } from './figures.mjs';
import {
  commitsOn,
  commitsTogether,
  epochsTogether,
  FirstInFirstOut,
  handDrain,
  SmallestGatherer,
  SmallestScheduler,
  smallestMember,
  writeAndSync,
} from './limits.mjs';

const BLOCK = 4096;
const SECTOR = 512;
const BYTES = 1 << 24;
const ROUNDS = 15;
const BLOCK_OF_DATA = new Uint8Array(BLOCK).fill(7);
const SECTOR_OF_DATA = new Uint8Array(SECTOR).fill(7);

const blockOf = (i) => (i * BLOCK) % BYTES;
const sectorOf = (i) => (i * SECTOR) % BYTES;
const scattered = (i) => ((i * 2654435761) % (BYTES / BLOCK)) * BLOCK;

/** A storage that answers everything, later, and keeps nothing. */
const NOTHING = {
  size: BYTES,
  capabilities: { blockSize: BLOCK, cache: 'volatile', flush: true, fua: true, orderedTags: false },
  read: async () => {},
  write: async () => {},
  flush: async () => {},
  close: async () => {},
};

/** The same as a file is: it takes what is gathered, and blocks of 512 bytes. */
const NOTHING_GATHERED = {
  ...NOTHING,
  capabilities: { ...NOTHING.capabilities, blockSize: SECTOR, writev: true, gathers: true },
  writev: async () => {},
};

/** `count` operations, `width` at once. */
async function together(count, width, operation) {
  let next = 0;
  const worker = async () => {
    while (next < count) await operation(next++);
  };
  await Promise.all(Array.from({ length: width }, worker));
}

function* requests(count, every) {
  for (let i = 0; i < count; i++) {
    const offset = i * SECTOR;
    yield i % every === every - 1
      ? { kind: 'write', offset, length: SECTOR, barrier: true }
      : { kind: 'write', offset, length: SECTOR };
  }
}

function walk(count, every) {
  let steps = 0;
  for (const _ of transformer('DRAIN_FLUSH')(requests(count, every))) steps += 1;
  return steps;
}

const DONE = Promise.resolve();

/** 64 committers, each of which appends a sector and flushes. */
const commitsBy = (disk) => (count) =>
  together(count, 64, (i) => Promise.all([disk.write(sectorOf(i), SECTOR_OF_DATA), disk.flush()]));

const every = (n) => (i) => (i % n === n - 1 ? { barrier: true } : undefined);

/**
 * Each row: how many operations a round has, what is measured, and its ways: ours first. A way `limit` is no rival. The ways
 * get a folder for files, and what must be closed at the end.
 */
const ROWS = {
  plain: {
    about: 'plain writes, do-nothing storage, 32 in flight',
    count: 60_000,
    ways: () => {
      const disk = new IoScheduler(NOTHING);
      const queue = fastq.promise(async () => {}, 64);
      const small = newQueue(64);
      const large = new PQueue({ concurrency: 64 });
      const limit = new SmallestScheduler(NOTHING);
      const nothing = async () => {};
      const run = (operation) => (count) => together(count, 32, operation);
      return {
        ours: run((i) => disk.write(blockOf(i), BLOCK_OF_DATA)),
        'fastq.promise': run((i) => queue.push(i)),
        'p-queue': run(() => large.add(nothing)),
        '@henrygd/queue': run(() => small.add(nothing)),
        limit: run((i) => limit.write(blockOf(i), BLOCK_OF_DATA)),
      };
    },
  },

  parts: {
    about: 'the same with parts left out: where the time of a plain write goes',
    count: 60_000,
    ways: () => {
      const disk = new IoScheduler(NOTHING);
      const smallest = new SmallestScheduler(NOTHING);
      const driver = new Driver(new FirstInFirstOut(), {
        execute: executeOn(NOTHING),
        answer: answerCall,
        name: 'a queue',
      });
      const drive = (offset, data) =>
        new Promise((resolve, reject) => {
          const request = { kind: 'write', offset, length: data.byteLength };
          driver.submit({ number: 0, request, data, resolve, reject });
        });
      const run = (operation) => (count) => together(count, 32, operation);
      return {
        ours: run((i) => disk.write(blockOf(i), BLOCK_OF_DATA)),
        'the driver with a queue that decides nothing': run((i) =>
          drive(blockOf(i), BLOCK_OF_DATA),
        ),
        'the smallest scheduler': run((i) => smallest.write(blockOf(i), BLOCK_OF_DATA)),
        'the storage alone': run((i) => NOTHING.write(blockOf(i), BLOCK_OF_DATA)),
      };
    },
  },

  collected: {
    about: 'the same after a full garbage collection at an idle moment',
    count: 60_000,
    ways: () => {
      setFlagsFromString('--expose-gc');
      const collect = runInNewContext('gc');
      const disk = new IoScheduler(NOTHING);
      const run = (count) => together(count, 32, (i) => disk.write(blockOf(i), BLOCK_OF_DATA));
      return { ours: { before: collect, run }, 'without it': { before: () => run(60_000), run } };
    },
  },

  barrier: {
    about: 'a barrier every 8 writes, do-nothing storage, 32 in flight',
    count: 60_000,
    ways: () => {
      const disk = new IoScheduler(NOTHING);
      const limit = new SmallestScheduler(NOTHING);
      const barrier = every(8);
      return {
        ours: (count) =>
          together(count, 32, (i) => disk.write(blockOf(i), BLOCK_OF_DATA, barrier(i))),
        'drain by hand': (count) => handDrain(NOTHING, count, 8, blockOf, BLOCK_OF_DATA),
        limit: (count) =>
          together(count, 32, (i) => limit.write(blockOf(i), BLOCK_OF_DATA, barrier(i))),
      };
    },
  },

  member: {
    about: 'writes of a scheduler on the only member of a group, memory, 32 in flight',
    count: 60_000,
    ways: () => {
      const on = (storage) => {
        const disk = new IoScheduler(storage);
        return (count) => together(count, 32, (i) => disk.write(blockOf(i), BLOCK_OF_DATA));
      };
      return {
        ours: on(new SchedulerGroup(new MemoryStorage(BYTES)).member()),
        'a scheduler on the storage': on(new MemoryStorage(BYTES)),
        limit: on(smallestMember(new MemoryStorage(BYTES))),
      };
    },
  },

  'member-later': {
    about: 'the same on a do-nothing storage that answers later',
    count: 60_000,
    ways: () => {
      const on = (storage) => {
        const disk = new IoScheduler(storage);
        return (count) => together(count, 32, (i) => disk.write(blockOf(i), BLOCK_OF_DATA));
      };
      return {
        ours: on(new SchedulerGroup(NOTHING).member()),
        'a scheduler on the storage': on({ ...NOTHING }),
        limit: on(smallestMember({ ...NOTHING })),
      };
    },
  },

  'member-file': {
    about: 'random writes of 4 KiB on a file, by the only member of a group, 32 in flight',
    count: 20_000,
    isFile: true,
    ways: async ({ storage }) => {
      // One file, because the pages of a second one, and their way to the disk, cost more than what differs here.
      const file = await storage();
      const [alone, member, limit] = [
        new IoScheduler(file),
        new IoScheduler(new SchedulerGroup(file).member()),
        new IoScheduler(smallestMember(file)),
      ];
      const run = (disk) => (count) =>
        together(count, 32, (i) => disk.write(scattered(i), BLOCK_OF_DATA));
      return { ours: run(member), 'a scheduler on the storage': run(alone), limit: run(limit) };
    },
  },

  transformer: {
    about: 'steps of plain requests, with the generator that makes them',
    count: 1_000_000,
    ways: () => ({ ours: (count) => walk(count, Number.POSITIVE_INFINITY) }),
  },

  'transformer-barrier': {
    about: 'steps of requests, every eighth a barrier',
    count: 1_000_000,
    ways: () => ({ ours: (count) => walk(count, 8) }),
  },

  commit: {
    about: '64 committers append 512 bytes and flush',
    count: 2048,
    isFile: true,
    ways: async ({ scheduler, storage, file }) => {
      const disk = await scheduler();
      const smallest = new SmallestGatherer(await storage());
      const fds = [await file(), await file()];
      return {
        ours: commitsBy(disk),
        'write, fdatasync each': (count) =>
          together(count, 64, (i) => writeAndSync(fds[0], sectorOf(i), SECTOR_OF_DATA)),
        'the smallest scheduler': commitsBy(smallest),
        limit: (count) => commitsTogether(fds[1], count, 64, sectorOf, SECTOR_OF_DATA),
      };
    },
  },

  'commit-parts': {
    about: 'the same with parts left out: where the processor time of a commit goes',
    count: 16_384,
    isFile: true,
    ways: async ({ scheduler, storage, file }) => {
      const disk = await scheduler();
      const smallest = new SmallestGatherer(await storage());
      const alone = await storage();
      const fd = await file();
      const onNothing = new IoScheduler(NOTHING_GATHERED);
      const smallestOnNothing = new SmallestGatherer(NOTHING_GATHERED);
      return {
        ours: commitsBy(disk),
        'the smallest scheduler': commitsBy(smallest),
        'the storage alone': (count) => commitsOn(alone, count, 64, sectorOf, SECTOR_OF_DATA),
        'writev and fdatasync alone': (count) =>
          commitsTogether(fd, count, 64, sectorOf, SECTOR_OF_DATA),
        'ours, do-nothing storage': commitsBy(onNothing),
        'the smallest scheduler, do-nothing storage': commitsBy(smallestOnNothing),
        'the committers alone': (count) => together(count, 64, () => Promise.all([DONE, DONE])),
      };
    },
  },

  fua: {
    about: '64 committers append 512 bytes with FUA',
    count: 1024,
    isFile: true,
    ways: async ({ scheduler, file }) => {
      const disk = await scheduler();
      const fds = [await file(), await file()];
      const forced = { fua: true };
      return {
        ours: (count) =>
          together(count, 64, (i) => disk.write(sectorOf(i), SECTOR_OF_DATA, forced)),
        'write, fdatasync each': (count) =>
          together(count, 64, (i) => writeAndSync(fds[0], sectorOf(i), SECTOR_OF_DATA)),
        limit: (count) => commitsTogether(fds[1], count, 64, sectorOf, SECTOR_OF_DATA),
      };
    },
  },

  sequential: {
    about: 'sequential 512 bytes, 32 in flight, a barrier every 64',
    count: 4096,
    isFile: true,
    ways: async ({ scheduler, file }) => {
      const disk = await scheduler();
      const fd = await file();
      const barrier = every(64);
      return {
        ours: (count) =>
          together(count, 32, (i) => disk.write(sectorOf(i), SECTOR_OF_DATA, barrier(i))),
        limit: (count) => epochsTogether(fd, count, 64, sectorOf, SECTOR_OF_DATA),
      };
    },
  },

  write: {
    about: 'random writes of 4 KiB, 32 in flight, thread pool',
    count: 20_000,
    isFile: true,
    ways: async ({ scheduler, storage, file }) => {
      const disk = await scheduler();
      const limit = new SmallestScheduler(await storage());
      const fd = await file();
      const write = promisify(fs.write);
      return {
        ours: (count) => together(count, 32, (i) => disk.write(scattered(i), BLOCK_OF_DATA)),
        'fs.write': (count) =>
          together(count, 32, (i) => write(fd, BLOCK_OF_DATA, 0, BLOCK, scattered(i))),
        limit: (count) => together(count, 32, (i) => limit.write(scattered(i), BLOCK_OF_DATA)),
      };
    },
  },

  read: {
    about: 'random reads of 4 KiB, 32 in flight, thread pool',
    count: 20_000,
    isFile: true,
    ways: async ({ scheduler, storage, file }) => {
      const disk = await scheduler();
      const limit = new SmallestScheduler(await storage());
      const fd = await file();
      const read = promisify(fs.read);
      const buffers = Array.from({ length: 32 }, () => new Uint8Array(BLOCK));
      return {
        ours: (count) => together(count, 32, (i) => disk.read(scattered(i), buffers[i % 32])),
        'fs.read': (count) =>
          together(count, 32, (i) => read(fd, buffers[i % 32], 0, BLOCK, scattered(i))),
        limit: (count) => together(count, 32, (i) => limit.read(scattered(i), buffers[i % 32])),
      };
    },
  },

  inline: {
    about: 'random writes of 4 KiB with inlineWriteMax, 32 in flight',
    count: 20_000,
    isFile: true,
    ways: async ({ scheduler, file }) => {
      const disk = await scheduler({ inlineWriteMax: 1 << 16 });
      const fd = await file();
      return {
        ours: (count) => together(count, 32, (i) => disk.write(scattered(i), BLOCK_OF_DATA)),
        limit: (count) => {
          for (let i = 0; i < count; i++) fs.writeSync(fd, BLOCK_OF_DATA, 0, BLOCK, scattered(i));
        },
      };
    },
  },
};

/** Files in a folder of their own, and the schedulers over them. */
async function openFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'write-barrier-speed-'));
  const ends = [];
  let files = 0;
  const opened = {
    async storage(options) {
      const path = join(folder, `${files++}`);
      const how = { size: BYTES, blockSize: SECTOR, lock: 'none', ...options };
      const storage = await FileStorage.open(path, how);
      await storage.write(0, new Uint8Array(BYTES), { fua: false, tag: 'simple' });
      ends.push(() => storage.close());
      return storage;
    },
    async scheduler(options) {
      return new IoScheduler(await opened.storage(options));
    },
    async file() {
      const fd = fs.openSync(join(folder, `${files++}`), 'w+');
      fs.writeSync(fd, new Uint8Array(BYTES));
      ends.push(() => fs.closeSync(fd));
      return fd;
    },
    async close() {
      for (const end of ends) await end();
      await rm(folder, { recursive: true });
    },
  };
  return opened;
}

/** Nanoseconds of one operation: of CPU, of all threads, and of wall. */
async function timed(way, count) {
  await way.before?.();
  const run = way.run ?? way;
  const [cpu, start] = [process.cpuUsage(), performance.now()];
  await run(count);
  const wall = (performance.now() - start) * 1e6;
  const { user, system } = process.cpuUsage(cpu);
  return { cpu: ((user + system) * 1000) / count, wall: wall / count };
}

async function measure(name, asJson) {
  const { about, count, isFile = false, ways: make } = ROWS[name];
  const folder = await openFolder();
  const ways = Object.entries(await make(folder));
  const times = new Map(ways.map(([way]) => [way, []]));
  for (let round = -2; round < ROUNDS; round++) {
    // Each way follows each other one equally often, because a way leaves garbage and dirty pages to the next.
    for (let turn = 0; turn < ways.length; turn++) {
      const [way, run] = ways[(turn + round + 2) % ways.length];
      const time = await timed(run, count);
      if (round >= 0) times.get(way).push(time);
    }
  }
  await folder.close();
  const figures = Object.fromEntries(
    Array.from(times, ([way, all]) => {
      const of = (clock) => all.map((time) => time[clock]);
      return [
        way,
        {
          cpuMin: Math.round(Math.min(...of('cpu'))),
          cpuMedian: Math.round(median(of('cpu'))),
          wallMedian: Math.round(median(of('wall'))),
        },
      ];
    }),
  );
  // A ratio above 1: ours is faster. Medians, because the rivals have the same bad moments.
  const ratios = Object.fromEntries(
    Object.keys(figures)
      .slice(1)
      .map((way) => {
        const at = (clock) => Number((figures[way][clock] / figures.ours[clock]).toFixed(2));
        return [way, isFile ? { wall: at('wallMedian'), cpu: at('cpuMedian') } : at('cpuMedian')];
      }),
  );
  // What the smallest code reaches of the first rival: more is not to be had.
  const [, rival] = Object.keys(figures);
  const clock = isFile ? 'wallMedian' : 'cpuMedian';
  const reach = (of) => Number((figures[rival][of] / figures.limit[of]).toFixed(2));
  const isBetween = figures.limit !== undefined && rival !== 'limit';
  const limitTo = isBetween ? { rival, ratio: reach(clock), cpu: reach('cpuMedian') } : undefined;
  const command = `npm run bench -- speed ${name}`;
  if (asJson) {
    const node = process.versions.node;
    const row = { row: name, about, unit: 'ns', figures, ratios, limitTo, command, node };
    console.log(JSON.stringify(row));
    return;
  }
  console.log(`${name}: ${about}; ns for one, \`${command}\``);
  for (const [way, { cpuMin, cpuMedian, wallMedian }] of Object.entries(figures)) {
    const ratio = ratios[way];
    const text = ratio === undefined ? '' : `   ours is ${formatRatio(ratio)} of its speed`;
    console.log(`  ${way}: cpu ${cpuMedian} (min ${cpuMin}), wall ${wallMedian}${text}`);
  }
  if (limitTo)
    console.log(`  the limit is ${formatRatio({ ...limitTo, wall: limitTo.ratio })} of ${rival}`);
  console.log('');
}

function formatRatio(ratio) {
  return typeof ratio === 'number' ? `${ratio}` : `${ratio.wall} (cpu ${ratio.cpu})`;
}

/** Bytes that a request holds while it waits, with its promise: `count` of them on a storage that never answers. */
async function held(asJson) {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  const never = new Promise(() => {});
  const silent = { ...NOTHING, write: () => never, size: 2 ** 31 };
  const disk = new IoScheduler(silent, { maxQueued: 1e6, maxQueuedBytes: Number.MAX_SAFE_INTEGER });
  const smallest = new SmallestScheduler(silent, 32, 1e6);
  const queue = fastq.promise(() => never, 32);
  const ways = {
    ours: (i) => disk.write(i * BLOCK, BLOCK_OF_DATA),
    'fastq.promise': (i) => queue.push(i),
    limit: (i) => smallest.write(i * BLOCK, BLOCK_OF_DATA),
    'a promise with its two functions': () => new Promise((...both) => kept.push(...both)),
  };
  const kept = [];
  const bytesOf = (way) => {
    const promises = new Array(60_000);
    for (let i = 0; i < 10_000; i++) promises[i] = way(i);
    collect();
    const before = process.memoryUsage().heapUsed;
    for (let i = 10_000; i < 60_000; i++) promises[i] = way(i);
    collect();
    const { heapUsed } = process.memoryUsage();
    kept.push(promises);
    return Math.round((heapUsed - before) / 50_000);
  };
  const figures = Object.fromEntries(Object.entries(ways).map(([n, way]) => [n, bytesOf(way)]));
  const command = 'npm run bench -- speed held';
  const about = 'bytes that a queued write holds, with its promise';
  if (asJson) console.log(JSON.stringify({ row: 'held', about, unit: 'bytes', figures, command }));
  else {
    console.log(`held: ${about}, \`${command}\``);
    for (const [way, bytes] of Object.entries(figures)) console.log(`  ${way}: ${bytes}`);
    console.log('');
  }
}

/** The rows of these names, or all. */
export async function speed(names, asJson) {
  if (names.length === 0 || names.includes('held')) await held(asJson);
  for (const name of Object.keys(ROWS)) {
    if (names.length === 0 || names.includes(name)) await measure(name, asJson);
  }
}
