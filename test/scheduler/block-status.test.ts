// Block statuses through schedulers, their storages and groups. A status has the place of a read: it sees every write that was
// submitted before it, so it never calls one of them a hole, whatever waits in which queue (storage.S12).

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Extent,
  IoScheduler,
  MemoryStorage,
  type ModeName,
  SchedulerGroup,
  type Storage,
  type TraceEvent,
  tracing,
  withLatency,
} from '../../src/index.js';
import { share } from '../kit/amount.js';
import { codeThrown } from '../storage/contract.js';

const BLOCK = 512;
const BLOCKS = 12;
const block = (value: number): Uint8Array => new Uint8Array(BLOCK).fill(value);
const UNKNOWN = { hole: false, zero: false };

/** Answers after as many turns as the list says, in a circle. */
function slow(storage: Storage, turns: readonly number[]): Storage {
  let at = 0;
  const sleep = async (): Promise<void> => {
    at += 1;
    for (let left = turns[at % turns.length] ?? 0; left > 0; left -= 1) await Promise.resolve();
  };
  const wrapped = withLatency(storage, 1, { sleep });
  // Its statuses take time as well, which those of a wrapper do not.
  const blockStatus = async (offset: number, length: number): Promise<readonly Extent[]> => {
    await sleep();
    const answer = await storage.blockStatus?.(offset, length);
    await sleep();
    return answer ?? [];
  };
  return Object.assign(wrapped, { blockStatus });
}

const command = fc.record({
  op: fc.constantFrom(
    'write',
    'write',
    'barrier',
    'writeZeroes',
    'flush',
    'status',
    'status',
    'turn',
  ),
  at: fc.nat(BLOCKS - 1),
  blocks: fc.integer({ min: 1, max: 3 }),
});
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never;
const stacks: Readonly<Record<string, (storage: Storage) => Storage>> = {
  storage: (storage) => storage,
  'scheduler as a storage': (storage) => new IoScheduler(storage).asStorage(),
  'member of a group': (storage) => new SchedulerGroup(storage).member(),
};

/** Runs the commands; answers how many blocks were called zero. */
async function played(disk: IoScheduler, commands: readonly Command[]): Promise<number> {
  const isZero = new Array<boolean>(BLOCKS).fill(true);
  const waiting: Promise<unknown>[] = [];
  let zeroes = 0;
  for (const { op, at, blocks } of commands) {
    const count = Math.min(blocks, BLOCKS - at);
    const [offset, length] = [at * BLOCK, count * BLOCK];
    const data = new Uint8Array(length).fill(7);
    if (op === 'turn') await new Promise(setImmediate);
    if (op === 'flush') waiting.push(disk.flush());
    if (op === 'write' || op === 'barrier') {
      isZero.fill(false, at, at + count);
      waiting.push(disk.write(offset, data, { barrier: op === 'barrier' }));
    }
    if (op === 'writeZeroes') {
      isZero.fill(true, at, at + count);
      waiting.push(disk.writeZeroes(offset, length));
    }
    if (op !== 'status') continue;
    const then = [...isZero];
    const check = async (): Promise<void> => {
      let place = at;
      for (const { length: bytes, hole, zero } of await disk.blockStatus(offset, length)) {
        const named = then.slice(place, place + bytes / BLOCK);
        if (zero || hole) expect(named).not.toContain(false);
        if (zero) zeroes += named.length;
        place += bytes / BLOCK;
      }
      expect(place).toBeGreaterThan(at);
      expect(place).toBeLessThanOrEqual(at + count);
    };
    waiting.push(check());
  }
  await Promise.all(waiting);
  return zeroes;
}

describe.each(Object.entries(stacks))('over a %s', (_, over) => {
  test('given any writes in the queue, then a status never calls one a hole that was submitted before it', async () => {
    let zeroes = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(command, { maxLength: 25 }),
        fc.array(fc.nat(6), { minLength: 1, maxLength: 8 }),
        fc.constantFrom<ModeName>('DRAIN_FLUSH', 'DRAIN_FUA', 'TAG_FLUSH'),
        fc.constantFrom(1, 4),
        async (commands, turns, mode, depth) => {
          const orderedTags = mode === 'TAG_FLUSH';
          const medium = new MemoryStorage(BLOCKS * BLOCK, { capabilities: { orderedTags } });
          // With tags the storage keeps the order, and a slow one would not.
          const storage = over(orderedTags ? medium : slow(medium, turns));
          const disk = new IoScheduler(storage, { mode, depth });
          zeroes += await played(disk, commands);
          await disk.close();
        },
      ),
      { numRuns: share(600, 120) },
    );
    // Otherwise everything was called unknown.
    expect(zeroes).toBeGreaterThan(0);
  });
});

