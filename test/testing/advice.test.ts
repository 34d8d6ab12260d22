// The advice of a failed crash test: with the barrier that it names, no power cut leaves the same bytes where they fail.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Storage } from 'write-barrier';
import type { CrashTest } from 'write-barrier/testing';
import { gapsOf, withBarriers } from '../../src/testing/crash-test/barriers.js';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import { DISK_STATES, judgeState } from '../../src/testing/crash-test/lives.js';
import { parseReplay, stateOf } from '../../src/testing/crash-test/replay.js';
import { trialOf } from '../../src/testing/crash-test/trial.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import type { CrashState } from '../../src/testing/space/crash-state.js';

const SECTOR = 512;
const SECTORS = 2;

/** Writes that race with each other, a flush, or an acknowledgement of all that is before. */
type Step = { writes: { at: number; value: number }[] } | 'flush' | 'acknowledge';

const write = fc.record({
  at: fc.integer({ min: 0, max: SECTORS - 1 }),
  // Few values, so that different writes leave the same bytes.
  value: fc.integer({ min: 0, max: 2 }),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: fc.record({ writes: fc.array(write, { minLength: 1, maxLength: 2 }) }), weight: 4 },
  { arbitrary: fc.constant<Step>('flush'), weight: 1 },
  { arbitrary: fc.constant<Step>('acknowledge'), weight: 2 },
);

const bytes = (value: number): Uint8Array => new Uint8Array(SECTOR).fill(value);

/** What a sector may hold once the writes before step `acknowledged` are. */
function allowed(program: readonly Step[], at: number, acknowledged: number): number[] {
  const rounds = program.map((one, n) => ({
    n,
    values:
      typeof one === 'string' ? [] : one.writes.filter((w) => w.at === at).map((w) => w.value),
  }));
  const last = rounds.filter(({ n, values }) => n < acknowledged && values.length > 0).at(-1);
  return rounds.filter(({ n }) => n >= (last?.n ?? -1)).flatMap(({ values }) => values);
}

const testOf = (program: readonly Step[], profile: object): CrashTest<number, Uint8Array> => ({
  size: SECTORS * SECTOR,
  profile: { sectorSize: SECTOR, ...profile },
  workload: async (disk, journal) => {
    for (const [n, one] of program.entries()) {
      if (one === 'flush') await disk.flush();
      else if (one === 'acknowledge') journal.acknowledge(n);
      else
        await Promise.all(
          one.writes.map(({ at, value }) => disk.write(at * SECTOR, bytes(value), NO_FLAGS)),
        );
    }
  },
  recover: async (disk: Storage) => {
    const found = new Uint8Array(SECTORS * SECTOR);
    await disk.read(0, found);
    return found;
  },
  check: (found, { acknowledged }) => {
    const until = acknowledged.at(-1) ?? 0;
    for (let at = 0; at < SECTORS; at += 1) {
      const may = allowed(program, at, until);
      const isWritten = until > 0 && program.slice(0, until).some((one) => holds(one, at));
      const sector = found.subarray(at * SECTOR, (at + 1) * SECTOR);
      if (isWritten && !may.some((value) => sector.every((byte) => byte === value))) return false;
    }
    return true;
  },
});

const NO_FLAGS = { fua: false, tag: 'simple' } as const;

const holds = (one: Step, at: number): boolean =>
  typeof one !== 'string' && one.writes.some((w) => w.at === at);

const DEVICES = {
  'that lands writes in any order': { sameLba: 'racy' },
  'that tears sectors': { tear: 'shorn' },
  'with units of two sectors that race': { sameLba: 'racy', atomicWriteUnit: 2 * SECTOR },
  'that keeps them in order': {},
} as const;

test('two racing writes without a flush: the advice is no flush with which the older one may still be left', async () => {
  const racing: Step[] = [
    {
      writes: [
        { at: 0, value: 1 },
        { at: 0, value: 2 },
      ],
    },
    'acknowledge',
  ];
  const subject = testOf(racing, { sameLba: 'racy' });
  const found = await crashTest({
    ...subject,
    check: (image, { acknowledged }) => acknowledged.length === 0 || image[0] === 2,
  });
  expect(found.verdict).toBe('failed');
  expect(found.failure?.advice?.missing).not.toBe('a flush after #1');
});

test.each(Object.entries(DEVICES))(
  'on a device %s, with the barrier of the advice no power cut leaves the same bytes where they fail',
  async (_, profile) => {
    let advised = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 6 }), async (program) => {
        const subject = testOf(program, profile);
        const { verdict, failure } = await crashTest(subject);
        if (verdict !== 'failed' || !failure) return;
        const { before } = failure.advice ?? {};
        const [{ trace }] = failure.cuts as [(typeof failure.cuts)[number]];
        const gap = gapsOf(trace).find(({ time }) => time === before);
        if (before === undefined || !gap) return;
        advised += 1;
        const [cut] = parseReplay(failure.replay, 0).cuts;
        const space = crashSpace(trace, subject.profile);
        const image = (
          stateOf(DISK_STATES, space, cut as NonNullable<typeof cut>) as CrashState
        ).image();
        const repaired = withBarriers(trace, [gap], []);
        const trial = await trialOf({ ...subject, trace: repaired }, 0, []);
        for (const state of trial.space) {
          if (Buffer.compare(state.image(), image) !== 0) continue;
          expect((await judgeState(trial, state))?.cut).toBeUndefined();
        }
      }),
      { numRuns: 300 },
    );
    expect(advised).toBeGreaterThan(20);
  },
);

test('given writes that go on after an acknowledgement too early, when the first is lost, then the advice is its flush and no barrier behind it', async () => {
  const { failure } = await crashTest<number, number>({
    size: 4 * SECTOR,
    workload: async (disk, journal) => {
      for (const at of [0, 1, 2]) {
        await disk.write(at * SECTOR, bytes(1), NO_FLAGS);
        journal.acknowledge(at);
      }
    },
    recover: async (disk) => {
      const found = bytes(0);
      await disk.read(0, found);
      return found[0] ?? 0;
    },
    check: (first, { acknowledged }) => first === 1 || acknowledged.length === 0,
  });
  expect(failure?.advice?.missing).toBe('a flush after #0');
  expect(failure?.text).toContain('later #1 write');
});
