// The frontend's end of a ring: puts requests into shared bytes and matches the responses with them.
//
//   open ──a response that cannot be──▶ broken          open ──close()──▶ closed
//
//   Q1  At most as many requests are out as there are slots; one more is refused, and the caller waits for a response.
//   Q2  An id is the number of a request that is out, and used by one at a time.
//   Q3  A response to nothing, one with another operation, and indices that run away break the ring: a backend that
//       errs once may have answered anything. Whoever waits is told, and nothing more is sent.
//
// Source: blkif_interrupt() in Linux drivers/block/xen-blkfront.c, with the checks of July 2021.

import { WriteBarrierError } from 'write-barrier';
import {
  entriesBetween,
  entriesToTake,
  indexAfter,
  initialiseRing,
  mustNotify,
  type RingView,
  ringView,
} from './ring.js';
import {
  BLKIF_OP,
  type BlkifLayout,
  type BlkifRequest,
  type BlkifResponse,
  decodeBlkifResponse,
  encodeBlkifRequest,
} from './wire.js';

/** How a frontend's end is connected. */
export interface BlkFrontRingOptions {
  /** What is written into the node `protocol`. */
  readonly layout: BlkifLayout;
  /** Tells the backend that there are requests: the event channel. If it throws, the ring is given up. */
  notify(): void;
}

/**
 * Sends one request and has its response. Its id is chosen on the way.
 *
 * What throws has not sent anything. A promise that rejects has: the backend may be at work on the request, and on its
 * pages, for as long as it likes.
 */
export type BlkifSend = (request: BlkifRequest) => Promise<BlkifResponse>;

interface Out {
  readonly request: BlkifRequest;
  readonly resolve: (response: BlkifResponse) => void;
  readonly reject: (error: Error) => void;
}

/** See the head of this file. */
export class BlkFrontRing {
  readonly #ring: RingView;
  readonly #layout: BlkifLayout;
  readonly #notify: () => void;
  readonly #out = new Map<bigint, Out>();
  readonly #ids: bigint[];
  #end: { readonly state: 'broken' | 'closed'; readonly error: Error } | undefined;
  #reqProd = 0;
  #rspCons = 0;

  /**
   * Makes a ring of the shared bytes and connects a frontend to it. The backend connects to the same bytes afterwards.
   *
   * @throws `INVALID_ARGUMENT` for bytes without room for a slot, and for a layout that is none
   */
  constructor(shared: Uint8Array, { layout, notify }: BlkFrontRingOptions) {
    this.#ring = ringView(shared, layout);
    this.#layout = layout;
    this.#notify = notify;
    this.#ids = Array.from({ length: this.#ring.slots }, (_, id) => BigInt(id));
    initialiseRing(shared);
  }

  /** Whether it still sends. */
  get state(): 'open' | 'broken' | 'closed' {
    return this.#end?.state ?? 'open';
  }

  /** How many requests there is room for. */
  get free(): number {
    return this.#end ? 0 : this.#ids.length;
  }

  /**
   * Sends a request.
   *
   * Rejects with `IO_FAILED` where the ring breaks, with `CLOSED` where it is closed, before there is a response.
   *
   * @throws `QUEUE_FULL` where no slot is free; `IO_FAILED` on a broken ring; `CLOSED` after `close`;
   *   `INVALID_ARGUMENT` for what does not fit the ring
   */
  readonly send: BlkifSend = (request) => {
    if (this.#end) throw this.#end.error;
    const id = this.#ids.at(-1);
    if (id === undefined) {
      throw new WriteBarrierError('QUEUE_FULL', `${this.#ring.slots} requests are on the ring`);
    }
    const numbered = { ...request, id };
    // What does not fit throws here, and takes no slot.
    this.#ring.slot(this.#reqProd).set(encodeBlkifRequest(numbered, this.#layout));
    this.#ids.pop();
    return new Promise((resolve, reject) => {
      this.#out.set(id, { request: numbered, resolve, reject });
      const old = this.#reqProd;
      this.#reqProd = indexAfter(old);
      this.#ring.reqProd = this.#reqProd;
      if (!mustNotify(old, this.#reqProd, this.#ring.reqEvent)) return;
      try {
        this.#notify();
      } catch {
        // The request is on the ring and may be served at any time, so nobody can be told how it ends.
        this.#breaks('its event channel has failed');
      }
    });
  };

  /** The backend's event: takes whatever is there. */
  notified(): void {
    while (!this.#end) {
      const count = this.#waiting();
      for (let left = count; left > 0 && !this.#end; left -= 1) {
        const response = decodeBlkifResponse(this.#ring.slot(this.#rspCons).slice(), this.#layout);
        this.#rspCons = indexAfter(this.#rspCons);
        this.#take(response);
      }
      if (count > 0 || this.#end) continue;
      this.#ring.rspEvent = indexAfter(this.#rspCons);
      if (this.#waiting() === 0) return;
    }
  }

  /** Sends no more; whoever waits is told. */
  close(): void {
    this.#ends('closed', new WriteBarrierError('CLOSED', 'the ring is closed'));
  }

  #waiting(): number {
    const produced = this.#ring.rspProd;
    const consumed = this.#rspCons;
    const capacity = entriesBetween(consumed, this.#reqProd);
    const count = entriesToTake({ produced, consumed, oldest: consumed, capacity });
    if (count !== 'broken') return count;
    this.#breaks(`${produced} responses to ${this.#reqProd} requests`);
    return 0;
  }

  #take({ id, operation, status }: BlkifResponse): void {
    const waiting = this.#out.get(id);
    if (!waiting) {
      this.#breaks(`a response with id ${id}, which is not out`);
    } else if (!operationsOf(waiting.request).includes(operation)) {
      this.#breaks(`operation ${operation} in the response to ${id}`);
    } else {
      this.#out.delete(id);
      this.#ids.push(id);
      waiting.resolve({ id, operation, status });
    }
  }

  #breaks(reason: string): void {
    const text = `the backend has broken the ring: ${reason}`;
    this.#ends('broken', new WriteBarrierError('IO_FAILED', text));
  }

  #ends(state: 'broken' | 'closed', error: Error): void {
    if (this.#end) return;
    this.#end = { state, error };
    for (const { reject } of this.#out.values()) reject(error);
    this.#out.clear();
  }
}

/** An indirect request is answered with what it wraps, by some with its own operation. */
function operationsOf(request: BlkifRequest): readonly number[] {
  return request.kind === 'indirect' ? [request.wraps, BLKIF_OP.INDIRECT] : [request.operation];
}
