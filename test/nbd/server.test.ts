import { existsSync } from 'node:fs';
import { link, rename, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TLSSocket, connect as tlsConnect } from 'node:tls';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage, WriteBarrierError } from '../../src/index.js';
import { NbdServer, type NbdServerEvent, type NbdServerOptions } from '../../src/nbd/index.js';
import {
  COMMAND,
  COMMAND_FLAG,
  encodeOption,
  NBD_ERROR,
  OPTION,
  OPTION_REPLY_HEADER,
  SERVER_GREETING,
} from '../../src/nbd/wire/index.js';
import { bytes, FLAGS, go, RawClient, request, temporaryFolder } from './support.js';

const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES } = COMMAND;
const { FUA, NO_HOLE, FAST_ZERO } = COMMAND_FLAG;
const SIZE = 1 << 20;
const block = (byte: number, length = 4096): Uint8Array => new Uint8Array(length).fill(byte);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let server: NbdServer | undefined;
let path = '';

beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 'socket');
});

afterEach(async () => {
  releaseAll();
  await server?.close().catch(() => {});
  server = undefined;
  await folder.remove();
});

async function serving(
  storage: NbdServerOptions['exports'][string],
  options: Omit<NbdServerOptions, 'exports'> = {},
): Promise<NbdServer> {
  server = new NbdServer({ exports: { '': storage }, ...options });
  await server.listen({ path });
  return server;
}

interface Held extends Storage {
  /** Commands that wait, oldest first. */
  readonly waiting: { readonly what: string; readonly release: (error?: Error) => void }[];
  readonly calls: string[];
}

/** Lets go what a test has left at held storages, and whatever comes to them from now on. */
let releaseAll = (): void => {};

/** A storage whose commands end when the test says so; `freely`: at once. */
function held(inner: Storage, freely: readonly string[] = []): Held {
  const waiting: Held['waiting'] = [];
  const calls: string[] = [];
  const hold = (what: string, run: () => unknown): Promise<void> =>
    new Promise((resolve, reject) => {
      calls.push(what);
      const release = (error?: Error): void => {
        if (!error) run();
        if (error) reject(error);
        else resolve();
      };
      if (free || freely.includes(what.split(' ')[0] ?? '')) release();
      else waiting.push({ what, release });
    });
  let free = false;
  releaseAll = () => {
    free = true;
    for (const { release } of waiting.splice(0)) release();
  };
  return {
    size: inner.size,
    capabilities: inner.capabilities,
    waiting,
    calls,
    read: (offset, into) => hold(`read ${offset}`, () => inner.read(offset, into)),
    write: (offset, data, flags) =>
      hold(`write${flags.fua ? '!' : ''} ${offset}`, () => inner.write(offset, data, flags)),
    writev: (offset, data, flags) =>
      hold(`write${flags.fua ? '!' : ''} ${offset}`, () => inner.writev?.(offset, data, flags)),
    flush: (flags) => hold('flush', () => inner.flush(flags)),
    discard: (offset, length) => hold(`discard ${offset}`, () => inner.discard?.(offset, length)),
    writeZeroes: (offset, length) =>
      hold(`zeroes ${offset}`, () => inner.writeZeroes?.(offset, length)),
    close: () => void calls.push('close'),
  };
}

