// The contract of posix-aio over our scheduler: what cancel answers is what happens, whatever the disk does and
// whenever it is asked; and none of the programs that find a defect in the patch of 2009 find one here.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Request, SchedulerOptions, Storage, TraceEvent } from 'write-barrier';
import { type CrashTest, checkTrace, crashTest, VolatileDisk } from 'write-barrier/testing';
import { PosixAio } from '../../../src/systems/qemu/posix-aio.js';
import { share } from '../../kit/amount.js';
import { ManualStorage } from '../../scheduler/world.js';
import { BLOCK, Guest, settled } from './support.js';

/** A guest on a queue of its own. */
function on<S extends Storage>(
  device: S,
  options: SchedulerOptions = {},
): { guest: Guest; aio: PosixAio } {
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => void events.push(event);
  const aio = new PosixAio(device, { mode: 'DRAIN_FLUSH', ...options, observer });
  return { guest: new Guest(aio, events), aio };
}

function manual(options: SchedulerOptions = {}): {
  device: ManualStorage;
  guest: Guest;
  aio: PosixAio;
} {
  const device = new ManualStorage({ orderedTags: false });
  return { device, ...on(device, options) };
}

describe('cancel', () => {
  test('given a request that waits, then it is canceled, and never executes', async () => {
    const { device, guest } = manual({ depth: 1 });
    guest.submit('w0 w1');
    expect(guest.cancel('w1')).toBe('canceled');
    await device.drain();
    expect(device.log).toBe('w0');
    expect(guest.outcomes).toBe('w0:done w1:canceled');
  });

  test('given a request at the storage, then it is not canceled, and its end comes once', async () => {
    const { device, guest } = manual();
    guest.submit('w0 w1');
    expect(guest.cancel('w0')).toBe('not canceled');
    expect(guest.cancel('w0')).toBe('not canceled');
    await device.fail('w0');
    expect(guest.cancel('w0')).toBe('all done');
    await device.drain();
    expect(guest.outcomes).toBe('w0:IO_FAILED w1:done');
  });

  test('given a request that has ended, was canceled or was refused, then it is all done', async () => {
    const { device, guest } = manual({ depth: 1 });
    guest.submit('w0 w1 w5000');
    guest.cancel('w1');
    await device.drain();
    expect(['w0', 'w1', 'w5000'].map((text) => guest.cancel(text))).toEqual(
      Array.from({ length: 3 }, () => 'all done'),
    );
    expect(guest.outcomes).toBe('w0:done w1:canceled w5000:OUT_OF_RANGE');
  });

  test('given a barrier that has not started, then its place stays, and those behind it go on', async () => {
    const { device, guest, aio } = manual();
    guest.submit('w0 b1 w2 b3 w4');
    expect(guest.cancel('b1')).toBe('canceled');
    expect(aio.scheduler.stats().barriersPending).toBe(1);
    await device.drain();
    expect(device.log).toBe('w0 F w2 F w3 F w4');
    expect(guest.outcomes).toBe('w0:done b1:canceled w2:done b3:done w4:done');
  });

  test('given a barrier whose write is at the storage, then it is not canceled', async () => {
    const { device, guest } = manual();
    guest.submit('b0');
    await device.answer('F');
    expect(guest.cancel('b0')).toBe('not canceled');
    await device.drain();
    expect(guest.outcomes).toBe('b0:done');
  });

  test('given a handle of another queue, then that is misuse', () => {
    const [one, other] = [manual().guest, manual().guest];
    one.submit('w0');
    expect(() => other.aio.cancel(one.told[0]?.handle as never)).toThrow('of another queue');
  });

  test('given a rejection that nobody listens to, then nothing is reported as unhandled', async () => {
    const { aio } = manual({ depth: 1 });
    const write = { kind: 'write', offset: 0, length: BLOCK } as const;
    aio.submit(write, new Uint8Array(BLOCK));
    const waits = aio.submit({ ...write, offset: BLOCK }, new Uint8Array(BLOCK));
    expect(aio.cancel(waits)).toBe('canceled');
    aio.submit({ ...write, offset: -1 }, new Uint8Array(BLOCK));
    await settled(); // an unhandled rejection ends the run
    await expect(waits.result).rejects.toMatchObject({ name: 'AbortError' });
  });
});

