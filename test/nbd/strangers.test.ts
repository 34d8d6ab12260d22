// Goal: strangers get nothing that is not theirs, and take nothing from others. Method: for each kind of harm a client that
// tries it, and another one, or the user, who must not notice. The rules are at the heads of connection.ts (K), server.ts,
// tls.ts (X) and negotiation.ts (T).

import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage, withFaults } from '../../src/index.js';
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

const { READ, WRITE, FLUSH, CACHE, WRITE_ZEROES } = COMMAND;
const MIB = 1 << 20;
const KEY = Buffer.alloc(32, 7);
const STARTTLS = encodeOption(OPTION.STARTTLS);
const block = (byte: number, length = 4096): Uint8Array => new Uint8Array(length).fill(byte);
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const misuse = expect.objectContaining({ code: 'INVALID_ARGUMENT' });

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let path = '';
let events: NbdServerEvent[] = [];

beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 'socket');
  events = [];
});
afterEach(() => folder.remove());

async function serving(
  storage: NbdServerOptions['exports'][string],
  options: Omit<NbdServerOptions, 'exports'> = {},
): Promise<NbdServer> {
  const observer = (event: NbdServerEvent): void => void events.push(event);
  const server = new NbdServer({ exports: { '': storage }, observer, ...options });
  await server.listen({ path });
  onTestFinished(() => server.close().catch(() => {}));
  return server;
}

/** Waits until `holds`; the test's own time limit is the limit. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await pause(2);
}

/** A stranger on a plain socket, which reads nothing. */
function stranger(...said: readonly Uint8Array[]): Socket {
  const socket = connect({ path });
  socket.on('error', () => {});
  onTestFinished(() => void socket.destroy());
  if (said.length > 0) socket.write(bytes(...said));
  return socket;
}

/** A socket that has said STARTTLS and read the answer. */
function asking(where: { path: string } | { port: number } = { path }): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...where, allowHalfOpen: true });
    socket.on('error', () => {});
    socket.once('close', () => reject(new Error('closed')));
    socket.write(bytes(FLAGS, STARTTLS));
    let read = 0;
    socket.on('data', function take(chunk) {
      read += chunk.length;
      if (read < SERVER_GREETING.bytes + OPTION_REPLY_HEADER.bytes) return;
      socket.off('data', take);
      socket.pause();
      resolve(socket);
    });
  });
}

function secured(
  socket: Socket,
  psk: Uint8Array,
  { identity = 'alice', ...options }: ConnectionOptions & { identity?: string } = {},
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const secure = tlsConnect(
      {
        socket,
        ciphers: 'PSK-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256',
        checkServerIdentity: () => undefined,
        pskCallback: () => ({ psk, identity }),
        ...options,
      },
      () => resolve(secure),
    );
    secure.on('error', reject);
  });
}