/** Waits until `holds`; the test's own time limit is the limit. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 2));
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('requests', () => {
  test.each([false, true])('are carried out, with structured replies: %s', async (structured) => {
    const storage = new MemoryStorage(SIZE);
    await serving(storage);
    const client = await RawClient.open(path, { structured });
    expect(await client.ask(WRITE, { offset: 4096, data: block(7, 8192) })).toMatchObject({
      error: 0,
    });
    const { data } = await client.ask(READ, { offset: 4096, length: 12_288 });
    expect(data).toEqual(bytes(block(7, 8192), block(0)));
    await client.ask(WRITE_ZEROES, { offset: 4096, length: 4096 });
    await client.ask(WRITE_ZEROES, { offset: 8192, length: 512, flags: NO_HOLE | FUA });
    await client.ask(TRIM, { offset: 12_288, length: 4096, flags: FUA });
    expect((await client.ask(CACHE, { length: SIZE })).error).toBe(0);
    expect(storage.bytes[4096]).toBe(0);
    expect(storage.bytes.slice(8190, 8194)).toEqual(Uint8Array.of(0, 0, 0, 0));
    expect(storage.bytes[8192 + 512]).toBe(7);
    expect(storage.bytes[12_288]).toBe(MemoryStorage.DISCARDED);
    const refused = { flags: NO_HOLE | FAST_ZERO, length: 4096 };
    expect((await client.ask(WRITE_ZEROES, refused)).error).toBe(NBD_ERROR.ENOTSUP);
  });

  test('of 16 MiB go through in one piece', async () => {
    const storage = new MemoryStorage(32 << 20);
    await serving(storage);
    const client = await RawClient.open(path, { structured: true });
    const data = Uint8Array.from({ length: 16 << 20 }, (_, i) => i % 251);
    expect((await client.ask(WRITE, { offset: 512, data })).error).toBe(0);
    expect(
      Buffer.compare(
        (await client.ask(READ, { offset: 512, length: data.length })).data ?? block(0),
        data,
      ),
    ).toBe(0);
    expect(server?.stats()).toMatchObject({ bytesRead: data.length, bytesWritten: data.length });
  });

  test('are answered in the order in which they end', async () => {
    const storage = held(new MemoryStorage(SIZE));
    await serving(storage);
    const client = await RawClient.open(path);
    const writes = [0, 1, 2].map((i) => client.ask(WRITE, { offset: i * 8192, data: block(i) }));
    await until(() => storage.waiting.length === 3);
    for (const i of [1, 2, 0]) {
      storage.waiting[i]?.release();
      await writes[i];
    }
    expect(client.order).toEqual([2, 3, 1]);
  });

  test.each([
    ['ENOSPC', NBD_ERROR.ENOSPC],
    ['EDQUOT', NBD_ERROR.ENOSPC],
    ['EROFS', NBD_ERROR.EPERM],
    ['ENOMEM', NBD_ERROR.ENOMEM],
    ['EWHATEVER', NBD_ERROR.EIO],
  ])(
    'that the storage fails with %s are failed with the number that NBD has for it',
    async (code, error) => {
      const storage = held(new MemoryStorage(SIZE));
      await serving(storage);
      const client = await RawClient.open(path, { structured: true });
      const write = client.ask(WRITE, { data: block(1) });
      await until(() => storage.waiting.length === 1);
      const cause = Object.assign(new Error('/secret/path is full'), { code });
      storage.waiting[0]?.release(new WriteBarrierError('IO_FAILED', 'failed', { cause }));
      const chunk = { kind: 'error', error, message: 'IO_FAILED' };
      expect(await write).toMatchObject({ error, chunk });
    },
  );

  test('wait for room in the queue of a scheduler that is full', async () => {
    const storage = held(new MemoryStorage(SIZE));
    await serving(new IoScheduler(storage, { depth: 1, maxQueued: 1 }));
    const client = await RawClient.open(path);
    const writes = Array.from({ length: 20 }, (_, i) =>
      client.ask(WRITE, { offset: i * 8192, data: block(i) }),
    );
    for (let left = 20; left > 0; left -= 1) {
      await until(() => storage.waiting.length === 1);
      await pause(1);
      storage.waiting.shift()?.release();
    }
    expect((await Promise.all(writes)).every(({ error }) => error === 0)).toBe(true);
  });
});

describe('a flush and FUA', () => {
  const CACHED = { cache: 'volatile', fua: false } as const;

  test('wait for the device: the reply to a flush comes after its flush', async () => {
    const storage = held(new MemoryStorage(SIZE, { capabilities: CACHED }), ['write']);
    await serving(storage);
    const client = await RawClient.open(path);
    await client.ask(WRITE, { data: block(1) });
    const flush = client.ask(FLUSH);
    const read = client.ask(WRITE, { offset: 8192, data: block(2) });
    await read;
    expect(client.order).toEqual([1, 3]);
    await until(() => storage.waiting.length === 1);
    storage.waiting[0]?.release();
    expect((await flush).error).toBe(0);
  });

  test.each([
    ['a write', WRITE, { data: block(1), flags: FUA }, 'write 0'],
    ['a trim', TRIM, { length: 4096, flags: FUA }, 'discard 0'],
    ['zeroes', WRITE_ZEROES, { length: 4096, flags: FUA }, 'zeroes 0'],
  ])(
    '%s with FUA is answered after the flush behind it, where the device has no FUA',
    async (_, command, fields, first) => {
      const storage = held(new MemoryStorage(SIZE, { capabilities: CACHED }), [
        'write',
        'discard',
        'zeroes',
      ]);
      await serving(storage);
      const client = await RawClient.open(path);
      const forced = client.ask(command, fields);
      await until(() => storage.waiting.length === 1);
      expect(storage.calls).toEqual([first, 'flush']);
      expect(client.order).toEqual([]);
      storage.waiting[0]?.release();
      expect((await forced).error).toBe(0);
    },
  );

  test('where only FUA is there, zeroes with FUA are written as data, and no flush is taken', async () => {
    const capabilities = { cache: 'volatile', flush: false, fua: true } as const;
    const storage = held(new MemoryStorage(SIZE, { capabilities }), ['write!', 'discard']);
    await serving(storage);
    const client = await RawClient.open(path);
    expect((await client.ask(WRITE_ZEROES, { length: 4096, flags: FUA })).error).toBe(0);
    expect((await client.ask(TRIM, { length: 4096, flags: FUA })).error).toBe(0);
    expect((await client.ask(FLUSH)).error).toBe(NBD_ERROR.EINVAL);
    expect(storage.calls).toEqual(['write! 0']);
  });

  test('a flush that fails is told, and so is every request after it', async () => {
    const storage = held(new MemoryStorage(SIZE, { capabilities: CACHED }), ['write']);
    await serving(storage);
    const client = await RawClient.open(path);
    await client.ask(WRITE, { data: block(1) });
    const flush = client.ask(FLUSH);
    await until(() => storage.waiting.length === 1);
    storage.waiting[0]?.release(new Error('gone'));
    expect((await flush).error).toBe(NBD_ERROR.EIO);
    expect((await client.ask(WRITE, { data: block(2) })).error).toBe(NBD_ERROR.EIO);
    await expect(server?.close()).rejects.toMatchObject({ code: 'FAILED' });
  });

  // Goal: the promise to the letter, over all connections. Method: a disk whose writes are on the medium only when a
  // flush that was called after their answer has ended, with delays of its own; two clients write and flush as they
  // like; at every reply we look at the medium for what it promises.
  test('cover whatever was answered before on any connection', async () => {
    const BLOCKS = 32;
    const command = fc.record({
      client: fc.nat(1),
      kind: fc.constantFrom('write', 'write', 'write', 'fua', 'flush'),
      block: fc.nat(BLOCKS - 1),
      wait: fc.boolean(),
    });
    const program = fc.tuple(
      fc.array(command, { minLength: 1, maxLength: 25 }),
      fc.nat(),
      fc.boolean(),
    );
    await fc.assert(
      fc.asyncProperty(program, async ([commands, seed, fua]) => {
        const disk = forgetful(BLOCKS, seed, fua);
        const server = new NbdServer({ exports: { '': disk } });
        const socket = join(folder.path, `s${Math.random()}`);
        await server.listen({ path: socket });
        const clients = [await RawClient.open(socket), await RawClient.open(socket)];
        // The version of each block that was last answered for; a block has one writer at a time.
        const answered = new Map<number, number>();
        const busy = new Set<number>();
        const running: Promise<void>[] = [];
        let version = 0;
        for (const { client, kind, block: at, wait } of commands) {
          const asks = clients[client] as RawClient;
          if (kind === 'flush') {
            const covered = [...answered];
            const work = asks.ask(FLUSH).then(({ error }) => {
              expect(error).toBe(0);
              for (const [at, version] of covered)
                expect(disk.medium(at)).toBeGreaterThanOrEqual(version);
            });
            running.push(work);
          } else {
            if (busy.has(at)) continue;
            busy.add(at);
            version += 1;
            const mine = version;
            const data = new Uint8Array(512);
            new DataView(data.buffer).setUint32(0, mine);
            const flags = kind === 'fua' ? FUA : 0;
            const work = asks.ask(WRITE, { offset: at * 512, data, flags }).then(({ error }) => {
              expect(error).toBe(0);
              if (flags) expect(disk.medium(at)).toBeGreaterThanOrEqual(mine);
              answered.set(at, mine);
              busy.delete(at);
            });
            running.push(work);
          }
          if (wait) await running.at(-1);
        }
        await Promise.all(running);
        await server.close();
        for (const [at, version] of answered) expect(disk.medium(at)).toBe(version);
      }),
      { numRuns: 60 },
    );
  });
});

/** A disk with a volatile cache of versions; `fua`: it can force a single write. */
function forgetful(
  blocks: number,
  seed: number,
  fua: boolean,
): Storage & { medium(at: number): number } {
  const cache = new Map<number, number>();
  const medium = new Map<number, number>();
  let state = seed >>> 0;
  const delay = (): Promise<void> => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const turns = (state >>> 24) % 4;
    return turns === 0
      ? Promise.resolve()
      : new Promise((resolve) => setTimeout(resolve, turns - 1));
  };
  return {
    size: blocks * 512,
    capabilities: { blockSize: 512, cache: 'volatile', flush: true, fua, orderedTags: false },
    medium: (at) => medium.get(at) ?? 0,
    read: (_, into) => void into.fill(0),
    write: async (offset, data, flags) => {
      await delay();
      const version = new DataView(data.buffer, data.byteOffset).getUint32(0);
      cache.set(offset / 512, version);
      if (flags.fua) medium.set(offset / 512, version);
      await delay();
    },
    flush: async () => {
      const dirty = [...cache];
      await delay();
      for (const [at, version] of dirty) medium.set(at, Math.max(version, medium.get(at) ?? 0));
    },
    close: () => {},
  };
}

