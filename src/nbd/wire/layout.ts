// The layout of messages as data. A layout is a table of fields, and one encoder and one decoder read every table; so what
// a message looks like is said once, for both directions and both sides.
//
// Numbers are big endian. Those of 64 bits are plain numbers here, because offsets are safe integers everywhere in this
// package. What a peer sends may be larger; it is rounded then and stays above every size, so that a comparison with a
// size is still right. Strings are UTF-8 without NUL.
//
// A decoder throws `SYNTAX` at bytes that do not fit the table, and nothing else.
//
// Not here: which messages there are (messages.ts).

import { WriteBarrierError } from 'write-barrier';

/** The longest string, in bytes: a name of an export, a description, a query. */
export const STRING_MAX = 4096;

/** The error for bytes that the protocol does not allow. It ends the connection, or refuses the option. */
export function malformed(what: string): WriteBarrierError {
  return new WriteBarrierError('SYNTAX', `not the NBD protocol: ${what}`);
}

/** How one value stands on the wire. */
export interface Field<T> {
  /** The least that it takes, in bytes. */
  readonly bytes: number;
  /** How much more a value takes; undefined if the size is fixed. */
  readonly more?: ((value: T) => number) | undefined;
  /** Writes a value; returns where it ends. */
  readonly put: (view: DataView, at: number, value: T) => number;
  readonly take: (input: Input) => T;
}

/** Bytes that are decoded, and how far. */
export class Input {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = viewOf(bytes);
  }

  get left(): number {
    return this.bytes.length - this.#at;
  }

  /** Goes to a place, for the next message in the same bytes. */
  seek(at: number): void {
    this.#at = at;
  }

  /** Goes over `length` bytes; answers where they begin. */
  advance(length: number): number {
    const at = this.#at;
    if (length > this.left) throw malformed(`${length} bytes expected, and ${this.left} are left`);
    this.#at = at + length;
    return at;
  }
}

/** A table of fields, in the order of the wire. It is a field itself, so tables nest. */
export interface Layout<T> extends Field<T> {
  /** The bytes of a value, with room for `tail` more after them. */
  readonly encode: (value: T, tail?: number) => Uint8Array;
  /** @throws `SYNTAX` for bytes that are not those of a value, all of them */
  readonly decode: (bytes: Uint8Array) => T;
}

type Fields<T> = { readonly [K in keyof T]-?: Field<T[K]> };

/**
 * Makes a layout.
 *
 * @param what the message is, for errors: `a request`
 * @param fields in the order of the wire
 * @param magic what stands before them
 */
export function layout<T>(
  what: string,
  fields: Fields<T>,
  ...magic: readonly Field<void>[]
): Layout<T> {
  const names = Object.keys(fields) as (keyof T)[];
  const rows = names.map((name) => ({ name, field: fields[name] as Field<T[keyof T]> }));
  const longer = rows.filter(({ field }) => field.more);
  const head = magic.reduce((sum, { bytes }) => sum + bytes, 0);
  const bytes = rows.reduce((sum, { field }) => sum + field.bytes, head);
  const more = (value: T): number => {
    let sum = 0;
    for (const { name, field } of longer) sum += field.more?.(value[name]) ?? 0;
    return sum;
  };
  // By index, because every request and every reply goes through these two loops.
  const put = (view: DataView, start: number, value: T): number => {
    let at = start;
    for (const one of magic) at = one.put(view, at);
    for (let i = 0; i < rows.length; i += 1) {
      const { name, field } = rows[i] as (typeof rows)[number];
      at = field.put(view, at, value[name]);
    }
    return at;
  };
  const take = (input: Input): T => {
    for (const one of magic) one.take(input);
    const value = {} as T;
    for (let i = 0; i < rows.length; i += 1) {
      const { name, field } = rows[i] as (typeof rows)[number];
      value[name] = field.take(input);
    }
    return value;
  };
  return {
    bytes,
    more: longer.length > 0 ? more : undefined,
    put,
    take,
    encode: (value, tail = 0) => {
      const encoded = new Uint8Array(bytes + more(value) + tail);
      put(viewOf(encoded), 0, value);
      return encoded;
    },
    decode: (encoded) => {
      const input = new Input(encoded);
      const value = take(input);
      if (input.left > 0) throw malformed(`${input.left} bytes too many in ${what}`);
      return value;
    },
  };
}

