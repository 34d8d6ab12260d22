// Power cuts after the first one: during a recovery (`nested`), and in later lives (`lives`).
//
// After a power cut comes a life: a recovery, or a recovery and further work. It runs on a disk that has decided nothing yet, is
// recorded like the workload, and has a crash space of its own. The next recovery reads what this life has left, and below
// that what the power cuts before have left. It decides both when it reads them (decisions.ts), so its runs cover all crash
// states of all lives together, each once.
//
// A chain is the same with everything decided: one crash state for each life. Failures are shrunk, described and repeated as chains.

import { misuse } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import { CallSites } from '../device/call-site.js';
import { type Content, DiskRecorder, type DiskTrace, recording } from '../device/disk-trace.js';
import type { VolatileDisk } from '../device/volatile-disk.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import type { Decisions } from '../space/decisions.js';
import { continued, crashesOf, type Run } from '../space/explore.js';
import { newestUntil, type Region, regionOf } from '../space/regions.js';
import { SettledDisk } from '../space/settled-disk.js';
import { execute, journalOf, type Tell } from './execute.js';
import { type CutShort, type Failed, failedOn, judge, recoverOn } from './judge.js';
import { type Cut, stateOf } from './replay.js';
import { isWrite } from './scene.js';
import type { Trial } from './trial.js';
import { HangError } from './watch.js';

/** What a power cut ended. */
export interface Life extends Pick<Trial<unknown, unknown>, 'siteOf' | 'whyNoSite'> {
  readonly during: Cut['during'];
  readonly trace: DiskTrace;
  readonly space: CrashSpace;
}

/** The life of the workload. */
export function firstLife<A, R>({ trace, space, siteOf, whyNoSite }: Trial<A, R>): Life {
  return { during: 'workload', trace, space, siteOf, whyNoSite };
}

// The search

/** How many more power cuts may come. */
export interface Limits {
  /** During recoveries. */
  readonly nested: number;
  /** In lives with further work. */
  readonly lives: number;
}

/** What has been tried. */
export interface Tally {
  tried: number;
  readonly triedMax: number;
  /** Whether everything was tried. */
  isWhole: boolean;
  /** Why the disk of a later life may have answered too early. */
  doubt?: string | undefined;
}

/** A failure after power cuts, decided as far as recoveries have read. */
export interface Found {
  readonly failed: Failed;
  readonly lives: readonly Life[];
  readonly decisions: Decisions;
}

/** One life tries so many recoveries, or this share of those that are left, so that the first lives do not take all. */
const LIFE_MIN = 1000;
const LIFE_SHARE = 1 / 16;

/**
 * Goes on after a crash that the recovery has survived: with power cuts during that recovery, and in another life.
 *
 * @param recovery what the recovery did, if power cuts during recoveries are to come
 */
export async function goOn<A, R>(
  trial: Trial<A, R>,
  lives: readonly Life[],
  { decisions }: Run,
  recovery: DiskTrace | undefined,
  limits: Limits,
  tally: Tally,
): Promise<Found | undefined> {
  if (recovery?.commands.some(isWrite)) {
    const space = crashSpace(recovery, trial.test.profile);
    const life: Life = { during: 'recovery', trace: recovery, space, ...NO_SITES };
    const fewer = { ...limits, nested: limits.nested - 1 };
    const found = await cutIn(trial, [...lives, life], decisions, fewer, tally);
    if (found) return found;
  }
  if (limits.lives === 0) return undefined;
  for (const run of continued(decisions)) {
    if (isOver(tally)) return undefined;
    tally.tried += 1;
    const life = await live(trial, run.content, lives);
    if ('hang' in life)
      return { failed: hangIn(lives, life.hang), lives, decisions: run.decisions };
    tally.doubt ??= life.doubt;
    const fewer = { ...limits, lives: limits.lives - 1 };
    const found = await cutIn(trial, [...lives, life], run.decisions, fewer, tally);
    if (found) return found;
  }
  return undefined;
}

/** Cuts the power at every moment of the last life, and recovers. */
async function cutIn<A, R>(
  trial: Trial<A, R>,
  lives: readonly Life[],
  below: Decisions,
  limits: Limits,
  tally: Tally,
): Promise<Found | undefined> {
  const { space } = lives.at(-1) as Life;
  const left = tally.triedMax - tally.tried;
  const most = Math.max(LIFE_MIN, Math.ceil(left * LIFE_SHARE));
  const all = space.count * below.states;
  let covered = 0n;
  let tried = 0;
  const options = all > BigInt(most) ? { recoveriesMax: most } : {};
  for (const run of crashesOf(space, options, below)) {
    if (isOver(tally)) return undefined;
    if (tried === most) break;
    tried += 1;
    tally.tried += 1;
    const recorder = limits.nested > 0 ? new DiskRecorder(space.map.size) : undefined;
    const disk = recorder ? recordingRecovery(run.disk, recorder) : run.disk;
    const failed = await judge(trial, disk, () => cutShort(lives, levelsOf(run.decisions)));
    covered += run.images;
    if (failed) return { failed, lives, decisions: run.decisions };
    const found = await goOn(trial, lives, run, recorder?.trace, limits, tally);
    if (found) return found;
  }
  if (covered < all) tally.isWhole = false;
  return undefined;
}

/** Records a recovery. Its disk fails a command only by refusing it, so nothing of it reaches the medium. */
export function recordingRecovery(
  disk: Storage,
  recorder: Pick<DiskRecorder, 'dispatch' | 'complete'>,
): Storage {
  return recording(disk, {
    dispatch: (what, data) => recorder.dispatch(what, data),
    complete: (command, failed) =>
      recorder.complete(command, failed, failed ? { kind: 'lost' } : undefined),
  });
}

