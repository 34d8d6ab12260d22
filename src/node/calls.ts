// The calls of the operating system that move data and make it durable, and the loop that turns several calls into one complete
// transfer.
//
//   P1  A call that moved fewer bytes than asked for is followed by a call for the rest.
//   P2  After EINTR and EAGAIN the call is repeated at once, at most RETRIES_MAX times in a row; a call that moves any bytes
//       resets the count. After any other error nothing is repeated.
//   P3  A call that moves no bytes and reports no error ends the transfer with SHORT_TRANSFER. A read past the end of a
//       truncated file fails so, because zeroes there would be invented data.
//   P4  The error of the system is the `cause`, with its own `code`, such as ENOSPC.
//   P5  No error is thrown inside a callback, because it would reject no promise and end the process. Every call is made by
//       `guarded`: an exception counts as its answer, only its first answer counts, and a number of bytes that it cannot have
//       moved is an error.
//   P6  A call moves at most CALL_BYTES_MAX bytes in CALL_BUFFERS_MAX buffers, none of them empty. Node's read and write take
//       a length of 31 bits; writev returns one of 32 bits, and passes 1024 buffers to the system at a time.
//   P7  If a buffer is transferred or shrunk before the transfer has ended, the transfer fails with INVALID_ARGUMENT, because
//       the memory that the system reads or fills does not belong to the caller any more. The length is checked before each
//       call and at the end, so a buffer that was shrunk and has grown again meanwhile is not detected.

import type { BigIntStats, NoParamCallback } from 'node:fs';
import { IoFailedError, WriteBarrierError } from 'write-barrier';
import {
  formatValue,
  invariant,
  messageOf,
  misuse,
  sliceBuffers,
  totalLength,
} from 'write-barrier/kit';

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
 * The part of the package fs-native-extensions that is used.
 *
 * @internal for fault injection in tests
 */
export interface PlatformLock {
  /** True if the lock was taken, false if another descriptor has it. `length` 0 means up to the end of the file. */
  readonly tryLock: (fd: number, offset: number, length: number) => boolean;
  /** Frees the blocks of these bytes, which read as zero from then on; the size of the file stays. */
  readonly trim?: (fd: number, offset: number, length: number) => Promise<void>;
}

/**
 * The functions of `node:fs` that `FileStorage` calls, and the one that loads the package for the system's locks.
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
  /** Throws without the package. */
  readonly loadLock: () => PlatformLock | Promise<PlatformLock>;
}

/** Called once at the end of a transfer. */
export type End = (error: WriteBarrierError | null) => void;

const RETRIES_MAX = 100;
/** 1 GiB: every platform moves it in one call, and it is a multiple of every usual block size. */
export const CALL_BYTES_MAX: number = 2 ** 30;
/** IOV_MAX of Linux and of macOS. */
export const CALL_BUFFERS_MAX = 1024;

/** Receives the answer of a call: an error of the system, or a value. */
export type Answered<T> = (error: unknown, value: T | undefined) => void;
type Start<T> = (callback: (error: NodeJS.ErrnoException | null, value: T) => void) => void;

/** P5: makes a call, and passes its first answer, or its exception, to `answered`. */
export function guarded<T>(start: Start<T>, answered: Answered<T>): void {
  let isAnswered = false;
  const once = (error: unknown, value?: T): void => {
    if (isAnswered) return;
    isAnswered = true;
    // Functions pass `null` or `undefined` for no error, or no argument at all.
    answered(error ?? undefined, value);
  };
  try {
    start(once);
  } catch (error) {
    once(error ?? new Error('the call threw nothing'));
  }
}

/** Reads or writes the whole of `buffer`; `name` is for the error. */
export function transfer(
  name: 'read' | 'write',
  call: PositionalCall,
  fd: number,
  buffer: Uint8Array,
  position: number,
  end: End,
): void {
  new Run(new OneBuffer(name, call, fd, buffer, position), end).loop();
}

/** Writes all of `buffers`, one after another: `length` bytes. */
export function transferList(
  call: FileCalls['writev'],
  fd: number,
  buffers: readonly Uint8Array[],
  length: number,
  position: number,
  end: End,
): void {
  new Run(new BufferList(call, fd, buffers, length, position), end).loop();
}

