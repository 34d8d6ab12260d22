// Where flushes that hold nobody back are shared: those of clients, the preflush of a plain write, and the
// flush after an emulated FUA write.
//
// A waiter needs one device flush that is issued after every write it covers has completed. Writes are
// counted in epochs; a waiter closes the epoch of the writes before it, and is ready when that epoch and all
// older ones are empty. One flush runs at a time. It serves whoever was ready when it was issued; whoever
// becomes ready later waits for the next one, which then serves all of them.
//
// Invariants:
//   F1  A waiter is served by a flush that was issued after it joined and after all that it covers completed.
//   F2  At most one flush of the station runs.
//   F3  Waiters become ready in the order in which they joined, so no stream of newcomers can starve one.
//
// Not here: the flushes of a barrier's own sequence, which the mode orders.
//
// Source: the double buffering of Linux block/blk-flush.c; unlike it, a flush here never waits for data
// that was submitted after its waiters.

interface Epoch<T> {
  /** Writes that were admitted in this epoch and have not completed. */
  writes: number;
  readonly waiters: Set<T>;
  previous: Epoch<T> | undefined;
  next: Epoch<T> | undefined;
}

/** What a write keeps to say later that it has completed. */
export type EpochToken<T> = Epoch<T>;

/** Shares device flushes among those who wait for one. */
export class FlushStation<T> {
  #oldest: Epoch<T> = { writes: 0, waiters: new Set(), previous: undefined, next: undefined };
  #youngest: Epoch<T> = this.#oldest;
  #ready = new Set<T>();
  /** Whose flush is not due yet, and in which epoch. */
  readonly #early = new Map<T, Epoch<T>>();
  #waiting = 0;
  #running = false;

  /** A shared flush is at the device, whoever it still serves. */
  get running(): boolean {
    return this.#running;
  }

  /** How many wait and have not been taken. */
  get waiting(): number {
    return this.#waiting;
  }

  /** A write was admitted; those who join from now on wait for it. */
  writeAdmitted(): EpochToken<T> {
    if (this.#youngest.waiters.size > 0) {
      const previous = this.#youngest;
      const epoch: Epoch<T> = { writes: 0, waiters: new Set(), previous, next: undefined };
      previous.next = epoch;
      this.#youngest = epoch;
    }
    this.#youngest.writes += 1;
    return this.#youngest;
  }

  /** The write has completed, or will never be issued. */
  writeGone(epoch: EpochToken<T>): void {
    epoch.writes -= 1;
    this.#tidy(epoch);
    if (epoch.writes === 0) this.#advance();
  }

  /** Waits for the writes admitted before, then for a flush. */
  join(waiter: T): void {
    this.#youngest.waiters.add(waiter);
    this.#early.set(waiter, this.#youngest);
    this.#waiting += 1;
    this.#advance();
  }

  /** Waits for a flush only: what the waiter covers has completed. */
  joinReady(waiter: T): void {
    this.#ready.add(waiter);
    this.#waiting += 1;
  }

  /** False when the waiter is not here, or no longer. */
  leave(waiter: T): boolean {
    const epoch = this.#early.get(waiter);
    const left = epoch ? epoch.waiters.delete(waiter) : this.#ready.delete(waiter);
    this.#early.delete(waiter);
    if (left) this.#waiting -= 1;
    if (epoch) this.#tidy(epoch);
    return left;
  }

  /** Those whom a flush issued now serves; undefined while one runs or nobody is ready. */
  take(): Set<T> | undefined {
    if (this.#running || this.#ready.size === 0) return undefined;
    const served = this.#ready;
    this.#ready = new Set();
    this.#waiting -= served.size;
    this.#running = true;
    return served;
  }

  /** The flush that was taken has ended, well or badly. */
  ended(): void {
    this.#running = false;
  }

  /** Sends everybody away. */
  evict(): T[] {
    const evicted = [...this.#ready];
    for (let epoch: Epoch<T> | undefined = this.#oldest; epoch; epoch = epoch.next) {
      evicted.push(...epoch.waiters);
      epoch.waiters.clear();
    }
    this.#ready.clear();
    this.#early.clear();
    this.#waiting = 0;
    return evicted;
  }

  /** Takes out an epoch in the middle that nobody is left in. */
  #tidy(epoch: Epoch<T>): void {
    const { writes, waiters, previous, next } = epoch;
    if (writes > 0 || waiters.size > 0 || !previous || !next) return;
    previous.next = next;
    next.previous = previous;
  }

  #advance(): void {
    for (;;) {
      const { writes, waiters, next } = this.#oldest;
      if (writes > 0) return;
      for (const waiter of waiters) {
        this.#early.delete(waiter);
        this.#ready.add(waiter);
      }
      waiters.clear();
      if (!next) return;
      next.previous = undefined;
      this.#oldest = next;
    }
  }
}
