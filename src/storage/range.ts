import { WriteBarrierError } from '../model/index.js';
import type { Storage } from './storage.js';

/**
 * For whoever implements a storage: refuses a command that names bytes it does not have.
 *
 * @param offset in bytes
 * @param length in bytes; 0 is let through, for it touches nothing
 * @throws `OUT_OF_RANGE` unless both are whole numbers and the range lies inside the storage
 * @throws `UNALIGNED` unless both are multiples of `capabilities.blockSize`
 */
export function checkRange(
  storage: Pick<Storage, 'size' | 'capabilities'>,
  offset: number,
  length: number,
): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (!whole || offset < 0 || length < 0 || offset + length > storage.size) {
    throw new WriteBarrierError(
      'OUT_OF_RANGE',
      `${length} bytes at ${offset} are not inside a storage of ${storage.size} bytes`,
    );
  }
  const { blockSize } = storage.capabilities;
  if (offset % blockSize !== 0 || length % blockSize !== 0) {
    throw new WriteBarrierError(
      'UNALIGNED',
      `${length} bytes at ${offset} are not whole blocks of ${blockSize} bytes`,
    );
  }
}
