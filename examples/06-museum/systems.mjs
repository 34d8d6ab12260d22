// @ts-check
// How each system is asked for a request. Nothing is modelled here: these are the adapters between the museum's program
// and the systems of the package.

import { IoScheduler, WriteBarrierError } from 'write-barrier';
import {
  blkback,
  fileStorage,
  grantTable,
  LinuxBarrierQueue,
  LinuxFlushQueue,
  OldBlkfront,
  oldBlkback,
  PosixAio,
  QemuProcess,
  SolarisDisk,
  stackOf,
  Tapdisk,
  VirtioBackend,
  virtioStorage,
  xenLoopback,
} from 'write-barrier/systems';

/** @import { ModeName, Request, Storage } from 'write-barrier' */
/** @import { AioHandle, AioProfile, Arrangement, BarrierEra, BarrierEraName, BlkbackEra, BlkfrontEra, BlkifServing, FlushEra, FlushEraName, GrantTable, SolarisOptions, TapdiskProfile, VirtioEra, VirtioFeature, XenNodes } from 'write-barrier/systems' */
/** @import { Exhibit, System } from './engine.mjs' */
/** @typedef {Omit<Exhibit, 'name'>} Asked */
/** @typedef {(disk: Storage, grants: GrantTable) => BlkifServing} Backend */

// Schedulers and queues

/** @type {(queue: IoScheduler) => System} */
const asked = (queue) => ({
  submit: (request, data) => {
    if (request.kind === 'flush') return queue.flush();
    if (request.kind !== 'write') return queue.barrier();
    const { offset, barrier = false, preflush = false, fua = false } = request;
    return queue.write(offset, data, { barrier, preflush, fua });
  },
});

/**
 * Where an explicit flush is an empty barrier.
 *
 * @type {(system: System) => System}
 */
const emptyBarriers = (system) => ({
  submit: (request, data) =>
    system.submit(request.kind === 'flush' ? { kind: 'barrier' } : request, data),
  cancel: (nth) => system.cancel?.(nth),
});

/** @type {(mode: ModeName) => Asked} */
export const scheduler = (mode) => ({
  open: (disk, observer) => asked(new IoScheduler(disk, { mode, observer, allowUnsafe: true })),
  mode,
  ours: true,
});

/** @type {(era: BarrierEraName | BarrierEra, mode: ModeName) => Asked} */
export const linux = (era, mode) => ({
  open: (disk, observer) => new LinuxBarrierQueue(disk, { era, mode, observer }),
  mode,
});

/** @type {(era: FlushEraName | FlushEra) => Asked} */
export const flushMachine = (era) => ({
  open: (disk, observer) => new LinuxFlushQueue(disk, { era, observer }),
  mode: 'NONE',
});

/** @type {(queue: { submit(request: Request, data: Uint8Array): AioHandle, cancel(handle: AioHandle): unknown }) => System} */
const handled = (queue) => {
  /** @type {AioHandle[]} */
  const handles = [];
  return {
    submit: (request, data) => {
      const handle = queue.submit(request, data);
      handles.push(handle);
      return handle.result;
    },
    cancel: (nth) => queue.cancel(/** @type {AioHandle} */ (handles[nth])),
  };
};

/** @type {(profile: AioProfile, threadsMax: number) => Asked} */
export const qemu = (profile, threadsMax) => ({
  open: (disk, observer) =>
    emptyBarriers(handled(new QemuProcess({ profile, threadsMax }).open(disk, { observer }))),
  mode: 'DRAIN_FLUSH',
});

/** @type {Asked} */
export const posixAio = {
  open: (disk, observer) => handled(new PosixAio(disk, { mode: 'DRAIN_FLUSH', observer })),
  mode: 'DRAIN_FLUSH',
};

/** @type {(profile: TapdiskProfile) => Asked} */
export const tapdisk = (profile) => ({
  open: (disk, observer) => new Tapdisk(disk, { profile, observer }),
  mode: 'DRAIN_FLUSH',
});

/** @type {Asked} */
export const plainFile = {
  open: (disk) => {
    const file = fileStorage({
      size: disk.size,
      blockSize: disk.capabilities.blockSize,
      read: (offset, into) => disk.read(offset, into),
      write: (offset, data) => disk.write(offset, data, { fua: false, tag: 'simple' }),
      sync: () => disk.flush({ tag: 'simple' }),
    });
    return asked(new IoScheduler(file));
  },
};

// Guests

