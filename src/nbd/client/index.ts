// The client of NBD: an export of any server as a Storage.

export { NbdLostError } from './errors.js';
export { listExports, NbdStorage } from './nbd-storage.js';
export type {
  NbdAddress,
  NbdEvent,
  NbdRouteOptions,
  NbdStorageOptions,
  NbdTls,
} from './options.js';
