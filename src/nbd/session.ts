// What both sides of a connection have in common: bytes in, events out, without a socket. Nothing here depends on the
// side; what a message is, and what follows from it, is in server/session.ts and client/session.ts.
//
//   open ◀──secured── securing       open, securing ──end──▶ ended
//     └────startTls──────▲
//
// A driver feeds bytes with `receive`, and asks with `next` until there is nothing. It may stop asking: then the rest
// waits as bytes. A driver that also stops reading the socket so bounds the memory that its peer can make it use.
//
// Invariants:
//   D1  `end` is the last event, and there is one. Bytes that come after it are ignored.
//   D2  Malformed bytes end the session; they never make `receive` or `next` throw. Only a defect of this package does.
//   D3  Between STARTTLS and TLS no byte is accepted, because an attacker on the line may have sent it.
//   D4  Where the stream is cut changes when events come, and nothing else.
//
// Source: the rule of h11, that a protocol is a machine which does no I/O, and that both roles run the same machine.

import { IoFailedError, WriteBarrierError } from 'write-barrier';
import { invariant } from 'write-barrier/kit';
import { ByteReader, malformed } from './wire/index.js';

/** The events of both sides. */
export type SharedEvent =
  | {
      /** For the peer, in order. */
      readonly kind: 'send';
      readonly parts: readonly Uint8Array[];
      /** What these bytes refuse; undefined where they refuse nothing. */
      readonly refuses?: 'option' | 'request' | undefined;
    }
  /** What was sent so far goes in plain text, everything after it through TLS. Call `secured` when TLS is up. */
  | { readonly kind: 'startTls' }
  /** `reason` is undefined if the session ended as the protocol wants it; `SYNTAX` if the peer broke the protocol. */
  | { readonly kind: 'end'; readonly reason: WriteBarrierError | undefined };

/** The part of a session that does not know its side: what the driver of a socket feeds and asks. */
export class Dialogue<Event> {
  readonly #peer: string;
  readonly #advance: (input: ByteReader) => boolean;
  readonly #input: ByteReader;
  readonly #events: (Event | SharedEvent)[] = [];
  #state: 'open' | 'securing' | 'ended' = 'open';
  #inputEnded = false;

  /**
   * @param peer what the other side is called in messages
   * @param advance takes one message out of the input and emits what comes of it; false while it is not there as a whole
   * @param capacity the most that `receive` may add to what was not asked for, in bytes
   */
  constructor(peer: string, advance: (input: ByteReader) => boolean, capacity: number) {
    this.#peer = peer;
    this.#advance = advance;
    this.#input = new ByteReader(capacity);
  }

  /** Bytes that came and were not asked for. */
  get unread(): number {
    return this.#input.length;
  }

  get ended(): boolean {
    return this.#state === 'ended';
  }

  /** Whether events wait to be asked for. */
  get pending(): boolean {
    return this.#events.length > 0;
  }

  /** Bytes came. They belong to the session from now on, because long ones are not copied. */
  receive(bytes: Uint8Array): void {
    if (this.#state === 'open') this.#input.push(bytes);
    else if (this.#state === 'securing' && bytes.length > 0) this.end(malformed(BEFORE_TLS));
  }

  /** The peer sends no more. The session ends when what it sent has been asked for. */
  receiveEnd(): void {
    this.#inputEnded = true;
  }

  /** TLS is up: bytes that come from now on came through it. */
  secured(): void {
    if (this.#state === 'securing') this.#state = 'open';
  }

  /** What to do next; undefined until more bytes come. */
  next(): Event | SharedEvent | undefined {
    for (;;) {
      const event = this.#events.shift();
      if (event || this.#state === 'ended') return event;
      if (this.#state === 'open' && this.#step()) continue;
      if (!this.#inputEnded) return undefined;
      this.end(new IoFailedError(`the ${this.#peer} has closed the connection`));
    }
  }

  // For the side

  emit(event: Event | SharedEvent): void {
    invariant(this.#state !== 'ended', 'D1: an event after the end');
    this.#events.push(event);
  }

  /** Asks the driver for TLS. */
  startTls(): void {
    invariant(this.#state === 'open', 'D3: STARTTLS when TLS was asked for already');
    this.#state = 'securing';
    if (this.unread > 0) this.end(malformed(BEFORE_TLS));
    else this.emit({ kind: 'startTls' });
  }

  end(reason: WriteBarrierError | undefined): void {
    if (this.#state === 'ended') return;
    this.emit({ kind: 'end', reason });
    this.#state = 'ended';
    this.#input.skip(this.unread);
  }

  #step(): boolean {
    try {
      return this.#advance(this.#input);
    } catch (error) {
      if (!WriteBarrierError.is(error)) {
        this.#state = 'ended';
        throw error;
      }
      this.end(error);
      return true;
    }
  }
}

const BEFORE_TLS = 'bytes between STARTTLS and TLS';
