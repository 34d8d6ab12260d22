// A block device, step by step: what it may do at any moment, and what a power cut leaves of it.
//
// The device owns the dispatched commands and carries them out in steps. An atomic unit of a write lands (in the cache, or
// on the medium if nothing is cached or the write has FUA); a sector is destaged from the cache to the medium; a flush
// destages the whole cache; a read copies. The caller picks the steps: by a seed (volatile-disk.ts), or all of them in turn
// (the tests). A write that fits into the profile's atomic write unit is one atomic unit; otherwise each of its sectors is
// one. Discards and zeroes are carried out by sectors, because no standard promises more.
//
// Rules:
//   D1  A unit lands only after every older command has landed on its sectors: in the same place, first in, first out. On a
//       racy device only tags keep that order.
//   D2  Of two commands that tags order, the later one takes no step before the earlier one is done.
//   D3  A command may be answered when it is done.
//   D4  The host reads what landed last. A power cut leaves the medium; if the profile tears, a sector on its way to the
//       medium may be left half old and half new, or worse, unless it is a part of a larger unit.
//   D5  A unit reaches the medium as a whole, also from the cache, until a later unit lands on a part of it in the cache:
//       then the rest of it is single sectors. The older content below a unit need not reach the medium with it.
//
// The axioms (intervals.ts, versions.ts) say the same about traces. Neither is derived from the other, and a test compares
// them. A device may lie: it then claims and ignores a flush, FUA or tags, or claims to have no cache.

import { invariant } from '../../model/error.js';
import { copyOf } from '../../storage/buffers.js';
import { noise, type Remains, spoiltBy, tornContents } from './corruption.js';
import { type Content, contentBefore, type DiskRequest } from './disk-trace.js';
import type { DeviceProfile } from './profile.js';

/** A step that the device may take next. */
export type DeviceStep =
  | { readonly kind: 'land'; readonly command: number; readonly sector: number }
  | { readonly kind: 'flush' | 'read'; readonly command: number }
  | { readonly kind: 'destage'; readonly sector: number };

/** A fault of a write that the device carries out; see `DiskCommand.fault`. */
export type Fate = 'stray' | 'unserializable' | 'rot' | 'latent';

interface Owned {
  readonly request: DiskRequest;
  readonly fate: Fate | undefined;
  /** Units that have not landed: the first sector of each, and its number of sectors. */
  readonly pending: Map<number, number>;
  done: boolean;
  /** Of a stray write: the host has its answer. */
  answered: boolean;
}

/** The cached content of a sector. */
interface Cached {
  readonly bytes: Uint8Array;
  /** It cannot be read. */
  readonly bad: boolean;
  /** The sectors of its unit, this one included; they share the set. */
  readonly together: Set<number>;
  /** A flush ignores it, and destages the content below it. */
  readonly stubborn: boolean;
  readonly below: Uint8Array | undefined;
}

/** A block device that takes one step at a time. */
export class Device {
  readonly #profile: DeviceProfile;
  readonly #size: number;
  /** Sectors that differ from what was there before. */
  readonly #medium = new Map<number, Uint8Array>();
  readonly #cache = new Map<number, Cached>();
  /** Given up and still read, until the sector is written again. */
  readonly #stale = new Map<number, Uint8Array>();
  /** Sectors of the medium. */
  readonly #unreadable = new Set<number>();
  readonly #before: Content;
  readonly #owned = new Map<number, Owned>();
  #next = 0;

  /** @param before what is on the medium; sectors that cannot be read can be when they are written. Zeroes by default */
  constructor(
    size: number,
    profile: DeviceProfile,
    before: Content = contentBefore(undefined, [], profile.sectorSize),
  ) {
    this.#size = size;
    this.#profile = profile;
    this.#before = before;
  }

  /** Takes a command and returns its number, from 0. */
  dispatch(request: DiskRequest, fate?: Fate): number {
    const pending = new Map<number, number>();
    if (request.op !== 'read' && request.op !== 'flush') {
      const { sectorSize, atomicWriteUnit: unit } = this.#profile;
      const { offset, length } = request;
      const fits = Math.floor(offset / unit) === Math.floor((offset + length - 1) / unit);
      const step = fits && request.op === 'write' ? length : sectorSize;
      for (let at = offset; at < offset + length; at += step) {
        pending.set(at / sectorSize, step / sectorSize);
      }
    }
    // A write of no bytes is done at once.
    const isEmpty = request.op !== 'read' && request.op !== 'flush' && pending.size === 0;
    this.#owned.set(this.#next, { request, fate, pending, done: isEmpty, answered: false });
    return this.#next++;
  }

