// Every outcome of a recovery, by running it on disks that have not decided yet.
//
// A sector of such a disk is decided when it is read: each version that is still possible is a branch, and the run
// is repeated for each. All that a run has to remember is what it has decided and the window of time in which the
// power can have been cut (versions.ts). Every choice can be completed, so there are as many runs as the recovery
// can tell outcomes apart, and a sector that nobody reads is never split. Each run stands for a counted number of
// images; the runs of a whole exploration stand for all of them, none twice.
//
// The recovery's own writes go over the disk and are never in doubt.

import { WriteBarrierError } from '../model/index.js';
import { copyOf } from '../storage/bytes.js';
import { rangeFault } from '../storage/checks.js';
import type { Capabilities, Storage } from '../storage/index.js';
import {
  contentOfVersion,
  dispatchOfVersion,
  forcedAt,
  newestUntil,
  type Sector,
  type SectorMap,
} from './versions.js';

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

/** A choice that a run has made: among how many, and which. */
interface Choice {
  readonly place: number;
  readonly of: number;
  chosen: number;
}

/** One crash, as far as the recovery wants to know it. */
export interface Crash {
  /** What the recovery runs on. It answers at once. */
  readonly disk: Storage;
  /** The versions that were read, by the place of their sector; grows while the recovery reads. */
  readonly decided: ReadonlyMap<number, number>;
  /** The power was cut after this moment. */
  readonly after: number;
  /** The power was cut before this moment. What the host had acknowledged by then must be honoured. */
  readonly before: number;
  /** How many images this outcome stands for, as far as it has been read. */
  readonly images: bigint;
}

/** All crashes of the map, depth first; early power cuts come first. */
export function* crashesOf(map: SectorMap): Generator<Crash, void> {
  const choices: Choice[] = [];
  for (;;) {
    const run = new Run(map, choices);
    yield run;
    run.end();
    for (let last = choices.at(-1); last && last.chosen + 1 === last.of; last = choices.at(-1)) {
      choices.pop();
    }
    const last = choices.at(-1);
    if (!last) return;
    last.chosen += 1;
  }
}

class Run implements Crash {
  readonly #map: SectorMap;
  readonly #choices: Choice[];
  #position = 0;
  #ended = false;
  readonly #overlay = new Map<number, Uint8Array>();
  readonly decided = new Map<number, number>();
  after = Number.NEGATIVE_INFINITY;
  before = Number.POSITIVE_INFINITY;
  /** Nothing that is dispatched from here on can be visible. */
  #bound = Number.POSITIVE_INFINITY;
  readonly disk: Storage;

  constructor(map: SectorMap, choices: Choice[]) {
    this.#map = map;
    this.#choices = choices;
    this.disk = {
      size: map.size,
      capabilities: capabilitiesOf(map.sectorSize),
      read: (offset, into) => this.#read(offset, into),
      write: (offset, data) => this.#write(offset, data),
      writeZeroes: (offset, length) => this.#write(offset, new Uint8Array(length)),
      discard: (offset, length) => this.#write(offset, new Uint8Array(length)),
      flush: () => this.#checkOpen(),
      close: () => {},
    };
  }

  get images(): bigint {
    return imagesWithin(this.#map, this.decided, this.after, this.#bound);
  }

  /** No more reads; those that an earlier run made must have come again. */
  end(): void {
    this.#ended = true;
    if (this.#position < this.#choices.length) throw new UnsteadyRecoveryError();
  }

  #read(offset: number, into: Uint8Array): void {
    this.#checkOpen();
    this.#checkRange(offset, into.length);
    const { sectorSize } = this.#map;
    for (let at = 0; at < into.length; at += sectorSize) {
      into.set(this.#content((offset + at) / sectorSize), at);
    }
  }

  #write(offset: number, data: Uint8Array): void {
    this.#checkOpen();
    this.#checkRange(offset, data.length);
    const { sectorSize } = this.#map;
    for (let at = 0; at < data.length; at += sectorSize) {
      this.#overlay.set((offset + at) / sectorSize, copyOf(data, at, at + sectorSize));
    }
  }

  #content(sector: number): Uint8Array {
    const own = this.#overlay.get(sector);
    if (own) return own;
    const { places, sectors, initial, sectorSize } = this.#map;
    const place = places.get(sector);
    if (place === undefined) {
      const offset = sector * sectorSize;
      return initial ? initial.subarray(offset, offset + sectorSize) : new Uint8Array(sectorSize);
    }
    return contentOfVersion(sectors[place] as Sector, this.#decide(place));
  }

  #decide(place: number): number {
    const known = this.decided.get(place);
    if (known !== undefined) return known;
    const sector = this.#map.sectors[place] as Sector;
    const oldest = forcedAt(sector, this.after);
    const newest = newestUntil(sector, this.#bound, false);
    const version = oldest + this.#choose(place, newest - oldest + 1);
    this.decided.set(place, version);
    this.after = Math.max(this.after, dispatchOfVersion(sector, version));
    this.#bound = Math.min(this.#bound, sector.orderedFrom[version] as number);
    this.before = Math.min(this.before, sector.durableFrom[version] as number);
    return version;
  }

  #choose(place: number, of: number): number {
    if (of === 1) return 0;
    const known = this.#choices[this.#position];
    if (known && (known.place !== place || known.of !== of)) throw new UnsteadyRecoveryError();
    if (!known) this.#choices.push({ place, of, chosen: 0 });
    this.#position += 1;
    return known?.chosen ?? 0;
  }

  #checkOpen(): void {
    if (!this.#ended) return;
    throw new WriteBarrierError('CLOSED', 'the recovery on this disk has ended');
  }

  #checkRange(offset: number, length: number): void {
    const fault = rangeFault({ offset, length }, this.#map.size, this.#map.sectorSize);
    if (fault) throw fault;
  }
}

/**
 * How many images agree with what is decided: those of the whole space (crash-space.ts), with the decided sectors
 * fixed, and nothing visible that was dispatched at `bound` or later.
 */
export function imagesWithin(
  map: SectorMap,
  decided: ReadonlyMap<number, number>,
  after: number,
  bound: number,
): bigint {
  const free = map.sectors.filter((_, place) => !decided.has(place));
  const newest = free.map((sector) => newestUntil(sector, after, true));
  const forced = free.map((sector) => forcedAt(sector, after));
  const choices = (i: number): bigint => BigInt((newest[i] as number) - (forced[i] as number) + 1);
  let product = free.reduce((all, _, i) => all * choices(i), 1n);
  let count = product;

  const events = free.flatMap((sector, i) =>
    sector.versions.flatMap(({ interval }, index) => [
      { at: interval.dispatched, i, version: index + 1, forces: false },
      { at: interval.ordered, i, version: index + 1, forces: true },
    ]),
  );
  const within = events.filter(({ at }) => at > after && at < bound);
  // At one moment what is forced is forced before what is dispatched can be seen.
  within.sort(
    (a, b) =>
      a.at - b.at || Number(b.forces) - Number(a.forces) || a.i - b.i || a.version - b.version,
  );
  for (const { i, version, forces } of within) {
    const of = choices(i);
    if (!forces) count += product / of;
    product /= of;
    if (forces) forced[i] = Math.max(forced[i] as number, version);
    else newest[i] = version;
    product *= choices(i);
  }
  return count;
}

function capabilitiesOf(sectorSize: number): Capabilities {
  const able = { flush: true, fua: true, orderedTags: true, discard: true, writeZeroes: true };
  return { blockSize: sectorSize, cache: 'none', ...able };
}
