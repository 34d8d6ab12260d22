// @ts-check
// What the four systems share: sectors, and contents that can be told in words.

/** @import { Storage } from 'write-barrier' */

/** What a power cut leaves old or new as a whole, in bytes. */
export const SECTOR = 512;

/**
 * The text over and over. It has eight characters, so a sector holds whole ones.
 *
 * @param {string} text
 * @param {number} length in bytes
 */
export const filled = (text, length) => Buffer.alloc(length, text);

/**
 * What `filled` has left there: 'record 3', or 'record 3 and zeroes' where that is torn.
 *
 * @param {Uint8Array} bytes
 */
export function contents(bytes) {
  const texts = Buffer.from(bytes).toString('latin1').match(/.{8}/gs) ?? [];
  const words = texts.map((text) => (text === '\0'.repeat(8) ? 'zeroes' : text));
  return [...new Set(words)].join(' and ');
}

/**
 * The disk of a recovery answers at once.
 *
 * @param {Storage} disk
 * @param {number} offset
 * @param {number} length in bytes, whole sectors
 */
export function read(disk, offset, length) {
  const bytes = Buffer.alloc(length);
  disk.read(offset, bytes);
  return bytes;
}
