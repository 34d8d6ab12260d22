// A block frontend as a storage: what a scheduler asks of it becomes requests on a Xen ring.
//
// What it declares follows from the nodes of the backend when it connects, and never changes (S11), although the backend
// may take any feature back later:
//
//   feature-flush-cache or feature-barrier    flush, and a volatile cache, for there is one to flush
//   feature-barrier                           orderedTags
//   feature-discard                           discard
//   neither of the first two                  no flush, and the cache that `withoutFlush` says
//   always                                    no FUA: Linux 3.2 and later answers a WRITE_BARRIER before its own payload
//                                             is durable
//
// So a scheduler over it takes TAG_FLUSH where there are barriers, else DRAIN_FLUSH. How the order is kept, also when the
// backend answers EOPNOTSUPP in the middle of a barrier, is in front-order.ts. A payload is never lost on the way and a
// refusal never becomes a success; where nothing is left to keep the promise with, the command fails with EOPNOTSUPP.
//
// At most as many requests are out as the ring has slots and the grant table has pages. Commands beyond that wait here;
// how many is for the caller to bound, as a scheduler does with its depth. Pages of requests that a ring took with it
// unanswered stay lent (grants.ts).
//
// Not here: persistent grants, several rings, resuming after a migration.
//
// Source: Linux drivers/block/xen-blkfront.c; frontend-eras.ts has what that made of it over the years.

import {
  type Capabilities,
  checkRange,
  type FlushFlags,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import { readXenNodes, type XenNodes } from './features.js';
import {
  type BlkAbilities,
  FrontOrder,
  type Part,
  type PartSizes,
  type Wanted,
} from './front-order.js';
import type { BlkFrontRing, BlkifSend } from './front-ring.js';
import { borrow, type GrantTable, type Loan, pagesFor } from './grants.js';
import {
  BLKIF_OP,
  BLKIF_STATUS,
  type BlkifRequest,
  PAGE_BYTES,
  SECTOR_BYTES,
  SEGMENTS_MAX,
} from './wire.js';

/** How a frontend is connected. */
export interface BlkFrontendOptions {
  /** What the backend has written into xenstore. */
  readonly nodes: XenNodes;
  /** The ring; nobody else sends on it. */
  readonly ring: Pick<BlkFrontRing, 'free' | 'send' | 'state'>;
  /** The pages to lend to the backend; nobody else lends them from now on. 32 full requests take 352 of them. */
  readonly grants: GrantTable;
  /** The number of the disk; 0 unless given. Nothing here depends on it. */
  readonly handle?: number;
  /**
   * What no feature-flush-cache and no feature-barrier means. `volatile`, the default: completed writes may be lost, and
   * there is no way to flush them, so a scheduler refuses to work. `none`: the backend writes through, which is what
   * Linux assumes; over a backend that has a cache after all, everything answered may be lost in a power cut.
   */
  readonly withoutFlush?: 'volatile' | 'none';
}

/** What it takes to answer a command. */
interface Client {
  /** What to write, or where to read into. */
  readonly data: readonly Uint8Array[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Why there was no answer. */
  cause?: unknown;
}

/** See the head of this file. */
export class BlkFrontend implements Storage {
  /** In bytes. */
  readonly size: number;
  /** What the backend had announced at the start. */
  readonly capabilities: Capabilities;
  declare readonly discard?: (offset: number, length: number) => Promise<void>;
  readonly #options: BlkFrontendOptions;
  readonly #order: FrontOrder<Client>;
  #closed = false;
  #pumping = false;

  /** @throws `INVALID_ARGUMENT` for nodes that describe no disk, and for fewer free pages than one of its sectors takes */
  constructor(options: BlkFrontendOptions) {
    this.#options = options;
    const nodes = readXenNodes(options.nodes);
    const { barrier = false, flush = false, discard = false, sectorSize } = nodes;
    const sizes = partSizes(sectorSize, nodes.indirectSegments, options.grants.free);
    const indirect = sizes.indirect > sizes.direct;
    this.#order = new FrontOrder({ barrier, flush, discard, indirect }, sizes);
    this.size = nodes.size;
    this.capabilities = Object.freeze({
      blockSize: sectorSize,
      cache: flush || barrier ? 'volatile' : (options.withoutFlush ?? 'volatile'),
      flush: flush || barrier,
      fua: false,
      orderedTags: barrier,
      writev: true,
      discard,
      writeZeroes: false,
    });
    if (discard) {
      this.discard = async (offset, length) =>
        this.#command({ op: 'discard', offset, length, ordered: false }, []);
    }
  }

  /** What the backend still takes. */
  get abilities(): BlkAbilities {
    return this.#order.abilities;
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `IO_FAILED` for an ERROR, and for a ring that breaks */
  async read(offset: number, into: Uint8Array): Promise<void> {
    return this.#command({ op: 'read', offset, length: into.byteLength, ordered: false }, [into]);
  }

  /** Errors as for `read`; `EOPNOTSUPP` for what was not declared, and for an order that cannot be kept any more. */
  async write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<void> {
    return this.writev(offset, [data], flags);
  }

  /** Errors as for `write`. */
  async writev(
    offset: number,
    list: readonly Uint8Array[],
    { fua, tag }: WriteFlags,
  ): Promise<void> {
    if (fua) throw undeclared('FUA');
    const length = totalLength(list);
    return this.#command({ op: 'write', offset, length, ordered: tag === 'ordered' }, list);
  }

  /** Errors as for `read`; `EOPNOTSUPP` where the backend takes no flush, or none any more. */
  async flush({ tag }: FlushFlags): Promise<void> {
    if (!this.capabilities.flush) throw undeclared('a flush');
    return this.#command({ op: 'flush', offset: 0, length: 0, ordered: tag === 'ordered' }, []);
  }

  /** Takes no more. The ring and the pages stay with whoever made them. */
  close(): void {
    this.#closed = true;
  }

  #command(wanted: Wanted, data: readonly Uint8Array[]): Promise<void> {
    if (this.#closed) throw new WriteBarrierError('CLOSED', 'the frontend is closed');
    if (wanted.op !== 'flush') checkRange(this, wanted.offset, wanted.length);
    if (wanted.ordered && !this.capabilities.orderedTags) throw undeclared('an ordered tag');
    if (wanted.op !== 'flush' && wanted.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#order.submit(wanted, { data, resolve, reject });
      this.#pump();
    });
  }

  /** Sends what may be sent, and answers whom there is an answer for. */
  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    const fits = (part: Part<Client>): boolean => this.#fits(part);
    const order = this.#order;
    for (let part = order.next(fits); part; part = order.next(fits)) this.#send(part);
    this.#pumping = false;
    for (let ended = order.takeEnded(); ended; ended = order.takeEnded()) {
      const { resolve, reject, cause } = ended.command.client;
      if (ended.error) reject(cause ?? ended.error);
      else resolve();
    }
  }

  /** A broken ring has no room, and yet takes everything: to say that it is broken. */
  #fits({ length, indirect, operation }: Part<Client>): boolean {
    const { ring, grants } = this.#options;
    if (ring.state !== 'open') return true;
    return ring.free > 0 && (isBare(operation) || pagesFor(length, indirect) <= grants.free);
  }

  #send(part: Part<Client>): void {
    const { operation, length, indirect } = part;
    const pieces = piecesOf(part);
    if (!pieces) {
      this.#fail(part, resized());
      return;
    }
    const { ring, grants, handle = 0 } = this.#options;
    let loan: Loan | undefined;
    let response: ReturnType<BlkifSend>;
    try {
      if (!isBare(operation) && ring.state === 'open') {
        loan = borrow(grants, length, indirect);
        if (!loan) throw new WriteBarrierError('QUEUE_FULL', 'the grant table has lent too much');
        if (operation !== BLKIF_OP.READ) loan.fill(pieces);
      }
      response = ring.send(requestOf(part, loan, handle));
    } catch (unsent) {
      loan?.end();
      this.#fail(part, unsent);
      return;
    }
    response.then(
      ({ status }) => {
        const read = operation === BLKIF_OP.READ && status === BLKIF_STATUS.OKAY;
        const into = read ? piecesOf(part) : [];
        if (into?.[0]) loan?.collect(into[0]);
        loan?.end();
        if (into) this.#order.complete(part, status);
        else this.#fail(part, resized());
        this.#pump();
      },
      (cause) => {
        // Nobody knows whether anything was done, or will be: the pages stay lent.
        this.#fail(part, cause);
        this.#pump();
      },
    );
  }

  #fail(part: Part<Client>, cause: unknown): void {
    part.command.client.cause = cause;
    this.#order.complete(part, BLKIF_STATUS.ERROR);
  }
}

