// The options and counters of a scheduler, and the checks of its arguments. Arguments are checked only here; later code trusts
// them.
//
// A range is one or more whole blocks inside the storage, in safe integers. Data is one Uint8Array or a list of them. The checks
// return the error and do not throw it, because the methods of a scheduler reject.
//
// Not here: whether a storage does what its capabilities state, which is seen when it answers (storage/perform.ts).

import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  type DeviceTraits,
  FUNCTION,
  invalid,
  isBytes,
  type KnownOptions,
  type ModeName,
  type Observer,
  type Operation,
  oneOf,
  type Request,
  type Rule,
  rule,
  WriteBarrierError,
  wholeNumber,
} from '../model/index.js';
import { totalLength } from '../storage/buffers.js';
import { checkRange } from '../storage/checks.js';
import type { Storage } from '../storage/index.js';
import type { Plans } from './plan.js';

/** Options of the state machine: those of the user, complete, and what follows from the storage. */
export interface OrderingOptions<C = unknown> {
  readonly mode: ModeName;
  readonly device: DeviceTraits;
  /** The plans of the mode on the device, if other machines have made them already. */
  readonly plans?: Plans;
  /** Commands at the device at once, at least 1. */
  readonly depth: number;
  readonly errorPolicy: 'abort' | 'kernel';
  readonly readsPassBarriers: boolean;
  /** Serves reads of bytes at risk. Otherwise they are refused. */
  readonly readAtRisk?: boolean;
  /**
   * Present if the device gathers: writes that follow each other become one command. Called with the caller of each such
   * write; false keeps it apart.
   */
  readonly mayGather?: ((client: C) => boolean) | undefined;
  /** A writeZeroes is issued in pieces, so the device has all of it only when the last piece has completed. */
  readonly splitsZeroes?: boolean;
  /** Called when the data of a write has completed and only its flush is to come: the buffer is not needed any more. */
  readonly releaseData?: (client: C) => void;
}

/** Counters of the state machine; `SchedulerStats` tells what each counts. */
export class Counters {
  readonly commands: Record<Operation, number> = {
    read: 0,
    write: 0,
    flush: 0,
    discard: 0,
    writeZeroes: 0,
  };
  drains = 0;
  flushesCoalesced = 0;
  readsPassed = 0;
}

/** Options of a scheduler. */
export interface SchedulerOptions {
  /**
   * One of the seven modes, or `'auto'`: the mode that `chooseMode` returns for the storage.
   *
   * @defaultValue `'auto'`
   */
  readonly mode?: ModeName | 'auto';
  /**
   * Maximum commands in flight at the storage, 1 to 1024.
   *
   * @defaultValue 32
   */
  readonly depth?: number;
  /**
   * What the failure of a write does to the barriers that cover it. `abort`: they are not written. `kernel`, as Linux 2.6.16
   * to 2.6.36 did: the first error is reported, and the sequence goes on.
   *
   * @defaultValue `'abort'`
   */
  readonly errorPolicy?: 'abort' | 'kernel';
  /**
   * A read may bypass a barrier if it overlaps no request that waits.
   *
   * @defaultValue true
   */
  readonly readsPassBarriers?: boolean;
  /**
   * Serves reads of bytes at risk after a failed flush. The bytes may exist only in a cache, and a power cut may lose them.
   * Without this option such reads are refused with `READ_AT_RISK`.
   *
   * @defaultValue false
   */
  readonly readAtRisk?: boolean;
  /**
   * Maximum requests in the queue. Further ones are refused with `QUEUE_FULL`.
   *
   * @defaultValue 65,536
   */
  readonly maxQueued?: number;
  /**
   * Maximum bytes in the buffers of the reads and writes in the queue.
   *
   * @defaultValue 268,435,456 (256 MiB)
   */
  readonly maxQueuedBytes?: number;
  /**
   * Called synchronously for every event. It must not throw or call the scheduler. If it throws, the scheduler goes on,
   * `stats().observerErrors` counts it, and the first time is reported by `console.error`.
   */
  readonly observer?: Observer;
  /**
   * The stack of an error shows the call that it answers, and not the scheduler. Every request then takes a stack, which
   * costs several times as much as a request to memory; see `npm run bench -- stacks`.
   *
   * @defaultValue false
   */
  readonly stackTraces?: boolean;
  /**
   * Accepts a mode that does not keep its promise on this storage. `guarantees` says what is lost: with DRAIN on a volatile
   * cache, for example, a power cut may keep a commit mark and lose the record that it commits.
   *
   * @defaultValue false
   */
  readonly allowUnsafe?: boolean;
}

