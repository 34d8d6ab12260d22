// The errors of a request, one class for one code. What the caller does next depends on their kind:
//
//   refused     UnsafeModeError, SchedulerFailedError, BarrierAbortedError, EOPNOTSUPP: nothing of the request reached the
//               medium
//   failed      IoFailedError (model/error.ts), FlushFailedError: bytes are in doubt, and the error names them
//   unknown     CloseTimeoutError: the storage did not answer
//
// The code is stable; the message is for people.

import {
  type ByteRange,
  type DeviceCommand,
  type ErrorCode,
  type Guarantees,
  IoFailedError,
  messageOf,
  type Request,
  unsupported,
  WriteBarrierError,
} from '../model/index.js';
import { inWords } from '../model/request.js';

/**
 * The device did not confirm a flush. A second flush may succeed without having written what the first
 * one lost, so the scheduler stays `failed` until the caller has recovered.
 */
export class FlushFailedError extends WriteBarrierError {
  override get name(): 'FlushFailedError' {
    return 'FlushFailedError';
  }
  /**
   * What was written since the last successful flush and may be lost. Empty where a storage does not track ranges, as a
   * file does not: then it is all that no flush has confirmed.
   */
  readonly atRisk: readonly ByteRange[];

  /** For storages of your own as well, which may say more in the message. */
  constructor(
    atRisk: readonly ByteRange[],
    cause: unknown,
    message = `flush failed, ${sizeOf(atRisk)} may be lost: ${reasonOf(cause)}`,
  ) {
    super('FLUSH_FAILED', message, { cause });
    this.atRisk = atRisk;
  }
}

/**
 * A flush has failed, and `recover()` has not been called since; or the storage has failed as a whole. Nothing of the request
 * was issued.
 */
export class SchedulerFailedError extends WriteBarrierError {
  override get name(): 'SchedulerFailedError' {
    return 'SchedulerFailedError';
  }
  /** What may be lost. Write it again after `recover()`. */
  readonly atRisk: readonly ByteRange[];

  /** For storages of your own as well: `failure` is what stopped them. */
  constructor(
    failure: unknown,
    message: string = `refused since a flush failed; ${sizeOf(atRiskOf(failure))} may be lost until recover()`,
  ) {
    super('FAILED', message, { cause: failure });
    this.atRisk = atRiskOf(failure);
  }
}

/**
 * A write that the barrier covers has failed, so the barrier's own write was not issued. Barriers that are submitted after
 * this error was seen are free of it, because the caller has decided by then what to write again. Plain writes after the
 * barrier are not stopped.
 */
export class BarrierAbortedError extends WriteBarrierError {
  override get name(): 'BarrierAbortedError' {
    return 'BarrierAbortedError';
  }
  /** The first covered request that failed. */
  readonly blame: Request;
  /** All bytes that covered writes have not written. */
  readonly ranges: readonly ByteRange[];

  constructor(blame: Request, ranges: readonly ByteRange[], cause: unknown) {
    const failed = inWords(blame.kind, blame);
    super('BARRIER_ABORTED', `not written, because it covers a ${failed}, which failed`, { cause });
    this.blame = blame;
    this.ranges = ranges;
  }
}

/** The mode does not keep its promise on this device. To use it nevertheless, set `allowUnsafe`. */
export class UnsafeModeError extends WriteBarrierError {
  override get name(): 'UnsafeModeError' {
    return 'UnsafeModeError';
  }
  /** What the mode promises on this device. */
  readonly guarantees: Guarantees;

  constructor(guarantees: Guarantees) {
    const pairs = guarantees.unsafe.map((pair) => pair.name).join(', ');
    super('UNSAFE_MODE', `${guarantees.mode} is unsafe here (${pairs}). ${guarantees.reason}`);
    this.guarantees = guarantees;
  }
}

/** The storage did not answer in time. It may still carry the commands out. */
export class CloseTimeoutError extends WriteBarrierError {
  override get name(): 'CloseTimeoutError' {
    return 'CloseTimeoutError';
  }
  /** The commands without an answer, oldest first. */
  readonly hanging: readonly Pick<DeviceCommand, 'op' | 'offset' | 'length'>[];

  constructor(timeoutMs: number, hanging: CloseTimeoutError['hanging']) {
    const commands = hanging.map((command) => inWords(command.op, command));
    super(
      'CLOSE_TIMEOUT',
      `no answer within ${timeoutMs} ms to: ${commands.join(', ') || 'close'}`,
    );
    this.hanging = hanging;
  }
}

/** The ranges that a failed flush names: of a scheduler, of an NBD export, of a storage of the user's. */
export function atRiskOf(failure: unknown): readonly ByteRange[] {
  if (!WriteBarrierError.is(failure)) return [];
  const { atRisk } = failure as { readonly atRisk?: unknown };
  if (!Array.isArray(atRisk)) return [];
  return atRisk.filter((range) => {
    const { start, end } = Object(range) as ByteRange;
    return Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && end > start;
  });
}

function sizeOf(ranges: readonly ByteRange[]): string {
  return `${ranges.reduce((sum, { start, end }) => sum + end - start, 0)} bytes`;
}

/** The error for what the mode or the storage cannot do. */
export function refusalOf(request: Request): WriteBarrierError {
  return unsupported(`a ${inWords(request.kind, request)}`);
}

/** The error for a read of bytes at risk. */
export function readAtRisk(request: Request, cause: FlushFailedError): WriteBarrierError {
  const text = `a ${inWords('read', request)}, which may be lost, because a flush has failed`;
  return new WriteBarrierError(
    'READ_AT_RISK',
    `${text}; recover() and write them again, or set readAtRisk`,
    { cause },
  );
}

/**
 * Why a flush failed, in words. For an error that itself counts bytes at risk, its cause is used: its ranges are among ours,
 * and two counts in one message would contradict each other.
 */
function reasonOf(cause: unknown): string {
  let reason = cause;
  while (atRiskOf(reason).length > 0 && (reason as Error).cause !== undefined) {
    reason = (reason as Error).cause;
  }
  return messageOf(reason);
}

/** Codes of a storage that say more than `IO_FAILED`, so the caller gets them. */
const SPECIFIC: ReadonlySet<ErrorCode> = new Set(['SHORT_TRANSFER', 'READ_ONLY', 'READ_AT_RISK']);

/** The error of a request whose command failed with `cause`; undefined without a cause. */
export function ioFailure(request: Request, cause: unknown): WriteBarrierError | undefined {
  if (cause === undefined) return undefined;
  if (WriteBarrierError.is(cause) && SPECIFIC.has(cause.code)) return cause;
  const message = `the storage failed a ${inWords(request.kind, request)}: ${messageOf(cause)}`;
  return new IoFailedError(message, { request, cause });
}
