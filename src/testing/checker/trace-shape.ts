// Whether a value is an event of a trace. Values may come from anywhere, so every field is checked, and no content of them is
// printed.

import type { TraceEvent } from '../../model/index.js';

export const OPERATIONS = ['read', 'write', 'flush', 'discard', 'writeZeroes'] as const;
const STAGES = ['plain', 'preflush', 'bar', 'postflush'] as const;
export const TAGS = ['simple', 'ordered'] as const;

/** A field of an event, what it must be, and what an event is without that. */
type Field = readonly [name: string, holds: (value: unknown) => boolean, fault: string];

const FIELDS: Readonly<Record<TraceEvent['kind'], readonly Field[]>> = {
  submit: [
    ['request', isCount, 'a submit without the number of its request'],
    ['what', isRequest, 'a submit whose request is malformed'],
  ],
  dispatch: [
    ['command', isCount, 'a dispatch without the number of its command'],
    ['what', isCommand, 'a dispatch whose command is malformed'],
    ['requests', areNumbers, 'a dispatch without the numbers of its requests'],
    ['requests', (list) => (list as number[]).length > 0, 'a dispatch for no request'],
    ['requests', areDistinct, 'a dispatch that serves a request twice'],
  ],
  complete: [
    ['command', isCount, 'a complete without the number of its command'],
    ['error', isMaybe('string'), 'a complete whose error is not a string'],
  ],
  settle: [
    ['request', isCount, 'a settle without the number of its request'],
    ['outcome', (outcome) => typeof outcome === 'string', 'a settle without an outcome'],
  ],
};

/** Why the value is not an event, in words; undefined if it is a `TraceEvent`. */
export function misshapen(value: unknown): string | undefined {
  if (!isRecord(value)) return 'it is not an object';
  const { kind } = value;
  if (typeof kind !== 'string' || !Object.hasOwn(FIELDS, kind)) {
    return 'its kind is not submit, dispatch, complete or settle';
  }
  return FIELDS[kind as TraceEvent['kind']].find(([name, holds]) => !holds(value[name]))?.[2];
}

function isRequest(value: unknown): boolean {
  if (!isRecord(value)) return false;
  const { kind, barrier, preflush, fua } = value;
  if (kind === 'flush' || kind === 'barrier') return true;
  if (!isOneOf(OPERATIONS, kind) || !isRange(value) || !isSized(kind, value)) return false;
  return kind !== 'write' || [barrier, preflush, fua].every(isFlag);
}

function isCommand(value: unknown): boolean {
  if (!isRecord(value)) return false;
  const { kind, op, tag, fua, stage } = value;
  if (kind !== 'command' || typeof fua !== 'boolean') return false;
  if (!isOneOf(OPERATIONS, op) || !isOneOf(TAGS, tag) || !isOneOf(STAGES, stage)) return false;
  return op === 'flush' || (isRange(value) && isSized(op, value));
}

/** Whether a size, if there is one, is where the range of a resize ends, or where it begins if it cuts something off. */
export function isSized(
  op: (typeof OPERATIONS)[number],
  { offset, length, size }: Readonly<Record<string, unknown>>,
): boolean {
  if (size === undefined) return true;
  if (op === 'discard') return size === offset;
  return op === 'writeZeroes' && size === (offset as number) + (length as number);
}

function isRange({ offset, length, blockSize }: Record<string, unknown>): boolean {
  const isUnit = isMaybe('number')(blockSize);
  return isUnit && isCount(offset) && isCount(length) && length > 0 && isCount(offset + length);
}

function areNumbers(value: unknown): boolean {
  return Array.isArray(value) && value.every(isCount);
}

function areDistinct(value: unknown): boolean {
  const list = value as readonly unknown[];
  return new Set(list).size === list.length;
}

const isFlag = isMaybe('boolean');

/* @__NO_SIDE_EFFECTS__ */
function isMaybe(type: 'boolean' | 'number' | 'string'): (value: unknown) => boolean {
  return (value) => value === undefined || typeof value === type;
}

/** Whether a value is one of these words. */
export function isOneOf<T>(words: readonly T[], value: unknown): value is T {
  return (words as readonly unknown[]).includes(value);
}

/** Whether a value is a whole number from 0 that is exact. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
