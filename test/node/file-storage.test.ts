import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Capabilities, WriteBarrierError, type WriteFlags } from 'write-barrier';
import { FileStorage, type FileStorageOptions } from 'write-barrier/node';
import { codeThrown, errorThrown, storageContract } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const FORCED: WriteFlags = { fua: true, tag: 'simple' };
const SIMPLE = { tag: 'simple' } as const;
const BLOCK = 512;
const SIZE = 16 * BLOCK;
const LINUX = process.platform === 'linux';
const declares: Capabilities = {
  blockSize: BLOCK,
  cache: 'volatile',
  flush: true,
  fua: LINUX,
  orderedTags: false,
  writev: true,
  discard: false,
  writeZeroes: false,
};

const filled = (value: number, blocks = 1): Uint8Array =>
  new Uint8Array(blocks * BLOCK).fill(value);
const newPath = (): string => join(temporaryDirectory(), 'disk.img');

for (const [name, blockSize, inlineWriteMax] of [
  ['FileStorage', BLOCK, 0],
  ['FileStorage with blocks of one byte', 1, 0],
  ['FileStorage with inline writes', BLOCK, 4 * BLOCK],
] as const) {
  storageContract(name, { ...declares, blockSize }, async () => {
    const directory = fs.mkdtempSync(join(fs.realpathSync(tmpdir()), 'write-barrier-'));
    const path = join(directory, 'disk.img');
    const options = { blockSize, inlineWriteMax };
    const storage = await FileStorage.open(path, { size: 32 * BLOCK, ...options });
    return {
      storage,
      reopen: () => FileStorage.open(path, options),
      cleanUp: () => fs.rmSync(directory, { recursive: true }),
    };
  });
}

