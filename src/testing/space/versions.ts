// What a cell may hold after a power cut: from the pieces of writes that meet in it to its versions (cells.ts).
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
import type { DiskCommand } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import { type Remains, tornContents } from '../device/tear.js';
import { type Interval, suffixMin } from './intervals.js';

/** One content that a cell may have. */
export interface Version {
  /** As long as the cell. */
  readonly bytes: Uint8Array;
  /** The command that was the last to add to it, by its place in the trace; -1 for what was there before. */
  readonly command: number;
  /** See the head of cells.ts. */
  readonly after: number;
  /** See the head of cells.ts. */
  readonly ordered: number;
  /** See the head of cells.ts. */
  readonly durable: number;
  /** What a device would leave that carries everything out in order and whole. */
  readonly intact: boolean;
  /** Sectors that cannot be read, in bytes from the start of the cell. What stands there nobody wrote. */
  readonly bad: readonly number[];
  /** The same version in the cells of any trace that has the same writes. */
  readonly key: string;
}

/** What a device carries out as a whole. */
export interface Piece {
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

/** Whether an older piece may land above a newer one that it meets. */
export type Races = (older: Piece, newer: Piece) => boolean;

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

export function versionsOf(
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
  return new WriteBarrierError(
    'INVALID_ARGUMENT',
    'too many writes meet in one place without a flush between them',
  );
}
