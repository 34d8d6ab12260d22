// Chains of buffers, as they travel between a driver and its device: how a driver makes one of a command and reads the
// answer, and how a device decodes one into an operation on the disk, or into a refusal. Pure but for `senderTo`, which
// hands the chain to the transport.
//
// The boundaries of buffers have no meaning: the header may lie in sixteen of them, and the status at the end of the data.
//
// The driver's side:
//   - The framing is the legacy one, which every device must take: a buffer with the header, the data, one byte of
//     status. The status is preset to a value that no device answers.
//   - A command that is too large for one request is cut, at whole blocks, into several; each is made when the queue has a
//     place for it (line.ts).
//   - The device may be hostile: an unknown status is a failure. Over the modern interface so is a used length that does
//     not cover the status, because the driver must not trust a byte that lies beyond the used length. In the legacy
//     interface the used length meant nothing.
//
// The device's side reads the header and the segments once, and never the data. Whatever the guest puts into its memory
// later changes nothing that was decided here.
//
//   R1  For a chain without a byte for the status nothing is done, because it cannot be answered.
//   R2  A type that the device does not know, or whose feature it does not offer, is UNSUPP. A request that contradicts
//       itself or the configuration is IOERR: a short header, a range outside of the disk or not of whole blocks, data of
//       the wrong size or on the wrong side, more or larger segments than the configuration allows.
//   R3  No operation touches a byte outside of the disk, or more than the limits of the configuration allow.
//   R4  The used length never covers a byte that was not written. Data that a failed read left undefined is filled with
//       zeroes, so that the used length may cover the status after it; a chain beyond the limits is not filled, and its
//       used length is 0.
//
// The limits are for buffers that hold data: their number, the size of all together, and the size of each where the driver
// has taken SIZE_MAX; a driver that has not taken it cannot know the limit, and the SLOF firmware reads into one large
// buffer.
//
// Choices where the standard leaves one: an empty read or write inside of the disk is done at once; a segment of 0 sectors
// does nothing; a flush with data or with a sector is IOERR, though QEMU lets it pass.
//
// Source: OASIS virtio 1.3, 5.2.6 "Device Operation", 2.7.8 "The Virtqueue Used Ring" and the legacy interfaces there;
// hw/block/virtio-blk.c in QEMU for what other devices do about the barrier bit.

import { IoFailedError, WriteBarrierError } from 'write-barrier';
import { concatBuffers, isBytes, misuse, sliceBuffers, totalLength } from 'write-barrier/kit';
import type { Endian } from '../fields.js';
import {
  decodeVirtioHeader,
  decodeVirtioSegments,
  encodeVirtioHeader,
  VIRTIO_BARRIER,
  VIRTIO_HEADER_BYTES,
  VIRTIO_ID_BYTES,
  VIRTIO_SECTOR,
  VIRTIO_SEGMENT_BYTES,
  VIRTIO_STATUS,
  VIRTIO_TYPES,
  VIRTIO_UNMAP,
  type VirtioConfig,
  type VirtioStatus,
  type VirtioType,
  virtioStatusOf,
} from './codec.js';
import { hasVirtioFeature, type VirtioFeature } from './features.js';

/**
 * One request as it travels: buffers that the device reads, followed by buffers that it writes. Where one buffer ends
 * and the next begins means nothing (VIRTIO_F_ANY_LAYOUT, and every device since virtio 1.0).
 */
export interface VirtioChain {
  /** The header, and the data of a write. */
  readonly readable: readonly Uint8Array[];
  /** The data of a read; the last byte of all is the status. */
  readonly writable: readonly Uint8Array[];
}

/**
 * What a driver sees of a device: features, configuration space, and a queue that takes chains. `VirtioBackend` is one;
 * a device behind a worker, a socket or an emulated bus is another.
 */
