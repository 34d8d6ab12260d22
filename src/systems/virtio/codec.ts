// The bytes of virtio-blk, both ways: request header, configuration space, segments of discards. Pure: bytes in, values
// out. A structure is described once, as a list of fields, and both directions follow that list.
//
//   - Decoding never throws: it returns undefined for too few bytes, and a value for every other pattern of bits.
//     request.ts and storage.ts check whether the value makes sense.
//   - Encoding checks its input: a number that its field cannot hold is a mistake of the program.
//   - A modern device and its driver speak little-endian. Over the legacy interface header and configuration have the byte
//     order of the guest, and the segments of discards are little-endian all the same (they are __le in Linux'
//     include/uapi/linux/virtio_blk.h, and are younger than the legacy interface).
//   - 64-bit fields are bigint, so every sector number survives the round trip; all other fields are numbers.
//
// Not here: zones, secure erase, lifetime, SCSI commands, and the ring (descriptors, indices, notifications).
//
// Source: OASIS virtio 1.3, 5.2.4 and 5.2.6, with their legacy interfaces.

import { decodeFields, type Endian, encodeFields, type Field } from '../fields.js';

/** The unit of the protocol in bytes, whatever the block size of the device. */
export const VIRTIO_SECTOR: number = 512;

/** The number of each type of request. FLUSH_OUT is the legacy synonym of FLUSH. */
export const VIRTIO_TYPES = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  FLUSH_OUT: 5,
  GET_ID: 8,
  DISCARD: 11,
  WRITE_ZEROES: 13,
} as const;

/** The request types of this module. */
export type VirtioType = keyof typeof VIRTIO_TYPES;

/** In the type of a request (legacy): everything before it completes first, and everything after it starts later. */
export const VIRTIO_BARRIER: number = 0x8000_0000;

/** The number of each status: what the last byte of a request may say. */
export const VIRTIO_STATUS = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

/** The name of a status. */
export type VirtioStatus = keyof typeof VIRTIO_STATUS;

/** The name of a status byte; undefined for one that a device without zones cannot answer. */
export function virtioStatusOf(byte: number): VirtioStatus | undefined {
  const names = Object.keys(VIRTIO_STATUS) as VirtioStatus[];
  return names.find((name) => VIRTIO_STATUS[name] === byte);
}

/** The bytes of the string that GET_ID answers: ASCII, filled up with zeroes. */
export const VIRTIO_ID_BYTES: number = 20;

/** What a request begins with. */
export interface VirtioHeader {
  /** One of `VIRTIO_TYPES`, perhaps with `VIRTIO_BARRIER`; 32 bits. */
  readonly type: number;
  /** A hint, higher is more important, in the legacy interface; reserved since. 32 bits. */
  readonly ioprio: number;
  /** In units of 512 bytes; 0 but for reads and writes. 64 bits. */
  readonly sector: bigint;
}

/** The configuration space, up to what the zones add. A field means something where its feature was negotiated. */
export interface VirtioConfig {
  /** In units of 512 bytes. 64 bits. */
  readonly capacity: bigint;
  /** Bytes of a segment at the most (SIZE_MAX). */
  readonly sizeMax: number;
  /** Data segments of a request at the most (SEG_MAX). */
  readonly segMax: number;
  /** In bytes (BLK_SIZE). */
  readonly blkSize: number;
  /** 1: a completed write may be volatile; 0: it is not (CONFIG_WCE). The one field that a driver may write. */
  readonly writeback: number;
  /** How many request queues there are (MQ). */
  readonly numQueues: number;
  /** In units of 512 bytes, of one segment (DISCARD). */
  readonly maxDiscardSectors: number;
  /** Segments of one discard (DISCARD). */
  readonly maxDiscardSeg: number;
  /** In units of 512 bytes (DISCARD). */
  readonly discardSectorAlignment: number;
  /** In units of 512 bytes, of one segment (WRITE_ZEROES). */
  readonly maxWriteZeroesSectors: number;
  /** Segments of one request (WRITE_ZEROES). */
  readonly maxWriteZeroesSeg: number;
  /** 1: zeroes may be made by giving up the blocks (WRITE_ZEROES). */
  readonly writeZeroesMayUnmap: number;
}

