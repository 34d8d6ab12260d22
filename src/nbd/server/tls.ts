import type { Socket } from 'node:net';
import { createSecureContext, type SecureContextOptions, TLSSocket } from 'node:tls';
import { misuse, type NbdTlsOptions } from './options.js';

/** What OpenSSL offers by default, and what takes a pre-shared key where there is one. */
const CIPHERS =
  'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:HIGH:!aNULL';
const PSK_CIPHERS = `${CIPHERS}:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256`;

/**
 * Puts TLS on the server's side of a socket.
 *
 * @throws `INVALID_ARGUMENT` for keys that are none, or for none at all
 */
export function upgraderFor(options: NbdTlsOptions): (socket: Socket) => TLSSocket {
  const { key, cert, ca, psk } = options;
  if ((key === undefined) !== (cert === undefined)) throw misuse('tls: a key goes with a cert');
  if (key === undefined && psk === undefined) throw misuse('tls: neither a certificate nor a psk');
  const secureContext = contextOf({
    ...(key !== undefined && { key: pem(key) }),
    ...(cert !== undefined && { cert: pem(cert) }),
    ...(ca !== undefined && { ca: pem(ca) }),
    minVersion: 'TLSv1.2',
    ciphers: psk === undefined ? CIPHERS : PSK_CIPHERS,
  });
  const keyOf = (identity: string): Uint8Array | null => {
    if (typeof psk === 'function') return psk(identity) ?? null;
    return psk && Object.hasOwn(psk, identity) ? (psk[identity] ?? null) : null;
  };
  const verify = ca !== undefined;
  return (socket) =>
    new TLSSocket(socket, {
      isServer: true,
      secureContext,
      requestCert: verify,
      rejectUnauthorized: verify,
      ...(psk !== undefined && { pskCallback: (_: unknown, identity: string) => keyOf(identity) }),
    });
}

function contextOf(options: SecureContextOptions): ReturnType<typeof createSecureContext> {
  try {
    return createSecureContext(options);
  } catch (cause) {
    throw misuse(`tls: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
}

function pem(value: string | Uint8Array): string | Buffer {
  return typeof value === 'string' ? value : Buffer.from(value);
}
