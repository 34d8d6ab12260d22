// The bytes: round trips in both directions, and the places of the fields against bytes that were laid out by hand from
// the structures of the standard.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Endian } from '../../../src/systems/fields.js';
import {
  decodeVirtioConfig,
  decodeVirtioHeader,
  decodeVirtioSegments,
  encodeVirtioConfig,
  encodeVirtioHeader,
  encodeVirtioSegments,
  VIRTIO_CONFIG_BYTES,
  VIRTIO_HEADER_BYTES,
  VIRTIO_SEGMENT_BYTES,
  VIRTIO_STATUS,
  VIRTIO_WRITEBACK_AT,
  type VirtioConfig,
  virtioStatusOf,
} from '../../../src/systems/virtio/codec.js';

const u8 = fc.nat({ max: 0xff });
const u16 = fc.nat({ max: 0xffff });
const u32 = fc.nat({ max: 0xffff_ffff });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const endians = fc.constantFrom<Endian>('little', 'big');

const headers = fc.record({ type: u32, ioprio: u32, sector: u64 });
const segments = fc.record({ sector: u64, numSectors: u32, flags: u32 });
const configs: fc.Arbitrary<VirtioConfig> = fc.record({
  capacity: u64,
  sizeMax: u32,
  segMax: u32,
  blkSize: u32,
  writeback: u8,
  numQueues: u16,
  maxDiscardSectors: u32,
  maxDiscardSeg: u32,
  discardSectorAlignment: u32,
  maxWriteZeroesSectors: u32,
  maxWriteZeroesSeg: u32,
  writeZeroesMayUnmap: u8,
});
const bytes = (length: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: length, maxLength: length });

describe('values', () => {
  test('given any header, it is the same after encoding and decoding, in either byte order', () => {
    fc.assert(
      fc.property(headers, endians, (header, endian) => {
        expect(decodeVirtioHeader(encodeVirtioHeader(header, endian), endian)).toEqual(header);
      }),
    );
  });

  test('given any configuration, it is the same after encoding and decoding, in either byte order', () => {
    fc.assert(
      fc.property(configs, endians, (config, endian) => {
        expect(decodeVirtioConfig(encodeVirtioConfig(config, endian), endian)).toEqual(config);
      }),
    );
  });

  test('given any segments, they are the same after encoding and decoding', () => {
    fc.assert(
      fc.property(fc.array(segments, { maxLength: 5 }), (list) => {
        expect(decodeVirtioSegments(encodeVirtioSegments(list))).toEqual(list);
      }),
    );
  });
});

describe('bytes', () => {
  test('given any 16 bytes, a header made of them has the same bytes', () => {
    fc.assert(
      fc.property(bytes(VIRTIO_HEADER_BYTES), endians, (input, endian) => {
        const header = decodeVirtioHeader(input, endian);
        expect(header && encodeVirtioHeader(header, endian)).toEqual(input);
      }),
    );
  });

  test('given any whole segments, what is made of them has the same bytes', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 4 }).chain((count) => bytes(count * VIRTIO_SEGMENT_BYTES)),
        (input) => {
          const list = decodeVirtioSegments(input);
          expect(list && encodeVirtioSegments(list)).toEqual(input);
        },
      ),
    );
  });

  test('given any bytes of any length, decoding throws nothing, and values or nothing come out', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), endians, (input, endian) => {
        expect(decodeVirtioHeader(input, endian) === undefined).toBe(input.length < 16);
        expect(decodeVirtioConfig(input, endian) === undefined).toBe(input.length < 8);
        expect(decodeVirtioSegments(input) === undefined).toBe(input.length % 16 !== 0);
      }),
    );
  });

  test('given a part of a larger memory, just that part is read', () => {
    const memory = new Uint8Array(64).fill(0xee);
    memory.set(encodeVirtioHeader({ type: 1, ioprio: 2, sector: 3n }), 5);
    expect(decodeVirtioHeader(memory.subarray(5))).toEqual({ type: 1, ioprio: 2, sector: 3n });
  });
});

describe('the places of the fields', () => {
  const hex = (text: string): Uint8Array =>
    Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));

  test('of a header, little-endian, and in the order of a legacy guest that is big-endian', () => {
    const header = { type: 0x8000_0001, ioprio: 0x0a0b_0c0d, sector: 0x0102_0304_0506_0708n };
    expect(encodeVirtioHeader(header)).toEqual(hex('01000080 0d0c0b0a 0807060504030201'));
    expect(encodeVirtioHeader(header, 'big')).toEqual(hex('80000001 0a0b0c0d 0102030405060708'));
  });

  test('of a segment', () => {
    const segment = { sector: 0x1122n, numSectors: 0x33, flags: 1 };
    expect(encodeVirtioSegments([segment])).toEqual(hex('2211000000000000 33000000 01000000'));
  });

  test('of the configuration, with what has no use here left at zero', () => {
    const config: VirtioConfig = {
      capacity: 0x0102n,
      sizeMax: 0x03,
      segMax: 0x04,
      blkSize: 0x05,
      writeback: 0x06,
      numQueues: 0x07,
      maxDiscardSectors: 0x08,
      maxDiscardSeg: 0x09,
      discardSectorAlignment: 0x0a,
      maxWriteZeroesSectors: 0x0b,
      maxWriteZeroesSeg: 0x0c,
      writeZeroesMayUnmap: 0x0d,
    };
    expect(encodeVirtioConfig(config)).toEqual(
      hex(
        '0201000000000000 03000000 04000000 00000000 05000000 0000000000000000' +
          '06 00 0700 08000000 09000000 0a000000 0b000000 0c000000 0d 000000',
      ),
    );
    expect(encodeVirtioConfig(config)[VIRTIO_WRITEBACK_AT]).toBe(0x06);
  });
});

test('given the shorter space of an older device, the fields behind its end are 0', () => {
  fc.assert(
    fc.property(configs, fc.integer({ min: 8, max: VIRTIO_CONFIG_BYTES }), (config, length) => {
      const space = encodeVirtioConfig(config);
      const longer = new Uint8Array(VIRTIO_CONFIG_BYTES);
      // A field that is cut in two is not there.
      const fields = [8, 12, 16, 20, 24, 32, 33, 36, 40, 44, 48, 52, 56, 57, 60];
      const whole = fields.filter((end) => end <= length).at(-1) ?? 8;
      longer.set(space.subarray(0, whole));
      expect(decodeVirtioConfig(space.subarray(0, length))).toEqual(decodeVirtioConfig(longer));
    }),
  );
});

test.each([
  [{ type: -1, ioprio: 0, sector: 0n }],
  [{ type: 2 ** 32, ioprio: 0, sector: 0n }],
  [{ type: 1.5, ioprio: 0, sector: 0n }],
  [{ type: 0, ioprio: Number.NaN, sector: 0n }],
  [{ type: 0, ioprio: 0, sector: -1n }],
  [{ type: 0, ioprio: 0, sector: 2n ** 64n }],
])('given %o, which no header can hold, encoding is refused', (header) => {
  expect(() => encodeVirtioHeader(header)).toThrowError(
    expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
  );
});

test('a status byte has a name, or is none', () => {
  for (const [name, byte] of Object.entries(VIRTIO_STATUS)) expect(virtioStatusOf(byte)).toBe(name);
  for (const byte of [3, 4, 255]) expect(virtioStatusOf(byte)).toBeUndefined();
});
