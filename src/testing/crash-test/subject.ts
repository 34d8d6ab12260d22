// What the search for a failure, its chains of power cuts and their shrinking need of what is tested: a disk (disk-subject.ts), or a
// tree of files (files/tree-subject.ts).
//
// A subject knows its test. It runs the recovery on what a power cut has left, records what it does there, and makes states.

import type { Mark } from '../device/disk-trace.js';
import type { Decisions } from '../space/decisions.js';
import type { PlaceMap, Places } from '../space/places.js';
import type { CutShort, Failed } from './judge.js';

/** What a power cut ended. */
export interface AnyLife {
  /** What was cut short. */
  readonly during: 'workload' | 'recovery' | 'life';
  readonly trace: { readonly marks: readonly Mark[] };
  readonly space: { readonly map: PlaceMap; readonly count: bigint };
  /** Says that the workload went on after it had returned. */
  readonly unfinished?: string;
  /** Says why it may not have found every mistake. */
  readonly doubt?: string | undefined;
}

/** A crash state of some life, in words that do not depend on how many states there are. */
export interface Cut {
  /** What was cut short. */
  readonly during: AnyLife['during'];
  /** Everything dispatched up to this moment is there. */
  readonly time: number;
  /** Except that the places at these offsets have these versions. */
  readonly versions: ReadonlyMap<number, number>;
}

/** A crash state: a version for each place. */
export interface AnyState extends Pick<CutShort, 'after' | 'before'> {
  readonly versions: ArrayLike<number>;
  readonly isPossible: boolean;
}

/** The types of a subject. */
export interface Kinds {
  readonly map: PlaceMap;
  readonly life: AnyLife;
  readonly state: AnyState;
  /** What a recovery is given. */
  readonly left: object;
}

/** A power cut, decided as far as the recovery has looked. */
export type Run<K extends Kinds> = K['left'] & {
  readonly decisions: Decisions<K['map']>;
  readonly images: bigint;
  readonly order: string;
};

/** What recovery and check say of what was left. */
export interface Judged<K extends Kinds> {
  /** Absent if they accept it. */
  readonly failed?: Failed;
  /** The check has accepted it by returning nothing. */
  readonly isSilent: boolean;
  /** What the recovery did, if it was recorded and has changed something. */
  recovery?(): K['life'] | undefined;
}

/** How states are made of places and versions. */
export interface States<K extends Kinds> {
  /** `below` is what the life before has left. */
  state(
    space: K['life']['space'],
    versionOf: (place: number) => number,
    below: K['left'] | undefined,
  ): K['state'];
  /** The number of a place in a replay, and back. */
  keyOf(region: Places, place: number): number;
  placeOf(space: K['life']['space'], key: number): number | undefined;
}

/** See the essay above. */
export interface Subject<K extends Kinds> extends States<K> {
  readonly first: K['life'];
  /** Every outcome that the recovery can tell apart; `below` is what the levels below have decided. */
  crashes(
    life: K['life'],
    recoveriesMax: number | undefined,
    below: Decisions<K['map']> | undefined,
  ): Iterable<Run<K>>;
  /** All outcomes of going on with what is decided in part. */
  continued(decisions: Decisions<K['map']>): Iterable<Run<K>>;
  /** `lives` is asked after the recovery, because only then it is known what that has read. */
  judge(left: K['left'], lives: () => readonly CutShort[]): Promise<Judged<K>>;
  /** One more life: recovers, shows what it has recovered, and works. If one of them throws or hangs, the cause of that. */
  live(
    left: K['left'],
    lives: readonly K['life'][],
  ): Promise<K['life'] | { readonly cause: unknown }>;
  /** A recovery that may be cut short. */
  recover(left: K['left']): Promise<K['life']>;
  left(state: K['state']): K['left'];
  /** Versions that are possible with what is decided, near those that are wanted; absent where the wanted ones always are. */
  fit?(level: Decisions<K['map']>, wanted: (place: number) => number): (place: number) => number;
  /** The places of a cut with another version at one of them, where that asks for changes elsewhere. */
  withVersion?(
    space: K['life']['space'],
    cut: Pick<Cut, 'time' | 'versions'>,
    place: number,
    version: number,
  ): Cut['versions'];
}
