// The regions that a trace writes, each with its versions: the contents that a power cut may leave there.
//
// A write is carried out in atomic units: the whole write, if it fits into the device's atomic write unit, or else its sectors.
// A region is a run of sectors with the same history, so that a log of gigabytes has as many regions as it has different
// writes, and not as many as the disk has sectors. Every sector of a region has a version of its own, from the same list.
// Only where an atomic unit of several sectors ties sectors together, the whole region has one version. Either way a
// place is what gets a version. Payloads are not copied: a version refers to the commands whose bytes it shows.
//
// The `after` of a version is the latest dispatch among the units that are persisted. Its `ordered` and `durable` are the minima of
// those of the missing units (intervals.ts). What follows from them is in places.ts.
//
// A resize is a write to one more place, the size, which is a sector in front of the first one (`sizeAt`); and of zeroes to the
// sectors between the two sizes that may hold anything else. So the size is the first region of a trace that changes it. What a
// crash state has behind its size is not there, whatever the versions of those places.
//
// How the versions of a region are found is in versions.ts.

import { misuse, type WriteBarrierError } from '../../model/index.js';
import type { Capabilities } from '../../storage/index.js';
import { noise, spoiltBy, tornContents } from '../device/corruption.js';
import {
  type Content,
  contentBefore,
  type DiskCommand,
  type DiskTrace,
  sizeAt,
  sizeBytes,
} from '../device/disk-trace.js';
import { capabilitiesOf, type DeviceProfile } from '../device/profile.js';
import type { Races, Unit, Write } from './breaks.js';
import { type Interval, intervalsOf, isTaggedBehind, isVolatile } from './intervals.js';
import type { PlaceMap, Places } from './places.js';
import { Sizes, withForced } from './sizes.js';
import { type Source, type Version, versionsOf } from './versions.js';

/** A run of sectors with the same history, or the size. */
export interface Region extends Places<Version> {
  /** In bytes from the start of the disk; that of the size is less than 0. */
  readonly offset: number;
  /** In bytes. */
  readonly length: number;
  /** The bytes of a place: a sector, or the whole region where an atomic unit ties its sectors together. */
  readonly step: number;
  /** The writes that the versions show, by the index of their unit. */
  readonly writes: readonly Write[];
}

/** All regions that a trace writes, in the order of their offsets. */
export interface RegionMap extends PlaceMap<Region> {
  /** In bytes. */
  readonly sectorSize: number;
  /** Before the trace, in bytes. */
  readonly size: number;
  readonly initial: Uint8Array | undefined;
  /** Offsets of sectors that cannot be read before the trace. */
  readonly unreadable: ReadonlySet<number>;
  /** What was on the medium before the trace. */
  readonly before: Content;
  readonly tear: DeviceProfile['tear'];
  readonly discard: DeviceProfile['discard'];
  /** The capabilities of the disk of a recovery. */
  readonly offers: Capabilities;
}

/** So many versions of all regions together take about a gigabyte of memory. */
const VERSIONS_MAX = 4_000_000;

/**
 * @throws `INVALID_ARGUMENT` for a command that is not whole sectors of the profile or not within the disk, for a resize that
 *   does not begin at the size of the disk, for a write without its data, for initial contents of another size than the disk, for moments
 *   that are not ascending, for a region in which too many writes overlap, and for a trace whose regions have more than 4,000,000 versions
 */
export function regionsOf(trace: DiskTrace, profile: DeviceProfile): RegionMap {
  const { sectorSize, tear, discard } = profile;
  const { size, initial, commands } = trace;
  if (size % sectorSize !== 0) throw unsuited(`a disk of ${size} bytes`, sectorSize);
  if (initial && initial.length !== size) {
    throw misuse(`initial must have as many bytes as the disk: ${size}, not ${initial.length}`);
  }
  checkTimes(commands);
  const races = racesOf(commands, profile);
  // Resizes keep their order, and a size is not torn.
  const sizes = { ...profile, sameLba: 'fifo', tear: 'sector' } as const;
  const sizesRace = racesOf(commands, sizes);
  const drops = commands.filter(({ fault }) => fault?.kind === 'drop');
  const regions: Region[] = [];
  let places = 0;
  let total = 0;
  const all = writesOf(trace, profile);
  // Without a cache a size is on the medium when its resize is answered.
  const cached = isVolatile(profile) ? all : [];
  for (const { offset, length, step, units } of runsOf(all, sectorSize)) {
    // A region has more versions than units, and is refused before they take memory.
    if (total + units.length >= VERSIONS_MAX) throw tooLong();
    const writes = units.map(({ write }) => write);
    const versions =
      offset < 0
        ? withForced(versionsOf(step, units, sizesRace, drops, sizes), writes, cached, size)
        : versionsOf(step, units, races, drops, profile);
    const count = length / step;
    regions.push({ offset, length, step, first: places, count, versions, writes });
    places += count;
    total += versions.length;
  }
  return {
    ...{ sectorSize, size, initial, tear, discard, regions, places },
    before: contentBefore(trace, sectorSize),
    unreadable: new Set(trace.unreadable),
    offers: capabilitiesOf(profile),
  };
}

