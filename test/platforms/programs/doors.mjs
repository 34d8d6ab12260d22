// The features that need files or sockets, and CommonJS: those of Node, and of what is compatible with it.

import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IoScheduler, MemoryStorage } from 'write-barrier';
import { same } from './findings.mjs';

/** The features, by the names that the table of platforms has for them. */
export const DOORS = { require: requires, node, nbd };

/** Every door has the same names in CommonJS as in ESM. */
async function requires() {
  const require = createRequire(import.meta.url);
  const { exports } = require('write-barrier/package.json');
  const doors = Object.keys(exports).filter((door) => door !== './package.json');
  if (doors.length < 8) throw new Error(`the package has ${doors.length} doors only`);
  for (const door of doors) {
    const name = `write-barrier${door.slice(1)}`;
    same(namesOf(require(name)), namesOf(await import(name)), name);
  }
}

/** Without the names that a loader adds: Node, Bun and Deno differ in them. */
const namesOf = (/** @type {object} */ module) =>
  Object.keys(module)
    .filter((name) => !['default', 'module.exports', '__esModule'].includes(name))
    .sort();

const block = (/** @type {number} */ byte) => new Uint8Array(4096).fill(byte);

async function node() {
  const { FileStorage, StorageLockedError } = await import('write-barrier/node');
  const folder = await mkdtemp(join(tmpdir(), 'platform-'));
  try {
    const path = join(folder, 'disk.img');
    const disk = new IoScheduler(await FileStorage.open(path, { size: 1 << 20 }));
    await Promise.all([disk.write(0, block(1)), disk.write(4096, block(2), { barrier: true })]);
    await disk.flush();
    const locked = await FileStorage.open(path).then(
      () => undefined,
      (error) => error instanceof StorageLockedError,
    );
    same(locked, true, 'a second writer is refused');
    await disk.close();
    const storage = await FileStorage.open(path);
    same(storage.size, 1 << 20, 'the size of the file');
    const found = block(0);
    await storage.read(4096, found);
    await storage.close();
    same(Array.from(found), Array.from(block(2)), 'the bytes after reopening');
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function nbd() {
  const { NbdServer, NbdStorage } = await import('write-barrier/nbd');
  const memory = new MemoryStorage(1 << 20);
  const server = new NbdServer({ exports: { disk: memory } });
  try {
    const address = await server.listen({ host: '127.0.0.1', port: 0 });
    if (!('port' in address)) throw new Error('the server has no port');
    const { host, port } = address;
    const storage = await NbdStorage.connect({ host, port, export: 'disk' });
    const disk = new IoScheduler(storage);
    await Promise.all([disk.write(0, block(1)), disk.write(4096, block(2), { barrier: true })]);
    await disk.flush();
    same(Array.from(await disk.read(4096, 4096)), Array.from(block(2)), 'the bytes of the export');
    same(memory.bytes[4096], 2, 'the bytes behind the export');
    await disk.close();
  } finally {
    await server.close();
  }
}
