// Barriers out of plain file operations: what the patch for tapdisk (the user-space half of Xen's blktap) did in
// November 2010. A file has no barrier, so the process waits:
//
//   all before it complete ─▶ fsync ─▶ write ─▶ its completion ─▶ fsync ─▶ later requests
//
// There are two contexts. In the asynchronous one requests are handed to the kernel as they come, and a barrier first
// sends off what is still queued and then waits for all of it. In the synchronous one a request ends before the next one
// starts, so a barrier has nothing to wait for: this is the same code with a depth of one.
//
// The queue is first in, first out, and a `Machine`: it knows no promise and no file.
//   B1  While a barrier runs, its call is the only one.
//   B2  A barrier starts when everything before it has completed, with or without an error.
//   B3  Requests start in the order of submission.
//
// The patch itself was an attachment, and only the mail is left. The mail does not say what happens when fsync fails: the
// profile assumes that the barrier then fails and ends, and `ignoresSyncErrors` shows what happens to data if the result
// is ignored. Nor does the mail mention a barrier without data; here it is refused.
//
// Not here: barriers for your own file (file-barriers.ts); reads and writes that overlap, which no layer here keeps
// apart.
//
// Source: "[PATCH] blktap: handle barrier I/O request" (xen-devel, 3 November 2010).

import { isBarrier, type Observer, type Request, type Storage } from 'write-barrier';
import {
  answerCall,
  type Call,
  type Command,
  checkOptions,
  Driver,
  invariant,
  type Machine,
  oneOf,
  perform,
  type Settled,
  wholeNumber,
} from 'write-barrier/kit';
import {
  BAR,
  type CallOutcome,
  canSync,
  checkRequest,
  commandOfCall,
  errorOfCall,
  type FileCall,
  isFileRequest,
  isVolatile,
  PLAIN,
  POSTFLUSH,
  PREFLUSH,
  submitTo,
} from '../requests.js';

/** What tapdisk does not do. */
export interface TapdiskProfile {
  /** Before the patch: a barrier cannot be handled. */
  readonly refusesBarriers: boolean;
  /** The result of fsync is ignored. The mail does not say whether the patch looked at it. */
  readonly ignoresSyncErrors: boolean;
  /** A barrier waits for the completion of what is before it, and not for its success. */
  readonly acceptsEarlierFailures: boolean;
}

/** tapdisk with the patch, as its mail describes it. */
export const TAPDISK_2010: TapdiskProfile = Object.freeze({
  refusesBarriers: false,
  ignoresSyncErrors: false,
  acceptsEarlierFailures: true,
});

/** tapdisk before the patch. */
export const TAPDISK_BEFORE: TapdiskProfile = Object.freeze({
  ...TAPDISK_2010,
  refusesBarriers: true,
});

/** The same as in 2010 without defects. */
export const TAPDISK_REPAIRED: TapdiskProfile = Object.freeze({
  ...TAPDISK_2010,
  acceptsEarlierFailures: false,
});

/** Options of a disk. */
export interface TapdiskOptions {
  /** @defaultValue `TAPDISK_2010` */
  readonly profile?: TapdiskProfile;
  /** @defaultValue `'aio'` */
  readonly context?: 'aio' | 'sync';
  /** Requests at the kernel at once in the `aio` context, 1 or more. @defaultValue 32 */
  readonly depth?: number;
  /** Called for every event. */
  readonly observer?: Observer;
}

const OPTIONS = {
  profile: 1,
  context: oneOf(['aio', 'sync']),
  depth: wholeNumber(1),
  observer: 1,
} as const;

interface Entry {
  readonly client: Call;
  readonly barrier: boolean;
  /** How many failures had been reported when it was submitted. */
  readonly failuresKnown: number;
  /** What is left to do, the call that is under way first. */
  calls: readonly FileCall[];
  outcome: CallOutcome;
  /** What the first call that failed has thrown. */
  failure: unknown;
}

interface TapdiskCommand extends Command<Call> {
  readonly entry: Entry;
}

class TapdiskQueue implements Machine<Call, TapdiskCommand> {
  readonly #profile: TapdiskProfile;
  readonly #depth: number;
  readonly #syncs: boolean;
  readonly #waiting: Entry[] = [];
  readonly #settled: Settled<Call>[] = [];
  #running = 0;
  /** The barrier whose calls are under way. */
  #barrier: Entry | undefined;
  /** It is between two of its calls. */
  #barrierIsDue = false;
  #failures = 0;

  /** @param syncs whether an fdatasync has something to do */
  constructor(profile: TapdiskProfile, depth: number, syncs: boolean) {
    this.#profile = profile;
    this.#depth = depth;
    this.#syncs = syncs;
  }

