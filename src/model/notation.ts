// One notation for programs and for steps, in docs, tests, error messages and replays.
//
//   program   requests, separated by white space
//   request   w3  write block 3            w3+4  four blocks from 3       w3!   with FUA
//             fw3 with a preflush          b3    barrier write            b     empty barrier
//             f   flush                    r3    read                     d3 z3 discard, write zeroes
//             any range may be in bytes:   w@1000+24
//   steps     =>  drain: wait for completion      F  flush        ^  in front: ordered tag
//             EOPNOTSUPP(b3)  refused
//
// `w0 w1 b3 w4` in DRAIN_FLUSH is `w0 w1 => F => w3 => F => w4`, in TAG_FUA `w0 w1 ^F ^w3! w4`.
//
// Parse and format are inverse on programs. Steps are shown as the device sees them: without their stage
// and their request, which parseSteps() therefore does not invent.

import { WriteBarrierError } from './error.js';
import type { RangedRequest, Request } from './request.js';
import type { DeviceCommand, DrainStep, Operation, Step } from './transform.js';

/** How long a block of the notation is, in bytes, unless told otherwise. */
export const NOTATION_BLOCK_SIZE = 4096;

/** How block numbers of the notation map to bytes. */
export interface NotationOptions {
  /** In bytes; 4096 unless given. */
  readonly blockSize?: number;
}

/** A refusal as the notation shows it. */
export interface RefusedRequest {
  readonly kind: 'refuse';
  /** The only reason that a mode has for refusing. */
  readonly code: 'EOPNOTSUPP';
  /** What was refused; nothing of it reached the device. */
  readonly request: Request;
}

/** What the notation shows of a step. Every `Step` is one. */
export type DeviceStep = DrainStep | DeviceCommand | RefusedRequest;

const LETTER_OF = {
  read: 'r',
  write: 'w',
  discard: 'd',
  writeZeroes: 'z',
} as const satisfies Record<RangedRequest['kind'], string>;

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
 * @throws `SYNTAX` for a word that is no request; the message names it and its place
 */
export function parseProgram(text: string, options: NotationOptions = {}): Request[] {
  return words(text).map((word) => parseRequest(word, options));
}

/** The program as text; `parseProgram` reads it back. */
export function formatProgram(requests: Iterable<Request>, options: NotationOptions = {}): string {
  return Array.from(requests, (request) => formatRequest(request, options)).join(' ');
}

/** One request as text. */
export function formatRequest(request: Request, options: NotationOptions = {}): string {
  switch (request.kind) {
    case 'flush':
      return 'f';
    case 'barrier':
      return 'b';
    case 'write': {
      const letter = request.barrier ? 'b' : 'w';
      const range = formatRange(request, options);
      return `${request.preflush ? 'f' : ''}${letter}${range}${request.fua ? '!' : ''}`;
    }
    default:
      return LETTER_OF[request.kind] + formatRange(request, options);
  }
}

/**
 * Steps, or what a device received, from text.
 *
 * @throws `SYNTAX` for a word that is no step; the message names it and its place
 */
export function parseSteps(text: string, options: NotationOptions = {}): DeviceStep[] {
  return words(text).map((word) => parseStep(word, options));
}

/** Steps as text, as the device sees them: stages and requests are not shown. */
export function formatSteps(
  steps: Iterable<Step | DeviceStep>,
  options: NotationOptions = {},
): string {
  return Array.from(steps, (step) => formatStep(step, options)).join(' ');
}

function formatStep(step: Step | DeviceStep, options: NotationOptions): string {
  switch (step.kind) {
    case 'drain':
      return '=>';
    case 'refuse':
      return `${step.code}(${formatRequest(step.request, options)})`;
    case 'command': {
      const tag = step.tag === 'ordered' ? '^' : '';
      if (step.op === 'flush') return `${tag}F`;
      return tag + LETTER_OF[step.op] + formatRange(step, options) + (step.fua ? '!' : '');
    }
  }
}

interface Word {
  readonly text: string;
  readonly position: number;
}

function words(text: string): Word[] {
  return Array.from(text.matchAll(/\S+/g), (match) => ({ text: match[0], position: match.index }));
}

function parseRequest(word: Word, options: NotationOptions): Request {
  const match = REQUEST.exec(word.text);
  if (!match) throw syntaxError(word, 'a request');
  const [, bare, preflush, letter, range, fua, other, otherRange] = match;
  if (bare) return { kind: bare === 'b' ? 'barrier' : 'flush' };
  if (letter) {
    return {
      kind: 'write',
      ...parseRange(range as string, word, options),
      ...(letter === 'b' ? { barrier: true } : {}),
      ...(preflush ? { preflush: true } : {}),
      ...(fua ? { fua: true } : {}),
    };
  }
  const kind = KIND_OF[other as 'r' | 'd' | 'z'];
  return { kind, ...parseRange(otherRange as string, word, options) };
}

function parseStep(word: Word, options: NotationOptions): DeviceStep {
  if (word.text === '=>') return { kind: 'drain' };
  const refused = /^EOPNOTSUPP\((.+)\)$/.exec(word.text);
  if (refused) {
    const inner = { text: refused[1] as string, position: word.position + 'EOPNOTSUPP('.length };
    return { kind: 'refuse', code: 'EOPNOTSUPP', request: parseRequest(inner, options) };
  }
  const match = COMMAND.exec(word.text);
  if (!match) throw syntaxError(word, 'a step');
  const [, caret, flush, letter, range, fua] = match;
  const tag = caret ? 'ordered' : 'simple';
  if (flush) return { kind: 'command', op: 'flush', offset: 0, length: 0, tag, fua: false };
  const op: Operation = KIND_OF[letter as keyof typeof KIND_OF];
  return {
    kind: 'command',
    op,
    ...parseRange(range as string, word, options),
    tag,
    fua: fua === '!',
  };
}

function formatRange(
  range: { readonly offset: number; readonly length: number },
  { blockSize = NOTATION_BLOCK_SIZE }: NotationOptions,
): string {
  const { offset, length } = range;
  if (offset % blockSize !== 0 || length % blockSize !== 0) return `@${offset}+${length}`;
  const blocks = length / blockSize;
  return blocks === 1 ? `${offset / blockSize}` : `${offset / blockSize}+${blocks}`;
}

function parseRange(
  text: string,
  word: Word,
  { blockSize = NOTATION_BLOCK_SIZE }: NotationOptions,
): { offset: number; length: number } {
  const match = RANGE.exec(text);
  if (!match) throw syntaxError(word, 'a request with a range');
  const [, block, blocks = '1', byteOffset, byteLength] = match;
  const offset = block === undefined ? Number(byteOffset) : Number(block) * blockSize;
  const length = block === undefined ? Number(byteLength) : Number(blocks) * blockSize;
  if (length === 0 || !Number.isSafeInteger(offset + length)) {
    throw syntaxError(word, 'a range of at least one byte below 2^53');
  }
  return { offset, length };
}

function syntaxError({ text, position }: Word, expected: string): WriteBarrierError {
  return new WriteBarrierError('SYNTAX', `'${text}' at character ${position} is not ${expected}`);
}
