// The same trace with other barriers: what would a power cut leave then?
//
// A flush can be made to do nothing (`hollow`), and a barrier can be put into a gap: the host waits for all of its commands,
// flushes, waits for the flush, and continues. The commands of the host stay as they were; only their moments change. Both
// traces have the same writes, so their crash spaces have the same regions, and a crash state of one can be looked for in the other.
//
// A state is looked for by its bytes. Where writes race, tear or repeat themselves, another version leaves the same image, perhaps
// at another moment; so a barrier has prevented a failure only if every state with these bytes passes.

import type { Content, DiskCommand, DiskTrace } from '../device/disk-trace.js';
import type { CrashSpace } from '../space/crash-space.js';
import { CrashState } from '../space/crash-state.js';
import { countUpTo } from '../space/intervals.js';
import { regionOf } from '../space/places.js';
import { contentOf, offsetOf, type RegionMap } from '../space/regions.js';
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
export function gapsOf(trace: DiskTrace): Gap[] {
  const { commands, marks } = trace;
  const told = marks.map(({ time }) => ({ time, before: undefined }));
  const sent = commands.map(({ dispatched }, before) => ({ time: dispatched, before }));
  const dispatches = commands.map(({ dispatched }) => dispatched);
  const room = roomOf(trace);
  return [...told, ...sent]
    .map((gap) => ({ ...gap, behind: countUpTo(dispatches, gap.time - WAITED * room) - 1 }))
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
  const times = [...new Set(gaps.map(({ time }) => time))];
  const room = roomOf(trace);
  const commands = trace.commands.map((command, number): DiskCommand => {
    const { dispatched, completed } = command;
    const next = Math.min(...times.filter((time) => time > dispatched), NEVER);
    return {
      ...command,
      completed: Math.min(completed, next - WAITED * room),
      ...(emptied.has(number) && { fault: { kind: 'hollow' } }),
    };
  });
  const flushes = times.map((time): DiskCommand => {
    const moments = { dispatched: time - SENT * room, completed: time - ANSWERED * room };
    const nowhere = { offset: 0, length: 0, tag: 'simple', fua: false } as const;
    return { op: 'flush', ...nowhere, ...moments, failed: false };
  });
  const all = [...commands, ...flushes].sort((a, b) => a.dispatched - b.dispatched);
  return { ...trace, commands: all };
}

const NEVER = Number.POSITIVE_INFINITY;

const WAITED = 3 / 4;
const SENT = 1 / 2;
const ANSWERED = 1 / 4;

/** The room between two events of a trace: the least time between any two. */
function roomOf({ commands, marks }: DiskTrace): number {
  const moments = commands.flatMap(({ dispatched, completed }) => [dispatched, completed]);
  const all = [...moments, ...marks.map(({ time }) => time)].sort((a, b) => a - b);
  return all.reduce(
    (room, time, n) => Math.min(room, time - (all[n - 1] ?? -NEVER) || NEVER),
    NEVER,
  );
}

/**
 * Whether another space of the same writes has the bytes of a state, at a moment at which they fail.
 *
 * @param below what the life before has left
 */
export async function failsIn(
  space: CrashSpace,
  state: CrashState,
  fails: (same: CrashState) => Promise<unknown>,
  below?: Content,
): Promise<boolean> {
  for (const same of sameStates(state, space, below)) if (await fails(same)) return true;
  return false;
}

/**
 * The states of another space of the same writes with the same bytes, one for each moment at which one begins: that which is
 * possible for longest. Bytes are compared and not versions, because where writes race, tear or repeat themselves another version
 * may leave the same image.
 */
function* sameStates(
  from: CrashState,
  { map }: CrashSpace,
  below?: Content,
): Generator<CrashState, void> {
  const alike = Array.from(from.versions, (_, place) => alikeAt(place, from, map, below));
  const begins = alike.flatMap((all) => all.map(({ version: { after } }) => after));
  for (const moment of [...new Set(begins)].sort((a, b) => a - b)) {
    const versions = alike.map((all) => longestAt(moment, all));
    if (versions.includes(-1)) continue;
    const state = new CrashState(map, Int32Array.from(versions), below);
    if (state.after === moment) yield state;
  }
}

interface Alike {
  readonly index: number;
  readonly version: Version;
}

/** The versions of a place with the same bytes. */
function alikeAt(
  place: number,
  from: CrashState,
  map: RegionMap,
  below: Content = map.before,
): Alike[] {
  const region = regionOf(map, place);
  const start = offsetOf(region, place);
  const found: Alike[] = [];
  for (const [index, version] of region.versions.entries()) {
    // Where the disk has ended, whatever was written looks alike.
    const content = (at: number): Uint8Array | undefined =>
      at < from.size ? contentOf(map, region, version, at, below) : from.content(at);
    let at = start;
    while (at < start + region.step && isEqual(from.content(at), content(at))) {
      at += map.sectorSize;
    }
    if (at >= start + region.step) found.push({ index, version });
  }
  return found;
}

/** Of the versions that are possible at a moment that which is so for longest; -1 if none is. */
function longestAt(moment: number, all: readonly Alike[]): number {
  let [longest, found] = [-NEVER, -1];
  for (const { index, version } of all) {
    const { after, ordered, durable } = version;
    if (moment < after || ordered <= moment || durable <= longest) continue;
    [longest, found] = [durable, index];
  }
  return found;
}

function isEqual(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a === b || (a !== undefined && b?.every((byte, i) => byte === a[i]) === true);
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