describe('keys', () => {
  const exports = { '': new MemoryStorage(MIB) };
  const made = (tls: unknown): NbdServer =>
    new NbdServer({ exports, tls: tls as NonNullable<NbdServerOptions['tls']> });

  test('nbd-server-tls.X1: a set that would let in a client without any is refused, with words', () => {
    // The pair need not be good: what is wrong with the set is found before it is looked at.
    const pair = { key: 'x', cert: 'x' };
    expect(() => made({ ...pair, psk: { alice: KEY } })).toThrow(/cert without ca admits clients/);
    expect(() => made({ ...pair, psk: () => KEY })).toThrow(misuse);
    expect(() => made({ psk: { alice: KEY }, ca: 'x' })).toThrow(/ca needs a key and a cert/);
    for (const tls of [{}, { ca: 'x' }, { key: 'x' }, { cert: 'x' }, { psk: {} }, { psk: 5 }]) {
      expect(() => made(tls)).toThrow(misuse);
    }
    expect(() => made({ psk: { alice: KEY }, cer: 'x' })).toThrow(/did you mean 'cert'/);
  });

  test.each([
    ['', ''],
    ['no bytes', new Uint8Array(0)],
    ['white space', ' \n'],
    ['words', 'the ca of last year'],
    ['a private key', '-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n'],
  ])(
    'nbd-server-tls.X1: a ca or a cert that holds no certificate is refused, not passed over: %s',
    (_, pem) => {
      // node:tls takes an empty ca for none, and every public authority for the one that signs clients.
      const good = '-----BEGIN CERTIFICATE-----';
      for (const psk of [undefined, { alice: KEY }]) {
        const tls = { key: 'x', ...(psk && { psk }) };
        expect(() => made({ ...tls, cert: good, ca: pem })).toThrow(
          /tls\.ca must hold a certificate/,
        );
        expect(() => made({ ...tls, cert: pem, ca: good })).toThrow(
          /tls\.cert must hold a certificate/,
        );
      }
    },
  );

  test.each([false, 0, '', null, true, 'cert.pem'])(
    'nbd-server-tls.X1: tls that is no object is refused, so that no server is in plain text by mistake: %j',
    (tls) => {
      expect(() => made(tls)).toThrow(misuse);
    },
  );

  const secret = 'deadbeef00112233445566778899aabb';
  test.each<[string, unknown]>([
    ['text', secret],
    ['short', Buffer.from('k3y!')],
    ['empty', Buffer.alloc(0)],
    ['15 bytes', Buffer.alloc(15, secret)],
    ['257 bytes', Buffer.alloc(257, secret)],
    ['numbers', [1, 2, 3]],
    ['another view', new DataView(new ArrayBuffer(32))],
    ['nothing', undefined],
    ['null', null],
    ['a promise', Promise.resolve(KEY)],
  ])(
    'nbd-server-tls.X4: a pre-shared key that is %s is refused when the server is made, and not shown',
    (_, key) => {
      let error: unknown;
      try {
        made({ psk: { good: KEY, alice: key } });
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
      const shown = inspect(error, { depth: 9, showHidden: true });
      expect(shown).toContain('16 to 256 bytes');
      for (const leak of [secret.slice(0, 12), 'k3y!', '64 65 61', '07 07 07']) {
        expect(shown).not.toContain(leak);
      }
    },
  );

  test('nbd-server-tls.X4: a server that is printed shows no key', async () => {
    const server = made({ psk: { alice: Buffer.from(secret) } });
    const shown = inspect(server, { depth: 9, showHidden: true });
    expect(shown).not.toMatch(/deadbeef|64 65 61|alice/);
  });

  test('a record is taken as it was: what is done to its keys later does nothing', async () => {
    const mine = Buffer.from(KEY);
    await serving(new MemoryStorage(MIB), { tls: { psk: { alice: mine } } });
    mine.fill(0);
    (await secured(await asking(), KEY)).destroy();
    await expect(secured(await asking(), mine)).rejects.toThrow();
  });

  test.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'nbd-server-tls.X2: an identity that is not known gets the answer of a wrong key, in %s',
    async (maxVersion) => {
      await serving(new MemoryStorage(MIB), { tls: { psk: { alice: KEY } } });
      const answers: unknown[] = [];
      for (const [identity, psk] of [
        ['alice', Buffer.alloc(32, 8)],
        ['bob', KEY],
        ['__proto__', KEY],
        ['constructor', KEY],
        ['x'.repeat(127), KEY],
      ] as const) {
        const failed = secured(await asking(), psk, { identity, maxVersion });
        answers.push(
          await failed.then(
            () => 'in',
            (error) => error.code,
          ),
        );
      }
      expect(new Set(answers).size).toBe(1);
      expect(answers[0]).toMatch(/^ERR_SSL/);
      const whys = events.flatMap((event) => (event.kind === 'ended' ? [event.why] : []));
      // The words carry the numbers of a thread.
      expect(new Set(whys.map((why) => why?.replace(/^TLS: [0-9A-F]+:/, ''))).size).toBe(1);
    },
  );

  test.each<[string, () => unknown, RegExp]>([
    [
      'throws',
      () => {
        throw new Error(secret);
      },
      /threw Error/,
    ],
    [
      'throws what is not an error',
      () => {
        throw secret;
      },
      /threw a string/,
    ],
    [
      'throws what cannot be looked at',
      () => {
        const { proxy, revoke } = Proxy.revocable({}, {});
        revoke();
        throw proxy;
      },
      /threw a value of type object/,
    ],
    [
      'throws an error with a hostile name',
      () => {
        throw Object.assign(new Error(), { name: '\u001b[2J' });
      },
      /threw \\u001b\[2J/,
    ],
    ['answers text', () => secret, /not a string/],
    ['answers a promise', () => Promise.resolve(KEY), /not a promise/],
    ['answers a promise that fails', () => Promise.reject(new Error(secret)), /not a promise/],
    ['answers a number', () => 5, /of type number/],
    ['answers too much', () => Buffer.alloc(100_000), /100000 bytes/],
    ['answers too little', () => Buffer.alloc(1), /1 bytes/],
    ['does not know', () => undefined, /./],
    ['does not know either', () => null, /./],
  ])(
    'nbd-server-tls.X3: a function for keys that %s costs the stranger its connection, and tells no key',
    async (_, psk, why) => {
      const tls = { psk: psk as (identity: string) => Uint8Array | undefined };
      const server = await serving(new MemoryStorage(MIB), { tls });
      const none = Buffer.alloc(32);
      for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
        await expect(secured(await asking(), none, { maxVersion })).rejects.toThrow();
      }
      await until(() => server.stats().connections === 0);
      const ended = events.flatMap((event) => (event.kind === 'ended' ? [event.why] : []));
      expect(ended).toHaveLength(2);
      for (const said of ended) expect(said).toMatch(why);
      expect(JSON.stringify(events)).not.toContain(secret.slice(0, 12));
    },
  );

  test('nbd-server-tls.X3: a function for keys may close the server', async () => {
    let closing: Promise<void> | undefined;
    const psk = (): Uint8Array => {
      closing = server.close();
      return KEY;
    };
    const server = await serving(new MemoryStorage(MIB), { tls: { psk } });
    await secured(await asking(), KEY).catch(() => {});
    await closing;
    expect(server.stats().connections).toBe(0);
  });
});

