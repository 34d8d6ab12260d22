// A guard against regressions of the path of a request that noise cannot trip: the bytes that a request allocates. The compiler
// takes some of them away, and when it does is a matter of the machine's speed; so each limit is for code that is never compiled
// (1,920, 2,130 and 300 bytes when it was set; compiled, 1,400, 1,600 and 240), and a third above it. Times are compared by
// `npm run bench -- speed`, and no test asserts one.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type Request, type Storage, transformer } from 'write-barrier';
import { BLOCK } from './world.js';

const COUNT = 5_000;
const DATA = new Uint8Array(BLOCK);

/** Answers everything, later, and keeps nothing. */
const NOTHING: Storage = {
  size: 1024 * BLOCK,
  capabilities: { blockSize: BLOCK, cache: 'volatile', flush: true, fua: true, orderedTags: false },
  read: async () => {},
  write: async () => {},
  flush: async () => {},
  close: async () => {},
};

/**
 * Bytes that one operation allocates: the median of rounds, because garbage may be collected in one of them. The young generation
 * of these tests is larger than a round from the beginning (`vitest.config.ts`), or each round would be collected.
 */
async function allocated(round: () => unknown): Promise<number> {
  const all: number[] = [];
  for (let n = 0; n < 9; n++) {
    globalThis.gc?.();
    const before = process.memoryUsage().heapUsed;
    await round();
    all.push((process.memoryUsage().heapUsed - before) / COUNT);
  }
  return all.sort((a, b) => a - b)[4] as number;
}

/** 32 writes at once. */
async function writes(write: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < COUNT) await write(next++);
  };
  await Promise.all(Array.from({ length: 32 }, worker));
}

function* plain(): Generator<Request> {
  for (let i = 0; i < COUNT; i++) yield { kind: 'write', offset: i * BLOCK, length: BLOCK };
}

describe('bytes allocated', () => {
  test('by a plain write of a scheduler are at most 2,600, its promises and those of the storage included', async () => {
    const disk = new IoScheduler(NOTHING);
    const bytes = await allocated(() => writes((i) => disk.write((i % 1024) * BLOCK, DATA)));
    expect(bytes).toBeGreaterThan(1_000);
    expect(bytes).toBeLessThan(2_600);
  });

  test('by a write where each eighth is a barrier are at most 2,900', async () => {
    const disk = new IoScheduler(NOTHING);
    const bytes = await allocated(() =>
      writes((i) => disk.write((i % 1024) * BLOCK, DATA, { barrier: i % 8 === 7 })),
    );
    expect(bytes).toBeLessThan(2_900);
  });

  test('by a step of a plain request are at most 400, the request included', async () => {
    const bytes = await allocated(() => {
      let steps = 0;
      for (const _ of transformer('DRAIN_FLUSH')(plain())) steps += 1;
      expect(steps).toBe(COUNT);
    });
    expect(bytes).toBeLessThan(400);
  });
});
