// NbdStorage over connections in memory, with a server that is cut at every byte. The rules of the thin side are at the
// head of src/nbd/client/nbd-storage.ts.

import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  listExports,
  type NbdEvent,
  NbdLostError,
  NbdStorage,
  type NbdStorageOptions,
} from '../../src/nbd/index.js';
import { COMMAND, NBD_ERROR, TRANSMISSION_FLAG } from '../../src/nbd/wire/index.js';
import { EXHAUSTIVE, share } from '../kit/amount.js';
import { codeThrown, errorThrown, storageContract } from '../storage/contract.js';
import { ALL, MemoryServer, type MemoryServerOptions } from './client-server.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const FORCED = { fua: true, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const SIZE = 8192;

function block(value: number, blocks = 1): Uint8Array {
  return new Uint8Array(512 * blocks).fill(value);
}

async function connected(
  server: MemoryServer,
  options: Partial<NbdStorageOptions> = {},
): Promise<NbdStorage> {
  const route = { dial: server.dial, delayMs: 0 };
  const storage = await NbdStorage.connect({ ...route, ...options } as NbdStorageOptions);
  onTestFinished(() => storage.close());
  return storage;
}

const made = (options: Partial<MemoryServerOptions> = {}): MemoryServer =>
  new MemoryServer({ size: SIZE, ...options });

async function readAll(storage: NbdStorage): Promise<Uint8Array> {
  const into = new Uint8Array(storage.size).fill(0xee);
  await storage.read(0, into);
  return into;
}

/** As `toEqual`, which takes its time over bytes. */
function same(bytes: Uint8Array, expected: Uint8Array, what = ''): void {
  if (Buffer.compare(bytes, expected) !== 0) expect(bytes, what).toEqual(expected);
}

for (const structured of [true, false]) {
  storageContract(
    `NbdStorage with ${structured ? 'structured' : 'simple'} replies`,
    {
      ...{ blockSize: 512, cache: 'volatile', flush: true, fua: true, orderedTags: false },
      ...{ writev: true, discard: true, writeZeroes: true, blockStatus: structured },
    },
    async () => {
      const server = made({ size: 65536, structured });
      const open = (): Promise<NbdStorage> => NbdStorage.connect({ dial: server.dial, delayMs: 0 });
      // The client outlives the server's cache, so a power cut of the server is nothing to it.
      return { storage: await open(), reopen: open, forgetCaches: () => server.crash() };
    },
  );
}

/** How far apart the cuts are in the handshake, the first requests and the last: the quick run tries one byte in eleven. */
const NEAR = EXHAUSTIVE ? 1 : 11;

describe('given a server that loses its cache at a byte', () => {
  /** What happens in between does not matter: in the end it is all there. */
  async function program(storage: NbdStorage): Promise<Uint8Array> {
    const expected = new Uint8Array(SIZE);
    await Promise.all([
      storage.write(0, block(1, 2), PLAIN),
      storage.write(2048, block(2), PLAIN),
      storage.writeZeroes?.(1024, 512),
    ]);
    const flushing = storage.flush(SIMPLE);
    const writing = storage.write(2560, block(3), PLAIN);
    await flushing;
    await storage.write(512, block(4), FORCED);
    await Promise.all([writing, storage.write(0, block(5), PLAIN)]);
    expected.fill(5, 0, 512).fill(4, 512, 1024).fill(2, 2048, 2560).fill(3, 2560, 3072);
    same(await readAll(storage), expected);
    await storage.flush(SIMPLE);
    return expected;
  }

  test.each([true, false])(
    'any byte of a run, structured replies %s, then nothing is lost',
    async (structured) => {
      const whole = made({ structured });
      const storage = await connected(whole);
      whole.arm();
      await program(storage);
      const total = whole.bytes;
      expect(total).toBeGreaterThan(SIZE / 8);
      for (let cut = 0; cut < total; cut += cut < 600 || total - cut < 300 ? NEAR : 61) {
        const server = made({ structured, cuts: [cut] });
        const cutStorage = await connected(server);
        server.arm();
        const expected = await program(cutStorage);
        same(server.medium, expected, `cut at ${cut}`);
        expect(server.crashes).toBe(1);
        await cutStorage.close();
      }
    },
  );

  test('and at any bytes after that, also while it is dialed again', async () => {
    const cuts = fc.array(fc.nat(1200), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(cuts, fc.constantFrom(1, 700, 1 << 20), async (list, resendBytesMax) => {
        const server = made({ cuts: list });
        const storage = await connected(server, { resendBytesMax, triesMax: 50 });
        server.arm();
        same(server.medium, await program(storage));
        await storage.close();
      }),
      { numRuns: share(300) },
    );
  });
});

