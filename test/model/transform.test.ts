// The seven modes: the laws transform.T1 to T8 on any program, then the tables of the kernel's
// documentation, then the corner cases. Nothing here computes a sequence a second time: the laws look
// at steps, and the tables are typed in.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type CommandStep,
  formatSteps,
  initialState,
  isBarrier,
  MODE_NAMES,
  MODES,
  type ModeName,
  parseProgram,
  plainCommand,
  type Request,
  type Stage,
  type Step,
  type TransformState,
  transformer,
  transformStream,
  transition,
} from '../../src/model/index.js';
import {
  barrierModes,
  barriers,
  drainModes,
  emptyBarriers,
  flushes,
  modeNames,
  plainRequests,
  programs,
  requests,
  tagModes,
  unorderedRequests,
  writes,
} from './arbitraries.js';

const run = (mode: ModeName, program: readonly Request[]): Step[] => [
  ...transformer(mode)(program),
];
const shown = (mode: ModeName, program: string): string =>
  formatSteps(transformer(mode)(parseProgram(program)));
const commandsOf = (steps: readonly Step[]): CommandStep[] =>
  steps.filter((step) => step.kind === 'command');

/** The state of a mode after any program: all that a transform can have seen before. */
const statesOf = (names: fc.Arbitrary<ModeName>): fc.Arbitrary<TransformState> =>
  fc.tuple(names, programs).map(([name, program]) => program.reduce(next, initialState(name)));

function next(state: TransformState, request: Request): TransformState {
  return transition(state, request).state;
}

