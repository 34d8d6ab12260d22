// The contract that QEMU's posix-aio emulation has with the emulator above it, kept by our scheduler: submit a
// request, get a handle, ask to have it back. `cancel` answers at once, with one of three words:
//
//   canceled       the request was taken out. It never executes, and its buffer is the caller's again
//   not canceled   it is at the storage, or as good as: its own end comes
//   all done       it has ended; nothing changes
//
// The patch of May 2009 broke the first promise for barriers (qemu-2009.Q3). Here the scheduler keeps it: `cancel` aborts
// an AbortSignal, and the answer is read from the scheduler's own trace, so it cannot differ from what happened to the
// request. A cancelled barrier keeps its place in the order, without its data.
//
// One scheduler for one disk: a disk does not wait for another disk's barrier. While a barrier is under way, later
// requests wait for it, up to and with the next barrier. Reads that overlap nothing in the queue bypass it, except if the
// options forbid that.
//
// Source: qemu_paio_submit() and qemu_paio_cancel() in QEMU's posix-aio-compat.c (2009).

import {
  IoScheduler,
  type Request,
  type SchedulerOptions,
  type Storage,
  type TraceEvent,
} from 'write-barrier';
import { misuse } from 'write-barrier/kit';
import { ask } from '../requests.js';
import type { CancelAnswer } from './aio.js';

/** A request that was submitted. */
export interface AioHandle {
  /**
   * Its end: the bytes of a read, or nothing. Rejects with the error of the scheduler, or with an `AbortError` where
   * it was canceled. A rejection without a handler is not reported as unhandled, because `cancel` has answered.
   */
  readonly result: Promise<Uint8Array | void>;
}

/** How far a request is. */
interface Progress {
  /** `refused`: it was never queued. */
  state: 'refused' | 'pending' | 'ended' | 'canceled';
  readonly controller: AbortController;
}

const KINDS = ['read', 'write', 'flush', 'barrier', 'discard', 'writeZeroes'];

/** A queue with the contract of QEMU's posix-aio emulation, over a scheduler. */
export class PosixAio {
  /** The queue itself, for `idle`, `stats`, `recover` and `close`. Do not submit to it behind this one's back. */
  readonly scheduler: IoScheduler;
  readonly #handles = new WeakMap<AioHandle, Progress>();
  /** By the number of the request; those that have not ended. */
  readonly #progress = new Map<number, Progress>();
  #submitting: Progress | undefined;

  /**
   * @param options those of the scheduler; the observer gets every event, as there
   * @throws as the constructor of `IoScheduler`
   */
  constructor(storage: Storage, options: SchedulerOptions = {}) {
    const observer = (event: TraceEvent): void => {
      this.#watch(event);
      options.observer?.(event);
    };
    this.scheduler = new IoScheduler(storage, { ...options, observer });
  }

  /**
   * Queues a request. Misuse and refusals come as a rejection of the result.
   *
   * @param data what to write, as many bytes as the request says; or where to read into. @defaultValue a new buffer for a read
   */
  submit(request: Request, data?: Uint8Array): AioHandle {
    const progress: Progress = { state: 'refused', controller: new AbortController() };
    this.#submitting = progress;
    const result = this.#call(request, data, progress.controller.signal);
    this.#submitting = undefined;
    result.catch(() => {});
    const handle = Object.freeze({ result });
    this.#handles.set(handle, progress);
    return handle;
  }

  /**
   * Asks for a request back. `canceled`: it was taken out, never executes, and its buffer is the caller's again.
   * `not canceled`: it is at the storage, and ends by itself. `all done`: it has ended.
   *
   * @throws `INVALID_ARGUMENT` for a handle of another queue
   */
  cancel(handle: AioHandle): CancelAnswer {
    const progress = this.#handles.get(handle);
    if (!progress)
      throw misuse('the handle is of another queue: it must come from submit() of this one');
    if (progress.state !== 'pending') return 'all done';
    progress.controller.abort();
    // The signal has been heard by now, and the trace has told what came of it.
    return this.#handles.get(handle)?.state === 'canceled' ? 'canceled' : 'not canceled';
  }

  #watch(event: TraceEvent): void {
    if (event.kind === 'submit' && this.#submitting) {
      this.#submitting.state = 'pending';
      this.#progress.set(event.request, this.#submitting);
    } else if (event.kind === 'settle') {
      const progress = this.#progress.get(event.request);
      if (!progress) return;
      progress.state = event.outcome === 'cancelled' ? 'canceled' : 'ended';
      this.#progress.delete(event.request);
    }
  }

  /** Async, so that whatever a request's getters throw is a rejection too. A caller in JavaScript may hand in anything. */
  async #call(
    request: Request,
    data: Uint8Array | undefined,
    signal: AbortSignal,
  ): Promise<Uint8Array | void> {
    if (!KINDS.includes(request?.kind))
      throw misuse(`request must have one of the six kinds: ${KINDS.join(', ')}`);
    const moves = request.kind === 'write' || (request.kind === 'read' && data !== undefined);
    if (moves && !(data instanceof Uint8Array && data.byteLength === request.length)) {
      throw misuse('data must be a Uint8Array of the length of the request');
    }
    return ask(this.scheduler, request, data, { signal });
  }
}
