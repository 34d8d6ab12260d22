// What a directory holds, refuses and costs, without power cuts: those are in crash.test.ts.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage, withFaults } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { share } from '../kit/amount.js';
import { codeThrown } from '../storage/contract.js';
import {
  BLOCK,
  carryOut,
  contentsOf,
  directoryOn,
  Model,
  ops,
  pairsOf,
  SMALL,
  sizeOf,
} from './world.js';

const bytes = (length: number, fill: number): Uint8Array => new Uint8Array(length).fill(fill);
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe('given any operations', () => {
  test('when they are carried out and the directory is opened again, then it holds what a plain model holds', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(ops, { maxLength: 40 }),
        fc.nat({ max: 40 }),
        async (program, reopenAt) => {
          const disk = new MemoryStorage(bytes(sizeOf(60), 0));
          let files = await directoryOn(disk, SMALL);
          const all = files.free;
          const model = new Model();
          for (const [n, op] of program.entries()) {
            await carryOut(files, op);
            model.apply(op);
            if (n !== reopenAt) continue;
            await files.close();
            files = await directoryOn(disk);
            expect(await contentsOf(files)).toBe(model.text);
          }
          expect(await contentsOf(files)).toBe(model.text);
          const used = [...model.files.values()].map(({ length }) => Math.ceil(length / BLOCK));
          expect(files.free).toBe(all - used.reduce((sum, blocks) => sum + blocks, 0) * BLOCK);
          await files.close();
          expect(await contentsOf(await directoryOn(disk))).toBe(model.text);
        },
      ),
      { numRuns: share(300, 60) },
    );
  });

  test('when they are called without waiting, then each takes effect in its turn', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(ops, { maxLength: 25 }), async (program) => {
        const files = await directoryOn(new MemoryStorage(sizeOf(100)), SMALL);
        const handles = new Map(
          await Promise.all(
            ['a', 'b', 'c'].map(async (name) => [name, await files.open(name)] as const),
          ),
        );
        const model = new Model();
        for (const name of handles.keys()) model.apply({ op: 'truncate', name, size: 0 });
        const called: Promise<unknown>[] = [];
        for (const op of program) {
          if (op.op === 'remove' || op.op === 'rename') continue;
          model.apply(op);
          if (op.op === 'sync' || op.op === 'writeOut') called.push(files[op.op]());
          else {
            const file = handles.get(op.name);
            const data = bytes('length' in op ? op.length : 0, 'fill' in op ? op.fill : 0);
            if (op.op === 'truncate') called.push(file?.truncate(op.size) as Promise<void>);
            if (op.op === 'append') called.push(file?.append(data) as Promise<number>);
            if (op.op === 'writeAll')
              called.push(file?.writeAll(pairsOf(op.writes)) as Promise<void>);
            if (op.op === 'write') called.push(file?.write(op.at, data) as Promise<void>);
          }
        }
        await Promise.all(called);
        expect(await contentsOf(files)).toBe(model.text);
      }),
      { numRuns: share(200, 40) },
    );
  });
});

