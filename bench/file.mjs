// What the scheduler and FileStorage cost above the calls of Node: processor time for 4 KiB at random places of a file, of all
// threads, because its thread pool is a part of the price. `npm run bench -- file`; `--json` prints JSON lines.
//
// Ours and the rival take turns in one process, a round of each, and the ratio is that of neighbours.

import fs from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { IoScheduler } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { median } from './figures.mjs';
import { SmallestScheduler } from './limits.mjs';
import { printRow, say } from './rows.mjs';

const BLOCK = 4096;
const BLOCKS = 4096;
const IN_FLIGHT = 32;
const ROUNDS = 25;
const COUNT = 10_000;

/** A place that looks like any other, and the same ones in each round. */
const place = (i) => ((i * 7919) % BLOCKS) * BLOCK;

/** Processor time of an operation, `inFlight` at once, in microseconds. */
async function cpuUsOf(operation, inFlight) {
  let next = 0;
  const worker = async () => {
    while (next < COUNT) await operation(next++);
  };
  const before = process.cpuUsage();
  await Promise.all(Array.from({ length: inFlight }, worker));
  const { user, system } = process.cpuUsage(before);
  return (user + system) / COUNT;
}

async function compare({ work, ours, rival, theirs, smallest, inFlight = IN_FLIGHT, target }) {
  const [own, other, ratios] = [[], [], []];
  const limit = smallest && [];
  // The first rounds warm up.
  for (let round = -3; round < ROUNDS; round++) {
    const pair = [await cpuUsOf(ours, IN_FLIGHT), await cpuUsOf(theirs, inFlight)];
    if (round < 0) continue;
    own.push(pair[0]);
    other.push(pair[1]);
    ratios.push(pair[1] / pair[0]);
    limit?.push(pair[1] / (await cpuUsOf(smallest, IN_FLIGHT)));
  }
  const facts = { cpuUs: median(own), cpuUsOfRival: median(other) };
  say(`  ${work}, processor time of ours in that of the rival`);
  printRow({
    bench: 'file',
    work,
    command: 'npm run bench -- file',
    rival,
    ratios,
    target,
    limit,
    facts,
  });
}

/** What the scheduler and FileStorage cost above the calls of Node. */
export async function file() {
  const folder = await mkdtemp(join(tmpdir(), 'write-barrier-bench-'));
  const path = join(folder, 'disk.img');
  const data = new Uint8Array(BLOCK).fill(7);
  const into = Array.from({ length: IN_FLIGHT }, () => new Uint8Array(BLOCK));
  const options = { size: BLOCKS * BLOCK, lock: 'none' };
  const disk = new IoScheduler(await FileStorage.open(path, options));
  const inline = new IoScheduler(
    await FileStorage.open(path, { ...options, inlineWriteMax: 64 * 1024 }),
  );
  const smallestStorage = await FileStorage.open(path, options);
  const least = new SmallestScheduler(smallestStorage);
  const handle = await open(path, 'r+');
  await handle.write(Buffer.alloc(BLOCKS * BLOCK, 1));
  const bare = (call, buffer, at) =>
    new Promise((resolve, reject) => {
      call(handle.fd, buffer, 0, BLOCK, at, (error) => (error ? reject(error) : resolve()));
    });
  say(`file: 4 KiB at random places, ${IN_FLIGHT} in flight`);
  await compare({
    work: 'writes',
    ours: (i) => disk.write(place(i), data),
    rival: 'fs.write',
    theirs: (i) => bare(fs.write, data, place(i)),
    smallest: (i) => least.write(place(i), data),
    target: 0.8,
  });
  await compare({
    work: 'reads',
    ours: (i) => disk.read(place(i), into[i % IN_FLIGHT]),
    rival: 'fs.read',
    theirs: (i) => bare(fs.read, into[i % IN_FLIGHT], place(i)),
    smallest: (i) => least.read(place(i), into[i % IN_FLIGHT]),
    target: 0.8,
  });
  await compare({
    work: 'writes with inlineWriteMax',
    ours: (i) => inline.write(place(i), data),
    rival: 'fs.writeSync in a loop',
    // Not as promises, because a loop of writeSync has none.
    theirs: (first) => {
      if (first > 0) return;
      for (let i = 0; i < COUNT; i++) fs.writeSync(handle.fd, data, 0, BLOCK, place(i));
    },
    inFlight: 1,
    target: 0.6,
  });
  await handle.close();
  await disk.close();
  await inline.close();
  await smallestStorage.close();
  await rm(folder, { recursive: true });
  say('');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await file();
