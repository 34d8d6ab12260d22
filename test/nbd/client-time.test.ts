// The client and time: servers that are silent, dials that never end, and what is left of it when it is closed. The rules
// are at the head of src/nbd/client/nbd-storage.ts.

import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  listExports,
  type NbdEvent,
  NbdLostError,
  NbdStorage,
  type NbdStorageOptions,
} from '../../src/nbd/index.js';
import {
  COMMAND,
  encodeInfo,
  encodeOptionReply,
  OPTION,
  OPTION_REPLY,
  SERVER_GREETING,
  TRANSMISSION_FLAG,
} from '../../src/nbd/wire/index.js';
import { codeThrown, errorThrown } from '../storage/contract.js';
import { CONTEXT } from './client-fuzz.js';
import { ALL, MemoryServer } from './client-server.js';
import { bytes, temporaryFolder } from './support.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const block = (value: number): Uint8Array => new Uint8Array(512).fill(value);
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function connected(
  server: MemoryServer,
  options: Partial<NbdStorageOptions> = {},
): Promise<NbdStorage> {
  const given = { dial: server.dial, delayMs: 0, ...options } as NbdStorageOptions;
  const storage = await NbdStorage.connect(given);
  onTestFinished(() => {
    server.hangs = () => false;
    return storage.close();
  });
  return storage;
}

/** A duplex that nobody is behind. */
function void_(): Duplex {
  return new Duplex({ read: () => {}, write: (_bytes, _encoding, done) => done() });
}

/** Where somebody listens who says so much to everybody, and no more. */
async function saying(...said: readonly Uint8Array[]): Promise<{ path: string; server: Server }> {
  const folder = await temporaryFolder();
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).resume();
    socket.write(bytes(...said));
  });
  const path = join(folder.path, 's');
  server.listen(path);
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
    return folder.remove();
  });
  return { path, server };
}

const GREETING = SERVER_GREETING.encode({ flags: 3 });
const STRUCTURED = encodeOptionReply(OPTION.STRUCTURED_REPLY, OPTION_REPLY.ACK);
const EXPORT = encodeOptionReply(
  OPTION.GO,
  OPTION_REPLY.INFO,
  encodeInfo({ kind: 'export', size: 4096, flags: ALL }),
);

describe('connecting', () => {
  test.each([
    ['nothing', []],
    ['half a greeting', [GREETING.subarray(0, 9)]],
    ['a greeting', [GREETING]],
    ['half an answer', [GREETING, STRUCTURED.subarray(0, 13)]],
    ['an answer', [GREETING, STRUCTURED]],
    ['all but the last answer', [GREETING, STRUCTURED, ...CONTEXT, EXPORT]],
  ])('to a server that says %s and then nothing fails in time', async (_, said) => {
    const { path } = await saying(...said);
    const error = await errorThrown(() => NbdStorage.connect({ path, timeoutMs: 40 }));
    expect(error).toMatchObject({ code: 'IO_FAILED', message: expect.stringContaining('40 ms') });
  });

  test('fails in time when dialing never ends, and hangs up on what comes too late', async () => {
    const late = void_();
    let arrive = (_: Duplex): void => {};
    const dialed = new Promise<Duplex>((resolve) => {
      arrive = resolve;
    });
    const dial = (): Promise<Duplex> => dialed;
    expect(await codeThrown(() => NbdStorage.connect({ dial, timeoutMs: 20 }))).toBe('IO_FAILED');
    expect(await codeThrown(() => listExports({ dial, timeoutMs: 20 }))).toBe('IO_FAILED');
    arrive(late);
    await once(late, 'close');
  });

  test('makes do with the connections that there are, when it asks for more and when it comes back', async () => {
    const flags = ALL | TRANSMISSION_FLAG.CAN_MULTI_CONN;
    const server = new MemoryServer({ size: 4096, flags });
    let places = 3;
    const dial = (): Duplex => {
      if (server.connections >= places) throw new Error('no place left');
      return server.dial();
    };
    const storage = await connected(server, { dial, connections: 4 } as Partial<NbdStorageOptions>);
    expect(storage.connections).toBe(3);
    await storage.write(0, block(1), PLAIN);
    places = 1;
    server.crash();
    await storage.flush(SIMPLE);
    expect(storage.connections).toBe(1);
    expect(server.medium.subarray(0, 512)).toEqual(block(1));
  });

  test('over another connection to another export fails', async () => {
    const flags = ALL | TRANSMISSION_FLAG.CAN_MULTI_CONN;
    const servers = [4096, 8192].map((size) => new MemoryServer({ size, flags }));
    let dials = 0;
    const dial = (): Duplex => (servers[dials++] as MemoryServer).dial();
    const code = codeThrown(() => NbdStorage.connect({ dial, connections: 2 }));
    expect(await code).toBe('INVALID_STORAGE');
  });

  test('with a dialer that throws fails', async () => {
    const dial = (): Duplex => {
      throw new Error('no such thing');
    };
    const error = await errorThrown(() => NbdStorage.connect({ dial }));
    expect(error).toMatchObject({ code: 'IO_FAILED', cause: { message: 'no such thing' } });
  });

  test.each(['connections', 'delayMs', 'delayMsMax', 'timeoutMs'])(
    'is refused with %s without an end, which no timer and no server takes',
    async (name) => {
      const options = { dial: void_, [name]: Number.POSITIVE_INFINITY } as NbdStorageOptions;
      expect(await codeThrown(() => NbdStorage.connect(options))).toBe('INVALID_ARGUMENT');
    },
  );
});

