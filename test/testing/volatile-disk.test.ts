// The simulated disk: what its host sees, what a power cut leaves, and that both stay within the axioms.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MODE_NAMES, type ModeName, type Request } from 'write-barrier';
import { crashSpace } from '../../src/testing/crash-space.js';
import type { DeviceProfile } from '../../src/testing/profile.js';
import { storageContract } from '../../src/testing/storage-contract.js';
import { type DiskFault, VolatileDisk } from '../../src/testing/volatile-disk.js';
import { requestsOver } from '../model/arbitraries.js';
import { settled, submit } from '../scheduler/world.js';
import { profiles, SECTOR } from './traces.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const SIZE = 8 * SECTOR;
const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);

const ranges = fc
  .tuple(fc.nat({ max: 7 }), fc.integer({ min: 1, max: 2 }))
  .map(([first, sectors]) => ({
    offset: first * SECTOR,
    length: Math.min(sectors, 8 - first) * SECTOR,
  }));
const programs = fc.array(requestsOver(ranges).requests, { minLength: 1, maxLength: 20 });

const faults: fc.Arbitrary<readonly DiskFault[]> = fc.uniqueArray(
  fc.oneof(
    fc.record({
      on: fc.constant('write' as const),
      nth: fc.nat({ max: 6 }),
      fault: fc.constantFrom('fail', 'partial', 'ghost', 'lost'),
    }) as fc.Arbitrary<DiskFault>,
    fc.record({
      on: fc.constant('flush' as const),
      nth: fc.nat({ max: 3 }),
      fault: fc.constantFrom('keep', 'drop', 'drop-readback', 'late', 'sticky'),
    }) as fc.Arbitrary<DiskFault>,
  ),
  { maxLength: 3, selector: ({ on, nth }) => `${on} ${nth}` },
);

interface Run {
  readonly profile: DeviceProfile;
  readonly mode: ModeName;
  readonly program: readonly Request[];
  readonly faults: readonly DiskFault[];
  readonly seed: number;
  /** Every so many requests the host waits a while. */
  readonly pace: number;
  readonly depth: number;
}

const runs: fc.Arbitrary<Run> = fc.record({
  profile: profiles,
  mode: fc.constantFrom(...MODE_NAMES),
  program: programs,
  faults,
  seed: fc.nat(),
  pace: fc.integer({ min: 1, max: 8 }),
  depth: fc.integer({ min: 1, max: 6 }),
});

/** Runs a program through the real scheduler and cuts the power at some moment. */
async function cutShort(run: Run): Promise<{ disk: VolatileDisk; medium: Uint8Array }> {
  const { profile, seed } = run;
  const disk = new VolatileDisk({ size: SIZE, profile, seed, faults: run.faults });
  const { mode, depth } = run;
  const host = new IoScheduler(disk, { mode, depth, allowUnsafe: true });
  for (const [i, request] of run.program.entries()) {
    submit(host, request, undefined, i + 1).catch(() => {});
    if (i % run.pace === 0) for (let turn = 0; turn < seed % 7; turn++) await Promise.resolve();
    if (i % (3 * run.pace) === 0 && seed % 2 === 0) await settled();
  }
  const medium = disk.powerCut();
  return { disk, medium };
}

test('given any host, device and faults, when the power is cut, then the medium is an image of the crash space', async () => {
  await fc.assert(
    fc.asyncProperty(runs, async (run) => {
      const { disk, medium } = await cutShort(run);
      const space = crashSpace(disk.trace, run.profile);
      if (space.count > 200_000n) return;
      const cursor = space.cursor({ bytes: true });
      let found = false;
      do found = equal(cursor.bytes, medium);
      while (!found && cursor.next());
      expect(found).toBe(true);
    }),
    { numRuns: 1500 },
  );
});

test('given a seed, when the same host runs again, then everything happens again', async () => {
  await fc.assert(
    fc.asyncProperty(runs, async (run) => {
      const [first, second] = [await cutShort(run), await cutShort(run)];
      expect(first.disk.trace).toEqual(second.disk.trace);
      expect(first.medium).toEqual(second.medium);
    }),
    { numRuns: 200 },
  );
});

describe('given a volatile cache', () => {
  test('when a write was answered, then its host reads it and a power cut may lose it', async () => {
    const outcomes = new Set<number>();
    for (let seed = 0; seed < 50; seed++) {
      const disk = new VolatileDisk({ size: SIZE, seed });
      await disk.write(0, sector(7), PLAIN);
      const seen = sector(0);
      await disk.read(0, seen);
      expect(seen[0]).toBe(7);
      outcomes.add(disk.powerCut()[0] as number);
    }
    expect([...outcomes].sort()).toEqual([0, 7]);
  });

  test('when it was flushed, or forced, then a power cut keeps it', async () => {
    for (let seed = 0; seed < 30; seed++) {
      const disk = new VolatileDisk({ size: SIZE, seed });
      await disk.write(0, sector(7), PLAIN);
      await disk.flush(SIMPLE);
      await disk.write(SECTOR, sector(8), { fua: true, tag: 'simple' });
      const medium = disk.powerCut();
      expect([medium[0], medium[SECTOR]]).toEqual([7, 8]);
    }
  });

  test('when several writes are at it, then it answers in any order', async () => {
    const orders = new Set<string>();
    for (let seed = 0; seed < 50; seed++) {
      const disk = new VolatileDisk({ size: SIZE, seed });
      const order: number[] = [];
      const write = (i: number): unknown =>
        Promise.resolve(disk.write(i * SECTOR, sector(1), PLAIN)).then(() => order.push(i));
      await Promise.all([0, 1, 2].map(write));
      orders.add(order.join(' '));
    }
    expect(orders.size).toBe(6);
  });
});

