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
  const fault = rangeFault({ offset, length }, storage.size, storage.capabilities.blockSize);
  if (fault) throw fault;
}

/** What is wrong with a range of bytes; undefined for nothing. */
export function rangeFault(
  { offset, length }: { readonly offset: number; readonly length: number },
  size: number,
  blockSize: number,
): WriteBarrierError | undefined {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  const inside = whole && offset >= 0 && length >= 0 && offset + length <= size;
  if (inside && offset % blockSize === 0 && length % blockSize === 0) return undefined;
  const range = `${length} bytes at ${offset}`;
  return inside
    ? new WriteBarrierError('UNALIGNED', `${range} are not whole blocks of ${blockSize} bytes`)
    : new WriteBarrierError('OUT_OF_RANGE', `${range} are not inside a storage of ${size} bytes`);
}

/** @throws `INVALID_STORAGE` for a storage that contradicts itself */
export function checkStorage(storage: Storage): void {
  const need = (holds: boolean, otherwise: string): void => {
    if (holds) return;
    throw new WriteBarrierError('INVALID_STORAGE', `the storage is unusable: ${otherwise}`);
  };
  need(typeof storage === 'object' && storage !== null, 'it is not an object');
  const { capabilities, size } = storage;
  need(typeof capabilities === 'object' && capabilities !== null, 'no capabilities');
  const { blockSize, cache } = capabilities;
  need(Number.isSafeInteger(blockSize) && blockSize > 0, `blockSize ${String(blockSize)}`);
  need(Number.isSafeInteger(size) && size >= 0, `size ${String(size)}`);
  need(size % blockSize === 0, `size ${size} is not a multiple of blockSize ${blockSize}`);
  need(['none', 'volatile', 'protected'].includes(cache), `cache '${String(cache)}'`);
  for (const name of ['flush', 'fua', 'orderedTags'] as const) {
    need(typeof capabilities[name] === 'boolean', `capability ${name} is not a boolean`);
  }
  for (const name of ['writev', 'discard', 'writeZeroes'] as const) {
    const declared = capabilities[name] ?? false;
    need(typeof declared === 'boolean', `capability ${name} is not a boolean`);
    need(!declared || typeof storage[name] === 'function', `no method ${name}`);
  }
  for (const name of ['read', 'write', 'flush', 'close'] as const) {
    need(typeof storage[name] === 'function', `no method ${name}`);
  }
}
