import {
  formatRequest,
  formatSteps,
  type NotationOptions,
  type TraceEvent,
} from '../model/index.js';

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
 */
export function formatTimeline(
  events: Iterable<TraceEvent>,
  options: NotationOptions = {},
): string {
  const trace = [...events];
  const rows = trace.flatMap((event, start) => {
    if (event.kind === 'submit') {
      const end = trace.findIndex((e) => e.kind === 'settle' && e.request === event.request);
      const outcome = trace[end];
      const mark = outcome?.kind === 'settle' ? (MARKS[outcome.outcome] ?? 'x') : '>';
      const label = `${event.request} ${formatRequest(event.what, options)}`;
      return [{ label, start, end, open: '|', fill: '-', mark }];
    }
    if (event.kind === 'dispatch') {
      const end = trace.findIndex((e) => e.kind === 'complete' && e.command === event.command);
      const answer = trace[end];
      const failed = answer?.kind === 'complete' && answer.error !== undefined;
      const mark = end < 0 ? '>' : failed ? 'x' : ']';
      const label = `  #${event.command} ${formatSteps([event.what], options)}`;
      return [{ label, start, end, open: '[', fill: '=', mark }];
    }
    return [];
  });

  const width = Math.max(0, ...rows.map(({ label }) => label.length));
  return rows
    .map(({ label, start, end, open, fill, mark }) => {
      const last = end < 0 ? trace.length - 1 : end;
      const body = last > start ? open + fill.repeat(last - start - 1) + mark : mark;
      return `${label.padEnd(width)} |${(' '.repeat(start) + body).padEnd(trace.length)}|`;
    })
    .join('\n');
}

const MARKS: Readonly<Record<string, string>> = { done: '.', cancelled: '/' };
