// Exploration: every outcome of a power cut that a recovery can tell apart.
//
// The recovery runs on an undecided disk: a cell gets one of its versions when it is first read. The choices so far limit the
// time at which the power can have been cut (cells.ts). Every partial choice can be completed, so there is one run for each
// outcome that the recovery can tell apart, and a cell that is not read is never split. Each run covers a counted number of
// crash states; the runs of a whole exploration cover all of them, each once.
//
// The choices form a tree. It is walked depth first, early power cuts before late ones. With a budget, after a quarter of it
// every second walk is guided (guides.ts): the guide chooses, and the outcome counts if no walk has ended in it before. Walks
// are compared by their choices alone, because after the same choices a recovery reads the same cell next; a recovery that
// does not is refused.
//
// The writes of the recovery itself overlay the disk and are never lost.
//
//   X1  A cell is decided once in a run, for one of the versions that the earlier decisions allow.

import { IoFailedError, invariant, WriteBarrierError } from '../../model/index.js';
import { concatBuffers, copyOf } from '../../storage/buffers.js';
import { rangeFault } from '../../storage/checks.js';
import type { Capabilities, Storage } from '../../storage/index.js';
import { type CellMap, possible, possibleAt } from './cells.js';
import { type Guide, guidesOf } from './guides.js';
import type { Version } from './versions.js';

/** The recovery is not deterministic, so its outcomes prove nothing. */
export class UnsteadyRecoveryError extends WriteBarrierError {
  override get name(): 'UnsteadyRecoveryError' {
    return 'UnsteadyRecoveryError';
  }

  constructor() {
    super(
      'INVALID_ARGUMENT',
      'the recovery is not deterministic: its reads differ from those of an earlier run on an equal disk',
    );
  }
}

/** The limits of an exploration. */
export interface ExploreOptions {
  /** The maximum number of recoveries. @defaultValue no limit */
  readonly recoveriesMax?: number;
  /** The user's name for the bytes at an offset: one strategy loses everything with the same name together. */
  label?(offset: number): string;
}

/** A power cut, decided as far as the recovery has read. */
export interface Crash {
  /** The disk for the recovery. It answers at once. */
  readonly disk: Storage;
  /** The versions that were read, by the index of their region; grows while the recovery reads. */
  readonly decided: ReadonlyMap<number, number>;
  /** The power was cut after this moment. */
  readonly after: number;
  /** The power was cut before this moment. What the host had acknowledged by then must be there. */
  readonly before: number;
  /** How many crash states this outcome covers, given the reads so far; 0 if an earlier crash covered them. */
  readonly images: bigint;
  /** The strategy that picked it: `depth first`, or the name of a guide. */
  readonly order: string;
}

/** A choice of a run: for which cell, among how many versions, and which one. */
interface Choice {
  readonly place: number;
  readonly of: number;
  chosen: number;
}

/** The share of the budget for the depth-first walk alone. */
const DEPTH_FIRST_SHARE = 1 / 4;

/** All outcomes that a recovery can tell apart, within the budget. */
export function* crashesOf(map: CellMap, options: ExploreOptions): Generator<Crash, void> {
  const { recoveriesMax = Number.POSITIVE_INFINITY } = options;
  const inOrder: Choice[] = [];
  const elsewhere = new Set<string>();
  const guides = guidesOf(map, options);
  for (let recoveries = 0; recoveries < recoveriesMax; recoveries++) {
    const guided = recoveries >= recoveriesMax * DEPTH_FIRST_SHARE && recoveries % 2 === 1;
    const guide: Guide = guided ? guides.next().value : DEPTH_FIRST;
    const path = guided ? [] : inOrder;
    const isKnown = (): boolean =>
      elsewhere.has(signatureOf(path)) || (guided && isBefore(path, inOrder));
    const run = new Run(map, path, guide, isKnown);
    yield run;
    run.end();
    if (guided) elsewhere.add(signatureOf(path));
    else if (!advance(inOrder)) return;
  }
}

