// An NBD export as a Storage. The thin side of the client: promises, sockets and timers around exchange.ts.
//
//   connected ──a connection is lost──▶ reconnecting ──▶ connected
//       │                                   └──too many tries, or another export──▶ failed
//       └──close()──▶ closed
//
// Invariants, tested under these numbers:
//   N1  All connections of a time are one: when one of them is lost, all are closed, and what was sent over any of them
//       counts as unanswered. The server may have been restarted, and that cannot be told from one that was not.
//   N2  Who comes back must be what it was: size, and whatever was relied on. Otherwise nothing is sent, and it fails.
//   N3  A server that breaks the protocol is not tried again: whoever cannot count replies cannot be trusted with data.
//   N4  Tries to reconnect are counted until a command is answered, or a connection has lived for a while with nothing to
//       answer. So a server that dies of what it is sent, or hangs, is given up, too.
//   N5  `close` waits for what is in flight, and does not flush (S10). Then nothing is left of it, no timer and no socket
//       that is being dialed.
//   N6  A connection on which a request has no answer for `requestTimeoutMs` is lost.
//
// What it does not do: tell a server that hangs from one that is slow. TCP connections are kept alive by the system and
// fail when the other side is gone; a server that is there and says nothing is waited for, unless there is a limit (N6).

import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ByteRange,
  type Capabilities,
  checkRange,
  type FlushFlags,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import { type ListedExport, NBD_ERROR } from '../wire/index.js';
import { askForExports, type Connection, openConnection, type Route } from './connection.js';
import { serverError } from './errors.js';
import { type Command, Exchange, type ExchangeTraits, type Settled } from './exchange.js';
import { brokenPromise, type ExportTraits, traitsOf } from './export-traits.js';
import {
  type NbdRouteOptions,
  type NbdStorageOptions,
  type Settings,
  settingsOf,
} from './options.js';
import type { Answer } from './replies.js';
import { ResendLog } from './resend-log.js';

/** How many requests are in flight at one connection. */
const DEPTH = 64;

/** Which exports a server tells of. @throws as `NbdStorage.connect` does */
export function listExports(options: NbdRouteOptions): Promise<readonly ListedExport[]> {
  return askForExports(settingsOf(options));
}

/** An export of an NBD server. See the head of this file, and `NbdStorageOptions`. */
export class NbdStorage implements Storage, AsyncDisposable {
  readonly size: number;
  /** From the flags and block sizes of the export. */
  readonly capabilities: Required<Capabilities>;
  /** Writes are refused. */
  readonly readOnly: boolean;

  declare readonly discard?: (offset: number, length: number) => Promise<void>;
  declare readonly writeZeroes?: (offset: number, length: number) => Promise<void>;

  readonly #settings: Settings;
  readonly #traits: ExportTraits;
  readonly #exchange: Exchange;
  readonly #waiting = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  #connections: readonly Connection[] = [];
  /** Which request went out under a ticket, and when, by `performance.now()`; the oldest one first. */
  readonly #sent = new Map<number, { readonly command: number; readonly at: number }>();
  #watch: ReturnType<typeof setTimeout> | undefined;
  #tries = 0;
  /** In milliseconds, of `performance.now()`. */
  #connectedAt = 0;
  /** Nobody waits for a connection any more. */
  readonly #over = new AbortController();
  #onIdle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  /**
   * Connects to an export.
   *
   * @throws `INVALID_ARGUMENT` for options that make no sense and for an export that the server does not have
   * @throws `EOPNOTSUPP` for what the server refuses, TLS or a connection without it
   * @throws `SYNTAX` for a server that does not speak NBD; `INVALID_STORAGE` for an export of broken blocks
   * @throws `IO_FAILED` for a server that cannot be reached or says nothing; it is not tried again
   */
  static async connect(options: NbdStorageOptions): Promise<NbdStorage> {
    const settings = settingsOf(options);
    const handover = new Handover();
    const { connections, traits } = await dialAll(settings, undefined, handover);
    const storage = new NbdStorage(settings, traits);
    storage.#use(connections, traits, handover);
    return storage;
  }

