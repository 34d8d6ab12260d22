// The options of `FileStorage.open`, and the checks that need no file.
//
// Each option is read once, into a copy, so that a getter, or a caller that changes the object while the file is being opened,
// cannot give two different values. An unknown option is refused, because a misspelt `lock` or `readOnly` would silently not be
// set. What depends on the file as well, above all its size, is checked when the file is open (`settleSize`).
//
// Not here: what the options mean for the lock and the descriptors (open-file.ts).

import { fileURLToPath } from 'node:url';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  FUNCTION,
  formatValue,
  type KnownOptions,
  misuse,
  oneOf,
  wholeNumber,
} from 'write-barrier/kit';
import type { FileCalls } from './calls.js';

/** Options of `FileStorage.open`. */
export interface FileStorageOptions {
  /**
   * In bytes, whole blocks, at least 0. A missing file is created with this size. A shorter file is extended: its new bytes are a hole,
   * which reads as zero and takes space when it is written. A longer file is refused; `resize` truncates.
   *
   * @defaultValue the size of the file; a block device always has its own
   */
  readonly size?: number;
  /**
   * Whether a missing file may be created.
   *
   * @defaultValue true if `size` is set and `readOnly` is not
   */
  readonly create?: boolean;
  /**
   * Every write fails with `READ_ONLY`. A read-only opening takes no lock and ignores the locks of others: it can damage
   * nothing, but may read what a writer has written in part.
   *
   * @defaultValue false
   */
  readonly readOnly?: boolean;
  /**
   * In bytes, at least 1. For a block device it must be a multiple of the logical block size.
   *
   * @defaultValue 512, which most disks write as a whole; for a block device its logical block size
   */
  readonly blockSize?: number;
  /**
   * `exclusive`: a second writer, in this process or another one, is refused with `STORAGE_LOCKED`. A file is locked by the
   * operating system, if the optional package fs-native-extensions loads, and with a ticket in the directory `<file>.lock`
   * beside it; `FileStorage.lock` says which. A block device is claimed from the kernel, which also refuses mounted devices.
   * `none` takes no lock and ignores the locks of others: two writers may then overwrite each other, and neither can rely on
   * its order and its flushes. The page "How to lock a file" says which writers each lock excludes.
   *
   * @defaultValue `'exclusive'`
   */
  readonly lock?: 'exclusive' | 'none';
  /**
   * Writes of up to this many bytes are made on the calling thread, because handing bytes to the page cache costs less than
   * waking another thread. Reads, flushes and FUA writes are never made there.
   *
   * Such a write blocks the whole program while the system makes it wait. After one of more than 50 ms, or two in a row of more
   * than 1 ms, the next ones go to the thread pool, for ten times as long as the last one took. A single one of 1 to 50 ms
   * changes nothing, because on a busy machine it was another program that ran meanwhile; so a disk that holds up one write in
   * many holds up the program each time. And a write that never returns, for example to a dead network server or to a file
   * system that this program itself serves, blocks the program for good. For a program that does little else than write this
   * file, as a server does, 65536 is a good value.
   *
   * @defaultValue 0: no write is made on the calling thread
   */
  readonly inlineWriteMax?: number;
  /**
   * Replaces functions of `node:fs`.
   *
   * @internal for fault injection in tests
   */
  readonly fs?: Partial<FileCalls>;
}

const BYTES = wholeNumber(1);

const RULES: KnownOptions<FileStorageOptions> = {
  size: wholeNumber(),
  create: BOOLEAN,
  readOnly: BOOLEAN,
  blockSize: BYTES,
  lock: oneOf(['exclusive', 'none']),
  inlineWriteMax: wholeNumber(),
  fs: true, // has rules of its own
};

const CALLS: KnownOptions<FileCalls> = {
  open: true,
  fstat: true,
  ftruncate: true,
  read: true,
  write: true,
  writev: true,
  writeSync: true,
  writevSync: true,
  fsync: true,
  fdatasync: true,
  close: true,
  loadLock: true,
};

/**
 * The path of a path or of the URL of a file.
 *
 * @throws `INVALID_ARGUMENT` for anything else. A URL as a string is refused, because as a path it would name a file in a
 *   directory `file:`.
 */
export function pathOf(path: string | URL): string {
  if (typeof path === 'string') {
    if (/^file:\/\//i.test(path)) throw notPath(path, `; pass new URL(${formatValue(path)})`);
    if (path === '' || path.includes('\0')) throw notPath(path);
    return path;
  }
  if (typeof path !== 'object' || path === null || typeof path.href !== 'string') {
    throw notPath(path);
  }
  let found: string;
  try {
    found = fileURLToPath(path.href);
  } catch (cause) {
    throw notPath(path.href, '', { cause });
  }
  if (found.includes('\0')) throw notPath(path.href);
  return found;
}

function notPath(path: unknown, advice = '', options?: ErrorOptions): Error {
  const allowed = 'the path must be a string without NUL, or a URL object of a file';
  return misuse(`${allowed}, not ${formatValue(path)}${advice}`, options);
}

/**
 * A copy of the options, each read once.
 *
 * @throws `INVALID_ARGUMENT` for what is wrong without regard to the file
 */
export function checkFileStorageOptions(given: FileStorageOptions): FileStorageOptions {
  const options = readOnce(given, RULES, 'FileStorage.open');
  const { size, create, readOnly, fs = {} } = options;
  if (create && readOnly) throw misuse('create: true needs readOnly: false');
  if (create && size === undefined) throw misuse('create: true needs a size for the new file');
  const calls = readOnce<Partial<FileCalls>>(fs, CALLS, "FileStorage.open's fs");
  for (const [name, call] of Object.entries(calls)) checkArgument(`fs.${name}`, call, FUNCTION);
  return { ...options, fs: calls };
}

/** A copy of the options, checked. The first check is of the names and reads no value. */
function readOnce<T extends object>(given: T, rules: KnownOptions<T>, of: string): T {
  const names = Object.keys(rules);
  checkOptions(given, Object.fromEntries(names.map((name) => [name, true])) as typeof rules, of);
  const copy = names.map((name) => [name, Reflect.get(given, name)] as const);
  const options = Object.fromEntries(copy.filter(([, value]) => value !== undefined)) as T;
  checkOptions(options, rules, of);
  return options;
}
