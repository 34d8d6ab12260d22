// When the host of a simulated disk rests: it has done all that it can do, and only an answer of the disk lets it continue.
//
// If the disk took steps while the host runs, the number of awaits in the host's code would decide whether the disk is fast or
// slow, and the disk would miss the mistakes of hosts with many awaits. So it acts only at two kinds of moments, which do not
// depend on awaits: during a call, and when the host rests (volatile-disk.ts). The host rests when
//
//   R1  two turns of the event loop (event-loop.ts) have passed without a call or an answer of any disk, because then all
//       promises, ticks and messages have been processed;
//   R2  in Node, no immediate, timer, file-system request or DNS lookup is open that was not open when the disk was
//       made. A timer that does not end within `timersMs`, or a request that does not end within a second, belongs to something
//       other than the host's work (a timeout, an interval), and is ignored from then on;
//   R3  for a patient disk, some milliseconds, its patience, have passed without a call.
//
// R1 and R2 make runs exact: the same host sees the same disk on any machine, under any load, if its timers are shorter than
// `timersMs`. Sockets, workers, the crypto and compression of Node, and timers in a browser are invisible to the disk. It
// notices one of these only afterwards: the host makes a call that no answer and no open timer or request explains. From then
// on the disk is patient (R3), and `wantsMs` is the patience that would have been enough: more than twice the time between an answer and
// such a call. A crash test then repeats the workload with that patience, and is not `proved` if even that is too little.
//
// The platform tells how many timers are open, and not whose they are. If a timer that was open before ends while the host waits for
// one of its own, the disk takes the host's for the other one, and may answer too early. Test runners have such timers.
//
// A host may never rest, because something other than its work, such as an interval, calls the disk all the time. Then the
// disk answers nevertheless, because otherwise no run would end, and `restless` is true.

import { delay, hold, momentMs, nextTurn, release, turnsTaken } from './event-loop.js';

/** Turns without a call. */
const QUIET_TURNS = 2;
/**
 * The least patience: real milliseconds without a call. They are waited for one by one: where the machine is busy, each takes
 * longer, as does what the host waits for.
 */
const PATIENCE_MS = 20;
/** After so many turns with something open, each further one waits a millisecond. */
const TURNS_AT_ONCE = 20;
/** A request that takes longer, in real milliseconds, is ignored. */
const REQUESTS_MS = 1000;

/** A host that calls in so many turns, or for so many milliseconds, without an answer never rests. */
const RESTLESS = { turns: 100, ms: 1000 };
/** The limits after that has been seen once. */
const STILL_RESTLESS = { turns: 10, ms: 100 };
/** Fewer turns are not a sign of it, however slow they are. */
const RESTLESS_TURNS_MIN = 3;

/** Calls of hosts and answers of disks, of all disks of the realm: a host may have several. */
let events = 0;
/** The turn of the last one. */
let eventTurn = 0;
/** The moment of the last one. */
let eventMs = 0;

function happened(): void {
  events += 1;
  eventMs = momentMs();
  eventTurn = turnsTaken();
}

/** Finds out when the host of a simulated disk rests. */
export class HostRest {
  readonly #timersMs: number;
  /** The current patience (R3), in milliseconds. */
  patienceMs: number;
  /** The patience it should have had, if it may have answered while the host was working; else 0. */
  wantsMs = 0;
  /** It has answered although the host never rested. */
  restless = false;
  /** How often the disk has answered at a rest. */
  rests = 0;
  /** How long its patience has delayed the host so far, in real milliseconds. */
  delayedMs = 0;
  /** Turns with a call since the last answer, and the moment of the first. */
  #calls = { turns: 0, turn: -1, sinceMs: 0 };
  /** What has been open since the disk was made. */
  #before = open();
  /** What is open and does not belong to the host's work. */
  readonly #beside = { timers: 0, requests: 0 };
  #sawOpen = false;
  #seen = 0;
  #quiet = 0;
  #rounds = 0;
  #waitedMs = 0;
  #isCalled = false;
  #then: (() => void) | undefined;

  /**
   * @param timersMs how long to wait for a timer of the host, in real milliseconds
   * @param patient the patience of R3 from the start, in real milliseconds; true for the least, false for none
   */
  constructor(timersMs: number, patient: boolean | number) {
    const patienceMs = patient === true ? PATIENCE_MS : Number(patient);
    // Patience includes timers.
    this.#timersMs = Math.max(timersMs, patienceMs);
    this.patienceMs = patienceMs;
  }

