// The one place where what comes from outside is checked; everything behind it relies on that.
//
// Ranges are whole blocks inside the storage, with at least one byte, in safe integers. Data is one Uint8Array or
// a list of them. A check of a request answers with the error, so that its caller can reject a promise with it
// before anything is queued; what a scheduler is made of is checked once, and throws. A storage is asked for the
// methods that it declares, not for what they do: that is seen when they answer (perform.ts).

import { WriteBarrierError } from '../model/index.js';
import { totalLength } from '../storage/bytes.js';
import { rangeFault } from '../storage/checks.js';
import type { CloseOptions, SchedulerOptions, WriteOptions } from './options.js';

/** What a timer can wait. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;
/** More commands at once only slow down the search for overlaps. */
const DEPTH_MAX = 1024;

/** What a request has that names no options. */
export const NO_OPTIONS: WriteOptions = Object.freeze({});

const REQUEST_FLAGS = ['barrier', 'preflush', 'fua'] as const;
const SCHEDULER_FLAGS = ['allowUnsafe', 'readsPassBarriers'] as const;

/** The number of bytes, or what is wrong with the data. */
export function checkData(data: unknown): number | WriteBarrierError {
  if (isBytes(data)) return data.byteLength;
  if (!Array.isArray(data) || ![...data].every(isBytes)) {
    return invalid('data', 'a Uint8Array or a list of them', data);
  }
  return totalLength(data);
}

/** What is wrong with a range of bytes; undefined for nothing. */
export function checkRange(
  range: { readonly offset: number; readonly length: number },
  size: number,
  blockSize: number,
): WriteBarrierError | undefined {
  const { offset, length } = range;
  if (!isWhole(offset)) return invalid('offset', 'a whole number of bytes below 2^53', offset);
  if (!isWhole(length)) return invalid('length', 'a whole number of bytes below 2^53', length);
  if (length === 0) return new WriteBarrierError('ZERO_LENGTH', `no bytes at offset ${offset}`);
  return rangeFault(range, size, blockSize);
}

/** What is wrong with the options of a request; undefined for nothing. */
export function checkRequestOptions(options: WriteOptions): WriteBarrierError | undefined {
  if (options === NO_OPTIONS) return undefined;
  const misuse = checkFlags(options, REQUEST_FLAGS);
  if (misuse) return misuse;
  const { signal } = options;
  return signal === undefined || isSignal(signal)
    ? undefined
    : invalid('signal', 'an AbortSignal', signal);
}

/** What is wrong with the options of `close`; undefined for nothing. */
export function checkTimeout(options: CloseOptions): WriteBarrierError | undefined {
  const misuse = checkFlags(options, []);
  if (misuse) return misuse;
  const { timeoutMs } = options;
  if (timeoutMs === undefined) return undefined;
  if (typeof timeoutMs === 'number' && timeoutMs >= 0 && timeoutMs <= TIMEOUT_MAX_MS) {
    return undefined;
  }
  return invalid('timeoutMs', 'a number of milliseconds below 2^31', timeoutMs);
}

/** @throws `INVALID_ARGUMENT` */
export function checkSchedulerOptions(options: SchedulerOptions): void {
  const misuse = checkFlags(options, SCHEDULER_FLAGS);
  if (misuse) throw misuse;
  const { depth, maxQueued, maxQueuedBytes, errorPolicy, observer } = options;
  for (const [name, limit] of Object.entries({ depth, maxQueued, maxQueuedBytes })) {
    const max = name === 'depth' ? DEPTH_MAX : Number.MAX_SAFE_INTEGER;
    if (limit !== undefined && !(isWhole(limit) && limit >= 1 && limit <= max)) {
      throw invalid(name, `a whole number from 1 to ${max}`, limit);
    }
  }
  if (errorPolicy !== undefined && errorPolicy !== 'abort' && errorPolicy !== 'kernel') {
    throw invalid('errorPolicy', "'abort' or 'kernel'", errorPolicy);
  }
  if (observer !== undefined && typeof observer !== 'function') {
    throw invalid('observer', 'a function', observer);
  }
}

/** What is wrong with options, or with those of their members that are to be booleans. */
function checkFlags<T extends object>(
  options: T,
  names: readonly (keyof T & string)[],
): WriteBarrierError | undefined {
  if (!isObject(options)) return invalid('options', 'an object', options);
  for (const name of names) {
    const value = options[name];
    if (value !== undefined && typeof value !== 'boolean') return invalid(name, 'a boolean', value);
  }
  return undefined;
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

function isWhole(value: unknown): boolean {
  return Number.isSafeInteger(value);
}

/** Also a Uint8Array of another realm: a frame, a vm context. */
export function isBytes(value: unknown): value is Uint8Array {
  return value instanceof Uint8Array || tagOf(value) === '[object Uint8Array]';
}

function isSignal(value: unknown): boolean {
  return isObject(value) && 'addEventListener' in value && 'removeEventListener' in value;
}

function tagOf(value: unknown): string {
  return Object.prototype.toString.call(value);
}

function invalid(name: string, expected: string, value: unknown): WriteBarrierError {
  const shown = typeof value === 'object' ? tagOf(value) : String(value);
  return new WriteBarrierError('INVALID_ARGUMENT', `${name} must be ${expected}, not ${shown}`);
}
