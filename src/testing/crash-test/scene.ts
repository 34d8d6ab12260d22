// What a report shows of a power cut, as data: the text (crash-report.ts) and the picture (picture/) are made from the same.
//
// Every command before the cut is kept or has lost something; flushes and reads have nothing to lose. Shown are the commands from
// the earliest one that matters up to the cut, the journal between them, and what the host was going to send next. A long
// scene leaves out what is plain, so that it fits a screen.
//
// A scene is plain data and part of the failure, so a picture can be drawn from a report alone, also from a copy of it. The
// crash state itself is not in it, because that belongs to its crash space.

import type { DiskCommand, DiskTrace, Mark } from '../device/disk-trace.js';
import type { CrashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import { countUpTo } from '../space/intervals.js';
import { lostPlaces, newestUntil, regionOf, versionAt } from '../space/places.js';
import {
  isResized,
  isSize,
  offsetOf,
  placeAt,
  type Region as Run,
  regionAt,
} from '../space/regions.js';
import { sizeOf } from '../space/sizes.js';
import type { Told } from './execute.js';
import { labelOf } from './in-short.js';
import type { Link } from './trial.js';
import type { CrashFailure } from './types.js';

/** A power cut as data. */
export type Scene = CrashFailure['cuts'][number];

/** A region of a scene. */
export type Region = Scene['regions'][number];

/** A command or some marks of a scene, or what is left out between others. */
export type Shown =
  | { readonly kind: 'command'; readonly time: number; readonly number: number }
  | { readonly kind: 'marks'; readonly time: number; readonly marks: readonly [Mark, ...Mark[]] }
  | { readonly kind: 'left out'; readonly count: number };

/** The commands of a scene, by their numbers: shown from `from`, sent before `end`, and `later` ones that were not sent. */
export interface Span {
  readonly from: number;
  readonly end: number;
  readonly later: number;
}

/** The minimum number of commands shown before the cut. */
const SHOWN = 6;
/** The number of commands shown that were not sent. */
const LATER = 2;
/** So many items are shown before and after those that are left out. */
const ITEMS_MAX = 20;

/** What a power cut has left of a run. */
export function sceneOf(
  test: { label?(offset: number): string },
  { space, trace, state, during }: Link,
  time: number,
): Scene {
  const losses = lossesOf(space, state, time);
  const lost = new Map(losses.map(({ place, gone }) => [place, gone]));
  const { from, end, later } = around(trace, time, [...lost.values()].flat());
  const near = trace.commands.slice(from, end + later);
  const places = new Set(near.flatMap((command) => placesOf(space, command)));
  const due = dueSize(space, time);
  const regions = [...places]
    .sort((a, b) => a - b)
    .map((place): Region => {
      const region = regionOf(space.map, place);
      const { command: there } = versionAt(region, state.versions[place] as number);
      const gone = lost.get(place) ?? [];
      const { size } = state;
      if (isSize(region)) {
        return { offset: size, length: 0, label: SIZE_LABEL, there, lost: gone, size };
      }
      const offset = offsetOf(region, place);
      const named = { offset, length: region.step, label: labelOf(test, offset) };
      // What was written behind a size that is lost is not there either.
      const isBehind = size <= offset && offset < due;
      if (!isBehind) return { ...named, there, lost: gone };
      const all = goneSince(region, 0, newestUntil(region, time, true));
      return { ...named, there: -1, lost: all.filter((command) => command >= 0) };
    });
  // A write that a fault took away wrote no region, and is shown all the same.
  const nowhere = near.filter((one) => isWrite(one) && placesOf(space, one).length === 0);
  for (const { offset, length } of nowhere) {
    regions.push({ offset, length, label: labelOf(test, offset), there: -1, lost: [] });
  }
  return { during, trace, time, regions: regions.sort((a, b) => a.offset - b.offset) };
}

/** What the size of the disk is called where other regions have the label of the user. */
export const SIZE_LABEL = 'the size';

/** The size that the disk would have if nothing were lost, in bytes. */
function dueSize({ map }: CrashSpace, time: number): number {
  const [first] = map.regions;
  if (!first || !isResized(map)) return map.size;
  return sizeOf(versionAt(first, newestUntil(first, time, true)), first.writes, map.size);
}

/** Whether the command changes the medium. */
export function isWrite({ op }: DiskCommand): boolean {
  return op !== 'read' && op !== 'flush';
}

/** Where a command writes first. */
export function startOf({ offset, fault }: DiskCommand): number {
  return fault?.kind === 'misdirected' ? fault.at : offset;
}

/** The regions that a command writes, by their indexes. */
function placesOf({ map }: CrashSpace, command: DiskCommand): number[] {
  if (!isWrite(command)) return [];
  const start = startOf(command);
  const places: number[] = [];
  if (command.size !== undefined) {
    // The size is the first place. The range may be as long as the disk, and most of it was never written.
    const end = start + command.length;
    const met = map.regions.filter(
      (region) => !isSize(region) && region.offset < end && start < region.offset + region.length,
    );
    return [
      0,
      ...met.flatMap(({ first, count }) => Array.from({ length: count }, (_, n) => first + n)),
    ];
  }
  for (let at = start; at < start + command.length; at += map.sectorSize) {
    const region = regionAt(map, at);
    if (region) places.push(placeAt(region, at));
  }
  return places;
}

/** A region whose newest content before the cut is gone. */
export interface Gone {
  readonly place: number;
  /** In bytes from the start of the disk. */
  readonly offset: number;
  /** The command that wrote the newest content. */
  readonly command: number;
  /** All commands whose content is gone, oldest first: what is there is older than each of them. */
  readonly gone: readonly number[];
}

/** The regions whose newest content before the cut is gone. */
export function lossesOf({ map }: CrashSpace, state: CrashState, cut: number): Gone[] {
  const losses: Gone[] = [];
  for (const { region, place, there, newest } of lostPlaces(map, state.versions, cut)) {
    const { command } = versionAt(region, newest);
    const gone = goneSince(region, there, newest);
    losses.push({ place, offset: offsetOf(region, place), command, gone });
  }
  return losses;
}

/** The commands whose content is gone where one version is there and the newest one is not, oldest first. */
function goneSince(region: Run, there: number, newest: number): number[] {
  const since = region.versions.slice(there + 1, newest).filter(({ intact }) => intact);
  const all = [...since, versionAt(region, newest)];
  return [...new Set(all.map(({ command }) => command))];
}

/** The commands of which something is lost. */
export function lostCommands({ regions }: Pick<Scene, 'regions'>): ReadonlySet<number> {
  return new Set(regions.flatMap(({ lost }) => lost));
}

/** The commands that a report shows of a scene; all of them if there is no cut, so that its time is Infinity. */
export function spanOf(scene: Omit<Scene, 'during'>): Span {
  return around(scene.trace, scene.time, [...lostCommands(scene)]);
}

function around({ commands }: DiskTrace, time: number, lost: readonly number[]): Span {
  if (time === Number.POSITIVE_INFINITY) return { from: 0, end: commands.length, later: 0 };
  const next = commands.findIndex(({ dispatched }) => dispatched > time);
  const end = next < 0 ? commands.length : next;
  // Not by spreading `lost`, because a list of a hundred thousand arguments overflows the stack.
  const first = lost.reduce((least, number) => Math.min(least, number), end - SHOWN);
  const from = Math.max(0, first);
  return { from, end, later: Math.min(LATER, commands.length - end) };
}

/** What a report shows before the cut, in the order of time; everything if `full`. */
export function shownIn(scene: Omit<Scene, 'during'>, full: boolean): Shown[] {
  const { trace, time } = scene;
  const { commands, marks } = trace;
  const lost = lostCommands(scene);
  const { from, end } = spanOf(scene);
  const since = commands[from]?.dispatched ?? 0;
  const said = marks.filter((mark) => mark.time > since && mark.time <= time);
  const told = runsOf(said, commands).map((marks): Shown & { readonly time: number } => {
    return { kind: 'marks', time: marks[0].time, marks };
  });
  const asked = commands.slice(from, end).map((command, i): Shown & { readonly time: number } => {
    return { kind: 'command', time: command.dispatched, number: from + i };
  });
  const all = [...told, ...asked].sort((a, b) => a.time - b.time);
  if (full || all.length <= 2 * ITEMS_MAX) return all;
  return shortened(all, (item) => {
    if (item.kind !== 'command') return false;
    const { number } = item;
    const near = number >= end - SHOWN || lost.has(number - 1) || lost.has(number + 1);
    return !near && !lost.has(number) && isSound(commands[number] as DiskCommand);
  });
}

/** Leaves out what is plain, and the middle of the rest. */
function shortened(all: readonly Shown[], isPlain: (item: Shown) => boolean): Shown[] {
  const others = all.filter((item) => !isPlain(item));
  const kept = new Set([...others.slice(0, ITEMS_MAX), ...others.slice(-ITEMS_MAX)]);
  const shown: Shown[] = [];
  for (const item of all) {
    const last = shown.at(-1);
    if (kept.has(item)) shown.push(item);
    else if (last?.kind !== 'left out') shown.push({ kind: 'left out', count: 1 });
    else shown[shown.length - 1] = { ...last, count: last.count + 1 };
  }
  return shown;
}

/** Marks of one kind with no command between them. */
function runsOf(marks: readonly Mark[], commands: readonly DiskCommand[]): [Mark, ...Mark[]][] {
  const runs: [Mark, ...Mark[]][] = [];
  const dispatches = commands.map(({ dispatched }) => dispatched);
  let last = '';
  for (const mark of marks) {
    const key = `${(mark.value as Told<unknown>).kind} ${countUpTo(dispatches, mark.time)}`;
    if (key === last) runs.at(-1)?.push(mark);
    else runs.push([mark]);
    last = key;
  }
  return runs;
}

/** Whether the command did what its answer says. */
export function isSound({ failed, fault }: DiskCommand): boolean {
  return !failed && fault === undefined;
}
