// The exchange in a small world, in every way that it can go, and in larger ones at random. The rules are at the head of
// src/nbd/client/exchange.ts, the world's in client-world.ts.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Command, Exchange } from '../../src/nbd/client/exchange.js';
import { ResendLog } from '../../src/nbd/client/resend-log.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { everyRun, run } from './client-world.js';

describe('given a server that may be lost at any moment', () => {
  test.each([
    ['w0 | f', 2],
    ['w0 w1 | f', 1],
    ['w0 | w0 | f', 2],
    ['w0 | f w1 | r0 r1', 1],
    ['w0 | f | w1 | f', 2],
    ['w0 | w0! | r0', 2],
    ['w0+2 | w0! | r1', 2],
    ['w0 | d0 | w0 | r0', 1],
    ['w0 | z0 | f | r0', 2],
    ['w0+3 | w1 | r0+3', 1],
    ['w0 | f f | w0', 1],
  ])('every run of %s, with %i losses, keeps what was answered', (program, crashes) => {
    const runs = everyRun(program, { crashes });
    expect(runs).toBeGreaterThan(crashes);
  });
});

describe('given a server that also fails a flush, and then forgets what that was to write', () => {
  test.each([
    ['w0 | f', 1, 1],
    ['w0 | f | f', 0, 2],
    ['w0 | f w1 | f', 0, 1],
    ['w0 | f w1 | r1', 1, 1],
    ['w0 | f | w0 | f', 1, 1],
    ['w0 | f w1! | w0', 0, 1],
  ])('every run of %s, with %i losses and %i failures, keeps what was answered', (...given) => {
    const [program, crashes, failures] = given;
    expect(everyRun(program, { crashes, failures })).toBeGreaterThan(1);
  });
});

describe('given a log that holds next to nothing', () => {
  // An entry costs 128 bytes, and room for two is asked for.
  test.each([
    ['w0 | w1 | f', 1, 0, 300],
    ['w0 w1', 1, 0, 1],
    ['w0 | w0 | r0', 1, 0, 1],
    ['w0 | w1', 1, 1, 1],
    ['w0 | w1 | w0 | f', 1, 0, 300],
  ])('every run of %s, with %i losses and %i failures, in %i bytes', (...given) => {
    const [program, crashes, failures, bytesMax] = given;
    expect(everyRun(program, { crashes, failures, bytesMax })).toBeGreaterThan(1);
  });
});

// The worlds above would find it, too, among all else.
test('case 66: a write that has no reply when a flush is sent is not covered by it', () => {
  const traits = { volatile: true, flush: true, payloadMax: 512, depth: 16 };
  const exchange = new Exchange(new ResendLog(1 << 20), traits);
  const data = [new Uint8Array(1)];
  exchange.connected(traits);
  const [write, flush] = [
    exchange.submit({ op: 'write', offset: 7, length: 1, data, fua: false }),
    exchange.submit({ op: 'flush' }),
  ];
  const sent = [exchange.next(), exchange.next()];
  const ticketOf = (command: number): number =>
    sent.find((one) => one?.command === command)?.ticket ?? -1;
  expect(exchange.answered(ticketOf(COMMAND.WRITE))).toEqual([{ command: write }]);
  expect(exchange.answered(ticketOf(COMMAND.FLUSH))).toEqual([{ command: flush }]);
  expect(exchange.atRisk).toEqual([{ start: 7, end: 8 }]);
  exchange.lost(new Error('gone'));
  exchange.connected(traits);
  expect(exchange.next()).toMatchObject({ command: COMMAND.WRITE, offset: 7, length: 1 });
});

// Each of them makes two entries of one, which costs something even where there is no data.
test.each(['discard', 'write'] as const)(
  'forced writes and discards in the middle of what the log holds make it flush at half, too: %s',
  (op) => {
    const traits = { volatile: true, flush: true, payloadMax: 512, depth: 16 };
    const exchange = new Exchange(new ResendLog(4096), traits);
    exchange.connected(traits);
    const carriedOut = (command: Command): number | undefined => {
      exchange.submit(command);
      const sent = exchange.next();
      if (sent) exchange.answered(sent.ticket);
      return sent?.command;
    };
    carriedOut({ op: 'writeZeroes', offset: 0, length: 1000 });
    const flushed = Array.from({ length: 40 }, (_, i) => {
      const place = { offset: 5 + 10 * i, length: 1 };
      const data = [new Uint8Array(1)];
      return carriedOut(op === 'write' ? { op, ...place, data, fua: true } : { op, ...place });
    });
    expect(flushed).toContain(COMMAND.FLUSH);
    expect(exchange.log.cost).toBeLessThan(4096);
  },
);

// Groups of commands that do not touch each other's cells, as a storage is asked for.
const groups = fc
  .array(
    fc.uniqueArray(
      fc.record({
        cell: fc.nat(3),
        op: fc.constantFrom('w', 'w', 'w', 'z', 'd', 'r', 'f', 'f'),
        fua: fc.boolean(),
      }),
      { minLength: 1, maxLength: 4, selector: ({ cell }) => cell },
    ),
    { minLength: 1, maxLength: 8 },
  )
  .map((list) =>
    list
      .map((group) =>
        group
          .map(
            ({ op, cell, fua }) => `${op}${op === 'f' ? '' : cell}${op === 'w' && fua ? '!' : ''}`,
          )
          .join(' '),
      )
      .join(' | '),
  );
const wide = fc.constantFrom('w0+4 | ', 'z0+4 | ', '');

test('given any program, a server that is lost and fails at any moments, and any log, it keeps what was answered', () => {
  fc.assert(
    fc.property(
      fc.record({ program: groups, first: wide, choices: fc.infiniteStream(fc.nat(1 << 20)) }),
      fc.record({
        crashes: fc.nat(5),
        failures: fc.nat(2),
        bytesMax: fc.constantFrom(1, 300, 500, 1 << 20),
        payloadMax: fc.constantFrom(1, 2, 8),
      }),
      ({ program, first, choices }, options) => {
        run(first + program, options, (count) => (choices.next().value as number) % count);
      },
    ),
    { numRuns: 20_000 },
  );
});
