// Barriers out of plain file operations: read, write, and a sync that makes all earlier writes durable. What tapdisk's
// patch of 2010 did (tapdisk.ts) is the mode DRAIN_FLUSH, so nothing is described here a second time:
//
//   asynchronous  `fileStorage(file)` is the file as a storage; an `IoScheduler` over it waits, syncs, writes, waits
//                 and syncs, and answers for failures
//   synchronous   `SyncFileBarriers` carries out the same steps of the model at once, for code that cannot wait: each
//                 call is over when it returns, so the drains have nothing to do
//
// After a sync that failed a second one may succeed without having written what the first one lost. So `SyncFileBarriers`
// then refuses every request until `recover()`, reads too, because it does not track which bytes are in doubt.
//
// Not here: opening files and locking them (`FileStorage` of write-barrier/node does, and knows what its platform's
// sync is worth).
//
// Source: "[PATCH] blktap: handle barrier I/O request" (xen-devel, 3 November 2010).

import {
  type Capabilities,
  FlushFailedError,
  IoFailedError,
  initialState,
  type Operation,
  type Request,
  SchedulerFailedError,
  type Step,
  type Storage,
  type Transfer,
  transition,
  WriteBarrierError,
} from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  checkRange,
  formatValue,
  lowerSteps,
  misuse,
} from 'write-barrier/kit';
import { objectWith } from '../requests.js';

/** Plain file operations. A transfer answers with nothing, or with the number of bytes moved. */
export interface PlainFile {
  /** In bytes. */
  readonly size: number;
  /** In bytes: offsets and lengths are multiples of it. @defaultValue 1 */
  readonly blockSize?: number;
  /** Fills `into` with the bytes from `offset` on. */
  read(offset: number, into: Uint8Array): Transfer;
  /** Puts all of `data` at `offset`. */
  write(offset: number, data: Uint8Array): Transfer;
  /** Puts what was written and answered before on the medium: fsync, fdatasync. */
  sync(): void | Promise<void>;
  /** Releases the file. @defaultValue nothing is done */
  close?(): void | Promise<void>;
}

/** The same, where every call is over when it returns. */
export interface SyncFile extends PlainFile {
  read(offset: number, into: Uint8Array): void | number;
  write(offset: number, data: Uint8Array): void | number;
  sync(): void;
  close?(): void;
}

const FILE = objectWith('read', 'write', 'sync');

/** What a file can do: completed writes are in the cache of the system, and a sync empties it. */
function traitsOf({ blockSize = 1 }: PlainFile): Capabilities {
  return { blockSize, cache: 'volatile', flush: true, fua: false, orderedTags: false };
}

/**
 * The file as a storage, for a scheduler; `chooseMode` makes it DRAIN_FLUSH.
 *
 * @throws `INVALID_ARGUMENT` for what has no `read`, `write` and `sync`
 */
export function fileStorage(file: PlainFile): Storage {
  checkArgument('file', file, FILE);
  return {
    size: file.size,
    capabilities: Object.freeze(traitsOf(file)),
    read: (offset, into) => file.read(offset, into),
    write: (offset, data) => file.write(offset, data),
    flush: () => file.sync(),
    close: () => file.close?.(),
  };
}

/** What a synchronous write may ask for in addition. */
export interface SyncWriteOptions {
  /** Everything before is on the medium before the data, and the data before everything that comes later. */
  readonly barrier?: boolean;
  /** A sync goes before the data. */
  readonly preflush?: boolean;
  /** The data is on the medium when the call returns. */
  readonly fua?: boolean;
}

const FLAGS = { barrier: BOOLEAN, preflush: BOOLEAN, fua: BOOLEAN } as const;

/**
 * Barriers over a file that answers at once.
 *
 * Every method throws: `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT` before anything is done;
 * `FAILED` after a sync that failed; `IO_FAILED` or `SHORT_TRANSFER` for a transfer, `FLUSH_FAILED` for a sync, with
 * what the file threw as `cause`. A call that throws has ended there: nothing after the failure is carried out.
 */
export class SyncFileBarriers {
  readonly #file: SyncFile;
  readonly #traits: Capabilities;
  #failure: WriteBarrierError | undefined;

