// The public server: it listens, counts its clients, and closes.
//
//   new ──listen()──▶ listening ──close()──▶ closing ──all drained, flushed, gone──▶ closed
//
// Closing: no client is accepted any more. Requests in flight are completed and answered, later ones are answered with
// ESHUTDOWN; every export is flushed; then the connections end. So every write that was answered to a client is
// durable when `close` has settled. Storages and schedulers stay open, because the caller opened them.
//
// Connections without an export are counted apart from those with one, so that strangers who only connect take no place
// from clients. One too many of them closes the oldest, because a real client chooses an export within a few round trips.
// A connection that has proved in TLS that it has a key does not give way to strangers.
//
// Not here: one client (connection.ts), what is promised about an export (options.ts), addresses (listen.ts).

import { Duplex } from 'node:stream';
import { type ByteRange, type IoScheduler, WriteBarrierError } from 'write-barrier';
import { formatValue, misuse, withText } from 'write-barrier/kit';
import { observed } from '../report.js';
import { flushed } from './commands.js';
import { Connection } from './connection.js';
import type { Line } from './context.js';
import { type Listening, listenOn, type NbdAddress, type NbdListenOptions } from './listen.js';
import { Memory } from './memory.js';
import {
  canFlush,
  checkServerOptions,
  type Export,
  type Exports,
  exportsOf,
  type Limits,
  limitsOf,
  type NbdServerEvent,
  type NbdServerOptions,
} from './options.js';
import type { Counters, NbdServerClient } from './stats.js';
import { type Upgrade, upgradeWith } from './tls.js';
import { Turns } from './turns.js';

/** How long a request may hold memory that others wait for, in milliseconds (memory.M4): 3 MiB a second for the largest. */
const LARGE_MS = 10_000;

/** What a server does and has done. */
export interface NbdServerStats extends Readonly<Counters> {
  /** Open connections, with an export or without. */
  readonly connections: number;
  /** Open connections that have not chosen an export. */
  readonly handshakes: number;
  /** Connections since the server was made. */
  readonly accepted: number;
  /** Connections that gave way to newer ones during the handshake. */
  readonly displaced: number;
  /** Bytes that all connections hold, of `limits.totalBytes`. */
  readonly heldBytes: number;
  /** The clients that use an export, in the order in which they connected: who holds what. */
  readonly clients: readonly NbdServerClient[];
  /** Exports of which a flush failed, and that were not recovered since. */
  readonly failedExports: readonly string[];
}

/**
 * Exports storages over NBD, the network block device protocol of Linux, QEMU, libnbd and others.
 *
 * What a client is offered follows from `capabilities`: no flush is promised that the storage cannot do. A FLUSH is
 * answered when everything that was answered before it, on any connection, is durable; a write with FUA when its data
 * is durable.
 *
 * @see NetworkBlockDevice/nbd doc/proto.md
 */