/** A range of a discard or of zeroes. */
export interface VirtioSegment {
  /** In units of 512 bytes. 64 bits. */
  readonly sector: bigint;
  /** In units of 512 bytes. 32 bits. */
  readonly numSectors: number;
  /** Bit 0 is `unmap`, for zeroes only; the others are reserved. 32 bits. */
  readonly flags: number;
}

// The layouts: the name of a field, its place, its width in bytes.

const HEADER: readonly Field<VirtioHeader>[] = [
  ['type', 0, 4],
  ['ioprio', 4, 4],
  ['sector', 8, 8],
];

const CONFIG: readonly Field<VirtioConfig>[] = [
  ['capacity', 0, 8],
  ['sizeMax', 8, 4],
  ['segMax', 12, 4],
  // 16: geometry, of no use here
  ['blkSize', 20, 4],
  // 24: topology, of no use here
  ['writeback', 32, 1],
  ['numQueues', 34, 2],
  ['maxDiscardSectors', 36, 4],
  ['maxDiscardSeg', 40, 4],
  ['discardSectorAlignment', 44, 4],
  ['maxWriteZeroesSectors', 48, 4],
  ['maxWriteZeroesSeg', 52, 4],
  ['writeZeroesMayUnmap', 56, 1],
];

const SEGMENT: readonly Field<VirtioSegment>[] = [
  ['sector', 0, 8],
  ['numSectors', 8, 4],
  ['flags', 12, 4],
];

/** The bytes of a header. */
export const VIRTIO_HEADER_BYTES: number = 16;
/** The bytes of a configuration space that has all fields of `VirtioConfig`. */
export const VIRTIO_CONFIG_BYTES: number = 60;
/** The bytes of a segment. */
export const VIRTIO_SEGMENT_BYTES: number = 16;
/** Where the byte `writeback` is. */
export const VIRTIO_WRITEBACK_AT: number = 32;
/** The bit of `VirtioSegment.flags` by which zeroes may be made without writing them. */
export const VIRTIO_UNMAP: number = 1;

/** @throws `INVALID_ARGUMENT` for a number that its field cannot hold */
export function encodeVirtioHeader(header: VirtioHeader, endian?: Endian): Uint8Array {
  return encodeFields(HEADER, header, new Uint8Array(VIRTIO_HEADER_BYTES), endian);
}

/** The header at the front of the bytes; undefined where there are fewer than 16. */
export function decodeVirtioHeader(bytes: Uint8Array, endian?: Endian): VirtioHeader | undefined {
  return bytes.length < VIRTIO_HEADER_BYTES ? undefined : decodeFields(HEADER, bytes, endian);
}

/** @throws `INVALID_ARGUMENT` for a number that its field cannot hold */
export function encodeVirtioConfig(config: VirtioConfig, endian?: Endian): Uint8Array {
  return encodeFields(CONFIG, config, new Uint8Array(VIRTIO_CONFIG_BYTES), endian);
}

/**
 * The configuration; undefined without a whole capacity, which is always there. Fields behind the end are 0: older
 * devices have a shorter space.
 */
export function decodeVirtioConfig(bytes: Uint8Array, endian?: Endian): VirtioConfig | undefined {
  return bytes.length < 8 ? undefined : decodeFields(CONFIG, bytes, endian);
}

/** @throws `INVALID_ARGUMENT` for a number that its field cannot hold */
export function encodeVirtioSegments(segments: readonly VirtioSegment[]): Uint8Array {
  const bytes = new Uint8Array(segments.length * VIRTIO_SEGMENT_BYTES);
  for (const [index, segment] of segments.entries()) {
    encodeFields(SEGMENT, segment, bytes.subarray(index * VIRTIO_SEGMENT_BYTES));
  }
  return bytes;
}

/** The segments; undefined for bytes that are not whole segments. */
export function decodeVirtioSegments(bytes: Uint8Array): readonly VirtioSegment[] | undefined {
  if (bytes.length % VIRTIO_SEGMENT_BYTES !== 0) return undefined;
  return Array.from({ length: bytes.length / VIRTIO_SEGMENT_BYTES }, (_, index) =>
    decodeFields(SEGMENT, bytes.subarray(index * VIRTIO_SEGMENT_BYTES)),
  );
}
