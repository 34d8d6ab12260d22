// A lock between writers that needs only a directory. A writer with the system's lock uses it as well, so that writers without
// that lock see it.
//
// A writer that wants the file announces itself with a ticket: an empty file in `<file>.lock/`, whose name says which thread the
// writer is and which lock it uses. Only then it looks for other tickets.
//
//   wanting ──no other ticket counts──▶ holding (the ticket is not empty any more)
//   wanting ──another writer holds, or wants with a lower name──▶ refused (the own ticket is removed)
//   wanting ──another writer wants with a higher name──▶ looks again; that writer sees our ticket and is refused
//   wanting ──the own ticket is gone──▶ disturbed (the opener starts again)
//
// Invariants:
//   L1  At most one writer holds the file. Of two tickets one was created second. Its owner looked for tickets after both
//       existed, and found the first, because a directory listing misses no name that exists all the time. So a ticket is
//       never renamed.
//   L2  If several writers with tickets start at once, one of them gets the file: of two that want it, the lower name wins.
//   L3  A ticket is removed by its owner, by `breakTicket`, or by a writer that knows that its owner holds nothing: the
//       owner is dead, or uses the system's lock while the remover has that lock. A name has a random part and never
//       occurs again, so a late or second removal cannot hit another ticket. The directory is removed with the last
//       ticket, so both may be gone between any two calls: then the other tickets have ended, and an owner that does not
//       find its own ticket starts again (`disturbed`).
//   L4  A crash leaves no more than tickets. A ticket whose owner cannot be proved dead blocks the file until a person breaks it.
//   L5  Nothing outside the directory is read, written or removed: a symbolic link in its place is not followed, and anything
//       in it that is not a regular file is not opened. Both count as held.
//
// Not here: other names of the file. The lock is on its name, with symbolic links resolved; a hard link, a new name and a bind
// mount are other names. A network file system with cached listings breaks L1.

import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, readdir, rmdir, unlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { WriteBarrierError } from 'write-barrier';
import { formatValue, misuse, StorageLockedError } from 'write-barrier/kit';
import { codeOf, ioError } from './calls.js';
import { isSameRun, type ThreadIdentity } from './platform.js';

/** The content of a ticket's name. */
export interface Ticket extends ThreadIdentity {
  /** The lock that its owner uses: the system's, or tickets alone. */
  readonly by: 'platform' | 'ticket';
}

/** What another ticket means: its owner holds nothing (`over`), is not a rival (`ignored`), or is one (`counts`). */
export type Judge = (ticket: Ticket) => 'over' | 'ignored' | 'counts';

/** A ticket of this thread. */
export interface OwnTicket {
  /**
   * True when no other ticket is in the way; false if this one was removed meanwhile.
   *
   * @throws `STORAGE_LOCKED` if another writer wins
   */
  contend(judge: Judge): Promise<boolean>;
  /** Marks it as the holder's, so that others are refused at once; false if it was removed meanwhile. */
  hold(): Promise<boolean>;
  /** Whether it still exists. This needs no descriptor, because none may be left. */
  isThere(): Promise<boolean>;
  /** Removes it, and the directory if it was the last one. */
  remove(): Promise<void>;
}

/** The refusal: who holds the file, what a second writer risks, and what to do. */
export function locked(
  file: string,
  by: string,
  holder?: { readonly ticket: string; readonly directory: string },
): StorageLockedError {
  const breaking =
    holder === undefined
      ? ''
      : `; if that writer is certainly gone, FileStorage.breakLock(path, error.holder) removes its ticket from ${holder.directory}`;
  return new StorageLockedError(
    `${file} is held by ${by}. Two writers would overwrite each other, and neither could rely on its order and flushes. ` +
      `Close it there${breaking}. To open it nevertheless, pass lock: 'none'`,
    holder?.ticket,
  );
}

/** Enough for a rival with a higher name to look once and be refused, even on a busy machine. */
const LOOKS_MAX = 10_000;
const MKDIR_MAX = 1_000;
/** Only the owner may write: other users could remove the tickets. */
const DIRECTORY_MODE = 0o755;
const TICKET_MODE = 0o644;
const CONTENT_MAX = 256;
const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;
/** Follows no symbolic link, and does not wait for the other end of a pipe. Windows has neither flag. */
const CAREFULLY = (O_NOFOLLOW ?? 0) | (O_NONBLOCK ?? 0);

/** The directory of a file's tickets. */
export const directoryOf = (file: string): string => `${file}.lock`;

/**
 * Announces that `us` wants the file.
 *
 * @throws `STORAGE_LOCKED` if the directory belongs to another user; `IO_FAILED` if no ticket can be created
 */
