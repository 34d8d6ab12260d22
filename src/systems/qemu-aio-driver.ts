// The process around the queue of QEMU 2009: disks over storages, requests with promises, and a trace of each disk. It
// decides nothing. Workers take their steps one after the other, as long as one can, after every event: a submission,
// a cancellation, an answer of a storage. `pick` is the kernel's scheduler of threads; without it the oldest worker
// goes first. Nobody has a clock, so idle workers stay.
//
// A transfer is a read or a write of the storage, fdatasync a flush; where nothing is volatile fdatasync finds nothing
// to do and the storage is not asked.
//
// When the process dies, as the patch makes it do where its lists contradict each other, it dies for all disks: no further
// event, and whoever waits hears FAILED.
//
// Not here: what the queue does and which defects it has (qemu-aio.ts); requests that the patch did not know: a flush, a
// discard, zeroes, and the flags of later kernels are refused with EOPNOTSUPP.

import {
  checkRange,
  isBarrier,
  type Observer,
  type Request,
  type Storage,
  type TraceEvent,
  type Transfer,
  WriteBarrierError,
} from 'write-barrier';
import type { AioHandle } from './posix-aio.js';
import {
  type AioOutcome,
  type AioProfile,
  type AioState,
  aioState,
  type CancelAnswer,
  callOf,
  cancelAio,
  endCall,
  QEMU_2009,
  runnableWorkers,
  stepAio,
  submitAio,
} from './qemu-aio.js';

/** Options of a process. */
export interface QemuOptions {
  /** `QEMU_2009` unless given. */
  readonly profile?: AioProfile;
  /** Workers of a queue at the most, 1 or more; 64 unless given, as in the patch. */
  readonly threadsMax?: number;
  /** Which of so many workers takes its step; the first, that is the oldest, unless given. */
  readonly pick?: (of: number) => number;
}

/** Options of a disk. */
export interface QemuDiskOptions {
  /** How its file is opened; neither unless given. */
  readonly flags?: readonly ('O_DIRECT' | 'O_DSYNC')[];
  /** Is told every event of this disk. */
  readonly observer?: Observer;
}

/** A disk of the process. */
export interface QemuDisk {
  /** Whether the guest is offered barriers; one that comes all the same is refused. */
  readonly barrierSupport: boolean;
  /**
   * qemu_paio_submit. What is wrong rejects at once: `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`, and
   * `EOPNOTSUPP` for what the queue does not know. Later ends: `IO_FAILED`, `SHORT_TRANSFER`; where the profile hears
   * of it `FLUSH_FAILED` and `BARRIER_ABORTED`; `FAILED` when the process dies.
   *
   * @param data what to write; or where to read into, a new buffer unless given
   */
  submit(request: Request, data?: Uint8Array): AioHandle;
  /** qemu_paio_cancel. @throws `INVALID_ARGUMENT` for a handle of another disk */
  cancel(handle: AioHandle): CancelAnswer;
}

/** What it takes to carry a request out and to answer it. */
interface Asked {
  readonly disk: Disk;
  readonly number: number;
  readonly request: Request;
  readonly data: Uint8Array | undefined;
  readonly resolve: (value?: Uint8Array) => void;
  readonly reject: (reason: unknown) => void;
  /** The first error that a storage gave for it. */
  cause: unknown;
}

/** A queue with the requests in it, by the number of their block. */
interface Queue {
  readonly state: AioState;
  readonly asked: Map<number, Asked>;
}

interface Disk {
  readonly storage: Storage;
  readonly observer: Observer | undefined;
  requests: number;
  commands: number;
}

/** The emulator: one process, one lock, and as many disks as it is given. */
export class QemuProcess {
  readonly #profile: AioProfile;
  readonly #threadsMax: number;
  readonly #pick: (of: number) => number;
  readonly #queues: Queue[] = [];

  /** @throws `INVALID_ARGUMENT` for a pool without workers */
  constructor({ profile = QEMU_2009, threadsMax = 64, pick = () => 0 }: QemuOptions = {}) {
    this.#profile = profile;
    this.#threadsMax = threadsMax;
    this.#pick = pick;
    if (profile.oneQueueForAllDisks) this.#newQueue();
  }

  /** The state of each queue, live: one for all disks, or one for each. For looking, not for writing. */
  get queues(): readonly AioState[] {
    return this.#queues.map(({ state }) => state);
  }

