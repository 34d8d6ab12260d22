// A storage of blocks as a storage of bytes: any offset, any length.
//
// A write whose ends are within blocks reads those blocks, changes them in memory, and writes them with the rest as one command.
//
//   V1  Commands that share a block take effect one after the other, in the order of their calls, if one of them writes: two
//       read-modify-writes at once would each put back the old bytes of the other. Commands wait only for earlier ones, so
//       none waits for itself.
//   V2  A command that shares no block with one that is running is called at once, and answered as the storage answers.
//   V3  Only whole blocks inside a range are discarded or zeroed by the storage, because the rest of an outer block is other
//       data. The bytes in the outer blocks are written as zeroes, or, of a discard, left as they are.
//
//   V4  The size is that of the storage, and a resize is one of the storage: whole blocks of it, because a size within a block would be
//       known to the view only, and gone when the storage is opened again.
//
// What is atomic: what the storage writes as a whole, and no more. A write that ends within a block rewrites bytes that it does
// not name, with the content that they have. So a power cut may damage them where the medium tears blocks, and a write of
// bytes that lie in two blocks may be there by half.
//
// Not here: ordered tags, because the read before a write would have to be ordered with it; a scheduler above orders by draining.

import {
  checkArgument,
  type DeviceCommand,
  isBytes,
  rule,
  WriteBarrierError,
} from '../model/index.js';
import { type Payload, totalLength } from './buffers.js';
import { checkRange, checkSize, checkStorage } from './checks.js';
import { perform, statusOf, transferred } from './perform.js';
import type { Extent, FlushFlags, Storage, Transfer, WriteFlags } from './storage.js';
import { isPending, nothing } from './wrappers.js';

/**
 * A storage whose blocks are single bytes, over a storage with larger blocks: a write of any bytes becomes a read of the blocks
 * at its ends and one write of whole blocks. Closing it closes the storage. For a scheduler, pass `scheduler.asStorage()`.
 *
 * Commands in one block take effect in the order of their calls; they may be called at once. A write is as atomic as the
 * storage's write of whole blocks. Where a power cut may tear a block, it may damage bytes of the block that were not named.
 *
 * A resize to a size that is not whole blocks of the storage is refused with `UNALIGNED`, because the storage could not keep it.
 *
 * @throws `INVALID_STORAGE` for what is no storage; its methods `INVALID_ARGUMENT` for data that is no Uint8Array
 */
export function byteView(storage: Storage): Storage {
  checkStorage(storage);
  const { blockSize, orderedTags, ...rest } = storage.capabilities;
  const held = new HeldBlocks(blockSize);
  let closed = false;
  const checkOpen = (): void => {
    if (closed) throw new WriteBarrierError('CLOSED', 'the byte view is closed');
  };
  const within = (
    offset: number,
    length: number,
    writes: boolean,
    run: () => Transfer,
  ): Transfer => {
    checkOpen();
    checkRange(view, offset, length);
    if (length > 0) return held.hold(offset, offset + length, writes, run);
  };
  const writev = (offset: number, data: readonly Uint8Array[], flags: WriteFlags): Transfer => {
    for (const bytes of data) checkArgument('data', bytes, BYTES);
    const length = totalLength(data);
    return within(offset, length, true, () => modify(storage, offset, length, data, flags));
  };
  const view: Storage = {
    get size() {
      return storage.size;
    },
    capabilities: Object.freeze({ ...rest, blockSize: 1, orderedTags: false }),
    read: (offset, into) => {
      checkArgument('into', into, BYTES);
      return within(offset, into.byteLength, false, () => readBytes(storage, offset, into));
    },
    write: (offset, data, flags) => writev(offset, [data], flags),
    flush: (flags: FlushFlags) => {
      checkOpen();
      return storage.flush(flags);
    },
    close: () => {
      if (closed) return;
      closed = true;
      return storage.close();
    },
  };
  if (storage.writev) view.writev = writev;
  if (storage.discard) {
    view.discard = (offset, length) =>
      nothing(
        within(offset, length, true, () => {
          const { start, end } = inner(offset, length, blockSize);
          return end > start ? storage.discard?.(start, end - start) : undefined;
        }),
      );
  }
  if (storage.writeZeroes) {
    view.writeZeroes = (offset, length) =>
      nothing(within(offset, length, true, () => zero(storage, offset, length)));
  }
  if (storage.resize) {
    view.resize = (size) => {
      checkOpen();
      checkSize(storage, size);
      const start = Math.min(size, storage.size);
      return nothing(held.hold(start, Infinity, true, () => storage.resize?.(size)));
    };
  }
  if (storage.blockStatus) {
    view.blockStatus = (offset, length) => {
      checkOpen();
      checkRange(view, offset, length);
      const { start, end } = outer(offset, length, blockSize);
      const answer = statusOf(storage, start, end - start);
      const own = (extents: readonly Extent[]): Extent[] =>
        clipped(extents, offset - start, length);
      return isPending(answer) ? answer.then(own) : own(answer);
    };
  }
  return view;
}

