// A block backend: judges the requests of a Xen guest, and serves them on a scheduler.
//
// Each request is judged, in the order of arrival: it becomes a request of the disk, with the pieces of memory that it moves, or
// the status that refuses it. Judging is pure, and this is the only place where a request of a guest is judged. A guest may
// write anything into its ring; a request that is accepted here touches only sectors of the disk and bytes of granted pages:
//
//   P1  Every piece of memory lies in one granted page of 4096 bytes, on whole sectors of it.
//   P2  The pieces have exactly as many bytes as the operation on the disk, which covers whole blocks.
//   P3  A malformed request is ERROR; one that is unknown or not offered is EOPNOTSUPP. Neither has touched the disk or a
//       page.
//
// A request without segments: a WRITE_BARRIER is an empty barrier, a FLUSH_DISKCACHE a flush; a READ or a WRITE is wrong.
// A FLUSH_DISKCACHE with segments is a write that follows a flush, as in Linux, though the protocol does not say so.
//
// The scheduler's mode decides which requests a barrier holds back, and how a barrier gets past a cache. So:
//
//   B1  A WRITE_BARRIER is a full one: no later write of any ring of this backend reaches the disk before it is done.
//       blkback of Linux waits before it and not after it (old-backend.ts).
//   B2  Its payload and all that was written before it are durable when it is answered, because it is offered only where
//       the scheduler's guarantees say so.
//   B3  Every request has one response, with its id. The guest reads every error as a status; nothing is thrown.
//   B4  The data of a write is copied when the request is taken. What the guest does to its page afterwards changes
//       nothing, and no memory is kept for longer than the request.
//
// A feature can be taken back while guests use it: `offer({ barrier: false })`. Requests that come later are answered
// EOPNOTSUPP, with nothing written, as the protocol allows at any time. The same happens by itself when the scheduler's
// mode is changed to one that cannot keep the promise.
//
// With `xenLoopback` the frontend is in the same program: its backend is a function call away, with a ring of real bytes between
// them.
//
// Not here: the ring (ring.ts); persistent grants; more than one block size. A request that the scheduler refuses is
// answered ERROR: every request after a failed flush, until the owner of the scheduler calls `recover()`; and a request
// that does not fit into its queue, which should have room for all slots of all rings.
//
// Source: Linux drivers/block/xen-blkback/blkback.c (3.2 and 4.x): dispatch_rw_block_io(), xen_blkbk_parse_indirect() and
// dispatch_discard_io(). There a secure discard that the disk cannot do becomes an ordinary one; here it is refused.

import type { IoScheduler, Request } from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  concatBuffers,
  FUNCTION,
  scatterBytes,
  wholeNumber,
} from 'write-barrier/kit';
import { ask, SCHEDULER } from '../requests.js';
import {
  type BlkFeatures,
  blkFeaturesOf,
  INDIRECT_SEGMENTS_MAX,
  sectorSizeOf,
  type XenNodes,
  xenNodes,
} from './features.js';
import { BlkFrontend } from './frontend.js';
import { type GrantTable, grantTable } from './grants.js';
import { BlkFrontRing, blkBackRing } from './ring.js';
import {
  BLKIF_OP,
  BLKIF_STATUS,
  type BlkifDiscard,
  type BlkifIndirect,
  type BlkifLayout,
  type BlkifRequest,
  type BlkifResponse,
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
  StatusError,
  statusOfError,
} from './wire.js';

/** How a backend is to behave. */
export interface BlkBackendOptions {
  /** The page of 4096 bytes that the guest has granted under this reference; undefined where it has not. */
  page(gref: number): Uint8Array | undefined;
  /** What is not to be offered although the scheduler can. @defaultValue everything that it can is offered */
  readonly offer?: Partial<BlkFeatures>;
  /** Called with the reason when a request was refused or has failed. It must not throw. */
  readonly refused?: (request: BlkifRequest, reason: unknown) => void;
}

