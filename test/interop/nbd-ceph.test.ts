// The client and the scheduler on Ceph: an RBD image behind qemu-nbd, whose librbd keeps a write-back cache that dies with
// it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { NbdStorage } from '../../src/nbd/index.js';
import { CEPH_PROGRAMS, startCeph } from './ceph.js';
import { scratch, server } from './nbd-client-servers.js';
import { killUnderLoad } from './nbd-kills.js';
import { missing, succeeds, titled } from './nbd-programs.js';

const absent = missing('qemu-nbd', ...CEPH_PROGRAMS);

describe.skipIf(absent.length > 0)(titled('an RBD image behind qemu-nbd', absent), () => {
  test('given a server that is killed at 10 moments under load, then nothing that was accepted is lost, and order holds', async () => {
    const folder = scratch();
    const conf = await startCeph(folder);
    const rbd = (...args: string[]): Promise<string> => succeeds('rbd', ['--conf', conf, ...args]);
    // Without the lock, which outlives whoever held it by half a minute.
    await rbd('create', '--size', '16M', '--image-feature', 'layering', 'rbd/disk');
    const one = server((socket) => [
      ...['qemu-nbd', '-t', '-f', 'raw', '--cache=writeback', '-e', '4', '-k', socket],
      `rbd:rbd/disk:conf=${conf}`,
    ]);
    await one.start();
    const storage = await NbdStorage.connect({
      ...{ path: one.path, connections: 4 },
      ...{ delayMs: 5, delayMsMax: 100, triesMax: Infinity },
    });
    onTestFinished(() => storage.close());
    expect([storage.connections, storage.capabilities.flush]).toEqual([4, true]);
    const medium = async (): Promise<Uint8Array> => {
      const file = join(folder, 'medium.img');
      await rbd('export', '--no-progress', 'rbd/disk', `${file}.new`);
      await succeeds('mv', [`${file}.new`, file]);
      return readFileSync(file);
    };
    const kills = { server: one, mode: 'DRAIN_FLUSH', medium, kills: 10 } as const;
    const { written, lossy } = await killUnderLoad({ storage, ...kills });
    expect(written).toBeGreaterThan(100);
    expect(lossy).toBeGreaterThan(0);
  });
});