  /** The host has called the disk. */
  called(): void {
    if (this.#isCalled && turnsTaken() > eventTurn && !this.#sawOpen) {
      if (this.rests > 0) this.#want(momentMs() - eventMs);
      this.patienceMs = Math.max(this.patienceMs, PATIENCE_MS);
    }
    if (this.#calls.turn !== turnsTaken()) {
      const { turns, sinceMs } = this.#calls;
      const since = turns === 0 ? momentMs() : sinceMs;
      this.#calls = { turns: turns + 1, turn: turnsTaken(), sinceMs: since };
    }
    this.#isCalled = true;
    this.#sawOpen = false;
    happened();
  }

  /** The disk has answered at a rest. */
  answered(): void {
    this.rests += 1;
    this.#sawOpen = false;
    this.#calls = { turns: 0, turn: -1, sinceMs: 0 };
    happened();
  }

  /** The host called so long after an answer: what it waited for may have begun before the answer. */
  #want(gapMs: number): void {
    if (this.patienceMs >= PATIENCE_MS && 2 * gapMs <= this.patienceMs) return;
    const enough = 2 * gapMs <= PATIENCE_MS ? PATIENCE_MS : 2 * (gapMs + PATIENCE_MS);
    this.wantsMs = Math.max(this.wantsMs, Math.ceil(enough));
  }

  #neverRests(): boolean {
    const { turns, sinceMs } = this.#calls;
    const most = this.restless ? STILL_RESTLESS : RESTLESS;
    if (turns < RESTLESS_TURNS_MIN) return false;
    return turns > most.turns || momentMs() - sinceMs > most.ms + 2 * this.patienceMs;
  }

  /** Calls back as soon as the host rests; a second call before that changes nothing. */
  wait(then: () => void): void {
    if (this.#then) return;
    this.#then = then;
    this.#rounds = 0;
    hold();
    nextTurn(this.#turn);
  }

  readonly #turn = (): void => {
    if (events !== this.#seen) {
      this.#seen = events;
      this.#quiet = 0;
      this.#rounds = 0;
      this.#waitedMs = 0;
    } else {
      this.#quiet += 1;
    }
    if (this.#neverRests()) {
      this.restless = true;
      this.#rested();
    } else if (this.#waitsForOpen()) {
      this.#quiet = 0;
      this.#rounds += 1;
      if (this.#rounds <= TURNS_AT_ONCE) nextTurn(this.#turn);
      else delay(1, () => nextTurn(this.#turn));
    } else if (this.#quiet < QUIET_TURNS) {
      nextTurn(this.#turn);
    } else if (this.#waitedMs < this.patienceMs) {
      this.#waitedMs += 1;
      const sinceMs = momentMs();
      delay(1, () => {
        this.delayedMs += momentMs() - sinceMs;
        nextTurn(this.#turn);
      });
    } else {
      this.#rested();
    }
  };

  #rested(): void {
    const then = this.#then;
    this.#then = undefined;
    release();
    then?.();
  }

  /** R2. */
  #waitsForOpen(): boolean {
    const now = open();
    let waits = false;
    for (const kind of ['timers', 'requests'] as const) {
      this.#before[kind] = Math.min(this.#before[kind], now[kind]);
      if (now[kind] <= Math.max(this.#before[kind], this.#beside[kind])) continue;
      const most = TURNS_AT_ONCE + (kind === 'timers' ? this.#timersMs : REQUESTS_MS);
      if (this.#rounds < most) waits = true;
      else this.#beside[kind] = now[kind];
    }
    this.#sawOpen ||= waits;
    return waits;
  }
}

interface Open {
  timers: number;
  /** Immediates as well. */
  requests: number;
}

/** Requests to the file system (the closing of a `FileHandle` has a name of its own), and look-ups of names. */
const REQUEST = /^(?:Immediate|FSReq.*|(?:FileHandle)?CloseReq|Get(?:Addr|Name)InfoReqWrap)$/;

/** What is open, if the platform tells: timers and requests that keep the process alive. */
function open(): Open {
  const found = { timers: 0, requests: 0 };
  const { process } = globalThis as { process?: { getActiveResourcesInfo?(): readonly string[] } };
  for (const name of process?.getActiveResourcesInfo?.() ?? []) {
    if (name === 'Timeout') found.timers += 1;
    else if (REQUEST.test(name)) found.requests += 1;
  }
  return found;
}
