// Every small program, with every order of answers, and with cancellations and failures at every point, through the
// real state machine and under the eyes of the specification.
//
// A world is bounded by the length of its programs and by how many failures and cancellations a run may have, so
// that all worlds together take about a minute. The two sectors are interchangeable: the first one that a program
// names is sector 0.

import { expect, test } from 'vitest';
import {
  type DeviceTraits,
  formatProgram,
  formatSteps,
  type ModeName,
  parseProgram,
  type Request,
  WriteBarrierError,
} from 'write-barrier';
import type { Command, Entry } from '../../src/scheduler/entry.js';
import { Ordering } from '../../src/scheduler/ordering.js';
import { Plans } from '../../src/scheduler/plan.js';
import { sampled, share } from '../kit/amount.js';
import { type Chooser, everyWay, type Tell, wordsOf } from '../kit/explore.js';
import { type Setting, Specification, Violation } from './specification.js';

const VOLATILE = { cache: 'volatile', flush: true, fua: true, orderedTags: true } as const;

/** What kind of device a world has. */
export type DeviceName = 'volatile' | 'volatile without FUA' | 'stable' | 'gathering';

/** The devices of the worlds. */
export const DEVICES: Readonly<Record<DeviceName, DeviceTraits>> = {
  volatile: VOLATILE,
  'volatile without FUA': { ...VOLATILE, fua: false },
  stable: { ...VOLATILE, cache: 'none' },
  gathering: { ...VOLATILE, slowFua: true },
};

/** How large a world is. */
export interface World {
  readonly name: string;
  /** The requests that programs are made of. */
  readonly alphabet: string;
  readonly length: number;
  readonly failures: number;
  readonly cancels: number;
  /** Requests come at any time, not only all at the start. */
  readonly interleaved?: boolean;
  /** Commands at the device at once; 8, so all, unless given. */
  readonly depth?: number;
  /**
   * The same for tag modes with flushes, whose programs are also made of fewer words: the three commands of a
   * barrier may end in any order, and that multiplies.
   */
  readonly taggedDepth?: number;
  readonly kernelPolicy?: boolean;
}

const CORE = 'w0 w1 b0 b1 b f r0';

/** What every mode is put through. */
export const WORLDS: readonly World[] = [
  { name: 'five requests', alphabet: CORE, length: 5, failures: 0, cancels: 0, taggedDepth: 2 },
  {
    name: 'four, and a failure',
    alphabet: CORE,
    length: 4,
    failures: 1,
    cancels: 0,
    taggedDepth: 2,
  },
  {
    name: 'four, and a cancellation',
    alphabet: CORE,
    length: 4,
    failures: 0,
    cancels: 1,
    depth: 4,
    taggedDepth: 2,
  },
  {
    name: 'five, one at a time, and a cancellation',
    alphabet: 'b0 w1 r1 b f',
    length: 5,
    failures: 0,
    cancels: 1,
    depth: 1,
    taggedDepth: 1,
  },
  {
    name: 'three that come at any time, a failure and a cancellation',
    alphabet: `${CORE} fw0 w1!`,
    length: 3,
    failures: 1,
    cancels: 1,
    interleaved: true,
    taggedDepth: 2,
  },
  {
    name: 'three of every kind, two failures, the policy of the kernel',
    alphabet: `${CORE} r1 fw0 w1! fb0! d0 z1`,
    length: 3,
    failures: 2,
    cancels: 0,
    depth: 2,
    kernelPolicy: true,
  },
];

/** One test a world: every run of every program keeps the rules. */
export function exploreAll(mode: ModeName, device: DeviceName): void {
  test.each(WORLDS)('$name', { timeout: 600_000 }, (world) => {
    const runs = explore(mode, DEVICES[device], world, device === 'gathering');
    // Nothing cut the world short.
    expect(runs).toBeGreaterThan(share(4 ** world.length, 1));
  });
}

/** Runs every program of the world; answers how many runs that were. */
export function explore(
  mode: ModeName,
  device: DeviceTraits,
  world: World,
  gathers = false,
): number {
  const { kernelPolicy = false } = world;
  const tagged = mode.startsWith('TAG') && device.cache === 'volatile';
  const depth = (tagged ? world.taggedDepth : undefined) ?? world.depth ?? 8;
  const setting: Setting = { mode, device, depth, abort: !kernelPolicy, readsPass: true };
  const alphabet = tagged ? world.alphabet.replace(/ (b1|r0|w1!|fw0)/g, '') : world.alphabet;
  const plans = new Plans(mode, device);
  const all = programs(alphabet, world.length);
  let runs = 0;
  for (const words of sampled(all, isCore)) {
    const program = parseProgram(words.join(' '));
    runs += everyWay((chooser, tell) =>
      new Run(setting, plans, program, world, chooser, gathers).toTheEnd(tell),
    );
  }
  return runs;
}

/** Barriers, writes and reads that meet, and flushes: programs of these are run more often, because mistakes hide in them. */
function isCore(words: readonly string[]): boolean {
  return words.every((word) => /^(?:w1|b1|r0|f)$/.test(word));
}

function* programs(alphabet: string, length: number): Generator<string[]> {
  for (const words of wordsOf(alphabet, length)) {
    const sector = /\d/.exec(words.join(' '));
    if (sector?.[0] !== '1') yield words;
  }
}