describe('a file', () => {
  const opened = async (disk: Storage = new MemoryStorage(sizeOf(60))) => {
    const files = await directoryOn(disk, SMALL);
    return { files, file: await files.open('file') };
  };

  test('is read up to its end, and appends at once have places of their own', async () => {
    const { file } = await opened();
    expect(await Promise.all([file.append(text('one')), file.append(text('two'))])).toEqual([0, 3]);
    expect(new TextDecoder().decode(await file.read(1, 100))).toBe('netwo');
    expect(await file.read(6, 10)).toHaveLength(0);
    expect(await file.read(1000, 10)).toHaveLength(0);
  });

  // directory.D4: the disk is full of old bytes, and few blocks are used again and again.
  test('shows zeroes where it was never written, whatever was there before', async () => {
    const disk = new MemoryStorage(bytes(sizeOf(6), 0));
    disk.bytes.fill(0xee, 8192);
    const { files } = await opened(disk);
    const isZero = (data: Uint8Array): boolean => data.every((byte) => byte === 0);
    for (let round = 0; round < 4; round++) {
      const file = await files.open('file');
      await file.write(0, bytes(4 * BLOCK, 7));
      await files.sync();
      await file.truncate(10);
      await file.write(3 * BLOCK, bytes(1, 9));
      const read = await file.read(0, 4 * BLOCK);
      expect(read).toHaveLength(3 * BLOCK + 1);
      expect(read.subarray(0, 10)).toEqual(bytes(10, 7));
      expect(isZero(read.subarray(10, 3 * BLOCK))).toBe(true);
      await files.remove('file');
      const other = await files.open('other');
      await other.truncate(6 * BLOCK);
      expect(isZero(await other.read(0, 6 * BLOCK))).toBe(true);
      await files.remove('other');
    }
  });

  test('that was removed is refused, also when another has its name', async () => {
    const { files, file } = await opened();
    await files.remove('file');
    expect(await codeThrown(() => file.read(0, 1))).toBe('INVALID_ARGUMENT');
    const other = await files.open('file');
    expect(other).not.toBe(file);
    expect(await codeThrown(() => file.write(0, bytes(1, 1)))).toBe('INVALID_ARGUMENT');
    expect(other.size).toBe(0);
  });

  test('keeps its bytes under another name, and the file that had it is gone', async () => {
    const { files, file } = await opened();
    await file.append(text('new'));
    await (await files.open('target')).append(bytes(2000, 1));
    const { free } = files;
    await files.rename('file', 'target');
    expect(files.names).toEqual(['target']);
    expect([file.name, file.size]).toEqual(['target', 3]);
    expect(await files.open('target')).toBe(file);
    expect(files.free).toBe(free + 4 * BLOCK);
  });

  test('that does not fit is refused before anything has changed', async () => {
    const { files, file } = await opened(new MemoryStorage(sizeOf(6)));
    await file.write(0, bytes(3 * BLOCK, 1));
    const { free } = files;
    expect(await codeThrown(() => file.append(bytes(4 * BLOCK, 2)))).toBe('NO_SPACE');
    expect(await codeThrown(() => file.truncate(2 ** 40))).toBe('NO_SPACE');
    expect([file.size, files.free]).toEqual([3 * BLOCK, free]);
    await Promise.all(['b', 'c', 'd'].map((name) => files.open(name)));
    expect(await codeThrown(() => files.open('e'))).toBe('NO_SPACE');
    expect(files.names).toHaveLength(4);
  });

  test('takes ranges together in any order, over each other and behind its end, and nothing of what is refused', async () => {
    const { files, file } = await opened();
    await file.append(bytes(700, 1));
    await file.writeAll([
      [2000, bytes(3, 5)],
      [10, bytes(20, 2)],
      [0, bytes(0, 9)],
      [15, bytes(2, 3)],
      [690, bytes(20, 4)],
    ]);
    const text = 'file: 10x1 5x2 2x3 13x2 660x1 20x4 1290x0 3x5';
    expect(await contentsOf(files)).toBe(text);
    const wrong: readonly (readonly [writes: unknown, code: string])[] = [
      [
        [
          [0, bytes(1, 9)],
          [-1, bytes(1, 9)],
        ],
        'INVALID_ARGUMENT',
      ],
      [
        [
          [0, bytes(1, 9)],
          [5, 'text'],
        ],
        'INVALID_ARGUMENT',
      ],
      [[[0, bytes(1, 9)], 7], 'INVALID_ARGUMENT'],
      ['all', 'INVALID_ARGUMENT'],
      // More than the log holds at once, and more than there is.
      [
        [
          [0, bytes(1, 9)],
          [100, bytes(20 * BLOCK, 9)],
        ],
        'NO_SPACE',
      ],
      [
        [
          [0, bytes(1, 9)],
          [2 ** 40, bytes(1, 9)],
        ],
        'NO_SPACE',
      ],
    ];
    for (const [writes, code] of wrong) {
      expect(await codeThrown(() => file.writeAll(writes as never))).toBe(code);
      expect(await contentsOf(files)).toBe(text);
    }
    await file.writeAll([]);
    expect(file.size).toBe(2003);
  });

  // directory.D5: what the ranges leave of their blocks is read first.
  test('has nothing of ranges of which one could not be read', async () => {
    const memory = new MemoryStorage(sizeOf(60));
    const made = await directoryOn(memory, SMALL);
    await (await made.open('file')).append(bytes(20 * BLOCK, 1));
    await made.close();
    await (await directoryOn(memory)).close();
    const ranges = [0, 4, 8].map((block) => [block * BLOCK + 5, bytes(1, 9)] as const);
    const outcomes: string[] = [];
    for (let nth = 1; nth < 30; nth++) {
      const failing = withFaults(new MemoryStorage(memory.bytes.slice()), [
        { on: 'read', nth, fault: 'fail' },
      ]);
      const files = await directoryOn(failing).catch(() => undefined);
      if (!files) continue;
      const file = await files.open('file');
      const code = await codeThrown(() => file.writeAll(ranges));
      const isChanged = (await file.read(5, 1)).join() === '9';
      outcomes.push(`${code === undefined ? 'answered' : 'refused'}, ${isChanged}`);
      if (code === undefined) break;
    }
    expect([...new Set(outcomes)]).toEqual(['refused, false', 'answered, true']);
  });

  test('may be larger than the log', async () => {
    const { files, file } = await opened();
    const data = Uint8Array.from({ length: 50 * BLOCK + 3 }, (_, i) => i >> 3);
    await file.write(7, data);
    await files.sync();
    expect(Buffer.compare(await file.read(7, data.length), data)).toBe(0);
    await files.remove('file');
    expect(files.free).toBe(60 * BLOCK);
  });
});

