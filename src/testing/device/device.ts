// A block device, step by step: what it may do at any moment, and what a power cut leaves of it.
//
// The device owns the commands that were dispatched. It carries them out piece by piece, in steps that it picks
// itself: a piece of a write lands (in the cache, or on the medium where nothing is cached or the write has FUA), a
// sector is destaged from the cache to the medium, a flush puts the whole cache there, a read looks. Whoever drives
// it picks the steps: a seed (volatile-disk.ts), or a search through all of them (the tests). A piece is a sector, or
// all of a write that fits into an atomic unit.
//
// Rules:
//   D1  A piece lands only when every older command has landed on its sectors: same place, first in, first out. Not on
//       a racy device, where only tags keep that order.
//   D2  Of two commands that tags put in order the later one takes no step before the earlier one is done.
//   D3  A command may be answered when it is done.
//   D4  The host reads what has landed last; a power cut leaves the medium, and where the profile tears, of a sector that
//       was on its way there half of either, or worse.
//   D5  A piece reaches the medium as a whole, and with it all that it was written over.
//
// The axioms (intervals.ts, versions.ts) say the same about traces; neither is made from the other, and a test compares
// them. A device may lie: it then claims a flush, FUA or tags and passes over them, or claims to have no cache.

import { copyOf } from '../../storage/bytes.js';
import type { DiskRequest } from './disk-trace.js';
import type { DeviceProfile } from './profile.js';
import { type Remains, spoiltBy, tornContents } from './tear.js';

/** Something that the device may do next. */
export type DeviceStep =
  | { readonly kind: 'land'; readonly command: number; readonly sector: number }
  | { readonly kind: 'flush' | 'read'; readonly command: number }
  | { readonly kind: 'destage'; readonly sector: number };

/** What becomes of a write besides its being carried out; see `TracedFault`. */
export type Fate = 'stray' | 'unserializable' | 'rot' | 'latent';

interface Owned {
  readonly request: DiskRequest;
  readonly fate: Fate | undefined;
  /** Pieces that have not landed: the first sector of each, and how many there are. */
  readonly pending: Map<number, number>;
  done: boolean;
  /** Of a stray: the host has heard of it. */
  answered: boolean;
}

/** What a sector holds that is not on the medium. */
interface Cached {
  readonly bytes: Uint8Array;
  /** It cannot be read. */
  readonly bad: boolean;
  /** The sectors of all pieces that landed on it since it was on the medium. */
  readonly together: ReadonlySet<number>;
  /** A flush passes it over, and takes what was there below it. */
  readonly stubborn: boolean;
  readonly below: Uint8Array | undefined;
}

/** See the head of this file. */
export class Device {
  readonly #profile: DeviceProfile;
  readonly #size: number;
  /** What is not here is as it was at the start. */
  readonly #medium = new Map<number, Uint8Array>();
  readonly #cache = new Map<number, Cached>();
  /** What was given up and is still read, until the sector is written again. */
  readonly #stale = new Map<number, Uint8Array>();
  /** Sectors of the medium. */
  readonly #unreadable = new Set<number>();
  readonly #initial: Uint8Array | undefined;
  readonly #owned = new Map<number, Owned>();
  #next = 0;

  /** @param unreadable offsets of sectors that cannot be read until they are written */
  constructor(
    size: number,
    profile: DeviceProfile,
    initial?: Uint8Array,
    unreadable: readonly number[] = [],
  ) {
    this.#size = size;
    this.#profile = profile;
    this.#initial = initial;
    for (const offset of unreadable) this.#unreadable.add(offset / profile.sectorSize);
  }

  /** Takes a command; the answer is its number, from 0. */
  dispatch(request: DiskRequest, fate?: Fate): number {
    const pending = new Map<number, number>();
    if (request.op !== 'read' && request.op !== 'flush') {
      const { sectorSize, atomicWriteUnit: unit } = this.#profile;
      const { offset, length } = request;
      const fits = Math.floor(offset / unit) === Math.floor((offset + length - 1) / unit);
      const step = fits ? length : sectorSize;
      for (let at = offset; at < offset + length; at += step) {
        pending.set(at / sectorSize, step / sectorSize);
      }
    }
    // There is nothing to do for a write of no bytes.
    const isEmpty = request.op !== 'read' && request.op !== 'flush' && pending.size === 0;
    this.#owned.set(this.#next, { request, fate, pending, done: isEmpty, answered: false });
    return this.#next++;
  }

