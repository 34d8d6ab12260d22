// Goal: the kernel of 2.6.36 and the core's model of the modes say the same. Method: a program is played on a device
// that answers only when nothing else is left to do, which is the laziest that the contract allows; where it has to
// answer, somebody waited, and that is a drain. The words are then compared with the model's own steps.
//
// Where the two differ, and why:
//   - The kernel sorts what waits behind a barrier. Programs that ascend are equal word by word; others are equal once
//     both are sorted between two boundaries.
//   - One sequence at a time is a rule of the queue and not of the model, so by tag the kernel waits between barriers.
//   - TAG_FLUSH hangs in 2.6.36 as it was, so it is compared without that defect, and so is 2.6.32.
//   - Reads are ordered like writes in both. The core's scheduler lets them pass; its model does not know of that.
//   - The flags PREFLUSH and FUA, flushes without a barrier and zeroes are no requests of these kernels.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  formatProgram,
  formatSteps,
  type ModeName,
  parseProgram,
  type Request,
  transformer,
} from 'write-barrier';
import { BARRIER_ERAS, type BarrierEra } from '../../../src/systems/linux/eras.js';
import { share } from '../../kit/amount.js';
import { QueuePlay, REPAIRED } from './support.js';

const MODES_WITH_BARRIERS = [
  'DRAIN',
  'DRAIN_FLUSH',
  'DRAIN_FUA',
  'TAG',
  'TAG_FLUSH',
  'TAG_FUA',
] as const;

const LETTERS = ['w', 'w', 'r', 'd', 'b', 'b', 'B'] as const;
/** A program as words: letters with blocks, `B` an empty barrier. */
const programs = (ascending: boolean): fc.Arbitrary<string> =>
  fc
    .array(fc.tuple(fc.constantFrom(...LETTERS), fc.nat({ max: 30 })), { maxLength: 12 })
    .map((words) =>
      words
        .map(([letter, block], i) => (letter === 'B' ? 'b' : letter + (ascending ? i : block)))
        .join(' '),
    );

/** What the lazy device got, with `=>` where it had to answer before anything else came. */
function played(program: string, mode: ModeName, era: BarrierEra): string {
  const play = new QueuePlay(mode, era);
  const words: string[] = [];
  for (const word of program.split(' ').filter(Boolean)) {
    const taken = play.submit(word);
    if (taken) words.push(taken);
  }
  while (play.atDevice) {
    words.push('=>');
    for (const word of play.atDevice.split(' ')) play.answer(word);
    const taken = play.pump();
    if (taken) words.push(taken);
  }
  expect(play.queue.idle).toBe(true);
  return trimmed(words.join(' ').replaceAll(/pre|post/g, 'F'));
}

const modelled = (program: string, mode: ModeName): string =>
  trimmed(formatSteps(transformer(mode)(parseProgram(program) as Request[])));

/** A wait at the end is nobody's business. */
const trimmed = (steps: string): string => steps.replace(/( ?=>)+$/, '').trim();

/** Plain commands between two others, sorted. */
function sorted(steps: string): string {
  const groups: string[][] = [[]];
  for (const word of steps.split(' ')) {
    if (/^[wrd]\d+$/.test(word)) groups.at(-1)?.push(word);
    else groups.push([word], []);
  }
  return groups.map((group) => group.sort().join(' ')).join(' ');
}

/** The wait between two tagged sequences. */
const withoutWaits = (steps: string): string => steps.replaceAll('=> ', '');

const eras: readonly (readonly [string, BarrierEra])[] = [
  ['2.6.32', BARRIER_ERAS['2.6.32']],
  ['2.6.36, repaired', REPAIRED],
];

describe.each(eras)('the queue of %s and the model', (_, era) => {
  test.each(['DRAIN', 'DRAIN_FLUSH', 'DRAIN_FUA'] as const)(
    'given any ascending program in %s, then their steps are equal',
    (mode) => {
      fc.assert(
        fc.property(programs(true), (program) => {
          expect(played(program, mode, era)).toBe(modelled(program, mode));
        }),
        { numRuns: share(1000) },
      );
    },
  );

  test.each(['TAG', 'TAG_FLUSH', 'TAG_FUA'] as const)(
    'given any ascending program in %s, then their commands are equal, and the kernel waits wherever the model does',
    (mode) => {
      fc.assert(
        fc.property(programs(true), (program) => {
          const kernel = played(program, mode, era);
          const model = modelled(program, mode);
          expect(withoutWaits(kernel)).toBe(withoutWaits(model));
          const places = (steps: string): number[] =>
            Array.from(
              steps.matchAll(/=>/g),
              ({ index }) => withoutWaits(steps.slice(0, index)).length,
            );
          expect(places(kernel)).toEqual(expect.arrayContaining(places(model)));
        }),
        { numRuns: share(1000) },
      );
    },
  );

  test.each(MODES_WITH_BARRIERS)(
    'given any program in %s, then their commands are equal once sorted between boundaries',
    (mode) => {
      fc.assert(
        fc.property(programs(false), (program) => {
          const waits = mode.startsWith('DRAIN') ? (steps: string) => steps : withoutWaits;
          expect(sorted(waits(played(program, mode, era)))).toBe(
            sorted(waits(modelled(program, mode))),
          );
        }),
        { numRuns: share(1000) },
      );
    },
  );
});

test.each(MODES_WITH_BARRIERS)(
  'given 2.6.36 as it was in %s, then it agrees with the model on any program, unless it hangs',
  (mode) => {
    fc.assert(
      fc.property(programs(true), (program) => {
        const hangs = mode === 'TAG_FLUSH' && /b\d/.test(program);
        fc.pre(!hangs);
        const as = mode.startsWith('DRAIN') ? (steps: string) => steps : withoutWaits;
        expect(as(played(program, mode, BARRIER_ERAS['2.6.36']))).toBe(as(modelled(program, mode)));
      }),
      { numRuns: share(1000) },
    );
  },
);

test('given NONE, then both refuse every barrier and pass everything else', () => {
  fc.assert(
    fc.property(programs(true), (program) => {
      const play = new QueuePlay('NONE');
      if (program) play.submit(program);
      const model = modelled(program, 'NONE').split(' ');
      const isRefused = (word: string): boolean => word.startsWith('EOPNOTSUPP');
      expect(play.taken).toEqual(model.filter((word) => word && !isRefused(word)));
      expect(play.answers).toEqual(
        model.filter(isRefused).map((word) => `${word.slice(11, -1)}:EOPNOTSUPP`),
      );
    }),
  );
});

test('given the same words twice, then the two notations are the same', () => {
  expect(formatProgram(parseProgram('w0 r1 d2 b3 b'))).toBe('w0 r1 d2 b3 b');
  expect(played('w0 w1 b2 w3', 'DRAIN_FLUSH', REPAIRED)).toBe('w0 w1 => F => w2 => F => w3');
});
