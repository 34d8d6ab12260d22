// What the scheduler counts, bounds and remembers: limits and their defaults, what `stats()` says, what a flush holds, and
// whom the flush group serves and forgets.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { IoScheduler, type ModeName, type Storage } from 'write-barrier';
import { Durability } from '../../src/scheduler/durability.js';
import { Command } from '../../src/scheduler/entry.js';
import { FlushGroup } from '../../src/scheduler/flush-group.js';
import { Plans } from '../../src/scheduler/plan.js';
import { BLOCK, ManualStorage, outcomes, settled, World, worldOf } from './world.js';

const GROUP_FLUSH = new Plans('NONE', {
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
}).groupFlush as NonNullable<Plans['groupFlush']>;

describe('given two flushes at the device', () => {
  const range = (block: number) => ({ start: block * BLOCK, end: (block + 1) * BLOCK });

  test('when one succeeds and the other one fails after it, then what the first held is in doubt, too', async () => {
    const { device, disk, one } = worldOf('TAG_FLUSH');
    const write = one('w0');
    await device.answer('w0');
    const flush = one('f');
    const barrier = one('b1');
    await settled();
    expect(device.inFlight).toBe('F ^F ^w1 ^F');
    await device.answer('F');
    expect(outcomes([write, flush])).toBe('w0:done f:done');
    await device.fail('^F');
    await device.drain();
    expect(barrier.outcome).toBe('FLUSH_FAILED');
    expect(disk.atRisk).toContainEqual(expect.objectContaining({ start: 0 }));
  });

  test.each([
    ['the older one fails first', [0, 1]],
    ['the younger one fails first', [1, 0]],
  ])('when %s, then the bytes of both are in doubt at once', (_, [failing, other]) => {
    const { durability, flushes } = twoFlushes();
    durability.flushEnded(flushes[failing as number] as Command<void>, 'EIO');
    expect(durability.atRisk).toEqual([{ start: 0, end: 2 * BLOCK }]);
    durability.flushEnded(flushes[other as number] as Command<void>, undefined);
    expect(durability.atRisk).toEqual([{ start: 0, end: 2 * BLOCK }]);
  });

  test.each([
    ['the older one succeeds', [0, 1]],
    ['the younger one succeeds', [1, 0]],
  ])(
    'when %s and then the other one fails, then the bytes of both are in doubt',
    (_, [done, failing]) => {
      const { durability, flushes } = twoFlushes();
      durability.flushEnded(flushes[done as number] as Command<void>, undefined);
      expect(durability.atRisk).toEqual([]);
      durability.flushEnded(flushes[failing as number] as Command<void>, 'EIO');
      expect(durability.atRisk).toEqual([{ start: 0, end: 2 * BLOCK }]);
    },
  );

  test('when both succeed, then a later flush that fails takes neither along', () => {
    const { durability, flushes } = twoFlushes();
    for (const flush of flushes) durability.flushEnded(flush, undefined);
    const later = newFlush();
    durability.flushIssued(later);
    durability.flushEnded(later, 'EIO');
    expect(durability.atRisk).toEqual([]);
  });

  const newFlush = (): Command<void> => new Command<void>(GROUP_FLUSH, []);

  /** The first holds block 0, the second block 1. */
  function twoFlushes() {
    const durability = new Durability<void>(true);
    const flushes = [0, 1].map((block) => {
      durability.wrote(range(block), false);
      const flush = newFlush();
      durability.flushIssued(flush);
      return flush;
    });
    return { durability, flushes };
  }
});

