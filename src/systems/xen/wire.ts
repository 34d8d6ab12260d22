// The requests and responses of the Xen block protocol as bytes, in both layouts that x86 guests speak. Pure: bytes in,
// values out, and back.
//
// The two layouts have the same fields and differ in one thing: where a 64-bit number is aligned to 8 bytes (x86-64) it
// leaves a gap in front of it, where it is aligned to 4 (x86-32) it does not.
//
//                       x86-64          x86-32
//   operation           0               0
//   nr_segments         1               1       (discard: flag; indirect: the wrapped operation)
//   handle              2               2       (indirect: nr_segments, 16 bits)
//   id                  8               4
//   sector_number       16              12
//   seg[11]             24              20      8 bytes each: gref, first_sect, last_sect, a gap of 2
//   discard: sectors    24              20
//   indirect: handle    24              20
//   indirect: grefs[8]  28              24
//   a request           112             108
//   a response          16              12      id at 0, operation at 8, status at 10
//
// Any slot of the right size decodes: what a peer wrote is described, not judged. So `nrSegments` may say 200 where 11
// are there, and an operation that nobody knows keeps its id, so that it can be answered. Judgement is in plan.ts.
//
// Numbers are little-endian; bytes in gaps are written as zero and ignored.
//
// Source: xen/include/public/io/blkif.h; the x86-32 structures in Linux drivers/block/xen-blkback/common.h.

import { WriteBarrierError } from 'write-barrier';

/** How the guest lays out its structures: its node `protocol`, without the `-abi`. */
export type BlkifLayout = 'x86-64' | 'x86-32';

/** The operations. 4 is reserved: SLES once sent SCSI packets with it. */
export const BLKIF_OP: {
  readonly READ: 0;
  readonly WRITE: 1;
  readonly WRITE_BARRIER: 2;
  readonly FLUSH_DISKCACHE: 3;
  readonly RESERVED_1: 4;
  readonly DISCARD: 5;
  readonly INDIRECT: 6;
} = Object.freeze({
  READ: 0,
  WRITE: 1,
  WRITE_BARRIER: 2,
  FLUSH_DISKCACHE: 3,
  RESERVED_1: 4,
  DISCARD: 5,
  INDIRECT: 6,
});

/** What a response can say. */
export const BLKIF_STATUS: {
  readonly OKAY: 0;
  /** Anything that went wrong. */
  readonly ERROR: -1;
  /** The operation is not supported, or not any more. */
  readonly EOPNOTSUPP: -2;
} = Object.freeze({ OKAY: 0, ERROR: -1, EOPNOTSUPP: -2 });

/** In bytes: the unit of every sector number of the protocol, whatever the disk's own sectors are. */
export const SECTOR_BYTES = 512;
/** In bytes: what one grant reference stands for. */
export const PAGE_BYTES = 4096;
export const SECTORS_PER_PAGE: number = PAGE_BYTES / SECTOR_BYTES;
/** Segments in a direct request. */
export const SEGMENTS_MAX = 11;
/** Pages of segments in an indirect request. */
export const INDIRECT_PAGES_MAX = 8;
const SEGMENT_BYTES = 8;
export const SEGMENTS_PER_PAGE: number = PAGE_BYTES / SEGMENT_BYTES;
/** The flag of a discard that must leave nothing readable behind. */
export const DISCARD_SECURE = 1;

/** A run of sectors in one granted page. */
export interface BlkifSegment {
  /** The grant reference of the page. */
  readonly gref: number;
  /** The first sector of the page that counts, 0 to 7. */
  readonly first: number;
  /** The last one, included. */
  readonly last: number;
}

/** READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE. */
export interface BlkifTransfer {
  readonly kind: 'transfer';
  readonly operation: number;
  /** As the request says; more than `SEGMENTS_MAX` is nonsense. */
  readonly nrSegments: number;
  readonly handle: number;
  /** The frontend's own, handed back in the response. */
  readonly id: bigint;
  /** The first sector on the disk. */
  readonly sector: bigint;
  /** As many as the slot holds, at most `SEGMENTS_MAX`. */
  readonly segments: readonly BlkifSegment[];
}

/** DISCARD. */
export interface BlkifDiscard {
  readonly kind: 'discard';
  readonly operation: typeof BLKIF_OP.DISCARD;
  readonly flag: number;
  readonly handle: number;
  readonly id: bigint;
  readonly sector: bigint;
  /** How many. */
  readonly sectors: bigint;
}

