// The process around the queue of QEMU 2009: disks over storages, requests with promises, and a trace of each disk.
// It decides nothing. Workers take their steps one after the other, as long as one can, after every event: a
// submission, a cancellation, an answer of a storage. `pick` is the kernel's scheduler of threads; without it the
// oldest worker goes first. Nobody has a clock, so idle workers stay.
//
// When the process dies, as the patch makes it do where its lists contradict each other, it dies for all disks: no
// further event, and whoever waits hears FAILED.
//
// Requests that the patch did not know (a flush, a discard, zeroes, the flags of later kernels) are refused with
// EOPNOTSUPP.
//
// Not here: what the queue does and which defects it has (aio.ts), calls and traces (traced-disk.ts).

import {
  isBarrier,
  type Observer,
  type Request,
  type Storage,
  WriteBarrierError,
} from 'write-barrier';
import { type Asked, TracedDisk } from '../traced-disk.js';
import {
  type AioState,
  aioState,
  type CancelAnswer,
  callOf,
  cancelAio,
  endCall,
  runnableWorkers,
  stepAio,
  submitAio,
} from './aio.js';
import type { AioHandle } from './posix-aio.js';
import { type AioProfile, QEMU_2009 } from './profile.js';

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
   * qemu_paio_submit. What is wrong rejects at once: `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`,
   * and `EOPNOTSUPP` for what the queue does not know. Later ends: `IO_FAILED`, `SHORT_TRANSFER`; where the profile
   * hears of it `FLUSH_FAILED` and `BARRIER_ABORTED`; `FAILED` when the process dies.
   *
   * @param data what to write; or where to read into, a new buffer unless given
   */
  submit(request: Request, data?: Uint8Array): AioHandle;
  /** qemu_paio_cancel. @throws `INVALID_ARGUMENT` for a handle of another disk */
  cancel(handle: AioHandle): CancelAnswer;
}

/** A queue with the requests in it, by the number of their block. */
interface Queue {
  readonly state: AioState;
  readonly disks: TracedDisk[];
  readonly asked: Map<number, Waiting>;
  /** Workers take their steps. An observer that submits or cancels does not begin that a second time. */
  running: boolean;
}

interface Waiting {
  readonly disk: TracedDisk;
  readonly asked: Asked;
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
    const disk = new TracedDisk(storage, observer);
    queue.disks.push(disk);
    const barrierSupport = disk.syncs && !(noBarriersOnDirect && flags.length > 0);
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
    const state = aioState(this.#profile, this.#threadsMax);
    state.aborted = this.#queues[0]?.state.aborted ?? null;
    const queue = { state, disks: [], asked: new Map(), running: false };
    this.#queues.push(queue);
    return queue;
  }

  #submit(
    queue: Queue,
    disk: TracedDisk,
    request: Request,
    data: Uint8Array | undefined,
    barrierSupport: boolean,
  ): { readonly block: number | undefined; readonly handle: AioHandle } {
    let block: number | undefined;
    const result = new Promise<Uint8Array | void>((resolve, reject) => {
      if (queue.state.aborted !== null) throw dead(queue.state.aborted);
      disk.check(request, data, (asked) => this.#knows(asked, barrierSupport));
      const asked = disk.submit(request, data, resolve as Asked['resolve'], reject);
      const type = request.kind === 'read' || request.kind === 'write' ? request.kind : 'none';
      const bytes = asked.data?.byteLength ?? 0;
      block = submitAio(queue.state, { type, barrier: isBarrier(request), bytes });
      queue.asked.set(block, { disk, asked });
    });
    result.catch(() => {});
    if (block !== undefined) this.#run(queue);
    return { block, handle: Object.freeze({ result }) };
  }

  #knows(request: Request, barrierSupport: boolean): boolean {
    if (isBarrier(request) && !barrierSupport) return false;
    if (request.kind === 'barrier') return !this.#profile.refusesEmptyBarriers;
    if (request.kind === 'write') return !request.preflush && !request.fua;
    return request.kind === 'read';
  }

  #cancel(queue: Queue, block: number): CancelAnswer {
    const answer = queue.state.aborted === null ? cancelAio(queue.state, block) : 'all done';
    if (answer === 'canceled') {
      const { disk, asked } = queue.asked.get(block) as Waiting;
      disk.cancelled(asked, new DOMException('the request was canceled', 'AbortError'));
      this.#run(queue);
      if (!(block in queue.state.blocks)) queue.asked.delete(block);
    }
    return answer;
  }

  /** Lets workers take steps until none can. */
  #run(queue: Queue): void {
    if (queue.running) return;
    const { state } = queue;
    queue.running = true;
    try {
      for (;;) {
        const workers = runnableWorkers(state);
        if (workers.length === 0) break;
        this.#step(queue, workers[this.#pick(workers.length)] as number);
      }
    } finally {
      queue.running = false;
    }
    if (state.aborted !== null) this.#die(state.aborted);
  }

  #step(queue: Queue, worker: number): void {
    const { state, asked } = queue;
    const returned = stepAio(state, worker);
    if (returned) {
      const ended = asked.get(returned.block) as Waiting;
      if (!(returned.block in state.blocks)) asked.delete(returned.block);
      if (!returned.answered) ended.disk.answer(ended.asked, returned.outcome);
    }
    this.#call(queue, worker);
  }

  #die(reason: string): void {
    for (const { state, disks, asked } of this.#queues) {
      state.aborted = reason;
      for (const disk of disks) disk.silence();
      for (const { asked: waiting } of asked.values()) waiting.reject(dead(reason));
      asked.clear();
    }
  }

  /** Carries out the calls of a worker, as far as the storage answers at once. */
  #call(queue: Queue, worker: number): void {
    const { state } = queue;
    for (let due = callOf(state, worker); due; due = callOf(state, worker)) {
      const { disk, asked } = queue.asked.get(due.block) as Waiting;
      let atOnce = true;
      const answered = disk.call(asked, due.call.op, due.call.stage, (failed) => {
        // The process may be dead by then.
        if (state.aborted !== null) return;
        endCall(state, worker, failed);
        if (atOnce) return;
        this.#call(queue, worker);
        this.#run(queue);
      });
      atOnce = false;
      if (!answered) return;
    }
  }
}

function dead(reason: string): WriteBarrierError {
  return new WriteBarrierError('FAILED', `the process has died: ${reason}`);
}
