// The requests and responses of the Xen block protocol as bytes, in both layouts that x86 guests speak, and what a status
// means. Pure functions between bytes and values.
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
// Any slot of the right size decodes: decoding does not judge what a peer wrote. So `nrSegments` may be 200 although a
// request has 11 segments, and an unknown operation keeps its id, so that it can be answered. backend.ts judges requests.
//
// Numbers are little-endian; bytes in gaps are written as zero and ignored.
//
// Source: xen/include/public/io/blkif.h; the x86-32 structures in Linux drivers/block/xen-blkback/common.h.

import { IoFailedError, WriteBarrierError } from 'write-barrier';
import { checkArgument, misuse, oneOf } from 'write-barrier/kit';
import { decodeFields, encodeFields, type Field } from '../fields.js';

/** How the guest lays out its structures: its node `protocol`, without the `-abi`. */
export type BlkifLayout = 'x86-64' | 'x86-32';

/** The operations. 4 is reserved: SLES once sent SCSI packets with it. */
export const BLKIF_OP = {
  /** From the disk into pages. */
  READ: 0,
  /** From pages onto the disk. */
  WRITE: 1,
  /** The same, after all older writes and before all younger ones; without segments an ordering point. */
  WRITE_BARRIER: 2,
  /** Empties the disk's volatile cache. */
  FLUSH_DISKCACHE: 3,
  /** Gives sectors up. */
  DISCARD: 5,
  /** A READ or a WRITE whose segments lie in pages. */
  INDIRECT: 6,
} as const;

/** What a response can say. */
export const BLKIF_STATUS = {
  /** Done. */
  OKAY: 0,
  /** Anything that went wrong. */
  ERROR: -1,
  /** The operation is not supported, or not any more. */
  EOPNOTSUPP: -2,
} as const;

/** One of the three words of a response. */
export type BlkifStatus = (typeof BLKIF_STATUS)[keyof typeof BLKIF_STATUS];

/** In bytes: the unit of every sector number of the protocol, whatever the disk's own sectors are. */
export const SECTOR_BYTES = 512;
/** In bytes: what one grant reference stands for. */
export const PAGE_BYTES = 4096;
/** How many sectors a page holds. */
export const SECTORS_PER_PAGE: number = PAGE_BYTES / SECTOR_BYTES;
/** Segments in a direct request. */
export const SEGMENTS_MAX = 11;
/** Pages of segments in an indirect request. */
export const INDIRECT_PAGES_MAX = 8;
const SEGMENT_BYTES = 8;
/** How many segments a page of an indirect request holds. */
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

/** What requests for sectors have in common. */
interface Addressed {
  /** The number of the disk, 16 bits. No backend here looks at it. */
  readonly handle: number;
  /** The frontend's own, 64 bits, handed back in the response. */
  readonly id: bigint;
  /** The first sector on the disk, in 512 bytes, 64 bits. */
  readonly sector: bigint;
}

/** READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE. */
export interface BlkifTransfer extends Addressed {
  /** Its segments are in the slot itself. */
  readonly kind: 'transfer';
  /** One of these four of `BLKIF_OP`. */
  readonly operation: number;
  /** As the request says; more than eleven is nonsense. */
  readonly nrSegments: number;
  /** As many as the slot holds, at most eleven. */
  readonly segments: readonly BlkifSegment[];
}

/** DISCARD. */
export interface BlkifDiscard extends Addressed {
  /** It moves no data. */
  readonly kind: 'discard';
  /** That of the kind. */
  readonly operation: typeof BLKIF_OP.DISCARD;
  /** 1 for a secure one, 8 bits. */
  readonly flag: number;
  /** How many, 64 bits. */
  readonly sectors: bigint;
}

/** INDIRECT: a READ or a WRITE whose segments lie in pages of their own. */
export interface BlkifIndirect extends Addressed {
  /** Its segments are in pages of their own. */
  readonly kind: 'indirect';
  /** That of the kind. */
  readonly operation: typeof BLKIF_OP.INDIRECT;
  /** What is wrapped: READ or WRITE, or it is nonsense. */
  readonly wraps: number;
  /** As the request says, 16 bits. */
  readonly nrSegments: number;
  /** The grant references of the pages with the segments: always eight, the first ones count. */
  readonly pages: readonly number[];
}

