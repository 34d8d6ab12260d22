export { concatBuffers, type Payload, scatterBytes, sliceBuffers, totalLength } from './buffers.js';
export { byteView } from './byte-view.js';
export { checkRange, checkSize } from './checks.js';
export { type Fault, withFaults } from './faults.js';
export { withLatency } from './latency.js';
export { MemoryStorage, type MemoryStorageOptions } from './memory.js';
export { type Issuer, perform } from './perform.js';
export { slice } from './slice.js';
export {
  type Capabilities,
  describeStorage,
  type Extent,
  type FlushFlags,
  type Storage,
  type Transfer,
  type WriteFlags,
} from './storage.js';
export { Tracer, tracing } from './tracer.js';
export { type Around, wrap } from './wrappers.js';
