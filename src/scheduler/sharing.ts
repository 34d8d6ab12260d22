// The state machine of a group: many members on one storage. It decides whose command may be issued now. It has no promise,
// clock or storage; a driver reports events and asks for commands.
//
// A member is what a scheduler is to a storage: it sends commands, which may run at once and complete in any order, except
// around an ordered tag. So all that a mode means is the business of the scheduler above, and a barrier there waits for
// commands of its own member only. What is left for this machine is to take turns, and to share flushes.
//
//   command of a member ─▶ its queue ─▶ its turn (fair-queue.ts) ─▶ the storage
//   flush of a member ───▶ the waiting flushes ─▶ one flush of the storage for all of them
//
// Invariants, checked after every event in the tests:
//   G1  Every command settles exactly once: with the storage's answer, or with the reason of its member's end, if not all of it
//       had been issued.
//   G2  Commands of a member are issued in the order of submission. An ordered command is issued when all earlier ones of its
//       member have ended, and later ones of its member when it has ended. The storage gets simple tags only, because there an
//       ordered one would hold up every other member.
//   G3  Of two overlapping commands of which one writes, the second is issued when the first has ended, whichever members
//       they are of (storage.S4). The second stands in line from its turn on, so a third cannot overtake it.
//   G4  At most `depth` commands are at the storage, and at most `depthBytes`; a larger command is there alone with
//       commands that move nothing.
//   G5  A flush that succeeds covers every command of every member that had been answered before it was submitted: a flush of
//       the storage that was issued after their answers has succeeded. So nothing is issued for it if that has happened
//       already. One flush is at the storage at a time.
//   G6  After a flush of the storage has failed, each member that may have bytes in doubt gets an error for one flush: for
//       those that it has submitted, otherwise for its next one. In doubt are the bytes of commands that no flush has covered, and
//       of those at the storage.
//   G7  From the turn of a command on it moves on whatever other members send (fair-queue.Q2, fair-queue.Q3).
//
// Reads and zeroes that are written as data are issued in pieces of at most PIECE_MAX, so that a large one leaves turns to
// other members. A write is never cut, because it may be atomic.
//
// Why G5 may answer a flush without the storage: storage.S5 speaks of the writes that were answered before the flush was called,
// and they are on the medium. It counts the writes of all members, not only the caller's own, because a member is a face of the
// whole storage: an NBD server promises its clients that a flush on one connection covers the others. The first flush of a group is always
// issued, because what was written before the group existed is not known here.
//
// Not here: promises and arguments (scheduler-group.ts), what the order of a mode is (ordering.ts), which bytes are at risk: a scheduler on
// a member knows its own.

import type { Machine } from '../machine/index.js';
import {
  invariant,
  messageOf,
  type Operation,
  type Request,
  type StagedCommand,
  type WriteZeroesRequest,
} from '../model/index.js';
import { overlap } from './durability.js';
import { atRiskOf, FlushFailedError } from './errors.js';
import { FairQueue } from './fair-queue.js';
import { type Caller, Entry, GroupCommand, isOrdered, type Member } from './group-entry.js';
import { List } from './list.js';
import { payloadOf } from './queue.js';

/** What a command costs, added to the bytes that it moves: a small one keeps a disk busy for longer than its bytes would. */
export const COMMAND_COST = 16_384;
/** How large the pieces of a read and of zeroes are, in bytes. */
export const PIECE_MAX = 1_048_576;
/** So many commands a member may always have in the queue: a scheduler has no more at its storage, and could not wait. */
export const RESERVED = 1024;

/** The bounds of a group, and what follows from its storage. */
export interface SharingOptions {
  readonly depth: number;
  readonly depthBytes: number;
  readonly maxQueued: number;
  readonly maxQueuedBytes: number;
  /** What is answered may be in a cache only. */
  readonly isVolatile: boolean;
  /** Zeroes move no data. */
  readonly fastZeroes: boolean;
  /** In bytes: pieces are whole blocks. */
  readonly blockSize: number;
}

