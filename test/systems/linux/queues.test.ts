// The two queues over a storage: promises, limits, misuse, storages of every temper, and traces that keep the rules.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  MemoryStorage,
  type ModeName,
  parseProgram,
  type Request,
  type Storage,
  type TraceEvent,
  WriteBarrierError,
  withFaults,
} from 'write-barrier';
import { checkTrace } from 'write-barrier/testing';
import type { BarrierEraName } from '../../../src/systems/linux/eras.js';
import {
  LinuxBarrierQueue,
  type LinuxBarrierQueueOptions,
  LinuxFlushQueue,
} from '../../../src/systems/linux/queues.js';
import { seededRandom } from '../../../src/testing/choices.js';
import { share } from '../../kit/amount.js';
import { VirtualDevice } from '../../scheduler/virtual-device.js';
import { BLOCK, ManualStorage, settled, VOLATILE } from '../../scheduler/world.js';
import { BARRIER_ERA_NAMES, dataFor, FLUSH_ERA_NAMES, outcomeOf } from './support.js';

type Queue = LinuxBarrierQueue | LinuxFlushQueue;

const STABLE = { ...VOLATILE, cache: 'none' } as const;

/** Submits the words at once; answers with their outcomes, which come later. */
function submit(queue: Queue, program: string): Promise<string>[] {
  return parseProgram(program).map((request) => outcomeOf(queue.submit(request, dataFor(request))));
}

const one = (word: string): Request => parseProgram(word)[0] as Request;

