import {
  newestUntil,
  type PlaceMap,
  type Places,
  possibleAt,
  regionOf,
  type Slice,
} from '../places.js';

/** The content that one recovery should see. */
export interface Guide {
  /** The name of its strategy. */
  readonly order: string;
  /** Which of these versions a place should have, by its index in the list. */
  choose(place: number, candidates: readonly number[]): number;
}

/** The version that each place has in a crash state: a recovery reaches it from every partial choice that agrees with it. */
export type Target = (place: number) => number;

/** The user's name for a place. */
export type Label<R extends Places> = (region: R, place: number) => unknown;

/** What is in doubt at a moment. */
export interface Doubt<R extends Places = Places> {
  /** Everything that had begun by then. */
  readonly newest: Target;
  /** Nothing but what is certain. */
  readonly oldest: Target;
  /** The versions that a place may have. */
  versions(place: number): readonly number[];
  /** The runs whose places have more than one possible version. */
  readonly open: readonly Open<R>[];
}

/** A run in doubt, with the versions that each of its places may have. */
export interface Open<R extends Places> {
  readonly region: R;
  readonly versions: readonly number[];
}

/** What is in doubt at a moment, at every point of further clocks that is worth a look. */
export function* doubtsAt<R extends Places>(
  map: PlaceMap<R>,
  time: number,
): Generator<Doubt<R>, void> {
  for (const slice of map.pointsAt?.(time) ?? [undefined]) yield doubtAt(map, time, slice);
}

/** The same at one point. */
export function doubtAt<R extends Places>(map: PlaceMap<R>, time: number, slice?: Slice): Doubt<R> {
  let open: readonly Open<R>[] | undefined;
  const versions = (place: number): number[] => possibleAt(regionOf(map, place), time, time, slice);
  return {
    newest: (place) => newestUntil(regionOf(map, place), time, true, slice),
    oldest: (place) => versions(place)[0] as number,
    versions,
    // Not every strategy looks at it, and a log may have hundreds of thousands of regions.
    get open() {
      open ??= map.regions
        .map((region) => ({ region, versions: possibleAt(region, time, time, slice) }))
        .filter((one) => one.versions.length > 1);
      return open;
    },
  };
}
