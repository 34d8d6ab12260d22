// The ordering state machine: it decides which command may be issued now and who is settled. It knows no
// promise, clock or storage; a driver reports events and asks for commands. What a mode means it does not
// know either: it executes the steps of model/transform.ts.
//
// The way of a request:
//
//   submit ─▶ queue ─▶ window (held ─▶ ready ─▶ running) ─▶ [postflush] ─▶ settled
//               │  └─▶ flush station ─▶ settled
//               └────▶ sequence: the steps of one barrier ─▶ settled
//
// The queue is first in, first out, and what follows a barrier waits in it: it is the post-barrier queue.
// Its head leaves when the step before it allows. The window holds what has been admitted and not completed,
// at most `depth` at the device and `depth` that wait, so no step here takes longer because the queue is long.
//
// Invariants, checked after every event in the tests:
//   I1  Every request settles exactly once, in whatever order the device answers.
//   I2  A drain step passes only when every earlier request has left the device, and its requests are
//       settled; nothing submitted after the barrier is at the device then, save reads that passed it.
//   I3  One sequence at a time. Its simple commands are at the device one by one; its ordered commands
//       follow every earlier command and go before every later one.
//   I4  Of two overlapping requests of which one writes, the later is issued when the earlier has left the
//       window, unless the later one carries an ordered tag.
//   I5  A read passes a barrier only where it overlaps nothing that was submitted before it.
//   I6  A cancelled request is never issued. A cancelled barrier leaves an empty one in its place, so those
//       around it keep their order.
//   I7  Under `abort`, a barrier that drains is not written when a write that it covers or its preflush has
//       failed. The next barrier answers for a failed write, unless the bytes have been written again; a
//       failed barrier takes the barriers along that were submitted before anybody could know of it. Plain
//       writes go on: whoever wants them stopped makes them wait.
//   I8  After a failed flush nothing is issued until recover(), under `abort`.
//
// Not here: promises and buffers (io-scheduler.ts), overlaps (window.ts), sharing of flushes
// (flush-station.ts), which bytes are dirty, lost or failed (ledger.ts).
//
// Source: the contract of the QEMU posix-aio barrier patch (May 2009) without its defects, blk_do_ordered()
// of Linux 2.6.36 block/blk-barrier.c.

import { invariant } from '../model/error.js';
import {
  type ByteRange,
  type CommandStep,
  canHonour,
  type DeviceTraits,
  initialState,
  isBarrier,
  lowerSteps,
  type ModeName,
  modeOf,
  plainCommand,
  type Request,
  transition,
  type WriteBarrierError,
} from '../model/index.js';
import { Command, type CommandWhat, Entry, SHARED_FLUSH } from './entry.js';
import {
  BarrierAbortedError,
  FlushFailedError,
  ioFailure,
  SchedulerFailedError,
  unsupported,
} from './errors.js';
import { FlushStation } from './flush-station.js';
import { Ledger } from './ledger.js';
import { List } from './list.js';
import { Counters, type OrderingCounters, type OrderingOptions } from './options.js';
import { Queue, standIn } from './queue.js';
import { overlap } from './ranges.js';
import { Sequence } from './sequence.js';
import { Window } from './window.js';

/** See the head of this file. `C` is whatever the driver wants to find again in a request. */
export class Ordering<C> {
  readonly #device: DeviceTraits;
  readonly #depth: number;
  readonly #abort: boolean;
  readonly #readsPass: boolean;
  /** There is something to flush, and a way to do it. */
  readonly #flushes: boolean;
  /** A change acts from the next barrier on whose sequence starts; a running one keeps its steps. */
  mode: ModeName;

  readonly #queue = new Queue<C>();
  readonly #window = new Window<C>();
  readonly #station = new FlushStation<Entry<C>>();
  #sequence: Sequence<C> | undefined;
  /** The commands at the device, oldest first. */
  readonly running: List<Command<C>> = new List();
  readonly #settled = new List<Entry<C>>();
  readonly #ledger: Ledger<C>;

