// The line of a group for the bytes of its storage: the commands that are there, and those that have had their turn and wait for an
// overlapping one. They stand in the order of their turns.
//
//   C1  Of two overlapping commands of which one writes, the later has no claim before the earlier has left.
//   C2  When the command that it waits for has left, a command waits for the oldest one before it that overlaps it still; if there is
//       none, it has its claim.
//
// The line is short, because beside what is at the storage it has one command of each member at most. So it may be searched; where a
// filter knows that nothing overlaps, it is not.

import type { ByteRange } from '../model/index.js';
import { overlap } from './durability.js';
import type { Entry } from './group-entry.js';
import { FEW, Filter } from './in-flight.js';

/** What overlaps. */
interface Claim extends ByteRange {
  readonly mutates: boolean;
}

/** The commands in line. */
export class Claims<E extends Entry<E>> {
  #first: E | undefined;
  #last: E | undefined;
  #size = 0;
  #filter: Filter | undefined;
  #held = 0;

  /** Front to back. */
  *[Symbol.iterator](): Generator<E, void> {
    for (let entry = this.#first; entry; entry = entry.behind) yield entry;
  }

  /** Whether a command that is not in line would have to wait there. */
  meets(range: Claim): boolean {
    if (!this.#first || this.#filter?.count(range, 0) === false) return false;
    return this.#blockerOf(range) !== undefined;
  }

  /** Puts a command in line; false if it must wait there (C1). */
  enter(entry: E, isFree: boolean = !this.meets(entry)): boolean {
    if (!isFree) {
      entry.blocker = this.#blockerOf(entry);
      this.#held += 1;
    }
    if (!this.#filter && this.#size === FEW) {
      this.#filter = new Filter();
      for (const other of this) this.#filter.count(other, 1);
    }
    this.#filter?.count(entry, 1);
    entry.ahead = this.#last;
    if (this.#last) this.#last.behind = entry;
    else this.#first = entry;
    this.#last = entry;
    this.#size += 1;
    entry.hasClaim = isFree;
    return isFree;
  }

  /** Takes a command out of the line, if it is there; answers those that have their claims by that (C2). */
  leave(entry: E): readonly E[] {
    const { ahead, behind } = entry;
    if (!ahead && this.#first !== entry) return NONE;
    if (ahead) ahead.behind = behind;
    else this.#first = behind;
    if (behind) behind.ahead = ahead;
    else this.#last = ahead;
    entry.ahead = undefined;
    entry.behind = undefined;
    this.#size -= 1;
    this.#filter?.count(entry, -1);
    if (entry.blocker) this.#free(entry);
    if (this.#held === 0) return NONE;
    const freed: E[] = [];
    for (const other of this) {
      if (other.blocker !== entry) continue;
      const blocker = this.#blockerOf(other);
      other.blocker = blocker;
      if (blocker) continue;
      this.#free(other);
      other.hasClaim = true;
      freed.push(other);
    }
    return freed;
  }

  #free(entry: E): void {
    entry.blocker = undefined;
    this.#held -= 1;
  }

  /** The first one in line before it that it overlaps. */
  #blockerOf(entry: Claim): E | undefined {
    for (let other = this.#first; other && other !== entry; other = other.behind) {
      if ((entry.mutates || other.mutates) && overlap(entry, other)) return other;
    }
    return undefined;
  }
}

const NONE: readonly never[] = [];
