// Opens a file or block device for one writer: from a path to descriptors that are safe to write through, or to an error that
// leaves no trace.
//
//   O1  A failed opening undoes what it did: descriptors, lock, and the file, if it created the file and no other writer can
//       have it open. Closing runs the same list of undo steps, except the removal of the file.
//   O2  Before the lock is held nothing changes, except that a missing file may be created, empty (file-lock.ts says in which
//       order lock and descriptor come). Then the name must still belong to the open file; otherwise opening starts again,
//       because the previous holder of the lock may have removed a file that it had created.
//   O3  The size and the name of a created or extended file are on the medium before the first write. A flush of the file
//       covers its size, but never its entry in the directory, so the directory is synced here.
//   O4  Both descriptors are opened before the first write, because a descriptor that is opened later may not get the error of
//       an earlier failed write-back.

import * as fs from 'node:fs';
import { realpath, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { IoFailedError, WriteBarrierError } from 'write-barrier';
import { formatValue, misuse, settleSize } from 'write-barrier/kit';
import { asking, codeOf, doing, type FileCalls, ioError, type PlatformLock } from './calls.js';
import { FileLock, loadPlatformLock, Retry, registerInode, replaced } from './file-lock.js';
import { HoleMap } from './hole-map.js';
import { checkFileStorageOptions, type FileStorageOptions, pathOf } from './options.js';
import { blockDevice } from './platform.js';
import { breakTicket, locked } from './tickets.js';

/** An open file or block device. */
export interface OpenFile {
  /** With symbolic links resolved. */
  readonly path: string;
  readonly calls: FileCalls;
  readonly fd: number;
  /** A descriptor whose writes return when the data is on the medium, if the platform has one. */
  readonly fuaFd: number | undefined;
  readonly readOnly: boolean;
  /** When it was opened. */
  readonly size: number;
  /** It is a file, and open for writing. */
  readonly resizable: boolean;
  readonly blockSize: number;
  /** Frees blocks, where package, platform and file system can; the bytes read as zero from then on. */
  readonly trim: PlatformLock['trim'] | undefined;
  /** The holes that are known; undefined if others may write the file, or if it is a device. */
  readonly holes: HoleMap | undefined;
  /** Writes of up to so many bytes are made on the calling thread. */
  readonly inlineWriteMax: number;
  readonly lock: LockKind;
  readonly lockReason: string;
  /** Closes the descriptors and unlocks. A failure does not stop it; the first one is thrown at the end. */
  readonly release: () => Promise<void>;
}

/** `platform`: the lock of the operating system; `ticket`: a ticket in `<file>.lock/` alone; `none`: no lock. */
export type LockKind = 'platform' | 'ticket' | 'none';

type Undo = () => void | Promise<void>;
type Kind = 'file' | 'block' | 'missing';

const { O_CREAT, O_DSYNC, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY } = fs.constants;
const MODE = 0o666; // less the umask
const BLOCK_SIZE = 512;
/** A dangling symbolic link neither opens nor can be created, so trying again must end. */
const TRIES_MAX = 10;
/** How many files a thread opens at once. */
const OPENINGS_MAX = 16;
/** Errors of file systems without O_DSYNC. */
const NO_FORCED: readonly unknown[] = ['EINVAL', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'];
/** Errors of platforms that cannot open or sync directories (Windows, some network file systems). */
export const NO_DIRECTORY_SYNC: readonly unknown[] = ['EISDIR', 'EPERM', 'EINVAL', 'ENOTSUP'];

/** What `FileStorage.open` does. */
export async function openFile(path: string | URL, given: FileStorageOptions): Promise<OpenFile> {
  const name = pathOf(path);
  const options = checkFileStorageOptions(given);
  return inTurn(() => openInTurn(name, options));
}

const waiting: (() => void)[] = [];
let openings = 0;

/**
 * Opens a few files at a time. Each opening needs some descriptors that it does not keep. If hundreds ran at once and descriptors
 * were scarce, all of them could fail.
 */
async function inTurn<T>(open: () => Promise<T>): Promise<T> {
  if (openings === OPENINGS_MAX) await new Promise<void>((resolve) => waiting.push(resolve));
  else openings += 1;
  try {
    return await open();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else openings -= 1;
  }
}

async function openInTurn(name: string, options: FileStorageOptions): Promise<OpenFile> {
  let noPlatform: string | undefined;
  for (let tries = 1; ; tries += 1) {
    const undos: Undo[] = [];
    try {
      return await openWith(name, options, undos, noPlatform);
    } catch (error) {
      // The first error matters; an error of the undo steps would hide it.
      await unwind(undos, name).catch(() => undefined);
      if (!(error instanceof Retry)) {
        throw WriteBarrierError.is(error) ? error : ioError(`opening ${name}`, error);
      }
      noPlatform = error.noPlatform ?? noPlatform;
      if (tries === TRIES_MAX) throw ioError(`opening ${name}`, error);
    }
  }
}

/** What `FileStorage.breakLock` does. */
export async function breakLock(path: string | URL, holder: string): Promise<void> {
  const name = pathOf(path);
  const file = await realpath(name).catch(() => resolved(name, 'missing'));
  await breakTicket(file, holder);
}

async function openWith(
  name: string,
  options: FileStorageOptions,
  undos: Undo[],
  noPlatform: string | undefined,
): Promise<OpenFile> {
  const calls = callsOf(options);
  const readOnly = options.readOnly === true;
  const exclusive = !readOnly && options.lock !== 'none';
  const kind = await kindOf(name, options);
  const path = await resolved(name, kind);
  const lock =
    exclusive && kind !== 'block' ? await FileLock.of(path, calls.loadLock, noPlatform) : undefined;
  if (lock) {
    undos.push(() => lock.release());
    await lock.prepare(kind === 'missing');
  }

  const claim = exclusive && kind === 'block' ? O_EXCL : 0;
  const access = (readOnly ? O_RDONLY : O_RDWR) | claim;
  const { fd, created } = await openDescriptor(calls, path, access, options);
  undos.push(() => doing((done) => calls.close(fd, done)));
  const stats = await asking<fs.BigIntStats>((done) => calls.fstat(fd, { bigint: true }, done));
  const inode = `${stats.dev}:${stats.ino}`;
  let opened = false;
  const isNamed = async (): Promise<boolean> => (await inodeOf(path)) === inode;
  if (created) {
    undos.push(async () => {
      if (opened || (lock && !(await lock.isOurs()))) return;
      // Never a file that another program has put in its place.
      if (await isNamed()) await unlink(path);
    });
  }
  const isBlock = stats.isBlockDevice();
  if (isBlock !== (kind === 'block') || !(isBlock || stats.isFile())) {
    throw new IoFailedError(`${path} was replaced while it was being opened`);
  }
  if (lock) {
    undos.push(registerInode(inode, path));
    await lock.take(fd, isNamed);
    if (!(await isNamed())) throw replaced();
  }

  const device = isBlock ? await blockDevice(stats.rdev) : undefined;
  const blockSize = options.blockSize ?? device?.logicalBlockSize ?? BLOCK_SIZE;
  if (device && blockSize % device.logicalBlockSize !== 0) {
    throw misuse(
      `blockSize must be a multiple of ${device.logicalBlockSize}, the block size of ${path}, not ${blockSize}`,
    );
  }
  const actual = device?.size ?? Number(stats.size);
  const size = settleSize(path, options.size, actual, blockSize, !readOnly && !isBlock);
  if (size > actual || created) await extend(calls, fd, path, size);

  const trim = readOnly || isBlock ? undefined : await findTrim(calls, fd, size);
  const holes = lock && new HoleMap(size, blockSize);
  holes?.add(actual, size);
  const fuaFd = readOnly ? undefined : await openForced(calls, path, inode);
  if (fuaFd !== undefined) undos.push(() => doing((done) => calls.close(fuaFd, done)));
  opened = true;
  const { inlineWriteMax = 0 } = options;
  const release = (): Promise<void> => unwind(undos, path);
  const resizable = !(readOnly || isBlock);
  return {
    ...{ path, calls, fd, fuaFd, readOnly, size, resizable, blockSize, trim, holes },
    ...{ inlineWriteMax, release },
    ...lockOf(lock, exclusive, readOnly),
  };
}

/** The properties `lock` and `lockReason` of the storage. */
function lockOf(
  lock: FileLock | undefined,
  exclusive: boolean,
  readOnly: boolean,
): { readonly lock: LockKind; readonly lockReason: string } {
  if (lock) return { lock: lock.kind, lockReason: lock.reason };
  if (exclusive) return { lock: 'platform', lockReason: 'the kernel has claimed the device' };
  return {
    lock: 'none',
    lockReason: readOnly ? 'a read-only storage takes no lock' : "the option lock is 'none'",
  };
}

function callsOf({ fs: given }: FileStorageOptions): FileCalls {
  const calls: FileCalls = { ...fs, loadLock: loadPlatformLock, ...given };
  const open: FileCalls['open'] = (path, flags, mode, callback) =>
    calls.open(path, flags, mode, (error, fd) => {
      if ((error ?? undefined) === undefined && !(Number.isInteger(fd) && fd >= 0)) {
        callback(
          new Error(`the system returned ${formatValue(fd)}, which is not a file descriptor`),
          fd,
        );
      } else callback(error, fd);
    });
  return { ...calls, open };
}

async function inodeOf(path: string): Promise<string | undefined> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw ioError(`opening ${path}`, error);
  }
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

/** Checks the kind before opening, because opening a pipe would wait for its other end. */
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
    throw misuse(`${path} does not exist; ${wayToCreate(options)}`, { cause: error });
  }
  throw misuse(`${path} is a block device, which is supported on Linux only`);
}

