// The outcomes of a power cut that a recovery can tell apart.
//
// The recovery runs on a disk that has not decided: each cell takes one of its versions when it is read for the first
// time, and not before. What was chosen so far narrows the span of time in which the power can have been cut
// (cells.ts). Every choice can be completed, so there are as many runs as the recovery can tell outcomes apart, and a
// cell that nobody reads is never split. Each run stands for a counted number of images; the runs of a whole exploration
// stand for all of them, none twice.
//
// The choices are a tree. It is walked depth first, early power cuts before late ones. Where a budget is given and a
// quarter of it does not do, every second walk from there on is guided (guides.ts): a guide says what to choose, and the
// outcome counts unless a walk has ended in it before. Walks are compared by their choices alone, since after the same
// choices a recovery asks for the same cell next; one that does not is found out.
//
// The recovery's own writes go over the disk and are never in doubt.

import { WriteBarrierError } from '../../model/index.js';
import { copyOf } from '../../storage/bytes.js';
import { rangeFault } from '../../storage/checks.js';
import type { Capabilities, Storage } from '../../storage/index.js';
import { type CellMap, possible, possibleAt } from './cells.js';
import { type Guide, guidesOf } from './guides.js';
import type { Version } from './versions.js';

/** Two runs on the same disk read otherwise: what they came to says nothing. */
export class UnsteadyRecoveryError extends WriteBarrierError {
  override readonly name = 'UnsteadyRecoveryError';

  constructor() {
    super(
      'INVALID_ARGUMENT',
      'the recovery is not deterministic: it reads otherwise than in an earlier run on the same disk',
    );
  }
}

/** How much of the tree is explored. */
export interface ExploreOptions {
  /** Recoveries at the most; all that there are unless given. */
  readonly recoveriesMax?: number;
  /** What a user calls the bytes from this offset on: all that has one name is lost together in one of the orders. */
  label?(offset: number): string;
}

/** One crash, as far as the recovery wants to know it. */
export interface Crash {
  /** What the recovery runs on. It answers at once. */
  readonly disk: Storage;
  /** The versions that were read, by the place of their cell; grows while the recovery reads. */
  readonly decided: ReadonlyMap<number, number>;
  /** The power was cut after this moment. */
  readonly after: number;
  /** The power was cut before this moment. What the host had acknowledged by then must be honoured. */
  readonly before: number;
  /** How many images this outcome stands for, as far as it has been read; 0 where an earlier crash stood for them. */
  readonly images: bigint;
  /** What it was picked by: `depth first`, or the name of a guide. */
  readonly order: string;
}

/** A choice that a run has made: of which cell, among how many versions, and which. */
interface Choice {
  readonly place: number;
  readonly of: number;
  chosen: number;
}

/** What of the budget is spent before the first guide is asked. */
const DEPTH_FIRST_SHARE = 1 / 4;

/** See the head of this file. */
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

/** Goes on to the next path; false when that was the last one. */
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

/** Whether the walk in order has been there already; `next` is where it would have gone on. */
function isBefore(path: readonly Choice[], next: readonly Choice[]): boolean {
  for (const [i, choice] of path.entries()) {
    const other = next[i];
    if (!other) return false;
    if (choice.place !== other.place || choice.of !== other.of) throw new UnsteadyRecoveryError();
    if (choice.chosen !== other.chosen) return choice.chosen < other.chosen;
  }
  return false;
}

/** Short: there is one for each guided walk. */
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
  /** Nothing that is dispatched from here on can be visible. */
  #bound = Number.POSITIVE_INFINITY;
  readonly disk: SettledDisk;

  /** `choices`: those that are made already, and where all are kept. */
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

  /** No more reads; those that an earlier run made must have come again. */
  end(): void {
    this.disk.end();
    if (this.#position < this.#choices.length) throw new UnsteadyRecoveryError();
  }

  #decide(place: number): number {
    const known = this.decided.get(place);
    if (known !== undefined) return known;
    const cell = this.#map.cells[place] as CellMap['cells'][number];
    const candidates = possible(cell, this.after, this.#bound);
    const version = candidates[this.#choose(place, candidates)] as number;
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

/** A disk that holds a version of each cell, asked for when it is read, and over it what was written since. */
export class SettledDisk implements Storage {
  readonly #map: CellMap;
  readonly #versionAt: (place: number) => number;
  readonly #overlay = new Map<number, Uint8Array>();
  #ended = false;
  readonly size: number;
  readonly capabilities: Capabilities;

  constructor(map: CellMap, versionAt: (place: number) => number) {
    this.#map = map;
    this.#versionAt = versionAt;
    this.size = map.size;
    const able = { discard: true, writeZeroes: true };
    this.capabilities = { blockSize: map.sectorSize, cache: 'none', ...map.offers, ...able };
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

  writeZeroes(offset: number, length: number): void {
    this.write(offset, new Uint8Array(length));
  }

  discard(offset: number, length: number): void {
    this.write(offset, new Uint8Array(length));
  }

  flush(): void {
    this.#check(0, 0);
  }

  close(): void {}

  /** Nobody may use it from now on. */
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
    if (fault && length > 0) throw fault;
  }
}

function unreadableAt(offset: number): WriteBarrierError {
  return new WriteBarrierError('IO_FAILED', `simulated: offset ${offset} cannot be read`);
}

/**
 * How many images agree with what is decided: those of the whole space (crash-space.ts), with the decided cells
 * fixed, and nothing visible that was dispatched at `bound` or later.
 */
export function imagesWithin(
  map: CellMap,
  decided: ReadonlyMap<number, number>,
  after: number,
  bound: number,
): bigint {
  const free = map.cells.filter((_, place) => !decided.has(place));
  /** How many versions each free cell has, of those that are there at the moment. */
  const choices = free.map((cell) => BigInt(possibleAt(cell, after).length));
  let product = choices.reduce((all, of) => all * of, 1n);
  let count = product;

  const events = free.flatMap(({ versions }, i) =>
    versions.flatMap((version) => [
      { at: version.after, i, ends: false },
      { at: version.ordered, i, ends: true },
    ]),
  );
  const within = events.filter(({ at }) => at > after && at < bound);
  // At one moment what can be there no more ends before what comes begins.
  within.sort((a, b) => a.at - b.at || Number(b.ends) - Number(a.ends) || a.i - b.i);
  for (const { i, ends } of within) {
    const of = choices[i] as bigint;
    product /= of;
    if (!ends) count += product;
    choices[i] = of + (ends ? -1n : 1n);
    product *= choices[i] as bigint;
  }
  return count;
}
