// What a replay prints: progress while it runs, then a table, what each mode promises, and how to read it.

import { counted, tableOf } from './command.js';
import type { Outcome } from './replay-run.js';
import type { ReplayTrace } from './replay-trace.js';

/** Titles, and what stands below them. */
const COLUMNS: Readonly<Record<string, (outcome: Outcome) => string | number>> = Object.freeze({
  mode: ({ mode, host }) => (host ? `${mode} over ${host}` : mode),
  reads: ({ commands }) => commands.read,
  writes: ({ commands }) => commands.write,
  'FUA writes': ({ commands }) => commands.fua,
  flushes: ({ commands }) => commands.flush,
  coalesced: ({ coalesced }) => coalesced,
  drains: ({ drains }) => drains,
  ms: ({ elapsedMs }) => Math.round(elapsedMs),
  images: ({ problems }) => (problems.length === 0 ? 'identical' : 'WRONG'),
  verdict: (outcome) => outcome.guarantees.verdict + (isAllowed(outcome) ? ' *' : ''),
});

/** Left out if all are zero: then the trace has none. */
const OPTIONAL: readonly string[] = ['FUA writes'];

/** What is replayed. */
export function introduction(trace: ReplayTrace): string {
  const { name, together, leftOut } = trace;
  const { read, write, flush } = trace.requests;
  const flushes = counted(flush, 'flush', 'flushes');
  const requests = `${counted(read, 'read')}, ${counted(write, 'write')} and ${flushes} of a guest`;
  const first = `Trace ${name}: ${requests}, at most ${together} in flight.`;
  return `${[first, ...leftOut].join('\n')}\n`;
}

/** A line for each mode. */
export function tableFor(outcomes: readonly Outcome[]): string[] {
  const columns = Object.entries(COLUMNS).filter(
    ([title, cell]) =>
      !OPTIONAL.includes(title) || outcomes.some((outcome) => Boolean(cell(outcome))),
  );
  const rows = outcomes.map((outcome) => columns.map(([, cell]) => cell(outcome)));
  return tableOf([columns.map(([title]) => title), ...rows]);
}

/** What every mode promises here, and how to read the table. */
export function explanation(outcomes: readonly Outcome[]): string[] {
  const width = Math.max(...outcomes.map(({ mode }) => mode.length));
  const promises = outcomes.map(
    ({ mode, guarantees: { reason } }) => `  ${mode.padEnd(width)}  ${reason}`,
  );
  const notes = outcomes.some(isAllowed)
    ? ['', '* A scheduler refuses this mode on such a device. The replay took it with allowUnsafe.']
    : [];
  return [
    ...notes,
    '',
    'What a barrier of each mode promises on this device:',
    ...promises,
    '',
    HOW,
  ];
}

const HOW = `\
How to read this: every flush of the guest became a barrier (in NONE, which has none, a flush), and the
commands are counted where they reach the files. A drain is a wait until everything issued has completed; a
coalesced flush is one that shared a device flush. Every mode must leave the same image, because the power is
not cut here. The verdict says whether a power cut would have left an image that the guest can recover; the
flushes that an unsafe mode saves are those that a power cut makes necessary. NONE is a special case: it
orders nothing, but this guest waits for every flush that it sends, as Linux does since 2.6.37.
A tag mode over another scheduler passes its barriers down. Those of plain TAG have no data to carry the tag,
so the mode drains instead, and no flush reaches the file.`;

/** Shows how far a replay is. */
export interface Progress {
  request(mode: string): void;
  mode(outcome: Outcome): void;
  end(): void;
}

/**
 * Shows how far a replay is: on a terminal in one line that is rewritten.
 *
 * @param total requests of the whole run
 */
export function progress(stream: NodeJS.WriteStream, total: number): Progress {
  let done = 0;
  let shown = -1;
  return {
    request(mode) {
      done += 1;
      const percent = Math.floor((100 * done) / total);
      if (!stream.isTTY || percent === shown) return;
      shown = percent;
      stream.write(`\r\x1b[K${percent} %  ${mode}`);
    },
    mode({ mode, problems }) {
      const end = problems.length === 0 ? 'images identical' : 'WRONG';
      if (!stream.isTTY) stream.write(`replayed ${mode}: ${end}\n`);
    },
    end() {
      if (stream.isTTY) stream.write('\r\x1b[K');
    },
  };
}

function isAllowed({ guarantees }: Outcome): boolean {
  return guarantees.verdict === 'unsafe';
}
