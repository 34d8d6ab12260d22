// What a file of the origin's file system does as a storage, over a fake of the browser's interface that fails when it is told to. The
// interface of a real browser is tested in test/browser.

import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { IoScheduler } from 'write-barrier';
import { OpfsStorage, type OpfsStorageOptions } from 'write-barrier/opfs';
import { storageContract } from 'write-barrier/testing';
import { exception, FakeOrigin } from './fake.js';

const SIZE = 64 * 512;
const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const bytes = (value: number): Uint8Array => new Uint8Array(512).fill(value);

const opened = (
  fs: FakeOrigin,
  options: OpfsStorageOptions = { size: SIZE },
  path = 'store.db',
): Promise<OpfsStorage> => OpfsStorage.open(path, { fs, ...options });
const codeOf = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'works',
    ({ code }) => code,
  );
const thrown = (call: () => unknown): { code?: string; message?: string; cause?: unknown } => {
  try {
    call();
  } catch (error) {
    return error as Error;
  }
  return {};
};

const capabilities = (await opened(new FakeOrigin())).capabilities;

storageContract(
  { describe, test },
  {
    name: 'OpfsStorage',
    capabilities,
    open: async () => {
      const fs = new FakeOrigin();
      const storage = await opened(fs);
      const reopen = (): Promise<OpfsStorage> => {
        storage.close();
        return opened(fs, {});
      };
      return { storage, reopen };
    },
  },
);

describe('opening', () => {
  test('creates a missing file with its folders, and extends a shorter one durably', async () => {
    const fs = new FakeOrigin();
    (await opened(fs, { size: 512 }, 'app/data/store.db')).close();
    expect([...fs.folders]).toEqual(['', 'app', 'app/data']);
    expect(fs.calls).toEqual(['truncate', 'flush', 'close']);
    const storage = await opened(fs, { size: 1024 }, '/app/data/store.db');
    expect(storage.size).toBe(1024);
  });

  test('takes the size of a file that is there', async () => {
    const fs = new FakeOrigin();
    (await opened(fs)).close();
    expect((await opened(fs, {})).size).toBe(SIZE);
  });

  test.each([
    ['a missing file without a size', 'INVALID_ARGUMENT', {}, 'other.db'],
    ['a missing folder without a size', 'INVALID_ARGUMENT', {}, 'folder/other.db'],
    ['a folder', 'INVALID_ARGUMENT', { size: SIZE }, 'folder'],
    ['a file as a folder', 'INVALID_ARGUMENT', { size: SIZE }, 'store.db/inner'],
    ['a path that climbs', 'INVALID_ARGUMENT', { size: SIZE }, '../store.db'],
    ['an empty path', 'INVALID_ARGUMENT', { size: SIZE }, '/'],
    ['a size that would cut the file', 'INVALID_ARGUMENT', { size: 512 }, 'store.db'],
    ['blocks that do not fit', 'INVALID_ARGUMENT', { blockSize: 5000 }, 'store.db'],
    ['create without a size', 'INVALID_ARGUMENT', { create: true }, 'other.db'],
    ['an unknown option', 'INVALID_ARGUMENT', { sizes: 1 } as object, 'store.db'],
  ])('refuses %s, and changes nothing', async (_, code, options, path) => {
    const fs = new FakeOrigin();
    (await opened(fs)).close();
    fs.folders.add('folder');
    const before = [...fs.files.keys()];
    expect(await codeOf(opened(fs, options, path))).toBe(code);
    expect([...fs.files.keys()]).toEqual(before);
    expect(fs.files.get('store.db')).toMatchObject({ isOpen: false });
  });

  test('says that another tab or worker has the file, until it closes it', async () => {
    const fs = new FakeOrigin();
    const first = await opened(fs);
    await expect(opened(fs)).rejects.toMatchObject({
      code: 'STORAGE_LOCKED',
      message: expect.stringContaining('in this tab or worker or another one'),
    });
    first.close();
    expect(await codeOf(opened(fs))).toBe('works');
  });

  test('says that a page has no synchronous access, and that Node has no OPFS', async () => {
    await expect(OpfsStorage.open({ name: 'store.db' })).rejects.toMatchObject({
      code: 'EOPNOTSUPP',
      message: expect.stringContaining('only a dedicated worker has it'),
    });
    expect(await codeOf(OpfsStorage.open('store.db', { size: 512 }))).toBe('EOPNOTSUPP');
  });

  test('says that the quota is used up, and leaves the file free', async () => {
    const fs = new FakeOrigin();
    fs.quota = 1024;
    await expect(opened(fs)).rejects.toMatchObject({
      code: 'IO_FAILED',
      message:
        "extending store.db to 32768 bytes failed: the quota of the page's origin is used up",
      cause: { name: 'QuotaExceededError' },
    });
    expect(await codeOf(opened(fs, { size: 512 }))).toBe('works');
  });

  test('passes on what else the browser says', async () => {
    const fs = new FakeOrigin();
    fs.failures.set('create', exception('NotReadableError', 'the disk is gone'));
    await expect(opened(fs)).rejects.toMatchObject({
      code: 'IO_FAILED',
      message: 'opening store.db failed: the disk is gone',
    });
  });
});

