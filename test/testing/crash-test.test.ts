// crashTest on a small log: the broken ones are found, the repaired one is proved, and misuse is told.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import { type CrashTest, crashTest, formatCrashReport } from '../../src/testing/crash-test.js';
import { barrierMutation, barrierSynthesis, strictOrder } from '../../src/testing/oracles.js';

const SECTOR = 512;
const TRANSACTIONS = 4;
const PAYLOAD = 3;
const STRIDE = PAYLOAD + 1;

/** A transaction is three sectors of payload and a commit mark, all of them filled with its number. */
function transaction(n: number): { payload: Uint8Array; mark: Uint8Array; offset: number } {
  const payload = new Uint8Array(PAYLOAD * SECTOR).fill(n);
  return { payload, mark: payload.subarray(0, SECTOR), offset: (n - 1) * STRIDE * SECTOR };
}

type Commit = (disk: IoScheduler, n: number) => Promise<unknown>;

/** Order and durability: the mark is a barrier, and the transaction is acknowledged when it has completed. */
const sound: Commit = (disk, n) => {
  const { payload, mark, offset } = transaction(n);
  return Promise.all([
    disk.write(offset, payload),
    disk.write(offset + payload.length, mark, { barrier: true }),
  ]);
};

/** Payload and mark in one epoch: the mark may be there without the payload. */
const unordered: Commit = (disk, n) => {
  const { payload, mark, offset } = transaction(n);
  return Promise.all([
    disk.write(offset, payload),
    disk.write(offset + payload.length, mark),
    disk.flush(),
  ]);
};

/** In order, and acknowledged too early. */
const hasty: Commit = async (disk, n) => {
  const { payload, mark, offset } = transaction(n);
  await disk.write(offset, payload);
  await disk.flush();
  await disk.write(offset + payload.length, mark);
};

const logTest = (commit: Commit, more: Partial<CrashTest<number, number[]>> = {}) => ({
  size: TRANSACTIONS * STRIDE * SECTOR,
  workload: async (
    storage: Storage,
    journal: { begin(n: number): void; acknowledge(n: number): void },
  ) => {
    const disk = new IoScheduler(storage, { mode: 'TAG_FLUSH' });
    for (let n = 1; n <= TRANSACTIONS; n++) {
      journal.begin(n);
      await commit(disk, n);
      journal.acknowledge(n);
    }
    await disk.idle();
  },
  recover: (disk: Storage): number[] => {
    const found: number[] = [];
    for (let n = 1; n <= TRANSACTIONS; n++) {
      const { payload, offset } = transaction(n);
      const mark = new Uint8Array(SECTOR);
      disk.read(offset + payload.length, mark);
      if (mark[0] !== n) break;
      const bytes = new Uint8Array(PAYLOAD * SECTOR);
      disk.read(offset, bytes);
      if (bytes.some((byte) => byte !== n)) throw new Error(`transaction ${n} is damaged`);
      found.push(n);
    }
    return found;
  },
  check: (
    found: number[],
    { acknowledged, begun }: { acknowledged: readonly number[]; begun: readonly number[] },
  ) => {
    expect(found.slice(0, acknowledged.length)).toEqual(acknowledged);
    expect(begun.slice(0, found.length)).toEqual(found);
  },
  ...more,
});

