import { WriteBarrierError } from 'write-barrier';
import type { FileCalls } from './calls.js';

/** How `FileStorage.open` is to open a path. */
export interface FileStorageOptions {
  /**
   * In bytes, whole blocks. A file that is missing is created with it, and a shorter one is
   * extended (its new bytes are a hole: they read as zero, and take space when they are first
   * written). A longer one is refused and never cut. Without it the file keeps the size that it
   * has. A block device has the size that it has.
   */
  readonly size?: number;
  /** Whether a missing file may be created. By default it may where `size` is given. */
  readonly create?: boolean;
  /**
   * Every write fails with `READ_ONLY`. Such an opener takes no lock and heeds none: it damages
   * nothing, but reads whatever a writer has half done. Default false.
   */
  readonly readOnly?: boolean;
  /**
   * In bytes, at least 1. By default 512, which is what most disks write as a whole, or the logical
   * block size of a block device, below which it cannot go.
   */
  readonly blockSize?: number;
  /**
   * `exclusive`, the default: a second writer is refused with `STORAGE_LOCKED`, in this process or
   * in another one. A file is locked by the directory `<file>.lock` beside it, a block device by
   * the kernel (which refuses mounted ones, too). `none` neither takes nor heeds the lock: two
   * writers overwrite each other, and neither's order and flushes mean anything.
   */
  readonly lock?: 'exclusive' | 'none';
  /**
   * In bytes. Writes of up to so many are made on the calling thread: for what goes into the page cache that is
   * quicker than to wake another thread for it. FUA, reads and flushes never are.
   *
   * Such a write can hold up the whole program where the system makes it wait. The first to take over 1 ms sends
   * those after it to the thread pool, for ten times as long as it took; but one that never returns, from a
   * dead network server, say, stops the program for good, and so does one into a file system that this same program
   * serves. By default 0: a program has other things to do. For one whose business the file is, as a
   * server's, 65536 is a good value.
   */
  readonly inlineWriteMax?: number;
  /**
   * Replaces functions of `node:fs`.
   *
   * @internal for fault injection in tests
   */
  readonly fs?: Partial<FileCalls>;
}

/** @throws `INVALID_ARGUMENT` for what can be seen to be wrong without looking at the file */
export function checkOptions(path: string, options: FileStorageOptions): void {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw misuse(`${JSON.stringify(path)} is not a path`);
  }
  if (typeof options !== 'object' || options === null) throw misuse('the options are no object');
  const { size, create, readOnly, blockSize, inlineWriteMax, lock } = options;
  for (const [name, value] of Object.entries({ size, blockSize })) {
    if (value === undefined || (Number.isSafeInteger(value) && value >= 1)) continue;
    throw misuse(`${name} is a whole number of bytes, at least 1, not ${String(value)}`);
  }
  if (
    !(inlineWriteMax === undefined || (Number.isSafeInteger(inlineWriteMax) && inlineWriteMax >= 0))
  ) {
    throw misuse(`inlineWriteMax is a whole number of bytes, not ${String(inlineWriteMax)}`);
  }
  for (const [name, value] of Object.entries({ create, readOnly })) {
    if (value === undefined || typeof value === 'boolean') continue;
    throw misuse(`${name} is true or false, not ${String(value)}`);
  }
  if (lock !== undefined && lock !== 'exclusive' && lock !== 'none') {
    throw misuse(`lock is 'exclusive' or 'none', not ${String(lock)}`);
  }
  if (create && readOnly) throw misuse('readOnly creates nothing');
  if (create && size === undefined) throw misuse('creating a file takes a size');
}

/**
 * The size that the storage has: the wanted one, or the actual one.
 *
 * @param extendable whether a shorter file may be made longer
 * @throws `INVALID_ARGUMENT` where the two cannot be brought together
 */
export function settleSize(
  path: string,
  wanted: number | undefined,
  actual: number,
  blockSize: number,
  extendable: boolean,
): number {
  if (wanted === undefined && actual === 0) throw misuse(`${path} is empty; give it a size`);
  if (wanted !== undefined && wanted < actual) {
    throw misuse(`${path} has ${actual} bytes and is not cut to ${wanted}`);
  }
  if (wanted !== undefined && wanted > actual && !extendable) {
    throw misuse(`${path} has ${actual} bytes and cannot be extended to ${wanted}`);
  }
  const size = wanted ?? actual;
  if (size % blockSize !== 0) {
    throw misuse(`${size} bytes of ${path} are not whole blocks of ${blockSize} bytes`);
  }
  return size;
}

/** An `INVALID_ARGUMENT`. */
export function misuse(message: string, cause?: unknown): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', message, cause === undefined ? {} : { cause });
}