const DEPTH_FIRST: Guide = { order: 'depth first', choose: () => 0 };

/** Moves on to the next path; false after the last one. */
function advance(path: Choice[]): boolean {
  for (let last = path.at(-1); last; last = path.at(-1)) {
    if (last.chosen + 1 < last.of) {
      last.chosen += 1;
      return true;
    }
    path.pop();
  }
  return false;
}

/** Whether the depth-first walk has had this path already; `next` is where it would continue. */
function isBefore(path: readonly Choice[], next: readonly Choice[]): boolean {
  for (const [i, choice] of path.entries()) {
    const other = next[i];
    if (!other) return false;
    if (choice.place !== other.place || choice.of !== other.of) throw new UnsteadyRecoveryError();
    if (choice.chosen !== other.chosen) return choice.chosen < other.chosen;
  }
  return false;
}

/** A short key, because there is one for each guided walk. */
function signatureOf(path: readonly Choice[]): string {
  return path.map(({ chosen }) => String.fromCodePoint(Math.min(chosen, 0xd7ff))).join('');
}

class Run implements Crash {
  readonly #map: CellMap;
  readonly #choices: Choice[];
  readonly #guide: Guide;
  readonly #isKnown: () => boolean;
  #position = 0;
  readonly decided = new Map<number, number>();
  after = Number.NEGATIVE_INFINITY;
  before = Number.POSITIVE_INFINITY;
  /** Nothing dispatched from here on can be visible. */
  #bound = Number.POSITIVE_INFINITY;
  readonly disk: SettledDisk;

