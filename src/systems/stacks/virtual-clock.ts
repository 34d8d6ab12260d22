import { WriteBarrierError } from 'write-barrier';

/** So many turns of microtasks in a row without anybody asking for the time: nobody will any more. */
const QUIET_TURNS = 64;

interface Sleeper {
  readonly until: number;
  readonly wake: () => void;
}

/**
 * A clock that stands still while anybody has something to do and then jumps to the next moment for which somebody
 * waits. So a simulation takes no time, and two runs of it are the same, to the microsecond.
 *
 * It knows that nobody has anything to do when for a number of turns nobody has asked it. Whoever waits for something
 * else than this clock (a timer, a file) is not waited for.
 */
export class VirtualClock {
  #now = 0;
  /** In the order of their moments; of equal ones, in the order in which they asked. */
  readonly #sleepers: Sleeper[] = [];
  #asked = 0;

  /** In microseconds, from 0. */
  get now(): number {
    return this.#now;
  }

  /**
   * Resolves that many microseconds later.
   *
   * @throws `INVALID_ARGUMENT` for a time that is negative or no number
   */
  sleep(us: number): Promise<void> {
    if (!Number.isFinite(us) || us < 0) {
      throw new WriteBarrierError('INVALID_ARGUMENT', `nobody can sleep for ${us} microseconds`);
    }
    this.#asked += 1;
    return new Promise((wake) => {
      const until = this.#now + us;
      const at = this.#sleepers.findIndex((sleeper) => sleeper.until > until);
      this.#sleepers.splice(at < 0 ? this.#sleepers.length : at, 0, { until, wake });
    });
  }

  /**
   * Runs the clock until `work` is done.
   *
   * @throws what `work` throws; `INVALID_ARGUMENT` for work that waits for something else than this clock
   */
  async run<T>(work: Promise<T>): Promise<T> {
    let done = false;
    const finish = (): void => {
      done = true;
    };
    work.then(finish, finish);
    for (;;) {
      await this.#quiet();
      if (done) return work;
      const next = this.#sleepers[0];
      if (!next) {
        throw new WriteBarrierError('INVALID_ARGUMENT', 'somebody waits, and nothing will happen');
      }
      this.#now = next.until;
      while (this.#sleepers[0]?.until === this.#now) this.#sleepers.shift()?.wake();
    }
  }

  async #quiet(): Promise<void> {
    for (let turns = 0, asked = this.#asked; turns < QUIET_TURNS; turns++) {
      await undefined;
      if (asked === this.#asked) continue;
      asked = this.#asked;
      turns = 0;
    }
  }
}