async function resolved(path: string, kind: Kind): Promise<string> {
  try {
    if (kind !== 'missing') return await realpath(path);
    return join(await realpath(dirname(path)), basename(path));
  } catch (error) {
    if (kind !== 'missing' && codeOf(error) === 'ENOENT')
      throw new Retry('it was removed meanwhile');
    throw ioError(`opening ${path}`, error);
  }
}

/** A file that was missing may exist by now, or the other way round, because other programs open files as well. */
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
      if (codeOf(error) !== 'ENOENT' || !mayCreate(options)) throw openError(path, access, error);
    }
    try {
      return { fd: await open(access | O_CREAT | O_EXCL), created: true };
    } catch (error) {
      if (codeOf(error) !== 'EEXIST' || tries === TRIES_MAX)
        throw ioError(`opening ${path}`, error);
    }
  }
}

const MAY_NOT_WRITE: readonly unknown[] = ['EROFS', 'EACCES', 'EPERM'];

function openError(path: string, access: number, error: unknown): WriteBarrierError {
  const isForWriting = (access & O_RDWR) !== 0;
  const advice = '; to open it only for reading, pass readOnly: true';
  const what = `opening ${path}`;
  if (!isForWriting || !MAY_NOT_WRITE.includes(codeOf(error))) return ioError(what, error);
  return ioError(`${what} for writing`, error, advice);
}

