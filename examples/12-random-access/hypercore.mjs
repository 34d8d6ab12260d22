// @ts-check
// A crash test of hypercore, a library of npm, over its own interface of storages: nothing of it is changed.
//
// hypercore keeps a log of signed blocks in five storages, which it asks its user for by name. Here each is a region of the disk
// that the crash kit passes. The key is given, because a run that is repeated must make the same bytes.

// @ts-expect-error: it is installed by those who run this test, because it has a hundred megabytes
import Hypercore from 'hypercore';
// @ts-expect-error: comes with hypercore
import crypto from 'hypercore-crypto';
import { IoScheduler } from 'write-barrier';
import { randomAccess } from './adapters.mjs';

const NAMES = ['oplog', 'tree', 'bitfield', 'data', 'header'];
const REGION = 16 * 4096;

/**
 * Appends three blocks, and reads all that are there.
 *
 * @param {import('write-barrier').WriteOptions} write how the regions write
 * @returns {import('write-barrier/testing').CrashTest<string, string[]>}
 */
export const coreTest = (write) => ({
  size: NAMES.length * REGION,
  // Drives with sectors of 4096 bytes, which is hypercore's own unit.
  profile: { sectorSize: 4096, atomicWriteUnit: 4096 },
  async workload(device, journal) {
    const core = await coreOn(device, write);
    for (const text of ['one', 'two', 'three']) {
      journal.begin(text);
      await core.append(text);
      journal.acknowledge(text);
    }
  },
  async recover(device) {
    const core = await coreOn(device, write);
    const found = [];
    for (let n = 0; n < core.length; n++) {
      const block = await core.get(n, { wait: false });
      found.push(String(block));
    }
    return found;
  },
  check: (found, { acknowledged, begun }) =>
    acknowledged.every((text, n) => found[n] === text) &&
    found.every((text, n) => text === begun[n]),
});

/**
 * @param {import('write-barrier').Storage} device
 * @param {import('write-barrier').WriteOptions} write
 */
async function coreOn(device, write) {
  const disk = new IoScheduler(device);
  const storage = (/** @type {string} */ name) =>
    randomAccess(disk, { start: NAMES.indexOf(name) * REGION, size: REGION, write });
  const core = new Hypercore(storage, { keyPair: crypto.keyPair(Buffer.alloc(32, 1)) });
  await core.ready();
  return core;
}
