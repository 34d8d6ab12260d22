// SQLite's five locks on one file, among the connections of one program (https://www.sqlite.org/lockingv3.html). Other programs are kept
// out by the storage below.

import {
  SQLITE_BUSY,
  SQLITE_LOCK_NONE,
  SQLITE_LOCK_RESERVED,
  SQLITE_LOCK_SHARED,
  SQLITE_OK,
} from './codes.js';

/** The locks of one file. A connection is known by its pointer. */
export class Locks {
  readonly #shared = new Set<number>();
  /** Who may write into its cache: one at a time, beside those who read. */
  #reserved: number | undefined;
  /** Who waits for the readers to leave, or has the file for itself. No reader comes then. */
  #pending: number | undefined;

  /** Answers `SQLITE_BUSY` if another connection is in the way. */
  lock(connection: number, level: number): number {
    if (level === SQLITE_LOCK_SHARED) {
      if (isOther(this.#pending, connection)) return SQLITE_BUSY;
      this.#shared.add(connection);
      return SQLITE_OK;
    }
    if (isOther(this.#reserved, connection) || isOther(this.#pending, connection)) {
      return SQLITE_BUSY;
    }
    if (level === SQLITE_LOCK_RESERVED) {
      this.#reserved = connection;
      return SQLITE_OK;
    }
    this.#pending = connection;
    const others = this.#shared.size - (this.#shared.has(connection) ? 1 : 0);
    return others > 0 ? SQLITE_BUSY : SQLITE_OK;
  }

  /** Whether the connection might have written. */
  unlock(connection: number, level: number): boolean {
    const mayHaveWritten = this.#reserved === connection || this.#pending === connection;
    if (this.#reserved === connection) this.#reserved = undefined;
    if (this.#pending === connection) this.#pending = undefined;
    if (level === SQLITE_LOCK_NONE) this.#shared.delete(connection);
    return mayHaveWritten;
  }

  /** Whether any connection has more than a shared lock. */
  get isReserved(): boolean {
    return this.#reserved !== undefined || this.#pending !== undefined;
  }
}

function isOther(holder: number | undefined, connection: number): boolean {
  return holder !== undefined && holder !== connection;
}
