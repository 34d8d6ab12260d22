import type { DeviceTraits, ModeName, Observer, Operation } from '../model/index.js';

/**
 * What a failure does to the barriers that cover it. `abort`: they are not written. `kernel`: what Linux
 * 2.6.16 to 2.6.36 did, the first error is reported and the sequence goes on.
 */
export type ErrorPolicy = 'abort' | 'kernel';

/** How the state machine is to behave. */
export interface OrderingOptions {
  readonly mode: ModeName;
  readonly device: DeviceTraits;
  /** Commands at the device at once, at least 1. */
  readonly depth: number;
  readonly errorPolicy: ErrorPolicy;
  readonly readsPassBarriers: boolean;
}

/** What the state machine has counted. */
export interface OrderingCounters {
  /** Commands issued to the device. */
  readonly commands: Readonly<Record<Operation, number>>;
  /** Times that everything issued had to complete before anything went on. */
  readonly drains: number;
  /** Requests that were served by a flush which another request had asked for. */
  readonly flushesCoalesced: number;
  /** Reads that went past a barrier. */
  readonly readsPassed: number;
}

export class Counters implements OrderingCounters {
  readonly commands: Record<Operation, number> = {
    read: 0,
    write: 0,
    flush: 0,
    discard: 0,
    writeZeroes: 0,
  };
  drains = 0;
  flushesCoalesced = 0;
  readsPassed = 0;
}

/** How a scheduler is to behave. */
export interface SchedulerOptions {
  /** One of the seven, or `auto`, the default: what `chooseMode` says for the storage. */
  readonly mode?: ModeName | 'auto';
  /** Commands at the storage at once, 1 to 1024; 32 unless given. */
  readonly depth?: number;
  /** What a failure does to the barriers that cover it; `abort` unless given. */
  readonly errorPolicy?: ErrorPolicy;
  /** Reads go past a barrier where they overlap nothing that waits; true unless given. */
  readonly readsPassBarriers?: boolean;
  /** Requests that may wait, 1 or more; 65,536 unless given. One more is refused with `QUEUE_FULL`. */
  readonly maxQueued?: number;
  /** Buffers of reads and writes that may wait, in bytes; 256 MiB unless given. */
  readonly maxQueuedBytes?: number;
  /** Is told every event, synchronously. It must neither throw nor call the scheduler. */
  readonly observer?: Observer;
  /**
   * Takes a mode that does not keep its promise on this storage. What is lost is in `guarantees`: with
   * DRAIN on a volatile cache, for one, a power cut may keep a commit mark and lose what it commits.
   */
  readonly allowUnsafe?: boolean;
}

/** Options of every request. */
export interface RequestOptions {
  /** Takes the request back as long as it has not been issued; it rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of a write. */
export interface WriteOptions extends RequestOptions {
  /** Everything submitted earlier is ordered before this write, everything later after it. */
  readonly barrier?: boolean | undefined;
  /** A flush of everything submitted earlier goes before the data. */
  readonly preflush?: boolean | undefined;
  /** Settles when the data is on the medium. */
  readonly fua?: boolean | undefined;
}

/** Options of `close`. */
export interface CloseOptions {
  /** How long to wait for the storage; for ever unless given. */
  readonly timeoutMs?: number | undefined;
}

/** What a scheduler has to do, and has done. */
export interface SchedulerStats extends OrderingCounters {
  /** Requests that wait their turn. */
  readonly queued: number;
  /** The buffers of the reads and writes among them, in bytes. */
  readonly queuedBytes: number;
  /** Commands at the storage. */
  readonly inFlight: number;
  /** Barriers submitted and not settled. */
  readonly barriersPending: number;
  /** Requests that were taken; what was refused as misuse, or for want of room, does not count. */
  readonly submitted: number;
  /** Requests that were answered, well or badly. */
  readonly settled: number;
}
