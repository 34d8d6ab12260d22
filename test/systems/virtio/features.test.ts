// What each driver makes of what was negotiated: the table against another reading of its sources, over everything that
// a device can offer and a driver can take.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { guarantees, type ModeName } from 'write-barrier';
import {
  hasVirtioFeature,
  VIRTIO_DRIVERS,
  VIRTIO_FEATURES,
  type VirtioAgreement,
  type VirtioEra,
  type VirtioFeature,
  virtioFeatureBits,
  virtioOrdering,
} from '../../../src/systems/virtio/features.js';
import { virtioFeatureNames } from './support.js';

const ERAS = Object.keys(VIRTIO_DRIVERS) as VirtioEra[];
const NAMES = Object.keys(VIRTIO_FEATURES) as VirtioFeature[];

/** A driver of that era and a device that offers just these. */
function agreed(
  era: VirtioEra,
  offers: readonly VirtioFeature[],
  writeback = true,
): VirtioAgreement {
  const offered = virtioFeatureBits(...offers);
  return {
    offered,
    negotiated: offered & virtioFeatureBits(...VIRTIO_DRIVERS[era].wants),
    writeback,
  };
}

const modeOf = (era: VirtioEra, offers: readonly VirtioFeature[], writeback?: boolean): ModeName =>
  virtioOrdering(era, agreed(era, offers, writeback)).mode;

const agreements = fc.record({
  offered: fc.subarray(NAMES).map((names) => virtioFeatureBits(...names)),
  negotiated: fc.subarray(NAMES).map((names) => virtioFeatureBits(...names)),
  writeback: fc.boolean(),
});

describe('the drivers of 2010', () => {
  test.each(['beforePatch', 'afterPatch'] as const)(
    '%s: given FLUSH and BARRIER, FLUSH wins, and BARRIER alone means tags',
    (era) => {
      expect(modeOf(era, ['BARRIER', 'FLUSH'])).toBe('DRAIN_FLUSH');
      expect(modeOf(era, ['FLUSH'])).toBe('DRAIN_FLUSH');
      expect(modeOf(era, ['BARRIER'])).toBe('TAG');
    },
  );

  test('case 62: given neither, barriers failed before the patch, and the queue drains after it', () => {
    expect(modeOf('beforePatch', [])).toBe('NONE');
    expect(modeOf('afterPatch', [])).toBe('DRAIN');
  });

  test('given any agreement, the patch changed nothing but the case of neither feature', () => {
    fc.assert(
      fc.property(agreements, (agreement) => {
        const [before, after] = [
          virtioOrdering('beforePatch', agreement),
          virtioOrdering('afterPatch', agreement),
        ];
        const neither =
          !hasVirtioFeature(agreement.negotiated, 'FLUSH') &&
          !hasVirtioFeature(agreement.negotiated, 'BARRIER');
        expect(before.mode === after.mode && before.device === after.device).toBe(!neither);
      }),
    );
  });

  test('given BARRIER alone, the driver believes in tags, in no cache, and knows no flush', () => {
    const { device } = virtioOrdering('afterPatch', agreed('afterPatch', ['BARRIER']));
    expect(device).toEqual({ cache: 'none', flush: false, fua: false, orderedTags: true });
  });
});

describe('today’s driver', () => {
  test('given any agreement, it is write-back where the byte says so, else where FLUSH was negotiated', () => {
    fc.assert(
      fc.property(agreements, (agreement) => {
        const { negotiated, writeback } = agreement;
        const back = hasVirtioFeature(negotiated, 'CONFIG_WCE')
          ? writeback
          : hasVirtioFeature(negotiated, 'FLUSH');
        const { mode, device } = virtioOrdering('linuxToday', agreement);
        expect(mode).toBe('NONE');
        expect(device.cache).toBe(back ? 'volatile' : 'none');
      }),
    );
  });

  test('does not know BARRIER', () => {
    expect(VIRTIO_DRIVERS.linuxToday.wants).not.toContain('BARRIER');
  });
});

describe('the specification', () => {
  test('given any agreement, only what it lets a driver rely on is called stable', () => {
    fc.assert(
      fc.property(agreements, (agreement) => {
        const { offered, negotiated, writeback } = agreement;
        const takes = (name: VirtioFeature): boolean => hasVirtioFeature(negotiated, name);
        const unflushed =
          !takes('CONFIG_WCE') && !takes('FLUSH') && hasVirtioFeature(offered, 'FLUSH');
        const through = takes('CONFIG_WCE') && !writeback;
        const { device } = virtioOrdering('specification', agreement);
        expect(device.cache).toBe(unflushed || through ? 'none' : 'volatile');
        if (device.cache === 'volatile') expect(device.flush).toBe(takes('FLUSH'));
      }),
    );
  });

  test('given a device without FLUSH, no mode is safe, and Linux takes one all the same', () => {
    const offers: VirtioFeature[] = ['VERSION_1'];
    const careful = virtioOrdering('specification', agreed('specification', offers));
    expect(guarantees(careful.mode, careful.device).verdict).toBe('unsafe');
    const trusting = virtioOrdering('linuxToday', agreed('linuxToday', offers));
    expect(trusting.device.cache).toBe('none');
  });
});

describe('every driver', () => {
  test('given any agreement, has no FUA, and its mode is safe on the device that it believes in', () => {
    fc.assert(
      fc.property(fc.constantFrom(...ERAS), agreements, (era, agreement) => {
        const { mode, device } = virtioOrdering(era, agreement);
        expect(device.fua).toBe(false);
        const expected = mode.startsWith('TAG') ? 'safe-without-errors' : 'safe';
        if (mode !== 'NONE') expect(guarantees(mode, device).verdict).toBe(expected);
      }),
    );
  });

  test('is frozen data with a witness, and its last row fits everything', () => {
    const frozen = (value: unknown): boolean =>
      typeof value !== 'object' ||
      value === null ||
      (Object.isFrozen(value) && Object.values(value).every(frozen));
    expect(frozen(VIRTIO_DRIVERS) && frozen(VIRTIO_FEATURES)).toBe(true);
    for (const { witness, rows } of Object.values(VIRTIO_DRIVERS)) {
      expect(witness).not.toBe('');
      expect(rows.at(-1)).not.toHaveProperty('negotiated');
      expect(rows.at(-1)).not.toHaveProperty('offered');
      expect(rows.at(-1)).not.toHaveProperty('writeback');
    }
  });
});

describe('feature bits', () => {
  test('are those of the standard', () => {
    expect(virtioFeatureBits('BARRIER', 'FLUSH', 'CONFIG_WCE', 'VERSION_1')).toBe(0x1_0000_0a01n);
    expect(virtioFeatureBits('RO', 'MQ', 'DISCARD', 'WRITE_ZEROES')).toBe(0x7020n);
    expect(virtioFeatureBits('SIZE_MAX', 'SEG_MAX', 'BLK_SIZE')).toBe(0x46n);
  });

  test('given any set of names, bits and names are the same thing, whatever else is set', () => {
    fc.assert(
      fc.property(
        fc.subarray(NAMES),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        (names, noise) => {
          const others = noise & ~virtioFeatureBits(...NAMES);
          expect(virtioFeatureNames(virtioFeatureBits(...names) | others)).toEqual(names);
        },
      ),
    );
  });
});
