// Goal: two stores on one disk survive a power cut, each by its own barriers, although the group shares flushes and takes turns.
// Method: two logs, each on a part of a simulated disk by a scheduler of its own on a member of one group, of different modes. The
// crash kit cuts the power everywhere; what is recovered of each log must be all that it has acknowledged. The same logs without
// barriers, and a group whose flushes do nothing, must be found out.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type ModeName, SchedulerGroup, type Storage } from 'write-barrier';
import { slice } from 'write-barrier/kit';
import { type CrashTest, crashTest } from '../../src/testing/index.js';

const BLOCK = 512;
const RECORDS = 2;
const STORE = RECORDS * 2 * BLOCK;

interface Found {
  readonly store: number;
  readonly record: number;
}

interface Stores {
  readonly modes: readonly [ModeName, ModeName];
  /** The commit mark is a barrier. */
  readonly ordered?: boolean;
  /** Between a store and its part of the disk. */
  readonly around?: (storage: Storage) => Storage;
  readonly profile?: CrashTest<Found, Found[]>['profile'];
}

/** Two logs that commit at the same time: a record, and a mark that must not be there without it. */
function storesOver({
  modes,
  ordered = true,
  around = same,
  profile,
}: Stores): CrashTest<Found, Found[]> {
  return {
    size: 2 * STORE,
    ...(profile ? { profile } : {}),
    workload: async (disk, journal) => {
      const group = new SchedulerGroup(disk);
      const stores = modes.map((mode, n) => {
        const part = slice(around(group.member()), n * STORE, STORE);
        return new IoScheduler(part, { mode, allowUnsafe: true });
      });
      await Promise.all(
        stores.map(async (store, n) => {
          for (let record = 0; record < RECORDS; record++) {
            const found = { store: n, record };
            journal.begin(found);
            const at = record * 2 * BLOCK;
            await Promise.all([
              store.write(at, filled(n, record)),
              store.write(at + BLOCK, filled(n, record), { barrier: ordered }),
            ]);
            await store.flush();
            journal.acknowledge(found);
          }
        }),
      );
      for (const store of stores) await store.close();
      await group.close();
    },
    recover: (disk) => {
      const found: Found[] = [];
      for (const store of [0, 1]) {
        for (let record = 0; record < RECORDS; record++) {
          const [data, mark] = [0, 1].map((half) => {
            const into = new Uint8Array(BLOCK);
            disk.read(store * STORE + (record * 2 + half) * BLOCK, into);
            return into[0];
          });
          if (mark === 0) break;
          if (mark !== data) throw new Error(`record ${record} of store ${store} is not there`);
          found.push({ store, record });
        }
      }
      return found;
    },
    check: (found, { acknowledged }) => {
      const has = ({ store, record }: Found): boolean =>
        found.some((one) => one.store === store && one.record === record);
      return acknowledged.every(has);
    },
  };
}

const same = (storage: Storage): Storage => storage;
const filled = (store: number, record: number): Uint8Array =>
  new Uint8Array(BLOCK).fill(1 + store * RECORDS + record);

describe('two stores on one disk', () => {
  test.each<Stores['modes']>([
    ['DRAIN_FLUSH', 'DRAIN_FUA'],
    ['DRAIN_FUA', 'DRAIN_FUA'],
  ])('in the modes %s and %s survive a power cut at every moment', async (...modes) => {
    const report = await crashTest(storesOver({ modes }));
    expect(report.verdict).toBe('proved');
  });

  test('survive it with tags, which the group keeps for them', async () => {
    const report = await crashTest(
      storesOver({ modes: ['TAG_FUA', 'TAG_FLUSH'], profile: 'scsi-tags' }),
    );
    expect(report.verdict).toBe('proved');
  });

  test('are found out without barriers', async () => {
    const stores: Stores = { modes: ['DRAIN_FLUSH', 'DRAIN_FUA'], ordered: false };
    expect((await crashTest(storesOver(stores))).verdict).toBe('failed');
  });

  test('are found out where the flushes of one of them do nothing', async () => {
    let members = 0;
    const around = (storage: Storage): Storage => {
      if (members++ % 2 === 0) return storage;
      const { size, capabilities } = storage;
      return {
        ...{
          size,
          capabilities: { ...capabilities, writev: false, discard: false, writeZeroes: false },
        },
        read: (at, into) => storage.read(at, into),
        write: (at, data, flags) => storage.write(at, data, { ...flags, fua: false }),
        flush: () => {},
        close: () => storage.close(),
      };
    };
    const report = await crashTest(storesOver({ modes: ['DRAIN_FLUSH', 'DRAIN_FUA'], around }));
    expect(report.verdict).toBe('failed');
  });
});
