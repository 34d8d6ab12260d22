// What the scheduler remembers of failures, what its in-flight set holds, and when a barrier may go or be taken back.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type BarrierAbortedError, parseProgram, type Request } from 'write-barrier';
import { Durability } from '../../src/scheduler/durability.js';
import { Command, Entry } from '../../src/scheduler/entry.js';
import { InFlight } from '../../src/scheduler/in-flight.js';
import { Plans } from '../../src/scheduler/plan.js';
import { BLOCK, outcomes, settled, World, worldOf } from './world.js';

const GROUP_FLUSH = new Plans('NONE', {
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
}).groupFlush as NonNullable<Plans['groupFlush']>;

describe('a failure', () => {
  const [first, second] = [0, 1].map(() => new Command<void>(GROUP_FLUSH, [])) as [
    Command<void>,
    Command<void>,
  ];
  const write = (block: number): Request => ({
    kind: 'write',
    offset: block * BLOCK,
    length: BLOCK,
  });
  const rangeOf = (block: number) => ({ start: block * BLOCK, end: (block + 1) * BLOCK });
  const barrierOver = (block: number, length = BLOCK): Entry<string> =>
    new Entry(
      9,
      { kind: 'write', offset: block * BLOCK, length, barrier: true },
      'client',
      undefined,
    );
  const failedFlush = (): Durability<string> => {
    const durability = new Durability<string>(true);
    durability.wrote(rangeOf(0), false);
    durability.flushIssued(first as Command<never>);
    durability.flushEnded(first as Command<never>, 'first');
    return durability;
  };

  test('of a second flush is told with the reason of the first', () => {
    const durability = failedFlush();
    durability.flushIssued(second as Command<never>);
    durability.flushEnded(second as Command<never>, 'second');
    expect(durability.failure.cause).toBe('first');
  });

  test('of a write that was at the device when a flush failed leaves its bytes in doubt', () => {
    const durability = failedFlush();
    durability.writeFailed(write(3), rangeOf(3), 'EIO');
    expect(durability.atRisk).toEqual([rangeOf(0), rangeOf(3)]);
  });

  test('of a write may have left some of it in the cache, which the next flush holds', () => {
    const durability = new Durability<string>(true);
    durability.writeFailed(write(3), rangeOf(3), 'EIO');
    durability.flushIssued(first as Command<never>);
    durability.flushEnded(first as Command<never>, 'EIO');
    expect(durability.atRisk).toEqual([rangeOf(3)]);
  });

  test('of a write is no reason against a barrier that writes the same bytes, and is one where a byte is left', () => {
    for (const [barrier, aborts] of [
      [barrierOver(3), false],
      [barrierOver(2, 3 * BLOCK), false],
      [barrierOver(4), true],
      [barrierOver(2), true],
    ] as const) {
      const durability = new Durability<string>(true);
      durability.writeFailed(write(3), rangeOf(3), 'EIO');
      expect(durability.answerFor(barrier) !== undefined).toBe(aborts);
    }
  });

  test('after 64 for which a barrier has answered is kept apart from them', () => {
    const durability = new Durability<string>(true);
    for (let n = 0; n < 64; n += 1) durability.writeFailed(write(2 * n), rangeOf(2 * n), 'EIO');
    expect(durability.answerFor(barrierOver(500))).toBeDefined();
    durability.writeFailed(write(200), rangeOf(200), 'EIO');
    durability.acknowledge();
    expect(durability.answerFor(barrierOver(500))).toBeDefined();
    durability.acknowledge();
    expect(durability.answerFor(barrierOver(500))).toBeUndefined();
  });
});