describe('an open file', () => {
  test('fails every flush after one that failed, without another call', async () => {
    const fs = new FakeOrigin();
    const storage = await opened(fs);
    storage.write(0, bytes(1), PLAIN);
    fs.failures.set('flush', exception('InvalidStateError', 'the disk is gone'));
    expect(thrown(() => storage.flush(SIMPLE))).toMatchObject({
      code: 'FLUSH_FAILED',
      message: expect.stringContaining('may be lost: the disk is gone'),
    });
    const calls = fs.calls.length;
    const { code, message } = thrown(() => storage.flush(SIMPLE));
    expect([code, message]).toEqual(['FLUSH_FAILED', expect.stringContaining('an earlier flush')]);
    expect(fs.calls).toHaveLength(calls);
    storage.close();
    const again = await opened(fs);
    expect(thrown(() => again.flush(SIMPLE))).toEqual({});
  });

  test('given a quota that is used up, then a resize says so, and the size stays', async () => {
    const fs = new FakeOrigin();
    fs.quota = SIZE + 512;
    const storage = await opened(fs);
    expect(thrown(() => storage.resize(SIZE + 1024))).toMatchObject({
      code: 'IO_FAILED',
      message: "giving 33792 bytes to store.db failed: the quota of the page's origin is used up",
    });
    expect(storage.size).toBe(SIZE);
    storage.resize(SIZE + 512);
    storage.write(SIZE, bytes(1), PLAIN);
    storage.resize(0);
    storage.close();
    expect((await opened(fs, {})).size).toBe(0);
  });

  test('given a browser that resizes and fails nevertheless, then the size is what the file has', async () => {
    const fs = new FakeOrigin();
    const storage = await opened(fs);
    const file = fs.files.get('store.db');
    Object.defineProperty(fs, 'fail', {
      value: (call: string) => {
        if (call !== 'truncate' || !file) return;
        file.bytes = file.bytes.slice(0, 512);
        throw exception('InvalidStateError', 'the disk is gone');
      },
    });
    expect(thrown(() => storage.resize(512)).code).toBe('IO_FAILED');
    expect(storage.size).toBe(512);
  });

  test('says that the quota is used up when a write needs more of it', async () => {
    const fs = new FakeOrigin();
    const storage = await opened(fs);
    fs.failures.set('write', exception('QuotaExceededError'));
    expect(thrown(() => storage.write(0, bytes(1), PLAIN))).toMatchObject({
      code: 'IO_FAILED',
      message: "writing store.db failed: the quota of the page's origin is used up",
    });
  });

  test('gives a scheduler the number of bytes that a short write took', async () => {
    const fs = new FakeOrigin();
    const disk = new IoScheduler(await opened(fs));
    fs.writesMax = 100;
    expect(await codeOf(disk.write(0, bytes(1)))).toBe('SHORT_TRANSFER');
    expect(await codeOf(disk.write(0, [bytes(1), bytes(2)]))).toBe('SHORT_TRANSFER');
  });

  test('refuses what its capabilities do not state', async () => {
    const storage = await opened(new FakeOrigin());
    const code = (call: () => unknown): string | undefined => thrown(call).code;
    expect(code(() => storage.write(0, bytes(1), { fua: true, tag: 'simple' }))).toBe('EOPNOTSUPP');
    expect(code(() => storage.flush({ tag: 'ordered' }))).toBe('EOPNOTSUPP');
    expect(code(() => storage.read(1, bytes(1)))).toBe('UNALIGNED');
    expect(code(() => storage.read(SIZE, bytes(1)))).toBe('OUT_OF_RANGE');
  });

  test('prints what it is and how it is', async () => {
    const fs = new FakeOrigin();
    const storage = await opened(fs);
    expect(inspect(storage)).toBe(
      "OpfsStorage { 'store.db', 32768 bytes in blocks of 512, cache volatile, flush, writev, resize, open }",
    );
    await storage[Symbol.asyncDispose]();
    expect(inspect(storage)).toContain('closed');
    expect(thrown(() => storage.read(0, bytes(0))).code).toBe('CLOSED');
  });
});
