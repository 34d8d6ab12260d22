// The driver: storages of every temper, cancellation, limits, ends, and stacks.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import {
  type Capabilities,
  type CloseTimeoutError,
  IoScheduler,
  MemoryStorage,
  MODE_NAMES,
  type ModeName,
  type Storage,
  type TraceEvent,
  tracing,
  withFaults,
} from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { BLOCK, ManualStorage, outcomes, settled, track, VOLATILE, World } from './world.js';

const block = (fill: number): Uint8Array => new Uint8Array(BLOCK).fill(fill);
const memory = (capabilities: Partial<Capabilities> = {}): MemoryStorage =>
  new MemoryStorage(16 * BLOCK, { capabilities: { ...VOLATILE, ...capabilities } });

describe('each mode', () => {
  const opened: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const undo of opened.splice(0).reverse()) await undo();
  });

  async function file(): Promise<FileStorage> {
    const folder = await mkdtemp(join(tmpdir(), 'write-barrier-'));
    opened.push(() => rm(folder, { recursive: true }));
    return FileStorage.open(join(folder, 'disk.img'), { size: 16 * BLOCK });
  }

  const storages: Record<string, () => Storage | Promise<Storage>> = {
    MemoryStorage: () => memory(),
    FileStorage: file,
  };
  const cases = MODE_NAMES.flatMap((mode) =>
    Object.keys(storages).map((name) => [mode, name] as const),
  );

  test.each(cases)(
    '%s runs on %s: what was written is read, in order and durable',
    async (mode, name) => {
      const commands: TraceEvent[] = [];
      const storage = tracing((await storages[name]?.()) as Storage, (event) =>
        commands.push(event),
      );
      const disk = new IoScheduler(storage, { mode, allowUnsafe: true });
      const done: number[] = [];
      const barrier = mode !== 'NONE';
      await Promise.all([
        disk.write(0, block(1)).then(() => done.push(0)),
        disk.write(BLOCK, [block(2), block(3)]).then(() => done.push(1)),
        disk.write(3 * BLOCK, block(4), { barrier }).then(() => done.push(2)),
        disk.write(0, block(5), { fua: true }).then(() => done.push(3)),
        disk.writeZeroes(BLOCK, BLOCK).then(() => done.push(4)),
        barrier ? disk.barrier() : disk.flush(),
      ]);
      if (mode.startsWith('DRAIN')) expect(done.indexOf(2)).toBe(2);
      const read = await disk.read(0, 4 * BLOCK);
      expect([0, 1, 2, 3].map((i) => read[i * BLOCK])).toEqual([5, 0, 3, 4]);
      await disk.close();
      expect(commands.filter(({ kind }) => kind === 'dispatch')).toHaveLength(commands.length / 2);
    },
  );
});

