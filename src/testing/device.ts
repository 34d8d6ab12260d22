// A block device, step by step: what it may do at any moment, and what a power cut leaves of it.
//
// The device owns the commands that were dispatched. It carries them out sector by sector, in steps that it picks
// itself: a sector of a write lands (in the cache, or on the medium where nothing is cached or the write has FUA), a
// sector is destaged from the cache to the medium, a flush puts the whole cache there, a read looks. Whoever drives
// it picks the steps: a seed (volatile-disk.ts), or a search through all of them (the tests).
//
// Rules:
//   D1  A sector lands only when every older command has landed on it: same place, first in, first out.
//   D2  Of two commands that tags put in order the later one takes no step before the earlier one is done.
//   D3  A command may be answered when it is done.
//   D4  The host reads what has landed last; a power cut leaves the medium.
//
// The axioms (intervals.ts) say the same about traces; neither is made from the other, and a test compares them.
// A device may lie: it then claims a flush, FUA or tags and passes over them.

import { copyOf } from '../storage/bytes.js';
import type { DiskRequest } from './disk-trace.js';
import type { DeviceProfile } from './profile.js';

/** Something that the device may do next. */
export type DeviceStep =
  | { readonly kind: 'land'; readonly command: number; readonly sector: number }
  | { readonly kind: 'flush' | 'read'; readonly command: number }
  | { readonly kind: 'destage'; readonly sector: number };

interface Owned {
  readonly request: DiskRequest;
  /** Sectors that have not landed; for a flush or a read, whether it is done. */
  readonly pending: Set<number>;
  done: boolean;
}

/** See the head of this file. */
export class Device {
  readonly #profile: DeviceProfile;
  readonly #size: number;
  /** What is not here is as it was at the start. */
  readonly #medium = new Map<number, Uint8Array>();
  readonly #cache = new Map<number, Uint8Array>();
  /** What was given up and is still read, until the sector is written again. */
  readonly #stale = new Map<number, Uint8Array>();
  readonly #initial: Uint8Array | undefined;
  readonly #owned = new Map<number, Owned>();
  #next = 0;

  constructor(size: number, profile: DeviceProfile, initial?: Uint8Array) {
    this.#size = size;
    this.#profile = profile;
    this.#initial = initial;
  }

  /** Takes a command; the answer is its number, from 0. */
  dispatch(request: DiskRequest): number {
    const pending = new Set<number>();
    if (request.op !== 'read' && request.op !== 'flush') {
      const unit = this.#profile.atomicWriteUnit;
      for (let at = 0; at < request.length; at += unit) pending.add((request.offset + at) / unit);
    }
    this.#owned.set(this.#next, { request, pending, done: false });
    return this.#next++;
  }

  /** Everything that the device may do now. */
  steps(): DeviceStep[] {
    const steps: DeviceStep[] = [];
    const claimed = new Set<number>();
    let fence = false;
    let busy = false;
    for (const [command, { request, pending, done }] of this.#owned) {
      const ordered = request.tag === 'ordered' && !this.#lies('ignoreTags');
      // D2: nothing behind an ordered command that is not done, and no ordered one behind anything that is not.
      const may = !fence && !(ordered && busy) && !done;
      if (may) this.#stepsOf(command, request, pending, claimed, steps);
      for (const sector of pending) claimed.add(sector);
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
      this.#land(owned.request, step.sector);
      owned.pending.delete(step.sector);
      owned.done = owned.pending.size === 0;
      return;
    }
    if (step.kind === 'flush' && !this.#lies('ignoreFlush')) {
      for (const sector of [...this.#cache.keys()]) this.#destage(sector);
    }
    owned.done = true;
  }

  /** D3. */
  isDone(command: number): boolean {
    return this.#owned.get(command)?.done ?? false;
  }

  /** The host has the answer; the device forgets the command. */
  answered(command: number): void {
    this.#owned.delete(command);
  }

  /** The command fails: what has landed stays, what has not will not. */
  fail(command: number): void {
    const owned = this.#owned.get(command);
    owned?.pending.clear();
    if (owned) owned.done = true;
  }

  /** D4: what the host sees. */
  read(offset: number, into: Uint8Array): void {
    this.#copy(
      offset,
      into,
      (sector) => this.#cache.get(sector) ?? this.#stale.get(sector) ?? this.#medium.get(sector),
    );
  }

  /** What a power cut would leave now. */
  medium(): Uint8Array {
    const bytes = new Uint8Array(this.#size);
    this.#copy(0, bytes, (sector) => this.#medium.get(sector));
    return bytes;
  }

  /** Sectors that the host sees and a power cut would lose. */
  get dirty(): readonly number[] {
    return [...this.#cache.keys()];
  }

  /** What is still to be done, as text: two devices of the same trace that agree in it go on alike. */
  get open(): string {
    return [...this.#owned].map(([n, { pending, done }]) => `${n}:${[...pending]}${done}`).join();
  }

  /** Gives up what is cached: for faults. The host goes on reading it where `readable`. */
  drop(readable: boolean): void {
    if (readable) for (const [sector, bytes] of this.#cache) this.#stale.set(sector, bytes);
    this.#cache.clear();
  }

  #stepsOf(
    command: number,
    { op }: DiskRequest,
    pending: ReadonlySet<number>,
    claimed: ReadonlySet<number>,
    steps: DeviceStep[],
  ): void {
    if (op === 'flush' || op === 'read') {
      steps.push({ kind: op, command });
      return;
    }
    for (const sector of pending) {
      if (!claimed.has(sector)) steps.push({ kind: 'land', command, sector }); // D1
    }
  }

  #land(request: DiskRequest, sector: number): void {
    const unit = this.#profile.atomicWriteUnit;
    const at = sector * unit - request.offset;
    const bytes = request.data ? copyOf(request.data, at, at + unit) : new Uint8Array(unit);
    const forced = request.fua && !this.#lies('ignoreFua');
    this.#stale.delete(sector);
    if (this.#profile.cache === 'volatile' && !forced) {
      this.#cache.set(sector, bytes);
      return;
    }
    this.#cache.delete(sector);
    this.#medium.set(sector, bytes);
  }

  #destage(sector: number): void {
    const bytes = this.#cache.get(sector);
    if (!bytes) return;
    this.#cache.delete(sector);
    this.#medium.set(sector, bytes);
  }

  #copy(
    offset: number,
    into: Uint8Array,
    content: (sector: number) => Uint8Array | undefined,
  ): void {
    const unit = this.#profile.atomicWriteUnit;
    for (let at = 0; at < into.length; ) {
      const sector = Math.floor((offset + at) / unit);
      const skip = offset + at - sector * unit;
      const length = Math.min(unit - skip, into.length - at);
      const bytes = content(sector);
      const initial = this.#initial?.subarray(offset + at, offset + at + length);
      if (bytes) into.set(bytes.subarray(skip, skip + length), at);
      else if (initial) into.set(initial, at);
      else into.fill(0, at, at + length);
      at += length;
    }
  }

  #lies(lie: DeviceProfile['lies'][number]): boolean {
    return this.#profile.lies.includes(lie);
  }
}
