// The times of a connection: how long nothing has moved, and how long a client may take for its last replies. No socket.

/** How long nothing has moved on a socket, told by its event `timeout`, which comes after `ms` of silence and again. */
export class Silence {
  readonly ms: number;
  #silentMs = 0;
  #seen = 0;

  constructor(ms: number) {
    this.ms = ms;
  }

  /** The event came. @returns how long the silence lasts, in milliseconds */
  lasts(): number {
    const now = performance.now();
    // Something may have moved since the last time.
    const rested = now - this.#seen < this.ms * 1.5;
    this.#silentMs = rested ? this.#silentMs + this.ms : this.ms;
    this.#seen = now;
    return this.#silentMs;
  }
}

/** How long a client may take for what is left for it. */
export class Linger {
  /** In milliseconds. */
  ms: number;
  readonly #late: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param late called when the time is over */
  constructor(ms: number, late: () => void) {
    this.ms = ms;
    this.#late = late;
  }

  /** The time begins, if it has not yet. */
  begin(): void {
    this.#timer ??= setTimeout(this.#late, this.ms);
  }

  /** The time begins anew, if something is left. */
  restart(isLeft: boolean): void {
    this.stop();
    if (isLeft) this.begin();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
