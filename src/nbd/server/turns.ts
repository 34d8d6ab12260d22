// Turns of the event loop: which connection works next, and how much. No socket, and no storage.
//
//   resting ─▶ working, while no other one waits and the turn has units left ─▶ resting
//      └────▶ in line ──visited in a later turn──▶ working, VISIT_MAX at most ──more to do──▶ in line
//
// All connections of a server share one thread, so a request waits until the loop comes to its socket, and for the requests that
// the loop finds on other sockets before. Without a bound for all of them one turn does what all sockets hold: a thousand small
// requests, which are ten milliseconds.
//
// Work is counted in units, a small request each. A connection has a start, which its work moves on, and who has the least start is
// visited next. The clock shows the start of the one that works. A connection that comes back from a rest has a start VISIT_MAX before
// the clock, if its own is not later: so one that asks for little is visited before those that ask for much, and brings no
// more of its rest than that.
//
// Invariants, tested under these numbers:
//   T1  In a turn the connections do at most TURN_MAX units of work together, and what the last of them began.
//   T2  A connection that does less than its share waits for the end of a visit, and not for all others that wait.
//   T3  Each connection that waits is visited, and two that wait all the time do the same, but for two visits.
//   T4  While a connection works alone, it is interrupted only where the work of a turn is done.
//
// Source: Goyal, Vin, Cheng: Start-time fair queueing (1996). The credit after a rest is that of Linux' scheduler of processes.

/** The units of a turn. */
export const TURN_MAX: number = 64;
/** The units of a visit: small requests as many as Node reads from a socket at once, so that their replies leave together. */
export const VISIT_MAX: number = 16;

/**
 * Units of work. An event of a connection costs 1, and one of the handshake more, because an option may be 64 KiB long. In addition
 * there is 1 for so many bytes that came, that are answered to an option, and that a request holds: their logarithms.
 */
export const COST = { handshake: 8, inputLog2: 14, answerLog2: 12, buffersLog2: 16 } as const;

/** A connection, as far as turns are concerned. */
export class Visitor {
  /** Called when it may work. */
  readonly visit: () => void;
  /** Its work, on the clock of all. */
  start = 0;
  /** The units that are left of its visit. */
  left = 0;
  /** It is in line, and does nothing until it is visited. */
  waits = false;

  constructor(visit: () => void) {
    this.visit = visit;
  }
}

/** The turns that the connections of a server take. */
export class Turns {
  #left = TURN_MAX;
  #clock = 0;
  /** Those that wait, the least start first. */
  readonly #line: Visitor[] = [];
  #visited: Visitor | undefined;
  #isArmed = false;

  /** Whether a connection with something to do may do it now. If not, it waits in line for its visit. */
  admits(visitor: Visitor): boolean {
    if (visitor.waits) return false;
    const isNext = this.#line.length === 0 || (visitor === this.#visited && visitor.left > 0);
    if (this.#left > 0 && isNext) {
      if (this.#line.length === 0) this.#begin(visitor);
      return true;
    }
    this.#wait(visitor);
    return false;
  }

  /** A connection has done so many units of work. */
  spend(visitor: Visitor, units: number): void {
    visitor.start += units;
    visitor.left -= units;
    this.#left -= units;
  }

  /** It works now. */
  #begin(visitor: Visitor): void {
    visitor.start = Math.max(visitor.start, this.#clock - VISIT_MAX);
    this.#clock = Math.max(this.#clock, visitor.start);
  }

  #wait(visitor: Visitor): void {
    visitor.start = Math.max(visitor.start, this.#clock - VISIT_MAX);
    visitor.waits = true;
    let place = this.#line.length;
    while (place > 0 && (this.#line[place - 1] as Visitor).start > visitor.start) place -= 1;
    this.#line.splice(place, 0, visitor);
    this.#arm();
  }

  #arm(): void {
    if (this.#isArmed) return;
    this.#isArmed = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#isArmed = false;
    this.#left = TURN_MAX;
    while (this.#left > 0) {
      const visitor = this.#line.shift();
      if (!visitor) return;
      visitor.waits = false;
      visitor.left = VISIT_MAX;
      this.#begin(visitor);
      this.#visited = visitor;
      visitor.visit();
      this.#visited = undefined;
    }
    if (this.#line.length > 0) this.#arm();
  };
}
