/**
 * The systems that this project grew from: each as an adapter for those who have such a transport, and as a model,
 * defects included, for those who want to know what it did.
 *
 * @module write-barrier/systems
 */

export * from './blktap/index.js';
export * from './linux/index.js';
export * from './qemu/index.js';
export * from './stacks/index.js';
export * from './virtio/index.js';
export * from './xen/index.js';
