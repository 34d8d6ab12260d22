// The one driver, over a machine that is as simple as one can be: first in, first out, so many commands at once.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MemoryStorage, type Request, type Storage, type TraceEvent } from 'write-barrier';
import {
  answerCall,
  type Call,
  type Command,
  Driver,
  executeOn,
  type Machine,
  type Settled,
  Tracer,
} from 'write-barrier/kit';

const BLOCK = 512;

interface Job extends Command<Call> {
  readonly what: NonNullable<Command<Call>['what']>;
}

/** First in, first out. */
class Fifo implements Machine<Call, Job> {
  readonly #depth: number;
  readonly #queue: Call[] = [];
  readonly #settled: Settled<Call>[] = [];
  readonly running = new Set<Job>();

  constructor(depth: number) {
    this.#depth = depth;
  }

  submit(_request: Request, call: Call): void {
    this.#queue.push(call);
  }

  next(): Job | undefined {
    if (this.running.size >= this.#depth) return undefined;
    const call = this.#queue.shift();
    if (!call) return undefined;
    const { request } = call;
    const { offset, length } = 'offset' in request ? request : { offset: 0, length: 0 };
    const op = request.kind === 'barrier' ? 'flush' : request.kind;
    const job: Job = {
      what: { kind: 'command', op, offset, length, tag: 'simple', fua: false, stage: 'plain' },
      clients: [call],
    };
    this.running.add(job);
    return job;
  }

  complete(job: Job, error: unknown): void {
    if (!this.running.delete(job)) throw new Error('completed twice');
    this.#settled.push({ client: job.clients[0] as Call, error });
  }

  takeSettled(): Settled<Call> | undefined {
    return this.#settled.shift();
  }

  abandon(error: unknown): void {
    const left = [...this.#queue.splice(0), ...[...this.running].flatMap(({ clients }) => clients)];
    for (const client of left) this.#settled.push({ client, error });
  }
}

function driven(
  execute: (job: Job) => unknown,
  { depth = 2, observer }: { depth?: number; observer?: (event: TraceEvent) => void } = {},
) {
  const machine = new Fifo(depth);
  const driver = new Driver<Call, Job>(machine, {
    execute,
    answer: answerCall,
    name: 'a queue',
    observer,
  });
  const call = (request: Request, data?: Call['data'], tracer?: Tracer): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const ends = { resolve, reject, ...(tracer && { tracer }) };
      driver.submit({ number: 0, request, data, ...ends });
    });
  return { machine, driver, call };
}

const write = (block: number): Request => ({ kind: 'write', offset: block * BLOCK, length: BLOCK });
const read = (block: number): Request => ({ kind: 'read', offset: block * BLOCK, length: BLOCK });

describe('a driver over a storage', () => {
  test('writes and reads back what its callers hand in, several buffers as one', async () => {
    const storage = new MemoryStorage(8 * BLOCK);
    const { call } = driven(executeOn(storage));
    const halves = [new Uint8Array(BLOCK / 2).fill(1), new Uint8Array(BLOCK / 2).fill(2)];
    await call(write(3), halves);
    const into = [new Uint8Array(100), new Uint8Array(BLOCK - 100)];
    await call(read(3), into);
    expect([into[0]?.[99], into[1]?.[155], into[1]?.[156]]).toEqual([1, 1, 2]);
  });

  test('joins the buffers of requests that its machine has merged', async () => {
    const storage = new MemoryStorage(8 * BLOCK);
    const data = (byte: number) => new Uint8Array(BLOCK).fill(byte);
    const clients = [1, 2].map((byte) => ({ data: data(byte) }) as unknown as Call);
    const what = { kind: 'command', op: 'write', offset: 0, length: 2 * BLOCK } as const;
    const command = {
      what: { ...what, tag: 'simple', fua: false, stage: 'plain' },
      clients,
    } as const;
    await executeOn(storage)(command, {});
    expect([storage.bytes[0], storage.bytes[BLOCK]]).toEqual([1, 2]);
  });

  test.each(['at once', 'later'])('fails a transfer that moved less than all, %s', async (when) => {
    const short = {
      ...(new MemoryStorage(8 * BLOCK) as Storage),
      size: 8 * BLOCK,
      capabilities: new MemoryStorage(BLOCK).capabilities,
      write: () => (when === 'later' ? Promise.resolve(7) : 7),
    } as Storage;
    const { call } = driven(executeOn(short));
    await expect(call(write(0), new Uint8Array(BLOCK))).rejects.toMatchObject({
      code: 'SHORT_TRANSFER',
    });
  });
});

