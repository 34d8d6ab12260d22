// What SQLite wants of a file system, on the files of a directory: the methods of https://www.sqlite.org/c3ref/vfs.html and
// https://www.sqlite.org/c3ref/io_methods.html, with pointers into the memory of the compiled SQLite.
//
// Claims: SQLite leaves out syncs where the file system says that it keeps an order by itself. These claims are true here:
//
//   V1  SEQUENTIAL: writes reach the medium in the order of their calls. It is about all files together, because a page of the
//       database must not be ahead of its journal; directory.D1 says so of all operations, deletions too.
//   V2  SAFE_APPEND: the size of a file is never ahead of its bytes; POWERSAFE_OVERWRITE: a write harms no byte beside it
//       (directory.D3).
//
// So a power cut leaves a prefix of what SQLite did, with every journal mode and with `synchronous = OFF`, too: the database is
// never damaged. What is durable, SQLite decides: a sync is a flush, and covers all files.
//
//   V3  When a connection gives up its lock after a change, what it did is handed to the disk without a flush. So the end of the process
//       loses no commit, whatever `synchronous` says. A connection in exclusive locking mode never gives it up.
//   V4  SQLite cannot be thrown through. What a call threw is `lastError`, and SQLite is told the code of the failure.
//   V5  Files without a name are in memory, because SQLite makes them for itself and needs them no longer than it runs.
//
// The directory answers later, so this needs a build of SQLite that waits: Asyncify or JSPI.
//
// Not here: shared memory, without which WAL mode needs `locking_mode = EXCLUSIVE`; other programs, which the storage keeps out.

import { WriteBarrierError } from 'write-barrier';
import type { Directory, DirectoryFile } from 'write-barrier/directory';
import * as SQLITE from './codes.js';
import { Locks } from './locks.js';

/** What a compiled SQLite has of its memory. It may be another array after every call. */
export interface SqliteModule {
  /** The memory; pointers are offsets. */
  readonly HEAPU8: Uint8Array;
  /** The text at a pointer, up to its zero. */
  UTF8ToString(pointer: number): string;
}

/** What an open file can do. */
type OpenFile = Pick<DirectoryFile, 'size' | 'read' | 'write' | 'truncate'>;

interface Opened {
  readonly file: OpenFile;
  readonly locks: Locks;
  /** Removed when it is closed. */
  readonly isTemporary: boolean;
}

const CLAIMS =
  SQLITE.SQLITE_IOCAP_SEQUENTIAL |
  SQLITE.SQLITE_IOCAP_SAFE_APPEND |
  SQLITE.SQLITE_IOCAP_POWERSAFE_OVERWRITE;

/** The methods that answer later. */
const LATER: ReadonlySet<string> = new Set(
  ['Open', 'Delete', 'Close', 'Read', 'Write', 'Truncate', 'Sync', 'Unlock'].map(
    (name) => `x${name}`,
  ),
);

/** The first day of 1970 in milliseconds of the Julian day. */
const UNIX_EPOCH = 210_866_760_000_000n;

/**
 * A file system for wa-sqlite, on the files of a `Directory`. SQLite keeps its order without syncs, because the directory does: a
 * transaction with a rollback journal needs one flush, and no setting of `synchronous` damages the database.
 *
 * The methods are those of SQLite's own interface, which document them.
 *
 * @example
 * ```ts
 * import { Factory } from '@journeyapps/wa-sqlite';
 * import instantiate from '@journeyapps/wa-sqlite/dist/wa-sqlite-async.mjs';
 *
 * const module = await instantiate();
 * const sqlite3 = Factory(module);
 * sqlite3.vfs_register(new DirectoryVfs('directory', module, files), true);
 * const db = await sqlite3.open_v2('app.db');
 * ```
 */
export class DirectoryVfs {
  /** By which SQLite knows the file system. */
  readonly name: string;
  /** In bytes: how long a name may be. */
  readonly mxPathname: number = 112;
  readonly #module: SqliteModule;
  readonly #files: Directory;
  /** By SQLite's own record of an open file. */
  readonly #opened = new Map<number, Opened>();
  readonly #locks = new Map<DirectoryFile, Locks>();
  #lastError: unknown;

  /**
   * @param name by which SQLite is to know the file system
   * @param module the compiled SQLite, a build with Asyncify or JSPI
   * @param files where the files are. It stays yours: close it when all connections are closed
   */
  constructor(name: string, module: SqliteModule, files: Directory) {
    this.name = name;
    this.#module = module;
    this.#files = files;
  }

