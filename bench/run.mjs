// Benchmarks: ratios against named rivals, measured in turn in one process, so that a machine whose speed drifts
// does not decide. `npm run bench` runs all, `npm run bench -- NAME` one of them.

import { execFileSync } from 'node:child_process';
import { mkdtemp, open, rm, statfs, writeFile } from 'node:fs/promises';
import { cpus, loadavg, tmpdir, type } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fastq from 'fastq';
import { build } from 'tsup';
import { IoScheduler, MemoryStorage } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { seededRandom } from 'write-barrier/testing';
import { crashSpace, DiskRecorder } from 'write-barrier/testing/lab';
import { directory } from './directory.mjs';
import { median, perSecond, ratioOf } from './figures.mjs';
import { file } from './file.mjs';
import { floods } from './floods.mjs';
import { nbd } from './nbd.mjs';
import { speed } from './speed.mjs';
import { sqliteVfs } from './sqlite-vfs.mjs';

const BLOCK = 4096;
const IN_FLIGHT = 32;
const ROUNDS = 25;

/** Runs `count` operations with `inFlight` at once; answers operations per second. */
async function rate(count, operation, inFlight) {
  let next = 0;
  const worker = async () => {
    while (next < count) await operation(next++);
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: inFlight }, worker));
  return (count / (performance.now() - start)) * 1000;
}

/** A B A B ...: the median of the ratios of neighbouring runs, after a warm-up of both. */
async function compare(name, count, ours, rival, { inFlight = IN_FLIGHT, rounds = ROUNDS } = {}) {
  const ratios = [];
  const rates = [[], []];
  for (let round = -2; round < rounds; round++) {
    const pair = [
      await rate(count, ours.operation, inFlight),
      await rate(count, rival.operation, inFlight),
    ];
    if (round < 0) continue;
    ratios.push(pair[0] / pair[1]);
    for (const [i, value] of pair.entries()) rates[i].push(value);
  }
  const [a, b] = rates.map(perSecond);
  console.log(`${name}\n  ${ours.name}: ${a}   ${rival.name}: ${b}`);
  console.log(`  ratio ${ratioOf(ratios)}\n`);
}

/** The time of each way in units of the first one, measured in turn. The first two rounds warm up. */
async function compareAll(title, count, inFlight, ways) {
  const rounds = [];
  for (let round = -2; round < ROUNDS; round++) {
    const rates = [];
    for (const way of Object.values(ways)) rates.push(await rate(count, way, inFlight));
    if (round >= 0) rounds.push(rates.map((one) => rates[0] / one));
  }
  console.log(`commit: ${title}; times in units of the first`);
  const bars = Object.keys(ways).map((name, at) => {
    const times = rounds.map((one) => one[at]);
    console.log(`  ${name}: ${ratioOf(times)}`);
    return { name, time: Number(median(times).toFixed(3)) };
  });
  console.log('');
  return { title, bars };
}

/** The magic numbers of statfs(2) of the file systems that we know. */
const FILE_SYSTEMS = { 61267: 'ext4', 1481003842: 'XFS', 2435016766: 'btrfs', 16914836: 'tmpfs' };

async function writeCost(folder, groups) {
  const [{ model }] = cpus();
  const [load] = loadavg();
  const system = FILE_SYSTEMS[(await statfs(folder)).type] ?? 'an unknown file system';
  const figures = {
    command: 'npm run bench -- commit --write',
    // The load, because figures of a busy machine are worth less.
    machine: `${cpus().length} cores (${model.trim()}) with a load of ${Math.round(load)}, ${system}, ${type()}, Node ${process.versions.node}`,
    date: new Date().toISOString().slice(0, 10),
    groups,
  };
  await writeFile(new URL('cost.json', import.meta.url), `${JSON.stringify(figures, null, 2)}\n`);
}

const SECTOR = 512;

/** Writes that nothing separates, on a disk of 1 MiB. */
function oneEpoch(writes) {
  const recorder = new DiskRecorder(1 << 20);
  const command = { op: 'write', length: SECTOR, tag: 'simple', fua: false };
  for (let i = 0; i < writes; i++) {
    const data = new Uint8Array(SECTOR).fill(i + 1);
    recorder.complete(recorder.dispatch({ ...command, offset: i * SECTOR }, data));
  }
  return recorder.trace;
}

/** A storage that answers everything and keeps nothing. */
function doNothing(cache) {
  return {
    size: BLOCK * BLOCK,
    capabilities: { blockSize: BLOCK, cache, flush: true, fua: true, orderedTags: false },
    read: async () => {},
    write: async () => {},
    flush: async () => {},
    close: async () => {},
  };
}

