// Which barrier would have prevented a failure. Advice is tried and not guessed: a barrier is put into one gap after the other, and
// the same crash state is judged again.

import { crashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import { regionOf, versionAt } from '../space/regions.js';
import { type Gap, gapsOf, missingSince, sameState, withBarriers } from './barriers.js';
import type { Told } from './execute.js';
import { type Chain, judgeChain, type Life } from './lives.js';
import { type Gone, isSound, lossesOf } from './scene.js';
import { type Failing, momentOf } from './shrink.js';
import type { Trial } from './trial.js';
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
  { chain, failed }: Failing,
): Promise<Advice> {
  let none: Advice | undefined;
  for (let n = chain.lives.length - 1; n >= 0; n -= 1) {
    const { space } = chain.lives[n] as Life;
    const state = chain.states[n] as CrashState;
    const cut = momentOf(chain, n, failed);
    const lost = lossesOf(space, state, cut);
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
  const { lives, states } = chain;
  const life = lives[n] as Life;
  const state = states[n] as CrashState;
  const below = states[n - 1];
  const { space, trace } = life;
  if (!space.profile.flush) {
    return { text: 'no barrier would have prevented it: the disk has no flush' };
  }
  const since = missingSince(space, state);
  const gaps = gapsOf(trace).filter(({ time }) => time > since && time <= cut);
  for (const gap of gaps.reverse().slice(0, GAPS_MAX)) {
    const repaired = crashSpace(withBarriers(trace, [gap], []), space.profile);
    const same = sameState(space, state, repaired, below && ((offset) => below.content(offset)));
    const again = same && { ...chain, states: states.map((one, m) => (m === n ? same : one)) };
    if (again && (await judgeChain(trial, again))) continue;
    const where = lives.length > 1 && n === 0 ? ' of the workload' : '';
    return { ...wordsFor(gap, life, where), before: gap.time };
  }
  const torn = lost.find(({ command }) => isThere(state, life, command));
  if (!torn && gaps.length > GAPS_MAX) {
    const text = `no barrier in the last ${GAPS_MAX} places before the cut would have prevented it; ${gaps.length - GAPS_MAX} earlier places were not tried`;
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
  { trace, siteOf }: Life,
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
  const site = siteOf(next);
  const from = site === undefined ? '' : `, which was called from ${site},`;
  const missing = `a barrier between #${after} and #${next}${where}`;
  return { missing, text: `${missing}${from} would have prevented it` };
}

/** Whether some of the data of a command is there. */
function isThere({ versions }: CrashState, { space }: Life, command: number): boolean {
  return versions.some(
    (version, place) => versionAt(regionOf(space.map, place), version).command === command,
  );
}
