// An NBD server in memory for tests of the client: a volatile cache over a medium, any number of connections, and a cut at
// any byte, which loses the cache and every connection. It takes its input as it comes and answers at once.

import { Duplex } from 'node:stream';
import {
  BASE_ALLOCATION,
  ByteReader,
  type Chunk,
  CLIENT_FLAGS,
  COMMAND,
  COMMAND_FLAG,
  EXTENT_FLAG,
  type Extent,
  encodeInfo,
  encodeOptionReply,
  TRANSMISSION_FLAG as FLAG,
  INFO_REQUEST,
  LISTED_EXPORT,
  META_CONTEXT,
  NBD_ERROR,
  type NbdRequest,
  OPTION,
  OPTION_HEADER,
  OPTION_REPLY,
  REQUEST,
  SERVER_GREETING,
  SIMPLE_REPLY,
} from '../../src/nbd/wire/index.js';
import { encodeChunk } from './support.js';

export interface MemoryServerOptions {
  readonly size: number;
  readonly flags?: number;
  readonly structured?: boolean;
  /** A flush is for what came over the same connection. */
  readonly cachePerConnection?: boolean;
  /** Once so many bytes went over the wire, in either direction, counted from `arm`. */
  readonly cuts?: readonly number[];
}

/** The number of `base:allocation`. */
const ALLOCATION = 5;

export const ALL: number =
  FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES;

export class MemoryServer {
  size: number;
  flags: number;
  readonly medium: Uint8Array;
  cache: Uint8Array;
  structured: boolean;
  /** What each request was, in order. */
  readonly requests: NbdRequest[] = [];
  /** Answers a request with this error, where it says one. */
  fails: (request: NbdRequest) => number = () => 0;
  /** Takes a request and forgets it. */
  hangs: (request: NbdRequest) => boolean = () => false;
  /** Nobody gets in. */
  down = false;
  readonly #cachePerConnection: boolean;
  #cuts: number[];
  #bytes = 0;
  #armed = false;
  #dead = false;
  readonly #sockets = new Set<Duplex>();
  crashes = 0;