class Run {
  readonly #setting: Setting;
  readonly #ordering: Ordering<number>;
  readonly #specification: Specification;
  readonly #program: readonly Request[];
  readonly #chooser: Chooser;
  readonly #interleaved: boolean;
  /** What is submitted is issued by a move of its own, as a scheduler does that gathers. */
  readonly #gathers: boolean;
  #isPlugged = false;
  readonly #entries: Entry<number>[] = [];
  readonly #running = new Set<Command<number>>();
  readonly #numbers = new Map<Command<number>, number>();
  #issued = 0;
  readonly #cancelled = new Set<Entry<number>>();
  #failures: number;
  #cancels: number;
  #tell: Tell | undefined;

  constructor(
    setting: Setting,
    plans: Plans,
    program: readonly Request[],
    world: World,
    chooser: Chooser,
    gathers: boolean,
  ) {
    this.#gathers = gathers;
    this.#setting = setting;
    this.#ordering = new Ordering({
      mode: setting.mode,
      device: setting.device,
      plans,
      depth: setting.depth,
      errorPolicy: setting.abort ? 'abort' : 'kernel',
      readsPassBarriers: setting.readsPass,
      mayGather: gathers ? () => true : undefined,
    });
    this.#specification = new Specification(setting);
    this.#program = program;
    this.#chooser = chooser;
    this.#interleaved = world.interleaved ?? false;
    this.#failures = world.failures;
    this.#cancels = world.cancels;
  }

  toTheEnd(tell?: Tell): void {
    this.#tell = tell;
    tell?.(`${this.#setting.mode}: ${formatProgram(this.#program)}`);
    if (!this.#interleaved) while (this.#entries.length < this.#program.length) this.#submit();
    for (let moves = this.#moves(); moves.length > 0; moves = this.#moves()) {
      (moves[this.#chooser.choose(moves.length)] as () => void)();
    }
    this.#specification.atRest();
    if (this.#ordering.barriersPending !== 0) throw new Violation('barriers left in the count');
    if (this.#ordering.queued !== 0) throw new Violation('requests left in the count');
    if (!isIdle(this.#ordering)) throw new Violation('at rest, and not idle');
  }

  #moves(): (() => void)[] {
    const moves: (() => void)[] = [];
    if (this.#entries.length < this.#program.length) moves.push(() => this.#submit());
    if (this.#isPlugged) moves.push(() => this.#pump());
    for (const command of this.#running) {
      moves.push(() => this.#complete(command, true));
      if (this.#failures > 0) moves.push(() => this.#complete(command, false));
    }
    if (this.#cancels === 0) return moves;
    for (const entry of this.#entries) {
      if (entry.state === 'settled' || this.#cancelled.has(entry)) continue;
      moves.push(() => this.#cancel(entry));
    }
    return moves;
  }

  #submit(): void {
    const n = this.#entries.length;
    const request = this.#program[n] as Request;
    this.#tell?.(`submit ${n}: ${formatProgram([request])}`);
    this.#specification.submitted(n, request);
    this.#entries.push(this.#ordering.submit(request, n));
    this.#isPlugged = this.#gathers;
    if (!this.#gathers) this.#pump();
  }

  #complete(command: Command<number>, ok: boolean): void {
    const id = this.#numbers.get(command) as number;
    this.#tell?.(`${ok ? 'complete' : 'fail'} command ${id}`);
    if (!ok) this.#failures -= 1;
    this.#running.delete(command);
    this.#specification.completed(id, ok);
    this.#ordering.complete(command, ok ? undefined : new Error('EIO'));
    this.#pump();
  }

  #cancel(entry: Entry<number>): void {
    this.#cancels -= 1;
    this.#cancelled.add(entry);
    const answer = this.#ordering.cancel(entry);
    this.#tell?.(`cancel ${entry.ticket}: ${answer}`);
    this.#pump();
  }

  #pump(): void {
    this.#isPlugged = false;
    for (let command = this.#ordering.next(); command; command = this.#ordering.next()) {
      this.#answer();
      const { served, what } = command;
      const id = this.#issued++;
      this.#numbers.set(command, id);
      const requests = served.map(({ ticket }) => ticket);
      this.#tell?.(`command ${id}: ${formatSteps([what])} (${what.stage}) for ${requests}`);
      this.#specification.dispatched(id, what, requests);
      this.#running.add(command);
    }
    this.#answer();
    this.#specification.quiet();
  }

  #answer(): void {
    for (let entry = this.#ordering.takeSettled(); entry; entry = this.#ordering.takeSettled()) {
      const { error, cancelled, ticket } = entry;
      const code = WriteBarrierError.is(error) ? error.code : 'unknown';
      const outcome = cancelled ? 'cancelled' : error === undefined ? 'done' : code;
      this.#tell?.(`settle ${ticket}: ${outcome}`);
      this.#specification.settled(ticket, outcome);
      this.#ordering.acknowledge();
      this.#specification.told();
    }
  }
}

/** Nothing is left under way: a drain waits for nothing. The machine is not used after it. */
export function isIdle(ordering: Ordering<number>): boolean {
  if (ordering.failed) ordering.recover();
  ordering.setMode('DRAIN');
  const drain = ordering.submit({ kind: 'barrier' }, -1);
  const command = ordering.next();
  return command === undefined && drain.state === 'settled' && ordering.running.size === 0;
}
