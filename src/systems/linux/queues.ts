// The two queues as somebody holds them who has a storage: the machines of this folder with a driver below.
//
//   LinuxBarrierQueue   the block layer of 2.6.20 to 2.6.36: hard barriers, blk_queue_ordered, blkdev_issue_flush
//   LinuxFlushQueue     that of 2.6.37 and later: PREFLUSH and FUA, and nobody keeps an order
//
// They are models, made to be watched and crashed. For your data take `IoScheduler`, which keeps the promise of every
// mode and has none of their defects.
//
// Here requests become what the kernel of the era could be asked, and what it could not be asked is refused. The
// rules are in the machines (ordered-queue.ts, flush-machine.ts), promises and limits in the driver (driver.ts).
//
// Source: blkdev_issue_flush() of 2.6.20, 2.6.24, 2.6.32 and 2.6.36; sd_issue_flush() and scsi_execute() of the SCSI
// disk, idedisk_issue_flush() of the IDE disk.

import {
  type DeviceTraits,
  isBarrier,
  type ModeName,
  type Request,
  type Storage,
  WriteBarrierError,
} from 'write-barrier';
import { acceptOrdered, type DiskTraits, ideDiskMode, scsiDiskMode } from './disk-modes.js';
import { type Call, Driver, type LinuxQueueOptions } from './driver.js';
import type { Bio } from './elevator.js';
import {
  BARRIER_ERAS,
  type BarrierEra,
  type BarrierEraName,
  eraOf,
  FLUSH_ERAS,
  type FlushEra,
  type FlushEraName,
} from './eras.js';
import { FlushMachine } from './flush-machine.js';
import { unsupported } from './machine.js';
import { OrderedQueue } from './ordered-queue.js';

/** What a queue with barriers is made with. */
export interface LinuxBarrierQueueOptions extends LinuxQueueOptions {
  /** The kernel: one of `BARRIER_ERAS`, or one of your own. */
  readonly era: BarrierEraName | BarrierEra;
  /** Whose driver it is: that decides the mode, and where its own flush stands in the queue. `scsi` unless given. */
  readonly disk?: 'scsi' | 'ide';
  /** The mode, where the driver's choice is not wanted: by name, or by number in the era's layout. */
  readonly mode?: ModeName | number;
  /** In bytes: requests merge up to this size; 0 merges nothing. 512 KiB unless given. */
  readonly mergeBytesMax?: number;
}

/** What a driver of these kernels chose, and where its flush hook puts the command. */
const DISKS = {
  // scsi_execute() must be at the head, or a quiesced device would never run it.
  scsi: { modeOf: scsiDiskMode, flushAt: 'front' },
  // idedisk_issue_flush() goes to the end of the line.
  ide: { modeOf: ideDiskMode, flushAt: 'back' },
} as const;

/** A kernel's request queue with hard barriers over a storage. */
export class LinuxBarrierQueue {
  readonly #era: BarrierEra;
  readonly #storage: Storage;
  readonly #flushAt: 'front' | 'back';
  readonly #queue: OrderedQueue<Call>;
  readonly #driver: Driver;

  /** @throws `EINVAL` for an era or a mode that is none, or that the era does not take from this storage */
  constructor(storage: Storage, options: LinuxBarrierQueueOptions) {
    const era = eraOf(options.era, BARRIER_ERAS);
    const disk = DISKS[options.disk ?? 'scsi'];
    const { capabilities } = storage;
    const value = options.mode ?? disk.modeOf(traitsOf(capabilities));
    const mode = acceptOrdered(era, value, capabilities.flush);
    const { mergeBytesMax } = options;
    const limits = mergeBytesMax === undefined ? {} : { mergeBytesMax };
    this.#era = era;
    this.#storage = storage;
    this.#flushAt = disk.flushAt;
    this.#queue = new OrderedQueue({ era, mode, ...limits });
    this.#driver = new Driver(this.#queue, storage, options);
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
    this.#driver.pump();
  }

