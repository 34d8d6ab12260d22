// Who should drain, in figures: the rows are the same in every run and are those of the page; what an arrangement claims
// about power cuts is held to by the crash kit, on the same schedulers.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type IoScheduler, MemoryStorage, tracing } from 'write-barrier';
import { modeOf } from 'write-barrier/kit';
import { type CrashTest, crashTest } from 'write-barrier/testing';
import { STACK_TIMES } from '../../bench/devices/stack-times.mjs';
import { VirtualClock } from '../../bench/devices/virtual-clock.mjs';
import { ARRANGEMENTS, type Arrangement, stackOf } from '../../examples/08-stacks/arrangements.mjs';
import { compareStacks, type StackRow } from '../../examples/08-stacks/compare.mjs';
import { ROOT, read, table, withSection } from '../docs/pages.js';
import { runExample } from './run.js';

const rowsOf = {
  near: await compareStacks(),
  far: await compareStacks(ARRANGEMENTS, STACK_TIMES.far),
};

const rowOf = (
  rows: readonly StackRow[],
  guest: string,
  backend: string,
  queue: string,
  transport = 'as-is',
): StackRow =>
  rows.find(
    (row) =>
      row.guest === guest &&
      row.backend === backend &&
      row.queue === queue &&
      row.transport === transport,
  ) as StackRow;

const worst = ({ waiting }: StackRow, guest: string): number =>
  waiting.find((one) => one.guest === guest)?.worstUs ?? Number.NaN;

test('two runs give the same rows', async () => {
  expect(await compareStacks()).toEqual(rowsOf.near);
});

test('a slow flush on a queue that all guests share is waited for by all of them', async () => {
  const shared = ARRANGEMENTS.filter(({ guest, queue }) => guest === 'TAG' && queue === 'shared');
  const [row] = await compareStacks(shared, { ...STACK_TIMES.near, flushUs: 10_000 });
  expect(row?.waiting.map(({ guest, worstUs }) => `${guest} ${worstUs}`)).toEqual([
    'journal A 40700',
    'journal B 40700',
    'bulk 40700',
    'reader 40820',
  ]);
});

// `npx vitest run --project examples test/examples/stacks.test.ts -u` writes the page anew.
test('the tables of the page are these rows', async () => {
  let page = read('docs/systems/stacks.md');
  for (const [name, rows] of Object.entries(rowsOf)) {
    const cells = rows.map((row) => [
      row.name,
      row.queue,
      `${row.commands}`,
      `${row.flushes}`,
      `${row.guestDrains} + ${row.backendDrains}`,
      `${row.waiting[0]?.meanUs}`,
      `${Math.max(worst(row, 'journal A'), worst(row, 'journal B'))}`,
      `${worst(row, 'bulk')}`,
      `${worst(row, 'reader')}`,
      `${row.elapsedUs}`,
    ]);
    const head = [
      '',
      'queue',
      'commands',
      'flushes',
      'drains',
      'commit',
      'worst commit',
      'worst write',
    ];
    page = withSection(page, name, table([...head, 'worst read', 'all done'], cells));
  }
  const promises = ARRANGEMENTS.filter(({ queue }) => queue === 'own').map((row) => [
    row.name,
    row.guest,
    row.backend,
    row.witness,
    row.barrierHolds ? 'yes' : '**no**',
    row.emptyBarrierHolds ? 'yes' : '**no**',
    `${rowsOf.near.find(({ name }) => name === row.name)?.flushesForEmptyBarrier}`,
  ]);
  const head = [
    '',
    'guest',
    'backend',
    'where',
    'barrier holds',
    'explicit flush holds',
    'flushes for it',
  ];
  page = withSection(page, 'promises', table(head, promises));
  await expect(page).toMatchFileSnapshot(join(ROOT, 'docs/systems/stacks.md'));
});

