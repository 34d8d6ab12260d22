// Shrinks a failure: fewer power cuts, fewer lost sectors, newer content in them, an earlier cut, fewer steps of the program.
//
// A chain of power cuts is shrunk as a list of cuts (replay.ts): each try lives through the changed list from the start, because a
// recovery that reads something else may write something else. A list that no power cuts leave, and one that passes, is no
// smaller failure. A hang is not one either.
//
// The program is shrunk last, and by whole tests, because other steps have other power cuts.

import { lostPlaces, momentsOf, versionAt } from '../space/places.js';
import { type ChainOf, chainOf, completed, type Found, judgeChain, type LinkOf } from './chains.js';
import { type Failed, isHang } from './judge.js';
import { cutOf } from './replay.js';
import type { AnyState, Cut, Kinds, Subject } from './subject.js';

/** A chain, and how it fails. */
export interface FailingOf<K extends Kinds> {
  readonly chain: ChainOf<K>;
  readonly failed: Failed;
}

/** So many newer contents of a place are tried, the newest first, because a place may have been written thousands of times. */
const NEWER_MAX = 16;

/** So many tries are made if each of them takes later lives again. */
const TRIES_MAX = 200;

/**
 * Leaves out power cuts that the failure does not need, and then gives back what is lost in the others, the last one first:
 * all of it, or place by place as much as the failure allows. A recovery that hangs is a different mistake.
 *
 * @returns undefined if the chain does not fail again
 */
async function smallestChain<K extends Kinds>(
  subject: Subject<K>,
  { links, goesOn }: ChainOf<K>,
): Promise<FailingOf<K> | undefined> {
  let best = undefined as FailingOf<K> | undefined;
  let tries = links.length > 1 || goesOn ? TRIES_MAX : Number.POSITIVE_INFINITY;
  const attempt: Attempt<K> = async (cuts, suits = () => true) => {
    tries -= 1;
    const chain = tries < 0 ? undefined : await chainOf(subject, { cuts, goesOn });
    const failed = chain && (await judgeChain(subject, chain));
    if (!failed || isHang(failed) || !suits({ chain, failed })) return false;
    best = { chain, failed };
    return true;
  };
  const first = links.map((link) => cutOf(subject, link, link.state.after));
  await attempt(first);
  for (let n = first.length - 1; best && n > 0; n -= 1) {
    await attempt(cutsOf(subject, best).filter((_, m) => m !== n));
  }
  for (let n = (best?.chain.links.length ?? 0) - 1; best && n >= 0; n -= 1) {
    await giveBack(subject, best, n, () => best as FailingOf<K>, attempt);
  }
  if (best) await cutEarlier(subject, best, attempt);
  return best;
}

/** Takes a list of cuts for the best chain, if it fails and suits. */
type Attempt<K extends Kinds> = (
  cuts: readonly Cut[],
  suits?: (found: FailingOf<K>) => boolean,
) => Promise<boolean>;

/**
 * Cuts the power in the last life as early as nothing more is lost by it, by halves. What had not been sent by then has no part in
 * the failure, and a barrier in front of it is no advice.
 */
async function cutEarlier<K extends Kinds>(
  subject: Subject<K>,
  found: FailingOf<K>,
  attempt: Attempt<K>,
): Promise<void> {
  const lostIn = ({ chain: { links }, failed }: FailingOf<K>): number => {
    const link = links.at(-1) as LinkOf<K>;
    const cut = momentOf(link, links.length - 1, failed);
    return [...lostPlaces(link.space.map, link.state.versions, cut)].length;
  };
  const lost = lostIn(found);
  const { map } = (found.chain.links.at(-1) as LinkOf<K>).space;
  const before = cutsOf(subject, found);
  const last = before.pop() as Cut;
  const earlier = momentsOf(map).filter((moment) => moment < last.time);
  let [low, high] = [0, earlier.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const cuts = [...before, { ...last, time: earlier[middle] as number }];
    if (await attempt(cuts, (one) => lostIn(one) <= lost)) high = middle;
    else low = middle + 1;
  }
}

/** The warning about a chain that does not fail again. */
export const UNSTEADY =
  'the same image did not fail again: the recovery or the check is not deterministic';

/**
 * The failure with the smallest chain. What no recovery has read is there as far as the failure allows.
 *
 * @returns `isSteady`: the chain fails again
 */
export async function smallestFailure<K extends Kinds>(
  subject: Subject<K>,
  found: Found<K>,
): Promise<FailingOf<K> & { readonly isSteady: boolean }> {
  const { failed } = found;
  const early = completed(subject, found, true);
  const smallest = isHang(failed)
    ? undefined
    : ((await smallestChain(subject, completed(subject, found, false))) ??
      (await smallestChain(subject, early)));
  return { ...(smallest ?? { chain: early, failed }), isSteady: smallest !== undefined };
}

/** The power cuts of a chain, at the moments that its failure has them. */
export function cutsOf<K extends Kinds>(
  subject: Subject<K>,
  { chain, failed }: FailingOf<K>,
): Cut[] {
  return chain.links.map((link, n) => cutOf(subject, link, momentOf(link, n, failed)));
}

/** The moment of the power cut in a life. */
export function momentOf(
  { state }: { readonly state: AnyState },
  life: number,
  failed: Failed,
): number {
  return life === failed.life ? failed.cut : state.after;
}

/** Tries newer content for what is lost in one life. */
async function giveBack<K extends Kinds>(
  subject: Subject<K>,
  { chain, failed }: FailingOf<K>,
  n: number,
  best: () => FailingOf<K>,
  attempt: Attempt<K>,
): Promise<void> {
  const link = chain.links[n] as LinkOf<K>;
  const { space, state } = link;
  const withVersions = (change: (cut: Cut) => Cut['versions']): Cut[] =>
    cutsOf(subject, best()).map((one, m) => (m === n ? { ...one, versions: change(one) } : one));
  if (await attempt(withVersions(() => new Map()))) return;
  const cut = momentOf(link, n, failed);
  for (const { region, place, there, newest } of lostPlaces(space.map, state.versions, cut)) {
    for (let version = newest; version > Math.max(there, newest - NEWER_MAX); version -= 1) {
      if (!versionAt(region, version).intact) continue;
      const changed = (one: Cut): Cut['versions'] =>
        subject.withVersion?.(space, one, place, version) ??
        new Map(one.versions).set(subject.keyOf(region, place), version);
      if (await attempt(withVersions(changed))) break;
    }
  }
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
export async function smallestProgram<T extends { readonly verdict: string }>(
  length: number,
  run: (steps: readonly number[]) => Promise<T | undefined>,
): Promise<T | undefined> {
  let steps: readonly number[] = [...new Array(length).keys()];
  let smallest: T | undefined;
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
