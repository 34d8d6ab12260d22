// What the tests of Xen share: a guest that speaks the text notation, and storages that wait for the test.

import fc from 'fast-check';
import { parseProgram, type Request } from 'write-barrier';
import { borrow, type GrantTable, type Loan } from '../../../src/systems/xen/grants.js';
import {
  BLKIF_OP,
  type BlkifLayout,
  type BlkifRequest,
  type BlkifResponse,
  SECTOR_BYTES,
} from '../../../src/systems/xen/wire.js';

export const LAYOUTS: readonly BlkifLayout[] = ['x86-64', 'x86-32'];

/** Every microtask that is due has run. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A request of the ring as the text notation has it, with pages granted for its data. */
export interface Message {
  readonly request: BlkifRequest;
  readonly loan: Loan;
}

/** `w0`, `b1`, `b`, `f`, `r2`, `d3`; `f4` is a flush with a payload. One block is a page unless given. */
export function messageOf(text: string, grants: GrantTable, blockSize = 4096, fill = 1): Message {
  const payload = /^f\d/.test(text);
  const request = parseProgram(payload ? `w${text.slice(1)}` : text, { blockSize })[0] as Request;
  const { offset, length } = 'offset' in request ? request : { offset: 0, length: 0 };
  const isDiscard = request.kind === 'discard';
  const loan = borrow(grants, isDiscard ? 0 : length) as Loan;
  const sector = BigInt(offset / SECTOR_BYTES);
  const common = { handle: 0, id: 7n, sector };
  if (isDiscard) {
    const sectors = BigInt(length / SECTOR_BYTES);
    const discard = { kind: 'discard', operation: BLKIF_OP.DISCARD, flag: 0 } as const;
    return { request: { ...discard, ...common, sectors }, loan };
  }
  const operation = payload ? BLKIF_OP.FLUSH_DISKCACHE : operationOf(request);
  if (operation !== BLKIF_OP.READ) loan.fill([new Uint8Array(length).fill(fill)]);
  const { segments } = loan;
  const nrSegments = segments.length;
  return { request: { kind: 'transfer', operation, nrSegments, ...common, segments }, loan };
}

function operationOf(request: Request): number {
  switch (request.kind) {
    case 'read':
      return BLKIF_OP.READ;
    case 'write':
      return request.barrier ? BLKIF_OP.WRITE_BARRIER : BLKIF_OP.WRITE;
    case 'barrier':
      return BLKIF_OP.WRITE_BARRIER;
    default:
      return BLKIF_OP.FLUSH_DISKCACHE;
  }
}

/** A request on its way. */
export interface Asked {
  readonly text: string;
  readonly loan: Loan;
  /** Undefined until it is answered. */
  status: number | undefined;
}

/** Sends requests without waiting, and watches how they end. */
export function ask(
  serve: (request: BlkifRequest) => Promise<BlkifResponse>,
  grants: GrantTable,
  program: string,
  blockSize = 4096,
): Asked[] {
  return program.split(' ').map((text, at) => {
    const { request, loan } = messageOf(text, grants, blockSize, at + 1);
    const asked: Asked = { text, loan, status: undefined };
    serve(request).then(({ status }) => {
      asked.status = status;
    });
    return asked;
  });
}

/** `w0:0 b1:- f:-2` and so on. */
export function statuses(asked: readonly Asked[]): string {
  return asked.map(({ text, status }) => `${text}:${status ?? '-'}`).join(' ');
}

/** Any request that fits the ring, sound or not. */
export const requests: fc.Arbitrary<BlkifRequest> = fc.oneof(
  fc
    .record({
      kind: fc.constant('transfer' as const),
      operation: fc.constantFrom(0, 1, 2, 3),
      handle: fc.nat(0xffff),
      id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      sector: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      segments: fc.array(
        fc.record({
          gref: fc.nat(0xffffffff),
          first: fc.nat(0xff),
          last: fc.nat(0xff),
        }),
        { maxLength: 11 },
      ),
    })
    .map((fields) => ({ ...fields, nrSegments: fields.segments.length })),
  fc.record({
    kind: fc.constant('discard' as const),
    operation: fc.constant(5 as const),
    flag: fc.nat(0xff),
    handle: fc.nat(0xffff),
    id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    sector: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    sectors: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  }),
  fc.record({
    kind: fc.constant('indirect' as const),
    operation: fc.constant(6 as const),
    wraps: fc.nat(0xff),
    nrSegments: fc.nat(0xffff),
    handle: fc.nat(0xffff),
    id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    sector: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    pages: fc.array(fc.nat(0xffffffff), { minLength: 8, maxLength: 8 }),
  }),
  fc.record({
    kind: fc.constant('other' as const),
    operation: fc.nat(0xff).filter((operation) => operation === 4 || operation > 6),
    id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  }),
);
