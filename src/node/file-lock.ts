// Prevents two writers from opening one file: with the lock of the operating system if there is one, and always with a ticket
// beside the file, so that writers with the system's lock and writers without it exclude each other.
//
//   with the system's lock:   open, lock, announce, contend, hold     (a missing file: announce before it is created)
//   without:                  announce, contend, hold, open
//
// Invariants:
//   K1  Of two writers that use the system's lock the system refuses one, by whatever names they opened the file. Of any other
//       two writers one is refused because of the other's ticket (tickets.L1): a writer with the system's lock has a ticket as
//       well, and holds the file only after it has contended with the ticket.
//   K2  A writer that has the system's lock removes tickets that say "platform", because an owner that is alive would still
//       have that lock. It respects all other tickets, except those of owners that are certainly dead. If other machines may
//       have the file open while the lock is known to this kernel only (platform.ts), this is done only for tickets of
//       this boot of this machine.
//   K3  A missing file is created only after the writer has announced itself, so that a refusal, or too many open files,
//       leaves no file.
//   K4  On release, first the file is removed if it was created by a failed opening, then descriptors are closed, then the
//       ticket is removed. A ticket may be removed earlier, by the next holder of the name (K2) or by `breakLock`. Then
//       another writer may use the file already, so an opener without its ticket removes no file, and starts again.
//
// Not here: waiting for a lock. If the file system is read-only except for this file (a container that mounts a single file)
// there is no ticket: other writers cannot create one either, so the system's lock suffices.
//
// The lock of the operating system is on an open file. It belongs to the file and not to its name. It ends with the descriptor, and
// so with a close, a terminated worker or a killed process, and it does not depend on process numbers, machine-ids and clocks.
// Node has no call for it; the optional package fs-native-extensions has. If that package is missing, has no binary for the
// platform, or does not load (in Deno never), tickets are the lock, and the reason is in `lockReason`.
//
//   Linux    an open file description lock (F_OFD_SETLK) on all possible bytes. It covers all bytes, so that it also excludes
//            programs that lock some bytes (QEMU 100 to 203, SQLite those at 1 GiB). It is advisory: readers, and programs
//            that do not lock, are not stopped.
//   macOS    flock, which always locks the whole file. Advisory as well.
//   Windows  LockFileEx on one byte at 2^62, which no file has. The lock is mandatory there, so on all bytes it would stop
//            every other reader of the file. It does not exclude programs that lock the data.
//
// The lock belongs to the descriptor, so the storage keeps that descriptor open. A second descriptor of the same file may be
// closed (the older POSIX locks would be lost by that).

import { WriteBarrierError } from 'write-barrier';
import { invariant, messageOf } from 'write-barrier/kit';
import { codeOf, type FileCalls, ioError, type PlatformLock } from './calls.js';
import {
  isDead,
  isSameRun,
  reachesAllMachines,
  type ThreadIdentity,
  thisThread,
} from './platform.js';
import { announce, type Judge, locked, type OwnTicket, platformHolder } from './tickets.js';

/** Opening must release the lock and start again, because the file or its lock changed meanwhile. */
export class Retry extends Error {
  /** Why the system has no lock for the file: then tickets alone are the lock. */
  readonly noPlatform: string | undefined;

  constructor(why: string, noPlatform?: string) {
    super(why);
    this.noPlatform = noPlatform;
  }
}

/** The name now belongs to another file. */
export const replaced = (): Retry => new Retry('it was replaced again and again');

/** The lock of a file that is being opened. */
export class FileLock {
  readonly kind: 'platform' | 'ticket';
  /** Why it is of this kind. */
  readonly reason: string;
  readonly #file: string;
  readonly #us: ThreadIdentity;
  /** The system's lock; undefined where tickets alone are the lock. */
  readonly #lock: PlatformLock | undefined;
  #ticket: OwnTicket | undefined;
  #isAlone = false;

