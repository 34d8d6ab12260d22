// Goal: clients that flood a server neither stop a polite one nor make the server hold more than it may, and what the polite one
// wrote is there. Method: floods from a process of their own, on our server in another one and on qemu-nbd, in the same run. How long the
// polite client waits is printed for both and not judged, because that is the business of the machine; the fair share is judged
// in virtual time (test/nbd/floods.test.ts), and figures come from `npm run bench -- floods`.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { RawClient, temporaryFolder } from '../nbd/support.js';
import { childServer } from './nbd-child.js';
import { missing, run, titled } from './nbd-programs.js';

const { READ, WRITE } = COMMAND;
const CLIENT = fileURLToPath(new URL('../../bench/flood-client.mjs', import.meta.url));
const { EXPORT_BYTES, FLOODS } = (await import(CLIENT)) as {
  EXPORT_BYTES: number;
  FLOODS: Record<string, { clients: number }>;
};
const BLOCK = 4096;
const ROUNDS = 100;
const TOTAL_BYTES = 128 << 20;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
const ends: (() => unknown)[] = [];

beforeEach(async () => {
  folder = await temporaryFolder();
});

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  await folder.remove();
});

/** Ends a process, now or at the end of the test. */
function ended(child: ChildProcess): () => Promise<void> {
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const end = (): Promise<void> => {
    child.kill('SIGKILL');
    return exited;
  };
  ends.push(end);
  return end;
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}

/** Floods a server until the result is called. */
async function flooding(path: string, name: string): Promise<() => Promise<void>> {
  const child = spawn(process.execPath, [CLIENT, path, name], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const end = ended(child);
  await new Promise((resolve) => child.stdout.once('data', resolve));
  return end;
}

/** Writes blocks and reads them again; answers with the time that 99 of a hundred reads do not exceed, in milliseconds. */
async function politeMs(client: RawClient): Promise<string> {
  const took: number[] = [];
  for (let i = 0; i < ROUNDS; i += 1) {
    const offset = EXPORT_BYTES / 2 + i * BLOCK;
    const data = new Uint8Array(BLOCK).fill(i + 1);
    expect((await client.ask(WRITE, { offset, data })).error).toBe(0);
    const start = performance.now();
    const read = await client.ask(READ, { offset, length: BLOCK });
    took.push(performance.now() - start);
    expect(Buffer.compare(read.data as Uint8Array, data)).toBe(0);
  }
  return (took.sort((a, b) => a - b)[Math.ceil(ROUNDS * 0.99) - 1] as number).toFixed(2);
}

async function qemu(): Promise<string> {
  const [file, path] = [join(folder.path, 'disk.img'), join(folder.path, 'qemu.sock')];
  await writeFile(file, new Uint8Array(EXPORT_BYTES));
  const words = ['--persistent', '--shared=128', '--format=raw', `--socket=${path}`, file];
  ended(spawn('qemu-nbd', words, { stdio: 'ignore' }));
  await until(() => existsSync(path));
  return path;
}

const absent = missing('qemu-nbd');

describe.skipIf(absent.length > 0)(titled('beside', absent), () => {
  test.each(Object.keys(FLOODS))('%s a polite client is served, in its order', async (name) => {
    const path = join(folder.path, 'ours.sock');
    const server = await childServer(
      path,
      `{ exports: { '': new MemoryStorage(${EXPORT_BYTES}) }, observer: undefined }`,
    );
    ends.push(() => server.kill());
    const polite = await RawClient.open(path);
    const stop = await flooding(path, name);
    const clients = (FLOODS[name]?.clients ?? 0) + 1;
    expect((await server.stats()).clients.length).toBe(clients);
    const ours = await politeMs(polite);
    const { heldBytes, clients: holders, requests, refusedRequests } = await server.stats();
    expect(heldBytes).toBeLessThanOrEqual(TOTAL_BYTES);
    expect(holders.reduce((sum, holder) => sum + holder.heldBytes, 0)).toBe(heldBytes);
    // Of the flood none may have been answered yet: a polite client does not wait for 64 MiB of zeroes.
    expect(requests + refusedRequests).toBeGreaterThanOrEqual(2 * ROUNDS);
    await stop();
    await until(async () => (await server.stats()).connections === 1);
    expect(await server.stats()).toMatchObject({ heldBytes: 0, failedExports: [] });
    expect(server.alive()).toBe(true);
    polite.socket.destroy();

    const theirs = await qemu();
    const guest = await RawClient.open(theirs);
    await flooding(theirs, name);
    const rival = await politeMs(guest);
    guest.socket.destroy();
    console.log(`beside ${name}: 99 of 100 reads within ${ours} ms, on qemu-nbd ${rival} ms`);
  });
});

const fio = missing('fio');

test.skipIf(fio.length > 0)(titled('fio finds what it wrote on 64 connections', fio), async () => {
  const path = join(folder.path, 'ours.sock');
  const server = await childServer(
    path,
    `{ exports: { '': new MemoryStorage(${EXPORT_BYTES}) }, observer: undefined }`,
  );
  ends.push(() => server.kill());
  const { code, text } = await run(
    'fio',
    [
      ...['--name=flood', '--ioengine=nbd', '--rw=randwrite', '--bs=4k', '--size=1m', '--thread'],
      ...['--verify=crc32c', '--verify_fatal=1', '--numjobs=64', '--offset_increment=1m'],
      ...['--iodepth=16', `--uri=nbd+unix:///?socket=${path}`],
    ],
    folder.path,
  );
  expect({ code, text }).toMatchObject({ code: 0 });
  // Each block was written and read.
  expect((await server.stats()).requests).toBeGreaterThanOrEqual(2 * 64 * 256);
});