export class NbdServer implements AsyncDisposable {
  readonly #exports: Exports;
  readonly #limits: Limits;
  readonly #upgrade: Upgrade | undefined;
  readonly #observer: (event: NbdServerEvent) => void;
  readonly #listeners = new Set<Listening>();
  readonly #memory: Memory;
  readonly #turns = new Turns();
  /** In the order in which they came, with their exports. */
  readonly #connections = new Map<Connection, { readonly connection: number; export?: string }>();
  readonly #counters: Counters = {
    requests: 0,
    failed: 0,
    refusedRequests: 0,
    refusedOptions: 0,
    bytesRead: 0,
    bytesWritten: 0,
    flushes: 0,
  };
  /** Schedulers whose failure was reported to the observer. */
  readonly #failed = new Set<IoScheduler>();
  #accepted = 0;
  #displaced = 0;
  #opened = 0;
  #closing: Promise<void> | undefined;
  #onEmpty: (() => void) | undefined;

  /**
   * @throws `INVALID_ARGUMENT` for an option that is not known or has a wrong value
   * @throws `INVALID_STORAGE` for a storage that contradicts itself
   */
  constructor(options: NbdServerOptions) {
    checkServerOptions(options);
    this.#limits = limitsOf(options.limits);
    this.#memory = new Memory({ ...this.#limits, largeMs: LARGE_MS });
    this.#exports = exportsOf(options, this.#limits);
    this.#upgrade = options.tls === undefined ? undefined : upgradeWith(options.tls);
    this.#observer = observed(options.observer, 'an NbdServer');
    const text = (): string =>
      `NbdServer { ${this.#exports.size} exports, ${this.stats().connections} connections }`;
    withText(this, text);
  }

  /**
   * Listens on a Unix socket, a TCP port, or a socket that another program has opened. May be called for several addresses.
   *
   * @throws `CLOSED` after `close`
   * @throws `INVALID_ARGUMENT` for a wrong address, and for one of another machine without `allowRemote`
   * @throws `IO_FAILED` where the system refuses; `cause.code` says why
   */
  async listen(options: NbdListenOptions): Promise<NbdAddress> {
    if (this.#closing) throw new WriteBarrierError('CLOSED', 'the server is closed');
    const listening = await listenOn(options, (socket, local) => this.#accept(socket, local));
    // `close` was called while it did not listen yet.
    if (this.#closing) {
      await listening.stop();
      throw new WriteBarrierError('CLOSED', 'the server is closed');
    }
    this.#listeners.add(listening);
    return listening.address;
  }

  /**
   * Serves a client on a stream that is connected already: a socket of a tunnel, a channel of ssh, the standard input and output of
   * a process as one stream. The stream belongs to the server from now on. A socket needs `allowHalfOpen: true`, because a client
   * that closes its sending side still waits for replies. The limits `payloadMs` and `idleMs` hold for sockets only.
   *
   * @throws `CLOSED` after `close`
   * @throws `INVALID_ARGUMENT` for what is not a connected duplex stream
   */
  serve(stream: Duplex): void {
    if (!(stream instanceof Duplex) || stream.destroyed || stream.readableObjectMode) {
      throw misuse(`stream must be a connected Duplex stream of bytes, not ${formatValue(stream)}`);
    }
    if (this.#closing) throw new WriteBarrierError('CLOSED', 'the server is closed');
    this.#accept(stream, false);
  }

  /** What the server does and has done. */
  stats(): NbdServerStats {
    const connections = this.#connections.size;
    return {
      ...this.#counters,
      connections,
      handshakes: connections - this.#opened,
      accepted: this.#accepted,
      displaced: this.#displaced,
      heldBytes: this.#memory.held,
      clients: [...this.#connections].flatMap(([{ holds }, { connection, export: name }]) =>
        name === undefined ? [] : [{ connection, export: name, ...holds }],
      ),
      failedExports: [...this.#exports]
        .filter(([, { scheduler }]) => scheduler.state === 'failed')
        .map(([name]) => name),
    };
  }

  /**
   * Serves an export again after a failed flush. Resolves with the bytes at risk: every flush fails until they are written
   * again, from a source that has them. A `FileStorage` fails all flushes after the first failure, so open it again
   * instead. Exports of one storage recover together.
   *
   * @param name of the export
   * @throws `INVALID_ARGUMENT` for a name that is not exported, `CLOSED` if its scheduler is closed
   */
  async recover(name: string): Promise<readonly ByteRange[]> {
    const target = this.#exports.get(name);
    if (!target) {
      throw misuse(`name must be an export of this server, not ${formatValue(name)}`);
    }
    const atRisk = await target.scheduler.recover();
    this.#look(target);
    return atRisk;
  }

  /**
   * Accepts no more clients, completes and answers the requests in flight, flushes every export, and ends the
   * connections. It does not close the storages.
   *
   * @throws `FLUSH_FAILED`, `FAILED` if a last flush failed; the connections have ended nevertheless
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #accept(socket: Line, local: boolean): void {
    if (this.#closing) {
      socket.on('error', () => {});
      socket.destroy();
      return;
    }
    this.#makeRoom();
    const connection = this.#accepted++;
    this.#observer({ kind: 'connected', connection });
    const known: { connection: number; export?: string } = { connection };
    const served = new Connection(socket, {
      memory: this.#memory,
      turns: this.#turns,
      name: `connection ${connection}`,
      exports: this.#exports,
      limits: this.#limits,
      upgrade: this.#upgrade,
      local,
      counters: this.#counters,
      full: () => this.#opened >= this.#limits.connections,
      onOpen: (name, tls) => {
        this.#opened += 1;
        known.export = name;
        this.#observer({ kind: 'opened', connection, export: name, tls });
      },
      onEnded: (target) => this.#look(target),
      onGone: (why) => {
        this.#connections.delete(served);
        if (served.open) this.#opened -= 1;
        this.#observer({ kind: 'ended', connection, why });
        if (this.#connections.size === 0) this.#onEmpty?.();
      },
    });
    this.#connections.set(served, known);
  }

  /** Reports when an export fails, and when it has recovered. */
  #look({ scheduler }: Export): void {
    const failed = scheduler.state === 'failed';
    if (failed === this.#failed.has(scheduler)) return;
    if (failed) this.#failed.add(scheduler);
    else this.#failed.delete(scheduler);
    for (const [name, target] of this.#exports) {
      if (target.scheduler !== scheduler) continue;
      if (failed) this.#observer({ kind: 'failed', export: name, atRisk: scheduler.atRisk });
      else this.#observer({ kind: 'recovered', export: name });
    }
  }

  /** Closes a connection if one more in the handshake would be too many. */
  #makeRoom(): void {
    if (this.#connections.size - this.#opened < this.#limits.handshakes) return;
    // In the order in which they came.
    const waiting = [...this.#connections.keys()].filter(({ open, ending }) => !open && !ending);
    if (waiting.length < this.#limits.handshakes) return;
    const oldest = waiting.find(({ proved }) => !proved) ?? waiting[0];
    this.#displaced += 1;
    oldest?.giveWay();
  }

  async #close(): Promise<void> {
    const stopped = [...this.#listeners].map((listening) => listening.stop());
    await Promise.all([...this.#connections.keys()].map((connection) => connection.drain()));
    const schedulers = new Set(
      [...this.#exports.values()]
        .filter((target) => !target.readOnly && canFlush(target))
        .map(({ scheduler }) => scheduler)
        .filter(({ state }) => state !== 'closed'),
    );
    const flushes = await Promise.allSettled([...schedulers].map(flushed));
    for (const target of this.#exports.values()) this.#look(target);
    const empty = new Promise<void>((resolve) => {
      this.#onEmpty = resolve;
      if (this.#connections.size === 0) resolve();
    });
    for (const connection of this.#connections.keys()) connection.end(this.#limits.closeMs);
    await Promise.all([empty, ...stopped]);
    for (const flush of flushes) if (flush.status === 'rejected') throw flush.reason;
  }
}
