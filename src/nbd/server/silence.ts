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
