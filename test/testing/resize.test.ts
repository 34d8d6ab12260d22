// A disk whose size changes: what a power cut may leave of its size, against the axioms word for word, against all runs of the
// device, and against recoveries that look at the size or not, resize themselves, and are cut short as well.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Storage, WriteBarrierError } from 'write-barrier';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import type { DiskFault } from '../../src/testing/device/disk-faults.js';
import type { DiskTrace } from '../../src/testing/device/disk-trace.js';
import {
  type DeviceName,
  type DeviceProfile,
  deviceProfile,
} from '../../src/testing/device/profile.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { sampled, share } from '../kit/amount.js';
import { FLUSH, PLAIN } from './sectors.js';
import {
  byAxioms,
  byMoment,
  type Host,
  hosts,
  operational,
  playedBy,
  profiles,
  resizeTo,
  SECTOR,
  textOf,
} from './traces.js';

const sorted = (texts: Iterable<string>): string[] => [...texts].sort();
const sector = (byte: number): Uint8Array => new Uint8Array(SECTOR).fill(byte);

/** All of a disk, as far as its size says that it goes. */
function allOf(disk: { readonly size: number; read(at: number, into: Uint8Array): unknown }) {
  const bytes = new Uint8Array(disk.size);
  for (let at = 0; at < bytes.length; at += SECTOR) disk.read(at, bytes.subarray(at, at + SECTOR));
  return bytes;
}

describe('given any small trace with resizes on any device', () => {
  test('the images of each moment, with their sizes, are those of the axioms, word for word', () => {
    fc.assert(
      fc.property(hosts(4, true), profiles, (host, profile) => {
        const { trace, events } = playedBy(host, profile);
        const found = byMoment(crashSpace(trace, profile), events.length);
        expect(sorted(found)).toEqual(sorted(byAxioms(trace, profile)));
      }),
      { numRuns: share(1000, 300) },
    );
  });

  test('the images of each moment are those that the device leaves, step by step, also where sectors tear or race', () => {
    const worse = fc
      .record({
        profile: profiles,
        tear: fc.constantFrom('shorn' as const, 'sector' as const, 'sector' as const),
        sameLba: fc.constantFrom('racy' as const, 'fifo' as const, 'fifo' as const),
      })
      .map(({ profile, ...fields }) => deviceProfile({ ...profile, ...fields }));
    fc.assert(
      fc.property(hosts(4, true), worse, (host, profile) => {
        const played = playedBy(host, profile);
        const found = byMoment(crashSpace(played.trace, profile), played.events.length);
        const left = operational(played, profile);
        // Two racing units that break each other may leave less than the space has, and never more.
        const mayHaveMore = profile.sameLba === 'racy' && profile.atomicWriteUnit > SECTOR;
        if (mayHaveMore) for (const image of found) if (!left.has(image)) found.delete(image);
        expect(sorted(found)).toEqual(sorted(left));
      }),
      { numRuns: share(600, 200) },
    );
  });

  test('the count is exact, every number is one image, and a replay of a number is that image', () => {
    fc.assert(
      fc.property(hosts(6, true), profiles, (host, profile) => {
        const space = crashSpace(playedBy(host, profile).trace, profile);
        const states = [...space];
        expect(BigInt(states.length)).toBe(space.count);
        for (const [k, state] of states.entries()) {
          expect(state.after).toBeLessThan(state.before);
          expect(space.indexOf(state)).toBe(BigInt(k));
          expect(space.at(BigInt(k)).image()).toEqual(state.image());
          expect(state.image().length).toBe(state.size);
        }
      }),
      { numRuns: share(250, 60) },
    );
  });

  test('a recovery that reads the size, and then what there is, meets each image and no other', () => {
    let sizes = 0;
    fc.assert(
      fc.property(hosts(6, true), profiles, (host, profile) => {
        const space = crashSpace(playedBy(host, profile).trace, profile);
        const images = new Set<string>();
        let covered = 0n;
        for (const crash of space.explore()) {
          images.add(textOf(allOf(crash.disk)));
          covered += crash.images;
        }
        expect(covered).toBe(space.count);
        const all = [...space];
        expect(sorted(images)).toEqual(sorted(new Set(all.map((one) => textOf(one.image())))));
        sizes = Math.max(sizes, new Set(all.map(({ size }) => size)).size);
      }),
      { numRuns: share(250, 100) },
    );
    expect(sizes).toBeGreaterThan(2);
  });

  test('what a recovery does not read, the size included, is covered by what it does', () => {
    fc.assert(
      fc.property(hosts(6, true), profiles, fc.boolean(), (host, profile, looks) => {
        const space = crashSpace(playedBy(host, profile).trace, profile);
        let [covered, recoveries] = [0n, 0];
        const found = new Set<number>();
        for (const crash of space.explore()) {
          if (looks) found.add(crash.disk.size);
          covered += crash.images;
          recoveries += 1;
        }
        expect(covered).toBe(space.count);
        if (looks)
          expect(sorted(found.keys() as never)).toEqual(
            sorted(new Set([...space].map(({ size }) => size)) as never),
          );
        else expect(recoveries).toBe(1);
      }),
      { numRuns: share(150, 60) },
    );
  });
});

