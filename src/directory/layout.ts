// What a directory is on its disk, in bytes and blocks.
//
//   superblocks   two, in turn; each says how the disk is divided, and which epoch the log is in
//   log           records: the blocks that changed since the record before, each whole, with the places where they belong
//   table         slots of files (name, size, first block), then for each data block the block that follows it in its file
//   data          the blocks of files
//
// Numbers are little-endian. Epochs and sizes are doubles, because they may exceed 32 bits; blocks are counted in 32 bits.
//
// Not here: when what is written (redo-log.ts), what the table means (table.ts).

import { misuse } from 'write-barrier/kit';

/** How a disk is divided; all but `blockSize` in blocks of that size, counted from the start of the disk. */
export interface Layout {
  /** In bytes. */
  readonly blockSize: number;
  readonly logStart: number;
  readonly logBlocks: number;
  readonly tableStart: number;
  readonly slotBlocks: number;
  readonly fatBlocks: number;
  readonly dataStart: number;
  readonly dataBlocks: number;
}

/** What a superblock says. */
export interface Superblock {
  readonly blockSize: number;
  /** Of the directory, in bytes. */
  readonly size: number;
  /** In bytes: from the start of one superblock to the next. Blocks of a disk that are larger than usual make it larger. */
  readonly span: number;
  readonly logBlocks: number;
  readonly slotBlocks: number;
  /** Counts up with every checkpoint. Only records of this epoch count. */
  readonly epoch: number;
}

/** In bytes: a file's slot in the table. */
export const SLOT = 128;
/** In bytes: the part of a slot that a name may fill. */
export const NAME_MAX: number = SLOT - 16;
/** In bytes: from the start of one superblock to the next, at the least. */
const SUPER_SPAN = 4096;
/** In bytes: what is written of a superblock, at the least. */
const SUPER_LENGTH = 512;
const SUPER_MAGIC = 0x5244_4257; // WBDR
const RECORD_MAGIC = 0x4352_4257; // WBRC
/** In bytes: a record before its list of blocks. */
const RECORD_HEAD = 24;
/** In bytes: a block's place and checksum in that list. */
const RECORD_ENTRY = 8;

/** The places of the two superblocks on a disk, in bytes. */
export function superblockRange(
  deviceBlock: number,
  turn: number,
): { readonly offset: number; readonly length: number } {
  const length = Math.ceil(SUPER_LENGTH / deviceBlock) * deviceBlock;
  return { offset: (turn % 2) * superblockSpan(deviceBlock), length };
}

/** In bytes. */
export function superblockSpan(deviceBlock: number): number {
  return Math.ceil(SUPER_SPAN / deviceBlock) * deviceBlock;
}

/**
 * @throws `INVALID_ARGUMENT` for blocks that would cut a slot, and for a disk that is too small for a table, a log that takes it, and a
 *   block of data
 */
export function layoutOf({
  blockSize,
  size,
  span,
  logBlocks,
  slotBlocks,
}: Omit<Superblock, 'epoch'>): Layout {
  if (blockSize % SLOT !== 0) {
    throw misuse(`blockSize must be a multiple of ${SLOT} bytes, not ${blockSize}`);
  }
  const blocks = Math.floor(size / blockSize);
  const logStart = Math.ceil((2 * span) / blockSize);
  const tableStart = logStart + logBlocks;
  const fatBlocks = Math.ceil((4 * blocks) / blockSize);
  const dataStart = tableStart + slotBlocks + fatBlocks;
  const dataBlocks = blocks - dataStart;
  const needed = slotBlocks + fatBlocks + 4;
  if (recordMax(logBlocks, blockSize) < needed) {
    const whole = needed + recordHeadBlocks(needed, blockSize);
    throw misuse(
      `logSize must be at least ${whole * blockSize} bytes, so that a record can hold the table`,
    );
  }
  if (dataBlocks < 1) {
    const least = (dataStart + 1) * blockSize;
    throw misuse(
      `a directory needs more than ${least} bytes, but the disk has ${size}: pass a larger disk or smaller blocks`,
    );
  }
  return {
    blockSize,
    logStart,
    logBlocks,
    tableStart,
    slotBlocks,
    fatBlocks,
    dataStart,
    dataBlocks,
  };
}

export function encodeSuperblock(
  { blockSize, size, span, logBlocks, slotBlocks, epoch }: Superblock,
  length: number,
): Uint8Array {
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, SUPER_MAGIC, true);
  view.setFloat64(8, epoch, true);
  view.setFloat64(16, size, true);
  for (const [i, word] of [blockSize, logBlocks, slotBlocks, span].entries()) {
    view.setUint32(24 + 4 * i, word, true);
  }
  sealed(bytes.subarray(0, SUPER_LENGTH));
  return bytes;
}

