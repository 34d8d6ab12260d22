// The wrappers: each keeps the contract of what it wraps, alone and stacked, over a storage that
// can do everything and over one that can do next to nothing; then what each adds.

import { describe, expect, test } from 'vitest';
import {
  type Capabilities,
  type CommandEvent,
  type DeviceCommand,
  type Fault,
  IoScheduler,
  MemoryStorage,
  type Storage,
  tracing,
  type WriteFlags,
  withFaults,
  withLatency,
} from '../../src/index.js';
import { byteView, slice } from '../../src/kit.js';
import { codeThrown, errorThrown, storageContract } from './contract.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const SIMPLE = { tag: 'simple' } as const;
const BLOCK = 512;
const one = (blocks = 1): Uint8Array => new Uint8Array(blocks * BLOCK).fill(1);
const instantly = { sleep: async (): Promise<void> => {} };
const ignore = (): void => {};
const memoryOf = (): MemoryStorage => new MemoryStorage(BLOCK, { capabilities: ABLE });

const LEAST: Partial<Capabilities> = {
  cache: 'volatile',
  fua: false,
  orderedTags: false,
  writev: false,
  discard: false,
  writeZeroes: false,
};
/** A disk with a stable medium and ordered tags: it can do everything. */
const ABLE: Partial<Capabilities> = { cache: 'none', orderedTags: true };
const WRAPPERS: Readonly<Record<string, (storage: Storage) => Storage>> = {
  tracing: (storage) => tracing(storage, ignore),
  withLatency: (storage) => withLatency(storage, 1, instantly),
  withFaults: (storage) => withFaults(storage, [{ on: 'read', nth: 1e9, fault: 'fail' }]),
  'a stack of all three': (storage) =>
    tracing(withLatency(withFaults(tracing(storage, ignore), []), 1, instantly), ignore),
};

for (const [name, wrap] of Object.entries(WRAPPERS)) {
  for (const [over, capabilities] of Object.entries({
    everything: ABLE,
    'next to nothing': LEAST,
  })) {
    const declares = new MemoryStorage(BLOCK, { capabilities }).capabilities;
    storageContract(`${name}, over a storage that can do ${over},`, declares, () => {
      let memory = new MemoryStorage(32 * BLOCK, { capabilities });
      const storage = wrap(memory);
      expect(storage.capabilities).toBe(memory.capabilities);
      const reopen = (): Storage => {
        memory = new MemoryStorage(memory.bytes, { capabilities });
        return wrap(memory);
      };
      return { storage, reopen };
    });
  }
}

/** A storage that answers later, when it is told to. */
function slow(): { readonly storage: Storage; readonly answer: (moved?: number) => void } {
  const memory = new MemoryStorage(4 * BLOCK, { capabilities: ABLE });
  let resolve: (moved: number | undefined) => void = ignore;
  const later = new Promise<void | number>((done) => {
    resolve = done;
  });
  const { size, capabilities } = memory;
  const storage: Storage = {
    size,
    capabilities: { ...capabilities, writev: false, discard: false, writeZeroes: false },
    read: () => later,
    write: () => later,
    flush: ignore,
    close: ignore,
  };
  return { storage, answer: (moved) => resolve(moved) };
}

