// Real SQLite on the simulated disk: every setting keeps what https://www.sqlite.org/pragma.html#pragma_synchronous
// says of it, and nothing more; and the disk, the file system and the claims about them have to be true for that.

import { isDeepStrictEqual } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { MemoryStorage } from 'write-barrier';
import { crashTest, VolatileDisk } from 'write-barrier/testing';
import { EXHAUSTIVE } from '../../kit/amount.js';
import { Engine } from './engine.js';
import { type Policy, SECTOR, SectorFiles } from './files.js';
import {
  crashTestOf,
  flushesOf,
  type Outcome,
  type Run,
  type Rung,
  recover,
  runOf,
  type Survey,
  survey,
  withoutFlush,
} from './ladder.js';

const DELETE_EXTRA: Rung = { journal: 'DELETE', synchronous: 'EXTRA' };
const WAL_FULL: Rung = { journal: 'WAL', synchronous: 'FULL', transactions: 4 };
const WAL_CHECKPOINTED: Rung = { ...WAL_FULL, checkpoint: true };
/** The trees of these two grow with their transactions more than others, so the quick run has one less. */
const [OF_WAL, OF_DELETE] = EXHAUSTIVE ? [4, 3] : [3, 2];

/** Enough to see the failure of a rung whose tree is too large. */
const BUDGET = 2_000;
/** The same for a run without one of its flushes, where the failure may be deep. */
const MUTANT_BUDGET = 10_000;

let engine: Engine;
beforeAll(async () => {
  engine = await Engine.load();
});

interface Case {
  readonly name: string;
  readonly rung: Rung;
  /** How many flushes SQLite asks for. */
  readonly flushes: number;
}

describe('given a setting that is safe and durable', () => {
  const cases: readonly Case[] = [
    { name: 'DELETE and EXTRA', rung: DELETE_EXTRA, flushes: 12 },
    { name: 'TRUNCATE and FULL', rung: { journal: 'TRUNCATE', synchronous: 'FULL' }, flushes: 12 },
    { name: 'PERSIST and FULL', rung: { journal: 'PERSIST', synchronous: 'FULL' }, flushes: 12 },
    {
      // The journal is never deleted, so it makes no difference.
      name: 'PERSIST and FULL on sectors that are used again',
      rung: { journal: 'PERSIST', synchronous: 'FULL', policy: 'reuse' },
      flushes: 12,
    },
    { name: 'WAL and FULL', rung: WAL_FULL, flushes: 4 },
    {
      name: 'WAL and FULL with checkpoints',
      rung: { ...WAL_CHECKPOINTED, transactions: OF_WAL },
      flushes: 4 * OF_WAL - 1,
    },
  ];

  for (const { name, rung, flushes } of cases) {
    test.runIf(EXHAUSTIVE || rung !== WAL_FULL)(
      `when it is ${name}, then every image is covered, and none is corrupt or without an acknowledged commit`,
      () => {
        const run = runOf(engine, rung);
        expect(flushesOf(run.trace)).toHaveLength(flushes);
        const { count, covered, corrupt, lost, leaves } = survey(engine, run);
        expect({ covered, corrupt, lost }).toEqual({ covered: count, corrupt: 0, lost: 0 });
        expect(count).toBeGreaterThan(500n * BigInt(leaves));
      },
    );
  }
});

