// The versions of a cell (cells.ts): its possible contents after a power cut, from the pieces of writes that overlap in it.
//
// Which sets of pieces are possible: a piece, or a part of it if it need not reach the medium as a whole (breaks.ts), is there
// only if all pieces are there that must land below it. Those are the older pieces on the same sectors, except
//   - a piece that races with it: both are in flight together and the profile lets them land in any order, or it failed and
//     may land at any moment; then both orders are versions;
//   - a piece that may never land (it failed, a flush gave it up before, or it is a discard that may keep the old content).
//
// An overwritten piece counts as there on the sectors where it landed; the rest of it may be missing.
//
// If the profile tears, half of one version over half of another one is a version, too, or random bytes.

import { misuse, type WriteBarrierError } from '../../model/index.js';
import { copyOf } from '../../storage/buffers.js';
import { type Remains, tornContents } from '../device/corruption.js';
import type { DiskCommand } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import type { Piece, Races } from './breaks.js';
import { Breaks, partsOf } from './breaks.js';
import { suffixMin } from './intervals.js';

/** A possible content of a cell. */
export interface Version {
  /** As long as the cell. */
  readonly bytes: Uint8Array;
  /** The number of the last command that contributed to it; -1 for the content before the trace. */
  readonly command: number;
  /** The latest dispatch among the pieces that are there. */
  readonly after: number;
  /** The earliest `ordered` among the pieces that are not there. */
  readonly ordered: number;
  /** The earliest `durable` among the pieces that are not there. */
  readonly durable: number;
  /** A device that carries out everything in order and whole could leave it. */
  readonly intact: boolean;
  /** Sectors that cannot be read, in bytes from the start of the cell; their bytes are arbitrary. */
  readonly bad: readonly number[];
  /** The same key in any trace with the same writes is the same version. */
  readonly key: string;
}

/** A piece that has landed, with its content. */
interface Layer {
  readonly piece: Piece;
  readonly content: Uint8Array;
  /** The index of the piece in the cell. */
  readonly index: number;
  /** Which of its contents that is. */
  readonly choice: number;
  /** The sectors of the cell where it is. */
  readonly part: bigint;
  /** Where it is not. */
  readonly rest: bigint;
}

/** A piece that is not there on these sectors. */
interface Missing {
  readonly piece: Piece;
  readonly index: number;
  readonly sectors: bigint;
}

/** A set of pieces that are there, with all pieces that must be below them. */
interface Landed {
  readonly bytes: Uint8Array;
  readonly bad: readonly number[];
  readonly after: number;
  readonly intact: boolean;
  /** Bit i for piece i. */
  readonly pieces: bigint;
  /** In the order of landing; kept only if races can make that differ from the order of dispatch. */
  readonly layers: readonly Layer[];
  /** The one that landed last. */
  readonly top: Layer | undefined;
  /** The order, contents and parts, as far as they do not follow from the set of pieces. */
  readonly variant: string;
  readonly missing: Missing[];
  /** The visible content of each sector: 2 * index of the piece + choice; -1 for the content before the trace. */
  readonly tops: readonly number[];
  ordered: number;
  durable: number;
}

/** The maximum for all versions of a cell together. */
const BYTES_MAX = 64 * 1024 * 1024;

/** The content of a cell, and where it cannot be read. */
type Content = Pick<Landed, 'bytes' | 'bad' | 'tops'>;

/** The maximum number of sectors of a piece whose parts are enumerated. */
const PARTS_MAX = 16;

