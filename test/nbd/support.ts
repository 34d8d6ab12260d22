// A client that says whatever a test wants, legal or not: bytes built with the codec, and replies taken apart with it.

import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Outcome, SessionRequest } from '../../src/nbd/server/commands.js';
import type { ServerSession } from '../../src/nbd/server/session.js';
import {
  ByteReader,
  ByteWriter,
  CHUNK_HEADER,
  type Chunk,
  type ChunkHeader,
  CLIENT_FLAGS,
  COMMAND,
  decodeChunk,
  decodeInfo,
  encodeOption,
  INFO_REQUEST,
  type InfoPiece,
  isOptionError,
  META_CONTEXT_REQUEST,
  type NbdRequest,
  OPTION,
  OPTION_REPLY,
  OPTION_REPLY_HEADER,
  type OptionReplyHeader,
  putChunk,
  REQUEST,
  SERVER_GREETING,
  SIMPLE_REPLY,
  SIMPLE_REPLY_MAGIC,
  type SimpleReply,
} from '../../src/nbd/wire/index.js';

/** The bytes of a chunk with its payload. */
export function encodeChunk(cookie: bigint, done: boolean, chunk: Chunk): readonly Uint8Array[] {
  const out = new ByteWriter();
  putChunk(out, cookie, done, chunk);
  return out.take();
}

/** The bytes that a session answers a request with. */
export function answered(
  session: ServerSession,
  request: SessionRequest,
  outcome: Outcome,
): readonly Uint8Array[] {
  const out = new ByteWriter();
  session.answer(request, outcome, out);
  return out.take();
}

export const BOTH = { flags: 3 };
export const FLAGS: Uint8Array = CLIENT_FLAGS.encode(BOTH);

/** One stream of several pieces. */
export function bytes(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts as Uint8Array[]));
}

export function go(name = ''): Uint8Array {
  return encodeOption(OPTION.GO, INFO_REQUEST.encode({ name, wants: [] }));
}

export function setContexts(name: string, ...queries: string[]): Uint8Array {
  return encodeOption(OPTION.SET_META_CONTEXT, META_CONTEXT_REQUEST.encode({ name, queries }));
}

export const STRUCTURED: Uint8Array = encodeOption(OPTION.STRUCTURED_REPLY);

/** A request with zeroes for whatever is not given, and its payload. */
export function request(
  command: number,
  cookie: number,
  fields: Partial<Pick<NbdRequest, 'flags' | 'offset' | 'length'>> & { data?: Uint8Array } = {},
): Uint8Array {
  const { flags = 0, offset = 0, data, length = data?.length ?? 0 } = fields;
  const head = REQUEST.encode({ flags, command, cookie: BigInt(cookie), offset, length });
  return data ? bytes(head, data) : head;
}

/** An answer to an option. */
export interface OptionAnswer {
  readonly option: number;
  readonly reply: number;
  readonly data: Uint8Array;
}

/** A reply, or the last chunk of one. */
export interface Reply {
  readonly cookie: number;
  readonly error: number;
  readonly data?: Uint8Array;
  readonly chunk?: Chunk;
}

/** Takes apart what a server sends, as far as it has come. */
export class Answers {
  readonly reader: ByteReader = new ByteReader(2 ** 30);
  /** How many bytes the READs carry that were answered well, by cookie; for simple replies. */
  readonly reads: Map<number, number> = new Map();
  #greeted = false;
  #open = false;
  /** A head whose data has not come yet. */
  #option: OptionReplyHeader | undefined;
  #simple: SimpleReply | undefined;
  #chunk: ChunkHeader | undefined;

  /** In transmission from now on. */
  opened(): this {
    this.#greeted = true;
    this.#open = true;
    return this;
  }

  /** The greeting was read elsewhere. */
  greeted(): void {
    this.#greeted = true;
  }

  greeting(): Uint8Array | undefined {
    const greeting = this.#greeted ? undefined : this.reader.take(SERVER_GREETING.bytes);
    this.#greeted ||= greeting !== undefined;
    return greeting;
  }

  option(): OptionAnswer | undefined {
    this.greeting();
    if (!this.#greeted || this.#open) return undefined;
    this.#option ??= decoded(
      this.reader.take(OPTION_REPLY_HEADER.bytes),
      OPTION_REPLY_HEADER.decode,
    );
    const header = this.#option;
    const data = header && this.reader.take(header.length);
    if (!header || !data) return undefined;
    this.#option = undefined;
    if (header.option === OPTION.GO && header.reply === OPTION_REPLY.ACK) this.#open = true;
    return { ...header, data };
  }

  options(): OptionAnswer[] {
    return Array.from(all(() => this.option()));
  }

