// A simulated disk for tests: a Storage with a cache that a power cut empties, and a record of all that it did.
//
// What a device may do is in device.ts. This file picks the steps by a seed, so the same host with the same seed sees the
// same disk. The disk destages only while a command waits for its answer: an idle disk changes nothing.
//
// The disk acts at two kinds of moments: when it is called, and when the host rests (host-rest.ts), which is when only an
// answer can make the host continue. So the number of awaits between two actions of a host makes no difference: a slow
// disk answers after all of them, a fast one before the first. The seed says how slow the disk is (disk-options.ts).
//
// Time is virtual. The seed draws the duration of each command, and answers come when they are due. A command that tags
// order after another one is answered when it is done. The clock advances only when an answer is due or a sleeper wakes;
// what the host does in between takes no time.
//
// The crash space is made from the trace of the disk. `powerCut` leaves one of the crash states of that space.
//
//   V1  A command is answered once, and only when the device has carried it out, failed it or given it up.
//   V2  After a power cut nothing reaches the medium, and the medium that `powerCut` returned never changes.

import {
  IoFailedError,
  invalid,
  invariant,
  type Observer,
  type Operation,
  resizeOf,
  unsupported,
  WriteBarrierError,
} from '../../model/index.js';
import { withText } from '../../model/show.js';
import { concatBuffers, copyOf } from '../../storage/buffers.js';
import { checkRange } from '../../storage/checks.js';
import type { Capabilities, FlushFlags, Storage, WriteFlags } from '../../storage/index.js';
import { wrap } from '../../storage/wrappers.js';
import { type Random, seededRandom } from '../choices.js';
import { CallSites } from './call-site.js';
import { flipBit } from './corruption.js';
import { Device, type DeviceStep } from './device.js';
import { type DiskFault, effectOf } from './disk-faults.js';
import {
  checkDiskSize,
  checkedProfile,
  IN_TIME,
  LATENCY_US,
  PASSED_MAX,
  type Pace,
  paceOf,
  type VolatileDiskOptions,
} from './disk-options.js';
import { contentBefore, DiskRecorder, type DiskRequest, type DiskTrace } from './disk-trace.js';
import { HostRest } from './host-rest.js';
import {
  type Answer,
  type Answers,
  melded,
  type Pending,
  PLAIN,
  powerCut,
  type Sleeper,
  UNHEARD,
  withoutFirst,
} from './pending.js';
import { capabilitiesOf, type DeviceProfile } from './profile.js';

/**
 * A simulated disk for tests: a storage with a cache that a power cut empties, and with a trace of all commands.
 *
 * The same host with the same seed sees the same disk.
 */
export class VolatileDisk implements Storage {
  /** What the profile claims. */
  readonly capabilities: Capabilities;
  /** What the device really is. */
  readonly profile: DeviceProfile;
  /** Present if and only if the profile has `writev`. Errors as for `read`. */
  declare readonly writev?: (
    offset: number,
    list: readonly Uint8Array[],
    flags: WriteFlags,
  ) => void | Promise<void>;
  /** Present if and only if the profile takes discards. Errors as for `read`. */
  declare readonly discard?: NonNullable<Storage['discard']>;
  /** Present if and only if the profile has `writeZeroes`. Errors as for `read`. */
  declare readonly writeZeroes?: NonNullable<Storage['writeZeroes']>;
  /**
   * Changes the size, in bytes, whole sectors. Present if and only if the profile has `resize`. Errors as for `read`;
   * `INVALID_ARGUMENT`, `UNALIGNED` for a size that no disk has, `NO_SPACE` above 2^32.
   */
  declare readonly resize?: (size: number) => void | Promise<void>;
  /** When the host rested: see host-rest.ts. @internal */
  readonly rest: HostRest;
  /** For the crash kit: when it answers, which differs between a recovery and the work after it. @internal */
  pace: Pace;
  readonly #answersAtOnce: boolean;
  readonly #device: Device;
  readonly #recorder: DiskRecorder;
  readonly #random: Random;
  readonly #faults: ReadonlyMap<string, DiskFault>;
  readonly #counts = new Map<Operation, number>();
  readonly #unreadable: readonly number[];
  readonly #latencyUs: readonly [number, number];
  readonly #pending = new Map<number, Pending>();
  #size: number;
  /** The pending commands in the order of their answers, and those that have been answered out of order. */
  #order: Pending | undefined;
  #sleepers: Sleeper | undefined;
  #sleeps = 0;
  readonly #sites = new CallSites();
  #nowUs = 0;
  /** The medium after the power cut. */
  #left: Uint8Array | undefined;
  /** How many commands it has answered. */
  #answers = 0;
  /** Who calls: the disk itself, or one of its openers. */
  #opener: object = this;
  #failsNextFlush = false;
  /** The next flush of any other opener fails. */
  #owedBy: object | undefined;
  #broken = false;
  #state: 'on' | 'closed' | 'off' | 'abandoned' = 'on';

