// The process around the queue of QEMU 2009: disks over storages, requests with promises, and a trace of each disk.
// It decides nothing. After every event (a submission, a cancellation, an answer of a storage) the workers take steps, one
// step at a time, until no worker can. `pick` is the kernel's scheduler of threads; without it the
// oldest worker goes first. There is no clock, so idle workers stay.
//
// When the process dies, as the patch makes it do where its lists contradict each other, it dies for all disks: no
// further event, and every request without an answer fails with FAILED.
//
// Requests that the patch did not know (a flush, a discard, zeroes, the flags of later kernels) are refused with
// EOPNOTSUPP.
//
// Not here: what the queue does and which defects it has (aio.ts), the calls that it makes (requests.ts).

import {
  isBarrier,
  type Observer,
  type Request,
  SchedulerFailedError,
  type Storage,
  type WriteBarrierError,
} from 'write-barrier';
import {
  answerCall,
  type Call,
  type Command,
  checkArgument,
  checkOptions,
  Driver,
  FUNCTION,
  type Machine,
  misuse,
  oneOf,
  perform,
  type Settled,
  Tracer,
  wholeNumber,
} from 'write-barrier/kit';
import {
  canSync,
  checkRequest,
  commandOfCall,
  errorOfCall,
  isFileRequest,
  isVolatile,
} from '../requests.js';
import {
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
} from './aio.js';
import type { AioHandle } from './posix-aio.js';

/** Options of a process. */
export interface QemuOptions {
  /** @defaultValue `QEMU_2009` */
  readonly profile?: AioProfile;
  /** The maximum of workers of a queue, 1 or more. @defaultValue 64, as in the patch */
  readonly threadsMax?: number;
  /** Which of so many workers takes its step. @defaultValue the first, which is the oldest */
  readonly pick?: (of: number) => number;
}

/** Options of a disk. */
export interface QemuDiskOptions {
  /** How its file is opened. @defaultValue neither */
  readonly flags?: readonly ('O_DIRECT' | 'O_DSYNC')[];
  /** Called for every event of this disk. */
  readonly observer?: Observer;
}

/** A disk of the process. */
export interface QemuDisk {
  /** Whether the guest is offered barriers; one that comes all the same is refused. */
  readonly barrierSupport: boolean;
  /**
   * qemu_paio_submit. Rejects a wrong request at once: `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`,
   * and `EOPNOTSUPP` for a request that the queue does not know. Rejects later with `IO_FAILED`, `SHORT_TRANSFER`; with
   * `FLUSH_FAILED` and `BARRIER_ABORTED` if the profile notices them; with `FAILED` when the process dies.
   *
   * @param data what to write; or where to read into. @defaultValue a new buffer for a read
   */
  submit(request: Request, data?: Uint8Array): AioHandle;
  /** qemu_paio_cancel. @throws `INVALID_ARGUMENT` for a handle of another disk */
  cancel(handle: AioHandle): CancelAnswer;
}

/** A request of a disk. */
interface AioClient extends Call {
  readonly storage: Storage;
  readonly tracer: Tracer;
  /** What the first call that failed has thrown. */
  failure?: unknown;
}

interface AioCommand extends Command<AioClient> {
  readonly worker: number;
}

/** The queue of aio.ts, for one disk or for all: its workers take their steps when the driver asks for a command. */
class AioQueue implements Machine<AioClient, AioCommand, number> {
  readonly state: AioState;
  readonly driver: Driver<AioClient, AioCommand, number>;
  /** Its process has died, so its disks report nothing. */
  isDead = false;
  readonly #pick: (of: number) => number;
  readonly #died: (reason: string) => void;
  /** By the number of their block. */
  readonly #clients = new Map<number, AioClient>();
  /** Workers that are in a call of which the driver has not heard. */
  readonly #due: number[] = [];
  readonly #settled: Settled<AioClient>[] = [];

  constructor(state: AioState, pick: (of: number) => number, died: (reason: string) => void) {
    this.state = state;
    this.#pick = pick;
    this.#died = died;
    this.driver = new Driver<AioClient, AioCommand, number>(this, {
      execute: ({ what, clients: [client] }) =>
        what && client && perform(client.storage, what, client.data),
      answer: answerCall,
      name: 'a queue of QEMU',
    });
  }

  /** Answers with the number of the block. */
  submit(request: Request, client: AioClient): number {
    const { kind } = request;
    const type = kind === 'read' || kind === 'write' ? kind : 'none';
    const bytes = 'length' in request ? request.length : 0;
    const block = submitAio(this.state, { type, barrier: isBarrier(request), bytes });
    this.#clients.set(block, client);
    return block;
  }

  cancel(block: number): CancelAnswer {
    if (this.state.aborted !== null) return 'all done';
    const answer = cancelAio(this.state, block);
    if (answer === 'canceled') {
      const error = new DOMException('the request was canceled', 'AbortError');
      this.#settled.push({ client: this.#clientOf(block), error, cancelled: true });
    }
    this.driver.pump();
    return answer;
  }

  next(): AioCommand | undefined {
    const { state } = this;
    for (;;) {
      const due = this.#due.shift();
      if (due !== undefined) {
        const command = this.#commandOf(due);
        if (command) return command;
        continue;
      }
      const workers = runnableWorkers(state);
      if (workers.length === 0) break;
      const picked = this.#pick(workers.length);
      checkArgument('the value that pick() returned', picked, wholeNumber(0, workers.length - 1));
      this.#step(workers[picked] as number);
    }
    if (state.aborted !== null) this.#died(state.aborted);
    return undefined;
  }

