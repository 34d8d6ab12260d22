// Code under test may never end. A watch runs it with a time limit, and reports a hang.
//
// The limit is counted in ticks of real time (event-loop.ts). A fake clock does not stop them, and while a process is halted
// in a debugger or the machine sleeps at most one tick passes. Code that never returns to the event loop, such as a loop
// without a pause, stops the watch as well, because nothing in the same thread can interrupt it.

import { isPending } from '../../storage/wrappers.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { delay, hold, release } from '../device/event-loop.js';

/** Code with a time limit. */
export type Watched = 'workload' | 'recovery' | 'check';

/** The workload, a recovery or a check has not ended in time. */
export class HangError extends Error {
  override get name(): 'HangError' {
    return 'HangError';
  }

  /** The commands of the workload so far. */
  trace: DiskTrace | undefined;

  constructor(what: Watched, hangMs: number, words: string) {
    super(`the ${what} has not ended within ${hangMs} ms; ${words}`);
  }
}

/** What code waits for that does not wait for the simulated disk. */
export const NO_DISK =
  'it does not wait for the disk (but for a timer, another file, or a promise that never settles)';

/** The default of `hangMs`. */
export const HANG_MS = 10_000;
const TICKS = 8;
/** Delays extend the limit, up to this multiple of it. */
const DELAYS_MAX = 10;
/** The maximum of a timer in browsers. */
const DELAY_MAX_MS = 2 ** 31 - 1;

/** Runs code with a time limit. */
export class Watch {
  /** In real milliseconds. */
  readonly hangMs: number;
  readonly #tickMs: number;
  #onTick: (() => void) | undefined;
  #isTicking = false;

  constructor(hangMs: number = HANG_MS) {
    this.hangMs = hangMs;
    this.#tickMs = Math.min(Math.max(1, hangMs / TICKS), DELAY_MAX_MS);
  }

  /**
   * Runs `start`, with the time limit if it returns a promise.
   *
   * @param words what the code waits for; called when it hangs. Recoveries and checks do not wait for a disk
   * @param delayedMs real milliseconds for which the code was kept waiting: they extend the limit, up to `DELAYS_MAX`
   *   times, because code that never ends may be kept waiting for ever
   * @throws `HangError`
   */
  run<T>(
    what: Watched,
    start: () => T | PromiseLike<T>,
    words: () => string | Promise<string> = () => NO_DISK,
    delayedMs: () => number = () => 0,
  ): T | Promise<T> {
    const started = start() as T | Promise<T>;
    if (!isPending(started)) return started;
    const hangs = async (): Promise<never> => {
      throw new HangError(what, this.hangMs, await words());
    };
    return this.#limited(started, hangs, delayedMs);
  }

  async #limited<T>(
    running: PromiseLike<T>,
    hangs: () => Promise<never>,
    delayedMs: () => number,
  ): Promise<T> {
    let ticks = Math.ceil(this.hangMs / this.#tickMs) + 1;
    let granted = 0;
    const late = new Promise<never>((_, reject) => {
      this.#onTick = () => {
        ticks -= 1;
        if (ticks > 0) return;
        const delayed = Math.min(delayedMs(), DELAYS_MAX * this.hangMs) - granted;
        granted += delayed;
        ticks = Math.ceil(delayed / this.#tickMs);
        if (ticks > 0) return;
        this.#onTick = undefined;
        hangs().catch(reject);
      };
    });
    this.#tick();
    hold();
    try {
      return await Promise.race([running, late]);
    } finally {
      release();
      this.#onTick = undefined;
    }
  }

  /** Ticks while code is running. */
  #tick(): void {
    if (this.#isTicking || this.hangMs === Number.POSITIVE_INFINITY) return;
    this.#isTicking = true;
    delay(this.#tickMs, () => {
      this.#isTicking = false;
      if (!this.#onTick) return;
      this.#onTick();
      this.#tick();
    });
  }
}
