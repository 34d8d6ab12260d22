// The queue of requests that have not been admitted: first in, first out. Its part after a barrier is the post-barrier queue.

import { type ByteRange, isBarrier, type Request } from '../model/index.js';
import { overlap } from './durability.js';
import { type Entry, tombstoneOf } from './entry.js';
import { List } from './list.js';

/** In a longer queue a read is not compared with the requests before it, but waits for them. */
const COMPARED_MAX = 1024;

/** The requests that wait for admission. */
export class Queue<C> {
  readonly #entries = new List<Entry<C>>();
  /** The buffers of what is queued, in bytes. */
  bytes = 0;

  get size(): number {
    return this.#entries.size;
  }

  get head(): Entry<C> | undefined {
    return this.#entries.head;
  }

  [Symbol.iterator](): Iterator<Entry<C>> {
    return this.#entries[Symbol.iterator]();
  }

  push(entry: Entry<C>): void {
    this.#entries.push(entry);
    this.bytes += payloadOf(entry.request);
  }

  remove(entry: Entry<C>): void {
    this.#entries.remove(entry);
    this.bytes -= payloadOf(entry.request);
  }

  /** A cancelled barrier leaves a tombstone in its place, except next to another one, because one orders as much as two. */
  removeCancelled(entry: Entry<C>): void {
    const { previous, next } = entry;
    this.remove(entry);
    const [before, after] = [previous?.isTombstone, next?.isTombstone];
    const barrier = isBarrier(entry.request);
    // Of two tombstones the later one stays, because reads that were submitted between the two must stay before it.
    if (before && (after || barrier)) this.remove(previous as Entry<C>);
    if (barrier && !after) this.#entries.insert(tombstoneOf(entry), next);
  }

  /** Whether a queued request may write any of these bytes. In a long queue the answer is yes without a search. */
  mayWrite(range: ByteRange): boolean {
    if (this.size > COMPARED_MAX) return true;
    for (const entry of this) if (entry.mutates && overlap(entry, range)) return true;
    return false;
  }
}

/** The buffer that a queued request keeps alive, in bytes. */
export function payloadOf(request: Request): number {
  return request.kind === 'write' || (request.kind === 'read' && !request.status)
    ? request.length
    : 0;
}
