// What a hurried user, an odd storage or bad timing can do to the scheduler: nobody hangs, nothing is lost in
// silence, and whoever asked hears what became of it.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import {
  IoScheduler,
  MemoryStorage,
  type SchedulerOptions,
  type Storage,
  tracing,
  WriteBarrierError,
  withFaults,
  withLatency,
} from 'write-barrier';
import { Ordering } from '../../src/scheduler/ordering.js';
import { share } from '../kit/amount.js';
import { BLOCK, ManualStorage, outcomes, settled, track, VOLATILE, World } from './world.js';

const block = (fill: number, length = BLOCK): Uint8Array => new Uint8Array(length).fill(fill);
const codeOf = (error: unknown): string =>
  WriteBarrierError.is(error) ? error.code : String(error);

/** A storage in memory, some of whose methods are odd. */
function odd(methods: Partial<Storage>, capabilities: Partial<Storage['capabilities']> = {}) {
  const memory = new MemoryStorage(64 * BLOCK, {
    capabilities: { ...VOLATILE, writev: false, ...capabilities },
  });
  const storage: Storage = {
    size: memory.size,
    capabilities: memory.capabilities,
    read: (offset, into) => memory.read(offset, into),
    write: (offset, data, flags) => memory.write(offset, data, flags),
    flush: (flags) => memory.flush(flags),
    discard: () => {},
    writeZeroes: () => {},
    close: () => memory.close(),
    ...methods,
  };
  return { storage, memory };
}

describe('a cancelled barrier', () => {
  test('whose preflush is done does not stop the queue, whoever completes last', async () => {
    const { device, submit } = worldOf({ mode: 'TAG_FLUSH', depth: 1 });
    const [barrier, read] = submit('b1 r9');
    await device.answer('^F');
    await barrier?.cancel();
    await device.answer('r9');
    const later = submit('w2 b3 w4');
    await device.drain();
    expect(read?.outcome).toBe('done');
    expect(outcomes(later)).toBe('w2:done b3:done w4:done');
  });

  test('keeps the mode that it was begun in', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    const all = submit('w0 b1 w2');
    disk.setMode('TAG_FLUSH');
    await all[1]?.cancel();
    await device.drain();
    expect(device.log).toBe('w0 F w2');
  });

  test('next to another one leaves no second ordering point', async () => {
    const { device, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    const all = submit('w0 b b1 b2 b w3');
    for (const barrier of all.slice(2, 5)) await barrier.cancel();
    await device.drain();
    expect(device.log).toBe('w0 F F w3');
  });
});

test('given two cancelled barriers with a read between them, when the place that is left drains, then it waits for the read', async () => {
  const { device, submit } = worldOf({ mode: 'DRAIN_FLUSH', depth: 2 });
  const all = submit('w0 b1 w2 b3 b4 r9 b5 w6');
  await all[4]?.cancel();
  await all[6]?.cancel();
  while (device.inFlight !== 'r9') {
    const [first = ''] = device.inFlight.split(' ').filter((text) => text !== 'r9');
    await device.answer(first);
  }
  expect(all[7]?.outcome).toBe('pending');
  expect(device.log).not.toContain('w6');
  await device.drain();
  expect(outcomes(all)).toMatch(/w6:done$/);
});