describe('limits', () => {
  test('connection.K1: no more requests of a client are carried out at once than allowed', async () => {
    const storage = held(new MemoryStorage(SIZE));
    await serving(storage, { limits: { requestsInFlight: 5 } });
    const client = await RawClient.open(path);
    const writes = Array.from({ length: 40 }, (_, i) =>
      client.ask(WRITE, { offset: i * 8192, data: block(i) }),
    );
    await until(() => storage.waiting.length === 5);
    await pause(30);
    expect(storage.calls.length).toBe(5);
    for (let i = 0; i < 40; i += 1) {
      await until(() => storage.waiting.length > 0);
      storage.waiting.shift()?.release();
      await until(() => storage.waiting.length === Math.min(5, 39 - i));
      expect(storage.waiting.length).toBeLessThanOrEqual(5);
    }
    await Promise.all(writes);
  });

  test('connection.K1: no more bytes of a client are under way than allowed, and one request always goes', async () => {
    const storage = held(new MemoryStorage(SIZE));
    await serving(storage, { limits: { bytesInFlight: 10_000 } });
    const client = await RawClient.open(path);
    for (let i = 0; i < 10; i += 1)
      client.ask(READ, { offset: i * 8192, length: 4096 }).catch(() => {});
    await until(() => storage.waiting.length === 3);
    await pause(30);
    expect(storage.calls.length).toBe(3);
    for (let i = 0; i < 10; i += 1) {
      await until(() => storage.waiting.length > 0);
      storage.waiting.shift()?.release();
    }
  });

  test('connection.K1: requests without a payload count with the buffers that they take', async () => {
    const storage = held(new MemoryStorage(16 << 20, { capabilities: { writeZeroes: false } }));
    const server = await serving(storage, { limits: { bytesInFlight: 3 << 20 } });
    const client = await RawClient.open(path);
    for (let i = 0; i < 8; i += 1) {
      const command = i % 2 === 0 ? CACHE : WRITE_ZEROES;
      client.ask(command, { offset: i << 20, length: 1 << 20 }).catch(() => {});
    }
    await until(() => server.stats().clients[0]?.requestsInFlight === 3);
    await pause(30);
    expect(server.stats().clients[0]?.requestsInFlight).toBe(3);
    // One after the other (disk.H3).
    expect(storage.calls.length).toBe(1);
  });

  test('connection.K1: what a client sends beyond that stays in its socket', async () => {
    const storage = held(new MemoryStorage(SIZE));
    await serving(storage, { limits: { requestsInFlight: 1, requestBytes: 65_536 } });
    const client = await RawClient.open(path);
    const writes = Array.from({ length: 300 }, (_, i) =>
      client.ask(WRITE, { offset: (i % 32) * 16_384, data: block(i, 16_384) }),
    );
    await until(() => storage.waiting.length === 1);
    await pause(30);
    expect(client.socket.writableLength).toBeGreaterThan(2 << 20);
    releaseAll();
    expect((await Promise.all(writes)).every(({ error }) => error === 0)).toBe(true);
  });

  // A client that asks for 64 MiB and reads none of it: what was read for it stays a small multiple of the limits.
  test('connection.K1: a client that does not read is not read for', async () => {
    const storage = held(new MemoryStorage(SIZE), ['read']);
    await serving(storage);
    const socket = connect({ path });
    socket.write(bytes(FLAGS, go()));
    socket.on('error', () => {});
    await until(() => server?.stats().connections === 1);
    for (let i = 0; i < 1024; i += 1) socket.write(request(READ, i, { length: 65_536 }));
    let before = -1;
    while (before !== storage.calls.length) {
      before = storage.calls.length;
      await pause(50);
    }
    expect(storage.calls.length).toBeGreaterThan(0);
    expect(storage.calls.length * 65_536).toBeLessThan(16 << 20);
    // Others are served, and it is itself once it reads.
    const other = await RawClient.open(path);
    expect((await other.ask(READ, { length: 4096 })).error).toBe(0);
    socket.resume();
    await until(() => storage.calls.length === 1024 + 1);
    socket.destroy();
  });

  test('a connection beyond the limit is closed, and the others go on', async () => {
    await serving(new MemoryStorage(SIZE), { limits: { connections: 2 } });
    const [first, second] = [await RawClient.open(path), await RawClient.open(path)];
    await expect(RawClient.open(path)).rejects.toThrow('gone');
    expect((await first.ask(FLUSH)).error).toBe(0);
    second.socket.destroy();
    await until(() => server?.stats().connections === 1);
    expect((await (await RawClient.open(path)).ask(FLUSH)).error).toBe(0);
  });

  test('a handshake that takes too long ends, a served client that says nothing does not', async () => {
    const events: NbdServerEvent[] = [];
    await serving(new MemoryStorage(SIZE), {
      limits: { handshakeMs: 60 },
      observer: (event) => events.push(event),
    });
    const served = await RawClient.open(path);
    const slow = new RawClient(connect({ path }));
    slow.socket.resume();
    await slow.closed;
    await until(() => server?.stats().connections === 1);
    expect(events.at(-1)).toEqual({
      kind: 'ended',
      connection: 1,
      why: 'the handshake took more than 60 ms',
    });
    expect((await served.ask(FLUSH)).error).toBe(0);
  });

  test.each<[string, (socket: Socket) => void]>([
    ['says nothing and leaves', (socket) => socket.end()],
    ['sends noise', (socket) => socket.write(new Uint8Array(1000).fill(0x99))],
    [
      'sends noise for a request',
      (socket) => socket.write(bytes(FLAGS, go(), new Uint8Array(100))),
    ],
    [
      'sends half a request and leaves',
      (socket) => socket.end(bytes(FLAGS, go(), request(READ, 1).slice(0, 20))),
    ],
    [
      'sends half a payload and leaves',
      (socket) =>
        socket.end(bytes(FLAGS, go(), request(WRITE, 1, { length: 4096 }), block(1, 100))),
    ],
    [
      'asks and leaves at once',
      (socket) => socket.end(bytes(FLAGS, go(), request(READ, 1, { length: 65_536 }))),
    ],
    [
      'cuts the line',
      (socket) =>
        socket.write(bytes(FLAGS, go(), request(READ, 1, { length: 65_536 })), () =>
          socket.destroy(),
        ),
    ],
    ['takes its leave', (socket) => socket.write(bytes(FLAGS, go(), request(DISC, 1)))],
  ])('connection.K3: a client that %s costs its own connection only', async (_, misbehave) => {
    const storage = new MemoryStorage(SIZE);
    await serving(storage);
    const good = await RawClient.open(path);
    const socket = connect({ path });
    socket.on('error', () => {});
    socket.resume();
    misbehave(socket);
    await until(() => server?.stats().accepted === 2 && server.stats().connections === 1);
    expect((await good.ask(WRITE, { data: block(1) })).error).toBe(0);
    expect((await good.ask(READ, { length: 4096 })).data).toEqual(block(1));
    expect(storage.bytes.subarray(4096).every((byte) => byte === 0)).toBe(true);
  });
});

