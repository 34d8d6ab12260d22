// TLS on the client's side of a socket that has spoken plain text before.
//
// A client knows a server in one of two ways: by its certificate (`ca`, `servername`), which node:tls checks; or by a key that
// both sides have (`psk`), which TLS alone does not require. A server without the key may answer the same ClientHello with a
// certificate, and node:tls accepts any that it trusts, for any name. A call of `pskCallback` proves nothing, because the
// key is needed to build the ClientHello, before anything is known of the server. So a client with a key examines what was
// agreed, before a byte of NBD is sent, for each connection.
//
// Invariants, tested under these numbers:
//   TLS1  With `psk`, a connection is used only if the server has proved that it has the key. In TLS 1.3 a server either shows a
//         certificate or uses the key, so the proof is a session that goes on from a key, without a certificate; no
//         earlier session can be resumed, because `session` is refused. In TLS 1.2 it is the cipher suite: its name says
//         that the key, and nothing else, authenticates.
//   TLS2  Options that are wrong, or could weaken TLS1, are refused: a certificate together with a key, suites of the
//         caller's choice together with a key, a short key, an empty `ca`. No refused value is shown in the message,
//         because it may be a key.
//   TLS3  A certificate is checked against a name: `servername`, or else `host`. Without either the options are refused,
//         because node:tls would check it against `localhost`.
//   TLS4  Renegotiation is refused, TLS is at least 1.2, and every suite is an AEAD with SHA-2, except with `ciphers`.
//
// It does not know revoked certificates without a `crl`, as node:tls does not.
//
// Source: RFC 8446, sections 4.2.11 and 4.4.2 (a server that uses a PSK sends no certificate); RFC 4279 and 5487.

import { constants } from 'node:crypto';
import type { Duplex } from 'node:stream';
import {
  type ConnectionOptions,
  connect,
  createSecureContext,
  type SecureContextOptions,
  type TLSSocket,
} from 'node:tls';
import {
  checkOptions,
  formatValue,
  type KnownOptions,
  messageOf,
  misuse as misuseOf,
} from 'write-barrier/kit';
import { printable } from '../report.js';

/**
 * TLS 1.2 or later: with certificates and the options of `node:tls` (`ca`, `cert`, `key`, `servername`, ...), or with a key
 * that both sides have (`psk`). A certificate is checked against `servername`, or else the route's `host`; a server with a
 * path or `dial` has no name, so it needs `servername`. Options that `node:tls` does not have are refused.
 */
export type NbdTls = Omit<
  ConnectionOptions,
  'socket' | 'path' | 'host' | 'port' | 'pskCallback' | 'secureContext' | 'secureProtocol'
> & {
  /**
   * A key that both sides have. The server must prove that it has the key: a server that shows a certificate instead is
   * refused, even if a trusted authority signed it. So `ca`, `cert`, `ciphers` and similar options cannot be combined
   * with it.
   */
  readonly psk?: {
    /** The name by which the server finds the key: 1 to 256 bytes of UTF-8. */
    readonly identity: string;
    /** The key itself, 16 to 512 bytes. It is copied, and never shown in a message. */
    readonly key: Uint8Array;
  };
};

/** How to use TLS, from checked options. */
export interface TlsPlan {
  /** What an error during the handshake means, as the beginning of a sentence. */
  readonly unproved: string;
  /** Begins TLS on a socket. `secure` is called when the server is authenticated, `refuse` when it cannot be. */
  begin(plain: Duplex, secure: () => void, refuse: (why: string) => void): TLSSocket;
}

const AEAD_ONLY = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'TLS_AES_128_GCM_SHA256',
  'ECDHE+AESGCM',
  'ECDHE+CHACHA20',
  'DHE+AESGCM',
  'DHE+CHACHA20',
  '!aNULL',
  '!PSK',
].join(':');

/** In TLS 1.3 a key of this kind goes with SHA-256 only. Those without forward secrecy come last. */
const PSK_AEAD = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'DHE-PSK-CHACHA20-POLY1305',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
  'PSK-CHACHA20-POLY1305',
].join(':');

/** Key exchanges of TLS 1.2 in which the key alone authenticates the server; RSA_PSK is not one. */
const PSK_SUITE = /^TLS_(ECDHE_|DHE_)?PSK_WITH_/;

