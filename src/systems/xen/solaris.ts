// The disk driver of a Solaris guest on Xen: the question of a mail to xen-devel, with all three of its answers.
//
// In Solaris a flush is not a write: DKIOCFLUSHWRITECACHE makes every write so far durable, and carries no data. The ring
// had one thing that flushes, WRITE_BARRIER, which is a write. The mail's three ways out:
//
//   old write        (a) keep a write that was done, and write it once more, as a barrier
//   empty barrier    (b) a WRITE_BARRIER of no segments, which the Linux backends of 2006 answered with ERROR
//   flush operation  (c) an operation of its own, which became FLUSH_DISKCACHE
//
// With the write cache disabled (WCE off) every write goes out as a barrier, and is durable when it is answered if the
// backend does what the mail assumes: it answers a barrier when the barrier and all older writes are on the disk.
//
//   L1  A flush succeeds only if a request that covers every write answered before the flush was called was itself answered
//       OKAY.
//   L2  When the driver attaches, before there is anything to lose, it tries the ways from (c) to (a) and takes the first
//       that works. If that is later answered EOPNOTSUPP, the driver takes the next. An ERROR is reported, because a flush
//       may have failed, and a later success does not bring back what the failed flush lost.
//   L3  (a) never brings old data back. A kept write is forgotten as soon as another one to the same bytes is sent, and
//       while it is under way again no other write is sent. These bytes have already been written, so nothing is lost if
//       the backend does not make the payload itself durable.
//   L4  A barrier write that comes back as EOPNOTSUPP is sent again as an ordinary one, followed by a flush; if no way to
//       flush is left, it fails.
//
// The driver that was shipped, xdf, has (c) and (a), and chooses by the nodes in xenstore and not by trying; for (a) it
// keeps one block of the disk at a fixed place, number 156, whatever was written elsewhere. It answers ENOTTY if neither
// node exists.
//
// Not here: labels, slices, suspend and resume.
//
// Source: a mail to xen-devel by Gary Pennington (Sun Microsystems) on barriers of zero bytes; OpenSolaris uts/common/xen/io/xdf.c.

import type { Capabilities } from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  checkRange,
  FUNCTION,
  misuse,
  oneOf,
} from 'write-barrier/kit';
import { readXenNodes, type XenNodes } from './features.js';
import { directRequest, type GrantTable, transfer } from './grants.js';
import type { BlkifSend } from './ring.js';
import { BLKIF_OP, BLKIF_STATUS, errorOfStatus, PAGE_BYTES, SEGMENTS_MAX } from './wire.js';

/** A way to flush; the mail calls them (c), (b) and (a). */
export type SolarisFlushWay = 'flush operation' | 'empty barrier' | 'old write';

/** The ways in the order in which they are tried. */
export const SOLARIS_FLUSH_WAYS: readonly SolarisFlushWay[] = Object.freeze([
  'flush operation',
  'empty barrier',
  'old write',
]);

/** How the driver attaches. */
export interface SolarisOptions {
  /** What the backend has written into xenstore. */
  readonly nodes: XenNodes;
  /** The way to the backend: that of a ring, or `serve` of the backend itself. */
  readonly send: BlkifSend;
  /** At least eleven pages for each request that is to be out at once. */
  readonly grants: GrantTable;
  /** The write cache is enabled. @defaultValue true */
  readonly writeCache?: boolean;
  /** The ways that may be taken. @defaultValue all */
  readonly ways?: readonly SolarisFlushWay[];
}

/** A write that was done. */
interface Kept {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

const OPTIONS = { nodes: 1, send: 1, grants: 1, writeCache: BOOLEAN, ways: 1 } as const;
const EMPTY = new Uint8Array(0);
/** In bytes: what one request carries. */
const PIECE_MAX = SEGMENTS_MAX * PAGE_BYTES;
const TRAITS = { cache: 'volatile', flush: true, fua: false, orderedTags: false } as const;

/** The disk of a Solaris guest. Offsets and lengths are in bytes, whole sectors. */
export class SolarisDisk {
  /** In bytes. */
  readonly size: number;
  /** What ranges are checked against: its sectors, and a cache that can be flushed. */
  readonly capabilities: Capabilities;
  /**
   * DKIOCGETWCE, DKIOCSETWCE: the write cache is enabled, from the next write on. What was written before stays as volatile
   * as it is.
   */
  writeCache: boolean;
  readonly #options: SolarisOptions;
  #barriers: boolean;
  #ways: readonly SolarisFlushWay[];
  #emptyBarrierProven = false;
  #kept: Kept | undefined;
  /** Writes at the backend. */
  readonly #sent = new Set<Promise<unknown>>();
  /** Writes wait for it: a kept write is under way again. */
  #held: Promise<unknown> | undefined;

