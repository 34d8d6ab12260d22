// The litmus tables: by the axioms over all runs of the state machine, and by the scheduler on the simulated disk.

import { describe, expect, test } from 'vitest';
import { IoScheduler, MODE_NAMES, type ModeName } from 'write-barrier';
import {
  FAULT_LITMUS,
  LITMUS,
  LITMUS_COLUMNS,
  type LitmusTest,
  LYING_LITMUS,
} from '../../src/testing/litmus.js';
import { runLitmus } from '../../src/testing/litmus-run.js';
import { VolatileDisk } from '../../src/testing/volatile-disk.js';

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
    [...cells(LITMUS), ...cells(FAULT_LITMUS)].map(
      ({ litmus, mode }) => [litmus.name, mode, litmus] as const,
    ),
  )('%s in %s is allowed or forbidden as the table says', (_, mode, litmus) => {
    expect(verdicts(litmus, mode)).toBe(litmus.expected[mode]);
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

test('a verdict that is not `never` has a witness', () => {
  const { verdict, witness } = runLitmus(testOf('L1'), { mode: 'TAG' });
  expect(verdict).toBe('sometimes');
  const image = witness?.state.image();
  expect([image?.[0], image?.[512]]).toEqual([0, 1]);
});

test.each(['', 'W', 'V x', 'W q', 'W x; B'])('%j is not a program', (program) => {
  const litmus = { ...testOf('L1'), program };
  expect(() => runLitmus(litmus, { mode: 'TAG' })).toThrow(
    expect.objectContaining({ code: 'SYNTAX' }),
  );
});

/** The number of seeds that show every allowed outcome, as a rule a hundred times as many as are needed. */
const SEEDS = 600;

describe('the scheduler on the simulated disk', () => {
  test.each(
    LITMUS.filter(({ program }) => !program.includes('!')).flatMap((litmus) =>
      MODE_NAMES.filter((mode) => mode !== 'NONE').map(
        (mode) => [litmus.name, mode, litmus] as const,
      ),
    ),
  )('%s in %s shows what is allowed, and never what is forbidden', async (_, mode, litmus) => {
    const seen: string[] = [];
    for (const cache of ['none', 'volatile'] as const) {
      let shown = false;
      for (let seed = 0; seed < SEEDS && !shown; seed++) {
        shown = await isSeen(litmus, mode, cache, seed);
      }
      seen.push(shown ? 'A' : 'F');
    }
    expect(seen.join('/')).toBe(litmus.expected[mode]);
  });
});

/** Whether one run of the scheduler, cut off at some moment, shows the outcome. */
async function isSeen(
  { program, outcome }: LitmusTest,
  mode: ModeName,
  cache: 'none' | 'volatile',
  seed: number,
): Promise<boolean> {
  const disk = new VolatileDisk({ size: 3 * 512, profile: { cache }, seed });
  const host = new IoScheduler(disk, { mode, allowUnsafe: true });
  const answers = new Map<string, boolean>();
  const asked = new Map<string, Promise<void>>();
  const run = async (): Promise<void> => {
    for (const line of program.split(';')) {
      const [verb = '', ...names] = line.trim().split(' ');
      const [first = verb] = names;
      if (verb === 'wait') {
        await asked.get(first);
        continue;
      }
      const [letter = '', value = '1'] = first.split(':=');
      const data = new Uint8Array(512 * Math.max(1, names.length)).fill(Number(value));
      const request =
        verb === 'E'
          ? host.barrier()
          : host.write('xyz'.indexOf(letter) * 512, data, { barrier: verb === 'B' });
      asked.set(
        letter,
        request.then(
          () => void answers.set(letter, true),
          () => {},
        ),
      );
    }
  };
  void run();
  for (let turn = (seed * 7) % 61; turn > 0; turn--) await Promise.resolve();
  const medium = disk.powerCut();
  return outcome.split('|').some((facts) =>
    facts
      .trim()
      .split(' ')
      .every((fact) => {
        const [, letter = '', value] = /^([xyz])=(\d)$/.exec(fact) ?? [];
        if (letter) return medium['xyz'.indexOf(letter) * 512] === Number(value);
        const [, kind, label = ''] = /^(ok|no)\((\w+)\)$/.exec(fact) ?? [];
        return answers.has(label) === (kind === 'ok');
      }),
  );
}

function testOf(name: string): LitmusTest {
  const found = LITMUS.find((litmus) => litmus.name === name);
  if (!found) throw new Error(`there is no test ${name}`);
  return found;
}
