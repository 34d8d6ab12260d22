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
// Which sets of pieces there can be: a piece is there only if all are that must land below it. That is every older
// piece on the same sectors, save
//   - one that races with it: at the device together, where the profile says that such two land in any order, or one
//     that failed and lands whenever it likes; then both orders are versions;
//   - one that may never come to anything (it failed, or is a discard that may leave the old content).
//
// Where the profile tears, half of one version over half of another one is a version, too, or bytes that nobody wrote.

import { WriteBarrierError } from '../../model/index.js';
import { copyOf } from '../../storage/bytes.js';
import type { DiskCommand, DiskTrace } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import { noise, type Remains, rotten, tornContents } from '../device/tear.js';
import { type Interval, intervalsOf, isTaggedBehind } from './intervals.js';

/** One content that a cell may have. */
export interface Version {
  /** As long as the cell. */
  readonly bytes: Uint8Array;
  /** The command that was the last to add to it, by its place in the trace; -1 for what was there before. */
  readonly command: number;
  /** See the head of this file. */
  readonly after: number;
  /** See the head of this file. */
  readonly ordered: number;
  /** See the head of this file. */
  readonly durable: number;
  /** What a device would leave that carries everything out in order and whole. */
  readonly intact: boolean;
  /** False where a read fails. */
  readonly readable: boolean;
}

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
  /** By their offset. */
  readonly cells: readonly Cell[];
  /** The place in the list of the cell that a sector belongs to, by offset / sectorSize. */
  readonly places: ReadonlyMap<number, number>;
}

/** What a device carries out as a whole. */
interface Piece {
  /** In bytes from the start of the disk; later, of the cell. */
  readonly start: number;
  readonly end: number;
  /** More than one where the device may put any of them there. */
  readonly contents: readonly Uint8Array[];
  readonly readable: boolean;
  readonly command: number;
  readonly interval: Interval;
  /** When it has landed, be it in the cache. */
  readonly landing: Interval;
  /** It may land below and above of whatever comes later. */
  readonly strays: boolean;
  /** Later ones need not wait for it. */
  readonly optional: boolean;
}

/**
 * @throws `INVALID_ARGUMENT` for a command that is not whole sectors of the profile, for a write without its data, and
 *   for pieces that have more than a hundred thousand versions in one cell
 */