describe('submit', () => {
  test('given each kind of request, then the scheduler gets it, flags and buffers included', async () => {
    const disk = new VolatileDisk({ size: 8 * BLOCK, initial: new Uint8Array(8 * BLOCK).fill(7) });
    const { guest, aio } = on(disk);
    guest.submit('w0 fw1 w2! b3 d4 z5 f b');
    const into = new Uint8Array(BLOCK);
    const read = { kind: 'read', offset: 6 * BLOCK, length: BLOCK } as const;
    expect(await aio.submit(read, into).result).toBe(into);
    expect(into[0]).toBe(7);
    expect((await aio.submit({ ...read, offset: 0 }).result)?.[0]).toBe(1);
    await aio.scheduler.idle();
    expect(guest.outcomes).toBe('w0:done fw1:done w2!:done b3:done d4:done z5:done f:done b:done');
    expect(guest.broken).toEqual([]);
  });

  test.each<[string, unknown, Uint8Array | undefined]>([
    ['a buffer that is too small', { kind: 'write', offset: 0, length: BLOCK }, new Uint8Array(1)],
    ['no buffer', { kind: 'write', offset: 0, length: BLOCK }, undefined],
    [
      'a buffer too small to read into',
      { kind: 'read', offset: 0, length: BLOCK },
      new Uint8Array(1),
    ],
    ['an unknown kind', { kind: 'ioctl' }, undefined],
    ['no request', undefined, undefined],
  ])('given %s, then it is misuse, and nothing is queued', async (_, request, data) => {
    const { guest, aio } = manual();
    await expect(aio.submit(request as Request, data).result).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(guest.events).toEqual([]);
  });

  test('given a request whose kind cannot be asked for, then that is told as a rejection, and the next one is served', async () => {
    const { guest, aio, device } = manual();
    const odd = {
      get kind(): never {
        throw new Error('no kind');
      },
    };
    await expect(aio.submit(odd).result).rejects.toThrow('no kind');
    guest.submit('w0');
    await device.drain();
    expect(guest.outcomes).toBe('w0:done');
  });
});

test('given two disks, when a barrier hangs on the one, then the other goes on', async () => {
  const [a, b] = [manual(), manual()];
  a.guest.submit('b0 w1');
  b.guest.submit('w0 b1');
  await b.device.drain();
  expect(b.guest.outcomes).toBe('w0:done b1:done');
  expect(a.guest.outcomes).toBe('b0:pending w1:pending');
});

// Goal: the three words mean what they say. Method: any program, with cancellations at any moment, on a disk that
// answers in any order; the trace of the disk itself is the witness.
test('given any program, then what is canceled never reached the disk, and everything else ends once', async () => {
  const words = fc.array(fc.constantFrom('w', 'w', 'b', 'r', 'e', 'f'), {
    minLength: 1,
    maxLength: 12,
  });
  const moves = fc.array(
    fc.tuple(fc.constantFrom('submit', 'submit', 'cancel', 'wait'), fc.nat({ max: 3 })),
    { maxLength: 50 },
  );
  const options = fc.record({
    mode: fc.constantFrom('DRAIN_FLUSH' as const, 'DRAIN_FUA' as const, 'TAG_FUA' as const),
    depth: fc.integer({ min: 1, max: 4 }),
  });
  await fc.assert(
    fc.asyncProperty(words, moves, options, fc.nat(), async (letters, history, how, seed) => {
      const disk = new VolatileDisk({ size: 16 * BLOCK, profile: 'scsi-tags', seed });
      const { guest, aio } = on(disk, how);
      const texts = letters.map((letter, n) =>
        letter === 'e' ? 'b' : letter === 'f' ? 'f' : letter + n,
      );
      const answers = new Map<number, string>();
      for (const [move, of] of history) {
        const next = texts[guest.told.length];
        const n = guest.told.length - 1 - of;
        const told = guest.told[n];
        if (move === 'submit' && next) guest.submit(next);
        else if (move === 'cancel' && told) {
          const answer = aio.cancel(told.handle);
          const before = answers.get(n);
          if (before === 'canceled' || before === 'all done') expect(answer).toBe('all done');
          else answers.set(n, answer);
        } else await Promise.resolve();
      }
      await aio.scheduler.idle();
      await settled();
      for (const [n, { outcome }] of guest.told.entries()) {
        expect(outcome).toBe(answers.get(n) === 'canceled' ? 'canceled' : 'done');
        const reached = disk.trace.commands.some(
          ({ op, offset }) => op === 'write' && offset === n * BLOCK,
        );
        if (/^[wb]\d/.test(texts[n] as string)) expect(reached).toBe(outcome === 'done');
      }
      expect(checkTrace(guest.events, how.mode)).toEqual([]);
    }),
    { numRuns: share(1000) },
  );
});

