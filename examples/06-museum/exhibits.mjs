// @ts-check
// The museum's inventory: who had barriers, and when. A row is a system of some year over a disk; those marked `ours` are
// this library's. What a row is worth is written nowhere:
// label.mjs finds out.

import { IoScheduler, WriteBarrierError } from 'write-barrier';
import { BLKBACK_ERAS as BACK, blkback, openSystem, systemOf } from 'write-barrier/systems';
import { ARRANGEMENTS, stackName, stackOf } from '../08-stacks/arrangements.mjs';

/** @import { ModeName, Storage } from 'write-barrier' */
/** @import { BlkbackEra, BlkifServing, GrantTable, SystemName, SystemOptions } from 'write-barrier/systems' */
/** @import { Arrangement } from '../08-stacks/arrangements.mjs' */
/** @import { Exhibit } from './engine.mjs' */
/** @typedef {Omit<Exhibit, 'name'>} Shown */
/** @typedef {NonNullable<SystemOptions['era']>} Era */
/** @typedef {Omit<SystemOptions, 'storage' | 'observer'>} Options */

const NO_CACHE = { disk: { cache: /** @type {const} */ ('none') } };
const NO_WAIT = { client: /** @type {const} */ ('no wait') };
const WAITS = { client: /** @type {const} */ ('waits') };
const CANCELS = { cancels: true };
const OURS = { ours: true };
/** What the trace of a system is held to that has no mode to choose. */
const DRAINS = { mode: /** @type {const} */ ('DRAIN_FLUSH') };
/** What a frontend reads of a backend that offers barriers only. */
const BARRIERS = { 'feature-barrier': '1', 'feature-flush-cache': '0' };
const ONE_WORKER = { threadsMax: 1 };

/** @type {(name: SystemName, options?: Options) => Shown} */
export const system = (name, options = {}) => ({
  open: (storage, observer) => openSystem(name, { storage, observer, ...options }),
});

/** @type {(mode: ModeName) => Shown} */
export const scheduler = (mode) => ({
  open: (disk, observer) => systemOf(new IoScheduler(disk, { mode, observer, allowUnsafe: true })),
  mode,
  ours: true,
});

/** @type {(era: Era, mode: ModeName) => Shown} */
export const linux = (era, mode) => ({ ...system('linux', { era, mode }), mode });

/** @type {(era: Era) => Shown} */
export const flushMachine = (era) => ({ ...system('linux', { era }), mode: 'NONE' });

/** @type {(era: Era, options?: { threadsMax?: number }) => Shown} */
export const qemu = (era, options) => ({ ...system('qemu-2009', { era, ...options }), ...DRAINS });

/** @type {(era: Era) => Shown} */
export const tapdisk = (era) => ({ ...system('tapdisk', { era }), ...DRAINS });

/** @type {(era: Era, options?: Omit<Options, 'era'>) => Shown} */
export const xen = (era, options) => system('xen-blkif', { era, ...options });

/** @type {(options: Options) => Shown} */
export const solaris = (options) => ({ ...system('solaris', options), ...WAITS });

/** @type {(arrangement: Arrangement) => Shown} */
const stack = (arrangement) => ({
  client: arrangement.guest === 'NONE' ? 'waits' : 'at once',
  open: (disk) => {
    const [guest] = /** @type {readonly [IoScheduler]} */ (stackOf(arrangement, disk, 1).guests);
    const { submit, ...rest } = systemOf(guest);
    const empty = /** @type {const} */ ({ kind: 'barrier' });
    const isBarrier = arrangement.guest !== 'NONE'; // then an explicit flush is one, too
    return {
      ...rest,
      submit: (request, data) =>
        submit(isBarrier && request.kind === 'flush' ? empty : request, data),
    };
  },
});

/**
 * The backend stops taking barriers and flushes before its nth request.
 *
 * @type {(nth: number) => (disk: Storage, grants: GrantTable) => BlkifServing}
 */
export const takingBack =
  (nth) =>
  (disk, { page }) => {
    const backend = blkback(new IoScheduler(disk), { page });
    let served = 0;
    return {
      nodes: backend.nodes,
      serve: (request) => {
        if (served++ === nth) backend.offer({ barrier: false, flush: false });
        return backend.serve(request);
      },
    };
  };

/**
 * A page is a bio. One of a barrier's two fails; of the other one's flush the disk says, and later, that it knows none.
 *
 * @type {(backend: BlkbackEra) => Shown}
 */
export const twoBios = (backend) => ({
  open: (disk, observer) => {
    let flushes = 0;
    /** @type {Storage} */
    const reluctant = {
      size: disk.size,
      capabilities: disk.capabilities,
      read: (offset, into) => disk.read(offset, into),
      write: (offset, data, flags) => disk.write(offset, data, flags),
      flush: async (flags) => {
        await disk.flush(flags);
        if (++flushes < 3) return;
        await new Promise((resolve) => setImmediate(resolve));
        throw new WriteBarrierError('EOPNOTSUPP', 'no such command');
      },
      close: () => {},
    };
    const options = { era: 'linux-5.x', backend, bioPages: 1, nodes: BARRIERS };
    return openSystem('xen-blkif', { storage: reluctant, observer, ...options });
  },
});

