// What a connection needs of its server.

import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Memory } from './memory.js';
import type { Export, Exports, Limits } from './options.js';
import type { Counters } from './stats.js';
import type { Upgrade } from './tls.js';
import type { Turns } from './turns.js';

/** A socket, or another stream, which has no clock for silence. */
export type Line = Duplex & Partial<Pick<Socket, 'setTimeout'>>;

/** What a connection needs to know. */
export interface ConnectionContext {
  readonly exports: Exports;
  readonly limits: Limits;
  /** What all connections of the server hold together. */
  readonly memory: Memory;
  /** Which of them works next. */
  readonly turns: Turns;
  /** How its members of groups are named. */
  readonly name: string;
  /** Puts TLS on a socket; undefined if the server has no keys. */
  readonly upgrade: Upgrade | undefined;
  /** The socket is a Unix socket. */
  readonly local: boolean;
  readonly counters: Counters;
  /** Whether the maximum number of clients use an export. */
  readonly full: () => boolean;
  readonly onOpen: (name: string, tls: boolean) => void;
  /** A request has ended, with or without an error. */
  readonly onEnded: (target: Export) => void;
  /** Called once, when the socket is closed and no request of this client is at a scheduler any more. */
  readonly onGone: (why: string | undefined) => void;
}
