// The server's side of one connection, from the greeting to the end, without a socket.
//
//   flags ─▶ option ⇄ option data ──GO, EXPORT_NAME──▶ request ⇄ payload ──DISC──▶ ended
//               │ ▲                                       │ ▲
//               ▼ │                                       ▼ │
//              TLS, too much data to skip               payload to skip
//
// How a driver gives it bytes, and how the driver asks for the next request, is the same for both sides (../session.ts). A
// driver that does not ask gets no request, so the driver decides how much is in flight.
//
// Invariants, tested under these numbers:
//   N1  A request that was handed out is answered once, by `answer`. DISC has no answer.
//   N2  A request that is handed out lies inside its export, in whole blocks, with flags and a command that were
//       offered. Any other is refused here, because only the protocol has the right error for it. The scheduler below
//       checks ranges for its other callers, and finds nothing wrong with these.
//   N3  After a refusal the next request is found where it begins: the payload of a refused write is skipped, whatever
//       length it claims, and none of it is kept.
//   N4  Bytes that no correct client sends (a wrong magic, unknown client flags, anything between STARTTLS and TLS) end the
//       session. There are no events after the end.
//   N5  It holds at most the longest payload and SLACK bytes.
//   N6  A client has a limited number of options, and of bytes of answers, to choose an export, because a client that
//       never chooses has no other limit. One answer may be larger than the limit.
//   N7  A client opens one export, once.
//
// Not here: sockets, time, how much is in flight (connection.ts); what an option means (negotiation.ts), which requests
// are legal and what they do (commands.ts).
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Handshake", "Transmission".

import { concatBuffers, invariant } from 'write-barrier/kit';
import { refused } from '../report.js';
import { Dialogue, type SharedEvent } from '../session.js';
import {
  type ByteReader,
  ByteWriter,
  type Chunk,
  CLIENT_FLAGS,
  COMMAND,
  COMMAND_FLAG,
  encodeOptionReply,
  HANDSHAKE_FLAG,
  type NbdRequest,
  OPTION,
  OPTION_HEADER,
  OPTION_REPLY,
  OPTION_REPLY_HEADER,
  type OptionHeader,
  putChunk,
  REQUEST,
  SERVER_GREETING,
  SIMPLE_REPLY,
  STRING_MAX,
} from '../wire/index.js';
import { CLOSING, type Outcome, type Refusal, refusalOf, type SessionRequest } from './commands.js';
import { type Agreement, ALLOCATION_ID, INITIAL, negotiate, type Offer } from './negotiation.js';
import type { ExportInfo } from './options.js';

/** What the driver is to do. */
export type ServerEvent =
  | SharedEvent
  /** The client has an export. */
  | { readonly kind: 'open'; readonly name: string }
  | { readonly kind: 'request'; readonly request: SessionRequest };

type State =
  | { readonly at: 'flags' | 'option' | 'request' }
  | { readonly at: 'optionData'; readonly option: number; readonly length: number }
  | { readonly at: 'payload'; readonly request: NbdRequest }
  | { readonly at: 'skip'; left: number; readonly next: State; readonly after: () => void };

const BOTH = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;
const NO_DATA: readonly Uint8Array[] = [];
/** The longest data of an option, in bytes: a list of queries, for example. */
const OPTION_DATA_MAX = 64 * 1024;
/** Options that a client may send before it opens an export: as many as with nbdkit, and some for each export. */
const OPTIONS_MAX = 32;
const OPTIONS_PER_EXPORT = 4;
/** Bytes of answers to them: this many, and some lists of all exports. */
const ANSWERS_MAX = 256 * 1024;
const LISTS_MAX = 4;
/** A payload in more pieces than this is copied into one, because small pieces cost more than the copy. */
const PARTS_MAX = 64;
/** How much a driver may feed in addition to an incomplete payload, in bytes. */
const SLACK = 1024 * 1024;

/** The server's side of one connection. */
export class ServerSession {
  /** Bytes in, events out. */
  readonly dialogue: Dialogue<ServerEvent>;
  readonly #offer: Offer;
  #state: State = { at: 'flags' };
  #flags: number = BOTH;
  #agreement: Agreement = INITIAL;
  #export: ExportInfo | undefined;
  #closing = false;
  /** One for all, because a writer of its own for each refusal would be a block of 16 KiB. */
  readonly #refusals = new ByteWriter();
  #options = 0;
  #answered = 0;

