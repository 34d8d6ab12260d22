// @ts-check

import { formatValue, misuse } from 'write-barrier/kit';

/** After so many turns of microtasks without a call of `sleep` there will be none. */
const QUIET_TURNS = 64;
/** @typedef {{ until: number, wake: (value?: undefined) => void }} Sleeper */

/**
 * A clock that stands still while there is work to do and then jumps to the next moment that something waits for. So a
 * simulation takes no time, and two runs of it are the same, to the microsecond.
 *
 * It takes the work for done when it was not asked for a number of turns, so work that waits for anything else (a timer, a
 * file) does not hold it.
 */
export class VirtualClock {
  #now = 0;
  /**
   * In the order of their moments; of equal ones, in the order in which they asked.
   *
   * @type {Sleeper[]}
   */
  #sleepers = [];
  #asked = 0;
  /** In microseconds, from 0. */
  get now() {
    return this.#now;
  }
  /**
   * Resolves that many microseconds later.
   *
   * @param {number} us
   * @returns {Promise<void>}
   * @throws `INVALID_ARGUMENT` for a time that is negative or not a number
   */
  sleep(us) {
    if (!Number.isFinite(us) || us < 0) {
      throw misuse(`us must be a number of microseconds from 0 on, not ${formatValue(us)}`);
    }
    this.#asked += 1;
    return new Promise((/** @type {(value?: undefined) => void} */ wake) => {
      const until = this.#now + us;
      const at = this.#sleepers.findIndex((sleeper) => sleeper.until > until);
      this.#sleepers.splice(at < 0 ? this.#sleepers.length : at, 0, { until, wake });
    });
  }
  /**
   * Runs the clock until `work` is done.
   *
   * @template T
   * @param {Promise<T>} work
   * @returns {Promise<T>}
   * @throws what `work` throws; `INVALID_ARGUMENT` for work that waits for something else than this clock
   */
  async run(work) {
    let done = false;
    const finish = () => {
      done = true;
    };
    work.then(finish, finish);
    for (;;) {
      await this.#quiet();
      if (done) return work;
      const next = this.#sleepers[0];
      if (!next) {
        throw misuse('work must wait for this clock only: it is not done, and nothing sleeps');
      }
      this.#now = next.until;
      while (this.#sleepers[0]?.until === this.#now) this.#sleepers.shift()?.wake();
    }
  }
  async #quiet() {
    for (let turns = 0, asked = this.#asked; turns < QUIET_TURNS; turns++) {
      await undefined;
      if (asked === this.#asked) continue;
      asked = this.#asked;
      turns = 0;
    }
  }
}
