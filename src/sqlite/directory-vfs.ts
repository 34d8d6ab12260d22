// What SQLite wants of a file system, on the files of a directory: the methods of https://www.sqlite.org/c3ref/vfs.html and
// https://www.sqlite.org/c3ref/io_methods.html, with pointers into the memory of the compiled SQLite.
//
// Claims: SQLite leaves out syncs where the file system says that it keeps an order by itself. These claims are true here:
//
//   V1  SEQUENTIAL: writes reach the medium in the order of their calls. It is about all files together, because a page of the
//       database must not be ahead of its journal; directory.D1 says so of all operations, deletions too.
//   V2  SAFE_APPEND: the size of a file is never ahead of its bytes; POWERSAFE_OVERWRITE: a write harms no byte beside it
//       (directory.D3).
//   V6  BATCH_ATOMIC: what is written between a begin and a commit is one operation of the directory (directory.D3). So SQLite keeps its
//       journal in memory, and a transaction is one write and one flush. If the log cannot hold it, the commit is refused, and
//       SQLite writes a journal. With `synchronous = OFF` SQLite keeps the journal in memory as well, but writes without begin
//       and commit. So a connection that was ever set to OFF has no such claim from then on.
//
// So a power cut leaves a prefix of what SQLite did, with every journal mode that has a journal on the disk, and with
// `synchronous = OFF`, too: the database is never damaged. What is durable, SQLite decides: a sync is a flush, and covers all files.
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

type OpenFile = DirectoryFile | MemoryFile;

interface Opened {
  readonly file: OpenFile;
  readonly locks: Locks;
  /** V6: what is to be written together. */
  batch: (readonly [offset: number, data: Uint8Array])[] | undefined;
  /** V6. */
  hasBatches: boolean;
  /** Removed when it is closed. */
  readonly isTemporary: boolean;
}

const CLAIMS =
  SQLITE.SQLITE_IOCAP_SEQUENTIAL |
  SQLITE.SQLITE_IOCAP_SAFE_APPEND |
  SQLITE.SQLITE_IOCAP_POWERSAFE_OVERWRITE;

/** The methods that answer later. */
const LATER: ReadonlySet<string> = new Set(
  ['Open', 'Delete', 'Close', 'Read', 'Write', 'Truncate', 'Sync', 'Unlock', 'FileControl'].map(
    (name) => `x${name}`,
  ),
);

/** Values of `synchronous` other than OFF. Of other words and numbers some mean OFF as well. */
const SYNCING: ReadonlySet<string> = new Set('normal full extra on yes true 1 2 3'.split(' '));

/** The first day of 1970 in milliseconds of the Julian day. */
const UNIX_EPOCH = 210_866_760_000_000n;

/**
 * A file system for wa-sqlite, on the files of a `Directory`. SQLite keeps its order without syncs, because the directory does: a
 * transaction is one write and one flush, without a journal on the disk, and no setting of `synchronous` damages the database.
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
  /** Weak, because a journal is a new file each time. */
  readonly #locks = new WeakMap<DirectoryFile, Locks>();
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
      const file = name === undefined ? new MemoryFile() : await this.#files.open(name);
      const locks = file instanceof MemoryFile ? new Locks() : this.#locksOf(file);
      this.#opened.set(pFile, {
        file,
        locks,
        batch: undefined,
        hasBatches: !(file instanceof MemoryFile),
        isTemporary,
      });
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
      const { file, batch } = this.#at(pFile);
      if (batch) batch.push([offsetOf(low, high), data]);
      else await file.write(offsetOf(low, high), data);
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

  /** Writes pages together, and looks at what `synchronous` is set to (V6). */
  xFileControl(pFile: number, operation: number, pArg: number): Promise<number> {
    return this.#guarded(SQLITE.SQLITE_IOERR_COMMIT_ATOMIC, async () => {
      const opened = this.#at(pFile);
      const { file, batch } = opened;
      if (operation === SQLITE.SQLITE_FCNTL_PRAGMA && this.#endsSyncs(pArg)) {
        opened.hasBatches = false;
      }
      if (file instanceof MemoryFile) return SQLITE.SQLITE_NOTFOUND;
      switch (operation) {
        case SQLITE.SQLITE_FCNTL_BEGIN_ATOMIC_WRITE:
          opened.batch = [];
          return SQLITE.SQLITE_OK;
        case SQLITE.SQLITE_FCNTL_COMMIT_ATOMIC_WRITE:
          opened.batch = undefined;
          await file.writeAll(batch ?? []);
          return SQLITE.SQLITE_OK;
        case SQLITE.SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE:
          opened.batch = undefined;
          return SQLITE.SQLITE_OK;
        default:
          return SQLITE.SQLITE_NOTFOUND;
      }
    });
  }

  /** In bytes. */
  xSectorSize(_file: number): number {
    return 512;
  }

  /** What SQLite may rely on (V1, V2, V6). */
  xDeviceCharacteristics(pFile: number): number {
    const hasBatches = this.#opened.get(pFile)?.hasBatches === true;
    return hasBatches ? CLAIMS | SQLITE.SQLITE_IOCAP_BATCH_ATOMIC : CLAIMS;
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

  /** Whether it is a pragma after which SQLite may not sync any more; an answer to a question leaves all as it was. */
  #endsSyncs(pArg: number): boolean {
    const [name, value] = [4, 8].map((at) => {
      const pointer = this.#view.getUint32(pArg + at, true);
      return pointer === 0 ? undefined : this.#module.UTF8ToString(pointer).toLowerCase();
    });
    return name === 'synchronous' && value !== undefined && !SYNCING.has(value);
  }

  /** V4. */
  async #guarded(failure: number, run: () => Promise<number>): Promise<number> {
    try {
      return await run();
    } catch (error) {
      this.#lastError = error;
      // V6: after this one SQLite writes a journal, after a full disk it would give up.
      if (failure === SQLITE.SQLITE_IOERR_COMMIT_ATOMIC) return failure;
      const isFull = WriteBarrierError.is(error) && error.code === 'NO_SPACE';
      return isFull ? SQLITE.SQLITE_FULL : failure;
    }
  }
}

/** V5. */
class MemoryFile implements Pick<DirectoryFile, 'size' | 'read' | 'write' | 'truncate'> {
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
