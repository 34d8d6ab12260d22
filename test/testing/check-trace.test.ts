// The checker of traces: silent about every run of the real scheduler, and about none that breaks a rule. Broken traces
// are written by hand, one or more for each rule, or made of good ones by a mutation that must not go unnoticed.
//
// Traces are written as text, one word for each event:
//
//   +w0        a request is submitted, in the notation of programs; numbers count from 0
//   >w0:0      a command is dispatched, in the notation of steps, for request 0; `:0,3` for two
//   >F:1.pre   the same as a stage of a barrier: .pre, .bar, .post
//   .0  x0     command 0 completes, well or badly
//   =0  =0:c   request 0 is answered as done, or cancelled; `=0:FAILED` with a code

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Capabilities,
  type DeviceCommand,
  IoScheduler,
  isBarrier,
  MemoryStorage,
  MODE_NAMES,
  type ModeName,
  parseProgram,
  parseSteps,
  type Request,
  type SettleEvent,
  type Stage,
  type TraceEvent,
} from 'write-barrier';
import {
  type CheckOptions,
  checkTrace,
  TRACE_RULES,
  type Violation,
} from '../../src/testing/checker/check-trace.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { share } from '../kit/amount.js';
import { chooserOf } from '../kit/random.js';
import { PROGRAM_BLOCKS, requests } from '../model/arbitraries.js';
import { VirtualDevice } from '../scheduler/virtual-device.js';
import { BLOCK, settled, submit, VOLATILE, World } from '../scheduler/world.js';

const STAGES: Readonly<Record<string, Stage>> = {
  pre: 'preflush',
  bar: 'bar',
  post: 'postflush',
};

/** The events of a trace in the notation above. */
function trace(text: string): TraceEvent[] {
  let requestsSoFar = 0;
  let commands = 0;
  return text.split(/\s+/).map((word): TraceEvent => {
    const rest = word.slice(1);
    switch (word[0]) {
      case '+':
        return {
          kind: 'submit',
          request: requestsSoFar++,
          what: parseProgram(rest)[0] as Request,
        };
      case '>': {
        const [step = '', whom = '', stage] = rest.split(/[:.]/);
        const what = parseSteps(step)[0] as DeviceCommand;
        return {
          kind: 'dispatch',
          command: commands++,
          what: { ...what, stage: stage ? (STAGES[stage] as Stage) : 'plain' },
          requests: whom.split(',').map(Number),
        };
      }
      case '.':
        return { kind: 'complete', command: Number(rest) };
      case 'x':
        return { kind: 'complete', command: Number(rest), error: 'EIO' };
      default: {
        const [request, outcome = 'done'] = rest.split(':');
        const code = outcome === 'c' ? 'cancelled' : (outcome as SettleEvent['outcome']);
        return { kind: 'settle', request: Number(request), outcome: code };
      }
    }
  });
}

const STABLE: Capabilities = { ...VOLATILE, cache: 'none' };
const NO_FUA: Capabilities = { ...VOLATILE, fua: false };
const SLOW_FUA: Capabilities = { ...VOLATILE, slowFua: true };
const NO_FLUSH: Capabilities = { ...NO_FUA, flush: false };
const BARE: Capabilities = { ...NO_FUA, writev: false, discard: false, writeZeroes: false };

/** The rules that a trace breaks, first come first. */
function broken(text: string, options: ModeName | CheckOptions): Violation['rule'][] {
  return checkTrace(trace(text), options).map(({ rule }) => rule);
}

// Runs of the real scheduler

interface Setup {
  readonly mode: ModeName;
  readonly device: Capabilities;
  readonly depth: number;
  readonly errorPolicy: 'abort' | 'kernel';
  readonly readsPassBarriers: boolean;
  readonly failures: boolean;
  readonly cancels: boolean;
}

const setups: fc.Arbitrary<Setup> = fc.record({
  mode: fc.constantFrom(...MODE_NAMES),
  device: fc.constantFrom(VOLATILE, STABLE, NO_FUA, SLOW_FUA, NO_FLUSH, BARE),
  depth: fc.integer({ min: 1, max: 8 }),
  errorPolicy: fc.constantFrom('abort', 'kernel'),
  readsPassBarriers: fc.boolean(),
  failures: fc.boolean(),
  cancels: fc.boolean(),
});

const programsOf = (minLength: number, maxLength: number): fc.Arbitrary<Request[]> =>
  fc.array(requests, { minLength, maxLength });

