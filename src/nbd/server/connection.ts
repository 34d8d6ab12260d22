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
//   K6  For a client that is gone nothing is begun, and of a request that takes several calls no further one is made. It
//       may have come back over another connection, and written something newer there.

import type { Socket } from 'node:net';
import { COMMAND } from '../wire/index.js';
import { carryOut, costOf, refusalFor, type Work } from './carry-out.js';
import type { Export, Exports } from './exports.js';
import type { Limits } from './options.js';
import { type Outcome, ServerSession, type SessionEvent, type SessionRequest } from './session.js';
import type { Upgrade } from './tls.js';

/** Replies that wait to be taken, in bytes, before no more requests are asked for. */
const UNSENT_MAX = 1024 * 1024;
/** How long a client may take for its last replies when it ends the connection itself, or must be sent away. */
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

/** What the server has counted of requests that were carried out; what was refused as illegal is not among them. */
export interface Counters {
  /** That have ended, well or badly. */
  requests: number;
  /** Those among them that the storage failed. */
  failed: number;
  /** Of reads that were answered well. */
  bytesRead: number;
  /** Of writes that were answered well; zeroes do not count. */
  bytesWritten: number;
  /** That were answered well. */
  flushes: number;
}

/** See the head of this file. */
export class Connection {
  readonly #context: ConnectionContext;
  readonly #session: ServerSession;
  /** What the client connected with, and what speaks for it: the same until there is TLS. */
  readonly #raw: Socket;
  #socket: Socket;
  #work: Work | undefined;
  /** At the scheduler: how many, and their buffers in bytes. */
  #requests = 0;
  #bytes = 0;
  #corked = false;
  #finishing = false;
  #closed = false;
  #gone = false;
  #why: string | undefined;
  readonly #drained: (() => void)[] = [];
  readonly #tooSlow: ReturnType<typeof setTimeout>;
  #linger: ReturnType<typeof setTimeout> | undefined;
  #lingerMs = LINGER_MS;

  constructor(socket: Socket, context: ConnectionContext) {
    const { exports, limits, upgrade } = context;
    this.#context = context;
    this.#raw = socket;
    this.#socket = socket;
    this.#session = new ServerSession({ exports, tls: upgrade !== undefined }, limits.requestBytes);
    const late = (): void => this.#destroy('the handshake took too long');
    this.#tooSlow = setTimeout(late, limits.handshakeMs);
    this.#attach(socket);
    this.#pump();
  }

  /** Answers what comes from now on with ESHUTDOWN; settles when nothing is under way. */
  drain(): Promise<void> {
    this.#session.shutdown();
    if (this.#requests === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  /** Ends it, and takes at most `ms` for the last replies. */
  end(ms: number): void {
    this.#finish('the server is closing', ms);
  }

  // Bytes in

  #attach(socket: Socket): void {
    socket.on('data', (chunk: Uint8Array) => {
      this.#session.receive(chunk);
      this.#pump();
    });
    socket.on('drain', () => this.#pump());
    // The client has nothing more to say; what it has asked for is finished, and nobody will read it.
    socket.on('end', () => {
      this.#finish(this.#session.ended ? undefined : 'the client left without a word');
    });
    socket.on('error', (error: Error) => this.#destroy(error.message));
    socket.on('close', () => {
      this.#closed = true;
      this.#settle();
    });
  }

  #pump(): void {
    while (!this.#leaving && !this.#full()) {
      const event = this.#session.next();
      if (!event) break;
      this.#obey(event);
    }
    if (this.#leaving) return;
    if (this.#full()) this.#socket.pause();
    else if (this.#socket.isPaused() && !this.#upgrading()) this.#socket.resume();
  }

  /** K6 */
  get #leaving(): boolean {
    return this.#finishing || this.#closed;
  }

  /** K1. */
  #full(): boolean {
    const { requestsInFlight, bytesInFlight } = this.#context.limits;
    return (
      this.#requests >= requestsInFlight ||
      this.#bytes >= bytesInFlight ||
      this.#socket.writableLength >= UNSENT_MAX
    );
  }

  #obey(event: SessionEvent): void {
    switch (event.kind) {
      case 'send':
        this.#send(event.parts);
        break;
      case 'startTls':
        this.#startTls();
        break;
      case 'open':
        clearTimeout(this.#tooSlow);
        this.#work = {
          ...(this.#context.exports.get(event.name) as Export),
          abandoned: () => this.#closed,
        };
        this.#context.onOpen(event.name, this.#session.tls);
        break;
      case 'request':
        this.#start(event.request, this.#work as Work);
        break;
      case 'end':
        this.#finish(event.why);
    }
  }

  // TLS

  #upgrading(): boolean {
    return this.#session.tls && this.#socket === this.#raw;
  }

  /** K5: the callback comes when the answer has left for the system, so TLS cannot overtake it. */
  #startTls(): void {
    const raw = this.#raw;
    raw.pause();
    raw.removeAllListeners('data');
    this.#uncork();
    raw.write('', () => {
      if (this.#closed) return;
      raw.removeAllListeners('end');
      raw.removeAllListeners('drain');
      this.#context.upgrade?.(raw).then(
        (secure) => this.#secured(secure),
        (error) => this.#destroy(`TLS: ${error.message}`),
      );
    });
  }

  #secured(secure: Socket): void {
    if (this.#finishing || this.#closed) {
      secure.destroy();
      return;
    }
    this.#socket = secure;
    this.#session.tlsReady();
    this.#attach(secure);
  }

