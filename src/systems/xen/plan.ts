// From a request of the ring to what is asked of the disk, or to the status that refuses it. Pure, and the only place
// where a request of a guest is judged. A guest may write anything into its ring; whatever passes here names sectors of
// the disk and bytes of granted pages, and no others:
//
//   P1  Every piece of memory lies in one granted page of 4096 bytes, on whole sectors of it.
//   P2  The pieces have exactly the bytes that the disk is asked for, and those are whole blocks of the disk.
//   P3  What is wrong is ERROR; what is not offered, or not known, is EOPNOTSUPP. Either has touched nothing.
//
// A request without segments: a WRITE_BARRIER is an empty barrier, a FLUSH_DISKCACHE a flush; a READ or a WRITE is wrong.
// A FLUSH_DISKCACHE with segments is a write behind a flush, as in Linux, though the protocol does not say so.
//
// Source: dispatch_rw_block_io(), xen_blkbk_parse_indirect() and dispatch_discard_io() in Linux 4.x
// drivers/block/xen-blkback/blkback.c. There a secure discard that the disk cannot do becomes an ordinary one; here it
// is refused.

import type { BlkFeatures } from './features.js';
import {
  BLKIF_OP,
  BLKIF_STATUS,
  type BlkifDiscard,
  type BlkifIndirect,
  type BlkifRequest,
  type BlkifSegment,
  type BlkifTransfer,
  DISCARD_SECURE,
  decodeBlkifSegments,
  INDIRECT_PAGES_MAX,
  PAGE_BYTES,
  SECTOR_BYTES,
  SECTORS_PER_PAGE,
  SEGMENTS_MAX,
  SEGMENTS_PER_PAGE,
} from './wire.js';

/** What a refusal says on the ring, and in words for the host. */
export interface Refusal {
  readonly kind: 'refuse';
  readonly status: typeof BLKIF_STATUS.ERROR | typeof BLKIF_STATUS.EOPNOTSUPP;
  readonly reason: string;
}

/** A transfer between the disk and pieces of granted pages. */
export interface TransferPlan {
  readonly kind: 'read' | 'write';
  /** In bytes from the start of the disk. */
  readonly offset: number;
  /** In bytes. */
  readonly length: number;
  /** Views of the granted pages, in the order of the disk. */
  readonly pieces: readonly Uint8Array[];
  readonly barrier: boolean;
  readonly preflush: boolean;
}

/** What the disk is asked for. */
export type Plan =
  | Refusal
  | TransferPlan
  | { readonly kind: 'barrier' | 'flush' }
  | { readonly kind: 'discard'; readonly offset: number; readonly length: number };

/** What a plan depends on besides the request. */
export interface Grounds {
  readonly features: BlkFeatures;
  /** In bytes. */
  readonly size: number;
  /** In bytes: what the disk can be asked for is multiples of it. */
  readonly blockSize: number;
  /** The page that the guest has granted under this reference. */
  page(gref: number): Uint8Array | undefined;
}

/** What becomes of a request. */
export function planOf(request: BlkifRequest, grounds: Grounds): Plan {
  switch (request.kind) {
    case 'transfer':
      return transferPlan(request, grounds);
    case 'indirect':
      return indirectPlan(request, grounds);
    case 'discard':
      return discardPlan(request, grounds);
    case 'other':
      return unsupported(`operation ${request.operation}`);
  }
}

function transferPlan(request: BlkifTransfer, grounds: Grounds): Plan {
  const { operation, nrSegments, segments } = request;
  const barrier = operation === BLKIF_OP.WRITE_BARRIER;
  const preflush = operation === BLKIF_OP.FLUSH_DISKCACHE;
  if (barrier && !grounds.features.barrier) return unsupported('a barrier');
  if (preflush && !grounds.features.flush) return unsupported('a flush');
  if (nrSegments > SEGMENTS_MAX) return wrong(`${nrSegments} segments`);
  if (nrSegments > segments.length) return wrong(`${segments.length} of ${nrSegments} segments`);
  if (nrSegments === 0) {
    if (barrier) return { kind: 'barrier' };
    return preflush ? { kind: 'flush' } : wrong('no segments');
  }
  const kind = operation === BLKIF_OP.READ ? 'read' : 'write';
  return runPlan({ kind, barrier, preflush }, request.sector, segments, grounds);
}