describe('the laws of the transformer', () => {
  test('transform.T1: a request without flags becomes exactly one plain command with a simple tag', () => {
    fc.assert(
      fc.property(statesOf(modeNames), plainRequests, (state, request) => {
        const { steps } = transition(state, request);
        const { kind: op, offset, length } = { offset: 0, length: 0, ...request };
        const plain = { kind: 'command', op, offset, length, tag: 'simple', fua: false };
        expect(steps).toEqual([{ ...plain, stage: 'plain', request }]);
        expect(steps).toEqual([plainCommand(request)]);
      }),
    );
  });

  test('transform.T2: a barrier becomes the stages of its mode in the order preflush, bar, postflush', () => {
    const stages: Record<'through' | 'flush' | 'fua', readonly Stage[]> = {
      through: ['bar'],
      flush: ['preflush', 'bar', 'postflush'],
      fua: ['preflush', 'bar'],
    };
    fc.assert(
      fc.property(statesOf(barrierModes), barriers, (state, barrier) => {
        const found = commandsOf(transition(state, barrier).steps);
        const asked = barrier.kind === 'write' && barrier.preflush ? ['preflush'] : [];
        const all = new Set([
          ...asked,
          ...(state.mode.by === 'none' ? [] : stages[state.mode.cache]),
        ]);
        const expected = [...all].filter(
          (stage) => barrier.kind === 'write' || stage === 'preflush',
        );
        expect(found.map(({ stage }) => stage)).toEqual(expected);
        for (const { stage, op } of found) expect(op).toBe(stage === 'bar' ? 'write' : 'flush');
      }),
    );
  });

  // Method: replay the steps on the laziest device that the contract allows, one that completes a
  // command only when a drain makes it.
  test('transform.T3: by drain, each command of a barrier is alone in flight and no drain says nothing', () => {
    fc.assert(
      fc.property(drainModes, programs, (mode, program) => {
        let inFlight: Stage[] = [];
        const steps = run(mode, program);
        for (const step of steps) {
          if (step.kind === 'drain') {
            expect(inFlight).not.toEqual([]);
            inFlight = [];
          } else if (step.kind === 'command') {
            // A preflush that a plain write asks for waits by transform.T7, and delays no other request.
            inFlight.push(isBarrier(step.request) ? step.stage : 'plain');
          }
          expect(inFlight.length === 1 || inFlight.every((stage) => stage === 'plain')).toBe(true);
        }
        const last = program.at(-1);
        if (last && isBarrier(last) && steps.length > 0) {
          expect(steps.at(-1)).toEqual({ kind: 'drain' });
        }
      }),
    );
  });

  test('transform.T4: by tag, the commands of barriers and no others are ordered, and nothing waits', () => {
    fc.assert(
      fc.property(tagModes, programs, (mode, program) => {
        const steps = run(mode, program);
        for (const { tag, request } of commandsOf(steps)) {
          expect(tag).toBe(isBarrier(request) ? 'ordered' : 'simple');
        }
        const drains = steps.filter(({ kind }) => kind === 'drain').length;
        const empty = program.filter(({ kind }) => kind === 'barrier').length;
        expect(drains).toBeLessThanOrEqual(mode === 'TAG' ? empty : 0);
      }),
    );
  });

  test('transform.T4: every barrier leaves an ordered command or a drained queue, so no mode loses one', () => {
    fc.assert(
      fc.property(statesOf(barrierModes), barriers, (state, barrier) => {
        const { steps, state: after } = transition(state, barrier);
        expect(after.drained || commandsOf(steps).some(({ tag }) => tag === 'ordered')).toBe(true);
      }),
    );
  });

  test('transform.T5: NONE refuses a barrier, and the other requests are as if it had never come', () => {
    fc.assert(
      fc.property(programs, (program) => {
        const steps = run('NONE', program);
        const others = program.filter((request) => !isBarrier(request));
        expect(steps.filter(({ kind }) => kind !== 'refuse')).toEqual(run('NONE', others));
        const refused = steps.filter((step) => step.kind === 'refuse');
        expect(refused).toEqual(
          program
            .filter(isBarrier)
            .map((request) => ({ kind: 'refuse', code: 'EOPNOTSUPP', request })),
        );
      }),
    );
  });

  test('transform.T5: a refusal issues nothing, so the state that it leaves is the one that it found', () => {
    fc.assert(
      fc.property(statesOf(modeNames), barriers, (state, barrier) => {
        const refusing = { ...state, mode: MODES.NONE };
        expect(transition(refusing, barrier).state).toEqual(refusing);
      }),
    );
  });

  test('transform.T6: a flush request is one plain flush, and what else is issued stays the same', () => {
    fc.assert(
      fc.property(statesOf(modeNames), flushes, (state, flush) => {
        expect(formatSteps(transition(state, flush).steps)).toBe('F');
      }),
    );
    fc.assert(
      fc.property(modeNames, programs, (mode, program) => {
        const isFlush = (request: Request): boolean => request.kind === 'flush';
        const others = program.filter((request) => !isFlush(request));
        expect(commandsOf(run(mode, program)).filter(({ request }) => !isFlush(request))).toEqual(
          commandsOf(run(mode, others)),
        );
      }),
    );
  });

  test('transform.T7: in every mode preflush puts a flush before the data, and fua forces the data', () => {
    fc.assert(
      fc.property(statesOf(modeNames), writes, (state, write) => {
        const { steps } = transition(state, write);
        expect(commandsOf(steps)).toEqual(steps);
        expect(commandsOf(steps).map(({ stage }) => stage)).toEqual(
          write.preflush ? ['preflush', 'plain'] : ['plain'],
        );
        expect(commandsOf(steps).at(-1)).toMatchObject({ op: 'write', fua: write.fua === true });
      }),
    );
    fc.assert(
      fc.property(statesOf(barrierModes), writes, (state, write) => {
        const { preflush = false, fua = false } = write;
        const found = commandsOf(transition(state, { ...write, barrier: true }).steps);
        const bar = found.findIndex(({ stage }) => stage === 'bar');
        expect(found.filter(({ stage }) => stage === 'preflush').length).toBeLessThanOrEqual(1);
        if (preflush) expect(found[bar - 1]?.stage).toBe('preflush');
        if (fua) expect(found[bar]?.fua).toBe(true);
        expect(found.filter(({ op }) => op === 'flush').some((flush) => flush.fua)).toBe(false);
      }),
    );
  });

  test('transform.T7: a flag that is false says what an absent one says', () => {
    fc.assert(
      fc.property(modeNames, writes, (mode, write) => {
        const spelled = { barrier: false, preflush: false, fua: false, ...write };
        expect(formatSteps(run(mode, [spelled]))).toBe(formatSteps(run(mode, [write])));
      }),
    );
  });

  test('transform.T8: steps come in the order of the requests, and the state is one bit beside the mode', () => {
    fc.assert(
      fc.property(modeNames, programs, (mode, program) => {
        // Copies, so that each step tells which of two equal requests it serves.
        const numbered = program.map((request) => ({ ...request }));
        const order = run(mode, numbered).flatMap((step) =>
          step.kind === 'drain' ? [] : [numbered.indexOf(step.request)],
        );
        expect(order).toEqual([...order].sort((a, b) => a - b));
        const state = numbered.reduce(next, initialState(mode));
        expect(state).toEqual({ mode: MODES[mode], drained: expect.any(Boolean) });
      }),
    );
  });

  // Method: the source counts how often it was asked; each step must arrive before the next request
  // is asked for.
  test('transform.T8: no transformer asks for a request before the steps of the last one are taken', async () => {
    await fc.assert(
      fc.asyncProperty(modeNames, programs, async (mode, program) => {
        let pulled = 0;
        function* counted() {
          for (const request of program) {
            pulled += 1;
            yield { ...request, number: pulled };
          }
        }
        async function* countedAsync() {
          yield* counted();
        }
        const current = (step: Step<Request & { readonly number: number }>): void => {
          if (step.kind !== 'drain') expect(step.request.number).toBe(pulled);
        };

        const steps = transformer(mode)(counted());
        expect(pulled).toBe(0);
        for (const step of steps) current(step);
        expect(pulled).toBe(program.length);

        pulled = 0;
        const stepsAsync = transformer(mode)(countedAsync());
        expect(pulled).toBe(0);
        for await (const step of stepsAsync) current(step);
        expect(pulled).toBe(program.length);
      }),
    );
  });

  test('transform.T8: whoever stops reading steps closes the source of the requests', async () => {
    const closed: string[] = [];
    function* endless(): Generator<Request> {
      try {
        for (;;) yield { kind: 'flush' };
      } finally {
        closed.push('iterable');
      }
    }
    async function* endlessAsync(): AsyncGenerator<Request> {
      try {
        for (;;) yield { kind: 'flush' };
      } finally {
        closed.push('async iterable');
      }
    }
    for (const _ of transformer('DRAIN')(endless())) break;
    for await (const _ of transformer('DRAIN')(endlessAsync())) break;
    expect(closed).toEqual(['iterable', 'async iterable']);
  });

  test('transform.T8: given a request that cannot be read, the source is closed, and the steps end with the error', () => {
    const closed: string[] = [];
    const unreadable = {
      get kind(): 'flush' {
        throw new Error('no kind');
      },
    };
    function* source(): Generator<Request> {
      try {
        yield* parseProgram('w0');
        yield unreadable;
        yield* parseProgram('w1');
      } finally {
        closed.push('source');
      }
    }
    const steps = transformer('DRAIN')(source())[Symbol.iterator]();
    expect(steps.next().done).toBe(false);
    expect(() => steps.next()).toThrow('no kind');
    expect(closed).toEqual(['source']);
    expect(steps.next().done).toBe(true);
  });

  test('transform.T8: given a source that cannot even be closed, the first error is the one that is thrown', () => {
    const broken: Iterable<Request> = {
      [Symbol.iterator]: () => ({
        next: () => ({ done: false, value: null as unknown as Request }),
        return: () => {
          throw new Error('not closed');
        },
      }),
    };
    expect(() => [...transformer('DRAIN')(broken)]).toThrow(TypeError);
  });

  test('transform.T8: given a source that throws or ends, it is not closed, and is asked no further', () => {
    for (const end of ['throws', 'ends']) {
      const calls: string[] = [];
      const source: Iterable<Request> = {
        [Symbol.iterator]: () => ({
          next: () => {
            calls.push('next');
            if (end === 'throws') throw new Error('no more');
            return { done: true, value: undefined };
          },
          return: () => {
            calls.push('return');
            return { done: true, value: undefined };
          },
        }),
      };
      const steps = transformer('DRAIN')(source)[Symbol.iterator]();
      expect(calls).toEqual([]);
      if (end === 'throws') expect(() => steps.next()).toThrow('no more');
      else expect(steps.next().done).toBe(true);
      expect(steps.next().done).toBe(true);
      steps.return?.();
      expect(calls).toEqual(['next']);
    }
  });

  test('transform.T8: given steps that were stopped inside a sequence, none of the rest comes', () => {
    const steps = transformer('DRAIN_FLUSH')(parseProgram('w0 b1 w2'))[Symbol.iterator]();
    for (let i = 0; i < 3; i++) expect(steps.next().done).toBe(false);
    expect(steps.return?.().done).toBe(true);
    expect(steps.next().done).toBe(true);
  });
});

