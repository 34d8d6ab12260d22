// Promises and a storage around a machine of this folder: the part of a disk driver. It decides nothing. A request
// becomes an event, then commands are issued until the machine has none or the depth is reached, and what the storage
// answers, at once or later, is the next event.
//
// Bad arguments reject before anything is queued, and so does a queue that is full: the kernel put the submitter to
// sleep there, and nobody can be put to sleep here. What the storage cannot do, it is not asked: a flush or a forced
// write that it has not declared fails with EOPNOTSUPP. An ordered tag that it has not declared is sent as a simple
// one, as by a driver whose disk has no tags: no kernel checked that.
//
// Two overlapping requests reach the storage together if the machine lets them. The kernel left that to the
// submitter, so a submitter here must wait as well; a storage need not cope with it.

import {
  checkRange,
  type Observer,
  type Request,
  type Storage,
  type Transfer,
  WriteBarrierError,
} from 'write-barrier';
import { gathered, scattered } from '../pieces.js';
import type { BlockCommand, BlockMachine } from './machine.js';

/** What it takes to answer a request. */
export interface Call {
  /** The number of the request in the trace. */
  readonly number: number;
  /** What to write, or where to read into. */
  readonly data: Uint8Array;
  readonly resolve: (data: Uint8Array) => void;
  readonly reject: (reason: unknown) => void;
}

/** What both queues are made with. */
export interface LinuxQueueOptions {
  /** Commands at the storage at once; 32 unless given. */
  readonly depth?: number;
  /** Requests that have not been answered; 128 unless given (`BLKDEV_MAX_RQ`). One more is refused, `QUEUE_FULL`. */
  readonly requestsMax?: number;
  /** Is told of every event; what it saw is a trace for `checkTrace`. */
  readonly observer?: Observer;
}

const NOTHING = new Uint8Array(0);

/** See the head of this file. */
export class Driver {
  readonly #machine: BlockMachine<Call>;
  readonly #storage: Storage;
  readonly #observer: Observer | undefined;
  readonly #depth: number;
  readonly #requestsMax: number;
  readonly #nowMs: () => number;
  #submitted = 0;
  #answered = 0;
  #issued = 0;
  #inFlight = 0;
  #pumping = false;
  #idlers: (() => void)[] = [];

  /** @throws `INVALID_ARGUMENT` for a limit that is no whole number above 0 */
  constructor(
    machine: BlockMachine<Call>,
    storage: Storage,
    options: LinuxQueueOptions,
    nowMs: () => number = Date.now,
  ) {
    this.#machine = machine;
    this.#storage = storage;
    this.#observer = options.observer;
    this.#depth = limitOf('depth', options.depth ?? 32);
    this.#requestsMax = limitOf('requestsMax', options.requestsMax ?? 128);
    this.#nowMs = nowMs;
  }

