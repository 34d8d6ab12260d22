import { WriteBarrierError } from 'write-barrier';
import type { BlkifSend } from './front-ring.js';
import { borrow, type GrantTable } from './grants.js';
import { BLKIF_STATUS, SECTOR_BYTES } from './wire.js';

/** What one direct request moves. */
export interface Transfer {
  readonly operation: number;
  /** In bytes, whole sectors. */
  readonly offset: number;
  /** What to send, or where to put what comes; empty for a request without segments. */
  readonly data: Uint8Array;
  /** Whether what comes is put there. */
  readonly collect: boolean;
}

/**
 * Sends one direct request and answers with its status. Where there is no response, the pages stay lent (grants.ts).
 *
 * @throws `QUEUE_FULL` where too few pages are free; what `send` throws
 */
export async function transferOnce(
  send: BlkifSend,
  grants: GrantTable,
  { operation, offset, data, collect }: Transfer,
): Promise<number> {
  const loan = borrow(grants, data.byteLength);
  if (!loan) throw new WriteBarrierError('QUEUE_FULL', 'no pages are left to grant');
  let response: ReturnType<BlkifSend>;
  try {
    if (!collect) loan.fill([data]);
    const { segments } = loan;
    const sector = BigInt(offset / SECTOR_BYTES);
    const common = { operation, nrSegments: segments.length, handle: 0, id: 0n, sector, segments };
    response = send({ kind: 'transfer', ...common });
  } catch (unsent) {
    loan.end();
    throw unsent;
  }
  const { status } = await response;
  try {
    if (collect && status === BLKIF_STATUS.OKAY) loan.collect(data);
    return status;
  } finally {
    loan.end();
  }
}
