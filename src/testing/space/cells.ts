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
//   - one that may never come to anything (it failed, a flush gave it up before, or it is a discard that may leave the
//     old content).
//
// Where the profile tears, half of one version over half of another one is a version, too, or bytes that nobody wrote.

import { WriteBarrierError } from '../../model/index.js';
import { copyOf } from '../../storage/bytes.js';
import type { DiskCommand, DiskTrace } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import { noise, type Remains, spoiltBy, tornContents } from '../device/tear.js';
import { type Interval, intervalsOf, isTaggedBehind, suffixMin } from './intervals.js';

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
  /** Sectors that cannot be read, in bytes from the start of the cell. What stands there nobody wrote. */
  readonly bad: readonly number[];
  /** The same version in the cells of any trace that has the same writes. */
  readonly key: string;
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
  /** Offsets of sectors that cannot be read and were never written. */
  readonly unreadable: ReadonlySet<number>;
  /** What a recovery may ask of the device. */
  readonly offers: Pick<DeviceProfile, 'flush' | 'fua' | 'orderedTags'>;
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
  /** Its first sector cannot be read. */
  readonly isBad: boolean;
  readonly command: number;
  readonly interval: Interval;
  /** When it has landed, be it in the cache. */
  readonly landing: Interval;
  /** It may land below and above of whatever comes later. */
  readonly strays: boolean;
  /** What is dispatched from here on need not have it below. */
  readonly spareFrom: number;
}

/**
 * @throws `INVALID_ARGUMENT` for a command that is not whole sectors of the profile or outside of the disk, for a write
 *   without its data, for contents of another size than the disk, and for a cell whose versions come to more than 64 MiB
 */
