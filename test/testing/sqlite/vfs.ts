// What SQLite wants of a file system, on the files of files.ts: the methods of https://www.sqlite.org/c3ref/vfs.html and
// of https://www.sqlite.org/c3ref/io_methods.html, with pointers into the memory of the compiled SQLite.
//
// Everything is the same in every run: time stands still, and what SQLite calls random comes from a seed. SQLite asks
// nothing else of the world.
//
// SQLite cannot be thrown through. What a method throws is kept, and SQLite is told of an I/O error.
//
// Not here: locks (there is one connection), and shared memory (without it WAL needs exclusive locking).

import * as SQLite from '@journeyapps/wa-sqlite/src/sqlite-constants.js';
import { FILE_NAMES, type FileName, type SectorFiles } from './files.js';

/** The memory of the compiled SQLite: pointers are offsets into it. It may be another array after every call. */
export interface Memory {
  readonly HEAPU8: Uint8Array;
  UTF8ToString(pointer: number): string;
}

/** What one connection has. */
export interface Mounted {
  readonly files: SectorFiles;
  /** In [0, 1). */
  readonly random: () => number;
  /** The first thing that a method threw. */
  thrown?: unknown;
}

/** Numbers are pointers, lengths, flags and halves of offsets; the answer is a result code, as a rule. */
export type VfsMethods = Readonly<Record<string, (...args: number[]) => number>>;

/** Noon of the first day of 2000, in milliseconds of the Julian day. */
const NOW = 2_451_545n * 86_400_000n;

/** All methods. `mounted` answers what the connection that is open has. */
export function vfsMethods(memory: Memory, mounted: () => Mounted): VfsMethods {
  /** By the pointer to SQLite's own record of an open file. */
  const open = new Map<number, FileName>();
  const methods = { ...nameMethods(memory, mounted, open), ...fileMethods(memory, mounted, open) };
  return Object.fromEntries(
    Object.entries(methods).map(([name, method]) => [name, guarded(method, mounted)]),
  );
}

/** What is asked of the file system, by the name of a file or without one. */
function nameMethods(
  memory: Memory,
  mounted: () => Mounted,
  open: Map<number, FileName>,
): VfsMethods {
  const nameAt = (zName: number): FileName | undefined => {
    const name = zName === 0 ? '' : memory.UTF8ToString(zName);
    return FILE_NAMES.find((known) => known === name);
  };

  return {
    xOpen(_vfs: number, zName: number, pFile: number, flags: number, pOutFlags: number): number {
      const name = nameAt(zName);
      const { files } = mounted();
      if (!name) return SQLite.SQLITE_CANTOPEN;
      if (!files.exists(name)) {
        if ((flags & SQLite.SQLITE_OPEN_CREATE) === 0) return SQLite.SQLITE_CANTOPEN;
        files.create(name);
      }
      open.set(pFile, name);
      viewOf(memory).setInt32(pOutFlags, flags, true);
      return SQLite.SQLITE_OK;
    },
    // With `syncDir` the deletion is to be durable before the answer.
    xDelete(_vfs: number, zName: number, syncDir: number): number {
      const name = nameAt(zName);
      const { files } = mounted();
      if (!name || !files.exists(name)) return SQLite.SQLITE_IOERR_DELETE_NOENT;
      files.remove(name);
      if (syncDir !== 0) files.sync();
      return SQLite.SQLITE_OK;
    },
    // A file of no bytes exists, too. SQLite looks into a journal before it believes in it.
    xAccess(_vfs: number, zName: number, _flags: number, pResOut: number): number {
      const name = nameAt(zName);
      viewOf(memory).setInt32(pResOut, name && mounted().files.exists(name) ? 1 : 0, true);
      return SQLite.SQLITE_OK;
    },
    xFullPathname(_vfs: number, zName: number, nOut: number, zOut: number): number {
      const { HEAPU8 } = memory;
      const end = HEAPU8.indexOf(0, zName) + 1;
      if (end - zName > nOut) return SQLite.SQLITE_CANTOPEN;
      HEAPU8.copyWithin(zOut, zName, end);
      return SQLite.SQLITE_OK;
    },
    xRandomness(_vfs: number, length: number, pOut: number): number {
      const { random } = mounted();
      for (let i = 0; i < length; i++) memory.HEAPU8[pOut + i] = Math.floor(random() * 256);
      return length;
    },
    xCurrentTimeInt64(_vfs: number, pTime: number): number {
      viewOf(memory).setBigInt64(pTime, NOW, true);
      return SQLite.SQLITE_OK;
    },
    xGetLastError: () => SQLite.SQLITE_OK,
  };
}

/** What is asked of an open file. */
function fileMethods(
  memory: Memory,
  mounted: () => Mounted,
  open: Map<number, FileName>,
): VfsMethods {
  const nameOf = (pFile: number): FileName => open.get(pFile) as FileName;

  return {
    xClose(pFile: number): number {
      open.delete(pFile);
      return SQLite.SQLITE_OK;
    },
    xRead(pFile: number, pData: number, length: number, low: number, high: number): number {
      const into = memory.HEAPU8.subarray(pData, pData + length);
      const got = mounted().files.read(nameOf(pFile), into, offsetOf(low, high));
      into.fill(0, got);
      return got < length ? SQLite.SQLITE_IOERR_SHORT_READ : SQLite.SQLITE_OK;
    },
    xWrite(pFile: number, pData: number, length: number, low: number, high: number): number {
      const data = memory.HEAPU8.subarray(pData, pData + length);
      const fits = mounted().files.write(nameOf(pFile), data, offsetOf(low, high));
      return fits ? SQLite.SQLITE_OK : SQLite.SQLITE_FULL;
    },
    xTruncate(pFile: number, low: number, high: number): number {
      mounted().files.truncate(nameOf(pFile), offsetOf(low, high));
      return SQLite.SQLITE_OK;
    },
    xSync(): number {
      mounted().files.sync();
      return SQLite.SQLITE_OK;
    },
    xFileSize(pFile: number, pSize: number): number {
      viewOf(memory).setBigInt64(pSize, BigInt(mounted().files.size(nameOf(pFile))), true);
      return SQLite.SQLITE_OK;
    },
    xLock: () => SQLite.SQLITE_OK,
    xUnlock: () => SQLite.SQLITE_OK,
    xCheckReservedLock(_file: number, pResOut: number): number {
      viewOf(memory).setInt32(pResOut, 0, true);
      return SQLite.SQLITE_OK;
    },
    xFileControl: () => SQLite.SQLITE_NOTFOUND,
    xSectorSize: () => mounted().files.sectorSize,
    xDeviceCharacteristics: () => mounted().files.characteristics,
  };
}

function guarded(
  method: (...args: number[]) => number,
  mounted: () => Mounted,
): (...args: number[]) => number {
  return (...args) => {
    try {
      return method(...args);
    } catch (error) {
      mounted().thrown ??= error;
      return SQLite.SQLITE_IOERR;
    }
  };
}

function viewOf({ HEAPU8 }: Memory): DataView {
  return new DataView(HEAPU8.buffer);
}

function offsetOf(low: number, high: number): number {
  return high * 2 ** 32 + (low >>> 0);
}
