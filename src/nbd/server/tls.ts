// TLS on the server's side of a socket that has spoken plain text before.
//
// A bare TLSSocket would do the handshake and leave it to its user to check the client's certificate. A tls.Server checks it.
// So each upgrade has a server of its own, which never listens: it gets the socket, and emits the secure one or an error.
//
// Invariants, tested under these numbers:
//   X1  Keys that would let a stranger in are refused when the server is made: a certificate without a `ca` asks clients
//       for nothing, so it is refused together with pre-shared keys, which would then not be required. A `ca` without a
//       certificate in it is refused, because node:tls reads an empty string as "not given" and trusts every public
//       authority.
//   X2  An unknown identity gets a random key, because it then fails as a wrong key does, with the same alert and after the
//       same work: a stranger cannot find out which identities exist.
//   X3  A function for keys is the user's code inside a callback of OpenSSL. What it throws is caught, because some versions
//       of Node end the process otherwise (CVE-2026-21637), and what it returns is checked here, because Node prints a
//       key that it refuses.
//   X4  No key is ever shown: messages give the type and the length of a value only.
//   X5  Renegotiation is refused. It costs the server more than the client, no client of NBD needs it, and Node ends a
//       connection that does it from inside of OpenSSL.
//   X6  A socket that carries TLS is ended through TLS, and never while OpenSSL is on the stack, because the end of the
//       inner socket frees what the outer one still uses.
//
// Not here: when there is TLS, and for which export (negotiation.ts).

import { constants, randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { createSecureContext, createServer, type TLSSocket, type TlsOptions } from 'node:tls';
import { checkOptions, formatValue, messageOf, misuse } from 'write-barrier/kit';
import { printable } from '../report.js';

/**
 * The keys for TLS: a certificate, pre-shared keys, or both. Both together need a `ca`, because a certificate without one
 * asks clients for nothing.
 */
export interface NbdTlsOptions {
  /** The private key of the certificate, PEM. */
  readonly key?: string | Uint8Array;
  /** The certificate and its chain, PEM. */
  readonly cert?: string | Uint8Array;
  /**
   * The authority that signs the certificates of clients, PEM. With it a client needs such a certificate, or a key of `psk`.
   * With a certificate and without `ca` any client may connect, and only the line is encrypted.
   */
  readonly ca?: string | Uint8Array;
  /**
   * Pre-shared keys by identity, or a function that returns the key of an identity, and undefined for an unknown one. A
   * key has 16 to 256 bytes; use 32 random ones. An unknown identity is answered in the same way as a wrong key.
   */
  readonly psk?:
    | Readonly<Record<string, Uint8Array>>
    | ((identity: string) => Uint8Array | undefined);
}

/** Bytes of a pre-shared key: 128 bits cannot be guessed, and all versions of OpenSSL take 256 bytes. */
const KEY_BYTES = { min: 16, max: 256 } as const;
/** The longest identity that OpenSSL takes, in bytes. */
const IDENTITY_BYTES_MAX = 256;

/** Authenticated encryption and keys of the connection's own; no CBC, no SHA-1, no RSA key exchange. */
const CERTIFICATE_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
] as const;
/**
 * In the server's order: suites with a pre-shared key come first, because a client that has only a key would otherwise be
 * shown a certificate. In TLS 1.3 such a key goes with SHA-256 only.
 */
const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
] as const;

const KNOWN = { key: 0, cert: 0, ca: 0, psk: 0 } as const;

/** How a certificate begins in PEM. */
const CERTIFICATE = /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----/;

/** TLS as the options of a server want it. */
export interface Upgrade {
  /** Whether a client proves in TLS that it has a key. */
  readonly provesClients: boolean;
  /** Puts TLS on a socket, or rejects with the reason; the socket cannot be used then. */
  readonly secure: (socket: Duplex) => Promise<TLSSocket>;
}