export function versionsOf(
  before: Pick<Landed, 'bytes' | 'bad'>,
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
  const cellBytes = before.bytes.length;
  // If all pieces are as large as the cell, it behaves like one sector.
  const isSplit = pieces.some(({ start, end }) => start > 0 || end < cellBytes);
  const sectorSize = isSplit ? profile.sectorSize : cellBytes;
  const breaks = isSplit ? new Breaks(pieces, races, drops, sectorSize) : undefined;
  const isOpen = (landed: Landed, missing: Pick<Layer, 'piece' | 'rest'>): boolean =>
    !breaks || mayRace || isExplicable(landed, missing, breaks);
  const base: Content = { ...before, tops: new Array(cellBytes / sectorSize).fill(-1) };
  /** Nothing can be added to these any more. */
  const closed: Landed[] = [];
  let open: Landed[] = [
    {
      ...{ ...base, intact: true, pieces: 0n, layers: [], top: undefined },
      ...{ after: Number.NEGATIVE_INFINITY, ordered: never, durable: never },
      ...{ variant: '', missing: [] },
    },
  ];
  for (const [index, piece] of pieces.entries()) {
    const { ordered, durable } = piece.interval;
    const extent = breaks?.extentOf(index) ?? 1n;
    const whole = piece.start === 0 && piece.end === cellBytes;
    const closes = whole && !mayRace && piece.spareFrom === never;
    const grown: Landed[] = [];
    const rest: Landed[] = [];
    const check = (): void => {
      const count = open.length + closed.length + rest.length + grown.length;
      if (count * cellBytes > BYTES_MAX) throw entangled();
    };
    for (const landed of open) {
      for (const layer of layersOf(piece, index, extent, breaks)) {
        if (landed.missing.some((older) => mustPrecede(older, layer, races))) continue;
        const made = mayRace ? placed(base, landed, layer, races) : [onTop(landed, layer, [])];
        grown.push(...made.filter((one) => one.after < one.ordered && isOpen(one, layer)));
        check();
      }
      landed.missing.push({ piece, index, sectors: extent });
      landed.ordered = Math.min(landed.ordered, closes ? (from.ordered[index] as number) : ordered);
      landed.durable = Math.min(landed.durable, closes ? (from.durable[index] as number) : durable);
      if (landed.after < landed.ordered && isOpen(landed, { piece, rest: extent })) {
        (closes ? closed : rest).push(landed);
      }
    }
    open = [...rest, ...grown];
    check();
  }
  const all = [...closed, ...open].flatMap((landed) => explained(landed, breaks));
  const shorn = profile.tear === 'sector' ? [] : tornOf(all, pieces, drops, profile);
  // Of versions that begin at one moment the intact one comes last, so that the last crash state loses nothing.
  return distinct([...all, ...shorn], isSplit)
    .map(versionOf)
    .sort((a, b) => a.after - b.after || Number(a.intact) - Number(b.intact));
}