describe('a block status', () => {
  test('of a storage that has none is an extent of which nothing is known', async () => {
    const storage = new MemoryStorage(BLOCKS * BLOCK, { capabilities: { blockStatus: false } });
    for (const disk of [
      new IoScheduler(storage),
      new IoScheduler(new IoScheduler(storage).asStorage()),
    ]) {
      expect(await disk.blockStatus(BLOCK, 2 * BLOCK)).toEqual([{ length: 2 * BLOCK, ...UNKNOWN }]);
    }
  });

  test('is refused with nothing queued as a read is', async () => {
    const disk = new IoScheduler(new MemoryStorage(BLOCKS * BLOCK));
    const codes = [
      [0, 0],
      [-BLOCK, BLOCK],
      [0, 13 * BLOCK],
      [1, BLOCK],
      [0, 'all'],
    ].map(([offset, length]) =>
      codeThrown(() => disk.blockStatus(offset as number, length as number)),
    );
    expect(await Promise.all(codes)).toEqual([
      'ZERO_LENGTH',
      'OUT_OF_RANGE',
      'OUT_OF_RANGE',
      'UNALIGNED',
      'INVALID_ARGUMENT',
    ]);
    const { signal } = AbortSignal.abort('enough') && { signal: AbortSignal.abort('enough') };
    await expect(disk.blockStatus(0, BLOCK, { signal })).rejects.toBe('enough');
    expect(disk.stats().submitted).toBe(0);
    await disk.close();
    expect(await codeThrown(() => disk.blockStatus(0, BLOCK))).toBe('CLOSED');
  });

  test('costs no buffer, so one of a whole disk fits into a queue with bounded bytes', async () => {
    const medium = new MemoryStorage(BLOCKS * BLOCK);
    const disk = new IoScheduler(slow(medium, [3]), { depth: 1, maxQueuedBytes: BLOCK });
    const writes = [disk.write(0, block(1)), disk.write(BLOCK, block(1))];
    const status = disk.blockStatus(0, BLOCKS * BLOCK);
    expect(disk.stats().queuedBytes).toBeLessThanOrEqual(BLOCK);
    expect((await status)[0]).toMatchObject(UNKNOWN);
    await Promise.all(writes);
    await disk.close();
  });

  test('is a read with a mark in a trace, a read in the counters, and no command of a wrapper', async () => {
    const events: TraceEvent[] = [];
    const commands: TraceEvent[] = [];
    const storage = tracing(new MemoryStorage(BLOCKS * BLOCK), (event) => commands.push(event));
    const disk = new IoScheduler(storage, { observer: (event) => events.push(event) });
    await disk.blockStatus(0, BLOCK);
    expect(events.map(({ kind }) => kind)).toEqual(['submit', 'dispatch', 'complete', 'settle']);
    expect(events[0]).toMatchObject({
      what: { kind: 'read', offset: 0, length: BLOCK, status: true },
    });
    expect(disk.stats().commands.read).toBe(1);
    expect(commands).toEqual([]);
  });

  test('that the storage fails is IO_FAILED, or the code that says more', async () => {
    const failing = (error: unknown): IoScheduler =>
      new IoScheduler(
        Object.assign(new MemoryStorage(BLOCK), { blockStatus: () => Promise.reject(error) }),
      );
    const cause = new Error('odd');
    await expect(failing(cause).blockStatus(0, BLOCK)).rejects.toMatchObject({
      code: 'IO_FAILED',
      cause,
    });
  });

  test('group-member.P1: of a member is refused as its other commands are, and the group waits for it before it closes', async () => {
    const medium = new MemoryStorage(BLOCKS * BLOCK);
    let answer = (_: readonly Extent[]): void => {};
    const order: string[] = [];
    const storage = Object.assign(medium, {
      blockStatus: () =>
        new Promise<readonly Extent[]>((resolve) => {
          answer = resolve;
        }),
    });
    const close = medium.close.bind(medium);
    medium.close = () => {
      order.push('closed');
      close();
    };
    const group = new SchedulerGroup(storage);
    const [member, gone] = [group.member(), group.member()];
    expect(await codeThrown(() => member.blockStatus?.(0, 13 * BLOCK))).toBe('OUT_OF_RANGE');
    expect(await codeThrown(() => member.blockStatus?.(1, BLOCK))).toBe('UNALIGNED');
    await gone.close();
    expect(await codeThrown(() => gone.blockStatus?.(0, BLOCK))).toBe('CLOSED');
    const status = member.blockStatus?.(0, BLOCK);
    const closing = group.close();
    await new Promise(setImmediate);
    order.push('answered');
    answer([{ length: BLOCK, ...UNKNOWN }]);
    await Promise.all([status, closing]);
    expect(order).toEqual(['answered', 'closed']);
    expect(await codeThrown(() => member.blockStatus?.(0, BLOCK))).toBe('CLOSED');
  });

  test('a member of a storage that has none has none', () => {
    const group = new SchedulerGroup(
      new MemoryStorage(BLOCK, { capabilities: { blockStatus: false } }),
    );
    expect(group.member().blockStatus).toBeUndefined();
  });
});
