// Keeps two writers off one file, with nothing but a directory: Node reaches no lock of the kernel.
//
// Whoever wants the file announces itself with a ticket, an empty file in `<file>.lock/` whose name
// says which process it is, and only then looks whether it is alone.
//
//   wanting ──no other ticket of a living process──▶ holding (something is written into the ticket)
//   wanting ──somebody holds, or wants and goes first──▶ refused (the own ticket is taken away)
//   wanting ──somebody wants who goes later──▶ looks again; that one sees our ticket and gives way
//
// Invariants:
//   L1  At most one process holds. Of two tickets one was written second; its owner looked after
//       both were there, and found the first. A directory listing misses no name that exists
//       throughout, which is why a ticket is never renamed.
//   L2  Of several that start at once one gets the file: of two that want, the lower name goes
//       first.
//   L3  Only tickets of processes that are certainly dead are cleared away. A name contains a
//       random part and never comes again, so clearing away twice, or late, hits nobody else.
//   L4  A crash leaves at most dead tickets. In a new process space (a container that was started
//       again) or on another machine nobody can know that they are dead: then the file stays locked
//       until somebody deletes the directory.
//
// What it does not do: it goes by the file's name, with symbolic links resolved. A hard link in
// another directory is another name; within one process and thread the registry of inodes still
// finds it. A network file system with cached listings breaks L1.

import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, rmdir, unlink, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { WriteBarrierError } from 'write-barrier';
import { codeOf, ioError } from './calls.js';
import { isDead, type ProcessIdentity, thisProcess } from './process-identity.js';

/** Gives up what was held. */
export type Release = () => Promise<void>;

/** Enough for whoever goes later to look once and leave, even on a busy machine. */
const LOOKS_MAX = 10_000;
const MKDIR_MAX = 1_000;

/**
 * Takes the lock of a file.
 *
 * @param file its name with symbolic links resolved; it need not exist
 * @throws `STORAGE_LOCKED` while a living process holds it; `IO_FAILED` where no lock can be made
 */
export async function lockFile(file: string): Promise<Release> {
  const directory = `${file}.lock`;
  const us = thisProcess();
  const name = ticketName(us);
  try {
    await announce(directory, name);
  } catch (cause) {
    throw ioError(`locking ${file} (lock: 'none' does without)`, cause);
  }
  const release = (): Promise<void> => takeAway(directory, name);
  try {
    const holder = await contend(directory, name, us);
    if (holder !== undefined) throw locked(file, holder, directory);
    await writeFile(join(directory, name), `process ${us.pid} on ${hostname()}\n`);
  } catch (error) {
    await release();
    throw error instanceof WriteBarrierError ? error : ioError(`locking ${file}`, error);
  }
  return release;
}

const heldInodes = new Map<string, string>();

/**
 * Registers an open file, which catches what goes by another name in this process.
 *
 * @param inode device and inode in one text
 * @throws `STORAGE_LOCKED` if it is registered already
 */
export function registerInode(inode: string, file: string): () => void {
  const holder = heldInodes.get(inode);
  if (holder !== undefined) throw locked(file, `this process, as ${holder}`);
  heldInodes.set(inode, file);
  return () => {
    heldInodes.delete(inode);
  };
}

/** The refusal: who is in the way, what a second writer risks, and the ways out. */
export function locked(file: string, holder: string, directory?: string): WriteBarrierError {
  const delete_ = directory === undefined ? '' : `; if that is certainly over, delete ${directory}`;
  return new WriteBarrierError(
    'STORAGE_LOCKED',
    `${file} is held by ${holder}: two writers would overwrite each other, and neither's order ` +
      `and flushes would mean anything. Close it there${delete_}; lock: 'none' takes the risk`,
  );
}

/** Creates directory and ticket; between the two, another holder may remove the directory. */
async function announce(directory: string, name: string): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    try {
      await mkdir(directory);
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw error;
    }
    try {
      const ticket = await open(join(directory, name), 'wx');
      return await ticket.close();
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' || tries === MKDIR_MAX) throw error;
    }
  }
}

/** Who is in the way; undefined once nobody is. */
async function contend(
  directory: string,
  own: string,
  us: ProcessIdentity,
): Promise<string | undefined> {
  for (let looks = 1; ; looks += 1) {
    const others: string[] = [];
    for (const name of await readdir(directory)) {
      if (name === own || name.startsWith('.')) continue;
      const other = parseTicket(name);
      if (other !== undefined && isDead(other, us)) await takeFile(join(directory, name));
      else others.push(name);
    }
    if (others.length === 0) return undefined;
    for (const name of others) {
      const holder = await holderOf(directory, name);
      if (holder !== undefined) return holder;
    }
    const first = others.find((name) => name < own || looks === LOOKS_MAX);
    if (first !== undefined) return `process ${parseTicket(first)?.pid ?? first}, which came first`;
  }
}

/** Undefined for a ticket that only wants, or is gone. A stranger's file counts as held. */
async function holderOf(directory: string, name: string): Promise<string | undefined> {
  if (parseTicket(name) === undefined) return `whoever put ${name} into its lock`;
  try {
    const text = await readFile(join(directory, name), 'utf8');
    return text === '' ? undefined : text.trim();
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

async function takeAway(directory: string, name: string): Promise<void> {
  await takeFile(join(directory, name));
  try {
    await rmdir(directory);
  } catch {
    // Others have their tickets in it, or have removed it. An empty directory locks nobody out.
  }
}

async function takeFile(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

function ticketName({ pid, started, space, boot, host }: ProcessIdentity): string {
  return ['1', pid, started, space, boot, host, randomBytes(8).toString('hex')].join('.');
}

function parseTicket(name: string): ProcessIdentity | undefined {
  const [version, pid, started, space, boot, host, random, ...more] = name.split('.');
  if (version !== '1' || !random || more.length > 0 || !/^[1-9]\d*$/.test(pid ?? ''))
    return undefined;
  return {
    pid: Number(pid),
    started: started ?? '',
    space: space ?? '',
    boot: boot ?? '',
    host: host ?? '',
  };
}
