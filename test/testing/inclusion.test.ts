// The order of the modes by what they allow: what one leaves possible, a weaker one does, too. Programs are random; for
// each, every run of the scheduler's state machine is played and every state of every power cut is taken, with what
// the host had been told by then.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MODE_NAMES, type ModeName } from 'write-barrier';
import { type Answered, LETTERS, programOf, SECTOR } from '../../src/testing/lab/litmus.js';
import { litmusDevice, newTraces, runsOf } from '../../src/testing/lab/litmus-run.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { share } from '../kit/amount.js';

type Cache = 'none' | 'volatile';
type Case = readonly [mode: ModeName, cache: Cache];

const line = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom('W x', 'W y', 'W z', 'W x:=2') },
  { weight: 3, arbitrary: fc.constantFrom('B x', 'B y', 'B z') },
  { weight: 1, arbitrary: fc.constant('E') },
);

/** Up to three requests, each of them waited for or not; a label is used once, so that answers can be told apart. */
const programs = fc
  .array(fc.tuple(line, fc.boolean()), { minLength: 1, maxLength: 3 })
  .filter(
    (lines) => new Set(lines.map(([text]) => text.split(':')[0]?.slice(-1))).size === lines.length,
  )
  .map((lines) =>
    lines.flatMap(([text, waits]) => (waits ? [text, `wait ${labelOf(text)}`] : [text])).join('; '),
  );

function labelOf(text: string): string {
  return text === 'E' ? 'E' : (text.split(' ')[1]?.replace(/:=.*/, '') ?? '');
}

/**
 * Everything that a program may leave in a case, as text: what each sector holds, and with `answers` also which answers
 * the host had when the power was cut.
 */
function states(text: string, [mode, cache]: Case, answers: boolean): Set<string> {
  const profile = litmusDevice({ cache });
  const found = new Set<string>();
  const isNew = newTraces();
  for (const trace of runsOf(programOf(text, mode), {}, mode, profile)) {
    if (!isNew(trace)) continue;
    const moments = trace.marks.map(({ time }) => time);
    for (const state of crashSpace(trace, profile)) {
      const image = state.image();
      const holds = Array.from(LETTERS, (_, i) => image[i * SECTOR]).join(' ');
      if (!answers) found.add(holds);
      // Between two answers nothing changes for the host.
      for (const moment of answers ? [state.after, ...moments] : []) {
        if (moment < state.after || moment >= state.before) continue;
        const heard = trace.marks.filter(({ time }) => time <= moment);
        const labels = heard.map(({ value }) => (value as Answered).label).sort();
        found.add(`${holds} | ${labels.join(' ')}`);
      }
    }
  }
  return found;
}

function isWithin(smaller: Set<string>, larger: Set<string>): boolean {
  return [...smaller].every((state) => larger.has(state));
}

const CLASSES: readonly (readonly Case[])[] = [
  [
    ['NONE', 'volatile'],
    ['DRAIN', 'volatile'],
    ['TAG', 'volatile'],
  ],
  MODE_NAMES.filter((mode) => mode !== 'NONE').map((mode) => [mode, 'none'] as const),
  (['DRAIN_FLUSH', 'DRAIN_FUA', 'TAG_FLUSH', 'TAG_FUA'] as const).map(
    (mode) => [mode, 'volatile'] as const,
  ),
];

const CHAINS: readonly (readonly Case[])[] = [
  [
    ['DRAIN', 'none'],
    ['DRAIN_FLUSH', 'volatile'],
    ['TAG_FLUSH', 'volatile'],
    ['NONE', 'volatile'],
  ],
  [
    ['DRAIN_FLUSH', 'volatile'],
    ['DRAIN', 'volatile'],
    ['TAG', 'volatile'],
    ['NONE', 'volatile'],
  ],
  [
    ['DRAIN', 'none'],
    ['TAG', 'none'],
    ['TAG_FLUSH', 'none'],
    ['NONE', 'none'],
    ['NONE', 'volatile'],
  ],
];

const named = (cases: readonly Case[]): string => cases.map((one) => one.join('/')).join(' ');

describe('given any small program', () => {
  test.each(CLASSES.map((cases) => [named(cases), cases] as const))(
    'the images of %s are the same',
    (_, cases) => {
      fc.assert(
        fc.property(programs, (program) => {
          const [first, ...others] = cases.map((one) => states(program, one, false));
          for (const other of others) expect(other).toEqual(first);
        }),
        { numRuns: share(60, 15) },
      );
    },
  );

  test.each(CHAINS.map((cases) => [named(cases), cases] as const))(
    'each of %s allows what the one before it does, answers included',
    (_, cases) => {
      fc.assert(
        fc.property(programs, (program) => {
          const chain = cases.map((one) => states(program, one, true));
          for (const [i, larger] of chain.entries()) {
            const smaller = chain[i - 1];
            if (smaller) expect(isWithin(smaller, larger), `${i}`).toBe(true);
          }
        }),
        { numRuns: share(60, 15) },
      );
    },
  );
});

test('a wait orders on a device without a cache, a barrier orders on one with a cache: neither is the weaker', () => {
  const waits = 'W x; wait x; W y';
  const barrier = 'W x; B y';
  const none: Case = ['NONE', 'none'];
  const flush: Case = ['DRAIN_FLUSH', 'volatile'];
  expect(isWithin(states(waits, flush, false), states(waits, none, false))).toBe(false);
  expect(isWithin(states(barrier, none, false), states(barrier, flush, false))).toBe(false);
});
