// Exploration: every outcome of a power cut that a recovery can tell apart.
//
// The recovery runs on an undecided disk (decisions.ts). Every partial choice can be completed, so there is one run for each
// outcome that the recovery can tell apart, and a place that is not read is never split. Each run covers a counted number of
// crash states; the runs of a whole exploration cover all of them, each once.
//
// The choices form a tree. It is walked depth first, early power cuts before late ones. With a budget, after a quarter of it
// every second walk is guided (strategies/): the guide chooses, and the outcome counts if no walk has ended in it before. Walks
// are compared by their choices alone, because after the same choices a recovery reads the same place next; a recovery that
// does not is refused.
//
// The writes of the recovery itself overlay the disk and are never lost.

import { WriteBarrierError } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import { Chooser } from '../choices.js';
import type { Content } from '../device/disk-trace.js';
import type { Counted } from './counts.js';
import { Decisions } from './decisions.js';
import { SettledDisk } from './settled-disk.js';
import { guidesOf } from './strategies/index.js';
import type { Guide } from './strategies/strategy.js';

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
export interface ExploreOptions {
  /** The maximum number of recoveries. @defaultValue no limit */
  readonly recoveriesMax?: number;
  /** The user's name for the bytes at an offset: one strategy loses everything with the same name together. */
  label?(offset: number): string;
}

/** A power cut, decided as far as the recovery has read. */
export interface Crash {
  /** The disk for the recovery. It answers at once. */
  readonly disk: Storage;
  /** The versions that were read, by the number of their place; grows while the recovery reads. */
  readonly decided: ReadonlyMap<number, number>;
  /** The power was cut after this moment. */
  readonly after: number;
  /** The power was cut before this moment. What the host had acknowledged by then must be there. */
  readonly before: number;
  /** How many crash states this outcome covers, given the reads so far; 0 if an earlier crash covered them. */
  readonly images: bigint;
  /** The strategy that picked it: `depth first`, or the name of a guide. */
  readonly order: string;
}

/** The share of the budget for the depth-first walk alone. */
const DEPTH_FIRST_SHARE = 1 / 4;

const DEPTH_FIRST: Guide = { order: 'depth first', choose: () => 0 };

/**
 * All outcomes that a recovery can tell apart, within the budget.
 *
 * @param below what the levels below have decided already: each walk goes on from there
 */
export function* crashesOf(
  space: Counted,
  options: ExploreOptions,
  below?: Decisions,
): Generator<Run, void> {
  const { recoveriesMax = Number.POSITIVE_INFINITY } = options;
  const inOrder = new Chooser(unsteady);
  const elsewhere = new Set<string>();
  const guides = guidesOf(space.map, options);
  for (let recoveries = 0; recoveries < recoveriesMax; recoveries++) {
    const guided = recoveries >= recoveriesMax * DEPTH_FIRST_SHARE && recoveries % 2 === 1;
    const guide: Guide = guided ? guides.next().value : DEPTH_FIRST;
    const chooser = guided ? new Chooser(unsteady) : inOrder;
    const isKnown = (): boolean =>
      elsewhere.has(chooser.answers) || (guided && chooser.isBefore(inOrder));
    const run = new Run(new Decisions(space, below?.copy()), chooser, guide, isKnown);
    yield run;
    run.end();
    if (guided) elsewhere.add(chooser.answers);
    else if (!inOrder.advance()) return;
  }
}

/** All outcomes of going on with a disk that is decided in part. */
export function* continued(decisions: Decisions): Generator<Run, void> {
  const chooser = new Chooser(unsteady);
  do {
    const run = new Run(decisions.copy(), chooser, DEPTH_FIRST, () => false);
    yield run;
    run.end();
  } while (chooser.advance());
}

const unsteady = (): Error => new UnsteadyRecoveryError();

/** Tells the places of different levels apart. */
const LEVEL = 2 ** 32;

/** One walk through the choices. */
export class Run implements Crash {
  readonly decisions: Decisions;
  readonly disk: SettledDisk;
  /** The content of a sector, without what the recovery has written. */
  readonly content: Content;
  readonly order: string;
  readonly #chooser: Chooser;
  readonly #isKnown: () => boolean;

  constructor(decisions: Decisions, chooser: Chooser, guide: Guide, isKnown: () => boolean) {
    this.decisions = decisions;
    this.order = guide.order;
    this.#chooser = chooser;
    this.#isKnown = isKnown;
    const choose = (level: Decisions, place: number, candidates: readonly number[]): number =>
      chooser.choose(candidates.length, level.depth * LEVEL + place, () =>
        // A guide knows the highest level alone.
        level === decisions ? guide.choose(place, candidates) : 0,
      );
    this.content = (offset) => decisions.content(offset, choose);
    this.disk = new SettledDisk(decisions.space.map, this.content);
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

  /** Ends the run: all reads of an earlier run on the same path must have been repeated. */
  end(): void {
    this.disk.end();
    this.#chooser.end();
  }
}
