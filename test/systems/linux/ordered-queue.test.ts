// The queue of the hard barriers, rule by rule: the two tables of the kernel as test data, then what follows from them.

import { describe, expect, test } from 'vitest';
import { formatSteps, type ModeName, parseProgram, transformer } from 'write-barrier';
import { BARRIER_ERAS, type BarrierEraName } from '../../../src/systems/linux/eras.js';
import { ORDSEQ } from '../../../src/systems/linux/ordered-queue.js';
import { BARRIER_ERA_NAMES, QueuePlay, REPAIRED } from './support.js';

const DRAIN_MODES = ['DRAIN', 'DRAIN_FLUSH', 'DRAIN_FUA'] as const;
const TAG_MODES = ['TAG', 'TAG_FLUSH', 'TAG_FUA'] as const;
const ALL: readonly ModeName[] = [...DRAIN_MODES, ...TAG_MODES];
const { DRAIN, PREFLUSH, BAR, POSTFLUSH } = ORDSEQ;

// What start_ordered() makes of a barrier at the head: the stand-ins in the list, the command that the driver gets now,
// and the first step that is not over. 0: the whole sequence is over.
const STARTS: readonly [
  mode: ModeName,
  barrier: string,
  inFlight: number,
  list: string,
  now: string,
  step: number,
][] = [
  ['DRAIN', 'b9', 0, 'bar', 'w9', BAR],
  ['DRAIN', 'b9', 2, 'bar', '', DRAIN],
  ['DRAIN', 'b', 0, '', '', 0],
  ['DRAIN', 'b', 2, '', '', DRAIN],
  ['DRAIN_FLUSH', 'b9', 0, 'pre bar post', 'pre', PREFLUSH],
  ['DRAIN_FLUSH', 'b9', 2, 'pre bar post', '', DRAIN],
  ['DRAIN_FLUSH', 'b', 0, 'pre', 'pre', PREFLUSH],
  ['DRAIN_FLUSH', 'b', 2, 'pre', '', DRAIN],
  ['DRAIN_FUA', 'b9', 0, 'pre bar!', 'pre', PREFLUSH],
  ['DRAIN_FUA', 'b9', 2, 'pre bar!', '', DRAIN],
  ['DRAIN_FUA', 'b', 0, 'pre', 'pre', PREFLUSH],
  ['DRAIN_FUA', 'b', 2, 'pre', '', DRAIN],
  ['TAG', 'b9', 0, 'bar', '^w9', BAR],
  ['TAG', 'b9', 2, 'bar', '^w9', BAR],
  ['TAG', 'b', 0, '', '', 0],
  ['TAG', 'b', 2, '', '', DRAIN],
  ['TAG_FLUSH', 'b9', 0, 'pre bar post', '^pre', PREFLUSH],
  ['TAG_FLUSH', 'b9', 2, 'pre bar post', '^pre', PREFLUSH],
  ['TAG_FLUSH', 'b', 0, 'pre', '^pre', PREFLUSH],
  ['TAG_FLUSH', 'b', 2, 'pre', '^pre', PREFLUSH],
  ['TAG_FUA', 'b9', 0, 'pre bar!', '^pre', PREFLUSH],
  ['TAG_FUA', 'b9', 2, 'pre bar!', '^pre', PREFLUSH],
  ['TAG_FUA', 'b', 0, 'pre', '^pre', PREFLUSH],
  ['TAG_FUA', 'b', 2, 'pre', '^pre', PREFLUSH],
];

describe.each(['2.6.32', '2.6.36'] as const)('start_ordered of %s', (era) => {
  test.each(STARTS)(
    'given %s, when %s reaches the head with %i in flight, then the list is [%s] and the driver gets [%s]',
    (mode, barrier, inFlight, list, now, step) => {
      const play = new QueuePlay(mode, era);
      if (inFlight > 0) play.submit('w0 r1');
      expect(play.queue.inFlight).toBe(inFlight);
      play.queueUp(barrier);
      const taken = play.pump(1);
      expect(taken).toBe(now);
      // What was taken stood at the head of the list.
      const head = taken === '' ? [] : list.split(' ').slice(0, 1);
      expect([...head, play.list].filter(Boolean).join(' ')).toBe(list);
      expect(play.queue.step).toBe(step);
      expect(play.answers).toEqual(step === 0 ? [barrier] : []);
    },
  );
});

// What blk_do_ordered() answers for the head of the list while a sequence runs, or while none does.

