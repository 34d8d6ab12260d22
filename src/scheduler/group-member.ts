// A member of a group: the face of the shared storage that one guest, database or connection sees, and itself a storage.
//
//   P1  A member keeps the clauses of the contract (storage.S1 to S13). Its commands are refused at once, with nothing queued,
//       for a range or a flag that the storage does not have, after its end, and if there is no room.
//   P2  A storage that answers synchronously still does, if the command has its turn at once.
//   P3  The end of a member is its own: what it has in the queue is never issued, and what is at the storage ends there. The
//       storage is closed by the group.
//   P4  A member at rest has no closure and no promise, because there may be thousands.
//
// Not here: when a command has its turn (sharing.ts), and the storage (scheduler-group.ts).

import type { Call } from '../machine/index.js';
import {
  checkArgument,
  type Operation,
  resizeOf,
  type Tag,
  unsupported,
  WriteBarrierError,
  wholeNumber,
} from '../model/index.js';
import { type Payload, totalLength } from '../storage/buffers.js';
import { checkRange, checkSize } from '../storage/checks.js';
import type {
  Capabilities,
  Extent,
  FlushFlags,
  Storage,
  Transfer,
  WriteFlags,
} from '../storage/index.js';
import { Entry, type Member } from './group-entry.js';

/** What a member needs of its group. */
export interface GroupCore {
  /** That of the storage: every member sees the new one when the resize of any has been answered. */
  readonly size: number;
  readonly capabilities: Capabilities;
  /** Submits a command, with a size if it is a resize: answers as a storage does, or throws. */
  submit(
    member: Member<GroupCall>,
    op: Operation,
    offset: number,
    length: number,
    data: Payload | undefined,
    fua: boolean,
    tag: Tag,
    size?: number,
  ): void | Promise<void>;
  /** Ends a member; settles when none of its commands is under way. */
  end(member: Member<GroupCall>): void | Promise<void>;
  /** What the storage knows of the bytes, at once: it has no turn, because it moves no bytes (storage.S12). */
  status(offset: number, length: number): Promise<readonly Extent[]>;
  /** Settles when the member has room for so many bytes. */
  room(member: Member<GroupCall>, bytes: number): Promise<void>;
}

/** A command of a member with its caller, who gets a promise only if the answer does not come at once. */
export class GroupCall extends Entry<GroupCall> implements Call {
  number = 0;
  data: Payload | undefined;
  #state: 'waiting' | 'done' | 'failed' = 'waiting';
  #resolve: (() => void) | undefined;
  #reject: ((error: unknown) => void) | undefined;

  resolve(): void {
    this.#state = 'done';
    this.#resolve?.();
  }

  reject(error: unknown): void {
    this.#state = 'failed';
    this.error = error;
    this.#reject?.(error);
  }

