// TLS of the client, by certificates and by a shared key, against nbdkit (GnuTLS on its side, OpenSSL on ours).

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { listExports, NbdStorage, type NbdTls } from '../../src/nbd/index.js';
import { errorThrown } from '../storage/contract.js';
import { has, type Server, scratch, server } from './nbd-client-servers.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const able = has('nbdkit') && has('certtool') && has('psktool');

function certtool(directory: string, ...args: readonly string[]): void {
  execFileSync('certtool', args, { cwd: directory, stdio: 'ignore' });
}

/** An authority, a server that calls itself `localhost`, and a client, as nbdkit looks for them. */
function certificates(): string {
  const directory = join(scratch(), 'pki');
  mkdirSync(directory);
  const template = (name: string, ...lines: readonly string[]): string => {
    writeFileSync(join(directory, `${name}.info`), `cn = ${name}\n${lines.join('\n')}\n`);
    return `${name}.info`;
  };
  const key = (name: string): string => {
    certtool(directory, '--generate-privkey', '--key-type=ecdsa', '--outfile', `${name}-key.pem`);
    return `${name}-key.pem`;
  };
  const ca = ['--load-privkey', key('ca'), '--template', template('ca', 'ca', 'cert_signing_key')];
  certtool(directory, '--generate-self-signed', ...ca, '--outfile', 'ca-cert.pem');
  const signed = (name: string, ...lines: readonly string[]): void => {
    const by = ['--load-ca-certificate', 'ca-cert.pem', '--load-ca-privkey', 'ca-key.pem'];
    const of = ['--load-privkey', key(name), '--template', template(name, ...lines, 'signing_key')];
    certtool(directory, '--generate-certificate', ...by, ...of, '--outfile', `${name}-cert.pem`);
  };
  signed('server', 'dns_name = localhost', 'tls_www_server');
  signed('client', 'tls_www_client');
  return directory;
}

async function started(...args: readonly string[]): Promise<Server> {
  const one = server((socket) => ['nbdkit', '-f', '-U', socket, '--tls=require', ...args]);
  await one.start();
  return one;
}

/** Writes over a connection, lets the server die, and reads over another one what was written. */
async function holds(one: Server, tls: NbdTls): Promise<void> {
  const storage = await NbdStorage.connect({ path: one.path, tls, delayMs: 5, triesMax: Infinity });
  onTestFinished(() => storage.close());
  const data = new Uint8Array(3 << 20).map((_, at) => at % 253);
  await storage.write(512, data, PLAIN);
  await one.kill();
  await one.start();
  const into = new Uint8Array(data.length);
  await storage.read(512, into);
  expect(Buffer.compare(into, data)).toBe(0);
  await storage.flush({ tag: 'simple' });
}

describe.skipIf(!able)('nbdkit with TLS (skipped unless it is installed, with gnutls-bin)', () => {
  test('by certificates: what is written is there, also on a server that was killed', async () => {
    const pki = certificates();
    const one = await started(`--tls-certificates=${pki}`, '--tls-verify-peer', 'memory', '8M');
    const read = (name: string): Buffer => readFileSync(join(pki, name));
    const ca = read('ca-cert.pem');
    const own = { cert: read('client-cert.pem'), key: read('client-key.pem') };
    await holds(one, { ca, ...own, servername: 'localhost' });
    const exports = await listExports({
      path: one.path,
      tls: { ca, ...own, servername: 'localhost' },
    });
    expect(exports.map(({ name }) => name)).toEqual(['']);

    for (const [wrong, why] of [
      [{ ca, ...own, servername: 'elsewhere' }, /altnames/],
      [{ ...own, servername: 'localhost' }, /certificate|unable to/],
      [{ ca, servername: 'localhost' }, /./],
    ] as const) {
      const error = await errorThrown(() => NbdStorage.connect({ path: one.path, tls: wrong }));
      expect(error).toMatchObject({ code: 'IO_FAILED', message: expect.stringMatching(why) });
    }
    // Keys are looked at before anything is dialed.
    const noKey = { ca, ...own, key: 'no key', servername: 'localhost' };
    const error = await errorThrown(() => NbdStorage.connect({ path: one.path, tls: noKey }));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  test('by a shared key: what is written is there, also on a server that was killed', async () => {
    const keys = join(scratch(), 'keys.psk');
    execFileSync('psktool', ['-u', 'alice', '-p', keys], { stdio: 'ignore' });
    const [identity = '', hex = ''] = readFileSync(keys, 'utf8').trim().split(':');
    const one = await started(`--tls-psk=${keys}`, 'memory', '8M');
    await holds(one, { psk: { identity, key: Buffer.from(hex, 'hex') } });
    const wrong = { psk: { identity, key: Buffer.alloc(32, 1) } };
    const error = await errorThrown(() => NbdStorage.connect({ path: one.path, tls: wrong }));
    expect(error).toMatchObject({ code: 'IO_FAILED' });
  });

  test('required by the server: a client without it is refused, and says so', async () => {
    const keys = join(scratch(), 'keys.psk');
    execFileSync('psktool', ['-u', 'alice', '-p', keys], { stdio: 'ignore' });
    const one = await started(`--tls-psk=${keys}`, 'memory', '8M');
    const error = await errorThrown(() => NbdStorage.connect({ path: one.path }));
    expect(error).toMatchObject({ code: 'EOPNOTSUPP', message: expect.stringMatching(/TLS/) });
  });

  test('asked for by the client: a server without it is refused', async () => {
    const one = server((socket) => ['nbdkit', '-f', '-U', socket, 'memory', '8M']);
    await one.start();
    const error = await errorThrown(() =>
      NbdStorage.connect({ path: one.path, tls: { servername: 'localhost' } }),
    );
    expect(error).toMatchObject({ code: 'EOPNOTSUPP', message: expect.stringMatching(/TLS/) });
  });
});
