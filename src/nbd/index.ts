/**
 * NBD, the network block device protocol: a server for storages, and an export of any server as a storage.
 *
 * @module write-barrier/nbd
 */

export * from './client/index.js';
export type { NbdAddress, NbdListenOptions } from './server/listen.js';
export type {
  NbdExportOptions,
  NbdServerEvent,
  NbdServerLimits,
  NbdServerOptions,
  NbdTlsOptions,
  TlsPolicy,
} from './server/options.js';
export { NbdServer, type NbdServerStats } from './server/server.js';
