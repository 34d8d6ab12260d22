// The backends of history: what each does with a barrier, and that the kit finds what is wrong with it, in a program of
// two requests at most, and nothing in its twin in which that one field of the era is mended.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Capabilities,
  MemoryStorage,
  type Storage,
  type TraceEvent,
  WriteBarrierError,
} from 'write-barrier';
import { type CheckOptions, checkTrace, type VolatileDisk } from 'write-barrier/testing';
import { grantTable } from '../../../src/systems/xen/grants.js';
import {
  BLKBACK_ERAS,
  type BlkbackBarrier,
  type BlkbackEra,
  oldBlkback,
  RingThreads,
} from '../../../src/systems/xen/old-backend.js';
import { share } from '../../kit/amount.js';
import { ManualStorage } from '../../scheduler/world.js';
import { anyFailure, type Host, logTest, noFailure } from './log.js';
import { ask, messageOf, settled, statuses } from './support.js';

const LINUX_3_2 = BLKBACK_ERAS['linux-3.2'];
const MULTI_RING = BLKBACK_ERAS['linux-4.x-multi-ring'];
const XENLINUX = BLKBACK_ERAS['xenlinux-2.6.18'];
const BLKTAP = BLKBACK_ERAS['blktap-2010'];

/** The era with another kind of barrier. */
const mended = (era: BlkbackEra, change: Partial<BlkbackBarrier>): BlkbackEra => ({
  ...era,
  barrier: { ...era.barrier, ...change } as BlkbackBarrier,
});
const WHOLE = { holdsLater: true, payload: 'fua', waitsFor: 'device' } as const;

const DEVICE: Capabilities = { ...new ManualStorage().capabilities, orderedTags: false };

/** A backend of that era over a disk that answers when the test says so. */
function manual(era: BlkbackEra, { bioPages = 11, device = new ManualStorage(DEVICE) } = {}) {
  const grants = grantTable(64);
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => void events.push(event);
  const backend = oldBlkback(era, device, { page: grants.page, bioPages, observer });
  const send = (program: string, ring = 0) =>
    ask((request) => backend.serve(request, ring), grants, program);
  return { device, backend, events, send };
}

/** Runs programs, one for each ring, and tells which rules their trace breaks. */
async function broken(
  era: BlkbackEra,
  programs: readonly string[],
  { mode = 'DRAIN_FUA', bioPages = 11 }: Partial<CheckOptions> & { bioPages?: number } = {},
): Promise<string[]> {
  const world = manual(era, { bioPages });
  for (const [ring, program] of programs.entries()) world.send(program, ring);
  await world.device.drain();
  const { capabilities } = world.device;
  const rules = checkTrace(world.events, { mode, device: capabilities, readsPass: false });
  return [...new Set(rules.map(({ rule }) => rule))].sort();
}

describe('given the trace of a backend, when it is held to the mode of a whole barrier', () => {
  test('half a barrier is found in two requests: the later write is at the disk before it', async () => {
    expect(await broken(LINUX_3_2, ['b w1'])).toEqual(['C4']);
    expect(await broken(mended(LINUX_3_2, { holdsLater: true }), ['b w1'])).toEqual([]);
  });

  test('a payload that nobody forces is found in one request', async () => {
    expect(await broken(LINUX_3_2, ['b0'])).toEqual(['C2']);
    expect(await broken(mended(LINUX_3_2, { payload: 'fua' }), ['b0'])).toEqual([]);
  });

  test('a drain that looks at its own ring is found in one request for each of two rings', async () => {
    expect(await broken(MULTI_RING, ['b', 'w0'])).toEqual(['C4']);
    expect(await broken(MULTI_RING, ['w0', 'b'])).toEqual(['C3']);
    expect(await broken(mended(MULTI_RING, WHOLE), ['w0', 'b'])).toEqual([]);
    expect(await broken(mended(MULTI_RING, WHOLE), ['b', 'w0'])).toEqual([]);
  });

  test('a barrier for every bio is found in one request of two', async () => {
    expect(await broken(XENLINUX, ['b0+2'], { bioPages: 1 })).toEqual(['C2']);
    expect(await broken(XENLINUX, ['b0+2'], { bioPages: 2 })).toEqual([]);
  });

  // Nothing overlaps. Flushes are left out: here they cover what was answered, and do not wait for the rest.
  const requests = fc.oneof(
    fc.tuple(fc.constantFrom('w', 'r', 'b'), fc.nat(30)).map(([kind, at]) => `${kind}${at}`),
    fc.constant('b'),
  );
  const selector = (text: string): unknown => text.slice(1) || {};
  const programs = fc
    .uniqueArray(requests, { minLength: 1, maxLength: 8, selector })
    .map((list) => list.join(' '));

  test.each<[string, BlkbackEra, CheckOptions['mode']]>([
    ['the queue of 2.6.18', XENLINUX, 'DRAIN_FUA'],
    ['3.2, mended', mended(LINUX_3_2, WHOLE), 'DRAIN_FUA'],
    ['several rings, mended', mended(MULTI_RING, WHOLE), 'DRAIN_FUA'],
    ['blktap, which knows empty barriers', { ...BLKTAP, emptyBarrier: 'taken' }, 'DRAIN_FLUSH'],
  ])('no program is found to break %s', async (_, era, mode) => {
    const clean = fc.asyncProperty(programs, async (program) => {
      expect(await broken(era, [program], { mode })).toEqual([]);
    });
    await fc.assert(clean, { numRuns: share(300) });
  });
});

