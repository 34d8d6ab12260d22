// The ordering state machine: it decides which command may be issued now and which request is settled. It has no promise, clock
// or storage; a driver reports events and asks for commands. It does not know what a mode means either: it walks the plans
// that plan.ts has made from model/transform.ts.
//
// The states of a request, and all assignments of `state`:
//
//   state      where the request is                                    becomes
//   queued     in the queue; after a barrier: the post-barrier queue   admitted, ordered (at the head of the queue)
//   admitted   in the in-flight set or the flush group; its data has   issued (its data goes to the device)
//              not been issued
//   issued     its data is at the device, or its flush is to come      settled (its plan is over, or a command failed)
//   ordered    the one barrier whose plan is under way                 settled
//   settled    its outcome is final. Every other state may become      -
//              settled, because a request may be cancelled or refused,
//              or its flush may fail
//
// The queue is first in, first out. Its head leaves when the barrier under way allows it. The in-flight set has at most `depth`
// requests at the device and `depth` that wait, so no step takes longer because the queue is long.
//
// One cursor walks every plan: `#mayPass` says whether the wait of a stage is over; `#pass` moves the request past the stage and
// issues its command. The stages of a barrier are checked after every event, because they wait for the state of the whole. The
// stages of other requests are released by the in-flight set (overlap) and by the flush group (group).
//
// Invariants, checked after every event in the tests:
//   I1  Every request settles exactly once, for any order of the device's answers.
//   I2  A drain stage passes only when every earlier request has settled and is not at the device. Then nothing that was
//       submitted after the barrier is at the device, except reads that bypass it.
//   I3  One barrier is under way at a time. Its simple commands are at the device one by one; its ordered commands follow
//       every earlier command and go before every later one.
//   I4  Of two overlapping requests of which one writes, the later is issued when the earlier has left the in-flight set,
//       unless the later one carries an ordered tag.
//   I5  A read bypasses a barrier only where it overlaps nothing that was submitted before it.
//   I6  A cancelled request is never issued. A cancelled barrier leaves a tombstone in its place, because the requests around
//       it were promised an order.
//   I7  With `abort`, a barrier that drains is not written if a write that it covers, or its preflush, has failed. A failed write
//       fails the next barrier, except if its bytes have been written again. A failed barrier also fails the barriers that were
//       submitted before its client could know of the failure. Plain writes go on: a client that must not send them after a
//       failed barrier waits for the barrier first.
//   I8  After a failed flush, with `abort`, only reads that touch no byte at risk are issued until recover(), because the cached
//       content of those bytes may never reach the medium. With `readAtRisk` all reads are issued.
//   I9  With `mayGather`, plain writes that are next to each other in the queue and on the device (plan.PL3) are one command. Its
//       failure is the failure of each of them, because the device does not say which bytes it has taken. Nothing is gathered
//       across a barrier or an overlap, nothing is sorted, and no write waits for others to come.
//
// Not here: promises and buffers (io-scheduler.ts), overlaps (in-flight.ts), sharing of flushes (flush-group.ts), which bytes
// are dirty, at risk or failed (durability.ts).
//
// Source: the contract of the QEMU posix-aio barrier patch (May 2009) without its defects, blk_do_ordered() of Linux 2.6.36
// block/blk-barrier.c.

import type { Machine } from '../machine/index.js';
import {
  type ByteRange,
  invariant,
  isBarrier,
  type ModeName,
  type Request,
  type StagedCommand,
} from '../model/index.js';
import { Durability, overlap } from './durability.js';
import { begunTombstoneOf, Command, commandOf, Entry, tombstoneOf } from './entry.js';
import {
  BarrierAbortedError,
  FlushFailedError,
  ioFailure,
  readAtRisk,
  refusalOf,
  SchedulerFailedError,
} from './errors.js';
import { FlushGroup } from './flush-group.js';
import { InFlight } from './in-flight.js';
import { List } from './list.js';
import { Counters, type OrderingOptions } from './options.js';
import { mayMerge, type PlanStage, Plans } from './plan.js';
import { Queue } from './queue.js';

/** Bytes of a gathered command: with so many its call costs little beside the copying, which other threads can do meanwhile. */
const GATHERED_MAX = 256 * 1024;

