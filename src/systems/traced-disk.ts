// What the drivers of old queues share: a storage that is asked for one call at a time on behalf of a request, and
// the trace of both. Whose turn it is, and what a failure means, the queue decides.
//
// Requests are numbered from 0 in the order of submission, commands in the order of issue. A call is a read, a write,
// or fdatasync, which is a flush; where nothing is volatile fdatasync finds nothing to do and no command is issued. A
// storage may answer at once, throw, answer later or never.

import {
  checkRange,
  type DispatchEvent,
  isBarrier,
  type Observer,
  type Request,
  type Storage,
  type Transfer,
  WriteBarrierError,
  type WriteRequest,
} from 'write-barrier';

/** How a request ended. `aborted`: a barrier that was not carried out, because a request before it failed. */
export type CallOutcome = 'done' | 'transfer failed' | 'sync failed' | 'aborted';

const CODES = {
  'transfer failed': 'IO_FAILED',
  'sync failed': 'FLUSH_FAILED',
  aborted: 'BARRIER_ABORTED',
} as const satisfies Record<Exclude<CallOutcome, 'done'>, string>;

/** Why a call failed: what the storage threw, or a transfer that came short. */
export interface Failure {
  readonly short: boolean;
  readonly cause: unknown;
}

/** A request with its buffer, and whoever waits for it. */
export interface Asked {
  readonly number: number;
  readonly request: Request;
  readonly data: Uint8Array | undefined;
  readonly resolve: (value?: Uint8Array) => void;
  readonly reject: (reason: unknown) => void;
  /** The first failure of a call for it. */
  failure: Failure | undefined;
}

/** See the head of this file. */
export class TracedDisk {
  readonly storage: Storage;
  #observer: Observer | undefined;
  #requests = 0;
  #commands = 0;

  constructor(storage: Storage, observer: Observer | undefined) {
    this.storage = storage;
    this.#observer = observer;
  }

  /** Nothing more is told. */
  silence(): void {
    this.#observer = undefined;
  }

  /** There is a way to do what fdatasync promises. */
  get syncs(): boolean {
    const { cache, flush } = this.storage.capabilities;
    return cache !== 'volatile' || flush;
  }

  /**
   * Before anything is queued. `knows`: whether the queue can handle a request.
   *
   * @throws `EOPNOTSUPP`, `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`; `INVALID_ARGUMENT` for what is no request, and
   *   for a buffer of another length
   */
  check(request: Request, data: unknown, knows: (request: Request) => boolean): void {
    if (typeof request?.kind !== 'string') throw misuse('this is no request');
    if (request.kind === 'write') checkFlags(request);
    if (!knows(request)) {
      const what = isBarrier(request) ? 'barrier' : request.kind;
      throw new WriteBarrierError('EOPNOTSUPP', `the queue cannot handle a ${what} like this`);
    }
    if (request.kind !== 'read' && request.kind !== 'write') return;
    const { offset, length } = request;
    checkRange(this.storage, offset, length);
    if (length === 0) throw new WriteBarrierError('ZERO_LENGTH', `no bytes at offset ${offset}`);
    if (data === undefined && request.kind === 'read') return;
    if (data instanceof Uint8Array && data.byteLength === length) return;
    throw misuse(`a request of ${length} bytes needs a buffer of ${length}`);
  }

  /** A request that was checked is taken. */
  submit(
    request: Request,
    data: Uint8Array | undefined,
    resolve: Asked['resolve'],
    reject: Asked['reject'],
  ): Asked {
    const number = this.#requests++;
    this.#observer?.({ kind: 'submit', request: number, what: request });
    const buffer = data ?? (request.kind === 'read' ? new Uint8Array(request.length) : undefined);
    return { number, request, data: buffer, resolve, reject, failure: undefined };
  }

