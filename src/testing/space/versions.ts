// The versions of a region (regions.ts): what a place of it may hold after a power cut, from the atomic units of the writes
// that overlap there.
//
// Where every unit covers the place, in the order of dispatch, the content is that of the newest unit that is persisted: each
// unit is a version, and the older ones make no difference. This is so for nearly all sectors of real traces.
//
// Otherwise sets of units are looked at. A unit, or a part of it if it need not reach the medium as a whole (breaks.ts), is there
// only if all units are there that must land below it. Those are the older units on the same sectors, except
//   - a unit that races with it: both are in flight together and the profile lets them land in any order, or it failed and
//     may land at any moment; then both orders are versions;
//   - a unit that may never land (it failed, a flush gave it up before, or it is a discard that may keep the old content).
//
// An overwritten unit counts as there on the sectors where it landed; the rest of it may be missing.
//
// If the profile tears, a sector that was on its way to the medium may be half of one version and half of another one, or
// random bytes. An atomic unit of several sectors does not tear, because that is what the device promises.

import { misuse, type WriteBarrierError } from '../../model/index.js';
import { tornContents } from '../device/corruption.js';
import type { DiskCommand } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import { Breaks, partsOf, type Races, type Seen, type Unit } from './breaks.js';
import { suffixMin } from './intervals.js';
import type { PlaceVersion } from './places.js';

/**
 * The content of a sector: -1 for that before the trace, 2 * n for that of unit n, 2 * n + 1 for arbitrary bytes instead of it;
 * or what is left when a write was interrupted.
 */
export type Source =
  | number
  | { readonly below: Source; readonly above: Source; readonly which: number };

/** A possible content of a place of a disk. */
export interface Version extends PlaceVersion {
  /** Of each sector of the place; only one where all of them have the same. */
  readonly sources: readonly Source[];
  /** The same key in any trace with the same writes is the same version. */
  readonly key: string;
}

/** A unit that has landed, with its content. */
interface Layer {
  readonly unit: Unit;
  /** The index of the unit in the region. */
  readonly index: number;
  /** Which of its contents it has. */
  readonly choice: number;
  /** The sectors where it is. */
  readonly part: bigint;
  /** Where it is not. */
  readonly rest: bigint;
}

/** A unit that is not there on these sectors. */
interface Missing {
  readonly unit: Unit;
  readonly index: number;
  readonly sectors: bigint;
}

/** A set of units that are there, with all units that must be below them. */
interface Landed {
  /** The visible content of each sector. */
  readonly sources: readonly Source[];
  readonly after: number;
  readonly intact: boolean;
  /** Bit n for unit n. */
  readonly units: bigint;
  /** In the order of landing; kept only if races can make that differ from the order of dispatch. */
  readonly layers: readonly Layer[];
  /** The unit that landed last; -1 if there is none. */
  readonly top: number;
  /** The order, contents and parts, as far as they do not follow from the set of units. */
  readonly variant: string;
  readonly missing: readonly Missing[];
  readonly ordered: number;
  readonly durable: number;
}

const NEVER = Number.POSITIVE_INFINITY;

/** The maximum number of sectors of all versions of a region together: 64 MiB of 512 bytes each. */
const SECTORS_MAX = 131_072;

/** The maximum number of sectors of a unit whose parts are enumerated. */
const PARTS_MAX = 16;

/** @param step the bytes of a place */
export function versionsOf(
  step: number,
  units: readonly Unit[],
  races: Races,
  drops: readonly DiskCommand[],
  profile: DeviceProfile,
): Version[] {
  const mayRace = someRace(units, races);
  // If all units are as large as the place, it behaves like one sector.
  const isSplit = units.some(({ start, end }) => start > 0 || end < step);
  const { sectorSize, tear } = profile;
  const breaks = isSplit ? new Breaks(units, races, drops, sectorSize) : undefined;
  const chain = breaks || mayRace ? undefined : chainOf(units);
  const mayTear = tear !== 'sector' && (isSplit || step === sectorSize);
  // Most of a long log is chains. Their contents differ, and they are sorted.
  if (chain && !mayTear) return chain;
  const all = chain?.map(setOf) ?? setsOf(units, races, breaks, mayRace);
  const torn = mayTear ? tornOf(all, units, drops, profile, breaks) : [];
  // Of versions that begin at one moment the intact one comes last, so that the last crash state loses nothing.
  return distinct([...all, ...torn])
    .map((landed) => versionOf(landed, units))
    .sort((a, b) => a.after - b.after || Number(a.intact) - Number(b.intact));
}

