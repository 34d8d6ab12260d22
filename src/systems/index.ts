/**
 * Systems that had write barriers: real adapters for those who have such a transport, and faithful models, defects
 * included, for those who want to know what they did.
 *
 * @module write-barrier/systems
 */

export * from './xen/index.js';
