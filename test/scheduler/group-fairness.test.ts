// Goal: what a light member waits for is bounded, whatever the others send (fair-queue.Q1 to Q3, sharing.G7). Method: the bounds as
// properties of the state machine, with members, weights and sizes from a seed. The same floods in virtual time on a simulated
// disk, where the bound is a time, are in test/examples/neighbours.test.ts.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FairQueue, Turn } from '../../src/scheduler/fair-queue.js';
import { Entry, type GroupCommand, Member } from '../../src/scheduler/group-entry.js';
import { COMMAND_COST, Sharing } from '../../src/scheduler/sharing.js';
import { share } from '../kit/amount.js';

const BLOCK = 4096;

class Sent extends Entry<Sent> {}

/** A machine with members that never run out of writes to places of their own. */
class Floods {
  readonly sharing: Sharing<Sent>;
  readonly members: readonly Member<Sent>[];
  readonly running: GroupCommand<Sent>[] = [];
  readonly #blocks: readonly number[];
  #place = 0;

  constructor(
    floods: readonly { readonly weight: number; readonly blocks: number }[],
    depth: number,
  ) {
    this.sharing = new Sharing({
      ...{ depth, depthBytes: 64 * BLOCK, maxQueued: 1e6, maxQueuedBytes: 1e12 },
      ...{ isVolatile: true, fastZeroes: false, blockSize: BLOCK },
    });
    this.members = floods.map(({ weight }) => new Member<Sent>(weight));
    this.#blocks = floods.map(({ blocks }) => blocks);
    for (const member of this.members) {
      this.sharing.members.add(member);
      for (let n = 0; n < 4; n++)
        this.write(member, this.#blocks[this.members.indexOf(member)] as number);
    }
  }

  write(member: Member<Sent>, blocks: number): void {
    const length = blocks * BLOCK;
    const sent = new Sent(member, 'write', this.#place, length);
    this.#place += length;
    this.sharing.submit(sent.request, sent);
  }

  /** Issues what may be issued; answers whose commands that were. */
  pump(): Member<Sent>[] {
    const issued: Member<Sent>[] = [];
    for (let command = this.sharing.next(); command; command = this.sharing.next()) {
      this.running.push(command);
      for (const { member } of command.clients) {
        issued.push(member);
        const blocks = this.#blocks[this.members.indexOf(member)];
        if (blocks !== undefined) this.write(member, blocks);
      }
    }
    while (this.sharing.takeSettled()) {}
    return issued;
  }

  /** Answers one of the running commands. */
  answer(choice: number): void {
    const [command] = this.running.splice(choice % this.running.length, 1);
    if (command) this.sharing.complete(command);
    while (this.sharing.takeSettled()) {}
  }
}

const floods = fc.array(
  fc.record({ weight: fc.constantFrom(0.5, 1, 2, 10), blocks: fc.integer({ min: 1, max: 40 }) }),
  { minLength: 2, maxLength: 6 },
);
const choices = fc.array(fc.nat(31), { minLength: 40, maxLength: 120 });
const depths = fc.constantFrom(1, 2, 4, 32);

// Method: two queues have the same history; in one of them a command is served past the queue wherever none waits.
test('sharing.G8: a command past the queue leaves the turns as one that had its turn at once', () => {
  const steps = fc.array(
    fc.record({ member: fc.nat(3), cost: fc.integer({ min: 1, max: 1000 }), alone: fc.boolean() }),
    { maxLength: 60 },
  );
  fc.assert(
    fc.property(
      steps,
      fc.tuple(...[0, 1, 2, 3].map(() => fc.constantFrom(0.5, 1, 4))),
      (program, weights) => {
        const worlds = [true, false].map((passes) => {
          const queue = new FairQueue<Turn>();
          return { passes, queue, turns: weights.map((weight) => new Turn(weight)) };
        });
        for (const { member, cost, alone } of program) {
          const seen = worlds.map(({ passes, queue, turns }) => {
            const turn = turns[member] as Turn;
            const head = queue.head;
            if (!alone && turn.place < 0) queue.add(turn, cost);
            else if (head) {
              queue.serve(head);
              queue.remove(head);
            } else if (passes) queue.pass(turn, cost);
            else {
              queue.add(turn, cost);
              queue.serve(turn);
              queue.remove(turn);
            }
            return [turns.indexOf(queue.head as Turn), ...turns.map(({ start }) => start)];
          });
          expect(seen[0]).toEqual(seen[1]);
        }
      },
    ),
    { numRuns: share(2000) },
  );
});

describe('members that flood', () => {
  test('share the disk by their weights: what two of them were served differs by a command of each at most', () => {
    fc.assert(
      fc.property(floods, depths, choices, (given, depth, answers) => {
        const world = new Floods(given, depth);
        const costs = given.map(({ weight, blocks }) => (COMMAND_COST + blocks * BLOCK) / weight);
        for (const choice of answers) {
          world.pump();
          const served = world.members.map(({ commands }, n) => commands * (costs[n] as number));
          const beyond = served.flatMap((one, a) =>
            served.map((other, b) => one - other - (costs[a] as number) - (costs[b] as number)),
          );
          expect(Math.max(...beyond)).toBeLessThanOrEqual(1e-6);
          world.answer(choice);
        }
      }),
      { numRuns: share(500) },
    );
  });

  test('delay one that comes by what they may have while its command would be at its share, and a command', () => {
    const weights = fc.constantFrom(0.5, 1, 4);
    const sizes = fc.integer({ min: 1, max: 20 });
    fc.assert(
      fc.property(
        floods,
        depths,
        choices,
        fc.nat(39),
        weights,
        sizes,
        (given, depth, answers, when, weight, blocks) => {
          const world = new Floods(given, depth);
          for (const choice of answers.slice(0, when)) {
            world.pump();
            world.answer(choice);
          }
          world.pump();
          const light = new Member<Sent>(weight);
          world.sharing.members.add(light);
          world.write(light, blocks);
          const before: Member<Sent>[] = [];
          for (let n = 0; light.commands === 0; n++) {
            before.push(...world.pump());
            world.answer(answers[n % answers.length] as number);
          }
          const others = before.slice(0, before.indexOf(light));
          const costOf = (size: number): number => COMMAND_COST + size * BLOCK;
          const served = others.reduce(
            (sum, member) => sum + costOf(given[world.members.indexOf(member)]?.blocks as number),
            0,
          );
          const all = given.reduce<number>((sum, one) => sum + one.weight, weight);
          const largest = Math.max(...given.map((one) => costOf(one.blocks)));
          expect(served).toBeLessThanOrEqual((costOf(blocks) / weight) * all + largest);
        },
      ),
      { numRuns: share(2000) },
    );
  });

  test('delay a small command by less than one of each of them, however often it comes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 3, max: 12 }), choices, (count, answers) => {
        const world = new Floods(
          Array.from({ length: count }, () => ({ weight: 1, blocks: 64 })),
          1,
        );
        const light = new Member<Sent>(1);
        world.sharing.members.add(light);
        for (const [n, choice] of answers.entries()) {
          world.pump();
          world.answer(choice);
          // Much less than its share: a block for every two turns of all others.
          if (n % (2 * count) !== 0) continue;
          world.write(light, 1);
          const before = world.pump();
          if (before[0] !== light) world.answer(choice);
          while (light.queue.size > 0) {
            before.push(...world.pump());
            if (light.queue.size > 0) world.answer(choice);
          }
          expect(before.indexOf(light)).toBeLessThanOrEqual(1);
        }
      }),
      { numRuns: share(200) },
    );
  });

  test('cannot hold the only place at a disk by flushes that fail, again and again', () => {
    const world = new Floods([], 1);
    const [flusher, light] = [new Member<Sent>(), new Member<Sent>()];
    for (const member of [flusher, light]) world.sharing.members.add(member);
    for (let n = 0; n < 20; n++) {
      for (const _ of [0, 1, 2]) {
        world.sharing.submit({ kind: 'flush' }, new Sent(flusher, 'flush', 0, 0));
      }
      if (light.queue.size === 0) world.write(light, 1);
      world.pump();
      const [command] = world.running.splice(0);
      if (command) world.sharing.complete(command, command.entry ? undefined : new Error('EIO'));
      while (world.sharing.takeSettled()) {}
    }
    expect(light.commands).toBeGreaterThanOrEqual(8);
    expect(world.sharing.commands.flush).toBeGreaterThanOrEqual(5);
  });
});
