// The queue of QEMU 2009 over disks: the checker of traces and the crash kit find its defects, each with a small
// program, and find nothing in the same program on the repaired queue.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Request,
  type Storage,
  type TraceEvent,
  WriteBarrierError,
  withFaults,
} from 'write-barrier';
import {
  type CrashTest,
  checkTrace,
  crashTest,
  type DiskFault,
  VolatileDisk,
} from 'write-barrier/testing';
import { Tapdisk } from '../../../src/systems/blktap/tapdisk.js';
import type { CancelAnswer } from '../../../src/systems/qemu/aio.js';
import { type AioProfile, QEMU_2009, QEMU_REPAIRED } from '../../../src/systems/qemu/aio.js';
import { PosixAio } from '../../../src/systems/qemu/posix-aio.js';
import { type QemuDisk, QemuProcess } from '../../../src/systems/qemu/process.js';
import { share } from '../../kit/amount.js';
import { ManualStorage } from '../../scheduler/world.js';
import { BLOCK, Guest, open, qemu, settled } from './support.js';

/** In the disk's own time: whatever it is to answer has been answered by then. */
const LONG_US = 1_000_000;

const PROFILES = { patch: QEMU_2009, repaired: QEMU_REPAIRED } as const;

describe('without cancellations and failures', () => {
  test.each(Object.entries(PROFILES))(
    'given the %s, then a barrier is sync, write, sync, and alone',
    async (_, profile) => {
      const { device, guest } = qemu({ profile });
      guest.submit('w0 w1 b2 r3 w4 b5 w6');
      expect(device.inFlight).toBe('w0 w1');
      await device.drain();
      expect(device.log).toBe('w0 w1 F w2 F r3 w4 F w5 F w6');
      expect(guest.outcomes).toBe('w0:done w1:done b2:done r3:done w4:done b5:done w6:done');
      expect(guest.broken).toEqual([]);
    },
  );

  test('given a disk without a volatile cache, then fdatasync finds nothing to do', async () => {
    const { device, guest } = qemu({}, { cache: 'none' });
    guest.submit('w0 b1 w2');
    await device.drain();
    expect(device.log).toBe('w0 w1 w2');
  });

  test('given a storage that answers at once, then everything has happened when submit returns', () => {
    const disk = new VolatileDisk({ size: 8 * BLOCK, answers: 'at-once' });
    const guest = open(new QemuProcess(), disk);
    guest.submit('w0 b1 w2');
    expect(disk.trace.commands.map(({ op }) => op).join(' ')).toBe('write flush write flush write');
    expect(guest.broken).toEqual([]);
  });

  test('given a read, then its bytes come, in a buffer of the caller where there is one', async () => {
    const disk = new VolatileDisk({ size: 2 * BLOCK, initial: new Uint8Array(2 * BLOCK).fill(7) });
    const { aio } = open(new QemuProcess(), disk);
    const into = new Uint8Array(BLOCK);
    expect(await aio.submit({ kind: 'read', offset: 0, length: BLOCK }, into).result).toBe(into);
    expect(into[0]).toBe(7);
    const bytes = await aio.submit({ kind: 'read', offset: BLOCK, length: BLOCK }).result;
    expect((bytes as Uint8Array)[0]).toBe(7);
  });
});

/** A defect that shows in a trace. */
interface Found {
  readonly defect: string;
  readonly threadsMax: number;
  /** What the guest does, and how the disk answers. */
  readonly play: (guest: Guest, device: ManualStorage) => Promise<void>;
  /** What the checker says of the patch. */
  readonly broken: readonly RegExp[];
}

