// One test of the storage contract: a storage of its own, and the functions that test it.
//
// Each write writes a pattern with a number, and not the same byte throughout, so that bytes in the wrong place are found.
// The patterns of two numbers differ in every byte.
//
// A failure is an error whose message begins with the clause and says what was expected and what was found. Any other error
// in a test, of a command that fails for instance, is wrapped in such an error, as its cause.

import { messageOf } from '../../model/error.js';
import type { Tag } from '../../model/index.js';
import type { Capabilities, Storage, Transfer, WriteFlags } from '../../storage/index.js';

/** A clause of the Storage contract. */
export type Clause = `S${1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13}`;

/** The storage under test. */
export interface ContractSubject {
  /** The subject of the sentence "... keeps the storage contract". */
  readonly name: string;
  /** The capabilities that it declares. They select the tests, and clause S11 compares them with those of the storage. */
  readonly capabilities: Capabilities;
  /** Opens a storage of at least 16 blocks that shares no bytes with those opened before. Called for every test. */
  open(): Opened | Promise<Opened>;
  /** The seed of the random tests, as a failure prints it. @defaultValue a new one each time */
  readonly seed?: number;
  /** The number of programs of each random test; each opens a storage. @defaultValue 20 */
  readonly runs?: number;
}

/** A storage for one test. */
export interface Opened {
  /** The storage under test. The suite closes it. */
  readonly storage: Storage;
  /** Opens the same medium again, after `close`. */
  readonly reopen?: () => Storage | Promise<Storage>;
  /**
   * Drops everything that a power cut would drop. The storage stays open, and then reads what is on the medium. Not called
   * while a command is running.
   */
  readonly forgetCaches?: () => void | Promise<void>;
  /** Removes what the test leaves behind. Called after the storage has been closed. */
  readonly cleanUp?: () => void | Promise<void>;
}

/** The commands that name a range: first those with a buffer. */
const RANGED = ['read', 'write', 'writev', 'discard', 'writeZeroes', 'blockStatus'] as const;
export type Ranged = (typeof RANGED)[number];

/** The number of blocks that the tests need. */
export const BLOCKS = 16;

/** The number of blocks at either end that are compared before and after a refused command. */
const WATCHED = 4;

/** A violation of a clause. */
export class Violation extends Error {
  override get name(): 'StorageContractError' {
    return 'StorageContractError';
  }
  /** The message without the clause. */
  readonly what: string;

  constructor(clause: Clause, what: string, options?: ErrorOptions) {
    super(`${clause}: ${what}`, options);
    this.what = what;
  }
}

/** Runs one test: its first failure, or undefined. The storage is closed and cleaned up in any case. */
export async function tried(
  clause: Clause,
  subject: ContractSubject,
  body: (trial: Trial) => Promise<void>,
): Promise<Violation | undefined> {
  const opened = await subject.open();
  const trial = new Trial(clause, subject.capabilities, opened);
  const failures: Violation[] = [];
  const attempt = async (what: string, run: () => unknown): Promise<void> => {
    try {
      await run();
    } catch (cause) {
      const text = `${what} should not fail, but: ${messageOf(cause)}`;
      failures.push(cause instanceof Violation ? cause : new Violation(clause, text, { cause }));
    }
  };
  await attempt('a legal command', async () => {
    trial.checkRoom();
    await body(trial);
  });
  await attempt('close', () => trial.close());
  await attempt('cleanUp', () => opened.cleanUp?.());
  return failures[0];
}

/** Calls all at once, in this order, and waits for all, so that no command is still running after a failure. */
export async function together<T>(calls: readonly (() => Promise<T>)[]): Promise<T[]> {
  const running = calls.map((call) => call());
  await Promise.allSettled(running);
  return Promise.all(running);
}

/** Whether an answered write may be lost. */
export function isVolatile({ cache }: Capabilities): boolean {
  return cache === 'volatile';
}

/** A storage under test. Places and lengths are in blocks unless they are called offset and length. */
export class Trial {
  /** The storage that was opened last. */
  storage: Storage;
  /** The size of a block in bytes. */
  readonly block: number;
  readonly #clause: Clause;
  readonly #opened: Opened;
  #closed = false;

