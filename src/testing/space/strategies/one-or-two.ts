import type { Doubt, Target } from './strategy.js';

/**
 * One place or two differ from the rest at a moment. `newest`: they lack their newest content. `oldest`: all others have only
 * what is certain.
 */
export function* changed(
  doubts: Iterable<Doubt>,
  from: 'newest' | 'oldest',
  count: 1 | 2,
): Generator<Target, void> {
  for (const doubt of doubts) {
    for (const [first, target] of otherwise(doubt, doubt[from], -1)) {
      if (count === 1) yield target;
      else for (const [, both] of otherwise(doubt, target, first)) yield both;
    }
  }
}

/** The same, except one of the places behind `place`. */
function* otherwise(
  { open }: Doubt,
  target: Target,
  behind: number,
): Generator<[place: number, target: Target], void> {
  for (const { region, versions } of open) {
    const { first, count } = region;
    for (let place = Math.max(first, behind + 1); place < first + count; place += 1) {
      for (const version of versions) {
        if (version === target(place)) continue;
        yield [place, (other) => (other === place ? version : target(other))];
      }
    }
  }
}
