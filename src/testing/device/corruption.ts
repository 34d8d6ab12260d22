// Corruption: what an interrupted write leaves of a sector, and what bit rot and unreadable sectors do to one.

import { copyOf } from '../../storage/buffers.js';
import type { Random } from '../choices.js';
import type { DeviceProfile } from './profile.js';

/** The content of a sector, and whether it can be read. */
export interface Remains {
  readonly bytes: Uint8Array;
  readonly readable: boolean;
}

/** What an interrupted write of `above` over `below` may leave, other than one of the two. */
export function tornContents(
  tear: DeviceProfile['tear'],
  below: Uint8Array,
  above: Uint8Array,
): Remains[] {
  if (tear === 'sector') return [];
  const half = below.length >> 1;
  const head = copyOf(above);
  head.set(below.subarray(half), half);
  const tail = copyOf(above);
  tail.set(below.subarray(0, half), 0);
  const shorn = [head, tail].map((bytes) => ({ bytes, readable: true }));
  if (tear === 'shorn') return shorn;
  const bytes = noise(below.length, 0);
  return [...shorn, { bytes, readable: true }, { bytes, readable: false }];
}

/**
 * What a discard leaves of the sector at `offset`; undefined if its old content may stay. Only where the device promises zeroes
 * it leaves zeroes, because code that counts on them must fail elsewhere.
 */
export function discarded(
  { discard, sectorSize }: Pick<DeviceProfile, 'discard' | 'sectorSize'>,
  offset: number,
): Uint8Array | undefined {
  if (discard === 'old-or-zero') return undefined;
  return discard === 'zero' ? new Uint8Array(sectorSize) : noise(sectorSize, offset);
}

/** Bytes that no write put there, the same in every run. */
export function noise(length: number, salt: number): Uint8Array {
  let state = (salt + 0x9e3779b1) >>> 0;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 24;
  });
}

/** The bytes of a write at `offset` after a fault: `rot` flips one bit of the first sector, `latent` replaces all of it. */
export function spoiltBy(
  fault: string | undefined,
  bytes: Uint8Array,
  sectorSize: number,
  offset: number,
): Uint8Array {
  if (fault !== 'rot' && fault !== 'latent') return bytes;
  const spoilt = copyOf(bytes);
  const at = sectorSize >> 1;
  if (fault === 'rot') spoilt[at] = (spoilt[at] as number) ^ 1;
  else spoilt.set(noise(sectorSize, offset));
  return spoilt;
}

/** Flips one bit, drawn at random. */
export function flipBit(bytes: Uint8Array, random: Random): void {
  const at = Math.floor(random() * bytes.length);
  bytes[at] = (bytes[at] as number) ^ (1 << Math.floor(random() * 8));
}