/** The state machine of a group. */
export class Sharing<K extends Caller<K>> implements Machine<K, GroupCommand<K>, Entry<K>> {
  readonly #options: SharingOptions;
  readonly #pieceMax: number;
  /** Its members. */
  readonly members: Set<Member<K>> = new Set();
  readonly #fair = new FairQueue<Member<K>>();
  /** What is at the storage or stands in line for it, oldest first (G3). */
  readonly #claims: Entry<K>[] = [];
  /** How many of those wait for an earlier one. */
  #held = 0;
  readonly #settled = new List<Entry<K>>();

  /** Commands at the storage, and the bytes that they move. */
  inFlight = 0;
  bytesInFlight = 0;
  /** What waits for its turn. */
  queued = 0;
  queuedBytes = 0;

  /** Flushes that wait for the next flush of the storage, when the first of them starts, and what it costs (fair-queue.ts). */
  #waiting: Entry<K>[] = [];
  #start = 0;
  #cost = 0;
  #isFlushing = false;
  /** Flushes of the storage are numbered from 1. The last one that was issued, and the last one that succeeded. */
  #flushes = 0;
  #flushed = 0;
  /** How many had been issued when a member last wrote. */
  #wroteAt = 0;

  /** Commands issued to the storage. */
  readonly commands: Record<Operation, number> = {
    ...{ read: 0, write: 0, flush: 0, discard: 0, writeZeroes: 0 },
  };
  /** Flushes of members that shared the flush of another one. */
  flushesShared = 0;
  /** Flushes of members that needed none of the storage (G5). */
  flushesCovered = 0;

  constructor(options: SharingOptions) {
    const { blockSize } = options;
    this.#options = options;
    this.#pieceMax = Math.max(blockSize, PIECE_MAX - (PIECE_MAX % blockSize));
  }

  /**
   * Whether a member may queue so many bytes more. What it has in the queue may be as much as is free, multiplied by its
   * weight. So there is always room for a member that has nothing there, and floods share the rest.
   */
  fits({ queue, flushes, queuedBytes, weight }: Member<K>, bytes: number): boolean {
    const { maxQueued, maxQueuedBytes } = this.#options;
    const count = queue.size + flushes;
    const isCountFree = count < RESERVED || count < weight * (maxQueued - this.queued);
    const free = maxQueuedBytes - this.queuedBytes - bytes;
    return isCountFree && (this.queuedBytes === 0 || (free >= 0 && queuedBytes <= weight * free));
  }

  // Events

  submit(request: Request, client: K): Entry<K> {
    const entry = new Entry(request, client);
    const { member, tag } = client;
    const isOrdered = tag === 'ordered';
    // A flush need not wait for what has not been answered, but for an ordered command that was sent before.
    if (request.kind === 'flush' && !isOrdered && member.ordered === 0) {
      this.#flush(entry);
      return entry;
    }
    if (isOrdered) member.ordered += 1;
    member.queue.push(entry);
    this.#count(entry, 1);
    this.#schedule(member);
    return entry;
  }

  complete(command: GroupCommand<K>, error?: unknown): void {
    const { what, entry, served } = command;
    this.inFlight -= 1;
    this.bytesInFlight -= this.#movedBy(what.op, what.length, what.size);
    if (!entry) {
      this.#flushEnded(served, error);
      return;
    }
    entry.outstanding -= 1;
    if (error !== undefined) this.#giveUp(entry, error);
    if (entry.isIssued && entry.outstanding === 0) this.#ended(entry);
  }

