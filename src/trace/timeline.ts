// Timelines of a trace, in text and as SVG: a row for each request, from its submission to its end, and a row for each command,
// from its issue to its answer. Both are drawn from the same rows.
//
// Columns are events, not time, because the order of events is what a reader looks for, and times would crowd it where much
// happens at once. For times there is `chromeTrace`.
//
// Not here: the shapes and colours (svg.ts), and power cuts, which the crash kit draws.

import {
  type CompleteEvent,
  checkIterable,
  formatRequest,
  formatSteps,
  type NotationOptions,
  type SettleEvent,
  type TraceEvent,
} from '../model/index.js';
import { line, picture, rect, type Shape, widthOf, words } from './svg.js';

/** A request or a command, and the events between which it was under way. */
interface Row {
  readonly label: string;
  readonly of: 'request' | 'command';
  /** The number of the first event. */
  readonly start: number;
  /** The number of the last event; the last one of the trace if the end is not in it. */
  readonly end: number;
  readonly outcome: 'done' | 'failed' | 'cancelled' | 'open';
}

/**
 * A trace as a picture in text: a row for each command, from its issue to its answer, and a row for each
 * request, from its submission to its end. Columns are events, not time.
 *
 * ```text
 * 0 w0    ||-----.         |
 *   #0 w0 | [===]          |
 * 1 b1    |  |----------x  |
 * 2 w2    |   |/           |
 *   #1 F  |       []       |
 *   #2 w1 |         [x     |
 *   #3 F  |           []   |
 * ```
 *
 * `.` is success, `x` failure, `/` cancellation, `>` still open at the end of the trace.
 *
 * @throws `INVALID_ARGUMENT` for events that are no iterable
 */
export function formatTimeline(
  events: Iterable<TraceEvent>,
  options: NotationOptions = {},
): string {
  const { rows, length } = rowsOf(events, options);
  const width = rows.reduce((most, { label }) => Math.max(most, label.length), 0);
  return rows
    .map(({ label, of, start, end, outcome }) => {
      const { open, fill, done } = LETTERS[of];
      const mark = outcome === 'done' ? done : MARKS[outcome];
      const body = end > start ? open + fill.repeat(end - start - 1) + mark : mark;
      return `${label.padEnd(width)} |${(' '.repeat(start) + body).padEnd(length)}|`;
    })
    .join('\n');
}

const LETTERS = {
  request: { open: '|', fill: '-', done: '.' },
  command: { open: '[', fill: '=', done: ']' },
} as const;
const MARKS = { failed: 'x', cancelled: '/', open: '>' } as const;

/** In units of the picture, of which 360 are the width of a phone. */
const ROW = 18;
const COLUMN = 14;
const LABEL_MAX = 120;

/**
 * A trace as a picture in SVG, with the rows of `formatTimeline`: requests are outlined, commands are filled.
 *
 * A cross at the end is failure, a slash cancellation; a bar without an end is still open at the end of the trace.
 *
 * @throws `INVALID_ARGUMENT` for events that are no iterable
 */
export function drawTimeline(events: Iterable<TraceEvent>, options: NotationOptions = {}): string {
  const { rows, length } = rowsOf(events, options);
  const labels = rows.map(({ label }) => widthOf(label) + 12);
  const left =
    12 +
    Math.min(
      LABEL_MAX,
      labels.reduce((most, one) => Math.max(most, one), 0),
    );
  const width = Math.max(360, left + length * COLUMN + 12);
  const step = (width - left - 12) / Math.max(1, length);
  const shapes = rows.flatMap((row, at): Shape[] => {
    const top = 12 + at * ROW;
    const [from, to] = [left + row.start * step, left + (row.end + 1) * step - 2];
    return [
      words(row.of === 'command' ? 22 : 12, top + 11, row.label.trim(), 'code', left - 12),
      rect(from, top + 2, to - from, ROW - 7, LOOKS[row.of], `${row.label.trim()}: ${row.outcome}`),
      ...ending(row.outcome, to, top + 2, ROW - 7),
    ];
  });
  const title = 'A timeline of requests and commands';
  const height = 24 + rows.length * ROW;
  return picture({ width, height, title, description: describe(rows) }, shapes);
}

const LOOKS = { request: 'later', command: 'there' } as const;

function ending(outcome: Row['outcome'], x: number, y: number, height: number): Shape[] {
  const bottom = y + height;
  switch (outcome) {
    case 'failed':
      return [
        line(x - 4, y - 1, x + 3, bottom + 1, 'cut'),
        line(x - 4, bottom + 1, x + 3, y - 1, 'cut'),
      ];
    case 'cancelled':
      return [line(x - 4, bottom + 1, x + 3, y - 1, 'cut')];
    case 'open':
      return [rect(x - 4, y - 1, 7, height + 2, 'paper')];
    case 'done':
      return [];
  }
}

function describe(rows: readonly Row[]): string {
  return rows.map(({ label, of, outcome }) => `${of} ${label.trim()}: ${outcome}`).join('; ');
}

function rowsOf(
  events: Iterable<TraceEvent>,
  options: NotationOptions,
): { readonly rows: readonly Row[]; readonly length: number } {
  formatSteps([], options); // refuses wrong options even if there are no events
  checkIterable('events', events);
  const trace = [...events];
  const ends = new Map<string, number>();
  for (const [at, event] of trace.entries()) {
    const key = keyOf(event);
    if (isEnd(event) && !ends.has(key)) ends.set(key, at);
  }
  const rows = trace.flatMap((event, start): Row[] => {
    if (isEnd(event)) return [];
    const at = ends.get(keyOf(event));
    const last = at === undefined ? undefined : trace[at];
    const label =
      event.kind === 'submit'
        ? `${event.request} ${formatRequest(event.what, options)}`
        : `  #${event.command} ${formatSteps([event.what], options)}`;
    const of = event.kind === 'submit' ? 'request' : 'command';
    return [{ label, of, start, end: at ?? trace.length - 1, outcome: outcomeOf(last) }];
  });
  return { rows, length: trace.length };
}

function keyOf(event: TraceEvent): string {
  return 'request' in event ? `request ${event.request}` : `command ${event.command}`;
}

function isEnd(event: TraceEvent): event is SettleEvent | CompleteEvent {
  return event.kind === 'settle' || event.kind === 'complete';
}

function outcomeOf(end: TraceEvent | undefined): Row['outcome'] {
  if (end?.kind === 'complete') return end.error === undefined ? 'done' : 'failed';
  if (end?.kind !== 'settle') return 'open';
  return end.outcome === 'done' || end.outcome === 'cancelled' ? end.outcome : 'failed';
}