  private constructor(settings: Settings, traits: ExportTraits) {
    this.#settings = settings;
    this.#traits = traits;
    const { size, capabilities, readOnly } = traits;
    this.size = size;
    this.capabilities = capabilities;
    this.readOnly = readOnly;
    // Without a flush nothing ever leaves the log, so it keeps ranges only.
    const log = new ResendLog(capabilities.flush ? settings.resendBytesMax : 0);
    this.#exchange = new Exchange(log, this.#exchangeTraits(traits, 1));
    if (capabilities.discard) this.discard = (...range) => this.#span('discard', ...range);
    if (capabilities.writeZeroes) {
      this.writeZeroes = (...range) => this.#span('writeZeroes', ...range);
    }
  }

  /** Whether the server is there. */
  get state(): 'connected' | 'reconnecting' | 'failed' | 'closed' {
    if (this.#closed) return 'closed';
    const { phase } = this.#exchange;
    return phase === 'failed' ? 'failed' : phase === 'down' ? 'reconnecting' : 'connected';
  }

  /** What was written and answered, and no flush has covered yet. Only while `failed` is it in danger. */
  get atRisk(): readonly ByteRange[] {
    return this.#exchange.atRisk;
  }

  /** How many connections are open. */
  get connections(): number {
    return this.#connections.length;
  }

  /**
   * @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `IO_FAILED` for what the server failed
   * @throws `CONNECTION_LOST` when the server is lost for good, and `FAILED` from then on
   */
  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#command({ op: 'read', offset, into }, offset, into.length);
  }

  /** Errors as for `read`; `READ_ONLY`; `EOPNOTSUPP` for an ordered tag, and for FUA that is not declared. */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<void> {
    return this.writev(offset, [data], flags);
  }

  /** As `write`, from several buffers. */
  writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Promise<void> {
    const length = data.reduce((sum, bytes) => sum + bytes.length, 0);
    const { fua, tag } = flags;
    const refusal = this.#writeRefusal(fua) ?? tagRefusal(tag);
    return this.#command({ op: 'write', offset, length, data, fua }, offset, length, refusal);
  }

  /**
   * Errors as for `read`; `EOPNOTSUPP` where flushing is not declared, and for an ordered tag; `FLUSH_FAILED` with what is
   * at risk.
   */
  flush({ tag }: FlushFlags): Promise<void> {
    const refusal = this.capabilities.flush ? tagRefusal(tag) : unsupported('a flush');
    return this.#command({ op: 'flush' }, 0, 0, refusal);
  }

  /** Waits for what is in flight, then says goodbye. It does not flush. Later calls answer the same. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // Commands

  #span(op: 'discard' | 'writeZeroes', offset: number, length: number): Promise<void> {
    return this.#command({ op, offset, length }, offset, length, this.#writeRefusal(false));
  }

  #command(
    command: Command,
    offset: number,
    length: number,
    refusal?: WriteBarrierError,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw new WriteBarrierError('CLOSED', 'the NBD storage is closed');
      checkRange(this, offset, length);
      if (refusal) throw refusal;
      if (length === 0 && command.op !== 'flush') return resolve();
      this.#waiting.set(this.#exchange.submit(command), { resolve, reject });
      this.#pump();
    });
  }

  #writeRefusal(fua: boolean): WriteBarrierError | undefined {
    if (this.readOnly) return new WriteBarrierError('READ_ONLY', 'the export is read-only');
    return fua && !this.capabilities.fua ? unsupported('FUA') : undefined;
  }

  /** Sends what may be sent. */
  #pump(): void {
    this.#answer(this.#exchange.refusals());
    for (;;) {
      const connection = leastBusy(this.#connections);
      if (!connection) return;
      const request = this.#exchange.next();
      if (!request) return;
      const { ticket, ...rest } = request;
      this.#sent.set(ticket, { command: rest.command, at: performance.now() });
      connection.send({ ...rest, cookie: BigInt(ticket) });
      this.#watch ??= this.#watched();
    }
  }

