// Device profiles: the properties of a device that decide what a power cut leaves. They are data, so a report can print
// the device that its verdict is about.
//
// A verdict holds for one device. Common devices have names (DEVICE_PROFILES). By default a test runs on a file, because most
// code will run on one. A device with ordered tags is rare: code that was tested on one would use another mode, and other
// commands, in production.
//
// A profile of your own names the fields that differ from a file. Contradictory fields are refused here, so the device
// (device.ts) and the axioms (space/) need no checks.

import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  type DeviceTraits,
  formatValue,
  invalid,
  misuse,
  oneOf,
  type Rule,
  rule,
  wholeNumber,
} from '../../model/index.js';
import type { Capabilities } from '../../storage/index.js';

/**
 * The properties of a device that decide what a power cut leaves. `DeviceTraits` has those that the device reports.
 */
export interface DeviceProfile extends DeviceTraits {
  /** In bytes. A write is carried out sector by sector, in any order; a sector is written as a whole. */
  readonly sectorSize: number;
  /**
   * In bytes, a multiple of `sectorSize`: a write that does not cross a multiple of it is carried out as a whole (NVMe's
   * AWUPF). A write that does may leave any of its sectors.
   */
  readonly atomicWriteUnit: number;
  /**
   * What an interrupted write leaves of a sector. `sector`: the old or the new content; `shorn`: also half of each; `garbage`:
   * also random bytes, or an unreadable sector. A write that is one atomic unit of several sectors is not torn, because the
   * device promises that.
   */
  readonly tear: 'sector' | 'shorn' | 'garbage';
  /** Whether a forced write takes as long as a write and a flush. */
  readonly slowFua: boolean;
  /** Whether it has `writev`: one write from several buffers. */
  readonly writev: boolean;
  /**
   * Whether a scheduler gathers writes that follow each other into one `writev`. No named device does, because each write by itself
   * may be lost in more ways, and because its call is known only if it is issued at once.
   */
  readonly gathers: boolean;
  /** Whether it has `writeZeroes`: zeroes without data. */
  readonly writeZeroes: boolean;
  /** Whether `writeZeroes` is much faster than a write of zeroes. */
  readonly fastZeroes: boolean;
  /**
   * What a discarded sector reads as: zeroes, the old content or zeroes, or anything. `none`: the device takes no discards;
   * if a trace has one nevertheless, it reads as anything, because no storage promises more.
   */
  readonly discard: 'none' | 'zero' | 'old-or-zero' | 'arbitrary';
  /** The order in which two overlapping writes land that are in flight together: `fifo` as they came, `racy` in any order. */
  readonly sameLba: 'fifo' | 'racy';
  /** Whether it has `resize`: its size may change. */
  readonly resize: boolean;
  /** What happens to the commands that tags order after one that fails (SCSI's QErr). */
  readonly onTagError: 'continue' | 'abort-queue';
  /** What the device claims and does not do; `claimWriteThrough` has a volatile cache, whatever `cache` says. */
  readonly lies: readonly ('ignoreFlush' | 'ignoreFua' | 'ignoreTags' | 'claimWriteThrough')[];
}

const FILE: DeviceProfile = Object.freeze({
  cache: 'volatile',
  flush: true,
  fua: true,
  slowFua: true,
  orderedTags: false,
  writev: true,
  gathers: false,
  writeZeroes: false,
  fastZeroes: false,
  sectorSize: 512,
  atomicWriteUnit: 512,
  tear: 'sector',
  discard: 'none',
  resize: true,
  sameLba: 'fifo',
  onTagError: 'continue',
  lies: Object.freeze([]),
});

/** A name of the table `DEVICE_PROFILES`. */
export type DeviceName =
  | 'file'
  | 'file-without-fua'
  | 'nvme'
  | 'sata'
  | 'scsi'
  | 'scsi-tags'
  | 'protected'
  | 'write-through';

/** A block device has the size that it has. */
const profileWith = (fields: Partial<DeviceProfile>): DeviceProfile =>
  Object.freeze({ ...FILE, slowFua: false, resize: false, ...fields });

/**
 * Common devices. To change one, spread it: `{ ...DEVICE_PROFILES.nvme, lies: ['ignoreFlush'] }`.
 *
 * - `file`: `FileStorage` on Linux, and the default. It can be resized, as no device can. The page cache is volatile, fdatasync is its
 *   flush and O_DSYNC its FUA; its FUA takes as long as a flush, so forced writes share flushes; writes that follow each other are
 *   gathered; it has no ordered tags and no discards, and zeroes are written as data.
 * - `file-without-fua`: `FileStorage` on other systems.
 * - `nvme`: a consumer drive. Commands in flight together are carried out in any order, also in one place; discarded sectors
 *   read as anything, and zeroes are fast.
 * - `sata`: a consumer drive as Linux uses it: no FUA, and zeroes are written as data.
 * - `scsi`: a disk with simple tags only, as Linux uses it since 2.6.37. Two commands to one place keep their order
 *   (restricted reordering, the default of the control mode page); unmapped sectors may keep their content, and zeroes take as
 *   long as data.
 * - `scsi-tags`: the same disk with ordered tags, as Linux used it before: for the TAG modes.
 * - `protected`: a controller with a battery, or a drive whose cache survives a power cut.
 * - `write-through`: a disk whose cache is off.
 */
