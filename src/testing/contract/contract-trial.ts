// One test of the storage contract: a storage of its own, and the words to ask about it.
//
// What is written is a pattern with a number, never the same byte throughout, so that bytes which end up in the wrong
// place are found out. Two numbers differ in every byte of their patterns.
//
// A failure is an error whose message begins with a clause and says what should be and what is. Whatever else goes
// wrong in a test, a command that fails for instance, is wrapped in one, with the error as its cause.

import { inWords } from '../../model/error.js';
import type { Tag } from '../../model/index.js';
import type { Capabilities, Storage, Transfer, WriteFlags } from '../../storage/index.js';

/** A clause of the Storage contract. */
export type Clause = `S${1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11}`;

/** The storage under test. */
export interface ContractSubject {
  /** The subject of the sentence "... keeps the storage contract". */
  readonly name: string;
  /** What it declares. This chooses the tests, and S11 compares it with what the storage says. */
  readonly capabilities: Capabilities;
  /** Opens a storage of at least 16 blocks, which shares no bytes with any opened before. Called for every test. */
  open(): Opened | Promise<Opened>;
  /** The seed of the random tests, as a failure printed it; another one each time unless given. */
  readonly seed?: number;
  /** How many programs each random test runs; 20 unless given. Each opens a storage. */
  readonly runs?: number;
}

/** One storage, for one test. */
export interface Opened {
  /** The suite closes it. */
  readonly storage: Storage;
  /** Opens the same medium again, after `close`. */
  readonly reopen?: () => Storage | Promise<Storage>;
  /**
   * Drops what a power cut would drop and keeps the medium. The storage stays open and reads what is on the medium.
   * Never called while a command runs.
   */
  readonly forgetCaches?: () => void | Promise<void>;
  /** Clears away what the test leaves behind. The storage is closed by then. */
  readonly cleanUp?: () => void | Promise<void>;
}

/** How many blocks a storage must have for the tests to have room. */
export const BLOCKS = 16;

/** How many blocks at either end are watched while a command is refused. */
const WATCHED = 4;

/** A broken clause, in words. */
export class Violation extends Error {
  override readonly name = 'StorageContractError';
  /** The message without the clause. */
  readonly what: string;

  constructor(clause: Clause, what: string, options?: ErrorOptions) {
    super(`${clause}: ${what}`, options);
    this.what = what;
  }
}

/** Runs one test. Whatever happens in it, the storage is closed and cleaned up; the first thing to fail is told. */
export async function tried(
  clause: Clause,
  subject: ContractSubject,
  body: (trial: Trial) => Promise<void>,
): Promise<void> {
  const opened = await subject.open();
  const trial = new Trial(clause, subject.capabilities, opened);
  const failures: Violation[] = [];
  const attempt = async (what: string, run: () => unknown): Promise<void> => {
    try {
      await run();
    } catch (error) {
      failures.push(
        error instanceof Violation
          ? error
          : new Violation(clause, `${what} should not fail, but: ${inWords(error)}`, {
              cause: error,
            }),
      );
    }
  };
  await attempt('a legal command', async () => {
    trial.checkRoom();
    await body(trial);
  });
  await attempt('close', () => trial.close());
  await attempt('cleanUp', () => opened.cleanUp?.());
  if (failures[0]) throw failures[0];
}

/** Calls all at once, in this order, and waits for all, so that no command runs on when one has failed. */
export async function together<T>(calls: readonly (() => Promise<T>)[]): Promise<T[]> {
  const settled = await Promise.allSettled(calls.map((call) => call()));
  return settled.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}

/** Whether an answered write may be lost. */
export function isVolatile({ cache }: Capabilities): boolean {
  return cache === 'volatile';
}

