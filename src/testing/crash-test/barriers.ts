// The same trace with other barriers: what would a power cut leave then?
//
// A flush can be made to do nothing (`hollow`), and a barrier can be put into a gap: the host waits for all of its commands,
// flushes, waits for the flush, and continues. The commands of the host stay as they were; only their moments change. Both
// traces have the same writes, so their crash spaces have the same regions, and a crash state of one can be found in the other.

import type { Content, DiskCommand, DiskTrace } from '../device/disk-trace.js';
import type { CrashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import { countUpTo } from '../space/intervals.js';
import { regionOf, versionAt } from '../space/regions.js';
import type { Version } from '../space/versions.js';

/** A place for a barrier. */
export interface Gap {
  /** The barrier comes after this command, by its number in the trace. */
  readonly behind: number;
  /** The barrier comes before this command; undefined if it comes before an acknowledgement. */
  readonly before: number | undefined;
  /** The barrier comes before this moment of the trace. */
  readonly time: number;
}

/** Every place where a barrier may make a difference: before a command, and before a mark. */
export function gapsOf({ commands, marks }: DiskTrace): Gap[] {
  const told = marks.map(({ time }) => ({ time, before: undefined }));
  const sent = commands.map(({ dispatched }, before) => ({ time: dispatched, before }));
  const dispatches = commands.map(({ dispatched }) => dispatched);
  return [...told, ...sent]
    .map((gap) => ({ ...gap, behind: countBelow(dispatches, gap.time) - 1 }))
    .filter(({ behind }) => behind >= 0)
    .sort((a, b) => a.time - b.time);
}

/** The same trace with barriers in these gaps, and with these flushes hollow. */
export function withBarriers(
  trace: DiskTrace,
  gaps: readonly Gap[],
  hollow: readonly number[],
): DiskTrace {
  const emptied = new Set(hollow);
  const events = momentsOf(trace);
  /** A moment in a gap, after this share of it: the moments of a trace may be close together. */
  const within = (time: number, share: number): number => {
    const before = events[countBelow(events, time) - 1] as number;
    return before + (time - before) * share;
  };
  const times = [...new Set(gaps.map(({ time }) => time))];
  const commands = trace.commands.map((command, number): DiskCommand => {
    const { dispatched, completed } = command;
    const next = Math.min(...times.filter((time) => time > dispatched), NEVER);
    return {
      ...command,
      completed: next <= completed && next < NEVER ? within(next, WAITED) : completed,
      ...(emptied.has(number) && { fault: { kind: 'hollow' } }),
    };
  });
  const flushes = times.map((time): DiskCommand => {
    const moments = { dispatched: within(time, SENT), completed: within(time, ANSWERED) };
    const nowhere = { offset: 0, length: 0, tag: 'simple', fua: false } as const;
    return { op: 'flush', ...nowhere, ...moments, failed: false };
  });
  const all = [...commands, ...flushes].sort((a, b) => a.dispatched - b.dispatched);
  return { ...trace, commands: all };
}

const NEVER = Number.POSITIVE_INFINITY;

const WAITED = 1 / 4;
const SENT = 1 / 2;
const ANSWERED = 3 / 4;

/** All moments of a trace, ascending. */
function momentsOf({ commands, marks }: DiskTrace): number[] {
  const answers = commands.map(({ completed }) => completed);
  const all = [...commands.map(({ dispatched }) => dispatched), ...answers];
  return [...all, ...marks.map(({ time }) => time)].sort((a, b) => a - b);
}

/** How many of the ascending numbers are smaller. */
function countBelow(ascending: readonly number[], value: number): number {
  let count = countUpTo(ascending, value);
  while (ascending[count - 1] === value) count -= 1;
  return count;
}

/**
 * The same versions in another space of the same writes; undefined if no power cut leaves them there.
 *
 * @param below what the life before has left
 */
export function sameState(
  from: CrashSpace,
  { versions }: CrashState,
  to: CrashSpace,
  below?: Content,
): CrashState | undefined {
  const found = versions.map((version, place) => {
    const { key } = versionAt(regionOf(from.map, place), version);
    return regionOf(to.map, place).versions.findIndex((other) => other.key === key);
  });
  if (found.includes(-1)) return undefined;
  const state = new CrashState(to.map, found, below);
  return state.isPossible ? state : undefined;
}

/** Nothing dispatched before this moment is missing from a crash state, so a barrier before it prevents nothing. */
export function missingSince({ map }: CrashSpace, { versions }: CrashState): number {
  let since = NEVER;
  for (const [place, there] of versions.entries()) {
    const { versions: all } = regionOf(map, place);
    if (there === all.length - 1) continue; // nothing newer was written here
    const { after, intact } = all[there] as Version;
    // A version that lacks something may lack any write to the region, from the first on.
    since = Math.min(since, intact && there > 0 ? after : (all[1] as Version).after);
  }
  return since;
}
