// The memory that a frontend lends: pages with a reference each, how many of them a transfer needs, and a transfer from the
// loan of its pages to their return.
//
// A page can be seen from the other side only while it is lent. It is zeroed first, so that nothing of an older request
// is shown (Xen's advisory 403). A transfer takes whole pages from their first byte on; an indirect one takes pages for
// its list of segments in addition.
//
// A backend may do anything to a lent page: its bytes are undefined until the page is taken back, so callers copy in and
// out. A page is taken back only when the request that it was lent for has been answered, because a backend whose ring is
// gone may still be at work, and its disk would then write into the page of another request. So pages of requests that
// will not be answered stay lent for good, as Linux leaks what is still mapped (gnttab_end_foreign_access); a table that
// has lost too many is replaced by a new one.
//
// Not here: persistent grants, which stay with the backend from one request to the next.

import { WriteBarrierError } from 'write-barrier';
import { checkArgument, wholeNumber } from 'write-barrier/kit';
import type { BlkifSend } from './ring.js';
import {
  BLKIF_STATUS,
  type BlkifRequest,
  type BlkifSegment,
  type BlkifTransfer,
  encodeBlkifSegments,
  INDIRECT_PAGES_MAX,
  PAGE_BYTES,
  SECTOR_BYTES,
  SECTORS_PER_PAGE,
  SEGMENTS_PER_PAGE,
} from './wire.js';

/** A frontend's pages: what it grants, the backend may read and write, and nothing else. */
export interface GrantTable {
  /** How many pages there are. */
  readonly size: number;
  /** How many of them can be granted. */
  readonly free: number;
  /** The backend's view: a page while it is granted, undefined otherwise. */
  page(gref: number): Uint8Array | undefined;
  /** Grants this number of pages for one request; undefined if fewer are free. */
  lend(pages: number): readonly number[] | undefined;
  /** Takes them back. */
  withdraw(grefs: readonly number[]): void;
}

/**
 * A table of pages, all of them free.
 *
 * @param size 1 to 65,536 pages
 * @throws `INVALID_ARGUMENT` for another size
 */
export function grantTable(size: number): GrantTable {
  checkArgument('the pages of a grant table', size, wholeNumber(1, 65_536));
  const memory = new Uint8Array(size * PAGE_BYTES);
  const pages = Array.from({ length: size }, (_, at) =>
    memory.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES),
  );
  // References from 8 on, as in Linux, where the first ones are reserved.
  const first = 8;
  const unused = pages.map((_, at) => first + at).reverse();
  const granted = new Set<number>();
  return {
    size,
    get free() {
      return unused.length;
    },
    page: (gref) => (granted.has(gref) ? pages[gref - first] : undefined),
    lend: (count) => {
      if (unused.length < count) return undefined;
      const grefs = unused.splice(unused.length - count, count).reverse();
      for (const gref of grefs) {
        granted.add(gref);
        pages[gref - first]?.fill(0);
      }
      return grefs;
    },
    withdraw: (grefs) => {
      for (const gref of grefs) if (granted.delete(gref)) unused.push(gref);
    },
  };
}

/** Memory for one transfer, granted to the backend. */
export interface Loan {
  /** What a direct request carries, or what the pages of an indirect one hold. */
  readonly segments: readonly BlkifSegment[];
  /** The references of the pages of an indirect request; all eight of its places, 0 where there is none. */
  readonly indirect: readonly number[];
  /** Copies data in: several buffers are one. */
  fill(data: readonly Uint8Array[]): void;
  /** Copies data out. */
  collect(into: Uint8Array): void;
  /** Takes the pages back: the request was answered, or has never been sent. */
  end(): void;
}

/** The number of pages that a transfer of `length` bytes takes. */
export function pagesFor(length: number, indirect: boolean): number {
  const data = Math.ceil(length / PAGE_BYTES);
  return indirect ? data + Math.ceil(data / SEGMENTS_PER_PAGE) : data;
}

/** Pages for a transfer of `length` bytes, whole sectors; undefined where too few are free. */
export function borrow(grants: GrantTable, length: number, indirect = false): Loan | undefined {
  const grefs = length === 0 ? [] : grants.lend(pagesFor(length, indirect));
  if (!grefs) return undefined;
  const count = pagesFor(length, false);
  const data = grefs.slice(0, count);
  const segments = data.map((gref, at) => {
    const sectors = Math.min(SECTORS_PER_PAGE, length / SECTOR_BYTES - at * SECTORS_PER_PAGE);
    return { gref, first: 0, last: sectors - 1 };
  });
  const lists = grefs.slice(count);
  for (const [at, gref] of lists.entries()) {
    const from = at * SEGMENTS_PER_PAGE;
    encodeBlkifSegments(
      grants.page(gref) as Uint8Array,
      segments.slice(from, from + SEGMENTS_PER_PAGE),
    );
  }
  const places = Array.from({ length: INDIRECT_PAGES_MAX }, (_, at) => lists[at] ?? 0);
  return {
    segments,
    indirect: places,
    fill: (list) => {
      let at = 0;
      for (const bytes of list) {
        for (let from = 0; from < bytes.byteLength; ) {
          const page = grants.page(data[Math.floor(at / PAGE_BYTES)] as number) as Uint8Array;
          const part = bytes.subarray(from, from + PAGE_BYTES - (at % PAGE_BYTES));
          page.set(part, at % PAGE_BYTES);
          at += part.byteLength;
          from += part.byteLength;
        }
      }
    },
    collect: (into) => {
      for (const [at, gref] of data.entries()) {
        const page = grants.page(gref) as Uint8Array;
        into.set(page.subarray(0, into.byteLength - at * PAGE_BYTES), at * PAGE_BYTES);
      }
    },
    end: () => grants.withdraw(grefs),
  };
}

/** What one request moves. */
export interface Transfer {
  /** In bytes, whole sectors: what pages are lent for; 0 for a request without segments. */
  readonly length: number;
  /** The segments lie in pages as well. @defaultValue false */
  readonly indirect?: boolean;
  /** What is sent. */
  readonly data?: readonly Uint8Array[];
  /** Where what comes is put; called when it has come. */
  readonly into?: () => Uint8Array;
  /** The request with these pages. */
  readonly request: (loan: Loan) => BlkifRequest;
}

/**
 * Sends one request and answers with its status. Without a response its pages stay lent (see above).
 *
 * @throws `QUEUE_FULL` where too few pages are free; what `send` throws
 */
export async function transfer(
  send: BlkifSend,
  grants: GrantTable,
  { length, indirect, data, into, request }: Transfer,
): Promise<number> {
  const loan = borrow(grants, length, indirect);
  if (!loan) throw new WriteBarrierError('QUEUE_FULL', 'no pages are left to grant');
  let response: ReturnType<BlkifSend>;
  try {
    loan.fill(data ?? []);
    response = send(request(loan));
  } catch (unsent) {
    loan.end();
    throw unsent;
  }
  const { status } = await response;
  try {
    if (into && status === BLKIF_STATUS.OKAY) loan.collect(into());
    return status;
  } finally {
    loan.end();
  }
}

/** A direct request for these segments. */
export function directRequest(
  operation: number,
  offset: number,
  { segments }: Pick<Loan, 'segments'>,
  handle = 0,
): BlkifTransfer {
  const sector = BigInt(offset / SECTOR_BYTES);
  const nrSegments = segments.length;
  return { kind: 'transfer', operation, nrSegments, handle, id: 0n, sector, segments };
}
