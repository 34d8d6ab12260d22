// One notation for programs and for steps, in docs, tests, error messages and replays.
//
//   program   requests, separated by white space
//   request   w3  write block 3            w3+4  four blocks from 3       w3!   with FUA
//             fw3 with a preflush          b3    barrier write            b     empty barrier
//             f   flush                    r3    read                     d3 z3 discard, write zeroes
//             any range may be in bytes:   w@1000+24
//             z8+2|  grow: the end of the storage is after what is added;  d|8+2  cut off: it is before
//   steps     =>  drain: wait for completion      F  flush        ^  in front: ordered tag
//             EOPNOTSUPP(b3)  refused
//
// `w0 w1 b3 w4` in DRAIN_FLUSH is `w0 w1 => F => w3 => F => w4`, in TAG_FUA `w0 w1 ^F ^w3! w4`.
//
// For programs, parsing and formatting are inverse. Steps are shown as the device receives them, without their stage and
// their request, so parseSteps() cannot return those.

import {
  checkArgument,
  checkIterable,
  checkOptions,
  invalid,
  type KnownOptions,
  OBJECT,
  wholeNumber,
} from './arguments.js';
import { WriteBarrierError } from './error.js';
import type { Request } from './request.js';
import { formatValue } from './show.js';
import type { DeviceCommand, DrainStep, Operation, Step } from './transform.js';

/** The default length of a block of the notation, in bytes. */
export const NOTATION_BLOCK_SIZE = 4096;

/** How block numbers map to bytes. */
export interface NotationOptions {
  /**
   * The length of a block, in bytes.
   *
   * @defaultValue the block size of the disk for what comes from a trace; 4096 for everything else
   */
  readonly blockSize?: number;
}

/** A refusal as the notation shows it. */
export interface RefusedRequest {
  readonly kind: 'refuse';
  /** The only code that a mode refuses with. */
  readonly code: 'EOPNOTSUPP';
  /** What was refused; nothing of it reached the device. */
  readonly request: Request;
}

/** A step as the notation shows it. Every `Step` is one. */
export type DeviceStep = DrainStep | DeviceCommand | RefusedRequest;

const LETTER_OF = {
  read: 'r',
  write: 'w',
  discard: 'd',
  writeZeroes: 'z',
} as const satisfies Record<Exclude<Request['kind'], 'flush' | 'barrier'>, string>;

const KIND_OF = {
  r: 'read',
  w: 'write',
  d: 'discard',
  z: 'writeZeroes',
} as const;

const REQUEST = /^(?:(b|f)|(f?)([wb])([^!]+)(!?)|([rdz])([^!]+))$/;
const COMMAND = /^(\^?)(?:(F)|([wrdz])([^!]+)(!?))$/;
const RANGE = /^(?:(\d+)(?:\+(\d+))?|@(\d+)\+(\d+))$/;

/**
 * The requests of a program.
 *
 * @throws `SYNTAX` for a word that is not a request; the message names it and its place. `INVALID_ARGUMENT` for what is no string
 */
export function parseProgram(text: string, options: NotationOptions = {}): Request[] {
  const blockSize = blockSizeOf(options) ?? NOTATION_BLOCK_SIZE;
  return Array.from(words(text), (word) => parseRequest(word, blockSize));
}

/**
 * The program as text; `parseProgram` reads it back.
 *
 * @throws `INVALID_ARGUMENT` for what is no iterable
 */
export function formatProgram(requests: Iterable<Request>, options: NotationOptions = {}): string {
  const blockSize = blockSizeOf(options);
  checkIterable('requests', requests);
  return Array.from(requests, (request) => requestText(request, blockSize)).join(' ');
}

/**
 * One request as text.
 *
 * @throws `INVALID_ARGUMENT` for what is no object
 */
export function formatRequest(request: Request, options: NotationOptions = {}): string {
  checkArgument('request', request, OBJECT);
  return requestText(request, blockSizeOf(options));
}

function requestText(request: Request, blockSize?: number): string {
  switch (request.kind) {
    case 'flush':
      return 'f';
    case 'barrier':
      return 'b';
    case 'write': {
      const letter = request.barrier ? 'b' : 'w';
      const range = formatRange(request, blockSize);
      return `${request.preflush ? 'f' : ''}${letter}${range}${request.fua ? '!' : ''}`;
    }
    default:
      return LETTER_OF[request.kind] + formatSized(request, blockSize);
  }
}

/**
 * Steps, or what a device received, from text.
 *
 * @throws `SYNTAX` for a word that is not a step; the message names it and its place. `INVALID_ARGUMENT` for what is no string
 */
export function parseSteps(text: string, options: NotationOptions = {}): DeviceStep[] {
  const blockSize = blockSizeOf(options) ?? NOTATION_BLOCK_SIZE;
  return Array.from(words(text), (word) => parseStep(word, blockSize));
}

/**
 * Steps as text, as the device sees them: stages and requests are not shown.
 *
 * @throws `INVALID_ARGUMENT` for what is no iterable
 */
export function formatSteps(
  steps: Iterable<Step | DeviceStep>,
  options: NotationOptions = {},
): string {
  const blockSize = blockSizeOf(options);
  checkIterable('steps', steps);
  return Array.from(steps, (step) => formatStep(step, blockSize)).join(' ');
}

