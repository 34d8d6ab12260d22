// The two request queues over a storage: the machines of this folder with a driver below.
//
//   LinuxBarrierQueue   the block layer of 2.6.20 to 2.6.36: hard barriers, blk_queue_ordered, blkdev_issue_flush
//   LinuxFlushQueue     that of 2.6.37 and later: PREFLUSH and FUA; it keeps no order
//
// They are models, made to be watched and crashed. For your data take `IoScheduler`, which keeps the promise of every
// mode and has none of their defects.
//
// A request that the kernel of the era had no way to ask for is refused. A request beyond `requestsMax` is refused too; the
// kernel would have put the submitter to sleep. The queue never asks the storage for something that the storage has not
// declared: without it, a flush or a forced write fails with EOPNOTSUPP, and an ordered tag is sent as a simple one, as by a
// driver whose disk has no tags, because no kernel checked whether the disk had them.
//
// Two overlapping requests reach the storage together if the machine lets them. The kernel left that to the submitter, so
// a submitter here must wait as well; a storage need not cope with it.
//
// The rules are in the machines (ordered-queue.ts, flush-machine.ts).
//
// Source: blkdev_issue_flush() of 2.6.20, 2.6.24, 2.6.32 and 2.6.36; sd_issue_flush() and scsi_execute() of the SCSI
// disk, idedisk_issue_flush() of the IDE disk.

import {
  type DeviceTraits,
  IoFailedError,
  isBarrier,
  type ModeName,
  type Observer,
  type Request,
  type StagedCommand,
  type Storage,
  WriteBarrierError,
} from 'write-barrier';
import {
  answerCall,
  type Call,
  checkOptions,
  Driver,
  executeOn,
  FUNCTION,
  type Machine,
  messageOf,
  oneOf,
  unsupported,
  wholeNumber,
} from 'write-barrier/kit';
import { type BlockCommand, checkRequest, notSupported, submitTo } from '../requests.js';
import type { Bio } from './elevator.js';
import {
  acceptOrdered,
  BARRIER_ERAS,
  type BarrierEra,
  type BarrierEraName,
  type DiskTraits,
  diskModeBy,
  eraOf,
  FLUSH_ERAS,
  type FlushEra,
  type FlushEraName,
  IDE_DISK_RULES,
  SCSI_DISK_RULES,
} from './eras.js';
import { FlushMachine } from './flush-machine.js';
import { OrderedQueue } from './ordered-queue.js';

/** What both queues are made with. */
export interface LinuxQueueOptions {
  /** Commands at the storage at once. @defaultValue 32 */
  readonly depth?: number;
  /** Requests without an answer (`BLKDEV_MAX_RQ`). One more is refused, `QUEUE_FULL`. @defaultValue 128 */
  readonly requestsMax?: number;
  /** Called for every event; what it saw is a trace for `checkTrace`. */
  readonly observer?: Observer | undefined;
}

/** What a queue with barriers is made with. */
export interface LinuxBarrierQueueOptions extends LinuxQueueOptions {
  /** The kernel: one of `BARRIER_ERAS`, or one of your own. */
  readonly era: BarrierEraName | BarrierEra;
  /** The driver of which disk: it decides the mode, and where its own flush goes in the queue. @defaultValue `'scsi'` */
  readonly disk?: 'scsi' | 'ide';
  /** The mode, where the driver's choice is not wanted: by name, or by number in the era's layout. */
  readonly mode?: ModeName | number;
  /** In bytes: requests merge up to this size; 0 merges nothing. @defaultValue 512 KiB */
  readonly mergeBytesMax?: number;
}

/** What a driver of these kernels chose, and where its flush hook puts the command. */
const DISKS = {
  // scsi_execute() must be at the head, or a quiesced device would never run it.
  scsi: { rules: SCSI_DISK_RULES, flushAt: 'front' },
  // idedisk_issue_flush() goes to the end of the line.
  ide: { rules: IDE_DISK_RULES, flushAt: 'back' },
} as const;

const QUEUE = { depth: wholeNumber(1), requestsMax: wholeNumber(1), observer: 1 } as const;
const BARRIER_QUEUE = {
  ...QUEUE,
  era: 1,
  disk: oneOf(Object.keys(DISKS)),
  mode: 1,
  mergeBytesMax: wholeNumber(0),
} as const;
const FLUSH_QUEUE = { ...QUEUE, era: 1, nowMs: FUNCTION } as const;

/** The part that the two have in common: limits, and the driver of a disk. */
class DiskDriver {
  readonly #driver: Driver<Call, BlockCommand<Call>>;
  readonly #storage: Storage;
  readonly #requestsMax: number;

