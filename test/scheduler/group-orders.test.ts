// Goal: on a group the order of each member is still that of its own mode, whatever the other members do. Method: the real
// machines of two schedulers over the real machine of a group, every small program, every order of the device's answers. Each
// scheduler is watched by its specification (specification.ts), which is shown its commands when the device gets them, and not
// when the scheduler sends them: so what is checked is the order at the shared device.
//
// With failures the specification is shown the commands when the scheduler sends them, because after a failed flush those that wait
// in the group are still issued, as those at a device are.

import { describe, expect, test } from 'vitest';
import { type ModeName, parseProgram, WriteBarrierError } from 'write-barrier';
import type { Command } from '../../src/scheduler/entry.js';
import { Entry, type GroupCommand, Member } from '../../src/scheduler/group-entry.js';
import { Ordering } from '../../src/scheduler/ordering.js';
import { Sharing } from '../../src/scheduler/sharing.js';
import { sampled, share } from '../kit/amount.js';
import { type Chooser, everyWay, type Tell, wordsOf } from '../kit/explore.js';
import { isIdle } from './exploration.js';
import { Specification, Violation } from './specification.js';

const DEVICE = { cache: 'volatile', flush: true, fua: true, orderedTags: true } as const;

class Sent extends Entry<Sent> {
  readonly scheduler: Scheduler;
  readonly command: Command<number>;

  constructor(scheduler: Scheduler, command: Command<number>) {
    const { op, offset, length, fua, tag } = command.what;
    super(scheduler.member, op, offset, length, fua, tag);
    this.scheduler = scheduler;
    this.command = command;
  }
}

interface World {
  readonly modes: readonly [ModeName, ModeName];
  readonly alphabets: readonly [string, string];
  readonly lengths: readonly [number, number];
  readonly depth: number;
  readonly failures: number;
}

const of = (first: ModeName, second: ModeName): World['modes'] => [first, second];

const WORLDS: readonly World[] = [
  ...[
    of('TAG_FUA', 'DRAIN_FLUSH'),
    of('TAG_FLUSH', 'TAG_FUA'),
    of('DRAIN_FUA', 'DRAIN_FLUSH'),
    of('TAG_FLUSH', 'NONE'),
  ].map((modes) => ({
    ...{ modes, depth: 2, failures: 0 },
    alphabets: ['w0 b0 b f r0', 'w0 b0 f'] as const,
    lengths: [3, 2] as const,
  })),
  ...[of('TAG_FUA', 'DRAIN_FLUSH'), of('DRAIN_FUA', 'TAG_FLUSH')].map((modes) => ({
    ...{ modes, depth: 2, failures: 1 },
    alphabets: ['w0 b0 b f', 'w1 b0 f'] as const,
    lengths: [2, 2] as const,
  })),
];

describe('each member keeps the order of its own mode', () => {
  test.each(
    WORLDS.map((world) => ({
      world,
      name: `${world.modes.join(' beside ')}, ${world.failures} failures`,
    })),
  )('$name', { timeout: 600_000 }, ({ world }) => {
    const [first, second] = world.alphabets.map((alphabet, at) => [
      ...wordsOf(alphabet, world.lengths[at] as number),
    ]) as [string[][], string[][]];
    const all = first.flatMap((one) => second.map((other) => [one, other]));
    let runs = 0;
    for (const programs of sampled(all)) {
      runs += everyWay((chooser, tell) => new Run(world, programs, chooser, tell).toTheEnd());
    }
    expect(runs).toBeGreaterThan(share(1000, 1));
  });
});

/** A scheduler on a member, and its specification. */
class Scheduler {
  readonly member = new Member<Sent>();
  readonly ordering: Ordering<number>;
  readonly specification: Specification;
  readonly #atDevice = new Map<Command<number>, number>();
  #commands = 0;

  constructor(mode: ModeName) {
    const setting = { mode, device: DEVICE, depth: 8, abort: true, readsPass: true };
    this.specification = new Specification(setting);
    this.ordering = new Ordering({
      ...{ mode, device: DEVICE, depth: 8 },
      ...{ errorPolicy: 'abort', readsPassBarriers: true },
    });
  }

  submit(program: readonly string[]): void {
    for (const [n, request] of parseProgram(program.join(' ')).entries()) {
      this.specification.submitted(n, request);
      this.ordering.submit(request, n);
    }
  }

