// The cheapest set that has one of each list: for synthesis, barriers of which each list would do against one failure.
//
// In general this takes exponential time. Barriers stand in a row, and those that help against a failure are neighbours as
// a rule, so three rules decide nearly everything, and what they leave is searched with a bound:
//
//   - an element that covers no more lists than another one, and costs no less, is not needed;
//   - a list with one element left decides for it;
//   - lists without a common element each cost an element: so much is certain.

/** What may be chosen, and what it costs: more than nothing. */
export interface Choice<T> {
  readonly element: T;
  readonly cost: number;
}

interface Option<T> extends Choice<T> {
  /** Bit i for the ith list. */
  readonly covers: bigint;
}

interface Found<T> {
  readonly cost: number;
  readonly chosen: readonly T[];
}

/** One of each list at the lowest cost in all; of two that are as good, that which comes first in `choices`. */
export function cheapestHitting<T>(
  lists: readonly (readonly T[])[],
  choices: readonly Choice<T>[],
): readonly T[] {
  const sets = lists.map((list) => new Set(list));
  const options = choices.map(({ element, cost }): Option<T> => {
    const bits = sets.map((set, i) => (set.has(element) ? 1n << BigInt(i) : 0n));
    return { element, cost, covers: bits.reduce((all, bit) => all | bit, 0n) };
  });
  const none = { cost: Number.POSITIVE_INFINITY, chosen: [] };
  const open = (1n << BigInt(lists.length)) - 1n;
  return search(options, open, { cost: 0, chosen: [] }, none).chosen;
}

/** The best of what was found before and what can be made of `soFar`. */
function search<T>(
  options: readonly Option<T>[],
  open: bigint,
  soFar: Found<T>,
  best: Found<T>,
): Found<T> {
  if (open === 0n) return soFar.cost < best.cost ? soFar : best;
  const able = undominated(options, open);
  const list = smallestOf(able, open);
  // A list with one element left decides for it, so there is nothing to bound.
  if (list.length > 1 && soFar.cost + certainCost(able, open) >= best.cost) return best;
  let found = best;
  for (const [i, { element, cost, covers }] of list.entries()) {
    // What was tried before is not tried again.
    const rest = able.filter((one) => !list.slice(0, i + 1).includes(one));
    const next = { cost: soFar.cost + cost, chosen: [...soFar.chosen, element] };
    found = search(rest, open & ~covers, next, found);
  }
  return found;
}

function undominated<T>(options: readonly Option<T>[], open: bigint): readonly Option<T>[] {
  const useful = options.filter(({ covers }) => (covers & open) !== 0n);
  return useful.filter((one, i) => {
    const mine = one.covers & open;
    return !useful.some((other, j) => {
      if (i === j || (mine & ~other.covers) !== 0n || other.cost > one.cost) return false;
      const isSame = (other.covers & open) === mine && other.cost === one.cost;
      return !isSame || j < i;
    });
  });
}

/** The least that must be paid: for lists that have nothing in common, the cheapest of each. Infinite for an empty one. */
function certainCost<T>(options: readonly Option<T>[], open: bigint): number {
  let cost = 0;
  for (let left = open; left !== 0n; ) {
    const list = smallestOf(options, left);
    if (list.length === 0) return Number.POSITIVE_INFINITY;
    cost += Math.min(...list.map((option) => option.cost));
    for (const { covers } of list) left &= ~covers;
  }
  return cost;
}

/** The options of an open list that has as few as any. */
function smallestOf<T>(options: readonly Option<T>[], open: bigint): readonly Option<T>[] {
  let smallest: readonly Option<T>[] | undefined;
  for (let i = 0n, rest = open; rest !== 0n; i++, rest >>= 1n) {
    if ((rest & 1n) === 0n) continue;
    const list = options.filter(({ covers }) => ((covers >> i) & 1n) === 1n);
    if (!smallest || list.length < smallest.length) smallest = list;
  }
  return smallest ?? [];
}
