// The commands in flight: commands in, requests out, over connections that come and go. It knows no socket, promise or
// clock: its driver reports events and asks for requests.
//
//            ┌───────────── lost ──────────────┐
//            ▼                                 │
//   ┌──▶ down ──connected, nothing lost──▶ up ─┤        any ──cannot be repaired──▶ failed
//   │        └──connected──▶ resending ──all──▶│
//   └───────lost─────────────────┘ ▲           │
//                                  └─ a flush or a forced write fails
//
// In `up` commands are sent as they come, many at once. When the connection is lost, every command without an answer goes
// back into the queue, in the order of submission. Writes that were answered and not flushed since are in the log
// (unflushed.ts), and are sent again before anything else.
//
// Invariants, tested under these numbers:
//   E1  A flush succeeds when the server, since it was last connected, has accepted every write that was answered
//       before the flush was called, and has answered a flush that was sent after that.
//   E2  In `resending` only the log is sent, and it begins when nothing else is in flight. So a read never sees content
//       older than an answered write, and nothing from the log overwrites a newer write.
//   E3  A failed flush makes nothing durable, and nothing is lost as long as the log has the data: it is sent again before
//       the next flush. Two successes are not believed: the next flush of a server whose flush failed, because it may
//       succeed without having written what the first one lost; and a flush that was in flight when a forced write failed.
//   E4  At most one flush is in flight. Those that wait share the next one.
//   E5  A write that does not fit into the log is answered only when a flush, which is sent for it, has covered it. So
//       the bound of the log delays answers and never data, and cannot deadlock.
//   E6  Bytes that are lost and cannot be sent again, because the log has no data or the server refuses them, are reported:
//       after a lost connection everything fails and the error names the bytes; after a failed flush all flushes fail
//       until those bytes are written anew.
//   E7  A command is begun again at most `restartsMax` times because its connection was lost, or the flush that it waits
//       for was void; then it fails, alone. No other limit ends it, because a server that answers reads and dies of each
//       flush counts as alive. Answered writes stay in the log. Such a failed write leaves old bytes, new ones, or a
//       mixture, as any failed write does.
//   E8  At most `depth` requests are in flight, and none while `down` or `failed`.
//   E9  A command is answered once.
//
// The data of a write belongs to this table. The buffer of a read belongs to the caller, who may transfer or shrink it
// before the answer: then the view of the buffer has another length, and only this read fails.
//
// It cannot handle a server that goes on with requests of a connection that the server has dropped: such a request may
// overwrite a newer write. Servers finish their requests before they take the next connection, or die with them.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, "Ordering of messages and writes", for what a flush covers.

import { type ByteRange, FlushFailedError } from 'write-barrier';
import { invariant } from 'write-barrier/kit';
import { bufferChanged, lostBefore, NbdLostError, outlived } from '../report.js';
import { COMMAND, COMMAND_FLAG, type Extent } from '../wire/index.js';
import type { ClientRequest } from './replies.js';
import type { Unflushed, UnflushedEntry } from './unflushed.js';

/** A command of a storage. Its range is not empty, and inside of the export. */
export type Command =
  | {
      readonly op: 'read';
      readonly offset: number;
      readonly length: number;
      /** As long as `length`, except if its buffer was transferred or has shrunk. */
      readonly into: Uint8Array;
    }
  | {
      readonly op: 'write';
      readonly offset: number;
      readonly length: number;
      /** As long as `length`; must not change. */
      readonly data: Uint8Array;
      readonly fua: boolean;
    }
  | {
      /** Its length is at most `SPAN_MAX`, because it is one request. */
      readonly op: 'status';
      readonly offset: number;
      readonly length: number;
      /** Gets the extents of the answer. */
      readonly found: Extent[];
    }
  | { readonly op: 'flush' }
  | { readonly op: 'discard' | 'writeZeroes'; readonly offset: number; readonly length: number };

/** The answer to a command. */
export interface Settled {
  readonly command: number;
  /** Absent for success. */
  readonly error?: Error;
}

/** What the table needs to know of the server. */
export interface ServerProperties {
  /** An answered write may be lost until a flush, so the log is needed. */
  readonly volatile: boolean;
  /** The longest payload of a request, in bytes, whole blocks. */
  readonly payloadMax: number;
  /** Maximum requests in flight. */
  readonly depth: number;
  /** Maximum times that a command is begun again (E7). */
  readonly restartsMax: number;
}

export type Phase = 'down' | 'up' | 'resending' | 'failed';

interface Task {
  readonly id: number;
  readonly command: Command;
  /** How many of its bytes have been sent or requested. */
  sent: number;
  /** How many of its requests are in flight. */
  out: number;
  error: Error | undefined;
  /** A request of it was sent since the last restart. */
  begun: boolean;
  /** How often it was begun again (E7). */
  restarts: number;
}

