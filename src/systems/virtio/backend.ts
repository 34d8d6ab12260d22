// The device's side of virtio-blk over a scheduler: chains in, used lengths out.
//
//   on ──reset()──▶ resetting ──nothing in flight──▶ on, features and cache mode as at the start
//   on, resetting ──close()──▶ closed
//
//   V1  Every chain is answered once: its promise resolves with the used length, and does not reject for anything that
//       a guest can put into its memory. A chain without a byte for the status resolves with 0, and nothing is done.
//   V2  Chains go to the scheduler in the order of `submit`. What does not fit into `inFlightBytesMax` waits in line, as
//       it would in the ring; more chains than the queues can hold are refused with IOERR.
//   V3  While the cache mode is write-through a write is answered when it is durable: it is forced (FUA), and zeroes
//       are followed by a flush; a discarded range reads as anything, durable or not. The mode at the submission
//       decides. Changing it commits nothing.
//   V4  A request with the barrier bit is a barrier of the scheduler: a write is one, anything else stands between
//       two. The bit is obeyed whether or not BARRIER was negotiated: the SLOF firmware sets it on every request without
//       having asked, and QEMU ignores it. Where the scheduler is in mode NONE such a request is UNSUPP and nothing is done.
//   V5  From `reset` and `close` on, new chains are IOERR at once. Those in flight end as they would have; when the
//       promise settles the device touches none of their buffers any more. A scheduler whose storage hangs is closed
//       with a time limit by its owner; the chains are IOERR then, and what the storage does later is not told.
//
// Data is not copied: a write takes the guest's buffers, and so does a read into a single one. A read into several goes
// through a buffer of its own, because one command and a copy cost less than many commands.
//
// Not here: the ring, interrupts, the transport (PCI, MMIO); zones, secure erase, lifetime, SCSI commands (UNSUPP). The
// scheduler belongs to the caller, before and after. What its flush says is final: once it has failed every request is
// IOERR until the owner calls `recover()`, as with QEMU's file driver.
//
// Source: OASIS virtio 1.3, 5.2 and its legacy interface; hw/block/virtio-blk.c in QEMU.

import { type IoScheduler, WriteBarrierError } from 'write-barrier';
import { configOf, hostOf, idOf, offeredBy, type VirtioBackendOptions } from './backend-options.js';
import { bytesOf, checkChain, scatter, type VirtioChain } from './chain.js';
import {
  encodeVirtioConfig,
  VIRTIO_WRITEBACK_AT,
  type VirtioConfig,
  type VirtioEndian,
  type VirtioStatus,
} from './codec.js';
import { hasVirtioFeature, type VirtioFeature } from './features.js';
import {
  answerVirtioRequest,
  parseVirtioRequest,
  type VirtioPlan,
  type VirtioRequest,
  type VirtioRules,
} from './request.js';
import { together } from './together.js';
import type { VirtioTransport } from './transport.js';

/** A chain that waits or runs. */
interface Served {
  readonly request: VirtioRequest;
  /** What its buffers count for in `inFlightBytesMax`. */
  readonly bytes: number;
  /** V3: decided when it was submitted. */
  readonly durable: boolean;
  readonly resolve: (used: number) => void;
  readonly reject: (defect: unknown) => void;
}

/** See the head of this file. */
export class VirtioBackend implements VirtioTransport {
  /** What is offered, as bits. */
  readonly features: bigint;
  readonly #scheduler: IoScheduler;
  readonly #config: VirtioConfig;
  readonly #id: Uint8Array;
  readonly #legacyEndian: VirtioEndian;
  readonly #chainsMax: number;
  readonly #bytesMax: number;
  readonly #commitsUnflushed: boolean;
  /** Undefined until negotiated. */
  #negotiated: bigint | undefined;
  #writeback: boolean;
  #state: 'on' | 'resetting' | 'closed' = 'on';
  #line: Served[] = [];
  #inFlight = 0;
  #bytes = 0;
  #waiters: (() => void)[] = [];

  /**
   * @param scheduler what serves the requests; nobody else should use it, or its queue may be full
   * @throws `INVALID_ARGUMENT` for an option out of range, for a feature that the scheduler cannot back, and for a block
   *   size that does not go with sectors of 512 bytes
   */
  constructor(scheduler: IoScheduler, options: VirtioBackendOptions = {}) {
    this.#scheduler = scheduler;
    this.features = offeredBy(scheduler, options);
    this.#config = configOf(scheduler, options);
    this.#id = idOf(options.id ?? 'write-barrier');
    this.#legacyEndian = options.legacyEndian ?? 'little';
    this.#chainsMax = (options.queueSize ?? 128) * this.#config.numQueues;
    this.#bytesMax = options.inFlightBytesMax ?? 64 * 1024 * 1024;
    const { capabilities } = scheduler;
    const canCommit = capabilities.cache !== 'volatile' || capabilities.flush;
    this.#commitsUnflushed = canCommit && hostOf(options).commitsUnflushed;
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
  submit(chain: VirtioChain): Promise<number> {
    return new Promise((resolve, reject) => {
      checkChain(chain);
      const request = parseVirtioRequest(chain, this.#rules());
      if (this.#state !== 'on' || this.#inFlight >= this.#chainsMax) {
        resolve(answerVirtioRequest(request.reply, 'IOERR'));
        return;
      }
      this.#inFlight += 1;
      const bytes = 'length' in request.plan ? request.plan.length : 0;
      this.#line.push({ request, bytes, durable: this.#writesThrough(), resolve, reject });
      this.#pump();
    });
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

  get #endian(): VirtioEndian {
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

  #pump(): void {
    for (let next = this.#line[0]; next; next = this.#line[0]) {
      if (this.#bytes > 0 && this.#bytes + next.bytes > this.#bytesMax) return;
      this.#line.shift();
      this.#bytes += next.bytes;
      void this.#serve(next);
    }
  }

  /** Everything that it asks of the scheduler it asks before it returns, so the order of calls is kept (V2). */
  async #serve({ request, bytes, durable, resolve, reject }: Served): Promise<void> {
    try {
      const status = await this.#execute(request, durable);
      resolve(answerVirtioRequest(request.reply, status));
    } catch (defect) {
      reject(defect);
    }
    this.#bytes -= bytes;
    this.#inFlight -= 1;
    this.#pump();
    if (this.#inFlight === 0) for (const wake of this.#waiters.splice(0)) wake();
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
        if (bytesOf(plan.data) !== plan.length) throw gone();
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

/** Buffers in a memory that was resized or handed on while the request waited. */
function gone(): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', 'the memory of the request is gone');
}
