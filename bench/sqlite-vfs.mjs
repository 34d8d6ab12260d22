// What a transaction of SQLite costs: on a directory, on wa-sqlite's own file systems, and by the command sqlite3 on the file system of
// the system. `npm run bench -- sqlite-vfs`; `--json` prints JSON lines.
//
// In Node wa-sqlite's file systems that run are those in memory. What they are asked is counted, because a file system that kept
// its files on a disk would have to do it: syncs, and bytes of xWrite. For the directory the flushes and bytes of the storage are
// counted, so with its log and its table. The command runs under strace, which counts the same calls, and once more without it
// for the time. In Chromium the pages of test/browser are run, where a sync is a flush of a file's handle.

import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Factory } from '@journeyapps/wa-sqlite';
import instantiateAtOnce from '@journeyapps/wa-sqlite/dist/wa-sqlite.mjs';
import instantiateLater from '@journeyapps/wa-sqlite/dist/wa-sqlite-async.mjs';
import { MemoryAsyncVFS } from '@journeyapps/wa-sqlite/src/examples/MemoryAsyncVFS.js';
import { MemoryVFS } from '@journeyapps/wa-sqlite/src/examples/MemoryVFS.js';
import { build } from 'esbuild';
import { IoScheduler } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { wrap } from 'write-barrier/kit';
import { FileStorage } from 'write-barrier/node';
import { DirectoryVfs } from 'write-barrier/sqlite';
import { say } from './rows.mjs';

const run = promisify(execFile);
const TRANSACTIONS = 50;
const MODES = ['DELETE', 'TRUNCATE', 'PERSIST', 'WAL'];
const FIRST =
  'CREATE TABLE t (n INTEGER PRIMARY KEY, body); INSERT INTO t (body) VALUES (zeroblob(20000))';
const insert = (n) => `INSERT INTO t (body) VALUES ('row ${n}')`;
const settingsOf = (mode) =>
  `PRAGMA locking_mode = ${mode === 'WAL' ? 'EXCLUSIVE' : 'NORMAL'}; PRAGMA journal_mode = ${mode}; PRAGMA synchronous = EXTRA`;

const compiled = (name) =>
  readFileSync(createRequire(import.meta.url).resolve(`@journeyapps/wa-sqlite/dist/${name}.wasm`));
const later = () => instantiateLater({ wasmBinary: compiled('wa-sqlite-async') });

/** Counts what SQLite asks of a file system. */
function asked(vfs) {
  const counts = { syncs: 0, bytes: 0 };
  const { xSync, xWrite } = vfs;
  vfs.xSync = (...args) => {
    counts.syncs += 1;
    return xSync.apply(vfs, args);
  };
  vfs.xWrite = (pFile, pData, length, ...offset) => {
    counts.bytes += length;
    return xWrite.call(vfs, pFile, pData, length, ...offset);
  };
  return counts;
}

/** Each answers the module, the file system, and what has been counted so far. */
const FILE_SYSTEMS = {
  async 'DirectoryVfs, FileStorage'(folder) {
    const storage = await FileStorage.open(join(folder, 'disk.img'), { size: 1 << 24 });
    let bytes = 0;
    const counted = wrap(storage, (command, go) => {
      if (command.op === 'write') bytes += command.length;
      return go(command.length);
    });
    const disk = new IoScheduler(counted);
    const files = await Directory.open(disk, { create: true });
    const module = await later();
    return {
      module,
      vfs: new DirectoryVfs('directory', module, files),
      counts: () => ({ syncs: disk.stats().commands.flush, bytes }),
      close: async () => {
        await files.close();
        await disk.close();
        await rm(join(folder, 'disk.img'));
      },
    };
  },
  async MemoryVFS() {
    const module = await instantiateAtOnce({ wasmBinary: compiled('wa-sqlite') });
    const vfs = await MemoryVFS.create('memory', module);
    const counts = asked(vfs);
    return { module, vfs, counts: () => ({ ...counts }) };
  },
  async MemoryAsyncVFS() {
    const module = await later();
    const vfs = await MemoryAsyncVFS.create('memory', module);
    const counts = asked(vfs);
    return { module, vfs, counts: () => ({ ...counts }) };
  },
};

/** Of one transaction. */
async function measured(open, mode, folder) {
  const { module, vfs, counts, close } = await open(folder);
  const sqlite3 = Factory(module);
  sqlite3.vfs_register(vfs, true);
  const db = await sqlite3.open_v2('app.db');
  await sqlite3.exec(db, settingsOf(mode));
  await sqlite3.exec(db, FIRST);
  const before = counts();
  const start = performance.now();
  for (let n = 0; n < TRANSACTIONS; n++) await sqlite3.exec(db, insert(n));
  const ms = (performance.now() - start) / TRANSACTIONS;
  const after = counts();
  await sqlite3.close(db);
  await close?.();
  return {
    syncs: (after.syncs - before.syncs) / TRANSACTIONS,
    bytes: (after.bytes - before.bytes) / TRANSACTIONS,
    ms,
  };
}

