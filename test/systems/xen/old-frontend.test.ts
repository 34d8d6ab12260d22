// The frontends of history: what each makes of EOPNOTSUPP, and that the kit finds a success that is none, in one request
// or two, and nothing in an era that tells.

import { describe, expect, test } from 'vitest';
import {
  IoScheduler,
  MemoryStorage,
  parseProgram,
  type Request,
  type TraceEvent,
  WriteBarrierError,
} from 'write-barrier';
import { checkTrace, type VolatileDisk } from 'write-barrier/testing';
import type { BlkifServing } from '../../../src/systems/xen/backend.js';
import { blkback } from '../../../src/systems/xen/backend.js';
import type { BlkFeatures } from '../../../src/systems/xen/features.js';
import { type GrantTable, grantTable } from '../../../src/systems/xen/grants.js';
import { BLKBACK_ERAS, oldBlkback } from '../../../src/systems/xen/old-backend.js';
import {
  BLKFRONT_ERAS,
  type BlkfrontEra,
  OldBlkfront,
} from '../../../src/systems/xen/old-frontend.js';
import type { BlkifRequest } from '../../../src/systems/xen/wire.js';
import { codeThrown } from '../../storage/contract.js';
import { anyFailure, logTest, markAt, noFailure, recordAt, sector } from './log.js';

const MODERN = BLKFRONT_ERAS['linux-5.x'];
const OLDER = BLKFRONT_ERAS['linux-3.x'];
const XENLINUX = BLKFRONT_ERAS['linux-2.6.32'];

/** What a frontend reads at the start; the backend may think otherwise by the time it is asked. */
const BARRIERS = { 'feature-barrier': '1', 'feature-flush-cache': '0' };
const FLUSHES = { 'feature-barrier': '1', 'feature-flush-cache': '1' };

interface Bench {
  readonly frontend: OldBlkfront;
  readonly sent: BlkifRequest[];
  readonly events: TraceEvent[];
  submit(program: string): Promise<string>;
}

/** A frontend of an era in front of whatever serves. */
function benchOf(
  era: BlkfrontEra,
  serving: (grants: GrantTable) => BlkifServing,
  nodes: object = BARRIERS,
): Bench {
  const grants = grantTable(64);
  const backend = serving(grants);
  const sent: BlkifRequest[] = [];
  const events: TraceEvent[] = [];
  const frontend = new OldBlkfront(era, {
    nodes: { ...backend.nodes, ...nodes },
    grants,
    send: (request) => {
      sent.push(request);
      return backend.serve(request);
    },
    observer: (event) => void events.push(event),
  });
  const submit = async (program: string): Promise<string> => {
    const outcomes: string[] = [];
    for (const request of parseProgram(program, { blockSize: 512 })) {
      try {
        await frontend.submit(request, dataOf(request));
        outcomes.push('done');
      } catch (error) {
        outcomes.push(WriteBarrierError.is(error) ? error.code : String(error));
      }
    }
    return outcomes.join(' ');
  };
  return { frontend, sent, events, submit };
}

function dataOf(request: Request): Uint8Array | undefined {
  return 'length' in request ? new Uint8Array(request.length).fill(7) : undefined;
}

/** A backend over memory that takes no barrier, whatever its nodes said when the guest came up. */
function reluctant(medium: MemoryStorage, offer: Partial<BlkFeatures>) {
  return ({ page }: GrantTable): BlkifServing => blkback(new IoScheduler(medium), { page, offer });
}

const NEITHER = { barrier: false, flush: false };
const memory = (): MemoryStorage => new MemoryStorage(64 * 512);
const operations = ({ sent }: Bench): string =>
  sent
    .map(({ operation, ...request }) => {
      const empty = request.kind === 'transfer' && request.nrSegments === 0;
      return `${operation}${empty ? '-' : ''}`;
    })
    .join(' ');