describe('barriers and failures', () => {
  test('given two committers who try again, when one write fails once, then both get through', async () => {
    const storage = withFaults(odd({}).storage, [{ on: 'write', nth: 0, fault: 'fail' }]);
    const disk = new IoScheduler(
      withLatency(storage, () => 0),
      { mode: 'DRAIN_FLUSH' },
    );
    const commit = async (at: number): Promise<number> => {
      for (let tries = 1; ; tries++) {
        expect(tries).toBeLessThan(10);
        const record = disk.write(at * BLOCK, block(at));
        const mark = disk.write((at + 1) * BLOCK, block(at), { barrier: true });
        const ends = await Promise.allSettled([record, mark]);
        if (ends.every(({ status }) => status === 'fulfilled')) return tries;
      }
    };
    await Promise.all([commit(0), commit(8), commit(16)]);
    await disk.close();
  });

  test('given a failure after the answer for another, when the next barrier comes, then it answers for that one, too', async () => {
    const { device, submit } = worldOf({ mode: 'DRAIN', device: { cache: 'none' } });
    const first = submit('w0 b w1 w2');
    await device.fail('w0');
    expect(outcomes(first)).toBe('w0:IO_FAILED b:BARRIER_ABORTED w1:pending w2:pending');
    await device.fail('w2');
    await device.answer('w1');
    expect(outcomes(submit('b'))).toBe('b:pending');
    const [answered, next] = submit('b b');
    await settled();
    expect([answered?.outcome, next?.outcome]).toEqual(['BARRIER_ABORTED', 'BARRIER_ABORTED']);
    const [clean] = submit('b');
    await settled();
    expect(clean?.outcome).toBe('done');
  });

  test('given failures that come and go with a storage that answers at once, then each has its barrier', async () => {
    let failing = true;
    const { storage } = odd({
      write: () => {
        if (failing) throw new Error('EIO');
      },
    });
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    // The barrier fails in this turn, the write behind it as well, and nobody has heard of either.
    const all = [disk.write(0, block(1)), disk.barrier(), disk.write(BLOCK, block(1))].map(
      (promise) => promise.then(() => 'done', codeOf),
    );
    expect(await Promise.all(all)).toEqual(['IO_FAILED', 'BARRIER_ABORTED', 'IO_FAILED']);
    failing = false;
    await expect(disk.barrier()).rejects.toMatchObject({
      code: 'BARRIER_ABORTED',
      blame: { offset: BLOCK },
    });
    await disk.barrier();
  });

  test('given a failed write that is written again, when another has failed, too, then the barrier blames the other', async () => {
    const { device, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    submit('w0 w5');
    await device.fail('w0');
    await device.fail('w5');
    const [, barrier] = submit('w0 b');
    await device.drain();
    expect(barrier?.error).toMatchObject({
      code: 'BARRIER_ABORTED',
      blame: { offset: 5 * BLOCK },
      ranges: [{ start: 5 * BLOCK, end: 6 * BLOCK }],
    });
  });

  test('given a barrier that fails, when plain writes stand behind it, then they are written', async () => {
    const { device, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    const all = submit('w0 b1 w2 b3');
    await device.fail('w0');
    await device.drain();
    expect(outcomes(all)).toBe('w0:IO_FAILED b1:BARRIER_ABORTED w2:done b3:BARRIER_ABORTED');
  });

  test('given an ordered flush that fails, when a plain flush was under way, then that one does not claim success', async () => {
    const { device, disk, submit } = worldOf({ mode: 'TAG_FLUSH' });
    submit('w0');
    await device.drain();
    const all = submit('b f');
    expect(device.inFlight).toBe('^F F');
    await device.fail('^F');
    await device.drain();
    expect(outcomes(all)).toBe('b:FLUSH_FAILED f:FLUSH_FAILED');
    expect(disk.atRisk).toEqual([{ start: 0, end: BLOCK }]);
  });

  test('given a write at the device when a flush fails, then its bytes are at risk, unless they are forced', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    const all = submit('w0 f w4 w6!');
    await device.answer('w0');
    await device.fail('F');
    await device.drain();
    expect(outcomes(all)).toBe('w0:done f:FLUSH_FAILED w4:done w6!:done');
    expect(disk.atRisk).toEqual([
      { start: 0, end: BLOCK },
      { start: 4 * BLOCK, end: 5 * BLOCK },
    ]);
  });

  test('given thousands of scattered bytes at risk, then what is told may be more than that, and not much more', async () => {
    const device = new ManualStorage();
    const disk = new IoScheduler(
      { ...bind(device), size: 2 ** 40 },
      { mode: 'DRAIN_FLUSH', depth: 1024 },
    );
    const near = 9000;
    const writes = Array.from({ length: near }, (_, i) => disk.write(2 * i * BLOCK, block(1)));
    const far = disk.write(2 ** 39, block(1));
    await device.drain();
    await Promise.all([...writes, far]);
    const flush = ended(disk.flush());
    await device.fail('F');
    expect(await flush).toBe('FLUSH_FAILED');
    const told = disk.atRisk.reduce((sum, { start, end }) => sum + end - start, 0);
    expect(told).toBeGreaterThan(near * BLOCK);
    expect(told).toBeLessThan(2 * (near + 1) * BLOCK);
  });
});

describe('bytes at risk', () => {
  test('given two flushes at the device, when one fails, then what the other one holds is at risk, too', async () => {
    const { device, disk, submit } = worldOf({ mode: 'TAG_FLUSH' });
    submit('w0');
    await device.drain();
    const all = submit('f b');
    expect(device.inFlight).toBe('F ^F');
    await device.fail('^F');
    await device.drain();
    expect(outcomes(all)).toBe('f:FLUSH_FAILED b:FLUSH_FAILED');
    for (const { error } of all)
      expect(error).toMatchObject({ atRisk: [{ start: 0, end: BLOCK }] });
    expect(disk.atRisk).toEqual([{ start: 0, end: BLOCK }]);
  });

  test('given two flushes at the device, when one succeeds and then the other fails, then it is not certain which came first', async () => {
    const { device, disk, submit } = worldOf({ mode: 'TAG_FLUSH', depth: 3 });
    submit('w0 b1');
    await device.answer('w0');
    await device.answer('^w1');
    const [preflush, postflush] = device.inFlight.split(' ');
    expect([preflush, postflush]).toEqual(['^F', '^F']);
    await device.answer('^F');
    await device.fail('^F');
    expect(disk.atRisk).toEqual([{ start: 0, end: 2 * BLOCK }]);
  });

  test('given bytes that a failed flush held, when an older forced write of them ends only then, then they stay at risk', async () => {
    const { device, disk, submit } = worldOf({ mode: 'TAG_FLUSH', depth: 4 });
    const all = submit('w0! b0');
    expect(device.inFlight).toBe('w0! ^F ^w0 ^F');
    await device.answer('^F');
    await device.answer('^w0');
    await device.fail('^F');
    await device.answer('w0!');
    expect(outcomes(all)).toBe('w0!:done b0:FLUSH_FAILED');
    expect(disk.atRisk).toEqual([{ start: 0, end: BLOCK }]);
  });

  test('given a flush that failed, when others end and come later, then their errors name what is at risk by then', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH', device: { fua: false } });
    const all = submit('w0 f w4! w6');
    await device.answer('w0');
    await device.fail('F');
    await device.drain();
    const [late] = submit('w9');
    await settled();
    expect(outcomes(all)).toBe('w0:done f:FLUSH_FAILED w4!:FLUSH_FAILED w6:done');
    expect(disk.atRisk).toHaveLength(3);
    expect(late?.error).toMatchObject({ code: 'FAILED', atRisk: disk.atRisk });
    expect(all[2]?.error).toMatchObject({ atRisk: [{ start: 0 }, { start: 4 * BLOCK }] });
  });

  test('given a barrier whose write is at the device, when another flush fails, then its outcome is in doubt, not refused', async () => {
    const { device, submit } = worldOf({ mode: 'TAG_FUA' });
    submit('w0');
    await device.drain();
    const all = submit('f b1');
    expect(device.inFlight).toBe('F ^F ^w1!');
    await device.fail('F');
    await device.drain();
    expect(outcomes(all)).toBe('f:FLUSH_FAILED b1:FLUSH_FAILED');
  });

  test('given a failure of the whole disk, when scattered writes mend it, then the books stay short', async () => {
    const device = new ManualStorage();
    const storage: Storage = {
      ...bind(device),
      size: 2 ** 40,
      discard: () => Promise.reject(new Error('EIO')),
      write: () => {},
    };
    const disk = new IoScheduler(storage, { mode: 'TAG_FLUSH' });
    await expect(disk.discard(0, 2 ** 40)).rejects.toMatchObject({ code: 'IO_FAILED' });
    for (let i = 0; i < share(20_000, 8000); i++) await disk.write(2 * i * BLOCK, block(1));
    const flush = ended(disk.flush());
    await device.fail('F');
    expect(await flush).toBe('FLUSH_FAILED');
    expect(disk.atRisk.length).toBeLessThan(6000);
  });
});