// The kit

/** A log whose host is a backend; `append` gets what sends a request over a ring and throws for a bad status. */
function logOn(
  era: BlkbackEra,
  append: (send: (text: string, ring?: number) => Promise<void>, n: number) => Promise<unknown>,
) {
  return logTest((disk: VolatileDisk): Host => {
    const grants = grantTable(64);
    const backend = oldBlkback(era, disk, { page: grants.page });
    const under = new Set<Promise<void>>();
    let fill = 1;
    const deliver = async (text: string, ring: number): Promise<void> => {
      const { request, loan } = messageOf(text, grants, 512, fill);
      const { status } = await backend.serve(request, ring);
      loan.end();
      if (status !== 0) throw new Error(`status ${status}`);
    };
    const send = (text: string, ring = 0): Promise<void> => {
      const delivery = deliver(text, ring);
      under.add(delivery);
      return delivery;
    };
    return {
      append: (n) => {
        fill = n + 1;
        return append(send, n);
      },
      idle: () => Promise.allSettled(under),
    };
  });
}

const record = (n: number): number => 2 * n;
const mark = (n: number): number => 2 * n + 1;

describe('given a log on a backend, when the power fails at any moment', () => {
  test('half a barrier lets the mark pass its record', async () => {
    // The record is a barrier, so that the mark comes after it; then a flush for both.
    const ordered: Parameters<typeof logOn>[1] = async (send, n) => {
      await Promise.all([send(`b${record(n)}`), send(`w${mark(n)}`)]);
      await send('f');
    };
    const found = await anyFailure(logOn(LINUX_3_2, ordered));
    expect(found?.failure?.message).toMatch(/mark 0 without its record/);
    await noFailure(logOn(mended(LINUX_3_2, { holdsLater: true, payload: 'fua' }), ordered));
  });

  test('a payload that is answered and still in the cache is lost', async () => {
    const byBarrier: Parameters<typeof logOn>[1] = (send, n) =>
      Promise.all([send(`w${record(n)}`), send(`b${mark(n)}`)]);
    const found = await anyFailure(logOn(LINUX_3_2, byBarrier));
    expect(found?.failure?.message).toMatch(/record \d was acknowledged/);
    await noFailure(logOn(mended(LINUX_3_2, { payload: 'fua' }), byBarrier));
    await noFailure(logOn(XENLINUX, byBarrier));
    await noFailure(logOn(BLKTAP, byBarrier));
  });

  test('a mark over one ring passes its record on another', async () => {
    const overTwo: Parameters<typeof logOn>[1] = async (send, n) => {
      await Promise.all([send(`w${record(n)}`, 1), send(`b${mark(n)}`, 0)]);
      await send('f');
    };
    const found = await anyFailure(logOn(MULTI_RING, overTwo));
    expect(found?.failure?.message).toMatch(/mark 0 without its record/);
    await noFailure(logOn(LINUX_3_2, overTwo));
  });
});

// What each does

describe('given a zero-segment request, when it is served', () => {
  const outcome = async (name: keyof typeof BLKBACK_ERAS, text: string): Promise<string> => {
    const { device, send } = manual(BLKBACK_ERAS[name]);
    const asked = send(text);
    await device.drain();
    await settled();
    return `${asked[0]?.status} ${device.log}`.trim();
  };

  test('case 59: a barrier is a flush, or, in the oldest, an error', async () => {
    expect(await outcome('xenlinux-2006', 'b')).toBe('-1');
    expect(await outcome('xenlinux-2.6.18', 'b')).toBe('0 F');
    expect(await outcome('linux-3.2', 'b')).toBe('0 F');
    expect(await outcome('linux-4.x-multi-ring', 'b')).toBe('0 F');
  });

  test('a flush is one where the operation is known', async () => {
    expect(await outcome('xenlinux-2006', 'f')).toBe('-2');
    expect(await outcome('xenlinux-2.6.18', 'f')).toBe('-2');
    expect(await outcome('linux-3.2', 'f')).toBe('0 F');
  });

  test('a plain write or read is an error everywhere', async () => {
    for (const era of Object.values(BLKBACK_ERAS)) {
      const backend = oldBlkback(era, new MemoryStorage(4096), { page: () => undefined });
      for (const operation of [0, 1]) {
        const empty = { nrSegments: 0, handle: 0, id: 1n, sector: 0n, segments: [] };
        const { status } = await backend.serve({ kind: 'transfer', operation, ...empty });
        expect(status).toBe(-1);
      }
    }
  });
});

