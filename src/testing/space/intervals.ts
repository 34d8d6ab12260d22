// The axioms: what a power cut may leave of each write of a trace.
//
// Every write r gets an interval of time. It starts with its dispatch; before that nothing of r is on the medium.
// It has two ends:
//
//   durable   the first event that proves to the host that r is on the medium
//   ordered   the first dispatch of a write that cannot reach the medium before r has; at the latest `durable`
//
// In between, each of its sectors may or may not be there. A sector of a must be on the medium before one of b
// exactly where a's `ordered` is not after b's dispatch: the intervals are all there is to know.
//
// Without a volatile cache a write is durable when it completes, or any command that tags put behind it. With one
// it is durable
//   - when it completes, if it has FUA;
//   - when a flush completes that was dispatched after r completed, or that ordered tags put behind r;
//   - when any command completes that tags put behind such a flush, or behind r itself if it has FUA.
// It is ordered when a command is dispatched that tags put behind such a flush or such an r; without a cache, when
// one is dispatched that tags put behind r.
//
// Tags put y behind x where y was dispatched later and x or y is ordered, or an ordered command lies between.
// A failed write is certain at no time, and neither is an unserializable one. A failed flush proves nothing; what was dispatched behind it in a tag mode
// is there all the same.
//
// Not here: in which order writes land that are at the device together and overlap (versions.ts), a hazard that the checker
// of traces reports.

import type { DiskCommand } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';

/** When the sectors of a write may be on the medium, and when they must be. */
export interface Interval {
  /** Not before. */
  readonly dispatched: number;
  /** Whatever is dispatched from here on reaches the medium later. Infinity for never. */
  readonly ordered: number;
  /** From here on the host can know. Infinity for never. */
  readonly durable: number;
  /** What is dispatched from here on may be there without it, on the same sectors, too; Infinity unless given up. */
  readonly givenUp: number;
}

const NEVER = Number.POSITIVE_INFINITY;

/** The interval of each command; undefined for those that write nothing. */
export function intervalsOf(
  commands: readonly DiskCommand[],
  profile: DeviceProfile,
): readonly (Interval | undefined)[] {
  const { lies } = profile;
  const volatile = isVolatile(profile);
  const count = commands.length;
  const at = (i: number): DiskCommand => commands[i] as DiskCommand;
  const isOrdered = (i: number): boolean => at(i).tag === 'ordered' && !lies.includes('ignoreTags');
  const completion = (i: number): number => (at(i).failed ? NEVER : at(i).completed);

  /** The first command that tags put behind command i. */
  const behind = new Array<number>(count);
  for (let i = count - 1, ordered = count; i >= 0; i--) {
    behind[i] = isOrdered(i) ? i + 1 : ordered;
    if (isOrdered(i)) ordered = i;
  }
  const completedFrom = suffixMin(count, completion);
  const from = (minima: readonly number[], i: number): number => minima[i] ?? NEVER;
  const dispatchOf = (i: number): number => commands[i]?.dispatched ?? NEVER;
  const firstBehind = (i: number): number => behind[i] as number;

  // A flush proves what it covers by its own answer, or by that of whatever tags put behind it.
  const works = (i: number): boolean =>
    at(i).op === 'flush' && !at(i).failed && !at(i).fault && !lies.includes('ignoreFlush');
  const provenFrom = suffixMin(count, (i) =>
    works(i) ? Math.min(completion(i), from(completedFrom, firstBehind(i))) : NEVER,
  );
  const fencedFrom = suffixMin(count, (i) => (works(i) ? dispatchOf(firstBehind(i)) : NEVER));

  const dispatches = commands.map(({ dispatched }) => dispatched);
  const numbers = [...commands.keys()];
  const flushes = numbers.filter((number) => at(number).op === 'flush');
  const drops = flushes.filter((number) => at(number).fault?.kind === 'drop');
  const tags = (x: number, y: number): boolean => x < y && y >= firstBehind(x);
  return commands.map((command, i) => {
    const { op, dispatched, completed, failed, fua, fault } = command;
    if (op === 'read' || op === 'flush' || fault?.kind === 'lost') return undefined;
    if (failed || fault?.kind === 'unserializable') {
      return { dispatched, ordered: NEVER, durable: NEVER, givenUp: Number.NEGATIVE_INFINITY };
    }
    const tagged = firstBehind(i);
    if (!volatile) {
      const durable = Math.min(completed, from(completedFrom, tagged));
      return {
        ...{ dispatched, durable, givenUp: NEVER },
        ordered: Math.min(durable, dispatchOf(tagged)),
      };
    }
    const later = completed === NEVER ? count : countUpTo(dispatches, completed);
    const covering = Math.min(tagged, later);
    const forced = fua && !lies.includes('ignoreFua');
    const durable = Math.min(
      from(provenFrom, covering),
      forced ? Math.min(completed, from(completedFrom, tagged)) : NEVER,
    );
    const fenced = Math.min(from(fencedFrom, covering), forced ? dispatchOf(tagged) : NEVER);
    const interval = {
      ...{ dispatched, durable, givenUp: NEVER },
      ordered: Math.min(durable, fenced),
    };
    if (forced) return interval;
    // A drop takes what was cached then: not what tags keep behind it, nor what a flush had taken before it.
    const reached = drops.filter((drop) => {
      if (tags(drop, i)) return false;
      return !flushes.some((flush) => flush >= covering && works(flush) && tags(flush, drop));
    });
    return reached.reduce((left, drop) => given(left, at(drop)), interval);
  });
}

/** Whether a completed write may be lost. */
export function isVolatile({ cache, lies }: DeviceProfile): boolean {
  return cache === 'volatile' || lies.includes('claimWriteThrough');
}

/** Whether tags put command y behind command x, by their places in the trace. */
export function isTaggedBehind(
  commands: readonly DiskCommand[],
  x: number,
  y: number,
  { lies }: DeviceProfile,
): boolean {
  if (lies.includes('ignoreTags')) return false;
  return commands.slice(x, y + 1).some(({ tag }) => tag === 'ordered');
}

/** What a flush gives up that was not certain before it is never certain. */
function given(interval: Interval, drop: DiskCommand): Interval {
  const { dispatched, ordered, durable, givenUp } = interval;
  if (dispatched > drop.completed || durable <= drop.dispatched) return interval;
  const still = (time: number): number => (time <= drop.dispatched ? time : NEVER);
  return {
    dispatched,
    ordered: still(ordered),
    durable: NEVER,
    givenUp: Math.min(givenUp, drop.dispatched),
  };
}

/** For each i the least of `value(i)`, `value(i + 1)`, ... */
export function suffixMin(count: number, value: (i: number) => number): number[] {
  const minima = new Array<number>(count);
  for (let i = count - 1, least = NEVER; i >= 0; i--) {
    least = Math.min(least, value(i));
    minima[i] = least;
  }
  return minima;
}

/** How many of the ascending numbers are not larger. */
export function countUpTo<T extends number | bigint>(ascending: readonly T[], value: T): number {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ascending[middle] as T) > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