describe('a write with preflush', () => {
  test.each(['none', 'volatile'] as const)(
    'waits for what was submitted before it on a storage with cache %s',
    async (cache) => {
      const { device, submit } = worldOf({ mode: 'DRAIN_FUA', device: { cache } });
      const all = submit('w0 fw1 w2');
      expect(device.inFlight).toBe('w0 w2');
      await device.drain();
      expect(outcomes(all)).toBe('w0:done fw1:done w2:done');
      expect(device.log).toBe(cache === 'none' ? 'w0 w2 w1' : 'w0 w2 F w1');
    },
  );
});

test('given many barriers and writes that are cancelled in turn, then what they leave does not fill the queue', async () => {
  const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH', depth: 1, maxQueued: 20 });
  submit('w0 b');
  for (let i = 0; i < 200; i++) {
    const [write, barrier] = submit('w1 b');
    await barrier?.cancel();
    await write?.cancel();
  }
  expect(disk.stats().queued).toBeLessThan(3);
  await device.drain();
  expect(device.log).toMatch(/^w0 F( F)?$/);
});

test('given TAG over a device that keeps no tags, when a barrier overlaps a write, then they are not at the device together', async () => {
  const { device, submit } = worldOf({
    mode: 'TAG',
    allowUnsafe: true,
    device: { orderedTags: false, cache: 'none' },
  });
  const all = submit('w1 b1');
  expect(device.inFlight).toBe('w1');
  await device.drain();
  expect(outcomes(all)).toBe('w1:done b1:done');
});

