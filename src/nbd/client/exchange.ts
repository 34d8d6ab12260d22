// Commands in, requests out, over connections that come and go. Knows no socket, promise or clock: whoever drives it
// reports events and asks for requests.
//
//            ┌───────────── lost ──────────────┐
//            ▼                                 │
//   ┌──▶ down ──connected, nothing lost──▶ up ─┤        any ──cannot be repaired──▶ failed
//   │        └──connected──▶ resending ──all──▶│
//   └───────lost─────────────────┘ ▲           │
//                                  └─ a flush or a forced write fails
//
// In `up` commands are sent as they come, many at once. A lost connection puts every command without an answer back into
// the queue, in the order of submission; what had been answered and was not covered by a flush is in the log, and is
// sent again before anything else. A command is answered once, whatever happens to its requests.
//
// Invariants, tested under these numbers:
//   E1  A flush is answered with success when the server has accepted, after it was last connected, all that was answered
//       before the flush was called, and has answered a flush sent after that.
//   E2  In `resending` nothing but the log is sent, and it begins when nothing else is in flight. So a read never sees
//       what came before an answered write, and nothing from the log lands on top of a newer write.
//   E3  A failed flush makes nothing durable and nothing lost as long as the log has the data: it is sent again before
//       the next flush. A server's second flush may succeed without having written what the first one lost, and so may
//       one that is answered after a forced write has failed beside it; neither is believed.
//   E4  There is one flush in flight at the most. Those that wait share the next one.
//   E5  A write that does not fit into the log is answered when a flush has covered it, which is sent for it. So the
//       log's bound holds back answers, never bytes, and it cannot deadlock.
//   E6  What is lost and cannot be sent again, the log having no data, or the server refusing it, is never passed over:
//       after a lost connection the exchange fails and says which bytes; after a failed flush all flushes fail until
//       those bytes are written anew.
//
// It does not know a server that goes on with requests of a connection that it has dropped. Such a request may land on top
// of a newer write. Servers end their requests before they take the next connection, or die with them.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, "Ordering of messages and writes", for what a flush covers.

import { type ByteRange, FlushFailedError } from 'write-barrier';
import { COMMAND, COMMAND_FLAG } from '../wire/index.js';
import { NbdLostError } from './errors.js';
import type { LogEntry, ResendLog } from './resend-log.js';

/** What a storage is asked for. Ranges are not empty, and inside of the export. */
export type Command =
  | { readonly op: 'read'; readonly offset: number; readonly into: Uint8Array }
  | {
      readonly op: 'write';
      readonly offset: number;
      readonly length: number;
      readonly data: readonly Uint8Array[];
      readonly fua: boolean;
    }
  | { readonly op: 'flush' }
  | { readonly op: 'discard' | 'writeZeroes'; readonly offset: number; readonly length: number };

/** A request for the server. */
export interface Outgoing {
  /** Never used twice. */
  readonly ticket: number;
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly payload?: readonly Uint8Array[];
  readonly into?: Uint8Array;
}

/** The answer to a command. */
export interface Settled {
  readonly command: number;
  /** Absent for success. */
  readonly error?: Error;
}

/** What the server is like. */
export interface ExchangeTraits {
  /** An answered write may be lost until a flush: the log is needed. */
  readonly volatile: boolean;
  /** It can flush. */
  readonly flush: boolean;
  /** The most that a read or a write carries, in bytes, whole blocks. */
  readonly payloadMax: number;
  /** How many requests are in flight at the most. */
  readonly depth: number;
}

export type Phase = 'down' | 'up' | 'resending' | 'failed';

interface Task {
  readonly id: number;
  readonly command: Command;
  /** How many bytes have been asked for. */
  sent: number;
  /** How many requests are in flight. */
  out: number;
  error: Error | undefined;
}