/** An operation that is none of the above. Only the place of the id in its body is known. */
export interface BlkifOther {
  /** It is not known. */
  readonly kind: 'other';
  /** None of those that are known. */
  readonly operation: number;
  /** As of any request. */
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

/** What the two layouts differ in. In bytes from the start of the slot. */
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

// The layouts: the name of a field, its place, its width in bytes.

const RESPONSE: readonly Field<BlkifResponse>[] = [
  ['id', 0, 8],
  ['operation', 8, 1],
  ['status', 10, -2],
];

const SEGMENT: readonly Field<BlkifSegment>[] = [
  ['gref', 0, 4],
  ['first', 4, 1],
  ['last', 5, 1],
];

const GREF: readonly Field<{ readonly gref: number }>[] = [['gref', 0, 4]];

/** All that a slot may hold except lists, by the kind of the request. */
type Slot = Partial<
  Omit<BlkifTransfer, 'kind' | 'operation'> &
    Omit<BlkifDiscard, 'kind' | 'operation'> &
    Omit<BlkifIndirect, 'kind' | 'operation'>
> & { readonly operation: number };

const fieldsOf = ({ id, sector, body }: Places): Record<BlkifRequest['kind'], Field<Slot>[]> => {
  const other: Field<Slot>[] = [
    ['operation', 0, 1],
    ['id', id, 8],
  ];
  const addressed: Field<Slot>[] = [...other, ['sector', sector, 8]];
  return {
    other,
    transfer: [...addressed, ['nrSegments', 1, 1], ['handle', 2, 2]],
    discard: [...addressed, ['flag', 1, 1], ['handle', 2, 2], ['sectors', body, 8]],
    indirect: [...addressed, ['wraps', 1, 1], ['nrSegments', 2, 2], ['handle', body, 2]],
  };
};

const REQUESTS: Readonly<Record<BlkifLayout, ReturnType<typeof fieldsOf>>> = Object.freeze({
  'x86-64': fieldsOf(PLACES['x86-64']),
  'x86-32': fieldsOf(PLACES['x86-32']),
});

const KINDS: Readonly<Record<number, BlkifRequest['kind']>> = Object.freeze({
  [BLKIF_OP.READ]: 'transfer',
  [BLKIF_OP.WRITE]: 'transfer',
  [BLKIF_OP.WRITE_BARRIER]: 'transfer',
  [BLKIF_OP.FLUSH_DISKCACHE]: 'transfer',
  [BLKIF_OP.DISCARD]: 'discard',
  [BLKIF_OP.INDIRECT]: 'indirect',
});

/** The bytes of a request; a slot of the ring is as large, since no response is larger. */
export function requestBytes(layout: BlkifLayout): number {
  return placesOf(layout).request;
}

/**
 * A request as bytes.
 *
 * @throws `INVALID_ARGUMENT` for a field that does not fit its place
 */
export function encodeBlkifRequest(request: BlkifRequest, layout: BlkifLayout): Uint8Array {
  const places = placesOf(layout);
  const bytes = new Uint8Array(places.request);
  encodeFields<Slot>(REQUESTS[layout][request.kind], request, bytes);
  if (request.kind === 'transfer') {
    checkCount('segments', request.segments, SEGMENTS_MAX);
    encodeBlkifSegments(bytes.subarray(places.body), request.segments);
  }
  if (request.kind === 'indirect') {
    checkCount('pages', request.pages, INDIRECT_PAGES_MAX);
    for (const [at, gref] of request.pages.entries()) {
      encodeFields(GREF, { gref }, bytes.subarray(places.body + 4 + 4 * at));
    }
  }
  return bytes;
}

/**
 * What the bytes of a slot ask for, whatever they are.
 *
 * @throws `INVALID_ARGUMENT` for fewer bytes than a request has
 */
export function decodeBlkifRequest(bytes: Uint8Array, layout: BlkifLayout): BlkifRequest {
  const places = placesOf(layout);
  checkRoom(bytes, places.request);
  const kind = KINDS[bytes[0] as number] ?? 'other';
  const fields = { kind, ...decodeFields<Slot>(REQUESTS[layout][kind], bytes) };
  const body = bytes.subarray(places.body);
  if (kind === 'transfer') {
    const count = Math.min(fields.nrSegments as number, SEGMENTS_MAX);
    return { ...fields, segments: decodeBlkifSegments(body, count) } as BlkifTransfer;
  }
  if (kind === 'indirect') {
    const pages = Array.from(
      { length: INDIRECT_PAGES_MAX },
      (_, at) => decodeFields(GREF, body.subarray(4 + 4 * at)).gref,
    );
    return { ...fields, pages } as BlkifIndirect;
  }
  return fields as BlkifDiscard | BlkifOther;
}

/**
 * A response as bytes.
 *
 * @throws `INVALID_ARGUMENT` for a field that does not fit its place
 */
export function encodeBlkifResponse(response: BlkifResponse, layout: BlkifLayout): Uint8Array {
  return encodeFields(RESPONSE, response, new Uint8Array(placesOf(layout).response));
}

/**
 * What a slot answers.
 *
 * @throws `INVALID_ARGUMENT` for fewer bytes than a response has
 */
export function decodeBlkifResponse(bytes: Uint8Array, layout: BlkifLayout): BlkifResponse {
  checkRoom(bytes, placesOf(layout).response);
  return { ...decodeFields(RESPONSE, bytes) };
}

/**
 * Puts segments one after the other: into the body of a request, or into a page of an indirect one.
 *
 * @throws `INVALID_ARGUMENT` where they do not fit
 */
export function encodeBlkifSegments(into: Uint8Array, segments: readonly BlkifSegment[]): void {
  checkRoom(into, segments.length * SEGMENT_BYTES);
  for (const [index, segment] of segments.entries()) {
    const slot = into.subarray(index * SEGMENT_BYTES, (index + 1) * SEGMENT_BYTES);
    encodeFields(SEGMENT, segment, slot.fill(0));
  }
}

/**
 * The first `count` segments of a body or a page.
 *
 * @throws `INVALID_ARGUMENT` where there are fewer
 */
export function decodeBlkifSegments(bytes: Uint8Array, count: number): readonly BlkifSegment[] {
  checkRoom(bytes, count * SEGMENT_BYTES);
  return Array.from({ length: count }, (_, index) => ({
    ...decodeFields(SEGMENT, bytes.subarray(index * SEGMENT_BYTES)),
  }));
}

function placesOf(layout: BlkifLayout): Places {
  checkArgument('layout', layout, oneOf(Object.keys(PLACES)));
  return PLACES[layout];
}

function checkRoom({ byteLength }: Uint8Array, length: number): void {
  if (byteLength < length)
    throw misuse(`bytes must have a length of at least ${length}, not ${byteLength}`);
}

function checkCount(name: string, { length }: readonly unknown[], max: number): void {
  if (length > max) throw misuse(`${name} must be at most ${max}, not ${length}`);
}

// What a status means: on the ring one of three words, here an error

const BADNESS: readonly number[] = [BLKIF_STATUS.OKAY, BLKIF_STATUS.EOPNOTSUPP, BLKIF_STATUS.ERROR];

/**
 * The status of the whole from those of its parts, whatever order they come in: an ERROR wins over EOPNOTSUPP, because
 * EOPNOTSUPP says that nothing is wrong with the disk and that the payload may simply be sent again.
 *
 * blkback of Linux keeps whichever part failed last; see `status` in `BLKBACK_ERAS`.
 */
export function worstBlkifStatus(parts: Iterable<number>): BlkifStatus {
  let worst = 0;
  for (const part of parts) {
    const badness = BADNESS.indexOf(part);
    worst = Math.max(worst, badness < 0 ? BADNESS.length - 1 : badness);
  }
  return BADNESS[worst] as BlkifStatus;
}

/** What the failure of a request on the disk is called on the ring. */
export function statusOfError(error: unknown): number {
  if (error instanceof StatusError) return error.status;
  const refused = WriteBarrierError.is(error) && error.code === 'EOPNOTSUPP';
  return refused ? BLKIF_STATUS.EOPNOTSUPP : BLKIF_STATUS.ERROR;
}

/** What a status that is not OKAY is called here. */
export function errorOfStatus(status: number, what: string): WriteBarrierError {
  return status === BLKIF_STATUS.EOPNOTSUPP
    ? new WriteBarrierError('EOPNOTSUPP', `the backend does not support ${what}`)
    : new IoFailedError(`the backend answered ${what} with status ${status}`);
}

/** A status that is not OKAY, on its way to the one who answers for it. */
export class StatusError extends Error {
  /** As it was answered, or is to be. */
  readonly status: number;

  constructor(status: number, text = `status ${status}`) {
    super(text);
    this.status = status;
  }
}
