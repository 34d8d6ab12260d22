// The client's side of one connection, without its socket: from the server's first byte to an export in use, or to a list
// of exports; then replies to requests (replies.ts).
//
//   greeting ──▶ tls? ──▶ secure? ──▶ list ──▶ done
//                                └──▶ structured? ──▶ context? ──▶ go ──▶ done
//                                                                └──▶ exportName ──▶ done
//
// Each state awaits one thing. `tls` asks for STARTTLS, and `secure` goes on when the connection is secure; `structured` asks
// for structured replies and does without them if they are refused; with them, `context` asks for `base:allocation`, and does without
// it likewise; `go` falls back to `exportName` if the server is older
// than GO. A server that is not fixed newstyle knows EXPORT_NAME only.
//
// Whatever a server sends, nothing throws out of here: a malformed or refused message is the reason of `end` (../session.ts).
// The memory is bounded by the longest message that is awaited in one piece, here and in replies.ts, and by the bytes that
// the driver has not asked for.
//
// Invariants, tested under these numbers:
//   C1  After `listed` no request can be made, and the session ends.
//   C2  How the stream is cut into pieces changes only when the events come.
//   C3  An answer is to a request that was made, and comes once (replies.ts).
//   H1  If TLS was asked for, nothing about exports is asked or believed before the connection is secure. Bytes between the
//       server's consent and TLS may be an attacker's, and end the session (nbd-session.D3).
//   H2  An answer is to the option that was asked, and of a kind that fits it; everything else is malformed.
//   H3  What is kept is bounded, whatever the server sends: a length beyond every legal answer is malformed before the
//       bytes are awaited, and so are more replies with information, and longer lists of exports, than the limits allow.
//   H4  A server takes at least a block in one request, and 512 bytes if the export is as large. The protocol asks for that,
//       and a write of a megabyte could otherwise become a million requests.
//   H5  Text of the server that a person may read is escaped: no control characters, nothing that changes the direction.
//
// Not here: sockets, TLS itself, time, and what to do when a connection is lost (in-flight.ts).
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Newstyle negotiation", "Fixed newstyle negotiation",
// "STARTTLS", "Option types", "Block size constraints".

import { WriteBarrierError } from 'write-barrier';
import { invariant } from 'write-barrier/kit';
import { nameOf, printable, refused } from '../report.js';
import { Dialogue, type SharedEvent } from '../session.js';
import {
  BASE_ALLOCATION,
  type BlockSizes,
  type ByteReader,
  CLIENT_FLAGS,
  COMMAND,
  decodeInfo,
  EXPORT_FACTS,
  EXPORT_NAME_ZEROES,
  type ExportFacts,
  encodeOption,
  HANDSHAKE_FLAG,
  INFO,
  INFO_REQUEST,
  isOptionError,
  LISTED_EXPORT,
  type ListedExport,
  META_CONTEXT,
  META_CONTEXT_REQUEST,
  malformed,
  OPTION,
  OPTION_REPLY,
  OPTION_REPLY_HEADER,
  type OptionReplyHeader,
  REQUEST,
  SERVER_GREETING,
  STRING_MAX,
  utf8,
} from '../wire/index.js';
import { type Answer, type ClientRequest, Replies } from './replies.js';

/** The goal of a handshake. */
export interface HandshakePlan {
  /** The name of the export; '' is the default one. */
  readonly export: string;
  /** Requires TLS. */
  readonly tls: boolean;
  /** Use the export, or only list the exports. */
  readonly goal: 'use' | 'list';
}

/** An export, as the server describes it. */
export interface NbdExport extends ExportFacts {
  /** Undefined if the server did not say. */
  readonly blockSizes: BlockSizes | undefined;
  /** Structured replies were agreed on. */
  readonly structured: boolean;
  /** The number that the extents of `base:allocation` carry; undefined if the server does not know that context. */
  readonly allocation: number | undefined;
}

/** What the driver is to do, or is to know. */
export type ClientEvent =
  | SharedEvent
  | { readonly kind: 'listed'; readonly exports: readonly ListedExport[] }
  /** Requests may be made. */
  | { readonly kind: 'ready'; readonly export: NbdExport }
  | { readonly kind: 'answer'; readonly answer: Answer };

type State =
  | 'greeting'
  | 'tls'
  | 'secure'
  | 'list'
  | 'structured'
  | 'context'
  | 'go'
  | 'exportName'
  | 'done';

/** The smallest preferred block size; no maximum may be less. */
const SECTOR = 512;
const ANSWER_MAX = 2 * STRING_MAX + 64;
const LISTED_BYTES_MAX = 4 * 1024 * 1024;
const INFOS_MAX = 64;
const WANTS = [INFO.BLOCK_SIZE];

