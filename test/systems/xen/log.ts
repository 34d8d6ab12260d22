// A little log for crash tests: records, each with a mark behind it. A mark without its record is damage, and a record
// that was acknowledged must be there.

import type { Storage } from 'write-barrier';
import {
  type CrashReport,
  type CrashTest,
  crashTest,
  type VolatileDisk,
} from 'write-barrier/testing';
import { share } from '../../kit/amount.js';

export const SECTOR = 512;
export const RECORDS = 2;

export const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);
export const recordAt = (n: number): number => 2 * n * SECTOR;
export const markAt = (n: number): number => recordAt(n) + SECTOR;

/** Whatever lies between a log and its disk. */
export interface Host {
  /** Writes record n and its mark, and is done when it is safe. */
  append(n: number): Promise<unknown>;
  /** Nothing is under way any more. */
  idle(): Promise<unknown>;
}

/** The log over a host that is made for a disk; it stops at the first record that fails. */
export function logTest(
  make: (disk: VolatileDisk) => Host | Promise<Host>,
  test: Partial<CrashTest<number, number>> = {},
): CrashTest<number, number> {
  return {
    // A sector in front and one behind, for whoever keeps something of its own there.
    size: (2 * RECORDS + 4) * SECTOR,
    profile: 'scsi-tags',
    workload: async (disk, journal) => {
      const host = await make(disk);
      for (let n = 0; n < RECORDS; n += 1) {
        journal.begin(n);
        try {
          await host.append(n);
        } catch {
          break;
        }
        journal.acknowledge(n);
      }
      await host.idle();
    },
    recover: (disk) => {
      for (let n = 0; n < RECORDS; n += 1) {
        if (firstByte(disk, markAt(n)) !== n + 1) return n;
        if (firstByte(disk, recordAt(n)) !== n + 1) throw new Error(`mark ${n} without its record`);
      }
      return RECORDS;
    },
    check: (records, { acknowledged }) => {
      if (records < acknowledged.length) throw new Error(`record ${records} was acknowledged`);
    },
    label: (offset) => `${offset % (2 * SECTOR) === 0 ? 'record' : 'mark'} at ${offset}`,
    ...test,
  };
}

function firstByte(disk: Storage, offset: number): number {
  const bytes = sector(0);
  disk.read(offset, bytes);
  return bytes[0] as number;
}

/** How many records the run acknowledged. */
export function acknowledged({ trace }: CrashReport): number {
  return trace.marks.filter(({ value }) => (value as { kind: string }).kind === 'acknowledge')
    .length;
}

/** The first failure under so many orders of answers. */
export async function anyFailure(
  test: CrashTest<number, number>,
  seeds = 20,
): Promise<CrashReport | undefined> {
  for (let seed = 0; seed < seeds; seed += 1) {
    const report = await crashTest({ ...test, seed });
    if (report.verdict === 'failed') return report;
  }
  return undefined;
}

/** The reports under so many orders of answers, none of which fails; every image is covered. */
export async function noFailure(
  test: CrashTest<number, number>,
  seeds: number = share(10, 4),
): Promise<readonly CrashReport[]> {
  const reports: CrashReport[] = [];
  for (let seed = 0; seed < seeds; seed += 1) {
    const report = await crashTest({ ...test, seed });
    if (report.verdict === 'failed') throw new Error(report.failure?.text);
    if (report.covered !== report.images) throw new Error(`seed ${seed} is not covered`);
    reports.push(report);
  }
  return reports;
}