/** Whether there are two units of which either may land first. */
function someRace(units: readonly Unit[], races: Races): boolean {
  if (units.some(({ write }) => write.strays)) return true;
  return units.some((older, n) => {
    const { durable } = older.write.landing;
    // Units that are dispatched after the answer do not race.
    for (let next = n + 1; next < units.length; next += 1) {
      const newer = units[next] as Unit;
      if (newer.write.interval.dispatched > durable) return false;
      if (meet(older, newer) && races(older, newer)) return true;
    }
    return false;
  });
}

function versionOf(
  { sources, top, after, ordered, durable, intact, units: bits, variant }: Landed,
  units: readonly Unit[],
): Version {
  const command = units[top]?.write.command ?? -1;
  const last = bits === 0n ? -1 : bits.toString(2).length - 1;
  const absent = ((1n << BigInt(last + 1)) - 1n) ^ bits;
  const key = `${last}${absent === 0n ? '' : `-${absent.toString(36)}`}${variant}`;
  return { sources, command, after, ordered, durable, intact, key };
}

const untouched = (sectors: number): Landed => ({
  ...{ sources: new Array(sectors).fill(-1), after: Number.NEGATIVE_INFINITY, intact: true },
  ...{ units: 0n, layers: [], top: -1, variant: '', missing: [], ordered: NEVER, durable: NEVER },
});

/** A sector before the trace. */
const BEFORE = untouched(1);

/**
 * Every unit covers the place and lands above the older ones. One sector of a long log may have a hundred thousand of them, so
 * a version takes no more memory if it has many units below it.
 */
function chainOf(units: readonly Unit[]): Version[] {
  const chain: Version[] = [];
  let [ordered, durable] = [NEVER, NEVER];
  for (let n = units.length - 1; n >= 0; n -= 1) {
    const { command, contents, interval } = (units[n] as Unit).write;
    for (let choice = 0; choice < contents; choice += 1) {
      const [after, intact] = [interval.dispatched, choice === 0];
      const key = intact ? String(n) : `${n};1`;
      chain.push({ sources: [2 * n + choice], command, after, ordered, durable, intact, key });
    }
    ordered = Math.min(ordered, interval.ordered);
    durable = Math.min(durable, interval.durable);
  }
  const { sources, after, intact } = BEFORE;
  chain.push({ sources, command: -1, after, ordered, durable, intact, key: '-1' });
  return chain.reverse();
}

/** A version of a chain as the set of its units. */
function setOf({ sources, after, ordered, durable, intact }: Version): Landed {
  const top = (sources[0] as number) >> 1;
  const units = (1n << BigInt(top + 1)) - 1n;
  const variant = intact ? '' : ';1';
  return { ...BEFORE, sources, after, ordered, durable, intact, units, top, variant };
}

/** For each unit the least `ordered` and `durable` of it and all later ones. */
function laterOf(units: readonly Unit[]): Readonly<Record<'ordered' | 'durable', number[]>> {
  const least = (end: 'ordered' | 'durable'): number[] =>
    suffixMin(units.length, (n) => (units[n] as Unit).write.interval[end]);
  return { ordered: least('ordered'), durable: least('durable') };
}

