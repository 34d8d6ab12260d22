// Goal: no end of a TLS connection is the end of the server. Method: the server is a process of its own, and strangers do
// to their connections what OpenSSL and Node have died of: they renegotiate, they leave at any byte of the handshake and of
// the transmission, they present identities at which the user's function for keys throws. Old versions of Node come from
// npm, where it can be reached.

import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  COMMAND,
  encodeOption,
  OPTION,
  OPTION_REPLY_HEADER,
  SERVER_GREETING,
} from '../../src/nbd/wire/index.js';
import { seededRandom } from '../../src/testing/index.js';
import { bytes, FLAGS, go, request, temporaryFolder } from '../nbd/support.js';
import { type ChildServer, childServer } from './nbd-child.js';
import { missing, run, succeeds, titled } from './nbd-programs.js';

const STARTTLS = encodeOption(OPTION.STARTTLS);
const KEY = Buffer.alloc(32, 7);
const ANSWERED = SERVER_GREETING.bytes + OPTION_REPLY_HEADER.bytes;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let path = '';
let server: ChildServer | undefined;

beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 's');
});

afterEach(async () => {
  await server?.kill();
  server = undefined;
  await folder.remove();
});

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await pause(5);
}

/** A client that has said STARTTLS and read the answer; undefined where the server has ended it before. */
function asking(
  where: { path: string } | { port: number } = { path },
): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(where);
    socket.on('error', () => {});
    socket.on('close', () => resolve(undefined));
    socket.write(bytes(FLAGS, STARTTLS));
    let read = 0;
    socket.on('data', function take(chunk) {
      read += chunk.length;
      if (read < ANSWERED) return;
      socket.off('data', take);
      socket.pause();
      resolve(socket);
    });
  });
}

function secured(socket: Socket, options: ConnectionOptions): Promise<TLSSocket | Error> {
  return new Promise((resolve) => {
    const secure = tlsConnect({ socket, rejectUnauthorized: false, ...options }, () =>
      resolve(secure),
    );
    secure.on('error', resolve);
    secure.on('close', () => resolve(new Error('closed')));
  });
}

const psk = (identity: string): ConnectionOptions => ({
  ciphers: 'TLS_AES_128_GCM_SHA256:PSK-AES128-GCM-SHA256',
  pskCallback: () => ({ identity, psk: KEY }),
  checkServerIdentity: () => undefined,
});

/** Of a client with a key, and of one that needs none. */
async function kindsOfKeys(): Promise<
  [name: string, options: string, client: ConnectionOptions][]
> {
  const psks = `{ tls: { psk: { alice: Buffer.alloc(32, 7) } }, limits: { handshakeMs: 300 } }`;
  const list: Awaited<ReturnType<typeof kindsOfKeys>> = [['psk', psks, psk('alice')]];
  if (missing('openssl').length > 0) return list;
  const line =
    'req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=x';
  await succeeds('openssl', line.split(' '), folder.path);
  const [cert, key] = ['cert', 'key'].map((name) => join(folder.path, `${name}.pem`));
  const files = `cert: read(${JSON.stringify(cert)}), key: read(${JSON.stringify(key)})`;
  return [...list, ['certificate', `{ tls: { ${files} }, limits: { handshakeMs: 300 } }`, {}]];
}

/** A client that means it is served. */
async function servesOthers(client: ConnectionOptions): Promise<void> {
  const socket = await asking();
  const secure = socket && (await secured(socket, client));
  if (!secure || secure instanceof Error) throw secure ?? new Error('no TLS');
  const answered = new Promise((resolve) => secure.once('data', resolve));
  secure.write(go());
  await answered;
  secure.destroy();
}

test('nbd-server-tls.X5: a client that renegotiates, many times and over many connections, ends nothing but itself', async () => {
  for (const [name, options, client] of await kindsOfKeys()) {
    server = await childServer(path, options);
    for (let round = 0; round < 20 && server.alive(); round += 1) {
      const socket = await asking();
      const secure = socket && (await secured(socket, { ...client, maxVersion: 'TLSv1.2' }));
      if (!secure || secure instanceof Error) throw secure ?? new Error('no TLS');
      secure.write(go());
      let refused = false;
      for (let n = 0; n < 20 && !refused && !secure.destroyed; n += 1) {
        // Refused means: no answer at all, or the end of the connection.
        const agreed = new Promise<boolean>((resolve) => {
          secure.renegotiate({ rejectUnauthorized: false }, (error) => resolve(error === null));
        });
        refused = !(await Promise.race([agreed, pause(100).then(() => false)]));
      }
      expect(refused || secure.destroyed).toBe(true);
      secure.destroy();
    }
    expect([name, server.alive(), server.alive() ? '' : server.epitaph()]).toEqual([
      name,
      true,
      '',
    ]);
    await servesOthers(client);
    await server.kill();
  }
});

