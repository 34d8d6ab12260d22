// @ts-check
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IoScheduler } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { FileStorage } from 'write-barrier/node';
import { crashTest } from 'write-barrier/testing';
import { openChanges } from './changes.mjs';
import { Store } from './store.mjs';

/** @import { Storage } from 'write-barrier' */

const folder = await mkdtemp(join(tmpdir(), 'store-'));
if (process.argv.includes('--serve')) await serveInBrowser();

const disk = new IoScheduler(await FileStorage.open(join(folder, 'disk.img'), { size: 1 << 24 }));
const files = await Directory.open(disk, { create: true });
const flushes = () => disk.stats().commands.flush;

const store = await Store.open(files);
let before = flushes();
await Promise.all(Array.from({ length: 16 }, (_, n) => store.set(`key ${n}`, n)));
console.log(`16 values at once: ${flushes() - before} flush.`);
before = flushes();
await store.compact();
console.log(`A new table, the manifest, a new log: ${flushes() - before} flush.`);

const wasm = createRequire(import.meta.url).resolve(
  '@journeyapps/wa-sqlite/dist/wa-sqlite-async.wasm',
);
const changes = await openChanges(files, { wasmBinary: readFileSync(wasm) });
await changes.add('key 0');
before = flushes();
await changes.add('key 1');
console.log(`A transaction of SQLite beside it: ${flushes() - before} flush.`);
await changes.close();
await files.close();
await disk.close();
await rm(folder, { recursive: true });

/** @param {Storage} device */
const opened = async (device) => {
  const made = { create: true, blockSize: 512, logSize: 8192, filesMax: 4 };
  return Store.open(await Directory.open(new IoScheduler(device), made));
};

const { verdict, images, recoveries } = await crashTest({
  size: 1 << 16,
  async workload(device, journal) {
    const tested = await opened(device);
    const set = async (/** @type {string} */ key) => {
      journal.begin(key);
      await tested.set(key, key.length);
      journal.acknowledge(key);
    };
    await Promise.all([set('apples'), set('pears')]);
    await tested.compact();
    await set('plums');
    await tested.compact();
  },
  recover: async (device) => [...(await opened(device)).values],
  check(found, { acknowledged, begun }) {
    const keys = found.map(([key]) => key);
    for (const key of acknowledged) assert(keys.includes(key), `${key} is lost`);
    for (const key of keys) assert(begun.includes(key), `${key} was never set`);
  },
  nested: true,
});
console.log(`The store survives: ${verdict}, ${recoveries} recoveries for ${images} images.`);

/** Until the program is ended. @returns {Promise<never>} */
async function serveInBrowser() {
  const { bundle, serve } = await import('./site.mjs');
  await bundle(folder);
  console.log(`The same store in a browser: ${await serve(folder, 8014)}`);
  return new Promise(() => {});
}
