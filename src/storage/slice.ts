// A part of a storage as a storage of its own.
//
// It has every method that the whole has, except `resize`, because the bytes after it belong to others. If the whole becomes smaller
// than its end, commands for what is gone fail. A failure of the whole may name bytes at risk (`atRisk`): they are told in offsets of the
// part, and only those that are in it, because the part's user knows no others.

import { type ByteRange, WriteBarrierError } from '../model/index.js';
import { totalLength } from './buffers.js';
import { checkRange, checkStorage } from './checks.js';
import type { Extent, Storage } from './storage.js';
import { isPending } from './wrappers.js';

/**
 * The bytes from `offset` on as a storage of their own, of a fixed size. It has the capabilities of the whole, except `resize`.
 * Closing it closes nothing, because the rest belongs to others. A flush is one of the whole.
 *
 * @param size of the part in bytes
 * @throws `OUT_OF_RANGE`, `UNALIGNED` for a part that the storage does not have; `INVALID_STORAGE` for what is no storage
 */
export function slice(storage: Storage, offset: number, size: number): Storage {
  checkStorage(storage);
  checkRange(storage, offset, size);
  let closed = false;
  const call = <T>(run: () => T | Promise<T>): T | Promise<T> => {
    if (closed) throw new WriteBarrierError('CLOSED', 'the slice is closed');
    return told(run, offset, size);
  };
  /** Checks a range, and runs a command where the range is in the whole. */
  const ranged = <T>(at: number, length: number, run: (at: number) => T | Promise<T>) =>
    call(() => {
      checkRange(part, at, length);
      return run(offset + at);
    });
  const { writev, discard, writeZeroes } = storage.capabilities;
  const part: Storage = {
    size,
    capabilities: Object.freeze({ ...storage.capabilities, resize: false }),
    read: (at, into) => ranged(at, into.byteLength, (place) => storage.read(place, into)),
    write: (at, data, flags) =>
      ranged(at, data.byteLength, (place) => storage.write(place, data, flags)),
    flush: (flags) => call(() => storage.flush(flags)),
    close: () => {
      closed = true;
    },
  };
  if (writev) {
    part.writev = (at, data, flags) =>
      ranged(at, totalLength(data), (place) => storage.writev?.(place, data, flags));
  }
  if (discard) {
    part.discard = (at, length) => ranged(at, length, (place) => storage.discard?.(place, length));
  }
  if (writeZeroes) {
    part.writeZeroes = (at, length) =>
      ranged(at, length, (place) => storage.writeZeroes?.(place, length));
  }
  if (storage.blockStatus) {
    part.blockStatus = (at, length) =>
      ranged<readonly Extent[]>(at, length, (place) => storage.blockStatus?.(place, length) ?? []);
  }
  return part;
}

/** Runs a command; what it throws is told in the offsets of the part. */
function told<T>(run: () => T | Promise<T>, offset: number, size: number): T | Promise<T> {
  const fail = (error: unknown): never => {
    throw inPart(error, offset, size);
  };
  let answer: T | Promise<T>;
  try {
    answer = run();
  } catch (error) {
    return fail(error);
  }
  return isPending(answer) ? answer.catch(fail) : answer;
}

/** A copy of an error that names bytes at risk, and the error itself if it names none. The class, code and cause stay. */
function inPart(error: unknown, offset: number, size: number): unknown {
  const { atRisk } = Object(error) as { readonly atRisk?: readonly ByteRange[] };
  if (!WriteBarrierError.is(error) || !Array.isArray(atRisk)) return error;
  const own = (atRisk as readonly ByteRange[])
    .map(({ start, end }) => ({
      start: Math.max(start - offset, 0),
      end: Math.min(end - offset, size),
    }))
    .filter(({ start, end }) => start < end);
  const copy = Object.setPrototypeOf(new Error(), Object.getPrototypeOf(error));
  return Object.defineProperties(copy, {
    ...Object.getOwnPropertyDescriptors(error),
    message: described(`in a part of a storage: ${error.message}`),
    atRisk: described(own),
    cause: described(error),
  });
}

function described(value: unknown): PropertyDescriptor {
  return { value, writable: true, configurable: true, enumerable: false };
}
