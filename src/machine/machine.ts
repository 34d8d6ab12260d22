// The main idea of this project as an interface: a machine decides, and a driver carries out.
//
// A machine is a state machine without promises, clocks and I/O. It takes requests, says which command may be issued now, is
// called when a command has completed, and says which requests are settled. Because it does nothing by itself, a test can
// take it through every possible order of events. Promises and storages are the business of the driver (driver.ts).
//
//   submit ─▶ machine ─▶ next() ─▶ the driver issues the command ─▶ complete() ─▶ machine ─▶ takeSettled() ─▶ the caller
//
//   M1  `next` answers undefined while a command must complete first, or when none is left. After every event the driver
//       calls it again until it answers undefined.
//   M2  The driver completes each command that `next` has returned exactly once, with the same object.
//   M3  `takeSettled` returns each request once, in the order of settlement.
//
// `K` is the caller of a request. A machine passes it on and does not look into it.

import type { Request, StagedCommand } from '../model/index.js';

/** A command of a machine, to be carried out once. */
export interface Command<K> {
  /** The command for the storage. Absent for work that is not for a storage, and that no trace has. */
  readonly what?: StagedCommand;
  /** The callers that it serves: several if they share a flush, or if requests were merged; those in the order of their bytes. */
  readonly clients: readonly K[];
}

/** A settled request. */
export interface Settled<K> {
  /** Its caller. */
  readonly client: K;
  /** Why it failed; undefined if it succeeded. */
  readonly error?: unknown;
  /** It was cancelled before anything of it was issued. */
  readonly cancelled?: boolean;
}

/** A state machine that a `Driver` can drive. */
export interface Machine<K, C extends Command<K> = Command<K>, H = unknown> {
  /** Takes a request, which may be settled when this returns. Returns a handle for other methods of the machine, as `cancel`. */
  submit(request: Request, client: K): H;
  /** The next command to issue (M1). */
  next(): C | undefined;
  /**
   * A command has completed (M2).
   *
   * @param error why it failed; undefined if it succeeded
   * @param answer its result, for work that is not for a storage
   */
  complete(command: C, error: unknown, answer?: unknown): void;
  /** The next settled request (M3). */
  takeSettled(): Settled<K> | undefined;
  /** Settles all requests with `error`. No command is completed after it. */
  abandon?(error: unknown): void;
}