/** The region that contains the offset. */
export function regionAt({ regions }: RegionMap, offset: number): Region | undefined {
  let low = 0;
  let high = regions.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((regions[middle] as Region).offset > offset) high = middle;
    else low = middle + 1;
  }
  const region = regions[low - 1];
  return region && offset < region.offset + region.length ? region : undefined;
}

/** Whether a place of the region is the size of the disk. */
export function isSize({ offset }: Pick<Region, 'offset'>): boolean {
  return offset < 0;
}

/** Whether the trace changes the size of the disk, which is the first region then. */
export function isResized({ regions: [first] }: Pick<RegionMap, 'regions'>): boolean {
  return first !== undefined && isSize(first);
}

/** Where a place begins, in bytes from the start of the disk. */
export function offsetOf({ offset, first, step }: Region, place: number): number {
  return offset + (place - first) * step;
}

/** The place that contains an offset of the region. */
export function placeAt({ offset, first, step }: Region, at: number): number {
  return first + Math.floor((at - offset) / step);
}

/** A sector of a version; `below` is what was there before the trace. */
export function contentOf(
  map: RegionMap,
  { offset: start, step, writes }: Region,
  { sources }: Version,
  offset: number,
  below: Content,
): Uint8Array | undefined {
  const { sectorSize, tear } = map;
  const read = (source: Source): Uint8Array | undefined => {
    if (source === -1) return below(offset);
    if (typeof source === 'number') {
      return writtenBy(writes[source >> 1] as Write, source & 1, offset, sectorSize);
    }
    const [under, over] = [read(source.below), read(source.above)];
    // Half of a sector that cannot be read is arbitrary.
    const unknown = noise(sectorSize, offset);
    const { bytes, readable } = tornContents(tear, under ?? unknown, over ?? unknown)[
      source.which
    ] as { bytes: Uint8Array; readable: boolean };
    return readable ? bytes : undefined;
  };
  const sector = ((offset - start) % step) / sectorSize;
  return read(sources[sources.length === 1 ? 0 : sector] as Source);
}

