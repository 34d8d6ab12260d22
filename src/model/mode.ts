// The seven QUEUE_ORDERED modes, as the product that they are.
//
// A barrier needs two things, and they are independent. Something must hold other requests on their
// own side of it: the scheduler waits for the queue to empty (`drain`), or the device is trusted to
// respect an ordered tag (`tag`). And something must get the data past a volatile write cache: there
// is none (`through`), two flushes bracket the barrier (`flush`), or one flush goes before it and the
// write itself is forced to the medium (`fua`). Two times three, and the device that can do neither.
//
// Source: the enum QUEUE_ORDERED_* in Linux include/linux/blkdev.h (2.6.18 to 2.6.36), the table in
// Documentation/block/barrier.txt, and blk_queue_ordered() in block/blk-barrier.c, which accepted
// these seven composite values and no other.

import { WriteBarrierError } from './error.js';

/** The kernel's names, without their `QUEUE_ORDERED_` prefix. */
export type ModeName =
  | 'NONE'
  | 'DRAIN'
  | 'DRAIN_FLUSH'
  | 'DRAIN_FUA'
  | 'TAG'
  | 'TAG_FLUSH'
  | 'TAG_FUA';

/** How a mode gets a barrier's data past a volatile write cache. */
export type CachePolicy = 'through' | 'flush' | 'fua';

/** How a queue keeps the promise that a barrier makes. No eighth mode can be written down. */
export type OrderedMode =
  | {
      /** Barriers are refused: whoever needs order waits for completion, and flushes. */
      readonly by: 'none';
    }
  | {
      /** Who holds other requests on their side: the scheduler by waiting, or the device by a tag. */
      readonly by: 'drain' | 'tag';
      /** The way past a volatile cache. */
      readonly cache: CachePolicy;
    };

/** The seven modes as data. */
export const MODES: Readonly<Record<ModeName, OrderedMode>> = Object.freeze({
  NONE: Object.freeze({ by: 'none' }),
  DRAIN: Object.freeze({ by: 'drain', cache: 'through' }),
  DRAIN_FLUSH: Object.freeze({ by: 'drain', cache: 'flush' }),
  DRAIN_FUA: Object.freeze({ by: 'drain', cache: 'fua' }),
  TAG: Object.freeze({ by: 'tag', cache: 'through' }),
  TAG_FLUSH: Object.freeze({ by: 'tag', cache: 'flush' }),
  TAG_FUA: Object.freeze({ by: 'tag', cache: 'fua' }),
});

/** The names of the modes, in the order of the kernel's table. */
export const MODE_NAMES: readonly ModeName[] = Object.freeze(Object.keys(MODES) as ModeName[]);

/**
 * What a device says about its cache, its flush and its tags: all that a mode's meaning depends on.
 * Every `Capabilities` of a storage is one.
 */
export interface DeviceTraits {
  /**
   * `volatile`: a completed write may be lost in a power cut. `none`: completion means on the medium.
   * `protected`: a cache that outlives a power cut (battery, capacitors), which is as good as none.
   */
  readonly cache: 'none' | 'volatile' | 'protected';
  /** The device has a command that empties its volatile cache. */
  readonly flush: boolean;
  /** The device can force a single write to the medium. */
  readonly fua: boolean;
  /** The device executes a command with an ordered tag after all older ones, before all younger. */
  readonly orderedTags: boolean;
}

/**
 * The mode that the kernel's documentation tells a driver to pick for such a device.
 *
 * A volatile cache without a flush command makes barriers impossible: NONE. Otherwise tags where the
 * device has them, and the cheapest way past the cache that it offers.
 *
 * @see the table in Linux Documentation/block/barrier.txt
 */
export function chooseMode(device: DeviceTraits): ModeName {
  const by = device.orderedTags ? 'TAG' : 'DRAIN';
  if (device.cache !== 'volatile') return by;
  if (!device.flush) return 'NONE';
  return device.fua ? `${by}_FUA` : `${by}_FLUSH`;
}

/**
 * The mode of that name.
 *
 * @throws `EINVAL` for anything but the seven names, as blk_queue_ordered() does
 */
export function modeOf(name: ModeName): OrderedMode {
  if (!Object.hasOwn(MODES, name)) {
    throw new WriteBarrierError(
      'EINVAL',
      `${String(name)} is not an ordered mode; the seven are ${MODE_NAMES.join(', ')}`,
    );
  }
  return MODES[name];
}
