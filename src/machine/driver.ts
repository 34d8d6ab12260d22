// The one driver: promises and a storage around a machine. It decides nothing. A request is an event for the machine; then the
// driver issues commands until the machine has none left. The answer of the storage, synchronous or not, is the next event.
//
//   D1  The storage may answer synchronously, throw, answer in any order, or never. A synchronous answer is an event like
//       any other. It is handled in the same loop and not by recursion, so that it cannot overflow the stack.
//   D2  A settled request is answered before the next command is issued, and the trace has the same order.
//   D3  An event during the loop (an observer that submits, a callback that cancels) is handled by that loop; there is never a
//       second loop.
//   D4  After abandon() no answer of the storage reaches the machine, because all callers have been answered.
//
// Not here: which command may be issued (the machine), how a command becomes calls of a storage (storage/perform.ts).

import {
  invariant,
  type Observer,
  type Request,
  type SettleEvent,
  type StagedCommand,
  WriteBarrierError,
} from '../model/index.js';
import type { Payload } from '../storage/buffers.js';
import { type Issuer, perform, type Storage, type Transfer } from '../storage/index.js';
import { transferred } from '../storage/perform.js';
import { Tracer } from '../storage/tracer.js';
import { isPending } from '../storage/wrappers.js';
import type { Command, Machine, Settled } from './machine.js';

/** A request with its data and its caller. */
export interface Call {
  /** Its number in the trace, which the driver sets. */
  number: number;
  /** The request. */
  readonly request: Request;
  /** What to write, or the buffer to read into. */
  data: Payload | undefined;
  /** Its trace, if disks with traces of their own share the machine. */
  readonly tracer?: Tracer;
  /** Answers the caller; a read with its bytes. */
  readonly resolve: (data?: Uint8Array) => void;
  /** Answers the caller with an error. */
  readonly reject: (reason: unknown) => void;
}

/** The functions that a driver calls. */
export interface DriverOptions<K extends Call, C extends Command<K>> {
  /** Carries a command out. It may return, throw, or return a promise; a number is the number of bytes moved. */
  readonly execute: (command: C, issuer: Issuer) => unknown;
  /** Answers the caller of a settled request; `answerCall` fits most. */
  readonly answer: (settled: Settled<K>) => void;
  /** Called synchronously for every event. If it throws, that is reported once, and the driver goes on. */
  readonly observer?: Observer | undefined;
  /** What is observed, for that report: `a scheduler`. */
  readonly name: string;
  /** The block size of the disk in bytes, for the events. @defaultValue unknown */
  readonly blockSize?: number;
}

/** All waiters of one condition share a promise, so that the cost of an event does not depend on their number. */
interface Waiting {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Drives a machine: issues its commands until it has none, and answers the requests that it settles. `execute` carries the
 * commands out; `executeOn(storage)` makes such a function for a storage.
 */
export class Driver<K extends Call, C extends Command<K> = Command<K>, H = unknown> {
  readonly #machine: Machine<K, C, H>;
  readonly #options: DriverOptions<K, C>;
  readonly #tracer: Tracer;
  /** Waiters by their condition; made for the first one, because a driver at rest should be small, and most have none. */
  #waiting: Map<() => boolean, Waiting> | undefined;
  /**
   * Kept so that an object of each class lives: with the last one a full garbage collection would throw away the optimised code
   * that knows the class, and the next requests would take three times as long.
   */
  protected last: C | undefined;
  #pumping = false;
  #inFlight = 0;
  #submitted = 0;
  #settled = 0;
  #abandoned: unknown;
  /** There are calls with tracers of their own. */
  #ownTracers = false;

  constructor(machine: Machine<K, C, H>, options: DriverOptions<K, C>) {
    this.#machine = machine;
    this.#options = options;
    this.#tracer = new Tracer(options.observer, options.name, options.blockSize);
  }

  /** How many commands are issued and not completed. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** How many requests were submitted. */
  get submitted(): number {
    return this.#submitted;
  }

  /** How many requests were answered. */
  get settled(): number {
    return this.#settled;
  }

  /** Every request is answered, and no command is at the storage. */
  get isIdle(): boolean {
    return this.#inFlight === 0 && this.#submitted === this.#settled;
  }

  /** The error of `abandon`; undefined before. */
  get abandoned(): unknown {
    return this.#abandoned;
  }

  /** How often the observer has thrown. */
  get observerErrors(): number {
    return this.#tracer.errors;
  }

  /**
   * Submits a request to the machine, and issues what may be issued.
   *
   * @throws the error of `abandon`, after it was called
   */
  submit(call: K): H {
    const handle = this.enter(call);
    this.pump();
    return handle;
  }