  /** `choices`: the choices made in advance; the run appends its own. */
  constructor(map: CellMap, choices: Choice[], guide: Guide, isKnown: () => boolean) {
    this.#map = map;
    this.#choices = choices;
    this.#guide = guide;
    this.#isKnown = isKnown;
    this.disk = new SettledDisk(map, (place) => this.#decide(place));
  }

  get order(): string {
    return this.#guide.order;
  }

  get images(): bigint {
    if (this.#isKnown()) return 0n;
    return imagesWithin(this.#map, this.decided, this.after, this.#bound);
  }

  /** Ends the run: all reads of an earlier run on the same path must have been repeated. */
  end(): void {
    this.disk.end();
    if (this.#position < this.#choices.length) throw new UnsteadyRecoveryError();
  }

  #decide(place: number): number {
    const known = this.decided.get(place);
    if (known !== undefined) return known;
    const cell = this.#map.cells[place] as CellMap['cells'][number];
    const candidates = possible(cell, this.after, this.#bound);
    const version = candidates[this.#choose(place, candidates)];
    invariant(version !== undefined, 'explore.X1: the earlier decisions allow no version');
    const { after, ordered, durable } = cell.versions[version] as Version;
    this.decided.set(place, version);
    this.after = Math.max(this.after, after);
    this.#bound = Math.min(this.#bound, ordered);
    this.before = Math.min(this.before, durable);
    return version;
  }

  #choose(place: number, candidates: readonly number[]): number {
    const of = candidates.length;
    if (of === 1) return 0;
    const known = this.#choices[this.#position];
    if (known && (known.place !== place || known.of !== of)) throw new UnsteadyRecoveryError();
    const choice = known ?? { place, of, chosen: this.#guide.choose(place, candidates) };
    if (!known) this.#choices.push(choice);
    this.#position += 1;
    return choice.chosen;
  }
}

/** A disk with a version of each cell, which is asked for when it is read, overlaid by what was written since. */
export class SettledDisk implements Storage {
  readonly #map: CellMap;
  readonly #versionAt: (place: number) => number;
  readonly #overlay = new Map<number, Uint8Array>();
  #ended = false;
  readonly size: number;
  readonly capabilities: Capabilities;
  declare readonly writev?: (offset: number, list: readonly Uint8Array[]) => void;
  declare readonly discard?: (offset: number, length: number) => void;
  declare readonly writeZeroes?: (offset: number, length: number) => void;

  constructor(map: CellMap, versionAt: (place: number) => number) {
    this.#map = map;
    this.#versionAt = versionAt;
    this.size = map.size;
    this.capabilities = map.offers;
    const { writev, discard, writeZeroes } = map.offers;
    if (writev) this.writev = (offset, list) => this.write(offset, concatBuffers(list));
    const zeroed = (offset: number, length: number): void =>
      this.write(offset, new Uint8Array(length));
    if (discard) this.discard = zeroed;
    if (writeZeroes) this.writeZeroes = zeroed;
  }

  /** @throws `IO_FAILED` for a sector that cannot be read */
  read(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length);
    const { sectorSize } = this.#map;
    for (let at = 0; at < into.length; at += sectorSize) {
      into.set(this.#content((offset + at) / sectorSize), at);
    }
  }

  write(offset: number, data: Uint8Array): void {
    this.#check(offset, data.length);
    const { sectorSize } = this.#map;
    for (let at = 0; at < data.length; at += sectorSize) {
      this.#overlay.set((offset + at) / sectorSize, copyOf(data, at, at + sectorSize));
    }
  }

  flush(): void {
    this.#check(0, 0);
  }

  close(): void {}

  /** Refuses all later commands. */
  end(): void {
    this.#ended = true;
  }

  #content(sector: number): Uint8Array {
    const own = this.#overlay.get(sector);
    if (own) return own;
    const { places, cells, initial, sectorSize } = this.#map;
    const offset = sector * sectorSize;
    const place = places.get(sector);
    if (place === undefined) {
      if (this.#map.unreadable.has(offset)) throw unreadableAt(offset);
      return initial ? initial.subarray(offset, offset + sectorSize) : new Uint8Array(sectorSize);
    }
    const cell = cells[place] as CellMap['cells'][number];
    const { bytes, bad } = cell.versions[this.#versionAt(place)] as Version;
    if (bad.includes(offset - cell.offset)) throw unreadableAt(offset);
    return bytes.subarray(offset - cell.offset, offset - cell.offset + sectorSize);
  }

  #check(offset: number, length: number): void {
    if (this.#ended) throw new WriteBarrierError('CLOSED', 'the recovery on this disk has ended');
    const fault = rangeFault({ offset, length }, this.size, this.#map.sectorSize);
    if (fault && length !== 0) throw fault; // a length of undefined is that of what is no buffer
  }
}

function unreadableAt(offset: number): WriteBarrierError {
  return new IoFailedError(`simulated: offset ${offset} cannot be read`);
}

/**
 * How many crash states agree with the decisions: those of the whole space (crash-space.ts) with the decided cells fixed,
 * and without anything that was dispatched at `bound` or later.
 */
export function imagesWithin(
  map: CellMap,
  decided: ReadonlyMap<number, number>,
  after: number,
  bound: number,
): bigint {
  /** The number of versions of each free cell that are possible at the moment. */
  const choices = new Map<number, number>();
  const events: { readonly at: number; readonly place: number; readonly ends: boolean }[] = [];
  const isWithin = (at: number): boolean => at > after && at < bound;
  let product = 1n;
  for (const [place, cell] of map.cells.entries()) {
    if (decided.has(place)) continue;
    const of = possibleAt(cell, after).length;
    choices.set(place, of);
    product *= BigInt(of);
    for (const version of cell.versions) {
      if (isWithin(version.after)) events.push({ at: version.after, place, ends: false });
      if (isWithin(version.ordered)) events.push({ at: version.ordered, place, ends: true });
    }
  }
  let count = product;

  // At one moment versions end before others begin.
  events.sort((a, b) => a.at - b.at || Number(b.ends) - Number(a.ends) || a.place - b.place);
  for (const { place, ends } of events) {
    const of = choices.get(place) as number;
    product /= BigInt(of);
    if (!ends) count += product;
    choices.set(place, of + (ends ? -1 : 1));
    product *= BigInt(of + (ends ? -1 : 1));
  }
  return count;
}
