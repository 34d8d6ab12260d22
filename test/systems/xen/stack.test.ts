// The whole stack: a scheduler of the guest, blkfront, the bytes of a ring, blkback, a scheduler of the host, a disk.
//
// Goal: the adapter keeps the contract of a storage, and a log on it survives a power cut at every moment: over our own
// backend, over those of history, and when features are taken back at any request of the run.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type ModeName, type SchedulerOptions, type TraceEvent } from 'write-barrier';
import { checkTrace, type VolatileDisk } from 'write-barrier/testing';
import {
  type BlkifServing,
  blkback,
  type XenLoopbackOptions,
  xenLoopback,
  xenLoopbackOver,
} from '../../../src/systems/xen/backend.js';
import type { BlkFeatures } from '../../../src/systems/xen/features.js';
import { BlkFrontend } from '../../../src/systems/xen/frontend.js';
import { grantTable } from '../../../src/systems/xen/grants.js';
import {
  BLKBACK_ERAS,
  type BlkbackEraName,
  oldBlkback,
} from '../../../src/systems/xen/old-backend.js';
import { BlkFrontRing, blkBackRing } from '../../../src/systems/xen/ring.js';
import { PAGE_BYTES } from '../../../src/systems/xen/wire.js';
import { share } from '../../kit/amount.js';
import { storageContract } from '../../storage/contract.js';
import { cachedDisk, EVERYTHING } from '../../testing/cached-disk.js';
import {
  acknowledged,
  type Host,
  logTest,
  markAt,
  noFailure,
  RECORDS,
  recordAt,
  sector,
} from './log.js';
import { settled } from './support.js';

// The contract of a storage

const VARIANTS = [
  ['x86-64', 'a disk with FUA', true, {}],
  ['x86-32', 'a disk without FUA', false, {}],
  ['x86-64', 'two pages', true, { pages: 2 }],
  ['x86-32', 'small indirect requests', true, { offer: { indirectSegments: 12 } }],
  ['x86-64', 'no barriers', true, { offer: { barrier: false } }],
  ['x86-64', 'no flushes but barriers', false, { offer: { flush: false } }],
] as const;

for (const [layout, over, fua, more] of VARIANTS) {
  const below = { ...EVERYTHING, fua, orderedTags: false };
  const on = ({ storage }: ReturnType<typeof cachedDisk>) =>
    xenLoopback(new IoScheduler(storage), { layout, ...more }).frontend;
  const { capabilities } = on(cachedDisk(below));
  storageContract(`blkfront (${layout}) over ${over}`, capabilities, () => {
    const disk = cachedDisk(below);
    const reopen = () => on(cachedDisk(below, disk.medium));
    return { storage: on(disk), reopen, forgetCaches: disk.forget };
  });
}

// Those that answer an empty barrier with ERROR have no flush at all.
for (const era of ['xenlinux-2.6.18', 'linux-3.2', 'linux-4.x-multi-ring'] as const) {
  const below = { ...EVERYTHING, orderedTags: false };
  const on = ({ storage }: ReturnType<typeof cachedDisk>) =>
    xenLoopbackOver(({ page }) => oldBlkback(BLKBACK_ERAS[era], storage, { page })).frontend;
  storageContract(`blkfront over ${era}`, on(cachedDisk(below)).capabilities, () => {
    const disk = cachedDisk(below);
    const reopen = () => on(cachedDisk(below, disk.medium));
    return { storage: on(disk), reopen, forgetCaches: disk.forget };
  });
}

// Power cuts

interface Stack extends Host {
  readonly guest: IoScheduler;
  readonly events: readonly TraceEvent[];
}

/** A guest's scheduler over whatever serves. */
function guestOver(
  serving: Parameters<typeof xenLoopbackOver<BlkifServing>>[0],
  options: SchedulerOptions,
  idle: () => Promise<unknown>,
  more: XenLoopbackOptions = {},
): Stack {
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => void events.push(event);
  const { frontend } = xenLoopbackOver(serving, more);
  const guest = new IoScheduler(frontend, { ...options, observer });
  return {
    guest,
    events,
    append: (n) =>
      Promise.all([
        guest.write(recordAt(n), sector(n + 1)),
        guest.write(markAt(n), sector(n + 1), { barrier: true }),
      ]),
    idle: async () => {
      await guest.idle();
      await idle();
    },
  };
}

interface Setup {
  readonly guestMode?: ModeName;
  readonly hostMode?: ModeName;
  /** Before this request, counted from 0, the backend takes these back. */
  readonly takesBack?: readonly [at: number, change: Partial<BlkFeatures>];
}

/** Both schedulers, with their traces. */
function stackOn(disk: VolatileDisk, { guestMode, hostMode, takesBack }: Setup) {
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => void events.push(event);
  const host = new IoScheduler(disk, { ...(hostMode && { mode: hostMode }), observer });
  let requests = 0;
  const serving: Parameters<typeof xenLoopbackOver<BlkifServing>>[0] = ({ page }) => {
    const backend = blkback(host, { page });
    return {
      nodes: backend.nodes,
      serve: (request) => {
        if (takesBack && requests === takesBack[0]) backend.offer(takesBack[1]);
        requests += 1;
        return backend.serve(request);
      },
    };
  };
  const mode = guestMode ? { mode: guestMode } : {};
  const stack = guestOver(serving, mode, () => host.idle());
  return { ...stack, host, hostEvents: events };
}

