// The NBD server against qemu-nbd, nbdkit's file plugin and the smallest server that Node can be (nbd-bare.mjs): fio writes 4 KiB at
// random places over a unix socket. `node bench/nbd.mjs` after a build, or `npm run bench -- nbd`; `--json` prints JSON lines,
// `--rounds=5` and `--seconds=2` measure less or longer.
//
// Every server is a process of its own and stays for the whole run; each has a copy of the same file, all of it written
// before, in one folder. In every round each cell is measured on all servers, one right after the other and in a turning order,
// and the ratio is that of the same round; so a machine whose speed drifts does not decide, nor do others that use it. Before each
// measurement the dirty pages of that server's file are brought to the medium, so that no server pays for another's. On a
// busy machine the ratios depend on which process waits for a processor: `chrt -f 10` before the command helps. `nice` does so only
// within a session where Linux groups processes by session (/proc/self/autogroup).
//
// At depth 1 server and client share one processor, because on two the rate says where the system put them and not what the
// server costs: a factor of 4 to 9 for every server. The processor time of a request, that of all threads of the server, is
// what a busy machine disturbs least.
//
// qemu-nbd and nbdkit go through the page cache, as FileStorage does, and a flush is one fdatasync for all of them.

import { execFile, spawn } from 'node:child_process';
import {
  access,
  constants,
  copyFile,
  mkdtemp,
  open,
  readFile,
  rm,
  stat,
  statfs,
} from 'node:fs/promises';
import { connect } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { median, perSecond } from './figures.mjs';
import { printRow, say } from './rows.mjs';

const FILE_BYTES = 64 << 20;
const FSYNC_EVERY = 8;
const [ROUNDS, SECONDS] = [numberOf('rounds', 9), numberOf('seconds', 1)];

export const own =
  (script, ...words) =>
  (file, socket) => [
    process.execPath,
    fileURLToPath(new URL(script, import.meta.url)),
    ...[file, socket, ...words],
  ];

/** How each server is started; the first is held against the others, and `BARE` is the limit. */
export const SERVERS = [
  { name: 'ours', command: own('nbd-server.mjs', String(64 * 1024)) },
  {
    name: 'nbdkit file',
    command: (file, socket) => [
      'nbdkit',
      ...['--exit-with-parent', '--unix', socket, 'file', file],
    ],
  },
  {
    name: 'qemu-nbd',
    command: (file, socket) => [
      'qemu-nbd',
      ...['--persistent', '--shared=128', '--cache=writeback', '--format=raw'],
      ...[`--socket=${socket}`, file],
    ],
  },
  { name: 'the smallest server', command: own('nbd-bare.mjs') },
  { name: 'ours without inline writes', command: own('nbd-server.mjs', '0') },
];
const BARE = 3;

/** What fio does, and the least ratio to each rival. */
const CELLS = [
  { depth: 1, pinned: true, targets: { 'nbdkit file': 0.85, 'qemu-nbd': 1.15 } },
  { depth: 32, targets: { 'nbdkit file': 0.75, 'qemu-nbd': 1.6 }, cpuUsMax: 17 },
  { depth: 1, fsync: true, targets: { 'nbdkit file': 0.75, 'qemu-nbd': 1 } },
  { depth: 32, fsync: true, targets: { 'nbdkit file': 0.9, 'qemu-nbd': 1.2 } },
];

/** The NBD server beside others, in turn. */
export async function nbd() {
  const missing = [];
  for (const name of ['fio', 'qemu-nbd', 'nbdkit', 'taskset']) {
    if (!(await isThere(name))) missing.push(name);
  }
  if (missing.length > 0) {
    say(`nbd: not measured, missing ${missing.join(', ')}\n`);
    return;
  }
  const folder = await mkdtemp(join(tmpdir(), 'write-barrier-bench-'));
  const servers = [];
  try {
    for (const kind of SERVERS) servers.push(await started(kind, folder));
    say(`nbd: 4 KiB random writes by fio, ${ROUNDS} rounds, ${await mediumOf(folder)}`);
    const runs = CELLS.map(() => servers.map(() => []));
    // The first round warms up, longer than the others, because V8 compiles what has run often.
    for (let round = -1; round < ROUNDS; round++) {
      for (const [c, cell] of CELLS.entries()) {
        for (let turn = 0; turn < servers.length; turn++) {
          const s = (turn + round + 1) % servers.length;
          const run = await measured(cell, servers[s], folder, round < 0 ? 3 * SECONDS : SECONDS);
          if (round >= 0) runs[c][s].push(run);
        }
      }
    }
    for (const [c, cell] of CELLS.entries()) print(cell, runs[c]);
    say('');
  } finally {
    for (const { stop } of servers) await stop();
    await rm(folder, { recursive: true });
  }
}

export function numberOf(option, standard) {
  const given = process.argv.find((word) => word.startsWith(`--${option}=`));
  return given ? Number(given.split('=')[1]) : standard;
}