const STEPS = ['drain', 'pre', 'bar', 'post'] as const;
type StepName = (typeof STEPS)[number];
/** By tag the drain is over from the start. */
const TAG_STEPS = ['pre', 'bar', 'post'] as const;
const PLACES = [
  ...STEPS.map((step) => [step, 'DRAIN_FLUSH'] as const),
  ...TAG_STEPS.map((step) => [step, 'TAG_FLUSH'] as const),
];

/** A queue whose barrier b2 is at that step, with none of its commands at the device. w0 and w1 came before it. */
function at(step: StepName, mode: 'DRAIN_FLUSH' | 'TAG_FLUSH'): QueuePlay {
  const play = new QueuePlay(mode, REPAIRED);
  play.submit('w0 w1');
  play.queueUp('b2');
  const tag = mode === 'TAG_FLUSH' ? '^' : '';
  play.pump(1);
  if (tag) play.requeue('^pre');
  else if (step !== 'drain') for (const word of ['w0', 'w1']) play.answer(word);
  const over = { drain: [], pre: [], bar: ['pre'], post: ['pre', 'w2'] }[step];
  for (const word of over) {
    play.pump(1);
    play.answer(tag + word);
  }
  return play;
}

/** Brings a request to the head of the list: one that came before the barrier, one that came after, or neither. */
function bring(play: QueuePlay, head: 'early' | 'late' | 'second barrier' | 'packet'): void {
  if (head === 'packet') play.queue.packet('flush', 'ioctl', 'front');
  else if (head === 'early') play.requeue('w1');
  else play.queueUp(head === 'late' ? 'w3' : 'b4');
}

describe('blk_do_ordered', () => {
  test.each(ALL)('given no sequence in %s, when the head is no barrier, then it passes', (mode) => {
    const play = new QueuePlay(mode);
    expect(play.submit('w0 r1 d2')).toBe('w0 r1 d2');
    expect(play.queue.step).toBe(0);
  });

  test.each(ALL)('given no sequence in %s, when the head is a barrier, then one starts', (mode) => {
    const play = new QueuePlay(mode);
    play.submit('w0 b1');
    expect(play.queue.step).not.toBe(0);
  });

  test.each(ALL)(
    'given a barrier that waits in %s, when the mode becomes NONE, then it is refused at the head and the queue goes on',
    (mode) => {
      const play = new QueuePlay(mode);
      play.submit('b0');
      play.queueUp('w1 b2 w3 b w4');
      play.queue.setMode('NONE');
      play.drain();
      expect(play.answers).toEqual(
        expect.arrayContaining(['b0', 'w1', 'b2:EOPNOTSUPP', 'w3', 'b:EOPNOTSUPP', 'w4']),
      );
      expect(play.taken.filter((word) => word.includes('2'))).toEqual([]);
      expect(play.queue.idle).toBe(true);
    },
  );

  test.each(PLACES)(
    'given a sequence at its %s step in %s, when the head is a packet, then it passes',
    (step, mode) => {
      const play = at(step, mode);
      bring(play, 'packet');
      expect(play.pump(1)).toBe('F');
    },
  );

  test('given a sequence that drains, when the head came before the barrier, then it passes, and the drain waits for it', () => {
    const play = at('drain', 'DRAIN_FLUSH');
    bring(play, 'early');
    expect(play.complete('w0')).toBe('w1');
    expect(play.queue.step).toBe(DRAIN);
    expect(play.complete('w1')).toBe('pre');
  });

  // Only a change of the mode brings it there, and the kernel warned of it.
  test.each(TAG_STEPS)(
    'given a sequence by drain that is beyond its drain, at %s, when the head came before the barrier, then it passes all the same',
    (step) => {
      const play = at(step, 'TAG_FLUSH');
      bring(play, 'early');
      play.queue.setMode('DRAIN_FLUSH');
      expect(play.pump(1)).toBe('w1');
    },
  );

  test.each(TAG_STEPS)(
    'given a sequence at its %s step by tag, when the head came before the barrier, then it passes',
    (step) => {
      const play = at(step, 'TAG_FLUSH');
      bring(play, 'early');
      expect(play.list.split(' ')[0]).toBe('w1');
      expect(play.pump(1)).toBe('w1');
    },
  );

  test.each([
    ['drain', ''],
    ['pre', 'pre'],
    ['bar', 'w2'],
    ['post', 'post'],
  ] as const)(
    'given a sequence at its %s step by drain, then of its stand-ins the driver gets [%s]',
    (step, taken) => {
      expect(at(step, 'DRAIN_FLUSH').pump(2)).toBe(taken);
    },
  );

  test('given a sequence by tag, then its stand-ins pass together, and what comes after as well', () => {
    const play = at('pre', 'TAG_FLUSH');
    bring(play, 'late');
    expect(play.pump()).toBe('^pre ^w2 ^post w3');
  });

  test.each(STEPS)(
    'given a sequence at its %s step by drain, when only later requests are left, then they are held until it is done',
    (step) => {
      for (const late of ['w3', 'r3', 'd3']) {
        const play = at(step, 'DRAIN_FLUSH');
        play.queueUp(late);
        while (play.queue.step !== 0) {
          const word = play.pump(1) || (play.atDevice.split(' ')[0] as string);
          expect(word).not.toBe(late);
          play.answer(word);
        }
        expect(play.pump()).toBe(late);
      }
    },
  );

  test.each(PLACES)(
    'given a sequence at its %s step in %s, when another barrier comes, then it and all behind it wait until the first is done',
    (step, mode) => {
      const play = at(step, mode);
      bring(play, 'second barrier');
      play.queueUp('w5 b6');
      while (play.queue.ordseq !== 0 && !play.answers.includes('b2')) {
        play.pump();
        expect(play.taken.some((word) => /[456]/.test(word))).toBe(false);
        const [word = ''] = play.atDevice.split(' ');
        play.answer(word);
        play.pump(0);
      }
      play.pump(1);
      expect(play.taken.at(-1)).toMatch(/pre/);
    },
  );
});

