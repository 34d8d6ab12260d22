import type { DeviceTraits, Tag } from '../model/index.js';

/** What a storage can do. What is false here, the scheduler emulates or refuses, and never asks for. */
export interface Capabilities extends DeviceTraits {
  /** In bytes, at least 1: every offset and length is a multiple of it, and so is the size. */
  readonly blockSize: number;
  /** `writev` exists: one write from several buffers. */
  readonly writev?: boolean;
  /** `discard` exists. */
  readonly discard?: boolean;
  /** `writeZeroes` exists. */
  readonly writeZeroes?: boolean;
}

/** How a write is to be carried out. */
export interface WriteFlags {
  /** Only set where `capabilities.fua`: answer when the data is on the medium. */
  readonly fua: boolean;
  /** `ordered` only where `capabilities.orderedTags`: after all older commands, before all younger. */
  readonly tag: Tag;
}

/** How a flush is to be carried out. */
export interface FlushFlags {
  /** As for writes. */
  readonly tag: Tag;
}

/** Nothing, or the number of bytes moved, at once or later. */
export type Transfer = void | number | Promise<void | number>;

/**
 * The device that a scheduler drives: anything with numbered bytes. To implement one, answer each method
 * with nothing, with a promise, or by throwing.
 *
 * - S1  A read answers with what the latest completed writes put there, once `into` is full.
 * - S2  A write answers when the storage has taken all of `data`. The bytes are not read afterwards.
 * - S3  What a transfer answers is nothing, or the number of bytes moved. Any other number than the full
 *       length is a failure.
 * - S4  Several commands may run at once, and may end in any order. Overlapping ones never come together
 *       with simple tags.
 * - S5  A flush answers when every write answered before the flush was called is on the medium. Where
 *       `cache` is not `volatile`, the answer of the write already means that.
 * - S6  A write with `fua` answers when its data is on the medium.
 * - S7  A command with an ordered tag takes effect after everything called before it and before
 *       everything called after it.
 * - S8  A discarded range reads as anything until it is written again; a zeroed one reads as zero. Both
 *       count as writes in S2 and S5.
 * - S9  A command outside of the storage, or not of whole blocks, fails. A command that fails may have changed
 *       any of the bytes that it named, and no others.
 * - S10 `close` comes last and once. Nothing but `close` releases what the storage holds. After it every command
 *       fails.
 * - S11 `size` and `capabilities` never change.
 */
export interface Storage {
  /** In bytes. */
  readonly size: number;
  /** What it can do. Whatever it states here a scheduler relies on. */
  readonly capabilities: Capabilities;
  /** Fills `into` with the bytes from `offset` on. */
  read(offset: number, into: Uint8Array): Transfer;
  /** Puts all of `data` at `offset` (S2, S3; with `fua` S6). */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Transfer;
  /** Puts what was written and answered on the medium (S5). Never called where `flush` is not declared. */
  flush(flags: FlushFlags): void | Promise<void>;
  /** Releases the storage (S10). It need not flush: a scheduler has done so before. */
  close(): void | Promise<void>;
  /** Exactly where `capabilities.writev`. */
  writev?(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Transfer;
  /** Exactly where `capabilities.discard`. */
  discard?(offset: number, length: number): void | Promise<void>;
  /** Exactly where `capabilities.writeZeroes`. */
  writeZeroes?(offset: number, length: number): void | Promise<void>;
}
