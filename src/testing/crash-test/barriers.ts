// Traces in which other barriers stand than those that were: what would a power cut leave then?
//
// A flush can be made hollow, and a barrier can be put into a gap: the host waits for everything that it has sent, flushes,
// waits for that, and goes on. What the host did stays as it was, only time is made for it. The writes of such a trace
// are those of the real one, so both have the same cells, and an image of the one can be looked for in the other.

import type { DiskCommand, DiskTrace } from '../device/disk-trace.js';
import type { Cell, Version } from '../space/cells.js';
import { type CrashSpace, CrashState } from '../space/crash-space.js';

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
  return [...told, ...sent]
    .map(({ time, before }) => ({
      behind: commands.filter(({ dispatched }) => dispatched < time).length - 1,
      before,
      time,
    }))
    .filter(({ behind }) => commands[behind]?.op !== undefined)
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

/** The latest state of a space that leaves the same bytes as one of another space of the same writes. */
export function sameImage(
  from: CrashSpace,
  { versions }: CrashState,
  to: CrashSpace,
): CrashState | undefined {
  const wanted = from.map.cells.map(
    (cell, place) => cell.versions[versions[place] as number] as Version,
  );
  const alike = to.map.cells.map((cell, place) => alikeOf(cell, wanted[place] as Version));
  for (const time of [...to.moments, Number.NEGATIVE_INFINITY].sort((a, b) => b - a)) {
    const found = alike.map((candidates) =>
      candidates
        .filter(({ version }) => version.after <= time && time < version.ordered)
        .reduce<Candidate | undefined>(later, undefined),
    );
    if (found.some((candidate) => candidate === undefined)) continue;
    return new CrashState(
      to.map,
      Int32Array.from(found, (candidate) => (candidate as Candidate).index),
    );
  }
  return undefined;
}

interface Candidate {
  readonly version: Version;
  readonly index: number;
}

function alikeOf({ versions }: Cell, wanted: Version): Candidate[] {
  return versions.flatMap((version, index) => (equal(version, wanted) ? [{ version, index }] : []));
}

function equal(a: Version, b: Version): boolean {
  if (a.readable !== b.readable) return false;
  return a.bytes === b.bytes || a.bytes.every((byte, i) => byte === b.bytes[i]);
}

/** That of which the host knows later that it is gone. */
function later(a: Candidate | undefined, b: Candidate): Candidate {
  return a && a.version.durable >= b.version.durable ? a : b;
}