describe('a queue with barriers over a storage', () => {
  test('given a drain, then the storage sees one command of the barrier after another, and the answers come with them', async () => {
    const device = new ManualStorage();
    const queue = new LinuxBarrierQueue(device, { era: '2.6.36', mode: 'DRAIN_FLUSH' });
    const outcomes = submit(queue, 'w0 w9 b2 w3');
    expect(device.log).toBe('w0 w9');
    await device.answer();
    await device.answer();
    await device.answer();
    await device.answer();
    expect(device.log).toBe('w0 w9 F w2 F w3');
    await device.answer();
    expect(await Promise.all(outcomes)).toEqual(['done', 'done', 'done', 'done']);
    await queue.idle();
  });

  test.each([
    ['none', false, false, 'scsi', 'DRAIN'],
    ['volatile', true, false, 'scsi', 'DRAIN_FLUSH'],
    ['volatile', true, true, 'scsi', 'DRAIN_FUA'],
    ['volatile', true, true, 'ide', 'DRAIN_FLUSH'],
    ['volatile', false, false, 'ide', 'NONE'],
    ['protected', true, true, 'ide', 'DRAIN'],
  ] as const)(
    'given a storage with cache %s, flush %s, FUA %s, then a %s disk takes %s',
    (cache, flush, fua, disk, mode) => {
      const device = new ManualStorage({ cache, flush, fua });
      for (const era of BARRIER_ERA_NAMES) {
        expect(new LinuxBarrierQueue(device, { era, disk }).mode).toBe(mode);
      }
    },
  );

  test('given a new mode by number, then it is read in the layout of the era, and a bad one changes nothing', () => {
    const queue = new LinuxBarrierQueue(new ManualStorage(), { era: '2.6.24', mode: 0x31 });
    expect(queue.mode).toBe('DRAIN_FLUSH');
    queue.setMode(0x51);
    expect(queue.mode).toBe('DRAIN_FUA');
    for (const bad of [0xb1, 0x80, 'DRAINED' as ModeName]) {
      expect(() => queue.setMode(bad)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    expect(queue.mode).toBe('DRAIN_FUA');
  });

  test('given a storage without a flush, then a kernel that asks for prepare_flush_fn refuses a mode with one', () => {
    const device = new ManualStorage({ flush: false });
    const make = (era: BarrierEraName) => () =>
      new LinuxBarrierQueue(device, { era, mode: 'DRAIN_FLUSH' });
    expect(make('2.6.32')).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(make('2.6.36')).not.toThrow();
  });

  test('given a mode that the storage cannot do, then its commands fail, and nothing pretends to have been done', async () => {
    const options: Partial<LinuxBarrierQueueOptions> = { era: '2.6.36', mode: 'DRAIN_FUA' };
    for (const missing of [{ flush: false }, { fua: false }]) {
      const device = new ManualStorage(missing);
      const queue = new LinuxBarrierQueue(device, options as LinuxBarrierQueueOptions);
      const [outcome] = submit(queue, 'b0');
      await settled();
      await device.drain();
      expect(await outcome).toBe('EOPNOTSUPP');
    }
  });

  test('given requests that the era did not have, then they are refused with nothing queued', async () => {
    const device = new ManualStorage();
    const events: TraceEvent[] = [];
    const observer = (event: TraceEvent): void => void events.push(event);
    const queue = new LinuxBarrierQueue(device, { era: '2.6.24', observer });
    expect(await Promise.all(submit(queue, 'fw0 w0! z0'))).toEqual(Array(3).fill('EOPNOTSUPP'));
    const bare = new ManualStorage({ discard: false });
    const without = new LinuxBarrierQueue(bare, { era: '2.6.36', observer });
    expect(await Promise.all(submit(without, 'd0'))).toEqual(['EOPNOTSUPP']);
    expect([device.log, events]).toEqual(['', []]);
  });

  test('given a discard of a later era, then the storage is asked for one', async () => {
    const storage = new MemoryStorage(new Uint8Array(4 * BLOCK).fill(1));
    const queue = new LinuxBarrierQueue(storage, { era: '2.6.32' });
    expect(await Promise.all(submit(queue, 'd1'))).toEqual(['done']);
    expect(storage.bytes[BLOCK]).toBe(MemoryStorage.DISCARDED);
  });

  test('given a storage that says "not supported" to a barrier, then so does the queue: send it again plain', async () => {
    const backend = Object.assign(new ManualStorage(), {
      flush: (): never => {
        throw new WriteBarrierError('EOPNOTSUPP', 'the backend takes no barriers');
      },
    });
    const queue = new LinuxBarrierQueue(backend, { era: '2.6.32', mode: 'DRAIN_FUA' });
    const [outcome] = submit(queue, 'b0');
    await settled();
    await backend.drain();
    expect(await outcome).toBe('EOPNOTSUPP');
  });

  test('given a tag mode over a storage without tags, then it is sent none: nobody checked that, and nobody keeps order', async () => {
    const storage = new MemoryStorage(4 * BLOCK, { capabilities: { orderedTags: false } });
    const queue = new LinuxBarrierQueue(storage, { era: '2.6.32', mode: 'TAG_FLUSH' });
    expect(await Promise.all(submit(queue, 'w0 b1 w2'))).toEqual(['done', 'done', 'done']);
  });

  test('given merged reads, then each gets its own bytes', async () => {
    const medium = Uint8Array.from({ length: 8 * BLOCK }, (_, i) => Math.floor(i / BLOCK));
    const events: TraceEvent[] = [];
    const observer = (event: TraceEvent): void => void events.push(event);
    const queue = new LinuxBarrierQueue(blocking(new MemoryStorage(medium)), {
      era: '2.6.36',
      depth: 1,
      observer,
    });
    const reads = parseProgram('r7 r3 r4 r2').map((request) => queue.submit(request));
    const bytes = (await Promise.all(reads)) as Uint8Array[];
    expect(bytes.map(([first, ...rest]) => [first, rest.length])).toEqual(
      [7, 3, 4, 2].map((block) => [block, BLOCK - 1]),
    );
    expect(events.filter(({ kind }) => kind === 'dispatch').length).toBe(2);
  });

  test.each([true, false])(
    'given merged writes and a storage whose writev is %s, then every byte lands where it belongs',
    async (writev) => {
      const storage = new MemoryStorage(8 * BLOCK, { capabilities: { writev } });
      const queue = new LinuxBarrierQueue(blocking(storage), { era: '2.6.36', depth: 1 });
      const writes = parseProgram('w7 w3 w4 w2').map((request, i) =>
        queue.submit(request, dataFor(request, i + 1)),
      );
      await Promise.all(writes);
      const blocks = Array.from({ length: 8 }, (_, i) => storage.bytes[i * BLOCK]);
      expect(blocks).toEqual([0, 0, 4, 2, 3, 0, 0, 1]);
    },
  );
});

/** The same storage, which takes a while, so that others wait behind the first. */
function blocking(storage: MemoryStorage): Storage {
  const { size, capabilities } = storage;
  return {
    size,
    capabilities,
    read: (offset, into) => settled().then(() => storage.read(offset, into)),
    write: (offset, data, flags) => settled().then(() => storage.write(offset, data, flags)),
    ...(storage.writev && { writev: storage.writev }),
    flush: (flags) => storage.flush(flags),
    close: () => storage.close(),
  };
}

test('given requests behind a barrier and places at the storage, when it ends, then as many start together as there are places', async () => {
  for (const depth of [1, 3, 8]) {
    const device = new ManualStorage({ cache: 'none' });
    const options = { era: '2.6.36', mode: 'DRAIN', depth, mergeBytesMax: 0 } as const;
    submit(new LinuxBarrierQueue(device, options), 'b0 w1 w2 w3 w4 w5');
    await device.answer('w0');
    expect(device.inFlight.split(' ').length).toBe(Math.min(5, depth));
    await device.drain();
  }
});

describe('blkdev_issue_flush', () => {
  test.each(['2.6.24', '2.6.32', '2.6.36'] as const)(
    'given %s, then it is an empty barrier: it waits, and on a write-through queue that is all',
    async (era) => {
      const device = new ManualStorage({ cache: 'none' });
      const queue = new LinuxBarrierQueue(device, { era });
      submit(queue, 'w0');
      const flushed = outcomeOf(queue.issueFlush());
      await settled();
      expect(device.log).toBe('w0');
      await device.answer();
      expect(await flushed).toBe('done');
      expect(device.log).toBe('w0');
    },
  );

  test.each([
    ['2.6.24', 'IO_FAILED'],
    ['2.6.32', 'EOPNOTSUPP'],
    ['2.6.36', 'EOPNOTSUPP'],
  ] as const)('given %s and no barriers, then its caller is told %s', async (era, code) => {
    const queue = new LinuxBarrierQueue(new ManualStorage(), { era, mode: 'NONE' });
    expect(await outcomeOf(queue.issueFlush())).toBe(code);
    expect(await outcomeOf(queue.submit({ kind: 'flush' }))).toBe(code);
  });

  test('given a kernel before empty barriers, then a barrier without data is refused, and a flush is the hook of the driver', async () => {
    const device = new ManualStorage();
    const queue = new LinuxBarrierQueue(device, { era: '2.6.20' });
    expect(await outcomeOf(queue.submit({ kind: 'barrier' }))).toBe('ZERO_LENGTH');
    submit(queue, 'w0 b1 w2');
    const flushed = outcomeOf(queue.submit({ kind: 'flush' }));
    // It waits neither for the write nor for the barrier that drains.
    expect(device.log).toBe('w0 F');
    await device.answer('F');
    expect(await flushed).toBe('done');
    await device.drain();
    await queue.idle();
  });

  test('given the hook of an IDE disk, then its flush stands at the end of the line', async () => {
    const device = new ManualStorage();
    const queue = new LinuxBarrierQueue(device, { era: '2.6.20', disk: 'ide' });
    submit(queue, 'w0 b1');
    const flushed = outcomeOf(queue.issueFlush());
    expect(device.log).toBe('w0');
    await device.drain();
    expect(await flushed).toBe('done');
    expect(device.log).toBe('w0 F w1 F F');
  });

  test('given the hook and a storage without a cache, or without a flush, then nothing is sent', async () => {
    const through = new ManualStorage({ cache: 'none' });
    expect(await outcomeOf(new LinuxBarrierQueue(through, { era: '2.6.20' }).issueFlush())).toBe(
      'done',
    );
    const bare = new ManualStorage({ flush: false });
    const events: TraceEvent[] = [];
    const observer = (event: TraceEvent): void => void events.push(event);
    const queue = new LinuxBarrierQueue(bare, { era: '2.6.20', mode: 'DRAIN', observer });
    expect(await outcomeOf(queue.issueFlush())).toBe('EOPNOTSUPP');
    expect([through.log, bare.log, events]).toEqual(['', '', []]);
  });
});

describe.each([
  [
    'with barriers',
    (storage: Storage, options: object = {}) =>
      new LinuxBarrierQueue(storage, { era: '2.6.36', mode: 'DRAIN', ...options }),
  ],
  [
    'of the flush machine',
    (storage: Storage, options: object = {}) =>
      new LinuxFlushQueue(storage, { era: '2.6.39', ...options }),
  ],
] as const)('a queue %s', (_, make) => {
  test('given bad arguments, then it rejects with a code, and nothing is queued', async () => {
    const device = new ManualStorage();
    const events: TraceEvent[] = [];
    const queue = make(device, { observer: (event: TraceEvent) => void events.push(event) });
    const bytes = new Uint8Array(BLOCK);
    const cases: readonly (readonly [Request, Uint8Array | undefined, string])[] = [
      [{ kind: 'write', offset: 0, length: 0 }, new Uint8Array(0), 'ZERO_LENGTH'],
      [{ kind: 'read', offset: 0, length: 0 }, undefined, 'ZERO_LENGTH'],
      [{ kind: 'write', offset: 1, length: BLOCK }, bytes, 'UNALIGNED'],
      [{ kind: 'write', offset: 0, length: 1 }, bytes, 'UNALIGNED'],
      [{ kind: 'write', offset: device.size, length: BLOCK }, bytes, 'OUT_OF_RANGE'],
      [{ kind: 'read', offset: -BLOCK, length: BLOCK }, undefined, 'OUT_OF_RANGE'],
      [{ kind: 'read', offset: Number.NaN, length: BLOCK }, undefined, 'OUT_OF_RANGE'],
      [{ kind: 'discard', offset: 0, length: 2 ** 60 }, undefined, 'OUT_OF_RANGE'],
      [{ kind: 'write', offset: 0, length: BLOCK }, undefined, 'INVALID_ARGUMENT'],
      [{ kind: 'write', offset: 0, length: 2 * BLOCK }, bytes, 'INVALID_ARGUMENT'],
      [{ kind: 'read', offset: 0, length: 2 * BLOCK }, bytes, 'INVALID_ARGUMENT'],
    ];
    for (const [request, data, code] of cases) {
      expect(await outcomeOf(queue.submit(request, data)), JSON.stringify(request)).toBe(code);
    }
    expect([device.log, events]).toEqual(['', []]);
    await queue.idle();
  });

  test('given options that are none, then it throws', () => {
    for (const limit of [0, -1, 1.5, Number.NaN, '3']) {
      for (const name of ['depth', 'requestsMax']) {
        expect(() => make(new ManualStorage(), { [name]: limit })).toThrow(
          expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
        );
      }
    }
    for (const era of ['2.4.0', '', 'toString', undefined, null]) {
      expect(() => make(new ManualStorage(), { era })).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
    }
  });

  test('given more requests than it takes, then the next is refused, and the others are answered', async () => {
    const device = new ManualStorage();
    const queue = make(device, { requestsMax: 3, depth: 1 });
    const outcomes = submit(queue, 'w0 w5 w9 w1');
    expect(await outcomes[3]).toBe('QUEUE_FULL');
    await device.drain();
    expect(await Promise.all(outcomes)).toEqual(['done', 'done', 'done', 'QUEUE_FULL']);
    const [again] = submit(queue, 'w1');
    await device.drain();
    expect(await again).toBe('done');
    await queue.idle();
  });

  test('given a depth, then the storage never has more commands, and one is enough', async () => {
    for (const depth of [1, 2, 5]) {
      const device = new ManualStorage();
      const queue = make(device, { depth });
      const outcomes = submit(queue, 'w0 w2 w4 w6 w8 w10 f');
      while (device.inFlight) {
        expect(device.inFlight.split(' ').length).toBeLessThanOrEqual(depth);
        await device.answer(device.inFlight.split(' ')[0] as string);
      }
      expect(await Promise.all(outcomes)).toEqual(Array(7).fill('done'));
    }
  });

  test('given a storage that answers at once, then a thousand requests cost no stack', async () => {
    const storage = new MemoryStorage(1024 * BLOCK, { capabilities: { cache: 'volatile' } });
    const queue = make(storage, { requestsMax: 2000 });
    const program = Array.from({ length: 1000 }, (_, i) => `w${i}`).join(' ');
    expect(new Set(await Promise.all(submit(queue, program)))).toEqual(new Set(['done']));
    expect(storage.bytes.every((byte, i) => byte === (i < 1000 * BLOCK ? 1 : 0))).toBe(true);
  });

  test('given a storage that throws, rejects with nothing, comes short or answers nonsense, then the owner hears of a failure', async () => {
    const answers: readonly (readonly [() => unknown, string])[] = [
      [
        () => {
          throw new Error('at once');
        },
        'IO_FAILED',
      ],
      [
        () => {
          throw undefined;
        },
        'IO_FAILED',
      ],
      [() => Promise.reject(), 'IO_FAILED'],
      [
        () =>
          Promise.reject({
            toString: () => {
              throw new Error('no words');
            },
          }),
        'IO_FAILED',
      ],
      [() => 0, 'SHORT_TRANSFER'],
      [() => Promise.resolve(BLOCK - 1), 'SHORT_TRANSFER'],
      [() => null, 'done'],
      [() => BLOCK, 'done'],
    ];
    for (const [answer, code] of answers) {
      const storage = Object.assign(new MemoryStorage(4 * BLOCK), { write: answer });
      const queue = make(storage as unknown as Storage);
      expect(await Promise.all(submit(queue, 'w0'))).toEqual([code]);
      await queue.idle();
    }
  });

  test('given a failure, then it has the error of the storage as its cause', async () => {
    const storage = withFaults(new MemoryStorage(4 * BLOCK), [
      { on: 'write', nth: 0, fault: 'fail', error: 'bad sector' },
    ]);
    await expect(make(storage).submit(one('w0'), dataFor(one('w0')))).rejects.toMatchObject({
      code: 'IO_FAILED',
      cause: { message: 'bad sector' },
    });
  });

  test('given two queues, when a barrier or a flush runs on one, then the other goes on', async () => {
    const [a, b] = [new ManualStorage(), new ManualStorage()];
    submit(make(a), 'w0 f w2');
    submit(make(b), 'w1');
    expect(b.log).toBe('w1');
    await a.drain();
    await b.drain();
  });
});

// What a driver saw, and what the mode promises.

const MODES = ['DRAIN', 'DRAIN_FLUSH', 'DRAIN_FUA', 'TAG', 'TAG_FLUSH', 'TAG_FUA', 'NONE'] as const;

/** Every request has a block of its own: overlaps are the submitter's business. */
const programs = (letters: readonly string[]): fc.Arbitrary<Request[]> =>
  fc
    .array(fc.constantFrom(...letters), { minLength: 1, maxLength: 30 })
    .map((words) => parseProgram(words.map((word, i) => word.replace('N', `${i}`)).join(' ')));

/** Plays it over a device that answers when and how it likes, `wait`ing before some requests. */
async function play(
  make: (device: Storage, observer: (event: TraceEvent) => void) => Queue,
  program: readonly Request[],
  seed: number,
  how: { stable?: boolean; failures?: boolean; waits?: (request: Request) => boolean } = {},
): Promise<TraceEvent[]> {
  const { stable = false, failures = false, waits = () => false } = how;
  const random = seededRandom(seed);
  const choose = (of: number): number => Math.floor(random() * of);
  const device = new VirtualDevice(stable ? STABLE : VOLATILE, program.length, choose, failures);
  const events: TraceEvent[] = [];
  const queue = make(device, (event) => void events.push(event));
  const drain = async (): Promise<void> => {
    for (await settled(); device.inFlight > 0; await settled()) device.answerOne();
  };
  for (const request of program) {
    if (waits(request)) await drain();
    queue.submit(request, dataFor(request)).catch(() => {});
    if (choose(3) === 0) device.answerOne();
    if (choose(3) === 0) await settled();
  }
  await drain();
  return events;
}

describe('the traces of a queue with barriers', () => {
  test.each(MODES)(
    'given any program that overlaps nothing in %s, with failures, then no rule of the mode is broken',
    async (mode) => {
      const eras = mode === 'TAG_FLUSH' ? (['2.6.32'] as const) : (['2.6.32', '2.6.36'] as const);
      await fc.assert(
        fc.asyncProperty(
          fc.constantFrom(...eras),
          programs(['wN', 'wN', 'rN', 'dN', 'bN', 'b']),
          fc.nat(),
          fc.boolean(),
          fc.integer({ min: 1, max: 6 }),
          async (era, program, seed, failures, depth) => {
            const events = await play(
              (device, observer) => new LinuxBarrierQueue(device, { era, mode, depth, observer }),
              program,
              seed,
              { failures },
            );
            expect(checkTrace(events, { mode, device: VOLATILE, readsPass: false })).toEqual([]);
          },
        ),
        { numRuns: share(300) },
      );
    },
    120_000,
  );

  test.each(['DRAIN', 'TAG'] as const)(
    'given %s on a storage without a cache, then no rule is broken either',
    async (mode) => {
      await fc.assert(
        fc.asyncProperty(
          programs(['wN', 'rN', 'bN', 'b', 'f']),
          fc.nat(),
          async (program, seed) => {
            const events = await play(
              (device, observer) =>
                new LinuxBarrierQueue(device, { era: '2.6.36', mode, observer }),
              program,
              seed,
              { stable: true },
            );
            expect(checkTrace(events, { mode, device: STABLE, readsPass: false })).toEqual([]);
          },
        ),
        { numRuns: share(300) },
      );
    },
    120_000,
  );
});

describe('the traces of a flush machine', () => {
  const flagged = (request: Request): boolean =>
    request.kind === 'flush' ||
    (request.kind === 'write' && (request.preflush === true || request.fua === true));

  test.each(FLUSH_ERA_NAMES)(
    'given %s and a host that waits before whatever has a flag, then no rule is broken',
    async (era) => {
      await fc.assert(
        fc.asyncProperty(
          programs(['wN', 'rN', 'dN', 'f', 'fwN', 'wN!', 'fwN!']),
          fc.nat(),
          fc.boolean(),
          async (program, seed, stable) => {
            const events = await play(
              (device, observer) => new LinuxFlushQueue(device, { era, observer }),
              program,
              seed,
              { stable, waits: flagged },
            );
            const device = stable ? STABLE : VOLATILE;
            expect(checkTrace(events, { mode: 'NONE', device, readsPass: false })).toEqual([]);
          },
        ),
        { numRuns: share(300) },
      );
    },
    120_000,
  );
});
