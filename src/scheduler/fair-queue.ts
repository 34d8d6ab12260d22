// Whose turn it is: weighted fair queueing over the members of a group, in its form WF2Q+.
//
// Time is counted in bytes divided by weight, as if all waiting members were served at once, each at its share. The group's clock
// shows that time: serving so many bytes advances it by the bytes divided by the weights of those that wait. The next command of
// a member has a start, which is when the one before it would have ended at the member's share, and an end, its cost later. A
// command is due when the clock has reached its start. Of the commands that are due the one with the first end is next. A member that
// comes back from a rest starts at the clock, so it does not bring the time of its rest.
//
//   Q1  The clock never goes back. If commands wait, one of them is due.
//   Q2  A member that has had no more than its share waits, until its command is served, for as many bytes as all are served while
//       its command would be at its share, and for one command of the others. So what a small command waits for does not
//       depend on how large those of the others are, but for one.
//   Q3  While two members wait all the time, what they are served differs by at most a command of each, in units of their
//       weights.
//
// Deficit round robin, the usual choice, has neither: a small command waits for a quantum of each other member, and a quantum must
// be as large as the largest command. Here a step costs the logarithm of the number of waiting members.
//
// Source: Bennett, Zhang: Hierarchical packet fair queueing algorithms (1996).

/** What takes turns. */
export class Turn {
  /** Its share, relative to those of others. */
  readonly weight: number;
  /** When its next command starts, in bytes divided by weight. */
  start = 0;
  /** How long its next command takes, in the same unit. */
  cost = 0;
  /** Its place in a heap; -1 while it does not wait. */
  place = -1;
  /** Its next command is due. */
  isDue = false;

  constructor(weight: number) {
    this.weight = weight;
  }
}

/** The members that wait. */
export class FairQueue<T extends Turn> {
  /** Those whose commands are due, and those whose are not. */
  readonly #due = new Heap<T>(endsFirst);
  readonly #early = new Heap<T>(startsFirst);
  #clock = 0;
  /** The weights of all that wait. */
  #weights = 0;

  /** Whose turn it is; undefined if no member waits. */
  get head(): T | undefined {
    const early = this.#early.head;
    if (!this.#due.head && early) this.#clock = Math.max(this.#clock, early.start); // Q1
    for (let next = early; next && next.start <= this.#clock; next = this.#early.head) {
      this.#early.remove(next);
      this.#place(next);
    }
    return this.#due.head;
  }

  /** A member begins to wait, with a command of this cost. */
  add(turn: T, cost: number): void {
    turn.start = Math.max(turn.start, this.#clock);
    turn.cost = cost / turn.weight;
    this.#weights += turn.weight;
    this.#place(turn);
  }

  /** It does not wait any more. */
  remove(turn: T): void {
    this.#heapOf(turn).remove(turn);
    this.#weights = this.#due.head || this.#early.head ? this.#weights - turn.weight : 0;
  }

  /** The command of the member whose turn it is has been served. `again` or `remove` must follow. */
  serve(turn: T): void {
    this.#advance(turn.cost * turn.weight, turn);
    turn.start += turn.cost;
  }

  /** A waiting member waits on, with another command, of this cost. */
  again(turn: T, cost: number): void {
    this.#heapOf(turn).remove(turn);
    turn.cost = cost / turn.weight;
    this.#place(turn);
  }

  /** A command is served that need not wait, because none waits: as `add`, `head`, `serve` and `remove`, in one step. */
  pass(turn: T, cost: number): void {
    this.#clock = Math.max(this.#clock, turn.start) + cost / turn.weight;
    turn.start = this.#clock;
  }

  /**
   * A member pays for something that takes no turn.
   *
   * @returns when it starts
   */
  charge(turn: T, cost: number): number {
    const start = turn.place < 0 ? Math.max(turn.start, this.#clock) : turn.start;
    const isWaiting = turn.place >= 0;
    this.#advance(cost, turn);
    if (isWaiting) this.#heapOf(turn).remove(turn);
    turn.start = start + cost / turn.weight;
    if (isWaiting) this.#place(turn);
    return start;
  }

  /** Whether something that starts then and costs so much is next, before the member whose turn it is. */
  isNext(start: number, cost: number, { start: theirs, cost: takes }: T): boolean {
    return start <= this.#clock && start + cost <= theirs + takes;
  }

  /** All that wait are served at once, and so is what takes no turn. */
  #advance(bytes: number, { weight, place }: T): void {
    this.#clock += bytes / (this.#weights + (place < 0 ? weight : 0));
  }

  #place(turn: T): void {
    turn.isDue = turn.start <= this.#clock;
    this.#heapOf(turn).add(turn);
  }

  #heapOf({ isDue }: T): Heap<T> {
    return isDue ? this.#due : this.#early;
  }
}

function endsFirst(a: Turn, b: Turn): boolean {
  return a.start + a.cost < b.start + b.cost;
}

function startsFirst(a: Turn, b: Turn): boolean {
  return a.start < b.start;
}

class Heap<T extends Turn> {
  readonly #turns: T[] = [];
  readonly #isBefore: (a: T, b: T) => boolean;

  constructor(isBefore: (a: T, b: T) => boolean) {
    this.#isBefore = isBefore;
  }

  get head(): T | undefined {
    return this.#turns[0];
  }

  add(turn: T): void {
    turn.place = this.#turns.length;
    this.#turns.push(turn);
    this.#up(turn);
  }

  remove(turn: T): void {
    const { place } = turn;
    const last = this.#turns.pop() as T;
    turn.place = -1;
    if (last === turn) return;
    this.#set(last, place);
    this.#up(last);
    this.#down(last);
  }

  #set(turn: T, place: number): void {
    this.#turns[place] = turn;
    turn.place = place;
  }

  #up(turn: T): void {
    for (;;) {
      const parent = this.#turns[(turn.place - 1) >> 1];
      if (turn.place === 0 || !parent || !this.#isBefore(turn, parent)) return;
      this.#swap(parent, turn);
    }
  }

  #down(turn: T): void {
    for (;;) {
      const left = this.#turns[2 * turn.place + 1];
      const right = this.#turns[2 * turn.place + 2];
      const child = left && right && this.#isBefore(right, left) ? right : left;
      if (!child || !this.#isBefore(child, turn)) return;
      this.#swap(turn, child);
    }
  }

  #swap(parent: T, child: T): void {
    const { place } = parent;
    this.#set(parent, child.place);
    this.#set(child, place);
  }
}
