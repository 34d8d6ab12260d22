// Two writers on one file, in one process. Each test runs with the lock of the system and without it, as where the package
// that reaches it is missing. What the two kinds do to each other stands below; other processes have a file of their own.

import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { WriteBarrierError } from 'write-barrier';
import { type FileCalls, FileStorage, StorageLockedError } from 'write-barrier/node';
import { loadPlatformLock } from '../../src/node/file-lock.js';
import { mountOptions, reachesAllMachines, reachOf, thisThread } from '../../src/node/platform.js';
import { announce } from '../../src/node/tickets.js';
import { codeThrown, errorThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const SIZE = 4096;
const ROOT = process.getuid?.() === 0;
const newPath = (): string => join(fs.realpathSync(temporaryDirectory()), 'disk.img');
const tickets = (path: string): string[] => fs.readdirSync(`${path}.lock`);

type LoadLock = FileCalls['loadLock'];
const missing: LoadLock = () => {
  throw new Error('Cannot find package: as the test wants it');
};
const LOADERS: Readonly<Record<'platform' | 'ticket', LoadLock>> = {
  platform: loadPlatformLock,
  ticket: missing,
};
type Kind = keyof typeof LOADERS;
const KINDS: readonly Kind[] = ['platform', 'ticket'];

async function open(
  path: string,
  kind: Kind | LoadLock = 'platform',
  lock: 'exclusive' | 'none' = 'exclusive',
): Promise<FileStorage> {
  const loadLock = typeof kind === 'string' ? LOADERS[kind] : kind;
  const storage = await FileStorage.open(path, { size: SIZE, lock, fs: { loadLock } });
  onTestFinished(() => storage.close());
  return storage;
}

const holderOf = (error: unknown): string | undefined =>
  error instanceof StorageLockedError ? error.holder : undefined;

/** A ticket of a process that there is not, of this run of this machine; or what else is given. */
function ticket(by: 'p' | 't', other: Partial<ReturnType<typeof thisThread>> = {}): string {
  const unused = 4_000_000 + Math.floor(Math.random() * 100_000);
  const it = { ...thisThread(), pid: unused, started: '1', thread: String(unused), ...other };
  const { pid, started, thread, threadStarted, space, boot, host } = it;
  return ['2', by, pid, started, thread, threadStarted, space, boot, host, '00ff00ff'].join('.');
}

function putTicket(path: string, name: string, text = 'process 4242 on elsewhere\n'): void {
  fs.mkdirSync(`${path}.lock`, { recursive: true });
  fs.writeFileSync(join(`${path}.lock`, name), text);
}

test('the lock of the system loads here, and is the one that a storage gets', async () => {
  const report = Object(process.report.getReport()).header;
  const isMusl = process.platform === 'linux' && report.glibcVersionRuntime === undefined;
  if (isMusl) return; // has no binary, and so has tickets
  const storage = await open(newPath());
  expect([storage.lock, storage.lockReason]).toEqual([
    'platform',
    'a lock of the operating system, which ends when its process ends',
  ]);
});

describe.each(KINDS)('in one process, by the lock %s', (kind) => {
  test('a storage says which lock it has, and why', async () => {
    const path = newPath();
    const storage = await open(path, kind);
    expect(storage.lock).toBe(kind);
    expect(storage.lockReason).not.toBe('');
    expect((await open(path, kind, 'none')).lock).toBe('none');
    const reader = await FileStorage.open(path, { readOnly: true });
    expect([reader.lock, reader.lockReason]).toEqual(['none', 'a read-only storage takes no lock']);
    await reader.close();
  });

  test('a second writer is refused, and told who, what it risks, and the ways out', async () => {
    const path = newPath();
    await open(path, kind);
    const error = await errorThrown(() => open(path, kind));
    expect(error).toMatchObject({ code: 'STORAGE_LOCKED', name: 'StorageLockedError' });
    expect(WriteBarrierError.is(error)).toBe(true);
    const { message } = Object(error);
    expect(message).toContain(`process ${process.pid}`);
    expect(message).toContain('overwrite each other');
    expect(message).toContain("lock: 'none'");
  });

  test('the refused one leaves the lock of the first as it was', async () => {
    const path = newPath();
    await open(path, kind);
    const before = tickets(path);
    expect(before.length).toBe(1);
    await errorThrown(() => open(path, kind));
    expect(tickets(path)).toEqual(before);
  });

  test('closing leaves nothing behind, and the next writer comes in', async () => {
    const path = newPath();
    for (let times = 0; times < 3; times += 1) {
      await (await open(path, kind)).close();
      expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
    }
  });

  test.each<[string, (path: string, other: string) => void]>([
    ['a symbolic link', fs.symlinkSync],
    ['a hard link', fs.linkSync],
    ['a new name', fs.renameSync],
  ])('a second name of the file, %s, is seen through', async (_, link) => {
    const path = newPath();
    const first = await open(path, kind);
    const other = join(temporaryDirectory(), 'other.img');
    link(path, other);
    expect(await codeThrown(() => open(other, kind))).toBe('STORAGE_LOCKED');
    await first.close();
    await open(other, kind);
  });

  test("lock: 'none' neither takes the lock nor looks for it", async () => {
    const path = newPath();
    await open(path, kind, 'none');
    expect(fs.existsSync(`${path}.lock`)).toBe(false);
    await open(path, kind);
    await open(path, kind, 'none');
  });

  test('of many that open at once, one gets the file, whether it is there or not', async () => {
    const path = newPath();
    for (let round = 0; round < 10; round += 1) {
      const all = await Promise.allSettled([1, 2, 3, 4, 5].map(() => open(path, kind)));
      const got = all.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
      expect(got.length).toBe(1);
      await got[0]?.close();
      if (round % 2 === 0) fs.unlinkSync(path);
    }
  });

  test.each<[string, (path: string) => void]>([
    ['a file', (path) => fs.writeFileSync(path, 'mine')],
    ['a symbolic link to a directory', (path) => fs.symlinkSync(temporaryDirectory(), path)],
    ['a symbolic link to nothing', (path) => fs.symlinkSync('/nonexistent/x', path)],
    ['a symbolic link to itself', (path) => fs.symlinkSync(path, path)],
    ['a pipe', (path) => void spawnSync('mkfifo', [path])],
  ])('%s in the place of the lock is an error, and is left alone', async (_, make) => {
    const path = newPath();
    make(`${path}.lock`);
    const before = fs.lstatSync(`${path}.lock`, { bigint: true });
    const error = await errorThrown(() => open(path, kind));
    expect(error).toMatchObject({
      code: 'IO_FAILED',
      message: expect.stringContaining('must be a directory'),
    });
    expect(fs.lstatSync(`${path}.lock`, { bigint: true })).toMatchObject({
      ino: before.ino,
      mtimeNs: before.mtimeNs,
    });
    expect(fs.existsSync(path)).toBe(false);
    fs.writeFileSync(path, new Uint8Array(SIZE));
    expect(await codeThrown(() => open(path, kind))).toBe('IO_FAILED');
  });

  test('nothing is written or removed behind a symbolic link in the place of the lock', async () => {
    const path = newPath();
    const victim = temporaryDirectory();
    const precious = join(victim, ticket('p'));
    fs.writeFileSync(precious, 'precious');
    fs.symlinkSync(victim, `${path}.lock`);
    expect(await codeThrown(() => open(path, kind))).toBe('IO_FAILED');
    expect(await codeThrown(() => FileStorage.breakLock(path, ticket('p')))).toBe(
      fs.existsSync(path) ? undefined : 'IO_FAILED',
    );
    expect(fs.readFileSync(precious, 'utf8')).toBe('precious');
    expect(fs.readdirSync(victim).length).toBe(1);
  });

  test('an empty directory in the place of the lock locks nobody out', async () => {
    const path = newPath();
    fs.mkdirSync(`${path}.lock`);
    await open(path, kind);
  });

  test.each(['2.from.the.future', '3.p.1.1.1.1.1.1.1.1', 'notes.txt', '1.4242.77.4026.01.ff.00'])(
    'what it cannot read as a ticket counts as held, and can be broken: %s',
    async (name) => {
      const path = newPath();
      putTicket(path, name, '');
      const error = await errorThrown(() => open(path, kind));
      expect(error).toMatchObject({ code: 'STORAGE_LOCKED', holder: name });
      expect(tickets(path)).toEqual([name]);
      await FileStorage.breakLock(path, name);
      await open(path, kind);
    },
  );

  test.skipIf(process.platform === 'win32').each<[string, (path: string) => void]>([
    ['a pipe', (path) => void spawnSync('mkfifo', [path])],
    ['a directory', (path) => fs.mkdirSync(path)],
    ['a symbolic link', (path) => fs.symlinkSync('/etc/passwd', path)],
  ])('%s with the name of a dead ticket counts as held, and is not opened', async (_, make) => {
    const path = newPath();
    fs.mkdirSync(`${path}.lock`);
    const name = ticket('p');
    make(join(`${path}.lock`, name));
    const error = await errorThrown(() => open(path, kind));
    expect(error).toMatchObject({ code: 'STORAGE_LOCKED' });
    expect(Object(error).message).not.toContain('root:');
    expect(tickets(path)).toEqual([name]);
  });

  test('what a ticket says is shown only where it is plain', async () => {
    const path = newPath();
    const name = ticket('t', { boot: 'elsewhere' });
    putTicket(path, name, `\u001b[2J\u0007 boo\n${'x'.repeat(1_000_000)}`);
    const { message } = Object(await errorThrown(() => open(path, kind)));
    expect(message).toMatch(/^[ -~]+$/);
    expect(message.length).toBeLessThan(1000);
  });

  test('a ticket of a dead process is cleared away', async () => {
    const path = newPath();
    putTicket(path, ticket('t'));
    putTicket(path, ticket('p'));
    await open(path, kind);
    expect(tickets(path).length).toBe(1);
  });

  test.each<[string, Partial<ReturnType<typeof thisThread>>, string]>([
    ['another machine', { host: 'ffffffffffff', boot: '0123456789abcdef' }, 'another machine'],
    ['another run of this machine, or a twin of it', { boot: '0123456789abcdef' }, 'rebooted'],
    ['another space of process numbers', { space: '1' }, 'container'],
  ])(
    'a ticket of %s that goes by tickets counts as held, since none can know',
    async (_, other, words) => {
      for (const exists of [false, true]) {
        const path = newPath();
        if (exists) fs.writeFileSync(path, new Uint8Array(SIZE));
        const name = ticket('t', other);
        putTicket(path, name);
        const error = await errorThrown(() => open(path, kind));
        expect(error).toMatchObject({ code: 'STORAGE_LOCKED', holder: name });
        const { message } = Object(error);
        expect(message).toContain('process 4242 on elsewhere');
        expect(message).toContain(words);
        expect(message).toContain('breakLock');
        expect(tickets(path)).toEqual([name]);
      }
    },
  );

  test('a ticket of this thread that no storage knows counts as held', async () => {
    const path = newPath();
    putTicket(path, ticket('t', thisThread()));
    const error = await errorThrown(() => open(path, kind));
    expect(error).toMatchObject({ code: 'STORAGE_LOCKED' });
    expect(Object(error).message).toContain('this very thread');
  });

  test.skipIf(process.platform === 'win32').each([0o000, 0o002, 0o022, 0o077])(
    'others may not write into the lock, whatever the umask: %i',
    async (umask) => {
      const path = newPath();
      const before = process.umask(umask);
      try {
        await open(path, kind);
      } finally {
        process.umask(before);
      }
      const [name = ''] = tickets(path);
      expect(fs.statSync(`${path}.lock`).mode & 0o022).toBe(0);
      expect(fs.statSync(join(`${path}.lock`, name)).mode & 0o022).toBe(0);
    },
  );

  test.each(['fsync', 'fstat', 'open', 'ftruncate'] as const)(
    'given that %s fails, then neither file nor lock is left, and the next comes in',
    async (name) => {
      const path = newPath();
      let nth = 0;
      const failing = (...call: unknown[]): void => {
        // The second open is the one that creates the file, so it is let pass.
        if (name === 'open' && nth++ < 2) Reflect.apply(fs.open, null, call);
        else {
          const full = Object.assign(new Error('EMFILE: as the test wants it'), { code: 'EMFILE' });
          Reflect.apply(Object(call.at(-1)), null, [full]);
        }
      };
      const calls = { [name]: failing, loadLock: LOADERS[kind] };
      const code = codeThrown(() => FileStorage.open(path, { size: SIZE, fs: calls }));
      expect(await code).toBe('IO_FAILED');
      const left = fs.readdirSync(join(path, '..'));
      // Without its inode it is not known whether the file is still the one that was created.
      expect(left).toEqual(name === 'fstat' ? ['disk.img'] : []);
      await open(path, kind);
    },
  );
});

describe('breakLock', () => {
  test('removes the ticket that is named, and no other', async () => {
    const path = newPath();
    const [one, other] = [ticket('t', { boot: 'a' }), ticket('t', { boot: 'b' })];
    putTicket(path, one);
    putTicket(path, other);
    await FileStorage.breakLock(path, one);
    expect(tickets(path)).toEqual([other]);
    const holder = holderOf(await errorThrown(() => open(path)));
    expect(holder).toBe(other);
    await FileStorage.breakLock(new URL(`file://${path}`), String(holder));
    await open(path);
  });

  test('of what is gone already is no error', async () => {
    const path = newPath();
    await FileStorage.breakLock(path, ticket('t'));
    const storage = await open(path);
    await FileStorage.breakLock(path, ticket('t'));
    expect(tickets(path).length).toBe(1);
    await storage.close();
  });

  test.each([undefined, null, 7, '', '.', '..', '../disk.img', 'a/b', 'a\\b', 'a\0b', {}])(
    'refuses what can be no holder: %s',
    async (holder) => {
      const path = newPath();
      const storage = await open(path);
      const call = (): Promise<unknown> =>
        Reflect.apply(FileStorage.breakLock, FileStorage, [path, holder]);
      expect(await codeThrown(call)).toBe('INVALID_ARGUMENT');
      expect(fs.existsSync(path)).toBe(true);
      await storage.close();
    },
  );

  test('has nothing to break where the system holds the lock, and the refusal names none', async () => {
    const path = newPath();
    const storage = await open(path);
    if (storage.lock !== 'platform') return;
    fs.linkSync(path, `${path}.other`);
    for (const name of [path, `${path}.other`]) {
      expect(await errorThrown(() => open(name))).toMatchObject({ holder: undefined });
    }
  });

  test('of a writer that lives lets a second one in, which goes by tickets, and its closing harms none', async () => {
    const path = newPath();
    const first = await open(path, 'ticket');
    const holder = tickets(path)[0] ?? '';
    await FileStorage.breakLock(path, holder);
    // The registry of this thread still knows, which is as well.
    expect(await codeThrown(() => open(path, 'ticket'))).toBe('STORAGE_LOCKED');
    await first.close();
    await open(path, 'ticket');
  });
});

describe('file-lock.K2: a writer with the lock of the system', () => {
  test.each<[string, Partial<ReturnType<typeof thisThread>>]>([
    ['a container that is gone', { space: '1' }],
    ['this machine before it was started anew', { boot: '0123456789abcdef' }],
    ['another machine', { host: 'ffffffffffff', boot: '0123456789abcdef' }],
    ['a thread of this process', { ...thisThread(), thread: '1', threadStarted: '' }],
    ['this very thread', thisThread()],
  ])('clears a ticket of %s that says "platform"', async (_, other) => {
    const path = newPath();
    putTicket(path, ticket('p', other));
    const storage = await open(path);
    if (storage.lock !== 'platform') return;
    expect(tickets(path).length).toBe(1);
  });

  test('and one without it exclude each other, in both orders', async () => {
    for (const [one, other] of [
      ['platform', 'ticket'],
      ['ticket', 'platform'],
    ] as const) {
      const path = newPath();
      const first = await open(path, one);
      // Under another name there is no registry of this thread, and for tickets no lock either.
      expect(await codeThrown(() => open(path, other))).toBe('STORAGE_LOCKED');
      await first.close();
      const second = await open(path, other);
      expect(await codeThrown(() => open(path, one))).toBe('STORAGE_LOCKED');
      await second.close();
    }
  });

  test('respects the lock of another program', async () => {
    const path = newPath();
    const { tryLock } = await loadPlatformLock().catch(() => ({ tryLock: () => false }));
    fs.writeFileSync(path, new Uint8Array(SIZE));
    const fd = fs.openSync(path, 'r+');
    try {
      if (!tryLock(fd, 100, 1)) return; // as QEMU does
      const error = await errorThrown(() => open(path));
      expect(error).toMatchObject({ code: 'STORAGE_LOCKED' });
      expect(Object(error).message).toContain('another program');
      expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
    } finally {
      fs.closeSync(fd);
    }
    await open(path);
  });
});

describe('given that its ticket is removed while a file is opened', () => {
  test.each(KINDS)('then a writer by %s begins anew, and has one in the end', async (kind) => {
    const path = newPath();
    fs.writeFileSync(path, new Uint8Array(SIZE));
    let removed = 0;
    const remove = (): void => {
      if (removed > 0 || !fs.existsSync(`${path}.lock`)) return;
      for (const name of tickets(path)) fs.unlinkSync(join(`${path}.lock`, name));
      removed += 1;
    };
    // The ticket is there for a moment only before it is held, so it is looked for all the time.
    let isOpen = false;
    const watching = (async () => {
      while (!isOpen) {
        remove();
        await new Promise(setImmediate);
      }
    })();
    const storage = await open(path, kind);
    isOpen = true;
    await watching;
    expect(storage.lock).toBe(kind);
    expect(await codeThrown(() => open(path, kind))).toBe('STORAGE_LOCKED');
  });

  /** What others do between two steps of an owner: they clear its ticket, and the directory where that was the last. */
  const removals: readonly [string, (path: string) => void][] = [
    ['with the directory', (path) => fs.rmSync(`${path}.lock`, { recursive: true })],
    [
      'while there is another',
      (path) => {
        for (const name of tickets(path)) fs.unlinkSync(join(`${path}.lock`, name));
        putTicket(path, ticket('p'));
      },
    ],
    [
      'and another has put up the directory anew',
      (path) => {
        fs.rmSync(`${path}.lock`, { recursive: true });
        fs.mkdirSync(`${path}.lock`);
      },
    ],
  ];

  test.each(removals)('before it is contended with, %s: then it says so', async (_, remove) => {
    const path = newPath();
    const own = await announce(path, thisThread(), 'ticket');
    remove(path);
    expect(await own.contend(() => 'counts')).toBe(false);
    expect(await own.isThere()).toBe(false);
    await own.remove();
  });

  test.each(removals)('between two looks at others, %s: then it says so', async (_, remove) => {
    const path = newPath();
    const own = await announce(path, thisThread(), 'ticket');
    // One that wants and goes later, whatever our number is: it is looked for again.
    fs.writeFileSync(join(`${path}.lock`, '2.t.999999999.9.9.9.9.9.9.zzzz'), '');
    const contended = own.contend(() => {
      remove(path);
      return 'counts';
    });
    expect(await contended).toBe(false);
    await own.remove();
  });

  test.each(removals)('after it was contended with, %s: then it says so', async (_, remove) => {
    const path = newPath();
    const own = await announce(path, thisThread(), 'ticket');
    expect(await own.contend(() => 'counts')).toBe(true);
    remove(path);
    expect(await own.hold()).toBe(false);
    expect(await own.isThere()).toBe(false);
    await own.remove();
  });

  test.each(KINDS)(
    'and another is in meanwhile, then a writer by %s removes no file, though it has created it',
    async (kind) => {
      const path = newPath();
      const disturbing: FileCalls['open'] = (name, flags, mode, done) =>
        fs.open(name, flags, mode, (error, fd) => {
          if ((flags & fs.constants.O_EXCL) !== 0) {
            fs.rmSync(`${path}.lock`, { recursive: true });
            putTicket(path, ticket('t', { boot: 'another' }));
          }
          done(error, fd);
        });
      const opening = FileStorage.open(path, {
        size: SIZE,
        fs: {
          open: disturbing,
          ftruncate: (_fd, _length, done) => done(new Error('as the test wants it')),
          loadLock: LOADERS[kind],
        },
      });
      await expect(opening).rejects.toThrow();
      expect(fs.existsSync(path)).toBe(true);
    },
  );

  test('and its file replaced, then the new file is opened', async () => {
    const path = newPath();
    fs.writeFileSync(path, new Uint8Array(SIZE).fill(1));
    let replaced = false;
    const storage = await FileStorage.open(path, {
      fs: {
        fstat: (fd, options, done) => {
          if (!replaced) {
            fs.writeFileSync(`${path}.new`, new Uint8Array(SIZE).fill(2));
            fs.renameSync(`${path}.new`, path);
          }
          replaced = true;
          fs.fstat(fd, options, done);
        },
      },
    });
    const into = new Uint8Array(512);
    await storage.read(0, into);
    expect(into[0]).toBe(2);
    await storage.close();
  });

  test.skipIf(process.platform !== 'linux').each<[string, (path: string) => void]>([
    ['is replaced', (path) => fs.renameSync(`${path}.new`, path)],
    ['is removed', (path) => fs.unlinkSync(path)],
  ])('and its file %s before it is opened for FUA, then all begins anew', async (_, disturb) => {
    const path = newPath();
    fs.writeFileSync(path, new Uint8Array(SIZE));
    fs.writeFileSync(`${path}.new`, new Uint8Array(SIZE));
    let disturbed = false;
    const storage = await FileStorage.open(path, {
      size: SIZE,
      fs: {
        open: (name, flags, mode, done) => {
          const isForced = (flags & fs.constants.O_DSYNC) !== 0 && flags % 4 !== 0;
          if (isForced && !disturbed) {
            disturbed = true;
            disturb(path);
          }
          fs.open(name, flags, mode, done);
        },
      },
    });
    expect([disturbed, storage.capabilities.fua]).toEqual([true, true]);
    await storage.write(0, new Uint8Array(512).fill(7), { fua: true, tag: 'simple' });
    expect(fs.readFileSync(path)[0]).toBe(7);
    await storage.close();
  });

  test('given a file that is replaced again and again, then it gives up', async () => {
    const path = newPath();
    fs.writeFileSync(path, new Uint8Array(SIZE));
    const replacing: FileCalls['fstat'] = (fd, options, done) => {
      fs.writeFileSync(`${path}.new`, new Uint8Array(SIZE));
      fs.renameSync(`${path}.new`, path);
      fs.fstat(fd, options, done);
    };
    const opening = FileStorage.open(path, { fs: { fstat: replacing } });
    expect(await errorThrown(() => opening)).toMatchObject({
      code: 'IO_FAILED',
      message: expect.stringContaining('again and again'),
    });
    expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
  });
});

describe('given that the lock of the system cannot be had, then tickets do, and the reason is told', () => {
  test.each<[string, LoadLock, string]>([
    ['the package is missing', missing, 'Cannot find package'],
    ['loading it rejects', () => Promise.reject(new Error('bad ELF')), 'bad ELF'],
    ['loading it throws undefined', () => Promise.reject(undefined), 'undefined'],
    ['it has no tryLock', () => Object({ lock: () => true }), 'a function tryLock'],
    ['it is nothing', () => Object(undefined), 'a function tryLock'],
    [
      'the file system has no locks',
      () => ({
        tryLock: () => {
          throw Object.assign(new Error('no locks available'), { code: 'ENOLCK' });
        },
      }),
      'no locks available',
    ],
    ['it answers nonsense', () => ({ tryLock: () => Object('yes') }), 'neither true nor false'],
  ])('since %s', async (_, load, reason) => {
    for (const exists of [false, true]) {
      const path = newPath();
      if (exists) fs.writeFileSync(path, new Uint8Array(SIZE));
      const storage = await open(path, load);
      expect(storage.lock).toBe('ticket');
      expect(storage.lockReason).toContain(reason);
      expect(tickets(path).length).toBe(1);
      expect(tickets(path)[0]).toMatch(/^2\.t\./);
      for (const kind of [load, ...KINDS]) {
        expect(await codeThrown(() => open(path, kind))).toBe('STORAGE_LOCKED');
      }
      await storage.close();
      expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
    }
  });

  test.each(['EAGAIN', 'EACCES', 'EBUSY', 'EWOULDBLOCK'])(
    'but not since another has it, which systems say as %s',
    async (code) => {
      const load: LoadLock = () => ({
        tryLock: () => {
          throw Object.assign(new Error(code), { code });
        },
      });
      expect(await codeThrown(() => open(newPath(), load))).toBe('STORAGE_LOCKED');
    },
  );
});

describe('where locks stay in the kernel though other machines may mount the files', () => {
  const line = (options: string): string =>
    `36 35 0:52 / /mnt rw,noatime shared:1 - nfs4 server:/export rw,vers=4.2,${options},addr=1.2.3.4\n`;

  test('the options of a mount are found by its device', () => {
    const mountinfo = `1 0 8:1 / / rw - ext4 /dev/sda1 rw\n${line('local_lock=none')}`;
    expect(mountOptions(mountinfo, 0, 52)).toContain('local_lock=none');
    expect(mountOptions(mountinfo, 8, 1)).toBe('rw');
    expect(mountOptions(mountinfo, 8, 2)).toBeUndefined();
  });

  test.each<[string, number, string | undefined, boolean]>([
    ['ext4', 0xef53, undefined, true],
    ['tmpfs', 0x01021994, undefined, true],
    ['FUSE', 0x65735546, undefined, false],
    ['9p', 0x01021997, undefined, false],
    ['NFS', 0x6969, 'rw,vers=4.2,local_lock=none', true],
    ['NFS with local locks', 0x6969, 'rw,local_lock=posix', false],
    ['NFS with local locks of all kinds', 0x6969, 'rw,local_lock=all,vers=3', false],
    ['NFS with local locks of the other kind', 0x6969, 'rw,local_lock=flock,vers=3', true],
    ['NFS without locks', 0x6969, 'nolock,vers=3', false],
    ['NFS that nothing is known of', 0x6969, undefined, false],
    ['SMB', 0xfe534d42, 'rw,vers=3.1.1', true],
    ['SMB without locks', 0xfe534d42, 'rw,nobrl', false],
  ])('%s', (_, type, options, reaches) => {
    expect(reachOf(type, options)).toBe(reaches);
  });

  test('what cannot be found out is no reach', async () => {
    expect(await reachesAllMachines('/')).toBe(true);
    if (process.platform === 'linux') expect(await reachesAllMachines('/no/such')).toBe(false);
  });
});

test.skipIf(!ROOT)('the lock of another user is STORAGE_LOCKED, living or dead', async () => {
  const directory = fs.realpathSync(temporaryDirectory());
  fs.chmodSync(directory, 0o777);
  const path = join(directory, 'disk.img');
  const storage = await open(path, 'ticket');
  fs.chmodSync(path, 0o666);
  const asNobody = async (kind: Kind): Promise<unknown> => {
    process.setegid?.(65534);
    process.seteuid?.(65534);
    try {
      return await errorThrown(() => open(path, kind));
    } finally {
      process.seteuid?.(0);
      process.setegid?.(0);
    }
  };
  for (const kind of KINDS) {
    expect(await asNobody(kind)).toMatchObject({ code: 'STORAGE_LOCKED' });
  }
  await storage.close();
  putTicket(path, ticket('p'));
  fs.chmodSync(`${path}.lock`, 0o700);
  for (const kind of KINDS) {
    const error = await asNobody(kind);
    expect(error).toMatchObject({ code: 'STORAGE_LOCKED' });
    expect(Object(error).message).toContain('may not change');
  }
});
