// The numbers of the protocol, every message as a table, and the functions that turn values into bytes and back.
//
//   handshake      server  greeting
//                  client  flags
//                  client  option (header, data) ──▶ server  one or more replies (header, data)     ... and again
//                  server  after EXPORT_NAME: size and flags, which end the handshake without a reply header
//   transmission   client  request, then the payload of a WRITE
//                  server  simple reply, then the data of a READ that succeeded
//                  server  chunks, each with its payload; a structured reply is one or more of them, the last with DONE
//
// A header says how much data follows, and a decoder accepts only data of exactly that length. A value that is legal and
// unknown (an option, a command, a piece of information) comes out as its number. Data is decoded into views of
// what a decoder was given. Replies are told apart by their first four bytes.
//
// The names of numbers are those of the protocol text without their prefixes; flags are given as masks, not as bit numbers.
// Numbers that are not spoken (PEEK_EXPORT, EXTENDED_HEADERS, RESIZE, PAYLOAD_LEN) are here to be refused by name.
//
// Not here: which message may follow which (the sessions).
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Values", "Handshake", "Option types", "Option reply types",
// "Transmission", "Request message", "Simple reply message", "Structured reply chunk message", "Structured reply types".

import type { ByteWriter } from './byte-writer.js';
import {
  constant,
  Input,
  type Layout,
  layout,
  list,
  malformed,
  mapped,
  opaque64,
  sizeOf,
  string,
  text,
  uint16,
  uint32,
  uint64,
  viewOf,
} from './layout.js';

// Numbers

/** `NBDMAGIC`: the server's first eight bytes. */
const GREETING_MAGIC = 0x4e42444d41474943n;
/** `IHAVEOPT`: opens the newstyle greeting, and every option. */
const OPTION_MAGIC = 0x49484156454f5054n;
/** Opens every answer to an option. */
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
/** Opens every request. */
const REQUEST_MAGIC = 0x25609513;
/** Opens a simple reply. */
export const SIMPLE_REPLY_MAGIC = 0x67446698;
/** Opens a chunk of a structured reply. */
export const CHUNK_MAGIC = 0x668e33ef;

/** What either side offers before the options; the client's are the same two bits in 32. */
export const HANDSHAKE_FLAG = { FIXED_NEWSTYLE: 0x1, NO_ZEROES: 0x2 } as const;

/** What an export can do. */
export const TRANSMISSION_FLAG = {
  HAS_FLAGS: 0x1,
  READ_ONLY: 0x2,
  SEND_FLUSH: 0x4,
  SEND_FUA: 0x8,
  ROTATIONAL: 0x10,
  SEND_TRIM: 0x20,
  SEND_WRITE_ZEROES: 0x40,
  SEND_DF: 0x80,
  CAN_MULTI_CONN: 0x100,
  SEND_RESIZE: 0x200,
  SEND_CACHE: 0x400,
  SEND_FAST_ZERO: 0x800,
} as const;

/** What a client asks for before it has an export. */
export const OPTION = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

/** What a server answers to an option. Errors have bit 31. */
export const OPTION_REPLY = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
} as const;

/** Whether an answer to an option is a refusal. */
export function isOptionError(reply: number): boolean {
  return reply >= 2 ** 31;
}

/** The pieces of information about an export. */
export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

/** What a client asks of an export. */
export const COMMAND = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
} as const;

/** How a command is to be carried out. */
export const COMMAND_FLAG = {
  FUA: 0x1,
  NO_HOLE: 0x2,
  DF: 0x4,
  REQ_ONE: 0x8,
  FAST_ZERO: 0x10,
  PAYLOAD_LEN: 0x20,
} as const;

/** The last chunk of its reply. */
export const CHUNK_FLAG = { DONE: 0x1 } as const;

/** What a chunk of a structured reply carries. Errors have bit 15. */
export const CHUNK_TYPE = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

/** Whether a chunk says that its request has failed, also a chunk of a type that is not known here. */
export function isErrorChunk(type: number): boolean {
  return type >= 2 ** 15;
}