/** A backend over a scheduler. */
export interface BlkBackend {
  /** What it takes now. */
  readonly features: BlkFeatures;
  /** What it writes into xenstore now. */
  readonly nodes: XenNodes;
  /** Offers less, or again what it can: `{ flush: false }`. What is not named stays. */
  offer(change: Partial<BlkFeatures>): void;
  /** Answers a request. Requests count as issued in the order of these calls. Never rejects. */
  serve(request: BlkifRequest): Promise<BlkifResponse>;
}

const OPTIONS = { page: 1, offer: 1, refused: 1 } as const;
const OFFER = {
  barrier: BOOLEAN,
  flush: BOOLEAN,
  discard: BOOLEAN,
  indirectSegments: wholeNumber(0),
} as const;

function checkedOffer(offer: Partial<BlkFeatures>): Partial<BlkFeatures> {
  checkOptions(offer, OFFER, 'offer');
  return offer;
}

/**
 * A backend over a scheduler. Several rings, of one guest or of many, may share it.
 *
 * @throws `INVALID_ARGUMENT` for what is no scheduler, for a disk whose blocks are no multiple or part of 512 bytes, and for an
 *   option that is not known
 */
export function blkback(disk: IoScheduler, options: BlkBackendOptions): BlkBackend {
  checkArgument('disk', disk, SCHEDULER);
  checkOptions(options, OPTIONS, 'blkback');
  const { size, capabilities } = disk;
  const { blockSize } = capabilities;
  sectorSizeOf(blockSize);
  const { page, refused } = options;
  checkArgument('page', page, FUNCTION);
  let offered = checkedOffer(options.offer ?? {});

  const features = (): BlkFeatures => {
    const able = blkFeaturesOf(disk);
    const { barrier = true, flush = true, discard = true } = offered;
    return {
      barrier: able.barrier && barrier,
      flush: able.flush && flush,
      discard: able.discard && discard,
      // More cannot be sent: their pages do not hold them.
      indirectSegments: Math.min(
        offered.indirectSegments ?? able.indirectSegments,
        INDIRECT_SEGMENTS_MAX,
      ),
    };
  };

  return {
    get features() {
      return features();
    },
    get nodes() {
      return xenNodes(disk, features());
    },
    offer: (change) => {
      offered = { ...offered, ...checkedOffer(change) };
    },
    serve: (request) => {
      const grounds = { features: features(), size, blockSize, page };
      const note = (reason: unknown): void => refused?.(request, reason);
      return answerTo(request, grounds, (work) => carryOut(disk, work), note);
    },
  };
}

/** What a guest asks of the disk. */
export interface Work {
  /** In bytes from the start of the disk. */
  readonly request: Request;
  /** Views of the granted pages, in the order of the disk. */
  readonly pieces: readonly Uint8Array[];
}

/** The pages are those that were granted when the request came: they are lent until it is answered. */
export async function carryOut(disk: IoScheduler, { request, pieces }: Work): Promise<void> {
  const data = request.kind === 'write' ? concatBuffers(pieces) : undefined; // B4
  const bytes = await ask(disk, request, data);
  if (bytes) scatterBytes(bytes, pieces);
}

/**
 * Carries out what a request asks for, and answers it (B3).
 *
 * @param refused called with the reason if it was refused or has failed
 */
export async function answerTo(
  request: BlkifRequest,
  grounds: Grounds,
  work: (work: Work) => Promise<unknown>,
  refused?: (reason: unknown) => void,
): Promise<BlkifResponse> {
  const { id } = request;
  const operation = request.kind === 'indirect' ? request.wraps : request.operation;
  try {
    await work(workOf(request, grounds));
    return { id, operation, status: BLKIF_STATUS.OKAY };
  } catch (error) {
    refused?.(error instanceof StatusError ? error.message : error);
    return { id, operation, status: statusOfError(error) };
  }
}

// Judging

/** What the judgement depends on in addition to the request. */
export interface Grounds {
  readonly features: BlkFeatures;
  /** In bytes. */
  readonly size: number;
  /** In bytes: what the disk can be asked for is multiples of it. */
  readonly blockSize: number;
  /** The page that the guest has granted under this reference. */
  page(gref: number): Uint8Array | undefined;
}