function indirectPlan(request: BlkifIndirect, grounds: Grounds): Plan {
  const { wraps, nrSegments, pages, sector } = request;
  const { indirectSegments } = grounds.features;
  if (indirectSegments === 0) return unsupported('an indirect request');
  if (wraps !== BLKIF_OP.READ && wraps !== BLKIF_OP.WRITE) return wrong(`${wraps} wrapped`);
  if (nrSegments === 0 || nrSegments > indirectSegments) return wrong(`${nrSegments} segments`);
  const segments: BlkifSegment[] = [];
  for (let at = 0; segments.length < nrSegments; at += 1) {
    const gref = at < INDIRECT_PAGES_MAX ? pages[at] : undefined;
    const page = gref === undefined ? undefined : grantedPage(gref, grounds);
    if (!page) return wrong('a page of segments that is not granted');
    const count = Math.min(nrSegments - segments.length, SEGMENTS_PER_PAGE);
    // The guest may change the page while it is looked at: what was decoded is what counts.
    segments.push(...decodeBlkifSegments(page, count));
  }
  const kind = wraps === BLKIF_OP.READ ? 'read' : 'write';
  return runPlan({ kind, barrier: false, preflush: false }, sector, segments, grounds);
}

/** P1, P2. */
function runPlan(
  how: Pick<TransferPlan, 'kind' | 'barrier' | 'preflush'>,
  sector: bigint,
  segments: readonly BlkifSegment[],
  grounds: Grounds,
): Plan {
  const pieces: Uint8Array[] = [];
  let sectors = 0;
  for (const { gref, first, last } of segments) {
    if (first > last || last >= SECTORS_PER_PAGE) return wrong(`sectors ${first} to ${last}`);
    const page = grantedPage(gref, grounds);
    if (!page) return wrong(`page ${gref}, which is not granted`);
    pieces.push(page.subarray(first * SECTOR_BYTES, (last + 1) * SECTOR_BYTES));
    sectors += last - first + 1;
  }
  const offset = placeOnDisk(sector, BigInt(sectors), grounds);
  if (offset === undefined) return wrong(`${sectors} sectors at ${sector}`);
  return { ...how, offset, length: sectors * SECTOR_BYTES, pieces };
}

function discardPlan({ flag, sector, sectors }: BlkifDiscard, grounds: Grounds): Plan {
  if (!grounds.features.discard) return unsupported('a discard');
  if (flag === DISCARD_SECURE) return unsupported('a secure discard');
  if (flag !== 0) return wrong(`flag ${flag}`);
  const offset = placeOnDisk(sector, sectors, grounds);
  if (offset === undefined || sectors === 0n) return wrong(`${sectors} sectors at ${sector}`);
  return { kind: 'discard', offset, length: Number(sectors) * SECTOR_BYTES };
}

/** In bytes; undefined for what the disk does not have. These are 64-bit numbers, whose sum does not overflow here. */
function placeOnDisk(sector: bigint, sectors: bigint, grounds: Grounds): number | undefined {
  const { size, blockSize } = grounds;
  const end = BigInt(Math.floor(size / SECTOR_BYTES));
  if (sector < 0n || sectors < 0n || sector + sectors > end) return undefined;
  const [offset, length] = [Number(sector) * SECTOR_BYTES, Number(sectors) * SECTOR_BYTES];
  return offset % blockSize === 0 && length % blockSize === 0 ? offset : undefined;
}

/** A page of another size, or one that has been taken back, is none. */
function grantedPage(gref: number, grounds: Grounds): Uint8Array | undefined {
  const page = grounds.page(gref);
  return page?.byteLength === PAGE_BYTES ? page : undefined;
}

function wrong(what: string): Refusal {
  return { kind: 'refuse', status: BLKIF_STATUS.ERROR, reason: `malformed: ${what}` };
}

function unsupported(what: string): Refusal {
  return { kind: 'refuse', status: BLKIF_STATUS.EOPNOTSUPP, reason: `not supported: ${what}` };
}