  #nextTicket = 0;
  #nextCommand = 0;
  /** Admitted in order and not settled: what a drain waits for. */
  #active = 0;
  /** Barriers that were submitted and have not been answered. */
  barriersPending = 0;
  readonly #counters = new Counters();

  constructor(options: OrderingOptions) {
    this.mode = options.mode;
    this.#device = options.device;
    this.#depth = options.depth;
    this.#abort = options.errorPolicy === 'abort';
    this.#ledger = new Ledger(this.#abort);
    this.#readsPass = options.readsPassBarriers;
    this.#flushes = options.device.cache === 'volatile' && options.device.flush;
  }

  /** A flush has failed, and recover() has not been called. */
  get failed(): boolean {
    return this.#ledger.failed;
  }

  /** In doubt since a flush failed, and not written again. */
  get atRisk(): readonly ByteRange[] {
    return this.#ledger.lost;
  }

  /** Requests that wait their turn, the post-barrier queue among them. */
  get queued(): number {
    return this.#queue.size + this.#station.waiting;
  }

  /** The payload of those in the queue, in bytes. */
  get queuedBytes(): number {
    return this.#queue.bytes;
  }

  /** Nothing queued, nothing at the device. */
  get idle(): boolean {
    return (
      this.#active === 0 &&
      this.#queue.size === 0 &&
      this.#window.isEmpty &&
      this.running.size === 0 &&
      this.#sequence === undefined
    );
  }