const FOUND: readonly Found[] = [
  {
    defect: 'a cancelled barrier stays in the count: whatever comes later waits for ever',
    threadsMax: 1,
    play: async (guest, device) => {
      guest.submit('w0 b1 w2');
      guest.cancel('b1');
      await device.drain();
      guest.submit('w3');
      await device.drain();
    },
    broken: [/^C14 w2 .*never dispatched/, /^C14 w3 .*never dispatched/],
  },
  {
    defect: 'a released request is unlinked from the wrong list: the next submission is lost',
    threadsMax: 1,
    play: async (guest, device) => {
      guest.submit('b0 w1 w2');
      for (const call of ['F', 'w0', 'F']) await device.answer(call);
      guest.cancel('w2');
      guest.submit('w3');
      await device.drain();
    },
    broken: [/^C14 w3 .*never dispatched/],
  },
  {
    defect:
      'a released barrier is unlinked from the wrong list: a later write jumps the next barrier',
    threadsMax: 2,
    play: async (guest, device) => {
      guest.submit('w0 w1 b2 w3 w4 b5');
      for (const call of ['w0', 'w1', 'F', 'w2', 'F']) await device.answer(call);
      expect(device.inFlight).toBe('w3 w4');
      guest.cancel('b5');
      guest.submit('b6 w7');
      await device.drain();
    },
    broken: [/^C4 w7 .*is dispatched .*before b6/],
  },
  {
    defect: 'a barrier that waits for idle workers can be had back: it is canceled, and written',
    threadsMax: 2,
    play: async (guest, device) => {
      guest.submit('w0 b1');
      guest.cancel('b1');
      await device.drain();
    },
    broken: [/^C13 w1 .*which has ended/],
  },
];

describe.each(FOUND)('$defect', ({ threadsMax, play, broken }) => {
  test('is found in the patch', async () => {
    const { device, guest } = qemu({ threadsMax });
    await play(guest, device);
    expect(guest.broken.length).toBe(broken.length);
    for (const [i, rule] of broken.entries()) expect(guest.broken[i]).toMatch(rule);
  });

  test('is not in the repaired queue', async () => {
    const { device, guest } = qemu({ profile: QEMU_REPAIRED, threadsMax });
    await play(guest, device);
    expect(guest.broken).toEqual([]);
  });
});

describe('given two disks of one process, when a barrier on the first has a disk that does not answer', () => {
  const play = async (profile: AioProfile): Promise<{ a: Guest; b: Guest }> => {
    const process = new QemuProcess({ profile });
    const hanging = withFaults(new VolatileDisk({ size: 8 * BLOCK }), [
      { on: 'flush', nth: 0, fault: 'hang' },
    ]);
    const a = open(process, hanging);
    const other = new VolatileDisk({ size: 8 * BLOCK, profile: { sectorSize: BLOCK } });
    const b = open(process, other);
    a.submit('b0');
    b.submit('w0 b1');
    await other.sleep(LONG_US);
    return { a, b };
  };

  test('case 45: then the patch lets nobody on the other disk go on, and that is found', async () => {
    const { b } = await play(QEMU_2009);
    expect(b.outcomes).toBe('w0:pending b1:pending');
    expect(b.broken).toEqual([
      'C14 w0 (request 0) is stranded: it was never dispatched, and it is not answered',
      'C14 b1 (request 1) is stranded: it was never dispatched, and it is not answered',
    ]);
  });

  test('then in the repaired queue the other disk does not notice', async () => {
    const { a, b } = await play(QEMU_REPAIRED);
    expect(a.outcomes).toBe('b0:pending');
    expect(b.outcomes).toBe('w0:done b1:done');
    expect(b.broken).toEqual([]);
  });
});

test('given a barrier that waits for writes of another disk, then the patch syncs its own disk only', async () => {
  const process = new QemuProcess();
  const devices = [new ManualStorage(), new ManualStorage()] as const;
  const [a, b] = [open(process, devices[0]), open(process, devices[1])];
  a.submit('w0');
  b.submit('b1');
  expect(devices[1].log).toBe('');
  await devices[0].answer('w0');
  await devices[1].drain();
  expect([devices[0].log, devices[1].log]).toEqual(['w0', 'F w1 F']);
});

// The crash kit