describe('a server that is lost', () => {
  test('nbd-storage.N1: takes all connections with it, and they all come back', async () => {
    const server = made({ flags: ALL | TRANSMISSION_FLAG.CAN_MULTI_CONN });
    const storage = await connected(server, { connections: 3 });
    expect([storage.connections, server.connections]).toEqual([3, 3]);
    await storage.write(0, block(1), PLAIN);
    server.crash();
    await storage.flush(SIMPLE);
    expect(server.medium.subarray(0, 512)).toEqual(block(1));
    expect(storage.connections).toBe(3);
  });

  // On such a server a flush over another connection than that of a write would leave it in the cache.
  test('case 65: has one connection where it does not say that several are one, and a flush covers all', async () => {
    const server = made({ cachePerConnection: true });
    const storage = await connected(server, { connections: 3 });
    await Promise.all([0, 512, 1024].map((at) => storage.write(at, block(7), PLAIN)));
    await storage.flush(SIMPLE);
    expect(server.medium.subarray(0, 1536)).toEqual(block(7, 3));
    expect(storage.connections).toBe(1);
  });

  test.each([
    ['size', { size: 4096 }],
    ['flush', { flags: ALL - TRANSMISSION_FLAG.SEND_FLUSH }],
    ['read-only', { flags: ALL + TRANSMISSION_FLAG.READ_ONLY }],
  ])('nbd-storage.N2: and comes back with another %s is not written to', async (_what, change) => {
    const server = made();
    const storage = await connected(server);
    await storage.write(1024, block(1, 2), PLAIN);
    Object.assign(server, change);
    server.crash();
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toBeInstanceOf(NbdLostError);
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', atRisk: [{ start: 1024, end: 2048 }] });
    expect(server.requests.length).toBe(1);
    expect(storage.state).toBe('failed');
    expect(await codeThrown(() => storage.read(0, block(0)))).toBe('FAILED');
  });

  test('and does not come back is given up, and it says what is at risk', async () => {
    const server = made();
    const events: NbdEvent[] = [];
    const storage = await connected(server, { triesMax: 3, observer: (one) => events.push(one) });
    await storage.write(0, block(1), PLAIN);
    await storage.flush(SIMPLE);
    await storage.write(512, block(2), PLAIN);
    server.down = true;
    server.crash();
    const error = await errorThrown(() => storage.read(0, block(0)));
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', atRisk: [{ start: 512, end: 1024 }] });
    expect(events.map(({ kind }) => kind)).toEqual(['lost', 'retry', 'retry', 'retry', 'failed']);
  });

  test('is given up at once where nothing is kept, with what is at risk', async () => {
    const server = made();
    const storage = await connected(server, { resendBytesMax: 0 });
    await storage.write(512, block(2), PLAIN);
    server.crash();
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', atRisk: [{ start: 512, end: 1024 }] });
  });

  test('comes back where nothing is kept and nothing was unflushed', async () => {
    const server = made();
    const storage = await connected(server, { resendBytesMax: 0 });
    await storage.write(512, block(2), PLAIN);
    await storage.flush(SIMPLE);
    server.crash();
    await storage.write(0, block(3), PLAIN);
    await storage.flush(SIMPLE);
    expect(server.medium.subarray(0, 1024)).toEqual(new Uint8Array([...block(3), ...block(2)]));
  });

  test('nbd-storage.N4: and dies of what it is sent is given up', async () => {
    const server = made();
    const storage = await connected(server, { triesMax: 5 });
    server.fails = ({ command }) => (command === COMMAND.TRIM ? NBD_ERROR.ESHUTDOWN : 0);
    expect(await codeThrown(() => storage.discard?.(0, 512))).toBe('CONNECTION_LOST');
    expect(server.requests.length).toBe(6);
  });

  test('is not missed when it is closed', async () => {
    const server = made();
    const storage = await connected(server, { delayMs: 60_000 });
    server.down = true;
    server.crash();
    await new Promise((resolve) => setTimeout(resolve, 5));
    await storage.close();
    expect(storage.state).toBe('closed');
  });
});

