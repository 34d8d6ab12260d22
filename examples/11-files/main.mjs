// @ts-check
// Tries the store and its bugs on each file system, and shows one report.

import { crashFiles, formatFilesReport } from 'write-barrier/testing/files';
import { BUGS, storeTest } from './store.mjs';

const MODELS = /** @type {const} */ (['ext4', 'ext4-journal', 'xfs', 'btrfs', 'posix']);

const rows = [['', ...MODELS]];
for (const bug of [undefined, ...BUGS]) {
  const verdicts = [];
  for (const model of MODELS) {
    const { verdict } = await crashFiles({ ...storeTest(bug), models: [model] });
    verdicts.push(verdict);
  }
  rows.push([bug ?? 'repaired', ...verdicts]);
}
for (const row of rows) {
  const cells = row.map((text, i) => text.padEnd(i === 0 ? 24 : 12));
  console.log(cells.join('  ').trimEnd());
}

const bug = 'no fsync of the folder';
console.log(`\n${bug}:\n${formatFilesReport(await crashFiles(storeTest(bug)))}`);
