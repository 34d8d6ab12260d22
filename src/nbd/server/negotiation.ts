// Answers the options of a client: it takes one option, and returns the answer and what the option changes. It has no
// state of its own; the agreement so far is a value that goes in and comes out. The session takes options out of the
// stream.
//
//   T1  If all exports require TLS, only STARTTLS and ABORT are answered before it.
//   T2  An export that requires TLS is not listed, described or opened without TLS, and looks like one that does not exist;
//       an export with TLS `off` is not opened over TLS.
//   T3  STARTTLS discards what was agreed before, because an attacker on the line may have sent it.
//   T4  A context holds for the export that it was chosen for, and only with structured replies. A new choice replaces
//       the one before, even if it is refused.
//   T5  A client that did not ask for block sizes may assume 512 bytes. If the export has larger blocks, the client is
//       refused and gets their size; with EXPORT_NAME, which has no replies, the connection ends.
//   T6  One option is answered with one buffer, and costs no more than its length and that of its answer.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Option types", "TLS support", "Metadata querying".

import { WriteBarrierError } from 'write-barrier';
import { concatBuffers } from 'write-barrier/kit';
import {
  BASE_ALLOCATION,
  encodeExportNameReply,
  encodeInfo,
  encodeOptionReply,
  HANDSHAKE_FLAG,
  INFO,
  INFO_REQUEST,
  LISTED_EXPORT,
  META_CONTEXT,
  META_CONTEXT_REQUEST,
  OPTION,
  OPTION_REPLY as REPLY,
  TRANSMISSION_FLAG,
  textOf,
  utf8,
  viewOf,
} from '../wire/index.js';
import type { ExportInfo } from './options.js';

/** The context number of base:allocation, chosen by the server. */
export const ALLOCATION_ID = 1;

/** What both sides agreed on so far. */
export interface Agreement {
  readonly tls: boolean;
  readonly structured: boolean;
  /** The export for which base:allocation was chosen. */
  readonly allocationOf: string | undefined;
}

/** The answer to an option, and what comes after it. */
export type Verdict = {
  /** To send. */
  readonly answer: readonly Uint8Array[];
  /** What is agreed from now on. */
  readonly agreement: Agreement;
  /** The answer is a refusal. */
  readonly refused?: boolean;
} & (
  | { readonly next: 'option' | 'tls' }
  | { readonly next: 'open'; readonly opens: ExportInfo }
  /** `why` is undefined where the client wants the end. */
  | { readonly next: 'end'; readonly why: string | undefined }
);

/** What the server offers. */
export interface Offer {
  readonly exports: ReadonlyMap<string, ExportInfo>;
  /** The server has keys for TLS. */
  readonly tls: boolean;
  /** Whether the maximum number of clients use an export. @defaultValue never */
  readonly full?: () => boolean;
}

export const INITIAL: Agreement = { tls: false, structured: false, allocationOf: undefined };

/** An option, and what its answer depends on. */
export interface Asked {
  readonly option: number;
  readonly data: Uint8Array;
  readonly agreement: Agreement;
  readonly offer: Offer;
  /** What both sides offered in the beginning: a sum of `HANDSHAKE_FLAG`. */
  readonly flags: number;
  /** The server is closing. */
  readonly closing: boolean;
}