/** @type {Readonly<Record<string, readonly Exhibit[]>>} */
export const HALLS = {
  ours: [
    { name: 'DRAIN_FLUSH', ...scheduler('DRAIN_FLUSH') },
    { name: 'DRAIN_FUA', ...scheduler('DRAIN_FUA') },
    { name: 'TAG_FLUSH', ...scheduler('TAG_FLUSH') },
    { name: 'TAG_FUA', ...scheduler('TAG_FUA') },
    { name: 'TAG, no cache', ...scheduler('TAG'), ...NO_CACHE },
  ],
  linux: [
    { name: '2.6.24, TAG, no cache', ...linux('2.6.24', 'TAG'), ...NO_CACHE },
    { name: '2.6.32, TAG, no cache', ...linux('2.6.32', 'TAG'), ...NO_CACHE },
    { name: '2.6.32, DRAIN_FLUSH', ...linux('2.6.32', 'DRAIN_FLUSH') },
    { name: '2.6.36, DRAIN_FLUSH', ...linux('2.6.36', 'DRAIN_FLUSH') },
    { name: '2.6.36, TAG', ...linux('2.6.36', 'TAG') },
    { name: '2.6.36, TAG_FLUSH', ...linux('2.6.36', 'TAG_FLUSH') },
    { name: '2.6.37, nobody waits', ...flushMachine('2.6.37'), ...NO_WAIT },
    { name: '2.6.37, who waits', ...flushMachine('2.6.37'), ...WAITS },
    { name: '2.6.39, nobody waits', ...flushMachine('2.6.39'), ...NO_WAIT },
    { name: '2.6.39, who waits', ...flushMachine('2.6.39'), ...WAITS },
  ],
  qemu: [
    { name: 'May 2009', ...qemu('2009') },
    { name: 'May 2009, b2 cancelled', ...qemu('2009'), ...CANCELS },
    { name: 'May 2009, b2 cancelled, 1 worker', ...qemu('2009', ONE_WORKER), ...CANCELS },
    { name: 'repaired', ...qemu('repaired') },
    { name: 'repaired, b2 cancelled', ...qemu('repaired'), ...CANCELS },
    { name: 'repaired, b2 cancelled, 1 worker', ...qemu('repaired', ONE_WORKER), ...CANCELS },
    { name: 'PosixAio', ...system('posix-aio', DRAINS), ...DRAINS, ...OURS },
    {
      name: 'PosixAio, b2 cancelled',
      ...system('posix-aio', DRAINS),
      ...DRAINS,
      ...CANCELS,
      ...OURS,
    },
  ],
  blktap: [
    { name: 'before the patch', ...tapdisk('before') },
    { name: 'November 2010', ...tapdisk('2010') },
    { name: 'repaired', ...tapdisk('repaired') },
    { name: 'fileStorage', ...system('plain-file'), ...OURS },
  ],
  virtio: [
    { name: 'before the patch, FLUSH', ...system('virtio-blk', { era: 'beforePatch' }) },
    {
      name: 'before it, BARRIER',
      ...system('virtio-blk', { era: 'beforePatch', features: ['BARRIER'] }),
    },
    { name: 'before it, neither', ...system('virtio-blk', { era: 'beforePatch', features: [] }) },
    { name: 'after it, neither', ...system('virtio-blk', { era: 'afterPatch', features: [] }) },
    {
      name: 'after it, neither, no cache',
      ...system('virtio-blk', { era: 'afterPatch', features: [] }),
      ...NO_CACHE,
    },
    { name: 'today, FLUSH', ...system('virtio-blk', { era: 'linuxToday' }), ...WAITS },
    { name: 'virtioStorage', ...system('virtio-blk', { era: 'specification' }), ...OURS },
  ],
  xen: [
    { name: '2.6.36 on 2.6.18', ...xen('linux-2.6.36', { backend: 'xenlinux-2.6.18' }) },
    { name: '2.6.36 on 2006', ...xen('linux-2.6.36', { backend: 'xenlinux-2006' }) },
    { name: '2.6.36 on 3.2', ...xen('linux-2.6.36', { backend: 'linux-3.2' }) },
    {
      name: '2.6.36 on 4.x, two rings',
      ...xen('linux-2.6.36', { backend: 'linux-4.x-multi-ring', rings: 2 }),
    },
    { name: '5.x on 3.2, by flush', ...xen('linux-5.x', { backend: 'linux-3.2' }), ...WAITS },
    {
      name: '5.x on 3.2, by barrier',
      ...xen('linux-5.x', { backend: 'linux-3.2', nodes: BARRIERS }),
      ...WAITS,
    },
    {
      name: '5.x, b2 not supported',
      ...xen('linux-5.x', { backend: takingBack(2), nodes: BARRIERS }),
      ...WAITS,
    },
    {
      name: '5.x on 3.2, two errors',
      ...twoBios(BACK['linux-3.2']),
      ...WAITS,
      program: 'w0 w1 b2+2 w4 f',
      failures: [{ on: 'write', nth: 2 }],
    },
    { name: 'BlkFrontend on blkback', ...system('xen-blkif'), ...OURS },
  ],
  solaris: [
    { name: '(c) flush operation', ...solaris({ ways: ['flush operation'] }), ...OURS },
    { name: '(b) empty barrier', ...solaris({ ways: ['empty barrier'] }), ...OURS },
    { name: '(a) old write', ...solaris({ ways: ['old write'] }), ...OURS },
    { name: 'cache off', ...solaris({ writeCache: false }), ...OURS },
    { name: '(a) old write, on 3.2', ...solaris({ backend: 'linux-3.2', ways: ['old write'] }) },
    { name: 'cache off, on 3.2', ...solaris({ backend: 'linux-3.2', writeCache: false }) },
  ],
  stacks: ARRANGEMENTS.filter(({ queue }) => queue === 'own').map((arrangement) => ({
    name: stackName(arrangement),
    ...stack(arrangement),
  })),
};
