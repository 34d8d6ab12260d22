// What the system says of the place where a file lies: its file system, how that is mounted, and the device below.
//
// Linux says it in /proc and /sys. What it does not say is undefined here, and other systems say nothing: then the report has what
// was measured alone. Nothing here opens the file.
//
// What a device says of its cache is what the device says, or what a hypervisor says in its place. A file system on no device of its
// own (overlay, tmpfs, a network) leads nowhere.
//
// Source: Linux Documentation/ABI/stable/sysfs-block; proc(5) mountinfo; include/uapi/linux/magic.h.

import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { stat, statfs } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** A mounted file system. */
export interface Mount {
  /** `ext4`. */
  readonly type: string;
  /** Where it is mounted. */
  readonly at: string;
  /** What is mounted: `/dev/sda1`. */
  readonly source: string;
  readonly options: readonly string[];
}

/** A block device, as it presents itself. */
export interface Device {
  /** `sda`. */
  readonly name: string;
  /** Whether its writes lie in a cache until a flush. */
  readonly cache: 'write back' | 'write through' | undefined;
  readonly fua: boolean | undefined;
  readonly rotational: boolean | undefined;
  readonly logicalBlockSize: number | undefined;
  readonly model: string | undefined;
  /** The devices that it is made of: of a RAID, a volume, a file behind a loop device. */
  readonly below: readonly string[];
}

/** Types of file systems by the number of statfs(2), for systems without mountinfo. */
const TYPES: Readonly<Record<number, string>> = {
  61267: 'ext4',
  1481003842: 'xfs',
  2435016766: 'btrfs',
  16914836: 'tmpfs',
  2035054128: 'overlay',
  26985: 'nfs',
  1702057286: 'fuse',
  4076150800: 'f2fs',
  801189825: 'zfs',
};

/** The file system of a path that exists. */
export async function mountOf(path: string): Promise<Mount | undefined> {
  const { dev } = await stat(path, { bigint: true });
  const mounts = quietly(() => readFileSync('/proc/self/mountinfo', 'utf8')) ?? '';
  const found = mountFor(mounts, realpathSync(path), numberOf(dev));
  if (found) return found;
  const type = TYPES[(await statfs(path)).type >>> 0];
  return type === undefined ? undefined : { type, at: '', source: '', options: [] };
}

/**
 * The mount of a path.
 *
 * @param mountinfo as in proc(5)
 * @param path without symbolic links
 * @param number of its device, `8:1`
 */
export function mountFor(mountinfo: string, path: string, number: string): Mount | undefined {
  const all = mountinfo.split('\n').flatMap((line) => (line === '' ? [] : [mountIn(line)]));
  const covering = all.filter(
    ({ at }) => path === at || path.startsWith(at === '/' ? '/' : `${at}/`),
  );
  // Of several on one another the last one is seen. A subvolume of btrfs has a number that mountinfo does not have.
  const same = covering.filter((mount) => mount.number === number);
  const [first, ...more] = same.length > 0 ? same : covering;
  if (!first) return undefined;
  const { number: _, ...mount } = more.reduce(
    (best, one) => (one.at.length >= best.at.length ? one : best),
    first,
  );
  return mount;
}

/** The parts of a line of mountinfo. Spaces in paths are written as `\040`. */
function mountIn(line: string): Mount & { readonly number: string } {
  const fields = line.split(' ');
  const dash = fields.indexOf('-');
  const plain = (text = ''): string =>
    text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) =>
      String.fromCharCode(Number.parseInt(digits, 8)),
    );
  const [, , number = '', , at, own = ''] = fields;
  const [type = '', source, all = ''] = fields.slice(dash + 1);
  const options = [...new Set([...own.split(','), ...all.split(',')])];
  return { number, at: plain(at), type, source: plain(source), options };
}

/** The block device with that number; undefined where there is none, or nothing is said of it. */
export function deviceOf(dev: bigint): Device | undefined {
  const own = quietly(() => realpathSync(join('/sys/dev/block', numberOf(dev))));
  if (own === undefined) return undefined;
  // A partition has no queue of its own. Its folder is inside that of its disk, which has one.
  const disk = isFolder(join(own, 'queue')) ? own : dirname(own);
  const said = (path: string): string | undefined =>
    quietly(() => readFileSync(join(disk, path), 'utf8').trim());
  const flag = (path: string): boolean | undefined => {
    const text = said(path);
    return text === undefined ? undefined : text === '1';
  };
  const cache = said('queue/write_cache');
  const size = Number(said('queue/logical_block_size'));
  const file = said('loop/backing_file');
  return {
    name: basename(own),
    cache: cache === 'write back' || cache === 'write through' ? cache : undefined,
    fua: flag('queue/fua'),
    rotational: flag('queue/rotational'),
    logicalBlockSize: size > 0 ? size : undefined,
    model: said('device/model'),
    below: [...(quietly(() => readdirSync(join(disk, 'slaves'))) ?? []), ...(file ? [file] : [])],
  };
}

/** The number of a device, `8:1`: glibc, bits/sysmacros.h. */
function numberOf(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

function isFolder(path: string): boolean {
  return quietly(() => readdirSync(path)) !== undefined;
}

function quietly<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