/** In bytes. OpenSSL takes no longer keys or identities. */
const KEY_BYTES = { min: 16, max: 512 } as const;
const IDENTITY_BYTES_MAX = 256;

/**
 * @param host the name to check a certificate against without `servername`; undefined for a path and for `dial`
 * @throws `INVALID_ARGUMENT` for options that are not known or have wrong values
 */
export function tlsPlan(tls: NbdTls, host: string | undefined): TlsPlan {
  if (typeof tls !== 'object' || tls === null) throw misuse(`must be an object, not ${a(tls)}`);
  // Reads each option once, because a getter may answer differently the next time.
  const options: NbdTls & Foreign = { ...tls };
  for (const [name, why] of Object.entries(REFUSED)) {
    if (options[name as keyof Foreign] !== undefined) throw misuse(`${name}: ${why}`);
  }
  checkOptions<NbdTls>(options, KNOWN, 'tls');
  const { servername, secureOptions } = options;
  if (servername !== undefined && typeof servername !== 'string') {
    throw misuse(`servername must be a string, not ${formatValue(servername)}`);
  }
  if (secureOptions !== undefined && !Number.isSafeInteger(secureOptions)) {
    throw misuse(`secureOptions must be a whole number, not ${formatValue(secureOptions)}`);
  }
  for (const name of ['minVersion', 'maxVersion'] as const) {
    const version = options[name];
    if (version === undefined || version === 'TLSv1.2' || version === 'TLSv1.3') continue;
    throw misuse(`${name} must be 'TLSv1.2' or 'TLSv1.3', not ${formatValue(version)}`);
  }
  for (const name of NOT_EMPTY) {
    for (const value of [options[name]].flat()) {
      // node:tls treats these as "not given", and trusts every public authority instead of an empty `ca`.
      if (value === '' || value === null) throw misuse(`${name} must not be empty`);
    }
  }
  const { psk, ...given } = options;
  const plan = psk === undefined ? byCertificate(given, host) : byKey(psk, given);
  const secureContext = contextOf(plan.context);
  return {
    unproved: plan.unproved,
    begin: (plain, secure, refuse) => {
      const socket = connect({ ...plan.connection, secureContext, socket: plain }, () => {
        const why = plan.doubt(socket);
        if (why === undefined) secure();
        else refuse(why);
      });
      return socket;
    },
  };
}

interface Plan {
  readonly unproved: string;
  readonly context: SecureContextOptions;
  readonly connection: ConnectionOptions;
  /** Why the server is not authenticated; undefined if it is. */
  readonly doubt: (socket: TLSSocket) => string | undefined;
}

function byCertificate(given: Omit<NbdTls, 'psk'>, host: string | undefined): Plan {
  const checked = given.rejectUnauthorized !== false && given.checkServerIdentity === undefined;
  if (checked && !given.servername && host === undefined) {
    const why = 'a server with a path or dial has no name to check its certificate against';
    throw misuse(`give servername, because ${why}`);
  }
  return {
    unproved: 'TLS failed',
    context: given,
    connection: { ...(host !== undefined && { host }), ...given },
    // node:tls has checked the certificate.
    doubt: () => undefined,
  };
}

function byKey(psk: NonNullable<NbdTls['psk']>, given: Omit<NbdTls, 'psk'>): Plan {
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || Object.hasOwn(WITH_KEY, name)) continue;
    if (name === 'rejectUnauthorized' && value === true) continue;
    const why = 'the key replaces certificates, and only the cipher suites for keys are allowed';
    throw misuse(`do not set ${name} together with psk: with psk ${why}`);
  }
  const { identity, key } = checkedKey(psk);
  return {
    unproved: 'TLS ended before the server had proved the pre-shared key',
    // No authority is trusted, so node:tls already refuses a certificate.
    context: { ...given, ciphers: PSK_AEAD, ca: [] },
    connection: {
      ...given,
      rejectUnauthorized: true,
      checkServerIdentity: () => undefined,
      pskCallback: () => ({ identity, psk: key }),
    },
    doubt: (socket) => (provesKey(socket) ? undefined : NOT_PROVED),
  };
}

const NOT_PROVED = 'the server has not proved that it has the pre-shared key';

/** TLS1 */
export function provesKey(socket: TLSSocket): boolean {
  if (socket.getPeerX509Certificate() !== undefined) return false;
  if (socket.getProtocol() === 'TLSv1.3') return socket.isSessionReused();
  return socket.getProtocol() === 'TLSv1.2' && PSK_SUITE.test(socket.getCipher().standardName);
}

