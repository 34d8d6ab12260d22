// The calls of the operating system that hold user data or its promises, and the two loops that
// turn a positional call into a whole transfer.
//
//   P1  A transfer that moved less than it was asked for goes on where it stopped.
//   P2  EINTR and EAGAIN are tried again at once, RETRIES_MAX times in a row at most; a call that
//       moves anything starts the count anew. No other error is tried again.
//   P3  A call that moves nothing and names no error ends the transfer with SHORT_TRANSFER: behind
//       the end of a file that was cut there is nothing to read, and no zeroes are made up.
//   P4  The error of the system is the `cause`, with its own `code`.

import type { BigIntStats, NoParamCallback } from 'node:fs';
import { WriteBarrierError } from 'write-barrier';

type Moved = (error: NodeJS.ErrnoException | null, bytes: number) => void;
type PositionalCall = (
  fd: number,
  buffer: Uint8Array,
  offset: number,
  length: number,
  position: number,
  callback: Moved,
) => void;

/**
 * What `FileStorage` needs of `node:fs`: functions that have these shapes.
 *
 * @internal for fault injection in tests
 */
export interface FileCalls {
  readonly open: (
    path: string,
    flags: number,
    mode: number,
    callback: (error: NodeJS.ErrnoException | null, fd: number) => void,
  ) => void;
  readonly fstat: (
    fd: number,
    options: { readonly bigint: true },
    callback: (error: NodeJS.ErrnoException | null, stats: BigIntStats) => void,
  ) => void;
  readonly ftruncate: (fd: number, length: number, callback: NoParamCallback) => void;
  readonly read: PositionalCall;
  readonly write: PositionalCall;
  readonly writev: (
    fd: number,
    buffers: readonly Uint8Array[],
    position: number,
    callback: Moved,
  ) => void;
  readonly writeSync: (
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
  ) => number;
  readonly writevSync: (fd: number, buffers: readonly Uint8Array[], position: number) => number;
  readonly fsync: (fd: number, callback: NoParamCallback) => void;
  readonly fdatasync: (fd: number, callback: NoParamCallback) => void;
  readonly close: (fd: number, callback: NoParamCallback) => void;
}

/** Told once how a transfer ended. */
export type End = (error: WriteBarrierError | null) => void;

const RETRIES_MAX = 100;

/** Reads or writes the whole of `buffer`; `name` is for the error. */
export function transfer(
  name: 'read' | 'write',
  call: PositionalCall,
  fd: number,
  buffer: Uint8Array,
  position: number,
  end: End,
): void {
  const length = buffer.byteLength;
  let done = 0;
  let retries = 0;
  const moved: Moved = (error, bytes) => {
    if (error === null && done + bytes === length) return end(null);
    const stop = verdict(error, bytes, retries, name, length, position);
    if (stop) return end(stop);
    retries = error === null ? 0 : retries + 1;
    done += error === null ? bytes : 0;
    call(fd, buffer, done, length - done, position + done, moved);
  };
  call(fd, buffer, 0, length, position, moved);
}

/** Writes all of `buffers`, one after another: `length` bytes, at least 1. */
export function transferList(
  call: FileCalls['writev'],
  fd: number,
  buffers: readonly Uint8Array[],
  length: number,
  position: number,
  end: End,
): void {
  let rest = buffers;
  let done = 0;
  let retries = 0;
  const moved: Moved = (error, bytes) => {
    if (error === null && done + bytes === length) return end(null);
    const stop = verdict(error, bytes, retries, 'write', length, position);
    if (stop) return end(stop);
    retries = error === null ? 0 : retries + 1;
    if (error === null) {
      rest = behind(rest, bytes);
      done += bytes;
    }
    call(fd, rest, position + done, moved);
  };
  call(fd, rest, position, moved);
}

/** The outcome of one call of the system, as an error of ours. */
export function ioError(what: string, cause: unknown): WriteBarrierError {
  const said = cause instanceof Error ? cause.message : String(cause);
  return new WriteBarrierError('IO_FAILED', `${what} failed: ${said}`, { cause });
}

/** A callback function as a promise of what it finds. */
export function asking<T>(
  start: (callback: (error: NodeJS.ErrnoException | null, value: T) => void) => void,
): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => (error === null ? resolve(value) : reject(error)));
  });
}

/** A callback function as a promise of its success. */
export function doing(start: (callback: NoParamCallback) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start((error) => (error === null ? resolve() : reject(error)));
  });
}

/** The `code` of an error of the system, if it has one. */
export function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** P2, P3: why the transfer cannot go on, or undefined if it can. */
function verdict(
  error: NodeJS.ErrnoException | null,
  bytes: number,
  retries: number,
  name: string,
  length: number,
  position: number,
): WriteBarrierError | undefined {
  const what = `a ${name} of ${length} bytes at ${position}`;
  if (error === null) {
    if (bytes > 0) return undefined;
    const why =
      name === 'read' ? 'the file ends there; something cut it' : 'the system took nothing';
    return new WriteBarrierError('SHORT_TRANSFER', `${what} came short: ${why}`);
  }
  const again = (error.code === 'EINTR' || error.code === 'EAGAIN') && retries < RETRIES_MAX;
  return again ? undefined : ioError(what, error);
}

/** The buffers without their first so many bytes. */
function behind(buffers: readonly Uint8Array[], bytes: number): readonly Uint8Array[] {
  let skip = bytes;
  let index = 0;
  for (const buffer of buffers) {
    if (skip < buffer.byteLength) break;
    skip -= buffer.byteLength;
    index += 1;
  }
  const [first, ...others] = buffers.slice(index);
  return first ? [first.subarray(skip), ...others] : [];
}
