/**
 * The systems that write barriers came from: adapters for their transports, and models of what they did.
 *
 * @module write-barrier/systems
 */

export * from './virtio/index.js';
