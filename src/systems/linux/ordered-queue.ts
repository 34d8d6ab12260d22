// The request queue of Linux 2.6.18 to 2.6.36 with its hard barriers, step for step, as a state machine without promises,
// clocks and I/O. It models the kernel, defects included; the defects are fields of an era (eras.ts). The core's scheduler
// keeps the promises of the same modes in its own way.
//
//   idle ──a barrier is the head──▶ drain ──▶ preflush ──▶ bar ──▶ postflush ──▶ done, idle
//
// A sequence is a set of bits, ORDSEQ, of the steps that are over: its current step is the lowest that is not. Steps
// that the mode does not have are over from the start. The barrier itself is parked; proxy requests for its steps stand at
// the head of the dispatch list, and only the head of that list is ever looked at.
//
// Invariants, checked after every event in the tests:
//   B1  A barrier has the colour of what was submitted before it; what is submitted after it has the other.
//   B2  By drain, the head of the list passes when its class is not beyond the current step: an earlier request during the
//       drain, a proxy in its own step, a later request when the sequence is done. Reads and discards count like writes.
//   B3  By tag every request passes at once, except another barrier. A packet always passes.
//   B4  The drain is over when nothing is in flight and the head, if any, belongs to a later step: a request that the
//       driver put back at the head keeps it open.
//   B5  One sequence at a time, in every mode; so the driver never has two barriers.
//   B6  The first error that arrives is reported, and no step is skipped because of it: after a failed preflush the data
//       is written. The failure of an earlier request does not affect the barrier.
//   B7  Requests that the driver puts back stand in the order earlier, preflush, bar, postflush, later.
//   B8  Without a mode a barrier is refused: when it comes, or, if the mode went away while it waited, at the head.
//
// A change of the mode acts at once on the rule of a running sequence, B2 or B3, and leaves its proxies alone.
//
// Not here: drivers that look at a request without taking it; overlaps, which the submitter had to avoid; the limit on
// requests, at which the kernel let the submitter sleep.
//
// Source: block/ll_rw_blk.c of 2.6.24, block/blk-barrier.c, blk-core.c, elevator.c of 2.6.32 and 2.6.36.

import { type ModeName, type Operation, WriteBarrierError } from 'write-barrier';
import { invariant, type Machine, type Settled } from 'write-barrier/kit';
import { type BlockCommand, noSuchCommand, notSupported } from '../requests.js';
import { type Bio, Elevator, type QueuedRequest } from './elevator.js';
import { type BarrierEra, encodeLegacyMode, LEGACY_LAYOUTS } from './eras.js';

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

/** The bits of a mode in here, whatever the era's own layout is. Which mode has which is the core's knowledge. */
const BITS = LEGACY_LAYOUTS['2.6.31'];
const orderedOf = (mode: ModeName): number => encodeLegacyMode(mode, '2.6.31');
const NO_BYTES = Object.freeze({ offset: 0, length: 0 });

/** The proxies, in the order in which they are put in front of the list. */
const PROXIES = [
  { stage: 'postflush', bit: BITS.postflush, step: ORDSEQ.POSTFLUSH },
  { stage: 'bar', bit: BITS.bar, step: ORDSEQ.BAR },
  { stage: 'preflush', bit: BITS.preflush, step: ORDSEQ.PREFLUSH },
] as const;

/** What may happen to the head of the list. `gone`: it was consumed, look at the next one. */
type Verdict = 'pass' | 'hold' | 'gone';

/** What a queue is made with. */
export interface OrderedQueueOptions {
  /** What differs between kernels. */
  readonly era: BarrierEra;
  /** The mode at the start. */
  readonly mode: ModeName;
  /** In bytes: requests merge up to this size; 0 merges nothing, as `nomerges` does. @defaultValue 512 KiB */
  readonly mergeBytesMax?: number;
}

/** BLK_DEF_MAX_SECTORS. */
const MERGE_BYTES_MAX = 1024 * 512;

/** The request queue with hard barriers. */
export class OrderedQueue<C> implements Omit<Machine<C, BlockCommand<C>>, 'submit'> {
  readonly #era: BarrierEra;
  readonly #elevator: Elevator<C>;
  readonly #running = new Map<BlockCommand<C>, QueuedRequest<C>>();
  readonly #answered: Settled<C>[] = [];

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
    this.#ordered = orderedOf(mode);
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

  /** No request waits, and no command is in flight. */
  get idle(): boolean {
    const { list, waiting } = this.#elevator;
    return list.length + waiting + this.#running.size === 0 && this.#over === 0;
  }

  // Events

  /** `blk_queue_ordered`, once the value has been accepted. */
  setMode(mode: ModeName): void {
    this.#ordered = orderedOf(mode);
    this.#nextMode = mode;
  }