describe('a driver', () => {
  test('given 100,000 synchronous answers, then they cost no stack: driver.D1', async () => {
    const { driver, call } = driven(() => undefined, { depth: 1 });
    const all = Array.from({ length: 100_000 }, () => call({ kind: 'flush' }));
    await Promise.all(all);
    expect([driver.settled, driver.isIdle]).toEqual([100_000, true]);
  });

  test('given a storage that throws, rejects, or rejects with nothing, then each is a failure', async () => {
    const answers = [
      () => {
        throw new Error('thrown');
      },
      () => Promise.reject(new Error('rejected')),
      () => Promise.reject(undefined),
    ];
    const { call } = driven(() => (answers.shift() as () => unknown)());
    for (const message of ['thrown', 'rejected', 'the storage gave no reason']) {
      await expect(call({ kind: 'flush' })).rejects.toThrow(message);
    }
  });

  test('answers a settled request before the next command is issued: driver.D2', async () => {
    const events: string[] = [];
    const observer = ({ kind }: TraceEvent): void => void events.push(kind);
    const { call } = driven(() => undefined, { depth: 1, observer });
    await Promise.all([call({ kind: 'flush' }), call({ kind: 'flush' })]);
    const one = ['submit', 'dispatch', 'complete', 'settle'];
    expect(events).toEqual([...one, ...one]);
  });

  test('given an observer that listens now and then, then it is told of nothing else, and numbers go on', async () => {
    const events: TraceEvent[] = [];
    let isListening = false;
    const observer = (event: TraceEvent): void => void events.push(event);
    Object.defineProperty(observer, 'isListening', { get: () => isListening });
    const { call } = driven(() => undefined, { observer });
    await call(write(0));
    expect(events).toEqual([]);
    isListening = true;
    await call(write(0));
    expect(events.map(({ kind }) => kind)).toEqual(['submit', 'dispatch', 'complete', 'settle']);
    expect(events.map((event) => 'request' in event && event.request)).toEqual([
      1,
      false,
      false,
      1,
    ]);
    isListening = false;
    await call(write(0));
    expect(events.length).toBe(4);
  });

  test('given an observer that submits, then one loop handles it: driver.D3', async () => {
    let more = 3;
    const extra: Promise<unknown>[] = [];
    const { call, machine } = driven(
      () => {
        if (machine.running.size > 1) throw new Error('two at once at depth 1');
        return undefined;
      },
      {
        depth: 1,
        observer: ({ kind }) => {
          if (kind === 'dispatch' && more-- > 0) extra.push(call({ kind: 'flush' }));
        },
      },
    );
    await call({ kind: 'flush' });
    await Promise.all(extra);
    expect(extra.length).toBe(3);
  });

  test('given that it is abandoned, then all are answered, and what the storage answers is ignored: driver.D4', async () => {
    const late: (() => void)[] = [];
    const { driver, call, machine } = driven(() => new Promise<void>((done) => late.push(done)));
    const all = [1, 2, 3].map(() => call({ kind: 'flush' }));
    const waits = driver.idle();
    driver.abandon(new Error('given up'));
    for (const promise of [...all, waits]) await expect(promise).rejects.toThrow('given up');
    expect(driver.inFlight).toBe(2);
    for (const done of late) done();
    await new Promise((resolve) => setImmediate(resolve));
    expect([driver.inFlight, machine.running.size]).toEqual([0, 2]);
    await expect(driver.until(() => false)).rejects.toThrow('given up');
    await expect(call({ kind: 'flush' })).rejects.toThrow('given up');
  });

  test('wakes all that wait for a condition, once it holds', async () => {
    const { driver, call } = driven(() => undefined);
    const two = (): boolean => driver.settled >= 2;
    const waits = [driver.until(two), driver.until(two)];
    await call({ kind: 'flush' });
    let woken = false;
    void waits[0]?.then(() => {
      woken = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(woken).toBe(false);
    await call({ kind: 'flush' });
    await Promise.all(waits);
  });

  test('numbers requests and commands in the trace of each disk, where disks share a machine', async () => {
    const events: [string, TraceEvent][] = [];
    const tracerOf = (name: string) =>
      new Tracer((event: TraceEvent) => void events.push([name, event]), name);
    const [a, b] = [tracerOf('a'), tracerOf('b')];
    const { call } = driven(() => undefined);
    await call({ kind: 'flush' }, undefined, a);
    await call({ kind: 'flush' }, undefined, b);
    await call({ kind: 'flush' }, undefined, b);
    const dispatches = events.flatMap(([name, event]) =>
      event.kind === 'dispatch' ? [`${name} ${event.command} for ${event.requests}`] : [],
    );
    expect(dispatches).toEqual(['a 0 for 0', 'b 0 for 0', 'b 1 for 1']);
  });

  // Any mixture of answers: at once or later, well or badly, in any order.
  test('given any answers in any order, then each request is answered once, and the trace is whole', async () => {
    const kinds = fc.array(fc.constantFrom('at once', 'later', 'throws', 'rejects'), {
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(
        kinds,
        fc.integer({ min: 1, max: 4 }),
        fc.scheduler(),
        async (list, depth, s) => {
          const left = [...list];
          const events: TraceEvent[] = [];
          const { driver, call } = driven(
            () => {
              const kind = left.shift();
              if (kind === 'throws') throw new Error('EIO');
              if (kind === 'at once') return undefined;
              const answer = s.schedule(Promise.resolve());
              return kind === 'later'
                ? answer
                : answer.then(() => Promise.reject(new Error('EIO')));
            },
            { depth, observer: (event) => events.push(event) },
          );
          const outcomes = list.map(() =>
            call({ kind: 'flush' }).then(
              () => true,
              () => false,
            ),
          );
          await s.waitIdle();
          const good = list.filter((kind) => kind === 'at once' || kind === 'later').length;
          expect((await Promise.all(outcomes)).filter(Boolean)).toHaveLength(good);
          expect(driver.isIdle).toBe(true);
          for (const kind of ['submit', 'dispatch', 'complete', 'settle']) {
            expect(events.filter((event) => event.kind === kind)).toHaveLength(list.length);
          }
        },
      ),
    );
  });
});
