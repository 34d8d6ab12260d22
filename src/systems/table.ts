// The table of systems: what each was, when, in which eras, and where that can be read. An era is plain data whose fields
// are the defects, so one of them alone can be taken out. The pages and the museum read this table; `openSystem` opens
// what stands in it (system.ts).
//
// Not here: the eras of Xen's backends (`BLKBACK_ERAS`), because a backend is an option of the guest above it.
//
// Source: each row names its own.

import {
  TAPDISK_2010,
  TAPDISK_BEFORE,
  TAPDISK_REPAIRED,
  type TapdiskProfile,
} from './blktap/tapdisk.js';
import { BARRIER_ERAS, FLUSH_ERAS } from './linux/eras.js';
import { type AioProfile, QEMU_2009, QEMU_REPAIRED } from './qemu/aio.js';
import { VIRTIO_DRIVERS } from './virtio/features.js';
import { BLKFRONT_ERAS } from './xen/old-frontend.js';

/** The systems that can be opened. */
export type SystemName = keyof typeof SYSTEMS;

/** A row of the table of systems. */
export interface SystemRow<E extends object = object> {
  /** When it was in use. */
  readonly years: string;
  /** What it is. */
  readonly what: string;
  /** By name; empty where there is only one. Their fields are the defects. */
  readonly eras: Readonly<E>;
  /** Opened without an era. */
  readonly era?: string;
  /** Where that can be read. */
  readonly witness: string;
  /** The page about it. */
  readonly page: string;
}

/** What there is. An era can be given by its name here, or as a copy with a field changed. */
export const SYSTEMS: Readonly<{
  /** The request queue of Linux. */
  linux: SystemRow<typeof BARRIER_ERAS & typeof FLUSH_ERAS>;
  /** A virtio-blk driver. */
  'virtio-blk': SystemRow<typeof VIRTIO_DRIVERS>;
  /** A Xen block frontend. */
  'xen-blkif': SystemRow<typeof BLKFRONT_ERAS>;
  /** The disk of a Solaris guest on Xen. */
  solaris: SystemRow;
  /** The barrier patch for QEMU. */
  'qemu-2009': SystemRow<Record<'2009' | 'repaired', AioProfile>>;
  /** Our queue with the contract of that of QEMU. */
  'posix-aio': SystemRow;
  /** A disk of blktap. */
  tapdisk: SystemRow<Record<'before' | '2010' | 'repaired', TapdiskProfile>>;
  /** A file under our scheduler. */
  'plain-file': SystemRow;
}> = Object.freeze({
  linux: {
    years: '2006 to today',
    what: "Linux's request queue: hard barriers up to 2.6.36, the flush machine since 2.6.37",
    eras: Object.freeze({ ...BARRIER_ERAS, ...FLUSH_ERAS }),
    era: '2.6.36',
    witness:
      'block/ll_rw_blk.c of 2.6.20 and 2.6.24, blk-barrier.c to 2.6.36, blk-flush.c since 2.6.37',
    page: 'docs/systems/linux.md',
  },
  'virtio-blk': {
    years: '2007 to today',
    what: 'a virtio-blk driver on our device; with an old era under the Linux queue of its years',
    eras: VIRTIO_DRIVERS,
    era: 'specification',
    witness: 'OASIS virtio 1.3, 5.2; drivers/block/virtio_blk.c and the patch of 15 June 2010',
    page: 'docs/systems/virtio-blk.md',
  },
  'xen-blkif': {
    years: '2006 to today',
    what: 'a Xen block frontend on a backend; without an era ours, with a ring between them',
    eras: BLKFRONT_ERAS,
    witness: 'xen/include/public/io/blkif.h; xen-blkfront.c and blkback.c of 2006 to Linux 5.x',
    page: 'docs/systems/xen.md',
  },
  solaris: {
    years: '2006 to 2010',
    what: 'the disk driver of a Solaris guest on a Xen backend, with three ways to flush',
    eras: Object.freeze({}),
    witness: 'a mail to xen-devel by Gary Pennington; OpenSolaris uts/common/xen/io/xdf.c',
    page: 'docs/systems/solaris.md',
  },
  'qemu-2009': {
    years: 'May 2009',
    what: "the barrier patch for QEMU's posix-aio emulation, never merged",
    eras: Object.freeze({ '2009': QEMU_2009, repaired: QEMU_REPAIRED }),
    era: '2009',
    witness: '"barriers: block-raw-posix barrier support" (qemu-devel, 5 May 2009)',
    page: 'docs/systems/qemu-2009.md',
  },
  'posix-aio': {
    years: 'ours',
    what: 'the contract of qemu_paio_submit and qemu_paio_cancel, kept by our scheduler',
    eras: Object.freeze({}),
    witness: "QEMU's posix-aio-compat.c (2009)",
    page: 'docs/systems/qemu-2009.md',
  },
  tapdisk: {
    years: '2010',
    what: "the user-space half of Xen's blktap: barriers out of fsync",
    eras: Object.freeze({
      before: TAPDISK_BEFORE,
      '2010': TAPDISK_2010,
      repaired: TAPDISK_REPAIRED,
    }),
    era: '2010',
    witness: '"[PATCH] blktap: handle barrier I/O request" (xen-devel, 3 November 2010)',
    page: 'docs/systems/blktap.md',
  },
  'plain-file': {
    years: 'ours',
    what: 'a file with read, write and sync under our scheduler',
    eras: Object.freeze({}),
    witness:
      '"[PATCH] blktap: handle barrier I/O request" (xen-devel, 3 November 2010), for the order of the calls',
    page: 'docs/systems/blktap.md',
  },
});
