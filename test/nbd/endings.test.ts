// What becomes of requests when a connection or the server ends at the worst of moments. The rules are at the heads of
// src/nbd/server/connection.ts (K) and server.ts.

import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage } from '../../src/index.js';
import { NbdServer, type NbdServerEvent, type NbdServerOptions } from '../../src/nbd/index.js';
import {
  COMMAND,
  encodeOption,
  NBD_ERROR,
  OPTION,
  OPTION_REPLY_HEADER,
  SERVER_GREETING,
} from '../../src/nbd/wire/index.js';
import { share } from '../kit/amount.js';
import { bytes, FLAGS, go, RawClient, request, temporaryFolder } from './support.js';

const { FLUSH, WRITE, WRITE_ZEROES } = COMMAND;
const MIB = 1 << 20;
const block = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let path = '';

beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 'socket');
});
afterEach(() => folder.remove());

/** A volatile storage whose commands wait in line, each until it is let go. */
class Gated implements Storage {
  readonly inner: MemoryStorage;
  readonly size: number;
  readonly capabilities: Storage['capabilities'];
  readonly calls: string[] = [];
  readonly waiting: (() => void)[] = [];
  open = false;
  /** What a flush fails with. */
  failing: Error | undefined;

  constructor(size = MIB, writeZeroes = true) {
    this.inner = new MemoryStorage(size, { capabilities: { cache: 'volatile', writeZeroes } });
    this.size = size;
    this.capabilities = { ...this.inner.capabilities, writev: false };
  }

  readonly read = (offset: number, into: Uint8Array): Promise<void> =>
    this.#call(`read ${offset}`, () => this.inner.read(offset, into));
  readonly write: Storage['write'] = (offset, data, flags) =>
    this.#call(`write ${offset}`, () => this.inner.write(offset, data, flags));
  readonly flush = (): Promise<void> =>
    this.#call('flush', () => {
      if (this.failing) throw this.failing;
    });
  readonly discard = (offset: number, length: number): Promise<void> =>
    this.#call(`discard ${offset}`, () => this.inner.discard?.(offset, length));
  readonly writeZeroes = (offset: number, length: number): Promise<void> =>
    this.#call(`zeroes ${offset}`, () => this.inner.writeZeroes?.(offset, length));
  readonly close = (): void => {};

  /** The next command goes through once it is there. */
  async release(): Promise<void> {
    while (this.waiting.length === 0) await pause(1);
    this.waiting.shift()?.();
  }

  /** From now on everything goes through. */
  releaseAll(): void {
    this.open = true;
    for (const go of this.waiting.splice(0)) go();
  }

  async #call(what: string, run: () => unknown): Promise<void> {
    this.calls.push(what);
    if (!this.open) await new Promise<void>((resolve) => this.waiting.push(resolve));
    await run();
  }
}

async function serving(
  storage: Gated | IoScheduler,
  options: Omit<NbdServerOptions, 'exports'> = {},
): Promise<NbdServer> {
  const server = new NbdServer({ exports: { '': storage }, ...options });
  await server.listen({ path });
  onTestFinished(() => {
    if (storage instanceof Gated) storage.releaseAll();
    return server.close().catch(() => {});
  });
  return server;
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await pause(1);
}

/** After STARTTLS and a handshake with a pre-shared key. */
async function sealed(socket: Socket, psk: Uint8Array): Promise<Socket> {
  socket.write(bytes(FLAGS, encodeOption(OPTION.STARTTLS)));
  let read = 0;
  await new Promise<void>((resolve) => {
    socket.on('data', function take(chunk) {
      read += chunk.length;
      if (read < SERVER_GREETING.bytes + OPTION_REPLY_HEADER.bytes) return;
      socket.off('data', take);
      socket.pause();
      resolve();
    });
  });
  return new Promise((resolve) => {
    const secure = tlsConnect(
      {
        socket,
        ciphers: 'TLS_AES_128_GCM_SHA256:PSK-AES128-GCM-SHA256',
        checkServerIdentity: () => undefined,
        pskCallback: () => ({ psk, identity: 'alice' }),
      },
      () => resolve(secure),
    );
    secure.on('error', () => {});
  });
}

/** Says so much on a socket of its own. */
function saying(...said: readonly Uint8Array[]): ReturnType<typeof connect> {
  const socket = connect({ path });
  socket.on('error', () => {});
  socket.resume();
  socket.write(bytes(FLAGS, go(), ...said));
  return socket;
}

describe('a server that closes', () => {
  // Otherwise its success would be told behind the last flush, which has not covered it.
  test('refuses a write whose payload was not complete when it began to', async () => {
    const storage = new Gated();
    const server = await serving(storage);
    const client = await RawClient.open(path);
    const write = client.ask(WRITE, { length: 4096 });
    client.socket.write(block(1).subarray(0, 1000));
    await pause(20);
    const closing = server.close();
    await until(() => storage.calls.includes('flush'));
    client.socket.write(block(1).subarray(1000));
    expect((await write).error).toBe(NBD_ERROR.ESHUTDOWN);
    storage.releaseAll();
    await closing;
    expect(storage.calls).toEqual(['flush']);
  });
});