/** A piece with each of its contents: whole, and in every part if it may break. */
function* layersOf(
  piece: Piece,
  index: number,
  extent: bigint,
  breaks: Breaks | undefined,
): Generator<Layer, void> {
  for (const [choice, content] of piece.contents.entries()) {
    const layer = { piece, content, index, choice };
    yield { ...layer, part: extent, rest: 0n };
    if (!breaks?.may(index)) continue;
    if ((piece.end - piece.start) / breaks.sectorSize > PARTS_MAX) throw entangled();
    for (const part of partsOf(extent)) yield { ...layer, part, rest: extent & ~part };
  }
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

/** A spare piece that the newer one covers entirely makes no difference, so it counts as there. */
function mustPrecede(
  { piece: older, sectors }: Missing,
  { piece: newer, part }: Layer,
  races: Races,
): boolean {
  if ((sectors & part) === 0n || races(older, newer)) return false;
  const isSpare = older.spareFrom <= newer.interval.dispatched;
  return !isSpare || (newer.start <= older.start && older.end <= newer.end);
}

/** A piece lands above everything that is there. */
function onTop(landed: Landed, layer: Layer, layers: readonly Layer[]): Landed {
  const { piece, index, choice, part, rest } = layer;
  const { ordered, durable } = piece.interval;
  const isWhole = rest === 0n;
  const named = choice === 0 ? landed.variant : `${landed.variant};${index}=${choice}`;
  return {
    ...landed,
    ...over(landed, layer),
    after: Math.max(landed.after, piece.interval.dispatched),
    ordered: isWhole ? landed.ordered : Math.min(landed.ordered, ordered),
    durable: isWhole ? landed.durable : Math.min(landed.durable, durable),
    intact: landed.intact && isWhole && choice === 0 && landed.missing.length === 0,
    pieces: landed.pieces | (1n << BigInt(index)),
    layers,
    top: layer,
    variant: isWhole ? named : `${named};${index}:${part.toString(36)}`,
    missing: isWhole ? [...landed.missing] : [...landed.missing, { piece, index, sectors: rest }],
  };
}

/** The same at every place among the layers where it may have landed: below those that it races with. */
function placed(before: Content, landed: Landed, layer: Layer, races: Races): Landed[] {
  const { layers } = landed;
  const first = onTop(landed, layer, [...layers, layer]);
  const all = [first];
  for (let below = layers.length - 1; below >= 0; below--) {
    const other = (layers[below] as Layer).piece;
    if (!meet(other, layer.piece)) continue;
    if (!races(other, layer.piece)) break;
    const order = [...layers.slice(0, below), layer, ...layers.slice(below)];
    const { bytes, bad, tops } = order.reduce<Content>(over, before);
    all.push({
      ...first,
      ...{ bytes, bad, tops, layers: order, top: order.at(-1), intact: false },
      missing: [...first.missing],
      variant: `${first.variant};${layer.index}<${below}`,
    });
  }
  return all;
}

/** The content with a layer over it. */
function over({ bytes, bad, tops }: Content, layer: Layer): Content {
  const { piece, content, index, choice, part, rest } = layer;
  const { start, end, isBad } = piece;
  if (start === 0 && end === bytes.length && rest === 0n) {
    const seen = new Array(tops.length).fill(2 * index + choice);
    return { bytes: content, bad: isBad ? [0] : [], tops: seen };
  }
  const sectorSize = bytes.length / tops.length;
  const isThere = (sector: number): boolean => ((part >> BigInt(sector)) & 1n) === 1n;
  const left = bad.filter((at) => !isThere(Math.floor(at / sectorSize)));
  const all = isBad && isThere(Math.floor(start / sectorSize)) ? [...left, start] : left;
  const seen = tops.map((top, sector) => (isThere(sector) ? 2 * index + choice : top));
  const copy = copyOf(bytes);
  for (let at = start; at < end; at += sectorSize) {
    if (!isThere(at / sectorSize)) continue;
    copy.set(content.subarray(at - start, at - start + sectorSize), at);
  }
  return { bytes: copy, bad: all, tops: seen };
}

/** The sectors where a piece is visible. */
function seenOf({ tops }: Landed, index: number): bigint {
  let seen = 0n;
  for (const [sector, top] of tops.entries()) {
    if (top >> 1 === index) seen |= 1n << BigInt(sector);
  }
  return seen;
}

/** The pieces that are there in part, and where they are visible. */
function inPart(landed: Landed): { readonly index: number; readonly seen: bigint }[] {
  return landed.missing
    .filter(({ index }) => has(landed, index))
    .map(({ index }) => ({ index, seen: seenOf(landed, index) }));
}

/**
 * Whether pieces that are there in part can still be explained after one more piece is missing on some sectors. What is
 * visible there stays visible, because nothing lands above it without that piece.
 */
function isExplicable(
  landed: Landed,
  { piece, rest }: Pick<Layer, 'piece' | 'rest'>,
  breaks: Breaks,
): boolean {
  if (rest === 0n || piece.spareFrom < Number.POSITIVE_INFINITY) return true;
  return inPart(landed).every(({ index, seen }) => {
    const stays = seen & rest;
    return stays === 0n || breaks.since(index, stays, undefined) !== undefined;
  });
}

/** The same set, not before the dispatch that explains the pieces that are there in part; none if nothing explains them. */
function explained(landed: Landed, breaks: Breaks | undefined): Landed[] {
  if (!breaks) return [landed];
  const rests = new Map(landed.missing.map(({ index, sectors }) => [index, sectors]));
  const partOf = (index: number): bigint => breaks.extentOf(index) & ~(rests.get(index) ?? 0n);
  let { after } = landed;
  for (const { index, seen } of inPart(landed)) {
    if (seen === 0n) continue;
    const since = breaks.since(index, seen, { partOf });
    if (since === undefined) return [];
    after = Math.max(after, since);
  }
  return after < landed.ordered ? [{ ...landed, after }] : [];
}

function has({ pieces }: Landed, index: number): boolean {
  return ((pieces >> BigInt(index)) & 1n) === 1n;
}

/** Removes a set if another one with the same content is possible whenever it is. */
function distinct(all: readonly Landed[], isSplit: boolean): Landed[] {
  const kept: Landed[] = [];
  const alike = new Map<unknown, Landed[]>();
  // Intact ones lack nothing, so nothing makes them superfluous.
  const widest = [...all].sort(
    (a, b) => Number(b.intact) - Number(a.intact) || a.after - b.after || later(a, b),
  );
  for (const landed of widest) {
    const content = isSplit ? landed.tops.join() : landed.bytes;
    const same = alike.get(content) ?? [];
    alike.set(content, same);
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

/** Sets that are possible for longer come first. */
function later(a: Landed, b: Landed): number {
  if (a.ordered !== b.ordered) return a.ordered < b.ordered ? 1 : -1;
  return a.durable === b.durable ? 0 : a.durable < b.durable ? 1 : -1;
}

/**
 * Each version half over each one with fewer pieces: it was on its way to the medium when the power was cut, so nothing
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
    // A piece that a flush has given up is no longer on its way.
    const gone = drops
      .filter(({ dispatched }) => top.piece.landing.durable <= dispatched)
      .map(({ completed }) => completed);
    const until = (end: 'ordered' | 'durable'): number =>
      Math.min(Number.POSITIVE_INFINITY, ...gone, ...missing.map((landing) => landing[end]));
    const [landed, known] = [until('ordered'), until('durable')];
    for (const [number, below] of all.entries()) {
      const ordered = Math.min(below.ordered, landed);
      if (above.after >= ordered) continue;
      // The version below was persisted before the last piece landed above it.
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
  return misuse(
    'too many writes overlap in one region without a flush between them: add a flush, or choose a larger sectorSize',
  );
}
