// A connection without a system: two streams, each of which reads what the other writes.

import { Duplex } from 'node:stream';

/** How much one end takes that the other does not read, in bytes; a Unix socket takes about as much. */
const TAKES = 64 * 1024;

/** One end. */
class End extends Duplex {
  peer!: End;
  readonly #moved: () => void;
  /** What goes on when this end has read what was written to it. */
  #after: (() => void) | undefined;

  constructor(moved: () => void) {
    super({ readableHighWaterMark: TAKES });
    this.#moved = moved;
  }

  override _read(): void {
    const after = this.#after;
    this.#after = undefined;
    after?.();
  }

  override _write(chunk: Buffer, _: string, done: () => void): void {
    // From the event loop, as a system does it: two ends that answer each other at once would stop it otherwise.
    setImmediate(() => {
      this.#moved();
      const { peer } = this;
      if (chunk.length === 0 || peer.destroyed || peer.push(chunk)) done();
      else peer.#after = done;
    });
  }

  override _final(done: () => void): void {
    this.peer.push(null);
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    setImmediate(() => this.peer.destroy());
    done(error);
  }
}

/** Both ends of a line. @param moved called when something moves on it */
export function line(moved: () => void = () => {}): readonly [Duplex, Duplex] {
  const [one, other] = [new End(moved), new End(moved)];
  one.peer = other;
  other.peer = one;
  return [one, other];
}
