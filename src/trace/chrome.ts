// A trace in the Trace Event Format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.
//
// Requests overlap without being nested, and so do commands. Complete events (`ph: 'X'`) of one thread must nest, so each
// request and each command is a pair of asynchronous events, `b` and `e`, with an identifier of its own. Viewers group such
// pairs by process, so requests are one process and commands another.
//
// Source: "Trace Event Format", Google.

import {
  checkIterable,
  formatRequest,
  formatSteps,
  misuse,
  type NotationOptions,
} from '../model/index.js';
import type { TimedEvent } from './recorder.js';

/** The processes that a viewer shows as tracks. */
const PROCESSES = { request: 1, command: 2 };

/**
 * A trace as JSON for a viewer of traces, such as Perfetto: requests and commands as two tracks.
 *
 * What is open at the end of the trace ends with its last event; what began before its first event is left out.
 *
 * @param events with the times of a `TraceRecorder` with a clock, or without: then each event comes a microsecond after the
 *   one before it
 * @throws `INVALID_ARGUMENT` for events that are no iterable, if some of them have a time and others have none, or a time is not a
 *   finite number
 */
export function chromeTrace(events: Iterable<TimedEvent>, options: NotationOptions = {}): string {
  formatSteps([], options); // refuses wrong options even if there are no events
  checkIterable('events', events);
  const trace = [...events];
  const times = timesOf(trace);
  const written: object[] = Object.entries(PROCESSES).map(([kind, pid]) => {
    return { ph: 'M', name: 'process_name', pid, tid: 1, args: { name: `${kind}s` } };
  });
  const open = new Map<string, object>();
  const end = (key: string, ts: number, args: object): void => {
    const own = open.get(key);
    if (own && open.delete(key)) written.push({ ...own, ph: 'e', ts, args });
  };
  const begin = (
    cat: keyof typeof PROCESSES,
    number: number,
    what: { readonly name: string; readonly ts: number; readonly args: object },
  ): void => {
    const { name, ts, args } = what;
    const key = `${cat} ${number}`;
    // Numbers come again where one recorder observes two schedulers.
    end(key, ts, { open: true });
    const own = { cat, name, id: String(written.length), pid: PROCESSES[cat], tid: 1 };
    open.set(key, own);
    written.push({ ...own, ph: 'b', ts, args });
  };
  for (const [at, event] of trace.entries()) {
    const ts = times[at] as number;
    switch (event.kind) {
      case 'submit': {
        const { request, what } = event;
        begin('request', request, { name: formatRequest(what, options), ts, args: { request } });
        break;
      }
      case 'dispatch': {
        const { command, what, requests } = event;
        const args = { command, stage: what.stage, requests };
        begin('command', command, { name: formatSteps([what], options), ts, args });
        break;
      }
      case 'settle':
        end(`request ${event.request}`, ts, { outcome: event.outcome });
        break;
      case 'complete':
        end(`command ${event.command}`, ts, { error: event.error });
        break;
    }
  }
  for (const key of [...open.keys()]) end(key, times.at(-1) as number, { open: true });
  return `[\n${written.map((one) => JSON.stringify(one)).join(',\n')}\n]\n`;
}

/** The time of each event, in microseconds. */
function timesOf(trace: readonly TimedEvent[]): number[] {
  const timed = trace.filter(({ atMs }) => Number.isFinite(atMs)).length;
  if (timed === trace.length) return trace.map(({ atMs }) => (atMs as number) * 1000);
  if (trace.every(({ atMs }) => atMs === undefined)) return [...trace.keys()];
  throw misuse(
    `only ${timed} of ${trace.length} events have a time that is a finite number: either all must have one or none`,
  );
}
