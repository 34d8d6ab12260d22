// A small log in a guest, through driver and device down to a disk whose power is cut. Each driver of the table, on hosts
// that keep the standard: proved. What went wrong once, each with its repair: found and proved.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type SchedulerOptions, type Storage, type TraceEvent } from 'write-barrier';
import {
  type CrashReport,
  type CrashTest,
  checkTrace,
  crashTest,
  type DeviceProfile,
  type VolatileDisk,
} from 'write-barrier/testing';
import { VirtioBackend, type VirtioBackendOptions } from '../../../src/systems/virtio/backend.js';
import { VIRTIO_WRITEBACK_AT } from '../../../src/systems/virtio/codec.js';
import type { VirtioFeature } from '../../../src/systems/virtio/features.js';
import { type VirtioStorageOptions, virtioStorage } from '../../../src/systems/virtio/storage.js';
import { SECTOR, sectors } from './support.js';

const RECORDS = 2;
const recordAt = (n: number): number => 2 * n * SECTOR;
const markAt = (n: number): number => recordAt(n) + SECTOR;

/** Driver, device and disk; the scheduler of the host takes the mode that suits the disk. */
interface Machine {
  readonly driver?: VirtioStorageOptions;
  readonly device?: VirtioBackendOptions;
  readonly disk?: Partial<DeviceProfile>;
  readonly guest?: SchedulerOptions;
}

interface Booted {
  /** The block layer of the guest, in the mode of its driver. */
  readonly guest: IoScheduler;
  readonly device: VirtioBackend;
}

async function boot(machine: Machine, disk: VolatileDisk): Promise<Booted> {
  const device = new VirtioBackend(new IoScheduler(disk), machine.device);
  const storage = await virtioStorage(device, machine.driver);
  const { mode } = storage.ordering;
  return { guest: new IoScheduler(storage, { mode, allowUnsafe: true, ...machine.guest }), device };
}

/** Writes record n and its mark, and is done when its user may be told that it is safe. */
type Commit = (machine: Booted, n: number) => Promise<unknown>;

/** For those who have barriers: record and mark at once. */
const byBarrier: Commit = ({ guest }, n) =>
  Promise.all([
    guest.write(recordAt(n), sectors(1, n + 1)),
    guest.write(markAt(n), sectors(1, n + 1), { barrier: true }),
  ]);

/** For those who have not: wait and flush. */
const byWaiting: Commit = async ({ guest }, n) => {
  await guest.write(recordAt(n), sectors(1, n + 1));
  await guest.flush();
  await guest.write(markAt(n), sectors(1, n + 1), { fua: true });
};

function first(disk: Storage, offset: number): number {
  const bytes = new Uint8Array(SECTOR);
  disk.read(offset, bytes);
  return bytes[0] as number;
}

/** A log in a guest: a mark without its record is damage, and what was acknowledged must be there. */
function logIn(machine: Machine, commit: Commit): CrashTest<number, number> {
  return {
    size: 2 * RECORDS * SECTOR,
    profile: { orderedTags: true, ...machine.disk },
    workload: async (disk, journal) => {
      const booted = await boot(machine, disk);
      for (let n = 0; n < RECORDS; n += 1) {
        journal.begin(n);
        await commit(booted, n);
        journal.acknowledge(n);
      }
      await booted.guest.idle();
      await booted.device.close();
    },
    recover: (disk) => {
      for (let n = 0; n < RECORDS; n += 1) {
        if (first(disk, markAt(n)) !== n + 1) return n;
        if (first(disk, recordAt(n)) !== n + 1) throw new Error(`mark ${n} without its record`);
      }
      return RECORDS;
    },
    check: (records, { acknowledged, begun }) => {
      if (records < acknowledged.length) throw new Error(`record ${records} was acknowledged`);
      return records <= begun.length;
    },
  };
}

const SEEDS = 10;

/** Looks under several orders of answers: some mistakes show in one order only. */
async function failureOf(log: CrashTest<number, number>): Promise<CrashReport['failure']> {
  for (let seed = 0; seed < SEEDS; seed += 1) {
    const { failure } = await crashTest({ ...log, seed, recoveriesMax: 1000 });
    if (failure) return failure;
  }
  return undefined;
}

