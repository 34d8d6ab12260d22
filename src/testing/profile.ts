import { type DeviceTraits, WriteBarrierError } from '../model/index.js';

/** What a device claims and does not do. */
export type Lie = 'ignoreFlush' | 'ignoreFua' | 'ignoreTags';

/** How a power cut leaves a sector whose write it interrupts. */
export type Tear = 'sector' | 'shorn' | 'garbage';

/** What a discarded sector may read as. */
export type DiscardReads = 'zero' | 'old-or-zero';

/**
 * A device as a power cut sees it. What it admits is in the traits; what it does besides is here. Every field
 * has a value, so that a report can print what it rests on.
 */
export interface DeviceProfile extends DeviceTraits {
  /** In bytes. A write is carried out sector by sector, in any order; a sector is written as a whole. */
  readonly sectorSize: number;
  /**
   * In bytes, a multiple of `sectorSize`: an aligned write of that size is carried out as a whole (NVMe's
   * AWUPF). All writes must then be multiples of it.
   */
  readonly atomicWriteUnit: number;
  /** `sector`: the old content or the new; `shorn`: also half of each; `garbage`: also neither. */
  readonly tear: Tear;
  /** What is discarded reads as zeroes, or as before or as zeroes. */
  readonly discard: DiscardReads;
  /** What it claims and does not do. */
  readonly lies: readonly Lie[];
}

/** A disk with a volatile cache, flush, FUA and ordered tags, which keeps its promises. */
export const HONEST_DISK: DeviceProfile = Object.freeze({
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
  sectorSize: 512,
  atomicWriteUnit: 512,
  tear: 'sector',
  discard: 'zero',
  lies: Object.freeze([]),
});

/**
 * A profile from the fields that differ from `HONEST_DISK`; the atomic unit is the sector unless given.
 *
 * @throws `INVALID_ARGUMENT` for sizes that are not whole multiples of each other, and for unknown words
 */
export function deviceProfile(fields: Partial<DeviceProfile> = {}): DeviceProfile {
  const { sectorSize = HONEST_DISK.sectorSize } = fields;
  const profile = { ...HONEST_DISK, atomicWriteUnit: sectorSize, ...fields };
  const { atomicWriteUnit, cache, tear, discard, lies } = profile;
  for (const [name, size] of Object.entries({ sectorSize, atomicWriteUnit })) {
    if (!Number.isSafeInteger(size) || size < 1) throw wrong(name, size);
  }
  if (atomicWriteUnit % sectorSize !== 0) throw wrong('atomicWriteUnit', atomicWriteUnit);
  if (!['none', 'volatile', 'protected'].includes(cache)) throw wrong('cache', cache);
  if (!['sector', 'shorn', 'garbage'].includes(tear)) throw wrong('tear', tear);
  if (!['zero', 'old-or-zero'].includes(discard)) throw wrong('discard', discard);
  for (const lie of lies) {
    if (!['ignoreFlush', 'ignoreFua', 'ignoreTags'].includes(lie)) throw wrong('lies', lie);
  }
  return Object.freeze(profile);
}

function wrong(field: string, value: unknown): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', `no device has ${field} ${String(value)}`);
}