/** INDIRECT: a READ or a WRITE whose segments lie in pages of their own. */
export interface BlkifIndirect {
  readonly kind: 'indirect';
  readonly operation: typeof BLKIF_OP.INDIRECT;
  /** What is wrapped. */
  readonly wraps: number;
  readonly nrSegments: number;
  readonly handle: number;
  readonly id: bigint;
  readonly sector: bigint;
  /** The grant references of the pages with the segments: always eight, the first ones count. */
  readonly pages: readonly number[];
}

/** An operation that is none of the above. Of its body nothing is known but where the id is. */
export interface BlkifOther {
  readonly kind: 'other';
  readonly operation: number;
  readonly id: bigint;
}

/** What a frontend asks. */
export type BlkifRequest = BlkifTransfer | BlkifDiscard | BlkifIndirect | BlkifOther;

/** What a backend answers. */
export interface BlkifResponse {
  /** That of the request. */
  readonly id: bigint;
  /** That of the request; of an indirect one the operation that it wraps, which is what Linux frontends insist on. */
  readonly operation: number;
  /** One of `BLKIF_STATUS`; others count as ERROR. */
  readonly status: number;
}

/** Where things are. In bytes from the start of the slot. */
interface Places {
  readonly id: number;
  readonly sector: number;
  /** What follows the sector: segments, the length of a discard, the handle of an indirect request. */
  readonly body: number;
  readonly request: number;
  readonly response: number;
}

const PLACES: Readonly<Record<BlkifLayout, Places>> = Object.freeze({
  'x86-64': { id: 8, sector: 16, body: 24, request: 112, response: 16 },
  'x86-32': { id: 4, sector: 12, body: 20, request: 108, response: 12 },
});

/** The bytes of a request; a slot of the ring is as large, since no response is larger. */
export function requestBytes(layout: BlkifLayout): number {
  return placesOf(layout).request;
}

/** The bytes of a response. */
export function responseBytes(layout: BlkifLayout): number {
  return placesOf(layout).response;
}

/**
 * A request as bytes.
 *
 * @throws `INVALID_ARGUMENT` for a field that does not fit its place
 */
export function encodeBlkifRequest(request: BlkifRequest, layout: BlkifLayout): Uint8Array {
  const places = placesOf(layout);
  const bytes = new Uint8Array(places.request);
  const view = viewOf(bytes);
  view.setUint8(0, fitting(request.operation, 8));
  view.setBigUint64(places.id, fittingLong(request.id), true);
  if (request.kind === 'other') return bytes;
  view.setBigUint64(places.sector, fittingLong(request.sector), true);
  switch (request.kind) {
    case 'transfer':
      view.setUint8(1, fitting(request.nrSegments, 8));
      view.setUint16(2, fitting(request.handle, 16), true);
      if (request.segments.length > SEGMENTS_MAX) throw misuse(request.segments.length);
      encodeBlkifSegments(bytes.subarray(places.body), request.segments);
      return bytes;
    case 'discard':
      view.setUint8(1, fitting(request.flag, 8));
      view.setUint16(2, fitting(request.handle, 16), true);
      view.setBigUint64(places.body, fittingLong(request.sectors), true);
      return bytes;
    case 'indirect':
      view.setUint8(1, fitting(request.wraps, 8));
      view.setUint16(2, fitting(request.nrSegments, 16), true);
      view.setUint16(places.body, fitting(request.handle, 16), true);
      if (request.pages.length > INDIRECT_PAGES_MAX) throw misuse(request.pages.length);
      for (const [at, gref] of request.pages.entries()) {
        view.setUint32(places.body + 4 + 4 * at, fitting(gref, 32), true);
      }
      return bytes;
  }
}

/**
 * What the bytes of a slot ask for, whatever they are.
 *
 * @throws `INVALID_ARGUMENT` for fewer bytes than a request has
 */
