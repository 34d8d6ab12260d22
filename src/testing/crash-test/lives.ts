// Lives: what a power cut ends. The first one is the workload; after it comes a recovery, or a recovery and further work.
//
// A later life runs on a disk that has decided nothing yet, is recorded like the workload, and has a crash space of its own. If its
// recovery or its work throws or hangs, the power cuts before it are what the code does not survive.
//
// A chain is one crash state for each life, with everything decided. Failures are shrunk, described and repeated as chains.

import { CallSites } from '../device/call-site.js';
import { recoveryPaceOf } from '../device/disk-options.js';
import type { Content, DiskTrace } from '../device/disk-trace.js';
import type { VolatileDisk } from '../device/volatile-disk.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import type { Decisions } from '../space/decisions.js';
import { newestUntil, regionOf } from '../space/places.js';
import type { Region } from '../space/regions.js';
import { SettledDisk } from '../space/settled-disk.js';
import { type Executed, execute, work } from './execute.js';
import { type CutShort, copied, type Failed, failedOn, judge } from './judge.js';
import { recorded, recoverOn } from './recovery.js';
import { type Cut, type Replay, stateOf } from './replay.js';
import type { Trial } from './trial.js';

/** What a power cut ended. */
export interface Life extends Omit<Executed, 'faultsToCome'> {
  readonly during: Cut['during'];
  readonly space: CrashSpace;
}

/** The life of the workload. */
export function firstLife<A, R>(trial: Trial<A, R>): Life {
  return { ...trial, during: 'workload' };
}

/** A recovery that was cut short. */
export function recoveryLife<A, R>(
  { test }: Pick<Trial<A, R>, 'test'>,
  trace: DiskTrace,
  sites?: CallSites,
): Life {
  const space = crashSpace(trace, test.profile);
  return { during: 'recovery', trace, space, ...(sites && { sites }) };
}

/**
 * One more life: recovers, shows what it has recovered, and works. If the recovery or the workload throws or hangs, the cause of
 * that.
 *
 * @throws what reading `content` throws
 */
export async function live<A, R>(
  { test, seed, steps, watch }: Trial<A, R>,
  content: Content,
  lives: readonly Life[],
): Promise<Life | { readonly cause: unknown }> {
  const { size, profile = {}, answers = 'later' } = test;
  // A recovery that was cut short is no life of its own.
  const number = 1 + lives.filter(({ during }) => during !== 'recovery').length;
  let broken: unknown;
  // The disk reads when it likes, and an error there would end the process.
  const guarded: Content = (offset) => {
    try {
      return content(offset);
    } catch (error) {
      broken ??= error;
      return undefined;
    }
  };
  const recoverAndWork = async (disk: VolatileDisk): Promise<void> => {
    const { pace } = disk;
    disk.pace = recoveryPaceOf(seed);
    const shown = await test.recover(disk);
    disk.pace = pace;
    disk.mark({ kind: 'shown', operation: copied(shown) });
    await work(test, steps, disk, { number, shown });
  };
  const options = { size, profile, answers, seed: (seed + number - 1) % 2 ** 32 };
  const run = await execute(options, recoverAndWork, watch, guarded).catch((cause: unknown) => ({
    cause,
  }));
  if (broken) throw broken;
  if ('cause' in run) return run;
  return { ...run, during: 'life', space: crashSpace(run.trace, profile) };
}

/** The decisions about each life, the first one first. */
export function levelsOf(top: Decisions): Decisions[] {
  return top.below ? [...levelsOf(top.below), top] : [top];
}

/** When each life can have been cut short, by what is decided of each. */
export function cutShort(
  lives: readonly Life[],
  decided: readonly Omit<CutShort, 'trace'>[],
): CutShort[] {
  return decided.map(({ after, before }, n) => {
    return { trace: (lives[n] as Life).trace, after, before };
  });
}

/** A failure after power cuts, decided as far as recoveries have read. */
export interface Found {
  readonly failed: Failed;
  readonly lives: readonly Life[];
  readonly decisions: Decisions;
}

/** A life, and the crash state that it has left. */
export interface Link extends Life {
  readonly state: CrashState;
}

/** One crash state for each life. */
export interface Chain {
  readonly links: readonly Link[];
  /** Another life follows, and its recovery and its work are to end. */
  readonly goesOn?: boolean | undefined;
}

/**
 * The chain of a failure. What no recovery has read is there as far as it was dispatched: by the moment from which
 * something must be there that was read to be missing, or, if `isEarly`, by that of the latest dispatch that was read, or of the
 * failed check if that is later.
 */
export function completed({ failed, lives, decisions }: Found, isEarly: boolean): Chain {
  const links: Link[] = [];
  for (const [n, { decided, after, bound }] of levelsOf(decisions).entries()) {
    const life = lives[n] as Life;
    const { map } = life.space;
    const time = n === failed.life ? Math.max(after, failed.cut) : after;
    const newest = (region: Region): number =>
      isEarly && time < bound ? newestUntil(region, time, true) : newestUntil(region, bound, false);
    const version = (place: number): number => decided.get(place) ?? newest(regionOf(map, place));
    links.push({ ...life, state: new CrashState(map, version, contentOf(links.at(-1))) });
  }
  return { links, goesOn: failed.goesOn };
}

/** What a life has left of the medium. */
export function contentOf(link: Link | undefined): Content | undefined {
  return link && ((offset) => link.state.content(offset));
}

/** Judges what the last life of a chain has left, and the life that goes on with it. */
export async function judgeChain<A, R>(
  trial: Trial<A, R>,
  { links, goesOn }: Chain,
): Promise<Failed | undefined> {
  const last = links.at(-1) as Link;
  const cuts = (): CutShort[] =>
    cutShort(
      links,
      links.map(({ state }) => state),
    );
  const { failed } = await judge(trial, last.state.disk(), cuts);
  if (failed || !goesOn) return failed;
  const life = await live(trial, contentOf(last) as Content, links);
  return 'cause' in life ? { ...failedOn(life.cause, cuts()), goesOn } : undefined;
}

/** Lives through these power cuts; undefined if one of them leaves no such state. */
export async function chainOf<A, R>(
  trial: Trial<A, R>,
  { cuts, goesOn }: Pick<Replay, 'cuts' | 'goesOn'>,
): Promise<Chain | undefined> {
  const links: Link[] = [];
  for (const cut of cuts) {
    const content = contentOf(links.at(-1));
    const life = content ? await lifeAfter(trial, content, cut, links) : firstLife(trial);
    // While a failure is shrunk, a life may begin on a disk that its recovery or its workload does not survive.
    const state = 'space' in life && stateOf(life.space, cut, content);
    if (!state) return undefined;
    links.push({ ...life, state });
  }
  return { links, goesOn };
}

async function lifeAfter<A, R>(
  trial: Trial<A, R>,
  content: Content,
  { during }: Cut,
  lives: readonly Life[],
): Promise<Life | { readonly cause: unknown }> {
  if (during === 'life') return live(trial, content, lives);
  const { test, seed, space, watch } = trial;
  const sites = new CallSites();
  const recovery = recorded(test, seed, new SettledDisk(space.map, content), () => sites.add());
  // What a recovery has done before it throws can be cut short as well.
  await Promise.resolve(recoverOn(test, recovery.disk, watch)).catch(() => undefined);
  recovery.end();
  return recoveryLife(trial, recovery.recorder.trace, sites);
}