describe('the question of the thread', () => {
  test('a backend that drains one queue for all lets the journals starve the others', () => {
    for (const rows of Object.values(rowsOf)) {
      for (const guest of ['TAG', 'TAG_FUA']) {
        const own = rowOf(rows, guest, 'DRAIN_FLUSH', 'own');
        const shared = rowOf(rows, guest, 'DRAIN_FLUSH', 'shared');
        for (const other of ['bulk', 'reader']) {
          expect(worst(shared, other)).toBeGreaterThan(2 * worst(own, other));
        }
      }
    }
  });

  test('where the guest drains and the backend only flushes, nobody notices who shares the queue', () => {
    for (const rows of Object.values(rowsOf)) {
      const own = rowOf(rows, 'DRAIN_FLUSH', 'NONE', 'own');
      const shared = rowOf(rows, 'DRAIN_FLUSH', 'NONE', 'shared');
      for (const other of ['bulk', 'reader']) {
        expect(worst(shared, other)).toBeLessThanOrEqual(1.1 * worst(own, other));
      }
    }
  });

  test('over a slow transport a guest that drains pays for each round, and a tag does not', () => {
    const drains = rowOf(rowsOf.far, 'DRAIN_FLUSH', 'NONE', 'own');
    const tags = rowOf(rowsOf.far, 'TAG', 'DRAIN_FLUSH', 'own');
    expect(drains.flushes).toBe(tags.flushes);
    expect(drains.waiting[0]?.meanUs).toBeGreaterThan(1.5 * (tags.waiting[0]?.meanUs as number));
  });

  test('a flush mode above a flush mode costs one more flush for each commit', () => {
    const plain = rowOf(rowsOf.near, 'TAG', 'DRAIN_FLUSH', 'own');
    for (const twice of [
      rowOf(rowsOf.near, 'TAG_FUA', 'DRAIN_FLUSH', 'own'),
      rowOf(rowsOf.near, 'DRAIN_FUA', 'DRAIN_FLUSH', 'own', 'barriers'),
    ]) {
      expect(twice.flushes).toBe(1.5 * plain.flushes);
    }
  });

  test('an explicit flush reaches the disk, except from plain TAG and across a ring that has no room for it', () => {
    for (const { guest, transport, flushesForEmptyBarrier } of rowsOf.near) {
      const dropped = guest === 'TAG' || transport === 'data-barriers';
      expect(flushesForEmptyBarrier).toBe(dropped ? 0 : 1);
    }
  });

  test('flushes of two guests are shared only where there is one queue', () => {
    for (const { queue, guest, flushes } of rowsOf.near) {
      if (modeOf(guest).by === 'tag') continue;
      if (queue === 'own') expect([80, 120]).toContain(flushes);
    }
    expect(rowOf(rowsOf.near, 'DRAIN_FLUSH', 'NONE', 'shared').flushes).toBeLessThan(80);
  });

  test('every guest did all its work', () => {
    for (const rows of Object.values(rowsOf)) {
      for (const { waiting, commands, flushes } of rows) {
        expect(waiting.map(({ requests }) => requests)).toEqual([20, 20, 240, 40]);
        expect(commands - flushes).toBe(2 * 20 * 4 + 240 + 40);
      }
    }
  });
});

// What an arrangement claims

const SECTOR = 512;
const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);

/** A record and its mark, acknowledged when both are safe. */
type Commit = (disk: IoScheduler) => Promise<unknown>;

const waits = ({ mode }: IoScheduler): boolean => modeOf(mode).by === 'none';

const withBarrier: Commit = async (disk) => {
  const record = disk.write(0, sector(1));
  if (waits(disk)) await record;
  const flags = waits(disk) ? { preflush: true, fua: true } : { barrier: true };
  await Promise.all([record, disk.write(SECTOR, sector(1), flags)]);
};

const withEmptyBarriers: Commit = async (disk) => {
  const writes: Promise<unknown>[] = [];
  for (const at of [0, SECTOR]) {
    writes.push(disk.write(at, sector(1)));
    if (waits(disk)) await Promise.all([...writes, disk.flush()]);
    else writes.push(disk.barrier());
  }
  await Promise.all(writes);
};

/** Two guests commit at the same time. */
function commits(arrangement: Arrangement, commit: Commit): CrashTest<number, readonly string[]> {
  return {
    size: 4 * SECTOR,
    profile: { fua: false, orderedTags: false },
    workload: async (disk, journal) => {
      const { guests, backends } = stackOf(arrangement, disk, 2);
      await Promise.all(
        guests.map(async (guest, n) => {
          journal.begin(n);
          await commit(guest);
          journal.acknowledge(n);
        }),
      );
      await Promise.all([...guests, ...backends].map((scheduler) => scheduler.idle()));
    },
    recover: (disk) => {
      const bytes = new Uint8Array(4 * SECTOR);
      disk.read(0, bytes);
      return [0, 2].map((at) => `${bytes[at * SECTOR]}${bytes[(at + 1) * SECTOR]}`);
    },
    check: (found, { acknowledged }) =>
      found.every((both) => both !== '01') && acknowledged.every((n) => found[n] === '11'),
  };
}

