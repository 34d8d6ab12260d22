// The client of NBD: an export of any server as a Storage.

export type { ListedExport } from '../wire/index.js';
export { NbdLostError } from './errors.js';
export { listExports, NbdStorage } from './nbd-storage.js';
export type {
  NbdEvent,
  NbdRoute,
  NbdRouteOptions,
  NbdStorageOptions,
  NbdTls,
} from './options.js';
