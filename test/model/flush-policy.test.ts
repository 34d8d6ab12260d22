// The policy for flushes and FUA: its table typed in again, and the laws of lowering on every device.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type CommandStep,
  canHonour,
  type DeviceTraits,
  FLUSH_POLICY,
  flushPolicy,
  formatProgram,
  formatSteps,
  initialState,
  lowerSteps,
  MODE_NAMES,
  type ModeName,
  parseProgram,
  type Request,
  type Step,
  transformer,
  transition,
} from '../../src/model/index.js';
import { ALL_DEVICES, barrierModes, devices, modeNames, programs } from './arbitraries.js';

const BOTH = [false, true] as const;
type RequestFlags = Parameters<typeof flushPolicy>[1];
type FlushPolicy = ReturnType<typeof flushPolicy>;

const ALL_FLAGS: readonly RequestFlags[] = BOTH.flatMap((data) =>
  BOTH.flatMap((preflush) => BOTH.map((fua) => ({ data, preflush, fua }))),
);
const stableDevices = fc.constantFrom(...ALL_DEVICES.filter(({ cache }) => cache !== 'volatile'));

const commandsOf = (steps: readonly Step[]): CommandStep[] =>
  steps.filter((step) => step.kind === 'command');
const isForced = (step: Step): boolean => step.kind === 'command' && step.fua;
const isFlush = (step: Step): boolean => step.kind === 'command' && step.op === 'flush';

interface PolicyRow {
  readonly cache: 'yes' | 'no';
  readonly fua: 'yes' | 'no' | 'any';
  readonly request: 'any flags' | 'none' | 'PREFLUSH' | 'FUA' | 'PREFLUSH+FUA';
  readonly data: 'yes' | 'no';
  /** The steps that run, of PREFLUSH, DATA and POSTFLUSH. */
  readonly runs: string;
}

// Linux block/blk-flush.c, blk_flush_policy(), since 2.6.37. The last three rows are not in the
// published table: a request without flags, and an empty one with both, where each flag acts alone.
const POLICY: readonly PolicyRow[] = [
  { cache: 'no', fua: 'any', request: 'any flags', data: 'no', runs: '' },
  { cache: 'no', fua: 'any', request: 'any flags', data: 'yes', runs: 'DATA' },
  { cache: 'yes', fua: 'any', request: 'PREFLUSH', data: 'no', runs: 'PREFLUSH' },
  { cache: 'yes', fua: 'no', request: 'PREFLUSH', data: 'yes', runs: 'PREFLUSH DATA' },
  { cache: 'yes', fua: 'no', request: 'FUA', data: 'yes', runs: 'DATA POSTFLUSH' },
  {
    cache: 'yes',
    fua: 'no',
    request: 'PREFLUSH+FUA',
    data: 'yes',
    runs: 'PREFLUSH DATA POSTFLUSH',
  },
  { cache: 'yes', fua: 'yes', request: 'PREFLUSH', data: 'yes', runs: 'PREFLUSH DATA' },
  { cache: 'yes', fua: 'yes', request: 'FUA', data: 'yes', runs: 'DATA(FUA)' },
  { cache: 'yes', fua: 'yes', request: 'PREFLUSH+FUA', data: 'yes', runs: 'PREFLUSH DATA(FUA)' },
  { cache: 'yes', fua: 'no', request: 'FUA', data: 'no', runs: 'POSTFLUSH' },
  { cache: 'yes', fua: 'yes', request: 'FUA', data: 'no', runs: '' },
  { cache: 'yes', fua: 'any', request: 'none', data: 'no', runs: '' },
  { cache: 'yes', fua: 'any', request: 'none', data: 'yes', runs: 'DATA' },
  { cache: 'yes', fua: 'no', request: 'PREFLUSH+FUA', data: 'no', runs: 'PREFLUSH POSTFLUSH' },
  { cache: 'yes', fua: 'yes', request: 'PREFLUSH+FUA', data: 'no', runs: 'PREFLUSH' },
];

