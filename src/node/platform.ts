// What the platform states about itself, most of it in Linux's /proc and /sys: the thread that we are and whether another one
// is dead, which machines see the locks of a file, and the size of a block device.
//
// The holder of a lock is identified so that it can be proved dead later. A process number alone is not enough: numbers are used
// again, another container has other numbers, and so has another machine. A process is not enough either, because its worker
// thread may be terminated while the process lives on. So a holder is a thread, identified by everything that distinguishes
// these cases. Without a proof a holder counts as alive, because a second writer costs more than a lock that a person must break.
//
// Proofs of death: in the same boot of the same machine, and in the same namespace of process numbers, the number is unused,
// belongs to a zombie, or belongs to a process that started at another time; or the process is the same and has no such thread.
//
// Not a proof: another boot (two hosts may have the same name and the same machine-id, if they are clones of one image), another
// namespace, and anything that the platform does not state ('').
//
// A process reads its own identity from /proc/self and /proc/thread-self, never from /proc/<its number>, because /proc may belong
// to another namespace (a container with the host's /proc), where that number is another process. In this case, and without
// Linux's /proc, no other process is looked up in /proc, and only an unused number is a proof.

import { createHash } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { readFile, realpath, stat, statfs } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { formatValue, misuse } from 'write-barrier/kit';
import { codeOf, ioError } from './calls.js';

/** A thread of a process. No string has a dot in it; a string is empty if the platform does not state the value. */
export interface ThreadIdentity {
  readonly pid: number;
  /** When the process started, in clock ticks since boot. */
  readonly started: string;
  /** The number of the thread, in the namespace of the process. */
  readonly thread: string;
  /** When the thread started, in the same ticks. */
  readonly threadStarted: string;
  /** The namespace of process numbers: a container has its own. */
  readonly space: string;
  /** The boot of the machine. */
  readonly boot: string;
  /** The machine, as a hash. */
  readonly host: string;
}

/** What is known of a process and one of its threads now; '' for what is not visible. */
export type Sighting =
  | { readonly alive: false }
  | {
      readonly alive: true;
      readonly started: string;
      /** Undefined if the process has no such thread. */
      readonly threadStarted: string | undefined;
    };

/** For platforms with a single namespace, and without an identifier for a boot. */
const ONLY_ONE = 'one';
const LINUX = process.platform === 'linux' || process.platform === 'android';

/** The current thread. */
export function thisThread(): ThreadIdentity {
  const [, started] = stateAndStart(text('/proc/self/stat'));
  const [, threadStarted] = stateAndStart(text('/proc/thread-self/stat'));
  return {
    pid: process.pid,
    started,
    thread: numbers(text('/proc/thread-self/status')).at(-1) ?? '',
    threadStarted,
    space: LINUX
      ? quietly(() => readlinkSync('/proc/self/ns/pid')).replaceAll(/\D/g, '')
      : ONLY_ONE,
    boot: LINUX ? text('/proc/sys/kernel/random/boot_id').replaceAll(/\W|_/g, '') : ONLY_ONE,
    host: createHash('sha256')
      .update(`${hostname()}\n${text('/etc/machine-id')}`)
      .digest('hex')
      .slice(0, 12),
  };
}

/** Whether both are known to be of the same boot of the same machine. */
export function isSameRun(one: ThreadIdentity, other: ThreadIdentity): boolean {
  return one.boot !== '' && one.boot === other.boot && one.host === other.host;
}

/** Whether `us` can prove that `other` does not run any more. */
export function isDead(
  other: ThreadIdentity,
  us: ThreadIdentity,
  look: (pid: number, thread: string) => Sighting = lookAt,
): boolean {
  if (!isSameRun(other, us) || us.space === '' || other.space !== us.space) return false;
  const sighting = look(other.pid, other.thread);
  if (!sighting.alive || differ(other.started, sighting.started)) return true;
  if (other.thread === '' || other.started === '' || sighting.started === '') return false;
  const { threadStarted } = sighting;
  return threadStarted === undefined || differ(other.threadStarted, threadStarted);
}

function differ(one: string, other: string): boolean {
  return one !== '' && other !== '' && one !== other;
}

/** Whether a process has that number and that thread, and when they started. */
export function lookAt(pid: number, thread = ''): Sighting {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // Any other error means that the process exists and belongs to another user.
    if (codeOf(error) === 'ESRCH') return { alive: false };
  }
  const hidden: Sighting = { alive: true, started: '', threadStarted: '' };
  if (!isProcOurs()) return hidden;
  const [state, started] = stateAndStart(text(`/proc/${pid}/stat`));
  if (isOver(state)) return { alive: false };
  if (started === '') return hidden;
  return { alive: true, started, threadStarted: threadStart(pid, thread) };
}

function threadStart(pid: number, thread: string): string | undefined {
  if (!/^\d+$/.test(thread)) return '';
  try {
    const [state, started] = stateAndStart(
      readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8'),
    );
    return isOver(state) ? undefined : started;
  } catch (error) {
    // The process itself was visible a moment ago, so this is not a /proc that hides it.
    return codeOf(error) === 'ENOENT' || codeOf(error) === 'ESRCH' ? undefined : '';
  }
}

/** Whether /proc has the numbers of our own namespace: then it has one number for us, and it is ours. */
function isProcOurs(): boolean {
  const known = numbers(text('/proc/self/status'));
  return known.length === 1 && known[0] === String(process.pid);
}

/** The numbers of a process or thread, from the namespace of /proc to its own: NSpid of proc(5) status. */
function numbers(status: string): string[] {
  return /^NSpid:\s+([\d\t ]+)$/m.exec(status)?.[1]?.trim().split(/\s+/) ?? [];
}

