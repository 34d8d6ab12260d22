// @ts-check
// A write-ahead log with group commit. It starts over when its records have been put elsewhere.
//
// On the disk: a sector with the number of the first record; then the records in whole sectors, each a seal, a
// length and the payload. A record counts if its seal is right; the log ends where one is not.
//
// Rules:
//   L1  The seal depends on every byte of the record: a torn one does not count, so a batch needs no order inside.
//   L2  The seal depends on the number of the record: what is left from before the log started over does not count.
//   L3  An append settles when the barrier behind its batch has.
//
// Not here: going on after a crash. Before that the rest of a torn batch must be zeroed, see 02-write-ahead-log.

import assert from 'node:assert/strict';
import { crc32 } from 'node:zlib';
import { IoScheduler } from 'write-barrier';
import { contents, filled, read, SECTOR } from './bytes.mjs';

/** @import { ModeName, Storage } from 'write-barrier' */
/** @import { CrashTest } from 'write-barrier/testing' */
/** @typedef {(bytes: Uint8Array, number: number) => number} Seal from the bytes behind it */

/** @param {ModeName} [mode] */
export const log = (mode) => ({
  sound: logTest((bytes, number) => crc32(bytes, number), mode),
  'a mark for a checksum': logTest((_, number) => number, mode), // against L1
  'a checksum without the number': logTest((bytes) => crc32(bytes), mode), // against L2
});

/** Seal and length, in bytes. */
const HEAD = 8;
/** Of a record, with its head. */
const SECTORS = 3;
const LENGTH = SECTORS * SECTOR - HEAD;

class Log {
  #disk;
  #seal;
  #next = 0;
  #end = SECTOR;
  /** @type {Promise<void> | undefined} */
  #gathering;

  /**
   * @param {IoScheduler} disk all zeroes
   * @param {Seal} seal
   */
  constructor(disk, seal) {
    this.#disk = disk;
    this.#seal = seal;
  }

  /** @param {Uint8Array} payload */
  async append(payload) {
    const record = Buffer.alloc(Math.ceil((HEAD + payload.length) / SECTOR) * SECTOR);
    record.set(payload, HEAD);
    record.writeUInt32LE(payload.length, 4);
    record.writeUInt32LE(this.#seal(record.subarray(4), this.#next), 0);
    const written = this.#disk.write(this.#end, record);
    this.#next += 1;
    this.#end += record.length;
    this.#gathering ??= this.#commit();
    await Promise.all([written, this.#gathering]); // L3
  }

  /** Forgets all records: the caller has put them elsewhere. */
  async restart() {
    const first = Buffer.alloc(SECTOR);
    first.writeUInt32LE(this.#next);
    this.#end = SECTOR;
    await this.#disk.write(0, first, { barrier: true });
  }

  async #commit() {
    await null; // appends in the same turn belong to the batch
    this.#gathering = undefined;
    await this.#disk.barrier();
  }
}

/**
 * @param {Storage} disk
 * @param {Seal} seal
 */
function recover(disk, seal) {
  const first = read(disk, 0, SECTOR).readUInt32LE();
  const records = [];
  for (let offset = SECTOR; offset < disk.size; ) {
    const length = read(disk, offset, SECTOR).readUInt32LE(4);
    const padded = Math.ceil((HEAD + length) / SECTOR) * SECTOR;
    if (length === 0 || padded > disk.size - offset) break;
    const record = read(disk, offset, padded);
    if (record.readUInt32LE() !== seal(record.subarray(4), first + records.length)) break;
    records.push(contents(record.subarray(HEAD, HEAD + length)));
    offset += padded;
  }
  return { first, records };
}

/**
 * @param {Seal} seal
 * @param {ModeName} [mode]
 * @returns {CrashTest<number, ReturnType<typeof recover>>}
 */
function logTest(seal, mode = 'TAG_FLUSH') {
  return {
    size: SECTOR + 4 * SECTORS * SECTOR,
    profile: 'scsi-tags', // the TAG modes need a disk that keeps ordered tags

    async workload(storage, journal) {
      const disk = new IoScheduler(storage, { mode });
      const log = new Log(disk, seal);
      const append = async (/** @type {number} */ number) => {
        journal.begin(number);
        await log.append(filled(`record ${number}`, LENGTH));
        journal.acknowledge(number);
      };
      const late = disk.read(0, SECTOR).then(() => append(2));
      await Promise.all([append(0), append(1), late]); // two share a barrier, under which the third comes
      await append(3);
      await log.restart();
      await Promise.all([append(4), append(5)]);
      await append(6);
      await disk.idle();
    },

    recover: (disk) => recover(disk, seal),

    check({ first, records }, { acknowledged, begun }) {
      for (const [i, payload] of records.entries()) {
        assert(payload === `record ${first + i}`, `record ${first + i} reads '${payload}'`);
      }
      const next = first + records.length;
      for (const number of acknowledged) assert(number < next, `record ${number} is lost`);
      assert(next <= begun.length, `record ${begun.length} was never appended`);
    },

    label(offset) {
      const sector = offset / SECTOR - 1;
      if (sector < 0) return 'the number of the first record';
      return `sector ${sector % SECTORS} of record ${Math.floor(sector / SECTORS)} on the disk`;
    },
  };
}
