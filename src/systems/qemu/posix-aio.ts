// The contract that QEMU's posix-aio emulation has with the emulator above it, kept by our scheduler: submit a
// request, get a handle, ask to have it back. `cancel` answers at once, with one of three words:
//
//   canceled       the request was taken out. It never executes, and its buffer is the caller's again
//   not canceled   it is at the storage, or as good as: its own end comes
//   all done       it has ended; nothing changes
//
// The patch of May 2009 broke the first promise for barriers (aio.ts, Q3). Here it is the scheduler's: cancel is
// an AbortSignal, and whether the request was taken out is read from the scheduler's own trace, so that the word and
// the deed cannot differ. A cancelled barrier keeps its place in the order, without its data.
//
// One scheduler for one disk: nobody waits for another disk's barrier. While a barrier is under way, whatever comes
// later waits behind it, up to and with the next barrier; reads that touch nothing queued pass, unless the options
// say no.
//
// Source: qemu_paio_submit() and qemu_paio_cancel() in QEMU's posix-aio-compat.c (2009).

import {
  IoScheduler,
  type Request,
  type SchedulerOptions,
  type Storage,
  type TraceEvent,
  WriteBarrierError,
} from 'write-barrier';
import type { CancelAnswer } from './aio.js';

/** A request that was submitted. */
export interface AioHandle {
  /**
   * Its end: the bytes of a read, or nothing. Rejects with the error of the scheduler, or with an `AbortError` where
   * it was canceled. A rejection that nobody listens to is not reported as unhandled: `cancel` has told.
   */
  readonly result: Promise<Uint8Array | void>;
}

/** How far a request is. `refused`: it was never queued. */
interface Progress {
  state: 'refused' | 'pending' | 'ended';
}

/** See the head of this file. */
export class PosixAio {
  /** The queue itself, for `idle`, `stats`, `recover` and `close`. Do not submit to it behind this one's back. */
  readonly scheduler: IoScheduler;
  readonly #handles = new WeakMap<
    AioHandle,
    { readonly progress: Progress; readonly controller: AbortController }
  >();
  /** By the number of the request; those that have not ended. */
  readonly #progress = new Map<number, Progress>();
  readonly #canceled = new WeakSet<Progress>();
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
   * @param data what to write, as many bytes as the request says; or where to read into, a new buffer unless given
   */
  submit(request: Request, data?: Uint8Array): AioHandle {
    const controller = new AbortController();
    const progress: Progress = { state: 'refused' };
    this.#submitting = progress;
    // An async function, so that whatever a request's getters throw is a rejection too.
    const result = (async () => this.#call(request, data, controller.signal))();
    this.#submitting = undefined;
    result.catch(() => {});
    const handle = Object.freeze({ result });
    this.#handles.set(handle, { progress, controller });
    return handle;
  }

  /**
   * Asks to have a request back; see the head of this file for the answers.
   *
   * @throws `INVALID_ARGUMENT` for a handle of somebody else
   */
  cancel(handle: AioHandle): CancelAnswer {
    const known = this.#handles.get(handle);
    if (!known) throw misuse('the handle is of another queue');
    const { progress, controller } = known;
    if (progress.state !== 'pending') return 'all done';
    controller.abort();
    // The signal has been heard by now, and the trace has told what came of it.
    return this.#canceled.has(progress) ? 'canceled' : 'not canceled';
  }

  #watch(event: TraceEvent): void {
    if (event.kind === 'submit' && this.#submitting) {
      this.#submitting.state = 'pending';
      this.#progress.set(event.request, this.#submitting);
    } else if (event.kind === 'settle') {
      const progress = this.#progress.get(event.request);
      if (!progress) return;
      progress.state = 'ended';
      if (event.outcome === 'cancelled') this.#canceled.add(progress);
      this.#progress.delete(event.request);
    }
  }

  #call(
    request: Request,
    data: Uint8Array | undefined,
    signal: AbortSignal,
  ): Promise<Uint8Array | void> {
    const { scheduler } = this;
    switch (request?.kind) {
      case 'read':
        return data === undefined || fills(data, request.length)
          ? scheduler.read(request.offset, data ?? request.length, { signal })
          : Promise.reject(wrongLength());
      case 'write':
        return data !== undefined && fills(data, request.length)
          ? scheduler.write(request.offset, data, { ...flagsOf(request), signal })
          : Promise.reject(wrongLength());
      case 'discard':
        return scheduler.discard(request.offset, request.length, { signal });
      case 'writeZeroes':
        return scheduler.writeZeroes(request.offset, request.length, { signal });
      case 'flush':
        return scheduler.flush({ signal });
      case 'barrier':
        return scheduler.barrier({ signal });
      default:
        return Promise.reject(misuse('this is no request'));
    }
  }
}

function flagsOf({ barrier, preflush, fua }: Extract<Request, { kind: 'write' }>): {
  readonly barrier: boolean | undefined;
  readonly preflush: boolean | undefined;
  readonly fua: boolean | undefined;
} {
  return { barrier, preflush, fua };
}

/** Whoever calls from JavaScript may hand in anything. */
function fills(data: unknown, length: number): boolean {
  return data instanceof Uint8Array && data.byteLength === length;
}

function wrongLength(): WriteBarrierError {
  return misuse('the buffer is not as long as the request says');
}

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