interface Flush {
  /** The flush commands that wait for it. */
  readonly tasks: readonly Task[];
  /** Writes that are answered when it succeeds (E5). */
  readonly held: readonly Task[];
  /** The part of the log that it covers. */
  readonly mark: number;
  /** Its success is not believed (E3). */
  void: boolean;
}

/** Takes the answer of the server to a request. */
type Reaction = (error: Error | undefined) => readonly Settled[];

/** The longest TRIM, WRITE_ZEROES or BLOCK_STATUS, whose length has 32 bits. Every block size divides this. */
export const SPAN_MAX: number = 2 ** 30;

/** The table of commands in flight. */
export class InFlight {
  readonly log: Unflushed;
  #properties: ServerProperties;
  #phase: Phase = 'down';
  #failure: NbdLostError | undefined;
  #failureReported = false;
  #taskCount = 0;
  #requestCount = 0n;
  /** All commands without an answer, in the order of submission. */
  readonly #tasks = new Map<number, Task>();
  /** Commands of which a part is still to be sent, without flushes. */
  #queue: Task[] = [];
  #flushQueue: Task[] = [];
  #held: Task[] = [];
  #flush: Flush | undefined;
  /** The log needs a flush (E5). */
  #wantsFlush = false;
  /** By the cookie of the request. A cookie is never used twice. */
  readonly #requests = new Map<bigint, Reaction>();
  /** Why a flush or a forced write failed: the log is sent again when nothing is in flight. */
  #drains: Error | undefined;
  /** The part of the log that is still to be sent again. */
  #resends: { readonly entry: UnflushedEntry; sent: number }[] = [];

