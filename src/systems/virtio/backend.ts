// The device's side of virtio-blk over a scheduler: chains in, used lengths out.
//
//   on ──reset()──▶ resetting ──nothing in flight──▶ on, features and cache mode as at the start
//   on, resetting ──close()──▶ closed
//
//   V1  Every chain is answered once: its promise resolves with the used length, and does not reject for anything that
//       a guest can put into its memory. A chain without a byte for the status resolves with 0, and nothing is done.
//   V2  Chains go to the scheduler in the order of `submit`. A chain that does not fit into `inFlightBytesMax` waits in
//       line, as it would in the ring; more chains than the queues can hold are refused with IOERR.
//   V3  While the cache mode is write-through a write is answered only when it is durable: it is sent with FUA, and zeroes
//       are followed by a flush. A discard is not, because a discarded range may read as anything. The mode at the
//       submission decides. Changing it commits nothing.
//   V4  A request with the barrier bit is a barrier of the scheduler: a write becomes a barrier write, and any other
//       request is sent between two empty barriers. The bit is obeyed whether or not BARRIER was negotiated: the SLOF
//       firmware sets it on every request without having asked, and QEMU ignores it. Where the scheduler is in mode NONE
//       such a request is UNSUPP and nothing is done.
//   V5  From `reset` and `close` on, new chains are IOERR at once. Those in flight end as they would have; when the
//       promise settles the device touches none of their buffers any more. A scheduler whose storage hangs is closed with
//       a time limit by its owner; the chains are then answered IOERR, and later answers of the storage are ignored.
//
// What is offered, and the limits: options checked against what the scheduler can do, and made into features and a
// configuration space. Nothing of this changes later.
//
//   - A feature is offered only if the scheduler can back it: FLUSH where there is nothing volatile or it can be flushed,
//     BARRIER where there is an order, DISCARD where the storage has it, nothing that writes on a read-only disk.
//   - What is offered unless the caller says otherwise is all of that but BARRIER, which only an old driver believes in.
//   - Every limit is held against the driver (request.ts), so the memory of a device is bounded. A driver learns those
//     whose features are offered: without SIZE_MAX and SEG_MAX it must guess.
//
// The old defect is data: COMMITS_UNFLUSHED.
//
// Data is not copied: a write takes the guest's buffers, and so does a read into a single one. A read into several goes
// through a buffer of its own, because one command and a copy cost less than many commands.
//
// Not here: the ring, interrupts, the transport (PCI, MMIO); zones, secure erase, lifetime, SCSI commands (UNSUPP). The
// scheduler belongs to the caller, also after `close`. After a failed flush every request is IOERR until the owner calls
// `recover()`, as with QEMU's file driver.
//
// Source: OASIS virtio 1.3, 5.2 and its legacy interface; hw/block/virtio-blk.c in QEMU.

import { type IoScheduler, WriteBarrierError } from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  formatValue,
  invariant,
  misuse,
  oneOf,
  scatterBytes,
  totalLength,
  wholeNumber,
} from 'write-barrier/kit';
import type { Endian } from '../fields.js';
import { SCHEDULER } from '../requests.js';
import {
  encodeVirtioConfig,
  VIRTIO_ID_BYTES,
  VIRTIO_SECTOR,
  VIRTIO_WRITEBACK_AT,
  type VirtioConfig,
  type VirtioStatus,
} from './codec.js';
import {
  FEATURE_NAME,
  hasVirtioFeature,
  VIRTIO_FEATURES,
  type VirtioFeature,
  virtioFeatureBits,
} from './features.js';
import { RequestLine } from './line.js';
import {
  answerVirtioRequest,
  checkChain,
  parseVirtioRequest,
  type VirtioChain,
  type VirtioPlan,
  type VirtioRequest,
  type VirtioRules,
  type VirtioTransport,
} from './request.js';

/**
 * How devices treat a driver that has negotiated neither FLUSH nor CONFIG_WCE. True: its writes are answered when they are
 * durable (virtio 1.3, 5.2.6.2, case 1; virtio_blk_set_status() in QEMU, hw/block/virtio-blk.c). False is the defect: what
 * completes may still be volatile, and this driver has no means to change that (virtio 1.3, 5.2.6.3, on older devices; the
 * hosts that the patch of 2010 speaks of).
 */
