// The queue of QEMU 2009 as a state machine: every run of every small program under the repaired profile keeps the
// rules; with one defect at a time each shows; and whatever the profile, no history makes the machine throw or hang.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type AioProfile,
  type AioState,
  aioState,
  callOf,
  cancelAio,
  endCall,
  expireWorker,
  insertTail,
  type Links,
  QEMU_2009,
  QEMU_REPAIRED,
  runnableWorkers,
  stepAio,
  submitAio,
  type TailQueues,
  unlink,
} from '../../../src/systems/qemu/aio.js';
import { sampled, share } from '../../kit/amount.js';
import { explore, type World } from './exploration.js';

/** What a developer of 2009 would have made of a cancelled barrier: it is forgotten, and the count is right. */
const FORGETFUL: AioProfile = { ...QEMU_REPAIRED, cancelDropsPlace: true };

// Exhaustive

const world = (profile: AioProfile, more: Partial<World> = {}): World => ({
  profile,
  threadsMax: 2,
  cancels: 1,
  failures: 0,
  ...more,
});

/** All programs of so many words, each on a block of its own; `e` is an empty barrier. */
function* programs(alphabet: readonly string[], length: number): Generator<string> {
  if (length === 0) yield '';
  else {
    for (const rest of programs(alphabet, length - 1)) {
      for (const letter of alphabet) {
        yield `${rest} ${letter === 'e' ? 'b' : letter + (length - 1)}`.trim();
      }
    }
  }
}

/** How many states the programs of the run have; all of them keep the rules. */
function exploreAll(alphabet: string, length: number, of: World): number {
  let states = 0;
  for (const program of sampled(programs(alphabet.split(' '), length))) {
    const { broken, story, states: seen } = explore(program, of);
    expect(broken && `${program}: ${broken}\n${story.join('\n')}`).toBeUndefined();
    states += seen;
  }
  return states;
}

// Goal: aio.P1 to aio.P6, and that no request is stuck. Method: qemu-exploration.ts. The counts show that nothing was cut short.
describe('given any small program, any order of workers and a cancellation anywhere', () => {
  test.each([
    [1, 3000],
    [2, 10_000],
    [3, 20_000],
  ])(
    'when at most %i workers of the repaired queue run it, then every rule holds',
    (threadsMax, statesMin) => {
      expect(exploreAll('w b', 4, world(QEMU_REPAIRED, { threadsMax }))).toBeGreaterThan(
        share(statesMin),
      );
    },
  );

  test('when two are cancelled and one fails, then every rule holds', () => {
    const of = world(QEMU_REPAIRED, { cancels: 2, failures: 1 });
    expect(exploreAll('w b e', 3, of)).toBeGreaterThan(share(20_000));
  });

  test('when the place of a cancelled barrier goes with it, then the other rules hold', () => {
    expect(exploreAll('w b', 4, world(FORGETFUL, { cancels: 2 }))).toBeGreaterThan(share(20_000));
  });

  test('when idle workers leave at any time, then nobody is stuck', () => {
    const profile = { ...QEMU_REPAIRED, idleWorkersLeave: true };
    expect(exploreAll('w b', 3, world(profile))).toBeGreaterThan(share(3000));
  });

  test('when nothing is cancelled, then the patch as it was keeps every rule', () => {
    const of = world(QEMU_2009, { cancels: 0, failures: 1 });
    expect(exploreAll('w b r', 3, of)).toBeGreaterThan(share(5000));
  });
});

