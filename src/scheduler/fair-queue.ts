// Whose turn it is: start-time fair queueing over the members of a group.
//
// Each member has a clock of its own, its tag: what it has been served so far, in bytes divided by its weight. The member with
// the least tag is next. A member that comes back from a rest does not bring the time of its rest: its tag is set to that
// of the group, which is the tag of the member that was served last. So a light member is next as soon as it asks, and a
// member that floods waits for the time that it has used.
//
//   Q1  No waiting member has a tag below the group's, and the group's never decreases.
//   Q2  From the moment when a light member asks until it is served, at most one command of each other member is: of those whose
//       tag is the group's, too. Of equal tags the least cost is first, because members that flood with commands of one size
//       have equal tags, and a small command would wait for all of them. Of equal costs the first to wait is first.
//   Q3  While two members wait all the time, what they are served differs by at most a command of each, in units of their
//       weights.
//
// Deficit round robin, the usual choice, needs a quantum as large as the largest command to take one step for a command, and
// then each of the other members has a quantum before a light one. Here nothing depends on the sizes of commands, and a step
// costs the logarithm of the number of waiting members.
//
// Source: Goyal, Vin, Cheng: Start-time fair queueing (1996); Jin, Chase, Kaur: Interposed proportional sharing for a storage
// service utility (2004), for devices that work on several commands at once.

/** What takes turns. */
export class Turn {
  /** Its share, relative to those of others. */
  readonly weight: number;
  /** What it has been served, in bytes divided by its weight. */
  tag = 0;
  /** What its next command costs, in the same unit. */
  cost = 0;
  /** Its place in the heap; -1 while it does not wait. */
  place = -1;
  /** When its next command began to wait. */
  since = 0;

  constructor(weight: number) {
    this.weight = weight;
  }
}

/** The members that wait, as a heap. */
export class FairQueue<T extends Turn> {
  readonly #heap: T[] = [];
  /** The tag of the member that was served last. */
  #now = 0;
  #arrivals = 0;

  /** Whose turn it is; undefined if no member waits. */
  get head(): T | undefined {
    return this.#heap[0];
  }

  /** A member begins to wait, with a command of this cost. */
  add(turn: T, cost: number): void {
    turn.tag = this.#startOf(turn);
    this.#wait(turn, cost);
    turn.place = this.#heap.length;
    this.#heap.push(turn);
    this.#up(turn);
  }

  /** It does not wait any more. */
  remove(turn: T): void {
    const { place } = turn;
    const last = this.#heap.pop() as T;
    turn.place = -1;
    if (last === turn) return;
    this.#set(last, place);
    this.#up(last);
    this.#down(last);
  }

  /** The command of the member whose turn it is has been served: the group's tag becomes that of the member (Q1), which pays. */
  serve(turn: T): void {
    this.pass(turn.tag);
    turn.tag += turn.cost;
  }

  /** A waiting member waits on, with another command, of this cost. */
  again(turn: T, cost: number): void {
    this.#wait(turn, cost);
    this.#up(turn);
    this.#down(turn);
  }

  /**
   * A member pays for something that took no turn.
   *
   * @returns its tag before that
   */
  charge(turn: T, cost: number): number {
    const start = this.#startOf(turn);
    turn.tag = start + cost / turn.weight;
    if (turn.place >= 0) this.#down(turn);
    return start;
  }

  /** Something that took no turn has been served, from a member whose tag was `start`. */
  pass(start: number): void {
    this.#now = Math.max(this.#now, start);
  }

  #wait(turn: T, cost: number): void {
    turn.cost = cost / turn.weight;
    turn.since = this.#arrivals++;
  }

  #startOf({ tag }: T): number {
    return Math.max(tag, this.#now);
  }

  #set(turn: T, place: number): void {
    this.#heap[place] = turn;
    turn.place = place;
  }

  #up(turn: T): void {
    for (;;) {
      const parent = this.#heap[(turn.place - 1) >> 1];
      if (turn.place === 0 || !parent || !isBefore(turn, parent)) return;
      this.#swap(parent, turn);
    }
  }

  #down(turn: T): void {
    for (;;) {
      const left = this.#heap[2 * turn.place + 1];
      const right = this.#heap[2 * turn.place + 2];
      const child = left && right && isBefore(right, left) ? right : left;
      if (!child || !isBefore(child, turn)) return;
      this.#swap(turn, child);
    }
  }

  /** The lower one takes the place of its parent. */
  #swap(parent: T, child: T): void {
    const { place } = parent;
    this.#set(parent, child.place);
    this.#set(child, place);
  }
}

function isBefore(a: Turn, b: Turn): boolean {
  if (a.tag !== b.tag) return a.tag < b.tag;
  return a.cost === b.cost ? a.since < b.since : a.cost < b.cost;
}