  /** Settles with `error` what a member has in the queue; what is at the storage ends there. */
  evict(member: Member<K>, error: unknown): void {
    for (const entry of member.queue) {
      if (entry.at > entry.start) {
        this.#giveUp(entry, error);
        if (entry.outstanding === 0) this.#ended(entry);
        continue;
      }
      this.#dequeue(member, entry);
      if (isOrdered(entry)) member.ordered -= 1;
      this.#release(entry);
      this.#settle(entry, error);
    }
    this.#schedule(member);
    this.#endFlushes(
      this.#takeWaiting((entry) => entry.client.member === member),
      error,
    );
  }

  // Answers

  takeSettled(): Entry<K> | undefined {
    return this.#settled.shift();
  }

  next(): GroupCommand<K> | undefined {
    while (this.inFlight < this.#options.depth) {
      const member = this.#fair.head;
      if (this.#mayFlush(member)) return this.#issueFlush();
      const entry = member?.queue.head;
      if (!member || !entry) return undefined;
      if (entry.request.kind === 'flush') {
        this.#takeFlush(member, entry);
        continue;
      }
      const what = this.#commandOf(entry);
      if (!this.#hasRoom(what)) return undefined;
      if (entry.hasClaim || this.#claim(member, entry)) return this.#issue(member, entry, what);
    }
    return undefined;
  }

  // Turns

  /** G2. */
  #mayGo({ queue: { head }, isFenced, isHeld, underWay }: Member<K>): boolean {
    if (!head || isFenced || isHeld) return false;
    return !isOrdered(head) || underWay === 0;
  }

  #schedule(member: Member<K>): void {
    if (this.#mayGo(member) === member.place >= 0) return;
    if (member.place >= 0) this.#fair.remove(member);
    else this.#fair.add(member, this.#costOfNext(member));
  }

  /** The head of the queue of a member is another one now. */
  #goOn(member: Member<K>): void {
    if (member.place >= 0 && this.#mayGo(member))
      this.#fair.again(member, this.#costOfNext(member));
    else this.#schedule(member);
  }

  #costOfNext({ queue: { head } }: Member<K>): number {
    if (!head || head.request.kind === 'flush') return COMMAND_COST;
    const { size } = head.request as WriteZeroesRequest;
    return COMMAND_COST + this.#movedBy(head.request.kind, this.#nextLength(head), size);
  }

  /** G4. */
  #hasRoom(what: StagedCommand): boolean {
    const moved = this.#movedBy(what.op, what.length, what.size);
    if (moved === 0 || this.bytesInFlight === 0) return true;
    return this.bytesInFlight + moved <= this.#options.depthBytes;
  }

  #issue(member: Member<K>, entry: Entry<K>, what: StagedCommand): GroupCommand<K> {
    const moved = this.#movedBy(what.op, what.length, what.size);
    this.#fair.serve(member);
    if (entry.at === entry.start) this.#begin(member, entry);
    entry.at = entry.end === Infinity ? Infinity : entry.at + what.length;
    entry.outstanding += 1;
    member.commands += 1;
    member.bytes += moved;
    this.inFlight += 1;
    this.bytesInFlight += moved;
    this.commands[what.op] += 1;
    if (entry.at === entry.end) this.#dequeue(member, entry);
    this.#goOn(member);
    return new GroupCommand(what, entry, NONE);
  }

  #begin(member: Member<K>, entry: Entry<K>): void {
    member.underWay += 1;
    if (this.#fillsCache(entry)) member.mutating += 1;
    if (isOrdered(entry)) member.isFenced = true;
  }

  /** Takes an entry out of the queue, because all of it that will be issued has been. */
  #dequeue(member: Member<K>, entry: Entry<K>): void {
    entry.isIssued = true;
    member.queue.remove(entry);
    this.#count(entry, -1);
  }

  /** The rest of an entry is not issued. */
  #giveUp(entry: Entry<K>, error: unknown): void {
    entry.error ??= error;
    if (entry.isIssued) return;
    this.#dequeue(entry.client.member, entry);
    this.#goOn(entry.client.member);
  }

  #ended(entry: Entry<K>): void {
    const { member } = entry.client;
    if (this.#fillsCache(entry)) member.mutating -= 1;
    // A command that failed may have left a part of its bytes in the cache, although it was to force them.
    const isCached = this.#fillsCache(entry) || (entry.mutates && entry.error !== undefined);
    if (isCached && this.#options.isVolatile) this.#wroteAt = member.wroteAt = this.#flushes;
    this.#release(entry);
    this.#leave(entry, entry.error);
  }

  /** An entry that was under way is settled. */
  #leave(entry: Entry<K>, error: unknown): void {
    const { member } = entry.client;
    member.underWay -= 1;
    invariant(member.underWay >= 0, 'sharing.G1');
    if (isOrdered(entry)) {
      member.ordered -= 1;
      member.isFenced = false;
    }
    this.#settle(entry, error);
    this.#schedule(member);
  }

  #settle(entry: Entry<K>, error: unknown): void {
    entry.error = error;
    this.#settled.push(entry);
  }

  #count(entry: Entry<K>, by: 1 | -1): void {
    const bytes = by * payloadOf(entry.request);
    this.queued += by;
    this.queuedBytes += bytes;
    entry.client.member.queuedBytes += bytes;
  }

  // Overlaps (G3)

  /** Puts an entry in line; false if it must wait there for an earlier one. */
  #claim(member: Member<K>, entry: Entry<K>): boolean {
    entry.blocker = this.#blockerOf(entry);
    this.#claims.push(entry);
    entry.hasClaim = entry.blocker === undefined;
    if (entry.hasClaim) return true;
    this.#held += 1;
    member.isHeld = true;
    this.#fair.remove(member);
    return false;
  }

  /** The first entry in line before it that it overlaps. */
  #blockerOf(entry: Entry<K>): Entry<K> | undefined {
    for (const other of this.#claims) {
      if (other === entry) return undefined;
      if ((entry.mutates || other.mutates) && overlap(entry, other)) return other;
    }
    return undefined;
  }

  /** Takes an entry out of the line, and lets those go on that wait for it. */
  #release(entry: Entry<K>): void {
    const place = this.#claims.indexOf(entry);
    if (place < 0) return;
    this.#claims.splice(place, 1);
    if (entry.blocker) this.#unhold(entry);
    if (this.#held === 0) return;
    for (const other of this.#claims) {
      if (other.blocker !== entry) continue;
      other.blocker = this.#blockerOf(other);
      if (other.blocker) continue;
      other.hasClaim = true;
      this.#unhold(other);
      this.#schedule(other.client.member);
    }
  }

  #unhold(entry: Entry<K>): void {
    entry.blocker = undefined;
    entry.client.member.isHeld = false;
    this.#held -= 1;
  }

  // Flushes (G5, G6)

  /** A flush that stood in the queue behind an ordered command, or that is one. */
  #takeFlush(member: Member<K>, entry: Entry<K>): void {
    this.#dequeue(member, entry);
    if (isOrdered(entry)) member.isFenced = true;
    this.#flush(entry);
    this.#goOn(member);
  }

  #flush(entry: Entry<K>): void {
    const { member } = entry.client;
    const { owed } = member;
    member.underWay += 1;
    if (owed) {
      member.owed = undefined;
      this.#leave(entry, owed);
      return;
    }
    if (this.#isClean) {
      this.flushesCovered += 1;
      this.#leave(entry, undefined);
      return;
    }
    const start = this.#fair.charge(member, COMMAND_COST);
    if (this.#waiting.length === 0 || start < this.#start) {
      this.#start = start;
      this.#cost = COMMAND_COST / member.weight;
    }
    this.#waiting.push(entry);
    this.queued += 1;
    member.flushes += 1;
  }

  /** A flush of the storage has succeeded that was issued after all answers to writes. */
  get #isClean(): boolean {
    return this.#wroteAt < this.#flushed;
  }

  /** The flush has its turn with the first of those that wait for it. */
  #mayFlush(member: Member<K> | undefined): boolean {
    if (this.#isFlushing || this.#waiting.length === 0) return false;
    return !member || this.#fair.isNext(this.#start, this.#cost, member);
  }

  #issueFlush(): GroupCommand<K> {
    const served = this.#takeWaiting(all);
    this.#isFlushing = true;
    this.#flushes += 1;
    this.flushesShared += served.length - 1;
    this.inFlight += 1;
    this.commands.flush += 1;
    for (const { client } of served) client.member.commands += 1;
    return new GroupCommand(FLUSH, undefined, served);
  }

  #takeWaiting(goes: (entry: Entry<K>) => boolean): Entry<K>[] {
    const taken = this.#waiting.filter(goes);
    this.#waiting = this.#waiting.filter((entry) => !goes(entry));
    this.queued -= taken.length;
    return taken;
  }

  #flushEnded(served: readonly Entry<K>[], error: unknown): void {
    this.#isFlushing = false;
    if (error === undefined) {
      this.#flushed = this.#flushes;
      this.#endFlushes(served, undefined);
      if (!this.#isClean) return;
      const covered = this.#takeWaiting(all);
      this.flushesCovered += covered.length;
      this.#endFlushes(covered, undefined);
      return;
    }
    const failure = failureOf(error);
    const inDoubt = new Set<Member<K>>();
    for (const member of this.members) {
      if (member.wroteAt < this.#flushed && member.mutating === 0) continue;
      member.owed = failure;
      inDoubt.add(member);
    }
    const told = this.#takeWaiting(({ client }) => inDoubt.has(client.member));
    this.#endFlushes(told, failure);
    this.#endFlushes(served, error);
  }

  #endFlushes(ended: readonly Entry<K>[], error: unknown): void {
    for (const entry of ended) {
      const { member } = entry.client;
      member.flushes -= 1;
      if (error !== undefined) member.owed = undefined;
      this.#leave(entry, error);
    }
  }

  // Commands

  #commandOf(entry: Entry<K>): StagedCommand {
    const { request, at } = entry;
    const op = request.kind as Operation;
    const fua = request.kind === 'write' && request.fua === true;
    const length = this.#nextLength(entry);
    const what = { kind: 'command', op, offset: at, length, tag: 'simple', fua } as const;
    return 'size' in request
      ? { ...what, stage: 'plain', size: request.size }
      : { ...what, stage: 'plain' };
  }

  /** How many bytes its next command is for. */
  #nextLength({ request, at, end }: Entry<K>): number {
    if ('size' in request) return request.length;
    const { kind } = request;
    const isCut = kind === 'read' || (kind === 'writeZeroes' && !this.#options.fastZeroes);
    return isCut ? Math.min(end - at, this.#pieceMax) : end - at;
  }

  #movedBy(kind: Request['kind'], length: number, size?: number): number {
    if (
      size !== undefined ||
      kind === 'discard' ||
      (kind === 'writeZeroes' && this.#options.fastZeroes)
    )
      return 0;
    return length;
  }

  /** When it is answered, its bytes may be in the cache only. */
  #fillsCache({ mutates, request }: Entry<K>): boolean {
    return mutates && !(request.kind === 'write' && request.fua);
  }
}

const FLUSH: StagedCommand = /* @__PURE__ */ Object.freeze({
  kind: 'command',
  op: 'flush',
  offset: 0,
  length: 0,
  tag: 'simple',
  fua: false,
  stage: 'plain',
} as const);

const NONE: readonly never[] = [];

function all(): boolean {
  return true;
}

function failureOf(cause: unknown): FlushFailedError {
  const message = `a flush that the group shares failed, so what this member wrote since its last flush may be lost: ${messageOf(cause)}`;
  return new FlushFailedError(atRiskOf(cause), cause, message);
}