describe('given a host that cannot wait', () => {
  test('when it asks, then it is answered before the call returns', () => {
    const disk = new VolatileDisk({ size: SIZE, answers: 'at-once' });
    expect(disk.write(0, sector(7), PLAIN)).toBeUndefined();
    const seen = sector(0);
    disk.read(0, seen);
    expect(seen).toEqual(sector(7));
    disk.flush(SIMPLE);
    expect(disk.trace.commands.map(({ op, completed }) => `${op} ${completed}`)).toEqual([
      'write 1',
      'read 3',
      'flush 5',
    ]);
    expect(disk.powerCut()[0]).toBe(7);
  });
});

describe('given a fault', () => {
  test.each([
    ['keep', 'failed done done', 7, 'safe'],
    ['late', 'done failed done', 7, 'safe'],
    ['sticky', 'failed', 0, 'lost'],
  ] as const)('%s at a flush: %s', (fault, said, seen, fate) => {
    const disk = new VolatileDisk({
      size: SIZE,
      answers: 'at-once',
      faults: [{ on: 'flush', nth: 0, fault }],
    });
    disk.write(0, sector(7), PLAIN);
    const answers = said.split(' ').map(() => flushed(disk));
    expect(answers.join(' ')).toBe(said);
    const read = sector(0);
    try {
      disk.read(0, read);
    } catch {}
    expect(read[0]).toBe(seen);
    expect(spaceOf(disk)).toBe(fate);
  });

  test.each([
    ['drop', 'old'],
    ['drop-readback', 'new'],
  ] as const)(
    '%s at a flush: the next one succeeds, and what it covers is gone all the same',
    (fault, reads) => {
      const values = new Set<string>();
      for (let seed = 0; seed < 40; seed++) {
        const faults: DiskFault[] = [{ on: 'flush', nth: 0, fault }];
        const disk = new VolatileDisk({ size: SIZE, answers: 'at-once', faults, seed });
        disk.write(0, sector(7), PLAIN);
        expect([flushed(disk), flushed(disk)]).toEqual(['failed', 'done']);
        const seen = sector(0);
        disk.read(0, seen);
        expect(spaceOf(disk)).toBe('lost');
        const medium = disk.powerCut()[0];
        values.add(`${seen[0]} ${medium}`);
      }
      expect(values).toContain(reads === 'old' ? '0 0' : '7 0');
    },
  );

  test('a lost write is answered and never there; a misdirected one is somewhere else', () => {
    const disk = new VolatileDisk({
      size: SIZE,
      answers: 'at-once',
      faults: [
        { on: 'write', nth: 0, fault: 'lost' },
        { on: 'write', nth: 1, fault: 'misdirected', at: 3 * SECTOR },
      ],
    });
    disk.write(0, sector(7), PLAIN);
    disk.write(SECTOR, sector(8), PLAIN);
    disk.flush(SIMPLE);
    const medium = disk.powerCut();
    expect([0, 1, 2, 3].map((i) => medium[i * SECTOR])).toEqual([0, 0, 0, 8]);
    expect(crashSpace(disk.trace).count).toBe(2n);
  });

  test('a failed read says so, and rot changes one bit of what is read', () => {
    const disk = new VolatileDisk({
      size: SIZE,
      answers: 'at-once',
      faults: [
        { on: 'read', nth: 0, fault: 'fail' },
        { on: 'read', nth: 1, fault: 'rot' },
      ],
    });
    const seen = sector(0);
    expect(() => disk.read(0, seen)).toThrow(/read failed/);
    disk.read(0, seen);
    const ones = seen.reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0);
    expect(ones).toBe(1);
  });
});

test('given a power cut, when somebody waits or asks, then he hears of it', async () => {
  const disk = new VolatileDisk({ size: SIZE });
  const waiting = Promise.resolve(disk.write(0, sector(1), PLAIN));
  disk.powerCut();
  await expect(waiting).rejects.toMatchObject({ code: 'POWER_CUT' });
  expect(() => disk.read(0, sector(0))).toThrow(expect.objectContaining({ code: 'POWER_CUT' }));
});

function flushed(disk: VolatileDisk): string {
  try {
    disk.flush(SIMPLE);
    return 'done';
  } catch {
    return 'failed';
  }
}

/** Whether sector 0 may be lost at the end of the run. */
function spaceOf(disk: VolatileDisk): string {
  const end = disk.trace.commands.length * 2 - 0.5;
  const states = [...crashSpace(disk.trace)].filter(({ before }) => before > end);
  return states.some((state) => state.image()[0] === 0) ? 'lost' : 'safe';
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, i) => byte === b[i]);
}

describe.each([
  ['volatile', {}],
  ['volatile without FUA and tags', { fua: false, orderedTags: false }],
  ['none', { cache: 'none' }],
] as const)('a simulated disk with cache %s', (_, fields) => {
  const profile = { ...fields, sectorSize: SECTOR };
  for (const answers of ['later', 'at-once'] as const) {
    const open = (initial?: Uint8Array) =>
      new VolatileDisk({
        size: 64 * SECTOR,
        profile,
        answers,
        seed: 5,
        ...(initial && { initial }),
      });
    const { capabilities } = open();
    storageContract(
      { describe, test },
      {
        name: `VolatileDisk that answers ${answers}`,
        capabilities,
        open: () => {
          let disk = open();
          const reopen = (): VolatileDisk => {
            disk = open(disk.powerCut());
            return disk;
          };
          return { storage: disk, reopen };
        },
      },
    );
  }
});
