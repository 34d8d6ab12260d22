/**
 * Write barriers, cache flushes and FUA for anything disk-like.
 *
 * @module write-barrier
 */

export * from './model/index.js';
export * from './scheduler/index.js';
export * from './storage/index.js';
export * from './trace/index.js';
