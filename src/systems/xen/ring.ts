// The shared page with the ring: where its indices and slots are, and the arithmetic of indices that never stop.
//
// Two rings share one row of slots. The frontend produces requests, the backend consumes them and produces responses
// into the slots that it has consumed, and the frontend consumes those:
//
//        rsp_cons    rsp_prod       req_cons       req_prod
//   ────────┼───────────┼──────────────┼──────────────┼────▶
//           │ responses │ in progress  │  requests    │
//           │ to take   │ at the back  │  to take     │
//
// Each index counts up for ever as an unsigned number of 32 bits; its slot is what is left modulo the number of slots,
// a power of two. Only req_prod and rsp_prod are shared. The other side may write anything there, so:
//
//   R1  From rsp_cons to req_prod there are never more entries than slots. A producer that is further ahead, or behind
//       what has been consumed, has broken the ring, and nothing in it can be believed any more.
//
// req_event and rsp_event hold notifications off: each side says from which index on it wants to hear of the other's.
//
// Not here: who takes what, and when (back-ring.ts, front-ring.ts).
//
// Source: xen/include/public/io/ring.h (RING_REQUEST_PROD_OVERFLOW, RING_PUSH_REQUESTS_AND_CHECK_NOTIFY).

import { WriteBarrierError } from 'write-barrier';
import { type BlkifLayout, requestBytes } from './wire.js';

/** In bytes from the start of the page. */
const PLACE = { reqProd: 0, reqEvent: 4, rspProd: 8, rspEvent: 12, slots: 64 } as const;

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

/** What a consumer knows of its ring. */
export interface RingState {
  /** What the other side says: its next index, not yet produced. */
  readonly produced: number;
  /** The next index to take. */
  readonly consumed: number;
  /** The oldest entry that still occupies a slot: for requests the next response, for responses `consumed`. */
  readonly oldest: number;
  /** How many entries there can be: for requests all slots, for responses as many as there are requests out. */
  readonly capacity: number;
}

/** How many entries there are to take; `broken` where no honest producer can be (R1). */
export function entriesToTake(state: RingState): number | 'broken' {
  const { produced, consumed, oldest, capacity } = state;
  const ahead = entriesBetween(oldest, produced);
  if (ahead > capacity || ahead < entriesBetween(oldest, consumed)) return 'broken';
  return entriesBetween(consumed, produced);
}

/** Whether the other side wants to hear that a producer went from `old` to `now`, given the `event` that it waits for. */
export function mustNotify(old: number, now: number, event: number): boolean {
  return entriesBetween(event, now) < entriesBetween(old, now);
}

/** The page, with names. Reading and writing go to the shared bytes. */
export interface RingView {
  /** A power of two. */
  readonly slots: number;
  reqProd: number;
  reqEvent: number;
  rspProd: number;
  rspEvent: number;
  /** The bytes of the slot of an index, in place: copy them before you believe them. */
  slot(index: number): Uint8Array;
}

/** How many slots a page, or several in a row, have room for: the largest power of two that fits. */
export function slotsIn(bytes: number, layout: BlkifLayout): number {
  const room = Math.floor((bytes - PLACE.slots) / requestBytes(layout));
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
    throw new WriteBarrierError('INVALID_ARGUMENT', `no ring fits into ${bytes.byteLength} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = requestBytes(layout);
  const get = (place: number): number => view.getUint32(place, true);
  const set = (place: number, index: number): void => view.setUint32(place, index, true);
  return {
    slots,
    get reqProd() {
      return get(PLACE.reqProd);
    },
    set reqProd(index) {
      set(PLACE.reqProd, index);
    },
    get reqEvent() {
      return get(PLACE.reqEvent);
    },
    set reqEvent(index) {
      set(PLACE.reqEvent, index);
    },
    get rspProd() {
      return get(PLACE.rspProd);
    },
    set rspProd(index) {
      set(PLACE.rspProd, index);
    },
    get rspEvent() {
      return get(PLACE.rspEvent);
    },
    set rspEvent(index) {
      set(PLACE.rspEvent, index);
    },
    slot: (index) => {
      const at = PLACE.slots + slotOf(index, slots) * length;
      return bytes.subarray(at, at + length);
    },
  };
}

/** Makes an empty ring of the page, as the frontend does before it shares it. */
export function initialiseRing(bytes: Uint8Array): void {
  bytes.fill(0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(PLACE.reqEvent, 1, true);
  view.setUint32(PLACE.rspEvent, 1, true);
}
