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
//   B2  The storage is closed when every command of every member has been answered, and after a last flush.

import { Driver } from '../machine/index.js';
import {
  checkOptions,
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
import { performWhole, statusOf } from '../storage/perform.js';
import { type Entry, type GroupCommand, Member } from './group-entry.js';
import { type GroupCall, type GroupCore, GroupMember } from './group-member.js';
import { claim, type Ownership, ownershipOf } from './ownership.js';
import { payloadOf } from './queue.js';
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
  readonly #driver: Driver<GroupCall, GroupCommand<GroupCall>, Entry<GroupCall>>;
  readonly #ownership: Ownership;
  /** Block statuses without an answer, which the end of the storage waits for. */
  readonly #statuses = new Set<Promise<readonly Extent[]>>();
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
      submit: (call) => this.#submit(call),
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
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** The same as `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    claim(this.#ownership, this.#isBusy);
    const { cache, flush } = this.#storage.capabilities;
    const needsFlush = cache === 'volatile' && flush;
    // Begins before the group counts as closed, because `close` sets that when this returns its promise.
    const last = needsFlush ? flushOf(this.#newMember()) : undefined;
    const ends = await Promise.allSettled([last, this.#driver.idle()]);
    await Promise.allSettled(this.#statuses);
    claim(this.#ownership, this.#isBusy);
    await this.#storage.close();
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  }

  #newMember(weight?: number, name?: string): GroupMember {
    const member = new Member<GroupCall>(weight, name);
    this.#sharing.members.add(member);
    return new GroupMember(this.#core, member);
  }

  #submit(call: GroupCall): void {
    this.#checkOpen();
    claim(this.#ownership, this.#isBusy);
    if (!this.#sharing.fits(call.member, payloadOf(call.request))) {
      throw new WriteBarrierError('QUEUE_FULL', 'the member has its share; wait for its ready()');
    }
    this.#driver.submit(call);
  }

  #status(offset: number, length: number): Promise<readonly Extent[]> {
    this.#checkOpen();
    const answer = Promise.resolve(statusOf(this.#storage, offset, length));
    this.#statuses.add(answer);
    return answer.finally(() => this.#statuses.delete(answer));
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

  readonly #isBusy = (): boolean => !this.#driver.isIdle;
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

/** What a command moves: of a read in pieces, the piece. */
function dataOf(
  { client, start }: Entry<GroupCall>,
  { op, offset, length }: StagedCommand,
): Payload | undefined {
  const { data } = client;
  if (op !== 'read' || !isBytes(data) || data.byteLength === length) return data;
  return data.subarray(offset - start, offset - start + length);
}
