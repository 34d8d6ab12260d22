// The sectors that a trace writes, each with the versions of its content that a power cut may leave.
//
// A crash image is one version per sector: the newest write to it that is on the medium, or what was there before.
// Which vectors of versions are possible follows from intervals alone. For a vector let
//
//   after   the latest dispatch among the versions that are visible
//   bound   the earliest `ordered` among all that are newer than the visible one of their sector
//   before  the earliest `durable` among the same
//
// The vector is possible exactly where after < bound. So a partial choice needs no more memory than these numbers,
// and every partial choice can be completed. The power was cut after `after`, and not after `before`: whatever
// the host had acknowledged before that must be honoured, and nothing can be there that was submitted later.
//
// A torn sector is a version of its own just before the one that it is torn from: visible as long as that one
// need not be.

import { WriteBarrierError } from '../model/index.js';
import { copyOf } from '../storage/bytes.js';
import type { DiskCommand, DiskTrace } from './disk-trace.js';
import { countUpTo, type Interval, intervalsOf } from './intervals.js';
import type { DeviceProfile, Tear } from './profile.js';

/** One content that a sector may have. */
export interface Version {
  /** The command that wrote it, by its place in the trace. */
  readonly command: number;
  /** When it may be there, and when it must be unless something newer is. */
  readonly interval: Interval;
  /** As long as the sector. */
  readonly bytes: Uint8Array;
  /** Only part of the command's bytes. */
  readonly torn: boolean;
}

/** A sector that the trace writes at least once. */
export interface Sector {
  /** In bytes from the start of the disk. */
  readonly offset: number;
  /** What was there before the trace. */
  readonly initial: Uint8Array;
  /** In the order in which they replace each other; version 0 is the initial content, and not in the list. */
  readonly versions: readonly Version[];
  /** For each i the earliest `ordered` of versions i + 1, i + 2, ...; Infinity behind the last. */
  readonly orderedFrom: readonly number[];
  /** The same for `durable`. */
  readonly durableFrom: readonly number[];
}

/** The sectors of a trace, by their offset. */
export interface SectorMap {
  /** In bytes. */
  readonly sectorSize: number;
  readonly size: number;
  readonly initial: Uint8Array | undefined;
  readonly sectors: readonly Sector[];
  /** The place of a sector in the list, by offset / sectorSize. */
  readonly places: ReadonlyMap<number, number>;
}

/**
 * @throws `INVALID_ARGUMENT` for a command that does not cover whole atomic units of the profile, and for a write
 *   without its data
 */
export function sectorsOf(trace: DiskTrace, profile: DeviceProfile): SectorMap {
  const unit = profile.atomicWriteUnit;
  const { size, initial, commands } = trace;
  if (size % unit !== 0) throw unsuited(`a disk of ${size} bytes`, unit);
  const intervals = intervalsOf(commands, profile);
  const found = new Map<number, Version[]>();
  for (const [number, command] of commands.entries()) {
    const interval = intervals[number];
    if (!interval) continue;
    const { length, op, fault } = command;
    const offset = fault?.kind === 'misdirected' ? fault.at : command.offset;
    if (offset % unit !== 0 || length % unit !== 0) {
      throw unsuited(`command ${number}, a ${op} of ${length} bytes at ${offset}`, unit);
    }
    for (let at = 0; at < length; at += unit) {
      const sector = (offset + at) / unit;
      const known = found.get(sector);
      const versions = known ?? [];
      if (!known) found.set(sector, versions);
      const bytes = contentOf(command, number, at, unit);
      const certain =
        op === 'discard' && profile.discard === 'old-or-zero' ? maybe(interval) : interval;
      const below = versions.at(-1)?.bytes ?? contentBefore(initial, sector * unit, unit);
      for (const torn of tornContents(profile.tear, below, bytes, number, sector)) {
        versions.push({ command: number, interval: certain, bytes: torn, torn: true });
      }
      versions.push({ command: number, interval: certain, bytes, torn: false });
    }
  }
  const sectors = [...found]
    .sort(([a], [b]) => a - b)
    .map(
      ([sector, versions]): Sector => ({
        offset: sector * unit,
        initial: contentBefore(initial, sector * unit, unit),
        versions,
        orderedFrom: earliestFrom(versions, 'ordered'),
        durableFrom: earliestFrom(versions, 'durable'),
      }),
    );
  const places = new Map(sectors.map(({ offset }, place) => [offset / unit, place]));
  return { sectorSize: unit, size, initial, sectors, places };
}

/** The content of a sector's version; 0 for the initial one. */
export function contentOfVersion(sector: Sector, version: number): Uint8Array {
  return version === 0 ? sector.initial : (sector.versions[version - 1] as Version).bytes;
}

/** When a version was dispatched; before everything for the initial one. */
export function dispatchOfVersion(sector: Sector, version: number): number {
  return version === 0
    ? Number.NEGATIVE_INFINITY
    : (sector.versions[version - 1] as Version).interval.dispatched;
}

/** The newest version that must be visible, or be replaced, once something dispatched at `time` is visible. */
export function forcedAt(sector: Sector, time: number): number {
  return countUpTo(sector.orderedFrom, time);
}

/** The newest version that was dispatched before `time`, or `at` it; 0 for the initial content. */
export function newestUntil(sector: Sector, time: number, at: boolean): number {
  let version = sector.versions.length;
  for (; version > 0; version -= 1) {
    const dispatched = dispatchOfVersion(sector, version);
    if (dispatched < time || (at && dispatched === time)) break;
  }
  return version;
}

function earliestFrom(versions: readonly Version[], end: 'ordered' | 'durable'): number[] {
  const minima = new Array<number>(versions.length + 1).fill(Number.POSITIVE_INFINITY);
  for (let i = versions.length - 1; i >= 0; i--) {
    const { interval } = versions[i] as Version;
    minima[i] = Math.min(interval[end], minima[i + 1] as number);
  }
  return minima;
}

function contentOf(command: DiskCommand, number: number, at: number, unit: number): Uint8Array {
  if (command.op !== 'write') return new Uint8Array(unit);
  if (command.data?.length !== command.length) {
    throw new WriteBarrierError(
      'INVALID_ARGUMENT',
      `command ${number} is a write without its data`,
    );
  }
  return command.data.subarray(at, at + unit);
}

function contentBefore(initial: Uint8Array | undefined, offset: number, unit: number): Uint8Array {
  return initial ? initial.subarray(offset, offset + unit) : new Uint8Array(unit);
}

function tornContents(
  tear: Tear,
  below: Uint8Array,
  above: Uint8Array,
  command: number,
  sector: number,
): Uint8Array[] {
  if (tear === 'sector') return [];
  const half = below.length >> 1;
  const head = copyOf(above);
  head.set(below.subarray(half), half);
  const tail = copyOf(above);
  tail.set(below.subarray(0, half), 0);
  if (tear === 'shorn') return [head, tail];
  return [head, tail, noise(above.length, command, sector)];
}

/** Bytes that nobody wrote, the same ones in every run. */
function noise(length: number, command: number, sector: number): Uint8Array {
  let state = (command * 0x9e3779b1 + sector * 0x85ebca6b) >>> 0;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 24;
  });
}

/** Never certain: the sector may go on reading as before. */
function maybe({ dispatched }: Interval): Interval {
  const never = Number.POSITIVE_INFINITY;
  return { dispatched, ordered: never, durable: never };
}

function unsuited(what: string, unit: number): WriteBarrierError {
  return new WriteBarrierError(
    'INVALID_ARGUMENT',
    `${what} is not whole atomic units of ${unit} bytes`,
  );
}
