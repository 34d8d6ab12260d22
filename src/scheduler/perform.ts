// From a command of the state machine to calls of a storage, and from its answers back to success or failure.
//
//   - A storage sees ordered tags only where it says that it keeps them.
//   - A list of buffers goes to writev, else as one joined buffer: a write is one command, not several.
//   - What the storage cannot discard stays as it is: discarding is advice. Zeroes that it cannot write by
//     itself are written by hand.
//   - A buffer that changed its size while it waited, and a transfer that moved less than all, are failures.
//
// Which command comes when is decided elsewhere (ordering.ts); so is who hears of a failure.

import { inWords } from '../model/error.js';
import { type Tag, WriteBarrierError } from '../model/index.js';
import { joined, totalLength } from '../storage/bytes.js';
import type { Storage, Transfer, WriteFlags } from '../storage/index.js';
import type { CommandWhat } from './entry.js';

type Data = Uint8Array | readonly Uint8Array[] | undefined;

const ZEROES_MAX = 1024 * 1024;

/** Made once: `FLAGS[tag][fua ? 1 : 0]`. */
const FLAGS = { simple: flagsOf('simple'), ordered: flagsOf('ordered') } as const;

function flagsOf(tag: Tag): readonly [WriteFlags, WriteFlags] {
  return [Object.freeze({ fua: false, tag }), Object.freeze({ fua: true, tag })];
}

/** Calls the storage for a command; what the storage lacks is done by other means. */
export function perform(storage: Storage, what: CommandWhat, data: Data): Transfer {
  const { op, offset, length } = what;
  const tag = storage.capabilities.orderedTags ? what.tag : 'simple';
  const flags = FLAGS[tag][what.fua ? 1 : 0];
  switch (op) {
    case 'read':
      checkUnchanged(what, data);
      return storage.read(offset, data as Uint8Array);
    case 'write':
      checkUnchanged(what, data);
      return Array.isArray(data)
        ? writeList(storage, offset, data, flags, writeJoined)
        : storage.write(offset, data as Uint8Array, flags);
    case 'flush':
      return storage.flush(flags);
    case 'discard':
      return storage.capabilities.discard ? storage.discard?.(offset, length) : undefined;
    case 'writeZeroes':
      return storage.capabilities.writeZeroes
        ? storage.writeZeroes?.(offset, length)
        : writeZeroesByHand(storage, offset, length, flags);
  }
}

/** The failure of a command that moved another number of bytes than it was to (clause S3). */
export function transferred(
  { op, offset, length }: CommandWhat,
  moved: unknown,
): WriteBarrierError | undefined {
  if (moved === undefined || moved === null || moved === length || op === 'flush') return undefined;
  return new WriteBarrierError(
    'SHORT_TRANSFER',
    `the storage answered ${inWords(moved)} for a ${op} of ${length} bytes at ${offset}`,
  );
}

/** A buffer that was transferred, resized or shrunk while it waited is not what was asked for. */
function checkUnchanged({ op, length }: CommandWhat, data: Data): void {
  const bytes = Array.isArray(data) ? totalLength(data) : (data as Uint8Array).byteLength;
  if (bytes === length) return;
  throw new WriteBarrierError(
    'INVALID_ARGUMENT',
    `the buffer of a ${op} of ${length} bytes has ${bytes} bytes by now`,
  );
}

type WriteList = (
  storage: Storage,
  offset: number,
  list: readonly Uint8Array[],
  flags: WriteFlags,
) => Transfer;

/** `byHand`: how to do it where the storage takes no lists. */
function writeList(
  storage: Storage,
  offset: number,
  list: readonly Uint8Array[],
  flags: WriteFlags,
  byHand: WriteList,
): Transfer {
  const [only] = list;
  if (only && list.length === 1) return storage.write(offset, only, flags);
  if (storage.capabilities.writev && storage.writev) return storage.writev(offset, list, flags);
  return byHand(storage, offset, list, flags);
}

const writeJoined: WriteList = (storage, offset, list, flags) =>
  storage.write(offset, joined(list), flags);

function writeZeroesByHand(
  storage: Storage,
  offset: number,
  length: number,
  flags: WriteFlags,
): Transfer {
  const { blockSize } = storage.capabilities;
  const piece = Math.max(blockSize, ZEROES_MAX - (ZEROES_MAX % blockSize));
  const zeroes = new Uint8Array(Math.min(piece, length));
  const parts: Uint8Array[] = [];
  for (let done = 0; done < length; done += piece) {
    parts.push(zeroes.subarray(0, Math.min(piece, length - done)));
  }
  return writeList(storage, offset, parts, flags, writeEach);
}

/** In one turn: all parts are one command, and nothing that is issued later may come between. */
const writeEach: WriteList = async (storage, offset, parts, flags) => {
  let position = offset;
  const writes = parts.map(async (part) => {
    const at = position;
    position += part.byteLength;
    return (await storage.write(at, part, flags)) ?? part.byteLength;
  });
  let moved = 0;
  for (const write of await Promise.allSettled(writes)) {
    if (write.status === 'rejected') throw write.reason;
    moved += write.value;
  }
  return moved;
};