/** All sets of units that may be there, where they overlap in part or race. */
function setsOf(
  units: readonly Unit[],
  races: Races,
  breaks: Breaks | undefined,
  mayRace: boolean,
): Landed[] {
  const sectors = breaks ? breaks.sectors : 1;
  const from = laterOf(units);
  const isOpen = (landed: Landed, missing: Pick<Layer, 'unit' | 'rest'>): boolean =>
    landed.after < landed.ordered && (!breaks || mayRace || isExplicable(landed, missing, breaks));
  /** Units that cover the place and are not there: nothing newer can be there either. */
  const closed: Landed[] = [];
  let open: Landed[] = [untouched(sectors)];
  for (const [index, unit] of units.entries()) {
    const { dispatched, ordered, durable } = unit.write.interval;
    const extent = breaks?.extentOf(index) ?? 1n;
    const isLast =
      !mayRace && unit.write.spareFrom === NEVER && extent === (1n << BigInt(sectors)) - 1n;
    const grown: Landed[] = [];
    const rest: Landed[] = [];
    const check = (): void => {
      const count = open.length + closed.length + rest.length + grown.length;
      if (count * sectors > SECTORS_MAX) throw entangled();
    };
    for (const landed of open) {
      for (const layer of layersOf(unit, index, extent, breaks)) {
        if (landed.missing.some((older) => mustPrecede(older, layer, races))) continue;
        const made = mayRace ? placed(landed, layer, races, sectors) : [onTop(landed, layer, [])];
        grown.push(...made.filter((one) => isOpen(one, layer)));
        check();
      }
      const less: Landed = {
        ...landed,
        missing: [...landed.missing, { unit, index, sectors: extent }],
        // Another sector of the same write may be there, and then the write is not whole.
        intact: landed.intact && dispatched > landed.after,
        ordered: Math.min(landed.ordered, isLast ? (from.ordered[index] as number) : ordered),
        durable: Math.min(landed.durable, isLast ? (from.durable[index] as number) : durable),
      };
      if (isOpen(less, { unit, rest: extent })) (isLast ? closed : rest).push(less);
    }
    open = [...rest, ...grown];
    check();
  }
  return [...closed, ...open].flatMap((landed) => explained(landed, breaks));
}

/** A unit with each of its contents: whole, and in every part if it may break. */
function* layersOf(
  unit: Unit,
  index: number,
  extent: bigint,
  breaks: Breaks | undefined,
): Generator<Layer, void> {
  for (let choice = 0; choice < unit.write.contents; choice++) {
    const layer = { unit, index, choice };
    yield { ...layer, part: extent, rest: 0n };
    if (!breaks?.may(index)) continue;
    if ((unit.end - unit.start) / breaks.sectorSize > PARTS_MAX) throw entangled();
    for (const part of partsOf(extent)) yield { ...layer, part, rest: extent & ~part };
  }
}

function meet(a: Unit, b: Unit): boolean {
  return a.start < b.end && b.start < a.end;
}

/** A spare unit that a whole newer one covers makes no difference, so it counts as there. */
function mustPrecede(
  { unit: older, sectors }: Missing,
  { unit: newer, part, rest }: Layer,
  races: Races,
): boolean {
  if ((sectors & part) === 0n || races(older, newer)) return false;
  const isSpare = older.write.spareFrom <= newer.write.interval.dispatched;
  return !isSpare || (rest === 0n && newer.start <= older.start && older.end <= newer.end);
}

/** A unit lands above everything that is there. */
function onTop(landed: Landed, layer: Layer, layers: readonly Layer[]): Landed {
  const { unit, index, choice, part, rest } = layer;
  const { dispatched, ordered, durable } = unit.write.interval;
  const isWhole = rest === 0n;
  const named = choice === 0 ? landed.variant : `${landed.variant};${index}=${choice}`;
  return {
    ...landed,
    sources: covered(landed.sources, layer),
    after: Math.max(landed.after, dispatched),
    ordered: isWhole ? landed.ordered : Math.min(landed.ordered, ordered),
    durable: isWhole ? landed.durable : Math.min(landed.durable, durable),
    intact: landed.intact && isWhole && choice === 0 && landed.missing.length === 0,
    units: landed.units | (1n << BigInt(index)),
    layers,
    top: index,
    variant: isWhole ? named : `${named};${index}:${part.toString(36)}`,
    missing: isWhole ? landed.missing : [...landed.missing, { unit, index, sectors: rest }],
  };
}

/** The same with every set of layers that may have landed above it, because it races with them. */
function placed(landed: Landed, layer: Layer, races: Races, sectors: number): Landed[] {
  const first = onTop(landed, layer, [...landed.layers, layer]);
  return parted(landed.layers, layer.unit, races).map(([below, above]) => {
    if (!above.some(({ unit }) => meet(unit, layer.unit))) return first;
    const layers = [...below, layer, ...above];
    return {
      ...first,
      sources: layers.reduce<readonly Source[]>(covered, untouched(sectors).sources),
      ...{ layers, top: (layers.at(-1) as Layer).index, intact: false },
      variant: `${first.variant};${layers.map(({ index }) => index)}`,
    };
  });
}