  constructor(clause: Clause, { blockSize }: Capabilities, opened: Opened) {
    this.#clause = clause;
    this.#opened = opened;
    this.storage = opened.storage;
    this.block = blockSize;
  }

  /** Bytes with a number. Any two numbers below 256 apart differ at every place. */
  pattern(value: number, blocks = 1): Uint8Array {
    const bytes = new Uint8Array(blocks * this.block);
    for (let at = 0; at < bytes.length; at += 1) {
      bytes[at] = value * 31 + at * 7 + (at >> 8) * 13 + (at >> 16) * 29;
    }
    return bytes;
  }

  // Commands

  async write(
    at: number,
    value: number,
    { blocks = 1, fua = false, tag = 'simple' }: Partial<WriteFlags> & { blocks?: number } = {},
  ): Promise<void> {
    const data = this.pattern(value, blocks);
    this.answers(await this.storage.write(at * this.block, data, { fua, tag }), data, 'a write');
  }

  async read(at: number, blocks = 1): Promise<Uint8Array> {
    // Bytes that the storage does not fill are neither zero nor the old content.
    const into = new Uint8Array(blocks * this.block).fill(0xa5);
    this.answers(await this.storage.read(at * this.block, into), into, 'a read');
    for (let done = 0; this.storage.capabilities.blockStatus && done < into.length; ) {
      done += await this.#known(at * this.block + done, into.subarray(done));
    }
    return into;
  }

