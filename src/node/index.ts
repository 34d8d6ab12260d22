/**
 * Storages that need Node.
 *
 * @module write-barrier/node
 */

export type { FileCalls } from './calls.js';
export { FileStorage } from './file-storage.js';
export type { FileStorageOptions } from './options.js';
