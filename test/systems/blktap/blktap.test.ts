// Barriers over plain files: tapdisk's as the mail of 2010 tells it, and ours. The crash kit finds what is lost where
// errors of fsync are ignored, or where a barrier waits for completion and not for success; in the adapters it finds
// nothing.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  IoScheduler,
  type Request,
  type Storage,
  type TraceEvent,
  WriteBarrierError,
} from 'write-barrier';
import {
  type CrashTest,
  checkTrace,
  crashTest,
  type DiskFault,
  VolatileDisk,
} from 'write-barrier/testing';
import {
  fileStorage,
  type PlainFile,
  SyncFileBarriers,
} from '../../../src/systems/blktap/file-barriers.js';
import {
  TAPDISK_2010,
  TAPDISK_BEFORE,
  TAPDISK_REPAIRED,
  Tapdisk,
  type TapdiskOptions,
  type TapdiskProfile,
} from '../../../src/systems/blktap/tapdisk.js';
import { share } from '../../kit/amount.js';
import { ManualStorage } from '../../scheduler/world.js';
import { BLOCK, Guest, settled } from '../qemu/support.js';

/** In the disk's own time: whatever it is to answer has been answered by then. */
const LONG_US = 1_000_000;

const SIMPLE = { tag: 'simple' } as const;
const PLAIN = { fua: false, tag: 'simple' } as const;

/** A storage as the plain file that it could be. */
const asFile = (disk: Storage): PlainFile => ({
  size: disk.size,
  blockSize: disk.capabilities.blockSize,
  read: (offset, into) => disk.read(offset, into),
  write: (offset, data) => disk.write(offset, data, PLAIN),
  sync: () => disk.flush(SIMPLE),
});

/** The disk of a guest; nobody can cancel there. */
function tapdisk(storage: Storage, options: TapdiskOptions = {}): Guest {
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => void events.push(event);
  const disk = new Tapdisk(storage, { ...options, observer });
  const submit = (request: Request, data?: Uint8Array) => ({ result: disk.submit(request, data) });
  return new Guest({ submit, cancel: () => 'not canceled' }, events);
}

describe('given a barrier', () => {
  test('case 74: in the asynchronous context, then all before it, sync, write, sync, and then the rest', async () => {
    const device = new ManualStorage();
    const guest = tapdisk(device);
    guest.submit('w0 r1 b2 w3 w4');
    expect(device.inFlight).toBe('w0 r1');
    await device.answer('r1');
    expect(device.inFlight).toBe('w0');
    for (const call of ['w0', 'F', 'w2', 'F']) {
      expect(device.inFlight).toBe(call);
      await device.answer(call);
    }
    expect(device.inFlight).toBe('w3 w4');
    await device.drain();
    expect(guest.outcomes).toBe('w0:done r1:done b2:done w3:done w4:done');
    expect(guest.broken).toEqual([]);
  });

  test('in the asynchronous context, when requests are still queued, then they are sent off first', async () => {
    const device = new ManualStorage();
    const guest = tapdisk(device, { depth: 1 });
    guest.submit('w0 w1 b2');
    await device.drain();
    expect(device.log).toBe('w0 w1 F w2 F');
    expect(guest.broken).toEqual([]);
  });

  test('in the synchronous context, then one after the other, and the same', async () => {
    const device = new ManualStorage();
    const guest = tapdisk(device, { context: 'sync' });
    guest.submit('w0 w1 b2 w3 w4');
    for (const call of ['w0', 'w1', 'F', 'w2', 'F', 'w3', 'w4']) {
      expect(device.inFlight).toBe(call);
      await device.answer(call);
    }
    expect(guest.broken).toEqual([]);
  });

  test('when a sync fails, then its owner hears of it, and those behind it go on', async () => {
    for (const nth of [0, 1]) {
      const disk = new VolatileDisk({
        size: 8 * BLOCK,
        faults: [{ on: 'flush', nth, fault: 'keep' }],
      });
      const guest = tapdisk(disk);
      guest.submit('w0 b1 w2');
      await disk.sleep(LONG_US);
      expect(guest.outcomes).toBe('w0:done b1:FLUSH_FAILED w2:done');
      expect(guest.broken).toEqual([]);
    }
  });

  test('when its own write fails or comes short, then its owner hears of it', async () => {
    const device = new ManualStorage();
    const guest = tapdisk(device);
    guest.submit('b0 w1');
    await device.answer('F');
    await device.fail('w0');
    await device.drain();
    expect(device.log).toBe('F w0 w1');
    expect(guest.outcomes).toBe('b0:IO_FAILED w1:done');
    const short = tapdisk({ ...asStorage(8), write: () => BLOCK - 1 });
    short.submit('w0');
    await settled();
    expect(short.outcomes).toBe('w0:SHORT_TRANSFER');
  });

  test('when a read before it fails, then it is written all the same', async () => {
    for (const profile of [TAPDISK_2010, TAPDISK_REPAIRED]) {
      const device = new ManualStorage();
      const guest = tapdisk(device, { profile });
      guest.submit('r0 b1');
      await device.fail('r0');
      await device.drain();
      expect(guest.outcomes).toBe('r0:IO_FAILED b1:done');
    }
  });

  test('when a write before it fails, then it is written, and with nothing left to wish for it is not', async () => {
    const told: string[] = [];
    for (const profile of [TAPDISK_2010, TAPDISK_REPAIRED]) {
      const device = new ManualStorage();
      const guest = tapdisk(device, { profile });
      guest.submit('w0 b1 w2');
      await device.fail('w0');
      await device.drain();
      told.push(`${device.log}: ${guest.outcomes}`);
      expect(guest.broken).toEqual([]);
    }
    expect(told).toEqual([
      'w0 F w1 F w2: w0:IO_FAILED b1:done w2:done',
      'w0 F w2: w0:IO_FAILED b1:BARRIER_ABORTED w2:done',
    ]);
  });

  test('before the patch, then it cannot be handled', async () => {
    const device = new ManualStorage();
    const guest = tapdisk(device, { profile: TAPDISK_BEFORE });
    guest.submit('w0 b1');
    await device.drain();
    expect(guest.outcomes).toBe('w0:done b1:EOPNOTSUPP');
    expect(device.log).toBe('w0');
  });
});

