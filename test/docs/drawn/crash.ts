// The log at the beginning of README, whose commit mark has no barrier.

import { IoScheduler, type Storage } from 'write-barrier';
import { type CrashReport, type CrashTest, crashTest } from 'write-barrier/testing';

const SECTOR = 512;
const block = (byte: number): Uint8Array => new Uint8Array(SECTOR).fill(byte);

function byteAt(disk: Storage, offset: number): number | undefined {
  const into = new Uint8Array(SECTOR);
  disk.read(offset, into);
  return into[0];
}

interface Found {
  readonly record: number | undefined;
  readonly mark: number | undefined;
}

const log: CrashTest<string, Found> = {
  size: 2 * SECTOR,
  workload: async (device, journal) => {
    const disk = new IoScheduler(device);
    await disk.write(0, block(7));
    await disk.write(SECTOR, block(7));
    await disk.flush();
    journal.acknowledge('saved');
  },
  recover: (disk) => ({ record: byteAt(disk, 0), mark: byteAt(disk, SECTOR) }),
  check: ({ record, mark }, { acknowledged }) =>
    mark === 7 ? record === 7 : acknowledged.length === 0,
  label: (offset) => (offset === 0 ? 'the record' : 'the mark'),
};

/** The report of the log. */
export async function logReport(): Promise<CrashReport> {
  const { trace } = await crashTest(log);
  // A trace alone does not say from which calls its commands came. Their lines change whenever this file does.
  return crashTest({ ...log, trace });
}
