// Every small program in every way, through both machines, under the eyes of two specifications that share no code
// with them. What a barrier becomes is asked of the core; everything else is said here again in other words.

import { describe, expect, test } from 'vitest';
import { formatSteps, initialState, type ModeName, transition } from 'write-barrier';
import {
  BARRIER_ERAS,
  type BarrierEra,
  FLUSH_ERAS,
  type FlushEraName,
} from '../../../src/systems/linux/eras.js';
import { FlushMachine } from '../../../src/systems/linux/flush-machine.js';
import { OrderedQueue } from '../../../src/systems/linux/ordered-queue.js';
import type { BlockCommand } from '../../../src/systems/requests.js';
import { sampled, share } from '../../kit/amount.js';
import { memoized } from '../../kit/explore.js';
import { explore, programs, rule, type Watcher, type World } from './exploration.js';
import { bioOf, FLUSH_ERA_NAMES, REPAIRED, requestOf, wordOf } from './support.js';

// The queue with barriers

interface Known {
  readonly word: string;
  readonly barrier: boolean;
  /** Words of its commands, as the mode makes them. */
  readonly due: readonly string[];
  /** It waits for all that came before, and has all that comes after wait. */
  readonly drains: boolean;
  taken: number;
  atDevice: number;
  completed: number;
  answers: number;
  firstError: string | undefined;
}

/** What a driver may expect of a queue in a mode: the rules ordered-queue.B1 to ordered-queue.B8, from outside. */
class BarrierRules implements Watcher {
  readonly #queue: OrderedQueue<number>;
  readonly #program: readonly string[];
  readonly #mode: ModeName;
  readonly #requeues: boolean;
  readonly #known: Known[] = [];
  #atDevice = 0;

  constructor(queue: OrderedQueue<number>, program: readonly string[], requeues: boolean) {
    this.#queue = queue;
    this.#program = program;
    this.#mode = queue.mode;
    this.#requeues = requeues;
  }