function shown({ preflush, data, postflush }: FlushPolicy): string {
  const ran = [preflush && 'PREFLUSH', data === 'plain' && 'DATA', data === 'fua' && 'DATA(FUA)'];
  return [...ran, postflush && 'POSTFLUSH'].filter(Boolean).join(' ');
}

function matches(row: PolicyRow, device: DeviceTraits, flags: RequestFlags): boolean {
  const asked = [flags.preflush && 'PREFLUSH', flags.fua && 'FUA'].filter(Boolean).join('+');
  return (
    (row.cache === 'yes') === (device.cache === 'volatile') &&
    (row.fua === 'any' || (row.fua === 'yes') === device.fua) &&
    (row.data === 'yes') === flags.data &&
    (row.request === 'any flags' || row.request === (asked || 'none'))
  );
}

describe('the policy', () => {
  test('every device and request has exactly one row, in the data and in the typed table', () => {
    for (const device of ALL_DEVICES) {
      for (const flags of ALL_FLAGS) {
        const rows = FLUSH_POLICY.filter(
          ({ volatileCache, deviceFua = device.fua, request }) =>
            volatileCache === (device.cache === 'volatile') &&
            deviceFua === device.fua &&
            Object.entries(request).every(([flag, on]) => flags[flag as keyof RequestFlags] === on),
        );
        expect(rows).toHaveLength(1);
        const runs = rows[0]?.runs as FlushPolicy;
        expect(flushPolicy(device, flags)).toEqual(flags.data ? runs : { ...runs, data: 'no' });
        expect(POLICY.filter((row) => matches(row, device, flags))).toHaveLength(1);
      }
    }
  });

  test.each(POLICY)('cache $cache, FUA $fua: $request, data $data, runs [$runs]', (row) => {
    const asked = ALL_DEVICES.flatMap((device) =>
      ALL_FLAGS.filter((flags) => matches(row, device, flags)).map((flags) => ({ device, flags })),
    );
    expect(asked.length).toBeGreaterThan(0);
    for (const { device, flags } of asked) expect(shown(flushPolicy(device, flags))).toBe(row.runs);
  });
});

const run = (mode: ModeName, program: string, device: DeviceTraits): string =>
  formatSteps(lowerSteps([...transformer(mode)(parseProgram(program))], device));

/** The run of a mode over any program, lowered to `device`. */
const runs = (
  names: fc.Arbitrary<ModeName>,
  on: fc.Arbitrary<DeviceTraits>,
): fc.Arbitrary<{ steps: Step[]; device: DeviceTraits; lowered: readonly Step[] }> =>
  fc.tuple(names, programs, on).map(([name, program, device]) => {
    // Copies, so that equal requests are told apart.
    const steps = [...transformer(name)(program.map((request) => ({ ...request })))];
    return { steps, device, lowered: lowerSteps(steps, device) };
  });

