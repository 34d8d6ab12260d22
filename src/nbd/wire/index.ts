// The NBD protocol as bytes: pure encoders and decoders for both directions, and a reader for what a socket delivers.

export { ByteReader } from './bytes.js';
export * from './constants.js';
export { joined, malformed } from './fields.js';
export * from './handshake.js';
export * from './transmission.js';
