// What changed from kernel to kernel, as data. The state machines branch on a field of an era, never on its name, so a
// single defect can be taken out: `{ ...BARRIER_ERAS['2.6.36'], flushProxies: 'packet' }`.
//
// An era is named by the kernel whose source was read for it; the neighbours are alike as far as they were read, and
// each field says where they part. Numbers of versions are names here and are never compared.
//
// Source: block/ll_rw_blk.c of 2.6.20 and 2.6.24, block/blk-barrier.c, blk-core.c and elevator.c of 2.6.32 and 2.6.36,
// block/blk-flush.c of 2.6.37 and of later kernels.

import { type LegacyLayout, WriteBarrierError } from 'write-barrier';

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
   * - `refused`: `submit_bio` stops at a bio of no bytes (2.6.20).
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
   *   TAG_FLUSH hangs at its first barrier with data, and TAG_FUA once a driver puts its preflush back.** Nobody is
   *   known to have used these modes.
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
 * @throws `EINVAL` for a name that is none
 */
export function eraOf<N extends string, E extends object>(
  era: N | E,
  eras: Readonly<Record<N, E>>,
): E {
  if (typeof era === 'object' && era !== null) return era;
  if (Object.hasOwn(eras, era)) return eras[era];
  const known = Object.keys(eras).join(', ');
  throw new WriteBarrierError('EINVAL', `no era ${String(era)}; there are ${known}`);
}
