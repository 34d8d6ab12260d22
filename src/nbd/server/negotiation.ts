// The options of a client, answered: one option in, the answer and what it changes out. No state of its own; what was
// agreed so far is a value that goes in and comes out. Where options and data come from is the session's business.
//
//   T1  With TLS required everywhere, nothing but STARTTLS and ABORT is answered before it.
//   T2  An export that requires TLS is not listed, described or opened without; one with TLS `off` not with it.
//   T3  STARTTLS forgets whatever was agreed before: a stranger in the middle may have said it.
//   T4  A context counts for the export that it was chosen for, and only with structured replies.
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

/** Answers an option. `closing`: the server takes its leave. */
export function negotiate(
  option: number,
  data: Uint8Array,
  agreement: Agreement,
  offer: Offer,
  flags: HandshakeFlags,
  closing: boolean,
): Verdict {
  const refuse = (reply: number, why: string): Verdict => ({
    answer: [encodeOptionReply(option, reply, utf8(why))],
    agreement,
    next: 'option',
  });
  const accept = (change: Partial<Agreement> = {}, ...before: Uint8Array[]): Verdict => ({
    answer: [...before, encodeOptionReply(option, REPLY.ACK)],
    agreement: { ...agreement, ...change },
    next: 'option',
  });
  const end = (why: string): Verdict => ({ answer: [], agreement, next: 'end', why });

  if (option === OPTION.EXPORT_NAME) return byName();
  // Without fixed newstyle there is no way to answer anything else.
  if (!flags.fixedNewstyle) return end(`option ${option} without fixed newstyle`);
  if (option === OPTION.ABORT) return { ...accept(), next: 'end' };
  if (closing) return refuse(REPLY.ERR_SHUTDOWN, 'the server is closing');
  if (option !== OPTION.STARTTLS && mustUpgrade(agreement, offer)) {
    return refuse(REPLY.ERR_TLS_REQD, 'TLS first'); // T1
  }
  try {
    return byOption();
  } catch (error) {
    if (WriteBarrierError.is(error) && error.code === 'SYNTAX') {
      return refuse(REPLY.ERR_INVALID, error.message);
    }
    throw error;
  }

  function byOption(): Verdict {
    switch (option) {
      case OPTION.LIST:
        if (data.length > 0) return refuse(REPLY.ERR_INVALID, 'LIST takes no data');
        return accept(
          {},
          ...listed().map((entry) => told(REPLY.SERVER, encodeListedExport(entry))),
        );
      case OPTION.STARTTLS:
        return startTls();
      case OPTION.STRUCTURED_REPLY:
        if (data.length > 0) return refuse(REPLY.ERR_INVALID, 'STRUCTURED_REPLY takes no data');
        return accept({ structured: true });
      case OPTION.INFO:
      case OPTION.GO:
        return describe();
      case OPTION.LIST_META_CONTEXT:
      case OPTION.SET_META_CONTEXT:
        return contexts();
      default:
        return refuse(REPLY.ERR_UNSUP, `option ${option} is not known here`);
    }
  }

  function byName(): Verdict {
    if (closing) return end('the server is closing');
    const found = exportFor(nameOf(data), agreement, offer);
    if (!('flags' in found)) return end(`EXPORT_NAME: ${found.why}`);
    const opened = open(found);
    const answer = encodeExportNameReply({ size: found.size, flags: flagsOf(found) }, flags);
    return { ...opened, answer: [answer] };
  }

  function startTls(): Verdict {
    if (data.length > 0) return refuse(REPLY.ERR_INVALID, 'STARTTLS takes no data');
    if (agreement.tls) return refuse(REPLY.ERR_INVALID, 'TLS is there already');
    if (!offer.tls) return refuse(REPLY.ERR_POLICY, 'no TLS here');
    return { ...accept(), agreement: { ...INITIAL, tls: true }, next: 'tls' }; // T3
  }

  function describe(): Verdict {
    const { name, wants } = decodeInfoRequest(data);
    const found = exportFor(name, agreement, offer);
    if (!('flags' in found)) return refuse(found.reply, found.why);
    const { size, description, blockSizes } = found;
    const infos = [
      encodeExportInfo({ kind: 'export', size, flags: flagsOf(found) }),
      encodeExportInfo({ kind: 'blockSize', ...blockSizes }),
    ];
    if (wants.includes(INFO.NAME)) infos.push(encodeExportInfo({ kind: 'name', text: name }));
    if (wants.includes(INFO.DESCRIPTION) && description !== '') {
      infos.push(encodeExportInfo({ kind: 'description', text: description }));
    }
    const verdict = accept({}, ...infos.map((info) => told(REPLY.INFO, info)));
    return option === OPTION.GO ? { ...open(found), answer: verdict.answer } : verdict;
  }

  function contexts(): Verdict {
    const { name, queries } = decodeMetaContextRequest(data);
    if (!agreement.structured) return refuse(REPLY.ERR_INVALID, 'structured replies first');
    const found = exportFor(name, agreement, offer);
    if (!('flags' in found)) return refuse(found.reply, found.why);
    const list = option === OPTION.LIST_META_CONTEXT;
    const chosen = list
      ? queries.length === 0 || queries.some((query) => [BASE_ALLOCATION, 'base:'].includes(query))
      : queries.includes(BASE_ALLOCATION);
    const context = encodeMetaContext({ id: list ? 0 : ALLOCATION_ID, name: BASE_ALLOCATION });
    const change = list ? {} : { allocationOf: chosen ? name : undefined };
    return accept(change, ...(chosen ? [told(REPLY.META_CONTEXT, context)] : []));
  }

  function told(reply: number, payload: Uint8Array): Uint8Array {
    return encodeOptionReply(option, reply, payload);
  }

  function listed(): ExportTerms[] {
    return [...offer.exports.values()].filter(({ tls }) => allowed(tls, agreement)); // T2
  }

  function open(terms: ExportTerms): Verdict {
    const { structured, allocationOf } = agreement;
    const allocation = structured && allocationOf === terms.name; // T4
    const opens = { ...terms, flags: flagsOf(terms) };
    return { answer: [], agreement, next: 'open', opens, agreed: { structured, allocation } };
  }

  function flagsOf(terms: ExportTerms): number {
    return terms.flags | (agreement.structured ? TRANSMISSION_FLAG.SEND_DF : 0);
  }
}

/** All exports require TLS, and there is none yet. */
function mustUpgrade({ tls }: Agreement, { exports }: Offer): boolean {
  return !tls && [...exports.values()].every((terms) => terms.tls === 'required');
}

function allowed(policy: ExportTerms['tls'], { tls }: Agreement): boolean {
  return policy === 'optional' || (policy === 'required') === tls;
}

function exportFor(
  name: string | undefined,
  agreement: Agreement,
  { exports }: Offer,
): ExportTerms | { readonly reply: number; readonly why: string } {
  const found = name === undefined ? undefined : exports.get(name);
  if (!found) return { reply: REPLY.ERR_UNKNOWN, why: 'no such export' };
  if (allowed(found.tls, agreement)) return found;
  return found.tls === 'required'
    ? { reply: REPLY.ERR_TLS_REQD, why: 'the export requires TLS' }
    : { reply: REPLY.ERR_POLICY, why: 'the export is not to be had over TLS' };
}

/** Undefined for what can be no name. */
function nameOf(data: Uint8Array): string | undefined {
  try {
    return textOf(data);
  } catch {
    return undefined;
  }
}
