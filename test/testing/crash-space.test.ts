// The crash space against everything else that knows what a power cut may leave.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DiskRecorder, type DiskTrace } from '../../src/testing/device/disk-trace.js';
import { deviceProfile } from '../../src/testing/device/profile.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
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
      { numRuns: 2000 },
    );
  });

  test('the images of each moment are those that the device leaves, step by step', () => {
    fc.assert(
      fc.property(hosts(4), profiles, (host, profile) => {
        const played = playedBy(host, profile);
        const found = byMoment(crashSpace(played.trace, profile), played.events.length);
        expect(sorted(found)).toEqual(sorted(operational(played, profile)));
      }),
      { numRuns: 1000 },
    );
  });

  test('and so they are where sectors tear, or where two writes to one place land in any order', () => {
    const worse = fc
      .record({
        profile: profiles,
        tear: fc.constantFrom('shorn' as const, 'sector' as const),
        sameLba: fc.constantFrom('racy' as const, 'fifo' as const),
      })
      .map(({ profile, ...fields }) =>
        deviceProfile({ ...profile, ...fields, atomicWriteUnit: SECTOR }),
      );
    fc.assert(
      fc.property(hosts(3), worse, (host, profile) => {
        const played = playedBy(host, profile);
        const found = byMoment(crashSpace(played.trace, profile), played.events.length);
        expect(sorted(found)).toEqual(sorted(operational(played, profile)));
      }),
      { numRuns: 1000 },
    );
  });

  test('the count is exact, every number is one image, and the cursor meets each of them once', () => {
    fc.assert(
      fc.property(hosts(7), profiles, (host, profile) => {
        const { trace } = playedBy(host, profile);
        const space = crashSpace(trace, profile);
        const numbered = Array.from({ length: Number(space.count) }, (_, k) => space.at(BigInt(k)));
        const vectors = numbered.map(({ versions }) => versions.join(' '));
        expect(new Set(vectors).size).toBe(vectors.length);
        expect(sorted([...space].map(({ versions }) => versions.join(' ')))).toEqual(
          sorted(vectors),
        );
        for (const [k, state] of numbered.entries()) {
          expect(state.after).toBeLessThan(state.before);
          expect(space.indexOf(state)).toBe(BigInt(k));
        }
      }),
      { numRuns: 500 },
    );
  });

  test('the cursor keeps bytes and hash in step with the versions', () => {
    fc.assert(
      fc.property(hosts(6), profiles, (host, profile) => {
        const space = crashSpace(playedBy(host, profile).trace, profile);
        const hashes = new Map<string, number>();
        const cursor = space.cursor({ bytes: true });
        do {
          const image = cursor.state.image();
          expect(cursor.bytes).toEqual(image);
          const text = textOf(image);
          expect(hashes.get(text) ?? cursor.hash).toBe(cursor.hash);
          hashes.set(text, cursor.hash);
        } while (cursor.next());
        expect(new Set(hashes.values()).size).toBe(hashes.size);
      }),
      { numRuns: 100 },
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
      { numRuns: 500 },
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
      { numRuns: 500 },
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
      const cursor = space.cursor({ bytes: true });
      while (cursor.next());
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
