// The record of what happened. Events are plain values: they survive structuredClone and JSON. They carry
// no time, because nothing here has a clock; a recorder adds one if it is asked to.

import type { ErrorCode } from './error.js';
import type { Request } from './request.js';
import type { DeviceCommand, Stage } from './transform.js';

/** A client handed in a request. Requests are numbered from 0 in the order of submission. */
export interface SubmitEvent {
  readonly kind: 'submit';
  readonly request: number;
  readonly what: Request;
}

/** A command was handed to the storage. Commands are numbered from 0 in the order of issue. */
export interface DispatchEvent {
  readonly kind: 'dispatch';
  readonly command: number;
  readonly what: DeviceCommand & { readonly stage: Stage };
  /** The requests that the command serves: several for a shared flush, none where unknown. */
  readonly requests: readonly number[];
}

/** The storage answered a command. */
export interface CompleteEvent {
  readonly kind: 'complete';
  readonly command: number;
  /** The storage's error in words; absent where the command succeeded. */
  readonly error?: string;
}

/** The client was answered. */
export interface SettleEvent {
  readonly kind: 'settle';
  readonly request: number;
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
