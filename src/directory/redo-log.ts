// Blocks on a disk that change together: a redo log under one scheduler.
//
// What changes is kept in memory until it is recorded. A record is one write at the end of the log: the blocks that changed, whole,
// with their places and checksums. From then on the log has them, and their places are written later, many at once. After a power
// cut the log is read up to the first record that is not whole.
//
//   put(block) ──▶ pending ──record()──▶ logged ──checkpoint()──▶ in its place
//
//   R1  A record counts as a whole or not at all, because each of its blocks has a checksum in its head, and its head has one.
//   R2  A record counts only if all before it do, because it has the next number of the epoch. So what is there after a power cut is
//       what was there after some record, and records need no flush between them.
//   R3  Nothing is written to its place before the records that have it are durable, and a flush stands between.
//   R4  An epoch begins with a superblock that is a barrier: all places are on the medium before it, and it is before all
//       records of its epoch, which overwrite those of the last one. Records of other epochs do not count.
//   R5  Each opening begins an epoch. Otherwise a record that a power cut left behind a torn one would count again, when another
//       record takes the place of the torn one.
//   R6  After a command has failed all later ones are refused, because the log no longer knows what the medium has. The way
//       out is to open again.
//   R7  An image is never changed once it was put, because the scheduler may be writing it.
//
// A flush is asked for by `durable()` alone, and only if something was recorded since the last one. A checkpoint costs a flush and a
// barrier, and comes when the log is full.
//
// Not here: what blocks are (table.ts, directory.ts); turns: one caller at a time calls `read`, `put`, `record` (directory.ts).

import { IoFailedError, type IoScheduler, SchedulerFailedError } from 'write-barrier';
import { messageOf } from 'write-barrier/kit';
import {
  crc32,
  decodeRecordHead,
  encodeRecordHead,
  encodeSuperblock,
  type Layout,
  recordCount,
  recordEpoch,
  recordHeadBlocks,
  recordMax,
  type Superblock,
  superblockRange,
} from './layout.js';

export class RedoLog {
  readonly #disk: IoScheduler;
  readonly #layout: Layout;
  #superblock: Superblock;
  /** The records of this epoch. */
  #sequence = 0;
  /** Blocks of the log that they fill. */
  #used = 0;
  #pending = new Map<number, Uint8Array>();
  readonly #logged = new Map<number, Uint8Array>();
  /** Blocks that were given up since the last record, and not put again; until then a checkpoint writes them (R3). */
  readonly #freed = new Set<number>();
  /** Settles when all records that were submitted have been written. */
  #written: Promise<unknown> = Promise.resolve();
  /** All records that were submitted, of all epochs, and how many of them a flush has covered. */
  #records = 0;
  #durable = 0;
  /** The flush that was asked for last; syncs at once share it. */
  #flush: { readonly records: number; readonly done: Promise<void> } | undefined;
  #failure: { readonly cause: unknown } | undefined;

  constructor(disk: IoScheduler, layout: Layout, superblock: Superblock) {
    this.#disk = disk;
    this.#layout = layout;
    this.#superblock = superblock;
  }

  /** Reads what the log has, puts it in its places, and begins an epoch (R5). @throws `IO_FAILED` if a superblock is damaged */
  async replay(): Promise<void> {
    for (;;) {
      const record = await this.#next();
      if (!record) break;
      for (const [block, image] of record.blocks) this.#logged.set(block, image);
      this.#used += record.length;
      this.#sequence += 1;
    }
    await this.#attempt(() => this.#checkpoint());
  }

  /** How many blocks may be put before they are recorded, beside those that are pending. */
  get room(): number {
    const { logBlocks, blockSize } = this.#layout;
    return recordMax(logBlocks, blockSize) - this.#pending.size;
  }

