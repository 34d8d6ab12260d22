// @ts-check
// Prints what each arrangement costs, on a slow disk nearby and on a fast one far away.

import { STACK_TIMES } from '../../bench/devices/stack-times.mjs';
import { ARRANGEMENTS } from './arrangements.mjs';
import { compareStacks } from './compare.mjs';

const HEAD = ['', 'queue', 'flushes', 'commit', 'worst read', 'barrier', 'explicit flush'];

for (const [world, times] of Object.entries(STACK_TIMES)) {
  const rows = await compareStacks(ARRANGEMENTS, times);
  const lines = rows.map(({ name, queue, flushes, waiting, barrierHolds, emptyBarrierHolds }) => [
    ...[name, queue, `${flushes}`, `${waiting[0]?.meanUs}`, `${waiting[3]?.worstUs}`],
    barrierHolds ? 'holds' : 'BROKEN',
    emptyBarrierHolds ? 'holds' : 'BROKEN',
  ]);
  console.log(`${world}, in virtual microseconds`);
  for (const line of aligned([HEAD, ...lines])) console.log(`  ${line}`);
}

/** @param {string[][]} rows */
function aligned(rows) {
  const widths = HEAD.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((text, i) => text.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
