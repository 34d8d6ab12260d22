// Every options object of `write-barrier/systems`: a key that is not known is refused, because an option that is misspelt
// is one that is not set; and a value that is refused is shown with its type.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, WriteBarrierError } from 'write-barrier';
import * as door from 'write-barrier/systems';
import * as tapdisk from '../../src/systems/blktap/tapdisk.js';
import * as queues from '../../src/systems/linux/queues.js';
import { QEMU_2009 } from '../../src/systems/qemu/aio.js';
import * as qemu from '../../src/systems/qemu/process.js';
import { oldBlkback } from '../../src/systems/xen/old-backend.js';
import { OldBlkfront } from '../../src/systems/xen/old-frontend.js';
import { SolarisDisk } from '../../src/systems/xen/solaris.js';

const systems = {
  ...{ ...door, ...tapdisk, ...queues, ...qemu },
  ...{ QEMU_2009, oldBlkback, OldBlkfront, SolarisDisk },
};

/** What a program in JavaScript hands in. */
type Options = Readonly<Record<string, unknown>>;

const memory = (): MemoryStorage => new MemoryStorage(64 * 512);
const scheduler = (): IoScheduler => new IoScheduler(memory());
const ring = (): Uint8Array => new Uint8Array(4096);
const nodes = { sectors: '64', 'feature-flush-cache': '1' };
const page = (): undefined => undefined;
const send = (): Promise<never> => new Promise(() => {});
const file = { size: 4096, read: () => {}, write: () => {}, sync: () => {} };
const grants = systems.grantTable(16);
const front = (): door.BlkFrontRing =>
  new systems.BlkFrontRing(ring(), { layout: 'x86-64', notify: () => {} });

interface Taker {
  /** The interface that declares the options. */
  readonly of: string;
  /** What must be there. */
  readonly needs: Options;
  /** A misspelt key, and what the message takes it for. */
  readonly misspelt: readonly [string, string];
  /** A wrong value, and how it is shown. */
  readonly wrong: readonly [name: string, value: unknown, shown: string];
  // biome-ignore lint/suspicious/noExplicitAny: options of programs that no compiler has seen
  readonly take: (options: any) => unknown;
}

const TAKERS: readonly Taker[] = [
  {
    of: 'SystemOptions',
    needs: { storage: memory() },
    misspelt: ['threadMax', 'threadsMax'],
    wrong: ['threadsMax', 4n, '4n'],
    take: (options) => systems.openSystem('qemu-2009', options),
  },
  {
    of: 'LinuxBarrierQueueOptions',
    needs: { era: '2.6.32' },
    misspelt: ['mergeByteMax', 'mergeBytesMax'],
    wrong: ['disk', 'floppy', "'floppy'"],
    take: (options) => new systems.LinuxBarrierQueue(memory(), options),
  },
  {
    of: 'LinuxFlushQueueOptions',
    needs: { era: '2.6.37' },
    misspelt: ['nowMS', 'nowMs'],
    wrong: ['depth', '4', "'4'"],
    take: (options) => new systems.LinuxFlushQueue(memory(), options),
  },
  {
    of: 'QemuOptions',
    needs: {},
    misspelt: ['threadMax', 'threadsMax'],
    wrong: ['threadsMax', 4n, '4n'],
    take: (options) => new systems.QemuProcess(options),
  },
  {
    of: 'AioProfile',
    needs: systems.QEMU_2009 as unknown as Options,
    misspelt: ['wakesOneForAl', 'wakesOneForAll'],
    wrong: ['wakes', 1, 'wakes'],
    take: (profile) => new systems.QemuProcess({ profile }),
  },
  {
    of: 'QemuDiskOptions',
    needs: {},
    misspelt: ['flag', 'flags'],
    wrong: ['flags', ['O_SYNC'], "'O_SYNC'"],
    take: (options) => new systems.QemuProcess().open(memory(), options),
  },
  {
    of: 'TapdiskOptions',
    needs: {},
    misspelt: ['deph', 'depth'],
    wrong: ['context', 'async', "'async'"],
    take: (options) => new systems.Tapdisk(memory(), options),
  },
  {
    of: 'TapdiskProfile',
    needs: systems.TAPDISK_2010 as unknown as Options,
    misspelt: ['refuseBarriers', 'refusesBarriers'],
    wrong: ['refuses', 1, 'refuses'],
    take: (profile) => new systems.Tapdisk(memory(), { profile }),
  },
  {
    of: 'SyncWriteOptions',
    needs: {},
    misspelt: ['barier', 'barrier'],
    wrong: ['fua', 'yes', "'yes'"],
    take: (options) => new systems.SyncFileBarriers(file).write(0, new Uint8Array(512), options),
  },
  {
    of: 'VirtioBackendOptions',
    needs: {},
    misspelt: ['readonly', 'readOnly'],
    wrong: ['queueSize', 0, '0'],
    take: (options) => new systems.VirtioBackend(scheduler(), options),
  },
  {
    of: 'VirtioRangeLimits',
    needs: { sectorsMax: 8, segmentsMax: 1 },
    misspelt: ['sectorMax', 'sectorsMax'],
    wrong: ['segmentsMax', Number.NaN, 'NaN'],
    take: (writeZeroes) => new systems.VirtioBackend(scheduler(), { writeZeroes }),
  },
  {
    of: 'VirtioStorageOptions',
    needs: {},
    misspelt: ['writeBack', 'writeback'],
    wrong: ['queueSize', '128', "'128'"],
    take: (options) => systems.virtioStorage(new systems.VirtioBackend(scheduler()), options),
  },
  {
    of: 'BlkBackRingOptions',
    needs: { layout: 'x86-64', serve: send, notify: () => {} },
    misspelt: ['brocken', 'broken'],
    wrong: ['serve', null, 'null'],
    take: (options) => systems.blkBackRing(ring(), options),
  },
  {
    of: 'BlkFrontRingOptions',
    needs: { layout: 'x86-64', notify: () => {} },
    misspelt: ['lay-out', 'layout'],
    wrong: ['layout', 'arm', "'arm'"],
    take: (options) => new systems.BlkFrontRing(ring(), options),
  },
  {
    of: 'BlkBackendOptions',
    needs: { page },
    misspelt: ['ofer', 'offer'],
    wrong: ['page', 7, '7'],
    take: (options) => systems.blkback(scheduler(), options),
  },
  {
    of: 'BlkFeatures',
    needs: {},
    misspelt: ['flash', 'flush'],
    wrong: ['indirectSegments', Number.NaN, 'NaN'],
    take: (offer) => systems.blkback(scheduler(), { page }).offer(offer),
  },
  {
    of: 'BlkFrontendOptions',
    needs: { nodes, ring: front(), grants },
    misspelt: ['withoutflush', 'withoutFlush'],
    wrong: ['withoutFlush', 'nothing', "'nothing'"],
    take: (options) => new systems.BlkFrontend(options),
  },
  {
    of: 'XenLoopbackOptions',
    needs: {},
    misspelt: ['page', 'pages'],
    wrong: ['pages', '512', "'512'"],
    take: (options) => systems.xenLoopback(scheduler(), options),
  },
  {
    of: 'OldBlkbackOptions',
    needs: { page },
    misspelt: ['bioPage', 'bioPages'],
    wrong: ['bioPages', -1, '-1'],
    take: (options) => systems.oldBlkback(systems.BLKBACK_ERAS['blktap-2010'], memory(), options),
  },
  {
    of: 'OldBlkfrontOptions',
    needs: { nodes, send, grants },
    misspelt: ['grant', 'grants'],
    wrong: ['send', 'me', "'me'"],
    take: (options) => new systems.OldBlkfront(systems.BLKFRONT_ERAS['linux-2.6.32'], options),
  },
  {
    of: 'SolarisOptions',
    needs: { nodes: { sectors: '64' }, send, grants },
    misspelt: ['writecache', 'writeCache'],
    wrong: ['writeCache', 'on', "'on'"],
    take: (options) => systems.SolarisDisk.attach(options),
  },
];

