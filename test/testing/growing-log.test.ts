// A log that grows through a scheduler: proved where its mark has a barrier, and found broken where it has none, or where the
// recovery trusts the size. A report says what happened to the size in words.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import { formatCrashReport } from '../../src/testing/crash-test/crash-report.js';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import type { CrashTest } from '../../src/testing/crash-test/types.js';
import { crashPicture } from '../../src/testing/picture/crash-picture.js';

const BLOCK = 512;
const block = (byte: number): Uint8Array => new Uint8Array(BLOCK).fill(byte);

function firstByte(disk: Storage, at: number): number {
  const into = block(0);
  disk.read(at, into);
  return into[0] as number;
}

/** The first block holds the number of records; each record is a block behind it. */
function log(
  marked: { readonly barrier: boolean },
  recover: CrashTest<number, number>['recover'],
  records = 3,
): CrashTest<number, number> {
  return {
    size: BLOCK,
    workload: async (disk, journal, _, { shown = 0 }) => {
      const scheduler = new IoScheduler(disk);
      // What a cut left behind the records is cut off before the log goes on.
      await scheduler.resize((1 + shown) * BLOCK);
      await scheduler.flush();
      for (let n = shown; n < shown + records; n += 1) {
        journal.begin(n);
        const end = scheduler.size;
        await Promise.all([
          scheduler.resize(end + BLOCK),
          scheduler.write(end, block(n + 1)),
          scheduler.write(0, block(n + 1), marked),
        ]);
        await scheduler.flush();
        journal.acknowledge(n);
      }
    },
    recover,
    check: (count, { acknowledged, begun, shown = 0 }) =>
      shown + acknowledged.length <= count && count <= shown + begun.length,
    label: (offset) => (offset === 0 ? 'the mark' : `record ${offset / BLOCK - 1}`),
  };
}

function byMark(disk: Storage): number {
  const count = firstByte(disk, 0);
  for (let n = 0; n < count; n += 1) {
    if (firstByte(disk, (n + 1) * BLOCK) !== n + 1) throw new Error(`record ${n} is missing`);
  }
  return count;
}

function bySize(disk: Storage): number {
  const count = disk.size / BLOCK - 1;
  for (let n = 0; n < count; n += 1) {
    if (firstByte(disk, (n + 1) * BLOCK) !== n + 1) throw new Error(`record ${n} is empty`);
  }
  return count;
}

describe('given a log that grows', () => {
  test('when its mark is a barrier, then it is proved, also in a second life', async () => {
    for (const seed of [0, 1, 2, 3]) {
      expect(await crashTest({ ...log({ barrier: true }, byMark), seed })).toMatchObject({
        verdict: 'proved',
      });
    }
    const lives = { ...log({ barrier: true }, byMark, 1), lives: 2 };
    expect(await crashTest(lives)).toMatchObject({ verdict: 'proved' });
  });

  test('when its mark is no barrier, then the report says that the size is lost, and its replay fails again', async () => {
    const broken = log({ barrier: false }, byMark);
    const report = await crashTest(broken);
    const text = formatCrashReport(report);
    expect(report.verdict).toBe('failed');
    expect(text).toMatch(/lost: the size was still 512 bytes, because #\d+ is lost, called from /);
    expect(text).toMatch(/LOST {2}#\d+ grow from 512 to 1024 bytes/);
    expect(text).toMatch(/a barrier between #\d+ and #\d+/);
    expect(report.failure?.lost[0]).toMatchObject({ size: 512, offset: 512 });
    expect(report.failure?.replay).toContain(' size:0');
    const { verdict, failure } = await crashTest({
      ...broken,
      replay: report.failure?.replay ?? '',
    });
    expect([verdict, failure?.message]).toEqual(['failed', report.failure?.message]);
    const picture = crashPicture(report);
    expect(picture).toContain('the size');
    expect(picture).toContain('grow from 512 to 1024 bytes');
  });

  test('when the recovery takes the size for the number of records, then an empty record is found', async () => {
    const report = await crashTest(log({ barrier: true }, bySize));
    expect(report).toMatchObject({ verdict: 'failed', failure: { message: 'record 0 is empty' } });
    expect(report.failure?.text).toMatch(/kept {2}#1 grow from 512 to 1024 bytes/);
    expect(report.failure?.text).toContain('although everything was written in order');
  });

  test('when nothing fails, then the picture of the trace has a lane for the size', async () => {
    expect(crashPicture(await crashTest(log({ barrier: true }, byMark)))).toContain('the size');
  });
});
