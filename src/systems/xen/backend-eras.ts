/** What a backend made of a WRITE_BARRIER. */
export type BlkbackBarrier =
  | {
      /** Each bio of it is a hard barrier for the queue below, which orders it and flushes around it. */
      readonly by: 'hard-barrier';
    }
  | {
      /** The backend waits itself, and the payload goes out behind a flush. */
      readonly by: 'preflush';
      /** What must be over before: whatever this disk has been asked for, or only what came over the same ring. */
      readonly waitsFor: 'device' | 'ring';
      /** What comes later over the ring waits until the barrier is over. */
      readonly holdsLater: boolean;
      /** What is done to get the payload itself to the medium before the barrier is answered. */
      readonly payload: 'nothing' | 'fua' | 'flush';
    };

/** A backend of some years. */
export interface BlkbackEra {
  readonly name: string;
  /** Where it can be read. */
  readonly witness: string;
  readonly barrier: BlkbackBarrier;
  /** What becomes of a WRITE_BARRIER without segments. */
  readonly emptyBarrier: 'error' | 'taken';
  /** It knows FLUSH_DISKCACHE: a flush, and its payload behind it. */
  readonly flush: boolean;
  readonly discard: boolean;
  /** Segments in an INDIRECT request; 0 where it knows none. */
  readonly indirectSegments: number;
  /**
   * What is answered when several bios of one request fail. `last`: each failure writes over the status, so the one that
   * happens to come last is told. `worst`: an ERROR wins.
   */
  readonly status: 'last' | 'worst';
}

/** The name of an era. */
export type BlkbackEraName =
  | 'xenlinux-2006'
  | 'xenlinux-2.6.18'
  | 'blktap-2010'
  | 'linux-3.2'
  | 'linux-4.x-multi-ring';

const WAITS = {
  by: 'preflush',
  waitsFor: 'device',
  holdsLater: false,
  payload: 'nothing',
} as const;
const LINUX_3_2: BlkbackEra = Object.freeze<BlkbackEra>({
  name: 'linux-3.2',
  witness:
    'Linux 3.2, drivers/block/xen-blkback/blkback.c: xen_blk_drain_io(), dispatch_rw_block_io()',
  barrier: WAITS,
  emptyBarrier: 'taken',
  flush: true,
  discard: true,
  indirectSegments: 0,
  status: 'last',
});
const XENLINUX_2_6_18: BlkbackEra = Object.freeze<BlkbackEra>({
  name: 'xenlinux-2.6.18',
  witness: 'linux-2.6.18.8-xen, drivers/xen/blkback/blkback.c',
  barrier: { by: 'hard-barrier' },
  emptyBarrier: 'taken',
  flush: false,
  discard: false,
  indirectSegments: 0,
  status: 'last',
});

/** The backends of Linux, oldest first. What is not known of one is as in its neighbour. */
export const BLKBACK_ERAS: Readonly<Record<BlkbackEraName, BlkbackEra>> = Object.freeze({
  'xenlinux-2006': {
    ...XENLINUX_2_6_18,
    name: 'xenlinux-2006',
    witness: 'Xen changeset a1daf484 (2006); the Solaris mail to xen-devel reports the refusal',
    emptyBarrier: 'error',
  },
  'xenlinux-2.6.18': XENLINUX_2_6_18,
  'blktap-2010': {
    ...XENLINUX_2_6_18,
    name: 'blktap-2010',
    witness: '"blktap: handle barrier I/O request" to xen-devel (November 2010), tools/blktap',
    barrier: { by: 'preflush', waitsFor: 'device', holdsLater: true, payload: 'flush' },
    emptyBarrier: 'error',
    status: 'worst',
  },
  'linux-3.2': LINUX_3_2,
  'linux-4.x-multi-ring': {
    ...LINUX_3_2,
    name: 'linux-4.x-multi-ring',
    witness: 'Linux 4.x, drivers/block/xen-blkback/blkback.c: the drain counts ring->inflight',
    barrier: { ...WAITS, waitsFor: 'ring' },
    indirectSegments: 256,
  },
});