describe('those who wait for a shared flush', () => {
  test('are counted as queued until their flush is issued', async () => {
    const { device, disk, one } = worldOf('NONE');
    one('w0');
    const flushes = [one('f'), one('f'), one('f')];
    await settled();
    expect(disk.stats().queued).toBe(3);
    await device.answer('w0');
    expect([device.inFlight, disk.stats().queued]).toEqual(['F', 0]);
    await device.answer('F');
    expect(outcomes(flushes)).toBe('f:done f:done f:done');
  });

  test('count for `maxQueued`, and one that is taken back does not', async () => {
    const { disk, one } = worldOf('NONE', { maxQueued: 2 });
    one('w0');
    const [, second] = [one('f'), one('f')];
    const third = one('f');
    await settled();
    expect([disk.stats().queued, third.outcome]).toEqual([2, 'QUEUE_FULL']);
    await second?.cancel();
    expect(disk.stats().queued).toBe(1);
    const fourth = one('f');
    await settled();
    expect([disk.stats().queued, fourth.outcome]).toEqual([2, 'pending']);
  });

  test('count when a failed flush sends them away', async () => {
    const { device, disk, one } = worldOf('NONE');
    one('w0');
    await device.answer('w0');
    one('f');
    await settled();
    one('w1');
    const waits = one('f');
    await settled();
    expect(disk.stats().queued).toBe(1);
    await device.fail('F');
    expect([disk.stats().queued, waits.outcome]).toEqual([0, 'FLUSH_FAILED']);
  });
});

test('given a barrier that waits, then reads pass it as often as they like, no more than `depth` at once', async () => {
  const { device, disk, one } = worldOf('DRAIN', { depth: 4 });
  one('w0');
  one('b1');
  for (let round = 1; round <= 5; round += 1) {
    const reads = ['r10', 'r11', 'r12'].map((text) => one(text));
    await settled();
    expect(device.inFlight).toBe('w0 r10 r11 r12');
    await device.answer('r10', 'r11', 'r12');
    expect(reads.map(({ outcome }) => outcome)).toEqual(['done', 'done', 'done']);
    expect(disk.stats().readsPassed).toBe(3 * round);
  }
  const more = Array.from({ length: 6 }, (_, n) => one(`r${20 + n}`));
  await settled();
  expect(disk.stats().readsPassed).toBe(15 + 4);
  await device.drain();
  expect(more.every(({ outcome }) => outcome === 'done')).toBe(true);
});

describe('the defaults of the limits', () => {
  test('65,536 requests may wait, and one more is refused', async () => {
    const device = new ManualStorage();
    const disk = new IoScheduler(device, { mode: 'DRAIN', allowUnsafe: true });
    const calls = [disk.write(0, new Uint8Array(BLOCK)), disk.barrier()];
    for (let n = 0; n < 65_536; n += 1) calls.push(disk.flush());
    expect(disk.stats().queued).toBe(65_536);
    await expect(disk.flush()).rejects.toMatchObject({ code: 'QUEUE_FULL' });
    expect(disk.stats().queued).toBe(65_536);
    const all = Promise.all(calls);
    while (device.inFlight) await device.answer();
    await all;
  });

  test('256 MiB of buffers may wait, and a block more is refused', async () => {
    const device = new ManualStorage();
    const large: Storage = Object.assign(Object.create(device), { size: 2 ** 32 });
    for (const name of ['read', 'write', 'flush', 'close', 'writev'] as const) {
      Object.assign(large, { [name]: device[name].bind(device) });
    }
    const disk = new IoScheduler(large, { mode: 'DRAIN', allowUnsafe: true });
    const quarter = new Uint8Array(64 * 1024 * 1024);
    const calls = [disk.write(0, new Uint8Array(BLOCK)), disk.barrier()];
    for (let n = 0; n < 4; n += 1) calls.push(disk.write(n * quarter.length, quarter));
    expect(disk.stats()).toMatchObject({ queued: 4, queuedBytes: 256 * 1024 * 1024 });
    const refused = { code: 'QUEUE_FULL' };
    await expect(disk.write(0, new Uint8Array(BLOCK))).rejects.toMatchObject(refused);
    calls.push(disk.flush()); // It has no buffer.
    while (device.inFlight) await device.answer();
    await Promise.all(calls);
  });

  test('32 commands are at the storage, and one more waits', async () => {
    const { device, disk, one } = worldOf('NONE');
    for (let n = 0; n < 33; n += 1) one(`w${n}`);
    await settled();
    expect(disk.stats()).toMatchObject({ inFlight: 32, queued: 1 });
    await device.drain();
  });
});

