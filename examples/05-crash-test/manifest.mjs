// @ts-check
// The manifest of a log-structured merge tree: tables never change, and a table exists when the manifest names it.
//
// On the disk: a pointer sector, which says which of two manifests counts; both manifests, one sector an entry;
// then the tables, one sector a key. Nothing has a checksum: what can be found was ordered behind what it names.
//
// Rules:
//   M1  A table is on the medium before the entry that names it.
//   M2  A manifest, and all that it names, is on the medium before the pointer that makes it count.
//   M3  The pointer is on the medium before anything that only the other manifest names is overwritten.

import assert from 'node:assert/strict';
import { IoScheduler } from 'write-barrier';
import { contents, filled, read, SECTOR } from './bytes.mjs';

/** @import { ModeName, Storage } from 'write-barrier' */
/** @import { CrashTest } from 'write-barrier/testing' */
/** @typedef {(disk: IoScheduler, pointer: Uint8Array) => Promise<unknown>} Switch writes the pointer */
/** @typedef {{ place: number, keys: readonly number[] }} Table */

/** @param {ModeName} [mode] */
export const manifest = (mode) => ({
  sound: manifestTest((disk, pointer) => disk.write(POINTER, pointer, { barrier: true }), mode),
  'no barrier before the pointer': manifestTest(
    (disk, pointer) => Promise.all([disk.write(POINTER, pointer), disk.barrier()]),
    mode,
  ),
});

const POINTER = 0;
/** Of a manifest. */
const ENTRIES = 4;
const PLACES = 4;
/** Of a table, at the most. */
const KEYS = 8;
const entryOffset = (/** @type {number} */ side, /** @type {number} */ entry) =>
  (1 + side * ENTRIES + entry) * SECTOR;
const tableOffset = (/** @type {number} */ place) => (1 + 2 * ENTRIES + place * KEYS) * SECTOR;
const textOf = (/** @type {number} */ key) => `value ${String(key).padStart(2, '0')}`;

class Tree {
  #disk;
  #switch;
  /** Which manifest counts. */
  #side = 0;
  /** @type {Table[]} */
  #tables = [];
  #free = Array.from({ length: PLACES }, (_, place) => place);

  /**
   * @param {IoScheduler} disk all zeroes
   * @param {Switch} switchTo
   */
  constructor(disk, switchTo) {
    this.#disk = disk;
    this.#switch = switchTo;
  }

  /** @param {number[]} keys */
  async add(keys) {
    const table = this.#place(keys);
    const entry = entryOffset(this.#side, this.#tables.length);
    this.#tables.push(table);
    await Promise.all([
      this.#writeTable(table),
      this.#disk.write(entry, entryOf(table), { barrier: true }), // M1
    ]);
  }

  /** Merges all tables into one, which the other manifest names. */
  async compact() {
    const merged = this.#place(this.#tables.flatMap(({ keys }) => keys));
    this.#free.push(...this.#tables.map(({ place }) => place)); // M3
    this.#tables = [merged];
    this.#side = 1 - this.#side;
    const entries = [entryOf(merged), Buffer.alloc((ENTRIES - 1) * SECTOR)];
    await Promise.all([
      this.#writeTable(merged),
      this.#disk.write(entryOffset(this.#side, 0), entries),
      this.#switch(this.#disk, Buffer.alloc(SECTOR, this.#side)), // M2
    ]);
  }

  /**
   * @param {readonly number[]} keys
   * @returns {Table}
   */
  #place(keys) {
    const place = this.#free.pop();
    assert(place !== undefined, 'no place for another table');
    return { place, keys };
  }

  /** @param {Table} table */
  #writeTable({ place, keys }) {
    const values = keys.map((key) => filled(textOf(key), SECTOR));
    return this.#disk.write(tableOffset(place), values);
  }
}

/** @param {Table} table */
function entryOf({ place, keys }) {
  const entry = Buffer.alloc(SECTOR);
  entry.set([keys.length, place, ...keys]);
  return entry;
}

/** @param {Storage} disk */
function recover(disk) {
  /** @type {Map<number, string>} */
  const found = new Map();
  const [side = 0] = read(disk, POINTER, SECTOR);
  for (let entry = 0; entry < ENTRIES; entry++) {
    const [length = 0, place = 0, ...rest] = read(disk, entryOffset(side, entry), SECTOR);
    for (const [i, key] of rest.slice(0, length).entries()) {
      found.set(key, contents(read(disk, tableOffset(place) + i * SECTOR, SECTOR)));
    }
  }
  return found;
}

/**
 * @param {Switch} switchTo
 * @param {ModeName} [mode]
 * @returns {CrashTest<number, ReturnType<typeof recover>>}
 */
function manifestTest(switchTo, mode = 'TAG_FLUSH') {
  return {
    size: tableOffset(PLACES),
    profile: 'scsi-tags', // the TAG modes need a disk that keeps ordered tags

    async workload(storage, journal) {
      const disk = new IoScheduler(storage, { mode });
      const tree = new Tree(disk, switchTo);
      const add = async (/** @type {number[]} */ ...keys) => {
        for (const key of keys) journal.begin(key);
        await tree.add(keys);
        for (const key of keys) journal.acknowledge(key);
      };
      await Promise.all([add(1, 2, 3), add(4)]);
      await Promise.all([tree.compact(), add(5, 6)]); // where a table is that has just been merged
      await add(7);
      await tree.compact();
      await add(8);
      await disk.idle();
    },

    recover,

    check(found, { acknowledged, begun }) {
      for (const key of acknowledged) assert(found.has(key), `key ${key} is lost`);
      for (const [key, value] of found) {
        assert(value === textOf(key), `key ${key} reads '${value}'`);
        assert(begun.includes(key), `key ${key} was never added`);
      }
    },

    label(offset) {
      if (offset === POINTER) return 'the pointer';
      const entry = offset / SECTOR - 1;
      if (offset < tableOffset(0)) {
        return `entry ${entry % ENTRIES} of manifest ${Math.floor(entry / ENTRIES)}`;
      }
      const key = (offset - tableOffset(0)) / SECTOR;
      return `key ${key % KEYS} of table ${Math.floor(key / KEYS)}`;
    },
  };
}