describe('opening a file', () => {
  test('creates it with the size that is given, and reads it as zeroes', async () => {
    const path = newPath();
    await using storage = await FileStorage.open(path, { size: SIZE });
    expect([storage.size, fs.statSync(path).size]).toEqual([SIZE, SIZE]);
    const into = filled(9, 16);
    await storage.read(0, into);
    expect(into).toEqual(filled(0, 16));
  });

  test('takes the size of an existing file where none is given', async () => {
    const path = newPath();
    fs.writeFileSync(path, filled(3, 2));
    await using storage = await FileStorage.open(path);
    expect(storage.size).toBe(2 * BLOCK);
    expect(storage.path).toBe(fs.realpathSync(path));
  });

  test('extends a shorter file, and keeps what was in it', async () => {
    const path = newPath();
    fs.writeFileSync(path, filled(3).subarray(0, 100));
    await using storage = await FileStorage.open(path, { size: SIZE });
    const into = filled(9);
    await storage.read(0, into);
    expect(into.lastIndexOf(3)).toBe(99);
    expect(into.subarray(100)).toEqual(filled(0).subarray(100));
  });

  test('given a file that another creates meanwhile, then it is opened, never removed', async () => {
    const path = newPath();
    const meanwhile: FileStorageOptions['fs'] = {
      open: (name, flags, mode, done) => {
        if ((flags & fs.constants.O_CREAT) !== 0) fs.writeFileSync(name, filled(8, 3));
        fs.open(name, flags, mode, done);
      },
    };
    await using storage = await FileStorage.open(path, { size: SIZE, fs: meanwhile });
    const into = filled(0);
    await storage.read(2 * BLOCK, into);
    expect(into).toEqual(filled(8));
    await storage.close();
    fs.unlinkSync(path);
    const small = { size: BLOCK, fs: meanwhile };
    expect(await codeThrown(() => FileStorage.open(path, small))).toBe('INVALID_ARGUMENT');
    expect(fs.existsSync(path)).toBe(true);
  });

  test('given a file that is removed again and again, then gives up', async () => {
    const path = newPath();
    const options: FileStorageOptions = {
      size: SIZE,
      fs: {
        open: (_name, flags, _mode, done) =>
          done(systemError((flags & fs.constants.O_CREAT) === 0 ? 'ENOENT' : 'EEXIST'), -1),
      },
    };
    const error = await errorThrown(() => FileStorage.open(path, options));
    expect(error).toMatchObject({ code: 'IO_FAILED' });
    expect(codeOfCause(error)).toBe('EEXIST');
  });

  test('creates nothing through a symbolic link that leads nowhere', async () => {
    const path = newPath();
    fs.symlinkSync('nowhere', path);
    expect(await codeThrown(() => FileStorage.open(path, { size: SIZE }))).toBe('IO_FAILED');
    expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
  });

  // Nothing may be left of any of these: no file, no lock, and an existing file as it was.
  test.each<[string, unknown, unknown, string]>([
    ['a path that is none', 7, { size: SIZE }, 'INVALID_ARGUMENT'],
    ['an empty path', '', { size: SIZE }, 'INVALID_ARGUMENT'],
    ['options that are none', 'new', null, 'INVALID_ARGUMENT'],
    ['a negative size', 'new', { size: -BLOCK }, 'INVALID_ARGUMENT'],
    ['a size of nothing', 'new', { size: 0 }, 'INVALID_ARGUMENT'],
    ['half a byte', 'new', { size: 0.5 }, 'INVALID_ARGUMENT'],
    ['a size in words', 'new', { size: '1M' }, 'INVALID_ARGUMENT'],
    ['a size that is not whole blocks', 'new', { size: 1000 }, 'INVALID_ARGUMENT'],
    ['a size beyond what files can have', 'new', { size: 2 ** 52 * 512 }, 'INVALID_ARGUMENT'],
    ['blocks of no bytes', 'new', { size: SIZE, blockSize: 0 }, 'INVALID_ARGUMENT'],
    ['half a byte inline', 'new', { size: SIZE, inlineWriteMax: 0.5 }, 'INVALID_ARGUMENT'],
    ['fewer bytes than none', 'new', { size: SIZE, inlineWriteMax: -1 }, 'INVALID_ARGUMENT'],
    ['an unknown lock', 'new', { size: SIZE, lock: 'shared' }, 'INVALID_ARGUMENT'],
    ['a flag that is no boolean', 'new', { size: SIZE, create: 1 }, 'INVALID_ARGUMENT'],
    ['create without a size', 'new', { create: true }, 'INVALID_ARGUMENT'],
    [
      'create of what is read only',
      'new',
      { size: SIZE, create: true, readOnly: true },
      'INVALID_ARGUMENT',
    ],
    ['a missing file without a size', 'new', {}, 'INVALID_ARGUMENT'],
    [
      'a missing file that is not to be created',
      'new',
      { size: SIZE, create: false },
      'INVALID_ARGUMENT',
    ],
    ['a missing file to read', 'new', { size: SIZE, readOnly: true }, 'INVALID_ARGUMENT'],
    ['a missing directory', 'no/new', { size: SIZE }, 'IO_FAILED'],
    ['a file in the place of a directory', 'odd/new', { size: SIZE }, 'IO_FAILED'],
    ['a directory', '.', { size: SIZE }, 'INVALID_ARGUMENT'],
    ['an empty file without a size', 'empty', {}, 'INVALID_ARGUMENT'],
    ['a file of odd size', 'odd', {}, 'INVALID_ARGUMENT'],
    ['a file to be cut', 'full', { size: BLOCK }, 'INVALID_ARGUMENT'],
    ['a file to be read and extended', 'full', { size: SIZE, readOnly: true }, 'INVALID_ARGUMENT'],
  ])('given %s, then it says so and leaves no trace', async (_, name, options, code) => {
    const directory = temporaryDirectory();
    for (const [file, size] of Object.entries({ empty: 0, odd: 1000, full: 2 * BLOCK })) {
      fs.writeFileSync(join(directory, file), new Uint8Array(size).fill(1));
    }
    const path = typeof name === 'string' && name !== '' ? join(directory, name) : name;
    const error = await errorThrown(() => Reflect.apply(FileStorage.open, null, [path, options]));
    expect(error).toMatchObject({ code });
    expect(fs.readdirSync(directory).sort()).toEqual(['empty', 'full', 'odd']);
    expect(fs.statSync(join(directory, 'full')).size).toBe(2 * BLOCK);
    if (code === 'IO_FAILED') expect(codeOfCause(error)).toMatch(/^E[A-Z]+$/);
  });

  test.skipIf(!LINUX)('refuses what is neither a file nor a block device', async () => {
    expect(await codeThrown(() => FileStorage.open('/dev/null'))).toBe('INVALID_ARGUMENT');
  });
});