/** A sector that a write put there, of one of its two contents. */
function writtenBy(
  { data, size, offset: start, spoilt }: Write,
  choice: number,
  offset: number,
  sectorSize: number,
): Uint8Array | undefined {
  if (size !== undefined) return sizeBytes(size);
  const at = offset - start;
  const plain = data ? data.subarray(at, at + sectorSize) : new Uint8Array(sectorSize);
  const bytes = choice === 1 ? noise(sectorSize, offset) : plain;
  if (offset !== start || !spoilt) return bytes;
  return spoilt === 'latent' ? undefined : spoiltBy(spoilt, bytes, sectorSize, offset);
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

// Writes

function writesOf({ size, commands }: DiskTrace, profile: DeviceProfile): Write[] {
  const { sectorSize, discard } = profile;
  const intervals = intervalsOf(commands, profile);
  // Without a cache a unit is persisted when it lands.
  const landings = intervalsOf(commands, { ...profile, cache: 'none', lies: landingLies(profile) });
  const sizes = new Sizes(size);
  return commands.flatMap((command, number): Write[] => {
    const interval = intervals[number];
    const { op, fault, size: newSize } = command;
    // Behind the largest size so far there are zeroes.
    const { most: reach } = sizes;
    if (newSize !== undefined) sizes.change(command, number);
    if (!interval) return [];
    const offset = fault?.kind === 'misdirected' ? fault.at : command.offset;
    if (!(offset >= 0 && offset + command.length <= sizes.most)) {
      throw misuse(
        `command ${number}, a ${op} of ${command.length} bytes at ${offset}, is not within the disk of ${sizes.most} bytes`,
      );
    }
    const length =
      newSize === undefined
        ? command.length
        : Math.max(0, Math.min(command.length, reach - offset));
    if (command.length === 0) return [];
    if (offset % sectorSize !== 0 || command.length % sectorSize !== 0) {
      const what = `command ${number}, a ${op} of ${command.length} bytes at ${offset}`;
      throw unsuited(what, sectorSize);
    }
    const data = op === 'write' ? payloadOf(command, number) : undefined;
    // Of what a resize cuts off nothing may come back.
    const maybe = op === 'discard' && discard !== 'zero' && newSize === undefined;
    const spoilt = fault?.kind === 'rot' || fault?.kind === 'latent' ? fault.kind : undefined;
    const common = {
      ...{ command: number, landing: landings[number] as Interval },
      ...{ forced: isForced(command, profile), strays: fault?.kind === 'stray' },
    };
    const write: Write = {
      ...{ ...common, offset, length, data, spoilt },
      isWhole: isWhole({ op, offset, length }, profile),
      contents: maybe && discard !== 'old-or-zero' ? 2 : 1,
      interval: maybe ? neverCertain(interval) : interval,
      spareFrom: maybe ? Number.NEGATIVE_INFINITY : interval.givenUp,
    };
    if (newSize === undefined) return [write];
    const place = { offset: sizeAt(sectorSize), length: sectorSize, size: newSize };
    const sized: Write = { ...write, ...place, spoilt: undefined };
    return length > 0 ? [sized, write] : [sized];
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

function payloadOf({ length, data }: DiskCommand, number: number): Uint8Array {
  if (data?.length === length) return data;
  throw misuse(`command ${number} is a write whose data is missing or has another length`);
}

/** The sector may keep its old content for ever. */
function neverCertain({ dispatched, givenUp }: Interval): Interval {
  const never = Number.POSITIVE_INFINITY;
  return { dispatched, ordered: never, durable: never, givenUp };
}

function racesOf(commands: readonly DiskCommand[], profile: DeviceProfile): Races {
  const racy = profile.sameLba === 'racy';
  return ({ write: older }, { write: newer }) => {
    if (older.strays) return true;
    if (!racy && !newer.strays) return false;
    const { completed } = commands[older.command] as DiskCommand;
    const together = newer.interval.dispatched < completed;
    return together && !isTaggedBehind(commands, older.command, newer.command, profile);
  };
}

// Runs of sectors with the same history

interface Run extends Pick<Region, 'offset' | 'length' | 'step'> {
  /** In the order of dispatch. */
  readonly units: readonly Unit[];
}

/**
 * The sectors that the writes touch, in runs: tied together by atomic units of several sectors, or touched by the same writes.
 * A sweep from the start of the disk to its end, with the writes that contain the current offset.
 */
function* runsOf(writes: readonly Write[], sectorSize: number): Generator<Run, void> {
  const ties = tiesOf(writes.filter(({ isWhole, length }) => isWhole && length > sectorSize));
  const starting = [...writes].sort((a, b) => a.offset - b.offset);
  const edges = edgesOf(writes, sectorSize);
  let open: Write[] = [];
  let next = 0;
  let tie = 0;
  let tied = new Set<Write>();
  for (let i = 0; i + 1 < edges.length; i++) {
    const [offset, end] = [edges[i] as number, edges[i + 1] as number];
    open = open.filter((write) => write.offset + write.length > offset);
    const before = open.length;
    for (let write = starting[next]; write?.offset === offset; write = starting[++next]) {
      open.push(write);
    }
    if (open.length > before) open.sort((a, b) => a.command - b.command);
    const around = ties[tie];
    if (around && around.offset <= offset) {
      for (const write of open) tied.add(write);
      if (end < around.end) continue;
      const { offset: from } = around;
      yield { offset: from, length: end - from, ...tiedRun(from, end, tied, sectorSize) };
      tie += 1;
      tied = new Set();
    } else if (open.length > 0) {
      const units = open.map((write): Unit => ({ write, start: 0, end: sectorSize }));
      yield { offset, length: end - offset, step: sectorSize, units };
    }
  }
}

/** The offsets at which the writes that contain a sector may change, ascending. */
function edgesOf(writes: readonly Write[], sectorSize: number): Float64Array {
  const edges = new Set<number>();
  for (const { offset, length, spoilt } of writes) {
    edges.add(offset).add(offset + length);
    // A fault spoils the first sector alone.
    if (spoilt) edges.add(offset + sectorSize);
  }
  return Float64Array.from(edges).sort();
}

/** Runs of atomic units that overlap. */
function tiesOf(whole: readonly Write[]): { readonly offset: number; readonly end: number }[] {
  const ties: { readonly offset: number; end: number }[] = [];
  for (const { offset, length } of [...whole].sort((a, b) => a.offset - b.offset)) {
    const last = ties.at(-1);
    if (last && offset < last.end) last.end = Math.max(last.end, offset + length);
    else ties.push({ offset, end: offset + length });
  }
  return ties;
}

/** The units in a run that atomic units tie together; parts of other writes are single sectors there. */
function tiedRun(
  from: number,
  to: number,
  writes: ReadonlySet<Write>,
  sectorSize: number,
): Pick<Run, 'step' | 'units'> {
  const ordered = [...writes].sort((a, b) => a.command - b.command);
  const units = ordered.flatMap((write): Unit[] => {
    const start = Math.max(from, write.offset) - from;
    const end = Math.min(to, write.offset + write.length) - from;
    if (write.isWhole) return [{ write, start, end }];
    const sectors = (end - start) / sectorSize;
    return Array.from({ length: sectors }, (_, i) => {
      const at = start + i * sectorSize;
      return { write, start: at, end: at + sectorSize };
    });
  });
  return { step: to - from, units };
}

function unsuited(what: string, sectorSize: number): WriteBarrierError {
  return misuse(`${what} is not a multiple of the sector size ${sectorSize} of the profile`);
}

function tooLong(): WriteBarrierError {
  return misuse(
    `the trace is too long: its regions have more than ${VERSIONS_MAX} versions; take a part of it that ends with a flush`,
  );
}