/** What the scheduler reports of a program; the device, the latencies and the cancels follow the seed. */
async function play(
  setup: Setup,
  program: readonly Request[],
  seed: number,
): Promise<TraceEvent[]> {
  const choose = chooserOf(seed);
  const events: TraceEvent[] = [];
  const device = new VirtualDevice(setup.device, PROGRAM_BLOCKS, choose, setup.failures);
  const observer = (event: TraceEvent): void => void events.push(event);
  const { mode, depth, errorPolicy, readsPassBarriers } = setup;
  const how = { mode, depth, errorPolicy, readsPassBarriers };
  const disk = new IoScheduler(device, { ...how, observer, allowUnsafe: true });
  const aborts: AbortController[] = [];
  while (aborts.length < program.length || device.inFlight > 0) {
    const move = choose(10);
    if (move < 5 && aborts.length < program.length) {
      const controller = new AbortController();
      submit(disk, program[aborts.length] as Request, controller.signal).catch(() => {});
      aborts.push(controller);
    } else if ((move === 5 || move === 6) && setup.cancels) {
      // The latest ones are those that still wait.
      aborts.at(-1 - choose(8))?.abort();
    } else {
      device.answerOne();
    }
    if (choose(3) === 0) await settled();
    if (disk.state === 'failed' && device.inFlight === 0) await disk.recover();
  }
  for (await settled(); device.inFlight > 0; await settled()) device.answerOne();
  return events;
}

const optionsOf = ({ mode, device, readsPassBarriers, errorPolicy }: Setup): CheckOptions => ({
  mode,
  device,
  readsPass: readsPassBarriers,
  errorPolicy,
});

async function isClean(setup: Setup, program: Request[], seed: number): Promise<void> {
  const events = await play(setup, program, seed);
  expect(checkTrace(events, optionsOf(setup))).toEqual([]);
}

describe('given any program, device, mode and policy', () => {
  test('when the scheduler runs it, then no rule is broken', async () => {
    const short = fc.asyncProperty(setups, programsOf(1, 40), fc.nat(), isClean);
    await fc.assert(short, { numRuns: share(4000) });
  });

  test('when the program is long, then no rule is broken either', async () => {
    const long = fc.asyncProperty(setups, programsOf(200, 300), fc.nat(), isClean);
    await fc.assert(long, { numRuns: share(100, 20) });
  });

  test('when the trace is cut anywhere and said to be so, then no rule is broken', async () => {
    const cut = fc.asyncProperty(
      setups,
      programsOf(1, 15),
      fc.nat(),
      async (setup, program, seed) => {
        const events = await play(setup, program, seed);
        for (let end = 0; end < events.length; end++) {
          const options = { ...optionsOf(setup), ended: false };
          expect(checkTrace(events.slice(0, end), options)).toEqual([]);
        }
      },
    );
    await fc.assert(cut, { numRuns: share(200) });
  });
});

test('given commands that a storage does not answer, when close() gives up on them, then no rule is broken', async () => {
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => void events.push(event);
  const world = new World({ mode: 'DRAIN_FLUSH', observer });
  world.submit('w0 w1 b2 w3 f');
  await expect(world.disk.close({ timeoutMs: 1 })).rejects.toThrow('no answer');
  expect(events.some((event) => event.kind === 'settle')).toBe(true);
  expect(checkTrace(events, 'DRAIN_FLUSH')).toEqual([]);
});

// Hand-written traces

const TAG: CheckOptions = { mode: 'TAG', device: STABLE };
const DRAIN: CheckOptions = { mode: 'DRAIN', device: STABLE };
const ABORTS: CheckOptions = { mode: 'DRAIN_FLUSH', errorPolicy: 'abort' };

