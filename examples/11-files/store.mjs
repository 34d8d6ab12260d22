// @ts-check
// A key-value store in a folder: a snapshot of all keys, and a log of what was set since.
//
// Rules, and each is an fsync:
//   K1  A record of the log is durable before `set` returns.
//   K2  The bytes of a snapshot are durable before the rename that makes it count.
//   K3  That rename is durable before the log is emptied, because the log has what the old snapshot lacks.
//
// A record that is read twice, from the snapshot and from the log, does no harm. One that was cut off is told by its checksum.

import { open, readFile, rename, truncate, writeFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';

/** @import { CrashFilesTest } from 'write-barrier/testing/files' */

/** Each leaves out the fsync of one rule. */
export const BUGS = /** @type {const} */ ([
  'no fsync of the log',
  'no fsync of the snapshot',
  'no fsync of the folder',
]);

export class Store {
  /** @type {Map<string, number>} */
  entries = new Map();
  #root;
  #bug;

  /**
   * @param {string} root
   * @param {string} [bug]
   */
  constructor(root, bug) {
    this.#root = root;
    this.#bug = bug;
  }

  /**
   * @param {string} root
   * @param {string} [bug]
   */
  static async open(root, bug) {
    const store = new Store(root, bug);
    const snapshot = await orEmpty(readFile(`${root}/snapshot`, 'utf8'));
    if (snapshot !== undefined) store.entries = new Map(JSON.parse(snapshot));
    const records = recordsOf((await orEmpty(readFile(`${root}/log`, 'utf8'))) ?? '');
    for (const record of records) store.entries.set(...parsed(record));
    // What is behind the last record was cut off, and the next one must not be appended to it.
    const log = await open(`${root}/log`, 'a');
    await log.truncate(Buffer.byteLength(records.join('')));
    await log.sync();
    await log.close();
    await fsync(root); // the log may be new
    return store;
  }

  /**
   * Resolves when the entry is durable.
   *
   * @param {string} key
   * @param {number} value
   */
  async set(key, value) {
    const log = await open(`${this.#root}/log`, 'a');
    await log.writeFile(recordOf(key, value));
    if (this.#bug !== 'no fsync of the log') await log.datasync(); // K1
    await log.close();
    this.entries.set(key, value);
  }

  /** Makes a new snapshot, and empties the log. */
  async compact() {
    const path = `${this.#root}/snapshot`;
    const flush = this.#bug !== 'no fsync of the snapshot'; // K2
    await writeFile(`${path}.tmp`, JSON.stringify([...this.entries]), { flush });
    await rename(`${path}.tmp`, path);
    if (this.#bug !== 'no fsync of the folder') await fsync(this.#root); // K3
    await truncate(`${this.#root}/log`);
  }
}

/**
 * Two keys with a snapshot between them.
 *
 * @param {string} [bug]
 * @returns {CrashFilesTest<[string, number], Map<string, number>>}
 */
export const storeTest = (bug) => ({
  async before(root) {
    await Store.open(root);
  },
  async workload(root, journal) {
    const store = await Store.open(root, bug);
    for (const key of ['apples', 'pears']) {
      journal.begin([key, 7]);
      await store.set(key, 7);
      journal.acknowledge([key, 7]);
      if (key === 'apples') await store.compact();
    }
  },
  async recover(root) {
    await (await Store.open(root)).set('next', 1);
    const { entries } = await Store.open(root);
    if (!entries.delete('next')) throw new Error('what is set after the power cut is not there');
    return entries;
  },
  check(entries, { acknowledged, begun }) {
    for (const [key] of acknowledged) if (!entries.has(key)) throw new Error(`${key} are lost`);
    return entries.size <= begun.length && [...entries.values()].every((value) => value === 7);
  },
});

/** @param {string} path */
async function fsync(path) {
  const folder = await open(path);
  await folder.sync();
  await folder.close();
}

/**
 * @param {string} key
 * @param {number} value
 */
function recordOf(key, value) {
  const text = JSON.stringify([key, value]);
  return `${crc32(text).toString(16)} ${text}\n`;
}

/**
 * @param {string} record
 * @returns {[string, number]}
 */
function parsed(record) {
  return JSON.parse(record.slice(record.indexOf(' ')));
}

/**
 * The records of a log, up to one that was cut off.
 *
 * @param {string} log
 */
function recordsOf(log) {
  const lines = log.split(/(?<=\n)/);
  const isWhole = (/** @type {string} */ line) => {
    const [, sum, text] = /^([\da-f]+) (.+)\n$/.exec(line) ?? [];
    return text !== undefined && crc32(text).toString(16) === sum;
  };
  const bad = lines.findIndex((line) => !isWhole(line));
  return bad < 0 ? lines : lines.slice(0, bad);
}

/** @param {Promise<string>} content */
function orEmpty(content) {
  return content.catch((error) => {
    if (error.code !== 'ENOENT') throw error;
    return undefined;
  });
}
