// The client's side of the handshake, from the server's first byte to an export that can be used (or a list of them).
//
//   greeting ──▶ tls? ──▶ secure? ──▶ list ──▶ done
//                                └──▶ structured? ──▶ go ──▶ done
//                                                     └──▶ exportName ──▶ done
//
// In each state one thing is awaited. `tls` asks for STARTTLS, and then the caller secures the connection and says so;
// `structured` asks for structured replies and does without where they are refused; `go` falls back to `exportName`
// where the server is older than GO. A server that is not fixed newstyle knows EXPORT_NAME only.
//
// Invariants, tested under these numbers:
//   H1  Where TLS was asked for, nothing about exports is asked or believed before the connection is secure. What a
//       server has sent behind its consent and before TLS would be somebody else's: it fails the handshake.
//   H2  An answer is to the option that was asked, and of a kind that fits it; all else is malformed.
//   H3  What is kept is bounded, whatever the server says: a length beyond every legal answer is malformed before the
//       bytes are awaited, and so is a server that never stops informing or listing.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Newstyle negotiation", "Fixed newstyle negotiation",
// "STARTTLS", "Option types", "Block size constraints".

import { WriteBarrierError } from 'write-barrier';
import {
  type BlockSizes,
  type ByteReader,
  decodeExportInfo,
  decodeExportNameReply,
  decodeGreeting,
  decodeListedExport,
  decodeOptionReplyHeader,
  type ExportFacts,
  encodeClientFlags,
  encodeInfoRequest,
  encodeOption,
  INFO,
  isOptionError,
  type ListedExport,
  malformed,
  OPTION,
  OPTION_REPLY,
  type OptionReplyHeader,
  SIZE,
  STRING_MAX,
} from '../wire/index.js';

/** What the client wants. */
export interface HandshakePlan {
  /** The name of the export; '' is the default one. */
  readonly export: string;
  /** TLS or nothing. */
  readonly tls: boolean;
  /** Use the export, or only ask which ones there are. */
  readonly goal: 'use' | 'list';
}

/** An export, as the server describes it. */
export interface NbdExport extends ExportFacts {
  /** Undefined where the server has not said. */
  readonly blockSizes: BlockSizes | undefined;
  /** Structured replies were agreed on. */
  readonly structured: boolean;
}

/** What comes of bytes. */
export type HandshakeEvent =
  | { readonly kind: 'send'; readonly bytes: Uint8Array }
  /** Secure the connection, then call `secured`. */
  | { readonly kind: 'startTls' }
  | { readonly kind: 'listed'; readonly exports: readonly ListedExport[] }
  | { readonly kind: 'ready'; readonly export: NbdExport };

type State = 'greeting' | 'tls' | 'secure' | 'list' | 'structured' | 'go' | 'exportName' | 'done';

const ANSWER_MAX = 2 * STRING_MAX + 64;
const LISTED_BYTES_MAX = 4 * 1024 * 1024;
const INFOS_MAX = 64;

/** See the head of this file. Throws at what is malformed or refused; nothing can be done with it after that. */
export class ClientHandshake {
  readonly #plan: HandshakePlan;
  #state: State = 'greeting';
  #header: OptionReplyHeader | undefined;
  #noZeroes = false;
  #structured = false;
  #facts: ExportFacts | undefined;
  #blockSizes: BlockSizes | undefined;
  readonly #exports: ListedExport[] = [];
  /** What the server has told so far in answer to one option (H3). */
  #told = { infos: 0, listed: 0 };

  constructor(plan: HandshakePlan) {
    this.#plan = plan;
  }

