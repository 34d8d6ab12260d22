// Sectors on a disk that is asked directly, for tests of the kit itself.

import type { Storage } from '../../src/storage/index.js';

export const SECTOR = 512;
export const PLAIN = { fua: false, tag: 'simple' } as const;
export const FLUSH = { tag: 'simple' } as const;

export const full = (): Uint8Array => new Uint8Array(SECTOR).fill(1);

/** The first byte of a sector. */
export function first(disk: Storage, sector: number): number {
  const into = new Uint8Array(SECTOR);
  disk.read(sector * SECTOR, into);
  return into[0] as number;
}