describe('TLS', () => {
  const KEY = Buffer.alloc(32, 7);
  const STARTTLS = encodeOption(OPTION.STARTTLS);

  /** A client that has said STARTTLS and read the answer. */
  async function asking(...more: readonly Uint8Array[]): Promise<Socket> {
    const socket = connect({ path });
    socket.on('error', () => {});
    socket.write(bytes(FLAGS, STARTTLS, ...more));
    let read = 0;
    const answered = new Promise<void>((resolve) => {
      const take = (chunk: Uint8Array): void => {
        read += chunk.length;
        if (read < SERVER_GREETING.bytes + OPTION_REPLY_HEADER.bytes) return;
        socket.off('data', take);
        socket.pause();
        resolve();
      };
      socket.on('data', take);
      socket.on('close', () => resolve());
    });
    await answered;
    return socket;
  }

  function secured(socket: Socket, psk: Uint8Array): Promise<TLSSocket> {
    return new Promise((resolve, reject) => {
      const secure = tlsConnect(
        {
          socket,
          ciphers: 'PSK-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256',
          checkServerIdentity: () => undefined,
          pskCallback: () => ({ psk, identity: 'alice' }),
        },
        () => resolve(secure),
      );
      secure.on('error', reject);
    });
  }

  test('connection.K5: after STARTTLS everything goes through it, and it works in both directions', async () => {
    const events: NbdServerEvent[] = [];
    const tls = { psk: { alice: KEY } };
    await serving(new MemoryStorage(SIZE), { tls, observer: (event) => events.push(event) });
    const client = new RawClient(await secured(await asking(), KEY));
    await client.negotiate();
    const data = Uint8Array.from({ length: SIZE }, (_, i) => i % 253);
    expect((await client.ask(WRITE, { data })).error).toBe(0);
    const back = (await client.ask(READ, { length: SIZE })).data;
    expect(Buffer.compare(back ?? block(0), data)).toBe(0);
    expect(events.at(-1)).toMatchObject({ kind: 'opened', tls: true });
  });

  test('a wrong key, a stranger and plain text end the connection', async () => {
    await serving(new MemoryStorage(SIZE), {
      tls: { psk: (who) => (who === 'bob' ? KEY : undefined) },
    });
    await expect(secured(await asking(), KEY)).rejects.toThrow();
    const plain = await asking();
    plain.write(go());
    plain.resume();
    await until(() => server?.stats().connections === 0);
    await expect(RawClient.open(path)).rejects.toThrow('gone');
  });

  test('what was sent behind STARTTLS is not taken for something that was sealed', async () => {
    await serving(new MemoryStorage(SIZE), { tls: { psk: { alice: KEY } } });
    const socket = await asking(go());
    socket.resume();
    await until(() => server?.stats().connections === 0);
    expect(server?.stats()).toMatchObject({ accepted: 1, requests: 0 });
  });

  test('keys that are none are refused at once', () => {
    const exports = { '': new MemoryStorage(SIZE) };
    const misuse = expect.objectContaining({ code: 'INVALID_ARGUMENT' });
    for (const tls of [{}, { key: 'x' }, { cert: 'x' }, { key: 'x', cert: 'x' }]) {
      expect(() => new NbdServer({ exports, tls })).toThrow(misuse);
    }
  });
});