// Goal: what `close` promises, at whatever moment it comes. Method: clients in every state, some of which write without a
// pause; a disk with delays of its own, whose writes are on the medium when a flush that was called after them has ended.
// Whatever was answered well, whenever that was, must be there when `close` has settled.
test('given clients in any state, when a server closes, then all that it ever answered well is durable', async () => {
  const BLOCKS = 16;
  const state = fc.constantFrom(
    'writes',
    'writes',
    'halves',
    'shakes',
    'leaves',
    'is deaf',
    'cuts',
  );
  const world = fc.record({
    clients: fc.array(state, { minLength: 1, maxLength: 5 }),
    turns: fc.array(fc.nat(6), { minLength: 30, maxLength: 30 }),
    closesAfter: fc.nat(300),
  });
  await fc.assert(
    fc.asyncProperty(world, async ({ clients, turns, closesAfter }) => {
      let turn = 0;
      const delay = async (): Promise<void> => {
        turn += 1;
        for (let left = turns[turn % 30] ?? 0; left > 0; left -= 1) {
          await new Promise(setImmediate);
        }
      };
      const [cache, medium] = [new Map<number, number>(), new Map<number, number>()];
      const disk: Storage = {
        size: BLOCKS * 512,
        capabilities: {
          ...{ blockSize: 512, flush: true, fua: false, orderedTags: false },
          cache: 'volatile',
        },
        read: (_, into) => void into.fill(0),
        write: async (offset, data) => {
          await delay();
          cache.set(offset, new DataView(data.buffer, data.byteOffset).getUint32(0));
          await delay();
        },
        flush: async () => {
          const dirty = [...cache];
          // So long that a client has the time for another write.
          for (let times = 0; times < 5; times += 1) await delay();
          for (const [at, version] of dirty) medium.set(at, version);
        },
        close: () => {},
      };
      const server = new NbdServer({ exports: { '': disk }, limits: { closeMs: 20 } });
      const where = join(folder.path, `s${Math.random()}`);
      await server.listen({ path: where });
      const answered = new Map<number, number>();
      let version = 0;
      const write = async (client: RawClient, offset: number): Promise<void> => {
        version += 1;
        const mine = version;
        const data = new Uint8Array(512);
        new DataView(data.buffer).setUint32(0, mine);
        const { error } = await client.ask(WRITE, { offset, data });
        if (error === 0) answered.set(offset, mine);
      };
      const sockets: ReturnType<typeof connect>[] = [];
      const running = clients.map(async (what, i) => {
        if (what === 'shakes' || what === 'is deaf') {
          const socket = connect({ path: where });
          sockets.push(socket.on('error', () => {}));
          const reads = Array.from({ length: 300 }, (_, k) =>
            request(COMMAND.READ, k, { length: BLOCKS * 512 }),
          );
          socket.write(what === 'shakes' ? FLAGS : bytes(FLAGS, go(), ...reads));
          return;
        }
        const client = await RawClient.open(where);
        sockets.push(client.socket);
        for (let n = 0; n < 50; n += 1) {
          const writes = [0, 1].map((k) => write(client, (i * 3 + k) * 512));
          await Promise.all(writes);
          if (what === 'halves' && n === 3) {
            client.socket.write(request(WRITE, 99, { length: 512 }).subarray(0, 20 + i));
            return;
          }
          if (what === 'leaves' && n === 3) client.socket.write(request(COMMAND.DISC, 99));
          if (what === 'cuts' && n === 3) client.socket.destroy();
        }
      });
      const ends = Promise.allSettled(running);
      for (let left = closesAfter; left > 0; left -= 1) await new Promise(setImmediate);
      await Promise.all([server.close(), server.close()]);
      for (const socket of sockets) socket.destroy();
      await ends;
      for (const [at, mine] of answered) expect(medium.get(at) ?? 0).toBeGreaterThanOrEqual(mine);
      expect(server.stats().connections).toBe(0);
    }),
    { numRuns: share(150) },
  );
});

