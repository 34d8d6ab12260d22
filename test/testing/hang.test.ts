// What never ends. Goal: a workload, a recovery or a check that does not end is `hung`, which is neither proved nor
// failed, within hangMs, and the report names what it was waiting for; what ends late is not hung.

import { describe, expect, test } from 'vitest';
import { IoScheduler, withFaults } from 'write-barrier';
import {
  type CrashTest,
  crashTest,
  formatCrashReport,
  type VolatileDisk,
} from '../../src/testing/index.js';
import { barrierMutation, barrierSynthesis, strictOrder } from '../../src/testing/lab/index.js';
import { FLUSH, first, full, PLAIN, SECTOR } from './sectors.js';

const never = (): Promise<never> => new Promise(() => {});

const good: CrashTest<number, number> = {
  size: 4 * SECTOR,
  hangMs: 100,
  workload: async (disk, journal) => {
    journal.begin(0);
    await disk.write(0, full(), PLAIN);
    await disk.flush(FLUSH);
    journal.acknowledge(0);
  },
  recover: (disk) => first(disk, 0),
  check: (found, { acknowledged }) => acknowledged.length === 0 || found === 1,
};
const working = (workload: CrashTest<number, number>['workload']): CrashTest<number, number> => ({
  ...good,
  workload,
});

describe('given a workload that does not end', () => {
  const kinds: Readonly<Record<string, readonly [CrashTest<number, number>['workload'], RegExp]>> =
    {
      'waits for a promise that is never settled': [never, /does not wait for the disk/],
      'has had its answers': [
        async (disk, journal) => {
          journal.begin(7);
          await disk.write(SECTOR, full(), PLAIN);
          await never();
        },
        /last answer was to #0 write of 512 bytes at 512; begun and not acknowledged: 7/,
      ],
      'has met a failure': [
        async (disk) => {
          await Promise.resolve(disk.flush(FLUSH)).catch(never);
        },
        /last answer was to #0 flush, which failed/,
      ],
      'tries again for ever': [
        async (disk) => {
          for (;;) await Promise.resolve(disk.flush(FLUSH)).catch(() => {});
        },
        /keeps calling the disk: \d+ commands so far/,
      ],
      'waits for a storage over the disk that does not answer': [
        async (disk) => {
          const scheduler = new IoScheduler(
            withFaults(disk, [{ on: 'write', nth: 0, fault: 'hang' }]),
          );
          await scheduler.write(0, full());
        },
        /the disk has answered nothing|does not wait for the disk/,
      ],
    };
  test.each(Object.entries(kinds))(
    'because it %s, then it is hung',
    async (_, [workload, words]) => {
      const faults = [{ on: 'flush', nth: 0, fault: 'sticky' }] as const;
      const report = await crashTest({ ...working(workload), faults });
      expect(report.verdict).toBe('hung');
      expect(report.failure?.message).toMatch(/^the workload has not ended within 100 ms; /);
      expect(report.failure?.message).toMatch(words);
      expect(formatCrashReport(report)).toMatch(/^hung: while the workload ran/);
      const replay = report.failure?.replay ?? '';
      const again = await crashTest({ ...working(workload), faults, replay });
      expect(again.verdict).toBe('hung');
    },
  );

  test('when it is left behind, then it hears nothing more, and does no harm', async () => {
    const calls: string[] = [];
    let disk: VolatileDisk | undefined;
    const report = await crashTest(
      working(async (it) => {
        disk = it;
        await never();
      }),
    );
    expect(report.verdict).toBe('hung');
    void Promise.resolve(disk?.flush(FLUSH)).then(
      () => calls.push('answered'),
      () => calls.push('refused'),
    );
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(calls).toEqual([]);
  });

  test('when an earlier seed was good, then the report still says hung', async () => {
    let runs = 0;
    const report = await crashTest({
      ...working(async (disk, journal) => {
        runs += 1;
        await good.workload(disk, journal, [], { number: 1 });
        if (runs === 3) await never();
      }),
      seeds: 5,
    });
    expect(report).toMatchObject({ verdict: 'hung', seed: 2 });
    expect(report.recoveries).toBeGreaterThan(0);
    expect(runs).toBe(3);
  });
});

