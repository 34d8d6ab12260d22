import { performance } from 'node:perf_hooks';

/** A call of the system that took so long held up the program; the next ones are left to the thread pool. */
const SLOW_MS = 1;
/** For so many times as long as the slow one took. */
const REST_FACTOR = 10;

/**
 * Writes on the calling thread, for as long as that is quick: what the page cache takes at once costs less than
 * waking another thread. Node cannot ask the system for a write that does not wait (RWF_NOWAIT), and now and then
 * one does: too many dirty pages, a journal in the middle of a commit, a part of a page that must be read first.
 * So each is timed, and after a slow one there is none for ten times as long as it took. Slow ones hold
 * up the program one at a time, and for at most a tenth of the time altogether.
 */
export class InlineWrites {
  readonly #max: number;
  /** Not before this point in time, in milliseconds. */
  #restsUntil = 0;

  /** `max`: of longer ones none is made, in bytes. */
  constructor(max: number) {
    this.#max = max;
  }

  /** True where the system took all `length` bytes; otherwise the write is still to be made, all of it. */
  attempt(length: number, write: () => number): boolean {
    if (length > this.#max) return false;
    const start = performance.now();
    if (start < this.#restsUntil) return false;
    let taken = 0;
    try {
      taken = write();
    } catch {
      // It is made again by the pool, and what the system says then is its answer.
    }
    const end = performance.now();
    if (end - start > SLOW_MS) this.#restsUntil = end + (end - start) * REST_FACTOR;
    return taken === length;
  }
}
