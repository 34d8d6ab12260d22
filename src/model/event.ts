// The record of what happened. Events are plain values: they survive structuredClone and JSON. They carry
// no time, because nothing here has a clock; a recorder adds one if it is asked to.

import type { ErrorCode } from './error.js';
import type { Request } from './request.js';
import type { DeviceCommand, Stage } from './transform.js';

/** A client handed in a request. Requests are numbered from 0 in the order of submission. */
export interface SubmitEvent {
  readonly kind: 'submit';
  /** The number of the request; `settle` answers for the same one. */
  readonly request: number;
  /** What was asked for. The payload of a write is not part of the record. */
  readonly what: Request;
}

/** A command was handed to the storage. Commands are numbered from 0 in the order of issue. */
export interface DispatchEvent {
  readonly kind: 'dispatch';
  /** The number of the command; `complete` answers for the same one. */
  readonly command: number;
  /** What the storage is to do, and where that stands in the sequence of its request. */
  readonly what: DeviceCommand & {
    /** `plain` for whatever is not part of a sequence. */
    readonly stage: Stage;
  };
  /** The requests that the command serves: several for a shared flush, none where unknown. */
  readonly requests: readonly number[];
}

/** The storage answered a command. */
export interface CompleteEvent {
  readonly kind: 'complete';
  /** The number of the command. Answers may come in any order. */
  readonly command: number;
  /** The storage's error in words; absent where the command succeeded. */
  readonly error?: string;
}

/** The client was answered. */
export interface SettleEvent {
  readonly kind: 'settle';
  /** The number of the request. Each settles once. */
  readonly request: number;
  /** `cancelled` by its signal before anything of it was issued; otherwise the code of its error. */
  readonly outcome: 'done' | 'cancelled' | ErrorCode;
}

/** What concerns a request. */
export type RequestEvent = SubmitEvent | SettleEvent;

/** What concerns a command. */
export type CommandEvent = DispatchEvent | CompleteEvent;

/** One event of a trace. */
export type TraceEvent = RequestEvent | CommandEvent;

/** Whoever watches. It is called synchronously and must not call back into what it watches. */
export type Observer<E extends TraceEvent = TraceEvent> = (event: E) => void;
