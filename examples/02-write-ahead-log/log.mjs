// @ts-check
// A write-ahead log on a scheduler.
//
// Rules:
//   A1  One batch is written at a time, so only the last one can be torn.
//   A2  An append resolves when its batch and the barrier after it have completed: then it is durable, and all before it.
//   A3  Beyond the end of the log the medium holds zeroes before the first record is appended.

import { crc32 } from 'node:zlib';

/** @import { IoScheduler } from 'write-barrier' */

/** Length and checksum, in bytes. */
const HEADER = 8;

export class WriteAheadLog {
  /** @type {IoScheduler} */
  #disk;
  /** Where the next record goes, in bytes. */
  #end = 0;
  /** @type {{ bytes: Uint8Array, resolve: () => void, reject: (reason: unknown) => void }[]} */
  #gathering = [];
  /** @type {Promise<void> | undefined} */
  #committing;
  /** @type {unknown} */
  #failure;

  /** What the log held when it was opened, oldest first. @type {Uint8Array[]} */
  records = [];
  /** Whether an unfinished record followed the last one when the log was opened. */
  torn = false;

  /**
   * Opens the log that fills the scheduler's storage; all zeroes are an empty one.
   *
   * @param {IoScheduler} disk
   */
  static async open(disk) {
    if (disk.guarantees.emptyBarrierFlushes !== 'yes') {
      throw new Error(`an append promises nothing in ${disk.mode}: ${disk.guarantees.reason}`);
    }
    const log = new WriteAheadLog(disk);
    await log.#replay();
    return log;
  }

  /**
   * Settles when the record and every one before it is durable.
   *
   * @param {Uint8Array} payload
   * @returns {Promise<void>}
   */
  append(payload) {
    if (this.#failure) return Promise.reject(this.#failure);
    const bytes = encode(payload, this.#disk.capabilities.blockSize);
    const gathered = this.#gathering.reduce((sum, record) => sum + record.bytes.length, 0);
    if (this.#end + gathered + bytes.length > this.#disk.size) {
      return Promise.reject(new Error('the log is full'));
    }
    return new Promise((resolve, reject) => {
      this.#gathering.push({ bytes, resolve, reject });
      this.#committing ??= this.#commit();
    });
  }

  /** Waits for the appends and closes the scheduler. */
  async close() {
    await this.#committing;
    await this.#disk.close();
  }

  /** @param {IoScheduler} disk */
  constructor(disk) {
    this.#disk = disk;
  }

  async #commit() {
    await null; // appends in the same turn belong to the first batch
    while (this.#gathering.length > 0) {
      const batch = this.#gathering;
      const offset = this.#end;
      this.#gathering = [];
      const bytes = batch.map((record) => record.bytes);
      this.#end += bytes.reduce((sum, { length }) => sum + length, 0);
      try {
        if (this.#failure) throw this.#failure;
        await Promise.all([this.#disk.write(offset, bytes), this.#disk.barrier()]); // A2
        for (const { resolve } of batch) resolve();
      } catch (error) {
        this.#failure ??= error;
        for (const { reject } of batch) reject(error);
      }
    }
    this.#committing = undefined;
  }

  async #replay() {
    const { size, capabilities } = this.#disk;
    const medium = await this.#disk.read(0, size);
    for (;;) {
      const payload = decode(medium.subarray(this.#end));
      if (!payload) break;
      this.records.push(payload);
      this.#end += padded(HEADER + payload.length, capabilities.blockSize);
    }
    this.torn = medium.subarray(this.#end).some((byte) => byte !== 0);
    if (!this.torn) return;
    const rest = size - this.#end;
    await Promise.all([this.#disk.writeZeroes(this.#end, rest), this.#disk.barrier()]); // A3
  }
}

/**
 * @param {Uint8Array} payload
 * @param {number} blockSize in bytes
 */
function encode(payload, blockSize) {
  const record = Buffer.alloc(padded(HEADER + payload.length, blockSize));
  record.writeUInt32LE(payload.length, 0);
  record.set(payload, HEADER);
  record.writeUInt32LE(checksum(record, payload.length), 4);
  return record;
}

/**
 * The payload at the beginning of `bytes`, or undefined where there is no whole record.
 *
 * @param {Uint8Array} bytes
 */
function decode({ buffer, byteOffset, length }) {
  const record = Buffer.from(buffer, byteOffset, length);
  if (length < HEADER || record.readUInt32LE(0) > length - HEADER) return undefined;
  const payloadLength = record.readUInt32LE(0);
  if (record.readUInt32LE(4) !== checksum(record, payloadLength)) return undefined;
  return record.subarray(HEADER, HEADER + payloadLength);
}

/**
 * Over the length, too: that of zeroes is not zero, so an empty medium holds no record.
 *
 * @param {Buffer} record
 * @param {number} payloadLength in bytes
 */
function checksum(record, payloadLength) {
  return crc32(record.subarray(HEADER, HEADER + payloadLength), crc32(record.subarray(0, 4)));
}

/**
 * @param {number} length in bytes
 * @param {number} blockSize in bytes
 */
function padded(length, blockSize) {
  return Math.ceil(length / blockSize) * blockSize;
}
