// The account that the checker of traces keeps: who is where after each event. It judges nothing; the checker asks it,
// judges, and then enters the event.
//
// A barrier is a fence in the line of requests. It lies across the way of younger requests until it is lifted:
//
//   by drain   when it is over (answered, nothing of it at the device) and so is everything older
//   by tag     when all its commands are dispatched, and an ordered command after everything older was; or as by drain
//
// A cancelled or aborted barrier stays a fence, because others rely on its place: the scheduler may still issue what
// an empty barrier would in its name. Where its mode flushes, it is then lifted only when what lies before it is on the
// medium; unless a flush has failed, after which nobody knows what is where. The flush of the next barrier serves as
// well, so places in a row need but one.

import {
  type DeviceTraits,
  type DispatchEvent,
  initialState,
  isBarrier,
  lowerSteps,
  type ModeName,
  type Request,
  type SettleEvent,
  transition,
} from '../../model/index.js';
import {
  Asked,
  Claims,
  Coverage,
  type Expected,
  Line,
  NEVER,
  type RunningFlush,
} from './trace-state.js';

export type CommandWhat = DispatchEvent['what'];

/** A command at the device. */
export interface Running {
  readonly what: CommandWhat;
  readonly serves: readonly Asked[];
  readonly flush: RunningFlush | undefined;
  readonly dispatched: number;
}

const PLAIN: Expected = { commands: [], drains: false, refused: false };

/** See the head of this file. */
export class TraceAccount {
  readonly #mode: ModeName;
  readonly #device: DeviceTraits;
  /** What a cancelled barrier leaves in its place. */
  readonly #place: Expected;

  /** The index of the event that is being read. */
  at: number = NEVER;
  submitted = 0;
  issued = 0;
  /** Those that something may still be heard of. */
  readonly requests: Map<number, Asked> = new Map();
  readonly commands: Map<number, Running> = new Map();

  /** Not over. */
  readonly open: Line = new Line();
  /** Their data has not been dispatched; no barriers. */
  readonly undispatched: Line = new Line();
  /** They write, and have not completed. */
  readonly writing: Line = new Line();
  /** Their data may be at the device, or come there. */
  readonly claims: Claims = new Claims();
  readonly coverage: Coverage;

  readonly #fences = new Line();
  /** Barriers that have ended and whose place may still issue something. */
  readonly #places = new Line();
  /** Requests before this number had been dispatched when an ordered command was. */
  #carried = 0;
  /** When the last ordered command was dispatched. */
  lastOrdered: number = NEVER;
  /** The barrier that has dispatched something last. */
  sequence: Asked | undefined;
  /** The last one that writes, has failed and was answered, unless something was written over it. */
  failure: Asked | undefined;
  flushFailed = false;

  /** @throws `EINVAL` */
  constructor(mode: ModeName, device: DeviceTraits) {
    this.#mode = mode;
    this.#device = device;
    this.#place = this.#expected({ kind: 'barrier' });
    this.coverage = new Coverage(device.cache === 'volatile');
  }