  constructor(options: MemoryServerOptions) {
    const { size, flags = ALL, structured = true, cuts = [] } = options;
    this.#cachePerConnection = options.cachePerConnection ?? false;
    this.size = size;
    this.flags = flags;
    this.structured = structured;
    this.medium = new Uint8Array(size);
    this.cache = new Uint8Array(size);
    this.#cuts = [...cuts];
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /** Bytes so far, both ways. */
  get bytes(): number {
    return this.#bytes;
  }

  /** From now on bytes count. */
  arm(): void {
    this.#armed = true;
    this.#bytes = 0;
  }

  readonly dial = (): Duplex => {
    if (this.down || this.#dead) throw new Error('nobody at home');
    const session = this.#session((bytes) => this.#deliver(socket, bytes));
    const socket: Duplex = new Duplex({
      read: () => {},
      write: (bytes: Uint8Array, _encoding, done) => {
        if (this.#dead) return done();
        const passes = this.#pass(bytes.length);
        session(new Uint8Array(bytes.subarray(0, passes)));
        if (passes < bytes.length) this.crash();
        done();
      },
      final: (done) => {
        socket.push(null);
        done();
      },
    });
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    setImmediate(() => session(new Uint8Array(0)));
    return socket;
  };

  /** Loses the cache and all connections. */
  crash(): void {
    this.crashes += 1;
    this.#dead = false;
    this.cache = new Uint8Array(this.medium);
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  /** Sends bytes of no meaning. */
  babble(bytes: Uint8Array): void {
    for (const socket of this.#sockets) socket.push(bytes);
  }

  #deliver(socket: Duplex, bytes: Uint8Array): void {
    if (!this.#sockets.has(socket) || this.#dead) return;
    const passes = this.#pass(bytes.length);
    if (passes > 0) socket.push(new Uint8Array(bytes.subarray(0, passes)));
    if (passes === bytes.length) return;
    // What is on its way arrives, and nothing behind it.
    this.#dead = true;
    setImmediate(() => this.crash());
  }

  /** How many of so many bytes pass. */
  #pass(count: number): number {
    if (!this.#armed) return count;
    const cut = this.#cuts[0] ?? Number.POSITIVE_INFINITY;
    const passes = Math.min(count, Math.max(cut - this.#bytes, 0));
    this.#bytes += passes;
    if (passes < count) {
      this.#cuts.shift();
      this.#bytes = 0;
    }
    return passes;
  }

  #session(send: (bytes: Uint8Array) => void): (bytes: Uint8Array) => void {
    const reader = new ByteReader(1 << 28);
    const own = this.#cachePerConnection ? new Uint8Array(this.medium) : undefined;
    let state: 'new' | 'flags' | 'options' | 'export' = 'new';
    let option: ReturnType<typeof OPTION_HEADER.decode> | undefined;
    let request: NbdRequest | undefined;
    let structured = false;
    const step = (): boolean => {
      switch (state) {
        case 'new':
          state = 'flags';
          send(SERVER_GREETING.encode({ flags: 3 }));
          return true;
        case 'flags':
          if (!reader.take(CLIENT_FLAGS.bytes)) return false;
          state = 'options';
          return true;
        case 'options': {
          const head = option ? undefined : reader.take(OPTION_HEADER.bytes);
          option ??= head && OPTION_HEADER.decode(head);
          const data = option && reader.take(option.length);
          if (!option || !data) return false;
          const { option: number } = option;
          option = undefined;
          const reply = (kind: number, bytes?: Uint8Array): void =>
            send(encodeOptionReply(number, kind, bytes));
          if (number === OPTION.STRUCTURED_REPLY && this.structured) {
            structured = true;
            reply(OPTION_REPLY.ACK);
          } else if (number === OPTION.SET_META_CONTEXT && structured) {
            reply(
              OPTION_REPLY.META_CONTEXT,
              META_CONTEXT.encode({ id: ALLOCATION, name: BASE_ALLOCATION }),
            );
            reply(OPTION_REPLY.ACK);
          } else if (number === OPTION.LIST) {
            for (const name of ['', 'disk']) {
              reply(OPTION_REPLY.SERVER, LISTED_EXPORT.encode({ name, description: '' }));
            }
            reply(OPTION_REPLY.ACK);
          } else if (number === OPTION.GO && INFO_REQUEST.decode(data).name === 'nothing') {
            reply(OPTION_REPLY.ERR_UNKNOWN);
          } else if (number === OPTION.GO) {
            const { size, flags } = this;
            reply(OPTION_REPLY.INFO, encodeInfo({ kind: 'export', size, flags }));
            reply(OPTION_REPLY.ACK);
            state = 'export';
          } else reply(OPTION_REPLY.ERR_UNSUP);
          return true;
        }
        case 'export': {
          const head = request ? undefined : reader.take(REQUEST.bytes);
          request ??= head && REQUEST.decode(head);
          if (!request) return false;
          const data = reader.take(request.command === COMMAND.WRITE ? request.length : 0);
          if (!data) return false;
          const now = request;
          request = undefined;
          this.requests.push(now);
          const cache = own ?? this.cache;
          for (const bytes of this.#answer(now, data, structured, cache)) send(bytes);
          return true;
        }
      }
    };
    return (bytes) => {
      reader.push(bytes);
      while (step());
    };
  }

  #answer(
    request: NbdRequest,
    data: Uint8Array,
    structured: boolean,
    cache: Uint8Array,
  ): readonly Uint8Array[] {
    const { command, cookie, flags, offset, length } = request;
    if (this.hangs(request)) return [];
    const error = this.fails(request);
    const [start, end] = [offset, offset + length];
    if (error === 0) {
      if (command === COMMAND.WRITE) cache.set(data, offset);
      if (command === COMMAND.WRITE_ZEROES) cache.fill(0, start, end);
      if (command === COMMAND.TRIM) cache.fill(0xdd, start, end);
      if (command === COMMAND.FLUSH) this.medium.set(cache);
      if (flags & COMMAND_FLAG.FUA) this.medium.set(cache.subarray(start, end), start);
    }
    if (command === COMMAND.DISC) return [];
    if (command === COMMAND.BLOCK_STATUS && error === 0) {
      const extents = extentsOf(cache.subarray(start, end));
      return encodeChunk(cookie, true, { kind: 'status', context: ALLOCATION, extents });
    }
    const isRead = command === COMMAND.READ;
    const bytes = new Uint8Array(cache.subarray(start, end));
    if (!structured || (!isRead && error !== NBD_ERROR.EIO)) {
      const simple = SIMPLE_REPLY.encode({ cookie, error });
      return isRead && error === 0 ? [simple, bytes] : [simple];
    }
    if (error !== 0) return encodeChunk(cookie, true, { kind: 'error', error, message: 'no' });
    return this.#chunks(offset, bytes).flatMap((chunk, i, list) =>
      encodeChunk(cookie, i === list.length - 1, chunk),
    );
  }

  /** Halves, the second one first, and holes where there are only zeroes. */
  #chunks(offset: number, bytes: Uint8Array): Chunk[] {
    const half = bytes.length >> 1;
    return [
      { offset: offset + half, data: bytes.subarray(half) },
      { offset, data: bytes.subarray(0, half) },
    ].map(({ offset, data }) =>
      data.every((byte) => byte === 0)
        ? { kind: 'hole', offset, length: data.length }
        : { kind: 'data', offset, data },
    );
  }
}

/** A hole for each run of zeroes, a byte at a time, as a server whose blocks are bytes has them. */
function extentsOf(bytes: Uint8Array): Extent[] {
  const extents: { length: number; flags: number }[] = [];
  for (const byte of bytes) {
    const flags = byte === 0 ? EXTENT_FLAG.HOLE | EXTENT_FLAG.ZERO : 0;
    const last = extents.at(-1);
    if (last?.flags === flags) last.length += 1;
    else extents.push({ length: 1, flags });
  }
  return extents.slice(0, 5);
}
