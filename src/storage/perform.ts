// From a command to calls of a storage, and from its answers back to success or failure.
//
//   P1  A storage is given ordered tags only if its capabilities state them.
//   P2  A list of buffers goes to `writev`, or is copied into one buffer, because one write must stay one command. A read into
//       a list is copied out of one buffer.
//   P3  A discard that the storage lacks does nothing, because discarding is advice. A writeZeroes that it lacks becomes writes
//       of zeroes, one after the other.
//   P4  It is a failure if a buffer changed its size while its command waited, or if a transfer moved another number of bytes
//       than it was to move.
//   P5  A resize is carried out only if the storage has the size that the command is from, because otherwise the command does not say
//       what is added or cut off: an earlier resize has failed, or the size is changed by another user.
//   P6  A block status that the storage lacks is one extent of which nothing is known, because that is always true.
//
// Not here: when a command is issued, and what its failure does (machine/, scheduler/). Flushes and FUA bits go to the storage
// unchanged; lowerSteps() of the model has removed those that it lacks.

import { misuse, unsupported } from '../model/error.js';
import { type DeviceCommand, formatValue, type Tag, WriteBarrierError } from '../model/index.js';
import { inWords } from '../model/request.js';
import { concatBuffers, type Payload, scatterBytes, totalLength } from './buffers.js';
import type { Extent, Storage, Transfer, WriteFlags } from './storage.js';
import { isPending } from './wrappers.js';

const ZEROES_MAX = 1024 * 1024;

/** The issuer of a command that takes many calls. */
export interface Issuer {
  /** Set when the answer is not awaited any more: no further call is made then. */
  readonly abandoned?: unknown;
}

/** Made once: `FLAGS[tag][fua ? 1 : 0]`. */
const FLAGS = { simple: flagsOf('simple'), ordered: flagsOf('ordered') } as const;

function flagsOf(tag: Tag): readonly [WriteFlags, WriteFlags] {
  return [Object.freeze({ fua: false, tag }), Object.freeze({ fua: true, tag })];
}

/**
 * Carries out a command on a storage. What the storage lacks is emulated: a list of buffers becomes one buffer, zeroes become
 * writes, an ordered tag becomes a simple one, and a discard does nothing.
 *
 * @param data what to write, or what to read into; as long as the command
 * @param issuer ends a command of many calls early by setting `abandoned`
 * @returns the answer of the storage
 * @throws `INVALID_ARGUMENT` for data of another length than the command's, `SHORT_TRANSFER` as a rejection, and what the
 *   storage throws
 */
export function perform(
  storage: Storage,
  command: DeviceCommand,
  data?: Payload,
  issuer: Issuer = {},
): Transfer {
  return command.op === 'read' && isList(data)
    ? readList(storage, command, data)
    : performWhole(storage, command, data, issuer);
}

/** The same for reads into one buffer: a scheduler has no others. */
export function performWhole(
  storage: Storage,
  command: Omit<DeviceCommand, 'kind'>,
  data: Payload | undefined,
  issuer: Issuer,
): Transfer {
  const { op, offset, length, size } = command;
  if (size !== undefined) return resize(storage, command, size);
  const tag = storage.capabilities.orderedTags ? command.tag : 'simple';
  const flags = FLAGS[tag][command.fua ? 1 : 0];
  switch (op) {
    case 'read':
      checkUnchanged(command, data);
      return storage.read(offset, data as Uint8Array);
    case 'write':
      checkUnchanged(command, data);
      return isList(data)
        ? writeList(storage, offset, data, flags)
        : storage.write(offset, data as Uint8Array, flags);
    case 'flush':
      return storage.flush(flags);
    case 'discard':
      return storage.capabilities.discard ? storage.discard?.(offset, length) : undefined;
    case 'writeZeroes':
      return storage.capabilities.writeZeroes
        ? storage.writeZeroes?.(offset, length)
        : writeZeroesAsData(storage, offset, length, flags, issuer);
  }
}

