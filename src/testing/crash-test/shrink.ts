// Shrinks a failure: fewer lost sectors, newer content in them, fewer steps of the program.

import { CrashState } from '../space/crash-state.js';
import { newestUntil, regionOf, versionAt } from '../space/regions.js';
import { lossesOf } from './scene.js';
import { type CrashReport, type Failed, isHang, judgeState, type Trial } from './trial.js';

/** Gives back everything that is lost, or region by region as much as the failure allows. */
export async function smallestLoss<A, R>(
  trial: Trial<A, R>,
  failing: CrashState,
  { cut }: Failed,
): Promise<CrashState> {
  const { map } = trial.space;
  const whole = trial.space.inOrder(cut);
  if (await fails(trial, whole)) return whole;
  let state = failing;
  for (const { place } of lossesOf(trial.space, failing, cut)) {
    const region = regionOf(map, place);
    const newest = newestUntil(region, cut, true);
    const there = failing.versions[place] as number;
    for (let version = newest; version > Math.max(there, newest - NEWER_MAX); version -= 1) {
      if (!versionAt(region, version).intact) continue;
      const versions = state.versions.slice();
      versions[place] = version;
      const milder = new CrashState(map, versions);
      if (!milder.isPossible || !(await fails(trial, milder))) continue;
      state = milder;
      break;
    }
  }
  return state;
}

/** So many newer contents of a region are tried, the newest first, because a region may have been written thousands of times. */
const NEWER_MAX = 16;

/** A recovery that hangs is a different mistake from the one that is being shrunk. */
async function fails<A, R>(trial: Trial<A, R>, state: CrashState): Promise<boolean> {
  const failed = await judgeState(trial, state);
  return failed !== undefined && !isHang(failed);
}

/**
 * Leaves out steps, first many at once, then one by one, while the test still fails. A workload that throws without some
 * steps needs them. One that hangs ends the search, because the next tries may take as long. Undefined if all steps are
 * needed.
 *
 * Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input"; of its two ways the complements.
 *
 * @param run tests the program with only these steps
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
      if (report?.verdict === 'hung') return smallest;
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
