// Traces in which other barriers stand than those that were: what would a power cut leave then?
//
// A flush can be made hollow, and a barrier can be put into a gap: the host waits for everything that it has sent, flushes,
// waits for that, and goes on. What the host did stays as it was, only time is made for it. The writes of such a trace
// are those of the real one, so both have the same cells, and a state of the one can be looked for in the other.

import type { DiskCommand, DiskTrace } from '../device/disk-trace.js';
import type { Cell } from '../space/cells.js';
import { type CrashSpace, CrashState } from '../space/crash-space.js';
import { countUpTo } from '../space/intervals.js';
import type { Version } from '../space/versions.js';

/** A place for a barrier. */
export interface Gap {
  /** Behind this command, by its number in the trace. */
  readonly behind: number;
  /** Before this one; undefined where the barrier comes before something is acknowledged, or is the last. */
  readonly before: number | undefined;
  /** Before everything of this moment. */
  readonly time: number;
}

/** Every place where a barrier may make a difference: before a command, and before something is told. */
export function gapsOf({ commands, marks }: DiskTrace): Gap[] {
  const told = marks.map(({ time }) => ({ time, before: undefined }));
  const sent = commands.map(({ dispatched }, before) => ({ time: dispatched, before }));
  const dispatches = commands.map(({ dispatched }) => dispatched);
  return [...told, ...sent]
    .map((gap) => ({ ...gap, behind: countUpTo(dispatches, gap.time - WAITED) - 1 }))
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
  const times = gaps.map(({ time }) => time);
  const commands = trace.commands.map((command, number): DiskCommand => {
    const { dispatched, completed } = command;
    const next = Math.min(...times.filter((time) => time > dispatched), Number.POSITIVE_INFINITY);
    return {
      ...command,
      completed: Math.min(completed, next - WAITED),
      ...(emptied.has(number) && { fault: { kind: 'hollow' } }),
    };
  });
  const flushes = times.map((time): DiskCommand => {
    const moments = { dispatched: time - SENT, completed: time - ANSWERED };
    return {
      op: 'flush',
      offset: 0,
      length: 0,
      tag: 'simple',
      fua: false,
      ...moments,
      failed: false,
    };
  });
  const all = [...commands, ...flushes].sort((a, b) => a.dispatched - b.dispatched);
  return { ...trace, commands: all };
}

/** Events have whole numbers for moments, so between two of them there is room. */
const WAITED = 0.75;
const SENT = 0.5;
const ANSWERED = 0.25;

/** The same versions in another space of the same writes; undefined where no power cut leaves them there. */
export function sameState(
  from: CrashSpace,
  { versions }: CrashState,
  to: CrashSpace,
): CrashState | undefined {
  const found = from.map.cells.map((cell, place) => {
    const { key } = cell.versions[versions[place] as number] as Version;
    return (to.map.cells[place] as Cell).versions.findIndex((version) => version.key === key);
  });
  if (found.includes(-1)) return undefined;
  const state = new CrashState(to.map, Int32Array.from(found));
  return state.isPossible ? state : undefined;
}
