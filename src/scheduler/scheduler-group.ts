// A group: many guests, databases or connections on one storage. In three layers, as a scheduler:
//
//   GroupMember   what each of them sees: a storage (group-member.ts)
//   Driver        promises and the storage: events in, commands out
//   Sharing       whose command may be issued now: no promise, no clock, no storage (sharing.ts)
//
// The group checks its options, keeps the members, and closes the storage. A barrier is the business of the schedulers on the
// members: the group does not know what a mode is.
//
//   B1  One group or scheduler at a time has unanswered requests at a storage (ownership.ts).
//   B2  The storage is closed when every command of every member has been answered, and after a last flush; not at all if one has
//       not been within the limit given to `close()`.

import { Driver } from '../machine/index.js';
import {
  checkOptions,
  type DeviceCommand,
  FUNCTION,
  isBytes,
  type KnownOptions,
  type Observer,
  type Operation,
  rule,
  type StagedCommand,
  WriteBarrierError,
  wholeNumber,
} from '../model/index.js';
import { withText } from '../model/show.js';
import type { Payload } from '../storage/buffers.js';
import { checkStorage } from '../storage/checks.js';
import type { Extent, Storage } from '../storage/index.js';
import { performWhole, statusOf, transferred } from '../storage/perform.js';
import { isPending } from '../storage/wrappers.js';
import { type Hanging, never, within } from './closing.js';
import { CloseTimeoutError } from './errors.js';
import { type GroupCommand, Member } from './group-entry.js';
import { GroupCall, type GroupCore, GroupMember } from './group-member.js';
import { CLOSE_OPTIONS } from './options.js';
import { claim, type Ownership, ownershipOf } from './ownership.js';
import { Sharing } from './sharing.js';

/** Options of a group. */
export interface SchedulerGroupOptions {
  /**
   * Maximum commands in flight at the storage, of all members together, 1 to 1024. A command of a light member waits for one of
   * them at most, so fewer are fairer; but a disk works on several at once.
   *
   * @defaultValue 32
   */
  readonly depth?: number;
  /**
   * Maximum bytes of the commands in flight. A larger command is issued when no other one moves bytes.
   *
   * @defaultValue 4,194,304 (4 MiB)
   */
  readonly depthBytes?: number;
  /**
   * Maximum commands in the queues of all members together. What is free is shared: a member may have as many as are free,
   * multiplied by its weight. Further ones are refused with `QUEUE_FULL`. A member may always have 1,024, because a scheduler
   * has no more at its storage, and takes a refusal for a failure.
   *
   * @defaultValue 65,536
   */
  readonly maxQueued?: number;
  /**
   * Maximum bytes in the buffers of the reads and writes in the queues, shared as `maxQueued` is. Set it for members that wait for
   * `ready()`. Without it the bytes are bounded by what the members' own schedulers have in flight.
   *
   * @defaultValue no limit
   */
  readonly maxQueuedBytes?: number;
  /** Called synchronously for every event, as the observer of a scheduler. Its requests are the commands of members. */
  readonly observer?: Observer;
}

/** What a group is doing, and has done: who holds what. */
export interface SchedulerGroupStats {
  /** Commands issued to the storage. */
  readonly commands: Readonly<Record<Operation, number>>;
  /** Flushes of members that shared the flush of another one. */
  readonly flushesShared: number;
  /** Flushes of members that needed none of the storage, because one had covered all that was written. */
  readonly flushesCovered: number;
  /** Commands in the queues, flushes included. */
  readonly queued: number;
  /** Bytes in the buffers of the reads and writes in the queues. */
  readonly queuedBytes: number;
  /** Commands in flight at the storage. */
  readonly inFlight: number;
  /** The bytes that they move. */
  readonly bytesInFlight: number;
  /** How often the observer has thrown. */
  readonly observerErrors: number;
  /** The members that are open, in the order in which they came. */
  readonly members: readonly {
    /** As it was named. */
    readonly name: string;
    /** Its share. */
    readonly weight: number;
    /** Its commands in the queue, flushes included. */
    readonly queued: number;
    /** Bytes in the buffers of its reads and writes there. */
    readonly queuedBytes: number;
    /** Its commands at the storage, or on their way to it. */
    readonly inFlight: number;
    /** Commands that were issued for it. */
    readonly commands: number;
    /** Bytes that they moved. */
    readonly bytes: number;
  }[];
}

