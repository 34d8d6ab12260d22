// The request queue of Linux 2.6.18 to 2.6.36 with its hard barriers, step for step, as a state machine without
// promises, clocks and I/O. It is not the core's scheduler, which keeps the promise of the same modes its own way: this
// one is the kernel, defects included, and they are fields of an era (eras.ts).
//
//   idle ──a barrier is the head──▶ drain ──▶ preflush ──▶ bar ──▶ postflush ──▶ done, idle
//
// A sequence is a set of bits, ORDSEQ, of the steps that are over: its current step is the lowest that is not. Steps
// that the mode does not have are over from the start. The barrier itself is parked; stand-ins for its steps stand at
// the head of the dispatch list, and only the head of that list is ever looked at.
//
// Invariants, checked after every event in the tests:
//   B1  A barrier has the colour of what was submitted before it; what is submitted after it has the other.
//   B2  By drain, the head passes when its class is not beyond the current step: what came before while it drains, a
//       stand-in when it is its turn, what came after when all is done. Reads and discards count like writes.
//   B3  By tag everything passes at once, except another barrier. A packet always passes.
//   B4  The drain is over when nothing is in flight and the head, if any, belongs to a later step: a request that the
//       driver put back at the head keeps it open.
//   B5  One sequence at a time, in every mode; so the driver never has two barriers.
//   B6  The first error that arrives is told, and no step is left out for it: after a failed preflush the data is
//       written. What fails before a barrier concerns the barrier not at all.
//   B7  What is put back stands in the order earlier, preflush, bar, postflush, later.
//   B8  Without a mode a barrier is refused: when it comes, or, if the mode went away while it waited, at the head.
//
// A change of the mode acts at once on the rule of a running sequence, B2 or B3, and leaves its stand-ins alone.
//
// Not here: drivers that look at a request without taking it; overlaps, which were the business of whoever
// submitted; the limit on requests, at which the kernel let the submitter sleep.
//
// Source: block/ll_rw_blk.c of 2.6.24, block/blk-barrier.c, blk-core.c, elevator.c of 2.6.32 and 2.6.36.

import { encodeLegacyMode, type ModeName, type Operation, WriteBarrierError } from 'write-barrier';
import { type Bio, Elevator, type QueuedRequest } from './elevator.js';
import type { BarrierEra } from './eras.js';
import {
  type BlockAnswer,
  type BlockCommand,
  type BlockMachine,
  bugOn,
  commandOf,
  NO_BYTES,
  noSuchCommand,
  unsupported,
} from './machine.js';

/** The steps of a sequence, as the kernel numbers them: QUEUE_ORDSEQ_*. */
export const ORDSEQ: Readonly<
  Record<'STARTED' | 'DRAIN' | 'PREFLUSH' | 'BAR' | 'POSTFLUSH' | 'DONE', number>
> = Object.freeze({
  STARTED: 0x01,
  DRAIN: 0x02,
  PREFLUSH: 0x04,
  BAR: 0x08,
  POSTFLUSH: 0x10,
  DONE: 0x20,
});

/** The bits of a mode in the younger layout. Which mode has which is the core's knowledge. */
const BY_DRAIN = 0x01;
const BY_TAG = 0x02;
const DO_PREFLUSH = 0x10;
const DO_BAR = 0x20;
const DO_POSTFLUSH = 0x40;
const DO_FUA = 0x80;

/** The stand-ins, in the order in which they are put in front of the list. */
const STAND_INS = [
  { stage: 'postflush', bit: DO_POSTFLUSH, step: ORDSEQ.POSTFLUSH },
  { stage: 'bar', bit: DO_BAR, step: ORDSEQ.BAR },
  { stage: 'preflush', bit: DO_PREFLUSH, step: ORDSEQ.PREFLUSH },
] as const;

/** What may happen to the head of the list. `gone`: it was consumed, look at the next one. */
type Verdict = 'pass' | 'hold' | 'gone';

/** What a queue is made with. */
export interface OrderedQueueOptions {
  /** What differs between kernels. */
  readonly era: BarrierEra;
  /** The mode at the start. */
  readonly mode: ModeName;
  /** In bytes: requests merge up to this size; 0 merges nothing, as `nomerges` does. 512 KiB unless given. */
  readonly mergeBytesMax?: number;
}

/** BLK_DEF_MAX_SECTORS. */
const MERGE_BYTES_MAX = 1024 * 512;

/** See the head of this file. */
export class OrderedQueue<C> implements BlockMachine<C> {
  readonly #era: BarrierEra;
  readonly #elevator: Elevator<C>;
  readonly #running = new Map<BlockCommand<C>, QueuedRequest<C>>();
  readonly #answered: BlockAnswer<C>[] = [];

  /** `next_ordered`: what the next sequence goes by. */
  #nextMode: ModeName;
  /** `ordered`: what the running sequence goes by. */
  #ordered: number;
  /** `ordseq`. */
  #over = 0;
  #parked: QueuedRequest<C> | undefined;
  #firstError: { readonly error?: unknown } | undefined;
  #colour = false;
  #inFlight = 0;

