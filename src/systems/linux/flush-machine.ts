// The flush machine of Linux since 2.6.37, as a state machine without promises, clocks and I/O; time is an argument.
// There is no barrier any more. A request may carry PREFLUSH and FUA, and becomes up to three steps:
//
//   preflush ──▶ data ──▶ postflush ──▶ answered
//
// Which of them run is the core's `flushPolicy`; a device that has no flush counts as one that has no cache, whether
// it has one or not. Whatever needs no flush goes straight to the driver. Nothing here keeps two requests in order:
// that is the business of whoever submits, by waiting.
//
// Flushes `alone` (2.6.37, 2.6.38): one request at a time goes through its steps, each flush for it alone. Others that
// need a flush wait until it is answered. New ones go to the head of the list, so the last to come begins first.
//
// Flushes `shared` (2.6.39 and later): a request that needs a flush is pending. One flush is issued for all of these,
// and whoever comes while it runs is pending for the next, if
//   C1  no flush is running, and somebody is pending,
//   C2  no request is at its data, which will want a flush soon,
//   C3  or the first of them has been pending for five seconds.
// That is asked whenever a request has moved on, and at no other time: there is no timer. Of those whom one flush
// served, the first may so bring about the next flush before the second is at its data. (The kernel has two lists and
// two indexes, pending_idx and running_idx; a flush runs while they differ.)
//
// Invariants, checked after every event in the tests:
//   M1  A flush serves nobody who came after it was issued.
//   M2  One flush at a time.
//   M3  A request's data is issued when its preflush is over, its postflush when the data is. After an error `stop`
//       leaves out what is left, `continue` does not, and the first error is the one that is told.
//   M4  Everybody is answered, once, after the last step.
//   M5  All whom a flush served hear the same of it.
//
// Not here: the elevator and merging, as requests with flags never merge; several hardware queues, each of which has
// a machine of its own; the newest kernels' way of counting data instead of listing it, which nobody can tell.
//
// Source: block/blk-flush.c of 2.6.37 and 2.6.38, of 2.6.39 to 5.17; Documentation/block/writeback_cache_control.

import { type DeviceTraits, flushPolicy, isBarrier, type Request, type Stage } from 'write-barrier';
import type { FlushEra } from './eras.js';
import {
  type BlockAnswer,
  type BlockCommand,
  type BlockMachine,
  commandOf,
  NO_BYTES,
  noSuchCommand,
  unsupported,
} from './machine.js';

/** A request and how far it is. */
interface Entry<C> {
  readonly request: Request;
  readonly client: C;
  /** The steps that are left; the first is the current one. */
  readonly steps: ('preflush' | 'data' | 'postflush')[];
  /** It needs a flush of the machine, be it the first or the last step. */
  readonly sequenced: boolean;
  /** Its data is forced by its own command. */
  readonly fua: boolean;
  failure: { readonly error: unknown } | undefined;
}

/** What the driver finds: a command, or a request with flags at which nobody has looked yet. */
type Listed<C> =
  | { readonly command: BlockCommand<C>; readonly serves: readonly Entry<C>[] }
  | { readonly command: undefined; readonly entry: Entry<C> };

/** What a machine is made with. */
export interface FlushMachineOptions {
  /** What differs between kernels. */
  readonly era: FlushEra;
  /** What the device can do. */
  readonly device: Pick<DeviceTraits, 'cache' | 'flush' | 'fua'>;
}

/** See the head of this file. */
export class FlushMachine<C> implements BlockMachine<C> {
  readonly #alone: boolean;
  readonly #stops: boolean;
  readonly #pendingMaxMs: number;
  readonly #device: Pick<DeviceTraits, 'cache' | 'fua'>;
  /** The dispatch list; the driver takes from its head. */
  readonly #list: Listed<C>[] = [];
  readonly #running = new Map<BlockCommand<C>, readonly Entry<C>[]>();
  readonly #answered: BlockAnswer<C>[] = [];

  /** `alone`: who goes through the steps, and who waits for that to end. */
  #sequence: Entry<C> | undefined;
  readonly #waiting: Entry<C>[] = [];

  /** `shared`. */
  #pending: Entry<C>[] = [];
  #pendingSinceMs = 0;
  #flushing = false;
  #dataInFlight = 0;

  constructor({ era, device }: FlushMachineOptions) {
    this.#alone = era.flushes === 'alone';
    this.#stops = era.afterError === 'stop';
    this.#pendingMaxMs = era.pendingMaxMs;
    this.#device = { cache: device.flush ? device.cache : 'none', fua: device.fua };
  }

  // What there is to see

  /** How many requests wait for a flush that has not been issued. */
  get pending(): number {
    return this.#alone ? this.#waiting.length : this.#pending.length;
  }

  /** A flush has been issued and is not over. */
  get flushing(): boolean {
    return this.#flushing;
  }

  /** How many requests are at their data and have a flush before or after it. */
  get dataInFlight(): number {
    return this.#dataInFlight;
  }

  /** Nobody waits, and nothing is with the driver. */
  get idle(): boolean {
    return this.#list.length + this.#running.size + this.pending === 0 && !this.#sequence;
  }