test.each<[string, ModeName | CheckOptions, string]>([
  ['nothing', 'NONE', '+w0 >w0:0 .0 =0'],
  [
    'the sequence of DRAIN_FLUSH',
    'DRAIN_FLUSH',
    '+b0 +w1 >F:0.pre .0 >w0:0.bar .1 >F:0.post .2 =0 >w1:1 .3 =1',
  ],
  ['a read past a barrier', DRAIN, '+w0 +b1 +r2 >w0:0 >r2:2 .0 =0 >w1:1.bar .2 =1 .1 =2'],
  [
    'a tagged sequence in any order of answers',
    'TAG_FLUSH',
    '+w9 +b0 +w1 >w9:0 >^F:1.pre >^w0:1.bar >^F:1.post >w1:2 .4 =2 .3 .1 .2 =1 .0 =0',
  ],
  [
    'the flush of a place that a cancelled barrier has left',
    'DRAIN_FLUSH',
    '+w0 +b1 +w2 >w0:0 =1:c .0 =0 >F:1.pre .1 >w2:2 .2 =2',
  ],
  [
    'two places in a row with one flush',
    'DRAIN_FLUSH',
    '+w0 +b1 +b +w2 >w0:0 =2:c =1:c .0 =0 >F:2.pre .1 >w2:3 .2 =3',
  ],
  [
    'a barrier aborted after its preflush',
    'DRAIN_FLUSH',
    '+w0 +b1 >w0:0 x0 =0:IO_FAILED >F:1.pre .1 =1:BARRIER_ABORTED',
  ],
  [
    'a barrier cancelled while its preflush runs',
    'DRAIN_FLUSH',
    '+b1 +w2 >F:0.pre =0:c .0 >w2:1 .1 =1',
  ],
  [
    'a flush that fails, and all who are refused for it',
    'DRAIN_FLUSH',
    '+w0 >w0:0 .0 =0 +f >F:1 +w1 x1 =1:FLUSH_FAILED =2:FAILED',
  ],
  [
    'a failed write, for a kernel',
    'DRAIN_FLUSH',
    '+w0 +b1 >w0:0 x0 =0:IO_FAILED >F:1.pre .1 >w1:1.bar .2 >F:1.post .3 =1',
  ],
  [
    'a failed write that was answered before the barrier came',
    ABORTS,
    '+w0 >w0:0 x0 =0:IO_FAILED +b1 >F:1.pre .1 >w1:1.bar .2 >F:1.post .3 =1',
  ],
  [
    'a failed write that was written over before the barrier',
    ABORTS,
    '+w0 +w0 +b1 >w0:0 x0 =0:IO_FAILED >w0:1 .1 =1 >F:2.pre .2 >w1:2.bar .3 >F:2.post .4 =2',
  ],
  [
    'a failed write that the barrier writes itself',
    ABORTS,
    '+w0 +b0 >w0:0 x0 =0:IO_FAILED >F:1.pre .1 >w0:1.bar .2 >F:1.post .3 =1',
  ],
  ['a flush that serves two', 'NONE', '+w0 >w0:0 .0 =0 +f +f >F:1,2 .1 =1 =2'],
  [
    'a forced write without a FUA command',
    { mode: 'NONE', device: NO_FUA },
    '+w0! >w0:0 .0 >F:0 .1 =0',
  ],
  [
    'two forced writes that share a flush, where FUA is slow',
    { mode: 'NONE', device: SLOW_FUA },
    '+w0! +w1! >w0:0 >w1:1 .0 .1 >F:0,1 .2 =0 =1',
  ],
  ['the same where the device is not known', 'NONE', '+w0! +w1! >w0:0 >w1:1 .0 .1 >F:0,1 .2 =0 =1'],
  ['neighbours merged into one command', 'NONE', '+w0 +w1+2 >w0+3:0,1 .0 =0 =1'],
  [
    'an ordered tag between two overlapping writes',
    TAG,
    '+w0 +b0 +w0 >w0:0 >^w0:1.bar >w0:2 .0 .1 .2 =0 =1 =2',
  ],
  [
    'a write that a tagged flush covers while it is at the device',
    'TAG_FLUSH',
    '+w0 +b +f >w0:0 >^F:1.pre .0 =0 .1 =1 >F:2 .2 =2',
  ],
])('given %s, when it is checked, then it breaks no rule', (_, options, text) => {
  expect(checkTrace(trace(text), options)).toEqual([]);
});

