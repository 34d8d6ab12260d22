// What the modes promise: the laws of guarantees() and chooseMode() on every device that can be
// described, and the matrix typed in again from the table of the documentation.

import { describe, expect, test } from 'vitest';
import {
  type Answer,
  chooseMode,
  type DeviceTraits,
  GUARANTEES,
  type GuaranteeAnswers,
  guarantees,
  initialState,
  lowerSteps,
  MODE_NAMES,
  MODES,
  type ModeName,
  transition,
  UNSAFE_PAIRS,
  type UnsafePair,
  type Verdict,
} from '../../src/model/index.js';
import { ALL_DEVICES } from './arbitraries.js';

const SENTENCE = /^[A-Z][^.]*[^.\s]\.$/;
const PAIRS: readonly (readonly [ModeName, DeviceTraits])[] = MODE_NAMES.flatMap((mode) =>
  ALL_DEVICES.map((device) => [mode, device] as const),
);
const namesOf = (mode: ModeName, device: DeviceTraits): UnsafePair['name'][] =>
  guarantees(mode, device).unsafe.map(({ name }) => name);
const answersOf = ({
  completionOrder,
  preBeforeBarrier,
  barrierBeforePost,
  barrierDurable,
  coveredDurable,
  emptyBarrierFlushes,
  plainDurable,
}: GuaranteeAnswers): Answer[] => [
  completionOrder,
  preBeforeBarrier,
  barrierBeforePost,
  barrierDurable,
  coveredDurable,
  emptyBarrierFlushes,
  plainDurable,
];

/** A device that can do everything, with the given exceptions. */
const able = (exceptions: Partial<DeviceTraits> = {}): DeviceTraits => ({
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
  ...exceptions,
});

describe('laws on every mode and device', () => {
  test('a protected cache promises what no cache promises', () => {
    for (const [mode, device] of PAIRS) {
      if (device.cache !== 'protected') continue;
      expect(guarantees(mode, device)).toEqual(guarantees(mode, { ...device, cache: 'none' }));
    }
  });

  test('every reason is one sentence', () => {
    for (const [mode, device] of PAIRS) {
      expect(guarantees(mode, device).reason).toMatch(SENTENCE);
    }
  });

  test('a pair with a name is unsafe, and only NONE is host-ordered', () => {
    for (const [mode, device] of PAIRS) {
      const { unsafe, verdict } = guarantees(mode, device);
      expect(unsafe.length > 0).toBe(verdict === 'unsafe');
      expect(verdict === 'host-ordered').toBe(mode === 'NONE' && device.cache !== 'volatile');
    }
  });

  test('what is unsafe keeps neither side of a barrier to it', () => {
    for (const [mode, device] of PAIRS) {
      const { verdict, preBeforeBarrier, barrierBeforePost } = guarantees(mode, device);
      if (verdict === 'unsafe') expect([preBeforeBarrier, barrierBeforePost]).toEqual(['no', 'no']);
      if (verdict.startsWith('safe')) {
        expect([preBeforeBarrier, barrierBeforePost]).toEqual(['yes', 'yes']);
      }
    }
  });

  test('only a mode that can stop a barrier after a failure is called safe', () => {
    for (const [mode, device] of PAIRS) {
      const { verdict, failureStopsBarrier } = guarantees(mode, device);
      if (verdict === 'safe') expect(failureStopsBarrier).toBe(true);
      if (verdict === 'safe-without-errors') expect(failureStopsBarrier).toBe(false);
    }
  });

  test('a plain write is durable when it completes exactly where nothing is volatile', () => {
    for (const [mode, device] of PAIRS) {
      const expected = device.cache === 'volatile' ? 'no' : 'yes';
      expect(guarantees(mode, device).plainDurable).toBe(expected);
    }
  });

  test('only a drain mode can stop a barrier when a write before it has failed', () => {
    for (const [mode, device] of PAIRS) {
      expect(guarantees(mode, device).failureStopsBarrier).toBe(MODES[mode].by === 'drain');
    }
  });

  test('FUA is emulated exactly where a volatile cache has a flush and no FUA, or a slow one', () => {
    for (const [mode, traits] of PAIRS) {
      for (const slowFua of [false, true]) {
        const device = { ...traits, slowFua };
        const { cache, flush, fua } = device;
        const emulated = cache === 'volatile' && flush && (!fua || slowFua);
        expect(guarantees(mode, device).fuaEmulated).toBe(emulated);
        // What the word means: the steps of a forced write end with a flush, and no command is forced.
        const request = { kind: 'write', offset: 0, length: 4096, fua: true } as const;
        const { steps } = transition(initialState(mode), request);
        const lowered = lowerSteps(steps, device).flatMap((step) =>
          step.kind === 'command' ? [`${step.op}${step.fua ? ' with FUA' : ''}`] : [],
        );
        expect(lowered.join() === 'write,flush').toBe(emulated);
      }
    }
  });

  test('the answer names the mode that was asked about, and a wrong name is refused', () => {
    for (const [mode, device] of PAIRS) expect(guarantees(mode, device).mode).toBe(mode);
    expect(() => guarantees('BOGUS' as ModeName, able())).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
  });
});