describe('given a setting that is safe and not durable', () => {
  // The deletion of the journal is what commits, and only EXTRA waits for it to be on the medium.
  test('when it is DELETE and FULL, then every image is covered, and each of the three commits can be lost', () => {
    const run = runOf(engine, { journal: 'DELETE', synchronous: 'FULL' });
    expect(flushesOf(run.trace)).toHaveLength(9);
    const { count, covered, corrupt, lost } = survey(engine, run);
    expect({ covered, corrupt, lost }).toEqual({ covered: count, corrupt: 0, lost: 3 });
  });

  // Nothing is ever flushed, so the images are as many as they can be, and a recovery still sees few of them apart.
  test.runIf(EXHAUSTIVE)(
    'when it is WAL and NORMAL, then every image is covered, commits are lost, and none is corrupt',
    () => {
      const run = runOf(engine, { ...WAL_FULL, synchronous: 'NORMAL' });
      expect(flushesOf(run.trace)).toHaveLength(0);
      const { count, covered, leaves, corrupt, lost } = survey(engine, run);
      expect({ covered, corrupt }).toEqual({ covered: count, corrupt: 0 });
      expect(lost).toBeGreaterThan(0);
      expect(count).toBeGreaterThan(2n ** 64n * BigInt(leaves));
    },
  );

  test('when it is WAL and NORMAL with checkpoints, then every image is covered, and none is corrupt', () => {
    const rung = { ...WAL_CHECKPOINTED, transactions: OF_WAL, synchronous: 'NORMAL' } as const;
    const run = runOf(engine, rung);
    expect(flushesOf(run.trace)).toHaveLength(3 * OF_WAL - 1);
    const { count, covered, corrupt, lost } = survey(engine, run);
    expect({ covered, corrupt }).toEqual({ covered: count, corrupt: 0 });
    expect(lost).toBeGreaterThan(0);
  });
});

describe('given a setting that may corrupt', () => {
  // With one sync for the whole journal its head may be there without its records, and the checksum of a record is
  // the sum of every 200th byte of it.
  const exhausted: readonly Case[] = [
    {
      name: 'DELETE and NORMAL',
      rung: { journal: 'DELETE', synchronous: 'NORMAL', transactions: OF_DELETE },
      flushes: 2 * OF_DELETE,
    },
    { name: 'PERSIST and NORMAL', rung: { journal: 'PERSIST', synchronous: 'NORMAL' }, flushes: 9 },
  ];

  for (const { name, rung, flushes } of exhausted) {
    test(`when it is ${name}, then every image is covered, and some are corrupt`, () => {
      const run = runOf(engine, rung);
      expect(flushesOf(run.trace)).toHaveLength(flushes);
      const { count, covered, corrupt } = survey(engine, run);
      expect(covered).toBe(count);
      expect(corrupt).toBeGreaterThan(0);
    });
  }

  const found: readonly Case[] = [
    { name: 'DELETE and OFF', rung: { journal: 'DELETE', synchronous: 'OFF' }, flushes: 0 },
    { name: 'WAL and OFF', rung: { ...WAL_CHECKPOINTED, synchronous: 'OFF' }, flushes: 0 },
  ];

  for (const { name, rung, flushes } of found) {
    test(`when it is ${name}, then a corrupt image is found`, () => {
      const run = runOf(engine, rung);
      expect(flushesOf(run.trace)).toHaveLength(flushes);
      expect(worstOf(run, ['corrupt'])).toBe('corrupt');
    });
  }
});

describe('given a safe setting on a false foundation', () => {
  // The directory speaks of the new journal, and its sectors still hold the old one: valid, and hot again.
  const cases: readonly Case[] = [
    { name: 'DELETE and EXTRA', rung: { ...DELETE_EXTRA, policy: 'reuse' }, flushes: 12 },
    {
      name: 'TRUNCATE and FULL',
      rung: { journal: 'TRUNCATE', synchronous: 'FULL', policy: 'reuse' },
      flushes: 12,
    },
  ];

  for (const { name, rung, flushes } of cases) {
    test(`when the files of ${name} use the same sectors again (F4), then every image is covered, and most recoveries show damage`, () => {
      const run = runOf(engine, rung);
      expect(flushesOf(run.trace)).toHaveLength(flushes);
      const { count, covered, leaves, corrupt, lost } = survey(engine, run);
      expect(covered).toBe(count);
      expect(corrupt).toBeGreaterThan(leaves / 2);
      expect(lost).toBeGreaterThan(0);
    });
  }

  test('when the disk ignores flushes, then DELETE and EXTRA corrupts', () => {
    const run = runOf(engine, { ...DELETE_EXTRA, profile: { lies: ['ignoreFlush'] } });
    expect(worstOf(run, ['corrupt'])).toBe('corrupt');
  });

  test('when the file system claims that appending is safe, then DELETE and EXTRA leaves out three flushes and corrupts', () => {
    const run = runOf(engine, { ...DELETE_EXTRA, claims: ['safeAppend'] });
    expect(flushesOf(run.trace)).toHaveLength(9);
    expect(worstOf(run, ['corrupt'])).toBe('corrupt');
  });

  test('when the file system claims that writes are sequential, then DELETE and EXTRA leaves out six flushes and corrupts', () => {
    const run = runOf(engine, { ...DELETE_EXTRA, claims: ['sequential'] });
    expect(flushesOf(run.trace)).toHaveLength(6);
    expect(worstOf(run, ['corrupt'])).toBe('corrupt');
  });
});

