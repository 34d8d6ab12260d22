// The crash space against everything else that knows what a power cut may leave.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DiskCommand,
  DiskRecorder,
  type DiskTrace,
} from '../../src/testing/device/disk-trace.js';
import { type DeviceProfile, deviceProfile } from '../../src/testing/device/profile.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { share } from '../kit/amount.js';
import {
  byAxioms,
  byMoment,
  hosts,
  operational,
  playedBy,
  profiles,
  SECTOR,
  textOf,
} from './traces.js';

const sorted = (texts: Iterable<string>): string[] => [...texts].sort();

describe('given any small trace on any device', () => {
  test('the images of each moment are those of the axioms, word for word', () => {
    fc.assert(
      fc.property(hosts(4), profiles, (host, profile) => {
        const { trace, events } = playedBy(host, profile);
        const found = byMoment(crashSpace(trace, profile), events.length);
        expect(sorted(found)).toEqual(sorted(byAxioms(trace, profile)));
      }),
      { numRuns: share(2000, 1000) },
    );
  });

  test('the images of each moment are those that the device leaves, step by step', () => {
    fc.assert(
      fc.property(hosts(4), profiles, (host, profile) => {
        const played = playedBy(host, profile);
        const found = byMoment(crashSpace(played.trace, profile), played.events.length);
        expect(sorted(found)).toEqual(sorted(operational(played, profile)));
      }),
      { numRuns: share(1000, 400) },
    );
  });

  test('and so they are where sectors tear, or where two writes to one place land in any order', () => {
    const worse = fc
      .record({
        profile: profiles,
        tear: fc.constantFrom('shorn' as const, 'sector' as const),
        sameLba: fc.constantFrom('racy' as const, 'fifo' as const),
      })
      .map(({ profile, ...fields }) => deviceProfile({ ...profile, ...fields }));
    fc.assert(
      fc.property(hosts(3), worse, (host, profile) => {
        const played = playedBy(host, profile);
        const found = byMoment(crashSpace(played.trace, profile), played.events.length);
        const left = operational(played, profile);
        // Two racing units that break each other may leave less than the space has, and never more.
        const mayHaveMore = profile.sameLba === 'racy' && profile.atomicWriteUnit > SECTOR;
        if (mayHaveMore) for (const image of found) if (!left.has(image)) found.delete(image);
        expect(sorted(found)).toEqual(sorted(left));
      }),
      { numRuns: share(1000, 200) },
    );
  });

  test('the count is exact, every number is one image, and iteration meets each of them once, in that order', () => {
    fc.assert(
      fc.property(hosts(7), profiles, (host, profile) => {
        const { trace } = playedBy(host, profile);
        const space = crashSpace(trace, profile);
        const numbered = Array.from({ length: Number(space.count) }, (_, k) => space.at(BigInt(k)));
        const vectors = numbered.map(({ versions }) => versions.join(' '));
        expect(new Set(vectors).size).toBe(vectors.length);
        expect([...space].map(({ versions }) => versions.join(' '))).toEqual(vectors);
        for (const [k, state] of numbered.entries()) {
          expect(state.after).toBeLessThan(state.before);
          expect(space.indexOf(state)).toBe(BigInt(k));
        }
      }),
      { numRuns: share(500, 100) },
    );
  });

  test('a recovery that reads everything, in any order, meets each image once', () => {
    const orders = fc.shuffledSubarray([0, 1, 2], { minLength: 3 });
    fc.assert(
      fc.property(hosts(6), profiles, orders, (host, profile, order) => {
        const space = crashSpace(playedBy(host, profile).trace, profile);
        const images: string[] = [];
        for (const { disk, ...crash } of space.explore()) {
          const bytes = new Uint8Array(3 * SECTOR);
          for (const sector of order) {
            disk.read(sector * SECTOR, bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR));
          }
          expect(crash).toBeDefined();
          images.push(textOf(bytes));
        }
        expect(sorted(images)).toEqual(sorted([...space].map((state) => textOf(state.image()))));
      }),
      { numRuns: share(500, 100) },
    );
  });

  test('a recovery that reads only some of it covers all images, each counted once', () => {
    const orders = fc.shuffledSubarray([0, 1, 2], { minLength: 0, maxLength: 2 });
    fc.assert(
      fc.property(hosts(6), profiles, orders, (host, profile, order) => {
        const space = crashSpace(playedBy(host, profile).trace, profile);
        let covered = 0n;
        for (const crash of space.explore()) {
          const bytes = new Uint8Array(SECTOR);
          for (const sector of order) crash.disk.read(sector * SECTOR, bytes);
          covered += crash.images;
        }
        expect(covered).toBe(space.count);
      }),
      { numRuns: share(500, 100) },
    );
  });
});