/** Trims bytes of a file. */
export function trimming(
  trim: NonNullable<PlatformLock['trim']>,
  fd: number,
  offset: number,
  length: number,
  end: End,
): void {
  repeating(
    (done) => void trim(fd, offset, length).then(() => done(null, undefined), done as never),
    `a trim of ${length} bytes at ${offset}`,
    end,
  );
}

/** Gives a file a size in bytes. */
export function resizing(call: FileCalls['ftruncate'], fd: number, size: number, end: End): void {
  repeating(
    (done) => call(fd, size, (error) => done(error, undefined)),
    `a resize to ${size} bytes`,
    end,
  );
}

/** A call that moves no bytes, repeated as P2 says. */
function repeating(start: Start<void>, what: string, end: End): void {
  const attempt = (retries: number): void =>
    guarded<void>(start, (error) => {
      if (error === undefined) end(null);
      else if (isTransient(error) && retries < RETRIES_MAX) attempt(retries + 1);
      else end(ioError(what, error));
    });
  attempt(0);
}

/** P2: the call did nothing, and the same call may succeed. */
function isTransient(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'EINTR' || code === 'EAGAIN';
}

/**
 * A transfer, and the calls that make it. Classes and not functions around the arguments of `transfer`, because those would be
 * a kilobyte for each read and write.
 */
interface Subject {
  readonly name: 'read' | 'write';
  readonly length: number;
  readonly position: number;
  /** P7. */
  isIntact(): boolean;
  /** How many bytes the next call is to move; undefined if a buffer has changed (P7). */
  next(done: number): number | undefined;
  call(done: number, asked: number, moved: Moved): void;
}

class OneBuffer implements Subject {
  readonly name: 'read' | 'write';
  readonly length: number;
  readonly position: number;
  readonly #call: PositionalCall;
  readonly #fd: number;
  readonly #buffer: Uint8Array;

  constructor(
    name: 'read' | 'write',
    call: PositionalCall,
    fd: number,
    buffer: Uint8Array,
    position: number,
  ) {
    this.name = name;
    this.length = buffer.byteLength;
    this.position = position;
    this.#call = call;
    this.#fd = fd;
    this.#buffer = buffer;
  }

  isIntact(): boolean {
    return this.#buffer.byteLength === this.length;
  }

  next(done: number): number | undefined {
    return this.isIntact() ? Math.min(this.length - done, CALL_BYTES_MAX) : undefined;
  }

  call(done: number, asked: number, moved: Moved): void {
    const call = this.#call; // not as a method: the caller's function would get this object as its `this`
    call(this.#fd, this.#buffer, done, asked, this.position + done, moved);
  }
}

class BufferList implements Subject {
  readonly name = 'write';
  readonly length: number;
  readonly position: number;
  readonly #call: FileCalls['writev'];
  readonly #fd: number;
  readonly #list: readonly Uint8Array[];
  readonly #lengths: readonly number[];
  /** The first buffer that is not completely written, and the offset of its first byte in the list. */
  #index = 0;
  #begin = 0;
  /** The buffers of the next call. */
  #some: readonly Uint8Array[] = [];

  constructor(
    call: FileCalls['writev'],
    fd: number,
    buffers: readonly Uint8Array[],
    length: number,
    position: number,
  ) {
    this.length = length;
    this.position = position;
    this.#call = call;
    this.#fd = fd;
    this.#list = buffers.filter(isNotEmpty);
    this.#lengths = this.#list.map(lengthOf);
  }

  isIntact(): boolean {
    return this.#list.every((buffer, i) => buffer.byteLength === this.#lengths[i]);
  }

