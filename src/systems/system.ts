// One way to open any of the systems in the table (table.ts).
//
//   openSystem(name, { storage, era, observer, ... }) ─▶ System: submit, cancel, idle
//
// A system takes requests of this package, and its driver gets what it would have got from the queue above it in those
// years. If an explicit flush was an empty barrier then, it becomes one here; if flags were resolved into flushes, they
// are resolved here. Nothing else is added, so a system loses here what it lost then.
//
// The guests (virtio-blk, Xen, Solaris) are opened with their backend over the storage. The observer always gets the trace
// of the part that calls the storage; in the trace of a backend the requests are those of the ring.
//
// Not here: the adapters by themselves, with their options for real transports. They are exported beside this.

import {
  IoScheduler,
  type ModeName,
  type Observer,
  type Request,
  type Storage,
} from 'write-barrier';
import {
  checkArgument,
  checkOptions,
  formatValue,
  misuse,
  oneOf,
  wholeNumber,
} from 'write-barrier/kit';
import { fileStorage } from './blktap/file-barriers.js';
import { Tapdisk, type TapdiskProfile } from './blktap/tapdisk.js';
import type { BarrierEra, FlushEra } from './linux/eras.js';
import { LinuxBarrierQueue, LinuxFlushQueue } from './linux/queues.js';
import type { AioProfile } from './qemu/aio.js';
import { type AioHandle, PosixAio } from './qemu/posix-aio.js';
import { QemuProcess } from './qemu/process.js';
import { ask, notSupported, STORAGE } from './requests.js';
import { SYSTEMS, type SystemName, type SystemRow } from './table.js';
import { VirtioBackend } from './virtio/backend.js';
import type { VirtioEra, VirtioFeature } from './virtio/features.js';
import { virtioStorage } from './virtio/storage.js';
import { type BlkifServing, blkback, xenLoopback } from './xen/backend.js';
import type { XenNodes } from './xen/features.js';
import { type GrantTable, grantTable } from './xen/grants.js';
import {
  BLKBACK_ERAS,
  type BlkbackEra,
  type BlkbackEraName,
  oldBlkback,
} from './xen/old-backend.js';
import { type BlkfrontEra, OldBlkfront } from './xen/old-frontend.js';
import { SolarisDisk, type SolarisFlushWay } from './xen/solaris.js';

/** What takes requests. */
export interface System {
  /**
   * Submits a request, and settles when the system answers it: with the bytes of a read, otherwise with nothing. Rejects
   * with `EOPNOTSUPP` for what the system cannot be asked, with nothing written, and with what the system reports.
   *
   * @param data what to write, or where to read into, of the request's length
   */
  submit(request: Request, data?: Uint8Array): Promise<Uint8Array | void>;
  /** Asks for the nth request back, counted from 0. Present where the system could be asked. */
  cancel?(nth: number): 'canceled' | 'not canceled' | 'all done';
  /** Settles when every request has an answer. */
  idle(): Promise<void>;
  /** What it has chosen by itself and goes by now: its mode, or its way to flush. */
  readonly chosen: string;
}

/** How a system is opened. An option that a system does not have is refused. */
export interface SystemOptions {
  /** The disk below. The system never closes it. */
  readonly storage: Storage;
  /** A name of `SYSTEMS[name].eras`, or such an era with fields of your own. @defaultValue `SYSTEMS[name].era` */
  readonly era?: string | BarrierEra | FlushEra | AioProfile | TapdiskProfile | BlkfrontEra;
  /** Called for every event of the part that asks the storage. */
  readonly observer?: Observer;
  /** linux up to 2.6.36, posix-aio: the ordered mode. @defaultValue what its driver or scheduler chooses */
  readonly mode?: ModeName;
  /** qemu-2009: the maximum of workers. @defaultValue 64 */
  readonly threadsMax?: number;
  /** virtio-blk: what an old host offers. @defaultValue all that our device can back */
  readonly features?: readonly VirtioFeature[];
  /** xen-blkif, solaris: who serves the ring, by era, or a function of your own. @defaultValue our `blkback` */
  readonly backend?:
    | BlkbackEraName
    | BlkbackEra
    | ((disk: Storage, grants: GrantTable) => BlkifServing);
  /** xen-blkif, with a backend of an era: its rings, which requests take in turn. @defaultValue 1 */
  readonly rings?: number;
  /** xen-blkif, with a backend of an era: pages in one bio. @defaultValue 11 */
  readonly bioPages?: number;
  /** xen-blkif, with an era: nodes that the frontend reads instead of those of the backend. */
  readonly nodes?: XenNodes;
  /** solaris: the write cache is enabled. @defaultValue true */
  readonly writeCache?: boolean;
  /** solaris: the ways to flush that may be taken. @defaultValue all */
  readonly ways?: readonly SolarisFlushWay[];
}

/** A system whose requests are not counted yet. */
interface Opened extends Pick<System, 'submit' | 'cancel'> {
  readonly chosen: () => string;
}

interface Opener {
  /** The options that it has in addition to the three of all. */
  readonly takes: readonly (keyof SystemOptions)[];
  open(options: SystemOptions, era: string | object | undefined): Opened | Promise<Opened>;
}