/**
 * Each driver below the block layer of its kernel.
 *
 * @type {(era: VirtioEra, features?: readonly VirtioFeature[]) => Asked} `features`: what an old host offers
 */
export const virtio = (era, features) => ({
  open: async (disk) => {
    const host = features ? /** @type {const} */ ({ features, host: 'legacy' }) : {};
    const storage = await virtioStorage(new VirtioBackend(new IoScheduler(disk), host), { era });
    const { mode } = storage.ordering;
    if (era === 'linuxToday') return new LinuxFlushQueue(storage, { era: '2.6.39' });
    if (era === 'specification') return asked(new IoScheduler(storage, { mode }));
    const kernel = era === 'beforePatch' ? '2.6.32' : '2.6.36';
    return new LinuxBarrierQueue(storage, { era: kernel, mode });
  },
});

/** @type {Backend} */
export const ours = (disk, { page }) => blkback(new IoScheduler(disk), { page });

/** @type {(era: BlkbackEra) => Backend} */
export const old =
  (era) =>
  (disk, { page }) =>
    oldBlkback(era, disk, { page });

/**
 * What the guest sends goes over its two rings in turn.
 *
 * @type {(era: BlkbackEra) => Backend}
 */
export const twoRings =
  (era) =>
  (disk, { page }) => {
    const backend = oldBlkback(era, disk, { page });
    let sent = 0;
    return { nodes: backend.nodes, serve: (request) => backend.serve(request, sent++ % 2) };
  };

/**
 * The backend stops taking barriers and flushes before its nth request.
 *
 * @type {(nth: number) => Backend}
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
 * @type {(era: BlkbackEra) => Backend}
 */
export const twoBios =
  (era) =>
  (disk, { page }) => {
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
    return oldBlkback(era, reluctant, { page, bioPages: 1 });
  };

/** @type {(era: BlkfrontEra, backend: Backend, nodes?: XenNodes) => Asked} */
export const xen = (era, backend, nodes) => ({
  open: (disk) => {
    const grants = grantTable(64);
    const serving = backend(disk, grants);
    const all = { ...serving.nodes, ...nodes };
    const front = new OldBlkfront(era, { nodes: all, grants, send: serving.serve });
    return era.flushOn ? resolved(front) : emptyBarriers(front);
  },
});

/**
 * The queue above a driver that takes no preflush, and FUA only where it says so: the rest are flushes.
 *
 * @type {(front: OldBlkfront) => System}
 */
const resolved = (front) => ({
  submit: async (request, data) => {
    if (request.kind !== 'write') return front.submit(request);
    const { kind, offset, length, preflush = false, fua = false } = request;
    const forced = fua && front.choice.fua;
    if (preflush) await front.submit({ kind: 'flush' });
    await front.submit({ kind, offset, length, ...(forced && { fua }) }, data);
    if (fua && !forced) await front.submit({ kind: 'flush' });
  },
});

/** @type {Asked} */
export const loopback = {
  open: (disk) => asked(new IoScheduler(xenLoopback(new IoScheduler(disk)).frontend)),
};

/**
 * Without the cache every write is on the disk when it is answered, and nobody asks for more.
 *
 * @type {(backend: Backend, options: Partial<SolarisOptions>) => Asked}
 */
export const solaris = (backend, options) => ({
  client: 'waits',
  open: async (disk) => {
    const grants = grantTable(64);
    const { nodes, serve } = backend(disk, grants);
    const send = /** @type {SolarisOptions['send']} */ ((request) => serve(request));
    const guest = await SolarisDisk.attach({ nodes, grants, send, ...options });
    const flush = async () => (guest.writeCache ? guest.flushWriteCache() : undefined);
    return {
      submit: async (request, data) => {
        if (request.kind !== 'write') return flush();
        if (request.preflush) await flush();
        await guest.write(request.offset, data);
        if (request.fua) await flush();
      },
    };
  },
});

/** @type {(arrangement: Pick<Arrangement, 'guest' | 'transport' | 'backend'>) => string} */
export const stackName = ({ guest, transport, backend }) =>
  `${guest} over ${backend}${transport === 'as-is' ? '' : `, ${transport}`}`;

/** @type {(arrangement: Arrangement) => Asked} */
export const stack = (arrangement) => ({
  client: arrangement.guest === 'NONE' ? 'waits' : 'at once',
  open: (disk) => {
    const [guest] = stackOf(arrangement, disk, 1).guests.map(asked);
    if (!guest) throw new Error('nobody is there');
    return arrangement.guest === 'NONE' ? guest : emptyBarriers(guest);
  },
});
