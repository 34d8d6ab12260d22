/**
 * NBD, the network block device protocol: a server for storages.
 *
 * @module write-barrier/nbd
 */

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