describe('a storage', () => {
  test('that answers at once costs no stack, however long the queue is', async () => {
    const storage = memory();
    let first: (() => void) | undefined;
    const slow: Storage = {
      ...bound(storage),
      write: (offset, data, flags) => {
        if (first) return storage.write(offset, data, flags);
        return new Promise<void>((resolve) => {
          first = resolve;
        });
      },
    };
    const disk = new IoScheduler(slow, { mode: 'DRAIN_FLUSH', depth: 1, maxQueued: 100_000 });
    const all = Array.from({ length: 50_000 }, () => disk.write(0, block(1)));
    first?.();
    await Promise.all(all);
    expect(disk.stats()).toMatchObject({ settled: 50_000, queued: 0 });
    await disk.close();
  });

  test.each([
    [
      'throws',
      () => {
        throw new Error('EIO');
      },
    ],
    [
      'throws nothing in particular',
      () => {
        throw undefined;
      },
    ],
    ['rejects', () => Promise.reject(new Error('EIO'))],
    ['rejects with nothing in particular', () => Promise.reject(null)],
  ])('that %s fails the request and no other', async (_, write) => {
    const storage = memory();
    let broken = true;
    const disk = new IoScheduler(
      { ...bound(storage), write: (...args) => (broken ? write() : storage.write(...args)) },
      { mode: 'DRAIN_FLUSH' },
    );
    await expect(disk.write(0, block(1))).rejects.toMatchObject({
      code: 'IO_FAILED',
      request: { offset: 0 },
    });
    broken = false;
    await disk.write(0, block(2));
    expect((await disk.read(0, BLOCK))[0]).toBe(2);
    await disk.close();
  });

  test('that answers out of order settles each request by its own answer', async () => {
    const { device, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    const all = submit('w0 w1 w2');
    await device.answer('w2');
    await device.fail('w0');
    expect(outcomes(all)).toBe('w0:IO_FAILED w1:pending w2:done');
  });

  test('without discard is sent none, and without writeZeroes is sent zeroes', async () => {
    const storage = memory({ discard: false, writeZeroes: false });
    const kinds: string[] = [];
    const traced = tracing(
      storage,
      (event) => event.kind === 'dispatch' && kinds.push(event.what.op),
    );
    const disk = new IoScheduler(traced, { mode: 'DRAIN_FLUSH' });
    await disk.write(0, block(7));
    await disk.discard(0, BLOCK);
    await disk.writeZeroes(BLOCK, 2 * BLOCK);
    expect(kinds).toEqual(['write', 'write']);
    await disk.close();
  });

  test('without writev gets a list of buffers as one write', async () => {
    const storage = memory({ writev: false });
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await disk.write(BLOCK, [block(1), block(2), block(3)]);
    expect([1, 2, 3].map((i) => storage.bytes[i * BLOCK])).toEqual([1, 2, 3]);
    expect(disk.stats().commands.write).toBe(1);
    await disk.close();
  });

  test('with a volatile cache and no flush is asked for no durability: flush and FUA are refused', async () => {
    const disk = new IoScheduler(memory({ flush: false, fua: false }), {
      mode: 'NONE',
      allowUnsafe: true,
    });
    await expect(disk.flush()).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
    await expect(disk.write(0, block(1), { fua: true })).rejects.toMatchObject({
      code: 'EOPNOTSUPP',
    });
    await expect(disk.write(0, block(1), { preflush: true })).rejects.toMatchObject({
      code: 'EOPNOTSUPP',
    });
    await disk.write(0, block(1));
    await disk.close();
  });
});

describe('the mode', () => {
  test.each<[ModeName, Partial<Capabilities>]>([
    ['DRAIN_FUA', { orderedTags: false }],
    ['DRAIN_FLUSH', { orderedTags: false, fua: false }],
    ['DRAIN', { orderedTags: false, cache: 'none' }],
    ['DRAIN', { orderedTags: false, cache: 'protected' }],
    ['TAG_FUA', {}],
    ['TAG_FLUSH', { fua: false }],
    ['TAG', { cache: 'none' }],
  ])('is %s by itself for %j', (mode, capabilities) => {
    expect(new IoScheduler(memory(capabilities)).mode).toBe(mode);
  });

  test('is not chosen silently where nothing is safe', () => {
    expect(() => new IoScheduler(memory({ flush: false }))).toThrow(/NONE is unsafe/);
  });
});

describe('limits', () => {
  test('given a full queue, when one more comes, then it is refused and none is dropped', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH', depth: 1, maxQueued: 2 });
    const all = submit('w0 w1 w2 w3 f b');
    await settled();
    expect(outcomes(all)).toBe(
      'w0:pending w1:pending w2:pending w3:QUEUE_FULL f:QUEUE_FULL b:QUEUE_FULL',
    );
    const room = disk.ready();
    await device.drain();
    await room;
    const again = submit('w3');
    await device.drain();
    expect(outcomes([...all.slice(0, 3), ...again])).toBe('w0:done w1:done w2:done w3:done');
  });

  test('given a limit in bytes, when the buffer of a write or a read does not fit, then it is refused, and one alone always fits', async () => {
    const { device, submit } = worldOf({
      mode: 'DRAIN_FLUSH',
      depth: 1,
      maxQueuedBytes: 2 * BLOCK,
    });
    const all = submit('w0 w1 w2+2 r9 w3 f d4 r5');
    await settled();
    expect(outcomes(all)).toBe(
      'w0:pending w1:pending w2+2:QUEUE_FULL r9:pending w3:QUEUE_FULL f:pending d4:pending r5:QUEUE_FULL',
    );
    await device.drain();
    const large = submit('w0 w1+100');
    await device.drain();
    expect(outcomes(large)).toBe('w0:done w1+100:done');
  });
});

