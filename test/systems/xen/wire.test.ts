// The bytes of requests and responses: where each field is, in both layouts, and that nothing is lost either way.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  BLKIF_OP,
  type BlkifLayout,
  type BlkifRequest,
  decodeBlkifRequest,
  decodeBlkifResponse,
  decodeBlkifSegments,
  encodeBlkifRequest,
  encodeBlkifResponse,
  encodeBlkifSegments,
  requestBytes,
} from '../../../src/systems/xen/wire.js';
import { share } from '../../kit/amount.js';
import { codeThrown } from '../../storage/contract.js';
import { LAYOUTS, requests } from './support.js';

const hex = (bytes: Uint8Array, from = 0, to = bytes.length): string =>
  Buffer.from(bytes.subarray(from, to)).toString('hex');

const WRITE: BlkifRequest = {
  kind: 'transfer',
  operation: BLKIF_OP.WRITE,
  nrSegments: 2,
  handle: 0x0304,
  id: 0x0102030405060708n,
  sector: 0x1112131415161718n,
  segments: [
    { gref: 0x21222324, first: 1, last: 7 },
    { gref: 0x31323334, first: 0, last: 2 },
  ],
};
const DISCARD: BlkifRequest = {
  kind: 'discard',
  operation: BLKIF_OP.DISCARD,
  flag: 1,
  handle: 0x0304,
  id: 0x0102030405060708n,
  sector: 0x1112131415161718n,
  sectors: 0x2122232425262728n,
};
const INDIRECT: BlkifRequest = {
  kind: 'indirect',
  operation: BLKIF_OP.INDIRECT,
  wraps: BLKIF_OP.READ,
  nrSegments: 0x0102,
  handle: 0x0304,
  id: 0x0102030405060708n,
  sector: 0x1112131415161718n,
  pages: [0x21222324, 0x31323334, 0, 0, 0, 0, 0, 0x41424344],
};

// Written by hand from the structures in blkif.h, field by field; `..` stands between fields.
const ID = '0807060504030201';
const SECTOR = '1817161514131211';
const SEGMENTS = `24232221010700003433323100020000${'00'.repeat(9 * 8)}`;
const GREFS = `2423222134333231${'00'.repeat(5 * 4)}44434241`;
const BYTES: Readonly<
  Record<string, readonly [BlkifRequest, Record<'x86-64' | 'x86-32', string>]>
> = {
  'a write of two segments': [
    WRITE,
    {
      'x86-64': `01 02 0403 00000000${ID}${SECTOR}${SEGMENTS}`,
      'x86-32': `01 02 0403${ID}${SECTOR}${SEGMENTS}`,
    },
  ],
  'a discard': [
    DISCARD,
    {
      'x86-64': `05 01 0403 00000000${ID}${SECTOR}2827262524232221${'00'.repeat(80)}`,
      'x86-32': `05 01 0403${ID}${SECTOR}2827262524232221${'00'.repeat(80)}`,
    },
  ],
  'an indirect read': [
    INDIRECT,
    {
      'x86-64': `06 00 0201 00000000${ID}${SECTOR}0403 0000${GREFS}${'00'.repeat(52)}`,
      'x86-32': `06 00 0201${ID}${SECTOR}0403 0000${GREFS}${'00'.repeat(52)}`,
    },
  ],
};

/** The bytes of a response. */
const responseBytes = (layout: BlkifLayout): number =>
  encodeBlkifResponse({ id: 0n, operation: 0, status: 0 }, layout).byteLength;

