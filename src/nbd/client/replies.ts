// The client's side of an export in use: which replies are awaited, and what arrives.
//
//   head ──data of a simple reply──▶ data ──its last byte──▶ head
//   head ──chunk with data──▶ place ──its offset──▶ data ──its last byte──▶ head
//   head ──any other chunk──▶ payload ──its last byte──▶ head
//
// A simple reply without data leaves the state at head.
//
// A reply may be simple or structured, and the chunks of several replies may be mixed. The data of a read goes straight to
// the buffer of the caller.
//
// Invariants, tested under these numbers:
//   R1  A request is answered once, by a reply that carries its cookie. A cookie that is not awaited, because it was never
//       sent or because its reply is complete, is malformed.
//   R2  A read succeeds when each of its bytes has come exactly once, as data or as a hole, inside of the requested range.
//       More, fewer or other bytes are malformed.
//   R3  Only the buffer of an awaited read is written to, and no longer once anything was malformed. If that buffer was
//       transferred or has shrunk, its data is dropped and the answer says so; other replies are not affected.
//   R4  What else is kept is bounded: a header, a short payload, and a list of the ranges that have come.
//   R5  A block status succeeds with one list of extents, of the context that was agreed on and of bounded length.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Simple reply message", "Structured reply chunk message",
// "Structured reply types", "Error values".

import type { ByteRange } from 'write-barrier';
import { invariant } from 'write-barrier/kit';
import {
  type ByteReader,
  CHUNK_HEADER,
  CHUNK_MAGIC,
  CHUNK_TYPE,
  type ChunkHeader,
  COMMAND,
  decodeChunk,
  type Extent,
  isErrorChunk,
  malformed,
  type NbdRequest,
  SIMPLE_REPLY,
  SIMPLE_REPLY_MAGIC,
  type SimpleReply,
  STRING_MAX,
} from '../wire/index.js';
import { Input, uint64 } from '../wire/layout.js';
import { firstAfter } from './unflushed.js';

/** A request, with what it carries. */
export interface ClientRequest extends NbdRequest {
  /** What a write carries; as long as `length` together. */
  readonly payload?: readonly Uint8Array[];
  /** Where the data of a read goes; as long as `length`. */
  readonly into?: Uint8Array;
  /** Where the extents of a block status go; empty. */
  readonly found?: Extent[];
}

/** A reply, complete. */
export interface Answer extends Pick<NbdRequest, 'cookie' | 'command' | 'length'> {
  /** One of `NBD_ERROR`, or a number that is not known here; 0 for success. */
  readonly error: number;
  /** For people; often ''. */
  readonly message: string;
  /** The buffer of the read was gone when its data came (R3). */
  readonly dropped: boolean;
}

/** A reply of which some has come, or nothing yet. */
interface Reply extends Answer {
  readonly offset: number;
  readonly into: Uint8Array | undefined;
  readonly found: Extent[] | undefined;
  /** The ranges that have come, relative to the request; disjoint, in order, and none touches the next. */
  readonly got: ByteRange[];
  error: number;
  message: string;
  dropped: boolean;
}

type State =
  | { readonly kind: 'head' }
  | { readonly kind: 'place'; readonly reply: Reply; readonly header: ChunkHeader }
  | { readonly kind: 'payload'; readonly reply: Reply; readonly header: ChunkHeader }
  | {
      readonly kind: 'data';
      readonly reply: Reply;
      readonly done: boolean;
      /** In `into`. */
      at: number;
      readonly end: number;
    };

const HEAD: State = { kind: 'head' };
/** The longest payload without data, in bytes: a message and its fields. */
const PAYLOAD_MAX = STRING_MAX + 64;
/** The longest list of extents, in bytes: QEMU sends a megabyte of them. */
const STATUS_MAX = 2 ** 20 + 4;
/** A read that arrives in more separate pieces than this is malformed, because only a malicious server sends so many. */
const PIECES_MAX = 2 ** 15;

/** The replies that are awaited. Unusable after `advance` has thrown at malformed bytes. */
export class Replies {
  readonly #structured: boolean;
  readonly #allocation: number | undefined;
  readonly #awaited = new Map<bigint, Reply>();
  #state: State = HEAD;

  /**
   * @param structured whether structured replies were agreed on
   * @param allocation the number of the context of block statuses
   */
  constructor(structured: boolean, allocation?: number) {
    this.#structured = structured;
    this.#allocation = allocation;
  }

  /** How many replies are awaited. */
  get size(): number {
    return this.#awaited.size;
  }

  /** A request is sent. Its cookie is not in use. */
  expect({ cookie, command, offset, length, into, found }: ClientRequest): void {
    invariant(!this.#awaited.has(cookie), 'R1: a cookie that is in use');
    const nothing = { got: [], error: 0, message: '', dropped: false };
    // Not the request as a whole, because its payload would stay in memory.
    this.#awaited.set(cookie, { cookie, command, offset, length, into, found, ...nothing });
  }

  /** The next complete reply; undefined while more bytes are needed. */
  advance(reader: ByteReader): Answer | undefined {
    for (;;) {
      const answer = this.#step(reader);
      if (answer !== true) return answer;
    }
  }

  /** True: it took something. Undefined: it needs more bytes. */
  #step(reader: ByteReader): Answer | true | undefined {
    const state = this.#state;
    switch (state.kind) {
      case 'head':
        return this.#head(reader);
      case 'place': {
        const bytes = reader.take(8);
        if (!bytes) return undefined;
        const { reply, header } = state;
        const length = header.length - 8;
        const at = claim(reply, uint64.take(new Input(bytes)), length);
        this.#state = { kind: 'data', reply, done: header.done, at, end: at + length };
        return true;
      }
      case 'data': {
        const { reply, done, at, end } = state;
        const into = intoOf(reply, at, end);
        state.at += into ? reader.takeInto(into) : reader.skip(end - at);
        if (state.at < end) return undefined;
        return this.#endOfPiece(reply, done);
      }
      case 'payload': {
        const bytes = reader.take(state.header.length);
        if (!bytes) return undefined;
        note(state.reply, state.header, bytes, this.#allocation);
        return this.#endOfPiece(state.reply, state.header.done);
      }
    }
  }

  #head(reader: ByteReader): Answer | true | undefined {
    const magic = reader.peekUint32();
    if (magic === undefined) return undefined;
    if (magic === SIMPLE_REPLY_MAGIC) {
      const reply = reader.takeValue(SIMPLE_REPLY);
      return reply && this.#simple(reply);
    }
    if (magic !== CHUNK_MAGIC || !this.#structured) {
      throw malformed(`a reply that begins with 0x${magic.toString(16)}`);
    }
    const header = reader.takeValue(CHUNK_HEADER);
    return header && this.#chunk(header);
  }