describe('the laws of lowering', () => {
  test('a device is asked only for what it has: no FUA without FUA, no flush without a flush', () => {
    fc.assert(
      fc.property(runs(modeNames, devices), ({ device, lowered }) => {
        if (!device.fua) expect(lowered.filter(isForced)).toEqual([]);
        if (!device.flush) expect(lowered.filter(isFlush)).toEqual([]);
      }),
    );
  });

  test('without a volatile cache nothing is flushed and nothing is forced', () => {
    fc.assert(
      fc.property(runs(modeNames, stableDevices), ({ lowered }) => {
        expect(lowered.filter((step) => isFlush(step) || isForced(step))).toEqual([]);
      }),
    );
  });

  test('everything but flushes and FUA bits stays, in its order', () => {
    const rest = (steps: readonly Step[]): string =>
      formatSteps(commandsOf(steps).filter((step) => !isFlush(step)));
    fc.assert(
      fc.property(runs(modeNames, devices), ({ steps, lowered }) => {
        expect(rest(lowered).replaceAll('!', '')).toBe(rest(steps).replaceAll('!', ''));
        expect(lowered.filter(({ kind }) => kind === 'refuse')).toEqual(
          steps.filter(({ kind }) => kind === 'refuse'),
        );
      }),
    );
  });

  test('a device that can do everything gets the steps as they are', () => {
    const able = ALL_DEVICES.filter(
      ({ cache, flush, fua }) => cache === 'volatile' && flush && fua,
    );
    fc.assert(
      fc.property(runs(modeNames, fc.constantFrom(...able)), ({ steps, lowered }) => {
        expect(lowered).toEqual(steps);
      }),
    );
  });

  test('lowering twice is lowering once', () => {
    fc.assert(
      fc.property(runs(modeNames, devices), ({ device, lowered }) => {
        expect(lowerSteps(lowered, device)).toEqual(lowered);
      }),
    );
  });

  test('lowering request by request is lowering all at once', () => {
    fc.assert(
      fc.property(modeNames, devices, programs, (name, device, program) => {
        let state = initialState(name);
        const pieces = program.map((request) => {
          const next = transition(state, { ...request });
          state = next.state;
          return next.steps;
        });
        const oneByOne = pieces.flatMap((steps) => lowerSteps(steps, device));
        expect(oneByOne).toEqual(lowerSteps(pieces.flat(), device));
      }),
    );
  });

  test('a forced write without FUA is a write and one flush of its tag and request: its own or the mode’s', () => {
    const emulating = fc.constant<DeviceTraits>({
      cache: 'volatile',
      flush: true,
      fua: false,
      orderedTags: true,
    });
    fc.assert(
      fc.property(runs(modeNames, emulating), ({ steps, lowered }) => {
        const expected = steps.flatMap((step) => {
          if (step.kind !== 'command' || !step.fua) return [step];
          const { tag, request } = step;
          const ofMode = (other: Step): boolean =>
            other.kind === 'command' && other.stage === 'postflush' && other.request === request;
          if (steps.some(ofMode)) return [{ ...step, fua: false }];
          const range = { offset: 0, length: 0 };
          const flush = { kind: 'command', op: 'flush', ...range, tag, fua: false } as const;
          return [
            { ...step, fua: false },
            { ...flush, stage: 'postflush' as const, request },
          ];
        });
        expect(lowered).toEqual(expected);
      }),
    );
  });

  // The litmus test behind this one is L6, `w0 b w1`: its barrier must stay an ordering point on every
  // device, also where the flush that stood for it has nothing to do.
  test('a barrier keeps its place in the order: a drain, or a command with the ordered tag', () => {
    fc.assert(
      fc.property(barrierModes, devices, fc.constantFrom('b', 'b5'), (mode, device, barrier) => {
        const [before, after] = run(mode, `w0 ${barrier} w1`, device)
          .split(/w0 | w1/)
          .slice(1);
        expect(after).toBe('');
        expect(before).toMatch(/=>|\^/);
      }),
    );
  });

  test('a cache with a flush gets every flush, whatever becomes of FUA', () => {
    const flushable = ALL_DEVICES.filter(({ cache, flush }) => cache === 'volatile' && flush);
    fc.assert(
      fc.property(runs(modeNames, fc.constantFrom(...flushable)), ({ steps, lowered }) => {
        const asked = steps.filter(isFlush);
        expect(lowered.filter((step) => asked.includes(step))).toEqual(asked);
      }),
    );
  });
});

describe('the modes on a device without a volatile cache', () => {
  const writeThrough: DeviceTraits = { cache: 'none', flush: true, fua: true, orderedTags: true };

  test('have no flush to wait for', () => {
    expect(run('DRAIN', 'w0 b3 w4', writeThrough)).toBe('w0 => w3 => w4');
    expect(run('TAG_FLUSH', 'w0 b3 w4', writeThrough)).toBe('w0 ^w3 w4');
    expect(run('TAG_FUA', 'w0 b3 w4', writeThrough)).toBe('w0 ^w3 w4');
  });

  test.each(MODE_NAMES)(
    'send the same commands as a mode without flushes, %s among them',
    (mode) => {
      const plain = mode.replace(/_.*/, '') as ModeName;
      // Two drains with nothing between them wait once.
      const sent = (name: ModeName): string =>
        run(name, 'w0 b1 w2! b fw3 f fb4! w5', writeThrough).replaceAll(/(=> )+/g, '=> ');
      expect(sent(mode)).toBe(sent(plain));
    },
  );

  test('drain for an empty barrier where its tagged flush has nothing to do, as plain TAG does', () => {
    for (const mode of ['TAG', 'TAG_FLUSH', 'TAG_FUA'] as const) {
      expect(run(mode, 'w0 b w1', writeThrough)).toBe('w0 => w1');
    }
  });
});

