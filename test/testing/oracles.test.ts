// What is asked of a crash test besides its verdict: whether a disk in order would have left it, whether each flush is
// needed, which barriers would do. That something fails is certain; that nothing does is said only where everything was
// tried. The smallest sets are compared with all sets.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import { gapsOf, withBarriers } from '../../src/testing/crash-test/barriers.js';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import type { CrashTest } from '../../src/testing/crash-test/types.js';
import { barrierMutation, strictOrder } from '../../src/testing/lab/analyses.js';
import { cheapestHitting } from '../../src/testing/lab/hitting-set.js';
import { prefixOracle } from '../../src/testing/lab/prefix.js';
import { barrierSynthesis } from '../../src/testing/lab/synthesis.js';
import { share } from '../kit/amount.js';

const SECTOR = 512;
const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const sector = (byte: number): Uint8Array => new Uint8Array(SECTOR).fill(byte);

function seenOn(disk: Storage, sectors: number): string {
  const one = sector(0);
  return Array.from({ length: sectors }, (_, i) => {
    disk.read(i * SECTOR, one);
    return one[0] ? 'x' : '.';
  }).join('');
}

const MANY = 20;
/** The one mixture of lost and kept sectors that the recovery does not survive. */
const BAD = 'x.x..xx.x...xx.xx..x';

/** Twenty sectors, a flush that is needed, a mark and a flush: there are a million images, and one of them is bad. */
const rare: CrashTest<string, string> = {
  size: (MANY + 1) * SECTOR,
  answers: 'at-once',
  recoveriesMax: 1000,
  workload: (disk, journal) => {
    for (let i = 0; i < MANY; i++) disk.write(i * SECTOR, sector(1), PLAIN);
    disk.flush(SIMPLE);
    disk.write(MANY * SECTOR, sector(1), PLAIN);
    disk.flush(SIMPLE);
    journal.acknowledge('all');
  },
  recover: (disk) => seenOn(disk, MANY + 1),
  check: (seen, { acknowledged }) =>
    acknowledged.length === 0 ? seen !== `${BAD}x` : !seen.includes('.'),
};

/** Three sectors, one of which is written in vain before the flush, and two flushes of which one would do. */
const small: CrashTest<string, string> = {
  size: 3 * SECTOR,
  answers: 'at-once',
  workload: (disk, journal) => {
    disk.write(0, sector(1), PLAIN);
    disk.flush(SIMPLE);
    disk.flush(SIMPLE);
    disk.write(SECTOR, sector(1), PLAIN);
    disk.flush(SIMPLE);
    journal.acknowledge('all');
  },
  recover: (disk) => seenOn(disk, 2),
  check: (seen, { acknowledged }) => seen !== '.x' && (acknowledged.length === 0 || seen === 'xx'),
};

