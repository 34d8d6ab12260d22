// What the checker of traces remembers: requests that are open, who of them is the oldest, who wants which bytes,
// and which writes a flush still has to cover. Requests are numbered in the order of their submission, and every
// structure here leans on it.
//
// All of it is bounded by what is open, however long the trace: a request that has ended leaves, and of the writes
// that are not durable only the oldest of each epoch is kept. An epoch is what one and the same flush covers first.
// A flush covers the writes that completed before its dispatch, and those that an ordered tag puts before it at the
// device; later flushes cover these as well. So when one succeeds, its epoch and all older ones are durable; when
// one fails, its epoch becomes part of the next.

import { type CommandStep, isBarrier, isMutation, type Request } from '../../model/index.js';

/** No such event yet. */
export const NEVER = -1;

/** What a mode makes of a request on a device. */
export interface Expected {
  readonly commands: readonly CommandStep[];
  /** It begins with a drain: it waits for what is older. */
  readonly drains: boolean;
  readonly refused: boolean;
}

/** A request, as far as its story has been told. Moments are indexes of events. */
export class Asked {
  readonly number: number;
  readonly what: Request;
  readonly expected: Expected;
  readonly start: number;
  readonly end: number;
  readonly mutates: boolean;
  readonly barrier: boolean;
  /** What of a barrier may be dispatched; less than expected once it has been cancelled. */
  stagesDue: readonly CommandStep[];
  /** How many of them have been. */
  stages = 0;
  data: 'none' | 'waiting' | 'issued' | 'done';
  /** Commands at the device that serve it: data, and flushes. */
  dataInFlight = 0;
  flushesInFlight = 0;
  /** A flush that serves it has succeeded. */
  flushed = false;
  /** The data needs no flush to be on the medium. */
  forced = false;
  /** It ended without its own write, and leaves an ordering point. */
  leftPlace = false;

  readonly submitted: number;
  /** Any command of it, the last one. */
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
    this.mutates = isMutation(what);
    this.barrier = isBarrier(what);
    this.data = ranged ? 'waiting' : 'none';
    this.submitted = submitted;
  }

  get inFlight(): number {
    return this.dataInFlight + this.flushesInFlight;
  }

  /** When something was last heard of it. */
  get touched(): number {
    return Math.max(this.submitted, this.dispatched, this.completed, this.settled);
  }

  /** Answered, and nothing of it at the device. */
  get over(): boolean {
    return this.settled !== NEVER && this.inFlight === 0;
  }
}

/** Some of the requests, of which only the oldest is ever asked for. */
export class Line {
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

  /** The oldest, where it is older than `asked`. */
  before(asked: Asked): Asked | undefined {
    const { oldest } = this;
    return oldest && oldest.number < asked.number ? oldest : undefined;
  }
}

const CELL_BYTES = 4096;
const CELL_GROWTH = 16;

/** Who wants which bytes. A claim lies in at most two cells of a size that fits it. */
export class Claims {
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

  /** An older claim that overlaps, where one of the two writes, and that is `wanted`. */
  older(than: Asked, wanted: (other: Asked) => boolean): Asked | undefined {
    for (const [bytes, cells] of this.#levels) {
      const [first, last] = cellsOf(than, bytes);
      const all = last - first >= cells.size;
      for (const claims of all ? cells.values() : slice(cells, first, last)) {
        // Claims come in the order of submission.
        for (const other of claims) {
          if (other.number >= than.number) break;
          const meets = other.start < than.end && than.start < other.end;
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

function cellBytes({ start, end }: Asked): number {
  let bytes = CELL_BYTES;
  while (bytes < end - start) bytes *= CELL_GROWTH;
  return bytes;
}

function cellsOf({ start, end }: Asked, bytes: number): [first: number, last: number] {
  return [Math.floor(start / bytes), Math.floor((end - 1) / bytes)];
}

/** A flush at the device. */
export interface RunningFlush {
  readonly dispatched: number;
  /** The device runs what was dispatched up to here before the flush, whether it has completed or not. */
  readonly behind: number;
  /** The oldest write of its epoch. */
  oldest: Asked | undefined;
}

/** Which writes are not durable. */
export class Coverage {
  readonly #volatile: boolean;
  /** Oldest dispatch first. */
  readonly #running: RunningFlush[] = [];
  /** Of those written since the last flush was dispatched, the oldest. */
  #rest: Asked | undefined;
  /** The `behind` of those that succeeded. */
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