const BENCHMARKS = {
  /** What a plain request costs, where the storage does nothing. */
  async overhead() {
    const data = new Uint8Array(BLOCK);
    for (const cache of ['none', 'volatile']) {
      const disk = new IoScheduler(doNothing(cache));
      const queue = fastq.promise(async () => {}, 64);
      await compare(
        `overhead: plain writes, do-nothing storage with cache '${cache}', ${IN_FLIGHT} in flight`,
        300_000,
        { name: 'IoScheduler.write', operation: (i) => disk.write((i % BLOCK) * BLOCK, data) },
        { name: 'fastq.promise (64)', operation: (i) => queue.push(i) },
      );
    }
  },

  /** What it costs that errors carry the frame of the call: a stack is taken for each request. */
  async stacks() {
    const data = new Uint8Array(BLOCK);
    const [plain, traced] = [false, true].map((stackTraces) => {
      const disk = new IoScheduler(doNothing('volatile'), { stackTraces });
      return (i) => disk.write((i % BLOCK) * BLOCK, data);
    });
    await compare(
      `stacks: plain writes, do-nothing storage, ${IN_FLIGHT} in flight`,
      100_000,
      { name: 'with stackTraces', operation: traced },
      { name: 'without', operation: plain },
    );
  },

  /** How fast crash images are counted through: against a full copy of the image for each. */
  async crash() {
    const space = crashSpace(oneEpoch(20), { sectorSize: SECTOR });
    const timed = (name, count, work) => {
      const rates = Array.from({ length: 5 }, () => {
        const start = performance.now();
        work(count);
        return (count / (performance.now() - start)) * 1000;
      });
      console.log(`  ${name}: ${perSecond(rates)}`);
      return median(rates);
    };
    console.log(`crash: one epoch, 20 sectors in doubt, ${space.count} images`);
    const random = seededRandom(1);
    const walked = timed('images, one after the other', 1_000_000, (count) => {
      for (const _ of space) if (--count === 0) break;
    });
    timed('uniform draws', 300_000, (count) => {
      for (let i = 0; i < count; i++) space.sample(random);
    });
    const copied = timed('images, a full copy of 1 MiB each', 2_000, (count) => {
      for (let i = 0; i < count; i++) space.at(BigInt(i)).image();
    });
    console.log(`  ratio of walked to copied ${Math.round(walked / copied)}\n`);
  },

  /**
   * Crash spaces of large logs: made, counted, 1,000 states drawn, 1,000 recoveries. Its rival, replay-log of dm-log-writes'
   * userspace, replays one prefix after the other and is in no package, so beside each figure is our goal.
   */
  async logs() {
    const script = fileURLToPath(new URL('../test/testing/real-logs.mjs', import.meta.url));
    const goal = { heapMib: 300, mibMax: 300, seconds: 5 };
    // A log of this size takes half of its own size beside itself.
    const large = { heapMib: 420, mibMax: 512, seconds: 10 };
    const goals = { discard: goal, discards: goal, mixed: goal, gibibyte: large };
    for (const [name, { heapMib, mibMax, seconds }] of Object.entries(goals)) {
      const words = [`--max-old-space-size=${heapMib}`, script, name];
      const runs = Array.from({ length: 3 }, () =>
        JSON.parse(execFileSync(process.execPath, words, { encoding: 'utf8' })),
      );
      const [ms, mib] = ['ms', 'mib'].map((figure) => median(runs.map((run) => run[figure])));
      const [{ entries, steps }] = runs;
      console.log(`logs: ${name}, ${entries} entries`);
      console.log(
        `  ${ms} ms (goal ${1000 * seconds}), ${mib} MiB beside the log (goal ${mibMax})`,
      );
      console.log(`  made, counted, sampled, explored: ${steps.join(', ')} ms\n`);
    }
  },

  /** How often SQLite recovers on a disk that has not decided: against a copy of the image for each recovery. */
  async sqlite() {
    const { Engine, recover, runOf } = await ladder();
    const engine = await Engine.load();
    for (const [journal, synchronous, recoveries] of [
      ['DELETE', 'EXTRA', 100],
      ['WAL', 'FULL', 2_000],
    ]) {
      const rung = { journal, synchronous };
      const run = runOf(engine, rung);
      const lazy = () => {
        let count = 0;
        for (const { disk } of run.space.explore()) {
          recover(engine, rung, disk);
          count += 1;
          if (count === recoveries) return count;
        }
        return count;
      };
      const random = seededRandom(1);
      const copied = () => {
        for (let i = 0; i < recoveries; i++) {
          const image = run.space.sample(random).image();
          recover(engine, rung, new MemoryStorage(image, { capabilities: { blockSize: SECTOR } }));
        }
        return recoveries;
      };
      const ratios = [];
      const rates = [[], []];
      for (let round = -1; round < 5; round++) {
        const pair = [lazy, copied].map((work) => {
          const start = performance.now();
          return (work() / (performance.now() - start)) * 1000;
        });
        if (round < 0) continue;
        ratios.push(pair[0] / pair[1]);
        for (const [i, value] of pair.entries()) rates[i].push(value);
      }
      const [a, b] = rates.map(perSecond);
      console.log(`sqlite: ${journal}/${synchronous}, ${run.space.count} images`);
      console.log(`  recoveries: ${a}   on copies of drawn images: ${b}`);
      console.log(`  ratio ${median(ratios).toFixed(2)}\n`);
    }
  },

  file,

  /**
   * What durability costs on a file: here, by the calls that a program would make without this library, and not at all. With
   * `--write` the ratios become `bench/cost.json`, from which the picture of the pages is drawn.
   */
  async commit() {
    const folder = await mkdtemp(join(tmpdir(), 'write-barrier-bench-'));
    const blocks = 4096;
    const data = new Uint8Array(BLOCK).fill(7);
    const place = (i) => ((2 * i) % blocks) * BLOCK;
    const disk = new IoScheduler(
      await FileStorage.open(join(folder, 'ours.img'), { size: blocks * BLOCK, lock: 'none' }),
    );
    const handle = await open(join(folder, 'rival.img'), 'w+');
    await handle.write(new Uint8Array(blocks * BLOCK));
    const write = (offset) => handle.write(data, 0, BLOCK, offset);
    const durable = async (offset) => {
      await write(offset);
      await handle.datasync();
    };
    const groups = [
      await compareAll('commits, one after the other', 40, 1, {
        'write, fdatasync, write, fdatasync': async (i) => {
          await durable(place(i));
          await durable(place(i) + BLOCK);
        },
        'here: write, write with barrier': (i) =>
          Promise.all([
            disk.write(place(i), data),
            disk.write(place(i) + BLOCK, data, { barrier: true }),
          ]),
        'write, write: no order, not durable': async (i) => {
          await write(place(i));
          await write(place(i) + BLOCK);
        },
      }),
      await compareAll('appends, 64 at once', 1024, 64, {
        'write, fdatasync': (i) => durable(place(i)),
        'here: write, flush': (i) => Promise.all([disk.write(place(i), data), disk.flush()]),
        'write: not durable': (i) => write(place(i)),
      }),
    ];
    if (process.argv.includes('--write')) await writeCost(folder, groups);
    await handle.close();
    await disk.close();
    await rm(folder, { recursive: true });
  },

  /** A request, row by row, beside rivals and limits: see docs/performance.md. */
  speed() {
    return speed(
      wanted.filter((word) => word !== 'speed'),
      process.argv.includes('--json'),
    );
  },

  /** Files of a directory against plain files that are as durable. */
  directory,

  /** Transactions of SQLite on a directory, on wa-sqlite's own file systems, and by the command sqlite3. */
  'sqlite-vfs': sqliteVfs,

  nbd,

  /** A polite client of the NBD server beside clients that flood it. */
  floods,
};

/** The tests' own SQLite on a simulated disk, built for this. */
async function ladder() {
  const folder = new URL('../.cache/bench/', import.meta.url);
  await build({
    entry: ['engine', 'ladder'].map((name) => `test/testing/sqlite/${name}.ts`),
    outDir: fileURLToPath(folder),
    format: 'esm',
    splitting: true,
    external: [/^write-barrier/],
    config: false,
    silent: true,
  });
  const [{ Engine }, rest] = await Promise.all(
    ['engine', 'ladder'].map((name) => import(new URL(`${name}.js`, folder))),
  );
  return { Engine, ...rest };
}

const wanted = process.argv.slice(2).filter((word) => !word.startsWith('--'));
// What follows `speed` are rows of it.
const groups = wanted.includes('speed') ? ['speed'] : wanted;
for (const [name, run] of Object.entries(BENCHMARKS)) {
  if (groups.length === 0 || groups.includes(name)) await run();
}
