// The table of a directory: which files there are, and which blocks they have.
//
// One slot for each file: its size, its first block, its name. One number for each data block: 0 if it is free, 1 if it is the last of
// its file, otherwise 2 more than the number of the block that follows. All of it is in memory, and blocks of it that change are
// written whole.
//
//   T1  A block is free or belongs to one file.
//   T2  A file has as many blocks as its size needs, and no more.
//   T3  Blocks are given out in the order of their numbers, starting behind the last one that was given out, so that a file that
//       grows by itself is in one piece, and a block that was freed is not used at once.
//
// Not here: what the blocks hold (directory.ts), when the table is written (redo-log.ts).

import { IoFailedError, WriteBarrierError } from 'write-barrier';
import { formatValue, misuse } from 'write-barrier/kit';
import { type Layout, NAME_MAX, SLOT, viewOf } from './layout.js';

const FREE = 0;
const LAST = 1;
const NEXT = 2;

/** What the table says of a file. */
export interface Entry {
  readonly slot: number;
  name: string;
  /** In bytes. */
  size: number;
  /** Its blocks, by their numbers on the disk. */
  readonly blocks: number[];
}

export class Table {
  readonly #layout: Layout;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #entries = new Map<string, Entry>();
  readonly #freeSlots: number[] = [];
  readonly #touched = new Set<number>();
  /** T3. */
  #from = 0;
  #free = 0;

  /** @throws `IO_FAILED` for bytes that are no table, because T1 or T2 does not hold */
  constructor(layout: Layout, bytes: Uint8Array) {
    this.#layout = layout;
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    const owned = new Set<number>();
    for (let slot = 0; slot < this.#slots; slot++) {
      const entry = this.#decode(slot, owned);
      if (!entry) this.#freeSlots.push(slot);
      else if (this.#entries.has(entry.name)) throw damaged(`two files are called ${entry.name}`);
      else this.#entries.set(entry.name, entry);
    }
    this.#freeSlots.reverse();
    for (let i = 0; i < layout.dataBlocks; i++) {
      if (this.#link(i) === FREE) this.#free += 1;
      else if (!owned.has(i)) throw damaged(`block ${i} belongs to no file`);
    }
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  /** Free blocks. */
  get free(): number {
    return this.#free;
  }

  get(name: string): Entry | undefined {
    return this.#entries.get(name);
  }

  /** @throws `NO_SPACE` if every slot is taken */
  create(name: string): Entry {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) {
      throw new WriteBarrierError('NO_SPACE', `the directory holds ${this.#slots} files at most`);
    }
    const entry: Entry = { slot, name, size: 0, blocks: [] };
    this.#entries.set(name, entry);
    this.#encode(entry);
    return entry;
  }

  /** Answers the blocks that are free now. */
  remove(entry: Entry): number[] {
    const freed = this.resize(entry, 0);
    this.#entries.delete(entry.name);
    this.#freeSlots.push(entry.slot);
    this.#bytes.fill(0, entry.slot * SLOT, (entry.slot + 1) * SLOT);
    this.#touch(entry.slot * SLOT);
    return freed;
  }

  rename(entry: Entry, name: string): void {
    this.#entries.delete(entry.name);
    entry.name = name;
    this.#entries.set(name, entry);
    this.#encode(entry);
  }

  /** Answers the blocks that are free now; there must be as many free ones as it takes (`needed`). */
  resize(entry: Entry, size: number): number[] {
    const { blockSize, dataStart } = this.#layout;
    const count = Math.ceil(size / blockSize);
    const { blocks } = entry;
    const freed = blocks.splice(count);
    for (const block of freed) this.#setLink(block - dataStart, FREE);
    this.#free += freed.length;
    if (freed.length > 0 && count > 0)
      this.#setLink((blocks[count - 1] as number) - dataStart, LAST);
    while (blocks.length < count) {
      const taken = this.#take();
      const last = blocks.at(-1);
      if (last !== undefined) this.#setLink(last - dataStart, taken + NEXT);
      blocks.push(dataStart + taken);
    }
    entry.size = size;
    this.#encode(entry);
    return freed;
  }

  /** How many more blocks a file of that size needs. */
  needed({ blocks }: Entry, size: number): number {
    return Math.max(0, Math.ceil(size / this.#layout.blockSize) - blocks.length);
  }

  /** The blocks of the table that have changed since the last call, by their numbers on the disk. */
  *changes(): Generator<readonly [block: number, image: Uint8Array]> {
    const { blockSize, tableStart } = this.#layout;
    for (const i of this.#touched) {
      yield [tableStart + i, this.#bytes.slice(i * blockSize, (i + 1) * blockSize)];
    }
    this.#touched.clear();
  }

  get #slots(): number {
    const { slotBlocks, blockSize } = this.#layout;
    return Math.floor((slotBlocks * blockSize) / SLOT);
  }

  #take(): number {
    const { dataBlocks } = this.#layout;
    let i = this.#from;
    while (this.#link(i) !== FREE) i = (i + 1) % dataBlocks;
    this.#from = (i + 1) % dataBlocks;
    this.#free -= 1;
    this.#setLink(i, LAST);
    return i;
  }

  #link(i: number): number {
    return this.#view.getUint32(this.#linkAt(i), true);
  }

  #setLink(i: number, link: number): void {
    this.#view.setUint32(this.#linkAt(i), link, true);
    this.#touch(this.#linkAt(i));
  }

  #linkAt(i: number): number {
    return this.#layout.slotBlocks * this.#layout.blockSize + 4 * i;
  }

  #touch(at: number): void {
    this.#touched.add(Math.floor(at / this.#layout.blockSize));
  }

