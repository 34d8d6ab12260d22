// The numbers of the protocol. Names are those of the protocol text without their prefixes; flags are given as
// masks, not as bit numbers. What is here and not spoken (PEEK_EXPORT, EXTENDED_HEADERS, RESIZE, PAYLOAD_LEN) is
// here to be refused by name.
//
// Only numbers: what they mean together is in handshake.ts and transmission.ts.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, section "Values".

/** `NBDMAGIC`: the server's first eight bytes. */
export const GREETING_MAGIC = 0x4e42444d41474943n;
/** `IHAVEOPT`: opens the newstyle greeting, and every option. */
export const OPTION_MAGIC = 0x49484156454f5054n;
/** Opens every answer to an option. */
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
/** Opens every request. */
export const REQUEST_MAGIC = 0x25609513;
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

/** The longest string, in bytes: a name of an export, a description, a query. */
export const STRING_MAX = 4096;
/** What every peer takes in one request unless it has said otherwise, in bytes. */
export const PAYLOAD_MAX: number = 32 * 1024 * 1024;

/** Sizes of what has a fixed size, in bytes. */
export const SIZE = {
  GREETING: 18,
  CLIENT_FLAGS: 4,
  OPTION_HEADER: 16,
  OPTION_REPLY_HEADER: 20,
  /** After EXPORT_NAME; and the zeroes behind it, where they were not agreed away. */
  EXPORT_NAME_REPLY: 10,
  EXPORT_NAME_ZEROES: 124,
  REQUEST: 28,
  SIMPLE_REPLY: 16,
  CHUNK_HEADER: 20,
} as const;
