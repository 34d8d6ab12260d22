// Goal: a storage that does not answer holds up no caller of a group that is closed with a limit of time (scheduler-group.B2). Method:
// storages that keep what the test says, with real timers in one test and with those of the test in the others.

import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  type CloseTimeoutError,
  IoScheduler,
  SchedulerGroup,
  type WriteFlags,
} from 'write-barrier';
import { share } from '../kit/amount.js';
import { ManualStorage, settled, World } from './world.js';

const BLOCK = 4096;
const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const SIMPLE = { tag: 'simple' } as const;
const block = (blocks = 1): Uint8Array => new Uint8Array(blocks * BLOCK);
const codeOf = async (call: () => unknown): Promise<unknown> => {
  try {
    await call();
    return 'done';
  } catch (error) {
    return (error as { code?: unknown }).code ?? error;
  }
};
const failureOf = async (work: Promise<unknown>): Promise<CloseTimeoutError> =>
  work.then(
    () => expect.unreachable('it closed'),
    (error) => error,
  ) as Promise<CloseTimeoutError>;

test('scheduler-group.B2: a group that closes gives up after a limit of real time, too', async () => {
  const device = new ManualStorage();
  const group = new SchedulerGroup(device);
  const write = codeOf(() => group.member().write(0, block(), PLAIN));
  expect((await failureOf(group.close({ timeoutMs: 1 }))).code).toBe('CLOSE_TIMEOUT');
  expect([await write, device.closed]).toEqual(['CLOSE_TIMEOUT', false]);
});

