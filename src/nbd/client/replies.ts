// The client's side of an export in use: which replies are awaited, and what arrives.
//
//   head ──simple, chunk──▶ data | payload ──its last byte──▶ head
//
// A reply may be simple or structured, several of them may be under way with their chunks mixed, and the data of reads
// goes straight to the buffer of whoever asked.
//
// Invariants, tested under these numbers:
//   R1  A request is answered once, by a reply that carries its cookie. A cookie that nobody waits for, because it
//       never was or because its reply is complete, is malformed.
//   R2  A read is answered well when each of its bytes has come exactly once, as data or as a hole, inside of what was
//       asked. More, less, or elsewhere is malformed.
//   R3  Only the buffer of an awaited read is written to, and nothing any more once anything was malformed.
//   R4  What is kept besides is bounded: a head, a short payload, and a list of the ranges that have come.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Simple reply message", "Structured reply chunk message",
// "Structured reply types", "Error values".

import { getUint64, viewOf } from '../wire/fields.js';
import {
  type ByteReader,
  CHUNK_MAGIC,
  CHUNK_TYPE,
  type ChunkHeader,
  COMMAND,
  decodeChunk,
  decodeChunkHeader,
  decodeSimpleReply,
  isErrorChunk,
  malformed,
  SIMPLE_REPLY_MAGIC,
  SIZE,
  STRING_MAX,
} from '../wire/index.js';

/** A request whose reply is awaited. */
export interface Awaited {
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  /** Where the data of a read goes; as long as `length`. */
  readonly into?: Uint8Array;
}

/** A reply, complete. */
export interface Answer {
  readonly cookie: bigint;
  /** One of `NBD_ERROR`, or a number that is not known here; 0 for success. */
  readonly error: number;
  /** For people; often ''. */
  readonly message: string;
}

/** A reply that is under way. */
interface Reply extends Awaited {
  readonly cookie: bigint;
  /** What has come, relative to the request: starts and ends by turns, in order. */
  readonly got: number[];
  error: number;
  message: string;
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
/** A message, and what stands around it. */
const PAYLOAD_MAX = STRING_MAX + 64;
/** Of a server that sends a read in more pieces than this, apart from each other, we think ill. */
const PIECES_MAX = 2 ** 16;

/** See the head of this file. `advance` throws at what is malformed; nothing can be done with it after that. */
export class Replies {
  readonly #structured: boolean;
  readonly #awaited = new Map<bigint, Reply>();
  #state: State = HEAD;

  /** @param structured whether structured replies were agreed on */
  constructor(structured: boolean) {
    this.#structured = structured;
  }

  /** How many replies are awaited. */
  get size(): number {
    return this.#awaited.size;
  }

  /** A request has gone out. Its cookie is not in use. */
  expect(cookie: bigint, request: Awaited): void {
    this.#awaited.set(cookie, { ...request, cookie, got: [], error: 0, message: '' });
  }

  /** The next complete reply; undefined while more bytes are needed. */
  advance(reader: ByteReader): Answer | undefined {
    for (;;) {
      const answer = this.#step(reader);
      if (answer !== true) return answer;
    }
  }

