// What disk drivers chose, and what the queue accepted, row by row.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { chooseMode, MODE_NAMES, MODES, type ModeName } from 'write-barrier';
import {
  acceptOrdered,
  BARRIER_ERAS,
  type DiskTraits,
  diskModeBy,
  encodeLegacyMode,
  IDE_DISK_RULES,
  IDE_DISK_RULES_WITH_FUA,
  runnableTasks,
  SCSI_DISK_RULES,
  type ScsiTaskAttribute,
} from '../../../src/systems/linux/eras.js';
import { BARRIER_ERA_NAMES } from './support.js';

const BOTH = [false, true];
const DISKS: readonly DiskTraits[] = BOTH.flatMap((writeCache) =>
  BOTH.flatMap((flush) => BOTH.map((fua) => ({ writeCache, flush, fua }))),
);

describe('a disk driver of the era', () => {
  test.each([
    // cache off
    [false, false, 'DRAIN'],
    [false, true, 'DRAIN'],
    // cache on
    [true, false, 'DRAIN_FLUSH'],
    [true, true, 'DRAIN_FUA'],
  ] as const)(
    'given a SCSI disk with WCE %s and DPOFUA %s, then it chooses %s',
    (writeCache, fua, mode) => {
      for (const flush of BOTH)
        expect(diskModeBy(SCSI_DISK_RULES, { writeCache, flush, fua })).toBe(mode);
    },
  );

  test.each([
    [false, false, 'DRAIN'],
    [false, true, 'DRAIN'],
    [true, true, 'DRAIN_FLUSH'],
    [true, false, 'NONE'],
  ] as const)(
    'given an IDE disk with its cache %s and a flush %s, then it chooses %s',
    (writeCache, flush, mode) => {
      for (const fua of BOTH)
        expect(diskModeBy(IDE_DISK_RULES, { writeCache, flush, fua })).toBe(mode);
    },
  );

  test('given an IDE disk with FUA, then only the patch set makes use of it, and only together with a flush', () => {
    for (const disk of DISKS) {
      const { writeCache, flush, fua } = disk;
      const expected = writeCache && flush && fua ? 'DRAIN_FUA' : diskModeBy(IDE_DISK_RULES, disk);
      expect(diskModeBy(IDE_DISK_RULES_WITH_FUA, disk)).toBe(expected);
    }
  });

  test('given any disk, then none chooses a tag mode, whatever the table of the documentation says', () => {
    const traits = { cache: 'volatile', flush: true, fua: true, orderedTags: true } as const;
    expect(chooseMode(traits)).toBe('TAG_FUA');
    for (const disk of DISKS) {
      for (const name of [diskModeBy(SCSI_DISK_RULES, disk), diskModeBy(IDE_DISK_RULES, disk)]) {
        expect(MODES[name].by).not.toBe('tag');
      }
    }
  });

  test('given no rule that matches, then the queue is left as it is made: NONE', () => {
    expect(diskModeBy([], { writeCache: true, flush: true, fua: true })).toBe('NONE');
  });
});

describe('blk_queue_ordered', () => {
  test.each(BARRIER_ERA_NAMES)(
    'given %s, then it takes the seven values of its layout and no other',
    (name) => {
      const era = BARRIER_ERAS[name];
      const accepted = new Map<number, ModeName>();
      for (let value = -1; value < 0x200; value++) {
        try {
          accepted.set(value, acceptOrdered(era, value, true));
        } catch (error) {
          expect(error).toMatchObject({ code: 'EINVAL' });
        }
      }
      const seven = MODE_NAMES.map((mode) => [encodeLegacyMode(mode, era.layout), mode] as const);
      expect([...accepted].sort()).toEqual([...seven].sort());
    },
  );

  test('given the same mode by the numbers of two kernels, then each is read by its own layout', () => {
    expect(acceptOrdered(BARRIER_ERAS['2.6.24'], 0x51, true)).toBe('DRAIN_FUA');
    expect(acceptOrdered(BARRIER_ERAS['2.6.32'], 0xb1, true)).toBe('DRAIN_FUA');
    expect(acceptOrdered(BARRIER_ERAS['2.6.24'], 0x31, true)).toBe('DRAIN_FLUSH');
    // The older DRAIN_FLUSH is nothing to the younger kernel.
    for (const value of [0x31, 0x51]) {
      expect(() => acceptOrdered(BARRIER_ERAS['2.6.36'], value, true)).toThrow(/2\.6\.31/);
    }
  });

  test('given a mode with a flush and no function to make one, then only 2.6.36 takes it', () => {
    for (const name of BARRIER_ERA_NAMES) {
      for (const mode of MODE_NAMES) {
        const era = BARRIER_ERAS[name];
        const refused = mode.includes('_') && name !== '2.6.36';
        for (const value of [mode, encodeLegacyMode(mode, era.layout)]) {
          const accept = (): ModeName => acceptOrdered(era, value, false);
          if (refused) expect(accept).toThrow(/prepare_flush_fn/);
          else expect(accept()).toBe(mode);
        }
      }
    }
  });

  const values = fc.oneof(
    fc.string(),
    fc.double(),
    fc.bigInt(),
    fc.constantFrom(null, undefined, true, 'toString', '__proto__'),
  );

  test('given anything that is no mode at all, then it is EINVAL and nothing else', () => {
    fc.assert(
      fc.property(values, (value) => {
        if ((MODE_NAMES as readonly unknown[]).includes(value)) return;
        for (const name of BARRIER_ERA_NAMES) {
          try {
            acceptOrdered(BARRIER_ERAS[name], value as ModeName, true);
          } catch (error) {
            expect(error).toMatchObject({ code: 'EINVAL' });
            continue;
          }
          expect(typeof value).toBe('number');
        }
      }),
    );
  });
});

describe('the task set of a SCSI device', () => {
  const runnable = (text: string): string => {
    const attributes: Readonly<Record<string, ScsiTaskAttribute>> = {
      s: 'simple',
      h: 'head-of-queue',
      o: 'ordered',
    };
    const tasks = [...text].map((letter) => ({
      attribute: attributes[letter] as ScsiTaskAttribute,
    }));
    return runnableTasks(tasks).join('');
  };

  test.each([
    ['', ''],
    ['sss', '012'],
    ['sos', '0'],
    ['os', '0'],
    ['oos', '0'],
    ['ssoso', '01'],
  ])('given the tasks %s, then %s may run', (tasks, expected) => {
    expect(runnable(tasks)).toBe(expected);
  });

  test('case 67: given an ORDERED barrier, when a HEAD OF QUEUE task comes later, then that one may run first', () => {
    expect(runnable('soh')).toBe('2');
    expect(runnable('oh')).toBe('1');
    expect(runnable('ohsh')).toBe('13');
  });

  const bounds = { minLength: 1, maxLength: 10 };

  test('given any tasks, then one may run, and nothing but HEAD OF QUEUE passes an ORDERED one', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('s', 'h', 'o'), bounds), (letters) => {
        const may = [...runnable(letters.join(''))].map(Number);
        expect(may.length).toBeGreaterThan(0);
        for (const i of may) {
          const passes = letters.slice(0, i).includes('o');
          expect(letters[i] === 'h' || !passes).toBe(true);
        }
      }),
    );
  });
});