  /**
   * Attaches the driver, and finds out how this backend can be made to flush.
   *
   * @throws `INVALID_ARGUMENT` for nodes that describe no disk, and for sectors that no request can carry; what the ring
   *   throws
   */
  static async attach(options: SolarisOptions): Promise<SolarisDisk> {
    const disk = new SolarisDisk(options);
    await disk.#tryWays();
    return disk;
  }

  private constructor(options: SolarisOptions) {
    checkOptions(options, OPTIONS, 'SolarisDisk');
    const { nodes, send, writeCache = true, ways } = options;
    checkArgument('send', send, FUNCTION);
    for (const way of ways ?? []) checkArgument('a way', way, oneOf(SOLARIS_FLUSH_WAYS));
    const { size, sectorSize, barrier, flush } = readXenNodes(nodes);
    if (sectorSize > PIECE_MAX) {
      throw misuse(
        `sector-size must be at most ${PIECE_MAX}, what one request carries, not ${sectorSize}`,
      );
    }
    this.size = size;
    this.capabilities = Object.freeze({ ...TRAITS, blockSize: sectorSize });
    this.#options = options;
    this.writeCache = writeCache;
    this.#barriers = barrier === true;
    const offered: Readonly<Record<SolarisFlushWay, boolean>> = {
      'flush operation': flush === true,
      'empty barrier': this.#barriers,
      'old write': this.#barriers,
    };
    this.#ways = (ways ?? SOLARIS_FLUSH_WAYS).filter((way) => offered[way]);
  }

  /** How it flushes now; undefined where no way is left. */
  get way(): SolarisFlushWay | undefined {
    return this.#ways[0];
  }

  /** @throws `OUT_OF_RANGE`, `UNALIGNED`, `IO_FAILED`; `QUEUE_FULL` where no pages or slots are left */
  async read(offset: number, into: Uint8Array): Promise<void> {
    checkRange(this, offset, into.byteLength);
    for (const [at, piece] of this.#piecesOf(into)) {
      const status = await this.#transfer(BLKIF_OP.READ, offset + at, piece);
      if (status !== BLKIF_STATUS.OKAY) throw errorOfStatus(status, 'a read');
    }
  }

  /**
   * Errors as for `read`; with the cache disabled also `EOPNOTSUPP`, where the data was written and nothing can make it
   * durable. Writes to the same bytes must not be under way together.
   */
  async write(offset: number, data: Uint8Array): Promise<void> {
    checkRange(this, offset, data.byteLength);
    for (const [at, piece] of this.#piecesOf(data)) await this.#writePiece(offset + at, piece);
  }

  /**
   * DKIOCFLUSHWRITECACHE: makes every write that was answered before durable (L1).
   *
   * @throws `IO_FAILED` where the backend answers ERROR; `EOPNOTSUPP` where no way is left (ENOTTY, in the driver)
   */
  async flushWriteCache(): Promise<void> {
    for (let way = this.way; way; way = this.way) {
      const status = await this.#flushBy(way);
      if (status === BLKIF_STATUS.OKAY) return;
      const unsupported = status === BLKIF_STATUS.EOPNOTSUPP;
      // An empty barrier that was not tried at the start may be one that the backend does not know.
      const unknown = way === 'empty barrier' && !this.#emptyBarrierProven;
      if (unsupported || unknown) this.#giveUp(way);
      if (!unsupported) throw errorOfStatus(status, 'a flush'); // L2
    }
    throw errorOfStatus(BLKIF_STATUS.EOPNOTSUPP, 'a flush');
  }

  // Flushing

  /** L2. */
  async #tryWays(): Promise<void> {
    for (let way = this.way; way; way = this.way) {
      if ((await this.#flushBy(way)) === BLKIF_STATUS.OKAY) {
        this.#emptyBarrierProven = way === 'empty barrier';
        return;
      }
      this.#giveUp(way);
    }
  }

  #giveUp(way: SolarisFlushWay): void {
    this.#ways = this.#ways.filter((other) => other !== way);
  }