  /** Everything that the device may do now. */
  steps(): DeviceStep[] {
    const steps: DeviceStep[] = [];
    const claimed = new Set<number>();
    let fence = false;
    let busy = false;
    for (const [command, { request, fate, pending, done, answered }] of this.#owned) {
      const ordered = request.tag === 'ordered' && !this.#lies('ignoreTags');
      // D2: nothing behind an ordered command that is not done, and no ordered one behind anything that is not.
      const may = !fence && !(ordered && busy) && !done;
      if (fate === 'stray') {
        for (const sector of may ? pending.keys() : [])
          steps.push({ kind: 'land', command, sector });
        // Behind it things wait until its failure has been told.
        busy ||= !answered;
        fence ||= ordered && !answered;
        continue;
      }
      if (may) this.#stepsOf(command, request, pending, claimed, steps);
      if (this.#profile.sameLba === 'fifo') {
        for (const [first, count] of pending) {
          for (let sector = first; sector < first + count; sector++) claimed.add(sector);
        }
      }
      if (done) continue;
      busy = true;
      fence ||= ordered;
    }
    for (const sector of this.#cache.keys()) steps.push({ kind: 'destage', sector });
    return steps;
  }

  take(step: DeviceStep): void {
    if (step.kind === 'destage') {
      this.#destage(step.sector);
      return;
    }
    const owned = this.#owned.get(step.command) as Owned;
    if (step.kind === 'land') {
      this.#land(owned, step.sector);
      owned.pending.delete(step.sector);
      owned.done ||= owned.pending.size === 0;
      return;
    }
    if (step.kind === 'flush' && !this.#lies('ignoreFlush')) {
      for (const [sector, cached] of [...this.#cache]) {
        if (!cached.stubborn) this.#destage(sector);
        else if (cached.below) {
          this.#medium.set(sector, cached.below);
          this.#unreadable.delete(sector);
          this.#cache.set(sector, { ...cached, below: undefined });
        }
      }
    }
    owned.done = true;
  }

  /** D3. A stray is done before it has landed. */
  isDone(command: number): boolean {
    const owned = this.#owned.get(command);
    return owned !== undefined && (owned.done || owned.fate === 'stray');
  }

  /** The host has the answer; the device forgets the command, unless it strays. */
  answered(command: number): void {
    const owned = this.#owned.get(command);
    if (owned?.fate === 'stray' && owned.pending.size > 0) owned.answered = true;
    else this.#owned.delete(command);
  }

  /** The command fails: what has landed stays, what has not will not. */
  fail(command: number): void {
    const owned = this.#owned.get(command);
    owned?.pending.clear();
    if (owned) owned.done = true;
  }

  /** D4: what the host sees; false where a sector cannot be read. */
  read(offset: number, into: Uint8Array): boolean {
    this.#copy(
      offset,
      into,
      (sector) =>
        this.#cache.get(sector)?.bytes ?? this.#stale.get(sector) ?? this.#medium.get(sector),
    );
    const { sectorSize } = this.#profile;
    const sectors = run(offset / sectorSize, into.length / sectorSize);
    return !sectors.some((sector) => {
      const cached = this.#cache.get(sector);
      return cached ? cached.bad : !this.#stale.has(sector) && this.#unreadable.has(sector);
    });
  }

  /** What a power cut would leave now; `tear` may put something else into a sector that was on its way. */
  medium(tear?: (remains: readonly Remains[]) => Remains | undefined): Uint8Array {
    const torn = new Map<number, Uint8Array>();
    const { sectorSize, tear: how } = this.#profile;
    for (const [sector, all] of tear ? this.#onTheirWay() : []) {
      const below = new Uint8Array(sectorSize);
      this.#copy(sector * sectorSize, below, (at) => this.#medium.get(at));
      const remains = tear?.(all.flatMap((above) => tornContents(how, below, above)));
      if (remains) torn.set(sector, remains.bytes);
    }
    const bytes = new Uint8Array(this.#size);
    this.#copy(0, bytes, (sector) => torn.get(sector) ?? this.#medium.get(sector));
    return bytes;
  }

  /** Sectors that the host sees and a power cut would lose. */
  get dirty(): readonly number[] {
    return [...this.#cache.keys()];
  }

  /** What is still to be done, as text: two devices of the same trace that agree in it go on alike. */
  get open(): string {
    const cached = [...this.#cache].map(([sector, { together }]) => `${sector}<${[...together]}`);
    const owned = [...this.#owned].map(([n, { pending, done }]) => `${n}:${[...pending]}${done}`);
    return [...owned, ...cached].join();
  }

  /** Gives up what is cached: for faults. The host goes on reading it where `readable`. */
  drop(readable: boolean): void {
    if (readable) for (const [sector, { bytes }] of this.#cache) this.#stale.set(sector, bytes);
    this.#cache.clear();
  }

  #stepsOf(
    command: number,
    { op }: DiskRequest,
    pending: ReadonlyMap<number, number>,
    claimed: ReadonlySet<number>,
    steps: DeviceStep[],
  ): void {
    if (op === 'flush' || op === 'read') {
      steps.push({ kind: op, command });
      return;
    }
    for (const [sector, count] of pending) {
      let at = sector;
      while (at < sector + count && !claimed.has(at)) at++;
      if (at === sector + count) steps.push({ kind: 'land', command, sector }); // D1
    }
  }

  #land({ request, fate, pending }: Owned, first: number): void {
    const { sectorSize } = this.#profile;
    const sectors = run(first, pending.get(first) ?? 0);
    const stubborn = fate === 'unserializable';
    const forced = !this.#caches || (request.fua && !this.#lies('ignoreFua'));
    for (const sector of sectors) {
      const bytes = this.#contentOf(request, fate, sector);
      const bad = fate === 'latent' && sector * sectorSize === request.offset;
      this.#stale.delete(sector);
      const before = this.#cache.get(sector);
      const together = new Set([...(before?.together ?? []), ...sectors]);
      const below = stubborn ? (before?.stubborn ? before.below : before?.bytes) : undefined;
      this.#cache.set(sector, { bytes, bad, together, stubborn, below });
    }
    if (forced && !stubborn) for (const sector of sectors) this.#destage(sector);
  }

  /** What a write puts into one of its sectors. */
  #contentOf(request: DiskRequest, fate: Fate | undefined, sector: number): Uint8Array {
    const { sectorSize } = this.#profile;
    const at = sector * sectorSize - request.offset;
    const data = request.data ?? new Uint8Array(request.length);
    const plain = copyOf(data, at, at + sectorSize);
    return spoiltBy(at === 0 ? fate : undefined, plain, sectorSize, request.offset);
  }

  get #caches(): boolean {
    return this.#profile.cache === 'volatile' || this.#lies('claimWriteThrough');
  }

  /** D5. */
  #destage(sector: number): void {
    const cached = this.#cache.get(sector);
    if (!cached) return;
    this.#cache.delete(sector);
    this.#medium.set(sector, cached.bytes);
    if (cached.bad) this.#unreadable.add(sector);
    else this.#unreadable.delete(sector);
    for (const other of cached.together) this.#destage(other);
  }

  /** What may be on its way to the medium: out of the cache, or straight from a command. */
  #onTheirWay(): Map<number, Uint8Array[]> {
    const found = new Map<number, Uint8Array[]>();
    const add = (sector: number, bytes: Uint8Array): void => {
      found.set(sector, [...(found.get(sector) ?? []), bytes]);
    };
    for (const step of this.steps()) {
      if (step.kind !== 'land') continue;
      const { request, fate } = this.#owned.get(step.command) as Owned;
      if (this.#caches && !request.fua) continue;
      add(step.sector, this.#contentOf(request, fate, step.sector));
    }
    for (const [sector, { bytes }] of this.#cache) add(sector, bytes);
    return found;
  }

  #copy(
    offset: number,
    into: Uint8Array,
    content: (sector: number) => Uint8Array | undefined,
  ): void {
    const { sectorSize } = this.#profile;
    for (let at = 0; at < into.length; at += sectorSize) {
      const bytes = content((offset + at) / sectorSize);
      const initial = this.#initial?.subarray(offset + at, offset + at + sectorSize);
      if (bytes) into.set(bytes, at);
      else if (initial) into.set(initial, at);
      else into.fill(0, at, at + sectorSize);
    }
  }

  #lies(lie: DeviceProfile['lies'][number]): boolean {
    return this.#profile.lies.includes(lie);
  }
}

function run(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}
