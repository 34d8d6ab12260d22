// Long random programs through the real scheduler, over a device with random latencies, answers in any order, at
// once or later, failures of every kind, and with cancellations and recoveries in between. Every run is watched by
// the specification, and every read is compared with what was written before it.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Capabilities,
  formatProgram,
  IoScheduler,
  type ModeName,
  parseProgram,
  type Request,
  type TraceEvent,
} from 'write-barrier';
import { checkTrace } from 'write-barrier/testing';
import { share } from '../kit/amount.js';
import { chooserOf } from '../kit/random.js';
import { PROGRAM_BLOCKS, requests } from '../model/arbitraries.js';
import { Specification } from './specification.js';
import { VirtualDevice } from './virtual-device.js';
import { BLOCK, settled, submit, VOLATILE } from './world.js';

interface Setup {
  readonly mode: ModeName;
  readonly device: Capabilities;
  readonly depth: number;
  readonly errorPolicy: 'abort' | 'kernel';
  readonly readsPassBarriers: boolean;
  readonly failures: boolean;
  readonly cancels: boolean;
}

const STABLE: Capabilities = { ...VOLATILE, cache: 'none' };
const NO_FUA: Capabilities = { ...VOLATILE, fua: false };
const BARE: Capabilities = { ...NO_FUA, writev: false, discard: false, writeZeroes: false };

/** A device as a file is; and one with tags, so that what is gathered meets them. */
const GATHERS: Capabilities = { ...VOLATILE, gathers: true, slowFua: true };
const FILE: Capabilities = { ...GATHERS, orderedTags: false };

const pairs = fc.constantFrom<readonly [ModeName, Capabilities]>(
  ['NONE', VOLATILE],
  ['DRAIN', STABLE],
  ['DRAIN_FLUSH', VOLATILE],
  ['DRAIN_FLUSH', BARE],
  ['DRAIN_FUA', VOLATILE],
  ['DRAIN_FUA', NO_FUA],
  ['NONE', FILE],
  ['DRAIN_FLUSH', FILE],
  ['DRAIN_FUA', FILE],
  ['TAG', { ...GATHERS, cache: 'none' }],
  ['TAG_FUA', GATHERS],
  ['TAG', STABLE],
  ['TAG_FLUSH', VOLATILE],
  ['TAG_FLUSH', STABLE],
  ['TAG_FUA', VOLATILE],
  ['TAG_FUA', NO_FUA],
);

const setups: fc.Arbitrary<Setup> = fc
  .record({
    pair: pairs,
    depth: fc.integer({ min: 1, max: 8 }),
    errorPolicy: fc.constantFrom('abort', 'kernel'),
    readsPassBarriers: fc.boolean(),
    failures: fc.boolean(),
    cancels: fc.boolean(),
  })
  .map(({ pair: [mode, device], ...rest }) => ({ mode, device, ...rest }));

interface Played {
  readonly request: Request;
  outcome: 'pending' | 'done' | 'failed';
  /** What a read has read. */
  bytes: Uint8Array | undefined;
}

/** Plays a program to its end, under the eyes of the specification. */
async function play(setup: Setup, program: readonly Request[], seed: number): Promise<Played[]> {
  const choose = chooserOf(seed);
  const device = new VirtualDevice(setup.device, PROGRAM_BLOCKS, choose, setup.failures);
  const specification = new Specification({
    mode: setup.mode,
    device: setup.device,
    depth: setup.depth,
    abort: setup.errorPolicy === 'abort',
    readsPass: setup.readsPassBarriers,
  });
  // An observer must not throw into the scheduler: a broken rule is kept for the end.
  let broken: unknown;
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => {
    events.push(event);
    try {
      watch(specification, event);
    } catch (error) {
      broken ??= error;
    }
  };
  const { mode, depth, errorPolicy, readsPassBarriers } = setup;
  const how = { mode, depth, errorPolicy, readsPassBarriers };
  const disk = new IoScheduler(device, { ...how, observer, allowUnsafe: true });
  const played: Played[] = [];
  const aborts: AbortController[] = [];
  const submitNext = (): void => {
    const n = played.length;
    const request = program[n] as Request;
    const entry: Played = { request, outcome: 'pending', bytes: undefined };
    played.push(entry);
    const controller = new AbortController();
    aborts.push(controller);
    submit(disk, request, controller.signal, (n % 255) + 1).then(
      (bytes) => {
        entry.outcome = 'done';
        entry.bytes = bytes instanceof Uint8Array ? bytes : undefined;
      },
      () => {
        entry.outcome = 'failed';
      },
    );
  };

  while (played.length < program.length || device.inFlight > 0) {
    const move = choose(10);
    if (move < 5 && played.length < program.length) submitNext();
    else if (move === 5 && setup.cancels && aborts.length > 0)
      aborts[choose(aborts.length)]?.abort();
    else if (move > 5 || played.length === program.length) device.answerOne();
    if (choose(3) === 0) {
      await settled();
      specification.told();
    }
    // A device that gathers gets what a turn has submitted in a microtask of it.
    if (setup.device.gathers) await null;
    if (disk.state !== 'failed') specification.quiet();
    else if (device.inFlight === 0) {
      await disk.recover();
      specification.recovered();
    }
    if (broken) throw broken;
  }
  for (await settled(); device.inFlight > 0; await settled()) device.answerOne();
  if (broken) throw broken;
  specification.atRest();
  if (disk.state === 'failed') await disk.recover();
  await disk.idle();
  expect(disk.stats()).toMatchObject({
    queued: 0,
    queuedBytes: 0,
    inFlight: 0,
    barriersPending: 0,
    submitted: program.length,
    settled: program.length,
  });
  expect(played.every(({ outcome }) => outcome !== 'pending')).toBe(true);
  // The public checker says the same of what was told.
  const told = { mode, device: setup.device, readsPass: readsPassBarriers };
  expect(checkTrace(events, told)).toEqual([]);
  return played;
}