describe('admission', () => {
  test.each(BARRIER_ERA_NAMES)(
    'given NONE in %s, when a barrier is submitted, then it is refused at once, with nothing written and nobody else disturbed',
    (era) => {
      const play = new QueuePlay('NONE', era);
      const empty = era === '2.6.20' ? '' : ' b';
      expect(play.submit(`w0 b1${empty} w2`)).toBe('w0 w2');
      expect(play.answers).toEqual(['b1:EOPNOTSUPP', ...(empty ? ['b:EOPNOTSUPP'] : [])]);
      play.complete('w2', 'w0');
      expect(play.queue.idle).toBe(true);
    },
  );

  test('given a refused barrier, when its owner sends it again without the flag, then it is written once', () => {
    const play = new QueuePlay('NONE');
    play.submit('w0 b1');
    expect(play.submit('w1')).toBe('w1');
    expect(play.taken).toEqual(['w0', 'w1']);
  });

  test('given a kernel before empty barriers, then no bytes are refused outright, and nothing is queued', () => {
    const play = new QueuePlay('DRAIN_FLUSH', '2.6.20');
    expect(() => play.queueUp('b')).toThrow(expect.objectContaining({ code: 'ZERO_LENGTH' }));
    expect(play.queue.idle).toBe(true);
  });

  test.each(BARRIER_ERA_NAMES)(
    'given %s, then a write of no bytes that is no barrier is refused',
    (era) => {
      const play = new QueuePlay('DRAIN', era);
      const nothing = { op: 'write', offset: 0, length: 0, barrier: false } as const;
      expect(() => play.queue.submit(nothing, 'x')).toThrow(
        expect.objectContaining({ code: 'ZERO_LENGTH' }),
      );
    },
  );

  // By era: what a discard with the barrier flag becomes.
  test.each([
    ['2.6.20', 'w0', ['Bd1:EOPNOTSUPP']],
    ['2.6.24', 'w0', ['Bd1:EOPNOTSUPP']],
    ['2.6.32', 'w0 d1 w2', []],
    ['2.6.36', 'w0', []],
  ] as const)(
    'given %s, when a discard is flagged as a barrier behind w0, then the driver gets [%s] before w0 is done',
    (era, taken, answers) => {
      const play = new QueuePlay('DRAIN_FLUSH', era);
      play.submit('w0 Bd1');
      if (taken !== 'w0') play.submit('w2');
      expect(play.taken.join(' ')).toBe(taken);
      expect(play.answers).toEqual(answers);
      if (era !== '2.6.36') return;
      expect(play.complete('w0')).toBe('pre');
      expect(play.complete('pre')).toBe('d1');
      expect(play.complete('d1')).toBe('post');
    },
  );

  test('given 2.6.32, when NONE is set, then even a discard that would only stop sorting is refused', () => {
    const play = new QueuePlay('NONE', '2.6.32');
    play.submit('Bd1 d2');
    expect(play.answers).toEqual(['Bd1:EOPNOTSUPP']);
    expect(play.taken).toEqual(['d2']);
  });

  test('given a barrier that reads, then its stand-in reads, and the sequence is the same', () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    play.submit('w0 Br1 w2');
    expect([
      play.complete('w0'),
      play.complete('pre'),
      play.complete('r1'),
      play.complete('post'),
    ]).toEqual(['pre', 'r1', 'post', 'w2']);
    expect(play.answers).toEqual(['w0', 'Br1']);
  });
});