describe('one client that floods', () => {
  test.each<[string, Uint8Array]>([
    ['options', encodeOption(OPTION.LIST)],
    ['options that are not known', encodeOption(99)],
    ['options that are malformed', encodeOption(OPTION.GO, new Uint8Array(1))],
  ])('nbd-server-session.N6: with %s is sent away', async (_, option) => {
    const server = await serving(new MemoryStorage(MIB));
    const flood = stranger(FLAGS, ...Array.from({ length: 2000 }, () => option));
    flood.resume();
    await until(() => events.some((event) => event.kind === 'ended'));
    expect(events.at(-1)).toMatchObject({ why: expect.stringMatching(/more than \d+ options/) });
    expect(server.stats().refusedOptions).toBeLessThan(100);
  });

  // What would be seen without connection.K7: all refusals of a chunk of 64 KiB before anything of the other client.
  test('connection.K7: with requests has the others served in between', async () => {
    const server = await serving(new MemoryStorage(MIB));
    const polite = await RawClient.open(path);
    const flood = await RawClient.open(path);
    flood.socket.removeAllListeners('data');
    flood.socket.resume();
    const illegal = request(READ, 1, { offset: MIB, length: 512 });
    flood.socket.write(bytes(...Array.from({ length: 20_000 }, () => illegal)));
    await until(() => server.stats().refusedRequests > 0);
    expect((await polite.ask(READ, { length: 512 })).error).toBe(0);
    expect(server.stats().refusedRequests).toBeLessThan(20_000);
    await until(() => server.stats().refusedRequests === 20_000);
  });
});

