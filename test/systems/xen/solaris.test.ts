// The disk driver of a Solaris guest: the three ways to flush, how it finds the one that works, and that nothing is lost.
// What each way costs is in pages.test.ts.

import { describe, expect, test } from 'vitest';
import { IoScheduler, WriteBarrierError } from 'write-barrier';
import { VolatileDisk } from 'write-barrier/testing';
import type { BlkifServing } from '../../../src/systems/xen/backend.js';
import { blkback } from '../../../src/systems/xen/backend.js';
import type { BlkFeatures, XenNodes } from '../../../src/systems/xen/features.js';
import { type GrantTable, grantTable } from '../../../src/systems/xen/grants.js';
import {
  BLKBACK_ERAS,
  type BlkbackEraName,
  oldBlkback,
} from '../../../src/systems/xen/old-backend.js';
import { BlkFrontRing } from '../../../src/systems/xen/ring.js';
import {
  SOLARIS_FLUSH_WAYS,
  SolarisDisk,
  type SolarisFlushWay,
  type SolarisOptions,
} from '../../../src/systems/xen/solaris.js';
import type { BlkifRequest } from '../../../src/systems/xen/wire.js';
import { codeThrown } from '../../storage/contract.js';
import {
  acknowledged,
  anyFailure,
  logTest,
  markAt,
  noFailure,
  RECORDS,
  recordAt,
  sector,
} from './log.js';
import { settled } from './support.js';

const NODES: XenNodes = { sectors: '128', 'feature-barrier': '1', 'feature-flush-cache': '1' };
const WORDS = ['r', 'w', 'b', 'f'];

/** A backend that is the test: requests wait until they are answered. */
class Bench {
  readonly grants = grantTable(64);
  readonly log: string[] = [];
  readonly #waiting: { name: string; request: BlkifRequest; end: (status: number) => void }[] = [];

  attach(options: Partial<SolarisOptions> = {}): Promise<SolarisDisk> {
    return SolarisDisk.attach({
      nodes: NODES,
      grants: this.grants,
      send: (request) =>
        new Promise((resolve) => {
          const name = nameOf(request);
          const { id, operation } = request;
          this.log.push(name);
          const end = (status: number): void => resolve({ id, operation, status });
          this.#waiting.push({ name, request, end });
        }),
      ...options,
    });
  }

  get out(): string {
    return this.#waiting.map(({ name }) => name).join(' ');
  }

  /** What the oldest request of that name carries, as the first byte of its first page. */
  payload(name: string): number | undefined {
    const found = this.#waiting.find((waiting) => waiting.name === name)?.request;
    const gref = found?.kind === 'transfer' ? found.segments[0]?.gref : undefined;
    return gref === undefined ? undefined : this.grants.page(gref)?.[0];
  }

  async answer(name: string, status = 0): Promise<void> {
    await settled();
    const at = this.#waiting.findIndex((waiting) => waiting.name === name);
    if (at < 0) throw new Error(`${name} is not out; out: ${this.out}`);
    this.#waiting.splice(at, 1)[0]?.end(status);
    await settled();
  }
}

/** `w8` is a write at sector 8; `b` and `f` have no segments. */
function nameOf(request: BlkifRequest): string {
  if (request.kind !== 'transfer') return '?';
  const word = WORDS[request.operation] as string;
  return request.nrSegments === 0 ? word : `${word}${request.sector}`;
}

function watch(command: Promise<unknown>): { outcome: string } {
  const watched = { outcome: '-' };
  command.then(
    () => {
      watched.outcome = 'done';
    },
    (error) => {
      watched.outcome = WriteBarrierError.is(error) ? error.code : String(error);
    },
  );
  return watched;
}

