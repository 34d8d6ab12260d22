import { readFile, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { WriteBarrierError } from 'write-barrier';
import { ioError } from './calls.js';

/** What Linux says about a block device. */
export interface BlockDevice {
  /** In bytes. */
  readonly size: number;
  /** The smallest unit that the device reads and writes, in bytes. */
  readonly logicalBlockSize: number;
}

/** The unit of sysfs, whatever the device's blocks are. */
const SECTOR = 512;

/**
 * Looks a block device up in sysfs, because fstat says that its size is 0.
 *
 * @param rdev the device number, as fstat gives it
 * @param sysfs where sysfs is mounted
 * @throws `INVALID_ARGUMENT` for a device without a medium; `IO_FAILED` where sysfs does not
 *   know it
 * @see Linux Documentation/ABI/stable/sysfs-block
 */
export async function blockDevice(rdev: bigint, sysfs = '/sys'): Promise<BlockDevice> {
  const { major, minor } = deviceNumber(rdev);
  const name = `${major}:${minor}`;
  let sectors: number;
  let logicalBlockSize: number;
  try {
    const device = await realpath(join(sysfs, 'dev', 'block', name));
    sectors = await number(join(device, 'size'));
    // A partition has no queue of its own; it lies in the directory of its disk, which has.
    logicalBlockSize = await number(join(device, 'queue', 'logical_block_size')).catch(() =>
      number(join(dirname(device), 'queue', 'logical_block_size')),
    );
  } catch (cause) {
    throw ioError(`finding the size of block device ${name}`, cause);
  }
  if (sectors === 0) {
    throw new WriteBarrierError('INVALID_ARGUMENT', `block device ${name} has no medium`);
  }
  return { size: sectors * SECTOR, logicalBlockSize };
}

/**
 * The two halves of a Linux device number. The low 8 bits of the minor and 12 of the major came
 * first; the rest was put around them.
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
  if (!/^\d+$/.test(text)) throw new Error(`${path} says ${text}`);
  return Number(text);
}