export interface VirtioTransport {
  /** The features that the device offers, as bits. */
  readonly features: bigint;
  /** Puts the device back to its start. */
  reset(): void | Promise<void>;
  /** Accepts features; false where the device does not agree. */
  negotiate(features: bigint): boolean | Promise<boolean>;
  /** The configuration space as it is now. */
  readConfig(): Uint8Array | Promise<Uint8Array>;
  /** Writes some bytes of the configuration space; what cannot be written stays as it is. */
  writeConfig(offset: number, bytes: Uint8Array): void | Promise<void>;
  /** Hands a chain to the device. The answer, when it is used, is the used length in bytes. */
  submit(chain: VirtioChain): number | Promise<number>;
}

/** @throws `INVALID_ARGUMENT` for what is not a chain: that is a mistake of the program and not of a guest */
export function checkChain(chain: VirtioChain): void {
  const lists: readonly unknown[] = [chain?.readable, chain?.writable];
  if (lists.every((list) => Array.isArray(list) && list.every(isBytes))) return;
  throw misuse('a chain must have two lists of Uint8Arrays: readable and writable');
}

/** The bytes from `start` to `end` of all buffers in a row, as views of them. Empty pieces are left out. */
function piecesOf(list: readonly Uint8Array[], start: number, end = Infinity): Uint8Array[] {
  // A buffer whose memory was transferred is empty, and there can be no view of it.
  const withBytes = list.filter(({ length }) => length > 0);
  return sliceBuffers(withBytes, start, end);
}

/** The same; what lies side by side in one piece of memory becomes one view, as pages of a guest often do. */
function joinedPiecesOf(list: readonly Uint8Array[], start: number, end?: number): Uint8Array[] {
  const views: Uint8Array[] = [];
  for (const view of piecesOf(list, start, end)) {
    const before = views.at(-1);
    if (before?.buffer === view.buffer && before.byteOffset + before.length === view.byteOffset) {
      const length = before.length + view.length;
      views[views.length - 1] = new Uint8Array(before.buffer, before.byteOffset, length);
    } else {
      views.push(view);
    }
  }
  return views;
}

// The driver's side

/** What requests have to know of the device. */
export interface VirtioLimits {
  /** In bytes, whole sectors. */
  readonly blockSize: number;
  /** Buffers of data in a request, at the most. */
  readonly segMax: number;
  /** In bytes, of one of them. */
  readonly sizeMax: number;
  /** The byte order of the header. */
  readonly endian: Endian;
  /** Used lengths mean what they say. */
  readonly modern: boolean;
}

/** One request. */
export interface VirtioCommand {
  readonly type: VirtioType;
  /** In bytes. @defaultValue 0 */
  readonly offset?: number;
  /** What the device reads. */
  readonly data?: readonly Uint8Array[];
  /** What the device fills. */
  readonly into?: readonly Uint8Array[];
  /** Sets the barrier bit. */
  readonly barrier?: boolean;
}

/** Sends a request and settles when the device has answered. */
export type SendVirtio = (command: VirtioCommand) => Promise<void>;

/**
 * A way to send requests.
 *
 * It rejects with `EOPNOTSUPP` for what the device does not support, with `IO_FAILED` for what it could not do and for an
 * invalid answer, and with `SHORT_TRANSFER` if it has written less than it should.
 */
export function senderTo(transport: VirtioTransport, { endian, modern }: VirtioLimits): SendVirtio {
  return async ({ type, offset = 0, data = [], into = [], barrier = false }) => {
    const header = encodeVirtioHeader(
      {
        type: VIRTIO_TYPES[type] + (barrier ? VIRTIO_BARRIER : 0),
        ioprio: 0,
        sector: BigInt(offset / VIRTIO_SECTOR),
      },
      endian,
    );
    const status = Uint8Array.of(NO_STATUS);
    const chain = { readable: [header, ...data], writable: [...into, status] };
    const used = await transport.submit(chain);
    const told = virtioStatusOf(status[0] ?? NO_STATUS);
    if (told !== 'OK') throw failure(type, told);
    const bytes = totalLength(into) + 1;
    if (modern && used !== bytes) {
      throw new WriteBarrierError(
        'SHORT_TRANSFER',
        `the device says that it has written ${String(used)} of ${bytes} bytes of ${type}`,
      );
    }
  };
}

