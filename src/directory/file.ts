// A file of a directory, as its user holds it: a name, a size, and operations that the directory carries out in their order.

import { checkArgument, formatValue, type Rule, wholeNumber, withText } from 'write-barrier/kit';
import type { Entry } from './table.js';

/** Rule of offsets and lengths, in bytes. */
export const LENGTH: Rule = wholeNumber();

/** An offset in bytes, and what is to be there. */
export type Write = readonly [offset: number, data: Uint8Array];

/** What a file asks of its directory. */
export interface Operations {
  read(entry: Entry, offset: number, length: number): Promise<Uint8Array>;
  write(entry: Entry, offset: number | undefined, data: Uint8Array): Promise<number>;
  writeAll(entry: Entry, writes: readonly Write[]): Promise<void>;
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

  /**
   * Writes several ranges as one operation: after a power cut all of them are there, or none. Where two have a byte, the later one counts.
   *
   * @param writes pairs of an offset in bytes and the data
   * @throws as `write`; `NO_SPACE` also if the log cannot hold all of them at once
   */
  writeAll(writes: readonly (readonly [offset: number, data: Uint8Array])[]): Promise<void> {
    return this.#operations.writeAll(this.#entry, writes);
  }

  /** Cuts the file, or extends it with zeroes. @throws as `write` */
  truncate(size: number): Promise<void> {
    return this.#operations.truncate(this.#entry, size);
  }
}
