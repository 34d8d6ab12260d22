// The server that users hold: it listens, counts its clients, and takes its leave.
//
//   new ──listen()──▶ listening ──close()──▶ closing ──all drained, flushed, gone──▶ closed
//
// Closing: nobody is let in any more; what is under way is completed and answered, and whatever comes later is answered
// with ESHUTDOWN; every export is flushed; then the connections end. So when `close` has settled, all that any client
// was told is done is durable. Storages and schedulers stay open: who opened them closes them.
//
// Not here: one client (connection.ts), what is promised about an export (exports.ts), addresses (listen.ts).

import { createServer, type Server, type Socket } from 'node:net';
import { WriteBarrierError } from 'write-barrier';
import { flushed } from './carry-out.js';
import { Connection, type Counters } from './connection.js';
import { canFlush, type Exports, exportsOf } from './exports.js';
import { listenOn, type NbdAddress, type NbdListenOptions } from './listen.js';
import { type Limits, limitsOf, type NbdServerEvent, type NbdServerOptions } from './options.js';
import { type Upgrade, upgradeWith } from './tls.js';

/** What a server does, and has done. */
export interface NbdServerStats extends Readonly<Counters> {
  /** Clients that are connected. */
  readonly connections: number;
  /** Clients that ever were; who came beyond the limit does not count. */
  readonly accepted: number;
}

/**
 * Exports storages over NBD, the network block device protocol of Linux, QEMU, libnbd and others.
 *
 * What a client is offered follows from `capabilities`: no flush is promised that the storage cannot do. A FLUSH is
 * answered when whatever was answered before it, on any connection, is durable; a write with FUA when its data is.
 *
 * @see NetworkBlockDevice/nbd doc/proto.md
 */
export class NbdServer implements AsyncDisposable {
  readonly #exports: Exports;
  readonly #limits: Limits;
  readonly #upgrade: Upgrade | undefined;
  readonly #observer: (event: NbdServerEvent) => void;
  readonly #listeners = new Set<Server>();
  readonly #connections = new Map<Connection, Promise<void>>();
  readonly #counters: Counters = {
    requests: 0,
    failed: 0,
    bytesRead: 0,
    bytesWritten: 0,
    flushes: 0,
  };
  #accepted = 0;
  #closing: Promise<void> | undefined;

  /**
   * @throws `INVALID_ARGUMENT` for options that make no sense
   * @throws `INVALID_STORAGE` for a storage that contradicts itself
   */
  constructor(options: NbdServerOptions) {
    this.#limits = limitsOf(options.limits);
    this.#exports = exportsOf(options, this.#limits);
    this.#upgrade = options.tls && upgradeWith(options.tls);
    this.#observer = options.observer ?? (() => {});
  }

  /**
   * Listens on a unix socket, or on a port. May be called for several addresses.
   *
   * @throws `CLOSED` after `close`
   * @throws `INVALID_ARGUMENT` for an address that is none, or is not of this machine and was not allowed
   * @throws `IO_FAILED` where the system refuses; `cause.code` says why
   */
  async listen(options: NbdListenOptions): Promise<NbdAddress> {
    if (this.#closing) throw new WriteBarrierError('CLOSED', 'the server is closed');
    const listener = createServer({ noDelay: true, keepAlive: true }, (socket) =>
      this.#accept(socket),
    );
    const address = await listenOn(listener, options);
    // While it was asked to close, it was not listening yet.
    if (this.#closing) {
      listener.close();
      throw new WriteBarrierError('CLOSED', 'the server is closed');
    }
    listener.on('error', () => {}); // A client that could not be accepted; it has heard of it.
    this.#listeners.add(listener);
    return address;
  }

  /** What it does, and has done. */
  stats(): NbdServerStats {
    return { ...this.#counters, connections: this.#connections.size, accepted: this.#accepted };
  }

  /**
   * Lets nobody in any more, completes and answers what is under way, flushes every export, and ends the connections.
   * It does not close the storages.
   *
   * @throws `FLUSH_FAILED`, `FAILED` where a last flush failed; the connections have ended all the same
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #accept(socket: Socket): void {
    if (this.#closing || this.#connections.size >= this.#limits.connections) {
      socket.on('error', () => {});
      socket.destroy();
      return;
    }
    const connection = this.#accepted++;
    this.#observer({ kind: 'connected', connection });
    let onGone = (): void => {};
    const gone = new Promise<void>((resolve) => {
      onGone = resolve;
    });
    const served = new Connection(socket, {
      exports: this.#exports,
      limits: this.#limits,
      upgrade: this.#upgrade,
      counters: this.#counters,
      onOpen: (name, tls) => this.#observer({ kind: 'opened', connection, export: name, tls }),
      onGone: (why) => {
        this.#connections.delete(served);
        this.#observer({ kind: 'ended', connection, why });
        onGone();
      },
    });
    this.#connections.set(served, gone);
  }

  async #close(): Promise<void> {
    const stopped = [...this.#listeners].map(
      (listener) => new Promise<void>((resolve) => listener.close(() => resolve())),
    );
    await Promise.all([...this.#connections.keys()].map((connection) => connection.drain()));
    const schedulers = new Set(
      [...this.#exports.values()]
        .filter((target) => !target.readOnly && canFlush(target))
        .map(({ scheduler }) => scheduler)
        .filter(({ state }) => state !== 'closed'),
    );
    const flushes = await Promise.allSettled([...schedulers].map(flushed));
    const gone = [...this.#connections.values()];
    for (const connection of this.#connections.keys()) connection.end(this.#limits.closeMs);
    await Promise.all([...gone, ...stopped]);
    for (const flush of flushes) if (flush.status === 'rejected') throw flush.reason;
  }
}
