// A simulated disk for tests: a Storage with a cache that a power cut empties, and a record of all that it did.
//
// What it may do is in device.ts; this file picks the steps from a seed, so the same host on the same seed sees the
// same disk. It destages whenever it likes, answers in any order, and does both only while somebody waits for an
// answer: an idle disk changes nothing. There is no clock; a turn is a microtask.
//
// Its trace is what the crash space is made of. `powerCut` ends it at one of the states that the space holds.

import { type Operation, WriteBarrierError } from '../model/index.js';
import { copyOf, joined } from '../storage/bytes.js';
import { checkRange } from '../storage/checks.js';
import type { Capabilities, FlushFlags, Storage, WriteFlags } from '../storage/index.js';
import { Device, type DeviceStep } from './device.js';
import { DiskRecorder, type DiskRequest, type DiskTrace, type TracedFault } from './disk-trace.js';
import { type DeviceProfile, deviceProfile } from './profile.js';
import { type Random, seededRandom } from './random.js';

/**
 * What goes wrong, and at which command of its kind, counted from 0.
 *
 * Writes: `fail` writes nothing and says so; `partial` writes some sectors and says that it failed; `ghost` says
 * that it failed and writes all the same; `lost` says that it wrote; `misdirected` writes at `at` instead, and says
 * nothing. Flushes: `keep` fails and can be repeated; `drop` fails and gives the cache up, so the next one succeeds;
 * `drop-readback` does, too, and the host still reads what is gone; `late` succeeds, and the next one fails; `sticky`
 * fails, and so does everything after it. Reads: `fail`; `rot` flips one bit of what is read.
 */
export type DiskFault =
  | FaultAt<'write', 'fail' | 'partial' | 'ghost' | 'lost'>
  | (FaultAt<'write', 'misdirected'> & {
      /** Where it lands instead, in bytes from the start of the disk. */
      readonly at: number;
    })
  | FaultAt<'flush', 'keep' | 'drop' | 'drop-readback' | 'late' | 'sticky'>
  | FaultAt<'read', 'fail' | 'rot'>;

/** A fault at one command. */
export interface FaultAt<On, What> {
  /** The kind of command; discards and zeroes count as writes. */
  readonly on: On;
  /** Which of them, from 0. */
  readonly nth: number;
  /** What goes wrong. */
  readonly fault: What;
}

/** Options of a simulated disk. */
export interface VolatileDiskOptions {
  /** In bytes, whole atomic units. */
  readonly size: number;
  /** The fields that differ from `HONEST_DISK`. */
  readonly profile?: Partial<DeviceProfile>;
  /** A whole number; 0 unless given. */
  readonly seed?: number;
  /** The medium at the start; copied. Zeroes unless given. */
  readonly initial?: Uint8Array;
  /** Nothing goes wrong unless given. */
  readonly faults?: readonly DiskFault[];
  /** `later`: with promises, in any order. `at-once`: before the call returns, for hosts that cannot wait. */
  readonly answers?: 'later' | 'at-once';
}

interface Pending {
  readonly request: DiskRequest;
  /** The host will hear of a failure. */
  readonly failed: boolean;
  /** It does not do what it is to do, or not all of it. */
  readonly spoilt: boolean;
  readonly into: Uint8Array | undefined;
  readonly fault: DiskFault | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

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
  readonly #pending = new Map<number, Pending>();
  #turning = false;
  #failsNextFlush = false;
  #broken = false;
  #state: 'on' | 'closed' | 'off' = 'on';

  /** @throws `INVALID_ARGUMENT` for a size that is not whole atomic units, and for two faults at one command */
  constructor(options: VolatileDiskOptions) {
    const { size, initial, seed = 0, faults = [], answers = 'later' } = options;
    this.profile = deviceProfile(options.profile);
    const { cache, flush, fua, orderedTags, atomicWriteUnit } = this.profile;
    if (!Number.isSafeInteger(size) || size < 1 || size % atomicWriteUnit !== 0) {
      throw misuse(`a disk cannot have ${size} bytes in units of ${atomicWriteUnit}`);
    }
    this.size = size;
    const able = { writev: true, discard: true, writeZeroes: true };
    this.capabilities = Object.freeze({
      blockSize: atomicWriteUnit,
      ...{ cache, flush, fua, orderedTags },
      ...able,
    });
    const medium = initial && copyOf(initial);
    this.#device = new Device(size, this.profile, medium);
    this.#recorder = new DiskRecorder(size, medium);
    this.#random = seededRandom(seed);
    this.#faults = new Map(faults.map((fault) => [`${fault.on} ${fault.nth}`, fault]));
    if (this.#faults.size < faults.length) throw misuse('two faults for one command');
    this.#atOnce = answers === 'at-once';
  }

  /** What it was asked and what it answered so far: the input of `crashSpace`. */
  get trace(): DiskTrace {
    return this.#recorder.trace;
  }

  /** Puts a mark into the trace: what the host knows now. */
  mark(value: unknown): void {
    this.#recorder.mark(value);
  }

  /** @throws `OUT_OF_RANGE`, `UNALIGNED`, `CLOSED`; `IO_FAILED` for a fault; `POWER_CUT` after one */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    const range = { offset, length: into.length };
    return this.#command({ op: 'read', ...range, tag: 'simple', fua: false }, into);
  }

