// SQLite compiled with Asyncify, over the file system under test. One module serves all connections, one after the other.

/// <reference types="@journeyapps/wa-sqlite" />

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Factory } from '@journeyapps/wa-sqlite';
import instantiate from '@journeyapps/wa-sqlite/dist/wa-sqlite-async.mjs';
import type { Directory } from 'write-barrier/directory';
import { DirectoryVfs, type SqliteModule } from 'write-barrier/sqlite';
import { seededRandom } from 'write-barrier/testing';

/** Runs statements, and answers the rows of all of them. */
export type Database = (sql: string) => Promise<string[]>;

interface Wasm extends SqliteModule {
  _sqlite3_randomness(length: number, pOut: number): void;
}

/** The file system with random numbers from a seed, so that a run can be repeated; and with other claims, if any are given. */
export class SeededVfs extends DirectoryVfs {
  readonly #random: () => number;
  readonly #memory: SqliteModule;
  readonly #claims: number | undefined;

  constructor(module: SqliteModule, files: Directory, seed: number, claims?: number) {
    super('directory', module, files);
    this.#random = seededRandom(seed);
    this.#memory = module;
    this.#claims = claims;
  }

  override xRandomness(_vfs: number, length: number, pOut: number): number {
    for (let i = 0; i < length; i++) this.#memory.HEAPU8[pOut + i] = this.#random() * 256;
    return length;
  }

  override xCurrentTimeInt64(): number {
    return 0;
  }

  override xDeviceCharacteristics(file: number): number {
    return this.#claims ?? super.xDeviceCharacteristics(file);
  }
}

/** One whose batches are no batches: each write is for itself. */
export class TornVfs extends SeededVfs {
  override async xFileControl(pFile: number, operation: number, pArg: number): Promise<number> {
    const isBatch = operation >= 31 && operation <= 33;
    return isBatch ? 0 : super.xFileControl(pFile, operation, pArg);
  }
}

export class Engine {
  readonly #module: Wasm;
  readonly #sqlite3: SQLiteAPI;

  private constructor(module: Wasm) {
    this.#module = module;
    this.#sqlite3 = Factory(module);
  }

  static async load(): Promise<Engine> {
    const path = createRequire(import.meta.url).resolve(
      '@journeyapps/wa-sqlite/dist/wa-sqlite-async.wasm',
    );
    return new Engine(await instantiate({ wasmBinary: readFileSync(path) }));
  }

  get module(): SqliteModule {
    return this.#module;
  }

  /** Opens the database, has it used, and closes it; with `leave`, all of it stays open as a killed program leaves it. */
  async connect<T>(
    vfs: SeededVfs,
    use: (database: Database) => Promise<T>,
    { name = 'db' }: { readonly name?: string } = {},
  ): Promise<T> {
    const sqlite3 = this.#sqlite3;
    sqlite3.vfs_register(vfs, true);
    this.#module._sqlite3_randomness(0, 0);
    const db = await sqlite3.open_v2(name, undefined, vfs.name);
    try {
      return await use(async (sql) => {
        const rows: string[] = [];
        await sqlite3.exec(db, sql, (row) => void rows.push(row.map(String).join('|')));
        return rows;
      });
    } finally {
      await sqlite3.close(db);
    }
  }

  /** Two connections to one database. */
  async pair<T>(vfs: SeededVfs, use: (a: Database, b: Database) => Promise<T>): Promise<T> {
    return this.connect(vfs, async (a) => {
      const db = await this.#sqlite3.open_v2('db', undefined, vfs.name);
      try {
        return await use(a, async (sql) => {
          const rows: string[] = [];
          await this.#sqlite3.exec(db, sql, (row) => void rows.push(row.map(String).join('|')));
          return rows;
        });
      } finally {
        await this.#sqlite3.close(db);
      }
    });
  }
}
