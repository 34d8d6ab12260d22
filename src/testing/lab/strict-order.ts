// Does order alone explain what is recovered? Would a disk that keeps everything in order have left the recovered state, too? A
// state that it would not have left is the mark of a missing barrier, even where the check accepts the state.
//
// Source: robustness (PSan), strict crash consistency (Ferrite).

import { messageOf } from '../../model/error.js';
import { formatValue, misuse } from '../../model/index.js';
import type { Storage } from '../../storage/index.js';
import { NEVER_READ, PARTLY } from '../crash-test/doubts.js';
import { labelOf } from '../crash-test/in-short.js';
import { recoverOn } from '../crash-test/recovery.js';
import type { CrashReport, CrashTest } from '../crash-test/types.js';
import { HangError, Watch } from '../crash-test/watch.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import { UnsteadyRecoveryError } from '../space/explore.js';
import { oneTrace, printable } from './one-trace.js';

/** The result of `strictOrder`. */
export interface StrictOrderReport
  extends Pick<CrashReport, 'images' | 'covered' | 'recoveries' | 'warnings'> {
  /**
   * `proved`: every image is covered, and none is out of order. `passed`: none of those that were tried. `failed`: one is.
   * `hung`: a recovery has not ended within `hangMs`, and `warnings` says what it waits for.
   */
  readonly verdict: CrashReport['verdict'];
  /** `proved`: no recovered state is out of order, and all of them are known. */
  readonly holds: boolean;
  /** A state that no disk in order leaves, by its digest. */
  readonly digest?: string;
  /** How many states a disk in order leaves. */
  readonly inOrder: number;
}

/**
 * Compares every recovered state with those after a power cut on a disk that carries everything out in order and whole. It uses
 * one run of the workload, that of `seed`; a `seeds` above 1 is ignored, with a warning.
 *
 * @param digest names a recovered state: equal states have equal names
 * @throws `INVALID_ARGUMENT` as `crashTest` does, and for a digest that answers no string; what the digest throws
 */
export async function strictOrder<A, R, P>(
  test: CrashTest<A, R, P>,
  digest: (recovered: R) => string,
): Promise<StrictOrderReport> {
  if (typeof digest !== 'function') {
    throw misuse(`digest must be a function, not ${formatValue(digest)}`);
  }
  const { trace, warnings: more } = await oneTrace(test);
  const space = crashSpace(trace, test.profile);
  const watch = new Watch(test.hangMs);
  const recovered = async (disk: Storage): Promise<string> => {
    let state: R;
    try {
      state = await recoverOn(test, disk, watch);
    } catch (error) {
      if (error instanceof UnsteadyRecoveryError || error instanceof HangError) throw error;
      return `throws ${messageOf(error)}`;
    }
    // What is no name, or is one by accident, would make different states equal.
    const name: unknown = digest(state);
    if (typeof name === 'string') return name;
    throw misuse(`the digest returned ${formatValue(name)}; it must return a string`);
  };
  const ordered = inOrderOf(space, trace, test.profile);
  const expected = new Set<string>();
  const { recoveriesMax = 100_000, label } = test;
  const options = label ? { label: (offset: number) => labelOf(test, offset) } : {};
  const counts = { images: space.count, covered: 0n, recoveries: 0, inOrder: ordered.length };
  let looked = false;
  try {
    for (const state of ordered) expected.add(await recovered(state.disk()));
    for (const crash of space.explore({ recoveriesMax, ...options })) {
      counts.recoveries += 1;
      const digest = await recovered(crash.disk);
      counts.covered += crash.images;
      looked ||= crash.decided.size > 0;
      if (expected.has(digest)) continue;
      return printable({ verdict: 'failed', holds: false, digest, ...counts, warnings: more });
    }
  } catch (error) {
    if (!(error instanceof HangError)) throw error;
    const warnings = [...more, error.message];
    return printable({ verdict: 'hung', holds: false, ...counts, warnings });
  }
  const { images, covered } = counts;
  const warnings = [
    ...more,
    ...(looked ? [] : [NEVER_READ]),
    ...(covered < images ? [PARTLY(covered, images)] : []),
  ];
  const holds = warnings.length === 0;
  return printable({ verdict: holds ? 'proved' : 'passed', holds, ...counts, warnings });
}

/** The states after each command, if all came in order and whole. */
function inOrderOf(
  space: CrashSpace,
  trace: DiskTrace,
  profile: CrashTest<unknown, unknown>['profile'],
): CrashState[] {
  const prefixes = (of: CrashSpace): CrashState[] =>
    [Number.NEGATIVE_INFINITY, ...of.moments].map((end) => of.inOrder(end));
  // A write that failed may have come to nothing, in perfect order, too.
  const commands = trace.commands.filter(({ failed }) => !failed);
  if (commands.length === trace.commands.length) return prefixes(space);
  return [...prefixes(space), ...prefixes(crashSpace({ ...trace, commands }, profile))];
}
