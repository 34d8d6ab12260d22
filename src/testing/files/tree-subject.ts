// A tree of files as the subject of a crash test: its lives, and how each is recovered, recorded and judged.
//
// A later life runs above a tree that has decided nothing yet: what it looks at is laid down in the folder (recovery-folder.ts), and
// what it does is recorded. Its space knows as much of the tree before as it has met; a state of it shows that tree where the
// life has changed nothing.
//
// Not every choice of versions is possible, because the names have one journal. So what is wanted is fitted: place by place the
// nearest version that the others allow.

import { checked, copied } from '../crash-test/judge.js';
import type { AnyLife, Judged, Subject } from '../crash-test/subject.js';
import type { Watch } from '../crash-test/watch.js';
import { Decisions } from '../space/decisions.js';
import { lostPlaces, newestUntil, type Places, regionOf } from '../space/places.js';
import { UnsteadyRecoveryError, walksOf } from '../space/walks.js';
import type { Cell, CellMap } from './cells.js';
import type { CrashFilesTest } from './files-test.js';
import type { FileModel } from './models.js';
import { isSync } from './promises.js';
import { journalOf } from './record.js';
import { recoverIn } from './recovery-folder.js';
import { outerSite } from './session.js';
import { ShadowTree } from './shadow.js';
import { type FileSpace, FileState, onTrees, spaceOf } from './space.js';
import type { FilesTrace } from './trace.js';
import type { CrashTree } from './tree.js';

/** One run of a workload, under one model. */
export interface FilesTrial<A, R> {
  readonly test: CrashFilesTest<A, R>;
  /** The steps of the program that ran, by their indexes. */
  readonly steps: readonly number[];
  readonly watch: Watch;
  /** The folder of the recording and of all recoveries, because a program may have written its path into a file. */
  readonly root: string;
  readonly trace: FilesTrace;
  readonly model: FileModel;
  readonly space: FileSpace;
  /** What its recoveries have asked that a crash state does not have. */
  readonly asked: Set<string>;
}

/** What a power cut ended. */
export interface FileLife extends AnyLife {
  readonly trace: FilesTrace;
  readonly space: FileSpace;
}

/** What a recovery is given. */
interface Left {
  readonly files: CrashTree;
}

/** The types of a tree of files as a subject. */
export interface Files {
  readonly map: CellMap;
  readonly life: FileLife;
  readonly state: TreeState;
  readonly left: Left;
}

/** A crash state in which everything is decided. */
export class TreeState {
  /** The version of each place. */
  readonly versions: readonly number[];
  readonly after: number;
  readonly before: number;
  readonly isPossible: boolean;
  readonly files: FileState;
  /** The places that were looked at. */
  readonly seen: Set<number> = new Set();

  constructor(space: FileSpace, versionOf: (place: number) => number, below?: CrashTree) {
    const decisions = new Decisions<CellMap>(space.searched);
    this.versions = Array.from({ length: space.map.places }, (_, place) => versionOf(place));
    this.isPossible = this.versions.every((version, place) => {
      const choose = (_: number, __: number, candidates: readonly number[]): number =>
        Math.max(0, candidates.indexOf(version));
      return decisions.versionOf(regionOf(space.map, place), place, choose) === version;
    });
    this.after = decisions.after;
    this.before = decisions.before;
    const look = (_: Cell, place: number): number => {
      this.seen.add(place);
      return this.versions[place] as number;
    };
    this.files = new FileState(space.map, look, below);
  }
}