// Every small program

const write = (at: number, fua = false): Host['commands'][number] => {
  return { op: 'write', offset: at * SECTOR, length: SECTOR, tag: 'simple', fua };
};
const flush = (tag: 'simple' | 'ordered'): Host['commands'][number] => {
  return { op: 'flush', offset: 0, length: 0, tag, fua: false };
};
const ALPHABET = [
  ...[write(2), write(3), write(3, true)],
  ...[resizeTo(2), resizeTo(3), resizeTo(4)],
  ...[flush('simple'), flush('ordered')],
];
/** The host waits for each answer, or sends all that it may, or takes an answer now and then. */
const PICKS = [
  [0, 1, 0, 1, 0, 1, 0, 1],
  [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1],
  [0, 0, 1, 0, 0, 3, 1, 0, 1],
];

function* programs(length: number): Generator<readonly Host['commands'][number][], void> {
  if (length === 0) yield [];
  else for (const rest of programs(length - 1)) for (const one of ALPHABET) yield [one, ...rest];
}

const DEVICES: readonly Partial<DeviceProfile>[] = [
  { cache: 'volatile' },
  { cache: 'none' },
  { cache: 'volatile', lies: ['ignoreFlush'] },
];

describe.each([1, 2, 3, 4])('given every program of %i writes, resizes and flushes', (length) => {
  test('the space has the images that all runs of the device leave, and the axioms', () => {
    const cases = [...programs(length)].flatMap((commands) =>
      PICKS.map((picks) => ({ commands, picks })),
    );
    for (const host of length < 3 ? cases : sampled(sampled(length < 4 ? cases : sampled(cases)))) {
      for (const fields of DEVICES) {
        const profile = deviceProfile({ ...fields, orderedTags: true, sectorSize: SECTOR });
        const played = playedBy(host, profile);
        const found = sorted(byMoment(crashSpace(played.trace, profile), played.events.length));
        expect(found).toEqual(sorted(operational(played, profile)));
        expect(found).toEqual(sorted(byAxioms(played.trace, profile)));
      }
    }
  });
});

// By hand

/** The sizes and the images after a run, as text: `3: 1 1 0`. */
function leftBy(
  run: (disk: VolatileDisk) => void,
  profile: DeviceName | Partial<DeviceProfile> = 'file',
  size = 2,
): Set<string> {
  const disk = new VolatileDisk({ size: size * SECTOR, profile, answers: 'at-once' });
  run(disk);
  // Only what is left at the end.
  const states = [...crashSpace(disk.trace, profile)].filter(
    ({ before }) => before === Number.POSITIVE_INFINITY,
  );
  return new Set(states.map((state) => `${state.size / SECTOR}: ${textOf(state.image())}`));
}

describe('given a disk that has grown', () => {
  const grow = (disk: VolatileDisk): void => void disk.resize?.(3 * SECTOR);
  const log = (disk: VolatileDisk): void => {
    grow(disk);
    disk.write(2 * SECTOR, sector(7), PLAIN);
  };

  test('until a flush a power cut leaves either size, and behind the old one nothing is there', () => {
    expect(leftBy(log)).toEqual(new Set(['2: 0 0', '3: 0 0 0', '3: 0 0 7']));
  });

  test('a flush covers the size, and so does a write with FUA that needs it, and no other write', () => {
    expect(leftBy((disk) => [grow(disk), disk.flush(FLUSH)])).toEqual(new Set(['3: 0 0 0']));
    const forced = { ...PLAIN, fua: true };
    const far = leftBy((disk) => [grow(disk), disk.write(2 * SECTOR, sector(7), forced)]);
    expect(far).toEqual(new Set(['3: 0 0 7']));
    const near = leftBy((disk) => [grow(disk), disk.write(SECTOR, sector(7), forced)]);
    expect(near).toEqual(new Set(['2: 0 7', '3: 0 7 0']));
  });

  test('without a cache the size is there when the resize is answered, and a lie about flushes loses it', () => {
    expect(leftBy(grow, { cache: 'none' })).toEqual(new Set(['3: 0 0 0']));
    const lies = leftBy((disk) => [grow(disk), disk.flush(FLUSH)], { lies: ['ignoreFlush'] });
    expect(lies).toEqual(new Set(['2: 0 0', '3: 0 0 0']));
  });
});