  /**
   * Hands a request to the machine by way of `enter`. Settles with the bytes of a read, otherwise with none.
   *
   * @throws `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`, `INVALID_ARGUMENT`, `QUEUE_FULL` before anything is queued
   */
  submit(
    request: Request,
    data: Uint8Array | undefined,
    enter: (call: Call, nowMs: number) => void,
  ): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const call = { number: this.#submitted, data: this.#checked(request, data), resolve, reject };
      if (this.#submitted - this.#answered >= this.#requestsMax) {
        throw new WriteBarrierError('QUEUE_FULL', `${this.#requestsMax} requests are not answered`);
      }
      enter(call, this.#nowMs());
      this.#submitted += 1;
      this.#observer?.({ kind: 'submit', request: call.number, what: request });
      this.pump();
    });
  }

  /** Settles when every request has been answered and nothing is at the storage. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#idlers.push(resolve);
      this.pump();
    });
  }

  /** Issues what may be issued, and answers whom there is an answer for. */
  pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      this.#answer();
      while (this.#inFlight < this.#depth) {
        const command = this.#machine.next(this.#nowMs());
        // Whoever is answered is so before the next command goes.
        this.#answer();
        if (!command) break;
        this.#issue(command);
      }
    } finally {
      this.#pumping = false;
    }
    if (this.#inFlight > 0 || this.#answered < this.#submitted) return;
    for (const resolve of this.#idlers.splice(0)) resolve();
  }

  #issue(command: BlockCommand<Call>): void {
    const number = this.#issued++;
    const { what, clients } = command;
    const requests = clients.map((call) => call.number);
    this.#observer?.({ kind: 'dispatch', command: number, what, requests });
    this.#inFlight += 1;
    const end = (error?: unknown): void => {
      this.#inFlight -= 1;
      const told = error === undefined ? {} : { error: inWords(error) };
      this.#observer?.({ kind: 'complete', command: number, ...told });
      this.#machine.complete(command, this.#nowMs(), error);
      this.pump();
    };
    let answer: Transfer;
    try {
      answer = perform(this.#storage, command);
    } catch (error) {
      end(error ?? silent());
      return;
    }
    const moved = (bytes: void | number): void => end(shortfall(command, bytes));
    if (typeof answer !== 'object' || answer === null) moved(answer);
    else answer.then(moved, (error) => end(error ?? silent()));
  }

  #answer(): void {
    const machine = this.#machine;
    for (let next = machine.takeAnswered(); next; next = machine.takeAnswered()) {
      const { number, data, resolve, reject } = next.client;
      this.#answered += 1;
      const error = 'error' in next ? asError(next.error) : undefined;
      const outcome = error?.code ?? 'done';
      this.#observer?.({ kind: 'settle', request: number, outcome });
      if (error) reject(error);
      else resolve(data);
    }
  }

  #checked(request: Request, data: Uint8Array | undefined): Uint8Array {
    if (request.kind === 'flush' || request.kind === 'barrier') return NOTHING;
    const { kind, offset, length } = request;
    checkRange(this.#storage, offset, length);
    if (length === 0) throw new WriteBarrierError('ZERO_LENGTH', `no bytes at offset ${offset}`);
    if (kind === 'discard' || kind === 'writeZeroes') return NOTHING;
    const bytes = data ?? (kind === 'read' ? new Uint8Array(length) : NOTHING);
    if (bytes instanceof Uint8Array && bytes.length === length) return bytes;
    const text = `a ${kind} of ${length} bytes needs as many in a Uint8Array`;
    throw new WriteBarrierError('INVALID_ARGUMENT', text);
  }
}

function perform(storage: Storage, { what, clients }: BlockCommand<Call>): Transfer {
  const { op, offset, length, fua } = what;
  const { capabilities } = storage;
  const tag = capabilities.orderedTags ? what.tag : 'simple';
  const [first] = clients;
  const pieces = clients.map(({ data }) => data);
  switch (op) {
    case 'read':
      if (first && pieces.length === 1) return storage.read(offset, first.data);
      return readPieces(storage, offset, length, pieces);
    case 'write':
      if (fua && !capabilities.fua) throw undeclared('a forced write');
      if (first && pieces.length === 1) return storage.write(offset, first.data, { fua, tag });
      if (storage.writev && capabilities.writev)
        return storage.writev(offset, pieces, { fua, tag });
      return storage.write(offset, gathered(pieces, length), { fua, tag });
    case 'flush':
      if (!capabilities.flush) throw undeclared('a flush');
      return storage.flush({ tag });
    case 'discard':
    case 'writeZeroes': {
      const method = capabilities[op] ? storage[op]?.bind(storage) : undefined;
      if (!method) throw undeclared(`a ${op}`);
      return method(offset, length);
    }
  }
}

/** A read of several that were merged. */
async function readPieces(
  storage: Storage,
  offset: number,
  length: number,
  pieces: readonly Uint8Array[],
): Promise<number> {
  const bytes = new Uint8Array(length);
  const moved = (await storage.read(offset, bytes)) ?? length;
  scattered(bytes, pieces);
  return moved;
}

function shortfall({ what }: BlockCommand<Call>, moved: void | number): Error | undefined {
  if (typeof moved !== 'number' || moved === what.length || what.op === 'flush') return undefined;
  const text = `${moved} of ${what.length} bytes were moved by a ${what.op}`;
  return new WriteBarrierError('SHORT_TRANSFER', text);
}

/** -EOPNOTSUPP goes up as it is; everything else is -EIO. */
function asError(cause: unknown): WriteBarrierError {
  const known =
    WriteBarrierError.is(cause) && ['EOPNOTSUPP', 'SHORT_TRANSFER'].includes(cause.code);
  if (known) return cause;
  return new WriteBarrierError('IO_FAILED', `the storage failed: ${inWords(cause)}`, { cause });
}

function undeclared(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `the storage has not declared ${what}`);
}

function silent(): Error {
  return new Error('the storage gave no reason');
}

function inWords(cause: unknown): string {
  try {
    return String(cause instanceof Error ? cause.message : cause);
  } catch {
    return 'something that has no words';
  }
}

function limitOf(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new WriteBarrierError('INVALID_ARGUMENT', `${name} must be a whole number above 0`);
}
