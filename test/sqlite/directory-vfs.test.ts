// The file system for SQLite, without power cuts: the cases of wa-sqlite's own tests of file systems, and what real SQLite does on it.

import * as SQLite from '@journeyapps/wa-sqlite/src/sqlite-constants.js';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, withFaults } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { DirectoryVfs } from 'write-barrier/sqlite';
import * as codes from '../../src/sqlite/codes.js';
import { Engine, SeededVfs } from './engine.js';

const SIZE = 1 << 20;
const FILE = 1;
const CREATE = SQLite.SQLITE_OPEN_CREATE | SQLite.SQLITE_OPEN_READWRITE;

test('its numbers are those of SQLite', () => {
  const known: Readonly<Record<string, unknown>> = { ...SQLite };
  for (const [name, value] of Object.entries(codes)) {
    expect([name, value]).toEqual([name, known[name]]);
  }
});

/** The methods with numbers and bytes in the place of pointers. */
function called(files: Directory) {
  const HEAPU8 = new Uint8Array(4096);
  const view = new DataView(HEAPU8.buffer);
  const UTF8ToString = (at: number): string =>
    new TextDecoder().decode(HEAPU8.subarray(at, HEAPU8.indexOf(0, at)));
  const vfs = new DirectoryVfs('test', { HEAPU8, UTF8ToString }, files);
  const NAME = 16;
  const OUT = 256;
  const DATA = 1024;
  const put = (name: string | null): number => {
    if (name === null) return 0;
    HEAPU8.set(new TextEncoder().encode(`${name}\0`), NAME);
    return NAME;
  };
  const low = (offset: number): number => offset | 0;
  const high = (offset: number): number => Math.floor(offset / 2 ** 32);
  return {
    vfs,
    open: async (name: string | null, flags: number, file = FILE) => {
      const code = await vfs.xOpen(0, put(name), file, flags, OUT);
      return { code, flags: view.getInt32(OUT, true) };
    },
    isThere: (name: string) => {
      expect(vfs.xAccess(0, put(name), 0, OUT)).toBe(SQLite.SQLITE_OK);
      return view.getInt32(OUT, true) === 1;
    },
    remove: (name: string) => vfs.xDelete(0, put(name), 1),
    write: (data: number[], offset: number) => {
      HEAPU8.set(data, DATA);
      return vfs.xWrite(FILE, DATA, data.length, low(offset), high(offset));
    },
    read: async (length: number, offset: number) => {
      HEAPU8.fill(0xfb, DATA);
      const code = await vfs.xRead(FILE, DATA, length, low(offset), high(offset));
      return { code, bytes: [...HEAPU8.subarray(DATA, DATA + length)] };
    },
    size: () => {
      vfs.xFileSize(FILE, OUT);
      return Number(view.getBigInt64(OUT, true));
    },
    fullName: (name: string, length: number) => {
      const code = vfs.xFullPathname(0, put(name), length, OUT);
      return { code, name: UTF8ToString(OUT) };
    },
    isReserved: (file: number) => {
      vfs.xCheckReservedLock(file, OUT);
      return view.getInt32(OUT, true) === 1;
    },
  };
}

let files: Directory;
let call: ReturnType<typeof called>;
beforeEach(async () => {
  files = await Directory.open(new IoScheduler(new MemoryStorage(SIZE)), { create: true });
  call = called(files);
});