/** The state machine of a scheduler. `C` is the caller of a request. */
export class Ordering<C> implements Machine<C, Command<C>> {
  readonly #options: OrderingOptions<C>;
  readonly #abort: boolean;
  #plans: Plans;

  readonly #queue = new Queue<C>();
  readonly #inFlight = new InFlight<C>();
  readonly #group = new FlushGroup<Entry<C>>();
  /** The barrier under way, and the plans that it follows to its end. */
  #barrier: { entry: Entry<C>; readonly plans: Plans } | undefined;
  /** The commands at the device, oldest first. */
  readonly running: List<Command<C>> = new List();
  readonly #settled = new List<Entry<C>>();
  readonly #durability: Durability<C>;

  #nextTicket = 0;
  /** Barriers that are submitted and not settled. */
  barriersPending = 0;
  /** Live counters. */
  readonly counters: Counters = new Counters();

  constructor(options: OrderingOptions<C>) {
    this.#options = options;
    this.#abort = options.errorPolicy === 'abort';
    this.#plans = options.plans ?? new Plans(options.mode, options.device);
    this.#durability = new Durability(this.#abort);
  }

  /** The next barrier follows the new mode; one that is under way keeps its plan. */
  setMode(mode: ModeName): void {
    this.#plans = new Plans(mode, this.#options.device);
  }

  /** A flush has failed, and recover() has not been called. */
  get failed(): boolean {
    return this.#durability.hasFailed;
  }

  /** The bytes at risk. */
  get atRisk(): readonly ByteRange[] {
    return this.#durability.atRisk;
  }

  /** Requests that wait, including the post-barrier queue. */
  get queued(): number {
    return this.#queue.size + this.#group.waiting;
  }

  /** The buffers of the queued requests, in bytes. */
  get queuedBytes(): number {
    return this.#queue.bytes;
  }

  /** No command at the device can add bytes at risk. */
  get recoverable(): boolean {
    return !this.#barrier && [...this.running].every(({ what }) => what.op === 'read');
  }

  // Events