test('given flushes that come and go while one write hangs, then they leave nothing behind', async () => {
  const ordering = new Ordering<number>({
    mode: 'DRAIN_FLUSH',
    device: VOLATILE,
    depth: 8,
    errorPolicy: 'abort',
    readsPassBarriers: true,
  });
  const write = (offset: number) => ordering.submit({ kind: 'write', offset, length: BLOCK }, 0);
  write(0);
  ordering.next();
  const before = heapUsed();
  let cancelled = 0;
  for (let i = 0; i < 100_000; i++) {
    const flush = ordering.submit({ kind: 'flush' }, 1);
    ordering.next();
    write(BLOCK);
    for (let command = ordering.next(); command; command = ordering.next()) {
      ordering.complete(command);
    }
    if (ordering.cancel(flush)) cancelled += 1;
    while (ordering.takeSettled());
  }
  expect(cancelled).toBe(100_000);
  expect(heapUsed() - before).toBeLessThan(4_000_000);
});

test('given a scheduler above another, when the lower mode changes under an ordered flush, then it is durable all the same', async () => {
  const device = new ManualStorage({ orderedTags: false });
  const lower = new IoScheduler(device, { mode: 'DRAIN_FLUSH', allowUnsafe: true });
  const upper = new World({ mode: 'TAG_FLUSH' }, lower.asStorage() as never);
  track(lower, { kind: 'barrier' });
  const all = upper.submit('w1 b');
  await settled();
  lower.setMode('DRAIN');
  await device.drain();
  expect(outcomes(all)).toBe('w1:done b:done');
  expect(device.log).toMatch(/w1 F$/);
});

test('given the policy of the kernel, when the preflush of a barrier is at the device, then it cannot be cancelled, and its owner hears', async () => {
  const { device, submit } = worldOf({ mode: 'DRAIN_FLUSH', errorPolicy: 'kernel' });
  const all = submit('w0 b1');
  await device.answer('w0');
  await all[1]?.cancel();
  await device.fail('F');
  await device.drain();
  expect(outcomes(all)).toBe('w0:done b1:FLUSH_FAILED');
});

