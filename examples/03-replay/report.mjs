// @ts-check
// What a replay prints: progress while it runs, then a table, what each mode promises, and how to read it.

/**
 * @import { Outcome } from './replay.mjs'
 * @import { Trace } from './trace.mjs'
 */

/**
 * Titles, and what stands below them.
 *
 * @type {Readonly<Record<string, (outcome: Outcome) => string | number>>}
 */
const COLUMNS = Object.freeze({
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
const OPTIONAL = ['FUA writes'];

/**
 * @param {Trace} trace
 * @param {string} name
 */
export function introduction({ requests: { read, write, flush }, together }, name) {
  return (
    `Trace ${name}: ${read} reads, ${write} writes and ${flush} flushes of a guest, ` +
    `at most ${together} in flight.\n`
  );
}

/** @param {readonly Outcome[]} outcomes */
export function table(outcomes) {
  const columns = Object.entries(COLUMNS)
    .map(([title, cell]) => [title, ...outcomes.map((outcome) => cell(outcome))])
    .filter(([title, ...cells]) => !OPTIONAL.includes(String(title)) || cells.some(Boolean))
    .map((cells) => cells.map((cell) => aligned(cell, width(cells))));
  return ['', ...outcomes].map((_, row) =>
    columns
      .map((cells) => cells[row])
      .join('  ')
      .trimEnd(),
  );
}

/**
 * What every mode promises here, and how to read the table.
 *
 * @param {readonly Outcome[]} outcomes
 */
export function explanation(outcomes) {
  const name = Math.max(...outcomes.map(({ mode }) => mode.length));
  const promises = outcomes.map(
    ({ mode, guarantees: { reason } }) => `  ${mode.padEnd(name)}  ${reason}`,
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

/**
 * Shows how far a replay is: on a terminal in one line that is rewritten.
 *
 * @param {NodeJS.WriteStream} stream
 * @param {number} total requests of the whole run
 */
export function progress(stream, total) {
  let done = 0;
  let shown = -1;
  return {
    /** @param {string} mode */
    request(mode) {
      done += 1;
      const percent = Math.floor((100 * done) / total);
      if (!stream.isTTY || percent === shown) return;
      shown = percent;
      stream.write(`\r\x1b[K${percent} %  ${mode}`);
    },
    /** @param {Outcome} outcome */
    mode({ mode, problems }) {
      const end = problems.length === 0 ? 'images identical' : 'WRONG';
      if (!stream.isTTY) stream.write(`replayed ${mode}: ${end}\n`);
    },
    end() {
      if (stream.isTTY) stream.write('\r\x1b[K');
    },
  };
}

/** @param {Outcome} outcome */
function isAllowed({ guarantees }) {
  return guarantees.verdict === 'unsafe';
}

/** @param {readonly (string | number)[]} cells */
function width(cells) {
  return Math.max(...cells.map((cell) => String(cell).length));
}

/**
 * @param {string | number} cell
 * @param {number} columns
 */
function aligned(cell, columns) {
  return typeof cell === 'number' ? String(cell).padStart(columns) : cell.padEnd(columns);
}
