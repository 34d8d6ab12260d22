// SQLite in a dedicated worker, on a directory in one OPFS file and on wa-sqlite's own file systems: what a transaction costs.

/// <reference types="@journeyapps/wa-sqlite" />

import { Factory } from '@journeyapps/wa-sqlite';
import instantiateAtOnce from '@journeyapps/wa-sqlite/dist/wa-sqlite.mjs';
import wasmAtOnce from '@journeyapps/wa-sqlite/dist/wa-sqlite.wasm';
import instantiateLater from '@journeyapps/wa-sqlite/dist/wa-sqlite-async.mjs';
import wasmLater from '@journeyapps/wa-sqlite/dist/wa-sqlite-async.wasm';
import { AccessHandlePoolVFS } from '@journeyapps/wa-sqlite/src/examples/AccessHandlePoolVFS.js';
import { OPFSAdaptiveVFS } from '@journeyapps/wa-sqlite/src/examples/OPFSAdaptiveVFS.js';
import { OPFSCoopSyncVFS } from '@journeyapps/wa-sqlite/src/examples/OPFSCoopSyncVFS.js';
import { IoScheduler } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { OpfsStorage } from 'write-barrier/opfs';
import { DirectoryVfs } from 'write-barrier/sqlite';

const TRANSACTIONS = 50;

// All of these file systems sync with this method.
let flushes = 0;
const { prototype } = FileSystemSyncAccessHandle;
const flush = prototype.flush;
prototype.flush = function (): void {
  flushes += 1;
  flush.call(this);
};

// biome-ignore lint/suspicious/noExplicitAny: wa-sqlite's modules have no types.
type Module = any;

const atOnce = (): Promise<Module> => instantiateAtOnce({ wasmBinary: wasmAtOnce });
const later = (): Promise<Module> => instantiateLater({ wasmBinary: wasmLater });

const FILE_SYSTEMS: Readonly<Record<string, (name: string) => Promise<[Module, SQLiteVFS]>>> = {
  async DirectoryVfs(name) {
    const module = await later();
    const storage = await OpfsStorage.open(name, { size: 1 << 24 });
    const files = await Directory.open(new IoScheduler(storage), { create: true });
    return [module, new DirectoryVfs(name, module, files)];
  },
  async AccessHandlePoolVFS(name) {
    const module = await atOnce();
    return [module, await AccessHandlePoolVFS.create(name, module)];
  },
  async OPFSCoopSyncVFS(name) {
    const module = await atOnce();
    return [module, await OPFSCoopSyncVFS.create(name, module)];
  },
  async OPFSAdaptiveVFS(name) {
    const module = await later();
    return [module, await OPFSAdaptiveVFS.create(name, module)];
  },
};

async function measured(name: string, synchronous: string) {
  const [module, vfs] = (await FILE_SYSTEMS[name]?.(`${name}-${synchronous}`)) ?? [];
  const sqlite3 = Factory(module);
  sqlite3.vfs_register(vfs as SQLiteVFS, true);
  const db = await sqlite3.open_v2(`${name}-${synchronous}.db`);
  const rows: unknown[] = [];
  const run = (sql: string): Promise<number> =>
    sqlite3.exec(db, sql, (row) => void rows.push(...row));
  await run(`PRAGMA synchronous = ${synchronous}; CREATE TABLE t (n INTEGER PRIMARY KEY, body)`);
  await run("INSERT INTO t (body) VALUES ('first')");
  flushes = 0;
  const start = performance.now();
  for (let n = 0; n < TRANSACTIONS; n++) await run(`INSERT INTO t (body) VALUES ('row ${n}')`);
  const ms = (performance.now() - start) / TRANSACTIONS;
  const counted = flushes / TRANSACTIONS;
  await run('SELECT count(*) FROM t; PRAGMA integrity_check');
  await sqlite3.close(db);
  return { name, synchronous, flushes: counted, ms, rows: rows.join() };
}

addEventListener('message', async () => {
  const found: unknown[] = [];
  for (const synchronous of ['FULL', 'EXTRA']) {
    for (const name of Object.keys(FILE_SYSTEMS)) {
      found.push(
        await measured(name, synchronous).catch((error) => ({
          name,
          synchronous,
          error: String(error),
        })),
      );
    }
  }
  await fetch('/found', { method: 'POST', body: JSON.stringify(found) });
});