/** P5. */
function resize(
  storage: Storage,
  { op, offset, length }: Omit<DeviceCommand, 'kind'>,
  size: number,
): void | Promise<void> {
  const from = op === 'discard' ? offset + length : offset;
  if (!storage.resize) throw unsupported('a resize');
  if (storage.size === from) return storage.resize(size);
  const what = `the size is ${storage.size} and not ${from} bytes`;
  throw new WriteBarrierError('OUT_OF_RANGE', `${what}: another resize failed, or came first`);
}

/** P6. */
export function statusOf(
  storage: Storage,
  offset: number,
  length: number,
): readonly Extent[] | Promise<readonly Extent[]> {
  return storage.blockStatus?.(offset, length) ?? [{ length, hole: false, zero: false }];
}

/** What the storage knows takes the place of the data of the caller, because that is what a read answers with. */
export function performStatus(
  storage: Storage,
  { offset, length }: Pick<DeviceCommand, 'offset' | 'length'>,
  caller: { data: unknown },
): void | Promise<void> {
  const keep = (extents: readonly Extent[]): void => {
    caller.data = extents;
  };
  const answer = statusOf(storage, offset, length);
  return isPending(answer) ? answer.then(keep) : keep(answer);
}

/** The failure of a command that moved another number of bytes than it was to (clause storage.S3). */
export function transferred(
  command: Pick<DeviceCommand, 'op' | 'offset' | 'length'>,
  moved: unknown,
): WriteBarrierError | undefined {
  const { op, length } = command;
  if (moved === undefined || moved === null || moved === length || op === 'flush') return undefined;
  return new WriteBarrierError(
    'SHORT_TRANSFER',
    `the storage returned ${formatValue(moved)} for a ${inWords(op, command)}`,
  );
}

function isList(data: Payload | undefined): data is readonly Uint8Array[] {
  return Array.isArray(data);
}

/** P4: the buffer may have been transferred to another thread, or shrunk. */
function checkUnchanged(
  { op, length }: Pick<DeviceCommand, 'op' | 'length'>,
  data: Payload | undefined,
): void {
  const bytes = bytesOf(data);
  if (bytes === length) return;
  throw misuse(`the buffer of a ${op} of ${length} bytes has ${bytes} now`);
}

/** How many bytes the data of a transfer has. */
export function bytesOf(data: Payload | undefined): number {
  return isList(data) ? totalLength(data) : (data as Uint8Array).byteLength;
}

async function readList(
  storage: Storage,
  command: DeviceCommand,
  list: readonly Uint8Array[],
): Promise<void> {
  checkUnchanged(command, list);
  const bytes = new Uint8Array(command.length);
  const short = transferred(command, await storage.read(command.offset, bytes));
  if (short) throw short;
  scatterBytes(bytes, list);
}

function writeList(
  storage: Storage,
  offset: number,
  list: readonly Uint8Array[],
  flags: WriteFlags,
): Transfer {
  const [only] = list;
  if (only && list.length === 1) return storage.write(offset, only, flags);
  if (storage.capabilities.writev && storage.writev) return storage.writev(offset, list, flags);
  return storage.write(offset, concatBuffers(list), flags);
}

/**
 * One write after the other, because the command counts as one in flight, and because a storage may copy what it is given.
 * The issuer keeps the range until the last write has ended.
 */
async function writeZeroesAsData(
  storage: Storage,
  offset: number,
  length: number,
  flags: WriteFlags,
  issuer: Issuer,
): Promise<void> {
  const { blockSize } = storage.capabilities;
  const piece = Math.max(blockSize, ZEROES_MAX - (ZEROES_MAX % blockSize));
  const zeroes = new Uint8Array(Math.min(piece, length));
  for (let done = 0; done < length; done += piece) {
    if (issuer.abandoned) throw issuer.abandoned;
    const part = zeroes.subarray(0, length - done);
    const what = { op: 'write', offset: offset + done, length: part.byteLength } as const;
    const short = transferred(what, await storage.write(what.offset, part, flags));
    if (short) throw short;
  }
}
