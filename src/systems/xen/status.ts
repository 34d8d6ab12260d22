import { WriteBarrierError } from 'write-barrier';
import { BLKIF_STATUS } from './wire.js';

/** One of the three words of a response. */
export type BlkifStatus = (typeof BLKIF_STATUS)[keyof typeof BLKIF_STATUS];

const BADNESS: readonly number[] = [BLKIF_STATUS.OKAY, BLKIF_STATUS.EOPNOTSUPP, BLKIF_STATUS.ERROR];

/**
 * The status of the whole from those of its parts, whatever order they come in: an ERROR wins over EOPNOTSUPP, because
 * EOPNOTSUPP says that nothing is wrong with the disk and that the payload may simply be sent again.
 *
 * blkback of Linux keeps whichever part failed last; see `status` in `BLKBACK_ERAS`.
 */
export function worstBlkifStatus(parts: Iterable<number>): BlkifStatus {
  let worst = 0;
  for (const part of parts) {
    const badness = BADNESS.indexOf(part);
    worst = Math.max(worst, badness < 0 ? BADNESS.length - 1 : badness);
  }
  return BADNESS[worst] as BlkifStatus;
}

/** What the failure of a request on the disk is called on the ring. */
export function statusOfError(error: unknown): BlkifStatus {
  const refused = WriteBarrierError.is(error) && error.code === 'EOPNOTSUPP';
  return refused ? BLKIF_STATUS.EOPNOTSUPP : BLKIF_STATUS.ERROR;
}

/** What a status that is not OKAY is called here. */
export function errorOfStatus(status: number, what: string): WriteBarrierError {
  return status === BLKIF_STATUS.EOPNOTSUPP
    ? new WriteBarrierError('EOPNOTSUPP', `the backend does not support ${what}`)
    : new WriteBarrierError('IO_FAILED', `the backend answered ${what} with status ${status}`);
}
