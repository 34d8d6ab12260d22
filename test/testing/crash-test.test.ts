// crashTest on a small log: the broken ones are found, the repaired one is proved, and misuse is told.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import { crashTest, formatCrashReport } from '../../src/testing/crash-test/crash-test.js';
import {
  barrierMutation,
  barrierSynthesis,
  prefixOracle,
  strictOrder,
} from '../../src/testing/crash-test/oracles.js';
import type { CrashTest } from '../../src/testing/crash-test/trial.js';

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
      /a barrier between #\d+ and #\d+, which was called from unordered \(crash-test.test.ts:\d+\), would have forbidden it\n {2}replay: 'seed 0 image \d+'$/,
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
      expect.stringContaining('the check accepts a disk without anything of the workload'),
    ]);
    const idle = await crashTest(logTest(sound, { workload: () => {}, check: () => true }));
    expect(idle.warnings).toContain('the workload wrote nothing');
  });

  test.each(['', 'image 5', 'seed 0 steps 3 image 0', 'seed 0 image 99999999'])(
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
    const plan = await barrierSynthesis(two);
    expect(plan?.flushes).toHaveLength(4);
    expect(plan?.missing).toEqual([]);
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

const FORCED = { fua: true, tag: 'simple' } as const;

describe('given a model of the code under test', () => {
  const model = {
    start: [] as readonly number[],
    apply: (state: readonly number[], n: number) => [...state, n],
    matches: (found: readonly number[], state: readonly number[]) => found.join() === state.join(),
  };

  test('when the prefix oracle checks a sound log, then it is proved; a hasty one loses what it acknowledged', async () => {
    const check = prefixOracle(model);
    expect(await crashTest(logTest(sound, { check }))).toMatchObject({ verdict: 'proved' });
    const report = await crashTest(logTest(hasty, { check }));
    expect(report.failure?.message).toMatch(/no state after \d to \d of the operations/);
  });

  test('when something is there that had not begun, or is there out of turn, then it says so', () => {
    const check = prefixOracle(model);
    const expected = { acknowledged: [1], begun: [1, 2] };
    for (const found of [[1], [1, 2]]) expect(() => check(found, expected)).not.toThrow();
    for (const found of [[], [2], [2, 1], [1, 2, 3]]) {
      expect(() => check(found, expected)).toThrow(/no state after 1 to 2/);
    }
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

  test('when the power fails during the second recovery, too, then a mistake that takes three cuts is found', async () => {
    const cell = (disk: Storage, place: number): number => {
      const bytes = new Uint8Array(SECTOR);
      disk.read(place * SECTOR, bytes);
      return bytes[0] as number;
    };
    const put = (disk: Storage, place: number, fill: number): void =>
      void disk.write(place * SECTOR, new Uint8Array(SECTOR).fill(fill), FORCED);
    // Each recovery that is cut short counts itself, and the third one gives up.
    const counting = (nested: number): CrashTest<number, number> => ({
      size: 3 * SECTOR,
      nested,
      workload: async (disk, journal) => {
        journal.begin(7);
        await disk.write(0, new Uint8Array(SECTOR).fill(7), FORCED);
        journal.acknowledge(7);
      },
      recover: (disk) => {
        const tries = cell(disk, 1);
        if (tries === 2) put(disk, 0, 0);
        put(disk, 1, tries + 1);
        put(disk, 1, 0);
        return cell(disk, 0);
      },
      check: (found, { acknowledged }) => acknowledged.length === 0 || found === 7,
    });
    expect(await crashTest(counting(1))).toMatchObject({ verdict: 'proved' });
    const report = await crashTest(counting(2));
    expect(report.verdict).toBe('failed');
    expect(report.failure?.text.match(/then the recovery is cut short as well/g)).toHaveLength(2);
  });
});

describe('given more outcomes than recoveries', () => {
  const CELLS = 24;
  /** Nothing is ordered, and what is wrong shows in one of the millions of outcomes only. */
  const needle = (bad: (found: readonly number[]) => boolean): CrashTest<number, number[]> => ({
    size: CELLS * SECTOR,
    workload: async (disk) => {
      const write = (i: number): unknown =>
        disk.write(i * SECTOR, new Uint8Array(SECTOR).fill(1), { fua: false, tag: 'simple' });
      await Promise.all(Array.from({ length: CELLS }, (_, i) => write(i)));
    },
    recover: (disk) => {
      const bytes = new Uint8Array(CELLS * SECTOR);
      disk.read(0, bytes);
      return Array.from({ length: CELLS }, (_, i) => bytes[i * SECTOR] as number);
    },
    check: (found) => !bad(found),
    label: (offset) => `file ${Math.floor(offset / SECTOR / 8)}`,
    recoveriesMax: 2000,
  });
  const lost = (found: readonly number[]): number[] =>
    found.flatMap((value, i) => (value === 0 ? [i] : []));

  test.each([
    ['one sector is lost', (found: readonly number[]) => lost(found).join() === '17'],
    ['two sectors are lost', (found: readonly number[]) => lost(found).join() === '3,9'],
    [
      'one sector is kept',
      (found: readonly number[]) => lost(found).length === CELLS - 1 && found[20] === 1,
    ],
    [
      'a file is lost',
      (found: readonly number[]) => lost(found).join() === '8,9,10,11,12,13,14,15',
    ],
  ])('when it is wrong only where %s, then that is found', async (_, bad) => {
    const report = await crashTest({ ...needle(bad), recoveriesMax: 20_000 });
    expect(report.verdict).toBe('failed');
    expect(await crashTest({ ...needle(bad), replay: report.failure?.replay ?? '' })).toMatchObject(
      {
        verdict: 'failed',
      },
    );
  });

  test('when nothing is wrong, then each image counts once, and nothing is proved', async () => {
    const report = await crashTest(needle(() => false));
    expect(report).toMatchObject({ verdict: 'passed', recoveries: 2000 });
    expect(report.covered).toBeLessThan(2000n);
    expect(report.covered).toBeGreaterThan(1500n);
    expect(Object.keys(report.orders).sort()).toEqual([
      ...['depth first', 'file lost', 'in order', 'one kept', 'one lost', 'random choices'],
      ...['random moment', 'request lost', 'two kept', 'two lost'],
    ]);
    expect(formatCrashReport(report)).toContain(' depth first, ');
    expect(formatCrashReport(report)).not.toContain('proved');
  });

  test('when the budget does for all of them in the end, then it is proved, and no image is counted twice', async () => {
    const small = { ...needle(() => false), size: 6 * SECTOR };
    const six: CrashTest<number, number> = {
      ...small,
      workload: async (disk) => {
        for (let i = 0; i < 6; i++) {
          await disk.write(i * SECTOR, new Uint8Array(SECTOR).fill(1), {
            fua: false,
            tag: 'simple',
          });
        }
      },
      recover: (disk) => {
        const bytes = new Uint8Array(6 * SECTOR);
        disk.read(0, bytes);
        return bytes[0] as number;
      },
      check: () => true,
      recoveriesMax: 150,
    };
    expect(await crashTest(six)).toMatchObject({ verdict: 'proved', images: 64n, covered: 64n });
  });
});

describe('given a program', () => {
  /** Steps that write a record each; one of them forgets its flush. */
  type Step = { readonly record: number; readonly flushed: boolean };
  const of = (program: readonly Step[]): CrashTest<number, number[], Step> => ({
    size: 16 * SECTOR,
    program,
    workload: async (disk, journal, steps) => {
      for (const { record, flushed } of steps) {
        journal.begin(record);
        await disk.write(record * SECTOR, new Uint8Array(SECTOR).fill(1), {
          fua: false,
          tag: 'simple',
        });
        if (flushed) await disk.flush({ tag: 'simple' });
        journal.acknowledge(record);
      }
    },
    recover: (disk) => {
      const bytes = new Uint8Array(16 * SECTOR);
      disk.read(0, bytes);
      return Array.from({ length: 16 }, (_, i) => i).filter((i) => bytes[i * SECTOR] === 1);
    },
    check: (found, { acknowledged }) => acknowledged.every((record) => found.includes(record)),
  });

  test('when it fails, then the report has no more steps than it takes, and brings them back', async () => {
    const program = Array.from({ length: 12 }, (_, record) => ({ record, flushed: record !== 7 }));
    const report = await crashTest(of(program));
    expect(report.verdict).toBe('failed');
    expect(report.failure?.program).toEqual([{ record: 7, flushed: false }]);
    expect(report.failure?.replay).toMatch(/^seed 0 steps 7 image \d+$/);
    expect(report.failure?.text).toContain('the program: {"record":7,"flushed":false}');
    const again = await crashTest({ ...of(program), replay: report.failure?.replay ?? '' });
    expect(again.failure?.message).toBe(report.failure?.message);
    expect(again.failure?.program).toEqual(report.failure?.program);
  });

  test('when it holds, then it is taken whole', async () => {
    const program = Array.from({ length: 5 }, (_, record) => ({ record, flushed: true }));
    expect(await crashTest(of(program))).toMatchObject({ verdict: 'proved' });
  });
});

describe('given several orders of answers', () => {
  const racing: CrashTest<number, number[]> = {
    size: 2 * SECTOR,
    // Right only if the first write is answered first.
    workload: async (disk) => {
      const order: number[] = [];
      const write = async (i: number): Promise<void> => {
        await disk.write(i * SECTOR, new Uint8Array(SECTOR).fill(1), FORCED);
        order.push(i);
      };
      await Promise.all([write(0), write(1)]);
      if (order[0] === 1) await disk.write(0, new Uint8Array(SECTOR).fill(9), FORCED);
    },
    recover: (disk) => {
      const bytes = new Uint8Array(2 * SECTOR);
      disk.read(0, bytes);
      return [bytes[0] as number, bytes[SECTOR] as number];
    },
    check: ([first]) => first !== 9,
  };

  test('when one of them fails, then it is found, and its seed is told', async () => {
    const report = await crashTest({ ...racing, seeds: 20 });
    expect(report.verdict).toBe('failed');
    expect(report.failure?.replay).toMatch(new RegExp(`^seed ${report.seed} image`));
  });

  test('when all of them hold, then the report is of all', async () => {
    const report = await crashTest({ ...racing, check: () => true, seeds: 5 });
    expect(report).toMatchObject({ verdict: 'proved', seed: 4 });
    expect(report.covered).toBe(report.images);
    expect(report.recoveries).toBeGreaterThanOrEqual(20);
  });

  test.each([0, -1, 1.5])('when there are to be %d, then that is refused', async (seeds) => {
    await expect(crashTest({ ...racing, seeds })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});

describe('given a log that lacks barriers', () => {
  test('when the missing ones are looked for, then they stand where a repair would put them', async () => {
    const bare = logTest(unordered, {
      workload: async (storage, journal) => {
        const disk = new IoScheduler(storage, { mode: 'TAG_FLUSH' });
        for (const n of [1, 2]) {
          journal.begin(n);
          await unordered(disk, n);
          journal.acknowledge(n);
        }
      },
    });
    const { trace } = await crashTest({ ...bare, recoveriesMax: 0 });
    const plan = await barrierSynthesis(bare);
    // Of each transaction the flush is needed, and between payload and mark there is none.
    expect(plan?.flushes).toHaveLength(2);
    expect(plan?.missing).toHaveLength(2);
    for (const { behind, before } of plan?.missing ?? []) {
      expect(trace.commands[behind]).toMatchObject({ op: 'write', length: PAYLOAD * SECTOR });
      expect(trace.commands[before ?? 0]).toMatchObject({ op: 'write', length: SECTOR });
    }
  });
});