describe('given a budget that ends before everything was tried', () => {
  test('when strict order is asked for, then it is not said to hold', async () => {
    const report = await strictOrder(rare, (seen) => (seen.startsWith(BAD) ? 'damaged' : 'fine'));
    expect(report).toMatchObject({ verdict: 'passed', holds: false, recoveries: 1000 });
    expect(report.covered).toBeGreaterThan(0n);
    expect(report.covered).toBeLessThan(report.images);
    expect(report.images).toBe(1_048_577n);
    expect(report.warnings).toEqual([`${report.covered} of 1.04e6 images are covered`]);
  });

  test('when a flush is taken out, then it is missed, or nothing is said of it', async () => {
    const mutants = await barrierMutation(rare);
    expect(mutants.map(({ flush, verdict }) => [flush, verdict])).toEqual([
      [MANY, 'passed'],
      [MANY + 2, 'failed'],
    ]);
    for (const mutant of mutants) {
      const { verdict, covered, images, warnings } = mutant;
      expect(mutant.killed).toBe(verdict === 'failed' ? true : undefined);
      expect(covered).toBeLessThan(images);
      if (verdict === 'passed') expect(warnings).toHaveLength(1);
    }
  });

  test('when the image that fails without a flush was there with it, then the flush is not to blame', async () => {
    const bad: CrashTest<string, string> = {
      size: 6 * SECTOR,
      answers: 'at-once',
      recoveriesMax: 16,
      workload: (disk) => {
        for (let i = 0; i < 6; i++) {
          if (i === 1) disk.flush(SIMPLE);
          disk.write(i * SECTOR, sector(1), PLAIN);
        }
        disk.flush(SIMPLE);
      },
      recover: (disk) => seenOn(disk, 6),
      check: (seen) => seen !== 'xx....',
    };
    expect((await crashTest(bad)).verdict).toBe('passed');
    await expect(barrierMutation(bad)).rejects.toThrow(/fails even with all of its flushes/);
  });

  test('when barriers are looked for, then no flush is called redundant, and the plan says why', async () => {
    const plan = await barrierSynthesis(rare);
    expect(plan).toMatchObject({ verdict: 'passed', flushes: [MANY, MANY + 2], missing: [] });
    expect(plan?.covered).toBeLessThan(plan?.images ?? 0n);
    expect(plan?.warnings.join()).toMatch(/images are covered.*no flush is called redundant/);
    const blind = await barrierSynthesis({ ...small, recoveriesMax: 0 });
    expect(blind).toMatchObject({ verdict: 'passed', flushes: [1, 2, 4], covered: 0n });
  });

  test('when barriers are missing, then those are told that are missing for certain', async () => {
    const bare: CrashTest<string, string> = {
      ...rare,
      workload: (disk, journal) => {
        disk.write(MANY * SECTOR, sector(1), PLAIN);
        for (let i = 0; i < MANY; i++) disk.write(i * SECTOR, sector(1), PLAIN);
        disk.flush(SIMPLE);
        journal.acknowledge('all');
      },
      check: (seen, { acknowledged }) =>
        acknowledged.length === 0 ? seen.endsWith('x') || !seen.includes('x') : true,
    };
    const plan = await barrierSynthesis(bare);
    expect(plan?.verdict).toBe('passed');
    expect(plan?.flushes).toEqual([MANY + 1]);
    expect(plan?.missing).toEqual([expect.objectContaining({ behind: 0, before: 1 })]);
  });
});

describe('given a budget that does', () => {
  test('when each is asked, then it says that everything was tried', async () => {
    expect(await strictOrder(small, (seen) => seen)).toMatchObject({
      ...{ verdict: 'proved', holds: true, images: 3n, covered: 3n, warnings: [] },
    });
    expect(await barrierMutation(small)).toMatchObject([
      { flush: 1, killed: false, verdict: 'proved', warnings: [] },
      { flush: 2, killed: false, verdict: 'proved', warnings: [] },
      { flush: 4, killed: true, verdict: 'failed', message: 'the check returned false' },
    ]);
    const plan = await barrierSynthesis(small);
    expect(plan).toMatchObject({ verdict: 'proved', images: 3n, covered: 3n, warnings: [] });
    expect(plan?.flushes).toHaveLength(2);
    expect(plan?.flushes).toContain(4);
    expect(plan?.missing).toEqual([]);
  });

  test('when an answer is printed or sent, then it is whole: counts are decimal numbers', async () => {
    const answers = [
      await strictOrder(small, (seen) => seen),
      ...(await barrierMutation(small)),
      await barrierSynthesis(small),
    ];
    for (const answer of answers) {
      expect(JSON.parse(JSON.stringify(answer))).toMatchObject({ images: `${answer?.images}` });
      expect(structuredClone(answer)).toEqual(answer);
    }
  });

  test('when a recovery looks at nothing, then strict order is not proved of it', async () => {
    const report = await strictOrder({ ...small, recover: () => 'x' }, (seen) => seen);
    expect(report).toMatchObject({ verdict: 'passed', holds: false, covered: report.images });
    expect(report.warnings).toEqual([expect.stringMatching(/never read a sector/)]);
  });

  test('when there are several orders of answers, then the answer says which one it is about', async () => {
    const several = { ...small, answers: 'later', seed: 3, seeds: 20 } as const;
    const test: CrashTest<string, string> = {
      ...several,
      workload: async (disk, journal) => {
        await disk.write(0, sector(1), PLAIN);
        await disk.flush(SIMPLE);
        await disk.write(SECTOR, sector(1), PLAIN);
        await disk.flush(SIMPLE);
        journal.acknowledge('all');
      },
    };
    const said = ['only seed 3 of 20 seeds was analysed'];
    expect(await strictOrder(test, (seen) => seen)).toMatchObject({ holds: false, warnings: said });
    expect((await barrierMutation(test))[0]).toMatchObject({ warnings: said });
    expect(await barrierSynthesis(test)).toMatchObject({ verdict: 'passed', warnings: said });
  });

  test('when a fault of the plan never comes, then the answer says so, and nothing is proved', async () => {
    const test = { ...small, faults: [{ on: 'write', nth: 9, fault: 'fail' }] } as const;
    const never =
      "the fault 'fail' did not happen: there was no write number 9 (they are numbered from 0)";
    const order = await strictOrder(test, (seen) => seen);
    expect(order).toMatchObject({ verdict: 'passed', holds: false, warnings: [never] });
    expect(await barrierSynthesis(test)).toMatchObject({ verdict: 'passed', warnings: [never] });
    for (const { warnings } of await barrierMutation(test)) expect(warnings).toContain(never);
  });

  test('when an image is to be replayed, then the question is about all of them', async () => {
    const replay = 'seed 0 cut -1';
    expect(await strictOrder({ ...small, replay }, (seen) => seen)).toMatchObject({ covered: 3n });
    expect(await barrierSynthesis({ ...small, replay })).toMatchObject({ covered: 3n });
    expect(await barrierMutation({ ...small, replay })).toHaveLength(3);
  });

  test.each([-1, Number.NaN])('when it is %s recoveries, then that is refused', async (most) => {
    const wrong = { ...small, recoveriesMax: most };
    const refusal = { code: 'INVALID_ARGUMENT' };
    await expect(strictOrder(wrong, (seen) => seen)).rejects.toMatchObject(refusal);
    await expect(barrierMutation(wrong)).rejects.toMatchObject(refusal);
    await expect(barrierSynthesis(wrong)).rejects.toMatchObject(refusal);
  });

  test('when a recovery reads otherwise in a second run, then strict order is not asked of it', async () => {
    let runs = 0;
    const recover = (disk: Storage): string => {
      runs += 1;
      return runs % 2 === 0 ? seenOn(disk, 2) : `${runs}`;
    };
    await expect(strictOrder({ ...small, recover }, () => 'same')).rejects.toThrow(
      /not deterministic/,
    );
  });
});

