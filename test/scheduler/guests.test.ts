// Goal: what users hand in may be misspelt, may throw and may be used twice; the scheduler refuses it in words before
// anything is queued, or goes on. Method: each kind of thing that is handed in, in each way that it goes wrong.

import { inspect } from 'node:util';
import { afterEach, describe, expect, test, vi } from 'vitest';
import {
  type ErrorCode,
  IoScheduler,
  MemoryStorage,
  type Storage,
  TraceRecorder,
  tracing,
  WriteBarrierError,
  withFaults,
} from 'write-barrier';
import { ManualStorage, outcomes, settled, World } from './world.js';

const block = (byte = 1): Uint8Array => new Uint8Array(512).fill(byte);
const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (e) => e.code ?? e,
  );
const memory = (): MemoryStorage => new MemoryStorage(1 << 20);

afterEach(() => {
  vi.restoreAllMocks();
});

describe('an option that is not known is refused, with nothing queued', () => {
  test.each<[string, (disk: IoScheduler) => Promise<unknown>, string]>([
    ['write', (disk) => disk.write(0, block(), { barier: true } as never), "'barrier'"],
    ['write', (disk) => disk.write(0, block(), { FUA: true } as never), "'fua'"],
    ['read', (disk) => disk.read(0, 512, { barrier: true } as never), 'signal'],
    ['barrier', (disk) => disk.barrier({ fua: true } as never), 'signal'],
    ['flush', (disk) => disk.flush({ abort: true } as never), 'signal'],
    ['discard', (disk) => disk.discard(0, 512, { barrier: true } as never), 'signal'],
    ['writeZeroes', (disk) => disk.writeZeroes(0, 512, { singal: true } as never), "'signal'"],
    ['close', (disk) => disk.close({ timeout: 5 } as never), "'timeoutMs'"],
  ])('by %s', async (name, call, hint) => {
    const disk = new IoScheduler(memory());
    const error = (await call(disk).catch((reason) => reason)) as Error;
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(error.message).toContain(`${name} has no option`);
    expect(error.message).toContain(hint);
    expect([disk.stats().submitted, disk.state]).toEqual([0, 'running']);
  });

  test('by the constructor', () => {
    expect(() => new IoScheduler(memory(), { errorpolicy: 'kernel' } as never)).toThrow(
      "IoScheduler has no option 'errorpolicy'; did you mean 'errorPolicy'?",
    );
  });
});