  constructor({ era, mode, mergeBytesMax = MERGE_BYTES_MAX }: OrderedQueueOptions) {
    this.#era = era;
    this.#nextMode = mode;
    this.#ordered = encodeLegacyMode(mode, '2.6.31');
    this.#elevator = new Elevator(mergeBytesMax);
  }

  // What there is to see

  /** The mode that the next barrier goes by. */
  get mode(): ModeName {
    return this.#nextMode;
  }

  /** The steps of the running sequence that are over, as `ORDSEQ` bits; 0 when there is none. */
  get ordseq(): number {
    return this.#over;
  }

  /** The step that the running sequence is at, one of `ORDSEQ`; 0 when there is none. */
  get step(): number {
    return this.#over === 0 ? 0 : ~this.#over & (this.#over + 1);
  }

  /** Requests of file systems that the driver has; a drain waits for them. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** The dispatch list, its head first, as it is now. */
  get list(): readonly Readonly<QueuedRequest<C>>[] {
    return this.#elevator.list.map((rq) => Object.freeze({ ...rq }));
  }

  /** Nobody waits, and nothing is with the driver. */
  get idle(): boolean {
    const { list, waiting } = this.#elevator;
    return list.length + waiting + this.#running.size === 0 && this.#over === 0;
  }

  // Events

  /** `blk_queue_ordered`, once the value has been accepted. */
  setMode(mode: ModeName): void {
    this.#ordered = encodeLegacyMode(mode, '2.6.31');
    this.#nextMode = mode;
  }

