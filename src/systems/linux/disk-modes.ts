// Which mode a disk driver of the old kernels chose, and what `blk_queue_ordered` made of the choice. The core's
// `chooseMode` is the table of the documentation; this is what the code did.

import { decodeLegacyMode, type ModeName, modeOf, WriteBarrierError } from 'write-barrier';
import type { BarrierEra } from './eras.js';

/** What a disk driver knew when it chose. */
export interface DiskTraits {
  /** The write cache is on: WCE of a SCSI disk, `wcache` of an IDE disk. */
  readonly writeCache: boolean;
  /** The disk has a flush that the driver may send. The SCSI driver took that for granted. */
  readonly flush: boolean;
  /** It can force a single write: DPOFUA of a SCSI disk; an IDE disk's FUA, which only a patch set used. */
  readonly fua: boolean;
}

/** A row of a driver's rule; a missing field matches any disk, and the first row that matches counts. */
export interface DiskRule extends Partial<DiskTraits> {
  /** What the driver told the queue. */
  readonly mode: ModeName;
}

/**
 * The SCSI disk. Never a tag mode, although it may have ordered tags: the mid layer lets go of the queue's lock while
 * it hands requests over, so two of them may change places.
 *
 * @see sd_revalidate_disk() in drivers/scsi/sd.c, the same from 2.6.16 to 2.6.36
 */
export const SCSI_DISK_RULES: readonly DiskRule[] = Object.freeze([
  Object.freeze({ writeCache: true, fua: true, mode: 'DRAIN_FUA' }),
  Object.freeze({ writeCache: true, mode: 'DRAIN_FLUSH' }),
  Object.freeze({ mode: 'DRAIN' }),
]);

/**
 * The IDE disk. A write cache without a flush makes barriers impossible.
 *
 * @see update_ordered() in drivers/ide/ide-disk.c
 */
export const IDE_DISK_RULES: readonly DiskRule[] = Object.freeze([
  Object.freeze({ writeCache: true, flush: true, mode: 'DRAIN_FLUSH' }),
  Object.freeze({ writeCache: true, mode: 'NONE' }),
  Object.freeze({ mode: 'DRAIN' }),
]);

/** The same with the patch set for FUA on IDE disks, of November 2005, which was not merged. */
export const IDE_DISK_RULES_WITH_FUA: readonly DiskRule[] = Object.freeze([
  Object.freeze({ writeCache: true, flush: true, fua: true, mode: 'DRAIN_FUA' }),
  ...IDE_DISK_RULES,
]);

/** The mode that the SCSI disk driver chose. */
export function scsiDiskMode(disk: DiskTraits): ModeName {
  return diskModeBy(SCSI_DISK_RULES, disk);
}

/** The mode that the IDE disk driver chose. */
export function ideDiskMode(disk: DiskTraits): ModeName {
  return diskModeBy(IDE_DISK_RULES, disk);
}

/** The mode by a driver's rule; NONE where no row matches, as a driver that calls nothing leaves it. */
export function diskModeBy(rules: readonly DiskRule[], disk: DiskTraits): ModeName {
  const found = rules.find(
    ({ writeCache, flush, fua }) =>
      (writeCache ?? disk.writeCache) === disk.writeCache &&
      (flush ?? disk.flush) === disk.flush &&
      (fua ?? disk.fua) === disk.fua,
  );
  return found?.mode ?? 'NONE';
}

/**
 * What `blk_queue_ordered` of the era accepts: one of the seven composite values, by number in the era's layout or by
 * name.
 *
 * @param hasPrepareFlush whether the driver brings a function that makes a flush; some eras insist on it
 * @throws `EINVAL` for anything else; the queue then keeps the mode that it had
 */
export function acceptOrdered(
  era: BarrierEra,
  value: ModeName | number,
  hasPrepareFlush: boolean,
): ModeName {
  const name = typeof value === 'number' ? decodeLegacyMode(value, era.layout) : value;
  const mode = modeOf(name);
  const flushes = mode.by !== 'none' && mode.cache !== 'through';
  if (flushes && era.needsPrepareFlush && !hasPrepareFlush) {
    throw new WriteBarrierError(
      'EINVAL',
      `${name} flushes, and the driver has no prepare_flush_fn`,
    );
  }
  return name;
}
