// @ts-check
// Notes of any length in one random-access-storage, and where each of them ends in another: what a power cut leaves of them.

import { IoScheduler } from 'write-barrier';
import { promised, randomAccess } from './adapters.mjs';

const REGION = 8 * 512;
const NUMBER = 4; // bytes of an entry of the index

/**
 * @param {import('write-barrier').WriteOptions} write how the regions write
 * @returns {import('write-barrier/testing').CrashTest<string, string[]>}
 */
export const notesTest = (write) => ({
  size: 2 * REGION,
  async workload(device, journal) {
    const { text, index } = filesOn(device, write);
    let end = 0;
    for (const note of ['milk', 'eggs and flour', 'salt']) {
      journal.begin(note);
      const bytes = Buffer.from(note);
      await promised((done) => text.write(end, bytes, done));
      end += bytes.length;
      const entry = Buffer.alloc(NUMBER);
      entry.writeUInt32LE(end);
      const { size } = await promised((done) => index.stat(done));
      await promised((done) => index.write(size, entry, done));
      journal.acknowledge(note);
    }
  },
  async recover(device) {
    const { text, index } = filesOn(device, write);
    const { size } = await promised((done) => index.stat(done));
    const notes = [];
    let start = 0;
    for (let at = 0; at < size; at += NUMBER) {
      const entry = await promised((done) => index.read(at, NUMBER, done));
      const end = entry.readUInt32LE();
      notes.push(String(await promised((done) => text.read(start, end - start, done))));
      start = end;
    }
    return notes;
  },
  check: (notes, { acknowledged, begun }) =>
    acknowledged.every((note, n) => notes[n] === note) &&
    notes.every((note, n) => note === begun[n]),
});

/**
 * Both on one disk, so that one order holds for both.
 *
 * @param {import('write-barrier').Storage} device
 * @param {import('write-barrier').WriteOptions} write
 */
function filesOn(device, write) {
  const disk = new IoScheduler(device);
  return {
    text: randomAccess(disk, { size: REGION, write }),
    index: randomAccess(disk, { start: REGION, size: REGION, write }),
  };
}
