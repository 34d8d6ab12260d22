// Goal: a program that is done with an NBD export ends, whatever has become of the server. Method: it runs as a process; its
// server is in the same process, and gone for good, or hanging, or there. A timer or a socket that is left keeps it alive.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { emptyFolder } from './folder.js';

const BEGIN = `
  import { IoScheduler, MemoryStorage } from 'write-barrier';
  import { NbdServer, NbdStorage } from 'write-barrier/nbd';
  const path = process.argv[1];
  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const said = (what) => (error) => console.log(what, error.code);
  const memory = new MemoryStorage(8192, { capabilities: { cache: 'volatile', flush: true } });
  const hang = { is: false };
  const disk = { size: 8192, capabilities: { ...memory.capabilities, writev: false, discard: false, writeZeroes: false },
    read: (...args) => memory.read(...args), flush: () => memory.flush({ tag: 'simple' }), close: () => {},
    write: (...args) => (hang.is ? new Promise(() => {}) : memory.write(...args)) };
  const server = new NbdServer({ exports: { '': disk }, limits: { closeMs: 10 } });
  await server.listen({ path });
  const storage = await NbdStorage.connect({ path, triesMax: Infinity });
  const plain = { fua: false, tag: 'simple' };
  await storage.write(0, new Uint8Array(512), plain);
`;

/** What a program prints; it must end by itself. */
async function printed(program: string): Promise<string[]> {
  const path = join(await emptyFolder(), 'sock');
  const child = spawn(process.execPath, ['--input-type=module', '-e', BEGIN + program, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (bytes) => {
    text += bytes;
  });
  const [code, signal] = await once(child, 'exit');
  expect([code, signal]).toEqual([0, null]);
  return text.trim().split('\n');
}

test.each<readonly [string, string, readonly string[]]>([
  [
    'destroys its storage while the server is away for good',
    `await server.close();
     storage.write(512, new Uint8Array(512), plain).catch(said('write'));
     await wait(20);
     console.log(JSON.stringify(storage.destroy()), storage.state);`,
    ['[{"start":0,"end":512}] closed', 'write CONNECTION_LOST'],
  ],
  [
    'closes it while the server is away for good, and does not wait for that',
    `await server.close();
     storage.write(512, new Uint8Array(512), plain).catch(said('write'));
     await wait(20);
     storage.close().catch(said('close'));`,
    ['write CONNECTION_LOST', 'close CONNECTION_LOST'],
  ],
  [
    'closes a scheduler that gives up, and then the storage',
    `const scheduler = new IoScheduler(storage);
     await server.close();
     scheduler.write(512, new Uint8Array(512)).catch(said('write'));
     await scheduler.close({ timeoutMs: 50 }).catch(said('scheduler'));
     await storage.close().catch(said('storage'));`,
    ['write CLOSE_TIMEOUT', 'scheduler CLOSE_TIMEOUT', 'storage CONNECTION_LOST'],
  ],
  [
    'destroys it while the server hangs',
    `hang.is = true;
     storage.write(512, new Uint8Array(512), plain).catch(said('write'));
     await wait(20);
     storage.destroy();
     server.close().catch(() => {});`,
    ['write CONNECTION_LOST'],
  ],
  [
    'ends with a signal a close that hangs',
    `hang.is = true;
     storage.write(512, new Uint8Array(512), plain).catch(said('write'));
     const stop = new AbortController();
     setTimeout(() => stop.abort(new Error('enough')), 20);
     await storage.close({ signal: stop.signal }).catch((error) => console.log(error.cause.message));
     server.close().catch(() => {});`,
    ['write CONNECTION_LOST', 'enough'],
  ],
  ['closes it, and its server', `await storage.close(); await server.close();`, ['']],
])('a program ends that %s', async (_, program, expected) => {
  expect(await printed(program)).toEqual(expected);
});
