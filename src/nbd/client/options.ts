// How a client is told where to go, and what to do when the server is gone. Data, with its defaults and its checks.
//
// Three answers to "what if the server dies?", from the options alone:
//   as they are              it is dialed again, and what no flush has covered is sent again
//   `resendBytesMax: 0`      it is dialed again, if nothing was unflushed; else it is lost, and says which bytes
//   `triesMax: 0`            it is lost, and says which bytes

import type { Duplex } from 'node:stream';
import type { ConnectionOptions } from 'node:tls';
import { type ByteRange, WriteBarrierError } from 'write-barrier';

/** Where the server is: a Unix socket, a port (10809 unless given), or whatever `dial` connects to. */
export type NbdRoute =
  | {
      /** Of a unix socket. */
      readonly path: string;
    }
  | {
      /** Its name or address. */
      readonly host: string;
      /** 10809 unless given. */
      readonly port?: number;
    }
  | {
      /** Makes a connection, and another one whenever that is lost. */
      readonly dial: () => Duplex | Promise<Duplex>;
    };

/**
 * TLS, as `node:tls` has it (`ca`, `cert`, `key`, `servername`, ...), or by a key that both sides have. A server on a Unix
 * socket has no name to check its certificate against: give it as `servername`.
 */
export type NbdTls = Omit<ConnectionOptions, 'socket' | 'path' | 'host' | 'port'> & {
  /** A key that both sides have. */
  readonly psk?: {
    /** What the server knows it by. */
    readonly identity: string;
    /** The key itself. */
    readonly key: Uint8Array;
  };
};

/** What happens to the connection. */
export type NbdEvent =
  | {
      /** The server is gone, or so it seems. */
      readonly kind: 'lost';
      /** How that showed. */
      readonly error: Error;
    }
  | {
      /** A try to reconnect has failed. */
      readonly kind: 'retry';
      /** How many have, one after the other. */
      readonly tries: number;
      /** Why. */
      readonly error: unknown;
    }
  | {
      /** It is back. */
      readonly kind: 'reconnected';
      /** So many bytes are sent again before anything else. */
      readonly resentBytes: number;
    }
  | {
      /** Given up. */
      readonly kind: 'failed';
      /** Why. */
      readonly error: unknown;
      /** What may be lost. */
      readonly atRisk: readonly ByteRange[];
    };

/** How a server is reached. */
export type NbdRouteOptions = NbdRoute & {
  /** Nothing goes over the wire in plain text once it is given: a server that has no TLS is refused. */
  readonly tls?: NbdTls;
  /** For connecting and shaking hands, in milliseconds; 10,000 unless given. */
  readonly timeoutMs?: number;
};

/** Options of `NbdStorage.connect`. */
export type NbdStorageOptions = NbdRouteOptions & {
  /** The name of the export; the default one, '', unless given. */
  readonly export?: string;
  /** How many connections at the most; 1 unless given, and no more than 1024. It stays at one where the export has no multi-conn. */
  readonly connections?: number;
  /** In bytes, a multiple of the server's minimum; 512 or the server's minimum unless given. */
  readonly blockSize?: number;
  /**
   * States what the protocol cannot say: that this server answers a write when it is on the medium (`qemu-nbd
   * --cache=writethrough`). Nothing is kept to be sent again then, and where that is not true, a lost server loses data.
   */
  readonly cache?: 'none';
  /**
   * The most memory for what was written and not flushed, in bytes; 64 MiB unless given. When it is full, writes are
   * flushed before they are answered. 0 turns it off: a server that is lost with anything unflushed is then lost for good.
   */
  readonly resendBytesMax?: number;
  /** How often in a row it tries to reconnect; 10 unless given, and 0 for never. */
  readonly triesMax?: number;
  /** Before the first try, in milliseconds, and doubled before each further one; 50 unless given. */
  readonly delayMs?: number;
  /** The longest it waits before a try, in milliseconds; 5,000 unless given. */
  readonly delayMsMax?: number;
  /**
   * How long a request may be without an answer, in milliseconds, before the connection is taken for lost; for ever unless
   * given. Longer than the slowest flush of the server, and only where it ends what it has begun for a connection before
   * it serves the next one: of a server that hangs, and then goes on, an old write may land on top of a newer one.
   */
  readonly requestTimeoutMs?: number;
  /** Hears what happens to the connection. Called synchronously; it must not throw. */
  readonly observer?: (event: NbdEvent) => void;
};

/** The options, with their defaults. */
export interface Settings {
  readonly address: NbdRoute;
  readonly tls: NbdTls | undefined;
  readonly export: string;
  readonly connections: number;
  readonly blockSize: number | undefined;
  readonly cache: 'none' | undefined;
  readonly resendBytesMax: number;
  readonly triesMax: number;
  readonly delayMs: number;
  readonly delayMsMax: number;
  readonly timeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly observer: (event: NbdEvent) => void;
}

const MIB = 1024 * 1024;

/** @throws `INVALID_ARGUMENT` for what makes no sense */
export function settingsOf(options: NbdStorageOptions): Settings {
  const settings: Settings = {
    address: options,
    tls: options.tls,
    export: options.export ?? '',
    connections: options.connections ?? 1,
    blockSize: options.blockSize,
    cache: options.cache,
    resendBytesMax: options.resendBytesMax ?? 64 * MIB,
    triesMax: options.triesMax ?? 10,
    delayMs: options.delayMs ?? 50,
    delayMsMax: options.delayMsMax ?? 5000,
    timeoutMs: options.timeoutMs ?? 10_000,
    requestTimeoutMs: options.requestTimeoutMs ?? POSITIVE_INFINITY,
    observer: options.observer ?? (() => {}),
  };
  const ways = ['path', 'host', 'dial'].filter((name) => name in options);
  if (ways.length !== 1) throw misuse('give one of path, host and dial');
  if (new TextEncoder().encode(settings.export).length > 4096) {
    throw misuse('the name of an export has 4096 bytes at the most');
  }
  if (settings.cache !== undefined && settings.cache !== 'none') {
    throw misuse(`cache can only be stated as 'none'`);
  }
  for (const [name, [least, most]] of Object.entries(BOUNDS) as [keyof typeof BOUNDS, Bounds][]) {
    const value = settings[name];
    const whole = Number.isSafeInteger(value) || value === Number.POSITIVE_INFINITY;
    if (whole && value >= least && value <= most) continue;
    throw misuse(`${name} must be a whole number from ${least} to ${most}, not ${value}`);
  }
  return settings;
}

type Bounds = readonly [least: number, most: number];

const { POSITIVE_INFINITY } = Number;
/** What a timer takes. */
const MS_MAX = 2 ** 31 - 1;

const BOUNDS = {
  connections: [1, 1024],
  resendBytesMax: [0, POSITIVE_INFINITY],
  triesMax: [0, POSITIVE_INFINITY],
  delayMs: [0, MS_MAX],
  delayMsMax: [0, MS_MAX],
  timeoutMs: [1, MS_MAX],
  requestTimeoutMs: [1, POSITIVE_INFINITY],
} as const;

function misuse(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}
