// A check that is ready made: what was recovered is the state after the first operations.

import { checkOptions, misuse } from '../../model/index.js';
import type { Expected } from '../crash-test/types.js';

/** A model of the code under test for `prefixOracle`. */
export interface PrefixModel<A, R, S> {
  /** The state before the first operation. */
  readonly start: S;
  /** The state after an operation; must not change the state before. */
  apply(state: S, operation: A): S;
  /** Whether what was recovered is that state. */
  matches(recovered: R, state: S): boolean;
  /** The state that a recovery has shown: where a later life begins. Needed with `lives`. */
  stateOf?(recovered: R): S;
}

/**
 * A check for `crashTest`: what was recovered must be the state after the first k operations, in the order in which
 * they began, and these must contain all that were acknowledged, in any order. An acknowledgement is matched with its operation
 * by value or object; if one matches no operation that has begun, acknowledgements are only counted, for code that
 * acknowledges in the order in which operations begin.
 */
export function prefixOracle<A, R, S>(
  model: PrefixModel<A, R, S>,
): (recovered: R, expected: Expected<A, R>) => void {
  checkOptions(model, MODEL, 'prefixOracle');
  return (recovered, expected) => {
    const { acknowledged, begun } = expected;
    const least = prefixWith(acknowledged, begun);
    let state = startOf(model, expected);
    for (let k = 0; k <= begun.length; k++) {
      if (k >= least && model.matches(recovered, state)) return;
      if (k < begun.length) state = model.apply(state, begun[k] as A);
    }
    throw new Error(
      `the recovered state is not the state after ${least} to ${begun.length} of the operations`,
    );
  };
}

const MODEL = { start: 0, apply: 0, matches: 0, stateOf: 0 };

function startOf<A, R, S>(model: PrefixModel<A, R, S>, expected: Expected<A, R>): S {
  if (!('shown' in expected)) return model.start;
  if (model.stateOf) return model.stateOf(expected.shown as R);
  throw misuse(
    'prefixOracle: a test with lives needs stateOf, the state that a recovery has shown',
  );
}

/** How many operations from the first one on there must be. */
function prefixWith<A>(acknowledged: readonly A[], begun: readonly A[]): number {
  /** The places of each operation, the first one last. */
  const places = new Map<A, number[]>();
  for (const [i, operation] of [...begun].reverse().entries()) {
    places.set(operation, places.get(operation) ?? []);
    places.get(operation)?.push(begun.length - 1 - i);
  }
  let least = acknowledged.length;
  for (const operation of acknowledged) {
    const place = places.get(operation)?.pop();
    if (place === undefined) return acknowledged.length;
    least = Math.max(least, place + 1);
  }
  return least;
}
