// Real SQLite on a directory on the simulated disk, in every setting: none of them damages the database, those that SQLite calls durable
// are, and each takes as few flushes as its claims allow.

import {
  SQLITE_IOCAP_POWERSAFE_OVERWRITE,
  SQLITE_IOCAP_SAFE_APPEND,
  SQLITE_IOCAP_SEQUENTIAL,
} from '@journeyapps/wa-sqlite/src/sqlite-constants.js';
import { beforeAll, describe, expect, test } from 'vitest';
import { EXHAUSTIVE } from '../kit/amount.js';
import { Engine } from './engine.js';
import { crashed, flushesOf, type Rung } from './ladder.js';

let engine: Engine;
beforeAll(async () => {
  engine = await Engine.load();
});

/** What SQLite is told when it is not to write in batches, but by a journal. */
const ORDERED =
  SQLITE_IOCAP_SEQUENTIAL | SQLITE_IOCAP_SAFE_APPEND | SQLITE_IOCAP_POWERSAFE_OVERWRITE;

const nameOf = ({
  journal,
  synchronous,
  claims,
  isTorn,
  checkpoint,
  spills,
  overflows,
}: Rung): string =>
  [
    `${journal} and ${synchronous}`,
    ...(claims === ORDERED ? ['without batches'] : []),
    ...(isTorn ? ['in batches that are none'] : []),
    ...(checkpoint ? ['with checkpoints'] : []),
    ...(spills ? ['with a second head'] : []),
    ...(overflows ? ['with transactions that the log cannot hold at once'] : []),
  ].join(' ');

/** Each with the flushes of a transaction: here, without batches, and where SQLite is told of no order. The quick run has a share. */
type Row = readonly [
  rung: Rung,
  flushes: number,
  ordered: number,
  unordered: number,
  quick?: boolean,
];

const DURABLE: readonly Row[] = [
  [{ journal: 'DELETE', synchronous: 'NORMAL' }, 1, 1, 2],
  [{ journal: 'DELETE', synchronous: 'FULL' }, 1, 1, 3, true],
  [{ journal: 'DELETE', synchronous: 'EXTRA' }, 1, 2, 4],
  [{ journal: 'TRUNCATE', synchronous: 'FULL' }, 1, 2, 4],
  [{ journal: 'PERSIST', synchronous: 'NORMAL' }, 1, 2, 3],
  [{ journal: 'PERSIST', synchronous: 'FULL' }, 1, 2, 4],
  [{ journal: 'MEMORY', synchronous: 'FULL' }, 1, 1, 1],
  [{ journal: 'WAL', synchronous: 'FULL' }, 1, 1, 1, true],
  [{ journal: 'WAL', synchronous: 'FULL', checkpoint: true }, 2, 2, 4],
  // The slot of the first journal is used by the second, with both of its heads.
  [{ journal: 'DELETE', synchronous: 'EXTRA', spills: true, transactions: 2 }, 2, 2, 10, true],
];

/** What SQLite does not promise to be durable; some of it may damage a database elsewhere. */
const CONSISTENT: readonly Row[] = [
  [{ journal: 'DELETE', synchronous: 'OFF' }, 0, 0, 0, true],
  [{ journal: 'TRUNCATE', synchronous: 'OFF' }, 0, 0, 0],
  [{ journal: 'PERSIST', synchronous: 'OFF' }, 0, 0, 0],
  [{ journal: 'WAL', synchronous: 'OFF' }, 0, 0, 0],
  [{ journal: 'WAL', synchronous: 'NORMAL' }, 0, 0, 0],
];