describe('places', () => {
  test('of the handshake are their own, and the oldest gives way to a new one', async () => {
    const server = await serving(new MemoryStorage(MIB), {
      limits: { handshakes: 4, connections: 2 },
    });
    const first = await RawClient.open(path);
    const silent = [];
    for (let i = 0; i < 4; i += 1) {
      silent.push(new RawClient(stranger().resume()));
      await until(() => server.stats().handshakes === i + 1);
    }
    const second = await RawClient.open(path);
    await silent[0]?.closed;
    expect((await first.ask(FLUSH)).error).toBe(0);
    expect((await second.ask(FLUSH)).error).toBe(0);
    expect(server.stats()).toMatchObject({ connections: 5, handshakes: 3, displaced: 1 });
    // The export is full, and says so.
    await expect(RawClient.open(path)).rejects.toThrow('gone');
    expect(server.stats().refusedOptions).toBe(1);
    second.socket.destroy();
    await until(() => server.stats().connections - server.stats().handshakes === 1);
    await RawClient.open(path);
  });

  test('are kept by a client that has proved its key, and lost by strangers', async () => {
    const server = await serving(new MemoryStorage(MIB), {
      tls: { psk: { alice: KEY } },
      limits: { handshakes: 3 },
    });
    const client = new RawClient(await secured(await asking(), KEY));
    for (let i = 0; i < 20; i += 1) {
      stranger(FLAGS);
      await until(() => server.stats().accepted === i + 2);
    }
    await until(() => server.stats().handshakes === 3);
    await client.negotiate();
    expect((await client.ask(FLUSH)).error).toBe(0);
    expect(server.stats().displaced).toBe(18);
  });

  test('of a payload that nothing more comes of are given back, and those of a slow one are kept', async () => {
    const server = await serving(new MemoryStorage(MIB), { limits: { payloadMs: 200 } });
    const stalled = await RawClient.open(path);
    const slow = await RawClient.open(path);
    const idle = await RawClient.open(path);
    stalled.socket.write(request(WRITE, 1, { length: 65_536 }));
    stalled.socket.write(block(1, 65_535));
    const written = slow.ask(WRITE, { length: 16 });
    // As many pieces as take longer than the limit, each within it.
    const refused = written.catch(() => undefined);
    for (let i = 0; i < 16; i += 1) {
      slow.socket.write(block(2, 1));
      await pause(40);
    }
    await stalled.closed;
    expect(await refused).toMatchObject({ error: NBD_ERROR.EINVAL });
    expect((await idle.ask(FLUSH)).error).toBe(0);
    expect(server.stats().connections).toBe(2);
    const ended = events.find((event) => event.kind === 'ended');
    expect(ended).toMatchObject({ why: expect.stringContaining('of a payload') });
  });

  test('of idle clients are given back where that is asked for', async () => {
    const storage = new MemoryStorage(MIB);
    let release = (): void => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const slow: Storage = {
      size: MIB,
      capabilities: { ...storage.capabilities, writev: false },
      read: (offset, into) => gate.then(() => storage.read(offset, into)),
      write: (offset, data, flags) => storage.write(offset, data, flags),
      flush: () => {},
      discard: () => {},
      writeZeroes: () => {},
      close: () => {},
    };
    const server = await serving(slow, { limits: { idleMs: 100 } });
    const [idle, waiting] = [await RawClient.open(path), await RawClient.open(path)];
    const read = waiting.ask(READ, { length: 512 });
    await idle.closed;
    await pause(300);
    expect(server.stats().connections).toBe(1);
    release();
    expect((await read).error).toBe(0);
    await waiting.closed;
  });
});