  /** @throws `ZERO_LENGTH` for a bio of no bytes, except for a barrier where the era has empty ones */
  check({ op, barrier, length }: Bio): void {
    if (length > 0) return;
    if (barrier && op !== 'discard' && this.#era.emptyBarrier !== 'refused') return;
    throw new WriteBarrierError(
      'ZERO_LENGTH',
      'the bio has 0 bytes, which submit_bio() does not accept; only a barrier may be empty, and not in every era',
    );
  }

  /** `submit_bio`. @throws as `check`; nothing was queued */
  submit(bio: Bio, client: C): void {
    this.check(bio);
    const { op, barrier } = bio;
    const discards = op !== 'discard' || this.#era.discardBarrier !== 'none';
    if (!discards || (barrier && this.#nextMode === 'NONE')) {
      this.#answer(client, { error: notSupported(barrier ? 'barrier' : op) }); // B8
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

  complete(command: BlockCommand<C>, error?: unknown): void {
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

  next(): BlockCommand<C> | undefined {
    for (;;) {
      const [head] = this.#elevator.list;
      if (!head) {
        if (this.#elevator.dispatch()) continue;
        return undefined;
      }
      const verdict = this.#decide(head);
      if (verdict === 'hold') return undefined;
      if (verdict === 'gone') continue;
      // A sequence that has just begun has put its first proxy there.
      const rq = this.#elevator.list[0] as QueuedRequest<C>;
      if (rq.stage !== 'bar' || rq.length > 0) return this.#take(rq);
      // The placeholder of an empty barrier, which no driver sees. In TAG nothing has held it back.
      this.#elevator.drop(rq);
      this.#completeSteps(ORDSEQ.BAR);
    }
  }

  takeSettled(): Settled<C> | undefined {
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
      for (const client of head.clients) this.#answer(client, { error: notSupported('barrier') }); // B8
      return 'gone';
    }
    if (this.#ordered & BITS.tag) return isBarrier && head.stage !== 'bar' ? 'hold' : 'pass'; // B3, B5
    return this.#classOf(head) > this.step ? 'hold' : 'pass'; // B2
  }

  /** `blk_ordered_req_seq`: the step that a request belongs to. */
  #classOf(rq: QueuedRequest<C>): number {
    const proxy = PROXIES.find(({ stage }) => stage === rq.stage);
    if (proxy) return proxy.step;
    if (rq.packet || rq.colour === this.#parked?.colour) return ORDSEQ.DRAIN; // so a packet passes
    return ORDSEQ.DONE;
  }

  /** `start_ordered`. */
  #start(barrier: QueuedRequest<C>): Verdict {
    const { emptyBarrier } = this.#era;
    const empty = barrier.length === 0;
    let ordered = orderedOf(this.#nextMode);
    let steps = ordered;
    if (empty) steps &= ~BITS.postflush;
    if (empty && emptyBarrier === 'masked') {
      steps &= ~BITS.bar;
      ordered = steps;
      // Nothing is left to carry the tag.
      if (ordered & BITS.tag && !(ordered & BITS.preflush)) ordered ^= BITS.tag | BITS.drain;
    }
    this.#ordered = ordered;
    this.#firstError = undefined;
    this.#over = ORDSEQ.STARTED;
    this.#elevator.drop(barrier);
    this.#parked = barrier;

    let skipped = 0;
    for (const { stage, bit, step } of PROXIES) {
      if (steps & bit) this.#elevator.front(this.#proxyOf(stage, barrier));
      else skipped |= step;
    }
    const drains = (ordered & BITS.drain) !== 0 && this.#inFlight > 0;
    if (!drains) skipped |= ORDSEQ.DRAIN;
    if (this.#completeSteps(skipped)) return 'gone';
    return drains ? 'hold' : 'pass';
  }

  #proxyOf(stage: 'preflush' | 'bar' | 'postflush', barrier: QueuedRequest<C>): QueuedRequest<C> {
    const { clients, op, offset, length, colour } = barrier;
    const fua = stage === 'bar' && (this.#ordered & BITS.fua) !== 0;
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
    const tag = rq.hard && this.#ordered & BITS.tag ? 'ordered' : 'simple';
    const { op, offset, length, fua, stage, clients } = rq;
    const what = { kind: 'command', op, offset, length, tag, fua, stage } as const;
    const command = { what, clients };
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
    const proxy = PROXIES.find(({ stage }) => stage === rq.stage);
    const outcome = error === undefined ? {} : { error };
    if (!proxy) for (const client of rq.clients) this.#answer(client, outcome);
    if (!rq.packet) this.#inFlight -= 1;
    this.#checkDrained();
    if (proxy) this.#completeSteps(proxy.step, outcome);
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
    invariant((this.#over & steps) === 0, 'ordered-queue.B5: a step of a sequence completes once');
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