/** A storage under test. Places and lengths are in blocks unless they are called offset and length. */
export class Trial {
  /** The one that was opened last. */
  storage: Storage;
  /** The bytes of a block. */
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
    return bytes.map((_, at) => value * 31 + at * 7 + (at >> 8) * 13 + (at >> 16) * 29);
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
    // What the storage forgets to fill is neither zero nor what was there before.
    const into = new Uint8Array(blocks * this.block).fill(0xa5);
    this.answers(await this.storage.read(at * this.block, into), into, 'a read');
    return into;
  }

  async flush(tag: Tag = 'simple'): Promise<void> {
    await this.storage.flush({ tag });
  }

  /** Every command that names a range, with its name. */
  commands(offset: number, length: number): [what: string, call: () => unknown][] {
    const { storage } = this;
    const { writev, discard, writeZeroes } = storage.capabilities;
    const named: [string, () => unknown][] = [];
    const range = `${length} bytes at ${offset}`;
    if (length >= 0) {
      const data = this.pattern(77, Math.ceil(length / this.block)).subarray(0, length);
      const flags: WriteFlags = { fua: false, tag: 'simple' };
      named.push([`a read of ${range}`, () => storage.read(offset, new Uint8Array(length))]);
      named.push([`a write of ${range}`, () => storage.write(offset, data, flags)]);
      const list = [data.subarray(0, 1), data.subarray(1)];
      if (writev) named.push([`a writev of ${range}`, () => storage.writev?.(offset, list, flags)]);
    }
    if (discard) named.push([`a discard of ${range}`, () => storage.discard?.(offset, length)]);
    if (writeZeroes) {
      named.push([`a writeZeroes of ${range}`, () => storage.writeZeroes?.(offset, length)]);
    }
    return named;
  }

  // The medium

  /** Closes the storage, once. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.storage.close();
    } catch (cause) {
      throw new Violation('S10', `close should not fail, but: ${inWords(cause)}`, { cause });
    }
  }

  /** Closes it and opens the same medium again; false where the subject cannot. */
  async reopen(): Promise<boolean> {
    if (!this.#opened.reopen) return false;
    await this.close();
    this.storage = await this.#opened.reopen();
    this.#closed = false;
    return true;
  }

  /** The power fails, or the storage is closed where the subject knows nothing of power; false where neither works. */
  async cut(): Promise<boolean> {
    if (!this.#opened.forgetCaches) return this.reopen();
    await this.#opened.forgetCaches();
    return true;
  }

  /** Checks after a power cut, and again after a close: as far as the subject can do either. */
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
      `the suite needs ${BLOCKS} blocks, and there are ${size} bytes`,
    );
  }

  /** The blocks hold what was written with that number. */
  async reads(at: number, value: number, what: string, blocks = 1): Promise<void> {
    await this.holds(at, this.pattern(value, blocks), what);
  }

  /** The blocks hold these bytes. */
  async holds(at: number, expected: Uint8Array, what: string): Promise<void> {
    this.same(await this.read(at, expected.length / this.block), expected, what);
  }

  /** `may`: offsets in `actual` at which any byte is as good. */
  same(
    actual: Uint8Array | undefined,
    expected: Uint8Array,
    what: string,
    may: (offset: number) => boolean = () => false,
  ): void {
    const wrong: number[] = [];
    for (const [at, byte] of expected.entries()) {
      if (actual?.[at] !== byte && !may(at)) wrong.push(at);
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

  /** Nothing, or the full length: whatever the test is about, this is S3. */
  answers(answer: Awaited<Transfer>, { length }: Uint8Array, what: string): void {
    if (answer === undefined || answer === length) return;
    const expected = `expected nothing or ${length}, found ${String(answer)}`;
    throw new Violation('S3', `the answer to ${what} of ${length} bytes: ${expected}`);
  }

  /** With whatever error. */
  async fails(call: () => unknown, what: string): Promise<void> {
    try {
      await call();
    } catch {
      return;
    }
    throw this.violation(`${what}: expected to fail, but it was answered`);
  }

  /** Every command with this range fails, and no byte changes that it did not name. */
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