  constructor(
    machine: Machine<Call, BlockCommand<Call>>,
    storage: Storage,
    { depth = 32, requestsMax = 128, observer }: LinuxQueueOptions,
  ) {
    const limited: Machine<Call, BlockCommand<Call>> = {
      submit: (request, call) => machine.submit(request, call),
      next: () => (this.#driver.inFlight < depth ? machine.next() : undefined),
      complete: (command, error) =>
        machine.complete(command, error === undefined ? undefined : asError(error)),
      takeSettled: () => machine.takeSettled(),
    };
    const carryOut = executeOn(storage);
    const execute = (command: BlockCommand<Call>): unknown => {
      checkDeclared(storage, command.what);
      return carryOut(command);
    };
    this.#driver = new Driver(limited, {
      execute,
      answer: answerCall,
      observer,
      name: 'a Linux queue',
      blockSize: storage.capabilities.blockSize,
    });
    this.#storage = storage;
    this.#requestsMax = requestsMax;
  }

  /** Settles with the bytes of a read, otherwise with nothing. */
  async submit(
    request: Request,
    given: Uint8Array | undefined,
    supports: (request: Request) => boolean,
  ): Promise<Uint8Array | void> {
    const data = checkRequest(this.#storage, request, given, supports);
    const { submitted, settled } = this.#driver;
    if (submitted - settled >= this.#requestsMax) {
      const text = `the queue is full: ${this.#requestsMax} requests have no answer yet (requestsMax)`;
      throw new WriteBarrierError('QUEUE_FULL', text);
    }
    return submitTo(this.#driver, { request, data });
  }

  proceed(): void {
    this.#driver.pump();
  }

  idle(): Promise<void> {
    return this.#driver.idle();
  }
}

/** @throws `EOPNOTSUPP` for what the storage has not declared */
function checkDeclared({ capabilities }: Storage, { op, fua }: StagedCommand): void {
  if (fua && !capabilities.fua) throw unsupported('a forced write');
  const optional = op === 'flush' || op === 'discard' || op === 'writeZeroes';
  if (optional && capabilities[op] !== true) throw unsupported(`a ${op}`);
}

/** -EOPNOTSUPP goes up as it is; everything else is -EIO. */
function asError(cause: unknown): WriteBarrierError {
  const passes =
    WriteBarrierError.is(cause) && ['EOPNOTSUPP', 'SHORT_TRANSFER'].includes(cause.code);
  if (passes) return cause;
  return new IoFailedError(`the storage failed: ${messageOf(cause)}`, { cause });
}

/** A kernel's request queue with hard barriers over a storage. */
export class LinuxBarrierQueue {
  readonly #era: BarrierEra;
  readonly #storage: Storage;
  readonly #queue: OrderedQueue<Call>;
  readonly #driver: DiskDriver;

  /**
   * @throws `EINVAL` for an unknown era or mode, or for a mode that the era does not take from this storage
   * @throws `INVALID_ARGUMENT` for an option that is not known, or out of range
   */
  constructor(storage: Storage, options: LinuxBarrierQueueOptions) {
    checkOptions(options, BARRIER_QUEUE, 'LinuxBarrierQueue');
    const era = eraOf(options.era, BARRIER_ERAS);
    const disk = DISKS[options.disk ?? 'scsi'];
    const { capabilities } = storage;
    const value = options.mode ?? diskModeBy(disk.rules, traitsOf(capabilities));
    const mode = acceptOrdered(era, value, capabilities.flush);
    const { mergeBytesMax } = options;
    const limits = mergeBytesMax === undefined ? {} : { mergeBytesMax };
    this.#era = era;
    this.#storage = storage;
    const queue = new OrderedQueue<Call>({ era, mode, ...limits });
    this.#queue = queue;
    const machine: Machine<Call, BlockCommand<Call>> = {
      submit: (request, call) => {
        const bio = bioOf(request);
        if (bio) queue.submit(bio, call);
        else queue.packet('flush', call, disk.flushAt);
      },
      next: () => queue.next(),
      complete: (command, error) => queue.complete(command, error),
      takeSettled: () => queue.takeSettled(),
    };
    this.#driver = new DiskDriver(machine, storage, options);
  }

  /** The mode that the next barrier goes by. */
  get mode(): ModeName {
    return this.#queue.mode;
  }

  /**
   * `blk_queue_ordered`: changes the mode, also the rule of a sequence that runs.
   *
   * @param value a name, or a number in the era's layout
   * @throws `EINVAL` for what the era does not accept; the mode is then what it was
   */
  setMode(value: ModeName | number): void {
    this.#queue.setMode(acceptOrdered(this.#era, value, this.#storage.capabilities.flush));
    this.#driver.proceed();
  }

  /**
   * Submits a request, and settles when the kernel would have answered it: with the bytes of a read, otherwise with
   * nothing. A `flush` is `issueFlush()`.
   *
   * @param data what to write, of the request's length, left alone until then; or where to read into
   * @throws `EOPNOTSUPP` for a barrier in NONE, for the flags PREFLUSH and FUA, for zeroes, and for discards where the
   *   era or the storage has none; nothing was written
   * @throws `IO_FAILED` with the storage's error as `cause`; for a barrier the first error of its sequence
   * @throws `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`, `QUEUE_FULL`, with nothing queued
   */
  async submit(request: Request, data?: Uint8Array): Promise<Uint8Array | void> {
    if (request?.kind === 'flush') return this.issueFlush();
    const bio = request && bioOf(request);
    if (bio) this.#queue.check(bio);
    return this.#driver.submit(request, data, (asked) => {
      return bioOf(asked) !== undefined && (asked.kind !== 'discard' || this.#discards);
    });
  }

  /**
   * `blkdev_issue_flush`, as the era does it. If the mode has no flush, an empty barrier flushes nothing: it only
   * waits for the requests in flight, or, in some eras, does not even wait.
   *
   * @throws `EOPNOTSUPP` where it is not supported; `IO_FAILED` where it failed, or where the era cannot tell
   */
  async issueFlush(): Promise<void> {
    if (this.#era.issueFlush === 'hook') return this.#flushByHook();
    try {
      await this.submit({ kind: 'barrier' });
    } catch (error) {
      const vague = !this.#era.tellsUnsupported && WriteBarrierError.is(error);
      if (!vague || error.code !== 'EOPNOTSUPP') throw error;
      throw new IoFailedError('the flush failed', { cause: error });
    }
  }

  /** Settles when every request has been answered and nothing is at the storage. */
  idle(): Promise<void> {
    return this.#driver.idle();
  }

  get #discards(): boolean {
    return this.#storage.capabilities.discard === true;
  }

  /** The driver's own flush, which no rule of order applies to. */
  async #flushByHook(): Promise<void> {
    const { cache, flush } = this.#storage.capabilities;
    if (cache !== 'volatile') return;
    if (!flush) throw notSupported('flush');
    await this.#driver.submit({ kind: 'flush' }, undefined, () => true);
  }
}

