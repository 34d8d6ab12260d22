// TLS of the client against servers that are who they say, and against those that are not. The rules are at the head of
// src/nbd/client/tls.ts.

import { connect } from 'node:net';
import { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { inspect } from 'node:util';
import { runInNewContext } from 'node:vm';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { provesKey } from '../../src/nbd/client/tls.js';
import {
  listExports,
  type NbdEvent,
  NbdStorage,
  type NbdStorageOptions,
  type NbdTls,
} from '../../src/nbd/index.js';
import { errorThrown } from '../storage/contract.js';
import { MemoryServer } from './client-server.js';
import {
  AUTHORITY,
  ELSEWHERE,
  type TlsServer,
  type TlsTemper,
  tlsServer,
} from './client-tls-server.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const block = (value: number): Uint8Array => new Uint8Array(512).fill(value);
const KEY = new TextEncoder().encode('a secret of 32 bytes, all in all');
const psk = { identity: 'alice', key: KEY };
const EVERYTHING = 'ALL:PSK:@SECLEVEL=0';
const certificate = { ca: AUTHORITY, servername: 'elsewhere' };

async function served(temper: TlsTemper): Promise<{ server: MemoryServer; tls: TlsServer }> {
  const server = new MemoryServer({ size: 4096 });
  return { server, tls: await tlsServer(server, temper) };
}

async function connected(
  { path }: TlsServer,
  tls: NbdTls,
  options: Partial<NbdStorageOptions> = {},
): Promise<NbdStorage> {
  const given = { path, tls, delayMs: 0, ...options } as NbdStorageOptions;
  const storage = await NbdStorage.connect(given);
  onTestFinished(() => storage.close().catch(() => {}));
  return storage;
}

async function holds(storage: NbdStorage, server: MemoryServer): Promise<void> {
  await storage.write(512, block(7), PLAIN);
  await storage.flush(SIMPLE);
  const into = block(0);
  await storage.read(512, into);
  expect(into).toEqual(block(7));
  expect(server.medium.subarray(512, 1024)).toEqual(block(7));
}

describe('a client with a pre-shared key', () => {
  test.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'talks to a server that has it: %s',
    async (version) => {
      const { server, tls } = await served({ psk: KEY, maxVersion: version, ciphers: EVERYTHING });
      await holds(await connected(tls, { psk }), server);
      expect((await listExports({ path: tls.path, tls: { psk } })).length).toBe(2);
    },
  );

  // Each of them would get through the handshake of a client that takes any suite, or any certificate.
  const impostors: readonly (readonly [string, TlsTemper])[] = [
    ['a certificate, TLS 1.3', { ...ELSEWHERE, ciphers: EVERYTHING }],
    ['a certificate, TLS 1.2', { ...ELSEWHERE, ciphers: EVERYTHING, maxVersion: 'TLSv1.2' }],
    ['no name at all (anonymous DH)', { ciphers: 'aNULL:@SECLEVEL=0', maxVersion: 'TLSv1.2' }],
    ['another key', { psk: KEY.map((byte) => byte ^ 1), ciphers: EVERYTHING }],
    [
      'another key, TLS 1.2',
      { psk: KEY.map((byte) => byte ^ 1), ciphers: EVERYTHING, maxVersion: 'TLSv1.2' },
    ],
    [
      'another key and a certificate',
      { ...ELSEWHERE, psk: KEY.map((byte) => byte ^ 1), ciphers: EVERYTHING },
    ],
  ];

  test.each(impostors)(
    'nbd-client-tls.TLS1: tells nothing to a server that has %s',
    async (_, temper) => {
      const { tls } = await served(temper);
      const { path } = tls;
      for (const ask of [
        () => NbdStorage.connect({ path, tls: { psk } }),
        () => listExports({ path, tls: { psk } }),
      ]) {
        const error = await errorThrown(ask);
        expect(error).toMatchObject({
          code: 'IO_FAILED',
          message: expect.stringMatching(/proved/),
        });
      }
      expect(tls.told).toBe(0);
    },
  );

  test.each(impostors)(
    'nbd-client-tls.TLS1: nor when the server that comes back has %s',
    async (_, temper) => {
      const { tls } = await served({ psk: KEY, ciphers: EVERYTHING });
      const storage = await connected(tls, { psk }, { triesMax: 2 });
      await storage.write(0, block(1), PLAIN);
      const before = tls.told;
      tls.temper = temper;
      for (const socket of tls.sockets) socket.destroy();
      const error = await errorThrown(() => storage.flush(SIMPLE));
      expect(error).toMatchObject({ code: 'CONNECTION_LOST', atRisk: [{ start: 0, end: 512 }] });
      expect(tls.told).toBe(before);
    },
  );

  // What node:tls says after a handshake. The servers above never get so far, because no authority is trusted.
  test('nbd-client-tls.TLS1: takes as a proof only what a server without the key cannot bring about', () => {
    const socket = (protocol: string, standardName: string, reused: boolean, shown: boolean) =>
      ({
        getProtocol: () => protocol,
        getCipher: () => ({ standardName }),
        isSessionReused: () => reused,
        getPeerX509Certificate: () => (shown ? {} : undefined),
      }) as unknown as TLSSocket;
    const SUITE = 'TLS_AES_128_GCM_SHA256';
    const proofs = [
      socket('TLSv1.3', SUITE, true, false),
      socket('TLSv1.2', 'TLS_PSK_WITH_AES_128_GCM_SHA256', false, false),
      socket('TLSv1.2', 'TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256', false, false),
    ];
    expect(proofs.map(provesKey)).toEqual([true, true, true]);
    const none = [
      socket('TLSv1.3', SUITE, false, true),
      // A session that began with a certificate, and is resumed.
      socket('TLSv1.3', SUITE, true, true),
      socket('TLSv1.3', SUITE, false, false),
      socket('TLSv1.2', 'TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256', false, true),
      socket('TLSv1.2', 'TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256', true, false),
      socket('TLSv1.2', 'TLS_DH_anon_WITH_AES_128_GCM_SHA256', false, false),
      socket('TLSv1.2', 'TLS_RSA_PSK_WITH_AES_128_GCM_SHA256', false, true),
      socket('TLSv1.1', 'TLS_PSK_WITH_AES_128_CBC_SHA', false, false),
    ];
    expect(none.map(provesKey)).toEqual(none.map(() => false));
  });

  test('nbd-client-tls.TLS1: looks at that before it says anything, and for each connection', async () => {
    const { tls } = await served({ psk: KEY, ciphers: EVERYTHING });
    const storage = await connected(tls, { psk }, { triesMax: 1 });
    const before = tls.told;
    const look = vi.spyOn(TLSSocket.prototype, 'isSessionReused').mockReturnValue(false);
    onTestFinished(() => look.mockRestore());
    const error = await errorThrown(() => NbdStorage.connect({ path: tls.path, tls: { psk } }));
    expect(error).toMatchObject({ message: expect.stringMatching(/has not proved/) });
    for (const socket of tls.sockets) socket.destroy();
    expect(await errorThrown(() => storage.read(0, block(0)))).toMatchObject({
      message: expect.stringMatching(/has not proved/),
    });
    expect(tls.told).toBe(before);
  });

  test('takes a key of 16 bytes, of 512, and of another realm', async () => {
    const foreign: Uint8Array = runInNewContext('new Uint8Array(32).fill(5)');
    expect(foreign).not.toBeInstanceOf(Uint8Array);
    for (const key of [KEY.subarray(0, 16), new Uint8Array(512).fill(9), foreign]) {
      const { server, tls } = await served({ psk: new Uint8Array(key), ciphers: EVERYTHING });
      await holds(await connected(tls, { psk: { identity: 'alice', key } }), server);
    }
  });

  test('does not see it when the caller overwrites the key', async () => {
    const { server, tls } = await served({ psk: KEY, ciphers: EVERYTHING });
    const key = KEY.slice();
    const storage = await connected(tls, { psk: { identity: 'alice', key } });
    key.fill(0);
    for (const socket of tls.sockets) socket.destroy();
    await holds(storage, server);
  });
});

