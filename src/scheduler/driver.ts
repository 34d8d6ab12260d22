// Promises and a storage around the ordering state machine. It decides nothing: a request becomes an event,
// then commands are issued until the state machine has none, and what the storage answers, at once or later, is
// the next event.
//
// The storage may answer synchronously, throw, answer in any order, or never. A synchronous answer is an event like
// any other and is handled in the same loop, so a storage that always answers at once costs no stack. Answers to
// clients are promises, so nobody calls back into the loop.

import { inWords } from '../model/error.js';
import { isBarrier, type Observer, type Request, WriteBarrierError } from '../model/index.js';
import type { Storage, Transfer } from '../storage/index.js';
import type { Command, Entry } from './entry.js';
import { CloseTimeoutError } from './errors.js';
import type { OrderingOptions } from './options.js';
import { Ordering } from './ordering.js';
import { perform, transferred } from './perform.js';
import { Signals } from './signals.js';

/** What it takes to answer a request. */
export interface Call {
  readonly resolve: (value?: Uint8Array) => void;
  readonly reject: (reason: unknown) => void;
  /** What to write, or where to read into. */
  data: Uint8Array | readonly Uint8Array[] | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Somebody who waits for a state of the whole. */
interface Waiter {
  readonly holds: () => boolean;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/** See the head of this file. */
export class Driver {
  readonly ordering: Ordering<Call>;
  readonly #storage: Storage;
  readonly #observer: Observer | undefined;
  readonly #signals = new Signals<Entry<Call>>((entries) => {
    for (const entry of entries) this.ordering.cancel(entry);
    this.pump();
  });
  #waiters: Waiter[] = [];
  #pumping = false;
  /** The storage did not answer in time, and nobody waits for it any more. */
  abandoned: CloseTimeoutError | undefined;
  submitted = 0;
  settled = 0;

  constructor(storage: Storage, options: OrderingOptions, observer: Observer | undefined) {
    this.ordering = new Ordering(options);
    this.#storage = storage;
    this.#observer = observer;
  }

  submit(request: Request, call: Call): void {
    const number = this.submitted++;
    if (this.#observer) this.#observer({ kind: 'submit', request: number, what: request });
    const entry = this.ordering.submit(request, call);
    if (call.signal && entry.state !== 'settled') this.#signals.watch(call.signal, entry);
    this.pump();
  }

  /** Settles when `holds` answers true. */
  until(holds: () => boolean): Promise<void> {
    if (holds()) return Promise.resolve();
    if (this.abandoned) return Promise.reject(this.abandoned);
    return new Promise((resolve, reject) => this.#waiters.push({ holds, resolve, reject }));
  }

  /** Issues what may be issued, and answers whom there is an answer for. */
  pump(): void {
    if (this.#pumping || this.abandoned) return;
    this.#pumping = true;
    try {
      for (let command = this.ordering.next(); command; command = this.ordering.next()) {
        // The state machine settles a barrier before it lets the next command go, and so does the trace.
        this.#answerSettled();
        this.#issue(command);
      }
    } finally {
      this.#pumping = false;
    }
    this.#answerSettled();
    if (this.#waiters.length === 0) return;
    const [done, still] = [[] as Waiter[], [] as Waiter[]];
    for (const waiter of this.#waiters) (waiter.holds() ? done : still).push(waiter);
    this.#waiters = still;
    for (const { resolve } of done) resolve();
  }

  /** Gives up on the commands that the storage has not answered, and tells everybody who waits. */
  abandon(timeoutMs: number): CloseTimeoutError {
    const hanging = Array.from(this.ordering.running, ({ what: { op, offset, length } }) => ({
      op,
      offset,
      length,
    }));
    const error = new CloseTimeoutError(timeoutMs, hanging);
    this.ordering.abandon(error);
    this.pump();
    this.abandoned = error;
    for (const { reject } of this.#waiters.splice(0)) reject(error);
    return error;
  }

  #issue(command: Command<Call>): void {
    const { serves, what } = command;
    if (this.#observer) this.#observeDispatch(command, this.#observer);
    let answer: Transfer;
    try {
      const data = serves instanceof Set ? undefined : serves.client?.data;
      answer = perform(this.#storage, what, data);
    } catch (error) {
      this.#complete(command, error ?? silent());
      return;
    }
    if (answer === undefined || typeof answer === 'number') {
      this.#complete(command, transferred(what, answer));
      return;
    }
    Promise.resolve(answer).then(
      (moved) => this.#complete(command, transferred(what, moved)),
      (error) => this.#complete(command, error ?? silent()),
    );
  }

  #observeDispatch({ id, serves, what }: Command<Call>, observer: Observer): void {
    const entries = serves instanceof Set ? [...serves] : [serves];
    const { kind, op, offset, length, tag, fua, stage } = what;
    observer({
      kind: 'dispatch',
      command: id,
      what: { kind, op, offset, length, tag, fua, stage },
      requests: entries.map(({ ticket }) => ticket),
    });
  }

  #complete(command: Command<Call>, error: unknown): void {
    if (this.abandoned) return;
    if (this.#observer) {
      const text = error === undefined ? {} : { error: inWords(error) };
      this.#observer({ kind: 'complete', command: command.id, ...text });
    }
    // A write that waits for its flush has no use for its buffer any more.
    if (command.what.op === 'write')
      ((command.serves as Entry<Call>).client as Call).data = undefined;
    this.ordering.complete(command, error);
    this.pump();
  }

  #answerSettled(): void {
    for (let entry = this.ordering.takeSettled(); entry; entry = this.ordering.takeSettled()) {
      this.#answer(entry);
    }
  }

  #answer(entry: Entry<Call>): void {
    this.settled += 1;
    const { error, cancelled } = entry;
    const { resolve, reject, data, signal } = entry.client as Call;
    if (signal) this.#signals.forget(signal, entry);
    if (this.#observer) {
      const code = WriteBarrierError.is(error) ? error.code : 'IO_FAILED';
      const outcome = cancelled ? 'cancelled' : error === undefined ? 'done' : code;
      this.#observer({ kind: 'settle', request: entry.ticket, outcome });
    }
    if (error !== undefined && isBarrier(entry.request)) {
      // Whoever hears a rejection does so in a microtask, and may then submit with his eyes open.
      queueMicrotask(() => this.ordering.acknowledge());
    }
    if (cancelled) reject(signal?.reason);
    else if (error !== undefined) reject(error);
    else if (entry.request.kind === 'read') resolve(data as Uint8Array);
    else resolve();
  }
}

function silent(): Error {
  return new Error('the storage gave no reason');
}