describe('a directory', () => {
  test('refuses what it cannot do, with a code', async () => {
    const disk = new MemoryStorage(sizeOf(10));
    const files = await directoryOn(disk, SMALL);
    const file = await files.open('a');
    const wrong: readonly (() => unknown)[] = [
      () => directoryOn(new MemoryStorage(sizeOf(10))),
      () => directoryOn(new MemoryStorage(bytes(sizeOf(10), 1)), SMALL),
      () => directoryOn(new MemoryStorage(512), SMALL),
      () => directoryOn(new MemoryStorage(sizeOf(0)), SMALL),
      () => directoryOn(new MemoryStorage(sizeOf(10)), { ...SMALL, logSize: 2 * BLOCK }),
      () => directoryOn(new MemoryStorage(sizeOf(10)), { ...SMALL, blockSize: 700 }),
      () => directoryOn(new MemoryStorage(disk.bytes.subarray(0, sizeOf(9)))),
      () => files.open(''),
      () => files.open('x'.repeat(113)),
      () => files.open(7 as never),
      () => files.remove('missing'),
      () => files.rename('missing', 'b'),
      () => files.rename('a', ''),
      () => file.write(-1, bytes(1, 1)),
      () => file.write(0, 'text' as never),
      () => file.read(0.5, 1),
      () => file.read(0, -1),
      () => file.truncate(Number.NaN),
    ];
    for (const call of wrong)
      expect([`${call}`, await codeThrown(call)]).toEqual([`${call}`, 'INVALID_ARGUMENT']);
    expect(files.names).toEqual(['a']);
    await files.close();
    expect(await codeThrown(() => files.sync())).toBe('CLOSED');
    expect(await codeThrown(() => file.read(0, 1))).toBe('CLOSED');
    await files.close();
  });

  test('needs a mode that orders what is on the medium', async () => {
    const storage = new MemoryStorage(sizeOf(10), { capabilities: { cache: 'none' } });
    const scheduler = new IoScheduler(storage, { mode: 'NONE' });
    expect(await codeThrown(() => Directory.open(scheduler, SMALL))).toBe('EOPNOTSUPP');
  });

  test('has names of any characters, and as many files as it was made for', async () => {
    const disk = new MemoryStorage(sizeOf(10));
    const files = await directoryOn(disk, SMALL);
    const names = ['ä/ö', ' ', '\0', '💾'.repeat(28)];
    for (const name of names) await files.open(name);
    await files.close();
    expect((await directoryOn(disk)).names.sort()).toEqual(names.sort());
  });

  test('made with its defaults holds files on a disk of a megabyte and of a gigabyte', async () => {
    for (const size of [1 << 20, 1 << 30]) {
      const disk = new MemoryStorage(size);
      const files = await directoryOn(disk, { create: true });
      await (await files.open('a')).write(0, bytes(100_000, 3));
      await files.close();
      const again = await directoryOn(disk);
      expect((await (await again.open('a')).read(99_999, 10)).join()).toBe('3');
      expect(again.free).toBeGreaterThan(0.75 * size);
    }
  });

  test('asks for one flush a sync, for all files, and for none if nothing has changed', async () => {
    const disk = new IoScheduler(new MemoryStorage(1 << 20));
    const files = await Directory.open(disk, { create: true });
    const [a, b] = [await files.open('a'), await files.open('b')];
    const flushesOf = async (act: () => Promise<unknown>): Promise<number> => {
      const before = disk.stats().commands.flush;
      await act();
      return disk.stats().commands.flush - before;
    };
    expect(
      await flushesOf(async () => {
        await Promise.all([
          a.append(bytes(10, 1)),
          b.append(bytes(9000, 2)),
          a.append(bytes(5, 3)),
        ]);
        await files.sync();
      }),
    ).toBe(1);
    expect(await flushesOf(() => files.sync())).toBe(0);
    expect(
      await flushesOf(() =>
        Promise.all(
          Array.from({ length: 16 }, async (_, n) => {
            await a.append(bytes(10, n));
            await files.sync();
          }),
        ),
      ),
    ).toBe(1);
    expect(
      await flushesOf(async () => {
        await a.append(bytes(10, 1));
        await files.writeOut();
      }),
    ).toBe(0);
    expect(await flushesOf(() => files.sync())).toBe(1);
  });

  test('that has lost a command refuses everything until it is opened again, and then has what was durable', async () => {
    for (const fault of [
      { on: 'write', nth: 4 },
      { on: 'flush', nth: 3 },
    ] as const) {
      const memory = new MemoryStorage(sizeOf(20));
      const files = await directoryOn(withFaults(memory, [{ ...fault, fault: 'fail' }]), SMALL);
      const file = await files.open('a');
      await file.append(bytes(5, 1));
      const outcomes: (string | undefined)[] = [];
      for (let n = 0; n < 4; n++) {
        outcomes.push(
          await codeThrown(async () => {
            await file.append(bytes(5, 2));
            await files.sync();
          }),
        );
      }
      const failedAt = outcomes.findIndex((code) => code !== undefined);
      expect(failedAt).toBeGreaterThanOrEqual(0);
      expect(outcomes.slice(failedAt + 1).every((code) => code === 'FAILED')).toBe(true);
      expect(await codeThrown(() => file.read(0, 1))).toBe('FAILED');
      const again = await directoryOn(memory);
      expect((await again.open('a')).size).toBeGreaterThanOrEqual(5 * failedAt);
    }
  });
});

test('given a buffer that loses its bytes while its write waits, then the write is refused and the file is as it was', async () => {
  const files = await directoryOn(new MemoryStorage(sizeOf(20)), SMALL);
  const file = await files.open('a');
  await file.append(bytes(5, 1));
  const data = bytes(5, 2);
  const syncing = files.sync();
  const written = codeThrown(() => file.append(data));
  structuredClone(data.buffer, { transfer: [data.buffer] });
  expect(await written).toBe('INVALID_ARGUMENT');
  await syncing;
  expect([...(await file.read(0, 10))]).toEqual([1, 1, 1, 1, 1]);
});

test.each([
  ['a storage', new MemoryStorage(1 << 16)],
  ['a promise', Promise.resolve()],
  ['nothing', undefined],
])(
  'given %s in the place of a scheduler, when a directory is opened, then the message asks for one',
  async (_, disk) => {
    await expect(Directory.open(disk as never, { create: true })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('disk must be an IoScheduler'),
    });
  },
);
