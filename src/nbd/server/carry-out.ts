// From a request of the protocol to calls of a scheduler, and from its errors to those of the protocol.
//
//   C1  A flush is the scheduler's flush. It covers whatever was submitted before, on every connection, and so all that
//       was replied to. Those that are asked for in one turn are one (patience.ts): it is submitted after each of them.
//   C2  What carries FUA ends when its own bytes are durable: a write by the scheduler's FUA, a trim and zeroes by a
//       flush behind them. Where nothing can be flushed, zeroes are written as data with FUA, and a trim, which is
//       advice, is not carried out.
//   C3  NO_HOLE writes zeroes as data. FAST_ZERO is refused where that would be needed.
//   C4  Nothing is lost when the scheduler's queue is full: the request waits for room. The client is told of no
//       reply yet, so no order is broken.
//   C5  What a storage says in an error stays here; the client hears the number, and the stable code.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Ordering of messages and writes", "Error values".

import { WriteBarrierError } from 'write-barrier';
import { COMMAND, COMMAND_FLAG, NBD_ERROR } from '../wire/index.js';
import type { Refusal } from './check-request.js';
import { canFlush, type Export } from './exports.js';
import { patient } from './patience.js';
import type { Outcome, SessionRequest } from './session.js';

/** Zeroes that are written as data, and bytes that are read for nobody: so many at a time. */
const PIECE = 1024 * 1024;
/** More pieces than this of a payload are joined: small ones cost more than a copy. */
const PARTS_MAX = 64;

const DONE: Outcome = Object.freeze({});
const FUA = Object.freeze({ fua: true });

/** The buffers that a request holds while it is under way, in bytes. */
export function costOf({ command, length }: SessionRequest): number {
  switch (command) {
    case COMMAND.READ:
    case COMMAND.WRITE:
      return length;
    case COMMAND.CACHE:
    case COMMAND.WRITE_ZEROES:
      return Math.min(length, PIECE);
    default:
      return 0;
  }
}

/** Carries out a request that is legal. Rejects with what the scheduler says. */
export function carryOut(request: SessionRequest, target: Export): Promise<Outcome> {
  switch (request.command) {
    case COMMAND.READ:
      return read(request, target);
    case COMMAND.WRITE:
      return write(request, target);
    case COMMAND.FLUSH:
      return done(target.flush());
    case COMMAND.TRIM:
      return done(trim(request, target));
    case COMMAND.CACHE:
      return done(fill(request, target));
    case COMMAND.WRITE_ZEROES:
      return writeZeroes(request, target);
    case COMMAND.BLOCK_STATUS:
      // No storage says what it has allocated, and "allocated, with some data" is always true.
      return Promise.resolve({ extents: [{ length: request.length, flags: 0 }] });
    default:
      return Promise.reject(new Error(`N2: command ${request.command} was handed out`));
  }
}

/** What the client is told about a failure (C5). */
export function refusalFor(error: unknown): Refusal {
  const message = WriteBarrierError.is(error) ? error.code : 'IO_FAILED';
  return { error: errorNumber(error), message };
}

function done(work: Promise<unknown>): Promise<Outcome> {
  return work.then(() => DONE);
}

function read({ offset, length }: SessionRequest, { scheduler }: Export): Promise<Outcome> {
  return patient(scheduler, () => scheduler.read(offset, length)).then((data) => ({ data }));
}

function write({ offset, data, flags }: SessionRequest, { scheduler }: Export): Promise<Outcome> {
  const fua = (flags & COMMAND_FLAG.FUA) !== 0;
  const [only] = data;
  const one = only && data.length === 1;
  const payload = one ? only : data.length > PARTS_MAX ? Buffer.concat(data) : data;
  const options = fua ? FUA : undefined;
  return done(patient(scheduler, () => scheduler.write(offset, payload, options)));
}

async function trim({ offset, length, flags }: SessionRequest, target: Export): Promise<void> {
  const { scheduler } = target;
  const fua = (flags & COMMAND_FLAG.FUA) !== 0;
  if (fua && !canFlush(target)) return;
  await patient(scheduler, () => scheduler.discard(offset, length));
  if (fua) await target.flush();
}

async function writeZeroes(request: SessionRequest, target: Export): Promise<Outcome> {
  const { offset, length, flags } = request;
  const { scheduler } = target;
  const fua = (flags & COMMAND_FLAG.FUA) !== 0;
  const forced = fua && !canFlush(target);
  const asData =
    forced || (flags & COMMAND_FLAG.NO_HOLE) !== 0 || !scheduler.capabilities.writeZeroes;
  if (asData && flags & COMMAND_FLAG.FAST_ZERO) {
    return { error: NBD_ERROR.ENOTSUP, message: 'not faster than writing' };
  }
  if (asData) {
    const zeroes = new Uint8Array(Math.min(length, PIECE));
    for (let at = 0; at < length; at += PIECE) {
      const piece = zeroes.subarray(0, Math.min(PIECE, length - at));
      await patient(scheduler, () => scheduler.write(offset + at, piece, { fua: forced }));
    }
  } else {
    await patient(scheduler, () => scheduler.writeZeroes(offset, length));
  }
  if (fua && !forced) await target.flush();
  return {};
}

async function fill({ offset, length }: SessionRequest, { scheduler }: Export): Promise<void> {
  const into = new Uint8Array(Math.min(length, PIECE));
  for (let at = 0; at < length; at += PIECE) {
    const piece = into.subarray(0, Math.min(PIECE, length - at));
    await patient(scheduler, () => scheduler.read(offset + at, piece));
  }
}

const NUMBERS: ReadonlyMap<string, number> = new Map([
  ['ENOSPC', NBD_ERROR.ENOSPC],
  ['EDQUOT', NBD_ERROR.ENOSPC],
  ['EFBIG', NBD_ERROR.ENOSPC],
  ['EPERM', NBD_ERROR.EPERM],
  ['EACCES', NBD_ERROR.EPERM],
  ['EROFS', NBD_ERROR.EPERM],
  ['READ_ONLY', NBD_ERROR.EPERM],
  ['ENOMEM', NBD_ERROR.ENOMEM],
  ['EOPNOTSUPP', NBD_ERROR.ENOTSUP],
  ['CLOSED', NBD_ERROR.ESHUTDOWN],
]);

/** The first code among the error and its causes that says more than that something failed. */
function errorNumber(error: unknown): number {
  let cause = error;
  for (let depth = 0; depth < 8 && cause instanceof Error; depth += 1) {
    const number = 'code' in cause ? NUMBERS.get(String(cause.code)) : undefined;
    if (number !== undefined) return number;
    ({ cause } = cause);
  }
  return NBD_ERROR.EIO;
}