  /** raw_open: a disk over a storage. The process never closes it. */
  open(storage: Storage, { flags = [], observer }: QemuDiskOptions = {}): QemuDisk {
    const { oneQueueForAllDisks, noBarriersOnDirect } = this.#profile;
    const queue = oneQueueForAllDisks ? (this.#queues[0] as Queue) : this.#newQueue();
    const disk: Disk = { storage, observer, requests: 0, commands: 0 };
    const { cache, flush } = storage.capabilities;
    const syncs = cache !== 'volatile' || flush;
    const barrierSupport = syncs && !(noBarriersOnDirect && flags.length > 0);
    const blocks = new WeakMap<AioHandle, number | undefined>();
    return Object.freeze({
      barrierSupport,
      submit: (request: Request, data?: Uint8Array): AioHandle => {
        const { block, handle } = this.#submit(queue, disk, request, data, barrierSupport);
        blocks.set(handle, block);
        return handle;
      },
      cancel: (handle: AioHandle): CancelAnswer => {
        if (!blocks.has(handle)) {
          throw new WriteBarrierError('INVALID_ARGUMENT', 'the handle is of another disk');
        }
        const block = blocks.get(handle);
        return block === undefined ? 'all done' : this.#cancel(queue, block);
      },
    });
  }

  #newQueue(): Queue {
    const queue = { state: aioState(this.#profile, this.#threadsMax), asked: new Map() };
    this.#queues.push(queue);
    return queue;
  }

  #submit(
    queue: Queue,
    disk: Disk,
    request: Request,
    data: Uint8Array | undefined,
    barrierSupport: boolean,
  ): { readonly block: number | undefined; readonly handle: AioHandle } {
    let block: number | undefined;
    const result = new Promise<Uint8Array | void>((resolve, reject) => {
      this.#check(queue, disk, request, data, barrierSupport);
      const number = disk.requests++;
      disk.observer?.({ kind: 'submit', request: number, what: request });
      const type = request.kind === 'read' || request.kind === 'write' ? request.kind : 'none';
      const bytes = request.kind === 'write' ? request.length : 0;
      block = submitAio(queue.state, { type, barrier: isBarrier(request), bytes });
      const buffer = data ?? (request.kind === 'read' ? new Uint8Array(request.length) : undefined);
      const call = { disk, number, request, data: buffer, resolve, reject, cause: undefined };
      queue.asked.set(block, call as Asked);
    });
    result.catch(() => {});
    if (block !== undefined) this.#run(queue);
    return { block, handle: Object.freeze({ result }) };
  }

  /** @throws what `submit` rejects with at once */
  #check(
    { state }: Queue,
    { storage }: Disk,
    request: Request,
    data: Uint8Array | undefined,
    barrierSupport: boolean,
  ): void {
    if (state.aborted !== null) throw dead(state.aborted);
    const unknown =
      (request.kind === 'write' && (request.preflush || request.fua)) ||
      (request.kind === 'barrier' && this.#profile.refusesEmptyBarriers) ||
      (isBarrier(request) && !barrierSupport);
    if (unknown || !['read', 'write', 'barrier'].includes(request.kind)) {
      throw new WriteBarrierError(
        'EOPNOTSUPP',
        `the queue does not know a ${request.kind} like this`,
      );
    }
    if (request.kind !== 'read' && request.kind !== 'write') return;
    const { offset, length } = request;
    checkRange(storage, offset, length);
    if (length === 0) throw new WriteBarrierError('ZERO_LENGTH', `no bytes at offset ${offset}`);
    if (data?.byteLength === length || (request.kind === 'read' && !data)) return;
    throw new WriteBarrierError(
      'INVALID_ARGUMENT',
      `a request of ${length} bytes with a buffer of ${data?.byteLength ?? 0}`,
    );
  }

  #cancel(queue: Queue, block: number): CancelAnswer {
    const answer = queue.state.aborted === null ? cancelAio(queue.state, block) : 'all done';
    if (answer === 'canceled') {
      const { disk, number, reject } = queue.asked.get(block) as Asked;
      disk.observer?.({ kind: 'settle', request: number, outcome: 'cancelled' });
      reject(new DOMException('the request was canceled', 'AbortError'));
      this.#run(queue);
      if (!(block in queue.state.blocks)) queue.asked.delete(block);
    }
    return answer;
  }

  // Workers

  /** Lets workers take steps until none can. */
  #run(queue: Queue): void {
    const { state, asked } = queue;
    for (;;) {
      const workers = runnableWorkers(state);
      if (workers.length === 0) break;
      const worker = workers[this.#pick(workers.length)] as number;
      const returned = stepAio(state, worker);
      if (returned) {
        const ended = asked.get(returned.block) as Asked;
        if (!(returned.block in state.blocks)) asked.delete(returned.block);
        if (!returned.answered) answer(ended, returned.outcome);
      }
      this.#call(queue, worker);
    }
    if (state.aborted === null) return;
    for (const { reject } of asked.values()) reject(dead(state.aborted));
    asked.clear();
  }

