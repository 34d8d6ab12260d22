// Goal: no table that the sources can tell is written by hand. Method: generate it and compare with what the page
// says. `npx vitest run --project unit test/docs -u` writes the pages anew.

import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  type Answer,
  chooseMode,
  type DeviceTraits,
  formatSteps,
  type GuaranteeAnswers,
  guarantees,
  MODE_NAMES,
  MODES,
  type ModeName,
  parseProgram,
  transformer,
} from 'write-barrier';
import {
  FAULT_LITMUS,
  GROWTH_LITMUS,
  LITMUS,
  LITMUS_COLUMNS,
  type LitmusTest,
  LYING_LITMUS,
} from 'write-barrier/testing/lab';
import { GUARANTEES, UNSAFE_PAIRS } from '../../src/model/index.js';
import { FEATURES, type Feature, PLATFORMS } from '../platforms/platforms.js';
import { costInWords } from './drawn/cost.js';
import { fileLosses } from './drawn/file-losses.js';
import { kernelsRefuted, kernelsSeen, nativeStores } from './drawn/file-systems.js';
import { ROOT, read, table, withSection } from './pages.js';

const SAYS: Readonly<Record<Answer, string>> = {
  yes: 'yes',
  no: '**no**',
  'host-waits': 'if you wait',
  refused: 'refused',
};

const COLUMNS: Readonly<Record<keyof GuaranteeAnswers, string>> = {
  completionOrder: '`completionOrder`',
  preBeforeBarrier: '`preBeforeBarrier`',
  barrierBeforePost: '`barrierBeforePost`',
  barrierDurable: '`barrierDurable`',
  coveredDurable: '`coveredDurable`',
  emptyBarrierFlushes: '`emptyBarrierFlushes`',
  plainDurable: '`plainDurable`',
};
const questions = Object.keys(COLUMNS) as (keyof GuaranteeAnswers)[];

/** A device that can do everything, with that cache. */
const able = (cache: DeviceTraits['cache']): DeviceTraits => ({
  cache,
  flush: true,
  fua: true,
  orderedTags: true,
});

const stepsOf = (mode: ModeName, program: string): string =>
  `\`${formatSteps(transformer(mode)(parseProgram(program)))}\``;

function modes(): string {
  const rows = MODE_NAMES.map((name) => {
    const mode = MODES[name];
    const order = {
      none: 'you, by waiting',
      drain: 'the scheduler waits',
      tag: 'the device, by a tag',
    };
    const past = { through: 'no way', flush: 'a flush on both sides', fua: 'a flush, then FUA' };
    const way = mode.by === 'none' ? 'no way' : past[mode.cache];
    const { stable, volatile } = GUARANTEES[name];
    const steps = stepsOf(name, 'w0 b1 w2');
    return [name, order[mode.by], way, steps, stable.verdict, volatile.verdict];
  });
  const head = ['mode', 'who keeps order', 'past a cache', '`w0 b1 w2` becomes'];
  return table([...head, 'no cache', 'volatile cache'], rows);
}

function chosen(): string {
  const rows: string[][] = [];
  for (const orderedTags of [false, true]) {
    for (const [cache, flush, fua] of [
      ['none', false, false],
      ['volatile', false, false],
      ['volatile', true, false],
      ['volatile', true, true],
    ] as const) {
      const device: DeviceTraits = { cache, flush, fua, orderedTags };
      const { mode, verdict } = guarantees(chooseMode(device), device);
      const said = (flag: boolean): string => (flag ? 'yes' : 'no');
      const past = cache === 'volatile' ? [said(flush), said(fua)] : ['any', 'any'];
      const kind = cache === 'volatile' ? cache : 'none or protected';
      rows.push([kind, ...past, said(orderedTags), mode, verdict]);
    }
  }
  return table(['`cache`', '`flush`', '`fua`', '`orderedTags`', 'chosen', 'verdict'], rows);
}

