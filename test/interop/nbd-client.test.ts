// The client against servers that nobody here wrote. Each is started by the test, on a Unix socket.

import { describe, expect, onTestFinished, test } from 'vitest';
import { NbdStorage, type NbdStorageOptions } from '../../src/nbd/client/index.js';
import { storageContract } from '../storage/contract.js';
import { has, type Server, server } from './nbd-client-servers.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;

const nbdkit = has('nbdkit');

async function started(...args: readonly string[]): Promise<Server> {
  const one = server((socket) => ['nbdkit', '-f', '-U', socket, ...args]);
  await one.start();
  return one;
}

async function connected(
  path: string,
  options: Partial<NbdStorageOptions> = {},
): Promise<NbdStorage> {
  const storage = await NbdStorage.connect({ path, ...options } as NbdStorageOptions);
  onTestFinished(() => storage.close());
  return storage;
}

describe.skipIf(!nbdkit)('nbdkit (skipped unless it is installed)', () => {
  storageContract(
    'NbdStorage over nbdkit memory',
    {
      blockSize: 512,
      cache: 'volatile',
      flush: true,
      fua: true,
      orderedTags: false,
      writev: true,
      discard: true,
      writeZeroes: true,
    },
    async () => {
      const { path } = await started('memory', '1M');
      const open = (): Promise<NbdStorage> => NbdStorage.connect({ path });
      return { storage: await open(), reopen: open };
    },
  );

  test('its memory reads as it was written', async () => {
    const { path } = await started('memory', '64M');
    const storage = await connected(path);
    const data = new Uint8Array(40 << 20).map((_, at) => at % 251);
    await storage.write(4096, data, PLAIN);
    await storage.flush(SIMPLE);
    const into = new Uint8Array(data.length);
    await storage.read(4096, into);
    expect(Buffer.compare(into, data)).toBe(0);
  });
});
