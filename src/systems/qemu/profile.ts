// What the barrier patch for QEMU's posix-aio emulation got wrong or left for later, as data: a field for each, so
// that each can be put back alone. The numbers Q1 to Q13 are those of docs/systems/qemu-2009.md.
//
// Two of them are no fields, because they are the design: during a barrier at most one worker does anything (half of
// Q7), and reads and ioctls wait behind a barrier like everything else (Q9). The repaired queue has both.

/**
 * What the patch got wrong, or left for later. True is the patch. Where nothing else is said the witness is
 * posix-aio-compat.c with the patch of 5 May 2009.
 */
export interface AioProfile {
  /** Q1: a cancelled barrier stays in the counter (qemu_paio_cancel), so whatever comes later waits for ever. */
  readonly cancelKeepsCount: boolean;
  /** With a cancelled barrier its place in the order goes, too. Otherwise an empty barrier stays in its place. */
  readonly cancelDropsPlace: boolean;
  /** Q2: a request keeps its mark of the post-barrier list on the run list, and is unlinked from the wrong one. */
  readonly requeueKeepsMark: boolean;
  /** Q3: a barrier that waits for idle workers looks as if nobody had it, and can be unlinked a second time. */
  readonly cancellableWhileDraining: boolean;
  /** Q4: nobody looks at what fdatasync answers. */
  readonly ignoresSyncErrors: boolean;
  /** Q5: no failure stops a barrier: neither of a write before it, nor of a call of its own. */
  readonly failuresStopNothing: boolean;
  /** Q6: one worker is woken for all requests that a barrier releases, and none is started. */
  readonly wakesOneForAll: boolean;
  /** Q7: a worker leaves when it had no work for ten seconds. */
  readonly idleWorkersLeave: boolean;
  /** Q8: all disks of the process share one queue, and a barrier on one holds up all. */
  readonly oneQueueForAllDisks: boolean;
  /** Q10: no barriers on a file opened with O_DIRECT or O_DSYNC (raw_open in block-raw-posix.c). */
  readonly noBarriersOnDirect: boolean;
  /** Q11: the message of the abort takes a number of bytes for an error number. */
  readonly garblesAbort: boolean;
  /** Q12: there is no barrier without data, and so no way to ask for a flush. */
  readonly refusesEmptyBarriers: boolean;
  /** Q13: a request that can only wait for a barrier starts or wakes a worker all the same. */
  readonly wakesForHeld: boolean;
}

/** The patch, as it was sent. */
export const QEMU_2009: AioProfile = Object.freeze({
  cancelKeepsCount: true,
  cancelDropsPlace: true,
  requeueKeepsMark: true,
  cancellableWhileDraining: true,
  ignoresSyncErrors: true,
  failuresStopNothing: true,
  wakesOneForAll: true,
  idleWorkersLeave: true,
  oneQueueForAllDisks: true,
  noBarriersOnDirect: true,
  garblesAbort: true,
  refusesEmptyBarriers: true,
  wakesForHeld: true,
});

/** What the patch meant: the same queue with none of the defects. */
export const QEMU_REPAIRED: AioProfile = Object.freeze({
  cancelKeepsCount: false,
  cancelDropsPlace: false,
  requeueKeepsMark: false,
  cancellableWhileDraining: false,
  ignoresSyncErrors: false,
  failuresStopNothing: false,
  wakesOneForAll: false,
  idleWorkersLeave: false,
  oneQueueForAllDisks: false,
  noBarriersOnDirect: false,
  garblesAbort: false,
  refusesEmptyBarriers: false,
  wakesForHeld: false,
});