describe('creating a file', () => {
  /** Records the calls that make a creation durable. */
  function recorded(path: string, fail?: { on: string; code: string }) {
    const calls: string[] = [];
    const names = new Map<number, string>();
    const note = <T extends unknown[]>(
      what: string,
      fd: number,
      done: (error: NodeJS.ErrnoException | null, ...rest: T) => void,
      run: () => void,
    ): void => {
      const call = `${what} ${names.get(fd) ?? 'file'}`;
      calls.push(call);
      if (fail?.on === call) Reflect.apply(done, null, [systemError(fail.code)]);
      else run();
    };
    const options: FileStorageOptions = {
      size: SIZE,
      fs: {
        open: (name, flags, mode, done) =>
          fs.open(name, flags, mode, (error, fd) => {
            if (error !== null) return done(error, fd);
            names.set(fd, name === join(path, '..') ? 'directory' : 'file');
            note('open', fd, done, () => done(error, fd));
          }),
        ftruncate: (fd, size, done) => note('size', fd, done, () => fs.ftruncate(fd, size, done)),
        fsync: (fd, done) => note('sync', fd, done, () => fs.fsync(fd, done)),
      },
    };
    return { calls, options };
  }

  test('case 72: puts its size and then its name on the medium, before it is written to', async () => {
    const path = fs.realpathSync(temporaryDirectory()).concat('/disk.img');
    const { calls, options } = recorded(path);
    await using storage = await FileStorage.open(path, options);
    expect(calls.slice(0, 5)).toEqual([
      'open file',
      'size file',
      'sync file',
      'open directory',
      'sync directory',
    ]);
    expect(storage.size).toBe(SIZE);
  });

  test('syncs nothing where the file exists and has its size', async () => {
    const path = newPath();
    await (await FileStorage.open(path, { size: SIZE })).close();
    const { calls, options } = recorded(path);
    await (await FileStorage.open(path, options)).close();
    expect(new Set(calls)).toEqual(new Set(['open file']));
  });

  test.each(['EISDIR', 'EPERM', 'EINVAL', 'ENOTSUP'])(
    'lives with a platform that answers %s to syncing a directory',
    async (code) => {
      const path = fs.realpathSync(temporaryDirectory()).concat('/disk.img');
      const { options } = recorded(path, { on: 'sync directory', code });
      await using storage = await FileStorage.open(path, options);
      expect(storage.size).toBe(SIZE);
    },
  );

  test.each(['size file', 'sync file', 'sync directory'])(
    'given that "%s" fails for good, then it fails and takes back what it made',
    async (on) => {
      const path = fs.realpathSync(temporaryDirectory()).concat('/disk.img');
      const { options } = recorded(path, { on, code: 'EIO' });
      const error = await errorThrown(() => FileStorage.open(path, options));
      expect(error).toMatchObject({ code: 'IO_FAILED' });
      expect(codeOfCause(error)).toBe('EIO');
      expect(fs.readdirSync(join(path, '..'))).toEqual([]);
    },
  );
});

describe('FUA', () => {
  test.skipIf(!LINUX)('is a write through a descriptor that has O_DSYNC', async () => {
    const fds: number[] = [];
    const write: typeof fs.write = fs.write;
    const storage = await FileStorage.open(newPath(), {
      size: SIZE,
      fs: {
        write: (fd, ...rest) => {
          fds.push(fd);
          write(fd, ...rest);
        },
      },
    });
    await storage.write(0, filled(1), PLAIN);
    await storage.write(BLOCK, filled(2), FORCED);
    const into = filled(0, 2);
    await storage.read(0, into);
    expect([into[0], into[BLOCK]]).toEqual([1, 2]);
    expect(fds.map((fd) => (openFlags(fd) & fs.constants.O_DSYNC) !== 0)).toEqual([false, true]);
    await storage.close();
  });

  test('is not declared where there is no such descriptor, and then refused', async () => {
    const { O_DSYNC } = fs.constants;
    const path = newPath();
    await using storage = await FileStorage.open(path, {
      size: SIZE,
      fs: {
        open: (name, flags, mode, done) => {
          if ((flags & O_DSYNC) === O_DSYNC) done(systemError('EINVAL'), -1);
          else fs.open(name, flags, mode, done);
        },
      },
    });
    expect(storage.capabilities.fua).toBe(false);
    expect(await codeThrown(() => storage.write(0, filled(1), FORCED))).toBe('EOPNOTSUPP');
    expect(fs.readFileSync(path)).toEqual(Buffer.alloc(SIZE));
  });

  test('ordered tags are refused as well: a file has none', async () => {
    await using storage = await FileStorage.open(newPath(), { size: SIZE });
    const ordered: WriteFlags = { fua: false, tag: 'ordered' };
    expect(await codeThrown(() => storage.write(0, filled(1), ordered))).toBe('EOPNOTSUPP');
    expect(await codeThrown(() => storage.flush(ordered))).toBe('EOPNOTSUPP');
  });
});

