// The regions (here: cells) that a trace writes, each with its versions: the contents that a power cut may leave there.
//
// A piece is an atomic unit: a sector of a write, or all of a write that fits into the device's atomic write unit. A cell is
// a run of sectors that overlapping pieces tie together; most are one sector. The content of a cell after a power cut
// follows from which of its pieces are persisted. A version is one such content, with three moments:
//
//   after     the moment of the latest dispatch among the pieces that are persisted
//   ordered   from the missing pieces: the earliest moment from which a missing piece must be there if anything dispatched
//             later is there
//   durable   from the missing pieces: the earliest moment at which the host knows that one of them is persisted
//
// The last two are the minima of `ordered` and `durable` of the intervals (intervals.ts). Let T be the moment of the latest
// dispatched piece that is persisted in any cell. A version is possible if after <= T and T < ordered. So one version for
// each cell is a possible crash state if and only if the latest `after` is less than the earliest `ordered`. A partial
// choice is described by these two numbers, and can always be completed, because at every moment each cell has a version. The
// power was cut after the latest `after`, and not after the earliest `durable`, because from then on the application may have
// confirmed the missing piece to its users.
//
// How the versions of a cell are found is in versions.ts.

import { misuse, type WriteBarrierError } from '../../model/index.js';
import type { Capabilities } from '../../storage/index.js';
import { noise, spoiltBy } from '../device/corruption.js';
import type { DiskCommand, DiskTrace } from '../device/disk-trace.js';
import { capabilitiesOf, type DeviceProfile } from '../device/profile.js';
import type { Piece, Races } from './breaks.js';
import { type Interval, intervalsOf, isTaggedBehind, isVolatile } from './intervals.js';
import { type Version, versionsOf } from './versions.js';

/** A run of sectors that the trace writes: a region. */
export interface Cell {
  /** In bytes from the start of the disk. */
  readonly offset: number;
  /** In the order of their `after`; the first is the content before the trace. */
  readonly versions: readonly Version[];
}

/** All regions that a trace writes. */
export interface CellMap {
  /** In bytes. */
  readonly sectorSize: number;
  readonly size: number;
  readonly initial: Uint8Array | undefined;
  /** Offsets of sectors that cannot be read and were never written. */
  readonly unreadable: ReadonlySet<number>;
  /** The capabilities of the disk of a recovery. */
  readonly offers: Capabilities;
  /** In the order of their offsets. */
  readonly cells: readonly Cell[];
  /** The index of the cell of each sector, by offset / sectorSize. */
  readonly places: ReadonlyMap<number, number>;
}

/**
 * @throws `INVALID_ARGUMENT` for a command that is not whole sectors of the profile or not within the disk, for a write
 *   without its data, for initial contents of another size than the disk, for moments that are not ascending, and for a
 *   region whose versions have more than 64 MiB
 */
export function cellsOf(trace: DiskTrace, profile: DeviceProfile): CellMap {
  const { sectorSize } = profile;
  const { size, initial, commands, unreadable = [] } = trace;
  if (size % sectorSize !== 0) throw unsuited(`a disk of ${size} bytes`, sectorSize);
  if (initial && initial.length !== size) {
    throw misuse(`initial must have as many bytes as the disk: ${size}, not ${initial.length}`);
  }
  checkTimes(commands);
  const races = racesOf(commands, profile);
  const drops = commands.filter(({ fault }) => fault?.kind === 'drop');
  const cells = tied(piecesOf(trace, profile)).map(({ offset, length, pieces }): Cell => {
    const before = initial?.subarray(offset, offset + length) ?? new Uint8Array(length);
    const bad = unreadable.map((at) => at - offset).filter((at) => at >= 0 && at < length);
    return { offset, versions: versionsOf({ bytes: before, bad }, pieces, races, drops, profile) };
  });
  const places = new Map<number, number>();
  for (const [place, { offset, versions }] of cells.entries()) {
    const end = offset + (versions[0] as Version).bytes.length;
    for (let at = offset; at < end; at += sectorSize) places.set(at / sectorSize, place);
  }
  return {
    ...{ sectorSize, size, initial, cells, places },
    unreadable: new Set(unreadable.filter((at) => !places.has(at / sectorSize))),
    offers: { ...capabilitiesOf(profile), cache: 'none' },
  };
}

/** The newest intact version from before `time`; with `at` also from `time` itself. */
export function newestUntil({ versions }: Cell, time: number, at: boolean): number {
  let version = versions.length - 1;
  for (; version > 0; version -= 1) {
    const { after, intact } = versions[version] as Version;
    if (intact && (after < time || (at && after === time))) break;
  }
  return version;
}

/** The versions that are possible together with a dispatch at `after`, and with nothing from `bound` on. */
export function possible({ versions }: Cell, after: number, bound: number): number[] {
  const found: number[] = [];
  for (const [version, { after: from, ordered: to }] of versions.entries()) {
    if (Math.max(from, after) < Math.min(to, bound)) found.push(version);
  }
  return found;
}

/** The versions that are possible at a moment. */
export function possibleAt({ versions }: Cell, time: number): number[] {
  const found: number[] = [];
  for (const [version, { after, ordered }] of versions.entries()) {
    if (after <= time && time < ordered) found.push(version);
  }
  return found;
}

/** The moments at which a version becomes possible, ascending. */
export function momentsOf({ cells }: CellMap): number[] {
  const all = cells.flatMap(({ versions }) => versions.slice(1).map(({ after }) => after));
  return [...new Set(all)].sort((a, b) => a - b);
}

