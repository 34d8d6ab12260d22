// The kernel's numbers for the seven modes. There are two layouts, and they disagree: 0x20 means
// "postflush" in the older and "do the barrier" in the younger, 0x40 means "FUA" in the older and
// "postflush" in the younger. So a number is never read without its layout.
//
// Source: include/linux/blkdev.h of Linux 2.6.18 to 2.6.28 and of 2.6.31 to 2.6.36.

import { WriteBarrierError } from './error.js';
import { MODE_NAMES, MODES, type ModeName, modeOf, type OrderedMode } from './mode.js';

/** A bit layout, named by the first kernel that is known to have it. */
export type LegacyLayout = '2.6.18' | '2.6.31';

interface Bits {
  readonly drain: number;
  readonly tag: number;
  readonly preflush: number;
  readonly bar: number;
  readonly postflush: number;
  readonly fua: number;
}

const LAYOUTS: Readonly<Record<LegacyLayout, Bits>> = {
  '2.6.18': { drain: 0x01, tag: 0x02, preflush: 0x10, bar: 0, postflush: 0x20, fua: 0x40 },
  '2.6.31': { drain: 0x01, tag: 0x02, preflush: 0x10, bar: 0x20, postflush: 0x40, fua: 0x80 },
};

/**
 * The number that a kernel of that layout has for the mode.
 *
 * @throws `EINVAL` for a name or a layout that does not exist
 */
export function encodeLegacyMode(name: ModeName, layout: LegacyLayout): number {
  return compose(modeOf(name), bitsOf(layout));
}

/**
 * The mode that a kernel of that layout means by the number.
 *
 * @throws `EINVAL` for every value but the seven composites, as blk_queue_ordered() answered
 */
export function decodeLegacyMode(value: number, layout: LegacyLayout): ModeName {
  const bits = bitsOf(layout);
  const name = MODE_NAMES.find((candidate) => compose(MODES[candidate], bits) === value);
  if (name === undefined) {
    const shown = typeof value === 'number' ? `0x${value.toString(16)}` : String(value);
    throw new WriteBarrierError('EINVAL', `no kernel of layout ${layout} accepted mode ${shown}`);
  }
  return name;
}

function compose(mode: OrderedMode, bits: Bits): number {
  if (mode.by === 'none') return 0;
  const order = bits[mode.by] | bits.bar;
  if (mode.cache === 'through') return order;
  return order | bits.preflush | (mode.cache === 'fua' ? bits.fua : bits.postflush);
}

function bitsOf(layout: LegacyLayout): Bits {
  if (!Object.hasOwn(LAYOUTS, layout)) {
    throw new WriteBarrierError('EINVAL', `${String(layout)} is not a layout of mode bits`);
  }
  return LAYOUTS[layout];
}