/** A storage of so many blocks that has answered when it returns. */
function asStorage(blocks: number): Storage {
  const disk = new VolatileDisk({ size: blocks * BLOCK, answers: 'at-once' });
  return { size: disk.size, capabilities: disk.capabilities, ...bound(disk) };
}

function bound(disk: VolatileDisk): Pick<Storage, 'read' | 'write' | 'flush' | 'close'> {
  return {
    read: (offset, into) => disk.read(offset, into),
    write: (offset, data, flags) => disk.write(offset, data, flags),
    flush: (flags) => disk.flush(flags),
    close: () => disk.close(),
  };
}

test('given a long queue behind one slow write, when everything else is answered at once, then no stack grows', async () => {
  const storage = asStorage(8);
  let answer = (): void => {};
  const slow = new Promise<void>((resolve) => {
    answer = resolve;
  });
  let writes = 0;
  const guest = tapdisk(
    { ...storage, write: () => (writes++ === 0 ? slow : undefined) },
    { depth: 1 },
  );
  guest.submit(Array.from({ length: 20_000 }, (_, n) => `w${n % 8}`).join(' '));
  expect(writes).toBe(1);
  answer();
  await settled();
  expect(guest.events.filter(({ kind }) => kind === 'settle').length).toBe(20_000);
});

describe('given what tapdisk cannot handle, then it is refused before anything is queued', () => {
  test.each(['b', 'f', 'd0', 'z0', 'fw0', 'w0!'])('%s', async (program) => {
    const device = new ManualStorage();
    const guest = tapdisk(device);
    guest.submit(program);
    await settled();
    expect(guest.outcomes).toBe(`${program}:EOPNOTSUPP`);
    expect(guest.events).toEqual([]);
  });

  test('a depth that is none, a range outside, and a barrier over a cache that cannot be flushed', async () => {
    expect(() => new Tapdisk(new ManualStorage(), { depth: 0 })).toThrow(
      'depth must be a whole number of at least 1, not 0',
    );
    const guest = tapdisk(new ManualStorage({ flush: false }));
    guest.submit('b0 w5000');
    await settled();
    expect(guest.outcomes).toBe('b0:EOPNOTSUPP w5000:OUT_OF_RANGE');
  });
});

// Any program