describe('given the repaired queue with one defect put back', () => {
  test.each<[string, Partial<AioProfile>, string, RegExp, string]>([
    [
      'a cancelled barrier that stays in the count strands what comes after it',
      { cancelKeepsCount: true },
      'b0 w1',
      /stuck: request 1 is not answered/,
      'submit 0, submit 1, cancel 0, step 0',
    ],
    [
      'a released request that keeps its mark takes the tail of the list along, and the next one is lost',
      { requeueKeepsMark: true },
      'b0 w1 w2',
      /stuck: request 2 is not answered/,
      'submit 0, submit 1, step 0, end 0, end 0, end 0, step 0, cancel 1, submit 2, step 0',
    ],
    [
      'a released request that keeps its mark opens a way past the next barrier',
      { requeueKeepsMark: true },
      'b0 w1 b2 w3',
      /order: 3 does not wait for 2/,
      'submit 0, submit 1, step 0, end 0, end 0, end 0, step 0, cancel 1, submit 2, submit 3, step 0',
    ],
    [
      'a barrier that waits for idle workers is canceled, and carried out',
      { cancellableWhileDraining: true, cancelKeepsCount: true },
      'w0 b1',
      /aio\.P6: 1 is carried out after it was canceled/,
      'submit 0, step 0, submit 1, step 1, end 0, step 0, cancel 1, step 1, end 1',
    ],
    [
      'with the count repaired and that left, whoever comes later does not wait for it',
      { cancellableWhileDraining: true },
      'w0 b1 w2',
      /order: 2 does not wait for 1/,
      'submit 0, step 0, submit 1, submit 2, step 1, end 0, step 0, cancel 1, step 0',
    ],
  ])('%s', (_, defect, program, broken, story) => {
    const found = explore(program, world({ ...FORGETFUL, ...defect }, { blind: true }));
    expect(found.broken).toMatch(broken);
    expect(found.story.join(', ')).toBe(story);
    expect(explore(program, world(FORGETFUL, { blind: true })).broken).toBeUndefined();
  });
});

// Corner cases

/** A queue whose workers run as far as they can after every event, the oldest first. */
class Rig {
  readonly state: AioState;
  readonly told: string[] = [];

  constructor(profile: AioProfile, threadsMax = 64) {
    this.state = aioState(profile, threadsMax);
  }

  /** `w`, `r`, `i` for an ioctl; `B` in front for a barrier, alone for an empty one. */
  submit(...words: string[]): number[] {
    return words.map((word) => {
      const barrier = word.startsWith('B');
      const type = ({ w: 'write', r: 'read', i: 'ioctl' } as const)[word.replace('B', '')];
      const block = submitAio(this.state, { type: type ?? 'none', barrier, bytes: 512 });
      this.run();
      return block;
    });
  }

  cancel(block: number): string {
    const answer = cancelAio(this.state, block);
    this.run();
    return answer;
  }

  /** The calls that are under way, as `0:transfer`. */
  get calls(): string {
    const calls = this.#workers().map((worker) => callOf(this.state, worker));
    return calls.flatMap((it) => (it ? [`${it.block}:${it.call.op}`] : [])).join(' ');
  }

  /** Ends the call of a block; without one, every call until there is none. */
  end(block?: number, failed = false): void {
    const busy = (): number | undefined =>
      this.#workers().find((worker) => {
        const call = callOf(this.state, worker);
        return call && (block === undefined || call.block === block);
      });
    for (let worker = busy(); worker !== undefined; worker = busy()) {
      endCall(this.state, worker, failed);
      this.run();
      if (block !== undefined) return;
    }
  }

  run(): void {
    for (;;) {
      const [worker] = runnableWorkers(this.state);
      if (worker === undefined) return;
      const stored = stepAio(this.state, worker);
      if (stored && !stored.answered) this.told.push(`${stored.block}:${stored.outcome}`);
    }
  }

  list(name: 'run' | 'post'): number[] {
    const { first, blocks } = this.state;
    const found: number[] = [];
    for (let at = first[name]; at !== null; at = blocks[at]?.next ?? null) found.push(at);
    return found;
  }

  #workers(): number[] {
    return Object.keys(this.state.workers).map(Number);
  }
}