const COMMON = { storage: 1, era: 1, observer: 1 } as const;
const RULES = { threadsMax: wholeNumber(1), rings: wholeNumber(1), bioPages: wholeNumber(1) };

/**
 * Opens a system over a storage.
 *
 * @throws `INVALID_ARGUMENT` for a name, an era or an option that it does not have; what the system itself refuses
 */
export async function openSystem(name: SystemName, options: SystemOptions): Promise<System> {
  checkArgument('name', name, oneOf(Object.keys(SYSTEMS)));
  const { takes, open } = OPENERS[name];
  const own = Object.fromEntries(takes.map((key) => [key, Reflect.get(RULES, key) ?? 1]));
  checkOptions(options, { ...COMMON, ...own } as never, `openSystem of ${name}`);
  checkArgument('storage', options.storage, STORAGE);
  const opened = await open(options, eraOf(name, options.era));
  const { cancel } = opened;
  const pending = new Set<Promise<unknown>>();
  return {
    submit: (request, data) => {
      const answer = opened.submit(request, data);
      pending.add(answer);
      const forget = (): void => void pending.delete(answer);
      answer.then(forget, forget);
      return answer;
    },
    ...(cancel && { cancel }),
    idle: async () => {
      while (pending.size > 0) await Promise.allSettled(pending);
    },
    get chosen() {
      return opened.chosen();
    },
  };
}

/** A scheduler of ours, asked as the systems are. */
export function systemOf(scheduler: IoScheduler): System {
  const { submit, chosen } = ofScheduler(scheduler);
  return {
    submit,
    idle: () => scheduler.idle(),
    get chosen() {
      return chosen();
    },
  };
}

const OPENERS: Readonly<Record<SystemName, Opener>> = {
  linux: {
    takes: ['mode'],
    open: ({ storage, mode, observer }, era) => {
      if ('flushes' in (era as object)) {
        if (mode !== undefined)
          throw misuse('mode must be left out: this kernel has no ordered modes');
        const queue = new LinuxFlushQueue(storage, { era: era as FlushEra, observer });
        return ofQueue(queue, () => 'NONE');
      }
      const options = { era: era as BarrierEra, observer, ...(mode && { mode }) };
      const queue = new LinuxBarrierQueue(storage, options);
      return ofQueue(queue, () => queue.mode);
    },
  },
  'virtio-blk': {
    takes: ['features'],
    open: async ({ storage, features, observer, era = 'specification' }) => {
      const host = features ? ({ features, host: 'legacy' } as const) : {};
      const device = new VirtioBackend(scheduler(storage, observer), host);
      const guest = await virtioStorage(device, { era: era as VirtioEra });
      const { mode } = guest.ordering;
      // Each driver below the block layer of its kernel.
      const kernel = { beforePatch: '2.6.32', afterPatch: '2.6.36' } as const;
      if (era === 'specification') return ofScheduler(new IoScheduler(guest, { mode }));
      const queue =
        era === 'linuxToday'
          ? new LinuxFlushQueue(guest, { era: '2.6.39' })
          : new LinuxBarrierQueue(guest, { era: kernel[era as keyof typeof kernel], mode });
      return ofQueue(queue, () => mode);
    },
  },
  'xen-blkif': {
    takes: ['backend', 'rings', 'bioPages', 'nodes'],
    open: (options, era) => {
      const { storage, observer, nodes } = options;
      if (era === undefined) {
        const { frontend } = xenLoopback(scheduler(storage, observer));
        return ofScheduler(new IoScheduler(frontend));
      }
      const grants = grantTable(64);
      const { nodes: announced, serve } = serving(options, grants);
      const front = new OldBlkfront(era as BlkfrontEra, {
        nodes: { ...announced, ...nodes },
        grants,
        send: serve,
      });
      const submit = (era as BlkfrontEra).flushOn
        ? resolvingFlags(front)
        : flushesAsBarriers((request, data) => front.submit(request, data));
      return { submit, chosen: () => front.choice.mode };
    },
  },
  solaris: {
    takes: ['backend', 'writeCache', 'ways'],
    open: async (options) => {
      const { writeCache, ways } = options;
      const grants = grantTable(64);
      const { nodes, serve } = serving(options, grants);
      const disk = await SolarisDisk.attach({
        ...{ nodes, grants, send: serve },
        ...(writeCache !== undefined && { writeCache }),
        ...(ways && { ways }),
      });
      return {
        submit: (request, data) => askSolaris(disk, request, data),
        chosen: () => disk.way ?? 'none',
      };
    },
  },
  'qemu-2009': {
    takes: ['threadsMax'],
    open: ({ storage, observer, threadsMax = 64 }, era) => {
      const process = new QemuProcess({ profile: era as AioProfile, threadsMax });
      const disk = process.open(storage, { ...(observer && { observer }) });
      const { submit, cancel } = withHandles(disk);
      return { submit: flushesAsBarriers(submit), cancel, chosen: () => 'DRAIN_FLUSH' };
    },
  },
  'posix-aio': {
    takes: ['mode'],
    open: ({ storage, mode, observer }) => {
      const aio = new PosixAio(storage, { ...(mode && { mode }), ...(observer && { observer }) });
      return { ...withHandles(aio), chosen: () => aio.scheduler.mode };
    },
  },
  tapdisk: {
    takes: [],
    open: ({ storage, observer }, era) => {
      const watched = observer && { observer };
      const disk = new Tapdisk(storage, { profile: era as TapdiskProfile, ...watched });
      return ofQueue(disk, () => 'DRAIN_FLUSH');
    },
  },
  'plain-file': {
    takes: [],
    open: ({ storage, observer }) => {
      const file = fileStorage({
        size: storage.size,
        blockSize: storage.capabilities.blockSize,
        read: (offset, into) => storage.read(offset, into),
        write: (offset, data) => storage.write(offset, data, { fua: false, tag: 'simple' }),
        sync: () => storage.flush({ tag: 'simple' }),
      });
      return ofScheduler(scheduler(file, observer));
    },
  },
};