describe('scheduler-group.B2: a group that closes with a limit of time', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  test('names what hangs, answers all of its members, and leaves the storage open', async () => {
    const device = new ManualStorage({ writeZeroes: false });
    const group = new SchedulerGroup(device, { depth: 3 });
    const [one, other] = [group.member(), group.member()];
    await device.answer();
    const ends = [
      codeOf(() => one.write(BLOCK, block(2), PLAIN)),
      codeOf(() => one.read(0, new Uint8Array(BLOCK))),
      codeOf(() => other.flush(SIMPLE)),
      codeOf(() => other.write(BLOCK, block(), PLAIN)),
      codeOf(() => other.write(9 * BLOCK, block(), PLAIN)),
      codeOf(() => other.flush(SIMPLE)),
    ];
    const closing = failureOf(group.close({ timeoutMs: 500 }));
    await vi.advanceTimersByTimeAsync(499);
    expect(device.closed).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    const error = await closing;
    expect(error.code).toBe('CLOSE_TIMEOUT');
    expect(error.hanging).toEqual([
      { op: 'write', offset: BLOCK, length: 2 * BLOCK },
      { op: 'read', offset: 0, length: BLOCK },
      { op: 'flush', offset: 0, length: 0 },
    ]);
    expect(await Promise.all(ends)).toEqual(Array.from(ends, () => 'CLOSE_TIMEOUT'));
    expect(await codeOf(() => group.close())).toBe('CLOSE_TIMEOUT');
    expect(await codeOf(() => one.close())).toBe('CLOSE_TIMEOUT');
    expect(await codeOf(() => one.ready(1))).toBe('done');
    expect(device.closed).toBe(false);
  });

  test('keeps the storage to itself until the late answers have come, which change nothing', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 1 });
    const member = group.member();
    const ends = [0, 1].map((n) => codeOf(() => member.write(n * BLOCK, block(), PLAIN)));
    const closing = failureOf(group.close({ timeoutMs: 5 }));
    await vi.advanceTimersByTimeAsync(5);
    await closing;
    expect(await Promise.all(ends)).toEqual(['CLOSE_TIMEOUT', 'CLOSE_TIMEOUT']);
    const next = new World({}, device);
    const early = next.one('w3');
    await settled();
    expect(early.outcome).toBe('STORAGE_IN_USE');
    await device.answer('w0');
    const late = next.one('w3');
    await device.drain();
    expect([late.outcome, device.log]).toEqual(['done', 'w0 w3']);
  });

  test('names a block status that hangs, and answers its caller', async () => {
    const storage = new ManualStorage({ blockStatus: true });
    const device = Object.assign(storage, { blockStatus: () => new Promise<never>(() => {}) });
    const group = new SchedulerGroup(device);
    const status = codeOf(() => group.member().blockStatus?.(BLOCK, BLOCK));
    const closing = failureOf(group.close({ timeoutMs: 5 }));
    await device.drain();
    await vi.advanceTimersByTimeAsync(5);
    expect((await closing).hanging).toEqual([{ op: 'read', offset: BLOCK, length: BLOCK }]);
    expect(await status).toBe('CLOSE_TIMEOUT');
  });

  test('gives up on the close of the storage itself', async () => {
    const device = Object.assign(new ManualStorage({ cache: 'none' }), {
      close: () => new Promise<void>(() => {}),
    });
    const closing = failureOf(new SchedulerGroup(device).close({ timeoutMs: 5 }));
    await settled();
    await vi.advanceTimersByTimeAsync(5);
    expect((await closing).message).toBe('no answer within 5 ms to: close');
  });

  test('closes as without one where all is answered in time', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device);
    const write = codeOf(() => group.member().write(0, block(), PLAIN));
    const closing = Promise.all([group.close({ timeoutMs: 5 }), group.close()]);
    await device.drain();
    await closing;
    await vi.advanceTimersByTimeAsync(50);
    expect([await write, device.log, device.closed]).toEqual(['done', 'w0 F', true]);
  });

  test('refuses a limit that is none, and goes on', async () => {
    const group = new SchedulerGroup(new ManualStorage());
    expect(await codeOf(() => group.close({ timeoutMs: -1 }))).toBe('INVALID_ARGUMENT');
    expect(group.member().size).toBe(1024 * BLOCK);
  });

  test('a member whose command hangs ends when it is answered; the others go on without it', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device);
    const [one, other] = [group.member(), group.member()];
    const scheduler = new IoScheduler(one);
    const hangs = codeOf(() => scheduler.write(0, block()));
    const closing = codeOf(() => scheduler.close({ timeoutMs: 5 }));
    await vi.advanceTimersByTimeAsync(5);
    expect([await hangs, await closing]).toEqual(['CLOSE_TIMEOUT', 'CLOSE_TIMEOUT']);
    let hasEnded = false;
    const end = codeOf(() => one.close()).finally(() => {
      hasEnded = true;
    });
    const beside = codeOf(() => other.write(BLOCK, block(), PLAIN));
    await device.answer('w1');
    expect([await beside, hasEnded]).toEqual(['done', false]);
    const failure = failureOf(group.close({ timeoutMs: 5 }));
    await device.answer('F');
    await vi.advanceTimersByTimeAsync(5);
    expect((await failure).hanging).toEqual([{ op: 'write', offset: 0, length: BLOCK }]);
    expect(await end).toBe('CLOSE_TIMEOUT');
  });

  test('answers every command, whatever hangs', async () => {
    const words = fc.array(fc.constantFrom('w0', 'w1', 'w0 r0', 'f', 'r1', 'z0', 'answer', 'end'), {
      minLength: 1,
      maxLength: 14,
    });
    await fc.assert(
      fc.asyncProperty(words, fc.integer({ min: 1, max: 3 }), async (program, depth) => {
        const device = new ManualStorage();
        const group = new SchedulerGroup(device, { depth });
        const members = [group.member(), group.member(), group.member()];
        const ends: Promise<unknown>[] = [];
        for (const [n, word] of program.entries()) {
          const member = members[n % 3] as (typeof members)[number];
          const at = Number(word.at(-1)) * BLOCK;
          if (word === 'answer' && device.inFlight !== '') {
            await device.answer(device.inFlight.split(' ')[0] as string);
          }
          if (word === 'end') ends.push(codeOf(() => member.close()));
          if (word === 'f') ends.push(codeOf(() => member.flush(SIMPLE)));
          if (/^w/.test(word)) ends.push(codeOf(() => member.write(at, block(), PLAIN)));
          if (/r\d$/.test(word)) ends.push(codeOf(() => member.read(at, block())));
          if (/^z/.test(word)) ends.push(codeOf(() => member.writeZeroes?.(at, BLOCK)));
        }
        const closing = codeOf(() => group.close({ timeoutMs: 5 }));
        await vi.advanceTimersByTimeAsync(5);
        expect(['done', 'CLOSE_TIMEOUT']).toContain(await closing);
        for (const end of await Promise.all(ends)) {
          expect(['done', 'CLOSED', 'CLOSE_TIMEOUT']).toContain(end);
        }
        expect(device.closed).toBe((await closing) === 'done');
        await device.drain();
        expect(group.stats()).toMatchObject({ queued: 0, queuedBytes: 0 });
      }),
      { numRuns: share(500) },
    );
  });
});
