// One connection of a client, from the greeting to the end, without a socket: bytes in, events out.
//
//   flags ─▶ option ⇄ option data ──GO, EXPORT_NAME──▶ request ⇄ payload ──DISC──▶ ended
//               │ ▲                                       │ ▲
//               ▼ │                                       ▼ │
//              TLS, too much data to skip               payload to skip
//
// The driver feeds bytes with `receive`, and asks with `next` until there is nothing. It may stop asking: what was not
// asked for waits as bytes, and the driver stops reading then. So how much is in flight is decided by whoever asks.
//
// Invariants, tested under these numbers:
//   N1  Every request that was handed out is answered once; what was not handed out is not answered by anybody else.
//       DISC has no answer.
//   N2  A request that is handed out lies inside its export, in whole blocks, with flags and a command that were
//       offered. Any other is refused here, with the error that the protocol has for it.
//   N3  After a refusal the next request is found where it is: the payload of a refused write is skipped, whatever
//       length it claims, and nothing of it is kept.
//   N4  Bytes that no client sends (a wrong magic, unknown client flags, anything between STARTTLS and TLS) end the
//       session. After the end nothing comes out any more.
//   N5  No more is held than `capacity` bytes.
//
// Not here: sockets, time, how much is in flight (connection.ts); what an option means (negotiation.ts), which requests
// are legal (check-request.ts), what they do (carry-out.ts).
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Handshake", "Transmission".

import { WriteBarrierError } from 'write-barrier';
import {
  ByteReader,
  type Chunk,
  COMMAND,
  decodeClientFlags,
  decodeOptionHeader,
  decodeRequest,
  type Extent,
  encodeChunk,
  encodeGreeting,
  encodeOptionReply,
  encodeSimpleReply,
  type HandshakeFlags,
  NBD_ERROR,
  type NbdRequest,
  OPTION,
  OPTION_REPLY,
  SIZE,
  STRING_MAX,
} from '../wire/index.js';
import { type Agreed, type Refusal, refusalOf } from './check-request.js';
import type { ExportTerms } from './exports.js';
import { type Agreement, ALLOCATION_ID, INITIAL, negotiate, type Offer } from './negotiation.js';

/** A request that is to be carried out. */
export interface SessionRequest extends NbdRequest {
  /** What a WRITE is to write. */
  readonly data: readonly Uint8Array[];
}

/** What the session wants of its driver. */
export type SessionEvent =
  | { readonly kind: 'send'; readonly parts: readonly Uint8Array[] }
  /** From here on everything goes through TLS, what was sent before excepted. */
  | { readonly kind: 'startTls' }
  | { readonly kind: 'open'; readonly name: string }
  | { readonly kind: 'request'; readonly request: SessionRequest }
  /** `why` is undefined where the client took its leave as it should. */
  | { readonly kind: 'end'; readonly why: string | undefined };

/** How a request ended. */
export type Outcome =
  | Refusal
  | { readonly data?: Uint8Array | undefined; readonly extents?: readonly Extent[] };

type State =
  | { readonly at: 'flags' }
  | { readonly at: 'option' }
  | { readonly at: 'optionData'; readonly option: number; readonly length: number }
  | { readonly at: 'tls' }
  | { readonly at: 'request' }
  | { readonly at: 'payload'; readonly request: NbdRequest }
  | { readonly at: 'skip'; left: number; readonly after: () => void }
  | { readonly at: 'ended' };

const BOTH: HandshakeFlags = { fixedNewstyle: true, noZeroes: true };
const NO_DATA: readonly Uint8Array[] = [];
/** The most that an option may bring along: a list of queries, say. */
const OPTION_DATA_MAX = 64 * 1024;
/** What a driver may push on top of a payload that is not complete. */
const SLACK = 1024 * 1024;

