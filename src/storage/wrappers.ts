// What all wrappers share: a storage around a storage.
//
//   W1  Size, capabilities, `close` and the set of optional methods are the wrapped storage's own.
//   W2  Every other call becomes a command, which is a plain value, and the wrapper decides what to do with it; except a block
//       status, which moves no bytes and goes to the wrapped storage as it is. A resize becomes a writeZeroes or a discard with
//       a size.
//   W3  A storage that answers synchronously still does, except where the wrapper itself takes time.
//
// Not here: what a wrapper does in between (tracer.ts, latency.ts, faults.ts).

import { messageOf } from '../model/error.js';
import {
  checkArgument,
  type DeviceCommand,
  FUNCTION,
  type Operation,
  resizeOf,
  type Tag,
} from '../model/index.js';
import { concatBuffers, sliceBuffers, totalLength } from './buffers.js';
import { checkStorage } from './checks.js';
import type { Storage, Transfer, WriteFlags } from './storage.js';

/**
 * Handles one command of a wrapped storage.
 *
 * @param run executes the command at the wrapped storage; with a number (reads and writes only), only that many of its first
 *   bytes
 * @param data the payload of a write, in one piece; the caller may change it after the answer
 * @returns the answer for the caller
 */
export type Around = (
  command: DeviceCommand,
  run: (length?: number) => Transfer,
  data?: () => Uint8Array,
) => Transfer;

/**
 * A storage that calls `around` for every command.
 *
 * @throws `INVALID_ARGUMENT` for an `around` that is not a function; `INVALID_STORAGE` for what is no storage
 */
export function wrap(storage: Storage, around: Around): Storage {
  checkArgument('around', around, FUNCTION);
  checkStorage(storage);
  const { capabilities } = storage;
  /** While a resize runs, the size from before, because the storage may have the new one sooner than the answer (storage.S13). */
  let held: number | undefined;
  const free = (): void => {
    held = undefined;
  };
  const wrapper: Storage = {
    get size() {
      return held ?? storage.size;
    },
    capabilities,
    read: (offset, into) =>
      around(command('read', offset, into.length), (length) =>
        storage.read(offset, first(into, length)),
      ),
    write: (offset, data, flags) =>
      around(
        command('write', offset, data.length, flags),
        (length) => storage.write(offset, first(data, length), flags),
        () => data,
      ),
    flush: (flags) =>
      nothing(around(command('flush', 0, 0, { ...flags, fua: false }), () => storage.flush(flags))),
    close: () => storage.close(),
  };
  if (storage.writev) {
    wrapper.writev = (offset, data, flags) => {
      return around(
        command('write', offset, totalLength(data), flags),
        (length) => storage.writev?.(offset, firstOf(data, length), flags),
        () => concatBuffers(data),
      );
    };
  }
  for (const op of ['discard', 'writeZeroes'] as const) {
    if (!storage[op]) continue;
    wrapper[op] = (offset, length) =>
      nothing(around(command(op, offset, length), () => storage[op]?.(offset, length)));
  }
  if (storage.resize) {
    wrapper.resize = (size) => {
      const run = (): void | Promise<void> => storage.resize?.(size);
      // It changes nothing, so it is no command; a size that no storage has is refused by the wrapped one.
      if (size === storage.size || !(size >= 0)) return run();
      held = storage.size;
      const { kind: op, offset, length } = resizeOf(held, size);
      return ending(() => nothing(around({ ...command(op, offset, length), size }, run)), free);
    };
  }
  if (storage.blockStatus) wrapper.blockStatus = storage.blockStatus.bind(storage);
  return wrapper;
}

const PLAIN: WriteFlags = Object.freeze({ fua: false, tag: 'simple' });

function command(
  op: Operation,
  offset: number,
  length: number,
  { fua, tag }: { readonly fua: boolean; readonly tag: Tag } = PLAIN,
): DeviceCommand {
  return { kind: 'command', op, offset, length, tag, fua };
}

function first(bytes: Uint8Array, length: number | undefined): Uint8Array {
  return length === undefined ? bytes : bytes.subarray(0, length);
}

function firstOf(data: readonly Uint8Array[], length: number | undefined): readonly Uint8Array[] {
  return length === undefined ? data : sliceBuffers(data, 0, length);
}

/**
 * Runs a command, and calls `ended` before the caller gets the answer: with undefined, or with the message of the failure. A
 * short transfer is a failure (storage.S3), although nothing is thrown.
 */
export function overheard(
  { op, length }: DeviceCommand,
  run: () => Transfer,
  ended: (error: string | undefined) => void,
): Transfer {
  const succeed = (moved: void | number): void | number => {
    const short = typeof moved === 'number' && moved !== length && op !== 'flush';
    ended(short ? `${moved} of ${length} bytes were moved` : undefined);
    return moved;
  };
  const fail = (error: unknown): never => {
    ended(messageOf(error));
    throw error;
  };
  let answer: Transfer;
  try {
    answer = run();
  } catch (error) {
    return fail(error);
  }
  return isPending(answer) ? answer.then(succeed, fail) : succeed(answer);
}

/** Runs a command, and calls `end` before the caller gets its answer or its failure. */
export function ending(run: () => void | Promise<void>, end: () => void): void | Promise<void> {
  let isRunning = false;
  try {
    const answer = run();
    isRunning = isPending(answer);
    return isPending(answer) ? answer.finally(end) : answer;
  } finally {
    if (!isRunning) end();
  }
}

/** Only reads and writes answer with a number. */
export function nothing(answer: Transfer): void | Promise<void> {
  if (isPending(answer)) return answer.then(() => undefined);
}

/** A storage may return anything, because it need not be written in TypeScript. Only an object with `then` is pending. */
export function isPending<T>(answer: T | Promise<T>): answer is Promise<T> {
  return typeof (answer as Promise<T> | undefined)?.then === 'function';
}