function formatStep(step: Step | DeviceStep, blockSize: number | undefined): string {
  switch (step.kind) {
    case 'drain':
      return '=>';
    case 'refuse':
      return `${step.code}(${requestText(step.request, blockSize)})`;
    case 'command': {
      const tag = step.tag === 'ordered' ? '^' : '';
      if (step.op === 'flush') return `${tag}F`;
      return tag + LETTER_OF[step.op] + formatSized(step, blockSize) + (step.fua ? '!' : '');
    }
  }
}

const NOTATION_OPTIONS: KnownOptions<NotationOptions> = {
  blockSize: /* @__PURE__ */ wholeNumber(1),
};

/** @throws `INVALID_ARGUMENT` */
function blockSizeOf(options: NotationOptions): number | undefined {
  checkOptions(options, NOTATION_OPTIONS, 'the notation');
  return options.blockSize;
}

/** A match of a word, or what is in the parentheses of one: the text, and the position in characters. */
interface Word {
  readonly 0: string;
  readonly index: number;
}

function words(text: string): Iterable<Word> {
  if (typeof text !== 'string') throw invalid('text', 'a string', text);
  return text.matchAll(/\S+/g);
}

function parseRequest(word: Word, blockSize: number): Request {
  const match = REQUEST.exec(word[0]);
  if (!match) throw syntaxError(word, 'a request');
  const [, bare, preflush, letter, range, fua, other, otherRange] = match;
  if (bare) return { kind: bare === 'b' ? 'barrier' : 'flush' };
  if (letter) {
    return {
      kind: 'write',
      ...parseRange(range as string, word, blockSize),
      ...(letter === 'b' ? { barrier: true } : {}),
      ...(preflush ? { preflush: true } : {}),
      ...(fua ? { fua: true } : {}),
    };
  }
  const kind = KIND_OF[other as 'r' | 'd' | 'z'];
  return { kind, ...parseSized(kind, otherRange as string, word, blockSize) };
}

function parseStep(word: Word, blockSize: number): DeviceStep {
  if (word[0] === '=>') return { kind: 'drain' };
  const refused = /^EOPNOTSUPP\((.+)\)$/.exec(word[0]);
  if (refused) {
    const inner = { 0: refused[1] as string, index: word.index + 'EOPNOTSUPP('.length };
    return { kind: 'refuse', code: 'EOPNOTSUPP', request: parseRequest(inner, blockSize) };
  }
  const match = COMMAND.exec(word[0]);
  if (!match) throw syntaxError(word, 'a step');
  const [, caret, flush, letter, range, fua] = match;
  const tag = caret ? 'ordered' : 'simple';
  if (flush) return { kind: 'command', op: 'flush', offset: 0, length: 0, tag, fua: false };
  const op: Operation = KIND_OF[letter as keyof typeof KIND_OF];
  return {
    kind: 'command',
    op,
    ...parseSized(op, range as string, word, blockSize),
    tag,
    fua: fua === '!',
  };
}

/** A range, and the end of the storage where a resize puts it. */
function formatSized(
  range: Parameters<typeof formatRange>[0] & { readonly size?: number },
  blockSize: number | undefined,
): string {
  const text = formatRange(range, blockSize);
  if (range.size === undefined) return text;
  return range.size === range.offset ? `|${text}` : `${text}|`;
}

function parseSized(
  op: Operation,
  text: string,
  word: Word,
  blockSize: number,
): { offset: number; length: number; size?: number } {
  if (op === 'discard' && text.startsWith('|')) {
    const range = parseRange(text.slice(1), word, blockSize);
    return { ...range, size: range.offset };
  }
  if (op !== 'writeZeroes' || !text.endsWith('|')) return parseRange(text, word, blockSize);
  const range = parseRange(text.slice(0, -1), word, blockSize);
  return { ...range, size: range.offset + range.length };
}

function formatRange(
  range: { readonly offset: number; readonly length: number; readonly blockSize?: number },
  given: number | undefined,
): string {
  const { offset, length } = range;
  const blockSize = given ?? range.blockSize ?? NOTATION_BLOCK_SIZE;
  if (offset % blockSize !== 0 || length % blockSize !== 0) return `@${offset}+${length}`;
  const blocks = length / blockSize;
  return blocks === 1 ? `${offset / blockSize}` : `${offset / blockSize}+${blocks}`;
}

function parseRange(
  text: string,
  word: Word,
  blockSize: number,
): { offset: number; length: number } {
  const match = RANGE.exec(text);
  if (!match) throw syntaxError(word, 'a request with a range');
  const [, block, blocks = '1', byteOffset, byteLength] = match;
  const offset = block === undefined ? Number(byteOffset) : Number(block) * blockSize;
  const length = block === undefined ? Number(byteLength) : Number(blocks) * blockSize;
  if (!(offset >= 0 && length > 0 && Number.isSafeInteger(offset + length))) {
    throw syntaxError(word, 'a range of at least one byte below 2^53');
  }
  return { offset, length };
}

function syntaxError({ 0: text, index }: Word, expected: string): WriteBarrierError {
  return new WriteBarrierError(
    'SYNTAX',
    `${formatValue(text)} at character ${index} is not ${expected}`,
  );
}
