/** The bytes of a list of buffers. */
export function totalLength(list: readonly Uint8Array[]): number {
  return list.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** A copy that shares nothing: `slice` of a Node Buffer would. */
export function copyOf(bytes: Uint8Array, start = 0, end: number = bytes.length): Uint8Array {
  return new Uint8Array(bytes.subarray(start, end));
}

/** One buffer with the bytes of all. */
export function joined(list: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(totalLength(list));
  let at = 0;
  for (const part of list) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}