function mayCreate({ size, create, readOnly }: FileStorageOptions): boolean {
  return create ?? (size !== undefined && readOnly !== true);
}

function wayToCreate({ create, readOnly }: FileStorageOptions): string {
  if (readOnly) return 'it is not created, because readOnly is true';
  return create === false
    ? 'it is not created, because create is false'
    : 'to create it, pass a size';
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

/** The file system allocates in pages, or in powers of two of them. */
const PAGE = 4096;

/**
 * The function of the optional package that trims; undefined if the package does not load, or if the file system cannot trim, which
 * a trim of nothing finds out: of a page after the end. Only Linux is known to let the trimmed bytes read as zero.
 */
async function findTrim(
  calls: FileCalls,
  fd: number,
  size: number,
): Promise<PlatformLock['trim'] | undefined> {
  if (process.platform !== 'linux') return undefined;
  try {
    const { trim } = await calls.loadLock();
    await trim?.(fd, Math.ceil(size / PAGE) * PAGE, PAGE);
    return trim;
  } catch {
    return undefined;
  }
}

/**
 * Undefined on platforms without real FUA. Only Linux is known to take an O_DSYNC write past the drive's cache; macOS has the
 * flag, but leaves the data in that cache.
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
  } catch (error) {
    // Without O_DSYNC the capabilities state no FUA. Other errors, such as too many open files, are failures.
    if (NO_FORCED.includes(codeOf(error))) return undefined;
    if (codeOf(error) === 'ENOENT') throw replaced();
    throw ioError(`opening ${path} for FUA`, error);
  }
  const stats = await asking<fs.BigIntStats>((done) => calls.fstat(fd, { bigint: true }, done));
  if (`${stats.dev}:${stats.ino}` === inode) return fd;
  await doing((done) => calls.close(fd, done));
  throw replaced();
}
