// The kernel's numbers for the modes, in both layouts. The composites are typed in from
// include/linux/blkdev.h of Linux 2.6.18 to 2.6.28 and of 2.6.31 to 2.6.36.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MODE_NAMES, type ModeName } from 'write-barrier';
import {
  decodeLegacyMode,
  encodeLegacyMode,
  type LegacyLayout,
} from '../../../src/systems/linux/eras.js';
import { modeNames } from '../../model/arbitraries.js';

const COMPOSITES: readonly (readonly [ModeName, older: number, younger: number])[] = [
  ['NONE', 0x00, 0x00],
  ['DRAIN', 0x01, 0x21],
  ['DRAIN_FLUSH', 0x31, 0x71],
  ['DRAIN_FUA', 0x51, 0xb1],
  ['TAG', 0x02, 0x22],
  ['TAG_FLUSH', 0x32, 0x72],
  ['TAG_FUA', 0x52, 0xb2],
];
const LAYOUTS: readonly LegacyLayout[] = ['2.6.18', '2.6.31'];
const layouts: fc.Arbitrary<LegacyLayout> = fc.constantFrom(...LAYOUTS);
const refusal = expect.objectContaining({ code: 'EINVAL' });

const composites = (layout: LegacyLayout): number[] =>
  COMPOSITES.map(([, older, younger]) => (layout === '2.6.18' ? older : younger));

describe('the laws of the numbers', () => {
  test('given any mode and layout, when its number is decoded, then the mode comes back', () => {
    fc.assert(
      fc.property(modeNames, layouts, (mode, layout) => {
        expect(decodeLegacyMode(encodeLegacyMode(mode, layout), layout)).toBe(mode);
      }),
    );
  });

  test.each(LAYOUTS)(
    'layout %s accepts its seven composites of all bytes and no other',
    (layout) => {
      const accepted: number[] = [];
      for (let value = 0; value <= 0xff; value += 1) {
        if (composites(layout).includes(value)) {
          accepted.push(encodeLegacyMode(decodeLegacyMode(value, layout), layout));
        } else {
          expect(() => decodeLegacyMode(value, layout)).toThrow(refusal);
        }
      }
      expect(accepted).toEqual(composites(layout).sort((a, b) => a - b));
    },
  );

  test('given any other number, when it is decoded, then it is refused with EINVAL', () => {
    fc.assert(
      fc.property(layouts, fc.oneof(fc.integer(), fc.double()), (layout, value) => {
        // Zero is NONE, whatever its sign.
        fc.pre(!composites(layout).some((composite) => composite === value));
        expect(() => decodeLegacyMode(value, layout)).toThrow(refusal);
      }),
    );
  });
});

describe('the composites', () => {
  test('the table has a row for each of the seven modes', () => {
    expect(COMPOSITES.map(([mode]) => mode)).toEqual(MODE_NAMES);
  });

  test.each(COMPOSITES)(
    '%s is %i in the older layout and %i in the younger',
    (mode, older, younger) => {
      expect(encodeLegacyMode(mode, '2.6.18')).toBe(older);
      expect(encodeLegacyMode(mode, '2.6.31')).toBe(younger);
      expect(decodeLegacyMode(older, '2.6.18')).toBe(mode);
      expect(decodeLegacyMode(younger, '2.6.31')).toBe(mode);
    },
  );

  test('case 2: 0x51 of the older and 0xb1 of the younger layout are both DRAIN_FUA', () => {
    expect(decodeLegacyMode(0x51, '2.6.18')).toBe('DRAIN_FUA');
    expect(decodeLegacyMode(0xb1, '2.6.31')).toBe('DRAIN_FUA');
  });

  test('case 2: 0x31 is an error in the younger layout, and not the DRAIN_FLUSH of the older', () => {
    expect(decodeLegacyMode(0x31, '2.6.18')).toBe('DRAIN_FLUSH');
    expect(() => decodeLegacyMode(0x31, '2.6.31')).toThrow(refusal);
  });

  test('no number but zero means the same in both layouts', () => {
    const [older, younger] = LAYOUTS.map(composites) as [number[], number[]];
    expect(older.filter((value) => younger.includes(value))).toEqual([0]);
  });
});

describe('what is no number of a mode', () => {
  test('case 1: negative, fractional and oversized numbers are refused with EINVAL', () => {
    const numbers = [-1, -0x71, 0.5, 0x71 + 0.5, NaN, Infinity, 0x171, 2 ** 32 + 0x71];
    for (const layout of LAYOUTS) {
      for (const value of numbers) expect(() => decodeLegacyMode(value, layout)).toThrow(refusal);
    }
  });

  test('case 1: what is not even a number is refused with EINVAL, and never converted', () => {
    const strange: unknown[] = [
      '0x71',
      '113',
      '',
      'DRAIN',
      null,
      undefined,
      true,
      0x71n,
      [0x71],
      {},
    ];
    for (const layout of LAYOUTS) {
      for (const value of strange) {
        expect(() => decodeLegacyMode(value as number, layout)).toThrow(refusal);
      }
    }
  });

  test('a layout that never was, and a name that no mode has, are refused with EINVAL', () => {
    for (const layout of ['2.6.37', '', 'toString', '__proto__']) {
      expect(() => decodeLegacyMode(0, layout as LegacyLayout)).toThrow(refusal);
      expect(() => encodeLegacyMode('DRAIN', layout as LegacyLayout)).toThrow(refusal);
    }
    for (const name of ['BARRIER', 'toString']) {
      expect(() => encodeLegacyMode(name as ModeName, '2.6.31')).toThrow(refusal);
    }
  });

  test('the message shows the layout, and the number as the kernel headers write it', () => {
    expect(() => decodeLegacyMode(0x31, '2.6.31')).toThrow(/2\.6\.31.*0x31/);
  });
});
