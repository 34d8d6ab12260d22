// The state of a scheduler as its trace shows it: where each request and command is after each event. It judges nothing: the
// checker reads the state, judges the event, and then applies it.
//
// A barrier is a fence between older and younger requests, until it is lifted:
//
//   by drain   when it is over (answered, with no command at the device) and everything older is over
//   by tag     when all its commands are dispatched, and an ordered command was dispatched after everything older; or under
//              the condition for drain
//
// A cancelled or aborted barrier leaves a tombstone that is still a fence, because other requests rely on its place. For a
// tombstone the scheduler may still issue the commands that an empty barrier would have. If its mode flushes, the tombstone is
// lifted only when everything before it is on the medium; after a failed flush this is not demanded, because the state of the
// medium is unknown. The flush of the next barrier may also lift a tombstone, so several in a row need only one flush.
//
// Requests are numbered in the order of submission, and every structure here relies on that. Memory is bounded by what is
// open, however long the trace is: a request that has ended is removed, and of the writes that are not durable only the oldest
// of each epoch is kept. An epoch is a set of writes that the same flush is the first to cover. A flush covers the writes that completed
// before its dispatch, and those that an ordered tag puts before it at the device; later flushes cover these as well. So when a
// flush succeeds, its epoch and all older ones are durable; when it fails, its epoch joins the next.
//
//   A1  A command completes once, and only after it was dispatched.

import {
  type CommandStep,
  type DeviceTraits,
  type DispatchEvent,
  initialState,
  isBarrier,
  isMutation,
  lowerSteps,
  type ModeName,
  type Request,
  type SettleEvent,
  type SubmitEvent,
  transition,
} from '../../model/index.js';

/** No such event yet. */
export const NEVER = -1;

/** What a request becomes in a mode on a device. */
interface Expected {
  readonly commands: readonly CommandStep[];
  /** It begins with a drain: it waits for everything older. */
  readonly drains: boolean;
  readonly refused: boolean;
}

/** The state of a request. Moments are indexes of events. */
export class Asked {
  readonly number: number;
  readonly what: Request;
  readonly expected: Expected;
  readonly start: number;
  readonly end: number;
  /** Where the bytes end that no other command may touch meanwhile: a resize keeps all from its start on (storage.S13). */
  readonly reach: number;
  readonly isResize: boolean;
  readonly mutates: boolean;
  readonly barrier: boolean;
  /** The stages of a barrier that may be dispatched; fewer than expected after a cancellation. */
  stagesDue: readonly CommandStep[];
  /** How many of them have been dispatched. */
  stages = 0;
  data: 'none' | 'waiting' | 'issued' | 'done';
  /** Commands at the device that serve it: data, and flushes. */
  dataInFlight = 0;
  flushesInFlight = 0;
  /** A flush that serves it has succeeded. */
  flushed = false;
  /** The data needs no flush to be on the medium. */
  forced = false;
  /** It ended without its own write, and left a tombstone. */
  leftPlace = false;

  readonly submitted: number;
  /** The last dispatch of any command for it. */
  dispatched: number = NEVER;
  dataDispatched: number = NEVER;
  completed: number = NEVER;
  failed: number = NEVER;
  settled: number = NEVER;

  constructor(number: number, what: Request, expected: Expected, submitted: number) {
    const ranged = what.kind !== 'flush' && what.kind !== 'barrier';
    this.number = number;
    this.what = what;
    this.expected = expected;
    this.stagesDue = expected.commands;
    this.start = ranged ? what.offset : 0;
    this.end = ranged ? what.offset + what.length : 0;
    this.isResize = 'size' in what && what.size !== undefined;
    this.reach = this.isResize ? Number.MAX_SAFE_INTEGER : this.end;
    this.mutates = isMutation(what);
    this.barrier = isBarrier(what);
    this.data = ranged ? 'waiting' : 'none';
    this.submitted = submitted;
  }

  get inFlight(): number {
    return this.dataInFlight + this.flushesInFlight;
  }

  /** The last event about it. */
  get touched(): number {
    return Math.max(this.submitted, this.dispatched, this.completed, this.settled);
  }

  /** Answered, and without a command at the device. */
  get over(): boolean {
    return this.settled !== NEVER && this.inFlight === 0;
  }
}