// Half of them are cut at a byte, half at a moment; by closing, by ending, by a reset of the system.
test('nbd-server-tls.X6: a connection that ends at any moment of the handshake or of the transmission ends nothing but itself', async () => {
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = seededRandom(seed);
  const dice = (sides: number): number => Math.floor(random() * sides);
  for (const [name, options, client] of await kindsOfKeys()) {
    server = await childServer(path, options);
    const one = async (): Promise<void> => {
      const tcp = dice(2) === 0;
      const socket = await asking(tcp ? { port: server?.port ?? 0 } : { path });
      if (!socket) return;
      const leave = (): void => {
        const how = dice(3);
        if (how === 0) socket.destroy();
        else if (how === 1) socket.end();
        else if (tcp) socket.resetAndDestroy();
        else socket.destroySoon();
      };
      const when = dice(4);
      if (when === 0) {
        // A piece of a handshake, or noise instead of one.
        const hello = Buffer.from('1603010200010001fc0303', 'hex');
        socket.write(
          dice(2) === 0 ? hello.subarray(0, 1 + dice(10)) : Buffer.alloc(300, dice(256)),
        );
        setTimeout(leave, dice(20));
        return;
      }
      if (when === 1) setTimeout(leave, dice(10));
      const version = dice(2) === 0 ? 'TLSv1.2' : 'TLSv1.3';
      const secure = await secured(socket, { ...client, maxVersion: version });
      if (secure instanceof Error) return;
      const reads = Array.from({ length: dice(40) }, (_, i) =>
        request(COMMAND.READ, i, { length: 65_536 }),
      );
      secure.write(bytes(go(), ...reads));
      if (dice(2) === 0) secure.resume();
      await pause(dice(15));
      if (when === 2) secure.end();
      else if (dice(2) === 0) secure.destroy();
      else leave();
      setTimeout(() => socket.destroy(), 50);
    };
    for (let batch = 0; batch < 25 && server.alive(); batch += 1) {
      await Promise.all(Array.from({ length: 12 }, one));
    }
    const dead = server.alive() ? '' : server.epitaph();
    expect([`seed ${seed}`, name, server.alive(), dead]).toEqual([`seed ${seed}`, name, true, '']);
    await servesOthers(client);
    await until(async () => (await server?.stats())?.connections === 0);
    await server.kill();
  }
});

describe('nbd-server-tls.X3: a function for keys that goes wrong, on', () => {
  const FUNCTIONS = [
    `() => { throw new Error('no such identity') }`,
    `() => { throw 'words' }`,
    `async () => { throw new Error('later') }`,
    `async () => Buffer.alloc(32)`,
    `() => 'deadbeef00112233445566778899aabb'`,
    `() => 5`,
    `() => ({ psk: 'deadbeef00112233445566778899aabb' })`,
    `() => Buffer.alloc(100000)`,
    `() => Buffer.alloc(0)`,
  ];

  async function tried(node: string): Promise<void> {
    for (const [i, source] of FUNCTIONS.entries()) {
      path = join(folder.path, `s${i}`);
      server = await childServer(path, `{ tls: { psk: ${source} } }`, node);
      for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
        const socket = await asking();
        const secure =
          socket && (await secured(socket, { ...psk('mallory'), maxVersion: version }));
        expect([source, secure instanceof Error]).toEqual([source, true]);
      }
      await until(async () => (await server?.stats())?.connections === 0);
      await pause(20);
      expect([source, server.alive()]).toEqual([source, true]);
      expect(server.epitaph()).not.toContain('deadbeef');
      await server.kill();
    }
  }

  test('this Node', () => tried(process.execPath));

  // The first version that `engines` allows, and the last one before the fix of CVE-2026-21637.
  for (const version of ['20.0.0', '20.19.0']) {
    const platform = `node-${process.platform}-${process.arch}`;
    test(`Node ${version}`, async (context) => {
      writeFileSync(join(folder.path, 'package.json'), '{}');
      const wanted = [
        'install',
        '--no-audit',
        '--no-fund',
        '--ignore-scripts',
        `${platform}@${version}`,
      ];
      const got = await run('npm', wanted, folder.path);
      if (got.code !== 0) context.skip(`npm does not have it: ${got.text.slice(0, 200)}`);
      await tried(join(folder.path, 'node_modules', platform, 'bin', 'node'));
    });
  }
});

const openssl = missing('openssl');

test.skipIf(openssl.length > 0)(
  titled('no cipher with CBC or SHA-1 is spoken', openssl),
  async () => {
    for (const [, options, client] of await kindsOfKeys()) {
      server = await childServer(path, options);
      for (const cipher of [
        'AES256-SHA',
        'ECDHE-RSA-AES256-SHA',
        'ECDHE-RSA-AES128-SHA256',
        'PSK-AES256-CBC-SHA',
        'ECDHE-PSK-AES128-CBC-SHA256',
        'DHE-RSA-AES256-SHA256',
      ]) {
        const socket = await asking();
        const ciphers = `${cipher}:@SECLEVEL=0`;
        const secure =
          socket && (await secured(socket, { ...client, maxVersion: 'TLSv1.2', ciphers }));
        expect([cipher, secure instanceof Error]).toEqual([cipher, true]);
      }
      await server.kill();
    }
  },
);
