// A block backend of an era, over a storage. It does what the Linux of those years did with the requests of a guest, its
// defects included; which those are stands in its era (backend-eras.ts) as data.
//
// By hard barrier (until 2.6.36): every bio of a WRITE_BARRIER is a hard barrier for the queue below, which is a
// scheduler here. Order is right. A request of several bios becomes several barriers, each with flushes of its own.
//
// By preflush (since 3.2): the thread of a ring takes its requests one by one. At a WRITE_BARRIER it stops until nothing
// is outstanding, sends the flush and then the payload, and goes on at once:
//
//      w0 b1 w2    ──▶    w0 => F -> w1       (=> waits, -> the flush of this bio comes first)
//                               w2            w2 may pass both: half a barrier
//
//   - what comes later may reach the disk, and the medium, before the barrier;
//   - the payload has no FUA, so it may still be in the cache when the barrier is answered;
//   - with several rings the thread looks at its own only, and a barrier may pass what came over another.
//
// The flush below is that of Linux since 2.6.37: it covers what had completed, and nobody waits for the rest.
//
// blktap's user-space process, as patched in 2010, does it in the same terms and to the end: it finishes what came
// before, syncs, writes, syncs again, and only then goes on.
//
// RingThreads (ring-threads.ts) decides who may go, without promises; oldBlkback runs it; what the queue below does is in
// old-queues.ts.
//
// Not here: merging and plugging; overlapping requests in flight, which the disk may carry out in any order.

import { type Observer, type Request, type Storage, WriteBarrierError } from 'write-barrier';
import type { BlkbackEra } from './backend-eras.js';
import { type BlkFeatures, type XenNodes, xenNodes } from './features.js';
import { type Bio, hardBarriers, OUTCOMES, preflushes } from './old-queues.js';
import { type Plan, planOf, type Refusal, type TransferPlan } from './plan.js';
import { type Job, RingThreads } from './ring-threads.js';
import { BLKIF_OP, BLKIF_STATUS, type BlkifRequest, type BlkifResponse } from './wire.js';

/** How an old backend is to behave. */
export interface OldBlkbackOptions {
  /** As for `blkback`. */
  page(gref: number): Uint8Array | undefined;
  /** Pages in one bio, as the disk below takes them, 1 or more; 11 unless given, so that no direct request is split. */
  readonly bioPages?: number;
  /** Is told every event: requests are those of the ring, commands those at the storage. */
  readonly observer?: Observer;
}

/** See the head of this file. */
export interface OldBlkback {
  /** What it writes into xenstore now: a feature that the disk refuses is rewritten to 0. */
  readonly nodes: XenNodes;
  /** Answers a request of the ring with that number, 0 unless given. Never rejects. */
  serve(request: BlkifRequest, ring?: number): Promise<BlkifResponse>;
}

/**
 * A backend of that era over a storage.
 *
 * @throws `INVALID_ARGUMENT` for a bio without pages
 */
export function oldBlkback(
  era: BlkbackEra,
  storage: Storage,
  options: OldBlkbackOptions,
): OldBlkback {
  const { page, bioPages = 11, observer } = options;
  if (!Number.isSafeInteger(bioPages) || bioPages < 1) {
    throw new WriteBarrierError('INVALID_ARGUMENT', `there is no bio of ${bioPages} pages`);
  }
  const { capabilities, size } = storage;
  const { blockSize } = capabilities;
  const threads = new RingThreads(era);
  const hard = era.barrier.by === 'hard-barrier';
  const carry = (hard ? hardBarriers : preflushes)(era, storage, observer);
  let requests = 0;
  let features: BlkFeatures = {
    barrier: true,
    flush: era.flush,
    discard: era.discard && capabilities.discard === true,
    indirectSegments: era.indirectSegments,
  };

  const pump = (): void => {
    for (let job = threads.next(); job; job = threads.next()) job.run();
  };

  /** What Linux does to the node when the disk refuses. */
  const noteRefusal = (operation: number): void => {
    if (operation === BLKIF_OP.WRITE_BARRIER) features = { ...features, barrier: false };
    if (operation === BLKIF_OP.FLUSH_DISKCACHE) features = { ...features, flush: false };
  };

  return {
    get nodes() {
      return xenNodes({ size, capabilities }, features);
    },
    serve: (request, ring = 0) =>
      new Promise((resolve) => {
        const { id } = request;
        const operation = request.kind === 'indirect' ? request.wraps : request.operation;
        const plan = judged(era, request, {
          features: taken(era, features),
          size,
          blockSize,
          page,
        });
        if (plan.kind === 'refuse') return resolve({ id, operation, status: plan.status });
        const number = requests++;
        observer?.({ kind: 'submit', request: number, what: requestOf(plan) });
        const run = async (): Promise<void> => {
          const status = await carry(number, biosOf(plan, bioPages));
          if (status === BLKIF_STATUS.EOPNOTSUPP) noteRefusal(operation);
          threads.complete(job);
          if (!hard) observer?.({ kind: 'settle', request: number, outcome: OUTCOMES[status] });
          resolve({ id, operation, status });
          pump();
        };
        const job: Job = { ring, barrier: operation === BLKIF_OP.WRITE_BARRIER, run };
        threads.submit(job);
        pump();
      }),
  };
}

type Sent = Exclude<Plan, Refusal>;

/** A node that says 0 stops no request: the disk is asked again. */
function taken(era: BlkbackEra, features: BlkFeatures): BlkFeatures {
  return { ...features, barrier: true, flush: era.flush };
}

function judged(
  era: BlkbackEra,
  request: BlkifRequest,
  grounds: Parameters<typeof planOf>[1],
): Plan {
  const wrong = (reason: string): Refusal => ({
    kind: 'refuse',
    status: BLKIF_STATUS.ERROR,
    reason,
  });
  try {
    const plan = planOf(request, grounds);
    const unknown = plan.kind === 'barrier' && era.emptyBarrier === 'error';
    return unknown ? wrong('no segments') : plan;
  } catch (error) {
    return wrong(`its pages: ${error}`);
  }
}

function requestOf(plan: Sent): Request {
  switch (plan.kind) {
    case 'read':
    case 'discard':
      return { kind: plan.kind, offset: plan.offset, length: plan.length };
    case 'write': {
      const { offset, length, barrier, preflush } = plan;
      return {
        kind: 'write',
        offset,
        length,
        ...(barrier && { barrier }),
        ...(preflush && { preflush }),
      };
    }
    default:
      return { kind: plan.kind };
  }
}

function biosOf(plan: Sent, bioPages: number): readonly Bio[] {
  const bare = { barrier: false, preflush: false, offset: 0, length: 0, pieces: [] };
  switch (plan.kind) {
    case 'barrier':
      return [{ ...bare, kind: 'empty', barrier: true }];
    case 'flush':
      return [{ ...bare, kind: 'empty', preflush: true }];
    case 'discard':
      return [{ ...bare, ...plan }];
    default:
      return split(plan, bioPages);
  }
}

function split(plan: TransferPlan, bioPages: number): Bio[] {
  const bios: Bio[] = [];
  let { offset } = plan;
  for (let at = 0; at < plan.pieces.length; at += bioPages) {
    const pieces = plan.pieces.slice(at, at + bioPages);
    const length = pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
    bios.push({ ...plan, offset, length, pieces });
    offset += length;
  }
  return bios;
}