  /**
   * Submits a request, and settles when the kernel would have answered it: with the bytes of a read, otherwise with
   * none. A `flush` is `issueFlush()`.
   *
   * @param data what to write, of the request's length, left alone until then; or where to read into
   * @throws `EOPNOTSUPP` for a barrier in NONE, for the flags PREFLUSH and FUA, for zeroes, and for discards where the
   *   era or the storage has none; nothing was written
   * @throws `IO_FAILED` with the storage's error as `cause`; for a barrier the first error of its sequence
   * @throws `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`, `QUEUE_FULL`, with nothing queued
   */
  submit(request: Request, data?: Uint8Array): Promise<Uint8Array> {
    if (request.kind === 'flush') return this.issueFlush().then(() => new Uint8Array(0));
    const bio = bioOf(request);
    const discards = request.kind !== 'discard' || this.#storage.capabilities.discard === true;
    if (!bio || !discards) return Promise.reject(unsupported());
    return this.#driver.submit(request, data, (call) => this.#queue.submit(bio, call));
  }

  /**
   * `blkdev_issue_flush`, as the era does it. Where the mode has no flush, an empty barrier is none either: it waits
   * for what is in flight, or does not even that.
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
      throw new WriteBarrierError('IO_FAILED', 'the flush failed', { cause: error });
    }
  }

  /** Settles when every request has been answered and nothing is at the storage. */
  idle(): Promise<void> {
    return this.#driver.idle();
  }

  /** The driver's own flush, which no rule of order applies to. */
  async #flushByHook(): Promise<void> {
    const { cache, flush } = this.#storage.capabilities;
    if (cache !== 'volatile') return;
    if (!flush) throw unsupported();
    const enter = (call: Call): void => this.#queue.packet('flush', call, this.#flushAt);
    await this.#driver.submit({ kind: 'flush' }, undefined, enter);
  }
}

/** What a queue without barriers is made with. */
export interface LinuxFlushQueueOptions extends LinuxQueueOptions {
  /** The kernel: one of `FLUSH_ERAS`, or one of your own. */
  readonly era: FlushEraName | FlushEra;
  /** The time in milliseconds, which never goes back; `Date.now` unless given. */
  readonly nowMs?: () => number;
}

/** A kernel's flush machine over a storage. */
export class LinuxFlushQueue {
  readonly #storage: Storage;
  readonly #machine: FlushMachine<Call>;
  readonly #driver: Driver;

  /** @throws `EINVAL` for an era that is none */
  constructor(storage: Storage, options: LinuxFlushQueueOptions) {
    const era = eraOf(options.era, FLUSH_ERAS);
    this.#storage = storage;
    this.#machine = new FlushMachine({ era, device: storage.capabilities });
    this.#driver = new Driver(this.#machine, storage, options, options.nowMs);
  }

  /**
   * Submits a request, and settles when the kernel would have answered it: with the bytes of a read, otherwise with
   * none. Flags never fail: a storage without a flush is taken to have no cache, **even where it says that it has
   * one**, and a flush then succeeds and does nothing.
   *
   * @param data what to write, of the request's length, left alone until then; or where to read into
   * @throws `EOPNOTSUPP` for a barrier, and for discards and zeroes that the storage has not; nothing was written
   * @throws `IO_FAILED` with the storage's error as `cause`
   * @throws `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`, `QUEUE_FULL`, with nothing queued
   */
  submit(request: Request, data?: Uint8Array): Promise<Uint8Array> {
    const { kind } = request;
    const optional = kind === 'discard' || kind === 'writeZeroes';
    const missing = optional && this.#storage.capabilities[kind] !== true;
    if (missing || isBarrier(request)) return Promise.reject(unsupported());
    return this.#driver.submit(request, data, (call, nowMs) =>
      this.#machine.submit(request, call, nowMs),
    );
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
  switch (request.kind) {
    case 'read':
    case 'discard':
      return bio(request.kind, request, false);
    case 'write':
      if (request.preflush || request.fua) return undefined;
      return bio('write', request, request.barrier === true);
    case 'barrier':
      return bio('write', { offset: 0, length: 0 }, true);
    default:
      return undefined;
  }
}

function bio(
  op: Bio['op'],
  { offset, length }: { readonly offset: number; readonly length: number },
  barrier: boolean,
): Bio {
  return { op, offset, length, barrier };
}