describe('drain modes', () => {
  test('given DRAIN_FUA, then a barrier is a drain, a preflush and a forced write, and there is no postflush', () => {
    const play = new QueuePlay('DRAIN_FUA');
    play.submit('w0 b1 w2');
    expect([play.complete('w0'), play.complete('pre'), play.complete('w1!')]).toEqual([
      'pre',
      'w1!',
      'w2',
    ]);
    expect(play.answers).toEqual(['w0', 'b1']);
  });

  test.each(DRAIN_MODES)(
    'given %s and requests in flight, when a barrier comes, then nothing is dispatched until the last of them is done',
    (mode) => {
      const play = new QueuePlay(mode);
      play.submit('w0 r1 d2 b3 w4');
      expect(play.complete('d2')).toBe('');
      expect(play.complete('w0')).toBe('');
      expect(play.complete('r1')).not.toBe('');
    },
  );

  test.each(DRAIN_MODES)(
    'given %s and only reads in flight, when a barrier comes, then it waits for the reads',
    (mode) => {
      const play = new QueuePlay(mode);
      expect(play.submit('r0 b1')).toBe('r0');
      expect(play.complete('r0')).not.toBe('');
    },
  );

  test.each(DRAIN_MODES)(
    'given a barrier that runs in %s, when a read comes, then it is held until the barrier is done',
    (mode) => {
      const play = new QueuePlay(mode);
      play.submit('b0 r1');
      while (!play.answers.includes('b0')) {
        expect(play.taken).not.toContain('r1');
        play.complete(play.atDevice);
      }
      expect(play.atDevice).toBe('r1');
    },
  );

  test('given DRAIN and an idle queue, when an empty barrier comes, then it is done at once with no command', () => {
    const play = new QueuePlay('DRAIN');
    expect(play.submit('b')).toBe('');
    expect(play.answers).toEqual(['b']);
  });

  test('given DRAIN and a busy queue, when an empty barrier comes, then it is done with the last earlier request, with no command', () => {
    const play = new QueuePlay('DRAIN');
    play.submit('w0 w1 b');
    play.complete('w1');
    expect(play.answers).toEqual(['w1']);
    expect(play.complete('w0')).toBe('');
    expect(play.answers).toEqual(['w1', 'w0', 'b']);
  });

  test.each(['DRAIN_FLUSH', 'DRAIN_FUA'] as const)(
    'given %s, when an empty barrier comes, then it is exactly one flush',
    (mode) => {
      for (const era of ['2.6.24', '2.6.32', '2.6.36'] as const) {
        const play = new QueuePlay(mode, era);
        play.submit('w0 b w1');
        expect([play.complete('w0'), play.complete('pre')]).toEqual(['pre', 'w1']);
        expect(play.answers).toEqual(['w0', 'b']);
      }
    },
  );

  test('given DRAIN_FLUSH, when a barrier has data, then the device sees flush, write and flush one after another', () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    expect(play.submit('b1')).toBe('pre');
    expect(play.complete('pre')).toBe('w1');
    expect(play.complete('w1')).toBe('post');
    expect(play.answers).toEqual([]);
    play.complete('post');
    expect(play.answers).toEqual(['b1']);
  });

  test("given a barrier whose own write fails, then those behind it are released and the error is its owner's alone", () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    play.submit('w0 b1 w2 b3');
    play.complete('w0', 'pre');
    expect(play.fail('w1')).toBe('post');
    expect(play.complete('post')).toBe('w2');
    play.complete('w2', 'pre', 'w3', 'post');
    expect(play.answers).toEqual(['w0', 'b1:EIO', 'w2', 'b3']);
  });

  test('given a hundred requests behind a barrier, when it ends, then they go together', () => {
    const play = new QueuePlay('DRAIN');
    const late = Array.from({ length: 100 }, (_, i) => `w${i + 1}`).join(' ');
    play.submit('b0');
    play.submit(late);
    expect(play.complete('w0')).toBe(late);
  });
});