const HOST_MODES: readonly ModeName[] = ['DRAIN_FLUSH', 'DRAIN_FUA', 'TAG_FLUSH', 'TAG_FUA'];
const GUEST_MODES: readonly ModeName[] = ['DRAIN_FLUSH', 'TAG_FLUSH'];

// A ring that goes while its requests are at the disk: what the disk answers late must not land in somebody else's.
test('given a ring that was closed, when the disk answers its read late, then no request of the next ring has that data', async () => {
  const size = 2 * PAGE_BYTES;
  const late: (() => void)[] = [];
  const host = new IoScheduler({
    size,
    capabilities: { blockSize: 512, cache: 'none', flush: false, fua: false, orderedTags: false },
    read: (offset, into) =>
      new Promise<void>((resolve) => {
        late.push(() => {
          into.fill(1 + offset / PAGE_BYTES);
          resolve();
        });
      }),
    write: () => {},
    flush: () => {},
    close: () => {},
  });
  const grants = grantTable(2);
  const { serve, nodes } = blkback(host, { page: grants.page });
  const connect = () => {
    const shared = new Uint8Array(PAGE_BYTES);
    const front = new BlkFrontRing(shared, { layout: 'x86-64', notify: () => back.notified() });
    const notify = (): void => front.notified();
    const back = blkBackRing(shared, { layout: 'x86-64', serve, notify });
    const withoutFlush = 'none' as const;
    return { front, frontend: new BlkFrontend({ nodes, ring: front, grants, withoutFlush }) };
  };
  const first = connect();
  const unanswered = first.frontend.read(0, new Uint8Array(PAGE_BYTES));
  first.front.close();
  await expect(unanswered).rejects.toMatchObject({ code: 'CLOSED' });
  const into = new Uint8Array(PAGE_BYTES);
  const answered = connect().frontend.read(PAGE_BYTES, into);
  await settled();
  const [stale, fresh] = late;
  fresh?.();
  stale?.();
  await answered;
  expect([...new Set(into)]).toEqual([2]);
});

describe('given a log in a guest, when the power fails at any moment', () => {
  test.each(HOST_MODES.flatMap((host) => GUEST_MODES.map((guest) => [guest, host] as const)))(
    '%s in the guest over %s in the host: nothing is lost and no mark is without its record',
    async (guestMode, hostMode) => {
      const stacks: ReturnType<typeof stackOn>[] = [];
      const log = logTest((disk) => {
        const stack = stackOn(disk, { guestMode, hostMode });
        stacks.push(stack);
        return stack;
      });
      const reports = await noFailure(log);
      expect(reports.map(acknowledged)).toEqual(reports.map(() => RECORDS));
      for (const { guest, host, events, hostEvents } of stacks) {
        const { capabilities } = guest;
        expect(checkTrace(events, { mode: guestMode, device: capabilities })).toEqual([]);
        expect(checkTrace(hostEvents, { mode: hostMode, device: host.capabilities })).toEqual([]);
      }
    },
  );

  test('left to themselves both take the tags that they are offered', async () => {
    const log = logTest((disk) => {
      const stack = stackOn(disk, {});
      expect(stack.guest.mode).toBe('TAG_FLUSH');
      expect(stack.host.mode).toBe('TAG_FUA');
      return stack;
    });
    await noFailure(log, 3);
  });

  test.each<[BlkbackEraName]>([['xenlinux-2.6.18'], ['linux-3.2'], ['linux-4.x-multi-ring']])(
    'over the backend %s, whatever its barriers are worth: the same',
    async (era) => {
      for (const guestMode of GUEST_MODES) {
        const log = logTest((disk) =>
          guestOver(
            ({ page }) => oldBlkback(BLKBACK_ERAS[era], disk, { page }),
            { mode: guestMode },
            async () => {},
          ),
        );
        const reports = await noFailure(log);
        expect(reports.map(acknowledged)).toEqual(reports.map(() => RECORDS));
      }
    },
  );
});

// The backend takes a feature back before each request of the run in turn.
describe('given features that are taken back in the middle, when the power fails at any moment', () => {
  const RUN = 12;
  const SEEDS = share(3, 1);
  const gone = (change: Partial<BlkFeatures>, guestMode: ModeName) =>
    Array.from({ length: RUN }, (_, at) => {
      const setup: Setup = { guestMode, takesBack: [at, change] };
      return logTest((disk) => stackOn(disk, setup));
    });

  test.each(GUEST_MODES)(
    '%s without barriers, or without flushes: every record is safe and acknowledged',
    async (guestMode) => {
      for (const change of [{ barrier: false }, { flush: false }]) {
        for (const log of gone(change, guestMode)) {
          const reports = await noFailure(log, SEEDS);
          expect(reports.map(acknowledged)).toEqual(reports.map(() => RECORDS));
        }
      }
    },
  );

  test.each(GUEST_MODES)(
    '%s without either: what was acknowledged is safe, and nothing is that is not',
    async (guestMode) => {
      const counts = new Set<number>();
      for (const log of gone({ barrier: false, flush: false }, guestMode)) {
        for (const report of await noFailure(log, SEEDS)) counts.add(acknowledged(report));
      }
      expect([...counts].sort()).toEqual([0, 1, 2]);
    },
  );
});
