// Which features a driver and a device agree on, and what the driver makes of them: one of the seven ordered modes, and
// a belief about the device's cache. Four drivers as data, each a list of rows of which the first that fits holds.
//
//   beforePatch    Linux up to 2.6.35. A device without FLUSH and BARRIER gets no mode at all: barriers fail.
//   afterPatch     The same driver with "virtio_blk: support barriers without FLUSH feature" (June 2010): such a device
//                  is taken to have no volatile cache, so draining is enough. Where it has one, there is now order
//                  among the completions and still no integrity; the patch says so itself.
//   linuxToday     No ordered modes any more. Write-back if the configuration byte says so, else if FLUSH was
//                  negotiated; never FUA, so a forced write is a write and a flush.
//   specification  What the text of the standard allows a driver to rely on, and no more.
//
// The belief is a belief: whether it is true is the device's affair. Of the four only `specification` takes a device
// without FLUSH for what the standard says of it: nothing.
//
// Sources: the patch of 15 June 2010 by Christoph Hellwig; drivers/block/virtio_blk.c of Linux 2.6.32 to 2.6.36, and
// virtblk_get_cache_mode() of Linux 6; OASIS virtio 1.3, 5.2 "Block Device" and its legacy interface.

import { type DeviceTraits, type ModeName, WriteBarrierError } from 'write-barrier';

/** The features of a block device that concern this module, and VERSION_1, which says that both sides are modern. */
export type VirtioFeature =
  | 'BARRIER'
  | 'SIZE_MAX'
  | 'SEG_MAX'
  | 'RO'
  | 'BLK_SIZE'
  | 'FLUSH'
  | 'CONFIG_WCE'
  | 'MQ'
  | 'DISCARD'
  | 'WRITE_ZEROES'
  | 'VERSION_1';

/** The number of each feature's bit. BARRIER is of the legacy interface; FLUSH was once called WCE. */
export const VIRTIO_FEATURES: Readonly<Record<VirtioFeature, number>> = Object.freeze({
  BARRIER: 0,
  SIZE_MAX: 1,
  SEG_MAX: 2,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
  VERSION_1: 32,
});

/** A set of features as the bits that go over the transport. */
export function virtioFeatureBits(...names: readonly VirtioFeature[]): bigint {
  return names.reduce((bits, name) => bits | (1n << BigInt(VIRTIO_FEATURES[name])), 0n);
}

/** Whether the bit of the feature is set. */
export function hasVirtioFeature(bits: bigint, name: VirtioFeature): boolean {
  return ((bits >> BigInt(VIRTIO_FEATURES[name])) & 1n) === 1n;
}

/** The names of the bits; bits that have no name here are left out. */
export function virtioFeatureNames(bits: bigint): readonly VirtioFeature[] {
  const names = Object.keys(VIRTIO_FEATURES) as VirtioFeature[];
  return names.filter((name) => hasVirtioFeature(bits, name));
}

/** What a driver knows of the device once the features are negotiated. */
export interface VirtioAgreement {
  /** What the device offers. */
  readonly offered: bigint;
  /** What the driver took of it. */
  readonly negotiated: bigint;
  /** The configuration byte `writeback`; only read where CONFIG_WCE was negotiated. */
  readonly writeback: boolean;
}

/** What a driver makes of an agreement. */
export interface VirtioOrdering {
  /** How it orders. NONE: barriers are refused, and whoever wants order waits. */
  readonly mode: ModeName;
  /** What it takes the device to be. No virtio-blk device has FUA. */
  readonly device: DeviceTraits;
  /** One sentence for a person. */
  readonly reason: string;
}

/** When a row holds, and what then. */
export interface VirtioDriverRow extends VirtioOrdering {
  /** All of these were negotiated. */
  readonly negotiated?: readonly VirtioFeature[];
  /** All of these were offered. */
  readonly offered?: readonly VirtioFeature[];
  /** What the configuration byte says. */
  readonly writeback?: boolean;
}

/** A driver, as far as order and durability go. */
export interface VirtioDriver {
  /** The features that it takes where they are offered. */
  readonly wants: readonly VirtioFeature[];
  /** The first row that fits holds; the last has no condition. */
  readonly rows: readonly VirtioDriverRow[];
  /** Where that can be read. */
  readonly witness: string;
}

/** The drivers of this module. */
export type VirtioEra = 'beforePatch' | 'afterPatch' | 'linuxToday' | 'specification';

const traits = (
  cache: DeviceTraits['cache'],
  can: { readonly flush?: true; readonly orderedTags?: true } = {},
): DeviceTraits => Object.freeze({ cache, flush: false, fua: false, orderedTags: false, ...can });

const WRITE_BACK = traits('volatile', { flush: true });
const WRITE_THROUGH = traits('none', { flush: true });
const UNFLUSHABLE = traits('volatile');
const TAGGED = traits('none', { orderedTags: true });
const UNCACHED = traits('none');

const FLUSH_ROW: VirtioDriverRow = {
  negotiated: ['FLUSH'],
  mode: 'DRAIN_FLUSH',
  device: WRITE_BACK,
  reason: 'There is a flush command, so there is a volatile cache; FLUSH wins over BARRIER.',
};
const BARRIER_ROW: VirtioDriverRow = {
  negotiated: ['BARRIER'],
  mode: 'TAG',
  device: TAGGED,
  reason:
    'The host is trusted to order tagged requests and to have no volatile cache; a flush is not even sent.',
};
const LEGACY_WANTS: readonly VirtioFeature[] = [
  'BARRIER',
  'SIZE_MAX',
  'SEG_MAX',
  'RO',
  'BLK_SIZE',
  'FLUSH',
];
const MODERN_WANTS: readonly VirtioFeature[] = [
  'SIZE_MAX',
  'SEG_MAX',
  'RO',
  'BLK_SIZE',
  'FLUSH',
  'CONFIG_WCE',
  'DISCARD',
  'WRITE_ZEROES',
  'VERSION_1',
];