describe('cancellation', () => {
  test('given a request in the queue, when its signal aborts, then it rejects with the reason and never touches the storage', async () => {
    const { device, disk } = worldOf({ mode: 'DRAIN_FLUSH', depth: 1 });
    const controller = new AbortController();
    const first = disk.write(0, block(1));
    const second = disk.write(BLOCK, block(2), { signal: controller.signal });
    const reason = new Error('too late');
    controller.abort(reason);
    await expect(second).rejects.toBe(reason);
    await device.drain();
    await first;
    expect(device.log).toBe('w0');
  });

  test.each(['DRAIN_FLUSH', 'TAG_FLUSH'] as const)(
    'given a record and its mark under one signal in %s, when it aborts, then neither is written',
    async (mode) => {
      const { device, disk } = worldOf({ mode });
      const controller = new AbortController();
      const { signal } = controller;
      const all = [
        disk.write(0, block(1)),
        disk.write(0, block(2), { signal }),
        disk.write(BLOCK, block(3), { barrier: true, signal }),
      ];
      const ends = Promise.allSettled(all);
      controller.abort();
      await device.drain();
      expect((await ends).map(({ status }) => status)).toEqual([
        'fulfilled',
        'rejected',
        'rejected',
      ]);
      expect(device.issued.filter((text) => text.includes('w'))).toEqual(['w0']);
    },
  );

  test('given many requests under one signal, when they settle, then nobody listens to it any more', async () => {
    const { device, disk } = worldOf({ mode: 'DRAIN_FLUSH' });
    const controller = new AbortController();
    let listeners = 0;
    const { signal } = controller;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners += 1;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners -= 1;
      remove(...args);
    };
    const all = [1, 2, 3].map((i) => disk.write(i * BLOCK, block(i), { signal }));
    expect(listeners).toBe(1);
    await device.drain();
    await Promise.all(all);
    expect(listeners).toBe(0);
  });
});

test('given a storage that answers at once, when a barrier is aborted, then those submitted in the same breath are, too, and later ones are not', async () => {
  const storage = withFaults(memory(), [{ on: 'write', nth: 0, fault: 'fail' }]);
  const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
  const ends = await Promise.allSettled([
    disk.write(0, block(1)),
    disk.write(BLOCK, block(2), { barrier: true }),
    disk.write(2 * BLOCK, block(3), { barrier: true }),
  ]);
  expect(ends.map((end) => end.status === 'rejected' && end.reason.code)).toEqual([
    'IO_FAILED',
    'BARRIER_ABORTED',
    'BARRIER_ABORTED',
  ]);
  await disk.write(BLOCK, block(2), { barrier: true });
  expect((await disk.read(0, 3 * BLOCK))[2 * BLOCK]).toBe(0);
  await disk.close();
});

