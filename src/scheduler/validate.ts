// The one place where what comes from outside is checked; everything behind it relies on that.
//
// Ranges are whole blocks inside the storage, with at least one byte, in safe integers. Data is one Uint8Array or
// a list of them. A check of a request answers with the error, so that its caller can reject a promise with it
// before anything is queued; what a scheduler is made of is checked once, and throws. A storage is asked for the
// methods that it declares, not for what they do: that is seen when they answer (perform.ts).

import { WriteBarrierError } from '../model/index.js';
import type { Storage } from '../storage/index.js';
import type { CloseOptions, SchedulerOptions, WriteOptions } from './options.js';

/** What a request has that names no options. */
export const NO_OPTIONS: WriteOptions = Object.freeze({});

/** The number of bytes, or what is wrong with the data. */
export function checkData(data: unknown): number | WriteBarrierError {
  if (data instanceof Uint8Array) return data.byteLength;
  if (!Array.isArray(data)) return invalid('data', 'a Uint8Array or a list of them', data);
  let length = 0;
  for (const part of data) {
    if (!(part instanceof Uint8Array)) return invalid('data', 'a list of Uint8Array only', part);
    length += part.byteLength;
  }
  return length;
}

/** What is wrong with a range of bytes; undefined for nothing. */
export function checkRange(
  offset: unknown,
  length: unknown,
  size: number,
  blockSize: number,
): WriteBarrierError | undefined {
  if (!isWhole(offset)) return invalid('offset', 'a whole number of bytes below 2^53', offset);
  if (!isWhole(length)) return invalid('length', 'a whole number of bytes below 2^53', length);
  if (length === 0) return new WriteBarrierError('ZERO_LENGTH', `no bytes at offset ${offset}`);
  if (offset < 0 || length < 0 || offset + length > size) {
    const range = `${length} bytes at offset ${offset}`;
    return new WriteBarrierError('OUT_OF_RANGE', `${range} leave the storage of ${size} bytes`);
  }
  if (offset % blockSize !== 0 || length % blockSize !== 0) {
    const range = `${length} bytes at offset ${offset}`;
    return new WriteBarrierError(
      'UNALIGNED',
      `${range} are not whole blocks of ${blockSize} bytes`,
    );
  }
  return undefined;
}

/** What is wrong with the options of a request; undefined for nothing. */
export function checkRequestOptions(options: unknown): WriteBarrierError | undefined {
  if (options === NO_OPTIONS) return undefined;
  if (typeof options !== 'object' || options === null) {
    return invalid('options', 'an object', options);
  }
  const { barrier, preflush, fua, signal }: WriteOptions = options;
  if (!isFlag(barrier)) return invalid('barrier', 'a boolean', barrier);
  if (!isFlag(preflush)) return invalid('preflush', 'a boolean', preflush);
  if (!isFlag(fua)) return invalid('fua', 'a boolean', fua);
  if (signal !== undefined && typeof signal?.addEventListener !== 'function') {
    return invalid('signal', 'an AbortSignal', signal);
  }
  return undefined;
}

/** What is wrong with the options of `close`; undefined for nothing. */
export function checkTimeout({ timeoutMs }: CloseOptions): WriteBarrierError | undefined {
  if (timeoutMs === undefined || (Number.isFinite(timeoutMs) && timeoutMs >= 0)) return undefined;
  return invalid('timeoutMs', 'a number of milliseconds', timeoutMs);
}

/** @throws `INVALID_ARGUMENT` */
export function checkSchedulerOptions(options: SchedulerOptions): void {
  const { depth, maxQueued, maxQueuedBytes, errorPolicy, observer } = options;
  for (const [name, limit] of Object.entries({ depth, maxQueued, maxQueuedBytes })) {
    if (limit !== undefined && !(isWhole(limit) && limit >= 1)) {
      throw invalid(name, 'a whole number of at least 1', limit);
    }
  }
  if (errorPolicy !== undefined && errorPolicy !== 'abort' && errorPolicy !== 'kernel') {
    throw invalid('errorPolicy', "'abort' or 'kernel'", errorPolicy);
  }
  if (observer !== undefined && typeof observer !== 'function') {
    throw invalid('observer', 'a function', observer);
  }
}

/** @throws `INVALID_STORAGE` for a storage that contradicts itself */
export function checkStorage(storage: Storage): void {
  const { capabilities, size } = storage;
  const reject = (what: string): never => {
    throw new WriteBarrierError('INVALID_STORAGE', `the storage is unusable: ${what}`);
  };
  if (typeof capabilities !== 'object' || capabilities === null) reject('no capabilities');
  const { blockSize, cache } = capabilities;
  if (!isWhole(blockSize) || blockSize < 1) reject(`blockSize ${String(blockSize)}`);
  if (!isWhole(size) || size < 0) reject(`size ${String(size)}`);
  if (size % blockSize !== 0) reject(`size ${size} is not a multiple of blockSize ${blockSize}`);
  if (!['none', 'volatile', 'protected'].includes(cache)) reject(`cache '${String(cache)}'`);
  for (const name of ['flush', 'fua', 'orderedTags'] as const) {
    if (typeof capabilities[name] !== 'boolean') reject(`capability ${name} is not a boolean`);
  }
  for (const name of ['read', 'write', 'flush', 'close'] as const) {
    if (typeof storage[name] !== 'function') reject(`no method ${name}`);
  }
  for (const name of ['writev', 'discard', 'writeZeroes'] as const) {
    if (capabilities[name] === true && typeof storage[name] !== 'function') {
      reject(`it declares ${name} and has no such method`);
    }
  }
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function isFlag(value: unknown): value is boolean | undefined {
  return value === undefined || typeof value === 'boolean';
}

function invalid(name: string, expected: string, value: unknown): WriteBarrierError {
  const shown = typeof value === 'object' ? Object.prototype.toString.call(value) : String(value);
  return new WriteBarrierError('INVALID_ARGUMENT', `${name} must be ${expected}, not ${shown}`);
}