const SECTOR = 512;
const RECORDS = 2;
const recordAt = (n: number): number => 2 * n * SECTOR;
const markAt = (n: number): number => recordAt(n) + SECTOR;
const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);

/** A log of records, each with a mark behind it: the mark is a barrier, so it is never there without its record. */
function logOn(profile: AioProfile, faults: readonly DiskFault[] = []): CrashTest<number, number> {
  const writeOf = (offset: number, barrier: boolean): Request => ({
    kind: 'write',
    offset,
    length: SECTOR,
    ...(barrier && { barrier }),
  });
  const first = (disk: Storage, offset: number): number => {
    const bytes = new Uint8Array(SECTOR);
    disk.read(offset, bytes);
    return bytes[0] as number;
  };
  return {
    size: 2 * RECORDS * SECTOR,
    faults,
    workload: async (disk, journal) => {
      const queue = new QemuProcess({ profile }).open(disk);
      for (let n = 0; n < RECORDS; n++) {
        journal.begin(n);
        const record = queue.submit(writeOf(recordAt(n), false), sector(n + 1));
        const mark = queue.submit(writeOf(markAt(n), true), sector(n + 1));
        const ends = await Promise.allSettled([record.result, mark.result]);
        if (ends.some(({ status }) => status === 'rejected')) return;
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

describe.each<[string, readonly DiskFault[], RegExp | undefined]>([
  ['nothing fails', [], undefined],
  [
    'the first fdatasync fails and gives up what is cached',
    [{ on: 'flush', nth: 0, fault: 'drop' }],
    /mark 0 without its record|record 0 was acknowledged/,
  ],
  [
    'the second fdatasync fails, behind the barrier',
    [{ on: 'flush', nth: 1, fault: 'drop' }],
    /record 0 was acknowledged/,
  ],
  [
    'a write that the barrier covers fails',
    [{ on: 'write', nth: 0, fault: 'fail' }],
    /mark 0 without/,
  ],
])('given a log, when %s', (_, faults, message) => {
  test(`then the patch ${message ? 'loses it, and that is found' : 'keeps it'}`, async () => {
    const messages: string[] = [];
    for (let seed = 0; seed < 10; seed++) {
      const report = await crashTest({ ...logOn(QEMU_2009, faults), seed });
      if (report.failure) messages.push(report.failure.message);
      else expect(report.covered).toBe(report.images);
    }
    if (message) expect(messages[0]).toMatch(message);
    else expect(messages).toEqual([]);
  });

  test('then the repaired queue keeps it', async () => {
    for (let seed = 0; seed < 10; seed++) {
      const report = await crashTest({ ...logOn(QEMU_REPAIRED, faults), seed });
      expect(report.verdict).not.toBe('failed');
      expect(report.covered).toBe(report.images);
    }
  });
});

/** A cancellation, and what may not be left behind by it. */
interface Cancelled {
  readonly defect: string;
  readonly play: (guest: Guest) => Promise<CancelAnswer>;
  /** Of the blocks that are there. */
  readonly wrong: (left: ReadonlySet<number>) => boolean;
}

// A barrier that stays in the count is not here: nobody loses anything by it, since nothing is answered any more.
const CANCELLED: readonly Cancelled[] = [
  {
    defect: 'a barrier that waits for idle workers is canceled, and on the medium',
    play: async (guest) => {
      guest.submit('w0 b1');
      return guest.cancel('b1');
    },
    wrong: (left) => left.has(1),
  },
  {
    defect:
      'a released barrier is canceled, and a later write is on the medium before the next one',
    play: async (guest) => {
      guest.submit('w0 w1 b2 w3 w4 b5');
      await guest.told[2]?.handle.result;
      const answer = guest.cancel('b5');
      guest.submit('b6 w7');
      return answer;
    },
    wrong: (left) => left.has(7) && !left.has(6),
  },
];

describe.each(CANCELLED)('given a cancellation, $defect', ({ play, wrong }) => {
  const failures = async (profile: AioProfile): Promise<number> => {
    let failed = 0;
    for (let seed = 0; seed < 10; seed++) {
      const { verdict } = await crashTest<'canceled', ReadonlySet<number>>({
        size: 8 * BLOCK,
        profile: { sectorSize: BLOCK, atomicWriteUnit: BLOCK },
        seed,
        workload: async (disk, journal) => {
          const guest = open(new QemuProcess({ profile, threadsMax: 2 }), disk);
          journal.begin('canceled');
          if ((await play(guest)) === 'canceled') journal.acknowledge('canceled');
          await disk.sleep(LONG_US);
        },
        recover: (disk) => {
          const bytes = new Uint8Array(8 * BLOCK);
          disk.read(0, bytes);
          return new Set([...Array(8).keys()].filter((block) => bytes[block * BLOCK] === 1));
        },
        check: (left, { acknowledged }) => acknowledged.length === 0 || !wrong(left),
      });
      if (verdict === 'failed') failed += 1;
    }
    return failed;
  };

  test('is found in the patch', async () => {
    expect(await failures(QEMU_2009)).toBeGreaterThan(0);
  });

  test('is not in the repaired queue', async () => {
    expect(await failures(QEMU_REPAIRED)).toBe(0);
  });
});

test('case 29: given an fdatasync that fails, when the barrier is told as done, then the checker of traces finds that, too', async () => {
  const { device, guest } = qemu();
  guest.submit('b0');
  await device.fail('F');
  await device.drain();
  expect(guest.outcomes).toBe('b0:done');
  expect(guest.broken).toEqual([
    'C8 b0 (request 0) is answered as done although a command of it has failed',
  ]);
});

// Answers

test.each([
  ['its first sync', 'b0', 'F'],
  ['a write before it', 'w0 b1', 'w0'],
])(
  'given a barrier, when %s fails, then the patch writes it, which is found, and the repaired queue does not',
  async (_, program, fails) => {
    for (const profile of [QEMU_2009, QEMU_REPAIRED]) {
      const { device, guest } = qemu({ profile });
      guest.submit(program);
      await device.fail(fails);
      await device.drain();
      const found = checkTrace(guest.events, { mode: 'DRAIN_FLUSH', errorPolicy: 'abort' });
      const rules = found.map(({ rule }) => rule);
      if (profile === QEMU_2009) expect(rules).toContain('C15');
      else expect(rules).toEqual([]);
    }
  },
);

describe('the errors', () => {
  const repaired = { profile: QEMU_REPAIRED };

  test('tell which call failed, and what the storage said', async () => {
    const { device, guest } = qemu(repaired);
    guest.submit('w0');
    await device.fail('w0', 'no space left');
    guest.submit('b1');
    await device.fail('F');
    expect(guest.outcomes).toBe('w0:IO_FAILED b1:FLUSH_FAILED');
    await expect(guest.told[0]?.handle.result).rejects.toMatchObject({
      cause: new Error('no space left'),
    });
    expect(guest.broken).toEqual([]);
  });

  test('tell of a barrier that was not written because of somebody else', async () => {
    const { device, guest } = qemu(repaired);
    guest.submit('w0 b1 w2');
    await device.fail('w0');
    await device.drain();
    expect(device.log).toBe('w0 F w2');
    expect(guest.outcomes).toBe('w0:IO_FAILED b1:BARRIER_ABORTED w2:done');
    expect(guest.broken).toEqual([]);
  });

  test('tell of a transfer that comes short, and of a storage that throws nonsense', async () => {
    const disk = new VolatileDisk({ size: BLOCK });
    const short = withFaults(disk, [{ on: 'write', nth: 0, fault: 'short' }]);
    const rude: Storage = {
      ...short,
      write: () => {
        throw { toString: null };
      },
    };
    for (const [storage, outcome] of [
      [short, 'w0:SHORT_TRANSFER'],
      [rude, 'w0:IO_FAILED'],
    ] as const) {
      const guest = open(new QemuProcess(), storage);
      guest.submit('w0');
      await disk.sleep(LONG_US);
      expect(guest.outcomes).toBe(outcome);
      expect(guest.broken).toEqual([]);
    }
  });
});

describe('what is refused', () => {
  test.each(['b', 'f', 'fw0', 'w0!', 'd0', 'z0'])(
    '%s, of which the patch knows nothing',
    async (program) => {
      const { device, guest } = qemu();
      guest.submit(program);
      await settled();
      expect(guest.outcomes).toBe(`${program}:EOPNOTSUPP`);
      expect([device.log, guest.events]).toEqual(['', []]);
      expect(guest.cancel(program)).toBe('all done');
    },
  );

  test('barriers on a file opened with O_DIRECT or O_DSYNC, in the patch', async () => {
    const offered = Object.values(PROFILES).map((profile) => {
      const process = new QemuProcess({ profile });
      const disk = new ManualStorage();
      return [[], ['O_DIRECT'], ['O_DSYNC']].map(
        (flags) => process.open(disk, { flags: flags as 'O_DIRECT'[] }).barrierSupport,
      );
    });
    expect(offered).toEqual([
      [true, false, false],
      [true, true, true],
    ]);
    const guest = open(new QemuProcess(), new ManualStorage(), { flags: ['O_DIRECT'] });
    guest.submit('b0');
    await settled();
    expect(guest.outcomes).toBe('b0:EOPNOTSUPP');
  });

  test('barriers over a volatile cache that cannot be flushed', () => {
    const storage = new ManualStorage({ flush: false });
    expect(new QemuProcess().open(storage).barrierSupport).toBe(false);
  });

  test.each<[string, Request, Uint8Array | undefined]>([
    ['OUT_OF_RANGE', { kind: 'write', offset: 1024 * BLOCK, length: BLOCK }, new Uint8Array(BLOCK)],
    ['OUT_OF_RANGE', { kind: 'read', offset: Number.NaN, length: BLOCK }, undefined],
    ['UNALIGNED', { kind: 'write', offset: 1, length: BLOCK }, new Uint8Array(BLOCK)],
    ['ZERO_LENGTH', { kind: 'read', offset: 0, length: 0 }, undefined],
    ['INVALID_ARGUMENT', { kind: 'write', offset: 0, length: BLOCK }, new Uint8Array(1)],
    ['INVALID_ARGUMENT', { kind: 'write', offset: 0, length: BLOCK }, undefined],
    ['INVALID_ARGUMENT', undefined as never, undefined],
    [
      'INVALID_ARGUMENT',
      { kind: 'write', offset: 0, length: BLOCK, barrier: 1 as never },
      new Uint8Array(BLOCK),
    ],
    ['INVALID_ARGUMENT', { kind: 'read', offset: 0, length: BLOCK }, 'x' as never],
  ])('%s: misuse, before anything is queued', async (code, request, data) => {
    const { guest } = qemu();
    const { aio, events } = guest;
    const handle = aio.submit(request, data);
    await expect(handle.result).rejects.toMatchObject({ code });
    expect(events).toEqual([]);
    expect(aio.cancel(handle)).toBe('all done');
  });

  test('a handle of another disk', () => {
    const [one, other] = [qemu().guest, qemu().guest];
    one.submit('w0');
    expect(() => other.aio.cancel(one.told[0]?.handle as never)).toThrow('of another disk');
  });

  test('everything, once the process has died: on all its disks, and nobody is left waiting', async () => {
    const process = new QemuProcess({ threadsMax: 1 });
    const device = new ManualStorage();
    const [guest, other] = [open(process, device), open(process, new ManualStorage())];
    guest.submit('b0 w1 w2');
    for (const call of ['F', 'w0', 'F']) await device.answer(call);
    expect(guest.cancel('w2')).toBe('canceled');
    guest.submit('b3 b4 w5');
    other.submit('w0');
    await device.drain();
    expect(guest.outcomes).toBe('b0:done w1:done w2:canceled b3:FAILED b4:FAILED w5:FAILED');
    expect(other.outcomes).toBe('w0:FAILED');
    await expect(other.told[0]?.handle.result).rejects.toThrow(
      `the process has died: request list not empty failed: Unknown error ${BLOCK}`,
    );
    const before = guest.events.length;
    guest.submit('w6');
    await settled();
    expect(guest.told.at(-1)?.outcome).toBe('FAILED');
    expect(guest.events.length).toBe(before);
  });
});

test('given disks with a queue each, when one of them kills the process, then it is dead for the other, and for one that is opened later', async () => {
  const process = new QemuProcess({
    profile: { ...QEMU_2009, oneQueueForAllDisks: false },
    threadsMax: 1,
  });
  const device = new ManualStorage();
  const [guest, other] = [open(process, device), open(process, new ManualStorage())];
  other.submit('w0');
  guest.submit('b0 w1 w2');
  for (const call of ['F', 'w0', 'F']) await device.answer(call);
  guest.cancel('w2');
  guest.submit('b3 b4 w5');
  await device.drain();
  const later = open(process, new ManualStorage());
  later.submit('w0');
  await settled();
  expect([other.outcomes, later.outcomes]).toEqual(['w0:FAILED', 'w0:FAILED']);
});

test('given a process that dies while a command is at the disk, then nothing more is told, whatever the disk answers', async () => {
  const { device, guest } = qemu({ threadsMax: 2 });
  guest.submit('w0 w1 b2 w3 w4 b5');
  for (const call of ['w0', 'w1', 'F', 'w2', 'F']) await device.answer(call);
  guest.cancel('b5');
  guest.submit('b6 w7 w8');
  for (const call of ['w3', 'w4', 'F', 'w6', 'F']) await device.answer(call);
  expect(device.inFlight).toBe('w7');
  expect(guest.outcomes).toMatch(/b6:FAILED w7:FAILED w8:FAILED$/);
  const before = guest.events.length;
  await device.drain();
  expect(guest.events.length).toBe(before);
});

// Anything

test.each([
  ['the patch', QEMU_2009],
  ['the repaired queue', QEMU_REPAIRED],
])(
  'given an observer that submits the next request when one ends, then %s hands each to the disk once',
  async (_, profile) => {
    const device = new ManualStorage();
    const events: TraceEvent[] = [];
    const left = ['w1', 'b2', 'w3'];
    const observer = (event: TraceEvent): void => {
      events.push(event);
      const next = event.kind === 'settle' && left.shift();
      if (next) guest.submit(next);
    };
    const process = new QemuProcess({ profile, threadsMax: 1 });
    const guest = new Guest(process.open(device, { observer }), events);
    guest.submit('w0');
    await device.drain();
    expect(device.log).toBe('w0 w1 F w2 F w3');
    expect(guest.outcomes).toBe('w0:done w1:done b2:done w3:done');
    expect(guest.broken).toEqual([]);
  },
);

test('given anything at all in place of a request, then it is taken or refused with a code, and nothing is thrown', async () => {
  const junk = fc.oneof(
    fc.anything(),
    fc.record(
      {
        kind: fc.constantFrom(
          'read',
          'write',
          'barrier',
          'flush',
          'discard',
          'writeZeroes',
          'ioctl',
        ),
        offset: fc.oneof(fc.constantFrom(0, BLOCK, -BLOCK, 1, Number.NaN, 2 ** 60), fc.anything()),
        length: fc.oneof(fc.constantFrom(BLOCK, 0, -1, 2 ** 53), fc.anything()),
        barrier: fc.anything(),
        fua: fc.anything(),
      },
      { requiredKeys: [] },
    ),
  );
  const data = fc.oneof(fc.constant(new Uint8Array(BLOCK)), fc.anything());
  await fc.assert(
    fc.asyncProperty(junk, data, async (request, bytes) => {
      const disk = new VolatileDisk({ size: 4 * BLOCK });
      const queues = [
        new QemuProcess().open(disk),
        new QemuProcess({ profile: QEMU_REPAIRED }).open(disk),
        new PosixAio(disk),
      ].map((queue) => (queue as QemuDisk).submit(request as Request, bytes as Uint8Array).result);
      const tapdisk = new Tapdisk(disk).submit(request as Request, bytes as Uint8Array);
      for (const end of await Promise.allSettled([...queues, tapdisk])) {
        if (end.status === 'rejected') expect(WriteBarrierError.is(end.reason)).toBe(true);
      }
    }),
    { numRuns: share(1000) },
  );
});

// Any program

const words = fc.array(fc.constantFrom('w', 'w', 'r', 'b', 'e'), { minLength: 1, maxLength: 10 });
const moves = fc.array(fc.tuple(fc.constantFrom('submit', 'cancel', 'wait'), fc.nat({ max: 3 })), {
  maxLength: 40,
});
const pools = fc.record({
  threadsMax: fc.integer({ min: 1, max: 4 }),
  picks: fc.array(fc.nat({ max: 5 }), { minLength: 1, maxLength: 6 }),
  seed: fc.nat({ max: 1000 }),
  faults: fc.constantFrom<readonly DiskFault[]>(
    [],
    [{ on: 'write', nth: 1, fault: 'fail' }],
    [{ on: 'read', nth: 0, fault: 'fail' }],
    [{ on: 'flush', nth: 0, fault: 'keep' }],
    [{ on: 'flush', nth: 2, fault: 'sticky' }],
  ),
});

type Pool = typeof pools extends fc.Arbitrary<infer P> ? P : never;

/** Submits a program on blocks of their own while requests are cancelled and workers picked at will. */
async function play(
  profile: AioProfile,
  letters: readonly string[],
  history: readonly (readonly [string, number])[],
  { threadsMax, picks, seed, faults }: Pool,
): Promise<TraceEvent[]> {
  let picked = 0;
  const pick = (of: number): number => (picks[picked++ % picks.length] as number) % of;
  const disk = new VolatileDisk({ size: 16 * BLOCK, seed, faults, profile: 'scsi-tags' });
  const guest = open(new QemuProcess({ profile, threadsMax, pick }), disk);
  const texts = letters.map((letter, n) => (letter === 'e' ? 'b' : letter + n));
  const submitNext = (): void => {
    const text = texts[guest.told.length];
    if (text) guest.submit(text);
  };
  for (const [move, of] of history) {
    const told = guest.told.at(-1 - of);
    if (move === 'submit') submitNext();
    else if (move === 'cancel' && told) guest.aio.cancel(told.handle);
    else await Promise.resolve();
  }
  while (guest.told.length < texts.length) submitNext();
  await disk.sleep(LONG_US);
  return guest.events;
}

test('given any program, cancellations, workers and disk, when the repaired queue runs it, then no rule of traces is broken', async () => {
  await fc.assert(
    fc.asyncProperty(words, moves, pools, async (letters, history, pool) => {
      const events = await play(QEMU_REPAIRED, letters, history, pool);
      expect(checkTrace(events, { mode: 'DRAIN_FLUSH', errorPolicy: 'abort' })).toEqual([]);
    }),
    { numRuns: share(2000) },
  );
});

test('given the same on the patch, then nothing is thrown', async () => {
  await fc.assert(
    fc.asyncProperty(words, moves, pools, async (letters, history, pool) => {
      const events = await play(QEMU_2009, letters, history, pool);
      const settles = events.flatMap((event) => (event.kind === 'settle' ? [event.request] : []));
      expect(new Set(settles).size).toBe(settles.length);
    }),
    { numRuns: share(1000) },
  );
});