export async function announce(
  file: string,
  us: ThreadIdentity,
  by: Ticket['by'],
): Promise<OwnTicket> {
  const directory = directoryOf(file);
  const name = ticketName(us, by);
  const path = join(directory, name);
  try {
    await create(directory, path);
  } catch (error) {
    await removeDirectory(directory);
    throw await refusal(file, error);
  }
  return {
    contend: (judge) => contend(file, name, us, judge),
    hold: async () => {
      const where = us.thread === String(us.pid) ? '' : `, thread ${us.thread || 'unknown'}`;
      let handle: FileHandle;
      try {
        handle = await open(path, O_WRONLY | CAREFULLY);
      } catch (error) {
        if (codeOf(error) === 'ENOENT') return false;
        throw error;
      }
      try {
        await handle.writeFile(`process ${us.pid}${where} on ${hostname()}\n`);
      } finally {
        await handle.close();
      }
      return true;
    },
    isThere: async () => (await look(directory, name)) !== 'gone',
    remove: async () => {
      await removeFile(path);
      await removeDirectory(directory);
    },
  };
}

/** The holder with the system's lock, if a ticket names it. */
export async function platformHolder(file: string): Promise<string | undefined> {
  const directory = directoryOf(file);
  const names = await readdir(directory).catch((): string[] => []);
  for (const name of names) {
    const ticket = parseTicket(name);
    if (ticket?.by !== 'platform') continue;
    const state = await look(directory, name).catch(() => 'gone' as const);
    if (state === 'holds') return ownerOf(directory, name, ticket);
  }
  return undefined;
}

/**
 * Removes a ticket, without checking its owner.
 *
 * @throws `INVALID_ARGUMENT` if it cannot be the name of a ticket; `IO_FAILED` if the system refuses
 */
export async function breakTicket(file: string, name: string): Promise<void> {
  if (typeof name !== 'string' || name === '' || /^\.\.?$|[/\\:\0]/.test(name)) {
    throw misuse(
      `holder must be the \`holder\` of a STORAGE_LOCKED error, not ${formatValue(name)}`,
    );
  }
  const directory = directoryOf(file);
  try {
    if (!(await isDirectory(directory))) return;
    await removeFile(join(directory, name));
    await removeDirectory(directory);
  } catch (error) {
    throw ioError(`breaking the lock of ${file}`, error);
  }
}

/** Creates directory and ticket; between the two, another holder may remove the directory. */
async function create(directory: string, ticket: string): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    if (!(await isDirectory(directory))) {
      try {
        await mkdir(directory, { mode: DIRECTORY_MODE });
      } catch (error) {
        if (codeOf(error) !== 'EEXIST') throw error;
      }
    }
    try {
      const handle = await open(ticket, O_WRONLY | O_CREAT | O_EXCL | CAREFULLY, TICKET_MODE);
      await handle.close();
      return;
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' || tries === MKDIR_MAX) throw error;
    }
  }
}

/**
 * Whether the directory exists.
 *
 * @throws if there is something else, such as a symbolic link
 */
