// @ts-check
import { IoScheduler } from 'write-barrier';
import { crashTest, formatCrashReport } from 'write-barrier/testing';

const BLOCK = 512;
const [RECORD, MARK] = [0, BLOCK];
const block = (/** @type {number} */ byte) => new Uint8Array(BLOCK).fill(byte);

/**
 * A log of one record, with its commit mark.
 *
 * @param {boolean} barrier whether the mark is a barrier
 * @returns {import('write-barrier/testing').CrashTest<string, { record: number, mark: number }>}
 */
const logWith = (barrier) => ({
  size: 2 * BLOCK,
  async workload(device, journal) {
    const disk = new IoScheduler(device);
    await disk.write(RECORD, block(7));
    await disk.write(MARK, block(7), { barrier });
    await disk.flush();
    journal.acknowledge('saved');
  },
  recover(disk) {
    const [record, mark] = [RECORD, MARK].map((offset) => {
      const into = new Uint8Array(BLOCK);
      disk.read(offset, into);
      return into[0] ?? 0;
    });
    return { record: record ?? 0, mark: mark ?? 0 };
  },
  check: ({ record, mark }, { acknowledged }) =>
    mark === 7 ? record === 7 : acknowledged.length === 0,
  label: (offset) => (offset === RECORD ? 'the record' : 'the mark'),
});

console.log('A log writes a record, awaits it, writes its commit mark, awaits it, and flushes.\n');
console.log(formatCrashReport(await crashTest(logWith(false))));
console.log('\nThe same log, with the mark as a barrier:\n');
console.log(`${formatCrashReport(await crashTest(logWith(true)))}\n`);
