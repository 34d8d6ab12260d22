// Goal: real load through whole stacks, byte for byte. Method: what a kernel's ext4 sent to its disk is sent again by a
// guest's scheduler, through a driver, the bytes of its protocol and a device, to a scheduler over a file. From a third
// of the way to two thirds the device takes features back: by the protocol's word for "not supported", or as that
// protocol has it. The file must be what the kernel left, and every read what the kernel read.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { IoScheduler, type SchedulerOptions, WriteBarrierError } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import type { DiskTrace } from 'write-barrier/testing';
import { VirtioBackend } from '../../src/systems/virtio/backend.js';
import { VIRTIO_WRITEBACK_AT } from '../../src/systems/virtio/codec.js';
import { type VirtioStorageOptions, virtioStorage } from '../../src/systems/virtio/storage.js';
import { xenLoopback } from '../../src/systems/xen/backend.js';
import type { BlkFeatures } from '../../src/systems/xen/features.js';
import { BLKIF_OP } from '../../src/systems/xen/wire.js';
import { loadRecording } from '../interop/ext4.js';

const { trace, final } = loadRecording();
let folder = '';

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'write-barrier-stack-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file with the disk as it was before the trace, under a scheduler. */
async function diskAt(
  name: string,
  options: SchedulerOptions = {},
): Promise<{ path: string; scheduler: IoScheduler }> {
  const path = join(folder, name);
  await writeFile(path, trace.initial ?? new Uint8Array(trace.size));
  return { path, scheduler: new IoScheduler(await FileStorage.open(path), options) };
}

/** Who sends the trace. */
interface Guest {
  /** It may change on the way. */
  readonly queue: IoScheduler;
  /** As file systems did until 2.6.36: the write before a flush is a barrier, and there is no other flush. */
  readonly barriers?: boolean;
}

/**
 * As concurrent as the kernel was: nothing is sent before the answers that came before it.
 *
 * @param change is called on the way, at a third and at two thirds of it
 * @returns how many barriers came back as not supported, and were sent again without, as jbd does
 */
async function replay(
  { commands }: DiskTrace,
  guest: Guest,
  change: readonly [taken: () => unknown, givenBack: () => unknown],
): Promise<number> {
  const events = commands
    .flatMap(({ dispatched, completed }, i) => [
      { time: dispatched, i, sends: true },
      { time: completed, i, sends: false },
    ])
    .sort((a, b) => a.time - b.time);
  const expected = trace.initial?.slice() ?? new Uint8Array(trace.size);
  const answers: Promise<unknown>[] = [];
  let again = 0;
  const commit = (offset: number, data: Uint8Array): Promise<void> =>
    guest.queue.write(offset, data, { barrier: true }).catch((error) => {
      const { cause } = error;
      if (!WriteBarrierError.is(cause) || cause.code !== 'EOPNOTSUPP') throw error;
      again += 1;
      return guest.queue.write(offset, data);
    });
  const { barriers = false } = guest;
  for (const [n, { i, sends }] of events.entries()) {
    if (n === Math.floor(events.length / 3)) await change[0]();
    if (n === Math.floor((events.length * 2) / 3)) await change[1]();
    const { op, offset, length, data } = commands[i] as DiskTrace['commands'][number];
    if (!sends) {
      await answers[i];
    } else if (op === 'write') {
      expected.set(data as Uint8Array, offset);
      const last = barriers && commands[i + 1]?.op === 'flush';
      answers[i] = last
        ? commit(offset, data as Uint8Array)
        : guest.queue.write(offset, data as Uint8Array);
    } else if (op === 'flush') {
      answers[i] = barriers ? guest.queue.barrier() : guest.queue.flush();
    } else {
      const then = expected.slice(offset, offset + length);
      answers[i] = guest.queue
        .read(offset, length)
        .then((bytes) => expect(Buffer.compare(bytes, then)).toBe(0));
    }
  }
  return again;
}

async function expectFinal(path: string): Promise<void> {
  expect(Buffer.compare(await readFile(path), final)).toBe(0);
}