test.each(['aio', 'sync'] as const)(
  'given any program and any fault, when the %s context runs it, then no rule of traces is broken',
  async (context) => {
    const words = fc.array(fc.constantFrom('w', 'w', 'r', 'b'), { minLength: 1, maxLength: 12 });
    const faults = fc.constantFrom<readonly DiskFault[]>(
      [],
      [{ on: 'write', nth: 1, fault: 'fail' }],
      [{ on: 'flush', nth: 0, fault: 'keep' }],
      [{ on: 'flush', nth: 1, fault: 'sticky' }],
    );
    const profiles = fc.constantFrom(TAPDISK_2010, TAPDISK_REPAIRED);
    const waits = fc.array(fc.nat({ max: 12 }));
    await fc.assert(
      fc.asyncProperty(
        words,
        faults,
        profiles,
        waits,
        fc.nat(),
        async (letters, plan, profile, pauses, seed) => {
          const disk = new VolatileDisk({ size: 16 * BLOCK, seed, faults: plan });
          const guest = tapdisk(disk, { profile, context, depth: 1 + (seed % 4) });
          for (const [n, letter] of letters.entries()) {
            guest.submit(letter + n);
            if (pauses.includes(n)) await disk.sleep(1000);
          }
          await disk.sleep(LONG_US);
          expect(guest.outcomes).not.toMatch(/pending/);
          const errorPolicy = profile.acceptsEarlierFailures ? 'kernel' : 'abort';
          expect(checkTrace(guest.events, { mode: 'DRAIN_FLUSH', errorPolicy })).toEqual([]);
        },
      ),
      { numRuns: share(500) },
    );
  },
);

// The crash kit

const SECTOR = 512;
const RECORDS = 2;
const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);

/** Writes the record and then its mark, as a barrier; answers when both are told as done. */
type Append = (disk: VolatileDisk, at: number, fill: number) => Promise<unknown>;

function logOn(
  append: Append,
  faults: readonly DiskFault[],
  answers: 'later' | 'at-once' = 'later',
): CrashTest<number, number> {
  return {
    size: 2 * RECORDS * SECTOR,
    faults,
    answers,
    workload: async (disk, journal) => {
      for (let n = 0; n < RECORDS; n++) {
        journal.begin(n);
        try {
          await append(disk, 2 * n * SECTOR, n + 1);
        } catch {
          return;
        }
        journal.acknowledge(n);
      }
    },
    recover: (disk) => {
      for (let n = 0; n < RECORDS; n++) {
        const bytes = new Uint8Array(2 * SECTOR);
        disk.read(2 * n * SECTOR, bytes);
        if (bytes[SECTOR] !== n + 1) return n;
        if (bytes[0] !== n + 1) throw new Error(`mark ${n} without its record`);
      }
      return RECORDS;
    },
    check: (records, { acknowledged }) => {
      if (records < acknowledged.length) throw new Error(`record ${records} was acknowledged`);
    },
  };
}

/** Both are submitted at once, and both are waited for. */
const both = async (ends: readonly Promise<unknown>[]): Promise<void> => {
  const failed = (await Promise.allSettled(ends)).find(({ status }) => status === 'rejected');
  if (failed) throw (failed as PromiseRejectedResult).reason;
};

const onTapdisk =
  (profile: TapdiskProfile): Append =>
  (disk, at, fill) => {
    const queue = new Tapdisk(disk, { profile });
    const write = (offset: number, barrier: boolean): Promise<unknown> =>
      queue.submit({ kind: 'write', offset, length: SECTOR, barrier }, sector(fill));
    return both([write(at, false), write(at + SECTOR, true)]);
  };

const onScheduler: Append = async (disk, at, fill) => {
  const scheduler = new IoScheduler(fileStorage(asFile(disk)));
  await both([
    scheduler.write(at, sector(fill)),
    scheduler.write(at + SECTOR, sector(fill), { barrier: true }),
  ]);
};

const onSyncFile: Append = async (disk, at, fill) => {
  const file = new SyncFileBarriers(asFile(disk) as never);
  file.write(at, sector(fill));
  file.write(at + SECTOR, sector(fill), { barrier: true });
};

const NO_FAULT: readonly DiskFault[] = [];
const FIRST_SYNC: readonly DiskFault[] = [{ on: 'flush', nth: 0, fault: 'drop' }];
const SECOND_SYNC: readonly DiskFault[] = [{ on: 'flush', nth: 1, fault: 'drop' }];
const FIRST_WRITE: readonly DiskFault[] = [{ on: 'write', nth: 0, fault: 'fail' }];
const DEAF: TapdiskProfile = { ...TAPDISK_2010, ignoresSyncErrors: true };

