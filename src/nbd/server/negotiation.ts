// The options of a client, answered: one option in, the answer and what it changes out. No state of its own; what was
// agreed so far is a value that goes in and comes out. Where options and data come from is the session's business.
//
//   T1  With TLS required everywhere, nothing but STARTTLS and ABORT is answered before it.
//   T2  An export that requires TLS is not listed, described or opened without, and cannot be told from one that is not
//       there; one with TLS `off` is not opened with it.
//   T3  STARTTLS forgets whatever was agreed before: a stranger in the middle may have said it.
//   T4  A context counts for the export that it was chosen for, and only with structured replies. A new choice replaces
//       the one before, also where it is refused.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Option types", "TLS support", "Metadata querying".

import { WriteBarrierError } from 'write-barrier';
import { textOf, utf8 } from '../wire/fields.js';
import {
  BASE_ALLOCATION,
  decodeInfoRequest,
  decodeMetaContextRequest,
  encodeExportInfo,
  encodeExportNameReply,
  encodeListedExport,
  encodeMetaContext,
  encodeOptionReply,
  type HandshakeFlags,
  INFO,
  OPTION,
  OPTION_REPLY as REPLY,
  TRANSMISSION_FLAG,
} from '../wire/index.js';
import type { Agreed } from './check-request.js';
import type { ExportTerms } from './exports.js';

/** The number under which extents of base:allocation go. */
export const ALLOCATION_ID = 1;

/** What was agreed on so far. */
export interface Agreement {
  readonly tls: boolean;
  readonly structured: boolean;
  /** The export for which base:allocation was chosen. */
  readonly allocationOf: string | undefined;
}

/** What becomes of an option. */
export interface Verdict {
  /** To be sent. */
  readonly answer: readonly Uint8Array[];
  /** What is agreed from now on. */
  readonly agreement: Agreement;
  /** What comes next: another option, TLS, the transmission, or the end, with a reason unless the client wants it. */
  readonly next: 'option' | 'tls' | 'open' | 'end';
  readonly opens?: ExportTerms;
  readonly agreed?: Agreed;
  readonly why?: string;
}

/** What the server has to offer. */
export interface Offer {
  readonly exports: ReadonlyMap<string, ExportTerms>;
  /** There are keys. */
  readonly tls: boolean;
}

export const INITIAL: Agreement = { tls: false, structured: false, allocationOf: undefined };

/** An option, and all that bears on its answer. */
export interface Asked {
  readonly option: number;
  readonly data: Uint8Array;
  readonly agreement: Agreement;
  readonly offer: Offer;
  /** What both sides offered in the beginning. */
  readonly flags: HandshakeFlags;
  /** The server takes its leave. */
  readonly closing: boolean;
}

/** Answers an option. */
export function negotiate(given: Asked): Verdict {
  const asked = given.option === OPTION.SET_META_CONTEXT ? withoutChoice(given) : given; // T4
  const { option, agreement, offer, flags, closing } = asked;
  if (option === OPTION.EXPORT_NAME) return openByName(asked);
  // Without fixed newstyle there is no way to answer anything else.
  if (!flags.fixedNewstyle) return end(asked, `option ${option} without fixed newstyle`);
  if (option === OPTION.ABORT) return { ...accept(asked), next: 'end' };
  if (closing) return refuse(asked, REPLY.ERR_SHUTDOWN, 'the server is closing');
  if (option !== OPTION.STARTTLS && mustUpgrade(agreement, offer)) {
    return refuse(asked, REPLY.ERR_TLS_REQD, 'TLS first'); // T1
  }
  try {
    return byOption(asked);
  } catch (error) {
    if (!WriteBarrierError.is(error) || error.code !== 'SYNTAX') throw error;
    return refuse(asked, REPLY.ERR_INVALID, error.message);
  }
}

function withoutChoice(asked: Asked): Asked {
  return { ...asked, agreement: { ...asked.agreement, allocationOf: undefined } };
}

function byOption(asked: Asked): Verdict {
  switch (asked.option) {
    case OPTION.LIST:
      return withoutData(asked, list);
    case OPTION.STARTTLS:
      return withoutData(asked, startTls);
    case OPTION.STRUCTURED_REPLY:
      return withoutData(asked, () => accept(asked, { structured: true }));
    case OPTION.INFO:
    case OPTION.GO:
      return describe(asked);
    case OPTION.LIST_META_CONTEXT:
    case OPTION.SET_META_CONTEXT:
      return chooseContexts(asked);
    default:
      return refuse(asked, REPLY.ERR_UNSUP, `option ${asked.option} is not known here`);
  }
}

function withoutData(asked: Asked, answer: (asked: Asked) => Verdict): Verdict {
  if (asked.data.length === 0) return answer(asked);
  return refuse(asked, REPLY.ERR_INVALID, `option ${asked.option} takes no data`);
}

function list(asked: Asked): Verdict {
  const { agreement, offer } = asked;
  const listed = [...offer.exports.values()].filter(({ tls }) => allowed(tls, agreement)); // T2
  const entries = listed.map((terms) => told(asked, REPLY.SERVER, encodeListedExport(terms)));
  return accept(asked, {}, entries);
}

