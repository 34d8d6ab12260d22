// What changed from kernel to kernel, as data: the eras of the queues, the numbers of the modes, and what disk drivers chose.
//
// The state machines branch on a field of an era, never on its name, so a
// single defect can be taken out: `{ ...BARRIER_ERAS['2.6.36'], flushProxies: 'packet' }`.
//
// An era is named by the kernel whose source was read for it; the neighbours are alike as far as they were read, and
// each field says where they part. Numbers of versions are names here and are never compared.
//
// The numbers of the seven modes have two layouts that contradict each other: 0x20 means "postflush" in the older and "do the
// barrier" in the younger, 0x40 means "FUA" in the older and "postflush" in the younger. So a number is never read without
// its layout.
//
// A disk driver knew its disk and chose an ordered mode; `blk_queue_ordered` accepted it or not. The core's `chooseMode` is the
// table of the documentation; this is what the code did. A driver's rule is data: the first row that matches the disk counts.
// At the end of the file is the other end of an ordered tag: which tasks the SCSI disk itself may run.
//
// Source: block/ll_rw_blk.c of 2.6.20 and 2.6.24, block/blk-barrier.c, blk-core.c and elevator.c of 2.6.32 and 2.6.36,
// block/blk-flush.c of 2.6.37 and of later kernels; include/linux/blkdev.h of 2.6.18 to 2.6.28 and of 2.6.31 to 2.6.36 for the
// numbers; sd_revalidate_disk() in drivers/scsi/sd.c, update_ordered() in drivers/ide/ide-disk.c, blk_queue_ordered() in
// block/blk-barrier.c for the drivers.

import {
  MODE_NAMES,
  MODES,
  type ModeName,
  type OrderedMode,
  WriteBarrierError,
} from 'write-barrier';
import { formatValue, modeOf } from 'write-barrier/kit';

/** The kernels with hard barriers whose queues are modelled. */
export type BarrierEraName = '2.6.20' | '2.6.24' | '2.6.32' | '2.6.36';

/** What a queue with hard barriers does where kernels differ. */
export interface BarrierEra {
  /** Which numbers `blk_queue_ordered` knows the modes by. */
  readonly layout: LegacyLayout;
  /**
   * A mode with a flush in it is accepted only from a driver that brings a `prepare_flush_fn`. The parameter is in
   * `blk_queue_ordered` up to 2.6.32 as read, and gone in 2.6.36.
   */
  readonly needsPrepareFlush: boolean;
  /**
   * What becomes of a barrier without data.
   *
   * - `refused`: `submit_bio` does not accept a bio of 0 bytes (2.6.20).
   * - `placeholder`: it is queued like one with data and ended before a driver sees it (2.6.24, `elv_next_request`).
   *   **In TAG that is no drain, no command, and instant success, whatever is still in flight.**
   * - `masked`: it has no barrier step and no postflush, and in TAG it drains (2.6.32 and 2.6.36, `start_ordered`).
   */
  readonly emptyBarrier: 'refused' | 'placeholder' | 'masked';
  /**
   * What the flushes of a sequence are to the queue.
   *
   * - `packet`: commands of the driver, which `prepare_flush_fn` of the SCSI and the IDE disk makes of them. No rule
   *   of `blk_do_ordered` takes them for a barrier.
   * - `fs`: requests of a file system with the barrier flag (2.6.36, `queue_flush`). **By tag a barrier that is not the
   *   running one's own write is held until the sequence is done, and so is the postflush, without which it never is:
   *   TAG_FLUSH hangs at its first barrier with data, and TAG_FUA once a driver puts its preflush back.** No user of
   *   these modes is known.
   */
  readonly flushProxies: 'packet' | 'fs';
  /**
   * A discard that is flagged as a barrier: there are no discards (2.6.24); it only stops sorting and merging, with
   * no sequence and no flush (2.6.32, `init_request_from_bio`); it is a barrier like any other (2.6.36, where the flag
   * is copied).
   */
  readonly discardBarrier: 'none' | 'soft' | 'hard';
  /**
   * How `blkdev_issue_flush` reaches the device: a hook of the driver, which orders nothing (2.6.20), or an empty
   * barrier (from 2.6.24 on).
   */
  readonly issueFlush: 'hook' | 'barrier';
  /** Whether the caller of `blkdev_issue_flush` can tell "not supported" from "failed"; 2.6.24 says EIO to both. */
  readonly tellsUnsupported: boolean;
}

