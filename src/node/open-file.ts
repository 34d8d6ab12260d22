// From a path to descriptors that are safe to write through, or to an error and no trace.
//
//   O1  What a failed open has made, it takes back: descriptors, lock, and the file if it created
//       it. The same list of undoings, without the last, is what closing does.
//   O2  The lock is held before the file is created, extended or opened, and given back last.
//   O3  A created or extended file has its size on the medium before anybody writes to it, and its
//       name: a flush of the file covers the size of a file that grew, never the entry in its
//       directory.
//   O4  Both descriptors are opened before the first write. One that is opened later may never be
//       told of a failed write-back that others have seen.

import * as fs from 'node:fs';
import { realpath, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { WriteBarrierError } from 'write-barrier';
import { blockDevice } from './block-device.js';
import { asking, codeOf, doing, type FileCalls, ioError } from './calls.js';
import { locked, lockFile, registerInode } from './file-lock.js';
import { InlineWrites } from './inline-writes.js';
import { checkOptions, type FileStorageOptions, misuse, settleSize } from './options.js';

/** A file or block device, open. */
export interface OpenFile {
  /** With symbolic links resolved. */
  readonly path: string;
  readonly calls: FileCalls;
  readonly fd: number;
  /** A descriptor whose writes return when the data is on the medium, where there can be one. */
  readonly fuaFd: number | undefined;
  readonly readOnly: boolean;
  readonly size: number;
  readonly blockSize: number;
  readonly inlineWrites: InlineWrites;
  /** Closes the descriptors and unlocks, whatever fails; then throws the first failure. */
  readonly release: () => Promise<void>;
}

type Undo = () => void | Promise<void>;
type Kind = 'file' | 'block' | 'missing';

const { O_CREAT, O_DSYNC, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY } = fs.constants;
const MODE = 0o666; // less the umask
const BLOCK_SIZE = 512;
/** A symbolic link that leads nowhere is never there and always in the way. */
const TRIES_MAX = 10;
/** Where directories cannot be opened or synced (Windows, some network file systems). */
const NO_DIRECTORY_SYNC: readonly unknown[] = ['EISDIR', 'EPERM', 'EINVAL', 'ENOTSUP'];

/** See `FileStorage.open`. */
export async function openFile(path: string, options: FileStorageOptions): Promise<OpenFile> {
  checkOptions(path, options);
  const undos: Undo[] = [];
  try {
    return await openWith(path, options, undos);
  } catch (error) {
    // The error that matters is the first; what goes wrong while tidying up would hide it.
    await unwind(undos, path).catch(() => undefined);
    throw error;
  }
}

async function openWith(
  name: string,
  options: FileStorageOptions,
  undos: Undo[],
): Promise<OpenFile> {
  const calls: FileCalls = { ...fs, ...options.fs };
  const readOnly = options.readOnly === true;
  const exclusive = !readOnly && options.lock !== 'none';
  const kind = await kindOf(name, options);
  const path = await resolved(name, kind);
  if (exclusive && kind !== 'block') undos.push(await lockFile(path));

  let opened = false;
  const claim = exclusive && kind === 'block' ? O_EXCL : 0;
  const access = (readOnly ? O_RDONLY : O_RDWR) | claim;
  const { fd, created } = await openDescriptor(calls, path, access, options);
  if (created) undos.push(async () => (opened ? undefined : unlink(path)));
  undos.push(() => doing((done) => calls.close(fd, done)));

  const stats = await asking<fs.BigIntStats>((done) => calls.fstat(fd, { bigint: true }, done));
  const isBlock = stats.isBlockDevice();
  if (isBlock !== (kind === 'block') || !(isBlock || stats.isFile())) {
    throw new WriteBarrierError('IO_FAILED', `${path} was replaced while it was being opened`);
  }
  const inode = `${stats.dev}:${stats.ino}`;
  if (exclusive && !isBlock) undos.push(registerInode(inode, path));

  const device = isBlock ? await blockDevice(stats.rdev) : undefined;
  const blockSize = options.blockSize ?? device?.logicalBlockSize ?? BLOCK_SIZE;
  if (device && blockSize % device.logicalBlockSize !== 0) {
    throw misuse(`${path} has blocks of ${device.logicalBlockSize} bytes, not of ${blockSize}`);
  }
  const actual = device?.size ?? Number(stats.size);
  const size = settleSize(path, options.size, actual, blockSize, !readOnly && !isBlock);
  if (size > actual) await extend(calls, fd, path, size);

  const fuaFd = readOnly ? undefined : await openForced(calls, path, inode);
  if (fuaFd !== undefined) undos.push(() => doing((done) => calls.close(fuaFd, done)));
  opened = true;
  const inlineWrites = new InlineWrites(options.inlineWriteMax ?? 0);
  const release = (): Promise<void> => unwind(undos, path);
  return { path, calls, fd, fuaFd, readOnly, size, blockSize, inlineWrites, release };
}

async function unwind(undos: Undo[], path: string): Promise<void> {
  const failures: unknown[] = [];
  for (let undo = undos.pop(); undo !== undefined; undo = undos.pop()) {
    try {
      await undo();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw ioError(`closing ${path}`, failures[0]);
}

/** Looks before anything is opened: opening a pipe would wait for its other end. */
async function kindOf(path: string, options: FileStorageOptions): Promise<Kind> {
  try {
    const stats = await stat(path);
    if (stats.isFile()) return 'file';
    if (!stats.isBlockDevice()) throw misuse(`${path} is neither a file nor a block device`);
    if (process.platform === 'linux') return 'block';
  } catch (error) {
    if (error instanceof WriteBarrierError) throw error;
    if (codeOf(error) !== 'ENOENT') throw ioError(`opening ${path}`, error);
    if (mayCreate(options)) return 'missing';
    throw misuse(`${path} does not exist; with a size it can be created`, error);
  }
  throw misuse(`${path} is a block device; their size is known on Linux only`);
}

async function resolved(path: string, kind: Kind): Promise<string> {
  try {
    if (kind !== 'missing') return await realpath(path);
    return join(await realpath(dirname(path)), basename(path));
  } catch (error) {
    throw ioError(`opening ${path}`, error);
  }
}

/** What was missing may be there by now, and the other way round: others open files as well. */
async function openDescriptor(
  calls: FileCalls,
  path: string,
  access: number,
  options: FileStorageOptions,
): Promise<{ readonly fd: number; readonly created: boolean }> {
  const open = (flags: number): Promise<number> =>
    asking((done) => calls.open(path, flags, MODE, done));
  for (let tries = 1; ; tries += 1) {
    try {
      return { fd: await open(access), created: false };
    } catch (error) {
      if (codeOf(error) === 'EBUSY' && (access & O_EXCL) !== 0) {
        throw locked(path, 'the kernel (it is mounted, or another process has claimed it)');
      }
      if (codeOf(error) !== 'ENOENT' || !mayCreate(options))
        throw ioError(`opening ${path}`, error);
    }
    try {
      return { fd: await open(access | O_CREAT | O_EXCL), created: true };
    } catch (error) {
      if (codeOf(error) !== 'EEXIST' || tries === TRIES_MAX)
        throw ioError(`opening ${path}`, error);
    }
  }
}

function mayCreate({ size, create, readOnly }: FileStorageOptions): boolean {
  return create ?? (size !== undefined && readOnly !== true);
}

/** O3. */
async function extend(calls: FileCalls, fd: number, path: string, size: number): Promise<void> {
  try {
    await doing((done) => calls.ftruncate(fd, size, done));
    await doing((done) => calls.fsync(fd, done));
  } catch (error) {
    throw ioError(`giving ${path} a size of ${size} bytes`, error);
  }
  try {
    await syncDirectory(calls, dirname(path));
  } catch (error) {
    if (!NO_DIRECTORY_SYNC.includes(codeOf(error))) {
      throw ioError(`syncing the directory of ${path}`, error);
    }
  }
}

async function syncDirectory(calls: FileCalls, path: string): Promise<void> {
  const fd = await asking<number>((done) => calls.open(path, O_RDONLY, 0, done));
  try {
    await doing((done) => calls.fsync(fd, done));
  } finally {
    await doing((done) => calls.close(fd, done));
  }
}

/**
 * Undefined where there is no real FUA. Only Linux is known to carry O_DSYNC past the drive's
 * cache; macOS has the flag and leaves the data in the drive.
 */
async function openForced(
  calls: FileCalls,
  path: string,
  inode: string,
): Promise<number | undefined> {
  if (process.platform !== 'linux' || O_DSYNC === undefined) return undefined;
  let fd: number;
  try {
    fd = await asking((done) => calls.open(path, O_WRONLY | O_DSYNC, MODE, done));
  } catch {
    return undefined; // and the capabilities say so
  }
  const stats = await asking<fs.BigIntStats>((done) => calls.fstat(fd, { bigint: true }, done));
  if (`${stats.dev}:${stats.ino}` === inode) return fd;
  await doing((done) => calls.close(fd, done));
  return undefined;
}