  /** @throws `INVALID_ARGUMENT` for what has no `read`, `write` and `sync` */
  constructor(file: SyncFile) {
    checkArgument('file', file, FILE);
    this.#file = file;
    this.#traits = traitsOf(file);
  }

  /** `failed`: a sync has failed, and everything is refused until `recover()`. */
  get state(): 'running' | 'failed' {
    return this.#failure ? 'failed' : 'running';
  }

  /** Fills `into` with the bytes from `offset` on. */
  read(offset: number, into: Uint8Array): void {
    this.#carryOut({ kind: 'read', offset, length: lengthOf(into) }, into);
  }

  /** Writes; with a flag, or as a barrier, see `SyncWriteOptions`. */
  write(offset: number, data: Uint8Array, options?: SyncWriteOptions): void {
    if (options) checkOptions(options, FLAGS, 'write');
    const { barrier = false, preflush = false, fua = false } = options ?? {};
    const length = lengthOf(data);
    this.#carryOut({ kind: 'write', offset, length, barrier, preflush, fua }, data);
  }

  /** An empty barrier: what was written before is on the medium when it returns. */
  barrier(): void {
    this.#carryOut({ kind: 'barrier' });
  }

  /** The same as an empty barrier, since nothing can be under way. */
  flush(): void {
    this.#carryOut({ kind: 'flush' });
  }

  /**
   * Takes requests again after a sync that failed. What was written since the last sync that succeeded is in doubt:
   * write it again.
   */
  recover(): void {
    this.#failure = undefined;
  }

  /** Each step of the model is one call, or none: a drain has nothing to wait for. */
  #carryOut(request: Request, data?: Uint8Array): void {
    if (this.#failure) {
      const { message } = this.#failure;
      throw new SchedulerFailedError(
        this.#failure,
        `refused because of an earlier failure: ${message}`,
      );
    }
    if (data) this.#check(request, data);
    const { steps } = transition(initialState('DRAIN_FLUSH'), request);
    for (const step of lowerSteps(steps, this.#traits)) this.#call(step, data);
  }

  #check(request: Request, data: Uint8Array): void {
    const { offset } = request as { readonly offset: number };
    const storage = { size: this.#file.size, capabilities: this.#traits };
    checkRange(storage, offset, data.byteLength);
    if (data.byteLength > 0) return;
    throw new WriteBarrierError('ZERO_LENGTH', `no bytes at offset ${offset}`);
  }

  #call(step: Step, data: Uint8Array | undefined): void {
    if (step.kind !== 'command') return;
    const { op, offset, length } = step;
    if (op !== 'flush' && data?.byteLength !== length) {
      // A sync goes before, and runs code that is not ours.
      throw misuse('the buffer has changed its size since the call began');
    }
    const moved = this.#perform(op, offset, data as Uint8Array);
    if (typeof (moved as Promise<void> | undefined)?.then === 'function') {
      Promise.resolve(moved).catch(() => {});
      const told = `${op} of a SyncFile must return when it is done, not a promise; use fileStorage for this file`;
      const error = misuse(told);
      if (op === 'flush') this.#failure = error; // because its end is not known
      throw error;
    }
    if (op === 'flush' || moved === undefined || moved === null || moved === length) return;
    const told = `the file returned ${String(moved)} for a ${op} of ${length} bytes at ${offset}`;
    throw new WriteBarrierError('SHORT_TRANSFER', told);
  }

  /** What the file says; nothing but a read, a write and a flush comes here. */
  #perform(op: Operation, offset: number, data: Uint8Array): unknown {
    try {
      if (op === 'flush') return this.#file.sync();
      return op === 'read' ? this.#file.read(offset, data) : this.#file.write(offset, data);
    } catch (cause) {
      const flush = op === 'flush';
      const told = `the ${flush ? 'sync' : op} of a file failed`;
      const error = flush
        ? new FlushFailedError([], cause, told)
        : new IoFailedError(told, { cause });
      if (flush) this.#failure = error;
      throw error;
    }
  }
}

function lengthOf(data: unknown): number {
  if (data instanceof Uint8Array) return data.byteLength;
  throw misuse(`data must be a Uint8Array, not ${formatValue(data)}`);
}
