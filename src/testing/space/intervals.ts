// The axioms: what a power cut may leave of each write of a trace.
//
// Every write r has an interval of time. It starts with the dispatch of r; before that nothing of r is persisted. Two
// moments end it:
//
//   durable   the first event that proves to the host that r is persisted
//   ordered   the first dispatch of a write that cannot be persisted before r; at the latest `durable`
//
// In between, each of its sectors may or may not be there. A sector of a must be persisted before one of b if and only if
// `ordered` of a is not after the dispatch of b, so the intervals contain everything about the order.
//
// Without a volatile cache a write is durable when it completes, or when any command completes that tags order after it. With
// a volatile cache it is durable
//   - when it completes, if it has FUA;
//   - when a flush completes that was dispatched after r completed, or that ordered tags put after r;
//   - when any command completes that tags put after such a flush, or after r itself if it has FUA.
// Its `ordered` is the first dispatch of a command that tags put after such a flush, or after r itself if it has FUA;
// without a volatile cache, of a command that tags put after r.
//
// Tags put y after x if y was dispatched later and x or y is ordered, or an ordered command is between them. A failed write
// is never certain, and neither is one with the fault `unserializable`. A failed flush proves nothing, but commands that tags
// order after it are carried out nevertheless.
//
// Not here: the order in which overlapping writes land that are in flight together (versions.ts), a hazard that the checker
// of traces reports.

import type { DiskCommand } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';

/** When the sectors of a write may be on the medium, and when they must be. */
export interface Interval {
  /** Not before. */
  readonly dispatched: number;
  /** Everything dispatched from here on is persisted later. Infinity for never. */
  readonly ordered: number;
  /** From here on the host knows that it is persisted. Infinity for never. */
  readonly durable: number;
  /** Writes dispatched from here on may be there without it, also on the same sectors. Infinity if it is never given up. */
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
  const isOrdered = (i: number): boolean => at(i).tag === 'ordered' && keepsTags(profile);
  const completion = (i: number): number => (at(i).failed ? NEVER : at(i).completed);

  /** The first command that tags put after command i. */
  const behind = new Array<number>(count);
  for (let i = count - 1, ordered = count; i >= 0; i--) {
    behind[i] = isOrdered(i) ? i + 1 : ordered;
    if (isOrdered(i)) ordered = i;
  }
  const completedFrom = suffixMin(count, completion);
  const from = (minima: readonly number[], i: number): number => minima[i] ?? NEVER;
  const dispatchOf = (i: number): number => commands[i]?.dispatched ?? NEVER;
  const firstBehind = (i: number): number => behind[i] as number;

  // A flush proves what it covers by its own answer, or by that of any command that tags put after it.
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
        dispatched,
        ordered: Math.min(durable, dispatchOf(tagged)),
        durable,
        givenUp: NEVER,
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
      dispatched,
      ordered: Math.min(durable, fenced),
      durable,
      givenUp: NEVER,
    };
    if (forced || drops.length === 0) return interval;
    // A drop loses what was cached then: not what tags put after it, nor what an earlier flush had persisted.
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

/** Whether tags order anything. On a device without ordered tags they do not, whatever a trace says. */
export function keepsTags({ orderedTags, lies }: DeviceProfile): boolean {
  return orderedTags && !lies.includes('ignoreTags');
}

/** Whether tags put command y after command x, by their numbers in the trace. */
export function isTaggedBehind(
  commands: readonly DiskCommand[],
  x: number,
  y: number,
  profile: DeviceProfile,
): boolean {
  if (!keepsTags(profile)) return false;
  return commands.slice(x, y + 1).some(({ tag }) => tag === 'ordered');
}

/** A write that a flush gives up, and that was not certain before, is never certain. */
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
