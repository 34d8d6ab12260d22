// The map of holes against a set of bytes: file-storage.F8 rests on it. The rules are at the head of src/node/hole-map.ts.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { HoleMap } from '../../src/node/hole-map.js';
import { share } from '../kit/amount.js';

const KIB = 1024;

describe('a map of holes', () => {
  test('hole-map.H1: given any trims and writes, then no byte that was written since its trim is a hole', () => {
    // In units of 4 KiB, so that chunks are met in all ways: whole, in part, several, and the end of the file.
    const place = fc.nat(100);
    const change = fc.record({
      does: fc.constantFrom('add', 'remove', 'remove', 'resize'),
      start: place,
      length: fc.integer({ min: 1, max: 60 }),
    });
    let holes = 0;
    fc.assert(
      fc.property(
        fc.array(change, { maxLength: 20 }),
        fc.integer({ min: 0, max: 101 }),
        (changes, first) => {
          const unit = 4 * KIB;
          let units = first;
          const map = new HoleMap(units * unit, 512);
          const isHole = new Array<boolean>(units).fill(false);
          for (const { does, start, length } of changes) {
            if (does === 'resize') {
              map.resize(start * unit);
              while (isHole.length < start) isHole.push(true);
              isHole.length = start;
              units = start;
              continue;
            }
            const adds = does === 'add';
            const end = Math.min(start + length, units);
            if (start >= end) continue;
            if (adds) map.add(start * unit, end * unit);
            else map.remove(start * unit, end * unit);
            isHole.fill(adds, start, end);
          }
          let at = 0;
          while (at < units * unit) {
            const extents = map.extents(at, units * unit - at);
            for (const { length, hole, zero } of extents) {
              expect([length % 512, zero]).toEqual([0, hole]);
              if (hole) {
                holes += 1;
                expect(
                  isHole.slice(Math.floor(at / unit), Math.ceil((at + length) / unit)),
                ).not.toContain(false);
              }
              at += length;
            }
          }
          expect(at).toBe(units * unit);
        },
      ),
      { numRuns: share(2000, 300) },
    );
    expect(holes).toBeGreaterThan(0);
  });

  test('given a file that grows by and by, then chunks join, and what was written is data', () => {
    const map = new HoleMap(64 * KIB, 512);
    const written = [0, 5 * 2 ** 20, 2 ** 36];
    map.remove(0, 512);
    for (let size = 2 ** 20; size <= 2 ** 40; size *= 2) {
      map.resize(size);
      for (const at of written) if (at + 512 <= size && at >= size / 2) map.remove(at, at + 512);
    }
    for (const at of written) expect(map.extents(at, 512)).toMatchObject([{ hole: false }]);
    const chunk = 2 ** 20;
    for (const at of written) expect(map.extents(at + chunk, 512)).toMatchObject([{ hole: true }]);
    expect(map.extents(2 ** 39, 2 ** 39)).toEqual([{ length: 2 ** 39, hole: true, zero: true }]);
  });

  test('says of a whole file that is new, and of the chunk that a write is in', () => {
    const map = new HoleMap(8 * 2 ** 30, 512);
    map.add(0, 8 * 2 ** 30);
    expect(map.extents(0, 8 * 2 ** 30)).toEqual([{ length: 8 * 2 ** 30, hole: true, zero: true }]);
    map.remove(1 << 20, (1 << 20) + 512);
    expect(
      map.extents((1 << 20) - 512, 128 * KIB).map(({ length, hole }) => [length, hole]),
    ).toEqual([
      [512, true],
      [64 * KIB, false],
      [128 * KIB - 512 - 64 * KIB, true],
    ]);
  });

  test('hole-map.H2: takes no more memory for a larger file, and has whole blocks of any size', () => {
    for (const [size, blockSize] of [
      [2 ** 53 - 2 ** 20, 1],
      [520 * 10_000_000, 520],
      [3 * 2 ** 20, 2 ** 20],
    ] as const) {
      const map = new HoleMap(size, blockSize);
      map.add(0, size);
      map.remove(0, blockSize);
      const [data, hole] = map.extents(0, size);
      expect(data?.hole).toBe(false);
      expect((data?.length ?? 1) % blockSize).toBe(0);
      expect(hole).toEqual({ length: size - (data?.length ?? 0), hole: true, zero: true });
      // A map of the same file that is written all over answers a bounded part.
      for (let at = 0; at < size && at < blockSize * 2 ** 22; at += (data?.length ?? 1) * 2) {
        map.remove(at, at + blockSize);
      }
      expect(map.extents(0, size).length).toBeLessThanOrEqual(4096);
    }
  });
});
