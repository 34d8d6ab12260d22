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
//   H3  What costs much and has no payload goes in pieces. Of all these requests together at most LANE_BYTES are at the storage at a
//       time, or one piece, and a turn of the event loop begins no more, because a storage may do each at once, as MemoryStorage does.
//       So they leave the storage, its threads and the event loop to others.
//   H4  The connections take turns with their pieces, one each, however many requests they have. A piece is of LANE_BYTES while
//       others use the disk, so that a request behind it waits for no more; otherwise of PIECE_MAX, because a distant storage
//       takes as long for a small one.
//
// How long a request waits for its turn is in docs/many-on-one-disk.md.

import { type IoScheduler, SchedulerGroup } from 'write-barrier';

/** The maximum number of commands at a storage. */
export const DEPTH = 64;
/** The maximum of the bytes that they move. */
const DEPTH_BYTES = 4 * 1024 * 1024;

/** The largest piece, in bytes: what the group would cut a read into. */
export const PIECE_MAX: number = 1024 * 1024;
/** H3, in bytes. */
const LANE_BYTES = 256 * 1024;
/** H4: others use the disk if one did while so many pieces were begun. */
const CALM_PIECES = 64;

/** What goes in pieces takes turns, however few its bytes are. */
export const IN_PIECES: number = Number.MAX_SAFE_INTEGER;

/** A piece that waits. */
interface Piece {
  readonly bytes: number;
  readonly begin: () => void;
}

/** A storage with its scheduler and the group of its connections. */
export class Disk {
  readonly scheduler: IoScheduler;
  readonly group: SchedulerGroup;
  readonly #owned: boolean;
  /** The requests that went past the group, their bytes, and the requests that did not. */
  #direct = 0;
  #directBytes = 0;
  #turns = 0;
  /** The pieces that wait, by their connections: the first of these is next. */
  readonly #lane = new Map<object, Piece[]>();
  /** The bytes of the pieces that are at the storage, or were begun in this turn of the event loop. */
  #moving = 0;
  /** The pieces that were begun since the last other request. */
  #calm = CALM_PIECES;
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

  /** Whether a request for so many bytes, or IN_PIECES, goes past the group. `leave` must follow (H1). */
  enter(bytes: number): boolean {
    const isDirect =
      this.#turns === 0 && this.#direct < DEPTH && this.#directBytes + bytes <= DEPTH_BYTES;
    this.#count(bytes, isDirect, 1);
    if (bytes !== IN_PIECES) this.#calm = 0;
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

  /** How large the next piece of a request may be, in bytes (H4). */
  get pieceBytes(): number {
    return this.#calm < CALM_PIECES ? LANE_BYTES : PIECE_MAX;
  }

  /**
   * Runs a piece of a connection's request when it has its turn (H3, H4).
   *
   * @throws what `call` throws
   */
  async piece(connection: object, bytes: number, call: () => Promise<unknown>): Promise<void> {
    if (this.#lane.size > 0 || !this.#fits(bytes)) await this.#turn(connection, bytes);
    else this.#begin(bytes);
    try {
      await call();
    } finally {
      setImmediate(() => {
        this.#moving -= bytes;
        this.#next();
      });
    }
  }

  #fits(bytes: number): boolean {
    return this.#moving === 0 || this.#moving + bytes <= LANE_BYTES;
  }

  #begin(bytes: number): void {
    this.#moving += bytes;
    this.#calm += 1;
  }

  #turn(connection: object, bytes: number): Promise<void> {
    return new Promise((begin) => {
      const own = this.#lane.get(connection);
      if (own) own.push({ bytes, begin });
      else this.#lane.set(connection, [{ bytes, begin }]);
    });
  }

  #next(): void {
    for (const [connection, own] of this.#lane) {
      const piece = own[0];
      if (!piece || !this.#fits(piece.bytes)) return;
      own.shift();
      // At the end of the line, and not in its old place.
      this.#lane.delete(connection);
      if (own.length > 0) this.#lane.set(connection, own);
      this.#begin(piece.bytes);
      piece.begin();
    }
  }

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