describe('tag modes', () => {
  test('given TAG and requests in flight, when a barrier comes, then it goes at once with the tag, and later requests do not wait', () => {
    const play = new QueuePlay('TAG');
    expect(play.submit('w0 b1 w2 r3')).toBe('w0 ^w1 w2 r3');
  });

  test('given TAG, when a second barrier comes while the first runs, then it and everything behind it wait', () => {
    const play = new QueuePlay('TAG');
    expect(play.submit('b0 w1 b2 w3')).toBe('^w0 w1');
    expect(play.complete('w1')).toBe('');
    expect(play.complete('^w0')).toBe('^w2 w3');
  });

  test('given TAG, when an empty barrier comes, then it drains, and the next barrier is by tag again', () => {
    const play = new QueuePlay('TAG');
    expect(play.submit('w0 b w1')).toBe('w0');
    expect(play.complete('w0')).toBe('w1');
    expect(play.answers).toEqual(['w0', 'b']);
    expect(play.submit('b2 w3')).toBe('^w2 w3');
  });

  test('case 23: given TAG in 2.6.24, when an empty barrier comes behind writes in flight, then it succeeds at once: no drain, no command', () => {
    const play = new QueuePlay('TAG', '2.6.24');
    expect(play.submit('w0 w1 b w2')).toBe('w0 w1 w2');
    expect(play.answers).toEqual(['b']);
  });

  test.each(TAG_MODES)(
    'given %s in 2.6.24, when an empty barrier waits behind one with data, then it waits for that one and for nothing else',
    (mode) => {
      const play = new QueuePlay(mode, '2.6.24');
      play.submit('w0 b1 b w2');
      expect(play.answers).toEqual([]);
      while (/\^/.test(play.atDevice)) {
        play.complete(play.atDevice.split(' ').find((word) => word.startsWith('^')) as string);
      }
      expect(play.answers).toEqual(['b1', 'b']);
      expect(play.atDevice.split(' ')).toContain('w0');
    },
  );

  test('given TAG_FLUSH, when the answers come as post, bar, pre, then the barrier is done with the last of them', () => {
    const play = new QueuePlay('TAG_FLUSH', '2.6.32');
    expect(play.submit('b1')).toBe('^pre ^w1 ^post');
    play.complete('^post', '^w1');
    expect(play.answers).toEqual([]);
    play.complete('^pre');
    expect(play.answers).toEqual(['b1']);
  });

  test('given a request before a barrier that fails after the barrier went, then nobody could have stopped it', () => {
    const play = new QueuePlay('TAG');
    play.submit('w0 b1');
    play.complete('^w1');
    play.fail('w0');
    expect(play.answers).toEqual(['b1', 'w0:EIO']);
  });

  // Read in the source of 2.6.36: its flushes are requests of a file system with the barrier flag.
  test('given TAG_FLUSH in 2.6.36, when a barrier has data, then its own postflush counts as the next barrier, and it hangs', () => {
    const play = new QueuePlay('TAG_FLUSH', '2.6.36');
    expect(play.submit('w0 b1 w2')).toBe('w0 ^pre ^w1');
    play.complete('w0', '^pre', '^w1');
    expect(play.atDevice).toBe('');
    expect(play.list).toBe('post');
    expect(play.answers).toEqual(['w0']);
    expect(play.pump()).toBe('');
    expect(play.queue.idle).toBe(false);
  });

  test.each([
    ['TAG_FLUSH', 'b', REPAIRED],
    ['TAG_FLUSH', 'b1', REPAIRED],
    ['TAG_FLUSH', 'b1', BARRIER_ERAS['2.6.32']],
    ['TAG_FLUSH', 'b', BARRIER_ERAS['2.6.36']],
    ['TAG_FUA', 'b1', BARRIER_ERAS['2.6.36']],
    ['TAG_FUA', 'b', BARRIER_ERAS['2.6.36']],
  ] as const)(
    'given %s and %s without a postflush that counts as a barrier, then nothing hangs',
    (mode, barrier, era) => {
      const play = new QueuePlay(mode, era);
      play.submit(`w0 ${barrier} w2`);
      play.drain();
      expect(play.answers.sort()).toEqual([barrier, 'w0', 'w2'].sort());
      expect(play.queue.idle).toBe(true);
    },
  );
});