async function firstFailure(of: CrashTest<number, number>): Promise<string | undefined> {
  for (let seed = 0; seed < 10; seed++) {
    const report = await crashTest({ ...of, seed });
    if (report.failure) return report.failure.message;
    expect(report.covered).toBe(report.images);
  }
  return undefined;
}

describe('a power cut', () => {
  test.each<[string, TapdiskProfile, readonly DiskFault[], RegExp]>([
    ['nobody looks at the first sync', DEAF, FIRST_SYNC, /without its record|was acknowledged/],
    ['nobody looks at the second sync', DEAF, SECOND_SYNC, /record 0 was acknowledged/],
    [
      'a barrier waits for completion, not for success',
      TAPDISK_2010,
      FIRST_WRITE,
      /mark 0 without its record/,
    ],
  ])('given tapdisk, when %s, then it loses data', async (_, profile, faults, message) => {
    expect(await firstFailure(logOn(onTapdisk(profile), faults))).toMatch(message);
    expect(await firstFailure(logOn(onTapdisk(TAPDISK_REPAIRED), faults))).toBeUndefined();
  });

  test.each([
    ['nothing fails', NO_FAULT],
    ['the first sync fails', FIRST_SYNC],
    ['the second sync fails', SECOND_SYNC],
  ])('given tapdisk as the mail tells it, when %s, then nothing is lost', async (_, faults) => {
    expect(await firstFailure(logOn(onTapdisk(TAPDISK_2010), faults))).toBeUndefined();
  });

  test.each([
    ['nothing fails', NO_FAULT],
    ['the first sync fails', FIRST_SYNC],
    ['the second sync fails', SECOND_SYNC],
    ['the write that the barrier covers fails', FIRST_WRITE],
  ])('given our adapters, when %s, then nothing is lost', async (_, faults) => {
    expect(await firstFailure(logOn(onScheduler, faults))).toBeUndefined();
    expect(await firstFailure(logOn(onSyncFile, faults, 'at-once'))).toBeUndefined();
  });
});

// The adapters

describe('a plain file under a scheduler', () => {
  test('takes the mode that waits and flushes, and makes the calls of tapdisk', async () => {
    const device = new ManualStorage();
    const scheduler = new IoScheduler(fileStorage(asFile(device)), { depth: 8 });
    expect(scheduler.mode).toBe('DRAIN_FLUSH');
    const ends = Promise.all([
      scheduler.write(0, new Uint8Array(BLOCK)),
      scheduler.write(BLOCK, new Uint8Array(BLOCK), { barrier: true }),
      scheduler.write(2 * BLOCK, new Uint8Array(BLOCK)),
    ]);
    await device.drain();
    await ends;
    expect(device.log).toBe('w0 F w1 F w2');
  });

  test('tells of a failed sync, and refuses until it is recovered', async () => {
    const device = new ManualStorage();
    const scheduler = new IoScheduler(fileStorage(asFile(device)));
    const told = expect(scheduler.barrier()).rejects.toMatchObject({ code: 'FLUSH_FAILED' });
    await device.fail('F');
    await told;
    await expect(scheduler.write(0, new Uint8Array(BLOCK))).rejects.toMatchObject({
      code: 'FAILED',
    });
  });

  test('closes the file, where it can be closed', async () => {
    let closed = 0;
    const file = asFile(new VolatileDisk({ size: BLOCK }));
    await new IoScheduler(fileStorage({ ...file, close: () => void closed++ })).close();
    await new IoScheduler(fileStorage(file)).close();
    expect(closed).toBe(1);
  });
});

