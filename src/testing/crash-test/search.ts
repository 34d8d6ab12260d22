// The search for a power cut that the code does not survive: the first one, those during recoveries (`nested`), and those in later
// lives (`lives`).
//
// After each power cut comes a recovery, which is judged. If it is right, the search goes on from there: the power is cut at every
// moment of that recovery, then it lives on, and the power is cut at every moment of that. Each of these cuts is followed in the
// same way, as long as there may be more.
//
// The recovery of a later cut reads what the life before has left, and below that what the power cuts before have left. It
// decides both when it reads them (decisions.ts), so its runs cover all crash states of all lives together, each once.

import { misuse } from '../../model/index.js';
import type { Decisions } from '../space/decisions.js';
import { continued, crashesOf, type Run } from '../space/explore.js';
import { doubtOf } from './execute.js';
import { labelOf } from './in-short.js';
import { type CutShort, failedOn, judge } from './judge.js';
import {
  cutShort,
  type Found,
  firstLife,
  type Life,
  levelsOf,
  live,
  recoveryLife,
} from './lives.js';
import type { Recorded } from './recovery.js';
import { isWrite } from './scene.js';
import type { Trial } from './trial.js';

/** What has been tried. */
export interface Tally {
  /** Recoveries, and later lives. */
  recoveries: number;
  readonly recoveriesMax: number;
  /** The crash states of the first power cut that are covered. */
  covered: bigint;
  /** How many recoveries each strategy picked. */
  readonly orders: Record<string, number>;
  /** A recovery has read something that the workload wrote. */
  reads: boolean;
  /** The check has accepted something by returning nothing. */
  silence: boolean;
  /** Whether all later power cuts were tried. */
  isWhole: boolean;
  /** Why the disk of a recovery or of a later life may have answered too early. */
  doubt: string | undefined;
}

/** One life tries so many recoveries, or this share of those that are left, so that the first lives do not take all. */
const LIFE_MIN = 1000;
const LIFE_SHARE = 1 / 16;

const LATER = 'after a later cut';

/** Cuts the power at every moment of the workload and of what follows, up to the first failure. */
export async function search<A, R>(
  trial: Trial<A, R>,
): Promise<{ readonly tally: Tally; readonly found: Found | undefined }> {
  const { recoveriesMax = 100_000, nested = false, lives = 1 } = trial.test;
  const tally: Tally = {
    ...{ recoveries: 0, recoveriesMax, covered: 0n, orders: {}, doubt: undefined },
    ...{ reads: false, silence: false, isWhole: true },
  };
  const first = [firstLife(trial)];
  return { found: await cutIn(trial, first, undefined, Number(nested), lives - 1, tally), tally };
}

/**
 * Cuts the power at every moment of the last life, and recovers.
 *
 * @param nested how many more power cuts may come during recoveries
 * @param more how many more lives may come
 */
async function cutIn<A, R>(
  trial: Trial<A, R>,
  lives: readonly Life[],
  below: Decisions | undefined,
  nested: number,
  more: number,
  tally: Tally,
): Promise<Found | undefined> {
  const { space } = lives.at(-1) as Life;
  const { test } = trial;
  const left = tally.recoveriesMax - tally.recoveries;
  const most = below ? Math.max(LIFE_MIN, Math.ceil(left * LIFE_SHARE)) : left;
  const all = space.count * (below?.states ?? 1n);
  const options = {
    ...((!below || all > most) && { recoveriesMax: most }),
    ...(!below && test.label && { label: (offset: number) => labelOf(test, offset) }),
  };
  let covered = 0n;
  let tried = 0;
  for (const run of crashesOf(space, options, below)) {
    if (tried === most || tally.recoveries >= tally.recoveriesMax) break;
    tried += 1;
    count(tally, below ? LATER : run.order);
    const cuts = (): CutShort[] => cutShort(lives, levelsOf(run.decisions));
    const { failed, isSilent, recovery } = await judge(trial, run.disk, cuts);
    covered += run.images;
    tally.covered = below ? tally.covered : covered;
    tally.reads ||= !below && run.decided.size > 0;
    tally.silence ||= isSilent;
    const found = failed
      ? { failed, lives, decisions: run.decisions }
      : await goOn(trial, lives, run, recovery, nested, more, tally);
    if (found) return found;
  }
  if (below && covered < all) tally.isWhole = false;
  return undefined;
}

/** Goes on after a crash that the recovery has survived: with power cuts during that recovery, and in another life. */
async function goOn<A, R>(
  trial: Trial<A, R>,
  lives: readonly Life[],
  { decisions }: Run,
  recovery: Recorded | undefined,
  nested: number,
  more: number,
  tally: Tally,
): Promise<Found | undefined> {
  const trace = nested > 0 ? recovery?.recorder.trace : undefined;
  if (trace?.commands.some(isWrite)) {
    tally.doubt ??= recovery && doubtOf('recovery', recovery.rest);
    const all = [...lives, recoveryLife(trial, trace)];
    const found = await cutIn(trial, all, decisions, nested - 1, more, tally);
    if (found) return found;
  }
  if (more === 0) return undefined;
  for (const run of continued(decisions)) {
    if (tally.recoveries >= tally.recoveriesMax) {
      tally.isWhole = false;
      return undefined;
    }
    count(tally, LATER);
    const life = await live(trial, run.content, lives);
    if ('cause' in life) {
      const failed = failedOn(life.cause, cutShort(lives, levelsOf(run.decisions)));
      return { failed: { ...failed, goesOn: true }, lives, decisions: run.decisions };
    }
    tally.doubt ??= life.doubt;
    const found = await cutIn(trial, [...lives, life], run.decisions, nested, more - 1, tally);
    if (found) return found;
    // A failure comes first: a command that was not waited for may be the mistake in question.
    if (life.unfinished !== undefined) throw misuse(life.unfinished);
  }
  return undefined;
}

function count(tally: Tally, order: string): void {
  tally.recoveries += 1;
  tally.orders[order] = (tally.orders[order] ?? 0) + 1;
}
