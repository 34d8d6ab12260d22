// One connection with its socket: dials, shakes hands, secures where asked, then carries requests and answers.
//
//   opening ──ready──▶ open ──close, destroy, the end of the socket, a server out of its mind──▶ over
//
// Whoever opens it hears of a failure by the promise; from `open` on the listener does, once, and after `close` or
// `destroy` nobody. Thin: what bytes mean is session.ts, and what a lost connection means is exchange.ts.

import { connect as connectSocket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import { WriteBarrierError } from 'write-barrier';
import { COMMAND, type ListedExport } from '../wire/index.js';
import type { HandshakePlan, NbdExport } from './handshake.js';
import type { NbdRoute, NbdTls } from './options.js';
import type { Answer } from './replies.js';
import { type ClientEvent, type ClientRequest, ClientSession } from './session.js';

/** How to get there. */
export interface Route {
  readonly address: NbdRoute;
  readonly tls: NbdTls | undefined;
  /** For dialing and shaking hands together. */
  readonly timeoutMs: number;
  /** Ends both when nobody wants a connection any more. */
  readonly signal?: AbortSignal;
}

/** Who hears of a connection, from the moment it is open. */
export interface Listener {
  answer(answer: Answer): void;
  /** Once, and the last. */
  lost(error: Error): void;
  /** It takes requests again. */
  drained(): void;
}

/** A connection that is open. */
export interface Connection {
  readonly export: NbdExport;
  /** How many requests have no answer yet. */
  readonly awaited: number;
  /** What was sent is still waiting to be taken. */
  readonly busy: boolean;
  send(request: ClientRequest): void;
  /** Says goodbye, and is closed when the socket is. Nothing is heard of it any more. */
  close(): Promise<void>;
  /** Hangs up. Nothing is heard of it any more. */
  destroy(): void;
}

/** @throws as the handshake does; `IO_FAILED` for what the system refuses, and for a server that takes too long */
export async function openConnection(
  route: Route,
  exportName: string,
  listener: Listener,
): Promise<Connection> {
  const plan = { export: exportName, tls: route.tls !== undefined, goal: 'use' } as const;
  return carried(route, plan, listener, (event, open) =>
    event.kind === 'ready' ? open(event.export) : undefined,
  );
}

/** The exports that a server tells of. Errors as for `openConnection`. */
export async function askForExports(route: Route): Promise<readonly ListedExport[]> {
  const plan = { export: '', tls: route.tls !== undefined, goal: 'list' } as const;
  const nobody = { answer: () => {}, lost: () => {}, drained: () => {} };
  let destroy = (): void => {};
  return carried(route, plan, nobody, (event, open) => {
    if (event.kind !== 'listed') return undefined;
    // The goodbye behind the list is still to be sent.
    setImmediate(() => destroy());
    destroy = open(NO_EXPORT).destroy;
    return event.exports;
  });
}

const NO_EXPORT: NbdExport = { size: 0, flags: 0, blockSizes: undefined, structured: false };

/** Carries a session over a socket until `wanted` makes something of an event. */
async function carried<T>(
  route: Route,
  plan: HandshakePlan,
  listener: Listener,
  wanted: (event: ClientEvent, open: (facts: NbdExport) => Connection) => T | undefined,
): Promise<T> {
  const { address, timeoutMs, signal } = route;
  const stop = new AbortController();
  const late = (): void => stop.abort(failure(`no NBD handshake within ${timeoutMs} ms`));
  const unwanted = (): void => stop.abort(failure('nobody wants the connection any more'));
  const timer = setTimeout(late, timeoutMs);
  signal?.addEventListener('abort', unwanted);
  try {
    if (signal?.aborted) unwanted();
    const socket = await dial(address, stop.signal);
    return await shaken(socket, route, plan, listener, wanted, stop.signal);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', unwanted);
  }
}

function shaken<T>(
  dialed: Duplex,
  route: Route,
  plan: HandshakePlan,
  listener: Listener,
  wanted: (event: ClientEvent, open: (facts: NbdExport) => Connection) => T | undefined,
  stop: AbortSignal,
): Promise<T> {
  const session = new ClientSession(plan);
  let socket = dialed;
  return new Promise<T>((resolve, reject) => {
    let state: 'opening' | 'open' | 'over' = 'opening';
    const lose = (error: Error): void => {
      const before = state;
      finish();
      if (before === 'opening') reject(error);
      if (before === 'open') listener.lost(error);
    };
    const finish = (): void => {
      state = 'over';
      socket.destroy();
    };
    const handle = (events: readonly ClientEvent[]): void => {
      for (const event of events) {
        if (state === 'over') return;
        if (event.kind === 'send') socket.write(event.bytes);
        else if (event.kind === 'startTls') secure();
        else if (event.kind === 'failed') lose(event.error);
        else if (event.kind === 'answer') listener.answer(event.answer);
        else {
          const made = wanted(event, open);
          if (made === undefined) continue;
          state = 'open';
          resolve(made);
        }
      }
    };
    const onData = (bytes: Uint8Array): void => handle(session.receive(bytes));
    const listen = (): void => {
      socket.on('data', onData);
      socket.on('drain', () => listener.drained());
      socket.on('error', (error) =>
        lose(failure(`the connection is lost: ${error.message}`, error)),
      );
      socket.on('end', () => handle(session.ended()));
      socket.on('close', () => handle(session.ended()));
    };
    const secure = (): void => {
      const plain = socket;
      plain.removeListener('data', onData);
      try {
        const options = { ...tlsOptions(route), socket: plain };
        socket = connectTls(options, () => handle(session.secured()));
      } catch (error) {
        // Keys and certificates are looked at here.
        lose(failure(`TLS cannot begin: ${String(error)}`, error));
        return;
      }
      listen();
    };
    const open = (facts: NbdExport): Connection => ({
      export: facts,
      get awaited() {
        return session.awaited;
      },
      get busy() {
        return socket.writableNeedDrain;
      },
      send: (request) => corked(socket, session.request(request)),
      close: () => {
        state = 'over';
        for (const bytes of session.request(DISCONNECT)) socket.write(bytes);
        return new Promise((closed) => {
          const late = setTimeout(() => socket.destroy(), route.timeoutMs);
          socket.once('close', () => {
            clearTimeout(late);
            closed();
          });
          // A server hangs up when it hears DISC; what it may still say is of no interest.
          socket.end();
          socket.resume();
        });
      },
      destroy: finish,
    });
    listen();
    stop.addEventListener('abort', () => lose(stop.reason));
    if (stop.aborted) lose(stop.reason);
  });
}

const DISCONNECT: ClientRequest = {
  ...{ command: COMMAND.DISC, flags: 0, cookie: 0n, offset: 0, length: 0 },
};

/** Requests of one turn go out together. */
function corked(socket: Duplex, pieces: readonly Uint8Array[]): void {
  if (socket.writableCorked === 0) {
    socket.cork();
    process.nextTick(() => socket.uncork());
  }
  for (const bytes of pieces) socket.write(bytes);
}

/** A socket that is connected before `stop` says that it is too late; one that comes later is hung up. */
function dial(address: NbdRoute, stop: AbortSignal): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const refuse = (): void => reject(stop.reason);
    if (stop.aborted) return refuse();
    stop.addEventListener('abort', refuse);
    if ('dial' in address) {
      const made = async (): Promise<void> => {
        const socket = await address.dial();
        resolve(socket);
        if (stop.aborted) socket.on('error', () => {}).destroy();
      };
      made().catch((error) => reject(failure('dialing failed', error)));
      return;
    }
    const where =
      'path' in address
        ? { path: address.path }
        : { host: address.host, port: address.port ?? 10809, keepAlive: true, noDelay: true };
    const name = 'path' in address ? address.path : `${where.host}:${where.port}`;
    const socket = connectSocket(where);
    const failed = (error: Error): void =>
      reject(failure(`no connection to ${name}: ${error.message}`, error));
    const hangUp = (): unknown => socket.destroy();
    stop.addEventListener('abort', hangUp);
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.removeListener('error', failed);
      stop.removeEventListener('abort', hangUp);
      resolve(socket);
    });
  });
}

function tlsOptions({ address, tls = {} }: Route): ConnectionOptions {
  const { psk, ...options } = tls;
  const host = 'host' in address ? { host: address.host } : {};
  if (!psk) return { ...host, ...options };
  return {
    ciphers: 'PSK',
    // Both sides have the key: there is no certificate whose name could be checked.
    checkServerIdentity: () => undefined,
    ...options,
    pskCallback: () => ({ identity: psk.identity, psk: psk.key }),
  };
}

function failure(what: string, cause?: unknown): WriteBarrierError {
  return new WriteBarrierError('IO_FAILED', what, { cause });
}
