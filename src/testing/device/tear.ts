// What is left of a sector whose write was interrupted, and what becomes of one that decays.

import { copyOf } from '../../storage/bytes.js';
import type { Tear } from './profile.js';

/** A content, and whether it can be read at all. */
export interface Remains {
  readonly bytes: Uint8Array;
  readonly readable: boolean;
}

/** Everything that an interrupted write of `above` over `below` may leave, besides one of the two. */
export function tornContents(tear: Tear, below: Uint8Array, above: Uint8Array): Remains[] {
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

/** Bytes that nobody wrote, the same ones in every run. */
export function noise(length: number, salt: number): Uint8Array {
  let state = (salt + 0x9e3779b1) >>> 0;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 24;
  });
}

/** What a fault makes of the bytes of a write at `offset`: one bit of the first sector is changed, or all of it is lost. */
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