  /** @param requestBytes the longest payload of any export */
  constructor(offer: Offer, requestBytes: number) {
    this.#offer = offer;
    const advance = (input: ByteReader): boolean => this.#advance(input);
    this.dialogue = new Dialogue('client', advance, requestBytes + SLACK);
    this.#send([SERVER_GREETING.encode({ flags: BOTH })]);
  }

  /** The transmission has begun. */
  get open(): boolean {
    return this.#export !== undefined;
  }

  /** A payload has arrived in part. */
  get halfway(): boolean {
    return this.#state.at === 'payload' && !this.dialogue.pending && !this.dialogue.ended;
  }

  /** The length of the payload that has arrived in part, in bytes; 0 if there is none. */
  get awaited(): number {
    return this.halfway && this.#state.at === 'payload' ? this.#state.request.length : 0;
  }

  /** TLS was agreed on. */
  get tls(): boolean {
    return this.#agreement.tls;
  }

  /** From now on options and requests are refused, because the server is closing. */
  shutdown(): void {
    this.#closing = true;
  }

  /** Adds to `out` the bytes to send for a request that was handed out. */
  answer(request: SessionRequest, outcome: Outcome, out: ByteWriter): void {
    invariant(!request.answered, 'N1: a second answer to a request');
    request.answered = true;
    this.#reply(request, outcome, out);
  }

  /** Takes one message out of what has come; false where not enough has. */
  #advance(input: ByteReader): boolean {
    const state = this.#state;
    switch (state.at) {
      case 'flags': {
        const agreed = input.takeValue(CLIENT_FLAGS);
        if (!agreed) return false;
        this.#flags = agreed.flags;
        this.#state = OPTION_NEXT;
        return true;
      }
      case 'option': {
        const header = input.takeValue(OPTION_HEADER);
        if (header) this.#optionHeader(header);
        return header !== undefined;
      }
      case 'optionData': {
        const data = input.take(state.length);
        if (data) this.#option(state.option, data);
        return data !== undefined;
      }
      case 'request': {
        const request = input.takeValue(REQUEST);
        if (request) this.#request(request);
        return request !== undefined;
      }
      case 'payload': {
        const { request } = state;
        const data = payloadOf(input, request.length);
        if (!data) return false;
        this.#state = REQUEST_NEXT;
        // Its last part came after the last flush of the server.
        if (this.#closing) this.#refuse(request, CLOSING);
        else this.#handOut(request, data);
        return true;
      }
      case 'skip':
        state.left -= input.skip(state.left);
        if (state.left > 0) return false;
        this.#state = state.next;
        state.after();
        return true;
    }
  }

  // Handshake

  #optionHeader({ option, length }: OptionHeader): void {
    this.#options += 1;
    const most = OPTIONS_MAX + OPTIONS_PER_EXPORT * this.#offer.exports.size;
    if (this.#options > most || this.#answeredTooMuch()) {
      this.dialogue.end(refused(`more than ${this.#options - 1} options`)); // N6
      return;
    }
    const max = option === OPTION.EXPORT_NAME ? STRING_MAX : OPTION_DATA_MAX;
    if (length <= max) {
      this.#state = { at: 'optionData', option, length };
      return;
    }
    // EXPORT_NAME has no reply that refuses.
    if (option === OPTION.EXPORT_NAME || !(this.#flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE)) {
      this.dialogue.end(refused(`option ${option} with ${length} bytes of data`));
      return;
    }
    const refusal = encodeOptionReply(option, OPTION_REPLY.ERR_TOO_BIG);
    this.#skip(length, OPTION_NEXT, () => this.#send([refusal], 'option'));
  }