/** The eras of hard barriers. */
export const BARRIER_ERAS: Readonly<Record<BarrierEraName, BarrierEra>> = Object.freeze({
  '2.6.20': Object.freeze({
    layout: '2.6.18',
    needsPrepareFlush: true,
    emptyBarrier: 'refused',
    flushProxies: 'packet',
    discardBarrier: 'none',
    issueFlush: 'hook',
    tellsUnsupported: true,
  }),
  '2.6.24': Object.freeze({
    layout: '2.6.18',
    needsPrepareFlush: true,
    emptyBarrier: 'placeholder',
    flushProxies: 'packet',
    discardBarrier: 'none',
    issueFlush: 'barrier',
    tellsUnsupported: false,
  }),
  '2.6.32': Object.freeze({
    layout: '2.6.31',
    needsPrepareFlush: true,
    emptyBarrier: 'masked',
    flushProxies: 'packet',
    discardBarrier: 'soft',
    issueFlush: 'barrier',
    tellsUnsupported: true,
  }),
  '2.6.36': Object.freeze({
    layout: '2.6.31',
    needsPrepareFlush: false,
    emptyBarrier: 'masked',
    flushProxies: 'fs',
    discardBarrier: 'hard',
    issueFlush: 'barrier',
    tellsUnsupported: true,
  }),
});

/** The kernels without barriers whose flush machines are modelled. */
export type FlushEraName = '2.6.37' | '2.6.39';

/** What a flush machine does where kernels differ. */
export interface FlushEra {
  /**
   * - `alone`: one request at a time goes through its steps, with flushes of its own; others wait (2.6.37 and 2.6.38).
   * - `shared`: requests gather in two lists, one that waits and one that a running flush serves (2.6.39 and later).
   */
  readonly flushes: 'alone' | 'shared';
  /**
   * After a step has failed: `continue` with the next one and tell the first error at the end (2.6.37 and 2.6.38), so
   * **data is written although the flush before it failed**; or `stop`, which skips what is left.
   */
  readonly afterError: 'continue' | 'stop';
  /**
   * In milliseconds: how long data in flight may keep waiting requests from their flush. `FLUSH_PENDING_TIMEOUT`, five
   * seconds; without meaning where flushes are not shared.
   */
  readonly pendingMaxMs: number;
}

/** The eras of the flush machine. */
export const FLUSH_ERAS: Readonly<Record<FlushEraName, FlushEra>> = Object.freeze({
  '2.6.37': Object.freeze({ flushes: 'alone', afterError: 'continue', pendingMaxMs: 0 }),
  '2.6.39': Object.freeze({ flushes: 'shared', afterError: 'stop', pendingMaxMs: 5000 }),
});

/**
 * The era of that name, or the one that was given.
 *
 * @throws `EINVAL` for an unknown name
 */
export function eraOf<N extends string, E extends object>(
  era: N | E,
  eras: Readonly<Record<N, E>>,
): E {
  if (typeof era === 'object' && era !== null) return era;
  if (Object.hasOwn(eras, era)) return eras[era];
  const known = Object.keys(eras).join(', ');
  throw new WriteBarrierError('EINVAL', `era must be one of ${known}, not ${formatValue(era)}`);
}

// The numbers of the modes

/** A bit layout, named by the first kernel that is known to have it. */
export type LegacyLayout = '2.6.18' | '2.6.31';

interface Bits {
  readonly drain: number;
  readonly tag: number;
  readonly preflush: number;
  readonly bar: number;
  readonly postflush: number;
  readonly fua: number;
}