test.each<[Violation['rule'], string, ModeName | CheckOptions, string]>([
  ['C1', 'a command that completes twice', 'NONE', '+w0 >w0:0 .0 .0'],
  ['C1', 'a command that nobody dispatched', 'NONE', '+w0 .0'],
  ['C1', 'a dispatch for a request that nobody submitted', 'NONE', '>w0:0'],
  ['C1', 'an answer to a request that nobody submitted', 'NONE', '=0'],
  ['C2', 'a barrier without its preflush', 'DRAIN_FLUSH', '+b0 >w0:0.bar .0 >F:0.post .1 =0'],
  ['C2', 'a barrier without its postflush', 'DRAIN_FLUSH', '+b0 >F:0.pre .0 >w0:0.bar .1 =0'],
  ['C2', 'a postflush too many', 'DRAIN_FUA', '+b0 >F:0.pre .0 >w0!:0.bar .1 >F:0.post .2 =0'],
  ['C2', 'a payload that is not forced', 'DRAIN_FUA', '+b0 >F:0.pre .0 >w0:0.bar .1 =0'],
  [
    'C2',
    'a flush after a forced write, where the device has FUA',
    { mode: 'NONE', device: VOLATILE },
    '+w0! >w0:0 .0 >F:0 .1 =0',
  ],
  [
    'C2',
    'a FUA command where FUA is slow',
    { mode: 'NONE', device: SLOW_FUA },
    '+w0! >w0!:0 .0 >F:0 .1 =0',
  ],
  ['C2', 'a payload elsewhere', DRAIN, '+b0 >w1:0.bar .0 =0'],
  [
    'C2',
    'a flush where nothing is volatile',
    { mode: 'DRAIN_FLUSH', device: STABLE },
    '+b0 >F:0.pre .0 >w0:0.bar .1 =0',
  ],
  ['C2', 'a barrier merged with a write', DRAIN, '+b0 +w1 >w0+2:0,1 .0 =0 =1'],
  ['C2', 'a barrier done where barriers are refused', 'NONE', '+b0 =0'],
  ['C2', 'data dispatched twice', 'NONE', '+w0 >w0:0 .0 >w0:0 .1 =0'],
  ['C2', 'a write for a read', 'NONE', '+r0 >w0:0 .0 =0'],
  ['C2', 'more bytes than were asked for', 'NONE', '+w0 >w0+2:0 .0 =0'],
  ['C2', 'a preflush and its data at once', 'NONE', '+fw0 >F:0 >w0:0 .0 .1 =0'],
  [
    'C3',
    'a barrier by drain while an older write is at the device',
    DRAIN,
    '+w0 +b1 >w0:0 >w1:1.bar .0 .1 =0 =1',
  ],
  [
    'C3',
    'a barrier by drain before an older write is answered',
    DRAIN,
    '+w0 +b1 >w0:0 .0 >w1:1.bar .1 =0 =1',
  ],
  [
    'C3',
    'a barrier by drain while an older read is at the device',
    DRAIN,
    '+r0 +b1 >r0:0 >w1:1.bar .0 .1 =0 =1',
  ],
  [
    'C3',
    'two stages by drain at once',
    'DRAIN_FLUSH',
    '+b0 >F:0.pre >w0:0.bar .0 .1 >F:0.post .2 =0',
  ],
  ['C3', 'a barrier by tag ahead of an older write', TAG, '+w0 +b1 >^w1:1.bar >w0:0 .0 .1 =0 =1'],
  ['C4', 'a younger write during a sequence', DRAIN, '+b0 +w1 >w0:0.bar >w1:1 .0 =0 .1 =1'],
  ['C4', 'a younger write ahead of a barrier by tag', TAG, '+b0 +w1 >w1:1 >^w0:0.bar .0 =1 .1 =0'],
  [
    'C4',
    'a younger write between two tagged stages',
    'TAG_FUA',
    '+b0 +w1 >^F:0.pre >w1:1 >^w0!:0.bar .0 .1 .2 =0 =1',
  ],
  ['C4', 'a write merged across a barrier', DRAIN, '+w0 +b +w1 >w0+2:0,2 .0 =0 =1 =2'],
  [
    'C4',
    'a read past a barrier where it overlaps the payload',
    DRAIN,
    '+b0 +r0 >r0:1 .0 =1 >w0:0.bar .1 =0',
  ],
  [
    'C4',
    'a read past a barrier where reads may not pass',
    { ...DRAIN, readsPass: false },
    '+w0 +b +r1 >w0:0 >r1:2 .1 =2 .0 =0 =1',
  ],
  [
    'C4',
    'a write past the place of a cancelled barrier',
    DRAIN,
    '+w0 +b1 +w2 >w0:0 =1:c >w2:2 .0 .1 =0 =2',
  ],
  ['C4', 'a place without its flush', 'DRAIN_FLUSH', '+w0 +b1 +w2 >w0:0 =1:c .0 =0 >w2:2 .1 =2'],
  [
    'C4',
    'a write past a cancelled barrier by tag',
    'TAG_FLUSH',
    '+w0 +b1 +w2 >w0:0 =1:c >w2:2 .0 .1 =0 =2',
  ],
  ['C5', 'a stage without the ordered tag', TAG, '+b0 >w0:0.bar .0 =0'],
  ['C5', 'an ordered tag by drain', DRAIN, '+b0 >^w0:0.bar .0 =0'],
  ['C5', 'an ordered tag on a plain write', TAG, '+w0 >^w0:0 .0 =0'],
  ['C6', 'two sequences by tag at once', TAG, '+b0 +b1 >^w0:0.bar >^w1:1.bar .0 .1 =0 =1'],
  ['C7', 'an answer before the command has completed', 'NONE', '+w0 >w0:0 =0 .0'],
  ['C7', 'an answer without a command', 'NONE', '+w0 =0'],
  ['C7', 'a flush answered without one', 'NONE', '+f =0'],
  ['C7', 'a failure told before it happens', 'NONE', '+w0 >w0:0 =0:IO_FAILED x0'],
  ['C8', 'a failed write that is done', 'NONE', '+w0 >w0:0 x0 =0'],
  ['C8', 'a failed preflush that is done', 'DRAIN_FUA', '+b0 >F:0.pre x0 >w0!:0.bar .1 =0'],
  ['C8', 'a failed flush that is done', 'NONE', '+f >F:0 x0 =0'],
  ['C8', 'a failure of nothing', 'NONE', '+w0 >w0:0 .0 =0:IO_FAILED'],
  ['C8', 'a failed flush that nobody has seen', 'NONE', '+f >F:0 .0 =0:FLUSH_FAILED'],
  ['C9', 'two answers', 'NONE', '+w0 >w0:0 .0 =0 =0'],
  [
    'C9',
    'two answers to a barrier that left its place',
    'DRAIN_FLUSH',
    '+w9 +b0 >w9:0 =1:c =1:c .0 =0',
  ],
  [
    'C10',
    'overlapping writes at the device together',
    'NONE',
    '+w0+2 +w1 >w0+2:0 >w1:1 .0 .1 =0 =1',
  ],
  ['C10', 'a younger write ahead of the older one', 'NONE', '+w0 +w0 >w0:1 .0 =1 >w0:0 .1 =0'],
  ['C10', 'a read that meets an older write', 'NONE', '+z0+64 +r9 >z0+64:0 >r9:1 .0 .1 =0 =1'],
  [
    'C11',
    'a flush dispatched before an older write has completed',
    'NONE',
    '+w0 +f >w0:0 >F:1 .0 =0 .1 =1',
  ],
  [
    'C11',
    'a flush that is done while an older write is at the device',
    'NONE',
    '+w0 +f >w0:0 >F:1 .1 =1 .0 =0',
  ],
  [
    'C11',
    'a preflush dispatched before an older write has completed',
    'NONE',
    '+w0 +fw1 >w0:0 >F:1 .0 =0 .1 >w1:1 .2 =1',
  ],
  [
    'C11',
    'a flush that failed and one that came before the write',
    'NONE',
    '+w0 +f +f >w0:0 >F:1,2 .0 =0 >F:1 .1 =2 x2 =1:FLUSH_FAILED',
  ],
  ['C12', 'a FUA write that nothing forces', 'NONE', '+w0! >w0:0 .0 =0'],
  [
    'C12',
    'a FUA write and a flush before it has completed',
    { mode: 'NONE', device: NO_FUA },
    '+w0! +f >w0:0 >F:1 .0 .1 =0 =1',
  ],
  ['C13', 'a cancelled write that is dispatched', 'NONE', '+w0 =0:c >w0:0 .0'],
  ['C13', 'a dispatched write that is cancelled', 'NONE', '+w0 >w0:0 .0 =0:c'],
  [
    'C13',
    'a cancelled barrier that is written',
    'DRAIN_FLUSH',
    '+b0 =0:c >F:0.pre .0 >w0:0.bar .1',
  ],
  ['C13', 'an aborted barrier that is written', DRAIN, '+b0 >w0:0.bar .0 =0:BARRIER_ABORTED'],
  ['C13', 'a refused barrier that is written', 'NONE', '+b0 =0:EOPNOTSUPP >w0:0.bar .0'],
  ['C13', 'a second flush for a place', 'DRAIN_FLUSH', '+b0 =0:c >F:0.pre .0 >F:0.pre .1'],
  ['C14', 'a request that nobody answers', 'NONE', '+w0 >w0:0 .0'],
  ['C14', 'a request that nobody dispatches', 'NONE', '+w0'],
  ['C14', 'a command without an answer', 'DRAIN_FLUSH', '+fw0 >F:0 =0:c'],
  [
    'C15',
    'a barrier that is written although its preflush has failed',
    ABORTS,
    '+b0 >F:0.pre x0 >w0:0.bar .1 >F:0.post .2 =0:IO_FAILED',
  ],
  [
    'C15',
    'a barrier that is written although a write before it has failed',
    ABORTS,
    '+w0 +b1 >w0:0 x0 =0:IO_FAILED >F:1.pre .1 >w1:1.bar .2 >F:1.post .3 =1',
  ],
])(
  'given a trace that breaks %s, %s, when it is checked, then that comes first',
  (rule, _, options, text) => {
    expect(broken(text, options)[0]).toBe(rule);
  },
);