function watch(specification: Specification, event: TraceEvent): void {
  switch (event.kind) {
    case 'submit':
      specification.submitted(event.request, event.what);
      break;
    case 'dispatch':
      specification.dispatched(event.command, event.what, event.requests);
      break;
    case 'complete':
      specification.completed(event.command, event.error === undefined);
      break;
    case 'settle':
      specification.settled(event.request, event.outcome);
      break;
  }
}

/** Each block of a read holds what the last write before it put there; after a failed write, anything. */
function checkReads(played: readonly Played[]): void {
  const blocks: (number | 'anything')[] = Array.from({ length: PROGRAM_BLOCKS }, () => 0);
  for (const [n, { request, outcome, bytes }] of played.entries()) {
    if (request.kind === 'flush' || request.kind === 'barrier') continue;
    const first = request.offset / BLOCK;
    for (let block = first; block < first + request.length / BLOCK; block++) {
      if (request.kind === 'read') {
        const found = bytes?.[(block - first) * BLOCK];
        const expected = blocks[block];
        if (bytes && expected !== 'anything' && found !== expected)
          expect(found, `block ${block} of ${n}`).toBe(expected);
      } else if (outcome === 'failed' || request.kind === 'discard') {
        blocks[block] = 'anything';
      } else {
        blocks[block] = request.kind === 'write' ? (n % 255) + 1 : 0;
      }
    }
  }
}

/** Programs as text, so that a counterexample can be read, and pasted. */
function programsOf(minLength: number, maxLength: number): fc.Arbitrary<string> {
  return fc.array(requests, { minLength, maxLength }).map((program) => formatProgram(program));
}

async function holds(setup: Setup, program: string, seed: number): Promise<void> {
  checkReads(await play(setup, parseProgram(program), seed));
}

describe('given any program, any device and any latencies', () => {
  test('when the scheduler runs it, then every rule of the specification holds and reads see what was written', async () => {
    const short = fc.asyncProperty(setups, programsOf(1, 40), fc.nat(), holds);
    await fc.assert(short, { numRuns: share(8000, 800) });
  });

  test('when the program is long, then the rules hold all the same', async () => {
    const long = fc.asyncProperty(setups, programsOf(200, 300), fc.nat(), holds);
    await fc.assert(long, { numRuns: share(200, 20) });
  });

  // The smallest program of its kind. The barrier's flush succeeds while the flush of `f` is at the device, which fails then. So
  // block 0 may have been dropped, and it stays dirty: neither forcing it nor recovery says that the first `w0` was flushed.
  test('when one of two flushes at the device fails, then the success of the other settles nothing that both held', async () => {
    const setup: Setup = {
      mode: 'TAG_FLUSH',
      device: VOLATILE,
      depth: 4,
      errorPolicy: 'abort',
      readsPassBarriers: false,
      failures: true,
      cancels: false,
    };
    const played = await play(setup, parseProgram('w0 f b w0! f r0'), 66);
    // The run is the one that is meant: both clients' flushes fail, and the read is refused.
    expect(played.map(({ outcome }) => outcome).join(' ')).toBe(
      'done failed done done failed failed',
    );
  });
});