/** The four drivers. */
export const VIRTIO_DRIVERS: Readonly<Record<VirtioEra, VirtioDriver>> = deepFreeze({
  beforePatch: {
    wants: LEGACY_WANTS,
    rows: [
      FLUSH_ROW,
      BARRIER_ROW,
      {
        mode: 'NONE',
        device: UNFLUSHABLE,
        reason: 'The driver says nothing to the block layer, which then refuses every barrier.',
      },
    ],
    witness: 'drivers/block/virtio_blk.c, Linux 2.6.32 and the lines that the patch takes away',
  },
  afterPatch: {
    wants: LEGACY_WANTS,
    rows: [
      FLUSH_ROW,
      BARRIER_ROW,
      {
        mode: 'DRAIN',
        device: UNCACHED,
        reason: 'No FLUSH is taken to mean no volatile cache: order by waiting, nothing to flush.',
      },
    ],
    witness: 'the patch of 15 June 2010; drivers/block/virtio_blk.c, Linux 2.6.36-rc',
  },
  linuxToday: {
    wants: MODERN_WANTS,
    rows: [
      {
        negotiated: ['CONFIG_WCE'],
        writeback: true,
        mode: 'NONE',
        device: WRITE_BACK,
        reason: 'The configuration byte says write-back; file systems wait and flush.',
      },
      {
        negotiated: ['CONFIG_WCE'],
        mode: 'NONE',
        device: WRITE_THROUGH,
        reason: 'The configuration byte says write-through; flushes are dropped as needless.',
      },
      {
        negotiated: ['FLUSH'],
        mode: 'NONE',
        device: WRITE_BACK,
        reason: 'There is no byte to ask, and a flush command means a cache.',
      },
      {
        mode: 'NONE',
        device: UNCACHED,
        reason: 'Neither feature is taken to mean no volatile cache.',
      },
    ],
    witness: 'virtblk_get_cache_mode() in drivers/block/virtio_blk.c, Linux 6',
  },
  specification: {
    wants: MODERN_WANTS,
    rows: [
      {
        negotiated: ['CONFIG_WCE', 'FLUSH'],
        writeback: true,
        mode: 'DRAIN_FLUSH',
        device: WRITE_BACK,
        reason: 'A write is stable when a flush has completed that was sent after it completed.',
      },
      {
        negotiated: ['CONFIG_WCE'],
        writeback: false,
        mode: 'DRAIN',
        device: WRITE_THROUGH,
        reason: 'The configuration byte is 0, so a write is stable when it completes.',
      },
      {
        negotiated: ['FLUSH'],
        mode: 'DRAIN_FLUSH',
        device: WRITE_BACK,
        reason: 'FLUSH without CONFIG_WCE: presence of a write-back cache is to be assumed.',
      },
      {
        negotiated: ['CONFIG_WCE'],
        mode: 'NONE',
        device: UNFLUSHABLE,
        reason: 'The byte says write-back, and the driver has taken no command to flush with.',
      },
      {
        offered: ['FLUSH'],
        mode: 'DRAIN',
        device: UNCACHED,
        reason: 'FLUSH was offered and not taken, so the device must commit what it completes.',
      },
      {
        mode: 'NONE',
        device: UNFLUSHABLE,
        reason: 'A device that does not offer FLUSH promises nothing about what it completes.',
      },
    ],
    witness: 'OASIS virtio 1.3, 5.2.5 and 5.2.6: device initialization, device operation',
  },
});

/**
 * What a driver makes of what it agreed on with the device.
 *
 * @throws `INVALID_ARGUMENT` for a driver that is none
 * @see `VIRTIO_DRIVERS` for the drivers and their sources
 */
export function virtioOrdering(era: VirtioEra, agreement: VirtioAgreement): VirtioOrdering {
  const { rows } = driverOf(era);
  const { mode, device, reason } = rows.find((row) => holds(row, agreement)) as VirtioDriverRow;
  return { mode, device, reason };
}

/** @throws `INVALID_ARGUMENT` for a driver that is none */
export function driverOf(era: VirtioEra): VirtioDriver {
  if (Object.hasOwn(VIRTIO_DRIVERS, era)) return VIRTIO_DRIVERS[era];
  const eras = Object.keys(VIRTIO_DRIVERS).join(', ');
  throw new WriteBarrierError('INVALID_ARGUMENT', `${String(era)} is none of ${eras}`);
}

function holds(row: VirtioDriverRow, { offered, negotiated, writeback }: VirtioAgreement): boolean {
  const all = (names: readonly VirtioFeature[] | undefined, bits: bigint): boolean =>
    names?.every((name) => hasVirtioFeature(bits, name)) ?? true;
  return (
    all(row.negotiated, negotiated) &&
    all(row.offered, offered) &&
    (row.writeback === undefined || row.writeback === writeback)
  );
}

function deepFreeze<T extends object>(value: T): T {
  for (const part of Object.values(value)) {
    if (typeof part === 'object' && part !== null && !Object.isFrozen(part)) deepFreeze(part);
  }
  return Object.freeze(value);
}
