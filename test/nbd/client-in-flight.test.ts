// The requests in flight, in a small world, in every way that it can go, and in larger ones at random. The rules are at the head of
// src/nbd/client/in-flight.ts, the world's in client-world.ts.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Command, InFlight } from '../../src/nbd/client/in-flight.js';
import { Unflushed } from '../../src/nbd/client/unflushed.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { share } from '../kit/amount.js';
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

describe('nbd-client-in-flight.E7: given commands that are begun again only so often', () => {
  test.each([
    ['w0 | f', 2, 0, 0],
    ['w0 | f', 3, 1, 0],
    ['w0 | w0 | f', 2, 0, 0],
    ['w0 | w0! | r0', 2, 0, 0],
    ['w0+2 | d0 z1 | r0+2', 1, 0, 0],
    ['w0 | f w1! | w0', 1, 0, 1],
  ])(
    'every run of %s, with %i losses, %i restarts and %i failures, keeps what was answered',
    (...given) => {
      const [program, crashes, restartsMax, failures] = given;
      expect(everyRun(program, { crashes, restartsMax, failures })).toBeGreaterThan(crashes);
    },
  );

  const traits = { volatile: true, payloadMax: 512, depth: 2, restartsMax: 3 };
  const commands: readonly Command[] = [
    { op: 'read', offset: 0, length: 9, into: new Uint8Array(9) },
    { op: 'write', offset: 0, length: 9, data: new Uint8Array(9), fua: false },
    { op: 'write', offset: 0, length: 9, data: new Uint8Array(9), fua: true },
    { op: 'discard', offset: 0, length: 9 },
    { op: 'writeZeroes', offset: 0, length: 9 },
    { op: 'status', offset: 0, length: 9, found: [] },
    { op: 'flush' },
  ];

  test.each(commands)(
    'one that every connection dies of fails in the end, and what is answered meanwhile does not save it: %o',
    (command) => {
      const inFlight = new InFlight(new Unflushed(1 << 20), traits);
      inFlight.connected(traits);
      const answerAll = (but: number): void => {
        for (let out = inFlight.next(); out; out = inFlight.next()) {
          if (out.command !== but) inFlight.answered(out.cookie);
          else return;
        }
      };
      inFlight.submit({ op: 'write', offset: 100, length: 5, data: new Uint8Array(5), fua: false });
      answerAll(-1);
      const number = inFlight.submit(command);
      const numbers = { read: 0, write: 1, discard: 4, writeZeroes: 6, flush: 3, status: 7 };
      const deadly = numbers[command.op];
      for (let losses = 0; losses < 3; losses += 1) {
        // The write of the log may be of the same kind, and is answered.
        if (inFlight.phase === 'resending') inFlight.answered(inFlight.next()?.cookie ?? -1n);
        answerAll(deadly);
        const other = inFlight.submit({
          op: 'read',
          offset: 50,
          length: 1,
          into: new Uint8Array(1),
        });
        const out = inFlight.next();
        if (out && command.op !== 'read') {
          expect(inFlight.answered(out.cookie)).toEqual([{ command: other }]);
        }
        expect(inFlight.lost(new Error('gone'))).toEqual([]);
        inFlight.connected(traits);
      }
      inFlight.answered(inFlight.next()?.cookie ?? -1n);
      answerAll(deadly);
      const ends = inFlight.lost(new Error('gone'));
      expect(ends).toContainEqual({
        command: number,
        error: expect.objectContaining({
          code: 'CONNECTION_LOST',
          atRisk: command.op === 'flush' ? [{ start: 100, end: 105 }] : [],
        }),
      });
      // It goes on, and what was answered is sent again all the same.
      expect(inFlight.phase).toBe('down');
      inFlight.connected(traits);
      expect(inFlight.next()).toMatchObject({ command: COMMAND.WRITE, offset: 100, length: 5 });
    },
  );

  test('one that was never sent is not counted', () => {
    const inFlight = new InFlight(new Unflushed(1 << 20), traits);
    const into = new Uint8Array(1);
    for (let i = 0; i < 8; i += 1) inFlight.submit({ op: 'read', offset: i, length: 1, into });
    inFlight.connected(traits);
    const ends: number[] = [];
    for (let losses = 0; losses < 16; losses += 1) {
      while (inFlight.next());
      ends.push(...inFlight.lost(new Error('gone')).map(({ command }) => command));
      expect(ends.length).toBe(2 * Math.floor((losses + 1) / 4));
      inFlight.connected(traits);
    }
    expect(ends).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  // Each flush is made void by a forced write that fails beside it.
  test('a flush that is never believed fails in the end', () => {
    const inFlight = new InFlight(new Unflushed(1 << 20), { ...traits, depth: 16 });
    inFlight.connected({ ...traits, depth: 16 });
    const flush = inFlight.submit({ op: 'flush' });
    let settled: ReturnType<InFlight['lost']> = [];
    for (let rounds = 0; rounds < 100; rounds += 1) {
      inFlight.submit({ op: 'write', offset: 0, length: 1, data: new Uint8Array(1), fua: true });
      const sent = [inFlight.next(), inFlight.next()];
      const forced = sent.find((out) => out?.command === COMMAND.WRITE)?.cookie ?? -1n;
      const flushed = sent.find((out) => out?.command === COMMAND.FLUSH)?.cookie ?? -1n;
      settled = [...inFlight.answered(forced, new Error('EIO')), ...inFlight.answered(flushed)];
      if (settled.some(({ command }) => command === flush)) break;
    }
    expect(settled).toContainEqual({
      command: flush,
      error: expect.objectContaining({ code: 'FLUSH_FAILED' }),
    });
  });
});

// The worlds above would find it, too, among all else.
test('case 66: a write that has no reply when a flush is sent is not covered by it', () => {
  const traits = { volatile: true, payloadMax: 512, depth: 16, restartsMax: 9 };
  const inFlight = new InFlight(new Unflushed(1 << 20), traits);
  const data = new Uint8Array(1);
  inFlight.connected(traits);
  const [write, flush] = [
    inFlight.submit({ op: 'write', offset: 7, length: 1, data, fua: false }),
    inFlight.submit({ op: 'flush' }),
  ];
  const sent = [inFlight.next(), inFlight.next()];
  const cookieOf = (command: number): bigint =>
    sent.find((one) => one?.command === command)?.cookie ?? -1n;
  expect(inFlight.answered(cookieOf(COMMAND.WRITE))).toEqual([{ command: write }]);
  expect(inFlight.answered(cookieOf(COMMAND.FLUSH))).toEqual([{ command: flush }]);
  expect(inFlight.atRisk).toEqual([{ start: 7, end: 8 }]);
  inFlight.lost(new Error('gone'));
  inFlight.connected(traits);
  expect(inFlight.next()).toMatchObject({ command: COMMAND.WRITE, offset: 7, length: 1 });
});

// Each of them makes two entries of one, which costs something even where there is no data.
test.each(['discard', 'write'] as const)(
  'forced writes and discards in the middle of what the log holds make it flush at half, too: %s',
  (op) => {
    const traits = { volatile: true, payloadMax: 512, depth: 16, restartsMax: 9 };
    const inFlight = new InFlight(new Unflushed(4096), traits);
    inFlight.connected(traits);
    const carriedOut = (command: Command): number | undefined => {
      inFlight.submit(command);
      const sent = inFlight.next();
      if (sent) inFlight.answered(sent.cookie);
      return sent?.command;
    };
    carriedOut({ op: 'writeZeroes', offset: 0, length: 1000 });
    const flushed = Array.from({ length: 40 }, (_, i) => {
      const place = { offset: 5 + 10 * i, length: 1 };
      const data = new Uint8Array(1);
      return carriedOut(op === 'write' ? { op, ...place, data, fua: true } : { op, ...place });
    });
    expect(flushed).toContain(COMMAND.FLUSH);
    expect(inFlight.log.cost).toBeLessThan(4096);
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
        restartsMax: fc.constantFrom(0, 1, 100),
      }),
      ({ program, first, choices }, options) => {
        run(first + program, options, (count) => (choices.next().value as number) % count);
      },
    ),
    { numRuns: share(20_000) },
  );
});
