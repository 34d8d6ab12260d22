/**
 * Storages for browsers: files of the origin private file system, in a worker, and their face in a page.
 *
 * @module write-barrier/opfs
 */

export { OpfsStorage, type OpfsStorageOptions } from './opfs-storage.js';
export { type Port, PortStorage, serveStorage } from './port.js';
