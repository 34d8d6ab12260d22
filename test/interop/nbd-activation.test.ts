// Goal: a server takes the sockets that systemd has opened for it. Method: systemd's own program for trying that, which gives the
// environment and the descriptors of a real unit, and a client that connects before there is a server.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test } from 'vitest';
import { temporaryFolder } from '../nbd/support.js';
import { missing, succeeds, titled } from './nbd-programs.js';

const DIST = fileURLToPath(new URL('../../dist/', import.meta.url));
const SERVICE = `
  import { spawnSync } from 'node:child_process';
  const { NbdServer, systemdSockets } = await import(${JSON.stringify(`${DIST}nbd.js`)});
  const { MemoryStorage } = await import(${JSON.stringify(`${DIST}index.js`)});
  const empty = {
    size: 0,
    capabilities: { blockSize: 512, cache: 'none', flush: false, fua: true, orderedTags: false },
    ...{ read() {}, write() {}, flush() {}, close() {} },
  };
  const server = new NbdServer({ exports: { '': new MemoryStorage(1 << 20), empty } });
  const given = process.env.LISTEN_FDNAMES;
  for (const socket of systemdSockets()) {
    console.log(JSON.stringify(await server.listen(socket).catch(({ code }) => code)));
  }
  const { LISTEN_FDS = 'none', LISTEN_PID = 'none' } = process.env;
  console.log(given, LISTEN_FDS, LISTEN_PID, JSON.stringify(systemdSockets()));
  process.on('SIGTERM', () => server.close());
`;

/** Starts the service as a unit with these sockets would; answers with what it says, and how to end it. */
async function activated(folder: string, listens: readonly string[]) {
  const program = join(folder, 'service.mjs');
  await writeFile(program, SERVICE);
  const words = [
    ...listens.map((where) => `--listen=${where}`),
    ...[`--fdname=${listens.map((_, i) => `s${i}`).join(':')}`, process.execPath, program],
  ];
  const child = spawn('systemd-socket-activate', words, { stdio: ['ignore', 'pipe', 'ignore'] });
  let said = '';
  child.stdout.on('data', (text) => {
    said += text;
  });
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  onTestFinished(() => void child.kill('SIGKILL'));
  return {
    said: () => said,
    end: () => {
      child.kill('SIGTERM');
      return exited;
    },
  };
}

const absent = missing('systemd-socket-activate', 'nbdinfo', 'nbdcopy');

describe.skipIf(absent.length > 0)(titled('a service', absent), () => {
  test('starts with its first client, on the sockets that systemd has opened, and exports nothing as well as anything', async () => {
    const folder = await temporaryFolder();
    onTestFinished(folder.remove);
    const path = join(folder.path, 'unit.sock');
    const port = 20_000 + Math.floor(Math.random() * 30_000);
    const service = await activated(folder.path, [
      path,
      `127.0.0.1:${port}`,
      `0.0.0.0:${port + 1}`,
    ]);
    while (!existsSync(path)) await new Promise((resolve) => setTimeout(resolve, 10));
    const uri = (name: string): string => `nbd+unix:///${name}?socket=${path}`;
    expect(await succeeds('nbdinfo', ['--size', uri('')])).toBe(`${1 << 20}\n`);
    expect(await succeeds('nbdinfo', ['--size', `nbd://127.0.0.1:${port}`])).toBe(`${1 << 20}\n`);
    expect(await succeeds('nbdinfo', ['--size', uri('empty')])).toBe('0\n');
    expect(await succeeds('nbdcopy', [uri('empty'), '-'])).toBe('');
    expect(service.said().trim().split('\n')).toEqual([
      '{"fd":3}',
      `{"host":"127.0.0.1","port":${port}}`,
      // It is of every address of this machine.
      '"INVALID_ARGUMENT"',
      's0:s1:s2 none none []',
    ]);
    expect(await service.end()).toBe(0);
    // The file is the business of systemd.
    expect(existsSync(path)).toBe(true);
    connect({ path }).on('error', () => {});
  });
});
