import { offsetOf, type Region, type RegionMap, regionOf, versionAt } from '../regions.js';
import { type Doubt, doubtsAt } from './doubt.js';
import type { Strategy, Target } from './strategy.js';

/** Everything dispatched up to a moment, except one request, as far as it is in doubt. */
export function requestLost(map: RegionMap, moments: readonly number[]): Strategy {
  const commandOf = (region: Region, place: number, { newest }: Doubt): number =>
    versionAt(region, newest(place)).command;
  // All places of a region have the same history.
  return { order: 'request lost', targets: lostTogether(map, moments, commandOf, () => 1) };
}

/** The same for everything with one name of the user's. */
export function fileLost(
  map: RegionMap,
  moments: readonly number[],
  label: (offset: number) => string,
): Strategy {
  const named = (region: Region, place: number): string => label(offsetOf(region, place));
  return {
    order: 'file lost',
    targets: lostTogether(map, moments, named, ({ count }) => count),
  };
}

/** All places in doubt with the same key have their oldest versions; the first places of a region have all of its keys. */
function* lostTogether(
  map: RegionMap,
  moments: readonly number[],
  keyOf: (region: Region, place: number, doubt: Doubt) => unknown,
  first: (region: Region) => number,
): Generator<Target, void> {
  for (const doubt of doubtsAt(map, moments)) {
    const { newest, oldest, open } = doubt;
    const seen = new Set<unknown>();
    for (const { region } of open) {
      for (let n = 0; n < first(region); n += 1) {
        const key = keyOf(region, region.first + n, doubt);
        if (seen.has(key)) continue;
        seen.add(key);
        yield (place) => {
          const lost = keyOf(regionOf(map, place), place, doubt) === key;
          return lost ? oldest(place) : newest(place);
        };
      }
    }
  }
}
