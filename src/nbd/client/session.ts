// One connection of the client, without its socket: bytes in, events out.
//
//   handshake ──ready──▶ transmission ──ended, failed──▶ over
//           └──listed──────────────────────────────────────┘
//
// Nothing here throws, whatever a server sends: what is malformed is the event `failed`, the last one. The bytes that
// it holds are bounded by what handshake.ts and replies.ts ever wait for in one piece, because whatever comes is fed to
// them in portions and used up.
//
// Invariants, tested under these numbers:
//   C1  After `failed`, `listed` or `ended` there are no more events, and bytes are not looked at.
//   C2  A cut at any place in the stream changes nothing but when the events come.
//   C3  An answer is to a request that was made, and comes once (replies.ts).
//
// Not here: sockets, TLS itself, time, and what to do when a connection is lost (exchange.ts).

import { WriteBarrierError } from 'write-barrier';
import {
  ByteReader,
  COMMAND,
  encodeRequest,
  type ListedExport,
  type NbdRequest,
} from '../wire/index.js';
import { ClientHandshake, type HandshakePlan, type NbdExport } from './handshake.js';
import { type Answer, Replies } from './replies.js';

/** What comes of bytes. */
export type ClientEvent =
  /** To be sent, in order. */
  | { readonly kind: 'send'; readonly bytes: Uint8Array }
  /** Secure the connection, then call `secured`. */
  | { readonly kind: 'startTls' }
  | { readonly kind: 'listed'; readonly exports: readonly ListedExport[] }
  /** Requests may be made. */
  | { readonly kind: 'ready'; readonly export: NbdExport }
  | { readonly kind: 'answer'; readonly answer: Answer }
  /** The connection is of no more use; `SYNTAX` where the server has broken the protocol. */
  | { readonly kind: 'failed'; readonly error: WriteBarrierError };

/** A request, with what it carries. */
export interface ClientRequest extends NbdRequest {
  /** What a write carries; as long as `length` together. */
  readonly payload?: readonly Uint8Array[];
  /** Where a read goes; as long as `length`. */
  readonly into?: Uint8Array;
}

/** Bytes are looked at in portions of this size. */
const PORTION = 64 * 1024;

/** See the head of this file. */
export class ClientSession {
  readonly #handshake: ClientHandshake;
  readonly #reader = new ByteReader(2 * PORTION);
  #replies: Replies | undefined;
  #over = false;

  constructor(plan: HandshakePlan) {
    this.#handshake = new ClientHandshake(plan);
  }

  /** How many requests have no answer yet. */
  get awaited(): number {
    return this.#replies?.size ?? 0;
  }

  /** Bytes have come. They are not copied where they are many: leave them alone. */
  receive(bytes: Uint8Array): readonly ClientEvent[] {
    const events: ClientEvent[] = [];
    this.#guarded(events, () => {
      for (let at = 0; at < bytes.length && !this.#over; at += PORTION) {
        this.#reader.push(bytes.subarray(at, at + PORTION));
        this.#drain(events);
      }
    });
    return events;
  }

  /** The connection that `startTls` asked for is secure. */
  secured(): readonly ClientEvent[] {
    const events: ClientEvent[] = [];
    this.#guarded(events, () => events.push(...this.#handshake.secured()));
    return events;
  }

  /** The server has hung up. */
  ended(): readonly ClientEvent[] {
    if (this.#over) return [];
    this.#over = true;
    const error = new WriteBarrierError('IO_FAILED', 'the NBD server has closed the connection');
    return [{ kind: 'failed', error }];
  }

  /**
   * The bytes of a request, whose answer is awaited from now on. Only after `ready`, and with a cookie that no request
   * without an answer has.
   */
  request(request: ClientRequest): readonly Uint8Array[] {
    const { command, offset, length, into, payload = [] } = request;
    if (command !== COMMAND.DISC) {
      this.#replies?.expect(request.cookie, { command, offset, length, ...(into && { into }) });
    }
    return [encodeRequest(request), ...payload];
  }

  #drain(events: ClientEvent[]): void {
    while (!this.#over) {
      if (this.#replies) {
        const answer = this.#replies.advance(this.#reader);
        if (!answer) return;
        events.push({ kind: 'answer', answer });
        continue;
      }
      const steps = this.#handshake.advance(this.#reader);
      if (!steps) return;
      for (const step of steps) {
        events.push(step);
        if (step.kind === 'ready') this.#replies = new Replies(step.export.structured);
        if (step.kind === 'listed') this.#over = true;
      }
    }
  }

  /** The codec throws at what is malformed, and only here is that caught. */
  #guarded(events: ClientEvent[], run: () => void): void {
    if (this.#over) return;
    try {
      run();
    } catch (error) {
      this.#over = true;
      if (!WriteBarrierError.is(error)) throw error;
      events.push({ kind: 'failed', error });
    }
  }
}
