// Exploration strategies: where to look when there are too many outcomes to try them all.
//
// A strategy names crash states, and a guide leads a recovery to one of them: it says which version each place should have. Guides
// come in turn from several strategies, each of which looks for mistakes that programs really make: few sectors lost or kept,
// whole requests, whole files. Coin flips for every sector find next to nothing, and so do crash states drawn with equal
// chances, because nearly all of them belong to the moment with the most places in doubt.
//
// Moments are taken in an order that spreads them evenly, however soon the budget ends. A strategy that has no more states
// is left out; those that draw never end.
//
// Source: measurements of strategies on traces of SQLite; small deviations first as in Chipmunk.

import { momentsOf, type RegionMap } from '../regions.js';
import { inOrder } from './in-order.js';
import { changed } from './one-or-two.js';
import { randomChoices, randomMoments } from './random.js';
import type { Guide, Strategy, Target } from './strategy.js';
import { fileLost, requestLost } from './together.js';

/** All guides, without end. */
export function* guidesOf(
  map: RegionMap,
  { label }: { label?(offset: number): string },
): Generator<Guide, never> {
  const moments = spread(momentsOf(map));
  const strategies: Strategy[] = [
    inOrder(map, moments),
    changed(map, moments, 'newest', 1),
    changed(map, moments, 'oldest', 1),
    requestLost(map, moments),
    changed(map, moments, 'newest', 2),
    changed(map, moments, 'oldest', 2),
    ...(label ? [fileLost(map, moments, label)] : []),
    randomMoments(map, moments),
  ];
  const choices = randomChoices();
  for (;;) {
    for (const strategy of [...strategies]) {
      const { value } = strategy.targets.next();
      if (value) yield towards(strategy.order, value);
      else strategies.splice(strategies.indexOf(strategy), 1);
    }
    yield choices;
  }
}

function towards(order: string, target: Target): Guide {
  return {
    order,
    choose: (place, candidates) => Math.max(0, candidates.indexOf(target(place))),
  };
}

/** The same values in an order in which every prefix is spread evenly. */
function spread(values: readonly number[]): number[] {
  return values
    .map((value, i) => ({ value, at: (i * GOLDEN) % 1 }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}

/** The fractional parts of its multiples are spread evenly, however many are taken. */
const GOLDEN = (Math.sqrt(5) - 1) / 2;