test('given the rules, when they are listed, then each has a line and the list is plain data', () => {
  const rules = Object.entries(TRACE_RULES);
  expect(rules.map(([name]) => name)).toEqual(rules.map((_, i) => `C${i + 1}`));
  for (const [, text] of rules) expect(text).toMatch(/^[A-Z][^\n]*\.$/);
  expect(Object.isFrozen(TRACE_RULES)).toBe(true);
});

test('given a violation, when it is reported, then it says who did what, and where', () => {
  const violations = checkTrace(trace('+w0 +b3 >w0:0 >w3:1.bar .0 .1 =0 =1'), DRAIN);
  expect(violations).toEqual([
    {
      rule: 'C3',
      text: 'w3 is dispatched for b3 (request 1) before w0 (request 0) is over',
      first: 2,
      second: 3,
    },
  ]);
  expect(JSON.parse(JSON.stringify(violations))).toEqual(violations);
});

test('given a request that breaks a rule twice and another that breaks it too, when they are checked, then each is reported once', () => {
  expect(broken('+w0 +w1 =0 =0 =0 =1 =1', { mode: 'NONE', ended: false })).toEqual([
    'C7',
    'C9',
    'C7',
    'C9',
  ]);
});

test('given a mode that is none, when a trace is checked, then EINVAL', () => {
  expect(() => checkTrace([], 'DRAIN_TAG' as ModeName)).toThrow(
    expect.objectContaining({ code: 'EINVAL' }),
  );
});