describe('given bytes that were cut off and added again', () => {
  const again = (flushes: boolean, to: number) => (disk: VolatileDisk) => {
    disk.write(SECTOR, sector(9), PLAIN);
    disk.flush(FLUSH);
    disk.resize?.(SECTOR);
    if (flushes) disk.flush(FLUSH);
    disk.resize?.(to * SECTOR);
    expect(textOf(allOf(disk))).toBe(['0', '0 0', '0 0 0'][to - 1]);
  };

  test('after a flush in between, the old bytes do not come back', () => {
    for (const to of [2, 3]) {
      for (const image of leftBy(again(true, to))) expect(image).not.toContain('9');
    }
  });

  test('without one they may, because neither resize is certain', () => {
    expect(leftBy(again(false, 3))).toContain('3: 0 9 0');
  });

  test('a device that keeps what is discarded, or makes noise of it, has zeroes there all the same', () => {
    for (const discard of ['old-or-zero', 'arbitrary'] as const) {
      expect(leftBy(again(true, 2), { discard })).toEqual(new Set(['1: 0', '2: 0 0']));
    }
  });
});

describe('given resizes of a VolatileDisk', () => {
  test('the size changes with the answer, and a wrong size is refused before anything changes', async () => {
    const disk = new VolatileDisk({ size: 2 * SECTOR });
    const answer = disk.resize?.(4 * SECTOR);
    expect(disk.size).toBe(2 * SECTOR);
    await answer;
    expect(disk.size).toBe(4 * SECTOR);
    const { length } = disk.trace.commands;
    for (const size of [-SECTOR, 100, 1.5, Number.NaN, 2 ** 33]) {
      expect(() => disk.resize?.(size)).toThrow(WriteBarrierError);
    }
    await disk.resize?.(4 * SECTOR);
    expect(disk.trace.commands.length).toBe(length);
    await disk.resize?.(0);
    expect(disk.size).toBe(0);
    expect(() => disk.read(0, sector(0))).toThrow(
      expect.objectContaining({ code: 'OUT_OF_RANGE' }),
    );
    await disk.close();
    expect(() => disk.resize?.(0)).toThrow(expect.objectContaining({ code: 'CLOSED' }));
  });

  test('a block device has none, and a file may begin with no bytes', () => {
    const device = new VolatileDisk({ size: SECTOR, profile: 'nvme' });
    expect([device.resize, device.capabilities.resize]).toEqual([undefined, false]);
    expect(() => new VolatileDisk({ size: 0, profile: 'nvme' })).toThrow('from 512');
    expect(new VolatileDisk({ size: 0 }).size).toBe(0);
  });

  test('another opener sees the size change', async () => {
    const disk = new VolatileDisk({ size: 0 });
    const other = disk.opener();
    await other.resize?.(SECTOR);
    expect([disk.size, other.size]).toEqual([SECTOR, SECTOR]);
  });

  const kinds = [
    'fail',
    'partial',
    'ghost',
    'stray',
    'lost',
    'unserializable',
    'rot',
    'latent',
  ] as const;
  const faults: fc.Arbitrary<DiskFault> = fc.oneof(
    fc.record({
      on: fc.constant('write' as const),
      nth: fc.nat({ max: 5 }),
      fault: fc.constantFrom(...kinds),
    }),
    fc.record({
      ...{ on: fc.constant('write' as const), nth: fc.nat({ max: 5 }) },
      ...{ fault: fc.constant('misdirected' as const), at: fc.constant(0) },
    }),
    fc.record({
      ...{ on: fc.constant('flush' as const), nth: fc.nat({ max: 2 }) },
      fault: fc.constantFrom('keep', 'drop', 'drop-readback', 'late', 'elsewhere', 'sticky'),
    }),
  );

  test('given any fault, then the size says what the disk has, and a power cut leaves an image of the space', async () => {
    const steps = fc.array(fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 4 })), {
      minLength: 1,
      maxLength: 6,
    });
    await fc.assert(
      fc.asyncProperty(
        steps,
        faults,
        fc.nat({ max: 50 }),
        fc.boolean(),
        async (all, fault, seed, atOnce) => {
          const answers = atOnce ? 'at-once' : 'later';
          const disk = new VolatileDisk({ size: 2 * SECTOR, faults: [fault], seed, answers });
          for (const [kind, at] of all) {
            const before = disk.size;
            try {
              if (kind === 0) await disk.flush(FLUSH);
              else if (kind === 1) await disk.resize?.(at * SECTOR);
              else if (at * SECTOR < disk.size) {
                await disk.write(at * SECTOR, sector(at + 1), { ...PLAIN, fua: kind === 3 });
              }
            } catch {
              // The fault.
            }
            expect([before, kind === 1 ? at * SECTOR : before]).toContain(disk.size);
          }
          const space = crashSpace(disk.trace);
          const left = disk.powerCut();
          const isOne = [...space].some((state) => Buffer.compare(state.image(), left) === 0);
          expect(isOne).toBe(true);
        },
      ),
      { numRuns: share(1500, 500) },
    );
  });
});