/** The error, thrown or rejected with. */
async function refusalOf(take: () => unknown): Promise<unknown> {
  try {
    return await take();
  } catch (error) {
    return error;
  }
}

test('the list has every interface of the folder that is called options, but those that others extend', () => {
  const declared = systemsSources().matchAll(/export interface (\w+Options)\b/g);
  const inner = ['LinuxQueueOptions', 'FlushMachineOptions', 'OrderedQueueOptions'];
  const listed = new Set<unknown>([...inner, ...TAKERS.map(({ of }) => of)]);
  expect([...declared].map(([, name]) => name).filter((name) => !listed.has(name))).toEqual([]);
});

describe.each(TAKERS)('$of', ({ needs, misspelt, wrong, take }) => {
  test('with what they need are taken', async () => {
    expect(await refusalOf(() => settledOr(take({ ...needs })))).not.toBeInstanceOf(Error);
  });

  test('with a misspelt key are refused, and the message names the one that is meant', async () => {
    const [key, meant] = misspelt;
    const refusal = await refusalOf(() => take({ ...needs, [key]: 1 }));
    expect(refusal).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(WriteBarrierError.is(refusal) && refusal.message).toContain(`'${key}'`);
    expect(WriteBarrierError.is(refusal) && refusal.message).toContain(`did you mean '${meant}'?`);
  });

  test('with a wrong value are refused, and the message shows it with its type', async () => {
    const [name, value, shown] = wrong;
    const refusal = await refusalOf(() => take({ ...needs, [name]: value }));
    expect(refusal).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(WriteBarrierError.is(refusal) && refusal.message).toContain(shown);
  });
});

test.each([[-1], [1], [Number.NaN], [0.5], ['0']])(
  'a `pick` of %o out of one worker is refused, instead of a step that no worker takes',
  async (picked) => {
    const process = new systems.QemuProcess({ pick: () => picked as number });
    const disk = process.open(memory());
    expect(() => disk.submit({ kind: 'read', offset: 0, length: 512 })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  },
);

/** What an option that is promised comes to, where it does not wait for ever. */
function settledOr(made: unknown): unknown {
  return made instanceof Promise ? Promise.race([made, undefined]) : made;
}

function systemsSources(): string {
  const root = fileURLToPath(new URL('../../src/systems/', import.meta.url));
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(join(root, name), 'utf8'))
    .join('\n');
}
