// What a dedicated worker does with files of its origin; the page says which act.

import { IoScheduler } from 'write-barrier';
import { OpfsStorage, serveStorage } from 'write-barrier/opfs';
import { storageContract } from 'write-barrier/testing';

const BLOCK = 4096;
const SIZE = 256 * BLOCK;
const FILE = 'app/store.db';

/** Tells the test what was found. */
const send = (found: unknown): Promise<unknown> =>
  fetch('/found', { method: 'POST', body: JSON.stringify(found) });

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'works',
    ({ code, message }) => `${code}: ${message}`,
  );

/** A block that says its number, whole. */
function record(number: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK);
  new Uint32Array(bytes.buffer).fill(number);
  return bytes;
}

const acts: Readonly<Record<string, () => Promise<unknown>>> = {
  /** The suite in a runner of three lines. */
  async contract() {
    const bodies: [name: string, body: () => unknown][] = [];
    const runner = {
      describe: (_: string, body: () => void) => body(),
      test: (name: string, body: () => unknown) => bodies.push([name, body]),
    };
    let number = 0;
    const first = await OpfsStorage.open('first', { size: BLOCK });
    const { capabilities } = first;
    first.close();
    storageContract(runner, {
      name: 'OpfsStorage',
      capabilities,
      open: async () => {
        const name = `contract/${number++}`;
        const storage = await OpfsStorage.open(name, { size: 64 * 512 });
        const reopen = (): Promise<OpfsStorage> => {
          storage.close();
          return OpfsStorage.open(name);
        };
        return { storage, reopen };
      },
      runs: 3,
    });
    const failed: string[] = [];
    for (const [name, body] of bodies) {
      try {
        await body();
      } catch (error) {
        failed.push(`${name}: ${error}`);
      }
    }
    return { tests: bodies.length, failed };
  },

  /** Writes records one after another, each on the medium before the next, and tells after fifty; it never ends. */
  async log() {
    const storage = await OpfsStorage.open(FILE, { size: SIZE, blockSize: BLOCK });
    const disk = new IoScheduler(storage);
    for (let number = 1; ; number += 1) {
      const offset = ((number - 1) * BLOCK) % SIZE;
      await disk.write(offset, record(number), { barrier: true });
      if (number === 50) await send({ acknowledged: number });
    }
  },

  /** The largest record that is whole. */
  async recover() {
    const storage = await OpfsStorage.open(FILE, { blockSize: BLOCK });
    const disk = new IoScheduler(storage);
    let [largest, torn] = [0, 0];
    for (let offset = 0; offset < SIZE; offset += BLOCK) {
      const words = new Uint32Array((await disk.read(offset, BLOCK)).slice().buffer);
      if (words.some((word) => word !== words[0])) torn += 1;
      else largest = Math.max(largest, words[0] ?? 0);
    }
    await disk.close();
    return { largest, torn };
  },

  /** What the browser refuses. */
  async refusals() {
    const open = await OpfsStorage.open('locked', { size: BLOCK });
    const locked = await codeOf(OpfsStorage.open('locked'));
    open.close();
    const again = await codeOf(OpfsStorage.open('locked').then((storage) => storage.close()));
    const quota = await codeOf(OpfsStorage.open('huge', { size: 2 ** 50 }));
    const grown = await OpfsStorage.open('grown', { size: BLOCK });
    const growth = await codeOf((async () => grown.resize(2 ** 50))());
    const size = grown.size;
    grown.resize(0);
    grown.resize(2 * BLOCK);
    grown.close();
    const later = await OpfsStorage.open('grown');
    const sizes = [size, later.size];
    later.close();
    const missing = await codeOf(OpfsStorage.open('missing/file'));
    await OpfsStorage.open('folder/file', { size: BLOCK }).then((storage) => storage.close());
    const folder = await codeOf(OpfsStorage.open('folder', { size: BLOCK }));
    return { locked, again, quota, growth, sizes, missing, folder };
  },

  /** Holds a file until the worker is ended. */
  async hold() {
    await OpfsStorage.open('held', { size: BLOCK });
    postMessage('holding');
    await new Promise(() => {});
  },

  /** Whether the file is free, which a browser may tell some time after its worker was ended. */
  async held() {
    for (let tries = 0; ; tries += 1) {
      const found = await codeOf(OpfsStorage.open('held').then((storage) => storage.close()));
      if (found === 'works' || tries === 100) return found;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  },
};

addEventListener('message', async ({ data: act, ports: [port] }) => {
  if (port) {
    serveStorage(OpfsStorage.open('served', { size: SIZE }), port);
    return;
  }
  const found = await acts[act]?.().catch((error) => ({ error: String(error) }));
  await send(found);
});