describe('given a backend, when the driver attaches, then it flushes by', () => {
  const over = async (serving: (grants: GrantTable) => BlkifServing): Promise<string> => {
    const grants = grantTable(32);
    const backend = serving(grants);
    const { nodes, serve } = backend;
    const disk = await SolarisDisk.attach({ nodes, send: (request) => serve(request), grants });
    return disk.way ?? 'nothing';
  };
  const ours =
    (offer: Partial<BlkFeatures>) =>
    ({ page }: GrantTable) =>
      blkback(new IoScheduler(new VolatileDisk({ size: 65_536, profile: 'scsi-tags' })), {
        page,
        offer,
      });
  const old =
    (name: BlkbackEraName) =>
    ({ page }: GrantTable) =>
      oldBlkback(BLKBACK_ERAS[name], new VolatileDisk({ size: 65_536, profile: 'scsi-tags' }), {
        page,
      });

  test.each<[string, SolarisFlushWay | 'nothing', (grants: GrantTable) => BlkifServing]>([
    ['our own', 'flush operation', ours({})],
    ['our own without flushes', 'empty barrier', ours({ flush: false })],
    ['our own without either', 'nothing', ours({ flush: false, barrier: false })],
    ['that of 3.2', 'flush operation', old('linux-3.2')],
    ['that of 2.6.18', 'empty barrier', old('xenlinux-2.6.18')],
    // The trouble that the mail is about.
    ['that of 2006', 'old write', old('xenlinux-2006')],
  ])('%s: %s', async (_, way, serving) => {
    expect(await over(serving)).toBe(way);
  });

  test('whatever answers, though the nodes promise more', async () => {
    const bench = new Bench();
    const attaching = bench.attach();
    for (const name of ['f', 'b', 'r0', 'b0']) {
      await bench.answer(name, name === 'f' ? -2 : name === 'b' ? -1 : 0);
    }
    expect((await attaching).way).toBe('old write');
  });

  test('nothing, where nothing answers: then a flush is refused', async () => {
    const bench = new Bench();
    const attaching = bench.attach({ ways: ['flush operation', 'empty barrier'] });
    await bench.answer('f', -1);
    await bench.answer('b', -1);
    const disk = await attaching;
    expect(disk.way).toBeUndefined();
    expect(await codeThrown(() => disk.flushWriteCache())).toBe('EOPNOTSUPP');
  });
});

/** Attached, by that way, with the log emptied. */
async function attached(way: SolarisFlushWay, options: Partial<SolarisOptions> = {}) {
  const bench = new Bench();
  const attaching = bench.attach({ ways: [way], ...options });
  const tried = { 'flush operation': ['f'], 'empty barrier': ['b'], 'old write': ['r0', 'b0'] }[
    way
  ];
  for (const name of tried) await bench.answer(name);
  const disk = await attaching;
  bench.log.length = 0;
  return { bench, disk };
}

describe('given the write cache', () => {
  test('case 75: when it is disabled, then every write is a barrier; when it is enabled, a plain write', async () => {
    const { bench, disk } = await attached('flush operation', { writeCache: false });
    const first = watch(disk.write(8 * 512, sector(1)));
    await bench.answer('b8');
    disk.writeCache = true;
    const second = watch(disk.write(16 * 512, sector(1)));
    await bench.answer('w16');
    disk.writeCache = false;
    watch(disk.write(24 * 512, sector(1)));
    await bench.answer('b24');
    expect([first.outcome, second.outcome, disk.writeCache]).toEqual(['done', 'done', false]);
  });

  test('when a pure flush is asked for, then it is a request without data', async () => {
    for (const [way, name] of [
      ['flush operation', 'f'],
      ['empty barrier', 'b'],
    ] as const) {
      const { bench, disk } = await attached(way);
      const flush = watch(disk.flushWriteCache());
      await settled();
      expect([bench.out, flush.outcome]).toEqual([name, '-']);
      await bench.answer(name);
      expect(flush.outcome).toBe('done');
    }
  });

  test('when it is disabled and a barrier is refused, then the write goes plain with a flush behind it', async () => {
    const { bench, disk } = await attached('flush operation', { writeCache: false });
    const write = watch(disk.write(8 * 512, sector(1)));
    await bench.answer('b8', -2);
    await bench.answer('w8');
    expect([bench.out, write.outcome]).toEqual(['f', '-']);
    await bench.answer('f');
    expect(write.outcome).toBe('done');
    const next = watch(disk.write(8 * 512, sector(1)));
    await bench.answer('w8');
    await bench.answer('f', -2);
    expect(next.outcome).toBe('EOPNOTSUPP');
  });

  test('when it is disabled and there is no barrier at all, then likewise', async () => {
    const nodes = { sectors: '128', 'feature-flush-cache': '1' };
    const { bench, disk } = await attached('flush operation', { writeCache: false, nodes });
    watch(disk.write(8 * 512, sector(1)));
    await bench.answer('w8');
    await bench.answer('f');
    expect(bench.log).toEqual(['w8', 'f']);
  });
});

