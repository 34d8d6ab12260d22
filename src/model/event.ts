// The events of a trace. They are plain values, which survive structuredClone and JSON. They carry no time, because the core
// has no clock; an observer may add one. They carry the block size of the disk, because a trace is read far from the disk that it
// tells of, and the notation counts in blocks.

import type { ErrorCode } from './error.js';
import type { Request } from './request.js';
import type { StagedCommand } from './transform.js';

/** What an event knows of its disk. */
interface OnDisk {
  /** The block size of the disk in bytes, in which the notation counts. Absent if it is the notation's own, 4096, or unknown. */
  readonly blockSize?: number;
}

/** A client submitted a request. Requests are numbered from 0 in the order of submission. */
export interface SubmitEvent {
  readonly kind: 'submit';
  /** The number of the request. Its `settle` event has the same number. */
  readonly request: number;
  /**
   * The request. The payload of a write is not part of the trace. `blockSize`, in bytes, is that of the disk; it is absent if it
   * is 4096, or unknown.
   */
  readonly what: Request & OnDisk;
}

/** A command was issued to the storage. Commands are numbered from 0 in the order of issue. */
export interface DispatchEvent {
  readonly kind: 'dispatch';
  /** The number of the command. Its `complete` event has the same number. */
  readonly command: number;
  /** The command, with its stage in the sequence of its request, and with `blockSize` as in `SubmitEvent`. */
  readonly what: StagedCommand & OnDisk;
  /** The requests that the command serves: several for a shared flush, none if they are unknown. */
  readonly requests: readonly number[];
}

/** A command completed at the storage. */
export interface CompleteEvent {
  readonly kind: 'complete';
  /** The number of the command. Commands may complete in any order. */
  readonly command: number;
  /** The message of the storage's error; absent if the command succeeded. */
  readonly error?: string;
}

/** The promise of a request settled. */
export interface SettleEvent {
  readonly kind: 'settle';
  /** The number of the request. Each settles once. */
  readonly request: number;
  /** `cancelled`: its signal aborted before anything of it was issued. A request that failed has the code of its error. */
  readonly outcome: 'done' | 'cancelled' | ErrorCode;
}

/** The events of commands. */
export type CommandEvent = DispatchEvent | CompleteEvent;

/** One event of a trace. */
export type TraceEvent = SubmitEvent | SettleEvent | CommandEvent;

/** Called synchronously for every event. It must not call back into what it observes. */
export interface Observer<E extends TraceEvent = TraceEvent> {
  (event: E): void;
  /** While it is false, a scheduler makes no events. Without it every event is made. */
  readonly isListening?: boolean;
}
