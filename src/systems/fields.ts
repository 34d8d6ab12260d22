// Structures on the wire as tables of fields, and the one encoder and decoder over them.
//
//   - What is to be sent is checked: a number that its field cannot hold is a mistake of the program.
//   - What has come is described and not judged: a field beyond the end of the bytes is 0.
//   - Fields of 64 bits are bigint, so every value survives the round trip; all others are numbers.

import { formatValue, misuse } from 'write-barrier/kit';

/** The name of a field, its place in bytes, its width in bytes; -2 is a signed one of two. */
export type Field<T> = readonly [name: keyof T & string, at: number, width: 1 | 2 | 4 | 8 | -2];

/** Which byte of a number comes first. */
export type Endian = 'little' | 'big';

/** @throws `INVALID_ARGUMENT` for a number that its field cannot hold */
export function encodeFields<T extends object>(
  layout: readonly Field<T>[],
  value: T,
  into: Uint8Array,
  endian: Endian = 'little',
): Uint8Array {
  const view = viewOf(into);
  const little = endian === 'little';
  for (const [name, at, width] of layout) {
    const field: unknown = value[name];
    if (!fits(field, width)) {
      const bits = `${8 * Math.abs(width)} bits${width < 0 ? ', signed' : ''}`;
      throw misuse(`${name} must fit into ${bits}, not ${formatValue(field)}`);
    }
    if (typeof field === 'bigint') view.setBigUint64(at, field, little);
    else if (width === 4) view.setUint32(at, field, little);
    else if (width === 1) view.setUint8(at, field);
    else view.setUint16(at, field, little);
  }
  return into;
}

/** The fields of a structure at the front of the bytes. */
export function decodeFields<T extends object>(
  layout: readonly Field<T>[],
  bytes: Uint8Array,
  endian: Endian = 'little',
): T {
  const view = viewOf(bytes);
  const little = endian === 'little';
  const fields = layout.map(([name, at, width]) => [name, fieldAt(view, at, width, little)]);
  // The layout of T names every field of T, at its width.
  return Object.freeze(Object.fromEntries(fields)) as T;
}

function fieldAt(view: DataView, at: number, width: number, little: boolean): number | bigint {
  const present = at + Math.abs(width) <= view.byteLength;
  switch (width) {
    case 8:
      return present ? view.getBigUint64(at, little) : 0n;
    case 4:
      return present ? view.getUint32(at, little) : 0;
    case 2:
      return present ? view.getUint16(at, little) : 0;
    case -2:
      return present ? view.getInt16(at, little) : 0;
    default:
      return present ? view.getUint8(at) : 0;
  }
}

function fits(field: unknown, width: number): field is number | bigint {
  if (width === 8) return typeof field === 'bigint' && BigInt.asUintN(64, field) === field;
  const most = 2 ** (8 * Math.abs(width));
  const [min, end] = width < 0 ? [-most / 2, most / 2] : [0, most];
  return Number.isInteger(field) && (field as number) >= min && (field as number) < end;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
