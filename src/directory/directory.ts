// A directory of files on one disk: names, growth and deletion behind one order, under one scheduler.
//
// For programs that need several files and an order among them: a log, tables and a manifest; SQLite's database and its journal.
// On a file system such an order costs an fsync for each step. Here all files share one log (redo-log.ts), so order costs nothing,
// and a sync of all files is one flush.
//
//   D1  Operations take effect one after the other, in the order of their calls. After a power cut the directory is what it was
//       after some of them: all up to one, and none after it. No file is ahead of another.
//   D2  What was called before `sync()` is there after a power cut once it was answered.
//   D3  Each operation is there as a whole or not at all. Only a write that the log cannot hold beside the table is cut into pieces,
//       which are there in their order. `writeAll` is refused instead, because its caller relies on it.
//   D4  A byte of a file is what was last written to it, or zero if it never was, whatever the disk held there: what a block is
//       given with is written with the table that gives it, in one record.
//   D5  An operation that is refused has changed nothing.
//
// Until a sync, `writeOut()` or a full log, changes are in memory only, so the end of the process loses them, too; D1 holds
// also then.
//
// Simpler designs do not hold. Two superblocks in turn with a table of extents keep the table whole, but a write into a block that
// the table has already is then free to arrive before or after any other; a barrier behind each costs a flush. Zeroing freed blocks
// behind their deletion costs a barrier and a write of what may be large. With a log both are parts of records that are written anyway,
// for the price of writing data twice.
//
// Not here: folders, times, locks; sharing the disk, because nothing else may write where the directory is.

import { type IoScheduler, WriteBarrierError } from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  formatValue,
  isBytes,
  type KnownOptions,
  misuse,
  rule,
  unsupported,
  wholeNumber,
  withText,
} from 'write-barrier/kit';
import { DirectoryFile, LENGTH, type Write } from './file.js';
import {
  decodeSuperblock,
  type Layout,
  layoutOf,
  SLOT,
  type Superblock,
  superblockRange,
  superblockSpan,
} from './layout.js';
import { RedoLog } from './redo-log.js';
import { checkName, type Entry, Table } from './table.js';

/** Options of `Directory.open`. All but `create` are about a directory that is made; one that is there keeps its own. */
export interface DirectoryOptions {
  /**
   * Makes a directory where the disk holds zeroes. A disk that holds something else is refused.
   *
   * @defaultValue false
   */
  readonly create?: boolean;
  /**
   * In bytes, whole blocks of the disk and a multiple of 128: what a file takes is a multiple of it.
   *
   * @defaultValue 4096, or a block of the disk if that is larger
   */
  readonly blockSize?: number;
  /**
   * In bytes. A longer log is emptied more rarely, and takes larger writes as a whole; what is in it is also in memory.
   *
   * @defaultValue a sixteenth of the disk, at most 4 MiB, and as long as the table of the files needs
   */
  readonly logSize?: number;
  /** How many files there may be at once. @defaultValue 128 */
  readonly filesMax?: number;
}

const OPTIONS: KnownOptions<DirectoryOptions> = {
  create: BOOLEAN,
  blockSize: wholeNumber(128),
  logSize: wholeNumber(1),
  filesMax: wholeNumber(1, 65_536),
};

const SCHEDULER = rule(
  (value) => typeof Object(value).asStorage === 'function',
  'an IoScheduler: new IoScheduler(storage) makes one',
);
const BYTES = rule(isBytes, 'a Uint8Array');

const WRITES = rule(
  (value) => Array.isArray(value) && value.every((write) => Array.isArray(write)),
  'a list of pairs, each an offset and a Uint8Array',
);

/**
 * Files on one disk with one order among all of them: after a power cut they are as they were after some operation, with all
 * operations before it and none after it. A sync of all files is one flush.
 *
 * @example
 * ```ts
 * const files = await Directory.open(new IoScheduler(storage), { create: true });
 * const log = await files.open('log');
 * await log.append(record);
 * await files.sync();
 * ```
 */
