// Whether a value is an event of a trace: what a log must be before anybody can ask what it means. Values come from
// anywhere, so nothing is believed and nothing of theirs is printed.

import type { Operation, RangedRequest, Stage, Tag } from '../../model/index.js';

const OPERATIONS: readonly unknown[] = [
  'read',
  'write',
  'flush',
  'discard',
  'writeZeroes',
] satisfies Operation[];
const RANGED: readonly unknown[] = [
  'read',
  'write',
  'discard',
  'writeZeroes',
] satisfies RangedRequest['kind'][];
const STAGES: readonly unknown[] = ['plain', 'preflush', 'bar', 'postflush'] satisfies Stage[];
const TAGS: readonly unknown[] = ['simple', 'ordered'] satisfies Tag[];

/** Why the value is no event, in words; undefined where it is a `TraceEvent`. */
export function misshapen(value: unknown): string | undefined {
  if (!isRecord(value)) return 'it is no object';
  const { kind, request, command, what, error, outcome } = value;
  switch (kind) {
    case 'submit':
      if (!isNumber(request)) return 'a submit without the number of its request';
      return isRequest(what) ? undefined : 'a submit of something that is no request';
    case 'dispatch':
      return misshapenDispatch(value);
    case 'complete':
      if (!isNumber(command)) return 'a complete without the number of its command';
      if (error === undefined || typeof error === 'string') return undefined;
      return 'a complete whose error is no text';
    case 'settle':
      if (!isNumber(request)) return 'a settle without the number of its request';
      return typeof outcome === 'string' ? undefined : 'a settle without an outcome';
    default:
      return 'its kind is none of submit, dispatch, complete and settle';
  }
}

function misshapenDispatch({
  command,
  what,
  requests,
}: Record<string, unknown>): string | undefined {
  if (!isNumber(command)) return 'a dispatch without the number of its command';
  if (!isCommand(what)) return 'a dispatch of something that is no command';
  if (!Array.isArray(requests) || !requests.every(isNumber)) {
    return 'a dispatch without the numbers of its requests';
  }
  if (requests.length === 0) return 'a dispatch for nobody';
  return new Set(requests).size < requests.length ? 'a dispatch that serves one twice' : undefined;
}

function isRequest(value: unknown): boolean {
  if (!isRecord(value)) return false;
  const { kind, barrier, preflush, fua } = value;
  if (kind === 'flush' || kind === 'barrier') return true;
  if (!RANGED.includes(kind) || !isRange(value)) return false;
  return kind !== 'write' || [barrier, preflush, fua].every(isFlag);
}

function isCommand(value: unknown): boolean {
  if (!isRecord(value)) return false;
  const { kind, op, tag, fua, stage } = value;
  if (kind !== 'command' || typeof fua !== 'boolean') return false;
  if (!OPERATIONS.includes(op) || !TAGS.includes(tag) || !STAGES.includes(stage)) return false;
  return op === 'flush' || isRange(value);
}

function isRange({ offset, length }: Record<string, unknown>): boolean {
  return isNumber(offset) && isNumber(length) && length > 0 && isNumber(offset + length);
}

function isFlag(value: unknown): boolean {
  return value === undefined || typeof value === 'boolean';
}

function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