  /** @throws `FAILED` after a failure (R6) */
  check(): void {
    if (!this.#failure) return;
    const { cause } = this.#failure;
    const why = `the directory has failed and is to be opened again: ${messageOf(cause)}`;
    throw new SchedulerFailedError(cause, why);
  }

  /** Reads blocks; the scheduler has been asked when this returns, so a later change does not reach it. */
  read(blocks: readonly number[]): Promise<Uint8Array> {
    const { blockSize } = this.#layout;
    const into = new Uint8Array(blocks.length * blockSize);
    const reads: Promise<unknown>[] = [];
    let at = 0;
    while (at < blocks.length) {
      const block = blocks[at] as number;
      const image = this.#pending.get(block) ?? this.#logged.get(block);
      const count = image ? 1 : this.#run(blocks, at);
      const part = into.subarray(at * blockSize, (at + count) * blockSize);
      if (image) part.set(image);
      else reads.push(this.#disk.read(block * blockSize, part));
      at += count;
    }
    return Promise.all(reads).then(() => into);
  }

  /** The block holds these bytes from now on. They are not copied (R7). */
  put(block: number, image: Uint8Array): void {
    this.#pending.set(block, image);
    this.#freed.delete(block);
  }

  /** Nothing reads the block any more, so it need not be written. */
  free(block: number): void {
    this.#pending.delete(block);
    this.#freed.add(block);
  }

  /** Submits what is pending as a record. Waits only if the log is full. */
  async record(): Promise<void> {
    this.check();
    const blocks = this.#pending;
    if (blocks.size === 0) return;
    const { blockSize, logBlocks, logStart } = this.#layout;
    const length = recordHeadBlocks(blocks.size, blockSize) + blocks.size;
    if (this.#used + length > logBlocks) await this.#attempt(() => this.#checkpoint());
    const head = encodeRecordHead(
      { epoch: this.#superblock.epoch, sequence: this.#sequence },
      blocks,
      blockSize,
    );
    const offset = (logStart + this.#used) * blockSize;
    const write = this.#disk.write(offset, [head, ...blocks.values()]);
    this.#written = Promise.all([this.#written, write]);
    // What fails is told by durable() and check().
    this.#written.catch((cause) => {
      this.#failure ??= { cause };
    });
    this.#sequence += 1;
    this.#records += 1;
    this.#used += length;
    this.#pending = new Map();
    for (const [block, image] of blocks) this.#logged.set(block, image);
    for (const block of this.#freed) this.#logged.delete(block);
    this.#freed.clear();
  }

  /** Settles when all records that were submitted are written; a power cut may still lose them. */
  async written(): Promise<void> {
    await this.#attempt(() => this.#written);
  }

  /** Settles when all records that were submitted are durable. */
  async durable(): Promise<void> {
    this.check();
    const records = this.#records;
    if (this.#durable >= records) return;
    if (this.#flush?.records !== records) {
      const flush = (): Promise<unknown> => Promise.all([this.#written, this.#disk.flush()]);
      this.#flush = { records, done: this.#attempt(flush) };
    }
    await this.#flush.done;
    this.#durable = Math.max(this.#durable, records);
  }

  /** R3, R4. What is pending stays pending. */
  async #checkpoint(): Promise<void> {
    await this.#written;
    if (this.#logged.size > 0) await this.#disk.flush();
    await Promise.all(this.#places());
    await this.begin(this.#superblock.epoch + 1);
    this.#durable = this.#records;
    this.#logged.clear();
    this.#used = 0;
    this.#sequence = 0;
  }

  /** R4. */
  async begin(epoch: number): Promise<void> {
    this.#superblock = { ...this.#superblock, epoch };
    const { offset, length } = superblockRange(this.#disk.capabilities.blockSize, epoch);
    await this.#disk.write(offset, encodeSuperblock(this.#superblock, length), { barrier: true });
  }

  /** Writes what is logged to its places, neighbours as one command. */
  #places(): Promise<void>[] {
    const { blockSize } = this.#layout;
    const blocks = [...this.#logged.keys()].sort((a, b) => a - b);
    const writes: Promise<void>[] = [];
    for (let at = 0; at < blocks.length; ) {
      let end = at + 1;
      while (end < blocks.length && blocks[end] === (blocks[end - 1] as number) + 1) end += 1;
      const images = blocks.slice(at, end).map((block) => this.#logged.get(block) as Uint8Array);
      writes.push(this.#disk.write((blocks[at] as number) * blockSize, images));
      at = end;
    }
    return writes;
  }

  /** How many blocks from there on follow each other on the disk and are not in memory. */
  #run(blocks: readonly number[], from: number): number {
    let count = 1;
    for (;;) {
      const block = blocks[from + count];
      if (block !== (blocks[from] as number) + count) return count;
      if (this.#pending.has(block) || this.#logged.has(block)) return count;
      count += 1;
    }
  }

  /**
   * The next record of the log, if it is whole (R1, R2). It is read block by block, and no further than it is whole, because what
   * is not read makes no difference: so a crash test has few cases to try.
   */
  async #next(): Promise<{ blocks: Map<number, Uint8Array>; length: number } | undefined> {
    const { blockSize, logBlocks, logStart } = this.#layout;
    const left = logBlocks - this.#used;
    const readLog = (at: number, count: number): Promise<Uint8Array> =>
      this.#disk.read((logStart + this.#used + at) * blockSize, count * blockSize);
    if (left < 2) return undefined;
    const mark = { epoch: this.#superblock.epoch, sequence: this.#sequence };
    const first = await readLog(0, 1);
    if (this.#used === 0) this.#checkEpoch(first);
    const count = recordCount(first, mark);
    if (count === undefined || count > left) return undefined;
    const headBlocks = recordHeadBlocks(count, blockSize);
    if (headBlocks + count > left) return undefined;
    const entries = decodeRecordHead(headBlocks > 1 ? await readLog(0, headBlocks) : first, count);
    if (!entries) return undefined;
    const blocks = new Map<number, Uint8Array>();
    for (const [i, { block, checksum }] of entries.entries()) {
      const image = await readLog(headBlocks + i, 1);
      if (crc32(image) !== checksum) return undefined;
      blocks.set(block, image);
    }
    return { blocks, length: headBlocks + count };
  }

  /** The superblock of the log's epoch was on the medium before the log was (R4). Without it the log would not count. */
  #checkEpoch(first: Uint8Array): void {
    const newest = recordEpoch(first);
    const { epoch } = this.#superblock;
    if (newest === undefined || newest <= epoch) return;
    throw new IoFailedError(
      `a superblock of the directory is damaged: its log is of epoch ${newest}, and the newest superblock of epoch ${epoch}`,
    );
  }

  /** R6. */
  async #attempt(run: () => Promise<unknown>): Promise<void> {
    try {
      await run();
    } catch (cause) {
      this.#failure ??= { cause };
      throw cause;
    }
  }
}
