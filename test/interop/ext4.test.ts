// Goal: the crash space of a kernel's trace has no image that a real disk cannot leave, and has those that hurt.
// Method: ext4 survives every power cut on a disk that honours flushes, and few on one that does not, and its own
// tools can tell. Each image has its journal recovered, is checked, and must have every file that the guest knew
// to be safe.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { crashSpace } from 'write-barrier/testing/lab';
import { Bench, BLOCK, type Cut, FILES, judgeCuts, loadRecording } from './ext4.js';
import { missingTools, type Verdict } from './ext4-judge.js';

const SEED = 1;
/** ext4 asks for no more than that a block is written as a whole. */
const DISK = { cache: 'volatile', sectorSize: BLOCK } as const;

const { trace, final } = loadRecording();
const honest = crashSpace(trace, DISK);
const liar = crashSpace(trace, { ...DISK, lies: ['ignoreFlush'] });
const missing = await missingTools();

describe('given the trace of ext4', () => {
  test('the guest made one file after the other', () => {
    expect(trace.marks.map(({ value }) => value)).toEqual([...new Array(FILES).keys()]);
  });

  test('the first image is that before the trace, and that of all writes is the last one', () => {
    const all = honest.inOrder(Number.POSITIVE_INFINITY);
    expect(all).toMatchObject({ isPossible: true, before: Number.POSITIVE_INFINITY });
    expect(sameBytes(all.image(), final)).toBe(true);
    expect(trace.initial && sameBytes(honest.at(0n).image(), trace.initial)).toBe(true);
  });

  test('a cut is one that the space knows, and what is judged is its image', () => {
    for (const space of [honest, liar]) {
      using bench = new Bench(space, FILES);
      for (const { time, state } of take(space.cuts(SEED), 100)) {
        expect(state.isPossible).toBe(true);
        expect(state.after).toBeLessThan(time);
        expect(state.before).toBeGreaterThan(time);
        expect(space.at(space.indexOf(state)).versions).toEqual(state.versions);
      }
      for (const { state } of take(space.cuts(SEED), 10)) {
        expect(sameBytes(readFileSync(bench.lay(state)), state.image())).toBe(true);
      }
    }
  });
});

describe.skipIf(missing.length > 0)(
  "the judgement of ext4's tools (skipped unless e2fsck and debugfs, of e2fsprogs, are there)",
  () => {
    test('given a disk that honours flushes, no power cut does any harm', async () => {
      const judged = await judgeCuts({
        ...{ trace, space: honest, seed: SEED, count: 600, files: FILES },
        knownUntil: ({ state }) => state.before,
      });
      expect(judged.length).toBe(600);
      const harmed = judged.filter(({ verdict }) => verdict.kind !== 'sound');
      expect(harmed.map(({ text }) => text)).toEqual([]);
    });

    // Once the disk lies, the host never knows that something is lost: `before` is no help.
    test('given a disk that ignores flushes, much is damaged and much is lost', async () => {
      const judged = await judgeCuts({
        ...{ trace, space: liar, seed: SEED, count: 100, files: FILES },
        knownUntil: ({ time }) => time,
      });
      const count = (kind: Verdict['kind']): number =>
        judged.filter(({ verdict }) => verdict.kind === kind).length;
      expect(count('damaged') + count('lost')).toBeGreaterThanOrEqual(30);
      expect(count('damaged')).toBeGreaterThan(0);
      expect(count('lost')).toBeGreaterThan(0);
    });
  },
);

function* take(cuts: Iterator<Cut, void>, count: number): Generator<Cut, void> {
  for (let i = 0; i < count; i++) yield cuts.next().value as Cut;
}

function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
