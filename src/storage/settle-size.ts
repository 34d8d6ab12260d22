// Not in checks.ts, because every scheduler has those checks, and only storages over files need this one.

import { misuse } from '../model/index.js';

/**
 * For authors of storages over files: the size of the storage, which is the option `size` or the size of the file.
 *
 * @param path of the file, for the messages
 * @param wanted the option, in bytes
 * @param actual the size of the file, in bytes
 * @param extendable whether a shorter file may be extended
 * @throws `INVALID_ARGUMENT` if the two do not fit, and if the size is not whole blocks
 */
export function settleSize(
  path: string,
  wanted: number | undefined,
  actual: number,
  blockSize: number,
  extendable: boolean,
): number {
  if (wanted !== undefined && wanted < actual) {
    const instead = `leave size out, pass at least ${actual}, or resize it when it is open`;
    throw misuse(`${path} has ${actual} bytes and is not truncated to size ${wanted}: ${instead}`);
  }
  if (wanted !== undefined && wanted > actual && !extendable) {
    throw misuse(`${path} has ${actual} bytes and cannot be extended to size ${wanted}`);
  }
  const size = wanted ?? actual;
  if (size % blockSize !== 0) {
    const whole = Math.ceil(size / blockSize) * blockSize;
    const longer = extendable && Number.isSafeInteger(whole) ? `, or pass size: ${whole}` : '';
    throw misuse(
      `the ${size} bytes of ${path} are not whole blocks of ${blockSize} bytes: ` +
        `pass blockSize: 1, which fits every size${longer}`,
    );
  }
  return size;
}