/** @throws `StatusError` with the status that refuses the request (P3) */
function workOf(request: BlkifRequest, grounds: Grounds): Work {
  switch (request.kind) {
    case 'transfer':
      return transferOf(request, grounds);
    case 'indirect':
      return indirectOf(request, grounds);
    case 'discard':
      return discardOf(request, grounds);
    case 'other':
      throw unsupported(`operation ${request.operation}`);
  }
}

function transferOf(request: BlkifTransfer, grounds: Grounds): Work {
  const { operation, nrSegments, segments } = request;
  const barrier = operation === BLKIF_OP.WRITE_BARRIER;
  const preflush = operation === BLKIF_OP.FLUSH_DISKCACHE;
  if (barrier && !grounds.features.barrier) throw unsupported('a barrier');
  if (preflush && !grounds.features.flush) throw unsupported('a flush');
  if (nrSegments > SEGMENTS_MAX) throw wrong(`${nrSegments} segments`);
  if (nrSegments > segments.length) throw wrong(`${segments.length} of ${nrSegments} segments`);
  if (nrSegments > 0) return movedBy(operation, request.sector, segments, grounds);
  if (!barrier && !preflush) throw wrong('no segments');
  return { request: { kind: barrier ? 'barrier' : 'flush' }, pieces: [] };
}

function indirectOf(request: BlkifIndirect, grounds: Grounds): Work {
  const { wraps, nrSegments, pages, sector } = request;
  const { indirectSegments } = grounds.features;
  if (indirectSegments === 0) throw unsupported('an indirect request');
  if (wraps !== BLKIF_OP.READ && wraps !== BLKIF_OP.WRITE) throw wrong(`${wraps} wrapped`);
  if (nrSegments === 0 || nrSegments > indirectSegments) throw wrong(`${nrSegments} segments`);
  const segments: BlkifSegment[] = [];
  for (let at = 0; segments.length < nrSegments; at += 1) {
    const page = at < INDIRECT_PAGES_MAX ? grantedPage(pages[at], grounds) : undefined;
    if (!page) throw wrong('a page of segments that is not granted');
    const count = Math.min(nrSegments - segments.length, SEGMENTS_PER_PAGE);
    // The guest may change the page while it is looked at: what was decoded is what counts.
    segments.push(...decodeBlkifSegments(page, count));
  }
  return movedBy(wraps, sector, segments, grounds);
}

/** P1, P2. */
function movedBy(
  operation: number,
  sector: bigint,
  segments: readonly BlkifSegment[],
  grounds: Grounds,
): Work {
  const pieces: Uint8Array[] = [];
  let sectors = 0;
  for (const { gref, first, last } of segments) {
    if (first > last || last >= SECTORS_PER_PAGE) throw wrong(`sectors ${first} to ${last}`);
    const page = grantedPage(gref, grounds);
    if (!page) throw wrong(`page ${gref}, which is not granted`);
    pieces.push(page.subarray(first * SECTOR_BYTES, (last + 1) * SECTOR_BYTES));
    sectors += last - first + 1;
  }
  const range = rangeOnDisk(sector, BigInt(sectors), grounds);
  if (operation === BLKIF_OP.READ) return { request: { kind: 'read', ...range }, pieces };
  const barrier = operation === BLKIF_OP.WRITE_BARRIER && { barrier: true };
  const preflush = operation === BLKIF_OP.FLUSH_DISKCACHE && { preflush: true };
  return { request: { kind: 'write', ...range, ...barrier, ...preflush }, pieces };
}

function discardOf({ flag, sector, sectors }: BlkifDiscard, grounds: Grounds): Work {
  if (!grounds.features.discard) throw unsupported('a discard');
  if (flag === DISCARD_SECURE) throw unsupported('a secure discard');
  if (flag !== 0) throw wrong(`flag ${flag}`);
  if (sectors === 0n) throw wrong(`${sectors} sectors at ${sector}`);
  return { request: { kind: 'discard', ...rangeOnDisk(sector, sectors, grounds) }, pieces: [] };
}

