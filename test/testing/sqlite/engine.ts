// SQLite, compiled to WebAssembly, called without promises.
//
// The package's own API awaits every step, also in its synchronous build; a crash space needs thousands of runs and a
// workload that is done when it returns. So the C functions are called directly. All that is not checked by types is
// in this file: the module's exports, and pointers.
//
// One instance of the module serves all connections, one after the other. Nothing of one reaches the next: files are
// mounted for each, SQLite forgets its random numbers before each, and each is closed, whatever happened.

/// <reference types="@journeyapps/wa-sqlite" />

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import instantiate from '@journeyapps/wa-sqlite/dist/wa-sqlite.mjs';
import * as SQLite from '@journeyapps/wa-sqlite/src/sqlite-constants.js';
import { seededRandom } from 'write-barrier/testing';
import type { SectorFiles } from './files.js';
import { type Memory, type Mounted, vfsMethods } from './vfs.js';

/** What of the module is used; every number but codes and counts is a pointer. */
interface Wasm extends Memory {
  _malloc(length: number): number;
  _sqlite3_close_v2(db: number): number;
  _sqlite3_column_count(statement: number): number;
  _sqlite3_column_text(statement: number, column: number): number;
  _sqlite3_errmsg(db: number): number;
  _sqlite3_finalize(statement: number): number;
  _sqlite3_libversion(): number;
  _sqlite3_open_v2(zName: number, ppDb: number, flags: number, zVfs: number): number;
  _sqlite3_prepare_v2(
    db: number,
    zSql: number,
    length: number,
    ppStatement: number,
    pzTail: number,
  ): number;
  _sqlite3_randomness(length: number, pOut: number): void;
  _sqlite3_step(statement: number): number;
  vfs_register(vfs: object, makeDefault: boolean): number;
}

/** A row; a NULL is the empty string, everything else is as SQLite prints it. */
export type Row = readonly string[];

/** SQLite refused. */
export class SqliteError extends Error {
  override readonly name = 'SqliteError';
  /** SQLite's result code. */
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** See the head of this file. */
export class Engine {
  readonly #wasm: Wasm;
  /** Strings in SQLite's memory. There are few different ones, and they are kept. */
  readonly #strings = new Map<string, number>();
  /** Where SQLite puts a pointer that it answers. */
  readonly #pOut: number;
  #mounted: Mounted | undefined;

  private constructor(wasm: Wasm) {
    this.#wasm = wasm;
    this.#pOut = wasm._malloc(4);
    const mounted = (): Mounted => {
      if (!this.#mounted) throw new Error('SQLite has no disk');
      return this.#mounted;
    };
    const methods = vfsMethods(wasm, mounted);
    const vfs = { name: 'sectors', mxPathname: 64, hasAsyncMethod: () => false, ...methods };
    // SQLite takes its random numbers from the default file system.
    this.#check(wasm.vfs_register(vfs, true), 0);
  }

  static async load(): Promise<Engine> {
    const path = createRequire(import.meta.url).resolve(
      '@journeyapps/wa-sqlite/dist/wa-sqlite.wasm',
    );
    const wasm: Wasm = await instantiate({ wasmBinary: readFileSync(path) });
    return new Engine(wasm);
  }

  /** SQLite's own. */
  get version(): string {
    return this.#wasm.UTF8ToString(this.#wasm._sqlite3_libversion());
  }

  /**
   * Opens the database, has it used, and closes it.
   *
   * @param seed of all that SQLite calls random
   * @throws `SqliteError`; what `use` throws; what the disk throws, before both
   */
  connect<T>(files: SectorFiles, seed: number, use: (database: Database) => T): T {
    if (this.#mounted) throw new Error('there is a connection already');
    const mounted: Mounted = { files, random: seededRandom(seed) };
    this.#mounted = mounted;
    let used: T;
    try {
      this.#wasm._sqlite3_randomness(0, 0);
      used = this.#connected(use);
    } catch (error) {
      throw mounted.thrown ?? error;
    } finally {
      this.#mounted = undefined;
    }
    if (mounted.thrown !== undefined) throw mounted.thrown;
    return used;
  }

  #connected<T>(use: (database: Database) => T): T {
    const wasm = this.#wasm;
    const flags = SQLite.SQLITE_OPEN_CREATE | SQLite.SQLITE_OPEN_READWRITE;
    const code = wasm._sqlite3_open_v2(this.#string('db'), this.#pOut, flags, 0);
    const db = this.#pointer();
    let used: T;
    try {
      this.#check(code, db);
      used = use((sql) => this.#rows(db, sql));
    } catch (error) {
      wasm._sqlite3_close_v2(db);
      throw error;
    }
    this.#check(wasm._sqlite3_close_v2(db), 0);
    return used;
  }

  #rows(db: number, sql: string): Row[] {
    const wasm = this.#wasm;
    this.#check(wasm._sqlite3_prepare_v2(db, this.#string(sql), -1, this.#pOut, 0), db);
    const statement = this.#pointer();
    const rows: Row[] = [];
    try {
      const columns = wasm._sqlite3_column_count(statement);
      for (;;) {
        const code = wasm._sqlite3_step(statement);
        if (code === SQLite.SQLITE_DONE) return rows;
        if (code !== SQLite.SQLITE_ROW) this.#check(code, db);
        rows.push(Array.from({ length: columns }, (_, i) => this.#text(statement, i)));
      }
    } finally {
      wasm._sqlite3_finalize(statement);
    }
  }

  #text(statement: number, column: number): string {
    const pointer = this.#wasm._sqlite3_column_text(statement, column);
    return pointer === 0 ? '' : this.#wasm.UTF8ToString(pointer);
  }

  #string(text: string): number {
    const known = this.#strings.get(text);
    if (known !== undefined) return known;
    const bytes = new TextEncoder().encode(`${text}\0`);
    const pointer = this.#wasm._malloc(bytes.length);
    this.#wasm.HEAPU8.set(bytes, pointer);
    this.#strings.set(text, pointer);
    return pointer;
  }

  #pointer(): number {
    return new DataView(this.#wasm.HEAPU8.buffer).getUint32(this.#pOut, true);
  }

  #check(code: number, db: number): void {
    if (code === SQLite.SQLITE_OK) return;
    const { _sqlite3_errmsg: message } = this.#wasm;
    const told = db === 0 ? 'SQLite failed' : this.#wasm.UTF8ToString(message(db));
    throw new SqliteError(code, told);
  }
}

/** Runs one statement to its end and answers its rows. */
export type Database = (sql: string) => readonly Row[];