function matrix(): string {
  const rows = MODE_NAMES.flatMap((name) =>
    (['none', 'volatile'] as const).map((cache) => {
      const promise = guarantees(name, able(cache));
      const answers = questions.map((question) => SAYS[promise[question]]);
      return [name, cache, ...answers, promise.verdict];
    }),
  );
  const head = ['mode', 'cache', ...questions.map((question) => COLUMNS[question]), 'verdict'];
  return table(head, rows);
}

function sequences(): string {
  const rows = MODE_NAMES.map((name) => [
    name,
    ...['w0 b1 w2', 'w0 b w2', 'w0 b1! w2'].map((program) => stepsOf(name, program)),
  ]);
  return table(['mode', '`w0 b1 w2`', '`w0 b w2`', '`w0 b1! w2`'], rows);
}

function unsafe(): string {
  const rows = Object.values(UNSAFE_PAIRS).map(({ name, combination, breaks, litmus }) => [
    `\`${name}\``,
    combination,
    breaks,
    litmus.join(' ') || '-',
  ]);
  return table(['name', 'combination', 'what it breaks', 'litmus'], rows);
}

function litmus(tests: readonly LitmusTest[]): string {
  const columns = LITMUS_COLUMNS.filter((mode) => tests.some(({ expected }) => expected[mode]));
  const rows = tests.map(({ name, program, outcome, expected }) => [
    name,
    `\`${program}\``,
    `\`${outcome.replaceAll(' | ', '` or `')}\``,
    ...columns.map((mode) => (expected[mode] ?? '').replaceAll('A', '**A**')),
  ]);
  return table(['', 'program', 'outcome', ...columns], rows);
}

function lies(): string {
  const rows = LYING_LITMUS.map(({ lie, modes: of, allowed, forbidden }) => [
    `\`${lie}\``,
    of.join(', '),
    allowed.join(' ') || 'none',
    forbidden.join(' ') || 'none',
  ]);
  return table(['lie', 'modes', 'allowed', 'forbidden all the same'], rows);
}

/** The limits that CI keeps, min+gzip. */
function sizes(): string {
  const limits: { name: string; limit: string }[] = JSON.parse(read('package.json'))['size-limit'];
  return table(
    ['what', 'at most, minified and compressed'],
    limits.map(({ name, limit }) => [name.replace(/^[\w/-]+/, '`$&`'), limit]),
  );
}

function platforms(): string {
  const features = Object.keys(FEATURES) as Feature[];
  const rows = Object.entries(PLATFORMS).map(([name, says]) => [
    name,
    ...features.map((feature) => says[feature]),
  ]);
  return table(['', ...features.map((feature) => FEATURES[feature])], rows);
}

function costPicture(folder: string): string {
  return `<img src="${folder}pictures/cost.svg" width="480" alt="${costInWords()}">`;
}

const sections: Readonly<Record<string, Readonly<Record<string, () => string>>>> = {
  'README.md': { cost: () => costPicture('docs/'), modes, platforms, sizes },
  'docs/file-systems.md': { kernels: kernelsSeen, refuted: kernelsRefuted, stores: nativeStores },
  'docs/how-to/choose-a-mode.md': { chosen },
  'docs/how-to/is-your-atomic-write-atomic.md': { losses: fileLosses },
  'docs/how-to/wait-and-flush.md': { cost: () => costPicture('../') },
  'docs/litmus.md': {
    litmus: () => litmus(LITMUS),
    growth: () => litmus(GROWTH_LITMUS),
    faults: () => litmus(FAULT_LITMUS),
    lies,
  },
  'docs/notation.md': { sequences },
  'docs/what-a-barrier-is.md': { matrix, unsafe },
};

test.each(Object.keys(sections))('%s: its tables are what the sources say', async (path) => {
  let page = read(path);
  for (const [name, generate] of Object.entries(sections[path] ?? {})) {
    page = withSection(page, name, generate());
  }
  await expect(page).toMatchFileSnapshot(join(ROOT, path));
});
