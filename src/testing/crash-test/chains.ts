// Chains of power cuts: one crash state for each life, with everything decided. Failures are shrunk, described and repeated as
// chains.
//
// A life is what a power cut ends. The first one is the workload; after it comes a recovery, or a recovery and further work.

import type { Decisions } from '../space/decisions.js';
import { newestUntil, type Places, regionOf } from '../space/places.js';
import { type CutShort, type Failed, failedOn } from './judge.js';
import { type Replay, stateOf } from './replay.js';
import type { Cut, Kinds, Subject } from './subject.js';

/** The decisions about each life, the first one first. */
export function levelsOf<K extends Kinds>(top: Decisions<K['map']>): Decisions<K['map']>[] {
  return top.below ? [...levelsOf(top.below), top] : [top];
}

/** When each life can have been cut short, by what is decided of each. */
export function cutShort(
  lives: readonly Pick<CutShort, 'trace'>[],
  decided: readonly Omit<CutShort, 'trace'>[],
): CutShort[] {
  return decided.map(({ after, before }, n) => {
    return { trace: (lives[n] as CutShort).trace, after, before };
  });
}

/** A failure after power cuts, decided as far as recoveries have read. */
export interface Found<K extends Kinds> {
  readonly failed: Failed;
  readonly lives: readonly K['life'][];
  readonly decisions: Decisions<K['map']>;
}

/** A life, and the crash state that it has left. */
export type LinkOf<K extends Kinds> = K['life'] & { readonly state: K['state'] };

/** One crash state for each life. */
export interface ChainOf<K extends Kinds> {
  readonly links: readonly LinkOf<K>[];
  /** Another life follows, and its recovery and its work are to end. */
  readonly goesOn?: boolean | undefined;
}

/**
 * The chain of a failure. What no recovery has read is there as far as it was dispatched: by the moment from which
 * something must be there that was read to be missing, or, if `isEarly`, by that of the latest dispatch that was read, or of the
 * failed check if that is later.
 */
export function completed<K extends Kinds>(
  subject: Subject<K>,
  { failed, lives, decisions }: Found<K>,
  isEarly: boolean,
): ChainOf<K> {
  const links: LinkOf<K>[] = [];
  for (const [n, level] of levelsOf<K>(decisions).entries()) {
    const { decided, after, bound } = level;
    const life = lives[n] as K['life'];
    const { map } = life.space;
    const time = n === failed.life ? Math.max(after, failed.cut) : after;
    const newest = (region: Places): number =>
      isEarly && time < bound ? newestUntil(region, time, true) : newestUntil(region, bound, false);
    const version = (place: number): number => decided.get(place) ?? newest(regionOf(map, place));
    const fitting = subject.fit?.(level, version) ?? version;
    const below = leftOf(subject, links.at(-1));
    links.push({ ...life, state: subject.state(life.space, fitting, below) });
  }
  return { links, goesOn: failed.goesOn };
}

/** What a life has left. */
export function leftOf<K extends Kinds>(
  subject: Subject<K>,
  link: LinkOf<K> | undefined,
): K['left'] | undefined {
  return link && subject.left(link.state);
}

/** Judges what the last life of a chain has left, and the life that goes on with it. */
export async function judgeChain<K extends Kinds>(
  subject: Subject<K>,
  { links, goesOn }: ChainOf<K>,
): Promise<Failed | undefined> {
  const left = leftOf(subject, links.at(-1)) as K['left'];
  const cuts = (): CutShort[] =>
    cutShort(
      links,
      links.map(({ state }) => state),
    );
  const { failed } = await subject.judge(left, cuts);
  if (failed || !goesOn) return failed;
  const life = await subject.live(left, links);
  return 'cause' in life ? { ...failedOn(life.cause, cuts()), goesOn } : undefined;
}

/** Lives through these power cuts; undefined if one of them leaves no such state. */
export async function chainOf<K extends Kinds>(
  subject: Subject<K>,
  { cuts, goesOn }: Pick<Replay, 'cuts' | 'goesOn'>,
): Promise<ChainOf<K> | undefined> {
  const links: LinkOf<K>[] = [];
  for (const cut of cuts) {
    const left = leftOf(subject, links.at(-1));
    const life = left ? await lifeAfter(subject, left, cut, links) : subject.first;
    // While a failure is shrunk, a life may begin on what its recovery or its workload does not survive.
    const state = 'space' in life && stateOf(subject, life.space, cut, left);
    if (!state) return undefined;
    links.push({ ...life, state });
  }
  return { links, goesOn };
}

function lifeAfter<K extends Kinds>(
  subject: Subject<K>,
  left: K['left'],
  { during }: Cut,
  lives: readonly K['life'][],
): Promise<K['life'] | { readonly cause: unknown }> {
  return during === 'life' ? subject.live(left, lives) : subject.recover(left);
}