/** Options of every request. */
export interface RequestOptions {
  /** Cancels the request if nothing of it has been issued. It then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of a write. */
export interface WriteOptions extends RequestOptions {
  /** Everything submitted earlier is ordered before this write, everything later after it. */
  readonly barrier?: boolean | undefined;
  /** Everything submitted earlier is flushed before the data is written. */
  readonly preflush?: boolean | undefined;
  /** Settles when the data is on the medium. */
  readonly fua?: boolean | undefined;
}

/** What a scheduler is doing, and has done. */
export interface SchedulerStats {
  /** Commands issued to the device. */
  readonly commands: Readonly<Record<Operation, number>>;
  /** How often everything issued had to complete before anything else was issued. */
  readonly drains: number;
  /** Requests that shared the device flush of another request. */
  readonly flushesCoalesced: number;
  /** Reads that bypassed a barrier. */
  readonly readsPassed: number;
  /** Requests in the queue. */
  readonly queued: number;
  /** Bytes in the buffers of the reads and writes in the queue. */
  readonly queuedBytes: number;
  /** Commands in flight at the storage. */
  readonly inFlight: number;
  /** Barriers that are submitted and not settled. */
  readonly barriersPending: number;
  /** Requests that were accepted. Misuse, and requests that found the queue full, do not count. */
  readonly submitted: number;
  /** Requests that have settled, with or without an error. */
  readonly settled: number;
  /** How often the observer has thrown. */
  readonly observerErrors: number;
}

/** The options of a request without options. */
export const NO_OPTIONS: WriteOptions = Object.freeze({});

const SIGNAL: Rule = rule(
  (value) =>
    value instanceof Object && 'addEventListener' in value && 'removeEventListener' in value,
  'an AbortSignal',
);
const REQUEST_OPTIONS: KnownOptions<RequestOptions> = { signal: SIGNAL };
const WRITE_OPTIONS: KnownOptions<WriteOptions> = {
  barrier: BOOLEAN,
  preflush: BOOLEAN,
  fua: BOOLEAN,
  signal: SIGNAL,
};
const WHOLE: Rule = rule(Number.isSafeInteger, 'a whole number of bytes below 2^53');
export const CLOSE_OPTIONS: { readonly timeoutMs: Rule } = {
  // A longer time overflows the timers of JavaScript.
  timeoutMs: rule(
    (value) => typeof value === 'number' && value >= 0 && value < 2 ** 31,
    'a number of milliseconds from 0 to below 2^31',
  ),
};
export const SCHEDULER_OPTIONS: KnownOptions<SchedulerOptions> = {
  mode: rule(() => true, 'a mode'), // guarantees() checks it; here only a getter that throws is refused
  // Beyond that, more commands only slow down the search for overlaps.
  depth: wholeNumber(1, 1024),
  errorPolicy: oneOf(['abort', 'kernel']),
  readsPassBarriers: BOOLEAN,
  readAtRisk: BOOLEAN,
  maxQueued: wholeNumber(1),
  maxQueuedBytes: wholeNumber(1),
  observer: FUNCTION,
  stackTraces: BOOLEAN,
  allowUnsafe: BOOLEAN,
};

/**
 * The number of bytes of what is to be written.
 *
 * @throws `INVALID_ARGUMENT`
 */
export function checkData(data: unknown): number {
  if (isBytes(data)) return data.byteLength;
  if (!Array.isArray(data) || ![...data].every(isBytes)) {
    throw invalid('data', 'a Uint8Array or a list of them', data);
  }
  return totalLength(data);
}

/** @throws `INVALID_ARGUMENT`, `ZERO_LENGTH`, `OUT_OF_RANGE`, `UNALIGNED` */
export function checkRequest(
  request: Request,
  options: WriteOptions,
  storage: Pick<Storage, 'size' | 'capabilities'>,
): void {
  // The range of a resize follows from sizes that were checked.
  if ('length' in request && !('size' in request)) {
    const { offset, length } = request;
    checkArgument('offset', offset, WHOLE);
    checkArgument('length', length, WHOLE);
    if (length === 0) throw new WriteBarrierError('ZERO_LENGTH', 'length must not be 0');
    checkRange(storage, offset, length);
  }
  if (options === NO_OPTIONS) return;
  checkOptions(options, request.kind === 'write' ? WRITE_OPTIONS : REQUEST_OPTIONS, request.kind);
}