describe('zeroes written by hand', () => {
  test('are one command: an ordered barrier that comes later does not slip between their pieces', async () => {
    const device = new ManualStorage({ writev: false, writeZeroes: false });
    const disk = new IoScheduler(device, { mode: 'TAG_FLUSH' });
    const zeroes = track(disk, { kind: 'writeZeroes', offset: 0, length: 600 * BLOCK });
    const barrier = track(disk, {
      kind: 'write',
      offset: 700 * BLOCK,
      length: BLOCK,
      barrier: true,
    });
    expect(device.log).toBe('w0+256');
    await device.answer();
    await device.answer();
    expect(device.log).toBe('w0+256 w256+256 w512+88');
    await device.drain();
    expect(device.log).toBe('w0+256 w256+256 w512+88 ^F ^w700 ^F');
    expect(outcomes([zeroes, barrier])).toMatch(/:done b700:done$/);
  });

  test('go to the device one piece after the other, whether it takes lists or not, and hold their range until the last', async () => {
    for (const writev of [true, false]) {
      const device = new ManualStorage({ writev, writeZeroes: false });
      const disk = new IoScheduler(device, { mode: 'DRAIN_FLUSH', depth: 2 });
      track(disk, { kind: 'writeZeroes', offset: 0, length: 768 * BLOCK });
      const behind = track(disk, { kind: 'read', offset: 0, length: BLOCK });
      const beside = track(disk, { kind: 'read', offset: 800 * BLOCK, length: BLOCK });
      expect(device.inFlight).toBe('w0+256 r800');
      await device.answer('w0+256');
      expect(device.inFlight).toBe('r800 w256+256');
      await device.answer();
      expect([behind.outcome, beside.outcome]).toEqual(['pending', 'done']);
      await device.drain();
      expect(device.log).toBe('w0+256 r800 w256+256 w512+256 r0');
      expect(behind.outcome).toBe('done');
    }
  });

  test('fail with the piece that failed, and go no further', async () => {
    const device = new ManualStorage({ writev: false, writeZeroes: false });
    const disk = new IoScheduler(device, { mode: 'DRAIN_FLUSH' });
    const zeroes = track(disk, { kind: 'writeZeroes', offset: 0, length: 512 * BLOCK });
    await device.fail('w0+256');
    expect(zeroes.outcome).toBe('IO_FAILED');
    expect(device.log).toBe('w0+256');
  });

  test('fail where a piece comes short', async () => {
    const memory = new MemoryStorage(8 << 20, { capabilities: { writeZeroes: false } });
    const disk = new IoScheduler(withFaults(memory, [{ on: 'write', nth: 3, fault: 'short' }]));
    await expect(disk.writeZeroes(0, 8 << 20)).rejects.toMatchObject({ code: 'SHORT_TRANSFER' });
  });

  test('are given up with the rest: no piece is issued after close() has had enough', async () => {
    const device = new ManualStorage({ writeZeroes: false });
    const disk = new IoScheduler(device, { mode: 'DRAIN_FLUSH' });
    const zeroes = track(disk, { kind: 'writeZeroes', offset: 0, length: 512 * BLOCK });
    await expect(disk.close({ timeoutMs: 1 })).rejects.toMatchObject({ code: 'CLOSE_TIMEOUT' });
    await device.answer('w0+256');
    expect(device.inFlight).toBe('');
    expect(zeroes.outcome).toBe('CLOSE_TIMEOUT');
  });
});

test('given a flush with an ordered tag over a mode without flushes, then it is behind its flush, and later writes behind both', async () => {
  const device = new ManualStorage({ orderedTags: false });
  const host = new IoScheduler(device, { mode: 'DRAIN', allowUnsafe: true });
  const guest = new World({ mode: 'TAG_FLUSH' }, host.asStorage() as never);
  const all = guest.submit('w0 b1 w2');
  await settled();
  await device.answer('w0');
  expect(device.inFlight).toBe('F');
  await device.answer('F');
  expect(device.inFlight).toBe('w1');
  await device.drain();
  expect(device.log).toBe('w0 F w1 F w2');
  expect(outcomes(all)).toBe('w0:done b1:done w2:done');
});