export function cellsOf(trace: DiskTrace, profile: DeviceProfile): CellMap {
  const { sectorSize } = profile;
  const { size, initial, commands } = trace;
  if (size % sectorSize !== 0) throw unsuited(`a disk of ${size} bytes`, sectorSize);
  const races = racesOf(commands, profile);
  const cells = tied(piecesOf(commands, profile)).map(({ offset, length, pieces }): Cell => {
    const before = initial?.subarray(offset, offset + length) ?? new Uint8Array(length);
    return { offset, versions: versionsOf(before, pieces, races, profile) };
  });
  const places = new Map<number, number>();
  for (const [place, { offset, versions }] of cells.entries()) {
    const end = offset + (versions[0] as Version).bytes.length;
    for (let at = offset; at < end; at += sectorSize) places.set(at / sectorSize, place);
  }
  return { sectorSize, size, initial, cells, places };
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

// Pieces

function piecesOf(commands: readonly DiskCommand[], profile: DeviceProfile): Piece[] {
  const { sectorSize, atomicWriteUnit: unit, discard } = profile;
  const intervals = intervalsOf(commands, profile);
  // Where nothing is cached, to land is to be on the medium.
  const landings = intervalsOf(commands, { ...profile, cache: 'none', lies: landingLies(profile) });
  return commands.flatMap((command, number): Piece[] => {
    const interval = intervals[number];
    if (!interval) return [];
    const { length, op, fault, failed } = command;
    const offset = fault?.kind === 'misdirected' ? fault.at : command.offset;
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
      const isRotten = fault?.kind === 'rot' && at === 0;
      const anything = op === 'discard' && discard === 'arbitrary';
      pieces.push({
        start: offset + at,
        end: offset + at + step,
        contents: [
          isRotten ? rotten(bytes, sectorSize) : bytes,
          ...(anything ? [noise(step, offset + at)] : []),
        ],
        readable: !(fault?.kind === 'latent' && at === 0),
        command: number,
        interval: maybe ? neverCertain(interval) : interval,
        landing: landings[number] as Interval,
        strays: fault?.kind === 'stray',
        optional: maybe || failed || fault?.kind === 'unserializable',
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
  throw new WriteBarrierError('INVALID_ARGUMENT', `command ${number} is a write without its data`);
}

/** The sector may go on reading as before. */
function neverCertain({ dispatched }: Interval): Interval {
  return { dispatched, ordered: Number.POSITIVE_INFINITY, durable: Number.POSITIVE_INFINITY };
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

/** Whether an older piece may land above a newer one that it meets. */
type Races = (older: Piece, newer: Piece) => boolean;

function racesOf(commands: readonly DiskCommand[], profile: DeviceProfile): Races {
  const racy = profile.sameLba === 'racy';
  return (older, newer) => {
    if (older.strays) return true;
    if (!racy) return false;
    const { completed } = commands[older.command] as DiskCommand;
    const together = newer.interval.dispatched < completed;
    return together && !isTaggedBehind(commands, older.command, newer.command, profile);
  };
}

// Versions

/** A set of pieces that is there, with all that must be below them. */
interface Landed {
  readonly bytes: Uint8Array;
  readonly readable: boolean;
  readonly command: number;
  readonly after: number;
  readonly intact: boolean;
  /** Bit i for piece i. */
  readonly pieces: bigint;
  /** The piece that landed last; -1 for none. */
  readonly last: number;
  readonly missing: Piece[];
  ordered: number;
  durable: number;
}

const VERSIONS_MAX = 100_000;

function versionsOf(
  before: Uint8Array,
  pieces: readonly Piece[],
  races: Races,
  profile: DeviceProfile,
): Version[] {
  const never = Number.POSITIVE_INFINITY;
  const from = {
    ordered: suffixMin(pieces.map(({ interval }) => interval.ordered)),
    durable: suffixMin(pieces.map(({ interval }) => interval.durable)),
  };
  /** Nothing can be added to these any more. */
  const closed: Landed[] = [];
  let open: Landed[] = [
    {
      ...{
        bytes: before,
        readable: true,
        command: -1,
        intact: true,
        pieces: 0n,
        last: -1,
        missing: [],
      },
      ...{ after: Number.NEGATIVE_INFINITY, ordered: never, durable: never },
    },
  ];
  for (const [i, piece] of pieces.entries()) {
    const { ordered, durable } = piece.interval;
    const whole = piece.start === 0 && piece.end === before.length;
    const closes = whole && !piece.strays && !piece.optional && profile.sameLba === 'fifo';
    const grown: Landed[] = [];
    const rest: Landed[] = [];
    for (const landed of open) {
      const waits = landed.missing.some((older) => mustPrecede(older, piece, races));
      if (!waits) grown.push(...withPiece(landed, piece, i, pieces, races));
      landed.missing.push(piece);
      landed.ordered = Math.min(landed.ordered, closes ? (from.ordered[i] as number) : ordered);
      landed.durable = Math.min(landed.durable, closes ? (from.durable[i] as number) : durable);
      if (landed.after < landed.ordered) (closes ? closed : rest).push(landed);
    }
    open = [...rest, ...grown.filter(({ after, ordered: bound }) => after < bound)];
    if (open.length + closed.length > VERSIONS_MAX) throw entangled();
  }
  const all = [...closed, ...open];
  const torn = profile.tear === 'sector' ? [] : tornOf(all, pieces, profile);
  // Of what begins at one moment the intact comes last, so that the last image is that which loses nothing.
  return distinct([...all, ...torn])
    .map(versionOf)
    .sort((a, b) => a.after - b.after || Number(a.intact) - Number(b.intact));
}

function versionOf(landed: Landed): Version {
  const { bytes, command, after, ordered, durable, intact, readable } = landed;
  return { bytes, command, after, ordered, durable, intact, readable };
}

function meet(a: Piece, b: Piece): boolean {
  return a.start < b.end && b.start < a.end;
}

/** An optional piece that the newer one covers makes no difference, so it counts as there. */
function mustPrecede(older: Piece, newer: Piece, races: Races): boolean {
  if (!meet(older, newer) || races(older, newer)) return false;
  return !older.optional || (newer.start <= older.start && older.end <= newer.end);
}

function withPiece(
  landed: Landed,
  piece: Piece,
  index: number,
  pieces: readonly Piece[],
  races: Races,
): Landed[] {
  const racing = pieces
    .slice(0, index)
    .filter((older, i) => races(older, piece) && meet(older, piece) && has(landed, i));
  const grown = (change: Partial<Landed>): Landed => ({
    ...landed,
    after: piece.interval.dispatched,
    pieces: landed.pieces | (1n << BigInt(index)),
    missing: [...landed.missing],
    ...change,
  });
  const whole = piece.start === 0 && piece.end === landed.bytes.length;
  const onTop = piece.contents.map((content, i) =>
    grown({
      bytes: overlaid(landed.bytes, piece, content),
      readable: piece.readable && (whole || landed.readable),
      intact: landed.intact && i === 0 && landed.missing.length === 0,
      ...{ command: piece.command, last: index },
    }),
  );
  if (racing.length === 0) return onTop;
  const below = piece.contents.map((content) => {
    const bytes = racing.reduce(
      (over, older) => overlaid(over, older, landed.bytes.subarray(older.start, older.end)),
      overlaid(landed.bytes, piece, content),
    );
    return grown({ bytes, readable: landed.readable && piece.readable, intact: false });
  });
  return [...onTop, ...below];
}

function has({ pieces }: Landed, index: number): boolean {
  return ((pieces >> BigInt(index)) & 1n) === 1n;
}

function overlaid(below: Uint8Array, { start, end }: Piece, content: Uint8Array): Uint8Array {
  if (start === 0 && end === below.length) return content;
  const bytes = copyOf(below);
  bytes.set(content, start);
  return bytes;
}

/** Without those that another one of the same bytes makes superfluous: it is possible whenever they are. */
function distinct(all: readonly Landed[]): Landed[] {
  const kept: Landed[] = [];
  const byBytes = new Map<Uint8Array, Landed[]>();
  // Intact ones lack nothing, so nothing makes them superfluous.
  for (const landed of [...all].sort((a, b) => Number(b.intact) - Number(a.intact))) {
    const same = byBytes.get(landed.bytes) ?? [];
    byBytes.set(landed.bytes, same);
    const { after, ordered, durable } = landed;
    const isSpare = same.some(
      (other) => other.after <= after && ordered <= other.ordered && durable <= other.durable,
    );
    if (isSpare) continue;
    same.push(landed);
    kept.push(landed);
  }
  return kept;
}

/**
 * Each version half over each one that has less: it was on its way to the medium when the power was cut, so nothing
 * newer had landed above it.
 */
function tornOf(
  all: readonly Landed[],
  pieces: readonly Piece[],
  { tear }: DeviceProfile,
): Landed[] {
  const torn: Landed[] = [];
  const remains = new Map<Uint8Array, Map<Uint8Array, Remains[]>>();
  const halves = (below: Uint8Array, above: Uint8Array): Remains[] => {
    const over = remains.get(above) ?? new Map<Uint8Array, Remains[]>();
    remains.set(above, over);
    const known = over.get(below) ?? tornContents(tear, below, above);
    over.set(below, known);
    return known;
  };
  for (const above of all) {
    const missing = pieces.filter((_, i) => !has(above, i)).map(({ landing }) => landing);
    const until = (end: 'ordered' | 'durable'): number =>
      missing.reduce((least, landing) => Math.min(least, landing[end]), Number.POSITIVE_INFINITY);
    const [landed, known] = [until('ordered'), until('durable')];
    for (const below of all) {
      const ordered = Math.min(below.ordered, landed);
      if (above.last < 0 || above.after >= ordered) continue;
      // What is below reached the medium before the last piece landed above it.
      if (has(below, above.last) || (below.pieces & ~above.pieces) !== 0n) continue;
      const durable = Math.min(below.durable, known);
      for (const { bytes, readable } of halves(below.bytes, above.bytes)) {
        torn.push({ ...above, bytes, readable, ordered, durable, intact: false });
      }
      if (torn.length > VERSIONS_MAX) throw entangled();
    }
  }
  return torn;
}

/** For each i the least of the values from i on. */
function suffixMin(values: readonly number[]): number[] {
  let least = Number.POSITIVE_INFINITY;
  return values
    .map((_, i) => {
      least = Math.min(least, values[values.length - 1 - i] as number);
      return least;
    })
    .reverse();
}

function entangled(): WriteBarrierError {
  return new WriteBarrierError(
    'INVALID_ARGUMENT',
    'too many writes meet in one place without a flush between them',
  );
}

function unsuited(what: string, sectorSize: number): WriteBarrierError {
  return new WriteBarrierError(
    'INVALID_ARGUMENT',
    `${what} is not whole sectors of ${sectorSize} bytes`,
  );
}