describe.each<[string, AioProfile]>([
  ['the patch', QEMU_2009],
  ['the repaired queue', QEMU_REPAIRED],
])('in %s', (_, profile) => {
  test('given a pending barrier, when a read, a barrier and a read come, then all three are held and two barriers counted', () => {
    const rig = new Rig(profile);
    rig.submit('w', 'Bw', 'r', 'Bw', 'r');
    expect(rig.list('post')).toEqual([2, 3, 4]);
    expect(rig.state.barriersInProgress).toBe(2);
  });

  test('when the first barrier completes, then requests are released up to and with the next one, and later ones queue behind the rest', () => {
    const rig = new Rig(profile, 1);
    rig.submit('Bw', 'r', 'Bw', 'r');
    for (const _ of ['fdatasync', 'transfer', 'fdatasync']) rig.end(0);
    expect(rig.calls).toBe('1:transfer');
    expect([rig.list('run'), rig.list('post')]).toEqual([[2], [3]]);
    rig.submit('r');
    expect(rig.list('post')).toEqual([3, 4]);
    rig.end();
    expect(rig.told).toEqual(['0:done', '1:done', '2:done', '3:done', '4:done']);
  });

  test('given an executing request, when it is cancelled, then the answer is no, and its end comes once', () => {
    const rig = new Rig(profile);
    rig.submit('w');
    expect(rig.cancel(0)).toBe('not canceled');
    rig.end();
    expect(rig.told).toEqual(['0:done']);
  });

  test('given a finished request, when it is cancelled, then it is all done, and nothing changes', () => {
    const rig = new Rig(profile);
    rig.submit('w');
    rig.end();
    expect(rig.cancel(0)).toBe('all done');
    expect(rig.told).toEqual(['0:done']);
  });

  test('given a single worker, when barriers come, then there is no deadlock', () => {
    const rig = new Rig(profile, 1);
    rig.submit('w', 'Bw', 'Bw', 'w');
    rig.end();
    expect(rig.told).toEqual(['0:done', '1:done', '2:done', '3:done']);
  });

  test('given reads and ioctls behind a barrier, then they wait like everything else', () => {
    const rig = new Rig(profile);
    rig.submit('Bw', 'r', 'i');
    expect(rig.calls).toBe('0:fdatasync');
    expect(rig.list('post')).toEqual([1, 2]);
  });

  test('given a barrier on an ioctl, then it drains and syncs nothing', () => {
    const rig = new Rig(profile);
    rig.submit('w', 'Bi');
    expect(rig.calls).toBe('0:transfer');
    rig.end(0);
    expect(rig.calls).toBe('1:transfer');
    rig.end();
    expect(rig.told).toEqual(['0:done', '1:done']);
  });

  test('given a barrier whose own write fails, then those behind it are released, and only its owner hears', () => {
    const rig = new Rig(profile);
    rig.submit('Bw', 'w');
    rig.end(0);
    rig.end(0, true);
    rig.end();
    expect(rig.told).toEqual(['0:transfer failed', '1:done']);
  });
});

describe('given a barrier that has not started', () => {
  test('when the first one is cancelled, then the count drops and those behind it go on up to the next barrier', () => {
    const rig = new Rig(FORGETFUL, 1);
    rig.submit('w', 'Bw', 'w', 'Bw', 'w');
    expect(rig.cancel(1)).toBe('canceled');
    expect(rig.state.barriersInProgress).toBe(1);
    expect([rig.list('run'), rig.list('post')]).toEqual([[2, 3], [4]]);
    rig.end();
    expect(rig.told).toEqual(['0:done', '2:done', '3:done', '4:done']);
  });

  test('when a later one is cancelled, then nobody behind it is stranded', () => {
    for (const profile of [FORGETFUL, QEMU_REPAIRED]) {
      const rig = new Rig(profile, 1);
      rig.submit('w', 'Bw', 'w', 'Bw', 'w');
      expect(rig.cancel(3)).toBe('canceled');
      rig.end();
      expect(rig.told).toEqual(['0:done', '1:done', '2:done', '4:done']);
      expect(rig.state.barriersInProgress).toBe(0);
    }
  });

  test('when its place is kept, then an empty barrier stays there: what is before it is synced, and its data is not written', () => {
    const rig = new Rig(QEMU_REPAIRED, 1);
    rig.submit('w', 'Bw', 'w');
    expect(rig.cancel(1)).toBe('canceled');
    rig.end(0);
    expect(rig.calls).toBe('1:fdatasync');
    rig.end(1);
    expect(rig.calls).toBe('2:transfer');
    expect(rig.cancel(1)).toBe('all done');
  });

  test('when it waits for idle workers, then it cannot be had back any more', () => {
    const rig = new Rig(QEMU_REPAIRED);
    rig.submit('w', 'Bw');
    expect(rig.cancel(1)).toBe('not canceled');
    rig.end();
    expect(rig.told).toEqual(['0:done', '1:done']);
  });
});

test('given a request that was released, when it is cancelled, then it leaves the list that it is on', () => {
  const rig = new Rig(QEMU_REPAIRED, 1);
  rig.submit('Bw', 'w', 'w', 'w');
  for (const _ of ['fdatasync', 'transfer', 'fdatasync']) rig.end(0);
  expect(rig.list('run')).toEqual([2, 3]);
  expect(rig.cancel(3)).toBe('canceled');
  rig.submit('w');
  expect(rig.list('run')).toEqual([2, 4]);
});