export class Directory implements AsyncDisposable {
  readonly #layout: Layout;
  readonly #log: RedoLog;
  readonly #table: Table;
  readonly #files = new Map<Entry, DirectoryFile>();
  /** D1: settles when all operations that were called have taken effect. */
  #turn: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  /**
   * Opens the directory that fills the disk of a scheduler, and finishes what a power cut has interrupted. Nothing else may write to
   * that disk.
   *
   * @throws `EOPNOTSUPP` for a mode that does not order what is on the medium, as NONE
   * @throws `INVALID_ARGUMENT` for unknown options, and for a disk that has no directory, and may not get one
   * @throws `IO_FAILED` for a table or a superblock that is damaged; what the disk throws
   */
  static async open(disk: IoScheduler, options: DirectoryOptions = {}): Promise<Directory> {
    checkOptions(options, OPTIONS, 'Directory.open');
    checkArgument('disk', disk, SCHEDULER);
    const { preBeforeBarrier, barrierBeforePost, mode } = disk.guarantees;
    if (preBeforeBarrier !== 'yes' || barrierBeforePost !== 'yes') {
      throw unsupported(`a directory in mode ${mode}, which orders nothing on the medium,`);
    }
    const deviceBlock = disk.capabilities.blockSize;
    const { offset, length } = superblockRange(deviceBlock, 1);
    if (offset + length > disk.size) {
      throw misuse(`a disk of ${disk.size} bytes is too small for a directory`);
    }
    const heads = await Promise.all([disk.read(0, length), disk.read(offset, length)]);
    const found = heads
      .map((head) => decodeSuperblock(head))
      .filter((superblock) => superblock !== undefined)
      .sort((a, b) => b.epoch - a.epoch);
    const [newest] = found;
    const superblock = newest ?? planOf(disk, options);
    if (superblock.size > disk.size || superblock.blockSize % deviceBlock !== 0) {
      const { size, blockSize } = superblock;
      throw misuse(
        `a directory of ${size} bytes in blocks of ${blockSize} does not fit a disk of ${disk.size} in blocks of ${deviceBlock}`,
      );
    }
    if (superblock.span !== superblockSpan(deviceBlock)) {
      throw misuse(
        `the directory was made on a disk of other blocks than ${deviceBlock} bytes, so its second superblock is elsewhere`,
      );
    }
    const layout = layoutOf(superblock);
    const log = new RedoLog(disk, layout, superblock);
    if (newest) await log.replay();
    else {
      if (heads.some((head) => head.some((byte) => byte !== 0))) {
        throw misuse('the disk holds something that is no directory: zero its first blocks first');
      }
      await format(disk, layout);
      await log.begin(superblock.epoch);
    }
    return new Directory(layout, log, new Table(layout, await readTable(disk, layout)));
  }

  private constructor(layout: Layout, log: RedoLog, table: Table) {
    this.#layout = layout;
    this.#log = log;
    this.#table = table;
    withText(this, () => {
      const state = this.#closed ? ', closed' : '';
      return `Directory { ${this.names.length} files, ${this.free} bytes free${state} }`;
    });
  }

  /** The names of all files, after the operations that were answered. */
  get names(): string[] {
    return this.#table.names;
  }

  /** In bytes: what is left for files, after the operations that were answered. */
  get free(): number {
    return this.#table.free * this.#layout.blockSize;
  }

  /** Whether there is a file of that name, after the operations that were answered. */
  has(name: string): boolean {
    return this.#table.get(name) !== undefined;
  }

