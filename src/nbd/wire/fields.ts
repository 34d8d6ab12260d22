// Fields of fixed width, big endian, as the protocol has them; and what is thrown where bytes are not what they
// should be.
//
// Numbers of 64 bits are plain numbers here. Those that this side makes are safe integers; of what comes from the other
// side whatever is too large stays too large, so that a comparison with a size is right. Strings are UTF-8 without NUL.
//
// Not here: which fields a message has (handshake.ts, transmission.ts).

import { WriteBarrierError } from 'write-barrier';

/** Bytes that the protocol does not allow. Whoever catches it ends the connection, or refuses the option. */
export function malformed(what: string): WriteBarrierError {
  return new WriteBarrierError('SYNTAX', `not the NBD protocol: ${what}`);
}

export function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** New bytes, filled in through a view. */
export function bytesOf(length: number, fill: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(length);
  fill(viewOf(bytes));
  return bytes;
}

/** `value` is a safe integer, at least 0. */
export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value >>> 0);
}

/**
 * From 2^53 on the answer is rounded and not a safe integer. It is never below 2^53 then, so a comparison with a
 * size is right, and no storage is that large.
 */
export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** @throws `SYNTAX` for bytes that are not UTF-8, or hold a NUL */
export function textOf(bytes: Uint8Array): string {
  let text: string;
  try {
    text = decoder.decode(bytes);
  } catch {
    throw malformed('a string is not UTF-8');
  }
  if (text.includes('\0')) throw malformed('a string holds a NUL');
  return text;
}

/** Reads fields one after another; what is not there is malformed. */
export class FieldReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  uint16(): number {
    return this.#view.getUint16(this.#next(2));
  }

  uint32(): number {
    return this.#view.getUint32(this.#next(4));
  }

  uint64(): number {
    return getUint64(this.#view, this.#next(8));
  }

  /** A string of `length` bytes, all that is left unless given. */
  text(length: number = this.left): string {
    const at = this.#next(length);
    return textOf(this.#bytes.subarray(at, at + length));
  }

  /** @throws `SYNTAX` where something is left */
  end(what: string): void {
    if (this.left > 0) throw malformed(`${this.left} bytes too many in ${what}`);
  }

  #next(length: number): number {
    const at = this.#at;
    if (length > this.left) throw malformed(`${length} bytes expected, ${this.left} there`);
    this.#at = at + length;
    return at;
  }
}

/** Puts pieces one after another: numbers as 32 bits, strings and bytes as they are. */
export function packed(...pieces: readonly (number | string | Uint8Array)[]): Uint8Array {
  const parts = pieces.map((piece) =>
    typeof piece === 'number'
      ? bytesOf(4, (view) => view.setUint32(0, piece))
      : typeof piece === 'string'
        ? utf8(piece)
        : piece,
  );
  return joined(
    parts,
    parts.reduce((sum, { length }) => sum + length, 0),
  );
}

/** A copy of `length` bytes in memory of its own, which a `Buffer.concat` is not. */
export function joined(list: readonly Uint8Array[], length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of list) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
