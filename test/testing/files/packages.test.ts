// Packages of npm that keep values in files, as they are published: what a power cut may leave of a value that they replace.
//
// The versions are exact, because a row is about the calls of that version. A row says what those calls come to on a model of a
// file system. It is no judgement of a package: most were written to survive the end of a process, and do.
//
// Packages are loaded while the functions of node:fs are replaced, because atomically, and so conf, takes functions out of the
// module at that moment. It stands for the start of a process with `--import write-barrier/testing/files/register`.

import { closeSync, fsyncSync, openSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { describe, expect, test } from 'vitest';
import { replaceFunctions } from '../../../src/testing/files/node-fs.js';
import { recordFiles } from '../../../src/testing/files/record.js';
import { rowOf, type Store } from './stores.js';

/** What is used of the packages that come without types. */
interface Persist {
  init(): Promise<unknown>;
  setItem(key: string, value: number): Promise<unknown>;
  getItem(key: string): Promise<number>;
  stopWriteQueueInterval(): void;
  stopExpiredKeysInterval(): void;
}
type WriteFileAtomic = {
  (path: string, text: string): Promise<void>;
  sync(path: string, text: string): void;
};
interface JsonFile {
  writeFile(path: string, value: { value: number }): Promise<void>;
  readFile(path: string): Promise<{ value: number }>;
}

const require = createRequire(import.meta.url);
const putBack = replaceFunctions();
const { Writer } = await import('steno');
const { Low } = await import('lowdb');
const { JSONFile } = await import('lowdb/node');
const atomically = await import('atomically');
const { default: Conf } = await import('conf');
const writeFileAtomic: WriteFileAtomic = require('write-file-atomic');
const jsonfile: JsonFile = require('jsonfile');
const persist: { create(options: { dir: string }): Persist } = require('node-persist');
putBack();

/** A store in the file `a`, by something that replaces a file by a text. */
const textStore = (write: (path: string, text: string) => unknown): Store => ({
  set: (root, value) => write(`${root}/a`, JSON.stringify({ value })),
  get: (root) => JSON.parse(readFileSync(`${root}/a`, 'utf8')).value,
});

const confIn = (root: string) =>
  new Conf<{ value: number }>({ cwd: root, configName: 'a', projectName: 'a' });

/** Not by a preset of lowdb, because that stays in memory where NODE_ENV is `test`, as it is here. */
async function dbIn(root: string) {
  const db = new Low(new JSONFile<{ value: number }>(`${root}/a`), { value: 0 });
  await db.read();
  return db;
}

/** Its timers would go on after the folder is gone. */
async function persisting<T>(root: string, use: (storage: Persist) => Promise<T>): Promise<T> {
  const storage = persist.create({ dir: `${root}/p` });
  await storage.init();
  try {
    return await use(storage);
  } finally {
    storage.stopWriteQueueInterval();
    storage.stopExpiredKeysInterval();
  }
}

const STORES: Readonly<Record<string, Store>> = {
  steno: textStore((path, text) => new Writer(path).write(text)),
  lowdb: {
    async set(root, value) {
      const db = await dbIn(root);
      db.data.value = value;
      await db.write();
    },
    get: async (root) => (await dbIn(root)).data.value,
  },
  'write-file-atomic': textStore((path, text) => writeFileAtomic(path, text)),
  'write-file-atomic, sync': textStore((path, text) => writeFileAtomic.sync(path, text)),
  atomically: textStore((path, text) => atomically.writeFile(path, text)),
  'atomically, sync': textStore((path, text) => atomically.writeFileSync(path, text)),
  conf: {
    set: (root, value) => confIn(root).set('value', value),
    get: (root) => confIn(root).get('value'),
  },
  jsonfile: {
    set: (root, value) => jsonfile.writeFile(`${root}/a`, { value }),
    get: async (root) => (await jsonfile.readFile(`${root}/a`)).value,
  },
  'node-persist': {
    set: (root, value) => persisting(root, (storage) => storage.setItem('value', value)),
    get: (root) => persisting(root, (storage) => storage.getItem('value')),
  },
};

interface Way {
  /** What changes files, and the syncs, of one replacement. */
  readonly calls: string;
  /** The row of `rowOf`. */
  readonly row: string;
  readonly names: readonly string[];
}

const WAYS: readonly Way[] = [
  // A power cut may leave the rename and not the content. Reported by a user: typicode/lowdb#549.
  { calls: 'create write rename', row: 'PP FF FF FF FF', names: ['steno', 'lowdb'] },
  // One value or the other is there. The folder has no fsync, so it may be the older one.
  {
    calls: 'create write fsync rename',
    row: 'PP PF PF PF PF',
    names: [
      'write-file-atomic',
      'write-file-atomic, sync',
      'atomically',
      'atomically, sync',
      'conf',
    ],
  },
  // The file is empty for a moment, so a kill of the process may leave it so, too. Reported by a user: simonlast/node-persist#81.
  { calls: 'truncate write', row: 'FF FF FF FF FF', names: ['jsonfile', 'node-persist'] },
];

describe.each(WAYS)('a value that is replaced by $calls', ({ calls, row, names }) => {
  test.each(names)(
    `%s: old or new, and durable, on strict, ext4, xfs, btrfs, posix: ${row}`,
    async (name) => {
      const store = STORES[name] as Store;
      const { operations } = await recordFiles({
        before: async (root) => void (await store.set(root, 0)),
        run: async (root) => void (await store.set(root, 1)),
      });
      expect(operations.map(({ op }) => op).join(' ')).toBe(calls);
      expect(await rowOf(store)).toBe(row);
    },
  );
});

// What the rows above say is missing is all that is missing.
test.each(WAYS[1]?.names ?? [])('with an fsync of the folder %s is durable', async (name) => {
  const { set, get } = STORES[name] as Store;
  const synced: Store = {
    async set(root, value) {
      await set(root, value);
      const folder = openSync(root, 'r');
      fsyncSync(folder);
      closeSync(folder);
    },
    get,
  };
  expect(await rowOf(synced)).toBe('PP PP PP PP PP');
});
