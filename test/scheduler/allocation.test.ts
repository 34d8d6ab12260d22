// A guard against regressions of the path of a request that noise cannot trip: the bytes that a request allocates, which are the
// same on any machine, with a wide margin. Times are compared by `npm run bench -- speed`, and no test asserts one.

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

/** Bytes that one operation allocates: the median of rounds, because garbage may be collected in one of them. */
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
  test('by a plain write of a scheduler are at most 2,000, its promises and those of the storage included', async () => {
    const disk = new IoScheduler(NOTHING);
    const bytes = await allocated(() => writes((i) => disk.write((i % 1024) * BLOCK, DATA)));
    expect(bytes).toBeGreaterThan(200);
    expect(bytes).toBeLessThan(2_000);
  });

  test('by a write where each eighth is a barrier are at most 2,500', async () => {
    const disk = new IoScheduler(NOTHING);
    const bytes = await allocated(() =>
      writes((i) => disk.write((i % 1024) * BLOCK, DATA, { barrier: i % 8 === 7 })),
    );
    expect(bytes).toBeLessThan(2_500);
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