  // Events

  /** `submit_bio`. A barrier is refused with `EOPNOTSUPP`: the flag is gone. */
  submit(request: Request, client: C, nowMs: number): void {
    if (isBarrier(request)) {
      this.#answered.push({ client, error: unsupported() });
      return;
    }
    const entry = this.#entry(request, client);
    if (this.#alone && isFlagged(request)) this.#list.unshift({ command: undefined, entry });
    else if (entry.sequenced) this.#go(entry, nowMs);
    else if (entry.steps.length > 0) this.#list.push(dataOf(entry));
    else this.#end(entry); // a flush of what has no cache
  }

  complete(command: BlockCommand<C>, nowMs: number, error?: unknown): void {
    const serves = this.#running.get(command);
    if (!serves) throw noSuchCommand();
    this.#running.delete(command);
    if (command.what.op === 'flush') this.#flushing = false;
    for (const entry of serves) {
      if (error !== undefined) entry.failure ??= { error };
      const step = entry.steps.shift();
      if (error !== undefined && this.#stops) entry.steps.length = 0; // M3
      if (step === 'data' && entry.sequenced) this.#dataInFlight -= 1;
      if (entry.sequenced) this.#go(entry, nowMs);
      else this.#end(entry); // and nobody asks whether a flush is due
    }
  }

  // Answers

  next(nowMs: number): BlockCommand<C> | undefined {
    for (let listed = this.#list.shift(); listed; listed = this.#list.shift()) {
      if (listed.command === undefined) {
        this.#begin(listed.entry, nowMs);
        continue;
      }
      this.#running.set(listed.command, listed.serves);
      return listed.command;
    }
    return undefined;
  }

  takeAnswered(): BlockAnswer<C> | undefined {
    return this.#answered.shift();
  }

  // Steps

  #entry(request: Request, client: C): Entry<C> {
    const isFlush = request.kind === 'flush';
    const write = request.kind === 'write' ? request : undefined;
    const runs = flushPolicy(this.#device, {
      data: !isFlush,
      preflush: isFlush || write?.preflush === true,
      fua: write?.fua === true,
    });
    const steps: Entry<C>['steps'] = [];
    if (runs.preflush) steps.push('preflush');
    if (runs.data !== 'no') steps.push('data');
    if (runs.postflush) steps.push('postflush');
    const sequenced = runs.preflush || runs.postflush;
    return { request, client, steps, sequenced, fua: runs.data === 'fua', failure: undefined };
  }

  /** `blk_do_flush` of 2.6.37: a request with flags has come to the head of the list. */
  #begin(entry: Entry<C>, nowMs: number): void {
    if (!entry.sequenced && entry.steps.length > 0) {
      this.#list.unshift(dataOf(entry));
    } else if (this.#sequence) {
      this.#waiting.push(entry);
    } else {
      this.#sequence = entry;
      this.#go(entry, nowMs);
    }
  }

  /** `blk_flush_complete_seq`: on to the current step. */
  #go(entry: Entry<C>, nowMs: number): void {
    const [step] = entry.steps;
    if (step === undefined) {
      this.#end(entry);
    } else if (step === 'data') {
      this.#dataInFlight += 1;
      this.#list.unshift(dataOf(entry));
    } else if (this.#alone) {
      this.#flushing = true;
      this.#list.unshift(flushFor([entry], step));
    } else {
      if (this.#pending.length === 0) this.#pendingSinceMs = nowMs;
      this.#pending.push(entry);
    }
    this.#kick(nowMs);
  }

  /** `blk_kick_flush`: C1 to C3. */
  #kick(nowMs: number): void {
    if (this.#flushing || this.#pending.length === 0) return;
    const young = nowMs - this.#pendingSinceMs < this.#pendingMaxMs;
    if (this.#dataInFlight > 0 && young) return;
    const served = this.#pending;
    this.#pending = [];
    this.#flushing = true;
    this.#list.push(flushFor(served, 'plain'));
  }

  #end(entry: Entry<C>): void {
    this.#answered.push({ client: entry.client, ...entry.failure });
    if (this.#sequence !== entry) return;
    this.#sequence = undefined;
    const next = this.#waiting.shift();
    if (next) this.#list.unshift({ command: undefined, entry: next });
  }
}

function isFlagged(request: Request): boolean {
  if (request.kind === 'flush') return true;
  return request.kind === 'write' && (request.preflush === true || request.fua === true);
}

function dataOf<C>(entry: Entry<C>): Listed<C> {
  const { request, client, fua } = entry;
  const { kind } = request;
  if (kind === 'flush' || kind === 'barrier') throw new Error(`kernel BUG: the data of a ${kind}`);
  const command = commandOf(kind, request, { tag: 'simple', fua, stage: 'plain' }, [client]);
  return { command, serves: [entry] };
}

function flushFor<C>(serves: readonly Entry<C>[], stage: Stage): Listed<C> {
  const clients = serves.map(({ client }) => client);
  const command = commandOf('flush', NO_BYTES, { tag: 'simple', fua: false, stage }, clients);
  return { command, serves };
}
