// Goal: no answer of the system, and nothing that a caller does to its buffer, ends the process, hangs a promise or is
// taken for a success that it is not. Method: the functions of node:fs are replaced by ones that throw, answer twice, at
// once, or with nonsense; then real buffers are shrunk and transferred under real calls. An error that is thrown in a
// callback fails the whole run of vitest.

import * as fs from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { IoScheduler, type WriteFlags } from 'write-barrier';
import { type FileCalls, FileStorage } from 'write-barrier/node';
import { CALL_BUFFERS_MAX, CALL_BYTES_MAX } from '../../src/node/calls.js';
import { codeThrown, errorThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const FORCED: WriteFlags = { fua: true, tag: 'simple' };
const SIMPLE = { tag: 'simple' } as const;
const BLOCK = 512;
const SIZE = 16 * BLOCK;
const GIB = 2 ** 30;
const filled = (value: number, blocks = 1): Uint8Array =>
  new Uint8Array(blocks * BLOCK).fill(value);

interface Options {
  readonly size?: number;
  readonly inlineWriteMax?: number;
  readonly blockSize?: number;
}

async function open(calls: Partial<FileCalls> = {}, options: Options = {}): Promise<FileStorage> {
  const path = join(temporaryDirectory(), 'disk.img');
  const storage = await FileStorage.open(path, { size: SIZE, ...options, fs: calls });
  onTestFinished(() => storage.close());
  return storage;
}

type Done = (error: unknown, bytes?: unknown) => void;
/** What a replaced function does: it has the bytes that it was asked to move, and how often it was called before. */
type Temper = (asked: number, done: Done, nth: number) => unknown;

/** All functions that take part in transfers, each with the same temper. */
function tempered(temper: Temper): Partial<FileCalls> {
  let nth = 0;
  const call = (asked: number, done: unknown): unknown =>
    temper(asked, (...answer) => Reflect.apply(Object(done), null, answer), nth++);
  return {
    read: (_fd, _data, _offset, length, _position, done) => void call(length, done),
    write: (_fd, _data, _offset, length, _position, done) => void call(length, done),
    writev: (_fd, list, _position, done) =>
      void call(
        list.reduce((sum, piece) => sum + piece.byteLength, 0),
        done,
      ),
    fdatasync: (_fd, done) => void call(0, done),
  };
}

const COMMANDS: Readonly<Record<string, (storage: FileStorage) => Promise<void>>> = {
  'a read': (storage) => storage.read(0, filled(0, 2)),
  'a write': (storage) => storage.write(0, filled(1, 2), PLAIN),
  'a write of a list': (storage) => storage.writev(0, [filled(1), filled(2)], PLAIN),
  'a write with FUA': (storage) => storage.write(0, filled(1, 2), FORCED),
  'a write of a list with FUA': (storage) => storage.writev(0, [filled(1), filled(2)], FORCED),
  'a flush': (storage) => storage.flush(SIMPLE),
};
const isFlush = (name: string): boolean => name === 'a flush';

describe.each(Object.keys(COMMANDS))('%s, given a function of node:fs', (name) => {
  const command = (storage: FileStorage): Promise<void> =>
    COMMANDS[name]?.(storage) ?? Promise.reject(new Error('unknown'));
  const failure = isFlush(name) ? 'FLUSH_FAILED' : 'IO_FAILED';
  const later = (act: () => void): unknown => setImmediate(act);

  test.each<[string, () => Temper]>([
    [
      'that throws at its first call',
      () => () => {
        throw new Error('as the test wants it');
      },
    ],
    [
      'that throws at its second call, inside the callback of the first',
      () => (_asked, done, nth) => {
        if (nth > 0 || isFlush(name)) throw new Error('as the test wants it');
        later(() => done(null, BLOCK));
      },
    ],
    [
      'that throws undefined',
      () => () => {
        throw undefined;
      },
    ],
    ['that fails with what is no error', () => (_asked, done) => void later(() => done('odd'))],
    [
      'that fails with what has no words',
      () => (_asked, done) => void later(() => done(Object.create(null))),
    ],
    [
      'that fails, and answers again with success',
      () => (asked, done) =>
        void later(() => {
          done(new Error('as the test wants it'));
          done(null, asked);
        }),
    ],
    [
      'that answers an error, and throws as well',
      () => (_asked, done) => {
        done(new Error('as the test wants it'));
        throw new Error('once more');
      },
    ],
  ])('%s, then it fails, and closing ends', async (_, temper) => {
    const storage = await open(tempered(temper()));
    expect(await codeThrown(() => command(storage))).toBe(failure);
    await storage.close();
  });

  test.each<[string, () => Temper]>([
    [
      'that succeeds twice',
      () => (asked, done) =>
        void later(() => {
          done(null, asked);
          done(null, asked);
        }),
    ],
    [
      'that succeeds, and then fails',
      () => (asked, done) =>
        void later(() => {
          done(null, asked);
          done(new Error('too late'));
        }),
    ],
    [
      'that succeeds, and then throws',
      () => (asked, done) => {
        done(null, asked);
        throw new Error('too late');
      },
    ],
    [
      'that says undefined for no error',
      () => (asked, done) => void later(() => done(undefined, asked)),
    ],
  ])('%s, then it succeeds once, and closing ends', async (_, temper) => {
    const storage = await open(tempered(temper()));
    await command(storage);
    await storage.close();
  });

  if (isFlush(name)) return; // it moves no bytes, so it can claim none

  test.each([
    Number.NaN,
    -1,
    0.5,
    Number.POSITIVE_INFINITY,
    2 * BLOCK + 1,
    '512',
    512n,
    undefined,
    null,
    {},
  ])('that claims %s bytes, then it fails', async (bytes) => {
    const storage = await open(tempered((_asked, done) => later(() => done(null, bytes))));
    const error = await errorThrown(() => command(storage));
    expect(error).toMatchObject({
      code: 'IO_FAILED',
      message: expect.stringContaining('reported'),
    });
  });

  test('that answers at once, a byte each time, then no stack overflows', async () => {
    const storage = await open(
      tempered((_asked, done) => done(null, 1)),
      { size: 64 * 1024 },
    );
    const data = new Uint8Array(64 * 1024);
    await storage.write(0, data, PLAIN);
    await storage.read(0, data);
    await storage.writev(0, [data.subarray(0, 5), data.subarray(5)], PLAIN);
  });
});

describe('opening and closing, given a function of node:fs', () => {
  const broken = (name: string): unknown => {
    throw new Error(`${name}: as the test wants it`);
  };
  const path = (): string => join(fs.realpathSync(temporaryDirectory()), 'disk.img');

  test.each(['open', 'fstat', 'ftruncate', 'fsync'] as const)(
    '%s that throws, then open rejects and leaves nothing',
    async (name) => {
      const at = path();
      const calls = { [name]: () => broken(name) };
      expect(await codeThrown(() => FileStorage.open(at, { size: SIZE, fs: calls }))).toBe(
        'IO_FAILED',
      );
      expect(fs.readdirSync(join(at, '..')).filter((left) => left.endsWith('.lock'))).toEqual([]);
    },
  );

  test.each([undefined, null, -1, 0.5, '3', {}])(
    'open that answers the descriptor %s, then open rejects',
    async (fd) => {
      const calls: Partial<FileCalls> = {
        open: (_path, _flags, _mode, done) => Reflect.apply(done, null, [null, fd]),
      };
      expect(await codeThrown(() => FileStorage.open(path(), { size: SIZE, fs: calls }))).toBe(
        'IO_FAILED',
      );
    },
  );

  test('fstat that answers nonsense, then open rejects', async () => {
    const calls: Partial<FileCalls> = {
      fstat: (_fd, _options, done) => Reflect.apply(done, null, [null, {}]),
    };
    expect(await codeThrown(() => FileStorage.open(path(), { size: SIZE, fs: calls }))).toBe(
      'IO_FAILED',
    );
  });

  test('close that throws, then close rejects, and the file is unlocked', async () => {
    const at = path();
    let fails = false;
    const fds: number[] = [];
    const storage = await FileStorage.open(at, {
      size: SIZE,
      fs: {
        close: (fd, done) => {
          if (!fails) return fs.close(fd, done);
          fds.push(fd);
          throw new Error('as the test wants it');
        },
      },
    });
    fails = true;
    expect(await codeThrown(() => storage.close())).toBe('IO_FAILED');
    expect(fs.readdirSync(join(at, '..'))).toEqual(['disk.img']);
    for (const fd of fds) fs.closeSync(fd);
    await (await FileStorage.open(at)).close();
  });
});

describe('calls.P7: a buffer that its owner takes away in flight', () => {
  const MIB = 1 << 20;
  /** Half of what is asked for is moved, and in the meantime something happens. */
  const half =
    (meanwhile: () => void): Temper =>
    (asked, done) =>
      setImmediate(() => {
        meanwhile();
        done(null, Math.ceil(asked / 2));
      });
  const shrink = (buffer: ArrayBuffer, to: number): void =>
    Reflect.apply(Reflect.get(buffer, 'resize'), buffer, [to]);
  const ways: Readonly<Record<string, (buffer: ArrayBuffer) => void>> = {
    shrunk: (buffer) => shrink(buffer, 0),
    'shrunk by a byte': (buffer) => shrink(buffer, buffer.byteLength - 1),
    transferred: (buffer) => void structuredClone(buffer, { transfer: [buffer] }),
  };
  const resizable = (length: number): ArrayBuffer =>
    Reflect.construct(ArrayBuffer, [length, { maxByteLength: length }]);
  const commands: Readonly<
    Record<string, (storage: FileStorage, data: Uint8Array) => Promise<void>>
  > = {
    'a read': (storage, data) => storage.read(0, data),
    'a write': (storage, data) => storage.write(0, data, PLAIN),
    'a write with FUA': (storage, data) => storage.write(0, data, FORCED),
    'a write of a list': (storage, data) =>
      storage.writev(0, [data.subarray(0, BLOCK), data.subarray(BLOCK)], PLAIN),
    'a write of a list with FUA': (storage, data) =>
      storage.writev(0, [data.subarray(0, BLOCK), data.subarray(BLOCK)], FORCED),
  };

  for (const [name, command] of Object.entries(commands)) {
    test.each(Object.keys(ways))(
      `${name} fails with INVALID_ARGUMENT when its buffer is %s between two calls`,
      async (way) => {
        const buffer = resizable(4 * BLOCK);
        const storage = await open(tempered(half(() => ways[way]?.(buffer))));
        const code = codeThrown(() => command(storage, new Uint8Array(buffer, 0, 4 * BLOCK)));
        expect(await code).toBe('INVALID_ARGUMENT');
      },
    );

    test.each(Object.keys(ways))(
      `${name} fails, and nothing else does, when its buffer is %s under a real call`,
      async (way) => {
        const storage = await open({}, { size: 4 * MIB });
        for (let times = 0; times < 20; times += 1) {
          const buffer = resizable(MIB);
          const code = codeThrown(() => command(storage, new Uint8Array(buffer)));
          ways[way]?.(buffer);
          expect(await code).toBe('INVALID_ARGUMENT');
        }
        await storage.write(0, filled(1), PLAIN);
      },
    );
  }

  test('one that is gone before a command begins has no bytes, and so the command moves none', async () => {
    const storage = await open(tempered(() => expect.unreachable()));
    const buffer = new ArrayBuffer(4 * BLOCK);
    const data = new Uint8Array(buffer);
    structuredClone(buffer, { transfer: [buffer] });
    await storage.read(0, data);
    await storage.write(0, data, PLAIN);
    await storage.writev(0, [data, data], PLAIN);
  });

  test('an inline write is made before its owner can', async () => {
    const storage = await open({}, { inlineWriteMax: SIZE });
    const buffer = resizable(4 * BLOCK);
    const data = new Uint8Array(buffer).fill(7);
    const writing = storage.write(0, data, PLAIN);
    shrink(buffer, 0);
    expect(await codeThrown(() => writing)).toBeUndefined();
    const into = filled(0);
    await storage.read(0, into);
    expect(into).toEqual(filled(7));
  });
});

describe('what is no buffer', () => {
  test.each<[unknown]>([[undefined], [null], [7], ['text'], [{ byteLength: BLOCK }], [[1, 2]]])(
    'is refused as an answer and not thrown: %s',
    async (value) => {
      const storage = await open();
      for (const [method, ...rest] of [['read'], ['write', PLAIN], ['writev', PLAIN]]) {
        const call = (): unknown =>
          Reflect.apply(Reflect.get(storage, String(method)), storage, [0, value, ...rest]);
        const answer = call(); // which must not throw
        expect(answer).toBeInstanceOf(Promise);
        const error = await errorThrown(async () => answer);
        expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
      }
    },
  );

  test.each<[unknown]>([[null], [7]])('flags that are no object: %s', async (flags) => {
    const storage = await open();
    for (const data of [filled(1), [filled(1)]]) {
      const method = Array.isArray(data) ? storage.writev : storage.write;
      const call = async (): Promise<unknown> => Reflect.apply(method, storage, [0, data, flags]);
      expect(await codeThrown(call)).toBe('INVALID_ARGUMENT');
    }
  });
});

describe('calls.P6: large requests', () => {
  /** Answers all that it is asked for without touching memory, and says what it was asked for. */
  function bottomless() {
    const asked: {
      readonly position: number;
      readonly length: number;
      readonly buffers: number;
    }[] = [];
    const calls: Partial<FileCalls> = {
      read: (_fd, _data, _offset, length, position, done) => {
        asked.push({ position, length, buffers: 1 });
        setImmediate(done, null, length);
      },
      write: (_fd, _data, _offset, length, position, done) => {
        asked.push({ position, length, buffers: 1 });
        setImmediate(done, null, length);
      },
      writev: (_fd, list, position, done) => {
        const length = list.reduce((sum, { byteLength }) => sum + byteLength, 0);
        asked.push({ position, length, buffers: list.length });
        setImmediate(done, null, length);
      },
    };
    return { asked, calls };
  }
  /** Every byte once, in order, in calls that node:fs takes. */
  function expectWhole(asked: ReturnType<typeof bottomless>['asked'], length: number): void {
    let at = 0;
    for (const call of asked) {
      expect(call.position).toBe(at);
      expect(call.length).toBeGreaterThan(0);
      expect(call.length).toBeLessThanOrEqual(CALL_BYTES_MAX);
      expect(call.buffers).toBeLessThanOrEqual(CALL_BUFFERS_MAX);
      at += call.length;
    }
    expect(at).toBe(length);
  }
  const size = 16 * GIB;

  test.each([1 * GIB, 2 * GIB - BLOCK, 2 * GIB, 2 * GIB + BLOCK, 3.5 * GIB, 4 * GIB - BLOCK])(
    'given %d bytes in one buffer, then no call is asked for more than 1 GiB',
    async (length) => {
      const { asked, calls } = bottomless();
      const storage = await open(calls, { size });
      const data = new Uint8Array(length); // not touched, and so without memory behind it
      await storage.read(0, data);
      expectWhole(asked.splice(0), length);
      await storage.write(0, data, PLAIN);
      expectWhole(asked.splice(0), length);
      if (!storage.capabilities.fua) return;
      await storage.write(0, data, FORCED);
      expectWhole(asked.splice(0), length);
    },
  );

  test.each([
    [4, 4 * GIB - BLOCK],
    [16, GIB],
    [11, 1.5 * GIB - 7],
    [16 * 1024, 1024 * 1024],
  ])('given a list of %d buffers of %d bytes, then so are lists', async (count, length) => {
    const { asked, calls } = bottomless();
    const storage = await open(calls, { size, blockSize: 1 });
    const data = new Uint8Array(length);
    const list = Array.from({ length: count }, () => data).slice(0, Math.floor(size / length));
    await storage.writev(0, list, PLAIN);
    expectWhole(asked, length * list.length);
  });
});

describe('calls.P6: lists with empty buffers, and long ones', () => {
  const EMPTY = new Uint8Array(0);

  test.each([1, 1023, 1024, 1025, 5000])(
    'given %d empty buffers before, between and after, then all is written',
    async (count) => {
      const empties = Array.from({ length: count }, () => EMPTY);
      const storage = await open();
      for (const flags of [PLAIN, ...(storage.capabilities.fua ? [FORCED] : [])]) {
        const list = [...empties, filled(1), ...empties, filled(2), ...empties];
        await storage.writev(BLOCK, list, flags);
        const into = filled(0, 4);
        await storage.read(0, into);
        expect([0, 1, 2, 3].map((i) => into[i * BLOCK])).toEqual([0, 1, 2, 0]);
      }
    },
  );

  test('given empty buffers only, then nothing is asked of the system', async () => {
    const storage = await open(
      tempered(() => {
        throw new Error('asked');
      }),
    );
    for (const count of [0, 1, 5000]) {
      await storage.writev(
        0,
        Array.from({ length: count }, () => EMPTY),
        PLAIN,
      );
    }
    await storage.write(0, EMPTY, PLAIN);
    await storage.read(0, EMPTY);
  });

  // Goal: where a list is cut, nothing is lost or doubled. Method: lists of any shape, longer than a call takes, through
  // a system that takes any part of what it is given.
  test('given any list, and a system that takes parts of it, then the file holds all of it', async () => {
    const path = join(temporaryDirectory(), 'disk.img');
    const piece = fc.oneof(
      { weight: 3, arbitrary: fc.constant(0) },
      { weight: 6, arbitrary: fc.integer({ min: 1, max: 3 }) },
      { weight: 1, arbitrary: fc.integer({ min: 100, max: 2000 }) },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(piece, { minLength: 1, maxLength: 4000, size: 'max' }),
        fc.array(fc.integer({ min: 500, max: 5000 }), { minLength: 1, maxLength: 5 }),
        async (lengths, takes) => {
          const size = Math.max(
            1,
            lengths.reduce((sum, length) => sum + length, 0),
          );
          fs.rmSync(path, { force: true });
          let nth = 0;
          await using storage = await FileStorage.open(path, {
            size,
            blockSize: 1,
            fs: {
              writev: (fd, buffers, position, done) => {
                expect(buffers.length).toBeLessThanOrEqual(CALL_BUFFERS_MAX);
                expect(buffers.every(({ byteLength }) => byteLength > 0)).toBe(true);
                const all = Buffer.concat(buffers);
                const most = takes[nth++ % takes.length] ?? 1;
                fs.write(fd, all, 0, Math.min(most, all.length), position, done);
              },
            },
          });
          const all = Uint8Array.from({ length: size }, (_, i) => (i * 31 + (i >> 8)) & 0xff);
          let at = 0;
          const list = lengths.map((length) => {
            at += length;
            return all.subarray(at - length, at);
          });
          await storage.writev(0, list, PLAIN);
          // Compared in one go, because a matcher looks at each byte by itself.
          expect(Buffer.compare(fs.readFileSync(path).subarray(0, at), all.subarray(0, at))).toBe(
            0,
          );
        },
      ),
      { numRuns: 10 },
    );
  });

  test('given a long list under a scheduler, then it is written as over any other storage', async () => {
    const disk = new IoScheduler(await open({}, { blockSize: 1 }));
    const list = Array.from({ length: SIZE }, (_, i) => new Uint8Array([i]));
    await disk.write(0, list, { fua: true });
    expect(await disk.read(0, SIZE)).toEqual(Uint8Array.from({ length: SIZE }, (_, i) => i));
  });
});
