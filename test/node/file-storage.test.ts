import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';
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
  // By the optional package, which is among the development dependencies.
  discard: LINUX,
  writeZeroes: LINUX,
  fastZeroes: LINUX,
  blockStatus: true,
  resize: true,
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

  test('given an empty file or a size of 0, then the storage has a size of 0', async () => {
    const [empty, created] = [newPath(), newPath()];
    fs.writeFileSync(empty, '');
    for (const [path, options] of [
      [empty, {}],
      [empty, { readOnly: true }],
      [created, { size: 0 }],
    ] as const) {
      await using storage = await FileStorage.open(path, options);
      expect([storage.size, fs.statSync(path).size]).toEqual([0, 0]);
      expect(await codeThrown(() => storage.read(0, filled(0)))).toBe('OUT_OF_RANGE');
      await storage.flush(SIMPLE);
    }
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

  test.each<[string, unknown, string[]]>([
    ['a misspelt option', { sise: SIZE }, ["'sise'", "'size'"]],
    ['an option of another name', { blocksize: 512 }, ["'blocksize'", "'blockSize'"]],
    ['an option that is none', { size: SIZE, durable: true }, ["'durable'"]],
    ['options that are a text', 'rw', ["'rw'"]],
    ['options that are no object', 7, ['7']],
    ['a size as a text', { size: '4096' }, ['size', "'4096'"]],
    ['a size as a bigint', { size: 4096n }, ['size', '4096n']],
    ['a size of null', { size: null }, ['size', 'null']],
    ['a block size as a text', { size: SIZE, blockSize: '1' }, ['blockSize', "'1'"]],
    ['a flag as a text', { size: SIZE, readOnly: 'no' }, ['readOnly', "'no'"]],
    ['an inline size as a bigint', { inlineWriteMax: 1n }, ['inlineWriteMax', '1n']],
    ['a lock of another kind', { lock: 'shared' }, ["'exclusive'", "'shared'"]],
    ['a lock as a flag', { lock: true }, ['lock', 'true']],
    ['calls that are no object', { fs: 7 }, ['fs', '7']],
    [
      'calls with a misspelt name',
      { fs: { fdatsync: fs.fdatasync } },
      ["'fdatsync'", "'fdatasync'"],
    ],
    ['the whole of node:fs', { fs: { ...fs } }, ["fs has no option '"]],
    ['a call that is no function', { fs: { write: 'fast' } }, ['fs.write', "'fast'"]],
  ])('given %s, then the message says what and what is allowed', async (_, options, words) => {
    const path = newPath();
    const error = await errorThrown(() => Reflect.apply(FileStorage.open, null, [path, options]));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    for (const word of words) expect(Object(error).message).toContain(word);
    expect(fs.readdirSync(join(path, '..'))).toEqual([]);
  });

  test('an option that is undefined is not given', async () => {
    const options = { size: SIZE, create: undefined, lock: undefined, fs: { open: undefined } };
    const storage = await Reflect.apply(FileStorage.open, null, [newPath(), options]);
    expect(storage.size).toBe(SIZE);
    await storage.close();
  });

  test('takes the URL of a file, with whatever is escaped in it', async () => {
    const path = join(fs.realpathSync(temporaryDirectory()), 'a disk #1 100%.img');
    await using storage = await FileStorage.open(pathToFileURL(path), { size: SIZE });
    expect(storage.path).toBe(path);
    expect(fs.statSync(path).size).toBe(SIZE);
  });

  test.each<[string, unknown]>([
    ['a URL of another protocol', new URL('https://example.com/disk.img')],
    ['a URL with another host', new URL('file://elsewhere/disk.img')],
    ['a URL with an escaped slash', new URL('file:///tmp/a%2Fb')],
    ['a URL with an escaped NUL', new URL('file:///tmp/a%00b')],
    ['a URL in a text', 'file:///tmp/disk.img'],
    ['the same in capitals', 'FILE:///tmp/disk.img'],
    ['a path with NUL', 'a\0b'],
    ['a path in bytes', Buffer.from('/tmp/disk.img')],
    ['a number', 7],
    ['null', null],
    ['an object', {}],
  ])('refuses %s as a path', async (_, path) => {
    if (process.platform === 'win32' && path instanceof URL) return; // has hosts
    const error = await errorThrown(() =>
      Reflect.apply(FileStorage.open, null, [path, { size: SIZE }]),
    );
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(Object(error).message).toContain('URL object');
  });

  test('the refusal of an odd size names the ways out, and they work', async () => {
    const path = newPath();
    fs.writeFileSync(path, new Uint8Array(1000));
    const { message } = Object(await errorThrown(() => FileStorage.open(path)));
    expect(message).toContain('blockSize: 1');
    expect(message).toContain('size: 1024');
    await (await FileStorage.open(path, { blockSize: 1 })).close();
    await (await FileStorage.open(path, { size: 1024 })).close();
    await (await FileStorage.open(path)).close();
  });

  test('the refusal of an odd size advises no longer file where it is read only', async () => {
    const path = newPath();
    fs.writeFileSync(path, new Uint8Array(1000));
    const { message } = Object(await errorThrown(() => FileStorage.open(path, { readOnly: true })));
    expect(message).toContain('blockSize: 1');
    expect(message).not.toContain('1024');
    await (await FileStorage.open(path, { readOnly: true, blockSize: 1 })).close();
  });

  test.each(['EROFS', 'EACCES', 'EPERM'])(
    'given %s for writing, then it advises to read; for reading it does not',
    async (code) => {
      const path = newPath();
      fs.writeFileSync(path, new Uint8Array(SIZE));
      const calls: FileStorageOptions['fs'] = {
        open: (_path, _flags, _mode, done) => done(systemError(code), -1),
      };
      const error = await errorThrown(() => FileStorage.open(path, { fs: calls }));
      expect(error).toMatchObject({ code: 'IO_FAILED' });
      expect(codeOfCause(error)).toBe(code);
      expect(Object(error).message).toContain('readOnly: true');
      const reading = { fs: calls, readOnly: true };
      const other = await errorThrown(() => FileStorage.open(path, reading));
      expect(Object(other).message).not.toContain('readOnly');
    },
  );

  test('given too many open files for FUA, then it fails, for FUA is no luxury', async () => {
    const path = newPath();
    const calls: FileStorageOptions['fs'] = {
      open: (name, flags, mode, done) => {
        if ((flags & fs.constants.O_DSYNC) !== 0) done(systemError('EMFILE'), -1);
        else fs.open(name, flags, mode, done);
      },
    };
    if (!LINUX) return; // asks for none
    expect(await codeThrown(() => FileStorage.open(path, { size: SIZE, fs: calls }))).toBe(
      'IO_FAILED',
    );
    expect(fs.readdirSync(join(path, '..'))).toEqual([]);
  });

  test('many at once are opened a few at a time, and all of them', async () => {
    const directory = temporaryDirectory();
    let open = 0;
    let most = 0;
    const calls: FileStorageOptions['fs'] = {
      fstat: (fd, options, done) => {
        open += 1;
        most = Math.max(most, open);
        fs.fstat(fd, options, (...answer) => {
          open -= 1;
          Reflect.apply(done, null, answer);
        });
      },
    };
    const all = await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        FileStorage.open(join(directory, `${i}`), { size: SIZE, fs: calls }),
      ),
    );
    expect(most).toBeLessThanOrEqual(16);
    await Promise.all(all.map((storage) => storage.close()));
    expect(fs.readdirSync(directory).length).toBe(100);
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

describe('what console.log shows', () => {
  test('is one line: the file, its shape, its lock and how it is', async () => {
    const path = newPath();
    let fails = false;
    const storage = await FileStorage.open(path, {
      size: SIZE,
      fs: {
        fdatasync: (fd, done) => (fails ? done(systemError('EIO')) : fs.fdatasync(fd, done)),
      },
    });
    const shown = inspect(storage);
    for (const word of [path, `${SIZE} bytes`, '512', `lock: ${storage.lock}`, 'open', 'fua']) {
      expect(shown).toContain(word);
    }
    expect(shown).not.toContain('\n');
    expect(shown.length).toBeLessThan(200 + path.length);
    fails = true;
    await errorThrown(() => storage.flush(SIMPLE));
    expect(inspect(storage)).toContain('a flush has failed');
    await storage.close();
    expect(inspect(storage)).toContain('closed');
    expect(inspect({ storage })).toContain('FileStorage {');
    const reader = await FileStorage.open(path, { readOnly: true });
    expect(inspect(reader)).toContain('read only');
    await reader.close();
  });

  test('a path cannot break the line', async () => {
    const path = join(temporaryDirectory(), 'a\nb\u001b[2J.img');
    await using storage = await FileStorage.open(path, { size: SIZE });
    expect(inspect(storage)).toMatch(/^[ -~]+$/);
  });

  test('of the class itself, or of its prototype, is what it was', () => {
    expect(inspect(FileStorage)).toContain('class FileStorage');
    expect(() => inspect(FileStorage.prototype)).not.toThrow();
  });
});

describe('an argument that throws when it is looked at is refused, and never thrown from the call', () => {
  const throwing = (): never =>
    new Proxy(
      {},
      {
        get: () => {
          throw new Error('no');
        },
      },
    ) as never;
  const proxied = (): Uint8Array => new Proxy(filled(1), {});

  test.each<[string, (storage: FileStorage) => Promise<unknown>]>([
    ['the buffer of a read', (storage) => storage.read(0, proxied())],
    ['the data of a write', (storage) => storage.write(0, proxied(), PLAIN)],
    ['a piece of a list', (storage) => storage.writev(0, [filled(1), proxied()], PLAIN)],
    ['a list', (storage) => storage.writev(0, throwing(), PLAIN)],
    ['the flags of a write', (storage) => storage.write(0, filled(1), throwing())],
    ['the flags of a list', (storage) => storage.writev(0, [filled(1)], throwing())],
    ['the flags of a flush', (storage) => storage.flush(throwing())],
  ])('%s', async (_, call) => {
    await using storage = await FileStorage.open(newPath(), { size: SIZE });
    const ending = call(storage);
    expect(ending).toBeInstanceOf(Promise);
    expect(await codeThrown(() => ending)).toBe('INVALID_ARGUMENT');
  });
});

test.each<[string, FileStorageOptions, string]>([
  ['missing', {}, 'to create it, pass a size'],
  ['missing', { readOnly: true }, 'it is not created, because readOnly is true'],
  ['missing', { readOnly: true, size: SIZE }, 'it is not created, because readOnly is true'],
  ['missing', { create: false, size: SIZE }, 'it is not created, because create is false'],
])(
  'the refusal of a file that is %s advises nothing that would be refused as well: %o',
  async (_, options, advice) => {
    const path = newPath();
    const error = await errorThrown(() => FileStorage.open(path, options));
    expect(error).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining(advice),
    });
  },
);

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
