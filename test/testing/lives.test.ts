// More than one power cut. Goal: what may follow a power cut is covered, each case once, and what comes back from the dead is
// found. Method: brute force over all states of all cuts, and logs with one mistake each, over a hundred programs.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import { seededRandom } from '../../src/testing/choices.js';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import type { CrashFailure, CrashTest } from '../../src/testing/crash-test/types.js';
import { DiskRecorder, recording } from '../../src/testing/device/disk-trace.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { prefixOracle } from '../../src/testing/lab/prefix.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import type { CrashState } from '../../src/testing/space/crash-state.js';
import { share } from '../kit/amount.js';
import { FLUSH, first, PLAIN, SECTOR } from './sectors.js';

const SECTORS = 3;
const SIZE = SECTORS * SECTOR;
const filled = (byte: number): Uint8Array => new Uint8Array(SECTOR).fill(byte);

describe('given any workload, and any recovery that reads, writes and flushes', () => {
  type Action = { readonly kind: 'write' | 'read' | 'flush'; readonly sector: number };
  const action: fc.Arbitrary<Action> = fc.record({
    kind: fc.constantFrom('write' as const, 'write' as const, 'read' as const, 'flush' as const),
    sector: fc.nat({ max: SECTORS - 1 }),
  });
  const actions = fc.array(action, { maxLength: 4 });

  /** What it writes depends on what it has read, so that it differs between crash states. */
  const act = (disk: Storage, all: readonly Action[], start: number): string => {
    let value = start;
    let seen = '';
    for (const { kind, sector } of all) {
      if (kind === 'flush') disk.flush(FLUSH);
      else if (kind === 'write') {
        value += 1;
        disk.write(sector * SECTOR, filled(value), PLAIN);
      } else {
        const read = first(disk, sector);
        seen += ` ${read}`;
        value += read % 2;
      }
    }
    return seen;
  };
  const disk = (initial?: Uint8Array): VolatileDisk =>
    new VolatileDisk({ size: SIZE, answers: 'at-once', ...(initial && { initial }) });
  const everything = (on: Storage): string =>
    Array.from({ length: SECTORS }, (_, sector) => first(on, sector)).join(' ');

  /** Every disk that a recovery may be given after so many cuts, by going through all states of all of them. */
  const byForce = (workload: readonly Action[], recovery: readonly Action[], cuts: number) => {
    const outcomes = new Set<string>();
    const follow = (state: CrashState, left: number): void => {
      outcomes.add(everything(state.disk()));
      if (left === 0) return;
      const next = disk(state.image());
      act(next, recovery, 100);
      for (const again of crashSpace(next.trace)) follow(again, left - 1);
    };
    const run = disk();
    act(run, workload, 0);
    for (const state of crashSpace(run.trace)) follow(state, cuts - 1);
    return outcomes;
  };

  test.each([1, 2])(
    'when the power is cut %d times during recoveries, then what may be left is what brute force finds',
    async (nested) => {
      await fc.assert(
        fc.asyncProperty(actions, actions, async (workload, recovery) => {
          const found = new Set<string>();
          const report = await crashTest<number, string>({
            size: SIZE,
            nested,
            answers: 'at-once',
            workload: (on, journal) => {
              act(on, workload, 0);
              // Without it the kit tries disks that no power cut leaves, to see whether the check can reject one.
              journal.acknowledge(0);
            },
            recover: (on) => {
              // A recovery decides what it reads; what it has not read is read at the end, which decides the rest.
              act(on, recovery, 100);
              return '';
            },
            check: () => true,
          });
          const everyOutcome = await crashTest<number, string>({
            size: SIZE,
            nested,
            answers: 'at-once',
            workload: (on, journal) => {
              act(on, workload, 0);
              // Without it the kit tries disks that no power cut leaves, to see whether the check can reject one.
              journal.acknowledge(0);
            },
            recover: (on) => {
              const all = everything(on);
              act(on, recovery, 100);
              found.add(all);
              return all;
            },
            check: () => true,
          });
          expect(everyOutcome.covered).toBe(everyOutcome.images);
          expect(report.covered).toBe(report.images);
          expect([...found].sort()).toEqual([...byForce(workload, recovery, nested + 1)].sort());
        }),
        { numRuns: share(200) },
      );
    },
  );

  test('when a later recovery reads less than all, then it is told apart from nothing that it cannot tell apart, and all is covered', async () => {
    await fc.assert(
      fc.asyncProperty(actions, actions, async (workload, recovery) => {
        const seen: string[] = [];
        const report = await crashTest<number, string>({
          size: SIZE,
          nested: true,
          answers: 'at-once',
          workload: (on, journal) => {
            act(on, workload, 0);
            // Without it the kit tries disks that no power cut leaves, to see whether the check can reject one.
            journal.acknowledge(0);
          },
          recover: (on) => act(on, recovery, 100),
          check: (found) => {
            seen.push(found);
            return true;
          },
        });
        expect(report.warnings.filter((text) => /not every/.test(text))).toEqual([]);
        // The same from all states of both cuts.
        const byHand = new Set<string>();
        const run = disk();
        act(run, workload, 0);
        for (const state of crashSpace(run.trace)) {
          const next = disk(state.image());
          byHand.add(act(next, recovery, 100));
          for (const again of crashSpace(next.trace)) byHand.add(act(again.disk(), recovery, 100));
        }
        expect([...new Set(seen)].sort()).toEqual([...byHand].sort());
      }),
      { numRuns: share(200) },
    );
  });
});

