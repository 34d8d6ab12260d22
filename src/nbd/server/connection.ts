// The socket of one client around its session: bytes in, what the session wants out. It decides one thing, how much
// is under way at once.
//
//   handshake ──open──▶ serving ──DISC, end, shutdown──▶ finishing ──last reply taken──▶ gone
//       any ──error, lost socket, time──▶ gone; what the storage still does is waited for, and not told to anybody
//
// Invariants, tested under these numbers:
//   K1  The next request is asked for only while less than `requestsInFlight` requests and `bytesInFlight` bytes of
//       buffers are at the scheduler, and less than UNSENT_MAX bytes of replies wait for the client to take them.
//       Otherwise the socket is not read either. So a client that does not read costs what these limits say.
//   K2  A reply is one piece in the stream, whatever order replies come in.
//   K3  Whatever a client does ends its own connection at worst.
//   K4  Replies of one turn leave together.
//   K5  Nothing is read between the answer to STARTTLS and TLS, and that answer is the last that goes without.

import type { Socket } from 'node:net';
import { COMMAND } from '../wire/index.js';
import { carryOut, costOf, refusalFor } from './carry-out.js';
import type { Export, Exports } from './exports.js';
import type { Limits } from './options.js';
import { type Outcome, ServerSession, type SessionEvent, type SessionRequest } from './session.js';
import type { Upgrade } from './tls.js';

/** Replies that wait to be taken, in bytes, before no more requests are asked for. */
const UNSENT_MAX = 1024 * 1024;
/** How long a client may take for its last bytes when it ends the connection itself, or must be sent away. */
const LINGER_MS = 5_000;

/** What a connection needs to know. */
export interface ConnectionContext {
  readonly exports: Exports;
  readonly limits: Limits;
  /** Puts TLS on a socket; undefined where there are no keys. */
  readonly upgrade: Upgrade | undefined;
  readonly counters: Counters;
  readonly onOpen: (name: string, tls: boolean) => void;
  /** Once, when the socket is closed and nothing of this client is at a scheduler any more. */
  readonly onGone: (why: string | undefined) => void;
}

/** What the server has counted. */
export interface Counters {
  requests: number;
  failed: number;
  bytesRead: number;
  bytesWritten: number;
  flushes: number;
}

/** A connection as the server sees it. */
export interface Connection {
  /** Answers what comes from now on with ESHUTDOWN; settles when nothing is under way. */
  drain(): Promise<void>;
  /** Ends it, and takes at most `ms` for the last replies. */
  end(ms: number): void;
}