/** Undefined for what is no superblock, or only a part of one. */
export function decodeSuperblock(range: Uint8Array): Superblock | undefined {
  const bytes = range.subarray(0, SUPER_LENGTH);
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== SUPER_MAGIC || !isSealed(bytes)) return undefined;
  const word = (i: number): number => view.getUint32(24 + 4 * i, true);
  return {
    epoch: view.getFloat64(8, true),
    size: view.getFloat64(16, true),
    ...{ blockSize: word(0), logBlocks: word(1), slotBlocks: word(2), span: word(3) },
  };
}

/** Where a record stands in the log. */
export interface RecordMark {
  readonly epoch: number;
  /** Counts the records of an epoch from 0. */
  readonly sequence: number;
}

/** What a record's head says of a block. */
export interface RecordEntry {
  readonly block: number;
  readonly checksum: number;
}

/** In blocks: the head of a record of so many blocks. */
export function recordHeadBlocks(count: number, blockSize: number): number {
  return Math.ceil((RECORD_HEAD + RECORD_ENTRY * count) / blockSize);
}

/** How many blocks a record may have that fills a log. */
export function recordMax(logBlocks: number, blockSize: number): number {
  const room = logBlocks * blockSize - RECORD_HEAD;
  return Math.max(0, Math.floor(room / (blockSize + RECORD_ENTRY)));
}

export function encodeRecordHead(
  { epoch, sequence }: RecordMark,
  blocks: ReadonlyMap<number, Uint8Array>,
  blockSize: number,
): Uint8Array {
  const bytes = new Uint8Array(recordHeadBlocks(blocks.size, blockSize) * blockSize);
  const view = viewOf(bytes);
  view.setUint32(0, RECORD_MAGIC, true);
  view.setFloat64(8, epoch, true);
  view.setUint32(16, sequence, true);
  view.setUint32(20, blocks.size, true);
  let at = RECORD_HEAD;
  for (const [block, image] of blocks) {
    view.setUint32(at, block, true);
    view.setUint32(at + 4, crc32(image), true);
    at += RECORD_ENTRY;
  }
  return sealed(bytes);
}

/** How many blocks a record has whose head begins with these bytes; undefined if it is not the record that is looked for. */
export function recordCount(
  bytes: Uint8Array,
  { epoch, sequence }: RecordMark,
): number | undefined {
  const view = viewOf(bytes);
  const isIt =
    view.getUint32(0, true) === RECORD_MAGIC &&
    view.getFloat64(8, true) === epoch &&
    view.getUint32(16, true) === sequence;
  return isIt ? view.getUint32(20, true) : undefined;
}

/** The epoch of a record whose head begins with these bytes; undefined for what is no head of a record. */
export function recordEpoch(bytes: Uint8Array): number | undefined {
  const view = viewOf(bytes);
  return view.getUint32(0, true) === RECORD_MAGIC ? view.getFloat64(8, true) : undefined;
}

/** The blocks of a record; undefined if its head is not whole. */
export function decodeRecordHead(bytes: Uint8Array, count: number): RecordEntry[] | undefined {
  if (!isSealed(bytes)) return undefined;
  const view = viewOf(bytes);
  return Array.from({ length: count }, (_, i) => {
    const at = RECORD_HEAD + RECORD_ENTRY * i;
    return { block: view.getUint32(at, true), checksum: view.getUint32(at + 4, true) };
  });
}

export function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** Puts the checksum of all other bytes into bytes 4 to 7. */
function sealed(bytes: Uint8Array): Uint8Array {
  viewOf(bytes).setUint32(4, crc32(bytes), true);
  return bytes;
}

function isSealed(bytes: Uint8Array): boolean {
  const copy = bytes.slice();
  viewOf(copy).setUint32(4, 0, true);
  return viewOf(bytes).getUint32(4, true) === crc32(copy);
}

const CRC: Uint32Array = /* @__PURE__ */ Uint32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) {
    remainder = remainder & 1 ? (remainder >>> 1) ^ 0xedb8_8320 : remainder >>> 1;
  }
  return remainder;
});

/** CRC-32 as in zlib. */
export function crc32(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (let i = 0; i < bytes.length; i++) {
    crc = (crc >>> 8) ^ (CRC[(crc ^ (bytes[i] as number)) & 0xff] as number);
  }
  return (crc ^ 0xffff_ffff) >>> 0;
}
