// The fixed newstyle handshake: what goes over the wire before an export is in use. Pure: values to bytes and back.
//
//   server  greeting
//   client  flags
//   client  option (header, data) ──▶ server  one or more option replies (header, data)     ... and again
//   server  after EXPORT_NAME: size and flags, which end the handshake without a reply header
//
// Headers have fixed sizes (SIZE) and say how much data follows; the decoders of data want exactly that. All of them
// throw SYNTAX at what the protocol does not allow, and at nothing else; a value that is legal and unknown (an option,
// a piece of information) comes out as its number.
//
// Not here: what may follow what; that is the session's.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Handshake", "Option types", "Option reply types".

import {
  GREETING_MAGIC,
  HANDSHAKE_FLAG,
  INFO,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  SIZE,
  STRING_MAX,
} from './constants.js';
import {
  bytesOf,
  FieldReader,
  getUint64,
  malformed,
  packed,
  setUint64,
  utf8,
  viewOf,
} from './fields.js';

/** What either side offers in the beginning. */
export interface HandshakeFlags {
  /** Options and answers as in this file; without it only EXPORT_NAME works. */
  readonly fixedNewstyle: boolean;
  /** No 124 zeroes after EXPORT_NAME. */
  readonly noZeroes: boolean;
}

/** The head of an option; its data follows. */
export interface OptionHeader {
  /** One of `OPTION`, or a number that is not known here. */
  readonly option: number;
  /** How many bytes of data follow. */
  readonly length: number;
}

/** The head of an answer to an option; its data follows. */
export interface OptionReplyHeader {
  /** The option that is answered. */
  readonly option: number;
  /** One of `OPTION_REPLY`, or a number that is not known here. */
  readonly reply: number;
  /** How many bytes of data follow. */
  readonly length: number;
}

/** What an export is: its size in bytes and its transmission flags. */
export interface ExportFacts {
  readonly size: number;
  /** A sum of `TRANSMISSION_FLAG`. */
  readonly flags: number;
}

/** The data of GO and of INFO. */
export interface InfoRequest {
  /** The export; '' is the default one. */
  readonly name: string;
  /** Which of `INFO` the client would like; others may come as well. */
  readonly wants: readonly number[];
}

/** The data of LIST_META_CONTEXT and of SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/** An entry of a list of exports. */
export interface ListedExport {
  /** What a client asks for; '' is the default. */
  readonly name: string;
  /** For people; often ''. */
  readonly description: string;
}

/** A context, by the number that its extents will carry. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

/** What the server says about an export. */
export type ExportInfo =
  | ({ readonly kind: 'export' } & ExportFacts)
  | { readonly kind: 'name'; readonly text: string }
  | { readonly kind: 'description'; readonly text: string }
  | ({ readonly kind: 'blockSize' } & BlockSizes)
  | { readonly kind: 'unknown'; readonly type: number };

/** Constraints on offsets and lengths, in bytes. */
export interface BlockSizes {
  /** Offsets and lengths are multiples of it. */
  readonly minimum: number;
  /** What works best. */
  readonly preferred: number;
  /** The most that a read or a write may carry; 2^32 - 1 for no limit. */
  readonly maximum: number;
}

// Greeting

export function encodeGreeting(flags: HandshakeFlags): Uint8Array {
  return bytesOf(SIZE.GREETING, (view) => {
    view.setBigUint64(0, GREETING_MAGIC);
    view.setBigUint64(8, OPTION_MAGIC);
    view.setUint16(16, maskOf(flags));
  });
}

/** Bits that are not known here are ignored, as the protocol asks of a client. */
export function decodeGreeting(bytes: Uint8Array): HandshakeFlags {
  const view = viewOf(bytes);
  if (view.getBigUint64(0) !== GREETING_MAGIC) throw malformed('no NBDMAGIC in the beginning');
  if (view.getBigUint64(8) !== OPTION_MAGIC) throw malformed('an oldstyle greeting');
  return flagsOf(view.getUint16(16));
}

export function encodeClientFlags(flags: HandshakeFlags): Uint8Array {
  return bytesOf(SIZE.CLIENT_FLAGS, (view) => view.setUint32(0, maskOf(flags)));
}

/** @throws `SYNTAX` for bits that are not known here, as the protocol asks of a server */
export function decodeClientFlags(bytes: Uint8Array): HandshakeFlags {
  const mask = viewOf(bytes).getUint32(0);
  const flags = flagsOf(mask);
  if (mask !== maskOf(flags)) throw malformed(`unknown client flags 0x${mask.toString(16)}`);
  return flags;
}

function maskOf({ fixedNewstyle, noZeroes }: HandshakeFlags): number {
  return (
    (fixedNewstyle ? HANDSHAKE_FLAG.FIXED_NEWSTYLE : 0) | (noZeroes ? HANDSHAKE_FLAG.NO_ZEROES : 0)
  );
}