describe('the in-flight set', () => {
  const entryOf = (text: string, ticket = 0): Entry<string> => {
    const [request] = parseProgram(text, { blockSize: BLOCK });
    return new Entry(ticket, request as Request, text, undefined);
  };

  test('counts as unissued what waits for its preflush, until it is taken', () => {
    const inFlight = new InFlight<string>();
    const entry = entryOf('w0');
    inFlight.admitWaiting(entry);
    expect(inFlight.unissued).toBe(1);
    inFlight.release(entry);
    expect(inFlight.takeReady()).toBe(entry);
    expect(inFlight.unissued).toBe(0);
  });

  test('does not count a read that passed a barrier as unissued, whether it is taken or withdrawn', () => {
    const inFlight = new InFlight<string>();
    const [taken, withdrawn] = [entryOf('r0'), entryOf('r1')];
    inFlight.admitBypass(taken);
    inFlight.admitBypass(withdrawn);
    expect([inFlight.bypassing, inFlight.unissued]).toEqual([2, 0]);
    expect(inFlight.takeReady()).toBe(taken);
    inFlight.withdraw(withdrawn);
    expect([inFlight.bypassing, inFlight.unissued]).toEqual([1, 0]);
    inFlight.leave(taken);
    expect([inFlight.bypassing, inFlight.unissued, [...inFlight]]).toEqual([0, 0, []]);
  });

  test.each([16, 17, 64, 1024])(
    'finds the overlap of a small request with one of %i cells, both ways',
    (cells) => {
      // Few requests are searched, and many are counted by cells.
      const many = Array.from({ length: 20 }, (_, n) => `w${5000 + n}`);
      for (const [older, younger, others] of [
        [`w3+${cells}`, `w${2 + cells}`, []],
        [`w${2 + cells}`, `w3+${cells}`, []],
        [`w3+${cells}`, `w${2 + cells}`, many],
        [`w${2 + cells}`, `w3+${cells}`, many],
      ] as const) {
        const inFlight = new InFlight<string>();
        for (const other of others) expect(inFlight.admit(entryOf(other))).toBe(true);
        const wide = entryOf(older);
        expect(inFlight.admit(wide)).toBe(true);
        const small = entryOf(younger, 1);
        expect([inFlight.admit(small), small.blocker]).toEqual([false, wide]);
        expect(inFlight.admit(entryOf('w2', 2))).toBe(true);
        inFlight.leave(wide);
        expect(inFlight.takeReady()).toBe(small);
      }
    },
  );

  test('holds a request for the oldest that it overlaps, and for nothing else, however many there are', () => {
    const moves = fc.array(
      fc.oneof(
        fc.record({ leaves: fc.nat(), text: fc.constant('') }),
        fc
          .tuple(fc.constantFrom('r', 'w'), fc.nat(1500), fc.constantFrom(1, 1, 1, 3, 20))
          .map(([kind, at, blocks]) => ({ leaves: -1, text: `${kind}${at}+${blocks}` })),
        fc
          .tuple(fc.constantFrom('r', 'w'), fc.nat(20))
          .map(([kind, at]) => ({ leaves: -1, text: `${kind}${at}` })),
      ),
      { maxLength: 120 },
    );
    const overlaps = (a: Entry<string>, b: Entry<string>): boolean =>
      (a.mutates || b.mutates) && a.start < b.end && b.start < a.end;
    fc.assert(
      fc.property(moves, (all) => {
        const inFlight = new InFlight<string>();
        const present: Entry<string>[] = [];
        for (const { leaves, text } of all) {
          const free = present.filter(({ blocker }) => blocker === undefined);
          if (text !== '') {
            const entry = entryOf(text);
            const mayGo = inFlight.admit(entry);
            present.push(entry);
            expect(mayGo).toBe(entry.blocker === undefined);
          } else if (free.length > 0) {
            const gone = free[leaves % free.length] as Entry<string>;
            inFlight.leave(gone);
            present.splice(present.indexOf(gone), 1);
          }
          present.forEach((entry, n) => {
            const earlier = present.slice(0, n).find((other) => overlaps(other, entry));
            expect(entry.blocker).toBe(earlier);
          });
        }
      }),
    );
  });

  test('holds no more than `depth` requests that wait for an overlap; the others stay in the queue', async () => {
    for (const depth of [1, 2, 3]) {
      const { device, disk, one } = worldOf('NONE', { depth: depth + 1 });
      const calls = Array.from({ length: depth + 4 }, () => one('w0'));
      await settled();
      expect(disk.stats()).toMatchObject({ inFlight: 1, queued: calls.length - 1 - (depth + 1) });
      await device.drain();
      expect(calls.every(({ outcome }) => outcome === 'done')).toBe(true);
    }
  });
});