describe('runs', () => {
  test('given any program, then the steps of a transformer are those of its transitions, one after the other', () => {
    fc.assert(
      fc.property(modeNames, programs, (mode, program) => {
        let state = initialState(mode);
        const steps = program.flatMap((request) => {
          const made = transition(state, request);
          state = made.state;
          return made.steps;
        });
        expect(run(mode, program)).toEqual(steps);
      }),
    );
  });

  test('given a state, when it is used twice, then it gives the same steps and stays as it was', () => {
    fc.assert(
      fc.property(statesOf(modeNames), requests, (state, request) => {
        const before = structuredClone(state);
        Object.freeze(state);
        Object.freeze(request);
        expect(transition(state, request)).toEqual(transition(state, request));
        expect(state).toEqual(before);
      }),
    );
  });

  test('given a run, when it is forked, then either branch goes on as if it were the only one', () => {
    fc.assert(
      fc.property(modeNames, programs, programs, programs, (mode, stem, left, right) => {
        const forked = stem.reduce(next, initialState(mode));
        for (const branch of [left, right]) {
          let state = forked;
          const steps = branch.flatMap((request) => {
            const stepped = transition(state, request);
            state = stepped.state;
            return stepped.steps;
          });
          expect([...run(mode, stem), ...steps]).toEqual(run(mode, [...stem, ...branch]));
        }
      }),
    );
  });

  test('given any program, then iterable, async iterable and web stream give the same steps', async () => {
    await fc.assert(
      fc.asyncProperty(modeNames, programs, async (mode, program) => {
        async function* later(): AsyncGenerator<Request> {
          yield* program;
        }
        const expected = run(mode, program);

        const fromAsync: Step[] = [];
        for await (const step of transformer(mode)(later())) fromAsync.push(step);
        expect(fromAsync).toEqual(expected);

        const source = new ReadableStream<Request>({
          start(controller) {
            for (const request of program) controller.enqueue(request);
            controller.close();
          },
        });
        const fromStream: Step[] = [];
        const reader = source.pipeThrough(transformStream(mode)).getReader();
        for (let read = await reader.read(); !read.done; read = await reader.read()) {
          fromStream.push(read.value);
        }
        expect(fromStream).toEqual(expected);
      }),
    );
  });

  test('given one transformer, when it runs twice at once, then the runs do not meet', () => {
    fc.assert(
      fc.property(modeNames, programs, (mode, program) => {
        const transform = transformer(mode);
        const [first, second] = [transform(program), transform(program)].map((steps) =>
          steps[Symbol.iterator](),
        );
        for (const step of run(mode, program)) {
          expect(first?.next().value).toEqual(step);
          expect(second?.next().value).toEqual(step);
        }
      }),
    );
  });

  test('given a mode and its name, then both make the same transformer', () => {
    fc.assert(
      fc.property(modeNames, programs, (mode, program) => {
        expect([...transformer(MODES[mode])(program)]).toEqual(run(mode, program));
      }),
    );
  });

  test('given another mode in the state, then it acts from the next barrier on and not before', () => {
    fc.assert(
      fc.property(statesOf(modeNames), modeNames, unorderedRequests, (state, name, request) => {
        const switched = { ...state, mode: MODES[name] };
        expect(transition(switched, request).steps).toEqual(transition(state, request).steps);
      }),
    );
    fc.assert(
      fc.property(statesOf(modeNames), modeNames, barriers, (state, name, barrier) => {
        const { steps } = transition({ ...state, mode: MODES[name] }, barrier);
        const native = transition({ mode: MODES[name], drained: state.drained }, barrier);
        expect(steps).toEqual(native.steps);
      }),
    );
  });
});