describe('ready()', () => {
  test('given a limit of requests, then it settles when half of it waits, and not before', async () => {
    for (const maxQueued of [1, 2, 4, 5]) {
      const { device, disk, one } = worldOf('NONE', { depth: 1, maxQueued });
      for (let n = 0; n <= maxQueued; n += 1) one(`w${n}`);
      await settled();
      expect(disk.stats().queued).toBe(maxQueued);
      let ready = false;
      void disk.ready().then(() => {
        ready = true;
      });
      for (let left = maxQueued; left >= 0; left -= 1) {
        await settled();
        expect([left, ready]).toEqual([left, left <= Math.floor(maxQueued / 2)]);
        await device.answer();
      }
    }
  });

  test('given a limit of bytes, then it settles when half of them wait, and not before', async () => {
    const { device, disk, one } = worldOf('NONE', { depth: 1, maxQueuedBytes: 6 * BLOCK });
    for (const text of ['w20', 'w1+3', 'w4+2', 'w6']) one(text);
    await settled();
    const told: [number, boolean][] = [];
    let ready = false;
    void disk.ready().then(() => {
      ready = true;
    });
    for (let n = 0; n < 4; n += 1) {
      await settled();
      told.push([disk.stats().queuedBytes / BLOCK, ready]);
      await device.answer();
    }
    expect(told).toEqual([
      [6, false],
      [3, true],
      [1, true],
      [0, true],
    ]);
  });
});

describe('the counter `drains`', () => {
  test.each<[ModeName, string, number]>([
    ['NONE', 'w0 f w1', 0],
    ['DRAIN', 'w0 w1', 0],
    ['DRAIN', 'w0 b1 w2', 2],
    ['DRAIN', 'w0 b w2', 1],
    ['DRAIN_FLUSH', 'w0 b1 w2', 4],
    ['DRAIN_FUA', 'w0 b1 w2', 3],
    ['TAG_FLUSH', 'w0 b1 w2', 0],
    ['TAG', 'w0 b w2', 1],
  ])('in %s, of %s, is %i', async (mode, program, drains) => {
    const world = new World({ mode, allowUnsafe: true });
    const calls = world.submit(program);
    await settled();
    await world.device.drain();
    expect(calls.filter(({ outcome }) => outcome === 'pending')).toEqual([]);
    expect(world.disk.stats().drains).toBe(drains);
  });

  test('does not count a drain that still waits', async () => {
    const world = new World({ mode: 'DRAIN', allowUnsafe: true });
    world.submit('w0 b1');
    await settled();
    expect(world.disk.stats().drains).toBe(0);
    await world.device.answer('w0');
    expect(world.disk.stats().drains).toBe(1);
    await world.device.drain();
  });
});

describe('a flush waits for the writes before it and for no other', () => {
  const programs = [
    'w0 f w1 f w2 f',
    'w0 w1 f w2 f',
    // Its own write is not before a preflush, and a forced write on this device covers nothing but itself.
    'w0 fw1 f w2! f',
    // Reads and bypassing reads stand among the writes, and are none.
    'r9 w0 r8 f r7 w1 f',
    'w0 f b1 f r9 w2 f',
  ];
  test.each(programs)('in %s, whichever order the device answers in', async (program) => {
    const cases = orders(program.split(' ').filter((text) => /[wb]/.test(text)).length);
    for (const order of cases) await inOrder(program, order);
  });

  /** Answers what is at the device by `order`, and looks after each answer who is done. */
  async function inOrder(program: string, order: readonly number[]): Promise<void> {
    const world = new World({ mode: 'DRAIN_FLUSH', device: { fua: false } });
    const calls = world.submit(program);
    await settled();
    for (let turn = 0; world.device.inFlight; turn += 1) {
      const inFlight = world.device.inFlight.split(' ');
      // Flushes at once, so that only writes hold a flush up.
      const next = inFlight.includes('F')
        ? 'F'
        : inFlight[(order[turn % order.length] ?? 0) % inFlight.length];
      await world.device.answer(next as string);
      calls.forEach(({ text, outcome }, at) => {
        if (text !== 'f' || world.device.inFlight.includes('F')) return;
        const writes = calls.slice(0, at).filter((call) => /[wb]/.test(call.text));
        const isDue = writes.every((call) => call.outcome === 'done');
        expect([program, order, turn, at, outcome]).toEqual([
          ...[program, order, turn, at],
          isDue ? 'done' : 'pending',
        ]);
      });
    }
    expect(calls.filter(({ outcome }) => outcome !== 'done')).toEqual([]);
  }

  function orders(count: number): number[][] {
    if (count === 0) return [[]];
    return orders(count - 1).flatMap((order) =>
      Array.from({ length: count }, (_, at) => [
        ...order.slice(0, at),
        count - 1,
        ...order.slice(at),
      ]),
    );
  }
});