  #encode({ slot, name, size, blocks }: Entry): void {
    const at = slot * SLOT;
    const text = new TextEncoder().encode(name);
    const first = blocks[0];
    this.#view.setFloat64(at, size, true);
    this.#view.setUint32(
      at + 8,
      first === undefined ? LAST : first - this.#layout.dataStart + NEXT,
      true,
    );
    this.#view.setUint32(at + 12, text.length, true);
    this.#bytes.fill(0, at + 16, at + SLOT);
    this.#bytes.set(text, at + 16);
    this.#touch(at);
  }

  #decode(slot: number, owned: Set<number>): Entry | undefined {
    const at = slot * SLOT;
    const length = this.#view.getUint32(at + 12, true);
    if (length === 0) return undefined;
    if (length > NAME_MAX) throw damaged(`slot ${slot} has no name`);
    const { dataStart, dataBlocks, blockSize } = this.#layout;
    const name = nameOf(this.#bytes.subarray(at + 16, at + 16 + length));
    if (name === undefined) throw damaged(`slot ${slot} has no name`);
    const size = this.#view.getFloat64(at, true);
    const blocks: number[] = [];
    for (let link = this.#view.getUint32(at + 8, true); link !== LAST; ) {
      const i = link - NEXT;
      if (i < 0 || i >= dataBlocks || owned.has(i)) throw damaged(`${name} has no end`);
      owned.add(i);
      blocks.push(dataStart + i);
      link = this.#link(i);
    }
    const isRight = Number.isSafeInteger(size) && blocks.length === Math.ceil(size / blockSize);
    if (!isRight || size < 0) throw damaged(`${name} has a wrong size`);
    return { slot, name, size, blocks };
  }
}

/** @throws `INVALID_ARGUMENT` */
export function checkName(name: unknown): asserts name is string {
  const bytes = typeof name === 'string' ? new TextEncoder().encode(name) : [];
  if (bytes.length >= 1 && bytes.length <= NAME_MAX && nameOf(bytes as Uint8Array) === name) return;
  throw misuse(
    `the name of a file must be a string of 1 to ${NAME_MAX} bytes of UTF-8, without half a surrogate pair, not ${formatValue(name)}`,
  );
}

/** Just the characters, also a mark of byte order at the start; undefined for what is not UTF-8. */
function nameOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function damaged(what: string): IoFailedError {
  return new IoFailedError(`the table of the directory is damaged: ${what}`);
}