describe('tracing', () => {
  test.each([undefined, null, 7, {}])(
    'refuses an observer that is no function: %s',
    async (observer) => {
      const make = (): unknown => Reflect.apply(tracing, null, [memoryOf(), observer]);
      expect(await codeThrown(make)).toBe('INVALID_ARGUMENT');
    },
  );

  const watched = (storage: Storage): { events: CommandEvent[]; storage: Storage } => {
    const events: CommandEvent[] = [];
    return { events, storage: tracing(storage, (event) => events.push(event)) };
  };

  test('tells of every command and of its answer, numbered from 0', () => {
    const { events, storage } = watched(new MemoryStorage(8 * BLOCK, { capabilities: ABLE }));
    storage.write(0, one(2), { fua: true, tag: 'ordered' });
    storage.writev?.(BLOCK, [one(), one()], PLAIN);
    storage.read(0, one());
    storage.flush(SIMPLE);
    storage.discard?.(0, BLOCK);
    storage.writeZeroes?.(BLOCK, BLOCK);
    const dispatched = events.flatMap((event) => (event.kind === 'dispatch' ? [event] : []));
    const told = { kind: 'command', stage: 'plain', tag: 'simple', fua: false, blockSize: BLOCK };
    expect(dispatched.map(({ what }) => what)).toEqual([
      { ...told, op: 'write', offset: 0, length: 2 * BLOCK, tag: 'ordered', fua: true },
      { ...told, op: 'write', offset: BLOCK, length: 2 * BLOCK },
      { ...told, op: 'read', offset: 0, length: BLOCK },
      { ...told, op: 'flush', offset: 0, length: 0 },
      { ...told, op: 'discard', offset: 0, length: BLOCK },
      { ...told, op: 'writeZeroes', offset: BLOCK, length: BLOCK },
    ]);
    expect(dispatched.map(({ requests }) => requests)).toEqual(dispatched.map(() => []));
    expect(events.map(({ kind, command }) => `${kind} ${command}`)).toEqual(
      [0, 1, 2, 3, 4, 5].flatMap((nth) => [`dispatch ${nth}`, `complete ${nth}`]),
    );
    expect(structuredClone(events)).toEqual(events);
    expect(JSON.parse(JSON.stringify(events))).toEqual(events);
  });

  test('tells of an answer when it comes, not before', async () => {
    const { storage: inner, answer } = slow();
    const { events, storage } = watched(inner);
    const writing = storage.write(0, one(), PLAIN);
    storage.flush(SIMPLE);
    expect(events.map(({ kind }) => kind)).toEqual(['dispatch', 'dispatch', 'complete']);
    answer();
    await writing;
    expect(events.at(-1)).toEqual({ kind: 'complete', command: 0 });
  });

  test('passes an error on as it is, and tells of it in words', async () => {
    const { events, storage } = watched(new MemoryStorage(BLOCK, { capabilities: ABLE }));
    expect(await codeThrown(() => storage.read(4 * BLOCK, one()))).toBe('OUT_OF_RANGE');
    expect(events.at(-1)).toMatchObject({ error: expect.stringContaining('not inside') });
  });

  test('takes a short transfer for the failure that it is', async () => {
    const { storage: inner, answer } = slow();
    const { events, storage } = watched(inner);
    const reading = storage.read(0, one());
    answer(100);
    expect(await reading).toBe(100);
    expect(events.at(-1)).toMatchObject({ error: '100 of 512 bytes were moved' });
  });

  test('lets a flush answer with whatever it likes: it moves nothing', () => {
    const inner: Storage = new MemoryStorage(BLOCK, { capabilities: ABLE });
    inner.flush = () => 7 as never;
    const { events, storage } = watched(inner);
    storage.flush(SIMPLE);
    expect(events.at(-1)).toEqual({ kind: 'complete', command: 0 });
  });
});

describe('withLatency', () => {
  test('takes effect at once, and answers when the time has passed', async () => {
    const memory = new MemoryStorage(BLOCK, { capabilities: ABLE });
    const slept: number[] = [];
    let wake: () => void = ignore;
    const storage = withLatency(memory, 5, {
      sleep: (ms) => {
        slept.push(ms);
        return new Promise((resolve) => {
          wake = resolve;
        });
      },
    });
    let answered = false;
    const writing = Promise.resolve(storage.write(0, one(), PLAIN)).then(() => {
      answered = true;
    });
    expect(memory.bytes).toEqual(one());
    await Promise.resolve();
    expect([slept, answered]).toEqual([[5], false]);
    wake();
    await writing;
    expect(answered).toBe(true);
  });

  test('asks for the latency of each command, as a value', async () => {
    const seen: DeviceCommand[] = [];
    const slept: number[] = [];
    const storage = withLatency(
      new MemoryStorage(2 * BLOCK, { capabilities: ABLE }),
      (command) => {
        seen.push(command);
        return command.op === 'flush' ? 9 : command.length / BLOCK;
      },
      { sleep: async (ms) => void slept.push(ms) },
    );
    await storage.write(0, one(2), PLAIN);
    await storage.flush(SIMPLE);
    expect(slept).toEqual([2, 9]);
    expect(seen.map(({ op }) => op)).toEqual(['write', 'flush']);
  });

  test('begins to wait when the storage has answered, not before', async () => {
    const { storage: inner, answer } = slow();
    const slept: number[] = [];
    const storage = withLatency(inner, 2, { sleep: async (ms) => void slept.push(ms) });
    const reading = storage.read(0, one());
    await new Promise(setImmediate);
    expect(slept).toEqual([]);
    answer(BLOCK);
    expect(await reading).toBe(BLOCK);
    expect(slept).toEqual([2]);
  });

  test('delays a failure as well, and does not change it', async () => {
    const slept: number[] = [];
    const sleep = async (ms: number): Promise<void> => void slept.push(ms);
    const storage = withLatency(new MemoryStorage(BLOCK, { capabilities: ABLE }), 3, { sleep });
    expect(await codeThrown(() => storage.read(BLOCK, one()))).toBe('OUT_OF_RANGE');
    expect(slept).toEqual([3]);
  });

  test.each([-1, Number.NaN, Number.POSITIVE_INFINITY])('refuses %d ms', async (ms) => {
    const memory = new MemoryStorage(BLOCK, { capabilities: ABLE });
    expect(await codeThrown(() => withLatency(memory, ms))).toBe('INVALID_ARGUMENT');
    const storage = withLatency(memory, () => ms, instantly);
    expect(await codeThrown(() => storage.write(0, one(), PLAIN))).toBe('INVALID_ARGUMENT');
    expect(memory.bytes).toEqual(new Uint8Array(BLOCK));
  });

  test.each(['5', null, undefined, 5n, {}])(
    'refuses what is neither a number nor a function: %s',
    async (latency) => {
      const make = (): unknown => Reflect.apply(withLatency, null, [memoryOf(), latency]);
      expect(await codeThrown(make)).toBe('INVALID_ARGUMENT');
    },
  );

  test('refuses a sleep that is no function', async () => {
    const make = (): unknown => withLatency(memoryOf(), 5, { sleep: 5 as never });
    expect(await codeThrown(make)).toBe('INVALID_ARGUMENT');
  });

  test('sleeps by the clock unless it is told otherwise', async () => {
    const storage = withLatency(new MemoryStorage(BLOCK, { capabilities: ABLE }), 0);
    expect(storage.write(0, one(), PLAIN)).toBeInstanceOf(Promise);
    await storage.flush(SIMPLE);
  });
});