// Historical defects

describe('given a defect of history', () => {
  // QEMU's posix-aio patch of 2009: a cancelled barrier leaves the queue and its count does not go down.
  test('when a queued barrier is cancelled and the queue behind it is stuck, then whoever waits is named', () => {
    const stuck = '+w0 >w0:0 +b1 +w2 +f =1:c .0 =0';
    expect(checkTrace(trace(stuck), DRAIN)).toEqual([
      expect.objectContaining({ rule: 'C14', first: 3, second: 7 }),
      expect.objectContaining({ rule: 'C14', first: 4, second: 7 }),
    ]);
    expect(broken(`${stuck} >w2:2 .1 =2 =3`, DRAIN)).toEqual([]);
  });

  // Linux around 2.6.24: an empty barrier has no command to carry the tag, and is dropped.
  test('when TAG drops an empty barrier, then the early answer and the write that crossed are found', () => {
    expect(broken('+w0 +b +w1 >w0:0 =1 >w1:2 .1 =2 .0 =0', TAG)).toEqual(['C3', 'C4']);
    expect(broken('+w0 +b +w1 >w0:0 .0 =0 =1 >w1:2 .1 =2', TAG)).toEqual([]);
  });

  // QEMU 2009: fdatasync fails, the barrier succeeds.
  test('when a barrier succeeds over a failed flush, then it is found', () => {
    expect(broken('+b >F:0.pre x0 =0', 'DRAIN_FLUSH')).toEqual(['C8']);
  });

  // Before Linux 2.6.37 hard barriers covered writes in flight; whoever ports that to PREFLUSH loses them.
  test('when a flush is thought to cover what is in flight, then it is found', () => {
    expect(broken('+w0 +f >w0:0 >F:1 .1 .0 =0 =1', 'NONE')).toEqual(['C11']);
  });
});

// Mutations: none may go unnoticed

/** The request whose data a command carries, where it is one that writes. */
function writerOf(event: TraceEvent | undefined): number | undefined {
  if (event?.kind !== 'dispatch' || ['read', 'flush'].includes(event.what.op)) return undefined;
  return event.requests[0];
}

function outcomeOf(events: readonly TraceEvent[], request: number): string | undefined {
  const found = events.find((event) => event.kind === 'settle' && event.request === request);
  return found?.kind === 'settle' ? found.outcome : undefined;
}

function replaced(
  events: readonly TraceEvent[],
  ...changes: readonly (readonly [at: number, event: TraceEvent])[]
): TraceEvent[] {
  const mutant = [...events];
  for (const [at, event] of changes) mutant[at] = event;
  return mutant;
}

/** Without one event. */
function* drops(events: readonly TraceEvent[]): Generator<TraceEvent[]> {
  for (const dropped of events) yield events.filter((event) => event !== dropped);
}

/** With the other tag on one command. */
function* retags(events: readonly TraceEvent[]): Generator<TraceEvent[]> {
  for (const [i, event] of events.entries()) {
    if (event.kind !== 'dispatch') continue;
    const tag = event.what.tag === 'simple' ? 'ordered' : 'simple';
    yield replaced(events, [i, { ...event, what: { ...event.what, tag } }]);
  }
}

/** With two writes in each other's place, one from each side of a barrier that was done. */
function* swaps(events: readonly TraceEvent[]): Generator<TraceEvent[]> {
  const done = events.flatMap((event) => {
    if (event.kind !== 'submit' || !isBarrier(event.what)) return [];
    return outcomeOf(events, event.request) === 'done' ? [event.request] : [];
  });
  for (const [i, early] of events.entries()) {
    for (const [j, late] of events.entries()) {
      const [a, b] = [writerOf(early), writerOf(late)];
      if (early.kind !== 'dispatch' || late.kind !== 'dispatch') continue;
      if (a === undefined || b === undefined || !done.some((n) => a < n && n < b)) continue;
      yield replaced(
        events,
        [i, { ...late, command: early.command }],
        [j, { ...early, command: late.command }],
      );
    }
  }
}

/** With a good answer just before the last command completes that it depends on. */
function* earlyAnswers(events: readonly TraceEvent[]): Generator<TraceEvent[]> {
  for (const settle of events) {
    if (settle.kind !== 'settle' || settle.outcome !== 'done') continue;
    const own = new Set(
      events.flatMap((event) =>
        event.kind === 'dispatch' && event.requests.includes(settle.request) ? [event.command] : [],
      ),
    );
    const last = events
      .filter((event) => event.kind === 'complete' && own.has(event.command))
      .at(-1);
    if (!last) continue;
    yield events.flatMap((event) => {
      if (event === settle) return [];
      return event === last ? [settle, event] : [event];
    });
  }
}

