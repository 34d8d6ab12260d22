// Goal: a region of many sectors is the same as as many sectors by themselves. Method: random logs with long writes and discards
// that cut across each other, on 8 to 12 sectors. What the space says is compared with all combinations of the versions of
// its places, and, where no atomic unit ties sectors together, with each sector's history alone.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../src/testing/choices.js';
import { noise } from '../../src/testing/device/corruption.js';
import {
  type DiskCommand,
  DiskRecorder,
  type DiskTrace,
} from '../../src/testing/device/disk-trace.js';
import { type DeviceProfile, deviceProfile } from '../../src/testing/device/profile.js';
import { type CrashSpace, crashSpace } from '../../src/testing/space/crash-space.js';
import type { CrashState } from '../../src/testing/space/crash-state.js';
import { share } from '../kit/amount.js';
import { SECTOR } from './traces.js';

/** More states, or more combinations, are left out. */
const STATES_MAX = 2_000;

interface Log {
  readonly sectors: number;
  readonly commands: readonly {
    readonly op: 'write' | 'discard' | 'flush';
    /** In sectors. */
    readonly first: number;
    readonly count: number;
    readonly fua: boolean;
  }[];
}

const logs: fc.Arbitrary<Log> = fc.integer({ min: 8, max: 12 }).chain((sectors) => {
  const range = fc
    .tuple(fc.nat({ max: sectors - 1 }), fc.integer({ min: 1, max: 8 }))
    .map(([first, count]) => ({ first, count: Math.min(count, sectors - first) }));
  const op = fc.constantFrom('write', 'write', 'write', 'discard', 'flush', 'flush');
  const command = fc
    .tuple(op, range, fc.nat({ max: 4 }))
    .map(([what, where, forced]): Log['commands'][number] => {
      if (what === 'flush') return { op: 'flush', first: 0, count: 0, fua: false };
      return { op: what as 'write' | 'discard', ...where, fua: forced === 0 && what === 'write' };
    });
  return fc.record({
    sectors: fc.constant(sectors),
    commands: fc.array(command, { minLength: 2, maxLength: 7 }),
  });
});

const discards = fc.constantFrom('none', 'zero', 'old-or-zero', 'arbitrary');

const plain: fc.Arbitrary<DeviceProfile> = fc
  .record({
    discard: discards,
    cache: fc.constantFrom('volatile', 'volatile', 'volatile', 'none'),
  } as const)
  .map((fields) => deviceProfile({ ...fields, sectorSize: SECTOR } as Partial<DeviceProfile>));

const tied: fc.Arbitrary<DeviceProfile> = fc
  .record({
    discard: discards,
    atomicWriteUnit: fc.constantFrom(2 * SECTOR, 4 * SECTOR),
    sameLba: fc.constantFrom('fifo', 'racy'),
  } as const)
  .map((fields) => deviceProfile({ ...fields, sectorSize: SECTOR } as Partial<DeviceProfile>));

const torn: fc.Arbitrary<DeviceProfile> = plain.map((profile) => ({ ...profile, tear: 'shorn' }));

const KINDS = [
  ['with single sectors', plain],
  ['with sectors that tear', torn],
  ['with atomic units of several sectors', tied],
] as const;

/** Each command completes before the next one starts; each sector of a payload says which command it is of. */
function traceOf({ sectors, commands }: Log): DiskTrace {
  const recorder = new DiskRecorder(sectors * SECTOR);
  for (const [n, { op, first, count, fua }] of commands.entries()) {
    const what = {
      op,
      offset: first * SECTOR,
      length: count * SECTOR,
      tag: 'simple',
      fua,
    } as const;
    const data = op === 'write' ? new Uint8Array(count * SECTOR).fill(n + 1) : undefined;
    recorder.complete(recorder.dispatch(what, data));
  }
  return recorder.trace;
}

interface Choice {
  readonly content: string;
  readonly after: number;
  readonly ordered: number;
}

/** What each sector may hold, by what a flush, a forced write and a discard promise for it alone. */
function choicesOf({ commands, size }: DiskTrace, profile: DeviceProfile): Choice[][] {
  const NEVER = Number.POSITIVE_INFINITY;
  const isMaybe = ({ op }: DiskCommand): boolean => op === 'discard' && profile.discard !== 'zero';
  const safeFrom = (command: DiskCommand): number => {
    if (isMaybe(command)) return NEVER;
    if (profile.cache === 'none' || command.fua) return command.completed;
    const { completed } = command;
    const flush = commands.find(({ op, dispatched }) => op === 'flush' && dispatched > completed);
    return flush?.completed ?? NEVER;
  };
  const contentsOf = ({ op, data }: DiskCommand): string[] => {
    if (op === 'write') return [String(data?.[0])];
    return profile.discard === 'zero' || profile.discard === 'old-or-zero' ? ['0'] : ['0', 'any'];
  };
  return Array.from({ length: size / SECTOR }, (_, sector) => {
    const at = sector * SECTOR;
    const mine = commands.filter(
      ({ op, offset, length }) => op !== 'flush' && offset <= at && at < offset + length,
    );
    const before = { content: '0', after: Number.NEGATIVE_INFINITY };
    const tops = mine.map((top, n) =>
      contentsOf(top).map((content) => ({
        content,
        after: top.dispatched,
        rest: mine.slice(n + 1),
      })),
    );
    return [{ ...before, rest: mine }, ...tops.flat()].map(({ rest, ...choice }) => ({
      ...choice,
      ordered: Math.min(NEVER, ...rest.map(safeFrom)),
    }));
  });
}

