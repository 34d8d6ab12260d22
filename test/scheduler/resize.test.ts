// Resizes through the scheduler. First any programs in every mode, over memory and over files, against a plain array; then what
// happens around a resize that fails, is cancelled, or is one of several.

import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  formatSteps,
  formatTimeline,
  IoScheduler,
  MemoryStorage,
  MODE_NAMES,
  type ModeName,
  SchedulerGroup,
  type Storage,
  type TraceEvent,
  tracing,
  withFaults,
} from 'write-barrier';
import { wrap } from 'write-barrier/kit';
import { FileStorage } from 'write-barrier/node';
import { share } from '../kit/amount.js';
import { chooserOf } from '../kit/random.js';
import { temporaryDirectory } from '../node/support.js';
import { codeThrown, errorThrown } from '../storage/contract.js';

const BLOCK = 512;
const block = (byte: number, blocks = 1): Uint8Array => new Uint8Array(blocks * BLOCK).fill(byte);

/** Places in parts of the size of the moment; a resize is to so many blocks. */
const operations = fc.record({
  does: fc.constantFrom('write', 'write', 'read', 'zero', 'barrier', 'empty', 'flush', 'resize'),
  at: fc.integer({ min: 0, max: 19 }),
  blocks: fc.integer({ min: 1, max: 4 }),
  fua: fc.boolean(),
});
const programs = fc.array(operations, { minLength: 1, maxLength: 40 });
type Program = typeof programs extends fc.Arbitrary<infer P> ? P : never;

/** Answers in any order, and fails if a command reaches the bytes that a resize adds or cuts off while it runs: storage.S13. */
function late(storage: Storage, seed: number): Storage {
  const choose = chooserOf(seed);
  const running = new Set<{ start: number; end: number; isResize: boolean }>();
  return wrap(storage, async ({ op, offset, length, size, tag }, run) => {
    const isResize = size !== undefined;
    const own = { start: offset, end: isResize ? Infinity : offset + length, isResize };
    for (const other of op === 'flush' ? [] : running) {
      const overlaps = own.start < other.end && other.start < own.end;
      if (overlaps && (own.isResize || other.isResize)) throw new Error('it overlaps a resize');
    }
    if (op !== 'flush') running.add(own);
    const pause = async (): Promise<void> => {
      for (let turns = choose(5); turns > 0; turns--) await null;
    };
    try {
      // What a tag orders takes effect in the order of the calls.
      const answer = storage.capabilities.orderedTags || tag === 'ordered' ? run() : undefined;
      await pause();
      return answer === undefined && !storage.capabilities.orderedTags ? await run() : await answer;
    } finally {
      await pause();
      running.delete(own);
    }
  });
}

/** Submits all at once; each read is compared with what was submitted before it, and the end with all of it. */
async function played(storage: Storage, mode: ModeName, program: Program): Promise<void> {
  const disk = new IoScheduler(storage, { mode, allowUnsafe: true });
  let model = new Uint8Array(disk.size);
  let value = 0;
  const work = program.map(async ({ does, at, blocks, fua }) => {
    const size = model.length / BLOCK;
    if (does === 'resize') {
      const next = new Uint8Array(at * BLOCK);
      next.set(model.subarray(0, next.length));
      model = next;
      const resizing = disk.resize(at * BLOCK);
      expect(disk.size).toBe(at * BLOCK);
      return resizing;
    }
    if (does === 'flush') return disk.flush();
    if (does === 'empty') return mode === 'NONE' ? undefined : disk.barrier();
    if (size === 0) return undefined;
    const first = (at % size) * BLOCK;
    const length = Math.min(blocks * BLOCK, model.length - first);
    if (does === 'read') {
      const expected = model.slice(first, first + length);
      expect(await disk.read(first, length)).toEqual(expected);
      return undefined;
    }
    value = (value % 250) + 1;
    model.fill(does === 'zero' ? 0 : value, first, first + length);
    if (does === 'zero') return disk.writeZeroes(first, length);
    const barrier = does === 'barrier' && mode !== 'NONE';
    return disk.write(first, block(value, length / BLOCK), { barrier, fua });
  });
  await Promise.all(work);
  expect(disk.size).toBe(model.length);
  expect(storage.size).toBe(model.length);
  const bytes = model.length === 0 ? model : await disk.read(0, model.length);
  expect(bytes).toEqual(model);
  expect(disk.stats()).toMatchObject({ queued: 0, inFlight: 0 });
}