async function expectProof(log: CrashTest<number, number>): Promise<void> {
  for (let seed = 0; seed < SEEDS; seed += 1) {
    const report = await crashTest({ ...log, seed });
    expect(report.failure?.text ?? report.verdict).toBe('proved');
  }
}

const NO_CACHE = { cache: 'none' } as const;
const neither: VirtioFeature[] = [];

describe('a log in a guest is proved', () => {
  test.each<[string, Machine, Commit]>([
    ['before the patch, with FLUSH', { driver: { era: 'beforePatch' } }, byBarrier],
    [
      'before the patch, with BARRIER only, on a host that commits what it completes',
      { driver: { era: 'beforePatch' }, device: { features: ['BARRIER'] } },
      byBarrier,
    ],
    ['after the patch, with FLUSH', { driver: { era: 'afterPatch' } }, byBarrier],
    [
      'after the patch, with neither, on a disk without a cache',
      {
        driver: { era: 'afterPatch' },
        device: { features: neither, host: 'legacy' },
        disk: NO_CACHE,
      },
      byBarrier,
    ],
    [
      'after the patch, with neither, on a host that commits what it completes',
      { driver: { era: 'afterPatch' }, device: { features: neither } },
      byBarrier,
    ],
    ['with today’s driver in write-back', { driver: { era: 'linuxToday' } }, byWaiting],
    [
      'with today’s driver in write-through',
      { driver: { era: 'linuxToday', writeback: false } },
      byWaiting,
    ],
    [
      'with today’s driver, with neither feature taken of those offered',
      { driver: { era: 'linuxToday', decline: ['FLUSH', 'CONFIG_WCE'] } },
      byWaiting,
    ],
    ['with what the specification allows, in write-back', {}, byBarrier],
    [
      'with what the specification allows, in write-through',
      { driver: { writeback: false } },
      byBarrier,
    ],
    [
      'with what the specification allows, without FUA at the disk',
      { disk: { fua: false, orderedTags: false } },
      byBarrier,
    ],
    ['with a guest that forces its barriers', { guest: { mode: 'DRAIN_FUA' } }, byBarrier],
  ])('%s', async (_, machine, commit) => {
    await expectProof(logIn(machine, commit));
  });
});

// What went wrong, and what was done about it

/** A log that relies on barriers: where they are refused it sends the mark again without, as it was told to. */
const resending: Commit = async ({ guest }, n) => {
  const record = guest.write(recordAt(n), sectors(1, n + 1));
  const mark = sectors(1, n + 1);
  await guest.write(markAt(n), mark, { barrier: true }).catch((error) => {
    if (error.code !== 'EOPNOTSUPP') throw error;
    return guest.write(markAt(n), mark);
  });
  await record;
};

/** Makes one record safe by an explicit flush. */
const byFlush: Commit = async ({ guest }, n) => {
  await guest.write(recordAt(n), sectors(1, n + 1));
  await guest.flush();
  await guest.write(markAt(n), sectors(1, n + 1));
  await guest.flush();
};

/** Toggles the cache mode between record and mark, with `before` what it does ahead of that. */
const toggling =
  (before: (guest: IoScheduler) => Promise<void>): Commit =>
  async ({ guest, device }, n) => {
    device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(1));
    await guest.write(recordAt(n), sectors(1, n + 1));
    await before(guest);
    device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(0));
    await guest.write(markAt(n), sectors(1, n + 1));
  };

interface Defect {
  readonly name: string;
  readonly broken: CrashTest<number, number>;
  readonly repaired: CrashTest<number, number>;
  readonly found: RegExp;
}

const ORDER = /without its record/;
const DURABILITY = /was acknowledged|without its record/;
const trusting = (era: 'beforePatch' | 'afterPatch', features: VirtioFeature[]): Machine => ({
  driver: { era },
  device: { features, host: 'legacy' },
});