  /**
   * A file. One that is missing is made, and is empty.
   *
   * @param name 1 to 112 bytes of UTF-8; any characters, but no half of a surrogate pair, because UTF-8 has none
   * @throws `INVALID_ARGUMENT`, `CLOSED`, `FAILED`; `NO_SPACE` if there are as many files as there may be
   */
  open(name: string): Promise<DirectoryFile> {
    return this.#inTurn(async () => {
      checkName(name);
      const known = this.#table.get(name);
      if (known) return this.#fileOf(known);
      await this.#makeRoom(0);
      const entry = this.#table.create(name);
      this.#publish();
      return this.#fileOf(entry);
    });
  }

  /** Removes a file. @throws `INVALID_ARGUMENT` if there is none of that name; `CLOSED`, `FAILED` */
  remove(name: string): Promise<void> {
    return this.#inTurn(async () => {
      const entry = this.#entry(name);
      await this.#makeRoom(0);
      this.#drop(entry);
      this.#publish();
    });
  }

  /** Gives a file another name. A file that has it is removed, in the same operation. @throws as `remove` */
  rename(from: string, to: string): Promise<void> {
    return this.#inTurn(async () => {
      checkName(to);
      const entry = this.#entry(from);
      const replaced = this.#table.get(to);
      await this.#makeRoom(0);
      if (replaced && replaced !== entry) this.#drop(replaced);
      this.#table.rename(entry, to);
      this.#publish();
    });
  }

  /**
   * Makes durable all that was called before, in all files (D2). It costs one flush, which calls at once share, and none where nothing has
   * changed.
   *
   * @throws `CLOSED`; `FAILED` and what the disk throws. Then open the directory again to see what is there
   */
  async sync(): Promise<void> {
    const { durable } = await this.#inTurn(async () => {
      await this.#log.record();
      return { durable: this.#log.durable() };
    });
    await durable;
  }

  /** Hands all that was called before to the disk, without a flush: the end of the process no longer loses it, a power cut may. */
  async writeOut(): Promise<void> {
    const { written } = await this.#inTurn(async () => {
      await this.#log.record();
      return { written: this.#log.written() };
    });
    await written;
  }

  /** Syncs, and takes no more operations. The scheduler stays open, because it is yours. */
  close(): Promise<void> {
    this.#closed ??= this.sync();
    return this.#closed;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #fileOf(entry: Entry): DirectoryFile {
    const known = this.#files.get(entry);
    if (known) return known;
    const file = new DirectoryFile(entry, {
      read: (...args) => this.#read(...args),
      write: (...args) => this.#write(...args),
      writeAll: (...args) => this.#writeAll(...args),
      truncate: (...args) => this.#truncate(...args),
    });
    this.#files.set(entry, file);
    return file;
  }

  async #read(entry: Entry, offset: number, length: number): Promise<Uint8Array> {
    checkArgument('offset', offset, LENGTH);
    checkArgument('length', length, LENGTH);
    const { blockSize } = this.#layout;
    const { bytes, skip, count } = await this.#inTurn(async () => {
      this.#checkThere(entry);
      const present = Math.max(0, Math.min(length, entry.size - offset));
      const first = Math.floor(offset / blockSize);
      const end = Math.ceil((offset + present) / blockSize);
      const blocks = present > 0 ? entry.blocks.slice(first, end) : [];
      // The disk is asked in turn, and answers out of turn, so reads run at once.
      return { bytes: this.#log.read(blocks), skip: offset - first * blockSize, count: present };
    });
    return (await bytes).subarray(skip, skip + count);
  }

  async #write(entry: Entry, at: number | undefined, data: Uint8Array): Promise<number> {
    const check = sizeKeeper(data);
    return this.#inTurn(async () => {
      this.#checkThere(entry);
      const length = check();
      const offset = at ?? entry.size;
      await this.#change(entry, { offset, end: offset + length, data });
      return offset;
    });
  }

  async #writeAll(entry: Entry, writes: readonly Write[]): Promise<void> {
    checkArgument('writes', writes, WRITES);
    const wanted = writes.map(([offset, data]) => {
      checkArgument('offset', offset, LENGTH);
      return { offset, data, check: sizeKeeper(data) };
    });
    return this.#inTurn(async () => {
      this.#checkThere(entry);
      const changes = wanted
        .map(({ offset, data, check }) => ({ offset, end: offset + check(), data }))
        .filter(({ offset, end }) => end > offset);
      if (changes.length === 0) return;
      const blocks = this.#blocksOf(entry, changes);
      const most = await this.#makeRoom(blocks.length);
      if (blocks.length > most) {
        const { blockSize } = this.#layout;
        throw noSpace(
          `the writes change ${blocks.length * blockSize} bytes, and the log holds ${most * blockSize} at once`,
        );
      }
      await this.#changeBlocks(entry, blocks, changes);
    });
  }

  #truncate(entry: Entry, size: number): Promise<void> {
    return this.#inTurn(async () => {
      checkArgument('size', size, LENGTH);
      this.#checkThere(entry);
      if (size > entry.size) return this.#change(entry, { offset: entry.size, end: size });
      await this.#makeRoom(0);
      for (const block of this.#table.resize(entry, size)) this.#log.free(block);
      this.#publish();
    });
  }

  /** Of as many blocks at once as the log can hold (D3). */
  async #change(entry: Entry, change: Change): Promise<void> {
    if (change.end === change.offset) return;
    const blocks = this.#blocksOf(entry, [change]);
    const most = await this.#makeRoom(blocks.length);
    for (let at = 0; at < blocks.length; at += most) {
      const piece = blocks.slice(at, at + most);
      if (at > 0) await this.#makeRoom(piece.length);
      await this.#changeBlocks(entry, piece, [change]);
    }
  }

  /**
   * Which blocks of the file change, ascending: also those between its end and a change behind it, because bytes there become zero
   * (D4).
   *
   * @throws `NO_SPACE`
   */
  #blocksOf(entry: Entry, changes: readonly Change[]): number[] {
    const { blockSize } = this.#layout;
    this.#checkSpace(this.#table.needed(entry, endOf(changes)));
    const blocks = new Set<number>();
    let { size } = entry;
    for (const { offset, end } of changes) {
      const last = Math.ceil(end / blockSize);
      for (let i = Math.floor(Math.min(offset, size) / blockSize); i < last; i++) blocks.add(i);
      size = Math.max(size, end);
    }
    return [...blocks].sort((a, b) => a - b);
  }

  /** Carries out what the changes say of these blocks of the file, in one record. A read that fails has changed nothing (D5). */
  async #changeBlocks(
    entry: Entry,
    blocks: readonly number[],
    changes: readonly Change[],
  ): Promise<void> {
    const { blockSize } = this.#layout;
    const memory = new Uint8Array(blocks.length * blockSize);
    const images = new Map(
      blocks.map((i, n) => [i, memory.subarray(n * blockSize, (n + 1) * blockSize)] as const),
    );
    const kept = blocks.filter((i) => {
      const at = i * blockSize;
      const there = Math.min(at + blockSize, entry.size);
      return there > at && !changes.some(({ offset, end }) => offset <= at && end >= there);
    });
    const old = await this.#log.read(kept.map((i) => entry.blocks[i] as number));
    for (const [n, i] of kept.entries()) {
      const there = Math.min(blockSize, entry.size - i * blockSize);
      images.get(i)?.set(old.subarray(n * blockSize, n * blockSize + there));
    }
    const [first, last] = [blocks[0] as number, blocks.at(-1) as number];
    for (const { offset, end, data } of changes) {
      const until = Math.min(last + 1, Math.ceil(end / blockSize));
      for (let i = Math.max(first, Math.floor(offset / blockSize)); i < until; i++) {
        const at = i * blockSize;
        const [from, to] = [Math.max(offset, at), Math.min(end, at + blockSize)];
        const part = images.get(i)?.subarray(from - at, to - at);
        if (data) part?.set(data.subarray(from - offset, to - offset));
        else part?.fill(0);
      }
    }
    const size = Math.min(endOf(changes), (last + 1) * blockSize);
    if (size > entry.size) this.#table.resize(entry, size);
    for (const [i, image] of images) this.#log.put(entry.blocks[i] as number, image);
    this.#publish();
  }

  /**
   * Records what is pending if the operation that comes might not fit beside it (D3). Answers how many blocks of data may come in one
   * record, at least 1.
   */
  async #makeRoom(dataBlocks: number): Promise<number> {
    const { slotBlocks, fatBlocks } = this.#layout;
    const table = slotBlocks + fatBlocks;
    if (this.#log.room < dataBlocks + table) await this.#log.record();
    return this.#log.room - table;
  }

  #checkSpace(needed: number): void {
    const { free } = this.#table;
    if (needed <= free) return;
    const { blockSize } = this.#layout;
    throw noSpace(`${needed * blockSize} bytes are needed, and ${free * blockSize} are free`);
  }

  #drop(entry: Entry): void {
    for (const block of this.#table.remove(entry)) this.#log.free(block);
    this.#files.delete(entry);
  }

  #publish(): void {
    for (const [block, image] of this.#table.changes()) this.#log.put(block, image);
  }

  #entry(name: string): Entry {
    checkName(name);
    const entry = this.#table.get(name);
    if (!entry) throw misuse(`there is no file ${formatValue(name)}`);
    return entry;
  }

  #checkThere(entry: Entry): void {
    if (this.#table.get(entry.name) === entry) return;
    throw misuse(`the file ${formatValue(entry.name)} was removed`);
  }

  /** D1. */
  async #inTurn<T>(run: () => Promise<T>): Promise<T> {
    if (this.#closed) throw new WriteBarrierError('CLOSED', 'the directory is closed');
    const result = this.#turn.then(() => {
      this.#log.check();
      return run();
    });
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

