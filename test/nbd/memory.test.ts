// Who may take how much of the memory of a server, call by call, and at random with all invariants looked at after each.

import type { Socket } from 'node:net';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { MemoryStorage } from '../../src/index.js';
import { NbdServer } from '../../src/nbd/index.js';
import { Memory, type MemoryLimits, type Share } from '../../src/nbd/server/memory.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { line } from './line.js';
import { FLAGS, go, RawClient, request } from './support.js';

const KIB = 1024;
const LIMITS: MemoryLimits = { totalBytes: 1000, requestBytes: 200, connections: 4, largeMs: 50 };
/** Of the rest of 800 bytes: half in four parts. */
const [GUARANTEED, COMMON] = [100, 400];

const shareOf = (memory: Memory, evict = (): void => {}): Share & { resumed: () => number } => {
  let resumed = 0;
  const share = memory.share(() => {
    const { wants = 0 } = share;
    resumed += 1;
    share.wants = undefined;
    takes(share, wants);
  }, evict);
  return Object.assign(share, { resumed: () => resumed });
};

/** Takes it and holds it, if it may. */
function takes(share: Share, bytes: number): boolean {
  const may = share.take(bytes);
  if (may) share.hold(share.held + bytes);
  return may;
}

function flood(share: Share, piece: number): number {
  while (takes(share, piece));
  return share.held;
}

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('memory', () => {
  test('memory.M3: one flood gets its part and half of what is common, and a second one half of the rest', () => {
    const memory = new Memory(LIMITS);
    const [first, second] = [shareOf(memory), shareOf(memory)];
    // The large part is taken, so that the floods do not get it.
    expect(takes(shareOf(memory), GUARANTEED + COMMON + 1)).toBe(true);
    expect(flood(first, 10)).toBe(GUARANTEED + COMMON / 2);
    expect(flood(second, 10)).toBe(GUARANTEED + COMMON / 4);
  });

  test('memory.M2: a share has its part whatever the others hold', () => {
    const memory = new Memory(LIMITS);
    for (const share of [shareOf(memory), shareOf(memory), shareOf(memory)]) flood(share, 1);
    const last = shareOf(memory);
    expect(takes(last, GUARANTEED)).toBe(true);
    expect(memory.held).toBeLessThanOrEqual(LIMITS.totalBytes);
  });

  test('memory.M1: a whole that is smaller than a request serves one request at a time', () => {
    const memory = new Memory({ ...LIMITS, totalBytes: 10 });
    const [first, second] = [shareOf(memory), shareOf(memory)];
    expect(takes(first, 200)).toBe(true);
    expect(takes(second, 1)).toBe(false);
    first.hold(0);
    expect(takes(second, 1)).toBe(true);
  });

  test('memory.M4: the large part goes to those that wait in their order, to one at a time, and its owner takes nothing else', async () => {
    const memory = new Memory({ ...LIMITS, totalBytes: LIMITS.requestBytes });
    const [first, second, third] = [shareOf(memory), shareOf(memory), shareOf(memory)];
    expect(takes(first, 200)).toBe(true);
    expect(takes(first, 1)).toBe(false);
    first.wants = undefined;
    expect([takes(second, 150), takes(third, 10)]).toEqual([false, false]);
    first.leave();
    await tick();
    // The first that waits was called, and the other is behind it still.
    expect([second.resumed(), third.resumed()]).toEqual([1, 0]);
    expect([second.held, third.held]).toEqual([150, 0]);
    second.hold(0);
    await tick();
    expect([third.resumed(), third.held]).toEqual([1, 10]);
  });

  test('memory.M4: who keeps the large part while others wait is evicted, and not before', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    onTestFinished(() => void vi.useRealTimers());
    const memory = new Memory({ ...LIMITS, totalBytes: 0 });
    const why: string[] = [];
    const [first, second] = [
      memory.share(
        () => {},
        (text) => why.push(text),
      ),
      shareOf(memory),
    ];
    expect(takes(first, 200)).toBe(true);
    vi.advanceTimersByTime(30);
    expect(takes(second, 200)).toBe(false);
    vi.advanceTimersByTime(19);
    expect(why).toEqual([]);
    vi.advanceTimersByTime(1);
    expect(why).toEqual([
      'its request was larger than its share of the memory, and others waited for 50 ms',
    ]);
  });

  test('memory.M5: what was not asked for stops those that are above their parts, and no others', async () => {
    const memory = new Memory(LIMITS);
    const [greedy, modest] = [shareOf(memory), shareOf(memory)];
    greedy.hold(GUARANTEED + COMMON + 1);
    expect([greedy.isFull, modest.isFull]).toEqual([true, false]);
    expect([greedy.take(0), takes(modest, GUARANTEED)]).toEqual([false, true]);
    greedy.hold(GUARANTEED + COMMON);
    await tick();
    expect(greedy.resumed()).toBe(1);
    expect(greedy.isFull).toBe(false);
  });

  // Goal: the bound, whatever is asked for in whatever order. Method: shares that take and give back at random.
  test('memory.M1, M2: no more than the whole is held, and what a share is due it gets', () => {
    const step = fc.record({ who: fc.nat(3), bytes: fc.integer({ min: -200, max: 200 }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const memory = new Memory(LIMITS);
        const shares = [0, 1, 2, 3].map(() => shareOf(memory));
        for (const { who, bytes } of steps) {
          const share = shares[who] as Share;
          const isDue = share.held + bytes <= GUARANTEED;
          const owner = shares.some(({ held }) => held > GUARANTEED);
          if (bytes < -150) share.leave();
          else if (bytes < 0) share.hold(Math.max(0, share.held + bytes));
          else if (!takes(share, bytes) && isDue) expect(owner).toBe(true);
          const sum = shares.reduce((all, { held }) => all + held, 0);
          expect(memory.held).toBe(sum);
          expect(sum).toBeLessThanOrEqual(LIMITS.totalBytes);
        }
        for (const share of shares) share.leave();
        expect(memory.held).toBe(0);
        expect(takes(shares[0] as Share, 600)).toBe(true);
      }),
    );
  });

  // Goal: what is given back reaches those that wait, although most of what is given back wakes no one. Method: the same steps; a
  // share that is resumed takes what it waits for, and after each step one that still waits asks in vain.
  test('memory.M2, M3, M4: no share waits for what it would get', async () => {
    const step = fc.record({ who: fc.nat(3), bytes: fc.integer({ min: -100, max: 200 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 100 }), async (steps) => {
        const memory = new Memory(LIMITS);
        const shares = [0, 1, 2, 3].map(() => shareOf(memory));
        for (const { who, bytes } of steps) {
          const share = shares[who] as Share;
          if (bytes < 0) share.hold(Math.max(0, share.held + bytes));
          else if (share.wants === undefined) takes(share, bytes);
          await tick();
          for (const waiting of shares) {
            if (waiting.wants !== undefined) expect(waiting.take(waiting.wants)).toBe(false);
          }
        }
      }),
    );
  });
});