  /** S12: asks what is known of bytes that were read; returns how many of them the answer is about. */
  async #known(offset: number, bytes: Uint8Array): Promise<number> {
    let at = 0;
    for (const { length, zero } of (await this.storage.blockStatus?.(offset, bytes.length)) ?? []) {
      const named = bytes.subarray(at, at + length);
      const isWhole = named.length === length && length % this.block === 0;
      if (!isWhole || length === 0 || (zero && named.some(Boolean))) at = Infinity;
      at += length;
    }
    if (at > 0 && at <= bytes.length) return at;
    throw new Violation('S12', `the status of ${bytes.length} bytes at ${offset} is wrong`);
  }

  /** Changes the size, in bytes. The new one is seen when that is answered (S13). */
  async resize(size: number): Promise<void> {
    const { storage } = this;
    await storage.resize?.(size);
    if (storage.size === size) return;
    throw new Violation('S13', `after a resize to ${size} bytes the size is ${storage.size}`);
  }

  async flush(tag: Tag = 'simple'): Promise<void> {
    await this.storage.flush({ tag });
  }

  /** Calls a command that names a range; a writev has its payload in two buffers. */
  call(op: Ranged, offset: number, length: number, data: Uint8Array, fua = false): unknown {
    const { storage } = this;
    const flags = { fua, tag: 'simple' } as const;
    if (op === 'read') return storage.read(offset, data);
    if (op === 'write') return storage.write(offset, data, flags);
    // Not by `perform`, because no test has a command that the storage lacks, and emulation would hide a method.
    if (op !== 'writev') return storage[op]?.(offset, length);
    return storage.writev?.(offset, [data.subarray(0, 1), data.subarray(1)], flags);
  }

  /** Every command that names a range, with its name. No buffer has less than no bytes. */
  commands(offset: number, length: number): [what: string, call: () => unknown][] {
    const declared = { read: true, write: true, ...this.storage.capabilities };
    const ops = length < 0 ? RANGED.slice(3) : RANGED;
    const blocks = Math.max(0, Math.ceil(length / this.block));
    const data = this.pattern(77, blocks).subarray(0, Math.max(0, length));
    const named = ops.filter((op) => declared[op]);
    return named.map((op) => {
      const what = `a ${op} of ${length} bytes at ${offset}`;
      return [what, () => this.call(op, offset, length, data)];
    });
  }

  // The medium

  /** Closes the storage, once. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.storage.close();
    } catch (cause) {
      throw new Violation('S10', `close should not fail, but: ${messageOf(cause)}`, { cause });
    }
  }

  /** Closes the storage and opens the same medium again; false if the subject cannot. */
  async reopen(): Promise<boolean> {
    if (!this.#opened.reopen) return false;
    await this.close();
    this.storage = await this.#opened.reopen();
    this.#closed = false;
    return true;
  }

  /** Cuts the power; if the subject cannot, closes and reopens the storage; false if it can do neither. */
  async cut(): Promise<boolean> {
    if (!this.#opened.forgetCaches) return this.reopen();
    await this.#opened.forgetCaches();
    return true;
  }

  /** Checks after a power cut, and again after closing and reopening, if the subject can do that. */
  async outlives(check: (how: string) => Promise<void>): Promise<void> {
    if (this.#opened.forgetCaches) {
      await this.#opened.forgetCaches();
      await check('after a power cut');
    }
    if (await this.reopen()) await check('opened again');
  }

  // Demands

  /** Every test needs room. */
  checkRoom(): void {
    const { size } = this.storage;
    if (size >= BLOCKS * this.block) return;
    throw new Violation(
      this.#clause,
      `the suite needs ${BLOCKS} blocks of ${this.block} bytes; the storage has ${size} bytes`,
    );
  }

  /** The blocks hold the pattern of that number. */
  async reads(at: number, value: number, what: string, blocks = 1): Promise<void> {
    await this.holds(at, this.pattern(value, blocks), what);
  }

  /** The blocks hold these bytes. */
  async holds(at: number, expected: Uint8Array, what: string): Promise<void> {
    this.same(await this.read(at, expected.length / this.block), expected, what);
  }

  /** `may`: whether another byte is allowed at an offset in `actual`. */
  same(
    actual: Uint8Array | undefined,
    expected: Uint8Array,
    what: string,
    may: (offset: number) => boolean = () => false,
  ): void {
    const wrong: number[] = [];
    for (let at = 0; at < expected.length; at += 1) {
      if (actual?.[at] !== expected[at] && !may(at)) wrong.push(at);
    }
    const [first] = wrong;
    if (first === undefined) return;
    const many = `${wrong.length} of ${expected.length} bytes are wrong`;
    throw this.violation(
      `${what}: expected ${hex(expected[first])} in byte ${first}, found ${hex(actual?.[first])} (${many})`,
    );
  }

  equal(actual: unknown, expected: unknown, what: string): void {
    if (Object.is(actual, expected)) return;
    throw this.violation(`${what}: expected ${String(expected)}, found ${String(actual)}`);
  }

  /** The answer is nothing, or the full length: in any test, this is storage.S3. */
  answers(answer: Awaited<Transfer>, { length }: Uint8Array, what: string): void {
    if (answer === undefined || answer === length) return;
    const expected = `expected nothing or ${length}, found ${String(answer)}`;
    throw new Violation('S3', `the value returned for ${what} of ${length} bytes: ${expected}`);
  }

  /** The call fails, with any error. */
  async fails(call: () => unknown, what: string): Promise<void> {
    try {
      await call();
    } catch {
      return;
    }
    throw this.violation(`${what}: expected to fail, but it succeeded`);
  }

  /** Every command with this range fails, and changes no byte outside of the range. */
  async refuses(offset: number, length: number): Promise<void> {
    const last = this.storage.size / this.block - WATCHED;
    const named = (at: number): boolean => at > offset - 1 && at < offset + length;
    for (const [what, call] of this.commands(offset, length)) {
      for (const at of [0, last]) await this.write(at, 1, { blocks: WATCHED });
      await this.fails(call, what);
      for (const at of [0, last]) {
        const bytes = await this.read(at, WATCHED);
        const expected = this.pattern(1, WATCHED);
        const start = at * this.block;
        this.same(bytes, expected, `the bytes from ${start} on after ${what}`, (i) =>
          named(start + i),
        );
      }
    }
  }

  violation(what: string): Violation {
    return new Violation(this.#clause, what);
  }
}

function hex(byte: number | undefined): string {
  return byte === undefined ? 'nothing' : `0x${byte.toString(16).padStart(2, '0')}`;
}