/** See the head of this file. */
export class ServerSession {
  readonly #offer: Offer;
  readonly #reader: ByteReader;
  #state: State = { at: 'flags' };
  #events: SessionEvent[] = [{ kind: 'send', parts: [encodeGreeting(BOTH)] }];
  #flags = BOTH;
  #agreement: Agreement = INITIAL;
  #terms: ExportTerms | undefined;
  #agreed: Agreed = { structured: false, allocation: false };
  #closing = false;
  readonly #pending = new Set<SessionRequest>();

  /** `requestBytes`: the longest payload of any export. */
  constructor(offer: Offer, requestBytes: number) {
    this.#offer = offer;
    this.#reader = new ByteReader(requestBytes + SLACK);
  }

  /** Bytes that have come and were not asked for. */
  get unread(): number {
    return this.#reader.length;
  }

  /** The transmission has begun. */
  get open(): boolean {
    return this.#terms !== undefined;
  }

  get ended(): boolean {
    return this.#state.at === 'ended';
  }

  /** TLS is there, so the bytes that come are those inside. */
  get tls(): boolean {
    return this.#agreement.tls;
  }

  /** Bytes from the client. */
  receive(chunk: Uint8Array): void {
    if (this.#state.at === 'ended') return;
    if (this.#state.at === 'tls')
      this.#end('bytes between STARTTLS and TLS'); // N4
    else this.#reader.push(chunk);
  }

  /** What is to be done next; undefined until more bytes come. */
  next(): SessionEvent | undefined {
    for (;;) {
      const event = this.#events.shift();
      if (event) return event;
      if (!this.#step()) return undefined;
    }
  }

  /** TLS stands. */
  tlsReady(): void {
    if (this.#state.at === 'tls') this.#state = { at: 'option' };
  }

  /** From now on options and requests are answered that the server is closing. */
  shutdown(): void {
    this.#closing = true;
  }

  /** How a request that was handed out has ended; what is to be sent for it. */
  answer(request: SessionRequest, outcome: Outcome): readonly Uint8Array[] {
    if (!this.#pending.delete(request)) throw new Error('N1: an answer to no request');
    return this.#reply(request, outcome);
  }

  /** Takes one thing out of what has come; false where not enough has. */
  #step(): boolean {
    const state = this.#state;
    switch (state.at) {
      case 'flags':
        return this.#on(SIZE.CLIENT_FLAGS, (bytes) => {
          this.#flags = decodeClientFlags(bytes);
          this.#state = { at: 'option' };
        });
      case 'option':
        return this.#on(SIZE.OPTION_HEADER, (bytes) => {
          const { option, length } = decodeOptionHeader(bytes);
          this.#optionHeader(option, length);
        });
      case 'optionData':
        return this.#on(state.length, (data) => this.#option(state.option, data));
      case 'request':
        return this.#on(SIZE.REQUEST, (bytes) => this.#request(decodeRequest(bytes)));
      case 'payload': {
        const { request } = state;
        const data = this.#reader.takeParts(request.length);
        if (!data) return false;
        this.#state = { at: 'request' };
        // What was not complete when the server began to close is behind its last flush.
        if (this.#closing) this.#send(this.#reply(request, CLOSING));
        else this.#handOut(request, data);
        return true;
      }
      case 'skip': {
        const skipped = this.#reader.skip(state.left);
        state.left -= skipped;
        if (state.left > 0) return false;
        state.after();
        return true;
      }
      case 'tls':
      case 'ended':
        return false;
    }
  }

  #on(length: number, take: (bytes: Uint8Array) => void): boolean {
    const bytes = this.#reader.take(length);
    if (!bytes) return false;
    try {
      take(bytes);
    } catch (error) {
      // N4: the decoders throw nothing else.
      if (!WriteBarrierError.is(error) || error.code !== 'SYNTAX') throw error;
      this.#end(error.message);
    }
    return true;
  }

  // Handshake

