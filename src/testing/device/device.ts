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
//   D6  A resize has a unit for the size, and one for each sector between the two sizes that may hold anything but zeroes. Two
//       resizes keep their order, also on a racy device. What is forced to the medium behind its end takes the size there, too.
//
// What it may do next is kept up to date, because a host may have thousands of commands in flight. The work of a command is
// units: the atomic units of a write, or one unit for a flush or a read. A unit is ready when it waits for nothing:
//
//   I1  `waits` counts what a unit waits for: the admission of its command, and each sector on which it is not the first
//       of the queue. Strays, and all units of a racy device but sizes, are in no queue.
//   I2  A command is busy until it is done; a stray write is busy until its failure is answered. What is admitted (D2) stays
//       admitted. So two numbers that only grow are enough: that of the oldest busy command, and that of the first command
//       which has not been admitted. Stray writes that are answered before they are admitted are passed over (`#late`).
//   I3  An ordered command that is admitted and busy is the oldest busy one, because nothing older was busy when it was
//       admitted. So a command can be admitted if it is the oldest or older, or if neither it nor the oldest is ordered.
//
// The axioms (intervals.ts, versions.ts) say the same about traces. Neither is derived from the other, and a test compares
// them; they share only what a profile means. A device may lie: it then claims and ignores a flush, FUA or tags, or claims to
// have no cache.

import { invariant } from '../../model/error.js';
import { copyOf } from '../../storage/buffers.js';
import { isVolatile, keepsTags } from '../space/intervals.js';
import { discarded, noise, type Remains, spoiltBy, tornContents } from './corruption.js';
import {
  type Content,
  contentBefore,
  type DiskRequest,
  sizeAt,
  sizeBytes,
  sizeIn,
  type TracedFault,
} from './disk-trace.js';
import { enter, leave } from './pending.js';
import type { DeviceProfile } from './profile.js';

/** A step that the device may take next; `sector` is the first one of a command's unit. */
export type DeviceStep =
  | { readonly kind: 'land' | 'flush' | 'read'; readonly command: number; readonly sector: number }
  | { readonly kind: 'destage'; readonly sector: number };

/** A unit of work that is not done. */
interface Unit {
  readonly kind: 'land' | 'flush' | 'read';
  readonly command: number;
  readonly sector: number;
  /** How many sectors land; 0 for a flush or a read. */
  readonly count: number;
  /** I1; `OVER` when it has been done or given up. */
  waits: number;
  /** In `ready`. */
  place: number;
}

const OVER = -1;

/** What really happens to a command: the device itself carries out `stray`, `unserializable`, `rot` and `latent`. */
export type Fate = TracedFault['kind'];

interface Owned {
  readonly request: DiskRequest;
  readonly fate: Fate | undefined;
  /** By their first sectors. The command is done when there are none. */
  readonly pending: Map<number, Unit>;
  /** Its tag orders, because the device obeys tags. */
  readonly isOrdered: boolean;
  /** Of a stray write: the host has its answer. */
  answered: boolean;
}

/** The cached content of a sector, which can be destaged. */
interface Cached extends Remains {
  readonly kind: 'destage';
  readonly sector: number;
  /** In `dirty`. */
  place: number;
  /** The sectors of its unit, this one included; they share the set. */
  together: Set<number>;
  /** A flush ignores it, and destages the content below it. */
  readonly stubborn: boolean;
  below: Uint8Array | undefined;
}

/** A block device that takes one step at a time. */
export class Device {
  /** The steps of commands that it may take now, in no order. */
  readonly ready: Unit[] = [];
  /** The cached sectors, which a power cut would lose and which it may destage now, in no order. */
  readonly dirty: Cached[] = [];
  readonly #profile: DeviceProfile;
  /** The largest size so far, in bytes: everything behind it is zero. */
  #reach: number;
  /** Sectors that differ from what was there before. */
  readonly #medium = new Map<number, Remains>();
  readonly #cache = new Map<number, Cached>();
  /** Given up and still read, until the sector is written again. */
  readonly #stale = new Map<number, Remains>();
  readonly #before: Content;
  readonly #owned = new Map<number, Owned>();
  #next = 0;
  /** D1: for each sector the units that land there, from `head` on, in the order of their commands. */
  readonly #queues = new Map<number, { readonly units: Unit[]; head: number }>();
  /** I2: no command before it is busy. */
  #oldest = 0;
  /** I2: each command before it is admitted, done or late. */
  #unseen = 0;
  /** Stray writes that were answered before they could be admitted, so later commands do not wait for them. */
  readonly #late = new Set<number>();