interface Flush {
  /** Those who wait for it. */
  readonly tasks: readonly Task[];
  /** Writes that are answered when it succeeds (E5). */
  readonly held: readonly Task[];
  /** What of the log it covers. */
  readonly mark: number;
  /** Its success is not believed (E3). */
  void: boolean;
}

type Ticket =
  | { readonly kind: 'task'; readonly task: Task }
  | { readonly kind: 'flush'; readonly flush: Flush }
  | { readonly kind: 'resend' };

/** TRIM and WRITE_ZEROES carry nothing, so only their 32 bits bound them. Any block size divides this. */
const SPAN_MAX = 2 ** 30;

/** See the head of this file. */
export class Exchange {
  readonly log: ResendLog;
  #traits: ExchangeTraits;
  #phase: Phase = 'down';
  #failure: NbdLostError | undefined;
  #taskCount = 0;
  #ticketCount = 0;
  /** Every command without an answer, in the order of submission. */
  readonly #tasks = new Map<number, Task>();
  /** Those of which something is to be sent; flushes apart. */
  #queue: Task[] = [];
  #flushQueue: Task[] = [];
  #held: Task[] = [];
  #flush: Flush | undefined;
  /** The log wants one (E5). */
  #wantsFlush = false;
  readonly #tickets = new Map<number, Ticket>();
  /** A flush has failed: the log is to be sent again. */
  #drains = false;
  /** What is still to be sent of the log. */
  #resends: { readonly entry: LogEntry; sent: number }[] = [];

