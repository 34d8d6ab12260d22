// Which features a driver and a device agree on, and what follows from that: for the driver one of the seven ordered modes
// and an assumption about the cache of the device, and for each write when it is safe.
//
// Four drivers as data, each a list of rows; the first row that fits counts.
//
//   beforePatch    Linux up to 2.6.35. A device without FLUSH and BARRIER gets no mode at all: barriers fail.
//   afterPatch     The same driver with "virtio_blk: support barriers without FLUSH feature" (June 2010): such a device
//                  is taken to have no volatile cache, so draining is enough. Where it has one, there is now order
//                  among the completions and still no integrity; the patch says so itself.
//   linuxToday     No ordered modes any more. Write-back if the configuration byte says so, else if FLUSH was
//                  negotiated; never FUA, so a forced write is a write and a flush.
//   specification  What the text of the standard allows a driver to rely on, and no more.
//
// The assumption may be false; only the device knows. Of the four only `specification` assumes nothing about a device
// without FLUSH, as the standard says nothing about it.
//
// When a write is safe: the three conditions of the standard, as a state machine over what a driver sees.
//
//   submitted ──completes──▶ stable     the mode byte was 0 all the time (condition 2), or there is no byte and the
//                                       device must commit what it completes (condition 1)
//                            volatile   otherwise
//                            unknown    the byte changed while the write was in flight: it may be either
//   volatile, unknown ──a flush completes that was sent after the write had completed (condition 3)──▶ stable
//   submitted ──fails──▶ unknown, for good: nothing is said about its sectors
//
//   P1  A submitted write is volatile: until it is stable, its sectors may hold anything after a power cut.
//   P2  Changing the byte makes no earlier write stable, and none volatile.
//   P3  A stable write stays stable.
//   P4  A flush that fails, or was sent before the write had completed, says nothing about the write.
//
// A device that does not offer FLUSH promises nothing: its writes stay volatile here, however well it keeps them. Linux
// and the patch of 2010 assume otherwise. A device that is not backed by persistent storage promises nothing either.
//
// Not here: which writes a later one replaces. States are about writes, not about sectors.
//
// Sources: the patch of 15 June 2010 by Christoph Hellwig; drivers/block/virtio_blk.c of Linux 2.6.32 to 2.6.36, and
// virtblk_get_cache_mode() of Linux 6; OASIS virtio 1.3, 5.2 "Block Device" and its legacy interface, 5.2.6.2
// "Device Requirements: Device Operation" for when a write is safe.

import type { DeviceTraits, ModeName } from 'write-barrier';
import { checkArgument, formatValue, misuse, oneOf, type Rule, rule } from 'write-barrier/kit';

const FEATURE_BITS = {
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
} as const;

/** The features of a block device that concern this module, and VERSION_1, which says that both sides are modern. */
export type VirtioFeature = keyof typeof FEATURE_BITS;

/** The number of each feature's bit. BARRIER is of the legacy interface; FLUSH was once called WCE. */
export const VIRTIO_FEATURES: Readonly<Record<VirtioFeature, number>> = Object.freeze(FEATURE_BITS);

/** The name of a feature. */
export const FEATURE_NAME: Rule = oneOf(Object.keys(VIRTIO_FEATURES));

/**
 * A set of features as the bits that go over the transport.
 *
 * @throws `INVALID_ARGUMENT` for an unknown feature
 */
export function virtioFeatureBits(...names: readonly VirtioFeature[]): bigint {
  for (const name of names) checkArgument('a feature', name, FEATURE_NAME);
  return names.reduce((bits, name) => bits | (1n << BigInt(VIRTIO_FEATURES[name])), 0n);
}