  /**
   * @param options see `VolatileDiskOptions`
   * @param before for the crash kit: a medium of that size that is decided when it is read
   * @throws `INVALID_ARGUMENT` for options out of range, and for two faults at one command
   */
  constructor(options: VolatileDiskOptions, before?: (offset: number) => Uint8Array | undefined) {
    this.profile = checkedProfile(options);
    const { size, initial, seed = 0, faults = [], answers = 'later', patient = false } = options;
    this.#latencyUs = options.latencyUs ?? LATENCY_US;
    // The device aborts together what a host sends together, so it answers nothing before all of it has come.
    const isInTime = options.latencyUs !== undefined || this.profile.onTagError === 'abort-queue';
    this.pace = isInTime ? IN_TIME : paceOf(seed);
    this.rest = new HostRest(this.pace.timersMs, patient);
    this.#size = size;
    this.capabilities = capabilitiesOf(this.profile);
    const medium = initial && copyOf(initial);
    this.#unreadable = [...(options.unreadable ?? [])];
    const { sectorSize } = this.profile;
    const first = { size, ...(medium && { initial: medium }), unreadable: this.#unreadable };
    const content = before ?? contentBefore(first, sectorSize);
    this.#device = new Device(size, this.profile, content);
    this.#recorder = new DiskRecorder(size, medium);
    this.#random = seededRandom(seed);
    this.#faults = new Map(faults.map((fault) => [`${fault.on} ${fault.nth}`, fault]));
    this.#answersAtOnce = answers === 'at-once';
    const { writev, discard, writeZeroes, resize } = this.capabilities;
    const bare = (op: 'discard' | 'writeZeroes') => (offset: number, length: number) =>
      this.#command({ op, offset, length, ...PLAIN });
    if (writev) this.writev = (at, list, flags) => this.#write(at, concatBuffers(list), flags);
    if (discard) this.discard = bare('discard');
    if (writeZeroes) this.writeZeroes = bare('writeZeroes');
    if (resize) this.resize = (to) => this.#resize(to);
  }

  /** The size in bytes: that of the last resize that was answered. */
  get size(): number {
    return this.#size;
  }

  /** All commands and answers so far: the input of `crashSpace`. */
  get trace(): DiskTrace {
    const { trace } = this.#recorder;
    return this.#unreadable.length > 0 ? { ...trace, unreadable: this.#unreadable } : trace;
  }

  /** The virtual time in microseconds since the disk was made. */
  get nowUs(): number {
    return this.#nowUs;
  }

  /**
   * Waits in virtual time, for hosts with timeouts. Rejects with `POWER_CUT`, and with `INVALID_ARGUMENT` for a duration
   * that is negative or not finite.
   */
  sleep(durationUs: number): Promise<void> {
    if (this.#state === 'abandoned') return new Promise<void>(() => {});
    if (this.#state === 'off') return Promise.reject(powerCut());
    if (!(durationUs >= 0 && durationUs < Number.POSITIVE_INFINITY)) {
      return Promise.reject(invalid('durationUs', 'finite and at least 0', durationUs));
    }
    this.rest.called();
    return new Promise((resolve, reject) => {
      const dueUs = this.#nowUs + durationUs;
      const sleeper = { key: dueUs, nth: this.#sleeps++, resolve, reject };
      this.#sleepers = melded(this.#sleepers, sleeper);
      this.rest.wait(this.#goOn);
    });
  }

  /** A second opener of the same disk, like another process: some faults are reported to one opener only. */
  opener(): Storage {
    const opener = {};
    const opened = wrap(this, (_, run) => {
      this.#opener = opener;
      try {
        return run();
      } finally {
        this.#opener = this;
      }
    });
    return Object.defineProperty(opened, 'close', { value: () => {} });
  }

  /**
   * An observer for a scheduler on this disk. With it a report names the call of yours that a command came from, also
   * for commands that were queued.
   */
  get observer(): Observer {
    return this.#sites.observer;
  }

  /**
   * The call that a command of the trace came from, and the call around it, as `name (file:line), from name (file:line)`;
   * undefined where they are unknown.
   */
  siteOf(command: number): string | undefined {
    return this.#sites.describe(command);
  }

  /** The calls that the commands came from. @internal */
  get sites(): CallSites {
    return this.#sites;
  }

  /** Adds a mark to the trace: something that the host knows at this moment. */
  mark(value: unknown): void {
    this.rest.called();
    this.#recorder.mark(value);
  }

  /** The faults that have not happened, because their commands have not come. @internal */
  get faultsToCome(): readonly DiskFault[] {
    return [...this.#faults.values()].filter(({ on, nth }) => (this.#counts.get(on) ?? 0) <= nth);
  }

  /** How many commands it has received. @internal */
  get commandCount(): number {
    return this.#sites.count;
  }

  /** The numbers of the commands that are not answered yet. @internal */
  get unanswered(): readonly number[] {
    return [...this.#pending.keys()];
  }

  /** @throws `OUT_OF_RANGE`, `UNALIGNED`, `CLOSED`; `IO_FAILED` for a fault; `POWER_CUT` after one */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#command({ op: 'read', offset, length: into.length, ...PLAIN }, into);
  }

  /** Without flags a plain write. Errors as for `read`. */
  write(offset: number, data: Uint8Array, flags?: Partial<WriteFlags>): void | Promise<void> {
    return this.#write(offset, copyOf(data), { ...PLAIN, ...flags });
  }

  /** Without flags a plain flush. Errors as for `read`; `EOPNOTSUPP` where the profile has no flush. */
  flush({ tag }: FlushFlags = PLAIN): void | Promise<void> {
    if (!this.capabilities.flush) throw unsupported('flush');
    return this.#command({ op: 'flush', offset: 0, length: 0, tag, fua: false });
  }

  /** Closes the disk: it keeps its contents, and refuses all later commands with `CLOSED`. */
  close(): void {
    if (this.#state === 'on') this.#state = 'closed';
  }

  /**
   * Cuts the power and returns what is on the medium. Open and later commands are rejected with `POWER_CUT`. Make a new
   * disk with the returned bytes as `initial`.
   */
  powerCut(): Uint8Array {
    if (this.#left) return copyOf(this.#left);
    this.#state = 'off';
    for (const [number, { spoilt, fault }] of this.#pending) {
      // A command that is not carried out cannot be torn either.
      if (spoilt && fault?.fault !== 'partial') this.#device.fail(number);
    }
    for (const { reject } of this.#pending.values()) reject(powerCut());
    for (let one = this.#sleepers; one; one = withoutFirst(one)) one.reject(powerCut());
    this.#forget();
    this.#left = this.#device.medium((remains) =>
      remains.length > 0 && this.#random() < TORN_SHARE ? this.#pick(remains) : undefined,
    );
    return copyOf(this.#left);
  }

  /**
   * Stops answering, even with errors: a host that is still running might retry for ever, so it is left waiting.
   * @internal
   */
  abandon(): void {
    this.#state = 'abandoned';
    this.#forget();
  }

  #forget(): void {
    this.#pending.clear();
    this.#order = undefined;
    this.#sleepers = undefined;
  }

  static {
    withText(VolatileDisk.prototype, function (this: VolatileDisk) {
      const open = this.#pending.size > 0 ? `, ${this.#pending.size} of them not answered` : '';
      const disk = `${this.size} bytes, cache ${this.profile.cache}, ${this.#state}`;
      return `VolatileDisk { ${disk}; ${this.commandCount} commands${open} }`;
    });
  }

  // Commands

  #write(offset: number, data: Uint8Array, { tag, fua }: WriteFlags): Answer {
    return this.#command({ op: 'write', offset, length: data.length, tag, fua, data });
  }

  /** Its range is that from the size before, which is the size after the resizes under way. */
  #resize(size: number): Answer {
    checkDiskSize(this, size);
    const under = [...this.#pending.values()].filter(({ request }) => request.size !== undefined);
    const before = under.at(-1)?.request.size ?? this.#size;
    if (size === before && under.length === 0) return this.#check(ENDS);
    const { kind: op, offset, length } = resizeOf(before, size);
    return this.#command({ op, offset, length, ...PLAIN, size });
  }

  #command(request: DiskRequest, into?: Uint8Array): Answer {
    if (this.#state === 'abandoned' && !this.#answersAtOnce) return new Promise<void>(() => {});
    this.#check(request);
    if (this.#answersAtOnce || (this.pace.readsAtOnce && request.op === 'read')) {
      // A recovery reads what it has sent, because it does so where it is judged.
      while (this.pace.readsAtOnce && this.#pending.size > 0 && this.#step(true));
      const number = this.#dispatch(request, into, UNHEARD);
      while (!this.#device.isDone(number)) this.#step(true);
      const failure = this.#answer(number);
      if (failure) throw failure;
      return;
    }
    this.rest.called();
    this.#answerSome();
    return new Promise<void>((resolve, reject) => {
      this.#dispatch(request, into, { resolve, reject });
      this.#answerSome();
      this.rest.wait(this.#goOn);
    });
  }

  #check({ op, offset, length, tag, fua, size }: DiskRequest): void {
    if (this.#state === 'off' || this.#state === 'abandoned') throw powerCut();
    if (this.#state === 'closed') throw new WriteBarrierError('CLOSED', 'the disk is closed');
    if (op !== 'flush' && size === undefined) checkRange(this, offset, length);
    if (fua && !this.capabilities.fua) throw unsupported('FUA');
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw unsupported('an ordered tag');
  }

  #faultOf(op: Operation): DiskFault | undefined {
    const kind = op === 'discard' || op === 'writeZeroes' ? 'write' : op;
    const nth = this.#counts.get(kind) ?? 0;
    this.#counts.set(kind, nth + 1);
    return this.#faults.get(`${kind} ${nth}`);
  }

  #dispatch(request: DiskRequest, into: Uint8Array | undefined, answers: Answers): number {
    const fault = this.#faultOf(request.op);
    const { fails = false, spoils = false, traced } = effectOf(fault, request.size !== undefined);
    const lands = traced?.kind === 'misdirected' ? { ...request, offset: traced.at } : request;
    const number = this.#device.dispatch(lands, traced?.kind);
    const owed = request.op === 'flush' && this.#owes(fault?.fault);
    const spoilt = this.#broken || owed || spoils;
    const failed = this.#broken || owed || fails;
    if (fault?.fault === 'sticky') this.#broken = true;
    this.#recorder.dispatch(request, request.data, { failed, ...(traced && { fault: traced }) });
    this.#sites.add();
    const [least, most] = this.#latencyUs;
    const dueUs = this.#nowUs + Math.round(least + this.#random() * (most - least));
    const state = { failed, spoilt, since: this.#answers };
    const place = { key: this.pace.newestFirst ? -number : dueUs, nth: number };
    const pending = { number, request, dueUs, into, fault, ...state, ...place, ...answers };
    this.#pending.set(number, pending);
    if (!this.#answersAtOnce) this.#order = melded(this.#order, pending);
    return number;
  }

  /** Whether this flush reports the error of an earlier one. */
  #owes(kind: string | undefined): boolean {
    const opener = this.#opener;
    const owes = this.#failsNextFlush || (this.#owedBy !== undefined && this.#owedBy !== opener);
    if (owes) this.#owedBy = undefined;
    this.#failsNextFlush = kind === 'late';
    if (kind === 'elsewhere') this.#owedBy = opener;
    return owes;
  }

  // Answers

  /** Answers during a call. A host that calls without end must rest now and then, or it would starve everything else. */
  #answerSome(): void {
    const { within } = this.pace;
    while (this.#pending.size > 0 && this.#answers % 1024 !== 1023 && this.#random() < within) {
      if (!this.#answerOne(false)) return;
    }
  }

  /** When the host rests. */
  readonly #goOn = (): void => {
    if (this.#pending.size === 0 && !this.#sleepers) return;
    if (!this.#answerOne(true)) return;
    // A host that never rests gets all answers, because what it waits for might never come otherwise.
    const more = this.rest.restless ? 1 : this.pace.more;
    // No sleeper wakes before the host has acted on earlier answers.
    while (this.#random() < more && this.#pending.size > 0 && this.#answerOne(false));
    this.rest.answered();
    // After what the host does now, so that other disks get their turn.
    void Promise.resolve().then(() => this.rest.wait(this.#goOn));
  };

  /** Takes steps until a command is answered, or a sleeper wakes if `mayWake`; false if neither is possible. */
  #answerOne(mayWake: boolean): boolean {
    for (;;) {
      if (this.#pending.size > 0 && this.#random() < 0.6) this.#step(false);
      else {
        const did = this.#passTime(mayWake);
        if (did !== 'a step') return did === 'an answer';
      }
    }
  }

  /** Advances the clock to what is due next: a sleeper, or a command as soon as it is done. */
  #passTime(mayWake: boolean): 'an answer' | 'a step' | 'nothing' {
    const sleeper = this.#sleepers;
    let next = this.#next();
    if (sleeper && (!next || sleeper.key < next.dueUs)) {
      if (!mayWake) return 'nothing';
      this.#sleepers = withoutFirst(sleeper);
      this.#nowUs = Math.max(this.#nowUs, sleeper.key);
      sleeper.resolve();
      return 'an answer';
    }
    if (!next || !this.#device.isDone(next.number)) {
      if (this.#step(true)) return 'a step';
      // All work is ordered after a stray write whose answer is missing, and what is older is done (device.I2).
      next = this.#oldest;
    }
    if (!next) return 'nothing';
    this.#answer(next.number);
    return 'an answer';
  }

  /** The command to answer next. */
  #next(): Pending | undefined {
    const oldest = this.pace.newestFirst ? this.#oldest : undefined;
    // With patience each answer takes real time, so the oldest command is delayed for fewer of them.
    const most = PASSED_MAX / (1 + this.rest.patienceMs);
    if (oldest && this.#answers - oldest.since >= most) return oldest;
    while (this.#order && !this.#pending.has(this.#order.number)) {
      this.#order = withoutFirst(this.#order);
    }
    return this.#order;
  }

  get #oldest(): Pending | undefined {
    const [oldest] = this.#pending.values();
    return oldest;
  }

  /** Takes one step of the device; with `hurry` no destaging. False if there is no such step. */
  #step(hurry: boolean): boolean {
    const { ready, dirty } = this.#device;
    const count = ready.length + (hurry ? 0 : dirty.length);
    if (count > 0) {
      const at = Math.floor(this.#random() * count);
      this.#take(ready[at] ?? (dirty[at - ready.length] as DeviceStep));
    }
    if (hurry && this.#random() < 0.1 && dirty.length > 0) this.#take(this.#pick(dirty));
    return count > 0;
  }

  #take(step: DeviceStep): void {
    const pending = step.kind === 'destage' ? undefined : this.#pending.get(step.command);
    if (step.kind === 'destage' || !pending) {
      // A stray write lands after its answer.
      this.#device.take(step);
      return;
    }
    const { request, into, fault, spoilt } = pending;
    const kind = fault?.fault;
    if (effectOf(fault, request.size !== undefined).drops)
      this.#device.drop(kind === 'drop-readback');
    // The first step of a partial write lands.
    if (!spoilt || kind === 'partial') this.#device.take(step);
    if (spoilt) this.#device.fail(step.command);
    else if (step.kind === 'read' && into && !this.#device.read(request.offset, into)) {
      pending.failed = true;
    }
    // A stray write has failed when its answer says so.
    if (pending.failed && kind !== 'stray' && this.#device.isDone(step.command)) {
      this.#abortBehind(step.command);
    }
  }

  /** SCSI's QErr: commands that tags order after the failed one are given up; none of them has begun. */
  #abortBehind(failed: number): void {
    const { onTagError, lies } = this.profile;
    if (onTagError === 'continue' || lies.includes('ignoreTags')) return;
    let fenced = this.#pending.get(failed)?.request.tag === 'ordered';
    for (const [number, pending] of this.#pending) {
      if (number <= failed) continue;
      fenced ||= pending.request.tag === 'ordered';
      if (!fenced) continue;
      pending.failed = true;
      pending.spoilt = true;
      this.#device.fail(number);
      this.#recorder.fail(number, { kind: 'lost' });
    }
  }

  /** Returns the error that the answer is. */
  #answer(number: number): Error | undefined {
    const pending = this.#pending.get(number);
    invariant(pending !== undefined, 'volatile-disk.V1: the command is answered already');
    invariant(this.#device.isDone(number), 'volatile-disk.V1: the command is not done');
    const { request, failed, spoilt, into, fault, dueUs, resolve, reject } = pending;
    if (fault?.fault === 'stray') this.#abortBehind(number);
    this.#pending.delete(number);
    this.#answers += 1;
    this.#device.answered(number);
    const isLanded = !failed && !spoilt;
    if (request.size !== undefined) this.#size = isLanded ? request.size : this.#device.size;
    this.#nowUs = Math.max(this.#nowUs, dueUs);
    if (request.op === 'read' && fault?.fault === 'rot' && into) flipBit(into, this.#random);
    this.#recorder.complete(number, failed);
    const failure = failed ? new IoFailedError(`simulated: the ${request.op} failed`) : undefined;
    if (failure) reject(failure);
    else resolve();
    return failure;
  }

  #pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.#random() * list.length)] as T;
  }
}

/** Checks nothing but whether the disk is there. */
const ENDS: DiskRequest = { op: 'flush', offset: 0, length: 0, ...PLAIN };

/** The share of the sectors on their way to the medium that a power cut tears. */
const TORN_SHARE = 0.3;
