// An NBD export as a Storage: promises, sockets and timers around in-flight.ts.
//
//   connected ──a connection is lost──▶ reconnecting ──▶ connected
//       │                                   └──too many tries, or another export──▶ failed
//       └──close(), destroy()──▶ closed
//
// Invariants, tested under these numbers:
//   N1  The connections live and die together: losing one closes all, and every request in flight on any of them counts as
//       unanswered, because the server may have been restarted, and a client cannot detect a restart.
//   N2  An export that comes back must have the same size, and every capability that it had before. Otherwise nothing is
//       sent, and the storage fails.
//   N3  A server that breaks the protocol is not tried again, because it cannot be trusted with data.
//   N4  Tries to reconnect are counted until a command is answered, or a connection without requests has lived for a while.
//       So a server that dies of its requests, or hangs, is given up as well. A server that answers some commands and dies
//       of others is not given up, but each command is sent again a limited number of times (nbd-client-in-flight.E7).
//   N5  `close` waits for requests in flight, and for the log to be sent again after a loss; it does not flush
//       (storage.S10). It gives up a server that is away after a time limit, the default one or that of the caller. After
//       `close`, and at once after `destroy`, there is no timer and no socket that is being dialed.
//   N6  A connection on which a request has no answer for `requestTimeoutMs` is lost.
//   N7  Every promise is settled once, by the answer to its command.
//
// It does not tell a server that hangs from a slow one. TCP connections are kept alive by the system and fail when the other
// side is gone; a server that is alive and does not answer is waited for, except if there is a limit (N6).

