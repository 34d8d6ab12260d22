// The simulated disk: what its host sees, what a power cut leaves, and that both stay within the axioms.

import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MODE_NAMES, type ModeName, type Request, type Storage } from 'write-barrier';
import { storageContract } from '../../src/testing/contract/storage-contract.js';
import type { DiskFault } from '../../src/testing/device/disk-faults.js';
import { type DeviceProfile, deviceProfile } from '../../src/testing/device/profile.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { share } from '../kit/amount.js';
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

const WRITE_FAULTS = [
  ...['fail', 'partial', 'ghost', 'stray', 'lost', 'unserializable', 'rot', 'latent'],
] as const;
const FLUSH_FAULTS = ['keep', 'drop', 'drop-readback', 'late', 'elsewhere', 'sticky'] as const;

const faults: fc.Arbitrary<readonly DiskFault[]> = fc.uniqueArray(
  fc.oneof(
    fc.record({
      on: fc.constant('write' as const),
      nth: fc.nat({ max: 6 }),
      fault: fc.constantFrom(...WRITE_FAULTS),
    }) as fc.Arbitrary<DiskFault>,
    fc.record({
      on: fc.constant('write' as const),
      nth: fc.nat({ max: 6 }),
      fault: fc.constant('misdirected' as const),
      at: fc.nat({ max: 5 }).map((sector) => sector * SECTOR),
    }),
    fc.record({
      on: fc.constant('flush' as const),
      nth: fc.nat({ max: 3 }),
      fault: fc.constantFrom(...FLUSH_FAULTS),
    }) as fc.Arbitrary<DiskFault>,
  ),
  { maxLength: 3, selector: ({ on, nth }) => `${on} ${nth}` },
);

/** All that a profile can say and that makes a difference to the disk. */
const devices: fc.Arbitrary<DeviceProfile> = fc
  .record({
    profile: profiles,
    tear: fc.constantFrom('sector' as const, 'shorn' as const, 'garbage' as const),
    sameLba: fc.constantFrom('fifo' as const, 'racy' as const),
    writev: fc.boolean(),
    writeZeroes: fc.boolean(),
    discard: fc.constantFrom<DeviceProfile['discard']>('none', 'zero', 'old-or-zero', 'arbitrary'),
    onTagError: fc.constantFrom('continue' as const, 'abort-queue' as const),
  })
  .map(({ profile, ...fields }) => {
    const whole = fields.tear === 'sector' && fields.sameLba === 'fifo';
    const atomicWriteUnit = whole ? profile.atomicWriteUnit : SECTOR;
    return deviceProfile({ ...profile, ...fields, atomicWriteUnit });
  });

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
  profile: devices,
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
      // What the host had heard of by then must be honoured.
      const last = lastMoment(disk);
      let found = false;
      for (const state of space) {
        found = state.before > last && equal(state.image(), medium);
        if (found) break;
      }
      expect(found).toBe(true);
    }),
    { numRuns: share(1500, 200) },
  );
});

