// The arithmetic of the indices: they never stop, and they may be anything.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  entriesBetween,
  entriesToTake,
  indexAfter,
  initialiseRing,
  mustNotify,
  ringView,
  slotOf,
  slotsIn,
} from '../../../src/systems/xen/ring.js';
import { share } from '../../kit/amount.js';
import { codeThrown } from '../../storage/contract.js';
import { LAYOUTS } from './support.js';

const LAST = 0xffff_ffff;
const indices = fc.oneof(fc.nat(LAST), fc.constantFrom(0, 1, LAST, LAST - 1, 0x7fff_ffff, 2 ** 31));

test('indices go from the last number of 32 bits to 0, and slots go on', () => {
  expect(indexAfter(LAST)).toBe(0);
  expect(indexAfter(LAST, 3)).toBe(2);
  expect(entriesBetween(LAST - 1, 2)).toBe(4);
  expect([LAST - 1, LAST, 0, 1].map((index) => slotOf(index, 32))).toEqual([30, 31, 0, 1]);
});

test('one page has room for 32 slots in both layouts, four pages for 128', () => {
  expect(LAYOUTS.map((layout) => slotsIn(4096, layout))).toEqual([32, 32]);
  expect(LAYOUTS.map((layout) => slotsIn(4 * 4096, layout))).toEqual([128, 128]);
  expect(slotsIn(64 + 111, 'x86-64')).toBe(0);
  expect(slotsIn(64 + 108, 'x86-32')).toBe(1);
});

test('given an honest producer anywhere in the numbers, then a consumer finds what it has not taken', () => {
  const rings = fc.record({
    oldest: indices,
    taken: fc.nat(32),
    waiting: fc.nat(32),
    slots: fc.constantFrom(1, 8, 32),
  });
  const honest = fc.property(rings, ({ oldest, taken, waiting, slots }) => {
    fc.pre(taken + waiting <= slots);
    const consumed = indexAfter(oldest, taken);
    const produced = indexAfter(consumed, waiting);
    expect(entriesToTake(consumed, produced, indexAfter(oldest, slots))).toBe(waiting);
  });
  fc.assert(honest, { numRuns: share(1000) });
});

test('given a producer that is more than the ring ahead, or behind what was taken, then the ring is broken', () => {
  const jumps = fc.oneof(fc.nat(64), fc.nat(LAST));
  const rings = fc.record({ oldest: indices, taken: fc.nat(32), jump: jumps });
  const broken = fc.property(rings, ({ oldest, taken, jump }) => {
    const consumed = indexAfter(oldest, taken);
    const produced = indexAfter(oldest, jump);
    const limit = indexAfter(oldest, 32);
    const sound = jump >= taken && jump <= 32;
    expect(entriesToTake(consumed, produced, limit)).toBe(sound ? jump - taken : 'broken');
  });
  fc.assert(broken, { numRuns: share(1000) });
  expect(entriesToTake(5, 37, 37)).toBe(32);
  expect(entriesToTake(5, 38, 37)).toBe('broken');
  expect(entriesToTake(5, 4, 37)).toBe('broken');
});

test('given where a producer came from and got to, then the other side is told exactly if its event lies between', () => {
  const moves = fc.record({
    old: indices,
    moved: fc.integer({ min: 1, max: 32 }),
    ahead: fc.nat(64),
  });
  const told = fc.property(moves, ({ old, moved, ahead }) => {
    const event = indexAfter(old, ahead);
    expect(mustNotify(old, indexAfter(old, moved), event)).toBe(ahead >= 1 && ahead <= moved);
  });
  fc.assert(told, { numRuns: share(1000) });
});

describe.each(LAYOUTS)('a ring of the layout %s', (layout) => {
  test('begins empty, and hears of the first of either kind', () => {
    const page = new Uint8Array(4096).fill(0xee);
    initialiseRing(page);
    const { reqProd, reqEvent, rspProd, rspEvent } = ringView(page, layout);
    expect({ reqProd, reqEvent, rspProd, rspEvent }).toEqual({
      reqProd: 0,
      reqEvent: 1,
      rspProd: 0,
      rspEvent: 1,
    });
  });

  test('has its indices in the first 16 bytes and its slots from byte 64 on', () => {
    const page = new Uint8Array(4096);
    const ring = ringView(page, layout);
    Object.assign(ring, { reqProd: 1, reqEvent: 0x01020304, rspProd: LAST, rspEvent: 4 });
    expect(Buffer.from(page.subarray(0, 16)).toString('hex')).toBe(
      '0100000004030201ffffffff04000000',
    );
    ring.slot(0).fill(0xaa);
    ring.slot(31).fill(0xbb);
    expect(page[63]).toBe(0);
    expect(page[64]).toBe(0xaa);
    expect(ring.slot(LAST)).toEqual(ring.slot(31));
    expect(page.indexOf(0xbb)).toBe(64 + 31 * ring.slot(0).length);
  });

  test('needs room for a slot', async () => {
    expect(await codeThrown(() => ringView(new Uint8Array(100), layout))).toBe('INVALID_ARGUMENT');
  });
});
