import { WriteBarrierError } from 'write-barrier';

/**
 * What callers of one descriptor must know of each other when they wait for the medium.
 *
 * Linux remembers a failed write-back once per open descriptor: whichever call looks first is told,
 * and a call on the same descriptor that runs at the same time is answered with success although
 * the failure was its own. So calls that overlap in time share their fate here: one is answered
 * only when all those that it met have ended, and fails if any of them failed.
 *
 * @see the errseq_t of Linux 4.13, lib/errseq.c
 */
export class ErrorCursor {
  readonly #running = new Set<Promise<void>>();
  #failures = 0;
  #latest: unknown;

  /** @throws what `start` throws, or what a call threw that ran at the same time */
  async run(start: () => Promise<void>): Promise<void> {
    const before = this.#failures;
    const own = start().catch((error: unknown) => {
      this.#failures += 1;
      this.#latest = error;
      throw error;
    });
    this.#running.add(own);
    try {
      await own;
    } finally {
      this.#running.delete(own);
    }
    if (this.#running.size > 0) await Promise.allSettled(this.#running);
    if (this.#failures !== before) throw shared(this.#latest);
  }
}

function shared(error: unknown): unknown {
  if (!WriteBarrierError.is(error)) return error;
  const why = 'a call that waited for the medium at the same time failed, and whose data it was';
  return new WriteBarrierError(error.code, `${why} the system does not say: ${error.message}`, {
    cause: error.cause,
  });
}