  /** The oldest barrier that has not been lifted, where it is older than `asked`, which is to have this command. */
  fenceBefore(asked: Asked, { op }: CommandWhat): Asked | undefined {
    // It does what is left to be done in older places.
    const joins = asked.barrier && op === 'flush';
    for (;;) {
      const fence = this.#fences.before(asked);
      if (!fence) return undefined;
      if (!(joins && fence.leftPlace) && !this.#isLifted(fence)) return fence;
      this.#fences.delete(fence);
    }
  }

  /** Whether an ended request may still have commands: a barrier in whose place an empty one stands. */
  isOwed({ settled, stages, stagesDue }: Asked): boolean {
    return settled !== NEVER && stages < stagesDue.length;
  }

  // Events

  submit(what: Request): void {
    const asked = new Asked(this.submitted, what, this.#expected(what), this.at);
    this.submitted += 1;
    this.requests.set(asked.number, asked);
    this.open.add(asked);
    if (asked.mutates) this.writing.add(asked);
    if (asked.data === 'waiting') this.claims.add(asked);
    if (!asked.barrier && asked.data === 'waiting') this.undispatched.add(asked);
    if (asked.barrier && !asked.expected.refused) this.#fences.add(asked);
  }

  dispatch(what: CommandWhat, serves: readonly Asked[]): void {
    const ordered = what.tag === 'ordered';
    for (const asked of serves) this.#dispatchedFor(asked, what);
    const behind = ordered ? this.at : this.lastOrdered;
    const flush = what.op === 'flush' ? this.coverage.flushDispatched(this.at, behind) : undefined;
    if (ordered) {
      this.lastOrdered = this.at;
      this.#carried = Math.max(this.#carried, this.undispatched.oldest?.number ?? this.submitted);
    }
    this.commands.set(this.issued, { what, serves, flush, dispatched: this.at });
    this.issued += 1;
  }

  /** False where the command is not at the device. */
  complete(command: number, ok: boolean): boolean {
    const running = this.commands.get(command);
    if (!running) return false;
    const { flush, serves } = running;
    this.commands.delete(command);
    if (flush) this.coverage.flushCompleted(flush, ok);
    if (flush && !ok) this.flushFailed = true;
    for (const asked of serves) {
      if (!ok) asked.failed = this.at;
      if (flush) {
        asked.flushesInFlight -= 1;
        if (ok) asked.flushed = true;
      } else {
        asked.dataInFlight -= 1;
        asked.completed = this.at;
        this.#dataGone(asked);
        if (ok && asked.mutates) this.#wrote(asked);
      }
      this.#forget(asked);
    }
    return true;
  }

  settle(asked: Asked, outcome: SettleEvent['outcome']): void {
    asked.settled = this.at;
    if (asked.failed !== NEVER && asked.mutates) this.failure = asked;
    if (asked.dataInFlight === 0) this.#dataGone(asked);
    if (asked.barrier) this.#barrierSettled(asked, outcome);
    this.#forget(asked);
  }

  // Entries

  #expected(what: Request): Expected {
    const flagged = what.kind === 'write' && (what.preflush || what.fua);
    if (!isBarrier(what) && !flagged && what.kind !== 'flush') return PLAIN;
    // A drain is never left out: what is at the device is what counts.
    const { steps } = transition({ ...initialState(this.#mode), drained: false }, what);
    const lowered = lowerSteps(steps, this.#device);
    return {
      commands: lowered.filter((step) => step.kind === 'command'),
      drains: lowered[0]?.kind === 'drain',
      refused: lowered[0]?.kind === 'refuse',
    };
  }

  #dispatchedFor(asked: Asked, { op, fua }: CommandWhat): void {
    asked.dispatched = this.at;
    if (asked.barrier) {
      asked.stages += 1;
      this.sequence = asked;
    }
    if (op !== 'read') this.#vacatePlaces(asked);
    if (op === 'flush') {
      asked.flushesInFlight += 1;
      return;
    }
    asked.dataInFlight += 1;
    asked.data = 'issued';
    asked.dataDispatched = this.at;
    asked.forced = fua;
    this.undispatched.delete(asked);
  }

  #wrote(asked: Asked): void {
    this.coverage.wrote(asked);
    const { failure } = this;
    if (failure && asked.start < failure.end && failure.start < asked.end) this.failure = undefined;
  }

  /** Somebody younger is past them: they issue nothing more. */
  #vacatePlaces(asked: Asked): void {
    for (let place = this.#places.before(asked); place; place = this.#places.before(asked)) {
      this.#places.delete(place);
      place.stagesDue = place.stagesDue.slice(0, place.stages);
      this.#forget(place);
    }
  }

  /** Its data is not going to be at the device any more. */
  #dataGone(asked: Asked): void {
    if (asked.data === 'none' || asked.data === 'done') return;
    asked.data = 'done';
    this.undispatched.delete(asked);
    this.writing.delete(asked);
    this.claims.delete(asked);
  }

  #barrierSettled(asked: Asked, outcome: SettleEvent['outcome']): void {
    if (outcome === 'EOPNOTSUPP') this.#fences.delete(asked);
    asked.leftPlace = outcome === 'cancelled' || outcome === 'BARRIER_ABORTED';
    const empty = asked.leftPlace && asked.stages === 0;
    asked.stagesDue = empty ? this.#place.commands : asked.stagesDue.slice(0, asked.stages);
    if (this.isOwed(asked)) this.#places.add(asked);
  }

  /** Lets go of a request that is over, unless its place may still issue something. */
  #forget(asked: Asked): void {
    if (!asked.over) return;
    this.open.delete(asked);
    if (!this.isOwed(asked)) this.requests.delete(asked.number);
  }

  #isLifted(fence: Asked): boolean {
    const { drains, commands } = fence.expected;
    const issued = fence.settled !== NEVER || fence.stages >= commands.length;
    if (!drains && issued && fence.number < this.#carried) return true;
    const { oldest } = this.open;
    if (oldest && oldest.number <= fence.number) return false;
    const flushes = this.#place.commands.length > 0 && !this.flushFailed;
    return !fence.leftPlace || !flushes || !this.coverage.notDurableBefore(fence);
  }
}