describe('given a log', () => {
  test('when its mark is a barrier, then every power cut is survived, and a few recoveries cover all images', async () => {
    const report = await crashTest(logTest(sound));
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
    expect(report.covered).toBe(report.images);
    expect(report.recoveries).toBeLessThan(10);
    expect(report.images).toBeGreaterThan(20n);
  });

  test('when payload and mark are in one epoch, then the mark without its payload is found, with one sector lost', async () => {
    const report = await crashTest(
      logTest(unordered, { label: (offset) => `sector ${offset / SECTOR}` }),
    );
    expect(report.verdict).toBe('failed');
    expect(report.failure?.message).toMatch(/^transaction \d is damaged$/);
    expect(report.failure?.lost).toHaveLength(1);
    expect(formatCrashReport(report)).toMatch(
      /a barrier between #\d+ and #\d+ would have forbidden it\n {2}replay: 'seed 0 image \d+'$/,
    );
    expect(report.failure?.text).toMatch(/lost: sector \d+, written by #\d+/);
  });

  test('when it acknowledges too early, then the lost transaction is found', async () => {
    const report = await crashTest(logTest(hasty));
    expect(report.verdict).toBe('failed');
    expect(report.failure?.text).toContain('wait for it before you acknowledge');
  });

  test('when the disk ignores flushes, then the sound log fails, too', async () => {
    const report = await crashTest(logTest(sound, { profile: { lies: ['ignoreFlush'] } }));
    expect(report.verdict).toBe('failed');
  });

  test('when a failure is replayed, then it is the same one; another image passes', async () => {
    const { failure } = await crashTest(logTest(unordered));
    const again = await crashTest(logTest(unordered, { replay: failure?.replay as string }));
    expect(again).toMatchObject({ verdict: 'failed', failure: { message: failure?.message } });
    const other = await crashTest(logTest(unordered, { replay: 'seed 0 image 0' }));
    expect(other).toMatchObject({ verdict: 'passed', recoveries: 1 });
  });

  test('when the budget is too small, then the report does not say that anything is proved', async () => {
    const report = await crashTest(logTest(sound, { recoveriesMax: 2 }));
    expect(report.verdict).toBe('passed');
    expect(report.warnings).toEqual([`${report.covered} of ${report.images} images are covered`]);
    expect(report.covered).toBeLessThan(report.images);
  });
});

describe('given misuse', () => {
  test('when the workload goes on after it has returned, then it is told', async () => {
    const careless = logTest(sound, {
      workload: async (storage) => {
        void new IoScheduler(storage).write(0, new Uint8Array(SECTOR), { barrier: true });
      },
    });
    await expect(crashTest(careless)).rejects.toThrow(/has returned and is not done/);
  });

  test('when the recovery reads otherwise each time, then it is told', async () => {
    let run = 0;
    const moody = logTest(unordered, {
      recover: (disk) => {
        run += 1;
        disk.read(run % 2 === 0 ? 0 : SECTOR, new Uint8Array(SECTOR));
        disk.read(2 * SECTOR, new Uint8Array(SECTOR));
        return [];
      },
      check: () => true,
    });
    await expect(crashTest(moody)).rejects.toThrow(/not deterministic/);
  });

  test('when the recovery never looks, or the workload never writes, then the report warns', async () => {
    const blind = await crashTest(logTest(sound, { recover: () => [], check: () => true }));
    expect(blind.verdict).toBe('passed');
    expect(blind.warnings).toEqual([
      'the recovery never read anything that the workload had written',
    ]);
    const idle = await crashTest(logTest(sound, { workload: () => {}, check: () => true }));
    expect(idle.warnings).toContain('the workload wrote nothing');
  });

  test.each(['', 'image 5', 'seed 1 image 0', 'seed 0 image 99999999'])(
    'when %j is to be replayed, then it is refused',
    async (replay) => {
      await expect(crashTest(logTest(sound, { replay }))).rejects.toMatchObject({
        code: expect.stringMatching(/INVALID_ARGUMENT|OUT_OF_RANGE/),
      });
    },
  );
});

test('given a recovery and a check that wait, when they run, then the verdict is the same', async () => {
  const { recover, check, ...rest } = logTest(sound);
  const patient = await crashTest({
    ...rest,
    recover: async (disk: Storage) => {
      await Promise.resolve();
      return recover(disk);
    },
    check: async (found: number[], expected: Parameters<typeof check>[1]) => {
      await Promise.resolve();
      check(found, expected);
    },
  });
  expect(patient.verdict).toBe('proved');
});

/** The sound log, and a flush that nobody needs. */
const anxious: Commit = async (disk, n) => {
  await sound(disk, n);
  await disk.flush();
};

describe('without a better check', () => {
  test('when each flush of the sound log is taken out, then each is missed; one too many is not', async () => {
    const needed = await barrierMutation(logTest(sound));
    expect(needed).toHaveLength(2 * TRANSACTIONS);
    expect(needed.filter(({ killed }) => !killed)).toEqual([]);
    const mutants = await barrierMutation(logTest(anxious));
    expect(mutants).toHaveLength(3 * TRANSACTIONS);
    // Of the flush behind the mark and the next one either will do.
    expect(mutants.filter(({ killed }) => killed)).toHaveLength(TRANSACTIONS);
  });

  test('when the smallest set of flushes is looked for, then it has two for each transaction', async () => {
    const two = logTest(anxious, {
      workload: async (storage, journal) => {
        const disk = new IoScheduler(storage, { mode: 'TAG_FLUSH' });
        for (const n of [1, 2]) {
          journal.begin(n);
          await anxious(disk, n);
          journal.acknowledge(n);
        }
      },
    });
    expect(await barrierSynthesis(two)).toHaveLength(4);
    const lying = { ...two, profile: { lies: ['ignoreFlush'] as const } };
    expect(await barrierSynthesis(lying)).toBeUndefined();
  });

  test('when nobody checks anything, then a state out of order is found all the same', async () => {
    const digest = (found: number[]): string => found.join();
    const ordered = await strictOrder(logTest(sound, { check: () => true }), digest);
    expect(ordered).toMatchObject({ holds: true });
    const unsorted = await strictOrder(logTest(unordered, { check: () => true }), digest);
    expect(unsorted).toMatchObject({ holds: false, digest: expect.stringMatching(/is damaged/) });
  });

  test('when the trace of a report is given in place of the workload, then the verdict is the same', async () => {
    const { trace, images } = await crashTest(logTest(sound));
    const again = await crashTest(logTest(sound, { trace, workload: () => {} }));
    expect(again).toMatchObject({ verdict: 'proved', images });
  });
});

describe('given a recovery that writes', () => {
  /** Two counters that must be the same: recovery copies the first one to the second. */
  const repair = (disk: Storage, order: readonly ('copy' | 'clear')[]): string => {
    const read = (offset: number): number => {
      const bytes = new Uint8Array(SECTOR);
      disk.read(offset, bytes);
      return bytes[0] as number;
    };
    const write = (offset: number, fill: number): void =>
      void disk.write(offset, new Uint8Array(SECTOR).fill(fill), { fua: true, tag: 'simple' });
    // The journal, in sector 2, says what the page, in sector 0, is to be.
    const journal = read(2 * SECTOR);
    for (const step of journal > 0 ? order : []) {
      if (step === 'copy') write(0, journal);
      else write(2 * SECTOR, 0);
    }
    return `page ${read(0)}`;
  };
  const journaled = (order: readonly ('copy' | 'clear')[]): CrashTest<number, string> => ({
    size: 3 * SECTOR,
    nested: true,
    workload: async (disk, journal) => {
      journal.begin(7);
      await disk.write(2 * SECTOR, new Uint8Array(SECTOR).fill(7), { fua: true, tag: 'simple' });
      journal.acknowledge(7);
    },
    recover: (disk) => repair(disk, order),
    check: (found, { acknowledged }) => acknowledged.length === 0 || found === 'page 7',
  });

  test('when the power fails a second time, then a journal that is cleared too early is found', async () => {
    expect(await crashTest(journaled(['copy', 'clear']))).toMatchObject({ verdict: 'proved' });
    const report = await crashTest(journaled(['clear', 'copy']));
    expect(report.verdict).toBe('failed');
    expect(report.failure?.text).toMatch(
      /then the recovery is cut short as well:\n.*kept {2}#\d+ /s,
    );
    const cut = await crashTest({ ...journaled(['copy', 'clear']), recoveriesMax: 3 });
    expect(cut).toMatchObject({ verdict: 'passed', recoveries: 3 });
    const once = await crashTest({ ...journaled(['clear', 'copy']), nested: false });
    expect(once.verdict).toBe('proved');
  });
});