describe('given the way by an old write', () => {
  test('when a flush is asked for, then the last write that was done is written again, as a barrier', async () => {
    const { bench, disk } = await attached('old write');
    const writes = [disk.write(8 * 512, sector(1)), disk.write(16 * 512, sector(2))].map(watch);
    await bench.answer('w16');
    await bench.answer('w8');
    const flush = watch(disk.flushWriteCache());
    await settled();
    expect([bench.out, bench.payload('b8')]).toEqual(['b8', 1]);
    await bench.answer('b8');
    expect([...writes, flush].map(({ outcome }) => outcome)).toEqual(['done', 'done', 'done']);
  });

  test('when it is written over meanwhile, then it never comes back', async () => {
    const { bench, disk } = await attached('old write');
    watch(disk.write(8 * 512, sector(1)));
    await bench.answer('w8');
    watch(disk.write(8 * 512, sector(2)));
    const flush = watch(disk.flushWriteCache());
    await settled();
    expect(bench.out).toBe('w8');
    await bench.answer('w8');
    expect([bench.out, bench.payload('b8'), flush.outcome]).toEqual(['b8', 2, '-']);
    await bench.answer('b8');
    expect(flush.outcome).toBe('done');
  });

  test('when the one that wrote over it fails, then a block is read, and written as it is', async () => {
    const { bench, disk } = await attached('old write');
    watch(disk.write(8 * 512, sector(1)));
    await bench.answer('w8');
    const failed = watch(disk.write(8 * 512, sector(2)));
    await bench.answer('w8', -1);
    const flush = watch(disk.flushWriteCache());
    await bench.answer('r0');
    await bench.answer('b0');
    expect([failed.outcome, flush.outcome]).toEqual(['IO_FAILED', 'done']);
  });

  test('while it is written again, then other writes wait, and reads do not', async () => {
    const { bench, disk } = await attached('old write');
    watch(disk.write(8 * 512, sector(1)));
    await bench.answer('w8');
    const flushes = [watch(disk.flushWriteCache()), watch(disk.flushWriteCache())];
    const write = watch(disk.write(8 * 512, sector(2)));
    watch(disk.read(8 * 512, sector(0)));
    await settled();
    expect(bench.out).toBe('b8 r8');
    await bench.answer('b8');
    watch(disk.write(24 * 512, sector(3)));
    await settled();
    expect(bench.out).toBe('r8 b8');
    await bench.answer('b8');
    expect(bench.out).toBe('r8 w8 w24');
    await bench.answer('w8');
    expect([...flushes, write].map(({ outcome }) => outcome)).toEqual(['done', 'done', 'done']);
  });
});

describe('given a flush that fails', () => {
  test('when it comes back as EOPNOTSUPP, then the next way is taken at once', async () => {
    const bench = new Bench();
    const attaching = bench.attach();
    await bench.answer('f');
    const disk = await attaching;
    const flush = watch(disk.flushWriteCache());
    await bench.answer('f', -2);
    await bench.answer('b');
    expect([flush.outcome, disk.way]).toEqual(['done', 'empty barrier']);
  });

  // A flush behind a failed one succeeds without what that one lost.
  test('when it comes back as ERROR, then that is told, and no other way makes it a success', async () => {
    const bench = new Bench();
    const attaching = bench.attach();
    await bench.answer('f');
    const disk = await attaching;
    const flush = watch(disk.flushWriteCache());
    await bench.answer('f', -1);
    expect([flush.outcome, bench.out, disk.way]).toEqual(['IO_FAILED', '', 'flush operation']);
  });

  test('when an empty barrier that was never tried is an ERROR, then that is told, and it is not tried again', async () => {
    const bench = new Bench();
    const attaching = bench.attach();
    await bench.answer('f');
    const disk = await attaching;
    const first = watch(disk.flushWriteCache());
    await bench.answer('f', -2);
    await bench.answer('b', -1);
    expect([first.outcome, disk.way]).toEqual(['IO_FAILED', 'old write']);
    const second = watch(disk.flushWriteCache());
    await bench.answer('r0');
    await bench.answer('b0');
    expect(second.outcome).toBe('done');
  });
});

test('given a range that the disk does not have, when it is asked for, then that is refused and not sent', async () => {
  const { bench, disk } = await attached('flush operation');
  expect(await codeThrown(() => disk.write(128 * 512, sector(1)))).toBe('OUT_OF_RANGE');
  expect(await codeThrown(() => disk.read(1, sector(1)))).toBe('UNALIGNED');
  expect(bench.log).toEqual([]);
});

test('given a transfer of more than a request, when it is moved, then nothing is missing', async () => {
  const device = new VolatileDisk({ size: 1 << 20, profile: 'scsi-tags' });
  const grants = grantTable(32);
  const { nodes, serve } = blkback(new IoScheduler(device), { page: grants.page });
  const disk = await SolarisDisk.attach({ nodes, send: serve, grants, writeCache: false });
  const data = Uint8Array.from({ length: 512 * 200 }, (_, at) => (at * 13) % 241);
  await disk.write(512, data);
  const into = new Uint8Array(data.length);
  await disk.read(512, into);
  expect(into).toEqual(data);
  expect(grants.free).toBe(32);
});

