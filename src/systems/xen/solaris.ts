// The disk driver of a Solaris guest on Xen: the question of a mail to xen-devel, with all three of its answers.
//
// Solaris keeps a flush apart from a write: DKIOCFLUSHWRITECACHE asks that whatever was written so far be on the disk,
// and carries no data. The ring had one thing that flushes, WRITE_BARRIER, which is a write. The mail's three ways out:
//
//   old write        (a) keep a write that was done, and write it once more, as a barrier
//   empty barrier    (b) a WRITE_BARRIER of no segments, which the Linux backends of 2006 answered with ERROR
//   flush operation  (c) an operation of its own, which became FLUSH_DISKCACHE
//
// With the write cache disabled (WCE off) every write goes out as a barrier, and is durable when it is answered if the
// backend means by a barrier what the mail believes: that it and all older writes are on the disk.
//
//   L1  A flush succeeds only if a request was answered OKAY that covers every write answered before it was asked for.
//   L2  Which way works is tried when the driver attaches, before there is anything to lose, from (c) to (a). Later a way
//       that comes back as EOPNOTSUPP gives place to the next; an ERROR is told, because behind it a flush may have
//       failed, and the next one that succeeds does not bring back what this one lost.
//   L3  (a) never brings old data back. A kept write is forgotten as soon as another one to the same bytes is sent, and
//       while it is under way again no other write is sent. The bytes that it writes are there already, so nothing
//       is lost if the backend does not make the payload itself durable.
//   L4  A barrier write that comes back as EOPNOTSUPP is sent again as an ordinary one, with a flush behind it; without
//       a way to flush it fails.
//
// The driver that was shipped, xdf, has (c) and (a), chosen by the nodes and not by trying; for (a) it keeps one block of
// the disk at a fixed place, number 156, whatever was written elsewhere. It answers ENOTTY where neither node is there.
//
// Not here: labels, slices, suspend and resume.
//
// Source: a mail to xen-devel by Gary Pennington (Sun Microsystems) on barriers of zero bytes; OpenSolaris uts/common/xen/io/xdf.c.

import { type Capabilities, checkRange } from 'write-barrier';
import { readXenNodes, type XenNodes } from './features.js';
import type { BlkifSend } from './front-ring.js';
import type { GrantTable } from './grants.js';
import { errorOfStatus } from './status.js';
import { transferOnce } from './transfer.js';
import { BLKIF_OP, BLKIF_STATUS, PAGE_BYTES, SEGMENTS_MAX } from './wire.js';

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
  /** The write cache is enabled; true unless given. */
  readonly writeCache?: boolean;
  /** The ways that may be taken; all unless given. */
  readonly ways?: readonly SolarisFlushWay[];
}

/** A write that was done. */
interface Kept {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

const EMPTY = new Uint8Array(0);
const TRAITS = { cache: 'volatile', flush: true, fua: false, orderedTags: false } as const;

/** See the head of this file. Offsets and lengths are in bytes, whole sectors. */
export class SolarisDisk {
  /** In bytes. */
  readonly size: number;
  /** What ranges are checked against: its sectors, and a cache that can be flushed. */
  readonly capabilities: Capabilities;
  readonly #send: BlkifSend;
  readonly #grants: GrantTable;
  readonly #sectorSize: number;
  #writeCache: boolean;
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
   * @throws `INVALID_ARGUMENT` for nodes that describe no disk; what the ring throws
   */
  static async attach(options: SolarisOptions): Promise<SolarisDisk> {
    const disk = new SolarisDisk(options);
    await disk.#tryWays();
    return disk;
  }

  private constructor({ nodes, send, grants, writeCache = true, ways }: SolarisOptions) {
    const { size, sectorSize, barrier, flush } = readXenNodes(nodes);
    this.size = size;
    this.#sectorSize = sectorSize;
    this.capabilities = Object.freeze({ ...TRAITS, blockSize: sectorSize });
    this.#send = send;
    this.#grants = grants;
    this.#writeCache = writeCache;
    this.#barriers = barrier === true;
    const offered: Readonly<Record<SolarisFlushWay, boolean>> = {
      'flush operation': flush === true,
      'empty barrier': this.#barriers,
      'old write': this.#barriers,
    };
    this.#ways = (ways ?? SOLARIS_FLUSH_WAYS).filter((way) => offered[way]);
  }

  /** DKIOCGETWCE. */
  get writeCache(): boolean {
    return this.#writeCache;
  }

  /** DKIOCSETWCE: from the next write on. What was written before stays as volatile as it is. */
  set writeCache(enabled: boolean) {
    this.#writeCache = enabled;
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
   * DKIOCFLUSHWRITECACHE: whatever was answered before is on the disk (L1).
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
      const bytes = new Uint8Array(this.#sectorSize);
      const status = await this.#transfer(BLKIF_OP.READ, 0, bytes);
      if (status !== BLKIF_STATUS.OKAY) return BLKIF_STATUS.ERROR;
      this.#kept = { offset: 0, bytes };
    }
    return this.#transfer(BLKIF_OP.WRITE_BARRIER, this.#kept.offset, this.#kept.bytes);
  }

  // Writing

  /** L4. */
  async #writePiece(offset: number, data: Uint8Array): Promise<void> {
    const through = !this.#writeCache;
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
    // As it is sent: what the caller does to his buffer later is no part of it.
    const bytes = new Uint8Array(data.subarray(0, this.#sectorSize));
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
    const most = SEGMENTS_MAX * PAGE_BYTES;
    const piece = most - (most % this.#sectorSize);
    for (let at = 0; at < bytes.byteLength; at += piece) {
      yield [at, bytes.subarray(at, at + piece)];
    }
  }

  #transfer(operation: number, offset: number, data: Uint8Array): Promise<number> {
    const collect = operation === BLKIF_OP.READ;
    return transferOnce(this.#send, this.#grants, { operation, offset, data, collect });
  }
}
