// The shared page with the ring, and its two ends: where the indices and slots are, the arithmetic of indices that never
// stop, and who takes what, and when.
//
// Two rings share one row of slots. The frontend produces requests, the backend consumes them and produces responses
// into the slots that it has consumed, and the frontend consumes those:
//
//        rsp_cons    rsp_prod       req_cons       req_prod
//   ────────┼───────────┼──────────────┼──────────────┼────▶
//           │ responses │ in progress  │  requests    │
//           │ to take   │ at the back  │  to take     │
//
// Each index counts up for ever as an unsigned number of 32 bits; its slot is the index modulo the number of slots, which
// is a power of two. Only req_prod and rsp_prod are shared. The other side may write anything there, so:
//
//   R1  From rsp_cons to req_prod there are never more entries than slots. A producer that is further ahead, or behind
//       what has been consumed, has broken the ring, and nothing in it can be believed any more.
//
// req_event and rsp_event reduce notifications: each side says from which index on it wants to be notified by the other.
//
// Either end is open until it finds the ring broken, or is closed:
//
//   open ──indices run away, the event channel fails, a response that cannot be──▶ broken          open ──close()──▶ closed
//
// The frontend's end puts requests into shared bytes and matches the responses with them:
//
//   Q1  At most as many requests are out as there are slots; one more is refused, and the caller waits for a response.
//   Q2  An id identifies one request that is out; it is used again only after the response to that request.
//   Q3  A response to no request, a response with another operation, and indices that run away break the ring, because the
//       other responses of such a backend cannot be trusted either. Every request without an answer fails, and nothing
//       more is sent.
//
// The backend's end takes requests out of shared bytes and puts responses back:
//
//   K1  A request is copied out of the ring once, and only the copy is read, because the frontend may go on writing there.
//   K2  Every request that was taken has one response, in the order in which the responses are ready.
//   K3  At most as many requests are at work as there are slots.
//   K4  A broken or closed ring is left alone: no request is taken from it, and no response is put into it any more, not
//       even to a request that is at work. Other rings of the same backend go on.
//
// Source: xen/include/public/io/ring.h (RING_REQUEST_PROD_OVERFLOW, RING_PUSH_REQUESTS_AND_CHECK_NOTIFY); blkif_interrupt()
// in Linux drivers/block/xen-blkfront.c, with the checks of July 2021; __do_block_io_op() and make_response() in Linux 4.x
// drivers/block/xen-blkback/blkback.c, which halts a ring whose frontend "provided bogus ring requests".

import { IoFailedError, WriteBarrierError } from 'write-barrier';
import { checkArgument, checkOptions, FUNCTION, misuse } from 'write-barrier/kit';
import {
  BLKIF_OP,
  type BlkifLayout,
  type BlkifRequest,
  type BlkifResponse,
  decodeBlkifRequest,
  decodeBlkifResponse,
  encodeBlkifRequest,
  encodeBlkifResponse,
  requestBytes,
} from './wire.js';

// The indices

/** The index `by` entries further on. */
export function indexAfter(index: number, by = 1): number {
  return (index + by) >>> 0;
}

/** How many entries lie from one index to another, across the end of the numbers. */
export function entriesBetween(from: number, to: number): number {
  return (to - from) >>> 0;
}

/** The slot of an index. `slots` is a power of two. */
export function slotOf(index: number, slots: number): number {
  return (index & (slots - 1)) >>> 0;
}

/**
 * How many entries there are to take, up to what the other side says that it has produced; `broken` where no honest producer
 * can be (R1).
 *
 * @param limit the first index without a place: for requests one ring after the next response, for responses the next request
 */
export function entriesToTake(
  consumed: number,
  produced: number,
  limit: number,
): number | 'broken' {
  const count = entriesBetween(consumed, produced);
  return count > entriesBetween(consumed, limit) ? 'broken' : count;
}

/** Whether the other side must be notified that a producer went from `old` to `now`, given the `event` that it waits for. */
export function mustNotify(old: number, now: number, event: number): boolean {
  return entriesBetween(event, now) < entriesBetween(old, now);
}

// The page

/** In bytes from the start of the page. */
const PLACE = { reqProd: 0, reqEvent: 4, rspProd: 8, rspEvent: 12 } as const;
const SLOTS = 64;

/** The page, with names. Reading and writing go to the shared bytes. */
export interface RingView extends Record<keyof typeof PLACE, number> {
  /** A power of two. */
  readonly slots: number;
  /** The bytes of the slot of an index, in place: copy them before you believe them. */
  slot(index: number): Uint8Array;
}

/** How many slots a page, or several in a row, have room for: the largest power of two that fits. */
export function slotsIn(bytes: number, layout: BlkifLayout): number {
  const room = Math.floor((bytes - SLOTS) / requestBytes(layout));
  return room < 1 ? 0 : 2 ** Math.floor(Math.log2(room));
}