interface SequenceRow {
  readonly mode: ModeName;
  /** The barrier `b3` with nothing in flight, and after `w0`. */
  readonly data: readonly [idle: string, busy: string];
  /** The empty barrier `b`, likewise. */
  readonly empty: readonly [idle: string, busy: string];
  /** Commands for a barrier with data, and for an empty one. */
  readonly commands: readonly [data: number, empty: number];
}

// Linux 2.6.31 to 2.6.36, start_ordered() in block/blk-barrier.c. A trailing drain is the wait of
// whatever comes next. The counts are those of the sequences; NONE sends nothing at all.
const SEQUENCES: readonly SequenceRow[] = [
  {
    mode: 'NONE',
    data: ['EOPNOTSUPP(b3)', 'w0 EOPNOTSUPP(b3)'],
    empty: ['EOPNOTSUPP(b)', 'w0 EOPNOTSUPP(b)'],
    commands: [0, 0],
  },
  {
    mode: 'DRAIN',
    data: ['w3 =>', 'w0 => w3 =>'],
    empty: ['', 'w0 =>'],
    commands: [1, 0],
  },
  {
    mode: 'DRAIN_FLUSH',
    data: ['F => w3 => F =>', 'w0 => F => w3 => F =>'],
    empty: ['F =>', 'w0 => F =>'],
    commands: [3, 1],
  },
  {
    mode: 'DRAIN_FUA',
    data: ['F => w3! =>', 'w0 => F => w3! =>'],
    empty: ['F =>', 'w0 => F =>'],
    commands: [2, 1],
  },
  {
    mode: 'TAG',
    data: ['^w3', 'w0 ^w3'],
    empty: ['', 'w0 =>'],
    commands: [1, 0],
  },
  {
    mode: 'TAG_FLUSH',
    data: ['^F ^w3 ^F', 'w0 ^F ^w3 ^F'],
    empty: ['^F', 'w0 ^F'],
    commands: [3, 1],
  },
  {
    mode: 'TAG_FUA',
    data: ['^F ^w3!', 'w0 ^F ^w3!'],
    empty: ['^F', 'w0 ^F'],
    commands: [2, 1],
  },
];

