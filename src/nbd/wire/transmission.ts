// Requests and replies: what goes over the wire once an export is in use. Pure: values to bytes and back.
//
//   request   28 bytes, then the payload of a WRITE
//   simple    16 bytes, then the data of a READ that succeeded
//   chunk     20 bytes, then its payload; a structured reply is one or more of them, the last with DONE
//
// The cookie is 64 bits that mean something to the client only, so it is a bigint and never looked into. Replies tell
// themselves apart by their first four bytes: peek, then take the size that goes with the magic.
//
// Data is never copied: a chunk is encoded as a list of pieces, and decoded into views of what it was given.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Transmission", "Request message", "Simple reply message",
// "Structured reply chunk message", "Structured reply types".

import {
  CHUNK_FLAG,
  CHUNK_MAGIC,
  CHUNK_TYPE,
  isErrorChunk,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  SIZE,
  STRING_MAX,
} from './constants.js';
import { bytesOf, FieldReader, getUint64, malformed, setUint64, utf8, viewOf } from './fields.js';

/** A request, without the payload that follows a WRITE. */
export interface NbdRequest {
  /** A sum of `COMMAND_FLAG`. */
  readonly flags: number;
  /** One of `COMMAND`, or a number that is not known here. */
  readonly command: number;
  readonly cookie: bigint;
  /** In bytes. From 2^53 on rounded, and no safe integer. */
  readonly offset: number;
  /** In bytes, 32 bits. */
  readonly length: number;
}

/** A simple reply, without the data that follows where it answers a READ well. */
export interface SimpleReply {
  readonly cookie: bigint;
  /** One of `NBD_ERROR`; 0 for success. */
  readonly error: number;
}

/** The head of a chunk; its payload follows. */
export interface ChunkHeader {
  readonly cookie: bigint;
  /** The last one of its reply. */
  readonly done: boolean;
  /** One of `CHUNK_TYPE`, or a number that is not known here. */
  readonly type: number;
  /** How many bytes of payload follow. */
  readonly length: number;
}

/** What an extent is like, in the terms of its context. */
export interface Extent {
  /** In bytes. */
  readonly length: number;
  /** A sum of `EXTENT_FLAG` in the context `base:allocation`. */
  readonly flags: number;
}

/** What a chunk says. */
export type Chunk =
  /** Nothing: success where there is no data, or the end of it. */
  | { readonly kind: 'none' }
  | { readonly kind: 'data'; readonly offset: number; readonly data: Uint8Array }
  /** Zeroes, without sending them. */
  | { readonly kind: 'hole'; readonly offset: number; readonly length: number }
  /** The extents follow each other, from the offset of the request on. */
  | { readonly kind: 'status'; readonly context: number; readonly extents: readonly Extent[] }
  | {
      readonly kind: 'error';
      /** One of `NBD_ERROR`, never 0. */
      readonly error: number;
      /** For people; often ''. */
      readonly message: string;
      /** Where the request failed, if the server says so. */
      readonly offset?: number;
    };

// Requests

export function encodeRequest({ flags, command, cookie, offset, length }: NbdRequest): Uint8Array {
  return bytesOf(SIZE.REQUEST, (view) => {
    view.setUint32(0, REQUEST_MAGIC);
    view.setUint16(4, flags);
    view.setUint16(6, command);
    view.setBigUint64(8, cookie);
    setUint64(view, 16, offset);
    view.setUint32(24, length);
  });
}

/** @throws `SYNTAX` without the magic */
export function decodeRequest(bytes: Uint8Array): NbdRequest {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== REQUEST_MAGIC) throw malformed('a request without its magic');
  return {
    flags: view.getUint16(4),
    command: view.getUint16(6),
    cookie: view.getBigUint64(8),
    offset: getUint64(view, 16),
    length: view.getUint32(24),
  };
}

// Simple replies

export function encodeSimpleReply({ cookie, error }: SimpleReply): Uint8Array {
  return bytesOf(SIZE.SIMPLE_REPLY, (view) => {
    view.setUint32(0, SIMPLE_REPLY_MAGIC);
    view.setUint32(4, error);
    view.setBigUint64(8, cookie);
  });
}

/** @throws `SYNTAX` without the magic */
export function decodeSimpleReply(bytes: Uint8Array): SimpleReply {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== SIMPLE_REPLY_MAGIC) throw malformed('a reply without its magic');
  return { error: view.getUint32(4), cookie: view.getBigUint64(8) };
}

// Chunks

