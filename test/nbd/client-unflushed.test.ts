// The log of what no flush has covered, against the plainest model of it: for every byte, what is there and when it was
// accepted. The rules (unflushed.L1 to unflushed.L5) are at the head of src/nbd/client/unflushed.ts.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Unflushed } from '../../src/nbd/client/unflushed.js';
import { share } from '../kit/amount.js';

const SIZE = 32;
/** Room for about eight entries, so that it is met. */
const BYTES_MAX = 1200;

type Step =
  | { readonly kind: 'write' | 'zeroes' | 'forget'; readonly at: number; readonly length: number }
  | { readonly kind: 'mark' | 'flushed' | 'lose' | 'resent' };

const range = { at: fc.nat(SIZE - 1), length: fc.integer({ min: 1, max: 12 }) };
const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('write' as const), ...range }) },
  fc.record({ kind: fc.constantFrom('zeroes' as const, 'forget' as const), ...range }),
  fc.record({ kind: fc.constantFrom('mark', 'flushed', 'lose', 'resent') }),
);

interface Cell {
  readonly value: number;
  readonly accepted: number;
  readonly lost: boolean;
}

test('given any writes, flushes and losses, it knows every byte as a plain model does', () => {
  fc.assert(
    fc.property(fc.array(steps, { maxLength: 40 }), (list) => {
      const log = new Unflushed(BYTES_MAX);
      const model: (Cell | undefined)[] = Array(SIZE).fill(undefined);
      let [value, accepted, mark, modelMark] = [0, 0, 0, 0];
      for (const step of list) {
        switch (step.kind) {
          case 'write':
          case 'zeroes':
          case 'forget': {
            const { kind, at } = step;
            const length = Math.min(step.length, SIZE - at);
            if (kind !== 'forget' && !log.fits(kind === 'write' ? length : 0)) break;
            value += 1;
            accepted += kind === 'forget' ? 0 : 1;
            const data = new Uint8Array(length).fill(value);
            if (kind === 'write') log.accept(at, length, data);
            else if (kind === 'zeroes') log.accept(at, length, 'zeroes');
            else log.forget(at, length);
            const cell = { value: kind === 'zeroes' ? 0 : value, accepted, lost: false };
            model.fill(kind === 'forget' ? undefined : cell, at, at + length);
            break;
          }
          case 'mark':
            [mark, modelMark] = [log.mark(), accepted];
            break;
          case 'flushed':
            log.flushed(mark);
            for (const [i, cell] of model.entries()) {
              if (cell && !cell.lost && cell.accepted <= modelMark) model[i] = undefined;
            }
            break;
          case 'lose':
          case 'resent':
            if (step.kind === 'lose') log.lose();
            else log.resent();
            for (const [i, cell] of model.entries()) {
              if (cell) model[i] = { ...cell, lost: step.kind === 'lose' };
            }
        }
        const known: (number | undefined)[] = Array(SIZE).fill(undefined);
        let [end, bytes] = [0, 0];
        for (const { start, end: last, content, lost } of log.entries) {
          // unflushed.L1
          expect(start).toBeGreaterThanOrEqual(end);
          expect(last).toBeGreaterThan(start);
          end = last;
          for (let at = start; at < last; at += 1) {
            known[at] = content instanceof Uint8Array ? content[at - start] : 0;
            expect(lost).toBe(model[at]?.lost);
          }
          bytes += content instanceof Uint8Array ? content.length : 0;
          // unflushed.L4: no part keeps more than twice itself alive.
          if (content instanceof Uint8Array) {
            expect(content.buffer.byteLength).toBeLessThanOrEqual(2 * content.length);
          }
        }
        expect(known).toEqual(model.map((cell) => cell?.value));
        expect(log.cost).toBe(bytes + 128 * log.entries.length);
        expect(log.cost).toBeLessThanOrEqual(BYTES_MAX);
        const atRisk = log.ranges().flatMap(({ start, end }) => [start, end]);
        expect(atRisk).toEqual([...new Set(atRisk)].sort((one, other) => one - other));
      }
    }),
    { numRuns: share(3000) },
  );
});

test('unflushed.L2: a flush takes out what was accepted before it was sent, and nothing later', () => {
  const log = new Unflushed(1 << 20);
  log.accept(0, 4, new Uint8Array(4));
  const mark = log.mark();
  log.accept(2, 4, new Uint8Array(4).fill(1));
  log.flushed(mark);
  expect(log.ranges()).toEqual([{ start: 2, end: 6 }]);
});

test('unflushed.L4: it takes in no more than its bound', () => {
  const log = new Unflushed(10_000);
  let taken = 0;
  while (log.fits(512)) {
    log.accept(taken * 1024, 512, new Uint8Array(512));
    taken += 1;
  }
  expect(log.cost).toBeLessThanOrEqual(10_000);
  expect(taken).toBeGreaterThan(10);
});

test('without data it makes its ranges coarser rather than grow, and leaves none out', () => {
  const log = new Unflushed(0);
  for (let i = 0; i < 20_000; i += 1)
    log.accept(((i * 7919) % 20_000) * 1024, 512, new Uint8Array(0));
  expect(log.entries.length).toBeLessThanOrEqual(4096);
  const ranges = log.ranges();
  for (let i = 0; i < 20_000; i += 97) {
    const [start, end] = [i * 1024, i * 1024 + 512];
    expect(ranges.some((range) => range.start <= start && range.end >= end)).toBe(true);
  }
});