/** Without one device flush that a flush or a barrier was answered for. */
function* unflushed(events: readonly TraceEvent[]): Generator<TraceEvent[]> {
  const asked = events.flatMap((event) => (event.kind === 'submit' ? [event.what] : []));
  for (const flush of events) {
    if (flush.kind !== 'dispatch' || flush.what.op !== 'flush') continue;
    const relied = flush.requests.some((request) => {
      const what = asked[request];
      const relies = what?.kind === 'flush' || (what && isBarrier(what));
      return relies && outcomeOf(events, request) === 'done';
    });
    if (!relied) continue;
    yield events.flatMap((event): TraceEvent[] => {
      if (event.kind !== 'dispatch' && event.kind !== 'complete') return [event];
      if (event.command === flush.command) return [];
      const command = event.command - (event.command > flush.command ? 1 : 0);
      return [{ ...event, command }];
    });
  }
}

test.each([
  ['an event is dropped', drops],
  ['a tag is changed', retags],
  ['two writes change places around a barrier', swaps],
  ['an answer comes before its command has completed', earlyAnswers],
  ['a flush never reaches the device', unflushed],
])('given any run, when %s, then it is found', async (_, mutants) => {
  const found = fc.asyncProperty(
    setups,
    programsOf(1, 12),
    fc.nat(),
    async (setup, program, seed) => {
      const events = await play(setup, program, seed);
      const missed: TraceEvent[][] = [];
      for (const mutant of mutants(events)) {
        if (checkTrace(mutant, optionsOf(setup)).length === 0) missed.push(mutant);
      }
      expect(missed).toEqual([]);
    },
  );
  await fc.assert(found, { numRuns: share(400) });
});

// Garbage and size

interface Damageable {
  what?: unknown;
  [key: string]: unknown;
}

describe('given garbage', () => {
  const isC1 = (events: unknown): void => {
    expect(checkTrace(events as TraceEvent[], 'NONE')).toEqual([
      { rule: 'C1', text: expect.any(String), first: 0, second: 0 },
    ]);
  };

  test('when it is no list of events, then C1 and nothing is thrown', () => {
    for (const nothing of [
      undefined,
      null,
      7,
      {},
      'submit',
      [undefined],
      [[]],
      [{ kind: 'drain' }],
    ])
      isC1(nothing);
    fc.assert(fc.property(fc.anything(), (value) => isC1([value])));
  });

  test('when an event of a run is damaged anywhere, then it is judged and nothing is thrown', async () => {
    const keys = [
      'kind',
      'request',
      'command',
      'what',
      'requests',
      'error',
      'outcome',
      'op',
      'offset',
      'length',
      'tag',
      'fua',
      'stage',
      'barrier',
    ];
    const damage = fc.record({
      at: fc.nat(),
      key: fc.constantFrom(...keys),
      value: fc.oneof(fc.anything(), fc.nat({ max: 9 })),
    });
    const damaged = fc.asyncProperty(
      setups,
      programsOf(1, 10),
      fc.nat(),
      fc.array(damage, { minLength: 1, maxLength: 3 }),
      async (setup, program, seed, damages) => {
        const events: unknown[] = structuredClone(await play(setup, program, seed));
        for (const { at, key, value } of damages) {
          const event = events[at % events.length] as Damageable;
          const { what } = event;
          if (key in event) event[key] = value;
          else if (typeof what === 'object' && what !== null && !Array.isArray(what)) {
            Object.assign(what, { [key]: value });
          }
        }
        const violations = checkTrace(events as TraceEvent[], optionsOf(setup));
        for (const { text, first, second } of violations) {
          expect(text).toEqual(expect.any(String));
          expect(first).toBeLessThanOrEqual(second);
          expect(second).toBeLessThan(events.length);
        }
      },
    );
    await fc.assert(damaged, { numRuns: share(2000) });
  });
});

// Whatever is quadratic in a queue of this length takes minutes.
test('given 25,000 requests to the same few blocks, queued at once, when their trace is checked, then it takes no more than seconds', async () => {
  const program = fc.sample(requests, { numRuns: 25_000, seed: 1 });
  const events: TraceEvent[] = [];
  const device = new VirtualDevice(VOLATILE, PROGRAM_BLOCKS, chooserOf(1), false);
  const disk = new IoScheduler(device, {
    mode: 'TAG_FLUSH',
    observer: (event) => void events.push(event),
  });
  const answers = program.map((request) => submit(disk, request));
  for (await settled(); device.inFlight > 0; await settled()) {
    while (device.inFlight > 0) device.answerOne();
  }
  await Promise.all(answers);
  expect(events.length).toBeGreaterThan(75_000);
  const start = performance.now();
  expect(checkTrace(events, 'TAG_FLUSH')).toEqual([]);
  expect(performance.now() - start).toBeLessThan(10_000);
});

