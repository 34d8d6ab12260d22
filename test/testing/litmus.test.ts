// The litmus tables: by the axioms over all runs of the state machine, and by the scheduler on the simulated disk.

import { describe, expect, test } from 'vitest';
import {
  type DeviceTraits,
  guarantees,
  IoScheduler,
  MODE_NAMES,
  type ModeName,
} from 'write-barrier';
import type { DeviceProfile } from '../../src/testing/device/profile.js';
import type { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import {
  FAULT_LITMUS,
  GROWTH_LITMUS,
  LITMUS,
  LITMUS_COLUMNS,
  type LitmusTest,
  LYING_LITMUS,
} from '../../src/testing/lab/litmus.js';
import { type LitmusHost, runLitmus, tryLitmus } from '../../src/testing/lab/litmus-run.js';
import { share } from '../kit/amount.js';

const cells = (tests: readonly LitmusTest[]) =>
  tests.flatMap((litmus) =>
    LITMUS_COLUMNS.filter((mode) => litmus.expected[mode]).map((mode) => ({ litmus, mode })),
  );

/** `A/F` for a write-through and a write-back device, as in the tables. */
function verdicts(litmus: LitmusTest, mode: (typeof LITMUS_COLUMNS)[number]): string {
  return (['none', 'volatile'] as const)
    .map((cache) => runLitmus(litmus, { mode, device: { cache } }).verdict)
    .map((verdict) => (verdict === 'never' ? 'F' : 'A'))
    .join('/');
}

describe('by the axioms', () => {
  test.each(
    [...cells(LITMUS), ...cells(GROWTH_LITMUS), ...cells(FAULT_LITMUS)].map(
      ({ litmus, mode }) => [litmus.name, mode, litmus] as const,
    ),
  )('%s in %s is allowed or forbidden as the table says', (_, mode, litmus) => {
    expect(verdicts(litmus, mode)).toBe(litmus.expected[mode]);
  });
});

describe('the verdict of a mode on a device', () => {
  // A mark without its record: the barrier is there, and what it covers is not. What a fault makes of it depends on
  // the error policy, and a verdict is about `abort`, the default. A simulated cache always has a flush.
  const faults = FAULT_LITMUS.filter(({ policy }) => policy === 'abort');
  const ordered = LITMUS.filter(({ name }) => ['L1', 'L3b', 'L9b'].includes(name));
  const devices: readonly DeviceTraits[] = (['none', 'protected', 'volatile'] as const).flatMap(
    (cache) =>
      [true, false].flatMap((fua) =>
        [true, false].map((orderedTags) => ({ cache, flush: true, fua, orderedTags })),
      ),
  );
  const shows = (tests: readonly LitmusTest[], mode: ModeName, traits: DeviceTraits): string[] => {
    // The simulated disk keeps a tag that it is sent; a device without ordered tags does not.
    const device: Partial<DeviceProfile> = {
      ...traits,
      lies: traits.orderedTags ? [] : ['ignoreTags'],
    };
    return tests
      .filter((litmus) => runLitmus(litmus, { mode, device }).verdict !== 'never')
      .map(({ name }) => name);
  };

  test('there are tests to ask, with a fault and without', () => {
    expect(faults.map(({ name }) => name)).toEqual(['F1 abort', 'F3 abort']);
    expect(ordered).toHaveLength(3);
  });

  describe.each(MODE_NAMES)('%s', (mode) => {
    test('is `safe` exactly where no fault leaves a mark without its record', () => {
      for (const device of devices) {
        const { verdict } = guarantees(mode, device);
        const found = { device, safe: shows(faults, mode, device).length === 0 };
        expect(found).toEqual({ device, safe: verdict === 'safe' });
      }
    });

    test('keeps a mark behind its record as long as nothing fails exactly where it is `safe` or `safe-without-errors`', () => {
      for (const device of devices) {
        const { verdict } = guarantees(mode, device);
        const found = { device, safe: shows(ordered, mode, device).length === 0 };
        expect(found).toEqual({ device, safe: verdict.startsWith('safe') });
      }
    });
  });
});

describe('on a device that lies', () => {
  test.each(LYING_LITMUS.flatMap((row) => row.modes.map((mode) => [row.lie, mode, row] as const)))(
    '%s in %s breaks what the table says, and nothing else',
    (lie, mode, row) => {
      const verdictOf = (name: string): string =>
        runLitmus(testOf(name), { mode, device: { lies: [lie] } }).verdict;
      expect(row.allowed.filter((name) => verdictOf(name) === 'never')).toEqual([]);
      expect(row.forbidden.filter((name) => verdictOf(name) !== 'never')).toEqual([]);
    },
  );

  test('ignored tags break order without any cache, too', () => {
    const device = { cache: 'none', lies: ['ignoreTags'] } as const;
    for (const name of ['L1', 'L2', 'L3b']) {
      expect(runLitmus(testOf(name), { mode: 'TAG_FLUSH', device }).verdict).toBe('sometimes');
    }
    // Where it has nothing to flush an empty barrier drains, and a drain needs no tags.
    for (const mode of ['TAG', 'TAG_FLUSH'] as const) {
      expect(runLitmus(testOf('L6a'), { mode, device }).verdict).toBe('never');
    }
  });
});

test('a device that aborts its queue does not write a tagged barrier whose preflush fails', async () => {
  const litmus = FAULT_LITMUS.find(({ name }) => name === 'F1 kernel') as LitmusTest;
  for (const mode of ['TAG_FLUSH', 'TAG_FUA'] as const) {
    for (const onTagError of ['continue', 'abort-queue'] as const) {
      const device = { onTagError };
      const isSafe = onTagError === 'abort-queue';
      expect(runLitmus(litmus, { mode, device }).verdict).toBe(isSafe ? 'never' : 'sometimes');
      const host = (disk: VolatileDisk): IoScheduler =>
        new IoScheduler(disk, { mode, errorPolicy: 'kernel', allowUnsafe: true });
      expect((await tryLitmus(litmus, { host, device })).seen).toBe(!isSafe);
    }
  }
});

test('a verdict that is not `never` has a witness', () => {
  const { verdict, witness } = runLitmus(testOf('L1'), { mode: 'TAG' });
  expect(verdict).toBe('sometimes');
  const image = witness?.state.image();
  expect([image?.[0], image?.[512]]).toEqual([0, 1]);
});

test('an option that a litmus test does not know is refused, with the one that was meant', async () => {
  const refusal = { code: 'INVALID_ARGUMENT', message: expect.stringContaining("'device'") };
  const wrong = { mode: 'TAG', devise: 'nvme' } as const;
  expect(() => runLitmus(testOf('L1'), wrong)).toThrow(expect.objectContaining(refusal));
  const host = (disk: VolatileDisk) => new IoScheduler(disk);
  const trial = { host, devise: 'nvme' };
  await expect(tryLitmus(testOf('L1'), trial)).rejects.toMatchObject(refusal);
});

test.each([
  ...['', 'W', 'V x', 'W q', 'W x; B', 'W x q', 'W x y z x', 'W y x', 'W xy', 'W x:=256'],
  ...['W x:=', 'W x y:=2', 'wait', 'wait x y', 'E x', 'W x;'],
])('%j is not a program', (program) => {
  const litmus = { ...testOf('L1'), program };
  expect(() => runLitmus(litmus, { mode: 'TAG' })).toThrow(
    expect.objectContaining({ code: 'SYNTAX' }),
  );
});

describe('the scheduler on the simulated disk', () => {
  /** Orders of answers: what is allowed shows itself in the first two. */
  const SEEDS = share(200, 8);
  const policyOf = ({ policy = 'abort' }: LitmusTest) => policy;
  // Forced writes wait for a flush of their own where the mode has no FUA, which these tests of FUA do not mean.
  const plain = [...LITMUS, ...GROWTH_LITMUS].filter(({ program }) => !program.includes('!'));
  const rows = [...plain, ...FAULT_LITMUS];
  test.each(
    rows.flatMap((litmus) =>
      MODE_NAMES.filter((mode) => mode !== 'NONE').map(
        (mode) => [litmus.name, mode, litmus] as const,
      ),
    ),
  )('%s in %s shows what is allowed, and never what is forbidden', async (_, mode, litmus) => {
    const seen: string[] = [];
    for (const cache of ['none', 'volatile'] as const) {
      const errorPolicy = policyOf(litmus);
      const host = (disk: VolatileDisk): IoScheduler =>
        new IoScheduler(disk, { mode, errorPolicy, allowUnsafe: true });
      const trial = await tryLitmus(litmus, { host, device: { cache }, seeds: SEEDS });
      expect(trial.seen).toBe(trial.witness !== undefined);
      seen.push(trial.seen ? 'A' : 'F');
    }
    expect(seen.join('/')).toBe(litmus.expected[mode]);
  });
});

describe('a host of your own', () => {
  test('when a program resizes and the host cannot, then it is told so, and `modern` has no answer', async () => {
    const fixed: LitmusHost = { write: async () => {}, barrier: async () => {} };
    const test = GROWTH_LITMUS[1] as LitmusTest;
    await expect(tryLitmus(test, { host: () => fixed })).rejects.toThrow('the host has no resize');
    expect(() => runLitmus(test, { mode: 'modern' })).toThrow('a resize must');
    for (const program of ['R 3', 'R 9', 'W w', 'R 2; W z']) {
      const outcome = { ...test, program };
      expect(() => runLitmus(outcome, { mode: 'TAG' })).toThrow('no litmus test has');
    }
  });

  test('when it forgets what a barrier is, then the first test sees it', async () => {
    const forgetful = (disk: VolatileDisk): LitmusHost => ({
      write: async (offset, data) => disk.write(offset, data, { fua: false, tag: 'simple' }),
      barrier: async () => {},
    });
    const trial = await tryLitmus(testOf('L1'), { host: forgetful });
    expect(trial.seen).toBe(true);
    const image = trial.witness?.state.image();
    expect([image?.[0], image?.[512]]).toEqual([0, 1]);
  });

  test('when it never answers, then the run ends all the same', async () => {
    const silent: LitmusHost = { write: () => new Promise(() => {}), barrier: async () => {} };
    const trial = await tryLitmus(testOf('L3a'), { host: () => silent, seeds: 2, timeoutMs: 5 });
    expect(trial).toEqual({ seen: false, runs: 2 });
  });
});

function testOf(name: string): LitmusTest {
  const found = LITMUS.find((litmus) => litmus.name === name);
  if (!found) throw new Error(`there is no test ${name}`);
  return found;
}