// Traces that make no sense

test('a resize that does not begin at the size of the disk, or has another range, is refused by the crash space', () => {
  const trace = (offset: number, length: number, size: number): DiskTrace => ({
    ...{ size: 4 * SECTOR, marks: [] },
    commands: [
      {
        ...{ op: size > offset ? 'writeZeroes' : 'discard', offset, length, size, ...PLAIN },
        ...{ dispatched: 0, completed: 1, failed: false },
      },
    ],
  });
  expect(crashSpace(trace(4 * SECTOR, SECTOR, 5 * SECTOR)).count).toBe(2n);
  for (const [offset, length, size] of [
    [3 * SECTOR, 2 * SECTOR, 5 * SECTOR],
    [4 * SECTOR, 2 * SECTOR, 5 * SECTOR],
    [2 * SECTOR, SECTOR, 2 * SECTOR],
    [3 * SECTOR, 0, 3 * SECTOR],
  ] as const) {
    expect(() => crashSpace(trace(offset, length, size))).toThrow(
      'is no resize of a disk of 2048 bytes',
    );
  }
});

// Recoveries that resize, cut short as well

type Step = readonly [kind: 'write' | 'resize' | 'flush', at: number];

/** Does what is possible at the size that the disk has. */
async function doAll(disk: Storage, steps: readonly Step[], byte: number): Promise<void> {
  for (const [kind, at] of steps) {
    if (kind === 'flush') await disk.flush(FLUSH);
    else if (kind === 'resize') await disk.resize?.(at * SECTOR);
    else if (at * SECTOR < disk.size) await disk.write(at * SECTOR, sector(byte), PLAIN);
  }
}

const steps = (most: number): fc.Arbitrary<Step[]> =>
  fc.array(
    fc.tuple(fc.constantFrom('write', 'resize', 'flush'), fc.nat({ max: 3 })) as fc.Arbitrary<Step>,
    {
      ...{ minLength: 1, maxLength: most },
    },
  );

test('given a recovery that resizes, when the power is cut during it, then the next one meets what brute force finds', async () => {
  await fc.assert(
    fc.asyncProperty(steps(4), steps(3), async (workload, recovery) => {
      const met = new Set<string>();
      const { failure, warnings } = await crashTest({
        ...{ size: 2 * SECTOR, nested: true, answers: 'at-once' },
        async workload(disk, journal) {
          await doAll(disk, workload, 1);
          journal.acknowledge('all');
        },
        async recover(disk) {
          met.add(textOf(allOf(disk)));
          await doAll(disk, recovery, 2);
        },
        check: () => true,
      });
      expect([failure, warnings.filter((one) => one.includes('covered'))]).toEqual([undefined, []]);

      const first = new VolatileDisk({ size: 2 * SECTOR, answers: 'at-once' });
      await doAll(first, workload, 1);
      const expected = new Set<string>();
      for (const state of crashSpace(first.trace)) {
        expected.add(textOf(state.image()));
        const options = { size: state.size, initial: state.image(), answers: 'at-once' } as const;
        const again = new VolatileDisk(options);
        await doAll(again, recovery, 2);
        for (const later of crashSpace(again.trace)) expected.add(textOf(later.image()));
      }
      expect(sorted(met)).toEqual(sorted(expected));
    }),
    { numRuns: share(200, 60) },
  );
});

test('given lives in which the disk grows, when the power is cut in each, then the last recovery meets what brute force finds', async () => {
  await fc.assert(
    fc.asyncProperty(steps(3), async (workload) => {
      const met = new Set<string>();
      const { failure } = await crashTest({
        ...{ size: SECTOR, lives: 2, answers: 'at-once' },
        async workload(disk, journal, _, { number }) {
          await doAll(disk, workload, number);
          journal.acknowledge('all');
        },
        recover: (disk) => void met.add(textOf(allOf(disk))),
        check: () => true,
      });
      expect(failure).toBeUndefined();
      const first = new VolatileDisk({ size: SECTOR, answers: 'at-once' });
      await doAll(first, workload, 1);
      const expected = new Set<string>();
      for (const state of crashSpace(first.trace)) {
        expected.add(textOf(state.image()));
        const options = { size: state.size, initial: state.image(), answers: 'at-once' } as const;
        const second = new VolatileDisk(options);
        await doAll(second, workload, 2);
        for (const later of crashSpace(second.trace)) expected.add(textOf(later.image()));
      }
      expect(sorted(met)).toEqual(sorted(expected));
    }),
    { numRuns: share(150, 40) },
  );
});