  /** All steps that the device may take now. */
  steps(): DeviceStep[] {
    const steps: DeviceStep[] = [];
    const claimed = new Set<number>();
    let fence = false;
    let busy = false;
    for (const [command, { request, fate, pending, done, answered }] of this.#owned) {
      const ordered =
        request.tag === 'ordered' && this.#profile.orderedTags && !this.#lies('ignoreTags');
      // D2: no step after an ordered command that is not done, and no ordered one after any that is not done.
      const may = !fence && !(ordered && busy) && !done;
      if (fate === 'stray') {
        for (const sector of may ? pending.keys() : [])
          steps.push({ kind: 'land', command, sector });
        // Later commands wait for it until its failure has been answered.
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
    const owned = this.#owned.get(step.command);
    invariant(owned !== undefined, 'device.D3: an answered command takes no step');
    if (step.kind === 'land') {
      invariant(owned.pending.has(step.sector), 'device.D1: the unit has landed already');
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

  /** D3. A stray write is done before it has landed. */
  isDone(command: number): boolean {
    const owned = this.#owned.get(command);
    return owned !== undefined && (owned.done || owned.fate === 'stray');
  }

  /** The host has the answer. The device forgets the command, except a stray write. */
  answered(command: number): void {
    const owned = this.#owned.get(command);
    if (owned?.fate === 'stray' && owned.pending.size > 0) owned.answered = true;
    else this.#owned.delete(command);
  }

  /** The command fails: units that have landed stay, the others never land. */
  fail(command: number): void {
    const owned = this.#owned.get(command);
    owned?.pending.clear();
    if (owned) owned.done = true;
  }

  /** D4: reads as the host does; false if a sector cannot be read. */
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
      if (cached) return cached.bad;
      if (this.#stale.has(sector)) return false;
      if (this.#medium.has(sector)) return this.#unreadable.has(sector);
      return this.#before(sector * sectorSize) === undefined;
    });
  }

  /** The medium after a power cut now; `tear` may replace the content of a sector that was on its way. */
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

  /** Cached sectors, which a power cut would lose. */
  get dirty(): readonly number[] {
    return [...this.#cache.keys()];
  }

  /** The open work as text: devices with the same trace and the same text continue alike. */
  get open(): string {
    const cached = [...this.#cache].map(([sector, { together }]) => `${sector}<${[...together]}`);
    const owned = [...this.#owned].map(([n, { pending, done }]) => `${n}:${[...pending]}${done}`);
    return [...owned, ...cached].join();
  }

  /** Gives up the cache, for faults. With `readable` the host still reads its content. */
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
    for (const sector of sectors) this.#breakUp(sector);
    const together = new Set(sectors);
    for (const sector of sectors) {
      const bytes = this.#contentOf(request, fate, sector);
      const bad = fate === 'latent' && sector * sectorSize === request.offset;
      this.#stale.delete(sector);
      const before = this.#cache.get(sector);
      const below = stubborn ? (before?.stubborn ? before.below : before?.bytes) : undefined;
      this.#cache.set(sector, { bytes, bad, together, stubborn, below });
    }
    if (forced && !stubborn) for (const sector of sectors) this.#destage(sector);
  }

  /** D5: a unit lands on this sector, so the cached unit of the sector is no longer whole. */
  #breakUp(sector: number): void {
    for (const other of this.#cache.get(sector)?.together ?? []) {
      const cached = this.#cache.get(other) as Cached;
      this.#cache.set(other, { ...cached, together: new Set([other]) });
    }
  }

  /** The content of one sector of a write. */
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

  /** Contents that may be on their way to the medium, from the cache or from a command. */
  #onTheirWay(): Map<number, Uint8Array[]> {
    const found = new Map<number, Uint8Array[]>();
    const add = (sector: number, bytes: Uint8Array): void => {
      found.set(sector, [...(found.get(sector) ?? []), bytes]);
    };
    for (const step of this.steps()) {
      if (step.kind !== 'land') continue;
      const { request, fate, pending } = this.#owned.get(step.command) as Owned;
      if (this.#caches && !request.fua) continue;
      if (pending.get(step.sector) === 1)
        add(step.sector, this.#contentOf(request, fate, step.sector));
    }
    for (const [sector, { bytes, together }] of this.#cache) {
      if (together.size === 1) add(sector, bytes);
    }
    return found;
  }

  #copy(
    offset: number,
    into: Uint8Array,
    content: (sector: number) => Uint8Array | undefined,
  ): void {
    const { sectorSize } = this.#profile;
    for (let at = 0; at < into.length; at += sectorSize) {
      const bytes = content((offset + at) / sectorSize) ?? this.#before(offset + at);
      into.set(bytes ?? noise(sectorSize, offset + at), at);
    }
  }

  #lies(lie: DeviceProfile['lies'][number]): boolean {
    return this.#profile.lies.includes(lie);
  }
}

function run(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}