const COMMITS_UNFLUSHED = { standard: true, legacy: false } as const;

/** The limits of discards or zeroes. */
export interface VirtioRangeLimits {
  /** In units of 512 bytes, of one segment; 1 to 2^32 - 1. */
  readonly sectorsMax: number;
  /** Segments of one request; 1 to 65,535. */
  readonly segmentsMax: number;
}

/** How a device is to behave. */
export interface VirtioBackendOptions {
  /**
   * Exactly what is offered. Without FLUSH on a volatile cache a driver has no way to make anything durable, and must trust
   * that the device does.
   *
   * @defaultValue all that the scheduler can back except BARRIER
   */
  readonly features?: readonly VirtioFeature[];
  /** Writes are refused, and RO is offered. */
  readonly readOnly?: boolean;
  /** What GET_ID answers: at most 20 characters of ASCII. @defaultValue `'write-barrier'` */
  readonly id?: string;
  /** The cache mode at the start and after a reset. @defaultValue write-back where the storage has a volatile cache */
  readonly writeback?: boolean;
  /** The byte order of a guest that does not negotiate VERSION_1. @defaultValue `'little'` */
  readonly legacyEndian?: Endian;
  /** The maximum of chains in one queue, 1 to 32,768. One more is refused. @defaultValue 128 */
  readonly queueSize?: number;
  /** Queues, 1 to 65,535. They all end in the same scheduler. @defaultValue 1 */
  readonly numQueues?: number;
  /** Buffers of one request that hold data, 1 or more. @defaultValue 126 */
  readonly segMax?: number;
  /**
   * In bytes, of one such buffer, 1 or more. `segMax` of them must hold a block, and are the most that a request may have,
   * however it is cut.
   *
   * @defaultValue 65,536
   */
  readonly sizeMax?: number;
  /** Data of the requests at the scheduler, in bytes, except for a single larger one. @defaultValue 64 MiB */
  readonly inFlightBytesMax?: number;
  /** The limits of discards. @defaultValue the whole disk and 16 segments */
  readonly discard?: VirtioRangeLimits;
  /** The limits of zeroes. @defaultValue 32 MiB and 16 segments */
  readonly writeZeroes?: VirtioRangeLimits;
  /**
   * `legacy` is a model of a defect: a driver without FLUSH and CONFIG_WCE loses answered writes in a power cut.
   *
   * @defaultValue `'standard'`
   */
  readonly host?: 'standard' | 'legacy';
}

const U16_MAX = 2 ** 16 - 1;
const U32_MAX = 2 ** 32 - 1;
const RANGE_LIMITS = {
  sectorsMax: wholeNumber(1, U32_MAX),
  segmentsMax: wholeNumber(1, U16_MAX),
} as const;
const OPTIONS = {
  features: 1,
  readOnly: BOOLEAN,
  id: 1,
  writeback: BOOLEAN,
  legacyEndian: oneOf(['little', 'big']),
  queueSize: wholeNumber(1, 32_768),
  numQueues: wholeNumber(1, U16_MAX),
  segMax: wholeNumber(1, U16_MAX),
  sizeMax: wholeNumber(1, U32_MAX),
  inFlightBytesMax: wholeNumber(1),
  discard: 1,
  writeZeroes: 1,
  host: oneOf(Object.keys(COMMITS_UNFLUSHED)),
} as const;

/** A chain that waits or runs. */
interface Served {
  readonly request: VirtioRequest;
  /** V3: decided when it was submitted. */
  readonly durable: boolean;
  /** The used length, once its status is written. */
  used: number;
}

/** A virtio-blk device over a scheduler. */
export class VirtioBackend implements VirtioTransport {
  /** What is offered, as bits. */
  readonly features: bigint;
  readonly #scheduler: IoScheduler;
  readonly #config: VirtioConfig;
  readonly #id: Uint8Array;
  readonly #legacyEndian: Endian;
  readonly #chainsMax: number;
  readonly #commitsUnflushed: boolean;
  /** Undefined until negotiated. */
  #negotiated: bigint | undefined;
  #writeback: boolean;
  #state: 'on' | 'resetting' | 'closed' = 'on';
  readonly #line: RequestLine<Served>;
  #inFlight = 0;
  #waiters: (() => void)[] = [];

