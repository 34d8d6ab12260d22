// From a chain of buffers to what is to be done, or to a refusal. Pure: it reads the header and the segments once, and
// never the data. Whatever the guest puts into its memory later changes nothing that was decided here.
//
//   R1  A chain without a byte to write the status to is nothing: no answer can be given and nothing is done.
//   R2  A type that the device does not know, or whose feature it does not offer, is UNSUPP. What does not add up is
//       IOERR: a short header, a range outside of the disk or not of whole blocks, data of the wrong size or on the
//       wrong side, more or larger segments than the configuration allows.
//   R3  Nothing that is to be done names a byte outside of the disk, and no more than the limits of the configuration.
//   R4  The used length never says of a byte that it was written when it was not. What a read that failed has left
//       undefined is filled with zeroes, so that the status behind it may be told; a chain beyond the limits is not
//       filled, and told as 0.
//
// Where buffers begin and end means nothing: the header may lie in sixteen of them, and the status at the end of the
// data. The limits are for buffers that hold data: their number, the size of all together, and the size of each where
// the driver has taken SIZE_MAX; one that has not cannot know it, and the SLOF firmware reads into one large buffer.
//
// Choices where the standard leaves one: an empty read or write inside of the disk is done at once; a segment of no
// sectors is nothing to do; a flush with data or with a sector is IOERR, though QEMU lets it pass.
//
// Source: OASIS virtio 1.3, 5.2.6 "Device Operation" and 2.7.8 "The Virtqueue Used Ring"; hw/block/virtio-blk.c in QEMU
// for what other devices do about the barrier bit.

import { bytesOf, frontOf, partOf, type VirtioChain } from './chain.js';
import {
  decodeVirtioHeader,
  decodeVirtioSegments,
  VIRTIO_BARRIER,
  VIRTIO_HEADER_BYTES,
  VIRTIO_ID_BYTES,
  VIRTIO_SECTOR,
  VIRTIO_SEGMENT_BYTES,
  VIRTIO_STATUS,
  VIRTIO_TYPES,
  VIRTIO_UNMAP,
  type VirtioConfig,
  type VirtioEndian,
  type VirtioStatus,
  type VirtioType,
} from './codec.js';
import { hasVirtioFeature, type VirtioFeature } from './features.js';

/** What a chain is held to. */
export interface VirtioRules {
  /** The features that the device offers. */
  readonly offered: bigint;
  /** What the driver took of them. */
  readonly negotiated: bigint;
  /** The limits of the device. */
  readonly config: VirtioConfig;
  /** In bytes: ranges are whole blocks. */
  readonly blockSize: number;
  /** The byte order of the header. */
  readonly endian: VirtioEndian;
}

/** Some bytes of the disk. */
export interface VirtioRange {
  readonly offset: number;
  readonly length: number;
}

/** What is to be done. Ranges are in bytes, inside of the disk, and of whole blocks; they may be empty. */
export type VirtioPlan =
  | { readonly kind: 'refuse'; readonly status: VirtioStatus }
  | (VirtioRange & { readonly kind: 'read'; readonly into: readonly Uint8Array[] })
  | (VirtioRange & { readonly kind: 'write'; readonly data: readonly Uint8Array[] })
  | { readonly kind: 'flush' }
  | { readonly kind: 'identify'; readonly into: readonly Uint8Array[] }
  | { readonly kind: 'discard' | 'writeZeroes'; readonly ranges: readonly VirtioRange[] };

/** Where the answer goes. */
export interface VirtioReply {
  /** The buffer whose byte `at` is the status; undefined where there is no such byte. */
  readonly status: { readonly buffer: Uint8Array; readonly at: number } | undefined;
  /** The bytes before the status that the device may write. */
  readonly data: readonly Uint8Array[];
  /** How many these are. */
  readonly length: number;
  /** They are no more than the limits allow, and may be filled (R4). */
  readonly fillable: boolean;
}

/** A chain, understood. */
export interface VirtioRequest {
  readonly plan: VirtioPlan;
  /** The barrier bit of the type was set. */
  readonly barrier: boolean;
  readonly reply: VirtioReply;
}