test('given a barrier whose data is written, then a read of it passes the flush that is still to come', async () => {
  const { device, disk, one } = worldOf('DRAIN_FLUSH');
  one('b1');
  await settled();
  for (const text of ['F', 'w1']) await device.answer(text);
  expect(device.inFlight).toBe('F');
  const read = one('r1');
  await settled();
  expect([device.inFlight, disk.stats().readsPassed]).toEqual(['F r1', 1]);
  await device.answer('r1');
  expect(read.outcome).toBe('done');
  await device.drain();
});

describe('a barrier', () => {
  test('waits for a shared flush at the device, also when the write that asked for it was taken back', async () => {
    const { device, one } = worldOf('DRAIN_FLUSH');
    const write = one('fw0');
    await settled();
    expect(device.inFlight).toBe('F');
    await write.cancel();
    const barrier = one('b1');
    await settled();
    expect([write.outcome, device.inFlight, device.log]).toEqual(['cancelled', 'F', 'F']);
    await device.answer('F');
    expect(device.log).toBe('F F');
    await device.drain();
    expect(barrier.outcome).toBe('done');
  });

  test('with an ordered tag goes to a device that keeps tags beside a write that it overlaps', async () => {
    const world = new World({ mode: 'TAG', device: { cache: 'none' } });
    world.submit('w0 b0');
    await settled();
    expect(world.device.inFlight).toBe('w0 ^w0');
    await world.device.drain();
  });

  test('that was aborted with the one before it has answered for its failure, and the next one goes', async () => {
    const { device, one } = worldOf('DRAIN', {});
    const both = [one('b0'), one('b1')];
    await settled();
    await device.fail('w0');
    expect(outcomes(both)).toBe('b0:IO_FAILED b1:BARRIER_ABORTED');
    const next = one('b2');
    await settled();
    await device.drain();
    expect(next.outcome).toBe('done');
  });

  test('that was aborted with the one before it names the write that failed', async () => {
    const { device, one } = worldOf('DRAIN');
    one('w5');
    const both = [one('b0'), one('b1')];
    await settled();
    await device.fail('w5');
    await settled();
    expect(outcomes(both)).toBe('b0:BARRIER_ABORTED b1:BARRIER_ABORTED');
    for (const { error } of both) {
      expect((error as BarrierAbortedError).blame).toMatchObject({ offset: 5 * BLOCK });
    }
  });

  test('without data cannot be taken back once its flush is at the device', async () => {
    const { device, one } = worldOf('DRAIN_FLUSH');
    const barrier = one('b');
    await settled();
    await barrier.cancel();
    expect([device.inFlight, barrier.outcome]).toEqual(['F', 'pending']);
    await device.drain();
    expect(barrier.outcome).toBe('done');
  });

  test('that must fail cannot be taken back: its owner hears of the failure', async () => {
    const { device, one } = worldOf('DRAIN_FLUSH');
    one('w5');
    await settled();
    await device.fail('w5');
    const barrier = one('b1');
    await settled();
    expect(device.inFlight).toBe('F');
    await barrier.cancel();
    await device.drain();
    expect([barrier.outcome, device.log]).toEqual(['BARRIER_ABORTED', 'w5 F']);
  });

  test('that has begun when a shared flush fails ends in doubt, and one that has not is refused', async () => {
    const { device, one } = worldOf('TAG_FLUSH');
    one('w0');
    await device.answer('w0');
    one('f');
    await settled();
    const begun = one('b1');
    const waits = one('b2');
    await settled();
    expect(device.inFlight).toBe('F ^F ^w1 ^F');
    await device.fail('F');
    await device.drain();
    expect(outcomes([begun, waits])).toBe('b1:FLUSH_FAILED b2:FAILED');
  });
});