describe('TLS options', () => {
  const dial = (): Duplex => {
    throw new Error('dialed');
  };
  const refused = async (tls: unknown): Promise<Error & { code: string }> => {
    const error = await errorThrown(() => NbdStorage.connect({ dial, tls } as NbdStorageOptions));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    return error as Error & { code: string };
  };

  test.each<readonly [string, object]>([
    ['ca', { psk, ca: AUTHORITY }],
    ['cert', { psk, ...ELSEWHERE }],
    ['pfx', { psk, pfx: new Uint8Array(3) }],
    ['ciphers', { psk, ciphers: 'DEFAULT:PSK' }],
    ['session', { psk, session: Buffer.alloc(10) }],
    ['checkServerIdentity', { psk, checkServerIdentity: () => undefined }],
    ['rejectUnauthorized', { psk, rejectUnauthorized: false }],
    ['pskCallback', { pskCallback: () => psk }],
    ['secureContext', { psk, secureContext: {} }],
    ['secureProtocol', { ...certificate, secureProtocol: 'TLSv1_method' }],
    ['minVersion', { ...certificate, minVersion: 'TLSv1' }],
    ['maxVersion', { psk, maxVersion: 'TLSv1.1' }],
    ['host', { ...certificate, host: 'elsewhere' }],
    ['servername', { ca: AUTHORITY, servername: 5 }],
    ['secureOptions', { ...certificate, secureOptions: '4' }],
    ['ca', { ...certificate, ca: '' }],
    ['ca', { ...certificate, ca: null }],
    ['ca', { ...certificate, ca: [AUTHORITY, ''] }],
    ['crl', { ...certificate, crl: '' }],
    ['cert', { ...certificate, cert: '', key: '' }],
    ['ciphers', { ...certificate, ciphers: null }],
  ])(
    'nbd-client-tls.TLS2: %s is refused where it makes no sense or weakens the proof',
    async (name, tls) => {
      expect((await refused(tls)).message).toContain(name);
    },
  );

  test.each<readonly [unknown, RegExp]>([
    [{ pskk: psk }, /did you mean 'psk'/],
    [{ ...certificate, serverName: 'x' }, /did you mean 'servername'/],
    [{ psk: { ...psk, keys: KEY } }, /did you mean 'key'/],
    [true, /must be an object/],
    [null, /must be an object/],
    [{ psk: 'secret' }, /must be an object/],
  ])('a name that is not known is refused, not passed over: %#', async (tls, message) => {
    expect((await refused(tls)).message).toMatch(message);
  });

  test('nbd-client-tls.TLS2: a key is looked at when connect is called, and nothing shows it', async () => {
    const secret = 'do not show me, I am a key';
    const bytes = new TextEncoder().encode(secret);
    for (const wrong of [
      { identity: 'alice', key: secret },
      { identity: 'alice', key: bytes.subarray(0, 15) },
      { identity: 'alice', key: new Uint8Array(0) },
      { identity: 'alice', key: Buffer.alloc(513, bytes) },
      { identity: 'alice', key: bytes.buffer },
      { identity: 'alice', key: [...bytes] },
      { identity: 'alice', key: null },
      { identity: 'alice' },
      { identity: bytes, key: bytes },
      { identity: '', key: bytes },
      { identity: `${secret}\0`, key: bytes },
      { identity: secret.repeat(20), key: bytes },
      secret,
      [secret],
    ]) {
      const error = await refused({ psk: wrong });
      const shown = inspect(error, { depth: null, showHidden: true });
      for (const part of [secret, '100, 111', '64 6f 20']) expect(shown).not.toContain(part);
    }
    for (const wrong of [
      secret,
      { ...certificate, key: secret, cert: ELSEWHERE.cert },
      { ...certificate, ...ELSEWHERE, passphrase: { secret } },
      { ...certificate, key: { [secret]: secret } },
    ]) {
      expect(inspect(await refused(wrong), { depth: null })).not.toContain(secret);
    }
  });

  test('a key is part of no error, event or storage that is printed', async () => {
    const { tls } = await served({ psk: KEY, ciphers: EVERYTHING });
    const events: NbdEvent[] = [];
    const storage = await connected(
      tls,
      { psk },
      { observer: (event) => events.push(event), triesMax: 1 },
    );
    tls.temper = { psk: KEY.map((byte) => byte ^ 1), ciphers: EVERYTHING };
    for (const socket of tls.sockets) socket.destroy();
    const error = await errorThrown(() => storage.read(0, block(0)));
    const shown = inspect([storage, events, error], { depth: null, showHidden: true });
    expect(events.length).toBeGreaterThan(2);
    expect(shown).not.toContain(Buffer.from(KEY).toString());
    expect(shown).not.toContain('61 20 73 65');
    expect(shown).not.toContain('97, 32, 115');
  });

  test('nbd-client-tls.TLS3: without a name to check its certificate against, a server is not dialed', async () => {
    for (const servername of [undefined, '']) {
      expect((await refused({ ca: AUTHORITY, servername })).message).toContain('servername');
    }
    expect((await refused({})).message).toContain('servername');
    const path = { path: '/nowhere', tls: { ca: AUTHORITY } };
    expect(await errorThrown(() => NbdStorage.connect(path))).toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    // Over TCP it is the host; the caller may also say how to check it.
    const tcp = { host: '127.0.0.1', port: 1, tls: { ca: AUTHORITY } };
    expect(await errorThrown(() => NbdStorage.connect(tcp))).toMatchObject({ code: 'IO_FAILED' });
  });
});

