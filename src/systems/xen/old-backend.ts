// A block backend of an era, over a storage. It does what the Linux of those years did with the requests of a guest,
// defects included; the era lists the defects as data.
//
// By hard barrier (until 2.6.36): every bio of a WRITE_BARRIER is a hard barrier for the queue below, which is a scheduler
// here. The order is kept. A request of several bios becomes several barriers, each with flushes of its own.
//
// By preflush (since 3.2): the thread of a ring takes its requests one by one. At a WRITE_BARRIER it stops until nothing
// is outstanding, sends the flush and then the payload, and goes on at once:
//
//      w0 b1 w2    ──▶    w0 => F -> w1       (=> waits, -> the flush of this bio comes first)
//                               w2            w2 may pass both: half a barrier
//
//   - later requests may reach the disk, and the medium, before the barrier;
//   - the payload has no FUA, so it may still be in the cache when the barrier is answered;
//   - with several rings the thread looks at its own only, so a barrier may overtake requests of another ring.
//
// The flush below is that of Linux since 2.6.37: it covers what had completed, and does not wait for the rest.
//
// blktap's user-space process, as patched in 2010, does the same completely: it waits for all earlier requests, syncs,
// writes, syncs again, and only then goes on.
//
// The queue below takes the bios of one request at once, and the request is answered with the status of the whole:
//
//   until 2.6.36   a bio can be a hard barrier, and the queue orders it and flushes around it. That queue is a scheduler
//                  here, in the mode that the kernel's table gives the disk.
//   since 2.6.37   a bio can ask for a flush before its data, which covers what had completed. It orders nothing.
//
// An observer sees what reaches the storage in terms of the requests of the ring: a command belongs to the request whose
// bio it carries out.
//
// Not here: merging and plugging; overlapping requests in flight, which the disk may carry out in any order.

import {
  chooseMode,
  IoScheduler,
  isBarrier,
  type Observer,
  type Request,
  type StagedCommand,
  type Storage,
  type WriteBarrierError,
} from 'write-barrier';
import {
  answerCall,
  type Call,
  type Command,
  checkArgument,
  checkOptions,
  concatBuffers,
  Driver,
  FUNCTION,
  invariant,
  type Machine,
  perform,
  type Settled,
  Tracer,
  totalLength,
  wholeNumber,
} from 'write-barrier/kit';
import { submitTo } from '../requests.js';
import { answerTo, carryOut, type Work } from './backend.js';
import { type BlkFeatures, type XenNodes, xenNodes } from './features.js';
import {
  BLKIF_OP,
  BLKIF_STATUS,
  type BlkifRequest,
  type BlkifResponse,
  errorOfStatus,
  StatusError,
  statusOfError,
  worstBlkifStatus,
} from './wire.js';

// The eras

/** What a backend made of a WRITE_BARRIER. */
export type BlkbackBarrier =
  | {
      /** Each bio of it is a hard barrier for the queue below, which orders it and flushes around it. */
      readonly by: 'hard-barrier';
    }
  | {
      /** The backend waits itself, and sends the payload after a flush. */
      readonly by: 'preflush';
      /** Which requests must be over before: all of this disk, or only those of the same ring. */
      readonly waitsFor: 'device' | 'ring';
      /** What comes later over the ring waits until the barrier is over. */
      readonly holdsLater: boolean;
      /** What is done to get the payload itself to the medium before the barrier is answered. */
      readonly payload: 'nothing' | 'fua' | 'flush';
    };

/** A backend of some years. */
export interface BlkbackEra {
  /** That of the table. */
  readonly name: string;
  /** Where it can be read. */
  readonly witness: string;
  /** What it makes of a WRITE_BARRIER with data. */
  readonly barrier: BlkbackBarrier;
  /** What becomes of a WRITE_BARRIER without segments. */
  readonly emptyBarrier: 'error' | 'taken';
  /** It knows FLUSH_DISKCACHE: a flush, followed by its payload. */
  readonly flush: boolean;
  /** It knows DISCARD. */
  readonly discard: boolean;
  /** Segments in an INDIRECT request; 0 where it knows none. */
  readonly indirectSegments: number;
  /**
   * What is answered when several bios of one request fail. `last`: each failure writes over the status, so the one that
   * happens to come last is answered. `worst`: an ERROR wins.
   */
  readonly status: 'last' | 'worst';
}

/** The name of an era. */
export type BlkbackEraName =
  | 'xenlinux-2006'
  | 'xenlinux-2.6.18'
  | 'blktap-2010'
  | 'linux-3.2'
  | 'linux-4.x-multi-ring';