  submit(request: Request, client: Call): void {
    const barrier = isBarrier(request);
    const calls = barrier ? [PREFLUSH, BAR, POSTFLUSH] : [PLAIN];
    const failuresKnown = this.#failures;
    const state = { failuresKnown, calls, outcome: 'done', failure: undefined } as const;
    this.#waiting.push({ client, barrier, ...state });
  }

  next(): TapdiskCommand | undefined {
    for (let entry = this.#due(); entry; entry = this.#due()) {
      const [call] = entry.calls as [FileCall];
      if (call.op === 'transfer' || this.#syncs) {
        const { client } = entry;
        return { what: commandOfCall(client.request, call), clients: [client], entry };
      }
      this.#ended(entry, undefined);
    }
    return undefined;
  }

  complete({ entry }: TapdiskCommand, error: unknown): void {
    this.#ended(entry, error);
  }

  takeSettled(): Settled<Call> | undefined {
    return this.#settled.shift();
  }

  /** The next request with a call to make; undefined while one must complete first. */
  #due(): Entry | undefined {
    if (this.#barrierIsDue) {
      this.#barrierIsDue = false;
      return this.#barrier;
    }
    const [head] = this.#waiting;
    if (!head || this.#barrier || this.#running >= this.#depth) return undefined; // B1
    if (head.barrier && this.#running > 0) return undefined; // B2
    this.#waiting.shift(); // B3
    this.#running += 1;
    if (!head.barrier) return head;
    this.#barrier = head;
    const blamed = this.#failures > head.failuresKnown;
    if (blamed && !this.#profile.acceptsEarlierFailures) {
      // It keeps its place in the order, and its data is not written.
      head.calls = [PREFLUSH];
      head.outcome = 'aborted';
    }
    return head;
  }

  #ended(entry: Entry, error: unknown): void {
    invariant(this.#running > 0, 'tapdisk.B2: a call ends for a request that runs');
    entry.failure ??= error;
    const sync = entry.calls[0]?.op === 'fdatasync';
    const failed = error !== undefined && !(sync && this.#profile.ignoresSyncErrors);
    entry.calls = failed ? [] : entry.calls.slice(1);
    if (failed && entry.outcome === 'done')
      entry.outcome = sync ? 'sync failed' : 'transfer failed';
    if (entry.calls.length > 0) {
      this.#barrierIsDue = true;
      return;
    }
    this.#running -= 1;
    if (entry.barrier) this.#barrier = undefined;
    const { client, outcome, failure } = entry;
    const { request } = client;
    if (outcome !== 'done' && request.kind === 'write') this.#failures += 1;
    this.#settled.push({ client, error: errorOfCall(request, outcome, failure) });
  }
}

/** A disk of tapdisk over a file. */
export class Tapdisk {
  readonly #storage: Storage;
  readonly #profile: TapdiskProfile;
  readonly #driver: Driver<Call, TapdiskCommand>;

  /** @throws `INVALID_ARGUMENT` for a depth below 1, and for an option that is not known */
  constructor(storage: Storage, options: TapdiskOptions = {}) {
    checkOptions(options, OPTIONS, 'Tapdisk');
    const { profile = TAPDISK_2010, context = 'aio', depth = 32, observer } = options;
    checkOptions(profile, TAPDISK_2010, 'profile');
    this.#storage = storage;
    this.#profile = profile;
    const queue = new TapdiskQueue(profile, context === 'sync' ? 1 : depth, isVolatile(storage));
    this.#driver = new Driver(queue, {
      execute: ({ what, clients: [client] }) => what && perform(storage, what, client?.data),
      answer: answerCall,
      observer,
      name: 'a disk of tapdisk',
      blockSize: storage.capabilities.blockSize,
    });
  }

  /**
   * Queues a read, a write or a barrier write. Rejects at once with `OUT_OF_RANGE`, `UNALIGNED`, `ZERO_LENGTH`,
   * `INVALID_ARGUMENT`, or `EOPNOTSUPP` for everything else; later with `IO_FAILED`, `SHORT_TRANSFER`,
   * `FLUSH_FAILED`, `BARRIER_ABORTED`.
   *
   * @param data what to write; or where to read into. @defaultValue a new buffer for a read
   */
  async submit(request: Request, data?: Uint8Array): Promise<Uint8Array | void> {
    const buffer = checkRequest(this.#storage, request, data, (asked) => this.#supports(asked));
    return submitTo(this.#driver, { request, data: buffer });
  }

  /** Settles when every request has been answered. */
  idle(): Promise<void> {
    return this.#driver.idle();
  }

  #supports(request: Request): boolean {
    const refused = this.#profile.refusesBarriers || !canSync(this.#storage);
    return isFileRequest(request) && !(isBarrier(request) && refused);
  }
}
