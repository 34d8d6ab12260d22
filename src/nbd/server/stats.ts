// What a server counts, and what it says of a client.

import { COMMAND } from '../wire/index.js';
import type { Outcome, SessionRequest } from './commands.js';

/** A client that uses an export. */
export interface NbdServerClient {
  /** The number of the connection, as in the events. */
  readonly connection: number;
  /** The name of the export. */
  readonly export: string;
  /** Requests at the disk, or waiting for their turn there. */
  readonly requestsInFlight: number;
  /** Bytes of its payloads, of the buffers of its requests, and of replies that it has not taken. */
  readonly heldBytes: number;
  /** It is not read, because its share of the memory has no room for its next request. */
  readonly waits: boolean;
}

/** Counters of a server. */
export interface Counters {
  /** Requests that were executed and have ended, with or without an error. */
  requests: number;
  /** Executed requests that failed. */
  failed: number;
  /** Requests that never reached a storage: not legal, not offered, or too late. */
  refusedRequests: number;
  /** Options of the handshake that were refused, for example the choice of an export. */
  refusedOptions: number;
  /** Bytes of successful reads. */
  bytesRead: number;
  /** Bytes of successful writes, without WRITE_ZEROES. */
  bytesWritten: number;
  /** Successful flushes. */
  flushes: number;
}

/** Counts a request that has ended. */
export function count(
  counters: Counters,
  { command, length }: SessionRequest,
  outcome: Outcome,
): void {
  counters.requests += 1;
  if ('error' in outcome) counters.failed += 1;
  else if (command === COMMAND.READ) counters.bytesRead += length;
  else if (command === COMMAND.WRITE) counters.bytesWritten += length;
  else if (command === COMMAND.FLUSH) counters.flushes += 1;
}