  /** Takes a request, which may be settled when this returns. */
  submit(request: Request, client: C): Entry<C> {
    const plan = this.#plans.of(request);
    const entry = new Entry(this.#nextTicket++, request, client, plan);
    if (isBarrier(request)) this.barriersPending += 1;
    if (this.failed && request.kind !== 'read') {
      this.#settle(entry, new SchedulerFailedError(this.#durability.failure));
    } else if (!plan) {
      this.#settle(entry, refusalOf(request));
    } else if (this.#mayBypass(entry)) {
      this.counters.readsPassed += 1;
      entry.state = 'admitted';
      this.#inFlight.admitBypass(entry);
    } else {
      this.#queue.push(entry);
    }
    return entry;
  }

  /** Cancels a request. False if it is at the device or settled: then its real outcome holds. */
  cancel(entry: Entry<C>): boolean {
    if (!this.#withdraw(entry)) return false;
    entry.cancelled = true;
    this.#settle(entry, undefined);
    return true;
  }

  /** A command has completed; `cause` is the error of the device, undefined if it succeeded. */
  complete(command: Command<C>, cause?: unknown): void {
    invariant(command.isRunning, 'ordering.I1');
    command.isRunning = false;
    this.running.remove(command);
    const { served, what } = command;
    if (what.stage !== 'plain') this.#orderedDone(command, cause);
    else if (what.op === 'flush') this.#groupFlushed(command, cause);
    else for (const entry of served) this.#dataDone(command, entry, cause);
  }

  /** Every client whose barrier failed has seen the rejection. */
  acknowledge(): void {
    this.#durability.acknowledge();
  }

  /** Accepts requests again after a failed flush. */
  recover(): void {
    invariant(this.recoverable, 'ordering.I8');
    this.#durability.recover();
  }

  /** Settles all requests with `error`. No answer of the device may be reported after it. */
  abandon(error: unknown): void {
    this.#evict(error, error, () => true);
    const issued = [...this.running].flatMap(({ served }) => served);
    for (const entry of new Set([...issued, ...this.#group.evict()])) {
      if (entry.state !== 'settled') this.#settle(entry, error);
    }
  }

  // Answers

  /** The next settled request, in the order of settlement. */
  takeSettled(): Entry<C> | undefined {
    return this.#settled.shift();
  }

  /** The next command to issue; undefined while one must complete first, or if none is left. */
  next(): Command<C> | undefined {
    if (this.running.size >= this.#options.depth) return undefined;
    return this.#issueDue() ?? this.#admit();
  }

  // Admission

  /** I5. Only if a barrier blocks the queue; otherwise the queue is moving, and its order is fair. */
  #mayBypass(entry: Entry<C>): boolean {
    if (entry.request.kind !== 'read' || !this.#options.readsPassBarriers) return false;
    if (this.#inFlight.bypassing >= this.#options.depth) return false;
    const barrier = this.#barrier?.entry;
    const { head } = this.#queue;
    if (!barrier?.stage && !(head && isBarrier(head.request))) return false;
    if (barrier && !barrier.hasIssued('bar') && overlap(barrier, entry)) return false;
    return !this.#inFlight.conflict(entry) && !this.#queue.mayWrite(entry);
  }

  /** The next command of the admitted requests whose wait is over. */
  #issueDue(): Command<C> | undefined {
    const flush = this.#flushGroup();
    if (flush) return flush;
    for (;;) {
      const entry = this.#inFlight.takeReady();
      const command = entry && this.#pass(entry);
      if (command || !entry) return command;
    }
  }

  #admit(): Command<C> | undefined {
    for (;;) {
      const barrier = this.#barrier?.entry;
      const stage = barrier?.stage;
      if (barrier && stage) {
        if (!this.#mayPass(barrier, stage)) return undefined;
        const command = this.#pass(barrier);
        if (command) return command;
        continue;
      }
      const entry = this.#queue.head;
      if (!entry) return undefined;
      if (isBarrier(entry.request)) {
        if (barrier) return undefined; // I3
        this.#queue.remove(entry);
        this.#begin(entry, this.#plans);
        continue;
      }
      const hasData = entry.request.kind !== 'flush';
      if (hasData && this.#inFlight.unissued >= this.#options.depth) return undefined;
      const command = this.#enter(entry) ? this.#gather(entry) : this.#issueDue();
      if (command) return command;
    }
  }

  /** Admits the head of the queue, which is no barrier. True if the first stage of its plan need not wait. */
  #enter(entry: Entry<C>): boolean {
    this.#queue.remove(entry);
    entry.state = 'admitted';
    if (entry.stage?.waits !== 'group') return this.#inFlight.admit(entry);
    if (entry.mutates) this.#inFlight.admitWaiting(entry);
    this.#group.join(entry);
    return false;
  }

  /** I9. Passes a request, with the writes that are gathered. A flush among them only waits for the writes before it. */
  #gather(first: Entry<C>): Command<C> | undefined {
    const command = this.#pass(first);
    const { mayGather } = this.#options;
    // Most writes find nothing to gather, and the functions below cost as much as the rest.
    if (!mayGather || !this.#queue.head) return command;
    if (command?.what.op !== 'write' || !mayGather(first.client)) return command;
    let last = first;
    for (let entry = this.#queue.head; entry; entry = this.#queue.head) {
      if (entry.request.kind === 'flush') {
        this.#enter(entry);
        continue;
      }
      const fits = mayMerge(last, entry) && entry.end - first.start <= GATHERED_MAX;
      // Those from `first` on are the gathered ones, which it only touches.
      if (!fits || !mayGather(entry.client) || this.#inFlight.conflict(entry, first)) break;
      this.#queue.remove(entry);
      this.#inFlight.enter(entry);
      this.#advance(entry, 'overlap');
      command.served.push(entry);
      last = entry;
    }
    // Once, because a new object for each write costs as much as to gather it.
    command.what = { ...command.what, length: last.end - first.start };
    return command;
  }

  /** A barrier gets under way, with the plan of these `plans`. */
  #begin(entry: Entry<C>, plans: Plans): void {
    const plan = plans.of(entry.request);
    if (!plan) this.#settle(entry, refusalOf(entry.request));
    else {
      entry.plan = plan;
      entry.state = 'ordered';
      this.#barrier = { entry, plans };
    }
  }

  // The cursor

  /** Whether the wait of a stage is over. */
  #mayPass(entry: Entry<C>, { waits, issues }: PlanStage): boolean {
    if (waits === 'drain') {
      // I2. An earlier request that is admitted and not settled is in flight, or waits for a flush, or is served by one.
      const { waiting, running } = this.#group;
      if (waiting > 0 || running || entry.outstanding > 0) return false;
      return !this.#inFlight.hasOlder(entry);
    }
    const { device, splitsZeroes = false } = this.#options;
    const isDue = waits === 'tag' ? this.#inFlight.isIssued(splitsZeroes) : entry.outstanding === 0;
    if (!isDue) return false;
    // A device without tags keeps nothing apart, so overlapping writes wait here.
    if (issues?.op === 'flush' || device.orderedTags) return true;
    return !this.#inFlight.conflict(entry);
  }

  /** Moves a request past a stage. Undefined if the stage issues nothing, or if the request is refused. */
  #pass(entry: Entry<C>): Command<C> | undefined {
    const { waits, issues } = entry.stage as PlanStage;
    if (waits === 'drain') {
      this.#passDrain(entry);
      return undefined;
    }
    if (waits === 'overlap' && this.#isRefusedRead(entry)) return undefined;
    invariant(issues !== undefined, 'plan.PL1');
    this.#advance(entry, waits);
    if (waits !== 'overlap' && issues.op !== 'flush') this.#inFlight.enter(entry);
    return this.#issue(commandOf(entry, issues), [entry]);
  }

  #advance(entry: Entry<C>, waits: PlanStage['waits']): void {
    entry.at += 1;
    entry.outstanding += 1;
    if (waits === 'overlap') entry.state = 'issued';
  }

  #passDrain(entry: Entry<C>): void {
    this.counters.drains += 1;
    // I7. No caller waits for a tombstone, so no failure is reported to it.
    if (entry.at === 0 && !entry.isTombstone) {
      entry.error = this.#durability.answerFor(entry);
      if (entry.error) entry.dropData();
    }
    entry.at += 1;
    this.#endBarrier(entry);
  }

  /** I8. */
  #isRefusedRead(entry: Entry<C>): boolean {
    if (!this.failed || this.#options.readAtRisk || !this.#durability.isAtRisk(entry)) return false;
    this.#inFlight.leave(entry);
    this.#settle(entry, readAtRisk(entry.request, this.#durability.failure));
    return true;
  }

  // Ends of commands

  #dataDone(command: Command<C>, entry: Entry<C>, cause: unknown): void {
    entry.outstanding -= 1;
    this.#leftDevice(command, entry, cause);
    if (cause !== undefined || !entry.stage) {
      this.#settle(entry, ioFailure(entry.request, cause));
    } else if (this.failed) {
      this.#settle(entry, this.#durability.failure);
    } else {
      this.#options.releaseData?.(entry.client);
      this.#group.joinReady(entry);
    }
  }

  #leftDevice(command: Command<C>, entry: Entry<C>, cause: unknown): void {
    this.#inFlight.leave(entry);
    if (!entry.mutates) return;
    const forced = command.what.fua || !this.#plans.groupFlush;
    if (cause === undefined) this.#durability.wrote(entry.bytes, forced);
    else this.#durability.writeFailed(entry.request, entry.bytes, cause);
  }