const WAITS = {
  by: 'preflush',
  waitsFor: 'device',
  holdsLater: false,
  payload: 'nothing',
} as const;
const LINUX_3_2: BlkbackEra = Object.freeze<BlkbackEra>({
  name: 'linux-3.2',
  witness:
    'Linux 3.2, drivers/block/xen-blkback/blkback.c: xen_blk_drain_io(), dispatch_rw_block_io()',
  barrier: WAITS,
  emptyBarrier: 'taken',
  flush: true,
  discard: true,
  indirectSegments: 0,
  status: 'last',
});
const XENLINUX_2_6_18: BlkbackEra = Object.freeze<BlkbackEra>({
  name: 'xenlinux-2.6.18',
  witness: 'linux-2.6.18.8-xen, drivers/xen/blkback/blkback.c',
  barrier: { by: 'hard-barrier' },
  emptyBarrier: 'taken',
  flush: false,
  discard: false,
  indirectSegments: 0,
  status: 'last',
});

/** The backends of Linux, oldest first. What is not known of one is as in its neighbour. */
export const BLKBACK_ERAS: Readonly<Record<BlkbackEraName, BlkbackEra>> = Object.freeze({
  'xenlinux-2006': {
    ...XENLINUX_2_6_18,
    name: 'xenlinux-2006',
    witness: 'Xen changeset a1daf484 (2006); the Solaris mail to xen-devel reports the refusal',
    emptyBarrier: 'error',
  },
  'xenlinux-2.6.18': XENLINUX_2_6_18,
  'blktap-2010': {
    ...XENLINUX_2_6_18,
    name: 'blktap-2010',
    witness: '"blktap: handle barrier I/O request" to xen-devel (November 2010), tools/blktap',
    barrier: { by: 'preflush', waitsFor: 'device', holdsLater: true, payload: 'flush' },
    emptyBarrier: 'error',
    status: 'worst',
  },
  'linux-3.2': LINUX_3_2,
  'linux-4.x-multi-ring': {
    ...LINUX_3_2,
    name: 'linux-4.x-multi-ring',
    witness: 'Linux 4.x, drivers/block/xen-blkback/blkback.c: the drain counts ring->inflight',
    barrier: { ...WAITS, waitsFor: 'ring' },
    indirectSegments: 256,
  },
});

// The backend

/** How an old backend is to behave. */
export interface OldBlkbackOptions {
  /** As for `blkback`. */
  page(gref: number): Uint8Array | undefined;
  /** Pages in one bio, as the disk below takes them, 1 or more. @defaultValue 11, so that no direct request is split */
  readonly bioPages?: number;
  /** Called for every event: requests are those of the ring, commands those at the storage. */
  readonly observer?: Observer;
}

const OPTIONS = { page: 1, bioPages: wholeNumber(1), observer: 1 } as const;

/** A backend of some year. */
export interface OldBlkback {
  /** What it writes into xenstore now: a feature that the disk refuses is rewritten to 0. */
  readonly nodes: XenNodes;
  /** Answers a request of the ring with that number. Never rejects. @defaultValue ring 0 */
  serve(request: BlkifRequest, ring?: number): Promise<BlkifResponse>;
}

/**
 * A backend of that era over a storage.
 *
 * @throws `INVALID_ARGUMENT` for a bio without pages
 */
export function oldBlkback(
  era: BlkbackEra,
  storage: Storage,
  options: OldBlkbackOptions,
): OldBlkback {
  checkOptions(options, OPTIONS, 'oldBlkback');
  const { page, bioPages = 11, observer } = options;
  checkArgument('page', page, FUNCTION);
  const { capabilities, size } = storage;
  const { blockSize } = capabilities;
  const queue =
    era.barrier.by === 'hard-barrier'
      ? hardBarriers(era, storage, observer)
      : preflushes(era, era.barrier, storage, observer);
  let features: BlkFeatures = {
    barrier: true,
    flush: era.flush,
    discard: era.discard && capabilities.discard === true,
    indirectSegments: era.indirectSegments,
  };
  return {
    get nodes() {
      return xenNodes({ size, capabilities }, features);
    },
    serve: async (request, ring = 0) => {
      // A node that says 0 stops no request: the disk is asked again.
      const asked = { ...features, barrier: true, flush: era.flush };
      const grounds = { features: asked, size, blockSize, page };
      const response = await answerTo(request, grounds, (work) => {
        const unknown = work.request.kind === 'barrier' && era.emptyBarrier === 'error';
        if (unknown) throw new StatusError(BLKIF_STATUS.ERROR, 'no segments');
        return queue(work.request, biosOf(work, bioPages), ring);
      });
      // What Linux does to the node when the disk refuses.
      const { operation, status } = response;
      if (status === BLKIF_STATUS.EOPNOTSUPP) {
        if (operation === BLKIF_OP.WRITE_BARRIER) features = { ...features, barrier: false };
        if (operation === BLKIF_OP.FLUSH_DISKCACHE) features = { ...features, flush: false };
      }
      return response;
    },
  };
}

