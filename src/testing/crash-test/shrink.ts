// Shrinks a failure: fewer power cuts, fewer lost sectors, newer content in them, fewer steps of the program.

import { CrashState } from '../space/crash-state.js';
import { newestUntil, regionOf, versionAt } from '../space/regions.js';
import { type Failed, isHang, judgeState } from './judge.js';
import { type Chain, chainOf, judgeChain, type Life } from './lives.js';
import { type Cut, cutOf } from './replay.js';
import { lossesOf } from './scene.js';
import type { Trial } from './trial.js';
import type { CrashReport } from './types.js';

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

/** So many places of a chain are tried, because each of them takes all lives again. */
const GIVEN_BACK_MAX = 64;

/**
 * Leaves out power cuts that the failure does not need, and then gives back what is lost in the others, the last one first.
 * Undefined if the chain does not fail again.
 */
export async function smallestChain<A, R>(
  trial: Trial<A, R>,
  { lives, states }: Chain,
): Promise<{ readonly chain: Chain; readonly failed: Failed } | undefined> {
  const fails = async (cuts: readonly Cut[]): Promise<typeof best> => {
    const chain = await chainOf(trial, cuts);
    const failed = chain && (await judgeChain(trial, chain));
    return failed && !isHang(failed) ? { chain, failed } : undefined;
  };
  let cuts = states.map((state, n) => {
    const { space, during } = lives[n] as Life;
    return cutOf(space, state, during);
  });
  let best: { readonly chain: Chain; readonly failed: Failed } | undefined = await fails(cuts);
  const attempt = async (fewer: readonly Cut[]): Promise<void> => {
    const found = await fails(fewer);
    if (!found) return;
    best = found;
    cuts = [...fewer];
  };
  for (let n = cuts.length - 1; best && n > 0; n -= 1)
    await attempt(cuts.filter((_, m) => m !== n));
  let tries = 0;
  for (let n = cuts.length - 1; best && n >= 0; n -= 1) {
    for (const offset of cuts[n]?.versions.keys() ?? []) {
      if (tries++ === GIVEN_BACK_MAX) return best;
      const { versions, ...cut } = cuts[n] as Cut;
      const fewer = new Map([...versions].filter(([at]) => at !== offset));
      await attempt(cuts.map((one, m) => (m === n ? { ...cut, versions: fewer } : one)));
    }
  }
  return best;
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
