// What the machine of a group works on: members, their commands, and the commands of the storage. What their fields mean is said here;
// they are assigned in sharing.ts and claims.ts only.
//
// A command of a member (an entry) becomes one command of the storage, or several if it is cut into pieces. A flush of the
// storage serves the flushes of many members. A member at rest is one object with an empty queue, because there may be thousands.
// An entry is one object from the call of its member to its answer, because objects are a good part of what a command costs here. So
// it is its own caller, and has what those read who carry a command out. A command that goes past the queue and is answered at once
// has no entry.

import type { ByteRange, Operation, Request, StagedCommand, Tag } from '../model/index.js';
import type { FlushFailedError } from './errors.js';
import { Turn } from './fair-queue.js';
import { List, type ListNode } from './list.js';

/** A member, as the machine knows it. */
export class Member<E extends Entry<E>> extends Turn {
  /** Commands that wait for their turn. */
  readonly queue: List<E> = new List();
  /** Flushes that wait for a flush of the storage, or share the one that is there. */
  flushes = 0;
  /** The buffers in the queue, in bytes. */
  queuedBytes = 0;
  /** Commands that have left the queue, or begun to, and are not settled. */
  underWay = 0;
  /** How many of them may put bytes into the cache. */
  mutating = 0;
  /** Ordered commands that are not settled. */
  ordered = 0;
  /** One of them is under way. */
  isFenced = false;
  /** The head of its queue overlaps a command of another member, and waits for it. */
  isHeld = false;
  /** How many flushes of the storage had been issued when it last wrote; -1 if it never has. */
  wroteAt = -1;
  /** The failure that its next flush will report. */
  owed: FlushFailedError | undefined;
  /** Commands that were issued, and the bytes that they moved. */
  commands = 0;
  bytes = 0;
  readonly name: string;

  constructor(weight = 1, name = '') {
    super(weight);
    this.name = name;
  }
}

/** A command of a member. */
export class Entry<E extends Entry<E>> implements ByteRange, ListNode<E> {
  readonly member: Member<E>;
  readonly op: Operation;
  readonly start: number;
  /** A resize has no end, so it overlaps every other one, and all that relies on the size that it makes. */
  readonly end: number;
  /** The bytes that it names. */
  readonly length: number;
  readonly fua: boolean;
  readonly tag: Tag;
  /** Of a resize: the new size of the storage, in bytes. */
  readonly size: number | undefined;
  /** The next byte to issue. */
  at: number;
  /** All of it has been issued. */
  isIssued = false;
  /** Its commands at the storage. */
  outstanding = 0;
  /** It has its place among those that keep overlapping ones waiting. */
  hasClaim = false;
  /** The earlier one that it overlaps, and waits for. */
  blocker: E | undefined;
  /** Why it failed: the first error. */
  error: unknown;
  /** Its neighbours in that line, and in the queue. */
  ahead: E | undefined;
  behind: E | undefined;
  next: E | undefined;
  previous: E | undefined;

  constructor(
    member: Member<E>,
    op: Operation,
    offset: number,
    length: number,
    fua = false,
    tag: Tag = 'simple',
    size?: number,
  ) {
    this.member = member;
    this.op = op;
    this.start = offset;
    this.end = size === undefined ? offset + length : Number.POSITIVE_INFINITY;
    this.length = length;
    this.fua = fua;
    this.tag = tag;
    this.size = size;
    this.at = offset;
  }

  /** Itself: a driver answers the caller of what has settled. */
  get client(): this {
    return this;
  }

  get offset(): number {
    return this.start;
  }

  get mutates(): boolean {
    return this.op !== 'read' && this.op !== 'flush';
  }

  /** When it is answered, its bytes may be in the cache only. */
  get fillsCache(): boolean {
    return this.mutates && !this.fua;
  }

  /** It keeps its place among the commands of its member. */
  get isOrdered(): boolean {
    return this.tag === 'ordered';
  }

  /** The buffer that it keeps alive in the queue, in bytes. */
  get payload(): number {
    return this.op === 'read' || this.op === 'write' ? this.length : 0;
  }

  /** For the trace. */
  get request(): Request {
    const { op, offset, length, fua, size } = this;
    if (op === 'flush') return { kind: op };
    if (size !== undefined) return { kind: op as 'discard', offset, length, size };
    return op === 'write' ? { kind: op, offset, length, fua } : { kind: op, offset, length };
  }
}

/** A command for the storage: one of an entry, or the flush that many share. */
export class GroupCommand<E extends Entry<E>> {
  readonly what: StagedCommand;
  readonly entry: E | undefined;
  /** Those that share the flush. */
  readonly served: readonly E[];

  constructor(what: StagedCommand, entry: E | undefined, served: readonly E[]) {
    this.what = what;
    this.entry = entry;
    this.served = served;
  }

  get clients(): readonly E[] {
    return this.entry ? [this.entry] : this.served;
  }
}
