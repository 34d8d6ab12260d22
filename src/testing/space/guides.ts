// Where to look when there are too many outcomes to see them all.
//
// A guide says for each cell which version it should take. The guides come in turn from several orders, each of which
// looks for the mistakes that are really made: few sectors that are lost or kept, whole requests, whole files. Coin
// flips for every sector find next to nothing, and so do images that are drawn evenly, since nearly all of them belong to
// the moment with the most in doubt.
//
//   in order        all that was dispatched until a moment, and nothing else
//   one lost        the same without what is newest in one cell that is in doubt, then in two
//   one kept        what is certain at a moment, and one cell that is not, then two
//   request lost    all that is dispatched but one request, as far as it is in doubt
//   file lost       the same for all cells of one name
//   random choices  each choice by chance, where it comes up in the recovery
//   random moment   some chance of loss for every cell in doubt at a moment
//
// Moments are taken in an order that spreads them evenly, however soon the budget ends. An order that has come to its
// end is left out; the last two have none.
//
// Source: measurements of strategies on traces of SQLite; small deviations first as in Chipmunk.

import { type Random, seededRandom } from '../device/random.js';
import { type Cell, type CellMap, momentsOf, newestUntil, possibleAt } from './cells.js';
import type { Version } from './versions.js';

/** What one recovery should see. */
export interface Guide {
  /** The name of the order that it is from. */
  readonly order: string;
  /** Which of these versions of a cell, by its place in the list. */
  choose(place: number, candidates: readonly number[]): number;
}

/** A version for each cell. */
type Target = readonly number[];

/** Without end. */
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

/** A possible image is reached from every partial choice that agrees with it. */
function towards(order: string, target: Target): Guide {
  return {
    order,
    choose: (place, candidates) => Math.max(0, candidates.indexOf(target[place] as number)),
  };
}

/** What is in doubt at a moment. */
interface Doubt {
  readonly newest: Target;
  readonly oldest: Target;
  /** The cells that can be more than one thing, and what. */
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

/** `count` cells of one end are something else. */
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

/** All that is in doubt and has one key is as old as can be. */
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

/** The same values, so that those at the beginning lie as far apart as those at the end. */
function spread(values: readonly number[]): number[] {
  const golden = (Math.sqrt(5) - 1) / 2;
  return values
    .map((value, i) => ({ value, at: (i * golden) % 1 }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}
