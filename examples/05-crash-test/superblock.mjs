// @ts-check
// A copy-on-write tree under a pair of superblocks: nothing that the newest one reaches is ever overwritten.
//
// On the disk: two slots for superblocks, each a checksum, a generation and more; two places for the root, which
// says where the leaves are; two places for each leaf. The newest superblock that is whole counts.
//
// Rules:
//   S1  Root and leaves are on the medium before the superblock of their generation.
//   S2  It goes into the older slot: if it is torn, the newer one still counts.
//   S3  It is on the medium before the next generation overwrites what only the last one reached.

import assert from 'node:assert/strict';
import { crc32 } from 'node:zlib';
import { IoScheduler } from 'write-barrier';
import { contents, filled, read, SECTOR } from './bytes.mjs';

/** @import { ModeName, Storage } from 'write-barrier' */
/** @import { CrashTest } from 'write-barrier/testing' */
/**
 * Writes a superblock.
 * @typedef {(disk: IoScheduler, generation: number, block: Uint8Array) => Promise<unknown>} Seal
 */
/** @typedef {{ leaf: number, text: string }} Commit */

/** @param {ModeName} [mode] */
export const superblock = (mode) => ({
  sound: superblockTest(
    (disk, generation, block) => disk.write(slotOffset(generation % 2), block, { barrier: true }),
    mode,
  ),
  'always the same slot': superblockTest(
    (disk, _, block) => disk.write(slotOffset(0), block, { barrier: true }), // against S2
    mode,
  ),
  'no barrier before the slot': superblockTest(
    (disk, generation, block) =>
      Promise.all([disk.write(slotOffset(generation % 2), block), disk.barrier()]), // against S1
    mode,
  ),
});

const LEAVES = 3;
/** Of a superblock, and of a leaf. A root has one. */
const SECTORS = 2;
const LENGTH = SECTORS * SECTOR;
const slotOffset = (/** @type {number} */ slot) => slot * LENGTH;
const rootOffset = (/** @type {number} */ place) => slotOffset(2) + place * SECTOR;
const leafOffset = (/** @type {number} */ leaf, /** @type {number} */ place) =>
  rootOffset(2) + (2 * leaf + place) * LENGTH;

class Tree {
  #disk;
  #seal;
  #generation = 0;
  /** Where the newest generation has its leaves. */
  #places = Buffer.alloc(LEAVES);

  /**
   * @param {IoScheduler} disk all zeroes
   * @param {Seal} seal
   */
  constructor(disk, seal) {
    this.#disk = disk;
    this.#seal = seal;
  }

  /** @param {Commit} commit */
  async commit({ leaf, text }) {
    const generation = ++this.#generation;
    const place = 1 - (this.#places[leaf] ?? 0);
    this.#places[leaf] = place;
    const root = Buffer.alloc(SECTOR);
    root.set(this.#places);
    await Promise.all([
      this.#disk.write(leafOffset(leaf, place), filled(text, LENGTH)),
      this.#disk.write(rootOffset(generation % 2), root),
      this.#seal(this.#disk, generation, superblockOf(generation)),
    ]);
  }
}

/** @param {number} generation */
function superblockOf(generation) {
  const block = filled(`tree  v${generation}`, LENGTH);
  block.writeUInt32LE(generation, 4);
  block.writeUInt32LE(crc32(block.subarray(4)), 0);
  return block;
}

/** @param {Storage} disk */
function recover(disk) {
  const slots = [0, 1].map((slot) => read(disk, slotOffset(slot), LENGTH));
  const whole = slots.filter((block) => block.readUInt32LE(0) === crc32(block.subarray(4)));
  const generation = Math.max(0, ...whole.map((block) => block.readUInt32LE(4)));
  const places = read(disk, rootOffset(generation % 2), SECTOR);
  const leaves = Array.from({ length: LEAVES }, (_, leaf) =>
    generation === 0 ? 'zeroes' : contents(read(disk, leafOffset(leaf, places[leaf] ?? 0), LENGTH)),
  );
  return { generation, leaves };
}

/**
 * @param {Seal} seal
 * @param {ModeName} [mode]
 * @returns {CrashTest<Commit, ReturnType<typeof recover>>}
 */
function superblockTest(seal, mode = 'TAG_FLUSH') {
  return {
    size: leafOffset(LEAVES, 0),
    profile: 'scsi-tags', // the TAG modes need a disk that keeps ordered tags

    async workload(storage, journal) {
      const disk = new IoScheduler(storage, { mode });
      const tree = new Tree(disk, seal);
      const commit = async (/** @type {number} */ leaf, /** @type {number} */ version) => {
        const operation = { leaf, text: `leaf${leaf} v${version}` };
        journal.begin(operation);
        await tree.commit(operation);
        journal.acknowledge(operation);
      };
      await commit(0, 1);
      await Promise.all([commit(1, 1), commit(2, 1), commit(0, 2)]); // none waits for the others
      await commit(0, 3);
      await Promise.all([commit(0, 4), commit(1, 2)]);
      await disk.idle();
    },

    recover,

    check({ generation, leaves }, { acknowledged, begun }) {
      const latest = acknowledged.length;
      assert(generation >= latest, `generation ${generation} counts, ${latest} was acknowledged`);
      assert(generation <= begun.length, `generation ${generation} was never begun`);
      const wanted = Array.from({ length: LEAVES }, () => 'zeroes');
      for (const { leaf, text } of begun.slice(0, generation)) wanted[leaf] = text;
      for (const [leaf, text] of leaves.entries()) {
        const where = `leaf ${leaf} of generation ${generation}`;
        assert(text === wanted[leaf], `${where} reads '${text}' instead of '${wanted[leaf]}'`);
      }
    },

    label(offset) {
      const part = `sector ${(offset / SECTOR) % SECTORS}`;
      if (offset < rootOffset(0)) return `${part} of slot ${Math.floor(offset / LENGTH)}`;
      if (offset < leafOffset(0, 0)) return `root ${(offset - rootOffset(0)) / SECTOR}`;
      const place = Math.floor((offset - leafOffset(0, 0)) / LENGTH);
      return `${part} of leaf ${Math.floor(place / 2)} in place ${place % 2}`;
    },
  };
}