interface MatrixRow {
  readonly mode: ModeName;
  /** WT: completed means on the medium. WB: a volatile cache. */
  readonly device: 'WT' | 'WB';
  /** The seven columns, from the order of completions to the durability of plain writes. */
  readonly columns: string;
  readonly verdict: Verdict;
}

// The columns: completions in the order pre, B, post | pre before B on the medium | B before post on
// the medium | B durable at its completion | pre durable at B's completion | an empty barrier is a
// durable flush | a plain write is durable at its completion.
//
// The published table answers the fourth column of NONE with "yes, if the mode ignores barriers" (WT)
// and "no" (WB). Our NONE never ignores one: it refuses, so the question does not arise.
const MATRIX: readonly MatrixRow[] = [
  {
    mode: 'NONE',
    device: 'WT',
    columns: 'no host host refused no no yes',
    verdict: 'host-ordered',
  },
  { mode: 'NONE', device: 'WB', columns: 'no no no refused no no no', verdict: 'unsafe' },
  { mode: 'DRAIN', device: 'WT', columns: 'yes yes yes yes yes yes yes', verdict: 'safe' },
  { mode: 'DRAIN', device: 'WB', columns: 'yes no no no no no no', verdict: 'unsafe' },
  { mode: 'DRAIN_FLUSH', device: 'WT', columns: 'yes yes yes yes yes yes yes', verdict: 'safe' },
  { mode: 'DRAIN_FLUSH', device: 'WB', columns: 'yes yes yes yes yes yes no', verdict: 'safe' },
  { mode: 'DRAIN_FUA', device: 'WT', columns: 'yes yes yes yes yes yes yes', verdict: 'safe' },
  { mode: 'DRAIN_FUA', device: 'WB', columns: 'yes yes yes yes yes yes no', verdict: 'safe' },
  {
    mode: 'TAG',
    device: 'WT',
    columns: 'no yes yes yes yes yes yes',
    verdict: 'safe-without-errors',
  },
  { mode: 'TAG', device: 'WB', columns: 'no no no no no no no', verdict: 'unsafe' },
  {
    mode: 'TAG_FLUSH',
    device: 'WT',
    columns: 'no yes yes yes yes yes yes',
    verdict: 'safe-without-errors',
  },
  {
    mode: 'TAG_FLUSH',
    device: 'WB',
    columns: 'no yes yes yes yes yes no',
    verdict: 'safe-without-errors',
  },
  {
    mode: 'TAG_FUA',
    device: 'WT',
    columns: 'no yes yes yes yes yes yes',
    verdict: 'safe-without-errors',
  },
  {
    mode: 'TAG_FUA',
    device: 'WB',
    columns: 'no yes yes yes yes yes no',
    verdict: 'safe-without-errors',
  },
];

