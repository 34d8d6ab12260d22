// Options of the client: where the server is, and what to do when it is gone. Data, with defaults and rules.
//
// What happens if the server dies follows from two options:
//   the defaults             it is dialed again, and what no flush has covered is sent again
//   `resendBytesMax: 0`      it is dialed again if everything was flushed; otherwise the storage fails and names the bytes
//   `triesMax: 0`            the storage fails and names the bytes
//
// How long a storage that is being closed waits for its server is decided here, too. A connected server has no limit, because
// it has received the requests and may just be slow. A server that is away may never come back, and a program that closes
// wants to end; so the storage stops waiting when the server has been away for a time limit, and after a number of lost
// connections, because a server may also come back each time and be lost again before it has answered. If the caller gives
// `timeoutMs`, it replaces both limits. A signal ends the wait at once.
//
// Not here: what giving up means (nbd-storage.N5).

import type { Duplex } from 'node:stream';
import { type ByteRange, CloseTimeoutError, IoFailedError } from 'write-barrier';
import {
  checkArgument,
  checkOptions,
  FUNCTION,
  misuse,
  oneOf,
  type Rule,
  rule,
  wholeNumber,
} from 'write-barrier/kit';
import { observed } from '../report.js';
import { PAYLOAD_MAX, STRING_MAX, utf8 } from '../wire/index.js';
import { type NbdTls, type TlsPlan, tlsPlan } from './tls.js';

/** Where the server is: a Unix socket, a TCP port, or a stream that `dial` opens. */
export type NbdRoute =
  | {
      /** The path of a Unix socket. */
      readonly path: string;
    }
  | {
      /** A host name or an address. */
      readonly host: string;
      /** @defaultValue 10809 */
      readonly port?: number;
    }
  | {
      /** Opens a stream to the server. Called again whenever the connection is lost. */
      readonly dial: () => Duplex | Promise<Duplex>;
    };

/** What happens to the connection. */
export type NbdEvent =
  | {
      /** The connection is lost. */
      readonly kind: 'lost';
      /** Why. */
      readonly error: Error;
    }
  | {
      /** A try to reconnect failed. */
      readonly kind: 'retry';
      /** How many tries have failed in a row, this one included. */
      readonly tries: number;
      /** Why this one failed. */
      readonly error: unknown;
    }
  | {
      /** The connection is back. */
      readonly kind: 'reconnected';
      /** How many bytes are sent again before anything else. */
      readonly resentBytes: number;
    }
  | {
      /** The storage has failed for good. */
      readonly kind: 'failed';
      /** Why. */
      readonly error: unknown;
      /** The bytes that may be lost. */
      readonly atRisk: readonly ByteRange[];
    };

/** How to reach a server. */
export type NbdRouteOptions = NbdRoute & {
  /** With it nothing goes over the wire in plain text: a server that has no TLS is refused. */
  readonly tls?: NbdTls;
  /** Limit for connecting and shaking hands, in milliseconds, 1 to 2^31 - 1. @defaultValue 10,000 */
  readonly timeoutMs?: number;
};

/** Options of `NbdStorage.connect`. Times are at most 2^31 - 1 ms. */
export type NbdStorageOptions = NbdRouteOptions & {
  /** The name of the export, at most 4096 bytes of UTF-8. @defaultValue '', the server's default export */
  readonly export?: string;
  /**
   * Maximum number of connections, 1 to 1024. It stays at one if the export does not allow several (multi-conn).
   * @defaultValue 1
   */
  readonly connections?: number;
  /** In bytes, a multiple of the server's minimum. @defaultValue 512, or the server's minimum */
  readonly blockSize?: number;
  /**
   * States what the protocol cannot say: this server answers a write when it is on the medium (`qemu-nbd
   * --cache=writethrough`). No data is kept to be sent again then. If the statement is wrong, a lost server loses data.
   */
  readonly cache?: 'none';
  /**
   * Maximum memory for data that was written and not flushed, in bytes. When it is full, writes are flushed before they are
   * answered. 0 keeps no data: the storage fails if the server is lost with anything unflushed. @defaultValue 64 MiB
   */
  readonly resendBytesMax?: number;
  /**
   * Maximum number of tries to reconnect in a row, and of times that one request is sent again because its connection was
   * lost. A request beyond that fails with `CONNECTION_LOST`; others go on. 0 for never, `Infinity` for no limit.
   * @defaultValue 10
   */
  readonly triesMax?: number;
  /**
   * The delay before the first try to reconnect, in milliseconds; it doubles before each further try. Up to half of a delay
   * is left out at random, because all clients of a restarted server would otherwise come back at once. @defaultValue 50
   */
  readonly delayMs?: number;
  /** The longest delay before a try, in milliseconds. @defaultValue 5,000 */
  readonly delayMsMax?: number;
  /**
   * A connection on which a request has no answer for this long counts as lost, in milliseconds. Make it longer than the
   * slowest flush of the server, and use it only if the server finishes the requests of one connection before it serves the
   * next: a server that hangs and then goes on may write an old version over a newer one. @defaultValue no limit
   */
  readonly requestTimeoutMs?: number;
  /**
   * Called synchronously for every event. If it throws, that is reported once on the console, and the storage goes on.
   */
  readonly observer?: (event: NbdEvent) => void;
};

