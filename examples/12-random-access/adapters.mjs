// @ts-check
// A disk as a random-access-storage, and a random-access-storage as a disk. Copy what you need, and change what you decide
// differently: where the length is kept, and what a write waits for.
//
// A random-access-storage has a length that grows, takes any offset and any number of bytes, and has no flush. A disk has a size,
// takes whole blocks, and has a flush.

import RandomAccessStorage from 'random-access-storage';
import { checkRange } from 'write-barrier/kit';

/**
 * A region of a disk as a random-access-storage. Its first block has the length, the others have the bytes.
 *
 * What a callback means is up to `write`, the options of each write. With `{ barrier: true }` what was answered is on the medium, and
 * nothing is there without what was written before it, in this region and in all others of the disk. With `{}` a write is in the
 * cache of the disk when it is answered, and a power cut may lose any of them.
 *
 * @param {import('write-barrier').IoScheduler} disk shared by its regions; `close` flushes it, and leaves it open
 * @param {{ start?: number, size?: number, write?: import('write-barrier').WriteOptions }} [options] the region in bytes, of whole
 *   blocks; by default all of the disk
 */
export function randomAccess(disk, { start = 0, size = disk.size - start, write = {} } = {}) {
  const { blockSize } = disk.capabilities;
  const first = start + blockSize;
  let length = 0;
  let last = Promise.resolve();

  /** The blocks around some bytes. */
  async function around(/** @type {number} */ offset, /** @type {number} */ bytes) {
    const from = Math.floor(offset / blockSize) * blockSize;
    const to = Math.ceil((offset + bytes) / blockSize) * blockSize;
    const blocks = from === to ? new Uint8Array() : await disk.read(first + from, to - from);
    return { from, blocks };
  }

  async function put(/** @type {number} */ offset, /** @type {Uint8Array} */ bytes) {
    if (offset + bytes.length > size - blockSize) throw new Error('The region is full');
    const { from, blocks } = await around(offset, bytes.length);
    blocks.set(bytes, offset - from);
    if (blocks.length > 0) await disk.write(first + from, blocks, write);
  }

  /** What is between the old end and the new one reads as zero, and not as what was there before a truncation. */
  async function grow(/** @type {number} */ end) {
    if (end > length) await put(length, new Uint8Array(end - length));
  }

  async function setLength(/** @type {number} */ end) {
    const block = new Uint8Array(blockSize);
    new DataView(block.buffer).setFloat64(0, end); // exact for every safe integer
    await disk.write(start, block, write);
    length = end;
  }

  /** One operation at a time, because two that change one block would both begin with its old bytes. */
  function inTurn(/** @type {(request: any) => Promise<unknown>} */ work) {
    return (/** @type {any} */ request) => {
      const done = last.then(() => work(request));
      last = done.then(
        () => {},
        () => {},
      );
      done.then(
        (value) => request.callback(null, value),
        (error) => request.callback(error),
      );
    };
  }

  return new RandomAccessStorage({
    open: inTurn(async () => {
      const block = await disk.read(start, blockSize);
      length = new DataView(block.buffer, block.byteOffset).getFloat64(0);
    }),
    read: inTurn(async ({ offset, size: bytes }) => {
      if (offset + bytes > length) throw new Error('Could not satisfy length');
      const { from, blocks } = await around(offset, bytes);
      return Buffer.from(blocks.buffer, blocks.byteOffset + offset - from, bytes);
    }),
    write: inTurn(async ({ offset, data }) => {
      await grow(offset);
      await put(offset, data);
      if (offset + data.length > length) await setLength(offset + data.length);
    }),
    del: inTurn(async ({ offset, size: bytes }) => {
      if (offset + bytes < length) await put(offset, new Uint8Array(bytes));
      else if (offset < length) await setLength(offset);
    }),
    truncate: inTurn(async ({ offset }) => {
      await grow(offset);
      await setLength(offset);
    }),
    stat: inTurn(async () => ({ size: length })),
    close: inTurn(() => disk.flush()),
  });
}

/**
 * A random-access-storage as a disk, which makes it as long as `size`.
 *
 * It has a flush only if you pass one, because the interface has none: for random-access-file `() => fsync(file.fd)`. Without one a
 * scheduler refuses to promise anything, and that is true: nothing says when the bytes are on a medium.
 *
 * @param {RandomAccessStorage} file
 * @param {{ size: number, blockSize?: number, flush?: (() => Promise<void>) | undefined }} options in bytes
 * @returns {Promise<import('write-barrier').Storage>}
 */
export async function diskOf(file, { size, blockSize = 512, flush }) {
  const writeTo = (/** @type {number} */ offset, /** @type {Uint8Array} */ data) =>
    promised((done) =>
      file.write(offset, Buffer.from(data.buffer, data.byteOffset, data.length), done),
    );
  await writeTo(0, new Uint8Array()); // opens it for writing, because some make a missing file only then
  const { size: length } = await promised((done) => file.stat(done));
  if (length < size) await writeTo(size - 1, new Uint8Array(1));

  const disk = {
    size,
    capabilities: Object.freeze({
      blockSize,
      cache: /** @type {const} */ ('volatile'),
      flush: flush !== undefined,
      fua: false,
      orderedTags: false,
    }),
    async read(/** @type {number} */ offset, /** @type {Uint8Array} */ into) {
      checkRange(disk, offset, into.length);
      into.set(await promised((done) => file.read(offset, into.length, done)));
    },
    async write(/** @type {number} */ offset, /** @type {Uint8Array} */ data) {
      checkRange(disk, offset, data.length);
      await writeTo(offset, data);
    },
    async flush() {
      if (file.closed) throw new Error('Closed');
      await flush?.();
    },
    close: () => promised((done) => file.close(done)),
  };
  return disk;
}

/**
 * What a function with a callback answers.
 *
 * @param {(done: (error: any, value?: any) => void) => void} start
 * @returns {Promise<any>}
 */
export function promised(start) {
  return new Promise((resolve, reject) => {
    start((error, value) => (error ? reject(error) : resolve(value)));
  });
}