describe('a connected server that is silent', () => {
  test('nbd-storage.N6: is waited for, unless there is a limit', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server);
    server.hangs = () => true;
    let settled = false;
    const write = storage.write(0, block(1), PLAIN).finally(() => {
      settled = true;
    });
    await pause(80);
    expect(settled).toBe(false);
    server.hangs = () => false;
    server.crash();
    await write;
  });

  test('nbd-storage.N6: is lost when the limit is over, and what it has not answered is sent again', async () => {
    const server = new MemoryServer({ size: 4096 });
    const events: NbdEvent[] = [];
    const observer = (event: NbdEvent): unknown => events.push(event);
    const storage = await connected(server, { requestTimeoutMs: 30, observer });
    await storage.write(0, block(1), PLAIN);
    server.hangs = ({ command }) => command === COMMAND.FLUSH && events.length === 0;
    const flush = storage.flush(SIMPLE);
    await Promise.all([flush, storage.write(512, block(2), PLAIN)]);
    await storage.flush(SIMPLE);
    expect(server.medium.subarray(0, 1024)).toEqual(bytes(block(1), block(2)));
    expect(events.map(({ kind }) => kind)).toEqual(['lost', 'reconnected']);
    expect(events[0]).toMatchObject({ error: { message: expect.stringContaining('30 ms') } });
  });

  test('nbd-storage.N6: the oldest request counts, whatever else is answered', async () => {
    const server = new MemoryServer({ size: 4096 });
    let losses = 0;
    const observer = ({ kind }: NbdEvent): void => {
      losses += kind === 'lost' ? 1 : 0;
    };
    const storage = await connected(server, { requestTimeoutMs: 50, observer });
    server.hangs = ({ offset }) => offset === 1024 && losses === 0;
    const stuck = storage.read(1024, block(0));
    for (let i = 0; i < 10 && losses === 0; i += 1) {
      await storage.write(0, block(i), PLAIN);
      await pause(10);
    }
    await stuck;
    expect(losses).toBe(1);
  });

  test('nbd-storage.N6: nobody is lost who has nothing to answer', async () => {
    const server = new MemoryServer({ size: 4096 });
    const events: NbdEvent[] = [];
    const storage = await connected(server, {
      requestTimeoutMs: 200,
      observer: (event) => events.push(event),
    });
    await storage.write(0, block(1), PLAIN);
    await pause(500);
    await storage.flush(SIMPLE);
    expect(events).toEqual([]);
  });

  // However long each try takes.
  test('nbd-storage.N4: is given up after so many tries, with what is at risk', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server, { requestTimeoutMs: 15, triesMax: 3, delayMsMax: 1 });
    await storage.write(512, block(1), PLAIN);
    server.hangs = () => true;
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toBeInstanceOf(NbdLostError);
    expect(error).toMatchObject({ atRisk: [{ start: 512, end: 1024 }] });
    // A flush, and then three times the write that comes first.
    expect(server.requests.map(({ command }) => command)).toEqual([
      COMMAND.WRITE,
      COMMAND.FLUSH,
      ...[COMMAND.WRITE, COMMAND.WRITE, COMMAND.WRITE],
    ]);
  });
});

describe('closing', () => {
  test('nbd-storage.N5: while the server is dialed again ends that, and nothing is heard afterwards', async () => {
    const server = new MemoryServer({ size: 4096 });
    const events: NbdEvent[] = [];
    let dials = 0;
    let second: Duplex | undefined;
    const dial = (): Duplex => {
      dials += 1;
      if (dials === 1) return server.dial();
      second = void_();
      return second;
    };
    const observer = (event: NbdEvent): unknown => events.push(event);
    const storage = await connected(server, { dial, observer } as Partial<NbdStorageOptions>);
    server.crash();
    while (!second) await pause(1);
    await pause(5);
    await storage.close();
    await pause(5);
    expect(second.destroyed).toBe(true);
    expect(events.map(({ kind }) => kind)).toEqual(['lost']);
  });

  test('nbd-storage.N5: waits for what is in flight, through a lost server', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server);
    server.down = true;
    server.crash();
    const write = storage.write(0, block(7), PLAIN);
    const closing = storage.close();
    await pause(5);
    server.down = false;
    await Promise.all([write, closing]);
    expect(server.cache.subarray(0, 512)).toEqual(block(7));
    expect(server.connections).toBe(0);
  });
});