test.each(MODE_NAMES)(
  'given any program with resizes in mode %s, then it is a plain array',
  async (mode) => {
    const capabilities = { orderedTags: mode.startsWith('TAG'), gathers: false };
    await fc.assert(
      fc.asyncProperty(programs, fc.integer(), fc.boolean(), async (program, seed, isLate) => {
        const memory = new MemoryStorage(4 * BLOCK, {
          capabilities: { ...capabilities, gathers: seed % 2 === 0, writeZeroes: seed % 3 !== 0 },
        });
        await played(isLate ? late(memory, seed) : memory, mode, program);
      }),
      { numRuns: share(300, 60) },
    );
  },
);

test.each(MODE_NAMES.filter((mode) => !mode.startsWith('TAG')))(
  'given any program with resizes on a file in mode %s, then it is a plain array, also when it is opened again',
  async (mode) => {
    const directory = temporaryDirectory();
    let files = 0;
    await fc.assert(
      fc.asyncProperty(programs, async (program) => {
        const path = join(directory, `${files++}`);
        await using storage = await FileStorage.open(path, { size: 4 * BLOCK });
        await played(storage, mode, program);
        const { size } = storage;
        await storage.close();
        await using again = await FileStorage.open(path);
        expect(again.size).toBe(size);
      }),
      { numRuns: share(100, 10) },
    );
  },
);

test('a resize keeps its place among overlapping requests, and others pass it', async () => {
  const seen: TraceEvent[] = [];
  const waiting: (() => void)[] = [];
  const memory = new MemoryStorage(4 * BLOCK);
  const slow = wrap(memory, async (_, run) => {
    await new Promise<void>((resolve) => waiting.push(resolve));
    return run();
  });
  const disk = new IoScheduler(
    tracing(slow, (event) => void seen.push(event)),
    { depth: 8 },
  );
  const done = Promise.all([
    disk.write(3 * BLOCK, block(1)),
    disk.resize(2 * BLOCK),
    disk.write(0, block(2)),
    disk.resize(6 * BLOCK),
    disk.write(5 * BLOCK, block(3)),
    disk.write(BLOCK, block(4)),
  ]);
  const issued = (): string => {
    const commands = seen.flatMap((event) => (event.kind === 'dispatch' ? [event.what] : []));
    seen.length = 0;
    return formatSteps(commands);
  };
  const answered = async (): Promise<string> => {
    for (const answer of waiting.splice(0)) answer();
    for (let turns = 0; turns < 20; turns += 1) await null;
    return issued();
  };
  expect(issued()).toBe('w3 w0 w1');
  expect(await answered()).toBe('d|2+2');
  expect(await answered()).toBe('z2+4|');
  expect(await answered()).toBe('w5');
  await answered();
  await done;
});

test('a timeline shows what a resize adds or cuts off, and where the storage ends', async () => {
  const events: TraceEvent[] = [];
  const disk = new IoScheduler(new MemoryStorage(4 * BLOCK), {
    observer: (event) => void events.push(structuredClone(event)),
  });
  await disk.resize(6 * BLOCK);
  await disk.resize(BLOCK);
  expect(formatTimeline(events)).toMatch(
    /^0 z4\+2\| .*\n {2}#0 z4\+2\| .*\n1 d\|1\+5 .*\n {2}#1 d\|1\+5 /,
  );
});