describe('corner cases', () => {
  const writeThrough: DeviceTraits = {
    cache: 'none',
    flush: false,
    fua: false,
    orderedTags: false,
  };
  const writeBack: DeviceTraits = {
    cache: 'volatile',
    flush: true,
    fua: false,
    orderedTags: false,
  };

  test('case 47: without a cache a write with preflush and FUA is one plain write', () => {
    expect(run('NONE', 'fw3!', writeThrough)).toBe('w3');
    const flags = { data: true, preflush: true, fua: true };
    expect(shown(flushPolicy(writeThrough, flags))).toBe('DATA');
  });

  test('case 47: without a cache an empty flush is no command at all', () => {
    expect(run('NONE', 'f', writeThrough)).toBe('');
    const flags = { data: false, preflush: true, fua: false };
    expect(shown(flushPolicy(writeThrough, flags))).toBe('');
  });

  test('case 48: with a cache and without FUA a FUA write is a write and then a flush', () => {
    expect(run('NONE', 'w3!', writeBack)).toBe('w3 F');
    expect(run('NONE', 'fw3!', writeBack)).toBe('F w3 F');
    const flags = { data: true, preflush: false, fua: true };
    expect(shown(flushPolicy(writeBack, flags))).toBe('DATA POSTFLUSH');
  });

  test('case 48: a FUA mode without FUA becomes the flushes of a flush mode', () => {
    expect(run('DRAIN_FUA', 'w0 b3 w4', writeBack)).toBe('w0 => F => w3 F => w4');
    expect(run('TAG_FUA', 'w0 b3 w4', { ...writeBack, orderedTags: true })).toBe('w0 ^F ^w3 ^F w4');
  });
});

describe('a volatile cache without a flush', () => {
  const device = (fua: boolean): DeviceTraits => ({
    cache: 'volatile',
    flush: false,
    fua,
    orderedTags: true,
  });
  const honoured = (fua: boolean): string =>
    parseProgram('w0 r0 d0 f fw0 w0!')
      .filter((request) => canHonour(request, device(fua)))
      .map((request) => formatProgram([request]))
      .join(' ');

  test('honours what asks for no way past it, and a forced write where it has FUA', () => {
    expect(honoured(false)).toBe('w0 r0 d0');
    expect(honoured(true)).toBe('w0 r0 d0 w0!');
  });
});

test('the flush behind another write does not force this one', () => {
  const device: DeviceTraits = { cache: 'volatile', flush: true, fua: false, orderedTags: false };
  const [forced] = commandsOf([...transformer('NONE')(parseProgram('w0!'))]);
  const postflush = commandsOf([...transformer('DRAIN_FLUSH')(parseProgram('b1'))]).at(-1);
  const lowered = lowerSteps([forced as Step, postflush as Step], device);
  expect(commandsOf(lowered).map(({ op }) => op)).toEqual(['write', 'flush', 'flush']);
});

test('only where a tag goes with it a flush becomes a drain: a mode that drains has its drains already', () => {
  const device: DeviceTraits = { cache: 'none', flush: true, fua: true, orderedTags: true };
  for (const mode of MODE_NAMES) {
    const { steps } = transition(initialState(mode), parseProgram('b')[0] as Request);
    const drains = (list: readonly Step[]): number =>
      list.filter(({ kind }) => kind === 'drain').length;
    const added = mode.startsWith('TAG_') ? 1 : 0;
    expect(drains(lowerSteps(steps, device))).toBe(drains(steps) + added);
  }
});
