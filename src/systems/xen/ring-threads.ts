import type { BlkbackEra } from './backend-eras.js';

/** A request of a ring whose thread has taken it, or will. */
export interface Job {
  readonly ring: number;
  readonly barrier: boolean;
  readonly run: () => void;
}

/** Which requests the threads of the rings may send on: the waiting of an era's barrier, and nothing else. */
export class RingThreads {
  readonly #era: BlkbackEra;
  readonly #waiting: Job[] = [];
  readonly #outstanding = new Set<Job>();

  constructor(era: BlkbackEra) {
    this.#era = era;
  }

  submit(job: Job): void {
    this.#waiting.push(job);
  }

  complete(job: Job): void {
    this.#outstanding.delete(job);
  }

  /** The next to send on; undefined while every thread waits, or has nothing to do. */
  next(): Job | undefined {
    const stopped = new Set<number>();
    for (const [at, job] of this.#waiting.entries()) {
      if (stopped.has(job.ring)) continue;
      if (!this.#mustWait(job)) {
        this.#waiting.splice(at, 1);
        this.#outstanding.add(job);
        return job;
      }
      stopped.add(job.ring);
    }
    return undefined;
  }

  #mustWait({ ring, barrier }: Job): boolean {
    const ways = this.#era.barrier;
    if (ways.by === 'hard-barrier') return false;
    for (const other of this.#outstanding) {
      const counts = ways.waitsFor === 'device' || other.ring === ring;
      if (counts && (barrier || (other.barrier && ways.holdsLater))) return true;
    }
    return false;
  }
}