  /** What the bytes come to, one event at a time; undefined while more bytes are needed. */
  advance(reader: ByteReader): readonly HandshakeEvent[] | undefined {
    switch (this.#state) {
      case 'greeting': {
        const bytes = reader.take(SIZE.GREETING);
        return bytes && this.#greeted(bytes);
      }
      case 'exportName': {
        const bytes = reader.take(this.#exportNameSize());
        return bytes && [this.#ready(decodeExportNameReply(bytes))];
      }
      case 'secure':
        if (reader.length > 0) throw malformed('bytes between STARTTLS and TLS');
        return undefined;
      case 'done':
        return undefined;
      default:
        return this.#awaitAnswer(reader);
    }
  }

  /** The connection is secure: all that the server says from now on is its own. */
  secured(): readonly HandshakeEvent[] {
    return this.#asked();
  }

  // Transitions

  #greeted(bytes: Uint8Array): readonly HandshakeEvent[] {
    const { fixedNewstyle, noZeroes } = decodeGreeting(bytes);
    this.#noZeroes = noZeroes;
    const flags = send(encodeClientFlags({ fixedNewstyle, noZeroes }));
    const { tls, goal } = this.#plan;
    if (!fixedNewstyle) {
      if (tls || goal === 'list') throw refused('the server knows no options');
      return [flags, this.#askByName()];
    }
    if (!tls) return [flags, ...this.#asked()];
    this.#state = 'tls';
    return [flags, send(encodeOption(OPTION.STARTTLS))];
  }

  /** The first question about exports. */
  #asked(): readonly HandshakeEvent[] {
    const list = this.#plan.goal === 'list';
    this.#state = list ? 'list' : 'structured';
    return [send(encodeOption(list ? OPTION.LIST : OPTION.STRUCTURED_REPLY))];
  }

  #askByName(): HandshakeEvent {
    this.#state = 'exportName';
    return send(encodeOption(OPTION.EXPORT_NAME, new TextEncoder().encode(this.#plan.export)));
  }

  #answered({ option, reply }: OptionReplyHeader, data: Uint8Array): readonly HandshakeEvent[] {
    const is = (kind: number): boolean => reply === kind;
    switch (this.#state) {
      case 'tls':
        if (isOptionError(reply)) throw refusal('TLS', reply, data);
        if (!is(OPTION_REPLY.ACK)) break;
        this.#state = 'secure';
        return [{ kind: 'startTls' }];
      case 'structured':
        if (!isOptionError(reply) && !is(OPTION_REPLY.ACK)) break;
        if (is(OPTION_REPLY.ERR_TLS_REQD)) throw refusal('a connection without TLS', reply, data);
        this.#structured = is(OPTION_REPLY.ACK);
        this.#state = 'go';
        return [send(encodeOption(OPTION.GO, encodeInfoRequest(this.#wanted())))];
      case 'go':
        if (is(OPTION_REPLY.ERR_UNSUP)) return [this.#askByName()];
        if (isOptionError(reply)) throw refusal(`export '${this.#plan.export}'`, reply, data);
        if (is(OPTION_REPLY.INFO)) return this.#informed(data);
        if (!is(OPTION_REPLY.ACK)) break;
        if (!this.#facts) throw malformed('GO agreed to, and nothing said of the export');
        return [this.#ready(this.#facts)];
      case 'list':
        if (isOptionError(reply)) throw refusal('a list of exports', reply, data);
        if (is(OPTION_REPLY.SERVER)) return this.#listed(data);
        if (!is(OPTION_REPLY.ACK)) break;
        this.#state = 'done';
        return [{ kind: 'listed', exports: this.#exports }, send(encodeOption(OPTION.ABORT))];
    }
    throw malformed(`answer ${reply} to option ${option}`);
  }

  #ready(facts: ExportFacts): HandshakeEvent {
    this.#state = 'done';
    const { size, flags } = facts;
    if (!Number.isSafeInteger(size)) throw malformed(`an export of ${size} bytes`);
    const [blockSizes, structured] = [this.#blockSizes, this.#structured];
    return { kind: 'ready', export: { size, flags, blockSizes, structured } };
  }

  // What is awaited, and what it says

  #awaitAnswer(reader: ByteReader): readonly HandshakeEvent[] | undefined {
    if (!this.#header) {
      const head = reader.take(SIZE.OPTION_REPLY_HEADER);
      if (!head) return undefined;
      const header = decodeOptionReplyHeader(head);
      if (header.option !== OPTION_OF[this.#state]) {
        throw malformed(`an answer to option ${header.option}, which was not asked`);
      }
      if (header.length > ANSWER_MAX) throw malformed(`an answer of ${header.length} bytes`);
      this.#header = header;
    }
    const data = reader.take(this.#header.length);
    if (!data) return undefined;
    const header = this.#header;
    this.#header = undefined;
    return this.#answered(header, data);
  }

  #informed(data: Uint8Array): readonly HandshakeEvent[] {
    this.#told.infos += 1;
    if (this.#told.infos > INFOS_MAX) throw malformed('no end of information');
    const info = decodeExportInfo(data);
    if (info.kind === 'export') this.#facts = { size: info.size, flags: info.flags };
    if (info.kind === 'blockSize') {
      const { minimum, preferred, maximum } = info;
      const whole = Number.isInteger(Math.log2(minimum)) && minimum <= 2 ** 16;
      if (!whole || maximum < minimum) throw malformed(`blocks of ${minimum} to ${maximum} bytes`);
      this.#blockSizes = { minimum, preferred, maximum };
    }
    return [];
  }

  #listed(data: Uint8Array): readonly HandshakeEvent[] {
    this.#told.listed += data.length + 64;
    if (this.#told.listed > LISTED_BYTES_MAX) throw malformed('no end of exports');
    this.#exports.push(decodeListedExport(data));
    return [];
  }

  #wanted(): { readonly name: string; readonly wants: readonly number[] } {
    return { name: this.#plan.export, wants: [INFO.BLOCK_SIZE] };
  }

  #exportNameSize(): number {
    return SIZE.EXPORT_NAME_REPLY + (this.#noZeroes ? 0 : SIZE.EXPORT_NAME_ZEROES);
  }
}

const OPTION_OF: Partial<Record<State, number>> = {
  tls: OPTION.STARTTLS,
  list: OPTION.LIST,
  structured: OPTION.STRUCTURED_REPLY,
  go: OPTION.GO,
};

function send(bytes: Uint8Array): HandshakeEvent {
  return { kind: 'send', bytes };
}

function refusal(what: string, reply: number, data: Uint8Array): WriteBarrierError {
  const name = Object.entries(OPTION_REPLY).find(([, value]) => value === reply)?.[0];
  const said = new TextDecoder().decode(data);
  const why = `${name ?? `error 0x${reply.toString(16)}`}${said && `, ${said}`}`;
  if (reply === OPTION_REPLY.ERR_UNKNOWN) {
    return new WriteBarrierError('INVALID_ARGUMENT', `the server has no ${what}: ${why}`);
  }
  return refused(`the server refuses ${what}: ${why}`);
}

function refused(why: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', why);
}