  /** True: it went on. Undefined: it needs more bytes. */
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
        const at = claim(reply, getUint64(viewOf(bytes), 0), length);
        this.#state = { kind: 'data', reply, done: header.done, at, end: at + length };
        return true;
      }
      case 'data': {
        const { reply, done, at, end } = state;
        state.at += reader.takeInto((reply.into as Uint8Array).subarray(at, end));
        if (state.at < end) return undefined;
        return this.#endOfPiece(reply, done);
      }
      case 'payload': {
        const bytes = reader.take(state.header.length);
        if (!bytes) return undefined;
        note(state.reply, state.header, bytes);
        return this.#endOfPiece(state.reply, state.header.done);
      }
    }
  }

  #head(reader: ByteReader): Answer | true | undefined {
    const magic = reader.peekUint32();
    if (magic === undefined) return undefined;
    if (magic === SIMPLE_REPLY_MAGIC) {
      const bytes = reader.take(SIZE.SIMPLE_REPLY);
      return bytes && this.#simple(bytes);
    }
    if (magic !== CHUNK_MAGIC || !this.#structured) {
      throw malformed(`a reply that begins with 0x${magic.toString(16)}`);
    }
    const bytes = reader.take(SIZE.CHUNK_HEADER);
    return bytes && this.#chunk(decodeChunkHeader(bytes));
  }

  #simple(bytes: Uint8Array): Answer | true {
    const { cookie, error } = decodeSimpleReply(bytes);
    const reply = this.#find(cookie);
    if (reply.got.length > 0) throw malformed('a simple reply in the middle of a structured one');
    reply.error = error;
    if (reply.command !== COMMAND.READ || error !== 0) return this.#endOfPiece(reply, true);
    if (this.#structured) throw malformed('a simple reply to a read, against the agreement');
    claim(reply, reply.offset, reply.length);
    this.#state = { kind: 'data', reply, done: true, at: 0, end: reply.length };
    return true;
  }

  #chunk(header: ChunkHeader): true {
    const { cookie, type, length, done } = header;
    const reply = this.#find(cookie);
    const isRead = reply.command === COMMAND.READ;
    if (type === CHUNK_TYPE.OFFSET_DATA && isRead) {
      if (length <= 8 || length - 8 > reply.length) throw malformed(`a chunk of ${length} bytes`);
      this.#state = { kind: 'place', reply, header };
      return true;
    }
    const fits =
      (type === CHUNK_TYPE.NONE && done) ||
      (type === CHUNK_TYPE.OFFSET_HOLE && isRead) ||
      isErrorChunk(type);
    if (!fits) throw malformed(`a chunk of type ${type} for command ${reply.command}`);
    if (length > PAYLOAD_MAX) throw malformed(`a chunk of ${length} bytes`);
    this.#state = { kind: 'payload', reply, header };
    return true;
  }

  #endOfPiece(reply: Reply, done: boolean): Answer | true {
    this.#state = HEAD;
    if (!done) return true;
    const { cookie, error, message, command, got, length } = reply;
    const complete = got.length === 2 && got[0] === 0 && got[1] === length;
    if (command === COMMAND.READ && error === 0 && !complete) {
      throw malformed(`a read of ${length} bytes answered with other ones`);
    }
    this.#awaited.delete(cookie);
    return { cookie, error, message };
  }

  #find(cookie: bigint): Reply {
    const reply = this.#awaited.get(cookie);
    if (!reply) throw malformed(`a reply to request ${cookie}, which is not awaited`);
    return reply;
  }
}

/** What a chunk without data says. */
function note(reply: Reply, { type }: ChunkHeader, payload: Uint8Array): void {
  const chunk = decodeChunk(type, payload);
  if (chunk.kind === 'error' && reply.error === 0) {
    reply.error = chunk.error;
    reply.message = chunk.message;
  }
  if (chunk.kind === 'hole') {
    const at = claim(reply, chunk.offset, chunk.length);
    reply.into?.fill(0, at, at + chunk.length);
  }
}

/** R2: takes down that a range has come; where it lies in the request. */
function claim(reply: Reply, offset: number, length: number): number {
  const start = offset - reply.offset;
  const end = start + length;
  if (!(start >= 0 && end <= reply.length)) throw malformed('data that was not asked for');
  const { got } = reply;
  const i = countUpTo(got, start);
  const next = got[i] ?? Number.POSITIVE_INFINITY;
  if (i % 2 === 1 || next < end) throw malformed('data that has come before');
  const joinsLeft = i > 0 && got[i - 1] === start;
  const joinsRight = next === end;
  const ends = [...(joinsLeft ? [] : [start]), ...(joinsRight ? [] : [end])];
  got.splice(joinsLeft ? i - 1 : i, (joinsLeft ? 1 : 0) + (joinsRight ? 1 : 0), ...ends);
  if (got.length > PIECES_MAX) throw malformed('a read in too many pieces');
  return start;
}

/** How many of the numbers, which are in order, are not above `limit`. */
function countUpTo(numbers: readonly number[], limit: number): number {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((numbers[middle] as number) <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