  constructor(log: Unflushed, properties: ServerProperties) {
    this.log = log;
    this.#properties = properties;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** No command waits, and nothing of the log has to be sent again. */
  get settled(): boolean {
    const there = this.#phase === 'up' || this.#phase === 'failed';
    return this.#tasks.size === 0 && (there || this.log.entries.length === 0);
  }

  /** Set when the export is lost for good. */
  get failure(): NbdLostError | undefined {
    return this.#failure;
  }

  /** Whether a command has failed with it. */
  get failureReported(): boolean {
    return this.#failureReported;
  }

  /** How many requests are in flight. */
  get requests(): number {
    return this.#requests.size;
  }

  /** The bytes that were answered, and that no flush has covered. */
  get atRisk(): readonly ByteRange[] {
    return this.log.ranges();
  }

  // Events

  /** Takes a command and numbers it. @throws `FAILED` after the export was lost for good */
  submit(command: Command): number {
    if (this.#failure) {
      this.#failureReported = true;
      throw lostBefore(this.#failure);
    }
    const task: Task = {
      ...{ id: this.#taskCount, command, sent: 0, out: 0 },
      ...{ error: undefined, begun: false, restarts: 0 },
    };
    this.#taskCount += 1;
    this.#tasks.set(task.id, task);
    (command.op === 'flush' ? this.#flushQueue : this.#queue).push(task);
    return task.id;
  }

  /** There is a connection; the server may have lost what it had not flushed. */
  connected(properties: ServerProperties): void {
    if (this.#phase !== 'down') return;
    invariant(this.#requests.size === 0, 'E8: requests are in flight while no connection is up');
    this.#properties = properties;
    this.#phase = 'up';
    if (this.log.entries.length > 0) this.#startResending();
  }

  /** The connection is lost, with every request in flight. Answers the commands that were begun too often (E7). */
  lost(cause: Error): readonly Settled[] {
    if (this.#phase === 'down' || this.#phase === 'failed') return [];
    this.#phase = 'down';
    this.#requests.clear();
    this.#flush = undefined;
    // E6: without data there is nothing to send again.
    if (this.log.entries.some(({ content }) => content === undefined)) return this.fail(cause);
    return this.#startAnew(
      () => true,
      ({ command, restarts }) => outlived(command.op, restarts, this.atRisk, cause),
    );
  }

  /** Gives up: all commands fail, and all later ones. */
  fail(cause: unknown): readonly Settled[] {
    if (this.#failure) return [];
    this.#failure = new NbdLostError('CONNECTION_LOST', this.atRisk, cause);
    this.#phase = 'failed';
    this.#requests.clear();
    const settled = [...this.#tasks.keys()].map((command) => ({ command, error: this.#failure }));
    this.#tasks.clear();
    this.#failureReported = settled.length > 0;
    return settled as readonly Settled[];
  }

  /** The server has answered a request. */
  answered(cookie: bigint, error?: Error): readonly Settled[] {
    const react = this.#requests.get(cookie);
    if (!react) return [];
    invariant(
      this.#phase === 'up' || this.#phase === 'resending',
      'E8: the server answered while no connection is up',
    );
    this.#requests.delete(cookie);
    const settled = react(error);
    const drained = this.#drains && this.#requests.size === 0 && this.#phase === 'up';
    return drained ? [...settled, ...this.#drained(this.#drains as Error)] : settled;
  }

  /** The next request to send; undefined if an answer must come first, or there is nothing to send. */
  next(): ClientRequest | undefined {
    if (this.#requests.size >= this.#properties.depth) return undefined;
    if (this.#phase === 'resending') return this.#nextOfLog();
    if (this.#phase !== 'up' || this.#drains) return undefined;
    const wanted = this.#flushQueue.length > 0 || this.#wantsFlush;
    if (wanted && !this.#flush) return this.#sendFlush();
    const task = this.#queue[0];
    return task && this.#sendPiece(task);
  }

  /** Fails flushes that cannot succeed, because bytes that a failed flush lost are not in the log (E6). */
  refusals(): readonly Settled[] {
    if (this.#phase !== 'up' || this.#drains || this.#flushQueue.length === 0) return [];
    const atRisk = this.log.ranges(({ lost }) => lost);
    if (atRisk.length === 0) return [];
    const error = new FlushFailedError(atRisk, new Error('an earlier flush has failed'));
    return this.#flushQueue.splice(0).map((task) => this.#end(task, error));
  }

  // Answers

  #answeredTask(task: Task, error: Error | undefined): readonly Settled[] {
    const { command } = task;
    task.out -= 1;
    task.error ??= error;
    // A server that forces by flushing may have reported here the error that a flush should get (E3).
    if (error && command.op === 'write' && command.fua) this.#distrust(error);
    if (task.out > 0 || (!task.error && task.sent < lengthOf(command))) return [];
    if (command.op === 'read' && !isWhole(command)) task.error ??= bufferChanged(command.length);
    if (task.error) {
      this.#queue = this.#queue.filter((one) => one !== task);
      return [this.#end(task, task.error)];
    }
    const volatile = this.#properties.volatile;
    switch (command.op) {
      case 'read':
      case 'status':
      case 'flush':
        return [this.#end(task)];
      case 'discard':
        this.log.forget(command.offset, command.length);
        break;
      case 'write':
      case 'writeZeroes': {
        if (command.op === 'write' && command.fua) {
          this.log.forget(command.offset, command.length);
          break;
        }
        if (!volatile) break;
        const isWrite = command.op === 'write';
        if (!this.log.fits(isWrite ? command.length : 0)) {
          this.#held.push(task);
          this.#wantsFlush = true;
          return [];
        }
        this.log.accept(command.offset, command.length, isWrite ? command.data : 'zeroes');
      }
    }
    // At half of the bound, so that it is rarely reached.
    if (this.log.bytesMax > 0 && this.log.cost * 2 > this.log.bytesMax) this.#wantsFlush = true;
    return [this.#end(task)];
  }

  #answeredFlush(flush: Flush, error: Error | undefined): readonly Settled[] {
    this.#flush = undefined;
    const { tasks, held, mark } = flush;
    if (!error && flush.void) {
      // E3: sent once more, after the log.
      this.#flushQueue.unshift(...tasks);
      return [];
    }
    if (!error) {
      this.log.flushed(mark);
      this.#held = this.#held.filter((task) => !held.includes(task));
      this.#wantsFlush = this.#held.length > 0;
      return [...tasks, ...held].map((task) => this.#end(task));
    }
    this.#distrust(error);
    const failure = new FlushFailedError(this.atRisk, error);
    // Held writes wait for this flush. Their bytes are not in the log, and may be lost; so the writes fail.
    const waiting = this.#held.splice(0);
    this.#wantsFlush = false;
    return [...tasks, ...waiting].map((task) => this.#end(task, failure));
  }

  #answeredResend(error: Error | undefined): readonly Settled[] {
    if (error) return this.fail(error);
    if (this.#resends.length === 0 && this.#requests.size === 0) {
      this.log.resent();
      this.#phase = 'up';
    }
    return [];
  }

  /** E3: a flush that is in flight proves nothing now, and the log must be sent again. */
  #distrust(cause: Error): void {
    if (this.#flush) this.#flush.void = true;
    this.#drains = cause;
  }

  #drained(cause: Error): readonly Settled[] {
    // A flush may wait forever, because each try may be made void by another forced write that fails (E7).
    const held = new Set(this.#held);
    const settled = this.#startAnew(
      (task) => task.command.op === 'flush' || held.has(task),
      () => new FlushFailedError(this.atRisk, cause),
    );
    this.#startResending();
    return settled;
  }

  /**
   * Begins all commands anew, because the server may have lost everything that is not durable: the log, and requests of
   * commands without an answer. Answers those that `counts` picks and that were begun too often.
   */
  #startAnew(counts: (task: Task) => boolean, errorOf: (task: Task) => Error): readonly Settled[] {
    this.#drains = undefined;
    this.#wantsFlush = false;
    this.#held = [];
    this.#queue = [];
    this.#flushQueue = [];
    this.log.lose();
    const settled: Settled[] = [];
    for (const task of this.#tasks.values()) {
      if (task.begun && counts(task)) task.restarts += 1;
      if (task.restarts > this.#properties.restartsMax) {
        settled.push(this.#end(task, errorOf(task)));
        continue;
      }
      Object.assign(task, { sent: 0, out: 0, error: undefined, begun: false });
      (task.command.op === 'flush' ? this.#flushQueue : this.#queue).push(task);
    }
    return settled;
  }

  #end(task: Task, error?: Error): Settled {
    invariant(this.#tasks.delete(task.id), 'E9: a command is answered twice');
    return { command: task.id, ...(error && { error }) };
  }

  // Requests

  #startResending(): void {
    invariant(this.#requests.size === 0, 'E2: the log is sent while other requests are in flight');
    this.#resends = this.log
      .lost()
      .filter(({ content }) => content !== undefined)
      .map((entry) => ({ entry, sent: 0 }));
    this.#phase = this.#resends.length > 0 ? 'resending' : 'up';
  }

  #nextOfLog(): ClientRequest | undefined {
    const resend = this.#resends[0];
    if (!resend) return undefined;
    const { entry, sent } = resend;
    const left = entry.end - entry.start - sent;
    const zeroes = entry.content === 'zeroes';
    const length = Math.min(left, zeroes ? SPAN_MAX : this.#properties.payloadMax);
    resend.sent += length;
    if (length === left) this.#resends.shift();
    const range = { offset: entry.start + sent, length, flags: 0 };
    const cookie = this.#cookie((error) => this.#answeredResend(error));
    if (!(entry.content instanceof Uint8Array)) {
      return { cookie, command: COMMAND.WRITE_ZEROES, ...range };
    }
    const payload = [entry.content.subarray(sent, sent + length)];
    return { cookie, command: COMMAND.WRITE, ...range, payload };
  }

  #sendFlush(): ClientRequest {
    invariant(this.#flush === undefined, 'E4: two flushes in flight');
    const tasks = this.#flushQueue.splice(0);
    for (const task of tasks) task.begun = true;
    const flush = { tasks, held: [...this.#held], mark: this.log.mark(), void: false };
    this.#flush = flush;
    const cookie = this.#cookie((error) => this.#answeredFlush(flush, error));
    return { cookie, command: COMMAND.FLUSH, flags: 0, offset: 0, length: 0 };
  }

  #sendPiece(task: Task): ClientRequest {
    const { command, sent } = task;
    const carries = command.op === 'read' || command.op === 'write';
    const left = lengthOf(command) - sent;
    const length = Math.min(left, carries ? this.#properties.payloadMax : SPAN_MAX);
    task.sent += length;
    task.out += 1;
    task.begun = true;
    if (length === left) this.#queue.shift();
    const cookie = this.#cookie((error) => this.#answeredTask(task, error));
    const offset = ('offset' in command ? command.offset : 0) + sent;
    const fua = command.op === 'write' && command.fua;
    // An earlier connection may have left a part of its answer.
    if (command.op === 'status') command.found.length = 0;
    return {
      ...{ cookie, command: NUMBERS[command.op], offset, length },
      flags: fua ? COMMAND_FLAG.FUA : 0,
      ...(command.op === 'write' && { payload: [command.data.subarray(sent, sent + length)] }),
      ...(command.op === 'status' && { found: command.found }),
      // There are no views of a buffer that is gone. Its data is dropped (replies.R3).
      ...(command.op === 'read' && {
        into: isWhole(command) ? command.into.subarray(sent, sent + length) : NOWHERE,
      }),
    };
  }

  #cookie(reaction: Reaction): bigint {
    invariant(this.#requests.size < this.#properties.depth, 'E8: more requests than `depth`');
    const cookie = this.#requestCount;
    this.#requestCount += 1n;
    this.#requests.set(cookie, reaction);
    return cookie;
  }
}

const NUMBERS: Readonly<Record<Command['op'], number>> = {
  read: COMMAND.READ,
  write: COMMAND.WRITE,
  status: COMMAND.BLOCK_STATUS,
  flush: COMMAND.FLUSH,
  discard: COMMAND.TRIM,
  writeZeroes: COMMAND.WRITE_ZEROES,
};

function lengthOf(command: Command): number {
  return command.op === 'flush' ? 0 : command.length;
}

/** The length of a view changes when its buffer is transferred or shrinks. */
function isWhole({ into, length }: Extract<Command, { op: 'read' }>): boolean {
  return into.length === length;
}

const NOWHERE = new Uint8Array(0);
