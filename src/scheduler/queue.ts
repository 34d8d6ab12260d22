// The queue of requests that have not been admitted: first in, first out. What stands behind a barrier in it is
// the post-barrier queue.

import { type ByteRange, isBarrier, type Request } from '../model/index.js';
import { Entry } from './entry.js';
import { List } from './list.js';
import { overlap } from './ranges.js';

/** How many requests a read looks at before it decides to wait behind all of them. */
const LOOKED_AT_MAX = 1024;

/** See the head of this file. */
export class Queue<C> {
  readonly #entries = new List<Entry<C>>();
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
    this.#bytes -= payloadOf(entry.request);
  }

  /** A cancelled barrier leaves an empty one in its place, unless one is beside it: one is as good as two. */
  removeCancelled(entry: Entry<C>): void {
    const { previous, next } = entry;
    this.remove(entry);
    const [before, behind] = [isStandIn(previous), isStandIn(next)];
    const barrier = isBarrier(entry.request);
    // The younger place stays: reads that were submitted between the two stand before it.
    if (before && (behind || barrier)) this.remove(previous as Entry<C>);
    if (barrier && !behind) this.#entries.insert(standIn(entry), next);
  }

  /** Whether a queued request may write any of these bytes. Nobody looks through a long queue for that. */
  mayWrite(range: ByteRange): boolean {
    if (this.size > LOOKED_AT_MAX) return true;
    for (const entry of this) if (entry.mutates && overlap(entry, range)) return true;
    return false;
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
