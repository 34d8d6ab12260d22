// The storage that needs nothing but memory: for tests, for examples, and as the plainest
// implementation of the contract (storage.ts) to read first.
//
// It keeps storage.S1 to storage.S9 because it answers synchronously: a command has taken effect when its call returns, so no
// two commands overlap, nothing is volatile, and tags, flushes and FUA hold trivially. It refuses with EOPNOTSUPP what its
// capabilities do not state, so that a caller which ignores the capabilities is found out.
//
// It never loses anything, reorders anything, takes time or fails. Faults and latency are wrappers (faults.ts, latency.ts).

import {
  checkOptions,
  formatValue,
  type KnownOptions,
  type Tag,
  unsupported,
  WriteBarrierError,
} from '../model/index.js';
import { withText } from '../model/show.js';
import { totalLength } from './buffers.js';
import { checkRange, checkSize, checkStorage } from './checks.js';
import {
  type Capabilities,
  describeStorage,
  type Extent,
  type FlushFlags,
  type Storage,
  type WriteFlags,
} from './storage.js';

/** Options of a `MemoryStorage`. */
export interface MemoryStorageOptions {
  /**
   * Replaces single capabilities, as in `{ fua: false }`. Only the statement changes: also with `cache: 'volatile'` no byte
   * is ever lost.
   *
   * @defaultValue a volatile cache with flush and FUA, no ordered tags, blocks of 512 bytes, and every optional method
   */
  readonly capabilities?: Partial<Capabilities>;
}

const DEFAULTS: Required<Capabilities> = /* @__PURE__ */ Object.freeze({
  blockSize: 512,
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: false,
  writev: true,
  discard: true,
  writeZeroes: true,
  fastZeroes: false,
  blockStatus: true,
  resize: true,
  slowFua: false,
  gathers: false,
});

const MEMORY_OPTIONS: KnownOptions<MemoryStorageOptions> = { capabilities: true };

/**
 * A storage in memory that answers synchronously. Commands take effect one after another, in the order of their calls, so
 * ordered tags hold as well.
 */
export class MemoryStorage implements Storage {
  /** What a discarded byte reads as. It is not zero, so that code which relies on zeroes is found out. */
  static readonly DISCARDED: number = 0xdd;

  /** The defaults with the replaced capabilities, frozen. */
  readonly capabilities: Required<Capabilities>;

  declare readonly writev?: (
    offset: number,
    data: readonly Uint8Array[],
    flags: WriteFlags,
  ) => void;
  declare readonly discard?: (offset: number, length: number) => void;
  declare readonly writeZeroes?: (offset: number, length: number) => void;
  declare readonly blockStatus?: (offset: number, length: number) => readonly Extent[];
  declare readonly resize?: (size: number) => void;

  #bytes: Uint8Array;
  #closed = false;

