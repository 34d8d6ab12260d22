import { type PlaceMap, type Places, regionOf, versionAt } from '../places.js';
import type { Doubt, Label, Target } from './strategy.js';

/** Everything that had begun by a moment, except one request, as far as it is in doubt. */
export function requestLost<R extends Places>(
  map: PlaceMap<R>,
  doubts: Iterable<Doubt<R>>,
): Generator<Target, void> {
  const commandOf = (region: R, place: number, { newest }: Doubt): number =>
    versionAt(region, newest(place)).command;
  // All places of a run have the same history.
  return lostTogether(map, doubts, commandOf, () => 1);
}

/** The same for everything with one name of the user's. */
export function fileLost<R extends Places>(
  map: PlaceMap<R>,
  doubts: Iterable<Doubt<R>>,
  label: Label<R>,
): Generator<Target, void> {
  return lostTogether(map, doubts, label, ({ count }) => count);
}

/** All places in doubt with the same key have their oldest versions; the first places of a run have all of its keys. */
function* lostTogether<R extends Places>(
  map: PlaceMap<R>,
  doubts: Iterable<Doubt<R>>,
  keyOf: (region: R, place: number, doubt: Doubt<R>) => unknown,
  first: (region: R) => number,
): Generator<Target, void> {
  for (const doubt of doubts) {
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
