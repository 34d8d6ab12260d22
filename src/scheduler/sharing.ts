// The state machine of a group: many members on one storage. It decides whose command may be issued now. It has no promise,
// clock or storage; a driver reports events and asks for commands.
//
// A member is what a scheduler is to a storage: it sends commands, which may run at once and complete in any order, except
// around an ordered tag. So all that a mode means is the business of the scheduler above, and a barrier there waits for
// commands of its own member only. What is left for this machine is to take turns, and to share flushes.
//
//   command of a member, while nothing waits ─────────────────────▶ the storage
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
//   G8  A command goes past the queue only if it would have its turn at once and as a whole. It counts for all that follows as if it
//       had had one.
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
  type Tag,
} from '../model/index.js';
import { Claims } from './claims.js';
import type { Hanging } from './closing.js';
import { atRiskOf, FlushFailedError } from './errors.js';
import { FairQueue } from './fair-queue.js';
import { type Entry, GroupCommand, type Member } from './group-entry.js';
import { List } from './list.js';

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
export class Sharing<E extends Entry<E>> implements Machine<E, GroupCommand<E>, void> {
  readonly #options: SharingOptions;
  readonly #pieceMax: number;
  /** Its members. */
  readonly members: Set<Member<E>> = new Set();
  readonly #fair = new FairQueue<Member<E>>();
  /** What is at the storage or stands in line for it, oldest first (G3). */
  readonly #claims = new Claims<E>();
  readonly #settled = new List<E>();

  /** Commands at the storage, and the bytes that they move. */
  inFlight = 0;
  bytesInFlight = 0;
  /** What waits for its turn. */
  queued = 0;
  queuedBytes = 0;

  /** Flushes that wait for the next flush of the storage, when the first of them starts, and what it costs (fair-queue.ts). */
  #waiting: E[] = [];
  #start = 0;
  #cost = 0;
  /** The flush that is at the storage. */
  #flushing: GroupCommand<E> | undefined;
  #isPassing = false;
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
   * weight. So there is always room for a member that has nothing there, and floods share the rest. The bound of bytes holds up
   * nothing that brings none.
   */
  fits({ queue, flushes, queuedBytes, weight }: Member<E>, bytes: number): boolean {
    const { maxQueued, maxQueuedBytes } = this.#options;
    const count = queue.size + flushes;
    const isCountFree = count < RESERVED || count < weight * (maxQueued - this.queued);
    const free = maxQueuedBytes - this.queuedBytes - bytes;
    const isByteFree = bytes === 0 || this.queuedBytes === 0;
    return isCountFree && (isByteFree || (free >= 0 && queuedBytes <= weight * free));
  }

  // Events

  submit(_request: Request, entry: E): void {
    const { member, op, isOrdered } = entry;
    // A flush need not wait for what has not been answered, but for an ordered command that was sent before.
    if (op === 'flush' && !isOrdered && member.ordered === 0) {
      this.#flush(entry);
      return;
    }
    if (isOrdered) member.ordered += 1;
    member.queue.push(entry);
    this.#count(entry, 1);
    this.#schedule(member);
  }

  // Past the queue (G8)