describe('xOpen', () => {
  for (const kind of [0, SQLite.SQLITE_OPEN_MAIN_DB]) {
    test(`makes a file, of kind ${kind}`, async () => {
      expect(await call.open('test', CREATE | kind)).toEqual({ code: 0, flags: CREATE | kind });
      expect(call.isThere('test')).toBe(true);
    });
  }

  test('makes no file that it may not make', async () => {
    const { code } = await call.open('test', SQLite.SQLITE_OPEN_READWRITE);
    expect(code).toBe(SQLite.SQLITE_CANTOPEN);
    expect(call.isThere('test')).toBe(false);
  });

  test('opens a file that is there, with its bytes', async () => {
    await call.open('test', CREATE);
    await call.write([1, 2, 3], 0);
    await call.vfs.xClose(FILE);
    const flags = SQLite.SQLITE_OPEN_READWRITE;
    expect(await call.open('test', flags)).toEqual({ code: 0, flags });
    expect(call.size()).toBe(3);
  });

  test('makes a file without a name, of which the directory knows nothing', async () => {
    expect(await call.open(null, CREATE)).toEqual({ code: 0, flags: CREATE });
    expect(await call.write([1, 2, 3], 5000)).toBe(SQLite.SQLITE_OK);
    expect(await call.read(5, 4999)).toEqual({
      code: SQLite.SQLITE_IOERR_SHORT_READ,
      bytes: [0, 1, 2, 3, 0],
    });
    expect(await call.vfs.xTruncate(FILE, 5001, 0)).toBe(SQLite.SQLITE_OK);
    expect(await call.vfs.xSync(FILE, 0)).toBe(SQLite.SQLITE_OK);
    expect([call.size(), files.names]).toEqual([5001, []]);
  });

  test('refuses a name that is too long, and says why', async () => {
    expect((await call.open('x'.repeat(113), CREATE)).code).toBe(SQLite.SQLITE_CANTOPEN);
    expect(call.vfs.lastError).toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('xClose', () => {
  test('leaves the file', async () => {
    await call.open('test', CREATE);
    await call.vfs.xClose(FILE);
    expect(call.isThere('test')).toBe(true);
  });

  test('removes a file that is to be removed', async () => {
    await call.open('test', CREATE | SQLite.SQLITE_OPEN_DELETEONCLOSE);
    expect(call.isThere('test')).toBe(true);
    await call.vfs.xClose(FILE);
    expect(call.isThere('test')).toBe(false);
  });
});

describe('xRead, xWrite and xTruncate', () => {
  const data = [1, 2, 3, 4, 5, 6, 7, 8];
  beforeEach(() => call.open('test', CREATE));

  test('give back what was written', async () => {
    expect(await call.write(data, 0)).toBe(SQLite.SQLITE_OK);
    expect(await call.read(8, 0)).toEqual({ code: SQLite.SQLITE_OK, bytes: data });
    expect(await call.write([9], 3)).toBe(SQLite.SQLITE_OK);
    expect((await call.read(4, 2)).bytes).toEqual([3, 9, 5, 6]);
  });

  test('say that a read was short, and give zeroes for the rest', async () => {
    await call.write(data, 0);
    const code = SQLite.SQLITE_IOERR_SHORT_READ;
    expect(await call.read(16, 0)).toEqual({ code, bytes: [...data, ...Array(8).fill(0)] });
    expect(await call.read(4, 2 ** 33)).toEqual({ code, bytes: [0, 0, 0, 0] });
  });

  test('give zeroes for a hole, and cut', async () => {
    await call.write(data, 100_000);
    expect((await call.read(4, 99_998)).bytes).toEqual([0, 0, 1, 2]);
    expect(await call.vfs.xTruncate(FILE, 100_001, 0)).toBe(SQLite.SQLITE_OK);
    expect(call.size()).toBe(100_001);
  });

  test('say that the disk is full, and that is all that happens', async () => {
    expect(await call.write(data, SIZE)).toBe(SQLite.SQLITE_FULL);
    expect(call.vfs.lastError).toMatchObject({ code: 'NO_SPACE' });
    expect(call.size()).toBe(0);
    // Above 2^31 the lower half of an offset is negative.
    expect(await call.write(data, 2 ** 31)).toBe(SQLite.SQLITE_FULL);
  });
});

test('a file that is removed is gone, and one that is missing is said to be', async () => {
  await call.open('test', CREATE);
  await call.vfs.xClose(FILE);
  expect(await call.remove('test')).toBe(SQLite.SQLITE_OK);
  expect(call.isThere('test')).toBe(false);
  expect(await call.remove('test')).toBe(SQLite.SQLITE_IOERR_DELETE_NOENT);
});

test('a name is a full path as it is, if it fits', () => {
  expect(call.fullName('a/b c', 6)).toEqual({ code: SQLite.SQLITE_OK, name: 'a/b c' });
  expect(call.fullName('a/b c', 5).code).toBe(SQLite.SQLITE_CANTOPEN);
});

describe('xFileControl', () => {
  const [BEGIN, COMMIT, ROLLBACK] = [31, 32, 33];
  const control = (operation: number): Promise<number> => call.vfs.xFileControl(FILE, operation, 0);
  beforeEach(async () => {
    await call.open('test', CREATE);
    await call.write([1, 1, 1, 1], 0);
  });

  test('writes what comes between begin and commit at the commit, and nothing after a rollback', async () => {
    expect(await control(BEGIN)).toBe(SQLite.SQLITE_OK);
    await call.write([2], 0);
    await call.write([3, 3], 5);
    expect(call.size()).toBe(4);
    expect(await control(COMMIT)).toBe(SQLite.SQLITE_OK);
    expect((await call.read(7, 0)).bytes).toEqual([2, 1, 1, 1, 0, 3, 3]);
    expect(await control(BEGIN)).toBe(SQLite.SQLITE_OK);
    await call.write([4], 0);
    expect(await control(ROLLBACK)).toBe(SQLite.SQLITE_OK);
    await call.write([5], 1);
    expect((await call.read(7, 0)).bytes).toEqual([2, 5, 1, 1, 0, 3, 3]);
  });

  // SQLite writes a journal after an error of this kind, and gives up after others.
  test('answers that a commit failed if there is no room for it, and nothing of it is there', async () => {
    await control(BEGIN);
    await call.write([2], 0);
    await call.write([2], 2 ** 31);
    expect(await control(COMMIT)).toBe(SQLite.SQLITE_IOERR_COMMIT_ATOMIC);
    expect(await control(ROLLBACK)).toBe(SQLite.SQLITE_OK);
    expect(call.vfs.lastError).toMatchObject({ code: 'NO_SPACE' });
    expect([call.size(), (await call.read(4, 0)).bytes]).toEqual([4, [1, 1, 1, 1]]);
  });

  test('has no other operation', async () => {
    expect(await control(SQLite.SQLITE_FCNTL_SIZE_HINT)).toBe(SQLite.SQLITE_NOTFOUND);
    await call.open(null, CREATE, 2);
    expect(await call.vfs.xFileControl(2, BEGIN, 0)).toBe(SQLite.SQLITE_NOTFOUND);
  });
});

describe('locks of several connections', () => {
  const { SQLITE_OK: OK, SQLITE_BUSY: BUSY } = SQLite;
  const [SHARED, RESERVED, EXCLUSIVE] = [1, 2, 4];
  beforeEach(async () => {
    for (const file of [1, 2, 3]) await call.open('test', CREATE, file);
  });
  const lock = (file: number, level: number): number => call.vfs.xLock(file, level);

  test('let many read and one prepare to write, and that one waits for the readers', async () => {
    expect([lock(1, SHARED), lock(2, SHARED), lock(1, RESERVED)]).toEqual([OK, OK, OK]);
    expect([1, 2, 3].map((file) => call.isReserved(file))).toEqual([true, true, true]);
    expect([lock(2, RESERVED), lock(2, EXCLUSIVE)]).toEqual([BUSY, BUSY]);
    expect([lock(1, EXCLUSIVE), lock(3, SHARED)]).toEqual([BUSY, BUSY]);
    await call.vfs.xUnlock(2, 0);
    expect([lock(1, EXCLUSIVE), lock(2, SHARED)]).toEqual([OK, BUSY]);
    await call.vfs.xUnlock(1, SHARED);
    expect([lock(2, SHARED), lock(2, RESERVED), call.isReserved(1)]).toEqual([OK, OK, true]);
  });

  test('end with the connection that has them', async () => {
    expect([lock(1, SHARED), lock(1, RESERVED), lock(1, EXCLUSIVE)]).toEqual([OK, OK, OK]);
    await call.vfs.xClose(1);
    expect([call.isReserved(2), lock(2, SHARED), lock(2, EXCLUSIVE)]).toEqual([false, OK, OK]);
  });

  test('are of one file', async () => {
    await call.open('other', CREATE, 9);
    expect([lock(1, SHARED), lock(1, EXCLUSIVE), lock(9, SHARED), lock(9, EXCLUSIVE)]).toEqual([
      OK,
      OK,
      OK,
      OK,
    ]);
  });
});

test('a disk that fails is an I/O error for SQLite, and the error is kept', async () => {
  const storage = withFaults(new MemoryStorage(SIZE), [{ on: 'flush', nth: 3, fault: 'fail' }]);
  const failing = called(await Directory.open(new IoScheduler(storage), { create: true }));
  const outcomes: number[] = [];
  await failing.open('test', CREATE);
  for (let n = 0; n < 4; n++) {
    await failing.write([n], n);
    outcomes.push(await failing.vfs.xSync(FILE, 0));
  }
  expect(outcomes).toContain(SQLite.SQLITE_IOERR_FSYNC);
  expect(outcomes.at(-1)).toBe(SQLite.SQLITE_IOERR_FSYNC);
  expect(failing.vfs.lastError).toMatchObject({ code: 'FAILED' });
});

describe('real SQLite', () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await Engine.load();
  });

  const modes = ['DELETE', 'TRUNCATE', 'PERSIST', 'MEMORY', 'WAL'];
  test.each(modes)('keeps a database in journal mode %s', async (mode) => {
    const vfs = (): SeededVfs => new SeededVfs(engine.module, files, 1);
    await engine.connect(vfs(), async (database) => {
      if (mode === 'WAL') await database('PRAGMA locking_mode = EXCLUSIVE');
      expect(await database(`PRAGMA journal_mode = ${mode}`)).toEqual([mode.toLowerCase()]);
      await database('PRAGMA cache_size = 10');
      await database(
        'CREATE TABLE t (n INTEGER PRIMARY KEY, body BLOB); CREATE INDEX i ON t (body)',
      );
      for (let n = 0; n < 3; n++) {
        await database(`
          WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 30)
          INSERT INTO t (body) SELECT randomblob(300) FROM c`);
      }
      await database('BEGIN; DELETE FROM t WHERE n % 3 = 0; ROLLBACK');
      await database('DELETE FROM t WHERE n > 60; VACUUM');
    });
    const shown = await engine.connect(vfs(), async (database) => [
      ...(mode === 'WAL' ? await database('PRAGMA locking_mode = EXCLUSIVE') : ['exclusive']),
      ...(await database('SELECT count(*), sum(n) FROM t; PRAGMA integrity_check')),
    ]);
    expect(shown).toEqual(['exclusive', `60|${(60 * 61) / 2}`, 'ok']);
  });

  // directory-vfs.V6: without the claim SQLite writes its journal to the disk.
  test('writes in batches, and by a journal once synchronous was set to what may be OFF', async () => {
    const hasJournal = async (values: readonly string[]): Promise<boolean> => {
      let isThere = false;
      const { remove } = Directory.prototype;
      const spied: Directory = await Directory.open(new IoScheduler(new MemoryStorage(SIZE)), {
        create: true,
      });
      spied.remove = (name) => {
        isThere ||= name === 'db-journal';
        return remove.call(spied, name);
      };
      await engine.connect(new SeededVfs(engine.module, spied, 1), async (database) => {
        await database('CREATE TABLE t (n)');
        // The first page of a database is written by a journal.
        isThere = false;
        for (const value of values) await database(`PRAGMA Synchronous${value}`);
        await database('INSERT INTO t VALUES (1)');
      });
      return isThere;
    };
    for (const value of ['', ' = FULL', " = 'normal'", '(EXTRA)', ' = 2', ' = yes']) {
      expect([value, await hasJournal([value])]).toEqual([value, false]);
    }
    for (const value of [' = OFF', ' = off', '(0)', " = 'No'", ' = false', ' = 7', ' = 8']) {
      expect([value, await hasJournal([value])]).toEqual([value, true]);
    }
    expect(await hasJournal([' = OFF', ' = FULL'])).toBe(true);
  });

  test('changes two databases in one transaction', async () => {
    await engine.connect(new SeededVfs(engine.module, files, 1), async (database) => {
      await database("ATTACH 'other' AS other; CREATE TABLE t (n); CREATE TABLE other.t (n)");
      await database('BEGIN; INSERT INTO t VALUES (1); INSERT INTO other.t VALUES (2); COMMIT');
      await database('BEGIN; INSERT INTO t VALUES (3); INSERT INTO other.t VALUES (4); ROLLBACK');
      expect(await database('SELECT n FROM t; SELECT n FROM other.t')).toEqual(['1', '2']);
    });
    expect(files.names.sort()).toEqual(['db', 'other']);
  });

  test('has two connections, of which one at a time writes', async () => {
    await engine.pair(new SeededVfs(engine.module, files, 1), async (a, b) => {
      await a('CREATE TABLE t (n)');
      await a('BEGIN IMMEDIATE; INSERT INTO t VALUES (1)');
      expect(await b('SELECT count(*) FROM t')).toEqual(['0']);
      await expect(b('BEGIN IMMEDIATE')).rejects.toThrow('locked');
      await a('COMMIT');
      await b('INSERT INTO t VALUES (2)');
      expect(await a('SELECT count(*) FROM t')).toEqual(['2']);
    });
  });

  test('is told when the disk is full, and goes on with what it has', async () => {
    await engine.connect(new SeededVfs(engine.module, files, 1), async (database) => {
      await database('CREATE TABLE t (body)');
      await expect(database(`INSERT INTO t VALUES (zeroblob(${2 * SIZE}))`)).rejects.toThrow(
        'full',
      );
      await database('INSERT INTO t VALUES (1)');
      expect(await database('SELECT * FROM t; PRAGMA integrity_check')).toEqual(['1', 'ok']);
    });
  });

  // directory-vfs.V3: the medium is read while the first program is still there, and has synced nothing.
  test('loses no commit when the program ends, also with synchronous OFF', async () => {
    const memory = new MemoryStorage(SIZE);
    const open = (bytes: Uint8Array): Promise<Directory> =>
      Directory.open(new IoScheduler(new MemoryStorage(bytes)), { create: true });
    await engine.connect(
      new SeededVfs(engine.module, await open(memory.bytes), 1),
      async (database) => {
        await database('PRAGMA synchronous = OFF; CREATE TABLE t (n); INSERT INTO t VALUES (7)');
        const killed = memory.bytes.slice();
        const other = await Engine.load();
        const shown = await other.connect(
          new SeededVfs(other.module, await open(killed), 2),
          (again) => again('SELECT * FROM t'),
        );
        expect(shown).toEqual(['7']);
      },
    );
  });
});
