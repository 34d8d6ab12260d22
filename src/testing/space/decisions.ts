// What a recovery has decided of a crash state so far: a place gets one of its versions when it is read first.
//
// A medium has levels. The first one is what a power cut during the workload left. Where a recovery has written to it and the
// power was cut again, what the second cut left of those writes is a second level, and so on. Below a place where a level shows
// nothing new, the level below decides. So a later recovery decides what the earlier ones left undecided.
//
//   X1  A place is decided once, for one of the versions that the earlier decisions allow.

import { invariant } from '../../model/error.js';
import type { Content } from '../device/disk-trace.js';
import type { Counted } from './counts.js';
import { contentOf, placeAt, possible, type Region, regionAt, versionAt } from './regions.js';

/** Chooses one of the versions that a place of a level may have, by its index in the list. */
export type Choose = (level: Decisions, place: number, candidates: readonly number[]) => number;

/** The decisions of one level, and of those below it. */
export class Decisions {
  readonly space: Counted;
  readonly below: Decisions | undefined;
  /** The number of levels below. */
  readonly depth: number;
  /** The versions that were read, by the number of their place. */
  readonly decided: Map<number, number> = new Map();
  readonly #places = new Map<Region, number>();
  /** The power was cut after this moment. */
  after: number = Number.NEGATIVE_INFINITY;
  /** The power was cut before this moment. */
  before: number = Number.POSITIVE_INFINITY;
  /** Nothing dispatched from here on can be visible. */
  bound: number = Number.POSITIVE_INFINITY;

  constructor(space: Counted, below?: Decisions) {
    this.space = space;
    this.below = below;
    this.depth = below ? below.depth + 1 : 0;
  }

  /** A copy, with copies of all levels below. */
  copy(): Decisions {
    const copy = new Decisions(this.space, this.below?.copy());
    for (const [place, version] of this.decided) copy.decided.set(place, version);
    for (const [region, places] of this.#places) copy.#places.set(region, places);
    copy.after = this.after;
    copy.before = this.before;
    copy.bound = this.bound;
    return copy;
  }

  /** How many crash states agree with the decisions, of all levels together. */
  get states(): bigint {
    const here = this.space.counts.within(this.after, this.bound, this.#places);
    return this.below ? here * this.below.states : here;
  }

  /** The content of a sector, decided now if it was not; undefined if it cannot be read. */
  content(offset: number, choose: Choose): Uint8Array | undefined {
    const { map } = this.space;
    const { below } = this;
    const region = regionAt(map, offset);
    const under: Content = below ? (at) => below.content(at, choose) : map.before;
    if (!region) return under(offset);
    const place = placeAt(region, offset);
    const version = this.decided.get(place) ?? this.#decide(region, place, choose);
    return contentOf(map, region, versionAt(region, version), offset, under);
  }

  #decide(region: Region, place: number, choose: Choose): number {
    const candidates = possible(region, this.after, this.bound);
    const version = candidates[candidates.length > 1 ? choose(this, place, candidates) : 0];
    invariant(version !== undefined, 'decisions.X1: the earlier decisions allow no version');
    const { after, ordered, durable } = versionAt(region, version);
    this.decided.set(place, version);
    this.#places.set(region, (this.#places.get(region) ?? 0) + 1);
    this.after = Math.max(this.after, after);
    this.before = Math.min(this.before, durable);
    this.bound = Math.min(this.bound, ordered);
    return version;
  }
}