describe('given sectors that are used again, and zeroes where a file was removed (F5)', () => {
  const of = (policy: Policy, transactions: number, spills: boolean): Survey =>
    survey(engine, runOf(engine, { ...DELETE_EXTRA, policy, transactions, spills }));

  test('when only the first sector is zeroed, then no head of an earlier transaction comes back, as long as a journal has one', () => {
    const { count, covered, corrupt, lost } = of('zero-head', 3, false);
    expect({ covered, corrupt, lost }).toEqual({ covered: count, corrupt: 0, lost: 0 });
  });

  // In the last transactions the second head of the new journal has the place of that of the old one.
  test('when only the first sector is zeroed and a journal has two heads, then the second one comes back and corrupts', () => {
    expect(of('zero-head', 6, true).corrupt).toBeGreaterThan(0);
  });

  test('when all sectors are zeroed and nothing orders that behind the removal, then a journal that still counts is without its records', () => {
    expect(of('zero-all', 3, false).corrupt).toBeGreaterThan(0);
  });

  test('when all sectors are zeroed behind the removal, then every image is covered, and none is corrupt', () => {
    const { count, covered, corrupt, lost } = of('zero-all-ordered', 6, true);
    expect({ covered, corrupt, lost }).toEqual({ covered: count, corrupt: 0, lost: 0 });
  });
});

// A mutant is the same run on a disk that has not heard one of the flushes. One that survives would say that the flush
// is needless, or that the check is blind.
describe('given a run with one flush taken away', () => {
  test('when it is of DELETE and EXTRA, then three of each transaction corrupt, and the fourth loses the commit', () => {
    const transaction = ['corrupt', 'corrupt', 'corrupt', 'lost'];
    expect(fatesOf(DELETE_EXTRA)).toEqual([...transaction, ...transaction, ...transaction]);
  });

  test('when it is of WAL and FULL, then each loses its commit', () => {
    // The last commit may be one of many versions of the WAL, so four take as long as most of this file.
    const transactions = EXHAUSTIVE ? 4 : 2;
    const fates = fatesOf({ ...WAL_FULL, transactions }, ['corrupt', 'lost']);
    expect(fates).toEqual(Array(transactions).fill('lost'));
  });

  // Each transaction writes a new head of the WAL and syncs it (save the first, which goes on with the WAL that is
  // there), commits, syncs the WAL again before the checkpoint, and the database after it. The second sync of the WAL
  // adds nothing to a full commit. A head must be there before its frames only where the old WAL holds more than one
  // commit: with the old head and some of the old frames, an older state would go over parts of the newer database.
  // And nothing comes after the last sync of the database.
  test('when it is of WAL and FULL with checkpoints, then those survive that this run does not need', () => {
    const [commit, again, database] = ['lost', 'clean', 'corrupt'] as const;
    const fates = [
      ...[commit, again, database],
      ...['corrupt', commit, again, database],
      ...['clean', commit, again, 'clean'],
    ];
    // The quick run ends with the first flush of the second transaction: by then each fate has come once.
    const flushes = EXHAUSTIVE ? fates.length : 4;
    const rung = { ...WAL_CHECKPOINTED, transactions: EXHAUSTIVE ? 3 : 2 };
    expect(fatesOf(rung, ['corrupt'], flushes)).toEqual(fates.slice(0, flushes));
  });
});