  /** N6: looks again when the oldest request has waited too long, if it is the oldest then. */
  #watched(): ReturnType<typeof setTimeout> | undefined {
    const { requestTimeoutMs } = this.#settings;
    if (requestTimeoutMs === Number.POSITIVE_INFINITY) return undefined;
    const [oldest] = this.#sent.values();
    if (!oldest) return undefined;
    const left = oldest.at + requestTimeoutMs - performance.now();
    if (left <= 0) {
      const what = `the NBD server has not answered a request for ${requestTimeoutMs} ms`;
      this.#lost(new WriteBarrierError('IO_FAILED', what));
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

  #answered({ cookie, error, message }: Answer): void {
    const ticket = Number(cookie);
    const command = this.#sent.get(ticket)?.command ?? 0;
    // A server that shuts down has not done it and will not: its successor may.
    if (error === NBD_ERROR.ESHUTDOWN) {
      this.#lost(serverError(command, error, message));
      return;
    }
    this.#sent.delete(ticket);
    const failure = error === 0 ? undefined : serverError(command, error, message);
    this.#answer(this.#exchange.answered(ticket, failure));
    this.#pump();
  }

  #answer(settled: readonly Settled[]): void {
    for (const { command, error } of settled) {
      const waiting = this.#waiting.get(command);
      this.#waiting.delete(command);
      if (error) waiting?.reject(error);
      else waiting?.resolve();
    }
    // N4: whoever has been answered has been served.
    if (settled.some(({ error }) => !error)) this.#tries = 0;
    if (this.#exchange.size === 0) this.#onIdle?.();
  }

  // The connection

