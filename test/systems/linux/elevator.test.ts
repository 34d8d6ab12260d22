// Sorting and merging within the boundaries that barriers draw, and never across.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { NOTATION_BLOCK_SIZE } from '../../../src/model/index.js';
import { share } from '../../kit/amount.js';
import { bioOf, QueuePlay } from './support.js';

const BLOCK = NOTATION_BLOCK_SIZE;
const LIMIT = 512 * 1024;

/** Everything that a queue hands out when nobody has taken anything before. */
function dispatched(program: string, mergeBytesMax = 0): string {
  const play = new QueuePlay('TAG', '2.6.32', mergeBytesMax).queueUp(program);
  play.pump();
  play.drain();
  return play.taken.join(' ').replaceAll('^', '');
}

describe('sorting', () => {
  test('given writes at 100 and 10, a barrier and a write at 5, then they go as 10, 100, barrier, 5', () => {
    expect(dispatched('w100 w10 b0 w5')).toBe('w10 w100 w0 w5');
    expect(dispatched('w100 w10 b w5')).toBe('w10 w100 w5');
  });

  // The barrier becomes the boundary before the elevator empties itself for it.
  test('given a barrier in the middle of the disk, then the sweep before it begins at its end', () => {
    expect(dispatched('w100 w10 w60 b50 w5')).toBe('w60 w100 w10 w50 w5');
  });

  test('given no barrier, then nothing is sorted: the elevator hands over one at a time', () => {
    expect(dispatched('w100 w10 w5')).toBe('w100 w10 w5');
  });

  test('given another operation in between, then nothing is sorted past it', () => {
    expect(dispatched('w9 r8 w7 d6 w5 b0')).toBe('w9 r8 w7 d6 w5 w0');
    expect(dispatched('w9 w8 r7 r6 w5 b0')).toBe('w8 w9 r6 r7 w5 w0');
  });

  test('given a packet at the tail, then the elevator is emptied for it, and it is no boundary', () => {
    const play = new QueuePlay('DRAIN', '2.6.36', 0);
    play.queueUp('w9 w2');
    play.queue.packet('flush', 'F', 'back');
    play.queueUp('w5 w1 b0');
    expect(play.list).toBe('w2 w9 F w1 w5 b0');
  });

  test('given a discard that is a soft barrier, then nothing is sorted past it, and no sequence begins', () => {
    const play = new QueuePlay('DRAIN_FLUSH', '2.6.32', 0);
    play.queueUp('w9 w8 Bd7 w6 w5 b0');
    expect(play.list).toBe('w8 w9 Bd7 w5 w6 b0');
  });

  // Goal: between two boundaries it is one sweep of each run of one operation. Method: the same said with runs.
  test('given any program, then it is sorted as far as that goes and no farther', () => {
    const words = fc.tuple(fc.constantFrom('w', 'r', 'd', 'b'), fc.nat({ max: 40 }));
    fc.assert(
      fc.property(fc.array(words, { maxLength: 20 }), (program) => {
        const all = [...program, ['b', 7] as const].map(([letter, block]) => letter + block);
        const expected: string[] = [];
        let runs: string[][] = [];
        for (const word of all) {
          if (!word.startsWith('b')) {
            const last = runs.at(-1);
            if (last?.[0]?.[0] === word[0]) last?.push(word);
            else runs.push([word]);
            continue;
          }
          const block = (other: string): number => Number(other.slice(1));
          const ahead = (other: string): number => (block(other) > block(word) ? 0 : 1);
          for (const run of runs) {
            run.sort((a, b) => ahead(a) - ahead(b) || block(a) - block(b));
            expected.push(...run);
          }
          expected.push(`w${block(word)}`);
          runs = [];
        }
        expect(dispatched(all.join(' '))).toBe(expected.join(' '));
      }),
      { numRuns: share(2000) },
    );
  });
});

describe('merging', () => {
  test.each([
    ['w0 w1', 'w0+2'],
    ['w1 w0', 'w0+2'],
    ['w0 w1 w2+3', 'w0+5'],
    ['r0 r1', 'r0+2'],
    ['d0 d1', 'd0+2'],
    // other operations, and a gap
    ['w0 r1', 'w0 r1'],
    ['w0 d1', 'w0 d1'],
    ['w0 w2', 'w0 w2'],
    // in front of the last one only
    ['w5 w9 w4', 'w4+2 w9'],
    ['w9 w5 w4', 'w9 w5 w4'],
    // behind any
    ['w9 w5 w6', 'w9 w5+2'],
  ])('given %s in the elevator, then the driver gets %s', (program, expected) => {
    expect(dispatched(program, LIMIT)).toBe(expected);
  });

  test.each([
    ['w0 b1 w2', 'w0 w1 w2'],
    ['b0 w1', 'w0 w1'],
    ['w0 b w1', 'w0 w1'],
    ['b0 b1', 'w0 w1'],
    ['w0 b9 w1', 'w0 w9 w1'],
  ])('given %s, then nothing merges with a barrier or across it', (program, expected) => {
    expect(dispatched(program, LIMIT)).toBe(expected);
  });

  test('given a request that the driver has, or has put back, then nothing merges into it', () => {
    const play = new QueuePlay('DRAIN', '2.6.36', LIMIT);
    play.submit('w0');
    play.queueUp('w1');
    expect(play.pump()).toBe('w1');
    play.requeue('w1').queueUp('w2');
    expect(play.pump()).toBe('w1 w2');
  });

  test('given the limit, then a request does not grow beyond it', () => {
    expect(dispatched('w0+127 w127 w128', LIMIT)).toBe('w0+128 w128');
    expect(dispatched('w0 w1', 2 * BLOCK - 1)).toBe('w0 w1');
    expect(dispatched('w0 w1 w2', 2 * BLOCK)).toBe('w0+2 w2');
  });

  test('given merged requests, then all are answered together, in the order of their bytes, with the same error', () => {
    const play = new QueuePlay('DRAIN', '2.6.36', LIMIT).queueUp('w1 w2 w0 b9');
    expect(play.pump()).toBe('w0+3');
    play.fail('w0+3');
    play.complete('w9');
    expect(play.answers).toEqual(['w0:EIO', 'w1:EIO', 'w2:EIO', 'b9']);
  });

  test('given any program, then what the driver gets covers the same bytes in the same epochs', () => {
    const words = fc.tuple(fc.constantFrom('w', 'w', 'w', 'b'), fc.nat({ max: 12 }));
    fc.assert(
      fc.property(fc.array(words, { maxLength: 16 }), (program) => {
        const text = [...program.map(([letter, block]) => letter + block), 'b99'].join(' ');
        const bytesOf = (epoch: string): number[] =>
          epoch
            .split(' ')
            .filter(Boolean)
            .flatMap((word) => {
              const { offset, length } = bioOf(word);
              return Array.from({ length: length / BLOCK }, (_, i) => offset / BLOCK + i);
            })
            .sort((a, b) => a - b);
        const play = new QueuePlay('TAG', '2.6.32', LIMIT).queueUp(text);
        play.pump();
        play.drain();
        const epochs = play.taken.join(' ').split(/ ?\^w\d+ ?/);
        expect(epochs.map(bytesOf)).toEqual(text.split(/ ?b\d+ ?/).map(bytesOf));
      }),
      { numRuns: share(2000) },
    );
  });
});
