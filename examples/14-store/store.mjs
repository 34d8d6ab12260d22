// @ts-check
// A key-value store of three files in a directory: a log that grows, a table, and a manifest that names the table.
//
// Nothing here has a checksum, and nothing waits between two steps, because the directory keeps them in order: after a power cut the
// files are what they were after some of the steps.

/** @import { Directory, DirectoryFile } from 'write-barrier/directory' */

export class Store {
  /** @type {Directory} */ #files;
  /** @type {DirectoryFile} */ #log;
  /** @type {DirectoryFile} */ #manifest;
  /** @type {Map<string, unknown>} */ #values = new Map();
  #table = '';

  /** @param {Directory} files */
  static async open(files) {
    const store = new Store(files, await files.open('log'), await files.open('manifest'));
    await store.#load();
    return store;
  }

  /**
   * @param {Directory} files
   * @param {DirectoryFile} log
   * @param {DirectoryFile} manifest
   */
  constructor(files, log, manifest) {
    this.#files = files;
    this.#log = log;
    this.#manifest = manifest;
  }

  /** All that is stored, by its key. @returns {ReadonlyMap<string, unknown>} */
  get values() {
    return this.#values;
  }

  /**
   * Settles when the value is durable. Calls at once share a flush.
   *
   * @param {string} key
   * @param {unknown} value
   */
  async set(key, value) {
    this.#values.set(key, value);
    await this.#log.append(bytesOf(`${JSON.stringify([key, value])}\n`));
    await this.#files.sync();
  }

  /** Writes a new table of all values, lets it count, and begins a new log. */
  async compact() {
    const old = this.#table;
    this.#table = `table-${Number(old.slice(6)) + 1}`;
    const table = await this.#files.open(this.#table);
    const text = [...this.#values].map((entry) => `${JSON.stringify(entry)}\n`).join('');
    await Promise.all([
      table.write(0, bytesOf(text)),
      this.#manifest.write(0, bytesOf(this.#table.padEnd(20))),
      this.#log.truncate(0),
      old && this.#files.remove(old),
    ]);
    await this.#files.sync();
  }

  async #load() {
    this.#table = (await textOf(this.#manifest)).trim();
    const files = this.#table ? [await this.#files.open(this.#table), this.#log] : [this.#log];
    for (const file of files) {
      for (const line of (await textOf(file)).split('\n').slice(0, -1)) {
        this.#values.set(.../** @type {[string, unknown]} */ (JSON.parse(line)));
      }
    }
  }
}

const bytesOf = (/** @type {string} */ text) => new TextEncoder().encode(text);

/** @param {DirectoryFile} file */
async function textOf(file) {
  return new TextDecoder().decode(await file.read(0, file.size));
}