describe('an argument that throws when it is looked at rejects the call, with nothing queued', () => {
  const thrower = (name: string): never =>
    Object.defineProperty({}, name, {
      enumerable: true,
      get: () => {
        throw new Error('no');
      },
    }) as never;

  test.each<[string, (disk: IoScheduler) => Promise<unknown>]>([
    ['a flag', (disk) => disk.write(0, block(), thrower('barrier'))],
    ['a signal', (disk) => disk.flush(thrower('signal'))],
    ['the state of a signal', (disk) => disk.read(0, 512, { signal: signalThat('aborted') })],
    ['a listener', (disk) => disk.read(0, 512, { signal: signalThat('addEventListener') })],
    ['a buffer', (disk) => disk.read(0, new Proxy(block(), {}))],
    ['data', (disk) => disk.write(0, new Proxy(block(), {}))],
    ['a list', (disk) => disk.write(0, [block(), new Proxy(block(), {})])],
    ['a list that is a proxy', (disk) => disk.write(0, listThatThrows())],
    ['a limit of time', (disk) => disk.close(thrower('timeoutMs'))],
    ['all options', (disk) => disk.close(revoked())],
    ['all options of a write', (disk) => disk.write(0, block(), revoked())],
  ])('%s', async (_, call) => {
    const storage = memory();
    const disk = new IoScheduler(storage);
    expect(await codeOf(call(disk))).toBe('INVALID_ARGUMENT');
    expect(disk.stats()).toMatchObject({ queued: 0, submitted: 0 });
    await disk.write(512, block(2));
    expect(storage.bytes[0]).toBe(0);
  });

  const revoked = (): never => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy as never;
  };

  test('so it is with the options of a scheduler', () => {
    for (const options of [revoked(), thrower('depth'), thrower('mode')]) {
      expect(() => new IoScheduler(memory(), options)).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      );
    }
  });

  test('so it is with a mode that is no text, though it might be read as one', () => {
    const disk = new IoScheduler(memory());
    const modes = [['NONE'], { toString: () => 'NONE' }, revoked(), Object('DRAIN_FLUSH')];
    for (const mode of modes) {
      expect(() => disk.setMode(mode as never)).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
      expect(disk.mode).toBe('DRAIN_FUA');
    }
  });

  const listThatThrows = (): Uint8Array[] =>
    new Proxy([block()], {
      get: (target, name, receiver) => {
        if (name === '0') throw new Error('no');
        return Reflect.get(target, name, receiver);
      },
    });

  function signalThat(method: string): AbortSignal {
    const { signal } = new AbortController();
    return new Proxy(signal, {
      get: (target, name) => {
        if (name === method) throw new Error('no');
        const value = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  test('a signal that aborts and cannot say why ends its request with what it throws, and others go on', async () => {
    const device = new ManualStorage();
    const { disk } = new World({ depth: 1 }, device);
    const controller = new AbortController();
    const no = new Error('no');
    const signal = new Proxy(controller.signal, {
      get: (target, name) => {
        if (name === 'reason') throw no;
        const value = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const first = codeOf(disk.write(0, new Uint8Array(4096)));
    const second = codeOf(disk.write(4096, new Uint8Array(4096), { signal }));
    controller.abort();
    const idle = disk.idle();
    await device.drain();
    expect(await Promise.all([first, second, idle])).toEqual(['done', no, undefined]);
  });

  test('a listener that cannot be removed harms nobody', async () => {
    const disk = new IoScheduler(memory());
    await disk.write(0, block(), { signal: signalThat('removeEventListener') });
    expect((await disk.read(0, 512))[0]).toBe(1);
  });
});

describe('an observer that throws is reported, and the scheduler goes on', () => {
  test.each(['submit', 'dispatch', 'complete', 'settle'])('at %s', async (kind) => {
    const report = vi.spyOn(console, 'error').mockImplementation(() => {});
    const observer = (event: { kind: string }): void => {
      if (event.kind === kind) throw new Error('no');
    };
    const storage = memory();
    const disk = new IoScheduler(storage, { observer });
    await Promise.all([disk.write(0, block(1)), disk.write(512, block(2), { barrier: true })]);
    await disk.flush();
    expect([storage.bytes[0], storage.bytes[512]]).toEqual([1, 2]);
    expect(report).toHaveBeenCalledOnce();
    expect(report.mock.calls[0]?.[0]).toContain('the observer of a scheduler threw');
    expect(disk.stats().observerErrors).toBeGreaterThanOrEqual(3);
    await disk.close();
  });

  test('given one that is asynchronous, then it does not end the program', async () => {
    const report = vi.spyOn(console, 'error').mockImplementation(() => {});
    const observer = async (): Promise<void> => {
      throw new Error('no');
    };
    const disk = new IoScheduler(tracing(memory(), observer), { observer });
    await disk.write(0, block());
    await new Promise(setImmediate); // an unhandled rejection would fail the run
    expect(report).toHaveBeenCalledTimes(2);
    expect(disk.stats().observerErrors).toBe(4);
  });

  test('given a console that throws as well, as that of some test runners does', async () => {
    vi.spyOn(console, 'error').mockImplementation(() => {
      throw new Error('no errors in tests');
    });
    const disk = new IoScheduler(memory(), {
      observer: () => {
        throw new Error('no');
      },
    });
    await disk.write(0, block());
    await disk.close();
    expect(disk.stats()).toMatchObject({ submitted: 2, settled: 2 });
  });

  test('at a traced storage: what has succeeded stays a success, and what has failed a failure', async () => {
    const report = vi.spyOn(console, 'error').mockImplementation(() => {});
    const storage = tracing(withFaults(memory(), [{ on: 'write', nth: 1, fault: 'fail' }]), () => {
      throw new Error('no');
    });
    const disk = new IoScheduler(storage);
    expect(await codeOf(disk.write(0, block()))).toBe('done');
    expect(await codeOf(disk.write(0, block()))).toBe('IO_FAILED');
    expect(report).toHaveBeenCalledOnce();
  });
});

describe('two schedulers on one storage', () => {
  test('the later request is refused while the first one has an unanswered one, and may come when it has none', async () => {
    const device = new ManualStorage();
    const [first, second] = [new World({}, device), new World({}, device)];
    const early = first.submit('w0');
    const refused = second.submit('w1 r0 b f');
    await settled();
    expect(outcomes(refused)).toBe(
      'w1:STORAGE_IN_USE r0:STORAGE_IN_USE b:STORAGE_IN_USE f:STORAGE_IN_USE',
    );
    expect(device.log).toBe('w0');
    await device.drain();
    const later = second.submit('w1');
    const late = first.submit('w2');
    await device.drain();
    expect(outcomes([...early, ...later, ...late])).toBe('w0:done w1:done w2:STORAGE_IN_USE');
  });

  test('the message says what to use instead', async () => {
    const device = new ManualStorage();
    new World({}, device).submit('w0');
    await expect(new IoScheduler(device).flush()).rejects.toThrow(
      /share one, its asStorage\(\) or a SchedulerGroup/,
    );
  });

  test('one after the other is allowed: a program that starts again, also after a failed flush', async () => {
    const storage = withFaults(memory(), [{ on: 'flush', nth: 0, fault: 'fail' }]);
    const first = new IoScheduler(storage);
    await first.write(0, block());
    expect(await codeOf(first.flush())).toBe('FLUSH_FAILED');
    const second = new IoScheduler(storage);
    await second.write(0, block());
    await second.flush();
    expect((await second.read(0, 512))[0]).toBe(1);
  });

  test('given commands that were given up, when the storage answers them, then another scheduler may use it', async () => {
    const device = new ManualStorage();
    const first = new World({}, device);
    first.submit('w0');
    await expect(first.disk.close({ timeoutMs: 1 })).rejects.toMatchObject({
      code: 'CLOSE_TIMEOUT',
    });
    const second = new World({}, device);
    expect(outcomes(second.submit('w1'))).toBe('w1:pending');
    await settled();
    expect(device.log).toBe('w0');
    await device.answer('w0');
    const later = second.submit('w2');
    await device.drain();
    expect(outcomes(later)).toBe('w2:done');
  });

  test('close() leaves a storage open that another one is using', async () => {
    const device = new ManualStorage();
    const [first, second] = [new World({}, device), new World({}, device)];
    second.submit('w0');
    await expect(first.disk.close()).rejects.toMatchObject({ code: 'STORAGE_IN_USE' });
    expect(device.closed).toBe(false);
  });

  test.each([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])(
    'close() never closes a storage under a command of another one: %i turns after the last answer',
    async (turns) => {
      let running = 0;
      const closedUnder: number[] = [];
      const inner = memory();
      const { size, capabilities } = inner;
      const take = async (): Promise<void> => {
        running += 1;
        await new Promise(setImmediate);
        running -= 1;
      };
      let later = Promise.resolve<unknown>(undefined);
      const storage: Storage = {
        ...{ size, capabilities: { ...capabilities, writev: false, discard: false } },
        ...{ read: take, write: take, writeZeroes: take },
        flush: async () => {
          await take();
          later = (async () => {
            for (let turn = 0; turn < turns; turn += 1) await undefined;
            return codeOf(second.write(0, block()));
          })();
        },
        close: () => void closedUnder.push(running),
      };
      const [first, second] = [new IoScheduler(storage), new IoScheduler(storage)];
      const end = await codeOf(first.close());
      await later;
      expect(closedUnder).toEqual(end === 'STORAGE_IN_USE' ? [] : [0]);
    },
  );

  test('a stack is one scheduler on each storage', async () => {
    const host = new IoScheduler(memory());
    const guest = new IoScheduler(host.asStorage());
    await Promise.all([host.write(0, block(1)), guest.write(512, block(2), { barrier: true })]);
    expect((await host.read(512, 512))[0]).toBe(2);
  });
});

describe('those who wait', () => {
  test('wait for one promise, so an answer costs the same however many they are', async () => {
    const device = new ManualStorage();
    const { disk, submit } = worldOn(device, { maxQueued: 1, depth: 1 });
    submit('w0 w1');
    expect(disk.idle()).toBe(disk.idle());
    expect(disk.ready()).toBe(disk.ready());
    const order: string[] = [];
    const waits = [
      disk.idle().then(() => order.push('idle')),
      disk.ready().then(() => order.push('ready')),
    ];
    await device.drain();
    await Promise.all(waits);
    expect(order).toEqual(['ready', 'idle']);
  });

  test('are told again when they wait again', async () => {
    const device = new ManualStorage();
    const { disk, submit } = worldOn(device);
    for (let n = 0; n < 3; n++) {
      submit(`w${n}`);
      const idle = disk.idle();
      await device.drain();
      await idle;
    }
  });
});

describe('an error', () => {
  const failing = (options = {}): IoScheduler =>
    new IoScheduler(withFaults(memory(), [{ on: 'write', nth: 0, fault: 'fail' }]), options);

  test('carries its code in its printed name, and keeps it when it is cloned', async () => {
    const error = await failing()
      .write(0, block())
      .catch((reason) => reason);
    expect(error.name).toBe('IoFailedError');
    expect(String(error)).toMatch(/^IoFailedError \[IO_FAILED\]: the storage failed/);
    expect(inspect(error)).toMatch(/^IoFailedError \[IO_FAILED\]: the storage failed/);
    expect(structuredClone(error).stack).toMatch(/^IoFailedError \[IO_FAILED\]: /);
    expect(inspect(structuredClone(error))).toContain('[IO_FAILED]');
  });

  test('carries the frame of the call where that is asked for, each request its own', async () => {
    const disk = failing({ stackTraces: true });
    async function theCaller(): Promise<unknown> {
      return disk.write(0, block()).catch((reason) => reason);
    }
    const error = (await theCaller()) as WriteBarrierError;
    const [, first] = (error.stack ?? '').split('\n');
    expect(first).toContain('theCaller');
    expect(error.stack).toMatch(/^IoFailedError \[IO_FAILED\]: /);
    expect(error).toBeInstanceOf(WriteBarrierError);
    expect(WriteBarrierError.is(error)).toBe(true);
    expect(error).toMatchObject({
      name: 'IoFailedError',
      code: 'IO_FAILED',
      request: { offset: 0 },
    });
    expect(structuredClone(error).stack).toContain('theCaller');
  });

  test.each<[string, (disk: IoScheduler) => Promise<unknown>]>([
    ['read', (disk) => disk.read(0, 512)],
    ['write', (disk) => disk.write(0, block())],
    ['discard', (disk) => disk.discard(0, 512)],
    ['writeZeroes', (disk) => disk.writeZeroes(0, 512)],
    ['blockStatus', (disk) => disk.blockStatus(0, 512)],
    ['resize', (disk) => disk.resize(0)],
    ['flush', (disk) => disk.flush()],
    ['barrier', (disk) => disk.barrier()],
  ])('of %s has the frame of its caller first', async (_, call) => {
    const broken = { ...memory().capabilities, discard: true, writeZeroes: true, resize: true };
    const fail = (): never => {
      throw new Error('broken');
    };
    const methods = ['read', 'write', 'writev', 'flush', 'discard', 'writeZeroes', 'blockStatus'];
    const storage = Object.fromEntries([...methods, 'resize'].map((name) => [name, fail]));
    const disk = new IoScheduler(
      { ...storage, size: 4096, capabilities: broken, close: () => {} } as never,
      { stackTraces: true },
    );
    const theCaller = (): Promise<unknown> => call(disk).catch((reason) => reason);
    const error = (await theCaller()) as Error;
    expect(error.stack?.split('\n')[1]).toMatch(/guests\.test/);
  });

  test('that answers several requests shows each caller its own call', async () => {
    const storage = withFaults(memory(), [{ on: 'flush', nth: 0, fault: 'fail' }]);
    const disk = new IoScheduler(storage, { stackTraces: true });
    await disk.write(0, block());
    const one = (): Promise<unknown> => disk.flush();
    const other = (): Promise<unknown> => disk.barrier();
    const [a, b] = await Promise.allSettled([one(), other()]);
    expect(a.status === 'rejected' && a.reason.stack).toMatch(/at one /);
    expect(b.status === 'rejected' && b.reason.stack).toMatch(/at other /);
  });

  test.each([{}, { timeoutMs: 1000 }])(
    'of close() carries the frame of its caller: %o',
    async (options) => {
      const device = new ManualStorage();
      const { disk } = new World({ stackTraces: true }, device);
      const theFirst = (): Promise<unknown> => disk.close(options).catch((reason) => reason);
      const theSecond = (): Promise<unknown> => disk.close(options).catch((reason) => reason);
      const ends = Promise.all([theFirst(), theSecond()]);
      await device.fail('F');
      const [one, other] = (await ends) as Error[];
      expect(one?.stack).toMatch(/^FlushFailedError \[FLUSH_FAILED\].*\n +at theFirst/);
      expect(other?.stack).toMatch(/at theSecond/);
    },
  );

  test('is made also where Error.prepareStackTrace makes no text of a stack', async () => {
    const { prepareStackTrace } = Error;
    Error.prepareStackTrace = (_, frames) => frames;
    try {
      const disk = failing({ stackTraces: true });
      expect(await codeOf(disk.write(0, block()))).toBe('IO_FAILED');
      expect(await codeOf(disk.read(7, 512))).toBe('UNALIGNED');
    } finally {
      if (prepareStackTrace) Error.prepareStackTrace = prepareStackTrace;
      else Reflect.deleteProperty(Error, 'prepareStackTrace');
    }
  });

  test('of a call that is refused at once carries the frame of the call in any case', async () => {
    const disk = failing();
    function theCaller(): Promise<unknown> {
      return disk.read(7, 512).catch((reason) => reason);
    }
    expect(((await theCaller()) as Error).stack).toContain('theCaller');
  });

  test.each<ErrorCode>(['READ_ONLY', 'READ_AT_RISK'])(
    'of the storage that says %s is not hidden behind IO_FAILED',
    async (code) => {
      const storage: Storage = {
        size: 4096,
        capabilities: new MemoryStorage(4096).capabilities,
        read: () => {
          throw new WriteBarrierError(code, 'no');
        },
        write: async () => {
          throw new WriteBarrierError(code, 'no');
        },
        writev() {},
        discard() {},
        writeZeroes() {},
        flush() {},
        close() {},
      };
      const disk = new IoScheduler(storage);
      expect(await codeOf(disk.read(0, 512))).toBe(code);
      expect(await codeOf(disk.write(0, block()))).toBe(code);
    },
  );

  test('inside an error does not contradict it: a failed flush counts the bytes at risk once, over all layers', async () => {
    const capabilities = { cache: 'volatile', orderedTags: false } as const;
    const bottom = withFaults(new MemoryStorage(1 << 16, { capabilities }), [
      { on: 'flush', nth: 0, fault: 'fail', error: 'EIO' },
    ]);
    const host = new IoScheduler(bottom);
    const guest = new IoScheduler(host.asStorage());
    await host.write(1024, block());
    await guest.write(0, block());
    const error = await guest.flush().catch((reason) => reason);
    expect(error.message).toBe('flush failed, 1024 bytes may be lost: EIO');
    expect(error.cause.message).toBe('flush failed, 1024 bytes may be lost: EIO');
    expect(guest.atRisk).toEqual([
      { start: 0, end: 512 },
      { start: 1024, end: 1536 },
    ]);
  });
});

describe('a thing that is printed says what it is in a line or two', () => {
  test.each<[string, unknown, RegExp]>([
    [
      'a scheduler',
      new IoScheduler(memory()),
      /^IoScheduler \{ DRAIN_FUA on 1048576 bytes, running, 0 queued, 0 at the storage \}$/,
    ],
    [
      'a storage',
      memory(),
      /^MemoryStorage \{ 1048576 bytes in blocks of 512, cache volatile, flush, fua/,
    ],
    ['a wrapper', tracing(memory(), () => {}), /^tracing\(MemoryStorage \{ 1048576 bytes/],
    [
      'a stack',
      new IoScheduler(memory()).asStorage(),
      /^asStorage\(IoScheduler \{ DRAIN_FUA on 1048576 bytes/,
    ],
    ['a recorder', new TraceRecorder(), /^TraceRecorder \{ 0 events, 0 dropped \}$/],
  ])('%s', (_, thing, line) => {
    const text = inspect(thing);
    expect(text).toMatch(line);
    expect(text.length).toBeLessThan(240);
    expect(inspect({ thing })).toContain(text);
  });
});

function worldOn(
  device: ManualStorage,
  options: ConstructorParameters<typeof World>[0] = {},
): { disk: IoScheduler; submit: World['submit'] } {
  const world = new World(options, device);
  return { disk: world.disk, submit: (program) => world.submit(program) };
}