  complete({ clients, worker }: AioCommand, error: unknown): void {
    const [client] = clients as [AioClient];
    client.failure ??= error;
    endCall(this.state, worker, error !== undefined);
    this.#due.push(worker);
  }

  takeSettled(): Settled<AioClient> | undefined {
    return this.#settled.shift();
  }

  abandon(error: unknown): void {
    for (const [block, client] of this.#clients) {
      if (!this.state.blocks[block]?.answered) this.#settled.push({ client, error });
    }
    this.#clients.clear();
  }

  #step(worker: number): void {
    const returned = stepAio(this.state, worker);
    if (returned) {
      const client = this.#clientOf(returned.block);
      const { request, failure } = client;
      const error = errorOfCall(request, returned.outcome, failure);
      if (!returned.answered) this.#settled.push({ client, error });
    }
    this.#due.push(worker);
  }

  /** Undefined outside of any call. An fdatasync of what is not volatile is over at once. */
  #commandOf(worker: number): AioCommand | undefined {
    const running = callOf(this.state, worker);
    if (!running) return undefined;
    const client = this.#clients.get(running.block) as AioClient;
    if (running.call.op === 'transfer' || isVolatile(client.storage)) {
      return { what: commandOfCall(client.request, running.call), clients: [client], worker };
    }
    endCall(this.state, worker, false);
    this.#due.unshift(worker);
    return undefined;
  }

  /** It is forgotten with its block. A corrupted list may still hand that to a worker. */
  #clientOf(block: number): AioClient {
    const client = this.#clients.get(block) as AioClient;
    if (!(block in this.state.blocks)) this.#clients.delete(block);
    return client;
  }
}

const OPTIONS = { profile: 1, threadsMax: wholeNumber(1), pick: FUNCTION } as const;
const DISK_OPTIONS = { flags: 1, observer: 1 } as const;

/** The emulator: one process, one lock, and as many disks as it is given. */
export class QemuProcess {
  readonly #profile: AioProfile;
  readonly #threadsMax: number;
  readonly #pick: (of: number) => number;
  readonly #queues: AioQueue[] = [];

  /** @throws `INVALID_ARGUMENT` for a pool without workers */
  constructor(options: QemuOptions = {}) {
    checkOptions(options, OPTIONS, 'QemuProcess');
    const { profile = QEMU_2009, threadsMax = 64, pick = () => 0 } = options;
    checkOptions(profile, QEMU_2009, 'profile');
    this.#profile = profile;
    this.#threadsMax = threadsMax;
    this.#pick = pick;
    if (profile.oneQueueForAllDisks) this.#newQueue();
  }

  /** The state of each queue, live: one for all disks, or one for each. For looking, not for writing. */
  get queues(): readonly AioState[] {
    return this.#queues.map(({ state }) => state);
  }

  /**
   * raw_open: a disk over a storage. The process never closes it.
   *
   * @throws `INVALID_ARGUMENT` for an option that is not known
   */
  open(storage: Storage, options: QemuDiskOptions = {}): QemuDisk {
    checkOptions(options, DISK_OPTIONS, 'open');
    const { flags = [], observer } = options;
    for (const flag of flags) checkArgument('a flag', flag, oneOf(['O_DIRECT', 'O_DSYNC']));
    const { oneQueueForAllDisks, noBarriersOnDirect } = this.#profile;
    const queue = oneQueueForAllDisks ? (this.#queues[0] as AioQueue) : this.#newQueue();
    const heard: Observer = (event) => (queue.isDead ? undefined : observer?.(event));
    const tracer = new Tracer(observer && heard, 'a disk of QEMU', storage.capabilities.blockSize);
    const barrierSupport = canSync(storage) && !(noBarriersOnDirect && flags.length > 0);
    /** Undefined for a request that was refused. */
    const blocks = new WeakMap<AioHandle, number | undefined>();
    return Object.freeze({
      barrierSupport,
      submit: (request: Request, data?: Uint8Array): AioHandle => {
        let call: AioClient | undefined;
        const result = new Promise<Uint8Array | void>((resolve, reject) => {
          const { aborted } = queue.state;
          if (aborted !== null) throw dead(aborted);
          const supports = (asked: Request): boolean => this.#knows(asked, barrierSupport);
          const buffer = checkRequest(storage, request, data, supports);
          call = { number: 0, request, data: buffer, tracer, storage, resolve, reject };
        });
        result.catch(() => {});
        const handle = Object.freeze({ result });
        blocks.set(handle, call && queue.driver.submit(call));
        return handle;
      },
      cancel: (handle: AioHandle): CancelAnswer => {
        if (!blocks.has(handle))
          throw misuse('the handle is of another disk: it must come from submit() of this one');
        const block = blocks.get(handle);
        return block === undefined ? 'all done' : queue.cancel(block);
      },
    });
  }

  #newQueue(): AioQueue {
    const state = aioState(this.#profile, this.#threadsMax);
    state.aborted = this.queues[0]?.aborted ?? null;
    const queue = new AioQueue(state, this.#pick, (reason) => this.#die(reason));
    this.#queues.push(queue);
    return queue;
  }

  #knows(request: Request, barrierSupport: boolean): boolean {
    if (isBarrier(request) && !barrierSupport) return false;
    if (request.kind === 'barrier') return !this.#profile.refusesEmptyBarriers;
    return isFileRequest(request);
  }

  #die(reason: string): void {
    for (const queue of this.#queues) {
      const { state, driver } = queue;
      if (driver.abandoned !== undefined) continue;
      state.aborted = reason;
      queue.isDead = true;
      driver.abandon(dead(reason));
    }
  }
}

function dead(reason: string): WriteBarrierError {
  return new SchedulerFailedError(undefined, `the process has died: ${reason}`);
}