/** The queue below: carries out a request of a ring, of so many bios. Rejects if one of them fails. */
type Queue = (request: Request, bios: readonly Work[], ring: number) => Promise<unknown>;

/** Bios are as large as the disk takes them. */
function biosOf(work: Work, bioPages: number): readonly Work[] {
  const { request, pieces } = work;
  if (request.kind !== 'read' && request.kind !== 'write') return [work];
  const bios: Work[] = [];
  let { offset } = request;
  for (let at = 0; at < pieces.length; at += bioPages) {
    const own = pieces.slice(at, at + bioPages);
    const length = totalLength(own);
    bios.push({ request: { ...request, offset, length }, pieces: own });
    offset += length;
  }
  return bios;
}

/** The error of a request whose bios have failed so; undefined if none has. */
function errorOfBios(
  { status }: BlkbackEra,
  { kind }: Request,
  failures: readonly number[],
): WriteBarrierError | undefined {
  const whole = status === 'last' ? failures.at(-1) : worstBlkifStatus(failures);
  return whole ? errorOfStatus(whole, `a ${kind}`) : undefined;
}

// Until 2.6.36

/** A request of the ring as its trace shows it. */
interface Reported {
  readonly number: number;
  readonly request: Request;
  left: number;
  readonly failures: number[];
}

/**
 * Each bio is a request of the queue; what that does is reported in terms of the ring's requests. The queue reports itself and
 * not a driver around it, because it settles a request before it issues the next command.
 */
function hardBarriers(era: BlkbackEra, storage: Storage, observer: Observer | undefined): Queue {
  const tracer = new Tracer(observer, 'an old backend', storage.capabilities.blockSize);
  /** The ring's request of each bio, by the number of the bio in the queue. */
  const owners: Reported[] = [];
  const settle = (owner: Reported, outcome: string): void => {
    const { number, request, failures } = owner;
    if (outcome !== 'done')
      failures.push(outcome === 'EOPNOTSUPP' ? BLKIF_STATUS.EOPNOTSUPP : BLKIF_STATUS.ERROR);
    owner.left -= 1;
    if (owner.left > 0) return;
    tracer.settle(number, errorOfBios(era, request, failures)?.code ?? 'done');
  };
  const queue = new IoScheduler(storage, {
    mode: chooseMode(storage.capabilities),
    errorPolicy: 'kernel',
    readsPassBarriers: false,
    allowUnsafe: true,
    observer: (event) => {
      if (event.kind === 'settle') settle(owners[event.request] as Reported, event.outcome);
      if (event.kind === 'complete') observer?.(event);
      if (event.kind !== 'dispatch') return;
      const requests = new Set(event.requests.map((bio) => (owners[bio] as Reported).number));
      observer?.({ ...event, requests: [...requests] });
    },
  });
  return async (request, bios) => {
    const owner = { number: tracer.submit(request), request, left: bios.length, failures: [] };
    const failures: number[] = [];
    const ends = bios.map((bio) => {
      owners.push(owner);
      return carryOut(queue, bio).catch((error) => failures.push(statusOfError(error)));
    });
    await Promise.all(ends);
    const error = errorOfBios(era, request, failures);
    if (error) throw error;
  };
}

// Since 2.6.37

/** A request of a ring. */
interface RingCall extends Call {
  readonly ring: number;
  readonly barrier: boolean;
  readonly bios: readonly Work[];
  /** Bios that are not over. */
  left: number;
  /** In the order in which they came. */
  readonly failures: number[];
}

/** A step of a bio. */
interface BioCommand extends Command<RingCall> {
  readonly what: StagedCommand;
  readonly call: RingCall;
  readonly bio: Work;
  /** What comes after it. */
  readonly later: readonly StagedCommand[];
}

/** Each bio goes to the disk by itself: a flush if it asks for one, then its data. */
function preflushes(
  era: BlkbackEra,
  barrier: BlkbackBarrier & { readonly by: 'preflush' },
  storage: Storage,
  observer: Observer | undefined,
): Queue {
  const machine = new OldBackend(era, stepsBy(barrier, storage.capabilities));
  const driver = new Driver<RingCall, BioCommand>(machine, {
    execute: ({ what, bio: { pieces } }) =>
      // A copy of what is written, because the guest may change its pages meanwhile.
      perform(storage, what, what.op === 'write' ? concatBuffers(pieces) : pieces),
    answer: answerCall,
    observer,
    name: 'an old backend',
    blockSize: storage.capabilities.blockSize,
  });
  return (request, bios, ring) => {
    const state = { left: bios.length, failures: [] };
    const call = { request, data: undefined, ring, barrier: isBarrier(request), bios, ...state };
    return submitTo(driver, call);
  };
}