/** What a queue without barriers is made with. */
export interface LinuxFlushQueueOptions extends LinuxQueueOptions {
  /** The kernel: one of `FLUSH_ERAS`, or one of your own. */
  readonly era: FlushEraName | FlushEra;
  /** The time in milliseconds, which never goes back. @defaultValue `Date.now` */
  readonly nowMs?: () => number;
}

/** A kernel's flush machine over a storage. */
export class LinuxFlushQueue {
  readonly #storage: Storage;
  readonly #driver: DiskDriver;

  /** @throws `EINVAL` for an unknown era; `INVALID_ARGUMENT` for an option that is not known, or out of range */
  constructor(storage: Storage, options: LinuxFlushQueueOptions) {
    checkOptions(options, FLUSH_QUEUE, 'LinuxFlushQueue');
    const era = eraOf(options.era, FLUSH_ERAS);
    this.#storage = storage;
    const { nowMs = Date.now } = options;
    const machine = new FlushMachine<Call>({ era, device: storage.capabilities, nowMs });
    this.#driver = new DiskDriver(machine, storage, options);
  }

  /**
   * Submits a request, and settles when the kernel would have answered it: with the bytes of a read, otherwise with
   * nothing. Flags never fail: a storage without a flush is taken to have no cache, **even where it says that it has
   * one**, and a flush then succeeds and does nothing.
   *
   * @param data what to write, of the request's length, left alone until then; or where to read into
   * @throws `EOPNOTSUPP` for a barrier, and for discards and zeroes that the storage has not; nothing was written
   * @throws `IO_FAILED` with the storage's error as `cause`
   * @throws `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`, `QUEUE_FULL`, with nothing queued
   */
  async submit(request: Request, data?: Uint8Array): Promise<Uint8Array | void> {
    const { capabilities } = this.#storage;
    return this.#driver.submit(request, data, (asked) => {
      const { kind } = asked;
      const optional = kind === 'discard' || kind === 'writeZeroes';
      return !isBarrier(asked) && (!optional || capabilities[kind] === true);
    });
  }

  /** Settles when every request has been answered and nothing is at the storage. */
  idle(): Promise<void> {
    return this.#driver.idle();
  }
}

function traitsOf({ cache, flush, fua }: DeviceTraits): DiskTraits {
  return { writeCache: cache === 'volatile', flush, fua };
}

/** Undefined for what these kernels could not be asked. */
function bioOf(request: Request): Bio | undefined {
  const { kind } = request;
  if (kind === 'barrier') return { op: 'write', offset: 0, length: 0, barrier: true };
  if (kind !== 'read' && kind !== 'write' && kind !== 'discard') return undefined;
  if (kind === 'write' && (request.preflush || request.fua)) return undefined;
  const { offset, length } = request;
  return { op: kind, offset, length, barrier: kind === 'write' && request.barrier === true };
}