type Parted = readonly [below: readonly Layer[], above: readonly Layer[]];

/** The layers below and above a unit, in every way: above it with a layer all that cover that one, and none that it must cover. */
function parted(layers: readonly Layer[], unit: Unit, races: Races): Parted[] {
  return layers.reduceRight<Parted[]>(
    (all, other) =>
      all.flatMap(([below, above]) => {
        const under: Parted = [[other, ...below], above];
        const over: Parted = [below, [other, ...above]];
        if (below.some((one) => meet(one.unit, other.unit))) return [under];
        // Where they do not meet, either order is the same.
        if (!meet(other.unit, unit)) return [over];
        return races(other.unit, unit) ? [under, over] : [under];
      }),
    [[[], []]],
  );
}

/** The content with a layer over it. */
function covered(sources: readonly Source[], { index, choice, part }: Layer): readonly Source[] {
  const source = 2 * index + choice;
  return sources.map((one, sector) => (((part >> BigInt(sector)) & 1n) === 1n ? source : one));
}

/** The sectors where a unit is visible. */
function seenOf({ sources }: Landed, index: number): bigint {
  let seen = 0n;
  for (const [sector, source] of sources.entries()) {
    const top = typeof source === 'number' ? source : (source.above as number);
    if (top >> 1 === index) seen |= 1n << BigInt(sector);
  }
  return seen;
}

/** The units that are there in part, and where they are visible. */
function inPart(landed: Landed): { readonly index: number; readonly seen: bigint }[] {
  return landed.missing
    .filter(({ index }) => has(landed, index))
    .map(({ index }) => ({ index, seen: seenOf(landed, index) }));
}

/**
 * Whether units that are there in part can still be explained after one more unit is missing on some sectors. What is
 * visible there stays visible, because nothing lands above it without that unit.
 */
function isExplicable(
  landed: Landed,
  { unit, rest }: Pick<Layer, 'unit' | 'rest'>,
  breaks: Breaks,
): boolean {
  if (rest === 0n || unit.write.spareFrom < NEVER) return true;
  return inPart(landed).every(({ index, seen }) => {
    const stays = seen & rest;
    return stays === 0n || breaks.since(index, stays, undefined) !== undefined;
  });
}

/** The same set, not before the dispatch that explains the units that are there in part; none if nothing explains them. */
function explained(landed: Landed, breaks: Breaks | undefined): Landed[] {
  if (!breaks) return [landed];
  const parts = seenIn(landed, breaks);
  let { after } = landed;
  for (const { index, seen } of inPart(landed)) {
    if (seen === 0n) continue;
    const since = breaks.since(index, seen, parts);
    if (since === undefined) return [];
    after = Math.max(after, since);
  }
  return after < landed.ordered ? [{ ...landed, after }] : [];
}

function has({ units }: Pick<Landed, 'units'>, index: number): boolean {
  return ((units >> BigInt(index)) & 1n) === 1n;
}