test('given a fair source, when images are drawn, then each comes about as often as any other', () => {
  const trace = twoEpochs();
  const space = crashSpace(trace, { sectorSize: SECTOR });
  const draws = new Map<string, number>();
  let state = 1;
  const random = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
  const each = 2000;
  for (let i = 0; i < each * Number(space.count); i++) {
    const key = space.sample(random).versions.join(' ');
    draws.set(key, (draws.get(key) ?? 0) + 1);
  }
  expect(draws.size).toBe(Number(space.count));
  for (const count of draws.values()) {
    expect(count).toBeGreaterThan(0.85 * each);
    expect(count).toBeLessThan(1.15 * each);
  }
});

test('case 68: given a write larger than the atomic unit, when the power fails, then any mix of old and new sectors is left', () => {
  const leftOf = (offset: number, sectors: number): string[] => {
    const recorder = new DiskRecorder(4 * SECTOR);
    const data = new Uint8Array(sectors * SECTOR).fill(1);
    const what = { op: 'write', offset, length: data.length, tag: 'simple', fua: false } as const;
    recorder.dispatch(what, data);
    const space = crashSpace(recorder.trace, { sectorSize: SECTOR, atomicWriteUnit: 2 * SECTOR });
    return sorted(
      [...space].map((state) => [0, 1, 2, 3].map((i) => state.image()[i * SECTOR]).join('')),
    );
  };
  expect(leftOf(0, 2)).toEqual(['0000', '1100']);
  expect(leftOf(SECTOR, 2)).toEqual(['0000', '0010', '0100', '0110']);
  expect(leftOf(0, 4)).toHaveLength(16);
});