/** The threads of the rings, and the bios of what they have sent on. */
class OldBackend implements Machine<RingCall, BioCommand> {
  readonly #era: BlkbackEra;
  readonly #stepsOf: (bio: Work) => readonly StagedCommand[];
  readonly #threads: RingThreads<RingCall>;
  readonly #ready: BioCommand[] = [];
  readonly #settled: Settled<RingCall>[] = [];

  constructor(era: BlkbackEra, stepsOf: (bio: Work) => readonly StagedCommand[]) {
    this.#era = era;
    this.#stepsOf = stepsOf;
    this.#threads = new RingThreads(era);
  }

  submit(_request: Request, call: RingCall): void {
    this.#threads.submit(call);
  }

  next(): BioCommand | undefined {
    while (this.#ready.length === 0) {
      const call = this.#threads.next();
      if (!call) return undefined;
      for (const bio of call.bios) this.#goOn(call, bio, this.#stepsOf(bio));
    }
    return this.#ready.shift();
  }

  complete({ call, bio, later }: BioCommand, error: unknown): void {
    if (error !== undefined) call.failures.push(statusOfError(error));
    this.#goOn(call, bio, error === undefined ? later : []);
  }

  takeSettled(): Settled<RingCall> | undefined {
    return this.#settled.shift();
  }

  #goOn(call: RingCall, bio: Work, [what, ...later]: readonly StagedCommand[]): void {
    if (what) {
      this.#ready.push({ what, clients: [call], call, bio, later });
      return;
    }
    invariant(call.left > 0, 'old-backend: a bio ends once');
    call.left -= 1;
    if (call.left > 0) return;
    this.#threads.complete(call);
    this.#settled.push({
      client: call,
      error: errorOfBios(this.#era, call.request, call.failures),
    });
  }
}

/** Which requests the threads of the rings may send on: the waiting of an era's barrier, and nothing else. */
export class RingThreads<J extends { readonly ring: number; readonly barrier: boolean }> {
  readonly #era: BlkbackEra;
  readonly #waiting: J[] = [];
  readonly #outstanding = new Set<J>();

  constructor(era: BlkbackEra) {
    this.#era = era;
  }

  /** A request has come over its ring. */
  submit(job: J): void {
    this.#waiting.push(job);
  }

  /** It is over. */
  complete(job: J): void {
    this.#outstanding.delete(job);
  }

  /** The next to send on; undefined while every thread waits, or has nothing to do. */
  next(): J | undefined {
    const stopped = new Set<number>();
    for (const [at, job] of this.#waiting.entries()) {
      if (stopped.has(job.ring)) continue;
      if (!this.#mustWait(job)) {
        this.#waiting.splice(at, 1);
        this.#outstanding.add(job);
        return job;
      }
      stopped.add(job.ring);
    }
    return undefined;
  }

  #mustWait({ ring, barrier }: J): boolean {
    const ways = this.#era.barrier;
    if (ways.by === 'hard-barrier') return false;
    for (const other of this.#outstanding) {
      const counts = ways.waitsFor === 'device' || other.ring === ring;
      if (counts && (barrier || (other.barrier && ways.holdsLater))) return true;
    }
    return false;
  }
}

/** What a bio is to the disk. */
function stepsBy(
  { payload }: BlkbackBarrier & { readonly by: 'preflush' },
  { cache, flush, fua }: Storage['capabilities'],
): (bio: Work) => readonly StagedCommand[] {
  const flushes = cache === 'volatile' && flush;
  const forced = payload === 'fua' && cache === 'volatile' && fua;
  const flushed = payload !== 'nothing' && !forced && flushes;
  return ({ request }) => {
    const barrier = isBarrier(request);
    const isFlush = request.kind === 'flush';
    const preflush = isFlush || (request.kind === 'write' && request.preflush === true);
    const steps: StagedCommand[] = [];
    if ((barrier || preflush) && flushes) {
      steps.push({ ...FLUSH, stage: isFlush ? 'plain' : 'preflush' });
    }
    if (!('length' in request)) return steps;
    const { kind, offset, length } = request;
    const where = { op: kind, offset, length, fua: barrier && forced };
    steps.push({ ...FLUSH, ...where, stage: barrier ? 'bar' : 'plain' });
    if (barrier && flushed) steps.push({ ...FLUSH, stage: 'postflush' });
    return steps;
  };
}

const FLUSH = {
  kind: 'command',
  op: 'flush',
  offset: 0,
  length: 0,
  tag: 'simple',
  fua: false,
} as const;
