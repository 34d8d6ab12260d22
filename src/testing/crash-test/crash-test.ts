// Crash tests: run a workload on a simulated disk, then its recovery on every crash state, the disk image that a power cut
// may leave, and let the user's check judge each result.
//
//   workload   uses the disk, and tells a journal what it begins and what it acknowledges to its own users
//   recover    opens what the power cut left, and returns what a user would see
//   check      compares that with what must be there and what may be there
//
// One run of the recovery covers all crash states from which it reads the same (explore.ts), so few recoveries cover many
// states. The report says how many states there are, and how many are covered. The verdict is `proved` only if all are
// covered, because a state that was not tried may be the one that fails. The verdict holds for this workload, for the
// orders in which these seeds made the disk answer, on this device.
//
// One crash state may be left at several moments, with a different journal at each. All of them are judged (judge.J1).
//
// What is made of one run of the workload is in one-seed.ts.

import type { DiskFault } from '../device/disk-faults.js';
import { formatCrashReport, inspectable } from './crash-report.js';
import { explored, neverCame, replayed, warned } from './one-seed.js';
import { checkCrashTest } from './options.js';
import { smallestProgram } from './shrink.js';
import { bodyOf } from './survives.js';
import type { CrashReport, CrashTest } from './types.js';
import { Watch } from './watch.js';

/**
 * Runs a crash test. The first failure ends it.
 *
 * @throws what the workload throws; `INVALID_ARGUMENT` for options that are unknown, missing or out of range, for a
 *   workload whose commands go on after it has returned, for a recovery whose reads differ between two runs on equal disks,
 *   for a check whose answer is not a verdict, and for a `replay` of another form
 */
export async function crashTest<A, R, P = unknown>(test: CrashTest<A, R, P>): Promise<CrashReport> {
  checkCrashTest(test);
  const watch = new Watch(test.hangMs);
  if (test.replay !== undefined) return inspectable(await replayed(test, test.replay, watch));
  const { seed = 0, seeds = 1, trace, faults = [] } = test;
  const reports: CrashReport[] = [];
  // A fault that happens with one seed is in order, even if it does not happen with the others.
  let toCome: readonly DiskFault[] = trace ? [] : faults;
  const finish = (report: CrashReport): CrashReport =>
    inspectable(warned(report, toCome.map(neverCame)));
  // A given trace is one order of answers, whatever the seed is, and has no other steps.
  for (let next = seed; next < seed + (trace ? 1 : seeds); next++) {
    const all = [...(test.program ?? []).keys()];
    const { report, faultsToCome } = await explored(test, next, all, watch);
    toCome = toCome.filter((fault) => faultsToCome.includes(fault));
    reports.push(report);
    if (report.verdict === 'hung') break;
    if (report.verdict !== 'failed') continue;
    if (trace) break;
    const run = async (steps: readonly number[]): Promise<CrashReport | undefined> => {
      const { report: fewer } = await explored(test, next, steps, watch);
      // A later life that cannot go on without some steps needs them.
      const isOther = fewer.verdict === 'failed' && goesOn(fewer) !== goesOn(report);
      return isOther ? undefined : fewer;
    };
    return finish((await smallestProgram(all.length, run)) ?? together(reports));
  }
  return finish(together(reports));
}

/** Whether what fails is the life after the power cuts. */
function goesOn({ failure }: CrashReport): boolean | undefined {
  return failure?.replay.endsWith(' life');
}

/** The last report, with the sums and warnings of all. */
function together(reports: readonly CrashReport[]): CrashReport {
  const last = reports.at(-1) as CrashReport;
  const orders: Record<string, number> = {};
  const sums = { images: 0n, covered: 0n, recoveries: 0 };
  for (const report of reports) {
    sums.images += report.images;
    sums.covered += report.covered;
    sums.recoveries += report.recoveries;
    for (const [order, count] of Object.entries(report.orders)) {
      orders[order] = (orders[order] ?? 0) + count;
    }
  }
  if (last.failure) return { ...last, ...sums, orders };
  const warnings = [...new Set(reports.flatMap((report) => report.warnings))];
  const verdict = reports.every((report) => report.verdict === 'proved') ? 'proved' : 'passed';
  return { ...last, ...sums, orders, seeds: reports.length, verdict, warnings };
}

/**
 * A crash test for any test runner: the body of a test, which fails with the report as its message.
 *
 * @example
 * ```ts
 * import { test } from 'vitest'; // or from 'node:test', or Jest's own
 * test('my store survives', survives({ size, workload, recover, check }));
 * ```
 *
 * @param test what `crashTest` takes
 * @param options `allowWarnings`: a report with warnings passes, too; without it a verdict other than `proved` fails,
 *   because a warning says what the test has not shown. `full`: the message is not cut short, see `formatCrashReport`
 * @returns a function that resolves when the code survives. It rejects with an error whose message is the text of
 *   `formatCrashReport`, whose stack begins where `survives` was called, and whose cause is what recovery or check threw
 * @throws `INVALID_ARGUMENT` for unknown options; the function that it returns rejects as `crashTest` does
 */
export function survives<A, R, P = unknown>(
  test: CrashTest<A, R, P>,
  options: { readonly allowWarnings?: boolean; readonly full?: boolean } = {},
): () => Promise<void> {
  return bodyOf(() => crashTest(test), formatCrashReport, options, survives);
}
