// Makes a failure small: in what the power cut took, and in what the program did.

import { newestUntil } from '../space/cells.js';
import { CrashState } from '../space/crash-space.js';
import { lossesOf } from './crash-report.js';
import { type CrashReport, type Failed, judgeState, type Trial } from './trial.js';

/** Gives back everything that is lost, or as much of it, cell by cell, as leaves the failure. */
export async function smallestLoss<A, R>(
  trial: Trial<A, R>,
  failing: CrashState,
  { cut }: Failed,
): Promise<CrashState> {
  const { map } = trial.space;
  const whole = trial.space.inOrder(cut);
  if (await judgeState(trial, whole)) return whole;
  let state = failing;
  for (const { place } of lossesOf(trial.space, failing, cut)) {
    const versions = state.versions.slice();
    versions[place] = newestUntil(map.cells[place] as (typeof map.cells)[number], cut, true);
    const milder = new CrashState(map, versions);
    if (milder.isPossible && (await judgeState(trial, milder))) state = milder;
  }
  return state;
}

/**
 * Leaves out steps, first many at once, then one by one, as long as something fails. A workload that throws without
 * them needs them. Undefined where all are needed.
 *
 * Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input"; of its two ways the complements.
 *
 * @param run tests the program with these steps of it
 */
export async function smallestProgram(
  length: number,
  run: (steps: readonly number[]) => Promise<CrashReport>,
): Promise<CrashReport | undefined> {
  let steps: readonly number[] = [...new Array(length).keys()];
  let smallest: CrashReport | undefined;
  let size = Math.ceil(length / 2);
  while (size >= 1) {
    const { length: before } = steps;
    for (let at = 0; at < steps.length; ) {
      const fewer = [...steps.slice(0, at), ...steps.slice(at + size)];
      const report = await run(fewer).catch((): undefined => undefined);
      if (report?.verdict === 'failed') {
        steps = fewer;
        smallest = report;
      } else {
        at += size;
      }
    }
    // The last round is repeated until it finds nothing.
    if (size > 1 || steps.length === before) size = Math.floor(size / 2);
  }
  return smallest;
}