describe('the matrix', () => {
  test('has fourteen rows, one for each mode and kind of device', () => {
    expect(MATRIX.map(({ mode, device }) => `${mode}/${device}`)).toEqual(
      MODE_NAMES.flatMap((mode) => [`${mode}/WT`, `${mode}/WB`]),
    );
  });

  test.each(MATRIX)('$mode on $device answers $columns and is $verdict', (row) => {
    const found = guarantees(row.mode, able({ cache: row.device === 'WT' ? 'none' : 'volatile' }));
    const columns = row.columns.split(' ').map((word) => (word === 'host' ? 'host-waits' : word));
    expect(answersOf(found)).toEqual(columns);
    expect(found.verdict).toBe(row.verdict);
    const data = GUARANTEES[row.mode][row.device === 'WT' ? 'stable' : 'volatile'];
    expect(answersOf(data.answers)).toEqual(columns);
    expect([found.verdict, found.reason]).toEqual([data.verdict, data.reason]);
  });
});

describe('the unsafe combinations', () => {
  test.each(['NONE', 'DRAIN', 'TAG'] as const)('%s on a volatile cache has a name', (mode) => {
    expect(namesOf(mode, able())).toEqual(['CACHE_NOT_FLUSHED']);
    expect(guarantees(mode, able()).verdict).toBe('unsafe');
  });

  test.each(['DRAIN_FLUSH', 'DRAIN_FUA', 'TAG_FLUSH', 'TAG_FUA'] as const)(
    '%s on a volatile cache without a flush has a name, whether the device has FUA or not',
    (mode) => {
      for (const fua of [true, false]) {
        expect(namesOf(mode, able({ flush: false, fua }))).toEqual(['NO_FLUSH']);
        expect(guarantees(mode, able({ flush: false, fua })).verdict).toBe('unsafe');
        expect(namesOf(mode, able({ flush: false, fua, cache: 'none' }))).toEqual([]);
      }
    },
  );

  test.each(['TAG', 'TAG_FLUSH', 'TAG_FUA'] as const)(
    '%s on a device without ordered tags has a name, and no cache is needed to break it',
    (mode) => {
      for (const cache of ['none', 'protected', 'volatile'] as const) {
        const found = guarantees(mode, able({ cache, orderedTags: false }));
        expect(found.unsafe.map(({ name }) => name)).toContain('NO_ORDERED_TAGS');
        expect(found.verdict).toBe('unsafe');
        expect(found.completionOrder).toBe('no');
      }
    },
  );

  test('two things can be wrong at once, and both are named', () => {
    expect(namesOf('TAG', able({ orderedTags: false }))).toEqual([
      'CACHE_NOT_FLUSHED',
      'NO_ORDERED_TAGS',
    ]);
    expect(namesOf('TAG_FUA', able({ orderedTags: false, flush: false }))).toEqual([
      'NO_FLUSH',
      'NO_ORDERED_TAGS',
    ]);
  });

  test('a drain mode does not ask for tags, and FUA may always be missing', () => {
    for (const mode of ['DRAIN_FLUSH', 'DRAIN_FUA'] as const) {
      for (const fua of [true, false]) {
        expect(guarantees(mode, able({ orderedTags: false, fua })).verdict).toBe('safe');
      }
    }
  });

  test('without tags and without a cache a barrier is durable when it completes, and an empty one drains', () => {
    const columns = (cache: 'none' | 'volatile') =>
      answersOf(guarantees('TAG_FUA', able({ cache, orderedTags: false })));
    expect(columns('none')).toEqual(['no', 'no', 'no', 'yes', 'no', 'yes', 'yes']);
    expect(columns('volatile')).toEqual(['no', 'no', 'no', 'no', 'no', 'no', 'no']);
  });

  test('without a flush command a mode keeps what its plain sibling keeps: DRAIN the order of completions', () => {
    for (const cache of ['FLUSH', 'FUA'] as const) {
      const device = able({ flush: false });
      expect(guarantees(`DRAIN_${cache}`, device).completionOrder).toBe('yes');
      expect(guarantees(`TAG_${cache}`, device).completionOrder).toBe('no');
    }
  });

  test('of two things that are wrong the missing tags are the reason, because no cache is needed to see them', () => {
    const { reason } = guarantees('TAG_FUA', able({ orderedTags: false, flush: false }));
    expect(reason).toContain(UNSAFE_PAIRS.NO_ORDERED_TAGS.combination);
  });

  test('the reason of an unsafe pair that no row of the matrix has is the one that it breaks', () => {
    const { reason } = guarantees('TAG', able({ cache: 'none', orderedTags: false }));
    expect(reason).toContain(UNSAFE_PAIRS.NO_ORDERED_TAGS.combination);
    expect(reason).toContain(UNSAFE_PAIRS.NO_ORDERED_TAGS.breaks);
  });

  // The rows of the documentation's table and the litmus tests that it names for each.
  test.each<[UnsafePair['name'], string]>([
    ['CACHE_NOT_FLUSHED', 'L1 L2 L3 L6 L9 L10'],
    ['NO_FLUSH', 'L1 L3 L6'],
    ['NO_ORDERED_TAGS', 'L1 L2 L3b L6'],
    ['TAG_ERRORS', 'F1 F3'],
    ['FLUSH_IGNORED', 'L1 L3 L6'],
    ['FUA_IGNORED', 'L2 L3a'],
    ['FUA_AS_FENCE', 'L12'],
    ['TORN_BARRIER', 'L8'],
    ['OVERLAP_IN_FLIGHT', ''],
    ['SPLIT_PREFLUSH', 'L1'],
  ])('%s is shown by the litmus tests [%s]', (name, litmus) => {
    expect(UNSAFE_PAIRS[name].name).toBe(name);
    expect(UNSAFE_PAIRS[name].litmus.join(' ')).toBe(litmus);
    expect(UNSAFE_PAIRS[name].combination).not.toBe('');
    expect(UNSAFE_PAIRS[name].breaks).not.toBe('');
  });

  test('there are ten of them', () => {
    expect(Object.keys(UNSAFE_PAIRS)).toHaveLength(10);
  });
});

