// Which barrier would have prevented a failure. Advice is tried and not guessed: a barrier is put into one gap after the other, and
// the same crash state is judged again.

import { crashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import { regionOf, versionAt } from '../space/places.js';
import { failsIn, type Gap, gapsOf, missingSince, withBarriers } from './barriers.js';
import { judgeChain, leftOf } from './chains.js';
import type { Told } from './execute.js';
import { diskSubject } from './lives.js';
import { type Gone, isSound, lossesOf } from './scene.js';
import { type FailingOf, momentOf } from './shrink.js';
import type { Chain, Disk, Life, Link, Trial } from './trial.js';
import type { CrashFailure } from './types.js';

/** The barrier that would have prevented a failure, or why none would have. */
export type Advice = NonNullable<CrashFailure['advice']>;

/** The maximum number of gaps that are tried in a life, from its end backwards. */
const GAPS_MAX = 100;

/**
 * The barrier that would have prevented the failure: the last one that does, in the last life that it does in, because it
 * orders no more than it must.
 */
export async function adviceFor<A, R>(
  trial: Trial<A, R>,
  { chain, failed }: FailingOf<Disk>,
): Promise<Advice> {
  let none: Advice | undefined;
  for (const [n, link] of [...chain.links.entries()].reverse()) {
    const cut = momentOf(link, n, failed);
    const lost = lossesOf(link.space, link.state, cut);
    if (lost.length === 0) continue;
    const advice = await adviceIn(trial, chain, n, cut, lost);
    if (advice.before !== undefined) return { ...advice, cut: n };
    none ??= advice;
  }
  if (none) return none;
  return trial.trace.commands.every(isSound)
    ? { text: 'nothing was lost: the recovery fails although everything was written in order' }
    : { text: 'nothing was lost: the recovery fails because of the fault' };
}

async function adviceIn<A, R>(
  trial: Trial<A, R>,
  chain: Chain,
  n: number,
  cut: number,
  lost: readonly Gone[],
): Promise<Advice> {
  const subject = diskSubject(trial);
  const { links } = chain;
  const link = links[n] as Link;
  const { space, trace, state } = link;
  const below = leftOf(subject, links[n - 1])?.content;
  if (!space.profile.flush) {
    return { text: 'no barrier would have prevented it: the disk has no flush' };
  }
  const since = missingSince(space, state);
  const gaps = gapsOf(trace).filter(({ time }) => time > since && time <= cut);
  for (const gap of gaps.reverse().slice(0, GAPS_MAX)) {
    const repaired = crashSpace(withBarriers(trace, [gap], []), space.profile);
    const fails = (same: CrashState): Promise<unknown> => {
      const again = links.map((one, m) => (m === n ? { ...one, state: same } : one));
      return judgeChain(subject, { ...chain, links: again });
    };
    if (await failsIn(repaired, state, fails, below)) continue;
    const where = links.length > 1 && n === 0 ? ' of the workload' : '';
    return { ...wordsFor(gap, link, where), before: gap.time };
  }
  const torn = lost.find(({ command }) => isThere(link, command));
  if (!torn && gaps.length > GAPS_MAX) {
    const text =
      `no barrier in the last ${GAPS_MAX} places before the cut would have prevented it; ` +
      `${gaps.length - GAPS_MAX} earlier places were not tried`;
    return { text };
  }
  const text = torn
    ? `#${torn.command} is torn: no barrier keeps a write whole; a checksum or a second copy would detect it`
    : 'no single barrier would have prevented it';
  return { text };
}

/** Reads leave nothing, so the place is named by the writes and flushes around it. */
function wordsFor(
  { behind, before, time }: Gap,
  { trace, sites }: Life,
  where: string,
): Required<Pick<Advice, 'text' | 'missing'>> {
  const { commands, marks } = trace;
  const matters = commands.flatMap(({ op }, n) => (op === 'read' ? [] : [n]));
  const after = matters.filter((n) => n <= behind).at(-1) ?? behind;
  const next = matters.find((n) => n >= (before ?? Number.POSITIVE_INFINITY));
  if (next === undefined) {
    const mark = marks.find((one) => one.time === time)?.value as Told<unknown> | undefined;
    const then = mark?.kind === 'shown' ? 'the recovery returns' : 'you acknowledge';
    const missing = `a flush after #${after}${where}`;
    return { missing, text: `${missing} would have kept it: wait for the flush before ${then}` };
  }
  const site = sites?.describe(next);
  const from = site === undefined ? '' : `, which was called from ${site},`;
  const missing = `a barrier between #${after} and #${next}${where}`;
  return { missing, text: `${missing}${from} would have prevented it` };
}

/** Whether some of the data of a command is there. */
function isThere({ space, state }: Link, command: number): boolean {
  return state.versions.some(
    (version, place) => versionAt(regionOf(space.map, place), version).command === command,
  );
}
