/**
 * The systems that the project grew from, each as it was: adapters for those who have one, and models of their defects.
 *
 * @module write-barrier/systems
 */

export * from './linux/index.js';
