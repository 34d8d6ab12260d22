// A block frontend as a storage: the commands of a scheduler become requests on a Xen ring.
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
// So a scheduler over it takes TAG_FLUSH if there are barriers, and otherwise DRAIN_FLUSH. How the order is kept, also
// when the backend answers EOPNOTSUPP in the middle of a barrier, is in front-order.ts. A payload is never lost on the
// way, and a refusal never becomes a success. If no feature is left that can keep the promise, the command fails with
// EOPNOTSUPP.
//
// At most as many requests are out as the ring has slots and the grant table has pages. Commands beyond that wait here, in
// any number: the caller must bound them, as a scheduler does with its depth. If a ring ends, the pages of its
// unanswered requests stay lent (grants.ts).
//
// Not here: persistent grants, several rings, resuming after a migration.
//
// Source: Linux drivers/block/xen-blkfront.c; old-frontend.ts has what that made of it over the years.

import {
  type Capabilities,
  type FlushFlags,
  type Request,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import {
  answerCall,
  type Call,
  checkArgument,
  checkOptions,
  checkRange,
  Driver,
  misuse,
  oneOf,
  rule,
  sliceBuffers,
  totalLength,
  unsupported,
  wholeNumber,
  withText,
} from 'write-barrier/kit';
import { objectWith, submitTo } from '../requests.js';
import { readXenNodes, type XenNodes } from './features.js';
import {
  type BlkAbilities,
  FrontOrder,
  type Part,
  type PartSizes,
  wantedOf,
} from './front-order.js';
import { directRequest, type GrantTable, type Loan, pagesFor, transfer } from './grants.js';
import type { BlkFrontRing } from './ring.js';
import {
  BLKIF_OP,
  BLKIF_STATUS,
  type BlkifRequest,
  PAGE_BYTES,
  SECTOR_BYTES,
  SEGMENTS_MAX,
  StatusError,
} from './wire.js';

/** How a frontend is connected. */
export interface BlkFrontendOptions {
  /** What the backend has written into xenstore. */
  readonly nodes: XenNodes;
  /** The ring; nothing else may send on it. */
  readonly ring: Pick<BlkFrontRing, 'free' | 'send' | 'state'>;
  /** The pages to lend to the backend, for this frontend alone. 32 full requests take 352 of them. */
  readonly grants: GrantTable;
  /** The number of the disk. Nothing here depends on it. @defaultValue 0 */
  readonly handle?: number;
  /**
   * What no feature-flush-cache and no feature-barrier means. `volatile`, the default: completed writes may be lost, and
   * there is no way to flush them, so a scheduler refuses to work. `none`: the backend writes through, which is what
   * Linux assumes; over a backend that has a cache after all, everything answered may be lost in a power cut.
   */
  readonly withoutFlush?: 'volatile' | 'none';
}

const NODES = rule(
  (value) => typeof value === 'object' && value !== null,
  'the nodes of a backend',
);
const RING = objectWith('send');
const GRANTS = objectWith('page', 'lend', 'withdraw');
const OPTIONS = {
  nodes: 1,
  ring: 1,
  grants: 1,
  handle: wholeNumber(0, 65_535),
  withoutFlush: oneOf(['volatile', 'none']),
} as const;

/** A command of the storage. */
interface Client extends Call {
  readonly data: readonly Uint8Array[];
}

/** A block frontend as a storage. */
export class BlkFrontend implements Storage {
  /** In bytes. */
  readonly size: number;
  /** What the backend had announced at the start. */
  readonly capabilities: Capabilities;
  declare readonly discard?: (offset: number, length: number) => Promise<void>;
  readonly #options: BlkFrontendOptions;
  readonly #order: FrontOrder<Client>;
  readonly #driver: Driver<Client, Part<Client>>;
  #closed = false;

  /**
   * @throws `INVALID_ARGUMENT` for an option that is missing or unknown, for nodes that describe no disk, and for fewer free pages
   *   than one of its sectors takes
   */
  constructor(options: BlkFrontendOptions) {
    checkOptions(options, OPTIONS, 'BlkFrontend');
    checkArgument('nodes', options.nodes, NODES);
    checkArgument('ring', options.ring, RING);
    checkArgument('grants', options.grants, GRANTS);
    const { withoutFlush = 'volatile' } = options;
    this.#options = options;
    const nodes = readXenNodes(options.nodes);
    const { barrier = false, flush = false, discard = false, sectorSize } = nodes;
    const sizes = partSizes(sectorSize, nodes.indirectSegments, options.grants.free);
    const indirect = sizes.indirect > sizes.direct;
    const abilities = { barrier, flush, discard, indirect };
    this.#order = new FrontOrder(abilities, sizes, (part) => this.#fits(part));
    this.#driver = new Driver<Client, Part<Client>>(this.#order, {
      execute: (part) => this.#send(part),
      answer: answerCall,
      name: 'a Xen frontend',
    });
    this.size = nodes.size;
    this.capabilities = Object.freeze({
      blockSize: sectorSize,
      cache: flush || barrier ? 'volatile' : withoutFlush,
      flush: flush || barrier,
      fua: false,
      orderedTags: barrier,
      writev: true,
      discard,
      writeZeroes: false,
    });
    if (discard) {
      this.discard = async (offset, length) =>
        this.#command({ kind: 'discard', offset, length }, []);
    }
    withText(this, () => `BlkFrontend { ${this.size} bytes in sectors of ${sectorSize} }`);
  }

  /** What the backend still takes. */
  get abilities(): BlkAbilities {
    return this.#order.abilities;
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `IO_FAILED` for an ERROR, and for a ring that breaks */
  async read(offset: number, into: Uint8Array): Promise<void> {
    return this.#command({ kind: 'read', offset, length: into.byteLength }, [into]);
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
    if (fua) throw unsupported('FUA');
    const length = totalLength(list);
    return this.#command({ kind: 'write', offset, length, barrier: tag === 'ordered' }, list);
  }

  /** Errors as for `read`; `EOPNOTSUPP` if the backend takes no flush, or no longer takes one. */
  async flush({ tag }: FlushFlags): Promise<void> {
    if (!this.capabilities.flush) throw unsupported('a flush');
    return this.#command({ kind: tag === 'ordered' ? 'barrier' : 'flush' }, []);
  }

  /** Takes no more commands. The ring and the pages still belong to their owner. */
  close(): void {
    this.#closed = true;
  }

  async #command(request: Request, data: readonly Uint8Array[]): Promise<void> {
    if (this.#closed) throw new WriteBarrierError('CLOSED', 'the frontend is closed');
    const wanted = wantedOf(request);
    const isFlush = wanted.op === 'flush';
    if (!isFlush) checkRange(this, wanted.offset, wanted.length);
    if (wanted.ordered && !this.capabilities.orderedTags) throw unsupported('an ordered tag');
    if (!isFlush && wanted.length === 0) return;
    await submitTo(this.#driver, { request, data });
  }

  /** A broken ring has no room, and yet takes everything: to say that it is broken. */
  #fits({ length, indirect, operation }: Part<Client>): boolean {
    const { ring, grants } = this.#options;
    if (ring.state !== 'open') return true;
    return ring.free > 0 && (isBare(operation) || pagesFor(length, indirect) <= grants.free);
  }

  async #send(part: Part<Client>): Promise<void> {
    const { operation, length, indirect } = part;
    const { ring, grants, handle = 0 } = this.#options;
    const pieces = piecesOf(part);
    const read = operation === BLKIF_OP.READ;
    // A ring that has ended says so itself, and needs no pages for it.
    const lends = !isBare(operation) && ring.state === 'open';
    const status = await transfer((request) => ring.send(request), grants, {
      length: lends ? length : 0,
      indirect,
      ...(read ? { into: () => piecesOf(part)[0] as Uint8Array } : { data: lends ? pieces : [] }),
      request: (loan) => requestOf(part, loan, handle),
    });
    if (status !== BLKIF_STATUS.OKAY) throw new StatusError(status);
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
  throw misuse(
    `grants must have pages for a sector: ${pages} are free, and a sector has ${sectorSize} bytes`,
  );
}

