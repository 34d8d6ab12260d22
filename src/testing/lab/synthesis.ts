// Which barriers suffice? Finds the smallest set of barriers with which a test passes. Candidates are the existing
// flushes, and a barrier in each gap between commands. A flush outside of the set is redundant, and a gap in the set lacks
// a barrier.
//
// Whether a barrier prevents a failing image does not depend on the other barriers. So each failure yields a list of the
// barriers that would prevent it. Every set with which the test passes contains at least one barrier of each list, and a
// smallest set that does so is no larger than any set with which the test passes. The test is run again with that set: it
// passes, or yields one more list.
//
// The order of the failures decides how long this takes, because a shorter list rules out more sets.
//
//   1. With all flushes in place: the failures are those that no flush prevents. Gaps are added until nothing fails.
//   2. Each flush is left out by itself: if it is needed, this yields a list with the flush and the gaps around it.
//   3. Then the smallest sets are tried, in turn.
//
// A list comes from a failure, so it is certain even if little was explored; that nothing fails is certain only if
// everything was explored. If a budget ended first, no flush is called redundant.
//
// Source: synthesis of fences (Ferrite); implicit hitting sets (Moreno-Centeno and Karp, 2013).

import { type Gap, gapsOf, missingSince, withBarriers } from '../crash-test/barriers.js';
import { DISK_STATES, judgeState } from '../crash-test/lives.js';
import { explored } from '../crash-test/one-seed.js';
import { parseReplay, stateOf } from '../crash-test/replay.js';
import type { Cut } from '../crash-test/subject.js';
import { trialOf } from '../crash-test/trial.js';
import type { CrashReport, CrashTest } from '../crash-test/types.js';
import { Watch } from '../crash-test/watch.js';
import type { DiskCommand, DiskTrace } from '../device/disk-trace.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import { regionOf, versionAt } from '../space/places.js';
import { flushesOf, isWhole, oneTrace, printable, unable } from './analyses.js';
import { type Choice, cheapestHitting } from './hitting-set.js';

/** The barriers that a workload needs. Counts are those of the run with exactly these barriers. */
export interface BarrierPlan
  extends Pick<CrashReport, 'images' | 'covered' | 'recoveries' | 'warnings'> {
  /**
   * What the test comes to with these barriers. `proved`: no power cut fails, and with fewer barriers one does. `passed`:
   * `warnings` says what is missing. Where `covered` is less than `images`, the budget ended before everything was
   * tried: then all flushes are kept, `missing` is what is known to be missing, and it may be more.
   */
  readonly verdict: CrashReport['verdict'];
  /** Of the flushes that there are, by their numbers among the commands. */
  readonly flushes: readonly number[];
  /** Where one is missing. */
  readonly missing: readonly Gap[];
}

/**
 * The smallest set of barriers with which the test passes: as few barriers as possible, and of those sets one
 * that keeps as many existing flushes as possible. Undefined if no barriers help.
 *
 * It uses one run of the workload, that of `seed`; a `seeds` above 1 is ignored, with a warning.
 * `recoveriesMax` is the limit for each of its tests.
 *
 * @throws `INVALID_ARGUMENT` as `crashTest` does
 */
export async function barrierSynthesis<A, R, P>(
  test: CrashTest<A, R, P>,
): Promise<BarrierPlan | undefined> {
  const one = await oneTrace(test);
  const search = new Search(one.test, one.trace);
  return (await search.run()) ? printable(search.plan(one.warnings)) : undefined;
}

/** A flush, by its number among the commands, or a gap. */
interface Candidate {
  /** What is dispatched before this moment, it covers. */
  readonly time: number;
  readonly flush?: number;
  readonly gap?: Gap;
}

/** More than all gaps together, because the number of barriers counts first, and then the number of gaps. */
const COST = 1_000_000;

class Search<A, R, P> {
  readonly #test: CrashTest<A, R, P>;
  readonly #trace: DiskTrace;
  readonly #watch: Watch;
  readonly #flushes: readonly Candidate[];
  readonly #choices: readonly Choice<Candidate>[];
  readonly #cures: (readonly Candidate[])[] = [];
  #chosen: readonly Candidate[] = [];
  #last: CrashReport | undefined;
  #recoveries = 0;

