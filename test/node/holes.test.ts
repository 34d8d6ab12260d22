// Trims and holes of real files: file-storage.F7 and F8, and what happens where the package or the file system cannot trim. What
// other programs make of it is in test/interop.

import fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { IoScheduler } from '../../src/index.js';
import { loadPlatformLock } from '../../src/node/file-lock.js';
import { FileStorage } from '../../src/node/index.js';
import { codeThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const KIB = 1024;
const CHUNK = 64 * KIB;
const SIZE = 4 * CHUNK;
const PLAIN = { fua: false, tag: 'simple' } as const;
const LINUX = process.platform === 'linux';
const newPath = (): string => join(temporaryDirectory(), 'disk.img');
const ones = (length: number): Uint8Array => new Uint8Array(length).fill(1);
const error = (code: string): Error => Object.assign(new Error(code), { code });
/** The space that a file takes, in bytes. */
const spaceOf = (path: string): number => fs.statSync(path).blocks * 512;

async function map(storage: FileStorage): Promise<string> {
  const extents = (await storage.blockStatus?.(0, storage.size)) ?? [];
  return extents.map(({ length, hole }) => (hole ? '.' : 'x').repeat(length / CHUNK)).join('');
}

/** A file that existed before, full of ones. */
function full(): string {
  const path = newPath();
  fs.writeFileSync(path, ones(SIZE));
  return path;
}

describe('file-storage.F8: what is known of a file', () => {
  test('a new one is a hole until it is written', async () => {
    await using storage = await FileStorage.open(newPath(), { size: SIZE });
    expect(await map(storage)).toBe('....');
    await storage.write(CHUNK + 512, ones(512), PLAIN);
    expect(await map(storage)).toBe('.x..');
    await storage.writev(2 * CHUNK, [ones(CHUNK), ones(512)], PLAIN);
    expect(await map(storage)).toBe('.xxx');
    if (storage.capabilities.fua) await storage.write(0, ones(512), { fua: true, tag: 'simple' });
    expect(await map(storage)).toBe(LINUX ? 'xxxx' : '.xxx');
  });

  test('one that was there is unknown, and what an opening adds to it is a hole', async () => {
    const path = full();
    {
      await using storage = await FileStorage.open(path);
      expect(await map(storage)).toBe('xxxx');
    }
    await using longer = await FileStorage.open(path, { size: 6 * CHUNK });
    expect(await map(longer)).toBe('xxxx..');
  });

  test('a write counts from its call on, also if it fails', async () => {
    const written = (
      _: unknown,
      __: unknown,
      ___: unknown,
      ____: unknown,
      _____: unknown,
      done: (e: Error) => void,
    ) => setImmediate(done, error('EIO'));
    const options = { size: SIZE, fs: { write: written as never } };
    await using storage = await FileStorage.open(newPath(), options);
    const writing = storage.write(0, ones(512), PLAIN);
    expect(await map(storage)).toBe('x...');
    expect(await codeThrown(() => writing)).toBe('IO_FAILED');
    expect(await map(storage)).toBe('x...');
  });

  test('nothing is known where others may write', async () => {
    const path = full();
    for (const options of [{ lock: 'none' }, { readOnly: true }] as const) {
      await using storage = await FileStorage.open(path, options);
      expect([storage.capabilities.blockStatus, storage.blockStatus]).toEqual([false, undefined]);
    }
  });

  test('a scheduler has it wait for the writes before it', async () => {
    const disk = new IoScheduler(await FileStorage.open(newPath(), { size: SIZE }));
    const writing = disk.write(CHUNK, ones(512));
    const extents = await disk.blockStatus(0, SIZE);
    expect(extents.map(({ length, zero }) => [length / CHUNK, zero])).toEqual([
      [1, true],
      [1, false],
      [2, true],
    ]);
    await writing;
    await disk.close();
  });
});

describe.runIf(LINUX)('file-storage.F7: a discard', () => {
  test.each(['discard', 'writeZeroes'] as const)(
    'by %s frees blocks, which read as zero, also when opened again',
    async (op) => {
      const path = full();
      {
        await using storage = await FileStorage.open(path);
        const before = spaceOf(path);
        await storage[op]?.(CHUNK, 2 * CHUNK);
        expect(before - spaceOf(path)).toBe(2 * CHUNK);
        expect(await map(storage)).toBe('x..x');
        await storage.flush({ tag: 'simple' });
        await storage.write(2 * CHUNK, ones(512), PLAIN);
        expect(await map(storage)).toBe('x.xx');
      }
      const expected = ones(SIZE)
        .fill(0, CHUNK, 3 * CHUNK)
        .fill(1, 2 * CHUNK, 2 * CHUNK + 512);
      expect(Buffer.compare(fs.readFileSync(path), expected)).toBe(0);
    },
  );

  test('of a part of a page zeroes just its bytes', async () => {
    const path = full();
    await using storage = await FileStorage.open(path);
    await storage.discard?.(512, 1024);
    const expected = ones(SIZE).fill(0, 512, 1536);
    expect(Buffer.compare(fs.readFileSync(path), expected)).toBe(0);
    expect(await map(storage)).toBe('xxxx');
  });

  test('goes with fast zeroes, and both are absent where the package is, or where the file system refuses', async () => {
    const platform = await loadPlatformLock();
    const { tryLock } = platform;
    for (const [loadLock, has] of [
      [() => platform, true],
      [() => Promise.reject(new Error('no package')), false],
      [() => ({ tryLock }), false],
      [() => ({ tryLock, trim: () => Promise.reject(error('EOPNOTSUPP')) }), false],
    ] as const) {
      await using storage = await FileStorage.open(newPath(), { size: SIZE, fs: { loadLock } });
      const { discard, writeZeroes, fastZeroes } = storage.capabilities;
      expect([discard, writeZeroes, fastZeroes]).toEqual([has, has, has]);
      expect([typeof storage.discard, typeof storage.writeZeroes]).toEqual(
        Array(2).fill(has ? 'function' : 'undefined'),
      );
    }
    await using reading = await FileStorage.open(full(), { readOnly: true });
    expect(reading.capabilities.discard).toBe(false);
  });

  test('is offered without a change of the times of a file that was there', async () => {
    const path = full();
    const before = fs.statSync(path, { bigint: true });
    const folder = fs.readdirSync(join(path, '..'));
    const storage = await FileStorage.open(path);
    expect(storage.capabilities.discard).toBe(true);
    await storage.close();
    const after = fs.statSync(path, { bigint: true });
    expect([after.mtimeNs, after.ctimeNs]).toEqual([before.mtimeNs, before.ctimeNs]);
    expect(fs.readdirSync(join(path, '..'))).toEqual(folder);
  });

  test.each([
    ['has no files without names', 'EOPNOTSUPP'],
    ['may not be written by this user', 'EACCES'],
    ['is on another file system', ''],
  ])('is found out by the file itself if its folder %s', async (_, code) => {
    const path = full();
    const { tryLock, trim } = await loadPlatformLock();
    const others = new Set<number>();
    const asked: boolean[] = [];
    const calls = {
      open: ((name, flags, mode, done) => {
        if (name !== join(path, '..')) fs.open(name, flags, mode, done);
        else if (code) setImmediate(done, error(code), -1);
        else {
          // Names a device that is never that of the file.
          fs.open('/dev/null', 'r', (failure, fd) => {
            others.add(fd);
            done(failure, fd);
          });
        }
      }) as typeof fs.open,
      close: ((fd, done) => {
        others.delete(fd);
        fs.close(fd, done);
      }) as typeof fs.close,
      loadLock: () => ({
        tryLock,
        trim: async (fd: number, ...range: [number, number]) => {
          asked.push(fs.fstatSync(fd).ino === fs.statSync(path).ino);
          await trim?.(fd, ...range);
        },
      }),
    };
    await using storage = await FileStorage.open(path, { fs: calls });
    expect(storage.capabilities.discard).toBe(true);
    expect([asked, others.size]).toEqual([[true], 0]);
    expect(Buffer.compare(fs.readFileSync(path), ones(SIZE))).toBe(0);
  });

  test('calls.P2: is made again after EINTR, and any other failure is told with the code of the system', async () => {
    const { tryLock } = await loadPlatformLock();
    const answers = ['EINTR', 'EAGAIN', '', 'EIO'];
    let probed = false;
    const trim = async (): Promise<void> => {
      const code = probed ? (answers.shift() ?? '') : '';
      probed = true;
      if (code) throw error(code);
    };
    const options = { size: SIZE, fs: { loadLock: () => ({ tryLock, trim }) } };
    await using storage = await FileStorage.open(newPath(), options);
    await storage.write(0, ones(SIZE), PLAIN);
    await storage.discard?.(0, CHUNK);
    expect(await map(storage)).toBe('.xxx');
    await expect(storage.discard?.(CHUNK, CHUNK)).rejects.toMatchObject({
      code: 'IO_FAILED',
      cause: { code: 'EIO' },
    });
    expect(await map(storage)).toBe('.xxx');
  });

  test('file-storage.F6: is waited for by close', async () => {
    const { tryLock } = await loadPlatformLock();
    let end = (): void => {};
    let probed = false;
    const trim = (): Promise<void> => {
      if (!probed) {
        probed = true;
        return Promise.resolve();
      }
      return new Promise((resolve) => {
        end = resolve;
      });
    };
    const options = { size: SIZE, fs: { loadLock: () => ({ tryLock, trim }) } };
    const storage = await FileStorage.open(newPath(), options);
    const order: string[] = [];
    const trimming = storage.discard?.(0, CHUNK).then(() => order.push('trimmed'));
    const closing = storage.close().then(() => order.push('closed'));
    await new Promise(setImmediate);
    end();
    await Promise.all([trimming, closing]);
    expect(order).toEqual(['trimmed', 'closed']);
    expect(await codeThrown(() => storage.discard?.(0, CHUNK))).toBe('CLOSED');
  });
});
