// @ts-check
// SQLite beside the store, in the same directory: one row for each change. One order holds for both, and one flush.

import { Factory } from '@journeyapps/wa-sqlite';
import instantiate from '@journeyapps/wa-sqlite/dist/wa-sqlite-async.mjs';
import { DirectoryVfs } from 'write-barrier/sqlite';

/** @import { Directory } from 'write-barrier/directory' */

/**
 * @param {Directory} files
 * @param {object} wasm where the compiled SQLite is: `wasmBinary`, or `locateFile`
 */
export async function openChanges(files, wasm) {
  const module = await instantiate(wasm);
  const sqlite3 = Factory(module);
  sqlite3.vfs_register(new DirectoryVfs('directory', module, files), true);
  const db = await sqlite3.open_v2('changes.db');

  /** @type {Promise<unknown>} */
  let turn = sqlite3.exec(db, 'CREATE TABLE IF NOT EXISTS changes (key TEXT)');
  /**
   * One statement after the other, because this build of SQLite does one thing at a time.
   *
   * @param {string} sql
   * @param {string[]} values
   * @returns {Promise<unknown[]>} the columns of all rows
   */
  const run = (sql, values = []) => {
    const rows = turn.then(async () => {
      /** @type {unknown[]} */
      const found = [];
      for await (const statement of sqlite3.statements(db, sql)) {
        sqlite3.bind_collection(statement, values);
        while ((await sqlite3.step(statement)) === 100) found.push(...sqlite3.row(statement));
      }
      return found;
    });
    turn = rows.catch(() => undefined);
    return rows;
  };

  return {
    /** Settles when it is durable. @param {string} key */
    add: (key) => run('INSERT INTO changes VALUES (?)', [key]),
    keys: () => run('SELECT key FROM changes ORDER BY rowid'),
    check: () => run('PRAGMA integrity_check'),
    close: () => turn.then(() => sqlite3.close(db)),
  };
}
