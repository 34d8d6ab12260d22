// @ts-check
// The store in a browser: a worker that has one file of the origin, with the store and SQLite in it. A message is a key and a value to
// set, or null; each is answered with all that is stored, when that is durable.

import { IoScheduler } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { OpfsStorage } from 'write-barrier/opfs';
import { openChanges } from './changes.mjs';
import { Store } from './store.mjs';

const SETS_BEFORE_COMPACTION = 32;

async function open() {
  const disk = new IoScheduler(await OpfsStorage.open('store.img', { size: 1 << 24 }));
  const files = await Directory.open(disk, { create: true });
  const store = await Store.open(files);
  const locateFile = (/** @type {string} */ name) => new URL(name, location.href).href;
  return { disk, store, changes: await openChanges(files, { locateFile }) };
}

let sets = 0;

/** @param {[key: string, value: string] | null} change */
async function answer(change) {
  const { disk, store, changes } = await opened;
  if (change) {
    await store.set(...change);
    await changes.add(change[0]);
    sets += 1;
    if (sets % SETS_BEFORE_COMPACTION === 0) await store.compact();
  }
  const [keys, verdict] = [await changes.keys(), change ? undefined : await changes.check()];
  return { values: [...store.values], keys, verdict, flushes: disk.stats().commands.flush };
}

// The listener is there before the files are, so that no message is lost.
const opened = open();
addEventListener('message', ({ data }) => {
  answer(data).then(postMessage, ({ code, message }) => postMessage({ error: message, code }));
});