describe('errors', () => {
  test.each(['2.6.24', '2.6.32', '2.6.36'] as const)(
    'given %s, when the preflush and the postflush fail, then the first error is told',
    (era) => {
      const play = new QueuePlay('DRAIN_FLUSH', era);
      play.submit('b1');
      play.fail('pre', 'E1');
      play.complete('w1');
      play.fail('post', 'E2');
      expect(play.answers).toEqual(['b1:E1']);
    },
  );

  test('given a tagged sequence, when the postflush fails first and the preflush later, then the first to arrive is told', () => {
    const play = new QueuePlay('TAG_FLUSH', REPAIRED);
    play.submit('b1');
    play.fail('^post', 'E2');
    play.fail('^pre', 'E1');
    play.complete('^w1');
    expect(play.answers).toEqual(['b1:E2']);
  });

  test('given a preflush that fails, then the write and the postflush are issued all the same', () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    play.submit('w0 b1');
    play.complete('w0');
    expect(play.fail('pre')).toBe('w1');
    expect(play.complete('w1')).toBe('post');
    play.complete('post');
    expect(play.answers).toEqual(['w0', 'b1:EIO']);
  });

  test.each(ALL)('given %s and an earlier write that fails, then the barrier succeeds', (mode) => {
    const play = new QueuePlay(mode, REPAIRED);
    play.submit('w0 b1');
    play.fail('w0');
    play.drain();
    expect(play.answers).toEqual(['w0:EIO', 'b1']);
  });

  test('given an error of one barrier, then the next one knows nothing of it', () => {
    const play = new QueuePlay('DRAIN_FUA');
    play.submit('b0 b1');
    play.fail('pre');
    play.complete('w0!', 'pre', 'w1!');
    expect(play.answers).toEqual(['b0:EIO', 'b1']);
  });

  test('given a command that is not with the driver, then completing or putting it back is refused', () => {
    const play = new QueuePlay('DRAIN');
    play.submit('w0');
    const command = play.find('w0');
    play.queue.complete(command, 0);
    for (const again of [
      () => play.queue.complete(command, 0),
      () => play.queue.requeue(command),
    ]) {
      expect(again).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    }
  });
});

describe('what the driver puts back', () => {
  test('case 18: given an open drain with nothing in flight, when an earlier request was put back at the head, then the drain is not over', () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    play.submit('w0 w1 b2');
    play.requeue('w0');
    play.answer('w1');
    expect(play.queue.inFlight).toBe(0);
    expect(play.queue.step).toBe(DRAIN);
    expect(play.pump()).toBe('w0');
    expect(play.complete('w0')).toBe('pre');
  });

  test('case 19: given requests of every kind put back, then they stand as earlier, pre, bar, post, later', () => {
    const play = new QueuePlay('TAG_FLUSH', REPAIRED);
    play.submit('w0 w1 b2 w3');
    expect(play.atDevice).toBe('w0 w1 ^pre ^w2 ^post w3');
    play.queueUp('b4');
    play.pump();
    for (const word of ['^w2', 'w3', 'w1', '^post', '^pre', 'w0']) play.requeue(word);
    expect(play.list).toBe('w0 w1 pre bar post w3 b4');
    expect(play.pump()).toBe('w0 w1 ^pre ^w2 ^post w3');
  });

  test('given a drain, when an earlier request is put back, then it stands before the preflush, and later ones behind everything', () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    play.submit('w0 w1 b2 w3');
    play.requeue('w1').requeue('w0');
    expect(play.list).toBe('w0 w1 pre bar post');
    play.pump();
    play.complete('w0', 'w1');
    expect(play.atDevice).toBe('pre');
    play.requeue('pre');
    expect(play.list).toBe('pre bar post');
    expect(play.pump()).toBe('pre');
  });

  test('given no sequence, then it goes to the head, and nothing is sorted past it', () => {
    const play = new QueuePlay('DRAIN');
    play.submit('w5');
    play.queueUp('w9 w8');
    play.requeue('w5');
    play.queueUp('w1 b0');
    expect(play.list).toBe('w5 w1 w8 w9 b0');
  });

  test('given no sequence, then it goes even before a packet', () => {
    const play = new QueuePlay('DRAIN');
    play.submit('w0');
    play.queue.packet('flush', 'ioctl', 'front');
    play.requeue('w0');
    expect(play.list).toBe('w0 ioctl');
  });

  // Documented, and checked by nobody: a driver must not do that.
  test('given TAG, when an earlier request is put back after the barrier went, then the order is lost', () => {
    const play = new QueuePlay('TAG');
    play.submit('w0 b1');
    play.requeue('w0');
    expect(play.complete('^w1')).toBe('w0');
    expect(play.answers).toEqual(['b1']);
  });
});