  #simple({ cookie, error }: SimpleReply): Answer | true {
    const reply = this.#find(cookie);
    if (reply.got.length > 0) throw malformed('a simple reply in the middle of a structured one');
    reply.error = error;
    if (reply.command !== COMMAND.READ || error !== 0) return this.#endOfPiece(reply, true);
    if (this.#structured)
      throw malformed('a simple reply to a read, although structured replies were agreed');
    claim(reply, reply.offset, reply.length);
    this.#state = { kind: 'data', reply, done: true, at: 0, end: reply.length };
    return true;
  }

  #chunk(header: ChunkHeader): true {
    const { cookie, type, length, done } = header;
    const reply = this.#find(cookie);
    const isRead = reply.command === COMMAND.READ;
    const isStatus = reply.command === COMMAND.BLOCK_STATUS;
    if (type === CHUNK_TYPE.OFFSET_DATA && isRead) {
      if (length <= 8 || length - 8 > reply.length) throw malformed(`a chunk of ${length} bytes`);
      this.#state = { kind: 'place', reply, header };
      return true;
    }
    const fits =
      (type === CHUNK_TYPE.NONE && done) ||
      (type === CHUNK_TYPE.OFFSET_HOLE && isRead) ||
      (type === CHUNK_TYPE.BLOCK_STATUS && isStatus) ||
      isErrorChunk(type);
    if (!fits) throw malformed(`a chunk of type ${type} for command ${reply.command}`);
    if (length > (type === CHUNK_TYPE.BLOCK_STATUS ? STATUS_MAX : PAYLOAD_MAX))
      throw malformed(`a chunk of ${length} bytes`);
    this.#state = { kind: 'payload', reply, header };
    return true;
  }

  #endOfPiece(reply: Reply, done: boolean): Answer | true {
    this.#state = HEAD;
    if (!done) return true;
    const { cookie, command, length, error, message, dropped, got } = reply;
    const complete = got[0]?.start === 0 && got[0].end === length;
    if (command === COMMAND.READ && error === 0 && !complete) {
      throw malformed(`a reply to a read of ${length} bytes that does not have all of them`);
    }
    if (command === COMMAND.BLOCK_STATUS && error === 0 && !reply.found?.length) {
      throw malformed('a reply to a block status without extents'); // R5
    }
    this.#awaited.delete(cookie);
    return { cookie, command, length, error, message, dropped };
  }

  #find(cookie: bigint): Reply {
    const reply = this.#awaited.get(cookie);
    if (!reply) throw malformed(`a reply to request ${cookie}, which is not in flight`);
    return reply;
  }
}

/** Records a chunk without data. */
function note(
  reply: Reply,
  { type }: ChunkHeader,
  payload: Uint8Array,
  allocation: number | undefined,
): void {
  const chunk = decodeChunk(type, payload);
  if (chunk.kind === 'error' && reply.error === 0) {
    reply.error = chunk.error;
    reply.message = chunk.message;
  }
  if (chunk.kind === 'status') {
    const { found } = reply;
    const isNew = chunk.context === allocation && found?.length === 0;
    if (!isNew) throw malformed(`extents of context ${chunk.context} that were not asked for`); // R5
    for (const extent of chunk.extents) {
      if (extent.length === 0) throw malformed('an empty extent');
      found.push(extent);
    }
  }
  if (chunk.kind === 'hole') {
    const at = claim(reply, chunk.offset, chunk.length);
    intoOf(reply, at, at + chunk.length)?.fill(0);
  }
}

/** R3: where a part of a read goes; undefined, and recorded, if its buffer is gone. */
function intoOf(reply: Reply, start: number, end: number): Uint8Array | undefined {
  const { into, length } = reply;
  // The length of a view changes when its buffer is transferred or shrinks.
  if (into?.length === length) return into.subarray(start, end);
  reply.dropped = true;
  return undefined;
}

/** R2: records that a range has come; returns its place in the request. */
function claim(reply: Reply, offset: number, length: number): number {
  const start = offset - reply.offset;
  const end = start + length;
  if (!(start >= 0 && end <= reply.length)) throw malformed('data outside of the requested range');
  const { got } = reply;
  const i = firstAfter(got, start);
  const left = got[i - 1];
  const right = got[i];
  if (right && right.start < end)
    throw malformed('data of a read that the server has already sent');
  const joinsLeft = left?.end === start;
  const joinsRight = right?.start === end;
  const joined = { start: joinsLeft ? left.start : start, end: joinsRight ? right.end : end };
  got.splice(joinsLeft ? i - 1 : i, Number(joinsLeft) + Number(joinsRight), joined);
  if (got.length > PIECES_MAX)
    throw malformed(`a reply to a read in more than ${PIECES_MAX} pieces`);
  return start;
}