/** A log in slots: each has a record with a generation, its place in the log, and a value. */
interface LogOptions {
  /** Records have a number that each opening of the log raises. */
  readonly generations: boolean;
  /** That number is flushed before the first record with it. */
  readonly flushesGeneration: boolean;
}

const SLOTS = 4;
const LOG_SIZE = (1 + SLOTS) * SECTOR;

interface Record {
  readonly generation: number;
  readonly value: number;
}

async function recordsOf(
  disk: Storage,
): Promise<{ readonly last: number; readonly records: Record[] }> {
  const sector = new Uint8Array(SECTOR);
  await disk.read(0, sector);
  const last = sector[0] as number;
  const records: Record[] = [];
  for (let slot = 0; slot < SLOTS; slot += 1) {
    await disk.read((1 + slot) * SECTOR, sector);
    const [isRecord, generation = 0, value = 0] = sector;
    const before = records.at(-1)?.generation ?? 0;
    if (isRecord !== 1 || generation < before || generation > last) break;
    records.push({ generation, value });
  }
  return { last, records };
}

/** Each number of the program is how many records are appended before the next flush. */
function log(
  { generations, flushesGeneration }: LogOptions,
  program: readonly number[],
): CrashTest<number, readonly number[], number> {
  return {
    ...{ size: LOG_SIZE, lives: 2, program },
    workload: async (disk, journal, groups, life) => {
      const { last, records } = await recordsOf(disk);
      const generation = generations || last === 0 ? last + 1 : last;
      if (generation !== last) {
        await disk.write(0, filled(generation), PLAIN);
        if (flushesGeneration) await disk.flush(FLUSH);
      }
      let slot = records.length;
      let value = 20 * life.number;
      for (const count of groups) {
        const group = Array.from({ length: Math.min(count, SLOTS - slot) }, () => ++value);
        for (const one of group) {
          journal.begin(one);
          const record = filled(0);
          record.set([1, generation, one]);
          await disk.write((1 + slot++) * SECTOR, record, PLAIN);
        }
        await disk.flush(FLUSH);
        for (const one of group) journal.acknowledge(one);
      }
    },
    recover: async (disk) => (await recordsOf(disk)).records.map(({ value }) => value),
    check: prefixOracle<number, readonly number[], readonly number[]>({
      start: [],
      apply: (values, value) => [...values, value],
      matches: (found, values) => found.join() === values.join(),
      stateOf: (shown) => shown,
    }),
  };
}