/** Fields 3 and 22 of proc(5) stat. The name in field 2 may contain spaces and parentheses. */
function stateAndStart(stat: string): readonly [state: string, started: string] {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return [fields[0] ?? '', fields[19] ?? ''];
}

function isOver(state: string): boolean {
  return state === 'Z' || state === 'X';
}

function text(path: string): string {
  return quietly(() => readFileSync(path, 'utf8')).trim();
}

/**
 * Reads what only some platforms have; '' if this one does not have it.
 *
 * @throws the error for too many open files, because an incomplete identity could never be proved dead
 */
function quietly(read: () => string): string {
  try {
    return read();
  } catch (error) {
    if (codeOf(error) === 'EMFILE' || codeOf(error) === 'ENFILE') throw error;
    return '';
  }
}

// File systems

/** File systems that other machines may have mounted as well, while locks are known to this kernel only. */
const LOCAL_LOCKS: ReadonlySet<number> = new Set([
  0x65735546, // FUSE, virtiofs among them: whether locks are passed on depends on the server
  0x01021997, // 9p
  0x786f4256, // vboxsf
  0x7c7c6673, // Parallels
]);
/** File systems whose locks the server keeps, except with the mount options of KEPT_LOCAL. */
const SERVER_LOCKS: ReadonlySet<number> = new Set([
  0x6969, // NFS
  0xff534d42, // CIFS
  0xfe534d42, // SMB 2 and later
]);
const KEPT_LOCAL = /(?:^|,)(?:local_lock=(?:all|posix)|nolock|nobrl)(?:,|$)/;

/**
 * Whether all machines that can open `file` see its lock: because only this machine can, or because a server keeps the lock. If
 * this is unknown the answer is no.
 *
 * @see Linux include/uapi/linux/magic.h; nfs(5) `local_lock`; mount.cifs(8) `nobrl`
 */
export async function reachesAllMachines(file: string): Promise<boolean> {
  if (process.platform !== 'linux') return true;
  try {
    // Some platforms return the number with a sign.
    const type = (await statfs(file)).type >>> 0;
    if (!SERVER_LOCKS.has(type)) return reachOf(type, undefined);
    const { major, minor } = deviceNumber((await stat(file, { bigint: true })).dev);
    return reachOf(
      type,
      mountOptions(await readFile('/proc/self/mountinfo', 'utf8'), major, minor),
    );
  } catch {
    return false;
  }
}

/** The same, from the type and the mount options of a file system. */
export function reachOf(type: number, options: string | undefined): boolean {
  if (!SERVER_LOCKS.has(type)) return !LOCAL_LOCKS.has(type);
  return options !== undefined && !KEPT_LOCAL.test(options);
}

/** The options of the file system on that device: the last field of proc(5) mountinfo. */
export function mountOptions(mountinfo: string, major: number, minor: number): string | undefined {
  for (const line of mountinfo.split('\n')) {
    const fields = line.split(' ');
    if (fields[2] === `${major}:${minor}`) return fields.at(-1);
  }
  return undefined;
}

// Devices

/** The size and block size of a block device, as Linux states them. */
interface BlockDevice {
  /** In bytes. */
  readonly size: number;
  /** The smallest unit that the device reads and writes, in bytes. */
  readonly logicalBlockSize: number;
  /** It makes zeroes without their bytes, and may free what they take. */
  readonly zeroesItself: boolean;
}

/** sysfs counts in sectors of this size, for every device. */
const SECTOR = 512;

/**
 * Reads the size of a block device from sysfs, because fstat answers 0 for it.
 *
 * @param rdev the device number from fstat
 * @param sysfs where sysfs is mounted
 * @throws `INVALID_ARGUMENT` for a device without a medium; `IO_FAILED` if sysfs does not know it
 * @see Linux Documentation/ABI/stable/sysfs-block
 */
export async function blockDevice(rdev: bigint, sysfs = '/sys'): Promise<BlockDevice> {
  const { major, minor } = deviceNumber(rdev);
  const name = `${major}:${minor}`;
  let sectors: number;
  let logicalBlockSize: number;
  let zeroesMax: number;
  try {
    const device = await realpath(join(sysfs, 'dev', 'block', name));
    sectors = await number(join(device, 'size'));
    // A partition has no queue of its own. Its directory is inside that of its disk, which has one.
    const inQueue = (file: string): Promise<number> =>
      number(join(device, 'queue', file)).catch(() => number(join(dirname(device), 'queue', file)));
    logicalBlockSize = await inQueue('logical_block_size');
    // Linux has had it since 4.10.
    zeroesMax = await inQueue('write_zeroes_max_bytes').catch(() => 0);
  } catch (cause) {
    throw ioError(`finding the size of block device ${name}`, cause);
  }
  if (sectors === 0) throw misuse(`block device ${name} has no medium`);
  return { size: sectors * SECTOR, logicalBlockSize, zeroesItself: zeroesMax > 0 };
}

/**
 * The two parts of a Linux device number. Originally it had 8 bits of minor and 12 of major; the bits that were added later
 * lie around those.
 *
 * @see glibc, bits/sysmacros.h
 */
export function deviceNumber(rdev: bigint): { readonly major: number; readonly minor: number } {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  return { major: Number(major), minor: Number(minor) };
}

async function number(path: string): Promise<number> {
  const text = (await readFile(path, 'utf8')).trim();
  if (!/^\d+$/.test(text))
    throw new Error(`${path} must contain a number, not ${formatValue(text)}`);
  return Number(text);
}