  /** What the latest call threw that failed: the error behind SQLite's result code. */
  get lastError(): unknown {
    return this.#lastError;
  }

  /** wa-sqlite asks for it. Nothing is to be released. */
  close(): void {}

  /** wa-sqlite asks for it. */
  isReady(): boolean {
    return true;
  }

  /** Whether the method answers with a promise. */
  hasAsyncMethod(method: string): boolean {
    return LATER.has(method);
  }

  /** Opens a file; one without a name is in memory. */
  xOpen(
    _vfs: number,
    zName: number,
    pFile: number,
    flags: number,
    pOutFlags: number,
  ): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_CANTOPEN, async () => {
      const name = zName === 0 ? undefined : this.#module.UTF8ToString(zName);
      const mayCreate = (flags & SQLITE.SQLITE_OPEN_CREATE) !== 0;
      if (name !== undefined && !mayCreate && !this.#files.has(name)) return SQLITE.SQLITE_CANTOPEN;
      const isTemporary = name !== undefined && (flags & SQLITE.SQLITE_OPEN_DELETEONCLOSE) !== 0;
      if (name === undefined) {
        this.#opened.set(pFile, { file: new MemoryFile(), locks: new Locks(), isTemporary });
      } else {
        const file = await this.#files.open(name);
        this.#opened.set(pFile, { file, locks: this.#locksOf(file), isTemporary });
      }
      this.#view.setInt32(pOutFlags, flags, true);
      return SQLITE.SQLITE_OK;
    });
  }

  /** Removes a file; with `syncDir` the answer says that this is durable. */
  xDelete(_vfs: number, zName: number, syncDir: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_DELETE, async () => {
      const name = this.#module.UTF8ToString(zName);
      if (!this.#files.has(name)) return SQLITE.SQLITE_IOERR_DELETE_NOENT;
      await this.#files.remove(name);
      if (syncDir !== 0) await this.#files.sync();
      return SQLITE.SQLITE_OK;
    });
  }

  /** Whether there is a file of that name. */
  xAccess(_vfs: number, zName: number, _flags: number, pResOut: number): number {
    const isThere = this.#files.has(this.#module.UTF8ToString(zName));
    this.#view.setInt32(pResOut, isThere ? 1 : 0, true);
    return SQLITE.SQLITE_OK;
  }

  /** A name is a full path as it is. */
  xFullPathname(_vfs: number, zName: number, nOut: number, zOut: number): number {
    const { HEAPU8 } = this.#module;
    const end = HEAPU8.indexOf(0, zName) + 1;
    if (end - zName > nOut) return SQLITE.SQLITE_CANTOPEN;
    HEAPU8.copyWithin(zOut, zName, end);
    return SQLITE.SQLITE_OK;
  }

  /** Random bytes, if this is the default file system. */
  xRandomness(_vfs: number, length: number, pOut: number): number {
    const { HEAPU8 } = this.#module;
    const random = new Uint8Array(Math.min(length, 65_536));
    crypto.getRandomValues(random);
    HEAPU8.set(random, pOut);
    return random.length;
  }

  /** The time in milliseconds of the Julian day. */
  xCurrentTimeInt64(_vfs: number, pTime: number): number {
    this.#view.setBigInt64(pTime, UNIX_EPOCH + BigInt(Date.now()), true);
    return SQLITE.SQLITE_OK;
  }

  /** SQLite asks for the system's error, and there is no system. */
  xGetLastError(): number {
    return SQLITE.SQLITE_OK;
  }

  /** Closes a file, and removes it if it was temporary. */
  xClose(pFile: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_CLOSE, async () => {
      const opened = this.#opened.get(pFile);
      this.#opened.delete(pFile);
      if (!opened) return SQLITE.SQLITE_OK;
      opened.locks.unlock(pFile, SQLITE.SQLITE_LOCK_NONE);
      if (opened.isTemporary) await this.#files.remove((opened.file as DirectoryFile).name);
      return SQLITE.SQLITE_OK;
    });
  }

  /** Reads bytes; behind the end of the file they are zero, and SQLite is told of it. */
  xRead(pFile: number, pData: number, length: number, low: number, high: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_READ, async () => {
      const bytes = await this.#at(pFile).file.read(offsetOf(low, high), length);
      // The memory may have moved meanwhile.
      const { HEAPU8 } = this.#module;
      HEAPU8.set(bytes, pData);
      if (bytes.length === length) return SQLITE.SQLITE_OK;
      HEAPU8.fill(0, pData + bytes.length, pData + length);
      return SQLITE.SQLITE_IOERR_SHORT_READ;
    });
  }

  /** Writes bytes, and extends the file if need be. */
  xWrite(pFile: number, pData: number, length: number, low: number, high: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_WRITE, async () => {
      const data = new Uint8Array(this.#module.HEAPU8.subarray(pData, pData + length));
      await this.#at(pFile).file.write(offsetOf(low, high), data);
      return SQLITE.SQLITE_OK;
    });
  }

  /** Cuts a file. */
  xTruncate(pFile: number, low: number, high: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_TRUNCATE, async () => {
      await this.#at(pFile).file.truncate(offsetOf(low, high));
      return SQLITE.SQLITE_OK;
    });
  }

  /** Makes all durable, in all files. */
  xSync(pFile: number, _flags: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_FSYNC, async () => {
      if (!(this.#at(pFile).file instanceof MemoryFile)) await this.#files.sync();
      return SQLITE.SQLITE_OK;
    });
  }

  /** The size of a file in bytes. */
  xFileSize(pFile: number, pSize: number): number {
    this.#view.setBigInt64(pSize, BigInt(this.#at(pFile).file.size), true);
    return SQLITE.SQLITE_OK;
  }

  /** Takes a lock, or answers that another connection is in the way. */
  xLock(pFile: number, level: number): number {
    return this.#at(pFile).locks.lock(pFile, level);
  }

  /** Gives locks up (V3). */
  xUnlock(pFile: number, level: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_UNLOCK, async () => {
      if (this.#at(pFile).locks.unlock(pFile, level)) await this.#files.writeOut();
      return SQLITE.SQLITE_OK;
    });
  }

  /** Whether any connection is about to write. */
  xCheckReservedLock(pFile: number, pResOut: number): number {
    this.#view.setInt32(pResOut, this.#at(pFile).locks.isReserved ? 1 : 0, true);
    return SQLITE.SQLITE_OK;
  }

  /** There are no operations of its own. */
  xFileControl(_file: number, _operation: number, _pArg: number): number {
    return SQLITE.SQLITE_NOTFOUND;
  }

  /** In bytes. */
  xSectorSize(_file: number): number {
    return 512;
  }

  /** What SQLite may rely on (V1, V2). */
  xDeviceCharacteristics(_file: number): number {
    return CLAIMS;
  }

  get #view(): DataView {
    return new DataView(this.#module.HEAPU8.buffer);
  }

  #at(pFile: number): Opened {
    const opened = this.#opened.get(pFile);
    if (!opened) throw new WriteBarrierError('INVALID_ARGUMENT', 'the file is not open');
    return opened;
  }

  #locksOf(file: DirectoryFile): Locks {
    const known = this.#locks.get(file);
    if (known) return known;
    const locks = new Locks();
    this.#locks.set(file, locks);
    return locks;
  }

  /** V4. */
  async #guarded(failure: number, run: () => Promise<number>): Promise<number> {
    try {
      return await run();
    } catch (error) {
      this.#lastError = error;
      const isFull = WriteBarrierError.is(error) && error.code === 'NO_SPACE';
      return isFull ? SQLITE.SQLITE_FULL : failure;
    }
  }
}

/** V5. */
class MemoryFile implements OpenFile {
  #bytes = new Uint8Array(0);
  size = 0;

  async read(offset: number, length: number): Promise<Uint8Array> {
    return this.#bytes.slice(offset, Math.min(offset + length, this.size));
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    const end = offset + data.length;
    if (end > this.#bytes.length) {
      const longer = new Uint8Array(Math.max(end, 2 * this.#bytes.length));
      longer.set(this.#bytes.subarray(0, this.size));
      this.#bytes = longer;
    }
    this.#bytes.set(data, offset);
    this.size = Math.max(this.size, end);
  }

  async truncate(size: number): Promise<void> {
    this.#bytes = this.#bytes.slice(0, size);
    this.size = Math.min(size, this.size);
  }
}

/** A 64-bit number comes in two halves, both signed. */
function offsetOf(low: number, high: number): number {
  return high * 2 ** 32 + (low >>> 0);
}
