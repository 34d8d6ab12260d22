// The socket of one client around its session: it feeds the session with bytes, and sends what the session answers. It
// decides only how much is in flight at once.
//
//   handshake ──open──▶ serving ──DISC, end, shutdown──▶ finishing ──last reply taken──▶ gone
//       any ──error, lost socket, time──▶ gone; what is still at the storage is waited for, and its result is dropped
//
// Invariants, tested under these numbers:
//   K1  The next request is asked for only while fewer than `requestsInFlight` requests and `bytesInFlight` bytes of
//       buffers are at the disk, fewer than UNSENT_MAX bytes of replies wait for the client, and its share of the server's memory has
//       room (memory.ts). Otherwise the socket is not read either. So these limits bound the cost of a client that does not read.
//   K2  A reply is one piece in the stream, in whatever order replies come.
//   K3  A client can end its own connection, and no other.
//   K4  Replies of one turn leave together.
//   K5  Nothing is read between the answer to STARTTLS and TLS, and that answer is the last in plain text.
//   K6  For a client that is gone no request is begun, and a request in several pieces stops after its current piece,
//       because the client may have reconnected and written something newer over another connection.
//   K7  One turn of the event loop does a limited amount of work for all connections, and a connection that asks for much does not
//       keep one waiting that asks for little (turns.ts). Who waits for its turn is not read.
//   K8  If a client closes its sending side, its requests are still executed and answered; then the connection ends. A client
//       that takes no whole answer for LINGER_MS is gone, because a lost one is not always reported.
//   K9  A socket is ended by its uppermost layer: by TLS if there is TLS. During the TLS handshake the TLS socket is not
//       available yet, so the TCP socket is ended, from the event loop and not from a callback (nbd-server-tls.X6).
//
// K6 and K8 conflict if a client closes its socket without DISC, because its system reports only that no more bytes come.
// A Unix socket reports the rest when it is written to, even with nothing. On any other line a reply must be sent first, and
// the other side has PROBE_MS to say that it takes none; until then no request is begun.
//
// Node's TLS loses the error if the last message of its handshake can't be written because the client is gone: each later write
// waits for that one. So the first reply has to be taken in the time that is given for the handshake (the system has room for it,
// whatever the client reads), and K8 does not trust errors alone.

import { ByteWriter } from '../wire/index.js';
import {
  CLOSING,
  costOf,
  Execution,
  keptBy,
  type Outcome,
  type SessionRequest,
  type Work,
} from './commands.js';
import type { ConnectionContext, Line } from './context.js';
import type { Share } from './memory.js';
import type { Export } from './options.js';
import { type ServerEvent, ServerSession } from './session.js';
import { Linger, Silence } from './silence.js';
import { count, type NbdServerClient } from './stats.js';
import { COST, type Turns, Visitor } from './turns.js';

/** When this many bytes of replies wait for the client, no more requests are asked for. */
const UNSENT_MAX = 1024 * 1024;
/** How long a client may take for its last replies when it ends the connection, or broke the protocol. */
const LINGER_MS = 5_000;
/** K6, K8 */
const PROBE_MS = 200;