/**
 * A ring over shared bytes.
 *
 * @throws `INVALID_ARGUMENT` for bytes without room for a slot
 */
export function ringView(bytes: Uint8Array, layout: BlkifLayout): RingView {
  const slots = slotsIn(bytes.byteLength, layout);
  if (slots === 0) {
    throw misuse(`the shared bytes must have room for a slot, and ${bytes.byteLength} are too few`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = requestBytes(layout);
  const slot = (index: number): Uint8Array => {
    const at = SLOTS + slotOf(index, slots) * length;
    return bytes.subarray(at, at + length);
  };
  const ring = { slots, slot };
  for (const [name, at] of Object.entries(PLACE)) {
    Object.defineProperty(ring, name, {
      get: () => view.getUint32(at, true),
      set: (index: number) => view.setUint32(at, index, true),
    });
  }
  return ring as RingView;
}

/** Makes an empty ring of the page, as the frontend does before it shares it. */
export function initialiseRing(bytes: Uint8Array): void {
  bytes.fill(0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(PLACE.reqEvent, 1, true);
  view.setUint32(PLACE.rspEvent, 1, true);
}

// An end

/** How the two ends differ. */
interface EndOptions {
  /** What this end produces; it takes the other. */
  readonly puts: 'req' | 'rsp';
  /** How far ahead of what it has itself produced the other side may be. */
  readonly ahead: number;
  /** Takes a copy of an entry of the other side (K1). */
  readonly take: (entry: Uint8Array) => void;
  /** Notifies the other side: the event channel. */
  readonly notify: () => void;
  /** What is wrong with a producer that is at this index (R1). */
  readonly overrun: (produced: number) => string;
  /** Called once, when the ring has been given up. */
  readonly broken: (reason: string) => void;
}

/** What both ends do: they put entries into the slots, and take those of the other end. */
class RingEnd {
  readonly #ring: RingView;
  readonly #options: EndOptions;
  readonly #takes: 'req' | 'rsp';
  state: 'open' | 'broken' | 'closed' = 'open';
  produced: number;
  consumed: number;

  constructor(ring: RingView, options: EndOptions) {
    this.#ring = ring;
    this.#options = options;
    this.#takes = options.puts === 'req' ? 'rsp' : 'req';
    this.produced = ring[`${options.puts}Prod`];
    this.consumed = this.produced;
  }

  put(entry: Uint8Array): void {
    const { puts, notify } = this.#options;
    const old = this.produced;
    this.#ring.slot(old).set(entry);
    this.produced = indexAfter(old);
    this.#ring[`${puts}Prod`] = this.produced;
    if (!mustNotify(old, this.produced, this.#ring[`${puts}Event`])) return;
    try {
      notify();
    } catch (error) {
      // The entry is on the ring and may be taken at any time, so its end is not known.
      this.break(`its event channel has failed: ${error}`);
    }
  }

  /** Takes whatever is there. */
  takeAll(): void {
    while (this.state === 'open') {
      const count = this.#waiting();
      for (let left = count; left > 0 && this.state === 'open'; left -= 1) {
        const entry = this.#ring.slot(this.consumed).slice();
        this.consumed = indexAfter(this.consumed);
        this.#options.take(entry);
      }
      if (count > 0 || this.state !== 'open') continue;
      // An entry that is added from here on comes with an event; one that was added just now may not.
      this.#ring[`${this.#takes}Event`] = indexAfter(this.consumed);
      if (this.#waiting() === 0) return;
    }
  }

  break(reason: string): void {
    if (this.state !== 'open') return;
    this.state = 'broken';
    this.#options.broken(reason);
  }

  #waiting(): number {
    const { ahead, overrun } = this.#options;
    const produced = this.#ring[`${this.#takes}Prod`];
    const count = entriesToTake(this.consumed, produced, indexAfter(this.produced, ahead));
    if (count !== 'broken') return count;
    this.break(overrun(produced));
    return 0;
  }
}

// The frontend's end

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

const FRONT_RING = { layout: 1, notify: 1 } as const;

/** The frontend's end of a ring. */
export class BlkFrontRing {
  readonly #end: RingEnd;
  readonly #layout: BlkifLayout;
  readonly #slots: number;
  readonly #out = new Map<bigint, Out>();
  readonly #ids: bigint[];
  /** Why nothing is sent any more. */
  #error: Error | undefined;

  /**
   * Makes a ring of the shared bytes and connects a frontend to it. The backend connects to the same bytes afterwards.
   *
   * @throws `INVALID_ARGUMENT` for bytes without room for a slot, and for an unknown layout
   */
  constructor(shared: Uint8Array, options: BlkFrontRingOptions) {
    checkOptions(options, FRONT_RING, 'BlkFrontRing');
    const { layout, notify } = options;
    checkArgument('notify', notify, FUNCTION);
    const ring = ringView(shared, layout);
    initialiseRing(shared);
    this.#layout = layout;
    this.#slots = ring.slots;
    this.#ids = Array.from({ length: ring.slots }, (_, id) => BigInt(id));
    this.#end = new RingEnd(ring, {
      puts: 'req',
      ahead: 0,
      take: (entry) => this.#take(decodeBlkifResponse(entry, layout)),
      notify,
      overrun: (produced) => `${produced} responses to ${this.#end.produced} requests`,
      broken: (reason) =>
        this.#fail(new IoFailedError(`the backend has broken the ring: ${reason}`)),
    });
  }

  /** Whether it still sends. */
  get state(): 'open' | 'broken' | 'closed' {
    return this.#end.state;
  }

  /** How many requests there is room for. */
  get free(): number {
    return this.#error ? 0 : this.#ids.length;
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
    if (this.#error) throw this.#error;
    const id = this.#ids.at(-1);
    if (id === undefined) {
      throw new WriteBarrierError('QUEUE_FULL', `${this.#slots} requests are on the ring`);
    }
    const numbered = { ...request, id };
    // What does not fit throws here, and takes no slot.
    const entry = encodeBlkifRequest(numbered, this.#layout);
    this.#ids.pop();
    return new Promise((resolve, reject) => {
      this.#out.set(id, { request: numbered, resolve, reject });
      this.#end.put(entry);
    });
  };

  /** The backend's event: takes whatever is there. */
  notified(): void {
    this.#end.takeAll();
  }

  /** Sends no more; requests without an answer fail with `CLOSED`. */
  close(): void {
    if (this.#end.state !== 'open') return;
    this.#end.state = 'closed';
    this.#fail(new WriteBarrierError('CLOSED', 'the ring is closed'));
  }

  #take({ id, operation, status }: BlkifResponse): void {
    const waiting = this.#out.get(id);
    if (!waiting) {
      this.#end.break(`a response with id ${id}, which is not out`);
    } else if (!operationsOf(waiting.request).includes(operation)) {
      this.#end.break(`operation ${operation} in the response to ${id}`);
    } else {
      this.#out.delete(id);
      this.#ids.push(id);
      waiting.resolve({ id, operation, status });
    }
  }

  #fail(error: Error): void {
    this.#error = error;
    for (const { reject } of this.#out.values()) reject(error);
    this.#out.clear();
  }
}

/** An indirect request is answered with what it wraps, by some with its own operation. */
function operationsOf(request: BlkifRequest): readonly number[] {
  return request.kind === 'indirect' ? [request.wraps, BLKIF_OP.INDIRECT] : [request.operation];
}

// The backend's end

/** How a backend's end is connected. */
export interface BlkBackRingOptions {
  /** The frontend's, from its node `protocol`. */
  readonly layout: BlkifLayout;
  /** Answers a request and never rejects: `backend.serve`. */
  serve(request: BlkifRequest): Promise<BlkifResponse>;
  /** Tells the frontend that there are responses: the event channel. If it throws, the ring is given up. */
  notify(): void;
  /** Called once with the reason why this ring is not served any more. It must not throw. */
  readonly broken?: (reason: string) => void;
}

/** The backend's end of a ring. */
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

const BACK_RING = { layout: 1, serve: 1, notify: 1, broken: 1 } as const;

/**
 * Connects a backend to a ring in shared bytes.
 *
 * @throws `INVALID_ARGUMENT` for bytes without room for a slot, for an unknown layout, and for an option that is not
 *   known
 */
export function blkBackRing(shared: Uint8Array, options: BlkBackRingOptions): BlkBackRing {
  checkOptions(options, BACK_RING, 'blkBackRing');
  const { layout, serve, notify, broken } = options;
  checkArgument('serve', serve, FUNCTION);
  checkArgument('notify', notify, FUNCTION);
  const ring = ringView(shared, layout);
  const end: RingEnd = new RingEnd(ring, {
    puts: 'rsp',
    ahead: ring.slots,
    take: (entry) => {
      serve(decodeBlkifRequest(entry, layout)).then((response) => {
        if (end.state === 'open') end.put(encodeBlkifResponse(response, layout)); // K4
      });
    },
    notify,
    overrun: (produced) => {
      const heard = `the backend has taken ${end.consumed} requests and answered ${end.produced}, and the ring has ${ring.slots} slots`;
      return `the frontend claims to have produced ${produced} requests, but ${heard}`;
    },
    broken: (reason) => broken?.(reason),
  });
  return {
    get state() {
      return end.state === 'open' ? 'serving' : end.state;
    },
    get inFlight() {
      return entriesBetween(end.produced, end.consumed);
    },
    notified: () => end.takeAll(),
    close: () => {
      if (end.state === 'open') end.state = 'closed';
    },
  };
}