describe('given failures', () => {
  test('when fdatasync fails, then the patch reports success, and the repaired queue the failure without writing', () => {
    const told = [QEMU_2009, QEMU_REPAIRED].map((profile) => {
      const rig = new Rig(profile);
      rig.submit('Bw');
      rig.end(0, true);
      const next = rig.calls;
      rig.end();
      return `${next} ${rig.told}`;
    });
    expect(told).toEqual(['0:transfer 0:done', ' 0:sync failed']);
  });

  test('when a write before a barrier fails, then the patch writes the barrier, and the repaired queue does not', () => {
    const told = [QEMU_2009, QEMU_REPAIRED].map((profile) => {
      const rig = new Rig(profile);
      rig.submit('w', 'Bw', 'Bw');
      rig.end(0, true);
      rig.end();
      return rig.told.join();
    });
    expect(told).toEqual([
      '0:transfer failed,1:done,2:done',
      '0:transfer failed,1:aborted,2:aborted',
    ]);
  });

  test('when the failure had been reported before the barrier was submitted, then the barrier is carried out', () => {
    const rig = new Rig(QEMU_REPAIRED);
    rig.submit('w');
    rig.end(0, true);
    rig.submit('Bw');
    rig.end();
    expect(rig.told).toEqual(['0:transfer failed', '1:done']);
  });

  test('when a cancelled barrier covers it, then whoever comes later and knows is carried out', () => {
    const rig = new Rig(QEMU_REPAIRED, 1);
    rig.submit('w', 'Bw');
    expect(rig.cancel(1)).toBe('canceled');
    rig.end(0, true);
    expect(rig.calls).toBe('1:fdatasync');
    rig.submit('Bw');
    rig.end();
    expect(rig.told).toEqual(['0:transfer failed', '2:done']);
  });

  test('when a read fails, then no barrier minds', () => {
    const rig = new Rig(QEMU_REPAIRED);
    rig.submit('r', 'Bw');
    rig.end(0, true);
    rig.end();
    expect(rig.told).toEqual(['0:transfer failed', '1:done']);
  });
});

describe('given workers', () => {
  /** Four that have worked and sleep. */
  const rested = (profile: AioProfile): Rig => {
    const rig = new Rig(profile);
    rig.submit('w', 'w', 'w', 'w');
    rig.end();
    expect([rig.state.threads, rig.state.idleThreads]).toEqual([4, 4]);
    return rig;
  };

  test('when a barrier releases four requests, then the patch serves them by two, and the repaired queue by four', () => {
    const atOnce = [QEMU_2009, QEMU_REPAIRED].map((profile) => {
      const rig = rested(profile);
      rig.submit('Bw', 'w', 'w', 'w', 'w');
      for (const _ of ['fdatasync', 'transfer', 'fdatasync']) rig.end(4);
      return rig.calls.split(' ').length;
    });
    // The one that returns the barrier and the one that it wakes; here nothing else comes to wake another.
    expect(atOnce).toEqual([2, 4]);
  });

  test('when ten seconds pass during a barrier, then the idle ones leave the patch, and the pool has to grow again', () => {
    const left = [QEMU_2009, QEMU_REPAIRED].map((profile) => {
      const rig = rested(profile);
      rig.submit('Bw');
      for (const worker of Object.keys(rig.state.workers)) expireWorker(rig.state, Number(worker));
      return rig.state.threads;
    });
    expect(left).toEqual([1, 4]);
  });

  test('when ten seconds pass and there is something to do, then a worker takes it in place of leaving', () => {
    const rig = rested(QEMU_2009);
    submitAio(rig.state, { type: 'write', barrier: false });
    expect(runnableWorkers(rig.state)).toEqual([0]);
    expect(expireWorker(rig.state, 3)).toBe(false);
    expect(runnableWorkers(rig.state)).toEqual([0, 3]);
    rig.run();
    expect(rig.calls).toBe('4:transfer');
  });

  test('when requests come that can only wait, then the patch starts a worker for them, and the repaired queue none', () => {
    const started = [QEMU_2009, QEMU_REPAIRED].map((profile) => {
      const rig = new Rig(profile);
      rig.submit('Bw', 'w', 'w');
      return rig.state.threads;
    });
    expect(started).toEqual([2, 1]);
  });

  test('when there are as many as there may be, then no more are started', () => {
    const rig = new Rig(QEMU_2009, 2);
    rig.submit('w', 'w', 'w');
    expect(rig.state.threads).toBe(2);
    expect(rig.list('run')).toEqual([2]);
  });
});