export function decodeBlkifRequest(bytes: Uint8Array, layout: BlkifLayout): BlkifRequest {
  const places = placesOf(layout);
  const view = viewOf(bytes, places.request);
  const operation = view.getUint8(0);
  const id = view.getBigUint64(places.id, true);
  const sector = view.getBigUint64(places.sector, true);
  switch (operation) {
    case BLKIF_OP.READ:
    case BLKIF_OP.WRITE:
    case BLKIF_OP.WRITE_BARRIER:
    case BLKIF_OP.FLUSH_DISKCACHE: {
      const nrSegments = view.getUint8(1);
      const segments = decodeBlkifSegments(
        bytes.subarray(places.body),
        Math.min(nrSegments, SEGMENTS_MAX),
      );
      const handle = view.getUint16(2, true);
      return { kind: 'transfer', operation, nrSegments, handle, id, sector, segments };
    }
    case BLKIF_OP.DISCARD: {
      const sectors = view.getBigUint64(places.body, true);
      const handle = view.getUint16(2, true);
      return { kind: 'discard', operation, flag: view.getUint8(1), handle, id, sector, sectors };
    }
    case BLKIF_OP.INDIRECT: {
      const nrSegments = view.getUint16(2, true);
      const handle = view.getUint16(places.body, true);
      const pages = Array.from({ length: INDIRECT_PAGES_MAX }, (_, at) =>
        view.getUint32(places.body + 4 + 4 * at, true),
      );
      const wraps = view.getUint8(1);
      return { kind: 'indirect', operation, wraps, nrSegments, handle, id, sector, pages };
    }
    default:
      return { kind: 'other', operation, id };
  }
}

/**
 * A response as bytes.
 *
 * @throws `INVALID_ARGUMENT` for a field that does not fit its place
 */
export function encodeBlkifResponse(response: BlkifResponse, layout: BlkifLayout): Uint8Array {
  const bytes = new Uint8Array(placesOf(layout).response);
  const view = viewOf(bytes);
  view.setBigUint64(0, fittingLong(response.id), true);
  view.setUint8(8, fitting(response.operation, 8));
  view.setInt16(10, fitting(response.status + 0x8000, 16) - 0x8000, true);
  return bytes;
}

/**
 * What a slot answers.
 *
 * @throws `INVALID_ARGUMENT` for fewer bytes than a response has
 */
export function decodeBlkifResponse(bytes: Uint8Array, layout: BlkifLayout): BlkifResponse {
  const view = viewOf(bytes, placesOf(layout).response);
  const id = view.getBigUint64(0, true);
  return { id, operation: view.getUint8(8), status: view.getInt16(10, true) };
}

/**
 * Puts segments one behind the other: into the body of a request, or into a page of an indirect one.
 *
 * @throws `INVALID_ARGUMENT` where they do not fit
 */
export function encodeBlkifSegments(into: Uint8Array, segments: readonly BlkifSegment[]): void {
  const view = viewOf(into, segments.length * SEGMENT_BYTES);
  for (const [index, { gref, first, last }] of segments.entries()) {
    const at = index * SEGMENT_BYTES;
    view.setUint32(at, fitting(gref, 32), true);
    view.setUint8(at + 4, fitting(first, 8));
    view.setUint8(at + 5, fitting(last, 8));
    view.setUint16(at + 6, 0);
  }
}

/**
 * The first `count` segments of a body or a page.
 *
 * @throws `INVALID_ARGUMENT` where there are fewer
 */
export function decodeBlkifSegments(bytes: Uint8Array, count: number): readonly BlkifSegment[] {
  const view = viewOf(bytes, count * SEGMENT_BYTES);
  return Array.from({ length: count }, (_, index) => {
    const at = index * SEGMENT_BYTES;
    const [first, last] = [view.getUint8(at + 4), view.getUint8(at + 5)];
    return { gref: view.getUint32(at, true), first, last };
  });
}

function placesOf(layout: BlkifLayout): Places {
  if (Object.hasOwn(PLACES, layout)) return PLACES[layout];
  throw misuse(layout);
}

function viewOf(bytes: Uint8Array, length: number = bytes.byteLength): DataView {
  if (bytes.byteLength < length) throw misuse(`${bytes.byteLength} bytes, ${length} are needed`);
  return new DataView(bytes.buffer, bytes.byteOffset, length);
}

function fitting(value: number, bits: number): number {
  if (Number.isInteger(value) && value >= 0 && value < 2 ** bits) return value;
  throw misuse(value);
}

function fittingLong(value: bigint): bigint {
  if (value === BigInt.asUintN(64, value)) return value;
  throw misuse(value);
}

function misuse(what: unknown): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', `not for the ring: ${String(what)}`);
}