describe('a client that ends its side', () => {
  const kinds: [string, number, (i: number) => Uint8Array][] = [
    ['reads', READ, (i) => request(READ, i, { offset: (i % 64) * 512, length: 512 })],
    ['writes', WRITE, (i) => request(WRITE, i, { offset: (i % 64) * 512, data: block(i, 512) })],
    ['flushes', FLUSH, (i) => request(FLUSH, i)],
    ['asks for zeroes', WRITE_ZEROES, (i) => request(WRITE_ZEROES, i, { length: 65_536 })],
  ];

  /** So many requests at once, the end, and how many were answered. */
  async function answered(
    socket: Socket,
    command: number,
    one: (i: number) => Uint8Array,
    count: number,
  ): Promise<number> {
    const client = new RawClient(socket);
    if ('encrypted' in socket) await client.negotiate();
    else await client.negotiate(FLAGS, go());
    const said = Array.from({ length: count }, (_, i) => one(i + 1));
    let bytesBack = 0;
    socket.removeAllListeners('data');
    socket.on('data', (chunk: Uint8Array) => {
      bytesBack += chunk.length;
    });
    const ended = new Promise((resolve) => socket.once('end', resolve));
    socket.end(bytes(...said));
    await ended;
    socket.destroy();
    return bytesBack / (16 + (command === READ ? 512 : 0));
  }

  // 1,000 are more than are in flight at once.
  for (const [what, command, one] of kinds) {
    test.each([1, 100, 1000])(
      `connection.K8: and has sent %i requests, ${what}, is answered`,
      async (count) => {
        const slow = withSlowReads(new MemoryStorage(MIB));
        const server = await serving(slow);
        const { port } = (await server.listen({ port: 0 })) as { port: number };
        const unix = connect({ path, allowHalfOpen: true });
        expect(await answered(unix, command, one, count)).toBe(count);
        const tcp = connect({ port, allowHalfOpen: true });
        expect(await answered(tcp, command, one, count)).toBe(count);
      },
    );
  }

  test('connection.K8: of TLS is answered', async () => {
    const server = await serving(withSlowReads(new MemoryStorage(MIB)), {
      tls: { psk: { alice: KEY } },
    });
    const { port } = (await server.listen({ port: 0 })) as { port: number };
    for (const where of [{ path }, { port }]) {
      for (const [, command, one] of kinds) {
        const secure = await secured(await asking(where), KEY);
        expect(await answered(secure, command, one, 300)).toBe(300);
      }
    }
  });

  // A lost client may look the same, because Node's TLS does not always say that a write failed.
  test.each(['a Unix socket', 'TCP', 'TLS'])(
    'connection.K8: and takes no answer is disconnected after some seconds, on %s',
    async (line) => {
      let release = (): void => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      const memory = new MemoryStorage(MIB);
      const read: Storage['read'] = async (offset, into) => {
        await released;
        memory.read(offset, into);
      };
      const storage: Storage = { ...withSlowReads(memory), read };
      const tls = line === 'TLS';
      const server = await serving(storage, tls ? { tls: { psk: { alice: KEY } } } : {});
      const { port } = (await server.listen({ port: 0 })) as { port: number };
      const where = line === 'a Unix socket' ? { path } : { port };
      const socket = tls
        ? await secured(await asking(where), KEY)
        : connect({ ...where, allowHalfOpen: true });
      socket.on('error', () => {});
      socket.pause();
      // More than the systems of both sides hold for it; and a part of one that never comes, so that the end is no orderly one.
      const reads = Array.from({ length: 90 }, (_, i) => request(READ, i, { length: MIB / 4 }));
      socket.write(bytes(...(tls ? [] : [FLAGS]), go(), ...reads, new Uint8Array(10)));
      await until(() => server.stats().clients[0]?.requestsInFlight === 90);
      socket.end();
      await pause(50);
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
      onTestFinished(() => void vi.useRealTimers());
      const turn = (): Promise<void> => new Promise(setImmediate);
      release();
      while (server.stats().requests < 90) await turn();
      for (let turns = 0; turns < 200; turns += 1) await turn();
      expect(server.stats().connections).toBe(1);
      vi.advanceTimersByTime(5_000);
      while (server.stats().connections > 0) await turn();
      socket.destroy();
    },
  );

  // The reads before move the end of a turn, so that it comes between the answer to a choice and what follows from it.
  test.each([0, 1, 2, 3])(
    'of TLS that asks for nothing after its choice stays, where 40 choose at once after %i reads',
    async (reads) => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
      onTestFinished(() => void vi.useRealTimers());
      const server = await serving(new MemoryStorage(MIB), { tls: { psk: { alice: KEY } } });
      const first = new RawClient(await secured(await asking({ path }), KEY));
      await first.negotiate();
      const sockets = await Promise.all(Array.from({ length: 40 }, () => asking({ path })));
      const secure = await Promise.all(sockets.map((socket) => secured(socket, KEY)));
      const clients = secure.map((socket) => new RawClient(socket));
      for (let i = 0; i < reads; i += 1) await first.ask(READ, { length: 512 });
      await Promise.all(clients.map((client) => client.negotiate()));
      for (let turns = 0; turns < 50; turns += 1) await new Promise(setImmediate);
      vi.advanceTimersByTime(60_000);
      for (let turns = 0; turns < 50; turns += 1) await new Promise(setImmediate);
      expect(server.stats().connections).toBe(41);
      for (const client of clients) expect((await client.ask(READ, { length: 512 })).error).toBe(0);
      for (const socket of [first.socket, ...secure]) socket.destroy();
    },
  );

  test('connection.K8: in the handshake has its options answered', async () => {
    const server = await serving(new MemoryStorage(MIB));
    const socket = connect({ path, allowHalfOpen: true });
    const chunks: Uint8Array[] = [];
    socket.on('data', (chunk) => chunks.push(chunk));
    const ended = new Promise((resolve) => socket.once('end', resolve));
    socket.end(bytes(FLAGS, ...Array.from({ length: 20 }, () => encodeOption(99))));
    await ended;
    expect(server.stats().refusedOptions).toBe(20);
    expect(Buffer.concat(chunks).length).toBeGreaterThan(20 * OPTION_REPLY_HEADER.bytes);
    socket.destroy();
  });
});

/** Reads take a turn or two, so that some are under way when the end comes. */
function withSlowReads(storage: MemoryStorage): Storage {
  return {
    size: storage.size,
    capabilities: { ...storage.capabilities, writev: false },
    read: async (offset, into) => {
      await new Promise(setImmediate);
      storage.read(offset, into);
    },
    write: async (offset, data, flags) => {
      await new Promise(setImmediate);
      storage.write(offset, data, flags);
    },
    flush: () => new Promise(setImmediate),
    discard: () => {},
    writeZeroes: (offset, length) => storage.writeZeroes?.(offset, length),
    close: () => {},
  };
}