/** The only errors that may be on the wire. */
export const NBD_ERROR = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The name of the one context that is spoken here. */
export const BASE_ALLOCATION = 'base:allocation';

/** The flags of an extent in the context `base:allocation`; allocated and not known to be zero is 0. */
export const EXTENT_FLAG = { HOLE: 0x1, ZERO: 0x2 } as const;

/** What every peer takes in one request unless it has said otherwise, in bytes. */
export const PAYLOAD_MAX: number = 32 * 1024 * 1024;

// Values

/** What either side offers in the beginning: a sum of `HANDSHAKE_FLAG`. */
export interface HandshakeFlags {
  readonly flags: number;
}

/** The head of an option; its data follows. */
export interface OptionHeader {
  /** One of `OPTION`, or a number that is not known here. */
  readonly option: number;
  /** How many bytes of data follow. */
  readonly length: number;
}

/** The head of an answer to an option; its data follows. */
export interface OptionReplyHeader {
  /** The option that is answered. */
  readonly option: number;
  /** One of `OPTION_REPLY`, or a number that is not known here. */
  readonly reply: number;
  /** How many bytes of data follow. */
  readonly length: number;
}

/** What an export is: its size in bytes and its transmission flags. */
export interface ExportFacts {
  readonly size: number;
  /** A sum of `TRANSMISSION_FLAG`. */
  readonly flags: number;
}

/** The data of GO and of INFO. */
export interface InfoRequest {
  /** The export; '' is the default one. */
  readonly name: string;
  /** Which of `INFO` the client would like; others may come as well. */
  readonly wants: readonly number[];
}

/** The data of LIST_META_CONTEXT and of SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/** An entry of a list of exports. */
export interface ListedExport {
  /** What a client asks for; '' is the default. */
  readonly name: string;
  /** For people; often ''. */
  readonly description: string;
}

/** A context, by the number that its extents will carry. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

/** What the server says about an export. */
export type InfoPiece =
  | ({ readonly kind: 'export' } & ExportFacts)
  | { readonly kind: 'name'; readonly text: string }
  | { readonly kind: 'description'; readonly text: string }
  | ({ readonly kind: 'blockSize' } & BlockSizes)
  | { readonly kind: 'unknown'; readonly type: number };

/** Constraints on offsets and lengths, in bytes. */
export interface BlockSizes {
  /** Offsets and lengths are multiples of it. */
  readonly minimum: number;
  /** What works best. */
  readonly preferred: number;
  /** The most that a read or a write may carry; 2^32 - 1 for no limit. */
  readonly maximum: number;
}

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

// Tables

const NAME = string(uint32);

/** Bits that are not known here are ignored, as the protocol asks of a client. */
export const SERVER_GREETING: Layout<HandshakeFlags> = layout(
  'a greeting',
  { flags: uint16 },
  constant(opaque64, GREETING_MAGIC, 'the greeting does not begin with NBDMAGIC'),
  constant(opaque64, OPTION_MAGIC, 'an oldstyle greeting'),
);
/** Bits that are not known here are malformed, as the protocol asks of a server. */
export const CLIENT_FLAGS: Layout<HandshakeFlags> = layout('client flags', {
  flags: mapped(
    uint32,
    (flags: number) => flags,
    (flags) => {
      if (flags >>> 2) throw malformed(`unknown client flags 0x${flags.toString(16)}`);
      return flags;
    },
  ),
});
export const OPTION_HEADER: Layout<OptionHeader> = layout(
  'an option',
  { option: uint32, length: uint32 },
  constant(opaque64, OPTION_MAGIC, 'an option without IHAVEOPT'),
);
export const OPTION_REPLY_HEADER: Layout<OptionReplyHeader> = layout(
  'a reply to an option',
  { option: uint32, reply: uint32, length: uint32 },
  constant(opaque64, OPTION_REPLY_MAGIC, 'a reply to an option without its magic'),
);
/** Also the reply to EXPORT_NAME, with zeroes after it where they were not agreed away. */
export const EXPORT_FACTS: Layout<ExportFacts> = layout('an export', {
  ...{ size: uint64, flags: uint16 },
});
export const INFO_REQUEST: Layout<InfoRequest> = layout('a question for information', {
  ...{ name: NAME, wants: list(uint16, uint16) },
});
export const META_CONTEXT_REQUEST: Layout<MetaContextRequest> = layout('a query of contexts', {
  ...{ name: NAME, queries: list(uint32, NAME) },
});
export const LISTED_EXPORT: Layout<ListedExport> = layout('a listed export', {
  ...{ name: NAME, description: text },
});
export const META_CONTEXT: Layout<MetaContext> = layout('a context', { id: uint32, name: text });