describe.each(LAYOUTS)('in the layout %s', (layout) => {
  test.each(Object.entries(BYTES))('%s has every field in its place', (_, [request, bytes]) => {
    const encoded = encodeBlkifRequest(request, layout);
    expect(hex(encoded)).toBe(bytes[layout].replaceAll(' ', ''));
    expect(decodeBlkifRequest(encoded, layout)).toEqual(request);
  });

  test('a request and a response have the sizes of the structures', () => {
    const sizes = { 'x86-64': [112, 16], 'x86-32': [108, 12] };
    expect([requestBytes(layout), responseBytes(layout)]).toEqual(sizes[layout]);
  });

  test('a response has id, operation and a signed status', () => {
    const response = { id: 0x0102030405060708n, operation: 2, status: -2 };
    const encoded = encodeBlkifResponse(response, layout);
    expect(hex(encoded, 0, 12)).toBe(`${ID}0200feff`);
    expect(decodeBlkifResponse(encoded, layout)).toEqual(response);
  });

  test('given any request, what is encoded is decoded again', () => {
    const roundTrip = fc.property(requests, (request) => {
      expect(decodeBlkifRequest(encodeBlkifRequest(request, layout), layout)).toEqual(request);
    });
    fc.assert(roundTrip, { numRuns: share(2000) });
  });

  test('given any response, what is encoded is decoded again', () => {
    const responses = fc.record({
      id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      operation: fc.nat(0xff),
      status: fc.integer({ min: -0x8000, max: 0x7fff }),
    });
    const roundTrip = fc.property(responses, (response) => {
      expect(decodeBlkifResponse(encodeBlkifResponse(response, layout), layout)).toEqual(response);
    });
    fc.assert(roundTrip);
  });

  test('given any bytes, a request is decoded, and its fields are all that it depends on', () => {
    const size = requestBytes(layout);
    const slots = fc.tuple(
      fc.oneof(fc.nat(6), fc.nat(0xff)),
      fc.uint8Array({ minLength: size, maxLength: size }),
    );
    const described = fc.property(slots, ([operation, bytes]) => {
      bytes[0] = operation;
      const request = decodeBlkifRequest(bytes, layout);
      expect(request.operation).toBe(operation);
      // A transfer may say that it has more segments than there is room for.
      const again = decodeBlkifRequest(encodeBlkifRequest(request, layout), layout);
      expect(again).toEqual(request);
    });
    fc.assert(described, { numRuns: share(2000) });
  });

  test('a part of a larger buffer is read from its own start', () => {
    const encoded = encodeBlkifRequest(WRITE, layout);
    const larger = new Uint8Array(encoded.length + 10).fill(0xee);
    larger.set(encoded, 5);
    expect(decodeBlkifRequest(larger.subarray(5, 5 + encoded.length), layout)).toEqual(WRITE);
  });

  test('too few bytes, and fields that do not fit, are misuse', async () => {
    const short = new Uint8Array(requestBytes(layout) - 1);
    const calls = [
      () => decodeBlkifRequest(short, layout),
      () => decodeBlkifResponse(new Uint8Array(responseBytes(layout) - 1), layout),
      () => encodeBlkifRequest({ ...WRITE, id: -1n }, layout),
      () => encodeBlkifRequest({ ...WRITE, sector: 2n ** 64n }, layout),
      () => encodeBlkifRequest({ ...WRITE, handle: 0x10000 }, layout),
      () => encodeBlkifRequest({ ...WRITE, operation: 256 }, layout),
      () => encodeBlkifRequest({ ...WRITE, nrSegments: 1.5 }, layout),
      () => encodeBlkifRequest({ ...WRITE, segments: Array(12).fill(WRITE.segments[0]) }, layout),
      () => encodeBlkifRequest({ ...INDIRECT, pages: Array(9).fill(0) }, layout),
      () => encodeBlkifResponse({ id: 0n, operation: 0, status: 0x8000 }, layout),
    ];
    for (const call of calls) expect(await codeThrown(call)).toBe('INVALID_ARGUMENT');
  });
});

test('a page holds 512 segments, each in eight bytes', () => {
  const segments = Array.from({ length: 512 }, (_, at) => ({ gref: at, first: at % 8, last: 7 }));
  const page = new Uint8Array(4096);
  encodeBlkifSegments(page, segments);
  expect(hex(page, 511 * 8)).toBe('ff01000007070000');
  expect(decodeBlkifSegments(page, 512)).toEqual(segments);
  expect(() => encodeBlkifSegments(page, [...segments, ...segments.slice(0, 1)])).toThrow();
  expect(() => decodeBlkifSegments(page, 513)).toThrow();
});

test('a layout that nobody speaks is misuse', async () => {
  const call = (): unknown => decodeBlkifRequest(new Uint8Array(200), 'toString' as 'x86-64');
  expect(await codeThrown(call)).toBe('INVALID_ARGUMENT');
});