export function cellsOf(trace: DiskTrace, profile: DeviceProfile): CellMap {
  const { sectorSize } = profile;
  const { size, initial, commands, unreadable = [] } = trace;
  if (size % sectorSize !== 0) throw unsuited(`a disk of ${size} bytes`, sectorSize);
  if (initial && initial.length !== size)
    throw misuse(`${initial.length} bytes for a disk of ${size}`);
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

/** Whether an older piece may land above a newer one that it meets. */
type Races = (older: Piece, newer: Piece) => boolean;

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

// Versions

/** A piece with the content that it has put there. */
interface Layer {
  readonly piece: Piece;
  readonly content: Uint8Array;
  /** Of the piece among those of the cell. */
  readonly index: number;
}

/** A set of pieces that is there, with all that must be below them. */
interface Landed {
  readonly bytes: Uint8Array;
  readonly bad: readonly number[];
  readonly after: number;
  readonly intact: boolean;
  /** Bit i for piece i. */
  readonly pieces: bigint;
  /** In the order in which they landed; kept only where races can make that another one than the order of dispatch. */
  readonly layers: readonly Layer[];
  /** The one that landed last. */
  readonly top: Layer | undefined;
  /** Says in which order, with which contents and over what, where that does not follow from the pieces. */
  readonly variant: string;
  readonly missing: Piece[];
  ordered: number;
  durable: number;
}

/** Of all versions of a cell together. */
const BYTES_MAX = 64 * 1024 * 1024;

/** What stands in a cell, and where it cannot be read. */
type Content = Pick<Landed, 'bytes' | 'bad'>;

function versionsOf(
  before: Content,
  pieces: readonly Piece[],
  races: Races,
  drops: readonly DiskCommand[],
  profile: DeviceProfile,
): Version[] {
  const never = Number.POSITIVE_INFINITY;
  const from = {
    ordered: suffixMin(pieces.length, (i) => (pieces[i] as Piece).interval.ordered),
    durable: suffixMin(pieces.length, (i) => (pieces[i] as Piece).interval.durable),
  };
  const mayRace = profile.sameLba === 'racy' || pieces.some(({ strays }) => strays);
  /** Nothing can be added to these any more. */
  const closed: Landed[] = [];
  let open: Landed[] = [
    {
      ...{ ...before, intact: true, pieces: 0n, layers: [], top: undefined },
      ...{ after: Number.NEGATIVE_INFINITY, ordered: never, durable: never },
      ...{ variant: '', missing: [] },
    },
  ];
  for (const [index, piece] of pieces.entries()) {
    const { ordered, durable } = piece.interval;
    const whole = piece.start === 0 && piece.end === before.bytes.length;
    const closes = whole && !mayRace && piece.spareFrom === never;
    const grown: Landed[] = [];
    const rest: Landed[] = [];
    for (const landed of open) {
      const waits = landed.missing.some((older) => mustPrecede(older, piece, races));
      if (!waits) {
        for (const [i, content] of piece.contents.entries()) {
          const layer = { piece, content, index };
          if (mayRace) grown.push(...placed(before, landed, layer, i, races));
          else grown.push(onTop(landed, layer, i, []));
        }
      }
      landed.missing.push(piece);
      landed.ordered = Math.min(landed.ordered, closes ? (from.ordered[index] as number) : ordered);
      landed.durable = Math.min(landed.durable, closes ? (from.durable[index] as number) : durable);
      if (landed.after < landed.ordered) (closes ? closed : rest).push(landed);
    }
    open = [...rest, ...grown.filter(({ after, ordered: bound }) => after < bound)];
    if ((open.length + closed.length) * before.bytes.length > BYTES_MAX) throw entangled();
  }
  const all = [...closed, ...open];
  const torn = profile.tear === 'sector' ? [] : tornOf(all, pieces, drops, profile);
  // Of what begins at one moment the intact comes last, so that the last image is that which loses nothing.
  return distinct([...all, ...torn])
    .map(versionOf)
    .sort((a, b) => a.after - b.after || Number(a.intact) - Number(b.intact));
}

function versionOf(landed: Landed): Version {
  const { bytes, bad, top, after, ordered, durable, intact, pieces, variant } = landed;
  const command = top?.piece.command ?? -1;
  const key = `${pieces.toString(36)}${variant}`;
  return {
    bytes,
    bad,
    command,
    after,
    ordered,
    durable,
    intact,
    key,
  };
}

function meet(a: Piece, b: Piece): boolean {
  return a.start < b.end && b.start < a.end;
}

/** A spare piece that the newer one covers makes no difference, so it counts as there. */
function mustPrecede(older: Piece, newer: Piece, races: Races): boolean {
  if (!meet(older, newer) || races(older, newer)) return false;
  const isSpare = older.spareFrom <= newer.interval.dispatched;
  return !isSpare || (newer.start <= older.start && older.end <= newer.end);
}

/** A piece lands above everything that is there. `choice`: which of its contents. */
function onTop(landed: Landed, layer: Layer, choice: number, layers: readonly Layer[]): Landed {
  const { piece, index } = layer;
  return {
    ...landed,
    ...over(landed, layer),
    after: piece.interval.dispatched,
    intact: landed.intact && choice === 0 && landed.missing.length === 0,
    pieces: landed.pieces | (1n << BigInt(index)),
    layers,
    top: layer,
    variant: choice === 0 ? landed.variant : `${landed.variant};${index}=${choice}`,
    missing: [...landed.missing],
  };
}

/** The same at every place among the layers where it may have landed: below those that it races with. */
function placed(
  before: Content,
  landed: Landed,
  layer: Layer,
  choice: number,
  races: Races,
): Landed[] {
  const { layers } = landed;
  const all = [onTop(landed, layer, choice, [...layers, layer])];
  for (let below = layers.length - 1; below >= 0; below--) {
    const other = (layers[below] as Layer).piece;
    if (!meet(other, layer.piece)) continue;
    if (!races(other, layer.piece)) break;
    const order = [...layers.slice(0, below), layer, ...layers.slice(below)];
    const { bytes, bad } = order.reduce<Content>(over, before);
    all.push({
      ...(all[0] as Landed),
      ...{
        bytes,
        bad,
        layers: order,
        top: order.at(-1),
        intact: false,
        missing: [...landed.missing],
      },
      variant: `${(all[0] as Landed).variant};${layer.index}<${below}`,
    });
  }
  return all;
}

/** What stands there when a layer is put over it. */
function over({ bytes, bad }: Content, { piece, content }: Layer): Content {
  const { start, end, isBad } = piece;
  const left = bad.filter((at) => at < start || at >= end);
  const all = isBad ? [...left, start] : left;
  if (start === 0 && end === bytes.length) return { bytes: content, bad: all };
  const copy = copyOf(bytes);
  copy.set(content, start);
  return { bytes: copy, bad: all };
}

function has({ pieces }: Landed, index: number): boolean {
  return ((pieces >> BigInt(index)) & 1n) === 1n;
}

/** Without those that another one of the same bytes makes superfluous: it is possible whenever they are. */
function distinct(all: readonly Landed[]): Landed[] {
  const kept: Landed[] = [];
  const byBytes = new Map<Uint8Array, Landed[]>();
  // Intact ones lack nothing, so nothing makes them superfluous.
  for (const landed of [...all].sort((a, b) => Number(b.intact) - Number(a.intact))) {
    const same = byBytes.get(landed.bytes) ?? [];
    byBytes.set(landed.bytes, same);
    const { after, ordered, durable, bad } = landed;
    const isSpare = same.some(
      (other) =>
        other.after <= after &&
        ordered <= other.ordered &&
        durable <= other.durable &&
        other.bad.join() === bad.join(),
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
  drops: readonly DiskCommand[],
  { tear }: DeviceProfile,
): Landed[] {
  const torn: Landed[] = [];
  const remains = new Map<Uint8Array, Map<Uint8Array, Remains[]>>();
  const halves = (below: Uint8Array, above: Uint8Array): Remains[] => {
    const known = remains.get(above) ?? new Map<Uint8Array, Remains[]>();
    remains.set(above, known);
    const made = known.get(below) ?? tornContents(tear, below, above);
    known.set(below, made);
    return made;
  };
  for (const above of all) {
    const { top } = above;
    if (!top) continue;
    const missing = pieces.filter((_, i) => !has(above, i)).map(({ landing }) => landing);
    // What a flush has given up is not on its way any more.
    const gone = drops
      .filter(({ dispatched }) => top.piece.landing.durable <= dispatched)
      .map(({ completed }) => completed);
    const until = (end: 'ordered' | 'durable'): number =>
      Math.min(Number.POSITIVE_INFINITY, ...gone, ...missing.map((landing) => landing[end]));
    const [landed, known] = [until('ordered'), until('durable')];
    for (const [number, below] of all.entries()) {
      const ordered = Math.min(below.ordered, landed);
      if (above.after >= ordered) continue;
      // What is below reached the medium before the last piece landed above it.
      if (has(below, top.index) || (below.pieces & ~above.pieces) !== 0n) continue;
      const durable = Math.min(below.durable, known);
      for (const [i, { bytes, readable }] of halves(below.bytes, above.bytes).entries()) {
        const variant = `${above.variant}/${number}.${i}`;
        const bad = readable ? [] : [0];
        torn.push({ ...above, bytes, bad, ordered, durable, variant, intact: false });
      }
      if (torn.length * above.bytes.length > BYTES_MAX) throw entangled();
    }
  }
  return torn;
}

function entangled(): WriteBarrierError {
  return misuse('too many writes meet in one place without a flush between them');
}

function unsuited(what: string, sectorSize: number): WriteBarrierError {
  return misuse(`${what} is not whole sectors of ${sectorSize} bytes`);
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