/** The data of a request, on either side. */
interface Data {
  readonly sector: number;
  readonly readable: readonly Uint8Array[];
  readonly readableBytes: number;
  readonly writable: readonly Uint8Array[];
  readonly writableBytes: number;
}

/** A type: what it needs, on which side its data is, and what it comes to. */
interface Rule {
  readonly type: VirtioType;
  /** UNSUPP without it. */
  readonly needs?: VirtioFeature;
  /** Where there may be data. On the other side there must be none. */
  readonly data: 'readable' | 'writable' | 'none';
  /** IOERR on a disk that is read-only. */
  readonly writes?: true;
  plan(data: Data, rules: VirtioRules): VirtioPlan;
}

const IOERR: VirtioPlan = Object.freeze({ kind: 'refuse', status: 'IOERR' });
const UNSUPP: VirtioPlan = Object.freeze({ kind: 'refuse', status: 'UNSUPP' });
const FLUSH: VirtioPlan = Object.freeze({ kind: 'flush' });

const RULES: readonly Rule[] = [
  {
    type: 'IN',
    data: 'writable',
    plan: ({ sector, writable: into, writableBytes: length }, rules) => {
      const range = rangeOf(sector, length, rules);
      return range ? { kind: 'read', ...range, into } : IOERR;
    },
  },
  {
    type: 'OUT',
    data: 'readable',
    writes: true,
    plan: ({ sector, readable: data, readableBytes: length }, rules) => {
      const range = rangeOf(sector, length, rules);
      return range ? { kind: 'write', ...range, data } : IOERR;
    },
  },
  { type: 'FLUSH', needs: 'FLUSH', data: 'none', plan: flushOf },
  { type: 'FLUSH_OUT', needs: 'FLUSH', data: 'none', plan: flushOf },
  {
    type: 'GET_ID',
    data: 'writable',
    plan: ({ writable: into, writableBytes }) =>
      writableBytes === VIRTIO_ID_BYTES ? { kind: 'identify', into } : IOERR,
  },
  {
    type: 'DISCARD',
    needs: 'DISCARD',
    data: 'readable',
    writes: true,
    plan: (data, rules) => {
      const { maxDiscardSeg, maxDiscardSectors } = rules.config;
      return rangesOf('discard', data, rules, maxDiscardSeg, maxDiscardSectors);
    },
  },
  {
    type: 'WRITE_ZEROES',
    needs: 'WRITE_ZEROES',
    data: 'readable',
    writes: true,
    plan: (data, rules) => {
      const { maxWriteZeroesSeg, maxWriteZeroesSectors } = rules.config;
      return rangesOf('writeZeroes', data, rules, maxWriteZeroesSeg, maxWriteZeroesSectors);
    },
  },
];

const RULE_OF: ReadonlyMap<number, Rule> = new Map(
  RULES.map((rule) => [VIRTIO_TYPES[rule.type], rule]),
);

/** What the chain asks for (R1 to R3). */
export function parseVirtioRequest(chain: VirtioChain, rules: VirtioRules): VirtioRequest {
  const { segMax, sizeMax } = rules.config;
  const reply = replyOf(chain.writable, segMax * sizeMax);
  const refuse = (plan: VirtioPlan): VirtioRequest => ({ plan, barrier: false, reply });

  const front = frontOf(chain.readable, VIRTIO_HEADER_BYTES);
  const header = front && decodeVirtioHeader(front, rules.endian);
  if (!reply.status || !header) return refuse(IOERR);
  const rule = RULE_OF.get((header.type & ~VIRTIO_BARRIER) >>> 0);
  if (!rule || (rule.needs && !hasVirtioFeature(rules.offered, rule.needs))) return refuse(UNSUPP);

  const readableBytes = bytesOf(chain.readable) - VIRTIO_HEADER_BYTES;
  const data: Data = {
    sector: Number(header.sector),
    readable: partOf(chain.readable, VIRTIO_HEADER_BYTES, Number.POSITIVE_INFINITY),
    readableBytes,
    writable: reply.data,
    writableBytes: reply.length,
  };
  if (rule.data !== 'readable' && readableBytes > 0) return refuse(IOERR);
  if (rule.data !== 'writable' && reply.length > 0) return refuse(IOERR);
  if (!withinLimits(chain, rules)) return refuse(IOERR);
  if (rule.writes && hasVirtioFeature(rules.offered, 'RO')) return refuse(IOERR);

  const barrier = header.type >= VIRTIO_BARRIER;
  return { plan: rule.plan(data, rules), barrier, reply };
}

