// Walks through the choices of a recovery: every outcome of a power cut that it can tell apart.
//
// The recovery runs on an undecided medium (decisions.ts). Every partial choice can be completed, so there is one walk for each
// outcome that the recovery can tell apart, and a place that is not read is never split. Each walk covers a counted number of
// crash states; the walks of a whole exploration cover all of them, each once.
//
// The choices form a tree. It is walked depth first, early power cuts before late ones. With a budget, after a quarter of it
// every second walk is guided (strategies/): the guide chooses, and the outcome counts if no walk has ended in it before. Walks
// are compared by their choices alone, because after the same choices a recovery reads the same place next; a recovery that
// does not is refused.

import { WriteBarrierError } from '../../model/index.js';
import { Chooser } from '../choices.js';
import type { Choose, Decisions } from './decisions.js';
import type { PlaceMap, Places } from './places.js';
import { guidesOf } from './strategies/index.js';
import type { Guide, Label } from './strategies/strategy.js';

/** The recovery is not deterministic, so its outcomes prove nothing. */
export class UnsteadyRecoveryError extends WriteBarrierError {
  override get name(): 'UnsteadyRecoveryError' {
    return 'UnsteadyRecoveryError';
  }

  constructor() {
    super(
      'INVALID_ARGUMENT',
      'the recovery is not deterministic: its reads differ from those of an earlier run on an equal disk',
    );
  }
}

/** The limits of an exploration. */
export interface WalkOptions<R extends Places> {
  /** The maximum number of recoveries. @defaultValue no limit */
  readonly recoveriesMax?: number | undefined;
  /** The user's name for a place: one strategy loses everything with the same name together. */
  readonly label?: Label<R> | undefined;
}

/** The share of the budget for the depth-first walk alone. */
const DEPTH_FIRST_SHARE = 1 / 4;

const DEPTH_FIRST: Guide = { order: 'depth first', choose: () => 0 };

/**
 * All outcomes that a recovery can tell apart, within the budget.
 *
 * @param from what is decided already: each walk goes on from there
 */
export function* walksOf<R extends Places, M extends PlaceMap<R>>(
  from: Decisions<M>,
  { recoveriesMax = Number.POSITIVE_INFINITY, label }: WalkOptions<R> = {},
): Generator<Walk<M>, void> {
  const inOrder = new Chooser(unsteady);
  const elsewhere = new Set<string>();
  const guides = guidesOf<R>(from.space.map, label);
  for (let recoveries = 0; recoveries < recoveriesMax; recoveries++) {
    const guided = recoveries >= recoveriesMax * DEPTH_FIRST_SHARE && recoveries % 2 === 1;
    const guide: Guide = guided ? guides.next().value : DEPTH_FIRST;
    const chooser = guided ? new Chooser(unsteady) : inOrder;
    const isKnown = (): boolean =>
      elsewhere.has(chooser.answers) || (guided && chooser.isBefore(inOrder));
    yield new Walk(from.copy(), chooser, guide, isKnown);
    chooser.end();
    if (guided) elsewhere.add(chooser.answers);
    else if (!inOrder.advance()) return;
  }
}

const unsteady = (): Error => new UnsteadyRecoveryError();

/** Tells the places of different levels apart. */
const LEVEL = 2 ** 32;

/** One walk through the choices: a power cut, decided as far as the recovery has read. */
export class Walk<M extends PlaceMap> {
  readonly decisions: Decisions<M>;
  /** The strategy that picked it: `depth first`, or the name of a guide. */
  readonly order: string;
  readonly choose: Choose;
  readonly #isKnown: () => boolean;

  constructor(decisions: Decisions<M>, chooser: Chooser, guide: Guide, isKnown: () => boolean) {
    this.decisions = decisions;
    this.order = guide.order;
    this.#isKnown = isKnown;
    this.choose = (depth, place, candidates) =>
      chooser.choose(candidates.length, depth * LEVEL + place, () =>
        // A guide knows the highest level alone.
        depth === decisions.depth ? guide.choose(place, candidates) : 0,
      );
  }

  get decided(): ReadonlyMap<number, number> {
    return this.decisions.decided;
  }

  get after(): number {
    return this.decisions.after;
  }

  get before(): number {
    return this.decisions.before;
  }

  get images(): bigint {
    return this.#isKnown() ? 0n : this.decisions.states;
  }
}