describe('work that a request of 28 bytes asks for', () => {
  const GIB = 2 ** 30;
  /** As large as is wanted, and made of nothing. */
  const endless = (capabilities: Partial<Storage['capabilities']> = {}): Storage => ({
    size: 16 * GIB,
    capabilities: {
      ...{ blockSize: 512, cache: 'volatile', flush: true, fua: false, orderedTags: false },
      ...capabilities,
    },
    read: () => pause(2),
    write: () => pause(2),
    flush: () => {},
    ...(capabilities.writeZeroes && { writeZeroes: () => pause(2) }),
    close: () => {},
  });
  const { NO_HOLE, FAST_ZERO, FUA } = COMMAND_FLAG;

  test('is refused with EOVERFLOW above a limit, where it costs as much as data', async () => {
    const server = await serving(endless(), { limits: { workBytes: 4 * MIB } });
    const client = await RawClient.open(path);
    for (const command of [WRITE_ZEROES, CACHE]) {
      for (const length of [4 * MIB + 512, 3 * GIB]) {
        expect((await client.ask(command, { length })).error).toBe(NBD_ERROR.EOVERFLOW);
      }
      expect((await client.ask(command, { length: 4 * MIB })).error).toBe(0);
    }
    expect(server.stats().refusedRequests).toBe(4);
    const flags = FAST_ZERO;
    expect((await client.ask(WRITE_ZEROES, { length: 3 * GIB, flags })).error).toBe(
      NBD_ERROR.ENOTSUP,
    );
  });

  test('is done where the storage says that its zeroes are fast, unless they must be data', async () => {
    await serving(endless({ writeZeroes: true, fastZeroes: true }), {
      limits: { workBytes: 4 * MIB },
    });
    const client = await RawClient.open(path);
    const length = 3 * GIB;
    for (const flags of [0, FAST_ZERO, FUA, FUA | FAST_ZERO]) {
      expect((await client.ask(WRITE_ZEROES, { length, flags })).error).toBe(0);
    }
    expect((await client.ask(WRITE_ZEROES, { length, flags: NO_HOLE })).error).toBe(
      NBD_ERROR.EOVERFLOW,
    );
    const both = NO_HOLE | FAST_ZERO;
    expect((await client.ask(WRITE_ZEROES, { length: 512, flags: both })).error).toBe(
      NBD_ERROR.ENOTSUP,
    );
  });

  test.each<[string, number, Partial<Storage['capabilities']>]>([
    ['zeroes as data', WRITE_ZEROES, {}],
    ['zeroes that are slow', WRITE_ZEROES, { writeZeroes: true }],
    ['a cache', CACHE, {}],
  ])('commands.C6: does not hold up a server that closes: %s', async (_, command, capabilities) => {
    let calls = 0;
    const counted = endless(capabilities);
    const count = (): Promise<void> => {
      calls += 1;
      return pause(2);
    };
    const storage = {
      ...counted,
      read: count,
      write: count,
      ...(capabilities.writeZeroes && { writeZeroes: count }),
    };
    const server = await serving(storage, { limits: { workBytes: 4 * GIB } });
    const client = await RawClient.open(path);
    const asked = client.ask(command, { length: 3 * GIB });
    await until(() => calls > 0);
    const closing = server.close();
    const before = calls;
    expect((await asked).error).toBe(NBD_ERROR.ESHUTDOWN);
    await closing;
    // The piece at hand, and no further one.
    expect(calls).toBeLessThanOrEqual(before + 1);
  });
});