  /**
   * Lets a command go to the storage, if its turn would be at once. Until `passed` or `stays` follows nothing else is issued, also
   * if the storage calls a member.
   */
  pass(member: Member<E>, op: Operation, start: number, end: number, tag: Tag): boolean {
    if (this.queued > 0 || this.#isPassing || this.inFlight >= this.#options.depth) return false;
    if (op === 'flush' || tag === 'ordered' || member.ordered > 0) return false;
    if (this.#pieceOf(op, end - start) < end - start || !this.#hasRoom(op, end - start))
      return false;
    if (this.#claims.meets({ start, end, mutates: op !== 'read' })) return false;
    this.#isPassing = true;
    return true;
  }

  /** It was answered at once. */
  passed(member: Member<E>, op: Operation, length: number, fua: boolean, error: unknown): void {
    this.#isPassing = false;
    const moved = this.#movedBy(op, length);
    this.#fair.pass(member, COMMAND_COST + moved);
    this.#counted(member, op, moved);
    this.#changed(member, op !== 'read', fua && error === undefined);
  }

  /** It has no answer yet; `ended` will follow. */
  stays(entry: E): void {
    this.#isPassing = false;
    this.#fair.pass(entry.member, COMMAND_COST + this.#movedBy(entry.op, entry.length));
    this.#claims.enter(entry, true);
    this.#begin(entry, entry.length);
    entry.isIssued = true;
  }

  /** Its answer has come. */
  ended(entry: E, error: unknown): void {
    entry.error = error;
    this.#returned(entry.op, entry.length);
    this.#ended(entry);
    this.#leave(entry);
  }

  complete(command: GroupCommand<E>, error?: unknown): void {
    const { what, entry, served } = command;
    this.#returned(what.op, what.size === undefined ? what.length : Number.POSITIVE_INFINITY);
    if (!entry) {
      this.#flushEnded(served, error);
      return;
    }
    entry.outstanding -= 1;
    if (error !== undefined) this.#giveUp(entry, error);
    if (entry.isIssued && entry.outstanding === 0) this.#end(entry);
  }

  /** Settles with `error` what a member has in the queue; what is at the storage ends there. */
  evict(member: Member<E>, error: unknown): void {
    for (const entry of member.queue) {
      if (entry.at > entry.start) {
        this.#giveUp(entry, error);
        if (entry.outstanding === 0) this.#end(entry);
        continue;
      }
      this.#dequeue(member, entry);
      if (entry.isOrdered) member.ordered -= 1;
      if (entry.blocker) member.isHeld = false;
      this.#release(entry);
      this.#settle(entry, error);
    }
    this.#schedule(member);
    this.#endFlushes(
      this.#takeWaiting((entry) => entry.member === member),
      error,
    );
  }

  /** Settles everything with `error`. No answer of the storage may be reported after it. */
  abandon(error: unknown): void {
    for (const member of this.members) this.evict(member, error);
    for (const entry of this.#claims) this.#settle(entry, error);
    for (const entry of this.#flushing?.served ?? []) this.#settle(entry, error);
  }

  /** What is at the storage: each command of a member, as far as it has been issued, and the flush. */
  get hanging(): readonly Hanging[] {
    const commands: Hanging[] = [];
    for (const { op, start, at, length, outstanding } of this.#claims) {
      if (outstanding > 0) {
        commands.push({ op, offset: start, length: Math.min(at - start, length) });
      }
    }
    return this.#flushing ? [...commands, { op: 'flush', offset: 0, length: 0 }] : commands;
  }

  // Answers

  takeSettled(): E | undefined {
    return this.#settled.shift();
  }

  next(): GroupCommand<E> | undefined {
    if (this.#isPassing) return undefined;
    while (this.inFlight < this.#options.depth) {
      const member = this.#fair.head;
      if (this.#mayFlush(member)) return this.#issueFlush();
      const entry = member?.queue.head;
      if (!member || !entry) return undefined;
      if (entry.op === 'flush') {
        this.#takeFlush(member, entry);
        continue;
      }
      const length = this.#nextLength(entry);
      if (!this.#hasRoom(entry.op, length)) return undefined;
      if (entry.hasClaim || this.#claims.enter(entry)) return this.#issue(member, entry, length);
      member.isHeld = true;
      this.#fair.remove(member);
    }
    return undefined;
  }

  // Turns

  /** G2. */
  #mayGo({ queue: { head }, isFenced, isHeld, underWay }: Member<E>): boolean {
    if (!head || isFenced || isHeld) return false;
    return !head.isOrdered || underWay === 0;
  }

  #schedule(member: Member<E>): void {
    if (this.#mayGo(member) === member.place >= 0) return;
    if (member.place >= 0) this.#fair.remove(member);
    else this.#fair.add(member, this.#costOfNext(member));
  }

  /** The head of the queue of a member is another one now. */
  #goOn(member: Member<E>): void {
    if (member.place >= 0 && this.#mayGo(member))
      this.#fair.again(member, this.#costOfNext(member));
    else this.#schedule(member);
  }

  #costOfNext({ queue: { head } }: Member<E>): number {
    if (!head || head.op === 'flush') return COMMAND_COST;
    return COMMAND_COST + this.#movedBy(head.op, this.#nextLength(head));
  }

  /** G4. */
  #hasRoom(op: Operation, length: number): boolean {
    const moved = this.#movedBy(op, length);
    if (moved === 0 || this.bytesInFlight === 0) return true;
    return this.bytesInFlight + moved <= this.#options.depthBytes;
  }

  #issue(member: Member<E>, entry: E, length: number): GroupCommand<E> {
    const { op, fua, at: offset, size } = entry;
    this.#fair.serve(member);
    this.#begin(entry, length);
    if (entry.at === entry.end) this.#dequeue(member, entry);
    this.#goOn(member);
    const what = {
      op,
      offset,
      length: Math.min(length, entry.length),
      fua,
      kind: 'command',
      tag: 'simple',
      stage: 'plain',
    } as const;
    return new GroupCommand(size === undefined ? what : { ...what, size }, entry, NONE);
  }

  /** So many bytes more of an entry go to the storage. */
  #begin(entry: E, length: number): void {
    const { member, op } = entry;
    const moved = this.#movedBy(op, length);
    if (entry.at === entry.start) {
      member.underWay += 1;
      if (entry.fillsCache) member.mutating += 1;
      if (entry.isOrdered) member.isFenced = true;
    }
    entry.at += length;
    entry.outstanding += 1;
    this.inFlight += 1;
    this.bytesInFlight += moved;
    this.#counted(member, op, moved);
  }

  #counted(member: Member<E>, op: Operation, moved: number): void {
    member.commands += 1;
    member.bytes += moved;
    this.commands[op] += 1;
  }

  /** The storage has answered a command. */
  #returned(op: Operation, length: number): void {
    this.inFlight -= 1;
    this.bytesInFlight -= this.#movedBy(op, length);
  }

  /** Takes an entry out of the queue, because all of it that will be issued has been. */
  #dequeue(member: Member<E>, entry: E): void {
    entry.isIssued = true;
    member.queue.remove(entry);
    this.#count(entry, -1);
  }