describe('given lists of which one is to be taken each', () => {
  const SEED = 20_250;

  test(`when the cheapest set is found, then no set is cheaper (seed ${SEED})`, () => {
    const lists = fc.array(fc.uniqueArray(fc.nat({ max: 8 }), { minLength: 1, maxLength: 5 }), {
      maxLength: 8,
    });
    const costs = fc.array(fc.constantFrom(100, 101), { minLength: 9, maxLength: 9 });
    fc.assert(
      fc.property(lists, costs, (all, cost) => {
        const choices = cost.map((each, element) => ({ element, cost: each }));
        const sumOf = (set: readonly number[]): number =>
          set.reduce((sum, element) => sum + (cost[element] as number), 0);
        const hits = (set: readonly number[]): boolean =>
          all.every((list) => list.some((element) => set.includes(element)));
        const found = cheapestHitting(all, choices);
        expect(hits(found)).toBe(true);
        let least = Number.POSITIVE_INFINITY;
        for (let bits = 0; bits < 2 ** 9; bits++) {
          const set = choices.map(({ element }) => element).filter((n) => (bits >> n) & 1);
          if (hits(set)) least = Math.min(least, sumOf(set));
        }
        expect(sumOf(found)).toBe(least);
      }),
      { seed: SEED, numRuns: share(500) },
    );
  });

  test('when there are many that overlap in a row, then it is found all the same', () => {
    const row = Array.from({ length: 400 }, (_, i) => [i, i + 1, i + 2, i + 3]);
    const choices = Array.from({ length: 403 }, (_, element) => ({ element, cost: 1 }));
    expect(cheapestHitting(row, choices)).toHaveLength(100);
  });
});