test('given a resize that fails, then those after it fail as well, and the size is that of the storage', async () => {
  const faulty = withFaults(new MemoryStorage(4 * BLOCK), [
    { on: 'writeZeroes', nth: 0, fault: 'fail', error: 'no room' },
  ]);
  const storage = late(faulty, 1);
  const disk = new IoScheduler(storage);
  const work = [
    disk.resize(8 * BLOCK),
    disk.write(6 * BLOCK, block(1)),
    disk.resize(8 * BLOCK),
    disk.resize(9 * BLOCK),
    disk.read(0, BLOCK),
  ];
  const ends = await Promise.allSettled(work);
  expect(ends.map((end) => (end.status === 'rejected' ? end.reason.code : 'done'))).toEqual([
    ...['IO_FAILED', 'IO_FAILED', 'IO_FAILED', 'IO_FAILED', 'done'],
  ]);
  expect([disk.size, storage.size]).toEqual([4 * BLOCK, 4 * BLOCK]);
  // A resize that failed is a write that failed: the next barrier says so, once.
  expect(await codeThrown(() => disk.barrier())).toBe('BARRIER_ABORTED');
  await disk.resize(8 * BLOCK);
  await disk.write(6 * BLOCK, block(1), { barrier: true });
  expect(disk.size).toBe(8 * BLOCK);
});

test('given a cancelled resize, then it is never issued, and the size is that of the storage', async () => {
  const memory = new MemoryStorage(4 * BLOCK);
  let answer: () => void = () => {};
  const held = wrap(memory, async ({ op }, run) => {
    if (op === 'write') await new Promise<void>((resolve) => (answer = resolve));
    return run();
  });
  const disk = new IoScheduler(held);
  const controller = new AbortController();
  const { signal } = controller;
  const writing = disk.write(2 * BLOCK, block(1, 2));
  const cancelled = errorThrown(() => disk.resize(BLOCK, { signal }));
  const later = codeThrown(() => disk.resize(2 * BLOCK));
  controller.abort(new Error('changed my mind'));
  answer();
  await writing;
  expect(await cancelled).toMatchObject({ message: 'changed my mind' });
  expect(await later).toBe('IO_FAILED');
  expect([disk.size, memory.size]).toEqual([4 * BLOCK, 4 * BLOCK]);
  await disk.resize(2 * BLOCK);
  expect(memory.size).toBe(2 * BLOCK);
});

test('the size that it has settles without a command, and a size to come when it is there', async () => {
  let commands = 0;
  const memory = new MemoryStorage(4 * BLOCK);
  const counting = wrap(memory, async (_, run) => {
    commands += 1;
    await null;
    return run();
  });
  const disk = new IoScheduler(counting);
  await disk.resize(4 * BLOCK);
  expect(commands).toBe(0);
  void disk.resize(8 * BLOCK);
  await disk.resize(8 * BLOCK);
  expect([commands, memory.size]).toEqual([1, 8 * BLOCK]);
});

test('what cannot be is refused before anything changes', async () => {
  const memory = new MemoryStorage(4 * BLOCK);
  const disk = new IoScheduler(memory);
  for (const [size, code] of [
    [-BLOCK, 'INVALID_ARGUMENT'],
    [Number.NaN, 'INVALID_ARGUMENT'],
    ['512' as never, 'INVALID_ARGUMENT'],
    [2 ** 53, 'INVALID_ARGUMENT'],
    [BLOCK + 1, 'UNALIGNED'],
  ] as const) {
    expect(await codeThrown(() => disk.resize(size))).toBe(code);
  }
  const misspelt = { signals: 1 } as object;
  for (const size of [0, 4 * BLOCK]) {
    expect(await codeThrown(() => disk.resize(size, misspelt))).toBe('INVALID_ARGUMENT');
    const signal = AbortSignal.abort(new Error('before'));
    expect(await errorThrown(() => disk.resize(size, { signal }))).toEqual(new Error('before'));
  }
  expect([disk.size, memory.size, disk.stats().submitted]).toEqual([4 * BLOCK, 4 * BLOCK, 0]);
  const fixed = new IoScheduler(new MemoryStorage(BLOCK, { capabilities: { resize: false } }));
  expect(await codeThrown(() => fixed.resize(0))).toBe('EOPNOTSUPP');
  await disk.close();
  for (const size of [0, 4 * BLOCK]) {
    expect(await codeThrown(() => disk.resize(size))).toBe('CLOSED');
  }
});