/** Whether replaying a journal into its home is durable before the journal is used again. */
function journaled(
  flushesReplay: boolean,
  program: readonly number[],
): CrashTest<number, number, number> {
  const HOME = 0;
  const JOURNAL = SECTOR;
  const replay = async (disk: Storage): Promise<number> => {
    const sector = new Uint8Array(SECTOR);
    await disk.read(JOURNAL, sector);
    const [isFull, value = 0] = sector;
    if (isFull === 1) {
      await disk.write(HOME, filled(value), PLAIN);
      if (flushesReplay) await disk.flush(FLUSH);
      await disk.write(JOURNAL, filled(0), PLAIN);
      return value;
    }
    await disk.read(HOME, sector);
    return sector[0] as number;
  };
  return {
    ...{ size: 2 * SECTOR, lives: 2, program },
    workload: async (disk, journal, steps, life) => {
      await replay(disk);
      for (const step of steps) {
        const value = 20 * life.number + step;
        journal.begin(value);
        const entry = filled(0);
        entry.set([1, value]);
        await disk.write(JOURNAL, entry, PLAIN);
        await disk.flush(FLUSH);
        journal.acknowledge(value);
        await replay(disk);
      }
    },
    recover: replay,
    check: prefixOracle<number, number, number>({
      start: 0,
      apply: (_, value) => value,
      matches: (found, value) => found === value,
      stateOf: (shown) => shown,
    }),
  };
}

/** Programs by seeds. */
function* programs(count: number, most: number): Generator<readonly number[]> {
  const random = seededRandom(20_261_130);
  for (let n = 0; n < count; n += 1) {
    yield Array.from(
      { length: 1 + Math.floor(random() * 2) },
      () => 1 + Math.floor(random() * most),
    );
  }
}