describe('given a workload and what must be in order', () => {
  const SEED = 7;
  interface Small {
    /** A number writes that sector, in the way of the program; `f` flushes. */
    readonly steps: readonly (number | 'f')[];
    /** The first of each pair must not be missing where the second one is. */
    readonly order: readonly (readonly [number, number])[];
    readonly isDurable: boolean;
  }
  const smalls: fc.Arbitrary<Small> = fc.record({
    steps: fc
      .tuple(
        fc.shuffledSubarray([0, 1, 2], { minLength: 2 }),
        fc.array(fc.nat({ max: 3 }), { maxLength: 2 }),
      )
      .map(([writes, flushes]) => {
        const steps: (number | 'f')[] = [...writes];
        for (const at of flushes) steps.splice(at, 0, 'f');
        return steps;
      }),
    order: fc.array(fc.tuple(fc.nat({ max: 2 }), fc.nat({ max: 2 })), { maxLength: 3 }),
    isDurable: fc.boolean(),
  });
  const testOf = ({ steps, order, isDurable }: Small): CrashTest<string, string> => ({
    size: 3 * SECTOR,
    answers: 'at-once',
    workload: (disk, journal) => {
      for (const step of steps) {
        if (step === 'f') disk.flush(SIMPLE);
        else disk.write(step * SECTOR, sector(1), PLAIN);
      }
      journal.acknowledge('all');
    },
    recover: (disk) => seenOn(disk, 3),
    check: (seen, { acknowledged }) => {
      const isThere = (n: number): boolean => seen[n] === 'x';
      const inOrder = order.every(([a, b]) => !steps.includes(a) || isThere(a) || !isThere(b));
      const all = steps.every((step) => step === 'f' || isThere(step));
      return inOrder && (all || !isDurable || acknowledged.length === 0);
    },
  });

  const SCALES: Readonly<Record<string, (moment: number) => number>> = {
    'thousandths of a second': (moment) => moment / 1000,
    'close together and below 0': (moment) => moment / 2 ** 20 - 8,
    'far apart': (moment) => 1e9 * moment + 0.5,
  };
  test.each(Object.entries(SCALES))(
    'when the moments of a trace are %s, then advice and plan are the same',
    async (_, scale) => {
      await fc.assert(
        fc.asyncProperty(smalls, async (program) => {
          const test = testOf(program);
          const { trace } = await crashTest({ ...test, recoveriesMax: 0 });
          const scaled = {
            ...trace,
            commands: trace.commands.map((command) => ({
              ...command,
              dispatched: scale(command.dispatched),
              completed: scale(command.completed),
            })),
            marks: trace.marks.map((mark) => ({ ...mark, time: scale(mark.time) })),
          };
          const [as, is] = [
            { ...test, trace },
            { ...test, trace: scaled },
          ];
          const told = async (one: CrashTest<string, string>): Promise<unknown> => {
            const { verdict, failure } = await crashTest(one);
            const plan = await barrierSynthesis(one);
            const gaps = plan?.missing.map(({ behind, before }) => [behind, before]);
            const { advice } = failure ?? {};
            return {
              verdict,
              text: advice?.text,
              missing: advice?.missing,
              gaps,
              flushes: plan?.flushes,
            };
          };
          expect(await told(is)).toEqual(await told(as));
          const { failure } = await crashTest(is);
          if (!failure) return;
          const again = await crashTest({ ...is, replay: failure.replay });
          expect(again.failure?.replay).toBe(failure.replay);
        }),
        { seed: SEED, numRuns: share(40, 10) },
      );
    },
  );

  test(`when barriers are looked for, then no smaller set does, and none with more of the flushes (seed ${SEED})`, async () => {
    await fc.assert(
      fc.asyncProperty(smalls, async (program) => {
        const test = testOf(program);
        const { trace } = await crashTest({ ...test, recoveriesMax: 0 });
        const flushes = trace.commands.flatMap(({ op }, n) => (op === 'flush' ? [n] : []));
        const gaps = gapsOf(trace);
        const places = [...flushes, ...gaps];
        let best = Number.POSITIVE_INFINITY;
        for (let bits = 0; bits < 2 ** places.length; bits++) {
          const chosen = places.filter((_, i) => (bits >> i) & 1);
          const hollow = flushes.filter((flush) => !chosen.includes(flush));
          const added = gaps.filter((gap) => chosen.includes(gap));
          const cost = 100 * chosen.length + added.length;
          if (cost >= best) continue;
          const edited = withBarriers(trace, added, hollow);
          if ((await crashTest({ ...test, trace: edited })).verdict !== 'failed') best = cost;
        }
        const plan = await barrierSynthesis(test);
        const found = plan && 101 * plan.missing.length + 100 * plan.flushes.length;
        expect(found ?? Number.POSITIVE_INFINITY).toBe(best);
      }),
      { seed: SEED, numRuns: share(40, 10) },
    );
  });

  test('when there are twelve transactions with two flushes each, then all of them are found', async () => {
    const count = 12;
    const test: CrashTest<number, string> = {
      size: 3 * count * SECTOR,
      workload: async (disk, journal) => {
        const host = new IoScheduler(disk);
        for (let n = 0; n < count; n++) {
          const at = 3 * n * SECTOR;
          await Promise.all([host.write(at, sector(1)), host.write(at + SECTOR, sector(1))]);
          await host.flush();
          await host.write(at + 2 * SECTOR, sector(1));
          await host.flush();
          journal.acknowledge(n);
        }
      },
      recover: (disk) => seenOn(disk, 3 * count),
      check: (seen, { acknowledged }) =>
        !/^(?:...)*(?:\.x|x\.|\.\.)x/.test(seen) &&
        (/^x*/.exec(seen)?.[0].length as number) >= 3 * acknowledged.length,
    };
    const plan = await barrierSynthesis(test);
    expect(plan).toMatchObject({ verdict: 'proved', missing: [] });
    expect(plan?.flushes).toHaveLength(2 * count);
  });
});

