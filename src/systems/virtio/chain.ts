import { WriteBarrierError } from 'write-barrier';
import { gathered, scattered } from '../pieces.js';

/**
 * One request as it travels: buffers that the device reads, followed by buffers that it writes. Where one buffer ends
 * and the next begins means nothing (VIRTIO_F_ANY_LAYOUT, and every device since virtio 1.0).
 */
export interface VirtioChain {
  /** The header, and the data of a write. */
  readonly readable: readonly Uint8Array[];
  /** The data of a read; the last byte of all is the status. */
  readonly writable: readonly Uint8Array[];
}

/** The bytes of all buffers. */
export function bytesOf(list: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const { length } of list) bytes += length;
  return bytes;
}

/**
 * The bytes from `start` to `end` of all buffers in a row, as views of them: nothing is copied. Empty pieces are left
 * out. What lies side by side in one piece of memory becomes one view, as pages of a guest often do.
 */
export function partOf(list: readonly Uint8Array[], start: number, end: number): Uint8Array[] {
  const views: Uint8Array[] = [];
  let at = 0;
  for (const buffer of list) {
    const from = Math.max(start - at, 0);
    const to = Math.min(end - at, buffer.length);
    at += buffer.length;
    if (from >= to) continue;
    const view = buffer.subarray(from, to);
    const before = views.at(-1);
    if (before && adjoin(before, view)) {
      views[views.length - 1] = new Uint8Array(
        before.buffer,
        before.byteOffset,
        before.length + view.length,
      );
    } else {
      views.push(view);
    }
  }
  return views;
}

/** A copy of so many bytes from the front; undefined where there are fewer. */
export function frontOf(list: readonly Uint8Array[], length: number): Uint8Array | undefined {
  const parts = partOf(list, 0, length);
  return bytesOf(parts) < length ? undefined : gathered(parts, length);
}

/** Copies one buffer to where several are; not if these have shrunk and do not have its length any more. */
export function scatter(from: Uint8Array, list: readonly Uint8Array[]): void {
  if (bytesOf(list) === from.length) scattered(from, list);
}

/** @throws `INVALID_ARGUMENT` for what is not a chain: that is a mistake of the program and not of a guest */
export function checkChain(chain: VirtioChain): void {
  const lists: readonly unknown[] = [chain?.readable, chain?.writable];
  const good = lists.every((list) => Array.isArray(list) && list.every(isBytes));
  if (good) return;
  throw new WriteBarrierError('INVALID_ARGUMENT', 'a chain is two lists of Uint8Arrays');
}

function isBytes(value: unknown): boolean {
  return value instanceof Uint8Array;
}

function adjoin(before: Uint8Array, after: Uint8Array): boolean {
  return before.buffer === after.buffer && before.byteOffset + before.length === after.byteOffset;
}
