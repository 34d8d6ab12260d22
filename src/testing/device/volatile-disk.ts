// A simulated disk for tests: a Storage with a cache that a power cut empties, and a record of all that it did.
//
// What it may do is in device.ts; this file picks the steps from a seed, so the same host on the same seed sees the
// same disk. It destages whenever it likes, and does so only while somebody waits for an answer: an idle disk changes
// nothing.
//
// Time is virtual. Every command takes as long as the seed says, and answers come when they are due, in whatever order
// that is; where tags make a command wait for another one, it is answered when it is done. The clock goes on only when
// an answer is due or a sleeper wakes, and what the host does in between takes no time. A turn is a microtask; now and
// then one is a macrotask, so that a host that never pauses starves nobody.
//
// Its trace is what the crash space is made of. `powerCut` ends it at one of the states that the space holds.

import { type Observer, type Operation, WriteBarrierError } from '../../model/index.js';
import { copyOf, joined } from '../../storage/bytes.js';
import { checkRange } from '../../storage/checks.js';
import type { Capabilities, FlushFlags, Storage, WriteFlags } from '../../storage/index.js';
import { type CallSite, callSite, describeSite } from './call-site.js';
import { Device, type DeviceStep } from './device.js';
import {
  checkFault,
  type DiskFault,
  DROPS,
  FAILS,
  FATES,
  SPOILS,
  tracedOf,
} from './disk-faults.js';
import { DiskRecorder, type DiskRequest, type DiskTrace } from './disk-trace.js';
import { type DeviceProfile, deviceProfile } from './profile.js';
import { type Random, seededRandom } from './random.js';

/** Options of a simulated disk. */
export interface VolatileDiskOptions {
  /** In bytes, whole sectors. */
  readonly size: number;
  /** The fields that differ from `HONEST_DISK`. */
  readonly profile?: Partial<DeviceProfile>;
  /** A whole number; 0 unless given. */
  readonly seed?: number;
  /** The medium at the start; copied. Zeroes unless given. */
  readonly initial?: Uint8Array;
  /** Offsets of sectors that cannot be read until they are written, in bytes. */
  readonly unreadable?: readonly number[];
  /** Nothing goes wrong unless given. */
  readonly faults?: readonly DiskFault[];
  /** `later`: with promises, in any order. `at-once`: before the call returns, for hosts that cannot wait. */
  readonly answers?: 'later' | 'at-once';
  /** How long a command takes, at least and at most, in virtual microseconds; 50 and 500 unless given. */
  readonly latencyUs?: readonly [least: number, most: number];
}

interface Pending {
  readonly number: number;
  readonly request: DiskRequest;
  /** In virtual microseconds. */
  readonly dueUs: number;
  /** The host will hear of a failure. */
  failed: boolean;
  /** It does not do what it is to do, or not all of it. */
  spoilt: boolean;
  readonly into: Uint8Array | undefined;
  readonly fault: DiskFault | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

interface Sleeper {
  readonly dueUs: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

type Answers = Pick<Pending, 'resolve' | 'reject'>;

/** See the head of this file. */
export class VolatileDisk implements Storage {
  /** In bytes. */
  readonly size: number;
  /** What the profile claims. */
  readonly capabilities: Capabilities;
  /** What it really is. */
  readonly profile: DeviceProfile;
  readonly #device: Device;
  readonly #recorder: DiskRecorder;
  readonly #random: Random;
  readonly #faults: ReadonlyMap<string, DiskFault>;
  readonly #counts = new Map<Operation, number>();
  readonly #atOnce: boolean;
  readonly #self: Opened;
  readonly #unreadable: readonly number[];
  readonly #latencyUs: readonly [number, number];
  readonly #pending = new Map<number, Pending>();
  readonly #sleepers = new Set<Sleeper>();
  /** Where the commands came from, by their number. */
  readonly #sites: (CallSite | undefined)[] = [];
  #site: CallSite | undefined;
  #nowUs = 0;
  /** What the power cut left. */
  #left: Uint8Array | undefined;
  #turning = false;
  #turns = 0;
  #failsNextFlush = false;
  /** The next flush of anybody else fails. */
  #owedBy: object | undefined;
  #broken = false;
  #state: 'on' | 'closed' | 'off' = 'on';

