// @ts-check
// Both adapters at work: two regions of one disk under power cuts, and a storage in memory as a disk.

// @ts-expect-error: it comes without types
import RandomAccessMemory from 'random-access-memory';
import { IoScheduler, WriteBarrierError } from 'write-barrier';
import { crashTest } from 'write-barrier/testing';
import { diskOf } from './adapters.mjs';
import { notesTest } from './notes.mjs';

for (const write of [{}, { barrier: true }]) {
  const { verdict } = await crashTest(notesTest(write));
  console.log(`notes and their index, written with ${JSON.stringify(write)}: ${verdict}`);
}

for (const flush of [undefined, async () => {}]) {
  const disk = await diskOf(new RandomAccessMemory(), { size: 1 << 16, flush });
  console.log(`a disk ${flush ? 'with' : 'without'} a flush: ${promiseOf(disk)}`);
}

/** @param {import('write-barrier').Storage} disk */
function promiseOf(disk) {
  try {
    return new IoScheduler(disk).guarantees.verdict;
  } catch (error) {
    if (!WriteBarrierError.is(error)) throw error;
    return error.code;
  }
}