async function isDirectory(path: string): Promise<boolean> {
  try {
    const stats = await lstat(path);
    if (stats.isDirectory()) return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
  throw new Error(
    `${path} must be a directory for the tickets of the lock; it is something else, and was not changed`,
  );
}

/** The error for a ticket that cannot be created. If this user may not write to the directory, it is another user's lock. */
async function refusal(file: string, cause: unknown): Promise<WriteBarrierError> {
  const code = codeOf(cause);
  if (code === 'EACCES' || code === 'EPERM') {
    const directory = directoryOf(file);
    const isThere = await isDirectory(directory).catch(() => false);
    if (isThere) return anothersLock(file, (await platformHolder(file)) ?? 'another user');
  }
  return ioError(`locking ${file} (to open it without a lock, pass lock: 'none')`, cause);
}

function anothersLock(file: string, by: string): WriteBarrierError {
  return locked(file, `${by}, and this user may not change its lock ${directoryOf(file)}`);
}

/** What `OwnTicket.contend` does. */
async function contend(
  file: string,
  own: string,
  us: ThreadIdentity,
  judge: Judge,
): Promise<boolean> {
  const directory = directoryOf(file);
  for (let looks = 1; ; looks += 1) {
    let waits = false;
    const names = await list(file);
    // Looked up by its name as well, because a network file system may return an older listing.
    if (!names.includes(own) && (await look(directory, own)) === 'gone') return false;
    for (const name of names) {
      if (name === own || name.startsWith('.')) continue;
      const state = await look(directory, name);
      if (state === 'gone') continue;
      const ticket = state === 'odd' ? undefined : parseTicket(name);
      const worth = ticket === undefined ? 'counts' : judge(ticket);
      if (worth === 'ignored') continue;
      if (worth === 'over') await clear(file, name);
      else if (ticket === undefined) throw strangerIn(file, name);
      else if (state === 'holds' || name < own || looks === LOOKS_MAX) {
        throw await refused(file, name, ticket, us, state === 'holds');
      } else waits = true;
    }
    if (!waits) return true;
  }
}

/** The names of all tickets; none if the directory is gone, because it is removed with the last ticket. */
async function list(file: string): Promise<string[]> {
  try {
    return await readdir(directoryOf(file));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw await refusal(file, error);
  }
}

/** The ticket of a writer that does not hold yet is empty. */
async function look(directory: string, name: string): Promise<'gone' | 'odd' | 'wants' | 'holds'> {
  try {
    const stats = await lstat(join(directory, name));
    if (!stats.isFile()) return 'odd';
    return stats.size > 0 ? 'holds' : 'wants';
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return 'gone';
    throw error;
  }
}

async function clear(file: string, name: string): Promise<void> {
  try {
    await removeFile(join(directoryOf(file), name));
  } catch (error) {
    if (codeOf(error) !== 'EACCES' && codeOf(error) !== 'EPERM') throw error;
    throw anothersLock(file, 'a ticket of a process that is gone');
  }
}

async function refused(
  file: string,
  name: string,
  ticket: Ticket,
  us: ThreadIdentity,
  holds: boolean,
): Promise<WriteBarrierError> {
  const directory = directoryOf(file);
  const owner = holds
    ? await ownerOf(directory, name, ticket)
    : `process ${ticket.pid}, which came first`;
  return locked(file, `${owner}${doubt(ticket, us)}`, { ticket: name, directory });
}

/** Why it is not known whether the owner is alive; '' if it is alive. */
function doubt(ticket: Ticket, us: ThreadIdentity): string {
  if (!isSameRun(ticket, us)) {
    return ' (on another machine, or on this one before it was rebooted; whether it is alive cannot be seen from here)';
  }
  if (ticket.space !== us.space || us.space === '') {
    return ' (in another container, or in one that is gone; whether it is alive cannot be seen from here)';
  }
  const isOurs = ticket.pid === us.pid && ticket.started === us.started;
  return isOurs && ticket.thread === us.thread ? ' (this very thread)' : '';
}

/** The text in the ticket, if it has only harmless characters. */
async function ownerOf(directory: string, name: string, ticket: Ticket): Promise<string> {
  const plain = `process ${ticket.pid}`;
  let handle: FileHandle | undefined;
  try {
    handle = await open(join(directory, name), O_RDONLY | CAREFULLY);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(CONTENT_MAX), 0, CONTENT_MAX, 0);
    const text = buffer.toString('utf8', 0, bytesRead).trim();
    return /^[\p{L}\p{N} .,:_-]+$/u.test(text) ? text : plain;
  } catch {
    return plain;
  } finally {
    await handle?.close().catch(() => undefined);
  }
}

function strangerIn(file: string, name: string): WriteBarrierError {
  const directory = directoryOf(file);
  const what = `${formatValue(name)}, which this version cannot read as a ticket`;
  return locked(file, what, { ticket: name, directory });
}

async function removeDirectory(directory: string): Promise<void> {
  try {
    await rmdir(directory);
  } catch {
    // It has tickets of others, or was removed by another. An empty directory locks no writer out.
  }
}

async function removeFile(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

const VERSION = '2';
/** Each is one letter, so that names stay short. */
const LETTERS = { platform: 'p', ticket: 't' } as const;

function ticketName(us: ThreadIdentity, by: Ticket['by']): string {
  const { pid, started, thread, threadStarted, space, boot, host } = us;
  const random = randomBytes(8).toString('hex');
  const fields = [pid, started, thread, threadStarted, space, boot, host, random];
  return [VERSION, LETTERS[by], ...fields].join('.');
}

function parseTicket(name: string): Ticket | undefined {
  const [version, letter, pid, ...texts] = name.split('.');
  const [started, thread, threadStarted, space, boot, host, random, ...more] = texts;
  if (version !== VERSION || !random || more.length > 0 || !/^[1-9]\d*$/.test(pid ?? '')) {
    return undefined;
  }
  if (letter !== LETTERS.platform && letter !== LETTERS.ticket) return undefined;
  return {
    by: letter === LETTERS.platform ? 'platform' : 'ticket',
    pid: Number(pid),
    started: started ?? '',
    thread: thread ?? '',
    threadStarted: threadStarted ?? '',
    space: space ?? '',
    boot: boot ?? '',
    host: host ?? '',
  };
}
