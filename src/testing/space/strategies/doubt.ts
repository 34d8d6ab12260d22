import { newestUntil, possibleAt, type Region, type RegionMap, regionOf } from '../regions.js';
import type { Target } from './strategy.js';

/** What is in doubt at a moment. */
export interface Doubt {
  /** Everything that was dispatched by then. */
  readonly newest: Target;
  /** Nothing but what is certain. */
  readonly oldest: Target;
  /** The regions whose places have more than one possible version. */
  readonly open: readonly Open[];
}

/** A region in doubt, with the versions that each of its places may have. */
export interface Open {
  readonly region: Region;
  readonly versions: readonly number[];
}

/** What is in doubt at one moment after the other. */
export function* doubtsAt(map: RegionMap, moments: readonly number[]): Generator<Doubt, void> {
  for (const time of moments) yield doubtAt(map, time);
}

function doubtAt(map: RegionMap, time: number): Doubt {
  let open: readonly Open[] | undefined;
  return {
    newest: (place) => newestUntil(regionOf(map, place), time, true),
    oldest: (place) => possibleAt(regionOf(map, place), time)[0] as number,
    // Not every strategy looks at it, and a log may have hundreds of thousands of regions.
    get open() {
      open ??= map.regions
        .map((region) => ({ region, versions: possibleAt(region, time) }))
        .filter(({ versions }) => versions.length > 1);
      return open;
    },
  };
}
