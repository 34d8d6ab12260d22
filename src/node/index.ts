/**
 * Storages for Node: files and block devices.
 *
 * @module write-barrier/node
 */

export type { FileCalls } from './calls.js';
export { appendRecord, readRecords, replaceFile } from './durable-files.js';
export { FileStorage } from './file-storage.js';
export type { LockKind } from './open-file.js';
export type { FileStorageOptions } from './options.js';
export { StorageLockedError } from './tickets.js';