/** The pieces of information about an export: each has its number, and then these fields. */
const INFOS: { readonly [K in KnownInfo['kind']]: Row<Extract<KnownInfo, { kind: K }>> } = {
  export: [INFO.EXPORT, EXPORT_FACTS],
  name: [INFO.NAME, layout('a name', { text })],
  description: [INFO.DESCRIPTION, layout('a description', { text })],
  blockSize: [
    INFO.BLOCK_SIZE,
    layout('block sizes', { minimum: uint32, preferred: uint32, maximum: uint32 }),
  ],
};
type KnownInfo = Exclude<InfoPiece, { kind: 'unknown' }>;
/** The number of a kind on the wire, and its fields. */
type Row<T, Left extends string = never> = readonly [
  type: number,
  fields: Layout<Omit<T, 'kind' | Left>>,
];

/** The row of a number; undefined for a number that is not known here. */
function rowOf<T>(
  rows: Readonly<Record<string, Row<T>>>,
  type: number,
): readonly [kind: string, fields: Row<T>[1]] | undefined {
  for (const [kind, [number, fields]] of Object.entries(rows)) {
    if (number === type) return [kind, fields];
  }
  return undefined;
}

export const REQUEST: Layout<NbdRequest> = layout(
  'a request',
  { flags: uint16, command: uint16, cookie: opaque64, offset: uint64, length: uint32 },
  constant(uint32, REQUEST_MAGIC, 'a request without its magic'),
);
export const SIMPLE_REPLY: Layout<SimpleReply> = layout(
  'a reply',
  { error: uint32, cookie: opaque64 },
  constant(uint32, SIMPLE_REPLY_MAGIC, 'a reply without its magic'),
);
export const CHUNK_HEADER: Layout<ChunkHeader> = layout(
  'a chunk',
  {
    done: mapped(
      uint16,
      (done: boolean) => (done ? CHUNK_FLAG.DONE : 0),
      (flags) => (flags & CHUNK_FLAG.DONE) !== 0,
    ),
    type: uint16,
    cookie: opaque64,
    length: uint32,
  },
  constant(uint32, CHUNK_MAGIC, 'a chunk without its magic'),
);

const EXTENT = layout<Extent>('an extent', { length: uint32, flags: uint32 });

/** What chunks carry: each has its number, and then these fields. The data of a chunk of data follows them. */
const CHUNKS: { readonly [K in Chunk['kind']]: Row<Extract<Chunk, { kind: K }>, 'data'> } = {
  none: [CHUNK_TYPE.NONE, layout('an empty chunk', {})],
  data: [CHUNK_TYPE.OFFSET_DATA, layout('a chunk of data', { offset: uint64 })],
  hole: [CHUNK_TYPE.OFFSET_HOLE, layout('a hole', { offset: uint64, length: uint32 })],
  status: [
    CHUNK_TYPE.BLOCK_STATUS,
    layout('extents', { context: uint32, extents: list(undefined, EXTENT) }),
  ],
  error: [
    CHUNK_TYPE.ERROR,
    layout<ErrorFields>('an error chunk', { error: uint32, message: string(uint16) }),
  ],
};
type ErrorFields = { readonly error: number; readonly message: string };
const ERROR_OFFSET: Row<ErrorFields & { readonly offset: number }> = [
  CHUNK_TYPE.ERROR_OFFSET,
  layout('an error chunk', { error: uint32, message: string(uint16), offset: uint64 }),
];