/** The client's side of one connection. */
export class ClientSession {
  /** Bytes in, events out. */
  readonly dialogue: Dialogue<ClientEvent>;
  readonly #plan: HandshakePlan;
  #state: State = 'greeting';
  #header: OptionReplyHeader | undefined;
  #noZeroes = false;
  #structured = false;
  #allocation: number | undefined;
  #facts: ExportFacts | undefined;
  #blockSizes: BlockSizes | undefined;
  readonly #exports: ListedExport[] = [];
  /** What the server has sent so far in answer to one option (H3). */
  #received = { infos: 0, listed: 0 };
  #replies: Replies | undefined;

  constructor(plan: HandshakePlan) {
    this.#plan = plan;
    // The driver asks for everything at once, so there is never more than it has just fed.
    this.dialogue = new Dialogue('NBD server', (input) => this.#advance(input), Infinity);
  }

  /** How many requests have no answer yet. */
  get awaited(): number {
    return this.#replies?.size ?? 0;
  }

  /** The bytes of a request, whose answer is awaited from now on. `cookie` is that of no request without an answer. */
  request(request: ClientRequest): readonly Uint8Array[] {
    const { command, payload = [] } = request;
    if (command !== COMMAND.DISC) {
      invariant(this.#replies !== undefined, 'C1: a request without an export');
      this.#replies.expect(request);
    }
    return [REQUEST.encode(request), ...payload];
  }

  /** Takes one message; false while more bytes are needed. */
  #advance(input: ByteReader): boolean {
    switch (this.#state) {
      case 'greeting': {
        const greeting = input.takeValue(SERVER_GREETING);
        if (greeting) this.#greeted(greeting.flags);
        return greeting !== undefined;
      }
      case 'exportName': {
        const bytes = input.take(EXPORT_FACTS.bytes + (this.#noZeroes ? 0 : EXPORT_NAME_ZEROES));
        if (bytes) this.#ready(EXPORT_FACTS.decode(bytes.subarray(0, EXPORT_FACTS.bytes)));
        return bytes !== undefined;
      }
      case 'secure':
        this.#ask();
        return true;
      case 'done': {
        const answer = this.#replies?.advance(input);
        if (answer) this.dialogue.emit({ kind: 'answer', answer });
        return answer !== undefined;
      }
      default:
        return this.#awaitAnswer(input);
    }
  }

  // Transitions

  #greeted(flags: number): void {
    const { tls, goal } = this.#plan;
    const fixedNewstyle = (flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0;
    if (!fixedNewstyle && (tls || goal === 'list')) {
      throw refused('the server is too old for options');
    }
    this.#noZeroes = (flags & HANDSHAKE_FLAG.NO_ZEROES) !== 0;
    const both = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;
    this.#send(CLIENT_FLAGS.encode({ flags: flags & both }));
    if (!fixedNewstyle) this.#askByName();
    else if (tls) this.#goTo('tls', OPTION.STARTTLS);
    else this.#ask();
  }

  /** The first question about exports. */
  #ask(): void {
    if (this.#plan.goal === 'list') this.#goTo('list', OPTION.LIST);
    else this.#goTo('structured', OPTION.STRUCTURED_REPLY);
  }

  #askByName(): void {
    this.#goTo('exportName', OPTION.EXPORT_NAME, utf8(this.#plan.export));
  }

  #goTo(state: State, option: number, data?: Uint8Array): void {
    this.#state = state;
    this.#send(encodeOption(option, data));
  }

  /** Goes on after an answer; false for one that does not fit the question (H2). */
  #answered(reply: number, data: Uint8Array): boolean {
    const accepted = reply === OPTION_REPLY.ACK;
    switch (this.#state) {
      case 'tls':
        if (isOptionError(reply)) throw refusal('TLS', reply, data);
        if (!accepted) return false;
        this.#state = 'secure';
        this.dialogue.startTls();
        return true;
      case 'structured':
        if (!isOptionError(reply) && !accepted) return false;
        if (reply === OPTION_REPLY.ERR_TLS_REQD) {
          throw refusal('a connection without TLS', reply, data);
        }
        this.#structured = accepted;
        if (accepted) this.#goTo('context', OPTION.SET_META_CONTEXT, this.#contexts());
        else this.#go();
        return true;
      case 'context':
        if (reply === OPTION_REPLY.META_CONTEXT) this.#chosen(data);
        else if (accepted || isOptionError(reply)) {
          if (!accepted) this.#allocation = undefined;
          this.#go();
        } else return false;
        return true;
      case 'go':
        if (reply === OPTION_REPLY.ERR_UNSUP) this.#askByName();
        else if (isOptionError(reply)) throw refusal(`export '${this.#plan.export}'`, reply, data);
        else if (reply === OPTION_REPLY.INFO) this.#informed(data);
        else if (accepted) this.#ready(this.#facts);
        else return false;
        return true;
      case 'list':
        if (isOptionError(reply)) throw refusal('a list of exports', reply, data);
        if (reply === OPTION_REPLY.SERVER) this.#listed(data);
        else if (accepted) this.#endOfList();
        else return false;
        return true;
      default:
        return false;
    }
  }