function flagsOf(mask: number): HandshakeFlags {
  return {
    fixedNewstyle: (mask & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0,
    noZeroes: (mask & HANDSHAKE_FLAG.NO_ZEROES) !== 0,
  };
}

// Options and their answers

export function encodeOption(option: number, data: Uint8Array = NOTHING): Uint8Array {
  return message(OPTION_MAGIC, option, data.length, data);
}

export function decodeOptionHeader(bytes: Uint8Array): OptionHeader {
  const view = viewOf(bytes);
  if (view.getBigUint64(0) !== OPTION_MAGIC) throw malformed('no IHAVEOPT before an option');
  return { option: view.getUint32(8), length: view.getUint32(12) };
}

export function encodeOptionReply(
  option: number,
  reply: number,
  data: Uint8Array = NOTHING,
): Uint8Array {
  return message(OPTION_REPLY_MAGIC, option, reply, data.length, data);
}

export function decodeOptionReplyHeader(bytes: Uint8Array): OptionReplyHeader {
  const view = viewOf(bytes);
  if (view.getBigUint64(0) !== OPTION_REPLY_MAGIC) throw malformed('an answer without its magic');
  return { option: view.getUint32(8), reply: view.getUint32(12), length: view.getUint32(16) };
}

const NOTHING = new Uint8Array(0);

/** The magic, and what stands behind it. */
function message(magic: bigint, ...pieces: readonly (number | Uint8Array)[]): Uint8Array {
  return packed(
    bytesOf(8, (view) => view.setBigUint64(0, magic)),
    ...pieces,
  );
}

/** The answer to EXPORT_NAME. */
export function encodeExportNameReply(
  facts: ExportFacts,
  { noZeroes }: HandshakeFlags,
): Uint8Array {
  const zeroes = noZeroes ? 0 : SIZE.EXPORT_NAME_ZEROES;
  return bytesOf(SIZE.EXPORT_NAME_REPLY + zeroes, (view) => {
    setUint64(view, 0, facts.size);
    view.setUint16(8, facts.flags);
  });
}

/** Takes the first ten bytes; the zeroes, where there are any, are the caller's to skip. */
export function decodeExportNameReply(bytes: Uint8Array): ExportFacts {
  const view = viewOf(bytes);
  return { size: getUint64(view, 0), flags: view.getUint16(8) };
}

// The data of options

export function encodeInfoRequest({ name, wants }: InfoRequest): Uint8Array {
  const text = utf8(name);
  const tail = bytesOf(2 + 2 * wants.length, (view) => {
    view.setUint16(0, wants.length);
    for (const [i, type] of wants.entries()) view.setUint16(2 + 2 * i, type);
  });
  return packed(text.length, text, tail);
}

export function decodeInfoRequest(data: Uint8Array): InfoRequest {
  const fields = new FieldReader(data);
  const name = string(fields);
  const count = fields.uint16();
  if (fields.left !== 2 * count)
    throw malformed(`${count} pieces of information asked for, in vain`);
  return { name, wants: Array.from({ length: count }, () => fields.uint16()) };
}

export function encodeMetaContextRequest({ name, queries }: MetaContextRequest): Uint8Array {
  const strings = [name, ...queries].map(utf8);
  const [first = NOTHING, ...rest] = strings;
  return packed(
    first.length,
    first,
    rest.length,
    ...rest.flatMap((query) => [query.length, query]),
  );
}

export function decodeMetaContextRequest(data: Uint8Array): MetaContextRequest {
  const fields = new FieldReader(data);
  const name = string(fields);
  const count = fields.uint32();
  const queries: string[] = [];
  // A count that lies runs out of bytes: every query has four at least.
  for (let i = 0; i < count; i += 1) queries.push(string(fields));
  fields.end('a query of contexts');
  return { name, queries };
}

// The data of answers

export function encodeListedExport({ name, description }: ListedExport): Uint8Array {
  const text = utf8(name);
  return packed(text.length, text, description);
}

export function decodeListedExport(data: Uint8Array): ListedExport {
  const fields = new FieldReader(data);
  return { name: string(fields), description: fields.text() };
}

export function encodeMetaContext({ id, name }: MetaContext): Uint8Array {
  return packed(id, name);
}

export function decodeMetaContext(data: Uint8Array): MetaContext {
  const fields = new FieldReader(data);
  return { id: fields.uint32(), name: fields.text() };
}

export function encodeExportInfo(info: Exclude<ExportInfo, { kind: 'unknown' }>): Uint8Array {
  switch (info.kind) {
    case 'export':
      return bytesOf(12, (view) => {
        view.setUint16(0, INFO.EXPORT);
        setUint64(view, 2, info.size);
        view.setUint16(10, info.flags);
      });
    case 'name':
      return packed(
        bytesOf(2, (view) => view.setUint16(0, INFO.NAME)),
        info.text,
      );
    case 'description':
      return packed(
        bytesOf(2, (view) => view.setUint16(0, INFO.DESCRIPTION)),
        info.text,
      );
    case 'blockSize':
      return bytesOf(14, (view) => {
        view.setUint16(0, INFO.BLOCK_SIZE);
        view.setUint32(2, info.minimum);
        view.setUint32(6, info.preferred);
        view.setUint32(10, info.maximum);
      });
  }
}

export function decodeExportInfo(data: Uint8Array): ExportInfo {
  const fields = new FieldReader(data);
  const type = fields.uint16();
  const info = infoOf(type, fields);
  if (info.kind !== 'unknown') fields.end('a piece of information');
  return info;
}

function infoOf(type: number, fields: FieldReader): ExportInfo {
  switch (type) {
    case INFO.EXPORT:
      return { kind: 'export', size: fields.uint64(), flags: fields.uint16() };
    case INFO.NAME:
      return { kind: 'name', text: fields.text() };
    case INFO.DESCRIPTION:
      return { kind: 'description', text: fields.text() };
    case INFO.BLOCK_SIZE: {
      const [minimum, preferred, maximum] = [fields.uint32(), fields.uint32(), fields.uint32()];
      return { kind: 'blockSize', minimum, preferred, maximum };
    }
    default:
      return { kind: 'unknown', type };
  }
}

function string(fields: FieldReader): string {
  const length = fields.uint32();
  if (length > STRING_MAX) throw malformed(`a string of ${length} bytes`);
  return fields.text(length);
}