  /** Carries out the calls of a worker, as far as the storage answers at once. */
  #call(queue: Queue, worker: number): void {
    for (let due = callOf(queue.state, worker); due; due = callOf(queue.state, worker)) {
      const asked = queue.asked.get(due.block) as Asked;
      const { storage } = asked.disk;
      const sync = due.call.op === 'fdatasync';
      if (sync && storage.capabilities.cache !== 'volatile') {
        endCall(queue.state, worker, false);
        continue;
      }
      const command = dispatch(asked, due.call.stage, sync);
      const end = (failed: boolean, cause?: unknown): void => {
        complete(asked, command, failed, cause);
        endCall(queue.state, worker, failed);
      };
      let moved: Transfer;
      try {
        moved = sync ? storage.flush(SIMPLE) : transfer(asked);
      } catch (error) {
        end(true, error);
        continue;
      }
      if (moved !== undefined && typeof moved !== 'number') {
        // The process may be dead by then.
        const later = (failed: boolean, cause?: unknown): void => {
          if (queue.state.aborted !== null) return;
          end(failed, cause);
          this.#call(queue, worker);
          this.#run(queue);
        };
        Promise.resolve(moved).then(
          (bytes) => later(isShort(asked, bytes, sync), SHORT),
          (error) => later(true, error),
        );
        return;
      }
      end(isShort(asked, moved, sync), SHORT);
    }
  }
}

const SIMPLE = Object.freeze({ tag: 'simple' });
const PLAIN = Object.freeze({ tag: 'simple', fua: false });
const SHORT: unique symbol = Symbol('short');

function transfer({ disk: { storage }, request, data }: Asked): Transfer {
  if (request.kind === 'read') return storage.read(request.offset, data as Uint8Array);
  if (request.kind === 'write') return storage.write(request.offset, data as Uint8Array, PLAIN);
}

function isShort({ request }: Asked, moved: unknown, sync: boolean): boolean {
  if (sync || typeof moved !== 'number') return false;
  return request.kind === 'barrier' || request.kind === 'flush' || moved !== request.length;
}

// The trace

type Stage = Extract<TraceEvent, { kind: 'dispatch' }>['what']['stage'];

function dispatch({ disk, number, request }: Asked, stage: Stage, sync: boolean): number {
  const command = disk.commands++;
  const ranged = request.kind === 'read' || request.kind === 'write';
  const what =
    sync || !ranged
      ? ({ op: 'flush', offset: 0, length: 0 } as const)
      : { op: request.kind, offset: request.offset, length: request.length };
  disk.observer?.({
    kind: 'dispatch',
    command,
    what: { kind: 'command', ...what, tag: 'simple', fua: false, stage },
    requests: [number],
  });
  return command;
}

function complete(asked: Asked, command: number, failed: boolean, cause: unknown): void {
  const error = failed ? (cause === SHORT ? 'a short transfer' : inWords(cause)) : undefined;
  if (failed) asked.cause ??= cause;
  asked.disk.observer?.({
    kind: 'complete',
    command,
    ...(error !== undefined && { error }),
  });
}

function answer(asked: Asked, outcome: AioOutcome): void {
  const { disk, number, request, data, resolve, reject, cause } = asked;
  if (outcome === 'done') {
    disk.observer?.({ kind: 'settle', request: number, outcome: 'done' });
    if (request.kind === 'read') resolve(data);
    else resolve();
    return;
  }
  const code = cause === SHORT && outcome === 'transfer failed' ? 'SHORT_TRANSFER' : CODES[outcome];
  disk.observer?.({ kind: 'settle', request: number, outcome: code });
  reject(new WriteBarrierError(code, `${request.kind}: ${outcome}`, { cause }));
}

const CODES = {
  'transfer failed': 'IO_FAILED',
  'sync failed': 'FLUSH_FAILED',
  aborted: 'BARRIER_ABORTED',
} as const satisfies Record<Exclude<AioOutcome, 'done'>, string>;

function dead(reason: string): WriteBarrierError {
  return new WriteBarrierError('FAILED', `the process has died: ${reason}`);
}

function inWords(cause: unknown): string {
  try {
    return cause instanceof Error ? cause.message : String(cause);
  } catch {
    return 'an error without words';
  }
}