  // Requests

  #start(request: SessionRequest, work: Work): void {
    const cost = costOf(request);
    this.#requests += 1;
    this.#bytes += cost;
    const ended = (outcome: Outcome): void => {
      this.#requests -= 1;
      this.#bytes -= cost;
      count(this.#context.counters, request, outcome);
      this.#send(this.#session.answer(request, outcome));
      if (this.#requests === 0) this.#settle();
      this.#pump();
    };
    carryOut(request, work).then(ended, (error) => ended(refusalFor(error)));
  }

  // Bytes out

  #send(parts: readonly Uint8Array[]): void {
    const socket = this.#socket;
    if (this.#closed || socket.destroyed || socket.writableEnded) return;
    if (!this.#corked) {
      this.#corked = true;
      socket.cork(); // K4
      process.nextTick(() => this.#uncork());
    }
    for (const part of parts) socket.write(part);
  }

  #uncork(): void {
    if (!this.#corked) return;
    this.#corked = false;
    this.#socket.uncork();
    // Corked bytes count as unsent, and nobody tells of their leaving where the system takes them at once.
    if (!this.#closed && !this.#finishing && this.#socket.isPaused()) this.#pump();
  }

  // The end

  /** No more is read; the replies under way are sent, and then the socket is closed. */
  #finish(why: string | undefined, ms: number = LINGER_MS): void {
    if (this.#closed) return;
    if (!this.#finishing) {
      this.#finishing = true;
      this.#why = why;
      clearTimeout(this.#tooSlow);
      this.#socket.removeAllListeners('data');
      // What still comes is taken and dropped, or the end of the client would never be seen.
      this.#socket.resume();
    }
    clearTimeout(this.#linger);
    this.#linger = undefined;
    this.#lingerMs = ms;
    this.#settle();
  }

  #destroy(why: string): void {
    // What befalls the socket of a client that is leaving anyway is no news.
    if (!this.#finishing) this.#why ??= why;
    this.#raw.destroy();
    this.#socket.destroy();
  }

  /** Says what is over. */
  #settle(): void {
    if (this.#requests > 0) return;
    for (const resolve of this.#drained.splice(0)) resolve();
    if (this.#finishing && !this.#closed) this.#takeLeave();
    if (!this.#closed || this.#gone) return;
    this.#gone = true;
    clearTimeout(this.#tooSlow);
    clearTimeout(this.#linger);
    if (!this.#finishing) this.#why ??= 'the connection was lost';
    this.#context.onGone(this.#why);
  }

  /** The last reply is written, and the client has so long to take it. */
  #takeLeave(): void {
    this.#linger ??= setTimeout(() => {
      this.#why ??= 'the client did not take its last replies';
      this.#destroy(this.#why);
    }, this.#lingerMs);
    if (this.#socket.writableEnded) return;
    this.#uncork();
    this.#socket.end(() => this.#socket.destroySoon());
  }
}

function count(counters: Counters, { command, length }: SessionRequest, outcome: Outcome): void {
  counters.requests += 1;
  if ('error' in outcome) counters.failed += 1;
  else if (command === COMMAND.READ) counters.bytesRead += length;
  else if (command === COMMAND.WRITE) counters.bytesWritten += length;
  else if (command === COMMAND.FLUSH) counters.flushes += 1;
}
