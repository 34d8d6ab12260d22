// The NBD protocol as bytes: pure encoders and decoders for both directions, a reader for what a socket delivers, and a writer
// for what it is to send.

export { ByteReader } from './byte-reader.js';
export { ByteWriter } from './byte-writer.js';
export { malformed, STRING_MAX, textOf, utf8, viewOf } from './layout.js';
export * from './messages.js';
