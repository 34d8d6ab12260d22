// The memory of a server: who holds how much of it, and who may take more. No socket, and no storage.
//
// A connection holds buffers from the moment when a payload begins to come until the storage has it, and from the moment when a
// read begins until the client has taken its answer. It asks before it takes. The whole is in three parts:
//
//   large       requestBytes: for one request at a time that is larger than what its connection may have otherwise
//   guaranteed  half of the rest, in equal parts for `connections` connections
//   common      the other half: who has the guaranteed part may have as much of it as is free
//
// Invariants, tested under these numbers:
//   M1  All shares together hold at most the whole. A whole that is smaller than a request leaves the large part only.
//   M2  A share may have its guaranteed part at any time, whatever the others hold.
//   M3  Of the common part a share gets no more than what is then left: one flood gets half of it, two a third each. So there
//       is something left for those that come later.
//   M4  A share that waits gets the large part in the order in which the shares began to wait. Who has it takes nothing else
//       meanwhile, and is evicted if it still has it after `largeMs` and others wait: a client that does not read
//       would otherwise keep it for ever.
//   M5  Small answers are not asked for, so a share may exceed what it was granted. While all exceed the common part,
//       nothing is granted but guaranteed parts, and those above theirs are full.

/** How the whole is divided. */
export interface MemoryLimits {
  /** All of it, in bytes. */
  readonly totalBytes: number;
  /** The largest request, in bytes. */
  readonly requestBytes: number;
  /** How many connections there may be. */
  readonly connections: number;
  /** How long the large part may be kept while others wait, in milliseconds. */
  readonly largeMs: number;
}

/** What all connections of a server hold together. */
export class Memory {
  readonly #limits: MemoryLimits;
  readonly #guaranteed: number;
  readonly #common: number;
  /** What shares hold above their guaranteed parts, without the large part. */
  #excess = 0;
  #held = 0;
  #large: Share | undefined;
  #largeSince = 0;
  /** Those that wait, in the order in which they began to. */
  readonly #line = new Set<Share>();
  #waking = false;
  #eviction: ReturnType<typeof setTimeout> | undefined;

  constructor(limits: MemoryLimits) {
    const { totalBytes, requestBytes, connections } = limits;
    const rest = Math.max(0, totalBytes - requestBytes);
    this.#limits = limits;
    this.#guaranteed = Math.floor(rest / 2 / connections);
    this.#common = rest - this.#guaranteed * connections;
  }

  /** In bytes. */
  get held(): number {
    return this.#held;
  }

  /** A place in the memory for one connection. */
  share(resume: () => void, evict: (why: string) => void): Share {
    return new Share(this, resume, evict);
  }

  // For shares

  /** Whether a share may take so many bytes more; otherwise it waits. */
  take(share: Share, bytes: number): boolean {
    const part = this.#partFor(share, bytes);
    share.wants = part ? undefined : bytes;
    if (part) {
      this.#line.delete(share);
      if (part === 'large') this.#grantLarge(share);
    } else {
      this.#line.add(share);
      this.#watch();
    }
    return part !== undefined;
  }

  /** M5 */
  isFull(share: Share): boolean {
    // Who has the large part goes on, because it gives the part back only at the end of its request.
    if (share === this.#large) return false;
    return this.#excess > this.#common && share.held > this.#guaranteed;
  }

  /** What a share holds now. */
  update(share: Share, held: number): void {
    const { held: before } = share;
    const [excess, large] = [this.#excess, this.#large];
    this.#excess -= this.#excessOf(share);
    share.held = held;
    if (share === large && held <= this.#guaranteed) this.#endLarge();
    this.#excess += this.#excessOf(share);
    this.#held += held - before;
    // What a share gives back of its guaranteed part is of use to itself only, so a polite client does not pay for those that wait.
    const helpsOthers = this.#excess < excess || this.#large !== large;
    if (helpsOthers || (held < before && this.#line.has(share))) this.#wakeSoon();
  }

  /** A share is given back. */
  leave(share: Share): void {
    this.#line.delete(share);
    this.update(share, 0);
    this.#wakeSoon();
  }

  #excessOf(share: Share): number {
    return share === this.#large ? 0 : Math.max(0, share.held - this.#guaranteed);
  }

  #partFor(share: Share, bytes: number): 'own' | 'common' | 'large' | undefined {
    if (share === this.#large) return undefined; // M4
    const above = share.held + bytes - this.#guaranteed;
    if (above <= 0) return 'own'; // M2
    const free = this.#common - this.#excess;
    if (bytes === 0 ? free >= 0 : above <= free) return 'common'; // M3, M5
    if (this.#large || share.held > this.#guaranteed) return undefined;
    for (const other of this.#line) {
      if (other === share) break;
      if (other.held <= this.#guaranteed) return undefined;
    }
    return 'large';
  }

  // The large part (M4)

  #grantLarge(share: Share): void {
    this.#large = share;
    this.#largeSince = performance.now();
    this.#watch();
  }

  #endLarge(): void {
    this.#large = undefined;
    clearTimeout(this.#eviction);
    this.#eviction = undefined;
  }

  /** Sets the time by which the large part is given back, once others wait for it. */
  #watch(): void {
    const share = this.#large;
    if (this.#eviction || !share || this.#line.size === 0) return;
    const { largeMs } = this.#limits;
    const left = this.#largeSince + largeMs - performance.now();
    this.#eviction = setTimeout(
      () => {
        this.#eviction = undefined;
        if (this.#line.size === 0 || share !== this.#large) return;
        share.evict(
          `its request was larger than its share of the memory, and others waited for ${largeMs} ms`,
        );
      },
      Math.max(0, left),
    );
    this.#eviction.unref();
  }

  /** Those that wait ask again, from the event loop, because a share may be in the middle of its own work now. */
  #wakeSoon(): void {
    if (this.#waking || this.#line.size === 0) return;
    this.#waking = true;
    process.nextTick(() => {
      this.#waking = false;
      for (const share of [...this.#line]) {
        if (!this.#partFor(share, share.wants ?? 0)) continue;
        share.resume();
        // It keeps its place if it asks again, and has none if it does not, because it would block the others.
        if (share.wants === undefined) this.#line.delete(share);
      }
    });
  }
}

/** What one connection holds. */
export class Share {
  readonly #memory: Memory;
  /** Called when it may take what it waits for. */
  readonly resume: () => void;
  /** Called when it must give back what it holds. */
  readonly evict: (why: string) => void;
  /** In bytes. */
  held = 0;
  /** What it waits for, in bytes; undefined if it does not wait. */
  wants: number | undefined;

  constructor(memory: Memory, resume: () => void, evict: (why: string) => void) {
    this.#memory = memory;
    this.resume = resume;
    this.evict = evict;
  }

  /** Whether it may take so many bytes more, which are counted by `hold`; otherwise it waits, and `resume` is called. */
  take(bytes: number): boolean {
    return this.#memory.take(this, bytes);
  }

  /** Nothing more may be done that makes it hold more (M5). */
  get isFull(): boolean {
    return this.#memory.isFull(this);
  }

  /** This is what it holds now, in bytes. */
  hold(bytes: number): void {
    if (bytes !== this.held) this.#memory.update(this, bytes);
  }

  /** It is not used any more. */
  leave(): void {
    this.#memory.leave(this);
  }
}
