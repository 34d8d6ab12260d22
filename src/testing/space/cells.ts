// The places that a trace writes, each with the contents that a power cut may leave there.
//
// A piece is what a device carries out as a whole: a sector of a write, or all of a write that fits into an atomic
// unit. A cell is a run of sectors that pieces tie together; most are one sector. What a cell holds after a power cut
// follows from which of its pieces are on the medium, and a version is one such content:
//
//   after     the latest dispatch among the pieces that are there
//   ordered   the earliest `ordered` (intervals.ts) among those that are not
//   durable   the earliest `durable` among those that are not
//
// A version can be what a power cut leaves while after <= the latest thing that is visible anywhere < ordered. So one
// version for each cell is a possible image exactly where the latest `after` of them is less than the earliest
// `ordered`, a partial choice needs no more memory than these two numbers, and each can be completed: at every moment
// each cell has a version. Host and cut agree on the time, too: it is after the latest `after` and not after the earliest
// `durable`; what the host had acknowledged before that must be honoured.
//
// How the versions of a cell come about is in versions.ts.

import { WriteBarrierError } from '../../model/index.js';
import type { DiskCommand, DiskTrace } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import { noise, spoiltBy } from '../device/tear.js';
import { type Interval, intervalsOf, isTaggedBehind } from './intervals.js';
import { type Piece, type Races, type Version, versionsOf } from './versions.js';

/** A run of sectors that the trace writes. */
export interface Cell {
  /** In bytes from the start of the disk. */
  readonly offset: number;
  /** By their `after`; the first is what was there before the trace. */
  readonly versions: readonly Version[];
}

/** Where everything is that a trace writes. */
export interface CellMap {
  /** In bytes. */
  readonly sectorSize: number;
  readonly size: number;
  readonly initial: Uint8Array | undefined;
  /** Offsets of sectors that cannot be read and were never written. */
  readonly unreadable: ReadonlySet<number>;
  /** What a recovery may ask of the device. */
  readonly offers: Pick<DeviceProfile, 'flush' | 'fua' | 'orderedTags'>;
  /** By their offset. */
  readonly cells: readonly Cell[];
  /** The place in the list of the cell that a sector belongs to, by offset / sectorSize. */
  readonly places: ReadonlyMap<number, number>;
}

/**
 * @throws `INVALID_ARGUMENT` for a command that is not whole sectors of the profile or outside of the disk, for a write
 *   without its data, for contents of another size than the disk, for times that go backwards, and for a cell whose
 *   versions come to more than 64 MiB
 */
export function cellsOf(trace: DiskTrace, profile: DeviceProfile): CellMap {
  const { sectorSize } = profile;
  const { size, initial, commands, unreadable = [] } = trace;
  if (size % sectorSize !== 0) throw unsuited(`a disk of ${size} bytes`, sectorSize);
  if (initial && initial.length !== size)
    throw misuse(`${initial.length} bytes for a disk of ${size}`);
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
  const { flush, fua, orderedTags } = profile;
  return {
    ...{ sectorSize, size, initial, cells, places },
    unreadable: new Set(unreadable.filter((at) => !places.has(at / sectorSize))),
    offers: { flush, fua, orderedTags },
  };
}

/** The newest intact version from before `time`, or `at` it. */
export function newestUntil({ versions }: Cell, time: number, at: boolean): number {
  let version = versions.length - 1;
  for (; version > 0; version -= 1) {
    const { after, intact } = versions[version] as Version;
    if (intact && (after < time || (at && after === time))) break;
  }
  return version;
}

/** The versions that can be there together with something of `after`, and with nothing from `bound` on. */
export function possible({ versions }: Cell, after: number, bound: number): number[] {
  const found: number[] = [];
  for (const [version, { after: from, ordered: to }] of versions.entries()) {
    if (Math.max(from, after) < Math.min(to, bound)) found.push(version);
  }
  return found;
}

/** The versions that can be there at a moment. */
export function possibleAt({ versions }: Cell, time: number): number[] {
  const found: number[] = [];
  for (const [version, { after, ordered }] of versions.entries()) {
    if (after <= time && time < ordered) found.push(version);
  }
  return found;
}

/** The moments at which something came to the disk that may be left, ascending. */
export function momentsOf({ cells }: CellMap): number[] {
  const all = cells.flatMap(({ versions }) => versions.slice(1).map(({ after }) => after));
  return [...new Set(all)].sort((a, b) => a - b);
}

function checkTimes(commands: readonly DiskCommand[]): void {
  let latest = Number.NEGATIVE_INFINITY;
  for (const [number, { dispatched, completed }] of commands.entries()) {
    if (!(latest < dispatched && dispatched < completed)) {
      throw misuse(`command ${number} is dispatched before the one before it, or after its answer`);
    }
    latest = dispatched;
  }
}

// Pieces

function piecesOf({ size, commands }: DiskTrace, profile: DeviceProfile): Piece[] {
  const { sectorSize, atomicWriteUnit: unit, discard } = profile;
  const intervals = intervalsOf(commands, profile);
  // Where nothing is cached, to land is to be on the medium.
  const landings = intervalsOf(commands, { ...profile, cache: 'none', lies: landingLies(profile) });
  return commands.flatMap((command, number): Piece[] => {
    const interval = intervals[number];
    if (!interval) return [];
    const { length, op, fault } = command;
    const offset = fault?.kind === 'misdirected' ? fault.at : command.offset;
    if (!(offset >= 0 && offset + length <= size)) {
      throw misuse(
        `command ${number}, a ${op} of ${length} bytes at ${offset}, is outside of the disk`,
      );
    }
    if (length === 0) return [];
    if (offset % sectorSize !== 0 || length % sectorSize !== 0) {
      throw unsuited(`command ${number}, a ${op} of ${length} bytes at ${offset}`, sectorSize);
    }
    const data = contentOf(command, number);
    const fits = Math.floor(offset / unit) === Math.floor((offset + length - 1) / unit);
    const step = fits ? length : sectorSize;
    const maybe = op === 'discard' && discard !== 'zero';
    const pieces: Piece[] = [];
    for (let at = 0; at < length; at += step) {
      const bytes = data.subarray(at, at + step);
      const spoilt = at === 0 ? fault?.kind : undefined;
      const anything = op === 'discard' && discard === 'arbitrary';
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
        strays: fault?.kind === 'stray',
        spareFrom: maybe ? Number.NEGATIVE_INFINITY : interval.givenUp,
      });
    }
    return pieces;
  });
}

function landingLies({ lies }: DeviceProfile): DeviceProfile['lies'] {
  return lies.filter((lie) => lie !== 'claimWriteThrough');
}

function contentOf({ op, length, data }: DiskCommand, number: number): Uint8Array {
  if (op !== 'write') return new Uint8Array(length);
  if (data?.length === length) return data;
  throw misuse(`command ${number} is a write without its data`);
}

/** The sector may go on reading as before. */
function neverCertain({ dispatched, givenUp }: Interval): Interval {
  const never = Number.POSITIVE_INFINITY;
  return { dispatched, ordered: never, durable: never, givenUp };
}

interface Tied {
  readonly offset: number;
  readonly length: number;
  /** In the order of dispatch; places count from `offset`. */
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
  return misuse(`${what} is not whole sectors of ${sectorSize} bytes`);
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