/** Serves a client on a socket. */
export function serve(raw: Socket, context: ConnectionContext): Connection {
  const { exports, limits, counters } = context;
  const tls = context.upgrade !== undefined;
  const session = new ServerSession({ exports, tls }, limits.requestBytes);
  let socket = raw;
  let target: Export | undefined;
  let requests = 0;
  let bytes = 0;
  let corked = false;
  let finishing = false;
  let closed = false;
  let gone = false;
  let why: string | undefined;
  const idle: (() => void)[] = [];

  const tooSlow = setTimeout(() => destroy('the handshake took too long'), limits.handshakeMs);
  let linger: ReturnType<typeof setTimeout> | undefined;

  attach(socket);
  pump();
  return { drain, end };

  function attach(to: Socket): void {
    to.on('data', (chunk: Uint8Array) => {
      session.receive(chunk);
      pump();
    });
    to.on('drain', pump);
    // The client has nothing more to say; what it has asked for is finished, and nobody will read it.
    to.on('end', () => finish(session.ended ? undefined : 'the client left without a word'));
    to.on('error', (error: Error) => destroy(error.message));
    to.on('close', () => {
      closed = true;
      settle();
    });
  }

  // Bytes in

  function pump(): void {
    while (!full()) {
      const event = session.next();
      if (!event) break;
      obey(event);
    }
    if (closed || finishing) return;
    if (full()) socket.pause();
    else if (socket.isPaused() && !upgrading()) socket.resume();
  }

  /** K1. */
  function full(): boolean {
    return (
      requests >= limits.requestsInFlight ||
      bytes >= limits.bytesInFlight ||
      socket.writableLength >= UNSENT_MAX
    );
  }

  function upgrading(): boolean {
    return session.tls && socket === raw;
  }

  function obey(event: SessionEvent): void {
    switch (event.kind) {
      case 'send':
        send(event.parts);
        break;
      case 'startTls':
        startTls();
        break;
      case 'open':
        clearTimeout(tooSlow);
        target = exports.get(event.name);
        context.onOpen(event.name, session.tls);
        break;
      case 'request':
        start(event.request, target as Export);
        break;
      case 'end':
        finish(event.why);
    }
  }

  function startTls(): void {
    // K5: the callback comes when the answer has left for the system, so TLS cannot overtake it.
    socket.pause();
    socket.removeAllListeners('data');
    flush();
    socket.write('', () => {
      if (closed) return;
      raw.removeAllListeners('end');
      raw.removeAllListeners('drain');
      context.upgrade?.(raw).then(
        (secure) => {
          if (finishing || closed) {
            secure.destroy();
            return;
          }
          socket = secure;
          session.tlsReady();
          attach(secure);
        },
        (error) => destroy(`TLS: ${error.message}`),
      );
    });
  }

  // Requests

  function start(request: SessionRequest, to: Export): void {
    const size = costOf(request);
    requests += 1;
    bytes += size;
    counters.requests += 1;
    const ended = (outcome: Outcome): void => {
      requests -= 1;
      bytes -= size;
      count(request, outcome);
      send(session.answer(request, outcome));
      if (requests === 0) settle();
      pump();
    };
    carryOut(request, to).then(ended, (error) => ended(refusalFor(error)));
  }

  function count({ command, length }: SessionRequest, outcome: Outcome): void {
    if ('error' in outcome) counters.failed += 1;
    else if (command === COMMAND.READ) counters.bytesRead += length;
    else if (command === COMMAND.WRITE) counters.bytesWritten += length;
    else if (command === COMMAND.FLUSH) counters.flushes += 1;
  }

  // Bytes out

  function send(parts: readonly Uint8Array[]): void {
    if (closed || socket.destroyed || socket.writableEnded) return;
    if (!corked) {
      corked = true;
      socket.cork(); // K4
      process.nextTick(flush);
    }
    for (const part of parts) socket.write(part);
  }

  function flush(): void {
    if (!corked) return;
    corked = false;
    socket.uncork();
    // Corked bytes count as unsent, and nobody tells of their leaving where the system takes them at once.
    if (!closed && !finishing && socket.isPaused()) pump();
  }

  // The end

  function drain(): Promise<void> {
    session.shutdown();
    if (requests === 0) return Promise.resolve();
    return new Promise((resolve) => idle.push(resolve));
  }

  function end(ms: number): void {
    finish('the server is closing', ms);
  }

  /** No more is read; the replies under way are sent, and then the socket is closed. */
  function finish(reason: string | undefined, ms: number = LINGER_MS): void {
    if (closed) return;
    if (!finishing) {
      finishing = true;
      why = reason;
      clearTimeout(tooSlow);
      socket.removeAllListeners('data');
      // What still comes is taken and dropped, or the end of the client would never be seen.
      socket.resume();
    }
    clearTimeout(linger);
    linger = setTimeout(() => {
      why ??= 'the client did not take its last replies';
      destroy(why);
    }, ms);
    settle();
  }

  function destroy(reason: string): void {
    // What befalls the socket of a client that is leaving anyway is no news.
    if (!finishing) why ??= reason;
    raw.destroy();
    socket.destroy();
  }

  /** Says what is over. */
  function settle(): void {
    if (requests > 0) return;
    for (const resolve of idle.splice(0)) resolve();
    if (finishing && !closed && !socket.writableEnded) {
      flush();
      socket.end(() => socket.destroySoon());
    }
    if (!closed || gone) return;
    gone = true;
    clearTimeout(tooSlow);
    clearTimeout(linger);
    if (!finishing) why ??= 'the connection was lost';
    context.onGone(why);
  }
}