/** How many bytes a value takes. */
export function sizeOf<T>({ bytes, more }: Field<T>, value: T): number {
  return bytes + (more ? more(value) : 0);
}

// Numbers

export const uint16: Field<number> = {
  bytes: 2,
  put: (view, at, value) => {
    view.setUint16(at, value);
    return at + 2;
  },
  take: (input) => input.view.getUint16(input.advance(2)),
};

export const uint32: Field<number> = {
  bytes: 4,
  put: (view, at, value) => {
    view.setUint32(at, value);
    return at + 4;
  },
  take: (input) => input.view.getUint32(input.advance(4)),
};

/** A safe integer. From 2^53 on what is decoded is rounded, and never below 2^53. */
export const uint64: Field<number> = {
  bytes: 8,
  put: (view, at, value) => {
    view.setUint32(at, Math.floor(value / 2 ** 32));
    view.setUint32(at + 4, value >>> 0);
    return at + 8;
  },
  take: (input) => {
    const at = input.advance(8);
    return input.view.getUint32(at) * 2 ** 32 + input.view.getUint32(at + 4);
  },
};

/** 64 bits that are handed back as they came, and mean nothing here. */
export const opaque64: Field<bigint> = {
  bytes: 8,
  put: (view, at, value) => {
    view.setBigUint64(at, value);
    return at + 8;
  },
  take: (input) => input.view.getBigUint64(input.advance(8)),
};

/** A number that is the same in every message of its kind; `otherwise` is the error for any other. */
export function constant<T extends number | bigint>(
  field: Field<T>,
  value: T,
  otherwise: string,
): Field<void> {
  return {
    bytes: field.bytes,
    put: (view, at) => field.put(view, at, value),
    take: (input) => {
      if (field.take(input) !== value) throw malformed(otherwise);
    },
  };
}

/** A number that stands for something else. */
export function mapped<T>(
  field: Field<number>,
  to: (value: T) => number,
  from: (bits: number) => T,
): Field<T> {
  return {
    bytes: field.bytes,
    put: (view, at, value) => field.put(view, at, to(value)),
    take: (input) => from(field.take(input)),
  };
}

// Strings and lists

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

/** Characters up to the end of the message. */
export const text: Field<string> = {
  bytes: 0,
  more: (value) => utf8(value).length,
  put: (view, at, value) =>
    at + encoder.encodeInto(value, new Uint8Array(view.buffer, view.byteOffset + at)).written,
  take: (input) => characters(input, input.left),
};

/** Characters after their number in bytes. */
export function string(count: Field<number>): Field<string> {
  return {
    bytes: count.bytes,
    more: (value) => utf8(value).length,
    put: (view, at, value) => text.put(view, count.put(view, at, utf8(value).length), value),
    take: (input) => {
      const length = count.take(input);
      if (length > STRING_MAX) throw malformed(`a string of ${length} bytes`);
      return characters(input, length);
    },
  };
}

function characters(input: Input, length: number): string {
  const at = input.advance(length);
  return textOf(input.bytes.subarray(at, at + length));
}

/** Values of one kind: after their number, or up to the end of the message where `count` is undefined. */
export function list<T>(count: Field<number> | undefined, item: Field<T>): Field<readonly T[]> {
  return {
    bytes: count?.bytes ?? 0,
    more: (values) => values.reduce((sum, value) => sum + sizeOf(item, value), 0),
    put: (view, start, values) => {
      let at = count?.put(view, start, values.length) ?? start;
      for (const value of values) at = item.put(view, at, value);
      return at;
    },
    take: (input) => {
      // A number that is too large runs out of bytes, because every item has some.
      const most = count?.take(input) ?? Number.POSITIVE_INFINITY;
      const values: T[] = [];
      while (values.length < most && (count || input.left > 0)) values.push(item.take(input));
      return values;
    },
  };
}

// Bytes

export function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}
