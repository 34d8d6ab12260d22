// The flush machine, rule by rule.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FLUSH_ERAS } from '../../../src/systems/linux/eras.js';
import { FLUSH_ERA_NAMES, FlushPlay } from './support.js';

const CACHE = { cache: 'volatile', flush: true } as const;
const NO_FUA = { ...CACHE, fua: false };
const FUA = { ...CACHE, fua: true };

// The policy, row by row: what the device is made to do for one request.
const POLICY: readonly [
  name: string,
  device: ConstructorParameters<typeof FlushPlay>[1],
  rows: Readonly<Record<string, string>>,
][] = [
  ['no cache', { cache: 'none' }, { f: '', fw0: 'w0', 'w0!': 'w0', 'fw0!': 'w0', w0: 'w0' }],
  [
    'a protected cache',
    { cache: 'protected', fua: true },
    { f: '', fw0: 'w0', 'w0!': 'w0', 'fw0!': 'w0', w0: 'w0' },
  ],
  [
    'a cache and no flush, which counts as none',
    { cache: 'volatile', flush: false, fua: true },
    { f: '', fw0: 'w0', 'w0!': 'w0', 'fw0!': 'w0', w0: 'w0' },
  ],
  [
    'a cache and no FUA',
    NO_FUA,
    { f: 'F', fw0: 'F w0', 'w0!': 'w0 F', 'fw0!': 'F w0 F', w0: 'w0', r0: 'r0' },
  ],
  [
    'a cache and FUA',
    FUA,
    { f: 'F', fw0: 'F w0', 'w0!': 'w0!', 'fw0!': 'F w0!', w0: 'w0', d0: 'd0', z0: 'z0' },
  ],
];

describe.each(FLUSH_ERA_NAMES)('%s', (era) => {
  describe.each(POLICY)('given %s', (_, device, rows) => {
    test.each(Object.entries(rows))(
      'when %s is submitted, then the device gets [%s], one after another',
      (word, steps) => {
        const play = new FlushPlay(era, device);
        play.submit(word);
        for (const step of steps.split(' ').filter(Boolean)) {
          expect(play.answers).toEqual([]);
          expect(play.atDevice.replace(/pre|post/, 'F')).toBe(step);
          play.drainOne();
        }
        expect(play.answers).toEqual([word]);
        expect(play.flushes.idle).toBe(true);
      },
    );
  });

  test('given a barrier, then it is refused, whatever the device can do: the flag is gone', () => {
    const play = new FlushPlay(era, FUA);
    expect(play.submit('b0 b w1')).toBe('w1');
    expect(play.answers).toEqual(['b0:EOPNOTSUPP', 'b:EOPNOTSUPP']);
  });

  test('given writes in flight, when a flush comes, then it waits for none of them, and none waits for it', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('w0 f w1');
    expect(play.taken.map((word) => word.replace('pre', 'F'))).toEqual(['w0', 'F', 'w1']);
    play.complete(play.atDevice.split(' ')[1] as string);
    expect(play.answers).toEqual(['f']);
  });

  test('given a flush in flight, when others come, then it serves none of them', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('f#1 f#2 f#3');
    expect(play.taken.length).toBe(1);
    play.drainOne();
    expect(play.answers).toEqual(['f#1']);
    expect(play.atDevice.replace('pre', 'F')).toBe('F');
  });

  test('given a command that was answered, then answering it again is refused', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('w0');
    const command = play.find('w0');
    play.machine.complete(command, undefined);
    expect(() => play.machine.complete(command, undefined)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });
});

describe('flushes alone, as in 2.6.37', () => {
  const era = '2.6.37';

  test('given several with flags, then one goes through its steps at a time', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('fw0! fw1!');
    expect(play.atDevice).toBe('pre');
    expect([play.complete('pre'), play.complete('w0'), play.complete('post')]).toEqual([
      'w0',
      'post',
      'pre',
    ]);
    expect(play.answers).toEqual(['fw0!']);
    expect([play.complete('pre'), play.complete('w1'), play.complete('post')]).toEqual([
      'w1',
      'post',
      '',
    ]);
  });

  test('given three flushes, then there are three flushes: none is shared', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('f#1 f#2 f#3');
    play.drain();
    expect(play.taken).toEqual(['pre', 'pre', 'pre']);
  });

  test('given a driver that takes nothing for a while, then the last to come is the first to begin, and plain ones wait', () => {
    const play = new FlushPlay(era, NO_FUA).queueUp('w0 fw1 fw2 w3');
    expect(play.pump()).toBe('pre w0 w3');
    expect(play.complete('pre')).toBe('w2');
  });

  test('given what needs no flush on this device, then it does not wait for a sequence', () => {
    const play = new FlushPlay(era, FUA);
    play.submit('fw0 w1! w2');
    expect(play.atDevice).toBe('pre w1! w2');
  });

  test('given a preflush that fails, then the data is written all the same, and the first error is told', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('fw0! f');
    expect(play.fail('pre', 'E1')).toBe('w0');
    expect(play.complete('w0')).toBe('post');
    expect(play.fail('post', 'E2')).toBe('pre');
    play.complete('pre');
    expect(play.answers).toEqual(['fw0!:E1', 'f']);
  });
});