import {
  type ByteRange,
  type Capabilities,
  type Extent,
  type FlushFlags,
  IoFailedError,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import { checkRange, concatBuffers, invariant, totalLength, withText } from 'write-barrier/kit';
import { bufferChanged, bytesIn, lostBefore, serverError } from '../report.js';
import { EXTENT_FLAG, NBD_ERROR, type Extent as WireExtent } from '../wire/index.js';
import {
  AnotherExportError,
  type Connection,
  dialAll,
  type ExportProperties,
  hangUpAll,
  type Listener,
  reconnectDelayMs,
} from './connection.js';
import {
  type Command,
  InFlight,
  type ServerProperties,
  type Settled,
  SPAN_MAX,
} from './in-flight.js';
import {
  CloseDeadline,
  checkClose,
  type NbdCloseOptions,
  type NbdStorageOptions,
  type Settings,
  settingsOf,
} from './options.js';
import type { Answer } from './replies.js';
import { Unflushed } from './unflushed.js';

/** Maximum requests in flight on one connection. */
const DEPTH = 64;
/** The longest delay before a try to reconnect while the storage is being closed, in milliseconds. */
const CLOSING_DELAY_MS_MAX = 250;

/**
 * An export of an NBD server as a storage. When the connection is lost, it reconnects, and sends again what was written and
 * not flushed; `NbdStorageOptions` has the limits.
 *
 * @see NetworkBlockDevice/nbd doc/proto.md
 */
export class NbdStorage implements Storage, AsyncDisposable {
  readonly size: number;
  /** From the flags and block sizes of the export. */
  readonly capabilities: Required<Capabilities>;
  /** Writes are refused. */
  readonly readOnly: boolean;

  declare readonly discard?: (offset: number, length: number) => Promise<void>;
  declare readonly writeZeroes?: (offset: number, length: number) => Promise<void>;
  /** What the server says in the context `base:allocation`, of at most 1 GiB. */
  declare readonly blockStatus?: (offset: number, length: number) => Promise<readonly Extent[]>;

  readonly #settings: Settings;
  readonly #properties: ExportProperties;
  readonly #inFlight: InFlight;
  readonly #waiting = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  #connections: readonly Connection[] = [];
  /** When the requests in flight were sent, by cookie, in milliseconds of `performance.now()`; the oldest first. */
  readonly #sent = new Map<bigint, number>();
  #watch: ReturnType<typeof setTimeout> | undefined;
  #tries = 0;
  /** In milliseconds, of `performance.now()`. */
  #connectedAt = 0;
  /** Aborted when no connection is needed any more. */
  readonly #over = new AbortController();
  /** Ends the wait before the next try to reconnect. */
  #wake: (() => void) | undefined;
  #onSettled: (() => void) | undefined;
  #closing: Promise<void> | undefined;
  readonly #deadline = new CloseDeadline((cause) => this.#abandon(cause));

  /**
   * Connects to an export.
   *
   * @throws `INVALID_ARGUMENT` for an option that is not known or has a wrong value, and for an export that does not exist
   * @throws `EOPNOTSUPP` if the server refuses TLS, or a connection without TLS
   * @throws `SYNTAX` if the server does not speak NBD
   * @throws `INVALID_STORAGE` for an export that is not whole blocks, or has 2^53 bytes or more
   * @throws `IO_FAILED` if the server cannot be reached or does not answer; `connect` does not try again
   */
  static async connect(options: NbdStorageOptions): Promise<NbdStorage> {
    const settings = settingsOf(options);
    const { connections, properties } = await dialAll(settings, undefined);
    const storage = new NbdStorage(settings, properties);
    storage.#use(connections, properties);
    return storage;
  }

  private constructor(settings: Settings, properties: ExportProperties) {
    this.#settings = settings;
    this.#properties = properties;
    const { size, capabilities, readOnly } = properties;
    this.size = size;
    this.capabilities = capabilities;
    this.readOnly = readOnly;
    // Without flushes nothing leaves the log, so it keeps ranges only.
    const log = new Unflushed(capabilities.flush ? settings.resendBytesMax : 0);
    this.#inFlight = new InFlight(log, this.#serverProperties(properties, 1));
    if (capabilities.discard) this.discard = (...range) => this.#span('discard', ...range);
    if (capabilities.writeZeroes) {
      this.writeZeroes = (...range) => this.#span('writeZeroes', ...range);
    }
    if (capabilities.blockStatus) this.blockStatus = (...range) => this.#status(...range);
    withText(this, () => `NbdStorage { ${size} bytes, ${this.state} }`);
  }

  /** The state of the connection. */
  get state(): 'connected' | 'reconnecting' | 'failed' | 'closed' {
    if (this.#closing) return 'closed';
    const { phase } = this.#inFlight;
    return phase === 'failed' ? 'failed' : phase === 'down' ? 'reconnecting' : 'connected';
  }

  /**
   * The bytes that were written and answered, and that no flush has covered. They may be lost only if `state` is `failed`;
   * otherwise they are sent again.
   */
  get atRisk(): readonly ByteRange[] {
    return this.#inFlight.atRisk;
  }

  /** The number of open connections. */
  get connections(): number {
    return this.#connections.length;
  }

  /**
   * Reads into a buffer.
   *
   * @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `IO_FAILED` if the server reports an error
   * @throws `CONNECTION_LOST` when the server is lost for good, and `FAILED` from then on
   */
  read(offset: number, into: Uint8Array): Promise<void> {
    const { buffer, byteOffset, length } = into;
    return this.#command({ offset, length }, () => ({
      ...{ op: 'read', offset, length },
      // A view of its own with a fixed length, because the buffer may be resizable.
      into: new Uint8Array(buffer, byteOffset, length),
    }));
  }

  /**
   * Writes a buffer. The data is copied, because it may have to be sent again, so the buffer may be changed at once.
   *
   * @throws as `read`; `READ_ONLY`; `EOPNOTSUPP` for an ordered tag, and for FUA if `capabilities.fua` is false
   */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<void> {
    return this.writev(offset, [data], flags);
  }

  /** Writes several buffers, one after the other in one range. Errors as for `write`. */
  writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Promise<void> {
    const length = totalLength(data);
    const { fua, tag } = flags;
    const refusal = this.#writeRefusal(fua) ?? tagRefusal(tag);
    const copied = (): Command => ({
      ...{ op: 'write', offset, length, fua },
      data: concatBuffers(data),
    });
    return this.#command({ offset, length }, copied, refusal);
  }

  /**
   * Makes everything durable that was answered before.
   *
   * @throws as `read`; `EOPNOTSUPP` if `capabilities.flush` is false, and for an ordered tag; `FLUSH_FAILED` with the bytes
   * at risk
   */
  flush({ tag }: FlushFlags): Promise<void> {
    const refusal = this.capabilities.flush ? tagRefusal(tag) : unsupported('a flush');
    return this.#command(undefined, () => ({ op: 'flush' }), refusal);
  }

  /**
   * Waits for the requests in flight, and after a loss until everything is sent again, then disconnects. It does not flush.
   * It waits for a server that is connected; a server that is away is given up after two seconds, because it may never
   * come back. `timeoutMs` sets another limit. Later calls return the same result, and their limits count, too.
   *
   * @throws `CONNECTION_LOST` if the server was given up: requests in flight have failed, and `atRisk` of the error names the
   * answered bytes that may be lost; `FAILED` with the same if that happened before and no request has reported it
   */
  close(options: NbdCloseOptions = {}): Promise<void> {
    try {
      checkClose(options);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#closing ??= this.#close();
    this.#deadline.limit(options);
    return this.#closing;
  }

  /**
   * Gives the storage up at once: closes the connections, and fails requests in flight with `CONNECTION_LOST`. Nothing is
   * left that keeps a process alive.
   *
   * @returns the answered bytes that no flush has covered, which may be lost
   */
  destroy(): readonly ByteRange[] {
    this.#closing ??= this.#close();
    // The ranges are returned here. Without a call of `close` its rejection would be unhandled.
    this.#closing.catch(() => {});
    this.#abandon(new IoFailedError('the NBD storage was destroyed'));
    return this.atRisk;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // Commands

  #span(op: 'discard' | 'writeZeroes', offset: number, length: number): Promise<void> {
    const range = { offset, length };
    return this.#command(range, () => ({ op, ...range }), this.#writeRefusal(false));
  }

  async #status(offset: number, length: number): Promise<readonly Extent[]> {
    const found: WireExtent[] = [];
    const asked = Math.min(length, SPAN_MAX - (SPAN_MAX % this.capabilities.blockSize));
    const command = { op: 'status', offset, length: asked, found } as const;
    await this.#command({ offset, length }, () => command);
    return inBlocks(found, asked, this.capabilities.blockSize);
  }

  /** @param made makes the command, after all checks */
  #command(
    range: { readonly offset: number; readonly length: number } | undefined,
    made: () => Command,
    refusal?: WriteBarrierError,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#closing) throw new WriteBarrierError('CLOSED', 'the NbdStorage is closed');
      if (range) checkRange(this, range.offset, range.length);
      if (refusal) throw refusal;
      if (range?.length === 0) return resolve();
      this.#waiting.set(this.#inFlight.submit(made()), { resolve, reject });
      this.#pump();
    });
  }

  #writeRefusal(fua: boolean): WriteBarrierError | undefined {
    if (this.readOnly) return new WriteBarrierError('READ_ONLY', 'the export is read-only');
    return fua && !this.capabilities.fua ? unsupported('FUA') : undefined;
  }

  /** Sends the requests that may be sent. */
  #pump(): void {
    this.#answer(this.#inFlight.refusals());
    for (;;) {
      const connection = leastBusy(this.#connections);
      if (!connection) return;
      const request = this.#inFlight.next();
      if (!request) return;
      this.#sent.set(request.cookie, performance.now());
      connection.send(request);
      this.#watch ??= this.#watched();
    }
  }

  /** N6: looks again when the limit of the oldest request is over. */
  #watched(): ReturnType<typeof setTimeout> | undefined {
    const { requestTimeoutMs } = this.#settings;
    if (requestTimeoutMs === Number.POSITIVE_INFINITY) return undefined;
    const [oldest] = this.#sent.values();
    if (oldest === undefined) return undefined;
    const left = oldest + requestTimeoutMs - performance.now();
    if (left <= 0) {
      const what = `the NBD server has not answered a request for ${requestTimeoutMs} ms`;
      this.#lost(new IoFailedError(what));
      return undefined;
    }
    return setTimeout(
      () => {
        this.#watch = undefined;
        this.#watch = this.#watched();
      },
      Math.min(Math.ceil(left), 2 ** 31 - 1),
    );
  }

  #answered({ cookie, command, length, error, message, dropped }: Answer): void {
    // A server that shuts down has not executed the request; its successor may.
    if (error === NBD_ERROR.ESHUTDOWN) {
      this.#lost(serverError(command, error, message));
      return;
    }
    this.#sent.delete(cookie);
    const gone = dropped ? bufferChanged(length) : undefined;
    const failure = error === 0 ? gone : serverError(command, error, message);
    this.#answer(this.#inFlight.answered(cookie, failure));
    this.#pump();
  }

  #answer(settled: readonly Settled[]): void {
    for (const { command, error } of settled) {
      const waiting = this.#waiting.get(command);
      invariant(waiting !== undefined, 'N7: an answer to no command');
      this.#waiting.delete(command);
      if (error) waiting.reject(error);
      else waiting.resolve();
    }
    // N4: a server that answers is alive.
    if (settled.some(({ error }) => !error)) this.#tries = 0;
    if (this.#inFlight.settled) this.#onSettled?.();
  }

  // The connection

  #use(connections: readonly Connection[], properties: ExportProperties): void {
    this.#connections = connections;
    this.#connectedAt = performance.now();
    this.#deadline.back();
    this.#inFlight.connected(this.#serverProperties(properties, connections.length));
    const listener: Listener = {
      answer: (answer) => this.#answered(answer),
      lost: (error) => this.#lost(error),
      drained: () => this.#pump(),
    };
    for (const connection of connections) connection.listen(listener);
    this.#pump();
  }

  #serverProperties({ payloadMax }: ExportProperties, connections: number): ServerProperties {
    const volatile = this.capabilities.cache === 'volatile';
    const restartsMax = this.#settings.triesMax;
    return { volatile, payloadMax, depth: DEPTH * connections, restartsMax };
  }

  /** N1 */
  #lost(error: Error): void {
    if (this.#connections.length === 0) return;
    this.#hangUp();
    const livedMs = performance.now() - this.#connectedAt;
    if (this.#inFlight.requests === 0 && livedMs > this.#settings.delayMsMax) this.#tries = 0; // N4
    this.#settings.observer({ kind: 'lost', error });
    if (this.#over.signal.aborted) return;
    const settled = this.#inFlight.lost(error);
    if (this.#inFlight.phase === 'failed') {
      this.#gaveUp(error, settled);
      return;
    }
    this.#answer(settled);
    if (this.#over.signal.aborted) return;
    if (isViolation(error)) {
      this.#giveUp(error);
      return;
    }
    void this.#reconnect(error);
    if (this.#closing) this.#deadline.lost();
  }

  #hangUp(): void {
    hangUpAll(this.#connections);
    this.#connections = [];
    this.#sent.clear();
    clearTimeout(this.#watch);
    this.#watch = undefined;
  }

  async #reconnect(cause: unknown): Promise<void> {
    const { triesMax, observer } = this.#settings;
    const { signal } = this.#over;
    let last = cause;
    while (this.#tries < triesMax && !(last instanceof AnotherExportError)) {
      const delay = reconnectDelayMs(this.#tries, this.#settings, Math.random());
      this.#tries += 1;
      await this.#pause(this.#closing ? Math.min(delay, CLOSING_DELAY_MS_MAX) : delay);
      if (signal.aborted) return;
      const dialed = await dialAll({ ...this.#settings, signal }, this.#properties).catch(
        (error: unknown) => ({ error }),
      );
      if (signal.aborted) return 'error' in dialed ? undefined : hangUpAll(dialed.connections);
      if ('error' in dialed) {
        last = dialed.error;
        observer({ kind: 'retry', tries: this.#tries, error: last });
        if (signal.aborted) return;
        continue;
      }
      observer({ kind: 'reconnected', resentBytes: bytesIn(this.atRisk) });
      if (signal.aborted) return hangUpAll(dialed.connections);
      this.#use(dialed.connections, dialed.properties);
      return;
    }
    this.#giveUp(last);
  }

  /** Waits until the time is over, or `#wake` is called. */
  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #giveUp(error: unknown): void {
    this.#gaveUp(error, this.#inFlight.fail(error));
  }

  #gaveUp(error: unknown, settled: readonly Settled[]): void {
    this.#settings.observer({ kind: 'failed', error, atRisk: this.atRisk });
    this.#answer(settled);
  }

  // Closing

  async #close(): Promise<void> {
    const failedBefore = this.#inFlight.failure;
    // `#closing` is set after this, so no new command can come.
    await Promise.resolve();
    if (this.#inFlight.phase === 'down') {
      this.#deadline.away();
      this.#wake?.();
    }
    if (!this.#inFlight.settled) {
      await new Promise<void>((resolve) => {
        this.#onSettled = resolve;
      });
    }
    this.#over.abort();
    this.#wake?.();
    clearTimeout(this.#watch);
    await Promise.all(this.#connections.map((connection) => connection.close()));
    this.#connections = [];
    this.#deadline.end();
    const { failure, failureReported } = this.#inFlight;
    if (failure && !failedBefore) throw failure;
    if (failure && failure.atRisk.length > 0 && !failureReported) throw lostBefore(failure);
  }

  /** Gives up everything in flight. Nothing is left that keeps a process alive. */
  #abandon(cause: unknown): void {
    // If it is over, only the end of the sockets is awaited, or the storage was given up before.
    const isOver = this.#over.signal.aborted;
    this.#over.abort();
    this.#wake?.();
    this.#hangUp();
    if (!isOver && !this.#inFlight.failure) this.#giveUp(cause);
  }
}

function leastBusy(connections: readonly Connection[]): Connection | undefined {
  let best: Connection | undefined;
  for (const connection of connections) {
    if (!connection.busy && (!best || connection.awaited < best.awaited)) best = connection;
  }
  return best;
}

/**
 * The extents of a server in whole blocks of ours, which may be larger than its own: a block is a hole, or zero, if all of it is. The
 * last extent may go beyond what was asked for.
 */
function inBlocks(extents: readonly WireExtent[], length: number, blockSize: number): Extent[] {
  const blocks: { length: number; hole: boolean; zero: boolean }[] = [];
  let end = 0;
  const add = (to: number, hole: boolean, zero: boolean): void => {
    if (to <= end) return;
    const last = blocks.at(-1);
    if (last?.hole === hole && last.zero === zero) last.length += to - end;
    else blocks.push({ length: to - end, hole, zero });
    end = to;
  };
  let at = 0;
  for (const extent of extents) {
    const next = Math.min(at + extent.length, length);
    const whole = next - (next % blockSize);
    add(Math.min(Math.ceil(at / blockSize) * blockSize, whole), false, false);
    add(whole, (extent.flags & EXTENT_FLAG.HOLE) !== 0, (extent.flags & EXTENT_FLAG.ZERO) !== 0);
    at = next;
  }
  // A part of a block at the end is known no better.
  add(Math.min(Math.ceil(at / blockSize) * blockSize, length), false, false);
  return blocks;
}

/** N3 */
function isViolation(error: unknown): boolean {
  return WriteBarrierError.is(error) && error.code === 'SYNTAX';
}

function tagRefusal(tag: WriteFlags['tag']): WriteBarrierError | undefined {
  return tag === 'simple' ? undefined : unsupported('ordered tags');
}

function unsupported(what: string): WriteBarrierError {
  return new WriteBarrierError(
    'EOPNOTSUPP',
    `the NBD export does not support ${what}; see its capabilities`,
  );
}
