// A disk: what the connections to a storage share.
//
//   request ─▶ the scheduler ─▶ the storage                             while there is little to do
//   request ─▶ the connection's member of the group ─▶ the scheduler    otherwise
//
// The scheduler knows what is durable, at risk and lost. It takes requests as they come, so a flood on one connection would
// hold up all others; the group above it gives the connections their turns. It stands above the scheduler and not below,
// because bytes at risk are at risk for every connection. A turn costs processor time, a sixth of a small request, and is of no
// use while the storage takes all that comes.
//
// Invariants, tested under these numbers:
//   H1  No request goes past the group while one takes its turn there, and those that do are no more than the group would let to
//       the storage at once. So a request in the group waits for them once, and not for later ones.
//   H2  A flush of the storage is issued for a flush, except if nothing was written since the last good one was issued, and
//       only the server submits to the scheduler.
//   H3  A turn of the event loop begins few further pieces of requests that go in pieces, because a storage may do each of them at
//       once, as MemoryStorage does, and no other client is served meanwhile.
//
// How long a request waits for its turn is in docs/many-on-one-disk.md.

import { type IoScheduler, SchedulerGroup } from 'write-barrier';

/** The maximum number of commands at a storage. */
export const DEPTH = 64;
/** The maximum of the bytes that they move. */
const DEPTH_BYTES = 4 * 1024 * 1024;

/** H3: the maximum number of further pieces in a turn. */
const PIECES_MAX = 4;

/** A storage with its scheduler and the group of its connections. */
export class Disk {
  readonly scheduler: IoScheduler;
  readonly group: SchedulerGroup;
  readonly #owned: boolean;
  /** The requests that went past the group, their bytes, and the requests that did not. */
  #direct = 0;
  #directBytes = 0;
  #turns = 0;
  /** Requests in pieces that wait for the next turn of the event loop. */
  readonly #waiting: (() => void)[] = [];
  /** How many requests that write have begun or ended; how many had when the last good flush was issued. */
  #changes = 0;
  #flushed = -1;

  /** @param owned whether the server made the scheduler itself, and nothing else submits to it */
  constructor(scheduler: IoScheduler, owned: boolean) {
    this.scheduler = scheduler;
    this.group = new SchedulerGroup(scheduler.asStorage(), {
      depth: DEPTH,
      depthBytes: DEPTH_BYTES,
    });
    this.#owned = owned;
  }

  /** Whether a request for so many bytes goes past the group. `leave` must follow (H1). */
  enter(bytes: number): boolean {
    const isDirect =
      this.#turns === 0 && this.#direct < DEPTH && this.#directBytes + bytes <= DEPTH_BYTES;
    this.#count(bytes, isDirect, 1);
    return isDirect;
  }

  leave(bytes: number, isDirect: boolean): void {
    this.#count(bytes, isDirect, -1);
  }

  #count(bytes: number, isDirect: boolean, by: 1 | -1): void {
    if (!isDirect) {
      this.#turns += by;
      return;
    }
    this.#direct += by;
    this.#directBytes += by * bytes;
  }

  /** Settles in a later turn of the event loop (H3). */
  nextTurn(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#waiting.push(resolve) === 1) setImmediate(this.#turn);
    });
  }

  readonly #turn = (): void => {
    for (const resolve of this.#waiting.splice(0, PIECES_MAX)) resolve();
    if (this.#waiting.length > 0) setImmediate(this.#turn);
  };

  /** A request that writes begins or ends. */
  changes(): void {
    this.#changes += 1;
  }

  /** Settles when everything that was written before is durable (H2). */
  async flush(): Promise<void> {
    const changes = this.#changes;
    if (this.#owned && this.scheduler.state === 'running' && changes === this.#flushed) return;
    await this.scheduler.flush();
    this.#flushed = Math.max(this.#flushed, changes);
  }
}