  /**
   * Carries out one call. `ended` hears of its end, once.
   *
   * @returns whether it has heard already
   */
  call(
    asked: Asked,
    op: 'transfer' | 'fdatasync',
    stage: DispatchEvent['what']['stage'],
    ended: (failed: boolean) => void,
  ): boolean {
    const sync = op === 'fdatasync';
    if (sync && this.storage.capabilities.cache !== 'volatile') {
      ended(false);
      return true;
    }
    const command = this.#dispatch(asked, sync, stage);
    const end = (failure?: Failure): void => {
      if (failure) asked.failure ??= failure;
      const error = failure && (failure.short ? 'a short transfer' : inWords(failure.cause));
      this.#observer?.({ kind: 'complete', command, ...(error !== undefined && { error }) });
      ended(failure !== undefined);
    };
    let moved: Transfer;
    try {
      moved = sync ? this.storage.flush(SIMPLE) : transfer(this.storage, asked);
    } catch (cause) {
      end({ short: false, cause });
      return true;
    }
    if (typeof (moved as Promise<void> | undefined)?.then === 'function') {
      Promise.resolve(moved).then(
        (bytes) => end(shortfall(asked, bytes, sync)),
        (cause) => end({ short: false, cause }),
      );
      return false;
    }
    end(shortfall(asked, moved, sync));
    return true;
  }

  /** The request has ended. */
  answer(asked: Asked, outcome: CallOutcome): void {
    const { number, request, data, resolve, reject, failure } = asked;
    if (outcome === 'done') {
      this.#observer?.({ kind: 'settle', request: number, outcome });
      if (request.kind === 'read') resolve(data);
      else resolve();
      return;
    }
    const short = failure?.short && outcome === 'transfer failed';
    const code = short ? 'SHORT_TRANSFER' : CODES[outcome];
    this.#observer?.({ kind: 'settle', request: number, outcome: code });
    const { cause } = failure ?? {};
    reject(new WriteBarrierError(code, `${request.kind}: ${outcome}`, { cause }));
  }

  /** Somebody wanted the request back, and `reason` is what whoever waits for it is told. */
  cancelled({ number, reject }: Asked, reason: unknown): void {
    this.#observer?.({ kind: 'settle', request: number, outcome: 'cancelled' });
    reject(reason);
  }

  #dispatch({ number, request }: Asked, sync: boolean, stage: Stage): number {
    const command = this.#commands++;
    const ranged = !sync && (request.kind === 'read' || request.kind === 'write');
    const what = ranged
      ? { op: request.kind, offset: request.offset, length: request.length }
      : ({ op: 'flush', offset: 0, length: 0 } as const);
    this.#observer?.({
      kind: 'dispatch',
      command,
      what: { kind: 'command', ...what, tag: 'simple', fua: false, stage },
      requests: [number],
    });
    return command;
  }
}

type Stage = DispatchEvent['what']['stage'];

const SIMPLE = Object.freeze({ tag: 'simple' });
const PLAIN = Object.freeze({ tag: 'simple', fua: false });

function transfer(storage: Storage, { request, data }: Asked): Transfer {
  if (request.kind === 'read') return storage.read(request.offset, data as Uint8Array);
  if (request.kind === 'write') return storage.write(request.offset, data as Uint8Array, PLAIN);
}

/** S3. */
function shortfall({ data }: Asked, moved: unknown, sync: boolean): Failure | undefined {
  if (sync || typeof moved !== 'number' || moved === data?.byteLength) return undefined;
  return { short: true, cause: undefined };
}

/** Who writes `barrier: 1` wants a barrier, and would not get one. */
function checkFlags({ barrier, preflush, fua }: WriteRequest): void {
  for (const flag of [barrier, preflush, fua]) {
    if (flag !== undefined && typeof flag !== 'boolean') throw misuse('a flag is true or false');
  }
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}

function inWords(cause: unknown): string {
  try {
    return cause instanceof Error ? cause.message : String(cause);
  } catch {
    return 'an error without words';
  }
}
