// Who may connect to a unix socket, which file may be removed, and who removes it. The rules (L) are at the head of
// src/nbd/server/listen.ts.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync } from 'node:fs';
import { link, mkdir, rename, symlink, unlink, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { MemoryStorage } from '../../src/index.js';
import { NbdServer } from '../../src/nbd/index.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { RawClient, temporaryFolder } from './support.js';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let path = '';

beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 'socket');
});
afterEach(() => folder.remove());

function made(): NbdServer {
  const server = new NbdServer({ exports: { '': new MemoryStorage(1 << 20) } });
  onTestFinished(() => server.close());
  return server;
}

/** The socket file that a killed server leaves: it has another name while its server closes, and then its own again. */
async function leftBehind(where = path): Promise<void> {
  const killed = made();
  await killed.listen({ path: where });
  await link(where, `${where}.kept`);
  await killed.close();
  await rename(`${where}.kept`, where);
}

async function answers(where = path): Promise<boolean> {
  const client = await RawClient.open(where).catch(() => undefined);
  if (!client) return false;
  const { error } = await client.ask(COMMAND.FLUSH);
  client.socket.destroy();
  return error === 0;
}

const refused = expect.objectContaining({ code: 'IO_FAILED' });

describe('a server on a unix socket', () => {
  test('listen.L1: of many that start on one name at once, one has it and answers', async () => {
    for (let round = 0; round < 30; round += 1) {
      const stale = round % 2 === 0;
      if (stale) await leftBehind();
      const servers = Array.from({ length: 4 }, made);
      const ended = await Promise.allSettled(servers.map((server) => server.listen({ path })));
      const ours = servers.filter((_, i) => ended[i]?.status === 'fulfilled');
      expect(ours).toHaveLength(1);
      for (const each of ended)
        if (each.status === 'rejected') expect(each.reason).toEqual(refused);
      expect(await answers()).toBe(true);
      expect(ours[0]?.stats().requests).toBe(1);
      await Promise.all(servers.map((server) => server.close()));
      expect(readdirSync(folder.path)).toEqual([]);
    }
  });

  test('listen.L2: takes the name of one that was killed', async () => {
    await leftBehind();
    expect(await answers()).toBe(false);
    await made().listen({ path });
    expect(await answers()).toBe(true);
    expect(readdirSync(folder.path)).toEqual(['socket']);
  });

  test('listen.L2: leaves every other file alone, and says what it is', async () => {
    const place = (name: string): string => join(folder.path, name);
    await writeFile(place('file'), 'precious');
    await mkdir(place('folder'));
    expect(spawnSync('mkfifo', [place('fifo')]).status).toBe(0);
    const living = createServer();
    await new Promise<void>((resolve) => living.listen(place('living'), resolve));
    onTestFinished(() => void living.close());
    await symlink(place('living'), place('link to a socket'));
    await symlink(place('nothing'), place('link to nothing'));
    const dies = `require('node:net').createServer().listen(${JSON.stringify(place('foreign'))}, () =>
      process.kill(process.pid, 'SIGKILL'))`;
    expect(spawnSync(process.execPath, ['-e', dies]).signal).toBe('SIGKILL');
    await leftBehind(place('dead'));
    await symlink(place('dead'), place('link to a dead socket'));
    const before = readdirSync(folder.path);
    for (const name of before) {
      if (name === 'dead') continue;
      const inode = lstatSync(place(name)).ino;
      await expect(made().listen({ path: place(name) })).rejects.toEqual(refused);
      expect([name, lstatSync(place(name)).ino]).toEqual([name, inode]);
    }
    await expect(made().listen({ path: place('foreign') })).rejects.toThrow(/remove it if/);
    await expect(made().listen({ path: place('fifo') })).rejects.toThrow(/not a socket/);
    await expect(made().listen({ path: place('living') })).rejects.toThrow(
      /a server answers there/,
    );
    expect(readdirSync(folder.path)).toEqual(before);
  });

  test('listen.L2: that is too busy to answer is not taken for dead', async () => {
    // A process that is stopped takes no connections, until its backlog is full.
    const source = `require('node:net').createServer().listen({ path: ${JSON.stringify(path)}, backlog: 1 }, () => process.send('ready'))`;
    const busy = spawn(process.execPath, ['-e', source], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    });
    onTestFinished(() => void busy.kill('SIGKILL'));
    await new Promise((resolve) => busy.once('message', resolve));
    busy.kill('SIGSTOP');
    const callers = Array.from({ length: 5 }, () => connect({ path }).on('error', () => {}));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await expect(made().listen({ path })).rejects.toEqual(refused);
    expect(existsSync(path)).toBe(true);
    for (const caller of callers) caller.destroy();
  });

  test('listen.L4: removes its own socket, and not that of its successor', async () => {
    const [old, next] = [made(), made()];
    await old.listen({ path });
    await unlink(path);
    await next.listen({ path });
    await old.close();
    expect(await answers()).toBe(true);
    await next.close();
    expect(existsSync(path)).toBe(false);
  });

  test('listen.L4: leaves alone what is there instead of its socket', async () => {
    const server = made();
    await server.listen({ path });
    await unlink(path);
    await writeFile(path, 'precious');
    await server.close();
    expect(readdirSync(folder.path)).toEqual(['socket']);
    expect(lstatSync(path).isFile()).toBe(true);
  });

  test('listen.L5: is not for others, whatever the umask is', async () => {
    const old = process.umask();
    onTestFinished(() => void process.umask(old));
    for (const umask of [0o000, 0o002, 0o022, 0o077]) {
      const where = join(folder.path, `u${umask}`);
      process.umask(umask);
      await made().listen({ path: where });
      expect(lstatSync(where).mode & 0o777).toBe(0o775 & ~umask);
      expect(await answers(where)).toBe(true);
    }
  });

  test('may have a path as long as the system takes, for which there is no room aside', async () => {
    const long = join(folder.path, 'x'.repeat(107 - folder.path.length - 1));
    expect(Buffer.byteLength(long)).toBe(107);
    const server = made();
    await server.listen({ path: long });
    await expect(made().listen({ path: long })).rejects.toEqual(refused);
    expect(await answers(long)).toBe(true);
    await server.close();
    await leftBehind(long);
    await made().listen({ path: long });
    expect(await answers(long)).toBe(true);
  });
});