test('a client that takes its leave is told first how its requests have ended', async () => {
  const storage = held(new MemoryStorage(SIZE));
  await serving(storage);
  const client = await RawClient.open(path);
  const write = client.ask(WRITE, { data: block(1) });
  await until(() => storage.waiting.length === 1);
  client.socket.write(request(DISC, 99));
  await pause(20);
  expect(client.socket.readyState).toBe('open');
  storage.waiting.shift()?.release();
  expect((await write).error).toBe(0);
  await client.closed;
});

describe('closing', () => {
  test('completes and answers what is under way, refuses what comes late, flushes, and closes no storage', async () => {
    const storage = held(new MemoryStorage(SIZE, { capabilities: { cache: 'volatile' } }));
    const server = await serving(storage);
    const client = await RawClient.open(path);
    const early = client.ask(WRITE, { data: block(1) });
    await until(() => storage.waiting.length === 1);
    const closing = server.close();
    const late = await client.ask(WRITE, { offset: 8192, data: block(2) });
    expect(late.error).toBe(NBD_ERROR.ESHUTDOWN);
    await expect(RawClient.open(path)).rejects.toThrow('gone');
    storage.waiting.shift()?.release();
    expect((await early).error).toBe(0);
    await until(() => storage.waiting.length === 1);
    expect(storage.waiting[0]?.what).toBe('flush');
    expect(client.socket.readyState).toBe('open');
    storage.waiting.shift()?.release();
    await closing;
    await client.closed;
    expect(storage.calls).toEqual(['write 0', 'flush']);
    expect(existsSync(path)).toBe(false);
    await expect(server.listen({ path })).rejects.toMatchObject({ code: 'CLOSED' });
  });

  test('does not wait for ever for a client that does not read', async () => {
    const server = await serving(new MemoryStorage(SIZE), { limits: { closeMs: 50 } });
    const socket = connect({ path });
    socket.on('error', () => {});
    socket.write(bytes(FLAGS, go()));
    for (let i = 0; i < 256; i += 1) socket.write(request(READ, i, { length: 65_536 }));
    await until(() => server.stats().bytesRead > 0);
    await server.close();
    expect(server.stats().connections).toBe(0);
    socket.destroy();
  });

  test('ends whoever is in the handshake', async () => {
    const server = await serving(new MemoryStorage(SIZE));
    const client = new RawClient(connect({ path }));
    client.socket.resume();
    await until(() => server.stats().connections === 1);
    await server.close();
    await client.closed;
  });
});