describe('a client with certificates', () => {
  test('nbd-client-tls.TLS3: talks to a server whose certificate is for the name, and to no other', async () => {
    const { server, tls } = await served({ ...ELSEWHERE });
    await holds(await connected(tls, certificate), server);
    const before = tls.told;
    for (const wrong of [{ ca: AUTHORITY, servername: 'localhost' }, { servername: 'elsewhere' }]) {
      const error = await errorThrown(() => NbdStorage.connect({ path: tls.path, tls: wrong }));
      expect(error).toMatchObject({
        code: 'IO_FAILED',
        message: expect.stringMatching(/^TLS fail/),
      });
    }
    expect(tls.told).toBe(before);
  });

  test.each<readonly [string, TlsTemper, NbdTls]>([
    ['by certificate', { ...ELSEWHERE, ciphers: 'ECDHE-ECDSA-AES128-SHA256' }, certificate],
    ['by certificate, SHA-1', { ...ELSEWHERE, ciphers: 'ECDHE-ECDSA-AES128-SHA' }, certificate],
    ['by key', { psk: KEY, ciphers: 'PSK-AES128-CBC-SHA256' }, { psk }],
    ['by key, SHA-1', { psk: KEY, ciphers: 'PSK-AES128-CBC-SHA:@SECLEVEL=0' }, { psk }],
  ])('nbd-client-tls.TLS4: takes no suite with CBC, %s', async (_, temper, options) => {
    const { tls } = await served({ ...temper, maxVersion: 'TLSv1.2' });
    const error = await errorThrown(() => NbdStorage.connect({ path: tls.path, tls: options }));
    expect(error).toMatchObject({ code: 'IO_FAILED' });
  });

  test.each<readonly [string, TlsTemper, NbdTls]>([
    ['by certificate', { ...ELSEWHERE }, certificate],
    ['by key', { psk: KEY, ciphers: EVERYTHING }, { psk }],
  ])(
    'nbd-client-tls.TLS4: is not renegotiated with by a server, %s, and goes on',
    async (_, temper, options) => {
      const { server, tls } = await served({ ...temper, maxVersion: 'TLSv1.2' });
      const storage = await connected(tls, options);
      const [socket] = tls.sockets;
      let done = 0;
      for (let times = 0; times < 20; times += 1) {
        socket?.renegotiate({}, (error) => {
          if (!error) done += 1;
        });
        await new Promise((resolve) => setTimeout(resolve, 5));
        await holds(storage, server);
      }
      expect(done).toBe(0);
    },
  );
});