describe('virtio-blk driver, buffers, device, scheduler, file', () => {
  test.each(['linuxToday', 'specification'] as const)(
    'given the driver %s, when the cache is write-through for a while, then the file is what the kernel left',
    async (era) => {
      const { path, scheduler } = await diskAt(`virtio-${era}`);
      const device = new VirtioBackend(scheduler);
      const storage = await virtioStorage(device, { era });
      const queue = new IoScheduler(storage, { mode: storage.ordering.mode, allowUnsafe: true });
      const writeback = (value: number) => () => {
        device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(value));
        expect(device.readConfig()[VIRTIO_WRITEBACK_AT]).toBe(value);
      };
      await replay(trace, { queue }, [writeback(0), writeback(1)]);
      await queue.close();
      expect(device.inFlight).toBe(0);
      await scheduler.close();
      await expectFinal(path);
    },
  );

  test('when the device is reset and its driver does without FLUSH for a while, then the file is what the kernel left', async () => {
    const { path, scheduler } = await diskAt('virtio-reset');
    const device = new VirtioBackend(scheduler);
    const modes: string[] = [];
    const open = async (options: VirtioStorageOptions): Promise<IoScheduler> => {
      const storage = await virtioStorage(device, options);
      modes.push(storage.ordering.mode);
      return new IoScheduler(storage, { mode: storage.ordering.mode });
    };
    const guest = { queue: await open({}) };
    const reopen = (options: VirtioStorageOptions) => async () => {
      await guest.queue.close();
      guest.queue = await open(options);
    };
    await replay(trace, guest, [reopen({ decline: ['FLUSH', 'CONFIG_WCE'] }), reopen({})]);
    await guest.queue.close();
    await scheduler.close();
    expect(modes).toEqual(['DRAIN_FLUSH', 'DRAIN', 'DRAIN_FLUSH']);
    await expectFinal(path);
  });

  test('given a driver of 2010 and its barriers, when these are UNSUPP for a while, then the file is what the kernel left', async () => {
    const { path, scheduler } = await diskAt('virtio-barriers', { allowUnsafe: true });
    const { mode } = scheduler;
    const device = new VirtioBackend(scheduler, { features: ['BARRIER', 'SEG_MAX', 'SIZE_MAX'] });
    const storage = await virtioStorage(device, { era: 'afterPatch' });
    const queue = new IoScheduler(storage, { mode: storage.ordering.mode });
    const again = await replay(trace, { queue, barriers: true }, [
      () => scheduler.setMode('NONE'),
      () => scheduler.setMode(mode),
    ]);
    await queue.close();
    await scheduler.close();
    expect([storage.ordering.mode, again > 10]).toEqual(['TAG', true]);
    await expectFinal(path);
  });
});

describe('Xen frontend, ring, backend, scheduler, file', () => {
  interface Taken {
    readonly name: string;
    readonly barriers: boolean;
    readonly offer: Partial<BlkFeatures>;
    readonly operation: number;
  }
  const TAKEN: readonly Taken[] = [
    {
      // A kernel of the time: every journal commit is a barrier.
      name: 'barriers',
      barriers: true,
      offer: { barrier: false },
      operation: BLKIF_OP.WRITE_BARRIER,
    },
    {
      name: 'flushes',
      barriers: false,
      offer: { flush: false },
      operation: BLKIF_OP.FLUSH_DISKCACHE,
    },
  ];
  const rings = (['x86-64', 'x86-32'] as const).flatMap((layout) =>
    TAKEN.map((taken) => ({ ...taken, layout })),
  );

  test.each(rings)(
    'given a kernel that uses $name over a ring of $layout, when the backend does not take them for a while, then the file is what the kernel left',
    async ({ name, barriers, offer, operation, layout }) => {
      const { path, scheduler } = await diskAt(`xen-${name}-${layout}`);
      const refused: number[] = [];
      const { frontend, backend } = xenLoopback(scheduler, {
        layout,
        refused: (request) => refused.push(request.operation),
      });
      const queue = new IoScheduler(frontend);
      const { barrier, flush } = backend.features;
      const again = await replay(trace, { queue, barriers }, [
        () => backend.offer(offer),
        () => backend.offer({ barrier, flush }),
      ]);
      await queue.close();
      await scheduler.close();
      // The frontend makes up for it, and tells nobody.
      expect([new Set(refused), again]).toEqual([new Set([operation]), 0]);
      await expectFinal(path);
    },
  );
});
