// Goal: real load through whole stacks, byte for byte. Method: what a kernel's ext4 sent to its disk is sent again by a
// guest's scheduler, through a driver, the bytes of its protocol and a device, to a scheduler over a file; features go
// and come while it runs. The file must be what the kernel left, and every read what the kernel read.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { IoScheduler } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import {
  BLKIF_OP,
  BLKIF_STATUS,
  type BlkifRequest,
  type BlkifResponse,
  blkback,
  VIRTIO_WRITEBACK_AT,
  VirtioBackend,
  virtioStorage,
  xenLoopbackOver,
} from 'write-barrier/systems';
import type { DiskTrace } from 'write-barrier/testing';
import { loadRecording } from '../interop/ext4.js';

const { trace, final } = loadRecording();
let folder = '';

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'write-barrier-stack-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file with the disk as it was before the trace, under a scheduler. */
async function diskAt(name: string): Promise<{ path: string; scheduler: IoScheduler }> {
  const path = join(folder, name);
  await writeFile(path, trace.initial ?? new Uint8Array(trace.size));
  return { path, scheduler: new IoScheduler(await FileStorage.open(path)) };
}

/**
 * As concurrent as the kernel was: nothing is sent before the answers that came before it.
 *
 * @param between is told the way so far, from 0 to 1
 * @param barriers as file systems did then: the write before a flush is a barrier, and there is no other flush
 */
async function replay(
  { commands }: DiskTrace,
  guest: IoScheduler,
  between: (done: number) => void,
  { barriers = false } = {},
): Promise<void> {
  const events = commands
    .flatMap(({ dispatched, completed }, i) => [
      { time: dispatched, i, sends: true },
      { time: completed, i, sends: false },
    ])
    .sort((a, b) => a.time - b.time);
  const expected = trace.initial?.slice() ?? new Uint8Array(trace.size);
  const answers: Promise<unknown>[] = [];
  for (const [n, { i, sends }] of events.entries()) {
    between(n / events.length);
    const { op, offset, length, data } = commands[i] as DiskTrace['commands'][number];
    if (!sends) {
      await answers[i];
    } else if (op === 'write') {
      expected.set(data as Uint8Array, offset);
      const barrier = barriers && commands[i + 1]?.op === 'flush';
      answers[i] = guest.write(offset, data as Uint8Array, { barrier });
    } else if (op === 'flush') {
      answers[i] = barriers ? guest.barrier() : guest.flush();
    } else {
      const then = expected.slice(offset, offset + length);
      answers[i] = guest
        .read(offset, length)
        .then((bytes) => expect(Buffer.compare(bytes, then)).toBe(0));
    }
  }
}

/** Calls each at its part of the way, once. */
function timetable(entries: readonly (readonly [at: number, call: () => void])[]) {
  const left = [...entries];
  return (done: number): void => {
    while (left[0] && done >= left[0][0]) left.shift()?.[1]();
  };
}

async function expectFinal(path: string): Promise<void> {
  expect(Buffer.compare(await readFile(path), final)).toBe(0);
}

describe('virtio-blk driver, buffers, device, scheduler, file', () => {
  test.each(['afterPatch', 'linuxToday', 'specification'] as const)(
    'given the driver %s, when a kernel writes through it and the cache mode is toggled meanwhile, then the file is what the kernel left',
    async (era) => {
      const { path, scheduler } = await diskAt(`virtio-${era}`);
      const device = new VirtioBackend(scheduler);
      const storage = await virtioStorage(device, { era });
      const guest = new IoScheduler(storage, { mode: storage.ordering.mode, allowUnsafe: true });
      const writeback = (value: number) => () =>
        device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(value));
      await replay(
        trace,
        guest,
        timetable([
          [0.3, writeback(0)],
          [0.6, writeback(1)],
        ]),
      );
      await guest.close();
      expect(device.inFlight).toBe(0);
      await scheduler.close();
      await expectFinal(path);
    },
  );
});

describe('Xen frontend, ring, backend, scheduler, file', () => {
  test.each(['x86-64', 'x86-32'] as const)(
    'given a ring of %s, when a kernel writes through it and every feature is taken back and given again meanwhile, then the file is what the kernel left',
    async (layout) => {
      const { path, scheduler } = await diskAt(`xen-${layout}`);
      let refuses = false;
      const refused = { count: 0 };
      const { frontend } = xenLoopbackOver(
        (grants) => {
          const backend = blkback(scheduler, { page: grants.page });
          return {
            nodes: backend.nodes,
            serve: async (request: BlkifRequest): Promise<BlkifResponse> => {
              const { operation, id } = request;
              // As a backend whose disk has lost the feature: it says so at any time, and nothing of the payload is written.
              if (
                refuses &&
                (operation === BLKIF_OP.WRITE_BARRIER || operation === BLKIF_OP.DISCARD)
              ) {
                refused.count += 1;
                return { id, operation, status: BLKIF_STATUS.EOPNOTSUPP };
              }
              return backend.serve(request);
            },
          };
        },
        { layout },
      );
      const guest = new IoScheduler(frontend);
      await replay(
        trace,
        guest,
        timetable([
          [0.3, () => (refuses = true)],
          [0.6, () => (refuses = false)],
        ]),
        // A kernel of the time: every journal commit is a barrier.
        { barriers: true },
      );
      await guest.close();
      await scheduler.close();
      expect(refused.count).toBeGreaterThan(0);
      await expectFinal(path);
    },
  );
});
