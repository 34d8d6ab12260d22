// What all wrappers share: one way to stand between a caller and a storage.
//
//   W1  Size, capabilities, `close` and the set of optional methods are the wrapped storage's own.
//   W2  Every other call becomes a command, a plain value, and whoever wraps decides about that.
//   W3  A storage that answers at once still does, unless the wrapper itself takes time.
//
// Not here: what a wrapper does in between (tracing.ts, latency.ts, faults.ts).

import { inWords } from '../model/error.js';
import type { DeviceCommand, Operation, Tag } from '../model/index.js';
import { joined, totalLength } from './bytes.js';
import type { Storage, Transfer, WriteFlags } from './storage.js';

/**
 * Stands around one command.
 *
 * @param run executes it at the wrapped storage; with a number (reads and writes only), just its
 *   first so many bytes
 * @param data the payload of a write, in one piece; the caller may change it once it is answered
 * @returns what the caller is answered
 */
export type Around = (
  command: DeviceCommand,
  run: (length?: number) => Transfer,
  data?: () => Uint8Array,
) => Transfer;

/** The storage, with `around` about every command of it. */
export function wrap(storage: Storage, around: Around): Storage {
  const { size, capabilities } = storage;
  const wrapper: Storage = {
    size,
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
        () => joined(data),
      );
    };
  }
  if (storage.discard) {
    wrapper.discard = (offset, length) =>
      nothing(around(command('discard', offset, length), () => storage.discard?.(offset, length)));
  }
  if (storage.writeZeroes) {
    wrapper.writeZeroes = (offset, length) =>
      nothing(
        around(command('writeZeroes', offset, length), () => storage.writeZeroes?.(offset, length)),
      );
  }
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
  if (length === undefined) return data;
  const pieces: Uint8Array[] = [];
  let left = length;
  for (const piece of data) {
    pieces.push(piece.subarray(0, left));
    left -= Math.min(left, piece.length);
  }
  return pieces;
}

/**
 * Runs a command, and tells how it has ended before the caller hears of it: undefined, or in words what went wrong. A
 * short transfer is a failure (S3), though nothing is thrown.
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
    ended(inWords(error));
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

/** Only reads and writes answer with a number. */
function nothing(answer: Transfer): void | Promise<void> {
  if (isPending(answer)) return answer.then(() => undefined);
}

/** Storages need not be written in TypeScript: an object without `then` has answered, and so has null. */
export function isPending(answer: Transfer): answer is Promise<void | number> {
  return typeof (answer as Promise<void> | undefined)?.then === 'function';
}