  /**
   * @param scheduler what serves the requests; used by anything else, its queue may be full
   * @throws `INVALID_ARGUMENT` for what is no scheduler, for an option out of range, for a feature that the scheduler cannot back,
   *   and for a block size that does not go with sectors of 512 bytes
   */
  constructor(scheduler: IoScheduler, options: VirtioBackendOptions = {}) {
    checkArgument('scheduler', scheduler, SCHEDULER);
    this.#scheduler = scheduler;
    this.features = offeredBy(scheduler, options);
    this.#config = configOf(scheduler, options);
    this.#id = idOf(options.id ?? 'write-barrier');
    this.#legacyEndian = options.legacyEndian ?? 'little';
    this.#chainsMax = (options.queueSize ?? 128) * this.#config.numQueues;
    const { inFlightBytesMax = 64 * 1024 * 1024, host = 'standard' } = options;
    this.#line = new RequestLine((served) => this.#serve(served), inFlightBytesMax, bytesOf);
    this.#commitsUnflushed = canFlush(scheduler) && COMMITS_UNFLUSHED[host];
    this.#writeback = this.#config.writeback === 1;
  }

  /** Chains without an answer. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /**
   * What the driver takes of the features, once after the start and after each reset. False, and nothing is changed,
   * where it is not a part of what is offered.
   */
  negotiate(features: bigint): boolean {
    const known = (features & ~this.features) === 0n;
    if (!known || this.#negotiated !== undefined || this.#state !== 'on') return false;
    this.#negotiated = features;
    // A driver that can toggle the cache and cannot flush it begins with write-through.
    if (this.#has('CONFIG_WCE') && !this.#has('FLUSH')) this.#writeback = false;
    return true;
  }

  /** The configuration space as it is now, 60 bytes in the byte order that was negotiated. */
  readConfig(): Uint8Array {
    return encodeVirtioConfig(
      { ...this.#config, writeback: this.#writeback ? 1 : 0 },
      this.#endian,
    );
  }

  /** Only the byte `writeback` can be written, where CONFIG_WCE was negotiated; anything but 0 is 1. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    const value = bytes[VIRTIO_WRITEBACK_AT - offset];
    if (value !== undefined && this.#has('CONFIG_WCE')) this.#writeback = value !== 0;
  }

  /**
   * Takes a chain and answers with the used length, once its status is written (V1). The buffers belong to the device
   * until then.
   *
   * @throws `INVALID_ARGUMENT` for what is not a chain
   */
  async submit(chain: VirtioChain): Promise<number> {
    checkChain(chain);
    const request = parseVirtioRequest(chain, this.#rules());
    if (this.#state !== 'on' || this.#inFlight >= this.#chainsMax) {
      return answerVirtioRequest(request.reply, 'IOERR');
    }
    this.#inFlight += 1;
    const served: Served = { request, durable: this.#writesThrough(), used: 0 };
    try {
      await this.#line.add({ requests: [served].values(), ordered: false, outMax: 1 });
    } finally {
      this.#inFlight -= 1;
      invariant(this.#inFlight >= 0, 'virtio-backend.V1: a chain is answered once');
      if (this.#inFlight === 0) for (const wake of this.#waiters.splice(0)) wake();
    }
    return served.used;
  }

  /** Back to the start: nothing negotiated, the cache mode as it was (V5). */
  async reset(): Promise<void> {
    if (this.#state === 'on') this.#state = 'resetting';
    await this.#idle();
    this.#negotiated = undefined;
    this.#writeback = this.#config.writeback === 1;
    if (this.#state === 'resetting') this.#state = 'on';
  }

  /** Takes no more chains, and settles when the last has been answered (V5). The scheduler stays open. */
  close(): Promise<void> {
    this.#state = 'closed';
    return this.#idle();
  }

  #has(name: VirtioFeature): boolean {
    return hasVirtioFeature(this.#negotiated ?? 0n, name);
  }

  get #endian(): Endian {
    return this.#has('VERSION_1') ? 'little' : this.#legacyEndian;
  }

  #rules(): VirtioRules {
    const { blockSize } = this.#scheduler.capabilities;
    const negotiated = this.#negotiated ?? 0n;
    const config = this.#config;
    return { offered: this.features, negotiated, config, blockSize, endian: this.#endian };
  }

  #writesThrough(): boolean {
    if (this.#has('CONFIG_WCE')) return !this.#writeback;
    return !this.#has('FLUSH') && this.#commitsUnflushed;
  }

  // Serving

  /** Everything that it asks of the scheduler it asks before it returns, so the order of calls is kept (V2). */
  async #serve(served: Served): Promise<void> {
    const { request, durable } = served;
    const status = await this.#execute(request, durable);
    served.used = answerVirtioRequest(request.reply, status);
  }

  async #execute({ plan, barrier }: VirtioRequest, durable: boolean): Promise<VirtioStatus> {
    if (plan.kind === 'refuse') return plan.status;
    const scheduler = this.#scheduler;
    if (barrier && scheduler.mode === 'NONE') return 'UNSUPP';
    try {
      // A barrier write is one command; anything else has a barrier before and behind it.
      const between = barrier && !(plan.kind === 'write' && plan.length > 0);
      const before = between ? [scheduler.barrier()] : [];
      const itself = this.#perform(plan, barrier, durable);
      const behind = between ? [scheduler.barrier()] : [];
      await together([...before, itself, ...behind]);
      return 'OK';
    } catch (error) {
      if (!WriteBarrierError.is(error)) throw error;
      return error.code === 'EOPNOTSUPP' ? 'UNSUPP' : 'IOERR';
    }
  }

  async #perform(
    plan: Exclude<VirtioPlan, { kind: 'refuse' }>,
    barrier: boolean,
    durable: boolean,
  ): Promise<void> {
    const scheduler = this.#scheduler;
    switch (plan.kind) {
      case 'read':
        if (plan.length > 0) await this.#read(plan.offset, plan.length, plan.into);
        return;
      case 'write':
        if (totalLength(plan.data) !== plan.length) throw gone();
        if (plan.length > 0)
          await scheduler.write(plan.offset, plan.data, { barrier, fua: durable });
        return;
      case 'flush':
        return scheduler.flush();
      case 'identify':
        return scatter(this.#id, plan.into);
      case 'discard':
        await together(plan.ranges.map(({ offset, length }) => scheduler.discard(offset, length)));
        return;
      case 'writeZeroes': {
        const calls = plan.ranges.map(({ offset, length }) =>
          scheduler.writeZeroes(offset, length),
        );
        await together(durable ? [...calls, scheduler.flush()] : calls);
        return;
      }
    }
  }

  async #read(offset: number, length: number, into: readonly Uint8Array[]): Promise<void> {
    const [only] = into;
    if (only && into.length === 1) {
      await this.#scheduler.read(offset, only);
      return;
    }
    scatter(await this.#scheduler.read(offset, length), into);
  }

  #idle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push(resolve));
  }
}

/** What the buffers of a chain count for in `inFlightBytesMax`. */
function bytesOf({ request: { plan } }: Served): number {
  return 'length' in plan ? plan.length : 0;
}

/** Copies one buffer to where several are; not if these have shrunk and do not have its length any more. */
function scatter(from: Uint8Array, list: readonly Uint8Array[]): void {
  if (totalLength(list) === from.length) scatterBytes(from, list);
}

/** Waits for all, so that nothing runs on when one has failed; throws the first failure. */
async function together(calls: readonly Promise<unknown>[]): Promise<void> {
  for (const end of await Promise.allSettled(calls)) {
    if (end.status === 'rejected') throw end.reason;
  }
}

/** Buffers in a memory that was resized or handed on while the request waited. */
function gone(): WriteBarrierError {
  return misuse('the memory of the request has been resized or handed on');
}

// What is offered, and the limits

/** @throws `INVALID_ARGUMENT` for a feature that the scheduler cannot back, or that needs another */
function offeredBy(scheduler: IoScheduler, options: VirtioBackendOptions): bigint {
  checkOptions(options, OPTIONS, 'VirtioBackend');
  const { readOnly = false, numQueues = 1 } = options;
  const flushes = canFlush(scheduler);
  /** All but these need nothing. */
  const has: Readonly<Partial<Record<VirtioFeature, boolean>>> = {
    BARRIER: scheduler.mode !== 'NONE',
    RO: readOnly,
    FLUSH: flushes,
    CONFIG_WCE: flushes,
    MQ: numQueues > 1,
    DISCARD: scheduler.capabilities.discard === true && !readOnly,
    WRITE_ZEROES: !readOnly,
  };
  const isAble = (name: VirtioFeature): boolean => has[name] ?? true;
  const names = Object.keys(VIRTIO_FEATURES) as VirtioFeature[];
  const chosen = options.features ?? names.filter((name) => name !== 'BARRIER' && isAble(name));
  for (const name of chosen) {
    checkArgument('a feature', name, FEATURE_NAME);
    need(
      isAble(name),
      `features must not include ${name}, which this disk with these options cannot do`,
    );
  }
  const offers = (name: VirtioFeature): boolean => chosen.includes(name);
  need(!offers('CONFIG_WCE') || offers('FLUSH'), 'features with CONFIG_WCE must include FLUSH');
  need(!readOnly || offers('RO'), 'features must include RO, because the disk is read-only');
  return virtioFeatureBits(...new Set(chosen));
}

/** @throws `INVALID_ARGUMENT` for an option out of range */
function configOf(scheduler: IoScheduler, options: VirtioBackendOptions): VirtioConfig {
  const { blockSize, cache, flush } = scheduler.capabilities;
  need(
    blockSize % VIRTIO_SECTOR === 0 || VIRTIO_SECTOR % blockSize === 0,
    `blockSize of the storage must be a multiple or a divisor of ${VIRTIO_SECTOR}, not ${blockSize}`,
  );
  const blkSize = Math.max(blockSize, VIRTIO_SECTOR);
  const capacity = Math.floor(scheduler.size / VIRTIO_SECTOR);
  const { numQueues = 1, segMax = 126, sizeMax = 65_536 } = options;
  const {
    discard = { sectorsMax: Math.min(Math.max(capacity, 1), U32_MAX), segmentsMax: 16 },
    writeZeroes = { sectorsMax: 65_536, segmentsMax: 16 },
  } = options;
  for (const [name, limits] of Object.entries({ discard, writeZeroes })) {
    checkOptions(limits, RANGE_LIMITS, name);
    checkArgument('sectorsMax', limits.sectorsMax, RANGE_LIMITS.sectorsMax);
    checkArgument('segmentsMax', limits.segmentsMax, RANGE_LIMITS.segmentsMax);
  }
  need(
    segMax * sizeMax >= blkSize,
    `segMax times sizeMax must be at least a block of ${blkSize} bytes, not ${segMax} times ${sizeMax}`,
  );
  return Object.freeze({
    capacity: BigInt(capacity),
    sizeMax,
    segMax,
    blkSize,
    writeback: (options.writeback ?? (cache === 'volatile' && flush)) ? 1 : 0,
    numQueues,
    maxDiscardSectors: discard.sectorsMax,
    maxDiscardSeg: discard.segmentsMax,
    discardSectorAlignment: blkSize / VIRTIO_SECTOR,
    maxWriteZeroesSectors: writeZeroes.sectorsMax,
    maxWriteZeroesSeg: writeZeroes.segmentsMax,
    writeZeroesMayUnmap: 0,
  });
}

/**
 * The answer to GET_ID.
 *
 * @throws `INVALID_ARGUMENT` for what is not ASCII or too long
 */
function idOf(text: string): Uint8Array {
  need(
    typeof text === 'string' && /^[ -~]*$/.test(text) && text.length <= VIRTIO_ID_BYTES,
    `id must be ${VIRTIO_ID_BYTES} characters of ASCII at the most, not ${formatValue(text)}`,
  );
  const bytes = new Uint8Array(VIRTIO_ID_BYTES);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}

function need(holds: boolean, otherwise: string): void {
  if (!holds) throw misuse(otherwise);
}

/** Whether a flush can be promised: nothing is volatile, or it can be flushed. */
function canFlush({ capabilities }: IoScheduler): boolean {
  return capabilities.cache !== 'volatile' || capabilities.flush;
}
