// The queue of requests that have not been admitted: first in, first out. What stands behind a barrier in it is
// the post-barrier queue.

import { type ByteRange, isBarrier, type Request } from '../model/index.js';
import { Entry } from './entry.js';
import { List } from './list.js';
import { RangeIndex } from './ranges.js';

/** See the head of this file. */
export class Queue<C> {
  readonly #entries = new List<Entry<C>>();
  /** The writes in the queue; those at its tail only once a read has asked for them. */
  readonly #writes = new RangeIndex<Entry<C>>();
  #bytes = 0;

  get size(): number {
    return this.#entries.size;
  }

  /** The buffers of what is queued, in bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  get head(): Entry<C> | undefined {
    return this.#entries.head;
  }

  [Symbol.iterator](): Iterator<Entry<C>> {
    return this.#entries[Symbol.iterator]();
  }

  push(entry: Entry<C>): void {
    this.#entries.push(entry);
    this.#bytes += payloadOf(entry.request);
  }

  remove(entry: Entry<C>): void {
    this.#entries.remove(entry);
    this.#forget(entry);
  }

  /** A cancelled barrier leaves an empty one in its place. */
  removeCancelled(entry: Entry<C>): void {
    if (!isBarrier(entry.request)) {
      this.remove(entry);
      return;
    }
    // One ordering point is as good as two.
    if (isStandIn(entry.previous) || isStandIn(entry.next)) {
      this.remove(entry);
      return;
    }
    const place = standIn(entry);
    place.indexed = entry.indexed;
    this.#entries.replace(entry, place);
    this.#forget(entry);
  }

  /** Whether a queued request writes any of these bytes. */
  writes(range: ByteRange): boolean {
    for (let entry = this.#entries.tail; entry && !entry.indexed; entry = entry.previous) {
      entry.indexed = true;
      if (entry.mutates) this.#writes.add(entry);
    }
    return this.#writes.overlaps(range);
  }

  #forget(entry: Entry<C>): void {
    this.#bytes -= payloadOf(entry.request);
    if (entry.indexed && entry.mutates) this.#writes.delete(entry);
  }
}

/** The ordering point that a cancelled barrier leaves behind. Nobody waits for it. */
export function standIn<C>(entry: Entry<C>): Entry<C> {
  return new Entry<C>(entry.ticket, { kind: 'barrier' }, undefined);
}

function isStandIn<C>(entry: Entry<C> | undefined): boolean {
  return entry !== undefined && entry.client === undefined;
}

/** The buffer that a queued request holds on to. */
export function payloadOf(request: Request): number {
  return request.kind === 'write' || request.kind === 'read' ? request.length : 0;
}
