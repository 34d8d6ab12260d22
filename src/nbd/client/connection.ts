// One connection with its socket: dials, shakes hands, starts TLS if asked, then carries requests and answers.
//
//   opening ──ready──▶ open ──close, destroy, the end of the socket, a malformed answer──▶ over
//
// A failure before `open` rejects the promise; a later one goes to the listener, once, and waits for it if there is none yet.
// After `close` or `destroy` the listener is not called. What bytes mean is decided in session.ts, and what follows from a lost connection
// in in-flight.ts.
//
// The TLS socket runs over the TCP socket. The TLS socket is always ended first, and the TCP socket when the TLS socket is
// closed, because processes have crashed when the TCP socket was destroyed while OpenSSL still worked on the TLS socket.
//
// A storage opens its connections together (`dialAll`): as many as are wanted and allowed, all to the same export. It does not
// try again, and does not wait: nbd-storage.ts does, with the delays of `reconnectDelayMs`.
//
// The capabilities of an export follow from the server's flags and sizes.
//
//   flush, fua, discard, writeZeroes   the server's SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES
//   cache        `volatile`, except if nothing can be written, because in the protocol a write is durable only when a flush
//                has covered it or when it had FUA. A server without SEND_FLUSH has not promised that its writes are
//                durable: the protocol has no way to say so, and most servers that do not announce a flush cannot make
//                anything durable. A user who knows that the server writes through says so with the option `cache`.
//   blockSize    the server's minimum, but at least a sector if the size allows it, because a server that accepts smaller
//                blocks must read, change and rewrite a whole sector, and a power cut can tear that sector.

import { connect as connectSocket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type Capabilities, IoFailedError, WriteBarrierError } from 'write-barrier';
import { invariant, misuse } from 'write-barrier/kit';
import { inWords } from '../report.js';
import { COMMAND, type ListedExport, PAYLOAD_MAX, TRANSMISSION_FLAG } from '../wire/index.js';
import { type NbdRoute, type NbdRouteOptions, routeSettingsOf, type Settings } from './options.js';
import type { Answer, ClientRequest } from './replies.js';
import { type ClientEvent, ClientSession, type HandshakePlan, type NbdExport } from './session.js';
import type { TlsPlan } from './tls.js';

/** How to reach the server. */
export interface Route {
  readonly address: NbdRoute;
  readonly tls: TlsPlan | undefined;
  /** For dialing and shaking hands together. */
  readonly timeoutMs: number;
  /** Ends both when the connection is not needed any more. */
  readonly signal?: AbortSignal;
}

/** Called by a connection that is open. */
export interface Listener {
  answer(answer: Answer): void;
  /** Called once, as the last. */
  lost(error: Error): void;
  /** The connection is not busy any more. */
  drained(): void;
}

/** The end of a handshake. */
type Opened = Extract<ClientEvent, { kind: 'ready' | 'listed' }>;

/** Lists the exports of a server. @throws as `NbdStorage.connect` does */
export async function listExports(options: NbdRouteOptions): Promise<readonly ListedExport[]> {
  const route = routeSettingsOf(options);
  const plan = { export: '', tls: route.tls !== undefined, goal: 'list' } as const;
  const { event } = await reach(route, plan);
  invariant(event.kind === 'listed', 'nbd-client-session.C1: requests where a list was asked for');
  return event.exports;
}

/**
 * Dials and shakes hands.
 *
 * @throws the errors of the handshake; `IO_FAILED` if the system refuses, or the server takes too long
 */
