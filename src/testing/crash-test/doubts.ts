// What a test that passes does not show: the reasons why its verdict is not `proved`.
//
// A check that accepts everything proves nothing. So it is asked about disks that it should reject: one from which everything is
// gone although it was acknowledged, or disks with damage that no power cut does.

import { type Storage, wrap } from '../../storage/index.js';
import { CrashState } from '../space/crash-state.js';
import type { Told } from './execute.js';
import { formatCount, formatShare, shown } from './in-short.js';
import { judge } from './lives.js';
import { recoverOn } from './recovery.js';
import type { Tally } from './search.js';
import type { Trial } from './trial.js';

/** The warning about a recovery that does not read. */
export const NEVER_READ = 'the recovery never read a sector that the workload had written';

/** The warning about images that were not tried. */
export const PARTLY = (covered: bigint, images: bigint): string =>
  `${formatShare(covered, images)} images are covered`;

const BLIND = (count: number): string =>
  `the check accepts a disk without any write of the workload, although ${formatCount(count)} operations were acknowledged`;

const SILENT =
  'the check returned nothing and never threw, so it may check nothing: return true or false';

const REJECTS_NOTHING =
  'nothing was acknowledged, and the check accepts every disk, also one full of garbage: it may check nothing';

const NOT_ALL_LATER =
  'not every later power cut was tried, because recoveriesMax recoveries are not enough';

/** The reasons why a test that passes is not proved. */
export async function doubtsOf<A, R>(
  trial: Trial<A, R>,
  { covered, recoveries, reads, silence, isWhole, doubt }: Tally,
): Promise<string[]> {
  const { count } = trial.space;
  const warnings: string[] = [];
  const warn = (holds: boolean, text: string): void => {
    if (holds) warnings.push(text);
  };
  warn(recoveries === 0, 'no recovery was run, because recoveriesMax is 0');
  warn(recoveries > 0 && !reads, NEVER_READ);
  warn(count === 1n, 'the workload wrote nothing');
  warn(covered < count, PARTLY(covered, count));
  if (recoveries > 0) {
    const acknowledged = acknowledgedIn(trial);
    const sees = await seesLoss(trial, acknowledged);
    const mayBeBlind = sees === undefined && acknowledged === 0 && reads && count > 1n;
    warn(sees === false, BLIND(acknowledged));
    warn(sees === undefined && silence, SILENT);
    warn(mayBeBlind && !silence && !(await seesDamage(trial)), REJECTS_NOTHING);
  }
  warn(!isWhole, NOT_ALL_LATER);
  warn(doubt !== undefined, doubt ?? '');
  return warnings;
}

/** Whether the check rejects a disk from which everything is gone; undefined if it need not. */
async function seesLoss<A, R>(
  trial: Trial<A, R>,
  acknowledged: number,
): Promise<boolean | undefined> {
  const { test, space, watch } = trial;
  if (acknowledged === 0 || space.count === 1n) return undefined;
  const told = async (state: CrashState): Promise<string> => {
    try {
      return shown(await recoverOn(test, state.disk(), watch), true);
    } catch {
      return '';
    }
  };
  // Where the operations undo each other, the final state equals the initial one.
  const untouched = space.at(0n);
  if ((await told(untouched)) === (await told(space.inOrder(NEVER)))) return undefined;
  return rejects(trial, untouched.disk());
}

const NEVER = Number.POSITIVE_INFINITY;

/** Whether recovery or check reject a disk after everything was acknowledged. */
async function rejects<A, R>(trial: Trial<A, R>, disk: Storage): Promise<boolean> {
  const end = { trace: trial.trace, after: NEVER, before: NEVER };
  return (await judge(trial, disk, () => [end])).failed !== undefined;
}

/** So many regions are taken away, one at a time. */
const DAMAGES_MAX = 64;

/**
 * Whether recovery or check reject a disk that is damaged as no power cut may damage it: it reads as garbage, nothing of the
 * workload is there, or all but one region. A check that accepts all of these may be one that accepts everything.
 */
async function seesDamage<A, R>(trial: Trial<A, R>): Promise<boolean> {
  const { map } = trial.space;
  const whole = trial.space.inOrder(NEVER);
  const every = Math.ceil(map.places / DAMAGES_MAX);
  const without = (place: number): Int32Array =>
    whole.versions.map((version, other) => (other === place ? 0 : version));
  if (await rejects(trial, new CrashState(map, () => 0).disk())) return true;
  for (let place = 0; place < map.places; place += every) {
    if (await rejects(trial, new CrashState(map, without(place)).disk())) return true;
  }
  // Garbage comes last, because a recovery may follow it for long.
  return rejects(trial, garbled(whole.disk()));
}

/** A disk whose every read returns garbage, also where a sector cannot be read. */
function garbled(disk: Storage): Storage {
  const same = wrap(disk, (_, run) => run());
  same.read = (_, into) => void into.fill(0xa5);
  return same;
}

function acknowledgedIn({ trace }: Pick<Trial<unknown, unknown>, 'trace'>): number {
  return trace.marks.filter(({ value }) => (value as Told<unknown>).kind === 'acknowledge').length;
}