describe('after a failed flush', () => {
  test('everything queued but reads is refused with the bytes at risk, what is at the device ends by itself, and recover() starts anew', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH', depth: 3 });
    submit('w0 w5');
    await device.drain();
    const all = submit('f w1 w2 w3 b4 r9');
    expect(device.inFlight).toBe('F w1 w2');
    await device.fail('F', 'EIO');
    expect(disk.state).toBe('failed');
    expect(disk.atRisk).toEqual([
      { start: 0, end: BLOCK },
      { start: 5 * BLOCK, end: 6 * BLOCK },
    ]);
    expect(outcomes(all)).toBe(
      'f:FLUSH_FAILED w1:pending w2:pending w3:FAILED b4:FAILED r9:pending',
    );
    const refused = submit('w7 f b');
    await settled();
    expect(outcomes(refused)).toBe('w7:FAILED f:FAILED b:FAILED');
    const recovered = disk.recover();
    await device.drain();
    // Nobody knows whether w1 and w2 reached the cache before or after the flush failed.
    expect(await recovered).toEqual([
      { start: 0, end: 3 * BLOCK },
      { start: 5 * BLOCK, end: 6 * BLOCK },
    ]);
    expect(disk.state).toBe('running');
    const rewritten = submit('w0+3 w5 b');
    await device.drain();
    expect(outcomes(rewritten)).toBe('w0+3:done w5:done b:done');
    expect(disk.atRisk).toEqual([]);
  });

  test('reads are served where nothing is in doubt, also those that were queued, and refused where something is', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH', depth: 3 });
    submit('w0 w5');
    await device.drain();
    // r3 waits behind the barrier, and r1 behind w1, which is at the device when the flush fails.
    const queued = submit('f w1 b4 r3 r5 r1');
    expect(device.inFlight).toBe('F w1 r3');
    await device.fail('F', 'EIO');
    expect(outcomes(queued)).toBe(
      'f:FLUSH_FAILED w1:pending b4:FAILED r3:pending r5:READ_AT_RISK r1:pending',
    );
    const later = submit('r9 r0 r0+2 r4+2 r2+3');
    await device.drain();
    expect(outcomes([...queued.slice(3), ...later])).toBe(
      'r3:done r5:READ_AT_RISK r1:READ_AT_RISK r9:done r0:READ_AT_RISK r0+2:READ_AT_RISK r4+2:READ_AT_RISK r2+3:done',
    );
    await disk.recover();
    const recovered = submit('r0 r5');
    await device.drain();
    expect(outcomes(recovered)).toBe('r0:done r5:done');
  });

  test('reads of what is in doubt are served where that is asked for', async () => {
    const { device, submit } = worldOf({ mode: 'DRAIN_FLUSH', readAtRisk: true });
    submit('w0');
    await device.drain();
    submit('f');
    await device.fail('F');
    const reads = submit('r0 r1 w0');
    await device.drain();
    expect(outcomes(reads)).toBe('r0:done r1:done w0:FAILED');
  });

  test('recover() does not wait for reads: a stream of them would keep it waiting for ever', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    submit('w0');
    await device.drain();
    submit('f');
    await device.fail('F');
    const [read] = submit('r1');
    expect(device.inFlight).toBe('r1');
    expect(await disk.recover()).toEqual([{ start: 0, end: BLOCK }]);
    expect(disk.state).toBe('running');
    await device.drain();
    expect(read?.outcome).toBe('done');
  });

  test('close() waits for the reads that are served, and closes the storage', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    submit('f');
    await device.fail('F');
    const reads = submit('r1');
    const closing = disk.close().catch(({ code }) => code);
    await device.drain();
    expect([await closing, outcomes(reads), device.closed]).toEqual(['FAILED', 'r1:done', true]);
  });

  test('close() closes the storage and does not say that all is well', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
    submit('f');
    await device.fail('F');
    await expect(disk.close()).rejects.toMatchObject({ code: 'FAILED' });
    expect(device.closed).toBe(true);
  });
});

