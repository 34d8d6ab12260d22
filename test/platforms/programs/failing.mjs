// A log that forgets its barrier, and the report about it.

import { IoScheduler } from 'write-barrier';
import { crashTest, formatCrashReport } from 'write-barrier/testing';

const SECTOR = 512;
const filled = (/** @type {number} */ byte) => new Uint8Array(SECTOR).fill(byte);

/** @param {IoScheduler} disk */
async function append(disk) {
  await Promise.all([
    disk.write(0, filled(1)),
    disk.write(SECTOR, filled(2)), // the mark, which may be on the medium before the record
  ]);
}

const report = await crashTest({
  size: 2 * SECTOR,
  workload: (disk) => append(new IoScheduler(disk, { observer: disk.observer })),
  recover: (disk) => {
    const found = new Uint8Array(2 * SECTOR);
    disk.read(0, found);
    return [found[0], found[SECTOR]];
  },
  check: ([record, mark]) => record === 1 || mark !== 2,
});
console.log(formatCrashReport(report));