/** Removes a set if another one with the same content is possible whenever it is. */
function distinct(all: readonly Landed[]): Landed[] {
  const kept: Landed[] = [];
  const alike = new Map<string, Landed[]>();
  // Intact ones lack nothing, so nothing makes them superfluous.
  const widest = [...all].sort(
    (a, b) => Number(b.intact) - Number(a.intact) || a.after - b.after || later(a, b),
  );
  for (const landed of widest) {
    const content = landed.sources.map(nameOf).join();
    const same = alike.get(content) ?? [];
    alike.set(content, same);
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

function nameOf(source: Source): string {
  if (typeof source === 'number') return String(source);
  return `${nameOf(source.below)}/${nameOf(source.above)}.${source.which}`;
}

/** Sets that are possible for longer come first. */
function later(a: Landed, b: Landed): number {
  if (a.ordered !== b.ordered) return a.ordered < b.ordered ? 1 : -1;
  return a.durable === b.durable ? 0 : a.durable < b.durable ? 1 : -1;
}

/**
 * Each version with sectors of it half over a version with fewer units, which is otherwise the same: they were on their way to
 * the medium when the power was cut, so nothing newer had landed above them.
 */
function tornOf(
  all: readonly Landed[],
  units: readonly Unit[],
  drops: readonly DiskCommand[],
  { tear }: DeviceProfile,
  breaks: Breaks | undefined,
): Landed[] {
  const ways = tornContents(tear, new Uint8Array(2), new Uint8Array(2)).length;
  const sectors = all[0]?.sources.length ?? 0;
  let found = [...all];
  for (let sector = 0; sector < sectors; sector += 1) {
    const torn: Landed[] = [];
    for (const above of found) {
      const source = above.sources[sector] as Source;
      const index = typeof source === 'number' ? source >> 1 : -1;
      const unit = units[index];
      const since = unit && aloneSince(above, index, breaks);
      if (!unit || since === undefined) continue;
      const [landed, known] = until(above, unit, sector, units, drops, breaks);
      for (const [number, below] of found.entries()) {
        const after = Math.max(above.after, below.after, since);
        const ordered = Math.min(below.ordered, landed);
        if (after >= ordered) continue;
        // The version below was persisted before the last unit landed above it.
        if (isAt(below, index, sector) || (below.units & ~above.units) !== 0n) continue;
        if (!isSameBut(sector, above, below)) continue;
        const durable = Math.min(below.durable, known);
        for (let which = 0; which < ways; which++) {
          const sources = above.sources.slice();
          sources[sector] = { below: below.sources[sector] as Source, above: source, which };
          const variant = `${above.variant}/${number}.${sector}.${which}`;
          torn.push({ ...above, sources, after, ordered, durable, variant, intact: false });
        }
        if ((found.length + torn.length) * sectors > SECTORS_MAX) throw entangled();
      }
    }
    found = [...found, ...torn];
  }
  return found.slice(all.length);
}

/** From when on the sectors of a unit that are visible are no part of a larger unit; undefined if they always are. */
function aloneSince(landed: Landed, index: number, breaks: Breaks | undefined): number | undefined {
  const extent = breaks?.extentOf(index) ?? 1n;
  if (!breaks || (extent & (extent - 1n)) === 0n) return Number.NEGATIVE_INFINITY;
  if (!breaks.may(index)) return undefined;
  return breaks.since(index, seenOf(landed, index), seenIn(landed, breaks));
}

/** Which parts of the units are there. */
function seenIn({ missing }: Landed, breaks: Breaks): Seen {
  const rests = new Map(missing.map(({ index, sectors }) => [index, sectors]));
  return { partOf: (index) => breaks.extentOf(index) & ~(rests.get(index) ?? 0n) };
}

/** Whether a unit is there on a sector, overwritten or not. */
function isAt(landed: Landed, index: number, sector: number): boolean {
  const bit = 1n << BigInt(sector);
  const isMissing = landed.missing.some((one) => one.index === index && (one.sectors & bit) !== 0n);
  return has(landed, index) && !isMissing;
}

/** Until when a unit may be on its way to the medium, and until when the host does not know that it has arrived. */
function until(
  above: Landed,
  { write }: Unit,
  sector: number,
  units: readonly Unit[],
  drops: readonly DiskCommand[],
  breaks: Breaks | undefined,
): [landed: number, known: number] {
  const isHere = (n: number): boolean =>
    ((breaks?.extentOf(n) ?? 1n) & (1n << BigInt(sector))) !== 0n;
  const missing = units
    .filter((_, n) => isHere(n) && !isAt(above, n, sector))
    .map((other) => other.write)
    // A discard may be ignored, and then it proves nothing about what is below it.
    .filter(({ spareFrom }) => spareFrom > -NEVER)
    .map(({ landing }) => landing);
  // A unit that a flush has given up is no longer on its way.
  const gone = drops
    .filter(({ dispatched }) => write.landing.durable <= dispatched)
    .map(({ completed }) => completed);
  const least = (end: 'ordered' | 'durable'): number =>
    Math.min(NEVER, ...gone, ...missing.map((landing) => landing[end]));
  return [least('ordered'), least('durable')];
}

function isSameBut(sector: number, a: Landed, b: Landed): boolean {
  return a.sources.every(
    (source, n) => n === sector || nameOf(source) === nameOf(b.sources[n] as Source),
  );
}

function entangled(): WriteBarrierError {
  return misuse(
    'too many writes overlap in one region without a flush between them: add a flush, or choose a larger sectorSize',
  );
}
