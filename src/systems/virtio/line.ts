// The line of commands that wait for a place, for both ends: a driver's before a queue of so many requests (storage.ts), a
// device's before its scheduler, where a request takes as many places as it has bytes (backend.ts). A command is an
// iterator of requests: the next one is made when there is a place for it, so a command that takes billions of requests (a
// device may say that a discard is one sector at the most) costs no more memory than one that takes a few, and does not
// run the program in one go.
//
//   add ─▶ behind ─▶ taking turns ─▶ all sent ─▶ the last one answered: settled
//
//   L1  No more requests at once than there are places, except for a single one that takes more than there are; and no
//       request of a command that has failed or was given up.
//   L2  Commands take turns, one request each, so a long one does not hold up the others.
//   L3  An ordered command begins when every older command has been sent, and a younger command begins when all of the
//       ordered one has been sent. The device keeps the order in which requests are sent.
//   L4  After each `BURST` requests a command waits for a timer: with a device that answers at once only microtasks would
//       run, and neither timers nor input would ever get a turn.
//   L5  A command settles once, when none of its requests is at the device. `close` gives up the requests that have not
//       been sent.

/** A command, as requests. */
export interface Work<R> {
  /** Is asked for the next request when there is a place. What it throws ends the command. */
  readonly requests: Iterator<R, void>;
  /** L3. */
  readonly ordered: boolean;
  /** Requests of it at the device at once. */
  readonly outMax: number;
}

interface Waiting<R> extends Work<R> {
  /** The request that is sent next; undefined when there is no further one. */
  next: R | undefined;
  /** Requests at the device. */
  out: number;
  sent: number;
  /** It waits for a timer (L4). */
  resting: boolean;
  failure: { readonly reason: unknown } | undefined;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/** Requests in a row without a timer in between. */
const BURST = 1024;

/** The line before a queue. `R` is a request. */
export class RequestLine<R> {
  readonly #send: (request: R) => Promise<void>;
  readonly #places: number;
  readonly #placesOf: (request: R) => number;
  #taken = 0;
  /** What may be sent now, in the order of the turns: one ordered command, or any number of others. */
  #turns: Waiting<R>[] = [];
  readonly #behind: Waiting<R>[] = [];

  /**
   * @param send settles when the device has answered, and rejects for a failure
   * @param placesOf how many places a request takes; one, if it is left out
   */
  constructor(
    send: (request: R) => Promise<void>,
    places: number,
    placesOf: (request: R) => number = () => 1,
  ) {
    this.#send = send;
    this.#places = places;
    this.#placesOf = placesOf;
  }

  /** Settles when all requests have been answered; rejects with the first failure, or the reason of `close`. */
  add(work: Work<R>): Promise<void> {
    return new Promise((resolve, reject) => {
      const state = { next: undefined, out: 0, sent: 0, resting: false, failure: undefined };
      const waiting: Waiting<R> = { ...work, ...state, resolve, reject };
      this.#advance(waiting);
      if (waiting.next === undefined) return this.#look(waiting);
      this.#behind.push(waiting);
      this.#pump();
    });
  }

  /** What has not been sent is not sent any more, and its commands fail with `reason`. */
  close(reason: unknown): void {
    for (const work of [...this.#turns.splice(0), ...this.#behind.splice(0)]) {
      work.next = undefined;
      work.failure ??= { reason };
      this.#look(work);
    }
  }

  #pump(): void {
    for (;;) {
      this.#admit();
      const at = this.#turns.findIndex(({ resting, out, outMax }) => !resting && out < outMax);
      const work = this.#turns[at];
      if (work?.next === undefined) return;
      const request = work.next;
      const places = this.#placesOf(request);
      if (this.#taken > 0 && this.#taken + places > this.#places) return; // L1
      this.#turns.splice(at, 1);
      this.#advance(work);
      if (work.next !== undefined) this.#turns.push(work);
      this.#issue(work, request, places);
    }
  }

  /** L3: the next of those behind may be sent. */
  #admit(): void {
    for (let [first] = this.#behind; first; [first] = this.#behind) {
      const alone = this.#turns.length === 0;
      if (first.ordered ? !alone : this.#turns[0]?.ordered) return;
      this.#behind.shift();
      this.#turns.push(first);
    }
  }

  #issue(work: Waiting<R>, request: R, places: number): void {
    this.#taken += places;
    work.out += 1;
    work.sent += 1;
    if (work.sent % BURST === 0 && work.next !== undefined) this.#rest(work);
    const answered = (): void => {
      this.#taken -= places;
      work.out -= 1;
      this.#look(work);
      this.#pump();
    };
    this.#send(request).then(answered, (reason: unknown) => {
      this.#fail(work, reason);
      answered();
    });
  }

  /** L4. */
  #rest(work: Waiting<R>): void {
    work.resting = true;
    setTimeout(() => {
      work.resting = false;
      this.#pump();
    });
  }

  #advance(work: Waiting<R>): void {
    try {
      const { done, value } = work.requests.next();
      work.next = done ? undefined : value;
    } catch (reason) {
      this.#fail(work, reason);
    }
  }

  #fail(work: Waiting<R>, reason: unknown): void {
    work.failure ??= { reason };
    work.next = undefined;
    const at = this.#turns.indexOf(work);
    if (at >= 0) this.#turns.splice(at, 1);
  }

  #look({ next, out, failure, resolve, reject }: Waiting<R>): void {
    if (next !== undefined || out > 0) return;
    if (failure) reject(failure.reason);
    else resolve();
  }
}