/** A set of requests that knows its oldest member. */
class Line {
  readonly #members = new Map<number, Asked>();
  #from = 0;

  add(asked: Asked): void {
    if (this.#members.size === 0 || asked.number < this.#from) this.#from = asked.number;
    this.#members.set(asked.number, asked);
  }

  delete(asked: Asked): void {
    this.#members.delete(asked.number);
  }

  get oldest(): Asked | undefined {
    if (this.#members.size === 0) return undefined;
    let found = this.#members.get(this.#from);
    while (!found) found = this.#members.get(++this.#from);
    return found;
  }

  /** The oldest member, if it is older than `asked`. */
  before(asked: Asked): Asked | undefined {
    const { oldest } = this;
    return oldest && oldest.number < asked.number ? oldest : undefined;
  }
}

const CELL_BYTES = 4096;
const CELL_GROWTH = 16;

/** Which request claims which bytes. A claim is in at most two cells, of a size that fits it. */
class Claims {
  readonly #levels = new Map<number, Map<number, Set<Asked>>>();

  add(asked: Asked): void {
    const bytes = cellBytes(asked);
    const cells = this.#levels.get(bytes) ?? new Map<number, Set<Asked>>();
    this.#levels.set(bytes, cells);
    const [first, last] = cellsOf(asked, bytes);
    for (let cell = first; cell <= last; cell++) {
      const claims = cells.get(cell);
      if (claims) claims.add(asked);
      else cells.set(cell, new Set([asked]));
    }
  }

  delete(asked: Asked): void {
    const bytes = cellBytes(asked);
    const cells = this.#levels.get(bytes);
    const [first, last] = cellsOf(asked, bytes);
    for (let cell = first; cells && cell <= last; cell++) {
      const claims = cells.get(cell);
      if (claims?.delete(asked) && claims.size === 0) cells.delete(cell);
    }
  }

  /** An older claim that overlaps, if one of the two writes, and that is `wanted`. */
  older(than: Asked, wanted: (other: Asked) => boolean): Asked | undefined {
    for (const [bytes, cells] of this.#levels) {
      const [first, last] = cellsOf(than, bytes);
      const all = last - first >= cells.size;
      for (const claims of all ? cells.values() : slice(cells, first, last)) {
        // Claims come in the order of submission.
        for (const other of claims) {
          if (other.number >= than.number) break;
          const meets = other.start < than.reach && than.start < other.reach;
          if (meets && (other.mutates || than.mutates) && wanted(other)) return other;
        }
      }
    }
    return undefined;
  }
}

function* slice<T>(cells: ReadonlyMap<number, T>, first: number, last: number): Iterable<T> {
  for (let cell = first; cell <= last; cell++) {
    const found = cells.get(cell);
    if (found) yield found;
  }
}

function cellBytes({ start, reach }: Asked): number {
  let bytes = CELL_BYTES;
  while (bytes < reach - start) bytes *= CELL_GROWTH;
  return bytes;
}

function cellsOf({ start, reach }: Asked, bytes: number): [first: number, last: number] {
  return [Math.floor(start / bytes), Math.floor((reach - 1) / bytes)];
}

/** A flush at the device. */
interface RunningFlush {
  readonly dispatched: number;
  /** The device carries out everything dispatched up to here before the flush, completed or not. */
  readonly behind: number;
  /** The oldest write of its epoch. */
  oldest: Asked | undefined;
}

/** Which writes are not durable. */
class Coverage {
  readonly #volatile: boolean;
  /** Oldest dispatch first. */
  readonly #running: RunningFlush[] = [];
  /** The oldest write since the last dispatch of a flush. */
  #rest: Asked | undefined;
  /** The largest `behind` of the flushes that succeeded. */
  #behind = NEVER;
  #dispatched = NEVER;

  constructor(volatile: boolean) {
    this.#volatile = volatile;
  }

  flushDispatched(dispatched: number, behind: number): RunningFlush {
    const flush: RunningFlush = { dispatched, behind, oldest: this.#rest };
    this.#rest = undefined;
    this.#running.push(flush);
    return flush;
  }

  flushCompleted(flush: RunningFlush, ok: boolean): void {
    const at = this.#running.indexOf(flush);
    if (ok) {
      this.#dispatched = Math.max(this.#dispatched, flush.dispatched);
      this.#behind = Math.max(this.#behind, flush.behind);
      for (const older of this.#running.slice(0, at + 1)) older.oldest = undefined;
    } else {
      const next = this.#running[at + 1];
      if (next) next.oldest = olderOf(next.oldest, flush.oldest);
      else this.#rest = olderOf(this.#rest, flush.oldest);
    }
    this.#running.splice(at, 1);
  }

  /** A write has succeeded. */
  wrote(asked: Asked): void {
    if (this.isDurable(asked)) return;
    const flush = this.#running.find(({ behind }) => behind >= asked.dataDispatched);
    if (flush) flush.oldest = olderOf(flush.oldest, asked);
    else this.#rest = olderOf(this.#rest, asked);
  }

  /** Whether a write that has succeeded is on the medium. */
  isDurable({ forced, completed, dataDispatched }: Asked): boolean {
    if (!this.#volatile || forced) return true;
    return completed < this.#dispatched || dataDispatched <= this.#behind;
  }

  /** A write that has succeeded, is older, and is not on the medium. */
  notDurableBefore(asked: Asked): Asked | undefined {
    let oldest = this.#rest;
    for (const flush of this.#running) oldest = olderOf(oldest, flush.oldest);
    return oldest && oldest.number < asked.number ? oldest : undefined;
  }
}

function olderOf(a: Asked | undefined, b: Asked | undefined): Asked | undefined {
  if (!a || !b) return a ?? b;
  return a.number < b.number ? a : b;
}

export type CommandWhat = DispatchEvent['what'];

/** A command at the device. */
interface Running {
  readonly what: CommandWhat;
  readonly serves: readonly Asked[];
  readonly flush: RunningFlush | undefined;
  readonly dispatched: number;
}

const PLAIN: Expected = { commands: [], drains: false, refused: false };

/** The state after the events so far. */
export class TraceAccount {
  readonly #mode: ModeName;
  readonly #device: DeviceTraits;
  /** The commands that a tombstone may still have. */
  readonly #place: Expected;

  /** The index of the current event. */
  at: number = NEVER;
  submitted = 0;
  issued = 0;
  /** Requests that later events may be about. */
  readonly requests: Map<number, Asked> = new Map();
  readonly commands: Map<number, Running> = new Map();

  /** Requests that are not over. */
  readonly open: Line = new Line();
  /** Requests, barriers excepted, whose data has not been dispatched. */
  readonly undispatched: Line = new Line();
  /** Writing requests that have not completed. */
  readonly writing: Line = new Line();
  /** Requests whose data is at the device, or may still come there. */
  readonly claims: Claims = new Claims();
  readonly coverage: Coverage;

  readonly #fences = new Line();
  /** Tombstones that may still have commands. */
  readonly #places = new Line();
  /** All requests before this number were dispatched before an ordered command. */
  #carried = 0;
  /** When the last ordered command was dispatched. */
  lastOrdered: number = NEVER;
  /** The barrier of the last dispatch for a barrier. */
  sequence: Asked | undefined;
  /** The last failed write that was answered and has not been overwritten. */
  failure: Asked | undefined;
  flushFailed = false;
  /** A flush has failed, and only reads have been dispatched since, because the scheduler has not recovered. */
  halted = false;
  /** Requests before this number had been submitted when the flush failed. */
  #haltedFrom = 0;

  /** @throws `EINVAL` */
  constructor(mode: ModeName, device: DeviceTraits) {
    this.#mode = mode;
    this.#device = device;
    this.#place = this.#expected({ kind: 'barrier' });
    this.coverage = new Coverage(device.cache === 'volatile');
  }

  /** The oldest fence that is not lifted and older than `asked`, which is about to have this command. */
  fenceBefore(asked: Asked, { op }: CommandWhat): Asked | undefined {
    // The flush of a barrier serves older tombstones as well.
    const joins = asked.barrier && op === 'flush';
    for (;;) {
      const fence = this.#fences.before(asked);
      if (!fence) return undefined;
      if (!(joins && fence.leftPlace) && !this.#isLifted(fence)) return fence;
      this.#fences.delete(fence);
    }
  }

  /** An older request that overlaps, if one of the two writes, and whose data is or may come to the device. */
  meets(asked: Asked, wanted: (other: Asked) => boolean): Asked | undefined {
    return this.claims.older(
      asked,
      (other) => (other.data === 'issued' || !this.halted) && wanted(other),
    );
  }

  /** Whether a request that has ended may still have commands: a tombstone. */
  isOwed({ settled, stages, stagesDue }: Asked): boolean {
    return settled !== NEVER && stages < stagesDue.length;
  }

  // Events

  submit(what: SubmitEvent['what']): void {
    const asked = new Asked(this.submitted, what, this.#expected(what), this.at);
    this.submitted += 1;
    this.requests.set(asked.number, asked);
    this.open.add(asked);
    if (asked.mutates) this.writing.add(asked);
    if (asked.data === 'waiting') this.claims.add(asked);
    if (!asked.barrier && asked.data === 'waiting') this.undispatched.add(asked);
    if (asked.barrier && !asked.expected.refused) this.#fences.add(asked);
  }

  /**
   * Called before a dispatch is judged. A command other than a read ends a halt. If only reads are at the device then, the
   * scheduler has recovered: the requests that waited when the flush failed have been refused, and their tombstones are
   * gone with them.
   */
  resume({ op }: CommandWhat): void {
    if (!this.halted || op === 'read') return;
    this.halted = false;
    for (const { what } of this.commands.values()) if (what.op !== 'read') return;
    for (;;) {
      const fence = this.#fences.oldest;
      if (!fence || fence.settled === NEVER || fence.number >= this.#haltedFrom) return;
      this.#fences.delete(fence);
    }
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

  /** A1. */
  complete(command: number, ok: boolean): void {
    const { flush, serves } = this.commands.get(command) as Running;
    this.commands.delete(command);
    if (flush) this.coverage.flushCompleted(flush, ok);
    if (flush && !ok) {
      this.flushFailed = true;
      this.halted = true;
      this.#haltedFrom = this.submitted;
    }
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
  }

  settle(asked: Asked, outcome: SettleEvent['outcome']): void {
    asked.settled = this.at;
    if (asked.failed !== NEVER && asked.mutates) this.failure = asked;
    if (asked.dataInFlight === 0) this.#dataGone(asked);
    if (asked.barrier) this.#barrierSettled(asked, outcome);
    this.#forget(asked);
  }

  // Entries

  #expected(what: SubmitEvent['what']): Expected {
    const flagged = what.kind === 'write' && (what.preflush || what.fua);
    if (!isBarrier(what) && !flagged && what.kind !== 'flush') return PLAIN;
    // The drain is never left out, because it counts what is at the device.
    const { steps } = transition({ ...initialState(this.#mode), drained: false }, what);
    const lowered = lowerSteps(steps, this.#device);
    const { blockSize } = what;
    const commands = lowered.filter((step) => step.kind === 'command');
    const first = lowered[0]?.kind;
    return {
      commands: commands.map((step) => ({ ...step, blockSize })),
      drains: first === 'drain',
      refused: first === 'refuse',
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

  /** A younger request has passed these tombstones, so they have no more commands. */
  #vacatePlaces(asked: Asked): void {
    for (let place = this.#places.before(asked); place; place = this.#places.before(asked)) {
      this.#places.delete(place);
      place.stagesDue = place.stagesDue.slice(0, place.stages);
      this.#forget(place);
    }
  }

  /** The data of a request will not be at the device again. */
  #dataGone(asked: Asked): void {
    if (asked.data === 'none' || asked.data === 'done') return;
    asked.data = 'done';
    this.undispatched.delete(asked);
    this.writing.delete(asked);
    this.claims.delete(asked);
  }

  #barrierSettled(asked: Asked, outcome: SettleEvent['outcome']): void {
    // A barrier that is refused, or that fails because of a failed flush, is no fence.
    const cut = outcome === 'FAILED' || (outcome === 'FLUSH_FAILED' && this.halted);
    if (outcome === 'EOPNOTSUPP' || cut) this.#fences.delete(asked);
    asked.leftPlace = outcome === 'cancelled' || outcome === 'BARRIER_ABORTED';
    const empty = asked.leftPlace && asked.stages === 0;
    asked.stagesDue = empty ? this.#place.commands : asked.stagesDue.slice(0, asked.stages);
    if (this.isOwed(asked)) this.#places.add(asked);
  }

  /** Forgets a request that is over, unless its tombstone may still have commands. */
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