test('given a wrapper that is older than resizes, then the size stays, and that is said', async () => {
  const memory = new MemoryStorage(4 * BLOCK);
  const old: Storage = {
    size: memory.size,
    capabilities: memory.capabilities,
    read: (offset, into) => memory.read(offset, into),
    write: (offset, data, flags) => memory.write(offset, data, flags),
    flush: (flags) => memory.flush(flags),
    close: () => memory.close(),
    writev: (offset, data, flags) => memory.writev?.(offset, data, flags),
    discard: (offset, length) => memory.discard?.(offset, length),
    writeZeroes: (offset, length) => memory.writeZeroes?.(offset, length),
  };
  expect(await codeThrown(() => new IoScheduler(old).resize(0))).toBe('EOPNOTSUPP');
  const member = new SchedulerGroup(old).member();
  expect(await codeThrown(() => member.resize?.(0))).toBe('EOPNOTSUPP');
  expect(memory.size).toBe(4 * BLOCK);
});

test('given a failed flush, then what an unflushed resize added is at risk, and so is what it cut off', async () => {
  for (const [size, range] of [
    [6 * BLOCK, { start: 4 * BLOCK, end: 6 * BLOCK }],
    [BLOCK, { start: BLOCK, end: 4 * BLOCK }],
  ] as const) {
    const storage = withFaults(new MemoryStorage(4 * BLOCK), [
      { on: 'flush', nth: 0, fault: 'fail' },
    ]);
    const disk = new IoScheduler(storage);
    await disk.resize(size);
    expect(await errorThrown(() => disk.flush())).toMatchObject({
      code: 'FLUSH_FAILED',
      atRisk: [range],
    });
    expect(await codeThrown(() => disk.resize(0))).toBe('FAILED');
  }
});

test('as a storage, a scheduler has the size of the storage below while a resize waits, and the new one when it is answered', async () => {
  const storage = new IoScheduler(late(new MemoryStorage(4 * BLOCK), 1)).asStorage();
  const resizing = [storage.resize?.(8 * BLOCK), storage.resize?.(6 * BLOCK)];
  expect(storage.size).toBe(4 * BLOCK);
  await resizing[0];
  expect(storage.size).toBe(8 * BLOCK);
  await resizing[1];
  expect(storage.size).toBe(6 * BLOCK);
});

test('all members of a group see the new size; of two that resize at once one wins, and the other is told', async () => {
  const memory = new MemoryStorage(4 * BLOCK);
  const group = new SchedulerGroup(late(memory, 1));
  const [one, two, three] = [group.member(), group.member(), group.member()];
  const disks = [one, two].map((member) => new IoScheduler(member));
  const reading = disks[1]?.read(0, 4 * BLOCK);
  await disks[0]?.resize(6 * BLOCK);
  await reading;
  expect([one, two, three, ...disks].map(({ size }) => size)).toEqual(new Array(5).fill(6 * BLOCK));
  await disks[1]?.write(5 * BLOCK, block(1));
  const ends = await Promise.all([
    codeThrown(() => disks[0]?.resize(8 * BLOCK)),
    codeThrown(() => disks[1]?.resize(2 * BLOCK)),
  ]);
  expect(ends.sort()).toEqual(['IO_FAILED', undefined]);
  expect([2 * BLOCK, 8 * BLOCK]).toContain(memory.size);
  expect(group.stats().bytesInFlight).toBe(0);
  await group.close();
});

test('given a resize by a terabyte, then it takes no turn from other members', async () => {
  const memory = new MemoryStorage(4 * BLOCK, { capabilities: { resize: false } });
  let size = memory.size;
  const huge: Storage = Object.defineProperties(
    wrap(memory, (_, run) => run()),
    {
      size: { get: () => size },
      capabilities: { value: { ...memory.capabilities, resize: true } },
      resize: {
        value: async (to: number) => {
          await null;
          size = to;
        },
      },
    },
  );
  const group = new SchedulerGroup(huge);
  const [one, two] = [group.member(), group.member()];
  const resizing = one.resize?.(2 ** 40);
  expect([group.stats().inFlight, group.stats().bytesInFlight]).toEqual([1, 0]);
  await two.read(0, block(0));
  await resizing;
  expect(two.size).toBe(2 ** 40);
  expect(group.stats().members.map(({ bytes }) => bytes)).toEqual([0, BLOCK]);
});