const NO_STATUS = 0xff;

function failure(type: VirtioType, told: VirtioStatus | undefined): WriteBarrierError {
  if (told === 'UNSUPP') {
    return new WriteBarrierError('EOPNOTSUPP', `the device does not support ${type}`);
  }
  const what = told === 'IOERR' ? 'failed' : 'gave no status for';
  return new IoFailedError(`the device ${what} ${type}`);
}

/** A part of a transfer that fits into one request. */
export interface VirtioPart {
  /** In bytes, from the start of the transfer. */
  readonly at: number;
  readonly buffers: readonly Uint8Array[];
}

/**
 * Cuts a transfer into requests, one after the other as they are asked for. Buffers are views of the given ones, unless
 * there are too many: then of a copy.
 *
 * @throws `INVALID_ARGUMENT` where the buffers have another size by now
 */
export function* partsOf(
  limits: VirtioLimits,
  list: readonly Uint8Array[],
): Generator<VirtioPart, void> {
  const { segMax, sizeMax } = limits;
  const total = totalLength(list);
  const step = stepOf(limits);
  for (let at = 0; at < total; at += step) {
    if (totalLength(list) !== total) {
      throw misuse('the buffer has changed its size since the command was given');
    }
    const views = joinedPiecesOf(list, at, at + step);
    const buffers = cut(views, sizeMax);
    const fits = buffers.length <= segMax;
    yield { at, buffers: fits ? buffers : cut([concatBuffers(views)], sizeMax) };
  }
}

/** In bytes, whole blocks: what one request carries at the most. */
function stepOf({ segMax, sizeMax, blockSize }: VirtioLimits): number {
  const most = Math.min(segMax * sizeMax, Number.MAX_SAFE_INTEGER);
  return most - (most % blockSize);
}

/**
 * How many requests of one transfer may be at the device: those of a device with segments of a few bytes are long lists of
 * views, each of which takes more memory than the bytes that it shows.
 */
export function partsAtOnce({ segMax }: VirtioLimits): number {
  return Math.max(1, Math.floor(VIEWS_MAX / segMax));
}

const VIEWS_MAX = 65_536;

function cut(list: readonly Uint8Array[], sizeMax: number): Uint8Array[] {
  return list.flatMap((buffer) =>
    Array.from({ length: Math.ceil(buffer.length / sizeMax) }, (_, index) =>
      buffer.subarray(index * sizeMax, (index + 1) * sizeMax),
    ),
  );
}

// The device's side

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
  readonly endian: Endian;
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

/** The data of a request, on the side where its type has it. */
interface Data {
  readonly sector: number;
  readonly buffers: readonly Uint8Array[];
  /** In bytes. */
  readonly length: number;
}