/** The socket file that a killed server leaves: it has another name while its server closes, and then its own again. */
async function leftBehind(path: string): Promise<void> {
  const killed = new NbdServer({ exports: { '': new MemoryStorage(SIZE) } });
  await killed.listen({ path });
  await link(path, `${path}.kept`);
  await killed.close();
  await rename(`${path}.kept`, path);
}

describe('listening', () => {
  test('takes over a socket file that a killed server has left', async () => {
    await leftBehind(path);
    expect(existsSync(path)).toBe(true);
    await serving(new MemoryStorage(SIZE));
    expect((await (await RawClient.open(path)).ask(FLUSH)).error).toBe(0);
  });

  test('refuses a path that is taken by a server, or by a file', async () => {
    await serving(new MemoryStorage(SIZE));
    const other = new NbdServer({ exports: { '': new MemoryStorage(SIZE) } });
    await expect(other.listen({ path })).rejects.toMatchObject({ code: 'IO_FAILED' });
    const file = join(folder.path, 'file');
    await writeFile(file, 'precious');
    await expect(other.listen({ path: file })).rejects.toMatchObject({ code: 'IO_FAILED' });
    expect(existsSync(file)).toBe(true);
    expect((await (await RawClient.open(path)).ask(FLUSH)).error).toBe(0);
  });

  test('is for this machine unless another address is asked for twice', async () => {
    const server = await serving(new MemoryStorage(SIZE));
    for (const host of ['0.0.0.0', '::', '192.0.2.1', 'example.org', '128.0.0.1', '::2', '::11']) {
      await expect(server.listen({ host, port: 0 })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    }
    expect(await server.listen({ port: 0 })).toMatchObject({
      host: '127.0.0.1',
      port: expect.any(Number),
    });
    expect(await server.listen({ host: '127.1.2.3', port: 0 })).toMatchObject({
      host: '127.1.2.3',
    });
    expect(await server.listen({ host: '0.0.0.0', port: 0, allowRemote: true })).toMatchObject({
      host: '0.0.0.0',
    });
    for (const where of [{ path: 'x'.repeat(108) }, { path: '' }, { port: -1 }, { port: 1.5 }]) {
      await expect(server.listen(where)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });
});
