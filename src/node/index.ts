/**
 * Storages for Node: files and block devices.
 *
 * @module write-barrier/node
 */

export { StorageLockedError } from 'write-barrier/kit';
export type { FileCalls } from './calls.js';
export { type DiagnosticsMessage, diagnosticsObserver } from './diagnostics.js';
export { appendRecord, readRecords, replaceFile } from './durable-files.js';
export { FileStorage } from './file-storage.js';
export type { LockKind } from './open-file.js';
export type { FileStorageOptions } from './options.js';