function nameOf({ depth, pinned, fsync }) {
  const flush = fsync ? `, fsync every ${FSYNC_EVERY}` : '';
  return `depth ${depth}${flush}${pinned ? ', server and client on one processor' : ''}`;
}

function print(cell, runs) {
  const [rates, cpuUs] = ['rate', 'cpuUs'].map((figure) =>
    runs.map((run) => run.map((one) => one[figure])),
  );
  say(
    `  ${nameOf(cell)}: ${perSecond(rates[0])}, ${median(cpuUs[0]).toFixed(1)} us of processor time a request`,
  );
  const what = {
    bench: 'nbd',
    work: nameOf(cell),
    command: `fio ${fioWords(cell, SECONDS).join(' ')}`,
  };
  const ratiosOf = (server, rival) =>
    rates[server].map((rate, round) => rate / rates[rival][round]);
  for (let i = 1; i < SERVERS.length; i++) {
    const { name } = SERVERS[i];
    printRow({
      ...what,
      rival: name,
      ratios: ratiosOf(0, i),
      target: cell.targets[name],
      ...(name in cell.targets && { limit: ratiosOf(BARE, i) }),
      facts: { cpuUs: median(cpuUs[0]), cpuUsOfRival: median(cpuUs[i]) },
    });
  }
  if (cell.cpuUsMax === undefined) return;
  const under = (server) => cpuUs[server].map((us) => cell.cpuUsMax / us);
  const rival = `${cell.cpuUsMax} us of processor time a request`;
  printRow({ ...what, rival, ratios: under(0), target: 1, limit: under(BARE) });
}

export async function isThere(program) {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const found = await access(join(folder, program), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return true;
  }
  return false;
}

export async function started({ name, command }, folder, bytes = FILE_BYTES, says = 'inherit') {
  const base = join(folder, name.replaceAll(' ', '-'));
  const [file, socket] = [`${base}.img`, `${base}.sock`];
  await written(file, folder, bytes);
  const [program, ...rest] = command(file, socket);
  const child = spawn(program, rest, { stdio: ['pipe', 'inherit', says] });
  const ended = new Promise((resolve) => child.on('exit', resolve));
  const stop = async () => {
    if (command(file, socket)[0] === process.execPath) child.stdin.end();
    else child.kill();
    await ended;
  };
  for (let tries = 0; !(await listens(socket)); tries++) {
    if (tries === 500 || child.exitCode !== null) throw new Error(`${name} does not listen`);
    await setTimeout(10);
  }
  return { name, file, socket, stop, pid: child.pid };
}

/** By a connection, because the file is there before its server listens. */
function listens(path) {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}

/** A file without holes; the others are copies of the first. */
async function written(file, folder, bytes) {
  const source = join(folder, 'source.img');
  if (!(await stat(source).catch(() => undefined))) {
    const handle = await open(source, 'w');
    const piece = Buffer.alloc(1 << 20, 7);
    for (let at = 0; at < bytes; at += piece.length) await handle.write(piece);
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

function fioWords({ depth, fsync }, seconds) {
  return [
    ...['--name=writes', '--ioengine=nbd', '--rw=randwrite', '--bs=4k', `--size=${FILE_BYTES}`],
    ...['--norandommap', '--randrepeat=0', '--time_based', `--runtime=${seconds}`],
    ...[`--iodepth=${depth}`, ...(fsync ? [`--fsync=${FSYNC_EVERY}`] : [])],
  ];
}

/** Writes per second, and the processor time of the server for a request, a write or a flush, in microseconds. */
async function measured(cell, { file, socket, pid }, folder, seconds) {
  await synced(file);
  const run = promisify(execFile);
  const processors = cell.pinned ? '0' : `0-${cpus().length - 1}`;
  await run('taskset', ['--all-tasks', '--cpu-list', '--pid', processors, String(pid)]);
  const before = await cpuUsOf(pid);
  const { stdout } = await run(
    'taskset',
    [
      ...['--cpu-list', processors, 'fio', '--output-format=json'],
      ...[...fioWords(cell, seconds), `--uri=nbd+unix:///?socket=${socket}`],
    ],
    { cwd: folder },
  );
  const after = await cpuUsOf(pid);
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs;
  if (job.error !== 0) throw new Error(`fio failed with error ${job.error}`);
  const requests = job.write.total_ios + (job.sync?.total_ios ?? 0);
  return { rate: job.write.iops, cpuUs: (after - before) / requests };
}

/** Of all threads of a process, in user mode and in the kernel, in microseconds. The kernel counts in hundredths of a second. */
async function cpuUsOf(pid) {
  const line = await readFile(`/proc/${pid}/stat`, 'utf8');
  const [utime, stime] = line
    .replace(/^.*\) /, '')
    .split(' ')
    .slice(11, 13)
    .map(Number);
  return (utime + stime) * 10_000;
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

if (process.argv[1] === fileURLToPath(import.meta.url)) await nbd();