describe('given a backend that does not take barriers any more', () => {
  test('when a forced write comes back, then a modern frontend says done, and the data is nowhere', async () => {
    const medium = memory();
    const bench = benchOf(MODERN, reluctant(medium, NEITHER));
    expect(await bench.submit('w3!')).toBe('done');
    expect(medium.bytes[3 * 512]).toBe(0);
    expect(checkTrace(bench.events, 'NONE').map(({ rule }) => rule)).toEqual(['C8']);
  });

  test('when a flush comes back, then it says done as well, and never flushes again', async () => {
    const bench = benchOf(MODERN, reluctant(memory(), NEITHER), FLUSHES);
    expect(await bench.submit('f f w0!')).toBe('done done done');
    expect(operations(bench)).toBe('3- 1');
    expect(bench.frontend.choice.operation).toBeUndefined();
    const rules = checkTrace(bench.events, 'NONE').map(({ rule }) => rule);
    expect(rules).toContain('C8');
  });

  test('when the one of 3.x sends the next, then it is a read: of nothing, or over the data', async () => {
    const medium = memory();
    medium.bytes.fill(9);
    const bench = benchOf(OLDER, reluctant(medium, NEITHER));
    expect(await bench.submit('w3! w4! f')).toBe('done done IO_FAILED');
    expect(operations(bench)).toBe('2 0 0-');
    expect([medium.bytes[3 * 512], medium.bytes[4 * 512]]).toEqual([9, 9]);
    expect(checkTrace(bench.events.slice(0, 8), 'NONE').map(({ rule }) => rule)).toContain('C2');
    const mine = sector(5);
    const forced = { kind: 'write', offset: 0, length: 512, fua: true } as const;
    await bench.frontend.submit(forced, mine);
    expect(mine).toEqual(sector(5));
  });

  test('when the one of 2.6.32 hears it, then it tells, sends no more, and writes plainly', async () => {
    const medium = memory();
    const bench = benchOf(XENLINUX, reluctant(medium, NEITHER));
    expect(await bench.submit('b3 b4 w3 b')).toBe('EOPNOTSUPP EOPNOTSUPP done EOPNOTSUPP');
    expect(operations(bench)).toBe('2 1');
    expect(medium.bytes[3 * 512]).toBe(7);
  });

  test('when a write fails for another reason, then every era says so', async () => {
    for (const era of [MODERN, OLDER, XENLINUX]) {
      const bench = benchOf(era, ({ page }) => {
        const backend = blkback(new IoScheduler(memory()), { page });
        return { nodes: backend.nodes, serve: async (request) => ({ ...request, status: -1 }) };
      });
      const forced = era === XENLINUX ? 'b3' : 'w3!';
      expect(await bench.submit(`${forced} w3 r3`)).toBe('IO_FAILED IO_FAILED IO_FAILED');
      const { operation } = bench.frontend.choice;
      expect(operation).toBe(era === XENLINUX ? 2 : undefined);
    }
  });
});

// Of the backends of 2006 a flush without data is an ERROR, which modern frontends take for EOPNOTSUPP, hence for success.
test('given a backend that knows no empty barrier, when a modern frontend flushes, then it says done, and 2.6.32 does not', async () => {
  const oldest = ({ page }: GrantTable) =>
    oldBlkback(BLKBACK_ERAS['xenlinux-2006'], memory(), { page });
  expect(await benchOf(MODERN, oldest).submit('f')).toBe('done');
  expect(await benchOf(XENLINUX, oldest).submit('b')).toBe('IO_FAILED');
});

describe('given a driver of an era', () => {
  test('when it gets what the queue above would not send, then that is misuse', async () => {
    const modern = benchOf(MODERN, reluctant(memory(), {}), FLUSHES);
    const forcing = benchOf(MODERN, reluctant(memory(), {}));
    const old = benchOf(XENLINUX, reluctant(memory(), {}));
    const cases: readonly (readonly [Bench, string])[] = [
      [modern, 'b0'],
      [modern, 'w0!'],
      [modern, 'fw0'],
      [forcing, 'fw0!'],
      [old, 'w0!'],
      [old, 'fw0'],
      [modern, 'd0'],
      [modern, 'w0+89'],
    ];
    for (const [bench, program] of cases)
      expect(await bench.submit(program)).toBe('INVALID_ARGUMENT');
    expect([...modern.sent, ...forcing.sent, ...old.sent]).toEqual([]);
    const write = { kind: 'write', offset: 0, length: 512 } as const;
    expect(await codeThrown(() => modern.frontend.submit(write))).toBe('INVALID_ARGUMENT');
  });

  test('when all is well, then data goes both ways, in one request each', async () => {
    const medium = memory();
    const bench = benchOf(MODERN, reluctant(medium, {}));
    expect(await bench.submit('w3+2! f')).toBe('done done');
    const into = new Uint8Array(1024);
    await bench.frontend.submit({ kind: 'read', offset: 3 * 512, length: 1024 }, into);
    expect(into.every((byte) => byte === 7)).toBe(true);
    expect(operations(bench)).toBe('2 2- 0');
    expect(checkTrace(bench.events, 'NONE')).toEqual([]);
  });
});

// The kit