  #use(connections: readonly Connection[], traits: ExportTraits, handover: Handover): void {
    this.#connections = connections;
    this.#connectedAt = performance.now();
    this.#exchange.connected(this.#exchangeTraits(traits, connections.length));
    handover.to({
      answer: (answer) => this.#answered(answer),
      lost: (error) => this.#lost(error),
      drained: () => this.#pump(),
    });
    this.#pump();
  }

  #exchangeTraits({ payloadMax }: ExportTraits, connections: number): ExchangeTraits {
    const { cache, flush } = this.capabilities;
    return { volatile: cache === 'volatile', flush, payloadMax, depth: DEPTH * connections };
  }

  /** N1 */
  #lost(error: Error): void {
    if (this.#connections.length === 0) return;
    hangUp(this.#connections);
    this.#connections = [];
    this.#sent.clear();
    clearTimeout(this.#watch);
    this.#watch = undefined;
    const livedMs = performance.now() - this.#connectedAt;
    if (this.#exchange.inFlight === 0 && livedMs > this.#settings.delayMsMax) this.#tries = 0; // N4
    this.#settings.observer({ kind: 'lost', error });
    const settled = this.#exchange.lost(error);
    if (this.#exchange.phase === 'failed') this.#gaveUp(error, settled);
    else if (isViolation(error)) this.#giveUp(error);
    else void this.#reconnect(error);
  }

  async #reconnect(cause: unknown): Promise<void> {
    const { triesMax, delayMs, delayMsMax, observer } = this.#settings;
    const { signal } = this.#over;
    let last = cause;
    while (this.#tries < triesMax && !(last instanceof AnotherExportError)) {
      const handover = new Handover();
      const delay = Math.min(delayMs * 2 ** this.#tries, delayMsMax);
      this.#tries += 1;
      const dialed = await sleep(delay, undefined, { signal })
        .then(() => dialAll({ ...this.#settings, signal }, this.#traits, handover))
        .catch((error: unknown) => ({ error }));
      if (signal.aborted) return 'error' in dialed ? undefined : hangUp(dialed.connections);
      if ('error' in dialed) {
        last = dialed.error;
        observer({ kind: 'retry', tries: this.#tries, error: last });
        continue;
      }
      const resent = this.atRisk.reduce((sum, { start, end }) => sum + (end - start), 0);
      observer({ kind: 'reconnected', resentBytes: resent });
      this.#use(dialed.connections, dialed.traits, handover);
      return;
    }
    this.#giveUp(last);
  }

  #giveUp(error: unknown): void {
    this.#gaveUp(error, this.#exchange.fail(error));
  }

  #gaveUp(error: unknown, settled: readonly Settled[]): void {
    this.#settings.observer({ kind: 'failed', error, atRisk: this.atRisk });
    this.#answer(settled);
  }

  async #close(): Promise<void> {
    // After `#closed` is set, so that nothing new can come.
    await Promise.resolve();
    if (this.#exchange.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
    this.#over.abort();
    clearTimeout(this.#watch);
    const connections = this.#connections;
    this.#connections = [];
    await Promise.all(connections.map((connection) => connection.close()));
  }
}

/** N2 */
class AnotherExportError extends WriteBarrierError {
  constructor(what: string) {
    super('INVALID_STORAGE', `the server came back with another export: ${what}`);
  }
}

/** Keeps what is heard of connections until somebody listens. */
class Handover {
  #listener: Parameters<typeof openConnection>[2] | undefined;
  #lost: Error | undefined;

  to(listener: Parameters<typeof openConnection>[2]): void {
    this.#listener = listener;
    if (this.#lost) listener.lost(this.#lost);
  }

  answer(answer: Answer): void {
    this.#listener?.answer(answer);
  }

  lost(error: Error): void {
    if (this.#listener) this.#listener.lost(error);
    else this.#lost = error;
  }

  drained(): void {
    this.#listener?.drained();
  }
}

/** Opens the connections, as many as are wanted and allowed, and to be had. */
async function dialAll(
  settings: Settings & Pick<Route, 'signal'>,
  before: ExportTraits | undefined,
  handover: Handover,
): Promise<{ readonly connections: readonly Connection[]; readonly traits: ExportTraits }> {
  const dial = (): Promise<Connection> => openConnection(settings, settings.export, handover);
  const connections = [await dial()];
  try {
    const [first] = connections as [Connection];
    const traits = checked(first, settings, before);
    while (traits.multiConn && connections.length < settings.connections) {
      // A server may have fewer places than we want, and one is enough.
      const next = await dial().catch(() => undefined);
      if (!next) break;
      connections.push(next);
      checked(next, settings, traits);
    }
    return { connections, traits };
  } catch (error) {
    hangUp(connections);
    throw error;
  }
}

function hangUp(connections: readonly Connection[]): void {
  for (const connection of connections) connection.destroy();
}

function checked(
  { export: facts }: Connection,
  { blockSize, cache }: Settings,
  before: ExportTraits | undefined,
): ExportTraits {
  if (!before) return traitsOf(facts, { blockSize, cache });
  let broken: string | undefined;
  try {
    const traits = traitsOf(facts, { blockSize: before.capabilities.blockSize, cache });
    broken = brokenPromise(before, traits);
    if (broken === undefined) return traits;
  } catch (error) {
    broken = error instanceof Error ? error.message : String(error);
  }
  throw new AnotherExportError(broken);
}

function leastBusy(connections: readonly Connection[]): Connection | undefined {
  let best: Connection | undefined;
  for (const connection of connections) {
    if (!connection.busy && (!best || connection.awaited < best.awaited)) best = connection;
  }
  return best;
}

/** N3 */
function isViolation(error: unknown): boolean {
  return WriteBarrierError.is(error) && error.code === 'SYNTAX';
}

function tagRefusal(tag: WriteFlags['tag']): WriteBarrierError | undefined {
  return tag === 'simple' ? undefined : unsupported('ordered tags');
}

function unsupported(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `the NBD export has not declared ${what}`);
}