/**
 * Writes the status, and answers with the used length (R4).
 *
 * @param whole all the data that the device was to write has been written
 */
export function answerVirtioRequest(
  { status: place, data, length, fillable }: VirtioReply,
  status: VirtioStatus,
  whole: boolean = status === 'OK',
): number {
  // A buffer that has shrunk in the meantime takes no status, and what is left of its data is nobody's.
  if (!place || place.at >= place.buffer.length || bytesOf(data) !== length) return 0;
  if (!whole && fillable) for (const part of data) part.fill(0);
  place.buffer[place.at] = VIRTIO_STATUS[status];
  return whole || fillable ? length + 1 : 0;
}

function replyOf(writable: readonly Uint8Array[], fillableMax: number): VirtioReply {
  const total = bytesOf(writable);
  const buffer = writable.reduceRight<Uint8Array | undefined>(
    (found, candidate) => found ?? (candidate.length > 0 ? candidate : undefined),
    undefined,
  );
  const length = Math.max(total - 1, 0);
  return {
    status: buffer && { buffer, at: buffer.length - 1 },
    data: partOf(writable, 0, length),
    length,
    fillable: length <= fillableMax,
  };
}

/** The buffers that hold data are no more and no larger than the rules allow. */
function withinLimits({ readable, writable }: VirtioChain, rules: VirtioRules): boolean {
  const { segMax, sizeMax } = rules.config;
  const all = segMax * sizeMax;
  const each = hasVirtioFeature(rules.negotiated, 'SIZE_MAX') ? sizeMax : all;
  const sizes = [
    ...sizesOf(readable, VIRTIO_HEADER_BYTES, Number.POSITIVE_INFINITY),
    ...sizesOf(writable, 0, bytesOf(writable) - 1),
  ];
  const total = sizes.reduce((sum, size) => sum + size, 0);
  return sizes.length <= segMax && total <= all && sizes.every((size) => size <= each);
}

/** How many bytes of each buffer lie between start and end, where there are any. */
function sizesOf(list: readonly Uint8Array[], start: number, end: number): number[] {
  let at = 0;
  const sizes = list.map(({ length }) => {
    const inside = Math.min(end, at + length) - Math.max(start, at);
    at += length;
    return inside;
  });
  return sizes.filter((size) => size > 0);
}

/** R3. A sector beyond 2^53 is rounded, and far outside of every disk before and after. */
function rangeOf(
  sector: number,
  length: number,
  { config, blockSize }: VirtioRules,
): VirtioRange | undefined {
  const offset = sector * VIRTIO_SECTOR;
  if (length % VIRTIO_SECTOR !== 0) return undefined;
  if (offset + length > Number(config.capacity) * VIRTIO_SECTOR) return undefined;
  return offset % blockSize === 0 && length % blockSize === 0 ? { offset, length } : undefined;
}

function flushOf({ sector }: Data): VirtioPlan {
  return sector === 0 ? FLUSH : IOERR;
}

function rangesOf(
  kind: 'discard' | 'writeZeroes',
  { readable, readableBytes }: Data,
  rules: VirtioRules,
  segmentsMax: number,
  sectorsMax: number,
): VirtioPlan {
  if (readableBytes === 0 || readableBytes > segmentsMax * VIRTIO_SEGMENT_BYTES) return IOERR;
  const bytes = frontOf(readable, readableBytes);
  const segments = bytes && decodeVirtioSegments(bytes);
  if (!segments) return IOERR;
  const known = kind === 'writeZeroes' ? VIRTIO_UNMAP : 0;
  if (segments.some(({ flags }) => (flags & ~known) !== 0)) return UNSUPP;
  const ranges: VirtioRange[] = [];
  for (const { sector, numSectors } of segments) {
    const range = rangeOf(Number(sector), numSectors * VIRTIO_SECTOR, rules);
    if (!range || numSectors > sectorsMax) return IOERR;
    if (range.length > 0) ranges.push(range);
  }
  return { kind, ranges };
}
