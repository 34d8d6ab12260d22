// A block backend: serves the requests of a Xen guest on a scheduler.
//
// Nearly nothing is left to do here. A request is judged (plan.ts) and handed to the scheduler in the order in which it
// came; what a barrier holds back, on which side, and how it gets past a cache is the scheduler's mode. So:
//
//   B1  A WRITE_BARRIER is a full one: no later write of any ring of this backend reaches the disk before it is done.
//       blkback of Linux waits before it and not after it (old-backend.ts).
//   B2  Its payload and all that was written before it are durable when it is answered, because it is offered only where
//       the scheduler's guarantees say so.
//   B3  Every request has one response, with its id. Whatever is wrong, the guest reads a status; nothing is thrown.
//   B4  The data of a write is copied when the request is taken. What the guest does to its page afterwards changes
//       nothing, and no memory is kept for longer than the request.
//
// What is offered can be taken back while guests use it: `offer({ barrier: false })`. Requests that come later are
// answered EOPNOTSUPP, with nothing written, as the protocol allows at any time. The same happens by itself when the
// scheduler's mode is changed to one that cannot keep the promise.
//
// Not here: the ring (back-ring.ts); persistent grants; more than one block size. What the scheduler refuses for reasons
// of its own is an ERROR to the guest: everything after a failed flush, until its owner calls `recover()`, and what does
// not fit into its queue, which should have room for all slots of all rings.
//
// Source: Linux drivers/block/xen-blkback/blkback.c (3.2 and 4.x).

import type { IoScheduler } from 'write-barrier';
import { gathered, scattered } from '../pieces.js';
import {
  type BlkFeatures,
  blkFeaturesOf,
  INDIRECT_SEGMENTS_MAX,
  sectorSizeOf,
  type XenNodes,
  xenNodes,
} from './features.js';
import { type Plan, planOf } from './plan.js';
import { type BlkifStatus, statusOfError } from './status.js';
import { BLKIF_STATUS, type BlkifRequest, type BlkifResponse } from './wire.js';

/** How a backend is to behave. */
export interface BlkBackendOptions {
  /** The page of 4096 bytes that the guest has granted under this reference; undefined where it has not. */
  page(gref: number): Uint8Array | undefined;
  /** What is not to be offered although the scheduler can; nothing is unless given here. */
  readonly offer?: Partial<BlkFeatures>;
  /** Is told why a request was refused or has failed. It must not throw. */
  readonly refused?: (request: BlkifRequest, reason: unknown) => void;
}

/** See the head of this file. */
export interface BlkBackend {
  /** What it takes now. */
  readonly features: BlkFeatures;
  /** What it writes into xenstore now. */
  readonly nodes: XenNodes;
  /** Offers less, or again what it can: `{ flush: false }`. What is not named stays. */
  offer(change: Partial<BlkFeatures>): void;
  /** Answers a request. Requests count as issued in the order of these calls. Never rejects. */
  serve(request: BlkifRequest): Promise<BlkifResponse>;
}

/**
 * A backend over a scheduler. Several rings, of one guest or of many, may share it.
 *
 * @throws `INVALID_ARGUMENT` for a disk whose blocks are no multiple or part of 512 bytes
 */
export function blkback(disk: IoScheduler, options: BlkBackendOptions): BlkBackend {
  const { size, capabilities } = disk;
  const { blockSize } = capabilities;
  sectorSizeOf(blockSize);
  const { page, refused } = options;
  let offered: Partial<BlkFeatures> = options.offer ?? {};

  const features = (): BlkFeatures => {
    const able = blkFeaturesOf(disk);
    const { barrier = true, flush = true, discard = true } = offered;
    return {
      barrier: able.barrier && barrier,
      flush: able.flush && flush,
      discard: able.discard && discard,
      // More than their pages hold nobody could send.
      indirectSegments: Math.min(
        offered.indirectSegments ?? able.indirectSegments,
        INDIRECT_SEGMENTS_MAX,
      ),
    };
  };

  const statusOf = async (request: BlkifRequest): Promise<BlkifStatus> => {
    try {
      const plan = planOf(request, { features: features(), size, blockSize, page });
      if (plan.kind !== 'refuse') {
        await carryOut(disk, plan);
        return BLKIF_STATUS.OKAY;
      }
      refused?.(request, plan.reason);
      return plan.status;
    } catch (error) {
      refused?.(request, error);
      return statusOfError(error);
    }
  };

  return {
    get features() {
      return features();
    },
    get nodes() {
      return xenNodes(disk, features());
    },
    offer: (change) => {
      offered = { ...offered, ...change };
    },
    serve: async (request) => {
      const { id } = request;
      const operation = request.kind === 'indirect' ? request.wraps : request.operation;
      return { id, operation, status: await statusOf(request) };
    },
  };
}

function carryOut(disk: IoScheduler, plan: Exclude<Plan, { kind: 'refuse' }>): Promise<unknown> {
  switch (plan.kind) {
    case 'read': {
      const { offset, length, pieces } = plan;
      // The pages are those that were granted when the request came: they are lent until it is answered.
      return disk.read(offset, length).then((bytes) => scattered(bytes, pieces));
    }
    case 'write': {
      const { offset, length, pieces, barrier, preflush } = plan;
      return disk.write(offset, gathered(pieces, length), { barrier, preflush }); // B4
    }
    case 'barrier':
      return disk.barrier();
    case 'flush':
      return disk.flush();
    case 'discard':
      return disk.discard(plan.offset, plan.length);
  }
}