/** Options of `NbdStorage.close`. */
export interface NbdCloseOptions {
  /**
   * How long to wait, in milliseconds, at most 2^31 - 1, or `Infinity`; then the storage is given up.
   * @defaultValue no limit while the server is connected; 2,000 for each time that it is away
   */
  readonly timeoutMs?: number | undefined;
  /** Gives the storage up when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** The options, with their defaults. */
export interface Settings
  extends Required<Omit<NbdStorageOptions, 'tls' | 'blockSize' | 'cache' | 'observer'>> {
  readonly address: NbdRoute;
  readonly tls: TlsPlan | undefined;
  readonly blockSize: number | undefined;
  readonly cache: 'none' | undefined;
  readonly observer: (event: NbdEvent) => void;
}

/** The port of NBD, as IANA has it. */
const PORT = 10_809;
/** What a timer takes. */
const MS_MAX = 2 ** 31 - 1;

const orInfinity = ({ holds, expected }: Rule): Rule =>
  rule((value) => value === Number.POSITIVE_INFINITY || holds(value), `${expected}, or Infinity`);
const TEXT = rule(
  (value) => typeof value === 'string' && value !== '',
  'a string that is not empty',
);

// What has no rule here is checked by `addressOf` and by `tlsPlan`.
const ROUTE_RULES: RulesOf<NbdRouteOptions> = {
  ...{ path: 0, host: 0, port: 0, dial: 0, tls: 0, timeoutMs: wholeNumber(1, MS_MAX) },
};
const RULES: RulesOf<NbdStorageOptions> = {
  ...ROUTE_RULES,
  export: rule(
    (value) => typeof value === 'string' && utf8(value).length <= STRING_MAX,
    `a string of at most ${STRING_MAX} bytes of UTF-8`,
  ),
  connections: wholeNumber(1, 1024),
  blockSize: wholeNumber(1),
  cache: oneOf(['none']),
  resendBytesMax: orInfinity(wholeNumber(0)),
  triesMax: orInfinity(wholeNumber(0)),
  delayMs: wholeNumber(0, MS_MAX),
  delayMsMax: wholeNumber(0, MS_MAX),
  requestTimeoutMs: orInfinity(wholeNumber(1)),
  observer: FUNCTION,
};
const CLOSE_RULES: RulesOf<NbdCloseOptions> = {
  timeoutMs: orInfinity(wholeNumber(0, MS_MAX)),
  signal: rule(
    (value) => typeof (value as Partial<AbortSignal> | null)?.addEventListener === 'function',
    'an AbortSignal',
  ),
};
/** One key for each option of any member of a union. */
type RulesOf<T> = Readonly<Record<T extends unknown ? keyof T : never, unknown>>;

/** @throws `INVALID_ARGUMENT` for an option that is not known or has a wrong value */
export function settingsOf(options: NbdStorageOptions): Settings {
  checkOptions<object>(options, RULES, 'NbdStorage.connect');
  const address = addressOf(options);
  const { tls } = options;
  const host = 'host' in address ? address.host : undefined;
  return {
    address,
    tls: tls === undefined ? undefined : tlsPlan(tls, host),
    export: options.export ?? '',
    connections: options.connections ?? 1,
    blockSize: options.blockSize,
    cache: options.cache,
    resendBytesMax: options.resendBytesMax ?? 2 * PAYLOAD_MAX,
    triesMax: options.triesMax ?? 10,
    delayMs: options.delayMs ?? 50,
    delayMsMax: options.delayMsMax ?? 5000,
    timeoutMs: options.timeoutMs ?? 10_000,
    requestTimeoutMs: options.requestTimeoutMs ?? Number.POSITIVE_INFINITY,
    observer: observed(options.observer, 'an NbdStorage'),
  };
}

/** Errors as for `settingsOf`. */
export function routeSettingsOf(options: NbdRouteOptions): Settings {
  checkOptions<object>(options, ROUTE_RULES, 'listExports');
  return settingsOf(options);
}

/** @throws `INVALID_ARGUMENT` for an option that is not known or has a wrong value */
export function checkClose(options: NbdCloseOptions): void {
  checkOptions(options, CLOSE_RULES, 'NbdStorage.close');
}

/** Reads each option once, because a getter may answer differently the next time. */
function addressOf(options: NbdRoute): NbdRoute {
  const given: { path?: unknown; host?: unknown; port?: unknown; dial?: unknown } = options;
  const { path, host, port, dial } = given;
  if ([path, host, dial].filter((way) => way !== undefined).length !== 1) {
    throw misuse('the options of NbdStorage must have exactly one of path, host and dial');
  }
  if (port !== undefined && host === undefined) throw misuse('port needs a host');
  if (dial !== undefined) {
    checkArgument('dial', dial, FUNCTION);
    return { dial: () => (dial as () => Duplex).call(options) };
  }
  if (path !== undefined) {
    checkArgument('path', path, TEXT);
    return { path: path as string };
  }
  checkArgument('host', host, TEXT);
  checkArgument('port', port ?? PORT, wholeNumber(1, 65_535));
  return { host: host as string, port: (port ?? PORT) as number };
}

// The limits of `close`

/** Without `timeoutMs`: how long the server may be away each time, in milliseconds, and how often it may be lost. */
const AWAY_MS = 2000;
const LOSSES_MAX = 10;

/** The limits of one `close`. */
export class CloseDeadline {
  readonly #giveUp: (cause: unknown) => void;
  /** The caller gave `timeoutMs`. */
  #limited = false;
  #ended = false;
  #losses = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Undoes the limits at the end. */
  readonly #limits: (() => void)[] = [];

