// @ts-check
// A store of pages that are overwritten in place: each is written twice, so that one of the two is always whole.
//
// On the disk: one page of scratch, then the pages. A page is a checksum, its number and its contents.
//
// Rules:
//   P1  The copy in the scratch page is on the medium before its page is touched.
//   P2  A page is on the medium before its copy is overwritten. The barrier of the next copy sees to that.
//   P3  A recovery takes the copy for a page that is torn, and only for that one: the copy tells its number.

import assert from 'node:assert/strict';
import { crc32 } from 'node:zlib';
import { IoScheduler } from 'write-barrier';
import { contents, filled, read, SECTOR } from './bytes.mjs';

/** @import { ModeName, Storage } from 'write-barrier' */
/** @import { CrashTest } from 'write-barrier/testing' */
/** @typedef {(disk: IoScheduler, page: Uint8Array) => Promise<void>} Copy writes the scratch page */
/** @typedef {{ number: number, text: string }} Put */

/** @param {ModeName} [mode] */
export const pages = (mode) => ({
  sound: pagesTest((disk, page) => disk.write(SCRATCH, page, { barrier: true }), mode),
  'no barrier behind the copy': pagesTest((disk, page) => disk.write(SCRATCH, page), mode),
  'no copy': pagesTest((disk) => disk.barrier(), mode),
});

const PAGES = 3;
/** Of a page. */
const SECTORS = 4;
const LENGTH = SECTORS * SECTOR;
/** Checksum and number, in bytes. */
const HEAD = 8;
const SCRATCH = 0;
const offsetOf = (/** @type {number} */ number) => (1 + number) * LENGTH;

/**
 * @param {IoScheduler} disk
 * @param {Copy} copy
 * @param {Put} put
 */
async function write(disk, copy, { number, text }) {
  const page = filled(text, LENGTH);
  page.writeUInt32LE(number, 4);
  page.writeUInt32LE(crc32(page.subarray(4)), 0);
  await Promise.all([copy(disk, page), disk.write(offsetOf(number), page), disk.flush()]);
}

/** @param {Storage} disk */
function recover(disk) {
  const found = [];
  for (let number = 0; number < PAGES; number++) {
    let page = read(disk, offsetOf(number), LENGTH);
    if (!isWhole(page, number)) {
      const copy = read(disk, SCRATCH, LENGTH);
      if (isWhole(copy, number)) page = copy; // P3
      disk.write(offsetOf(number), page, { fua: false, tag: 'simple' });
    }
    found.push(contents(page.subarray(HEAD)));
  }
  return found;
}

/**
 * @param {Buffer} page
 * @param {number} number
 */
function isWhole(page, number) {
  return page.readUInt32LE(0) === crc32(page.subarray(4)) && page.readUInt32LE(4) === number;
}

/**
 * @param {Copy} copy
 * @param {ModeName} [mode]
 * @returns {CrashTest<Put, string[]>}
 */
function pagesTest(copy, mode = 'TAG_FLUSH') {
  return {
    size: offsetOf(PAGES),
    profile: 'scsi-tags', // the TAG modes need a disk that keeps ordered tags

    async workload(storage, journal) {
      const disk = new IoScheduler(storage, { mode });
      const put = async (/** @type {number} */ number, /** @type {number} */ version) => {
        const operation = { number, text: `page${number} v${version}` };
        journal.begin(operation);
        await write(disk, copy, operation);
        journal.acknowledge(operation);
      };
      await Promise.all([put(0, 1), put(1, 1)]); // none waits for the other
      await put(2, 1);
      await Promise.all([put(1, 2), put(0, 2)]);
      await put(0, 3);
      await disk.idle();
    },

    recover,

    check(found, { acknowledged, begun }) {
      for (const [number, text] of found.entries()) {
        const isHere = (/** @type {Put} */ put) => put.number === number;
        const versions = ['zeroes', ...begun.filter(isHere).map((put) => put.text)];
        const allowed = versions.slice(acknowledged.filter(isHere).length);
        const wanted = allowed.map((version) => `'${version}'`).join(' or ');
        assert(allowed.includes(text), `page ${number} reads '${text}' instead of ${wanted}`);
      }
    },

    label(offset) {
      const page = Math.floor(offset / LENGTH);
      const where = page === 0 ? 'the scratch page' : `page ${page - 1}`;
      return `sector ${(offset / SECTOR) % SECTORS} of ${where}`;
    },
  };
}