describe('a server that fails', () => {
  test('a write is told of, in words of its own', async () => {
    const server = made();
    const storage = await connected(server);
    server.fails = ({ command }) => (command === COMMAND.WRITE ? NBD_ERROR.ENOSPC : 0);
    const error = await errorThrown(() => storage.write(0, block(1), PLAIN));
    expect(error).toMatchObject({ code: 'IO_FAILED', cause: { code: 'ENOSPC' } });
  });

  test('nbd-client-in-flight.E3: a flush is sent everything again before the next one', async () => {
    const server = made();
    const storage = await connected(server);
    await storage.write(512, block(7), PLAIN);
    server.fails = ({ command }) => {
      if (command !== COMMAND.FLUSH) return 0;
      // As Linux does: what could not be written is forgotten, and the next flush succeeds.
      server.cache = new Uint8Array(server.medium);
      server.fails = () => 0;
      return NBD_ERROR.EIO;
    };
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'FLUSH_FAILED', atRisk: [{ start: 512, end: 1024 }] });
    await storage.flush(SIMPLE);
    expect(server.medium.subarray(512, 1024)).toEqual(block(7));
  });

  test('nbd-client-in-flight.E6: a flush, where nothing is kept, is not asked again until the data is written anew', async () => {
    const server = made();
    const storage = await connected(server, { resendBytesMax: 0 });
    await storage.write(512, block(7), PLAIN);
    server.fails = ({ command }) => (command === COMMAND.FLUSH ? NBD_ERROR.EIO : 0);
    expect(await codeThrown(() => storage.flush(SIMPLE))).toBe('FLUSH_FAILED');
    server.fails = () => 0;
    const again = await errorThrown(() => storage.flush(SIMPLE));
    expect(again).toMatchObject({ code: 'FLUSH_FAILED', atRisk: [{ start: 512, end: 1024 }] });
    await storage.write(512, block(8), PLAIN);
    await storage.flush(SIMPLE);
    expect(server.medium.subarray(512, 1024)).toEqual(block(8));
  });

  test('what is sent again is given up, with what is at risk', async () => {
    const server = made();
    const storage = await connected(server);
    await storage.write(512, block(7), PLAIN);
    server.fails = ({ command }) => (command === COMMAND.WRITE ? NBD_ERROR.ENOSPC : 0);
    server.crash();
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', atRisk: [{ start: 512, end: 1024 }] });
  });

  test('nbd-storage.N3: to speak NBD is not tried again', async () => {
    const server = made();
    const events: NbdEvent[] = [];
    const storage = await connected(server, { observer: (event) => events.push(event) });
    await storage.write(512, block(7), PLAIN);
    server.babble(new TextEncoder().encode('HTTP/1.1 500'));
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(storage.state).toBe('failed');
    expect(events.map(({ kind }) => kind)).toEqual(['lost', 'failed']);
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'FAILED', atRisk: [{ start: 512, end: 1024 }] });
    expect(error).toMatchObject({ cause: { code: 'SYNTAX' } });
  });
});

describe('what is connected to', () => {
  test('is listed', async () => {
    const exports = await listExports({ dial: made().dial });
    expect(exports.map(({ name }) => name)).toEqual(['', 'disk']);
  });

  test('is refused when it is not there', async () => {
    expect(await codeThrown(() => connected(made(), { export: 'nothing' }))).toBe(
      'INVALID_ARGUMENT',
    );
    const nowhere = { path: '/nowhere/at/all' };
    expect(await codeThrown(() => NbdStorage.connect(nowhere))).toBe('IO_FAILED');
  });

  test('is refused without TLS when TLS was asked for', async () => {
    expect(await codeThrown(() => connected(made(), { tls: { servername: 'disk' } }))).toBe(
      'EOPNOTSUPP',
    );
  });

  test('is read-only when it says so, and has nothing to lose', async () => {
    const storage = await connected(made({ flags: ALL | TRANSMISSION_FLAG.READ_ONLY }));
    expect(storage.capabilities).toMatchObject({ cache: 'none', fua: false, discard: false });
    expect(await codeThrown(() => storage.write(0, block(1), PLAIN))).toBe('READ_ONLY');
    expect(await readAll(storage)).toEqual(new Uint8Array(SIZE));
  });

  test('is volatile without a flush, and lost with anything that was written', async () => {
    const server = made({ flags: TRANSMISSION_FLAG.HAS_FLAGS });
    const storage = await connected(server);
    expect(storage.capabilities).toMatchObject({ cache: 'volatile', flush: false, fua: false });
    expect(await codeThrown(() => storage.flush(SIMPLE))).toBe('EOPNOTSUPP');
    await storage.write(0, block(1), PLAIN);
    server.crash();
    expect(await errorThrown(() => storage.read(0, block(0)))).toBeInstanceOf(NbdLostError);
  });

  test.each([
    [{ host: 'a', path: 'b' }],
    [{ connections: 0 }],
    [{ triesMax: -1 }],
    [{ cache: 'volatile' }],
    [{ timeoutMs: 0.5 }],
  ])('is not asked with options that make no sense: %o', async (options) => {
    const wrong = options as Partial<NbdStorageOptions>;
    expect(await codeThrown(() => connected(made(), wrong))).toBe('INVALID_ARGUMENT');
  });
});