function checkedKey(psk: NonNullable<NbdTls['psk']>): { identity: string; key: Uint8Array } {
  if (typeof psk !== 'object' || psk === null) throw misuse(`psk must be an object, not ${a(psk)}`);
  checkOptions(psk, { identity: true, key: true }, 'tls.psk');
  const { identity, key } = psk;
  // Neither is shown, because the key may be in the wrong place.
  if (typeof identity !== 'string')
    throw misuse(`psk.identity must be a string, not ${a(identity)}`);
  const bytes = new TextEncoder().encode(identity).length;
  if (bytes < 1 || bytes > IDENTITY_BYTES_MAX || identity.includes('\0')) {
    const limits = `1 to ${IDENTITY_BYTES_MAX} bytes of UTF-8 without NUL`;
    throw misuse(`psk.identity must be ${limits}, not ${bytes} bytes`);
  }
  // Also one of another realm.
  if (!ArrayBuffer.isView(key) || formatValue(key) !== '[object Uint8Array]') {
    throw misuse(`psk.key must be a Uint8Array, not ${a(key)}`);
  }
  const { min, max } = KEY_BYTES;
  if (key.length < min || key.length > max) {
    throw misuse(`psk.key must have ${min} to ${max} bytes, not ${key.length}`);
  }
  // A copy, because the caller may overwrite the key.
  return { identity, key: new Uint8Array(key) };
}

/** The kind of a value, without its content. */
function a(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  return typeof value === 'object' ? formatValue(value) : `a ${typeof value}`;
}

function contextOf(options: SecureContextOptions): ReturnType<typeof createSecureContext> {
  try {
    return createSecureContext({
      ciphers: AEAD_ONLY,
      minVersion: 'TLSv1.2',
      ...withoutUndefined(options),
      secureOptions: Number(
        BigInt(options.secureOptions ?? 0) | BigInt(constants.SSL_OP_NO_RENEGOTIATION),
      ),
    });
  } catch (error) {
    const said = messageOf(error);
    // node:tls shows values that it refuses, and one may be a key or a passphrase.
    throw misuse(printable(said.replace(/\.? Received [\s\S]*/, '')));
  }
}

function withoutUndefined<T extends object>(options: T): T {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as T;
}

function misuse(what: string): Error {
  return misuseOf(`tls: ${what}`);
}

/** Options of node:tls that are refused, and the reason or what to use instead. */
const ADDRESS =
  'the address is given outside of tls, as `path`, as `host` and `port`, or as `dial`';
const REFUSED = {
  socket: ADDRESS,
  path: ADDRESS,
  host: `${ADDRESS}; for the name in the certificate use tls.servername`,
  port: ADDRESS,
  pskCallback: 'use psk, because a callback does not prove that the server has the key',
  secureContext:
    'give its key, cert, ca and so on as options of tls, because only a context made from them refuses renegotiation',
  secureProtocol: 'use minVersion and maxVersion',
} as const;
type Foreign = { readonly [name in keyof typeof REFUSED]?: unknown };

/** Options that weaken TLS if they are empty. */
const NOT_EMPTY = ['ca', 'cert', 'key', 'pfx', 'crl', 'ciphers'] as const;

/** Options that can be combined with `psk`. */
const WITH_KEY = {
  ...{ servername: true, ALPNProtocols: true, minVersion: true, maxVersion: true, timeout: true },
  ...{ ecdhCurve: true, minDHSize: true, enableTrace: true, secureOptions: true },
} as const;

/** The options of node:tls, because a misspelt option must not be ignored. */
const KNOWN: KnownOptions<NbdTls> = {
  ...WITH_KEY,
  ...{ psk: true, ca: true, cert: true, key: true, passphrase: true, pfx: true, crl: true },
  ...{ ciphers: true, sigalgs: true, dhparam: true, honorCipherOrder: true, session: true },
  ...{ sessionIdContext: true, sessionTimeout: true, ticketKeys: true, requestCert: true },
  ...{ rejectUnauthorized: true, checkServerIdentity: true, allowPartialTrustChain: true },
  ...{ SNICallback: true, ALPNCallback: true, lookup: true },
  ...{ clientCertEngine: true, privateKeyEngine: true, privateKeyIdentifier: true },
};