function checkTimes(commands: readonly DiskCommand[]): void {
  let latest = Number.NEGATIVE_INFINITY;
  for (const [number, { dispatched, completed }] of commands.entries()) {
    if (!(latest < dispatched && dispatched < completed)) {
      throw misuse(
        `the moments of a trace must ascend: command ${number} is dispatched before its predecessor, or after its answer`,
      );
    }
    latest = dispatched;
  }
}

// Pieces

function piecesOf({ size, commands }: DiskTrace, profile: DeviceProfile): Piece[] {
  const { sectorSize, discard } = profile;
  const intervals = intervalsOf(commands, profile);
  // Without a cache a piece is persisted when it lands.
  const landings = intervalsOf(commands, { ...profile, cache: 'none', lies: landingLies(profile) });
  return commands.flatMap((command, number): Piece[] => {
    const interval = intervals[number];
    if (!interval) return [];
    const { length, op, fault } = command;
    const offset = fault?.kind === 'misdirected' ? fault.at : command.offset;
    if (!(offset >= 0 && offset + length <= size)) {
      throw misuse(
        `command ${number}, a ${op} of ${length} bytes at ${offset}, is not within the disk of ${size} bytes`,
      );
    }
    if (length === 0) return [];
    if (offset % sectorSize !== 0 || length % sectorSize !== 0) {
      throw unsuited(`command ${number}, a ${op} of ${length} bytes at ${offset}`, sectorSize);
    }
    const data = contentOf(command, number);
    const step = isWhole({ op, offset, length }, profile) ? length : sectorSize;
    const forced = isForced(command, profile);
    const maybe = op === 'discard' && discard !== 'zero';
    const pieces: Piece[] = [];
    for (let at = 0; at < length; at += step) {
      const bytes = data.subarray(at, at + step);
      const spoilt = at === 0 ? fault?.kind : undefined;
      const anything = maybe && discard !== 'old-or-zero';
      pieces.push({
        start: offset + at,
        end: offset + at + step,
        contents: [
          spoiltBy(spoilt, bytes, sectorSize, offset),
          ...(anything ? [noise(step, offset + at)] : []),
        ],
        isBad: spoilt === 'latent',
        command: number,
        interval: maybe ? neverCertain(interval) : interval,
        landing: landings[number] as Interval,
        forced,
        strays: fault?.kind === 'stray',
        spareFrom: maybe ? Number.NEGATIVE_INFINITY : interval.givenUp,
      });
    }
    return pieces;
  });
}

/** Whether the command is one atomic unit. No standard promises that for discards and zeroes. */
function isWhole(
  { op, offset, length }: Pick<DiskCommand, 'op' | 'offset' | 'length'>,
  { atomicWriteUnit: unit }: DeviceProfile,
): boolean {
  return op === 'write' && Math.floor(offset / unit) === Math.floor((offset + length - 1) / unit);
}

/** Whether the command is persisted as soon as it has landed. */
function isForced({ fua, fault }: DiskCommand, profile: DeviceProfile): boolean {
  if (fault?.kind === 'unserializable') return false;
  return !isVolatile(profile) || (fua && !profile.lies.includes('ignoreFua'));
}

function landingLies({ lies }: DeviceProfile): DeviceProfile['lies'] {
  return lies.filter((lie) => lie !== 'claimWriteThrough');
}

function contentOf({ op, length, data }: DiskCommand, number: number): Uint8Array {
  if (op !== 'write') return new Uint8Array(length);
  if (data?.length === length) return data;
  throw misuse(`command ${number} is a write whose data is missing or has another length`);
}

/** The sector may keep its old content for ever. */
function neverCertain({ dispatched, givenUp }: Interval): Interval {
  const never = Number.POSITIVE_INFINITY;
  return { dispatched, ordered: never, durable: never, givenUp };
}

interface Tied {
  readonly offset: number;
  readonly length: number;
  /** In the order of dispatch; `start` and `end` count from `offset`. */
  readonly pieces: readonly Piece[];
}

/** Runs of pieces that overlap. */
function tied(pieces: readonly Piece[]): Tied[] {
  const runs: { offset: number; end: number; pieces: Piece[] }[] = [];
  for (const piece of [...pieces].sort((a, b) => a.start - b.start)) {
    const run = runs.at(-1);
    if (!run || piece.start >= run.end) {
      runs.push({ offset: piece.start, end: piece.end, pieces: [piece] });
      continue;
    }
    run.end = Math.max(run.end, piece.end);
    run.pieces.push(piece);
  }
  return runs.map(({ offset, end, pieces: mine }) => ({
    offset,
    length: end - offset,
    pieces: mine
      .sort((a, b) => a.command - b.command)
      .map((piece) => ({ ...piece, start: piece.start - offset, end: piece.end - offset })),
  }));
}

function racesOf(commands: readonly DiskCommand[], profile: DeviceProfile): Races {
  const racy = profile.sameLba === 'racy';
  return (older, newer) => {
    if (older.strays) return true;
    if (!racy && !newer.strays) return false;
    const { completed } = commands[older.command] as DiskCommand;
    const together = newer.interval.dispatched < completed;
    return together && !isTaggedBehind(commands, older.command, newer.command, profile);
  };
}

function unsuited(what: string, sectorSize: number): WriteBarrierError {
  return misuse(`${what} is not a multiple of the sector size ${sectorSize} of the profile`);
}

/** A version of a cell, by its index. */
export function versionAt({ versions }: Cell, version: number): Version {
  return versions[version] as Version;
}