  #optionHeader(option: number, length: number): void {
    const max = option === OPTION.EXPORT_NAME ? STRING_MAX : OPTION_DATA_MAX;
    if (length <= max) {
      this.#state = { at: 'optionData', option, length };
      return;
    }
    // There is no way to refuse a name.
    if (option === OPTION.EXPORT_NAME || !this.#flags.fixedNewstyle) {
      this.#end(`option ${option} with ${length} bytes of data`);
      return;
    }
    const refusal = encodeOptionReply(option, OPTION_REPLY.ERR_TOO_BIG);
    this.#skip(length, 'option', () => this.#send([refusal]));
  }

  #option(option: number, data: Uint8Array): void {
    const verdict = negotiate({
      option,
      data,
      agreement: this.#agreement,
      offer: this.#offer,
      flags: this.#flags,
      closing: this.#closing,
    });
    this.#agreement = verdict.agreement;
    this.#state = { at: 'option' };
    this.#send(verdict.answer);
    switch (verdict.next) {
      case 'option':
        return;
      case 'tls':
        this.#state = { at: 'tls' };
        if (this.unread > 0)
          this.#end('bytes between STARTTLS and TLS'); // N4
        else this.#events.push({ kind: 'startTls' });
        return;
      case 'open':
        this.#terms = verdict.opens;
        this.#agreed = verdict.agreed ?? this.#agreed;
        this.#state = { at: 'request' };
        this.#events.push({ kind: 'open', name: verdict.opens?.name ?? '' });
        return;
      case 'end':
        this.#end(verdict.why);
    }
  }

  // Transmission

  #request(request: NbdRequest): void {
    if (request.command === COMMAND.DISC) {
      this.#end(undefined);
      return;
    }
    const refusal = this.#closing
      ? CLOSING
      : refusalOf(request, this.#terms as ExportTerms, this.#agreed);
    if (request.command !== COMMAND.WRITE) {
      if (refusal) this.#send(this.#reply(request, refusal));
      else this.#handOut(request, NO_DATA);
    } else if (refusal) {
      // N3: the answer comes when the payload is over, so that a client which writes before it reads is not stuck.
      this.#skip(request.length, 'request', () => this.#send(this.#reply(request, refusal)));
    } else {
      this.#state = { at: 'payload', request };
    }
  }

  #handOut(request: NbdRequest, data: readonly Uint8Array[]): void {
    const { flags, command, cookie, offset, length } = request;
    // Not by spreading: V8 gives each such object a shape of its own, and whoever reads it is slow.
    const handed: SessionRequest = { flags, command, cookie, offset, length, data };
    this.#pending.add(handed);
    this.#events.push({ kind: 'request', request: handed });
  }

  #reply({ command, cookie, offset, length }: NbdRequest, outcome: Outcome): readonly Uint8Array[] {
    const { structured } = this.#agreed;
    if ('error' in outcome) {
      const { error, message } = outcome;
      return structured
        ? encodeChunk(cookie, true, { kind: 'error', error, message })
        : [encodeSimpleReply({ cookie, error })];
    }
    const { data, extents } = outcome;
    if (extents) {
      const status: Chunk = { kind: 'status', context: ALLOCATION_ID, extents };
      return encodeChunk(cookie, true, status);
    }
    if (command !== COMMAND.READ || !data) return [encodeSimpleReply({ cookie, error: 0 })];
    if (data.length !== length) throw new Error('N1: an answer of another length');
    return structured
      ? encodeChunk(cookie, true, { kind: 'data', offset, data })
      : [encodeSimpleReply({ cookie, error: 0 }), data];
  }

  #skip(length: number, at: 'option' | 'request', after: () => void): void {
    const resume = (): void => {
      this.#state = { at };
      after();
    };
    this.#state = { at: 'skip', left: length, after: resume };
  }

  #send(parts: readonly Uint8Array[]): void {
    if (parts.length > 0) this.#events.push({ kind: 'send', parts });
  }

  #end(why: string | undefined): void {
    this.#state = { at: 'ended' };
    this.#reader.skip(this.unread);
    this.#events.push({ kind: 'end', why });
  }
}

const CLOSING: Refusal = { error: NBD_ERROR.ESHUTDOWN, message: 'the server is closing' };