/** Bytes of a file from `offset` to `end`; zeroes without `data`. */
interface Change {
  readonly offset: number;
  readonly end: number;
  readonly data?: Uint8Array;
}

function endOf(changes: readonly Change[]): number {
  return changes.reduce((most, { end }) => Math.max(most, end), 0);
}

function noSpace(why: string): WriteBarrierError {
  return new WriteBarrierError('NO_SPACE', `${why}; nothing was written`);
}

const LOG_MAX = 4 * 1024 * 1024;

/** What a new directory is to be. */
function planOf(disk: IoScheduler, options: DirectoryOptions): Superblock {
  if (!options.create) throw misuse('the disk has no directory: pass create: true to make one');
  const deviceBlock = disk.capabilities.blockSize;
  const { blockSize = Math.max(4096, deviceBlock), filesMax = 128 } = options;
  const slotBlocks = Math.ceil((filesMax * SLOT) / blockSize);
  const fatBlocks = Math.ceil((4 * Math.floor(disk.size / blockSize)) / blockSize);
  // Twice the table, so that an operation fits beside those before it.
  const least = 2 * (slotBlocks + fatBlocks) + 16;
  const sixteenth = Math.min(LOG_MAX, disk.size / 16);
  const { logSize = Math.max(sixteenth, least * blockSize) } = options;
  const logBlocks = Math.floor(logSize / blockSize);
  const span = superblockSpan(deviceBlock);
  return { blockSize, size: disk.size, span, logBlocks, slotBlocks, epoch: 1 };
}

/**
 * Zeroes the table, and the log, where an earlier directory may have left records. The superblock that follows is a barrier, so they are
 * zero before it.
 */
async function format(
  disk: IoScheduler,
  { blockSize, logStart, dataStart }: Layout,
): Promise<void> {
  await disk.writeZeroes(logStart * blockSize, (dataStart - logStart) * blockSize);
}

function readTable(disk: IoScheduler, layout: Layout): Promise<Uint8Array> {
  const { blockSize, tableStart, slotBlocks, fatBlocks } = layout;
  return disk.read(tableStart * blockSize, (slotBlocks + fatBlocks) * blockSize);
}

/**
 * Answers with the size of a buffer, and refuses one that has another when its turn comes: one that was transferred to another thread
 * has no bytes, and to write none would be no answer to its caller.
 */
function sizeKeeper(data: Uint8Array): () => number {
  checkArgument('data', data, BYTES);
  const length = data.byteLength;
  return () => {
    if (data.byteLength === length) return length;
    throw misuse(`the buffer of a write of ${length} bytes has ${data.byteLength} now`);
  };
}