export const DEVICE_PROFILES: Readonly<Record<DeviceName, DeviceProfile>> = Object.freeze({
  file: FILE,
  'file-without-fua': profileWith({ fua: false, resize: true }),
  nvme: profileWith({
    sameLba: 'racy',
    discard: 'arbitrary',
    writeZeroes: true,
    fastZeroes: true,
  }),
  sata: profileWith({ fua: false, sameLba: 'racy', discard: 'arbitrary' }),
  scsi: profileWith({ discard: 'old-or-zero', writeZeroes: true }),
  'scsi-tags': profileWith({ orderedTags: true, discard: 'old-or-zero', writeZeroes: true }),
  protected: profileWith({ cache: 'protected' }),
  'write-through': profileWith({ cache: 'none' }),
});

/**
 * The complete profile of a device, from its name or from the fields that differ from `file`. The default of
 * `atomicWriteUnit` is `sectorSize`.
 *
 * @throws `INVALID_ARGUMENT` for unknown names, fields and values, for an atomic unit that is not a multiple of the sector,
 *   and for `claimWriteThrough` with a volatile cache
 */
export function deviceProfile(device: DeviceName | Partial<DeviceProfile> = {}): DeviceProfile {
  const fields = fieldsOf(device);
  checkOptions(fields, FILE, 'the profile of a device');
  const { sectorSize = FILE.sectorSize } = fields;
  const profile = { ...FILE, atomicWriteUnit: sectorSize, ...fields };
  for (const [name, value] of Object.entries(profile)) {
    checkArgument(`invalid device profile: ${name}`, value, RULES[name] ?? BOOLEAN);
  }
  const { atomicWriteUnit, cache, lies } = profile;
  if (atomicWriteUnit % sectorSize !== 0) {
    const expected = `a multiple of sectorSize, ${sectorSize}`;
    throw invalid('invalid device profile: atomicWriteUnit', expected, atomicWriteUnit);
  }
  for (const lie of lies) checkArgument('invalid device profile: a lie', lie, LIE);
  if (lies.includes('claimWriteThrough') && cache === 'volatile') {
    throw misuse(
      "invalid device profile: the lie 'claimWriteThrough' hides a volatile cache: set cache to what it claims, 'none' or 'protected'",
    );
  }
  if (profile.fastZeroes && !profile.writeZeroes) {
    throw misuse('invalid device profile: fastZeroes needs writeZeroes');
  }
  return Object.freeze(profile);
}

const BYTES = rule(wholeNumber(1).holds, 'a whole number of bytes, at least 1');
const LIE = oneOf(['ignoreFlush', 'ignoreFua', 'ignoreTags', 'claimWriteThrough']);

/** The other fields are true or false. */
const RULES: Readonly<Partial<Record<string, Rule>>> = {
  sectorSize: BYTES,
  atomicWriteUnit: BYTES,
  cache: oneOf(['none', 'volatile', 'protected']),
  tear: oneOf(['sector', 'shorn', 'garbage']),
  discard: oneOf(['none', 'zero', 'old-or-zero', 'arbitrary']),
  sameLba: oneOf(['fifo', 'racy']),
  onTagError: oneOf(['continue', 'abort-queue']),
  lies: rule(Array.isArray, 'a list'),
} satisfies Partial<Record<keyof DeviceProfile, Rule>>;

/** The capabilities that the device reports as a storage. */
export function capabilitiesOf(profile: DeviceProfile): Required<Capabilities> {
  const { sectorSize: blockSize, cache } = profile;
  const switches = Object.fromEntries(SWITCHES.map((name) => [name, profile[name]]));
  const discard = profile.discard !== 'none';
  return Object.freeze({
    ...(switches as unknown as Required<Capabilities>),
    blockSize,
    cache,
    discard,
  });
}

/** The fields of a named profile; other fields as they are. */
export function fieldsOf(device: DeviceName | Partial<DeviceProfile>): Partial<DeviceProfile> {
  if (typeof device !== 'string') return device;
  if (Object.hasOwn(DEVICE_PROFILES, device)) return DEVICE_PROFILES[device];
  const names = Object.keys(DEVICE_PROFILES).join(', ');
  throw misuse(`profile must be one of ${names}, or an object, not ${formatValue(device)}`);
}

/** The name of a profile, or what differs from `file`: `file with lies: ignoreFlush`. */
export function describeProfile(profile: DeviceProfile): string {
  const differing = (from: DeviceProfile): (keyof DeviceProfile)[] =>
    (Object.keys(FILE) as (keyof DeviceProfile)[]).filter(
      (field) => String(profile[field]) !== String(from[field]),
    );
  for (const [name, known] of Object.entries(DEVICE_PROFILES)) {
    if (differing(known).length === 0) return name;
  }
  const fields = differing(FILE).map((field) => `${field}: ${String(profile[field])}`);
  return `file with ${fields.join(', ')}`;
}

/** The fields that are true or false, all of them capabilities. */
const SWITCHES = (Object.keys(FILE) as 'flush'[]).filter((name) => typeof FILE[name] === 'boolean');