/** Whether the bit of the feature is set. */
export function hasVirtioFeature(bits: bigint, name: VirtioFeature): boolean {
  return ((bits >> BigInt(VIRTIO_FEATURES[name])) & 1n) === 1n;
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
  /** How it orders. NONE: barriers are refused, and a client that needs order waits. */
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
const ALL_WANT: readonly VirtioFeature[] = ['SIZE_MAX', 'SEG_MAX', 'RO', 'BLK_SIZE', 'FLUSH'];
const LEGACY_WANTS: readonly VirtioFeature[] = [...ALL_WANT, 'BARRIER'];
const MODERN_WANTS: readonly VirtioFeature[] = [
  ...ALL_WANT,
  ...(['CONFIG_WCE', 'DISCARD', 'WRITE_ZEROES', 'VERSION_1'] as const),
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
 * @throws `INVALID_ARGUMENT` for an unknown driver, and for an agreement without the two sets of bits
 * @see `VIRTIO_DRIVERS` for the drivers and their sources
 */
export function virtioOrdering(era: VirtioEra, agreement: VirtioAgreement): VirtioOrdering {
  const { rows } = driverOf(era);
  checkAgreement(agreement);
  const { mode, device, reason } = rows.find((row) => holds(row, agreement)) as VirtioDriverRow;
  return { mode, device, reason };
}

const BITS = rule((value) => typeof value === 'bigint', 'a bigint');

function checkAgreement(agreement: VirtioAgreement): void {
  checkArgument('offered', agreement?.offered, BITS);
  checkArgument('negotiated', agreement?.negotiated, BITS);
}

/** @throws `INVALID_ARGUMENT` for an unknown driver */
export function driverOf(era: VirtioEra): VirtioDriver {
  if (Object.hasOwn(VIRTIO_DRIVERS, era)) return VIRTIO_DRIVERS[era];
  const eras = Object.keys(VIRTIO_DRIVERS).join(', ');
  throw misuse(`era must be one of ${eras}, not ${formatValue(era)}`);
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

// When a write is safe

/** What may be said of a write: a power cut may take it, may not take it, or the standard does not say. */
export type VirtioStability = 'volatile' | 'stable' | 'unknown';

/** What a driver does and sees. Writes and flushes are numbered by the caller, each for itself. */
export type VirtioStabilityEvent =
  | {
      /** A write was handed to the device. */
      readonly kind: 'submit';
      /** Its number, never used before. */
      readonly write: number;
    }
  | {
      /** The device has answered a write. */
      readonly kind: 'complete';
      /** Its number. */
      readonly write: number;
      /** The status was not OK. */
      readonly failed?: boolean;
    }
  | {
      /** A flush was handed to the device. */
      readonly kind: 'submitFlush';
      /** Its number, never used before. */
      readonly flush: number;
    }
  | {
      /** The device has answered a flush. */
      readonly kind: 'completeFlush';
      /** Its number. */
      readonly flush: number;
      /** The status was not OK. */
      readonly failed?: boolean;
    }
  | {
      /** The driver wrote the configuration byte. */
      readonly kind: 'setWriteback';
      /** What it says now. */
      readonly writeback: boolean;
    };

/** Follows the writes of one device. */
export interface VirtioWrites {
  /**
   * The next thing that happened.
   *
   * @throws `INVALID_ARGUMENT` for what cannot happen: a number used twice, an answer to nothing, a byte that the driver
   *   may not write
   */
  take(event: VirtioStabilityEvent): void;
  /** What may be said of the write now. @throws `INVALID_ARGUMENT` for one that was not submitted */
  of(write: number): VirtioStability;
}

interface Write {
  state: 'in flight' | 'completed' | 'failed';
  stability: VirtioStability;
  /** The byte, where there is one, was 0 at the submission. */
  readonly through: boolean;
  /** How often the byte had changed by the submission. */
  readonly changes: number;
}

/**
 * Follows the writes of a device from the negotiation on; `agreement.writeback` is the byte at that time.
 *
 * @throws `INVALID_ARGUMENT` for an agreement without the two sets of bits
 */
export function virtioWrites(agreement: VirtioAgreement): VirtioWrites {
  checkAgreement(agreement);
  const { offered, negotiated } = agreement;
  const configurable = hasVirtioFeature(negotiated, 'CONFIG_WCE');
  const unflushed = !configurable && !hasVirtioFeature(negotiated, 'FLUSH');
  const commits = unflushed && hasVirtioFeature(offered, 'FLUSH');
  const writes = new Map<number, Write>();
  /** What had completed when each running flush was sent. */
  const flushes = new Map<number, readonly Write[]>();
  const flushed = new Set<number>();
  let writeback = agreement.writeback;
  let changes = 0;

  const complete = (number: number, failed: boolean): void => {
    const write = writes.get(number);
    need(write?.state === 'in flight', `write ${number} is not in flight`);
    write.state = failed ? 'failed' : 'completed';
    if (failed) write.stability = 'unknown';
    else if (commits) write.stability = 'stable';
    else if (configurable && write.changes !== changes) write.stability = 'unknown';
    else if (configurable && write.through) write.stability = 'stable';
  };

  return {
    take: (event) => {
      switch (event.kind) {
        case 'submit': {
          need(!writes.has(event.write), `write ${event.write} has already been submitted`);
          const through = !writeback;
          const state = { state: 'in flight', stability: 'volatile' } as const;
          writes.set(event.write, { ...state, through, changes });
          return;
        }
        case 'complete':
          return complete(event.write, event.failed ?? false);
        case 'submitFlush': {
          need(!flushed.has(event.flush), `flush ${event.flush} has already been submitted`);
          flushed.add(event.flush);
          const completed = [...writes.values()].filter(({ state }) => state === 'completed');
          flushes.set(event.flush, completed);
          return;
        }
        case 'completeFlush': {
          const covered = flushes.get(event.flush);
          need(covered !== undefined, `flush ${event.flush} is not in flight`);
          flushes.delete(event.flush);
          if (!event.failed) for (const write of covered) write.stability = 'stable';
          return;
        }
        case 'setWriteback':
          need(configurable, 'without CONFIG_WCE the driver must not write the byte writeback');
          if (event.writeback !== writeback) changes += 1;
          writeback = event.writeback;
          return;
      }
    },
    of: (number) => {
      const write = writes.get(number);
      need(write !== undefined, `write ${number} was not submitted`);
      return write.stability;
    },
  };
}

function need(happens: boolean, otherwise: string): asserts happens {
  if (!happens) throw misuse(`this event cannot happen now: ${otherwise}`);
}
