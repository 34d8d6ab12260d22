// TLS on the server's side of a socket that has said something in plain text before.
//
// A bare TLSSocket would do the handshake, and leave it to its user whether the client's certificate is any good. A
// tls.Server looks at it. So each upgrade has a server of its own, which never listens: it is handed the socket, and
// gives out the secure one, or an error.

import type { Socket } from 'node:net';
import { createSecureContext, createServer, type TLSSocket, type TlsOptions } from 'node:tls';
import { misuse, type NbdTlsOptions } from './options.js';

const STRONG = 'TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:HIGH:!aNULL';
/**
 * In the server's order: what takes a pre-shared key comes first, or a client that has nothing else is shown a
 * certificate. In TLS 1.3 such a key goes with SHA-256 only.
 */
const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
  STRONG,
].join(':');

/** Puts TLS on a socket, or rejects with the reason why there is none; the socket is no good then. */
export type Upgrade = (socket: Socket) => Promise<TLSSocket>;

/** @throws `INVALID_ARGUMENT` for keys that are none, or for none at all */
export function upgradeWith({ key, cert, ca, psk }: NbdTlsOptions): Upgrade {
  if ((key === undefined) !== (cert === undefined)) throw misuse('tls: a key goes with a cert');
  if (key === undefined && psk === undefined) throw misuse('tls: neither a certificate nor a psk');
  const keyOf = (identity: string): Uint8Array | null => {
    if (typeof psk === 'function') return psk(identity) ?? null;
    return psk && Object.hasOwn(psk, identity) ? (psk[identity] ?? null) : null;
  };
  const options: TlsOptions = {
    ...(key !== undefined && { key: pem(key) }),
    ...(cert !== undefined && { cert: pem(cert) }),
    ...(ca !== undefined && { ca: pem(ca), requestCert: true, rejectUnauthorized: true }),
    ...(psk !== undefined && { pskCallback: (_: unknown, identity: string) => keyOf(identity) }),
    minVersion: 'TLSv1.2',
    honorCipherOrder: true,
    ciphers: psk === undefined ? `TLS_AES_128_GCM_SHA256:${STRONG}` : PSK_CIPHERS,
  };
  try {
    createSecureContext(options);
  } catch (cause) {
    throw misuse(`tls: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  return (socket) =>
    new Promise((resolve, reject) => {
      const server = createServer(options, resolve);
      server.once('tlsClientError', reject);
      server.emit('connection', socket);
    });
}

function pem(value: string | Uint8Array): string | Buffer {
  return typeof value === 'string' ? value : Buffer.from(value);
}
