import { type DeviceTraits, WriteBarrierError } from '../../model/index.js';

/**
 * What a device claims and does not do; `claimWriteThrough` has a volatile cache, whatever
 * `cache` says.
 */
export type Lie = 'ignoreFlush' | 'ignoreFua' | 'ignoreTags' | 'claimWriteThrough';

/** How a power cut leaves a sector whose write it interrupts. */
export type Tear = 'sector' | 'shorn' | 'garbage';

/** What a discarded sector may read as. */
export type DiscardReads = 'zero' | 'old-or-zero' | 'arbitrary';

/** In which order two overlapping writes land that are at the device together: as they came, or any. */
export type SameLba = 'fifo' | 'racy';

/** What becomes of the commands that tags put behind one that fails: SCSI's QErr. */
export type OnTagError = 'continue' | 'abort-queue';

/**
 * A device as a power cut sees it. What it admits is in the traits; what it does besides is here. Every field
 * has a value, so that a report can print what it rests on.
 */
export interface DeviceProfile extends DeviceTraits {
  /** In bytes. A write is carried out sector by sector, in any order; a sector is written as a whole. */
  readonly sectorSize: number;
  /**
   * In bytes, a multiple of `sectorSize`: a write that does not cross a multiple of it is carried out as a whole, too
   * (NVMe's AWUPF). Of a write that does any sectors may be there.
   */
  readonly atomicWriteUnit: number;
  /** `sector`: the old content or the new; `shorn`: also half of each; `garbage`: also neither, or unreadable. */
  readonly tear: Tear;
  /** What is discarded reads as zeroes, or as before or as zeroes, or as anything. */
  readonly discard: DiscardReads;
  /** `racy` where a host must not have two writes to one place in flight. */
  readonly sameLba: SameLba;
  /** Whether an ordered command is carried out although one before it has failed. */
  readonly onTagError: OnTagError;
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
  sameLba: 'fifo',
  onTagError: 'continue',
  lies: Object.freeze([]),
});

/**
 * A profile from the fields that differ from `HONEST_DISK`; the atomic unit is the sector unless given.
 *
 * @throws `INVALID_ARGUMENT` for sizes that are not whole multiples of each other, for units of several sectors that
 *   tear or race, for a volatile cache that is claimed away, and for unknown words
 */
export function deviceProfile(fields: Partial<DeviceProfile> = {}): DeviceProfile {
  const { sectorSize = HONEST_DISK.sectorSize } = fields;
  const profile = { ...HONEST_DISK, atomicWriteUnit: sectorSize, ...fields };
  const { atomicWriteUnit, cache, tear, lies } = profile;
  for (const [name, size] of Object.entries({ sectorSize, atomicWriteUnit })) {
    if (!Number.isSafeInteger(size) || size < 1) throw wrong(name, size);
  }
  if (atomicWriteUnit % sectorSize !== 0) throw wrong('atomicWriteUnit', atomicWriteUnit);
  if (lies.includes('claimWriteThrough') && cache === 'volatile') {
    throw new WriteBarrierError('INVALID_ARGUMENT', 'a claim to write through goes with no cache');
  }
  if ((tear !== 'sector' || profile.sameLba === 'racy') && atomicWriteUnit > sectorSize) {
    throw new WriteBarrierError(
      'INVALID_ARGUMENT',
      'what is written as a whole neither tears nor races',
    );
  }
  for (const name of Object.keys(fields)) {
    if (!Object.hasOwn(HONEST_DISK, name)) throw wrong('a field', name);
  }
  for (const [name, words] of Object.entries(WORDS)) {
    const value = profile[name as keyof typeof WORDS];
    if (!(words as readonly string[]).includes(value)) throw wrong(name, value);
  }
  for (const lie of lies) if (!LIES.includes(lie)) throw wrong('lies', lie);
  return Object.freeze(profile);
}

const WORDS = {
  cache: ['none', 'volatile', 'protected'],
  tear: ['sector', 'shorn', 'garbage'],
  discard: ['zero', 'old-or-zero', 'arbitrary'],
  sameLba: ['fifo', 'racy'],
  onTagError: ['continue', 'abort-queue'],
} as const satisfies Partial<Record<keyof DeviceProfile, readonly string[]>>;

const LIES: readonly Lie[] = ['ignoreFlush', 'ignoreFua', 'ignoreTags', 'claimWriteThrough'];

function wrong(field: string, value: unknown): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', `no device has ${field} ${String(value)}`);
}