  private constructor(file: string, us: ThreadIdentity, platform: PlatformLock | string) {
    const isReason = typeof platform === 'string';
    this.kind = isReason ? 'ticket' : 'platform';
    this.#file = file;
    this.#us = us;
    this.#lock = isReason ? undefined : platform;
    this.reason = isReason ? platform : SYSTEM_LOCK;
  }

  /**
   * @param file its name with symbolic links resolved
   * @param noPlatform why the system has no lock for the file, if that is known already
   */
  static async of(
    file: string,
    load: FileCalls['loadLock'],
    noPlatform?: string,
  ): Promise<FileLock> {
    const platform = noPlatform ?? (await findPlatformLock(load));
    try {
      return new FileLock(file, thisThread(), platform);
    } catch (error) {
      throw ioError(`locking ${file}`, error);
    }
  }

  /** Whether no other writer can have the file open: then its creator may remove it (K4). */
  async isOurs(): Promise<boolean> {
    // Without a ticket, none can have been removed.
    return this.#isAlone && (this.#ticket === undefined || (await this.#ticket.isThere()));
  }

  /**
   * Call it before the file is opened, or created if it `isMissing`.
   *
   * @throws `STORAGE_LOCKED`, `IO_FAILED`; `Retry`
   */
  async prepare(isMissing: boolean): Promise<void> {
    // K3. If the file exists the system's lock comes first, because a ticket alone would refuse writers that use tickets.
    if (this.#lock && !isMissing) return;
    invariant(this.#ticket === undefined, 'file-lock.K3: a writer announces itself once');
    this.#ticket = await this.#announce();
    await this.#contend((ticket) => {
      if (this.#lock && ticket.by === 'platform') return 'ignored'; // the system decides who gets the lock
      return isDead(ticket, this.#us) ? 'over' : 'counts';
    });
    if (this.#lock) return;
    this.#isAlone = true;
    await this.#hold();
  }

  /**
   * Takes the lock with the open descriptor.
   *
   * @param isNamed whether the name still belongs to the open file
   * @throws `STORAGE_LOCKED`, `IO_FAILED`; `Retry`
   */
  async take(fd: number, isNamed: () => Promise<boolean>): Promise<void> {
    if (!this.#lock) return;
    invariant(!this.#isAlone, 'file-lock.K1: a lock is taken once');
    const file = this.#file;
    const outcome = tryPlatformLock(this.#lock, fd);
    if (outcome === 'held') {
      const owner =
        (await platformHolder(file)) ??
        'another program, or this program, which has it open under another path';
      throw locked(file, `${owner} (with ${SYSTEM_LOCK})`);
    }
    if (outcome !== 'taken') {
      throw new Retry('the system has no lock for the file', outcome.reason);
    }
    const reaches = await reachesAllMachines(file);
    // Writers that use tickets have been contended with already, and no other writer can have the lock.
    this.#isAlone = this.#ticket !== undefined && reaches;
    if (!(await isNamed())) throw replaced(); // K2
    this.#ticket ??= await this.#announce();
    await this.#contend((ticket) => {
      const isOver = ticket.by === 'platform' && (reaches || isSameRun(ticket, this.#us)); // K2
      return isOver || isDead(ticket, this.#us) ? 'over' : 'counts';
    });
    this.#isAlone = true;
    await this.#hold();
  }

  /** Call it after the descriptor is closed. */
  async release(): Promise<void> {
    await this.#ticket?.remove();
  }

  /** Undefined where the system's lock suffices, because no ticket can be created. */
  async #announce(): Promise<OwnTicket | undefined> {
    try {
      return await announce(this.#file, this.#us, this.kind);
    } catch (error) {
      const isReadOnly = WriteBarrierError.is(error) && codeOf(error.cause) === 'EROFS';
      if (this.#lock && isReadOnly) return undefined;
      throw error;
    }
  }

  async #contend(judge: Judge): Promise<void> {
    let isThere: boolean | undefined;
    try {
      isThere = await this.#ticket?.contend(judge);
    } catch (error) {
      throw WriteBarrierError.is(error) ? error : ioError(`locking ${this.#file}`, error);
    }
    if (isThere === false) throw disturbed();
  }

  async #hold(): Promise<void> {
    let isThere: boolean | undefined;
    try {
      isThere = await this.#ticket?.hold();
    } catch (error) {
      const what = `locking ${this.#file} (to open it without a lock, pass lock: 'none')`;
      throw ioError(what, error);
    }
    if (isThere === false) throw disturbed();
  }
}

/** The ticket was removed meanwhile (K4). */
const disturbed = (): Retry => new Retry('its ticket was removed again and again');
const SYSTEM_LOCK = 'a lock of the operating system, which ends when its process ends';

// The lock of the operating system

/** In a variable, so that bundlers do not follow the import: they cannot pack the package's binaries. */
const PACKAGE = 'fs-native-extensions';
const ALL_BYTES = [0, 0] as const;
const ONE_BYTE_FAR_AWAY = [2 ** 62, 1] as const;
/** Errors for a lock that another has: POSIX allows EACCES for EAGAIN, and Windows' ERROR_LOCK_VIOLATION becomes EBUSY. */
const HELD: readonly unknown[] = ['EAGAIN', 'EWOULDBLOCK', 'EACCES', 'EBUSY'];

/** @throws any error of the package or of its import */
export async function loadPlatformLock(): Promise<PlatformLock> {
  // The package's binary calls a function of libuv that Deno does not have: the first lock would end the process.
  if ('Deno' in globalThis) throw new Error('in Deno its first lock would end the process');
  const found: unknown = await import(PACKAGE);
  // The package is CommonJS: its exports are the default export, and may be named exports as well.
  const lock = isPlatformLock(found) ? found : Reflect.get(Object(found), 'default');
  if (isPlatformLock(lock)) return lock;
  throw new Error(`${PACKAGE} has no function tryLock`);
}

/** The system's lock, or why it is not available. */
async function findPlatformLock(
  load: () => PlatformLock | Promise<PlatformLock>,
): Promise<PlatformLock | string> {
  try {
    const lock = await load();
    return isPlatformLock(lock) ? lock : 'loadLock must return an object with a function tryLock';
  } catch (error) {
    // The first line only: the further lines of a missing package list the places that were searched.
    return `${PACKAGE} does not load: ${messageOf(error).split('\n')[0]}`;
  }
}

/** Takes the lock. 'held': another has it. An object says why the file has no such lock. */
function tryPlatformLock(
  lock: PlatformLock,
  fd: number,
): 'taken' | 'held' | { readonly reason: string } {
  const [offset, length] = process.platform === 'win32' ? ONE_BYTE_FAR_AWAY : ALL_BYTES;
  try {
    const answer: unknown = lock.tryLock(fd, offset, length);
    if (answer === true) return 'taken';
    if (answer === false) return 'held';
    return { reason: `tryLock returned neither true nor false` };
  } catch (error) {
    if (HELD.includes(codeOf(error))) return 'held';
    return { reason: `the file system refuses locks: ${messageOf(error)}` };
  }
}

function isPlatformLock(value: unknown): value is PlatformLock {
  return typeof Reflect.get(Object(value), 'tryLock') === 'function';
}

// The files of this thread

const heldInodes = new Map<string, string>();

/**
 * Registers an open file. This detects a second opening by this thread under another name, with a clearer message than that
 * of the lock.
 *
 * @param inode device and inode number
 * @throws `STORAGE_LOCKED` if it is registered already
 */
export function registerInode(inode: string, file: string): () => void {
  const holder = heldInodes.get(inode);
  if (holder !== undefined) {
    throw locked(file, `this thread of this process (process ${process.pid}), as ${holder}`);
  }
  heldInodes.set(inode, file);
  return () => {
    invariant(heldInodes.get(inode) === file, 'file-lock.K1: a file is given back by its holder');
    heldInodes.delete(inode);
  };
}