describe('close()', () => {
  test('takes no more, completes what is queued, flushes, and closes the storage', async () => {
    const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH', depth: 1 });
    const all = submit('w0 w1 b2');
    const closing = disk.close();
    const late = submit('w3');
    await device.drain();
    await closing;
    expect(outcomes([...all, ...late])).toBe('w0:done w1:done b2:done w3:CLOSED');
    expect(device.log).toBe('w0 w1 F w2 F F');
    expect(device.closed).toBe(true);
  });

  test('tells of a last flush that failed', async () => {
    const storage = withFaults(memory(), [{ on: 'flush', nth: 0, fault: 'fail' }]);
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await disk.write(0, block(1));
    await expect(disk.close()).rejects.toMatchObject({
      code: 'FLUSH_FAILED',
      atRisk: [{ start: 0, end: BLOCK }],
    });
  });

  test('says after its timeout which commands hang, and nobody waits for ever', async () => {
    const device = new ManualStorage();
    const disk = new IoScheduler(device, { mode: 'DRAIN_FLUSH' });
    const all = [
      track(disk, { kind: 'write', offset: 0, length: BLOCK }),
      track(disk, { kind: 'barrier' }),
      track(disk, { kind: 'read', offset: 9 * BLOCK, length: BLOCK }),
    ];
    const idle = disk.idle();
    const error = await disk.close({ timeoutMs: 1 }).catch((reason: CloseTimeoutError) => reason);
    expect(error).toMatchObject({
      code: 'CLOSE_TIMEOUT',
      hanging: [
        { op: 'write', offset: 0, length: BLOCK },
        { op: 'read', offset: 9 * BLOCK, length: BLOCK },
      ],
    });
    await expect(idle).rejects.toBe(error);
    await settled();
    expect(all.map(({ outcome }) => outcome)).toEqual(all.map(() => 'CLOSE_TIMEOUT'));
    await device.answer('w0', 'r9');
    expect(device.closed).toBe(false);
    expect(disk.stats().settled).toBe(4);
  });

  test('is what `await using` calls', async () => {
    const storage = memory();
    const disk = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await disk[Symbol.asyncDispose]();
    expect(disk.state).toBe('closed');
    expect(() => storage.read(0, block(0))).toThrow(/clos/);
  });

  test('refuses a timeout that is none, and stays open', async () => {
    const { disk } = worldOf({ mode: 'DRAIN_FLUSH' });
    await expect(disk.close({ timeoutMs: -1 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(disk.state).toBe('running');
  });
});

describe('a stack', () => {
  test.each([
    ['TAG', 'DRAIN_FLUSH', 'w0 F w1 F w2'],
    ['TAG_FLUSH', 'DRAIN_FLUSH', 'w0 F F w1 F F w2'],
    ['TAG_FUA', 'DRAIN_FUA', 'w0 F F w1! w2'],
    ['DRAIN_FLUSH', 'DRAIN_FLUSH', 'w0 F w1 F w2'],
  ] as const)('of %s over %s keeps the order at the device', async (above, below, log) => {
    const device = new ManualStorage({ orderedTags: false });
    const host = new IoScheduler(device, { mode: below });
    const guest = new World({ mode: above, allowUnsafe: true }, host.asStorage() as never);
    const all = guest.submit('w0 b1 w2');
    await settled();
    await device.drain();
    expect(device.log).toBe(log);
    expect(outcomes(all)).toBe('w0:done b1:done w2:done');
  });

  test('says truthfully what it can do', () => {
    const none = new IoScheduler(memory(), { mode: 'NONE', allowUnsafe: true });
    expect(none.asStorage().capabilities).toMatchObject({ orderedTags: false, cache: 'volatile' });
    const emulated = new IoScheduler(memory({ fua: false, writev: false }), {
      mode: 'DRAIN_FLUSH',
    });
    expect(emulated.asStorage().capabilities).toMatchObject({
      orderedTags: true,
      fua: true,
      writev: true,
    });
  });

  test('makes an ordered flush durable even where the barrier below flushes nothing', async () => {
    const device = new ManualStorage({ orderedTags: false });
    const host = new IoScheduler(device, { mode: 'DRAIN', allowUnsafe: true });
    const guest = new World({ mode: 'TAG_FLUSH' }, host.asStorage() as never);
    const all = guest.submit('w0 b');
    await settled();
    await device.answer('w0');
    expect(outcomes(all)).toBe('w0:done b:pending');
    expect(device.inFlight).toBe('F');
    await device.drain();
    expect(outcomes(all)).toBe('w0:done b:done');
  });

  test('closes from the top to the bottom', async () => {
    const storage = memory({ orderedTags: false });
    const host = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    const guest = new IoScheduler(host.asStorage(), { mode: 'TAG_FLUSH' });
    await guest.write(0, block(1), { barrier: true });
    await guest.close();
    expect(host.state).toBe('closed');
  });
});

test('given an observer, when requests run, then the trace tells submit, dispatch, complete and settle in order', async () => {
  const events: TraceEvent[] = [];
  const disk = new IoScheduler(memory(), {
    mode: 'DRAIN_FLUSH',
    observer: (event) => events.push(event),
  });
  await disk.write(0, block(1), { barrier: true });
  expect(
    events.map((event) =>
      event.kind === 'dispatch' ? `dispatch ${event.what.stage}` : event.kind,
    ),
  ).toEqual([
    'submit',
    'dispatch preflush',
    'complete',
    'dispatch bar',
    'complete',
    'dispatch postflush',
    'complete',
    'settle',
  ]);
  expect(structuredClone(events)).toEqual(JSON.parse(JSON.stringify(events)));
  await disk.close();
});

test('given an idle scheduler, when idle() is asked, then it settles at once; given a busy one, then with the last answer', async () => {
  const { device, disk, submit } = worldOf({ mode: 'DRAIN_FLUSH' });
  await disk.idle();
  submit('w0 b1');
  let idle = false;
  const waiting = disk.idle().then(() => {
    idle = true;
  });
  await device.answer('w0');
  expect(idle).toBe(false);
  await device.drain();
  await waiting;
  expect(disk.stats().inFlight).toBe(0);
});

/** A storage as a plain object whose methods can be replaced one by one. */
function bound(storage: MemoryStorage): Storage {
  return {
    size: storage.size,
    capabilities: { ...storage.capabilities, writev: false, discard: false, writeZeroes: false },
    read: (...args) => storage.read(...args),
    write: (...args) => storage.write(...args),
    flush: (...args) => storage.flush(...args),
    close: () => storage.close(),
  };
}

function worldOf(options: ConstructorParameters<typeof World>[0]) {
  const made = new World(options);
  return { device: made.device, disk: made.disk, submit: made.submit.bind(made) };
}
