// The flush machine of Linux since 2.6.37, as a state machine without promises and I/O, and with a clock that is given to it.
// There is no barrier any more. A request may carry PREFLUSH and FUA, and becomes up to three steps:
//
//   preflush ──▶ data ──▶ postflush ──▶ answered
//
// Which of them run is the core's `flushPolicy`; a device without a flush counts as one without a cache, even if it has a
// cache. A request that needs no flush goes straight to the driver. Nothing here keeps two requests in order: the
// submitter keeps order by waiting.
//
// Flushes `alone` (2.6.37, 2.6.38): one request at a time goes through its steps, and each flush serves only this request.
// Others that need a flush wait until it is answered. New ones go to the head of the list, so the last to come begins
// first.
//
// Flushes `shared` (2.6.39 and later): a request that needs a flush is pending. One flush is issued for all pending requests
// when C1 and one of C2 and C3 hold; a request that comes while it runs is pending for the next flush:
//   C1  no flush is running, and a request is pending;
//   C2  no request that also needs a flush is at its data, because it may need the next flush soon;
//   C3  the first pending request has waited for five seconds.
// These conditions are checked whenever such a request has moved on, and at no other time, because there is no timer. So
// of the requests that one flush served, the first may cause the next flush before the second is at its data. (The kernel
// has two lists and two indexes, pending_idx and running_idx; a flush runs while they differ.)
//
// Invariants, checked after every event in the tests:
//   M1  A flush serves no request that came after it was issued.
//   M2  One flush at a time.
//   M3  A request's data is issued when its preflush is over, its postflush when the data is. After an error `stop` skips
//       the remaining steps and `continue` does not; the first error is reported.
//   M4  Every request is answered once, after its last step.
//   M5  All requests that a flush served get the same result of it.
//
// Not here: the elevator and merging, as requests with flags never merge; several hardware queues, each of which has
// a machine of its own; the newest kernels' way of counting data instead of listing it, which makes no difference here.
//
// Source: block/blk-flush.c of 2.6.37 and 2.6.38, of 2.6.39 to 5.17; Documentation/block/writeback_cache_control.

import { type DeviceTraits, isBarrier, type Request, type Stage } from 'write-barrier';
import { flushPolicy, invariant, type Machine, type Settled } from 'write-barrier/kit';
import { type BlockCommand, noSuchCommand, notSupported } from '../requests.js';
import type { FlushEra } from './eras.js';

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

/** What the driver finds: a command, or a request with flags that has not been looked at yet. */
type Listed<C> =
  | { readonly command: BlockCommand<C>; readonly serves: readonly Entry<C>[] }
  | { readonly command: undefined; readonly entry: Entry<C> };

/** What a machine is made with. */
export interface FlushMachineOptions {
  /** What differs between kernels. */
  readonly era: FlushEra;
  /** What the device can do. */
  readonly device: Pick<DeviceTraits, 'cache' | 'flush' | 'fua'>;
  /**
   * The time in milliseconds, which never goes back. It is read when a request begins to wait for a flush, and when that
   * flush may be due.
   */
  readonly nowMs: () => number;
}

/** The flush machine. */
export class FlushMachine<C> implements Machine<C, BlockCommand<C>> {
  readonly #nowMs: () => number;
  readonly #alone: boolean;
  readonly #stops: boolean;
  readonly #pendingMaxMs: number;
  readonly #device: Pick<DeviceTraits, 'cache' | 'fua'>;
  /** The dispatch list; the driver takes from its head. */
  readonly #list: Listed<C>[] = [];
  readonly #running = new Map<BlockCommand<C>, readonly Entry<C>[]>();
  readonly #answered: Settled<C>[] = [];

  /** `alone`: who goes through the steps, and who waits for that to end. */
  #sequence: Entry<C> | undefined;
  readonly #waiting: Entry<C>[] = [];

  /** `shared`. */
  #pending: Entry<C>[] = [];
  #pendingSinceMs = 0;
  #flushing = false;
  #dataInFlight = 0;