test('given a digest that is missing, throws, or answers no string, then no order is said to hold', async () => {
  const inOrder: CrashTest<string, number> = {
    size: 512,
    workload: async (disk) => {
      await disk.write(0, new Uint8Array(512).fill(1), { fua: false, tag: 'simple' });
    },
    recover: (disk) => {
      const sector = new Uint8Array(512);
      void disk.read(0, sector);
      return sector[0] ?? 0;
    },
    check: () => true,
  };
  const digest = (one: unknown) => one as (recovered: number) => string;
  for (const answer of [undefined, null, 1, {}, Promise.resolve('1')]) {
    await expect(
      strictOrder(
        inOrder,
        digest(() => answer),
      ),
    ).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  }
  await expect(strictOrder(inOrder, digest(undefined))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  const throws = (): never => {
    throw new Error('no digest');
  };
  await expect(strictOrder(inOrder, throws)).rejects.toThrow('no digest');
  await expect(strictOrder(inOrder, String)).resolves.toMatchObject({ holds: true });
});

describe('given a failure that no barrier forbids, since the disk ignores flushes', () => {
  test.each([
    [20, /no single barrier would have prevented it/],
    [150, /no barrier in the last 100 places before the cut .*; \d+ earlier places were not tried/],
  ])(
    'when there are %d writes, then the advice says how far it has looked',
    async (count, told) => {
      const { failure } = await crashTest<number, string>({
        size: count * SECTOR,
        answers: 'at-once',
        profile: { lies: ['ignoreFlush'] },
        workload: (disk) => {
          for (let i = 0; i < count; i++) disk.write(i * SECTOR, sector(1), PLAIN);
        },
        recover: (disk) => {
          const [first, last] = [sector(0), sector(0)];
          disk.read((count - 1) * SECTOR, last);
          disk.read(0, first);
          return `${first[0]}${last[0]}`;
        },
        check: (found) => found !== '01',
      });
      expect(failure?.text).toMatch(told);
    },
  );
});

describe('given a model of operations in a row', () => {
  const check = prefixOracle<string, string, string>({
    start: '',
    apply: (state, operation) => state + operation,
    matches: (recovered, state) => recovered === state,
  });

  test('when a later one was acknowledged before an earlier one, then both must be there', () => {
    const expected = { begun: ['a', 'b', 'c'], acknowledged: ['b'] };
    expect(() => check('a', expected)).toThrow(/after 2 to 3/);
    expect(() => check('ab', expected)).not.toThrow();
    expect(() => check('abc', expected)).not.toThrow();
  });

  test('when the same operation is done twice, then each acknowledgement is for one of them', () => {
    const begun = ['a', 'b', 'a'];
    expect(() => check('a', { begun, acknowledged: ['a'] })).not.toThrow();
    expect(() => check('ab', { begun, acknowledged: ['a', 'a'] })).toThrow(/after 3 to 3/);
  });

  test('when what is acknowledged is another object, then acknowledgements are counted', () => {
    const objects = prefixOracle<{ n: number }, number, number>({
      start: 0,
      apply: (state) => state + 1,
      matches: (recovered, state) => recovered === state,
    });
    const expected = { begun: [{ n: 1 }, { n: 2 }], acknowledged: [{ n: 1 }] };
    expect(() => objects(0, expected)).toThrow(/after 1 to 2/);
    expect(() => objects(1, expected)).not.toThrow();
  });
});