test('given a program through memory, when it is checked with what it has, then no rule is broken', async () => {
  const events: TraceEvent[] = [];
  const disk = new IoScheduler(new MemoryStorage(64 * BLOCK), {
    observer: (event) => void events.push(event),
  });
  await Promise.all(
    parseProgram('w0 w1 b2 fw3! f r3 d0 z1 b').map((request) => submit(disk, request)),
  );
  const { mode, capabilities } = disk;
  expect(checkTrace(events, { mode, device: capabilities })).toEqual([]);
});

test('given a disk with other blocks, when its trace breaks a rule, then the text counts in these', async () => {
  const events: TraceEvent[] = [];
  const disk = new IoScheduler(new MemoryStorage(64 * 512), {
    mode: 'DRAIN_FLUSH',
    observer: (event) => void events.push(event),
  });
  await disk.write(3 * 512, new Uint8Array(512), { barrier: true });
  const texts = (of: readonly TraceEvent[]): string[] =>
    checkTrace(of, { mode: 'DRAIN_FUA', ended: false }).map(({ text }) => text);
  expect(texts(events).join('; ')).toContain(
    'w3 is dispatched for b3 (request 0) as its bar stage, but its next stage is w3! (bar)',
  );
  // Anything may stand in a log from the field.
  const odd = events.map((event) => {
    const unit = { blockSize: Symbol('x') as never };
    return event.kind === 'submit' ? { ...event, what: { ...event.what, ...unit } } : event;
  });
  expect(texts(odd)).toEqual(['event 0: a submit whose request is malformed']);
});

describe('given resizes', () => {
  /** Writes, reads, barriers and new sizes, at any size that the disk has by then. */
  const steps = fc.array(fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 5 })), { maxLength: 12 });

  test('no run of the real scheduler breaks a rule, in any mode', async () => {
    let resizes = 0;
    await fc.assert(
      fc.asyncProperty(
        steps,
        fc.constantFrom(...MODE_NAMES),
        fc.nat({ max: 40 }),
        async (all, mode, seed) => {
          const profile = { orderedTags: true };
          const disk = new VolatileDisk({ size: 2 * BLOCK, seed, profile });
          const events: TraceEvent[] = [];
          const observer = (event: TraceEvent): void => void events.push(event);
          const scheduler = new IoScheduler(disk, { mode, observer, allowUnsafe: true });
          for (const [kind, at] of all) {
            const isThere = (at + 1) * BLOCK <= scheduler.size;
            const bytes = new Uint8Array(BLOCK);
            if (kind === 0) scheduler.resize(at * BLOCK);
            else if (kind === 1 && isThere) scheduler.read(at * BLOCK, bytes);
            else if (isThere) {
              scheduler.write(at * BLOCK, bytes, { barrier: kind === 3 && mode !== 'NONE' });
            }
          }
          await scheduler.idle();
          const device = {
            cache: 'volatile',
            flush: true,
            fua: true,
            slowFua: true,
            orderedTags: true,
          } as const;
          expect(checkTrace(events, { mode, device })).toEqual([]);
          resizes += events.filter(
            ({ kind, ...event }) => kind === 'dispatch' && 'size' in Object(event).what,
          ).length;
        },
      ),
      { numRuns: share(1000, 100) },
    );
    expect(resizes).toBeGreaterThan(50);
  });

  test.each([
    ['beside a write behind it', '+z8+2| >z8+2|:0 +w9 >w9:1', 'C10'],
    ['beside another one', '+z8+2| >z8+2|:0 +z10+2| >z10+2|:1', 'C10'],
    ['beside a write far behind the new end', '+w20 >w20:0 +d|8+30 >d|8+30:1', 'C10'],
    ['in front of a barrier', '+w0 >w0:0 +b1 +z8+2| >z8+2|:2', 'C4'],
    ['without its size', '+z8+2| >z8+2:0', 'C2'],
    ['where none is asked for', '+z8+2 >z8+2|:0', 'C2'],
  ])('one %s is found', (_, text, rule) => {
    expect(broken(text, { mode: 'DRAIN_FLUSH', ended: false })).toEqual([rule]);
  });

  test('an ordered tag is not enough to send one with what it overlaps', () => {
    const text = '+z8+2| >z8+2|:0 +b9 >^F:1.pre >^w9!:1.bar';
    expect(broken(text, { mode: 'TAG_FUA', ended: false })).toEqual(['C10']);
  });

  test('one whose range does not end at its size has no meaning', () => {
    const what = { kind: 'writeZeroes', offset: 0, length: BLOCK, size: 3 * BLOCK } as const;
    const [violation] = checkTrace([{ kind: 'submit', request: 0, what }], 'DRAIN_FLUSH');
    expect(violation).toMatchObject({
      rule: 'C1',
      text: 'event 0: a submit whose request is malformed',
    });
  });
});
