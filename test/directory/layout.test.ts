// What is written of a directory says by itself whether it is whole.

import { describe, expect, test } from 'vitest';
import {
  crc32,
  decodeRecordHead,
  decodeSuperblock,
  encodeRecordHead,
  encodeSuperblock,
  recordCount,
  recordHeadBlocks,
  recordMax,
} from '../../src/directory/layout.js';

const SUPERBLOCK = {
  ...{ blockSize: 4096, size: 2 ** 40, span: 8192 },
  ...{ logBlocks: 7, slotBlocks: 3, epoch: 2 ** 33 },
};
const MARK = { epoch: 2 ** 33, sequence: 5 };
const BLOCK = 512;

/** The bytes with one bit changed, for each byte. */
function* changed(bytes: Uint8Array): Generator<Uint8Array> {
  for (let i = 0; i < bytes.length; i++) {
    const other = bytes.slice();
    other[i] = (other[i] as number) ^ (1 << (i % 8));
    yield other;
  }
}

describe('a superblock', () => {
  test('is read as it was written, also by a disk of other blocks, and not if any byte has changed', () => {
    const bytes = encodeSuperblock(SUPERBLOCK, 4096);
    expect(decodeSuperblock(bytes)).toEqual(SUPERBLOCK);
    expect(decodeSuperblock(bytes.subarray(0, 512))).toEqual(SUPERBLOCK);
    for (const other of changed(bytes.subarray(0, 512))) {
      expect(decodeSuperblock(other)).toBeUndefined();
    }
    expect(decodeSuperblock(new Uint8Array(512))).toBeUndefined();
  });
});

describe('the head of a record', () => {
  const blocks = new Map(
    Array.from({ length: 100 }, (_, i) => [3 * i, new Uint8Array(BLOCK).fill(i)] as const),
  );
  const bytes = encodeRecordHead(MARK, blocks, BLOCK);

  test('names its blocks and their checksums, in as many blocks as it needs', () => {
    expect(bytes).toHaveLength(recordHeadBlocks(100, BLOCK) * BLOCK);
    const count = recordCount(bytes.subarray(0, BLOCK), MARK);
    expect(count).toBe(100);
    const entries = decodeRecordHead(bytes, 100);
    expect(entries).toEqual(
      [...blocks].map(([block, image]) => ({ block, checksum: crc32(image) })),
    );
  });

  test('is not that of another record, nor whole if any byte has changed', () => {
    expect(recordCount(bytes, { ...MARK, sequence: 4 })).toBeUndefined();
    expect(recordCount(bytes, { ...MARK, epoch: 1 })).toBeUndefined();
    for (const other of changed(bytes)) {
      const count = recordCount(other, MARK);
      expect(count === undefined || decodeRecordHead(other, 100) === undefined).toBe(true);
    }
  });

  test('leaves as much room in a log as there is', () => {
    for (let log = 0; log < 300; log++) {
      const most = recordMax(log, BLOCK);
      expect(most === 0 || most + recordHeadBlocks(most, BLOCK) <= log).toBe(true);
      expect(most + 1 + recordHeadBlocks(most + 1, BLOCK)).toBeGreaterThan(log);
    }
  });
});

test('the checksum is that of zlib', () => {
  expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
});