/** The connection of one client. */
export class Connection {
  readonly #context: ConnectionContext;
  readonly #session: ServerSession;
  /** The socket of the client, and the layer that speaks for it: the same until TLS is in use. */
  readonly #raw: Line;
  #socket: Line;
  #detach: () => void = () => {};
  #work: Work | undefined;
  readonly #share: Share;
  /** A request that waits until the share has room. */
  #parked: SessionRequest | undefined;
  /** The payload that is coming, in bytes, for which the share had room. */
  #coming = 0;
  /** Those that execute nothing now; at most as many as requests were in flight at once. */
  readonly #executions: Execution[] = [];
  /** K4: the replies of this turn, and whether they are about to leave. */
  readonly #out = new ByteWriter();
  #sending = false;
  /** Requests at the disk, their buffers in bytes, and what these keep from being freed beyond that. */
  #requests = 0;
  #bytes = 0;
  #kept = 0;
  /** K7. */
  readonly #turns: Turns;
  readonly #visitor = new Visitor(() => this.#pump());
  /** K8: the client sends no more. */
  #halfClosed = false;
  /** K6: whether a half-closed client is known to take replies, and the timer that finds out. */
  #probed = false;
  #probe: ReturnType<typeof setTimeout> | undefined;
  #closing = false;
  #finishing = false;
  #doomed = false;
  #closed = false;
  #why: string | undefined;
  readonly #drained: (() => void)[] = [];
  readonly #tooSlow: ReturnType<typeof setTimeout>;
  #silence: Silence | undefined;
  readonly #linger = new Linger(LINGER_MS, () => {
    this.#why ??= 'the client did not take its last replies';
    this.#destroy(this.#why);
  });

  constructor(socket: Line, context: ConnectionContext) {
    const { exports, limits, upgrade, full, turns } = context;
    this.#context = context;
    this.#turns = turns;
    this.#raw = socket;
    this.#socket = socket;
    const offer = { exports, tls: upgrade !== undefined, full };
    this.#session = new ServerSession(offer, limits.requestBytes);
    this.#share = context.memory.share(
      () => this.#unpark(),
      (why) => this.#destroy(why),
    );
    const late = (): void => this.#destroy(`the handshake took more than ${limits.handshakeMs} ms`);
    this.#tooSlow = setTimeout(late, limits.handshakeMs);
    this.#attach(socket);
    this.#pump();
  }

  /** It has an export and was counted. The session may be open earlier, while the event waits for the next turn. */
  get open(): boolean {
    return this.#work !== undefined;
  }

  /** It is ending: nothing more is asked of its session (K6). */
  get ending(): boolean {
    return this.#finishing || this.#doomed || this.#closed || this.#socket.destroyed;
  }

  /** It has proved in TLS that it has a key. */
  get proved(): boolean {
    const { upgrade } = this.#context;
    return upgrade?.provesClients === true && this.#session.tls && !this.#upgrading;
  }

  /** Requests at the disk, and how many bytes of the server's memory it holds; whether it waits for more of it. */
  get holds(): Pick<NbdServerClient, 'requestsInFlight' | 'heldBytes' | 'waits'> {
    const { held, wants } = this.#share;
    return { requestsInFlight: this.#requests, heldBytes: held, waits: wants !== undefined };
  }

  /** Answers later requests with ESHUTDOWN; settles when nothing is in flight. */
  drain(): Promise<void> {
    this.#closing = true;
    this.#session.shutdown();
    const parked = this.#parked;
    this.#parked = undefined;
    if (parked && !this.ending) {
      this.#session.answer(parked, CLOSING, this.#out);
      this.#sendSoon();
    }
    if (this.#requests === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  /** Ends it, and waits at most `ms` for the client to take the last replies. */
  end(ms: number): void {
    this.#finish('the server is closing', ms);
  }

  /** Ends it at once. */
  giveWay(): void {
    this.#destroy('the connection gave way to a newer one during the handshake');
  }

  // Bytes in

  #attach(socket: Line): void {
    this.#detach();
    const on = {
      data: (chunk: Uint8Array): void => {
        this.#turns.spend(this.#visitor, chunk.length >> COST.inputLog2);
        this.#session.dialogue.receive(chunk);
        this.#pump();
      },
      drain: (): void => this.#taken(),
      end: (): void => this.#inputEnded(),
      timeout: (): void => this.#silent(),
    };
    const names = Object.keys(on) as (keyof typeof on)[];
    for (const name of names) socket.on(name, on[name]);
    this.#detach = () => {
      for (const name of names) socket.off(name, on[name]);
    };
    // These stay, because an error without a listener would end the process. OpenSSL's messages end with a new line.
    socket.on('error', (error: Error) => this.#destroy(error.message.trim()));
    socket.on('close', () => {
      if (socket !== this.#socket) return;
      this.#closed = true;
      this.#leave();
      this.#settle();
    });
  }

  /** K6: what waits for its turn is not begun. */
  #leave(): void {
    this.#parked = undefined;
    this.#work?.member.close();
  }

  #pump(): void {
    while (!this.ending && !this.#full() && !this.#inDoubt() && this.#hasTurn()) {
      const event = this.#session.dialogue.next() ?? this.#expect();
      if (!event) break;
      this.#turns.spend(this.#visitor, this.#session.open ? 1 : COST.handshake);
      this.#handle(event);
    }
    if (this.ending) return;
    if (this.#full()) this.#socket.pause();
    else if (this.#socket.isPaused() && !this.#upgrading) this.#socket.resume();
  }

  /** K7. Nothing is left to do for a connection without input, but to notice its end. */
  #hasTurn(): boolean {
    const { pending, unread } = this.#session.dialogue;
    return (!pending && unread === 0) || this.#turns.admits(this.#visitor);
  }

  /** K1, K7 */
  #full(): boolean {
    const { requestsInFlight, bytesInFlight } = this.#context.limits;
    return (
      this.#visitor.waits ||
      this.#share.wants !== undefined ||
      this.#requests >= requestsInFlight ||
      this.#bytes >= bytesInFlight ||
      this.#out.length + this.#socket.writableLength >= UNSENT_MAX ||
      (this.#share.isFull && !this.#share.take(0))
    );
  }

  /** Makes room for a payload before it comes, because one that is not complete could not be given back otherwise. */
  #expect(): undefined {
    const { awaited } = this.#session;
    if (awaited === 0 || this.#coming > 0 || !this.#share.take(awaited)) return undefined;
    this.#coming = awaited;
    this.#account();
    return undefined;
  }

  /** The share has room now. */
  #unpark(): void {
    const request = this.#parked;
    this.#share.wants = undefined;
    if (request && !this.ending) {
      this.#parked = undefined;
      this.#admit(request);
    }
    this.#pump();
  }

  /** Tells the share what is held: what is coming, what is at the disk, and what the client has not taken. */
  #account(): void {
    const unsent = this.#socket.destroyed ? 0 : this.#out.length + this.#socket.writableLength;
    this.#share.hold(this.#coming + this.#bytes + this.#kept + unsent);
    if (this.#halfClosed && !this.ending) this.#linger.restart(unsent > 0); // K8
  }

  #handle(event: ServerEvent): void {
    switch (event.kind) {
      case 'send':
        this.#turns.spend(this.#visitor, (event.parts[0]?.length ?? 0) >> COST.answerLog2);
        if (event.refuses === 'request') this.#context.counters.refusedRequests += 1;
        if (event.refuses === 'option') this.#context.counters.refusedOptions += 1;
        for (const part of event.parts) this.#out.push(part);
        this.#sendSoon();
        break;
      case 'startTls':
        this.#startTls();
        break;
      case 'open':
        this.#open(this.#context.exports.get(event.name) as Export);
        break;
      case 'request':
        this.#turns.spend(this.#visitor, costOf(event.request) >> COST.buffersLog2);
        this.#admit(event.request);
        break;
      case 'end':
        this.#finish(event.reason?.message);
    }
  }

  #open(target: Export): void {
    // With TLS the time goes on until a reply is taken, if none was.
    const isTaken = this.#out.length + this.#socket.writableLength === 0;
    if (isTaken || !this.#session.tls) clearTimeout(this.#tooSlow);
    const { name, onOpen } = this.#context;
    this.#work = {
      ...target,
      member: target.disk.group.member({ name }),
      abandoned: () => this.#abandoned(),
      closing: () => this.#closing,
      ended: (request, outcome) => this.#ended(request, outcome),
    };
    this.#watch();
    onOpen(target.name, this.#session.tls);
  }

  // The end of what the client sends

  /** K8 */
  #inputEnded(): void {
    if (this.#upgrading) {
      this.#destroy('the client disconnected during the TLS handshake');
      return;
    }
    this.#halfClosed = true;
    this.#session.dialogue.receiveEnd();
    // On a Unix socket whose other side is closed this fails, and ends the connection.
    if (this.#tells) this.#socket.write('');
    this.#account();
    this.#pump();
  }

  /** Whether a write reports at once that the other side is closed. */
  get #tells(): boolean {
    return this.#context.local && this.#socket === this.#raw;
  }

  /** K6: whether a half-closed client may be gone. The replies to what was begun find out. */
  #inDoubt(): boolean {
    if (!this.#halfClosed || this.#tells || this.#probed || this.#session.dialogue.unread === 0)
      return false;
    if (this.#requests === 0) this.#probe ??= setTimeout(() => this.#ask(), PROBE_MS);
    return true;
  }

  /** By now the system knows whether the other side took the replies, and the next write reports it. */
  #ask(): void {
    // Node takes the end of a write below TLS for the end of one of TLS, so none may be under way.
    const isBusy = this.#socket !== this.#raw && this.#socket.writableLength > 0;
    if (isBusy) this.#probe = undefined;
    else this.#raw.write('', this.#asked);
    this.#pump();
  }

  readonly #asked = (error?: Error | null): void => {
    if (error) this.#destroy(error.message);
    else this.#probed = true;
    this.#pump();
  };

  /** K6 */
  #abandoned(): boolean {
    if (this.#closed || this.#doomed || this.#socket.destroyed) return true;
    if (!this.#halfClosed || this.#probed) return false;
    if (this.#tells) this.#socket.write('');
    return !this.#tells;
  }

  // TLS

  get #upgrading(): boolean {
    return this.#session.tls && this.#socket === this.#raw;
  }

  /** K5: the callback runs when the system has the answer, so TLS cannot overtake it. */
  #startTls(): void {
    const raw = this.#raw;
    raw.pause();
    this.#detach();
    this.#send();
    raw.write('', () => {
      if (this.ending) return;
      this.#context.upgrade?.secure(raw).then(
        (secure) => this.#secured(secure),
        (error) => this.#destroy(`TLS: ${error.message}`),
      );
    });
  }

  #secured(secure: Line): void {
    if (this.ending) {
      // The promise may be resolved from inside of OpenSSL (nbd-server-tls.X6).
      setImmediate(() => secure.destroy());
      return;
    }
    this.#socket = secure;
    this.#session.dialogue.secured();
    this.#attach(secure);
  }

  // Silence

  /** Node emits `timeout` when nothing has moved on a socket for this long, in either direction. */
  #watch(): void {
    const { payloadMs, idleMs } = this.#context.limits;
    const ms = idleMs > 0 ? Math.min(payloadMs, idleMs) : payloadMs;
    this.#silence = new Silence(ms);
    this.#socket.setTimeout?.(ms);
  }

  #silent(): void {
    const silence = this.#silence;
    if (!silence || this.ending) return;
    const { payloadMs, idleMs } = this.#context.limits;
    const silentMs = silence.lasts();
    this.#socket.setTimeout?.(silence.ms);
    const halfway = this.#session.halfway && !this.#full();
    if (halfway && silentMs >= payloadMs) {
      this.#destroy(`no more bytes of a payload came for ${silentMs} ms`);
    } else if (idleMs > 0 && this.#requests === 0 && silentMs >= idleMs) {
      this.#destroy(`the client was idle for ${silentMs} ms`);
    }
  }

  // Requests

  #admit(request: SessionRequest): void {
    if (this.#coming > 0 || this.#share.take(costOf(request) + keptBy(request))) {
      this.#start(request, this.#work as Work);
    } else {
      this.#parked = request;
    }
  }

  #start(request: SessionRequest, work: Work): void {
    this.#coming = 0;
    this.#requests += 1;
    this.#bytes += costOf(request);
    this.#kept += keptBy(request);
    this.#account();
    const execution = this.#executions.pop() ?? new Execution(work, this.#executions);
    execution.begin(request);
  }

  #ended(request: SessionRequest, outcome: Outcome): void {
    this.#requests -= 1;
    this.#bytes -= costOf(request);
    this.#kept -= keptBy(request);
    count(this.#context.counters, request, outcome);
    this.#context.onEnded(this.#work as Work);
    this.#session.answer(request, outcome, this.#out);
    this.#account();
    this.#sendSoon();
    if (this.#requests === 0) this.#settle();
    this.#pump();
  }

  // Bytes out

  /** K4 */
  #sendSoon(): void {
    if (this.#sending) return;
    this.#sending = true;
    process.nextTick(this.#send);
  }

  readonly #send = (): void => {
    this.#sending = false;
    const socket = this.#socket;
    const pieces = this.#out.take();
    if (this.#closed || this.#doomed || socket.destroyed || socket.writableEnded) return;
    if (pieces.length > 1) socket.cork();
    for (const piece of pieces) socket.write(piece, this.#taken);
    if (pieces.length > 1) socket.uncork();
    this.#account();
    // What was collected counts as unsent, and there is no event if the system takes it at once.
    if (!this.ending && socket.isPaused()) this.#pump();
  };

  /** The client has taken some of it. */
  readonly #taken = (): void => {
    if (this.#session.tls && this.open) clearTimeout(this.#tooSlow);
    const { held } = this.#share;
    this.#account();
    if (this.#share.held < held) this.#pump();
  };

  // The end

  /** Reads no more, sends the replies to requests in flight, then closes the socket. */
  #finish(why: string | undefined, ms: number = LINGER_MS): void {
    if (this.#closed || this.#doomed) return;
    if (this.#upgrading) {
      this.#destroy(why ?? 'the connection ended during the TLS handshake'); // K9: no reply is due
      return;
    }
    if (!this.#finishing) {
      this.#finishing = true;
      this.#why = why;
      this.#stopClocks();
      this.#detach();
      // Later bytes are read and dropped, because the end of the client would not be seen otherwise.
      this.#socket.resume();
    }
    this.#linger.stop();
    this.#linger.ms = ms;
    this.#settle();
  }

  #destroy(why: string): void {
    // When the connection is ending already, an error of its socket is not the reason.
    if (!this.#finishing) this.#why ??= why;
    this.#stopClocks();
    if (this.#doomed) return;
    this.#doomed = true;
    this.#leave();
    if (this.#upgrading)
      setImmediate(() => this.#raw.destroy()); // K9
    else this.#socket.destroy();
  }

  #stopClocks(): void {
    clearTimeout(this.#tooSlow);
    clearTimeout(this.#probe);
    this.#linger.stop();
    if (this.#silence) this.#socket.setTimeout?.(0);
    this.#silence = undefined;
  }

  /** Reports what has ended. */
  #settle(): void {
    if (this.#requests > 0) return;
    // Looked at first, because the last request of a turn comes here, and a list is made otherwise.
    if (this.#drained.length > 0) for (const resolve of this.#drained.splice(0)) resolve();
    if (this.#finishing && !this.#closed) this.#close();
    if (!this.#closed) return;
    this.#stopClocks();
    if (!this.#finishing) this.#why ??= 'the connection was lost';
    this.#share.leave();
    this.#context.onGone(this.#why);
  }

  /** The last reply is written, and the client has the time of `#linger` to take it. */
  #close(): void {
    this.#linger.begin();
    if (this.#socket.writableEnded) return;
    this.#send();
    this.#socket.end(() => this.#socket.destroy());
  }
}