const BYTES = rule(isBytes, 'a Uint8Array');
const PLAIN: WriteFlags = Object.freeze({ fua: false, tag: 'simple' });

interface Holder {
  readonly start: number;
  readonly end: number;
  readonly writes: boolean;
  readonly ended: Promise<void>;
}

/** V1, V2: the blocks of commands that are running or wait. */
class HeldBlocks {
  readonly #blockSize: number;
  readonly #holders = new Set<Holder>();

  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  hold(start: number, end: number, writes: boolean, run: () => Transfer): Transfer {
    const first = start - (start % this.#blockSize);
    const before = [...this.#holders].filter(
      (other) => (writes || other.writes) && first < other.end && other.start < end,
    );
    const answer =
      before.length === 0 ? run() : Promise.all(before.map(({ ended }) => ended)).then(run);
    if (!isPending(answer)) return answer;
    const last = end + ((this.#blockSize - (end % this.#blockSize)) % this.#blockSize);
    const leave = (): void => void this.#holders.delete(holder);
    const holder: Holder = { start: first, end: last, writes, ended: answer.then(leave, leave) };
    this.#holders.add(holder);
    return answer;
  }
}

/** The blocks that are whole within a range of bytes; where there are none, `end` is not after `start`. */
function inner(offset: number, length: number, blockSize: number): { start: number; end: number } {
  const end = offset + length;
  return { start: Math.ceil(offset / blockSize) * blockSize, end: end - (end % blockSize) };
}

/** The blocks that have bytes of a range. */
function outer(offset: number, length: number, blockSize: number): { start: number; end: number } {
  const start = offset - (offset % blockSize);
  return { start, end: Math.ceil((offset + length) / blockSize) * blockSize };
}

/** What extents say of the bytes behind the first `skip`, at most `length` of them. */
function clipped(extents: readonly Extent[], skip: number, length: number): Extent[] {
  const found: Extent[] = [];
  let [from, left] = [skip, length];
  for (const extent of extents) {
    const own = Math.min(extent.length - from, left);
    from = Math.max(0, from - extent.length);
    if (own <= 0) continue;
    found.push({ ...extent, length: own });
    left -= own;
  }
  return found;
}

function readBytes(storage: Storage, offset: number, into: Uint8Array): Transfer {
  const { blockSize } = storage.capabilities;
  const skip = offset % blockSize;
  const length = Math.ceil((skip + into.byteLength) / blockSize) * blockSize;
  if (length === into.byteLength) return read(storage, offset, into);
  const blocks = new Uint8Array(length);
  return then(read(storage, offset - skip, blocks), () =>
    into.set(blocks.subarray(skip, skip + into.byteLength)),
  );
}

/** Reads the blocks at the ends, puts the data between what is kept of them, and writes all as one command. */
function modify(
  storage: Storage,
  offset: number,
  length: number,
  data: readonly Uint8Array[],
  flags: WriteFlags,
): Transfer {
  const { blockSize } = storage.capabilities;
  const skip = offset % blockSize;
  const start = offset - skip;
  const rest = (blockSize - ((offset + length) % blockSize)) % blockSize;
  const whole = skip + length + rest;
  const last = start + whole - blockSize;
  const head = new Uint8Array(skip > 0 ? blockSize : 0);
  // A block with both ends is read once.
  const tail = skip > 0 && last === start ? head : new Uint8Array(rest > 0 ? blockSize : 0);
  const isRead = skip > 0 ? read(storage, start, head) : undefined;
  const areRead =
    rest > 0 && tail !== head ? then(isRead, () => read(storage, last, tail)) : isRead;
  return then(areRead, () => {
    const list = [head.subarray(0, skip), ...data, tail.subarray(tail.length - rest)];
    const pieces = list.filter(({ byteLength }) => byteLength > 0);
    return carried(storage, 'write', start, whole, pieces, flags);
  });
}

/** V3. */
function zero(storage: Storage, offset: number, length: number): Transfer {
  const { start, end } = inner(offset, length, storage.capabilities.blockSize);
  const write = (from: number, to: number): Transfer =>
    to > from ? modify(storage, from, to - from, [new Uint8Array(to - from)], PLAIN) : undefined;
  if (end <= start) return write(offset, offset + length);
  return then(
    then(write(offset, start), () => write(end, offset + length)),
    () => storage.writeZeroes?.(start, end - start),
  );
}

function read(storage: Storage, offset: number, into: Uint8Array): Transfer {
  return carried(storage, 'read', offset, into.byteLength, into);
}

/** One command, which fails if another number of bytes was moved. */
function carried(
  storage: Storage,
  op: 'read' | 'write',
  offset: number,
  length: number,
  data: Payload,
  { fua, tag }: WriteFlags = PLAIN,
): Transfer {
  const command: DeviceCommand = { kind: 'command', op, offset, length, tag, fua };
  return then(perform(storage, command, data), (answer) => {
    const short = transferred(command, answer);
    if (short) throw short;
  });
}

/** Goes on at once after an answer that is there. */
function then(answer: Transfer, next: (answer: void | number) => Transfer): Transfer {
  return isPending(answer) ? answer.then(next) : next(answer);
}