describe('given a barrier among writes, when it arrives', () => {
  test('blktap waits for all, syncs, writes, waits, syncs, and only then goes on', async () => {
    const { device, send } = manual(BLKTAP);
    send('w0 w1 b2 w3');
    expect(device.inFlight).toBe('w0 w1');
    await device.answer('w1');
    expect(device.inFlight).toBe('w0');
    for (const command of ['w0', 'F', 'w2', 'F', 'w3']) {
      expect(device.inFlight).toContain(command);
      await device.answer(command);
    }
    expect(device.log).toBe('w0 w1 F w2 F w3');
  });

  test('blktap tells of a sync that fails, before the data and after it', async () => {
    const first = manual(BLKTAP);
    const refused = first.send('b2 w3');
    await settled();
    await first.device.fail('F');
    await first.device.drain();
    expect(statuses(refused)).toBe('b2:-1 w3:0');
    expect(first.device.log).toBe('F w3');
    const second = manual(BLKTAP);
    const written = second.send('b2');
    await second.device.answer('F');
    await second.device.answer('w2');
    await second.device.fail('F');
    expect(statuses(written)).toBe('b2:-1');
  });

  test('3.2 waits before it and goes on at once behind it', async () => {
    const { device, send } = manual(LINUX_3_2);
    send('w0 b1 w2');
    expect(device.inFlight).toBe('w0');
    await device.answer('w0');
    expect(device.inFlight).toBe('F w2');
    await device.answer('w2');
    await device.answer('F');
    expect(device.inFlight).toBe('w1');
  });

  test('2.6.18 pays two flushes for each bio, or a flush and a forced write', async () => {
    const perBio = manual(XENLINUX, {
      bioPages: 1,
      device: new ManualStorage({ ...DEVICE, fua: false }),
    });
    perBio.send('b0+3');
    await perBio.device.drain();
    expect(perBio.device.log).toBe('F w0 F F w1 F F w2 F');
    const whole = manual(XENLINUX, { bioPages: 3 });
    whole.send('b0+3');
    await whole.device.drain();
    expect(whole.device.log).toBe('F w0+3!');
  });
});

/** A storage whose commands end as the test says, with any error. */
class Judged implements Storage {
  readonly size = 64 * 4096;
  readonly capabilities = DEVICE;
  readonly #pending: { name: string; end: (error?: Error) => void }[] = [];

  #command(name: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = (error?: Error): void => (error ? reject(error) : resolve());
      this.#pending.push({ name, end });
    });
  }

  async end(name: string, code?: 'EOPNOTSUPP' | 'IO_FAILED'): Promise<void> {
    const at = this.#pending.findIndex((command) => command.name === name);
    const [command] = this.#pending.splice(at, at < 0 ? 0 : 1);
    if (!command) throw new Error(`${name} is not under way`);
    command.end(code && new WriteBarrierError(code, 'judged'));
    await settled();
  }

  read = () => this.#command('read');
  write = (offset: number) => this.#command(`w${offset / 4096}`);
  flush = () => this.#command('F');
  close = () => {};
}

// Two bios: the flush of the first is refused, the data of the second fails. Only the order of the two is different.
describe('given a barrier whose bios fail differently, when they end in either order', () => {
  const statusOf = async (era: BlkbackEra, refusedLast: boolean): Promise<number | undefined> => {
    const device = new Judged();
    const grants = grantTable(8);
    const events: TraceEvent[] = [];
    const observer = (event: TraceEvent): void => void events.push(event);
    const backend = oldBlkback(era, device, { page: grants.page, bioPages: 1, observer });
    const [asked] = ask(backend.serve, grants, 'b0+2');
    await settled();
    const refuse = (): Promise<void> => device.end('F', 'EOPNOTSUPP');
    const fail = async (): Promise<void> => {
      await device.end('F');
      await device.end('w0', 'IO_FAILED').catch(() => device.end('w1', 'IO_FAILED'));
    };
    if (refusedLast) {
      await fail();
      await refuse();
    } else {
      await refuse();
      await fail();
    }
    expect(backend.nodes['feature-barrier']).toBe(asked?.status === -2 ? '0' : '1');
    // A refusal says that nothing was written. The checker knows better.
    const rules = checkTrace(events, { mode: 'DRAIN_FUA', device: DEVICE }).map(({ rule }) => rule);
    expect(rules.includes('C13')).toBe(asked?.status === -2);
    return asked?.status;
  };

  test('the status is that of the last, so the error may be hidden behind a refusal', async () => {
    expect([await statusOf(LINUX_3_2, false), await statusOf(LINUX_3_2, true)]).toEqual([-1, -2]);
  });

  test('the node goes to 0 on a refusal, and a guest that goes on is served all the same', async () => {
    const device = new Judged();
    const grants = grantTable(8);
    const backend = oldBlkback(LINUX_3_2, device, { page: grants.page });
    const [first] = ask(backend.serve, grants, 'b');
    await device.end('F', 'EOPNOTSUPP');
    const [second] = ask(backend.serve, grants, 'b');
    await device.end('F');
    expect([first?.status, second?.status, backend.nodes['feature-barrier']]).toEqual([-2, 0, '0']);
  });

  test('mended, the error wins', async () => {
    const worst = { ...LINUX_3_2, status: 'worst' } as const;
    expect([await statusOf(worst, false), await statusOf(worst, true)]).toEqual([-1, -1]);
  });
});

