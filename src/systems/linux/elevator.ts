// The two places where a request waits until the driver takes it, and every way into them.
//
//   add ────▶ elevator ──dispatch──▶ dispatch list ──taken──▶ driver
//   back, front, requeue ───────────────▲
//
// The elevator is the plainest of those that these kernels had, noop: first in, first out, with merging. It hands over one
// request when the list is empty, and all its requests when one is inserted at the back. Only the second case sorts
// anything. Positions are in bytes here, and in sectors in the kernel.
//
//   E1  Bios merge, back or front, into requests that are still in the elevator: same operation, adjacent, within the
//       limit. Barriers, soft barriers and packets do not take part, and nothing leaves the list to be merged.
//   E2  Sorted dispatch walks back from the tail of the list and stops at a barrier, at a soft barrier, and at another
//       operation: nothing is sorted across any of these.
//   E3  The order is that of one sweep which begins where the last boundary ends. A barrier becomes the boundary before
//       the elevator empties itself for it, so requests at positions after the barrier's bytes go first.
//   E4  A request that the driver puts back, or that is inserted at either end, is a soft barrier from then on.
//
// Not here: the other elevators; plugging, which only delays; the merging of two requests that a third made
// adjacent.
//
// Source: elv_merge(), elv_dispatch_sort(), elv_insert() and __elv_add_request() in block/elevator.c, noop_dispatch()
// in block/noop-iosched.c, 2.6.24 to 2.6.36.

import type { Operation, Stage } from 'write-barrier';

/** What a client asks of a queue with barriers. Reads and discards may be barriers, too; 0 bytes: an empty barrier. */
export interface Bio {
  /** What is to be done with the bytes. */
  readonly op: 'read' | 'write' | 'discard';
  /** In bytes from the start of the storage. */
  readonly offset: number;
  /** In bytes. */
  readonly length: number;
  /** It separates what came before from what comes after. */
  readonly barrier: boolean;
}

/** A request of the queue: bios that were merged, a proxy for a step of a barrier, or a packet. */
export interface QueuedRequest<C> {
  /** What is to be done with the bytes; a flush has none. */
  readonly op: Operation;
  /** In bytes from the start of the storage. */
  offset: number;
  /** In bytes; it grows as bios are merged. */
  length: number;
  /** Whom it serves, in the order of their bytes. */
  readonly clients: C[];
  /** No request of a file system: a command of the driver or of an ioctl. */
  readonly packet: boolean;
  /** REQ_HARDBARRIER. */
  readonly hard: boolean;
  /** REQ_SOFTBARRIER. */
  soft: boolean;
  /** REQ_FUA. */
  readonly fua: boolean;
  /** Which step of a barrier it stands for; `plain` for none. */
  readonly stage: Stage;
  /** REQ_ORDERED_COLOR: the same as the barrier's for what came before it, the other for what came after. */
  colour: boolean;
}

const endOf = ({ offset, length }: QueuedRequest<unknown>): number => offset + length;

/** The elevator and the dispatch list. */
export class Elevator<C> {
  /** The dispatch list; the driver takes from its head. */
  readonly list: QueuedRequest<C>[] = [];
  readonly #waiting: QueuedRequest<C>[] = [];
  readonly #mergeBytesMax: number;
  /** Where the sweep begins. */
  #origin = 0;
  /** The request whose end that is, until the driver has taken it. */
  #boundary: QueuedRequest<C> | undefined;
  /** The one that is looked at first, and the only one that a bio is merged in front of. */
  #lastMerge: QueuedRequest<C> | undefined;

  /** `mergeBytesMax`: the size of a merged request; 0 merges nothing. */
  constructor(mergeBytesMax: number) {
    this.#mergeBytesMax = mergeBytesMax;
  }

  /** How many requests wait in the elevator. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** E1. False where the bio needs a request of its own. */
  merge(bio: Bio, client: C): boolean {
    const last = this.#lastMerge;
    const behind = (rq: QueuedRequest<C>): boolean =>
      endOf(rq) === bio.offset && this.#mayMerge(rq, bio);
    const back = last && behind(last) ? last : undefined;
    const front = last && bio.offset + bio.length === last.offset && this.#mayMerge(last, bio);
    const into = back ?? (front ? last : this.#waiting.find(behind));
    if (!into) return false;
    if (front && !back) {
      into.offset = bio.offset;
      into.clients.unshift(client);
    } else {
      into.clients.push(client);
    }
    into.length += bio.length;
    this.#lastMerge = into;
    return true;
  }

  /** Into the elevator. */
  add(rq: QueuedRequest<C>): void {
    this.#lastMerge ??= rq;
    this.#waiting.push(rq);
  }

  /** E4: the head of the list. */
  front(rq: QueuedRequest<C>): void {
    rq.soft = true;
    this.list.unshift(rq);
  }

  /** E4: the tail of the list, behind all that is in the elevator. For barriers of both kinds, and packets. */
  back(rq: QueuedRequest<C>): void {
    // E3: a packet has no place on the disk, and is no boundary.
    if (!rq.packet) {
      this.#origin = endOf(rq);
      this.#boundary = rq;
    }
    rq.soft = true;
    while (this.dispatch());
    this.list.push(rq);
  }

  /**
   * E4: back from the driver, before the first that `isLater` says it of; without, to the head.
   */
  requeue(rq: QueuedRequest<C>, isLater: ((other: QueuedRequest<C>) => boolean) | undefined): void {
    rq.soft = true;
    const at = isLater ? this.list.findIndex(isLater) : 0;
    this.list.splice(at < 0 ? this.list.length : at, 0, rq);
  }

  /** E2: hands one request over; false when the elevator is empty. */
  dispatch(): boolean {
    const rq = this.#waiting.shift();
    if (!rq) return false;
    if (this.#lastMerge === rq) this.#lastMerge = undefined;
    let at = this.list.length;
    while (at > 0 && this.#goesBefore(rq, this.list[at - 1] as QueuedRequest<C>)) at -= 1;
    this.list.splice(at, 0, rq);
    return true;
  }

  /** The driver takes the request. */
  take(rq: QueuedRequest<C>): void {
    this.drop(rq);
    if (this.#boundary && this.#boundary !== rq) return;
    this.#origin = endOf(rq);
    this.#boundary = undefined;
  }

  /** Off the list, and no driver sees it. */
  drop(rq: QueuedRequest<C>): void {
    this.list.splice(this.list.indexOf(rq), 1);
  }

  #mayMerge(rq: QueuedRequest<C>, { op, length }: Bio): boolean {
    return rq.op === op && rq.length + length <= this.#mergeBytesMax;
  }

  /** E2, E3. */
  #goesBefore(rq: QueuedRequest<C>, other: QueuedRequest<C>): boolean {
    if (other.op !== rq.op || other.soft || other.hard) return false;
    // Two halves of one sweep: from the origin to the end of the disk, then from its start.
    const [half, otherHalf] = [rq.offset < this.#origin, other.offset < this.#origin];
    if (half !== otherHalf) return otherHalf;
    return rq.offset < other.offset;
  }
}
