// The caller of a request: its promise, its signal, and the place of its call.
//
// The error of a command is made when the storage answers, in another turn of the event loop, so its stack shows the scheduler
// and not the program. Taking a stack for each request costs several times as much as the request, so it is done only with
// `stackTraces`.

import type { Call } from '../machine/index.js';
import { messageOf, misuse, WriteBarrierError } from '../model/index.js';

/** A request of a scheduler with its caller. */
export interface SchedulerCall extends Call {
  readonly signal: AbortSignal | undefined;
  /** Where the user called, with `stackTraces`. */
  readonly site: CallSite | undefined;
}

/**
 * Which requests a signal cancels. All requests of a signal share one listener, because all of them must be cancelled before
 * anything is issued: otherwise a commit mark could be issued after its record was cancelled.
 *
 * A signal is the user's object and may throw. If adding the listener throws, the request must not be queued. If a later call
 * throws (removing the listener, reading the reason), that changes nothing for the requests.
 */
export class Signals<T> {
  /** Made for the first signal, because most schedulers have none. */
  #watched:
    | Map<AbortSignal, { readonly members: Set<T>; readonly listener: () => void }>
    | undefined;
  readonly #onAbort: (members: Iterable<T>) => void;

  constructor(onAbort: (members: Iterable<T>) => void) {
    this.#onAbort = onAbort;
  }

  /**
   * The requests that the signal cancels. Add the request to them; `forget` removes it.
   *
   * @throws `INVALID_ARGUMENT` for a signal that takes no listener
   */
  watch(signal: AbortSignal): { add(member: T): void } {
    const known = this.#watched?.get(signal);
    if (known) return known.members;
    const members = new Set<T>();
    const listener = (): void => this.#onAbort(members);
    try {
      signal.addEventListener('abort', listener);
    } catch (cause) {
      throw misuse(`signal takes no listener: ${messageOf(cause)}`, { cause });
    }
    this.#watched ??= new Map();
    this.#watched.set(signal, { members, listener });
    return members;
  }

  /** The error of requests that the signal has cancelled. */
  reason(signal: AbortSignal): unknown {
    try {
      return signal.reason;
    } catch (cause) {
      return cause;
    }
  }

  forget(signal: AbortSignal, member: T): void {
    const known = this.#watched?.get(signal);
    if (!known?.members.delete(member) || known.members.size > 0) return;
    this.#watched?.delete(signal);
    try {
      signal.removeEventListener('abort', known.listener);
    } catch {
      // The listener stays, and cancels nothing.
    }
  }
}

/** The stack of a call. It is made when it is read: as text, or by the `Error.prepareStackTrace` of the program. */
export interface CallSite {
  stack?: unknown;
}

/** The stack of the caller of `method`, which is the public one. */
export function callSite(method: unknown): CallSite {
  const site: CallSite = {};
  // Engines without this function have no frames to show.
  Error.captureStackTrace?.(site, method as (...args: unknown[]) => unknown);
  return site;
}

/**
 * A copy of the error with the frames of the call. A copy, because one error may answer many requests, each called from
 * another place. An error that is not of this package is returned unchanged.
 */
export function calledAt(error: unknown, site: CallSite): unknown {
  if (!WriteBarrierError.is(error)) return error;
  const frames = String(site.stack)
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .slice(1); // The public method.
  const value = [String(error), ...frames].join('\n');
  const copy = Object.setPrototypeOf(new Error(), Object.getPrototypeOf(error));
  return Object.defineProperties(copy, {
    ...Object.getOwnPropertyDescriptors(error),
    stack: { value, writable: true, configurable: true },
  });
}