function eraOf(name: SystemName, given: SystemOptions['era']): string | object | undefined {
  const { eras, era: usual }: SystemRow = SYSTEMS[name];
  const era = given ?? usual;
  if (era === undefined || (typeof era === 'object' && era !== null)) return era;
  if (Object.hasOwn(eras, era)) return Reflect.get(eras, era);
  const known = Object.keys(eras).join(', ');
  if (known === '') throw misuse(`era must be left out: ${name} has no eras`);
  throw misuse(`era of ${name} must be one of ${known}, or an object, not ${formatValue(era)}`);
}

function ofScheduler(scheduler: IoScheduler): Opened {
  return {
    submit: (request, data) => ask(scheduler, request, data),
    chosen: () => scheduler.mode,
  };
}

function ofQueue(queue: Pick<System, 'submit'>, chosen: () => string): Opened {
  return { submit: (request, data) => queue.submit(request, data), chosen };
}

function scheduler(storage: Storage, observer: Observer | undefined): IoScheduler {
  return new IoScheduler(storage, { ...(observer && { observer }) });
}

/** Where an explicit flush is an empty barrier. */
function flushesAsBarriers(submit: System['submit']): System['submit'] {
  return (request, data) => submit(request.kind === 'flush' ? { kind: 'barrier' } : request, data);
}

/** The nth handle for the nth request. */
function withHandles(queue: {
  submit(request: Request, data?: Uint8Array): AioHandle;
  cancel(handle: AioHandle): ReturnType<NonNullable<System['cancel']>>;
}): Pick<Required<System>, 'submit' | 'cancel'> {
  const handles: AioHandle[] = [];
  return {
    submit: (request, data) => {
      const handle = queue.submit(request, data);
      handles.push(handle);
      return handle.result;
    },
    cancel: (nth) => {
      const handle = handles[nth];
      if (!handle) throw misuse(`nth must be below ${handles.length}, not ${formatValue(nth)}`);
      return queue.cancel(handle);
    },
  };
}

// Xen

function serving(options: SystemOptions, grants: GrantTable): BlkifServing {
  const { storage, backend, rings = 1, bioPages, observer } = options;
  if (typeof backend === 'function') return backend(storage, grants);
  const { page } = grants;
  const watched = observer && { observer };
  if (backend === undefined) return blkback(scheduler(storage, observer), { page });
  if (typeof backend === 'string')
    checkArgument('backend', backend, oneOf(Object.keys(BLKBACK_ERAS)));
  const era = typeof backend === 'string' ? BLKBACK_ERAS[backend] : backend;
  const old = oldBlkback(era, storage, { page, ...watched, ...(bioPages && { bioPages }) });
  let sent = 0;
  return { nodes: old.nodes, serve: (request) => old.serve(request, sent++ % rings) };
}

/** The queue above a driver that takes no preflush, and FUA only where it says so: the rest are flushes. */
function resolvingFlags(front: OldBlkfront): System['submit'] {
  return async (request, data) => {
    if (request.kind !== 'write')
      return front.submit(request, request.kind === 'read' ? data : undefined);
    const { kind, offset, length, preflush = false, fua = false } = request;
    const forced = fua && front.choice.fua;
    if (preflush) await front.submit({ kind: 'flush' });
    await front.submit({ kind, offset, length, ...(forced && { fua }) }, data);
    if (fua && !forced) await front.submit({ kind: 'flush' });
  };
}

/** Without the write cache every write is on the disk when it is answered, and there is nothing to flush. */
async function askSolaris(
  disk: SolarisDisk,
  request: Request,
  data: Uint8Array | undefined,
): Promise<Uint8Array | void> {
  const flush = async (): Promise<void> => {
    if (disk.writeCache) await disk.flushWriteCache();
  };
  if (request.kind === 'read') {
    const into = data ?? new Uint8Array(request.length);
    await disk.read(request.offset, into);
    return into;
  }
  if (request.kind === 'flush') return flush();
  if (request.kind !== 'write') throw notSupported(request.kind);
  if (request.barrier) throw notSupported('barrier');
  if (request.preflush) await flush();
  await disk.write(request.offset, data as Uint8Array);
  if (request.fua) await flush();
}