/** Answers an option. */
export function negotiate(given: Asked): Verdict {
  const asked = given.option === OPTION.SET_META_CONTEXT ? withoutChoice(given) : given; // T4
  const { option, agreement, offer, flags, closing } = asked;
  if (option === OPTION.EXPORT_NAME) return openByName(asked);
  // Without fixed newstyle there is no way to answer anything else.
  if (!(flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE))
    return end(asked, `option ${option} without fixed newstyle`);
  if (option === OPTION.ABORT) return { ...accept(asked), next: 'end', why: undefined };
  if (closing) return refuse(asked, REPLY.ERR_SHUTDOWN, 'the server is closing');
  if (option !== OPTION.STARTTLS && mustUpgrade(agreement, offer)) {
    return refuse(asked, REPLY.ERR_TLS_REQD, 'use STARTTLS first'); // T1
  }
  if (WITHOUT_DATA.has(option) && asked.data.length > 0) {
    return refuse(asked, REPLY.ERR_INVALID, `option ${option} takes no data`);
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

const WITHOUT_DATA: ReadonlySet<number> = new Set([
  OPTION.LIST,
  OPTION.STARTTLS,
  OPTION.STRUCTURED_REPLY,
]);

function byOption(asked: Asked): Verdict {
  switch (asked.option) {
    case OPTION.LIST:
      return list(asked);
    case OPTION.STARTTLS:
      return startTls(asked);
    case OPTION.STRUCTURED_REPLY:
      return accept(asked, { structured: true });
    case OPTION.INFO:
    case OPTION.GO:
      return describe(asked);
    case OPTION.LIST_META_CONTEXT:
    case OPTION.SET_META_CONTEXT:
      return chooseContexts(asked);
    default:
      return refuse(asked, REPLY.ERR_UNSUP, `option ${asked.option} is not supported`);
  }
}

function list(asked: Asked): Verdict {
  const { agreement, offer } = asked;
  const listed = [...offer.exports.values()].filter(({ tls }) => allowed(tls, agreement)); // T2
  return accept(asked, {}, listed.map(entryOf));
}

/** Encoded once for each export, because any stranger can ask for a list of thousands. */
const entries = new WeakMap<ExportInfo, Uint8Array>();

function entryOf(info: ExportInfo): Uint8Array {
  const { description = info.description } = info.changes?.() ?? {};
  const known = description === info.description ? entries.get(info) : undefined;
  if (known) return known;
  const listed = LISTED_EXPORT.encode({ name: info.name, description });
  const entry = encodeOptionReply(OPTION.LIST, REPLY.SERVER, listed);
  if (description === info.description) entries.set(info, entry);
  return entry;
}

function startTls(asked: Asked): Verdict {
  const { agreement, offer } = asked;
  if (agreement.tls) return refuse(asked, REPLY.ERR_INVALID, 'TLS is in use already');
  if (!offer.tls) return refuse(asked, REPLY.ERR_POLICY, 'this server has no TLS');
  return { ...accept(asked), agreement: { ...INITIAL, tls: true }, next: 'tls' }; // T3
}

/** INFO and GO have the same answer; GO also opens the export. */
function describe(asked: Asked): Verdict {
  const { name, wants } = INFO_REQUEST.decode(asked.data);
  const found = exportFor(name, asked);
  const { offer } = asked;
  if (!('flags' in found)) return refuse(asked, found.reply, found.why);
  const { size, flags, description, blockSizes } = found;
  const sizes = encodeInfo({ kind: 'blockSize', ...blockSizes });
  if (needsAsking(found) && !wants.includes(INFO.BLOCK_SIZE)) {
    // T5: the sizes are sent too, because a client may then need no second question.
    const why = `the export has blocks of ${blockSizes.minimum} bytes; ask for INFO_BLOCK_SIZE`;
    return refuse(asked, REPLY.ERR_BLOCK_SIZE_REQD, why, [
      encodeOptionReply(asked.option, REPLY.INFO, sizes),
    ]);
  }
  if (asked.option === OPTION.GO && offer.full?.()) return refuse(asked, REPLY.ERR_POLICY, FULL);
  const infos = [encodeInfo({ kind: 'export', size, flags }), sizes];
  if (wants.includes(INFO.NAME)) infos.push(encodeInfo({ kind: 'name', text: name }));
  if (wants.includes(INFO.DESCRIPTION) && description !== '') {
    infos.push(encodeInfo({ kind: 'description', text: description }));
  }
  const answers = infos.map((info) => encodeOptionReply(asked.option, REPLY.INFO, info));
  const verdict = accept(asked, {}, answers);
  return asked.option === OPTION.GO ? { ...verdict, next: 'open', opens: found } : verdict;
}

function chooseContexts(asked: Asked): Verdict {
  const { option, data, agreement } = asked;
  if (queriesIn(data) > QUERIES_MAX) {
    return refuse(asked, REPLY.ERR_TOO_BIG, `more than ${QUERIES_MAX} queries`);
  }
  const { name, queries } = META_CONTEXT_REQUEST.decode(data);
  if (!agreement.structured) return refuse(asked, REPLY.ERR_INVALID, 'use STRUCTURED_REPLY first');
  const found = exportFor(name, asked);
  if (!('flags' in found)) return refuse(asked, found.reply, found.why);
  const lists = option === OPTION.LIST_META_CONTEXT;
  const chosen = lists
    ? queries.length === 0 || queries.some((query) => [BASE_ALLOCATION, 'base:'].includes(query))
    : queries.includes(BASE_ALLOCATION);
  const context = META_CONTEXT.encode({ id: lists ? 0 : ALLOCATION_ID, name: BASE_ALLOCATION });
  const change = lists ? {} : { allocationOf: chosen ? name : undefined };
  return accept(
    asked,
    change,
    chosen ? [encodeOptionReply(asked.option, REPLY.META_CONTEXT, context)] : [],
  );
}

function openByName(asked: Asked): Verdict {
  if (asked.closing) return end(asked, 'the server is closing');
  const found = exportFor(nameOf(asked.data), asked);
  if (!('flags' in found)) return end(asked, `EXPORT_NAME: ${found.why}`);
  if (needsAsking(found)) {
    return end(asked, `EXPORT_NAME: blocks of ${found.blockSizes.minimum} bytes`); // T5
  }
  if (asked.offer.full?.()) return end(asked, FULL);
  const answer = [encodeExportNameReply(found, asked)];
  return { answer, agreement: asked.agreement, next: 'open', opens: found };
}

// Verdicts

function refuse(
  { option, agreement }: Asked,
  reply: number,
  why: string,
  before: readonly Uint8Array[] = [],
): Verdict {
  const answer = oneBuffer([...before, encodeOptionReply(option, reply, utf8(why))]);
  return { answer, agreement, next: 'option', refused: true };
}

function accept(
  { option, agreement }: Asked,
  change: Partial<Agreement> = {},
  before: readonly Uint8Array[] = [],
): Verdict {
  const answer = oneBuffer([...before, encodeOptionReply(option, REPLY.ACK)]);
  return { answer, agreement: { ...agreement, ...change }, next: 'option' };
}

/** T4: whether the client may ask for the context base:allocation of an export. */
export function allowsAllocation(agreement: Agreement, { name }: ExportInfo): boolean {
  return agreement.structured && agreement.allocationOf === name;
}

function end({ agreement }: Asked, why: string): Verdict {
  return { answer: [], agreement, next: 'end', why };
}

/** T6 */
function oneBuffer(parts: readonly Uint8Array[]): readonly [Uint8Array] {
  const [first] = parts;
  if (first && parts.length === 1) return [first];
  return [concatBuffers(parts)];
}

const FULL = 'the server has its maximum number of clients';
/** Maximum queries for contexts in one option, because each costs more than its four bytes. */
const QUERIES_MAX = 256;

/** How many queries follow the name; 0 if the data is cut off, which the decoder reports. */
function queriesIn(data: Uint8Array): number {
  const view = viewOf(data);
  const at = data.length < 4 ? 0 : 4 + view.getUint32(0);
  return at === 0 || at + 4 > data.length ? 0 : view.getUint32(at);
}

// Exports

/** The block size that a client may assume, in bytes. */
const DEFAULT_MINIMUM = 512;

function needsAsking({ blockSizes }: ExportInfo): boolean {
  return blockSizes.minimum > DEFAULT_MINIMUM;
}

const isRequired = ({ tls }: ExportInfo): boolean => tls === 'required';

/** All exports require TLS, and it is not in use. */
function mustUpgrade({ tls }: Agreement, { exports }: Offer): boolean {
  return !tls && [...exports.values()].every(isRequired);
}

/** T2: some exports require TLS, and it is not in use. */
function conceals({ tls }: Agreement, { exports }: Offer): boolean {
  return !tls && [...exports.values()].some(isRequired);
}

function allowed(policy: ExportInfo['tls'], { tls }: Agreement): boolean {
  return policy === 'optional' || (policy === 'required') === tls;
}

/** The export of that name with the flags for this client, or the refusal. */
function exportFor(
  name: string | undefined,
  { agreement, offer }: Asked,
): ExportInfo | { readonly reply: number; readonly why: string } {
  const found = name === undefined ? undefined : offer.exports.get(name);
  if (found && allowed(found.tls, agreement)) {
    const df = agreement.structured ? TRANSMISSION_FLAG.SEND_DF : 0;
    const info = { ...found, ...found.changes?.() };
    return { ...info, flags: info.flags | df };
  }
  if (found?.tls === 'off') {
    return { reply: REPLY.ERR_POLICY, why: 'the export does not allow TLS' };
  }
  return conceals(agreement, offer)
    ? { reply: REPLY.ERR_TLS_REQD, why: 'the export requires TLS, or does not exist' }
    : { reply: REPLY.ERR_UNKNOWN, why: 'no such export' };
}

/** Undefined if the bytes cannot be a name. */
function nameOf(data: Uint8Array): string | undefined {
  try {
    return textOf(data);
  } catch {
    return undefined;
  }
}