  constructor(log: ResendLog, traits: ExchangeTraits) {
    this.log = log;
    this.#traits = traits;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** How many commands have no answer yet. */
  get size(): number {
    return this.#tasks.size;
  }

  /** How many requests are in flight. */
  get inFlight(): number {
    return this.#tickets.size;
  }

  /** What is answered and not yet durable, as far as is known. */
  get atRisk(): readonly ByteRange[] {
    return this.log.ranges();
  }

  // Events

  /** Takes a command and numbers it. @throws `FAILED` once all is lost */
  submit(command: Command): number {
    if (this.#failure) throw new NbdLostError('FAILED', this.#failure.atRisk, this.#failure.cause);
    const task: Task = { id: this.#taskCount, command, sent: 0, out: 0, error: undefined };
    this.#taskCount += 1;
    this.#tasks.set(task.id, task);
    (command.op === 'flush' ? this.#flushQueue : this.#queue).push(task);
    return task.id;
  }

  /** There is a server, which may have lost what it had. */
  connected(traits: ExchangeTraits): void {
    if (this.#phase !== 'down') return;
    this.#traits = traits;
    this.#phase = 'up';
    if (this.log.entries.length > 0) this.#startResending();
  }

  /** The server is gone, and with it every request without an answer. */
  lost(cause: Error): readonly Settled[] {
    if (this.#phase === 'down' || this.#phase === 'failed') return [];
    this.#phase = 'down';
    this.#tickets.clear();
    this.#flush = undefined;
    this.#startAnew();
    // E6: without data there is nothing to send again.
    const hopeless = this.log.entries.some(({ content }) => content === undefined);
    return hopeless ? this.fail(cause) : [];
  }

  /** Gives up. Whatever waits fails, and whatever comes later. */
  fail(cause: unknown): readonly Settled[] {
    if (this.#failure) return [];
    this.#failure = new NbdLostError('CONNECTION_LOST', this.atRisk, cause);
    this.#phase = 'failed';
    this.#tickets.clear();
    const settled = [...this.#tasks.keys()].map((command) => ({ command, error: this.#failure }));
    this.#tasks.clear();
    return settled as readonly Settled[];
  }

  /** The server has answered a request, with or without an error. */
  answered(number: number, error?: Error): readonly Settled[] {
    const ticket = this.#tickets.get(number);
    if (!ticket) return [];
    this.#tickets.delete(number);
    const settled = this.#settle(ticket, error);
    if (this.#drains && this.#tickets.size === 0 && this.#phase === 'up') this.#drained();
    return settled;
  }

  /** The next request to send; undefined when an answer must come first, or there is nothing to send. */
  next(): Outgoing | undefined {
    if (this.#tickets.size >= this.#traits.depth) return undefined;
    if (this.#phase === 'resending') return this.#nextOfLog();
    if (this.#phase !== 'up' || this.#drains) return undefined;
    const wanted = this.#flushQueue.length > 0 || this.#wantsFlush;
    if (wanted && !this.#flush) return this.#sendFlush();
    const task = this.#queue[0];
    return task && this.#sendPiece(task);
  }

  /** Flushes that cannot be kept: what a failed one may have lost is not there to be sent again (E6). */
  refusals(): readonly Settled[] {
    if (this.#phase !== 'up' || this.#drains || this.#flushQueue.length === 0) return [];
    const atRisk = this.log.ranges(({ lost }) => lost);
    if (atRisk.length === 0) return [];
    const error = new FlushFailedError(atRisk, new Error('an earlier flush has failed'));
    return this.#flushQueue.splice(0).map((task) => this.#end(task, error));
  }

  // Answers

  #settle(ticket: Ticket, error: Error | undefined): readonly Settled[] {
    switch (ticket.kind) {
      case 'task':
        return this.#answeredTask(ticket.task, error);
      case 'flush':
        return this.#answeredFlush(ticket.flush, error);
      case 'resend':
        return this.#answeredResend(error);
    }
  }

  #answeredTask(task: Task, error: Error | undefined): readonly Settled[] {
    const { command } = task;
    task.out -= 1;
    task.error ??= error;
    // A server that forces by flushing may have told this request what a flush was to be told (E3).
    if (error && command.op === 'write' && command.fua) this.#distrust();
    if (task.out > 0 || (!task.error && task.sent < lengthOf(command))) return [];
    if (task.error) {
      this.#queue = this.#queue.filter((one) => one !== task);
      return [this.#end(task, task.error)];
    }
    const volatile = this.#traits.volatile;
    switch (command.op) {
      case 'read':
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
    // Ahead of the bound, so that it is seldom met.
    if (this.log.bytesMax > 0 && this.log.cost * 2 > this.log.bytesMax) this.#wantsFlush = true;
    return [this.#end(task)];
  }

  #answeredFlush(flush: Flush, error: Error | undefined): readonly Settled[] {
    this.#flush = undefined;
    const { tasks, held, mark } = flush;
    if (!error && flush.void) {
      // E3: asked once more, behind what is sent again.
      this.#flushQueue.unshift(...tasks);
      return [];
    }
    if (!error) {
      this.log.flushed(mark);
      this.#held = this.#held.filter((task) => !held.includes(task));
      this.#wantsFlush = this.#held.length > 0;
      return [...tasks, ...held].map((task) => this.#end(task));
    }
    this.#distrust();
    const failure = new FlushFailedError(this.atRisk, error);
    // Who is held waits for a flush that will not come: their bytes are in doubt, and they hear so.
    const waiting = this.#held.splice(0);
    this.#wantsFlush = false;
    return [...tasks, ...waiting].map((task) => this.#end(task, failure));
  }

  #answeredResend(error: Error | undefined): readonly Settled[] {
    if (error) return this.fail(error);
    if (this.#resends.length === 0 && this.#tickets.size === 0) {
      this.log.resent();
      this.#phase = 'up';
    }
    return [];
  }

  /** E3: a flush that is in flight proves nothing now, and the log is to be sent again. */
  #distrust(): void {
    if (this.#flush) this.#flush.void = true;
    this.#drains = true;
  }

  #drained(): void {
    this.#startAnew();
    this.#startResending();
  }

  /** Whatever the server has of what is not durable counts for nothing: neither the log, nor half of a command. */
  #startAnew(): void {
    this.#drains = false;
    this.#wantsFlush = false;
    this.#held = [];
    this.#queue = [];
    this.#flushQueue = [];
    for (const task of this.#tasks.values()) {
      Object.assign(task, { sent: 0, out: 0, error: undefined });
      (task.command.op === 'flush' ? this.#flushQueue : this.#queue).push(task);
    }
    this.log.lose();
  }

  #end(task: Task, error?: Error): Settled {
    this.#tasks.delete(task.id);
    return { command: task.id, ...(error && { error }) };
  }

  // Requests

  #startResending(): void {
    this.#resends = this.log
      .lost()
      .filter(({ content }) => content !== undefined)
      .map((entry) => ({ entry, sent: 0 }));
    this.#phase = this.#resends.length > 0 ? 'resending' : 'up';
  }

  #nextOfLog(): Outgoing | undefined {
    const resend = this.#resends[0];
    if (!resend) return undefined;
    const { entry, sent } = resend;
    const left = entry.end - entry.start - sent;
    const zeroes = entry.content === 'zeroes';
    const length = Math.min(left, zeroes ? SPAN_MAX : this.#traits.payloadMax);
    resend.sent += length;
    if (length === left) this.#resends.shift();
    const range = { offset: entry.start + sent, length, flags: 0 };
    const ticket = this.#ticket({ kind: 'resend' });
    if (!(entry.content instanceof Uint8Array)) {
      return { ticket, command: COMMAND.WRITE_ZEROES, ...range };
    }
    const payload = [entry.content.subarray(sent, sent + length)];
    return { ticket, command: COMMAND.WRITE, ...range, payload };
  }

  #sendFlush(): Outgoing {
    const tasks = this.#flushQueue.splice(0);
    this.#flush = { tasks, held: [...this.#held], mark: this.log.mark(), void: false };
    const ticket = this.#ticket({ kind: 'flush', flush: this.#flush });
    return { ticket, command: COMMAND.FLUSH, flags: 0, offset: 0, length: 0 };
  }

  #sendPiece(task: Task): Outgoing {
    const { command, sent } = task;
    const carries = command.op === 'read' || command.op === 'write';
    const left = lengthOf(command) - sent;
    const length = Math.min(left, carries ? this.#traits.payloadMax : SPAN_MAX);
    task.sent += length;
    task.out += 1;
    if (length === left) this.#queue.shift();
    const ticket = this.#ticket({ kind: 'task', task });
    const offset = ('offset' in command ? command.offset : 0) + sent;
    const fua = command.op === 'write' && command.fua;
    return {
      ...{ ticket, command: NUMBERS[command.op], offset, length },
      flags: fua ? COMMAND_FLAG.FUA : 0,
      ...(command.op === 'write' && { payload: cut(command.data, sent, sent + length) }),
      ...(command.op === 'read' && { into: command.into.subarray(sent, sent + length) }),
    };
  }

  #ticket(ticket: Ticket): number {
    const number = this.#ticketCount;
    this.#ticketCount += 1;
    this.#tickets.set(number, ticket);
    return number;
  }
}

const NUMBERS: Readonly<Record<Command['op'], number>> = {
  read: COMMAND.READ,
  write: COMMAND.WRITE,
  flush: COMMAND.FLUSH,
  discard: COMMAND.TRIM,
  writeZeroes: COMMAND.WRITE_ZEROES,
};

function lengthOf(command: Command): number {
  switch (command.op) {
    case 'read':
      return command.into.length;
    case 'flush':
      return 0;
    default:
      return command.length;
  }
}

/** The bytes from `start` to `end` of a list of buffers, as a list, without a copy. */
function cut(list: readonly Uint8Array[], start: number, end: number): readonly Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const bytes of list) {
    const piece = bytes.subarray(Math.max(start - at, 0), Math.max(end - at, 0));
    if (piece.length > 0) pieces.push(piece);
    at += bytes.length;
  }
  return pieces;
}