describe('the documented sequences', () => {
  test('the table has a row for each of the seven modes', () => {
    expect(SEQUENCES.map(({ mode }) => mode)).toEqual(MODE_NAMES);
  });

  test.each(SEQUENCES)('$mode with nothing in flight: b3 is `$data.0`, b is `$empty.0`', (row) => {
    expect(shown(row.mode, 'b3')).toBe(row.data[0]);
    expect(shown(row.mode, 'b')).toBe(row.empty[0]);
  });

  test.each(SEQUENCES)('$mode with w0 in flight: b3 makes `$data.1`, b makes `$empty.1`', (row) => {
    expect(shown(row.mode, 'w0 b3')).toBe(row.data[1]);
    expect(shown(row.mode, 'w0 b')).toBe(row.empty[1]);
  });

  test.each(SEQUENCES)(
    '$mode needs $commands.0 commands for data and $commands.1 for none',
    (row) => {
      expect(commandsOf(run(row.mode, parseProgram('b3')))).toHaveLength(row.commands[0]);
      expect(commandsOf(run(row.mode, parseProgram('b')))).toHaveLength(row.commands[1]);
    },
  );
});

describe('one barrier among writes', () => {
  test.each<[ModeName, string]>([
    ['NONE', 'w0 w1 EOPNOTSUPP(b3) w4'],
    ['DRAIN', 'w0 w1 => w3 => w4'],
    ['DRAIN_FLUSH', 'w0 w1 => F => w3 => F => w4'],
    ['DRAIN_FUA', 'w0 w1 => F => w3! => w4'],
    ['TAG', 'w0 w1 ^w3 w4'],
    ['TAG_FLUSH', 'w0 w1 ^F ^w3 ^F w4'],
    ['TAG_FUA', 'w0 w1 ^F ^w3! w4'],
  ])('w0 w1 b3 w4 in %s is %s', (mode, steps) => {
    expect(shown(mode, 'w0 w1 b3 w4')).toBe(steps);
  });

  test.each<[ModeName, string]>([
    ['NONE', 'w0 w1 EOPNOTSUPP(b) w4'],
    ['DRAIN', 'w0 w1 => w4'],
    ['DRAIN_FLUSH', 'w0 w1 => F => w4'],
    ['DRAIN_FUA', 'w0 w1 => F => w4'],
    ['TAG', 'w0 w1 => w4'],
    ['TAG_FLUSH', 'w0 w1 ^F w4'],
    ['TAG_FUA', 'w0 w1 ^F w4'],
  ])('w0 w1 b w4 in %s is %s', (mode, steps) => {
    expect(shown(mode, 'w0 w1 b w4')).toBe(steps);
  });

  test.each<[ModeName, string]>([
    ['NONE', 'EOPNOTSUPP(b1) EOPNOTSUPP(b) EOPNOTSUPP(b2)'],
    ['DRAIN', 'w1 => w2 =>'],
    ['DRAIN_FLUSH', 'F => w1 => F => F => F => w2 => F =>'],
    ['DRAIN_FUA', 'F => w1! => F => F => w2! =>'],
    ['TAG', '^w1 => ^w2'],
    ['TAG_FLUSH', '^F ^w1 ^F ^F ^F ^w2 ^F'],
    ['TAG_FUA', '^F ^w1! ^F ^F ^w2!'],
  ])('b1 b b2 in %s is %s', (mode, steps) => {
    expect(shown(mode, 'b1 b b2')).toBe(steps);
  });
});