describe('a plain file whose calls are over when they return', () => {
  const open = (change: Partial<PlainFile> = {}): { calls: string[]; file: SyncFileBarriers } => {
    const calls: string[] = [];
    const bytes = new Uint8Array(8 * BLOCK);
    const file: PlainFile = {
      size: bytes.length,
      blockSize: BLOCK,
      read: (offset, into) => {
        calls.push(`r${offset / BLOCK}`);
        into.set(bytes.subarray(offset, offset + into.length));
      },
      write: (offset, data) => {
        calls.push(`w${offset / BLOCK}`);
        bytes.set(data, offset);
        return data.length;
      },
      sync: () => void calls.push('F'),
      ...change,
    };
    return { calls, file: new SyncFileBarriers(file as never) };
  };
  const block = new Uint8Array(BLOCK).fill(9);
  const fail = (): never => {
    throw new Error('EIO');
  };
  const codeOf = (act: () => void): string => {
    try {
      act();
    } catch (error) {
      if (WriteBarrierError.is(error)) return error.code;
      throw error;
    }
    return 'done';
  };

  test('given each kind of request, then it makes the calls of its mode', () => {
    const { calls, file } = open();
    file.write(0, block);
    file.write(BLOCK, block, { barrier: true });
    file.write(2 * BLOCK, block, { preflush: true });
    file.write(3 * BLOCK, block, { fua: true });
    file.write(4 * BLOCK, block, { barrier: true, fua: true, preflush: true });
    file.barrier();
    file.flush();
    const into = new Uint8Array(BLOCK);
    file.read(BLOCK, into);
    expect(into).toEqual(block);
    expect(calls.join(' ')).toBe('w0 F w1 F F w2 w3 F F w4 F F F r1');
  });

  test('given a sync that fails, then the barrier is not written, and all is refused until it is recovered', () => {
    let broken = true;
    const { calls, file } = open({ sync: () => (broken ? fail() : undefined) });
    expect(codeOf(() => file.write(0, block, { barrier: true }))).toBe('FLUSH_FAILED');
    expect(calls).toEqual([]);
    broken = false;
    expect([file.state, codeOf(() => file.write(0, block)), codeOf(() => file.flush())]).toEqual([
      'failed',
      'FAILED',
      'FAILED',
    ]);
    file.recover();
    expect([file.state, codeOf(() => file.write(0, block, { barrier: true }))]).toEqual([
      'running',
      'done',
    ]);
  });

  test('given a write that fails or comes short, then it is told, nothing follows, and others go on', () => {
    const failing = open({ write: fail });
    expect(codeOf(() => failing.file.write(0, block, { barrier: true }))).toBe('IO_FAILED');
    expect(failing.calls).toEqual(['F']);
    expect(codeOf(() => failing.file.flush())).toBe('done');
    const short = open({ write: () => 1, read: () => 0 });
    expect(codeOf(() => short.file.write(0, block))).toBe('SHORT_TRANSFER');
    expect(codeOf(() => short.file.read(0, new Uint8Array(BLOCK)))).toBe('SHORT_TRANSFER');
    const odd = open({ write: () => 0n as never });
    expect(codeOf(() => odd.file.write(0, block))).toBe('SHORT_TRANSFER');
  });

  test('given a file that answers with promises, then that is misuse, and never taken for success', async () => {
    const { file } = open({ sync: () => Promise.resolve() });
    expect(codeOf(() => file.flush())).toBe('INVALID_ARGUMENT');
    expect(codeOf(() => file.write(0, block))).toBe('FAILED');
    const failing = open({ sync: () => Promise.reject(new Error('EIO')) });
    const unhandled: unknown[] = [];
    const note = (reason: unknown): void => void unhandled.push(reason);
    process.on('unhandledRejection', note);
    expect(codeOf(() => failing.file.flush())).toBe('INVALID_ARGUMENT');
    await settled();
    process.off('unhandledRejection', note);
    expect([failing.file.state, unhandled]).toEqual(['failed', []]);
  });

  test('given a buffer that is handed on while the sync before it runs, then nothing is written, and that is told', () => {
    const data = new Uint8Array(BLOCK);
    const sync = (): void => void structuredClone(data, { transfer: [data.buffer] });
    const { calls, file } = open({ sync });
    expect(codeOf(() => file.write(0, data, { barrier: true }))).toBe('INVALID_ARGUMENT');
    expect(calls).toEqual([]);
  });

  test('given ranges that are none, then nothing is done', () => {
    const { calls, file } = open();
    expect(codeOf(() => file.write(1, block))).toBe('UNALIGNED');
    expect(codeOf(() => file.write(8 * BLOCK, block))).toBe('OUT_OF_RANGE');
    expect(codeOf(() => file.read(0, new Uint8Array(0)))).toBe('ZERO_LENGTH');
    expect(codeOf(() => file.write(0, 'x' as never))).toBe('INVALID_ARGUMENT');
    expect(codeOf(() => file.write(0, block, { barrier: 1 as never }))).toBe('INVALID_ARGUMENT');
    expect(calls).toEqual([]);
    expect(codeOf(() => file.write(0, block, null as never))).toBe('done');
  });
});