  constructor({ era, device, nowMs }: FlushMachineOptions) {
    this.#nowMs = nowMs;
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

  /** No request waits, and no command is in flight. */
  get idle(): boolean {
    return this.#list.length + this.#running.size + this.pending === 0 && !this.#sequence;
  }

  // Events

  /** `submit_bio`. A barrier is refused with `EOPNOTSUPP`: the flag is gone. */
  submit(request: Request, client: C): void {
    if (isBarrier(request)) {
      this.#answered.push({ client, error: notSupported('barrier') });
      return;
    }
    const entry = this.#entry(request, client);
    if (this.#alone && isFlagged(request)) this.#list.unshift({ command: undefined, entry });
    else if (entry.sequenced) this.#go(entry);
    else if (entry.steps.length > 0) this.#list.push(dataOf(entry));
    else this.#end(entry); // a flush of what has no cache
  }

  complete(command: BlockCommand<C>, error?: unknown): void {
    const serves = this.#running.get(command);
    if (!serves) throw noSuchCommand();
    this.#running.delete(command);
    if (command.what.op === 'flush') this.#flushing = false;
    for (const entry of serves) {
      if (error !== undefined) entry.failure ??= { error };
      const step = entry.steps.shift();
      if (error !== undefined && this.#stops) entry.steps.length = 0; // M3
      if (step === 'data' && entry.sequenced) this.#dataInFlight -= 1;
      invariant(this.#dataInFlight >= 0, 'flush-machine.C2: data leaves only after it has come');
      if (entry.sequenced) this.#go(entry);
      else this.#end(entry); // and it is not asked whether a flush is due
    }
  }

  // Answers

  next(): BlockCommand<C> | undefined {
    for (let listed = this.#list.shift(); listed; listed = this.#list.shift()) {
      if (listed.command === undefined) {
        this.#begin(listed.entry);
        continue;
      }
      this.#running.set(listed.command, listed.serves);
      return listed.command;
    }
    return undefined;
  }

  takeSettled(): Settled<C> | undefined {
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
  #begin(entry: Entry<C>): void {
    if (!entry.sequenced && entry.steps.length > 0) {
      this.#list.unshift(dataOf(entry));
    } else if (this.#sequence) {
      this.#waiting.push(entry);
    } else {
      this.#sequence = entry;
      this.#go(entry);
    }
  }

  /** `blk_flush_complete_seq`: on to the current step. */
  #go(entry: Entry<C>): void {
    const [step] = entry.steps;
    if (step === undefined) {
      this.#end(entry);
    } else if (step === 'data') {
      this.#dataInFlight += 1;
      this.#list.unshift(dataOf(entry));
    } else if (this.#alone) {
      invariant(!this.#flushing, 'flush-machine.M2: one flush at a time');
      this.#flushing = true;
      this.#list.unshift(flushFor([entry], step));
    } else {
      if (this.#pending.length === 0) this.#pendingSinceMs = this.#nowMs();
      this.#pending.push(entry);
    }
    this.#kick();
  }

  /** `blk_kick_flush`: C1 to C3. */
  #kick(): void {
    if (this.#flushing || this.#pending.length === 0) return;
    const young = this.#nowMs() - this.#pendingSinceMs < this.#pendingMaxMs;
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
  if (kind === 'flush' || kind === 'barrier') throw new Error(`kernel BUG: a ${kind} has no data`);
  const { offset, length } = request;
  const how = { tag: 'simple', fua, stage: 'plain' } as const;
  const what = { kind: 'command', op: kind, offset, length, ...how } as const;
  return { command: { what, clients: [client] }, serves: [entry] };
}

function flushFor<C>(serves: readonly Entry<C>[], stage: Stage): Listed<C> {
  const clients = serves.map(({ client }) => client);
  const flush = { kind: 'command', op: 'flush', offset: 0, length: 0 } as const;
  return { command: { what: { ...flush, stage, tag: 'simple', fua: false }, clients }, serves };
}