function startTls(asked: Asked): Verdict {
  const { agreement, offer } = asked;
  if (agreement.tls) return refuse(asked, REPLY.ERR_INVALID, 'TLS is there already');
  if (!offer.tls) return refuse(asked, REPLY.ERR_POLICY, 'no TLS here');
  return { ...accept(asked), agreement: { ...INITIAL, tls: true }, next: 'tls' }; // T3
}

/** INFO and GO: the same words, and GO opens the export. */
function describe(asked: Asked): Verdict {
  const { name, wants } = decodeInfoRequest(asked.data);
  const found = exportFor(name, asked);
  if (!('flags' in found)) return refuse(asked, found.reply, found.why);
  const { size, flags, description, blockSizes } = found;
  const infos = [
    encodeExportInfo({ kind: 'export', size, flags }),
    encodeExportInfo({ kind: 'blockSize', ...blockSizes }),
  ];
  if (wants.includes(INFO.NAME)) infos.push(encodeExportInfo({ kind: 'name', text: name }));
  if (wants.includes(INFO.DESCRIPTION) && description !== '') {
    infos.push(encodeExportInfo({ kind: 'description', text: description }));
  }
  const answers = infos.map((info) => told(asked, REPLY.INFO, info));
  const { answer, ...verdict } = accept(asked, {}, answers);
  return asked.option === OPTION.GO ? open(asked, found, answer) : { ...verdict, answer };
}

function chooseContexts(asked: Asked): Verdict {
  const { option, data, agreement } = asked;
  const { name, queries } = decodeMetaContextRequest(data);
  if (!agreement.structured) return refuse(asked, REPLY.ERR_INVALID, 'structured replies first');
  const found = exportFor(name, asked);
  if (!('flags' in found)) return refuse(asked, found.reply, found.why);
  const lists = option === OPTION.LIST_META_CONTEXT;
  const chosen = lists
    ? queries.length === 0 || queries.some((query) => [BASE_ALLOCATION, 'base:'].includes(query))
    : queries.includes(BASE_ALLOCATION);
  const context = encodeMetaContext({ id: lists ? 0 : ALLOCATION_ID, name: BASE_ALLOCATION });
  const change = lists ? {} : { allocationOf: chosen ? name : undefined };
  return accept(asked, change, chosen ? [told(asked, REPLY.META_CONTEXT, context)] : []);
}

function openByName(asked: Asked): Verdict {
  if (asked.closing) return end(asked, 'the server is closing');
  const found = exportFor(nameOf(asked.data), asked);
  if (!('flags' in found)) return end(asked, `EXPORT_NAME: ${found.why}`);
  return open(asked, found, [encodeExportNameReply(found, asked.flags)]);
}

// Verdicts

function refuse({ option, agreement }: Asked, reply: number, why: string): Verdict {
  return { answer: [encodeOptionReply(option, reply, utf8(why))], agreement, next: 'option' };
}

function accept(
  { option, agreement }: Asked,
  change: Partial<Agreement> = {},
  before: readonly Uint8Array[] = [],
): Verdict {
  const answer = [...before, encodeOptionReply(option, REPLY.ACK)];
  return { answer, agreement: { ...agreement, ...change }, next: 'option' };
}

function open({ agreement }: Asked, opens: ExportTerms, answer: readonly Uint8Array[]): Verdict {
  const { structured, allocationOf } = agreement;
  const allocation = structured && allocationOf === opens.name; // T4
  return { answer, agreement, next: 'open', opens, agreed: { structured, allocation } };
}

function end({ agreement }: Asked, why: string): Verdict {
  return { answer: [], agreement, next: 'end', why };
}

function told({ option }: Asked, reply: number, payload: Uint8Array): Uint8Array {
  return encodeOptionReply(option, reply, payload);
}

// Exports

const isRequired = ({ tls }: ExportTerms): boolean => tls === 'required';

/** All exports require TLS, and there is none yet. */
function mustUpgrade({ tls }: Agreement, { exports }: Offer): boolean {
  return !tls && [...exports.values()].every(isRequired);
}

/** T2: some exports require TLS, and there is none yet. */
function conceals({ tls }: Agreement, { exports }: Offer): boolean {
  return !tls && [...exports.values()].some(isRequired);
}

function allowed(policy: ExportTerms['tls'], { tls }: Agreement): boolean {
  return policy === 'optional' || (policy === 'required') === tls;
}

/** The export of that name with the flags that hold for this client, or why it is not to be had. */
function exportFor(
  name: string | undefined,
  { agreement, offer }: Asked,
): ExportTerms | { readonly reply: number; readonly why: string } {
  const found = name === undefined ? undefined : offer.exports.get(name);
  if (found && allowed(found.tls, agreement)) {
    const df = agreement.structured ? TRANSMISSION_FLAG.SEND_DF : 0;
    return { ...found, flags: found.flags | df };
  }
  if (found?.tls === 'off') {
    return { reply: REPLY.ERR_POLICY, why: 'the export is not to be had over TLS' };
  }
  return conceals(agreement, offer)
    ? { reply: REPLY.ERR_TLS_REQD, why: 'not to be had without TLS, if it is there' }
    : { reply: REPLY.ERR_UNKNOWN, why: 'no such export' };
}

/** Undefined for what can be no name. */
function nameOf(data: Uint8Array): string | undefined {
  try {
    return textOf(data);
  } catch {
    return undefined;
  }
}