describe('flushes shared, as in 2.6.39 and later', () => {
  const era = '2.6.39';

  test('given a driver that takes nothing for a while, then a flush stands in line, and data behind a flush goes to the head', () => {
    const play = new FlushPlay(era, NO_FUA).queueUp('w0 f fw1 w2');
    expect(play.pump()).toBe('w0 F w2');
    expect(play.complete('F')).toBe('F');
    play.queueUp('w3');
    expect(play.complete('F')).toBe('w1 w3');
  });

  test('given a flush in flight, when several come meanwhile, then one further flush serves them all', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('f#1 f#2 f#3 f#4');
    expect(play.flushes.pending).toBe(3);
    expect(play.complete('F')).toBe('F');
    expect(play.answers).toEqual(['f#1']);
    play.complete('F');
    expect(play.answers).toEqual(['f#1', 'f#2', 'f#3', 'f#4']);
    expect(play.taken).toEqual(['F', 'F']);
  });

  test('given any number of flushes while one runs, then there are two in all', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 60 }), (count) => {
        const play = new FlushPlay(era, NO_FUA);
        play.submit(Array.from({ length: count }, (_, i) => `f#${i}`).join(' '));
        play.drain();
        expect(play.taken).toEqual(['F', 'F']);
        expect(play.answers.length).toBe(count);
      }),
    );
  });

  test('given a request at its data, when a flush becomes pending, then it is put off until the data is done', () => {
    const play = new FlushPlay(era, NO_FUA);
    expect(play.submit('w0! f')).toBe('w0');
    expect(play.flushes.dataInFlight).toBe(1);
    expect(play.complete('w0')).toBe('F');
    play.complete('F');
    // One flush was the postflush of the one and the flush of the other.
    expect(play.answers).toEqual(['f', 'w0!']);
  });

  test('case 51: given data that takes long, when the flush has been pending for five seconds, then the next event lets it go', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('w0! w1! f');
    play.nowMs = 4999;
    expect(play.complete('w1')).toBe('');
    play.nowMs = 5000;
    expect(play.pump()).toBe('');
    expect(play.submit('f#2')).toBe('F');
    expect(play.flushes.dataInFlight).toBe(1);
  });

  test('given data that takes long and five seconds, when nothing of the machine happens, then nothing goes: it is no timer', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('w0! w9 f');
    play.nowMs = 60_000;
    expect(play.pump()).toBe('');
    // A plain write that comes or ends is none of its business.
    expect(play.submit('w8')).toBe('w8');
    expect(play.complete('w9')).toBe('');
    expect(play.complete('w0')).toBe('F');
  });

  test('given a list that was served, then its age begins anew with the first of the next', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('f#1 w0!');
    play.nowMs = 10_000;
    play.submit('f#2');
    expect(play.complete('F')).toBe('');
    play.nowMs = 14_999;
    play.submit('f#3');
    expect(play.atDevice).toBe('w0');
    play.nowMs = 15_000;
    expect(play.submit('f#4')).toBe('F');
  });

  test('given an era that waits longer, then five seconds are not enough', () => {
    const play = new FlushPlay({ ...FLUSH_ERAS[era], pendingMaxMs: 9000 }, NO_FUA);
    play.submit('w0! f');
    play.nowMs = 8999;
    expect(play.submit('f#2')).toBe('');
    play.nowMs = 9000;
    expect(play.submit('f#3')).toBe('F');
  });

  test('given a flush that served several, when it fails, then all hear of it and none goes on to its data', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('f#1 fw0 fw1! f#2');
    play.complete('F');
    expect(play.fail('F')).toBe('');
    expect(play.answers).toEqual(['f#1', 'fw0:EIO', 'fw1!:EIO', 'f#2:EIO']);
    expect(play.flushes.idle).toBe(true);
  });

  test('given data that fails, then its postflush is left out, and the others have theirs', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('w0! w1!');
    expect(play.fail('w0')).toBe('');
    expect(play.complete('w1')).toBe('F');
    play.complete('F');
    expect(play.answers).toEqual(['w0!:EIO', 'w1!']);
  });

  test('given a flush that failed, then the next one is issued and says nothing of it', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('f#1 f#2');
    expect(play.fail('F')).toBe('F');
    play.complete('F');
    expect(play.answers).toEqual(['f#1:EIO', 'f#2']);
  });

  // The question whether a flush is due is asked after each request that moves on.
  test('given several that one flush served, then the first may bring about the next flush before the second is at its data', () => {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('f#1 f#2 fw0');
    expect(play.complete('F')).toBe('F');
    play.submit('f#3');
    expect(play.complete('F')).toBe('w0 F');
    const other = new FlushPlay(era, NO_FUA);
    other.submit('f#1 fw0 f#2');
    expect(other.complete('F')).toBe('F');
    other.submit('f#3');
    expect(other.complete('F')).toBe('w0');
    expect(other.complete('w0')).toBe('F');
  });
});

test('given a write in flight, when a flush is issued and done, then the write is not claimed: it may end after the flush', () => {
  for (const era of FLUSH_ERA_NAMES) {
    const play = new FlushPlay(era, NO_FUA);
    play.submit('w0 fw1');
    const flush = play.atDevice.split(' ')[1] as string;
    expect(play.complete(flush)).toBe('w1');
    play.complete('w1');
    expect(play.answers).toEqual(['fw1']);
    expect(play.atDevice).toBe('w0');
  }
});

test('given the profiles, then they are frozen and survive a structured clone', () => {
  for (const name of FLUSH_ERA_NAMES) {
    expect(Object.isFrozen(FLUSH_ERAS[name])).toBe(true);
    expect(structuredClone(FLUSH_ERAS[name])).toEqual(FLUSH_ERAS[name]);
  }
});
