// The NBD protocol as bytes: pure encoders and decoders for both directions, and a reader for what a socket delivers.

export { ByteReader } from './byte-reader.js';
export { malformed, STRING_MAX, textOf, utf8, viewOf } from './layout.js';
export * from './messages.js';