  /**
   * @param medium the size in bytes, whole blocks, which are zero at first; or the bytes themselves, which are used in place and
   *   not copied
   * @throws `INVALID_STORAGE` for a size or a capability that no storage can have
   * @throws `INVALID_ARGUMENT` for an unknown option or capability
   */
  constructor(medium: number | Uint8Array, options: MemoryStorageOptions = {}) {
    checkOptions(options, MEMORY_OPTIONS, 'MemoryStorage');
    const given = options.capabilities ?? {};
    checkOptions(given, DEFAULTS, 'the capabilities of a MemoryStorage');
    const capabilities = Object.freeze({ ...DEFAULTS, ...given });
    this.capabilities = capabilities;
    this.#bytes = mediumOf(medium);

    if (capabilities.writev) {
      this.writev = (offset, data, flags) => this.#writev(offset, data, flags);
    }
    if (capabilities.discard) {
      this.discard = (offset, length) => this.#fill(offset, length, MemoryStorage.DISCARDED);
    }
    if (capabilities.writeZeroes) {
      this.writeZeroes = (offset, length) => this.#fill(offset, length, 0);
    }
    if (capabilities.blockStatus) {
      this.blockStatus = (offset, length) => this.#status(offset, length);
    }
    if (capabilities.resize) this.resize = (size) => this.#resize(size);
    checkStorage(this);
    const end = (): string => (this.#closed ? ', closed' : '');
    withText(this, () => `MemoryStorage { ${describeStorage(this)}${end()} }`);
  }

  /**
   * The medium itself, also after `close`. Read it, but do not write to it. Pass it to a new `MemoryStorage` to open the same
   * medium again. A resize replaces it.
   */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get size(): number {
    return this.#bytes.length;
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED` */
  read(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length);
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `EOPNOTSUPP` for a flag not declared */
  write(offset: number, data: Uint8Array, flags: WriteFlags): void {
    this.#check(offset, data.length);
    this.#checkFlags(flags.tag, flags.fua);
    this.bytes.set(data, offset);
  }

  /** @throws `CLOSED`; `EOPNOTSUPP` without a flush, or without ordered tags */
  flush(flags: FlushFlags): void {
    this.#check(0, 0);
    this.#checkFlags(flags.tag, false);
    if (!this.capabilities.flush) throw unsupported('a flush');
  }

  /** From now on every call throws `CLOSED`; a second `close` does nothing. */
  close(): void {
    this.#closed = true;
  }

  #writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): void {
    this.#check(offset, totalLength(data));
    this.#checkFlags(flags.tag, flags.fua);
    let at = offset;
    for (const piece of data) {
      this.bytes.set(piece, at);
      at += piece.length;
    }
  }

  #fill(offset: number, length: number, value: number): void {
    this.#check(offset, length);
    this.bytes.fill(value, offset, offset + length);
  }

  /** S12. Zeroes count as a hole, because they look like what was never written, and took no memory yet. */
  #status(offset: number, length: number): readonly Extent[] {
    this.#check(offset, length);
    const { blockSize } = this.capabilities;
    const end = offset + Math.min(length, LOOK_MAX * blockSize);
    let at = offset;
    while (at < end && this.bytes[at] === 0) at += 1;
    const zero = at - offset >= blockSize;
    const run = zero ? at - (at % blockSize) - offset : Math.min(length, DATA_RUN * blockSize);
    return [{ length: run, hole: zero, zero }];
  }

  /** S13. What is cut off stays where it is, and is not used again: added bytes are new ones. */
  #resize(size: number): void {
    this.#check(0, 0);
    checkSize(this, size);
    const kept = this.#bytes.subarray(0, size);
    if (size <= this.size) {
      this.#bytes = kept;
      return;
    }
    const bytes = allocate(size, 'NO_SPACE');
    bytes.set(kept);
    this.#bytes = bytes;
  }

  #check(offset: number, length: number): void {
    if (this.#closed) throw new WriteBarrierError('CLOSED', 'the storage is closed');
    checkRange(this, offset, length);
  }

  #checkFlags(tag: Tag, fua: boolean): void {
    if (fua && !this.capabilities.fua) throw unsupported('FUA');
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw unsupported('an ordered tag');
  }
}

/** In blocks: how far a status looks for the end of a hole, and how much it calls data without looking, because looking takes time. */
const [LOOK_MAX, DATA_RUN] = [8192, 128];

function allocate(size: number, code: 'INVALID_STORAGE' | 'NO_SPACE'): Uint8Array {
  try {
    return new Uint8Array(size);
  } catch (cause) {
    throw new WriteBarrierError(code, `cannot allocate ${formatValue(size)} bytes`, { cause });
  }
}

function mediumOf(medium: number | Uint8Array): Uint8Array {
  if (Number.isSafeInteger(medium)) return allocate(medium as number, 'INVALID_STORAGE');
  if (medium instanceof Uint8Array) return medium;
  throw new WriteBarrierError(
    'INVALID_STORAGE',
    `the medium must be a size in bytes or a Uint8Array, not ${formatValue(medium)}`,
  );
}
