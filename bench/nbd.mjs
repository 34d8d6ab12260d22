// The NBD server against qemu-nbd and nbdkit's file plugin: fio writes 4 KiB at random places over a unix socket.
//
// Every server is a process of its own and stays for the whole run; each has a copy of the same file, all of it written
// before, in one folder. In every round each cell is measured on all servers, one right after the other, and the
// ratio is that of neighbours; so a machine whose speed drifts does not decide, nor do others that use it. Before each
// measurement the dirty pages of that server's file are brought to the medium, so that no server pays for another's. On a
// busy machine the ratios depend on which process waits for a processor: `chrt -f 10` before the command helps.
//
// qemu-nbd and nbdkit go through the page cache, as FileStorage does, and a flush is one fdatasync for all of them.

import { execFile, spawn } from 'node:child_process';
import { access, constants, copyFile, mkdtemp, open, rm, stat, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { median, perSecond, ratioOf } from './figures.mjs';

const FILE_BYTES = 64 << 20;
const ROUNDS = 9;
const SECONDS = 1;
const FSYNC_EVERY = 8;

const own = (inlineWriteMax) => (file, socket) => {
  const script = fileURLToPath(new URL('nbd-server.mjs', import.meta.url));
  return [process.execPath, script, file, socket, String(inlineWriteMax)];
};

/** How each server is started; the first is held against the others. */
const SERVERS = [
  { name: 'ours', command: own(64 * 1024) },
  { name: 'ours without inline writes', command: own(0) },
  {
    name: 'qemu-nbd',
    command: (file, socket) => [
      'qemu-nbd',
      ...['--persistent', '--shared=8', '--cache=writeback', '--format=raw'],
      ...[`--socket=${socket}`, file],
    ],
  },
  {
    name: 'nbdkit file',
    command: (file, socket) => [
      'nbdkit',
      ...['--exit-with-parent', '--unix', socket, 'file', file],
    ],
  },
];

const CELLS = [1, 32].flatMap((depth) =>
  [false, true].map((fsync) => ({
    name: `depth ${depth}, ${fsync ? `fsync every ${FSYNC_EVERY}` : 'no fsync'}`,
    arguments: [`--iodepth=${depth}`, ...(fsync ? [`--fsync=${FSYNC_EVERY}`] : [])],
  })),
);

/** See the head of this file. */
export async function nbd() {
  const missing = [];
  for (const name of ['fio', 'qemu-nbd', 'nbdkit']) if (!(await isThere(name))) missing.push(name);
  if (missing.length > 0) {
    console.log(`nbd: not measured, missing ${missing.join(', ')}\n`);
    return;
  }
  const folder = await mkdtemp(join(tmpdir(), 'write-barrier-bench-'));
  const servers = [];
  try {
    for (const kind of SERVERS) servers.push(await started(kind, folder));
    console.log(`nbd: 4 KiB random writes by fio, ${ROUNDS} rounds, ${await mediumOf(folder)}`);
    const rates = CELLS.map(() => servers.map(() => []));
    // The first round warms up.
    for (let round = -1; round < ROUNDS; round++) {
      for (const [c, cell] of CELLS.entries()) {
        for (const [s, server] of servers.entries()) {
          const rate = await measured(cell, server, folder);
          if (round >= 0) rates[c][s].push(rate);
        }
      }
    }
    for (const [c, { name }] of CELLS.entries()) print(name, rates[c]);
    console.log();
  } finally {
    for (const { stop } of servers) await stop();
    await rm(folder, { recursive: true });
  }
}

function print(cell, [ours, ...rivals]) {
  console.log(`  ${cell}: ${SERVERS[0].name} ${perSecond(ours)}`);
  for (const [i, rates] of rivals.entries()) {
    const ratios = ours.map((rate, round) => rate / rates[round]);
    console.log(`    to ${SERVERS[i + 1].name}, ${perSecond(rates)}: ${ratioOf(ratios)}`);
  }
}

async function isThere(program) {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const found = await access(join(folder, program), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return true;
  }
  return false;
}

async function started({ name, command }, folder) {
  const base = join(folder, name.replaceAll(' ', '-'));
  const [file, socket] = [`${base}.img`, `${base}.sock`];
  await written(file, folder);
  const [program, ...rest] = command(file, socket);
  const child = spawn(program, rest, { stdio: ['pipe', 'inherit', 'inherit'] });
  const ended = new Promise((resolve) => child.on('exit', resolve));
  const stop = async () => {
    if (command(file, socket)[0] === process.execPath) child.stdin.end();
    else child.kill();
    await ended;
  };
  for (let tries = 0; !(await stat(socket).catch(() => undefined)); tries++) {
    if (tries === 500 || child.exitCode !== null) throw new Error(`${name} does not listen`);
    await setTimeout(10);
  }
  return { name, file, socket, stop };
}

/** A file without holes; the others are copies of the first. */
async function written(file, folder) {
  const source = join(folder, 'source.img');
  if (!(await stat(source).catch(() => undefined))) {
    const handle = await open(source, 'w');
    const piece = Buffer.alloc(1 << 20, 7);
    for (let at = 0; at < FILE_BYTES; at += piece.length) await handle.write(piece);
    await handle.close();
  }
  await copyFile(source, file);
  await synced(file);
}

async function synced(file) {
  const handle = await open(file, 'r+');
  await handle.sync();
  await handle.close();
}

/** Writes per second. */
async function measured(cell, { file, socket }, folder) {
  await synced(file);
  const { stdout } = await promisify(execFile)(
    'fio',
    [
      ...['--name=writes', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`],
      ...['--rw=randwrite', '--bs=4k', `--size=${FILE_BYTES}`, '--norandommap', '--randrepeat=0'],
      ...['--time_based', `--runtime=${SECONDS}`, '--output-format=json', ...cell.arguments],
    ],
    { cwd: folder },
  );
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs;
  if (job.error !== 0) throw new Error(`fio failed with error ${job.error}`);
  return job.write.iops;
}

/** Where the files lie, and what a flush of as many blocks costs there. */
async function mediumOf(folder) {
  const { type } = await statfs(folder);
  const file = join(folder, 'source.img');
  const handle = await open(file, 'r+');
  const block = Buffer.alloc(4096, 1);
  const costs = [];
  for (let round = 0; round < 50; round++) {
    for (let i = 0; i < FSYNC_EVERY; i++) {
      const at = ((round * FSYNC_EVERY + i) * 7919) % (FILE_BYTES / block.length);
      await handle.write(block, 0, block.length, at * block.length);
    }
    const start = performance.now();
    await handle.datasync();
    costs.push((performance.now() - start) * 1000);
  }
  await handle.close();
  return `file system 0x${type.toString(16)}, fdatasync of ${FSYNC_EVERY} blocks ${Math.round(median(costs))} us`;
}