test('given a request that could not be sent, or was not answered, then the pages of the first come back', async () => {
  const { nodes } = blkback(
    new IoScheduler(new VolatileDisk({ size: 1 << 16, profile: 'scsi-tags' })),
    {
      page: () => undefined,
    },
  );
  const ring = new BlkFrontRing(new Uint8Array(64 + 112), { layout: 'x86-64', notify: () => {} });
  const grants = grantTable(8);
  const attach = { nodes, send: ring.send, grants, ways: [] };
  const disk = await SolarisDisk.attach(attach);
  const unanswered = disk.write(0, sector(1));
  expect(await codeThrown(() => disk.write(0, sector(1)))).toBe('QUEUE_FULL');
  expect(grants.free).toBe(7);
  ring.close();
  expect(await codeThrown(() => unanswered)).toBe('CLOSED');
  expect(await codeThrown(() => disk.write(0, sector(1)))).toBe('CLOSED');
  expect(grants.free).toBe(7);
});

// Power cuts

describe('given a log in a Solaris guest, when the power fails at any moment', () => {
  /** With the cache enabled: the record, a flush, the mark, a flush. Disabled: one after the other. */
  const logOver = (
    serving: (disk: VolatileDisk, grants: GrantTable) => BlkifServing,
    options: Partial<SolarisOptions>,
    flushes: boolean,
  ) =>
    logTest(async (disk) => {
      const grants = grantTable(32);
      const { nodes, serve } = serving(disk, grants);
      const send: SolarisOptions['send'] = (request) => serve(request);
      // What the driver keeps for itself is the last block, which the log does not use.
      const solaris = await SolarisDisk.attach({ nodes, send, grants, ...options });
      return {
        append: async (n) => {
          await solaris.write(recordAt(n), sector(n + 1));
          if (flushes) await solaris.flushWriteCache();
          await solaris.write(markAt(n), sector(n + 1));
          if (flushes) await solaris.flushWriteCache();
        },
        idle: async () => {},
      };
    });
  const ours = (disk: VolatileDisk, { page }: GrantTable) =>
    blkback(new IoScheduler(disk), { page });
  const old =
    (name: BlkbackEraName) =>
    (disk: VolatileDisk, { page }: GrantTable) =>
      oldBlkback(BLKBACK_ERAS[name], disk, { page });

  test.each(SOLARIS_FLUSH_WAYS)('with the cache enabled, by %s: nothing is lost', async (way) => {
    const reports = await noFailure(logOver(ours, { ways: [way] }, true));
    expect(reports.map(acknowledged)).toEqual(reports.map(() => RECORDS));
  });

  test('with the cache disabled and no flush at all: nothing is lost', async () => {
    const reports = await noFailure(logOver(ours, { writeCache: false }, false));
    expect(reports.map(acknowledged)).toEqual(reports.map(() => RECORDS));
    await noFailure(logOver(old('xenlinux-2006'), { writeCache: false }, false));
  });

  // What the mail believes of a barrier is not so any more.
  test('with the cache disabled over the backend of 3.2: an acknowledged record is lost', async () => {
    const found = await anyFailure(logOver(old('linux-3.2'), { writeCache: false }, false));
    expect(found?.failure?.message).toMatch(/record \d was acknowledged|without its record/);
  });

  test('by an old write over the backends of 2006 and of 3.2: nothing is lost', async () => {
    for (const name of ['xenlinux-2006', 'linux-3.2'] as const) {
      const reports = await noFailure(logOver(old(name), { ways: ['old write'] }, true));
      expect(reports.map(acknowledged)).toEqual(reports.map(() => RECORDS));
    }
  });
});

test('given sectors that no request can carry, then the driver does not attach, instead of sending nothing for ever', async () => {
  for (const sectorSize of [12 * 4096, 65_536]) {
    const nodes = { ...NODES, sectors: '12288', 'sector-size': String(sectorSize) };
    const attached = new Bench().attach({ nodes });
    await expect(attached).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  }
  const sectorSize = 11 * 4096;
  const nodes = {
    ...NODES,
    sectors: String(88 * 16),
    'sector-size': String(sectorSize),
    'feature-flush-cache': '0',
    'feature-barrier': '0',
  };
  await expect(new Bench().attach({ nodes })).resolves.toMatchObject({ way: undefined });
});