/** Head and payload in one or two pieces, which follow each other; data is the second and not copied. */
export function encodeChunk(cookie: bigint, done: boolean, chunk: Chunk): readonly Uint8Array[] {
  switch (chunk.kind) {
    case 'none':
      return [chunkBytes(cookie, done, CHUNK_TYPE.NONE, 0, 0, () => {})];
    case 'data': {
      const { offset, data } = chunk;
      const fill = (view: DataView): void => setUint64(view, PAYLOAD, offset);
      return [chunkBytes(cookie, done, CHUNK_TYPE.OFFSET_DATA, 8, data.length, fill), data];
    }
    case 'hole':
      return [
        chunkBytes(cookie, done, CHUNK_TYPE.OFFSET_HOLE, 12, 0, (view) => {
          setUint64(view, PAYLOAD, chunk.offset);
          view.setUint32(PAYLOAD + 8, chunk.length);
        }),
      ];
    case 'status': {
      const { context, extents } = chunk;
      const length = 4 + 8 * extents.length;
      return [
        chunkBytes(cookie, done, CHUNK_TYPE.BLOCK_STATUS, length, 0, (view) => {
          view.setUint32(PAYLOAD, context);
          for (const [i, extent] of extents.entries()) {
            view.setUint32(PAYLOAD + 4 + 8 * i, extent.length);
            view.setUint32(PAYLOAD + 8 + 8 * i, extent.flags);
          }
        }),
      ];
    }
    case 'error':
      return [encodeErrorChunk(cookie, done, chunk)];
  }
}

/** @throws `SYNTAX` without the magic */
export function decodeChunkHeader(bytes: Uint8Array): ChunkHeader {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== CHUNK_MAGIC) throw malformed('a chunk without its magic');
  return {
    done: (view.getUint16(4) & CHUNK_FLAG.DONE) !== 0,
    type: view.getUint16(6),
    cookie: view.getBigUint64(8),
    length: view.getUint32(16),
  };
}

/**
 * The payload of a chunk. An error of an unknown type is an error all the same.
 *
 * @throws `SYNTAX` for a type that is not known here, and for a payload that does not fit its type
 */
export function decodeChunk(type: number, payload: Uint8Array): Chunk {
  const fields = new FieldReader(payload);
  if (isErrorChunk(type)) return decodeErrorChunk(type, fields);
  switch (type) {
    case CHUNK_TYPE.NONE:
      fields.end('an empty chunk');
      return { kind: 'none' };
    case CHUNK_TYPE.OFFSET_DATA: {
      const offset = fields.uint64();
      if (fields.left === 0) throw malformed('a chunk of data without data');
      return { kind: 'data', offset, data: payload.subarray(8) };
    }
    case CHUNK_TYPE.OFFSET_HOLE: {
      const [offset, length] = [fields.uint64(), fields.uint32()];
      fields.end('a hole');
      if (length === 0) throw malformed('an empty hole');
      return { kind: 'hole', offset, length };
    }
    case CHUNK_TYPE.BLOCK_STATUS: {
      const context = fields.uint32();
      if (fields.left === 0 || fields.left % 8 !== 0) throw malformed('extents cut off');
      const extents = Array.from({ length: fields.left / 8 }, () => ({
        length: fields.uint32(),
        flags: fields.uint32(),
      }));
      return { kind: 'status', context, extents };
    }
    default:
      throw malformed(`a chunk of type ${type}`);
  }
}

const PAYLOAD = SIZE.CHUNK_HEADER;

/** The head, with `own` bytes of payload behind it, and `data` more announced. */
function chunkBytes(
  cookie: bigint,
  done: boolean,
  type: number,
  own: number,
  data: number,
  fill: (view: DataView) => void,
): Uint8Array {
  return bytesOf(PAYLOAD + own, (view) => {
    view.setUint32(0, CHUNK_MAGIC);
    view.setUint16(4, done ? CHUNK_FLAG.DONE : 0);
    view.setUint16(6, type);
    view.setBigUint64(8, cookie);
    view.setUint32(16, own + data);
    fill(view);
  });
}

function encodeErrorChunk(
  cookie: bigint,
  done: boolean,
  { error, message, offset }: Extract<Chunk, { kind: 'error' }>,
): Uint8Array {
  const text = utf8(message);
  const type = offset === undefined ? CHUNK_TYPE.ERROR : CHUNK_TYPE.ERROR_OFFSET;
  const length = 6 + text.length + (offset === undefined ? 0 : 8);
  const bytes = chunkBytes(cookie, done, type, length, 0, (view) => {
    view.setUint32(PAYLOAD, error);
    view.setUint16(PAYLOAD + 4, text.length);
    if (offset !== undefined) setUint64(view, PAYLOAD + 6 + text.length, offset);
  });
  bytes.set(text, PAYLOAD + 6);
  return bytes;
}

function decodeErrorChunk(type: number, fields: FieldReader): Chunk {
  const [error, length] = [fields.uint32(), fields.uint16()];
  if (error === 0) throw malformed('an error chunk without an error');
  if (length > STRING_MAX) throw malformed(`a message of ${length} bytes`);
  const message = fields.text(length);
  if (type === CHUNK_TYPE.ERROR) fields.end('an error chunk');
  if (type !== CHUNK_TYPE.ERROR_OFFSET) return { kind: 'error', error, message };
  const offset = fields.uint64();
  fields.end('an error chunk');
  return { kind: 'error', error, message, offset };
}