interface Choice {
  readonly mode: ModeName;
  readonly cache: 'write-back' | 'none';
  /** Absent: any. */
  readonly tags?: boolean;
  readonly flush?: boolean;
  readonly fua?: boolean;
}

// Linux Documentation/block/barrier.txt. Its row for NONE covers devices without a cache too, but says
// only that nothing better is needed there; DRAIN and TAG ask nothing of such a device, so they win.
const CHOICES: readonly Choice[] = [
  { mode: 'NONE', cache: 'write-back', flush: false },
  { mode: 'DRAIN', cache: 'none', tags: false },
  { mode: 'DRAIN_FLUSH', cache: 'write-back', tags: false, flush: true, fua: false },
  { mode: 'DRAIN_FUA', cache: 'write-back', tags: false, flush: true, fua: true },
  { mode: 'TAG', cache: 'none', tags: true },
  { mode: 'TAG_FLUSH', cache: 'write-back', tags: true, flush: true, fua: false },
  { mode: 'TAG_FUA', cache: 'write-back', tags: true, flush: true, fua: true },
];

describe('the mode that a driver picks', () => {
  test('every device has exactly one row of the kernel table, and gets its mode', () => {
    for (const device of ALL_DEVICES) {
      const rows = CHOICES.filter(
        ({ cache, tags, flush, fua }) =>
          (cache === 'write-back') === (device.cache === 'volatile') &&
          (tags ?? device.orderedTags) === device.orderedTags &&
          (flush ?? device.flush) === device.flush &&
          (fua ?? device.fua) === device.fua,
      );
      expect(rows.map(({ mode }) => mode)).toEqual([chooseMode(device)]);
    }
  });

  test('every mode is picked for some device', () => {
    expect(new Set(ALL_DEVICES.map(chooseMode))).toEqual(new Set(MODE_NAMES));
  });

  test('the picked mode is never an unsafe one, except where barriers are impossible', () => {
    for (const device of ALL_DEVICES) {
      const mode = chooseMode(device);
      const { verdict } = guarantees(mode, device);
      expect(verdict === 'unsafe').toBe(mode === 'NONE');
    }
  });

  test('where NONE is picked, every other mode is unsafe as well', () => {
    for (const device of ALL_DEVICES) {
      if (chooseMode(device) !== 'NONE') continue;
      for (const mode of MODE_NAMES) expect(guarantees(mode, device).verdict).toBe('unsafe');
    }
  });
});
