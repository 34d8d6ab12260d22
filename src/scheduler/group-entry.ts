// What the machine of a group works on: members, their commands, and the commands of the storage. What their fields mean is said here;
// they are assigned in sharing.ts only.
//
// A command of a member (an entry) becomes one command of the storage, or several if it is cut into pieces. A flush of the
// storage serves the flushes of many members. A member at rest is one object with an empty queue, because there may be thousands.

import {
  type ByteRange,
  isMutation,
  type Request,
  type StagedCommand,
  type Tag,
} from '../model/index.js';
import type { FlushFailedError } from './errors.js';
import { Turn } from './fair-queue.js';
import { List, type ListNode } from './list.js';

/** What the machine reads of the caller of a command. */
export interface Caller<K> {
  readonly member: Member<K>;
  readonly tag: Tag;
}

/** A member, as the machine knows it. */
export class Member<K> extends Turn {
  /** Commands that wait for their turn. */
  readonly queue: List<Entry<K>> = new List();
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
export class Entry<K> implements ByteRange, ListNode<Entry<K>> {
  readonly client: K;
  readonly request: Request;
  readonly start: number;
  readonly end: number;
  readonly mutates: boolean;
  /** The next byte to issue. */
  at: number;
  /** All of it has been issued. */
  isIssued = false;
  /** Its commands at the storage. */
  outstanding = 0;
  /** It has its place among those that keep overlapping ones waiting. */
  hasClaim = false;
  /** The earlier one that it overlaps, and waits for. */
  blocker: Entry<K> | undefined;
  /** Why it failed: the first error. */
  error: unknown;
  next: Entry<K> | undefined;
  previous: Entry<K> | undefined;

  constructor(request: Request, client: K) {
    const isRanged = request.kind !== 'flush' && request.kind !== 'barrier';
    this.client = client;
    this.request = request;
    this.start = isRanged ? request.offset : 0;
    // A resize has no end, so it overlaps every other one, and all that relies on the size that it makes.
    const isResize = 'size' in request;
    this.end = isResize ? Infinity : isRanged ? request.offset + request.length : 0;
    this.mutates = isMutation(request);
    this.at = this.start;
  }
}

/** A command for the storage: one of an entry, or the flush that many share. */
export class GroupCommand<K> {
  readonly what: StagedCommand;
  readonly entry: Entry<K> | undefined;
  /** Those that share the flush. */
  readonly served: readonly Entry<K>[];

  constructor(what: StagedCommand, entry: Entry<K> | undefined, served: readonly Entry<K>[]) {
    this.what = what;
    this.entry = entry;
    this.served = served;
  }

  get clients(): readonly K[] {
    return (this.entry ? [this.entry] : this.served).map(({ client }) => client);
  }
}

/** It keeps its place among the commands of its member. */
export function isOrdered<K extends Caller<K>>({ client }: Entry<K>): boolean {
  return client.tag === 'ordered';
}
