// Goal: the crash space of a kernel's trace has no image that a real disk cannot leave, and has those that hurt.
// Method: ext4 survives every power cut on a disk that honours flushes, and few on one that does not, and its own
// tools can tell. Each image has its journal recovered, is checked, and must have every file that the guest knew
// to be safe.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type CrashSpace, crashSpace, seededRandom } from 'write-barrier/testing';
import { CrashState } from '../../src/testing/space/crash-space.js';
import {
  Bench,
  BLOCK,
  type Cut,
  cutsOf,
  FILES,
  loadRecording,
  markedBefore,
  missingTools,
  type Verdict,
} from './ext4.js';

const SEED = 1;
/** ext4 asks for no more than that a block is written as a whole. */
const DISK = { cache: 'volatile', sectorSize: BLOCK } as const;

const { trace, final } = loadRecording();
/** After the last event. */
const end = Math.max(...trace.commands.map(({ completed }) => completed)) + 1;
const honest = crashSpace(trace, DISK);
const liar = crashSpace(trace, { ...DISK, lies: ['ignoreFlush'] });
const missing = await missingTools();

describe('given the trace of ext4', () => {
  test('the guest made one file after the other', () => {
    expect(trace.marks.map(({ value }) => value)).toEqual([...new Array(FILES).keys()]);
  });

  test('the first image is that before the trace, and that of all writes is the last one', () => {
    const newest = Int32Array.from(honest.map.cells, ({ versions }) => versions.length - 1);
    const all = new CrashState(honest.map, newest);
    expect(all).toMatchObject({ isPossible: true, before: Number.POSITIVE_INFINITY });
    expect(sameBytes(all.image(), final)).toBe(true);
    expect(trace.initial && sameBytes(honest.at(0n).image(), trace.initial)).toBe(true);
  });

  test('a cut is one that the space knows, and what is judged is its image', () => {
    for (const space of [honest, liar]) {
      using bench = new Bench(space);
      for (const { moment, state } of take(cuts(space), 100)) {
        expect(state.isPossible).toBe(true);
        expect(state.after).toBeLessThan(moment);
        expect(state.before).toBeGreaterThan(moment);
        expect(space.at(space.indexOf(state)).versions).toEqual(state.versions);
      }
      for (const { state } of take(cuts(space), 10)) {
        expect(sameBytes(readFileSync(bench.lay(state)), state.image())).toBe(true);
      }
    }
  });
});

describe.skipIf(missing.length > 0)(
  "the judgement of ext4's tools (skipped unless e2fsck and debugfs, of e2fsprogs, are there)",
  () => {
    test('given a disk that honours flushes, no power cut does any harm', async () => {
      const judged = await judgeAll(honest, 600, ({ state }) => state.before);
      expect(judged.filter(({ verdict }) => verdict.kind !== 'sound').map(text)).toEqual([]);
    });

    // Once the disk lies, the host never knows that something is lost: `before` is no help.
    test('given a disk that ignores flushes, much is damaged and much is lost', async () => {
      const judged = await judgeAll(liar, 100, ({ moment }) => moment);
      const count = (kind: Verdict['kind']): number =>
        judged.filter(({ verdict }) => verdict.kind === kind).length;
      expect(count('damaged') + count('lost')).toBeGreaterThanOrEqual(30);
      expect(count('damaged')).toBeGreaterThan(0);
      expect(count('lost')).toBeGreaterThan(0);
    });
  },
);

interface Judged {
  readonly space: CrashSpace;
  readonly cut: Cut;
  readonly verdict: Verdict;
}

/** Two at a time. `knownUntil`: what was marked before that has to be there. */
async function judgeAll(
  space: CrashSpace,
  count: number,
  knownUntil: (cut: Cut) => number,
): Promise<readonly Judged[]> {
  const queue = take(cuts(space), count);
  const judged: Judged[] = [];
  const work = async (): Promise<void> => {
    using bench = new Bench(space);
    for (const cut of queue) {
      const verdict = await bench.judge(cut.state, markedBefore(trace, knownUntil(cut)));
      judged.push({ space, cut, verdict });
    }
  };
  await Promise.all([work(), work()]);
  expect(judged.length).toBe(count);
  return judged;
}

function cuts(space: CrashSpace): Generator<Cut, never> {
  return cutsOf(space, end, seededRandom(SEED));
}

function* take<T>(values: Iterator<T>, count: number): Generator<T, void> {
  for (let i = 0; i < count; i++) yield values.next().value;
}

/** `space.at(...)` of the number makes the same image again. */
function text({ space, cut: { moment, state }, verdict }: Judged): string {
  const where = `seed ${SEED}, state ${space.indexOf(state)}, cut at ${moment}`;
  return verdict.kind === 'sound' ? where : `${where}: ${verdict.kind}: ${verdict.why}`;
}

function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