  /** Submits a request to the machine; `pump` issues its commands. Throws as `submit` does. */
  enter(call: K): H {
    // No event comes after abandon(), so the request would never be answered.
    if (this.#abandoned !== undefined) throw this.#abandoned;
    this.#submitted += 1;
    if (call.tracer) this.#ownTracers = true;
    call.number = (call.tracer ?? this.#tracer).submit(call.request);
    return this.#machine.submit(call.request, call);
  }

  /** Issues what may be issued, and answers settled requests. Call it after calling the machine directly. */
  pump(): void {
    if (this.#pumping || this.#abandoned !== undefined) return; // D3, D4
    this.#pumping = true;
    try {
      // Again after an answer, because its observer or its caller may have submitted (D3).
      do {
        for (let command = this.#machine.next(); command; command = this.#machine.next()) {
          this.#answerSettled(); // D2
          this.#issue(command);
        }
      } while (this.#answerSettled());
    } finally {
      this.#pumping = false;
    }
    // Most events have no waiter, and an iterator of a map costs as much as a small request.
    if (!this.#waiting?.size) return;
    for (const [holds, { resolve }] of this.#waiting) {
      if (!holds()) continue;
      this.#waiting.delete(holds);
      resolve();
    }
  }

  /** Settles when every request is answered, and no command is at the storage. */
  idle(): Promise<void> {
    return this.until(this.#holdsIdle);
  }

  /**
   * Settles when a condition holds. The condition is checked after every event.
   *
   * @param holds use one function for one condition, because its waiters share a promise
   */
  until(holds: () => boolean): Promise<void> {
    if (holds()) return Promise.resolve();
    if (this.#abandoned !== undefined) return Promise.reject(this.#abandoned);
    this.#waiting ??= new Map();
    let waiting = this.#waiting.get(holds);
    if (!waiting) {
      waiting = newWaiting();
      this.#waiting.set(holds, waiting);
    }
    return waiting.promise;
  }

  /** Rejects all requests and waiters with `error`. Later answers of the storage are ignored (D4). */
  abandon(error: unknown): void {
    invariant(this.#abandoned === undefined, 'driver.D4');
    this.#machine.abandon?.(error);
    this.#answerSettled();
    this.#abandoned = error;
    for (const { reject } of this.#waiting?.values() ?? []) reject(error);
  }

  readonly #holdsIdle = (): boolean => this.isIdle;

  #issue(command: C): void {
    this.#inFlight += 1;
    this.last = command;
    const tracer = this.#tracerOf(command);
    const number = tracer?.dispatch(
      command.what as StagedCommand,
      command.clients.map((client) => client.number),
    );
    let answer: unknown;
    try {
      answer = this.#options.execute(command, this);
    } catch (error) {
      this.#fail(command, number, error);
      return;
    }
    // No closure is made for a storage that answers at once, because there a command costs little else.
    if (!isPending(answer)) this.#end(command, number, answer);
    else {
      Promise.resolve(answer).then(
        (moved) => this.#end(command, number, moved),
        (error) => this.#fail(command, number, error),
      );
    }
  }

  #fail(command: C, number: number | undefined, error: unknown): void {
    this.#complete(command, number, error ?? new Error('the storage gave no reason'), undefined);
  }

  #end(command: C, number: number | undefined, answer: unknown): void {
    // Only commands for a storage move bytes (clause storage.S3).
    const short = command.what && transferred(command.what, answer);
    this.#complete(command, number, short, answer);
  }

  #complete(command: C, number: number | undefined, error: unknown, answer: unknown): void {
    this.#inFlight -= 1;
    if (this.#abandoned !== undefined) return; // D4
    if (number !== undefined) this.#tracerOf(command)?.complete(number, error);
    this.#machine.complete(command, error, answer);
    this.pump();
  }

  /** Undefined for a command that is in no trace; without an observer, so that `clients` need not be computed. */
  #tracerOf(command: C): Tracer | undefined {
    const tracer = this.#ownTracers ? command.clients[0]?.tracer : this.#tracer;
    return command.what && tracer?.isWatched ? tracer : undefined;
  }

  /** True if there was any. */
  #answerSettled(): boolean {
    for (let any = false; ; any = true) {
      const settled = this.#machine.takeSettled();
      if (!settled) return any;
      this.#settled += 1;
      const { client, error, cancelled } = settled;
      const tracer = client.tracer ?? this.#tracer;
      if (tracer.isWatched) tracer.settle(client.number, outcomeOf(error, cancelled));
      this.#options.answer(settled);
    }
  }
}

function outcomeOf(error: unknown, cancelled = false): SettleEvent['outcome'] {
  if (cancelled) return 'cancelled';
  if (error === undefined) return 'done';
  return WriteBarrierError.is(error) ? error.code : 'IO_FAILED';
}

function newWaiting(): Waiting {
  const waiting = {} as { -readonly [K in keyof Waiting]: Waiting[K] };
  waiting.promise = new Promise((resolve, reject) => Object.assign(waiting, { resolve, reject }));
  return waiting;
}

/**
 * Carries commands out on a storage, for a `Driver`. The data of a command is the data of its callers; if several requests
 * were merged, their buffers follow each other.
 */
export function executeOn(storage: Storage): (command: Command<Call>, issuer?: Issuer) => Transfer {
  return ({ what, clients }, issuer) =>
    what && perform(storage, what, what.op === 'flush' ? undefined : dataOf(clients), issuer);
}

/** Answers a caller: a read with its data, others with nothing, and a failed or cancelled request with its error. */
export function answerCall({ client, error, cancelled }: Settled<Call>): void {
  const { request, data, resolve, reject } = client;
  if (error !== undefined || cancelled) reject(error);
  else if (request.kind === 'read') resolve(data as Uint8Array);
  else resolve();
}

/** The data of several callers: their buffers, one after the other. */
export function dataOf(clients: readonly Call[]): Payload | undefined {
  if (clients.length <= 1) return clients[0]?.data;
  // By loops, because `flatMap` took a twentieth of the time of gathered writes.
  const list: Uint8Array[] = [];
  for (const { data } of clients) {
    if (Array.isArray(data)) for (const piece of data) list.push(piece);
    else if (data) list.push(data as Uint8Array);
  }
  return list;
}
