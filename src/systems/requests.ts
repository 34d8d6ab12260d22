// What the systems share: the checked entry of all that take requests for a storage, the promise around a driver, and the
// calls of those that make barriers out of plain file calls.
//
// What is wrong is refused here, before anything is queued; from here on a request is known to fit its storage.
//
// Two processes make barriers out of file calls (tapdisk, QEMU of 2009): a request is a read or a write, with an fdatasync
// before and after it where it is a barrier. An fdatasync is a flush of the storage; if nothing is volatile there is nothing
// to flush, and no command is issued.

import {
  FlushFailedError,
  IoFailedError,
  type IoScheduler,
  isBarrier,
  type Request,
  type RequestOptions,
  type StagedCommand,
  type Storage,
  WriteBarrierError,
} from 'write-barrier';
import {
  type Call,
  type Command,
  checkRange,
  type Driver,
  formatValue,
  messageOf,
  misuse,
  type Rule,
  rule,
} from 'write-barrier/kit';

const hasCapabilities: Rule['holds'] = (value) =>
  typeof Object(Object(value).capabilities).blockSize === 'number';

/** What takes commands. */
export const STORAGE: Rule = rule(hasCapabilities, 'a storage');

/** What takes requests; a storage has no guarantees. */
export const SCHEDULER: Rule = rule(
  (value) => hasCapabilities(value) && 'guarantees' in Object(value),
  'a scheduler',
);

/** What has these methods. */
export function objectWith(...methods: readonly string[]): Rule {
  return rule(
    (value) => methods.every((name) => typeof Object(value)[name] === 'function'),
    `an object with the methods ${methods.join(', ')}`,
  );
}

/**
 * Checks a request and its buffer.
 *
 * @param supports whether the system can be asked for such a request at all
 * @returns the buffer: `data`, or a new one for a read without; undefined where no bytes are moved
 * @throws `EOPNOTSUPP`, `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`; `INVALID_ARGUMENT` for a value that is not a request,
 *   and for a buffer of another length than the request
 */
export function checkRequest(
  storage: Pick<Storage, 'size' | 'capabilities'>,
  request: Request,
  data: Uint8Array | undefined,
  supports: (request: Request) => boolean,
): Uint8Array | undefined {
  if (typeof request?.kind !== 'string') {
    throw misuse(`request must be an object with a kind, not ${formatValue(request)}`);
  }
  if (request.kind === 'write') checkFlags(request);
  if (!supports(request)) throw notSupported(isBarrier(request) ? 'barrier' : request.kind);
  if (request.kind === 'flush' || request.kind === 'barrier') return undefined;
  const { kind, offset, length } = request;
  checkRange(storage, offset, length);
  if (length === 0) {
    throw new WriteBarrierError('ZERO_LENGTH', `the ${kind} at offset ${offset} has no bytes`);
  }
  if (kind === 'discard' || kind === 'writeZeroes') return undefined;
  if (data === undefined && kind === 'read') return new Uint8Array(length);
  if (data instanceof Uint8Array && data.byteLength === length) return data;
  const given = data instanceof Uint8Array ? `${data.byteLength} bytes` : formatValue(data);
  throw misuse(
    `data of a ${kind} of ${length} bytes must be a Uint8Array of that length, not ${given}`,
  );
}

/** The answer to what the system cannot be asked. Nothing was written, so the caller may try without. */
export function notSupported(what: Request['kind']): WriteBarrierError {
  const text = `this system does not support a ${what} with these flags; nothing was written`;
  return new WriteBarrierError('EOPNOTSUPP', text);
}

/** Hands a request to a driver. Settles with the bytes of a read, otherwise with nothing. */
export function submitTo<K extends Call, C extends Command<K>>(
  driver: Driver<K, C>,
  call: Omit<K, 'number' | 'resolve' | 'reject'>,
): Promise<Uint8Array | void> {
  return new Promise((resolve, reject) => {
    driver.submit({ ...call, number: 0, resolve, reject } as unknown as K);
  });
}

