// Events for `node:diagnostics_channel`, so that a program is watched from outside: what watches it subscribes, and needs
// neither the scheduler nor an option of it.

import { channel } from 'node:diagnostics_channel';
import type { Observer, TraceEvent } from 'write-barrier';
import { checkArgument, rule } from 'write-barrier/kit';

const NAME = rule((value) => typeof value === 'string', 'a string');

/** By kind, because Node looks a channel up by its name in a table; this is looked up once. */
const CHANNELS = {
  submit: channel('write-barrier:submit'),
  dispatch: channel('write-barrier:dispatch'),
  complete: channel('write-barrier:complete'),
  settle: channel('write-barrier:settle'),
} as const satisfies Record<TraceEvent['kind'], unknown>;

const { submit, dispatch, complete, settle } = CHANNELS;
const isHeard = (): boolean =>
  submit.hasSubscribers ||
  dispatch.hasSubscribers ||
  complete.hasSubscribers ||
  settle.hasSubscribers;

const FLUSH_FAILED = channel('write-barrier:flush-failed');

/** What `diagnosticsObserver` publishes. */
export interface DiagnosticsMessage {
  /** As it was passed to `diagnosticsObserver`: which disk this is about. */
  readonly name: string;
  /** The event, as an observer gets it. */
  readonly event: TraceEvent;
}

/**
 * An observer that publishes each event as a `DiagnosticsMessage` in a channel of `node:diagnostics_channel`:
 * `write-barrier:submit`, `write-barrier:dispatch`, `write-barrier:complete` or `write-barrier:settle`, after the kind of
 * the event. It is for the option `observer` of a scheduler, and for `tracing`, which has no requests and so publishes in the
 * second and third of them only.
 *
 * While none of the channels has subscribers, a scheduler makes no events, so a request costs what it costs without an observer. A
 * subscriber that comes later learns of what happens from then on, which may begin with the end of a request. An error of a subscriber is
 * an uncaught exception in a later turn; it changes nothing here.
 *
 * @param name which disk this is about; several may have the same
 * @throws `INVALID_ARGUMENT` for a name that is not a string
 */
export function diagnosticsObserver(name: string): Observer {
  checkArgument('the name', name, NAME);
  const observer = (event: TraceEvent): void => {
    const to = CHANNELS[event.kind];
    if (!to.hasSubscribers) return;
    const message: DiagnosticsMessage = { name, event };
    to.publish(message);
  };
  return Object.defineProperty(observer, 'isListening', { get: isHeard });
}

/** Tells the channel `write-barrier:flush-failed` of the first flush of a file that has failed. */
export function publishFailedFlush(path: string, error: unknown): void {
  FLUSH_FAILED.publish({ path, error });
}