/**
 * Many members on one storage, each with its fair share. A member is a storage: put a scheduler on it, of any mode, or another
 * group. A barrier then waits for the commands of its own member, and for no other's.
 *
 * - Members take turns by the bytes that they move, weighted; each command counts 16 KiB more. A light member is next as soon
 *   as it asks, whatever the others send.
 * - Flushes of several members share one of the storage. None is issued where nothing was written since the last good one.
 * - A failed flush is everybody's: every member that may have bytes in doubt learns of it by its next flush.
 */
export class SchedulerGroup implements AsyncDisposable {
  readonly #storage: Storage;
  readonly #core: GroupCore;
  readonly #sharing: Sharing<GroupCall>;
  readonly #driver: Driver<GroupCall, GroupCommand<GroupCall>, void>;
  readonly #ownership: Ownership;
  /** Block statuses without an answer, which the end of the storage waits for. */
  readonly #statuses = new Set<Status>();
  /** Commands at the storage that went past the queue. */
  #past = 0;
  readonly #isObserved: boolean;
  #closing: Promise<void> | undefined;

  /**
   * @throws `INVALID_STORAGE` for a storage that contradicts itself
   * @throws `INVALID_ARGUMENT` for an unknown option or one out of range
   */
  constructor(storage: Storage, options: SchedulerGroupOptions = {}) {
    checkStorage(storage);
    checkOptions(options, GROUP_OPTIONS, 'SchedulerGroup');
    const { capabilities } = storage;
    this.#storage = storage;
    this.#isObserved = options.observer !== undefined;
    this.#sharing = new Sharing({
      depth: options.depth ?? 32,
      depthBytes: options.depthBytes ?? 4 * 1024 * 1024,
      maxQueued: options.maxQueued ?? 65_536,
      maxQueuedBytes: options.maxQueuedBytes ?? Number.POSITIVE_INFINITY,
      isVolatile: capabilities.cache === 'volatile',
      fastZeroes: capabilities.fastZeroes ?? false,
      blockSize: capabilities.blockSize,
    });
    this.#driver = new Driver(this.#sharing, {
      execute: ({ what, entry }, issuer) =>
        performWhole(storage, what, entry && dataOf(entry, what), issuer),
      answer: ({ client, error }) =>
        error === undefined ? client.resolve() : client.reject(error),
      observer: options.observer,
      name: 'a group',
      blockSize: capabilities.blockSize,
    });
    this.#ownership = ownershipOf(storage);
    this.#core = {
      get size() {
        return storage.size;
      },
      capabilities,
      submit: (member, op, offset, length, data, fua, tag, size) => {
        this.#checkOpen();
        claim(this.#ownership, this.#isBusy);
        // A trace has every command, and the driver reports it. A resize is rare, and overlaps what the range does not say.
        const mayPass = !this.#isObserved && size === undefined;
        if (mayPass && this.#sharing.pass(member, op, offset, offset + length, tag)) {
          return this.#pass(member, { op, offset, length, fua, tag: 'simple' }, data);
        }
        return this.#submit(new GroupCall(member, op, offset, length, fua, tag, size), data);
      },
      status: (offset, length) => this.#status(offset, length),
      end: (member) => this.#end(member),
      room: (member, bytes) => this.#driver.until(() => this.#sharing.fits(member, bytes)),
    };
    const { members } = this.#sharing;
    withText(this, () => `SchedulerGroup { ${members.size} members on ${storage.size} bytes }`);
  }

  /**
   * A new member: a storage with the size and the capabilities of the shared one. Close it when it is not needed any more, because
   * the group keeps it until then.
   *
   * @throws `INVALID_ARGUMENT` for an unknown option or one out of range, `CLOSED` after `close()`
   */
  member(
    options: {
      /**
       * Its share of the disk, relative to those of others: 0.001 to 1,000.
       *
       * @defaultValue 1
       */
      readonly weight?: number | undefined;
      /**
       * For `stats()`.
       *
       * @defaultValue empty
       */
      readonly name?: string | undefined;
    } = {},
  ): GroupMember {
    checkOptions(options, MEMBER_OPTIONS, 'member');
    this.#checkOpen();
    return this.#newMember(options.weight, options.name);
  }

  /** What the group is doing, and has done: who holds what. */
  stats(): SchedulerGroupStats {
    const sharing = this.#sharing;
    return {
      commands: { ...sharing.commands },
      flushesShared: sharing.flushesShared,
      flushesCovered: sharing.flushesCovered,
      queued: sharing.queued,
      queuedBytes: sharing.queuedBytes,
      inFlight: sharing.inFlight,
      bytesInFlight: sharing.bytesInFlight,
      observerErrors: this.#driver.observerErrors,
      members: Array.from(sharing.members, (member) => ({
        name: member.name,
        weight: member.weight,
        queued: member.queue.size + member.flushes,
        queuedBytes: member.queuedBytes,
        inFlight: member.underWay - member.flushes,
        commands: member.commands,
        bytes: member.bytes,
      })),
    };
  }

  /**
   * Accepts no more members and commands, completes the queued ones, flushes, and closes the storage. A second call waits for
   * the same.
   *
   * @throws what the last flush, or the storage's `close`, throws; the storage is closed nevertheless
   * @throws `STORAGE_IN_USE` while another scheduler has unanswered requests at the storage, which is left open
   * @throws `CLOSE_TIMEOUT` with the commands that the storage has not answered within `timeoutMs`. All commands of all members
   * reject with the same error, and the storage stays open, because closing it under a running command is worse
   */
  async close(
    options: {
      /**
       * How long to wait for the storage, in milliseconds.
       *
       * @defaultValue no limit
       */
      readonly timeoutMs?: number | undefined;
    } = {},
  ): Promise<void> {
    checkOptions(options, CLOSE_OPTIONS, 'close');
    const { timeoutMs } = options;
    this.#closing ??= this.#close();
    return within(timeoutMs, this.#closing, (limit) => this.#abandon(limit));
  }

  /** The same as `close()` without a limit of time, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    claim(this.#ownership, this.#isBusy);
    const { cache, flush } = this.#storage.capabilities;
    const needsFlush = cache === 'volatile' && flush;
    // Begins before the group counts as closed, because `close` sets that when this returns its promise.
    const last = needsFlush ? flushOf(this.#newMember()) : undefined;
    const ends = await Promise.allSettled([last, this.#driver.until(this.#isIdle)]);
    const closed = await Promise.allSettled([this.#closeStorage()]);
    for (const end of [...ends, ...closed]) if (end.status === 'rejected') throw end.reason;
  }

  async #closeStorage(): Promise<void> {
    if (this.#driver.abandoned) return;
    claim(this.#ownership, this.#isBusy);
    // `until` rejects when the storage is given up.
    await Promise.race([this.#storage.close(), this.#driver.until(never)]);
  }

  /** Gives up on what the storage has not answered, and rejects all commands. */
  #abandon(timeoutMs: number): unknown {
    if (this.#driver.abandoned) return this.#driver.abandoned;
    const statuses = Array.from(this.#statuses, ({ op, offset, length }) => ({
      op,
      offset,
      length,
    }));
    const error = new CloseTimeoutError(timeoutMs, [...this.#sharing.hanging, ...statuses]);
    for (const { reject } of this.#statuses) reject(error);
    this.#driver.abandon(error);
    return error;
  }

  #newMember(weight?: number, name?: string): GroupMember {
    const member = new Member<GroupCall>(weight, name);
    this.#sharing.members.add(member);
    return new GroupMember(this.#core, member);
  }

  #submit(call: GroupCall, data: Payload | undefined): void | Promise<void> {
    call.data = data;
    if (!this.#sharing.fits(call.member, call.payload)) {
      throw new WriteBarrierError('QUEUE_FULL', 'the member has its share; wait for its ready()');
    }
    this.#driver.submit(call);
    return call.answer();
  }

  /** Carries out a command that goes past the queue. */
  #pass(
    member: Member<GroupCall>,
    what: Omit<DeviceCommand, 'kind'>,
    data: Payload | undefined,
  ): void | Promise<void> {
    const { op, offset, length, fua } = what;
    let error: unknown;
    try {
      const answer = performWhole(this.#storage, what, data, this.#driver);
      if (isPending(answer))
        return this.#stays(new GroupCall(member, op, offset, length, fua), answer);
      error = transferred(what, answer);
    } catch (thrown) {
      error = reasonOf(thrown);
    }
    this.#sharing.passed(member, op, length, fua, error);
    // The storage may have called a member, whose command waits.
    if (this.#sharing.queued > 0) this.#driver.pump();
    if (error !== undefined) throw error;
  }

  #stays(call: GroupCall, answer: PromiseLike<unknown>): Promise<void> {
    this.#past += 1;
    this.#sharing.stays(call);
    Promise.resolve(answer).then(
      (moved) => this.#ended(call, transferred(call, moved)),
      (reason) => this.#ended(call, reasonOf(reason)),
    );
    if (this.#sharing.queued > 0) this.#driver.pump();
    return call.answer() as Promise<void>;
  }

  #ended(call: GroupCall, error: unknown): void {
    this.#past -= 1;
    if (this.#driver.abandoned) return;
    this.#sharing.ended(call, error);
    if (error === undefined) call.resolve();
    else call.reject(error);
    this.#driver.pump();
  }

  #status(offset: number, length: number): Promise<readonly Extent[]> {
    this.#checkOpen();
    const answer = statusOf(this.#storage, offset, length);
    return new Promise((resolve, reject) => {
      const status = { op: 'read', offset, length, reject } as const;
      this.#statuses.add(status);
      const ended = (): void => {
        this.#statuses.delete(status);
        this.#driver.pump();
      };
      Promise.resolve(answer).then(resolve, reject).then(ended);
    });
  }

  #end(member: Member<GroupCall>): void | Promise<void> {
    this.#sharing.evict(member, new WriteBarrierError('CLOSED', 'the member was closed'));
    this.#sharing.members.delete(member);
    this.#driver.pump();
    if (member.underWay > 0) return this.#driver.until(() => member.underWay === 0);
  }

  #checkOpen(): void {
    if (this.#closing) throw new WriteBarrierError('CLOSED', 'the group is closed');
  }

  readonly #isIdle = (): boolean => !this.#isBusy() && this.#statuses.size === 0;
  /** Something is unanswered; after `#abandon` that is what the storage has. */
  readonly #isBusy = (): boolean => {
    const { abandoned, inFlight, isIdle } = this.#driver;
    return this.#past > 0 || (abandoned ? inFlight > 0 : !isIdle);
  };
}

