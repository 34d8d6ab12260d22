// The seven QUEUE_ORDERED modes, as the product that they are.
//
// A barrier needs two things, and they are independent. Something must keep other requests on their
// side of the barrier: the scheduler waits for the queue to empty (`drain`), or the device is trusted to
// respect an ordered tag (`tag`). And something must get the data past a volatile write cache: there
// is no such cache (`through`), two flushes bracket the barrier (`flush`), or one flush goes before it and the
// write itself is forced to the medium (`fua`). Two times three, and the device that can do neither.
//
// Source: the enum QUEUE_ORDERED_* in Linux include/linux/blkdev.h (2.6.18 to 2.6.36), the table in
// Documentation/block/barrier.txt, and blk_queue_ordered() in block/blk-barrier.c, which accepted
// these seven composite values and no other.

import { WriteBarrierError } from './error.js';
import { formatValue } from './show.js';

/** The kernel's names, without their `QUEUE_ORDERED_` prefix. */
export type ModeName =
  | 'NONE'
  | 'DRAIN'
  | 'DRAIN_FLUSH'
  | 'DRAIN_FUA'
  | 'TAG'
  | 'TAG_FLUSH'
  | 'TAG_FUA';

/** How a queue keeps the promise of a barrier. The type has seven values, so there is no eighth mode. */
export type OrderedMode =
  | {
      /** Barriers are refused: the caller orders requests by waiting for completions, and by flushing. */
      readonly by: 'none';
    }
  | {
      /** What keeps the order: the scheduler, which waits (`drain`), or the device, which obeys ordered tags (`tag`). */
      readonly by: 'drain' | 'tag';
      /**
       * How the data gets past a volatile cache: there is none (`through`), two flushes bracket the barrier (`flush`), or one
       * flush goes before it and its own data is forced (`fua`).
       */
      readonly cache: 'through' | 'flush' | 'fua';
    };

/** The seven modes as data. */
export const MODES: Readonly<Record<ModeName, OrderedMode>> = Object.freeze({
  NONE: Object.freeze({ by: 'none' }),
  DRAIN: ordered('drain', 'through'),
  DRAIN_FLUSH: ordered('drain', 'flush'),
  DRAIN_FUA: ordered('drain', 'fua'),
  TAG: ordered('tag', 'through'),
  TAG_FLUSH: ordered('tag', 'flush'),
  TAG_FUA: ordered('tag', 'fua'),
});

function ordered<By extends 'drain' | 'tag', Cache extends 'through' | 'flush' | 'fua'>(
  by: By,
  cache: Cache,
): { readonly by: By; readonly cache: Cache } {
  return Object.freeze({ by, cache });
}

/** The names of the modes, in the order of the kernel's table. */
export const MODE_NAMES: readonly ModeName[] = Object.freeze(Object.keys(MODES) as ModeName[]);

/**
 * What a device states about its cache, its flush and its tags. What a mode means depends on nothing else.
 * The `Capabilities` of a storage include it.
 */
export interface DeviceTraits {
  /**
   * `volatile`: a completed write may be lost in a power cut. `none`: completion means on the medium.
   * `protected`: a cache that survives a power cut (battery, capacitors), which is as safe as no cache.
   */
  readonly cache: 'none' | 'volatile' | 'protected';
  /** The device has a command that empties its volatile cache. */
  readonly flush: boolean;
  /** The device can force a single write to the medium. */
  readonly fua: boolean;
  /**
   * A forced write costs as much as a write and a flush, as O_DSYNC does on a file. So forced writes share flushes; only the
   * barrier's own write is forced by itself, because no other flush could serve it. It needs `flush`.
   *
   * @defaultValue false
   */
  readonly slowFua?: boolean;
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
  // An object that is converted to a string twice may give two different strings.
  if (typeof name !== 'string' || !Object.hasOwn(MODES, name)) {
    throw new WriteBarrierError(
      'EINVAL',
      `${formatValue(name)} is not an ordered mode; the seven are ${MODE_NAMES.join(', ')}`,
    );
  }
  return MODES[name];
}