describe('a storage that is open for reading', () => {
  test('reads, refuses to write, and has nothing to flush', async () => {
    const path = newPath();
    fs.writeFileSync(path, filled(5, 2));
    await using storage = await FileStorage.open(path, { readOnly: true });
    const into = filled(0);
    await storage.read(BLOCK, into);
    expect(into).toEqual(filled(5));
    expect(await codeThrown(() => storage.write(0, filled(1), PLAIN))).toBe('READ_ONLY');
    expect(await codeThrown(() => storage.writev(0, [filled(1)], PLAIN))).toBe('READ_ONLY');
    await storage.flush(SIMPLE);
    expect(storage.capabilities.fua).toBe(false);
    expect(fs.readFileSync(path)).toEqual(Buffer.from(filled(5, 2)));
  });

  test('takes no lock and heeds none', async () => {
    const path = newPath();
    await using writer = await FileStorage.open(path, { size: SIZE });
    await using reader = await FileStorage.open(path, { readOnly: true });
    await writer.write(0, filled(7), PLAIN);
    const into = filled(0);
    await reader.read(0, into);
    expect(into).toEqual(filled(7));
  });
});

describe('closing', () => {
  test('waits for what is in flight, and gives back the lock after that', async () => {
    const path = newPath();
    let finish: () => void = () => {};
    const storage = await FileStorage.open(path, {
      size: SIZE,
      fs: {
        write: (...call) => {
          finish = () => fs.write(...call);
        },
      },
    });
    const writing = storage.write(0, filled(4), PLAIN);
    const closing = storage.close();
    expect(await codeThrown(() => storage.write(0, filled(1), PLAIN))).toBe('CLOSED');
    expect(await codeThrown(() => FileStorage.open(path))).toBe('STORAGE_LOCKED');
    finish();
    await Promise.all([writing, closing]);
    await using again = await FileStorage.open(path);
    const into = filled(0);
    await again.read(0, into);
    expect(into).toEqual(filled(4));
  });

  test('answers the same however often it is asked', async () => {
    const storage = await FileStorage.open(newPath(), { size: SIZE });
    expect(storage.close()).toBe(storage.close());
    await storage[Symbol.asyncDispose]();
  });

  test('tells of an error, and has closed and unlocked all the same', async () => {
    const path = newPath();
    const storage = await FileStorage.open(path, {
      size: SIZE,
      fs: { close: (fd, done) => fs.close(fd, () => done(systemError('EIO'))) },
    }).catch((error: unknown) => error);
    // Closing the directory after its sync fails first: a failure at that point is one as well.
    expect(storage).toMatchObject({ code: 'IO_FAILED' });
    let failing = false;
    const other = await FileStorage.open(path, {
      size: SIZE,
      fs: { close: (fd, done) => fs.close(fd, () => done(failing ? systemError('EIO') : null)) },
    });
    failing = true;
    const error = await errorThrown(() => other.close());
    expect(error).toMatchObject({ code: 'IO_FAILED' });
    expect(codeOfCause(error)).toBe('EIO');
    await (await FileStorage.open(path)).close();
  });
});

function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: as the test wants it`), { code });
}

function codeOfCause(error: unknown): unknown {
  if (!WriteBarrierError.is(error)) return undefined;
  return Reflect.get(Object(error.cause), 'code');
}

/** As the kernel sees them. */
function openFlags(fd: number): number {
  const [, octal] =
    /^flags:\s+([0-7]+)/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) ?? [];
  return Number.parseInt(octal ?? '0', 8);
}