/** The command on a file, as long as it does nothing and with the transactions; the difference is theirs. */
async function byCommand(mode, folder) {
  const path = join(folder, 'command.db');
  const statements = [settingsOf(mode), FIRST];
  const all = [...statements, ...Array.from({ length: TRANSACTIONS }, (_, n) => insert(n))];
  const calls = async (sql) => {
    const log = join(folder, 'strace.log');
    const words = ['-f', '-e', 'trace=fsync,fdatasync,pwrite64', '-o', log];
    await run('strace', [...words, 'sqlite3', path, `${sql.join(';')};`]);
    const lines = (await readFile(log, 'utf8')).split('\n');
    await rm(path);
    const writes = lines.filter((line) => line.includes('pwrite64('));
    return {
      syncs: lines.filter((line) => /\bf(data)?sync\(/.test(line)).length,
      bytes: writes.reduce((sum, line) => sum + Number(/= (\d+)$/.exec(line)?.[1] ?? 0), 0),
    };
  };
  const timed = async (sql) => {
    const start = performance.now();
    await run('sqlite3', [path, `${sql.join(';')};`]);
    const ms = performance.now() - start;
    await rm(path);
    return ms;
  };
  const [none, some] = [await calls(statements), await calls(all)];
  const ms = ((await timed(all)) - (await timed(statements))) / TRANSACTIONS;
  return {
    syncs: (some.syncs - none.syncs) / TRANSACTIONS,
    bytes: (some.bytes - none.bytes) / TRANSACTIONS,
    ms,
  };
}

/** What the test of the browser finds, in a Chromium of this machine; undefined without one. */
async function inBrowser() {
  const cache = fileURLToPath(new URL('../.cache/bench/', import.meta.url));
  const source = (name) => fileURLToPath(new URL(`../test/${name}.ts`, import.meta.url));
  const shared = { bundle: true, format: 'esm', logLevel: 'silent' };
  await build({
    ...shared,
    entryPoints: ['browser', 'consumer'].map((name) => source(`platforms/${name}`)),
    platform: 'node',
    packages: 'external',
    splitting: true,
    outdir: cache,
    outExtension: { '.js': '.mjs' },
  });
  const { chromium } = await import(new URL('../.cache/bench/consumer.mjs', import.meta.url));
  const { opened } = await import(new URL('../.cache/bench/browser.mjs', import.meta.url));
  const browser = chromium();
  if (browser instanceof Error) return undefined;
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'write-barrier-bench-')));
  await build({
    ...shared,
    entryPoints: [source('browser/programs/sqlite-worker')],
    outdir: folder,
    loader: { '.wasm': 'binary' },
    external: ['module', 'node:*'],
  });
  const script = "new Worker('./sqlite-worker.js', { type: 'module' }).postMessage('begin');";
  await writeFile(
    join(folder, 'page.html'),
    `<!doctype html><script type="module">${script}</script>`,
  );
  const found = await opened(browser, folder, 'page.html');
  await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  return found;
}

function print(place, name, mode, { syncs, bytes, ms }) {
  if (process.argv.includes('--json')) {
    const command = 'npm run bench -- sqlite-vfs';
    console.log(
      JSON.stringify({ bench: 'sqlite-vfs', place, name, mode, syncs, bytes, ms, command }),
    );
    return;
  }
  const size = bytes === undefined ? '' : `  ${String(Math.round(bytes)).padStart(6)} bytes`;
  say(
    `  ${name.padEnd(26)} ${mode.padEnd(9)} ${syncs.toFixed(2)} syncs${size}  ${ms.toFixed(2)} ms`,
  );
}

export async function sqliteVfs() {
  const folder = await mkdtemp(join(tmpdir(), 'write-barrier-bench-'));
  say(
    `sqlite-vfs: a transaction of one row with synchronous = EXTRA, the mean of ${TRANSACTIONS}; Node`,
  );
  for (const [name, open] of Object.entries(FILE_SYSTEMS)) {
    for (const mode of MODES) print('Node', name, mode, await measured(open, mode, folder));
  }
  const isThere = (name) => existsSync(join('/usr/bin', name));
  if (isThere('sqlite3') && isThere('strace')) {
    for (const mode of MODES)
      print('system', 'sqlite3, a file', mode, await byCommand(mode, folder));
  }
  await rm(folder, { recursive: true });
  say('Chromium, journal_mode = DELETE');
  for (const { name, synchronous, flushes, ms, error } of (await inBrowser()) ?? []) {
    if (error) throw new Error(`${name}: ${error}`);
    print('Chromium', name, synchronous, { syncs: flushes, ms });
  }
  say('');
}