  /** N6 */
  #answeredTooMuch(): boolean {
    if (this.#answered <= ANSWERS_MAX) return false;
    let list = 0;
    for (const { name, description } of this.#offer.exports.values()) {
      list += OPTION_REPLY_HEADER.bytes + 4 + name.length + description.length;
    }
    return this.#answered > ANSWERS_MAX + LISTS_MAX * list;
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
    for (const { length } of verdict.answer) this.#answered += length;
    this.#state = OPTION_NEXT;
    this.#send(verdict.answer, verdict.refused ? 'option' : undefined);
    switch (verdict.next) {
      case 'option':
        return;
      case 'tls':
        this.dialogue.startTls();
        return;
      case 'open':
        invariant(this.#export === undefined, 'N7: a second export for one client');
        this.#export = verdict.opens;
        this.#state = REQUEST_NEXT;
        this.dialogue.emit({ kind: 'open', name: verdict.opens.name });
        return;
      case 'end':
        this.dialogue.end(verdict.why === undefined ? undefined : refused(verdict.why));
    }
  }

  // Transmission

  #request(request: NbdRequest): void {
    if (request.command === COMMAND.DISC) {
      this.dialogue.end(undefined);
      return;
    }
    const refusal = this.#closing
      ? CLOSING
      : refusalOf(request, this.#export as ExportInfo, this.#agreement);
    if (request.command !== COMMAND.WRITE) {
      if (refusal) this.#refuse(request, refusal);
      else this.#handOut(request, NO_DATA);
    } else if (refusal) {
      // N3: the answer is sent after the payload, because a client that writes before it reads would be stuck.
      this.#skip(request.length, REQUEST_NEXT, () => this.#refuse(request, refusal));
    } else {
      this.#state = { at: 'payload', request };
    }
  }

  #refuse(request: NbdRequest, refusal: Refusal): void {
    this.#reply(request, refusal, this.#refusals);
    this.#send(this.#refusals.take(), 'request');
  }

  #handOut(request: NbdRequest, data: readonly Uint8Array[]): void {
    const { flags, command, cookie, offset, length } = request;
    // Not by spreading, because V8 gives each such object a shape of its own, and reading it is slow then.
    const sparse = this.#agreement.structured && !(flags & COMMAND_FLAG.DF);
    const handed = { flags, command, cookie, offset, length, data, sparse, answered: false };
    this.dialogue.emit({ kind: 'request', request: handed });
  }

  #reply({ command, cookie, offset, length }: NbdRequest, outcome: Outcome, out: ByteWriter): void {
    const { structured } = this.#agreement;
    if ('error' in outcome) {
      const { error, message } = outcome;
      if (structured) putChunk(out, cookie, true, { kind: 'error', error, message });
      else out.put(SIMPLE_REPLY, { cookie, error });
      return;
    }
    const { data, pieces, extents } = outcome;
    if (pieces) {
      const last = pieces.at(-1);
      for (const piece of pieces) {
        const kind = piece.data ? 'data' : 'hole';
        putChunk(out, cookie, piece === last, { kind, ...piece } as Chunk);
      }
    } else if (extents) {
      putChunk(out, cookie, true, { kind: 'status', context: ALLOCATION_ID, extents });
    } else if (command !== COMMAND.READ || !data) {
      out.put(SIMPLE_REPLY, { cookie, error: 0 });
    } else {
      invariant(data.length === length, 'N1: an answer of another length');
      if (structured) {
        putChunk(out, cookie, true, { kind: 'data', offset, data });
      } else {
        out.put(SIMPLE_REPLY, { cookie, error: 0 });
        out.push(data);
      }
    }
  }

  #skip(left: number, next: State, after: () => void): void {
    this.#state = { at: 'skip', left, next, after };
  }

  #send(parts: readonly Uint8Array[], refuses?: 'option' | 'request'): void {
    if (parts.length > 0) this.dialogue.emit({ kind: 'send', parts, refuses });
  }
}

/** A few pieces as they came, without a copy; many as one, because pieces keep the buffers alive that they came in. */
function payloadOf(input: ByteReader, length: number): readonly Uint8Array[] | undefined {
  const parts = input.takeParts(length);
  return parts && parts.length > PARTS_MAX ? [concatBuffers(parts)] : parts;
}

const OPTION_NEXT: State = { at: 'option' };
const REQUEST_NEXT: State = { at: 'request' };
