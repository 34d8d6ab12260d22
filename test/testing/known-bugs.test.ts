// Mistakes that were really made, each with its repair: the kit finds the one and passes the other.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  formatProgram,
  IoScheduler,
  type Request,
  type SchedulerOptions,
  type Storage,
  type TraceEvent,
} from 'write-barrier';
import {
  type CrashReport,
  type CrashTest,
  checkTrace,
  crashTest,
  type DiskFault,
  VolatileDisk,
} from 'write-barrier/testing';
import { type AioProfile, QEMU_REPAIRED } from '../../src/systems/qemu/aio.js';
import { QemuProcess } from '../../src/systems/qemu/process.js';

const SECTOR = 512;
const PLAIN = { fua: false, tag: 'simple' } as const;
const FORCED = { fua: true, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const RECORDS = 3;

const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);
const recordAt = (n: number): number => 2 * n * SECTOR;
const markAt = (n: number): number => recordAt(n) + SECTOR;

/** Writes record n and its mark, and is done when the record is safe. */
type Append = (disk: VolatileDisk, n: number) => Promise<unknown>;

function first(disk: Storage, offset: number): number {
  const bytes = new Uint8Array(SECTOR);
  disk.read(offset, bytes);
  return bytes[0] as number;
}

/** A log of records with a mark behind each: a mark without its record is damage. */
function logOf(append: Append, faults: readonly DiskFault[] = []): CrashTest<number, number> {
  return {
    size: 2 * RECORDS * SECTOR,
    profile: 'scsi-tags',
    faults,
    workload: async (disk, journal) => {
      for (let n = 0; n < RECORDS; n++) {
        journal.begin(n);
        try {
          await append(disk, n);
        } catch {
          return;
        }
        journal.acknowledge(n);
      }
    },
    recover: (disk) => {
      for (let n = 0; n < RECORDS; n++) {
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

/** The same through a scheduler, which is made once for a disk. */
function scheduled(
  options: SchedulerOptions,
  commit: (host: IoScheduler, n: number) => Promise<unknown>,
): Append {
  const hosts = new WeakMap<VolatileDisk, IoScheduler>();
  return async (disk, n) => {
    const host = hosts.get(disk) ?? new IoScheduler(disk, { ...options, allowUnsafe: true });
    hosts.set(disk, host);
    await commit(host, n);
  };
}

const byBarrier = (host: IoScheduler, n: number): Promise<unknown> =>
  Promise.all([
    host.write(recordAt(n), sector(n + 1)),
    host.write(markAt(n), sector(n + 1), { barrier: true }),
  ]);

interface Bug {
  readonly name: string;
  readonly broken: CrashTest<number, number>;
  readonly repaired: CrashTest<number, number>;
  readonly found: RegExp;
}

const FIRST_FLUSH_FAILS: readonly DiskFault[] = [{ on: 'flush', nth: 0, fault: 'keep' }];
const FIRST_FLUSH_DROPS: readonly DiskFault[] = [{ on: 'flush', nth: 0, fault: 'drop' }];

const BUGS: readonly Bug[] = [
  {
    name: 'ext4 journal_async_commit before its fix: no flush behind the commit',
    broken: logOf(async (disk, n) => {
      await disk.write(recordAt(n), sector(n + 1), PLAIN);
      await disk.flush(SIMPLE);
      await disk.write(markAt(n), sector(n + 1), PLAIN);
    }),
    repaired: logOf(async (disk, n) => {
      await disk.write(recordAt(n), sector(n + 1), PLAIN);
      await disk.flush(SIMPLE);
      await disk.write(markAt(n), sector(n + 1), PLAIN);
      await disk.flush(SIMPLE);
    }),
    found: /was acknowledged/,
  },
  {
    name: 'an NVMe driver that sent the flush and the data of one request at once',
    broken: logOf(async (disk, n) => {
      await disk.write(recordAt(n), sector(n + 1), PLAIN);
      await Promise.all([disk.flush(SIMPLE), disk.write(markAt(n), sector(n + 1), FORCED)]);
    }),
    repaired: logOf(async (disk, n) => {
      await disk.write(recordAt(n), sector(n + 1), PLAIN);
      await disk.flush(SIMPLE);
      await disk.write(markAt(n), sector(n + 1), FORCED);
    }),
    found: /without its record/,
  },
  {
    name: 'a frontend that offers TAG over a backend with a cache',
    broken: logOf(scheduled({ mode: 'TAG' }, byBarrier)),
    repaired: logOf(scheduled({ mode: 'TAG_FLUSH' }, byBarrier)),
    found: /without its record|was acknowledged/,
  },
  {
    name: 'a kernel that writes the barrier although its preflush has failed (2.6.3x)',
    broken: logOf(
      scheduled({ mode: 'DRAIN_FUA', errorPolicy: 'kernel' }, byBarrier),
      FIRST_FLUSH_FAILS,
    ),
    repaired: logOf(
      scheduled({ mode: 'DRAIN_FUA', errorPolicy: 'abort' }, byBarrier),
      FIRST_FLUSH_FAILS,
    ),
    found: /without its record/,
  },
  {
    name: 'a database that repeats a failed fsync and believes the second answer',
    broken: logOf(async (disk, n) => {
      await disk.write(recordAt(n), sector(n + 1), PLAIN);
      await disk.write(markAt(n), sector(n + 1), PLAIN);
      try {
        await disk.flush(SIMPLE);
      } catch {
        await disk.flush(SIMPLE);
      }
    }, FIRST_FLUSH_DROPS),
    repaired: {
      ...logOf(async (disk, n) => {
        for (;;) {
          try {
            await disk.write(recordAt(n), sector(n + 1), PLAIN);
            await disk.flush(SIMPLE);
            await disk.write(markAt(n), sector(n + 1), PLAIN);
            await disk.flush(SIMPLE);
            return;
          } catch {}
        }
      }, FIRST_FLUSH_DROPS),
    },
    found: /was acknowledged|without its record/,
  },
  {
    name: 'PREFLUSH and FUA taken to cover what is in flight, as a hard barrier did',
    broken: logOf(async (disk, n) => {
      const record = disk.write(recordAt(n), sector(n + 1), PLAIN);
      await disk.flush(SIMPLE);
      await disk.write(markAt(n), sector(n + 1), FORCED);
      await record;
    }),
    repaired: logOf(async (disk, n) => {
      await disk.write(recordAt(n), sector(n + 1), PLAIN);
      await disk.flush(SIMPLE);
      await disk.write(markAt(n), sector(n + 1), FORCED);
    }),
    found: /without its record/,
  },
];

/** Looks under several orders of answers: some mistakes show in one order only. */
async function anyFailure<A, R>(
  of: CrashTest<A, R>,
  seeds: number,
): Promise<CrashReport | undefined> {
  for (let seed = 0; seed < seeds; seed++) {
    const report = await crashTest({ ...of, seed, recoveriesMax: 1000 });
    if (report.verdict === 'failed') return report;
  }
  return undefined;
}

describe.each(BUGS.map((bug) => [bug.name, bug] as const))(
  '%s',
  (_, { broken, repaired, found }) => {
    test('is found, within a thousand recoveries', async () => {
      const report = await anyFailure(broken, 20);
      expect(report?.failure?.message).toMatch(found);
      expect(report?.failure?.text).toMatch(/would have|to|behind/);
    });

    test('is proved to be gone once it is mended', async () => {
      for (let seed = 0; seed < 20; seed++) {
        const report = await crashTest({ ...repaired, seed });
        expect(report.verdict).not.toBe('failed');
        expect(report.covered).toBe(report.images);
      }
    });
  },
);

/** Two values in two slots, each with a checksum: broken without the slot in it. */
function slots(sum: (slot: number, value: number) => number): CrashTest<string, string> {
  const line = (slot: number, value: number): Uint8Array => {
    const bytes = sector(0);
    bytes.set([value, sum(slot, value)]);
    return bytes;
  };
  return {
    size: 4 * SECTOR,
    // The second write lands on the slot of the first one, and nobody hears of it.
    faults: [{ on: 'write', nth: 1, fault: 'misdirected', at: 0 }],
    workload: async (disk, journal) => {
      for (const [slot, value] of [
        [0, 7],
        [1, 8],
      ] as const) {
        await disk.write(slot * SECTOR, line(slot, value), PLAIN);
        await disk.flush(SIMPLE);
        journal.acknowledge(`value ${value}`);
      }
    },
    recover: (disk) => {
      const bytes = new Uint8Array(SECTOR);
      disk.read(0, bytes);
      const [value = 0, check] = bytes;
      if (value === 0) return 'empty';
      return check === sum(0, value) ? `value ${value}` : 'damaged, and known to be';
    },
    check: (found, { acknowledged }) =>
      found !== 'value 8' && (found !== 'empty' || acknowledged.length === 0),
  };
}

test('a misdirected write is taken for a good one where the checksum does not cover the place', async () => {
  expect(await crashTest(slots((_, value) => value ^ 0x55))).toMatchObject({ verdict: 'failed' });
  expect(await crashTest(slots((slot, value) => value ^ 0x55 ^ (slot << 4)))).toMatchObject({
    verdict: 'proved',
  });
});

test('damage in the middle of a log is not its end: who cuts there loses what was acknowledged', async () => {
  const DAMAGED = -1;
  const logWith = (careful: boolean): CrashTest<number, number> => ({
    ...logOf(
      async (disk, n) => {
        await disk.write(recordAt(n), sector(n + 1), PLAIN);
        await disk.flush(SIMPLE);
      },
      [{ on: 'write', nth: 1, fault: 'lost' }],
    ),
    recover: (disk) => {
      const good = Array.from({ length: RECORDS }, (_, n) => first(disk, recordAt(n)) === n + 1);
      const end = good.indexOf(false);
      if (end < 0) return RECORDS;
      // A good record behind a bad one: that is no power cut.
      return careful && good.includes(true, end) ? DAMAGED : end;
    },
    // Of a last record that never came nobody can know.
    check: (records, { acknowledged }) => records === DAMAGED || acknowledged.length - records <= 1,
  });
  expect(await crashTest(logWith(false))).toMatchObject({ verdict: 'failed' });
  expect(await crashTest(logWith(true))).toMatchObject({ verdict: 'proved' });
});

/** Submits a program to QEMU's queue, takes one request back at once, and tells what the trace checker finds. */
async function cancelled(
  profile: AioProfile,
  program: readonly Request[],
  victim: number,
): Promise<string[]> {
  const events: TraceEvent[] = [];
  const process = new QemuProcess({ profile, threadsMax: 1 });
  const device = new VolatileDisk({ size: 5 * SECTOR });
  const disk = process.open(device, {
    observer: (event) => events.push(event),
  });
  const handles = program.map((request) =>
    disk.submit(request, request.kind === 'write' ? new Uint8Array(request.length) : undefined),
  );
  const ends = Promise.allSettled(handles.map(({ result }) => result));
  const chosen = handles[victim];
  if (chosen) disk.cancel(chosen);
  // In the disk's own time: what has not ended when it has nothing more to answer never ends.
  await Promise.race([ends, device.sleep(20_000)]);
  // A cancelled barrier that keeps its place has a flush to send.
  await device.sleep(20_000);
  return checkTrace(events, 'DRAIN_FLUSH').map(({ rule, text }) => `${rule} ${text}`);
}

/** As in the patch, and nothing else of it. */
const LOST_COUNT: AioProfile = {
  ...QEMU_REPAIRED,
  cancelKeepsCount: true,
  cancelDropsPlace: true,
};

describe('a queue that forgets to count a cancelled barrier (QEMU, 2009)', () => {
  // Nothing overlaps: that nobody orders such writes is another matter.
  const programs = fc
    .array(fc.constantFrom('write', 'barrier', 'read'), { minLength: 1, maxLength: 5 })
    .map((kinds) =>
      kinds.map((kind, i): Request => {
        const where = { offset: i * SECTOR, length: SECTOR };
        if (kind === 'read') return { kind, ...where };
        return { kind: 'write', ...where, ...(kind === 'barrier' && { barrier: true }) };
      }),
    );
  const search = (profile: AioProfile) =>
    fc.check(
      fc.asyncProperty(programs, fc.nat({ max: 4 }), async (program, victim) => {
        expect(await cancelled(profile, program, victim)).toEqual([]);
      }),
      { numRuns: 100, seed: 7 },
    );

  test('is found, and the smallest program is three requests', async () => {
    const { failed, counterexample } = await search(LOST_COUNT);
    expect(failed).toBe(true);
    const [program, victim] = counterexample as [Request[], number];
    expect(formatProgram(program, { blockSize: SECTOR })).toBe('w0 b1 w2');
    expect(victim).toBe(1);
    const found = await cancelled(LOST_COUNT, program, victim);
    expect(found).toEqual([expect.stringMatching(/^C14 .*request 2.*never dispatched/)]);
  });

  test('is gone once it counts', async () => {
    expect(await search(QEMU_REPAIRED)).toMatchObject({ failed: false });
  });
});
