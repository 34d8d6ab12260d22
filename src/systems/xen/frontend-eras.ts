// What Linux frontends made of a backend's nodes over the years, as a table, and what each did when the backend took a
// feature back.
//
//   era              node absent       feature-barrier 0   1                         feature-flush-cache 1
//   xenlinux-2006    NONE              NONE                DRAIN                     not read
//   linux-2.6.32     NONE              NONE                DRAIN                     not read
//   linux-2.6.36     DRAIN             NONE                TAG                       not read
//   fork-2.6.37      nothing           nothing             nothing: "empty flushes   not read
//                                                          not handled"
//   linux-3.x, 5.x   nothing: writes   nothing             flush and FUA, as         flush, as FLUSH_DISKCACHE;
//                    through                               WRITE_BARRIER             wins over feature-barrier
//
// Until 2.6.36 the queue above the driver has an ordered mode; the barrier's own write comes to the driver flagged as
// such and goes out as WRITE_BARRIER, in DRAIN as well: then both ends drain. Since 2.6.37 there are no modes, which is
// NONE here, and the queue sends flushes and FUA writes if the driver says that it takes them.
//
// The eras differ in data only. old-frontend.ts runs them.
//
// Source: blkfront_connect() and blkif_interrupt() in drivers/block/xen-blkfront.c, in the versions that `witness` names;
// for 2.6.36 and fork-2.6.37 excerpts of mails and of SUSE's driver, which has both sides in one file.

import type { ModeName } from 'write-barrier';
import type { ReadXenNodes } from './features.js';
import { BLKIF_OP } from './wire.js';

/** What a frontend has settled on. */
export interface BlkfrontChoice {
  /** The ordered mode of the queue above. */
  readonly mode: ModeName;
  /** That queue sends flushes and believes in a volatile cache. */
  readonly flush: boolean;
  /** It sends forced writes as such. */
  readonly fua: boolean;
  /** What barriers, flushes and forced writes become on the ring; undefined where none are sent. */
  readonly operation: number | undefined;
}

/** A frontend of some years. */
export interface BlkfrontEra {
  readonly name: string;
  /** Where it can be read. */
  readonly witness: string;
  /** There is no feature-barrier. */
  readonly absent: BlkfrontChoice;
  /** feature-barrier is 0. */
  readonly barrierOff: BlkfrontChoice;
  /** feature-barrier is 1. */
  readonly barrierOn: BlkfrontChoice;
  /** feature-flush-cache is 1, whatever feature-barrier says; undefined where nobody reads it. */
  readonly flushOn: BlkfrontChoice | undefined;
  /**
   * What EOPNOTSUPP becomes. `told`: the file system hears it and writes again without a barrier. `success`: the request
   * is answered as done, also one that carried data which is now nowhere.
   */
  readonly unsupported: 'told' | 'success';
  /** Which answers to a barrier, a flush or a forced write make it give up the operation. */
  readonly downgradesOn: 'unsupported' | 'any failure';
  /** An ERROR to a request without segments is taken for EOPNOTSUPP: the backend may be too old for those. */
  readonly emptyErrorIsUnsupported: boolean;
  /**
   * What becomes of a flush or a forced write after the downgrade. `refused`: the queue refuses it. `plain`: a flush is
   * done at once and a forced write is an ordinary one. `operation 0`: the field with the operation has been cleared,
   * and 0 is READ.
   */
  readonly afterDowngrade: 'refused' | 'plain' | 'operation 0';
}

const ordered = (mode: ModeName): BlkfrontChoice => ({
  mode,
  flush: false,
  fua: false,
  operation: mode === 'NONE' ? undefined : BLKIF_OP.WRITE_BARRIER,
});
const NOTHING: BlkfrontChoice = Object.freeze({
  mode: 'NONE',
  flush: false,
  fua: false,
  operation: undefined,
});
const BY_BARRIER: BlkfrontChoice = Object.freeze({
  mode: 'NONE',
  flush: true,
  fua: true,
  operation: BLKIF_OP.WRITE_BARRIER,
});
const BY_FLUSH: BlkfrontChoice = Object.freeze({
  mode: 'NONE',
  flush: true,
  fua: false,
  operation: BLKIF_OP.FLUSH_DISKCACHE,
});

const HARD = {
  absent: ordered('NONE'),
  barrierOff: ordered('NONE'),
  barrierOn: ordered('DRAIN'),
  flushOn: undefined,
  unsupported: 'told',
  downgradesOn: 'unsupported',
  emptyErrorIsUnsupported: false,
  afterDowngrade: 'refused',
} as const;
const SOFT = {
  absent: NOTHING,
  barrierOff: NOTHING,
  barrierOn: BY_BARRIER,
  flushOn: BY_FLUSH,
  unsupported: 'success',
  downgradesOn: 'any failure',
  emptyErrorIsUnsupported: true,
} as const;

/** The name of an era. */
export type BlkfrontEraName =
  | 'xenlinux-2006'
  | 'linux-2.6.32'
  | 'linux-2.6.36'
  | 'fork-2.6.37'
  | 'linux-3.x'
  | 'linux-5.x';

/** The frontends, oldest first. */
export const BLKFRONT_ERAS: Readonly<Record<BlkfrontEraName, BlkfrontEra>> = Object.freeze({
  'xenlinux-2006': {
    ...HARD,
    name: 'xenlinux-2006',
    witness: 'Xen changeset a1daf484 (2006), linux-2.6-xen-sparse/drivers/xen/blkfront',
  },
  'linux-2.6.32': {
    ...HARD,
    name: 'linux-2.6.32',
    witness: 'a tree based on 2.6.32, drivers/block/xen-blkfront.c',
  },
  'linux-2.6.36': {
    ...HARD,
    name: 'linux-2.6.36',
    witness: '"xen/blkfront: use tagged queuing for barriers" (2.6.35, 2.6.36); SUSE, below 2.6.37',
    absent: ordered('DRAIN'),
    barrierOn: ordered('TAG'),
  },
  'fork-2.6.37': {
    ...HARD,
    name: 'fork-2.6.37',
    witness: 'a fork in the transition to 2.6.37: "empty flushes not handled"',
    absent: NOTHING,
    barrierOff: NOTHING,
    barrierOn: NOTHING,
  },
  'linux-3.x': {
    ...SOFT,
    name: 'linux-3.x',
    witness: 'SUSE 3.x and Linux 3.x, drivers/block/xen-blkfront.c: flush_op = 0 after EOPNOTSUPP',
    afterDowngrade: 'operation 0',
  },
  'linux-5.x': {
    ...SOFT,
    name: 'linux-5.x',
    witness: 'Linux 5.x, drivers/block/xen-blkfront.c, blkif_interrupt()',
    afterDowngrade: 'plain',
  },
});

/** What the frontend of an era makes of the nodes. */
export function chooseBlkfront(
  era: BlkfrontEra,
  { barrier, flush }: Pick<ReadXenNodes, 'barrier' | 'flush'>,
): BlkfrontChoice {
  if (flush && era.flushOn) return era.flushOn;
  if (barrier === undefined) return era.absent;
  return barrier ? era.barrierOn : era.barrierOff;
}