test('given a seed, when the same host runs again, then everything happens again', async () => {
  await fc.assert(
    fc.asyncProperty(runs, async (run) => {
      const [first, second] = [await cutShort(run), await cutShort(run)];
      // `toEqual` takes longer than the runs, and is needed only to show how they differ.
      if (isDeepStrictEqual(first, second)) return;
      expect(first.disk.trace).toEqual(second.disk.trace);
      expect(first.medium).toEqual(second.medium);
    }),
    { numRuns: share(200) },
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

describe('given a write that goes wrong', () => {
  const cutWith = (
    fault: Exclude<DiskFault, { at: number }>['fault'],
    seed: number,
    host: (disk: VolatileDisk) => void,
    profile: Partial<DeviceProfile> = { orderedTags: true },
  ): { disk: VolatileDisk; medium: Uint8Array } => {
    const faults = [{ on: 'write', nth: 0, fault }] as readonly DiskFault[];
    const disk = new VolatileDisk({ size: SIZE, answers: 'at-once', faults, seed, profile });
    host(disk);
    return { disk, medium: disk.powerCut() };
  };
  const attempt = (call: () => unknown): string => {
    try {
      call();
      return 'done';
    } catch {
      return 'failed';
    }
  };

  test('when it strays, then it lands whenever it likes, also over what was written later and flushed', () => {
    const ends = new Set<string>();
    for (let seed = 0; seed < 60; seed++) {
      const { disk, medium } = cutWith('stray', seed, (it) => {
        expect(attempt(() => it.write(0, sector(7), PLAIN))).toBe('failed');
        it.write(0, sector(8), PLAIN);
        it.flush(SIMPLE);
        for (let i = 1; i < 6; i++) it.write(i * SECTOR, sector(1), PLAIN);
        it.flush(SIMPLE);
      });
      ends.add(String(medium[0]));
      const held = [...crashSpace(disk.trace)].map((state) => state.image()[0]);
      expect(held).toContain(medium[0]);
    }
    expect([...ends].sort()).toEqual(['7', '8']);
  });

  test('when it is unserializable, then it may be missing behind everything, and its host sees it all the same', () => {
    const ends = new Set<string>();
    for (let seed = 0; seed < 60; seed++) {
      const { medium } = cutWith('unserializable', seed, (disk) => {
        disk.write(0, sector(7), { fua: true, tag: 'ordered' });
        disk.flush(SIMPLE);
        disk.write(SECTOR, sector(8), { fua: true, tag: 'simple' });
        const seen = sector(0);
        disk.read(0, seen);
        expect(seen[0]).toBe(7);
      });
      ends.add(`${medium[0]} ${medium[SECTOR]}`);
    }
    expect([...ends].sort()).toEqual(['0 8', '7 8']);
  });

  test('when it rots, then one bit is another one, for its host and after the power cut', () => {
    const { disk, medium } = cutWith('rot', 0, (it) => {
      it.write(0, sector(7), PLAIN);
      it.flush(SIMPLE);
      const seen = sector(0);
      it.read(0, seen);
      expect(seen.filter((byte) => byte !== 7)).toEqual(Uint8Array.of(6));
    });
    expect(medium.subarray(0, SECTOR).filter((byte) => byte !== 7)).toEqual(Uint8Array.of(6));
    const space = crashSpace(disk.trace);
    expect(space.at(space.count - 1n).image()).toEqual(medium);
  });

  test.each(['rot', 'latent'] as const)(
    'when %s spoils a discard that leaves arbitrary bytes, then disk and crash space agree about them',
    (fault) => {
      const { disk, medium } = cutWith(
        fault,
        0,
        (it) => {
          it.discard?.(0, SECTOR);
          it.flush(SIMPLE);
        },
        { discard: 'arbitrary' },
      );
      expect(
        [...crashSpace(disk.trace, disk.profile)].map((state) => state.image()),
      ).toContainEqual(medium);
    },
  );

  test('when its sector is latently bad, then a read fails until it is written again, also in a recovery', () => {
    const { disk } = cutWith('latent', 0, (it) => {
      it.write(0, sector(7), PLAIN);
      it.flush(SIMPLE);
      expect(attempt(() => it.read(0, sector(0)))).toBe('failed');
      expect(attempt(() => it.read(SECTOR, sector(0)))).toBe('done');
    });
    const space = crashSpace(disk.trace);
    const left = space.at(space.count - 1n).disk();
    expect(() => left.read(0, sector(0))).toThrow(expect.objectContaining({ code: 'IO_FAILED' }));
    left.write(0, sector(9), PLAIN);
    left.read(0, sector(0));
    disk.powerCut();
    cutWith('latent', 0, (it) => {
      it.write(0, sector(7), PLAIN);
      it.write(0, sector(8), PLAIN);
      expect(attempt(() => it.read(0, sector(0)))).toBe('done');
    });
  });

  test('when what it is queued with is aborted, then nothing behind it is written', async () => {
    for (const onTagError of ['continue', 'abort-queue'] as const) {
      const faults: DiskFault[] = [{ on: 'write', nth: 0, fault: 'fail' }];
      const disk = new VolatileDisk({
        size: SIZE,
        faults,
        profile: { orderedTags: true, onTagError },
      });
      const first = Promise.resolve(disk.write(0, sector(7), PLAIN));
      const barrier = disk.write(SECTOR, sector(8), { fua: true, tag: 'ordered' });
      const later = disk.write(2 * SECTOR, sector(9), PLAIN);
      const told = (await Promise.allSettled([first, barrier, later])).map(({ status }) => status);
      await disk.flush(SIMPLE);
      const medium = disk.powerCut();
      const outcome = [...told, medium[SECTOR], medium[2 * SECTOR]];
      if (onTagError === 'continue') {
        expect(outcome).toEqual(['rejected', 'fulfilled', 'fulfilled', 8, 9]);
      } else {
        expect(outcome).toEqual(['rejected', 'rejected', 'rejected', 0, 0]);
      }
    }
  });
});

describe('given a device that is worse than it says', () => {
  test('when it claims to write through, then a completed write may be lost, and a flush helps whoever sends one', async () => {
    const profile = { cache: 'none', lies: ['claimWriteThrough'] } as const;
    const ends = new Set<unknown>();
    for (let seed = 0; seed < 30; seed++) {
      const disk = new VolatileDisk({ size: SIZE, seed, profile });
      expect(disk.capabilities.cache).toBe('none');
      await disk.write(0, sector(7), PLAIN);
      ends.add(disk.powerCut()[0]);
    }
    expect([...ends].sort()).toEqual([0, 7]);
    const flushed = new VolatileDisk({ size: SIZE, profile });
    await flushed.write(0, sector(7), PLAIN);
    await flushed.flush(SIMPLE);
    expect(flushed.powerCut()[0]).toBe(7);
  });

  test('when it tears, then a power cut may leave half of a sector, and garbage where it does that', async () => {
    const torn = async (tear: 'shorn' | 'garbage'): Promise<Set<string>> => {
      const found = new Set<string>();
      for (let seed = 0; seed < 600; seed++) {
        const initial = new Uint8Array(SIZE).fill(1);
        const disk = new VolatileDisk({ size: SIZE, seed, initial, profile: { tear } });
        await disk.write(0, sector(2), PLAIN);
        const medium = disk.powerCut();
        const [head, tail] = [medium[0] as number, medium[SECTOR - 1] as number];
        found.add(head > 2 || tail > 2 ? 'garbage' : `${head}/${tail}`);
      }
      return found;
    };
    expect(await torn('shorn')).toEqual(new Set(['1/1', '1/2', '2/1', '2/2']));
    expect(await torn('garbage')).toEqual(new Set(['1/1', '1/2', '2/1', '2/2', 'garbage']));
  });

  test('when it has an atomic unit, then a write within it is there as a whole, and one across it may not be', async () => {
    const profile = { sectorSize: SECTOR, atomicWriteUnit: 4 * SECTOR };
    const ends = async (offset: number): Promise<Set<string>> => {
      const found = new Set<string>();
      for (let seed = 0; seed < 80; seed++) {
        const disk = new VolatileDisk({ size: SIZE, seed, profile });
        await disk.write(offset, new Uint8Array(2 * SECTOR).fill(7), PLAIN);
        const medium = disk.powerCut();
        found.add(`${medium[offset]} ${medium[offset + SECTOR]}`);
      }
      return found;
    };
    expect(await ends(2 * SECTOR)).toEqual(new Set(['0 0', '7 7']));
    expect(await ends(3 * SECTOR)).toEqual(new Set(['0 0', '7 7', '0 7', '7 0']));
  });

  test('when two writes to one place are at it together, then either may be the last one, if it is racy', async () => {
    for (const sameLba of ['fifo', 'racy'] as const) {
      const ends = new Set<unknown>();
      for (let seed = 0; seed < 60; seed++) {
        const disk = new VolatileDisk({ size: SIZE, seed, profile: { sameLba } });
        await Promise.all([disk.write(0, sector(7), PLAIN), disk.write(0, sector(8), PLAIN)]);
        await disk.flush(SIMPLE);
        ends.add(disk.powerCut()[0]);
      }
      expect([...ends].sort()).toEqual(sameLba === 'racy' ? [7, 8] : [8]);
    }
  });
});

test('given a write of no bytes, when it is asked for, then it is answered', async () => {
  const none = new Uint8Array(0);
  await new VolatileDisk({ size: SIZE }).write(0, none, PLAIN);
  new VolatileDisk({ size: SIZE, answers: 'at-once' }).write(0, none, PLAIN);
});

test('given a host that never ends, when somebody else has a timer, then it fires', async () => {
  const disk = new VolatileDisk({ size: SIZE, faults: [{ on: 'flush', nth: 0, fault: 'sticky' }] });
  let fired = false;
  setTimeout(() => {
    fired = true;
  }, 0);
  while (!fired) await Promise.resolve(disk.flush(SIMPLE)).catch(() => disk.sleep(1000));
  expect(disk.nowUs).toBeGreaterThan(1000);
});

describe('given a clock that is not real', () => {
  test('when commands are asked, then each takes as long as it may, and the answers come in the order of time', async () => {
    const disk = new VolatileDisk({ size: SIZE, seed: 3, latencyUs: [100, 200] });
    const times: number[] = [];
    const write = (i: number): unknown =>
      Promise.resolve(disk.write(i * SECTOR, sector(1), PLAIN)).then(() => times.push(disk.nowUs));
    await Promise.all([0, 1, 2, 3].map(write));
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(times[0]).toBeGreaterThanOrEqual(100);
    expect(times.at(-1)).toBeLessThanOrEqual(200);
    await disk.flush(SIMPLE);
    expect(disk.nowUs).toBeGreaterThanOrEqual((times.at(-1) ?? 0) + 100);
  });

  test('when a host has a timeout, then it wakes before an answer that takes longer, and after one that does not', async () => {
    const disk = new VolatileDisk({ size: SIZE, latencyUs: [1000, 1000] });
    const order: string[] = [];
    await Promise.all([
      Promise.resolve(disk.write(0, sector(1), PLAIN)).then(() => order.push('answer')),
      disk.sleep(999).then(() => order.push('short')),
      disk.sleep(1001).then(() => order.push('long')),
    ]);
    expect(order).toEqual(['short', 'answer', 'long']);
    const slept = disk.sleep(5);
    disk.powerCut();
    await expect(slept).rejects.toMatchObject({ code: 'POWER_CUT' });
    await expect(disk.sleep(1)).rejects.toMatchObject({ code: 'POWER_CUT' });
  });

  test.each([[[5, 1]], [[-1, 1]], [[0, Number.POSITIVE_INFINITY]]] as const)(
    'when a command is to take %j microseconds, then that is refused',
    (latencyUs) => {
      expect(() => new VolatileDisk({ size: SIZE, latencyUs })).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      );
    },
  );
});

test('given two openers, when the flush of one loses what was cached, then only the other one hears of it', () => {
  const faults: DiskFault[] = [{ on: 'flush', nth: 0, fault: 'elsewhere' }];
  const disk = new VolatileDisk({ size: SIZE, answers: 'at-once', faults });
  const other = disk.opener();
  disk.write(0, sector(7), PLAIN);
  expect(flushed(disk)).toBe('done');
  expect(flushed(disk)).toBe('done');
  expect(flushed(other)).toBe('failed');
  expect(flushed(other)).toBe('done');
  expect(spaceOf(disk)).toBe('lost');
});

/** That of a function, and that of the test around it, which has no name. */
const TWO_CALLS = /^(\w+) \(volatile-disk\.test\.ts:\d+\), from volatile-disk\.test\.ts:\d+$/;

test('given a scheduler that queues, when the disk is asked who sent a command, then it is the call of the user', async () => {
  const disk = new VolatileDisk({ size: SIZE });
  const host = new IoScheduler(disk, { mode: 'DRAIN_FLUSH', observer: disk.observer });
  function first(): Promise<void> {
    return host.write(0, sector(1));
  }
  function second(): Promise<void> {
    return host.write(SECTOR, sector(2), { barrier: true });
  }
  function third(): Promise<void> {
    return host.write(2 * SECTOR, sector(3));
  }
  await Promise.all([first(), second(), third()]);
  const sites = disk.trace.commands.map((_, command) => disk.siteOf(command));
  const names = sites.map((site) => TWO_CALLS.exec(site ?? '')?.[1]);
  expect(names).toEqual(['first', 'second', 'second', 'second', 'third']);
  expect(disk.siteOf(99)).toBeUndefined();
});

test('given a power cut, when somebody waits or asks, then he hears of it', async () => {
  const disk = new VolatileDisk({ size: SIZE });
  const waiting = Promise.resolve(disk.write(0, sector(1), PLAIN));
  disk.powerCut();
  await expect(waiting).rejects.toMatchObject({ code: 'POWER_CUT' });
  expect(() => disk.read(0, sector(0))).toThrow(expect.objectContaining({ code: 'POWER_CUT' }));
});

function flushed(disk: Storage): string {
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

function lastMoment({ trace }: VolatileDisk): number {
  const times = trace.commands.flatMap(({ dispatched, completed }) => [dispatched, completed]);
  return Math.max(-1, ...times.filter((time) => time < Number.POSITIVE_INFINITY));
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
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
        size: initial?.length ?? 64 * SECTOR,
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