/** In bytes, whole sectors of the disk. */
function partSizes(sectorSize: number, indirectSegments: number, pages: number): PartSizes {
  const whole = (segments: number): number =>
    Math.floor((segments * PAGE_BYTES) / sectorSize) * sectorSize;
  const direct = whole(Math.min(SEGMENTS_MAX, pages));
  // The pages of segments come out of the same table.
  let segments = Math.min(indirectSegments, pages);
  while (pagesFor(segments * PAGE_BYTES, true) > pages) segments -= 1;
  if (direct > 0) return { direct, indirect: whole(segments) };
  const told = `${pages} free pages are too few for sectors of ${sectorSize} bytes`;
  throw new WriteBarrierError('INVALID_ARGUMENT', told);
}

/** It carries no pages. */
function isBare(operation: number): boolean {
  return operation === BLKIF_OP.FLUSH_DISKCACHE || operation === BLKIF_OP.DISCARD;
}

function requestOf(part: Part<Client>, loan: Loan | undefined, handle: number): BlkifRequest {
  const { operation, indirect, offset, length } = part;
  const sector = BigInt(offset / SECTOR_BYTES);
  const common = { handle, id: 0n, sector };
  if (operation === BLKIF_OP.DISCARD) {
    const sectors = BigInt(length / SECTOR_BYTES);
    return { kind: 'discard', operation: BLKIF_OP.DISCARD, flag: 0, ...common, sectors };
  }
  const segments = loan?.segments ?? [];
  const nrSegments = segments.length;
  if (!indirect) return { kind: 'transfer', operation, nrSegments, ...common, segments };
  const pages = loan?.indirect ?? [];
  const wrapped = { wraps: operation, nrSegments, pages };
  return { kind: 'indirect', operation: BLKIF_OP.INDIRECT, ...common, ...wrapped };
}

/** The part's share of its command's buffers; undefined where those have other sizes by now. */
function piecesOf({ command, offset, length, operation }: Part<Client>): Uint8Array[] | undefined {
  const { data } = command.client;
  if (isBare(operation)) return [];
  if (totalLength(data) !== command.wanted.length) return undefined;
  const pieces: Uint8Array[] = [];
  let start = offset - command.wanted.offset;
  let left = length;
  for (const bytes of data) {
    const piece = bytes.subarray(start, start + left);
    if (piece.byteLength > 0) pieces.push(piece);
    start = Math.max(0, start - bytes.byteLength);
    left -= piece.byteLength;
  }
  return pieces;
}

function totalLength(list: readonly Uint8Array[]): number {
  return list.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

function resized(): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', 'the buffer has another size by now');
}

function undeclared(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `the frontend has not declared ${what}`);
}
