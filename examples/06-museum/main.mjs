// @ts-check
// Shows all halls, or the one that is named.

import { STACK_TIMES } from '../../bench/devices/stack-times.mjs';
import { ARRANGEMENTS, stackName } from '../08-stacks/arrangements.mjs';
import { compareStacks } from '../08-stacks/compare.mjs';
import { HALLS } from './exhibits.mjs';
import { labelOf } from './label.mjs';

const [only] = process.argv.slice(2);
const known = Object.keys(HALLS);

if (only !== undefined && !known.includes(only)) {
  console.error(`'${only}' is no hall; there are ${known.join(', ')}`);
  process.exitCode = 1;
} else {
  for (const [i, hall] of (only === undefined ? known : [only]).entries()) {
    if (i > 0) console.log();
    await open(hall);
    if (hall === 'stacks') await figures();
  }
}

/** @param {string} hall */
async function open(hall) {
  const rows = [[hall, 'before', 'after', 'durable', 'flush', 'failure', 'cost', 'at the disk']];
  /** @type {string[][]} */
  const notes = [[]];
  for (const exhibit of HALLS[hall] ?? []) {
    const { cells, cost, steps, wrong, rules } = await labelOf(exhibit);
    const { before, after, durable, flush, failure } = cells;
    const commands = `${cost.writes}w ${cost.flushes}F`;
    rows.push([exhibit.name, before, after, durable, flush, failure, commands, steps]);
    notes.push([...wrong, ...rules]);
    if (exhibit.ours && [before, after, durable, flush].includes('NO')) process.exitCode = 1;
  }
  for (const [i, line] of aligned(rows).entries()) {
    console.log(line);
    for (const note of notes[i] ?? []) console.log(`    ${note}`);
  }
}

async function figures() {
  const near = await compareStacks(ARRANGEMENTS, STACK_TIMES.near);
  const far = await compareStacks(ARRANGEMENTS, STACK_TIMES.far);
  const rows = [['in virtual microseconds', 'queue', 'commit', 'read', 'far: commit', 'read']];
  for (const [i, { queue, waiting, ...row }] of near.entries()) {
    const times = [waiting, far[i]?.waiting ?? []].flatMap((guests) => [
      `${guests.find(({ guest }) => guest === 'journal A')?.meanUs}`,
      `${guests.find(({ guest }) => guest === 'reader')?.worstUs}`,
    ]);
    rows.push([stackName(row), queue, ...times]);
  }
  console.log();
  for (const line of aligned(rows)) console.log(line);
}

/** @param {string[][]} rows */
function aligned(rows) {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((text, i) => text.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
