/**
 * NBD, the network block device protocol: a server for storages, and an export of any server as a storage.
 *
 * @module write-barrier/nbd
 */

export { listExports } from './client/connection.js';
export { NbdStorage } from './client/nbd-storage.js';
export type {
  NbdCloseOptions,
  NbdEvent,
  NbdRoute,
  NbdRouteOptions,
  NbdStorageOptions,
} from './client/options.js';
export type { NbdTls } from './client/tls.js';
export { NbdLostError } from './report.js';
export type { NbdAddress, NbdListenOptions } from './server/listen.js';
export type {
  NbdExportOptions,
  NbdServerEvent,
  NbdServerLimits,
  NbdServerOptions,
  TlsPolicy,
} from './server/options.js';
export { NbdServer, type NbdServerStats } from './server/server.js';
export type { NbdServerClient } from './server/stats.js';
export { systemdSockets } from './server/systemd.js';
export type { NbdTlsOptions } from './server/tls.js';
export type { ListedExport } from './wire/index.js';