describe('a client that is gone', () => {
  test('connection.K6: has nothing begun for it any more, and no more than was at the storage is done', async () => {
    const events: NbdServerEvent[] = [];
    const storage = new Gated();
    const limits = { requestsInFlight: 2 };
    const server = await serving(storage, { limits, observer: (event) => events.push(event) });
    const writes = Array.from({ length: 6 }, (_, i) =>
      request(WRITE, i, { offset: i * 8192, data: block(1) }),
    );
    const socket = saying(...writes);
    await until(() => storage.calls.length === 2);
    socket.destroy();
    await pause(20);
    storage.releaseAll();
    await until(() => server.stats().connections === 0);
    await pause(20);
    expect(storage.calls).toEqual(['write 0', 'write 8192']);
    expect(events.at(-1)).toMatchObject({ kind: 'ended' });
  });

  // It may have come back, and have written something newer behind them.
  test('connection.K6: has no further piece of its zeroes written', async () => {
    const storage = new Gated(8 * MIB, false);
    await serving(storage);
    const socket = saying(request(WRITE_ZEROES, 1, { length: 4 * MIB }));
    await until(() => storage.calls.length === 1);
    socket.destroy();
    await pause(20);
    storage.releaseAll();
    await pause(50);
    expect(storage.calls).toEqual(['write 0']);
  });

  // There the system says nothing of the end but that no more will come, which a client that waits for its replies says too.
  // What is sent fits into one record of TLS: what waits in a socket that is not read hides the end.
  test.each([false, true])(
    'connection.K6: of a port has nothing begun either, and no further piece written, with TLS: %s',
    async (tls) => {
      const held = new Gated(8 * MIB, false);
      const key = new Uint8Array(32).fill(7);
      const server = await serving(held, {
        limits: { requestsInFlight: 2 },
        ...(tls && { tls: { psk: { alice: key } } }),
      });
      const { port } = (await server.listen({ port: 0 })) as { port: number };
      const gone = async (...said: readonly Uint8Array[]): Promise<void> => {
        const before = held.calls.length;
        const socket = connect({ port });
        socket.on('error', () => {});
        const line = tls ? await sealed(socket, key) : socket;
        line.resume();
        line.write(tls ? bytes(go(), ...said) : bytes(FLAGS, go(), ...said));
        await until(() => held.calls.length > before);
        await pause(20);
        socket.destroy();
        await pause(50);
        for (const release of held.waiting.splice(0)) release();
        await until(() => server.stats().connections === 0);
        await pause(20);
      };
      const writes = Array.from({ length: 6 }, (_, i) =>
        request(WRITE, i, { offset: i * 8192, data: block(1).subarray(0, 512) }),
      );
      await gone(...writes);
      expect(held.calls.splice(0)).toEqual(['write 0', 'write 8192']);
      await gone(request(WRITE_ZEROES, 1, { length: 4 * MIB }));
      expect(held.calls).toEqual(['write 0']);
    },
  );

  test('politely, is not cut off while the storage takes its time', async () => {
    const storage = new Gated();
    await serving(storage);
    const client = await RawClient.open(path);
    const write = client.ask(WRITE, { data: block(1) });
    await until(() => storage.calls.length === 1);
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
    client.socket.write(request(COMMAND.DISC, 99));
    for (let turns = 0; turns < 50; turns += 1) await new Promise(setImmediate);
    vi.advanceTimersByTime(60_000);
    for (let turns = 0; turns < 50; turns += 1) await new Promise(setImmediate);
    storage.releaseAll();
    expect((await write).error).toBe(0);
    await client.closed;
  });

  test('connection.K6: has nothing put into a queue that had no room for it', async () => {
    const storage = new Gated();
    const server = await serving(new IoScheduler(storage, { depth: 1, maxQueued: 1 }));
    const writes = Array.from({ length: 4 }, (_, i) =>
      request(WRITE, i, { offset: i * 8192, data: block(1) }),
    );
    const socket = saying(...writes);
    await until(() => storage.calls.length === 1);
    await pause(20);
    socket.destroy();
    await pause(20);
    storage.releaseAll();
    await until(() => server.stats().connections === 0);
    // One was at the storage, and one in the queue.
    expect(storage.calls).toEqual(['write 0', 'write 8192']);
  });
});

describe('after a flush that failed', () => {
  // The storage may have dropped what it could not write, and flush with success from then on.
  test('no flush is answered with success before what was lost is written anew', async () => {
    const storage = new Gated();
    storage.open = true;
    const scheduler = new IoScheduler(storage);
    const server = await serving(scheduler);
    const [one, other] = [await RawClient.open(path), await RawClient.open(path)];
    await one.ask(WRITE, { data: block(1) });
    storage.failing = new Error('EIO');
    expect((await other.ask(FLUSH)).error).toBe(NBD_ERROR.EIO);
    storage.failing = undefined;
    await scheduler.recover();
    expect((await one.ask(FLUSH)).error).toBe(NBD_ERROR.EIO);
    expect((await other.ask(WRITE, { offset: 4096, data: block(2) })).error).toBe(0);
    expect((await other.ask(FLUSH)).error).toBe(NBD_ERROR.EIO);
    await one.ask(WRITE, { data: block(1) });
    expect((await one.ask(FLUSH)).error).toBe(0);
    await server.close();
  });

  test('a server does not close with success before what was lost is written anew', async () => {
    const storage = new Gated();
    storage.open = true;
    const scheduler = new IoScheduler(storage);
    const server = await serving(scheduler);
    const client = await RawClient.open(path);
    await client.ask(WRITE, { data: block(1) });
    storage.failing = new Error('EIO');
    await client.ask(FLUSH);
    storage.failing = undefined;
    await scheduler.recover();
    await expect(server.close()).rejects.toMatchObject({
      code: 'FLUSH_FAILED',
      atRisk: [{ start: 0, end: 4096 }],
    });
  });
});
