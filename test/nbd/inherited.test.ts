// Sockets and streams that the server has not opened itself. That systemd's own sockets are served is tested with systemd
// (test/interop/nbd-activation.test.ts).

import { once } from 'node:events';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import { afterEach, describe, expect, onTestFinished, test } from 'vitest';
import { MemoryStorage } from '../../src/index.js';
import { NbdServer, systemdSockets } from '../../src/nbd/index.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { line } from './line.js';
import { FLAGS, go, RawClient, request } from './support.js';

const { READ, WRITE, DISC } = COMMAND;
const data = new Uint8Array(4096).fill(7);

function made(): NbdServer {
  const server = new NbdServer({ exports: { '': new MemoryStorage(1 << 20) } });
  onTestFinished(() => server.close());
  return server;
}

describe('a stream', () => {
  test('that is connected is served, with all that is said of clients', async () => {
    const server = made();
    const [theirs, ours] = line();
    server.serve(theirs);
    const client = new RawClient(ours as Socket);
    await client.negotiate(FLAGS, go());
    expect((await client.ask(WRITE, { offset: 4096, data })).error).toBe(0);
    expect((await client.ask(READ, { offset: 4096, length: 4096 })).data).toEqual(data);
    expect(server.stats()).toMatchObject({
      connections: 1,
      clients: [{ connection: 0, export: '', requestsInFlight: 0, heldBytes: 0, waits: false }],
    });
    client.socket.write(request(DISC, 9));
    await client.closed;
    expect(server.stats().connections).toBe(0);
  });

  test('whose sending side is closed is answered, and ends', async () => {
    const server = made();
    const [theirs, ours] = line();
    server.serve(theirs);
    const client = new RawClient(ours as Socket);
    await client.negotiate(FLAGS, go());
    const read = client.ask(READ, { length: 4096 });
    client.socket.end();
    expect((await read).error).toBe(0);
    await client.closed;
    expect(server.stats().connections).toBe(0);
  });

  test('of a socket is served as one that was accepted', async () => {
    const server = made();
    const tunnel = createServer({ allowHalfOpen: true }, (socket) => server.serve(socket));
    onTestFinished(() => void tunnel.close());
    tunnel.listen({ host: '127.0.0.1', port: 0 });
    await once(tunnel, 'listening');
    const { port } = tunnel.address() as { port: number };
    const client = new RawClient(connect({ host: '127.0.0.1', port }));
    await client.negotiate(FLAGS, go());
    expect((await client.ask(READ, { length: 4096 })).error).toBe(0);
    client.socket.destroy();
  });

  test('that is none, or is over, or counts objects, is refused; and none is taken by a closed server', async () => {
    const server = made();
    const over = new PassThrough();
    over.destroy();
    for (const given of [undefined, {}, over, new PassThrough({ objectMode: true })]) {
      expect(() => server.serve(given as PassThrough)).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      );
    }
    await server.close();
    expect(() => server.serve(line()[0])).toThrow(expect.objectContaining({ code: 'CLOSED' }));
    expect(server.stats().accepted).toBe(0);
  });
});

describe('a descriptor', () => {
  test('that is none is refused, and one that is no socket as well', async () => {
    const server = made();
    for (const fd of [-1, 0.5, '3', 65_536]) {
      await expect(server.listen({ fd } as { fd: number })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    }
    await expect(server.listen({ fd: 65_535 })).rejects.toMatchObject({ code: 'IO_FAILED' });
    // A file stays open, because a process may need what it has wrongly given.
    const file = openSync(import.meta.filename, 'r');
    await expect(server.listen({ fd: file })).rejects.toMatchObject({ code: 'IO_FAILED' });
    expect(fstatSync(file).isFile()).toBe(true);
    closeSync(file);
    await expect(server.listen({ fd: 3, path: '/tmp/x' } as { fd: number })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});

describe('the sockets of systemd', () => {
  const saved = { ...process.env };
  afterEach(() => {
    process.env = { ...saved };
  });
  const given = (env: Record<string, string>): ReturnType<typeof systemdSockets> => {
    Object.assign(process.env, env);
    return systemdSockets();
  };

  test('are those of this process, told once', () => {
    const own = { LISTEN_PID: String(process.pid), LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' };
    expect(given(own)).toEqual([{ fd: 3 }, { fd: 4 }]);
    expect(Object.keys(process.env).filter((name) => name.startsWith('LISTEN_'))).toEqual([]);
    expect(systemdSockets()).toEqual([]);
  });

  test('of another process are not taken', () => {
    expect(given({ LISTEN_PID: String(process.pid + 1), LISTEN_FDS: '1' })).toEqual([]);
    expect(given({ LISTEN_FDS: '1' })).toEqual([]);
  });

  test.each(['', 'two', '-1', '1.5', '1e9'])('are refused if their number is %j', (LISTEN_FDS) => {
    const env = { LISTEN_PID: String(process.pid), LISTEN_FDS };
    if (LISTEN_FDS === '') expect(given(env)).toEqual([]);
    else expect(() => given(env)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });
});