describe('a new mode', () => {
  test('given a sequence that runs, when the mode changes, then its stand-ins stay and the next barrier goes by the new mode', () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    play.submit('b0');
    play.queueUp('b1');
    play.queue.setMode('DRAIN_FUA');
    expect(play.queue.mode).toBe('DRAIN_FUA');
    expect([play.complete('pre'), play.complete('w0'), play.complete('post')]).toEqual([
      'w0',
      'post',
      'pre',
    ]);
    expect(play.complete('pre')).toBe('w1!');
  });

  test('given a drain that waits, when the mode becomes TAG, then the rule flips at once and the barrier overtakes what it waited for', () => {
    const play = new QueuePlay('DRAIN');
    play.submit('w0 b1 w2');
    expect(play.atDevice).toBe('w0');
    play.queue.setMode('TAG');
    expect(play.pump()).toBe('^w1 w2');
    play.complete('^w1');
    // The drain step is still open, and w2 counts now.
    expect(play.answers).toEqual([]);
    play.complete('w0', 'w2');
    expect(play.answers).toEqual(['w0', 'w2', 'b1']);
  });

  test('case 5: given a tagged sequence, when the mode becomes DRAIN, then what is still in the list waits for its turn', () => {
    const play = new QueuePlay('TAG_FUA');
    play.queueUp('b0 w1');
    expect(play.pump(1)).toBe('^pre');
    play.queue.setMode('DRAIN');
    expect(play.pump()).toBe('');
    expect(play.complete('^pre')).toBe('w0!');
    expect(play.complete('w0!')).toBe('w1');
  });

  test('given a drain that waits, when the mode becomes NONE, then the sequence goes on as a drain', () => {
    const play = new QueuePlay('DRAIN_FLUSH');
    play.submit('w0 b1 w2');
    play.queue.setMode('NONE');
    expect(play.complete('w0')).toBe('pre');
    play.complete('pre', 'w1');
    expect(play.complete('post')).toBe('w2');
    expect(play.answers).toEqual(['w0', 'b1']);
  });
});

test('given the bits of a sequence, then they are those of the kernel', () => {
  expect(Object.values(ORDSEQ)).toEqual([1, 2, 4, 8, 16, 32]);
  const play = new QueuePlay('DRAIN_FLUSH');
  play.submit('w0 b1');
  const seen = [play.queue.ordseq];
  for (const word of ['w0', 'pre', 'w1']) {
    play.complete(word);
    seen.push(play.queue.ordseq);
  }
  expect(seen).toEqual([1, 1 | DRAIN, 1 | DRAIN | PREFLUSH, 1 | DRAIN | PREFLUSH | BAR]);
  play.complete('post');
  expect(play.queue.ordseq).toBe(0);
  expect(POSTFLUSH).toBe(0x10);
});

test('given the example of the documentation, then the kernel and the model agree on it', () => {
  const steps: Readonly<Record<string, string>> = {
    DRAIN_FLUSH: 'w0 w1 => F => w2 => F => w3',
    TAG_FUA: 'w0 w1 ^F ^w2! w3',
  };
  for (const [mode, text] of Object.entries(steps)) {
    const program = parseProgram('w0 w1 b2 w3');
    expect(formatSteps(transformer(mode as ModeName)(program))).toBe(text);
    const play = new QueuePlay(mode as ModeName);
    play.submit('w0 w1 b2 w3');
    play.drain();
    const kernel = play.taken.map((word) => word.replace(/pre|post/, 'F')).join(' ');
    expect(kernel).toBe(text.replaceAll('=> ', ''));
  }
});

test.each<BarrierEraName>(['2.6.20', '2.6.24', '2.6.32', '2.6.36'])(
  'given %s, then its profile is frozen and survives a structured clone',
  (name) => {
    expect(Object.isFrozen(BARRIER_ERAS[name])).toBe(true);
    expect(structuredClone(BARRIER_ERAS[name])).toEqual(BARRIER_ERAS[name]);
  },
);
