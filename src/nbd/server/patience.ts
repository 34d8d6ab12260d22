import { type IoScheduler, WriteBarrierError } from 'write-barrier';

/** Submits, and again whenever the queue was full and has room; rejects with any other error. */
export function patient<T>(scheduler: IoScheduler, submit: () => Promise<T>): Promise<T> {
  return submit().catch(async (error) => {
    if (!WriteBarrierError.is(error) || error.code !== 'QUEUE_FULL') throw error;
    await scheduler.ready();
    return patient(scheduler, submit);
  });
}

/**
 * A flush that all share who ask for it in the same turn of the event loop. It is submitted when the turn is over, and
 * a flush covers what was submitted before, so each of them gets what a flush of its own would have given him, and the
 * medium is asked once. Clients that ask while a flush runs are brought together by the scheduler.
 */
export function sharedFlush(scheduler: IoScheduler): () => Promise<void> {
  let coming: Promise<void> | undefined;
  return () => {
    coming ??= new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
      coming = undefined;
      return patient(scheduler, () => scheduler.flush());
    });
    return coming;
  };
}