/** A block status without an answer: `reject` answers its caller. */
interface Status extends Hanging {
  readonly reject: (error: unknown) => void;
}

const GROUP_OPTIONS: KnownOptions<SchedulerGroupOptions> = {
  depth: /* @__PURE__ */ wholeNumber(1, 1024),
  depthBytes: /* @__PURE__ */ wholeNumber(1),
  maxQueued: /* @__PURE__ */ wholeNumber(1),
  maxQueuedBytes: /* @__PURE__ */ wholeNumber(1),
  observer: FUNCTION,
};
const MEMBER_OPTIONS = {
  weight: /* @__PURE__ */ rule(
    (value) => typeof value === 'number' && value >= 0.001 && value <= 1000,
    'a number from 0.001 to 1000',
  ),
  name: /* @__PURE__ */ rule((value) => typeof value === 'string', 'a string'),
};

/** A flush that throws at once rejects as well. */
async function flushOf(member: GroupMember): Promise<void> {
  await member.flush({ tag: 'simple' });
}

function reasonOf(thrown: unknown): unknown {
  return thrown ?? new Error('the storage gave no reason');
}

/** What a command moves: of a read in pieces, the piece. */
function dataOf(
  { data, start }: GroupCall,
  { op, offset, length }: StagedCommand,
): Payload | undefined {
  if (op !== 'read' || !isBytes(data) || data.byteLength === length) return data;
  return data.subarray(offset - start, offset - start + length);
}