  /** Errors as for `read`. */
  write(offset: number, data: Uint8Array, flags: WriteFlags): void | Promise<void> {
    const { tag, fua } = flags;
    return this.#command({
      op: 'write',
      offset,
      length: data.length,
      tag,
      fua,
      data: copyOf(data),
    });
  }

  /** Errors as for `read`. */
  writev(offset: number, list: readonly Uint8Array[], flags: WriteFlags): void | Promise<void> {
    return this.write(offset, joined(list), flags);
  }

  /** Errors as for `read`; `EOPNOTSUPP` where the profile has no flush. */
  flush({ tag }: FlushFlags): void | Promise<void> {
    if (!this.capabilities.flush) throw unsupported('a flush');
    return this.#command({ op: 'flush', offset: 0, length: 0, tag, fua: false });
  }

  /** Errors as for `read`. */
  discard(offset: number, length: number): void | Promise<void> {
    return this.#command({ op: 'discard', offset, length, tag: 'simple', fua: false });
  }

  /** Errors as for `read`. */
  writeZeroes(offset: number, length: number): void | Promise<void> {
    return this.#command({ op: 'writeZeroes', offset, length, tag: 'simple', fua: false });
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
    this.#state = 'off';
    for (const { reject } of this.#pending.values()) reject(powerCut());
    this.#pending.clear();
    return this.#device.medium();
  }

  // Commands

  #command(request: DiskRequest, into?: Uint8Array): void | Promise<void> {
    this.#check(request);
    const fault = this.#faultOf(request.op);
    if (this.#atOnce) {
      let failure: Error | undefined;
      const fail = (error: Error): void => {
        failure = error;
      };
      const number = this.#dispatch(request, into, fault, () => {}, fail);
      while (!this.#device.isDone(number)) this.#step(true);
      this.#answer(number);
      if (failure) throw failure;
      return;
    }
    return new Promise<void>((resolve, reject) => {
      this.#dispatch(request, into, fault, resolve, reject);
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
    request: DiskRequest,
    into: Uint8Array | undefined,
    fault: DiskFault | undefined,
    resolve: () => void,
    reject: (error: Error) => void,
  ): number {
    const lands = fault?.fault === 'misdirected' ? { ...request, offset: fault.at } : request;
    const number = this.#device.dispatch(lands);
    const kind = fault?.fault ?? '';
    const late = request.op === 'flush' && this.#failsNextFlush;
    if (request.op === 'flush') this.#failsNextFlush = kind === 'late';
    const spoilt = this.#broken || SPOILS.has(kind);
    const failed = this.#broken || late || FAILS.has(kind);
    if (kind === 'sticky') this.#broken = true;
    const traced = tracedOf(fault);
    this.#recorder.dispatch(request, request.data, { failed, ...(traced && { fault: traced }) });
    this.#pending.set(number, { request, failed, spoilt, into, fault, resolve, reject });
    return number;
  }

  #turnSoon(): void {
    if (this.#turning) return;
    this.#turning = true;
    queueMicrotask(() => {
      this.#turning = false;
      if (this.#pending.size === 0) return;
      this.#step(false);
      const done = [...this.#pending.keys()].filter((number) => this.#device.isDone(number));
      if (done.length > 0 && this.#random() < 0.4) this.#answer(this.#pick(done));
      this.#turnSoon();
    });
  }

  /** One thing that the device may do; `hurry` leaves out what nobody waits for. */
  #step(hurry: boolean): void {
    const steps = this.#device.steps();
    const wanted = hurry ? steps.filter(({ kind }) => kind !== 'destage') : steps;
    if (wanted.length > 0) this.#take(this.#pick(wanted));
    if (hurry && this.#random() < 0.1) {
      const destage = this.#device.steps().filter(({ kind }) => kind === 'destage');
      if (destage.length > 0) this.#take(this.#pick(destage));
    }
  }

  #take(step: DeviceStep): void {
    if (step.kind === 'destage') {
      this.#device.take(step);
      return;
    }
    const { request, into, fault, spoilt } = this.#pending.get(step.command) as Pending;
    if (fault?.fault === 'drop' || fault?.fault === 'drop-readback') {
      this.#device.drop(fault.fault === 'drop-readback');
    }
    // Of a partial write the first step lands.
    if (!spoilt || fault?.fault === 'partial') this.#device.take(step);
    if (spoilt) this.#device.fail(step.command);
    else if (step.kind === 'read' && into) this.#device.read(request.offset, into);
  }

  #answer(number: number): void {
    const { request, failed, into, fault, resolve, reject } = this.#pending.get(number) as Pending;
    this.#pending.delete(number);
    this.#device.answered(number);
    if (fault?.fault === 'rot' && into) flipBit(into, this.#random);
    this.#recorder.complete(number);
    if (failed) reject(new WriteBarrierError('IO_FAILED', `simulated: the ${request.op} failed`));
    else resolve();
  }

  #pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.#random() * list.length)] as T;
  }
}

/** These do not do what they are to do, or not all of it. */
const SPOILS: ReadonlySet<string> = new Set([
  'fail',
  'lost',
  'partial',
  'keep',
  'late',
  'sticky',
  'drop',
  'drop-readback',
]);

/** These are told. */
const FAILS: ReadonlySet<string> = new Set([
  'fail',
  'partial',
  'ghost',
  'keep',
  'drop',
  'drop-readback',
  'sticky',
]);

/** What the crash space has to know of a fault besides that the command failed. */
function tracedOf(fault: DiskFault | undefined): TracedFault | undefined {
  switch (fault?.fault) {
    case 'lost':
      return { kind: 'lost' };
    case 'misdirected':
      return { kind: 'misdirected', at: fault.at };
    case 'late':
      return { kind: 'hollow' };
    case 'drop':
    case 'drop-readback':
      return { kind: 'drop' };
    default:
      return undefined;
  }
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