  #flushBy(way: SolarisFlushWay): Promise<number> {
    switch (way) {
      case 'flush operation':
        return this.#transfer(BLKIF_OP.FLUSH_DISKCACHE, 0, EMPTY);
      case 'empty barrier':
        return this.#transfer(BLKIF_OP.WRITE_BARRIER, 0, EMPTY);
      case 'old write':
        return this.#holding(() => this.#writeAgain());
    }
  }

  /** L3: no other write is sent until the work is over. */
  #holding(work: () => Promise<number>): Promise<number> {
    const turn = this.#held ? this.#held.then(work) : work();
    const hold = turn
      .catch(() => {})
      .then(() => {
        if (this.#held === hold) this.#held = undefined;
      });
    this.#held = hold;
    return turn;
  }

  /** L3. Where no write is kept, a block is read for the purpose, when nothing is on its way to it. */
  async #writeAgain(): Promise<number> {
    if (!this.#kept) await Promise.allSettled(this.#sent);
    if (!this.#kept) {
      const bytes = new Uint8Array(this.capabilities.blockSize);
      const status = await this.#transfer(BLKIF_OP.READ, 0, bytes);
      if (status !== BLKIF_STATUS.OKAY) return BLKIF_STATUS.ERROR;
      this.#kept = { offset: 0, bytes };
    }
    return this.#transfer(BLKIF_OP.WRITE_BARRIER, this.#kept.offset, this.#kept.bytes);
  }

  // Writing

  /** L4. */
  async #writePiece(offset: number, data: Uint8Array): Promise<void> {
    const through = !this.writeCache;
    if (through && this.#barriers) {
      const status = await this.#sendWrite(BLKIF_OP.WRITE_BARRIER, offset, data);
      if (status === BLKIF_STATUS.OKAY) return;
      if (status !== BLKIF_STATUS.EOPNOTSUPP) throw errorOfStatus(status, 'a barrier');
      this.#barriers = false;
    }
    const status = await this.#sendWrite(BLKIF_OP.WRITE, offset, data);
    if (status !== BLKIF_STATUS.OKAY) throw errorOfStatus(status, 'a write');
    if (through) await this.flushWriteCache();
  }

  /** L3. */
  async #sendWrite(operation: number, offset: number, data: Uint8Array): Promise<number> {
    while (this.#held) await this.#held;
    this.#forget(offset, data.byteLength);
    // As it is sent: the caller may change the buffer later.
    const bytes = new Uint8Array(data.subarray(0, this.capabilities.blockSize));
    const answer = this.#transfer(operation, offset, data);
    this.#sent.add(answer);
    try {
      const status = await answer;
      if (status === BLKIF_STATUS.OKAY) this.#kept = { offset, bytes };
      return status;
    } finally {
      this.#sent.delete(answer);
    }
  }

  #forget(offset: number, length: number): void {
    const kept = this.#kept;
    if (!kept || kept.offset >= offset + length) return;
    if (offset < kept.offset + kept.bytes.byteLength) this.#kept = undefined;
  }

  // The ring

  *#piecesOf(bytes: Uint8Array): Generator<[at: number, piece: Uint8Array], void> {
    const piece = PIECE_MAX - (PIECE_MAX % this.capabilities.blockSize);
    for (let at = 0; at < bytes.byteLength; at += piece) {
      yield [at, bytes.subarray(at, at + piece)];
    }
  }

  #transfer(operation: number, offset: number, data: Uint8Array): Promise<number> {
    const { send, grants } = this.#options;
    return transfer(send, grants, {
      length: data.byteLength,
      ...(operation === BLKIF_OP.READ ? { into: () => data } : { data: [data] }),
      request: (loan) => directRequest(operation, offset, loan),
    });
  }
}
