// A polite client of the NBD server beside clients that flood it, and the same on qemu-nbd and nbdkit's file plugin in the same run:
// `node bench/floods.mjs` after a build, or `npm run bench -- floods`; `--json`, `--rounds=5` and `--seconds=2` as for `nbd`,
// `--only=writers` for one flood.
//
// The polite client reads 4 KiB at random places, one read after the other. Of each run the time is taken that 99 of a hundred
// reads do not exceed. A run without a flood comes first. A ratio is that of the same round: the rival's time to ours, so more is
// better, and `target` is what the server must reach: two thirds, which is 1.5 times as long as qemu-nbd.
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
const KINDS = {
  'no flood': undefined,
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
  const wanted = ['ours', ...['qemu-nbd', 'nbdkit file']];
  const kinds = wanted.map((name) => SERVERS.find((server) => server.name === name));
  try {
    say(`floods: reads of 4 KiB beside each flood, ${ROUNDS} rounds`);
    for (const [name, flood] of Object.entries(KINDS)) {
      if (!name.includes(ONLY)) continue;
      const p99 = kinds.map(() => []);
      for (let round = 0; round < ROUNDS; round += 1) {
        for (let turn = 0; turn < kinds.length; turn += 1) {
          const s = (turn + round) % kinds.length;
          p99[s].push(await measured(kinds[s], flood, folder));
        }
      }
      print(name, kinds, p99);
    }
    say('');
  } finally {
    await rm(folder, { recursive: true });
  }
}

function print(name, kinds, p99) {
  say(`  ${name}: 99 of 100 reads within ${median(p99[0]).toFixed(2)} ms`);
  for (let i = 1; i < kinds.length; i += 1) {
    printRow({
      ...{ bench: 'floods', work: name, command: 'a read of 4 KiB, one after the other' },
      rival: kinds[i].name,
      ratios: p99[0].map((ms, round) => p99[i][round] / ms),
      target: TARGETS[kinds[i].name],
      facts: { p99Ms: median(p99[0]), p99MsOfRival: median(p99[i]) },
    });
  }
}

/** In milliseconds. A server of its own for each run, because a flood leaves it with work. */
async function measured(kind, flood, folder) {
  // Some servers have a line for each request that they refuse.
  const server = await started(kind, folder, EXPORT_BYTES, 'ignore');
  const polite = await Client.open(server.socket);
  // V8 compiles what has run often.
  await reads(polite, kind);
  const flooding = flood && (await begun(flood(server.socket), folder));
  const took = await reads(polite, kind);
  polite.end();
  await flooding?.end();
  await server.stop();
  await rm(server.socket, { force: true });
  return took.sort((a, b) => a - b)[Math.ceil(took.length * 0.99) - 1];
}

/** Reads for `SECONDS`, one after the other; answers with how long each took, in milliseconds. */
async function reads(polite, { name }) {
  const took = [];
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end; ) {
    const at = EXPORT_BYTES / 2 + Math.floor(Math.random() * 1000) * READ_BYTES;
    const start = performance.now();
    const { error } = await polite.read(at, READ_BYTES);
    took.push(performance.now() - start);
    if (error !== 0) throw new Error(`${name} answers with error ${error}`);
  }
  return took;
}

async function begun([program, ...rest], cwd) {
  const child = spawn(program, rest, { cwd, stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  // Ours says when all its clients are there; fio has no words for it.
  if (program === process.execPath) {
    await Promise.race([new Promise((resolve) => child.stdout.once('data', resolve)), exited]);
  } else {
    await setTimeout(1500);
  }
  if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}`);
  return {
    end: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await floods();
