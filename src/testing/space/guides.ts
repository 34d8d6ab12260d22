// Exploration strategies: where to look when there are too many outcomes to try them all.
//
// A guide says which version each cell should have. Guides come in turn from several strategies (here: orders), each of which
// looks for mistakes that programs really make: few sectors lost or kept, whole requests, whole files. Coin flips for every
// sector find next to nothing, and so do crash states drawn with equal chances, because nearly all of them belong to the
// moment with the most cells in doubt.
//
//   in order        everything dispatched up to a moment, and nothing else
//   one lost        the same without the newest content of one cell in doubt, then of two
//   one kept        what is certain at a moment, and one cell that is not, then two
//   request lost    everything dispatched except one request, as far as it is in doubt
//   file lost       the same for all cells of one name
//   random choices  each choice of the recovery by chance
//   random moment   some chance of loss for every cell in doubt at a moment
//
// Moments are taken in an order that spreads them evenly, however soon the budget ends. A strategy that has no more guides
// is left out; the last two never end.
//
// Source: measurements of strategies on traces of SQLite; small deviations first as in Chipmunk.

import { type Random, seededRandom } from '../choices.js';
import { type Cell, type CellMap, momentsOf, newestUntil, possibleAt } from './cells.js';
import type { Version } from './versions.js';

/** The content that one recovery should see. */
export interface Guide {
  /** The name of its strategy. */
  readonly order: string;
  /** Which of these versions a cell should have, by its index in the list. */
  choose(place: number, candidates: readonly number[]): number;
}

/** A version for each cell. */
type Target = readonly number[];

/** All guides, without end. */
export function* guidesOf(
  map: CellMap,
  { label }: { label?(offset: number): string },
): Generator<Guide, never> {
  const random = seededRandom(1);
  const moments = spread(momentsOf(map));
  const doubts = (): Iterable<Doubt> => doubtsAt(map, moments);
  const orders: { readonly order: string; readonly targets: Iterator<Target, void> }[] = [
    { order: 'in order', targets: inOrder(doubts()) },
    { order: 'one lost', targets: changed(doubts(), 'newest', 1) },
    { order: 'one kept', targets: changed(doubts(), 'oldest', 1) },
    { order: 'request lost', targets: lostTogether(doubts(), commandOf) },
    { order: 'two lost', targets: changed(doubts(), 'newest', 2) },
    { order: 'two kept', targets: changed(doubts(), 'oldest', 2) },
  ];
  if (label) {
    const named = lostTogether(doubts(), ({ offset }) => label(offset));
    orders.push({ order: 'file lost', targets: named });
  }
  const endless: readonly (() => Guide)[] = [
    () => ({
      order: 'random choices',
      choose: (_, { length }) => Math.floor(random() * length),
    }),
    () => towards('random moment', atRandom(map, moments, random)),
  ];
  for (;;) {
    for (const entry of [...orders]) {
      const { value } = entry.targets.next();
      if (value) yield towards(entry.order, value);
      else orders.splice(orders.indexOf(entry), 1);
    }
    for (const make of endless) yield make();
  }
}

/** A possible crash state is reachable from every partial choice that agrees with it. */
function towards(order: string, target: Target): Guide {
  return {
    order,
    choose: (place, candidates) => Math.max(0, candidates.indexOf(target[place] as number)),
  };
}

/** The cells in doubt at a moment. */
interface Doubt {
  readonly newest: Target;
  readonly oldest: Target;
  /** The cells with more than one possible version. */
  readonly open: readonly Open[];
}

interface Open {
  readonly place: number;
  readonly versions: readonly number[];
  readonly cell: Cell;
}

function* doubtsAt(map: CellMap, moments: readonly number[]): Generator<Doubt> {
  for (const time of moments) yield doubtAt(map, time);
}

function doubtAt({ cells }: CellMap, time: number): Doubt {
  const at = cells.map((cell) => possibleAt(cell, time));
  return {
    newest: cells.map((cell) => newestUntil(cell, time, true)),
    oldest: at.map(([first]) => first as number),
    open: at.flatMap((versions, place) =>
      versions.length > 1 ? [{ place, versions, cell: cells[place] as Cell }] : [],
    ),
  };
}

function* inOrder(doubts: Iterable<Doubt>): Generator<Target, void> {
  for (const { newest } of doubts) yield newest;
}

/** `count` cells differ from the newest or the oldest versions. */
function* changed(
  doubts: Iterable<Doubt>,
  end: 'newest' | 'oldest',
  count: 1 | 2,
): Generator<Target, void> {
  for (const doubt of doubts) {
    for (const [i, first] of doubt.open.entries()) {
      for (const target of otherwise(doubt[end], first)) {
        if (count === 1) yield target;
        else for (const second of doubt.open.slice(i + 1)) yield* otherwise(target, second);
      }
    }
  }
}

function* otherwise(target: Target, { place, versions }: Open): Generator<Target, void> {
  for (const version of versions) {
    if (version === target[place]) continue;
    yield target.map((other, i) => (i === place ? version : other));
  }
}

/** All cells in doubt with the same key have their oldest versions. */
function* lostTogether(
  doubts: Iterable<Doubt>,
  keyOf: (cell: Cell, version: number) => unknown,
): Generator<Target, void> {
  for (const { newest, oldest, open } of doubts) {
    const keyAt = ({ cell, place }: Open): unknown => keyOf(cell, newest[place] as number);
    for (const key of new Set(open.map(keyAt))) {
      const lost = new Set(open.filter((entry) => keyAt(entry) === key).map(({ place }) => place));
      yield newest.map((version, place) => (lost.has(place) ? (oldest[place] as number) : version));
    }
  }
}

function commandOf({ versions }: Cell, version: number): number {
  return (versions[version] as Version).command;
}

function atRandom(map: CellMap, moments: readonly number[], random: Random): Target {
  const moment = moments[Math.floor(random() * moments.length)];
  const doubt = doubtAt(map, moment ?? Number.NEGATIVE_INFINITY);
  const loss = random();
  const target = [...doubt.newest];
  for (const { place, versions } of doubt.open) {
    if (random() < loss) target[place] = versions[Math.floor(random() * versions.length)] as number;
  }
  return target;
}

/** The same values in an order in which every prefix is spread evenly. */
function spread(values: readonly number[]): number[] {
  const golden = (Math.sqrt(5) - 1) / 2;
  return values
    .map((value, i) => ({ value, at: (i * golden) % 1 }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}