const DEFECTS: readonly Defect[] = [
  {
    name: 'neither feature before the patch: barriers are refused, and a write-through host keeps no order',
    broken: logIn({ ...trusting('beforePatch', neither), disk: NO_CACHE }, resending),
    repaired: logIn({ ...trusting('afterPatch', neither), disk: NO_CACHE }, resending),
    found: ORDER,
  },
  {
    name: 'neither feature after the patch, on a host with a volatile cache: order without integrity',
    broken: logIn(trusting('afterPatch', neither), byBarrier),
    repaired: logIn(trusting('afterPatch', ['FLUSH']), byBarrier),
    found: DURABILITY,
  },
  {
    name: 'neither feature before the patch, on such a host: not even order among the completions',
    broken: logIn(trusting('beforePatch', neither), resending),
    repaired: logIn(trusting('beforePatch', ['FLUSH']), resending),
    found: DURABILITY,
  },
  {
    name: 'BARRIER only: the flush of the guest never reaches the host',
    broken: logIn(trusting('afterPatch', ['BARRIER']), byFlush),
    repaired: logIn(trusting('afterPatch', ['BARRIER', 'FLUSH']), byFlush),
    found: DURABILITY,
  },
  {
    name: 'a legacy device that offers FLUSH, and does not commit for a driver that has not taken it',
    broken: logIn(
      { driver: { decline: ['FLUSH', 'CONFIG_WCE'] }, device: { host: 'legacy' } },
      byBarrier,
    ),
    repaired: logIn({ driver: { decline: ['FLUSH', 'CONFIG_WCE'] } }, byBarrier),
    found: DURABILITY,
  },
  {
    name: 'a driver that takes the change to write-through for a flush',
    broken: logIn(
      { driver: { era: 'linuxToday' } },
      toggling(async () => {}),
    ),
    repaired: logIn(
      { driver: { era: 'linuxToday' } },
      toggling((guest) => guest.flush()),
    ),
    found: ORDER,
  },
];

describe.each(DEFECTS.map((defect) => [defect.name, defect] as const))(
  '%s',
  (_, { broken, repaired, found }) => {
    test('is found', async () => {
      expect((await failureOf(broken))?.message).toMatch(found);
    });

    test('is proved to be gone once it is mended', async () => {
      await expectProof(repaired);
    });
  },
);

describe('the trace of the guest', () => {
  const EVERYTHING = { cache: 'volatile', flush: true, fua: false, orderedTags: true } as const;

  /** The events of the guest's scheduler while a log runs. */
  async function traced(machine: Machine, commit: Commit): Promise<readonly TraceEvent[]> {
    const events: TraceEvent[] = [];
    const observer = (event: TraceEvent): void => void events.push(event);
    await crashTest({
      ...logIn({ ...machine, guest: { observer } }, commit),
      recoveriesMax: 1,
      check: () => true,
    });
    return events;
  }

  test('given a driver that believes in no cache, it keeps its mode, and breaks it on the device as it is', async () => {
    const plain: Commit = ({ guest }, n) =>
      guest.write(recordAt(n), sectors(1, 1)).then(() => guest.flush());
    for (const [features, mode, believed] of [
      [['BARRIER'], 'TAG', { cache: 'none', flush: false, fua: false, orderedTags: true }],
      [[], 'DRAIN', { cache: 'none', flush: false, fua: false, orderedTags: false }],
    ] as const) {
      const events = await traced(trusting('afterPatch', [...features]), plain);
      expect(checkTrace(events, { mode, device: believed })).toEqual([]);
      const rules = checkTrace(events, { mode, device: EVERYTHING }).map(({ rule }) => rule);
      // The flush is answered, and no flush of the device was dispatched.
      expect(rules).toContain('C11');
    }
  });

  test('given a driver that knows the cache, it keeps its mode on the device as it is', async () => {
    const device = { cache: 'volatile', flush: true, fua: false, orderedTags: false } as const;
    for (const era of ['beforePatch', 'afterPatch', 'specification'] as const) {
      const events = await traced({ driver: { era } }, byBarrier);
      expect(checkTrace(events, { mode: 'DRAIN_FLUSH', device })).toEqual([]);
    }
    const events = await traced({ driver: { era: 'linuxToday' } }, byWaiting);
    expect(checkTrace(events, { mode: 'NONE', device })).toEqual([]);
  });
});
