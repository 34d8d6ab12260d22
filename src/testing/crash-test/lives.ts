// A disk as the subject of a crash test: its lives, and how each is recovered, recorded and judged.
//
// A later life runs on a disk that has decided nothing yet, is recorded like the workload, and has a crash space of its own. If its
// recovery or its work throws or hangs, the power cuts before it are what the code does not survive.
//
// With `nested` each recovery is recorded as it is judged, because the power may be cut during it; if it writes nothing, no cut of it
// makes a difference.

import { CallSites } from '../device/call-site.js';
import { recoveryPaceOf } from '../device/disk-options.js';
import { type Content, type DiskTrace, sizeAt, sizeIn } from '../device/disk-trace.js';
import type { VolatileDisk } from '../device/volatile-disk.js';
import { crashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import { continued, crashesOf } from '../space/explore.js';
import { isSize, offsetOf, placeAt, type Region, regionAt } from '../space/regions.js';
import { SettledDisk } from '../space/settled-disk.js';
import { doubtOf, execute, work } from './execute.js';
import { labelOf } from './in-short.js';
import { type CutShort, checked, copied, type Failed } from './judge.js';
import { recorded, recoverOn } from './recovery.js';
import { SIZE_KEY } from './replay.js';
import { isWrite } from './scene.js';
import type { Judged, States, Subject } from './subject.js';
import type { Disk, Left, Life, Trial } from './trial.js';

/** A disk with its test. */
export function diskSubject<A, R>(trial: Trial<A, R>): Subject<Disk> {
  const { test, seed, watch } = trial;
  return {
    first: { ...trial, during: 'workload' },
    crashes({ space }, recoveriesMax, below) {
      const isNamed = !below && test.label;
      const label = isNamed ? (offset: number) => labelOf(test, offset) : undefined;
      return crashesOf(space, { recoveriesMax, label }, below);
    },
    continued,
    judge: ({ disk }, lives) => judge(trial, disk, lives),
    live: ({ content }, lives) => live(trial, content, lives),
    async recover({ content }) {
      const sites = new CallSites();
      const disk = new SettledDisk(trial.space.map, content);
      const recovery = recorded(test, seed, disk, () => sites.add());
      // What a recovery has done before it throws can be cut short as well.
      await Promise.resolve(recoverOn(test, recovery.disk, watch)).catch(() => undefined);
      recovery.end();
      return recoveryLife(trial, recovery.recorder.trace, sites);
    },
    ...DISK_STATES,
    left: (state) => ({ disk: state.disk(), content: (offset) => state.content(offset) }),
  };
}

/** A place is named by its offset, and the size by its own word. */
export const DISK_STATES: States<Disk> = {
  state: ({ map }, versionOf, below) => new CrashState(map, versionOf, below?.content),
  keyOf: (region, place) =>
    isSize(region as Region) ? SIZE_KEY : offsetOf(region as Region, place),
  placeOf({ map }, key) {
    const offset = key === SIZE_KEY ? sizeAt(map.sectorSize) : key;
    const region = regionAt(map, offset);
    const isPlace = region && (offset - region.offset) % region.step === 0;
    return isPlace ? placeAt(region, offset) : undefined;
  },
};

/**
 * Recovers from a disk and checks the result, up to the first failure.
 *
 * @param lives called after the recovery, because only then it is known what the recovery has read
 * @throws `INVALID_ARGUMENT` for a check whose answer is not a verdict
 */
export async function judge<A, R>(
  trial: Pick<Trial<A, R>, 'test' | 'seed' | 'watch'>,
  disk: Left['disk'],
  lives: () => readonly CutShort[],
): Promise<Judged<Disk>> {
  const { test, watch } = trial;
  const recovery = test.nested ? recorded(test, trial.seed, disk) : undefined;
  const recover = async (): Promise<R> => {
    try {
      return await recoverOn(test, recovery?.disk ?? disk, watch);
    } finally {
      recovery?.end();
      disk.end?.();
    }
  };
  const judged = await checked({ test, watch }, recover, lives);
  if (!recovery) return judged;
  return {
    ...judged,
    recovery() {
      const { trace } = recovery.recorder;
      if (!trace.commands.some(isWrite)) return undefined;
      return { ...recoveryLife(trial, trace), doubt: doubtOf('recovery', recovery.rest) };
    },
  };
}

/** Judges one crash state of the first life. */
export async function judgeState<A, R>(
  trial: Pick<Trial<A, R>, 'test' | 'seed' | 'trace' | 'watch'>,
  state: CrashState,
): Promise<Failed | undefined> {
  const { trace } = trial;
  const { after, before } = state;
  return (await judge(trial, state.disk(), () => [{ trace, after, before }])).failed;
}

/** A recovery that was cut short. */
function recoveryLife<A, R>(
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
async function live<A, R>(
  { test, space, seed, steps, watch }: Trial<A, R>,
  content: Content,
  lives: readonly Life[],
): Promise<Life | { readonly cause: unknown }> {
  const { profile = {}, answers = 'later' } = test;
  const size = sizeIn(content, space.map.sectorSize);
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