describe('given two lives', () => {
  const MISTAKES = {
    'a log without generation numbers': (program: readonly number[]) =>
      log({ generations: false, flushesGeneration: true }, program),
    'a log whose number is used again, because it is not flushed': (program: readonly number[]) =>
      log({ generations: true, flushesGeneration: false }, program),
    'a log that trusts what its recovery has not flushed': (program: readonly number[]) =>
      journaled(false, program),
  };
  const REPAIRED = {
    'the log with generation numbers': (program: readonly number[]) =>
      log({ generations: true, flushesGeneration: true }, program),
    'the log that flushes what its recovery has written': (program: readonly number[]) =>
      journaled(true, program),
  };

  test.each(Object.entries(MISTAKES))('%s is found within a hundred programs', async (_, make) => {
    for (const program of programs(100, 3)) {
      const report = await crashTest(make(program) as CrashTest<number, unknown, number>);
      if (report.verdict !== 'failed') continue;
      const { failure } = report;
      const again = await crashTest({
        ...(make(program) as CrashTest<number, unknown, number>),
        replay: failure?.replay ?? '',
      });
      expect(again.failure?.message).toBe(failure?.message);
      expect(failure?.cuts.length).toBeLessThanOrEqual(2);
      return;
    }
    expect.unreachable('none of them fails');
  });

  test.each(Object.entries(REPAIRED))('%s is proved', async (_, make) => {
    for (const program of programs(share(20), 3)) {
      const report = await crashTest(make(program) as CrashTest<number, unknown, number>);
      expect(report, `${program}`).toMatchObject({ verdict: 'proved' });
    }
  });

  test('when the power is cut before the second recovery has shown anything, then the first life is what counts', async () => {
    const expectations = new Set<string>();
    await crashTest<number, number>({
      ...{ size: SECTOR, lives: 2 },
      workload: async (disk, journal, _, life) => {
        const value = 10 * life.number;
        journal.begin(value);
        await disk.write(0, filled(value), PLAIN);
        await disk.flush(FLUSH);
        journal.acknowledge(value);
      },
      recover: async (disk) => {
        const sector = filled(0);
        await disk.read(0, sector);
        return sector[0] as number;
      },
      check: (_, { acknowledged, begun, shown }) => {
        expectations.add(`${shown ?? '-'}: ${begun}; ${acknowledged}`);
        return true;
      },
    });
    expect([...expectations].sort()).toEqual([
      ...['-: 10; ', '-: 10; 10', '-: ; '],
      ...['0: 20; ', '0: 20; 20', '0: ; '],
      ...['10: 20; ', '10: 20; 20', '10: ; '],
    ]);
  });

  test('when the recovery does not wait for its disk, then that is as good in a later life as in the first', async () => {
    const report = await crashTest<number, number>({
      ...{ size: SECTOR, lives: 2 },
      workload: async (disk, journal, _, life) => {
        journal.begin(life.number);
        await disk.write(0, filled(life.number), PLAIN);
        await disk.flush(FLUSH);
        journal.acknowledge(life.number);
      },
      recover: (disk) => first(disk, 0),
      check: (found, { acknowledged, shown = 0 }) => found >= Math.max(shown, ...acknowledged, 0),
    });
    expect(report).toMatchObject({ verdict: 'proved' });
  });

  test('when the later workload never ends, then that is a hang', async () => {
    const report = await crashTest<number, number>({
      ...{ size: SECTOR, lives: 2, hangMs: 100 },
      workload: async (disk, _, __, life) => {
        if (life.number === 2) await new Promise(() => {});
        await disk.write(0, filled(1), PLAIN);
      },
      recover: async (disk) => {
        const sector = filled(0);
        await disk.read(0, sector);
        return sector[0] as number;
      },
      check: () => true,
    });
    expect(report.verdict).toBe('hung');
  });

  test('when a trace is given and no workload, then more lives are refused', async () => {
    const recorder = new DiskRecorder(SECTOR);
    recording(new VolatileDisk({ size: SECTOR, answers: 'at-once' }), recorder);
    const wrong = {
      ...{ size: SECTOR, lives: 2, trace: recorder.trace },
      recover: () => 0,
      check: () => true,
    } as unknown as CrashTest<number, number>;
    await expect(crashTest(wrong)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  test.each([0, -1, 1.5, Number.NaN])(
    'when there are to be %s, then that is refused',
    async (lives) => {
      await expect(
        crashTest({ ...log({ generations: true, flushesGeneration: true }, [1]), lives }),
      ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    },
  );

  test('when the budget has no end, then it is proved', async () => {
    const test = log({ generations: true, flushesGeneration: true }, [1]);
    const report = await crashTest({
      ...test,
      nested: true,
      recoveriesMax: Number.POSITIVE_INFINITY,
    });
    expect(report).toMatchObject({ verdict: 'proved' });
  });

  test('when the budget ends, then nothing is proved, and the report says why', async () => {
    const report = await crashTest({
      ...log({ generations: true, flushesGeneration: true }, [2, 2]),
      recoveriesMax: 20,
    });
    expect(report).toMatchObject({
      verdict: 'passed',
      warnings: expect.arrayContaining([expect.stringContaining('not every later power cut')]),
    });
  });
});

describe('given a recovery that copies a journal to its page and then clears it', () => {
  const PAGE = 0;
  const JOURNAL = SECTOR;
  type Copy = (disk: Storage, value: number) => Promise<unknown>;
  const at = async (disk: Storage, offset: number): Promise<number> => {
    const bytes = filled(0);
    await disk.read(offset, bytes);
    return bytes[0] as number;
  };
  const copying = (copy: Copy): CrashTest<number, number> => ({
    size: 2 * SECTOR,
    workload: async (disk, journal, _, life) => {
      if (life.number > 1) return;
      await disk.write(JOURNAL, filled(7), PLAIN);
      await disk.flush(FLUSH);
      journal.acknowledge(7);
    },
    recover: async (disk) => {
      const value = await at(disk, JOURNAL);
      if (value === 0) return await at(disk, PAGE);
      await copy(disk, value);
      await disk.write(JOURNAL, filled(0), PLAIN);
      return value;
    },
    check: (found, { acknowledged, shown = 0 }) => found >= Math.max(shown, ...acknowledged, 0),
  });
  const WRONG: { readonly [how: string]: Copy } = {
    'sends the flush together with the write': (disk, value) =>
      Promise.all([disk.write(PAGE, filled(value), PLAIN), disk.flush(FLUSH)]),
    'does not wait for the write before the flush': async (disk, value) => {
      const written = disk.write(PAGE, filled(value), PLAIN);
      for (let n = 0; n < 100; n += 1) await at(disk, PAGE);
      await disk.flush(FLUSH);
      await written;
    },
    'waits for another write than that before the flush': async (disk, value) => {
      void disk.write(PAGE, filled(value), PLAIN);
      await disk.write(JOURNAL, filled(value), PLAIN);
      await disk.flush(FLUSH);
    },
  };
  const RIGHT: { readonly [how: string]: Copy } = {
    'waits for each': async (disk, value) => {
      await disk.write(PAGE, filled(value), PLAIN);
      await disk.flush(FLUSH);
    },
    'leaves the waiting to a scheduler': async (disk, value) => {
      const scheduler = new IoScheduler(disk);
      void scheduler.write(PAGE, filled(value));
      await scheduler.flush();
    },
  };

  describe.each([{ nested: true }, { lives: 2 }, { nested: true, lives: 2 }])(
    'with %o',
    (limits) => {
      test.each(Object.entries(WRONG))(
        'when it %s, then both are in flight together, and the loss is found',
        async (_, copy) => {
          const faulty = { ...copying(copy), ...limits };
          const report = await crashTest(faulty);
          expect(report).toMatchObject({ verdict: 'failed', warnings: [] });
          const { cuts } = report.failure as CrashFailure;
          const { commands } = (cuts.at(-1) as CrashFailure['cuts'][number]).trace;
          const write = commands.find(({ op, offset }) => op === 'write' && offset === PAGE);
          const flush = commands.find(({ op }) => op === 'flush');
          expect(write?.completed).toBeGreaterThan(flush?.dispatched as number);
          const again = await crashTest({ ...faulty, replay: report.failure?.replay ?? '' });
          expect(again.failure?.replay).toBe(report.failure?.replay);
        },
      );

      test.each(Object.entries(RIGHT))('when it %s, then it is proved', async (_, copy) => {
        const report = await crashTest({ ...copying(copy), ...limits });
        expect(report).toMatchObject({ verdict: 'proved' });
      });
    },
  );

  test('when its disk answers at once, because it cannot wait, then its commands come one after the other', async () => {
    const report = await crashTest({
      ...{ ...copying(WRONG['sends the flush together with the write'] as Copy) },
      ...{ nested: true, answers: 'at-once' },
    });
    expect(report).toMatchObject({ verdict: 'proved' });
  });

  // Timers of the test runner may hide those of the recovery. Then the report says that the disk may have been too quick.
  test('when it waits for a timer in place of the write, then it is not proved', async () => {
    const report = await crashTest({
      ...copying(async (disk, value) => {
        void disk.write(PAGE, filled(value), PLAIN);
        await new Promise((resolve) => setTimeout(resolve, 2));
        await disk.flush(FLUSH);
      }),
      nested: true,
    });
    expect(report.verdict).not.toBe('proved');
  });

  test('when it ends with a write that it has not waited for, then that write may be lost', async () => {
    const report = await crashTest({
      ...copying(
        async (disk, value) => void disk.write(PAGE, filled(value), { ...PLAIN, fua: true }),
      ),
      nested: true,
    });
    expect(report.verdict).toBe('failed');
  });

  test('when it calls the disk for ever, then that is a hang, and the disk answers no more', async () => {
    let calls = 0;
    const report = await crashTest({
      ...copying(async (disk) => {
        for (;;) {
          calls += 1;
          await disk.flush(FLUSH);
        }
      }),
      ...{ nested: true, hangMs: 100 },
    });
    expect(report.verdict).toBe('hung');
    await new Promise((resolve) => setTimeout(resolve, 50));
    const after = calls;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(calls).toBe(after);
  });
});

describe('given a recovery whose commands the device does not have', () => {
  const byte = async (disk: Storage, sector: number): Promise<number> => {
    const bytes = filled(0);
    await disk.read(sector * SECTOR, bytes);
    return bytes[0] as number;
  };
  const acknowledged = async (disk: VolatileDisk, journal: { acknowledge(it: number): void }) => {
    await disk.write(0, filled(1), disk.capabilities.fua ? { fua: true } : PLAIN);
    if (disk.capabilities.flush) await disk.flush();
    journal.acknowledge(1);
  };
  const inOrder = ([a, b, c]: readonly number[], count: number): boolean =>
    (count === 0 || a === 1) && (c === 0 || b === 1);

  // What the simulated disk refuses is refused by the disk of a recovery, or it would order more than a device can.
  test.each([
    { lacks: 'flush', profile: { flush: false, fua: true } },
    { lacks: 'FUA', profile: { flush: true, fua: false } },
  ])(
    'when it goes on without $lacks, then the power cut during it is found',
    async ({ profile }) => {
      const ordered = async (disk: Storage): Promise<void> => {
        try {
          await disk.write(SECTOR, filled(1), { tag: 'simple', fua: !profile.fua });
          if (!profile.flush) await disk.flush(FLUSH);
        } catch {
          await disk.write(SECTOR, filled(1), PLAIN);
        }
      };
      const faulty: CrashTest<number, readonly number[]> = {
        ...{ size: SIZE, nested: true, profile, workload: acknowledged },
        recover: async (disk) => {
          const all = [await byte(disk, 0), await byte(disk, 1), await byte(disk, 2)];
          if (all[0] === 1 && all[2] === 0) {
            await ordered(disk);
            await disk.write(2 * SECTOR, filled(1), PLAIN);
          }
          return all;
        },
        check: (all, { acknowledged: { length } }) => inOrder(all, length),
      };
      const report = await crashTest(faulty);
      expect(report.verdict).toBe('failed');
      const again = await crashTest({ ...faulty, replay: report.failure?.replay ?? '' });
      expect(again.verdict).toBe('failed');
    },
  );

  test('when it writes where there is no disk, and goes on, then that leaves nothing', async () => {
    const report = await crashTest<number, number>({
      ...{ size: SECTOR, nested: true, workload: acknowledged },
      recover: async (disk) => {
        const found = await byte(disk, 0);
        for (const offset of [SECTOR, 7]) {
          try {
            await disk.write(offset, filled(9), PLAIN);
          } catch {}
        }
        return found;
      },
      check: (found, { acknowledged: { length } }) => length === 0 || found === 1,
    });
    expect(report).toMatchObject({ verdict: 'proved' });
  });
});

describe('given later lives', () => {
  const plain: CrashTest<number, number> = {
    ...{ size: 2 * SECTOR, lives: 2 },
    workload: async (disk, journal) => {
      await disk.write(0, filled(1), PLAIN);
      await disk.flush(FLUSH);
      journal.acknowledge(1);
    },
    recover: (disk) => first(disk, 0),
    check: (found, { acknowledged, shown = 0 }) => found >= Math.max(shown, ...acknowledged, 0),
  };

  test('when a recovery was cut short before, then that is no life of its own', async () => {
    const numbers = new Set<number>();
    await crashTest({
      ...{ ...plain, nested: 2 },
      workload: async (disk, journal, program, life) => {
        numbers.add(life.number);
        await plain.workload(disk, journal, program, life);
      },
      recover: (disk) => {
        const found = first(disk, 0);
        disk.write(SECTOR, filled(2), PLAIN);
        return found;
      },
    });
    expect([...numbers].sort()).toEqual([1, 2]);
  });

  test('when the second one waits for more than the disk, then nothing is proved', async () => {
    const report = await crashTest({
      ...plain,
      hangMs: 600,
      workload: async (disk, journal, program, life) => {
        const written = disk.write(0, filled(1), PLAIN);
        for (let n = 0; life.number === 2 && n < 30; n += 1) {
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        await written;
        await plain.workload(disk, journal, program, life);
      },
    });
    expect(report).toMatchObject({
      verdict: 'passed',
      warnings: [expect.stringContaining('waits a long time')],
    });
  });

  // The failure is neither of the first moment nor of the last one, and the recovery has read nothing that says which.
  test.each([1, 2])(
    'when a check fails between two acknowledgements of life %d, then the replay repeats it',
    async (life) => {
      const test: CrashTest<number, number> = {
        ...{ size: 3 * SECTOR, lives: life },
        workload: async (disk, journal) => {
          for (const n of [1, 2]) {
            await disk.write(n * SECTOR, filled(n), { fua: true });
            journal.acknowledge(n);
          }
        },
        recover: (disk) => first(disk, 0),
        check: (_, { acknowledged, shown }) =>
          acknowledged.join() !== '1' || (shown === undefined) !== (life === 1),
      };
      const report = await crashTest(test);
      expect(report).toMatchObject({ verdict: 'failed', warnings: [] });
      const again = await crashTest({ ...test, replay: report.failure?.replay ?? '' });
      expect(again.failure?.message).toBe(report.failure?.message);
    },
  );

  // Shrinking gives back what the first cut took away; the life that follows then throws.
  test('when fewer losses keep the later life from beginning, then the failure is reported all the same', async () => {
    const test: CrashTest<number, number> = {
      ...{ size: 3 * SECTOR, lives: 2, answers: 'at-once' },
      workload: async (disk, _, __, life) => {
        if (life.shown === 1) throw new Error('it does not begin');
        if (life.number === 1) {
          await disk.write(0, filled(1), PLAIN);
          await disk.write(2 * SECTOR, filled(1), PLAIN);
        } else if (first(disk, 2) === 1) {
          await disk.write(SECTOR, filled(2), PLAIN);
        }
      },
      recover: (disk) => first(disk, 1) || first(disk, 0),
      check: (found) => found < 2,
    };
    const report = await crashTest(test);
    expect(report).toMatchObject({ verdict: 'failed', warnings: [] });
    expect(report.failure?.message).toBe('the check returned false');
    const again = await crashTest({ ...test, replay: report.failure?.replay ?? '' });
    expect(again.verdict).toBe('failed');
  });

  test.each([0, 1, 2, 3])(
    'when their recovery reads what it is writing, then it sees what it has sent, as where it is judged (seed %d)',
    async (seed) => {
      const judged = new Set<number>();
      const shownThen = new Set<number>();
      await crashTest<number, number>({
        ...{ size: SECTOR, lives: 2, seed },
        workload: async (disk, _, __, { number, shown }) => {
          if (number === 1) await disk.write(0, filled(1), PLAIN);
          else shownThen.add(shown as number);
        },
        recover: async (disk) => {
          const written = disk.write(0, filled(5), PLAIN);
          const bytes = new Uint8Array(SECTOR);
          await disk.read(0, bytes);
          await written;
          return bytes[0] as number;
        },
        check: (found) => judged.add(found).size > 0,
      });
      expect([...judged]).toEqual([5]);
      expect([...shownThen]).toEqual([5]);
    },
  );

  test('when what its barrier orders lies in the life before, then the advice is tried on that', async () => {
    const report = await crashTest<number, number>({
      ...{ size: 2 * SECTOR, lives: 2, initial: new Uint8Array(2 * SECTOR).fill(1) },
      workload: async (disk, journal, _, life) => {
        if (life.number === 1) return;
        await disk.write(SECTOR, filled(2), PLAIN);
        journal.acknowledge(2);
      },
      recover: (disk) => (first(disk, 0) === 1 ? first(disk, 1) : 0),
      check: (found, { acknowledged }) => found === 2 || (found === 1 && acknowledged.length === 0),
    });
    expect(report.failure?.advice).toMatchObject({ missing: 'a flush after #2', cut: 1 });
  });

  describe('when one does not go on with what a power cut left', () => {
    type Work = NonNullable<CrashTest<number, number, number>['workload']>;
    const stopping = (stop: (disk: Storage) => unknown): CrashTest<number, number, number> => ({
      ...{ size: 3 * SECTOR, lives: 2, hangMs: 200 },
      workload: async (...[disk, journal, , life]: Parameters<Work>) => {
        if (life.number === 2) return void (await stop(disk));
        for (const step of [1, 2, 3]) {
          await disk.write((step - 1) * SECTOR, filled(step), { fua: step === 1 });
          journal.acknowledge(step);
        }
      },
      recover: (disk) => first(disk, 0),
      check: () => true,
    });
    const hasHole = async (disk: Storage): Promise<boolean> => {
      const bytes = new Uint8Array(2 * SECTOR);
      await disk.read(SECTOR, bytes);
      return bytes[0] === 0 && bytes[SECTOR] === 3;
    };
    const thrown = async (disk: Storage): Promise<void> => {
      if (await hasHole(disk)) throw new Error('a hole');
    };

    test('because it throws, then that is a failure with a replay, and not the end of the test', async () => {
      const report = await crashTest(stopping(thrown));
      expect(report).toMatchObject({ verdict: 'failed', warnings: [] });
      const { failure } = report;
      expect(failure).toMatchObject({ message: 'a hole', lost: [{ offset: SECTOR, command: 1 }] });
      expect(failure?.text).toContain('then the recovery and more work, which fails');
      expect(failure?.advice?.missing).toBe('a barrier between #1 and #2');
      expect(failure?.replay).toMatch(/ life$/);
      const again = await crashTest({ ...stopping(thrown), replay: failure?.replay ?? '' });
      expect(again.failure).toMatchObject({ message: 'a hole', replay: failure?.replay });
      expect(again.failure?.cuts).toHaveLength(1);
    });

    test('because it never ends, then the replay of the hang hangs', async () => {
      const test = stopping(async (disk) => (await hasHole(disk)) && new Promise(() => {}));
      const { verdict, failure } = await crashTest(test);
      expect({ verdict, replay: failure?.replay }).toMatchObject({
        ...{ verdict: 'hung', replay: expect.stringMatching(/ life$/) },
      });
      const again = await crashTest({ ...test, replay: failure?.replay ?? '' });
      expect(again.verdict).toBe('hung');
    });

    test('only without some steps of the program, then a failed check is shrunk to none of these', async () => {
      const report = await crashTest<number, number, number>({
        ...{ ...stopping(() => undefined), program: [1, 2, 3] },
        workload: async (disk, _, program, life) => {
          if (life.number === 2 && program.length === 2) throw new Error('it needs them');
          for (const step of program) await disk.write((step - 1) * SECTOR, filled(step));
        },
        check: (found, { shown }) => found === 0 || shown !== undefined,
      });
      expect(report.failure).toMatchObject({ message: 'the check returned false' });
    });
  });

  const DATA: readonly (readonly unknown[])[] = [
    ['a list', () => [1], (list: number[]) => list.push(2)],
    ['bytes', () => filled(1), (bytes: Uint8Array) => bytes.fill(2)],
    [
      'a map of lists',
      () => new Map([[1, [1]]]),
      (map: Map<number, number[]>) => map.get(1)?.push(2),
    ],
    [
      'an object with a set',
      () => ({ one: new Set([1]) }),
      (it: { one: Set<number> }) => it.one.add(2),
    ],
  ];
  test.each(DATA)(
    'when a check or a workload changes %s that was shown, then the next check is asked about what was shown',
    async (_, make, change) => {
      const seen: unknown[] = [];
      await crashTest<number, unknown>({
        ...{ size: 2 * SECTOR, lives: 2 },
        workload: async (disk, journal, __, life) => {
          if (life.number === 2) (change as (it: unknown) => void)(life.shown);
          for (const n of [0, 1]) {
            await disk.write(n * SECTOR, filled(1), { fua: true });
            journal.acknowledge(n);
          }
        },
        recover: (disk) => {
          first(disk, 0);
          return (make as () => unknown)();
        },
        check: (__, { shown }) => {
          if (shown === undefined) return true;
          seen.push(structuredClone(shown));
          (change as (it: unknown) => void)(shown);
          return true;
        },
      });
      expect(seen.length).toBeGreaterThan(3);
      for (const shown of seen) expect(shown).toEqual((make as () => unknown)());
    },
  );

  test('when what was shown is more than data, then the check gets that itself', async () => {
    class Store {
      readonly #there: number;
      constructor(there: number) {
        this.#there = there;
      }
      has(there: number): boolean {
        return this.#there === there;
      }
    }
    const circle: unknown[] = [];
    circle.push(circle);
    for (const make of [(n: number) => new Store(n), () => circle]) {
      const report = await crashTest<number, Store | unknown[]>({
        ...{ size: SECTOR, lives: 2 },
        workload: (disk) => disk.write(0, filled(1), PLAIN),
        recover: (disk) => make(first(disk, 0)),
        check: (_, { shown }) =>
          shown === undefined ||
          shown === circle ||
          (shown as Store).has(0) ||
          (shown as Store).has(1),
      });
      expect(report.failure?.message).toBe(undefined);
    }
  });
});