/** All combinations of one choice for each place in which everything missing may be missing when the last one came. */
function combined<T extends Pick<Choice, 'after' | 'ordered'>>(places: readonly T[][]): T[][] {
  let all: { readonly chosen: T[]; readonly after: number; readonly ordered: number }[] = [
    { chosen: [], after: Number.NEGATIVE_INFINITY, ordered: Number.POSITIVE_INFINITY },
  ];
  for (const choices of places) {
    all = all.flatMap(({ chosen, after, ordered }) =>
      choices
        .map((choice) => ({
          chosen: [...chosen, choice],
          after: Math.max(after, choice.after),
          ordered: Math.min(ordered, choice.ordered),
        }))
        .filter((one) => one.after < one.ordered),
    );
    fc.pre(all.length <= STATES_MAX);
  }
  return all.map(({ chosen }) => chosen);
}

/** What each of the sectors reads as, in the words of `choicesOf`. */
function seenAt(disk: ReturnType<CrashState['disk']>, sectors: Iterable<number>): string {
  const into = new Uint8Array(SECTOR);
  return [...sectors]
    .map((sector) => {
      disk.read(sector * SECTOR, into);
      if (into.every((byte) => byte === into[0])) return String(into[0]);
      expect(Buffer.compare(into, noise(SECTOR, sector * SECTOR))).toBe(0);
      return 'any';
    })
    .join(' ');
}

const sorted = (texts: readonly string[]): string[] => [...texts].sort();

/** The choices of each place. */
function placesOf({ map }: CrashSpace): Choice[][] {
  return map.regions.flatMap(({ count, versions }) => {
    const choices = versions.map(({ after, ordered }, n) => ({
      content: String(n),
      after,
      ordered,
    }));
    return Array.from({ length: count }, () => choices);
  });
}

const text = (chosen: readonly Choice[]): string => chosen.map(({ content }) => content).join(' ');

describe('a small log', () => {
  test('has the states that the history of each sector allows, and no others', () => {
    fc.assert(
      fc.property(logs, plain, (log, profile) => {
        const trace = traceOf(log);
        const expected = combined(choicesOf(trace, profile)).map(text);
        const space = crashSpace(trace, profile);
        expect(space.count).toBe(BigInt(expected.length));
        const all = [...Array(log.sectors).keys()];
        const found = [...space].map((state) => seenAt(state.disk(), all));
        expect(sorted(found)).toEqual(sorted(expected));
        const possible = new Set(expected);
        const random = seededRandom(1);
        for (let i = 0; i < 30; i++) {
          expect(possible).toContain(seenAt(space.sample(random).disk(), all));
        }
      }),
      { numRuns: share(400) },
    );
  });

  test.each(KINDS)(
    '%s, has every combination of versions that a moment allows, once',
    (_, profiles) => {
      fc.assert(
        fc.property(logs, profiles, (log, profile) => {
          const space = crashSpace(traceOf(log), profile);
          const expected = combined(placesOf(space)).map(text);
          expect(space.count).toBe(BigInt(expected.length));
          const found = [...space].map(({ versions }) => versions.join(' '));
          expect(sorted(found)).toEqual(sorted(expected));
          const random = seededRandom(1);
          const possible = new Set(expected);
          for (let i = 0; i < 30; i++) {
            const state = space.sample(random);
            expect(possible).toContain(state.versions.join(' '));
            expect(space.at(space.indexOf(state)).versions).toEqual(state.versions);
          }
        }),
        { numRuns: share(400) },
      );
    },
  );

  test.each(KINDS)(
    '%s, is covered exactly by what a recovery of some sectors sees',
    (_, profiles) => {
      const picks = fc.uniqueArray(fc.nat({ max: 7 }), { minLength: 1, maxLength: 5 });
      fc.assert(
        fc.property(logs, profiles, picks, (log, profile, sectors) => {
          const space = crashSpace(traceOf(log), profile);
          fc.pre(space.count <= BigInt(STATES_MAX));
          const expected = new Set([...space].map((state) => rawAt(state.disk(), sectors)));
          const seen = new Set<string>();
          let covered = 0n;
          for (const crash of space.explore()) {
            seen.add(rawAt(crash.disk, sectors));
            covered += crash.images;
          }
          expect(covered).toBe(space.count);
          expect(seen).toEqual(expected);
        }),
        { numRuns: share(400) },
      );
    },
  );
});

/** The same for torn sectors, too. */
function rawAt(disk: ReturnType<CrashState['disk']>, sectors: readonly number[]): string {
  const into = new Uint8Array(SECTOR);
  return sectors
    .map((sector) => {
      disk.read(sector * SECTOR, into);
      return Buffer.from(into).toString('base64');
    })
    .join(' ');
}