/** It carries no pages. */
function isBare(operation: number): boolean {
  return operation === BLKIF_OP.FLUSH_DISKCACHE || operation === BLKIF_OP.DISCARD;
}

function requestOf(part: Part<Client>, loan: Loan, handle: number): BlkifRequest {
  const { operation, indirect, offset, length } = part;
  const direct = directRequest(operation, offset, loan, handle);
  const { id, sector, nrSegments } = direct;
  if (operation === BLKIF_OP.DISCARD) {
    const sectors = BigInt(length / SECTOR_BYTES);
    return { kind: 'discard', operation, flag: 0, handle, id, sector, sectors };
  }
  if (!indirect) return direct;
  const wrapped = { wraps: operation, nrSegments, pages: loan.indirect };
  return { kind: 'indirect', operation: BLKIF_OP.INDIRECT, handle, id, sector, ...wrapped };
}

/** The part's share of its command's buffers. */
function piecesOf({ command, offset, length, operation }: Part<Client>): Uint8Array[] {
  const { data } = command.client;
  if (isBare(operation)) return [];
  if (totalLength(data) !== command.wanted.length) {
    throw misuse('the buffer has changed its size since the command was given');
  }
  const start = offset - command.wanted.offset;
  return sliceBuffers(data, start, start + length);
}
