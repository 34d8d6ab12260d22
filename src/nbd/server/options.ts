// What a server is told, and what it is held to: data, with its defaults, its bounds and its checks.
//
// Everything that a client can make the server spend has a limit here: places, time to shake hands, the length of a
// request, requests and bytes in flight, the time that `close` waits for it. What is wrong is refused when the server
// is made, before anybody can connect. What may be promised to clients is no option: it follows from the storage
// (exports.ts).

import { type IoScheduler, type Storage, WriteBarrierError } from 'write-barrier';
import { PAYLOAD_MAX } from '../wire/index.js';

/** Whether an export is used over TLS: never, always, or as the client likes. */
export type TlsPolicy = 'off' | 'optional' | 'required';

/** An export with more to say than its storage. */
export interface NbdExportOptions {
  /** What is exported. */
  readonly storage: Storage | IoScheduler;
  /** Writes are refused; false unless given. */
  readonly readOnly?: boolean;
  /** `required` unless given where the server has TLS, `off` where it has not. */
  readonly tls?: TlsPolicy;
  /** For people, in lists. */
  readonly description?: string;
}

/** The keys to speak TLS with: a certificate, pre-shared keys, or both. */
export interface NbdTlsOptions {
  /** The private key of the certificate, PEM. */
  readonly key?: string | Uint8Array;
  /** The certificate, and what it is signed with, PEM. */
  readonly cert?: string | Uint8Array;
  /** Whoever signs clients' certificates, PEM. Where given, a client without a valid one is sent away. */
  readonly ca?: string | Uint8Array;
  /** Pre-shared keys by identity, or a function that knows them. */
  readonly psk?:
    | Readonly<Record<string, Uint8Array>>
    | ((identity: string) => Uint8Array | undefined);
}

/** Bounds on what clients may cost. */
export interface NbdServerLimits {
  /** Connections at once; 64 unless given. One more is closed before a word is said. */
  readonly connections?: number;
  /** From the connection to the choice of an export, TLS included; 10,000 unless given. */
  readonly handshakeMs?: number;
  /** The longest read or write, in bytes; 32 MiB unless given, 64 KiB at least. Clients are told. */
  readonly requestBytes?: number;
  /** Requests of one connection that are carried out at once; 128 unless given. */
  readonly requestsInFlight?: number;
  /** Their buffers, in bytes; 64 MiB unless given. One request always goes. */
  readonly bytesInFlight?: number;
  /** How long `close` waits for clients to take their last replies; 5,000 unless given. */
  readonly closeMs?: number;
}

/** What happens to connections. */
export type NbdServerEvent =
  | {
      /** A client has come. */
      readonly kind: 'connected';
      /** Its number, from 0. */
      readonly connection: number;
    }
  | {
      /** It has chosen. */
      readonly kind: 'opened';
      /** Its number. */
      readonly connection: number;
      /** The name of the export. */
      readonly export: string;
      /** Whether it speaks TLS. */
      readonly tls: boolean;
    }
  | {
      /** It is gone. */
      readonly kind: 'ended';
      /** Its number. */
      readonly connection: number;
      /** In words; undefined where the client took its leave as it should. */
      readonly why: string | undefined;
    };

/** What a server serves, and how. */
export interface NbdServerOptions {
  /** By name; '' is the default export. */
  readonly exports: Readonly<Record<string, Storage | IoScheduler | NbdExportOptions>>;
  /** Without keys there is no TLS. */
  readonly tls?: NbdTlsOptions;
  /** What clients may cost. */
  readonly limits?: NbdServerLimits;
  /** Is told what happens to connections, synchronously. It must not throw. */
  readonly observer?: (event: NbdServerEvent) => void;
}

/** Every limit, in force. */
export type Limits = Required<NbdServerLimits>;

const DEFAULTS: Limits = {
  connections: 64,
  handshakeMs: 10_000,
  requestBytes: PAYLOAD_MAX,
  requestsInFlight: 128,
  bytesInFlight: 64 * 1024 * 1024,
  closeMs: 5_000,
};

const BOUNDS: Readonly<Record<keyof Limits, readonly [min: number, max: number]>> = {
  connections: [1, 65_536],
  handshakeMs: [1, 2 ** 31 - 1],
  requestBytes: [64 * 1024, 2 ** 30],
  requestsInFlight: [1, 65_536],
  bytesInFlight: [1, Number.MAX_SAFE_INTEGER],
  closeMs: [0, 2 ** 31 - 1],
};

/** @throws `INVALID_ARGUMENT` for a limit out of its bounds */
export function limitsOf(given: NbdServerLimits = {}): Limits {
  const limits = { ...DEFAULTS };
  for (const name of Object.keys(BOUNDS) as (keyof Limits)[]) {
    const value = given[name] ?? DEFAULTS[name];
    const [min, max] = BOUNDS[name];
    if (!Number.isSafeInteger(value) || value < min || value > max) {
      throw misuse(`limits.${name} must be a whole number from ${min} to ${max}, not ${value}`);
    }
    limits[name] = value;
  }
  return limits;
}

/** The error of whoever is to start or to use a server and does it wrong. */
export function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