/** A tree of files with its test. */
export function treeSubject<A, R>(trial: FilesTrial<A, R>): Subject<Files> {
  const { trace, space } = trial;
  let inodes = Math.max(...space.map.kinds.keys()) + 1;
  const shadowAbove = (): ShadowTree => {
    const shadow = new ShadowTree(trial.root, outerSite);
    shadow.startAbove(inodes);
    return shadow;
  };
  const lifeOf = (during: AnyLife['during'], shadow: ShadowTree): FileLife => {
    const trace = shadow.trace();
    inodes = shadow.newInode();
    const space = laterSpace(trial, trace);
    const doubt = trace.gaps?.[0];
    return { during, trace, space, doubt };
  };
  return {
    first: { during: 'workload', trace, space },
    crashes: ({ space }, recoveriesMax, below) => space.crashes(recoveriesMax, below),
    continued: (decisions) => onTrees(walksOf<Cell, CellMap>(decisions)),
    async judge({ files }, lives): Promise<Judged<Files>> {
      const shadow = trial.test.nested ? shadowAbove() : undefined;
      const judged = await checked(trial, () => recoverFrom(trial, files, shadow), lives);
      const recovery = (): FileLife | undefined => {
        const life = shadow && lifeOf('recovery', shadow);
        return life?.trace.operations.every(isSync) ? undefined : life;
      };
      return { ...judged, recovery };
    },
    async live({ files }, lives) {
      const number = 1 + lives.filter(({ during }) => during !== 'recovery').length;
      const shadow = shadowAbove();
      const { test, steps } = trial;
      const { workload } = test;
      try {
        await recoverFrom(trial, files, shadow, async (root, recover) => {
          const shown = await recover();
          const mark = (value: unknown): void => shadow.mark(value);
          mark({ kind: 'shown', operation: copied(shown) });
          const program = steps.map((step) => test.program?.[step]);
          const run = () => workload(root, journalOf(mark), program, { number, shown });
          await trial.watch.run('workload', run, () => WAITS);
        });
      } catch (cause) {
        if (cause instanceof UnsteadyRecoveryError) throw cause;
        return { cause };
      }
      return lifeOf('life', shadow);
    },
    async recover({ files }) {
      const shadow = shadowAbove();
      // What a recovery has done before it throws can be cut short as well.
      await recoverFrom(trial, files, shadow).catch(() => undefined);
      return lifeOf('recovery', shadow);
    },
    state: (space, versionOf, below) => new TreeState(space, versionOf, below?.files),
    left: (state) => state,
    keyOf: (_, place) => place,
    placeOf: ({ map }, place) => (place >= 0 && place < map.places ? place : undefined),
    fit: near,
    withVersion(space, { time, versions }, place, version) {
      const level = new Decisions<CellMap>(space.searched);
      const choose = (_: number, __: number, candidates: readonly number[]): number =>
        Math.max(0, candidates.indexOf(version));
      level.versionOf(regionOf(space.map, place), place, choose);
      const wanted = (at: number): number =>
        versions.get(at) ?? newestUntil(regionOf(space.map, at), time, true);
      const fitted = Array.from({ length: space.map.places }, (_, at) => at).map(
        near(level, wanted),
      );
      const odd = [...lostPlaces<Places>(space.map, fitted, time)];
      return new Map(odd.map(({ place, there }) => [place, there]));
    },
  };
}

/** Whether no sync promises anything. */
export const isLying = ({ lies }: Pick<CrashFilesTest<never, never>, 'lies'>): boolean =>
  lies?.includes('ignoreFlush') ?? false;

/** The space of a recovery, or of a later life. */
export function laterSpace<A, R>({ model, test }: FilesTrial<A, R>, trace: FilesTrace): FileSpace {
  return spaceOf(trace, model, isLying(test), true);
}

/** The nearest versions that the decisions allow: those that are wanted, then newer ones, then older ones. */
function near(
  level: Decisions<CellMap>,
  wanted: (place: number) => number,
): (place: number) => number {
  const decisions = level.copy();
  const { map } = level.space;
  const choose = (_: number, place: number, candidates: readonly number[]): number => {
    const at = candidates.findIndex((version) => version >= wanted(place));
    return at < 0 ? candidates.length - 1 : at;
  };
  for (let place = 0; place < map.places; place += 1)
    decisions.versionOf(regionOf(map, place), place, choose);
  return (place) => decisions.decided.get(place) as number;
}

/** What code that hangs waits for, as far as that is known. */
export const WAITS = 'it waits for a timer, another program, or a promise that never settles';

/**
 * Runs the recovery in the folder, on a tree.
 *
 * @param use what is done there, with a function that recovers; without it nothing else
 */
export async function recoverFrom<A, R>(
  { test, watch, root, asked }: Pick<FilesTrial<A, R>, 'test' | 'watch' | 'root' | 'asked'>,
  tree: CrashTree,
  shadow?: ShadowTree,
  use: (root: string, recover: () => R | Promise<R>) => unknown = (_, recover) => recover(),
): Promise<R> {
  const isWhole = test.wholeTree ?? false;
  // The watch is inside, so that the functions are put back after a recovery that hangs.
  return recoverIn({ root, tree, isWhole, shadow, asked }, (folder) => {
    const recover = (): R | Promise<R> =>
      watch.run(
        'recovery',
        () => test.recover(folder),
        () => WAITS,
      );
    return use(folder, recover) as R | Promise<R>;
  });
}
