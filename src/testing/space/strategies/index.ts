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

import { evenly } from '../../choices.js';
import { momentsOf, type PlaceMap, type Places } from '../places.js';
import { changed } from './one-or-two.js';
import { randomChoices, randomMoments } from './random.js';
import { type Doubt, doubtsAt, type Guide, type Label, type Target } from './strategy.js';
import { fileLost, requestLost } from './together.js';

/** All guides, without end. */
export function* guidesOf<R extends Places>(
  map: PlaceMap<R>,
  label: Label<R> | undefined,
): Generator<Guide, never> {
  const moments = spread(momentsOf(map));
  const doubts: Iterable<Doubt<R>> = {
    *[Symbol.iterator]() {
      // The first point of a moment has everything that had begun, so it comes first at all moments.
      for (const isFirst of [true, false]) {
        for (const time of moments) {
          const points = [...doubtsAt(map, time)];
          yield* isFirst ? points.slice(0, 1) : points.slice(1);
        }
      }
    },
  };
  const strategies: [order: string, targets: Iterator<Target, void>][] = [
    ['in order', inOrder(doubts)],
    ['one lost', changed(doubts, 'newest', 1)],
    ['one kept', changed(doubts, 'oldest', 1)],
    ['request lost', requestLost(map, doubts)],
    ['two lost', changed(doubts, 'newest', 2)],
    ['two kept', changed(doubts, 'oldest', 2)],
    ...(label
      ? [['file lost', fileLost(map, doubts, label)] as [string, Iterator<Target, void>]]
      : []),
    ['random moment', randomMoments(map, moments)],
  ];
  const choices = randomChoices();
  for (;;) {
    for (const strategy of [...strategies]) {
      const [order, targets] = strategy;
      const { value: target } = targets.next();
      if (!target) strategies.splice(strategies.indexOf(strategy), 1);
      else yield { order, choose: (place, all) => Math.max(0, all.indexOf(target(place))) };
    }
    yield choices;
  }
}

/** A cut at every moment: everything that had begun by then, and nothing else. */
function* inOrder(doubts: Iterable<Doubt>): Generator<Target, void> {
  for (const { newest } of doubts) yield newest;
}

/** The same values in an order in which every prefix is spread evenly. */
function spread(values: readonly number[]): number[] {
  return values
    .map((value, i) => ({ value, at: evenly(i) }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}
