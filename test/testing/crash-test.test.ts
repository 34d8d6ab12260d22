// crashTest on a small log: the broken ones are found, the repaired one is proved, and misuse is told.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import { formatCrashReport } from '../../src/testing/crash-test/crash-report.js';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import type { CrashTest } from '../../src/testing/crash-test/types.js';
import { barrierMutation, strictOrder } from '../../src/testing/lab/analyses.js';
import { prefixOracle } from '../../src/testing/lab/prefix.js';
import { barrierSynthesis } from '../../src/testing/lab/synthesis.js';

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
  profile: 'scsi-tags' as const,
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
      /a barrier between #\d+ and #\d+, which was called from unordered \(crash-test.test.ts:\d+\), from Object.workload \(crash-test.test.ts:\d+\), would have prevented it\n {2}replay: 'seed 0 cut \d+( \d+:\d+)*'$/,
    );
    expect(report.failure?.text).toMatch(/lost: sector \d+, written by #\d+/);
  });

  test('when it acknowledges too early, then the lost transaction is found', async () => {
    const report = await crashTest(logTest(hasty));
    expect(report.verdict).toBe('failed');
    expect(report.failure?.text).toContain('wait for the flush before you acknowledge');
  });

  test('when the disk ignores flushes, then the sound log fails, too', async () => {
    const report = await crashTest(
      logTest(sound, { profile: { orderedTags: true, lies: ['ignoreFlush'] } }),
    );
    expect(report.verdict).toBe('failed');
  });

  test('when a failure is replayed, then it is the same one; another image passes', async () => {
    const { failure } = await crashTest(logTest(unordered));
    const again = await crashTest(logTest(unordered, { replay: failure?.replay as string }));
    expect(again).toMatchObject({ verdict: 'failed', failure: { message: failure?.message } });
    const other = await crashTest(logTest(unordered, { replay: 'seed 0 cut -1' }));
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
    await expect(crashTest(careless)).rejects.toThrow(/returned before its commands were done/);
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
      'the recovery never read a sector that the workload had written',
    ]);
    const indulgent = await crashTest(logTest(sound, { check: () => true }));
    expect(indulgent).toMatchObject({ verdict: 'passed' });
    expect(indulgent.warnings).toEqual([
      expect.stringContaining('the check accepts a disk without any write of the workload'),
    ]);
    const idle = await crashTest(logTest(sound, { workload: () => {}, check: () => true }));
    expect(idle.warnings).toContain('the workload wrote nothing');
  });

  test.each([
    '',
    'cut 5',
    'seed 0 steps 3 cut 0',
    'seed 0 cut 0 0:99',
    'seed 0 cut 0 then life cut 1',
  ])('when %j is to be replayed, then it is refused', async (replay) => {
    await expect(crashTest(logTest(sound, { replay }))).rejects.toMatchObject({
      code: expect.stringMatching(/INVALID_ARGUMENT|OUT_OF_RANGE/),
    });
  });
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
    const lying = { ...two, profile: { orderedTags: true, lies: ['ignoreFlush'] as const } };
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
    expect(report.failure?.message).toMatch(/not the state after \d to \d of the operations/);
  });

  test('when something is there that had not begun, or is there out of turn, then it says so', () => {
    const check = prefixOracle(model);
    const expected = { acknowledged: [1], begun: [1, 2] };
    for (const found of [[1], [1, 2]]) expect(() => check(found, expected)).not.toThrow();
    for (const found of [[], [2], [2, 1], [1, 2, 3]]) {
      expect(() => check(found, expected)).toThrow(/not the state after 1 to 2/);
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
    // The recovery does not wait for its disk.
    answers: 'at-once',
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
    expect(report.failure?.text).toMatch(/then the recovery, cut short as well:\n.*kept {2}#\d+ /s);
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
      answers: 'at-once',
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
    expect(report.failure?.text.match(/then the recovery, cut short as well/g)).toHaveLength(2);
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

  test('when nothing is acknowledged and the check accepts even garbage, then nothing is proved, and the report says so', async () => {
    const blind: CrashTest<never, number> = {
      size: SECTOR,
      workload: (disk) =>
        disk.write(0, new Uint8Array(SECTOR).fill(1), { fua: true, tag: 'simple' }),
      recover: (disk) => {
        const into = new Uint8Array(SECTOR);
        disk.read(0, into);
        return into[0] as number;
      },
      check: () => true,
    };
    const report = await crashTest(blind);
    expect(report.verdict).toBe('passed');
    expect(report.warnings).toEqual([expect.stringContaining('the check accepts every disk')]);
    const scheduled = await crashTest({
      ...blind,
      recover: async (disk) => (await new IoScheduler(disk).read(0, SECTOR))[0] as number,
    });
    expect(scheduled.verdict).toBe('passed');
    const seeing = await crashTest({ ...blind, check: (found) => found <= 1 });
    expect(seeing).toMatchObject({ verdict: 'proved', warnings: [] });
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
      check: (found) => found === 0 || found === 1,
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
    expect(report.failure?.replay).toMatch(/^seed 0 steps 7 cut -?\d+( \d+:\d+)*$/);
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

// Two writes with a read between them, through an adapter as users have one.
describe('given code over an adapter', () => {
  const adapterOf = (disk: Storage) => ({
    put: (block: number, value: number) =>
      disk.write(block * SECTOR, new Uint8Array(SECTOR).fill(value), { fua: false, tag: 'simple' }),
    look: (block: number) => disk.read(block * SECTOR, new Uint8Array(SECTOR)),
  });
  const save = async (to: ReturnType<typeof adapterOf>): Promise<void> => {
    await to.put(0, 7);
    await to.look(0);
    await to.put(1, 7);
  };
  const adapted: CrashTest<string, number[]> = {
    size: 2 * SECTOR,
    workload: (disk) => save(adapterOf(disk)),
    recover: (disk) =>
      [0, 1].map((block) => {
        const bytes = new Uint8Array(SECTOR);
        disk.read(block * SECTOR, bytes);
        return bytes[0] as number;
      }),
    check: ([record, mark]) => mark !== 7 || record === 7,
    label: (offset) => (offset === 0 ? 'the record' : 'the mark'),
  };

  test('when it fails, then the call around that of the adapter is named as well, and nothing above the workload', async () => {
    const { failure } = await crashTest(adapted);
    const [first] = failure?.lost ?? [];
    expect(first?.site).toMatch(
      /^Object\.put \(crash-test\.test\.ts:\d+\), from save \(crash-test\.test\.ts:\d+\)$/,
    );
    const shallow = await crashTest({
      ...adapted,
      workload: async (disk) => void (await adapterOf(disk).put(1, 7)),
    });
    expect(shallow.failure?.lost).toEqual([]);
  });

  test('when a read stands where the barrier is missing, then the advice names the writes around it', async () => {
    const { failure } = await crashTest(adapted);
    expect(failure?.advice?.text).toMatch(/^a barrier between #0 and #2, which was called from /);
  });

  test('when several seeds pass, then the headline names all of them, and the report has the labels', async () => {
    const report = await crashTest({ ...adapted, check: () => true, seed: 3, seeds: 5 });
    expect(report).toMatchObject({ seed: 7, seeds: 5, verdict: 'passed' });
    expect(formatCrashReport(report)).toMatch(/^passed: .*, seeds 3 to 7\n/);
    expect(report.labels).toEqual({ 0: 'the record', [SECTOR]: 'the mark' });
    const failed = await crashTest({ ...adapted, seed: 3, seeds: 5 });
    expect(failed.seeds).toBe(1);
    expect(formatCrashReport(failed)).toMatch(new RegExp(`^failed: .*, seed ${failed.seed}\n`));
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
    expect(report.failure?.replay).toMatch(new RegExp(`^seed ${report.seed} cut`));
  });

  test('when all of them hold, then the report is of all', async () => {
    const check = ([first = -1]: readonly number[]): boolean => [0, 1, 9].includes(first);
    const report = await crashTest({ ...racing, check, seeds: 5 });
    expect(report).toMatchObject({ verdict: 'proved', seed: 4 });
    expect(report.covered).toBe(report.images);
    // Fewer where the disk has answered at once: nothing is then in doubt together.
    expect(report.recoveries).toBeGreaterThanOrEqual(15);
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

// What a review with the will to break things found, each as small as it was reported.
describe('given what once was judged wrongly', () => {
  const PLAIN = { fua: false, tag: 'simple' } as const;
  const SIMPLE = { tag: 'simple' } as const;
  const ORDERED = { fua: false, tag: 'ordered' } as const;
  const fill = (value: number, sectors = 1): Uint8Array =>
    new Uint8Array(sectors * SECTOR).fill(value);
  const at = (disk: Storage, place: number): number => {
    const bytes = new Uint8Array(SECTOR);
    disk.read(place * SECTOR, bytes);
    return bytes[0] as number;
  };
  const attempt = async (call: void | Promise<void>): Promise<void> => {
    try {
      await call;
    } catch {}
  };

  test('when a flush drops a write under a smaller one of the same unit, then the smaller one may be there alone', async () => {
    const report = await crashTest<number, number[]>({
      size: 2 * SECTOR,
      profile: { atomicWriteUnit: 2 * SECTOR },
      faults: [{ on: 'flush', nth: 0, fault: 'drop' }],
      workload: async (disk) => {
        await disk.write(0, fill(1, 2), PLAIN);
        await attempt(disk.flush(SIMPLE));
        await disk.write(SECTOR, fill(2), FORCED);
      },
      recover: (disk) => [at(disk, 0), at(disk, 1)],
      check: ([x, y]) => y !== 2 || x === 1,
    });
    expect(report.verdict).toBe('failed');
  });

  test('when a smaller write vouches for the older unit below it, then a unit is no flush', async () => {
    const verdictOf = async (flushes: boolean): Promise<string> => {
      const report = await crashTest<string, { record: number; mark: number }>({
        size: 2 * SECTOR,
        profile: { atomicWriteUnit: 2 * SECTOR },
        workload: async (disk, journal) => {
          await disk.write(0, fill(7, 2), PLAIN);
          if (flushes) await disk.flush(SIMPLE);
          await disk.write(SECTOR, fill(2), PLAIN);
          await disk.flush(SIMPLE);
          journal.acknowledge('sealed');
        },
        recover: (disk) => ({ record: at(disk, 0), mark: at(disk, 1) }),
        check: ({ record, mark }, { acknowledged }) =>
          mark === 2 ? record === 7 : acknowledged.length === 0,
      });
      return report.verdict;
    };
    expect(await verdictOf(false)).toBe('failed');
    expect(await verdictOf(true)).toBe('proved');
  });

  test('when a write strays, then it does not bring back what was replaced for good', async () => {
    const report = await crashTest<number, number>({
      size: SECTOR,
      faults: [{ on: 'write', nth: 0, fault: 'stray' }],
      workload: async (disk, journal) => {
        await attempt(disk.write(0, fill(1), PLAIN));
        await disk.write(0, fill(2), FORCED);
        await disk.write(0, fill(3), FORCED);
        journal.acknowledge(3);
      },
      recover: (disk) => at(disk, 0),
      check: (found, { acknowledged }) => acknowledged.length === 0 || found === 3 || found === 1,
    });
    expect(report.covered).toBe(report.images);
    expect(report.verdict).not.toBe('failed');
  });

  test('when an ordered write waits behind a flush that drops, then it is not dropped', async () => {
    const report = await crashTest<number, number>({
      size: SECTOR,
      profile: { orderedTags: true },
      faults: [{ on: 'flush', nth: 0, fault: 'drop' }],
      workload: async (disk, journal) => {
        const flush = attempt(disk.flush({ tag: 'ordered' }));
        await Promise.all([flush, disk.write(0, fill(1), ORDERED), disk.flush({ tag: 'ordered' })]);
        journal.acknowledge(1);
      },
      recover: (disk) => at(disk, 0),
      check: (found, { acknowledged }) => acknowledged.length === 0 || found === 1,
    });
    expect(report).toMatchObject({ verdict: 'proved' });
  });

  test('when a check accepts less with more begun, then each beginning is a moment as well', async () => {
    const report = await crashTest<number, number>({
      size: SECTOR,
      workload: async (disk, journal) => {
        journal.begin(1);
        await disk.write(0, new Uint8Array(SECTOR).fill(1));
        journal.begin(2);
        await disk.flush();
      },
      recover: (disk) => {
        const bytes = new Uint8Array(SECTOR);
        disk.read(0, bytes);
        return bytes[0] as number;
      },
      check: (found, { begun }) => found === 1 || begun.length < 2,
    });
    expect(report).toMatchObject({ verdict: 'failed', warnings: [] });
  });

  test('when the check reads from the disk of the recovery, then it is told, because the moments were known before', async () => {
    const report = await crashTest<number, Storage>({
      size: SECTOR,
      workload: async (disk, journal) => {
        await disk.write(0, new Uint8Array(SECTOR).fill(1));
        await disk.flush();
        journal.acknowledge(1);
      },
      recover: (disk) => disk,
      check: (disk) => disk.read(0, new Uint8Array(SECTOR)) === undefined,
    });
    expect(report.failure?.message).toBe('the recovery on this disk has ended');
  });

  test('when an operation changes nothing, then no moment expects what had not begun', async () => {
    const report = await crashTest<number, number>({
      size: SECTOR,
      workload: async (disk, journal) => {
        journal.begin(0);
        journal.acknowledge(0);
        journal.begin(1);
        await disk.write(0, fill(1), FORCED);
        journal.acknowledge(1);
      },
      recover: (disk) => at(disk, 0),
      check: (found, { acknowledged, begun }) =>
        [0, 0, 1].some(
          (state, k) => state === found && k >= acknowledged.length && k <= begun.length,
        ),
    });
    expect(report).toMatchObject({ verdict: 'proved' });
  });

  test('when the first recovery has not read something, then the second cut is judged by what is there', async () => {
    const report = await crashTest<number, string | number>({
      size: 2 * SECTOR,
      nested: true,
      workload: async (disk, journal) => {
        await disk.write(0, fill(1), FORCED);
        journal.begin(7);
        await disk.write(SECTOR, fill(7), FORCED);
        journal.acknowledge(7);
      },
      recover: (disk) => {
        if (at(disk, 0) !== 1) return at(disk, 1);
        disk.write(0, fill(0), FORCED);
        return 'again';
      },
      check: (found, { acknowledged }) =>
        found === 'again' || acknowledged.length === 0 || found === 7,
    });
    expect(report.verdict).not.toBe('failed');
  });

  test('when recovery mends a sector that cannot be read, then the second cut finds it so, too', async () => {
    const report = await crashTest<number, number>({
      size: SECTOR,
      nested: true,
      faults: [{ on: 'write', nth: 0, fault: 'latent' }],
      workload: (disk) => disk.write(0, fill(1), FORCED),
      recover: (disk) => {
        try {
          return at(disk, 0);
        } catch {
          disk.write(0, fill(9), FORCED);
          return 9;
        }
      },
      check: (found) => found === 0 || found === 9,
    });
    expect(report).toMatchObject({ verdict: 'proved' });
  });

  test('when a sector was rewritten and both contents are gone, then both are told as lost, and the smaller loss is reported', async () => {
    const rewritten: CrashTest<never, number[]> = {
      size: 2 * SECTOR,
      workload: async (disk) => {
        await disk.write(0, fill(1), PLAIN);
        await disk.write(0, fill(2), PLAIN);
        await disk.write(SECTOR, fill(9), PLAIN);
      },
      recover: (disk) => [at(disk, 0), at(disk, 1)],
      check: ([first, second]) => second !== 9 || first === 2,
    };
    const { failure } = await crashTest(rewritten);
    expect(failure?.text).toMatch(
      /recovered: \[1,9\]\n {2}kept {2}#0.*\n {2}LOST {2}#1.*\n {2}kept {2}#2/,
    );
    const harsh = await crashTest({ ...rewritten, check: ([a, b]) => b !== 9 || a !== 0 });
    expect(harsh.failure?.text).toMatch(
      /recovered: \[0,9\]\n {2}LOST {2}#0.*\n {2}LOST {2}#1.*\n {2}kept {2}#2/,
    );
  });

  test('when the same bytes come of different losses, then the plan has a barrier for each', async () => {
    const rollback: CrashTest<number, number[]> = {
      size: 2 * SECTOR,
      workload: async (disk) => {
        for (const [place, value] of [
          [0, 1],
          [1, 1],
          [1, 0],
          [0, 0],
        ] as const) {
          await disk.write(place * SECTOR, fill(value), PLAIN);
        }
      },
      recover: (disk) => [at(disk, 0), at(disk, 1)],
      check: ([x, y]) => !(y === 1 && x === 0),
    };
    const plan = await barrierSynthesis(rollback);
    expect(plan?.missing.map(({ behind }) => behind)).toEqual([0, 2]);
    const report = await crashTest(rollback);
    expect(report.failure?.text).toMatch(/barrier/);
  });

  test('when a second cut fails, then the replay has both', async () => {
    const test: CrashTest<number, number> = {
      size: 3 * SECTOR,
      nested: true,
      workload: async (disk, journal) => {
        journal.begin(7);
        await disk.write(2 * SECTOR, fill(7), FORCED);
        journal.acknowledge(7);
      },
      recover: (disk) => {
        const journal = at(disk, 2);
        if (journal > 0) disk.write(2 * SECTOR, fill(0), FORCED);
        if (journal > 0) disk.write(0, fill(journal), FORCED);
        return at(disk, 0);
      },
      check: (found, { acknowledged }) => acknowledged.length === 0 || found === 7,
    };
    const { failure } = await crashTest(test);
    expect(failure?.replay).toMatch(/^seed 0 cut -?\d+( \d+:\d+)* then cut -?\d+( \d+:\d+)*$/);
    expect(await crashTest({ ...test, replay: failure?.replay ?? '' })).toMatchObject({
      verdict: 'failed',
      failure: { message: failure?.message, replay: failure?.replay },
    });
  });

  test('when a step is needed by another one that is left out later, then it is left out as well', async () => {
    const steps: CrashTest<string, number, string> = {
      size: SECTOR,
      program: ['create', 'x', 'insert', 'bad'],
      workload: async (disk, _, program) => {
        if (program.includes('insert') && !program.includes('create')) throw new Error('no table');
        if (program.includes('bad')) await disk.write(0, fill(6), FORCED);
      },
      recover: (disk) => at(disk, 0),
      check: (found) => found !== 6,
    };
    expect((await crashTest(steps)).failure?.program).toEqual(['bad']);
  });

  test('when the operations undo each other, then it can be proved', async () => {
    const report = await crashTest<string, number>({
      size: SECTOR,
      workload: async (disk, journal) => {
        for (const value of [5, 0]) {
          await disk.write(0, fill(value), FORCED);
          journal.acknowledge(`set ${value}`);
        }
      },
      recover: (disk) => at(disk, 0),
      check: (found, { acknowledged }) => acknowledged.length !== 1 || found === 5 || found === 0,
    });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when a fault is behind it, then the report says so, and does not speak of barriers', async () => {
    const report = await crashTest<number, number>({
      size: SECTOR,
      faults: [{ on: 'write', nth: 0, fault: 'lost' }],
      workload: async (disk, journal) => {
        await disk.write(0, fill(1), FORCED);
        journal.acknowledge(1);
      },
      recover: (disk) => at(disk, 0),
      check: (found, { acknowledged }) => acknowledged.length === 0 || found === 1,
    });
    expect(report.failure?.text).toContain(
      'FAULT #0 write of 512 bytes at offset 0, FUA, fault: lost',
    );
    expect(report.failure?.text).toContain('fails because of the fault');
  });

  test.each([
    { seed: -1 },
    { seed: Number.NaN },
    { recoveriesMax: Number.NaN },
    { nested: 1.5 },
    { nested: -1 },
    { initial: new Uint8Array(7) },
    { profile: { lie: ['ignoreFlush'] } as object },
    { faults: [{ on: 'write', nth: -1, fault: 'lost' }] as const },
    { faults: [{ on: 'write', nth: 0, fault: 'misdirected', at: 7 }] as const },
  ])('when %j is asked for, then it is refused', async (wrong) => {
    await expect(crashTest({ ...logTest(sound), ...wrong })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});
