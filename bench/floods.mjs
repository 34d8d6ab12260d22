// A polite client of the NBD server beside clients that flood it, and the same on qemu-nbd and nbdkit's file plugin in the same run:
// `node bench/floods.mjs` after a build, or `npm run bench -- floods`; `--json`, `--rounds=5` and `--seconds=2` as for `nbd`,
// `--only=writers` for one flood.
//
// The polite client reads 4 KiB at random places, one read after the other. Of each run the time is taken that 99 of a hundred
// reads do not exceed, from `BEGIN_MS` after the flood has begun: until then its clients connect, those that read
// nothing fill the memory that a server gives them, and V8 compiles anew what meets new cases. The figure of that beginning is a fact
// of each row. A run without a flood comes first. A ratio is that of the same round: the rival's time to ours, so more is better,
// and `target` is what the server must reach: two thirds, which is 1.5 times as long as qemu-nbd. The limit is the smallest server
// that Node can be (nbd-bare.mjs).
//
// Servers, polite client and flood are processes of their own, and on few processors they wait for each other.

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { median } from './figures.mjs';
import { Client, EXPORT_BYTES, FLOODS } from './flood-client.mjs';
import { isThere, numberOf, SERVERS, started } from './nbd.mjs';
import { printRow, say } from './rows.mjs';

const [ROUNDS, SECONDS] = [numberOf('rounds', 5), numberOf('seconds', 2)];
const ONLY = process.argv.find((word) => word.startsWith('--only='))?.slice(7) ?? '';
const READ_BYTES = 4096;
const TARGETS = { 'qemu-nbd': 0.67 };
const CONNECTIONS = 62;
/** How long a flood begins, in milliseconds. */
const BEGIN_MS = 1000;
/** By their names: the first is held against the others, and the last is the limit. */
const NAMES = ['ours', 'qemu-nbd', 'nbdkit file', 'the smallest server'];

/** Floods of other programs, by what they run. */
const PROGRAMS = {
  [`fio with verify, ${CONNECTIONS} x 16`]: (socket) => [
    'fio',
    ...['--name=flood', '--ioengine=nbd', '--rw=randwrite', '--bs=4k', '--size=1m'],
    ...['--verify=crc32c', '--verify_backlog=64', '--verify_fatal=1', '--time_based'],
    ...['--runtime=3600', '--thread', `--numjobs=${CONNECTIONS}`, '--offset_increment=1m'],
    ...['--iodepth=16', '--output=/dev/null', `--uri=nbd+unix:///?socket=${socket}`],
  ],
};
const OWN = fileURLToPath(new URL('flood-client.mjs', import.meta.url));
const QUIET = 'no flood';
const KINDS = {
  [QUIET]: undefined,
  ...Object.fromEntries(
    Object.keys(FLOODS).map((name) => [name, (socket) => [process.execPath, OWN, socket, name]]),
  ),
  ...PROGRAMS,
};

/** The polite client beside floods, on each server in turn. */
export async function floods() {
  const missing = [];
  for (const name of ['fio', 'qemu-nbd', 'nbdkit']) if (!(await isThere(name))) missing.push(name);
  if (missing.length > 0) {
    say(`floods: not measured, missing ${missing.join(', ')}\n`);
    return;
  }
  const folder = await mkdtemp(join(tmpdir(), 'write-barrier-bench-'));
  const kinds = NAMES.map((name) => SERVERS.find((server) => server.name === name));
  try {
    say(`floods: reads of 4 KiB beside each flood, ${ROUNDS} rounds`);
    for (const [name, flood] of Object.entries(KINDS)) {
      if (!name.includes(ONLY)) continue;
      const runs = kinds.map(() => []);
      for (let round = 0; round < ROUNDS; round += 1) {
        for (let turn = 0; turn < kinds.length; turn += 1) {
          const s = (turn + round) % kinds.length;
          runs[s].push(await measured(kinds[s], flood, folder));
        }
      }
      print(name, kinds, runs);
    }
    say('');
  } finally {
    await rm(folder, { recursive: true });
  }
}

function print(name, kinds, runs) {
  const [p99, began] = ['p99', 'began'].map((figure) =>
    runs.map((run) => run.map((one) => one[figure])),
  );
  const ratiosOf = (server, rival) => p99[server].map((ms, round) => p99[rival][round] / ms);
  say(`  ${name}: 99 of 100 reads within ${median(p99[0]).toFixed(2)} ms`);
  for (let i = 1; i < kinds.length; i += 1) {
    const rival = kinds[i].name;
    const facts = { p99Ms: median(p99[0]), p99MsOfRival: median(p99[i]) };
    if (name !== QUIET) {
      facts.beginsMs = median(began[0]);
      facts.beginsMsOfRival = median(began[i]);
    }
    printRow({
      ...{ bench: 'floods', work: name, command: 'a read of 4 KiB, one after the other', rival },
      ...{ ratios: ratiosOf(0, i), target: TARGETS[rival], facts },
      ...(rival in TARGETS && { limit: ratiosOf(kinds.length - 1, i) }),
    });
  }
}

/** In milliseconds. A server of its own for each run, because a flood leaves it with work. */
async function measured(kind, flood, folder) {
  // Some servers have a line for each request that they refuse.
  const server = await started(kind, folder, EXPORT_BYTES, 'ignore');
  const polite = await Client.open(server.socket);
  // V8 compiles what has run often.
  await reads(polite, kind, setTimeout(SECONDS * 1000));
  const flooding = flood && begun(flood(server.socket), folder);
  const began = await reads(polite, kind, flooding?.began ?? Promise.resolve());
  const took = await reads(polite, kind, setTimeout(SECONDS * 1000));
  polite.end();
  await flooding?.end();
  await server.stop();
  await rm(server.socket, { force: true });
  return { p99: p99Of(took), began: p99Of(began) };
}

function p99Of(took) {
  return took.sort((a, b) => a - b)[Math.ceil(took.length * 0.99) - 1];
}

/** Reads until then, one after the other; answers with how long each took, in milliseconds. */
async function reads(polite, { name }, end) {
  const took = [];
  let isOver = false;
  const over = end.finally(() => {
    isOver = true;
  });
  while (!isOver) {
    const at = EXPORT_BYTES / 2 + Math.floor(Math.random() * 1000) * READ_BYTES;
    const start = performance.now();
    const { error } = await polite.read(at, READ_BYTES);
    took.push(performance.now() - start);
    if (error !== 0) throw new Error(`${name} answers with error ${error}`);
  }
  await over;
  return took;
}

/** `began` settles when the flood is at its height. */
function begun([program, ...rest], cwd) {
  const child = spawn(program, rest, { cwd, stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const starts = async () => {
    // Ours says when all its clients are there; fio has no words for it.
    if (program === process.execPath) {
      await Promise.race([new Promise((resolve) => child.stdout.once('data', resolve)), exited]);
    } else {
      await setTimeout(1000);
    }
    await setTimeout(BEGIN_MS);
    if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}`);
  };
  return {
    began: starts(),
    end: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await floods();