  /** @param before what is on the medium, its size included; sectors that cannot be read can be when they are written. Zeroes by default */
  constructor(
    size: number,
    profile: DeviceProfile,
    before: Content = contentBefore({ size }, profile.sectorSize),
  ) {
    this.#reach = size;
    this.#profile = profile;
    this.#before = before;
  }

  /** Takes a command and returns its number, from 0. */
  dispatch(request: DiskRequest, fate?: Fate): number {
    const { op, offset, length, tag } = request;
    const { sectorSize, atomicWriteUnit: unit, sameLba } = this.#profile;
    const command = this.#next++;
    const pending = new Map<number, Unit>();
    const isOrdered = tag === 'ordered' && keepsTags(this.#profile);
    this.#owned.set(command, { request, fate, pending, isOrdered, answered: false });
    const add = (kind: Unit['kind'], at: number, bytes: number): void => {
      const sector = at / sectorSize;
      pending.set(sector, { kind, command, sector, count: bytes / sectorSize, waits: 1, place: 0 });
    };
    if (op === 'read' || op === 'flush') add(op, offset, 0);
    else {
      if (request.size !== undefined) add('land', sizeAt(sectorSize), sectorSize);
      const end = request.size === undefined ? offset + length : this.#reachedBy(request);
      const fits = Math.floor(offset / unit) === Math.floor((offset + length - 1) / unit);
      const step = fits && op === 'write' ? length : sectorSize;
      for (let at = offset; at < end; at += step) add('land', at, step);
    }
    for (const one of pending.values()) {
      if (fate !== 'stray' && (sameLba === 'fifo' || isSize(one))) this.#queue(one);
    }
    this.#admit();
    return command;
  }

  /** All steps that the device may take now. */
  steps(): DeviceStep[] {
    return [...this.ready, ...this.dirty];
  }

  take(step: DeviceStep): void {
    if (step.kind === 'destage') {
      this.#destage(step.sector);
      return;
    }
    const owned = this.#owned.get(step.command);
    const unit = owned?.pending.get(step.sector);
    invariant(owned !== undefined && unit?.waits === 0, 'device.I1: the unit waits, or is over');
    // Where a discard may be ignored, it is.
    const { op, size } = owned.request;
    const isAdvice = op === 'discard' && size === undefined;
    const isIgnored = isAdvice && this.#profile.discard === 'old-or-zero';
    if (step.kind === 'land' && !isIgnored) this.#land(owned, unit);
    if (step.kind === 'flush' && !this.#lies('ignoreFlush')) this.#flush();
    this.#end(owned, unit);
    this.#admit();
  }

  /** D3. A stray write is done before it has landed. */
  isDone(command: number): boolean {
    const owned = this.#owned.get(command);
    return owned !== undefined && (owned.pending.size === 0 || owned.fate === 'stray');
  }

  /** The host has the answer. The device forgets the command, except a stray write. */
  answered(command: number): void {
    const owned = this.#owned.get(command);
    if (owned && owned.pending.size > 0) owned.answered = true;
    else this.#owned.delete(command);
    this.#admit();
  }

  /** The command fails: units that have landed stay, the others never land. */
  fail(command: number): void {
    const owned = this.#owned.get(command);
    if (!owned) return;
    for (const unit of owned.pending.values()) this.#end(owned, unit);
    this.#admit();
  }

  /** D4: reads as the host does; false if a sector cannot be read. */
  read(offset: number, into: Uint8Array): boolean {
    const { sectorSize } = this.#profile;
    let isReadable = true;
    for (let at = 0; at < into.length; at += sectorSize) {
      const sector = (offset + at) / sectorSize;
      const found = this.#landed(sector);
      into.set(found.bytes, at);
      isReadable &&= found.readable;
    }
    return isReadable;
  }

  /** The medium after a power cut now; `tear` may replace the content of a sector that was on its way. */
  medium(tear?: (remains: readonly Remains[]) => Remains | undefined): Uint8Array {
    const torn = new Map<number, Remains>();
    const { sectorSize, tear: how } = this.#profile;
    for (const [sector, all] of tear ? this.#onTheirWay() : []) {
      const { bytes: below } = this.#onMedium(sector);
      const remains = tear?.(all.flatMap((above) => tornContents(how, below, above)));
      if (remains) torn.set(sector, remains);
    }
    const bytes = new Uint8Array(this.#sizeOnMedium);
    for (let at = 0; at < bytes.length; at += sectorSize) {
      const sector = at / sectorSize;
      bytes.set((torn.get(sector) ?? this.#onMedium(sector)).bytes, at);
    }
    return bytes;
  }

  /** The size that landed last, in bytes. */
  get size(): number {
    const { sectorSize } = this.#profile;
    return sizeIn((offset) => this.#landed(offset / sectorSize).bytes, sectorSize);
  }

  /** The open work as text: devices with the same trace and the same text continue alike. */
  get open(): string {
    const cached = [...this.#cache].map(([sector, { together }]) => `${sector}<${[...together]}`);
    const owned = [...this.#owned].map(([n, { pending }]) => `${n}:${[...pending.keys()]}`);
    // What is behind the end of the medium shows when the size there changes.
    const behind = [...this.#medium].filter(
      ([at]) => at * this.#profile.sectorSize >= this.#sizeOnMedium,
    );
    const hidden = behind.map(([sector, { bytes }]) => `${sector}=${bytes}`).sort();
    return [...owned, ...cached, ...hidden, this.size].join();
  }

  /** Gives up the cache, for faults. With `readable` the host still reads its content. */
  drop(readable: boolean): void {
    const kept = readable ? this.dirty : [];
    for (const { sector, bytes } of kept) this.#stale.set(sector, { bytes, readable: true });
    this.#cache.clear();
    this.dirty.length = 0;
  }

  /** Where the sectors of a resize end that may hold anything (D6). */
  #reachedBy({ offset, length }: DiskRequest): number {
    const end = Math.min(this.#reach, offset + length);
    this.#reach = Math.max(this.#reach, offset + length);
    return end;
  }

  /** D1. */
  #queue(unit: Unit): void {
    for (const sector of run(unit.sector, unit.count)) {
      const queue = this.#queues.get(sector);
      if (queue) {
        queue.units.push(unit);
        unit.waits += 1;
      } else this.#queues.set(sector, { units: [unit], head: 0 });
    }
  }

  /** A unit is done or given up: the next ones on its sectors need not wait for it. */
  #end({ pending }: Owned, unit: Unit): void {
    if (unit.waits === 0) leave(this.ready, unit);
    unit.waits = OVER;
    pending.delete(unit.sector);
    for (const sector of run(unit.sector, unit.count)) {
      const queue = this.#queues.get(sector);
      // The unit may be a stray, or not the first: then it is passed over later.
      if (!queue || queue.units[queue.head] !== unit) continue;
      while (queue.units[queue.head]?.waits === OVER) queue.head += 1;
      const next = queue.units[queue.head];
      if (next) this.#free(next);
      else this.#queues.delete(sector);
    }
  }

  /** I1: there is one thing less to wait for. */
  #free(unit: Unit): void {
    unit.waits -= 1;
    if (unit.waits === 0) enter(this.ready, unit);
  }

  /** I2: after a command has come, or may be busy no more. */
  #admit(): void {
    while (this.#oldest < this.#next && !this.#isBusy(this.#oldest)) this.#oldest += 1;
    for (const command of this.#late) if (this.#admitOne(command)) this.#late.delete(command);
    for (; this.#unseen < this.#next; this.#unseen += 1) {
      if (this.#admitOne(this.#unseen)) continue;
      if (this.#isBusy(this.#unseen)) return;
      if (this.#owned.get(this.#unseen)?.pending.size) this.#late.add(this.#unseen);
    }
  }

  /** D2, by I3. */
  #admitOne(command: number): boolean {
    const owned = this.#owned.get(command);
    const isOrdered = owned?.isOrdered || this.#owned.get(this.#oldest)?.isOrdered;
    if (isOrdered && this.#oldest < command) return false;
    for (const unit of owned?.pending.values() ?? []) this.#free(unit);
    return true;
  }

  #isBusy(command: number): boolean {
    const owned = this.#owned.get(command);
    return owned?.answered === false && (owned.fate === 'stray' || owned.pending.size > 0);
  }

  #flush(): void {
    for (const cached of [...this.dirty]) {
      const { sector, stubborn, below } = cached;
      if (!stubborn) this.#destage(sector);
      else if (below) {
        this.#medium.set(sector, { bytes: below, readable: true });
        cached.below = undefined;
      }
    }
  }

  #land({ request, fate }: Owned, { sector: first, count }: Unit): void {
    const { sectorSize } = this.#profile;
    const sectors = run(first, count);
    const stubborn = fate === 'unserializable';
    const forced = !isVolatile(this.#profile) || (request.fua && !this.#lies('ignoreFua'));
    for (const sector of sectors) this.#breakUp(sector);
    const together = new Set(sectors);
    for (const sector of sectors) {
      const bytes = this.#contentOf(request, fate, sector);
      const readable = fate !== 'latent' || sector * sectorSize !== request.offset;
      this.#stale.delete(sector);
      const before = this.#cache.get(sector);
      const below = stubborn ? (before?.stubborn ? before.below : before?.bytes) : undefined;
      if (before) leave(this.dirty, before);
      const state = { bytes, readable, together, stubborn, below };
      const cached: Cached = { kind: 'destage', sector, ...state, place: 0 };
      this.#cache.set(sector, cached);
      enter(this.dirty, cached);
    }
    if (!forced || stubborn) return;
    for (const sector of sectors) this.#destage(sector);
    this.#takeSize((first + count) * sectorSize);
  }

  /** D6. `end` of what is forced, in bytes. */
  #takeSize(end: number): void {
    const { sectorSize } = this.#profile;
    const place = sizeAt(sectorSize) / sectorSize;
    if (this.#cache.get(place)?.stubborn === false && this.#sizeOnMedium < end)
      this.#destage(place);
  }

  get #sizeOnMedium(): number {
    const { sectorSize } = this.#profile;
    return sizeIn((offset) => this.#onMedium(offset / sectorSize).bytes, sectorSize);
  }

  /** D5: a unit lands on this sector, so the cached unit of the sector is no longer whole. */
  #breakUp(sector: number): void {
    for (const other of this.#cache.get(sector)?.together ?? []) {
      (this.#cache.get(other) as Cached).together = new Set([other]);
    }
  }

  /** The content of one sector of a write. */
  #contentOf(request: DiskRequest, fate: Fate | undefined, sector: number): Uint8Array {
    const { sectorSize } = this.#profile;
    const { op, data, size } = request;
    if (sector < 0) return sizeBytes(size as number);
    const at = sector * sectorSize - request.offset;
    const isAdvice = op === 'discard' && size === undefined;
    const left = isAdvice ? discarded(this.#profile, sector * sectorSize) : undefined;
    const plain = left ?? (data ? copyOf(data, at, at + sectorSize) : new Uint8Array(sectorSize));
    return spoiltBy(at === 0 ? fate : undefined, plain, sectorSize, request.offset);
  }

  /** D5. */
  #destage(sector: number): void {
    const cached = this.#cache.get(sector);
    if (!cached) return;
    this.#cache.delete(sector);
    leave(this.dirty, cached);
    const { bytes, readable, together } = cached;
    this.#medium.set(sector, { bytes, readable });
    for (const other of together) this.#destage(other);
  }

  /** Contents that may be on their way to the medium, from the cache or from a command. */
  #onTheirWay(): Map<number, Uint8Array[]> {
    const found = new Map<number, Uint8Array[]>();
    const add = (sector: number, bytes: Uint8Array): void => {
      // A size is not torn.
      if (sector < 0) return;
      found.set(sector, [...(found.get(sector) ?? []), bytes]);
    };
    for (const { command, sector, count } of this.ready) {
      const { request, fate } = this.#owned.get(command) as Owned;
      if (count !== 1 || (isVolatile(this.#profile) && !request.fua)) continue;
      add(sector, this.#contentOf(request, fate, sector));
    }
    for (const { sector, bytes, together } of this.dirty) {
      if (together.size === 1) add(sector, bytes);
    }
    return found;
  }

  /** What the host reads. */
  #landed(sector: number): Remains {
    return this.#cache.get(sector) ?? this.#stale.get(sector) ?? this.#onMedium(sector);
  }

  /** What is on the medium; of what cannot be read, bytes that no write put there. */
  #onMedium(sector: number): Remains {
    const kept = this.#medium.get(sector);
    if (kept) return kept;
    const { sectorSize } = this.#profile;
    const bytes = this.#before(sector * sectorSize);
    const readable = bytes !== undefined;
    return { bytes: bytes ?? noise(sectorSize, sector * sectorSize), readable };
  }

  #lies(lie: DeviceProfile['lies'][number]): boolean {
    return this.#profile.lies.includes(lie);
  }
}

/** Whether the unit is the size of a resize. */
function isSize({ sector }: Unit): boolean {
  return sector < 0;
}

function run(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}