  /** @throws `INVALID_ARGUMENT` for options out of range, and for two faults at one command */
  constructor(options: VolatileDiskOptions) {
    const { size, initial, seed = 0, faults = [], answers = 'later' } = options;
    this.profile = deviceProfile(options.profile);
    const { cache, flush, fua, orderedTags, sectorSize } = this.profile;
    if (!Number.isSafeInteger(size) || size < 1 || size % sectorSize !== 0) {
      throw misuse(`a disk cannot have ${size} bytes in sectors of ${sectorSize}`);
    }
    if (!Number.isSafeInteger(seed) || seed < 0 || seed >= 2 ** 32)
      throw misuse(`no seed is ${seed}`);
    if (initial && initial.length !== size) {
      throw misuse(`${initial.length} bytes do not fill a disk of ${size}`);
    }
    for (const fault of faults) checkFault(fault, size, sectorSize);
    const [least, most] = options.latencyUs ?? LATENCY_US;
    if (!(least >= 0 && least <= most && most < Number.POSITIVE_INFINITY)) {
      throw misuse(`no command takes ${least} to ${most} microseconds`);
    }
    this.#latencyUs = [least, most];
    this.size = size;
    const able = { writev: true, discard: true, writeZeroes: true };
    this.capabilities = Object.freeze({
      blockSize: sectorSize,
      ...{ cache, flush, fua, orderedTags },
      ...able,
    });
    const medium = initial && copyOf(initial);
    this.#unreadable = [...(options.unreadable ?? [])];
    this.#device = new Device(size, this.profile, medium, this.#unreadable);
    this.#recorder = new DiskRecorder(size, medium);
    this.#random = seededRandom(seed);
    this.#faults = new Map(faults.map((fault) => [`${fault.on} ${fault.nth}`, fault]));
    if (this.#faults.size < faults.length) throw misuse('two faults for one command');
    this.#atOnce = answers === 'at-once';
    this.#self = this.#openedBy(this);
  }

  /** What it was asked and what it answered so far: the input of `crashSpace`. */
  get trace(): DiskTrace {
    const { trace } = this.#recorder;
    return this.#unreadable.length > 0 ? { ...trace, unreadable: this.#unreadable } : trace;
  }

  /** The virtual time in microseconds since the disk was made. */
  get nowUs(): number {
    return this.#nowUs;
  }

  /** Waits in virtual time: for a host with timeouts. Rejects with `POWER_CUT`, and `INVALID_ARGUMENT` for no duration. */
  sleep(durationUs: number): Promise<void> {
    if (this.#state === 'off') return Promise.reject(powerCut());
    if (!(durationUs >= 0 && durationUs < Number.POSITIVE_INFINITY)) {
      return Promise.reject(misuse(`nobody sleeps for ${durationUs} microseconds`));
    }
    return new Promise((resolve, reject) => {
      this.#sleepers.add({ dueUs: this.#nowUs + durationUs, resolve, reject });
      this.#turnSoon();
    });
  }

  /** Another opener of the same disk, as another process would be: some faults are told to one of them only. */
  opener(): Storage {
    return this.#openedBy({});
  }

  /**
   * For the options of a scheduler on this disk: reports then say which call of yours a command came from, however
   * long it was queued.
   */
  get observer(): Observer {
    const sites = new Map<number, CallSite>();
    return (event) => {
      if (event.kind === 'submit') sites.set(event.request, callSite());
      else if (event.kind === 'settle') sites.delete(event.request);
      else if (event.kind === 'dispatch') this.#site = sites.get(event.requests[0] ?? -1);
    };
  }

  /** The call that a command of the trace came from, as `name (file:line)`, where that is known. */
  siteOf(command: number): string | undefined {
    const site = this.#sites[command];
    return site && describeSite(site);
  }

  /** Puts a mark into the trace: what the host knows now. */
  mark(value: unknown): void {
    this.#recorder.mark(value);
  }

  /** @throws `OUT_OF_RANGE`, `UNALIGNED`, `CLOSED`; `IO_FAILED` for a fault; `POWER_CUT` after one */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#self.read(offset, into);
  }

  /** Errors as for `read`. */
  write(offset: number, data: Uint8Array, flags: WriteFlags): void | Promise<void> {
    return this.#self.write(offset, data, flags);
  }

  /** Errors as for `read`. */
  writev(offset: number, list: readonly Uint8Array[], flags: WriteFlags): void | Promise<void> {
    return this.write(offset, joined(list), flags);
  }

  /** Errors as for `read`; `EOPNOTSUPP` where the profile has no flush. */
  flush(flags: FlushFlags): void | Promise<void> {
    return this.#self.flush(flags);
  }

  /** Errors as for `read`. */
  discard(offset: number, length: number): void | Promise<void> {
    return this.#self.discard(offset, length);
  }

  /** Errors as for `read`. */
  writeZeroes(offset: number, length: number): void | Promise<void> {
    return this.#self.writeZeroes(offset, length);
  }

  /** The disk keeps what it has; nothing else may follow. */
  close(): void {
    if (this.#state === 'on') this.#state = 'closed';
  }

  /**
   * Cuts the power: the answer is what the medium holds. Whoever waits for an answer hears `POWER_CUT`, and so does
   * whoever asks later. Start a new disk with the medium as `initial`.
   */
  powerCut(): Uint8Array {
    if (this.#left) return copyOf(this.#left);
    this.#state = 'off';
    for (const [number, { spoilt, fault }] of this.#pending) {
      // What was not to be written is not on its way either.
      if (spoilt && fault?.fault !== 'partial') this.#device.fail(number);
    }
    for (const { reject } of [...this.#pending.values(), ...this.#sleepers]) reject(powerCut());
    this.#pending.clear();
    this.#sleepers.clear();
    this.#left = this.#device.medium((remains) =>
      remains.length > 0 && this.#random() < TORN_SHARE ? this.#pick(remains) : undefined,
    );
    return copyOf(this.#left);
  }

  // Commands

  /** The commands as one opener gives them. */
  #openedBy(opener: object): Opened {
    const plain = { tag: 'simple', fua: false } as const;
    return {
      size: this.size,
      capabilities: this.capabilities,
      read: (offset, into) =>
        this.#command(opener, { op: 'read', offset, length: into.length, ...plain }, into),
      write: (offset, data, { tag, fua }) => {
        const { length } = data;
        return this.#command(opener, { op: 'write', offset, length, tag, fua, data: copyOf(data) });
      },
      writev: (offset, list, flags) => this.#self.write(offset, joined(list), flags),
      flush: ({ tag }) => {
        if (!this.capabilities.flush) throw unsupported('a flush');
        return this.#command(opener, { op: 'flush', offset: 0, length: 0, tag, fua: false });
      },
      discard: (offset, length) =>
        this.#command(opener, { op: 'discard', offset, length, ...plain }),
      writeZeroes: (offset, length) =>
        this.#command(opener, { op: 'writeZeroes', offset, length, ...plain }),
      close: () => {},
    };
  }

  #command(opener: object, request: DiskRequest, into?: Uint8Array): void | Promise<void> {
    this.#check(request);
    if (this.#atOnce) {
      let failure: Error | undefined;
      const reject = (error: Error): void => {
        failure = error;
      };
      const number = this.#dispatch(opener, request, into, { resolve: () => {}, reject });
      while (!this.#device.isDone(number)) this.#step(true);
      this.#answer(number);
      if (failure) throw failure;
      return;
    }
    return new Promise<void>((resolve, reject) => {
      this.#dispatch(opener, request, into, { resolve, reject });
      this.#turnSoon();
    });
  }

  #check({ op, offset, length, tag, fua }: DiskRequest): void {
    if (this.#state === 'off') throw powerCut();
    if (this.#state === 'closed') throw new WriteBarrierError('CLOSED', 'the disk is closed');
    if (op !== 'flush') checkRange(this, offset, length);
    if (fua && !this.capabilities.fua) throw unsupported('FUA');
    if (tag === 'ordered' && !this.capabilities.orderedTags) {
      throw unsupported('an ordered tag');
    }
  }

  #faultOf(op: Operation): DiskFault | undefined {
    const kind = op === 'discard' || op === 'writeZeroes' ? 'write' : op;
    const nth = this.#counts.get(kind) ?? 0;
    this.#counts.set(kind, nth + 1);
    return this.#faults.get(`${kind} ${nth}`);
  }

  #dispatch(
    opener: object,
    request: DiskRequest,
    into: Uint8Array | undefined,
    answers: Answers,
  ): number {
    const fault = this.#faultOf(request.op);
    const kind = fault?.fault ?? '';
    const lands = fault?.fault === 'misdirected' ? { ...request, offset: fault.at } : request;
    const number = this.#device.dispatch(
      lands,
      FATES.find((fate) => fate === kind),
    );
    const owed = request.op === 'flush' && this.#owes(opener, kind);
    const spoilt = this.#broken || owed || SPOILS.has(kind);
    const failed = this.#broken || owed || FAILS.has(kind);
    if (kind === 'sticky') this.#broken = true;
    const traced = tracedOf(fault);
    this.#recorder.dispatch(request, request.data, { failed, ...(traced && { fault: traced }) });
    this.#sites[number] = this.#site ?? callSite();
    this.#site = undefined;
    const [least, most] = this.#latencyUs;
    const dueUs = this.#nowUs + Math.round(least + this.#random() * (most - least));
    const state = { failed, spoilt };
    this.#pending.set(number, { number, request, dueUs, ...state, into, fault, ...answers });
    return number;
  }

  /** Whether an earlier flush has left its error to this one. */
  #owes(opener: object, kind: string): boolean {
    const owes = this.#failsNextFlush || (this.#owedBy !== undefined && this.#owedBy !== opener);
    if (owes) this.#owedBy = undefined;
    this.#failsNextFlush = kind === 'late';
    if (kind === 'elsewhere') this.#owedBy = opener;
    return owes;
  }

  // Turns

  #turnSoon(): void {
    if (this.#turning) return;
    this.#turning = true;
    this.#turns += 1;
    // Now and then everybody else has a turn: a host that never ends must not keep its test from timing out.
    const soon =
      this.#turns % 4096 === 0 ? (turn: () => void) => setTimeout(turn, 0) : queueMicrotask;
    soon(() => {
      this.#turning = false;
      if (this.#pending.size + this.#sleepers.size === 0) return;
      if (this.#pending.size > 0 && this.#random() < 0.6) this.#step(false);
      else this.#passTime();
      this.#turnSoon();
    });
  }

  /** The clock goes on to what is due next: a sleeper, or an answer as soon as there is one. */
  #passTime(): void {
    const sleeper = earliest(this.#sleepers);
    const next = earliest(this.#pending.values());
    if (sleeper && (!next || sleeper.dueUs < next.dueUs)) {
      this.#sleepers.delete(sleeper);
      this.#nowUs = Math.max(this.#nowUs, sleeper.dueUs);
      sleeper.resolve();
    } else if (next && this.#device.isDone(next.number)) {
      this.#answer(next.number);
    } else if (!this.#step(true)) {
      // It waits for another one to be answered.
      const all = [...this.#pending.values()];
      const first = earliest(all.filter(({ number }) => this.#device.isDone(number)));
      if (first) this.#answer(first.number);
    }
  }

  /** One thing that the device may do; `hurry` leaves out what nobody waits for. False where there is none. */
  #step(hurry: boolean): boolean {
    const steps = this.#device.steps();
    const wanted = hurry ? steps.filter(({ kind }) => kind !== 'destage') : steps;
    if (wanted.length > 0) this.#take(this.#pick(wanted));
    if (hurry && this.#random() < 0.1) {
      const destage = this.#device.steps().filter(({ kind }) => kind === 'destage');
      if (destage.length > 0) this.#take(this.#pick(destage));
    }
    return wanted.length > 0;
  }

  #take(step: DeviceStep): void {
    const pending = step.kind === 'destage' ? undefined : this.#pending.get(step.command);
    if (step.kind === 'destage' || !pending) {
      // Nobody waits for what strays.
      this.#device.take(step);
      return;
    }
    const { request, into, fault, spoilt } = pending;
    const kind = fault?.fault ?? '';
    if (DROPS.has(kind)) this.#device.drop(kind === 'drop-readback');
    // Of a partial write the first step lands.
    if (!spoilt || kind === 'partial') this.#device.take(step);
    if (spoilt) this.#device.fail(step.command);
    else if (step.kind === 'read' && into && !this.#device.read(request.offset, into)) {
      pending.failed = true;
    }
    // What strays has failed when that is told.
    if (pending.failed && kind !== 'stray' && this.#device.isDone(step.command)) {
      this.#abortBehind(step.command);
    }
  }

  /** SCSI's QErr: what tags put behind a command that failed is given up, and has not begun. */
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

  #answer(number: number): void {
    const pending = this.#pending.get(number) as Pending;
    const { request, failed, into, fault, dueUs, resolve, reject } = pending;
    if (fault?.fault === 'stray') this.#abortBehind(number);
    this.#pending.delete(number);
    this.#device.answered(number);
    this.#nowUs = Math.max(this.#nowUs, dueUs);
    if (request.op === 'read' && fault?.fault === 'rot' && into) flipBit(into, this.#random);
    this.#recorder.complete(number, failed);
    if (failed) reject(new WriteBarrierError('IO_FAILED', `simulated: the ${request.op} failed`));
    else resolve();
  }

  #pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.#random() * list.length)] as T;
  }
}

/** A storage that can do everything. */
interface Opened extends Required<Storage> {
  read(offset: number, into: Uint8Array): void | Promise<void>;
  write(offset: number, data: Uint8Array, flags: WriteFlags): void | Promise<void>;
}

const LATENCY_US = [50, 500] as const;

/** How many of the sectors that are on their way to the medium a power cut tears. */
const TORN_SHARE = 0.3;

function earliest<T extends { readonly dueUs: number }>(all: Iterable<T>): T | undefined {
  let first: T | undefined;
  for (const one of all) if (!first || one.dueUs < first.dueUs) first = one;
  return first;
}

function flipBit(bytes: Uint8Array, random: Random): void {
  const at = Math.floor(random() * bytes.length);
  bytes[at] = (bytes[at] as number) ^ (1 << Math.floor(random() * 8));
}

function powerCut(): WriteBarrierError {
  return new WriteBarrierError('POWER_CUT', 'the power was cut');
}

function unsupported(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `the disk has not declared ${what}`);
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