  #flushGroup(): Command<C> | undefined {
    for (;;) {
      const served = this.#group.take(this.#inFlight);
      if (!served) return undefined;
      const { groupFlush } = this.#plans;
      if (groupFlush) {
        this.counters.flushesCoalesced += served.length - 1;
        return this.#issue(groupFlush, served);
      }
      this.#serve(served, undefined);
    }
  }

  #groupFlushed(command: Command<C>, cause: unknown): void {
    const error = this.#durability.flushEnded(command, cause);
    // A flush that completes after another one failed may succeed without the bytes that the other one lost.
    this.#serve(command.served, error ?? (this.failed ? this.#durability.failure : undefined));
    if (error && this.#abort) this.#fail(error);
  }

  #serve(served: readonly Entry<C>[], error: FlushFailedError | undefined): void {
    this.#group.ended();
    for (const entry of served) {
      if (entry.state === 'settled') continue; // cancelled while its preflush ran
      entry.at += 1;
      if (!entry.stage) {
        this.#settle(entry, error);
      } else if (error) {
        this.#inFlight.withdraw(entry);
        this.#settle(entry, error);
      } else {
        this.#inFlight.release(entry);
      }
    }
  }

  #orderedDone(command: Command<C>, cause: unknown): void {
    // The tombstone, where the barrier was cancelled meanwhile.
    const entry = this.#barrier?.entry as Entry<C>;
    entry.outstanding -= 1;
    const isData = command.what.op !== 'flush';
    if (isData) this.#leftDevice(command, entry, cause);
    const error = isData
      ? ioFailure(entry.request, cause)
      : this.#durability.flushEnded(command, cause);
    if (error) {
      entry.error ??= error;
      if (this.#abort && error instanceof FlushFailedError) this.#fail(error);
    }
    this.#endBarrier(entry);
  }

  #endBarrier(entry: Entry<C>): void {
    if (entry.stage || entry.outstanding > 0 || this.#barrier?.entry !== entry) return;
    this.#barrier = undefined;
    const { error } = entry;
    this.#settle(entry, error);
    const isReported = error !== undefined && !entry.isTombstone;
    if (isReported && this.#abort && entry.drains) this.#abortQueued(entry, error);
  }

  /** I7: the clients of these barriers could not know of the failure when they submitted them. */
  #abortQueued(failed: Entry<C>, cause: unknown): void {
    const blame = cause instanceof BarrierAbortedError ? cause.blame : failed.request;
    for (const entry of this.#queue) {
      if (!isBarrier(entry.request) || entry.isTombstone) continue;
      this.#queue.removeCancelled(entry);
      this.#settle(entry, new BarrierAbortedError(blame, [], cause));
      this.#durability.reportFailures();
    }
  }

  // Ends of requests

  /** Takes a request out of the queue, the in-flight set or the flush group; false if it does not wait any more. */
  #withdraw(entry: Entry<C>): boolean {
    if (entry.state === 'queued') {
      this.#queue.removeCancelled(entry);
      return true;
    }
    if (entry.state === 'ordered') return this.#withdrawBarrier(entry);
    // Otherwise its outcome is that of the device.
    if (entry.state !== 'admitted') return false;
    const left = this.#group.leave(entry);
    if (entry.request.kind === 'flush') return left;
    this.#inFlight.withdraw(entry);
    return true;
  }

  /** I6: possible while nothing that the client asked for has been issued, and its outcome is open. */
  #withdrawBarrier(entry: Entry<C>): boolean {
    if (entry.error !== undefined) return false;
    const { plans } = this.#barrier as { readonly plans: Plans };
    if (!entry.hasIssued()) {
      this.#begin(tombstoneOf(entry), plans);
      return true;
    }
    // With `kernel` the failure of its preflush is reported to this barrier only.
    if (!this.#abort || !entry.mutates || entry.hasIssued('bar')) return false;
    const tombstone = begunTombstoneOf(entry);
    tombstone.state = 'ordered';
    this.#barrier = { entry: tombstone, plans };
    this.#endBarrier(tombstone);
    return true;
  }

  #settle(entry: Entry<C>, error: unknown): void {
    invariant(entry.state !== 'settled', 'ordering.I1');
    entry.state = 'settled';
    entry.error = error;
    if (entry.isTombstone) return;
    if (isBarrier(entry.request)) this.barriersPending -= 1;
    this.#settled.push(entry);
  }

  /** I8. Reads stay, and are checked when they are issued, because a write at the device may still add bytes at risk. */
  #fail(error: FlushFailedError): void {
    this.#evict(new SchedulerFailedError(error), error, ({ request }) => request.kind !== 'read');
    for (const entry of this.#group.evict()) this.#settle(entry, error);
  }

  /** Settles requests that have nothing at the device with `error`; a barrier that has begun ends with `inDoubt`. */
  #evict(error: unknown, inDoubt: unknown, goes: (entry: Entry<C>) => boolean): void {
    for (const entry of this.#queue) {
      if (!goes(entry)) continue;
      this.#queue.remove(entry);
      this.#settle(entry, error);
    }
    for (const entry of this.#inFlight) {
      if (entry.state !== 'admitted' || !goes(entry)) continue;
      this.#withdraw(entry);
      this.#settle(entry, error);
    }
    const barrier = this.#barrier?.entry;
    if (!barrier) return;
    barrier.error ??= barrier.hasIssued() ? inDoubt : error;
    barrier.cutPlan();
    this.#endBarrier(barrier);
  }

  #issue(what: StagedCommand, served: Entry<C>[]): Command<C> {
    const command = new Command(what, served);
    this.running.push(command);
    this.counters.commands[what.op] += 1;
    if (what.op === 'flush') this.#durability.flushIssued(command);
    return command;
  }
}
