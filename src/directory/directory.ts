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
//       which are there in their order.
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
import {
  decodeSuperblock,
  type Layout,
  layoutOf,
  SLOT,
  type Superblock,
  superblockRange,
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
  /** In bytes, blocks of the disk: what a file takes is a multiple of it. @defaultValue 4096, or a block of the disk if that is larger */
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
const LENGTH = wholeNumber();

/** What a file asks of its directory. */
interface Operations {
  read(entry: Entry, offset: number, length: number): Promise<Uint8Array>;
  write(entry: Entry, offset: number | undefined, data: Uint8Array): Promise<number>;
  truncate(entry: Entry, size: number): Promise<void>;
}

/** A file of a `Directory`. It needs no closing. */
export class DirectoryFile {
  readonly #entry: Entry;
  readonly #operations: Operations;

  /** @internal */
  constructor(entry: Entry, operations: Operations) {
    this.#entry = entry;
    this.#operations = operations;
    withText(this, () => `DirectoryFile { ${formatValue(this.name)}, ${this.size} bytes }`);
  }

  /** The name that the file has now. */
  get name(): string {
    return this.#entry.name;
  }

  /** In bytes, after the operations that were answered. */
  get size(): number {
    return this.#entry.size;
  }

  /**
   * Reads bytes; it sees all that was called before. Answers with fewer where the file ends, and with none behind its end.
   *
   * @param offset in bytes, any
   * @throws `INVALID_ARGUMENT`, also for a file that was removed; `CLOSED`, `FAILED`, and what the disk throws
   */
  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#operations.read(this.#entry, offset, length);
  }

  /**
   * Writes bytes, and extends the file if they go beyond its end. What lies between the old end and `offset` reads as zero.
   * `data` must not change before the answer. The answer says that the directory has the bytes; `sync()` makes them durable.
   *
   * @param offset in bytes, any
   * @throws as `read`; `NO_SPACE` if there are not enough free blocks, and then nothing was written
   */
  async write(offset: number, data: Uint8Array): Promise<void> {
    checkArgument('offset', offset, LENGTH);
    await this.#operations.write(this.#entry, offset, data);
  }

  /** Writes at the end of the file, as `write` does. Answers with the offset. Appends at once have places of their own. */
  append(data: Uint8Array): Promise<number> {
    return this.#operations.write(this.#entry, undefined, data);
  }

  /** Cuts the file, or extends it with zeroes. @throws as `write` */
  truncate(size: number): Promise<void> {
    return this.#operations.truncate(this.#entry, size);
  }
}

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
  #closed = false;

  /**
   * Opens the directory that fills the disk of a scheduler, and finishes what a power cut has interrupted. Nothing else may write to
   * that disk.
   *
   * @throws `EOPNOTSUPP` for a mode that does not order what is on the medium, as NONE
   * @throws `INVALID_ARGUMENT` for unknown options, and for a disk that has no directory, and may not get one
   * @throws `IO_FAILED` for a table that is damaged; what the disk throws
   */
  static async open(disk: IoScheduler, options: DirectoryOptions = {}): Promise<Directory> {
    checkOptions(options, OPTIONS, 'Directory.open');
    checkArgument('disk', disk, SCHEDULER);
    const { preBeforeBarrier, barrierBeforePost, mode } = disk.guarantees;
    if (preBeforeBarrier !== 'yes' || barrierBeforePost !== 'yes') {
      throw unsupported(`a directory in mode ${mode}, which orders nothing on the medium,`);
    }
    const deviceBlock = disk.capabilities.blockSize;
    const heads = await Promise.all([readHead(disk, 0), readHead(disk, 1)]);
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
    const layout = layoutOf(superblock, deviceBlock);
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
   * @param name 1 to 112 bytes of UTF-8; any characters
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
  async close(): Promise<void> {
    if (this.#closed) return;
    const synced = this.sync();
    this.#closed = true;
    await synced;
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
    checkArgument('data', data, BYTES);
    const length = data.byteLength;
    return this.#inTurn(async () => {
      this.#checkThere(entry);
      // A buffer that was transferred to another thread meanwhile has no bytes, and to write none would be no answer to its caller.
      if (data.byteLength !== length) {
        throw misuse(`the buffer of a write of ${length} bytes has ${data.byteLength} now`);
      }
      const offset = at ?? entry.size;
      await this.#change(entry, offset, length, data);
      return offset;
    });
  }

  #truncate(entry: Entry, size: number): Promise<void> {
    return this.#inTurn(async () => {
      checkArgument('size', size, LENGTH);
      this.#checkThere(entry);
      if (size > entry.size) return this.#change(entry, entry.size, size - entry.size);
      await this.#makeRoom(0);
      for (const block of this.#table.resize(entry, size)) this.#log.free(block);
      this.#publish();
    });
  }

  /** Writes data, or zeroes; the bytes between the end of the file and `offset` become zero (D4). */
  async #change(entry: Entry, offset: number, length: number, data?: Uint8Array): Promise<void> {
    if (length === 0) return;
    const end = offset + length;
    this.#checkSpace(this.#table.needed(entry, end));
    const start = Math.min(offset, entry.size);
    const { blockSize } = this.#layout;
    const first = Math.floor(start / blockSize);
    const last = Math.ceil(end / blockSize);
    const pieceMax = await this.#makeRoom(last - first);
    for (let from = first; from < last; from += pieceMax) {
      const to = Math.min(last, from + pieceMax);
      if (from > first) await this.#makeRoom(to - from);
      await this.#changeBlocks(entry, { from, to, offset, end, data });
    }
  }

  /** One piece of a change: blocks of the file from `from` to `to`, all in one record. */
  async #changeBlocks(entry: Entry, { from, to, offset, end, data }: Piece): Promise<void> {
    const { blockSize } = this.#layout;
    const images = new Uint8Array((to - from) * blockSize);
    const base = from * blockSize;
    // Only the outer blocks can have bytes that stay.
    for (const i of new Set([from, to - 1])) {
      const at = i * blockSize;
      const isCovered =
        offset <= at && Math.min(end, entry.size) >= Math.min(at + blockSize, entry.size);
      const block = entry.blocks[i];
      if (isCovered || block === undefined) continue;
      const old = await this.#log.read([block]);
      images.set(old.subarray(0, Math.max(0, Math.min(blockSize, entry.size - at))), at - base);
    }
    const [writeFrom, writeTo] = [Math.max(offset, base), Math.min(end, to * blockSize)];
    if (writeTo > writeFrom) {
      const piece = images.subarray(writeFrom - base, writeTo - base);
      if (data) piece.set(data.subarray(writeFrom - offset, writeTo - offset));
      else piece.fill(0);
    }
    const size = Math.min(end, to * blockSize);
    if (size > entry.size) this.#table.resize(entry, size);
    for (let i = from; i < to; i++) {
      const at = i * blockSize - base;
      this.#log.put(entry.blocks[i] as number, images.subarray(at, at + blockSize));
    }
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
    throw new WriteBarrierError(
      'NO_SPACE',
      `${needed * blockSize} bytes are needed, and ${free * blockSize} are free; nothing was written`,
    );
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

/** A part of a write, in blocks of its file; `offset` and `end` are those of the whole write, in bytes. */
interface Piece {
  readonly from: number;
  readonly to: number;
  readonly offset: number;
  readonly end: number;
  readonly data: Uint8Array | undefined;
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
  return { blockSize, size: disk.size, logBlocks, slotBlocks, epoch: 1 };
}

function readHead(disk: IoScheduler, turn: number): Promise<Uint8Array> {
  const { offset, length } = superblockRange(disk.capabilities.blockSize, turn);
  if (offset + length > disk.size) {
    throw misuse(`a disk of ${disk.size} bytes is too small for a directory`);
  }
  return disk.read(offset, length);
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
