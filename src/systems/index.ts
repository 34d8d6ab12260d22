/**
 * Block protocols and barriers of other systems. First the adapters that still have a use: virtio-blk, from either end;
 * Xen's block protocol, from either end; barriers over plain files. Then `openSystem`, which opens any of the systems that
 * barriers came from, of any year, with their defects, for tests and for readers.
 *
 * @module write-barrier/systems
 */

export {
  fileStorage,
  type PlainFile,
  type SyncFile,
  SyncFileBarriers,
} from './blktap/file-barriers.js';
export { BARRIER_ERAS, FLUSH_ERAS } from './linux/eras.js';
export { PosixAio } from './qemu/posix-aio.js';
export { openSystem, type System, type SystemOptions, systemOf } from './system.js';
export { SYSTEMS, type SystemName } from './table.js';
export { VirtioBackend, type VirtioBackendOptions } from './virtio/backend.js';
export {
  VIRTIO_DRIVERS,
  type VirtioEra,
  type VirtioFeature,
  virtioFeatureBits,
  virtioOrdering,
  virtioWrites,
} from './virtio/features.js';
export type { VirtioChain, VirtioTransport } from './virtio/request.js';
export { type VirtioStorage, type VirtioStorageOptions, virtioStorage } from './virtio/storage.js';
export {
  type BlkBackend,
  type BlkBackendOptions,
  type BlkifServing,
  blkback,
  type XenLoopbackOptions,
  xenLoopback,
} from './xen/backend.js';
export type { XenNodes } from './xen/features.js';
export { BlkFrontend, type BlkFrontendOptions } from './xen/frontend.js';
export { type GrantTable, grantTable } from './xen/grants.js';
export { BLKBACK_ERAS, type BlkbackEra } from './xen/old-backend.js';
export { BLKFRONT_ERAS, type BlkfrontEra } from './xen/old-frontend.js';
export {
  type BlkBackRingOptions,
  BlkFrontRing,
  type BlkFrontRingOptions,
  blkBackRing,
} from './xen/ring.js';