function isOver(tally: Tally): boolean {
  if (tally.tried < tally.triedMax) return false;
  tally.isWhole = false;
  return true;
}

function levelsOf(top: Decisions): Decisions[] {
  return top.below ? [...levelsOf(top.below), top] : [top];
}

/** When each life can have been cut short, by what is decided of each. */
function cutShort(lives: readonly Life[], decided: readonly Omit<CutShort, 'trace'>[]): CutShort[] {
  return decided.map(({ after, before }, n) => {
    return { trace: (lives[n] as Life).trace, after, before };
  });
}

function hangIn(lives: readonly Life[], hang: HangError): Failed {
  return failedOn(
    hang,
    lives.map(({ trace }) => ({ trace, after: 0, before: 0 })),
  );
}

const NO_SITES = { siteOf: () => undefined, whyNoSite: () => undefined };

/**
 * One more life: recovers, shows what it has recovered, and works.
 *
 * @throws what the recovery or the workload throws
 */
async function live<A, R>(
  { test, seed, steps, watch }: Trial<A, R>,
  content: Content,
  lives: readonly Life[],
): Promise<(Life & { readonly doubt?: string | undefined }) | { readonly hang: HangError }> {
  const { size, profile = {}, answers = 'later', program = [] } = test;
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
  const work = async (disk: VolatileDisk, tell: Tell): Promise<void> => {
    // The disk of a recovery answers at once, in every life.
    disk.answersAtOnce = true;
    const shown = await test.recover(disk);
    disk.answersAtOnce = answers === 'at-once';
    tell({ kind: 'shown', operation: shown });
    const taken = steps.map((step) => program[step] as unknown);
    await test.workload(disk, journalOf<A>(tell), taken, { number, shown });
  };
  try {
    const options = { size, profile, answers, seed: (seed + number - 1) % 2 ** 32 };
    const { trace, siteOf, whyNoSite, unfinished, doubt } = await execute(
      options,
      work,
      watch,
      guarded,
    );
    if (broken) throw broken;
    if (unfinished !== undefined) throw misuse(unfinished);
    const space = crashSpace(trace, profile);
    return { during: 'life', trace, space, siteOf, whyNoSite, doubt };
  } catch (error) {
    if (broken) throw broken;
    if (!(error instanceof HangError)) throw error;
    return { hang: error };
  }
}

// Chains

/** One crash state for each life. */
export interface Chain {
  readonly lives: readonly Life[];
  readonly states: readonly CrashState[];
}

/**
 * The chain of a failure. What no recovery has read is there as far as it was dispatched. `early`: by the moment of the latest
 * dispatch that was read, or of the failed check if that is later. `late`: by the moment from which something must be there that
 * was read to be missing.
 */
export function completed({ failed, lives, decisions }: Found, when: 'early' | 'late'): Chain {
  const states: CrashState[] = [];
  for (const [n, { space, decided, after, bound }] of levelsOf(decisions).entries()) {
    const below = states.at(-1);
    const { map } = space;
    const time = n === failed.life ? Math.max(after, failed.cut) : after;
    const newest = (region: Region): number =>
      when === 'early' && time < bound
        ? newestUntil(region, time, true)
        : newestUntil(region, bound, false);
    const version = (place: number): number => decided.get(place) ?? newest(regionOf(map, place));
    states.push(new CrashState(map, version, below && ((offset) => below.content(offset))));
  }
  return { lives, states };
}

/** Judges what the last life of a chain has left. */
export function judgeChain<A, R>(
  trial: Pick<Trial<A, R>, 'test' | 'watch'>,
  { lives, states }: Chain,
): Promise<Failed | undefined> {
  const disk = (states.at(-1) as CrashState).disk();
  return judge(trial, disk, () => cutShort(lives, states));
}

/** Lives through these power cuts; undefined if one of them leaves no such state. */
export async function chainOf<A, R>(
  trial: Trial<A, R>,
  cuts: readonly Cut[],
): Promise<Chain | undefined> {
  const lives: Life[] = [];
  const states: CrashState[] = [];
  for (const cut of cuts) {
    const below = states.at(-1);
    const content = below && ((offset: number) => below.content(offset));
    const life = content ? await lifeAfter(trial, content, cut, lives) : firstLife(trial);
    const state = life && stateOf(life.space, cut, content);
    if (!life || !state) return undefined;
    lives.push(life);
    states.push(state);
  }
  return { lives, states };
}

async function lifeAfter<A, R>(
  trial: Trial<A, R>,
  content: Content,
  { during }: Cut,
  lives: readonly Life[],
): Promise<Life | undefined> {
  if (during === 'life') {
    // While a failure is shrunk, a life may begin on a disk that its recovery or its workload does not survive.
    const life = await live(trial, content, lives).catch((): undefined => undefined);
    return !life || 'hang' in life ? undefined : life;
  }
  const { map } = trial.space;
  const recorder = new DiskRecorder(map.size);
  const sites = new CallSites();
  const noted: Pick<DiskRecorder, 'dispatch' | 'complete'> = {
    dispatch: (what, data) => {
      sites.add();
      return recorder.dispatch(what, data);
    },
    complete: (command, failed, fault) => recorder.complete(command, failed, fault),
  };
  // What a recovery has done before it throws can be cut short as well.
  await Promise.resolve(
    recoverOn(trial.test, recordingRecovery(new SettledDisk(map, content), noted), trial.watch),
  ).catch(() => undefined);
  const { trace } = recorder;
  return {
    ...{ during, trace, space: crashSpace(trace, trial.test.profile) },
    siteOf: (command) => sites.describe(command),
    whyNoSite: (command) => sites.whyUnknown(command),
  };
}