  #contexts(): Uint8Array {
    return META_CONTEXT_REQUEST.encode({ name: this.#plan.export, queries: [BASE_ALLOCATION] });
  }

  #chosen(data: Uint8Array): void {
    this.#countInfo();
    const { id, name } = META_CONTEXT.decode(data);
    if (name === BASE_ALLOCATION) this.#allocation = id;
  }

  #go(): void {
    this.#goTo('go', OPTION.GO, INFO_REQUEST.encode({ name: this.#plan.export, wants: WANTS }));
  }

  #endOfList(): void {
    this.#goTo('done', OPTION.ABORT);
    this.dialogue.emit({ kind: 'listed', exports: this.#exports });
    this.dialogue.end(undefined);
  }

  #ready(described: ExportFacts | undefined): void {
    if (!described) throw malformed('GO was answered without information about the export');
    const { size, flags } = described;
    if (!Number.isSafeInteger(size)) {
      // The protocol allows it. The exact number is not shown, because it was rounded.
      const most = 'at most 2^53 - 1 bytes are supported';
      throw new WriteBarrierError('INVALID_STORAGE', `the export has 2^53 bytes or more; ${most}`);
    }
    const [blockSizes, structured, allocation] = [
      this.#blockSizes,
      this.#structured,
      this.#allocation,
    ];
    if (blockSizes && blockSizes.maximum < Math.max(blockSizes.minimum, Math.min(SECTOR, size))) {
      throw malformed(
        `requests of at most ${blockSizes.maximum} bytes, which is less than a block`,
      );
    }
    this.#state = 'done';
    this.#replies = new Replies(structured, allocation);
    const facts = { size, flags, blockSizes, structured, allocation };
    this.dialogue.emit({ kind: 'ready', export: facts });
  }

  // What is awaited, and what it says

  #awaitAnswer(input: ByteReader): boolean {
    if (!this.#header) {
      const header = input.takeValue(OPTION_REPLY_HEADER);
      if (!header) return false;
      if (header.option !== OPTION_OF[this.#state]) {
        throw malformed(`a reply to option ${header.option}, which the client did not send`);
      }
      if (header.length > ANSWER_MAX)
        throw malformed(`a reply of ${header.length} bytes to an option`);
      this.#header = header;
    }
    const header = this.#header;
    const data = input.take(header.length);
    if (!data) return false;
    this.#header = undefined;
    const { option, reply } = header;
    if (!this.#answered(reply, data)) throw malformed(`answer ${reply} to option ${option}`);
    return true;
  }

  /** H3 */
  #countInfo(): void {
    this.#received.infos += 1;
    if (this.#received.infos > INFOS_MAX)
      throw malformed(`more than ${INFOS_MAX} replies with information`);
  }

  #informed(data: Uint8Array): void {
    this.#countInfo();
    const info = decodeInfo(data);
    if (info.kind === 'export') this.#facts = info;
    if (info.kind !== 'blockSize') return;
    const { minimum } = info;
    const whole = Number.isInteger(Math.log2(minimum)) && minimum <= 2 ** 16;
    if (!whole)
      throw malformed(
        `a minimum block size of ${minimum} bytes, which is not a power of two up to 65536`,
      );
    this.#blockSizes = info;
  }

  #listed(data: Uint8Array): void {
    this.#received.listed += data.length + 64;
    if (this.#received.listed > LISTED_BYTES_MAX)
      throw malformed(`a list of exports of more than ${LISTED_BYTES_MAX} bytes`);
    const { name, description } = LISTED_EXPORT.decode(data);
    this.#exports.push({ name: printable(name), description: printable(description) });
  }

  #send(bytes: Uint8Array): void {
    this.dialogue.emit({ kind: 'send', parts: [bytes] });
  }
}

const OPTION_OF: Partial<Record<State, number>> = {
  tls: OPTION.STARTTLS,
  list: OPTION.LIST,
  structured: OPTION.STRUCTURED_REPLY,
  context: OPTION.SET_META_CONTEXT,
  go: OPTION.GO,
};

function refusal(what: string, reply: number, data: Uint8Array): WriteBarrierError {
  const said = printable(new TextDecoder().decode(data));
  const why = `${nameOf(OPTION_REPLY, reply) ?? `error 0x${reply.toString(16)}`}${said && `, ${said}`}`;
  if (reply === OPTION_REPLY.ERR_UNKNOWN) {
    return new WriteBarrierError('INVALID_ARGUMENT', `the server has no ${what}: ${why}`);
  }
  return refused(`the server refuses ${what}: ${why}`);
}