test('given a host that is kept waiting by a patient disk for longer than the limit, then that is not held against it', async () => {
  const data = new Uint8Array(512);
  const { verdict } = await crashTest({
    size: 512,
    hangMs: 1000,
    workload: async (disk) => {
      for (let n = 0; n < 100; n += 1) {
        await crypto.subtle.digest('SHA-256', data);
        await disk.write(0, data, { fua: false, tag: 'simple' });
      }
    },
    recover: (disk) => disk.read(0, new Uint8Array(512)),
    check: () => true,
  });
  expect(verdict).not.toBe('hung');
});

describe('given a recovery or a check that does not end', () => {
  const kinds: Readonly<Record<string, Partial<CrashTest<number, number>>>> = {
    recovery: { recover: (disk) => (first(disk, 0) === 1 ? never() : 0) },
    'recovery, always': { recover: never },
    check: { check: (found) => (found === 1 ? never() : true) },
  };
  test.each(Object.entries(kinds))(
    'of the kind %s, then it is hung, and its image can be replayed',
    async (name, fields) => {
      const report = await crashTest({ ...good, ...fields });
      expect(report.verdict).toBe('hung');
      expect(report.failure?.message).toMatch(
        `the ${name.split(',')[0]} has not ended within 100 ms`,
      );
      const replay = report.failure?.replay ?? '';
      expect(replay).toMatch(/^seed 0 cut -?\d+( \d+:\d+)*$/);
      expect(await crashTest({ ...good, ...fields, replay })).toMatchObject({ verdict: 'hung' });
      expect(await crashTest({ ...good, replay })).toMatchObject({ verdict: 'passed' });
    },
  );

  test('when only a second recovery hangs, then nested finds it', async () => {
    const report = await crashTest({
      ...good,
      nested: true,
      recover: async (disk) => {
        if (first(disk, 1) === 1) await never();
        if (first(disk, 0) === 1) await disk.write(SECTOR, full(), PLAIN);
        return first(disk, 0);
      },
    });
    expect(report.verdict).toBe('hung');
    expect(report.failure?.replay).toMatch(/then cut -?\d+( \d+:\d+)*$/);
  });
});

describe('given a test that hangs, when it is asked what only a test that ends can answer', () => {
  test('then strict order says that a recovery is hung, and what it waits for', async () => {
    const report = await strictOrder({ ...good, recover: never }, String);
    expect(report).toMatchObject({ verdict: 'hung', holds: false });
    expect(report.warnings).toEqual([
      expect.stringMatching(/^the recovery has not ended within 100 ms/),
    ]);
  });

  test.each([
    ['workload', { workload: never }],
    ['recovery', { recover: never }],
    ['check', { check: never }],
  ])('then barriers are not looked for where the %s hangs', async (what, part) => {
    const refusal = {
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(
        `its verdict is 'hung': .*the ${what} has not ended within 100 ms`,
      ),
    };
    await expect(barrierMutation({ ...good, ...part })).rejects.toMatchObject(refusal);
    await expect(barrierSynthesis({ ...good, ...part })).rejects.toMatchObject(refusal);
  });
});

test('given a program, when a part of it hangs, then the failure of the whole is told all the same', async () => {
  const report = await crashTest<number, number, string>({
    ...good,
    program: ['open', 'forget', 'other'],
    workload: async (disk, journal, steps) => {
      if (!steps.includes('open')) await never();
      await disk.write(0, full(), PLAIN);
      journal.acknowledge(0);
    },
  });
  expect(report.verdict).toBe('failed');
});

test('given what takes long and ends, or a limit of Infinity, then it is not hung', async () => {
  const slow = working(async (disk, journal) => {
    await new Promise((resolve) => setTimeout(resolve, 60));
    await good.workload(disk, journal, [], { number: 1 });
  });
  for (const hangMs of [5000, Number.POSITIVE_INFINITY]) {
    expect(await crashTest({ ...slow, hangMs })).toMatchObject({ verdict: 'proved' });
  }
});
