// What a storage says of its holes, in the pieces of a reply: chunks of a sparse read, and extents of BLOCK_STATUS.

import type { Extent as StorageExtent } from 'write-barrier';
import { EXTENT_FLAG, type Extent } from '../wire/index.js';

/** Shorter reads are not asked for holes, and shorter holes are sent as data, because each costs as much as its bytes. */
export const SPARSE_MIN: number = 64 * 1024;

/** The holes of a read, and what is between them: never two of a kind in a row. */
export function sparsePieces(
  start: number,
  length: number,
  extents: readonly StorageExtent[],
): { offset: number; length: number; isHole: boolean }[] {
  const pieces: { offset: number; length: number; isHole: boolean }[] = [];
  const end = start + length;
  const add = (offset: number, size: number, isHole: boolean): void => {
    const last = pieces.at(-1);
    if (last?.isHole === isHole) last.length += size;
    else if (size > 0) pieces.push({ offset, length: size, isHole });
  };
  let at = start;
  for (const { length: size, zero } of extents) {
    add(at, size, zero && size >= SPARSE_MIN);
    at += size;
  }
  add(at, end - at, false);
  return pieces;
}

/** The extents in the flags of the protocol, at most so many; neighbours with the same flags are one. */
export function wireExtents(extents: readonly StorageExtent[], most: number): readonly Extent[] {
  const found: { length: number; flags: number }[] = [];
  for (const { length, hole, zero } of extents) {
    const flags = (hole ? EXTENT_FLAG.HOLE : 0) | (zero ? EXTENT_FLAG.ZERO : 0);
    const last = found.at(-1);
    if (last?.flags === flags) last.length += length;
    else if (found.length === most) break;
    else found.push({ length, flags });
  }
  return found;
}