describe('the flags preflush and fua', () => {
  test.each(MODE_NAMES)('on plain requests mean the same in every mode, %s among them', (mode) => {
    expect(shown(mode, 'w0! fw1 fw2! f r3 d4 z5')).toBe('w0! F w1 F w2! F r3 d4 z5');
  });

  test.each<[ModeName, fua: string, both: string]>([
    ['NONE', 'EOPNOTSUPP(b3!)', 'EOPNOTSUPP(fb3!)'],
    ['DRAIN', 'w3! =>', 'F => w3! =>'],
    ['DRAIN_FLUSH', 'F => w3! => F =>', 'F => w3! => F =>'],
    ['DRAIN_FUA', 'F => w3! =>', 'F => w3! =>'],
    ['TAG', '^w3!', '^F ^w3!'],
    ['TAG_FLUSH', '^F ^w3! ^F', '^F ^w3! ^F'],
    ['TAG_FUA', '^F ^w3!', '^F ^w3!'],
  ])('in %s make b3! into %s and fb3! into %s', (mode, fua, both) => {
    expect(shown(mode, 'b3!')).toBe(fua);
    expect(shown(mode, 'fb3!')).toBe(both);
  });
});

describe('corner cases', () => {
  test('case 1: a name outside the seven is refused with EINVAL, and states stay as they were', () => {
    const bogus = ['BOGUS', '', 'drain', 'QUEUE_ORDERED_DRAIN', 'toString', '__proto__'];
    for (const name of bogus as ModeName[]) {
      const refusal = expect.objectContaining({ code: 'EINVAL' });
      expect(() => initialState(name)).toThrow(refusal);
      expect(() => transformer(name)).toThrow(refusal);
      expect(() => transformStream(name)).toThrow(refusal);
    }
  });

  test('case 3: DRAIN_FUA drains, flushes, forces the barrier, and flushes no more', () => {
    expect(shown('DRAIN_FUA', 'w0 b3 w4')).toBe('w0 => F => w3! => w4');
    const stages = commandsOf(run('DRAIN_FUA', parseProgram('b3'))).map(({ stage }) => stage);
    expect(stages).toEqual(['preflush', 'bar']);
  });

  test('case 5: given a new mode after a barrier, then its steps stay and the next uses the new', () => {
    const [w0, b1, w2, b3] = parseProgram('w0 b1 w2 b3') as [Request, Request, Request, Request];
    let state = initialState('DRAIN_FLUSH');
    const steps: Step[] = [];
    const take = (request: Request): void => {
      const stepped = transition(state, request);
      state = stepped.state;
      steps.push(...stepped.steps);
    };
    take(w0);
    take(b1);
    state = { ...state, mode: MODES.TAG_FUA };
    take(w2);
    take(b3);
    expect(formatSteps(steps)).toBe('w0 => F => w1 => F => w2 ^F ^w3!');
  });

  test('case 6: NONE refuses barriers with and without data, writes nothing, and goes on', () => {
    expect(shown('NONE', 'w0 b1 w2 b f w3!')).toBe('w0 EOPNOTSUPP(b1) w2 EOPNOTSUPP(b) F w3!');
    expect(commandsOf(run('NONE', parseProgram('b1 b fb2!')))).toEqual([]);
  });

  test('case 12: a drain waits for reads as it does for writes', () => {
    expect(shown('DRAIN', 'r0 b1')).toBe('r0 => w1 =>');
  });

  test('case 14: an empty barrier on an idle DRAIN queue is no step at all', () => {
    expect(shown('DRAIN', 'b')).toBe('');
    expect(shown('DRAIN', 'b b b')).toBe('');
  });

  test('case 15: an empty barrier on a busy DRAIN queue is a drain and no command', () => {
    expect(shown('DRAIN', 'w0 w1 b')).toBe('w0 w1 =>');
  });

  test('case 16: an empty barrier in DRAIN_FLUSH is exactly one flush', () => {
    expect(shown('DRAIN_FLUSH', 'w0 b w1')).toBe('w0 => F => w1');
  });

  test('case 17: a barrier with data in DRAIN_FLUSH is flush, write, flush, one after another', () => {
    expect(shown('DRAIN_FLUSH', 'b3')).toBe('F => w3 => F =>');
  });

  test('case 20: a barrier in TAG is issued with its tag at once, and nobody behind it waits', () => {
    expect(shown('TAG', 'w0 w1 b3 w4 w5')).toBe('w0 w1 ^w3 w4 w5');
  });

  test('case 22: an empty barrier in TAG drains, and the next barrier is tagged again', () => {
    expect(shown('TAG', 'w0 b w1 b2 w3')).toBe('w0 => w1 ^w2 w3');
    fc.assert(
      fc.property(statesOf(fc.constant('TAG')), emptyBarriers, (state, barrier) => {
        expect(transition(state, barrier).state).toEqual({ mode: MODES.TAG, drained: true });
      }),
    );
  });
});