async function reach(
  route: Route,
  plan: HandshakePlan,
): Promise<{ readonly connection: Connection; readonly event: Opened }> {
  const { address, timeoutMs, signal } = route;
  const stop = new AbortController();
  const late = (): void =>
    stop.abort(failure(`the NBD handshake was not complete within ${timeoutMs} ms`));
  const unwanted = (): void => stop.abort(failure('the connection is not needed any more'));
  const timer = setTimeout(late, timeoutMs);
  signal?.addEventListener('abort', unwanted);
  try {
    if (signal?.aborted) unwanted();
    const socket = await dial(address, stop.signal);
    return await new Promise((resolve, reject) => {
      const opened = (event: Opened): void => resolve({ connection, event });
      const connection = new Connection(socket, route, plan, opened, reject);
      stop.signal.addEventListener('abort', () => connection.lose(stop.signal.reason));
      if (stop.signal.aborted) connection.lose(stop.signal.reason);
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', unwanted);
  }
}

/** A connection: a session over a socket. */
export class Connection {
  readonly #route: Route;
  readonly #session: ClientSession;
  /** The socket that was dialed, and the layer that speaks for it: the same until TLS begins. */
  readonly #dialed: Duplex;
  #socket: Duplex;
  #state: 'opening' | 'open' | 'over' = 'opening';
  readonly #opened: (event: Opened) => void;
  readonly #failed: (error: Error) => void;
  /** What an error of the socket means. */
  #meaning = 'the connection is lost';
  #listener: Listener | undefined;
  #lost: Error | undefined;
  #goodbye: (() => void) | undefined;
  readonly #heard: Readonly<Record<string, (what?: unknown) => void>> = {
    data: (bytes) => this.#receive(bytes),
    drain: () => this.#listener?.drained(),
    end: () => this.#ended(),
    close: () => this.#ended(),
    error: (error) => this.lose(failure(`${this.#meaning}: ${inWords(error)}`, error)),
  };

  /**
   * @param opened called at the end of the handshake
   * @param failed called instead of it if the handshake fails
   */
  constructor(
    dialed: Duplex,
    route: Route,
    plan: HandshakePlan,
    opened: (event: Opened) => void,
    failed: (error: Error) => void,
  ) {
    this.#route = route;
    this.#session = new ClientSession(plan);
    this.#dialed = dialed;
    this.#socket = dialed;
    this.#opened = opened;
    this.#failed = failed;
    this.#hear();
    // `close` is emitted once, and may have been emitted before.
    if (dialed.destroyed) this.lose(failure('the stream returned by dial is destroyed already'));
  }

  /** How many requests have no answer yet. */
  get awaited(): number {
    return this.#session.awaited;
  }

  /** The socket has not taken what was sent. */
  get busy(): boolean {
    return this.#socket.writableNeedDrain;
  }

  /** What has come before is dropped, except the loss of the connection. */
  listen(listener: Listener): void {
    this.#listener = listener;
    if (this.#lost) listener.lost(this.#lost);
  }

  /** Requests of one turn go out together. */
  send(request: ClientRequest): void {
    const socket = this.#socket;
    if (socket.writableCorked === 0) {
      socket.cork();
      process.nextTick(() => socket.uncork());
    }
    for (const bytes of this.#session.request(request)) socket.write(bytes);
  }

  /** Sends DISC, and settles when the socket is closed. The listener is not called any more. */
  close(): Promise<void> {
    this.#state = 'over';
    const socket = this.#socket;
    for (const bytes of this.#session.request(DISCONNECT)) socket.write(bytes);
    return new Promise((closed) => {
      // Some streams of callers never emit `close`.
      const late = setTimeout(() => this.destroy(), this.#route.timeoutMs);
      this.#goodbye = () => {
        clearTimeout(late);
        closed();
      };
      socket.once('close', () => this.destroy());
      // A server closes the connection after DISC; what it sends before that is dropped.
      socket.end();
      socket.resume();
    });
  }

  /** Closes the socket at once. The listener is not called any more. */
  destroy(): void {
    this.#state = 'over';
    hangUp(this.#socket, this.#dialed);
    this.#goodbye?.();
  }

  /** Ends the connection with an error. */
  lose(error: Error): void {
    const before = this.#state;
    this.destroy();
    if (before === 'opening') this.#failed(error);
    if (before !== 'open') return;
    this.#lost = error;
    this.#listener?.lost(error);
  }

  #hear(): void {
    for (const [event, hear] of Object.entries(this.#heard)) this.#socket.on(event, hear);
  }

  #receive(bytes: unknown): void {
    // Not by `instanceof`, because a test runner may use a realm of its own.
    if (!ArrayBuffer.isView(bytes)) {
      this.lose(failure('the stream returned by dial must emit Uint8Arrays'));
      return;
    }
    this.#session.dialogue.receive(bytes as Uint8Array);
    this.#handle();
  }

  #ended(): void {
    this.#session.dialogue.receiveEnd();
    this.#handle();
  }

  #handle(): void {
    // An answer may lead to the end of the connection, and a reaction to an event may already ask for the next ones.
    while (this.#state !== 'over') {
      const event = this.#session.dialogue.next();
      if (!event) return;
      if (event.kind === 'send') for (const bytes of event.parts) this.#socket.write(bytes);
      else if (event.kind === 'startTls') this.#secure(this.#route.tls as TlsPlan);
      else if (event.kind === 'answer') this.#listener?.answer(event.answer);
      else if (event.kind === 'end' && event.reason) this.lose(event.reason);
      // ABORT must be sent before the socket is closed.
      else if (event.kind === 'end') setImmediate(() => this.destroy());
      else {
        this.#state = 'open';
        this.#opened(event);
      }
    }
  }

  #secure(tls: TlsPlan): void {
    // From here on only the outer socket has listeners; it handles the inner one itself.
    for (const [event, hear] of Object.entries(this.#heard))
      this.#dialed.removeListener(event, hear);
    this.#dialed.on('error', () => {});
    const before = this.#meaning;
    this.#meaning = tls.unproved;
    const proved = (): void => {
      this.#meaning = before;
      if (this.#state !== 'opening') return;
      this.#session.dialogue.secured();
      this.#handle();
    };
    try {
      this.#socket = tls.begin(this.#dialed, proved, (why) => this.lose(failure(why)));
    } catch (error) {
      this.lose(failure(`TLS cannot begin: ${inWords(error)}`, error));
      return;
    }
    this.#hear();
  }
}

const DISCONNECT: ClientRequest = {
  ...{ command: COMMAND.DISC, flags: 0, cookie: 0n, offset: 0, length: 0 },
};

/** Ends the TLS socket, and then the TCP socket below it. Without TLS both are the same socket. */
function hangUp(outer: Duplex, inner: Duplex): void {
  if (outer !== inner && !outer.closed) outer.once('close', () => inner.destroy());
  else inner.destroy();
  outer.destroy();
}

/** A connected socket. If `stop` is aborted first it rejects, and a socket that connects later is closed. */
function dial(address: NbdRoute, stop: AbortSignal): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const refuse = (): void => reject(stop.reason);
    if (stop.aborted) return refuse();
    stop.addEventListener('abort', refuse);
    if ('dial' in address) {
      const made = async (): Promise<void> => {
        const socket = await address.dial();
        if (!isStream(socket)) throw new Error('dial must return a duplex stream');
        // An error before the session listens is not lost, because a stream that failed is closed.
        socket.on('error', () => {});
        resolve(socket);
        if (stop.aborted) socket.destroy();
      };
      made().catch((error) => reject(failure(`dialing failed: ${inWords(error)}`, error)));
      return;
    }
    const isPath = 'path' in address;
    const where = isPath ? address : { host: address.host, port: address.port ?? 0, ...TCP };
    const name = isPath ? address.path : `${address.host}:${address.port}`;
    const failed = (error: unknown): void =>
      reject(failure(`no connection to ${name}: ${inWords(error)}`, error));
    let socket: ReturnType<typeof connectSocket>;
    try {
      socket = connectSocket(where);
    } catch (error) {
      return failed(error);
    }
    const late = (): unknown => socket.destroy();
    stop.addEventListener('abort', late);
    socket.on('error', failed);
    socket.once('connect', () => {
      stop.removeEventListener('abort', late);
      resolve(socket);
    });
  });
}

/** A server whose machine is gone is noticed within minutes; the default of the system is two hours. */
const TCP = { keepAlive: true, keepAliveInitialDelay: 60_000, noDelay: true } as const;

/** Not by `instanceof`, because streams also come from packages. */
function isStream(value: unknown): value is Duplex {
  const stream = (value ?? {}) as Readonly<Record<string, unknown>>;
  const methods = ['on', 'once', 'removeListener', 'write', 'end', 'resume', 'destroy'];
  return methods.every((name) => typeof stream[name] === 'function');
}

function failure(what: string, cause?: unknown): WriteBarrierError {
  return new IoFailedError(what, { cause });
}

// All connections of a storage

/**
 * The delay before a try to reconnect, in milliseconds. It doubles with each try, and is shortened by up to a half, so that
 * the clients of a restarted server do not come back at the same time.
 *
 * @param tries since the server last answered
 * @param random at least 0, below 1
 */
export function reconnectDelayMs(
  tries: number,
  { delayMs, delayMsMax }: Pick<Settings, 'delayMs' | 'delayMsMax'>,
  random: number,
): number {
  // With more doublings every delay except 0 is at its maximum, and 0 times infinity is not a number.
  const doublings = Math.min(tries, 31);
  return Math.min(delayMs * 2 ** doublings, delayMsMax) * (1 - random / 2);
}

/** The server came back with an export that lacks what was relied on. */
export class AnotherExportError extends WriteBarrierError {
  constructor(what: string) {
    super('INVALID_STORAGE', `the server came back with another export: ${what}`);
  }
}

/** Opens as many connections as are wanted, allowed and available. */
export async function dialAll(
  settings: Settings & Pick<Route, 'signal'>,
  before: ExportProperties | undefined,
): Promise<{ readonly connections: readonly Connection[]; readonly properties: ExportProperties }> {
  const plan = { export: settings.export, tls: settings.tls !== undefined, goal: 'use' } as const;
  const connections: Connection[] = [];
  const dial = async (): Promise<NbdExport> => {
    const { connection, event } = await reach(settings, plan);
    connections.push(connection);
    invariant(
      event.kind === 'ready',
      'nbd-client-session.C1: a list where an export was asked for',
    );
    return event.export;
  };
  try {
    const properties = checked(await dial(), settings, before);
    while (properties.multiConn && connections.length < settings.connections) {
      // The server may refuse further connections, and one is enough.
      const next = await dial().catch(() => undefined);
      if (!next) break;
      checked(next, settings, properties);
    }
    return { connections, properties };
  } catch (error) {
    hangUpAll(connections);
    throw error;
  }
}

export function hangUpAll(connections: readonly Connection[]): void {
  for (const connection of connections) connection.destroy();
}

/** @throws `AnotherExportError` for an export that is not the one from `before` */
function checked(
  facts: NbdExport,
  { blockSize, cache }: Settings,
  before: ExportProperties | undefined,
): ExportProperties {
  if (!before) return propertiesOf(facts, { blockSize, cache });
  let broken: string | undefined;
  try {
    const properties = propertiesOf(facts, { blockSize: before.capabilities.blockSize, cache });
    broken = brokenPromise(before, properties);
    if (broken === undefined) return properties;
  } catch (error) {
    broken = error instanceof Error ? error.message : String(error);
  }
  throw new AnotherExportError(broken);
}

// An export as a storage

/** What a storage knows of its export. */
export interface ExportProperties {
  /** In bytes. */
  readonly size: number;
  readonly capabilities: Required<Capabilities>;
  readonly readOnly: boolean;
  /** A flush on one connection covers the writes of all. */
  readonly multiConn: boolean;
  /** The longest payload of a request, in bytes. */
  readonly payloadMax: number;
}

const SECTOR = 512;

/**
 * @param wanted the options `blockSize`, in bytes, and `cache`
 * @throws `INVALID_STORAGE` for a size that is not whole blocks; `INVALID_ARGUMENT` for a block size that the server refuses
 */
function propertiesOf(
  { size, flags, blockSizes, allocation }: NbdExport,
  wanted: { readonly blockSize?: number | undefined; readonly cache?: 'none' | undefined },
): ExportProperties {
  const has = (flag: keyof typeof TRANSMISSION_FLAG): boolean =>
    (flags & TRANSMISSION_FLAG.HAS_FLAGS) !== 0 && (flags & TRANSMISSION_FLAG[flag]) !== 0;
  const readOnly = has('READ_ONLY');
  // Without block sizes a server takes any, and prefers sectors: section "Block size constraints".
  const minimum = blockSizes?.minimum ?? 1;
  const usual = size % Math.max(minimum, SECTOR) === 0 ? Math.max(minimum, SECTOR) : minimum;
  const blockSize = wanted.blockSize ?? usual;
  if (!Number.isSafeInteger(blockSize) || blockSize < 1 || blockSize % minimum !== 0) {
    throw misuse(
      `blockSize must be a multiple of ${minimum}, the minimum of the export, not ${blockSize}`,
    );
  }
  if (size % blockSize !== 0) {
    const what = `the export has ${size} bytes, which is not a multiple of its blockSize ${blockSize}`;
    throw new WriteBarrierError('INVALID_STORAGE', what);
  }
  const most = Math.min(blockSizes?.maximum ?? PAYLOAD_MAX, PAYLOAD_MAX);
  const capabilities = Object.freeze({
    blockSize,
    cache: readOnly ? ('none' as const) : (wanted.cache ?? ('volatile' as const)),
    flush: has('SEND_FLUSH'),
    fua: !readOnly && has('SEND_FUA'),
    orderedTags: false,
    writev: true,
    discard: !readOnly && has('SEND_TRIM'),
    writeZeroes: !readOnly && has('SEND_WRITE_ZEROES'),
    fastZeroes: false,
    blockStatus: allocation !== undefined,
    resize: false,
    slowFua: false,
    gathers: false,
  });
  const payloadMax = most - (most % minimum);
  return { size, capabilities, readOnly, multiConn: has('CAN_MULTI_CONN'), payloadMax };
}

/** What an export lacks after a reconnect that was relied on before; undefined if it lacks nothing. */
function brokenPromise(before: ExportProperties, now: ExportProperties): string | undefined {
  if (now.size !== before.size) return `its size was ${before.size} bytes, and is now ${now.size}`;
  if (now.readOnly && !before.readOnly) return 'it has become read-only';
  for (const name of ['flush', 'fua', 'discard', 'writeZeroes', 'blockStatus'] as const) {
    if (before.capabilities[name] && !now.capabilities[name])
      return `it no longer supports ${name}`;
  }
  return undefined;
}