describe('a storage', () => {
  test.each([
    ['null', () => null],
    ['a promise of null', async () => null],
    ['a thenable', () => thenable((resolve) => resolve())],
    ['an empty object', () => ({})],
  ])('may answer %s', async (_, answer) => {
    const { storage } = odd({ write: answer as never, flush: answer as never });
    for (const layer of [storage, tracing(storage, () => {}), withFaults(storage, [])]) {
      const disk = new IoScheduler(layer, { mode: 'DRAIN_FLUSH' });
      const end = await disk.write(0, block(1), { barrier: true }).then(() => 'done', codeOf);
      expect(end).toMatch(/done|SHORT_TRANSFER|IO_FAILED/);
      expect(disk.stats()).toMatchObject({ inFlight: 0, queued: 0 });
    }
  });

  test.each([
    [
      'throws',
      () => {
        throw new Error('no then');
      },
    ],
    [
      'answers twice',
      (resolve: () => void, reject: (error: Error) => void) => {
        resolve();
        reject(new Error('twice'));
        resolve();
      },
    ],
  ])('may answer with a thenable that %s: the request ends once', async (_, then) => {
    const { storage } = odd({ write: () => thenable(then) });
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await Promise.allSettled([disk.write(0, block(1)), disk.write(BLOCK, block(1))]);
    expect(disk.stats()).toMatchObject({ inFlight: 0, queued: 0, settled: 2 });
  });

  test.each([
    ['nothing', undefined],
    ['null', null],
    ['a symbol', Symbol('odd')],
    ['an object without a prototype', Object.create(null)],
    ['an error whose message is none', Object.assign(new Error('x'), { message: Symbol('odd') })],
    [
      'an error whose message cannot be printed',
      Object.assign(new Error('x'), { message: Object.create(null) }),
    ],
    [
      'an object that cannot be printed',
      {
        toString: () => {
          throw new Error('no');
        },
      },
    ],
  ])('may fail with %s: the request fails with IO_FAILED', async (_, thrown) => {
    const throwing = odd({
      write: () => {
        throw thrown;
      },
    });
    const rejecting = odd({ write: () => Promise.reject(thrown) });
    for (const { storage } of [throwing, rejecting]) {
      const events: string[] = [];
      const disk = new IoScheduler(storage, {
        mode: 'DRAIN_FLUSH',
        observer: (event) => events.push(event.kind),
      });
      await expect(disk.write(0, block(1))).rejects.toMatchObject({ code: 'IO_FAILED' });
      expect(events).toEqual(['submit', 'dispatch', 'complete', 'settle']);
    }
  });
});