describe('given an atomic unit of several sectors', () => {
  type Asked = readonly [op: DiskCommand['op'], first: number, sectors: number, fua?: boolean];
  const FLUSH: Asked = ['flush', 0, 0];

  /** A digit for each sector: the number of the command that is seen there, from 1; every command is answered at once. */
  const imagesOf = (asked: readonly Asked[], unit: number, sectors: number): string[] => {
    const recorder = new DiskRecorder(sectors * SECTOR, new Uint8Array(sectors * SECTOR).fill(9));
    for (const [i, [op, first, count, fua = false]] of asked.entries()) {
      const what = {
        op,
        offset: first * SECTOR,
        length: count * SECTOR,
        tag: 'simple',
        fua,
      } as const;
      const data = op === 'write' ? new Uint8Array(what.length).fill(i + 1) : undefined;
      recorder.complete(recorder.dispatch(what, data));
    }
    const atomicWriteUnit = unit * SECTOR;
    const profile = { sectorSize: SECTOR, atomicWriteUnit, discard: 'zero' } as const;
    const all = [...crashSpace(recorder.trace, profile)].map((state) =>
      Array.from({ length: sectors }, (_, i) => state.image()[i * SECTOR]).join(''),
    );
    expect(new Set(all).size).toBe(all.length);
    return sorted(all);
  };

  test('when a smaller write replaces a part of it in the cache, then it takes nothing along, and what is left goes by itself', () => {
    expect(
      imagesOf(
        [
          ['write', 0, 2],
          ['write', 1, 1],
        ],
        2,
        2,
      ),
    ).toEqual(['11', '12', '19', '92', '99']);
    expect(
      imagesOf(
        [
          ['write', 0, 2],
          ['write', 0, 1],
        ],
        2,
        2,
      ),
    ).toEqual(['11', '21', '29', '91', '99']);
    expect(
      imagesOf(
        [
          ['write', 0, 3],
          ['write', 1, 1],
        ],
        4,
        3,
      ),
    ).toEqual(
      ['111', '119', '121', '129', '191', '199', '911', '919', '921', '929', '991', '999'].filter(
        // The middle was replaced: it is seen with both of its neighbours, or not at all.
        (image) => image === '111' || image[1] !== '1',
      ),
    );
  });

  test('when a part of it is zeroed or discarded, then that is no other', () => {
    for (const op of ['writeZeroes', 'discard'] as const) {
      expect(
        imagesOf(
          [
            ['write', 0, 2],
            [op, 1, 1],
          ],
          2,
          2,
        ),
      ).toEqual(['10', '11', '19', '90', '99']);
    }
  });

  test('when the smaller write is forced, then it is there with or without the rest', () => {
    // What is answered is there; before, either all of the older one is there or none of it.
    expect(
      imagesOf(
        [
          ['write', 0, 2],
          ['write', 1, 1, true],
        ],
        2,
        2,
      ),
    ).toEqual(['11', '12', '92', '99']);
  });

  test('when nothing replaces a part of it, or a flush has been there first, then it is whole', () => {
    expect(
      imagesOf(
        [
          ['write', 0, 2],
          ['write', 0, 2],
        ],
        2,
        2,
      ),
    ).toEqual(['11', '22', '99']);
    expect(imagesOf([['write', 0, 2], FLUSH, ['write', 1, 1]], 2, 2)).toEqual(['11', '13', '99']);
    expect(
      imagesOf(
        [
          ['write', 0, 2, true],
          ['write', 1, 1],
        ],
        2,
        2,
      ),
    ).toEqual(['11', '12', '99']);
  });

  test('when zeroes or a discard are as large as it, then they are sectors all the same: nothing promises more', () => {
    for (const op of ['writeZeroes', 'discard'] as const) {
      expect(imagesOf([[op, 0, 2]], 2, 2)).toEqual(['00', '09', '90', '99']);
    }
  });

  test('when it is written over as a whole again and again, then there is a version for each, however many sectors it has', () => {
    const times = 50;
    const recorder = new DiskRecorder(64 * SECTOR);
    const what = {
      op: 'write',
      offset: 0,
      length: 64 * SECTOR,
      tag: 'simple',
      fua: false,
    } as const;
    for (let i = 0; i < times; i++) {
      recorder.complete(recorder.dispatch(what, new Uint8Array(64 * SECTOR).fill(i + 1)));
    }
    const space = crashSpace(recorder.trace, { sectorSize: SECTOR, atomicWriteUnit: 64 * SECTOR });
    expect(space.count).toBe(BigInt(times + 1));
  });

  test('when it has too many parts to look at each, then that is refused and says what helps', () => {
    const asked: readonly Asked[] = [
      ['write', 0, 64],
      ['write', 1, 1],
    ];
    expect(() => imagesOf(asked, 64, 64)).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('a larger sectorSize'),
      }),
    );
  });

  test('when a disk has it, then its power cuts leave each of these images, and no other', async () => {
    const found = new Set<string>();
    for (let seed = 0; seed < 300; seed++) {
      const disk = new VolatileDisk({
        ...{ size: 2 * SECTOR, seed, initial: new Uint8Array(2 * SECTOR).fill(9) },
        profile: { sectorSize: SECTOR, atomicWriteUnit: 2 * SECTOR },
      });
      const flags = { fua: false, tag: 'simple' } as const;
      await disk.write(0, new Uint8Array(2 * SECTOR).fill(1), flags);
      await disk.write(SECTOR, new Uint8Array(SECTOR).fill(2), flags);
      for (let read = 0; read < seed % 4; read++) await disk.read(0, new Uint8Array(SECTOR));
      const medium = disk.powerCut();
      found.add(`${medium[0]}${medium[SECTOR]}`);
    }
    expect(sorted(found)).toEqual(['11', '12', '19', '92', '99']);
  });
});