  reply(): Reply | undefined {
    if (!this.#simple && !this.#chunk) {
      if (this.reader.peekUint32() === SIMPLE_REPLY_MAGIC) {
        this.#simple = decoded(this.reader.take(SIMPLE_REPLY.bytes), SIMPLE_REPLY.decode);
      } else {
        this.#chunk = decoded(this.reader.take(CHUNK_HEADER.bytes), CHUNK_HEADER.decode);
      }
    }
    return this.#simple ? this.#simpleReply(this.#simple) : this.#chunkReply(this.#chunk);
  }

  replies(): Reply[] {
    return Array.from(all(() => this.reply()));
  }

  #simpleReply({ cookie, error }: SimpleReply): Reply | undefined {
    const length = error === 0 ? (this.reads.get(Number(cookie)) ?? 0) : 0;
    const data = this.reader.take(length);
    if (!data) return undefined;
    this.#simple = undefined;
    return { cookie: Number(cookie), error, ...(length > 0 && { data: new Uint8Array(data) }) };
  }

  #chunkReply(header: ChunkHeader | undefined): Reply | undefined {
    const payload = header && this.reader.take(header.length);
    if (!header || !payload) return undefined;
    this.#chunk = undefined;
    const chunk = decodeChunk(header.type, payload);
    if (!header.done) throw new Error('the server sends a reply in several chunks');
    const error = chunk.kind === 'error' ? chunk.error : 0;
    const data = chunk.kind === 'data' && { data: new Uint8Array(chunk.data) };
    return { cookie: Number(header.cookie), error, chunk, ...data };
  }
}

function decoded<T>(
  bytes: Uint8Array | undefined,
  decode: (bytes: Uint8Array) => T,
): T | undefined {
  return bytes && decode(bytes);
}

function* all<T>(next: () => T | undefined): Generator<T> {
  for (let value = next(); value !== undefined; value = next()) yield value;
}

/** A client on a socket, for one export. */
export class RawClient {
  readonly socket: Socket;
  readonly #answers = new Answers();
  readonly #waiting = new Map<
    number,
    { resolve: (reply: Reply) => void; reject: (e: Error) => void }
  >();
  readonly infos: InfoPiece[] = [];
  /** Cookies in the order of their replies. */
  readonly order: number[] = [];
  readonly closed: Promise<void>;
  #next = 1;
  #open: (() => void) | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        for (const { reject } of this.#waiting.values())
          reject(new Error('the connection is gone'));
        resolve();
      });
    });
  }

  /** Connects and opens an export, simple replies unless `structured`. */
  static async open(
    path: string,
    { name = '', structured = false }: { name?: string; structured?: boolean } = {},
  ): Promise<RawClient> {
    const client = new RawClient(connect({ path }));
    await client.negotiate(FLAGS, ...(structured ? [STRUCTURED] : []), go(name));
    return client;
  }

  /** Says this much; settles when an export is open. */
  async negotiate(...said: readonly Uint8Array[]): Promise<void> {
    const opened = new Promise<void>((resolve, reject) => {
      this.#open = resolve;
      this.closed.then(() => reject(new Error('the connection is gone')));
    });
    // Behind STARTTLS there is no second greeting.
    if (said.length === 0) this.#answers.greeted();
    this.socket.on('data', (chunk) => this.#receive(chunk));
    this.socket.write(bytes(...(said.length === 0 ? [go()] : said)));
    await opened;
  }

  /** Sends a request; answers with its reply. */
  ask(command: number, fields: Parameters<typeof request>[2] = {}): Promise<Reply> {
    const cookie = this.#next++;
    if (command === COMMAND.READ) this.#answers.reads.set(cookie, fields.length ?? 0);
    this.socket.write(request(command, cookie, fields));
    return new Promise((resolve, reject) => this.#waiting.set(cookie, { resolve, reject }));
  }

  #receive(chunk: Uint8Array): void {
    this.#answers.reader.push(chunk);
    if (this.#open) {
      for (const { option, reply, data } of this.#answers.options()) {
        if (option !== OPTION.GO) continue;
        if (reply === OPTION_REPLY.INFO) this.infos.push(decodeInfo(data));
        if (isOptionError(reply)) this.socket.destroy();
        if (reply !== OPTION_REPLY.ACK) continue;
        this.#open?.();
        this.#open = undefined;
      }
      if (this.#open) return;
    }
    for (const reply of this.#answers.replies()) {
      this.order.push(reply.cookie);
      this.#waiting.get(reply.cookie)?.resolve(reply);
      this.#waiting.delete(reply.cookie);
    }
  }
}

/** A new place for sockets and files; `remove` it. */
export async function temporaryFolder(): Promise<{ path: string; remove: () => Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'write-barrier-nbd-'));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}