test.each([0, -1, 1.5, Number.NaN])('given a bio of %d pages, then that is misuse', (bioPages) => {
  expect(() => manual(XENLINUX, { bioPages })).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
  );
});

test('given a grant table that throws, when a request needs a page, then that is an error, and the next one is served', async () => {
  const grants = grantTable(64);
  let broken = true;
  const page = (gref: number): Uint8Array | undefined => {
    if (broken) throw new Error('no such table');
    return grants.page(gref);
  };
  const device = new ManualStorage(DEVICE);
  const backend = oldBlkback(LINUX_3_2, device, { page });
  const [gref] = grants.lend(1) as [number];
  const segments = [{ gref, first: 0, last: 7 }];
  const read = { kind: 'transfer', operation: 0, nrSegments: 1, handle: 0, sector: 0n } as const;
  expect((await backend.serve({ ...read, id: 1n, segments })).status).toBe(-1);
  broken = false;
  const served = backend.serve({ ...read, id: 2n, segments });
  await device.drain();
  expect(await served).toMatchObject({ id: 2n, status: 0 });
});

test('given a disk with larger blocks, when half a block is written, then it is an error and touches nothing', async () => {
  for (const era of [XENLINUX, LINUX_3_2]) {
    const device = new ManualStorage(DEVICE);
    const grants = grantTable(8);
    const backend = oldBlkback(era, device, { page: grants.page });
    const [asked] = ask(backend.serve, grants, 'w1', 512);
    await settled();
    expect([asked?.status, device.log]).toEqual([-1, '']);
  }
});

interface Job {
  readonly ring: number;
  readonly barrier: boolean;
}

// RingThreads alone, without promises: any submissions and completions, on three rings.
describe('given any requests on any rings, when they end in any order', () => {
  const jobs = fc.array(fc.record({ ring: fc.nat(2), barrier: fc.boolean() }), { maxLength: 12 });
  const WAYS: readonly (readonly [name: string, BlkbackEra])[] = [
    ['3.2', LINUX_3_2],
    ['several rings', MULTI_RING],
    ['several rings, mended', mended(MULTI_RING, WHOLE)],
    ['2.6.18', XENLINUX],
  ];

  test.each(WAYS)('the threads of %s keep to their waiting, and nobody is stranded', (_, era) => {
    const ways = era.barrier;
    const sound = fc.property(jobs, fc.array(fc.nat()), (list, choices) => {
      const threads = new RingThreads<Job>(era);
      const all = list.map((job): Job => ({ ...job }));
      const outstanding: Job[] = [];
      const sent: Job[] = [];
      const inScope = (job: Job): Job[] =>
        ways.by === 'preflush' && ways.waitsFor === 'ring'
          ? outstanding.filter(({ ring }) => ring === job.ring)
          : outstanding;
      const take = (): void => {
        for (let job = threads.next(); job; job = threads.next()) {
          const before = all.slice(0, all.indexOf(job));
          const { ring } = job;
          expect(before.every((other) => other.ring !== ring || sent.includes(other))).toBe(true);
          if (ways.by === 'preflush' && job.barrier) expect(inScope(job)).toEqual([]);
          if (ways.by === 'preflush' && ways.holdsLater) {
            expect(inScope(job).some(({ barrier }) => barrier)).toBe(false);
          }
          outstanding.push(job);
          sent.push(job);
        }
      };
      for (const job of all) threads.submit(job);
      for (take(); outstanding.length > 0; take()) {
        const at = (choices.shift() ?? 0) % outstanding.length;
        threads.complete(outstanding.splice(at, 1)[0] as Job);
      }
      expect(sent).toHaveLength(all.length);
    });
    fc.assert(sound, { numRuns: share(500) });
  });
});