// The programs that find the defects of the patch; see qemu-aio-driver.test.ts.

test.each<[string, (guest: Guest, device: ManualStorage) => Promise<void>]>([
  [
    'a cancelled barrier, and a write behind it',
    async (guest) => {
      guest.submit('w0 b1 w2');
      expect(guest.cancel('b1')).toBe('canceled');
    },
  ],
  [
    'a write that a barrier has released is cancelled, and another comes',
    async (guest, device) => {
      guest.submit('b0 w1 w2');
      for (const call of ['F', 'w0', 'F']) await device.answer(call);
      expect(guest.cancel('w2')).toBe('canceled');
    },
  ],
  [
    'a barrier that another has released is cancelled, and two more come',
    async (guest, device) => {
      guest.submit('w0 b2 w3 b5');
      for (const call of ['w0', 'F', 'w2', 'F']) await device.answer(call);
      expect(guest.cancel('b5')).toBe('canceled');
      guest.submit('b6 w7');
    },
  ],
  [
    'a barrier is cancelled while what is before it runs',
    async (guest) => {
      guest.submit('w0 b1');
      expect(guest.cancel('b1')).toBe('canceled');
    },
  ],
])('given %s, then no rule of traces is broken', async (_, play) => {
  const { device, guest } = manual({ depth: 1 });
  await play(guest, device);
  await device.drain();
  guest.submit('w9 b10');
  await device.drain();
  expect(guest.outcomes).not.toMatch(/pending/);
  expect(guest.broken).toEqual([]);
});

test.each([
  ['a write that the barrier covers', { on: 'write', nth: 0, fault: 'fail' }],
  ['the flush before the barrier', { on: 'flush', nth: 0, fault: 'drop' }],
  ['the flush behind it', { on: 'flush', nth: 1, fault: 'drop' }],
] as const)('given a log, when %s fails, then no power cut loses anything', async (_, fault) => {
  const SECTOR = 512;
  const test: CrashTest<string, string> = {
    size: 2 * SECTOR,
    faults: [fault],
    workload: async (disk, journal) => {
      const aio = new PosixAio(disk, { mode: 'DRAIN_FLUSH' });
      const write = (offset: number, barrier: boolean): Promise<unknown> =>
        aio.submit(
          { kind: 'write', offset, length: SECTOR, barrier },
          new Uint8Array(SECTOR).fill(1),
        ).result;
      journal.begin('record');
      const ends = await Promise.allSettled([write(0, false), write(SECTOR, true)]);
      if (ends.every(({ status }) => status === 'fulfilled')) journal.acknowledge('record');
    },
    recover: (disk) => {
      const bytes = new Uint8Array(2 * SECTOR);
      disk.read(0, bytes);
      return `${bytes[0]}${bytes[SECTOR]}`;
    },
    check: (found, { acknowledged }) =>
      found !== '01' && (acknowledged.length === 0 || found === '11'),
  };
  for (let seed = 0; seed < 10; seed++) {
    expect((await crashTest({ ...test, seed })).verdict).not.toBe('failed');
  }
});
