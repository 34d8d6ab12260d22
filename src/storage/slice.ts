// A part of a storage as a storage of its own.

import { WriteBarrierError } from '../model/index.js';
import { checkRange } from './checks.js';
import type { FlushFlags, Storage, WriteFlags } from './storage.js';

/**
 * The bytes from `offset` on as a storage of their own, for reads, writes and flushes. Closing it closes nothing, because
 * the rest belongs to others. A flush is one of the whole.
 *
 * @param size of the part in bytes
 * @throws `OUT_OF_RANGE`, `UNALIGNED` for a part that the storage does not have
 */
export function slice(storage: Storage, offset: number, size: number): Storage {
  checkRange(storage, offset, size);
  const { blockSize, cache, flush, fua, orderedTags } = storage.capabilities;
  let closed = false;
  const checkOpen = (): void => {
    if (closed) throw new WriteBarrierError('CLOSED', 'the slice is closed');
  };
  const part: Storage = {
    size,
    capabilities: Object.freeze({ blockSize, cache, flush, fua, orderedTags }),
    read: (at: number, into: Uint8Array) => {
      checkOpen();
      checkRange(part, at, into.byteLength);
      return storage.read(offset + at, into);
    },
    write: (at: number, data: Uint8Array, flags: WriteFlags) => {
      checkOpen();
      checkRange(part, at, data.byteLength);
      return storage.write(offset + at, data, flags);
    },
    flush: (flags: FlushFlags) => {
      checkOpen();
      return storage.flush(flags);
    },
    close: () => {
      closed = true;
    },
  };
  return part;
}
