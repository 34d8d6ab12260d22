// What must not compile. Each `@ts-expect-error` is a claim that `tsc --noEmit` checks: where the line
// below it compiles after all, the compiler complains. At run time there is little to see, so the values
// that a wrong program would make are only written down.

import { describe, expect, test } from 'vitest';
import {
  type Answer,
  type CommandStep,
  chooseMode,
  type DeviceCommand,
  type DeviceTraits,
  type ErrorCode,
  formatSteps,
  guarantees,
  initialState,
  isMutation,
  MODE_NAMES,
  MODES,
  type ModeName,
  type OrderedMode,
  parseProgram,
  parseSteps,
  type ReadRequest,
  type Request,
  type Step,
  type TraceEvent,
  transformer,
  type UnsafePair,
  type WriteRequest,
} from '../src/model/index.js';
import { decodeLegacyMode, encodeLegacyMode } from '../src/systems/linux/eras.js';

/** Code that must compile or not, and is never run. */
function neverRun(_code: () => unknown): void {}

const able: DeviceTraits = { cache: 'volatile', flush: true, fua: true, orderedTags: true };

describe('a mode', () => {
  test('cannot be an eighth one', () => {
    // @ts-expect-error how a draining mode gets past the cache is not said
    const half: OrderedMode = { by: 'drain' };
    // @ts-expect-error what takes no barrier has no way past the cache
    const none: OrderedMode = { by: 'none', cache: 'flush' };
    // @ts-expect-error there is no third way to keep order
    const third: OrderedMode = { by: 'hope', cache: 'flush' };
    // @ts-expect-error there is no fourth way past the cache
    const fourth: OrderedMode = { by: 'tag', cache: 'ignore' };
    expect(Object.values(MODES)).not.toContainEqual(half);
    expect([none, third, fourth]).toHaveLength(3);
  });

  test('is known by one of seven names', () => {
    // @ts-expect-error the kernel's prefix is not part of the name
    const prefixed: ModeName = 'QUEUE_ORDERED_DRAIN';
    // @ts-expect-error names are in capitals
    neverRun(() => initialState('drain'));
    // @ts-expect-error a number is decoded with its layout, and is no mode
    neverRun(() => transformer(0x71));
    expect(MODE_NAMES).not.toContain(prefixed);
  });

  test('cannot be changed, and neither can the table of modes', () => {
    neverRun(() => {
      // @ts-expect-error the table is readonly
      MODES.DRAIN = MODES.TAG;
      // @ts-expect-error a mode is readonly
      MODES.DRAIN.by = 'tag';
      // @ts-expect-error the list of names is readonly
      MODE_NAMES.push('DRAIN');
    });
    expect(Object.isFrozen(MODES) && Object.isFrozen(MODE_NAMES)).toBe(true);
  });

  test('has a cache policy only once it is known to take barriers', () => {
    const policyOf = (mode: OrderedMode): string => {
      // @ts-expect-error a mode that takes no barrier has no `cache`
      neverRun(() => mode.cache);
      return mode.by === 'none' ? 'refused' : mode.cache;
    };
    expect(policyOf(MODES.NONE)).toBe('refused');
  });

  test('has a number only in a layout', () => {
    // @ts-expect-error the two layouts disagree, so the layout must be said
    neverRun(() => encodeLegacyMode('DRAIN'));
    // @ts-expect-error there is no layout of that name
    neverRun(() => decodeLegacyMode(0x71, '2.6.37'));
    expect(decodeLegacyMode(0x71, '2.6.31')).toBe('DRAIN_FLUSH');
  });
});

describe('a request', () => {
  test('names bytes exactly where it is about bytes', () => {
    // @ts-expect-error a flush covers everything: it has no offset
    const ranged: Request = { kind: 'flush', offset: 0, length: 4096 };
    // @ts-expect-error an empty barrier has no payload
    const payload: Request = { kind: 'barrier', offset: 0, length: 4096 };
    // @ts-expect-error a write says how many bytes
    const lengthless: Request = { kind: 'write', offset: 0 };
    // @ts-expect-error a read says where
    const nowhere: Request = { kind: 'read', length: 4096 };
    // @ts-expect-error offsets are numbers
    const big: Request = { kind: 'read', offset: 0n, length: 4096 };
    expect([ranged, payload, lengthless, nowhere, big]).toHaveLength(5);
  });

  test('carries flags only where they mean something', () => {
    const range = { offset: 0, length: 4096 };
    // @ts-expect-error a read is no barrier
    const read: Request = { kind: 'read', ...range, barrier: true };
    // @ts-expect-error a flush forces nothing
    const flush: Request = { kind: 'flush', fua: true };
    // @ts-expect-error a discard has no data to force
    const discard: Request = { kind: 'discard', ...range, fua: true };
    // @ts-expect-error a flag is a boolean
    const word: Request = { kind: 'write', ...range, barrier: 'yes' };
    // @ts-expect-error a flag is left out or said, and never undefined
    const unset: Request = { kind: 'write', ...range, barrier: undefined };
    expect([read, flush, discard, word, unset]).toHaveLength(5);
  });

  test('is one of six kinds', () => {
    // @ts-expect-error there is no such request
    const trim: Request = { kind: 'trim', offset: 0, length: 4096 };
    expect(isMutation(trim)).toBe(false);
  });

  test('cannot be changed', () => {
    const write: WriteRequest = Object.freeze({ kind: 'write', offset: 0, length: 4096 });
    neverRun(() => {
      // @ts-expect-error an offset is readonly
      write.offset = 4096;
      // @ts-expect-error a flag is readonly
      write.barrier = true;
    });
    expect(write).toEqual({ kind: 'write', offset: 0, length: 4096 });
  });

  test('has an offset only once its kind is known', () => {
    const [request] = parseProgram('w1') as [Request];
    // @ts-expect-error a flush has no offset
    neverRun(() => request.offset);
    expect(isMutation(request) && request.offset).toBe(4096);
  });
});

