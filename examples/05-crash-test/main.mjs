// @ts-check
// Tries every system and its twins, and shows one report; with the name of a system, all that its twins come to.

import { crashTest, formatCrashReport } from 'write-barrier/testing';
import { log } from './log.mjs';
import { manifest } from './manifest.mjs';
import { pages } from './pages.mjs';
import { superblock } from './superblock.mjs';

/** @import { CrashTest } from 'write-barrier/testing' */

/** @type {Record<string, Record<string, CrashTest<unknown, unknown>>>} */
const systems = { log: log(), pages: pages(), manifest: manifest(), superblock: superblock() };
const [only] = process.argv.slice(2);

if (only === undefined) await run(Object.keys(systems), 'manifest');
else if (systems[only]) await run([only], only);
else {
  console.error(`'${only}' is no system; there are ${Object.keys(systems).join(', ')}`);
  process.exitCode = 1;
}

/**
 * @param {string[]} names
 * @param {string} reported whose failures are shown
 */
async function run(names, reported) {
  const rows = [['system', 'twin', 'verdict', 'recoveries', 'images']];
  const reports = [];
  for (const name of names) {
    for (const [twin, test] of Object.entries(systems[name] ?? {})) {
      const report = await crashTest(test);
      const { verdict, recoveries, images } = report;
      rows.push([name, twin, verdict, `${recoveries}`, `${images}`]);
      if (verdict !== (twin === 'sound' ? 'proved' : 'failed')) process.exitCode = 1;
      if (verdict === 'failed' && name === reported) {
        reports.push(`\n${name}, ${twin}\n${formatCrashReport(report)}`);
      }
    }
  }
  for (const line of [...aligned(rows), ...reports]) console.log(line);
}

/**
 * The last two columns are numbers.
 *
 * @param {string[][]} rows
 */
function aligned(rows) {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((text, i) => (i < 3 ? text.padEnd(widths[i] ?? 0) : text.padStart(widths[i] ?? 0)))
      .join('  '),
  );
}