  /** @param giveUp called when a limit is reached, perhaps more than once */
  constructor(giveUp: (cause: unknown) => void) {
    this.#giveUp = giveUp;
  }

  /** Adds the limits of one call of `close`. */
  limit({ timeoutMs, signal }: NbdCloseOptions): void {
    if (this.#ended) return;
    if (timeoutMs !== undefined) {
      this.#limited = true;
      clearTimeout(this.#timer);
    }
    if (timeoutMs !== undefined && timeoutMs !== Number.POSITIVE_INFINITY) {
      const late = (): void => this.#giveUp(new CloseTimeoutError(timeoutMs, []));
      const timer = setTimeout(late, timeoutMs);
      this.#limits.push(() => clearTimeout(timer));
    }
    if (signal) {
      const stop = (): void => this.#giveUp(signal.reason);
      signal.addEventListener('abort', stop);
      this.#limits.push(() => signal.removeEventListener('abort', stop));
      if (signal.aborted) stop();
    }
  }

  /** The server is away. */
  away(): void {
    if (this.#limited || this.#ended) return;
    const what = `the server was away for ${AWAY_MS} ms while the storage was being closed`;
    const late = (): void => this.#giveUp(new IoFailedError(what));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(late, AWAY_MS);
  }

  /** The connection was lost. */
  lost(): void {
    this.#losses += 1;
    if (this.#limited || this.#losses <= LOSSES_MAX) {
      this.away();
      return;
    }
    const what = `the server was lost ${this.#losses} times while the storage was being closed`;
    this.#giveUp(new IoFailedError(what));
  }

  /** The connection is back. */
  back(): void {
    clearTimeout(this.#timer);
  }

  /** The storage is closed. */
  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    for (const undo of this.#limits.splice(0)) undo();
  }
}