describe('the two sockets of a connection with TLS', () => {
  /** A stream of a caller's own around a socket. */
  function wrapped(path: string): Duplex {
    const socket = connect(path);
    const stream: Duplex = new Duplex({
      read: () => socket.resume(),
      write: (bytes, _encoding, done) => void socket.write(bytes, () => done()),
      final: (done) => void socket.end(done),
      destroy: (error, done) => {
        socket.destroy();
        done(error);
      },
    });
    socket.on('data', (bytes) => {
      if (!stream.push(bytes)) socket.pause();
    });
    socket.on('end', () => stream.push(null));
    socket.on('error', (error) => stream.destroy(error));
    socket.on('close', () => stream.destroy());
    return stream;
  }

  const ends: readonly (readonly [string, (inner: Duplex, tls: TlsServer) => void])[] = [
    ['the inner one is destroyed', (inner) => inner.destroy()],
    ['the inner one fails', (inner) => inner.destroy(new Error('a cable'))],
    ['the inner one ends', (inner) => inner.end()],
    ['the server is gone', (_, { sockets }) => [...sockets].map((one) => one.destroy())],
    ['the server says goodbye', (_, { sockets }) => [...sockets].map((one) => one.end())],
    ['the server sends what is not TLS', (inner) => inner.emit('data', Buffer.alloc(64, 1))],
  ];

  for (const own of [false, true]) {
    test.each(ends)(`when %s, are both ended and made anew, own stream ${own}`, async (_, end) => {
      const { server, tls } = await served({ psk: KEY, ciphers: EVERYTHING });
      const made: Duplex[] = [];
      const dial = (): Duplex => {
        const stream = own ? wrapped(tls.path) : connect(tls.path);
        made.push(stream);
        return stream;
      };
      const storage = await NbdStorage.connect({ dial, tls: { psk }, delayMs: 0 });
      await storage.write(0, block(1), PLAIN);
      end(made[0] as Duplex, tls);
      const rounds = holds(storage, server);
      await rounds;
      await storage.close();
      for (const stream of made) {
        if (!stream.closed) await new Promise((resolve) => stream.once('close', resolve));
      }
      expect(made.map(({ destroyed }) => destroyed)).toEqual(made.map(() => true));
      while (tls.sockets.size > 0) await new Promise((resolve) => setTimeout(resolve, 1));
    });
  }
});