describe.each(ARRANGEMENTS.map((of) => [of.name, of.queue, of] as const))(
  '%s, queue: %s',
  (_, __, of) => {
    test.each([
      ['a barrier with data', withBarrier, of.barrierHolds],
      ['an explicit flush', withEmptyBarriers, of.emptyBarrierHolds],
    ])('%s does at a power cut what the arrangement says', async (_, commit, holds) => {
      const verdicts: string[] = [];
      for (let seed = 0; seed < 6; seed++) {
        const { verdict, covered, images } = await crashTest({ ...commits(of, commit), seed });
        if (verdict !== 'failed') expect(covered).toBe(images);
        verdicts.push(verdict);
      }
      if (holds) expect(new Set(verdicts)).toEqual(new Set(['proved']));
      else expect(verdicts).toContain('failed');
    });
  },
);

// The parts

test('a ring of barriers carries a flush and a forced write as barriers, and nothing else', async () => {
  const commands: string[] = [];
  const disk = tracing(
    new MemoryStorage(8 * SECTOR, { capabilities: { cache: 'volatile' } }),
    (event) => {
      if (event.kind === 'dispatch') commands.push(event.what.op);
    },
  );
  const ring = ARRANGEMENTS.find(({ transport }) => transport === 'barriers') as Arrangement;
  const { guests, backends } = stackOf(ring, disk, 1);
  await Promise.all([
    guests[0]?.write(0, sector(1)),
    guests[0]?.write(SECTOR, sector(1), { barrier: true }),
  ]);
  // The guest's flush, then a barrier of the backend with two flushes of its own.
  expect(commands.join(' ')).toBe('write flush flush write flush');
  expect(backends[0]?.stats().drains).toBeGreaterThan(0);
});

describe('the virtual clock', () => {
  test('wakes in the order of the moments, and of equal ones in the order of asking', async () => {
    const clock = new VirtualClock();
    const woken: string[] = [];
    const sleeper = async (name: string, us: number): Promise<void> => {
      await clock.sleep(us);
      woken.push(`${name}@${clock.now}`);
    };
    const all = [sleeper('a', 30), sleeper('b', 10), sleeper('c', 30), sleeper('d', 0)];
    await clock.run(Promise.all(all));
    expect(woken).toEqual(['d@0', 'b@10', 'a@30', 'c@30']);
  });

  test('stands still while anybody has something to do', async () => {
    const clock = new VirtualClock();
    const moments: number[] = [];
    const busy = async (): Promise<void> => {
      await clock.sleep(10);
      for (let turn = 0; turn < 80; turn++) {
        if (turn === 40) void clock.sleep(100);
        await undefined;
      }
      moments.push(clock.now);
      await clock.sleep(5);
      moments.push(clock.now);
    };
    await clock.run(Promise.all([busy(), clock.sleep(12)]));
    expect(moments).toEqual([10, 15]);
  });

  test('gives the answer of the work, or its error', async () => {
    const clock = new VirtualClock();
    expect(await clock.run(clock.sleep(1).then(() => 'done'))).toBe('done');
    const failing = clock.sleep(1).then(() => {
      throw new Error('no');
    });
    await expect(clock.run(failing)).rejects.toThrow('no');
  });

  test('says so when somebody waits for nothing', async () => {
    const clock = new VirtualClock();
    await expect(clock.run(new Promise(() => {}))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    for (const us of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => clock.sleep(us)).toThrow('us must be a number of microseconds');
    }
  });

  test('finds times that are none', async () => {
    const times = { ...STACK_TIMES.near, writeUs: -1 };
    await expect(compareStacks(ARRANGEMENTS.slice(0, 1), times)).rejects.toThrow();
    const none = { ...STACK_TIMES.near, commandsMax: 0 };
    await expect(compareStacks(ARRANGEMENTS.slice(0, 1), none)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});

test('the example shows both disks, and which arrangement loses what', async () => {
  const { code, stdout, stderr } = await runExample(['08']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain('near, in virtual microseconds');
  expect(stdout).toContain('far, in virtual microseconds');
  expect(stdout).toMatch(/guest TAG, backend drains and never flushes +own .* BROKEN +BROKEN\n/);
});