/** In bytes. These are 64-bit numbers, whose sum does not overflow here. */
function rangeOnDisk(
  sector: bigint,
  sectors: bigint,
  { size, blockSize }: Grounds,
): { readonly offset: number; readonly length: number } {
  const end = BigInt(Math.floor(size / SECTOR_BYTES));
  const [offset, length] = [Number(sector) * SECTOR_BYTES, Number(sectors) * SECTOR_BYTES];
  const inside = sector >= 0n && sectors >= 0n && sector + sectors <= end;
  if (inside && offset % blockSize === 0 && length % blockSize === 0) return { offset, length };
  throw wrong(`${sectors} sectors at ${sector}`);
}

/** A page of another size, or one that has been taken back, counts as not granted. */
function grantedPage(gref: number | undefined, grounds: Grounds): Uint8Array | undefined {
  const page = gref === undefined ? undefined : grounds.page(gref);
  return page?.byteLength === PAGE_BYTES ? page : undefined;
}

function wrong(what: string): StatusError {
  return new StatusError(BLKIF_STATUS.ERROR, `malformed: ${what}`);
}

function unsupported(what: string): StatusError {
  return new StatusError(BLKIF_STATUS.EOPNOTSUPP, `not supported: ${what}`);
}

// Both ends in one program

/** How two ends are put together. */
export interface XenLoopbackOptions {
  /** @defaultValue `'x86-64'` */
  readonly layout?: BlkifLayout;
  /** Pages that the frontend has to lend. @defaultValue 512 */
  readonly pages?: number;
  /** As for a frontend. */
  readonly withoutFlush?: 'volatile' | 'none';
  /** Called once when a ring is broken. */
  readonly broken?: (reason: string) => void;
}

const LOOPBACK = { layout: 1, pages: 1, withoutFlush: 1, broken: 1, offer: 1, refused: 1 } as const;

/** The part of a backend that a ring needs. */
export interface BlkifServing {
  /** What it writes into xenstore. */
  readonly nodes: XenNodes;
  /** Answers a request and never rejects. */
  serve(request: BlkifRequest): Promise<BlkifResponse>;
}

/** A frontend whose backend is in the same program, with a ring of real bytes between them. */
export interface XenLoopback<B extends BlkifServing> {
  /** The guest's end: a storage. */
  readonly frontend: BlkFrontend;
  /** The host's end. */
  readonly backend: B;
  /** The page with the ring. */
  readonly ring: Uint8Array;
  /** The pages that the frontend lends. */
  readonly grants: GrantTable;
}

/**
 * Puts a frontend in front of a backend, as between two domains: they share one page with a ring, the
 * granted pages, and two events, each of which comes in a turn of its own.
 */
export function xenLoopbackOver<B extends BlkifServing>(
  make: (grants: GrantTable) => B,
  options: XenLoopbackOptions = {},
): XenLoopback<B> {
  const { layout = 'x86-64', pages = 512, withoutFlush, broken } = options;
  const ring = new Uint8Array(PAGE_BYTES);
  const grants = grantTable(pages);
  const backend = make(grants);
  const front = new BlkFrontRing(ring, {
    layout,
    notify: () => queueMicrotask(() => back.notified()),
  });
  const back = blkBackRing(ring, {
    layout,
    serve: (request) => backend.serve(request),
    notify: () => queueMicrotask(() => front.notified()),
    ...(broken && { broken }),
  });
  const how = { nodes: backend.nodes, ring: front, grants, ...(withoutFlush && { withoutFlush }) };
  return { frontend: new BlkFrontend(how), backend, ring, grants };
}

/**
 * A scheduler behind a Xen ring: its backend, and a frontend that is a storage.
 *
 * @throws as `blkback`
 */
export function xenLoopback(
  disk: IoScheduler,
  options: XenLoopbackOptions & Omit<BlkBackendOptions, 'page'> = {},
): XenLoopback<BlkBackend> {
  checkOptions(options, LOOPBACK, 'xenLoopback');
  const { offer, refused, ...ends } = options;
  const backend = { ...(offer && { offer }), ...(refused && { refused }) };
  return xenLoopbackOver(({ page }) => blkback(disk, { ...backend, page }), ends);
}
