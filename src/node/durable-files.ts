// Two things that programs do with whole files, so that a power cut leaves something whole: no storage, no scheduler.
//
//   R1  `replaceFile`: after a power cut the file has the old content or the new one, and the new one if the call was answered.
//       The new content is durable in a file of its own before it gets the name, because a file system may make the name
//       durable before the bytes. Then the directory is synced, because the name is an entry of the directory.
//   R2  `appendRecord`: after a power cut every record that was answered is read back, in order. A record that was on its way is
//       there as a whole, or not at all, because its checksum tells.
//   R3  What is left of a record that was cut off is removed, durably, before the next one is appended. Behind such bytes a
//       record would not be read, and on top of them it could be mixed with them.
//   R4  The record before it is written again with each record, because its sync may have failed, in this process or an earlier
//       one. The system tells that once, and takes its bytes for written from then on.
//
// Not here: two processes that append to one file; a directory that is itself new and not durable.

import { createHash, randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, readFile, realpath, rename, stat, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { WriteBarrierError } from 'write-barrier';
import { checkArgument, misuse, rule } from 'write-barrier/kit';
import { codeOf, ioError } from './calls.js';
import { NO_DIRECTORY_SYNC } from './open-file.js';
import { pathOf } from './options.js';

/** A lone surrogate has no bytes in UTF-8, so another character would be read back. */
const isText = (value: unknown): value is string =>
  typeof value === 'string' && !/\p{Surrogate}/u.test(value);
const LINE = rule(
  (value) => isText(value) && !value.includes('\n'),
  'a string without a line feed and without lone surrogates, such as JSON',
);
const CONTENT = rule(
  (value) => isText(value) || value instanceof Uint8Array,
  'a string without lone surrogates or a Uint8Array',
);
/** In front of a record: eight digits of its checksum, and a space. */
const HEAD = 9;
/** The head of a record that was cut off: a file system may leave zeroes where its bytes did not come. */
const CUT_OFF = /^[\da-f\0]{0,8}(?:[ \0]|$)/;
/** How much of the end of a file is read to find its last record, in bytes; twice as much where that is too little. */
const TAIL = 65_536;

/**
 * Replaces the content of a file, or makes the file: after a power cut it has the old content or the new one, whole, and the new
 * one if the call was answered. It costs two fsyncs. The permissions stay; a symbolic link stays, and its file is replaced.
 *
 * @param path a path, or a URL object whose protocol is `file:`
 * @param data bytes, or a text without lone surrogates, which have no bytes in UTF-8
 * @throws `INVALID_ARGUMENT` for a wrong argument; `IO_FAILED` if the system refuses, with its error as the `cause`: then the file
 *   has the old content, except where the message says that only the directory could not be synced
 */
export async function replaceFile(path: string | URL, data: string | Uint8Array): Promise<void> {
  const name = pathOf(path);
  checkArgument('data', data, CONTENT);
  const target = await orMissing(realpath(name), resolve(name));
  const folder = dirname(target);
  const temporary = join(folder, `.${randomUUID()}.tmp`);
  try {
    const mode = (await orMissing(stat(target), undefined))?.mode;
    await withFile(
      temporary,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
      async (file) => {
        if (mode !== undefined) await file.chmod(mode);
        await file.writeFile(data);
        await file.sync();
      },
    );
    await rename(temporary, target);
  } catch (cause) {
    await unlink(temporary).catch(() => {});
    throw ioError(`replacing ${target}`, cause);
  }
  await syncFolder(folder);
}

/** The last append to each file of this process, by its path; the next one waits for it. */
const appending = new Map<string, Promise<void>>();
/** Files whose entry in the directory this process has made durable. */
const entered = new Set<string>();

/**
 * Appends a record to a file of records, or makes the file. When the call is answered, the record is durable: `readRecords` has it
 * after a power cut. Calls of one process take turns. It costs one fdatasync; the first call for a file costs an fsync of its
 * directory as well.
 *
 * @param path a path, or a URL object whose protocol is `file:`
 * @param record a text without line feeds and without lone surrogates, which have no bytes in UTF-8; JSON.stringify makes none
 * @throws `INVALID_ARGUMENT` for a wrong argument, and for a file that ends with something else than records, which is not changed;
 *   `IO_FAILED` if the system refuses, with its error as the `cause`: then the record may be there or not
 */
export async function appendRecord(path: string | URL, record: string): Promise<void> {
  const file = resolve(pathOf(path));
  checkArgument('record', record, LINE);
  const before = appending.get(file) ?? Promise.resolve();
  const own = before.catch(() => {}).then(() => append(file, record));
  appending.set(file, own);
  try {
    await own;
  } finally {
    if (appending.get(file) === own) appending.delete(file);
  }
}

/**
 * The records of a file, in the order in which they were appended; none if the file is missing. A record that was cut off by a
 * power cut is left out.
 *
 * @throws `INVALID_ARGUMENT` for a wrong path; `IO_FAILED` if the system refuses
 */
export async function readRecords(path: string | URL): Promise<string[]> {
  const name = pathOf(path);
  const bytes = await orMissing(readFile(name), Buffer.of()).catch((cause) => {
    throw ioError(`reading ${name}`, cause);
  });
  const lines = bytes.toString('utf8').split('\n').slice(0, -1);
  const bad = lines.findIndex((line) => !isRecord(line));
  return lines.slice(0, bad < 0 ? undefined : bad).map((line) => line.slice(HEAD));
}

async function append(path: string, record: string): Promise<void> {
  let isNew = false;
  try {
    await withFile(path, constants.O_RDWR | constants.O_CREAT, async (file) => {
      const { size } = await file.stat();
      isNew = size === 0;
      const { offset, last } = await lastOf(file, path, size);
      if (offset + last.length < size) {
        await file.truncate(offset + last.length);
        await file.sync();
      }
      const bytes = Buffer.concat([last, Buffer.from(`${checksumOf(record)} ${record}\n`)]);
      for (let at = 0; at < bytes.length; ) {
        at += (await file.write(bytes, at, bytes.length - at, offset + at)).bytesWritten;
      }
      await file.datasync();
    });
  } catch (cause) {
    throw WriteBarrierError.is(cause) ? cause : ioError(`appending to ${path}`, cause);
  }
  if (entered.has(path) && !isNew) return;
  await syncFolder(dirname(path));
  entered.add(path);
}

/** R3: the last record, empty if there is none. At most one record was on its way, so at most one line behind it is none. */
async function lastOf(
  file: FileHandle,
  path: string,
  size: number,
): Promise<{ readonly offset: number; readonly last: Uint8Array }> {
  for (let length = Math.min(TAIL, size); ; length = Math.min(2 * length, size)) {
    const start = size - length;
    const tail = Buffer.alloc(length);
    for (let at = 0; at < length; ) {
      const { bytesRead } = await file.read(tail, at, length - at, start + at);
      if (bytesRead === 0) throw new Error('another program cuts the file');
      at += bytesRead;
    }
    const startOf = (end: number): number => (end < 2 ? 0 : tail.lastIndexOf('\n', end - 2) + 1);
    const isWhole = (from: number, to: number): boolean =>
      from === to || isRecord(tail.toString('utf8', from, to - 1));
    let end = tail.lastIndexOf('\n') + 1;
    if (!isWhole(startOf(end), end)) end = startOf(end);
    const offset = startOf(end);
    // The record must begin in what was read.
    if (offset === 0 && start > 0) continue;
    const rest = tail.toString('latin1', end, end + HEAD);
    if (!isWhole(offset, end) || !CUT_OFF.test(rest)) {
      throw misuse(`${path} ends with something else than records, and is not changed`);
    }
    return { offset: start + offset, last: tail.subarray(offset, end) };
  }
}

function isRecord(line: string): boolean {
  return line.slice(0, HEAD) === `${checksumOf(line.slice(HEAD))} `;
}

function checksumOf(record: string): string {
  return createHash('sha256')
    .update(record)
    .digest('hex')
    .slice(0, HEAD - 1);
}

async function withFile(
  path: string,
  flags: number,
  use: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const file = await open(path, flags, 0o666);
  try {
    await use(file);
  } finally {
    await file.close();
  }
}

/** Windows has nothing to sync a directory with. */
async function syncFolder(path: string): Promise<void> {
  try {
    await withFile(path, constants.O_RDONLY, (folder) => folder.sync());
  } catch (cause) {
    if (NO_DIRECTORY_SYNC.includes(codeOf(cause))) return;
    throw ioError(
      `syncing the directory ${path}`,
      cause,
      ', so the entry of the file may not be durable',
    );
  }
}

/** What an absent file has instead. */
function orMissing<T, U>(found: Promise<T>, missing: U): Promise<T | U> {
  return found.catch((error) => {
    if (codeOf(error) === 'ENOENT') return missing;
    throw error;
  });
}
