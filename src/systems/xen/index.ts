/**
 * Xen's block protocol: the wire, a backend over a scheduler, a frontend as a storage, what Linux did with both over the
 * years, and the disk driver of a Solaris guest.
 *
 * @module
 */

export { type BlkBackRing, type BlkBackRingOptions, blkBackRing } from './back-ring.js';
export { type BlkBackend, type BlkBackendOptions, blkback } from './backend.js';
export {
  BLKBACK_ERAS,
  type BlkbackBarrier,
  type BlkbackEra,
  type BlkbackEraName,
} from './backend-eras.js';
export {
  type BlkFeatures,
  blkFeaturesOf,
  INDIRECT_SEGMENTS_MAX,
  type ReadXenNodes,
  readXenNodes,
  type ServedDisk,
  type XenNodes,
  xenNodes,
} from './features.js';
export type { BlkAbilities } from './front-order.js';
export { BlkFrontRing, type BlkFrontRingOptions, type BlkifSend } from './front-ring.js';
export { BlkFrontend, type BlkFrontendOptions } from './frontend.js';
export {
  BLKFRONT_ERAS,
  type BlkfrontChoice,
  type BlkfrontEra,
  type BlkfrontEraName,
  chooseBlkfront,
} from './frontend-eras.js';
export { type GrantTable, grantTable } from './grants.js';
export {
  type BlkifServing,
  type XenLoopback,
  type XenLoopbackOptions,
  xenLoopback,
  xenLoopbackOver,
} from './loopback.js';
export { type OldBlkback, type OldBlkbackOptions, oldBlkback } from './old-backend.js';
export { OldBlkfront, type OldBlkfrontOptions } from './old-frontend.js';
export {
  SOLARIS_FLUSH_WAYS,
  SolarisDisk,
  type SolarisFlushWay,
  type SolarisOptions,
} from './solaris.js';
export { type BlkifStatus, worstBlkifStatus } from './status.js';
export {
  BLKIF_OP,
  BLKIF_STATUS,
  type BlkifDiscard,
  type BlkifIndirect,
  type BlkifLayout,
  type BlkifOther,
  type BlkifRequest,
  type BlkifResponse,
  type BlkifSegment,
  type BlkifTransfer,
  decodeBlkifRequest,
  decodeBlkifResponse,
  decodeBlkifSegments,
  encodeBlkifRequest,
  encodeBlkifResponse,
  encodeBlkifSegments,
} from './wire.js';
