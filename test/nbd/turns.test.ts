// Goal: the connections of a server take turns of the event loop. Method: the turns themselves, with visitors in the place of
// connections, which count the units that they do; real turns of the loop, and no time.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TURN_MAX, Turns, VISIT_MAX, Visitor } from '../../src/nbd/server/turns.js';

/** How much a request may be, in units: a read of 512 KiB. */
const REQUEST_MAX = 9;

/** A connection with requests of these units. */
class Asking {
  readonly visitor: Visitor = new Visitor(() => this.work());
  readonly #turns: Turns;
  readonly #units: () => number;
  #left = 0;
  done = 0;

  constructor(turns: Turns, units: () => number = () => 1) {
    this.#turns = turns;
    this.#units = units;
  }

  ask(requests: number): void {
    this.#left += requests;
    this.work();
  }

  get rests(): boolean {
    return this.#left === 0;
  }

  work(): void {
    while (this.#left > 0 && this.#turns.admits(this.visitor)) {
      const units = this.#units();
      this.#left -= 1;
      this.done += units;
      this.#turns.spend(this.visitor, units);
    }
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const doneBy = (all: readonly Asking[]): number => all.reduce((sum, { done }) => sum + done, 0);

function crowd(turns: Turns, count: number, units?: () => number): Asking[] {
  return Array.from({ length: count }, () => new Asking(turns, units));
}

test('turns.T1: a turn of the event loop has a limited amount of work, however many ask', async () => {
  const turns = new Turns();
  const all = crowd(turns, 100, () => REQUEST_MAX);
  for (const one of all) one.ask(1000);
  for (let i = 0, before = 0; i < 50; i += 1, before = doneBy(all)) {
    expect(doneBy(all) - before).toBeLessThan(TURN_MAX + REQUEST_MAX);
    await turn();
  }
});

test('turns.T2: one that asks for little waits for no more than the end of a visit, although 61 ask for much', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 30 }), async (rests) => {
      const turns = new Turns();
      const others = crowd(turns, 61);
      const polite = new Asking(turns);
      for (const other of others) other.ask(100_000);
      // All of them have come from a rest, and are visited once before.
      while (others.some(({ done }) => done === 0)) await turn();
      for (const rest of rests) {
        for (let i = 0; i <= rest; i += 1) await turn();
        const before = doneBy(others);
        polite.ask(1);
        let waited = 0;
        // The loop runs what waits before this test.
        for (; !polite.rests; waited += 1) await turn();
        expect(waited).toBeLessThanOrEqual(1);
        expect(doneBy(others) - before).toBeLessThanOrEqual(TURN_MAX + VISIT_MAX);
      }
    }),
    { numRuns: 20 },
  );
});

test('turns.T3: those that wait all the time do the same, whatever the size of their requests', async () => {
  const sizes = fc.array(fc.integer({ min: 1, max: REQUEST_MAX }), { minLength: 2, maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(sizes, async (units) => {
      const turns = new Turns();
      const all = units.map((size) => new Asking(turns, () => size));
      for (const one of all) one.ask(100_000);
      for (let i = 0; i < 100; i += 1) await turn();
      const done = all.map((one) => one.done);
      const visits = 2 * (VISIT_MAX + REQUEST_MAX);
      // What came first was done before the others were there.
      expect(Math.max(...done) - Math.min(...done)).toBeLessThanOrEqual(TURN_MAX + visits);
    }),
    { numRuns: 20 },
  );
});

test('turns.T3: one that comes back from a long rest takes a visit in advance, and no more', async () => {
  const turns = new Turns();
  const [first, second, late] = crowd(turns, 3) as [Asking, Asking, Asking];
  first.ask(100_000);
  second.ask(100_000);
  for (let i = 0; i < 50; i += 1) await turn();
  const before = first.done;
  late.ask(100_000);
  for (let i = 0; i < 50; i += 1) await turn();
  expect(late.done - (first.done - before)).toBeLessThanOrEqual(3 * VISIT_MAX);
});

test('turns.T4: one alone does the work of a turn at once', async () => {
  const turns = new Turns();
  const alone = new Asking(turns);
  alone.ask(TURN_MAX);
  expect(alone.rests).toBe(true);
  alone.ask(TURN_MAX + 1);
  expect(alone.rests).toBe(false);
  await turn();
  await turn();
  expect(alone.done).toBe(2 * TURN_MAX + 1);
});