  /** The specification is shown a command, once. */
  show(command: Command<number>): void {
    if (this.#atDevice.has(command)) return;
    const id = this.#commands++;
    this.#atDevice.set(command, id);
    const requests = command.served.map(({ ticket }) => ticket);
    this.specification.dispatched(id, command.what, requests);
  }

  complete(command: Command<number>, error: unknown): void {
    // A flush that was covered, or that learns of an earlier failure, was never at the device.
    this.show(command);
    const id = this.#atDevice.get(command) as number;
    this.specification.completed(id, error === undefined);
    this.ordering.complete(command, error);
  }

  answer(): void {
    for (let one = this.ordering.takeSettled(); one; one = this.ordering.takeSettled()) {
      const code = WriteBarrierError.is(one.error) ? one.error.code : 'unknown';
      this.specification.settled(one.ticket, one.error === undefined ? 'done' : code);
      this.ordering.acknowledge();
      this.specification.told();
    }
  }
}

class Run {
  readonly #world: World;
  readonly #chooser: Chooser;
  readonly #tell: Tell | undefined;
  readonly #schedulers: readonly Scheduler[];
  readonly #sharing: Sharing<Sent>;
  readonly #running = new Set<GroupCommand<Sent>>();
  #failures: number;

  constructor(
    world: World,
    programs: readonly (readonly string[])[],
    chooser: Chooser,
    tell: Tell | undefined,
  ) {
    const { depth, failures, modes } = world;
    this.#world = world;
    this.#chooser = chooser;
    this.#tell = tell;
    this.#failures = failures;
    this.#sharing = new Sharing({
      ...{ depth, depthBytes: 1e12, maxQueued: 1000, maxQueuedBytes: 1e12 },
      ...{ isVolatile: true, fastZeroes: false, blockSize: 4096 },
    });
    this.#schedulers = modes.map((mode) => new Scheduler(mode));
    tell?.(programs.map((words) => words.join(' ')).join(' | '));
    for (const [at, scheduler] of this.#schedulers.entries()) {
      this.#sharing.members.add(scheduler.member);
      scheduler.submit(programs[at] as readonly string[]);
    }
  }

  toTheEnd(): void {
    for (;;) {
      while (this.#step()) {}
      const moves = [...this.#running].flatMap((command) => [
        () => this.#complete(command, undefined),
        ...(this.#failures > 0 ? [() => this.#complete(command, new Error('EIO'))] : []),
      ]);
      if (moves.length === 0) break;
      (moves[this.#chooser.choose(moves.length)] as () => void)();
    }
    for (const { ordering, specification } of this.#schedulers) {
      specification.atRest();
      if (!isIdle(ordering)) throw new Violation('at rest, and not idle');
    }
  }

  /** What follows without an answer of the device; false if nothing does. */
  #step(): boolean {
    if (this.#answer()) return true;
    for (const scheduler of this.#schedulers) {
      const command = scheduler.ordering.next();
      scheduler.answer();
      if (!command) continue;
      this.#send(scheduler, command);
      return true;
    }
    const command = this.#sharing.next();
    // A flush that is covered settles before the next command is issued, as the driver has it.
    const hasSettled = this.#answer();
    while (this.#answer()) {}
    if (!command) return hasSettled;
    this.#tell?.(`device: ${command.what.op} ${command.what.offset}`);
    for (const { scheduler, command: its } of command.clients) scheduler.show(its);
    this.#running.add(command);
    return true;
  }

  #send(scheduler: Scheduler, command: Command<number>): void {
    const { op, offset, tag } = command.what;
    this.#tell?.(`member ${this.#schedulers.indexOf(scheduler)} sends ${tag} ${op} ${offset}`);
    if (this.#world.failures > 0) scheduler.show(command);
    const sent = new Sent(scheduler, command);
    this.#sharing.submit(sent.request, sent);
  }

  #answer(): boolean {
    const settled = this.#sharing.takeSettled();
    if (settled) this.#settled(settled);
    return settled !== undefined;
  }

  #settled({ scheduler, command, error }: Sent): void {
    this.#tell?.(
      `member ${this.#schedulers.indexOf(scheduler)}: ${command.what.op} ${error ?? 'done'}`,
    );
    scheduler.complete(command, error);
    scheduler.answer();
  }

  #complete(command: GroupCommand<Sent>, error: unknown): void {
    if (error !== undefined) this.#failures -= 1;
    this.#tell?.(`device answers ${command.what.op} ${command.what.offset}: ${error ?? 'done'}`);
    this.#running.delete(command);
    this.#sharing.complete(command, error);
  }
}
