// Real SQLite on a directory on the simulated disk, in every setting: none of them damages the database, those that SQLite calls durable
// are, and each takes as few flushes as its claims allow.

import { beforeAll, describe, expect, test } from 'vitest';
import { EXHAUSTIVE } from '../kit/amount.js';
import { Engine } from './engine.js';
import { crashed, flushesOf, type Rung } from './ladder.js';

let engine: Engine;
beforeAll(async () => {
  engine = await Engine.load();
});

const nameOf = ({ journal, synchronous, checkpoint, spills }: Rung): string =>
  `${journal} and ${synchronous}${checkpoint ? ' with checkpoints' : ''}${spills ? ' with a second head' : ''}`;

/** Each with the flushes of a transaction: here, and where SQLite is told of no order. The quick run has a share of them. */
const DURABLE: readonly (readonly [
  rung: Rung,
  flushes: number,
  unordered: number,
  quick?: boolean,
])[] = [
  [{ journal: 'DELETE', synchronous: 'EXTRA' }, 2, 4, true],
  [{ journal: 'TRUNCATE', synchronous: 'FULL' }, 2, 4],
  [{ journal: 'PERSIST', synchronous: 'NORMAL' }, 2, 3],
  [{ journal: 'PERSIST', synchronous: 'FULL' }, 2, 4],
  [{ journal: 'WAL', synchronous: 'FULL' }, 1, 1, true],
  [{ journal: 'WAL', synchronous: 'FULL', checkpoint: true }, 2, 4],
  // The slot of the first journal is used by the second, with both of its heads.
  [{ journal: 'DELETE', synchronous: 'EXTRA', spills: true, transactions: 2 }, 2, 10, true],
];

/** What SQLite does not promise to be durable; some of it may damage a database elsewhere. */
const CONSISTENT: readonly (readonly [
  rung: Rung,
  flushes: number,
  unordered: number,
  quick?: boolean,
])[] = [
  [{ journal: 'DELETE', synchronous: 'OFF' }, 0, 0, true],
  [{ journal: 'DELETE', synchronous: 'NORMAL' }, 1, 2],
  [{ journal: 'DELETE', synchronous: 'FULL' }, 1, 3],
  [{ journal: 'TRUNCATE', synchronous: 'OFF' }, 0, 0],
  [{ journal: 'PERSIST', synchronous: 'OFF' }, 0, 0],
  [{ journal: 'WAL', synchronous: 'OFF' }, 0, 0],
  [{ journal: 'WAL', synchronous: 'NORMAL' }, 0, 0],
];

for (const [rung, flushes, unordered] of [...DURABLE, ...CONSISTENT]) {
  test(`given ${nameOf(rung)}, then a transaction costs ${flushes} flushes, and ${unordered} without the claims`, async () => {
    const counted = [
      await flushesOf(engine, rung),
      await flushesOf(engine, { ...rung, claims: 0 }),
    ];
    expect(counted).toEqual([flushes, unordered]);
  });
}

describe('given a power cut', () => {
  for (const [rung, , , quick] of DURABLE) {
    test.runIf(EXHAUSTIVE || quick)(
      `when it is ${nameOf(rung)}, then it is proved that every acknowledged transaction is there`,
      async () => {
        const report = await crashed(engine, rung, 'durable');
        expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
      },
    );
  }

  for (const [rung, , , quick] of CONSISTENT) {
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

  test('when recoveries are cut short as well, then the same holds', async () => {
    const rung: Rung = { journal: 'DELETE', synchronous: 'EXTRA', transactions: 1 };
    const report = await crashed(engine, rung, 'durable', {
      nested: true,
      recoveriesMax: EXHAUSTIVE ? 20_000 : 150,
    });
    expect(['proved', 'passed']).toContain(report.verdict);
  });

  test('when the disk ignores flushes, then what was acknowledged is lost', async () => {
    const rung: Rung = { journal: 'DELETE', synchronous: 'EXTRA' };
    const { verdict } = await crashed(engine, rung, 'durable', {
      profile: { lies: ['ignoreFlush'] },
    });
    expect(verdict).toBe('failed');
  });
});