test('given lists that contradict each other, when a barrier returns, then the process dies, and its message takes bytes for an error number', () => {
  const messages = [true, false].map((garblesAbort) => {
    const rig = new Rig({ ...QEMU_2009, garblesAbort }, 1);
    rig.submit('Bw', 'w', 'w');
    for (const _ of ['fdatasync', 'transfer', 'fdatasync']) rig.end(0);
    // The tail of the post-barrier list now points into the run list.
    expect(rig.cancel(2)).toBe('canceled');
    rig.submit('Bw', 'Bw');
    rig.submit('w', 'w');
    rig.end();
    return rig.state.aborted;
  });
  expect(messages).toEqual([
    'request list not empty failed: Unknown error 512',
    'request list not empty failed',
  ]);
});

// Totality

const profiles: fc.Arbitrary<AioProfile> = fc.oneof(
  fc.constant(QEMU_2009),
  fc
    .record(Object.fromEntries(Object.keys(QEMU_2009).map((defect) => [defect, fc.boolean()])))
    .map((fields) => fields as unknown as AioProfile),
);

test('given any mixture of defects, when anything happens in any order, then nothing is thrown and no answer comes twice', () => {
  const histories = fc.array(fc.tuple(fc.nat({ max: 9 }), fc.nat({ max: 7 })), { maxLength: 120 });
  fc.assert(
    fc.property(
      profiles,
      fc.integer({ min: 1, max: 3 }),
      histories,
      (profile, threadsMax, moves) => {
        const state = aioState(profile, threadsMax);
        const answered = new Set<number>();
        const answer = (block: number): void => {
          expect(answered.has(block)).toBe(false);
          answered.add(block);
        };
        for (const [move, of] of moves) {
          const runnable = runnableWorkers(state);
          const calls = Object.keys(state.workers)
            .map(Number)
            .filter((it) => callOf(state, it));
          const block = state.nextBlock - 1 - (of % 4);
          if (state.aborted !== null) expect(runnable).toEqual([]);
          else if (move < 3) submitAio(state, { type: 'write', barrier: of % 2 === 0 });
          else if (move < 5 && block >= 0) {
            if (cancelAio(state, block) === 'canceled') answer(block);
          } else if (move === 5) expireWorker(state, of);
          else if (move < 8 && calls.length > 0) {
            endCall(state, calls[of % calls.length] as number, of === 7);
          } else if (runnable.length > 0) {
            const stored = stepAio(state, runnable[of % runnable.length] as number);
            if (stored && !stored.answered) answer(stored.block);
          }
        }
        expect(JSON.parse(JSON.stringify(state))).toEqual(state);
      },
    ),
    { numRuns: share(3000) },
  );
});

test('given a worker that has nothing to do, when it is told to, then that is misuse', () => {
  const state = aioState();
  expect(() => stepAio(state, 0)).toThrow('cannot take a step');
  expect(() => endCall(state, 0, false)).toThrow('is in no call');
  expect(() => aioState(QEMU_2009, 0)).toThrow(
    'threadsMax must be a whole number of at least 1, not 0',
  );
});

// The lists

test('given any insertions and true removals, then the lists are what two arrays are', () => {
  const moves = fc.array(fc.tuple(fc.constantFrom('run', 'post'), fc.nat({ max: 9 })));
  fc.assert(
    fc.property(moves, (history) => {
      const queues: TailQueues = {
        first: { run: null, post: null },
        last: { run: 'run', post: 'post' },
        blocks: {},
      };
      const arrays: Record<'run' | 'post', number[]> = { run: [], post: [] };
      for (const [number, [list, pick]] of history.entries()) {
        const array = arrays[list as 'run' | 'post'];
        if (pick < 6) {
          queues.blocks[number] = { next: null, prev: 'run' };
          insertTail(queues, list as 'run' | 'post', number);
          array.push(number);
        } else if (array.length > 0) {
          const [gone] = array.splice(pick % array.length, 1);
          unlink(queues, list as 'run' | 'post', gone as number);
        }
      }
      for (const list of ['run', 'post'] as const) {
        const found: number[] = [];
        for (let at = queues.first[list]; at !== null; at = (queues.blocks[at] as Links).next) {
          found.push(at);
        }
        expect(found).toEqual(arrays[list]);
      }
    }),
  );
});