describe('a buffer', () => {
  test('list that is changed while it waits is written as it was given', async () => {
    const { storage, memory } = odd({});
    const disk = new IoScheduler(
      withLatency(storage, () => 0),
      { depth: 1 },
    );
    const list = [block(1), block(2)];
    const before = disk.write(8 * BLOCK, block(9));
    const write = disk.write(0, list);
    list.reverse();
    list.pop();
    await Promise.all([before, write]);
    expect([memory.bytes[0], memory.bytes[BLOCK]]).toEqual([1, 2]);
  });

  test('that was transferred away while it waited is a failure, not a write of nothing', async () => {
    const { device, disk } = worldOf({ mode: 'DRAIN_FLUSH', depth: 1 });
    const first = disk.write(8 * BLOCK, block(9));
    const data = block(1);
    const write = ended(disk.write(0, data));
    structuredClone(data.buffer, { transfer: [data.buffer] });
    await device.drain();
    await first;
    expect(await write).toBe('IO_FAILED');
    expect(device.log).toBe('w8');
  });

  test('of another realm is a buffer', async () => {
    const { storage, memory } = odd({});
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    const foreign = runInNewContext(`new Uint8Array(${BLOCK}).fill(7)`) as Uint8Array;
    await disk.write(0, foreign);
    expect(memory.bytes[0]).toBe(7);
  });

  test('that no memory is there for is told', async () => {
    const device = new ManualStorage();
    const disk = new IoScheduler({ ...bind(device), size: 2 ** 52 });
    await expect(disk.read(0, 2 ** 51)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(disk.stats().submitted).toBe(0);
  });
});

describe('close()', () => {
  test('gives each caller the time that he asked for', async () => {
    const { device, disk } = worldOf({ mode: 'DRAIN_FLUSH' });
    track(disk, { kind: 'write', offset: 0, length: BLOCK });
    const patient = disk.close().then(() => 'closed', codeOf);
    const hurried = disk.close({ timeoutMs: 1 }).then(() => 'closed', codeOf);
    expect(await hurried).toBe('CLOSE_TIMEOUT');
    expect(await patient).toBe('CLOSE_TIMEOUT');
    expect(device.closed).toBe(false);
    await expect(disk.idle()).rejects.toMatchObject({ code: 'CLOSE_TIMEOUT' });
    await expect(disk.close()).rejects.toMatchObject({ code: 'CLOSE_TIMEOUT' });
  });

  test('says so as well where there was nothing to flush', async () => {
    const { disk } = worldOf({ mode: 'DRAIN', device: { cache: 'none' } });
    track(disk, { kind: 'write', offset: 0, length: BLOCK });
    await expect(disk.close({ timeoutMs: 1 })).rejects.toMatchObject({ code: 'CLOSE_TIMEOUT' });
    await expect(disk.close()).rejects.toMatchObject({ code: 'CLOSE_TIMEOUT' });
  });

  test('tells everybody when the storage itself does not close', async () => {
    const { storage } = odd({ close: () => new Promise(() => {}) });
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    const patient = ended(disk.close());
    await expect(disk.close({ timeoutMs: 1 })).rejects.toMatchObject({
      code: 'CLOSE_TIMEOUT',
      message: expect.stringMatching(/: close$/),
    });
    expect(await patient).toBe('CLOSE_TIMEOUT');
    expect(await ended(disk.close())).toBe('CLOSE_TIMEOUT');
  });

  test.each([null, true, [], '5'])(
    'refuses a limit of %j, and gives nothing up',
    async (timeoutMs) => {
      const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
      const all = submit('w0');
      expect(await ended(disk.close({ timeoutMs: timeoutMs as never }))).toBe('INVALID_ARGUMENT');
      await device.drain();
      expect(outcomes(all)).toBe('w0:done');
    },
  );

  test('tells of the flush that failed rather than of the storage that cannot be closed', async () => {
    const { storage } = odd({
      flush: () => {
        throw new Error('EIO');
      },
      close: () => {
        throw new Error('EBADF');
      },
    });
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await disk.write(0, block(1));
    await expect(disk.close()).rejects.toMatchObject({ code: 'FLUSH_FAILED' });
  });

  test('tells of a storage that cannot be closed', async () => {
    const { storage } = odd({
      close: () => {
        throw new Error('EBADF');
      },
    });
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await expect(disk.close()).rejects.toThrow('EBADF');
  });
});

function worldOf(options: ConstructorParameters<typeof World>[0] & SchedulerOptions) {
  const world = new World(options);
  return {
    device: world.device,
    disk: world.disk,
    submit: (program: string) => world.submit(program),
  };
}

/** The methods of a storage, so that others can be put beside them. */
function bind(device: ManualStorage): Storage {
  return {
    size: device.size,
    capabilities: device.capabilities,
    read: (offset, into) => device.read(offset, into),
    write: (offset, data, flags) => device.write(offset, data, flags),
    writev: (offset, data, flags) => device.writev(offset, data, flags),
    flush: (flags) => device.flush(flags),
    discard: (offset, length) => device.discard(offset, length),
    writeZeroes: (offset, length) => device.writeZeroes(offset, length),
    close: () => device.close(),
  };
}

/** In bytes, without garbage. */
function heapUsed(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}

function ended(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => 'done', codeOf);
}

function thenable(then: (resolve: () => void, reject: (error: Error) => void) => void): never {
  return Object.defineProperty({}, 'then', { value: then }) as never;
}