/** A log in a guest with a driver of that era, on a backend that takes something back before its nth request. */
function logOver(
  era: BlkfrontEra,
  append: (frontend: OldBlkfront, n: number) => Promise<unknown>,
  serving: (disk: VolatileDisk, grants: GrantTable) => BlkifServing,
  nodes: object = BARRIERS,
) {
  return logTest((disk) => {
    const grants = grantTable(64);
    const backend = serving(disk, grants);
    const frontend = new OldBlkfront(era, {
      nodes: { ...backend.nodes, ...nodes },
      grants,
      send: backend.serve,
    });
    return { append: (n) => append(frontend, n), idle: async () => {} };
  });
}

const put = (offset: number, flags: object = {}): Request => ({
  kind: 'write',
  offset,
  length: 512,
  ...flags,
});
const flush: Request = { kind: 'flush' };

/** As a file system since 2.6.37: it waits, and the mark is forced behind a flush. */
const forced = async (frontend: OldBlkfront, n: number): Promise<void> => {
  await frontend.submit(put(recordAt(n)), sector(n + 1));
  await frontend.submit(flush);
  await frontend.submit(put(markAt(n), { fua: true }), sector(n + 1));
};
/** The same with nothing but flushes. */
const flushed = async (frontend: OldBlkfront, n: number): Promise<void> => {
  await frontend.submit(put(recordAt(n)), sector(n + 1));
  await frontend.submit(flush);
  await frontend.submit(put(markAt(n)), sector(n + 1));
  await frontend.submit(flush);
};

const ours =
  (at: number, change: Partial<BlkFeatures>) =>
  (disk: VolatileDisk, { page }: GrantTable): BlkifServing => {
    const backend = blkback(new IoScheduler(disk), { page });
    let requests = 0;
    return {
      nodes: backend.nodes,
      serve: (request) => {
        if (requests === at) backend.offer(change);
        requests += 1;
        return backend.serve(request);
      },
    };
  };
const NEVER = Number.POSITIVE_INFINITY;

describe('given a log in a guest, when the power fails at any moment', () => {
  test('a refused barrier that is called done loses an acknowledged record', async () => {
    const found = await anyFailure(logOver(MODERN, forced, ours(2, NEITHER)));
    expect(found?.failure?.message).toMatch(/record 0 was acknowledged/);
    const telling = { ...MODERN, unsupported: 'told' } as const;
    await noFailure(logOver(telling, forced, ours(2, NEITHER)));
    await noFailure(logOver(MODERN, forced, ours(NEVER, {})));
  });

  test('a refused flush that is called done lets a mark pass its record', async () => {
    const found = await anyFailure(logOver(MODERN, flushed, ours(1, NEITHER), FLUSHES));
    expect(found?.failure?.message).toMatch(/without its record|was acknowledged/);
    const telling = { ...MODERN, unsupported: 'told' } as const;
    await noFailure(logOver(telling, flushed, ours(1, NEITHER), FLUSHES));
    await noFailure(logOver(MODERN, flushed, ours(NEVER, {}), FLUSHES));
  });

  test('a mark that is sent as a read loses an acknowledged record', async () => {
    // The first refusal hits a flush with nothing to lose; all that comes later is sent with the operation 0.
    const first = async (frontend: OldBlkfront, n: number): Promise<void> => {
      if (n === 0) await frontend.submit(flush);
      await frontend.submit(put(markAt(n), { fua: true }), sector(n + 1));
    };
    const bareMarks = (era: BlkfrontEra) => ({
      ...logOver(era, first, ours(0, NEITHER)),
      check: (_: number, { acknowledged }: { readonly acknowledged: readonly number[] }) =>
        acknowledged.length === 0,
    });
    const found = await anyFailure(bareMarks(OLDER));
    expect(found?.failure?.message).toMatch(/returned false/);
    await noFailure(bareMarks({ ...OLDER, afterDowngrade: 'refused' }));
  });

  // Each end is as it was: the frontend takes a barrier for a forced write, the backend does not force it.
  test('a barrier of 3.2 taken for a forced write loses an acknowledged record', async () => {
    const over =
      (name: keyof typeof BLKBACK_ERAS) =>
      (disk: VolatileDisk, { page }: GrantTable) =>
        oldBlkback(BLKBACK_ERAS[name], disk, { page });
    const found = await anyFailure(logOver(MODERN, forced, over('linux-3.2')));
    expect(found?.failure?.message).toMatch(/record \d was acknowledged/);
    await noFailure(logOver(MODERN, forced, over('xenlinux-2.6.18')));
    await noFailure(logOver(MODERN, flushed, over('linux-3.2'), FLUSHES));
  });
});
