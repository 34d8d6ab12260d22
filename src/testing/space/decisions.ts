// What a recovery has decided of a crash state so far: a place gets one of its versions when it is read first.
//
// A medium has levels. The first one is what a power cut during the workload left. Where a recovery has written to it and the
// power was cut again, what the second cut left of those writes is a second level, and so on. Below a place where a level shows
// nothing new, the level below decides. So a later recovery decides what the earlier ones left undecided.
//
//   X1  A place is decided once, for one of the versions that the earlier decisions allow.

import { invariant } from '../../model/error.js';
import type { Cut, PlaceMap, Places } from './places.js';
import type { RegionMap } from './regions.js';

/** What the search needs of a crash space. */
export interface Counted<M extends PlaceMap = PlaceMap> {
  readonly map: M;
  readonly counts: {
    /** The cut of which nothing is decided. */
    readonly start: Cut;
    /** How many crash states agree with a cut and with the places that it comes from. */
    within(cut: Cut, decided: DecidedPlaces): bigint;
  };
}

/** The places that a recovery has read, as their number for each run. */
export type DecidedPlaces = ReadonlyMap<Places, number>;

/** Chooses one of the versions that a place of a level may have, by its index in the list. */
export type Choose = (depth: number, place: number, candidates: readonly number[]) => number;

/** The decisions of one level, and of those below it. */
export class Decisions<M extends PlaceMap = RegionMap> {
  readonly space: Counted<M>;
  readonly below: Decisions<M> | undefined;
  /** The number of levels below. */
  readonly depth: number;
  /** The versions that were read, by the number of their place. */
  readonly decided: Map<number, number>;
  readonly #places: Map<Places, number>;
  #cut: Cut;

  /** @param from the decisions that this is a copy of */
  constructor(space: Counted<M>, below?: Decisions<M>, from?: Decisions<M>) {
    this.space = space;
    this.below = below;
    this.depth = below ? below.depth + 1 : 0;
    this.decided = new Map(from ? from.decided : []);
    this.#places = new Map(from ? from.#places : []);
    this.#cut = from ? from.#cut : space.counts.start;
  }

  /** A copy, with copies of all levels below. */
  copy(): Decisions<M> {
    return new Decisions(this.space, this.below?.copy(), this);
  }

  /** The power was cut after this moment. */
  get after(): number {
    return this.#cut.after;
  }

  /** The power was cut before this moment. */
  get before(): number {
    return this.#cut.before;
  }

  /** Nothing that began from here on can be visible. */
  get bound(): number {
    return this.#cut.bound;
  }

  /** How many crash states agree with the decisions, of all levels together. */
  get states(): bigint {
    const here = this.space.counts.within(this.#cut, this.#places);
    return this.below ? here * this.below.states : here;
  }

  /** The version of a place, decided now if it was not. */
  versionOf(region: Places, place: number, choose: Choose): number {
    const known = this.decided.get(place);
    if (known !== undefined) return known;
    const candidates: number[] = [];
    for (const [version, one] of region.versions.entries()) {
      if (this.#cut.allows(one)) candidates.push(version);
    }
    const version = candidates[candidates.length > 1 ? choose(this.depth, place, candidates) : 0];
    invariant(version !== undefined, 'decisions.X1: the earlier decisions allow no version');
    this.decided.set(place, version);
    this.#places.set(region, (this.#places.get(region) ?? 0) + 1);
    this.#cut = this.#cut.having(region.versions[version] as Places['versions'][number]);
    return version;
  }
}
