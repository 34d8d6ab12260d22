// The backend's end of a ring: takes requests out of shared bytes and puts responses back.
//
//   serving ──indices run away, the event channel fails──▶ broken          serving ──close()──▶ closed
//
//   K1  A request is copied out of the ring before it is looked at, once: the frontend may go on writing there.
//   K2  Every request that was taken has one response, in whatever order they are ready.
//   K3  At most as many requests are at work as there are slots.
//   K4  A broken or closed ring is left alone: nothing is taken from it, and nothing is answered any more, not even what
//       is at work. Other rings of the same backend go on.
//
// Source: __do_block_io_op() and make_response() in Linux 4.x drivers/block/xen-blkback/blkback.c, which halts a ring
// whose frontend "provided bogus ring requests".

import { entriesToTake, indexAfter, mustNotify, ringView } from './ring.js';
import {
  type BlkifLayout,
  type BlkifRequest,
  type BlkifResponse,
  decodeBlkifRequest,
  encodeBlkifResponse,
} from './wire.js';

/** How a backend's end is connected. */
export interface BlkBackRingOptions {
  /** The frontend's, from its node `protocol`. */
  readonly layout: BlkifLayout;
  /** Answers a request and never rejects: `backend.serve`. */
  serve(request: BlkifRequest): Promise<BlkifResponse>;
  /** Tells the frontend that there are responses: the event channel. If it throws, the ring is given up. */
  notify(): void;
  /** Is told once, in words, why this ring is not served any more. It must not throw. */
  readonly broken?: (reason: string) => void;
}

/** See the head of this file. */
export interface BlkBackRing {
  /** Whether it still takes requests. */
  readonly state: 'serving' | 'broken' | 'closed';
  /** Requests that were taken and are not answered. */
  readonly inFlight: number;
  /** The frontend's event: takes whatever is there. */
  notified(): void;
  /** Takes no more. What is at work goes on at the disk and is not answered. */
  close(): void;
}

/**
 * Connects a backend to a ring in shared bytes.
 *
 * @throws `INVALID_ARGUMENT` for bytes without room for a slot, and for a layout that is none
 */
export function blkBackRing(shared: Uint8Array, options: BlkBackRingOptions): BlkBackRing {
  const { layout, serve, notify, broken } = options;
  const ring = ringView(shared, layout);
  let state: BlkBackRing['state'] = 'serving';
  let reqCons = ring.rspProd;
  let rspProd = reqCons;

  const answer = (response: BlkifResponse): void => {
    if (state !== 'serving') return; // K4
    const old = rspProd;
    ring.slot(old).set(encodeBlkifResponse(response, layout));
    rspProd = indexAfter(old);
    ring.rspProd = rspProd;
    if (!mustNotify(old, rspProd, ring.rspEvent)) return;
    try {
      notify();
    } catch (error) {
      breaks(`its event channel has failed: ${error}`);
    }
  };

  const breaks = (reason: string): void => {
    state = 'broken';
    broken?.(reason);
  };

  const waiting = (): number => {
    const produced = ring.reqProd;
    const count = entriesToTake({
      produced,
      consumed: reqCons,
      oldest: rspProd,
      capacity: ring.slots,
    });
    if (count !== 'broken') return count;
    const heard = `${reqCons} taken and ${rspProd} answered, of ${ring.slots} slots`;
    breaks(`the frontend says ${produced} with ${heard}`);
    return 0;
  };

  const notified = (): void => {
    while (state === 'serving') {
      const count = waiting();
      for (let left = count; left > 0; left -= 1) {
        const request = decodeBlkifRequest(ring.slot(reqCons).slice(), layout); // K1
        reqCons = indexAfter(reqCons);
        serve(request).then(answer);
      }
      if (count > 0 || state !== 'serving') continue;
      // Whoever adds one from here on must say so; who did so just now may not have known.
      ring.reqEvent = indexAfter(reqCons);
      if (waiting() === 0) return;
    }
  };

  return {
    get state() {
      return state;
    },
    get inFlight() {
      return (reqCons - rspProd) >>> 0;
    },
    notified,
    close: () => {
      if (state === 'serving') state = 'closed';
    },
  };
}