test('given times that go backwards, when images are asked for, then that is misuse', () => {
  const what = { op: 'discard', offset: 0, length: SECTOR, tag: 'simple', fua: false } as const;
  const at = (dispatched: number, completed: number) => {
    return { ...what, dispatched, completed, failed: false };
  };
  for (const commands of [[at(1, 0)], [at(0, 0)], [at(2, 3), at(1, 4)], [at(Number.NaN, 1)]]) {
    const trace = { size: SECTOR, commands, marks: [] };
    expect(() => crashSpace(trace, { sectorSize: SECTOR })).toThrow(/command \d is dispatched/);
  }
});

describe('given Buffers of Node, whose slices share their memory', () => {
  const initial = Buffer.alloc(3 * SECTOR, 9);
  const payload = Buffer.alloc(SECTOR, 1);

  test('when images are made, recovered and torn, then neither the trace nor the caller is changed', () => {
    const recorder = new DiskRecorder(3 * SECTOR, initial);
    const what = { op: 'write', offset: 0, length: SECTOR, tag: 'simple', fua: false } as const;
    recorder.complete(recorder.dispatch(what, payload));
    payload.fill(2);
    const { trace } = recorder;
    const kept = { ...trace, initial };
    for (const tear of ['sector', 'shorn', 'garbage'] as const) {
      const space = crashSpace(kept, { tear, sectorSize: SECTOR });
      for (const state of space) state.image().fill(7);
      for (const { disk } of space.explore()) {
        disk.write(SECTOR, Buffer.alloc(SECTOR, 5), { fua: false, tag: 'simple' });
      }
      expect(space.at(0n).image()).toEqual(new Uint8Array(3 * SECTOR).fill(9));
      expect(space.at(space.count - 1n).image()[0]).toBe(1);
    }
    expect(initial.every((byte) => byte === 9)).toBe(true);
    payload.fill(1);
  });

  test('when a simulated disk is given them, then it keeps copies', () => {
    const disk = new VolatileDisk({ size: 3 * SECTOR, initial, answers: 'at-once' });
    disk.write(0, payload, { fua: true, tag: 'simple' });
    payload.fill(3);
    initial.fill(4);
    expect([0, 1].map((i) => disk.powerCut()[i * SECTOR])).toEqual([1, 9]);
    payload.fill(1);
    initial.fill(9);
  });
});

/** Two sectors, a flush, and the same two again. */
function twoEpochs(): DiskTrace {
  const write = (offset: number, fill: number, dispatched: number, completed: number) => ({
    op: 'write' as const,
    offset,
    length: SECTOR,
    tag: 'simple' as const,
    fua: false,
    data: new Uint8Array(SECTOR).fill(fill),
    dispatched,
    completed,
    failed: false,
  });
  const flush = { op: 'flush' as const, offset: 0, length: 0, tag: 'simple' as const, fua: false };
  return {
    size: 3 * SECTOR,
    commands: [
      write(0, 1, 0, 2),
      write(SECTOR, 2, 1, 3),
      { ...flush, dispatched: 4, completed: 5, failed: false },
      write(0, 3, 6, 8),
      write(SECTOR, 4, 7, 9),
    ],
    marks: [],
  };
}

describe('given a write across atomic units over one within a unit', () => {
  const recorder = new DiskRecorder(4 * SECTOR);
  for (const [sectors, byte] of [
    [2, 1],
    [4, 2],
  ] as const) {
    const length = sectors * SECTOR;
    const write = { op: 'write', offset: 0, length, tag: 'simple', fua: false } as const;
    recorder.complete(recorder.dispatch(write, new Uint8Array(length).fill(byte)));
  }
  const space = crashSpace(recorder.trace, { cache: 'none', atomicWriteUnit: 2 * SECTOR });

  test('when everything is there in order, then all of it is', () => {
    for (const time of space.moments) expect(space.inOrder(time).isPossible).toBe(true);
    expect([...new Set(space.inOrder(Number.POSITIVE_INFINITY).image())]).toEqual([2]);
  });

  test('when power cuts are drawn, then each of them is possible', () => {
    for (const { time, state } of space.cuts(1)) {
      expect(state.isPossible).toBe(true);
      expect(state.after).toBeLessThan(time);
    }
  });
});