describe('withFaults', () => {
  test('fails exactly the command that the plan names, and that one does nothing', async () => {
    const memory = new MemoryStorage(4 * BLOCK, { capabilities: ABLE });
    const storage = withFaults(memory, [
      { on: 'write', nth: 1, fault: 'fail', error: 'head crash' },
    ]);
    const calls = [0, 1, 2].map((nth) => () => storage.write(nth * BLOCK, one(), PLAIN));
    const errors = [];
    for (const call of calls) errors.push(await errorThrown(call));
    expect(errors).toEqual([
      undefined,
      expect.objectContaining({ code: 'IO_FAILED', message: 'head crash' }),
      undefined,
    ]);
    expect([0, 1, 2].map((nth) => memory.bytes[nth * BLOCK])).toEqual([1, 0, 1]);
  });

  test('counts each operation for itself, and a writev as a write', async () => {
    const storage = withFaults(new MemoryStorage(4 * BLOCK, { capabilities: ABLE }), [
      { on: 'write', nth: 1, fault: 'fail' },
      { on: 'flush', nth: 0, fault: 'fail' },
      { on: 'discard', nth: 0, fault: 'fail' },
      { on: 'writeZeroes', nth: 0, fault: 'fail' },
    ]);
    await storage.write(0, one(), PLAIN);
    await storage.read(0, one());
    const failing = [
      () => storage.writev?.(0, [one()], PLAIN),
      () => storage.flush(SIMPLE),
      () => storage.discard?.(0, BLOCK),
      () => storage.writeZeroes?.(0, BLOCK),
    ];
    for (const call of failing) expect(await codeThrown(call)).toBe('IO_FAILED');
    for (const call of failing) expect(await codeThrown(call)).toBeUndefined();
  });

  test('carries out half of a short transfer, in whole blocks, and answers its length', async () => {
    const memory = new MemoryStorage(8 * BLOCK, { capabilities: ABLE });
    const short = (on: 'read' | 'write', nth: number): Fault => ({ on, nth, fault: 'short' });
    const storage = withFaults(memory, [
      short('write', 0),
      short('write', 1),
      short('write', 2),
      short('read', 0),
    ]);
    expect(storage.write(0, one(5), PLAIN)).toBe(2 * BLOCK);
    expect(memory.bytes.lastIndexOf(1)).toBe(2 * BLOCK - 1);
    expect(storage.writev?.(2 * BLOCK, [one(), one(), one(), one()], PLAIN)).toBe(2 * BLOCK);
    expect(memory.bytes.lastIndexOf(1)).toBe(4 * BLOCK - 1);
    expect(storage.write(4 * BLOCK, one(), PLAIN)).toBe(0);
    const into = new Uint8Array(4 * BLOCK);
    expect(storage.read(0, into)).toBe(2 * BLOCK);
    expect(into.lastIndexOf(1)).toBe(2 * BLOCK - 1);
  });

  test('leaves a hanging command without an answer, and others with theirs', async () => {
    const memory = new MemoryStorage(2 * BLOCK, { capabilities: ABLE });
    const storage = withFaults(memory, [{ on: 'write', nth: 0, fault: 'hang' }]);
    let answered = false;
    const answer = (): void => {
      answered = true;
    };
    Promise.resolve(storage.write(0, one(), PLAIN)).then(answer, answer);
    await storage.write(BLOCK, one(), PLAIN);
    await storage.close();
    await new Promise(setImmediate);
    expect(answered).toBe(false);
    expect(memory.bytes[0]).toBe(0);
  });

  test('plans are data: they survive JSON, and changing one later changes nothing', async () => {
    const plan: Fault[] = [{ on: 'flush', nth: 0, fault: 'fail' }];
    const storage = withFaults(
      new MemoryStorage(BLOCK, { capabilities: ABLE }),
      JSON.parse(JSON.stringify(plan)),
    );
    expect(await codeThrown(() => storage.flush(SIMPLE))).toBe('IO_FAILED');
    const other = withFaults(new MemoryStorage(BLOCK, { capabilities: ABLE }), plan);
    plan.length = 0;
    expect(await codeThrown(() => other.flush(SIMPLE))).toBe('IO_FAILED');
  });

  test.each<[string, unknown]>([
    ['no list', { on: 'read', nth: 0, fault: 'fail' }],
    ['nothing in the place of a fault', [null]],
    ['an unknown operation', [{ on: 'seek', nth: 0, fault: 'fail' }]],
    ['an unknown fault', [{ on: 'read', nth: 0, fault: 'burn' }]],
    ['half a command', [{ on: 'read', nth: 0.5, fault: 'fail' }]],
    ['a command before the first', [{ on: 'read', nth: -1, fault: 'fail' }]],
    ['a short flush', [{ on: 'flush', nth: 0, fault: 'short' }]],
    ['a number that no JSON has', [{ on: 'read', nth: 0n, fault: 'fail' }]],
    ['an error that is no text', [{ on: 'read', nth: 0, fault: 'fail', error: 7 }]],
    ['an error of a fault that says nothing', [{ on: 'read', nth: 0, fault: 'hang', error: 'x' }]],
    ['a short discard', [{ on: 'discard', nth: 0, fault: 'short' }]],
    [
      'two faults for one command',
      [
        { on: 'read', nth: 0, fault: 'fail' },
        { on: 'read', nth: 0, fault: 'hang' },
      ],
    ],
  ])('refuses a plan with %s at once', async (_, plan) => {
    const make = (): unknown =>
      Reflect.apply(withFaults, null, [new MemoryStorage(BLOCK, { capabilities: ABLE }), plan]);
    expect(await codeThrown(make)).toBe('INVALID_ARGUMENT');
  });

  test('reads each value of a plan once: a getter that changes its mind changes nothing', () => {
    let reads = 0;
    const planned = {
      on: 'read',
      fault: 'fail',
      get nth() {
        reads += 1;
        return reads;
      },
    } as const;
    const storage = withFaults(memoryOf(), [planned]);
    const into = new Uint8Array(BLOCK);
    storage.read(0, into);
    expect(() => storage.read(0, into)).toThrow('planned: read 1 fails');
    storage.read(0, into);
    expect(reads).toBe(1);
  });
});

describe('given what is no storage, when it is wrapped, then it is refused at once, and the message says what it is', () => {
  const wrappers: Record<string, (storage: Storage) => Storage> = {
    tracing: (storage) => tracing(storage, ignore),
    withLatency: (storage) => withLatency(storage, 1),
    withFaults: (storage) => withFaults(storage, []),
    slice: (storage) => slice(storage, 0, BLOCK),
    byteView,
  };
  const memory = new MemoryStorage(BLOCK);
  const wrong: [string, unknown, RegExp][] = [
    ['nothing', undefined, /undefined\.capabilities/],
    ['a promise of a storage', Promise.resolve(memory), /\[object Promise\]\.capabilities/],
    ['a scheduler', new IoScheduler(memory), /writev must be a function/],
    [
      'half a storage',
      { capabilities: memory.capabilities, size: BLOCK },
      /read must be a function/,
    ],
  ];
  for (const [name, wrapper] of Object.entries(wrappers)) {
    test.each(wrong)(`${name}: %s`, (_, value, message) => {
      expect(() => wrapper(value as Storage)).toThrow(
        expect.objectContaining({
          code: 'INVALID_STORAGE',
          message: expect.stringMatching(message),
        }),
      );
    });
  }
});