/** Asks a scheduler for a request. Settles with the bytes of a read, otherwise with nothing. */
export async function ask(
  scheduler: IoScheduler,
  request: Request,
  data: Uint8Array | undefined,
  options: RequestOptions = {},
): Promise<Uint8Array | void> {
  switch (request.kind) {
    case 'read':
      return scheduler.read(request.offset, data ?? request.length, options);
    case 'write': {
      const { offset, barrier = false, preflush = false, fua = false } = request;
      return scheduler.write(offset, data as Uint8Array, { barrier, preflush, fua, ...options });
    }
    case 'discard':
    case 'writeZeroes':
      return scheduler[request.kind](request.offset, request.length, options);
    default:
      return scheduler[request.kind](options);
  }
}

/** A flag of another type would be taken for false, and its caller would not get the barrier. */
function checkFlags(request: Request & { kind: 'write' }): void {
  for (const name of ['barrier', 'preflush', 'fua'] as const) {
    const flag: unknown = request[name];
    if (flag === undefined || typeof flag === 'boolean') continue;
    throw misuse(`${name} of a write must be a boolean, not ${formatValue(flag)}`);
  }
}

/** A command for a storage, which a trace has. The same value is handed back when it is done. */
export type BlockCommand<K> = Required<Command<K>>;

/** Misuse: the driver completes a command that it does not have, or not any more. */
export function noSuchCommand(): WriteBarrierError {
  return misuse('this command is not in flight: complete each command that next() returned once');
}

// Barriers out of file calls

/** A call for a request. */
export interface FileCall {
  /** `transfer`: the read or the write itself. */
  readonly op: 'fdatasync' | 'transfer';
  /** `plain` for a request that is not a barrier. */
  readonly stage: 'plain' | 'preflush' | 'bar' | 'postflush';
}

/** The only call of a request that is not a barrier. */
export const PLAIN: FileCall = Object.freeze({ op: 'transfer', stage: 'plain' });
/** The first call of a barrier. */
export const PREFLUSH: FileCall = Object.freeze({ op: 'fdatasync', stage: 'preflush' });
/** The second one, if it has data. */
export const BAR: FileCall = Object.freeze({ op: 'transfer', stage: 'bar' });
/** The last one, if it has data. */
export const POSTFLUSH: FileCall = Object.freeze({ op: 'fdatasync', stage: 'postflush' });

/** How a request ended. `aborted`: a barrier that was not carried out, because a request before it failed. */
export type CallOutcome = 'done' | 'transfer failed' | 'sync failed' | 'aborted';

/** Completed writes may be lost in a power cut, so an fdatasync has something to do. */
export function isVolatile({ capabilities }: Storage): boolean {
  return capabilities.cache === 'volatile';
}

/** There is a way to do what fdatasync promises. */
export function canSync(storage: Storage): boolean {
  return !isVolatile(storage) || storage.capabilities.flush;
}

/** A call as a command of the storage. */
export function commandOfCall(request: Request, { op, stage }: FileCall): StagedCommand {
  const ranged = op === 'transfer' && (request.kind === 'read' || request.kind === 'write');
  const what = ranged
    ? { op: request.kind, offset: request.offset, length: request.length }
    : ({ op: 'flush', offset: 0, length: 0 } as const);
  return { kind: 'command', ...what, tag: 'simple', fua: false, stage };
}

/** Whether these processes know the request: reads, and writes without the flags of later kernels. */
export function isFileRequest(request: Request): boolean {
  if (request.kind === 'write') return !request.preflush && !request.fua;
  return request.kind === 'read';
}

/**
 * The error of a request; undefined where it is done.
 *
 * @param failure what the first call that failed has thrown
 */
export function errorOfCall(
  { kind }: Request,
  outcome: CallOutcome,
  failure: unknown,
): WriteBarrierError | undefined {
  if (outcome === 'done') return undefined;
  const because = failure === undefined ? '' : `: ${messageOf(failure)}`;
  const text = `${kind}: ${outcome}${because}`;
  const options = { cause: failure };
  if (outcome === 'sync failed') return new FlushFailedError([], failure, text);
  // These queues do not say which request is to blame, so this is no BarrierAbortedError.
  if (outcome === 'aborted') return new WriteBarrierError('BARRIER_ABORTED', text, options);
  const short = WriteBarrierError.is(failure) && failure.code === 'SHORT_TRANSFER';
  return short
    ? new WriteBarrierError('SHORT_TRANSFER', text, options)
    : new IoFailedError(text, options);
}