// Headers with what follows them

export function encodeOption(option: number, data: Uint8Array = NOTHING): Uint8Array {
  return withData(OPTION_HEADER, { option, length: data.length }, data);
}

export function encodeOptionReply(
  option: number,
  reply: number,
  data: Uint8Array = NOTHING,
): Uint8Array {
  return withData(OPTION_REPLY_HEADER, { option, reply, length: data.length }, data);
}

const NOTHING = new Uint8Array(0);

function withData<T>(header: Layout<T>, value: T, data: Uint8Array): Uint8Array {
  const bytes = header.encode(value, data.length);
  bytes.set(data, header.bytes);
  return bytes;
}

/** Zeroes after the reply to EXPORT_NAME, in bytes. */
export const EXPORT_NAME_ZEROES = 124;

/** The reply to EXPORT_NAME, with its zeroes where they were not agreed away. */
export function encodeExportNameReply(facts: ExportFacts, { flags }: HandshakeFlags): Uint8Array {
  return EXPORT_FACTS.encode(facts, flags & HANDSHAKE_FLAG.NO_ZEROES ? 0 : EXPORT_NAME_ZEROES);
}

export function encodeInfo(info: KnownInfo): Uint8Array {
  const [type, fields] = INFOS[info.kind] as Row<KnownInfo>;
  const bytes = new Uint8Array(uint16.bytes + sizeOf(fields, info));
  uint16.put(viewOf(bytes), 0, type);
  fields.put(viewOf(bytes), uint16.bytes, info);
  return bytes;
}

export function decodeInfo(data: Uint8Array): InfoPiece {
  const type = uint16.take(new Input(data));
  const row = rowOf(INFOS as Readonly<Record<string, Row<KnownInfo>>>, type);
  if (!row) return { kind: 'unknown', type };
  const [kind, fields] = row;
  return { kind, ...fields.decode(data.subarray(uint16.bytes)) } as KnownInfo;
}

/** Adds header and payload. */
export function putChunk(out: ByteWriter, cookie: bigint, done: boolean, chunk: Chunk): void {
  const located = chunk.kind === 'error' && chunk.offset !== undefined;
  const [type, fields] = (located ? ERROR_OFFSET : CHUNKS[chunk.kind]) as Row<Chunk>;
  const data = chunk.kind === 'data' ? chunk.data : undefined;
  const length = sizeOf(fields, chunk) + (data?.length ?? 0);
  out.put(CHUNK_HEADER, { cookie, done, type, length });
  out.put(fields, chunk);
  if (data) out.push(data);
}

/**
 * The payload of a chunk. An error of an unknown type is an error all the same.
 *
 * @throws `SYNTAX` for a type that is not known here, and for a payload that does not fit its type
 */
export function decodeChunk(type: number, payload: Uint8Array): Chunk {
  if (isErrorChunk(type)) return decodeErrorChunk(type, payload);
  const row = rowOf(CHUNKS as Readonly<Record<string, Row<Chunk>>>, type);
  if (!row) throw malformed(`a chunk of type ${type}`);
  const [kind, fields] = row;
  const head = kind === 'data' ? payload.subarray(0, fields.bytes) : payload;
  const chunk = { kind, ...fields.decode(head) } as Chunk;
  switch (chunk.kind) {
    case 'data': {
      const data = payload.subarray(fields.bytes);
      if (data.length === 0) throw malformed('a chunk of data without data');
      return { ...chunk, data };
    }
    case 'hole':
      if (chunk.length === 0) throw malformed('an empty hole');
      break;
    case 'status':
      if (chunk.extents.length === 0) throw malformed('extents cut off');
  }
  return chunk;
}

function decodeErrorChunk(type: number, payload: Uint8Array): Chunk {
  const [known, fields] = type === ERROR_OFFSET[0] ? ERROR_OFFSET : CHUNKS.error;
  const chunk = type === known ? fields.decode(payload) : fields.take(new Input(payload));
  if (chunk.error === 0) throw malformed('an error chunk without an error');
  return { kind: 'error', ...chunk };
}