/** @throws `INVALID_ARGUMENT` for values that are not keys, for no keys, and for keys that admit strangers (X1) */
export function upgradeWith(given: NbdTlsOptions): Upgrade {
  if (typeof given !== 'object' || given === null) {
    throw misuse(`tls must be an object with keys, not ${kindOf(given)}`);
  }
  checkOptions(given, KNOWN, 'tls');
  const { key, cert, ca, psk } = given;
  if ((key === undefined) !== (cert === undefined))
    throw misuse('tls: key and cert must be given together');
  if (key === undefined && psk === undefined)
    throw misuse('tls must have a certificate (key and cert) or a psk, and has neither');
  if (ca !== undefined && cert === undefined) throw misuse('tls: ca needs a key and a cert');
  if (cert !== undefined && psk !== undefined && ca === undefined) {
    throw misuse(
      'tls: cert without ca admits clients that have neither a certificate nor a key of psk; leave out cert or ' +
        'psk, or add the ca that signs the certificates of clients',
    );
  }
  for (const [name, value] of Object.entries({ key, cert, ca })) {
    if (value === undefined || typeof value === 'string' || value instanceof Uint8Array) continue;
    throw misuse(`tls.${name} must be PEM in a string or a Uint8Array, not ${kindOf(value)}`);
  }
  for (const [name, value] of Object.entries({ cert, ca })) {
    if (value === undefined || CERTIFICATE.test(pem(value).toString('latin1'))) continue;
    throw misuse(`tls.${name} must hold a certificate in PEM, and holds none`); // X1
  }
  const keyOf = psk === undefined ? undefined : keysOf(psk);
  const options: TlsOptions = {
    ...(key !== undefined && { key: pem(key) }),
    ...(cert !== undefined && { cert: pem(cert) }),
    ...(ca !== undefined && { ca: pem(ca), requestCert: true, rejectUnauthorized: true }),
    minVersion: 'TLSv1.2',
    honorCipherOrder: true,
    ciphers: [
      ...(psk === undefined ? [] : PSK_CIPHERS),
      ...(cert === undefined ? [] : CERTIFICATE_CIPHERS),
    ].join(':'),
    // X5; and a session is not to be had again with a ticket, which would be taken for an identity (X2).
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_TICKET,
  };
  try {
    createSecureContext(options);
  } catch (cause) {
    throw misuse(`tls: ${messageOf(cause)}`);
  }
  return {
    provesClients: ca !== undefined || psk !== undefined,
    secure: (socket) => secured(socket, options, keyOf),
  };
}

function secured(
  socket: Duplex,
  options: TlsOptions,
  keyOf: KeyOf | undefined,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    let complaint: string | undefined;
    const pskCallback = (_: unknown, identity: string): Uint8Array => {
      const found = keyOf?.(identity);
      if (typeof found === 'string') complaint = found;
      return typeof found === 'object' ? found : randomBytes(32); // X2
    };
    const server = createServer({ ...options, ...(keyOf && { pskCallback }) }, resolve);
    server.once('tlsClientError', (error, secure) => {
      reject(new Error(complaint ?? error.message.trim()));
      setImmediate(() => secure.destroy()); // X6
    });
    server.emit('connection', socket);
  });
}

/** The key of an identity; undefined for an unknown one, and a message if the user's function is wrong. */
type KeyOf = (identity: string) => Uint8Array | string | undefined;

function keysOf(psk: NonNullable<NbdTlsOptions['psk']>): KeyOf {
  if (typeof psk === 'function') return (identity) => asked(psk, identity);
  if (typeof psk !== 'object' || psk === null) {
    throw misuse(`tls.psk must be keys by identity, or a function, not ${kindOf(psk)}`);
  }
  const keys = new Map<string, Uint8Array>();
  for (const [identity, key] of Object.entries(psk)) {
    const bytes = Buffer.byteLength(identity);
    if (bytes === 0 || bytes > IDENTITY_BYTES_MAX || identity.includes('\0')) {
      throw misuse(
        `an identity of tls.psk must have 1 to ${IDENTITY_BYTES_MAX} bytes without NUL, not ${bytes}`,
      );
    }
    if (!isKey(key))
      throw misuse(`tls.psk[${formatValue(identity)}] ${KEY_WORDS}, not ${kindOf(key)}`);
    // A copy, because the record may be changed later and is not checked again.
    keys.set(identity, Uint8Array.from(key));
  }
  if (keys.size === 0) throw misuse('tls.psk must have at least one key, and has none');
  return (identity) => keys.get(identity);
}

const KEY_WORDS = `must be a Uint8Array of ${KEY_BYTES.min} to ${KEY_BYTES.max} bytes`;

/** X3 */
function asked(psk: (identity: string) => unknown, identity: string): ReturnType<KeyOf> {
  let answer: unknown;
  try {
    answer = psk(identity);
    if (answer === undefined || answer === null) return undefined;
    if (isKey(answer)) return Uint8Array.from(answer);
    // A rejected promise must not end the process either.
    if (answer instanceof Promise) answer.catch(() => {});
  } catch (error) {
    return `the function tls.psk threw ${thrownKind(error)}`;
  }
  return `the result of the function tls.psk ${KEY_WORDS}, not ${kindOf(answer)}`;
}

/** The kind of a thrown value, which may throw again when it is read. */
function thrownKind(error: unknown): string {
  try {
    return printable(error instanceof Error ? String(error.name) : kindOf(error));
  } catch {
    return `a value of type ${typeof error}`;
  }
}

function isKey(value: unknown): value is Uint8Array {
  return (
    value instanceof Uint8Array && value.length >= KEY_BYTES.min && value.length <= KEY_BYTES.max
  );
}

/** X4 */
function kindOf(value: unknown): string {
  if (value instanceof Uint8Array) return `one of ${value.length} bytes`;
  if (typeof value === 'string') return 'a string';
  if (value instanceof Promise) return 'a promise';
  return value === null ? 'null' : `of type ${typeof value}`;
}

function pem(value: string | Uint8Array): string | Buffer {
  return typeof value === 'string' ? value : Buffer.from(value);
}
