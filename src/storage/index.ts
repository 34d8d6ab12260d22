export { checkRange } from './checks.js';
export { type Fault, withFaults } from './faults.js';
export { type LatencyOptions, withLatency } from './latency.js';
export { MemoryStorage, type MemoryStorageOptions } from './memory.js';
export type { Capabilities, FlushFlags, Storage, Transfer, WriteFlags } from './storage.js';
export { tracing } from './tracing.js';