/** A type: what it needs, on which side its data is, and what it comes to. */
interface Rule {
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

const RULES: Readonly<Record<VirtioType, Rule>> = {
  IN: {
    data: 'writable',
    plan: ({ sector, buffers: into, length }, rules) => {
      const range = rangeOf(sector, length, rules);
      return range ? { kind: 'read', ...range, into } : IOERR;
    },
  },
  OUT: {
    data: 'readable',
    writes: true,
    plan: ({ sector, buffers: data, length }, rules) => {
      const range = rangeOf(sector, length, rules);
      return range ? { kind: 'write', ...range, data } : IOERR;
    },
  },
  FLUSH: { needs: 'FLUSH', data: 'none', plan: flushOf },
  FLUSH_OUT: { needs: 'FLUSH', data: 'none', plan: flushOf },
  GET_ID: {
    data: 'writable',
    plan: ({ buffers: into, length }) =>
      length === VIRTIO_ID_BYTES ? { kind: 'identify', into } : IOERR,
  },
  DISCARD: {
    needs: 'DISCARD',
    data: 'readable',
    writes: true,
    plan: (data, rules) => rangesOf('discard', data, rules),
  },
  WRITE_ZEROES: {
    needs: 'WRITE_ZEROES',
    data: 'readable',
    writes: true,
    plan: (data, rules) => rangesOf('writeZeroes', data, rules),
  },
};

const RULE_OF: ReadonlyMap<number, Rule> = new Map(
  Object.entries(RULES).map(([type, rule]) => [VIRTIO_TYPES[type as VirtioType], rule]),
);

/** What the chain asks for (R1 to R3). */
export function parseVirtioRequest(chain: VirtioChain, rules: VirtioRules): VirtioRequest {
  const { segMax, sizeMax } = rules.config;
  const reply = replyOf(chain.writable, segMax * sizeMax);
  const refuse = (plan: VirtioPlan): VirtioRequest => ({ plan, barrier: false, reply });

  const front = concatBuffers(piecesOf(chain.readable, 0, VIRTIO_HEADER_BYTES));
  const header = decodeVirtioHeader(front, rules.endian);
  if (!reply.status || !header) return refuse(IOERR);
  const rule = RULE_OF.get((header.type & ~VIRTIO_BARRIER) >>> 0);
  if (!rule || (rule.needs && !hasVirtioFeature(rules.offered, rule.needs))) return refuse(UNSUPP);

  const readable = joinedPiecesOf(chain.readable, VIRTIO_HEADER_BYTES);
  const readableBytes = totalLength(readable);
  if (rule.data !== 'readable' && readableBytes > 0) return refuse(IOERR);
  if (rule.data !== 'writable' && reply.length > 0) return refuse(IOERR);
  if (!withinLimits(chain, rules)) return refuse(IOERR);
  if (rule.writes && hasVirtioFeature(rules.offered, 'RO')) return refuse(IOERR);

  const [buffers, length] =
    rule.data === 'writable' ? [reply.data, reply.length] : [readable, readableBytes];
  const plan = rule.plan({ sector: Number(header.sector), buffers, length }, rules);
  return { plan, barrier: header.type >= VIRTIO_BARRIER, reply };
}

/** Writes the status, and answers with the used length (R4). */
export function answerVirtioRequest(
  { status: place, data, length, fillable }: VirtioReply,
  status: VirtioStatus,
): number {
  // A buffer that has shrunk in the meantime takes no status, and what is left of its data is not touched.
  if (!place || place.at >= place.buffer.length || totalLength(data) !== length) return 0;
  const whole = status === 'OK';
  if (!whole && fillable) for (const part of data) part.fill(0);
  place.buffer[place.at] = VIRTIO_STATUS[status];
  return whole || fillable ? length + 1 : 0;
}

function replyOf(writable: readonly Uint8Array[], fillableMax: number): VirtioReply {
  const total = totalLength(writable);
  const buffer = writable.filter(({ length }) => length > 0).at(-1);
  const length = Math.max(total - 1, 0);
  return {
    status: buffer && { buffer, at: buffer.length - 1 },
    data: joinedPiecesOf(writable, 0, length),
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
    ...piecesOf(readable, VIRTIO_HEADER_BYTES),
    ...piecesOf(writable, 0, totalLength(writable) - 1),
  ].map(({ length }) => length);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  return sizes.length <= segMax && total <= all && sizes.every((size) => size <= each);
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
  { buffers, length }: Data,
  rules: VirtioRules,
): VirtioPlan {
  const { config } = rules;
  const [segmentsMax, sectorsMax] =
    kind === 'discard'
      ? [config.maxDiscardSeg, config.maxDiscardSectors]
      : [config.maxWriteZeroesSeg, config.maxWriteZeroesSectors];
  if (length === 0 || length > segmentsMax * VIRTIO_SEGMENT_BYTES) return IOERR;
  const segments = decodeVirtioSegments(concatBuffers(buffers));
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