describe('the flush group', () => {
  const waiterOf = (ticket: number) => ({ ticket });
  const oldest = (ticket: number) => ({ oldestWrite: { ticket } });
  const NONE_LEFT = { oldestWrite: undefined };

  test('serves those that cover no write that is left, in the order in which they joined', () => {
    const group = new FlushGroup<{ ticket: number }>();
    const waiters = [1, 3, 5].map(waiterOf);
    for (const waiter of waiters) group.join(waiter);
    expect(group.take(oldest(0))).toBeUndefined();
    expect(group.take(oldest(4))).toEqual(waiters.slice(0, 2));
    expect(group.waiting).toBe(1);
    group.ended();
    expect(group.take(NONE_LEFT)).toEqual(waiters.slice(2));
  });

  test('serves a write that waits for its own preflush when it is the oldest itself', () => {
    const group = new FlushGroup<{ ticket: number }>();
    const write = waiterOf(2);
    group.join(write);
    expect(group.take(oldest(1))).toBeUndefined();
    expect(group.take(oldest(2))).toEqual([write]);
  });

  test('serves one whose own write has completed, whatever is left', () => {
    const group = new FlushGroup<{ ticket: number }>();
    const [flush, forced] = [waiterOf(5), waiterOf(7)];
    group.join(flush);
    group.joinReady(forced);
    expect(group.take(oldest(0))).toEqual([forced]);
    group.ended();
    expect(group.take(NONE_LEFT)).toEqual([flush]);
  });

  test('has one flush at the device, and looks for writes only while a request waits for it', () => {
    const group = new FlushGroup<{ ticket: number }>();
    let looked = 0;
    const writes = {
      get oldestWrite() {
        looked += 1;
        return undefined;
      },
    };
    expect([group.take(writes), looked]).toEqual([undefined, 0]);
    group.join(waiterOf(0));
    expect([group.take(writes)?.length, looked]).toEqual([1, 1]);
    group.join(waiterOf(1));
    expect([group.take(writes), looked]).toEqual([undefined, 1]);
  });

  test('is not left by one who is not there', () => {
    const group = new FlushGroup<{ ticket: number }>();
    const waiter = waiterOf(0);
    group.join(waiter);
    expect([group.leave(waiterOf(0)), group.waiting]).toEqual([false, 1]);
    expect([group.leave(waiter), group.leave(waiter), group.waiting]).toEqual([true, false, 0]);
  });

  test('forgets those who were sent away: one who comes back may leave again', () => {
    const group = new FlushGroup<{ ticket: number }>();
    const [covering, ready] = [waiterOf(0), waiterOf(1)];
    group.join(covering);
    group.joinReady(ready);
    expect(group.evict()).toEqual([ready, covering]);
    expect(group.waiting).toBe(0);
    group.joinReady(covering);
    expect([group.leave(covering), group.waiting]).toEqual([true, 0]);
  });

  test.each(['served', 'taken out', 'sent away'])(
    'keeps nothing of one who was %s',
    async (how) => {
      setFlagsFromString('--expose-gc');
      const gc = runInNewContext('gc') as () => void;
      const group = new FlushGroup<{ ticket: number }>();
      const weak = (() => {
        const waiter = waiterOf(0);
        group.join(waiter);
        if (how === 'served') group.take(NONE_LEFT);
        if (how === 'taken out') group.leave(waiter);
        if (how === 'sent away') group.evict();
        return new WeakRef(waiter);
      })();
      for (let turn = 0; turn < 10 && weak.deref(); turn += 1) {
        await settled();
        gc();
      }
      expect(weak.deref()).toBeUndefined();
    },
  );
});