describe('a server with memory for one request', () => {
  test('memory.M1: serves all requests of many clients, one after the other, and one that is gone keeps nothing', async () => {
    const length = 64 * KIB;
    const limits = { requestBytes: length, totalBytes: length };
    const server = new NbdServer({ exports: { '': new MemoryStorage(64 * length) }, limits });
    onTestFinished(() => server.close());
    const client = async (): Promise<RawClient> => {
      const [theirs, ours] = line();
      server.serve(theirs);
      const opened = new RawClient(ours as Socket);
      await opened.negotiate(FLAGS, go());
      return opened;
    };
    let most = 0;
    const look = (): void => {
      most = Math.max(most, server.stats().heldBytes);
    };
    // It has begun a payload, and so holds what the others wait for.
    const gone = await client();
    gone.socket.write(request(COMMAND.WRITE, 1, { length }));
    const clients = [await client(), await client(), await client()];
    const works = clients.map(async (one, who) => {
      for (let i = 0; i < 8; i += 1) {
        const offset = (who * 8 + i) * length;
        const data = new Uint8Array(length).fill(who * 8 + i + 1);
        const wrote = one.ask(COMMAND.WRITE, { offset, data });
        expect((await wrote).error).toBe(0);
        look();
        expect((await one.ask(COMMAND.READ, { offset, length })).data).toEqual(data);
        look();
      }
    });
    for (let turns = 0; turns < 20; turns += 1) await tick();
    expect(server.stats().clients.map(({ waits }) => waits)).toEqual([false, true, true, true]);
    expect(server.stats().heldBytes).toBe(length);
    gone.socket.destroy();
    await Promise.all(works);
    await tick();
    expect(server.stats().heldBytes).toBe(0);
    // And small answers, which are not asked for.
    expect(most).toBeLessThanOrEqual(length + KIB);
  });
});