  get counters(): OrderingCounters {
    return structuredClone(this.#counters);
  }

  // Events

  /** Takes a request. It may be settled already when this returns. */
  submit(request: Request, client: C): Entry<C> {
    const entry = new Entry(this.#nextTicket++, request, client);
    const refusal = this.#refusal(request);
    if (isBarrier(request)) this.barriersPending += 1;
    if (refusal) this.#settle(entry, refusal);
    else if (!this.#mayPass(entry)) this.#queue.push(entry);
    else {
      this.#counters.readsPassed += 1;
      this.#window.admitPassing(entry);
    }
    return entry;
  }

  /** Takes the request out. False when it is at the device or settled: its real outcome comes, or came. */
  cancel(entry: Entry<C>): boolean {
    if (!this.#withdraw(entry)) return false;
    entry.cancelled = true;
    this.#settle(entry, undefined);
    return true;
  }

  /** The device has answered a command; `cause` is what it said, undefined for success. */
  complete(command: Command<C>, cause?: unknown): void {
    invariant(command.running, 'I1: a command completes once');
    command.running = false;
    this.running.remove(command);
    const { serves, what } = command;
    if (serves instanceof Set) this.#sharedFlushDone(command, serves, cause);
    else if (what.stage === 'plain') this.#dataDone(command, serves, cause);
    else this.#stepDone(command, cause);
  }

  /** Those whose barriers have failed have been told. */
  acknowledge(): void {
    this.#ledger.acknowledged();
  }

  /** Takes requests again after a failed flush. */
  recover(): void {
    invariant(this.idle, 'recover() comes when nothing is at the device');
    this.#ledger.forgive();
  }

  /** Settles all there is with `error`. What the device still answers must not be reported any more. */
  abandon(error: unknown): void {
    this.#evict(error, error);
    for (const { serves } of this.running) {
      for (const entry of serves instanceof Set ? serves : [serves]) {
        if (entry.state !== 'settled') this.#settle(entry, error);
      }
    }
    for (const entry of this.#station.evict()) this.#settle(entry, error);
  }

  // Answers

  /** The next request that has been settled, in the order of settlement. */
  takeSettled(): Entry<C> | undefined {
    return this.#settled.shift();
  }

  /** The next command to issue, or undefined while one must complete first, or none is left. */
  next(): Command<C> | undefined {
    if (this.failed || this.running.size >= this.#depth) return undefined;
    return this.#issueDue() ?? this.#admit();
  }

  // Submission

  #refusal(request: Request): WriteBarrierError | undefined {
    if (this.failed) return new SchedulerFailedError(this.#ledger.failure);
    if (isBarrier(request) && modeOf(this.mode).by === 'none') return unsupported(request);
    return canHonour(request, this.#device) ? undefined : unsupported(request);
  }

  /** I5. Only where a barrier stands in the way: otherwise the queue is moving and its order is fair. */
  #mayPass(entry: Entry<C>): boolean {
    if (entry.request.kind !== 'read' || !this.#readsPass) return false;
    if (this.#window.passing >= this.#depth) return false;
    const sequence = this.#sequence;
    const { head } = this.#queue;
    if (!sequence?.step && !(head && isBarrier(head.request))) return false;
    if (sequence && !sequence.payloadIssued && overlap(sequence.entry, entry)) return false;
    return !this.#window.conflict(entry) && !this.#queue.mayWrite(entry);
  }

  // Admission

  /** What has been admitted and need not wait. */
  #issueDue(): Command<C> | undefined {
    const flush = this.#sharedFlush();
    if (flush) return flush;
    const entry = this.#window.takeReady();
    return entry && this.#issueData(entry);
  }

  #admit(): Command<C> | undefined {
    for (;;) {
      const sequence = this.#sequence;
      const step = sequence?.step;
      if (sequence && step) {
        if (step.kind === 'command') return this.#issueStep(sequence, step);
        if (!this.#passDrain(sequence)) return undefined;
        continue;
      }
      const entry = this.#queue.head;
      if (!entry) return undefined;
      if (isBarrier(entry.request)) {
        if (sequence) return undefined; // I3
        this.#queue.remove(entry);
        this.#begin(entry);
        continue;
      }
      const isFlush = entry.request.kind === 'flush';
      if (!isFlush && this.#window.unissued >= this.#depth) return undefined;
      this.#queue.remove(entry);
      this.#active += 1;
      if (isFlush) {
        entry.state = 'flushing';
        this.#station.join(entry);
      }
      const command = isFlush ? this.#issueDue() : this.#admitData(entry);
      if (command) return command;
    }
  }

  #admitData(entry: Entry<C>): Command<C> | undefined {
    const { request } = entry;
    if (request.kind === 'write' && (request.preflush || request.fua)) {
      // Without a barrier a request becomes commands and nothing else.
      const { steps } = transition(initialState(this.mode), request);
      entry.commands = lowerSteps(steps, this.#device) as readonly CommandStep[];
    }
    // Where nothing is volatile no flush is sent, and the wait remains.
    const preflush = request.kind === 'write' && request.preflush === true;
    let issuable = false;
    if (preflush) {
      this.#window.admitPreflushing(entry);
      this.#station.join(entry);
    } else {
      issuable = this.#window.admit(entry);
    }
    if (entry.mutates) entry.epoch = this.#station.writeAdmitted();
    if (preflush) return this.#issueDue();
    return issuable ? this.#issueData(entry) : undefined;
  }

  // Data

  #issueData(entry: Entry<C>): Command<C> {
    entry.state = 'running';
    const data = entry.commands?.find(({ op }) => op !== 'flush');
    return this.#issue(data ?? plainCommand(entry.request), entry);
  }

  #dataDone(command: Command<C>, entry: Entry<C>, cause: unknown): void {
    this.#leftDevice(command, entry, cause);
    if (cause !== undefined || entry.commands?.at(-1)?.op !== 'flush') {
      this.#done(entry, ioFailure(entry.request, cause));
    } else if (this.failed) {
      this.#done(entry, this.#ledger.failure);
    } else {
      entry.state = 'postflushing';
      this.#station.joinReady(entry);
    }
  }

  #leftDevice(command: Command<C>, entry: Entry<C>, cause: unknown): void {
    this.#window.leave(entry);
    if (!entry.mutates) return;
    const forced = command.what.fua || !this.#flushes;
    if (cause === undefined) this.#ledger.wrote(entry, forced);
    else this.#ledger.writeFailed(entry.request, entry, cause);
    if (entry.epoch) this.#station.writeGone(entry.epoch);
  }

  // Shared flushes

  #sharedFlush(): Command<C> | undefined {
    for (;;) {
      const served = this.#station.take();
      if (!served) return undefined;
      if (this.#flushes) {
        this.#counters.flushesCoalesced += served.size - 1;
        return this.#issue(SHARED_FLUSH, served);
      }
      this.#serve(served, undefined);
    }
  }

  #sharedFlushDone(command: Command<C>, served: Set<Entry<C>>, cause: unknown): void {
    const error = this.#ledger.flushEnded(command, cause);
    // A flush that ends after another one failed succeeds without what that one lost.
    this.#serve(served, error ?? (this.failed ? this.#ledger.failure : undefined));
    if (error && this.#abort) this.#fail(error);
  }

  #serve(served: Set<Entry<C>>, error: FlushFailedError | undefined): void {
    this.#station.ended();
    for (const entry of served) {
      if (entry.state === 'settled') continue; // cancelled while its preflush ran
      if (entry.state !== 'preflushing') {
        this.#done(entry, error);
      } else if (error) {
        this.#withdraw(entry);
        this.#settle(entry, error);
      } else {
        this.#window.release(entry);
      }
    }
  }

  // The sequence of a barrier

  #begin(entry: Entry<C>, mode: ModeName = this.mode): void {
    this.#sequence = Sequence.of(entry, mode, this.#device);
    if (this.#sequence) entry.state = 'sequence';
    else this.#settle(entry, unsupported(entry.request));
  }

  /** I2. Reads that passed may be at the device; those that were submitted before the barrier count. */
  #passDrain(sequence: Sequence<C>): boolean {
    if (this.#active > 0 || this.#station.running || sequence.outstanding > 0) return false;
    const { oldest } = this.#window;
    if (oldest && oldest.ticket < sequence.entry.ticket) return false;
    this.#counters.drains += 1;
    if (sequence.atStart) this.#answerForFailures(sequence);
    sequence.advance();
    this.#endSequence(sequence);
    return true;
  }

  /** I3. */
  #issueStep(sequence: Sequence<C>, step: CommandStep): Command<C> | undefined {
    const wait = step.tag === 'ordered' ? this.#window.unissued : sequence.outstanding;
    const { entry } = sequence;
    // Without the tag nobody but us keeps overlapping writes apart.
    const alone = step.stage !== 'bar' || this.#device.orderedTags || !this.#window.conflict(entry);
    if (wait > 0 || !alone) return undefined;
    sequence.advance();
    sequence.outstanding += 1;
    if (step.stage === 'bar') {
      sequence.payloadIssued = true;
      this.#window.admitPayload(entry);
      entry.epoch = this.#station.writeAdmitted();
    }
    return this.#issue(step, entry);
  }

  #stepDone(command: Command<C>, cause: unknown): void {
    const sequence = this.#sequence as Sequence<C>;
    const { entry } = sequence;
    sequence.outstanding -= 1;
    const isFlush = command.what.op === 'flush';
    if (!isFlush) this.#leftDevice(command, entry, cause);
    const error = isFlush
      ? this.#ledger.flushEnded(command, cause)
      : ioFailure(entry.request, cause);
    if (error) {
      sequence.error ??= error;
      if (this.#abort && error instanceof FlushFailedError) this.#fail(error);
    }
    this.#endSequence(sequence);
  }

  #endSequence(sequence: Sequence<C>): void {
    if (!sequence.ended || this.#sequence !== sequence) return;
    this.#sequence = undefined;
    const { entry, error } = sequence;
    this.#settle(entry, error);
    const heard = error !== undefined && entry.client !== undefined;
    if (heard && this.#abort && sequence.drains) this.#abortQueued(entry, error);
  }

  /** I7. */
  #answerForFailures(sequence: Sequence<C>): void {
    if (sequence.entry.client === undefined) return;
    sequence.error = this.#ledger.answer(sequence.entry);
    if (sequence.error) sequence.dropPayload();
  }

  /** I7: those who have submitted a barrier behind one that failed could not know of it. */
  #abortQueued(failed: Entry<C>, cause: unknown): void {
    const blame = cause instanceof BarrierAbortedError ? cause.blame : failed.request;
    for (const entry of this.#queue) {
      if (!isBarrier(entry.request) || entry.client === undefined) continue;
      this.#queue.removeCancelled(entry);
      this.#settle(entry, new BarrierAbortedError(blame, [], cause));
      this.#ledger.answered();
    }
  }

  // Ends

  /** Takes a request out of wherever it waits; false when it does not wait any more. */
  #withdraw(entry: Entry<C>): boolean {
    switch (entry.state) {
      case 'queued':
        this.#queue.removeCancelled(entry);
        return true;
      case 'held':
      case 'ready':
      case 'preflushing':
        this.#station.leave(entry);
        this.#window.withdraw(entry);
        if (entry.epoch) this.#station.writeGone(entry.epoch);
        if (!entry.passed) this.#active -= 1;
        return true;
      case 'flushing':
        if (!this.#station.leave(entry)) return false;
        this.#active -= 1;
        return true;
      case 'sequence':
        return this.#withdrawBarrier(entry);
      case 'running':
      case 'postflushing':
      case 'settled':
        return false;
    }
  }

  /** I6: possible as long as nothing that the client asked for was issued, and its outcome is open. */
  #withdrawBarrier(entry: Entry<C>): boolean {
    const sequence = this.#sequence as Sequence<C>;
    const { begun, error } = sequence;
    // Under `kernel` nobody but its owner hears of a preflush that fails.
    if (error !== undefined || (begun && !this.#abort)) return false;
    if (begun && (!entry.mutates || sequence.payloadIssued)) return false;
    if (begun) {
      sequence.dropPayload();
      sequence.entry = standIn(entry);
      this.#endSequence(sequence);
    } else {
      this.#begin(standIn(entry), sequence.mode);
    }
    return true;
  }

  #done(entry: Entry<C>, error: unknown): void {
    if (!entry.passed) this.#active -= 1;
    this.#settle(entry, error);
  }

  #settle(entry: Entry<C>, error: unknown): void {
    invariant(entry.state !== 'settled', 'I1: a request settles once');
    entry.state = 'settled';
    entry.error = error;
    if (entry.client === undefined) return;
    if (isBarrier(entry.request)) this.barriersPending -= 1;
    this.#settled.push(entry);
  }

  /** I8. */
  #fail(error: FlushFailedError): void {
    this.#evict(new SchedulerFailedError(error), error);
    for (const entry of this.#station.evict()) this.#done(entry, error);
  }

  /** Refuses whatever has nothing at the device; a sequence that has begun ends `inDoubt`. */
  #evict(error: unknown, inDoubt: unknown): void {
    for (const entry of this.#queue) {
      this.#queue.remove(entry);
      this.#settle(entry, error);
    }
    for (const entry of this.#window) {
      if (entry.state === 'running' || entry.state === 'sequence') continue;
      this.#withdraw(entry);
      this.#settle(entry, error);
    }
    const sequence = this.#sequence;
    if (!sequence) return;
    sequence.error ??= sequence.begun ? inDoubt : error;
    sequence.cut();
    this.#endSequence(sequence);
  }

  #issue(what: CommandWhat, serves: Entry<C> | Set<Entry<C>>): Command<C> {
    const command = new Command(this.#nextCommand++, what, serves);
    this.running.push(command);
    this.#counters.commands[what.op] += 1;
    if (what.op === 'flush') this.#ledger.flushIssued(command);
    return command;
  }
}