  submitted(request: number): void {
    const word = this.#program[request] as string;
    const { op, barrier } = bioOf(word);
    const { due, drains } =
      barrier && op !== 'discard' ? sequenceOf(`${this.#mode} ${word}`) : plain(word);
    this.#known.push({
      word,
      barrier,
      due,
      drains,
      taken: 0,
      atDevice: 0,
      completed: 0,
      answers: 0,
      firstError: undefined,
    });
  }

  taken(command: BlockCommand<number>): void {
    const [request] = command.clients as [number];
    const asked = this.#at(request);
    const word = wordOf(command);
    rule(asked.answers === 0, 'a command for somebody who was answered');
    if (!asked.due.includes(word)) rule(false, `${word} is none of ${asked.due}`);
    if (!this.#requeues) rule(asked.due[asked.taken] === word, `${word} out of turn`);
    const tagged = asked.barrier && !asked.drains;
    rule(command.what.tag === (tagged ? 'ordered' : 'simple'), 'the wrong tag');
    for (const [other, earlier] of this.#known.slice(0, request).entries()) {
      this.#checkOrder(asked, earlier, other);
    }
    if (asked.drains)
      rule(asked.atDevice === 0, 'ordered-queue.B2: two steps at the device together');
    asked.taken += 1;
    asked.atDevice += 1;
    this.#atDevice += 1;
  }

  completed(command: BlockCommand<number>, error: string | undefined): void {
    const asked = this.#at(command.clients[0] as number);
    asked.atDevice -= 1;
    asked.completed += 1;
    this.#atDevice -= 1;
    asked.firstError ??= error;
  }

  requeued(command: BlockCommand<number>): void {
    const asked = this.#at(command.clients[0] as number);
    asked.atDevice -= 1;
    asked.taken -= 1;
    this.#atDevice -= 1;
  }

  answered(request: number, error: string | undefined): void {
    const asked = this.#at(request);
    asked.answers += 1;
    rule(asked.answers === 1, 'answered twice');
    rule(
      error === asked.firstError,
      `ordered-queue.B6: told ${error}, and the first was ${asked.firstError}`,
    );
    rule(asked.atDevice === 0, 'answered while at the device');
    rule(asked.completed === asked.due.length, 'ordered-queue.B6: answered before its last step');
    if (!asked.drains) return;
    const earlier = this.#known.slice(0, request);
    rule(
      earlier.every(({ answers }) => answers === 1),
      'ordered-queue.B2: answered before what it waits for',
    );
  }

  quiet(): void {
    rule(this.#queue.inFlight <= this.#atDevice, 'more in flight than at the device');
    const barriers = this.#known.filter(({ barrier, atDevice }) => barrier && atDevice > 0);
    rule(barriers.length <= 1, 'ordered-queue.B5: two barriers with the driver');
    if (this.#atDevice > 0) return;
    rule(
      this.#known.every(({ answers }) => answers === 1),
      'somebody waits, and nothing is at the device',
    );
    rule(this.#queue.idle, 'everybody is answered, and the queue is not idle');
  }

  atRest(): void {
    rule(this.#known.length === this.#program.length, 'somebody was not submitted');
  }

  #checkOrder(asked: Known, earlier: Known, other: number): void {
    // ordered-queue.B2, both ways.
    if (asked.drains) rule(earlier.answers === 1, `ordered-queue.B2: before ${other} is over`);
    if (earlier.drains)
      rule(earlier.answers === 1, `ordered-queue.B2: before barrier ${other} is over`);
    if (asked.barrier && earlier.barrier)
      rule(earlier.answers === 1, 'ordered-queue.B5: the second barrier');
    // ordered-queue.B3: put back by the driver, a request has lost its place.
    const tagged = (asked.barrier || earlier.barrier) && !asked.drains && !earlier.drains;
    if (!tagged || this.#requeues) return;
    rule(earlier.taken === earlier.due.length, `ordered-queue.B3: ahead of ${other}`);
  }

  #at(request: number): Known {
    const known = this.#known[request];
    rule(known !== undefined, `a command for ${request}, who was not submitted`);
    return known;
  }
}

const plain = memoized<Pick<Known, 'due' | 'drains'>>((word) => ({
  due: [word.replace('B', '')],
  drains: false,
}));

/** Of a barrier, by its mode and its word. */
const sequenceOf = memoized<Pick<Known, 'due' | 'drains'>>((text) => {
  const [mode, word] = text.split(' ') as [ModeName, string];
  const { steps } = transition({ ...initialState(mode), drained: false }, requestOf(word));
  const due = steps.flatMap((step) => {
    if (step.kind !== 'command') return [];
    const tag = step.tag === 'ordered' ? '^' : '';
    if (step.op !== 'flush') return [formatSteps([step])];
    return [tag + (step.stage === 'preflush' ? 'pre' : 'post')];
  });
  return { due, drains: steps[0]?.kind === 'drain' };
});

function queueWorld(
  mode: ModeName,
  era: BarrierEra,
  rest: Partial<World<OrderedQueue<number>>> = {},
): World<OrderedQueue<number>> {
  return {
    machine: () => new OrderedQueue<number>({ era, mode, mergeBytesMax: 0 }),
    watcher: (queue, program) => new BarrierRules(queue, program, (rest.requeues ?? 0) > 0),
    submit: (queue, word, request) => queue.submit(bioOf(word), request),
    requeue: (queue, command) => queue.requeue(command),
    ...rest,
  };
}

const BARRIER_MODES = ['DRAIN', 'DRAIN_FLUSH', 'DRAIN_FUA', 'TAG', 'TAG_FLUSH', 'TAG_FUA'] as const;
/** The three commands of a barrier may end in any order here, and that multiplies. */
const isLarge = (mode: ModeName): boolean => mode === 'TAG_FLUSH' || mode === 'TAG_FUA';
/** The youngest that does not hang. */
const eraOf = (mode: ModeName): BarrierEra => BARRIER_ERAS[isLarge(mode) ? '2.6.32' : '2.6.36'];

/** How many runs all programs of the world had. */
function exploreAll(world: World<OrderedQueue<number>>, alphabet: string, length: number): number {
  let runs = 0;
  const all = programs(alphabet, length);
  // One at a time, a program is one run, and all are soon done.
  const chosen = world.depth === 1 ? all : sampled(all);
  for (const program of chosen) runs += explore(world, program);
  return runs;
}

describe.each(BARRIER_MODES)('every small program through the queue in %s', (mode) => {
  const era = eraOf(mode);

  test('every order of answers', () => {
    const [depth, length] = isLarge(mode) ? [2, 4] : [8, 5];
    const runs = exploreAll(queueWorld(mode, era, { depth }), 'w0 r1 b2 b', length);
    expect(runs).toBeGreaterThan(share(4 ** length, 1));
  });

  test('a few that come at any time, and a failure', () => {
    const [depth, length] = isLarge(mode) ? [3, 2] : [3, 3];
    const world = queueWorld(mode, era, { interleaved: true, failures: 1, depth });
    expect(exploreAll(world, 'w0 r1 b2 b', length)).toBeGreaterThan(share(4 ** length, 1));
  });

  test('two that come at any time, and two failures', () => {
    const world = queueWorld(mode, era, { interleaved: true, failures: 2 });
    expect(exploreAll(world, 'w0 b2 b', 2)).toBeGreaterThan(share(3 ** 2, 1));
  });

  // In TAG an empty barrier may hang then: see below.
  const puttingBack = mode === 'TAG' ? 'w0 d1 b2' : 'w0 d1 b2 b';

  test('a few that come at any time, and one that is put back', () => {
    const [depth, length] = isLarge(mode) ? [3, 2] : [3, 3];
    const world = queueWorld(mode, era, { interleaved: true, requeues: 1, depth });
    expect(exploreAll(world, puttingBack, length)).toBeGreaterThan(share(3 ** length, 1));
  });

  test('three, a failure, and two that are put back', () => {
    const depth = isLarge(mode) ? 1 : 2;
    const world = queueWorld(mode, era, { failures: 1, requeues: 2, depth });
    expect(exploreAll(world, puttingBack, 3)).toBeGreaterThan(share(3 ** 3, 1));
  });

  test('six, one at a time', () => {
    expect(exploreAll(queueWorld(mode, era, { depth: 1 }), 'w0 b2 b', 6)).toBe(3 ** 6);
  });
});

describe('the defects of an era, in every small program', () => {
  /** The programs that break a rule in some run, with the rule. */
  function broken(mode: ModeName, era: BarrierEra, alphabet: string): Map<string, string> {
    const found = new Map<string, string>();
    for (const program of programs(alphabet, 3)) {
      try {
        explore(queueWorld(mode, era, { depth: 8 }), program);
      } catch (error) {
        found.set(program.join(' '), String(error).split('\n')[0] as string);
      }
    }
    return found;
  }

  test('TAG in 2.6.24: an empty barrier waits for nothing, in each program that has one behind something', () => {
    const found = broken('TAG', BARRIER_ERAS['2.6.24'], 'w0 b2 b');
    const expected = [...programs('w0 b2 b', 3)]
      .map((program) => program.join(' '))
      // Behind a barrier with data it waits, because only one sequence runs; behind a plain write it does not, and what
      // follows does not wait for it either.
      .filter((program) => /w0( b2)* b( |$)/.test(program));
    expect([...found.keys()].sort()).toEqual(expected.sort());
    for (const text of found.values()) expect(text).toMatch(/ordered-queue.B2|ordered-queue.B3/);
  });

  test('TAG_FLUSH in 2.6.36: hangs in each program that has a barrier with data, and in no other', () => {
    const found = broken('TAG_FLUSH', BARRIER_ERAS['2.6.36'], 'w0 b2 b');
    for (const program of programs('w0 b2 b', 3)) {
      expect(found.has(program.join(' '))).toBe(program.includes('b2'));
    }
    for (const text of found.values()) expect(text).toMatch(/somebody waits/);
  });

  // Found here. Colour is one bit, so what came two barriers ago looks like what comes later. Put back then, it is held
  // until the sequence is done, and the sequence is done when nothing is in flight any more and somebody says so.
  test('TAG in 2.6.36: an empty barrier hangs if what it waits for, from before the last barrier, is put back', () => {
    const world = queueWorld('TAG', BARRIER_ERAS['2.6.36'], { requeues: 1 });
    expect(() => explore(world, ['w0', 'b2', 'b'])).toThrow(/somebody waits.*put back w0$/s);
    for (const program of ['w0 b2 b2', 'w0 w0 b', 'b2 w0 b']) explore(world, program.split(' '));
  });

  test('TAG_FUA in 2.6.36: hangs if the preflush is put back', () => {
    const world = queueWorld('TAG_FUA', BARRIER_ERAS['2.6.36'], { requeues: 1 });
    expect(() => explore(world, ['b2'])).toThrow(/somebody waits.*put back \^pre/s);
    explore(queueWorld('TAG_FUA', REPAIRED, { requeues: 1 }), ['b2']);
  });

  test.each(
    (['2.6.24', '2.6.36'] as const).flatMap((era) =>
      BARRIER_MODES.filter((mode) => mode !== (era === '2.6.24' ? 'TAG' : 'TAG_FLUSH')).map(
        (mode) => [era, mode] as const,
      ),
    ),
  )('%s, %s: no other mode is touched', (era, mode) => {
    expect([...broken(mode, BARRIER_ERAS[era], 'w0 r1 b2 b')]).toEqual([]);
  });
});

// The flush machine

type Device = ConstructorParameters<typeof FlushMachine>[0]['device'];

const DEVICES: Readonly<Record<string, Device>> = {
  'a cache, no FUA': { cache: 'volatile', flush: true, fua: false },
  'a cache and FUA': { cache: 'volatile', flush: true, fua: true },
  'no cache': { cache: 'none', flush: true, fua: true },
  'a cache without a flush': { cache: 'volatile', flush: false, fua: true },
};

interface Asked {
  readonly steps: ('F' | 'data')[];
  readonly data: string;
  readonly flushes: boolean;
  at: number;
  running: BlockCommand<number> | undefined;
  /** The event that the command followed. */
  since: number;
  error: string | undefined;
  over: boolean;
}

/** The rules flush-machine.M1 to flush-machine.M5 and C1 to C3, from outside. */
class FlushRules implements Watcher {
  readonly #machine: FlushMachine<number>;
  readonly #program: readonly string[];
  readonly #era: FlushEraName;
  readonly #device: Device;
  readonly #asked: Asked[] = [];
  #flush: BlockCommand<number> | undefined;
  #atDevice = 0;
  #events = 0;
  /** Five seconds may have passed. */
  readonly #aged: boolean;

  constructor(
    machine: FlushMachine<number>,
    program: readonly string[],
    era: FlushEraName,
    device: Device,
    aged: boolean,
  ) {
    this.#machine = machine;
    this.#program = program;
    this.#era = era;
    this.#device = device;
    this.#aged = aged;
  }

  submitted(request: number): void {
    this.#events += 1;
    const word = this.#program[request] as string;
    const [, preflush, data, fua] = /^(f?)(w\d)?(!?)$/.exec(word) as unknown as string[];
    const cached = this.#device.cache === 'volatile' && this.#device.flush;
    const forced = Boolean(fua) && cached && this.#device.fua;
    const steps: Asked['steps'] = [];
    if (preflush && cached) steps.push('F');
    if (data) steps.push('data');
    if (fua && cached && !forced) steps.push('F');
    this.#asked.push({
      steps,
      data: `${data}${forced ? '!' : ''}`,
      flushes: steps.includes('F'),
      at: 0,
      running: undefined,
      since: 0,
      error: undefined,
      over: false,
    });
  }

  taken(command: BlockCommand<number>): void {
    const isFlush = command.what.op === 'flush';
    this.#atDevice += 1;
    rule(command.what.tag === 'simple', 'nothing is tagged any more');
    for (const client of command.clients) {
      const asked = this.#at(client);
      rule(!asked.over && !asked.running, 'a command for one who is answered or has another');
      rule(asked.steps[asked.at] === (isFlush ? 'F' : 'data'), 'flush-machine.M3: out of turn');
      asked.running = command;
      asked.since = this.#events;
      if (!isFlush) rule(wordOf(command).replace(/pre|post/, 'F') === asked.data, 'other data');
    }
    if (!isFlush) return;
    rule(this.#flush === undefined, 'flush-machine.M2, C1: two flushes');
    this.#flush = command;
    if (this.#era === '2.6.37') rule(command.clients.length === 1, 'a flush for two');
    // Of those that one flush served, the first may bring about the next flush before the second begins its data.
    const busy = this.#asked.some(
      ({ flushes, running, steps, at, since }) =>
        flushes && running && steps[at] === 'data' && since < this.#events,
    );
    if (this.#era === '2.6.39' && !this.#aged) rule(!busy, 'C2: a flush beside data');
  }

  completed(command: BlockCommand<number>, error: string | undefined): void {
    this.#events += 1;
    this.#atDevice -= 1;
    if (command === this.#flush) this.#flush = undefined;
    for (const client of command.clients) {
      const asked = this.#at(client);
      asked.running = undefined;
      asked.error ??= error;
      asked.at += 1;
      // flush-machine.M5 follows: whoever was served has this error or an older one.
      if (error !== undefined && this.#era === '2.6.39') asked.at = asked.steps.length;
    }
  }

  answered(request: number, error: string | undefined): void {
    const asked = this.#at(request);
    rule(!asked.over, 'flush-machine.M4: answered twice');
    asked.over = true;
    rule(asked.at === asked.steps.length, 'flush-machine.M4: answered before its last step');
    rule(error === asked.error, `flush-machine.M5: told ${error}, and it was ${asked.error}`);
  }

  quiet(): void {
    if (this.#era === '2.6.37') {
      const going = this.#asked.filter(({ flushes, over, at }) => flushes && !over && at > 0);
      rule(going.length <= 1, 'two sequences at once');
    }
    if (this.#atDevice > 0) return;
    rule(
      this.#asked.every(({ over }) => over),
      'somebody waits, and nothing is at the device',
    );
    rule(this.#machine.idle, 'everybody is answered, and the machine is not idle');
  }

  atRest(): void {
    rule(this.#asked.length === this.#program.length, 'somebody was not submitted');
  }

  #at(request: number): Asked {
    const asked = this.#asked[request];
    rule(asked !== undefined, `flush-machine.M1: a command for ${request}, who was not submitted`);
    return asked;
  }
}

function flushWorld(
  era: FlushEraName,
  device: Device,
  rest: Partial<World<FlushMachine<number>>> = {},
): World<FlushMachine<number>> {
  const aged = (rest.ages ?? 0) > 0;
  return {
    machine: (nowMs) => new FlushMachine<number>({ era: FLUSH_ERAS[era], device, nowMs }),
    watcher: (machine, program) => new FlushRules(machine, program, era, device, aged),
    submit: (machine, word, request) => machine.submit(requestOf(word), request),
    interleaved: true,
    ...rest,
  };
}

const NO_FUA = DEVICES['a cache, no FUA'] as Device;

function exploreFlushes(
  world: World<FlushMachine<number>>,
  alphabet: string,
  length: number,
): number {
  let runs = 0;
  const all = programs(alphabet, length);
  // One at a time, a program is one run, and all are soon done.
  const chosen = world.depth === 1 ? all : sampled(all);
  for (const program of chosen) runs += explore(world, program);
  return runs;
}

describe.each(FLUSH_ERA_NAMES)('every small program through the flush machine of %s', (era) => {
  test.each(Object.entries(DEVICES))('%s: three that come at any time', (_, device) => {
    expect(exploreFlushes(flushWorld(era, device), 'w0 f fw1 w2! fw3!', 3)).toBeGreaterThan(
      share(5 ** 3, 1),
    );
  });

  test('four that come at any time, where a forced write is a write and a flush', () => {
    const world = flushWorld(era, NO_FUA);
    expect(exploreFlushes(world, 'w0 f w2! fw3!', 4)).toBeGreaterThan(share(4 ** 4, 1));
  });

  test.each([DEVICES['a cache and FUA'] as Device, NO_FUA])(
    'three that come at any time, a failure, and five seconds that pass, on %j',
    (device) => {
      const world = flushWorld(era, device, { failures: 1, ages: 1 });
      expect(exploreFlushes(world, 'f fw1 w2! fw3!', 3)).toBeGreaterThan(share(4 ** 3, 1));
    },
  );

  test('two that come at any time, and three failures', () => {
    const world = flushWorld(era, NO_FUA, { failures: 3 });
    expect(exploreFlushes(world, 'w0 f fw1 w2! fw3!', 2)).toBeGreaterThan(share(5 ** 2, 1));
  });

  test('four of those that go through all steps, two at the device', () => {
    const world = flushWorld(era, NO_FUA, { depth: 2 });
    expect(exploreFlushes(world, 'f fw1 fw3!', 4)).toBeGreaterThan(share(3 ** 4, 1));
  });
});