describe('a step', () => {
  const steps: readonly Step[] = [...transformer('TAG')(parseProgram('w1'))];

  test('tells what it is before it tells more', () => {
    // @ts-expect-error a drain has no request
    neverRun(() => steps.map((step) => step.request));
    // @ts-expect-error a refusal has no stage
    neverRun(() => steps.map((step) => step.stage));
    expect(steps).toHaveLength(1);
  });

  test('is of three kinds, four stages and two tags', () => {
    const flush = { kind: 'command', op: 'flush', offset: 0, length: 0, fua: false } as const;
    // @ts-expect-error waiting is called a drain
    const wait: Step = { kind: 'wait' };
    // @ts-expect-error nothing goes to the head of the queue
    const head: DeviceCommand = { ...flush, tag: 'head' };
    // @ts-expect-error a command of a mode has a stage and a request
    const bare: Step = { ...flush, tag: 'simple' };
    // @ts-expect-error an empty barrier is a flush or nothing at the device
    const barrier: DeviceCommand = { ...flush, op: 'barrier', tag: 'simple' };
    expect([wait, head, bare, barrier]).toHaveLength(4);
  });

  test('cannot be changed', () => {
    neverRun(() => {
      const [step] = steps as readonly [CommandStep];
      // @ts-expect-error a bit of a command is readonly
      step.fua = true;
      // @ts-expect-error what a transition answers is a readonly list
      steps.push(step);
    });
    expect(formatSteps(steps)).toBe('w1');
  });

  test('serves the very kind of request that went in', () => {
    const reads: ReadRequest[] = [{ kind: 'read', offset: 0, length: 4096 }];
    for (const step of transformer('DRAIN')(reads)) {
      if (step.kind !== 'command') continue;
      const { request } = step;
      // @ts-expect-error only reads went in, and a read has no flags
      neverRun(() => request.barrier);
      expect(request.offset).toBe(0);
    }
  });

  test('comes from the source in the way that requests go into it', () => {
    const transform = transformer('DRAIN');
    async function* later(): AsyncGenerator<Request> {}
    // @ts-expect-error an async source makes async steps, and they cannot be spread
    neverRun(() => [...transform(later())]);
    // @ts-expect-error a text is parsed before it is transformed
    neverRun(() => transform('w1 b2'));
    expect([...transform([])]).toEqual([]);
  });

  test('that was parsed has no stage, because a device sees none', () => {
    const [parsed] = parseSteps('w1');
    // @ts-expect-error the notation does not show stages
    neverRun(() => (parsed?.kind === 'command' ? parsed.stage : undefined));
    expect(parsed?.kind).toBe('command');
  });
});

describe('a state', () => {
  test('is replaced and never changed', () => {
    const state = initialState('DRAIN');
    neverRun(() => {
      // @ts-expect-error the next state is a new one
      state.drained = false;
      // @ts-expect-error a mode is changed by `{ ...state, mode }`
      state.mode = MODES.TAG;
    });
    expect(state.drained).toBe(true);
  });
});

describe('a device', () => {
  test('says all of its traits, so that no default can look safe', () => {
    // @ts-expect-error whether it has a flush is not said
    const mute: DeviceTraits = { cache: 'volatile', fua: true, orderedTags: false };
    // @ts-expect-error a cache is none, volatile or protected
    const vague: DeviceTraits = { ...able, cache: true };
    // @ts-expect-error a mode is chosen for all traits
    neverRun(() => chooseMode({ cache: 'none' }));
    expect([mute, vague]).toHaveLength(2);
  });

  test('gets promises that nobody can edit', () => {
    const promised = guarantees('TAG', able);
    neverRun(() => {
      // @ts-expect-error an answer is readonly
      promised.barrierDurable = 'yes';
      // @ts-expect-error the list of reasons is readonly
      promised.unsafe.pop();
    });
    // @ts-expect-error an answer is one of four words
    const maybe: Answer = 'maybe';
    // @ts-expect-error an unsafe pair has one of ten names
    const pair: UnsafePair['name'] = 'BAD_LUCK';
    expect([maybe, pair]).not.toContain(promised.barrierDurable);
  });
});

describe('an event and an error', () => {
  test('are of known kinds', () => {
    // @ts-expect-error an event has no time: nothing here has a clock
    const timed: TraceEvent = { kind: 'complete', command: 0, time: 1 };
    // @ts-expect-error a settled request says how it went
    const open: TraceEvent = { kind: 'settle', request: 0 };
    // @ts-expect-error codes are of a closed set, so that a switch over them can be complete
    const code: ErrorCode = 'OOPS';
    expect([timed, open, code]).toHaveLength(3);
  });
});