  next(done: number): number | undefined {
    const lengths = this.#lengths;
    while (this.#begin + (lengths[this.#index] ?? Infinity) <= done) {
      this.#begin += lengths[this.#index] ?? 0;
      this.#index += 1;
    }
    // Only the buffers of this call, because checking all of a long list at each of its calls would take too long.
    const some = this.#list.slice(this.#index, this.#index + CALL_BUFFERS_MAX);
    if (some.some(({ byteLength }, i) => byteLength !== lengths[this.#index + i])) return undefined;
    const skip = done - this.#begin;
    const whole = skip === 0 && this.length <= CALL_BYTES_MAX;
    this.#some = whole ? some : sliceBuffers(some, skip, skip + CALL_BYTES_MAX);
    return totalLength(this.#some);
  }

  call(done: number, _: number, moved: Moved): void {
    const call = this.#call;
    call(this.#fd, this.#some, this.position + done, moved);
  }
}

const isNotEmpty = ({ byteLength }: Uint8Array): boolean => byteLength > 0;
const lengthOf = ({ byteLength }: Uint8Array): number => byteLength;

/**
 * P1, P5: makes calls until all bytes are moved or a call fails. If a call answers before it returns, the loop makes the next
 * one, because thousands of nested calls would overflow the stack.
 */
class Run {
  readonly #subject: Subject;
  readonly #end: End;
  #done = 0;
  #retries = 0;
  #isRunning = false;
  #isDue: boolean;

  constructor(subject: Subject, end: End) {
    this.#subject = subject;
    this.#end = end;
    this.#isDue = subject.length > 0;
    if (!this.#isDue) end(null);
  }

  loop(): void {
    this.#isRunning = true;
    while (this.#isDue) {
      this.#isDue = false;
      const asked = this.#subject.next(this.#done);
      if (asked === undefined) this.#end(tampered(this.#subject));
      else {
        guarded<number>(
          (moved) => this.#subject.call(this.#done, asked, moved),
          (error, bytes) => this.#took(asked, error, bytes),
        );
      }
    }
    this.#isRunning = false;
  }

  #took(asked: number, error: unknown, bytes: unknown): void {
    const subject = this.#subject;
    if (error !== undefined || bytes !== asked) {
      const stop = verdict(subject, asked, error, bytes, this.#retries);
      if (stop) {
        this.#end(stop);
        return;
      }
    }
    this.#retries = error === undefined ? 0 : this.#retries + 1;
    this.#done += error === undefined ? (bytes as number) : 0; // which the verdict has checked
    invariant(this.#done <= subject.length, 'calls.P1: no more is moved than was asked for');
    if (this.#done === subject.length) this.#end(subject.isIntact() ? null : tampered(subject));
    else {
      this.#isDue = true;
      if (!this.#isRunning) this.loop();
    }
  }
}

/** The failure of a call of the system: `opening /disk.img failed: EACCES, ...`. */
export function ioError(what: string, cause: unknown, advice = ''): IoFailedError {
  return new IoFailedError(`${what} failed: ${messageOf(cause)}${advice}`, { cause });
}

/** A call as a promise of its value. */
export function asking<T>(start: Start<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    guarded(start, (error, value) => (error === undefined ? resolve(value as T) : reject(error)));
  });
}

/** A call as a promise of its success. */
export function doing(start: (callback: NoParamCallback) => void): Promise<void> {
  return asking<void>((done) => start((error) => done(error, undefined)));
}

/** The `code` of an error of the system, if it has one. */
export function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** P2, P3, P5, P7: why the transfer cannot go on, or undefined if it can. */
function verdict(
  subject: Subject,
  asked: number,
  error: unknown,
  bytes: unknown,
  retries: number,
): WriteBarrierError | undefined {
  if (error === undefined) {
    if (typeof bytes === 'number' && bytes > 0 && bytes <= asked && Number.isInteger(bytes)) {
      return undefined;
    }
    if (!subject.isIntact()) return tampered(subject);
    if (bytes !== 0) {
      const answer = new Error(
        `the system reported ${formatValue(bytes)} bytes for a call that asked for ${asked}`,
      );
      return ioError(inFull(subject), answer);
    }
    const why =
      subject.name === 'read'
        ? 'the file ends there; it was truncated'
        : 'the system wrote nothing';
    return new WriteBarrierError('SHORT_TRANSFER', `${inFull(subject)} was short: ${why}`);
  }
  if (isTransient(error) && retries < RETRIES_MAX) return undefined;
  return subject.isIntact() ? ioError(inFull(subject), error) : tampered(subject, error);
}

function inFull({ name, length, position }: Subject): string {
  return `a ${name} of ${length} bytes at ${position}`;
}

function tampered(subject: Subject, cause?: unknown): WriteBarrierError {
  return misuse(
    `${inFull(subject)} failed: its buffer was transferred or shrunk before the promise settled`,
    cause === undefined ? {} : { cause },
  );
}
