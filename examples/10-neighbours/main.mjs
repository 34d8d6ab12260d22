// @ts-check
// Prints what the neighbours wait for: without a group, and on one.

import { SHARED_DISKS } from '../../bench/devices/shared-disk.mjs';
import { compareNeighbours } from './neighbours.mjs';

const HEAD = [
  '',
  'on',
  'worst read',
  'mean read',
  'commit',
  'bulk bytes/ms',
  'flushes / 1000 commits',
];

for (const [disk, times] of Object.entries(SHARED_DISKS)) {
  const rows = await compareNeighbours(times);
  const lines = rows.map(
    ({ name, way, worstReadUs, meanReadUs, commitUs, bulkBytesPerMs, flushes }) => [
      ...[name, way],
      ...[worstReadUs, meanReadUs, commitUs, bulkBytesPerMs, flushes].map(String),
    ],
  );
  console.log(`${disk}, in virtual microseconds`);
  const all = [HEAD, ...lines];
  const widths = HEAD.map((_, i) => Math.max(...all.map((line) => line[i]?.length ?? 0)));
  for (const line of all) {
    console.log(
      `  ${line
        .map((text, i) => text.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd()}`,
    );
  }
}