describe('given writes whose order of landing is open', () => {
  type Event =
    | readonly [op: 'write' | 'discard', first: number, sectors: number, fua?: boolean]
    | readonly [answerTo: number, failed?: 'failed'];

  /** What may be left once all of it has happened: the numbers of the commands that are seen, from 1. */
  const leftAfter = (events: readonly Event[], profile: Partial<DeviceProfile>): Set<string> => {
    const recorder = new DiskRecorder(2 * SECTOR, new Uint8Array(2 * SECTOR).fill(9));
    let number = 0;
    for (const event of events) {
      if (typeof event[0] === 'number') {
        recorder.complete(event[0], event[1] === 'failed');
        continue;
      }
      const [op, first, sectors, fua = false] = event;
      const [offset, length] = [first * SECTOR, sectors * SECTOR];
      const data = op === 'write' ? new Uint8Array(length).fill(++number) : undefined;
      recorder.dispatch({ op, offset, length, tag: 'simple', fua }, data);
    }
    const end = events.length - 1;
    const possible = [...crashSpace(recorder.trace, { sectorSize: SECTOR, ...profile })].filter(
      ({ after, before }) => after <= end && end < before,
    );
    return new Set(possible.map((state) => textOf(state.image())));
  };
  const seen = (...bytes: number[]): string =>
    textOf(Uint8Array.from({ length: 2 * SECTOR }, (_, i) => bytes[i < SECTOR ? 0 : 1] as number));
  const racy = { sameLba: 'racy', atomicWriteUnit: 2 * SECTOR } as const;

  test('when a unit may have landed above a newer write, then a third one breaks it also where it lies above', () => {
    // The first write lands last of the two, and the third one replaces its second sector in the cache.
    const left = leftAfter([['write', 0, 2], ['write', 0, 1], [0], [1], ['write', 1, 1]], racy);
    expect(left).toContain(seen(1, 9));
    expect(left).toContain(seen(2, 1));
  });

  test('when a write races with the third one, then it may lie above it, whatever the second one is', () => {
    const second: Event = ['write', 0, 1, true];
    const third: Event = ['write', 0, 2, true];
    expect(leftAfter([['write', 1, 1], second, [1], third, [2]], racy)).toEqual(
      new Set([seen(3, 1), seen(3, 3)]),
    );
  });

  test('when a unit is there in part, then a failed write below it may be missing all the same', () => {
    const events: Event[] = [
      ['write', 0, 2, true],
      [0, 'failed'],
      ['write', 0, 2],
      [1],
      ['write', 1, 1],
    ];
    const left = leftAfter(events, { atomicWriteUnit: 2 * SECTOR });
    // The failed one was forced, so it is there as a whole or not at all.
    const below = [seen(9, 9), seen(1, 1), seen(9, 3), seen(1, 3)];
    expect(left).toEqual(new Set([...below, seen(2, 2), seen(2, 3), seen(2, 9), seen(2, 1)]));
  });

  test('when a discard that the device may ignore was answered, then the write below it may still be torn', () => {
    const half = Uint8Array.from({ length: 2 * SECTOR }, (_, i) => (i < SECTOR / 2 ? 1 : 9));
    const tears = (discard: DeviceProfile['discard']): boolean =>
      leftAfter([['write', 0, 1], [0], ['discard', 0, 1], [1]], { discard, tear: 'shorn' }).has(
        textOf(half),
      );
    expect(tears('old-or-zero')).toBe(true);
    expect(tears('arbitrary')).toBe(true);
    expect(tears('zero')).toBe(false);
  });
});
