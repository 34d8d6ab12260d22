// What can go wrong with a request, as classes. Told apart by what the caller does next:
//
//   refused     UnsafeModeError, SchedulerFailedError, BarrierAbortedError, EOPNOTSUPP: nothing of the
//               request reached the medium
//   failed      IoFailedError, FlushFailedError: bytes are in doubt, and the error names them
//   unknown     CloseTimeoutError: the storage never said
//
// Every one has a stable `code`; the message is for people.

import { inWords } from '../model/error.js';
import {
  type ByteRange,
  formatRequest,
  type Guarantees,
  type Operation,
  type Request,
  WriteBarrierError,
} from '../model/index.js';

/** The storage failed a command. What it said is the `cause`. */
export class IoFailedError extends WriteBarrierError {
  override readonly name = 'IoFailedError';
  /** The request that failed. Its bytes may hold the old content, the new, or a mixture. */
  readonly request: Request;

  constructor(request: Request, cause: unknown) {
    super('IO_FAILED', `the storage failed ${formatRequest(request)}: ${inWords(cause)}`, {
      cause,
    });
    this.request = request;
  }
}

/**
 * The device did not confirm a flush. A second flush may succeed without having written what the first
 * one lost, so the scheduler stays `failed` until the caller has recovered.
 */
export class FlushFailedError extends WriteBarrierError {
  override readonly name = 'FlushFailedError';
  /** What was written since the last successful flush and may be lost. */
  readonly atRisk: readonly ByteRange[];

  constructor(atRisk: readonly ByteRange[], cause: unknown) {
    super('FLUSH_FAILED', `flush failed, ${sizeOf(atRisk)} may be lost: ${inWords(cause)}`, {
      cause,
    });
    this.atRisk = atRisk;
  }
}

/** A flush has failed and nobody has called `recover()` since. Nothing of the request was issued. */
export class SchedulerFailedError extends WriteBarrierError {
  override readonly name = 'SchedulerFailedError';
  /** What may be lost. Write it again after `recover()`. */
  readonly atRisk: readonly ByteRange[];

  constructor(failure: FlushFailedError) {
    const risk = sizeOf(failure.atRisk);
    super('FAILED', `refused since a flush failed; ${risk} may be lost until recover()`, {
      cause: failure,
    });
    this.atRisk = failure.atRisk;
  }
}

/**
 * Something that the barrier covers has failed, so the barrier's own write was not issued. Barriers that are
 * submitted after this is known are free of it: whoever hears this decides what to write again. Plain writes
 * behind the barrier are not stopped.
 */
export class BarrierAbortedError extends WriteBarrierError {
  override readonly name = 'BarrierAbortedError';
  /** The request that is to blame: the first that failed. */
  readonly blame: Request;
  /** All bytes that covered writes failed to write. */
  readonly ranges: readonly ByteRange[];

  constructor(blame: Request, ranges: readonly ByteRange[], cause: unknown) {
    super(
      'BARRIER_ABORTED',
      `not written, because it covers ${formatRequest(blame)}, which failed`,
      {
        cause,
      },
    );
    this.blame = blame;
    this.ranges = ranges;
  }
}

/** The mode does not keep its promise on this device. `allowUnsafe` takes it all the same. */
export class UnsafeModeError extends WriteBarrierError {
  override readonly name = 'UnsafeModeError';
  /** What the mode does promise here. */
  readonly guarantees: Guarantees;

  constructor(guarantees: Guarantees) {
    const pairs = guarantees.unsafe.map((pair) => pair.name).join(', ');
    super('UNSAFE_MODE', `${guarantees.mode} is unsafe here (${pairs}). ${guarantees.reason}`);
    this.guarantees = guarantees;
  }
}

/** A command that the storage has not answered. */
export interface HangingCommand {
  /** `read`, `write`, `flush`, `discard` or `writeZeroes`. */
  readonly op: Operation;
  /** Bytes from the start of the storage; 0 for a flush. */
  readonly offset: number;
  /** In bytes; 0 for a flush. */
  readonly length: number;
}

/** The storage did not answer in time. What it still does with these commands is unknown. */
export class CloseTimeoutError extends WriteBarrierError {
  override readonly name = 'CloseTimeoutError';
  /** The commands without an answer, oldest first. */
  readonly hanging: readonly HangingCommand[];

  constructor(timeoutMs: number, hanging: readonly HangingCommand[]) {
    const commands = hanging.map(({ op, offset, length }) =>
      op === 'flush' ? op : `${op} of ${length} bytes at ${offset}`,
    );
    super(
      'CLOSE_TIMEOUT',
      `no answer within ${timeoutMs} ms to: ${commands.join(', ') || 'close'}`,
    );
    this.hanging = hanging;
  }
}

function sizeOf(ranges: readonly ByteRange[]): string {
  return `${ranges.reduce((sum, { start, end }) => sum + end - start, 0)} bytes`;
}

/** The refusal of what the mode or the storage cannot do. */
export function unsupported(request: Request): WriteBarrierError {
  const text = formatRequest(request);
  return new WriteBarrierError('EOPNOTSUPP', `${text} is not supported here; nothing was written`);
}

/** The failure of a request's own command; undefined where there is no cause, and so no failure. */
export function ioFailure(request: Request, cause: unknown): WriteBarrierError | undefined {
  if (cause === undefined) return undefined;
  const told = WriteBarrierError.is(cause) && cause.code === 'SHORT_TRANSFER';
  return told ? cause : new IoFailedError(request, cause);
}
