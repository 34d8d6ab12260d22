// Exports whose size changes. The protocol tells the size in the handshake and never again, so a connection keeps the one that it was
// told; the server answers it as the protocol says for ranges after the end.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, "Error values", and NBD_INFO_EXPORT in "Option types".

import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage } from '../../src/index.js';
import { NbdServer, NbdStorage } from '../../src/nbd/index.js';
import { COMMAND, NBD_ERROR } from '../../src/nbd/wire/index.js';
import { RawClient, temporaryFolder } from './support.js';

const { READ, WRITE, WRITE_ZEROES, TRIM, CACHE, FLUSH } = COMMAND;
const BLOCK = 4096;
const PLAIN = { fua: false, tag: 'simple' } as const;
const block = (byte: number): Uint8Array => new Uint8Array(BLOCK).fill(byte);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let path = '';
let disk: IoScheduler;
let server: NbdServer;

beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 'socket');
  disk = new IoScheduler(new MemoryStorage(4 * BLOCK));
  server = new NbdServer({ exports: { '': disk } });
  await server.listen({ path });
});

afterEach(async () => {
  await server.close();
  await folder.remove();
});

const sizeOf = ({ infos }: RawClient): unknown => infos.find(({ kind }) => kind === 'export');

test('a connection is told the size of the moment at which it opens the export', async () => {
  for (const blocks of [4, 6, 0, 2]) {
    await disk.resize(blocks * BLOCK);
    const client = await RawClient.open(path);
    expect(sizeOf(client)).toMatchObject({ size: blocks * BLOCK });
    client.socket.destroy();
  }
});

test('given an export that became smaller, then an older connection gets the errors for ranges after the end, and goes on', async () => {
  const old = await RawClient.open(path);
  expect((await old.ask(WRITE, { offset: 3 * BLOCK, data: block(7) })).error).toBe(0);
  await disk.resize(2 * BLOCK);
  const beyond = { offset: 2 * BLOCK, length: BLOCK };
  for (const [command, error] of [
    [READ, NBD_ERROR.EINVAL],
    [TRIM, NBD_ERROR.EINVAL],
    [CACHE, NBD_ERROR.EINVAL],
    [WRITE_ZEROES, NBD_ERROR.ENOSPC],
  ] as const) {
    expect([command, (await old.ask(command, beyond)).error]).toEqual([command, error]);
  }
  const written = await old.ask(WRITE, { offset: BLOCK, data: new Uint8Array(2 * BLOCK) });
  expect(written.error).toBe(NBD_ERROR.ENOSPC);
  expect((await old.ask(WRITE, { offset: BLOCK, data: block(8) })).error).toBe(0);
  expect((await old.ask(FLUSH)).error).toBe(0);

  // What it cut off reads as zero when it is there again, for the connection that wrote it as well.
  await disk.resize(8 * BLOCK);
  const read = await old.ask(READ, { offset: 3 * BLOCK, length: BLOCK });
  expect([read.error, read.data]).toEqual([0, block(0)]);
  expect((await old.ask(READ, { offset: 4 * BLOCK, length: BLOCK })).error).toBe(NBD_ERROR.EINVAL);
  const young = await RawClient.open(path);
  expect((await young.ask(WRITE, { offset: 7 * BLOCK, data: block(9) })).error).toBe(0);
  for (const { socket } of [old, young]) socket.destroy();
});

test('given requests that run while the export shrinks, then each is answered', async () => {
  const client = await RawClient.open(path);
  const asked = Array.from({ length: 64 }, (_, at) =>
    client.ask(at % 2 === 0 ? READ : WRITE_ZEROES, { offset: (at % 4) * BLOCK, length: BLOCK }),
  );
  await Promise.all([disk.resize(BLOCK), disk.resize(3 * BLOCK), disk.resize(BLOCK)]);
  for (const { error } of await Promise.all(asked)) {
    expect([0, NBD_ERROR.EINVAL, NBD_ERROR.ENOSPC]).toContain(error);
  }
  client.socket.destroy();
});

test('given an export of another size after a lost connection, then the client gives up and says both sizes', async () => {
  const near = join(folder.path, 'near');
  const sockets = new Set<Socket>();
  const relay = createServer((socket) => {
    const other = connect({ path });
    for (const end of [socket, other]) sockets.add(end.on('error', () => {}));
    socket.pipe(other).pipe(socket);
  });
  await new Promise<void>((resolve) => relay.listen(near, resolve));
  const storage = await NbdStorage.connect({ path: near, delayMs: 1 });
  expect([storage.size, storage.capabilities.resize, 'resize' in storage]).toEqual([
    4 * BLOCK,
    false,
    false,
  ]);
  await storage.write(0, block(1), PLAIN);
  await disk.resize(8 * BLOCK);
  for (const socket of sockets) socket.destroy();
  await expect(storage.write(BLOCK, block(2), PLAIN)).rejects.toMatchObject({
    code: 'CONNECTION_LOST',
    message: expect.stringContaining(
      'the server came back with another export: its size was 16384 bytes, and is now 32768',
    ),
  });
  expect(storage.size).toBe(4 * BLOCK);
  const again = await NbdStorage.connect({ path: near });
  expect(again.size).toBe(8 * BLOCK);
  await again.close();
  await storage.close().catch(() => {});
  relay.close();
});