describe('given crashTest', () => {
  test('when it runs DELETE and EXTRA, then it is proved', async () => {
    const { verdict, images, recoveries } = await crashTest(crashTestOf(engine, DELETE_EXTRA));
    const { count, leaves } = survey(engine, runOf(engine, DELETE_EXTRA));
    expect({ verdict, images, recoveries }).toEqual({
      verdict: 'proved',
      images: count,
      recoveries: leaves,
    });
  });

  // The sector is the head of the new journal. The old one is there in its place, and it is valid.
  test('when the files use the same sectors again (F4), then one lost sector is enough for damage, and it can be replayed', async () => {
    const trial = crashTestOf(engine, { ...DELETE_EXTRA, policy: 'reuse' });
    const { verdict, failure } = await crashTest(trial);
    expect(verdict).toBe('failed');
    expect(failure?.message).toMatch(/malformed|not a database/);
    expect(failure?.lost).toHaveLength(1);
    const again = await crashTest({ ...trial, replay: failure?.replay as string });
    expect(again).toMatchObject({ verdict: 'failed', failure: { message: failure?.message } });
  });
});

// Goal: that one recovery may stand for many images. Method: recover from each image by itself, and compare how many
// images come to what.
test.runIf(EXHAUSTIVE)(
  'given a run that corrupts, when each image is recovered by itself, then as many show the same as the leaves say',
  () => {
    const run = runOf(engine, { journal: 'PERSIST', synchronous: 'NORMAL', transactions: 1 });
    const { space, rung } = run;
    expect(space.count).toBeLessThan(20_000n);
    const tally = new Map<string, bigint>();
    const count = (disk: Parameters<typeof recover>[2], images: () => bigint, sign: bigint) => {
      const shown = JSON.stringify(recover(engine, rung, disk));
      tally.set(shown, (tally.get(shown) ?? 0n) + sign * images());
    };
    for (const crash of space.explore()) count(crash.disk, () => crash.images, 1n);
    expect(tally.size).toBeGreaterThan(2);
    for (const state of space) count(new MemoryStorage(state.image()), () => 1n, -1n);
    expect(new Set(tally.values())).toEqual(new Set([0n]));
  },
);

test('given a run, when it is made again, then the trace is the same', () => {
  const [once, again] = [runOf(engine, DELETE_EXTRA).trace, runOf(engine, DELETE_EXTRA).trace];
  expect(isDeepStrictEqual(once, again)).toBe(true);
});

describe('given a file that was removed', () => {
  const repeated = (byte: number): Uint8Array => new Uint8Array(SECTOR).fill(byte);
  const bytesAfter = (policy: Policy): Uint8Array => {
    const disk = new VolatileDisk({ size: 256 * SECTOR, answers: 'at-once' });
    const files = new SectorFiles(disk, policy);
    files.create('db-journal');
    files.write('db-journal', repeated(1), 0);
    files.remove('db-journal');
    files.create('db-journal');
    files.write('db-journal', repeated(2), SECTOR);
    const shown = new Uint8Array(2 * SECTOR);
    expect(new SectorFiles(disk, policy).read('db-journal', shown, 0)).toBe(2 * SECTOR);
    return shown;
  };

  test('when it is made again with a hole, then `fresh` shows zeroes there (F3), and `reuse` the old bytes (F4)', () => {
    expect(bytesAfter('fresh')).toEqual(Uint8Array.of(...repeated(0), ...repeated(2)));
    expect(bytesAfter('reuse')).toEqual(Uint8Array.of(...repeated(1), ...repeated(2)));
  });
});

/** The worst outcome that is found up to the first of `until`; `clean` only where all images are covered. */
function worstOf(run: Run, until: readonly Outcome[], leavesMax: number = BUDGET): Outcome {
  const { count, covered, corrupt, lost } = survey(engine, run, { leavesMax, until });
  if (corrupt > 0) return 'corrupt';
  if (lost > 0) return 'lost';
  expect(covered).toBe(count);
  return 'clean';
}

/** What becomes of the run without its first flush, without its second one, and so on, for the first so many flushes. */
function fatesOf(
  rung: Rung,
  until: readonly Outcome[] = ['corrupt'],
  flushes: number = Number.POSITIVE_INFINITY,
): Outcome[] {
  const run = runOf(engine, rung);
  return flushesOf(run.trace)
    .slice(0, flushes)
    .map((_, nth) => worstOf(withoutFlush(run, nth), until, MUTANT_BUDGET));
}