  /**
   * `submit_bio`.
   *
   * @throws `ZERO_LENGTH` for no bytes, unless it is a barrier and the era has empty ones; nothing was queued
   */
  submit(bio: Bio, client: C): void {
    const { op, barrier } = bio;
    const empty = bio.length === 0;
    if (empty && (!barrier || op === 'discard' || this.#era.emptyBarrier === 'refused')) {
      throw new WriteBarrierError('ZERO_LENGTH', 'a bio of no bytes, which the kernel stops at');
    }
    const discards = op !== 'discard' || this.#era.discardBarrier !== 'none';
    if (!discards || (barrier && this.#nextMode === 'NONE')) {
      this.#answer(client, { error: unsupported() }); // B8
      return;
    }
    if (!barrier && this.#elevator.merge(bio, client)) return;
    const soft = barrier && op === 'discard' && this.#era.discardBarrier === 'soft';
    const flags = { packet: false, hard: barrier && !soft, soft, fua: false } as const;
    const range = { offset: bio.offset, length: bio.length };
    const rq = this.#request({ op, ...range, ...flags, stage: 'plain', clients: [client] });
    if (barrier) this.#elevator.back(rq);
    else this.#elevator.add(rq);
  }

  /** `blk_execute_rq`: a command of the driver's own, or of an ioctl, at the head of the list or at its tail. */
  packet(op: Operation, client: C, at: 'front' | 'back'): void {
    const flags = { packet: true, hard: false, soft: false, fua: false } as const;
    const rq = this.#request({ op, ...NO_BYTES, ...flags, stage: 'plain', clients: [client] });
    this.#elevator[at](rq);
  }

  complete(command: BlockCommand<C>, _nowMs: number, error?: unknown): void {
    this.#finish(this.#returned(command), error);
  }

  /** The driver puts the request of a command back: it could not do it now. */
  requeue(command: BlockCommand<C>): void {
    const rq = this.#returned(command);
    if (!rq.packet) this.#inFlight -= 1;
    const own = this.#classOf(rq);
    const isLater = (other: QueuedRequest<C>): boolean => this.#classOf(other) >= own;
    this.#elevator.requeue(rq, this.#over === 0 ? undefined : isLater); // B7
  }

  // Answers

  next(_nowMs = 0): BlockCommand<C> | undefined {
    for (;;) {
      const [head] = this.#elevator.list;
      if (!head) {
        if (this.#elevator.dispatch()) continue;
        return undefined;
      }
      const verdict = this.#decide(head);
      if (verdict === 'hold') return undefined;
      if (verdict === 'gone') continue;
      // A sequence that has just begun has put its first stand-in there.
      const rq = this.#elevator.list[0] as QueuedRequest<C>;
      if (rq.stage !== 'bar' || rq.length > 0) return this.#take(rq);
      // The placeholder of an empty barrier, which no driver sees. In TAG nothing has held it back.
      this.#elevator.drop(rq);
      this.#completeSteps(ORDSEQ.BAR);
    }
  }

  takeAnswered(): BlockAnswer<C> | undefined {
    return this.#answered.shift();
  }

  // The rule of the head

  /** `blk_do_ordered`. */
  #decide(head: QueuedRequest<C>): Verdict {
    const isBarrier = !head.packet && head.hard;
    if (this.#over === 0) {
      if (!isBarrier) return 'pass';
      if (this.#nextMode !== 'NONE') return this.#start(head);
      this.#elevator.drop(head);
      for (const client of head.clients) this.#answer(client, { error: unsupported() }); // B8
      return 'gone';
    }
    if (this.#ordered & BY_TAG) return isBarrier && head.stage !== 'bar' ? 'hold' : 'pass'; // B3, B5
    return this.#classOf(head) > this.step ? 'hold' : 'pass'; // B2
  }

  /** `blk_ordered_req_seq`: the step that a request belongs to. */
  #classOf(rq: QueuedRequest<C>): number {
    const standIn = STAND_INS.find(({ stage }) => stage === rq.stage);
    if (standIn) return standIn.step;
    if (rq.packet || rq.colour === this.#parked?.colour) return ORDSEQ.DRAIN; // so a packet passes
    return ORDSEQ.DONE;
  }

  /** `start_ordered`. */
  #start(barrier: QueuedRequest<C>): Verdict {
    const { emptyBarrier } = this.#era;
    const empty = barrier.length === 0;
    let ordered = encodeLegacyMode(this.#nextMode, '2.6.31');
    let steps = ordered;
    if (empty) steps &= ~DO_POSTFLUSH;
    if (empty && emptyBarrier === 'masked') {
      steps &= ~DO_BAR;
      ordered = steps;
      // Nothing is left to carry the tag.
      if (ordered & BY_TAG && !(ordered & DO_PREFLUSH)) ordered ^= BY_TAG | BY_DRAIN;
    }
    this.#ordered = ordered;
    this.#firstError = undefined;
    this.#over = ORDSEQ.STARTED;
    this.#elevator.drop(barrier);
    this.#parked = barrier;

    let skipped = 0;
    for (const { stage, bit, step } of STAND_INS) {
      if (steps & bit) this.#elevator.front(this.#standIn(stage, barrier));
      else skipped |= step;
    }
    const drains = (ordered & BY_DRAIN) !== 0 && this.#inFlight > 0;
    if (!drains) skipped |= ORDSEQ.DRAIN;
    if (this.#completeSteps(skipped)) return 'gone';
    return drains ? 'hold' : 'pass';
  }

  #standIn(stage: 'preflush' | 'bar' | 'postflush', barrier: QueuedRequest<C>): QueuedRequest<C> {
    const { clients, op, offset, length, colour } = barrier;
    const fua = stage === 'bar' && (this.#ordered & DO_FUA) !== 0;
    const flags = { hard: true, soft: true, fua, stage, colour };
    if (stage === 'bar') return { ...flags, op, offset, length, clients, packet: false };
    const packet = this.#era.flushProxies === 'packet';
    return { ...flags, op: 'flush', ...NO_BYTES, clients, packet };
  }

  // The way of a request

  /** B1. */
  #request(rq: Omit<QueuedRequest<C>, 'colour'>): QueuedRequest<C> {
    const coloured = { ...rq, colour: this.#colour };
    if (rq.hard) this.#colour = !this.#colour;
    return coloured;
  }

  #take(rq: QueuedRequest<C>): BlockCommand<C> {
    this.#elevator.take(rq);
    if (!rq.packet) this.#inFlight += 1;
    const tag = rq.hard && this.#ordered & BY_TAG ? 'ordered' : 'simple';
    const { op, fua, stage, clients } = rq;
    const command = commandOf(op, rq, { tag, fua, stage }, clients);
    this.#running.set(command, rq);
    return command;
  }

  #returned(command: BlockCommand<C>): QueuedRequest<C> {
    const rq = this.#running.get(command);
    if (!rq) throw noSuchCommand();
    this.#running.delete(command);
    return rq;
  }

  #finish(rq: QueuedRequest<C>, error: unknown): void {
    const standIn = STAND_INS.find(({ stage }) => stage === rq.stage);
    const outcome = error === undefined ? {} : { error };
    if (!standIn) for (const client of rq.clients) this.#answer(client, outcome);
    if (!rq.packet) this.#inFlight -= 1;
    this.#checkDrained();
    if (standIn) this.#completeSteps(standIn.step, outcome);
  }

  /** B4: `elv_completed_request`. */
  #checkDrained(): void {
    if (this.step !== ORDSEQ.DRAIN || this.#inFlight > 0) return;
    const [head] = this.#elevator.list;
    if (!head || this.#classOf(head) > ORDSEQ.DRAIN) this.#completeSteps(ORDSEQ.DRAIN);
  }

  /** B6: `blk_ordered_complete_seq`. True when that was the last one. */
  #completeSteps(steps: number, outcome: { readonly error?: unknown } = {}): boolean {
    if ('error' in outcome) this.#firstError ??= outcome;
    bugOn((this.#over & steps) !== 0, 'a step of a sequence completes once');
    this.#over |= steps;
    if (this.step !== ORDSEQ.DONE) return false;
    this.#over = 0;
    for (const client of this.#parked?.clients ?? []) this.#answer(client, this.#firstError ?? {});
    this.#parked = undefined;
    return true;
  }

  #answer(client: C, outcome: { readonly error?: unknown }): void {
    this.#answered.push({ client, ...outcome });
  }
}
