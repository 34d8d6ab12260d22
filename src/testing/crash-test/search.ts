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
import { cutShort, type Found, levelsOf } from './chains.js';
import { type CutShort, failedOn } from './judge.js';
import type { Judged, Kinds, Run, Subject } from './subject.js';
import type { CrashTest } from './types.js';

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
export async function search<K extends Kinds>(
  subject: Subject<K>,
  { recoveriesMax = 100_000, nested = false, lives = 1 }: Limits,
): Promise<{ readonly tally: Tally; readonly found: Found<K> | undefined }> {
  const tally: Tally = {
    ...{ recoveries: 0, recoveriesMax, covered: 0n, orders: {}, doubt: undefined },
    ...{ reads: false, silence: false, isWhole: true },
  };
  const first = [subject.first];
  return { found: await cutIn(subject, first, undefined, Number(nested), lives - 1, tally), tally };
}

/** How thoroughly a test looks. */
type Limits = Pick<CrashTest<never, never>, 'recoveriesMax' | 'nested' | 'lives'>;

/**
 * Cuts the power at every moment of the last life, and recovers.
 *
 * @param nested how many more power cuts may come during recoveries
 * @param more how many more lives may come
 */
async function cutIn<K extends Kinds>(
  subject: Subject<K>,
  lives: readonly K['life'][],
  below: Decisions<K['map']> | undefined,
  nested: number,
  more: number,
  tally: Tally,
): Promise<Found<K> | undefined> {
  const life = lives.at(-1) as K['life'];
  const left = tally.recoveriesMax - tally.recoveries;
  const most = below ? Math.max(LIFE_MIN, Math.ceil(left * LIFE_SHARE)) : left;
  const all = life.space.count * (below?.states ?? 1n);
  let covered = 0n;
  let tried = 0;
  for (const run of subject.crashes(life, !below || all > most ? most : undefined, below)) {
    if (tried === most || tally.recoveries >= tally.recoveriesMax) break;
    tried += 1;
    count(tally, below ? LATER : run.order);
    const cuts = (): CutShort[] => cutShort(lives, levelsOf(run.decisions));
    const judged = await subject.judge(run, cuts);
    const { failed, isSilent } = judged;
    covered += run.images;
    tally.covered = below ? tally.covered : covered;
    tally.reads ||= !below && run.decisions.decided.size > 0;
    tally.silence ||= isSilent;
    const found = failed
      ? { failed, lives, decisions: run.decisions }
      : await goOn(subject, lives, run, judged, nested, more, tally);
    if (found) return found;
  }
  if (below && covered < all) tally.isWhole = false;
  return undefined;
}

/** Goes on after a crash that the recovery has survived: with power cuts during that recovery, and in another life. */
async function goOn<K extends Kinds>(
  subject: Subject<K>,
  lives: readonly K['life'][],
  { decisions }: Run<K>,
  judged: Judged<K>,
  nested: number,
  more: number,
  tally: Tally,
): Promise<Found<K> | undefined> {
  const recovery = nested > 0 ? judged.recovery?.() : undefined;
  if (recovery) {
    tally.doubt ??= recovery.doubt;
    const all = [...lives, recovery];
    const found = await cutIn(subject, all, decisions, nested - 1, more, tally);
    if (found) return found;
  }
  if (more === 0) return undefined;
  for (const run of subject.continued(decisions)) {
    if (tally.recoveries >= tally.recoveriesMax) {
      tally.isWhole = false;
      return undefined;
    }
    count(tally, LATER);
    const life = await subject.live(run, lives);
    if ('cause' in life) {
      const failed = failedOn(life.cause, cutShort(lives, levelsOf(run.decisions)));
      return { failed: { ...failed, goesOn: true }, lives, decisions: run.decisions };
    }
    tally.doubt ??= life.doubt;
    const found = await cutIn(subject, [...lives, life], run.decisions, nested, more - 1, tally);
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