  constructor(test: CrashTest<A, R, P>, trace: DiskTrace) {
    this.#test = test;
    this.#trace = trace;
    this.#watch = new Watch(test.hangMs);
    this.#flushes = flushesOf(trace).map((flush): Candidate => {
      return { flush, time: (trace.commands[flush] as DiskCommand).dispatched };
    });
    const gaps = gapsOf(trace).map((gap): Candidate => ({ gap, time: gap.time }));
    this.#choices = [
      ...this.#flushes.map((element) => ({ element, cost: COST })),
      ...gaps.map((element) => ({ element, cost: COST + 1 })),
    ];
  }

  /** False where no barriers help. */
  async run(): Promise<boolean> {
    let around: readonly Candidate[] = [];
    for (;;) {
      const found = await this.#try([...this.#flushes, ...around]);
      if (found === 'hopeless') return false;
      if (found === 'passes') break;
      around = this.#smallest().filter(({ gap }) => gap);
    }
    for (const left of this.#flushes) {
      const others = this.#flushes.filter((flush) => flush !== left);
      if ((await this.#try([...others, ...around])) === 'hopeless') return false;
    }
    for (;;) {
      this.#chosen = this.#smallest();
      const found = await this.#try(this.#chosen);
      if (found !== 'fails') return found === 'passes';
    }
  }

  /** After a run that found something. */
  plan(more: readonly string[]): BarrierPlan {
    const report = this.#last as CrashReport;
    const { images, covered } = report;
    const whole = isWhole(report, this.#test);
    // What is known to be missing is what no flush would do for.
    const beyond = this.#cures.filter((list) => list.every(({ gap }) => gap));
    const known = whole ? this.#chosen : [...this.#flushes, ...this.#smallest(beyond)];
    const unsure =
      'not everything was tried: more barriers may be missing, and no flush is called redundant';
    return {
      verdict: report.verdict === 'proved' && more.length > 0 ? 'passed' : report.verdict,
      flushes: known.flatMap(({ flush }) => flush ?? []).sort((a, b) => a - b),
      missing: known.flatMap(({ gap }) => gap ?? []).sort((a, b) => a.time - b.time),
      ...{ images, covered, recoveries: this.#recoveries },
      warnings: [...more, ...report.warnings, ...(whole ? [] : [unsure])],
    };
  }

  #smallest(lists: readonly (readonly Candidate[])[] = this.#cures): readonly Candidate[] {
    return cheapestHitting(lists, this.#choices);
  }

  /** Runs the test with these barriers and no others; of a failure it notes what helps. */
  async #try(barriers: readonly Candidate[]): Promise<'passes' | 'fails' | 'hopeless'> {
    const { seed = 0, program = [] } = this.#test;
    const test = { ...this.#test, trace: this.#with(barriers) };
    const steps = [...program.keys()];
    const { report } = await explored(test, seed, steps, this.#watch, false);
    this.#last = report;
    this.#recoveries += report.recoveries;
    const { verdict, failure } = report;
    if (verdict === 'proved' || verdict === 'passed') return 'passes';
    if (verdict !== 'failed' || !failure) throw unable(report);
    const cure = await this.#curesOf(barriers, report.trace, failure.replay);
    if (cure.length === 0) return 'hopeless';
    this.#cures.push(cure);
    return 'fails';
  }

  async #curesOf(
    barriers: readonly Candidate[],
    trace: DiskTrace,
    replay: string,
  ): Promise<readonly Candidate[]> {
    const { space, ...trial } = await trialOf({ ...this.#test, trace }, 0, [], this.#watch);
    const [cut] = parseReplay(replay, 0).cuts;
    const state = stateOf(DISK_STATES, space, cut as Cut) as CrashState;
    const failed = await judgeState(trial, state);
    // What fails only after a later cut no barrier of the workload helps.
    if (!failed) return [];
    const since = missingSince(space, state);
    const cure: Candidate[] = [];
    for (const { element: candidate } of this.#choices) {
      // What comes before all that is missing, or behind the cut, forbids nothing.
      const { time } = candidate;
      if (time <= since || time > failed.cut || barriers.includes(candidate)) continue;
      const repaired = crashSpace(this.#with([...barriers, candidate]), this.#test.profile);
      const same = sameState(space, state, repaired);
      if (!same || !(await judgeState(trial, same))) cure.push(candidate);
    }
    return cure;
  }

  #with(barriers: readonly Candidate[]): DiskTrace {
    const hollow = this.#flushes.filter((flush) => !barriers.includes(flush));
    return withBarriers(
      this.#trace,
      barriers.flatMap(({ gap }) => gap ?? []),
      hollow.flatMap(({ flush }) => flush ?? []),
    );
  }
}

/**
 * The same versions in another space of the same writes; undefined if no power cut leaves them there. Advice compares bytes
 * (barriers.ts); here other versions with the same bytes are failures with lists of their own, because it may take a barrier against
 * each of them.
 */
function sameState(
  from: CrashSpace,
  { versions }: CrashState,
  { map }: CrashSpace,
): CrashState | undefined {
  const found = versions.map((version, place) => {
    const { key } = versionAt(regionOf(from.map, place), version);
    return regionOf(map, place).versions.findIndex((other) => other.key === key);
  });
  if (found.includes(-1)) return undefined;
  const state = new CrashState(map, found);
  return state.isPossible ? state : undefined;
}
