// Ten million requests in constant memory, and fewer through the two asynchronous ways. A list of ten
// million steps takes about a gigabyte; the bound is a small part of it, and of the lists that the
// shorter streams would make, yet garbage that awaits its collection fits. Nothing asserts a time.

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

const MILLION = 1_000_000;
const BOUND_MIB = 32;
const SAMPLES = 20;

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
    'given ten million requests from an iterable, when %s orders them, then the heap stays',
    (mode) => {
      const expected = stepsPerRound(mode) * (MILLION / MIX.length) * 10;
      const watch = new HeapWatch(expected);
      for (const step of transformer(mode)(repeated(10 * MILLION))) watch.count(step);
      expect(watch.steps).toBe(expected);
      expect(watch.growthMiB).toBeLessThan(BOUND_MIB);
    },
  );

  test('given two million requests from an async iterable, then the heap stays', async () => {
    const expected = stepsPerRound('DRAIN_FLUSH') * (MILLION / MIX.length) * 2;
    const watch = new HeapWatch(expected);
    const steps = transformer('DRAIN_FLUSH')(repeatedAsync(2 * MILLION));
    for await (const step of steps) watch.count(step);
    expect(watch.steps).toBe(expected);
    expect(watch.growthMiB).toBeLessThan(BOUND_MIB);
  });

  test('given half a million requests in a web stream, then the heap stays', async () => {
    const count = MILLION / 2;
    const expected = stepsPerRound('TAG_FUA') * (count / MIX.length);
    const watch = new HeapWatch(expected);
    const source = repeated(count);
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
    const watch = new HeapWatch(MILLION);
    const kept: Step[] = [];
    for (const step of transformer('NONE')(repeated(MILLION))) {
      kept.push(step);
      watch.count(step);
    }
    expect(kept).toHaveLength(stepsPerRound('NONE') * (MILLION / MIX.length));
    expect(watch.growthMiB).toBeGreaterThan(BOUND_MIB);
  });
});