  /** The answer for the caller (P2). */
  answer(): void | Promise<void> {
    if (this.#state === 'done') return undefined;
    if (this.#state === 'failed') throw this.error;
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }
}

/**
 * A member of a group: its face of the shared storage, and itself a storage. Ordered tags are kept by the group, which waits
 * for commands of this member; the shared storage gets simple tags only, because an ordered one would hold up every member there.
 *
 * Every method refuses at once, with nothing queued: `OUT_OF_RANGE`, `UNALIGNED`; `EOPNOTSUPP` for a flush or a flag that the
 * storage does not have; `CLOSED`; `QUEUE_FULL` if there is no room; `STORAGE_IN_USE` while a scheduler outside of the group has
 * unanswered requests at the storage.
 */
export class GroupMember implements Storage {
  readonly capabilities: Capabilities;
  declare readonly writev?: (
    offset: number,
    data: readonly Uint8Array[],
    flags: WriteFlags,
  ) => Transfer;
  declare readonly discard?: (offset: number, length: number) => void | Promise<void>;
  declare readonly writeZeroes?: (offset: number, length: number) => void | Promise<void>;
  declare readonly blockStatus?: NonNullable<Storage['blockStatus']>;
  declare readonly resize?: (size: number) => void | Promise<void>;
  readonly #core: GroupCore;
  readonly #member: Member<GroupCall>;
  #isClosed = false;

  /** Call `member()` of a group instead. */
  constructor(core: GroupCore, member: Member<GroupCall>) {
    const { capabilities } = core;
    this.capabilities = capabilities;
    this.#core = core;
    this.#member = member;
    // The methods themselves and not closures (P4).
    if (capabilities.writev) this.writev = this.#writev;
    if (capabilities.discard) this.discard = this.#discard;
    if (capabilities.writeZeroes) this.writeZeroes = this.#writeZeroes;
    if (capabilities.blockStatus) this.blockStatus = this.#blockStatus;
    if (capabilities.resize) this.resize = this.#resize;
  }

  /** That of the shared storage, in bytes. Any member may change it. */
  get size(): number {
    return this.#core.size;
  }

  read(offset: number, into: Uint8Array): Transfer {
    return this.#submit('read', offset, into.byteLength, into);
  }

  write(offset: number, data: Uint8Array, flags: WriteFlags): Transfer {
    return this.#write(offset, data.byteLength, data, flags);
  }

  /** Covers every write of every member that has been answered, because the storage that they share has one cache. */
  flush({ tag }: FlushFlags): void | Promise<void> {
    if (!this.capabilities.flush) throw unsupported('a flush');
    return this.#submit('flush', 0, 0, undefined, false, tag);
  }

  /** Ends the member. Commands in its queue fail with `CLOSED`. The shared storage stays open. */
  close(): void | Promise<void> {
    this.#isClosed = true;
    return this.#core.end(this.#member);
  }

  /**
   * Settles when there is room for so many bytes more. Wait for it before each command if the group has `maxQueuedBytes`; another
   * member may have taken the room since, so be ready for `QUEUE_FULL` nevertheless.
   *
   * @throws `INVALID_ARGUMENT` for a number of bytes that is none; `CLOSE_TIMEOUT` if the group gives up
   */
  async ready(bytes = 0): Promise<void> {
    checkArgument('bytes', bytes, BYTES);
    await this.#core.room(this.#member, bytes);
  }

  #writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Transfer {
    return this.#write(offset, totalLength(data), data, flags);
  }

  #discard(offset: number, length: number): void | Promise<void> {
    return this.#submit('discard', offset, length);
  }

  #writeZeroes(offset: number, length: number): void | Promise<void> {
    return this.#submit('writeZeroes', offset, length);
  }

  #blockStatus(offset: number, length: number): readonly Extent[] | Promise<readonly Extent[]> {
    checkRange(this, offset, length);
    this.#checkOpen();
    return this.#core.status(offset, length);
  }

  /** It fails if another member changes the size first. */
  #resize(size: number): void | Promise<void> {
    checkSize(this, size);
    this.#checkOpen();
    if (size === this.size) return;
    const { kind, offset, length } = resizeOf(this.size, size);
    return this.#core.submit(this.#member, kind, offset, length, undefined, false, 'simple', size);
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new WriteBarrierError('CLOSED', 'the member is closed');
  }

  #write(offset: number, length: number, data: Payload, { fua, tag }: WriteFlags): Transfer {
    if (fua && !this.capabilities.fua) throw unsupported('a forced write');
    return this.#submit('write', offset, length, data, fua, tag);
  }

  #submit(
    op: Operation,
    offset: number,
    length: number,
    data?: Payload,
    fua = false,
    tag: Tag = 'simple',
  ): void | Promise<void> {
    checkRange(this, offset, length);
    this.#checkOpen();
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw unsupported('an ordered tag');
    return this.#core.submit(this.#member, op, offset, length, data, fua, tag);
  }
}

const BYTES = /* @__PURE__ */ wholeNumber(0);
