// A row of a benchmark: ours against a rival in the same run, with the least that must be reached, and what the smallest code
// for the same work reaches. Printed for people, and with `--json` as one line of JSON for programs.

import { loadavg } from 'node:os';
import { median, ratioOf } from './figures.mjs';

const JSON_LINES = process.argv.includes('--json');

/**
 * Prints a row.
 *
 * @param row `bench`, `work` and `command` say what was measured; `rival` against what; `ratios` are ours to the rival's, one for
 *   each round, and more is better; `target` is the least that the median must reach; `limit`, if it is known, are the ratios of
 *   the smallest code to the same rival; `facts` are further figures
 */
export function printRow({ bench, work, command, rival, ratios, target, limit, facts = {} }) {
  const ratio = median(ratios);
  if (JSON_LINES) {
    const [min, max] = [Math.min(...ratios), Math.max(...ratios)];
    const reached = target === undefined ? undefined : ratio >= target;
    const smallest = limit && median(limit);
    const [load] = loadavg();
    const numbers = { ratio, min, max, target, reached, limit: smallest, load, ...facts };
    console.log(JSON.stringify({ bench, work, rival, ...numbers, command }, rounded));
    return;
  }
  const least = target === undefined ? '' : `, target ${target}`;
  const most = limit ? `; the smallest code ${ratioOf(limit)}` : '';
  const more = Object.entries(facts).map(([name, value]) => `, ${name} ${rounded('', value)}`);
  console.log(`    to ${rival}: ${ratioOf(ratios)}${least}${most}${more.join('')}`);
}

/** A line for people only. */
export function say(text) {
  if (!JSON_LINES) console.log(text);
}

function rounded(_, value) {
  return typeof value === 'number' ? Number(value.toPrecision(4)) : value;
}