/** The bits of each layout. */
export const LEGACY_LAYOUTS: Readonly<Record<LegacyLayout, Bits>> = {
  '2.6.18': { drain: 0x01, tag: 0x02, preflush: 0x10, bar: 0, postflush: 0x20, fua: 0x40 },
  '2.6.31': { drain: 0x01, tag: 0x02, preflush: 0x10, bar: 0x20, postflush: 0x40, fua: 0x80 },
};

/**
 * The number of the mode in a kernel of that layout.
 *
 * @throws `EINVAL` for a name or a layout that does not exist
 */
export function encodeLegacyMode(name: ModeName, layout: LegacyLayout): number {
  return compose(modeOf(name), bitsOf(layout));
}

/**
 * The mode of a number in a kernel of that layout.
 *
 * @throws `EINVAL` for every value but the seven composites, as blk_queue_ordered() answered
 */
export function decodeLegacyMode(value: number, layout: LegacyLayout): ModeName {
  const bits = bitsOf(layout);
  const name = MODE_NAMES.find((candidate) => compose(MODES[candidate], bits) === value);
  if (name === undefined) {
    const shown = typeof value === 'number' ? `0x${value.toString(16)}` : formatValue(value);
    throw new WriteBarrierError('EINVAL', `no kernel of layout ${layout} accepted mode ${shown}`);
  }
  return name;
}

function compose(mode: OrderedMode, bits: Bits): number {
  if (mode.by === 'none') return 0;
  const order = bits[mode.by] | bits.bar;
  if (mode.cache === 'through') return order;
  return order | bits.preflush | (mode.cache === 'fua' ? bits.fua : bits.postflush);
}

function bitsOf(layout: LegacyLayout): Bits {
  if (!Object.hasOwn(LEGACY_LAYOUTS, layout)) {
    throw new WriteBarrierError(
      'EINVAL',
      `the layout must be '2.6.18' or '2.6.31', not ${formatValue(layout)}`,
    );
  }
  return LEGACY_LAYOUTS[layout];
}

// What disk drivers chose

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

/** The mode by a driver's rule; NONE where no row matches, as a driver that calls nothing leaves it. */
export function diskModeBy(rules: readonly DiskRule[], disk: DiskTraits): ModeName {
  const traits = ['writeCache', 'flush', 'fua'] as const;
  const found = rules.find((rule) => traits.every((is) => (rule[is] ?? disk[is]) === disk[is]));
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

// The other end of an ordered tag
//
// Which tasks of a SCSI device may run: what an ordered tag means to the disk, and what may go past it.
//
// Not here: the queue algorithm modifier, which lets a disk reorder SIMPLE tasks only where it makes no difference;
// what happens to queued tasks after an error (QErr); ACA.
//
// Source: the task attributes of SAM; message codes of SPI, 20h to 22h. Linux sends ORDERED for a request with the
// barrier flag and SIMPLE for every other: scsi_populate_tag_msg() in include/scsi/scsi_tcq.h.

/** SIMPLE may be reordered, HEAD OF QUEUE goes first, ORDERED stays in its place. */
export type ScsiTaskAttribute = 'simple' | 'head-of-queue' | 'ordered';

/** A task that the device has and that has not ended. */
export interface ScsiTask {
  /** How the device may move it among others. */
  readonly attribute: ScsiTaskAttribute;
}

/**
 * The tasks that the device may be executing now. An ORDERED task comes after all older ones, and every younger one
 * after it, **except HEAD OF QUEUE, which may pass it although it came later**.
 *
 * @param tasks those that have not ended, oldest first
 * @returns their indexes in `tasks`
 */
export function runnableTasks(tasks: readonly ScsiTask[]): number[] {
  const heads = tasks.some(({ attribute }) => attribute === 'head-of-queue');
  const firstOrdered = tasks.findIndex(({ attribute }) => attribute === 'ordered');
  return Array.from(tasks.keys()).filter((i) => {
    const attribute = tasks[i]?.attribute;
    if (attribute === 'head-of-queue') return true;
    if (heads) return false;
    return attribute === 'ordered' ? i === 0 : firstOrdered < 0 || i < firstOrdered;
  });
}
