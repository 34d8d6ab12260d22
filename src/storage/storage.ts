// The contract between a scheduler and anything with numbered bytes, and how a storage looks on a console: one line that says
// what it is and what it can do.
//
// A storage has four methods, and optional ones exactly where its capabilities declare them, because a scheduler must know before
// it asks. The clauses S1 to S13 stand at the interface. The suite of the crash kit (storageContract) tests each of them under its
// number, and pages, tests and other files cite them so: storage.S5.

import type { DeviceTraits, Tag } from '../model/index.js';
import { ownText } from '../model/show.js';

/** What a storage can do. A scheduler never asks for what is false here: it emulates or refuses it. */
export interface Capabilities extends DeviceTraits {
  /** In bytes, at least 1: every offset and length is a multiple of it, and so is the size. */
  readonly blockSize: number;
  /** `writev` exists: one write from several buffers. */
  readonly writev?: boolean;
  /**
   * A command costs much beside its bytes, as on a file: plain writes that follow each other are gathered into one `writev`. For
   * that a scheduler issues what is submitted in one turn of the event loop together, in a microtask. Without `writev` their data is copied
   * into one buffer.
   *
   * @defaultValue false
   */
  readonly gathers?: boolean;
  /** `discard` exists. */
  readonly discard?: boolean;
  /** `writeZeroes` exists. */
  readonly writeZeroes?: boolean;
  /** `writeZeroes` moves no data, so it is much faster than writing zeroes. Only with `writeZeroes`. */
  readonly fastZeroes?: boolean;
  /** `blockStatus` exists. */
  readonly blockStatus?: boolean;
  /** `resize` exists. */
  readonly resize?: boolean;
}

/** How a write is to be carried out. */
export interface WriteFlags {
  /** Answer when the data is on the medium. Only set if `capabilities.fua` is true. */
  readonly fua: boolean;
  /** `ordered`: after all earlier commands, before all later ones. Only if `capabilities.orderedTags` is true. */
  readonly tag: Tag;
}

/** How a flush is to be carried out. */
export interface FlushFlags {
  /** As for writes. */
  readonly tag: Tag;
}

/** A run of bytes, and what a storage knows of it. Both false: nothing is known, so it may be data. */
export interface Extent {
  /** In bytes, whole blocks, at least one. */
  readonly length: number;
  /** It takes no space on the medium. What it reads as is not said by that. */
  readonly hole: boolean;
  /** It reads as zero. */
  readonly zero: boolean;
}

/** Nothing, or the number of bytes moved, at once or later. */
export type Transfer = void | number | Promise<void | number>;

/**
 * The device of a scheduler: anything with numbered bytes. To implement one, let each method return nothing, return a
 * promise, or throw.
 *
 * - S1  A read answers when `into` is full of what the latest completed writes put there.
 * - S2  A write answers when the storage has taken all of `data`. The bytes are never changed, and not read afterwards.
 * - S3  A read or a write answers with nothing, or with the number of bytes moved. Any number but the full length is a
 *       failure.
 * - S4  Several commands may run at once, and may complete in any order. Commands that overlap never run at once, except
 *       with ordered tags.
 * - S5  A flush answers when every write that was answered before the flush was called is on the medium. If `cache` is not
 *       `volatile`, such a write is on the medium when it is answered.
 * - S6  A write with `fua` answers when its data is on the medium.
 * - S7  A command with an ordered tag takes effect after everything called before it and before
 *       everything called after it.
 * - S8  A discarded range may read as anything until it is written again; a zeroed range reads as zero. Both commands
 *       count as writes in S2 and S5.
 * - S9  A command outside of the storage, or not of whole blocks, fails. A command that fails may have changed
 *       any of the bytes that it named, and no others.
 * - S10 `close` is called once, after all other commands have completed. Only `close` releases resources. After it every
 *       command fails.
 * - S11 `capabilities` never change, and `size` changes only by `resize`.
 * - S12 A block status answers with extents that follow each other from `offset` on: at least one, and together not longer than
 *       the range, of which they may leave a rest. It may run while anything else does. What it says held at one moment
 *       between its call and its answer, so a write that was answered before the call is never called a hole or zero.
 * - S13 A resize answers when the storage has the new size; `size` is the new one then, and either until then. What it adds reads as
 *       zero. What it cuts off is gone: if it is added again, it reads as zero. A resize counts as a write, in S2 and S5, to the
 *       range between the old and the new size, so until a flush covers it a power cut may leave either size. A flush that
 *       covers a write also covers the size that the write needs, and so does FUA. A resize that fails leaves the size as it was,
 *       or as it was to become, and `size` says which. No command for bytes from the smaller of the two sizes on runs at the
 *       same time as the resize, with ordered tags as well; a block status may.
 */
export interface Storage {
  /** In bytes, from 0 on. */
  readonly size: number;
  /** What it can do. A scheduler relies on it. */
  readonly capabilities: Capabilities;
  /** Fills `into` with the bytes from `offset` on. */
  read(offset: number, into: Uint8Array): Transfer;
  /** Writes all of `data` at `offset` (S2, S3; with `fua` S6). */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Transfer;
  /** Puts on the medium every write that was answered (S5). Never called if `capabilities.flush` is false. */
  flush(flags: FlushFlags): void | Promise<void>;
  /** Releases resources (S10). It need not flush, because a scheduler flushes before it. */
  close(): void | Promise<void>;
  /** Writes several buffers that follow each other. Present if and only if `capabilities.writev` is true. */
  writev?(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Transfer;
  /** Discards the bytes (S8). Present if and only if `capabilities.discard` is true. */
  discard?(offset: number, length: number): void | Promise<void>;
  /** Makes the bytes read as zero (S8). Present if and only if `capabilities.writeZeroes` is true. */
  writeZeroes?(offset: number, length: number): void | Promise<void>;
  /** What is known of the bytes, without reading them (S12). Present if and only if `capabilities.blockStatus` is true. */
  blockStatus?(offset: number, length: number): readonly Extent[] | Promise<readonly Extent[]>;
  /** Changes the size, in bytes, whole blocks (S13). Present if and only if `capabilities.resize` is true. */
  resize?(size: number): void | Promise<void>;
}

/** The size and the capabilities of a storage in words: `1048576 bytes in blocks of 512, cache volatile, flush, fua`. */
export function describeStorage({
  size,
  capabilities,
}: Pick<Storage, 'size' | 'capabilities'>): string {
  const { blockSize, cache } = capabilities;
  const names = [
    'flush',
    'fua',
    'orderedTags',
    'writev',
    'discard',
    'writeZeroes',
    'fastZeroes',
    'blockStatus',
    'resize',
  ];
  const can = names.filter((name) => capabilities[name as 'flush']);
  const parts = [`${size} bytes in blocks of ${blockSize}`, `cache ${cache}`, ...can];
  return parts.join(', ');
}

/** The line for a storage: its own (`withText`), or its class, size and capabilities. */
export function textOf(storage: Pick<Storage, 'size' | 'capabilities'>): string {
  const name = storage.constructor?.name ?? 'Storage';
  return ownText(storage) ?? `${name} { ${describeStorage(storage)} }`;
}
