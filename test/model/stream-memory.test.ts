// Ten million requests in constant memory, and fewer through the two asynchronous ways. A list of a million steps takes about
// a hundred megabytes; the bound is a small part of what the shortest of the streams would make, yet what the engine
// keeps for itself fits. The quick run has fewer requests under a bound that is smaller by as much, so it notices as
// small a leak. Nothing asserts a time.

import { describe, expect, test } from 'vitest';
import {
  formatSteps,
  type ModeName,
  parseProgram,
  type Request,
  type Step,
  transformer,
  transformStream,
} from '../../src/model/index.js';
import { EXHAUSTIVE } from '../kit/amount.js';

/** How much smaller the quick run is. */
const SHRUNK = EXHAUSTIVE ? 1 : 8;
const REQUESTS = EXHAUSTIVE ? 10_000_000 : 2_000_000 / SHRUNK;
const REQUESTS_ASYNC = 1_000_000 / SHRUNK;
const REQUESTS_WEB = 500_000 / SHRUNK;
const BOUND_MIB = 32 / SHRUNK;
const SAMPLES = EXHAUSTIVE ? 8 : 2;

// Ten requests: writes with every flag, barriers with data and without, a read and a flush.
const MIX: readonly Request[] = parseProgram('w0 w1 w2+4 b3 w4! r5 f fw6 b w7');

function* repeated(count: number): Generator<Request> {
  for (let made = 0; made < count; made += MIX.length) yield* MIX;
}

async function* repeatedAsync(count: number): AsyncGenerator<Request> {
  for (let made = 0; made < count; made += MIX.length) yield* MIX;
}

/** Watches the heap while something streams; `growthMiB` is the most above the first sample. */
class HeapWatch {
  growthMiB = 0;
  private readonly every: number;
  private readonly start: number;
  private seen = 0;

  constructor(steps: number) {
    this.every = Math.floor(steps / SAMPLES);
    this.start = heapMiB();
  }

  count(_step: Step): void {
    this.seen += 1;
    if (this.seen % this.every !== 0) return;
    this.growthMiB = Math.max(this.growthMiB, heapMiB() - this.start);
  }

  get steps(): number {
    return this.seen;
  }
}

function heapMiB(): number {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed / 2 ** 20;
}

/** How many steps a mode makes of the mix, from the second round on. */
function stepsPerRound(mode: ModeName): number {
  const once = [...transformer(mode)(MIX)];
  const twice = [...transformer(mode)([...MIX, ...MIX])];
  expect(formatSteps(twice).startsWith(formatSteps(once))).toBe(true);
  return twice.length - once.length;
}

describe('a stream of requests takes constant memory', () => {
  test.each<ModeName>(['NONE', 'DRAIN_FLUSH', 'TAG_FUA'])(
    'given many requests from an iterable, when %s orders them, then the heap stays',
    (mode) => {
      const expected = stepsPerRound(mode) * (REQUESTS / MIX.length);
      const watch = new HeapWatch(expected);
      for (const step of transformer(mode)(repeated(REQUESTS))) watch.count(step);
      expect(watch.steps).toBe(expected);
      expect(watch.growthMiB).toBeLessThan(BOUND_MIB);
    },
  );

  test('given many requests from an async iterable, then the heap stays', async () => {
    const expected = stepsPerRound('DRAIN_FLUSH') * (REQUESTS_ASYNC / MIX.length);
    const watch = new HeapWatch(expected);
    const steps = transformer('DRAIN_FLUSH')(repeatedAsync(REQUESTS_ASYNC));
    for await (const step of steps) watch.count(step);
    expect(watch.steps).toBe(expected);
    expect(watch.growthMiB).toBeLessThan(BOUND_MIB);
  });

  test('given many requests in a web stream, then the heap stays', async () => {
    const expected = stepsPerRound('TAG_FUA') * (REQUESTS_WEB / MIX.length);
    const watch = new HeapWatch(expected);
    const source = repeated(REQUESTS_WEB);
    const requests = new ReadableStream<Request>({
      pull(controller) {
        const { done, value } = source.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
    });
    const counted = new WritableStream<Step>({ write: (step) => watch.count(step) });
    await requests.pipeThrough(transformStream('TAG_FUA')).pipeTo(counted);
    expect(watch.steps).toBe(expected);
    expect(watch.growthMiB).toBeLessThan(BOUND_MIB);
  });

  // The control: the bound is one that holding on to the steps would break.
  test('given that somebody keeps the steps, then a tenth of them already breaks the bound', () => {
    const watch = new HeapWatch(REQUESTS_ASYNC);
    const kept: Step[] = [];
    for (const step of transformer('NONE')(repeated(REQUESTS_ASYNC))) {
      kept.push(step);
      watch.count(step);
    }
    expect(kept).toHaveLength(stepsPerRound('NONE') * (REQUESTS_ASYNC / MIX.length));
    expect(watch.growthMiB).toBeGreaterThan(BOUND_MIB);
  });
});