/** By a journal on the disk, which batches leave out. The flushes are those of the column in the middle. */
const JOURNALS: readonly (readonly [
  rung: Rung,
  asked: 'durable' | 'consistent',
  quick?: boolean,
])[] = [
  [{ journal: 'DELETE', synchronous: 'EXTRA', claims: ORDERED }, 'durable', true],
  [{ journal: 'TRUNCATE', synchronous: 'FULL', claims: ORDERED }, 'durable'],
  [{ journal: 'PERSIST', synchronous: 'NORMAL', claims: ORDERED }, 'durable'],
  [{ journal: 'PERSIST', synchronous: 'FULL', claims: ORDERED }, 'durable'],
  [{ journal: 'DELETE', synchronous: 'NORMAL', claims: ORDERED }, 'consistent'],
  [{ journal: 'DELETE', synchronous: 'FULL', claims: ORDERED }, 'consistent'],
  // directory-vfs.V6: the batch is refused, and SQLite writes a journal.
  [{ journal: 'DELETE', synchronous: 'EXTRA', overflows: true, transactions: 1 }, 'durable', true],
  [{ journal: 'PERSIST', synchronous: 'FULL', overflows: true, transactions: 1 }, 'durable'],
  // directory-vfs.V6: there would be no journal on the disk, if the claim stood.
  [{ journal: 'DELETE', synchronous: 'OFF', overflows: true }, 'consistent', true],
];

for (const [rung, ...expected] of [...DURABLE, ...CONSISTENT]) {
  const [flushes, ordered, unordered] = expected;
  test(`given ${nameOf(rung)}, then a transaction costs ${flushes} flushes, ${ordered} without batches, ${unordered} without any claim`, async () => {
    const counted = [
      await flushesOf(engine, rung),
      await flushesOf(engine, { ...rung, claims: ORDERED }),
      await flushesOf(engine, { ...rung, claims: 0 }),
    ];
    expect(counted).toEqual([flushes, ordered, unordered]);
  });
}

describe('given a power cut', () => {
  for (const [rung, , , , quick] of DURABLE) {
    test.runIf(EXHAUSTIVE || quick)(
      `when it is ${nameOf(rung)}, then it is proved that every acknowledged transaction is there`,
      async () => {
        const report = await crashed(engine, rung, 'durable');
        expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
      },
    );
  }

  for (const [rung, , , , quick] of CONSISTENT) {
    test.runIf(EXHAUSTIVE || quick)(
      `when it is ${nameOf(rung)}, then transactions may be lost, and no image is damaged`,
      async () => {
        expect((await crashed(engine, rung, 'durable')).verdict).toBe('failed');
        const { verdict, covered, images } = await crashed(engine, rung, 'consistent');
        // It is not called proved, because the check has found nothing to reject.
        expect([verdict, covered]).toEqual(['passed', images]);
      },
    );
  }

  for (const [rung, asked, quick] of JOURNALS) {
    test.runIf(EXHAUSTIVE || quick)(
      `when it is ${nameOf(rung)}, then every image is ${asked}`,
      async () => {
        const { verdict, covered, images, warnings } = await crashed(engine, rung, asked);
        expect([verdict, covered, warnings]).toEqual([
          asked === 'durable' ? 'proved' : 'passed',
          images,
          asked === 'durable' ? [] : warnings,
        ]);
      },
    );
  }

  // What makes the others pass: a transaction is in one record.
  test('when batches are none, and the log cannot hold a transaction at once, then the database is damaged', async () => {
    const rung: Rung = {
      ...{ journal: 'DELETE', synchronous: 'FULL' },
      ...{ overflows: true, isTorn: true },
    } as const;
    expect((await crashed(engine, rung, 'consistent')).verdict).toBe('failed');
  });

  for (const claims of [undefined, ORDERED]) {
    test(`when recoveries are cut short as well, ${claims ? 'by a journal' : 'in batches'}, then the same holds`, async () => {
      const rung = { journal: 'DELETE', synchronous: 'EXTRA', transactions: 1 } as const;
      const report = await crashed(engine, claims ? { ...rung, claims } : rung, 'durable', {
        nested: true,
        recoveriesMax: EXHAUSTIVE ? 20_000 : 150,
      });
      expect(['proved', 'passed']).toContain(report.verdict);
    });
  }

  test('when the disk ignores flushes, then what was acknowledged is lost', async () => {
    const rung: Rung = { journal: 'DELETE', synchronous: 'EXTRA' };
    const { verdict } = await crashed(engine, rung, 'durable', {
      profile: { lies: ['ignoreFlush'] },
    });
    expect(verdict).toBe('failed');
  });
});