describe('after a failed flush', () => {
  const capabilities = { cache: 'volatile', orderedTags: false } as const;
  const failing = (): Storage =>
    withFaults(new MemoryStorage(MIB, { capabilities }), [{ on: 'flush', nth: 1, fault: 'fail' }]);

  /** Block 0 is durable, block 1 at risk. */
  async function failed(
    exports: NbdServerOptions['exports'],
  ): Promise<{ server: NbdServer; client: RawClient }> {
    const observer = (event: NbdServerEvent): void => void events.push(event);
    const server = new NbdServer({ exports, observer });
    await server.listen({ path });
    onTestFinished(() => server.close().catch(() => {}));
    const client = await RawClient.open(path);
    await client.ask(WRITE, { data: block(1) });
    expect((await client.ask(FLUSH)).error).toBe(0);
    await client.ask(WRITE, { offset: 4096, data: block(2) });
    expect((await client.ask(FLUSH)).error).toBe(NBD_ERROR.EIO);
    return { server, client };
  }

  test('reads of what is not at risk are served, also through another export, and nothing else is', async () => {
    const storage = failing();
    const { client, server } = await failed({
      '': storage,
      view: { storage, readOnly: true },
      other: new MemoryStorage(MIB),
    });
    const view = await RawClient.open(path, { name: 'view' });
    const other = await RawClient.open(path, { name: 'other' });
    for (const reader of [client, view]) {
      expect((await reader.ask(READ, { length: 4096 })).data).toEqual(block(1));
      expect((await reader.ask(READ, { offset: 8192, length: 4096 })).error).toBe(0);
      expect((await reader.ask(READ, { offset: 4096, length: 512 })).error).toBe(NBD_ERROR.EIO);
      expect((await reader.ask(READ, { length: 16_384 })).error).toBe(NBD_ERROR.EIO);
    }
    for (const refused of [
      client.ask(WRITE, { data: block(3) }),
      client.ask(WRITE, { data: block(3), flags: COMMAND_FLAG.FUA }),
      client.ask(WRITE_ZEROES, { length: 4096 }),
      client.ask(FLUSH),
    ]) {
      expect((await refused).error).toBe(NBD_ERROR.EIO);
    }
    expect((await client.ask(READ, { length: 4096 })).data).toEqual(block(1));
    expect((await other.ask(WRITE, { data: block(3) })).error).toBe(0);
    expect(server.stats().failedExports).toEqual(['', 'view']);
  });

  test('a client with structured replies hears the code of a read at risk', async () => {
    await failed({ '': failing() });
    const client = await RawClient.open(path, { structured: true });
    const { chunk } = await client.ask(READ, { offset: 4096, length: 512 });
    expect(chunk).toMatchObject({ kind: 'error', error: NBD_ERROR.EIO, message: 'READ_AT_RISK' });
  });

  test('readAtRisk serves them all', async () => {
    const { client } = await failed({ '': { storage: failing(), readAtRisk: true } });
    expect((await client.ask(READ, { offset: 4096, length: 4096 })).data).toEqual(block(2));
    expect((await client.ask(WRITE, { data: block(3) })).error).toBe(NBD_ERROR.EIO);
  });

  test('readAtRisk is refused where it is not to be had for the one export alone', () => {
    const storage = failing();
    const exports = { a: storage, b: { storage, readAtRisk: true } };
    expect(() => new NbdServer({ exports })).toThrow(
      /share a storage, so their readAtRisk must be the same/,
    );
    const scheduler = new IoScheduler(failing());
    expect(
      () => new NbdServer({ exports: { a: { storage: scheduler, readAtRisk: true } } }),
    ).toThrow(/readAtRisk cannot be given for a scheduler/);
  });

  test('the observer hears of it also where it is the last flush, that of close()', async () => {
    const last = withFaults(new MemoryStorage(MIB, { capabilities }), [
      { on: 'flush', nth: 0, fault: 'fail' },
    ]);
    const server = await serving(last);
    const client = await RawClient.open(path);
    expect((await client.ask(WRITE, { data: block(1) })).error).toBe(0);
    await expect(server.close()).rejects.toMatchObject({ code: 'FLUSH_FAILED' });
    const tidings = events.filter(({ kind }) => kind === 'failed');
    expect(tidings).toMatchObject([{ kind: 'failed', export: '', atRisk: [{ start: 0 }] }]);
  });

  test('the observer hears of it once, a new client is told, and recover() takes it back', async () => {
    const { client, server } = await failed({ '': failing() });
    await client.ask(FLUSH);
    const tidings = (): NbdServerEvent[] =>
      events.filter(({ kind }) => /failed|recovered/.test(kind));
    expect(tidings()).toEqual([
      { kind: 'failed', export: '', atRisk: [{ start: 4096, end: 8192 }] },
    ]);
    const late = await RawClient.open(path);
    const info = late.infos.find((each) => each.kind === 'export');
    expect((info?.kind === 'export' && info.flags & 0x2) !== 0).toBe(true);
    expect((await late.ask(WRITE, { data: block(3) })).error).toBe(NBD_ERROR.EPERM);

    expect(await server.recover('')).toEqual([{ start: 4096, end: 8192 }]);
    expect(tidings().at(-1)).toEqual({ kind: 'recovered', export: '' });
    expect(server.stats().failedExports).toEqual([]);
    // What was lost has to be written anew before a flush says anything.
    expect((await client.ask(FLUSH)).error).toBe(NBD_ERROR.EIO);
    expect((await client.ask(WRITE, { offset: 4096, data: block(2) })).error).toBe(0);
    expect((await client.ask(FLUSH)).error).toBe(0);
    const again = await RawClient.open(path);
    expect((await again.ask(WRITE, { data: block(3) })).error).toBe(0);
    await expect(server.recover('gone')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('an observer that throws', () => {
  test('is reported once, and no client is the worse for it', async () => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => {});
    onTestFinished(() => said.mockRestore());
    const server = await serving(new MemoryStorage(MIB), {
      observer: () => {
        throw new Error('no room in the log');
      },
    });
    for (let i = 0; i < 3; i += 1) {
      const client = await RawClient.open(path);
      expect((await client.ask(FLUSH)).error).toBe(0);
      client.socket.destroy();
    }
    await until(() => server.stats().connections === 0);
    await server.close();
    expect(said.mock.calls).toEqual([
      [
        'write-barrier: the observer of an NbdServer threw; what it observes goes on: no room in the log',
      ],
    ]);
  });
});

describe('an observer that throws what has no words', () => {
  test.each<[string, unknown]>([
    ['an object without a prototype', Object.create(null)],
    ['an error whose message cannot be read', unreadable()],
    ['a revoked proxy', revoked()],
    ['a symbol', Symbol('why')],
    ['nothing', undefined],
  ])('does not end the process either: %s', async (_, thrown) => {
    const server = await serving(new MemoryStorage(MIB), {
      observer: () => {
        throw thrown;
      },
    });
    const client = await RawClient.open(path);
    expect((await client.ask(FLUSH)).error).toBe(0);
    await server.close();
  });

  function unreadable(): Error {
    return Object.defineProperty(new Error(), 'message', {
      get: () => {
        throw new Error('not this either');
      },
    });
  }

  function revoked(): object {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  }
});

describe('options that are not known, or of another type', () => {
  const storage = new MemoryStorage(MIB);
  const made = (options: unknown): NbdServer => new NbdServer(options as NbdServerOptions);

  test.each<[string, unknown, RegExp]>([
    ['of the server', { exports: { '': storage }, obsever: () => {} }, /did you mean 'observer'/],
    ['of the limits', { exports: { '': storage }, limits: { conections: 4 } }, /'connections'/],
    ['of an export', { exports: { '': { storage, readonly: true } } }, /did you mean 'readOnly'/],
    ['of an export without a storage', { exports: { '': { storge: storage } } }, /'storage'/],
    ['a number in words', { exports: { '': storage }, limits: { connections: '4' } }, /not '4'/],
    ['a bigint', { exports: { '': storage }, limits: { idleMs: 4n } }, /not 4n/],
    ['a flag in words', { exports: { '': { storage, readOnly: 'no' } } }, /not 'no'/],
    ['a policy that is none', { exports: { '': { storage, tls: 'always' } } }, /not 'always'/],
    ['a description', { exports: { '': { storage, description: 5 } } }, /not 5/],
    ['an observer', { exports: { '': storage }, observer: 'x' }, /not 'x'/],
    ['a storage', { exports: { '': 'disk.img' } }, /not 'disk.img'/],
    ['no storage', { exports: { '': null } }, /not null/],
    ['no exports', { exports: undefined }, /not undefined/],
    ['nothing', undefined, /not undefined/],
  ])('are refused when the server is made: %s', (_, options, words) => {
    expect(() => made(options)).toThrow(misuse);
    expect(() => made(options)).toThrow(words);
  });

  test.each<[string, unknown, RegExp]>([
    ['a name', { pth: '/x' }, /did you mean 'path'/],
    ['both places', { path: '/x', port: 1 }, /no option 'port'/],
    ['a port in words', { port: '10809' }, /not '10809'/],
    ['a path that is none', { path: 5 }, /not 5/],
    ['consent in words', { port: 0, allowRemote: 'yes' }, /not 'yes'/],
    ['a host', { port: 0, host: 5 }, /not 5/],
    ['nothing', undefined, /not undefined/],
  ])('are refused by listen: %s', async (_, options, words) => {
    const server = made({ exports: { '': storage } });
    const listening = server.listen(options as { path: string });
    await expect(listening).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(words),
    });
  });

  test('a storage beyond 2^53 bytes is refused in words that are true', () => {
    for (const size of [2 ** 53, 2 ** 60]) {
      const huge = { ...withFaults(storage, []), size };
      expect(() => made({ exports: { big: huge } })).toThrow(misuse);
      expect(() => made({ exports: { big: huge } })).toThrow(
        /'big': the storage has \d+ bytes; at most 2\^53 - 1/,
      );
    }
  });
});
