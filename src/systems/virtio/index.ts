export { VirtioBackend } from './backend.js';
export {
  VIRTIO_HOSTS,
  type VirtioBackendOptions,
  type VirtioHost,
  type VirtioHostName,
  type VirtioRangeLimits,
} from './backend-options.js';
export type { VirtioChain } from './chain.js';
export {
  decodeVirtioConfig,
  decodeVirtioHeader,
  decodeVirtioSegments,
  encodeVirtioConfig,
  encodeVirtioHeader,
  encodeVirtioSegments,
  VIRTIO_BARRIER,
  VIRTIO_CONFIG_BYTES,
  VIRTIO_HEADER_BYTES,
  VIRTIO_ID_BYTES,
  VIRTIO_SECTOR,
  VIRTIO_SEGMENT_BYTES,
  VIRTIO_STATUS,
  VIRTIO_TYPES,
  VIRTIO_UNMAP,
  VIRTIO_WRITEBACK_AT,
  type VirtioConfig,
  type VirtioEndian,
  type VirtioHeader,
  type VirtioSegment,
  type VirtioStatus,
  type VirtioType,
  virtioStatusOf,
} from './codec.js';
export {
  hasVirtioFeature,
  VIRTIO_DRIVERS,
  VIRTIO_FEATURES,
  type VirtioAgreement,
  type VirtioDriver,
  type VirtioDriverRow,
  type VirtioEra,
  type VirtioFeature,
  type VirtioOrdering,
  virtioFeatureBits,
  virtioFeatureNames,
  virtioOrdering,
} from './features.js';
export {
  type VirtioStability,
  type VirtioStabilityEvent,
  type VirtioWrites,
  virtioWrites,
} from './stability.js';
export { type VirtioStorage, type VirtioStorageOptions, virtioStorage } from './storage.js';
export type { VirtioTransport } from './transport.js';
