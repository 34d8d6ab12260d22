// Questions about a crash test that need no better check than the one it has.
//
//   strict order   Would the recovered state have come out of a disk that keeps everything in order? What would not is
//                  the mark of a missing barrier, even where the check does not mind.
//   mutation       Is every flush needed? Each is made to do nothing in turn; a mutant that survives is a redundant
//                  flush, or a check that is too weak to see it.
//   synthesis      Which flushes would do? The smallest set of those that there are, with the others doing nothing.
//
// All of them change the trace and not the workload: what the host did stays as it was.
//
// Source: robustness (PSan), strict crash consistency and synthesis of fences (Ferrite), redundant flushes (Agamotto).

import { inWords } from '../model/error.js';
import { MemoryStorage, type Storage } from '../storage/index.js';
import { type CrashSpace, type CrashState, crashSpace } from './crash-space.js';
import { type CrashTest, crashTest } from './crash-test.js';
import type { DiskTrace } from './disk-trace.js';

/** A flush that was made to do nothing. */
export interface Mutant {
  /** The number of the flush among the commands of the trace. */
  readonly flush: number;
  /** A power cut shows that it is missing. */
  readonly killed: boolean;
  /** What was said then. */
  readonly message?: string;
}

/**
 * Takes each flush out in turn and runs the test on what is left. The workload runs once.
 *
 * @throws `INVALID_ARGUMENT` as `crashTest` does
 */
export async function barrierMutation<A, R>(test: CrashTest<A, R>): Promise<readonly Mutant[]> {
  const { trace } = await crashTest({ ...test, recoveriesMax: 0 });
  const mutants: Mutant[] = [];
  for (const flush of flushesOf(trace)) {
    const { verdict, failure } = await crashTest({ ...test, trace: without(trace, [flush]) });
    const message = failure && { message: failure.message };
    mutants.push({ flush, killed: verdict === 'failed', ...message });
  }
  return mutants;
}

/**
 * The smallest set of flushes with which the test passes, by their numbers among the commands; undefined where it
 * fails with all of them. Small sets are tried first, so many flushes take long.
 */
export async function barrierSynthesis<A, R>(
  test: CrashTest<A, R>,
): Promise<readonly number[] | undefined> {
  const { trace } = await crashTest({ ...test, recoveriesMax: 0 });
  const flushes = flushesOf(trace);
  for (let size = 0; size <= flushes.length; size++) {
    for (const kept of subsets(flushes, size)) {
      const rest = flushes.filter((flush) => !kept.includes(flush));
      const { verdict } = await crashTest({ ...test, trace: without(trace, rest) });
      if (verdict !== 'failed') return kept;
    }
  }
  return undefined;
}

/** What strict order came to. */
export interface StrictOrderReport {
  /** No recovered state is out of order. */
  readonly holds: boolean;
  /** A state that no disk in order leaves, by its digest. */
  readonly digest?: string;
  /** How many states a disk in order leaves. */
  readonly inOrder: number;
  /** How many recoveries were compared with them. */
  readonly recoveries: number;
}

/**
 * Compares every recovered state with those after a cut on a disk that carries everything out in order and whole.
 *
 * @param digest names a recovered state: equal states have equal names
 */
export async function strictOrder<A, R>(
  test: CrashTest<A, R>,
  digest: (recovered: R) => string,
): Promise<StrictOrderReport> {
  const { trace } = await crashTest({ ...test, recoveriesMax: 0 });
  const space = crashSpace(trace, test.profile);
  const recovered = async (disk: Storage): Promise<string> => {
    try {
      return digest(await test.recover(disk));
    } catch (error) {
      return `throws ${inWords(error)}`;
    }
  };
  const expected = new Set<string>();
  const inOrder = prefixesOf(space);
  const capabilities = { blockSize: space.profile.atomicWriteUnit, cache: 'none' } as const;
  for (const state of inOrder) {
    expected.add(await recovered(new MemoryStorage(state.image(), { capabilities })));
  }
  let recoveries = 0;
  for (const { disk } of space.explore()) {
    recoveries += 1;
    const found = await recovered(disk);
    if (!expected.has(found)) {
      return { holds: false, digest: found, inOrder: inOrder.length, recoveries };
    }
  }
  return { holds: true, inOrder: inOrder.length, recoveries };
}

/** The states after each command, if all came in order and whole. */
function prefixesOf(space: CrashSpace): CrashState[] {
  const ends = new Set([Number.NEGATIVE_INFINITY]);
  for (const { versions } of space.map.sectors) {
    for (const { interval } of versions) ends.add(interval.dispatched);
  }
  return [...ends].map((end) => space.inOrder(end));
}

function flushesOf({ commands }: DiskTrace): number[] {
  return commands.flatMap(({ op }, number) => (op === 'flush' ? [number] : []));
}

/** The same trace in which these flushes did nothing. */
function without(trace: DiskTrace, flushes: readonly number[]): DiskTrace {
  const hollow = { fault: { kind: 'hollow' } } as const;
  const commands = trace.commands.map((command, number) =>
    flushes.includes(number) ? { ...command, ...hollow } : command,
  );
  return { ...trace, commands };
}

function* subsets(all: readonly number[], size: number, from = 0): Generator<number[]> {
  if (size === 0) {
    yield [];
    return;
  }
  for (let i = from; i <= all.length - size; i++) {
    for (const rest of subsets(all, size - 1, i + 1)) yield [all[i] as number, ...rest];
  }
}
