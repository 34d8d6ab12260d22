// Lists of buffers: several buffers whose bytes follow each other. A payload is one buffer or such a list.

/** What a write writes, or a read fills. */
export type Payload = Uint8Array | readonly Uint8Array[];

/** How many bytes a list has. */
export function totalLength(list: readonly Uint8Array[]): number {
  let total = 0;
  for (const { byteLength } of list) total += byteLength;
  return total;
}

/**
 * The pieces of a list from byte `start` to byte `end`, `end` excluded. Nothing is copied: they are views, and empty ones
 * are left out.
 */
export function sliceBuffers(
  list: readonly Uint8Array[],
  start: number,
  end: number,
): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const buffer of list) {
    const piece = buffer.subarray(Math.max(0, start - at), Math.max(0, end - at));
    if (piece.byteLength > 0) pieces.push(piece);
    at += buffer.byteLength;
  }
  return pieces;
}

/** Copies the bytes of a list into one buffer. */
export function concatBuffers(list: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(totalLength(list));
  let at = 0;
  for (const piece of list) {
    bytes.set(piece, at);
    at += piece.byteLength;
  }
  return bytes;
}

/** Copies bytes into the buffers of a list, one after the other. */
export function scatterBytes(bytes: Uint8Array, list: readonly Uint8Array[]): void {
  let at = 0;
  for (const piece of list) {
    piece.set(bytes.subarray(at, at + piece.byteLength));
    at += piece.byteLength;
  }
}

/** A copy that shares nothing: `slice` of a Node Buffer would share its memory. */
export function copyOf(bytes: Uint8Array, start = 0, end: number = bytes.length): Uint8Array {
  return new Uint8Array(bytes.subarray(start, end));
}
