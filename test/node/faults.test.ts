// What a kernel may answer and hardly ever does. The functions of node:fs are replaced one by one,
// and where the kernel can be made to answer so itself (/dev/full) it does.

import * as fs from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  FlushFailedError,
  IoFailedError,
  IoScheduler,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import { type FileCalls, FileStorage } from 'write-barrier/node';
import { codeThrown, errorThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const FORCED: WriteFlags = { fua: true, tag: 'simple' };
const SIMPLE = { tag: 'simple' } as const;
const BLOCK = 512;
const SIZE = 16 * BLOCK;
const filled = (value: number, blocks = 1): Uint8Array =>
  new Uint8Array(blocks * BLOCK).fill(value);
/** No two bytes near each other are alike, so that a wrong position shows. */
const pattern = (length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, index) => (index * 31 + (index >> 8)) & 0xff);

type Done = (error: NodeJS.ErrnoException | null, ...rest: never[]) => void;

async function open(calls: Partial<FileCalls>, path?: string): Promise<FileStorage> {
  const at = path ?? join(temporaryDirectory(), 'disk.img');
  const storage = await FileStorage.open(at, { size: SIZE, fs: calls });
  onTestFinished(() => storage.close().catch(() => undefined));
  return storage;
}

function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: as the test wants it`), { code });
}

function causeOf(error: unknown): unknown {
  return WriteBarrierError.is(error) ? error.cause : undefined;
}

/** The answers of a kernel, in turn: how many bytes it moves at most, or its error. */
function reluctant(answers: readonly (number | 'EINTR' | 'EAGAIN')[]) {
  let calls = 0;
  const limit = (wanted: number, done: Done): number | undefined => {
    const answer = answers[calls % answers.length] ?? 1;
    calls += 1;
    if (typeof answer === 'number') return Math.min(answer, wanted);
    done(systemError(answer));
    return undefined;
  };
  const calling: Partial<FileCalls> = {
    read: (fd, buffer, offset, length, position, done) => {
      const most = limit(length, done);
      if (most !== undefined) fs.read(fd, buffer, offset, most, position, done);
    },
    write: (fd, buffer, offset, length, position, done) => {
      const most = limit(length, done);
      if (most !== undefined) fs.write(fd, buffer, offset, most, position, done);
    },
    writev: (fd, buffers, position, done) => {
      const all = Buffer.concat(buffers);
      const most = limit(all.length, done);
      if (most !== undefined) fs.write(fd, all, 0, most, position, done);
    },
  };
  return calling;
}

describe('file-storage.F1: transfers', () => {
  // Goal: no way of stopping and starting again loses or doubles a byte. Method: a kernel that
  // moves as little as the list says, and is interrupted in between.
  test('given a kernel that moves parts or is interrupted, then every byte arrives', async () => {
    const answer = fc.oneof(
      fc.integer({ min: 1, max: 700 }),
      fc.constantFrom('EINTR' as const, 'EAGAIN' as const),
    );
    const path = join(temporaryDirectory(), 'disk.img');
    await fc.assert(
      fc.asyncProperty(
        fc
          .array(answer, { minLength: 1, maxLength: 8 })
          .filter((list) => list.some(Number.isInteger)),
        fc.array(fc.nat({ max: 900 }), { maxLength: 4 }),
        async (answers, cuts) => {
          await using storage = await FileStorage.open(path, {
            size: SIZE,
            fs: reluctant(answers),
          });
          const data = pattern(4 * BLOCK);
          await storage.write(BLOCK, data, PLAIN);
          await storage.writev(6 * BLOCK, pieces(data, cuts), PLAIN);
          const into = new Uint8Array(data.length);
          await storage.read(BLOCK, into);
          expect(into).toEqual(data);
          const file = fs.readFileSync(path);
          expect(file.subarray(BLOCK, 5 * BLOCK)).toEqual(Buffer.from(data));
          expect(file.subarray(6 * BLOCK, 10 * BLOCK)).toEqual(Buffer.from(data));
        },
      ),
      { numRuns: 40 },
    );
  });

  test.each(['EINTR', 'EAGAIN'])('give up when %s does not end', async (code) => {
    let calls = 0;
    const never = (...call: unknown[]): void => {
      calls += 1;
      Reflect.apply(Object(call.at(-1)), null, [systemError(code)]);
    };
    const storage = await open({ read: never, write: never, writev: never });
    for (const call of [
      () => storage.read(0, filled(0)),
      () => storage.write(0, filled(1), PLAIN),
      () => storage.writev(0, [filled(1), filled(2)], PLAIN),
    ]) {
      calls = 0;
      const error = await errorThrown(call);
      expect(error).toBeInstanceOf(IoFailedError);
      expect(error).toMatchObject({ code: 'IO_FAILED' });
      expect(causeOf(error)).toMatchObject({ code });
      expect(calls).toBeGreaterThan(1);
      expect(calls).toBeLessThan(1000);
    }
  });

  test('fail when the system takes nothing and names no error', async () => {
    const storage = await open({
      write: (_fd, _data, _at, _length, _position, done) => done(null, 0),
    });
    expect(await codeThrown(() => storage.write(0, filled(1), PLAIN))).toBe('SHORT_TRANSFER');
  });

  test('given a file that was cut, then a read behind its end fails, without zeroes', async () => {
    const path = join(temporaryDirectory(), 'disk.img');
    const storage = await open({}, path);
    await storage.write(0, filled(1, 16), PLAIN);
    fs.truncateSync(path, 3 * BLOCK + 100);
    const into = filled(9, 4);
    expect(await codeThrown(() => storage.read(8 * BLOCK, into))).toBe('SHORT_TRANSFER');
    expect(into).toEqual(filled(9, 4));
    expect(await codeThrown(() => storage.read(2 * BLOCK, into))).toBe('SHORT_TRANSFER');
    await storage.read(2 * BLOCK, into.subarray(0, BLOCK));
    expect(into.subarray(0, BLOCK)).toEqual(filled(1));
  });

  test.skipIf(!fs.existsSync('/dev/full'))(
    'given a full disk, then a write fails as ENOSPC',
    async () => {
      const full = fs.openSync('/dev/full', 'r+');
      onTestFinished(() => fs.closeSync(full));
      const storage = await open({
        write: (_fd, ...call) => fs.write(full, ...call),
        writev: (_fd, ...call) => fs.writev(full, ...call),
      });
      for (const call of [
        () => storage.write(0, filled(1), PLAIN),
        () => storage.write(0, filled(1), FORCED),
        () => storage.writev(0, [filled(1), filled(2)], PLAIN),
      ]) {
        const error = await errorThrown(call);
        expect(error).toMatchObject({
          code: 'IO_FAILED',
          message: expect.stringContaining('ENOSPC'),
        });
        expect(causeOf(error)).toMatchObject({ code: 'ENOSPC' });
      }
    },
  );

  test('a buffer that node:fs refuses fails the command, and closing does not wait for it', async () => {
    const storage = await open({});
    const shared: unknown = { byteLength: BLOCK };
    await expect(Reflect.apply(storage.write, storage, [0, shared, PLAIN])).rejects.toThrow();
    await storage.close();
  });
});

describe('file-storage.F2: a failed flush', () => {
  /** fdatasync fails the first time only, as Linux does it: the error is told once. */
  function failingOnce() {
    const seen = { calls: 0 };
    const calls: Partial<FileCalls> = {
      fdatasync: (fd, done) => {
        seen.calls += 1;
        if (seen.calls === 1) done(systemError('EIO'));
        else fs.fdatasync(fd, done);
      },
    };
    return { seen, calls };
  }

  test('is told as what it is, with the error of the system', async () => {
    const storage = await open(failingOnce().calls);
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'FLUSH_FAILED', message: expect.stringContaining('EIO') });
    expect(causeOf(error)).toMatchObject({ code: 'EIO' });
  });

  test('is a FlushFailedError, the later ones as well, and so is that of a scheduler above', async () => {
    const storage = await open(failingOnce().calls);
    const disk = new IoScheduler(storage);
    await disk.write(0, filled(1));
    const above = await errorThrown(() => disk.flush());
    expect(above).toBeInstanceOf(FlushFailedError);
    expect(above).toMatchObject({ atRisk: [{ start: 0, end: BLOCK }] });
    expect(Object(above).cause).toBeInstanceOf(FlushFailedError);
    expect(Object(above).cause).toMatchObject({ atRisk: [] });
    expect(Object(above).message).toContain(storage.path);
    const later = await errorThrown(() => storage.flush(SIMPLE));
    expect(later).toBeInstanceOf(FlushFailedError);
    await errorThrown(() => disk.close());
  });

  test('makes every later flush fail, without asking the system again', async () => {
    const { seen, calls } = failingOnce();
    const storage = await open(calls);
    await errorThrown(() => storage.flush(SIMPLE));
    await storage.write(0, filled(1), PLAIN);
    for (let times = 0; times < 3; times += 1) {
      const error = await errorThrown(() => storage.flush(SIMPLE));
      expect(error).toMatchObject({ code: 'FLUSH_FAILED' });
      expect(causeOf(error)).toMatchObject({ code: 'EIO' });
    }
    expect(seen.calls).toBe(1);
  });

  test('leaves reading and writing as they were, and poisons no other file', async () => {
    const storage = await open(failingOnce().calls);
    const other = await open({});
    await errorThrown(() => storage.flush(SIMPLE));
    await storage.write(0, filled(6), PLAIN);
    const into = filled(0);
    await storage.read(0, into);
    expect(into).toEqual(filled(6));
    await other.flush(SIMPLE);
  });

  test('is over when the file has been closed and opened again', async () => {
    const path = join(temporaryDirectory(), 'disk.img');
    const { calls } = failingOnce();
    const storage = await open(calls, path);
    await errorThrown(() => storage.flush(SIMPLE));
    await storage.close();
    expect(await codeThrown(() => storage.flush(SIMPLE))).toBe('CLOSED');
    const again = await open(calls, path);
    await again.write(0, filled(1), PLAIN);
    await again.flush(SIMPLE);
  });

  test('is not repeated even for an interruption', async () => {
    let calls = 0;
    const storage = await open({
      fdatasync: (_fd, done) => {
        calls += 1;
        done(systemError('EINTR'));
      },
    });
    expect(await codeThrown(() => storage.flush(SIMPLE))).toBe('FLUSH_FAILED');
    expect(calls).toBe(1);
  });

  test.skipIf(!fs.existsSync('/dev/full'))('may come from a real kernel as well', async () => {
    const full = fs.openSync('/dev/full', 'r+');
    onTestFinished(() => fs.closeSync(full));
    const storage = await open({ fdatasync: (_fd, done) => fs.fdatasync(full, done) });
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(causeOf(error)).toMatchObject({ code: 'EINVAL' });
  });
});

// Goal: where the kernel tells an error to one of two calls, neither may claim success, in whatever
// order the two come back. Method: hold all answers back, then give them in every order.
describe('file-storage.F4: calls that wait for the medium at the same time', () => {
  type Answer = (code?: string) => void;
  function held() {
    const answers: Answer[] = [];
    const calls: Partial<FileCalls> = {
      fdatasync: (_fd, done) => {
        answers.push((code) => done(code === undefined ? null : systemError(code)));
      },
      write: (_fd, _data, _offset, length, _position, done) => {
        answers.push((code) => done(code === undefined ? null : systemError(code), length));
      },
    };
    return { answers, calls };
  }
  const kinds = {
    flush: (storage: FileStorage) => storage.flush(SIMPLE),
    'write with FUA': (storage: FileStorage) => storage.write(0, filled(1), FORCED),
  };
  const orders = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ];

  for (const [kind, call] of Object.entries(kinds)) {
    test.each(orders)(
      `a ${kind}: all fail if one fails, answered in the order %d %d %d`,
      async (...order) => {
        const { answers, calls } = held();
        const storage = await open(calls);
        const all = [0, 1, 2].map(() => codeThrown(() => call(storage)));
        expect(answers.length).toBe(3);
        for (const nth of order) {
          answers[nth]?.(nth === 1 ? 'EIO' : undefined);
          await new Promise(setImmediate);
        }
        expect(new Set(await Promise.all(all))).toEqual(
          new Set([kind === 'flush' ? 'FLUSH_FAILED' : 'IO_FAILED']),
        );
      },
    );

    test(`a ${kind}: succeeds with those that it met, and waits for no later one`, async () => {
      const { answers, calls } = held();
      const storage = await open(calls);
      const [first, second] = [call(storage), call(storage)];
      answers[0]?.();
      await new Promise(setImmediate);
      const third = call(storage);
      answers[1]?.();
      await first;
      answers[2]?.();
      await Promise.all([second, third]);
    });
  }

  test('given a write with FUA that is refused, then others in flight do not suffer', async () => {
    const { answers, calls } = held();
    const storage = await open(calls);
    const writing = storage.write(0, filled(1), FORCED);
    expect(await codeThrown(() => storage.write(SIZE, filled(1), FORCED))).toBe('OUT_OF_RANGE');
    answers[0]?.();
    await writing;
  });

  test('given a plain write that fails, then one with FUA beside it does not suffer', async () => {
    const { answers, calls } = held();
    const storage = await open(calls);
    const plain = codeThrown(() => storage.write(BLOCK, filled(1), PLAIN));
    const forced = storage.write(0, filled(1), FORCED);
    answers[0]?.('ENOSPC');
    answers[1]?.();
    await forced;
    expect(await plain).toBe('IO_FAILED');
  });
});

test('case 73: given two who have the file open, when writing back fails once, then each hears it, and its later successes are not believed', async () => {
  // As Linux since 4.13: an error is told to every descriptor that was open then, by its next sync.
  let errors = 0;
  const told = new Map<number, number>();
  const answers: string[] = [];
  const path = join(temporaryDirectory(), 'disk.img');
  const opened = async (): Promise<FileStorage> =>
    FileStorage.open(path, {
      size: SIZE,
      lock: 'none',
      fs: {
        fdatasync: (fd, done) => {
          const fresh = errors > (told.get(fd) ?? 0);
          told.set(fd, errors);
          answers.push(fresh ? 'EIO' : 'success');
          done(fresh ? systemError('EIO') : null);
        },
      },
    });
  await using one = await opened();
  await using other = await opened();
  await one.write(0, filled(1), PLAIN);
  errors += 1;
  const codes: (string | undefined)[] = [];
  for (const storage of [one, other, one, other]) {
    codes.push(await codeThrown(() => storage.flush(SIMPLE)));
  }
  expect(codes).toEqual(Array.from({ length: 4 }, () => 'FLUSH_FAILED'));
  expect(answers).toEqual(['EIO', 'EIO']);
});

test('case 70: given a write and a flush started together over a pool of threads, then the sync waits for the write', async () => {
  const calls: string[] = [];
  let answer = (): void => {};
  const storage = await open({
    write: (_fd, _data, _offset, length, _position, done) => {
      calls.push('write');
      answer = () => done(null, length);
    },
    fdatasync: (_fd, done) => {
      calls.push('sync');
      done(null);
    },
  });
  const disk = new IoScheduler(storage);
  const write = disk.write(0, filled(1));
  const flush = disk.flush();
  await new Promise(setImmediate);
  expect(calls).toEqual(['write']);
  answer();
  await Promise.all([write, flush]);
  expect(calls).toEqual(['write', 'sync']);
});

/** The bytes in pieces of the given lengths, empty ones too, and the rest. */
function pieces(data: Uint8Array, lengths: readonly number[]): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let at = 0;
  for (const length of lengths) {
    parts.push(data.subarray(at, at + length));
    at = Math.min(at + length, data.length);
  }
  return [...parts, data.subarray(at)];
}
