// NBD servers with TLS of any temper for tests of the client: honest ones, and those that pass themselves off as one.
// A server in memory (client-server.ts) is put behind a Unix socket: here the plain beginning is spoken, STARTTLS agreed
// to, and whatever TLS is asked for begun; what comes out of that goes to the server in memory.

import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { createSecureContext, type SecureContextOptions, TLSSocket } from 'node:tls';
import { onTestFinished } from 'vitest';
import {
  CLIENT_FLAGS,
  encodeOptionReply,
  OPTION,
  OPTION_HEADER,
  OPTION_REPLY,
  SERVER_GREETING,
} from '../../src/nbd/wire/index.js';
import type { MemoryServer } from './client-server.js';
import { BOTH, bytes, FLAGS, temporaryFolder } from './support.js';

/** What the server is like at the next connection. */
export interface TlsTemper extends SecureContextOptions {
  /** The keys that it knows; it answers every identity with this one. */
  readonly psk?: Uint8Array;
}

export interface TlsServer {
  readonly path: string;
  temper: TlsTemper;
  /** How many bytes came through TLS. */
  told: number;
  readonly sockets: Set<TLSSocket>;
}

/** Serves `behind` until the test is over. */
export async function tlsServer(behind: MemoryServer, temper: TlsTemper): Promise<TlsServer> {
  const folder = await temporaryFolder();
  const path = join(folder.path, 's');
  const one: TlsServer = { path, temper, told: 0, sockets: new Set() };
  const server = createServer((raw) => {
    raw.on('error', () => {});
    // The client's flags and STARTTLS, and behind them nothing before the answer.
    let heard = 0;
    const onData = (part: Uint8Array): void => {
      heard += part.length;
      if (heard < CLIENT_FLAGS.bytes + OPTION_HEADER.bytes) return;
      raw.removeListener('data', onData).pause();
      raw.write(encodeOptionReply(OPTION.STARTTLS, OPTION_REPLY.ACK), () =>
        secured(raw, one, behind),
      );
    };
    raw.on('data', onData);
    raw.write(SERVER_GREETING.encode(BOTH));
  });
  server.listen(path);
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    for (const socket of one.sockets) socket.destroy();
    return folder.remove();
  });
  return one;
}

function secured(raw: Socket, one: TlsServer, behind: MemoryServer): void {
  const { psk, ...rest } = one.temper;
  const socket = new TLSSocket(raw, {
    isServer: true,
    secureContext: createSecureContext(rest),
    // What a server's socket takes, and the types leave out.
    ...({ pskCallback: psk && (() => psk) } as object),
  });
  one.sockets.add(socket);
  const inner = behind.dial();
  let greeting: number = SERVER_GREETING.bytes;
  inner.on('data', (part: Uint8Array) => {
    const rest = part.subarray(greeting);
    greeting = Math.max(greeting - part.length, 0);
    if (rest.length > 0) socket.write(rest);
  });
  inner.write(FLAGS);
  socket.on('data', (part) => {
    one.told += part.length;
    inner.write(bytes(part));
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => {
    one.sockets.delete(socket);
    inner.destroy();
  });
  inner.on('close', () => socket.destroy());
}

/** An authority, and a server's certificate that it has signed for the name `elsewhere`. Good until 2120. */
export const AUTHORITY = `-----BEGIN CERTIFICATE-----
MIIBYjCCAQigAwIBAgIBATAKBggqhkjOPQQDAjAZMRcwFQYDVQQDDA50ZXN0LWF1
dGhvcml0eTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowGTEXMBUG
A1UEAwwOdGVzdC1hdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQX
lSggNKctwloobh2Y2hqKGnJJLSLXrVEq3/myDenw6gbQcJDeJHM0zxHFT7SF/XVC
Mp9LU/0OEm4QAbOxKADeoz8wPTAPBgNVHRMBAf8EBTADAQH/MAsGA1UdDwQEAwIC
BDAdBgNVHQ4EFgQU/i8txB7/BKJhLaZNXm8ylC/c1iAwCgYIKoZIzj0EAwIDSAAw
RQIgTZQCHwKoSSPt5Xy6ICWL4BhWXyer5r1MYxWc5hWbzrICIQDMVrGz1xKzJ4GM
Pgs5rDfqXI6Dugl927EG3Neh87A3yQ==
-----END CERTIFICATE-----
`;
export const ELSEWHERE = {
  cert: `-----BEGIN CERTIFICATE-----
MIIBgjCCASegAwIBAgIBAjAKBggqhkjOPQQDAjAZMRcwFQYDVQQDDA50ZXN0LWF1
dGhvcml0eTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowFDESMBAG
A1UEAwwJZWxzZXdoZXJlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEz2bBRZv4
Hk2mWRwaQ/oTt9Pxe0xHRnnsRytwTt8RU34+hiGD09HNCV91l/HMSA4cgnQmwNGI
G1U2nxDvKcwxWKNjMGEwCQYDVR0TBAIwADAUBgNVHREEDTALggllbHNld2hlcmUw
HQYDVR0OBBYEFLNJbwyczSDbe7nRK8KLgFkiw3NFMB8GA1UdIwQYMBaAFP4vLcQe
/wSiYS2mTV5vMpQv3NYgMAoGCCqGSM49BAMCA0kAMEYCIQCOM+zcQ1lLafbWMijH
J/kZMkQ5q5lmRJBRUzQHUJaB1QIhANAl9+ZSoGz58j1lbH7pypiTZub/DVnNA7vh
mkx1PauQ
-----END CERTIFICATE-----
`,
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgr3CUeKJuqRbdh1Ah
4lqVqVn86kjnpzeoYcNCOnc28W+hRANCAATPZsFFm/geTaZZHBpD+hO30/F7TEdG
eexHK3BO3xFTfj6GIYPT0c0JX3WX8cxIDhyCdCbA0YgbVTafEO8pzDFY
-----END PRIVATE KEY-----
`,
};