  /** The rest of an entry is not issued. */
  #giveUp(entry: E, error: unknown): void {
    entry.error ??= error;
    if (entry.isIssued) return;
    this.#dequeue(entry.member, entry);
    this.#goOn(entry.member);
  }

  /** All of an entry that will be issued has been answered. */
  #end(entry: E): void {
    this.#ended(entry);
    this.#settle(entry, entry.error);
    this.#leave(entry);
  }

  #ended(entry: E): void {
    const { member, fillsCache, error } = entry;
    if (fillsCache) member.mutating -= 1;
    // A command that failed may have left a part of its bytes in the cache, although it was to force them.
    this.#changed(member, entry.mutates, !fillsCache && error === undefined);
    this.#release(entry);
  }

  #changed(member: Member<E>, mutates: boolean, isForced: boolean): void {
    if (!mutates || isForced || !this.#options.isVolatile) return;
    this.#wroteAt = this.#flushes;
    member.wroteAt = this.#flushes;
  }

  /** An entry is not under way any more. */
  #leave(entry: E): void {
    const { member } = entry;
    member.underWay -= 1;
    invariant(member.underWay >= 0, 'sharing.G1');
    if (entry.isOrdered) {
      member.ordered -= 1;
      member.isFenced = false;
    }
    if (member.queue.head) this.#schedule(member);
  }

  #settle(entry: E, error: unknown): void {
    entry.error = error;
    this.#settled.push(entry);
  }

  #count(entry: E, by: 1 | -1): void {
    const bytes = by * entry.payload;
    this.queued += by;
    this.queuedBytes += bytes;
    entry.member.queuedBytes += bytes;
  }

  /** Takes an entry out of the line (G3), and lets those go on that waited for it. */
  #release(entry: E): void {
    for (const { member } of this.#claims.leave(entry)) {
      member.isHeld = false;
      this.#schedule(member);
    }
  }

  // Flushes (G5, G6)

  /** A flush that stood in the queue behind an ordered command, or that is one. */
  #takeFlush(member: Member<E>, entry: E): void {
    this.#dequeue(member, entry);
    if (entry.isOrdered) member.isFenced = true;
    this.#flush(entry);
    this.#goOn(member);
  }

  #flush(entry: E): void {
    const { member } = entry;
    const { owed } = member;
    member.underWay += 1;
    if (owed) {
      member.owed = undefined;
      this.#settle(entry, owed);
      this.#leave(entry);
      return;
    }
    if (this.#isClean) {
      this.flushesCovered += 1;
      this.#settle(entry, undefined);
      this.#leave(entry);
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
  #mayFlush(member: Member<E> | undefined): boolean {
    if (this.#flushing || this.#waiting.length === 0) return false;
    return !member || this.#fair.isNext(this.#start, this.#cost, member);
  }

  #issueFlush(): GroupCommand<E> {
    const served = this.#takeWaiting(all);
    this.#flushes += 1;
    this.flushesShared += served.length - 1;
    this.inFlight += 1;
    this.commands.flush += 1;
    for (const { member } of served) member.commands += 1;
    this.#flushing = new GroupCommand(FLUSH, undefined, served);
    return this.#flushing;
  }

  #takeWaiting(goes: (entry: E) => boolean): E[] {
    const taken = this.#waiting.filter(goes);
    this.#waiting = this.#waiting.filter((entry) => !goes(entry));
    this.queued -= taken.length;
    return taken;
  }

  #flushEnded(served: readonly E[], error: unknown): void {
    this.#flushing = undefined;
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
    const inDoubt = new Set<Member<E>>();
    for (const member of this.members) {
      if (member.wroteAt < this.#flushed && member.mutating === 0) continue;
      member.owed = failure;
      inDoubt.add(member);
    }
    const told = this.#takeWaiting((entry) => inDoubt.has(entry.member));
    this.#endFlushes(told, failure);
    this.#endFlushes(served, error);
  }

  #endFlushes(ended: readonly E[], error: unknown): void {
    for (const entry of ended) {
      const { member } = entry;
      member.flushes -= 1;
      if (error !== undefined) member.owed = undefined;
      this.#settle(entry, error);
      this.#leave(entry);
    }
  }

  // Lengths

  /** How many bytes its next command is for. A resize has no end, is not cut, and moves nothing. */
  #nextLength({ op, at, end }: E): number {
    return this.#pieceOf(op, end - at);
  }

  #pieceOf(op: Operation, length: number): number {
    const isCut = op === 'read' || (op === 'writeZeroes' && !this.#options.fastZeroes);
    return isCut && Number.isFinite(length) ? Math.min(length, this.#pieceMax) : length;
  }

  #movedBy(op: Operation, length: number): number {
    if (op === 'discard' || (op === 'writeZeroes' && this.#options.fastZeroes)) return 0;
    return Number.isFinite(length) ? length : 0;
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
